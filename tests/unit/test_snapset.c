/* Shadow copy sets: the table of states, timers, crashes, the stored form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <talloc.h>

#include "snapset/freeze.h"
#include "snapset/snapset.h"

#define CLIENT "192.0.2.1 S-1-5-21-1"
#define NOW 1000000u

static const struct snapset_rules rules = {};
static const struct snapset_rules legacy = { .legacy = true };
static const struct guid zero = {};

static struct guid number(uint8_t n)
{
	struct guid id = { { n, 1 } };

	return id;
}

struct made {
	struct snapset_state *state;
	struct guid set;
	struct guid copy;
};

static void add(struct made *made, const char *share, const char *store,
		uint8_t n, uint32_t wanted)
{
	struct snapset_add request = {
		.set = made->set, .new_id = number(n), .share = share,
		.store = store, .provider = "clone", .path = "",
		.created = 5,
	};
	bool changed = false;

	assert_int_equal(snapset_add(made->state, &rules, &request, NOW,
				     &made->copy, &changed), wanted);
}

/* A set in a state. */
static struct made make(enum snapset_status status, uint32_t context)
{
	struct made made = { .state = snapset_state_new(NULL),
			     .set = number(1) };
	struct guid client = number(9);
	struct snapset_set *set = NULL;
	bool changed = false;
	bool begin = false;

	assert_int_equal(snapset_context_set(made.state, &rules, context,
					     CLIENT, NOW, &changed), 0);
	assert_int_equal(snapset_start(made.state, &rules, &client, &made.set,
				       "somebody", NOW, &changed), 0);
	if (status >= SNAPSET_ADDED) {
		add(&made, "vm", "store", 2, 0);
	}
	if (status >= SNAPSET_CREATING) {
		assert_int_equal(snapset_commit(made.state, &rules, &made.set,
						NOW, &set, &begin,
						&changed), 0);
		assert_true(begin);
		set->copies->snapshot = "/srv/.snapshots/x";
	}
	if (status >= SNAPSET_COMMITTED) {
		snapset_commit_done(made.state, &rules, &made.set, 0, NOW,
				    &changed);
	}
	if (status >= SNAPSET_EXPOSED) {
		set->copies->mappings->is_exposed = true;
		snapset_expose_done(made.state, &rules, &made.set, 0, NOW,
				    &changed);
	}
	if (status >= SNAPSET_RECOVERED) {
		snapset_recovery_done(made.state, &made.set, &changed);
	}
	return made;
}

/* What each method says in each state, [MS-FSRVP] 3.1.4. */
static const struct {
	enum snapset_status status;
	uint32_t add, prepare, commit, expose, mapping, recovery, abort,
		delete;
} table[] = {
#define BAD SNAPSET_BAD_STATE
	{ SNAPSET_STARTED, 0, BAD, BAD, BAD, BAD, BAD, 0, BAD },
	{ SNAPSET_ADDED, SNAPSET_OBJECT_EXISTS, 0, 0, BAD, BAD, BAD, 0, BAD },
	{ SNAPSET_CREATING, BAD, BAD, 0, BAD, BAD, BAD, BAD, BAD },
	{ SNAPSET_COMMITTED, BAD, BAD, BAD, 0, BAD, BAD, 0, BAD },
	{ SNAPSET_EXPOSED, BAD, BAD, BAD, BAD, 0, 0, 0, 0 },
	{ SNAPSET_RECOVERED, BAD, BAD, BAD, BAD, 0, BAD, BAD, 0 },
};

