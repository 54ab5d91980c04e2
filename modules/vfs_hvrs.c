/*
 * The hook table: what smbd loads.  "hvrs" is all of it; its parts can be
 * named alone by those who stack by hand.  Also the tree connect and the
 * volume's capabilities.
 */
#include "hvrs.h"
#include "hooks.h"
#include "register.h"
#include "tunnel.h"

static bool is_ours(const struct vfs_handle_struct *handle)
{
	return handle->fns->fsctl_fn == hvrs_fsctl;
}

struct hvrs_share *hvrs_share(struct vfs_handle_struct *handle)
{
	return handle->data;
}

struct hvrs_share *hvrs_share_of(struct connection_struct *conn)
{
	struct vfs_handle_struct *handle = NULL;

	for (handle = conn->vfs_handles; handle != NULL;
	     handle = handle->next) {
		if (is_ours(handle) && hvrs_share(handle) != NULL &&
		    (hvrs_share(handle)->parts & HVRS_PART_FSCTL) != 0) {
			return hvrs_share(handle);
		}
	}
	return NULL;
}

/* Two instances would both answer: an error of smb.conf. */
static bool named_twice(struct vfs_handle_struct *handle, uint32_t parts)
{
	struct vfs_handle_struct *other = NULL;

	for (other = handle->conn->vfs_handles; other != NULL;
	     other = other->next) {
		struct hvrs_share *share = NULL;

		if (other == handle || !is_ours(other)) {
			continue;
		}
		share = hvrs_share(other);
		if (share != NULL && (share->parts & parts) != 0) {
			return true;
		}
	}
	return false;
}

static int connect_parts(struct vfs_handle_struct *handle,
			 const char *service, const char *user,
			 uint32_t parts)
{
	struct hvrs_share *share = NULL;
	int ret = SMB_VFS_NEXT_CONNECT(handle, service, user);

	if (ret != 0) {
		return ret;
	}
	if (IS_IPC(handle->conn) || IS_PRINT(handle->conn)) {
		return 0;
	}
	if (named_twice(handle, parts)) {
		DBG_ERR("hvrs: share %s: \"vfs objects\" names the same part "
			"of hvrs twice (\"hvrs\" holds hvrs_fsctl and "
			"hvrs_extents); name each once. The connect is "
			"refused\n", service);
		SMB_VFS_NEXT_DISCONNECT(handle);
		errno = EINVAL;
		return -1;
	}
	share = hvrs_share_create(handle->conn, handle->conn, parts);
	if (share == NULL) {
		SMB_VFS_NEXT_DISCONNECT(handle);
		errno = ENOMEM;
		return -1;
	}
	if (share->on[OPTION_PERSISTENT] &&
	    !lp_strict_sync(SNUM(handle->conn))) {
		DBG_ERR("hvrs: share %s: strict sync = no would make a lie "
			"of what a continuously available share promises; "
			"remove it or set hvrs:persistent handles = no. The "
			"connect is refused\n", service);
		SMB_VFS_NEXT_DISCONNECT(handle);
		errno = EINVAL;
		return -1;
	}
	handle->data = share;
	hvrs_handles_apply(share, handle->conn);
	return 0;
}

static int connect_all(struct vfs_handle_struct *handle, const char *service,
		       const char *user)
{
	return connect_parts(handle, service, user, HVRS_PART_ALL);
}

static int connect_fsctl(struct vfs_handle_struct *handle,
			 const char *service, const char *user)
{
	return connect_parts(handle, service, user, HVRS_PART_FSCTL);
}

static int connect_extents(struct vfs_handle_struct *handle,
			   const char *service, const char *user)
{
	return connect_parts(handle, service, user, HVRS_PART_EXTENTS);
}

/*
 * FileFsAttributeInformation, [MS-FSCC] 2.5.1: a capability is announced only
 * where it was seen to work.
 */
