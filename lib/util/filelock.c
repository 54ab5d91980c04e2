#include "util/filelock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

bool filelock_is_held(const char *path, off_t start, off_t length)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start,
		.l_len = length,
	};
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	bool held = false;

	if (fd < 0) {
		return errno != ENOENT;
	}
	held = fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
	close(fd);
	return held;
}
