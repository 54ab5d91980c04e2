/*
 * Power cuts: a random workload is recorded, cut before every change of the
 * file, with what was not flushed lost, torn or reordered, and opened again.
 * Every sector must hold what the last flush that was answered made stable, or
 * something written to it since; the file must be sound.
 *
 * HVRS_LONG=1 runs 200 workloads instead of a few.
 */
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
#define SIZE (4 * MIB)
#define SECTORS (SIZE / MODEL_SECTOR)
#define OPS 60
#define PARENT_VALUE 1000000U

enum kind { OP_WRITE, OP_THROUGH, OP_UNMAP, OP_FLUSH };

struct op {
	enum kind kind;
	uint64_t offset;
	uint64_t length;
	uint8_t *bytes;
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
	struct op ops[OPS];
	unsigned count;
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

static void work(struct run *run, uint64_t seed)
{
	while (run->count < OPS) {
		uint64_t dice = model_draw(&seed) % 100;
		uint64_t offset = model_draw(&seed) % SECTORS * MODEL_SECTOR;
		uint64_t length = (model_draw(&seed) % 48 + 1) * MODEL_SECTOR;
		enum kind kind = OP_WRITE;

		if (dice < 12) {
			kind = OP_FLUSH;
		} else if (dice < 20) {
			kind = OP_UNMAP;
			offset -= offset % MIB;
			length = MIB;
		} else if (dice < 28) {
			kind = OP_THROUGH;
		} else if (dice < 34) {
			/* A whole block. */
			offset -= offset % MIB;
			length = MIB;
		}
		if (length > SIZE - offset) {
			length = SIZE - offset;
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

/* Which op each sector can count on after a cut. */
static void floors(struct run *run, size_t cut)
{
	unsigned f = 0;
	unsigned i = 0;
	uint64_t s = 0;

	memset(run->floor, 0, sizeof(run->floor));
	for (f = 0; f < run->count; f++) {
		const struct op *flush = &run->ops[f];

		if (flush->done > cut || flush->kind == OP_WRITE ||
		    flush->kind == OP_UNMAP) {
			continue;
		}
		for (i = 0; i < run->count; i++) {
			const struct op *op = &run->ops[i];
			bool covered = op->kind != OP_FLUSH &&
				       (i == f || (flush->kind == OP_FLUSH &&
						   i < f && op->req == NULL &&
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
		uint32_t gives = op->kind == OP_UNMAP ? 0 : i + 1;

		if (op->kind != OP_FLUSH && op->issued <= cut &&
		    at >= op->offset && at < op->offset + op->length &&
		    value == gives) {
			return true;
		}
	}
	return false;
}

static void compare(struct run *run, struct vhdx *disk, size_t cut,
		    uint64_t seed)
{
	uint8_t *bytes = malloc(SIZE);
	uint64_t s = 0;

	assert_non_null(bytes);
	assert_int_equal(vhdx_read(disk, run->ev, bytes, 0, SIZE), 0);
	for (s = 0; s < SECTORS; s++) {
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
	talloc_free(mem_ctx);
}

static void make_disk(struct run *run, bool child)
{
	struct vhdx_create w = {
		.type = VHDX_DYNAMIC, .size = SIZE, .block_size = MIB,
	};
	struct vhdx_locator_pair path = { "relative_path", "parent.vhdx" };
	struct model *m = model_new(run->mem_ctx, SIZE);
	struct vhdx *disk = NULL;
	uint64_t s = 0;

	run->ms = mem_store_new(run->mem_ctx, run->ev);
	if (!child) {
		assert_int_equal(vhdx_create(mem_store_get(run->ms), &w), 0);
		return;
	}
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
		.type = VHDX_DIFFERENCING, .block_size = MIB, .parent = disk,
		.paths = &path, .path_count = 1,
	};
	assert_int_equal(vhdx_create(mem_store_get(run->ms), &w), 0);
	assert_int_equal(vhdx_close(disk), 0);
}

static void one_workload(uint64_t seed, bool child, unsigned losses)
{
	struct run *run = calloc(1, sizeof(*run));
	size_t cut = 0;
	unsigned i = 0;

	assert_non_null(run);
	run->mem_ctx = talloc_new(NULL);
	run->ev = tevent_context_init(run->mem_ctx);
	make_disk(run, child);
	mem_store_shuffle(run->ms, seed);
	mem_store_record(run->ms);
	run->disk = open_disk(run, run->ms, true, run->mem_ctx);
	work(run, seed);
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

static void many(bool child)
{
	const char *wanted = getenv("HVRS_LONG");
	unsigned count = wanted != NULL ? 100 : 1;
	unsigned losses = wanted != NULL ? 4 : 2;
	uint64_t seed = 0;

	for (seed = 1; seed <= count; seed++) {
		one_workload(seed, child, losses);
	}
}

static void test_dynamic_disk_survives_every_cut(void **state)
{
	(void)state;
	many(false);
}

static void test_differencing_disk_survives_every_cut(void **state)
{
	(void)state;
	many(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dynamic_disk_survives_every_cut),
		cmocka_unit_test(test_differencing_disk_survives_every_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
