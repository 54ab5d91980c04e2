/*
 * Change tracking: what is told between two marks is never less than what a
 * model knows, whatever was cut off.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "cbt/cbt.h"
#include "support/mem_store.h"

#define GIB (1ULL << 30)
#define TIB (1ULL << 40)

struct place {
	struct mem_store *ms;
	struct store *store;
	struct cbt *cbt;
};

static struct guid id(uint8_t n)
{
	return (struct guid) { { n, 1 } };
}

static struct cbt *opened(TALLOC_CTX *mem, struct store *store, bool recover)
{
	struct cbt *cbt = NULL;
	const char *why = "";

	assert_int_equal(0, cbt_open(mem, store, NULL, recover, &cbt, &why));
	return cbt;
}

static int start_sized(void **test, uint64_t size)
{
	struct place *p = talloc_zero(NULL, struct place);

	p->ms = mem_store_new(p, NULL);
	p->store = mem_store_get(p->ms);
	assert_int_equal(0, cbt_create(p->store, size));
	p->cbt = opened(p, p->store, true);
	assert_int_equal(0, cbt_start(p->cbt));
	*test = p;
	return 0;
}

static int start(void **test)
{
	return start_sized(test, 64 * GIB);
}

static int finish(void **test)
{
	talloc_free(*test);
	return 0;
}

static void mark(struct cbt *cbt, uint8_t n)
{
	struct guid g = id(n);

	assert_int_equal(0, cbt_mark(cbt, &g));
}

static int ask(struct cbt *cbt, uint8_t target, uint8_t limit,
	       uint64_t offset, uint64_t length, struct cbt_range *r,
	       size_t room, size_t *_count)
{
	struct guid t = id(target);
	struct guid l = id(limit);
	uint64_t processed = 0;
	int ret = cbt_changes(cbt, &t, &l, offset, length, r, room, _count,
			      &processed);

	if (ret == 0) {
		assert_int_equal(length, processed);
	}
	return ret;
}

static void test_a_write_between_two_marks_is_one_range(void **test)
{
	struct place *p = *test;
	struct cbt_range r[4];
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_note(p->cbt, 0, 512));
	mark(p->cbt, 2);
	/* The suite's own question */
	assert_int_equal(0, ask(p->cbt, 2, 1, 0, 1024, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(0, r[0].offset);
	assert_int_equal(1024, r[0].length);
	assert_int_equal(0, ask(p->cbt, 2, 1, CBT_REGION, GIB, r, 4, &n));
	assert_int_equal(0, n);
}

static void test_another_stamp_makes_all_of_a_group_changed(void **test)
{
	struct place *p = *test;
	uint8_t stamp[CBT_STAMP_SIZE] = { 1 };
	struct cbt_range r[4];
	size_t n = 0;

	assert_int_equal(0, cbt_session(p->cbt, stamp));
	mark(p->cbt, 1);
	assert_int_equal(0, cbt_note(p->cbt, GIB, 512));
	/* A process after a crash of smbd: the same mount */
	talloc_free(p->cbt);
	p->cbt = opened(p, p->store, false);
	assert_int_equal(0, cbt_session(p->cbt, stamp));
	mark(p->cbt, 2);
	assert_int_equal(0, ask(p->cbt, 2, 1, 0, 64 * GIB, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(CBT_REGION, r[0].length);
	assert_int_equal(0, cbt_note(p->cbt, GIB, 512));
	/* After a power cut */
	talloc_free(p->cbt);
	stamp[0] = 2;
	p->cbt = opened(p, p->store, false);
	assert_int_equal(0, cbt_session(p->cbt, stamp));
	mark(p->cbt, 3);
	assert_int_equal(0, ask(p->cbt, 3, 2, 0, 64 * GIB, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(GIB, r[0].offset);
	assert_int_equal(CBT_GROUP, r[0].length);
}

static void test_the_callers_bytes_and_flags_are_kept(void **test)
{
	struct place *p = *test;
	uint8_t own[CBT_OWN_SIZE] = { 7, [CBT_OWN_SIZE - 1] = 9 };
	struct guid one = id(1);
	const struct cbt_header *h = NULL;

	mark(p->cbt, 1);
	mark(p->cbt, 2);
	assert_int_equal(0, cbt_own_set(p->cbt, own));
	assert_int_equal(0, cbt_mark_own(p->cbt, &one, true));
	talloc_free(p->cbt);
	p->cbt = opened(p, p->store, false);
	h = cbt_header_get(p->cbt);
	assert_memory_equal(own, h->own, sizeof(own));
	assert_true((h->marks[0].flags & CBT_OWN) != 0);
	assert_false((h->marks[1].flags & CBT_OWN) != 0);
	/* It goes with its mark, not to the next. */
	assert_int_equal(0, cbt_forget(p->cbt, &one));
	assert_int_equal(0, h->marks[0].flags & CBT_OWN);
}

static void test_writes_before_and_after_are_not_told(void **test)
{
	struct place *p = *test;
	struct cbt_range r[4];
	size_t n = 0;

	assert_int_equal(0, cbt_note(p->cbt, GIB, 512));
	mark(p->cbt, 1);
	assert_int_equal(0, cbt_note(p->cbt, 2 * GIB - 1, 2));
	mark(p->cbt, 2);
	assert_int_equal(0, cbt_note(p->cbt, 3 * GIB, 512));
	mark(p->cbt, 3);
	assert_int_equal(0, ask(p->cbt, 2, 1, 0, 64 * GIB, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(2 * GIB - CBT_REGION, r[0].offset);
	assert_int_equal(2 * CBT_REGION, r[0].length);
	assert_int_equal(0, ask(p->cbt, 3, 1, 0, 64 * GIB, r, 4, &n));
	assert_int_equal(2, n);
	assert_int_equal(0, ask(p->cbt, 2, 2, 0, 64 * GIB, r, 4, &n));
	assert_int_equal(0, n);
	assert_int_equal(-EINVAL, ask(p->cbt, 1, 2, 0, GIB, r, 4, &n));
	assert_int_equal(-ENOENT, ask(p->cbt, 1, 9, 0, GIB, r, 4, &n));
}

static void test_a_long_answer_comes_in_pages(void **test)
{
	struct place *p = *test;
	struct guid t = id(2);
	struct guid l = id(1);
	struct cbt_range r[7];
	uint64_t at = 0;
	uint64_t done = 0;
	size_t n = 0;
	size_t all = 0;
	size_t k = 0;

	mark(p->cbt, 1);
	for (k = 0; k < 100; k++) {
		assert_int_equal(0, cbt_note(p->cbt, k * 513 * CBT_REGION,
					     4096));
	}
	mark(p->cbt, 2);
	for (at = 0; at < 64 * GIB; at += done) {
		assert_int_equal(0, cbt_changes(p->cbt, &t, &l, at,
						64 * GIB - at, r, 7, &n,
						&done));
		assert_true(done > 0);
		for (k = 0; k < n; k++) {
			assert_int_equal(all * 513 * CBT_REGION, r[k].offset);
			assert_int_equal(CBT_REGION, r[k].length);
			all++;
		}
	}
	assert_int_equal(100, all);
}

static void test_time_not_tracked_is_no_answer(void **test)
{
	struct place *p = *test;
	struct cbt_range r[4];
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_stop(p->cbt));
	assert_int_equal(0, cbt_start(p->cbt));
	mark(p->cbt, 2);
	mark(p->cbt, 3);
	assert_int_equal(-ENODATA, ask(p->cbt, 2, 1, 0, GIB, r, 4, &n));
	assert_int_equal(0, ask(p->cbt, 3, 2, 0, GIB, r, 4, &n));
	assert_int_equal(0, cbt_break(p->cbt, 0xC03A0022));
	assert_int_equal(-ESTALE, ask(p->cbt, 3, 2, 0, GIB, r, 4, &n));
	assert_int_equal(-ESTALE, cbt_start(p->cbt));
	assert_int_equal(0, cbt_reset(p->cbt));
	mark(p->cbt, 3);
	assert_int_equal(-ENOENT, ask(p->cbt, 3, 2, 0, GIB, r, 4, &n));
}

static void test_a_forgotten_mark_leaves_its_changes_to_the_next(void **test)
{
	struct place *p = *test;
	struct cbt_range r[4];
	struct guid g = id(2);
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_note(p->cbt, GIB, 1));
	mark(p->cbt, 2);
	assert_int_equal(0, cbt_note(p->cbt, 2 * GIB, 1));
	assert_int_equal(0, cbt_forget(p->cbt, &g));
	mark(p->cbt, 3);
	assert_int_equal(0, ask(p->cbt, 3, 1, 0, 4 * GIB, r, 4, &n));
	assert_int_equal(2, n);
	g = id(1);
	assert_int_equal(0, cbt_forget(p->cbt, &g));
	mark(p->cbt, 4);
	/* Slots are used again, empty */
	assert_int_equal(0, ask(p->cbt, 4, 3, 0, 4 * GIB, r, 4, &n));
	assert_int_equal(0, n);
}

static void test_going_back_changes_what_had_changed_since(void **test)
{
	struct place *p = *test;
	struct cbt_range r[4];
	struct guid g = id(1);
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_note(p->cbt, GIB, 1));
	mark(p->cbt, 2);
	assert_int_equal(0, cbt_revert(p->cbt, &g));
	mark(p->cbt, 3);
	assert_int_equal(0, ask(p->cbt, 3, 2, 0, 4 * GIB, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(GIB, r[0].offset);
}

static void test_only_the_first_write_of_a_group_waits(void **test)
{
	struct place *p = *test;
	uint64_t calls = 0;

	mark(p->cbt, 1);
	assert_true(cbt_note_waits(p->cbt, GIB, 512));
	assert_int_equal(0, cbt_note(p->cbt, GIB, 512));
	assert_false(cbt_note_waits(p->cbt, GIB + 32 * CBT_REGION, 512));
	calls = mem_store_calls(p->ms);
	assert_int_equal(0, cbt_note(p->cbt, GIB + 100, 4096));
	assert_int_equal(calls, mem_store_calls(p->ms));
	mark(p->cbt, 2);
	assert_true(cbt_note_waits(p->cbt, GIB, 512));
}

static void test_another_process_sees_the_bits(void **test)
{
	struct place *p = *test;
	struct cbt *other = opened(p, p->store, false);
	struct cbt_range r[4];
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_reload(other));
	assert_int_equal(0, cbt_note(p->cbt, 0, 1));
	assert_int_equal(0, cbt_note(other, CBT_REGION, 1));
	assert_int_equal(0, cbt_note(p->cbt, 3 * CBT_REGION, 1));
	mark(p->cbt, 2);
	assert_int_equal(0, ask(p->cbt, 2, 1, 0, GIB, r, 4, &n));
	assert_int_equal(2, n);
	assert_int_equal(2 * CBT_REGION, r[0].length);
}

static void test_after_a_settled_close_nothing_is_recovered(void **test)
{
	struct place *p = *test;
	struct cbt_range r[4];
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_note(p->cbt, GIB, 1));
	assert_int_equal(0, cbt_settle(p->cbt));
	TALLOC_FREE(p->cbt);
	p->cbt = opened(p, p->store, true);
	mark(p->cbt, 2);
	assert_int_equal(0, ask(p->cbt, 2, 1, 0, 64 * GIB, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(CBT_REGION, r[0].length);
	assert_int_equal(0, cbt_note(p->cbt, GIB, 1));
	TALLOC_FREE(p->cbt);
	p->cbt = opened(p, p->store, true);
	mark(p->cbt, 3);
	assert_int_equal(0, ask(p->cbt, 3, 2, 0, 64 * GIB, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(CBT_GROUP, r[0].length);
}

static void test_a_resize_is_a_change(void **test)
{
	struct place *p = *test;
	struct cbt_range r[4];
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_resize(p->cbt, 64 * GIB + 3 * CBT_REGION));
	mark(p->cbt, 2);
	assert_int_equal(0, ask(p->cbt, 2, 1, 0, TIB, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(64 * GIB, r[0].offset);
	assert_int_equal(3 * CBT_REGION, r[0].length);
}

/* ---- the power cut --------------------------------------------------------------- */

#define STEPS 60
#define SMALL (512ULL << 20)
#define REGIONS (SMALL / CBT_REGION)

/*
 * What was done until each event: writes that may have reached the disk, and
 * marks that were answered.
 */
struct step {
	size_t begin;		/* events when it began */
	size_t end;		/* when it was answered */
	uint8_t mark;		/* else a write */
	uint64_t offset;
};

static struct step steps[STEPS];

static void history(struct cbt *cbt, struct mem_store *ms, unsigned seed)
{
	uint8_t marks = 0;
	unsigned i = 0;

	srand(seed);
	for (i = 0; i < STEPS; i++) {
		struct step *s = &steps[i];

		*s = (struct step) { .begin = mem_store_events(ms) };
		if (i % 7 == 0) {
			s->mark = ++marks;
			mark(cbt, s->mark);
		} else {
			s->offset = (uint64_t)rand() % REGIONS * CBT_REGION;
			assert_int_equal(0, cbt_note(cbt, s->offset, 512));
		}
		s->end = mem_store_events(ms);
	}
}

static bool told(const struct cbt_range *r, size_t n, uint64_t offset)
{
	size_t i = 0;

	for (i = 0; i < n; i++) {
		if (offset >= r[i].offset &&
		    offset < r[i].offset + r[i].length) {
			return true;
		}
	}
	return false;
}

/* Every write that was noted before the cut is told from any older mark on. */
static void check_cut(struct place *p, size_t cut, uint64_t seed)
{
	struct mem_store *left = mem_store_cut(p, p->ms, cut, seed);
	struct cbt *cbt = opened(left, mem_store_get(left), true);
	static struct cbt_range r[REGIONS];
	size_t n = 0;
	unsigned i = 0;
	unsigned k = 0;

	mark(cbt, 200);
	for (i = 0; i < STEPS; i++) {
		if (steps[i].mark == 0 || steps[i].end > cut) {
			continue;
		}
		assert_int_equal(0, ask(cbt, 200, steps[i].mark, 0, SMALL, r,
					REGIONS, &n));
		for (k = i + 1; k < STEPS; k++) {
			if (steps[k].mark != 0 || steps[k].end > cut) {
				continue;
			}
			assert_true(told(r, n, steps[k].offset));
		}
	}
	talloc_free(left);
}

static void test_no_power_cut_loses_a_change(void **test)
{
	struct place *p = *test;
	size_t cut = 0;
	size_t settled = 0;
	uint64_t seed = 0;

	mem_store_record(p->ms);
	history(p->cbt, p->ms, 7);
	settled = mem_store_events(p->ms);
	assert_int_equal(0, cbt_settle(p->cbt));
	for (cut = 0; cut <= mem_store_events(p->ms); cut++) {
		/* The end lies in a few events only. */
		for (seed = 1; seed <= (cut < settled ? 4 : 64); seed++) {
			check_cut(p, cut, seed);
		}
	}
}

static void test_a_cut_in_any_change_of_the_header_is_before_or_after(
	void **test)
{
	struct place *p = *test;
	struct guid g = id(2);
	struct cbt_range r[8];
	size_t cut = 0;
	size_t n = 0;
	uint64_t seed = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_note(p->cbt, GIB, 1));
	mark(p->cbt, 2);
	assert_int_equal(0, cbt_note(p->cbt, 2 * GIB, 1));
	mark(p->cbt, 3);
	assert_int_equal(0, cbt_settle(p->cbt));
	mem_store_record(p->ms);
	assert_int_equal(0, cbt_forget(p->cbt, &g));
	mark(p->cbt, 4);
	g = id(1);
	assert_int_equal(0, cbt_revert(p->cbt, &g));
	assert_int_equal(0, cbt_settle(p->cbt));
	for (cut = 0; cut <= mem_store_events(p->ms); cut++) {
		for (seed = 1; seed <= 8; seed++) {
			struct mem_store *left = mem_store_cut(p, p->ms, cut,
							       seed);
			struct cbt *cbt = opened(left, mem_store_get(left),
						 true);

			assert_int_equal(0, ask(cbt, 3, 1, 0, 64 * GIB, r, 8,
						&n));
			assert_true(told(r, n, GIB) && told(r, n, 2 * GIB));
			talloc_free(left);
		}
	}
}

static const struct cbt_lock apart = { .apart = true };

static struct cbt *opened_apart(TALLOC_CTX *mem, struct store *store)
{
	struct cbt *cbt = NULL;

	assert_int_equal(0, cbt_open(mem, store, &apart, false, &cbt, NULL));
	return cbt;
}

static void test_apart_a_note_needs_nobody_to_recover(void **test)
{
	struct place *p = *test;
	struct cbt_range r[8];
	size_t noted[3];
	size_t n = 0;
	size_t cut = 0;
	uint64_t seed = 0;
	uint64_t k = 0;

	mark(p->cbt, 1);
	talloc_free(p->cbt);
	p->cbt = opened_apart(p, p->store);
	mem_store_record(p->ms);
	for (k = 0; k < 3; k++) {
		assert_int_equal(0, cbt_note(p->cbt, k * 2 * CBT_REGION, 1));
		noted[k] = mem_store_events(p->ms);
	}
	for (cut = 0; cut <= noted[2]; cut++) {
		for (seed = 1; seed <= 8; seed++) {
			struct mem_store *left = mem_store_cut(p, p->ms, cut,
							       seed);
			struct cbt *cbt = opened_apart(left,
						       mem_store_get(left));

			mark(cbt, 2);
			assert_int_equal(0, ask(cbt, 2, 1, 0, GIB, r, 8, &n));
			for (k = 0; k < 3; k++) {
				assert_true(noted[k] > cut ||
					    told(r, n, k * 2 * CBT_REGION));
			}
			talloc_free(left);
		}
	}
}

static void test_apart_a_bit_that_another_set_is_written_too(void **test)
{
	struct place *p = *test;
	struct cbt *other = opened_apart(p, p->store);
	struct cbt_range r[8];
	size_t before = 0;
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_reload(other));
	mem_store_record(p->ms);
	/* Not flushed: it goes with its machine. */
	assert_int_equal(0, cbt_arm_write(other, GIB, 512));
	talloc_free(p->cbt);
	p->cbt = opened_apart(p, p->store);
	assert_true(cbt_note_waits(p->cbt, GIB, 512));
	before = mem_store_events(p->ms);
	assert_int_equal(0, cbt_note(p->cbt, GIB, 512));
	assert_int_equal(before + 2, mem_store_events(p->ms));
	assert_false(cbt_note_waits(p->cbt, GIB, 512));
	assert_int_equal(0, cbt_note(p->cbt, GIB, 512));
	assert_int_equal(before + 2, mem_store_events(p->ms));
	mark(p->cbt, 2);
	assert_int_equal(0, ask(p->cbt, 2, 1, 0, 64 * GIB, r, 8, &n));
	assert_int_equal(1, n);
	assert_int_equal(CBT_REGION, r[0].length);
}

static void test_apart_steps_make_known_what_they_were_for(void **test)
{
	struct place *p = *test;
	const uint64_t at = GIB + CBT_REGION - 1;
	struct cbt_range r[8];
	size_t n = 0;

	mark(p->cbt, 1);
	talloc_free(p->cbt);
	p->cbt = opened_apart(p, p->store);
	/* From the end of one region to the beginning of the third. */
	assert_int_equal(0, cbt_arm_write(p->cbt, at, CBT_REGION + 2));
	assert_true(cbt_note_waits(p->cbt, at, CBT_REGION + 2));
	assert_int_equal(0, store_flush(p->store));
	cbt_arm_done(p->cbt, at, CBT_REGION + 2);
	assert_false(cbt_note_waits(p->cbt, GIB, 3 * CBT_REGION));
	assert_true(cbt_note_waits(p->cbt, GIB - 1, 1));
	assert_true(cbt_note_waits(p->cbt, GIB + 3 * CBT_REGION, 1));
	/* One that ends with a region is not of the next. */
	assert_int_equal(0, cbt_arm_write(p->cbt, 2 * GIB, CBT_REGION));
	cbt_arm_done(p->cbt, 2 * GIB, CBT_REGION);
	assert_true(cbt_note_waits(p->cbt, 2 * GIB + CBT_REGION, 1));
	mark(p->cbt, 2);
	assert_int_equal(0, ask(p->cbt, 2, 1, 0, 64 * GIB, r, 8, &n));
	assert_int_equal(2, n);
	assert_int_equal(GIB, r[0].offset);
	assert_int_equal(3 * CBT_REGION, r[0].length);
	assert_int_equal(2 * GIB, r[1].offset);
	assert_int_equal(CBT_REGION, r[1].length);
}

static void test_nothing_is_known_before_it_is_stable(void **test)
{
	struct place *p = *test;
	unsigned of_all = 0;
	uint64_t nth = 0;

	mark(p->cbt, 1);
	for (of_all = 0; of_all < 2; of_all++) {
		/* One machine arms: a write and a flush; then its bits. */
		const uint64_t calls = of_all != 0 ? 3 : 2;

		talloc_free(p->cbt);
		p->cbt = of_all != 0 ? opened_apart(p, p->store)
				     : opened(p, p->store, false);
		mem_store_record(p->ms);
		for (nth = 1; nth <= calls; nth++) {
			uint64_t at = (1 + of_all * 8 + nth) * GIB;
			size_t before = 0;

			mem_store_fail(p->ms, nth, -EIO);
			assert_int_equal(-EIO, cbt_note(p->cbt, at, 512));
			assert_true(cbt_note_waits(p->cbt, at, 512));
			before = mem_store_events(p->ms);
			assert_int_equal(0, cbt_note(p->cbt, at, 512));
			assert_int_equal(before + (of_all != 0 ? 2 : 3),
					 mem_store_events(p->ms));
			assert_false(cbt_note_waits(p->cbt, at, 512));
		}
	}
}

static void test_in_doubt_of_the_header_nothing_is_armed(void **test)
{
	struct place *p = *test;
	struct guid g = id(1);

	mem_store_fail(p->ms, 3, -EIO);
	assert_int_equal(-EIO, cbt_mark(p->cbt, &g));
	assert_int_equal(-EINVAL, cbt_arm_write(p->cbt, GIB, 512));
	assert_int_equal(0, cbt_reload(p->cbt));
	assert_int_equal(0, cbt_arm_write(p->cbt, GIB, 512));
}

static void test_what_lies_behind_the_end_is_noted_too(void **test)
{
	struct place *p = *test;
	struct cbt_range r[4];
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_note(p->cbt, 100 * GIB, 512));
	assert_int_equal(0, cbt_note(p->cbt, 100 * GIB, 512));
	assert_int_equal(0, cbt_note(p->cbt, 64 * GIB - 1, 2));
	mark(p->cbt, 2);
	assert_int_equal(0, ask(p->cbt, 2, 1, 0, 64 * GIB, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(64 * GIB - CBT_REGION, r[0].offset);
}

struct turn {
	struct mem_store *ms;
	bool held;
	int error;
	uint64_t begun;
	uint64_t calls;		/* of the store, while it was held */
	unsigned count;
};

static int turn_take(void *private_data)
{
	struct turn *t = private_data;

	assert_false(t->held);
	t->held = t->error == 0;
	t->begun = mem_store_calls(t->ms);
	return t->error;
}

static void turn_give(void *private_data)
{
	struct turn *t = private_data;

	assert_true(t->held);
	t->held = false;
	t->count++;
	t->calls += mem_store_calls(t->ms) - t->begun;
}

/* Bits of others in the same byte must not be lost. */
static void test_bits_change_under_the_lock(void **test)
{
	struct place *p = *test;
	struct turn t = { .ms = p->ms };
	struct cbt_lock how = {
		.lock = turn_take, .unlock = turn_give, .private_data = &t,
		.apart = true,
	};
	uint64_t calls = 0;

	mark(p->cbt, 1);
	TALLOC_FREE(p->cbt);
	assert_int_equal(0, cbt_open(p, p->store, &how, false, &p->cbt,
				     NULL));
	calls = mem_store_calls(p->ms);
	assert_int_equal(0, cbt_arm_write(p->cbt, GIB, 512));
	assert_int_equal(1, t.count);
	assert_int_equal(2, t.calls);
	assert_int_equal(calls + 2, mem_store_calls(p->ms));
	t.error = -ETIMEDOUT;
	assert_int_equal(-ETIMEDOUT, cbt_note(p->cbt, GIB, 512));
	assert_int_equal(calls + 2, mem_store_calls(p->ms));
	assert_true(cbt_note_waits(p->cbt, GIB, 512));
	t.error = 0;
	assert_int_equal(0, cbt_note(p->cbt, GIB, 512));
	assert_int_equal(2, t.count);
	assert_int_equal(4, t.calls);
	assert_false(cbt_note_waits(p->cbt, GIB, 512));
	TALLOC_FREE(p->cbt);
}

static void test_a_failing_store_never_hides_a_change(void **test)
{
	struct place *p = *test;
	struct cbt_range r[REGIONS / 8];
	size_t n = 0;
	uint64_t nth = 0;
	int ret = 0;

	for (nth = 1; nth < 12; nth++) {
		struct guid g = id((uint8_t)(10 + nth));
		struct guid end = id((uint8_t)(100 + nth));

		mem_store_fail(p->ms, nth, -EIO);
		ret = cbt_mark(p->cbt, &g);
		while (cbt_note(p->cbt, nth * GIB, 1) != 0) {
		}
		mem_store_fail(p->ms, 1000000, -EIO);
		/* The process dies: what counts is what the file says. */
		TALLOC_FREE(p->cbt);
		p->cbt = opened(p, p->store, false);
		assert_int_equal(0, cbt_mark(p->cbt, &end));
		ret = ask(p->cbt, (uint8_t)(100 + nth), (uint8_t)(10 + nth),
			  0, 64 * GIB, r, REGIONS / 8, &n);
		/* No such mark, or one with the write after it. */
		if (ret == 0) {
			assert_true(told(r, n, nth * GIB));
		} else {
			assert_int_equal(-ENOENT, ret);
		}
	}
}

/* ---- size ---------------------------------------------------------------------------- */

static int start_large(void **test)
{
	return start_sized(test, 64 * TIB);
}

static void test_the_last_bytes_of_64_tib_are_tracked(void **test)
{
	struct place *p = *test;
	struct cbt_range r[4];
	size_t n = 0;

	mark(p->cbt, 1);
	assert_int_equal(0, cbt_note(p->cbt, 64 * TIB - 512, 512));
	assert_int_equal(-EINVAL, cbt_note(p->cbt, 64 * TIB - 512, 1024));
	assert_int_equal(-EINVAL, cbt_note(p->cbt, UINT64_MAX - 1, 512));
	mark(p->cbt, 2);
	assert_int_equal(0, ask(p->cbt, 2, 1, 63 * TIB, TIB, r, 4, &n));
	assert_int_equal(1, n);
	assert_int_equal(64 * TIB - CBT_REGION, r[0].offset);
	assert_true(mem_store_bytes_used(p->ms) < 8 << 20);
	assert_int_equal(0, ask(p->cbt, 2, 1, UINT64_MAX, UINT64_MAX, r, 4,
				&n));
	assert_int_equal(0, n);
}

static int start_small(void **test)
{
	return start_sized(test, SMALL);
}

static void test_a_foreign_file_is_refused(void **test)
{
	struct place *p = *test;
	struct mem_store *ms = mem_store_new(p, NULL);
	struct cbt *cbt = NULL;
	uint8_t bytes[64] = "hvrschng";
	const char *why = "";

	assert_int_equal(-EBADMSG, cbt_open(p, mem_store_get(ms), NULL, true,
					    &cbt, &why));
	assert_int_equal(0, mem_store_load(ms, bytes, sizeof(bytes)));
	assert_int_equal(-EBADMSG, cbt_open(p, mem_store_get(ms), NULL, true,
					    &cbt, &why));
	assert_int_equal(-EEXIST, cbt_create(mem_store_get(ms), GIB));
}

#define T(f) cmocka_unit_test_setup_teardown(f, start, finish)
#define S(f) cmocka_unit_test_setup_teardown(f, start_small, finish)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_a_write_between_two_marks_is_one_range),
		T(test_writes_before_and_after_are_not_told),
		T(test_another_stamp_makes_all_of_a_group_changed),
		T(test_the_callers_bytes_and_flags_are_kept),
		T(test_a_long_answer_comes_in_pages),
		T(test_time_not_tracked_is_no_answer),
		T(test_a_forgotten_mark_leaves_its_changes_to_the_next),
		T(test_going_back_changes_what_had_changed_since),
		T(test_only_the_first_write_of_a_group_waits),
		T(test_another_process_sees_the_bits),
		T(test_after_a_settled_close_nothing_is_recovered),
		T(test_a_resize_is_a_change),
		S(test_no_power_cut_loses_a_change),
		T(test_a_cut_in_any_change_of_the_header_is_before_or_after),
		T(test_apart_a_note_needs_nobody_to_recover),
		T(test_apart_a_bit_that_another_set_is_written_too),
		T(test_apart_steps_make_known_what_they_were_for),
		T(test_nothing_is_known_before_it_is_stable),
		T(test_in_doubt_of_the_header_nothing_is_armed),
		T(test_what_lies_behind_the_end_is_noted_too),
		T(test_bits_change_under_the_lock),
		T(test_a_failing_store_never_hides_a_change),
		cmocka_unit_test_setup_teardown(
			test_the_last_bytes_of_64_tib_are_tracked,
			start_large, finish),
		S(test_a_foreign_file_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
