/*
 * A VHD Set as this server has it: the small file that the client opened, the
 * catalogue of its snapshots beside it, and the names that a crash may have
 * left over.
 */
#include "server.h"

#define CATALOGUE VHDSET_CATALOGUE_SUFFIX
/* Names, one a line, of files that are to go when nothing needs them. */
#define UNFINISHED ".unfinished"
#define UNFINISHED_MAX 65536U

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

/* ---- names that may have to go ------------------------------------------------------ */

NTSTATUS rsvd_set_note(struct rsvd_open *open, const char *name)
{
	TALLOC_CTX *frame = talloc_stackframe();
	char *path = own_path(frame, open, UNFINISHED);
	char *line = talloc_asprintf(frame, "%s\n", name);
	struct store *store = NULL;
	uint64_t size = 0;
	NTSTATUS status = NT_STATUS_NO_MEMORY;
	int ret = 0;

	if (path != NULL && line != NULL) {
		status = rsvd_file_open(frame, open, path, RSVD_FILE_SHARED,
					&store);
	}
	if (NT_STATUS_IS_OK(status)) {
		ret = store_size(store, &size);
		if (ret == 0) {
			ret = store_write(store, line, strlen(line), size);
		}
		if (ret == 0) {
			ret = store_flush(store);
		}
		status = rsvd_status_of(ret);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_folder_flush(open, path);
	}
	TALLOC_FREE(frame);
	return status;
}

/* Whether a file of the set has name as its parent, at any depth. */
static bool is_parent(struct rsvd_set *set, const char *file, const char *name)
{
	TALLOC_CTX *frame = talloc_stackframe();
	const struct vhdx_locator_pair *pairs = NULL;
	char *path = rsvd_file_beside(frame, set->open, file);
	char *wanted = rsvd_file_beside(frame, set->open, name);
	bool found = path == NULL || wanted == NULL;
	unsigned depth = 0;

	for (depth = 0; !found && depth < VHDX_CHAIN_MAX; depth++) {
		struct store *store = NULL;
		struct vhdx *disk = NULL;
		size_t count = 0;
		size_t i = 0;

		if (!NT_STATUS_IS_OK(rsvd_image_alone(frame, set->open, path,
						      false, &store, &disk))) {
			/* Not known: nothing may be thrown away. */
			found = true;
			break;
		}
		if (vhdx_locator_get(disk, &pairs, &count) != 0) {
			talloc_free(disk);
			talloc_free(store);
			break;
		}
		for (i = 0; i < count; i++) {
			if (strcmp(pairs[i].key, "relative_path") == 0 &&
			    rsvd_file_parent_path(frame, path, pairs[i].value,
						  &path) != 0) {
				found = true;
			}
		}
		talloc_free(disk);
		talloc_free(store);
		found = found || strcasecmp_m(path, wanted) == 0;
	}
	TALLOC_FREE(frame);
	return found;
}

static bool is_needed(struct rsvd_set *set, const char *name)
{
	const struct vhdset_snapshot *list = NULL;
	struct vhdset_info info = {};
	size_t count = 0;
	size_t i = 0;

	if (vhdset_file_needed(set->set, name) ||
	    vhdset_snapshot_list(set->set, &list, &count) != 0) {
		return true;
	}
	vhdset_info_get(set->set, &info);
	if (is_parent(set, info.leaf, name)) {
		return true;
	}
	for (i = 0; i < count; i++) {
		if (list[i].file[0] != '\0' &&
		    is_parent(set, list[i].file, name)) {
			return true;
		}
	}
	return false;
}

/* A name that was noted by this server, as it is in the file: not trusted. */
static void tidy_one(struct rsvd_set *set, const char *name)
{
	char *path = NULL;

	if (vhdset_name_check(name) != 0 || is_needed(set, name)) {
		return;
	}
	path = rsvd_file_beside(set, set->open, name);
	if (path != NULL &&
	    NT_STATUS_IS_OK(rsvd_file_remove(set->open, path))) {
		DBG_NOTICE("hvrs: shared disk %s: %s is needed no more: "
			   "removed\n", set->open->path, name);
	}
	TALLOC_FREE(path);
}

NTSTATUS rsvd_set_tidy(struct rsvd_set *set)
{
	TALLOC_CTX *frame = talloc_stackframe();
	char *path = own_path(frame, set->open, UNFINISHED);
	struct store *store = NULL;
	char *text = NULL;
	char *line = NULL;
	char *rest = NULL;
	uint64_t size = 0;
	NTSTATUS status = NT_STATUS_NO_MEMORY;
	int ret = 0;

	if (path != NULL) {
		status = rsvd_file_open(frame, set->open, path, RSVD_FILE_LOOK,
					&store);
	}
	if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
		TALLOC_FREE(frame);
		return NT_STATUS_OK;
	}
	if (NT_STATUS_IS_OK(status)) {
		ret = store_size(store, &size);
		size = MIN(size, UNFINISHED_MAX);
		text = talloc_zero_array(frame, char, size + 1);
		if (ret == 0 && text != NULL) {
			ret = store_read(store, text, size, 0);
		}
		TALLOC_FREE(store);
		status = text == NULL ? NT_STATUS_NO_MEMORY
				      : rsvd_status_of(ret);
	}
	if (NT_STATUS_IS_OK(status)) {
		for (line = strtok_r(text, "\n", &rest); line != NULL;
		     line = strtok_r(NULL, "\n", &rest)) {
			tidy_one(set, line);
		}
		status = rsvd_file_remove(set->open, path);
	}
	TALLOC_FREE(frame);
	return status;
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
