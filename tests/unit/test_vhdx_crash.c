/*
 * Power cuts: a random workload is recorded, cut before every change of the
 * file, with what was not flushed lost, torn or reordered, and opened again.
 * Every sector must hold what the last flush that was answered made stable, or
 * something written to it since; the file must be sound.
 *
 * Each workload is of one shape: kind of disk, block size, sector size, with
 * or without changes of the disk's size.  HVRS_LONG=1 runs 200 whole workloads
 * instead of a short one of each shape.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <tevent.h>

#include "support/mem_store.h"
#include "support/vhdx_model.h"
#include "vhdx/vhdx.h"

#define MIB VHDX_MIB
#define SIZE (4 * MIB)
#define SECTORS (SIZE / MODEL_SECTOR)
#define OPS 60
#define PARENT_VALUE 1000000U

enum kind { OP_WRITE, OP_THROUGH, OP_UNMAP, OP_FLUSH, OP_RESIZE };

struct shape {
	enum vhdx_type type;
	uint32_t block_size;	/* MiB */
	uint32_t sector;
	bool resizes;
};

struct op {
	enum kind kind;
	uint64_t offset;
	uint64_t length;
	uint8_t *bytes;
	uint64_t size;		/* of the disk, when it was answered */
	size_t issued;		/* events recorded when it began */
	size_t done;		/* and when it was answered */
	struct tevent_req *req;
};

struct run {
	TALLOC_CTX *mem_ctx;
	struct tevent_context *ev;
	struct mem_store *ms;
	struct mem_store *parent_ms;
	struct vhdx *disk;
	const struct shape *shape;
	struct op ops[OPS];
	unsigned count;
	unsigned wanted;
	uint64_t size;
	uint32_t floor[SECTORS];	/* 1 + the op that is stable, or 0 */
	uint32_t first[SECTORS];	/* content before all ops */
};

static void on_done(struct tevent_req *req)
{
	struct run *run = tevent_req_callback_data_void(req);
	unsigned i = 0;

	for (i = 0; i < run->count; i++) {
		if (run->ops[i].req == req) {
			run->ops[i].done = mem_store_events(run->ms);
			run->ops[i].req = NULL;
		}
	}
	assert_int_equal(vhdx_write_recv(req), 0);
	talloc_free(req);
}

static void op_start(struct run *run, enum kind kind, uint64_t offset,
		     uint64_t length)
{
	unsigned i = run->count++;
	struct op *op = &run->ops[i];

	*op = (struct op) {
		.kind = kind, .offset = offset, .length = length,
		.issued = mem_store_events(run->ms), .done = SIZE_MAX,
	};
	switch (kind) {
	case OP_WRITE:
	case OP_THROUGH:
		op->bytes = talloc_size(run->mem_ctx, length);
		model_fill(op->bytes, offset, length, i + 1);
		op->req = vhdx_write_send(run->mem_ctx, run->ev, run->disk,
					  op->bytes, offset, length,
					  kind == OP_THROUGH);
		break;
	case OP_UNMAP:
		op->req = vhdx_unmap_send(run->mem_ctx, run->ev, run->disk,
					  offset, length);
		break;
	case OP_FLUSH:
		op->req = vhdx_flush_send(run->mem_ctx, run->ev, run->disk);
		break;
	case OP_RESIZE:
		assert_true(false);
	}
	assert_non_null(op->req);
	tevent_req_set_callback(op->req, on_done, run);
}

static bool all_done(const struct run *run)
{
	unsigned i = 0;

	for (i = 0; i < run->count; i++) {
		if (run->ops[i].req != NULL) {
			return false;
		}
	}
	return true;
}

static void wait_all(struct run *run)
{
	while (!all_done(run)) {
		assert_int_equal(tevent_loop_once(run->ev), 0);
	}
}

/* Whether the range is free of requests under way, so that order is known. */
static bool is_free(const struct run *run, uint64_t offset, uint64_t length)
{
	unsigned i = 0;

	for (i = 0; i < run->count; i++) {
		const struct op *op = &run->ops[i];

		if (op->req != NULL && op->kind != OP_FLUSH &&
		    offset < op->offset + op->length &&
		    op->offset < offset + length) {
			return false;
		}
	}
	return true;
}

