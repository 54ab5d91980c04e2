/*
 * What differs between the Samba series that hvrs is built for, made equal:
 * the shape is that of the newest one.  Replaced functions of the core, whose
 * arguments differ as well, are in hooks*.c.
 */
#ifndef HVRS_SAMBA_SERIES_H
#define HVRS_SAMBA_SERIES_H

#include "smbd/globals.h"
#include "smbd/fd_handle.h"
#include "smbd/proto.h"
#include "messages.h"
#include "lib/util/server_id.h"
#include "lib/util/util_process.h"
#include "librpc/gen_ndr/open_files.h"
#include "dbwrap/dbwrap.h"
#include "locking/share_mode_lock.h"
#include "locking/proto.h"

/* The version of the VFS interface of each series, and whether it is newer. */
#define SERIES_4_22 50
#define SERIES_4_24 52
#define SERIES_4_25 53
#define SERIES_IS(series) (SMB_VFS_INTERFACE_VERSION >= (series))

#if SERIES_IS(SERIES_4_22)
#include "smbd/smbXsrv_session.h"
#endif

/* Arguments, with the comma behind them, that only some series have. */
#if SERIES_IS(SERIES_4_22)
#define TO_4_17(...)
#define FROM_4_22(...) __VA_ARGS__,
#else
#define TO_4_17(...) __VA_ARGS__,
#define FROM_4_22(...)
#endif
#if SERIES_IS(SERIES_4_24)
#define TO_4_22(...)
#define FROM_4_24(...) __VA_ARGS__,
#else
#define TO_4_22(...) __VA_ARGS__,
#define FROM_4_24(...)
#endif
#if SERIES_IS(SERIES_4_25)
#define TO_4_24(...)
#define FROM_4_25(...) __VA_ARGS__,
#else
#define TO_4_24(...) __VA_ARGS__,
#define FROM_4_25(...)
#endif

/* How databases are opened that do not outlive smbd. */
#if !SERIES_IS(SERIES_4_22)
#define SMBD_VOLATILE_TDB_HASH_SIZE 0
#define SMBD_VOLATILE_TDB_FLAGS						\
	(TDB_DEFAULT | TDB_CLEAR_IF_FIRST | TDB_INCOMPATIBLE_HASH)
#endif

/* smbd's record of an open, and where it stands in what is stored. */
#if SERIES_IS(SERIES_4_25)
#define SERIES_OPEN_INFO info1
#else
#define SERIES_OPEN_INFO info0
#define smbXsrv_open_global smbXsrv_open_global0
#endif

/*
 * Whether the core makes persistent handles, and of a share whether it is to
 * make them there.
 */
static inline bool series_core_persists(void)
{
#if SERIES_IS(SERIES_4_25)
	return lp_persistent_handles();
#else
	return false;
#endif
}

static inline bool series_core_available(int snum)
{
#if SERIES_IS(SERIES_4_25)
	return lp_persistent_handles() && lp_continuous_availability(snum);
#else
	(void)snum;
	return false;
#endif
}

/* Whether an open is kept by the core, whatever becomes of smbd. */
static inline bool series_is_persistent(const struct smbXsrv_open *op)
{
#if SERIES_IS(SERIES_4_25)
	return op->global->persistent;
#else
	(void)op;
	return false;
#endif
}

/*
 * What a share needs besides so that its leases stay whole where it is told to
 * be continuously available: rows of a name and a value.
 */
#if SERIES_IS(SERIES_4_25)
#define SERIES_LEASE_PARAMETERS				\
	{ "smb3 ca:max lease mask", "RWH" },		\
	{ "smb3 ca so:max lease mask", "RWH" },
#else
#define SERIES_LEASE_PARAMETERS
#endif

/*
 * Whether smbd takes every durable folder for a persistent one of its own, and
 * panics where it is not: then it is made durable behind its back.
 */
static inline bool series_folder_is_apart(const struct files_struct *fsp)
{
	return SERIES_IS(SERIES_4_25) && fsp->fsp_flags.is_directory;
}