static void test_every_method_in_every_state(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		enum snapset_status status = table[i].status;
		const struct snapset_copy *copy = NULL;
		const struct snapset_mapping *mapping = NULL;
		struct snapset_set *set = NULL;
		struct made made = {};
		bool changed = false;
		bool begin = false;

		made = make(status, 0);
		add(&made, "VM", "store", 3, table[i].add);
		talloc_free(made.state);
		made = make(status, 0);
		assert_int_equal(snapset_prepare(made.state, &rules,
						 &made.set, &set),
				 table[i].prepare);
		assert_int_equal(snapset_expose(made.state, &rules, &made.set,
						&set), table[i].expose);
		assert_int_equal(snapset_mapping_get(
			made.state, &rules, &made.copy, &made.set, "vm", 1,
			NOW, &copy, &mapping, &changed), table[i].mapping);
		assert_int_equal(snapset_recovery(made.state, &rules,
						  &made.set, &set),
				 table[i].recovery);
		assert_int_equal(snapset_commit(made.state, &rules, &made.set,
						NOW, &set, &begin, &changed),
				 table[i].commit);
		talloc_free(made.state);
		made = make(status, 0);
		assert_int_equal(snapset_abort(made.state, &rules, &made.set,
					       &changed), table[i].abort);
		talloc_free(made.state);
		made = make(status, 0);
		if (status == SNAPSET_STARTED) {
			made.copy = number(8);
		}
		assert_int_equal(snapset_mapping_delete(
			made.state, &rules, &made.set, &made.copy, "vm",
			&changed), table[i].delete);
		talloc_free(made.state);
	}
}

static void test_unknown_and_null_ids(void **state)
{
	struct made made = make(SNAPSET_EXPOSED, 0);
	struct guid unknown = number(77);
	const struct snapset_copy *copy = NULL;
	const struct snapset_mapping *mapping = NULL;
	struct snapset_set *set = NULL;
	bool changed = false;

	(void)state;
	assert_int_equal(snapset_prepare(made.state, &rules, &unknown, &set),
			 SNAPSET_ID_MISMATCH);
	assert_int_equal(snapset_prepare(made.state, &legacy, &unknown, &set),
			 SNAPSET_INVALID_ARGUMENT);
	assert_int_equal(snapset_abort(made.state, &rules, &zero, &changed),
			 SNAPSET_INVALID_ARGUMENT);
	assert_int_equal(snapset_abort(made.state, &rules, &unknown,
				       &changed), SNAPSET_ID_MISMATCH);
	assert_int_equal(snapset_mapping_delete(
		made.state, &rules, &unknown, &made.copy, "vm", &changed),
		SNAPSET_OBJECT_NOT_FOUND);
	assert_int_equal(snapset_mapping_delete(
		made.state, &rules, &made.set, &unknown, "vm", &changed),
		SNAPSET_OBJECT_NOT_FOUND);
	assert_int_equal(snapset_mapping_delete(
		made.state, &legacy, &made.set, &unknown, "vm", &changed),
		SNAPSET_INVALID_ARGUMENT);
	assert_int_equal(snapset_mapping_delete(
		made.state, &rules, &made.set, &made.copy, "other",
		&changed), SNAPSET_OBJECT_NOT_FOUND);
	assert_int_equal(snapset_mapping_get(
		made.state, &rules, &unknown, &made.set, "vm", 1, NOW, &copy,
		&mapping, &changed), SNAPSET_INVALID_ARGUMENT);
	assert_int_equal(snapset_mapping_get(
		made.state, &rules, &made.copy, &made.set, "vm", 0, NOW,
		&copy, &mapping, &changed), SNAPSET_INVALID_ARGUMENT);
	assert_false(changed);
	talloc_free(made.state);
}

