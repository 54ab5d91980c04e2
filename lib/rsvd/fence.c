/*
 * The fence of a shared disk.  Bytes of the file beyond the page are locks: one
 * for COMPARE AND WRITE, one for each slot.
 *
 * On one machine the page is mapped.  Among several it is this process' own
 * copy, of which pull() reads a part and push() writes one: the head from and
 * to the file of all, a slot from and to that slot's.  So what a plain write
 * publishes goes to a file that nobody else writes to, and that others read
 * when they change reservations.
 */
#include "rsvd/fence.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/filelock.h"

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
	uint32_t node;
	uint32_t unused[13];
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
	bool apart;		/* the page is a copy */
	char *path;
	int slot_fds[RSVD_FENCE_SLOTS];	/* apart: files, or -1 */
	int error;
	uint64_t published;	/* apart: what the slot's file has */
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

/* ---- the page -------------------------------------------------------------------- */

/* The file behind a part of the page; -errno, -ENOENT for a slot never used. */
static int file_of(struct rsvd_fence *fence, const void *part, off_t *_at)
{
	const uint8_t *start = (const uint8_t *)fence->page;
	size_t at = (size_t)((const uint8_t *)part - start);
	size_t slot = 0;
	char *path = NULL;

	if (at < offsetof(struct page, slots)) {
		*_at = (off_t)at;
		return fence->fd;
	}
	at -= offsetof(struct page, slots);
	slot = at / sizeof(struct slot);
	*_at = (off_t)(at % sizeof(struct slot));
	if (fence->slot_fds[slot] >= 0) {
		return fence->slot_fds[slot];
	}
	path = talloc_asprintf(fence, "%s.%zu", fence->path, slot);
	if (path == NULL) {
		return -ENOMEM;
	}
	fence->slot_fds[slot] = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	talloc_free(path);
	return fence->slot_fds[slot] >= 0 ? fence->slot_fds[slot] : -errno;
}

/* Bytes of the page between the copy and the file, where there are two. */
static int transfer(struct rsvd_fence *fence, void *part, size_t length,
		    bool out)
{
	off_t at = 0;
	ssize_t done = 0;
	int fd = fence->apart ? file_of(fence, part, &at) : -1;

	if (!fence->apart || fd < 0) {
		return fence->apart ? fd : 0;
	}
	done = out ? pwrite(fd, part, length, at)
		   : pread(fd, part, length, at);
	if (done == (ssize_t)length) {
		return 0;
	}
	return done < 0 ? -errno : -EIO;
}

/* Makes a part of the copy what the file has. */
static int pull(struct rsvd_fence *fence, void *part, size_t length)
{
	return transfer(fence, part, length, false);
}

/* Makes a part of the file what the copy has. */
static int push(struct rsvd_fence *fence, void *part, size_t length)
{
	int ret = transfer(fence, part, length, true);

	if (ret != 0) {
		fence->error = ret;
	}
	return ret;
}

int rsvd_fence_error(const struct rsvd_fence *fence)
{
	return fence->error;
}

static int fence_destructor(struct rsvd_fence *fence)
{
	size_t i = 0;

	if (fence->page != NULL && !fence->apart) {
		munmap(fence->page, sizeof(*fence->page));
	}
	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		if (fence->slot_fds[i] >= 0) {
			close(fence->slot_fds[i]);
		}
	}
	if (fence->fd >= 0) {
		close(fence->fd);
	}
	return 0;
}

/* The head of the copy; whoever is first makes the file. */
static int head_read(struct rsvd_fence *fence, const struct stat *st)
{
	const size_t head = offsetof(struct page, slots);

	fence->page = talloc_zero(fence, struct page);
	if (fence->page == NULL) {
		return -ENOMEM;
	}
	if (st->st_size == 0) {
		/* All write the same. */
		fence->page->magic = MAGIC;
		if (ftruncate(fence->fd, (off_t)head) != 0) {
			return -errno;
		}
		return push(fence, &fence->page->magic,
			    sizeof(fence->page->magic));
	}
	if (st->st_size != (off_t)head) {
		return -EINVAL;
	}
	/* Its maker may not have come to the magic yet. */
	fence->page->magic = MAGIC;
	return push(fence, &fence->page->magic, sizeof(fence->page->magic));
}

