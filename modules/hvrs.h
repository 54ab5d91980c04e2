/*
 * What the files of modules/ share: the share a tree connect goes to, one
 * FSCTL in progress, and the hooks each feature gives to the hook table.
 */
#ifndef HVRS_MODULES_HVRS_H
#define HVRS_MODULES_HVRS_H

#include "samba.h"

#include "option/option.h"

/* The parts that can be named alone in "vfs objects". */
#define HVRS_PART_FSCTL		0x1	/* vfs objects = hvrs_fsctl */
#define HVRS_PART_EXTENTS	0x2	/* vfs objects = hvrs_extents */
#define HVRS_PART_ALL		0x3	/* vfs objects = hvrs */

/* What the share's file system was seen to do when the client connected. */
struct hvrs_probe {
	bool local;		/* a file of this machine's kernel */
	bool punch;		/* holes can be punched */
	bool seek;		/* holes can be found */
	bool clone;		/* blocks can be shared */
	uint32_t cluster;	/* bytes, a power of two */
	dev_t counted;		/* where files tell their extents, else 0 */
};

struct snapset_freeze;

/* One tree connect with hvrs on it; owned by the connection. */
struct hvrs_share {
	const char *name;
	uint32_t parts;
	struct hvrs_probe probe;
	enum option_switch asked[OPTION_COUNT];
	bool on[OPTION_COUNT];	/* what auto and the parts come to */
	const char *text[OPTION_COUNT];	/* of every option of a share */
	uint64_t number[OPTION_COUNT];	/* of those of kind OPTION_NUMBER */
	bool agreed;		/* the nodes have the same ids of its files */
	bool disagreed;
	bool core_persists;	/* persistent handles are Samba's own */
	struct snapset_freeze *freeze;	/* hvrs_freeze.c; NULL: none */
};

/* The share of a handle, or NULL where the connect was passed by. */
struct hvrs_share *hvrs_share(struct vfs_handle_struct *handle);

/* The share of a connection, or NULL. */
struct hvrs_share *hvrs_share_of(struct connection_struct *conn);

/*
 * Sets up the share of a tree connect: reads its options, probes its file
 * system, and gives smbd the parameters that go with them.  Logs what it
 * finds wrong in smb.conf.  NULL without memory.
 */
struct hvrs_share *hvrs_share_create(TALLOC_CTX *mem_ctx,
				     struct connection_struct *conn,
				     uint32_t parts);

/*
 * Gives smbd the parameters of hvrs_sectors.c again where a reload of
 * smb.conf took them away.
 */
void hvrs_sectors_apply(const struct hvrs_share *share,
			struct connection_struct *conn);

/* Edits FileFsSectorSizeInformation: the trim flag (hvrs_sectors.c). */
void hvrs_sectors_fs_info(const struct hvrs_share *share, uint16_t level,
			  uint8_t *data, size_t length);

/* Probes the file system of a directory, as root for the open alone. */
void hvrs_probe(const char *directory, struct hvrs_probe *_probe);

/* ---- one FSCTL ------------------------------------------------------------ */

struct hvrs_job;

struct hvrs_call {
	struct vfs_handle_struct *handle;
	const struct hvrs_share *share;
	struct files_struct *fsp;
	uint32_t code;
	uint16_t flags2;
	const uint8_t *in;
	size_t in_length;
	uint32_t max_out;
	TALLOC_CTX *mem_ctx;		/* of the output */
	uint8_t *out;
	uint32_t out_length;
	struct smbd_smb2_request *smb2req;	/* NULL without core hooks */
	struct hvrs_job *job;		/* set by a handler that needs one */
};

/*
 * Work on files that may take long: "work" runs in a thread (or in place,
 * without core hooks) and touches nothing but the job; "finish" runs in
 * smbd's own thread as the connected user and makes the answer.
 */
