/*
 * Snapshots of a tree on a file system with reflinks (XFS, bcachefs, btrfs
 * below a subvolume): every file is cloned.  The tree, and an empty file for
 * each file with its owner, attributes and descriptors opened, is made first
 * and every file is cloned once; then the writers stand still
 * (lib/snapset/freeze.h) while what has changed since is cloned again, so that
 * all of them are one point in time.
 *
 * Left out: hard links between files (each becomes a file of its own),
 * sockets, pipes and devices.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "provider.h"

#define MAX_DEPTH	128
#define MAX_XATTR	65536	/* the kernel's own limit */
#define THREADS		4

struct pair {
	int from;
	int to;
	struct timespec changed;	/* when it was cloned */
	off_t size;
	bool settled;	/* any change after that would show */
	bool cloned;	/* it is not empty */
};

struct tree {
	struct provider_job *job;
	struct pair *files;
	size_t count;
	size_t room;
	char *names;		/* room for the names of xattrs */
	char *value;		/* room for the value of one */
	_Atomic size_t next;	/* file to be cloned */
	_Atomic uint64_t again;	/* files cloned while writers stand still */
	_Atomic int error;
};

/* ---- whether ---------------------------------------------------------------- */

/* Clones between two files without a name: nothing of it can stay. */
static int try_clone(const char *path)
{
	int from = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int to = -1;
	int ret = 0;

	if (from == -1) {
		return -errno;
	}
	to = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (to == -1 || pwrite(from, "hvrs", 4, 0) != 4 ||
	    ioctl(to, FICLONE, from) != 0) {
		ret = -errno;
	}
	close(from);
	if (to != -1) {
		close(to);
	}
	return ret;
}

static int clone_probe(TALLOC_CTX *mem_ctx, const char *share_path,
		       const struct provider_config *config,
		       struct provider_store *_store, const char **why)
{
	struct stat st = {};

	(void)config;
	if (stat(share_path, &st) != 0 || try_clone(share_path) != 0) {
		*why = "its file system cannot share blocks between files";
		return -EOPNOTSUPP;
	}
	_store->id = talloc_asprintf(mem_ctx, "clone:%llx:%llu",
				     (unsigned long long)st.st_dev,
				     (unsigned long long)st.st_ino);
	_store->root = talloc_strdup(mem_ctx, share_path);
	_store->path = "";
	return _store->id != NULL && _store->root != NULL ? 0 : -ENOMEM;
}

static int clone_prepare(struct provider_job *job)
{
	return provider_sync(job->root);
}

/* ---- metadata --------------------------------------------------------------- */

static int copy_xattrs(struct tree *tree, int from, int to)
{
	ssize_t length = flistxattr(from, tree->names, MAX_XATTR);
	ssize_t at = 0;

	if (length < 0) {
		return errno == EOPNOTSUPP ? 0 : -errno;
	}
	while (at < length) {
		const char *name = tree->names + at;
		ssize_t size = fgetxattr(from, name, tree->value, MAX_XATTR);

		at += (ssize_t)strlen(name) + 1;
		if (size < 0) {
			if (errno == ENODATA) {
				continue;
			}
			return -errno;
		}
		if (fsetxattr(to, name, tree->value, (size_t)size, 0) != 0) {
			return -errno;
		}
	}
	return 0;
}

/* Owner first, as a change of owner takes away what the others set. */
static int copy_metadata(struct tree *tree, int from, int to)
{
	struct stat st = {};
	int ret = 0;

	if (fstat(from, &st) != 0 || fchown(to, st.st_uid, st.st_gid) != 0 ||
	    fchmod(to, st.st_mode & 07777) != 0) {
		return -errno;
	}
	ret = copy_xattrs(tree, from, to);
	return ret;
}

static int copy_times(int from, int to)
{
	struct stat st = {};
	struct timespec times[2] = {};

	if (fstat(from, &st) != 0) {
		return -errno;
	}
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	return futimens(to, times) == 0 ? 0 : -errno;
}

