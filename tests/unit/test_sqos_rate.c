/* Limits in shared memory: exact, shared by processes, with minimums. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sqos/rate.h"
#include "sqos/sqos.h"

#define SECOND UINT64_C(1000000000)
#define START (1000 * SECOND)

static char path[64];

static int setup(void **state)
{
	struct sqos_rates *rates = NULL;
	int fd = -1;

	strcpy(path, "/tmp/hvrs-rates-XXXXXX");
	fd = mkstemp(path);
	close(fd);
	if (fd == -1 || sqos_rates_open(NULL, path, &rates) != 0) {
		return -1;
	}
	*state = rates;
	return 0;
}

static int teardown(void **state)
{
	talloc_free(*state);
	unlink(path);
	return 0;
}

static struct sqos_ref slot(struct sqos_rates *rates, uint32_t number,
			    uint64_t now)
{
	uint8_t key[SQOS_RATE_KEY] = { 'F' };
	struct sqos_ref ref = {};

	memcpy(key + 1, &number, sizeof(number));
	assert_true(sqos_rates_find(rates, key, now, &ref));
	return ref;
}

/* ---- clients that always ask for more --------------------------------------- */

#define DEPTH_MAX 64

struct client {
	const struct sqos_ref *flow;
	const struct sqos_ref *group;
	size_t depth;
	uint64_t io;		/* of each request */
	uint64_t ready[DEPTH_MAX];
	uint64_t done;		/* io */
	uint64_t service;	/* ns that a request takes by itself */
	uint64_t least;		/* tells whether it got that, where not 0 */
	uint64_t window;
	uint64_t window_io;
};

static void begin(struct client *clients, size_t count, uint64_t now)
{
	size_t i = 0;
	size_t k = 0;

	for (i = 0; i < count; i++) {
		clients[i].done = 0;
		clients[i].window = now;
		clients[i].window_io = 0;
		for (k = 0; k < clients[i].depth; k++) {
			clients[i].ready[k] = now;
		}
	}
}

/* Lets them go on until a time; a request is charged as soon as one ended. */
static void go_on(struct sqos_rates *rates, struct client *clients,
		  size_t count, uint64_t until)
{
	for (;;) {
		size_t i = 0;
		size_t k = 0;
		struct client *next = NULL;
		size_t slot_of = 0;
		uint64_t now = UINT64_MAX;
		uint64_t wait = 0;

		for (i = 0; i < count; i++) {
			for (k = 0; k < clients[i].depth; k++) {
				if (clients[i].ready[k] < now) {
					now = clients[i].ready[k];
					next = &clients[i];
					slot_of = k;
				}
			}
		}
		if (now >= until) {
			return;
		}
		if (next->least != 0 && now - next->window >= SQOS_LOOK_NS) {
			sqos_rates_feedback(
				rates, (double)next->window_io * SECOND /
				(double)(next->least * (now - next->window)),
				now);
			next->window = now;
			next->window_io = 0;
		}
		wait = sqos_rates_charge(rates, next->flow, next->group,
					 next->io, next->io * 8, now);
		next->ready[slot_of] = now + wait + next->service;
		next->done += next->io;
		next->window_io += next->io;
	}
}

static void run(struct sqos_rates *rates, struct client *clients,
		size_t count, uint64_t from, uint64_t until)
{
	begin(clients, count, from);
	go_on(rates, clients, count, until);
}

static void test_a_limit_is_exact(void **state)
{
	static const struct {
		uint64_t limit;
		size_t depth;
		uint64_t io;
	} rows[] = {
		{ 100, 1, 1 }, { 1000, 32, 1 }, { 50000, 8, 1 },
		{ 1000, 4, 128 }, { 200, 2, 16 },
	};
	size_t i = 0;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sqos_ref ref = slot(*state, (uint32_t)i, START);
		struct client client = {
			.flow = &ref, .depth = rows[i].depth,
			.io = rows[i].io, .service = 1000,
		};
		uint64_t wanted = rows[i].limit * 30;
		/* What is under way at the end, and one burst. */
		uint64_t more = rows[i].depth * rows[i].io +
			rows[i].limit / 20 + rows[i].io;

		sqos_rates_set(*state, &ref, rows[i].limit, 0, 0, START);
		run(*state, &client, 1, START, START + 30 * SECOND);
		assert_in_range(client.done, wanted - rows[i].io,
				wanted + more);
	}
}

static void test_bandwidth_and_requests(void **state)
{
	struct sqos_ref ref = slot(*state, 1, START);
	struct client client = { .flow = &ref, .depth = 4, .io = 1 };

	/* 8 KiB each: 100 a second by the one, 50 by the other. */
	sqos_rates_set(*state, &ref, 100, 400, 0, START);
	run(*state, &client, 1, START, START + 20 * SECOND);
	assert_in_range(client.done, 1000, 1010);
}

