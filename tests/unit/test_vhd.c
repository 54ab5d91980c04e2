/*
 * VHDs: footer and header, reading fixed, dynamic and differencing ones,
 * writing, and what is done with damaged ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "store/store.h"
#include "support/mem_store.h"
#include "vhd/vhd.h"

#define MIB 0x100000ULL
#define BLOCK (2 * MIB)

static struct store *fresh(TALLOC_CTX *mem_ctx)
{
	struct mem_store *ms = mem_store_new(mem_ctx, NULL);

	assert_non_null(ms);
	return mem_store_get(ms);
}

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
	size_t i = 0;

	for (i = 0; i < length; i++) {
		seed = seed * 1103515245 + 12345;
		bytes[i] = (uint8_t)(seed >> 16);
	}
}

static struct store *written(TALLOC_CTX *mem_ctx, enum vhd_type type,
			     uint64_t size)
{
	struct store *store = fresh(mem_ctx);
	struct vhd_writer *w = NULL;
	uint8_t bytes[4096] = {};

	assert_int_equal(vhd_writer_open(mem_ctx, store, type, size, 42, &w),
			 0);
	fill(bytes, sizeof(bytes), 1);
	assert_int_equal(vhd_writer_write(w, bytes, 0, sizeof(bytes)), 0);
	fill(bytes, sizeof(bytes), 2);
	assert_int_equal(vhd_writer_write(w, bytes, 2 * BLOCK - 2048, 4096),
			 0);
	assert_int_equal(vhd_writer_close(w), 0);
	return store;
}

static int open_vhd(TALLOC_CTX *mem_ctx, struct store *store,
		    struct vhd *parent, struct vhd **_disk, const char **_why)
{
	struct vhd_open how = { .parent = parent };

	return vhd_open(mem_ctx, store, &how, _disk, _why);
}

static void assert_content(struct vhd *disk, uint64_t size)
{
	static uint8_t all[8 * MIB];
	static uint8_t want[8 * MIB];

	assert_true(size <= sizeof(all));
	memset(want, 0, sizeof(want));
	fill(want, 4096, 1);
	fill(want + 2 * BLOCK - 2048, 4096, 2);
	memset(all, 0xAA, sizeof(all));
	assert_int_equal(vhd_read(disk, all, 0, size), 0);
	assert_memory_equal(all, want, size);
	/* Unaligned, over the border of two blocks. */
	assert_int_equal(vhd_read(disk, all, 2 * BLOCK - 777, 1555), 0);
	assert_memory_equal(all, want + 2 * BLOCK - 777, 1555);
}

static void test_footer_is_as_the_specification_lays_it_out(void **state)
{
	struct vhd_footer f = {
		.cookie = { 'c', 'o', 'n', 'e', 'c', 't', 'i', 'x' },
		.features = 2, .version = 0x10000,
		.data_offset = VHD_NO_OFFSET, .time = 0x01020304,
		.creator = { 'w', 'i', 'n', ' ' }, .size = 0x0A0B0C0D00,
		.type = VHD_FIXED, .cylinders = 0x1112, .heads = 0x13,
		.sectors = 0x14,
		.id = GUID_INIT(0x00112233, 0x4455, 0x6677, 0x88, 0x99, 0xAA,
				0xBB, 0xCC, 0xDD, 0xEE, 0xFF),
	};
	struct vhd_footer back = {};
	uint8_t bytes[VHD_FOOTER_SIZE] = {};
	uint32_t sum = 0;
	size_t i = 0;

	(void)state;
	memcpy(f.cookie, "conectix", 8);
	vhd_footer_encode(&f, bytes);
	assert_memory_equal(bytes, "conectix\0\0\0\2\0\1\0\0", 16);
	assert_memory_equal(bytes + 24, "\1\2\3\4win ", 8);
	assert_memory_equal(bytes + 48, "\0\0\0\x0a\x0b\x0c\x0d\0", 8);
	assert_memory_equal(bytes + 56, "\x11\x12\x13\x14\0\0\0\2", 8);
	for (i = 0; i < 16; i++) {
		assert_int_equal(bytes[68 + i], 0x11 * i);
	}
	for (i = 0; i < sizeof(bytes); i++) {
		sum += i < 64 || i > 67 ? bytes[i] : 0;
	}
	sum = ~sum;
	assert_int_equal((uint32_t)bytes[64] << 24 | bytes[65] << 16 |
			 bytes[66] << 8 | bytes[67], sum);
	vhd_footer_decode(bytes, &back);
	assert_int_equal(back.checksum, back.computed);
	assert_true(guid_equal(&back.id, &f.id));
	assert_int_equal(back.size, f.size);
	assert_int_equal(back.heads, 0x13);
}