/* ---- the tree ----------------------------------------------------------------- */

static int add_file(struct tree *tree, int from, int to)
{
	if (tree->count == tree->room) {
		size_t room = tree->room == 0 ? 256 : tree->room * 2;
		struct pair *files = talloc_realloc(NULL, tree->files,
						    struct pair, room);

		if (files == NULL) {
			return -ENOMEM;
		}
		tree->files = files;
		tree->room = room;
	}
	tree->files[tree->count] = (struct pair) { .from = from, .to = to };
	tree->count++;
	return 0;
}

static int file_error(struct tree *tree, int error)
{
	if (error == EMFILE || error == ENFILE) {
		tree->job->why = "the share holds more files than may be open "
				 "at once; raise the limit of open files, or "
				 "use btrfs or a snapshot script";
	}
	return -error;
}

static int make_file(struct tree *tree, int from_dir, int to_dir,
		     const char *name)
{
	int from = openat(from_dir, name,
			  O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int to = -1;
	int ret = 0;

	if (from == -1) {
		/* It went away in the meantime. */
		return errno == ENOENT || errno == ELOOP
			? 0 : file_error(tree, errno);
	}
	to = openat(to_dir, name,
		    O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to == -1) {
		ret = file_error(tree, errno);
		close(from);
		return ret;
	}
	ret = copy_metadata(tree, from, to);
	if (ret == 0) {
		ret = add_file(tree, from, to);
	}
	if (ret != 0) {
		close(from);
		close(to);
	}
	return ret;
}

static int make_link(int from_dir, int to_dir, const char *name)
{
	char target[4096] = "";
	struct stat st = {};
	ssize_t length = readlinkat(from_dir, name, target,
				    sizeof(target) - 1);

	if (length < 0) {
		return errno == ENOENT || errno == EINVAL ? 0 : -errno;
	}
	target[length] = '\0';
	if (fstatat(from_dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
		return errno == ENOENT ? 0 : -errno;
	}
	if (symlinkat(target, to_dir, name) != 0 ||
	    fchownat(to_dir, name, st.st_uid, st.st_gid,
		     AT_SYMLINK_NOFOLLOW) != 0) {
		return -errno;
	}
	return 0;
}

static int make_tree(struct tree *tree, int from, int to, int depth);

static int make_folder(struct tree *tree, int from_dir, int to_dir,
		       const char *name, int depth)
{
	int from = openat(from_dir, name,
			  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int to = -1;
	int ret = 0;

	if (from == -1) {
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP
			? 0 : file_error(tree, errno);
	}
	if (mkdirat(to_dir, name, 0700) != 0) {
		ret = -errno;
		close(from);
		return ret;
	}
	to = openat(to_dir, name,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (to == -1) {
		ret = file_error(tree, errno);
		close(from);
		return ret;
	}
	ret = make_tree(tree, from, to, depth + 1);
	close(from);
	close(to);
	return ret;
}

static int make_entry(struct tree *tree, int from, int to,
		      const struct dirent *entry, int depth)
{
	struct stat st = {};

	if (fstatat(from, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
		return errno == ENOENT ? 0 : -errno;
	}
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		return make_file(tree, from, to, entry->d_name);
	case S_IFDIR:
		return make_folder(tree, from, to, entry->d_name, depth);
	case S_IFLNK:
		return make_link(from, to, entry->d_name);
	default:
		return 0;
	}
}

static bool is_left_out(const char *name, int depth)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
	       (depth == 0 && strcmp(name, PROVIDER_FOLDER) == 0);
}

static int make_tree(struct tree *tree, int from, int to, int depth)
{
	struct dirent *entry = NULL;
	DIR *dir = NULL;
	int fd = dup(from);
	int ret = 0;

	if (depth > MAX_DEPTH) {
		close(fd);
		tree->job->why = "its folders are more than 128 deep";
		return -ELOOP;
	}
	dir = fd == -1 ? NULL : fdopendir(fd);
	if (dir == NULL) {
		ret = file_error(tree, errno);
		if (fd != -1) {
			close(fd);
		}
		return ret;
	}
	for (;;) {
		errno = 0;
		entry = readdir(dir);
		if (entry == NULL) {
			ret = -errno;
			break;
		}
		if (is_left_out(entry->d_name, depth)) {
			continue;
		}
		if (__atomic_load_n(tree->job->stop, __ATOMIC_RELAXED)) {
			ret = -ECANCELED;
			break;
		}
		ret = make_entry(tree, from, to, entry, depth);
		if (ret != 0) {
			break;
		}
	}
	closedir(dir);
	if (ret == 0) {
		ret = copy_metadata(tree, from, to);
	}
	if (ret == 0) {
		ret = copy_times(from, to);
	}
	return ret;
}

/* ---- the clones ----------------------------------------------------------------- */

/*
 * A change sets ctime to the time of the last tick, so the file is told from
 * its changed self only where its last change was before that.
 */
static bool is_as_cloned(const struct pair *file)
{
	struct stat st = {};

	return file->settled && fstat(file->from, &st) == 0 &&
		st.st_size == file->size &&
		st.st_ctim.tv_sec == file->changed.tv_sec &&
		st.st_ctim.tv_nsec == file->changed.tv_nsec;
}

static bool is_before(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec
				      : a->tv_nsec < b->tv_nsec;
}

static int clone_one(struct tree *tree, struct pair *file)
{
	struct timespec tick = {};
	struct stat st = {};

	if (is_as_cloned(file)) {
		return 0;
	}
	if (fstat(file->from, &st) != 0 ||
	    clock_gettime(CLOCK_REALTIME_COARSE, &tick) != 0 ||
	    (file->cloned && ftruncate(file->to, 0) != 0) ||
	    ioctl(file->to, FICLONE, file->from) != 0) {
		return errno;
	}
	file->cloned = true;
	file->changed = st.st_ctim;
	file->size = st.st_size;
	file->settled = is_before(&st.st_ctim, &tick);
	atomic_fetch_add(&tree->again, 1);
	return 0;
}

/* Giving up the blocks of what is cloned again takes as long as the clone. */
static int empty_changed(struct tree *tree)
{
	size_t i = 0;

	for (i = 0; i < tree->count; i++) {
		struct pair *file = &tree->files[i];

		if (is_as_cloned(file)) {
			continue;
		}
		if (ftruncate(file->to, 0) != 0) {
			return -errno;
		}
		file->cloned = false;
		file->settled = false;
	}
	return 0;
}

static void *clone_some(void *private_data)
{
	struct tree *tree = private_data;

	for (;;) {
		size_t i = atomic_fetch_add(&tree->next, 1);
		int error = 0;

		if (i >= tree->count || atomic_load(&tree->error) != 0) {
			return NULL;
		}
		error = clone_one(tree, &tree->files[i]);
		if (error != 0) {
			atomic_store(&tree->error, error);
		}
	}
}

static int clone_all(struct tree *tree)
{
	pthread_t threads[THREADS];
	size_t started = 0;
	size_t i = 0;

	atomic_store(&tree->next, 0);
	atomic_store(&tree->again, 0);
	while (started < THREADS - 1 && started + 1 < tree->count) {
		if (pthread_create(&threads[started], NULL, clone_some,
				   tree) != 0) {
			break;
		}
		started++;
	}
	clone_some(tree);
	for (i = 0; i < started; i++) {
		pthread_join(threads[i], NULL);
	}
	return -atomic_load(&tree->error);
}

static int clone_all_frozen(struct provider_job *job, void *private_data)
{
	struct tree *tree = private_data;
	int ret = clone_all(tree);

	job->files = atomic_load(&tree->again);
	return ret;
}

static void raise_file_limit(void)
{
	struct rlimit limit = {};

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
	    limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int finish_files(struct tree *tree, int ret)
{
	size_t i = 0;

	for (i = 0; i < tree->count; i++) {
		int error = copy_times(tree->files[i].from,
				       tree->files[i].to);

		if (ret == 0) {
			ret = error;
		}
		close(tree->files[i].from);
		close(tree->files[i].to);
	}
	return ret;
}

static int clone_create(struct provider_job *job)
{
	struct tree tree = { .job = job };
	const char *name = strrchr(job->snapshot, '/') + 1;
	int folder = provider_folder_open(job->root, &job->why);
	int from = -1;
	int to = -1;
	int ret = 0;

	if (folder < 0) {
		return folder;
	}
	raise_file_limit();
	tree.names = malloc(MAX_XATTR);
	tree.value = malloc(MAX_XATTR);
	from = open(job->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (tree.names == NULL || tree.value == NULL) {
		ret = -ENOMEM;
	} else if (from == -1 || mkdirat(folder, name, 0700) != 0) {
		ret = -errno;
	} else {
		to = openat(folder, name,
			    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		ret = to == -1 ? -errno : make_tree(&tree, from, to, 0);
	}
	if (ret == 0) {
		ret = clone_all(&tree);
	}
	if (ret == 0) {
		ret = empty_changed(&tree);
	}
	if (ret == 0) {
		ret = provider_frozen(job, from, clone_all_frozen, &tree);
	}
	ret = finish_files(&tree, ret);
	if (ret == 0 && syncfs(to) != 0) {
		ret = -errno;
	}
	talloc_free(tree.files);
	free(tree.names);
	free(tree.value);
	if (from != -1) {
		close(from);
	}
	if (to != -1) {
		close(to);
	}
	close(folder);
	return ret;
}

/*
 * The tree is sealed by its share, which becomes read-only: no file system
 * makes a folder read-only for good.
 */
static int clone_seal(const struct provider_config *config,
		      const char *snapshot, const char **why)
{
	(void)config;
	(void)snapshot;
	(void)why;
	return 0;
}

/* ---- removal ---------------------------------------------------------------------- */

static int remove_entry(int dir, const char *name, int depth)
{
	struct dirent *entry = NULL;
	DIR *below = NULL;
	int fd = -1;
	int ret = 0;

	if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) {
		return 0;
	}
	if (errno != EISDIR && errno != EPERM) {
		return -errno;
	}
	if (depth > MAX_DEPTH + 2) {
		return -ELOOP;
	}
	fd = openat(dir, name,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	below = fd == -1 ? NULL : fdopendir(fd);
	if (below == NULL) {
		ret = -errno;
		if (fd != -1) {
			close(fd);
		}
		return ret;
	}
	while (ret == 0 && (entry = readdir(below)) != NULL) {
		if (strcmp(entry->d_name, ".") != 0 &&
		    strcmp(entry->d_name, "..") != 0) {
			ret = remove_entry(fd, entry->d_name, depth + 1);
		}
	}
	closedir(below);
	if (ret == 0 && unlinkat(dir, name, AT_REMOVEDIR) != 0 &&
	    errno != ENOENT) {
		ret = -errno;
	}
	return ret;
}

static int clone_destroy(const struct provider_config *config,
			 const char *snapshot, const char **why)
{
	const char *name = NULL;
	int folder = provider_parent_open(snapshot, &name, why);
	int ret = 0;

	(void)config;
	if (folder < 0) {
		return folder == -ENOENT ? 0 : folder;
	}
	ret = remove_entry(folder, name, 0);
	if (ret == 0 && syncfs(folder) != 0) {
		ret = -errno;
	}
	close(folder);
	return ret;
}

const struct provider provider_clone = {
	.name = "clone",
	.probe = clone_probe,
	.prepare = clone_prepare,
	.create = clone_create,
	.seal = clone_seal,
	.destroy = clone_destroy,
};