/* How smbd opens the databases that its own persistent handles are in. */
static inline uint64_t series_db_flags(void)
{
#if SERIES_IS(SERIES_4_25)
	return lp_persistent_handles() ? DBWRAP_FLAG_PER_REC_PERSISTENT :
		DBWRAP_FLAG_NONE;
#else
	return DBWRAP_FLAG_NONE;
#endif
}

/*
 * What comes before the locks of a file in smbd's database, and how they are
 * stored when this one is among them.
 */
#define SERIES_LOCKS_HEADER (SERIES_IS(SERIES_4_25) ? sizeof(uint32_t) : 0)

static inline void series_locks_begin(uint8_t *header)
{
#if SERIES_IS(SERIES_4_25)
	RSIVAL(header, 0, SHARE_MODE_DATA_VERSION_1);
#else
	(void)header;
#endif
}

static inline int series_lock_flags(const struct lock_struct *lock)
{
#if SERIES_IS(SERIES_4_25)
	return lock->persistent ? DBWRAP_STORE_PERSISTENT : 0;
#else
	(void)lock;
	return 0;
#endif
}

/* What the free room of a file system is asked of. */
#if SERIES_IS(SERIES_4_25)
#define SERIES_PLACE struct files_struct *
#else
#define SERIES_PLACE const struct smb_filename *
#endif

/* The flag of an open that the core is to make persistent. */
#if SERIES_IS(SERIES_4_25)
#define SERIES_PERSISTENT_OPEN NTCREATEX_FLAG_PERSISTENT_OPEN
#else
#define SERIES_PERSISTENT_OPEN 0
#endif

/* [MS-SMB2]'s rule for FSCTLs: one of these rights is enough. */
static inline NTSTATUS series_check_any_access(struct files_struct *fsp,
					       uint32_t access)
{
#if SERIES_IS(SERIES_4_22)
	return check_any_access_fsp(fsp, access);
#else
	return check_access_fsp(fsp, access);
#endif
}

/* The attributes of a file as they are now. */
static inline uint32_t series_dos_mode(struct files_struct *fsp)
{
#if SERIES_IS(SERIES_4_22)
	fsp->fsp_name->st.cached_dos_attributes = FILE_ATTRIBUTE_INVALID;
#endif
	return fdos_mode(fsp);
}

/* A request that closing the file waits for; false without memory. */
static inline bool series_aio_add(struct files_struct *fsp,
				  struct tevent_req *req)
{
#if SERIES_IS(SERIES_4_22)
	return aio_add_req_to_fsp(fsp, req) != NULL;
#else
	return aio_add_req_to_fsp(fsp, req);
#endif
}

/* Calls fn with the file's entry locked; an error where it has none. */
static inline NTSTATUS series_entry_do(
	struct file_id id,
	void (*fn)(struct share_mode_lock *lck, void *private_data),
	void *private_data)
{
#if SERIES_IS(SERIES_4_22)
	return share_mode_do_locked_vfs_denied(id, fn, private_data);
#else
	struct share_mode_lock *lck = get_existing_share_mode_lock(
		talloc_tos(), id);

	if (lck == NULL) {
		return NT_STATUS_NOT_FOUND;
	}
	fn(lck, private_data);
	TALLOC_FREE(lck);
	return NT_STATUS_OK;
#endif
}

/* A name as CREATE looks it up: its folder, itself, and its name in that. */
static inline NTSTATUS series_convert(TALLOC_CTX *mem_ctx,
				      struct connection_struct *conn,
				      const char *name,
				      struct files_struct **_dirfsp,
				      struct smb_filename **_full,
				      struct smb_filename **_relative)
{
#if SERIES_IS(SERIES_4_22)
	return filename_convert_dirfsp_rel(mem_ctx, conn, conn->cwd_fsp, name,
					   UCF_LCOMP_LNK_OK, 0, _dirfsp,
					   _full, _relative);
#else
	const char *last = NULL;
	NTSTATUS status = filename_convert_dirfsp(mem_ctx, conn, name, 0, 0,
						  _dirfsp, _full);

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	last = strrchr((*_full)->base_name, '/');
	*_relative = synthetic_smb_fname(
		mem_ctx, last != NULL ? last + 1 : (*_full)->base_name,
		(*_full)->stream_name, &(*_full)->st, (*_full)->twrp,
		(*_full)->flags);
	return *_relative != NULL ? NT_STATUS_OK : NT_STATUS_NO_MEMORY;
#endif
}