struct hvrs_job {
	void (*work)(struct hvrs_job *job);
	NTSTATUS (*finish)(struct hvrs_call *call, struct hvrs_job *job);
	struct files_struct *other;	/* a second file that must stay open */
	int fd;			/* a thread's own, as the file may be closed */
	int other_fd;
	int third_fd;
	bool fd_is_lent;	/* by smbd, until a thread begins */
	bool other_is_lent;
	int state;		/* of its thread, see hvrs_job.c */
	struct snapset_freeze *freeze;	/* its changes wait for */
	bool sync;		/* make it durable before the answer */
	bool modifies;		/* changes the content of the file */
	bool marks_late;	/* smbd notes that after the work */
	struct series_modify modify;
	bool brief;		/* too short to be worth a thread */
	int error;		/* errno of the work, 0 when it went well */
	bool stop;		/* the client is gone: end early */
};

/*
 * A job on the file of a call, as the first member of a larger structure:
 *	struct x *x = (struct x *)hvrs_job_create(call, sizeof(*x), "struct x");
 * NULL without memory.
 */
struct hvrs_job *hvrs_job_create(struct hvrs_call *call, size_t size,
				 const char *type);

/* Gives the job a second file. */
void hvrs_job_other(struct hvrs_job *job, struct files_struct *other);

/*
 * What a thread runs, between these two in smbd's own thread.  The first
 * gives the job descriptors of its own: 0 or an errno.
 */
int hvrs_job_begin(struct hvrs_job *job);
void hvrs_job_thread(void *job);
void hvrs_job_end(struct hvrs_job *job);

/* Waits for jobs in threads to end, but no longer. */
void hvrs_jobs_wait(uint32_t milliseconds);

/* The usual finish: the job's error as a status, no output. */
NTSTATUS hvrs_job_finish(struct hvrs_call *call, struct hvrs_job *job);

/* Whether a job shall end early; safe in its thread. */
bool hvrs_job_stopped(struct hvrs_job *job);

/*
 * Whether freeing, zeroing or cloning a range of fsp is done in the time that
 * the way into a thread and back would take: it is small, or its file has few
 * extents (known on XFS alone), and nothing of it waits to be written to disk.
 */
bool hvrs_job_is_brief(const struct hvrs_call *call, struct files_struct *fsp,
		       uint64_t offset, uint64_t length);

/*
 * fallocate(2) of a long range in pieces that leave others a chance at the
 * file.  Returns 0 or an errno.
 */
int hvrs_job_fallocate(struct hvrs_job *job, int mode, uint64_t offset,
		       uint64_t length);

/* Writes zeros to a range.  Returns 0 or an errno. */
int hvrs_job_write_zeros(struct hvrs_job *job, uint64_t offset,
			 uint64_t length);

/* The piece a long operation takes next, after one that took so long. */
uint64_t hvrs_job_piece(uint64_t piece, uint64_t nanoseconds);
uint64_t hvrs_job_now(void);

/*
 * A thread that no other job runs in, for one job at a time (hvrs_worker.c).
 * NULL when all are taken: then the pool is smbd's own.
 */
struct hvrs_worker;
struct hvrs_worker *hvrs_worker_take(struct smbd_server_connection *sconn);
void hvrs_worker_release(struct hvrs_worker *worker);
struct pthreadpool_tevent *hvrs_worker_pool(
	struct hvrs_worker *worker, struct smbd_server_connection *sconn);

/* A negative errno of lib/fsctl or a positive one of a system call. */
NTSTATUS hvrs_status(int error);

/* Tries the file for a byte-range lock that forbids writing a range. */
bool hvrs_range_locked(struct files_struct *fsp, uint64_t offset,
		       uint64_t length);

/* STATUS of a write to this open: access, read-only share, directory. */
NTSTATUS hvrs_check_write(struct files_struct *fsp);

/* Gives the answer room; false without memory. */
bool hvrs_call_output(struct hvrs_call *call, size_t length);

/* Fresh size and attributes of a file. */
NTSTATUS hvrs_file_size(struct files_struct *fsp, uint64_t *_size);
bool hvrs_file_sparse(struct files_struct *fsp);

