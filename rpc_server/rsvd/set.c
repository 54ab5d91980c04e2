/*
 * A VHD Set as this server has it: the small file that the client opened, and
 * the catalogue of its snapshots beside it.
 */
#include "server.h"

#define CATALOGUE VHDSET_CATALOGUE_SUFFIX

static char *own_path(TALLOC_CTX *mem_ctx, const struct rsvd_open *open,
		      const char *suffix)
{
	return talloc_asprintf(mem_ctx, "%s%s",
			       open->fsp->fsp_name->base_name, suffix);
}

NTSTATUS rsvd_set_open(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
		       bool writable, struct rsvd_set **_set)
{
	struct rsvd_set *set = talloc_zero(mem_ctx, struct rsvd_set);
	struct vhdset_open how = { .writable = writable };
	const char *why = NULL;
	char *path = NULL;
	NTSTATUS status = NT_STATUS_NO_MEMORY;
	int ret = 0;

	if (set == NULL) {
		return status;
	}
	set->open = open;
	path = own_path(set, open, CATALOGUE);
	if (path != NULL) {
		status = rsvd_file_reopen(set, open->ev, open->fsp, writable,
					  &set->file);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_open(set, open, path, writable ?
					RSVD_FILE_SHARED : RSVD_FILE_LOOK,
					&set->catalogue);
		if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND) &&
		    !writable) {
			status = NT_STATUS_OK;
		}
	}
	if (!NT_STATUS_IS_OK(status)) {
		talloc_free(set);
		return status;
	}
	how.catalogue = set->catalogue;
	ret = vhdset_open(set, set->file, &how, &set->set, &why);
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: the set cannot be opened: "
			"%s%s%s\n", open->path, strerror(-ret),
			why != NULL ? ": " : "", why != NULL ? why : "");
		talloc_free(set);
		return ret == -EBADMSG ? NT_STATUS(RSVD_STATUS_WRONG_TYPE)
				       : rsvd_status_of(ret);
	}
	*_set = set;
	return NT_STATUS_OK;
}

/* ---- a new leaf -------------------------------------------------------------------------- */

static NTSTATUS leaf_write(struct rsvd_set *set, const char *parent,
			   const char *name)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct vhdx_locator_pair paths = { .key = "relative_path" };
	struct vhdx_create wanted = {
		.type = VHDX_DIFFERENCING, .paths = &paths, .path_count = 1,
	};
	char *parent_path = rsvd_file_beside(frame, set->open, parent);
	char *path = rsvd_file_beside(frame, set->open, name);
	struct store *parent_store = NULL;
	struct store *store = NULL;
	struct vhdx *disk = NULL;
	NTSTATUS status = NT_STATUS_NO_MEMORY;

	paths.value = talloc_asprintf(frame, ".\\%s", parent);
	if (parent_path != NULL && path != NULL && paths.value != NULL) {
		/* As it is on disk: another process may have written last. */
		status = rsvd_image_alone(frame, set->open, parent_path, false,
					  &parent_store, &disk);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_open(frame, set->open, path,
					RSVD_FILE_CREATE, &store);
	}
	if (NT_STATUS_IS_OK(status)) {
		wanted.parent = disk;
		status = rsvd_status_of(vhdx_create(store, &wanted));
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_folder_flush(set->open, path);
	}
	TALLOC_FREE(store);
	TALLOC_FREE(disk);
	TALLOC_FREE(frame);
	return status;
}

NTSTATUS rsvd_set_leaf_new(struct rsvd_set *set, const char *parent,
			   char name[VHDSET_NAME_MAX])
{
	const char *base = set->open->fsp->fsp_name->base_name;
	const char *slash = strrchr(base, '/');
	NTSTATUS status = rsvd_status_of(vhdset_leaf_name(
		slash != NULL ? slash + 1 : base, name));

	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_set_note(set->open, name);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = leaf_write(set, parent, name);
	}
	return status;
}
