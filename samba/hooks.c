/*
 * Core hooks: the replacements that plt.c puts in place.
 */
#include "hooks.h"
#include "hooks_handles.h"
#include "plt.h"

static const struct hooks_client *hooks_client;
static bool hooks_tried;

static struct tevent_req *(*core_ioctl_filesys)(
	uint32_t, struct tevent_context *, struct tevent_req *,
	struct smbd_smb2_ioctl_state *);

static NTSTATUS (*core_do_qfsinfo)(
	struct smbXsrv_connection *, connection_struct *, TALLOC_CTX *,
	uint16_t, uint16_t, unsigned int, size_t *,
	FROM_4_22(struct files_struct *) TO_4_24(struct smb_filename *) char **,
	int *);

static NTSTATUS (*core_do_qfilepathinfo)(
	connection_struct *, TALLOC_CTX *, struct smb_request *, uint16_t,
	files_struct *, struct smb_filename *, bool,
	TO_4_22(struct timespec) struct ea_list *, TO_4_17(int, char *)
	uint16_t, unsigned int, size_t *, char **, unsigned int *);

static uint32_t (*core_create_ucf_flags)(
	struct smb_request *, FROM_4_22(uint32_t) uint32_t);
static NTSTATUS (*core_convert)(TALLOC_CTX *, connection_struct *,
				const char *, uint32_t, NTTIME,
				struct files_struct **,
				struct smb_filename **);
#if SERIES_IS(SERIES_4_22)
static NTSTATUS (*core_convert_nosymlink)(TALLOC_CTX *, connection_struct *,
					  struct files_struct *, const char *,
					  uint32_t, NTTIME,
					  struct files_struct **,
					  struct smb_filename **,
					  struct smb_filename **,
					  struct reparse_data_buffer **);
#endif
static NTSTATUS (*core_aio_read)(connection_struct *, struct smb_request *,
				 files_struct *, TALLOC_CTX *, DATA_BLOB *,
				 off_t, size_t);
static NTSTATUS (*core_aio_write)(connection_struct *, struct smb_request *,
				  files_struct *, uint64_t, DATA_BLOB, bool);

/* ---- names of a CREATE -------------------------------------------------------- */

/*
 * Only CREATE asks for these flags right before it looks its name up; a rename
 * to such a name, say, must keep it.
 */
static bool name_is_of_create;

static uint32_t hooked_create_ucf_flags(
	struct smb_request *req, FROM_4_22(uint32_t disposition) uint32_t last)
{
	name_is_of_create = true;
	return core_create_ucf_flags(req, FROM_4_22(disposition) last);
}

/* The name without its suffix, or NULL where it has none. */
static char *name_without_suffix(TALLOC_CTX *mem_ctx, connection_struct *conn,
				 const char *name)
{
	size_t suffix = 0;

	if (!name_is_of_create) {
		return NULL;
	}
	name_is_of_create = false;
	suffix = hooks_client->name_suffix(conn, name);
	if (suffix == 0) {
		return NULL;
	}
	return talloc_strndup(mem_ctx, name, strlen(name) - suffix);
}

static NTSTATUS hooked_convert(TALLOC_CTX *mem_ctx, connection_struct *conn,
			       const char *name, uint32_t flags, NTTIME twrp,
			       struct files_struct **dirfsp,
			       struct smb_filename **smb_fname)
{
	char *cut = name_without_suffix(mem_ctx, conn, name);
	NTSTATUS status = core_convert(mem_ctx, conn,
				       cut != NULL ? cut : name, flags, twrp,
				       dirfsp, smb_fname);

	if (cut != NULL && NT_STATUS_IS_OK(status)) {
		hooks_client->name_cut(*smb_fname);
	}
	TALLOC_FREE(cut);
	return status;
}

#if SERIES_IS(SERIES_4_22)
static NTSTATUS hooked_convert_nosymlink(
	TALLOC_CTX *mem_ctx, connection_struct *conn,
	struct files_struct *base, const char *name, uint32_t flags,
	NTTIME twrp, struct files_struct **dirfsp,
	struct smb_filename **smb_fname, struct smb_filename **relative,
	struct reparse_data_buffer **symlink)
{
	char *cut = name_without_suffix(mem_ctx, conn, name);
	NTSTATUS status = core_convert_nosymlink(
		mem_ctx, conn, base, cut != NULL ? cut : name, flags, twrp,
		dirfsp, smb_fname, relative, symlink);

	if (cut != NULL && NT_STATUS_IS_OK(status)) {
		hooks_client->name_cut(*smb_fname);
	}
	TALLOC_FREE(cut);
	return status;
}
#endif

/* ---- READ and WRITE ------------------------------------------------------------ */

static NTSTATUS hooked_aio_read(connection_struct *conn,
				struct smb_request *smbreq, files_struct *fsp,
				TALLOC_CTX *mem_ctx, DATA_BLOB *data,
				off_t offset, size_t length)
{
	NTSTATUS status = NT_STATUS_OK;

	if (hooks_client->read(smbreq, fsp, mem_ctx, data, offset, length,
			       &status)) {
		return status;
	}
	return core_aio_read(conn, smbreq, fsp, mem_ctx, data, offset, length);
}

static NTSTATUS hooked_aio_write(connection_struct *conn,
				 struct smb_request *smbreq,
				 files_struct *fsp, uint64_t offset,
				 DATA_BLOB data, bool through)
{
	NTSTATUS status = NT_STATUS_OK;

	if (hooks_client->write(smbreq, fsp, offset, data, through,
				&status)) {
		return status;
	}
	return core_aio_write(conn, smbreq, fsp, offset, data, through);
}

