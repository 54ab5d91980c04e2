/*
 * What other parts of hvrs keep with a handle: their state goes into the
 * record and comes back with the open file; and the contexts of a reconnect
 * that are theirs.
 */
#include "hvrs_handles.h"

#define PARTS_MAX 8

static const struct hvrs_handle_part *parts[PARTS_MAX];
static size_t part_count;

/* The extra contexts of the CREATE that is under way. */
static struct smb2_create_blobs extras;

void hvrs_handles_part(const struct hvrs_handle_part *part)
{
	size_t i = 0;

	for (i = 0; i < part_count; i++) {
		if (parts[i] == part) {
			return;
		}
	}
	SMB_ASSERT(part_count < PARTS_MAX);
	parts[part_count++] = part;
}

bool hvrs_parts_save(struct files_struct *fsp, struct hvrs_open *open)
{
	struct handle_record *r = &open->h.record;
	uint8_t *all = NULL;
	size_t length = 0;
	size_t i = 0;
	bool changed = false;

	for (i = 0; i < part_count; i++) {
		DATA_BLOB state = data_blob_null;
		uint8_t *grown = NULL;

		if (parts[i]->save == NULL ||
		    !parts[i]->save(fsp, talloc_tos(), &state)) {
			continue;
		}
		grown = talloc_realloc(talloc_tos(), all, uint8_t, length +
				       HANDLE_MODULE_HEAD + state.length);
		if (grown != NULL) {
			all = grown;
			handle_module_put(all + length, parts[i]->tag,
					  (struct handle_bytes){
						.data = state.data,
						.length = state.length });
			length += HANDLE_MODULE_HEAD + state.length;
		}
		data_blob_free(&state);
	}
	changed = length != r->modules.length ||
		(length > 0 && memcmp(all, r->modules.data, length) != 0);
	if (changed) {
		talloc_free_children(open->modules);
		r->modules.data = talloc_memdup(open->modules, all, length);
		r->modules.length = r->modules.data != NULL ? length : 0;
	}
	TALLOC_FREE(all);
	return changed;
}

/* Whether some part has state of this open, so that it can be kept. */
bool hvrs_parts_keep(struct files_struct *fsp)
{
	bool keeps = false;
	size_t i = 0;

	for (i = 0; i < part_count && !keeps; i++) {
		DATA_BLOB state = data_blob_null;

		keeps = parts[i]->save != NULL &&
			parts[i]->save(fsp, talloc_tos(), &state);
		data_blob_free(&state);
	}
	return keeps;
}

static NTSTATUS part_restore(struct vfs_handle_struct *handle,
			     struct files_struct *fsp,
			     const struct hvrs_handle_part *part,
			     struct handle_bytes state)
{
	struct smb2_create_blob *blob = NULL;

	if (part->context != NULL) {
		blob = smb2_create_blob_find(&extras, part->context);
	}
	return part->restore(handle, fsp,
			     data_blob_const(state.data, state.length),
			     blob != NULL ? blob->data : data_blob_null);
}

NTSTATUS hvrs_parts_restore(struct vfs_handle_struct *handle,
			    struct files_struct *fsp,
			    const struct handle_record *r)
{
	struct handle_bytes state = {};
	NTSTATUS status = NT_STATUS_OK;
	uint32_t tag = 0;
	size_t at = 0;

	while (NT_STATUS_IS_OK(status) &&
	       handle_module_next(r, &at, &tag, &state)) {
		size_t i = 0;

		for (i = 0; i < part_count && parts[i]->tag != tag; i++) {
		}
		if (i < part_count) {
			status = part_restore(handle, fsp, parts[i], state);
		} else if ((tag & HANDLE_MODULE_SPARE) == 0) {
			/* What nobody understands is refused, not dropped. */
			status = NT_STATUS_OBJECT_NAME_NOT_FOUND;
		}
	}
	return status;
}

/* ---- contexts ---------------------------------------------------------------- */

bool hvrs_request_contexts(TALLOC_CTX *mem_ctx, struct smbd_smb2_request *req,
			   struct smb2_create_blobs *_blobs)
{
	const uint8_t *body = SMBD_SMB2_IN_BODY_PTR(req);
	const struct iovec *dyn = SMBD_SMB2_IN_DYN_IOV(req);
	uint32_t start = SMB2_HDR_BODY +
		(uint32_t)SMBD_SMB2_IN_BODY_LEN(req);
	uint32_t offset = 0;
	uint32_t length = 0;
	DATA_BLOB blob = data_blob_null;

