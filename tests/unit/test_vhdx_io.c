/* Reading, writing, unmapping and flushing disks of every kind. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <tevent.h>

#include "support/mem_store.h"
#include "support/vhdx_model.h"
#include "vhdx/vhdx.h"

#define MIB VHDX_MIB

struct fixture {
	TALLOC_CTX *mem_ctx;
	struct tevent_context *ev;
	struct mem_store *ms;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->mem_ctx = talloc_new(NULL);
	f->ev = tevent_context_init(f->mem_ctx);
	f->ms = mem_store_new(f->mem_ctx, f->ev);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	talloc_free(f->mem_ctx);
	free(f);
	return 0;
}

static void create(struct fixture *f, enum vhdx_type type, uint64_t size,
		   uint32_t block, uint32_t sector)
{
	struct vhdx_create w = {
		.type = type, .size = size, .block_size = block,
		.logical_sector = sector,
	};

	assert_int_equal(vhdx_create(mem_store_get(f->ms), &w), 0);
}

static void test_an_empty_dynamic_disk_takes_four_mib(void **state)
{
	struct fixture *f = *state;
	struct vhdx_info info = {};
	struct vhdx *disk = NULL;

	create(f, VHDX_DYNAMIC, 1024 * MIB, 0, 0);
	disk = model_open(f->mem_ctx, f->ms, false);
	vhdx_info_get(disk, &info);
	assert_int_equal(info.file_size, 4 * MIB);
	assert_int_equal(info.type, VHDX_DYNAMIC);
	assert_int_equal(info.size, 1024 * MIB);
	assert_int_equal(info.block_size, 32 * MIB);
	assert_int_equal(info.log_offset, 1 * MIB);
	assert_int_equal(info.metadata_offset, 2 * MIB);
	assert_int_equal(info.bat_offset, 3 * MIB);
	assert_int_equal(info.physical_sector, 4096);
	assert_string_equal(info.creator, "hvrs");
	assert_int_equal(vhdx_close(disk), 0);
}

static void round_trip(struct fixture *f, enum vhdx_type type, uint32_t block,
		       uint32_t sector)
{
	uint64_t size = 40 * MIB + 8192;
	struct model *m = model_new(f->mem_ctx, size);
	struct vhdx *disk = NULL;
	uint64_t seed = block + sector;
	unsigned i = 0;

	create(f, type, size, block, sector);
	disk = model_open(f->mem_ctx, f->ms, true);
	model_compare(m, disk, f->ev);
	for (i = 1; i < 120; i++) {
		uint64_t at = model_draw(&seed) % (size / 4096) * 4096;
		uint64_t n = (model_draw(&seed) % 600 + 1) * 4096;

		if (n > size - at) {
			n = size - at;
		}
		model_put(m, disk, f->ev, at, n, i);
		if (i % 17 == 0) {
			assert_int_equal(vhdx_flush(disk, f->ev), 0);
		}
	}
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_close(disk), 0);
	disk = model_open(f->mem_ctx, f->ms, false);
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_write(disk, f->ev, "", 0, 0, false), -EROFS);
	assert_int_equal(vhdx_close(disk), 0);
}

static void test_dynamic_512_reads_what_was_written(void **state)
{
	round_trip(*state, VHDX_DYNAMIC, 1 * MIB, 512);
}

static void test_dynamic_4096_reads_what_was_written(void **state)
{
	round_trip(*state, VHDX_DYNAMIC, 2 * MIB, 4096);
}

static void test_fixed_reads_what_was_written(void **state)
{
	round_trip(*state, VHDX_FIXED, 32 * MIB, 512);
}

static void test_shuffled_completions_change_nothing(void **state)
{
	struct fixture *f = *state;

	mem_store_shuffle(f->ms, 42);
	round_trip(f, VHDX_DYNAMIC, 1 * MIB, 512);
}

static void test_unaligned_or_outside_requests_are_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[8192] = {};
	struct vhdx *disk = NULL;

	create(f, VHDX_DYNAMIC, 8 * MIB, 1 * MIB, 4096);
	disk = model_open(f->mem_ctx, f->ms, true);
	assert_int_equal(vhdx_read(disk, f->ev, bytes, 512, 4096), -EINVAL);
	assert_int_equal(vhdx_read(disk, f->ev, bytes, 0, 512), -EINVAL);
	assert_int_equal(vhdx_read(disk, f->ev, bytes, 8 * MIB, 4096),
			 -EINVAL);
	assert_int_equal(vhdx_write(disk, f->ev, bytes, 8 * MIB - 4096, 8192,
				    false), -EINVAL);
	assert_int_equal(vhdx_read(disk, f->ev, bytes, UINT64_MAX - 4095,
				   8192), -EINVAL);
	assert_int_equal(vhdx_read(disk, f->ev, bytes, 8 * MIB, 0), 0);
	assert_int_equal(vhdx_close(disk), 0);
}

static void test_unmapped_blocks_read_zero_and_free_space(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f->mem_ctx, 16 * MIB);
	struct vhdx_block block = {};
	struct vhdx *disk = NULL;
	uint64_t place = 0;
	uint64_t used = 0;

	create(f, VHDX_DYNAMIC, 16 * MIB, 1 * MIB, 512);
	disk = model_open(f->mem_ctx, f->ms, true);
	model_put(m, disk, f->ev, 0, 16 * MIB, 7);
	used = mem_store_bytes_used(f->ms);
	assert_int_equal(vhdx_block_get(disk, 2, &block), 0);
	place = block.file_offset;
	/* From the middle of block 1 to the middle of block 4. */
	assert_int_equal(vhdx_unmap(disk, f->ev, MIB + 512, 3 * MIB), 0);
	model_write(m, 2 * MIB, 2 * MIB, 0);
	model_compare(m, disk, f->ev);
	assert_int_equal(mem_store_bytes_used(f->ms), used - 2 * MIB);
	assert_int_equal(vhdx_block_get(disk, 2, &block), 0);
	assert_int_equal(block.state, 3);
	assert_int_equal(block.file_offset, place);
	/* Written again: same place, the rest zero. */
	model_put(m, disk, f->ev, 2 * MIB + 4096, 512, 9);
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_block_get(disk, 2, &block), 0);
	assert_int_equal(block.state, 6);
	assert_int_equal(block.file_offset, place);
	assert_int_equal(vhdx_close(disk), 0);
	disk = model_open(f->mem_ctx, f->ms, false);
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_close(disk), 0);
}

