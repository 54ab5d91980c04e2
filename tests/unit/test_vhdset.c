/*
 * VHD Sets: the bytes Windows wrote, our own, changing the leaf, snapshots,
 * and a cut at every write.
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
#include "util/crc32c.h"
#include "vhdset/vhdset.h"

#define WINDOWS_LEAF "rsvd_9ac15b72-2a6d-44b2-ba7c-f5f06831c74a.avhdx"
#define WINDOWS_CREATOR "Microsoft Windows 10.0.10011.16384"

static const struct guid id1 = GUID_INIT(0x11111111, 1, 1, 1, 1, 1, 1, 1, 1,
					 1, 1);
static const struct guid id2 = GUID_INIT(0x22222222, 2, 2, 2, 2, 2, 2, 2, 2,
					 2, 2);
static const struct guid id3 = GUID_INIT(0x33333333, 3, 3, 3, 3, 3, 3, 3, 3,
					 3, 3);

static void put32(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
	p[2] = (uint8_t)(value >> 16);
	p[3] = (uint8_t)(value >> 24);
}

static void put_text(uint8_t *p, const char *text)
{
	for (; *text != '\0'; text++, p += 2) {
		p[0] = (uint8_t)*text;
	}
}

/*
 * The sample made by Windows, byte for byte: it is zero but for this.  The
 * checksums are those in the file, not computed here.
 */
static void windows_header(uint8_t *p, uint32_t sequence, uint32_t checksum)
{
	memcpy(p, "shdr", 4);
	put32(p + 4, 0xFFFFE000);
	put32(p + 8, sequence);
	put32(p + 16, 1);
	put32(p + 20, checksum);
	put32(p + 24, 7);
	put32(p + 28, 0x40000);
	put32(p + 32, 0x5E);
}

static uint8_t *windows_set(TALLOC_CTX *mem_ctx)
{
	uint8_t *bytes = talloc_zero_size(mem_ctx, 0x41000);

	assert_non_null(bytes);
	memcpy(bytes, "vhdsetv1", 8);
	put_text(bytes + 8, WINDOWS_CREATOR);
	windows_header(bytes + 0x10000, 0, 0x18139495);
	windows_header(bytes + 0x20000, 1, 0x9AEB08E2);
	put_text(bytes + 0x40000, WINDOWS_LEAF);
	return bytes;
}

static void seal(uint8_t *header)
{
	put32(header + 20, 0);
	put32(header + 20, crc32c(header, VHDSET_HEADER_SIZE));
}

static struct mem_store *stored(TALLOC_CTX *mem_ctx, const uint8_t *bytes)
{
	struct mem_store *ms = mem_store_new(mem_ctx, NULL);

	assert_non_null(ms);
	assert_int_equal(mem_store_load(ms, bytes, 0x41000), 0);
	return ms;
}

static int open_set(TALLOC_CTX *mem_ctx, struct mem_store *ms,
		    struct mem_store *catalogue, struct vhdset **_set,
		    const char **_why)
{
	struct vhdset_open how = {
		.writable = true,
		.catalogue = catalogue != NULL ? mem_store_get(catalogue)
					       : NULL,
	};

	return vhdset_open(mem_ctx, mem_store_get(ms), &how, _set, _why);
}

static void assert_leaf(TALLOC_CTX *mem_ctx, struct mem_store *ms,
			const char *leaf)
{
	struct vhdset_info info = {};
	struct vhdset *set = NULL;

	assert_int_equal(open_set(mem_ctx, ms, NULL, &set, NULL), 0);
	vhdset_info_get(set, &info);
	assert_string_equal(info.leaf, leaf);
	talloc_free(set);
}

static void test_windows_own_set_is_read(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct mem_store *ms = stored(frame, windows_set(frame));
	struct vhdset_info info = {};
	struct vhdset *set = NULL;

	(void)state;
	assert_int_equal(open_set(frame, ms, NULL, &set, NULL), 0);
	vhdset_info_get(set, &info);
	assert_string_equal(info.leaf, WINDOWS_LEAF);
	assert_string_equal(info.creator, WINDOWS_CREATOR);
	assert_int_equal(info.sequence, 1);
	assert_false(info.foreign);
	assert_false(info.header_damaged);
	talloc_free(frame);
}

