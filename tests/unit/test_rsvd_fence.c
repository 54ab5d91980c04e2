/*
 * The fence between processes: these fork, as there is no other way to see
 * what a dead or stopped one leaves.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "rsvd/fence.h"
#include "support/child.h"

struct place {
	char folder[32];
	char path[64];
	bool apart;
	TALLOC_CTX *mem;
};

static int start(void **test)
{
	struct place *p = talloc_zero(NULL, struct place);

	strcpy(p->folder, "/tmp/hvrs-fence-XXXXXX");
	if (mkdtemp(p->folder) == NULL) {
		return -1;
	}
	snprintf(p->path, sizeof(p->path), "%s/fence", p->folder);
	p->mem = p;
	*test = p;
	/* A test that hangs has failed. */
	alarm(100);
	return 0;
}

/* Each on a node of its own, of the number that it has. */
static bool on_nodes;

/* As among machines: files that are read and written. */
static int start_apart(void **test)
{
	int ret = start(test);

	if (ret == 0) {
		((struct place *)*test)->apart = true;
		on_nodes = true;
	}
	return ret;
}

/* In the library's place: what others see when a change becomes stable. */
static struct {
	struct rsvd_fence *by;
	unsigned count;
	uint64_t seen;
	bool fails;
} flushed;

int fdatasync(int fd)
{
	(void)fd;
	flushed.count++;
	if (flushed.by != NULL) {
		flushed.seen = rsvd_fence_generation(flushed.by);
	}
	errno = EIO;
	return flushed.fails ? -1 : 0;
}

static int finish(void **test)
{
	struct place *p = *test;
	char name[96];
	unsigned i = 0;

	alarm(0);
	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		snprintf(name, sizeof(name), "%s.%u", p->path, i);
		unlink(name);
	}
	unlink(p->path);
	rmdir(p->folder);
	talloc_free(p);
	on_nodes = false;
	memset(&flushed, 0, sizeof(flushed));
	return 0;
}

static int open_fence(struct place *p, uint8_t who,
		      struct rsvd_fence **_fence)
{
	struct rsvd_fence_process self = {
		.pid = (uint64_t)getpid(), .node = p->apart ? who : 0,
	};
	struct guid nexus = { { who } };

	return rsvd_fence_open(p->mem, p->path, p->apart, &nexus, &self,
			       _fence);
}

static struct rsvd_fence *join(struct place *p, uint8_t who)
{
	struct rsvd_fence *fence = NULL;

	if (open_fence(p, who, &fence) != 0) {
		abort();
	}
	return fence;
}

static uint64_t owner(struct rsvd_fence *fence, uint64_t *_turn)
{
	return rsvd_fence_owner(fence, _turn).pid;
}

static bool anybody(void *private_data, const struct guid *nexus,
		    const struct rsvd_fence_process *who)
{
	uint8_t *seen = private_data;

	assert_int_equal(who->node, on_nodes ? nexus->bytes[0] : 0);
	if (seen != NULL) {
		*seen = nexus->bytes[0];
	}
	return true;
}

static uint64_t raise_generation(struct rsvd_fence *fence)
{
	rsvd_fence_change_begin(fence);
	return rsvd_fence_change_end(fence);
}

static void test_a_write_of_before_is_waited_for(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	struct rsvd_fence *b = join(*test, 2);
	uint64_t now = rsvd_fence_generation(a);
	uint64_t later = 0;
	uint8_t seen = 0;

	assert_true(rsvd_fence_enter(a, now));
	assert_int_equal(rsvd_fence_busy(b, now, anybody, NULL), 0);
	later = raise_generation(b);
	assert_int_equal(rsvd_fence_busy(b, later, anybody, &seen), 1);
	assert_int_equal(seen, 1);
	/* One of after is not in the way. */
	assert_true(rsvd_fence_enter(a, later));
	rsvd_fence_exit(a, now);
	assert_int_equal(rsvd_fence_busy(b, later, anybody, NULL), 0);
	rsvd_fence_exit(a, later);
	talloc_free(a);
	talloc_free(b);
}

