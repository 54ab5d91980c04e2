/* Limits in shared memory. */
#include "sqos/rate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x3130525351535648)
#define SLOTS 65536
#define REACH 64
#define SECOND UINT64_C(1000000000)
#define IDLE_NS (120 * SECOND)
#define FORGOTTEN_NS (2 * SECOND)
/* This part of a minimum is taken for it. */
#define ENOUGH 0.97
/* All others together are never held to less, io a second. */
#define HELD_LEAST 64

/*
 * The limit is the group's; a flow's share of it is for fairness, and only in
 * the mean: else the group loses what one flow has taken and cannot use yet.
 */
#define SHARE_BURST_NS	SECOND

struct slot {
	_Atomic uint32_t state;	/* odd: being taken; else its generation */
	uint8_t key[SQOS_RATE_KEY];
	_Atomic uint64_t used;
	_Atomic uint64_t io, kb, least;
	_Atomic uint64_t io_due, kb_due, least_due;
	_Atomic uint64_t io_used, kb_used;
	_Atomic uint64_t told;	/* when the last one that waits may go */
} __attribute__((aligned(128)));

/* In the place of the first slot. */
struct head {
	uint64_t magic;
	char boot[40];
	_Atomic uint64_t held;		/* io a second; 0: no */
	_Atomic uint64_t held_due;
	_Atomic uint64_t others;	/* io that was owed to no minimum */
	_Atomic uint64_t looked;
	uint64_t looked_others;
} __attribute__((aligned(128)));

struct sqos_rates {
	union {
		struct head *head;
		struct slot *slots;
	};
};

static void boot_id(char out[40])
{
	int fd = open("/proc/sys/kernel/random/boot_id",
		      O_RDONLY | O_CLOEXEC);

	memset(out, 0, 40);
	if (fd != -1) {
		if (read(fd, out, 39) < 0) {
			out[0] = '\0';
		}
		close(fd);
	}
}

static int unmap(struct sqos_rates *rates)
{
	munmap(rates->slots, SLOTS * sizeof(struct slot));
	return 0;
}

/* As it shall be found: of this start of the machine. */
static int prepare(int fd)
{
	struct head head = {};
	char boot[40];
	int ret = 0;

	boot_id(boot);
	if (flock(fd, LOCK_EX) != 0) {
		return -errno;
	}
	if (pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
	    head.magic != MAGIC || memcmp(head.boot, boot, 40) != 0) {
		memset(&head, 0, sizeof(head));
		head.magic = MAGIC;
		memcpy(head.boot, boot, 40);
		if (ftruncate(fd, 0) != 0 ||
		    ftruncate(fd, SLOTS * sizeof(struct slot)) != 0 ||
		    pwrite(fd, &head, sizeof(head), 0) !=
			    (ssize_t)sizeof(head)) {
			ret = -errno;
		}
	}
	flock(fd, LOCK_UN);
	return ret;
}

int sqos_rates_open(TALLOC_CTX *mem_ctx, const char *path,
		    struct sqos_rates **_rates)
{
	struct sqos_rates *rates = talloc_zero(mem_ctx, struct sqos_rates);
	void *map = MAP_FAILED;
	int ret = 0;
	int fd = -1;