static void test_new_set_has_the_bytes_windows_writes(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct mem_store *ms = mem_store_new(frame, NULL);
	uint8_t *want = windows_set(frame);
	uint8_t *got = talloc_zero_size(frame, 0x41000);
	uint64_t size = 0;

	(void)state;
	assert_int_equal(vhdset_create(mem_store_get(ms), WINDOWS_LEAF), 0);
	assert_int_equal(store_size(mem_store_get(ms), &size), 0);
	assert_int_equal(size, 0x41000);
	assert_int_equal(store_read(mem_store_get(ms), got, 0x41000, 0), 0);
	/* Only who made it differs. */
	memset(want + 8, 0, 512);
	put_text(want + 8, "hvrs");
	assert_memory_equal(got, want, 0x41000);
	assert_int_equal(vhdset_create(mem_store_get(ms), "x.avhdx"),
			 -EEXIST);
	talloc_free(frame);
}

static void test_leaf_changes_and_the_older_copy_stays_good(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct mem_store *ms = stored(frame, windows_set(frame));
	struct vhdset *set = NULL;
	uint8_t zero[4096] = {};
	char name[32] = "";
	unsigned i = 0;

	(void)state;
	for (i = 0; i < 9; i++) {
		snprintf(name, sizeof(name), "leaf-%u.avhdx", i);
		assert_int_equal(open_set(frame, ms, NULL, &set, NULL), 0);
		assert_int_equal(vhdset_leaf_set(set, name), 0);
		talloc_free(set);
		assert_leaf(frame, ms, name);
	}
	/* Change 8 went to the first copy; without it change 7 is found. */
	assert_int_equal(store_write(mem_store_get(ms), zero, sizeof(zero),
				     0x10000), 0);
	assert_leaf(frame, ms, "leaf-7.avhdx");
	talloc_free(frame);
}

static void test_damaged_copy_is_told_and_repaired(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	uint8_t *bytes = windows_set(frame);
	struct mem_store *ms = NULL;
	struct vhdset_info info = {};
	struct vhdset *set = NULL;

	(void)state;
	bytes[0x20000 + 3000] ^= 1;
	ms = stored(frame, bytes);
	assert_int_equal(open_set(frame, ms, NULL, &set, NULL), 0);
	vhdset_info_get(set, &info);
	assert_true(info.header_damaged);
	assert_int_equal(info.sequence, 0);
	assert_int_equal(vhdset_repair(set), 0);
	talloc_free(set);
	assert_int_equal(open_set(frame, ms, NULL, &set, NULL), 0);
	vhdset_info_get(set, &info);
	assert_false(info.header_damaged);
	assert_string_equal(info.leaf, WINDOWS_LEAF);
	talloc_free(frame);
}

static void test_unknown_content_is_read_but_never_changed(void **state)
{
	static const struct {
		unsigned at;
		uint32_t value;
	} rows[] = {
		{ 16, 2 }, { 4, 0xFFFFD000 }, { 36, 9 }, { 4092, 1 },
	};
	TALLOC_CTX *frame = talloc_new(NULL);
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t *bytes = windows_set(frame);
		struct mem_store *cat = mem_store_new(frame, NULL);
		struct vhdset_snapshot s = { .id = id1, .type = VHDSET_VM };
		struct vhdset_info info = {};
		struct mem_store *ms = NULL;
		struct vhdset *set = NULL;
		uint8_t *after = talloc_zero_size(frame, 0x41000);

		put32(bytes + 0x20000 + rows[i].at, rows[i].value);
		seal(bytes + 0x20000);
		ms = stored(frame, bytes);
		assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
		vhdset_info_get(set, &info);
		assert_true(info.foreign);
		assert_string_equal(info.leaf, WINDOWS_LEAF);
		assert_int_equal(vhdset_leaf_set(set, "x.avhdx"), -ENOTSUP);
		assert_int_equal(vhdset_snapshot_add(set, &s, "x.avhdx"),
				 -ENOTSUP);
		assert_int_equal(store_read(mem_store_get(ms), after, 0x41000,
					    0), 0);
		assert_memory_equal(after, bytes, 0x41000);
	}
	talloc_free(frame);
}

