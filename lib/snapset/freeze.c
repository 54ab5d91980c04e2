/* The page of the write freeze, and the file that nodes have instead. */
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

/* In the file: any number but 0 while a freeze is on; then the lock. */
#define AT_WORD 0
#define AT_LOCK 8

struct snapset_freeze {
	_Atomic uint64_t *until;	/* of CLOCK_MONOTONIC, 0: none */
	uint64_t mine;
	int fd;				/* of the file, or -1 */
	_Atomic uint64_t seen;		/* its word, and when it was first */
	_Atomic uint64_t since;
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
	freeze->fd = -1;
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

/* ---- of a cluster ------------------------------------------------------------ */

static int shut(struct snapset_freeze *freeze)
{
	close(freeze->fd);
	return 0;
}

int snapset_freeze_open_apart(TALLOC_CTX *mem_ctx, const char *path,
			      struct snapset_freeze **_freeze)
{
	struct snapset_freeze *freeze = talloc_zero(mem_ctx,
						    struct snapset_freeze);
	int error = 0;

	if (freeze == NULL) {
		return -ENOMEM;
	}
	freeze->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
			  0600);
	if (freeze->fd == -1) {
		error = -errno;
		talloc_free(freeze);
		return error;
	}
	talloc_set_destructor(freeze, shut);
	*_freeze = freeze;
	return 0;
}

/* Of the open file, so that a process meets its own as others'. */
static int lock(const struct snapset_freeze *freeze, int command, short type,
		bool *_locked)
{
	struct flock at = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = AT_LOCK,
		.l_len = 1,
	};

	if (fcntl(freeze->fd, command, &at) != 0) {
		return -errno;
	}
	if (_locked != NULL) {
		*_locked = at.l_type != F_UNLCK;
	}
	return 0;
}

static uint64_t apart_left(struct snapset_freeze *freeze)
{
	uint64_t word = 0;
	uint64_t waited = 0;
	uint64_t now = 0;
	bool locked = false;

	/* What cannot be read cannot be written to either. */
	if (pread(freeze->fd, &word, sizeof(word), AT_WORD) !=
	    sizeof(word) || word == 0) {
		return 0;
	}
	now = now_ns();
	if (atomic_load(&freeze->seen) != word) {
		atomic_store(&freeze->since, now);
		atomic_store(&freeze->seen, word);
	}
	waited = now - atomic_load(&freeze->since);
	/* Who died in it has left its number, but not its lock. */
	if (waited >= SNAPSET_FREEZE_MAX_NS ||
	    (lock(freeze, F_OFD_GETLK, F_WRLCK, &locked) == 0 && !locked)) {
		return 0;
	}
	return SNAPSET_FREEZE_MAX_NS - waited;
}

static int apart_begin(struct snapset_freeze *freeze, uint64_t ns)
{
	uint64_t word = now_ns() ^ (uint64_t)getpid() << 40;
	int ret = lock(freeze, F_OFD_SETLK, F_WRLCK, NULL);

	if (ret != 0) {
		return ret == -EAGAIN || ret == -EACCES ? -EBUSY : ret;
	}
	word += word == 0 ? 1 : 0;
	freeze->mine = now_ns() + ns;
	if (pwrite(freeze->fd, &word, sizeof(word), AT_WORD) !=
	    sizeof(word)) {
		ret = -EIO;
		lock(freeze, F_OFD_SETLK, F_UNLCK, NULL);
	}
	return ret;
}

static int apart_end(struct snapset_freeze *freeze)
{
	bool held = now_ns() < freeze->mine;
	const uint64_t none = 0;

	freeze->mine = 0;
	/* Without the lock the number means nothing. */
	(void)!pwrite(freeze->fd, &none, sizeof(none), AT_WORD);
	lock(freeze, F_OFD_SETLK, F_UNLCK, NULL);
	return held ? 0 : -ETIMEDOUT;
}

/* ---- both --------------------------------------------------------------------- */

uint64_t snapset_freeze_left(struct snapset_freeze *freeze)
{
	uint64_t until = 0;
	uint64_t now = 0;

	if (freeze->fd != -1) {
		return apart_left(freeze);
	}
	until = atomic_load_explicit(freeze->until, memory_order_acquire);
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
	uint64_t seen = 0;
	uint64_t until = 0;

	if (ns == 0 || ns > SNAPSET_FREEZE_MAX_NS) {
		return -EINVAL;
	}
	if (freeze->fd != -1) {
		return apart_begin(freeze, ns);
	}
	seen = atomic_load(freeze->until);
	until = now_ns() + ns;
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

	if (freeze->fd != -1) {
		return apart_end(freeze);
	}
	freeze->mine = 0;
	held = now_ns() < mine;
	/* Another's, begun when ours had run out, stays. */
	if (!atomic_compare_exchange_strong(freeze->until, &mine, 0)) {
		held = false;
	}
	return held ? 0 : -ETIMEDOUT;
}
