/* A disk of its own from a snapshot, and a set from a disk. */
#include "server.h"

/* ---- a set from a disk, 3.2.5.5.7.5 ------------------------------------------------------ */

/*
 * The commit is the disk's new name, as the set's leaf.  The set is there
 * before it, whole, so a crash leaves the disk as it was beside a set that
 * names a file which does not exist, or the set.  Such a set is all that may
 * be replaced.
 */
static NTSTATUS convert_room(TALLOC_CTX *frame, struct rsvd_open *open,
			     const char *path)
{
	struct vhdset_open how = {};
	struct vhdset_info info = {};
	struct vhdset *set = NULL;
	struct store *store = NULL;
	struct store *leaf = NULL;
	NTSTATUS status = rsvd_file_open(frame, open, path, RSVD_FILE_LOOK,
					 &store);
	int ret = 0;

	if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
		return NT_STATUS_OK;
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	ret = vhdset_open(frame, store, &how, &set, NULL);
	if (ret == 0) {
		vhdset_info_get(set, &info);
		path = rsvd_file_beside(frame, open, info.leaf);
		status = path == NULL ? NT_STATUS_NO_MEMORY :
			rsvd_file_open(frame, open, path, RSVD_FILE_LOOK,
				       &leaf);
	}
	TALLOC_FREE(leaf);
	TALLOC_FREE(set);
	TALLOC_FREE(store);
	if (ret != 0 ||
	    !NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
		return NT_STATUS_OBJECT_NAME_COLLISION;
	}
	return NT_STATUS_OBJECT_NAME_EXISTS;
}

/* The set's file, under a name of its own until it is whole. */
static NTSTATUS convert_set(TALLOC_CTX *frame, struct rsvd_open *open,
			    const char *path, const char *leaf)
{
	struct store *store = NULL;
	char *made = talloc_asprintf(frame, "%s.new", leaf);
	NTSTATUS status = NT_STATUS_NO_MEMORY;

	if (made != NULL) {
		made = rsvd_file_beside(frame, open, made);
	}
	if (made != NULL) {
		status = rsvd_file_open(frame, open, made, RSVD_FILE_CREATE,
					&store);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = rsvd_status_of(vhdset_create(store, leaf));
	TALLOC_FREE(store);
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_rename(open, made, path);
	}
	if (!NT_STATUS_IS_OK(status)) {
		(void)rsvd_file_remove(open, made);
		return status;
	}
	return rsvd_file_folder_flush(open, path);
}

static NTSTATUS convert(struct rsvd_open *open, const struct rsvd_meta *meta)
{
	TALLOC_CTX *frame = talloc_stackframe();
	const char *source = open->fsp->fsp_name->base_name;
	char name[RSVD_META_NAME_MAX] = "";
	char leaf[VHDSET_NAME_MAX] = "";
	char *path = NULL;
	char *leaf_path = NULL;
	NTSTATUS status = NT_STATUS_OK;

	(void)rsvd_meta_convert_decode(meta->data, meta->length, name);
	if (vhdset_name_check(name) != 0 ||
	    vhdset_leaf_name(name, leaf) != 0) {
		TALLOC_FREE(frame);
		return NT_STATUS_INVALID_PARAMETER;
	}
	path = rsvd_file_beside(frame, open, name);
	leaf_path = rsvd_file_beside(frame, open, leaf);
	status = path == NULL || leaf_path == NULL ? NT_STATUS_NO_MEMORY :
		convert_room(frame, open, path);
	if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_EXISTS)) {
		status = rsvd_file_remove(open, path);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = convert_set(frame, open, path, leaf);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_rename(open, source, leaf_path);
		if (NT_STATUS_IS_OK(status)) {
			status = rsvd_file_folder_flush(open, leaf_path);
		} else {
			(void)rsvd_file_remove(open, path);
		}
	}
	TALLOC_FREE(frame);
	return status;
}

/* ---- the operations ---------------------------------------------------------------------- */

struct copy_state {
	struct rsvd_open *open;
};

static struct tevent_req *at_once(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
				  NTSTATUS status)
{
	struct copy_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct copy_state);

	if (req == NULL) {
		return NULL;
	}
	if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
	return tevent_req_post(req, open->ev);
}

struct tevent_req *rsvd_convert_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     const struct rsvd_meta *meta)
{
	return at_once(mem_ctx, open, convert(open, meta));
}

struct tevent_req *rsvd_extract_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     const struct rsvd_meta *meta)
{
	(void)meta;
	return at_once(mem_ctx, open, NT_STATUS_NOT_SUPPORTED);
}

struct tevent_req *rsvd_optimize_send(TALLOC_CTX *mem_ctx,
				      struct rsvd_open *open,
				      const struct rsvd_meta *meta)
{
	(void)meta;
	return at_once(mem_ctx, open, NT_STATUS_OK);
}
