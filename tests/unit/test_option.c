/* The option table, and how values are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "option/option.h"

static void test_every_row_is_whole_and_its_default_is_valid(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < OPTION_COUNT; i++) {
		const struct option_row *row = option_row_get(i);
		enum option_id id = OPTION_COUNT;

		assert_non_null(row->name);
		assert_non_null(row->standard);
		assert_non_null(row->help);
		assert_int_equal(option_validate(row, row->standard), 0);
		assert_true(strlen(option_accepts(row)) > 0);
		assert_int_equal(option_find(row->name, &id), 0);
		assert_int_equal(id, i);
		/* A feature is switched. */
		assert_true(!row->feature || row->kind == OPTION_SWITCH);
	}
}

static void test_names_are_found_as_smb_conf_does(void **state)
{
	enum option_id id = OPTION_COUNT;

	(void)state;
	assert_int_equal(option_find("Zero Data", &id), 0);
	assert_int_equal(id, OPTION_ZERO_DATA);
	assert_int_equal(option_find("zerodata", &id), 0);
	assert_int_equal(option_find(" trim ", &id), 0);
	assert_int_equal(id, OPTION_TRIM);
	id = OPTION_COUNT;
	assert_int_equal(option_find("trimm", &id), -ENOENT);
	assert_int_equal(option_find("", &id), -ENOENT);
	assert_int_equal(id, OPTION_COUNT);
}

static void test_the_nearest_name_is_named(void **state)
{
	(void)state;
	assert_string_equal(option_nearest("trimm"), "trim");
	assert_string_equal(option_nearest("block clonig"), "block cloning");
	assert_null(option_nearest("entirely other words"));
	assert_null(option_nearest(""));
}

static void test_switches_are_read(void **state)
{
	static const struct {
		const char *text;
		int value;
	} rows[] = {
		{ "auto", OPTION_AUTO }, { "AUTO", OPTION_AUTO },
		{ "yes", OPTION_YES }, { "True", OPTION_YES },
		{ "on", OPTION_YES }, { "1", OPTION_YES },
		{ "no", OPTION_NO }, { "false", OPTION_NO },
		{ "Off", OPTION_NO }, { "0", OPTION_NO },
		{ "", -1 }, { "2", -1 }, { "yes ", -1 }, { "maybe", -1 },
	};
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		enum option_switch value = 77;
		int ret = option_switch_parse(rows[i].text, &value);

		assert_int_equal(ret, rows[i].value < 0 ? -EINVAL : 0);
		assert_int_equal(value, rows[i].value < 0 ? 77
							  : rows[i].value);
	}
}

static void test_numbers_are_read_within_their_range(void **state)
{
	const struct option_row row = { .kind = OPTION_NUMBER, .least = 10,
					.most = 100 };
	static const struct {
		const char *text;
		int ret;
	} rows[] = {
		{ "10", 0 }, { "100", 0 }, { "9", -EINVAL },
		{ "101", -EINVAL }, { "-10", -EINVAL }, { "+10", -EINVAL },
		{ "10k", -EINVAL }, { "", -EINVAL }, { " 10", -EINVAL },
		{ "0x10", -EINVAL },
		{ "99999999999999999999999", -EINVAL },
	};
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t value = 7;

		assert_int_equal(option_number_parse(&row, rows[i].text,
						     &value), rows[i].ret);
		assert_true((value == 7) == (rows[i].ret != 0));
	}
}

static void test_words_and_paths_are_validated(void **state)
{
	const struct option_row word = { .kind = OPTION_WORD,
					 .words = "auto btrfs clone" };
	const struct option_row path = { .kind = OPTION_PATH };
	const struct option_row guid = { .kind = OPTION_GUID };
	const char *id = "6e7f1b1c-2f3f-4b43-9d0b-5b7f0c1d2e3f";

	(void)state;
	assert_int_equal(option_validate(&word, "clone"), 0);
	assert_int_equal(option_validate(&word, "AUTO"), 0);
	assert_int_equal(option_validate(&word, "btr"), -EINVAL);
	assert_int_equal(option_validate(&word, ""), -EINVAL);
	assert_int_equal(option_validate(&word, "auto btrfs"), -EINVAL);
	assert_int_equal(option_validate(&path, "/bin/true"), 0);
	assert_int_equal(option_validate(&path, ""), 0);
	assert_int_equal(option_validate(&path, "bin/true"), -EINVAL);
	assert_int_equal(option_validate(&guid, id), 0);
	assert_int_equal(option_validate(&guid, ""), 0);
	assert_int_equal(option_validate(&guid, id + 1), -EINVAL);
	assert_int_equal(option_validate(&guid, "gold"), -EINVAL);
}

static void test_patterns_match_names_without_their_folders(void **state)
{
	(void)state;
	assert_int_equal(option_patterns_validate("*.vhdx *.vhd"), 0);
	assert_int_equal(option_patterns_validate(""), -EINVAL);
	assert_int_equal(option_patterns_validate("  "), -EINVAL);
	assert_int_equal(option_patterns_validate("a/b"), -EINVAL);
	assert_true(option_patterns_match("*.vhdx *.vhd", "a/b/DISK.VHDX"));
	assert_true(option_patterns_match("*.vhdx, *.vhd", "x.vhd"));
	assert_false(option_patterns_match("*.vhdx", "disk.vhdx/other"));
	assert_false(option_patterns_match("*.vhdx", "vhdx"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_every_row_is_whole_and_its_default_is_valid),
		cmocka_unit_test(test_names_are_found_as_smb_conf_does),
		cmocka_unit_test(test_the_nearest_name_is_named),
		cmocka_unit_test(test_switches_are_read),
		cmocka_unit_test(test_numbers_are_read_within_their_range),
		cmocka_unit_test(test_words_and_paths_are_validated),
		cmocka_unit_test(
			test_patterns_match_names_without_their_folders),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
