/* Any bytes in the place of a record: read, and stored over. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rsvd/record_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(const char *path, const uint8_t *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	/* Half of it in each place. */
	if (fd < 0 || pwrite(fd, data, size / 2, 0) != (ssize_t)(size / 2) ||
	    pwrite(fd, data + size / 2, size - size / 2,
		   RSVD_RECORD_FILE_MAX) != (ssize_t)(size - size / 2)) {
		abort();
	}
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct rsvd_record_file *file = NULL;
	uint8_t *bytes = NULL;
	size_t length = 0;
	char path[64];
	int ret = 0;

	snprintf(path, sizeof(path), "/dev/shm/hvrs-fuzz-record-%d",
		 (int)getpid());
	put(path, data, size);
	ret = rsvd_record_file_lock(frame, path, 0, &file, &bytes, &length);
	if (ret == 0) {
		if (rsvd_record_file_store(file, (const uint8_t *)"new",
					   3) != 0) {
			abort();
		}
		talloc_free(file);
		ret = rsvd_record_file_lock(frame, path, 0, &file, &bytes,
					    &length);
		if (ret != 0 || length != 3 || memcmp(bytes, "new", 3) != 0) {
			abort();
		}
	}
	unlink(path);
	talloc_free(frame);
	return 0;
}