static void test_an_old_generation_does_not_enter(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	uint64_t now = rsvd_fence_generation(a);
	uint64_t later = 0;

	rsvd_fence_change_begin(a);
	assert_false(rsvd_fence_enter(a, now));
	later = rsvd_fence_change_end(a);
	assert_false(rsvd_fence_enter(a, now));
	assert_int_equal(rsvd_fence_busy(a, later, anybody, NULL), 0);
	assert_true(rsvd_fence_enter(a, later));
	rsvd_fence_exit(a, later);
	talloc_free(a);
}

static void test_a_change_cut_off_is_settled(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	uint64_t now = rsvd_fence_generation(a);

	rsvd_fence_change_begin(a);
	assert_int_equal(rsvd_fence_generation(a) & 1, 1);
	/* Who comes next may find it so, and begin a change of its own. */
	rsvd_fence_change_begin(a);
	assert_int_equal(rsvd_fence_change_end(a), now + 2);
	rsvd_fence_change_begin(a);
	assert_int_equal(rsvd_fence_settle(a), now + 4);
	assert_int_equal(rsvd_fence_settle(a), now + 4);
	talloc_free(a);
}

static void test_a_change_that_begins_is_stable(void **test)
{
	struct place *p = *test;
	struct rsvd_fence *a = join(p, 1);
	struct rsvd_fence *b = join(p, 2);
	uint64_t now = rsvd_fence_generation(a);
	unsigned round = 0;

	for (round = 0; round < 4; round++) {
		struct rsvd_fence *who = round % 2 == 0 ? a : b;
		struct rsvd_fence *other = round % 2 == 0 ? b : a;

		memset(&flushed, 0, sizeof(flushed));
		flushed.by = other;
		assert_int_equal(rsvd_fence_change_begin(who), 0);
		assert_int_equal(flushed.count, p->apart);
		assert_int_equal(rsvd_fence_generation(other), now + 1);
		assert_int_equal(flushed.seen, p->apart ? now + 1 : 0);
		now += 2;
		assert_int_equal(rsvd_fence_change_end(who), now);
		assert_int_equal(rsvd_fence_generation(other), now);
	}
	flushed.fails = true;
	assert_int_equal(rsvd_fence_change_begin(b), p->apart ? -EIO : 0);
	memset(&flushed, 0, sizeof(flushed));
	assert_int_equal(rsvd_fence_settle(a), now + 2);
	assert_int_equal(rsvd_fence_generation(b), now + 2);
	talloc_free(a);
	talloc_free(b);
}

static void test_many_generations_under_way(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	uint64_t first = rsvd_fence_generation(a);
	uint64_t last = first;
	uint64_t all[20];
	size_t i = 0;

	for (i = 0; i < 20; i++) {
		all[i] = rsvd_fence_generation(a);
		assert_true(rsvd_fence_enter(a, all[i]));
		last = raise_generation(a);
	}
	assert_int_equal(rsvd_fence_busy(a, last, anybody, NULL), 1);
	/* In any order, it is busy until the last one is over. */
	for (i = 0; i < 20; i++) {
		assert_int_equal(rsvd_fence_busy(a, last, anybody, NULL), 1);
		rsvd_fence_exit(a, all[(i * 7) % 20]);
	}
	assert_int_equal(rsvd_fence_busy(a, last, anybody, NULL), 0);
	talloc_free(a);
}

static bool take_turn(void *private_data)
{
	struct rsvd_fence *a = join(private_data, 1);

	return rsvd_fence_enter(a, rsvd_fence_generation(a));
}

static void test_who_died_has_no_write_under_way(void **test)
{
	struct rsvd_fence *b = join(*test, 2);
	pid_t child = child_holds(take_turn, *test);
	uint64_t later = 0;

	assert_true(child > 0);
	later = raise_generation(b);
	assert_int_equal(rsvd_fence_busy(b, later, anybody, NULL), 1);
	kill(child, SIGSTOP);
	assert_int_equal(rsvd_fence_busy(b, later, anybody, NULL), 1);
	child_kill(child);
	assert_int_equal(rsvd_fence_busy(b, later, anybody, NULL), 0);
	talloc_free(b);
}

/*
 * Two processes, one page: one "writes" while admitted, the other forbids it
 * and then looks.  A write seen after the fence said "over" is the end of it.
 */