/* A name in which nothing is a symbolic link. */
static inline NTSTATUS series_convert_plain(TALLOC_CTX *mem_ctx,
					    struct connection_struct *conn,
					    const char *name,
					    struct files_struct **_dirfsp,
					    struct smb_filename **_full,
					    struct smb_filename **_relative)
{
#if SERIES_IS(SERIES_4_22)
	struct reparse_data_buffer *symlink = NULL;
	NTSTATUS status = filename_convert_dirfsp_nosymlink(
		mem_ctx, conn, conn->cwd_fsp, name, 0, 0, _dirfsp, _full,
		_relative, &symlink);

	TALLOC_FREE(symlink);
	return status;
#else
	NTSTATUS status = series_convert(mem_ctx, conn, name, _dirfsp, _full,
					 _relative);
	struct stat st = {};
	bool exists = false;

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	/*
	 * A link in the way has led to another name; the last part of a name
	 * is what was opened, unless it is a link itself.
	 */
	exists = fstatat(fsp_get_pathref_fd(*_dirfsp), (*_relative)->base_name,
			 &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (!strequal((*_full)->base_name, name) ||
	    exists != VALID_STAT((*_full)->st) ||
	    (exists && ((uint64_t)st.st_ino != (*_full)->st.st_ex_ino ||
			st.st_dev != (*_full)->st.st_ex_dev))) {
		return NT_STATUS_STOPPED_ON_SYMLINK;
	}
	return status;
#endif
}

/* What fsp is a mere reference to is opened; it is closed on errors. */
static inline NTSTATUS series_reopen(struct files_struct *fsp,
				     const struct vfs_open_how *how)
{
#if SERIES_IS(SERIES_4_22)
	return reopen_from_fsp(fsp->conn->cwd_fsp, fsp->fsp_name, fsp, how,
			       NULL);
#else
	char path[64] = {};
	struct smb_filename name = { .base_name = path };
	int fd = -1;

	snprintf(path, sizeof(path), "/proc/self/fd/%d",
		 fsp_get_pathref_fd(fsp));
	fsp->fsp_flags.is_pathref = false;
	fd = SMB_VFS_OPENAT(fsp->conn, fsp->conn->cwd_fsp, &name, fsp, how);
	if (fd == -1) {
		NTSTATUS status = map_nt_error_from_unix(errno);

		fd_close(fsp);
		return status;
	}
	fd_close(fsp);
	fsp_set_fd(fsp, fd);
	return NT_STATUS_OK;
#endif
}

/* As SMB_VFS_RENAMEAT(), without anything special. */
static inline int series_renameat(struct connection_struct *conn,
				  struct files_struct *from_dir,
				  const struct smb_filename *from,
				  struct files_struct *to_dir,
				  const struct smb_filename *to)
{
#if SERIES_IS(SERIES_4_22)
	struct vfs_rename_how how = {};

	return SMB_VFS_RENAMEAT(conn, from_dir, from, to_dir, to, &how);
#else
	return SMB_VFS_RENAMEAT(conn, from_dir, from, to_dir, to);
#endif
}

/* A forked process becomes one of smbd's own, which smbd's end ends. */
static inline NTSTATUS series_after_fork(struct messaging_context *msg_ctx,
					 struct tevent_context *ev)
{
#if SERIES_IS(SERIES_4_22)
	return reinit_after_fork(msg_ctx, ev, false);
#else
	return reinit_after_fork(msg_ctx, ev, false, NULL);
#endif
}

/* What lists of processes show: "smbd-hvrs", and longer "hvrs PURPOSE". */
static inline void series_process_title(const char *purpose)
{
#if SERIES_IS(SERIES_4_22)
	/* Both formats are given the purpose; the short one shows nothing. */
	process_set_title("smbd-hvrs%.0s", "hvrs %s", purpose);
#else
	(void)purpose;
	prctl_set_comment("smbd-hvrs");
#endif
}

/*
 * Calls fn for every option of the share itself whose name matches, with one
 * match in it.  Nobody can list them before 4.22.
 */
static inline void series_share_options(
	int snum, const char *pattern,
	bool (*fn)(const char *name, regmatch_t matches[], void *private_data),
	void *private_data)
{
#if SERIES_IS(SERIES_4_22)
	lp_wi_scan_share_parametrics(snum, pattern, 1, fn, private_data);
#else
	(void)snum;
	(void)pattern;
	(void)fn;
	(void)private_data;
#endif
}

/* Whether smbd without core hooks clones blocks where a file system can. */
static inline bool series_clones(void)
{
	return SERIES_IS(SERIES_4_22);
}

/* A new open file of conn, freed with file_free(), or NULL. */
static inline struct files_struct *series_fsp_new(
	struct connection_struct *conn)
{
#if SERIES_IS(SERIES_4_24)
	return fsp_new(conn, conn);
#else
	struct files_struct *fsp = NULL;

