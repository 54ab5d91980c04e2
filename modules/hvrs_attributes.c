/*
 * Attributes of virtual disk files (MS-HVRS: never COMPRESSED or ENCRYPTED,
 * SPARSE_FILE only on a volume with sparse VDL), wherever smbd gets them:
 * opens, information queries, directory listings, compression state.
 */
#include "hvrs.h"

#define ATTRIBUTES_NEVER (FILE_ATTRIBUTE_COMPRESSED | FILE_ATTRIBUTE_ENCRYPTED)

static bool is_disk_name(const struct hvrs_share *share, const char *name)
{
	return share != NULL && share->on[OPTION_DISK_ATTRIBUTES] &&
		option_patterns_match(share->text[OPTION_DISK_FILES], name);
}

bool hvrs_is_disk_file(const struct hvrs_share *share,
		       const struct files_struct *fsp)
{
	return !fsp->fsp_flags.is_directory &&
		is_disk_name(share, fsp->fsp_name->base_name);
}

static uint32_t attributes_hidden(const struct hvrs_share *share)
{
	return ATTRIBUTES_NEVER |
		(share->on[OPTION_SPARSE_VDL] ? 0 : FILE_ATTRIBUTE_SPARSE);
}

NTSTATUS hvrs_fget_dos_attributes(struct vfs_handle_struct *handle,
				  struct files_struct *fsp, uint32_t *dosmode)
{
	const struct hvrs_share *share = hvrs_share(handle);
	NTSTATUS status = SMB_VFS_NEXT_FGET_DOS_ATTRIBUTES(handle, fsp,
							   dosmode);

	if (hvrs_is_disk_file(share, fsp)) {
		*dosmode &= ~attributes_hidden(share);
	}
	return status;
}

/*
 * Only FSCTL_SET_SPARSE takes the sparse attribute away from a file that
 * holds something; smbd would lose it with every other change of attributes,
 * such as the archive bit of the first write.
 */
static bool stays_sparse(struct vfs_handle_struct *handle,
			 struct files_struct *fsp)
{
	const struct hvrs_share *share = hvrs_share(handle);
	uint32_t stored = 0;
	NTSTATUS status = NT_STATUS_OK;

	if (share == NULL || !share->on[OPTION_SPARSE] ||
	    hvrs_set_sparse_running() || fsp->fsp_flags.is_directory ||
	    fsp->fsp_name->st.st_ex_size == 0) {
		return false;
	}
	status = SMB_VFS_NEXT_FGET_DOS_ATTRIBUTES(handle, fsp, &stored);
	return NT_STATUS_IS_OK(status) &&
		(stored & FILE_ATTRIBUTE_SPARSE) != 0;
}

NTSTATUS hvrs_fset_dos_attributes(struct vfs_handle_struct *handle,
				  struct files_struct *fsp, uint32_t dosmode)
{
	const struct hvrs_share *share = hvrs_share(handle);

	if (stays_sparse(handle, fsp)) {
		dosmode |= FILE_ATTRIBUTE_SPARSE;
	}
	if (hvrs_is_disk_file(share, fsp)) {
		dosmode &= ~attributes_hidden(share);
	}
	return SMB_VFS_NEXT_FSET_DOS_ATTRIBUTES(handle, fsp, dosmode);
}

/* ---- directory listings ------------------------------------------------------ */

struct attributes_state {
	struct vfs_handle_struct *handle;
	struct vfs_aio_state aio_state;
	uint32_t hidden;
	uint32_t dosmode;
};

static void attributes_done(struct tevent_req *subreq);

struct tevent_req *hvrs_get_dos_attributes_send(
	TALLOC_CTX *mem_ctx, struct tevent_context *ev,
	struct vfs_handle_struct *handle, struct files_struct *dir_fsp,
	struct smb_filename *smb_fname)
{
	const struct hvrs_share *share = hvrs_share(handle);
	struct attributes_state *state = NULL;
	struct tevent_req *subreq = NULL;
	struct tevent_req *req = tevent_req_create(
		mem_ctx, &state, struct attributes_state);

	if (req == NULL) {
		return NULL;
	}
	state->handle = handle;
	if (is_disk_name(share, smb_fname->base_name) &&
	    !S_ISDIR(smb_fname->st.st_ex_mode)) {
		state->hidden = attributes_hidden(share);
	}
	subreq = SMB_VFS_NEXT_GET_DOS_ATTRIBUTES_SEND(mem_ctx, ev, handle,
						      dir_fsp, smb_fname);
	if (tevent_req_nomem(subreq, req)) {
		return tevent_req_post(req, ev);
	}
	tevent_req_set_callback(subreq, attributes_done, req);
	return req;
}

static void attributes_done(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct attributes_state *state = tevent_req_data(
		req, struct attributes_state);
	NTSTATUS status = SMB_VFS_NEXT_GET_DOS_ATTRIBUTES_RECV(
		subreq, &state->aio_state, &state->dosmode);

	TALLOC_FREE(subreq);
	if (tevent_req_nterror(req, status)) {
		return;
	}
	state->dosmode &= ~state->hidden;
	tevent_req_done(req);
}

NTSTATUS hvrs_get_dos_attributes_recv(struct tevent_req *req,
				      struct vfs_aio_state *aio_state,
				      uint32_t *dosmode)
{
	struct attributes_state *state = tevent_req_data(
		req, struct attributes_state);
	NTSTATUS status = NT_STATUS_OK;

	if (tevent_req_is_nterror(req, &status)) {
		tevent_req_received(req);
		return status;
	}
	*aio_state = state->aio_state;
	*dosmode = state->dosmode;
	tevent_req_received(req);
	return NT_STATUS_OK;
}

/* ---- compression state -------------------------------------------------------- */

NTSTATUS hvrs_fget_compression(struct vfs_handle_struct *handle,
			       TALLOC_CTX *mem_ctx, struct files_struct *fsp,
			       uint16_t *format)
{
	if (hvrs_is_disk_file(hvrs_share(handle), fsp)) {
		*format = COMPRESSION_FORMAT_NONE;
		return NT_STATUS_OK;
	}
	return SMB_VFS_NEXT_FGET_COMPRESSION(handle, mem_ctx, fsp, format);
}

NTSTATUS hvrs_set_compression(struct vfs_handle_struct *handle,
			      TALLOC_CTX *mem_ctx, struct files_struct *fsp,
			      uint16_t format)
{
	if (hvrs_is_disk_file(hvrs_share(handle), fsp) &&
	    format != COMPRESSION_FORMAT_NONE) {
		return NT_STATUS_INVALID_DEVICE_REQUEST;
	}
	return SMB_VFS_NEXT_SET_COMPRESSION(handle, mem_ctx, fsp, format);
}