static void test_newer_copy_not_understood_refuses_the_open(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	uint8_t *bytes = windows_set(frame);
	struct vhdset *set = NULL;
	const char *why = NULL;

	(void)state;
	put32(bytes + 0x20000 + 24, 5);
	seal(bytes + 0x20000);
	assert_int_equal(open_set(frame, stored(frame, bytes), NULL, &set,
				  &why), -ENOTSUP);
	assert_non_null(why);
	assert_null(set);
	talloc_free(frame);
}

static void test_hostile_names_are_refused(void **state)
{
	static const char * const names[] = {
		"../up.avhdx", "..\\up.avhdx", "c:x", "..", ".", "a/b",
	};
	TALLOC_CTX *frame = talloc_new(NULL);
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		uint8_t *bytes = windows_set(frame);
		struct vhdset *set = NULL;
		unsigned copy = 0;

		memset(bytes + 0x40000, 0, 0x1000);
		put_text(bytes + 0x40000, names[i]);
		for (copy = 0x10000; copy <= 0x20000; copy += 0x10000) {
			put32(bytes + copy + 32,
			      (uint32_t)(2 * strlen(names[i])));
			seal(bytes + copy);
		}
		assert_int_equal(open_set(frame, stored(frame, bytes), NULL,
					  &set, NULL), -ENOTSUP);
		assert_int_equal(vhdset_name_check(names[i]), -EINVAL);
	}
	assert_int_equal(vhdset_name_check("ein \xc3\xa4 name.avhdx"), 0);
	assert_int_equal(vhdset_name_check("bad \xff.avhdx"), -EINVAL);
	talloc_free(frame);
}

static void test_name_outside_the_file_is_refused(void **state)
{
	static const uint32_t rows[][2] = {
		{ 0x41000, 2 }, { 0x40FFE, 4 }, { 0xFFFFFFFE, 2 },
		{ 0x40000, 0 }, { 0x40000, 3 }, { 0x40000, 0xFFFFFFFE },
		{ 0x20000, 8 },
	};
	TALLOC_CTX *frame = talloc_new(NULL);
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t *bytes = windows_set(frame);
		struct vhdset *set = NULL;
		unsigned copy = 0;

		for (copy = 0x10000; copy <= 0x20000; copy += 0x10000) {
			put32(bytes + copy + 28, rows[i][0]);
			put32(bytes + copy + 32, rows[i][1]);
			seal(bytes + copy);
		}
		assert_int_equal(open_set(frame, stored(frame, bytes), NULL,
					  &set, NULL), -EBADMSG);
	}
	talloc_free(frame);
}

static void test_leaf_name_is_as_windows_makes_it(void **state)
{
	char name[VHDSET_NAME_MAX] = "";
	char again[VHDSET_NAME_MAX] = "";
	char longest[300] = "";
	struct guid g = {};

	(void)state;
	assert_int_equal(vhdset_leaf_name("/vm/rsvd.vhds", name), 0);
	assert_int_equal(strlen(name), strlen(WINDOWS_LEAF));
	assert_memory_equal(name, "rsvd_", 5);
	assert_int_equal(guid_parse(name + 5, 36, &g), 0);
	assert_string_equal(name + 41, ".avhdx");
	assert_int_equal(vhdset_leaf_name("rsvd.vhds", again), 0);
	assert_string_not_equal(name, again);
	memset(longest, 'x', 250);
	assert_int_equal(vhdset_leaf_name(longest, name), -ENAMETOOLONG);
}

