/* A copy of a file of a chain made to read as those above it. */
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
#define STEP (4 * MIB)		/* of sizes */
#define ROOM (32 * MIB)
#define FILES 4

struct chain {
	struct tevent_context *ev;
	struct mem_store *files[FILES];	/* base first */
	struct model *m;		/* of the last file */
	uint64_t seed;
	uint32_t value;
};

/* Files first to last, opened for reading but the last, which may be written. */
static struct vhdx *chain_open(TALLOC_CTX *mem_ctx,
			       struct mem_store *const *files, unsigned count,
			       bool writable)
{
	struct vhdx *disk = NULL;
	unsigned i = 0;

	for (i = 0; i < count; i++) {
		struct vhdx_open how = {
			.writable = writable && i + 1 == count,
			.parent = disk,
		};
		struct vhdx *next = NULL;
		const char *why = NULL;
		int ret = vhdx_open(mem_ctx, mem_store_get(files[i]), &how,
				    &next, &why);

		if (ret != 0) {
			fail_msg("file %u: %d %s", i, ret,
				 why != NULL ? why : "");
		}
		disk = next;
	}
	return disk;
}

static void set_size(struct chain *c, struct vhdx *disk, uint64_t size)
{
	uint64_t old = c->m->size;

	assert_int_equal(vhdx_resize(disk, size, true), 0);
	if (size > old) {
		c->m->size = size;
		model_write(c->m, old, size - old, 0);
	}
	c->m->size = size;
}

static void scribble(struct chain *c, struct vhdx *disk, unsigned count)
{
	struct vhdx_info info = {};

	while (count-- > 0) {
		uint64_t what = model_draw(&c->seed) % 20;
		uint64_t at = 0;
		uint64_t n = 0;

		vhdx_info_get(disk, &info);
		if (what == 0) {
			set_size(c, disk, (model_draw(&c->seed) %
					   (ROOM / STEP) + 1) * STEP);
			continue;
		}
		if (what < 5 && info.type != VHDX_FIXED) {
			at = model_draw(&c->seed) %
				(info.size / info.block_size);
			assert_int_equal(vhdx_unmap(
				disk, c->ev, at * info.block_size,
				info.block_size), 0);
			model_write(c->m, at * info.block_size,
				    info.block_size, 0);
			continue;
		}
		at = model_draw(&c->seed) % (info.size / 512) * 512;
		n = (model_draw(&c->seed) %
		     (what < 12 ? 16 : 4096) + 1) * 512;
		if (n > info.size - at) {
			n = info.size - at;
		}
		model_put(c->m, disk, c->ev, at, n, ++c->value);
	}
}

static struct chain *chain_make(TALLOC_CTX *mem_ctx, uint64_t seed,
				enum vhdx_type type)
{
	static const struct vhdx_locator_pair path = {
		"relative_path", ".\\parent.vhdx",
	};
	struct chain *c = talloc_zero(mem_ctx, struct chain);
	unsigned i = 0;

	assert_non_null(c);
	c->ev = tevent_context_init(c);
	c->seed = seed;
	c->m = model_new(c, ROOM);
	c->m->size = STEP * 4;
	for (i = 0; i < FILES; i++) {
		struct vhdx_create w = {
			.type = i == 0 ? type : VHDX_DIFFERENCING,
			.size = i == 0 ? c->m->size : 0,
			.block_size = (uint32_t)
				(MIB << model_draw(&c->seed) % 3),
			.paths = &path, .path_count = i == 0 ? 0 : 1,
		};
		struct vhdx *disk = NULL;

		if (i > 0) {
			disk = chain_open(c, c->files, i, false);
			w.parent = disk;
		}
		c->files[i] = mem_store_new(c, c->ev);
		assert_int_equal(vhdx_create(mem_store_get(c->files[i]), &w),
				 0);
		talloc_free(disk);
		disk = chain_open(c, c->files, i + 1, true);
		scribble(c, disk, 12);
		assert_int_equal(vhdx_flush(disk, c->ev), 0);
		assert_int_equal(vhdx_close(disk), 0);
	}
	return c;
}

struct watch {
	uint64_t done;
	uint64_t all;
	unsigned calls;
	unsigned stop;		/* at this call */
};

static bool on_progress(void *private_data, uint64_t done, uint64_t all)
{
	struct watch *w = private_data;

	assert_true(done >= w->done && done <= all);
	w->done = done;
	w->all = all;
	return ++w->calls != w->stop;
}

static int merge(struct chain *c, struct vhdx *from, unsigned depth,
		 struct vhdx *to, struct watch *w)
{
	struct tevent_req *req = vhdx_merge_send(c, c->ev, from, depth, to,
						 on_progress, w);
	int ret = 0;

	assert_non_null(req);
	assert_true(tevent_req_poll(req, c->ev));
	ret = vhdx_merge_recv(req);
	talloc_free(req);
	return ret;
}

/*
 * The files from position low on become one; the chain that ends with it must
 * read as before.
 */
static void merge_down_to(struct chain *c, unsigned low)
{
	unsigned depth = FILES - 1 - low;
	struct vhdx *from = chain_open(c, c->files, FILES, false);
	struct mem_store *files[FILES] = {};
	struct vhdx_info info = {};
	struct watch w = {};
	struct vhdx *to = NULL;
	unsigned i = 0;

	for (i = 0; i < low; i++) {
		files[i] = c->files[i];
	}
	files[low] = mem_store_copy(c, c->files[low]);
	to = chain_open(c, files, low + 1, true);
	vhdx_info_get(from, &info);
	assert_int_equal(vhdx_resize(to, info.size, true), 0);
	assert_int_equal(merge(c, from, depth, to, &w), 0);
	assert_true(w.calls > 0 && w.done == w.all && w.all == info.size);
	assert_int_equal(vhdx_linkage_set(to, &info.data_write_guid), 0);
	assert_int_equal(vhdx_close(to), 0);
	to = chain_open(c, files, low + 1, false);
	model_compare(c->m, to, c->ev);
	talloc_free(to);
	talloc_free(from);
}