static void test_no_write_is_seen_after_the_fence(void **test)
{
	struct shared {
		uint64_t allowed;	/* generation that may write, or 0 */
		uint64_t marks;
		uint64_t stop;
	} *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct rsvd_fence *b = join(*test, 2);
	pid_t child = 0;
	unsigned round = 0;

	(void)raise_generation(b);	/* 0 means nobody here */
	child = fork();
	if (child == 0) {
		struct rsvd_fence *a = join(*test, 1);

		while (!__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST)) {
			uint64_t now = __atomic_load_n(&s->allowed,
						       __ATOMIC_SEQ_CST);

			if (now == 0 || !rsvd_fence_enter(a, now)) {
				continue;
			}
			__atomic_fetch_add(&s->marks, 1, __ATOMIC_RELAXED);
			rsvd_fence_exit(a, now);
		}
		_exit(0);
	}
	for (round = 0; round < 300; round++) {
		uint64_t marks = 0;
		uint64_t later = 0;
		unsigned i = 0;

		marks = __atomic_load_n(&s->marks, __ATOMIC_SEQ_CST);
		__atomic_store_n(&s->allowed, rsvd_fence_generation(b),
				 __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&s->marks, __ATOMIC_SEQ_CST) <
		       marks + 10) {
			usleep(10);
		}
		later = raise_generation(b);
		while (rsvd_fence_busy(b, later, anybody, NULL) != 0) {
		}
		marks = __atomic_load_n(&s->marks, __ATOMIC_SEQ_CST);
		for (i = 0; i < 20; i++) {
			usleep(5);
			assert_int_equal(__atomic_load_n(&s->marks,
							 __ATOMIC_SEQ_CST),
					 marks);
		}
	}
	__atomic_store_n(&s->stop, 1, __ATOMIC_SEQ_CST);
	waitpid(child, NULL, 0);
	munmap(s, 4096);
	talloc_free(b);
}

static void test_slots_are_given_back(void **test)
{
	struct place *p = *test;
	struct rsvd_fence *all[RSVD_FENCE_SLOTS];
	struct rsvd_fence *more = NULL;
	size_t i = 0;

	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		all[i] = join(p, 1);
		assert_int_equal(rsvd_fence_slot(all[i]), i);
	}
	assert_int_equal(open_fence(p, 1, &more), -EUSERS);
	talloc_free(all[17]);
	assert_int_equal(open_fence(p, 1, &more), 0);
	assert_int_equal(rsvd_fence_slot(more), 17);
	talloc_free(more);
	for (i = 0; i < RSVD_FENCE_SLOTS; i++) {
		if (i != 17) {
			talloc_free(all[i]);
		}
	}
}

static bool be_busy(void *private_data)
{
	struct place *p = private_data;
	struct rsvd_fence *a = join(p, 9);
	uint32_t entry = 0;

	rsvd_fence_counters(a)->reads = 1;
	rsvd_fence_counters(a)->commands = 1;
	return rsvd_fence_slot(a) == 1 &&
		rsvd_fence_range_enter(a, 0, 512, &entry) == 0 &&
		rsvd_fence_enter(a, rsvd_fence_generation(a));
}

static void test_a_slot_taken_over_has_nothing_of_before(void **test)
{
	struct place *p = *test;
	struct rsvd_fence *b = join(p, 2);
	pid_t child = child_holds(be_busy, p);
	const struct rsvd_fence_counters none = {};
	struct rsvd_fence_counters seen = {};
	struct rsvd_fence *a = NULL;
	uint64_t later = 0;
	uint32_t entry = 0;
	uint8_t who = 0;

	assert_true(child > 0);
	assert_int_equal(rsvd_fence_exclusive(b, 0, 512), 0);
	assert_false(rsvd_fence_is_settled(b));
	later = raise_generation(b);
	assert_int_equal(rsvd_fence_busy(b, later, anybody, &who), 1);
	assert_int_equal(who, 9);
	child_kill(child);
	a = join(p, 3);
	assert_int_equal(rsvd_fence_slot(a), 1);
	assert_int_equal(rsvd_fence_busy(b, later, anybody, NULL), 0);
	assert_true(rsvd_fence_is_settled(b));
	rsvd_fence_release(b);
	assert_int_equal(rsvd_fence_look(p->path, 1, (uint64_t)child, &seen),
			 -ENOENT);
	assert_int_equal(rsvd_fence_look(p->path, 1, (uint64_t)getpid(),
					 &seen), 0);
	assert_memory_equal(&seen, &none, sizeof(seen));
	assert_int_equal(rsvd_fence_range_enter(a, 0, 512, &entry), 0);
	rsvd_fence_range_exit(a, entry);
	/* And it is his. */
	assert_true(rsvd_fence_enter(a, later));
	assert_int_equal(rsvd_fence_busy(b, raise_generation(b), anybody,
					 &who), 1);
	assert_int_equal(who, 3);
	rsvd_fence_exit(a, later);
	talloc_free(a);
	talloc_free(b);
}