static int fence_map(struct rsvd_fence *fence)
{
	struct stat st = {};
	uint64_t none = 0;

	if (fstat(fence->fd, &st) != 0) {
		return -errno;
	}
	if (fence->apart) {
		return head_read(fence, &st);
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

static int range_put(struct rsvd_fence *fence, struct range *range,
		     uint64_t start, uint64_t end)
{
	int ret = 0;

	__atomic_store_n(&range->start, start, __ATOMIC_RELAXED);
	ret = push(fence, &range->start, sizeof(range->start));
	__atomic_store_n(&range->end, end, __ATOMIC_SEQ_CST);
	return ret != 0 ? ret : push(fence, &range->end, sizeof(range->end));
}

static int range_clear(struct rsvd_fence *fence, struct range *range)
{
	__atomic_store_n(&range->end, 0, __ATOMIC_SEQ_CST);
	return push(fence, &range->end, sizeof(range->end));
}

static bool range_is_in(const struct range *range, uint64_t start,
			uint64_t end)
{
	uint64_t its_end = __atomic_load_n(&range->end, __ATOMIC_SEQ_CST);

	return its_end > start &&
		__atomic_load_n(&range->start, __ATOMIC_SEQ_CST) < end;
}

/* The same as the file has it now; true also where it cannot be told. */
static bool range_meets(struct rsvd_fence *fence, struct range *range,
			uint64_t start, uint64_t end)
{
	/* In this order: see struct range. */
	if (pull(fence, &range->end, sizeof(range->end)) != 0) {
		return true;
	}
	if (__atomic_load_n(&range->end, __ATOMIC_SEQ_CST) <= start) {
		return false;
	}
	return pull(fence, &range->start, sizeof(range->start)) != 0 ||
		range_is_in(range, start, end);
}

/*
 * The slot's file, before anybody can have the slot: so whoever has one has
 * made those of all before it.
 */
static int slot_create(struct rsvd_fence *fence, uint32_t i)
{
	char *path = NULL;
	int ret = 0;

	if (!fence->apart || fence->slot_fds[i] >= 0) {
		return 0;
	}
	path = talloc_asprintf(fence, "%s.%u", fence->path, i);
	if (path == NULL) {
		return -ENOMEM;
	}
	fence->slot_fds[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC |
				  O_NOFOLLOW, 0600);
	ret = fence->slot_fds[i] >= 0 ? 0 : -errno;
	talloc_free(path);
	return ret;
}

static int fence_take_slot(struct rsvd_fence *fence, const struct guid *nexus,
			   const struct rsvd_fence_process *process)
{
	uint32_t i = 0;

	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		struct slot *slot = &fence->page->slots[i];
		size_t r = 0;
		int ret = slot_create(fence, i);

		if (ret == 0) {
			ret = lock_byte(fence->fd, F_OFD_SETLK, F_WRLCK,
					LOCK_SLOT + (off_t)i, NULL);
		}
		if (ret == -EAGAIN || ret == -EACCES) {
			if (fence->apart) {
				close(fence->slot_fds[i]);
				fence->slot_fds[i] = -1;
			}
			continue;
		}
		if (ret != 0) {
			return ret;
		}
		__atomic_store_n(&slot->oldest, NONE, __ATOMIC_SEQ_CST);
		for (r = 0; r < RANGES; r++) {
			__atomic_store_n(&slot->ranges[r].end, 0,
					 __ATOMIC_SEQ_CST);
		}
		slot->nexus = *nexus;
		slot->pid = process->pid;
		slot->node = process->node;
		slot->counters = (struct rsvd_fence_counters) {};
		fence->slot = i;
		fence->published = NONE;
		/* All of it, so that writing to it later takes no space. */
		return push(fence, slot, sizeof(*slot));
	}
	return -EUSERS;
}

int rsvd_fence_open(TALLOC_CTX *mem_ctx, const char *path, bool apart,
		    const struct guid *nexus,
		    const struct rsvd_fence_process *process,
		    struct rsvd_fence **_fence)
{
	struct rsvd_fence *fence = talloc_zero(mem_ctx, struct rsvd_fence);
	size_t i = 0;
	int ret = 0;

	if (fence == NULL) {
		return -ENOMEM;
	}
	fence->apart = apart;
	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		fence->slot_fds[i] = -1;
	}
	fence->path = talloc_strdup(fence, path);
	if (fence->path == NULL) {
		talloc_free(fence);
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
		ret = fence_take_slot(fence, nexus, process);
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

uint64_t rsvd_fence_generation(struct rsvd_fence *fence)
{
	int ret = pull(fence, &fence->page->generation,
		       sizeof(fence->page->generation));

	if (ret != 0) {
		fence->error = ret;
		return UINT64_MAX;
	}
	return __atomic_load_n(&fence->page->generation, __ATOMIC_SEQ_CST);
}

/* ---- writes ----------------------------------------------------------------------- */

static int publish(struct rsvd_fence *fence)
{
	struct slot *slot = &fence->page->slots[fence->slot];
	uint64_t oldest = NONE;
	size_t i = 0;

	for (i = 0; i < TRACKED; i++) {
		if (fence->under_way[i].count > 0 &&
		    fence->under_way[i].generation < oldest) {
			oldest = fence->under_way[i].generation;
		}
	}
	__atomic_store_n(&slot->oldest, oldest, __ATOMIC_SEQ_CST);
	if (!fence->apart || oldest == fence->published) {
		return 0;
	}
	fence->published = oldest;
	/* With the counters behind it. */
	return push(fence, slot, offsetof(struct slot, node));
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
	if (publish(fence) == 0 &&
	    rsvd_fence_generation(fence) == generation &&
	    fence->error == 0) {
		return true;
	}
	fence->under_way[row].count--;
	(void)publish(fence);
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
		(void)publish(fence);
	}
}

/* ---- changes ------------------------------------------------------------------------ */

/*
 * Apart, this is stable before the record is: whoever goes with his caches
 * leaves it odd, and nobody goes on with what he knew.
 */
int rsvd_fence_change_begin(struct rsvd_fence *fence)
{
	uint64_t *generation = &fence->page->generation;
	int ret = pull(fence, generation, sizeof(*generation));

	if (ret != 0) {
		return ret;
	}
	__atomic_fetch_or(generation, 1, __ATOMIC_SEQ_CST);
	ret = push(fence, generation, sizeof(*generation));
	if (ret == 0 && fence->apart && fdatasync(fence->fd) != 0) {
		ret = -errno;
	}
	return ret;
}

uint64_t rsvd_fence_change_end(struct rsvd_fence *fence)
{
	uint64_t *generation = &fence->page->generation;
	uint64_t next = 0;

	if (pull(fence, generation, sizeof(*generation)) != 0) {
		return UINT64_MAX;
	}
	next = __atomic_add_fetch(generation, 1, __ATOMIC_SEQ_CST);
	/* Where that fails it stays odd, and all take the slow way. */
	(void)push(fence, generation, sizeof(*generation));
	return next;
}

uint64_t rsvd_fence_settle(struct rsvd_fence *fence)
{
	uint64_t generation = rsvd_fence_generation(fence);

	if ((generation & 1) != 0) {
		generation = rsvd_fence_change_end(fence);
	}
	return generation;
}

bool rsvd_fence_is_held(const struct rsvd_fence *fence, uint32_t slot)
{
	short type = F_UNLCK;
	int ret = 0;

	/* One's own lock is no hindrance, so it does not show. */
	if (slot == fence->slot) {
		return true;
	}
	if (slot == RSVD_FENCE_NO_SLOT) {
		return false;
	}
	ret = lock_byte(fence->fd, F_OFD_GETLK, F_WRLCK,
			LOCK_SLOT + (off_t)slot, &type);
	return ret != 0 || type != F_UNLCK;
}

bool rsvd_fence_is_held_at(const char *path, uint32_t slot)
{
	return slot != RSVD_FENCE_NO_SLOT &&
		filelock_is_held(path, LOCK_SLOT + (off_t)slot, 1);
}

bool rsvd_fence_is_used_at(const char *path)
{
	return filelock_is_held(path, LOCK_SLOT, RSVD_FENCE_SLOTS);
}

/*
 * What a slot says now: 0; 1 where nobody has let anything in by it yet;
 * -ENOENT where nobody ever had it, nor any behind it; or it is not known.
 */
static int slot_look(struct rsvd_fence *fence, uint32_t i, void *end)
{
	struct slot *slot = &fence->page->slots[i];
	off_t at = 0;
	int fd = -1;
	int ret = 0;

	if (fence->apart && i != fence->slot) {
		ret = pull(fence, slot,
			   (size_t)((uint8_t *)end - (uint8_t *)slot));
		fd = ret == -EIO ? file_of(fence, slot, &at) : -1;
		if (fd >= 0 && lseek(fd, 0, SEEK_END) == 0) {
			return 1;
		}
		if (ret != 0) {
			return ret;
		}
	}
	return slot->pid != 0 ? 0 : 1;
}

unsigned rsvd_fence_busy(struct rsvd_fence *fence, uint64_t generation,
			 bool (*each)(void *private_data,
				      const struct guid *nexus,
				      const struct rsvd_fence_process *who),
			 void *private_data)
{
	unsigned busy = 0;
	uint32_t i = 0;

	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		struct slot *slot = &fence->page->slots[i];
		struct rsvd_fence_process who = {};
		int ret = slot_look(fence, i, slot->ranges);

		if (ret == -ENOENT) {
			break;
		}
		if (ret > 0 || (ret == 0 &&
				__atomic_load_n(&slot->oldest,
						__ATOMIC_SEQ_CST) >=
				generation) || !rsvd_fence_is_held(fence, i)) {
			continue;
		}
		who.pid = slot->pid;
		who.node = slot->node;
		busy += ret < 0 || each(private_data, &slot->nexus, &who);
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
	struct stat st = {};
	char *own = NULL;
	off_t at = (off_t)(offsetof(struct page, slots) +
			   slot * sizeof(found));
	int fd = -1;
	ssize_t got = 0;

	if (slot >= RSVD_FENCE_SLOTS) {
		return -EINVAL;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		return -errno;
	}
	if (fstat(fd, &st) == 0 &&
	    st.st_size == (off_t)offsetof(struct page, slots)) {
		/* One of several machines: the slot has a file of its own. */
		close(fd);
		own = talloc_asprintf(NULL, "%s.%u", path, slot);
		fd = own != NULL ? open(own, O_RDONLY | O_CLOEXEC |
					O_NOFOLLOW) : -1;
		talloc_free(own);
		if (fd < 0) {
			return -ENOENT;
		}
		at = 0;
	}
	got = pread(fd, &found, sizeof(found), at);
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
	int ret = 0;

	if (entry == RANGE_ALL) {
		fence->joined++;
		offset = 0;
		end = UINT64_MAX;
	} else {
		fence->ranges |= 1ULL << entry;
	}
	ret = range_put(fence, &ranges[entry], offset, end);
	if (ret == 0 && range_meets(fence, &fence->page->exclusive, offset,
				    end) && exclusive_is_held(fence)) {
		ret = -EAGAIN;
	}
	if (ret != 0) {
		rsvd_fence_range_exit(fence, entry);
		return ret;
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
	(void)range_clear(fence, &ranges[entry]);
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
	ret = range_clear(fence, &page->exclusive);
	if (ret == 0) {
		ret = pull(fence, &page->exclusive_turn,
			   sizeof(page->exclusive_turn));
	}
	turn = __atomic_load_n(&page->exclusive_turn, __ATOMIC_SEQ_CST) >> 8;
	__atomic_store_n(&page->exclusive_turn, (turn + 1) << 8 | fence->slot,
			 __ATOMIC_SEQ_CST);
	if (ret == 0) {
		ret = push(fence, &page->exclusive_turn,
			   sizeof(page->exclusive_turn));
	}
	if (ret == 0) {
		ret = range_put(fence, &page->exclusive, offset,
				offset + length);
	}
	if (ret != 0) {
		rsvd_fence_release(fence);
	}
	return ret;
}

bool rsvd_fence_is_settled(struct rsvd_fence *fence)
{
	const struct range *own = &fence->page->exclusive;
	uint32_t i = 0;
	size_t r = 0;

	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		struct slot *slot = &fence->page->slots[i];
		int ret = slot_look(fence, i, slot + 1);
		bool meets = ret < 0;

		if (ret == -ENOENT) {
			break;
		}
		for (r = 0; ret == 0 && !meets && r < RANGES; r++) {
			meets = range_is_in(&slot->ranges[r], own->start,
					    own->end);
		}
		if (meets && rsvd_fence_is_held(fence, i)) {
			return false;
		}
	}
	return true;
}

struct rsvd_fence_process rsvd_fence_owner(struct rsvd_fence *fence,
					   uint64_t *_turn)
{
	struct page *page = fence->page;
	struct rsvd_fence_process owner = {};
	uint64_t turn = 0;
	struct slot *slot = NULL;

	(void)pull(fence, &page->exclusive_turn,
		   sizeof(page->exclusive_turn));
	turn = __atomic_load_n(&page->exclusive_turn, __ATOMIC_SEQ_CST);
	*_turn = turn;
	slot = &page->slots[turn & 0xFF];
	if (exclusive_is_held(fence) &&
	    slot_look(fence, turn & 0xFF, slot->ranges) == 0) {
		owner.pid = slot->pid;
		owner.node = slot->node;
	}
	return owner;
}

void rsvd_fence_release(struct rsvd_fence *fence)
{
	(void)range_clear(fence, &fence->page->exclusive);
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