/* Handlers: hvrs_<feature>.c */
NTSTATUS hvrs_trim(struct hvrs_call *call);
NTSTATUS hvrs_zero_data(struct hvrs_call *call);
NTSTATUS hvrs_clone(struct hvrs_call *call);
NTSTATUS hvrs_clone_ex(struct hvrs_call *call);
NTSTATUS hvrs_set_sparse(struct hvrs_call *call);
NTSTATUS hvrs_allocated_ranges(struct hvrs_call *call);
NTSTATUS hvrs_integrity_get(struct hvrs_call *call);
NTSTATUS hvrs_integrity_set(struct hvrs_call *call);
NTSTATUS hvrs_integrity_set_ex(struct hvrs_call *call);
NTSTATUS hvrs_file_regions(struct hvrs_call *call);
NTSTATUS hvrs_resilient(struct hvrs_call *call);
NTSTATUS hvrs_offload_read(struct hvrs_call *call);
NTSTATUS hvrs_offload_write(struct hvrs_call *call);

/*
 * On a cluster, the folder of a share that its tokens' files lie in; begins to
 * remove those that nobody needs, for as long as the share lives
 * (hvrs_offload_folder.c).
 */
#define HVRS_TOKENS_FOLDER ".hvrs-tokens"
void hvrs_folder_begin(struct hvrs_share *share, struct connection_struct *conn);

/*
 * An open for writing that waits for a lease of ours (hvrs_offload_lease.c) is
 * tried again for some milliseconds before smbd waits for a second.
 */
int hvrs_openat(struct vfs_handle_struct *handle,
		const struct files_struct *dirfsp,
		const struct smb_filename *smb_fname,
		struct files_struct *fsp, const struct vfs_open_how *how);

/* Whether smbd changes attributes because of FSCTL_SET_SPARSE. */
bool hvrs_set_sparse_running(void);

/* What a zeroed range becomes on disk. */
bool hvrs_zero_frees(const struct hvrs_share *share,
		     struct files_struct *fsp);

/* ---- the write freeze of snapshots (hvrs_freeze.c) --------------------------- */

/*
 * The freeze of the file system a directory is on, for as long as the process
 * runs.  NULL, with a line in the log, where it cannot be had.
 */
struct snapset_freeze *hvrs_freeze_open(const char *directory);

/* Whether writes wait now; false for NULL. */
bool hvrs_freeze_is_on(struct snapset_freeze *freeze);

/* Waits in place until they do not; for threads, and what cannot wait. */
void hvrs_freeze_wait(struct snapset_freeze *freeze);

ssize_t hvrs_pwrite(struct vfs_handle_struct *handle, struct files_struct *fsp,
		    const void *data, size_t length, off_t offset);
int hvrs_ftruncate(struct vfs_handle_struct *handle, struct files_struct *fsp,
		   off_t length);
struct tevent_req *hvrs_pwrite_send(struct vfs_handle_struct *handle,
				    TALLOC_CTX *mem_ctx,
				    struct tevent_context *ev,
				    struct files_struct *fsp,
				    const void *data, size_t length,
				    off_t offset);
ssize_t hvrs_pwrite_recv(struct tevent_req *req,
			 struct vfs_aio_state *aio_state);

/* ---- storage QoS (hvrs_throttle.c) ----------------------------------------- */

/*
 * The turn of a read or write of so many bytes, a talloc child of mem_ctx, to
 * be freed when it has ended; *_wait says whether it has to wait first.  NULL
 * where nothing holds the open (hvrs:qos enforce), or there is no memory.
 */
struct hvrs_turn;
struct hvrs_turn *hvrs_turn_take(TALLOC_CTX *mem_ctx, struct files_struct *fsp,
				 size_t length, bool *_wait);

/*
 * Waits for it.  ECANCELED (tevent_req_is_unix_error()) where the file is
 * closed meanwhile or the client has gone.  NULL where there is no memory.
 */
struct tevent_req *hvrs_turn_wait_send(TALLOC_CTX *mem_ctx,
				       struct tevent_context *ev,
				       struct hvrs_turn *turn);

