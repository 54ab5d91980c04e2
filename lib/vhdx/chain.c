/*
 * Chains: the leaf for reading and writing, its parents for reading, each
 * found through the locator of the one before.  Built from the leaf upward
 * with every file opened alone to learn its locator, then joined from the base
 * downward, each link checked.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct link {
	struct store *store;
	const char *path;
	struct store_identity id;
};

struct chain {
	TALLOC_CTX *mem_ctx;
	const struct vhdx_chain_ops *ops;
	void *private_data;
	struct link links[VHDX_CHAIN_MAX];
	unsigned count;
};

/* [MS-VHDX] 2.6.2.6.3: the order in which a parent is looked for */
static const char * const path_keys[] = {
	"relative_path", "volume_path", "absolute_win32_path",
};

static int chain_add(struct chain *c, struct store *store, const char *path)
{
	struct store_identity id = {};
	unsigned i = 0;
	int ret = store_identity(store, &id);

	if (ret != 0) {
		return ret;
	}
	for (i = 0; i < c->count; i++) {
		if (c->links[i].id.volume == id.volume &&
		    c->links[i].id.file == id.file) {
			return -ELOOP;
		}
	}
	if (c->count == VHDX_CHAIN_MAX) {
		return -ELOOP;
	}
	c->links[c->count].store = store;
	c->links[c->count].path = path;
	c->links[c->count].id = id;
	c->count++;
	return 0;
}

/* Finds the parent of child, by the first of its paths that leads to a file. */
static int find_parent(struct chain *c, const struct vhdx *child,
		       const char *child_path, struct store **_store,
		       const char **_path)
{
	unsigned i = 0;

	for (i = 0; i < sizeof(path_keys) / sizeof(path_keys[0]); i++) {
		const char *value = vhdx_locator_value(child->pairs,
						       child->pair_count,
						       path_keys[i]);
		int ret = -ENOENT;

		if (value == NULL) {
			continue;
		}
		ret = c->ops->find(c->mem_ctx, c->private_data, child_path,
				   path_keys[i], value, _store, _path);
		if (ret != -ENOENT) {
			return ret;
		}
	}
	return -ENOENT;
}

/* Walks up to the base, so that every store and path is known. */
static int chain_walk(struct chain *c, const char **why)
{
	struct vhdx_open alone = { .without_parent = true };
	int ret = 0;

	for (;;) {
		struct link *last = &c->links[c->count - 1];
		struct vhdx *disk = NULL;
		struct store *store = NULL;
		const char *path = NULL;

		ret = vhdx_open(c->mem_ctx, last->store, &alone, &disk, why);
		if (ret != 0 || !disk->geometry.has_parent) {
			talloc_free(disk);
			return ret;
		}
		ret = find_parent(c, disk, last->path, &store, &path);
		talloc_free(disk);
		if (ret == 0) {
			ret = chain_add(c, store, path);
		}
		if (ret != 0) {
			return ret;
		}
	}
}

int vhdx_chain_open(TALLOC_CTX *mem_ctx, const struct vhdx_chain_ops *ops,
		    void *private_data, struct store *store, const char *path,
		    const struct vhdx_open *how, struct vhdx **_disk,
		    const char **_why)
{
	struct vhdx *disk = NULL;
	struct chain *c = NULL;
	const char *why = NULL;
	unsigned i = 0;
	int ret = 0;

	if (_why == NULL) {
		_why = &why;
	}
	*_why = NULL;
	if (how->parent != NULL || how->without_parent) {
		return -EINVAL;
	}
	c = talloc_zero(mem_ctx, struct chain);
	if (c == NULL) {
		return -ENOMEM;
	}
	/* Stores found on the way live as long as the disk. */
	c->mem_ctx = talloc_new(c);
	c->ops = ops;
	c->private_data = private_data;
	ret = c->mem_ctx != NULL ? 0 : -ENOMEM;
	if (ret == 0) {
		ret = chain_add(c, store, path);
	}
	if (ret == 0) {
		ret = chain_walk(c, _why);
	}
	for (i = c->count; ret == 0 && i > 0; i--) {
		struct vhdx_open one = { .parent = disk };
		struct vhdx *next = NULL;

		if (i == 1) {
			one = *how;
			one.parent = disk;
		} else {
			one.cache_bytes = how->cache_bytes;
		}
		ret = vhdx_open(c, c->links[i - 1].store, &one, &next, _why);
		disk = ret == 0 ? next : disk;
	}
	if (ret == 0) {
		talloc_steal(mem_ctx, disk);
		talloc_steal(disk, c->mem_ctx);
		*_disk = disk;
	}
	talloc_free(c);
	return ret;
}

/* ---- files of this machine ------------------------------------------------ */

/* Whether path, with all links resolved, lies below root. */
static bool is_below(const char *root, const char *path)
{
	size_t length = strlen(root);

	if (strncmp(root, path, length) != 0) {
		return false;
	}
	return path[length] == '/' || (length > 0 && root[length - 1] == '/');
}

static int resolve(TALLOC_CTX *mem_ctx, const char *path, char **_real)
{
	char *found = realpath(path, NULL);

	if (found == NULL) {
		return errno == ENOTDIR ? -ENOENT : -errno;
	}
	*_real = talloc_strdup(mem_ctx, found);
	free(found);
	return *_real != NULL ? 0 : -ENOMEM;
}

static int files_find_in(TALLOC_CTX *frame, TALLOC_CTX *mem_ctx,
			 const struct vhdx_chain_files *files,
			 const char *child_path, const char *value,
			 struct store **_store, const char **_path)
{
	const char *slash = strrchr(child_path, '/');
	int folder = slash == NULL ? 1 : (int)(slash - child_path);
	char *wanted = NULL;
	char *root = NULL;
	char *real = NULL;
	char *at = NULL;
	struct stat st = {};
	int ret = 0;

	wanted = talloc_asprintf(frame, "%.*s/%s", folder,
				 slash == NULL ? "." : child_path, value);
	if (wanted == NULL) {
		return -ENOMEM;
	}
	for (at = wanted; *at != '\0'; at++) {
		if (*at == '\\') {
			*at = '/';
		}
	}
	ret = resolve(frame, files->root_path, &root);
	if (ret == 0) {
		ret = resolve(frame, wanted, &real);
	}
	if (ret != 0) {
		return ret;
	}
	if (!is_below(root, real)) {
		return -ENOENT;
	}
	/* An open of a pipe would wait for its other end. */
	if (stat(real, &st) != 0) {
		return -errno;
	}
	if (!S_ISREG(st.st_mode)) {
		return -EINVAL;
	}
	ret = file_store_open(mem_ctx, files->ev, AT_FDCWD, real, 0, _store);
	if (ret == 0) {
		*_path = talloc_steal(*_store, real);
	}
	return ret;
}

static int files_find(TALLOC_CTX *mem_ctx, void *private_data,
		      const char *child_path, const char *key,
		      const char *value, struct store **_store,
		      const char **_path)
{
	TALLOC_CTX *frame = NULL;
	int ret = 0;

	/* The others name volumes of a Windows machine. */
	if (strcmp(key, "relative_path") != 0 || value[0] == '/' ||
	    value[0] == '\\') {
		return -ENOENT;
	}
	frame = talloc_new(mem_ctx);
	if (frame == NULL) {
		return -ENOMEM;
	}
	ret = files_find_in(frame, mem_ctx, private_data, child_path, value,
			    _store, _path);
	talloc_free(frame);
	return ret;
}

const struct vhdx_chain_ops vhdx_chain_files_ops = {
	.find = files_find,
};