static uint32_t hvrs_fs_capabilities(struct vfs_handle_struct *handle,
				     enum timestamp_set_resolution *resolution)
{
	const struct hvrs_share *share = hvrs_share(handle);
	uint32_t caps = SMB_VFS_NEXT_FS_CAPABILITIES(handle, resolution);

	if (share == NULL) {
		return caps;
	}
	if ((share->parts & HVRS_PART_EXTENTS) != 0 &&
	    share->asked[OPTION_BLOCK_CLONING] != OPTION_NO) {
		caps &= ~(uint32_t)FILE_SUPPORTS_BLOCK_REFCOUNTING;
		if (share->on[OPTION_BLOCK_CLONING]) {
			caps |= FILE_SUPPORTS_BLOCK_REFCOUNTING;
		}
	}
	if (share->on[OPTION_SPARSE_VDL]) {
		caps |= 0x10000000; /* FILE_SUPPORTS_SPARSE_VDL */
	}
	return caps;
}

/*
 * Without core hooks FSCTL_SET_ZERO_DATA stays with smbd, which asks for a
 * hole whatever the share wants kept; here the hole is filled again.
 */
static int hvrs_fallocate(struct vfs_handle_struct *handle,
			  struct files_struct *fsp, uint32_t mode,
			  off_t offset, off_t length)
{
	const struct hvrs_share *share = hvrs_share(handle);
	uint32_t hole = VFS_FALLOCATE_FL_PUNCH_HOLE |
		VFS_FALLOCATE_FL_KEEP_SIZE;
	int ret = 0;

	if (hvrs_tunnel_owns(fsp)) {
		errno = EACCES;
		return -1;
	}
	ret = SMB_VFS_NEXT_FALLOCATE(handle, fsp, mode, offset, length);
	if (ret == 0 && share != NULL && mode == hole && !hooks_active() &&
	    share->on[OPTION_ZERO_DATA] && !hvrs_zero_frees(share, fsp)) {
		ret = SMB_VFS_NEXT_FALLOCATE(handle, fsp,
					     VFS_FALLOCATE_FL_KEEP_SIZE,
					     offset, length);
	}
	return ret;
}

static uint64_t hvrs_disk_free(struct vfs_handle_struct *handle,
			       SERIES_PLACE place, uint64_t *bsize,
			       uint64_t *dfree, uint64_t *dsize)
{
	const struct hvrs_share *share = hvrs_share(handle);

	if (share != NULL) {
		hvrs_sectors_apply(share, handle->conn);
	}
	return SMB_VFS_NEXT_DISK_FREE(handle, place, bsize, dfree, dsize);
}

/* ---- opens ----------------------------------- */

static NTSTATUS hvrs_create_file(
	struct vfs_handle_struct *handle, struct smb_request *req,
	struct files_struct *dirfsp, struct smb_filename *smb_fname,
	uint32_t access_mask, uint32_t share_access, uint32_t disposition,
	uint32_t options, uint32_t attributes, uint32_t oplock,
	const struct smb2_lease *lease, uint64_t allocation,
	uint32_t private_flags, struct security_descriptor *sd,
	struct ea_list *ea_list, files_struct **result, int *info,
	const struct smb2_create_blobs *in_blobs,
	struct smb2_create_blobs *out_blobs)
{
	struct tunnel_create c = {
		.handle = handle, .req = req, .dirfsp = dirfsp,
		.smb_fname = smb_fname, .access_mask = access_mask,
		.share_access = share_access, .disposition = disposition,
		.options = options, .attributes = attributes,
		.oplock = oplock, .lease = lease, .allocation = allocation,
		.private_flags = private_flags, .sd = sd, .ea_list = ea_list,
		.result = result, .info = info, .in_blobs = in_blobs,
		.out_blobs = out_blobs,
	};
	const struct hvrs_share *share = hvrs_share(handle);
	bool kept = false;
	int action = 0;
	NTSTATUS status = NT_STATUS_OK;