static void test_an_idle_flow_saves_no_more_than_a_burst(void **state)
{
	struct sqos_ref ref = slot(*state, 1, START);
	uint64_t count = 0;

	sqos_rates_set(*state, &ref, 1000, 0, 0, START);
	while (sqos_rates_charge(*state, &ref, NULL, 1, 8,
				 START + 600 * SECOND) == 0) {
		count++;
	}
	assert_in_range(count, SQOS_BURST_NS / 1000000,
			SQOS_BURST_NS / 1000000 + 2);
}

static void test_no_limit_no_wait(void **state)
{
	struct sqos_ref ref = slot(*state, 1, START);
	struct sqos_ref none = {};
	int i = 0;

	for (i = 0; i < 1000; i++) {
		assert_int_equal(sqos_rates_charge(*state, &ref, &none, 1000,
						   8000, START), 0);
	}
}

static void test_a_higher_limit_forgives(void **state)
{
	struct sqos_ref ref = slot(*state, 1, START);

	sqos_rates_set(*state, &ref, 1, 0, 0, START);
	sqos_rates_charge(*state, &ref, NULL, 100000, 0, START);
	assert_true(sqos_rates_charge(*state, &ref, NULL, 1, 0, START) >
		    90000 * SECOND);
	sqos_rates_set(*state, &ref, 1000, 0, 0, START);
	assert_in_range(sqos_rates_charge(*state, &ref, NULL, 1, 0, START), 1,
			SECOND);
	/* None at all: nothing is waited for. */
	sqos_rates_set(*state, &ref, 0, 0, 0, START);
	assert_int_equal(sqos_rates_charge(*state, &ref, NULL, 1, 0, START),
			 0);
}

static void test_the_greatest_numbers(void **state)
{
	struct sqos_ref ref = slot(*state, 1, START);
	int i = 0;

	sqos_rates_set(*state, &ref, 1, 1, 1, START);
	for (i = 0; i < 100; i++) {
		uint64_t wait = sqos_rates_charge(*state, &ref, &ref,
						  UINT64_MAX, UINT64_MAX,
						  START);

		assert_true(wait < UINT64_MAX / 2);
	}
	/* Never so far that it could wrap. */
	assert_true(sqos_rates_charge(*state, &ref, NULL, 1, 1,
				      UINT64_MAX / 2 - 1) <= UINT64_MAX / 2);
}

static void test_a_group_is_shared(void **state)
{
	struct sqos_ref flows[3];
	struct sqos_ref group = slot(*state, 100, START);
	struct client clients[3] = {};
	size_t i = 0;

	sqos_rates_set(*state, &group, 1000, 0, 0, START);
	for (i = 0; i < 3; i++) {
		flows[i] = slot(*state, (uint32_t)i, START);
		/* Their share and a tenth: who queues deep gets no more in the
		 * long run, a second's worth ahead. */
		sqos_rates_set(*state, &flows[i], 367, 0, 0, START);
		clients[i] = (struct client) {
			.flow = &flows[i], .group = &group, .io = 1,
			.depth = i == 0 ? 64 : 4, .service = 1000,
		};
	}
	run(*state, clients, 3, START, START + 30 * SECOND);
	assert_in_range(clients[0].done + clients[1].done + clients[2].done,
			30000 - 10, 30000 + 150);
	for (i = 0; i < 3; i++) {
		assert_in_range(clients[i].done, 8000, 11500);
	}
}

static void test_a_minimum_within_a_group(void **state)
{
	struct sqos_ref flows[2] = { slot(*state, 1, START),
				     slot(*state, 2, START) };
	struct sqos_ref group = slot(*state, 100, START);
	struct client clients[2] = {
		{ .flow = &flows[0], .group = &group, .io = 1, .depth = 2 },
		{ .flow = &flows[1], .group = &group, .io = 1, .depth = 64 },
	};

	sqos_rates_set(*state, &group, 1000, 0, 0, START);
	sqos_rates_set(*state, &flows[0], 0, 0, 600, START);
	run(*state, clients, 2, START, START + 30 * SECOND);
	assert_in_range(clients[0].done, 600 * 30 * 95 / 100, 30000);
	assert_in_range(clients[0].done + clients[1].done, 29990, 30250);
}

/*
 * Storage that does 2000 a second in all: each request takes the longer, the
 * more there are under way.  Who is owed 1500 gets them.
 */
