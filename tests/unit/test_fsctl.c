/* Wire forms and arithmetic of the controls, one row a rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "fsctl/fsctl.h"
#include "util/cursor.h"

#define MAX INT64_MAX
#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))

static void test_every_decoder_refuses_every_shorter_request(void **state)
{
	uint8_t bytes[64] = { 0x30 };
	struct fsctl_zero zero = {};
	struct fsctl_trim trim = {};
	struct fsctl_clone clone = {};
	struct fsctl_range range = {};
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(fsctl_zero_decode(bytes, i, &zero),
				 i < 16 ? -EINVAL : 0);
		assert_int_equal(fsctl_ranges_decode(bytes, i, &range),
				 i < 16 ? -EINVAL : 0);
		assert_int_equal(fsctl_clone_decode(bytes, i, &clone),
				 i < 40 ? -EINVAL : 0);
		assert_int_equal(fsctl_clone_ex_decode(bytes, i, &clone),
				 i < 48 ? -EINVAL : 0);
		bytes[0] = 0;	/* no key, one range */
		bytes[4] = 1;
		assert_int_equal(fsctl_trim_decode(bytes, i, &trim),
				 i < 24 ? -EINVAL : 0);
		bytes[0] = 0x30;
		bytes[4] = 0;
	}
}

static const struct {
	uint64_t offset, beyond, size;
	int ret;
	uint64_t start, length;
} zero_rows[] = {
	{ 0, 0, 100, 0, 0, 0 },
	{ 10, 20, 100, 0, 10, 10 },
	{ 10, 10, 100, 0, 0, 0 },
	{ 90, 200, 100, 0, 90, 10 },		/* clipped to the end */
	{ 100, 200, 100, 0, 0, 0 },		/* beyond the end */
	{ 0, MAX, 100, 0, 0, 100 },
	{ MAX, MAX, 100, 0, 0, 0 },
	{ 20, 10, 100, -EINVAL, 0, 0 },		/* reversed */
	{ 0, 1ULL << 63, 100, -EINVAL, 0, 0 },	/* negative */
	{ 1ULL << 63, UINT64_MAX, 100, -EINVAL, 0, 0 },
	{ 0, 10, 0, 0, 0, 0 },
};

static void test_zero_data_is_clipped_and_checked(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < COUNT(zero_rows); i++) {
		struct fsctl_zero zero = { zero_rows[i].offset,
					   zero_rows[i].beyond };
		struct fsctl_range range = {};

		assert_int_equal(fsctl_zero_plan(&zero, zero_rows[i].size,
						 &range), zero_rows[i].ret);
		if (zero_rows[i].ret != 0) {
			continue;
		}
		assert_int_equal(range.length, zero_rows[i].length);
		if (range.length > 0) {
			assert_int_equal(range.offset, zero_rows[i].start);
		}
	}
}

static const struct {
	uint64_t offset, length, allocation;
	int ret;
	uint64_t start, freed;
} trim_rows[] = {
	{ 0, 4096, 65536, 0, 0, 4096 },
	{ 1, 4095, 65536, 0, 0, 0 },		/* no whole page */
	{ 1, 8192, 65536, 0, 4096, 4096 },
	{ 4096, 8191, 65536, 0, 4096, 4096 },
	{ 61440, 1 << 20, 65536, 0, 61440, 4096 },
	{ 65536, 4096, 65536, 0, 0, 0 },	/* behind the allocation */
	{ 0, 0, 65536, 0, 0, 0 },
	{ UINT64_MAX, 2, 65536, -EOVERFLOW, 0, 0 },
	{ 4096, UINT64_MAX, 65536, -EOVERFLOW, 0, 0 },
};