	if (rates == NULL) {
		return -ENOMEM;
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	ret = fd == -1 ? -errno : prepare(fd);
	if (ret == 0) {
		map = mmap(NULL, SLOTS * sizeof(struct slot),
			   PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		ret = map == MAP_FAILED ? -errno : 0;
	}
	if (fd != -1) {
		close(fd);
	}
	if (ret != 0) {
		talloc_free(rates);
		return ret;
	}
	rates->slots = map;
	talloc_set_destructor(rates, unmap);
	*_rates = rates;
	return 0;
}

/* ---- slots --------------------------------------------------------------------- */

static uint32_t hash(const uint8_t key[SQOS_RATE_KEY])
{
	uint32_t sum = 2166136261u;
	size_t i = 0;

	for (i = 0; i < SQOS_RATE_KEY; i++) {
		sum = (sum ^ key[i]) * 16777619u;
	}
	return sum ^ sum >> 16;
}

static struct slot *slot_at(struct sqos_rates *rates, uint32_t start,
			    uint32_t step, uint32_t *_index)
{
	/* Never 0, where the head is. */
	*_index = 1 + (start + step) % (SLOTS - 1);
	return &rates->slots[*_index];
}

static struct slot *slot_get(struct sqos_rates *rates,
			     const struct sqos_ref *ref)
{
	struct slot *slot = NULL;

	if (ref == NULL || ref->index == 0 || ref->index >= SLOTS) {
		return NULL;
	}
	slot = &rates->slots[ref->index];
	return atomic_load(&slot->state) == ref->generation ? slot : NULL;
}

/* Takes a slot that is free, or that nobody has used for long. */
static bool slot_take(struct slot *slot, const uint8_t key[SQOS_RATE_KEY],
		      uint64_t now, uint32_t *_generation)
{
	uint32_t state = atomic_load(&slot->state);
	uint64_t used = atomic_load(&slot->used);

	if ((state & 1) != 0 ||
	    (state != 0 && used + IDLE_NS > now) ||
	    !atomic_compare_exchange_strong(&slot->state, &state,
					    state + 1)) {
		return false;
	}
	memcpy(slot->key, key, SQOS_RATE_KEY);
	atomic_store(&slot->used, now);
	atomic_store(&slot->io, 0);
	atomic_store(&slot->kb, 0);
	atomic_store(&slot->least, 0);
	atomic_store(&slot->io_due, 0);
	atomic_store(&slot->kb_due, 0);
	atomic_store(&slot->least_due, 0);
	atomic_store(&slot->io_used, 0);
	atomic_store(&slot->kb_used, 0);
	atomic_store(&slot->told, 0);
	/* 0 is kept for what was never used. */
	*_generation = state + 2 != 0 ? state + 2 : 2;
	atomic_store(&slot->state, *_generation);
	return true;
}

bool sqos_rates_find(struct sqos_rates *rates,
		     const uint8_t key[SQOS_RATE_KEY], uint64_t now,
		     struct sqos_ref *_ref)
{
	uint32_t start = hash(key);
	uint32_t i = 0;

	for (i = 0; i < REACH; i++) {
		struct slot *slot = slot_at(rates, start, i, &_ref->index);
		uint32_t state = atomic_load(&slot->state);

		if (state == 0) {
			break;
		}
		if ((state & 1) == 0 &&
		    memcmp(slot->key, key, SQOS_RATE_KEY) == 0 &&
		    atomic_load(&slot->state) == state) {
			atomic_store(&slot->used, now);
			_ref->generation = state;
			return true;
		}
	}
	for (i = 0; i < REACH; i++) {
		struct slot *slot = slot_at(rates, start, i, &_ref->index);

		if (slot_take(slot, key, now, &_ref->generation)) {
			return true;
		}
	}
	*_ref = (struct sqos_ref) {};
	return false;
}

/* A limit that grows forgives what was to be waited under the old one. */
static void rate_set(_Atomic uint64_t *rate, _Atomic uint64_t *due,
		     uint64_t value, uint64_t now)
{
	uint64_t before = atomic_exchange(rate, value);
	uint64_t seen = atomic_load(due);

	if (before != 0 && (value == 0 || value > before) &&
	    seen > now + SECOND) {
		atomic_compare_exchange_strong(due, &seen, now + SECOND);
	}
}

void sqos_rates_set(struct sqos_rates *rates, const struct sqos_ref *ref,
		    uint64_t io, uint64_t kb, uint64_t least, uint64_t now)
{
	struct slot *slot = slot_get(rates, ref);

	if (slot == NULL) {
		return;
	}
	atomic_store(&slot->used, now);
	rate_set(&slot->io, &slot->io_due, io, now);
	rate_set(&slot->kb, &slot->kb_due, kb, now);
	atomic_store(&slot->least, least);
}

bool sqos_rates_used(struct sqos_rates *rates, const struct sqos_ref *ref,
		     uint64_t now, uint64_t *_io, uint64_t *_kb)
{
	struct slot *slot = slot_get(rates, ref);

	*_io = slot != NULL ? atomic_load(&slot->io_used) : 0;
	*_kb = slot != NULL ? atomic_load(&slot->kb_used) : 0;
	return slot != NULL &&
		atomic_load(&slot->told) > now + SQOS_BURST_NS;
}

/* ---- charging ------------------------------------------------------------------- */

static uint64_t price(uint64_t count, uint64_t rate)
{
	unsigned __int128 ns = (unsigned __int128)count * SECOND / rate;

	return ns < UINT64_MAX / 4 ? (uint64_t)ns : UINT64_MAX / 4;
}

/* Who was idle has a burst to take at once, no more. */
static uint64_t due_from(uint64_t due, uint64_t now, uint64_t burst)
{
	uint64_t least = now > burst ? now - burst : 0;

	return due > least ? due : least;
}

static uint64_t due_after(uint64_t from, uint64_t cost)
{
	uint64_t next = from + cost;

	return next >= from && next < UINT64_MAX / 2 ? next : UINT64_MAX / 2;
}

/* Takes from one limit; for how long that is too early. */
static uint64_t take(_Atomic uint64_t *rate, _Atomic uint64_t *due,
		     uint64_t count, uint64_t now, uint64_t burst)
{
	uint64_t most = atomic_load_explicit(rate, memory_order_relaxed);
	uint64_t seen = atomic_load_explicit(due, memory_order_relaxed);
	uint64_t from = 0;

	if (most == 0) {
		return 0;
	}
	do {
		from = due_from(seen, now, burst);
	} while (!atomic_compare_exchange_weak(
		due, &seen, due_after(from, price(count, most))));
	return from > now ? from - now : 0;
}

static uint64_t longer(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t take_both(struct slot *slot, uint64_t io, uint64_t kb,
			  uint64_t now, uint64_t burst)
{
	uint64_t wait = take(&slot->io, &slot->io_due, io, now, burst);
	uint64_t seen = 0;

	atomic_fetch_add_explicit(&slot->io_used, io, memory_order_relaxed);
	atomic_fetch_add_explicit(&slot->kb_used, kb, memory_order_relaxed);
	wait = longer(wait, take(&slot->kb, &slot->kb_due, kb, now, burst));
	seen = atomic_load_explicit(&slot->told, memory_order_relaxed);
	while (wait > 0 && seen < now + wait &&
	       !atomic_compare_exchange_weak(&slot->told, &seen, now + wait)) {
	}
	return wait;
}

/*
 * Whether a flow is owed a request by its minimum before the others' turn,
 * *_wait from now; if so, this one counts towards it, and *_wait is when.
 */
static bool take_least(struct slot *slot, uint64_t count, uint64_t now,
		       uint64_t *_wait)
{
	uint64_t least = atomic_load_explicit(&slot->least,
					      memory_order_relaxed);
	uint64_t seen = atomic_load(&slot->least_due);
	uint64_t from = 0;
	uint64_t wait = 0;

	if (least == 0) {
		return false;
	}
	do {
		from = due_from(seen, now, SQOS_BURST_NS);
		wait = from > now ? from - now : 0;
		if (wait > *_wait) {
			return false;
		}
	} while (!atomic_compare_exchange_weak(
		&slot->least_due, &seen,
		due_after(from, price(count, least))));
	*_wait = wait;
	return true;
}

uint64_t sqos_rates_held(const struct sqos_rates *rates, uint64_t now)
{
	uint64_t looked = atomic_load(&rates->head->looked);

	return looked + FORGOTTEN_NS > now ? atomic_load(&rates->head->held)
					   : 0;
}

uint64_t sqos_rates_charge(struct sqos_rates *rates,
			   const struct sqos_ref *flow_ref,
			   const struct sqos_ref *group_ref, uint64_t io,
			   uint64_t kb, uint64_t now)
{
	struct slot *flow = slot_get(rates, flow_ref);
	struct slot *group = slot_get(rates, group_ref);
	uint64_t held = sqos_rates_held(rates, now);
	struct head *head = rates->head;
	uint64_t shared = 0;
	uint64_t burst = SQOS_BURST_NS;
	uint64_t turn = 0;
	uint64_t own = 0;

	if (group != NULL) {
		shared = take_both(group, io, kb, now, burst);
		burst = SHARE_BURST_NS;
	}
	if (flow != NULL) {
		own = take_both(flow, io, kb, now, burst);
	}
	turn = held != 0 ? due_from(atomic_load(&head->held_due), now,
				   SQOS_BURST_NS) : 0;
	turn = longer(shared, turn > now ? turn - now : 0);
	if (flow != NULL && take_least(flow, io, now, &turn)) {
		return longer(own, turn);
	}
	atomic_fetch_add_explicit(&head->others, io, memory_order_relaxed);
	if (held != 0) {
		shared = longer(shared, take(&head->held, &head->held_due, io,
					     now, SQOS_BURST_NS));
	}
	return longer(own, shared);
}

void sqos_rates_feedback(struct sqos_rates *rates, double got, uint64_t now)
{
	struct head *head = rates->head;
	uint64_t looked = atomic_load(&head->looked);
	uint64_t held = sqos_rates_held(rates, now);
	uint64_t others = 0;
	uint64_t rate = 0;

	if (looked + SQOS_LOOK_NS > now ||
	    !atomic_compare_exchange_strong(&head->looked, &looked, now)) {
		return;
	}
	others = atomic_load(&head->others);
	if (looked != 0 && now - looked < FORGOTTEN_NS) {
		rate = (others - head->looked_others) * SECOND /
			(now - looked);
	}
	head->looked_others = others;
	if (got < ENOUGH) {
		if (held == 0 || (rate > 0 && rate < held)) {
			held = rate;
		}
		held = (uint64_t)((double)held * (got < 0.5 ? 0.5 :
						  got < 0.9 ? got : 0.9));
		held = held > HELD_LEAST ? held : HELD_LEAST;
		/* Before it is known what the others do. */
		held = rate == 0 && looked == 0 ? 0 : held;
	} else if (held != 0) {
		held += held / 32 + 1;
		if (held > 2 * rate + 1000) {
			held = 0;
		}
	}
	atomic_store(&head->held, held);
}
