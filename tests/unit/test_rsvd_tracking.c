/*
 * The bodies of change tracking.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "rsvd/tracking.h"

static void test_start_takes_a_plain_name_or_none(void **test)
{
	static const struct {
		uint32_t at;
		uint32_t length;
		const char *name;	/* of one byte each, with its NUL */
		size_t body;
		int result;
		size_t got;
	} rows[] = {
		{ 56, 0, "", 56, 0, 0 }, { 0, 0, "", 56, 0, 0 },
		{ 56, 0, "", 55, -EMSGSIZE, 0 },
		{ 56, 12, "a.log", 68, 0, 10 }, { 56, 10, "a.log", 66, 0, 10 },
		{ 56, 12, "a.log", 67, -EINVAL, 0 },
		{ 55, 12, "a.log", 68, -EINVAL, 0 },
		{ 69, 2, "a.log", 68, -EINVAL, 0 },
		{ 0xFFFFFFFF, 12, "a.log", 68, -EINVAL, 0 },
		{ 56, 0xFFFFFFFF, "a.log", 68, -EINVAL, 0 },
		{ 56, 11, "a.log", 68, -EINVAL, 0 },
		{ 56, 2, "", 58, -EINVAL, 0 }, { 56, 6, "..", 62, -EINVAL, 0 },
		{ 56, 8, "a/b", 64, -EINVAL, 0 },
		{ 56, 8, "a\\b", 64, -EINVAL, 0 },
		{ 56, 8, "a:b", 64, -EINVAL, 0 },
		{ 56, 8, "a\nb", 64, -EINVAL, 0 },
	};
	size_t i = 0;
	size_t k = 0;

	(void)test;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		/* Of its exact size, so that a byte too far is seen. */
		uint8_t *body = calloc(1, rows[i].body);
		struct rsvd_tracking_start s = { .name_length = 77 };
		int ret = 0;

		memcpy(body + 16, &rows[i].at, 4);
		memcpy(body + 20, &rows[i].length, 4);
		for (k = 0; k < strlen(rows[i].name) &&
		     56 + 2 * k < rows[i].body; k++) {
			body[56 + 2 * k] = (uint8_t)rows[i].name[k];
		}
		ret = rsvd_tracking_start_decode(body, rows[i].body, &s);
		assert_int_equal(rows[i].result, ret);
		assert_int_equal(ret == 0 ? rows[i].got : 77, s.name_length);
		free(body);
	}
}

static void test_start_knows_its_other_fields(void **test)
{
	struct rsvd_tracking_start s = {};
	uint8_t body[56] = {};

	(void)test;
	memset(body, 0x11, 16);
	memset(body + 24, 0x22, 16);
	body[41] = 1;
	body[48] = 1;
	memset(body + 16, 0, 8);
	assert_int_equal(0, rsvd_tracking_start_decode(body, 56, &s));
	assert_int_equal(0x11, s.transaction.bytes[15]);
	assert_int_equal(0x22, s.log_id.bytes[0]);
	assert_int_equal(256, s.log_size_max);
	assert_true(s.append);
	body[48] = 2;
	assert_int_equal(-EINVAL, rsvd_tracking_start_decode(body, 56, &s));
}

static void test_changes_are_asked_of_snapshots_of_machines(void **test)
{
	struct rsvd_tracking_changes q = {};
	uint8_t body[56] = {};

	(void)test;
	memset(body, 1, 16);
	memset(body + 16, 2, 16);
	body[32] = 1;
	body[42] = 3;
	body[49] = 4;
	assert_int_equal(-EMSGSIZE,
			 rsvd_tracking_changes_decode(body, 55, &q));
	assert_int_equal(0, rsvd_tracking_changes_decode(body, 56, &q));
	assert_int_equal(1, q.target.bytes[0]);
	assert_int_equal(2, q.limit.bytes[15]);
	assert_int_equal(0x30000, q.offset);
	assert_int_equal(0x400, q.length);
	body[32] = 3;
	assert_int_equal(-EINVAL, rsvd_tracking_changes_decode(body, 56, &q));
}

static void test_answers_have_the_document_s_bytes(void **test)
{
	static const struct cbt_range ranges[] = { { 0x10000, 512 } };
	static const uint8_t wanted[40] = {
		0, 4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0,
	};
	static const uint8_t parameters[16] = {
		0x22, 0, 0x3A, 0xC0, 0, 0, 0, 0, 5,
	};
	uint8_t out[40];

	(void)test;
	memset(out, 0xEE, sizeof(out));
	assert_int_equal(40, rsvd_tracking_changes_encode(1024, ranges, 1,
							  out));
	assert_memory_equal(wanted, out, 40);
	rsvd_tracking_parameters_encode(RSVD_TRACKING_CHANGED_OFFLINE, 5, out);
	assert_memory_equal(parameters, out, 16);
	assert_int_equal(0, rsvd_tracking_room(15));
	assert_int_equal(0, rsvd_tracking_room(39));
	assert_int_equal(1, rsvd_tracking_room(40));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_start_takes_a_plain_name_or_none),
		cmocka_unit_test(test_start_knows_its_other_fields),
		cmocka_unit_test(
			test_changes_are_asked_of_snapshots_of_machines),
		cmocka_unit_test(test_answers_have_the_document_s_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