static void test_geometry_follows_the_appendix(void **state)
{
	/* size, cylinders, heads, sectors: worked by hand from the appendix */
	static const uint64_t rows[][4] = {
		{ 4 * MIB, 120, 4, 17 },
		{ 128 * MIB, 963, 16, 17 },
		{ 1024 * MIB, 2080, 16, 63 },
		{ 2040ULL << 30, 65535, 16, 255 },
	};
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct vhd_footer f = {};

		vhd_geometry(rows[i][0], &f);
		assert_int_equal(f.cylinders, rows[i][1]);
		assert_int_equal(f.heads, rows[i][2]);
		assert_int_equal(f.sectors, rows[i][3]);
	}
}

static void test_fixed_disk_reads_back(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct store *store = written(frame, VHD_FIXED, 8 * MIB);
	struct vhd_info info = {};
	struct vhd *disk = NULL;
	uint64_t size = 0;

	(void)state;
	assert_int_equal(store_size(store, &size), 0);
	assert_int_equal(size, 8 * MIB + 512);
	assert_int_equal(open_vhd(frame, store, NULL, &disk, NULL), 0);
	vhd_info_get(disk, &info);
	assert_int_equal(info.type, VHD_FIXED);
	assert_int_equal(info.size, 8 * MIB);
	assert_int_equal(info.time, 42);
	assert_string_equal(info.creator, "hvrs");
	assert_content(disk, 8 * MIB);
	talloc_free(frame);
}

static void test_dynamic_disk_reads_back_and_stays_small(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct store *store = written(frame, VHD_DYNAMIC, 7 * MIB + 512);
	struct vhd_check_result result = {};
	struct vhd_extent e = {};
	struct vhd *disk = NULL;
	uint64_t size = 0;

	(void)state;
	assert_int_equal(store_size(store, &size), 0);
	assert_true(size > 3 * BLOCK && size < 3 * BLOCK + 0x10000);
	assert_int_equal(open_vhd(frame, store, NULL, &disk, NULL), 0);
	assert_content(disk, 7 * MIB + 512);
	assert_int_equal(vhd_map(disk, 3 * BLOCK, MIB, &e), 0);
	assert_int_equal(e.kind, VHD_EXTENT_ZERO);
	assert_int_equal(vhd_map(disk, 0, 7 * MIB, &e), 0);
	assert_int_equal(e.kind, VHD_EXTENT_DATA);
	assert_int_equal(e.length, BLOCK);
	assert_int_equal(e.file_offset % 4096, 0);
	assert_int_equal(vhd_map(disk, 7 * MIB, 513, &e), -EINVAL);
	assert_int_equal(vhd_check(disk, NULL, NULL, &result), 0);
	assert_int_equal(result.errors, 0);
	assert_int_equal(result.blocks_present, 3);
	talloc_free(frame);
}

static void test_copy_at_the_start_serves_for_a_lost_footer(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct store *store = written(frame, VHD_DYNAMIC, 8 * MIB);
	struct vhd_check_result result = {};
	struct vhd_info info = {};
	struct vhd *disk = NULL;
	uint8_t byte = 0xEE;
	uint64_t size = 0;

	(void)state;
	assert_int_equal(store_size(store, &size), 0);
	assert_int_equal(store_write(store, &byte, 1, size - 300), 0);
	assert_int_equal(open_vhd(frame, store, NULL, &disk, NULL), 0);
	vhd_info_get(disk, &info);
	assert_true(info.footer_was_copied);
	assert_content(disk, 8 * MIB);
	assert_int_equal(vhd_check(disk, NULL, NULL, &result), 0);
	assert_int_equal(result.errors, 1);
	talloc_free(frame);
}

