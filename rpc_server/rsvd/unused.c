/*
 * Files of a set that no snapshot has any more: their names, in a file beside
 * the set, one a line; which of them are still links of a chain, and the end
 * of the others.
 *
 * Only what is noted, and has a name as this set makes them, is ever removed or
 * merged: a file that the set did not make may be other disks'.
 */
#include "server.h"

/* Files of one set, noted or in use. */
#define PARTS_MAX 4096

static char *own_path(TALLOC_CTX *mem_ctx, const struct rsvd_open *open,
		      const char *suffix)
{
	return talloc_asprintf(mem_ctx, "%s%s",
			       open->fsp->fsp_name->base_name, suffix);
}

/* ---- the notes ----------------------------------------------------------------------- */

NTSTATUS rsvd_set_note(struct rsvd_open *open, const char *name)
{
	TALLOC_CTX *frame = talloc_stackframe();
	char *path = own_path(frame, open, VHDSET_NOTES_SUFFIX);
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

/* NULL at the end; none where there is no such file. */
static NTSTATUS notes_read(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			   char ***_notes)
{
	TALLOC_CTX *frame = talloc_stackframe();
	char *path = own_path(frame, open, VHDSET_NOTES_SUFFIX);
	struct store *store = NULL;
	uint64_t size = 0;
	char *text = NULL;
	NTSTATUS status = NT_STATUS_NO_MEMORY;
	int ret = 0;

	if (path != NULL) {
		status = rsvd_file_open(frame, open, path, RSVD_FILE_LOOK,
					&store);
	}
	if (NT_STATUS_IS_OK(status)) {
		ret = store_size(store, &size);
		size = MIN(size, VHDSET_NOTES_SIZE_MAX);
	}
	if (NT_STATUS_IS_OK(status) ||
	    NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
		status = NT_STATUS_NO_MEMORY;
		text = talloc_zero_array(frame, char, size + 1);
	}
	if (text != NULL && store != NULL && ret == 0) {
		ret = store_read(store, text, size, 0);
	}
	if (text != NULL) {
		ret = ret != 0 ? ret : vhdset_notes_parse(
			mem_ctx, open->fsp->fsp_name->base_name, text, _notes);
		status = rsvd_status_of(ret);
	}
	TALLOC_FREE(frame);
	return status;
}

/* All of them anew; the file goes with the last. */
static NTSTATUS notes_write(struct rsvd_open *open, char *const *notes)
{
	TALLOC_CTX *frame = talloc_stackframe();
	char *path = own_path(frame, open, VHDSET_NOTES_SUFFIX);
	char *made = own_path(frame, open, VHDSET_NOTES_SUFFIX
			      VHDSET_NEW_SUFFIX);
	char *text = talloc_strdup(frame, "");
	struct store *store = NULL;
	NTSTATUS status = NT_STATUS_NO_MEMORY;
	int ret = 0;

	for (; *notes != NULL && text != NULL; notes++) {
		text = talloc_asprintf_append(text, "%s\n", *notes);
	}
	if (path == NULL || made == NULL || text == NULL) {
		TALLOC_FREE(frame);
		return status;
	}
	if (*text == '\0') {
		status = rsvd_file_remove(open, path);
		TALLOC_FREE(frame);
		return status;
	}
	(void)rsvd_file_remove(open, made);
	status = rsvd_file_open(frame, open, made, RSVD_FILE_CREATE, &store);
	if (NT_STATUS_IS_OK(status)) {
		ret = store_write(store, text, strlen(text), 0);
		if (ret == 0) {
			ret = store_flush(store);
		}
		TALLOC_FREE(store);
		status = rsvd_status_of(ret);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_replace(open, made, path);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_folder_flush(open, path);
	}
	TALLOC_FREE(frame);
	return status;
}

bool rsvd_set_has_notes(struct rsvd_open *open)
{
	TALLOC_CTX *frame = talloc_stackframe();
	char **notes = NULL;
	NTSTATUS status = notes_read(frame, open, &notes);
	bool found = NT_STATUS_IS_OK(status) && notes[0] != NULL;

	TALLOC_FREE(frame);
	return found;
}

NTSTATUS rsvd_set_build_new(struct rsvd_set *set, char name[VHDSET_NAME_MAX])
{
	const char *base = set->open->fsp->fsp_name->base_name;
	const char *slash = strrchr(base, '/');
	NTSTATUS status = rsvd_status_of(vhdset_leaf_name(
		slash != NULL ? slash + 1 : base, name));

	if (NT_STATUS_IS_OK(status) &&
	    strlcat(name, VHDSET_BUILD_SUFFIX, VHDSET_NAME_MAX) >=
	    VHDSET_NAME_MAX) {
		status = NT_STATUS_OBJECT_NAME_INVALID;
	}
	return NT_STATUS_IS_OK(status) ? rsvd_set_note(set->open, name)
				       : status;
}

/* ---- the files that the set reads -------------------------------------------------- */

struct rsvd_part *rsvd_parts_find(const struct rsvd_parts *parts,
				  const char *path)
{
	size_t i = 0;

	for (i = 0; i < parts->count; i++) {
		if (strcasecmp_m(parts->list[i]->path, path) == 0) {
			return parts->list[i];
		}
	}
	return NULL;
}

static struct rsvd_part *part_add(struct rsvd_parts *parts, const char *path)
{
	struct rsvd_part *part = rsvd_parts_find(parts, path);

	if (part != NULL || parts->count == PARTS_MAX) {
		return part;
	}
	part = talloc_zero(parts, struct rsvd_part);
	if (part != NULL) {
		part->path = talloc_strdup(part, path);
		parts->list[parts->count++] = part;
	}
	return part != NULL && part->path != NULL ? part : NULL;
}

static uint64_t bytes_of(struct store *store)
{
	struct files_struct *fsp = rsvd_store_file(store);
	SMB_STRUCT_STAT st = {};

	if (fsp == NULL || SMB_VFS_FSTAT(fsp, &st) != 0) {
		return 0;
	}
	return (uint64_t)st.st_ex_blocks * 512;
}

/* Where the locator says that its parent is; NULL for none. */
static NTSTATUS parent_path(TALLOC_CTX *mem_ctx, const struct rsvd_part *part,
			    const struct vhdx *disk, char **_path)
{
	const struct vhdx_locator_pair *pairs = NULL;
	size_t count = 0;
	size_t i = 0;

	*_path = NULL;
	if (vhdx_locator_get(disk, &pairs, &count) != 0) {
		return NT_STATUS_OK;
	}
	for (i = 0; i < count; i++) {
		if (strcmp(pairs[i].key, "relative_path") == 0) {
			return rsvd_status_of(rsvd_file_parent_path(
				mem_ctx, part->path, pairs[i].value, _path));
		}
	}
	return rsvd_status_of(-ENOENT);
}

/* The leaf is being written to: a look at it from outside may find it torn. */
static const struct vhdx *own_leaf(const struct rsvd_open *open,
				   const struct rsvd_part *part)
{
	const struct rsvd_image *image = open->image;
	char *path = NULL;
	bool is_own = false;

	if (!part->is_leaf || image == NULL || rsvd_open_is_snapshot(open)) {
		return NULL;
	}
	path = rsvd_file_beside(talloc_tos(), open, image->file);
	is_own = path != NULL && strcasecmp_m(path, part->path) == 0;
	TALLOC_FREE(path);
	return is_own ? image->disk : NULL;
}

/* Looks into a file, and adds its parent. */
static NTSTATUS part_look(struct rsvd_parts *parts, struct rsvd_open *open,
			  struct rsvd_part *part)
{
	TALLOC_CTX *frame = talloc_stackframe();
	const struct vhdx *own = own_leaf(open, part);
	struct store *store = NULL;
	struct vhdx *disk = NULL;
	char *path = NULL;
	NTSTATUS status = NT_STATUS_OK;

	if (own != NULL) {
		status = parent_path(frame, part, own, &path);
	} else {
		status = rsvd_image_alone(frame, open, part->path, false,
					  &store, &disk);
	}
	if (NT_STATUS_IS_OK(status) && own == NULL) {
		part->bytes = bytes_of(store);
		status = parent_path(frame, part, disk, &path);
		talloc_free(disk);
		talloc_free(store);
	}
	if (NT_STATUS_IS_OK(status) && path != NULL) {
		part->parent = part_add(parts, path);
		if (part->parent == NULL) {
			status = NT_STATUS_NO_MEMORY;
		} else {
			part->parent->children++;
			part->parent->child = part;
		}
	}
	TALLOC_FREE(frame);
	return status;
}

static NTSTATUS name_add(struct rsvd_parts *parts, struct rsvd_open *open,
			 const char *name, bool is_leaf)
{
	char *path = rsvd_file_beside(parts, open, name);
	struct rsvd_part *part = path != NULL ? part_add(parts, path) : NULL;

	if (part == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	part->named = true;
	part->is_leaf = part->is_leaf || is_leaf;
	return NT_STATUS_OK;
}

static NTSTATUS names_add(struct rsvd_parts *parts, struct rsvd_set *set)
{
	const struct vhdset_snapshot *list = NULL;
	struct vhdset_info info = {};
	size_t count = 0;
	size_t i = 0;
	NTSTATUS status = rsvd_status_of(vhdset_snapshot_list(set->set, &list,
							      &count));

	vhdset_info_get(set->set, &info);
	if (NT_STATUS_IS_OK(status)) {
		status = name_add(parts, set->open, info.leaf, true);
	}
	for (i = 0; i < count && NT_STATUS_IS_OK(status); i++) {
		if (list[i].file[0] != '\0') {
			status = name_add(parts, set->open, list[i].file,
					  false);
		}
	}
	return status;
}

static NTSTATUS notes_join(struct rsvd_parts *parts, struct rsvd_open *open,
			   char *const *notes)
{
	for (; *notes != NULL; notes++) {
		char *path = rsvd_file_beside(parts, open, *notes);
		struct rsvd_part *part = NULL;

		if (path == NULL) {
			return NT_STATUS_NO_MEMORY;
		}
		part = rsvd_parts_find(parts, path);
		if (part != NULL) {
			part->given_up = !part->named;
		}
		talloc_free(path);
	}
	return NT_STATUS_OK;
}

static NTSTATUS parts_fill(struct rsvd_parts *parts, struct rsvd_set *set,
			   char *const *notes)
{
	NTSTATUS status = names_add(parts, set);
	size_t i = 0;

	for (i = 0; i < parts->count && NT_STATUS_IS_OK(status); i++) {
		status = part_look(parts, set->open, parts->list[i]);
	}
	return NT_STATUS_IS_OK(status) ? notes_join(parts, set->open, notes)
				       : status;
}

static NTSTATUS parts_look(TALLOC_CTX *mem_ctx, struct rsvd_set *set,
			   char *const *notes, struct rsvd_parts **_parts)
{
	struct rsvd_parts *parts = talloc_zero(mem_ctx, struct rsvd_parts);
	NTSTATUS status = NT_STATUS_NO_MEMORY;

	if (parts == NULL) {
		return status;
	}
	parts->list = talloc_zero_array(parts, struct rsvd_part *, PARTS_MAX);
	if (parts->list != NULL) {
		status = parts_fill(parts, set, notes);
	}
	if (!NT_STATUS_IS_OK(status)) {
		talloc_free(parts);
		return status;
	}
	*_parts = parts;
	return status;
}

NTSTATUS rsvd_parts_look(TALLOC_CTX *mem_ctx, struct rsvd_set *set,
			 struct rsvd_parts **_parts)
{
	char **notes = NULL;
	NTSTATUS status = notes_read(mem_ctx, set->open, &notes);

	if (NT_STATUS_IS_OK(status)) {
		status = parts_look(mem_ctx, set, notes, _parts);
		talloc_free(notes);
	}
	return status;
}

bool rsvd_part_merges(const struct rsvd_part *part)
{
	return part != NULL && part->given_up && part->children == 1 &&
		!part->child->is_leaf;
}

/* ---- the end of those that nothing needs ------------------------------------------- */

static bool is_built(const char *name)
{
	size_t length = strlen(name);
	size_t end = strlen(VHDSET_BUILD_SUFFIX);

	return length > end &&
		strcmp(name + length - end, VHDSET_BUILD_SUFFIX) == 0;
}

/* Whether somebody is making it just now. */
static bool is_made(struct rsvd_open *open, const char *path)
{
	struct store *store = NULL;
	NTSTATUS status = rsvd_file_open(talloc_tos(), open, path,
					 RSVD_FILE_ALONE, &store);

	TALLOC_FREE(store);
	return NT_STATUS_EQUAL(status, NT_STATUS_SHARING_VIOLATION);
}

/* False where its name stays noted. */
static bool tidy_one(struct rsvd_set *set, const struct rsvd_parts *parts,
		     const char *name)
{
	char *path = rsvd_file_beside(talloc_tos(), set->open, name);
	const struct rsvd_part *part = NULL;
	NTSTATUS status = NT_STATUS_OK;
	bool gone = false;

	if (path == NULL) {
		return false;
	}
	part = rsvd_parts_find(parts, path);
	if (part != NULL) {
		gone = part->named;
	} else if (!is_built(name) || !is_made(set->open, path)) {
		status = rsvd_file_remove(set->open, path);
		gone = NT_STATUS_IS_OK(status) ||
			NT_STATUS_EQUAL(status,
					NT_STATUS_OBJECT_NAME_NOT_FOUND);
	}
	if (gone && part == NULL && NT_STATUS_IS_OK(status)) {
		DBG_NOTICE("hvrs: shared disk %s: %s is needed no more: "
			   "removed\n", set->open->path, name);
	}
	TALLOC_FREE(path);
	return gone;
}

NTSTATUS rsvd_set_tidy(struct rsvd_set *set)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct rsvd_parts *parts = NULL;
	char **notes = NULL;
	size_t kept = 0;
	size_t i = 0;
	NTSTATUS status = notes_read(frame, set->open, &notes);

	if (!NT_STATUS_IS_OK(status) || notes[0] == NULL) {
		TALLOC_FREE(frame);
		return status;
	}
	status = parts_look(frame, set, notes, &parts);
	if (!NT_STATUS_IS_OK(status)) {
		/* Not known: nothing may be thrown away. */
		TALLOC_FREE(frame);
		return NT_STATUS_OK;
	}
	for (i = 0; notes[i] != NULL; i++) {
		if (!tidy_one(set, parts, notes[i])) {
			notes[kept++] = notes[i];
		}
	}
	notes[kept] = NULL;
	if (kept < i) {
		status = notes_write(set->open, notes);
	}
	TALLOC_FREE(frame);
	return status;
}