static void test_a_minimum_on_slow_storage(void **state)
{
	struct sqos_ref flows[2] = { slot(*state, 1, START),
				     slot(*state, 2, START) };
	struct sqos_rates *rates = *state;
	uint64_t busy = START;	/* the storage is, until then */
	uint64_t ready[2][32] = {};
	uint64_t done[2] = {};
	uint64_t late[2] = {};
	uint64_t window = START;
	uint64_t window_io = 0;
	size_t i = 0;
	size_t k = 0;

	sqos_rates_set(rates, &flows[0], 0, 0, 1500, START);
	for (i = 0; i < 2; i++) {
		for (k = 0; k < 32; k++) {
			ready[i][k] = START + k;
		}
	}
	for (;;) {
		uint64_t now = UINT64_MAX;
		size_t who = 0;
		size_t which = 0;
		uint64_t start = 0;

		for (i = 0; i < 2; i++) {
			for (k = 0; k < (i == 0 ? 8u : 32u); k++) {
				if (ready[i][k] < now) {
					now = ready[i][k];
					who = i;
					which = k;
				}
			}
		}
		if (now > START + 40 * SECOND) {
			break;
		}
		if (who == 0 && now - window >= SQOS_LOOK_NS) {
			sqos_rates_feedback(
				rates, (double)window_io * SECOND /
				(double)(1500 * (now - window)), now);
			window = now;
			window_io = 0;
		}
		start = now + sqos_rates_charge(rates, &flows[who], NULL, 1,
						8, now);
		start = start > busy ? start : busy;
		/* Held back requests are not in the storage's queue. */
		if (start == busy || start <= now) {
			busy = start + SECOND / 2000;
			ready[who][which] = busy;
		} else {
			ready[who][which] = start + SECOND / 2000;
		}
		done[who]++;
		window_io += who == 0;
		if (now > START + 10 * SECOND) {
			late[who]++;
		}
	}
	assert_true(late[0] >= 1500 * 30 * 95 / 100);
	assert_true(late[1] > 1000);
	/* Nobody tells any more: it is forgotten. */
	assert_true(sqos_rates_held(rates, START + 40 * SECOND) != 0);
	assert_int_equal(sqos_rates_held(rates, START + 43 * SECOND), 0);
}

static void test_processes_take_from_one(void **state)
{
	struct sqos_ref ref = slot(*state, 1, START);
	uint64_t wait = 0;
	int status = 0;
	int i = 0;
	int k = 0;

	sqos_rates_set(*state, &ref, 1000, 0, 0, START);
	for (i = 0; i < 4; i++) {
		pid_t pid = fork();

		assert_int_not_equal(pid, -1);
		if (pid == 0) {
			struct sqos_rates *rates = NULL;

			if (sqos_rates_open(NULL, path, &rates) != 0) {
				_exit(1);
			}
			for (k = 0; k < 20000; k++) {
				sqos_rates_charge(rates, &ref, NULL, 1, 0,
						  START);
			}
			_exit(0);
		}
	}
	for (i = 0; i < 4; i++) {
		assert_true(wait4(-1, &status, 0, NULL) > 0);
		assert_int_equal(status, 0);
	}
	/* 80,000 at 1000 a second, less the burst: not one is lost. */
	wait = sqos_rates_charge(*state, &ref, NULL, 1, 0, START);
	assert_int_equal(wait, 80 * SECOND - SQOS_BURST_NS);
}

static void test_slots_are_used_again(void **state)
{
	struct sqos_ref first = slot(*state, 0, START);
	struct sqos_ref again = slot(*state, 0, START);
	struct sqos_ref ref = {};
	uint32_t made = 0;
	uint32_t i = 0;

	assert_memory_equal(&first, &again, sizeof(first));
	for (i = 0; i < 70000; i++) {
		uint8_t key[SQOS_RATE_KEY] = { 'F' };

		memcpy(key + 1, &i, sizeof(i));
		made += sqos_rates_find(*state, key, START, &ref) ? 1 : 0;
	}
	assert_true(made > 60000 && made < 70000);
	/* A set by who held it before does nothing to who has it now. */
	for (i = 100000; i < 170000; i++) {
		ref = slot(*state, i, START + 121 * SECOND);
		if (ref.index == first.index) {
			break;
		}
	}
	assert_int_equal(ref.index, first.index);
	assert_int_not_equal(ref.generation, first.generation);
	sqos_rates_set(*state, &first, 1, 1, 1, START);
	assert_int_equal(sqos_rates_charge(*state, &ref, &ref, 1000000, 1000,
					   START + 121 * SECOND), 0);
}

static void test_another_start_of_the_machine(void **state)
{
	struct sqos_ref ref = slot(*state, 1, START);
	struct sqos_rates *rates = NULL;
	FILE *file = NULL;

	sqos_rates_set(*state, &ref, 1, 0, 0, START);
	talloc_free(*state);
	*state = NULL;
	file = fopen(path, "r+");
	assert_non_null(file);
	assert_int_equal(fseek(file, 8, SEEK_SET), 0);
	assert_true(fputs("another", file) >= 0);
	fclose(file);
	assert_int_equal(sqos_rates_open(NULL, path, &rates), 0);
	*state = rates;
	ref = slot(rates, 1, START);
	assert_int_equal(sqos_rates_charge(rates, &ref, NULL, 1000, 0, START),
			 0);
	assert_int_equal(sqos_rates_charge(rates, &ref, NULL, 1, 0, START),
			 0);
}