static void test_fixed_disk_holding_a_vhd_is_not_taken_for_it(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct store *inner = written(frame, VHD_FIXED, 8 * MIB);
	struct store *store = fresh(frame);
	struct vhd *disk = NULL;
	const char *why = NULL;
	uint8_t bytes[512] = {};

	(void)state;
	assert_int_equal(store_read(inner, bytes, 512, 8 * MIB), 0);
	assert_int_equal(store_write(store, bytes, 512, 0), 0);
	assert_int_equal(store_truncate(store, 9 * MIB), 0);
	assert_int_equal(open_vhd(frame, store, NULL, &disk, &why), -EBADMSG);
	assert_non_null(why);
	talloc_free(frame);
}

static void test_old_footer_of_511_bytes_is_found(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct store *store = written(frame, VHD_FIXED, 8 * MIB);
	struct vhd *disk = NULL;

	(void)state;
	assert_int_equal(store_truncate(store, 8 * MIB + 511), 0);
	assert_int_equal(open_vhd(frame, store, NULL, &disk, NULL), 0);
	assert_content(disk, 8 * MIB);
	talloc_free(frame);
}

static void test_damage_is_told(void **state)
{
	static const struct {
		uint64_t at;		/* of both footers or the header */
		uint8_t value;
		bool header;
		bool seal;
		int error;
	} rows[] = {
		{ 0, 'x', false, true, -EBADMSG },	/* cookie */
		{ 50, 1, false, false, -EBADMSG },	/* checksum */
		{ 13, 2, false, true, -ENOTSUP },	/* version 2 */
		{ 63, 5, false, true, -ENOTSUP },	/* type */
		{ 55, 1, false, true, -EBADMSG },	/* size: odd */
		{ 48, 1, false, true, -EFBIG },		/* size: huge */
		{ 16, 1, false, true, -EBADMSG },	/* header far away */
		{ 0, 'x', true, true, -EBADMSG },
		{ 30, 1, true, false, -EBADMSG },
		{ 25, 2, true, true, -ENOTSUP },
		{ 31, 1, true, true, -EBADMSG },	/* one entry */
		{ 33, 0x30, true, true, -EBADMSG },	/* block size */
		{ 16, 1, true, true, -EBADMSG },	/* table far away */
		{ 23, 1, true, true, -EBADMSG },	/* table unaligned */
	};
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		TALLOC_CTX *frame = talloc_new(NULL);
		struct store *store = written(frame, VHD_DYNAMIC, 8 * MIB);
		const char *why = NULL;
		struct vhd *disk = NULL;
		uint8_t f[512] = {};
		uint8_t h[1024] = {};
		uint64_t size = 0;
		uint8_t *p = rows[i].header ? h : f;
		size_t length = rows[i].header ? 1024 : 512;
		size_t skip = rows[i].header ? 36 : 64;
		uint32_t sum = 0;
		size_t n = 0;

		assert_int_equal(store_size(store, &size), 0);
		assert_int_equal(store_read(store, f, 512, 0), 0);
		assert_int_equal(store_read(store, h, 1024, 512), 0);
		assert_int_not_equal(p[rows[i].at], rows[i].value);
		p[rows[i].at] = rows[i].value;
		for (n = 0; n < length && rows[i].seal; n++) {
			sum += n < skip || n > skip + 3 ? p[n] : 0;
		}
		for (n = 0; n < 4 && rows[i].seal; n++) {
			p[skip + n] = (uint8_t)(~sum >> (24 - 8 * n));
		}
		assert_int_equal(store_write(store, f, 512, 0), 0);
		assert_int_equal(store_write(store, h, 1024, 512), 0);
		assert_int_equal(store_write(store, f, 512, size - 512), 0);
		assert_int_equal(open_vhd(frame, store, NULL, &disk, &why),
				 rows[i].error);
		assert_null(disk);
		assert_non_null(why);
		talloc_free(frame);
	}
}

