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

#define MAGIC 0x32434E4656525348ULL
#define NONE UINT64_MAX
#define LOCK_WORK 0x0FFFF0
#define LOCK_EXCLUSIVE 0x100000
#define LOCK_SLOT 0x100001
/* Generations of writes under way that are told apart; more are joined. */
#define TRACKED 8
/* Ranges under way that are told apart; more are joined in the last. */
#define RANGES 64
#define RANGE_ALL (RANGES - 1)

/*
 * Bytes from start to before end; none where end is 0.  The end is written
 * last and read first: who meets a range while it changes either sees the new
 * one later, or is seen himself.
 */
struct range {
	uint64_t start;
	uint64_t end;
};

struct slot {
	uint64_t oldest;	/* generation of a write under way, or NONE */
	uint64_t pid;
	struct guid nexus;
	struct rsvd_fence_counters counters;
	uint64_t unused[7];
	struct range ranges[RANGES];	/* that are being changed */
};

struct page {
	uint64_t magic;
	uint64_t generation;
	struct range exclusive;
	uint64_t exclusive_turn;	/* a count, and the slot in 8 bits */
	uint64_t unused[11];
	struct slot slots[RSVD_FENCE_SLOTS];
};

struct rsvd_fence {
	int fd;
	struct page *page;
	uint32_t slot;
	bool exclusive;
	uint64_t ranges;	/* entries in use, as bits */
	uint32_t joined;	/* changes in the last one */
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

static void range_put(struct range *range, uint64_t start, uint64_t end)
{
	__atomic_store_n(&range->start, start, __ATOMIC_RELAXED);
	__atomic_store_n(&range->end, end, __ATOMIC_SEQ_CST);
}

static void range_clear(struct range *range)
{
	__atomic_store_n(&range->end, 0, __ATOMIC_SEQ_CST);
}

static bool range_meets(const struct range *range, uint64_t start,
			uint64_t end)
{
	uint64_t its_end = __atomic_load_n(&range->end, __ATOMIC_SEQ_CST);

	return its_end > start &&
		__atomic_load_n(&range->start, __ATOMIC_SEQ_CST) < end;
}

static int fence_take_slot(struct rsvd_fence *fence, const struct guid *nexus,
			   uint64_t pid)
{
	uint32_t i = 0;

	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		struct slot *slot = &fence->page->slots[i];
		size_t r = 0;
		int ret = lock_byte(fence->fd, F_OFD_SETLK, F_WRLCK,
				    LOCK_SLOT + (off_t)i, NULL);

		if (ret == -EAGAIN || ret == -EACCES) {
			continue;
		}
		if (ret != 0) {
			return ret;
		}
		__atomic_store_n(&slot->oldest, NONE, __ATOMIC_SEQ_CST);
		for (r = 0; r < RANGES; r++) {
			range_clear(&slot->ranges[r]);
		}
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

/* Whether the last thread of the slot's process has not ended. */
static bool slot_is_held(struct rsvd_fence *fence, uint32_t slot)
{
	short type = F_UNLCK;
	int ret = 0;

	/* One's own lock is no hindrance, so it does not show. */
	if (slot == fence->slot) {
		return true;
	}
	ret = lock_byte(fence->fd, F_OFD_GETLK, F_WRLCK,
			LOCK_SLOT + (off_t)slot, &type);
	return ret != 0 || type != F_UNLCK;
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

		if (slot->pid == 0 ||
		    __atomic_load_n(&slot->oldest, __ATOMIC_SEQ_CST) >=
		    generation || !slot_is_held(fence, i)) {
			continue;
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

/* ---- ranges ----------------------------------------------------------------------------- */

/* Who died has no range any more, whatever the page says. */
static bool exclusive_is_held(struct rsvd_fence *fence)
{
	short type = F_UNLCK;
	int ret = 0;

	if (fence->exclusive) {
		return true;
	}
	ret = lock_byte(fence->fd, F_OFD_GETLK, F_WRLCK, LOCK_EXCLUSIVE,
			&type);
	return ret != 0 || type != F_UNLCK;
}

int rsvd_fence_range_enter(struct rsvd_fence *fence, uint64_t offset,
			   uint64_t length, uint32_t *_entry)
{
	struct range *ranges = fence->page->slots[fence->slot].ranges;
	uint64_t unused = ~fence->ranges & ((1ULL << RANGE_ALL) - 1);
	uint32_t entry = unused != 0 ? (uint32_t)__builtin_ctzll(unused)
				     : RANGE_ALL;
	uint64_t end = offset + length;

	if (entry == RANGE_ALL) {
		fence->joined++;
		offset = 0;
		end = UINT64_MAX;
	} else {
		fence->ranges |= 1ULL << entry;
	}
	range_put(&ranges[entry], offset, end);
	if (range_meets(&fence->page->exclusive, offset, end) &&
	    exclusive_is_held(fence)) {
		rsvd_fence_range_exit(fence, entry);
		return -EAGAIN;
	}
	*_entry = entry;
	return 0;
}

void rsvd_fence_range_exit(struct rsvd_fence *fence, uint32_t entry)
{
	struct range *ranges = fence->page->slots[fence->slot].ranges;

	if (entry == RANGE_ALL) {
		fence->joined--;
		if (fence->joined > 0) {
			return;
		}
	} else {
		fence->ranges &= ~(1ULL << entry);
	}
	range_clear(&ranges[entry]);
}

int rsvd_fence_exclusive(struct rsvd_fence *fence, uint64_t offset,
			 uint64_t length)
{
	struct page *page = fence->page;
	uint64_t turn = 0;
	int ret = 0;

	if (fence->exclusive) {
		return -EAGAIN;
	}
	ret = lock_byte(fence->fd, F_OFD_SETLK, F_WRLCK, LOCK_EXCLUSIVE, NULL);
	if (ret == -EACCES) {
		return -EAGAIN;
	}
	if (ret != 0) {
		return ret;
	}
	fence->exclusive = true;
	range_clear(&page->exclusive);
	turn = __atomic_load_n(&page->exclusive_turn, __ATOMIC_SEQ_CST) >> 8;
	__atomic_store_n(&page->exclusive_turn, (turn + 1) << 8 | fence->slot,
			 __ATOMIC_SEQ_CST);
	range_put(&page->exclusive, offset, offset + length);
	return 0;
}

bool rsvd_fence_is_settled(struct rsvd_fence *fence)
{
	const struct range *own = &fence->page->exclusive;
	uint32_t i = 0;
	size_t r = 0;

	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		const struct slot *slot = &fence->page->slots[i];

		for (r = 0; slot->pid != 0 && r < RANGES; r++) {
			if (range_meets(&slot->ranges[r], own->start,
					own->end) && slot_is_held(fence, i)) {
				return false;
			}
		}
	}
	return true;
}

uint64_t rsvd_fence_owner(struct rsvd_fence *fence, uint64_t *_turn)
{
	struct page *page = fence->page;
	uint64_t turn = __atomic_load_n(&page->exclusive_turn,
					__ATOMIC_SEQ_CST);

	*_turn = turn;
	if (!exclusive_is_held(fence)) {
		return 0;
	}
	return page->slots[turn & 0xFF].pid;
}

void rsvd_fence_release(struct rsvd_fence *fence)
{
	range_clear(&fence->page->exclusive);
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