/* What was told to wait under a small limit does, when it has grown. */
static void test_who_waits_is_behind(void **state)
{
	struct sqos_ref ref = slot(*state, 1, START);
	uint64_t io = 0;
	uint64_t kb = 0;
	size_t i = 0;

	sqos_rates_set(*state, &ref, 2, 0, 0, START);
	assert_false(sqos_rates_used(*state, &ref, START, &io, &kb));
	for (i = 0; i < 16; i++) {
		sqos_rates_charge(*state, &ref, NULL, 1, 8, START);
	}
	assert_true(sqos_rates_used(*state, &ref, START, &io, &kb));
	assert_int_equal(io, 16);
	assert_int_equal(kb, 128);
	sqos_rates_set(*state, &ref, 100, 0, 0, START + SECOND);
	assert_true(sqos_rates_used(*state, &ref, START + 7 * SECOND, &io,
				    &kb));
	assert_false(sqos_rates_used(*state, &ref, START + 8 * SECOND, &io,
				     &kb));
}

/* Machines with one limit; each asks for its part every 1.1 seconds. */
static void machines_run(struct sqos_rates *rates, struct sqos_nodes *nodes,
			 struct client *machines, uint64_t limit,
			 uint64_t *_now, uint64_t seconds)
{
	uint64_t end = *_now + seconds * SECOND;

	for (; *_now < end; *_now += SECOND / 10) {
		uint32_t i = (uint32_t)(*_now / (SECOND / 10) % 11);
		struct sqos_used used = { .io_limit = limit };
		uint32_t part = 0;

		if (i < 3 && machines[i].depth > 0) {
			used.behind = sqos_rates_used(
				rates, machines[i].flow, *_now, &used.io,
				&used.kb);
			sqos_nodes_ask(nodes, i, &used, *_now / 1000000,
				       &part);
			sqos_rates_set(rates, machines[i].flow,
				       sqos_part(limit, part), 0, 0, *_now);
		}
		go_on(rates, machines, 3, *_now + SECOND / 10);
	}
}

/*
 * What waits under a small part goes on as it was told when the part grows, so
 * a machine with much under way uses less than it may, and wants more.
 */
static void test_machines_with_much_under_way(void **state)
{
	static const struct {
		uint64_t limit;
		size_t depth;
	} rows[] = {
		{ 600, 1 }, { 600, 8 }, { 600, 64 }, { 200, 16 },
	};
	size_t d = 0;

	for (d = 0; d < sizeof(rows) / sizeof(rows[0]); d++) {
		uint64_t limit = rows[d].limit;
		struct sqos_nodes nodes = {};
		struct sqos_ref refs[3] = {};
		struct client machines[3] = {};
		uint64_t now = START;
		uint64_t done = 0;
		uint32_t i = 0;

		for (i = 0; i < 3; i++) {
			refs[i] = slot(*state, (uint32_t)d * 3 + i, START);
			machines[i] = (struct client){
				.flow = &refs[i], .io = 1, .service = 1000000,
			};
			sqos_rates_set(*state, &refs[i], limit / 100, 0, 0,
				       START);
		}
		/* The first one has all of it when the others come. */
		for (i = 0; i < 3; i++) {
			machines[i].depth = rows[d].depth;
			begin(&machines[i], 1, now);
			machines_run(*state, &nodes, machines, limit, &now,
				     14);
		}
		for (i = 0; i < 3; i++) {
			machines[i].done = 0;
		}
		machines_run(*state, &nodes, machines, limit, &now, 10);
		for (i = 0; i < 3; i++) {
			assert_in_range(machines[i].done, limit * 28 / 10,
					limit * 39 / 10);
			done += machines[i].done;
		}
		assert_in_range(done, limit * 97 / 10, limit * 102 / 10);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_limit_is_exact),
		TEST(test_bandwidth_and_requests),
		TEST(test_an_idle_flow_saves_no_more_than_a_burst),
		TEST(test_no_limit_no_wait),
		TEST(test_a_higher_limit_forgives),
		TEST(test_the_greatest_numbers),
		TEST(test_a_group_is_shared),
		TEST(test_a_minimum_within_a_group),
		TEST(test_a_minimum_on_slow_storage),
		TEST(test_processes_take_from_one),
		TEST(test_slots_are_used_again),
		TEST(test_another_start_of_the_machine),
		TEST(test_who_waits_is_behind),
		TEST(test_machines_with_much_under_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
