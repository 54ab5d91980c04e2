/*
 * The fence of a shared disk on one machine.  Bytes of the file beyond the
 * page are locks: one for COMPARE AND WRITE, one for each slot.
 */
#include "rsvd/fence.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x31434E4656525348ULL
#define NONE UINT64_MAX
#define LOCK_WORK 0x0FFFF0
#define LOCK_EXCLUSIVE 0x100000
#define LOCK_SLOT 0x100001
/* Generations of writes under way that are told apart; more are joined. */
#define TRACKED 8

struct slot {
	uint64_t oldest;	/* generation of a write under way, or NONE */
	uint64_t pid;
	struct guid nexus;
	struct rsvd_fence_counters counters;
	uint64_t unused[7];
};

struct page {
	uint64_t magic;
	uint64_t generation;
	uint64_t unused[14];
	struct slot slots[RSVD_FENCE_SLOTS];
};

struct rsvd_fence {
	int fd;
	struct page *page;
	uint32_t slot;
	bool exclusive;
	bool taken[RSVD_FENCE_LOCKS];
	struct {
		uint64_t generation;
		uint64_t count;
	} under_way[TRACKED];
};

static int lock_byte(int fd, int command, short type, off_t at,
		     short *_type)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = at,
		.l_len = 1,
	};
	int ret = 0;

	do {
		ret = fcntl(fd, command, &lock);
	} while (ret != 0 && errno == EINTR);
	if (ret != 0) {
		return -errno;
	}
	if (_type != NULL) {
		*_type = lock.l_type;
	}
	return 0;
}

static int fence_destructor(struct rsvd_fence *fence)
{
	if (fence->page != NULL) {
		munmap(fence->page, sizeof(*fence->page));
	}
	if (fence->fd >= 0) {
		close(fence->fd);
	}
	return 0;
}

static int fence_map(struct rsvd_fence *fence)
{
	struct stat st = {};
	uint64_t none = 0;

	if (fstat(fence->fd, &st) != 0) {
		return -errno;
	}
	if (st.st_size != 0 && st.st_size != (off_t)sizeof(struct page)) {
		return -EINVAL;
	}
	if (st.st_size == 0 &&
	    ftruncate(fence->fd, (off_t)sizeof(struct page)) != 0) {
		return -errno;
	}
	fence->page = mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE,
			   MAP_SHARED, fence->fd, 0);
	if (fence->page == MAP_FAILED) {
		fence->page = NULL;
		return -errno;
	}
	if (!__atomic_compare_exchange_n(&fence->page->magic, &none, MAGIC,
					 false, __ATOMIC_SEQ_CST,
					 __ATOMIC_SEQ_CST) && none != MAGIC) {
		return -EINVAL;
	}
	return 0;
}

static int fence_take_slot(struct rsvd_fence *fence, const struct guid *nexus,
			   uint64_t pid)
{
	uint32_t i = 0;

	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		struct slot *slot = &fence->page->slots[i];
		int ret = lock_byte(fence->fd, F_OFD_SETLK, F_WRLCK,
				    LOCK_SLOT + (off_t)i, NULL);

		if (ret == -EAGAIN || ret == -EACCES) {
			continue;
		}
		if (ret != 0) {
			return ret;
		}
		__atomic_store_n(&slot->oldest, NONE, __ATOMIC_SEQ_CST);
		slot->nexus = *nexus;
		slot->pid = pid;
		slot->counters = (struct rsvd_fence_counters) {};
		fence->slot = i;
		return 0;
	}
	return -EUSERS;
}

int rsvd_fence_open(TALLOC_CTX *mem_ctx, const char *path,
		    const struct guid *nexus, uint64_t pid,
		    struct rsvd_fence **_fence)
{
	struct rsvd_fence *fence = talloc_zero(mem_ctx, struct rsvd_fence);
	int ret = 0;

	if (fence == NULL) {
		return -ENOMEM;
	}
	fence->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
			 0600);
	if (fence->fd < 0) {
		ret = -errno;
		talloc_free(fence);
		return ret;
	}
	talloc_set_destructor(fence, fence_destructor);
	ret = fence_map(fence);
	if (ret == 0) {
		ret = fence_take_slot(fence, nexus, pid);
	}
	if (ret != 0) {
		talloc_free(fence);
		return ret;
	}
	*_fence = fence;
	return 0;
}

uint32_t rsvd_fence_slot(const struct rsvd_fence *fence)
{
	return fence->slot;
}

uint64_t rsvd_fence_generation(const struct rsvd_fence *fence)
{
	return __atomic_load_n(&fence->page->generation, __ATOMIC_SEQ_CST);
}

/* ---- writes ----------------------------------------------------------------------- */

static void publish(struct rsvd_fence *fence)
{
	uint64_t oldest = NONE;
	size_t i = 0;

	for (i = 0; i < TRACKED; i++) {
		if (fence->under_way[i].count > 0 &&
		    fence->under_way[i].generation < oldest) {
			oldest = fence->under_way[i].generation;
		}
	}
	__atomic_store_n(&fence->page->slots[fence->slot].oldest, oldest,
			 __ATOMIC_SEQ_CST);
}

/*
 * The row that counts a generation.  Where all rows are taken, the youngest
 * counts for all that come: it is older than they are, which is safe.
 */