	return NT_STATUS_IS_OK(fsp_new(conn, conn, &fsp)) ? fsp : NULL;
#endif
}

/* Its name; false without memory. */
static inline bool series_fsp_name(struct files_struct *fsp,
				   const struct smb_filename *smb_fname)
{
#if SERIES_IS(SERIES_4_24)
	return fsp_set_smb_fname(fsp, smb_fname);
#else
	return NT_STATUS_IS_OK(fsp_set_smb_fname(fsp, smb_fname));
#endif
}

/*
 * The number by which the share mode entry of an open with this persistent id
 * is found: the id itself, or a number of the process's own.
 */
static inline void series_fsp_number(struct files_struct *fsp, uint64_t id)
{
#if SERIES_IS(SERIES_4_24)
	fh_set_gen_id(fsp->fh, id);
#else
	(void)id;
	fsp_set_gen_id(fsp);
#endif
}

/* The entry of an open of before becomes that of fsp, in this process. */
static inline bool series_entry_reset(struct share_mode_lock *lck,
				      struct server_id old_pid,
				      uint64_t old_number,
				      struct files_struct *fsp, uint64_t mid)
{
	struct server_id me = messaging_server_id(fsp->conn->sconn->msg_ctx);

#if SERIES_IS(SERIES_4_24)
	if (old_number != fh_get_gen_id(fsp->fh)) {
		return false;
	}
	return reset_share_mode_entry(lck, old_pid, old_number, me, mid);
#else
	return reset_share_mode_entry(lck, old_pid, old_number, me, mid,
				      fh_get_gen_id(fsp->fh));
#endif
}

#if !SERIES_IS(SERIES_4_22)
struct series_del {
	struct server_id pid;
	uint64_t number;
};

static inline bool series_del_fn(struct share_mode_entry *e, bool *modified,
				 void *private_data)
{
	const struct series_del *del = private_data;

	(void)modified;
	if (e->share_file_id != del->number ||
	    !server_id_equal(&e->pid, &del->pid)) {
		return false;
	}
	/* Entries that are marked so are not written back. */
	e->stale = true;
	return true;
}
#endif

/* The entry of an open, of whatever process, is taken away. */
static inline void series_entry_del(struct share_mode_lock *lck,
				    struct server_id pid, uint64_t number)
{
#if SERIES_IS(SERIES_4_22)
	del_share_mode_open_id(lck, pid, number);
#else
	struct series_del del = { .pid = pid, .number = number };