static void test_exclusive_is_one_at_a_time(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	struct rsvd_fence *b = join(*test, 2);

	uint64_t first = 0;
	uint64_t second = 0;

	assert_int_equal(owner(b, &first), 0);
	assert_int_equal(rsvd_fence_exclusive(a, 0, 512), 0);
	assert_int_equal(rsvd_fence_exclusive(a, 0, 512), -EAGAIN);
	assert_int_equal(rsvd_fence_exclusive(b, 4096, 512), -EAGAIN);
	assert_int_equal(owner(b, &first), getpid());
	rsvd_fence_release(a);
	assert_int_equal(owner(b, &second), 0);
	assert_int_equal(first, second);
	assert_int_equal(rsvd_fence_exclusive(b, 4096, 512), 0);
	assert_int_equal(owner(b, &second), getpid());
	assert_int_not_equal(first, second);
	talloc_free(b);
	assert_int_equal(rsvd_fence_exclusive(a, 0, 512), 0);
	talloc_free(a);
}

static void test_a_range_of_ones_own_keeps_others_out(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	struct rsvd_fence *b = join(*test, 2);
	uint32_t inside = 0;
	uint32_t beside = 0;
	uint32_t after = 0;

	/* Who is in it already is waited for. */
	assert_int_equal(rsvd_fence_range_enter(b, 4096, 4096, &inside), 0);
	assert_int_equal(rsvd_fence_range_enter(b, 0, 4096, &beside), 0);
	assert_int_equal(rsvd_fence_exclusive(a, 4096, 512), 0);
	assert_false(rsvd_fence_is_settled(a));
	assert_int_equal(rsvd_fence_range_enter(b, 4096 + 511, 1, &after),
			 -EAGAIN);
	rsvd_fence_range_exit(b, inside);
	assert_true(rsvd_fence_is_settled(a));
	/* Nor does the same open get in; what only borders does. */
	assert_int_equal(rsvd_fence_range_enter(a, 0, 8192, &after), -EAGAIN);
	assert_int_equal(rsvd_fence_range_enter(b, 4096 + 512, 1, &after), 0);
	rsvd_fence_range_exit(b, after);
	assert_true(rsvd_fence_is_settled(a));
	rsvd_fence_release(a);
	assert_int_equal(rsvd_fence_range_enter(b, 4096, 512, &inside), 0);
	rsvd_fence_range_exit(b, inside);
	rsvd_fence_range_exit(b, beside);
	talloc_free(a);
	talloc_free(b);
}

static void test_more_ranges_than_are_told_apart(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	struct rsvd_fence *b = join(*test, 2);
	uint32_t all[200] = {};
	uint32_t more = 0;
	size_t i = 0;

	for (i = 0; i < 200; i++) {
		assert_int_equal(rsvd_fence_range_enter(b, i * 512, 512,
							&all[i]), 0);
	}
	/* Somewhere are bytes of this one, too: it waits, and so does more. */
	assert_int_equal(rsvd_fence_exclusive(a, 1 << 30, 512), 0);
	assert_false(rsvd_fence_is_settled(a));
	assert_int_equal(rsvd_fence_range_enter(b, 0, 512, &more), -EAGAIN);
	for (i = 0; i < 199; i++) {
		rsvd_fence_range_exit(b, all[(i * 7) % 200]);
	}
	rsvd_fence_range_exit(b, all[(199 * 7) % 200]);
	assert_true(rsvd_fence_is_settled(a));
	talloc_free(a);
	talloc_free(b);
}

