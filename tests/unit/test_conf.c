/* Editing smb.conf: what is asked for changes, nothing else does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "conf/conf.h"

#define ARRAY(a) (sizeof(a) / sizeof((a)[0]))

static const struct {
	const char *text, *section, *parameter, *value, *wanted;
} sets[] = {
	/* At the end of its section, before what speaks of the next. */
	{ "[global]\n# a\n\n[vm]\n  path = /x\n\n# next\n[b]\npath=/y\n",
	  "VM", "vfs objects", "hvrs",
	  "[global]\n# a\n\n[vm]\n  path = /x\n  vfs objects = hvrs\n"
	  "\n# next\n[b]\npath=/y\n" },
	/* In place, under its other spelling, with its continuation. */
	{ "[vm]\n\tVFS Object = a \\\n b\n; c\n", "vm", "vfs objects",
	  "a b hvrs", "[vm]\n\tvfs objects = a b hvrs\n; c\n" },
	/* The last of two lines counts, also in a section said twice. */
	{ "[vm]\nvfsobjects = a\n[x]\n[vm]\nvfs objects = b\n", "vm",
	  "vfs objects", "b hvrs",
	  "[vm]\nvfsobjects = a\n[x]\n[vm]\nvfs objects = b hvrs\n" },
	/* No newline at the end. */
	{ "[vm]\npath = /x", "vm", "vfs objects", "hvrs",
	  "[vm]\npath = /x\nvfs objects = hvrs\n" },
	{ "[vm]\n", "global", "preload modules", "/m",
	  "[global]\n\tpreload modules = /m\n[vm]\n" },
	/* A comment that ends in a backslash is one line. */
	{ "[vm]\n# \\\npath = /x\n", "vm", "path", "/y",
	  "[vm]\n# \\\npath = /y\n" },
	/* Commented lines are none. */
	{ "[vm]\n;vfs objects = a\npath = /x\n", "vm", "vfs objects", "hvrs",
	  "[vm]\n;vfs objects = a\npath = /x\nvfs objects = hvrs\n" },
	{ "[vm]\nvfs objects = a\npath = /x\nvfs object=b\n", "vm",
	  "vfs objects", NULL, "[vm]\npath = /x\n" },
	{ "", "vm", "vfs objects", NULL, "" },
};

static void test_lines_are_set_and_nothing_else_changes(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < ARRAY(sets); i++) {
		char *got = conf_set(NULL, sets[i].text, sets[i].section,
				     sets[i].parameter, sets[i].value);

		assert_string_equal(sets[i].wanted, got);
		talloc_free(got);
	}
}

static void test_values_are_found(void **state)
{
	const char *text = "log level = 3\n[ VM ]\nvfs objects = a \\\n  b\n";
	char *value = conf_get(NULL, text, "vm", "VFSOBJECTS");

	(void)state;
	assert_true(conf_list_has(value, "a"));
	assert_true(conf_list_has(value, "b"));
	assert_false(conf_list_has(value, "\\"));
	talloc_free(value);
	value = conf_get(NULL, text, "global", "loglevel");
	assert_string_equal("3", value);
	talloc_free(value);
	assert_null(conf_get(NULL, text, "other", "vfs objects"));
	assert_true(conf_section_exists(text, "vm"));
	assert_false(conf_section_exists(text, "v"));
}

static const struct {
	const char *list, *with;
} lists[] = {
	{ "", "hvrs" },
	{ "acl_xattr, shadow_copy2", "acl_xattr shadow_copy2 hvrs" },
	{ "acl_xattr io_uring", "acl_xattr hvrs io_uring" },
	{ "hvrs", "hvrs" },
	{ "hvrs_fsctl", "hvrs_fsctl hvrs" },
};

static void test_the_module_stands_next_to_the_file_system(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < ARRAY(lists); i++) {
		char *got = conf_list_add_module(NULL, lists[i].list);

		assert_string_equal(lists[i].with, got);
		talloc_free(got);
	}
}

static void test_a_word_is_taken_out(void **state)
{
	char *got = conf_list_remove(NULL, "a, hvrs io_uring", "hvrs");

	(void)state;
	assert_string_equal("a io_uring", got);
	talloc_free(got);
	got = conf_list_remove(NULL, "hvrs", "hvrs");
	assert_string_equal("", got);
	talloc_free(got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines_are_set_and_nothing_else_changes),
		cmocka_unit_test(test_values_are_found),
		cmocka_unit_test(
			test_the_module_stands_next_to_the_file_system),
		cmocka_unit_test(test_a_word_is_taken_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
