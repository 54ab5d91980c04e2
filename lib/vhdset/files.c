/*
 * The end of a set: which files beside it go with it.  What another disk of
 * the folder is made on stays, so this looks into all of them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store.h"
#include "vhdset/vhdset_priv.h"
#include "vhdx/vhdx.h"

#define LOOKS_MAX 10

/* Beside the set, by its name; the notes last, as they tell of the rest. */
static const char *const suffixes[] = {
	VHDSET_CATALOGUE_SUFFIX, VHDSET_CHANGES_SUFFIX,
	VHDSET_NOTES_SUFFIX VHDSET_NEW_SUFFIX, VHDSET_NOTES_SUFFIX,
};

struct part {
	char *name;
	bool stays;
	bool looked;		/* its parents stay as well */
};

struct files {
	int folder;
	const char *name;	/* of the set */
	bool is_there;		/* the set's own file */
	bool goes;		/* says a note */
	struct part *parts;
	size_t count;
};

/* A file of the folder for reading, and no link; -ENOENT for anything else. */
static int plain_open(TALLOC_CTX *mem_ctx, int folder, const char *name,
		      struct store **_store)
{
	struct stat st = {};
	int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK |
			O_CLOEXEC);
	int ret = 0;

	if (fd < 0) {
		return errno == ELOOP || errno == ENXIO ? -ENOENT : -errno;
	}
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return -ENOENT;
	}
	ret = file_store_from_fd(mem_ctx, NULL, fd, FILE_STORE_PLAIN, _store);
	if (ret != 0) {
		close(fd);
	}
	return ret;
}

/* ---- its own ------------------------------------------------------------------- */

static struct part *part_find(const struct files *f, const char *name)
{
	size_t i = 0;

	for (i = 0; i < f->count; i++) {
		if (strcasecmp(f->parts[i].name, name) == 0) {
			return &f->parts[i];
		}
	}
	return NULL;
}

static int part_add(struct files *f, const char *name)
{
	if (part_find(f, name) != NULL) {
		return 0;
	}
	f->parts = talloc_realloc(f, f->parts, struct part, f->count + 1);
	if (f->parts == NULL) {
		return -ENOMEM;
	}
	f->parts[f->count] = (struct part) { .name = talloc_strdup(f, name) };
	return f->parts[f->count++].name != NULL ? 0 : -ENOMEM;
}

/* A name that the set does not make is another's. */
static int named_add(struct files *f, const char *name)
{
	return vhdset_is_own_name(f->name, name) ? part_add(f, name) : 0;
}

static int set_names_add(struct files *f, struct store *store,
			 struct store *catalogue)
{
	const struct vhdset_open how = { .catalogue = catalogue };
	const struct vhdset_snapshot *list = NULL;
	struct vhdset_info info = {};
	struct vhdset *set = NULL;
	size_t count = 0;
	size_t i = 0;
	int ret = vhdset_open(f, store, &how, &set, NULL);

	if (ret == 0) {
		vhdset_info_get(set, &info);
		ret = named_add(f, info.leaf);
	}
	if (ret == 0) {
		ret = vhdset_snapshot_list(set, &list, &count);
	}
	for (i = 0; i < count && ret == 0; i++) {
		ret = named_add(f, list[i].file);
	}
	talloc_free(set);
	return ret;
}

/* What the set names; nothing where it is gone. */
static int set_add(struct files *f)
{
	struct store *store = NULL;
	struct store *catalogue = NULL;
	char *path = talloc_asprintf(f, "%s%s", f->name,
				     VHDSET_CATALOGUE_SUFFIX);
	int ret = path != NULL ? plain_open(f, f->folder, f->name, &store)
			       : -ENOMEM;

	if (ret != 0) {
		return ret == -ENOENT ? 0 : ret;
	}
	f->is_there = true;
	ret = plain_open(f, f->folder, path, &catalogue);
	if (ret == 0 || ret == -ENOENT) {
		ret = set_names_add(f, store, catalogue);
	}
	talloc_free(catalogue);
	talloc_free(store);
	return ret;
}