/* A set with leaf L0 and an empty catalogue. */
static void fresh(TALLOC_CTX *mem_ctx, struct mem_store **_ms,
		  struct mem_store **_cat)
{
	*_ms = mem_store_new(mem_ctx, NULL);
	*_cat = mem_store_new(mem_ctx, NULL);
	assert_int_equal(vhdset_create(mem_store_get(*_ms), "L0"), 0);
}

static void add(struct vhdset *set, const struct guid *id, const char *leaf)
{
	struct vhdset_snapshot s = {
		.id = *id, .type = VHDSET_VM, .flags = VHDSET_TRACKED,
		.created_ms = 1234567890123,
	};

	assert_int_equal(vhdset_snapshot_add(set, &s, leaf), 0);
}

static void test_snapshots_survive_being_opened_again(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	const struct vhdset_snapshot *list = NULL;
	struct mem_store *ms = NULL;
	struct mem_store *cat = NULL;
	struct vhdset *set = NULL;
	size_t count = 0;

	(void)state;
	fresh(frame, &ms, &cat);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	add(set, &id1, "L1");
	add(set, &id2, "L2");
	talloc_free(set);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	assert_int_equal(vhdset_snapshot_list(set, &list, &count), 0);
	assert_int_equal(count, 2);
	assert_string_equal(list[0].file, "L0");
	assert_string_equal(list[1].file, "L1");
	assert_true(guid_is_null(&list[0].parent));
	assert_true(guid_equal(&list[1].parent, &id1));
	assert_int_equal(list[1].created_ms, 1234567890123);
	assert_int_equal(list[1].flags, VHDSET_TRACKED);
	assert_true(vhdset_file_needed(set, "L0"));
	assert_true(vhdset_file_needed(set, "L2"));
	assert_false(vhdset_file_needed(set, "L3"));
	assert_leaf(frame, ms, "L2");
	talloc_free(frame);
}

static void test_apply_makes_a_branch(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	const struct vhdset_snapshot *s = NULL;
	struct mem_store *ms = NULL;
	struct mem_store *cat = NULL;
	struct vhdset *set = NULL;

	(void)state;
	fresh(frame, &ms, &cat);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	add(set, &id1, "L1");
	add(set, &id2, "L2");
	assert_int_equal(vhdset_snapshot_apply(set, &id1, "L3"), 0);
	assert_false(vhdset_file_needed(set, "L2"));
	add(set, &id3, "L4");
	assert_int_equal(vhdset_snapshot_find(set, &id3, &s), 0);
	assert_true(guid_equal(&s->parent, &id1));
	assert_string_equal(s->file, "L3");
	assert_int_equal(vhdset_snapshot_apply(set, &id3, "L0"), -EINVAL);
	talloc_free(frame);
}

static void test_removed_snapshot_hands_its_children_on(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	const struct vhdset_snapshot *s = NULL;
	struct mem_store *ms = NULL;
	struct mem_store *cat = NULL;
	struct vhdset *set = NULL;

	(void)state;
	fresh(frame, &ms, &cat);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	add(set, &id1, "L1");
	add(set, &id2, "L2");
	add(set, &id3, "L3");
	assert_int_equal(vhdset_snapshot_remove(set, &id2, false), 0);
	assert_int_equal(vhdset_snapshot_find(set, &id3, &s), 0);
	assert_true(guid_equal(&s->parent, &id1));
	assert_int_equal(vhdset_snapshot_find(set, &id2, &s), -ENOENT);
	assert_int_equal(vhdset_snapshot_remove(set, &id2, false), -ENOENT);
	/* The newest gone: the leaf comes after id1 now. */
	assert_int_equal(vhdset_snapshot_remove(set, &id3, false), 0);
	add(set, &id2, "L4");
	assert_int_equal(vhdset_snapshot_find(set, &id2, &s), 0);
	assert_true(guid_equal(&s->parent, &id1));
	talloc_free(frame);
}

