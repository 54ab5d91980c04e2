/*
 * A share on one machine.  The file's first page holds the record and is
 * mapped by every process, so that the generation costs no system call.
 *
 * Locks belong to the open file description, so they go with the process that
 * dies, and two disks of one process exclude each other as well:
 *   byte 4096  the lock
 *   byte 4097  membership: everybody shares it; who could have it alone is alone
 */
#include "vhdx/vhdx_priv.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <tevent.h>
#include <unistd.h>

#define LOCK_BYTE 4096
#define MEMBER_BYTE 4097
/* Waiting for the lock asks again after so many microseconds. */
#define RETRY_FIRST 50
#define RETRY_MOST 5000

struct share_file {
	struct vhdx_share share;
	struct tevent_context *ev;
	struct tevent_immediate *now;
	struct tevent_timer *later;
	int fd;
	uint8_t *map;
	unsigned wait_us;
	void (*lock_done)(void *engine, int result);
	void *engine;
};

static struct share_file *of(struct vhdx_share *share)
{
	return (struct share_file *)share;
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

static void file_unlock(struct vhdx_share *share)
{
	(void)lock_byte(of(share)->fd, F_OFD_SETLK, F_UNLCK, LOCK_BYTE);
}

static int file_lock_wait(struct vhdx_share *share)
{
	return lock_byte(of(share)->fd, F_OFD_SETLKW, F_WRLCK, LOCK_BYTE);
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
	int ret = lock_byte(sf->fd, F_OFD_SETLK, F_WRLCK, LOCK_BYTE);

	if (ret != -EAGAIN && ret != -EACCES) {
		sf->lock_done(sf->engine, ret);
		return;
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
	memcpy(record, of(share)->map, VHDX_SHARE_RECORD);
	return 0;
}

static int file_store_record(struct vhdx_share *share,
			     const uint8_t record[VHDX_SHARE_RECORD])
{
	struct share_file *sf = of(share);
	uint8_t *last = sf->map + VHDX_SHARE_RECORD - 8;
	uint64_t word = 0;

	memcpy(sf->map + 8, record + 8, VHDX_SHARE_RECORD - 16);
	memcpy(&word, record, 8);
	__atomic_store_n((uint64_t *)(void *)sf->map, word, __ATOMIC_RELEASE);
	memcpy(&word, record + VHDX_SHARE_RECORD - 8, 8);
	__atomic_store_n((uint64_t *)(void *)last, word, __ATOMIC_RELEASE);
	return 0;
}

static int file_generation(struct vhdx_share *share, uint64_t *_generation)
{
	uint64_t raw = __atomic_load_n((uint64_t *)(void *)of(share)->map,
				       __ATOMIC_ACQUIRE);

	*_generation = le64toh(raw);
	return 0;
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
	if (sf->map != NULL) {
		munmap(sf->map, VHDX_PAGE);
	}
	if (sf->fd >= 0) {
		close(sf->fd);
	}
	return 0;
}

/* Under the lock: joins, and clears what dead members left. */
static int share_join(struct share_file *sf)
{
	int ret = lock_byte(sf->fd, F_OFD_SETLKW, F_WRLCK, LOCK_BYTE);

	if (ret != 0) {
		return ret;
	}
	if (ftruncate(sf->fd, VHDX_PAGE) != 0) {
		ret = -errno;
	}
	if (ret == 0) {
		sf->map = mmap(NULL, VHDX_PAGE, PROT_READ | PROT_WRITE,
			       MAP_SHARED, sf->fd, 0);
		if (sf->map == MAP_FAILED) {
			sf->map = NULL;
			ret = -errno;
		}
	}
	if (ret == 0) {
		ret = lock_byte(sf->fd, F_OFD_SETLK, F_WRLCK, MEMBER_BYTE);
		if (ret == 0) {
			memset(sf->map, 0, VHDX_PAGE);
		} else if (ret == -EAGAIN || ret == -EACCES) {
			ret = 0;
		}
	}
	if (ret == 0) {
		ret = lock_byte(sf->fd, F_OFD_SETLK, F_RDLCK, MEMBER_BYTE);
	}
	file_unlock(&sf->share);
	return ret;
}

int vhdx_share_file_open(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
			 const char *path, struct vhdx_share **_share)
{
	struct share_file *sf = talloc_zero(mem_ctx, struct share_file);
	int ret = 0;

	if (sf == NULL) {
		return -ENOMEM;
	}
	sf->share.ops = &file_share_ops;
	sf->ev = ev;
	sf->fd = -1;
	talloc_set_destructor(sf, share_destructor);
	sf->now = tevent_create_immediate(sf);
	if (sf->now == NULL) {
		talloc_free(sf);
		return -ENOMEM;
	}
	sf->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ret = sf->fd >= 0 ? share_join(sf) : -errno;
	if (ret != 0) {
		talloc_free(sf);
		return ret;
	}
	*_share = &sf->share;
	return 0;
}