static void count_report(void *private_data, const char *what,
			 uint64_t block, uint64_t file_offset)
{
	char *seen = private_data;

	(void)file_offset;
	snprintf(seen + strlen(seen), 100, "%u:%.15s;", (unsigned)block,
		 what + strlen("the block "));
}

static void test_bad_table_entries_are_found_and_not_followed(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct store *store = written(frame, VHD_DYNAMIC, 16 * MIB);
	struct vhd_check_result result = {};
	struct vhd *disk = NULL;
	uint8_t table[32] = {};
	char seen[1000] = "";
	uint8_t byte = 0;

	(void)state;
	assert_int_equal(store_read(store, table, 32, 1536), 0);
	memcpy(table + 12, "\xff\xff\xff\xf0", 4);	/* outside */
	memcpy(table + 16, "\0\0\0\2", 4);		/* on the header */
	memcpy(table + 20, table, 4);			/* same as 0 */
	memcpy(table + 24, table + 4, 4);		/* 8 sectors past 1 */
	table[27] = (uint8_t)(table[27] + 8);
	assert_int_equal(store_write(store, table, 32, 1536), 0);
	assert_int_equal(open_vhd(frame, store, NULL, &disk, NULL), 0);
	assert_int_equal(vhd_check(disk, count_report, seen, &result), 0);
	assert_string_equal(seen, "3:lies outside th;4:lies on the hea;"
			    "5:shares space wi;6:shares space wi;");
	assert_int_equal(result.errors, 4);
	assert_int_equal(result.blocks_present, 3);
	assert_int_equal(vhd_read(disk, &byte, 3 * BLOCK, 1), -EBADMSG);
	talloc_free(frame);
}

/* A differencing disk of 8 MiB over parent_id with one block, one sector. */
static struct store *child_of(TALLOC_CTX *mem_ctx, const struct guid *parent)
{
	static const uint8_t name[] = "p\0a\0r\0e\0n\0t\0.\0v\0h\0d";
	struct store *store = written(mem_ctx, VHD_DYNAMIC, 8 * MIB);
	struct vhd_footer f = {};
	struct vhd_header h = {};
	uint8_t fb[512] = {};
	uint8_t hb[1024] = {};
	uint8_t bitmap[512] = {};
	uint8_t data[512] = {};
	uint8_t entry[4] = {};
	uint64_t size = 0;
	uint64_t at = 0;

	assert_int_equal(store_size(store, &size), 0);
	assert_int_equal(store_read(store, fb, 512, 0), 0);
	assert_int_equal(store_read(store, hb, 1024, 512), 0);
	vhd_footer_decode(fb, &f);
	vhd_header_decode(hb, &h);
	f.type = VHD_DIFFERENCING;
	assert_int_equal(guid_random(&f.id), 0);
	h.parent_id = *parent;
	memcpy(h.parent_name, "\0p\0x", 4);
	h.locators[2] = (struct vhd_locator) {
		.platform = 0x57327275, .space = 1,
		.length = sizeof(name), .offset = size,
	};
	vhd_footer_encode(&f, fb);
	vhd_header_encode(&h, hb);
	assert_int_equal(store_write(store, fb, 512, 0), 0);
	assert_int_equal(store_write(store, hb, 1024, 512), 0);
	assert_int_equal(store_write(store, name, sizeof(name), size), 0);
	assert_int_equal(store_write(store, fb, 512, size + 512), 0);
	/* Block 0: only sector 9 is the child's.  Blocks 1 and 2: all. */
	assert_int_equal(store_read(store, entry, 4, 1536), 0);
	at = 512ULL * ((uint32_t)entry[2] << 8 | entry[3]);
	bitmap[1] = 0x40;
	assert_int_equal(store_write(store, bitmap, 512, at), 0);
	memset(data, 'C', sizeof(data));
	assert_int_equal(store_write(store, data, 512, at + 512 + 9 * 512), 0);
	return store;
}

