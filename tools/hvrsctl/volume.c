/* What a share's file system can do, tried on unnamed files. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hvrsctl.h"

int hvrsctl_volume(const char *path, struct hvrsctl_volume *_volume)
{
	struct hvrsctl_volume volume = {};
	struct file_clone_range clone = { .src_length = 4096 };
	int source = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int target = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int ret = 0;

	if (source == -1 || target == -1 || ftruncate(source, 8192) != 0 ||
	    ftruncate(target, 8192) != 0) {
		ret = -errno;
	} else {
		volume.punch = fallocate(source, FALLOC_FL_PUNCH_HOLE |
					 FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
		clone.src_fd = source;
		volume.clone = ioctl(target, FICLONERANGE, &clone) == 0;
	}
	if (source != -1) {
		close(source);
	}
	if (target != -1) {
		close(target);
	}
	*_volume = volume;
	return ret;
}