	if (share == NULL || (share->parts & HVRS_PART_FSCTL) == 0) {
		return tunnel_create_next(&c);
	}
	if (info == NULL) {
		c.info = &action;
	}
	kept = hvrs_handles_create_begin(&c);
	status = hvrs_tunnel_create(&c);
	if (kept && NT_STATUS_IS_OK(status)) {
		hvrs_handles_create_end(&c);
	}
	return status;
}

static int hvrs_close(struct vfs_handle_struct *handle,
		      struct files_struct *fsp)
{
	hvrs_tunnel_close(fsp);
	return SMB_VFS_NEXT_CLOSE(handle, fsp);
}

static int hvrs_unlinkat(struct vfs_handle_struct *handle,
			 struct files_struct *dirfsp,
			 const struct smb_filename *smb_fname, int flags)
{
	int ret = 0;

	if (flags == 0 && hvrs_tunnel_unlink(handle, dirfsp, smb_fname,
					     &ret)) {
		return ret;
	}
	return SMB_VFS_NEXT_UNLINKAT(handle, dirfsp, smb_fname, flags);
}

static NTSTATUS hvrs_brl_lock_windows(struct vfs_handle_struct *handle,
				      struct byte_range_lock *br_lck,
				      struct lock_struct *plock)
{
	if (hvrs_tunnel_owns(brl_fsp(br_lck))) {
		return NT_STATUS_LOCK_NOT_GRANTED;
	}
	return hvrs_handles_lock(handle, br_lck, plock);
}

/* ---- core hooks ------------------------------------------------------------ */

static bool core_ioctl(uint32_t code, struct tevent_context *ev,
		       struct tevent_req *req,
		       struct smbd_smb2_ioctl_state *state)
{
	return hvrs_tunnel_ioctl(code, ev, req, state) ||
		hvrs_fsctl_ioctl(code, ev, req, state);
}

static void fs_info_begin(struct connection_struct *conn)
{
	struct vfs_handle_struct *handle = NULL;

	for (handle = conn->vfs_handles; handle != NULL;
	     handle = handle->next) {
		if (is_ours(handle) && hvrs_share(handle) != NULL) {
			hvrs_sectors_apply(hvrs_share(handle), conn);
		}
	}
}

static void fs_info_end(struct connection_struct *conn, uint16_t level,
			uint8_t *data, size_t length)
{
	struct vfs_handle_struct *handle = NULL;

	for (handle = conn->vfs_handles; handle != NULL;
	     handle = handle->next) {
		if (is_ours(handle) && hvrs_share(handle) != NULL) {
			hvrs_sectors_fs_info(hvrs_share(handle), level, data,
					     length);
		}
	}
}

static const struct hooks_client core_client = {
	.ioctl = core_ioctl,
	.fs_info_begin = fs_info_begin,
	.fs_info_end = fs_info_end,
	.name_suffix = hvrs_tunnel_suffix,
	.name_cut = hvrs_tunnel_name_cut,
	.read = hvrs_tunnel_read,
	.write = hvrs_tunnel_write,
	.file_info = hvrs_tunnel_file_info,
};

static bool core_hooks_wanted(void)
{
	const char *text = lp_parm_const_string(
		GLOBAL_SECTION_SNUM, "hvrs",
		option_row_get(OPTION_CORE_HOOKS)->name, "auto");
	enum option_switch value = OPTION_AUTO;
	int ret = option_switch_parse(text, &value);

	if (ret != 0) {
		DBG_ERR("hvrs: [global] hvrs:core hooks = %s is none of %s; "
			"auto is used\n", text,
			option_accepts(
				option_row_get(OPTION_CORE_HOOKS)));
	}
	return value != OPTION_NO;
}

/* ---- loading ---------------------------------------------------------------- */

