/* What is seen of a share's files where its directory is on this machine. */
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

/* Places that are no addresses on disk, or not yet. */
#define NO_PLACE (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | \
		  FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_NOT_ALIGNED | \
		  FIEMAP_EXTENT_DATA_INLINE)

bool check_is_here(struct check *check)
{
	const char *path = talloc_asprintf(check->mem_ctx, "%s/%s",
					   check->local, check->folder);
	struct stat st = {};

	return path != NULL && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

struct place {
	uint64_t disk;
	uint64_t length;	/* 0: none */
};

/* Where the byte at an offset lies on disk, and how many follow it there. */
static bool place_of(int fd, uint64_t offset, struct place *_place)
{
	struct {
		struct fiemap map;
		struct fiemap_extent extents[1];
	} request = {};
	struct fiemap_extent *extent = request.extents;

	request.map.fm_start = offset;
	request.map.fm_length = FIEMAP_MAX_OFFSET - offset;
	request.map.fm_flags = FIEMAP_FLAG_SYNC;
	request.map.fm_extent_count = 1;
	*_place = (struct place) {};
	if (ioctl(fd, FS_IOC_FIEMAP, &request) != 0) {
		return false;
	}
	if (request.map.fm_mapped_extents == 1 &&
	    extent->fe_logical <= offset &&
	    (extent->fe_flags & NO_PLACE) == 0) {
		uint64_t in = offset - extent->fe_logical;

		_place->disk = extent->fe_physical + in;
		_place->length = extent->fe_length - in;
	}
	return true;
}

static bool count_shared(int a, int b, uint64_t length, uint64_t *_shared)
{
	uint64_t at = 0;

	*_shared = 0;
	while (at < length) {
		struct place first = {};
		struct place second = {};
		uint64_t part = 0;

		if (!place_of(a, at, &first) || !place_of(b, at, &second)) {
			return false;
		}
		part = first.length < second.length ? first.length
						    : second.length;
		if (part == 0 || first.disk != second.disk) {
			at += 4096;
			continue;
		}
		part = part < length - at ? part : length - at;
		*_shared += part;
		at += part;
	}
	return true;
}

bool check_shared(struct check *check, const char *from, const char *to,
		  uint64_t length, uint64_t *_shared)
{
	const char *names[] = { from, to };
	int fds[2] = { -1, -1 };
	bool good = true;
	size_t i = 0;

	for (i = 0; i < 2; i++) {
		char *path = talloc_asprintf(check->mem_ctx, "%s/%s/%s",
					     check->local, check->folder,
					     names[i]);

		fds[i] = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
		good = good && fds[i] != -1;
	}
	good = good && count_shared(fds[0], fds[1], length, _shared);
	for (i = 0; i < 2; i++) {
		if (fds[i] != -1) {
			close(fds[i]);
		}
	}
	return good;
}

bool check_can_share(struct check *check, const char *from)
{
	char *path = talloc_asprintf(check->mem_ctx, "%s/%s/%s", check->local,
				     check->folder, from);
	char *folder = talloc_asprintf(check->mem_ctx, "%s/%s", check->local,
				       check->folder);
	int source = -1;
	int target = -1;
	bool can = false;

	if (path != NULL && folder != NULL) {
		source = open(path, O_RDONLY | O_CLOEXEC);
		target = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	}
	can = source != -1 && target != -1 &&
		ioctl(target, FICLONE, source) == 0;
	if (source != -1) {
		close(source);
	}
	if (target != -1) {
		close(target);
	}
	return can;
}