/* What is cut off, or is new, reads as zero from then on. */
static void resize(struct run *run, uint64_t size)
{
	struct op *op = &run->ops[run->count++];

	wait_all(run);
	assert_int_equal(vhdx_settle(run->disk, run->ev), 0);
	*op = (struct op) {
		.kind = OP_RESIZE, .size = size,
		.offset = size < run->size ? size : run->size,
		.length = size < run->size ? run->size - size
					   : size - run->size,
		.issued = mem_store_events(run->ms), .done = SIZE_MAX,
	};
	assert_int_equal(vhdx_resize(run->disk, size, true), 0);
	op->done = mem_store_events(run->ms);
	run->size = size;
}

static void work(struct run *run, uint64_t seed)
{
	uint64_t sector = run->shape->sector;
	uint64_t block = run->shape->block_size * MIB;

	run->size = SIZE;
	while (run->count < run->wanted) {
		uint64_t dice = model_draw(&seed) % 100;
		uint64_t offset = model_draw(&seed) % (run->size / sector) *
			sector;
		uint64_t length = (model_draw(&seed) % 48 + 1) * sector;
		enum kind kind = OP_WRITE;

		if (run->shape->resizes && dice >= 94) {
			if (run->shape->type == VHDX_DIFFERENCING) {
				sector = MIB;
			}
			resize(run, (model_draw(&seed) % (SIZE / sector) + 1) *
				       sector);
			sector = run->shape->sector;
			continue;
		}
		if (dice < 12) {
			kind = OP_FLUSH;
		} else if (dice < 20) {
			/* Of whole blocks alone; without them, a write. */
			offset -= offset % block;
			if (block <= run->size - offset &&
			    run->shape->type != VHDX_FIXED) {
				kind = OP_UNMAP;
				length = block;
			}
		} else if (dice < 28) {
			kind = OP_THROUGH;
		} else if (dice < 34) {
			/* A whole block. */
			offset -= offset % MIB;
			length = MIB;
		}
		if (length > run->size - offset) {
			length = run->size - offset;
		}
		if (kind != OP_FLUSH && !is_free(run, offset, length)) {
			wait_all(run);
		}
		op_start(run, kind, offset, length);
		if (model_draw(&seed) % 3 == 0) {
			wait_all(run);
		}
	}
	wait_all(run);
}

/* A full disk is cut off in the middle of a block. */
static void work_shrink(struct run *run)
{
	run->size = SIZE;
	op_start(run, OP_THROUGH, 0, SIZE);
	wait_all(run);
	resize(run, SIZE - MIB - MIB / 2);
	resize(run, SIZE - MIB - MIB / 4);
}

/* Which op each sector can count on after a cut. */
static void floors(struct run *run, size_t cut)
{
	unsigned f = 0;
	unsigned i = 0;
	uint64_t s = 0;

	memset(run->floor, 0, sizeof(run->floor));
	for (f = 0; f < run->count; f++) {
		const struct op *flush = &run->ops[f];

		/* A disk that keeps its size does nothing for it. */
		if (flush->done > cut || flush->kind == OP_WRITE ||
		    flush->kind == OP_UNMAP ||
		    (flush->kind == OP_RESIZE && flush->length == 0)) {
			continue;
		}
		for (i = 0; i < run->count; i++) {
			const struct op *op = &run->ops[i];
			bool flushes = flush->kind == OP_FLUSH ||
				       flush->kind == OP_RESIZE;
			bool covered = op->kind != OP_FLUSH &&
				       (i == f || (flushes && i < f &&
						   op->req == NULL &&
						   op->done <= flush->issued));

			for (s = op->offset / MODEL_SECTOR;
			     covered &&
			     s < (op->offset + op->length) / MODEL_SECTOR;
			     s++) {
				if (run->floor[s] < i + 1) {
					run->floor[s] = i + 1;
				}
			}
		}
	}
}

static bool is_allowed(const struct run *run, size_t cut, uint64_t s,
		       uint32_t value)
{
	uint64_t at = s * MODEL_SECTOR;
	uint32_t low = run->floor[s];
	unsigned i = 0;

	if (low == 0 && value == run->first[s]) {
		return true;
	}
	for (i = low == 0 ? 0 : low - 1; i < run->count; i++) {
		const struct op *op = &run->ops[i];
		bool zeros = op->kind == OP_UNMAP || op->kind == OP_RESIZE;
		uint32_t gives = zeros ? 0 : i + 1;

		if (op->kind != OP_FLUSH && op->issued <= cut &&
		    at >= op->offset && at < op->offset + op->length &&
		    value == gives) {
			return true;
		}
	}
	return false;
}

