/*
 * A share as a file.  Its first page holds the record.  On one machine every
 * process maps it, so that the generation costs no system call; where members
 * have caches apart it is read and written, which a coherent file system makes
 * the same for all, and what ends a turn is stable before the lock is given
 * back.
 *
 * Locks belong to the open file description, so they go with the process that
 * dies, and two disks of one process exclude each other as well:
 *   byte 4096  the lock
 *   byte 4097  membership: everybody shares it; who could have it alone is alone
 *
 * Who waits for the lock without a loop must not wait for a disk of its own
 * process, whose turn ends by that loop, nor for ever: the other process may
 * be waiting for this one's, of another disk.
 *
 * Who waits says so in the page, for a moment and again and again: others let
 * him go first, so that one who has turn after turn starves nobody.
 */
#include "vhdx/vhdx_priv.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <tevent.h>
#include <unistd.h>

#include "util/filelock.h"

#define LOCK_BYTE 4096
#define MEMBER_BYTE 4097
/* Waiting for the lock asks again after so many microseconds. */
#define RETRY_FIRST 50
#define RETRY_MOST 5000
/* Without a loop: asks this often, and so long at most. */
#define WAIT_STEP 100
#define WAIT_STEP_APART 1000
#define WAIT_MOST 3000000
/* So long a wish counts, unless it is said again. */
#define WISH 5000
/* The place of the wish in the page, behind the record. */
#define WISH_AT 1024
#define WISH_BITS 16

struct share_file {
	struct vhdx_share share;
	struct share_file *next;	/* of this process */
	struct store_identity id;
	bool held;			/* the lock */
	unsigned number;		/* one of many, as a rule its own */
	struct tevent_context *ev;
	struct tevent_immediate *now;
	struct tevent_timer *later;
	int fd;
	uint8_t *map;			/* NULL: read and written */
	unsigned wait_us;
	void (*lock_done)(void *engine, int result);
	void *engine;
};

static struct share_file *all_shares;

static struct share_file *of(struct vhdx_share *share)
{
	return (struct share_file *)share;
}

/* Another of this process on the same file, and one that has the lock. */
static void sibling_find(const struct share_file *sf, bool *_there,
			 bool *_held)
{
	const struct share_file *other = NULL;

	*_there = false;
	*_held = false;
	for (other = all_shares; other != NULL; other = other->next) {
		if (other != sf && other->id.volume == sf->id.volume &&
		    other->id.file == sf->id.file) {
			*_there = true;
			*_held = *_held || other->held;
		}
	}
}

static int lock_byte(int fd, int command, short type, off_t at)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = at,
		.l_len = 1,
	};
	int ret = 0;

	do {
		ret = fcntl(fd, command, &lock);
	} while (ret != 0 && errno == EINTR);
	return ret == 0 ? 0 : -errno;
}

static int page_get(const struct share_file *sf, void *bytes, size_t length,
		    off_t at)
{
	ssize_t got = 0;

	if (sf->map != NULL) {
		memcpy(bytes, sf->map + at, length);
		return 0;
	}
	got = pread(sf->fd, bytes, length, at);
	if (got < 0) {
		return -errno;
	}
	return got == (ssize_t)length ? 0 : -EIO;
}

/* Not mapped. */
static int page_put(const struct share_file *sf, const void *bytes,
		    size_t length, off_t at)
{
	ssize_t put = pwrite(sf->fd, bytes, length, at);

	if (put < 0) {
		return -errno;
	}
	return put == (ssize_t)length ? 0 : -EIO;
}

static void file_unlock(struct vhdx_share *share)
{
	of(share)->held = false;
	(void)lock_byte(of(share)->fd, F_OFD_SETLK, F_UNLCK, LOCK_BYTE);
}