/* ---- the rest ------------------------------------------------------------------- */

static struct tevent_req *hooked_ioctl_filesys(
	uint32_t code, struct tevent_context *ev, struct tevent_req *req,
	struct smbd_smb2_ioctl_state *state)
{
	if (state->fsp == NULL ||
	    !hooks_client->ioctl(code, ev, req, state)) {
		return core_ioctl_filesys(code, ev, req, state);
	}
	if (!tevent_req_is_in_progress(req)) {
		return tevent_req_post(req, ev);
	}
	return req;
}

#if !SERIES_IS(SERIES_4_22)
/*
 * [MS-FSCC] 2.5.7: what later ones say themselves, by the same parameters.
 * SMB_FS_SECTOR_SIZE_INFORMATION begins with the four sizes.
 */
static void sector_sizes(struct connection_struct *conn, uint16_t level,
			 uint8_t *data, size_t length)
{
	static const char *const names[] = {
		"logical bytes per sector", "aligned bytes per sector",
		"performance bytes per sector",
		"effective aligned bytes per sector",
	};
	size_t i = 0;

	if (level != SMB_FS_SECTOR_SIZE_INFORMATION ||
	    length < sizeof(uint32_t) * ARRAY_SIZE(names)) {
		return;
	}
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		uint32_t size = (uint32_t)lp_parm_ulong(
			SNUM(conn), "fs", names[i], IVAL(data, 4 * i));

		SIVAL(data, 4 * i, size);
	}
}
#endif

static NTSTATUS hooked_do_qfsinfo(
	struct smbXsrv_connection *xconn, connection_struct *conn,
	TALLOC_CTX *mem_ctx, uint16_t level, uint16_t flags2,
	unsigned int max_data, size_t *fixed,
	FROM_4_22(struct files_struct *fsp)
	TO_4_24(struct smb_filename *fname) char **data, int *length)
{
	NTSTATUS status = NT_STATUS_OK;

	hooks_client->fs_info_begin(conn);
	status = core_do_qfsinfo(xconn, conn, mem_ctx, level, flags2,
				 max_data, fixed, FROM_4_22(fsp)
				 TO_4_24(fname) data, length);
	if (NT_STATUS_IS_OK(status) && *length > 0) {
#if !SERIES_IS(SERIES_4_22)
		sector_sizes(conn, level, (uint8_t *)*data, (size_t)*length);
#endif
		hooks_client->fs_info_end(conn, level, (uint8_t *)*data,
					  (size_t)*length);
	}
	return status;
}

static NTSTATUS hooked_do_qfilepathinfo(
	connection_struct *conn, TALLOC_CTX *mem_ctx, struct smb_request *req,
	uint16_t level, files_struct *fsp, struct smb_filename *fname,
	bool delete_pending, TO_4_22(struct timespec write_time)
	struct ea_list *eas, TO_4_17(int lock_count, char *lock_data)
	uint16_t flags2, unsigned int max_data, size_t *fixed, char **data,
	unsigned int *length)
{
	SMB_STRUCT_STAT real = fname->st;
	NTSTATUS status = NT_STATUS_OK;

	if (fsp != NULL) {
		status = hooks_client->file_info(fsp, level, max_data,
						 &fname->st);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = core_do_qfilepathinfo(
			conn, mem_ctx, req, level, fsp, fname, delete_pending,
			TO_4_22(write_time) eas, TO_4_17(lock_count, lock_data)
			flags2, max_data, fixed, data, length);
	}
	fname->st = real;
	return status;
}

void hooks_install(const struct hooks_client *client)
{
	const struct plt_hook own[] = {
		PLT_HOOK(smb2_ioctl_filesys, hooked_ioctl_filesys,
			 core_ioctl_filesys),
		PLT_HOOK(smbd_do_qfsinfo, hooked_do_qfsinfo, core_do_qfsinfo),
		PLT_HOOK(smbd_do_qfilepathinfo, hooked_do_qfilepathinfo,
			 core_do_qfilepathinfo),
		PLT_HOOK(filename_create_ucf_flags, hooked_create_ucf_flags,
			 core_create_ucf_flags),
		PLT_HOOK(filename_convert_dirfsp, hooked_convert, core_convert),
#if SERIES_IS(SERIES_4_22)
		PLT_HOOK(filename_convert_dirfsp_nosymlink,
			 hooked_convert_nosymlink,
			 core_convert_nosymlink),
#endif
		PLT_HOOK(schedule_smb2_aio_read, hooked_aio_read,
			 core_aio_read),
		PLT_HOOK(schedule_aio_smb2_write, hooked_aio_write,
			 core_aio_write),
	};
	struct plt_hook hooks[32] = {};
	size_t count = ARRAY_SIZE(own) + hooks_handles_count;
	const char *why = NULL;
	int ret = 0;

	SMB_ASSERT(count <= ARRAY_SIZE(hooks));
	memcpy(hooks, own, sizeof(own));
	memcpy(&hooks[ARRAY_SIZE(own)], hooks_handles_rows,
	       hooks_handles_count * sizeof(hooks[0]));

	if (hooks_tried) {
		return;
	}
	hooks_tried = true;
	hooks_client = client;
	ret = plt_hook_install(hooks, count, &why);
	if (ret != 0) {
		hooks_client = NULL;
		DBG_ERR("hvrs: core hooks are off in this smbd: %s (%s). "
			"Everything that does not need them works; hvrs-check "
			"tells what is missing\n", why, strerror(-ret));
	}
}

bool hooks_active(void)
{
	return hooks_client != NULL;
}
