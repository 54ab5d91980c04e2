/* What providers have in common, and the choice among them. */
#include "provider.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "snapset/freeze.h"

static const struct provider *const providers[] = {
	&provider_btrfs,
	&provider_clone,
	&provider_script,
};

#define COUNT (sizeof(providers) / sizeof(providers[0]))

const struct provider *provider_find(const char *name)
{
	size_t i = 0;

	for (i = 0; i < COUNT; i++) {
		if (strcmp(providers[i]->name, name) == 0) {
			return providers[i];
		}
	}
	return NULL;
}

/*
 * [MS-FSRVP] 3.1.4.9: a share whose tree holds another file system cannot be
 * snapshotted as one.
 */
static int has_mounts_below(const char *path, bool *_found)
{
	FILE *mounts = fopen("/proc/self/mounts", "re");
	size_t length = strlen(path);
	char *line = NULL;
	size_t size = 0;

	if (mounts == NULL) {
		return -errno;
	}
	*_found = false;
	while (getline(&line, &size, mounts) > 0) {
		char *at = strchr(line, ' ');
		char *end = at != NULL ? strchr(at + 1, ' ') : NULL;

		if (end == NULL) {
			continue;
		}
		*end = '\0';
		at++;
		if (strncmp(at, path, length) == 0 && at[length] == '/') {
			*_found = true;
		}
	}
	free(line);
	fclose(mounts);
	return 0;
}

const struct provider *provider_choose(TALLOC_CTX *mem_ctx,
				       const char *share_path,
				       const struct provider_config *config,
				       struct provider_store *_store,
				       const char **why)
{
	bool found = false;
	size_t i = 0;
	int ret = has_mounts_below(share_path, &found);

	if (ret != 0) {
		*why = "/proc/self/mounts cannot be read";
		return NULL;
	}
	if (found) {
		*why = "another file system is mounted below its path";
		return NULL;
	}
	for (i = 0; i < COUNT; i++) {
		if (strcmp(config->provider, "auto") != 0 &&
		    strcmp(config->provider, providers[i]->name) != 0) {
			continue;
		}
		ret = providers[i]->probe(mem_ctx, share_path, config, _store,
					  why);
		if (ret == 0) {
			return providers[i];
		}
	}
	if (strcmp(config->provider, "auto") == 0) {
		*why = "its file system has neither btrfs snapshots nor "
		       "reflinks, and no \"hvrs:snapshot script\" is named";
	}
	return NULL;
}

/* Only root may have a say in what a folder of snapshots holds. */
static int check_folder(int fd, const char **why)
{
	struct stat st = {};

	if (fstat(fd, &st) != 0) {
		return -errno;
	}
	if (st.st_uid != 0 || (st.st_mode & 022) != 0) {
		*why = "the folder " PROVIDER_FOLDER " there is not root's "
		       "alone; remove it or give it to root, mode 0755";
		return -EPERM;
	}
	return 0;
}

int provider_folder_open(const char *root, const char **why)
{
	int dir = open(root, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int fd = -1;
	int ret = 0;

	if (dir == -1) {
		return -errno;
	}
	if (mkdirat(dir, PROVIDER_FOLDER, 0755) != 0 && errno != EEXIST) {
		ret = -errno;
		close(dir);
		return ret;
	}
	fd = openat(dir, PROVIDER_FOLDER,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	ret = fd == -1 ? -errno : check_folder(fd, why);
	if (ret == 0 && fchmod(fd, 0755) != 0) {
		ret = -errno;
	}
	close(dir);
	if (ret != 0) {
		if (fd != -1) {
			close(fd);
		}
		return ret;
	}
	return fd;
}

int provider_parent_open(const char *snapshot, const char **_name,
			 const char **why)
{
	const char *last = strrchr(snapshot, '/');
	const char *folder = NULL;
	char *path = NULL;
	int dir = -1;
	int fd = -1;
	int ret = 0;

	if (last == NULL || last == snapshot || last[1] == '\0') {
		return -EINVAL;
	}
	path = strndup(snapshot, (size_t)(last - snapshot));
	if (path == NULL) {
		return -ENOMEM;
	}
	/* The root by its path, the folder of snapshots without links. */
	folder = strrchr(path, '/');
	if (folder == NULL || strcmp(folder + 1, PROVIDER_FOLDER) != 0) {
		free(path);
		return -EINVAL;
	}
	path[folder - path] = '\0';
	dir = open(path[0] == '\0' ? "/" : path,
		   O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir == -1) {
		ret = -errno;
		free(path);
		return ret;
	}
	fd = openat(dir, PROVIDER_FOLDER,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	ret = fd == -1 ? -errno : check_folder(fd, why);
	close(dir);
	free(path);
	if (ret != 0) {
		if (fd != -1) {
			close(fd);
		}
		return ret;
	}
	*_name = last + 1;
	return fd;
}

int provider_sync(const char *root)
{
	int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int ret = 0;

	if (fd == -1) {
		return -errno;
	}
	if (syncfs(fd) != 0) {
		ret = -errno;
	}
	close(fd);
	return ret;
}

static uint64_t now_ns(void)
{
	struct timespec ts = {};

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

int provider_frozen(struct provider_job *job, int root,
		    int (*take)(struct provider_job *job, void *private_data),
		    void *private_data)
{
	struct snapset_freeze *freeze = NULL;
	struct stat st = {};
	uint64_t begun = 0;
	int end = 0;
	int ret = 0;

	if (fstat(root, &st) != 0 || syncfs(root) != 0) {
		return -errno;
	}
	ret = job->config->freeze_file != NULL
		? snapset_freeze_open_apart(NULL, job->config->freeze_file,
					    &freeze)
		: snapset_freeze_open(NULL, job->config->freeze, st.st_dev,
				      &freeze);
	if (ret != 0) {
		job->why = "the write freeze cannot be opened";
		return ret;
	}
	ret = snapset_freeze_begin(freeze, (uint64_t)job->config->freeze_ms *
					   1000000);
	if (ret != 0) {
		job->why = "another snapshot of the file system is being "
			   "taken";
		talloc_free(freeze);
		return ret;
	}
	begun = now_ns();
	ret = take(job, private_data);
	end = snapset_freeze_end(freeze);
	job->stall_ns = now_ns() - begun;
	talloc_free(freeze);
	if (ret == 0 && end != 0) {
		job->why = "it took longer than writers may wait "
			   "(hvrs:snapshot freeze limit)";
		return end;
	}
	return ret;
}