/* The size after the last resize that was answered, or of a later one. */
static bool is_size_allowed(const struct run *run, size_t cut, uint64_t size)
{
	bool allowed = size == SIZE;
	unsigned i = 0;

	for (i = 0; i < run->count; i++) {
		const struct op *op = &run->ops[i];

		if (op->kind == OP_RESIZE && op->done <= cut) {
			allowed = size == op->size;
		} else if (op->kind == OP_RESIZE && op->issued <= cut) {
			allowed = allowed || size == op->size;
		}
	}
	return allowed;
}

static void compare(struct run *run, struct vhdx *disk, size_t cut,
		    uint64_t seed)
{
	uint8_t *bytes = malloc(SIZE);
	struct vhdx_info info = {};
	uint64_t s = 0;

	assert_non_null(bytes);
	vhdx_info_get(disk, &info);
	if (!is_size_allowed(run, cut, info.size)) {
		free(bytes);
		fail_msg("cut %zu seed %llu: the size is %llu", cut,
			 (unsigned long long)seed,
			 (unsigned long long)info.size);
	}
	assert_int_equal(vhdx_read(disk, run->ev, bytes, 0, info.size), 0);
	for (s = 0; s < info.size / MODEL_SECTOR; s++) {
		uint32_t value = model_value(bytes + s * MODEL_SECTOR,
					     s * MODEL_SECTOR);

		if (!is_allowed(run, cut, s, value)) {
			free(bytes);
			fail_msg("cut %zu seed %llu: sector %llu holds %u, "
				 "stable is op %u", cut,
				 (unsigned long long)seed,
				 (unsigned long long)s, value, run->floor[s]);
		}
	}
	free(bytes);
}

static struct vhdx *open_disk(struct run *run, struct mem_store *ms,
			      bool writable, TALLOC_CTX *mem_ctx)
{
	struct vhdx_open how = { .writable = writable };
	struct vhdx *disk = NULL;
	const char *why = NULL;
	int ret = 0;

	if (run->parent_ms != NULL) {
		how.parent = model_open(mem_ctx, run->parent_ms, false);
	}
	ret = vhdx_open(mem_ctx, mem_store_get(ms), &how, &disk, &why);
	if (ret != 0) {
		fail_msg("open after the cut: %d %s", ret,
			 why != NULL ? why : "");
	}
	return disk;
}

/* What a disk gets when it grows is zero, whatever was cut off before. */
static void check_growth(struct run *run, struct vhdx *disk)
{
	struct vhdx_info info = {};
	uint8_t *bytes = malloc(3 * MIB);
	size_t i = 0;

	assert_non_null(bytes);
	vhdx_info_get(disk, &info);
	assert_int_equal(vhdx_resize(disk, info.size + 3 * MIB, false), 0);
	assert_int_equal(vhdx_read(disk, run->ev, bytes, info.size, 3 * MIB),
			 0);
	for (i = 0; i < 3 * MIB && bytes[i] == 0; i++) {
	}
	free(bytes);
	assert_int_equal(i, 3 * MIB);
}

static void check_cut(struct run *run, size_t cut, uint64_t seed)
{
	TALLOC_CTX *mem_ctx = talloc_new(run->mem_ctx);
	struct mem_store *left = mem_store_cut(mem_ctx, run->ms, cut, seed);
	struct vhdx_check_result result = {};
	struct vhdx *disk = NULL;

	floors(run, cut);
	/* First in memory, which must not change a byte, then for good. */
	disk = open_disk(run, left, false, mem_ctx);
	compare(run, disk, cut, seed);
	assert_int_equal(vhdx_close(disk), 0);
	disk = open_disk(run, left, true, mem_ctx);
	compare(run, disk, cut, seed);
	assert_int_equal(vhdx_check(disk, false, NULL, NULL, &result), 0);
	assert_int_equal(result.errors, 0);
	assert_int_equal(vhdx_close(disk), 0);
	disk = open_disk(run, left, false, mem_ctx);
	compare(run, disk, cut, seed);
	assert_int_equal(vhdx_close(disk), 0);
	if (run->shape->resizes) {
		disk = open_disk(run, left, true, mem_ctx);
		check_growth(run, disk);
		assert_int_equal(vhdx_close(disk), 0);
	}
	talloc_free(mem_ctx);
}