static uint64_t clock_us(clockid_t clock)
{
	struct timespec now = {};

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t now_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

/* Of wishes: the same for all members. */
static uint64_t wish_now(const struct share_file *sf)
{
	return clock_us(sf->map != NULL ? CLOCK_MONOTONIC : CLOCK_REALTIME);
}

/*
 * The wish: until when, in microseconds, and in the low bits whose it is.
 * Clocks of other machines may differ: then a wish counts for nothing, or a
 * little longer.
 */
static uint64_t wish_get(const struct share_file *sf)
{
	uint64_t said = 0;

	if (sf->map == NULL) {
		return page_get(sf, &said, sizeof(said), WISH_AT) == 0 ? said
								      : 0;
	}
	return __atomic_load_n((uint64_t *)(void *)(sf->map + WISH_AT),
			       __ATOMIC_RELAXED);
}

static void wish_put(const struct share_file *sf, uint64_t said)
{
	if (sf->map == NULL) {
		(void)page_put(sf, &said, sizeof(said), WISH_AT);
		return;
	}
	__atomic_store_n((uint64_t *)(void *)(sf->map + WISH_AT), said,
			 __ATOMIC_RELAXED);
}

static uint64_t wish_of(const struct share_file *sf, uint64_t until)
{
	return until << WISH_BITS | (sf->number & ((1U << WISH_BITS) - 1));
}

/* Whether another waits; then he goes first. */
static bool is_wanted(const struct share_file *sf)
{
	uint64_t said = wish_get(sf);
	uint64_t until = said >> WISH_BITS;
	uint64_t now = wish_now(sf) & (UINT64_MAX >> WISH_BITS);

	return until > now && until - now <= WISH &&
		wish_of(sf, until) != said;
}

static void wish_say(const struct share_file *sf)
{
	wish_put(sf, wish_of(sf, wish_now(sf) + WISH));
}

/* It is fulfilled; another's stands. */
static void wish_end(const struct share_file *sf)
{
	uint64_t said = wish_get(sf);

	if (said == 0 || wish_of(sf, said >> WISH_BITS) != said) {
		return;
	}
	if (sf->map == NULL) {
		/* One that is said this moment is said again. */
		wish_put(sf, 0);
		return;
	}
	__atomic_compare_exchange_n((uint64_t *)(void *)(sf->map + WISH_AT),
				    &said, 0, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
}

static int file_lock_wait(struct vhdx_share *share)
{
	struct share_file *sf = of(share);
	uint64_t end = now_us() + WAIT_MOST;
	bool there = false;
	bool held = false;
	int ret = 0;

	sibling_find(sf, &there, &held);
	if (held) {
		return -EDEADLK;
	}
	ret = lock_byte(sf->fd, F_OFD_SETLK, F_WRLCK, LOCK_BYTE);
	while ((ret == -EAGAIN || ret == -EACCES) && now_us() < end) {
		wish_say(sf);
		usleep(sf->map != NULL ? WAIT_STEP : WAIT_STEP_APART);
		ret = lock_byte(sf->fd, F_OFD_SETLK, F_WRLCK, LOCK_BYTE);
	}
	sf->held = ret == 0;
	if (sf->held) {
		wish_end(sf);
	}
	return ret == -EAGAIN || ret == -EACCES ? -ETIMEDOUT : ret;
}

static void file_try(struct share_file *sf);

static void on_later(struct tevent_context *ev, struct tevent_timer *te,
		     struct timeval at, void *private_data)
{
	struct share_file *sf = private_data;

	(void)ev;
	(void)te;
	(void)at;
	TALLOC_FREE(sf->later);
	file_try(sf);
}

static void on_now(struct tevent_context *ev, struct tevent_immediate *im,
		   void *private_data)
{
	(void)ev;
	(void)im;
	file_try(private_data);
}

static void file_try(struct share_file *sf)
{
	bool wanted = is_wanted(sf);
	int ret = -EAGAIN;

	if (!wanted) {
		ret = lock_byte(sf->fd, F_OFD_SETLK, F_WRLCK, LOCK_BYTE);
	}
	if (ret != -EAGAIN && ret != -EACCES) {
		sf->held = ret == 0;
		wish_end(sf);
		sf->lock_done(sf->engine, ret);
		return;
	}
	if (!wanted) {
		wish_say(sf);
		sf->wait_us = WAIT_STEP;
	}
	sf->later = tevent_add_timer(sf->ev, sf,
				     tevent_timeval_current_ofs(0,
								sf->wait_us),
				     on_later, sf);
	if (sf->later == NULL) {
		sf->lock_done(sf->engine, -ENOMEM);
		return;
	}
	sf->wait_us = sf->wait_us * 2 < RETRY_MOST ? sf->wait_us * 2
						   : RETRY_MOST;
}

static void file_lock(struct vhdx_share *share,
		      void (*lock_done)(void *engine, int result),
		      void *engine)
{
	struct share_file *sf = of(share);

	sf->lock_done = lock_done;
	sf->engine = engine;
	sf->wait_us = RETRY_FIRST;
	tevent_schedule_immediate(sf->now, sf->ev, on_now, sf);
}

static int file_load(struct vhdx_share *share,
		     uint8_t record[VHDX_SHARE_RECORD])
{
	return page_get(of(share), record, VHDX_SHARE_RECORD, 0);
}

static int file_store_record(struct vhdx_share *share,
			     const uint8_t record[VHDX_SHARE_RECORD])
{
	struct share_file *sf = of(share);
	uint64_t *last = NULL;
	uint64_t word = 0;
	int ret = 0;

	if (sf->map == NULL) {
		/* Within one sector: the old or the new, whatever is cut. */
		ret = page_put(sf, record, VHDX_SHARE_RECORD, 0);
		return ret != 0 ? ret : fdatasync(sf->fd) == 0 ? 0 : -errno;
	}
	memcpy(sf->map + 8, record + 8, VHDX_SHARE_RECORD - 16);
	memcpy(&word, record, 8);
	__atomic_store_n((uint64_t *)(void *)sf->map, word, __ATOMIC_RELEASE);
	memcpy(&word, record + VHDX_SHARE_RECORD - 8, 8);
	last = (uint64_t *)(void *)(sf->map + VHDX_SHARE_RECORD - 8);
	__atomic_store_n(last, word, __ATOMIC_RELEASE);
	return 0;
}

static int file_generation(struct vhdx_share *share, uint64_t *_generation)
{
	struct share_file *sf = of(share);
	uint64_t raw = 0;
	int ret = 0;

	if (sf->map == NULL) {
		ret = page_get(sf, &raw, sizeof(raw), 0);
	} else {
		raw = __atomic_load_n((uint64_t *)(void *)sf->map,
				      __ATOMIC_ACQUIRE);
	}
	if (ret == 0) {
		*_generation = le64toh(raw);
	}
	return ret;
}

static int file_alone(struct vhdx_share *share, bool *_alone)
{
	int fd = of(share)->fd;
	int ret = lock_byte(fd, F_OFD_SETLK, F_WRLCK, MEMBER_BYTE);

	if (ret == -EAGAIN || ret == -EACCES) {
		*_alone = false;
		return 0;
	}
	*_alone = ret == 0;
	/* The lock is held, so nobody joined in between. */
	return ret == 0 ? lock_byte(fd, F_OFD_SETLK, F_RDLCK, MEMBER_BYTE)
			: ret;
}

static const struct vhdx_share_ops file_share_ops = {
	.lock = file_lock,
	.lock_wait = file_lock_wait,
	.unlock = file_unlock,
	.load = file_load,
	.store = file_store_record,
	.generation = file_generation,
	.alone = file_alone,
};

static int share_destructor(struct share_file *sf)
{
	struct share_file **at = &all_shares;

	while (*at != NULL && *at != sf) {
		at = &(*at)->next;
	}
	if (*at == sf) {
		*at = sf->next;
	}
	if (sf->map != NULL) {
		munmap(sf->map, VHDX_PAGE);
	}
	if (sf->fd >= 0) {
		close(sf->fd);
	}
	return 0;
}

static int share_map(struct share_file *sf)
{
	struct stat st = {};

	if (fstat(sf->fd, &st) != 0) {
		return -errno;
	}
	if (st.st_size != VHDX_PAGE && ftruncate(sf->fd, VHDX_PAGE) != 0) {
		return -errno;
	}
	if (sf->share.apart) {
		return 0;
	}
	sf->map = mmap(NULL, VHDX_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		       sf->fd, 0);
	if (sf->map == MAP_FAILED) {
		sf->map = NULL;
		return -errno;
	}
	return 0;
}

/* Clears what dead members left, if there is nobody else. */
static int share_clear(struct share_file *sf)
{
	static const uint8_t nothing[VHDX_PAGE];
	int ret = lock_byte(sf->fd, F_OFD_SETLK, F_WRLCK, MEMBER_BYTE);

	if (ret == 0 && sf->map != NULL) {
		memset(sf->map, 0, VHDX_PAGE);
	} else if (ret == 0) {
		ret = page_put(sf, nothing, VHDX_PAGE, 0);
		if (ret == 0 && fsync(sf->fd) != 0) {
			ret = -errno;
		}
		return ret;
	}
	return ret == -EAGAIN || ret == -EACCES ? 0 : ret;
}

/*
 * Joins, under the lock; beside a member of this process without it, as then
 * nothing is to be cleared, and nobody else can think that he is alone.
 */
static int share_join(struct share_file *sf)
{
	bool there = false;
	bool held = false;
	int ret = share_map(sf);

	if (ret != 0) {
		return ret;
	}
	sibling_find(sf, &there, &held);
	if (there) {
		return lock_byte(sf->fd, F_OFD_SETLK, F_RDLCK, MEMBER_BYTE);
	}
	ret = file_lock_wait(&sf->share);
	if (ret != 0) {
		return ret;
	}
	ret = share_clear(sf);
	if (ret == 0) {
		ret = lock_byte(sf->fd, F_OFD_SETLK, F_RDLCK, MEMBER_BYTE);
	}
	file_unlock(&sf->share);
	return ret;
}

static int identify(struct share_file *sf)
{
	static unsigned opened;
	struct stat st = {};

	if (fstat(sf->fd, &st) != 0) {
		return -errno;
	}
	sf->number = (unsigned)getpid() * 31 + opened++;
	sf->id.volume = st.st_dev;
	sf->id.file = st.st_ino;
	return 0;
}

static int share_open(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
		      const char *path, bool apart, struct vhdx_share **_share)
{
	struct share_file *sf = talloc_zero(mem_ctx, struct share_file);
	int ret = 0;

	if (sf == NULL) {
		return -ENOMEM;
	}
	sf->share.ops = &file_share_ops;
	sf->share.apart = apart;
	sf->ev = ev;
	sf->fd = -1;
	talloc_set_destructor(sf, share_destructor);
	sf->now = tevent_create_immediate(sf);
	if (sf->now == NULL) {
		talloc_free(sf);
		return -ENOMEM;
	}
	sf->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ret = sf->fd >= 0 ? identify(sf) : -errno;
	if (ret == 0) {
		ret = share_join(sf);
	}
	if (ret != 0) {
		talloc_free(sf);
		return ret;
	}
	sf->next = all_shares;
	all_shares = sf;
	*_share = &sf->share;
	return 0;
}

int vhdx_share_file_open(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
			 const char *path, struct vhdx_share **_share)
{
	return share_open(mem_ctx, ev, path, false, _share);
}

int vhdx_share_apart_open(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
			  const char *path, struct vhdx_share **_share)
{
	return share_open(mem_ctx, ev, path, true, _share);
}

bool vhdx_share_is_used_at(const char *path)
{
	return filelock_is_held(path, MEMBER_BYTE, 1);
}