static void test_reference_point_keeps_its_id_only(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	const struct vhdset_snapshot *s = NULL;
	struct mem_store *ms = NULL;
	struct mem_store *cat = NULL;
	struct vhdset *set = NULL;

	(void)state;
	fresh(frame, &ms, &cat);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	add(set, &id1, "L1");
	assert_int_equal(vhdset_snapshot_remove(set, &id1, true), 0);
	talloc_free(set);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	assert_int_equal(vhdset_snapshot_find(set, &id1, &s), 0);
	assert_int_equal(s->flags, VHDSET_TRACKED | VHDSET_REFERENCE);
	assert_string_equal(s->file, "");
	assert_int_equal(vhdset_snapshot_apply(set, &id1, "L9"), -ENOENT);
	assert_int_equal(vhdset_snapshot_remove(set, &id1, false), 0);
	assert_int_equal(vhdset_snapshot_find(set, &id1, &s), -ENOENT);
	talloc_free(frame);
}

static void test_wrong_snapshots_are_refused(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct vhdset_snapshot s = { .id = id1, .type = VHDSET_VM };
	struct mem_store *ms = NULL;
	struct mem_store *cat = NULL;
	struct vhdset *set = NULL;

	(void)state;
	fresh(frame, &ms, &cat);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	s.type = 2;
	assert_int_equal(vhdset_snapshot_add(set, &s, "L1"), -EINVAL);
	s.type = VHDSET_CDP;
	assert_int_equal(vhdset_snapshot_add(set, &s, "L0"), -EINVAL);
	assert_int_equal(vhdset_snapshot_add(set, &s, "a/b"), -EINVAL);
	assert_int_equal(vhdset_snapshot_add(set, &s, "L1"), 0);
	assert_int_equal(vhdset_snapshot_add(set, &s, "L2"), -EEXIST);
	assert_int_equal(vhdset_snapshot_remove(set, &id1, true), -EINVAL);
	assert_int_equal(vhdset_leaf_set(set, "L7"), -EBUSY);
	talloc_free(frame);
}

static void test_leaf_changed_by_others_makes_snapshots_stale(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	const struct vhdset_snapshot *list = NULL;
	struct mem_store *ms = NULL;
	struct mem_store *cat = NULL;
	struct vhdset *set = NULL;
	struct vhdset *other = NULL;
	size_t count = 0;

	(void)state;
	fresh(frame, &ms, &cat);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	add(set, &id1, "L1");
	talloc_free(set);
	assert_int_equal(open_set(frame, ms, NULL, &other, NULL), 0);
	assert_int_equal(vhdset_leaf_set(other, "by-windows.avhdx"), 0);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	assert_int_equal(vhdset_snapshot_list(set, &list, &count), -ESTALE);
	assert_true(vhdset_file_needed(set, "L0"));
	talloc_free(frame);
}

/*
 * Two stores of one device: the catalogue's events come before the set's, each
 * with flushes between, so every cut of one with the other before or after
 * covers every order a power cut can leave.
 */
static void assert_old_or_new(TALLOC_CTX *mem_ctx, struct mem_store *ms,
			      struct mem_store *cat)
{
	const struct vhdset_snapshot *list = NULL;
	struct vhdset_info info = {};
	struct vhdset *set = NULL;
	size_t count = 0;

	assert_int_equal(open_set(mem_ctx, ms, cat, &set, NULL), 0);
	vhdset_info_get(set, &info);
	assert_int_equal(vhdset_snapshot_list(set, &list, &count), 0);
	if (strcmp(info.leaf, "L1") == 0) {
		assert_int_equal(count, 1);
	} else {
		assert_string_equal(info.leaf, "L2");
		assert_int_equal(count, 2);
		assert_string_equal(list[1].file, "L1");
	}
	assert_string_equal(list[0].file, "L0");
	/* And it can be gone on with. */
	add(set, &id3, "L5");
	talloc_free(set);
	assert_leaf(mem_ctx, ms, "L5");
}

