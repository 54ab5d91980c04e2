/* Disks of any format, opened with their parents. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

#define PARENTS_MAX 64

static int disk_destroy(struct disk *disk)
{
	if (disk->fd != -1) {
		close(disk->fd);
	}
	return 0;
}

/*
 * Whether another program of this machine has the file open: at all, or for
 * writing.  smbd and QEMU know nothing of our locks, but the kernel gives a
 * lease only on a file that they do not have open (fcntl(2), F_SETLEASE).  It
 * is given back at once: who opens the file later shall not have to wait.
 * Where there are no leases (devices, other people's files) nothing is known.
 */
static bool is_in_use(int fd, bool writable)
{
	if (fcntl(fd, F_SETLEASE, writable ? F_WRLCK : F_RDLCK) == 0) {
		fcntl(fd, F_SETLEASE, F_UNLCK);
		return false;
	}
	return errno == EAGAIN;
}

/*
 * Opens a file and takes it for our own: shared by those who read, alone for
 * who writes.  A descriptor, or -1 after a message.
 */
static int open_locked(struct tool *tool, const char *path, bool writable)
{
	struct stat st = {};
	int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC |
			    O_NONBLOCK);

	if (fd == -1 || fstat(fd, &st) != 0) {
		tool_fail(path, errno, "it cannot be opened", NULL);
		if (fd != -1) {
			close(fd);
		}
		return -1;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		tool_fail(path, EINVAL, "it is neither a file nor a block "
			  "device", NULL);
		close(fd);
		return -1;
	}
	/* It kept us from waiting for a pipe; io_uring takes it for more. */
	fcntl(fd, F_SETFL, 0);
	if (flock(fd, (writable ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
		tool_fail(path, errno, "another hvrs-vhd works on it", NULL);
		close(fd);
		return -1;
	}
	if ((writable || tool->no_writers) && is_in_use(fd, writable)) {
		tool_fail(path, EBUSY, writable
				? "another program has it open"
				: "another program has it open for writing",
			  "stop the virtual machine, or whatever uses it");
		close(fd);
		return -1;
	}
	return fd;
}

/* The format a file's bytes say, whatever its name is. */
static enum format find_format(int fd, const char *path)
{
	uint8_t begin[8] = {};
	uint8_t end[512] = {};
	off_t size = lseek(fd, 0, SEEK_END);
	enum format named = FORMAT_RAW;

	if (pread(fd, begin, sizeof(begin), 0) == sizeof(begin)) {
		if (memcmp(begin, "vhdxfile", 8) == 0) {
			return FORMAT_VHDX;
		}
		if (memcmp(begin, "conectix", 8) == 0) {
			return FORMAT_VHD;
		}
	}
	format_choose(NULL, path, &named);
	if (named == FORMAT_SET) {
		return FORMAT_SET;
	}
	if (size >= 512 && pread(fd, end, sizeof(end), size - 512) == 512 &&
	    memcmp(end, "conectix", 8) == 0) {
		return FORMAT_VHD;
	}
	/* Whose name says VHDX or VHD and whose bytes do not is damaged. */
	return named;
}

static char *folder_of(TALLOC_CTX *mem_ctx, const char *path)
{
	char *copy = talloc_strdup(mem_ctx, path);

	return copy != NULL ? dirname(copy) : NULL;
}

/* ---- VHD ----------------------------------------------------------------------- */

static struct vhd *open_vhd(struct tool *tool, TALLOC_CTX *mem_ctx,
			    const char *path, struct store *store,
			    bool parents, unsigned depth, const char **why)
{
	struct vhd_open how = {};
	struct vhd_info info = {};
	struct vhd *disk = NULL;
	struct vhd *parent = NULL;
	struct store *below = NULL;
	struct stat st = {};
	char *name = NULL;
	unsigned index = 0;
	int ret = vhd_open(mem_ctx, store, &how, &disk, why);

	if (ret != 0) {
		tool_fail(path, ret, "it cannot be opened", *why);
		return NULL;
	}
	vhd_info_get(disk, &info);
	if (!info.has_parent || !parents) {
		return disk;
	}
	if (depth >= PARENTS_MAX) {
		tool_fail(path, ELOOP, "its parents", NULL);
		return NULL;
	}
	for (index = 0; vhd_parent_name(mem_ctx, disk, index, &name) == 0;
	     index++) {
		char *full = talloc_asprintf(mem_ctx, "%s/%s",
					     folder_of(mem_ctx, path), name);

		/* No way out of the folder, no pipe that would be waited for. */
		if (strstr(name, "..") != NULL || lstat(full, &st) != 0 ||
		    !S_ISREG(st.st_mode) ||
		    file_store_open(mem_ctx, tool->ev, AT_FDCWD, full, 0,
				    &below) != 0) {
			continue;
		}
		parent = open_vhd(tool, mem_ctx, full, below, true, depth + 1,
				  why);
		if (parent == NULL) {
			return NULL;
		}
		if (vhd_parent_check(disk, parent) == 0) {
			how.parent = parent;
			ret = vhd_open(mem_ctx, store, &how, &disk, why);
			if (ret != 0) {
				tool_fail(path, ret, "it cannot be opened",
					  *why);
				return NULL;
			}
			return disk;
		}
	}
	tool_fail(path, ENOENT, "its parent is not found beside it", NULL);
	return NULL;
}

/* ---- opening ------------------------------------------------------------------------ */

static int open_vhdx(struct tool *tool, struct disk *disk, bool writable,
		     bool parents, const char **why)
{
	struct vhdx_open how = { .writable = writable };
	struct vhdx_chain_files files = { .ev = tool->ev };
	struct vhdx_info info = {};
	char *root = NULL;
	char real[PATH_MAX] = "";
	int ret = 0;

	if (!parents) {
		how.without_parent = true;
		ret = vhdx_open(disk, disk->store, &how, &disk->vhdx, why);
	} else {
		root = tool->arguments.root != NULL
			? talloc_strdup(disk, tool->arguments.root)
			: folder_of(disk, disk->file);
		if (root == NULL || realpath(root, real) == NULL) {
			return -errno;
		}
		files.root_path = talloc_strdup(disk, real);
		ret = vhdx_chain_open(
			disk, &vhdx_chain_files_ops, &files, disk->store,
			realpath(disk->file, real) != NULL
				? talloc_strdup(disk, real) : disk->file,
			&how, &disk->vhdx, why);
	}
	if (ret == 0) {
		vhdx_info_get(disk->vhdx, &info);
		disk->size = info.size;
	}
	return ret;
}

/* The leaf a set names, beside it. */
static int find_leaf(struct tool *tool, struct disk *disk, bool writable)
{
	struct vhdset_info info = {};

	disk->set = set_open(tool, disk, disk->path, false);
	if (disk->set == NULL) {
		return -1;
	}
	vhdset_info_get(disk->set, &info);
	disk->file = talloc_asprintf(disk, "%s/%s",
				     folder_of(disk, disk->path), info.leaf);
	close(disk->fd);
	disk->fd = open_locked(tool, disk->file, writable);
	return disk->fd == -1 ? -1 : 0;
}

static struct disk *open_any(struct tool *tool, const char *path,
			     bool writable, bool parents)
{
	struct disk *disk = talloc_zero(tool->mem_ctx, struct disk);
	const char *why = NULL;
	int fd = -1;
	int ret = 0;

	if (disk == NULL) {
		return NULL;
	}
	disk->path = path;
	disk->file = path;
	disk->fd = open_locked(tool, path, writable);
	talloc_set_destructor(disk, disk_destroy);
	if (disk->fd == -1) {
		goto fail;
	}
	disk->format = find_format(disk->fd, path);
	if (disk->format == FORMAT_SET &&
	    find_leaf(tool, disk, writable) != 0) {
		goto fail;
	}
	fd = dup(disk->fd);
	ret = fd == -1 ? -errno
		       : file_store_from_fd(disk, tool->ev, fd,
					    writable ? FILE_STORE_WRITE : 0,
					    &disk->store);
	if (ret != 0) {
		tool_fail(path, ret, "it cannot be opened", NULL);
		goto fail;
	}
	switch (disk->format) {
	case FORMAT_RAW:
		ret = store_size(disk->store, &disk->size);
		break;
	case FORMAT_VHD:
		disk->vhd = open_vhd(tool, disk, path, disk->store, parents,
				     0, &why);
		if (disk->vhd == NULL) {
			goto fail;
		} else {
			struct vhd_info info = {};

			vhd_info_get(disk->vhd, &info);
			disk->size = info.size;
		}
		break;
	case FORMAT_VHDX:
	case FORMAT_SET:
		ret = open_vhdx(tool, disk, writable, parents, &why);
		break;
	}
	if (ret == -ENOENT && why == NULL) {
		why = "a parent of it is not where it says; put it there, or "
		      "name with --root a folder that holds both";
	} else if (ret == -ESTALE && why == NULL) {
		why = "a parent was changed after its child was made";
	}
	if (ret != 0) {
		tool_fail(disk->file, ret, "it cannot be opened", why);
		goto fail;
	}
	return disk;
fail:
	talloc_free(disk);
	return NULL;
}

struct disk *disk_open(struct tool *tool, const char *path, bool writable)
{
	return open_any(tool, path, writable, true);
}

struct disk *disk_open_alone(struct tool *tool, const char *path,
			     bool writable)
{
	return open_any(tool, path, writable, false);
}

int disk_close(struct tool *tool, struct disk *disk)
{
	int ret = 0;

	if (disk->vhdx != NULL) {
		vhdx_settle(disk->vhdx, tool->ev);
		ret = vhdx_close(disk->vhdx);
	}
	if (ret != 0) {
		tool_fail(disk->file, ret, "it cannot be closed", NULL);
	}
	talloc_free(disk);
	return ret == 0 ? TOOL_OK : TOOL_FAILED;
}

/* ---- use ---------------------------------------------------------------------------- */

int disk_read(struct tool *tool, struct disk *disk, void *buffer,
	      uint64_t offset, size_t length)
{
	if (disk->vhdx != NULL) {
		return vhdx_read(disk->vhdx, tool->ev, buffer, offset,
				 length);
	}
	if (disk->vhd != NULL) {
		return vhd_read(disk->vhd, buffer, offset, length);
	}
	return store_read(disk->store, buffer, length, offset);
}

static int map_raw(struct disk *disk, uint64_t offset, uint64_t length,
		   struct extent *_extent)
{
	off_t data = lseek(disk->fd, (off_t)offset, SEEK_DATA);
	off_t hole = 0;

	_extent->data = true;
	_extent->length = length;
	_extent->file_offset = offset;
	if (data == -1) {
		_extent->data = errno != ENXIO;
		return 0;
	}
	if (data > (off_t)offset) {
		_extent->data = false;
		if ((uint64_t)data - offset < length) {
			_extent->length = (uint64_t)data - offset;
		}
		return 0;
	}
	hole = lseek(disk->fd, (off_t)offset, SEEK_HOLE);
	if (hole > (off_t)offset && (uint64_t)hole - offset < length) {
		_extent->length = (uint64_t)hole - offset;
	}
	return 0;
}

int disk_map(struct disk *disk, uint64_t offset, uint64_t length,
	     struct extent *_extent)
{
	struct vhdx_extent vhdx = {};
	struct vhd_extent vhd = {};
	int ret = 0;

	*_extent = (struct extent) { .offset = offset };
	if (disk->vhdx != NULL) {
		ret = vhdx_map(disk->vhdx, offset, length, &vhdx);
		_extent->data = vhdx.kind == VHDX_EXTENT_DATA;
		_extent->length = vhdx.length;
		_extent->file_offset = vhdx.file_offset;
		_extent->depth = vhdx.depth;
		return ret;
	}
	if (disk->vhd != NULL) {
		ret = vhd_map(disk->vhd, offset, length, &vhd);
		_extent->data = vhd.kind != VHD_EXTENT_ZERO;
		_extent->length = vhd.length;
		_extent->file_offset = vhd.file_offset;
		_extent->depth = vhd.depth;
		return ret;
	}
	return map_raw(disk, offset, length, _extent);
}

struct vhdset *set_open(struct tool *tool, TALLOC_CTX *mem_ctx,
			const char *path, bool writable)
{
	struct vhdset_open how = { .writable = writable };
	struct store *store = NULL;
	struct vhdset *set = NULL;
	const char *why = NULL;
	char *catalogue = talloc_asprintf(mem_ctx, "%s%s", path,
					  VHDSET_CATALOGUE_SUFFIX);
	unsigned flags = writable ? FILE_STORE_WRITE : 0;
	int ret = file_store_open(mem_ctx, tool->ev, AT_FDCWD, path, flags,
				  &store);

	if (ret == 0) {
		ret = file_store_open(mem_ctx, tool->ev, AT_FDCWD, catalogue,
				      flags, &how.catalogue);
		if (ret == -ENOENT && writable) {
			ret = file_store_open(mem_ctx, tool->ev, AT_FDCWD,
					      catalogue, FILE_STORE_CREATE,
					      &how.catalogue);
		}
		if (ret == -ENOENT) {
			ret = 0;
		}
	}
	if (ret == 0) {
		ret = vhdset_open(mem_ctx, store, &how, &set, &why);
	}
	if (ret != 0) {
		tool_fail(path, ret, "the set cannot be opened", why);
		return NULL;
	}
	return set;
}