static void test_trim_frees_whole_pages_alone(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < COUNT(trim_rows); i++) {
		uint8_t bytes[24] = {};
		struct cursor_put put = {};
		struct fsctl_trim trim = {};
		struct fsctl_range range = {};

		cursor_put_init(&put, bytes, sizeof(bytes));
		cursor_put_le32(&put, 0);
		cursor_put_le32(&put, 1);
		cursor_put_le64(&put, trim_rows[i].offset);
		cursor_put_le64(&put, trim_rows[i].length);
		assert_int_equal(fsctl_trim_decode(bytes, sizeof(bytes),
						   &trim), 0);
		assert_int_equal(fsctl_trim_plan(&trim, 0,
						 trim_rows[i].allocation,
						 4096, &range),
				 trim_rows[i].ret);
		if (trim_rows[i].ret != 0) {
			continue;
		}
		assert_int_equal(range.length, trim_rows[i].freed);
		if (range.length > 0) {
			assert_int_equal(range.offset, trim_rows[i].start);
		}
	}
}

static void test_trim_wants_no_key_and_the_ranges_it_counts(void **state)
{
	uint8_t bytes[40] = { 0, 0, 0, 0, 2 };
	struct fsctl_trim trim = {};

	(void)state;
	assert_int_equal(fsctl_trim_decode(bytes, 40, &trim), 0);
	assert_int_equal(trim.count, 2);
	assert_int_equal(fsctl_trim_decode(bytes, 39, &trim), -EINVAL);
	bytes[0] = 1;
	assert_int_equal(fsctl_trim_decode(bytes, 40, &trim), -EINVAL);
	bytes[0] = 0;
	bytes[4] = 0;
	assert_int_equal(fsctl_trim_decode(bytes, 40, &trim), -EINVAL);
	memset(bytes + 4, 0xFF, 4);
	assert_int_equal(fsctl_trim_decode(bytes, 40, &trim), -EINVAL);
}

static const struct clone_row {
	const char *name;
	uint64_t source, target, length;
	uint64_t source_size, target_size;
	bool same, source_sparse, target_sparse;
	int ret;
	uint64_t shared, copied, zeroed;
} clone_rows[] = {
	{ "whole clusters", 0, 0, 8192, 8192, 8192, 0, 0, 0,
	  0, 8192, 0, 0 },
	{ "misaligned source", 1, 0, 4096, 8192, 8192, 0, 0, 0,
	  -EINVAL, 0, 0, 0 },
	{ "misaligned target", 0, 1, 4096, 8192, 8192, 0, 0, 0,
	  -EINVAL, 0, 0, 0 },
	{ "negative source", 1ULL << 63, 0, 4096, 8192, 8192, 0, 0, 0,
	  -EINVAL, 0, 0, 0 },
	{ "negative target", 0, 1ULL << 63, 4096, 8192, 8192, 0, 0, 0,
	  -EINVAL, 0, 0, 0 },
	{ "negative length", 0, 0, 1ULL << 63, 8192, 8192, 0, 0, 0,
	  -EINVAL, 0, 0, 0 },
	{ "wrapping", (uint64_t)MAX - 4095, 0, 8192, 8192, 8192, 0, 0, 0,
	  -EINVAL, 0, 0, 0 },
	{ "source too short", 0, 0, 8192, 4096, 8192, 0, 0, 0,
	  -ENOTSUP, 0, 0, 0 },
	{ "sparse to not sparse", 0, 0, 4096, 8192, 8192, 0, 1, 0,
	  -ENOTSUP, 0, 0, 0 },
	{ "sparse to sparse", 0, 0, 4096, 8192, 8192, 0, 1, 1,
	  0, 4096, 0, 0 },
	{ "not sparse to sparse", 0, 0, 4096, 8192, 8192, 0, 0, 1,
	  0, 4096, 0, 0 },
	{ "overlap in one file", 0, 4096, 8192, 65536, 65536, 1, 0, 0,
	  -ENOTSUP, 0, 0, 0 },
	{ "apart in one file", 0, 8192, 8192, 65536, 65536, 1, 0, 0,
	  0, 8192, 0, 0 },
	{ "target behind its end", 0, 16384, 4096, 8192, 8192, 0, 0, 0,
	  -EINVAL, 0, 0, 0 },
	{ "capped at the target's end", 0, 4096, 8192, 8192, 8192, 0, 0, 0,
	  0, 4096, 0, 0 },
};