static void test_cut_at_every_write_leaves_old_or_new(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	struct mem_store *ms = NULL;
	struct mem_store *cat = NULL;
	struct mem_store *cat_new = NULL;
	struct vhdset *set = NULL;
	uint64_t seed = 0;
	size_t cut = 0;

	(void)state;
	fresh(frame, &ms, &cat);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	add(set, &id1, "L1");
	mem_store_record(ms);
	mem_store_record(cat);
	add(set, &id2, "L2");
	talloc_free(set);
	cat_new = mem_store_copy(frame, cat);
	for (seed = 0; seed < 40; seed++) {
		for (cut = 0; cut <= mem_store_events(cat); cut++) {
			assert_old_or_new(frame,
				mem_store_cut(frame, ms, 0, 0),
				mem_store_cut(frame, cat, cut, seed));
		}
		for (cut = 0; cut <= mem_store_events(ms); cut++) {
			assert_old_or_new(frame,
				mem_store_cut(frame, ms, cut, seed),
				mem_store_copy(frame, cat_new));
		}
	}
	talloc_free(frame);
}

static void test_failed_call_leaves_old_or_new(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	uint64_t nth = 0;
	bool failed = true;

	(void)state;
	for (nth = 1; failed; nth++) {
		struct vhdset_snapshot s = { .id = id2, .type = VHDSET_VM };
		struct mem_store *ms = NULL;
		struct mem_store *cat = NULL;
		struct vhdset *set = NULL;
		int first = 0;
		int ret = 0;

		fresh(frame, &ms, &cat);
		assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
		add(set, &id1, "L1");
		mem_store_fail(ms, nth, -EIO);
		ret = vhdset_snapshot_add(set, &s, "L2");
		first = ret;
		assert_true(ret == 0 || ret == -EIO);
		mem_store_fail(ms, 0, 0);
		if (ret != 0) {
			/* What is on the disk is not known any more. */
			ret = vhdset_snapshot_add(set, &s, "L2");
			assert_int_equal(ret, -ESTALE);
		}
		talloc_free(set);
		assert_old_or_new(frame, ms, cat);
		failed = first != 0;
	}
	assert_true(nth > 4);
	talloc_free(frame);
}

static void test_damaged_catalogue_is_told(void **state)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	const struct vhdset_snapshot *list = NULL;
	struct mem_store *ms = NULL;
	struct mem_store *cat = NULL;
	struct vhdset_info info = {};
	struct vhdset *set = NULL;
	uint8_t wrong = 0x55;
	size_t count = 0;

	(void)state;
	fresh(frame, &ms, &cat);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	add(set, &id1, "L1");
	add(set, &id2, "L2");
	talloc_free(set);
	assert_int_equal(store_write(mem_store_get(cat), &wrong, 1, 4100), 0);
	assert_int_equal(store_write(mem_store_get(cat), &wrong, 1,
				     0x100000 + 4100), 0);
	assert_int_equal(open_set(frame, ms, cat, &set, NULL), 0);
	vhdset_info_get(set, &info);
	assert_int_equal(info.catalogue_error, -EBADMSG);
	assert_int_equal(vhdset_snapshot_list(set, &list, &count), -EBADMSG);
	assert_string_equal(info.leaf, "L2");
	talloc_free(frame);
}

static void test_names_of_its_own(void **state)
{
	static const struct {
		const char *name;
		bool own;
	} rows[] = {
		{ "a_11111111-2222-3333-4444-555555555555.avhdx", true },
		{ "A_11111111-2222-3333-4444-55555555555F.AVHDX", true },
		{ "a_11111111-2222-3333-4444-555555555555.vhdx", false },
		{ "a_11111111-2222-3333-4444-555555555555.avhdx.part", false },
		{ "ab_11111111-2222-3333-4444-555555555555.avhdx", false },
		{ "a11111111-2222-3333-4444-555555555555.avhdx", false },
		{ "a_11111111-2222-3333-4444-55555555555.avhdx", false },
		{ "a_1111111g-2222-3333-4444-555555555555.avhdx", false },
		{ "a_.avhdx", false }, { "a_", false }, { "a", false },
		{ "", false },
	};
	char name[VHDSET_NAME_MAX] = "";
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(rows[i].own, vhdset_is_own_name(
			"folder/a.vhds", rows[i].name));
	}
	assert_int_equal(0, vhdset_leaf_name("folder/x.y.vhds", name));
	assert_true(vhdset_is_own_name("x.y.vhds", name));
	assert_false(vhdset_is_own_name("x.vhds", name));
}