/* A note of the set itself: all of it was to go when it was written. */
static bool is_noted(const char *text, const char *name)
{
	size_t length = strlen(name);
	const char *at = text;

	while ((at = strstr(at, name)) != NULL) {
		if ((at == text || at[-1] == '\n') && at[length] == '\n') {
			return true;
		}
		at++;
	}
	return false;
}

/* What was noted. */
static int notes_add(struct files *f)
{
	struct store *store = NULL;
	char **notes = NULL;
	char *path = talloc_asprintf(f, "%s%s", f->name, VHDSET_NOTES_SUFFIX);
	char *text = NULL;
	uint64_t size = 0;
	size_t i = 0;
	int ret = path != NULL ? plain_open(f, f->folder, path, &store)
			       : -ENOMEM;

	if (ret != 0) {
		return ret == -ENOENT ? 0 : ret;
	}
	ret = store_size(store, &size);
	if (ret == 0 && size > VHDSET_NOTES_SIZE_MAX) {
		size = VHDSET_NOTES_SIZE_MAX;
	}
	text = talloc_zero_array(f, char, size + 1);
	if (ret == 0) {
		ret = text != NULL ? store_read(store, text, size, 0)
				   : -ENOMEM;
	}
	if (ret == 0) {
		f->goes = is_noted(text, f->name);
		ret = vhdset_notes_parse(f, f->name, text, &notes);
	}
	for (i = 0; ret == 0 && notes[i] != NULL; i++) {
		ret = part_add(f, notes[i]);
	}
	talloc_free(notes);
	talloc_free(text);
	talloc_free(store);
	return ret;
}

/* ---- what others need ------------------------------------------------------------ */

/* A parent is told by its name alone, in whatever folder: rather too many. */
static void parent_stays(struct files *f, const char *path)
{
	const char *name = path + strlen(path);
	struct part *part = NULL;

	while (name > path && name[-1] != '/' && name[-1] != '\\') {
		name--;
	}
	part = part_find(f, name);
	if (part != NULL) {
		part->stays = true;
	}
}

/* One that is written to meanwhile may look torn. */
static int disk_look(struct files *f, struct store *store)
{
	const struct vhdx_open how = { .without_parent = true };
	const struct vhdx_locator_pair *pairs = NULL;
	struct vhdx *disk = NULL;
	unsigned tries = 0;
	size_t count = 0;
	size_t i = 0;
	int ret = -EBADMSG;

	while (ret == -EBADMSG && tries++ < LOOKS_MAX) {
		ret = vhdx_open(f, store, &how, &disk, NULL);
	}
	if (ret == 0 && vhdx_locator_get(disk, &pairs, &count) == 0) {
		for (i = 0; i < count; i++) {
			parent_stays(f, pairs[i].value);
		}
	}
	talloc_free(disk);
	return ret;
}

/* What is no disk has no parents; one that cannot be told may have any. */
static int parents_stay(struct files *f, const char *name)
{
	struct store *store = NULL;
	uint8_t magic[8] = {};
	int ret = plain_open(f, f->folder, name, &store);

	if (ret != 0) {
		return ret == -ENOENT ? 0 : ret;
	}
	ret = store_read(store, magic, sizeof(magic), 0);
	if (ret == 0 && memcmp(magic, "vhdxfile", sizeof(magic)) == 0) {
		ret = disk_look(f, store);
	}
	talloc_free(store);
	return ret == -ENODATA ? 0 : ret;
}