static void test_contexts(void **state)
{
	static const uint32_t good[] = {
		0, 2, 0x400000, 0x10, 0x12, 0x400010, 9, 0xB, 0x400009, 0x19,
		0x1B, 0x400019, 0x4000000,
	};
	static const uint32_t bad[] = {
		1, 8, 0x11, 0x18, 0x400002, 0x20, 0xFFFFFFFF, 0x80000000,
	};
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct snapset_state *s = snapset_state_new(NULL);
		bool changed = false;

		assert_int_equal(snapset_context_set(s, &rules, good[i],
						     CLIENT, NOW, &changed),
				 0);
		assert_true(changed);
		assert_int_equal(s->deadline, NOW + 180000);
		talloc_free(s);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct snapset_state *s = snapset_state_new(NULL);
		bool changed = false;

		assert_int_equal(snapset_context_set(s, &rules, bad[i],
						     CLIENT, NOW, &changed),
				 SNAPSET_UNSUPPORTED_CONTEXT);
		assert_false(changed);
		talloc_free(s);
	}
}

static void test_another_client_waits_and_the_same_retries_five_times(
	void **state)
{
	struct made made = make(SNAPSET_ADDED, 0);
	bool changed = false;
	int i = 0;

	(void)state;
	assert_int_equal(snapset_context_set(made.state, &rules, 0,
					     "192.0.2.2 S-1-5-21-1", NOW,
					     &changed), SNAPSET_IN_PROGRESS);
	assert_false(changed);
	for (i = 0; i < 5; i++) {
		assert_int_equal(snapset_context_set(made.state, &rules, 0,
						     CLIENT, NOW, &changed),
				 0);
	}
	assert_null(snapset_find(made.state, &made.set));
	assert_int_equal(snapset_context_set(made.state, &rules, 0, CLIENT,
					     NOW, &changed),
			 SNAPSET_IN_PROGRESS);
	assert_int_equal(made.state->deadline, 0);
	assert_int_equal(snapset_context_set(made.state, &rules, 0, CLIENT,
					     NOW, &changed), 0);
	talloc_free(made.state);
}

static void test_the_timer_drops_what_is_not_recovered(void **state)
{
	enum snapset_status status = SNAPSET_STARTED;

	(void)state;
	for (status = SNAPSET_STARTED; status <= SNAPSET_RECOVERED;
	     status++) {
		struct made made = make(status, 0);
		uint64_t deadline = made.state->deadline;
		bool changed = false;

		snapset_expire(made.state, &rules, deadline - 1, &changed);
		assert_false(changed);
		snapset_expire(made.state, &rules, UINT64_MAX, &changed);
		assert_true(changed == (status != SNAPSET_RECOVERED));
		assert_true((snapset_find(made.state, &made.set) != NULL) ==
			    (status == SNAPSET_RECOVERED));
		assert_false(made.state->context_set);
		talloc_free(made.state);
	}
}

static void test_what_is_doomed_stays_until_it_is_gone(void **state)
{
	struct made made = make(SNAPSET_EXPOSED, 0);
	struct snapset_copy *copy = NULL;
	bool changed = false;

	(void)state;
	assert_int_equal(snapset_mapping_delete(made.state, &rules, &made.set,
						&made.copy, "VM", &changed),
			 0);
	assert_null(snapset_find(made.state, &made.set));
	snapset_sweep(made.state, &changed);
	assert_non_null(made.state->sets);
	copy = made.state->sets->copies;
	assert_true(copy->doomed && snapset_has_share(copy));
	copy->mappings->is_exposed = false;
	snapset_sweep(made.state, &changed);
	assert_non_null(made.state->sets);
	assert_false(snapset_has_share(copy));
	copy->snapshot = "";
	snapset_sweep(made.state, &changed);
	assert_null(made.state->sets);
	talloc_free(made.state);
}

static void test_a_start_with_a_half_made_snapshot(void **state)
{
	struct made made = make(SNAPSET_CREATING, 0);
	struct snapset_set *set = NULL;
	bool changed = false;
	bool begin = false;

	(void)state;
	made.state->boot = "one";
	snapset_restart(made.state, &rules, "one", NOW, &changed);
	assert_true(changed);
	set = snapset_find(made.state, &made.set);
	assert_int_equal(set->status, SNAPSET_ADDED);
	assert_string_equal(set->copies->snapshot, "");
	/* What there may be of it is doomed beside it. */
	assert_int_equal(made.state->sets->status, SNAPSET_DOOMED);
	assert_string_equal(made.state->sets->copies->snapshot,
			    "/srv/.snapshots/x");
	assert_int_equal(snapset_commit(made.state, &rules, &made.set, NOW,
					&set, &begin, &changed), 0);
	assert_true(begin);
	talloc_free(made.state);
}