static size_t row_of(const struct rsvd_fence *fence, uint64_t generation)
{
	size_t free_row = TRACKED;
	size_t youngest = TRACKED;
	size_t i = 0;

	for (i = 0; i < TRACKED; i++) {
		if (fence->under_way[i].count == 0) {
			free_row = i;
		} else if (fence->under_way[i].generation == generation) {
			return i;
		} else if (youngest == TRACKED ||
			   fence->under_way[i].generation >
			   fence->under_way[youngest].generation) {
			youngest = i;
		}
	}
	return free_row < TRACKED ? free_row : youngest;
}

bool rsvd_fence_enter(struct rsvd_fence *fence, uint64_t generation)
{
	size_t row = row_of(fence, generation);

	if (fence->under_way[row].count == 0) {
		fence->under_way[row].generation = generation;
	}
	fence->under_way[row].count++;
	publish(fence);
	if (rsvd_fence_generation(fence) == generation) {
		return true;
	}
	fence->under_way[row].count--;
	publish(fence);
	return false;
}

void rsvd_fence_exit(struct rsvd_fence *fence, uint64_t generation)
{
	size_t best = TRACKED;
	size_t i = 0;

	/* Its own row, or the one it was joined to: the next older. */
	for (i = 0; i < TRACKED; i++) {
		if (fence->under_way[i].count > 0 &&
		    fence->under_way[i].generation <= generation &&
		    (best == TRACKED || fence->under_way[i].generation >
		     fence->under_way[best].generation)) {
			best = i;
		}
	}
	if (best < TRACKED) {
		fence->under_way[best].count--;
		publish(fence);
	}
}

/* ---- changes ------------------------------------------------------------------------ */

void rsvd_fence_change_begin(struct rsvd_fence *fence)
{
	__atomic_fetch_or(&fence->page->generation, 1, __ATOMIC_SEQ_CST);
}

uint64_t rsvd_fence_change_end(struct rsvd_fence *fence)
{
	return __atomic_add_fetch(&fence->page->generation, 1,
				  __ATOMIC_SEQ_CST);
}

uint64_t rsvd_fence_settle(struct rsvd_fence *fence)
{
	uint64_t generation = rsvd_fence_generation(fence);

	if ((generation & 1) != 0) {
		generation = rsvd_fence_change_end(fence);
	}
	return generation;
}

unsigned rsvd_fence_busy(struct rsvd_fence *fence, uint64_t generation,
			 bool (*each)(void *private_data,
				      const struct guid *nexus, uint64_t pid),
			 void *private_data)
{
	unsigned busy = 0;
	uint32_t i = 0;

	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		const struct slot *slot = &fence->page->slots[i];
		short type = F_UNLCK;

		if (slot->pid == 0 ||
		    __atomic_load_n(&slot->oldest, __ATOMIC_SEQ_CST) >=
		    generation) {
			continue;
		}
		/* One's own lock is no hindrance, so it does not show. */
		if (i != fence->slot) {
			int ret = lock_byte(fence->fd, F_OFD_GETLK, F_WRLCK,
					    LOCK_SLOT + (off_t)i, &type);

			if (ret == 0 && type == F_UNLCK) {
				continue;
			}
		}
		busy += each(private_data, &slot->nexus, slot->pid) ? 1 : 0;
	}
	return busy;
}

/* ---- the rest ------------------------------------------------------------------------- */

struct rsvd_fence_counters *rsvd_fence_counters(struct rsvd_fence *fence)
{
	return &fence->page->slots[fence->slot].counters;
}

int rsvd_fence_look(const char *path, uint32_t slot, uint64_t pid,
		    struct rsvd_fence_counters *_counters)
{
	struct slot found = {};
	int fd = -1;
	ssize_t got = 0;

	if (slot >= RSVD_FENCE_SLOTS) {
		return -EINVAL;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		return -errno;
	}
	got = pread(fd, &found, sizeof(found),
		    (off_t)(offsetof(struct page, slots) +
			    slot * sizeof(found)));
	close(fd);
	if (got != (ssize_t)sizeof(found) || found.pid != pid) {
		return -ENOENT;
	}
	*_counters = found.counters;
	return 0;
}

int rsvd_fence_exclusive(struct rsvd_fence *fence)
{
	int ret = 0;

	if (fence->exclusive) {
		return -EAGAIN;
	}
	ret = lock_byte(fence->fd, F_OFD_SETLK, F_WRLCK, LOCK_EXCLUSIVE, NULL);
	if (ret == -EACCES) {
		return -EAGAIN;
	}
	fence->exclusive = ret == 0;
	return ret;
}

void rsvd_fence_release(struct rsvd_fence *fence)
{
	fence->exclusive = false;
	(void)lock_byte(fence->fd, F_OFD_SETLK, F_UNLCK, LOCK_EXCLUSIVE, NULL);
}

int rsvd_fence_take(struct rsvd_fence *fence, enum rsvd_fence_lock lock)
{
	int ret = 0;

	if (fence->taken[lock]) {
		return -EAGAIN;
	}
	ret = lock_byte(fence->fd, F_OFD_SETLK, F_WRLCK,
			LOCK_WORK + (off_t)lock, NULL);
	if (ret == -EACCES) {
		return -EAGAIN;
	}
	fence->taken[lock] = ret == 0;
	return ret;
}

void rsvd_fence_give(struct rsvd_fence *fence, enum rsvd_fence_lock lock)
{
	fence->taken[lock] = false;
	(void)lock_byte(fence->fd, F_OFD_SETLK, F_UNLCK,
			LOCK_WORK + (off_t)lock, NULL);
}