static void test_notes_hold_names_of_the_set_alone(void **state)
{
	char text[] = "a_11111111-2222-3333-4444-555555555555.avhdx\n"
		"a_21111111-2222-3333-4444-555555555555.avhdx.part\n"
		"a_11111111-2222-3333-4444-555555555555.avhdx\n"
		"b_11111111-2222-3333-4444-555555555555.avhdx\n"
		"../a_11111111-2222-3333-4444-555555555555.avhdx\n"
		"a_31111111-2222-3333-4444-555555555555.avhdx.part.part\n"
		".part\n\n"
		"a_41111111-2222-3333-4444-555555555555.avhdx";
	char **notes = NULL;
	size_t i = 0;

	(void)state;
	assert_int_equal(0, vhdset_notes_parse(NULL, "folder/a.vhds", text,
					       &notes));
	assert_string_equal("a_11111111-2222-3333-4444-555555555555.avhdx",
			    notes[0]);
	assert_string_equal(
		"a_21111111-2222-3333-4444-555555555555.avhdx.part",
		notes[1]);
	assert_string_equal("a_41111111-2222-3333-4444-555555555555.avhdx",
			    notes[2]);
	assert_null(notes[3]);
	talloc_free(notes);
	assert_int_equal(0, vhdset_notes_parse(NULL, "a.vhds", &text[
		sizeof(text) - 1], &notes));
	assert_null(notes[0]);
	talloc_free(notes);
	for (i = 0; i < 2; i++) {
		/* Ends between two names, and never runs on. */
		char *many = talloc_strdup(NULL, "");
		size_t n = 0;
		size_t count = VHDSET_NOTES_MAX + i;

		for (n = 0; n < count; n++) {
			many = talloc_asprintf_append(many, "a_%08zx-2222-"
				"3333-4444-555555555555.avhdx\n", n);
		}
		assert_int_equal(0, vhdset_notes_parse(many, "a.vhds", many,
						       &notes));
		assert_non_null(notes[VHDSET_NOTES_MAX - 1]);
		assert_null(notes[VHDSET_NOTES_MAX]);
		talloc_free(many);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_of_its_own),
		cmocka_unit_test(test_notes_hold_names_of_the_set_alone),
		cmocka_unit_test(test_windows_own_set_is_read),
		cmocka_unit_test(test_new_set_has_the_bytes_windows_writes),
		cmocka_unit_test(
			test_leaf_changes_and_the_older_copy_stays_good),
		cmocka_unit_test(test_damaged_copy_is_told_and_repaired),
		cmocka_unit_test(
			test_unknown_content_is_read_but_never_changed),
		cmocka_unit_test(
			test_newer_copy_not_understood_refuses_the_open),
		cmocka_unit_test(test_hostile_names_are_refused),
		cmocka_unit_test(test_name_outside_the_file_is_refused),
		cmocka_unit_test(test_leaf_name_is_as_windows_makes_it),
		cmocka_unit_test(test_snapshots_survive_being_opened_again),
		cmocka_unit_test(test_apply_makes_a_branch),
		cmocka_unit_test(test_removed_snapshot_hands_its_children_on),
		cmocka_unit_test(test_reference_point_keeps_its_id_only),
		cmocka_unit_test(test_wrong_snapshots_are_refused),
		cmocka_unit_test(
			test_leaf_changed_by_others_makes_snapshots_stale),
		cmocka_unit_test(test_cut_at_every_write_leaves_old_or_new),
		cmocka_unit_test(test_failed_call_leaves_old_or_new),
		cmocka_unit_test(test_damaged_catalogue_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