static void test_opening_and_reading_changes_no_byte(void **state)
{
	struct fixture *f = *state;
	struct vhdx *disk = NULL;
	uint8_t bytes[512] = {};

	create(f, VHDX_DYNAMIC, 16 * MIB, 1 * MIB, 512);
	mem_store_record(f->ms);
	disk = model_open(f->mem_ctx, f->ms, true);
	assert_int_equal(vhdx_read(disk, f->ev, bytes, 0, 512), 0);
	assert_int_equal(vhdx_close(disk), 0);
	assert_int_equal(mem_store_events(f->ms), 0);
}

static void test_first_write_changes_both_session_guids(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f->mem_ctx, 16 * MIB);
	struct vhdx_info before = {};
	struct vhdx_info after = {};
	struct vhdx *disk = NULL;

	create(f, VHDX_DYNAMIC, 16 * MIB, 1 * MIB, 512);
	disk = model_open(f->mem_ctx, f->ms, true);
	vhdx_info_get(disk, &before);
	model_put(m, disk, f->ev, 0, 512, 1);
	vhdx_info_get(disk, &after);
	assert_false(guid_equal(&before.data_write_guid,
				&after.data_write_guid));
	assert_false(guid_equal(&before.file_write_guid,
				&after.file_write_guid));
	before = after;
	model_put(m, disk, f->ev, 4096, 512, 2);
	vhdx_info_get(disk, &after);
	assert_true(guid_equal(&before.data_write_guid,
			       &after.data_write_guid));
	assert_int_equal(vhdx_close(disk), 0);
	disk = model_open(f->mem_ctx, f->ms, false);
	vhdx_info_get(disk, &after);
	assert_true(guid_equal(&before.data_write_guid,
			       &after.data_write_guid));
	assert_true(guid_is_null(&after.log_guid));
	assert_false(after.log_was_replayed);
	assert_int_equal(vhdx_close(disk), 0);
}

/* In place too, where it is known where the block lies. */
static void test_no_byte_is_new_before_the_guid_is(void **state)
{
	struct fixture *f = *state;
	struct vhdx_info before = {};
	struct vhdx *disk = NULL;
	uint8_t bytes[4096];
	size_t i = 0;

	create(f, VHDX_FIXED, 8 * MIB, MIB, 512);
	disk = model_open(f->mem_ctx, f->ms, true);
	vhdx_info_get(disk, &before);
	assert_int_equal(vhdx_read(disk, f->ev, bytes, MIB, sizeof(bytes)), 0);
	mem_store_record(f->ms);
	memset(bytes, 7, sizeof(bytes));
	assert_int_equal(vhdx_write(disk, f->ev, bytes, MIB, sizeof(bytes),
				    true), 0);
	for (i = 0; i < 16 * (mem_store_events(f->ms) + 1); i++) {
		struct mem_store *cut = mem_store_cut(f->mem_ctx, f->ms,
						      i / 16, i % 16);
		struct vhdx *there = model_open(cut, cut, false);
		struct vhdx_info after = {};

		vhdx_info_get(there, &after);
		assert_int_equal(vhdx_read(there, f->ev, bytes, MIB,
					   sizeof(bytes)), 0);
		assert_true((bytes[0] == 0 && bytes[4095] == 0) ||
			    !guid_equal(&before.data_write_guid,
					&after.data_write_guid));
		assert_int_equal(vhdx_close(there), 0);
		talloc_free(cut);
	}
	assert_int_equal(bytes[0], 7);
	assert_int_equal(vhdx_close(disk), 0);
}