struct tevent_req *hvrs_throttle_pread_send(struct vfs_handle_struct *handle,
					    TALLOC_CTX *mem_ctx,
					    struct tevent_context *ev,
					    struct files_struct *fsp,
					    void *data, size_t length,
					    off_t offset);
ssize_t hvrs_throttle_pread_recv(struct tevent_req *req,
				 struct vfs_aio_state *aio);
struct tevent_req *hvrs_throttle_pwrite_send(struct vfs_handle_struct *handle,
					     TALLOC_CTX *mem_ctx,
					     struct tevent_context *ev,
					     struct files_struct *fsp,
					     const void *data, size_t length,
					     off_t offset);
ssize_t hvrs_throttle_pwrite_recv(struct tevent_req *req,
				  struct vfs_aio_state *aio);
struct tevent_req *hvrs_throttle_fsync_send(struct vfs_handle_struct *handle,
					    TALLOC_CTX *mem_ctx,
					    struct tevent_context *ev,
					    struct files_struct *fsp);
int hvrs_throttle_fsync_recv(struct tevent_req *req,
			     struct vfs_aio_state *aio);

/* ---- the router (hvrs_fsctl.c) --------------------------------------------- */

NTSTATUS hvrs_fsctl(struct vfs_handle_struct *handle, struct files_struct *fsp,
		    TALLOC_CTX *ctx, uint32_t function, uint16_t req_flags,
		    const uint8_t *in_data, uint32_t in_len,
		    uint8_t **out_data, uint32_t max_out_len,
		    uint32_t *out_len);
bool hvrs_fsctl_ioctl(uint32_t code, struct tevent_context *ev,
		      struct tevent_req *req,
		      struct smbd_smb2_ioctl_state *state);

/* ---- tunnel servers (hvrs_tunnel.c) ------------------------------------------ */

struct tunnel_create;

/* Whether the server behind an option is there, loading it. */
bool hvrs_tunnel_wanted(const struct hvrs_share *share, enum option_id option);

size_t hvrs_tunnel_suffix(struct connection_struct *conn, const char *name);
void hvrs_tunnel_name_cut(struct smb_filename *smb_fname);
NTSTATUS hvrs_tunnel_create(const struct tunnel_create *given);
bool hvrs_tunnel_ioctl(uint32_t code, struct tevent_context *ev,
		       struct tevent_req *req,
		       struct smbd_smb2_ioctl_state *state);
bool hvrs_tunnel_read(struct smb_request *smbreq, struct files_struct *fsp,
		      TALLOC_CTX *mem_ctx, DATA_BLOB *data, off_t offset,
		      size_t length, NTSTATUS *_status);
bool hvrs_tunnel_write(struct smb_request *smbreq, struct files_struct *fsp,
		       uint64_t offset, DATA_BLOB data, bool through,
		       NTSTATUS *_status);
NTSTATUS hvrs_tunnel_file_info(struct files_struct *fsp, uint16_t level,
			       size_t room, SMB_STRUCT_STAT *st);
void hvrs_tunnel_close(struct files_struct *fsp);

/*
 * What a read or write has to wait for, in microseconds; a flush is of length 0
 * and waits for nothing.  hvrs_tunnel_charged() is called with *_flow, where not
 * NULL, when it has ended.
 */
uint64_t hvrs_tunnel_charge(const struct hvrs_share *share,
			    struct files_struct *fsp, size_t length,
			    void **_flow);
void hvrs_tunnel_charged(void *flow, size_t length);

/* A request of an open waits still, a slice of its time later. */
void hvrs_tunnel_waits(struct files_struct *fsp);
bool hvrs_tunnel_owns(const struct files_struct *fsp);

/* As struct tunnel_server's unlink. */
bool hvrs_tunnel_unlink(struct vfs_handle_struct *handle,
			struct files_struct *dirfsp,
			const struct smb_filename *smb_fname, int *_ret);
bool hvrs_tunnel_modes(struct files_struct *fsp, uint32_t *_access,
		       uint32_t *_sharing);
bool hvrs_tunnel_is_creating(void);
void hvrs_tunnel_disconnect(struct files_struct *fsp);

/* ---- handles that outlive smbd (hvrs_handles*.c) ---------------------------- */