static void merge_all(enum vhdx_type type, uint64_t seeds)
{
	uint64_t seed = 0;
	unsigned low = 0;

	for (seed = 1; seed <= seeds; seed++) {
		struct chain *c = chain_make(NULL, seed, type);

		for (low = 0; low + 1 < FILES; low++) {
			merge_down_to(c, low);
		}
		talloc_free(c);
	}
}

static uint64_t seeds(void)
{
	return getenv("HVRS_LONG") != NULL ? 2000 : 30;
}

static void test_any_part_of_a_dynamic_chain_becomes_one_file(void **state)
{
	(void)state;
	merge_all(VHDX_DYNAMIC, seeds());
}

static void test_any_part_of_a_fixed_chain_becomes_one_file(void **state)
{
	(void)state;
	merge_all(VHDX_FIXED, seeds());
}

static void test_a_child_of_the_old_file_is_one_of_the_new(void **state)
{
	struct chain *c = chain_make(NULL, 77, VHDX_DYNAMIC);
	struct mem_store *files[FILES] = { c->files[0], NULL, c->files[3] };
	struct vhdx *from = chain_open(c, c->files, 3, false);
	struct vhdx_info info = {};
	struct vhdx *disk = NULL;
	struct watch w = {};

	(void)state;
	vhdx_info_get(from, &info);
	files[1] = mem_store_copy(c, c->files[1]);
	disk = chain_open(c, files, 2, true);
	assert_int_equal(vhdx_resize(disk, info.size, true), 0);
	assert_int_equal(merge(c, from, 1, disk, &w), 0);
	assert_int_equal(vhdx_linkage_set(disk, &info.data_write_guid), 0);
	assert_int_equal(vhdx_close(disk), 0);
	/* The last file finds its parent again, and reads as before. */
	disk = chain_open(c, files, 3, false);
	model_compare(c->m, disk, c->ev);
	talloc_free(c);
}

static void test_without_the_linkage_a_child_is_refused(void **state)
{
	struct chain *c = chain_make(NULL, 78, VHDX_DYNAMIC);
	struct vhdx *child = NULL;
	struct vhdx *disk = NULL;
	struct vhdx_open how = { .without_parent = true };
	struct guid other = {};

	(void)state;
	disk = chain_open(c, c->files, 3, true);
	assert_int_equal(vhdx_open(c, mem_store_get(c->files[3]), &how,
				   &child, NULL), 0);
	assert_int_equal(vhdx_parent_check(child, disk), 0);
	assert_int_equal(guid_random(&other), 0);
	assert_int_equal(vhdx_linkage_set(disk, &other), 0);
	assert_int_equal(vhdx_parent_check(child, disk), -ESTALE);
	talloc_free(c);
}

static void test_a_merge_ends_when_it_is_not_wanted(void **state)
{
	struct chain *c = chain_make(NULL, 79, VHDX_DYNAMIC);
	struct vhdx *from = chain_open(c, c->files, 2, false);
	struct vhdx *to = NULL;
	struct vhdx_info info = {};
	struct watch w = { .stop = 1 };

	(void)state;
	to = chain_open(c, c->files, 1, true);
	vhdx_info_get(from, &info);
	assert_int_equal(vhdx_resize(to, info.size, true), 0);
	assert_int_equal(merge(c, from, 1, to, &w), -ECANCELED);
	assert_int_equal(merge(c, from, 2, to, &w), -EINVAL);
	talloc_free(c);
}

/* Every call of a store fails in turn; the merge then says so, or is whole. */
static void test_a_failed_call_of_a_store_is_told(void **state)
{
	struct chain *c = chain_make(NULL, 80, VHDX_DYNAMIC);
	uint64_t nth = 0;
	unsigned told = 0;
	bool more = true;

	(void)state;
	for (nth = 1; more; nth++) {
		TALLOC_CTX *frame = talloc_new(c);
		struct vhdx *from = chain_open(frame, c->files, FILES,
					       false);
		struct mem_store *copy = mem_store_copy(frame, c->files[0]);
		struct vhdx *to = chain_open(frame, &copy, 1, true);
		struct vhdx_info info = {};
		struct watch w = {};
		uint64_t calls = 0;
		int ret = 0;

		vhdx_info_get(from, &info);
		assert_int_equal(vhdx_resize(to, info.size, true), 0);
		calls = mem_store_calls(copy);
		mem_store_fail(copy, nth, -EIO);
		ret = merge(c, from, FILES - 1, to, &w);
		more = mem_store_calls(copy) - calls >= nth;
		assert_int_equal(ret, more ? -EIO : 0);
		told += more ? 1 : 0;
		talloc_free(frame);
	}
	assert_true(told > 20);
	talloc_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_any_part_of_a_dynamic_chain_becomes_one_file),
		cmocka_unit_test(
			test_any_part_of_a_fixed_chain_becomes_one_file),
		cmocka_unit_test(
			test_a_child_of_the_old_file_is_one_of_the_new),
		cmocka_unit_test(test_without_the_linkage_a_child_is_refused),
		cmocka_unit_test(test_a_merge_ends_when_it_is_not_wanted),
		cmocka_unit_test(test_a_failed_call_of_a_store_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