static void test_a_failed_flush_is_never_followed_by_a_good_one(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f->mem_ctx, 16 * MIB);
	struct vhdx *disk = NULL;

	create(f, VHDX_DYNAMIC, 16 * MIB, 1 * MIB, 512);
	disk = model_open(f->mem_ctx, f->ms, true);
	model_put(m, disk, f->ev, 0, 4096, 1);
	assert_int_equal(vhdx_flush(disk, f->ev), 0);
	/* In place: no table page is dirty, the flush is the store's alone. */
	model_put(m, disk, f->ev, 0, 4096, 2);
	mem_store_fail(f->ms, 1, -EIO);
	assert_int_equal(vhdx_flush(disk, f->ev), -EIO);
	assert_int_equal(vhdx_flush(disk, f->ev), -EIO);
	assert_int_equal(vhdx_close(disk), -EIO);
}

static void test_a_failed_commit_stays_failed(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f->mem_ctx, 16 * MIB);
	struct vhdx *disk = NULL;

	create(f, VHDX_DYNAMIC, 16 * MIB, 1 * MIB, 512);
	disk = model_open(f->mem_ctx, f->ms, true);
	model_put(m, disk, f->ev, 0, 4096, 1);
	/* A resize commits the dirty page by itself, and its flush fails. */
	mem_store_fail(f->ms, 1, -EIO);
	assert_int_equal(vhdx_resize(disk, 17 * MIB, false), -EIO);
	assert_int_equal(vhdx_flush(disk, f->ev), -EIO);
	assert_int_equal(vhdx_close(disk), -EIO);
}

static void test_the_first_write_may_come_after_a_resize(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f->mem_ctx, 20 * MIB);
	struct vhdx *disk = NULL;

	create(f, VHDX_DYNAMIC, 16 * MIB, 1 * MIB, 512);
	disk = model_open(f->mem_ctx, f->ms, true);
	assert_int_equal(vhdx_resize(disk, 20 * MIB, false), 0);
	model_put(m, disk, f->ev, 3 * MIB - 4096, 8192, 1);
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_close(disk), 0);
	disk = model_open(f->mem_ctx, f->ms, false);
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_close(disk), 0);
}

/* What moves keeps its holes, also where something else has been before. */
static void test_compacting_keeps_holes(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f->mem_ctx, 16 * MIB);
	struct vhdx_block block = {};
	struct vhdx *disk = NULL;
	uint8_t *old = talloc_size(f->mem_ctx, MIB);
	uint64_t used = 0;
	uint64_t size = 0;

	create(f, VHDX_DYNAMIC, 16 * MIB, 1 * MIB, 512);
	disk = model_open(f->mem_ctx, f->ms, true);
	model_put(m, disk, f->ev, 0, MIB, 1);
	model_put(m, disk, f->ev, 5 * MIB + 4096, 4096, 2);
	assert_int_equal(vhdx_flush(disk, f->ev), 0);
	assert_int_equal(vhdx_block_get(disk, 0, &block), 0);
	assert_int_equal(vhdx_unmap(disk, f->ev, 0, MIB), 0);
	model_write(m, 0, MIB, 0);
	assert_int_equal(vhdx_settle(disk, f->ev), 0);
	used = mem_store_bytes_used(f->ms);
	/* Unused space may hold anything. */
	memset(old, 0xEE, MIB);
	assert_int_equal(store_write(mem_store_get(f->ms), old, MIB,
				     block.file_offset), 0);
	assert_int_equal(store_size(mem_store_get(f->ms), &size), 0);
	assert_int_equal(vhdx_compact(disk, NULL, NULL), 0);
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_close(disk), 0);
	/* The log has taken a little. */
	assert_true(mem_store_bytes_used(f->ms) < used + MIB / 2);
	disk = model_open(f->mem_ctx, f->ms, false);
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_block_get(disk, 5, &block), 0);
	assert_int_equal(vhdx_close(disk), 0);
	assert_int_equal(store_size(mem_store_get(f->ms), &used), 0);
	assert_int_equal(used, size - MIB);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_an_empty_dynamic_disk_takes_four_mib),
		T(test_dynamic_512_reads_what_was_written),
		T(test_dynamic_4096_reads_what_was_written),
		T(test_fixed_reads_what_was_written),
		T(test_shuffled_completions_change_nothing),
		T(test_unaligned_or_outside_requests_are_refused),
		T(test_unmapped_blocks_read_zero_and_free_space),
		T(test_opening_and_reading_changes_no_byte),
		T(test_first_write_changes_both_session_guids),
		T(test_no_byte_is_new_before_the_guid_is),
		T(test_a_failed_flush_is_never_followed_by_a_good_one),
		T(test_a_failed_commit_stays_failed),
		T(test_the_first_write_may_come_after_a_resize),
		T(test_compacting_keeps_holes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
