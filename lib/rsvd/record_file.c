/* A place has a head of 24 bytes: what it is, its turn, length, checksum. */
#include "rsvd/record_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "util/crc32c.h"
#include "util/cursor.h"

#define MAGIC 0x4352534852535648ULL
#define HEAD 24U
#define PLACE ((off_t)RSVD_RECORD_FILE_MAX)
#define WAIT_STEP_US 1000

struct rsvd_record_file {
	int fd;
	uint64_t turn;		/* of the place that counts; it is odd or even */
};

static int file_destructor(struct rsvd_record_file *file)
{
	close(file->fd);
	return 0;
}

static uint64_t now_ms(void)
{
	struct timespec now = {};

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int lock(int fd, unsigned wait_ms)
{
	uint64_t end = now_ms() + wait_ms;
	struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int ret = fcntl(fd, F_OFD_SETLK, &all);

	while (ret != 0 && (errno == EAGAIN || errno == EACCES ||
			    errno == EINTR)) {
		if (now_ms() >= end) {
			return -ETIMEDOUT;
		}
		usleep(WAIT_STEP_US);
		ret = fcntl(fd, F_OFD_SETLK, &all);
	}
	return ret == 0 ? 0 : -errno;
}

/* -EINVAL for a place that was not wholly written, or never. */
static int place_read(TALLOC_CTX *mem_ctx, int fd, unsigned which,
		      uint64_t *_turn, uint8_t **_bytes, size_t *_length)
{
	uint8_t head[HEAD] = {};
	struct cursor c = {};
	uint8_t *bytes = NULL;
	uint64_t turn = 0;
	uint32_t length = 0;
	uint32_t sum = 0;
	ssize_t got = pread(fd, head, HEAD, which * PLACE);

	if (got < 0) {
		return -errno;
	}
	cursor_init(&c, head, (size_t)got);
	if (cursor_le64(&c) != MAGIC) {
		return -EINVAL;
	}
	turn = cursor_le64(&c);
	length = cursor_le32(&c);
	sum = cursor_le32(&c);
	if (cursor_status(&c) != 0 || length > RSVD_RECORD_FILE_MAX - HEAD ||
	    (turn & 1) != which || turn == UINT64_MAX) {
		return -EINVAL;
	}
	bytes = talloc_size(mem_ctx, HEAD + length);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	got = pread(fd, bytes, HEAD + length, which * PLACE);
	if (got < 0) {
		return -errno;
	}
	memset(bytes + 20, 0, 4);
	if (got != (ssize_t)(HEAD + length) ||
	    crc32c(bytes, HEAD + length) != sum) {
		talloc_free(bytes);
		return -EINVAL;
	}
	memmove(bytes, bytes + HEAD, length);
	*_turn = turn;
	*_bytes = bytes;
	*_length = length;
	return 0;
}

static int load(struct rsvd_record_file *file, uint8_t **_bytes,
		size_t *_length)
{
	uint64_t second = 0;
	bool found = false;
	unsigned i = 0;

	*_bytes = NULL;
	*_length = 0;
	for (i = 0; i < 2; i++) {
		uint8_t *bytes = NULL;
		size_t length = 0;
		uint64_t turn = 0;
		int ret = place_read(file, file->fd, i, &turn, &bytes,
				     &length);

		if (ret == -EINVAL) {
			continue;
		}
		if (ret != 0) {
			return ret;
		}
		if (!found || turn > file->turn) {
			TALLOC_FREE(*_bytes);
			file->turn = turn;
			*_bytes = bytes;
			*_length = length;
			found = true;
		} else {
			talloc_free(bytes);
		}
	}
	if (found && *_length == 0) {
		TALLOC_FREE(*_bytes);
	}
	if (found) {
		return 0;
	}
	/* The very first may have been cut off; nobody was told of it. */
	if (pread(file->fd, &second, sizeof(second), 0) < 0) {
		return -errno;
	}
	return second == 0 ? 0 : -EINVAL;
}

int rsvd_record_file_lock(TALLOC_CTX *mem_ctx, const char *path,
			  unsigned wait_ms, struct rsvd_record_file **_file,
			  uint8_t **_bytes, size_t *_length)
{
	struct rsvd_record_file *file = talloc_zero(
		mem_ctx, struct rsvd_record_file);
	int ret = 0;

	if (file == NULL) {
		return -ENOMEM;
	}
	file->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (file->fd < 0) {
		ret = -errno;
		talloc_free(file);
		return ret;
	}
	talloc_set_destructor(file, file_destructor);
	ret = lock(file->fd, wait_ms);
	if (ret == 0) {
		ret = load(file, _bytes, _length);
	}
	if (ret != 0) {
		talloc_free(file);
		return ret;
	}
	*_file = file;
	return 0;
}

int rsvd_record_file_store(struct rsvd_record_file *file,
			   const uint8_t *bytes, size_t length)
{
	uint64_t turn = file->turn + 1;
	struct cursor_put c = {};
	uint8_t *all = NULL;
	ssize_t put = 0;
	int ret = 0;

	if (length > RSVD_RECORD_FILE_MAX - HEAD) {
		return -EFBIG;
	}
	all = talloc_zero_size(file, HEAD + length);
	if (all == NULL) {
		return -ENOMEM;
	}
	cursor_put_init(&c, all, HEAD);
	cursor_put_le64(&c, MAGIC);
	cursor_put_le64(&c, turn);
	cursor_put_le32(&c, (uint32_t)length);
	if (length > 0) {
		memcpy(all + HEAD, bytes, length);
	}
	cursor_put_le32(&c, crc32c(all, HEAD + length));
	put = pwrite(file->fd, all, HEAD + length, (off_t)(turn & 1) * PLACE);
	if (put != (ssize_t)(HEAD + length)) {
		ret = put < 0 ? -errno : -ENOSPC;
	} else if (fdatasync(file->fd) != 0) {
		ret = -errno;
	}
	if (ret == 0) {
		file->turn = turn;
	} else {
		/* It is not to be found later: nobody was told of it. */
		memset(all, 0, HEAD);
		(void)!pwrite(file->fd, all, HEAD, (off_t)(turn & 1) * PLACE);
	}
	talloc_free(all);
	return ret;
}
