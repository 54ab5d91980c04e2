/* The page of the write freeze. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "snapset/freeze.h"

#define PAGE 4096

struct snapset_freeze {
	_Atomic uint64_t *until;	/* of CLOCK_MONOTONIC, 0: none */
	uint64_t mine;
};

static uint64_t now_ns(void)
{
	struct timespec ts = {};

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int unmap(struct snapset_freeze *freeze)
{
	munmap((void *)freeze->until, PAGE);
	return 0;
}

int snapset_freeze_open(TALLOC_CTX *mem_ctx, const char *folder,
			uint64_t device, struct snapset_freeze **_freeze)
{
	struct snapset_freeze *freeze = NULL;
	struct stat st = {};
	char *path = NULL;
	void *page = NULL;
	int fd = -1;
	int error = 0;

	freeze = talloc_zero(mem_ctx, struct snapset_freeze);
	if (freeze == NULL) {
		return -ENOMEM;
	}
	path = talloc_asprintf(freeze, "%s/hvrs_freeze.%llx", folder,
			       (unsigned long long)device);
	if (path == NULL) {
		talloc_free(freeze);
		return -ENOMEM;
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd == -1 || fstat(fd, &st) != 0 ||
	    (st.st_size < PAGE && ftruncate(fd, PAGE) != 0)) {
		error = -errno;
		goto fail;
	}
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED) {
		error = -errno;
		goto fail;
	}
	close(fd);
	talloc_free(path);
	freeze->until = page;
	talloc_set_destructor(freeze, unmap);
	*_freeze = freeze;
	return 0;
fail:
	if (fd != -1) {
		close(fd);
	}
	talloc_free(freeze);
	return error;
}

uint64_t snapset_freeze_left(const struct snapset_freeze *freeze)
{
	uint64_t until = atomic_load_explicit(freeze->until,
					      memory_order_acquire);
	uint64_t now = 0;

	if (until == 0) {
		return 0;
	}
	now = now_ns();
	/* The clock of another start of the machine means nothing. */
	if (until <= now || until - now > SNAPSET_FREEZE_MAX_NS) {
		return 0;
	}
	return until - now;
}

int snapset_freeze_begin(struct snapset_freeze *freeze, uint64_t ns)
{
	uint64_t seen = atomic_load(freeze->until);
	uint64_t until = now_ns() + ns;

	if (ns == 0 || ns > SNAPSET_FREEZE_MAX_NS) {
		return -EINVAL;
	}
	if (snapset_freeze_left(freeze) != 0 ||
	    !atomic_compare_exchange_strong(freeze->until, &seen, until)) {
		return -EBUSY;
	}
	freeze->mine = until;
	return 0;
}

int snapset_freeze_end(struct snapset_freeze *freeze)
{
	uint64_t mine = freeze->mine;
	bool held = false;

	freeze->mine = 0;
	held = now_ns() < mine;
	/* Another's, begun when ours had run out, stays. */
	if (!atomic_compare_exchange_strong(freeze->until, &mine, 0)) {
		held = false;
	}
	return held ? 0 : -ETIMEDOUT;
}