static void test_clone_is_checked_row_by_row(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < COUNT(clone_rows); i++) {
		const struct clone_row *row = &clone_rows[i];
		struct fsctl_clone clone = {
			.source = row->source, .target = row->target,
			.length = row->length,
		};
		struct fsctl_clone_files files = {
			.cluster = 4096, .source_size = row->source_size,
			.target_size = row->target_size, .same = row->same,
			.source_sparse = row->source_sparse,
			.target_sparse = row->target_sparse,
		};
		struct fsctl_clone_plan plan = {};

		if (fsctl_clone_plan(&clone, &files, &plan) != row->ret) {
			fail_msg("%s: another result", row->name);
		}
		if (row->ret == 0 && (plan.shared != row->shared ||
				      plan.copied != row->copied ||
				      plan.zeroed != row->zeroed)) {
			fail_msg("%s: another plan", row->name);
		}
	}
}

static void test_clone_ex_wants_its_structure_size(void **state)
{
	uint8_t bytes[56] = { 0x30 };
	struct fsctl_clone clone = {};

	(void)state;
	bytes[48] = 1;
	assert_int_equal(fsctl_clone_ex_decode(bytes, 56, &clone), 0);
	assert_true(clone.atomic);
	bytes[0] = 0x31;
	assert_int_equal(fsctl_clone_ex_decode(bytes, 56, &clone), -ENOTSUP);
}

static const struct {
	uint64_t offset, length, size;
	uint32_t room;
	int ret;
	uint64_t clipped;
} range_rows[] = {
	{ 0, 100, 1000, 1024, 0, 100 },
	{ 0, MAX, 1000, 1024, 0, 1000 },
	{ 1000, 1, 1000, 1024, 0, 0 },
	{ 0, 0, 1000, 1024, 0, 0 },
	{ 1ULL << 63, 1, 1000, 1024, -EINVAL, 0 },
	{ 0, 1ULL << 63, 1000, 1024, -EINVAL, 0 },
	{ MAX, 1, 1000, 1024, -EINVAL, 0 },
	{ 0, 100, 1000, 15, -EMSGSIZE, 0 },
};

static void test_allocated_ranges_are_checked_and_clipped(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < COUNT(range_rows); i++) {
		struct fsctl_range asked = { range_rows[i].offset,
					     range_rows[i].length };
		struct fsctl_range range = {};

		assert_int_equal(fsctl_ranges_plan(&asked, range_rows[i].size,
						   range_rows[i].room,
						   &range),
				 range_rows[i].ret);
		if (range_rows[i].ret == 0) {
			assert_int_equal(range.length, range_rows[i].clipped);
		}
	}
}

static void test_file_regions_answer_what_is_asked(void **state)
{
	uint8_t in[24] = {};
	uint8_t out[FSCTL_REGIONS_REPLY] = {};
	struct fsctl_regions regions = {};
	struct cursor_put put = {};
	size_t length = 0;
	size_t i = 0;

	(void)state;
	for (i = 1; i < 24; i++) {
		assert_int_equal(fsctl_regions_decode(in, i, 1, &regions),
				 -EMSGSIZE);
	}
	assert_int_equal(fsctl_regions_decode(in, 0, 1, &regions), 0);
	assert_int_equal(fsctl_regions_answer(&regions, 100, 16, out,
					      &length), -EMSGSIZE);
	assert_int_equal(fsctl_regions_answer(&regions, 100, 4096, out,
					      &length), 0);
	assert_int_equal(length, FSCTL_REGIONS_REPLY);
	cursor_put_init(&put, in, sizeof(in));
	cursor_put_le64(&put, 1ULL << 63);
	cursor_put_le64(&put, 1);
	cursor_put_le32(&put, 1);
	assert_int_equal(fsctl_regions_decode(in, 24, 1, &regions), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_every_decoder_refuses_every_shorter_request),
		cmocka_unit_test(test_zero_data_is_clipped_and_checked),
		cmocka_unit_test(test_trim_frees_whole_pages_alone),
		cmocka_unit_test(
			test_trim_wants_no_key_and_the_ranges_it_counts),
		cmocka_unit_test(test_clone_is_checked_row_by_row),
		cmocka_unit_test(test_clone_ex_wants_its_structure_size),
		cmocka_unit_test(
			test_allocated_ranges_are_checked_and_clipped),
		cmocka_unit_test(test_file_regions_answer_what_is_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