	share_mode_forall_entries(lck, series_del_fn, &del);
#endif
}

/* Locks, or makes, the file's entry and calls fn with it. */
static inline NTSTATUS series_entry_lock(
	struct files_struct *fsp,
	void (*fn)(struct share_mode_lock *lck, bool *keep_locked,
		   void *private_data),
	void *private_data)
{
#if SERIES_IS(SERIES_4_24)
	struct share_mode_entry_prepare_state prepare = {};

	return share_mode_entry_prepare_lock_add(
		&prepare, fsp->file_id, fsp->conn->connectpath, fsp->fsp_name,
		fn, private_data);
#else
	struct timespec written = fsp->fsp_name->st.st_ex_mtime;
#if SERIES_IS(SERIES_4_22)
	struct share_mode_entry_prepare_state prepare = {};

	return share_mode_entry_prepare_lock_add(
		&prepare, fsp->file_id, fsp->conn->connectpath, fsp->fsp_name,
		&written, fn, private_data);
#else
	struct share_mode_lock *lck = get_share_mode_lock(
		talloc_tos(), fsp->file_id, fsp->conn->connectpath,
		fsp->fsp_name, &written);
	bool keep_locked = false;

	if (lck == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	fn(lck, &keep_locked, private_data);
	TALLOC_FREE(lck);
	return NT_STATUS_OK;
#endif
#endif
}

/* NTCREATEX_FLAG_*; none is ever set for SMB2 where they have no number. */
static inline uint32_t series_private_options(const struct files_struct *fsp)
{
#if SERIES_IS(SERIES_4_24)
	(void)fsp;
	return 0;
#else
	return fh_get_private_options(fsp->fh);
#endif
}

static inline void series_private_options_set(struct files_struct *fsp,
					      uint32_t options)
{
#if SERIES_IS(SERIES_4_24)
	(void)fsp;
	(void)options;
#else
	fh_set_private_options(fsp->fh, options);
#endif
}

/* What was done to make the open, as told to the client that asked for it. */
static inline uint32_t series_create_action(const struct smbXsrv_open *op)
{
#if SERIES_IS(SERIES_4_24)
	return op->global->create_action;
#else
	return op->create_action;
#endif
}

/* What an access to a range by fsp would ask of the byte-range locks. */
static inline void series_strict_lock(struct files_struct *fsp,
				      uint64_t offset, uint64_t length,
				      enum brl_type type,
				      struct lock_struct *lock)
{
	init_strict_lock_struct(fsp, fsp->op->global->open_persistent_id,
				offset, length, type,
#if !SERIES_IS(SERIES_4_24)
				lp_posix_cifsu_locktype(fsp),
#endif
				lock);
}

/*
 * Around work that changes the content of a file, for what smbd then owes the
 * file's times and attributes.  modify is zero at first; late is true where
 * nothing may be noted before the work.
 */
struct series_modify {
#if SERIES_IS(SERIES_4_24)
	struct file_modified_state state;
#else
	char unused;
#endif
};

static inline void series_modify_begin(struct files_struct *fsp, bool late,
				       struct series_modify *modify)
{
#if SERIES_IS(SERIES_4_24)
	(void)late;
	prepare_file_modified(fsp, &modify->state);
#else
	(void)modify;
	if (!late) {
		mark_file_modified(fsp);
	}
#endif
}

static inline void series_modify_end(struct files_struct *fsp, bool late,
				     struct series_modify *modify)
{
#if SERIES_IS(SERIES_4_24)
	(void)late;
	mark_file_modified(fsp, true, &modify->state);
#else
	(void)modify;
	if (late) {
		mark_file_modified(fsp);
	}
#endif
}

/* A write time that is to be stored later is stored now. */
static inline void series_write_time_flush(struct files_struct *fsp)
{
#if SERIES_IS(SERIES_4_24)
	(void)fsp;
#else
	if (fsp->update_write_time_event != NULL) {
		fsp_flush_write_time_update(fsp);
	}
#endif
}

#endif