static bool take_bytes(void *private_data)
{
	return rsvd_fence_exclusive(join(private_data, 3), 0, 512) == 0;
}

static bool take_range(void *private_data)
{
	uint32_t entry = 0;

	return rsvd_fence_range_enter(join(private_data, 3), 0, 512,
				      &entry) == 0;
}

static void died_with(bool (*take)(void *private_data), struct place *p)
{
	pid_t child = child_holds(take, p);

	assert_true(child > 0);
	child_kill(child);
}

static void test_who_died_has_no_range(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	uint32_t entry = 0;
	uint64_t turn = 0;

	died_with(take_bytes, *test);
	assert_int_equal(owner(a, &turn), 0);
	assert_int_equal(rsvd_fence_range_enter(a, 0, 512, &entry), 0);
	rsvd_fence_range_exit(a, entry);
	died_with(take_range, *test);
	assert_int_equal(rsvd_fence_exclusive(a, 0, 512), 0);
	assert_true(rsvd_fence_is_settled(a));
	talloc_free(a);
}

/*
 * Two processes count in one number without any lock but the fence's: one
 * with a range of its own, one as a plain writer.
 */
static void test_a_plain_change_and_an_exclusive_one(void **test)
{
	struct shared {
		uint64_t number;
		uint64_t plain;
		uint64_t stop;
	} *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct rsvd_fence *a = join(*test, 1);
	uint64_t done = 0;
	pid_t child = fork();

	if (child == 0) {
		struct rsvd_fence *b = join(*test, 2);
		uint32_t entry = 0;

		while (!__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST)) {
			if (rsvd_fence_range_enter(b, 0, 4096, &entry) != 0) {
				continue;
			}
			*(volatile uint64_t *)&s->number += 1;
			s->plain++;
			rsvd_fence_range_exit(b, entry);
		}
		_exit(0);
	}
	while (done < 3000 ||
	       __atomic_load_n(&s->plain, __ATOMIC_SEQ_CST) < 3000) {
		assert_int_equal(rsvd_fence_exclusive(a, 512, 512), 0);
		while (!rsvd_fence_is_settled(a)) {
		}
		*(volatile uint64_t *)&s->number += 1;
		done++;
		rsvd_fence_release(a);
	}
	__atomic_store_n(&s->stop, 1, __ATOMIC_SEQ_CST);
	waitpid(child, NULL, 0);
	assert_int_equal(s->number, done + s->plain);
	munmap(s, 4096);
	talloc_free(a);
}

static void test_counters_and_foreign_files(void **test)
{
	struct place *p = *test;
	struct rsvd_fence *a = join(p, 1);
	struct rsvd_fence_counters seen = {};

	rsvd_fence_counters(a)->writes = 42;
	/* Apart they are told with the next write. */
	assert_true(rsvd_fence_enter(a, rsvd_fence_generation(a)));
	assert_int_equal(rsvd_fence_look(p->path, rsvd_fence_slot(a),
					 (uint64_t)getpid(), &seen), 0);
	assert_int_equal(seen.writes, 42);
	assert_int_equal(rsvd_fence_look(p->path, 0, 1ULL << 40, &seen),
			 -ENOENT);
	assert_int_equal(rsvd_fence_look(p->path, 256, 1, &seen), -EINVAL);
	talloc_free(a);
	assert_int_equal(truncate(p->path, 100), 0);
	assert_int_equal(open_fence(p, 1, &a), -EINVAL);
}

/* The record's changer must not believe what it cannot read. */
static void test_lost_files_let_nothing_in(void **test)
{
	struct place *p = *test;
	struct rsvd_fence *a = join(p, 1);
	struct rsvd_fence *b = join(p, 2);
	struct rsvd_fence *c = join(p, 3);
	uint64_t now = rsvd_fence_generation(a);
	uint32_t entry = 0;

	assert_true(rsvd_fence_enter(a, now));
	assert_int_equal(rsvd_fence_exclusive(b, 1 << 30, 512), 0);
	assert_int_equal(truncate(p->path, 0), 0);
	/* Which bytes b has cannot be told. */
	assert_int_equal(rsvd_fence_range_enter(c, 0, 512, &entry), -EAGAIN);
	assert_false(rsvd_fence_enter(a, now));
	assert_int_not_equal(rsvd_fence_error(a), 0);
	assert_int_not_equal(rsvd_fence_change_begin(b), 0);
	assert_int_equal(rsvd_fence_change_end(b), UINT64_MAX);
	/* Not even where it is whole again. */
	assert_int_equal(truncate(p->path, 128), 0);
	assert_false(rsvd_fence_enter(a, 0));
	rsvd_fence_exit(a, now);
	talloc_free(a);
	talloc_free(b);
	talloc_free(c);
}