	if (SMBD_SMB2_IN_BODY_LEN(req) < 0x38) {
		return false;
	}
	offset = IVAL(body, 0x30);
	length = IVAL(body, 0x34);
	if (offset < start || offset - start > dyn->iov_len ||
	    length > dyn->iov_len - (offset - start)) {
		return false;
	}
	blob = data_blob_const((const uint8_t *)dyn->iov_base +
			       (offset - start), length);
	return NT_STATUS_IS_OK(smb2_create_blob_parse(mem_ctx, blob,
						      _blobs));
}

static bool is_of_reconnect(const char *tag)
{
	static const char *const tags[] = {
		SMB2_CREATE_TAG_DHNQ, SMB2_CREATE_TAG_DHNC,
		SMB2_CREATE_TAG_DH2Q, SMB2_CREATE_TAG_DH2C,
		SMB2_CREATE_TAG_RQLS,
	};
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(tags); i++) {
		if (strcmp(tag, tags[i]) == 0) {
			return true;
		}
	}
	return false;
}

/* The contexts that stay come where all of them were. */
static void request_put(struct smbd_smb2_request *req,
			const struct smb2_create_blobs *kept)
{
	uint8_t *body = SMBD_SMB2_IN_BODY_PTR(req);
	struct iovec *dyn = SMBD_SMB2_IN_DYN_IOV(req);
	uint32_t at = IVAL(body, 0x30) - SMB2_HDR_BODY -
		(uint32_t)SMBD_SMB2_IN_BODY_LEN(req);
	DATA_BLOB pushed = data_blob_null;

	if (!NT_STATUS_IS_OK(smb2_create_blob_push(talloc_tos(), &pushed,
						   *kept)) ||
	    pushed.length > IVAL(body, 0x34)) {
		return;
	}
	memcpy((uint8_t *)dyn->iov_base + at, pushed.data, pushed.length);
	SIVAL(body, 0x34, (uint32_t)pushed.length);
	data_blob_free(&pushed);
}

static bool wants(const struct smb2_create_blobs *blobs, uint64_t *_id)
{
	struct smb2_create_blob *blob = smb2_create_blob_find(
		blobs, SMB2_CREATE_TAG_DH2C);

	if (blob == NULL) {
		blob = smb2_create_blob_find(blobs, SMB2_CREATE_TAG_DHNC);
	}
	if (blob == NULL || blob->data.length < 16) {
		return false;
	}
	*_id = BVAL(blob->data.data, 0);
	return true;
}

bool hvrs_request_wants(struct smbd_smb2_request *req, uint64_t *_id)
{
	struct smb2_create_blobs blobs = {};
	bool found = hvrs_request_contexts(talloc_tos(), req, &blobs) &&
		wants(&blobs, _id);

	TALLOC_FREE(blobs.blobs);
	return found;
}

void hvrs_parts_request(struct smbd_smb2_request *req)
{
	struct smb2_create_blobs blobs = {};
	struct smb2_create_blobs kept = {};
	uint64_t id = 0;
	uint32_t i = 0;
	struct state_handle *h = NULL;

	TALLOC_FREE(extras.blobs);
	extras = (struct smb2_create_blobs){};
	if (!hvrs_request_contexts(talloc_tos(), req, &blobs)) {
		return;
	}
	if (wants(&blobs, &id)) {
		h = state_handles_fetch(talloc_tos(), id);
	}
	for (i = 0; h != NULL && i < blobs.num_blobs; i++) {
		bool keep = is_of_reconnect(blobs.blobs[i].tag);

		smb2_create_blob_add(keep ? talloc_tos() : NULL,
				     keep ? &kept : &extras,
				     blobs.blobs[i].tag, blobs.blobs[i].data);
	}
	if (extras.num_blobs > 0) {
		request_put(req, &kept);
	}
	TALLOC_FREE(kept.blobs);
	TALLOC_FREE(blobs.blobs);
	TALLOC_FREE(h);
}