/* Opens the state of all handles, and begins to mind it; once a process. */
void hvrs_handles_start(void);

/* The parameters of smbd's own that a continuously available share needs. */
void hvrs_handles_apply(const struct hvrs_share *share,
			struct connection_struct *conn);

/*
 * State of an open that another part of hvrs keeps and wants back with it.
 * save makes what is stored with the record, whenever that is stored (false:
 * nothing of this open); restore gets it, with the file open again as its
 * owner had it, before the client is answered: not OK refuses the reconnect.
 * extra is what the client sent in a create context of the name "context"
 * (NULL: none), which [MS-SMB2] would forbid in a reconnect.
 */
struct hvrs_handle_part {
	uint32_t tag;
	const char *context;
	bool (*save)(struct files_struct *fsp, TALLOC_CTX *mem_ctx,
		     DATA_BLOB *_state);
	NTSTATUS (*restore)(struct vfs_handle_struct *handle,
			    struct files_struct *fsp, DATA_BLOB state,
			    DATA_BLOB extra);
};

/* Once per process; part must stay valid.  At most 8. */
void hvrs_handles_part(const struct hvrs_handle_part *part);

/*
 * Around an open: begin may change what is asked for and says whether end is
 * to see the file.
 */
bool hvrs_handles_create_begin(struct tunnel_create *c);
void hvrs_handles_create_end(const struct tunnel_create *c);
NTSTATUS hvrs_durable_cookie(struct vfs_handle_struct *handle,
			     struct files_struct *fsp, TALLOC_CTX *mem_ctx,
			     DATA_BLOB *cookie);
NTSTATUS hvrs_durable_disconnect(struct vfs_handle_struct *handle,
				 struct files_struct *fsp,
				 const DATA_BLOB old_cookie,
				 TALLOC_CTX *mem_ctx, DATA_BLOB *new_cookie);
NTSTATUS hvrs_durable_reconnect(struct vfs_handle_struct *handle,
				struct smb_request *smb1req,
				struct smbXsrv_open *op,
				const DATA_BLOB old_cookie,
				FROM_4_25(const struct smb2_lease *lease)
				TALLOC_CTX *mem_ctx,
				struct files_struct **_fsp,
				DATA_BLOB *new_cookie);

/* The calls that change a lock; on a cluster the record follows them. */
NTSTATUS hvrs_handles_lock(struct vfs_handle_struct *handle,
			   struct byte_range_lock *br_lck,
			   struct lock_struct *lock);
bool hvrs_handles_unlock(struct vfs_handle_struct *handle,
			 struct byte_range_lock *br_lck,
			 const struct lock_struct *lock);

/* ---- attributes of virtual disks (hvrs_attributes.c) ------------------------ */

NTSTATUS hvrs_fget_dos_attributes(struct vfs_handle_struct *handle,
				  struct files_struct *fsp, uint32_t *dosmode);
NTSTATUS hvrs_fset_dos_attributes(struct vfs_handle_struct *handle,
				  struct files_struct *fsp, uint32_t dosmode);
struct tevent_req *hvrs_get_dos_attributes_send(
	TALLOC_CTX *mem_ctx, struct tevent_context *ev,
	struct vfs_handle_struct *handle, struct files_struct *dir_fsp,
	struct smb_filename *smb_fname);
NTSTATUS hvrs_get_dos_attributes_recv(struct tevent_req *req,
				      struct vfs_aio_state *aio_state,
				      uint32_t *dosmode);
NTSTATUS hvrs_fget_compression(struct vfs_handle_struct *handle,
			       TALLOC_CTX *mem_ctx, struct files_struct *fsp,
			       uint16_t *format);
NTSTATUS hvrs_set_compression(struct vfs_handle_struct *handle,
			      TALLOC_CTX *mem_ctx, struct files_struct *fsp,
			      uint16_t format);

/* Whether a file's name is that of a virtual disk whose attributes we mind. */
bool hvrs_is_disk_file(const struct hvrs_share *share,
		       const struct files_struct *fsp);

#endif