/* Nor believe that others know what it could not write. */
static void test_what_cannot_be_told_lets_nothing_in(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	struct rsvd_fence *b = join(*test, 2);
	const struct rlimit nothing = { .rlim_max = RLIM_INFINITY };
	struct rlimit before = {};
	uint64_t now = rsvd_fence_generation(a);

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &nothing), 0);
	assert_false(rsvd_fence_enter(a, now));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(rsvd_fence_error(a), -EFBIG);
	assert_false(rsvd_fence_enter(a, now));
	talloc_free(a);
	/* A change whose end is not told goes on, until somebody settles it. */
	a = join(*test, 1);
	assert_int_equal(rsvd_fence_change_begin(a), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &nothing), 0);
	(void)rsvd_fence_change_end(a);
	assert_int_not_equal(rsvd_fence_change_begin(b), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(rsvd_fence_error(a), -EFBIG);
	assert_int_equal(rsvd_fence_generation(b), now + 1);
	assert_int_equal(rsvd_fence_settle(b), now + 2);
	talloc_free(a);
	talloc_free(b);
}

static void test_a_slot_tells_its_process(void **test)
{
	struct place *p = *test;
	struct rsvd_fence *a = join(p, 1);
	struct rsvd_fence *b = join(p, 2);

	assert_true(rsvd_fence_is_held(b, rsvd_fence_slot(a)));
	assert_true(rsvd_fence_is_held_at(p->path, rsvd_fence_slot(a)));
	assert_true(rsvd_fence_is_held(b, rsvd_fence_slot(b)));
	assert_false(rsvd_fence_is_held(b, 7));
	talloc_free(a);
	assert_false(rsvd_fence_is_held(b, 0));
	assert_false(rsvd_fence_is_held_at(p->path, 0));
	assert_false(rsvd_fence_is_held_at("/nowhere/fence", 0));
	assert_false(rsvd_fence_is_held(b, RSVD_FENCE_NO_SLOT));
	assert_false(rsvd_fence_is_held_at(p->path, RSVD_FENCE_NO_SLOT));
	assert_true(rsvd_fence_is_used_at(p->path));
	talloc_free(b);
	assert_false(rsvd_fence_is_used_at(p->path));
	assert_false(rsvd_fence_is_used_at("/nowhere/fence"));
}

#define FIRST_SLOT 0x100001

/* Which bytes are whose is the same for all versions that meet. */
static int hold_bytes(const struct place *p, off_t start, off_t length)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start,
		.l_len = length,
	};
	int fd = open(p->path, O_RDWR);

	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	return fd;
}

static void test_only_bytes_of_slots_tell_of_opens(void **test)
{
	struct place *p = *test;
	const off_t behind = FIRST_SLOT + RSVD_FENCE_SLOTS;
	struct rsvd_fence *a = join(p, 1);
	uint32_t slot = 0;
	int before = -1;
	int after = -1;

	/* Whoever has them: one without a slot has no lock. */
	after = hold_bytes(p, behind, 0);
	assert_false(rsvd_fence_is_held(a, RSVD_FENCE_NO_SLOT));
	assert_false(rsvd_fence_is_held_at(p->path, RSVD_FENCE_NO_SLOT));
	assert_true(rsvd_fence_is_held(a, 0));
	assert_true(rsvd_fence_is_used_at(p->path));
	talloc_free(a);
	before = hold_bytes(p, 0, FIRST_SLOT);
	assert_false(rsvd_fence_is_used_at(p->path));
	for (slot = 0; slot < RSVD_FENCE_SLOTS; slot++) {
		int fd = hold_bytes(p, FIRST_SLOT + slot, 1);

		assert_true(rsvd_fence_is_used_at(p->path));
		assert_true(rsvd_fence_is_held_at(p->path, slot));
		assert_false(rsvd_fence_is_held_at(p->path, slot ^ 1));
		close(fd);
		assert_false(rsvd_fence_is_used_at(p->path));
		assert_false(rsvd_fence_is_held_at(p->path, slot));
	}
	close(before);
	close(after);
}