static void test_differencing_disk_asks_its_parent(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct store *base = written(frame, VHD_DYNAMIC, 8 * MIB);
	struct vhd_info info = {};
	struct vhd_extent e = {};
	struct vhd *parent = NULL;
	struct vhd *stranger = NULL;
	struct vhd *disk = NULL;
	struct store *store = NULL;
	uint8_t got[16 * 512] = {};
	uint8_t want[16 * 512] = {};
	char *name = NULL;

	(void)state;
	assert_int_equal(open_vhd(frame, base, NULL, &parent, NULL), 0);
	vhd_info_get(parent, &info);
	store = child_of(frame, &info.id);
	/* Alone: what is the parent's cannot be read. */
	assert_int_equal(open_vhd(frame, store, NULL, &disk, NULL), 0);
	assert_int_equal(vhd_read(disk, got, 0, 512), -ENOENT);
	assert_int_equal(vhd_read(disk, got, 9 * 512, 512), 0);
	assert_int_equal(vhd_parent_name(frame, disk, 0, &name), 0);
	assert_string_equal(name, "parent.vhd");
	assert_int_equal(vhd_parent_name(frame, disk, 1, &name), 0);
	assert_string_equal(name, "px");
	assert_int_equal(vhd_parent_name(frame, disk, 2, &name), -ENOENT);
	talloc_free(disk);
	/* With a parent that is not its own. */
	assert_int_equal(open_vhd(frame, written(frame, VHD_DYNAMIC, 8 * MIB),
				  NULL, &stranger, NULL), 0);
	assert_int_equal(open_vhd(frame, store, stranger, &disk, NULL),
			 -ESTALE);
	/* With its parent. */
	assert_int_equal(open_vhd(frame, store, parent, &disk, NULL), 0);
	assert_int_equal(vhd_read(disk, got, 0, sizeof(got)), 0);
	fill(want, 4096, 1);
	memset(want + 9 * 512, 'C', 512);
	assert_memory_equal(got, want, sizeof(want));
	assert_int_equal(vhd_map(disk, 0, BLOCK, &e), 0);
	assert_int_equal(e.kind, VHD_EXTENT_DATA);
	assert_int_equal(e.depth, 1);
	assert_int_equal(e.length, 9 * 512);
	assert_int_equal(vhd_map(disk, 9 * 512, BLOCK, &e), 0);
	assert_int_equal(e.depth, 0);
	assert_int_equal(e.length, 512);
	talloc_free(frame);
}

static void test_truncated_files_never_open_as_something_else(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct store *store = written(frame, VHD_FIXED, 8 * MIB);
	static const uint64_t sizes[] = {
		0, 1, 511, 512, 1024, 4096, 8 * MIB - 1, 8 * MIB,
		8 * MIB + 510,
	};
	size_t i = sizeof(sizes) / sizeof(sizes[0]);

	(void)state;
	while (i > 0) {
		struct vhd *disk = NULL;

		i--;
		assert_int_equal(store_truncate(store, sizes[i]), 0);
		assert_int_equal(open_vhd(frame, store, NULL, &disk, NULL),
				 -EBADMSG);
	}
	talloc_free(frame);
}

static void test_writer_refuses_what_makes_no_sense(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct vhd_writer *w = NULL;
	uint8_t bytes[1024] = {};

	(void)state;
	assert_int_equal(vhd_writer_open(frame, fresh(frame), VHD_DYNAMIC, 0,
					 0, &w), -EINVAL);
	assert_int_equal(vhd_writer_open(frame, fresh(frame), VHD_DYNAMIC, 513,
					 0, &w), -EINVAL);
	assert_int_equal(vhd_writer_open(frame, fresh(frame), VHD_DIFFERENCING,
					 MIB, 0, &w), -EINVAL);
	assert_int_equal(vhd_writer_open(frame, fresh(frame), VHD_DYNAMIC,
					 VHD_DYNAMIC_MAX + 512, 0, &w),
			 -EFBIG);
	assert_int_equal(vhd_writer_open(frame, written(frame, VHD_FIXED,
							8 * MIB), VHD_FIXED,
					 MIB, 0, &w), -EEXIST);
	assert_int_equal(vhd_writer_open(frame, fresh(frame), VHD_DYNAMIC,
					 MIB, 0, &w), 0);
	assert_int_equal(vhd_writer_write(w, bytes, MIB - 512, 1024),
			 -EINVAL);
	assert_int_equal(vhd_writer_write(w, bytes, 100, 512), -EINVAL);
	talloc_free(frame);
}