static void test_a_reboot_drops_what_does_not_persist(void **state)
{
	struct made made = make(SNAPSET_RECOVERED, 0);
	struct made kept = make(SNAPSET_RECOVERED, 0x19);
	bool changed = false;

	(void)state;
	snapset_restart(made.state, &rules, "two", NOW, &changed);
	assert_null(snapset_find(made.state, &made.set));
	snapset_restart(kept.state, &rules, "two", NOW, &changed);
	assert_non_null(snapset_find(kept.state, &kept.set));
	talloc_free(made.state);
	talloc_free(kept.state);
}

static void test_bounds_of_a_state(void **state)
{
	struct made made = make(SNAPSET_STARTED, 0);
	int i = 0;

	(void)state;
	for (i = 0; i < SNAPSET_MAX_COPIES; i++) {
		char store[32] = "";

		snprintf(store, sizeof(store), "store%d", i);
		add(&made, "vm", store, (uint8_t)(10 + i), 0);
	}
	add(&made, "vm", "one more", 200, SNAPSET_NO_SPACE);
	talloc_free(made.state);
}

static void test_a_state_is_stored_and_read_again(void **state)
{
	struct made made = make(SNAPSET_EXPOSED, 0x400009);
	struct snapset_state *again = NULL;
	uint8_t *bytes = NULL;
	uint8_t *second = NULL;
	size_t length = 0;
	size_t second_length = 0;
	size_t i = 0;

	(void)state;
	assert_int_equal(snapset_encode(made.state, made.state, &bytes,
					&length), 0);
	assert_int_equal(snapset_decode(made.state, bytes, length, &again,
					NULL), 0);
	assert_int_equal(snapset_encode(made.state, again, &second,
					&second_length), 0);
	assert_int_equal(length, second_length);
	assert_memory_equal(bytes, second, length);
	assert_string_equal(again->sets->copies->mappings->exposed,
			    "vm@{00000102-0000-0000-0000-000000000000}");
	assert_true(snapset_is_copied(again, "store"));
	assert_true(snapset_is_writable(again->sets));
	/* Any bit of it changed, and any length of it, is refused. */
	for (i = 0; i < length * 8; i++) {
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_true(snapset_decode(made.state, bytes, length, &again,
					   NULL) != 0);
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (i = 0; i < length; i++) {
		assert_true(snapset_decode(made.state, bytes, i, &again,
					   NULL) != 0);
	}
	bytes[4] = 2;
	assert_int_equal(snapset_decode(made.state, bytes, length, &again,
					NULL), -EPROTONOSUPPORT);
	talloc_free(made.state);
}

static void test_names_of_shares(void **state)
{
	static const struct {
		const char *unc, *host, *share;
	} rows[] = {
		{ "\\\\host\\share", "host", "share" },
		{ "\\\\host\\share\\", "host", "share" },
		{ "\\\\::1\\a b$", "::1", "a b$" },
		{ "\\\\host\\share\\\\", NULL, NULL },
		{ "\\\\host\\share\\x", NULL, NULL },
		{ "\\\\host\\", NULL, NULL }, { "\\\\host", NULL, NULL },
		{ "\\\\\\share", NULL, NULL }, { "share", NULL, NULL },
		{ "\\\\host\\..", NULL, NULL }, { "", NULL, NULL },
		{ "\\\\host\\a%U", NULL, NULL },
		{ "\\\\host\\a/b", NULL, NULL },
		{ "\\\\host\\a\n", NULL, NULL },
		{ "//host/share", NULL, NULL },
	};
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *host = NULL;
		char *share = NULL;
		int ret = snapset_unc_parse(NULL, rows[i].unc, &host, &share);

		assert_int_equal(ret, rows[i].host == NULL ? -EINVAL : 0);
		if (ret == 0) {
			assert_string_equal(host, rows[i].host);
			assert_string_equal(share, rows[i].share);
		}
		talloc_free(host);
		talloc_free(share);
	}
}

