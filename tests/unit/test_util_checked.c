/* Checked arithmetic, one table per operation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "util/checked.h"

#define MAX UINT64_MAX
#define UNTOUCHED 0x5A5A5A5A5A5A5A5AULL

struct row {
	int (*op)(uint64_t a, uint64_t b, uint64_t *_out);
	uint64_t a;
	uint64_t b;
	int ret;
	uint64_t out;
};

static const struct row rows[] = {
	{ checked_add, 0, 0, 0, 0 },
	{ checked_add, MAX, 0, 0, MAX },
	{ checked_add, MAX - 1, 1, 0, MAX },
	{ checked_add, MAX, 1, -EOVERFLOW, UNTOUCHED },
	{ checked_add, MAX, MAX, -EOVERFLOW, UNTOUCHED },
	{ checked_sub, 5, 5, 0, 0 },
	{ checked_sub, MAX, 1, 0, MAX - 1 },
	{ checked_sub, 0, 1, -EOVERFLOW, UNTOUCHED },
	{ checked_mul, 0, MAX, 0, 0 },
	{ checked_mul, 1ULL << 32, (1ULL << 32) - 1, 0,
	  0xFFFFFFFF00000000ULL },
	{ checked_mul, 1ULL << 32, 1ULL << 32, -EOVERFLOW, UNTOUCHED },
	{ checked_mul, MAX, 2, -EOVERFLOW, UNTOUCHED },
	{ checked_round_down, 4095, 4096, 0, 0 },
	{ checked_round_down, 4096, 4096, 0, 4096 },
	{ checked_round_down, MAX, 1 << 20, 0, 0xFFFFFFFFFFF00000ULL },
	{ checked_round_down, 7, 3, 0, 6 },
	{ checked_round_down, 7, 0, -EINVAL, UNTOUCHED },
	{ checked_round_up, 0, 4096, 0, 0 },
	{ checked_round_up, 1, 4096, 0, 4096 },
	{ checked_round_up, 4096, 4096, 0, 4096 },
	{ checked_round_up, 7, 3, 0, 9 },
	{ checked_round_up, 0xFFFFFFFFFFF00000ULL, 1 << 20, 0,
	  0xFFFFFFFFFFF00000ULL },
	{ checked_round_up, 0xFFFFFFFFFFF00001ULL, 1 << 20, -EOVERFLOW,
	  UNTOUCHED },
	{ checked_round_up, MAX, 2, -EOVERFLOW, UNTOUCHED },
	{ checked_round_up, 7, 0, -EINVAL, UNTOUCHED },
};

static void test_every_row_gives_its_result_or_leaves_it(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t out = UNTOUCHED;
		int ret = rows[i].op(rows[i].a, rows[i].b, &out);

		if (ret != rows[i].ret || out != rows[i].out) {
			fail_msg("row %zu: %d, %llx", i, ret,
				 (unsigned long long)out);
		}
	}
}

static void test_inside_knows_the_edges(void **state)
{
	(void)state;
	assert_true(checked_inside(0, 0, 0));
	assert_true(checked_inside(0, 10, 10));
	assert_true(checked_inside(10, 0, 10));
	assert_false(checked_inside(10, 1, 10));
	assert_false(checked_inside(11, 0, 10));
	assert_false(checked_inside(1, MAX, 10));
	assert_false(checked_inside(MAX, 1, MAX));
	assert_true(checked_inside(MAX, 0, MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_row_gives_its_result_or_leaves_it),
		cmocka_unit_test(test_inside_knows_the_edges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