/* Made, or locked, and no more yet: nothing was let in by it. */
static void test_a_slot_that_is_just_taken_has_nothing_under_way(void **test)
{
	struct place *p = *test;
	struct rsvd_fence *a = join(p, 1);
	uint64_t later = raise_generation(a);
	char name[96];
	int beyond = hold_bytes(p, FIRST_SLOT + 5, 1);
	int taken = -1;
	int file = -1;

	assert_int_equal(rsvd_fence_exclusive(a, 0, 512), 0);
	assert_int_equal(rsvd_fence_busy(a, later, anybody, NULL), 0);
	assert_true(rsvd_fence_is_settled(a));
	taken = hold_bytes(p, FIRST_SLOT + 1, 1);
	if (p->apart) {
		snprintf(name, sizeof(name), "%s.1", p->path);
		file = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
		assert_true(file >= 0);
	}
	assert_int_equal(rsvd_fence_busy(a, later, anybody, NULL), 0);
	assert_true(rsvd_fence_is_settled(a));
	if (p->apart) {
		/* What cannot be read is another matter. */
		assert_int_equal(pwrite(file, name, 8, 0), 8);
		assert_int_equal(rsvd_fence_busy(a, later, anybody, NULL), 1);
		assert_false(rsvd_fence_is_settled(a));
		close(file);
	}
	close(taken);
	assert_int_equal(rsvd_fence_busy(a, later, anybody, NULL), 0);
	assert_true(rsvd_fence_is_settled(a));
	close(beyond);
	talloc_free(a);
}

/* Nor does a write beside one of its generation wait for any file. */
static void test_what_others_know_is_not_told_again(void **test)
{
	struct rsvd_fence *a = join(*test, 1);
	struct rsvd_fence *b = join(*test, 2);
	const struct rlimit nothing = { .rlim_max = RLIM_INFINITY };
	struct rlimit before = {};
	uint64_t now = rsvd_fence_generation(a);
	uint64_t later = 0;

	assert_true(rsvd_fence_enter(a, now));
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &nothing), 0);
	assert_true(rsvd_fence_enter(a, now));
	rsvd_fence_exit(a, now);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(rsvd_fence_error(a), 0);
	later = raise_generation(b);
	assert_int_equal(rsvd_fence_busy(b, later, anybody, NULL), 1);
	rsvd_fence_exit(a, now);
	assert_int_equal(rsvd_fence_busy(b, later, anybody, NULL), 0);
	talloc_free(a);
	talloc_free(b);
}

#define T(test) \
	cmocka_unit_test_setup_teardown(test, start, finish), \
	{ #test "_apart", test, start_apart, finish, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_a_write_of_before_is_waited_for),
		T(test_an_old_generation_does_not_enter),
		T(test_a_change_cut_off_is_settled),
		T(test_a_change_that_begins_is_stable),
		T(test_many_generations_under_way),
		T(test_who_died_has_no_write_under_way),
		T(test_no_write_is_seen_after_the_fence),
		T(test_slots_are_given_back),
		T(test_a_slot_taken_over_has_nothing_of_before),
		T(test_exclusive_is_one_at_a_time),
		T(test_a_range_of_ones_own_keeps_others_out),
		T(test_more_ranges_than_are_told_apart),
		T(test_who_died_has_no_range),
		T(test_a_plain_change_and_an_exclusive_one),
		T(test_counters_and_foreign_files),
		T(test_a_slot_tells_its_process),
		T(test_only_bytes_of_slots_tell_of_opens),
		T(test_a_slot_that_is_just_taken_has_nothing_under_way),
		T(test_what_others_know_is_not_told_again),
		{ "test_what_cannot_be_told_lets_nothing_in",
		  test_what_cannot_be_told_lets_nothing_in, start_apart, finish,
		  NULL },
		{ "test_lost_files_let_nothing_in",
		  test_lost_files_let_nothing_in, start_apart, finish, NULL },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
