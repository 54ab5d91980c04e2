/* The byte cursors: values, bounds, and that a failure sticks. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "util/cursor.h"
#include "util/guid.h"

static const uint8_t sample[] = {
	0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x88,
	0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F, 0xF0,
};

static void test_little_endian_reads(void **state)
{
	struct cursor c = {};

	(void)state;
	cursor_init(&c, sample, sizeof(sample));
	assert_int_equal(cursor_u8(&c), 0x01);
	assert_int_equal(cursor_le16(&c), 0x0302);
	assert_int_equal(cursor_le32(&c), 0x07060504);
	assert_true(cursor_le64(&c) == 0x0F0E0D0C0B0A0988ULL);
	assert_int_equal(cursor_remaining(&c), 1);
	assert_int_equal(cursor_status(&c), 0);
}

static void test_big_endian_reads(void **state)
{
	struct cursor c = {};

	(void)state;
	cursor_init(&c, sample, sizeof(sample));
	assert_int_equal(cursor_be16(&c), 0x0102);
	assert_int_equal(cursor_be32(&c), 0x03040506);
	assert_true(cursor_be64(&c) == 0x0788090A0B0C0D0EULL);
	assert_int_equal(cursor_remaining(&c), 2);
	assert_int_equal(cursor_status(&c), 0);
}

static void test_reading_to_the_last_byte_is_no_error(void **state)
{
	struct cursor c = {};
	uint8_t copy[sizeof(sample)] = {};

	(void)state;
	cursor_init(&c, sample, sizeof(sample));
	cursor_bytes(&c, copy, sizeof(copy));
	assert_memory_equal(copy, sample, sizeof(sample));
	assert_int_equal(cursor_remaining(&c), 0);
	assert_int_equal(cursor_status(&c), 0);
	assert_int_equal(cursor_u8(&c), 0);
	assert_int_equal(cursor_status(&c), -EINVAL);
}

/* Every width, from every length too short for it by one or more bytes. */
static void test_short_buffer_fails_every_width(void **state)
{
	static const size_t widths[] = { 1, 2, 4, 8, 2, 4, 8, 16 };
	size_t kind = 0;
	size_t length = 0;

	(void)state;
	for (kind = 0; kind < 8; kind++) {
		for (length = 0; length < widths[kind]; length++) {
			struct cursor c = {};
			struct guid g = {};
			uint64_t got = 1;

			cursor_init(&c, sample, length);
			switch (kind) {
			case 0: got = cursor_u8(&c); break;
			case 1: got = cursor_le16(&c); break;
			case 2: got = cursor_le32(&c); break;
			case 3: got = cursor_le64(&c); break;
			case 4: got = cursor_be16(&c); break;
			case 5: got = cursor_be32(&c); break;
			case 6: got = cursor_be64(&c); break;
			default:
				memset(&g, 0xAA, sizeof(g));
				cursor_guid(&c, &g);
				got = guid_is_null(&g) ? 0 : 1;
			}
			assert_true(got == 0);
			assert_int_equal(cursor_status(&c), -EINVAL);
			assert_int_equal(cursor_remaining(&c), 0);
		}
	}
}

static void test_failure_sticks(void **state)
{
	struct cursor c = {};
	uint8_t copy[4] = { 1, 1, 1, 1 };

	(void)state;
	cursor_init(&c, sample, 6);
	assert_int_equal(cursor_le32(&c), 0x04030201);
	assert_int_equal(cursor_le32(&c), 0);
	/* Two bytes would be there, but the decoder has lost its place. */
	assert_int_equal(cursor_le16(&c), 0);
	cursor_bytes(&c, copy, 1);
	assert_int_equal(copy[0], 0);
	cursor_seek(&c, 0);
	assert_int_equal(cursor_u8(&c), 0);
	assert_null(cursor_borrow(&c, 1));
	assert_int_equal(cursor_status(&c), -EINVAL);
}

static void test_huge_lengths_do_not_wrap(void **state)
{
	struct cursor c = {};

	(void)state;
	cursor_init(&c, sample, sizeof(sample));
	cursor_skip(&c, 8);
	cursor_skip(&c, SIZE_MAX);
	assert_int_equal(cursor_status(&c), -EINVAL);
	cursor_init(&c, sample, sizeof(sample));
	cursor_skip(&c, 8);
	cursor_skip(&c, SIZE_MAX - 7);
	assert_int_equal(cursor_status(&c), -EINVAL);
	cursor_init(&c, sample, sizeof(sample));
	cursor_seek(&c, sizeof(sample) + 1);
	assert_int_equal(cursor_status(&c), -EINVAL);
}

