/* GUIDs: byte order, text both ways, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>

#include <cmocka.h>

#include "util/guid.h"

static const struct guid bat = GUID_INIT(0x2DC27766, 0xF623, 0x4200, 0x9D,
					 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A,
					 0x08);

static void test_first_three_groups_are_little_endian(void **state)
{
	static const uint8_t memory[16] = {
		0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42,
		0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08,
	};

	(void)state;
	assert_memory_equal(bat.bytes, memory, 16);
}

static void test_text_is_lower_case_and_reads_back(void **state)
{
	char text[GUID_BRACED_SIZE] = "";
	struct guid back = {};

	(void)state;
	guid_format(&bat, false, text);
	assert_string_equal(text, "2dc27766-f623-4200-9d64-115e9bfd4a08");
	assert_int_equal(guid_parse(text, strlen(text), &back), 0);
	assert_true(guid_equal(&bat, &back));
	guid_format(&bat, true, text);
	assert_string_equal(text, "{2dc27766-f623-4200-9d64-115e9bfd4a08}");
	memset(&back, 0, sizeof(back));
	assert_int_equal(guid_parse(text, strlen(text), &back), 0);
	assert_true(guid_equal(&bat, &back));
	memset(&back, 0, sizeof(back));
	assert_int_equal(guid_parse("2DC27766-F623-4200-9D64-115E9BFD4A08",
				    36, &back), 0);
	assert_true(guid_equal(&bat, &back));
}

static void test_anything_else_is_refused(void **state)
{
	static const char * const bad[] = {
		"", "{}", "2dc27766-f623-4200-9d64-115e9bfd4a0",
		"2dc27766-f623-4200-9d64-115e9bfd4a088",
		"2dc27766f623-4200-9d64--115e9bfd4a08",
		"2dc27766-f623-4200-9d64-115e9bfd4a0g",
		"{2dc27766-f623-4200-9d64-115e9bfd4a08)",
		"(2dc27766-f623-4200-9d64-115e9bfd4a08}",
		"2dc27766-f623-4200-9d64+115e9bfd4a08",
	};
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct guid g = bat;

		assert_int_equal(guid_parse(bad[i], strlen(bad[i]), &g),
				 -EINVAL);
		assert_true(guid_equal(&g, &bat));
	}
}

static void test_random_ones_differ_and_carry_their_version(void **state)
{
	struct guid a = {};
	struct guid b = {};

	(void)state;
	assert_true(guid_is_null(&a));
	assert_int_equal(guid_random(&a), 0);
	assert_int_equal(guid_random(&b), 0);
	assert_false(guid_is_null(&a));
	assert_false(guid_equal(&a, &b));
	assert_int_equal(a.bytes[7] >> 4, 4);
	assert_int_equal(a.bytes[8] >> 6, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_three_groups_are_little_endian),
		cmocka_unit_test(test_text_is_lower_case_and_reads_back),
		cmocka_unit_test(test_anything_else_is_refused),
		cmocka_unit_test(
			test_random_ones_differ_and_carry_their_version),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