static int others_look(struct files *f)
{
	struct dirent *entry = NULL;
	int fd = openat(f->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	int ret = 0;

	if (dir == NULL) {
		ret = -errno;
		if (fd >= 0) {
			close(fd);
		}
		return ret;
	}
	errno = 0;
	while (ret == 0 && (entry = readdir(dir)) != NULL) {
		if (part_find(f, entry->d_name) == NULL) {
			ret = parents_stay(f, entry->d_name);
		}
		errno = 0;
	}
	if (ret == 0) {
		ret = -errno;
	}
	closedir(dir);
	return ret;
}

/* A file that stays keeps those that it is made on. */
static int chains_stay(struct files *f)
{
	bool again = f->count > 0;
	size_t i = 0;
	int ret = 0;

	while (again) {
		again = false;
		for (i = 0; i < f->count && ret == 0; i++) {
			struct part *part = &f->parts[i];

			if (part->stays && !part->looked) {
				part->looked = true;
				again = true;
				ret = parents_stay(f, part->name);
			}
		}
		again = again && ret == 0;
	}
	return ret;
}

/* ---- the answer -------------------------------------------------------------------- */

static int answer(struct files *f, TALLOC_CTX *mem_ctx, char ***_files,
		  size_t *_parts)
{
	char **list = talloc_zero_array(mem_ctx, char *, f->count + 1 +
					sizeof(suffixes) / sizeof(suffixes[0]));
	size_t count = 0;
	size_t i = 0;

	for (i = 0; i < f->count && list != NULL; i++) {
		if (!f->parts[i].stays) {
			list[count++] = talloc_move(list, &f->parts[i].name);
		}
	}
	*_parts = count;
	for (i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]) &&
	     list != NULL; i++) {
		list[count] = talloc_asprintf(list, "%s%s", f->name,
					      suffixes[i]);
		if (list[count++] == NULL) {
			TALLOC_FREE(list);
		}
	}
	*_files = list;
	return list != NULL ? 0 : -ENOMEM;
}

static int find(TALLOC_CTX *mem_ctx, int folder, const char *name, bool rest,
		char ***_files, size_t *_parts)
{
	struct files *f = talloc_zero(mem_ctx, struct files);
	int ret = f != NULL ? 0 : -ENOMEM;

	if (ret == 0) {
		f->folder = folder;
		f->name = name;
		ret = set_add(f);
	}
	if (ret == 0) {
		ret = notes_add(f);
	}
	if (ret == 0 && rest && f->is_there) {
		ret = -EEXIST;
	} else if (ret == 0 && (rest ? !f->goes : !f->is_there)) {
		ret = -ENOENT;
	}
	if (ret == 0 && f->count > 0) {
		ret = others_look(f);
	}
	if (ret == 0) {
		ret = chains_stay(f);
	}
	if (ret == 0) {
		ret = answer(f, mem_ctx, _files, _parts);
	}
	talloc_free(f);
	return ret;
}

int vhdset_files(TALLOC_CTX *mem_ctx, int folder, const char *name,
		 char ***_files, size_t *_parts)
{
	return find(mem_ctx, folder, name, false, _files, _parts);
}

int vhdset_files_rest(TALLOC_CTX *mem_ctx, int folder, const char *name,
		      char ***_files)
{
	size_t parts = 0;

	return find(mem_ctx, folder, name, true, _files, &parts);
}

int vhdset_files_note(int folder, const char *name, char *const *files,
		      size_t parts)
{
	char path[VHDSET_NAME_MAX + sizeof(VHDSET_NOTES_SUFFIX)] = "";
	struct stat st = {};
	size_t i = 0;
	int fd = -1;
	int ret = 0;

	if (strlen(name) >= VHDSET_NAME_MAX) {
		return -ENAMETOOLONG;
	}
	snprintf(path, sizeof(path), "%s%s", name, VHDSET_NOTES_SUFFIX);
	fd = openat(folder, path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW |
		    O_NONBLOCK | O_CLOEXEC, 0664);
	if (fd < 0) {
		return -errno;
	}
	/* By another name it would be another's file. */
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1) {
		close(fd);
		return -EBADMSG;
	}
	if (dprintf(fd, "%s\n", name) < 0) {
		ret = -errno;
	}
	for (i = 0; i < parts && ret == 0; i++) {
		if (dprintf(fd, "%s\n", files[i]) < 0) {
			ret = -errno;
		}
	}
	if (ret == 0 && (fsync(fd) != 0 || fsync(folder) != 0)) {
		ret = -errno;
	}
	close(fd);
	return ret;
}

int vhdset_files_remove(int folder, char *const *files)
{
	int ret = 0;

	for (; *files != NULL && ret == 0; files++) {
		if (unlinkat(folder, *files, 0) != 0 && errno != ENOENT) {
			ret = -errno;
		}
	}
	return ret;
}