#define HVRS_HOOKS						\
	.durable_cookie_fn = hvrs_durable_cookie,		\
	.durable_disconnect_fn = hvrs_durable_disconnect,	\
	.durable_reconnect_fn = hvrs_durable_reconnect,		\
	.fs_capabilities_fn = hvrs_fs_capabilities,		\
	.fallocate_fn = hvrs_fallocate,				\
	.ftruncate_fn = hvrs_ftruncate,				\
	.pwrite_fn = hvrs_pwrite,				\
	.pread_send_fn = hvrs_throttle_pread_send,		\
	.pread_recv_fn = hvrs_throttle_pread_recv,		\
	.pwrite_send_fn = hvrs_throttle_pwrite_send,		\
	.pwrite_recv_fn = hvrs_throttle_pwrite_recv,		\
	.fsync_send_fn = hvrs_throttle_fsync_send,		\
	.fsync_recv_fn = hvrs_throttle_fsync_recv,		\
	.disk_free_fn = hvrs_disk_free,				\
	.fsctl_fn = hvrs_fsctl,					\
	.create_file_fn = hvrs_create_file,			\
	.openat_fn = hvrs_openat,				\
	.close_fn = hvrs_close,					\
	.unlinkat_fn = hvrs_unlinkat,				\
	.brl_lock_windows_fn = hvrs_brl_lock_windows,		\
	.brl_unlock_windows_fn = hvrs_handles_unlock,		\
	.fget_dos_attributes_fn = hvrs_fget_dos_attributes,	\
	.fset_dos_attributes_fn = hvrs_fset_dos_attributes,	\
	.get_dos_attributes_send_fn = hvrs_get_dos_attributes_send,	\
	.get_dos_attributes_recv_fn = hvrs_get_dos_attributes_recv,	\
	.fget_compression_fn = hvrs_fget_compression,		\
	.set_compression_fn = hvrs_set_compression

static const struct vfs_fn_pointers functions_all = {
	.connect_fn = connect_all, HVRS_HOOKS
};
static const struct vfs_fn_pointers functions_fsctl = {
	.connect_fn = connect_fsctl, HVRS_HOOKS
};
static const struct vfs_fn_pointers functions_extents = {
	.connect_fn = connect_extents, HVRS_HOOKS
};

static const struct {
	const char *name;
	const struct vfs_fn_pointers *functions;
} modules[] = {
	{ "hvrs", &functions_all },
	{ "hvrs_fsctl", &functions_fsctl },
	{ "hvrs_extents", &functions_extents },
};

/* "4.22.11-Debian..." is of the series "4.22". */
static bool is_series(const char *version, const char *series)
{
	size_t length = strlen(series);

	return strncmp(version, series, length) == 0 && version[length] == '.';
}

/*
 * What smbd calls when it loads this file, by "preload modules" or for the
 * first share that names it, possibly more than once.
 */
__attribute__((visibility("default")))
NTSTATUS samba_init_module(TALLOC_CTX *mem_ctx);

__attribute__((visibility("default")))
NTSTATUS samba_init_module(TALLOC_CTX *mem_ctx)
{
	static bool registered;
	const char *running = samba_version_string();
	size_t i = 0;

	(void)mem_ctx;
	if (registered) {
		return NT_STATUS_OK;
	}
	if (!is_series(running, HVRS_SAMBA_SERIES)) {
		DBG_ERR("hvrs: built for Samba %s (%s), and this is Samba %s: "
			"not loaded. Install the hvrs built for this Samba\n",
			HVRS_SAMBA_SERIES, HVRS_SAMBA_BUILT, running);
		return NT_STATUS_REVISION_MISMATCH;
	}
	if (!register_builtin_first()) {
		return NT_STATUS_NO_MEMORY;
	}
	for (i = 0; i < ARRAY_SIZE(modules); i++) {
		NTSTATUS status = smb_register_vfs(
			SMB_VFS_INTERFACE_VERSION, modules[i].name,
			modules[i].functions);

		if (!NT_STATUS_IS_OK(status)) {
			DBG_ERR("hvrs: smbd does not take the module %s: %s\n",
				modules[i].name, nt_errstr(status));
			return status;
		}
	}
	registered = true;
	if (core_hooks_wanted()) {
		hooks_install(&core_client);
		if (hooks_active()) {
			hvrs_handles_start();
		}
	}
	return NT_STATUS_OK;
}