static void test_seek_and_borrow(void **state)
{
	struct cursor c = {};

	(void)state;
	cursor_init(&c, sample, sizeof(sample));
	cursor_seek(&c, 4);
	assert_ptr_equal(cursor_borrow(&c, 3), sample + 4);
	assert_int_equal(cursor_u8(&c), 0x88);
	cursor_seek(&c, sizeof(sample));
	assert_int_equal(cursor_status(&c), 0);
}

static void test_null_buffer_is_empty(void **state)
{
	struct cursor c = {};

	(void)state;
	cursor_init(&c, NULL, 0);
	assert_int_equal(cursor_status(&c), 0);
	assert_int_equal(cursor_remaining(&c), 0);
	assert_int_equal(cursor_u8(&c), 0);
	assert_int_equal(cursor_status(&c), -EINVAL);
	cursor_init(&c, NULL, 8);
	assert_int_equal(cursor_status(&c), -EINVAL);
}

static void test_put_writes_what_get_reads(void **state)
{
	struct guid g = GUID_INIT(0x2DC27766, 0xF623, 0x4200, 0x9D, 0x64,
				  0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08);
	uint8_t bytes[64];
	struct cursor_put w = {};
	struct cursor c = {};
	struct guid h = {};

	(void)state;
	memset(bytes, 0xEE, sizeof(bytes));
	cursor_put_init(&w, bytes, sizeof(bytes));
	cursor_put_u8(&w, 0x11);
	cursor_put_le16(&w, 0x2233);
	cursor_put_le32(&w, 0x44556677);
	cursor_put_le64(&w, 0x8899AABBCCDDEEFFULL);
	cursor_put_be16(&w, 0x2233);
	cursor_put_be32(&w, 0x44556677);
	cursor_put_be64(&w, 0x8899AABBCCDDEEFFULL);
	cursor_put_guid(&w, &g);
	cursor_put_zero(&w, 2);
	cursor_put_bytes(&w, "xyz", 3);
	assert_int_equal(cursor_put_status(&w), 0);
	assert_int_equal(cursor_put_length(&w), 50);
	assert_int_equal(bytes[50], 0xEE);
	assert_int_equal(bytes[1], 0x33);
	assert_int_equal(bytes[15], 0x22);

	cursor_init(&c, bytes, sizeof(bytes));
	assert_int_equal(cursor_u8(&c), 0x11);
	assert_int_equal(cursor_le16(&c), 0x2233);
	assert_int_equal(cursor_le32(&c), 0x44556677);
	assert_true(cursor_le64(&c) == 0x8899AABBCCDDEEFFULL);
	assert_int_equal(cursor_be16(&c), 0x2233);
	assert_int_equal(cursor_be32(&c), 0x44556677);
	assert_true(cursor_be64(&c) == 0x8899AABBCCDDEEFFULL);
	cursor_guid(&c, &h);
	assert_true(guid_equal(&g, &h));
	assert_int_equal(cursor_le16(&c), 0);
	assert_memory_equal(cursor_borrow(&c, 3), "xyz", 3);
}

static void test_put_past_the_end_writes_nothing(void **state)
{
	uint8_t bytes[8];
	struct cursor_put w = {};
	size_t i = 0;

	(void)state;
	memset(bytes, 0xEE, sizeof(bytes));
	cursor_put_init(&w, bytes, 6);
	cursor_put_le32(&w, 0);
	cursor_put_le32(&w, 0);
	cursor_put_u8(&w, 0);
	cursor_put_zero(&w, SIZE_MAX);
	cursor_put_bytes(&w, sample, 1);
	assert_int_equal(cursor_put_status(&w), -EINVAL);
	for (i = 4; i < sizeof(bytes); i++) {
		assert_int_equal(bytes[i], 0xEE);
	}
}

static void test_put_seek_stays_inside(void **state)
{
	uint8_t bytes[8] = {};
	struct cursor_put w = {};

	(void)state;
	cursor_put_init(&w, bytes, sizeof(bytes));
	cursor_put_seek(&w, 8);
	assert_int_equal(cursor_put_status(&w), 0);
	cursor_put_seek(&w, 4);
	cursor_put_be32(&w, 0x01020304);
	assert_int_equal(bytes[7], 4);
	cursor_put_seek(&w, 9);
	assert_int_equal(cursor_put_status(&w), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_little_endian_reads),
		cmocka_unit_test(test_big_endian_reads),
		cmocka_unit_test(test_reading_to_the_last_byte_is_no_error),
		cmocka_unit_test(test_short_buffer_fails_every_width),
		cmocka_unit_test(test_failure_sticks),
		cmocka_unit_test(test_huge_lengths_do_not_wrap),
		cmocka_unit_test(test_seek_and_borrow),
		cmocka_unit_test(test_null_buffer_is_empty),
		cmocka_unit_test(test_put_writes_what_get_reads),
		cmocka_unit_test(test_put_past_the_end_writes_nothing),
		cmocka_unit_test(test_put_seek_stays_inside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
