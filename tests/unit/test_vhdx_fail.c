/*
 * What fails in the middle: each call of the store in turn, and each
 * allocation, once or from then on.  Whatever was made stable before is there
 * when the disk is opened again, the rest is old or new, and the file is sound.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <tevent.h>

#include "support/alloc_fail.h"
#include "support/mem_store.h"
#include "support/vhdx_model.h"
#include "vhdx/vhdx.h"

#define MIB VHDX_MIB
#define SIZE (6 * MIB)
#define GROWN (8 * MIB)
#define SECTORS (GROWN / MODEL_SECTOR)
#define PARENT_VALUE 1000000U

enum what { STORE, MEMORY };

enum kind { WRITE, THROUGH, UNMAP, FLUSH, RESIZE, COMPACT, SETTLE, READ };

static const struct step {
	enum kind kind;
	uint64_t offset;	/* RESIZE: the size */
	uint64_t length;
} steps[] = {
	{ WRITE, 4096, 8192 },
	{ WRITE, MIB - 4096, 3 * MIB },
	{ FLUSH, 0, 0 },
	{ THROUGH, 2 * MIB + 512, 1024 },
	{ WRITE, 0, 4096 },
	{ UNMAP, 2 * MIB, MIB },
	{ WRITE, 5 * MIB, MIB },
	{ FLUSH, 0, 0 },
	{ READ, 0, 6 * MIB },
	{ SETTLE, 0, 0 },
	{ RESIZE, GROWN, 0 },
	{ WRITE, 7 * MIB, 65536 },
	{ THROUGH, 2 * MIB, 4096 },
	{ WRITE, 4 * MIB, 512 },
	{ SETTLE, 0, 0 },
	{ COMPACT, 0, 0 },
	{ WRITE, 3 * MIB + 65536, 4096 },
};
#define STEPS (sizeof(steps) / sizeof(steps[0]))

struct run {
	TALLOC_CTX *mem_ctx;
	struct tevent_context *ev;
	struct mem_store *ms;
	struct mem_store *parent_ms;
	struct vhdx *disk;
	/* Of each sector: what was there first, and what came since. */
	uint32_t first[SECTORS];
	size_t stable[SECTORS];	/* 1 + the step that is, or 0 */
	size_t done[SECTORS];	/* 1 + the last step that was answered, or 0 */
	size_t reached;		/* steps begun */
	uint8_t *bytes;
};

static struct vhdx *parent_open(struct run *run, TALLOC_CTX *mem_ctx)
{
	return run->parent_ms == NULL ? NULL :
		model_open(mem_ctx, run->parent_ms, false);
}

static int disk_open(struct run *run, struct vhdx *parent,
		     struct vhdx **_disk)
{
	struct vhdx_open how = { .writable = true, .parent = parent };
	const char *why = NULL;

	return vhdx_open(run->mem_ctx, mem_store_get(run->ms), &how, _disk,
			 &why);
}

static void create(struct run *run, enum vhdx_type type, uint32_t block)
{
	struct vhdx_create w = {
		.type = type, .size = SIZE, .block_size = block,
	};
	struct vhdx_locator_pair path = { "relative_path", "parent.vhdx" };
	struct vhdx *disk = NULL;
	struct model *m = NULL;
	size_t s = 0;

	run->ms = mem_store_new(run->mem_ctx, run->ev);
	if (type == VHDX_DIFFERENCING) {
		w.type = VHDX_DYNAMIC;
		m = model_new(run->mem_ctx, SIZE);
		run->parent_ms = mem_store_new(run->mem_ctx, run->ev);
		assert_int_equal(vhdx_create(mem_store_get(run->parent_ms),
					     &w), 0);
		disk = model_open(run->mem_ctx, run->parent_ms, true);
		model_put(m, disk, run->ev, 0, 4 * MIB + 4096, PARENT_VALUE);
		assert_int_equal(vhdx_close(disk), 0);
		for (s = 0; s < SIZE / MODEL_SECTOR; s++) {
			run->first[s] = m->values[s];
		}
		disk = parent_open(run, run->mem_ctx);
		w = (struct vhdx_create) {
			.type = type, .block_size = block, .parent = disk,
			.paths = &path, .path_count = 1,
		};
	}
	assert_int_equal(vhdx_create(mem_store_get(run->ms), &w), 0);
	if (disk != NULL) {
		assert_int_equal(vhdx_close(disk), 0);
	}
}

