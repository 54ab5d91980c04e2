/*
 * Snapshots of btrfs subvolumes.  They are atomic for what was written to
 * disk alone: of writes still in the page cache some are in and some are not,
 * so the writers stand still for the moment as well.  The snapshot lies in the folder of snapshots of its subvolume, where it is a
 * subvolume of its own and so no part of the next one.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "provider.h"

/* A subvolume's root has this inode number. */
#define ROOT_INODE 256

static bool is_btrfs(int fd)
{
	struct statfs fs = {};

	return fstatfs(fd, &fs) == 0 && fs.f_type == BTRFS_SUPER_MAGIC;
}

/* Goes up from a folder to the root of its subvolume. */
static int find_root(TALLOC_CTX *mem_ctx, const char *share_path,
		     struct provider_store *store)
{
	char *path = talloc_strdup(mem_ctx, share_path);
	struct btrfs_ioctl_get_subvol_info_args info = {};
	struct stat st = {};
	int fd = -1;
	int ret = 0;

	while (path != NULL) {
		char *slash = NULL;

		fd = open(path[0] == '\0' ? "/" : path,
			  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd == -1) {
			return -errno;
		}
		if (!is_btrfs(fd) || fstat(fd, &st) != 0) {
			close(fd);
			return -EOPNOTSUPP;
		}
		if (st.st_ino == ROOT_INODE) {
			break;
		}
		close(fd);
		slash = strrchr(path, '/');
		if (slash == NULL || path[0] == '\0') {
			return -EOPNOTSUPP;
		}
		*slash = '\0';
	}
	if (path == NULL) {
		return -ENOMEM;
	}
	if (ioctl(fd, BTRFS_IOC_GET_SUBVOL_INFO, &info) < 0) {
		ret = -errno;
		close(fd);
		return ret;
	}
	close(fd);
	store->root = path[0] == '\0' ? "/" : path;
	store->path = talloc_strdup(mem_ctx, share_path + strlen(path));
	store->id = talloc_asprintf(
		mem_ctx, "btrfs:%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x"
		"%02x%02x%02x%02x%02x", info.uuid[0], info.uuid[1],
		info.uuid[2], info.uuid[3], info.uuid[4], info.uuid[5],
		info.uuid[6], info.uuid[7], info.uuid[8], info.uuid[9],
		info.uuid[10], info.uuid[11], info.uuid[12], info.uuid[13],
		info.uuid[14], info.uuid[15]);
	return store->path != NULL && store->id != NULL ? 0 : -ENOMEM;
}

static int btrfs_probe(TALLOC_CTX *mem_ctx, const char *share_path,
		       const struct provider_config *config,
		       struct provider_store *_store, const char **why)
{
	int ret = find_root(mem_ctx, share_path, _store);

	(void)config;
	if (ret != 0) {
		*why = "its path is on no btrfs subvolume";
	}
	return ret;
}

static int btrfs_prepare(struct provider_job *job)
{
	return provider_sync(job->root);
}

struct snapshot {
	struct btrfs_ioctl_vol_args_v2 args;
	int folder;
};

static int take(struct provider_job *job, void *private_data)
{
	struct snapshot *snapshot = private_data;

	(void)job;
	return ioctl(snapshot->folder, BTRFS_IOC_SNAP_CREATE_V2,
		     &snapshot->args) < 0 ? -errno : 0;
}

static int btrfs_create(struct provider_job *job)
{
	struct snapshot snapshot = {};
	int root = -1;
	int ret = 0;

	snapshot.folder = provider_folder_open(job->root, &job->why);
	if (snapshot.folder < 0) {
		return snapshot.folder;
	}
	root = open(job->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root == -1) {
		ret = -errno;
		close(snapshot.folder);
		return ret;
	}
	snapshot.args.fd = root;
	snapshot.args.flags = job->writable ? 0 : BTRFS_SUBVOL_RDONLY;
	snprintf(snapshot.args.name, sizeof(snapshot.args.name), "%s",
		 strrchr(job->snapshot, '/') + 1);
	ret = provider_frozen(job, root, take, &snapshot);
	if (ret == 0 && syncfs(snapshot.folder) != 0) {
		ret = -errno;
	}
	close(root);
	close(snapshot.folder);
	return ret;
}

static int btrfs_seal(const struct provider_config *config,
		      const char *snapshot, const char **why)
{
	const char *name = NULL;
	uint64_t flags = 0;
	int folder = provider_parent_open(snapshot, &name, why);
	int fd = -1;
	int ret = 0;

	(void)config;
	if (folder < 0) {
		return folder;
	}
	fd = openat(folder, name,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd == -1 || ioctl(fd, BTRFS_IOC_SUBVOL_GETFLAGS, &flags) < 0) {
		ret = -errno;
		goto done;
	}
	flags |= BTRFS_SUBVOL_RDONLY;
	if (ioctl(fd, BTRFS_IOC_SUBVOL_SETFLAGS, &flags) < 0 ||
	    syncfs(fd) != 0) {
		ret = -errno;
	}
done:
	if (fd != -1) {
		close(fd);
	}
	close(folder);
	return ret;
}

static int btrfs_destroy(const struct provider_config *config,
			 const char *snapshot, const char **why)
{
	struct btrfs_ioctl_vol_args args = {};
	const char *name = NULL;
	int folder = provider_parent_open(snapshot, &name, why);
	int ret = 0;

	(void)config;
	if (folder < 0) {
		return folder == -ENOENT ? 0 : folder;
	}
	snprintf(args.name, sizeof(args.name), "%s", name);
	if (ioctl(folder, BTRFS_IOC_SNAP_DESTROY, &args) < 0 &&
	    errno != ENOENT) {
		ret = -errno;
	} else if (syncfs(folder) != 0) {
		ret = -errno;
	}
	close(folder);
	return ret;
}

const struct provider provider_btrfs = {
	.name = "btrfs",
	.probe = btrfs_probe,
	.prepare = btrfs_prepare,
	.create = btrfs_create,
	.seal = btrfs_seal,
	.destroy = btrfs_destroy,
};
