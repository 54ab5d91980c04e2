/*
 * Interoperation with qemu-img, both ways, on real files.  Skipped where
 * qemu-img is not installed.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <tevent.h>

#include "store/store.h"
#include "support/vhdx_model.h"
#include "vhdx/vhdx.h"

#define MIB VHDX_MIB

struct fixture {
	TALLOC_CTX *mem_ctx;
	struct tevent_context *ev;
	char *dir;
};

static bool has_qemu(void)
{
	return system("qemu-img --version >/dev/null 2>&1") == 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const char *tmp = getenv("TMPDIR");

	f->mem_ctx = talloc_new(NULL);
	f->ev = tevent_context_init(f->mem_ctx);
	f->dir = talloc_asprintf(f->mem_ctx, "%s/vhdx-qemu-XXXXXX",
				 tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(f->dir) == NULL) {
		return -1;
	}
	*state = f;
	return 0;
}

__attribute__((format(printf, 2, 3)))
static int run(struct fixture *f, const char *format, ...)
{
	char *command = NULL;
	va_list ap;
	int ret = 0;

	va_start(ap, format);
	command = talloc_vasprintf(f->mem_ctx, format, ap);
	va_end(ap);
	command = talloc_asprintf(f->mem_ctx, "cd '%s' && %s >log 2>&1",
				  f->dir, command);
	ret = system(command);
	if (ret != 0) {
		print_message("%s: %d\n", command, ret);
		ret = system(talloc_asprintf(f->mem_ctx, "cat '%s/log'",
					     f->dir)) != 0 ? ret : 1;
	}
	return ret;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	(void)run(f, "rm -f a.vhdx b.vhdx a.raw");
	unlink(talloc_asprintf(f->mem_ctx, "%s/log", f->dir));
	rmdir(f->dir);
	talloc_free(f->mem_ctx);
	free(f);
	return 0;
}

static struct store *file(struct fixture *f, const char *name, unsigned flags)
{
	char *path = talloc_asprintf(f->mem_ctx, "%s/%s", f->dir, name);
	struct store *store = NULL;

	assert_int_equal(file_store_open(f->mem_ctx, f->ev, AT_FDCWD, path,
					 flags, &store), 0);
	return store;
}

static struct vhdx *open_it(struct fixture *f, struct store *store,
			    bool writable)
{
	struct vhdx_open how = { .writable = writable };
	struct vhdx *disk = NULL;
	const char *why = NULL;
	int ret = vhdx_open(f->mem_ctx, store, &how, &disk, &why);

	if (ret != 0) {
		fail_msg("open: %d %s", ret, why != NULL ? why : "");
	}
	return disk;
}

/* The model as a raw file beside the image. */
static void write_raw(struct fixture *f, const struct model *m)
{
	struct store *raw = NULL;
	uint8_t bytes[MODEL_SECTOR];
	uint64_t s = 0;

	assert_int_equal(run(f, "rm -f a.raw"), 0);
	raw = file(f, "a.raw", FILE_STORE_CREATE);
	assert_int_equal(store_truncate(raw, m->size), 0);
	for (s = 0; s < m->size / MODEL_SECTOR; s++) {
		if (m->values[s] != 0) {
			model_fill(bytes, s * MODEL_SECTOR, MODEL_SECTOR,
				   m->values[s]);
			assert_int_equal(store_write(raw, bytes, MODEL_SECTOR,
						     s * MODEL_SECTOR), 0);
		}
	}
	talloc_free(raw);
}

static void scribble(struct fixture *f, struct model *m, struct vhdx *disk,
		     uint64_t seed, unsigned count)
{
	unsigned i = 0;

	for (i = 0; i < count; i++) {
		uint64_t at = model_draw(&seed) % (m->size / 4096) * 4096;
		uint64_t n = (model_draw(&seed) % 64 + 1) * 4096;

		if (n > m->size - at) {
			n = m->size - at;
		}
		model_put(m, disk, f->ev, at, n,
			  (uint32_t)model_draw(&seed) % 1000000 + 1);
	}
	model_put(m, disk, f->ev, 0, 4096, 77);
	model_put(m, disk, f->ev, m->size - 4096, 4096, 78);
}

static void check_ours(struct fixture *f, struct store *store)
{
	struct vhdx_check_result result = {};
	struct vhdx *disk = open_it(f, store, false);

	assert_int_equal(vhdx_check(disk, false, NULL, NULL, &result), 0);
	assert_int_equal(result.errors, 0);
	assert_int_equal(vhdx_close(disk), 0);
}

static void ours_to_qemu(struct fixture *f, enum vhdx_type type,
			 uint64_t size, uint32_t block)
{
	struct vhdx_create w = {
		.type = type, .size = size, .block_size = block,
	};
	struct model *m = model_new(f->mem_ctx, size);
	struct store *store = file(f, "a.vhdx", FILE_STORE_CREATE);
	struct vhdx *disk = NULL;
	uint64_t at = 0;

	assert_int_equal(vhdx_create(store, &w), 0);
	disk = open_it(f, store, true);
	scribble(f, m, disk, block, 60);
	if (type == VHDX_DYNAMIC) {
		at = size / 2 / block * block;
		assert_int_equal(vhdx_unmap(disk, f->ev, at, block), 0);
		model_write(m, at, block, 0);
	}
	assert_int_equal(vhdx_close(disk), 0);
	check_ours(f, store);
	write_raw(f, m);
	assert_int_equal(run(f, "qemu-img check a.vhdx"), 0);
	assert_int_equal(run(f, "qemu-img compare -f vhdx -F raw a.vhdx "
				"a.raw"), 0);
	/* QEMU writes into it; we still agree. */
	assert_int_equal(run(f, "qemu-io -f vhdx -c 'write -P 0 %lluk 64k' "
				"-c 'write -P 0 0 4k' a.vhdx",
			     (unsigned long long)(size / 1024 - 64)), 0);
	model_write(m, size - 65536, 65536, 0);
	model_write(m, 0, 4096, 0);
	disk = open_it(f, store, true);
	model_compare(m, disk, f->ev);
	scribble(f, m, disk, block + 1, 20);
	assert_int_equal(vhdx_close(disk), 0);
	check_ours(f, store);
	write_raw(f, m);
	assert_int_equal(run(f, "qemu-img compare -f vhdx -F raw a.vhdx "
				"a.raw"), 0);
	talloc_free(store);
}