static int step(struct run *run, size_t i)
{
	const struct step *step = &steps[i];

	switch (step->kind) {
	case WRITE:
	case THROUGH:
		model_fill(run->bytes, step->offset, step->length,
			   (uint32_t)i + 1);
		return vhdx_write(run->disk, run->ev, run->bytes,
				  step->offset, step->length,
				  step->kind == THROUGH);
	case UNMAP:
		return vhdx_unmap(run->disk, run->ev, step->offset,
				  step->length);
	case FLUSH:
		return vhdx_flush(run->disk, run->ev);
	case RESIZE:
		return vhdx_resize(run->disk, step->offset, false);
	case COMPACT:
		return vhdx_compact(run->disk, NULL, NULL);
	case SETTLE:
		return vhdx_settle(run->disk, run->ev);
	case READ:
		return vhdx_read(run->disk, run->ev, run->bytes, step->offset,
				 step->length);
	}
	return -EINVAL;
}

static bool changes(const struct run *run, const struct step *step, size_t s)
{
	struct vhdx_info info = {};
	uint64_t at = s * MODEL_SECTOR;

	if (step->kind == UNMAP) {
		vhdx_info_get(run->disk, &info);
		if (info.type == VHDX_FIXED || info.block_size > MIB) {
			return false;
		}
	}
	return (step->kind == WRITE || step->kind == THROUGH ||
		step->kind == UNMAP) &&
	       at >= step->offset && at < step->offset + step->length;
}

/* Goes on after a failure, as a guest would. */
static void work(struct run *run)
{
	size_t i = 0;
	size_t s = 0;

	for (i = 0; i < STEPS; i++) {
		int ret = 0;

		run->reached = i + 1;
		ret = step(run, i);
		for (s = 0; ret == 0 && s < SECTORS; s++) {
			if (steps[i].kind == FLUSH) {
				run->stable[s] = run->done[s];
			} else if (changes(run, &steps[i], s)) {
				run->done[s] = i + 1;
				if (steps[i].kind == THROUGH) {
					run->stable[s] = i + 1;
				}
			}
		}
	}
}

static bool is_allowed(struct run *run, size_t s, uint32_t value)
{
	size_t low = run->stable[s];
	size_t i = 0;

	if (low == 0 && value == run->first[s]) {
		return true;
	}
	for (i = low == 0 ? 0 : low - 1; i < run->reached; i++) {
		if (changes(run, &steps[i], s) &&
		    value == (steps[i].kind == UNMAP ? 0 : i + 1)) {
			return true;
		}
	}
	return false;
}

static void check(struct run *run, uint64_t nth)
{
	struct vhdx *parent = parent_open(run, run->mem_ctx);
	struct vhdx_check_result result = {};
	struct vhdx_info info = {};
	size_t s = 0;

	assert_int_equal(disk_open(run, parent, &run->disk), 0);
	vhdx_info_get(run->disk, &info);
	assert_true(info.size == SIZE || info.size == GROWN);
	assert_int_equal(vhdx_read(run->disk, run->ev, run->bytes, 0,
				   info.size), 0);
	for (s = 0; s < info.size / MODEL_SECTOR; s++) {
		uint32_t value = model_value(run->bytes + s * MODEL_SECTOR,
					     s * MODEL_SECTOR);

		if (!is_allowed(run, s, value)) {
			fail_msg("failure %llu: sector %zu holds %u, stable "
				 "is step %zu", (unsigned long long)nth, s,
				 value, run->stable[s]);
		}
	}
	assert_int_equal(vhdx_check(run->disk, false, NULL, NULL, &result), 0);
	assert_int_equal(result.errors, 0);
	assert_int_equal(vhdx_close(run->disk), 0);
}