/* Two that look at the same: one freezes, for the other too. */
static void freezes(struct snapset_freeze *one, struct snapset_freeze *two)
{
	assert_int_equal(snapset_freeze_left(two), 0);
	assert_int_equal(snapset_freeze_begin(one, 0), -EINVAL);
	assert_int_equal(snapset_freeze_begin(one, 5000000000), 0);
	assert_true(snapset_freeze_left(two) > 0);
	assert_int_equal(snapset_freeze_begin(two, 1000), -EBUSY);
	assert_int_equal(snapset_freeze_end(one), 0);
	assert_int_equal(snapset_freeze_left(two), 0);
	/* One nanosecond is over at once: it did not hold. */
	assert_int_equal(snapset_freeze_begin(two, 1), 0);
	assert_int_equal(snapset_freeze_end(two), -ETIMEDOUT);
}

static void test_a_freeze_holds_and_ends_by_itself(void **state)
{
	char folder[] = "/tmp/hvrs-freeze-XXXXXX";
	struct snapset_freeze *one = NULL;
	struct snapset_freeze *two = NULL;

	(void)state;
	assert_non_null(mkdtemp(folder));
	assert_int_equal(snapset_freeze_open(NULL, folder, 7, &one), 0);
	assert_int_equal(snapset_freeze_open(NULL, folder, 7, &two), 0);
	freezes(one, two);
	assert_int_equal(snapset_freeze_begin(one, UINT64_MAX), -EINVAL);
	talloc_free(one);
	talloc_free(two);
}

static void test_a_freeze_of_nodes(void **state)
{
	char path[] = "/tmp/hvrs-freeze-XXXXXX";
	struct snapset_freeze *one = NULL;
	struct snapset_freeze *two = NULL;
	int fd = mkstemp(path);

	(void)state;
	assert_int_not_equal(fd, -1);
	close(fd);
	assert_int_equal(snapset_freeze_open_apart(NULL, path, &one), 0);
	assert_int_equal(snapset_freeze_open_apart(NULL, path, &two), 0);
	freezes(one, two);
	/* Who goes in the middle keeps nobody; clocks may differ till then. */
	assert_int_equal(snapset_freeze_begin(one, 5000000000), 0);
	assert_true(snapset_freeze_left(two) > 5000000000);
	talloc_free(one);
	assert_int_equal(snapset_freeze_left(two), 0);
	assert_int_equal(snapset_freeze_begin(two, 5000000000), 0);
	assert_int_equal(snapset_freeze_end(two), 0);
	talloc_free(two);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_method_in_every_state),
		cmocka_unit_test(test_unknown_and_null_ids),
		cmocka_unit_test(test_contexts),
		cmocka_unit_test(
			test_another_client_waits_and_the_same_retries_five_times),
		cmocka_unit_test(test_the_timer_drops_what_is_not_recovered),
		cmocka_unit_test(test_what_is_doomed_stays_until_it_is_gone),
		cmocka_unit_test(test_a_start_with_a_half_made_snapshot),
		cmocka_unit_test(test_a_reboot_drops_what_does_not_persist),
		cmocka_unit_test(test_bounds_of_a_state),
		cmocka_unit_test(test_a_state_is_stored_and_read_again),
		cmocka_unit_test(test_names_of_shares),
		cmocka_unit_test(test_a_freeze_holds_and_ends_by_itself),
		cmocka_unit_test(test_a_freeze_of_nodes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