static void test_qemu_reads_and_writes_our_dynamic_disk(void **state)
{
	if (!has_qemu()) {
		skip();
	}
	ours_to_qemu(*state, VHDX_DYNAMIC, 64 * MIB, 1U << 20);
}

static void test_qemu_reads_and_writes_our_large_blocks(void **state)
{
	if (!has_qemu()) {
		skip();
	}
	ours_to_qemu(*state, VHDX_DYNAMIC, 130 * MIB, 32U << 20);
}

static void test_qemu_reads_and_writes_our_fixed_disk(void **state)
{
	if (!has_qemu()) {
		skip();
	}
	ours_to_qemu(*state, VHDX_FIXED, 40 * MIB, 8U << 20);
}

static void qemu_to_ours(struct fixture *f, const char *options)
{
	uint64_t size = 48 * MIB;
	struct model *m = model_new(f->mem_ctx, size);
	struct store *store = NULL;
	struct vhdx *disk = NULL;
	uint64_t seed = 5;
	unsigned i = 0;

	for (i = 0; i < 30; i++) {
		model_write(m, model_draw(&seed) % (size / 65536) * 65536,
			    (model_draw(&seed) % 100 + 1) * 512,
			    (uint32_t)i + 1);
	}
	write_raw(f, m);
	assert_int_equal(run(f, "qemu-img convert -f raw -O vhdx -o %s a.raw "
				"b.vhdx", options), 0);
	store = file(f, "b.vhdx", FILE_STORE_WRITE);
	check_ours(f, store);
	disk = open_it(f, store, true);
	model_compare(m, disk, f->ev);
	scribble(f, m, disk, 99, 40);
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_close(disk), 0);
	check_ours(f, store);
	write_raw(f, m);
	assert_int_equal(run(f, "qemu-img check b.vhdx"), 0);
	assert_int_equal(run(f, "qemu-img compare -f vhdx -F raw b.vhdx "
				"a.raw"), 0);
	talloc_free(store);
}

static void test_we_read_and_write_what_qemu_made(void **state)
{
	static const char * const options[] = {
		"subformat=dynamic", "subformat=dynamic,block_size=1M",
		"subformat=dynamic,block_state_zero=off,block_size=2M",
		"subformat=fixed", "subformat=dynamic,log_size=4M",
		"subformat=fixed,block_size=16M",
	};
	size_t i = 0;

	if (!has_qemu()) {
		skip();
	}
	for (i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		struct fixture *f = *state;

		qemu_to_ours(f, options[i]);
		assert_int_equal(run(f, "rm -f b.vhdx"), 0);
	}
}

/* A process that dies with its log in use: QEMU replays it. */
static void test_qemu_replays_our_log(void **state)
{
	struct vhdx_create w = {
		.type = VHDX_DYNAMIC, .size = 32 * MIB, .block_size = 1U << 20,
	};
	struct fixture *f = *state;
	struct model *m = model_new(f->mem_ctx, w.size);
	struct store *store = NULL;
	struct vhdx_info info = {};
	struct vhdx *disk = NULL;
	uint8_t zero[4096] = {};

	if (!has_qemu()) {
		skip();
	}
	store = file(f, "a.vhdx", FILE_STORE_CREATE);
	assert_int_equal(vhdx_create(store, &w), 0);
	disk = open_it(f, store, true);
	scribble(f, m, disk, 3, 20);
	assert_int_equal(vhdx_unmap(disk, f->ev, 20 * MIB, MIB), 0);
	model_write(m, 20 * MIB, MIB, 0);
	assert_int_equal(vhdx_close(disk), 0);
	disk = open_it(f, store, true);
	/* Into an unmapped block, so that the table changes. */
	model_put(m, disk, f->ev, 20 * MIB, 65536, 5);
	assert_int_equal(vhdx_flush(disk, f->ev), 0);
	vhdx_info_get(disk, &info);
	/* Let the commit end, then undo what it applied: only the log knows. */
	assert_int_equal(vhdx_flush(disk, f->ev), 0);
	talloc_free(disk);
	assert_int_equal(store_write(store, zero, sizeof(zero),
				     info.bat_offset), 0);
	talloc_free(store);
	assert_int_equal(run(f, "qemu-img check -r all a.vhdx"), 0);
	write_raw(f, m);
	assert_int_equal(run(f, "qemu-img compare -f vhdx -F raw a.vhdx "
				"a.raw"), 0);
	store = file(f, "a.vhdx", 0);
	disk = open_it(f, store, false);
	model_compare(m, disk, f->ev);
	assert_int_equal(vhdx_close(disk), 0);
	talloc_free(store);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_qemu_reads_and_writes_our_dynamic_disk),
		T(test_qemu_reads_and_writes_our_large_blocks),
		T(test_qemu_reads_and_writes_our_fixed_disk),
		T(test_we_read_and_write_what_qemu_made),
		T(test_qemu_replays_our_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