/* One run; false where there was no such failure any more. */
static bool attempt(enum vhdx_type type, uint32_t block, enum what what,
		    uint64_t nth, bool on)
{
	struct run *run = calloc(1, sizeof(*run));
	struct vhdx *parent = NULL;
	bool failed = false;
	uint64_t before = 0;

	assert_non_null(run);
	run->mem_ctx = talloc_new(NULL);
	run->ev = tevent_context_init(run->mem_ctx);
	run->bytes = talloc_size(run->mem_ctx, GROWN);
	assert_non_null(run->bytes);
	create(run, type, block);
	parent = parent_open(run, run->mem_ctx);
	before = mem_store_calls(run->ms);
	if (what == MEMORY) {
		alloc_fail(nth, on);
	} else if (on) {
		mem_store_fail_from(run->ms, nth, -EIO);
	} else {
		mem_store_fail(run->ms, nth, -EIO);
	}
	if (disk_open(run, parent, &run->disk) == 0) {
		work(run);
		vhdx_close(run->disk);
	}
	failed = what == MEMORY ? alloc_fail_end() :
		mem_store_calls(run->ms) - before >= nth;
	mem_store_fail(run->ms, 0, 0);
	if (failed) {
		check(run, nth);
	}
	talloc_free(run->mem_ctx);
	free(run);
	return failed;
}

static void all(enum what what, enum vhdx_type type, uint32_t block)
{
	const char *wanted = getenv("HVRS_LONG");
	uint64_t step = wanted != NULL ? 1 : 5;
	uint64_t nth = 1;

	while (attempt(type, block, what, nth, nth % 2 == 0)) {
		nth += step;
	}
	assert_true(nth > 20);
	if (wanted != NULL) {
		for (nth = 1; attempt(type, block, what, nth, nth % 2 != 0);
		     nth++) {
		}
	}
}

#define TEST(name, what, type, block)					\
	static void name(void **state)					\
	{								\
		(void)state;						\
		all(what, type, block);					\
	}

TEST(test_store_dynamic, STORE, VHDX_DYNAMIC, MIB)
TEST(test_store_large_blocks, STORE, VHDX_DYNAMIC, 32 * MIB)
TEST(test_store_fixed, STORE, VHDX_FIXED, MIB)
TEST(test_store_differencing, STORE, VHDX_DIFFERENCING, MIB)
TEST(test_memory_dynamic, MEMORY, VHDX_DYNAMIC, MIB)
TEST(test_memory_fixed, MEMORY, VHDX_FIXED, MIB)
TEST(test_memory_differencing, MEMORY, VHDX_DIFFERENCING, 2 * MIB)

/* What could not be created is no disk, or it is one without a mistake. */
static void test_create(void **state)
{
	struct vhdx_create w = {
		.type = VHDX_FIXED, .size = SIZE, .block_size = MIB,
	};
	uint64_t nth = 1;
	bool failed = true;

	(void)state;
	for (nth = 1; failed; nth++) {
		enum what what = nth % 2 == 0 ? MEMORY : STORE;
		struct run *run = calloc(1, sizeof(*run));
		uint64_t n = (nth + 1) / 2;
		int ret = 0;

		assert_non_null(run);
		run->mem_ctx = talloc_new(NULL);
		run->ev = tevent_context_init(run->mem_ctx);
		run->ms = mem_store_new(run->mem_ctx, run->ev);
		if (what == MEMORY) {
			alloc_fail(n, false);
		} else {
			mem_store_fail(run->ms, n, -ENOSPC);
		}
		ret = vhdx_create(mem_store_get(run->ms), &w);
		failed = alloc_fail_end() ||
			(what == STORE && mem_store_calls(run->ms) >= n) ||
			nth < 8;
		mem_store_fail(run->ms, 0, 0);
		if (disk_open(run, NULL, &run->disk) == 0) {
			assert_int_equal(vhdx_close(run->disk), 0);
		} else {
			assert_int_not_equal(ret, 0);
		}
		talloc_free(run->mem_ctx);
		free(run);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create),
		cmocka_unit_test(test_store_dynamic),
		cmocka_unit_test(test_store_large_blocks),
		cmocka_unit_test(test_store_fixed),
		cmocka_unit_test(test_store_differencing),
		cmocka_unit_test(test_memory_dynamic),
		cmocka_unit_test(test_memory_fixed),
		cmocka_unit_test(test_memory_differencing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