static void make_disk(struct run *run)
{
	const struct shape *shape = run->shape;
	struct vhdx_create w = {
		.type = shape->type, .size = SIZE,
		.block_size = shape->block_size * (uint32_t)MIB,
		.logical_sector = shape->sector,
		.physical_sector = 4096,
	};
	struct vhdx_locator_pair path = { "relative_path", "parent.vhdx" };
	struct model *m = model_new(run->mem_ctx, SIZE);
	struct vhdx *disk = NULL;
	uint64_t s = 0;

	run->ms = mem_store_new(run->mem_ctx, run->ev);
	if (shape->type != VHDX_DIFFERENCING) {
		assert_int_equal(vhdx_create(mem_store_get(run->ms), &w), 0);
		return;
	}
	w.type = VHDX_DYNAMIC;
	run->parent_ms = mem_store_new(run->mem_ctx, run->ev);
	assert_int_equal(vhdx_create(mem_store_get(run->parent_ms), &w), 0);
	disk = model_open(run->mem_ctx, run->parent_ms, true);
	model_put(m, disk, run->ev, 0, 3 * MIB + 4096, PARENT_VALUE);
	assert_int_equal(vhdx_close(disk), 0);
	for (s = 0; s < SECTORS; s++) {
		run->first[s] = m->values[s];
	}
	disk = model_open(run->mem_ctx, run->parent_ms, false);
	w = (struct vhdx_create) {
		.type = VHDX_DIFFERENCING, .block_size = w.block_size,
		.logical_sector = w.logical_sector,
		.physical_sector = w.physical_sector, .parent = disk,
		.paths = &path, .path_count = 1,
	};
	assert_int_equal(vhdx_create(mem_store_get(run->ms), &w), 0);
	assert_int_equal(vhdx_close(disk), 0);
}

static void one_workload(const struct shape *shape, uint64_t seed,
			 unsigned ops, unsigned losses)
{
	struct run *run = calloc(1, sizeof(*run));
	size_t cut = 0;
	unsigned i = 0;

	assert_non_null(run);
	run->mem_ctx = talloc_new(NULL);
	run->ev = tevent_context_init(run->mem_ctx);
	run->shape = shape;
	run->wanted = ops;
	make_disk(run);
	mem_store_shuffle(run->ms, seed);
	mem_store_record(run->ms);
	run->disk = open_disk(run, run->ms, true, run->mem_ctx);
	if (ops == 0) {
		work_shrink(run);
	} else {
		work(run, seed);
	}
	assert_int_equal(vhdx_settle(run->disk, run->ev), 0);
	assert_int_equal(vhdx_close(run->disk), 0);
	for (cut = 0; cut <= mem_store_events(run->ms); cut++) {
		for (i = 0; i < losses; i++) {
			check_cut(run, cut, i == 0 ? 0 : seed * 1000 + i);
		}
	}
	talloc_free(run->mem_ctx);
	free(run);
}

static const struct shape shapes[] = {
	{ VHDX_DYNAMIC, 1, 512, false },
	{ VHDX_DYNAMIC, 1, 512, true },
	{ VHDX_DIFFERENCING, 1, 512, false },
	{ VHDX_DYNAMIC, 2, 4096, true },
	{ VHDX_DIFFERENCING, 2, 4096, false },
	{ VHDX_FIXED, 1, 512, true },
	{ VHDX_DYNAMIC, 8, 512, true },
	{ VHDX_DIFFERENCING, 1, 512, true },
	{ VHDX_DIFFERENCING, 32, 512, false },
	{ VHDX_DYNAMIC, 256, 4096, true },
	{ VHDX_DIFFERENCING, 256, 512, false },
};

static void test_every_cut(void **state)
{
	const struct shape *shape = *state;
	bool all = getenv("HVRS_LONG") != NULL;
	uint64_t seed = 0;

	if (shape->resizes && shape->type != VHDX_DIFFERENCING) {
		one_workload(shape, 1, 0, 4);
	}
	for (seed = 1; seed <= (all ? 19 : 1); seed++) {
		one_workload(shape, seed, all ? OPS : 20, all ? 4 : 2);
	}
}

int main(void)
{
	struct CMUnitTest tests[sizeof(shapes) / sizeof(shapes[0])];
	char names[sizeof(shapes) / sizeof(shapes[0])][64];
	size_t i = 0;

	for (i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		const struct shape *shape = &shapes[i];

		snprintf(names[i], sizeof(names[i]),
			 "%s disk, blocks of %u MiB, sectors of %u%s",
			 shape->type == VHDX_FIXED ? "fixed" :
			 shape->type == VHDX_DYNAMIC ? "dynamic"
						     : "differencing",
			 shape->block_size, shape->sector,
			 shape->resizes ? ", resized" : "");
		tests[i] = (struct CMUnitTest) {
			.name = names[i], .test_func = test_every_cut,
			.initial_state = (void *)shape,
		};
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