static void test_largest_disk_is_written_and_read(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct store *store = fresh(frame);
	struct vhd_writer *w = NULL;
	struct vhd *disk = NULL;
	uint8_t bytes[512] = {};
	uint8_t got[512] = {};

	(void)state;
	fill(bytes, sizeof(bytes), 3);
	assert_int_equal(vhd_writer_open(frame, store, VHD_DYNAMIC,
					 VHD_DYNAMIC_MAX, 0, &w), 0);
	assert_int_equal(vhd_writer_write(w, bytes, VHD_DYNAMIC_MAX - 512,
					  512), 0);
	assert_int_equal(vhd_writer_close(w), 0);
	assert_int_equal(open_vhd(frame, store, NULL, &disk, NULL), 0);
	assert_int_equal(vhd_read(disk, got, VHD_DYNAMIC_MAX - 512, 512), 0);
	assert_memory_equal(got, bytes, 512);
	assert_int_equal(vhd_read(disk, got, VHD_DYNAMIC_MAX / 2, 512), 0);
	memset(bytes, 0, sizeof(bytes));
	assert_memory_equal(got, bytes, 512);
	talloc_free(frame);
}

static void test_cut_or_failed_write_leaves_no_vhd(void **state)
{
	uint64_t nth = 0;
	int ret = -EIO;

	(void)state;
	for (nth = 1; ret != 0; nth++) {
		TALLOC_CTX *frame = talloc_new(NULL);
		struct mem_store *ms = mem_store_new(frame, NULL);
		struct vhd_writer *w = NULL;
		struct vhd *disk = NULL;
		uint8_t bytes[512] = { 1 };
		bool last = false;

		mem_store_fail_from(ms, nth, -EIO);
		ret = vhd_writer_open(frame, mem_store_get(ms), VHD_FIXED,
				      MIB, 0, &w);
		if (ret == 0) {
			ret = vhd_writer_write(w, bytes, 0, 512);
		}
		if (ret == 0) {
			ret = vhd_writer_close(w);
			/* The final flush: all is there, if not stable. */
			last = true;
		}
		mem_store_fail_from(ms, 0, 0);
		assert_true(ret == 0 || ret == -EIO);
		if (ret != 0 && !last) {
			assert_int_equal(open_vhd(frame, mem_store_get(ms),
						  NULL, &disk, NULL),
					 -EBADMSG);
		}
		talloc_free(frame);
	}
	assert_true(nth > 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_footer_is_as_the_specification_lays_it_out),
		cmocka_unit_test(test_geometry_follows_the_appendix),
		cmocka_unit_test(test_fixed_disk_reads_back),
		cmocka_unit_test(test_dynamic_disk_reads_back_and_stays_small),
		cmocka_unit_test(
			test_copy_at_the_start_serves_for_a_lost_footer),
		cmocka_unit_test(
			test_fixed_disk_holding_a_vhd_is_not_taken_for_it),
		cmocka_unit_test(test_old_footer_of_511_bytes_is_found),
		cmocka_unit_test(test_damage_is_told),
		cmocka_unit_test(
			test_bad_table_entries_are_found_and_not_followed),
		cmocka_unit_test(test_differencing_disk_asks_its_parent),
		cmocka_unit_test(
			test_truncated_files_never_open_as_something_else),
		cmocka_unit_test(test_writer_refuses_what_makes_no_sense),
		cmocka_unit_test(test_largest_disk_is_written_and_read),
		cmocka_unit_test(test_cut_or_failed_write_leaves_no_vhd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
