/*
 * A VHDX file with any bytes in any place: opened, mapped, read, checked, its
 * log walked and replayed, written to, resized and compacted.
 *
 * The input is one byte of flags, one that chooses the sound file to begin
 * with, and patches: place (4 bytes), length (2 bytes), bytes.  Checksums are
 * put right afterwards where the flags say so, or no patch would get past them.
 *
 * What a hostile file may cost is bounded: memory, calls of the store, and how
 * far the file may grow.  Nothing may point outside it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <talloc.h>
#include <tevent.h>

#include "store/store.h"
#include "support/mem_store.h"
#include "util/crc32c.h"
#include "util/cursor.h"
#include "vhdx/vhdx.h"
#include "vhdx/vhdx_format.h"

#define MIB VHDX_MIB
#define STEPS 48
/* 16 MiB of cache at most, a 1 MiB item with its strings, and the walkers. */
#define MEMORY_MAX (64U << 20)
#define CALLS_MAX 200000U

enum flag {
	SEAL_HEADERS = 1,
	SEAL_REGIONS = 2,
	SEAL_LOG = 4,
	WRITABLE = 8,
	NAME_LOG = 16,	/* the headers name the log GUID below */
	CHANGE = 32,	/* resize and compact as well */
};

static const struct guid log_guid = GUID_INIT(0x11111111, 0x2222, 0x3333, 4, 4,
					      4, 4, 4, 4, 4, 4);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put32(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
	p[2] = (uint8_t)(value >> 16);
	p[3] = (uint8_t)(value >> 24);
}

static uint32_t get32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
	       (uint32_t)p[3] << 24;
}

static void base_create(TALLOC_CTX *frame, struct mem_store *ms, uint8_t kind)
{
	struct vhdx_locator_pair path = { "relative_path", "p.vhdx" };
	struct mem_store *parent = mem_store_new(frame, NULL);
	struct vhdx_open how = {};
	struct vhdx_create w = {
		.type = kind & 1 ? VHDX_FIXED : VHDX_DYNAMIC,
		.size = kind & 2 ? 5000 * MIB : 5 * MIB,
		.block_size = kind & 2 ? 256 * MIB : MIB,
		.logical_sector = kind & 4 ? 4096 : 512,
	};
	struct vhdx *disk = NULL;

	if ((kind & 8) == 0) {
		(void)vhdx_create(mem_store_get(ms), &w);
		return;
	}
	w.type = VHDX_DYNAMIC;
	(void)vhdx_create(mem_store_get(parent), &w);
	if (vhdx_open(frame, mem_store_get(parent), &how, &disk, NULL) != 0) {
		abort();
	}
	w.type = VHDX_DIFFERENCING;
	w.size = 0;
	w.parent = disk;
	w.paths = &path;
	w.path_count = 1;
	(void)vhdx_create(mem_store_get(ms), &w);
	talloc_free(disk);
}

static void seal(struct store *s, uint64_t offset, size_t length)
{
	uint8_t *bytes = malloc(length);

	(void)store_read(s, bytes, length, offset);
	put32(bytes + 4, 0);
	put32(bytes + 4, crc32c(bytes, length));
	(void)store_write(s, bytes + 4, 4, offset + 4);
	free(bytes);
}

static void seal_all(struct store *s, uint8_t flags)
{
	struct cursor_put c = {};
	uint8_t guid[16] = {};
	uint8_t head[16] = {};
	unsigned i = 0;

	cursor_put_init(&c, guid, sizeof(guid));
	cursor_put_guid(&c, &log_guid);
	for (i = 0; i < 2; i++) {
		if (flags & NAME_LOG) {
			(void)store_write(s, guid, sizeof(guid),
					  VHDX_HEADER_OFFSET(i) + 48);
		}
		if (flags & (SEAL_HEADERS | NAME_LOG)) {
			seal(s, VHDX_HEADER_OFFSET(i), VHDX_HEADER_SIZE);
		}
		if (flags & SEAL_REGIONS) {
			seal(s, VHDX_REGION_OFFSET(i), VHDX_REGION_SIZE);
		}
	}
	for (i = 0; (flags & SEAL_LOG) && i < 32; i++) {
		uint64_t at = MIB + i * VHDX_PAGE;
		uint32_t length = 0;

		(void)store_read(s, head, sizeof(head), at);
		length = get32(head + 8);
		if (memcmp(head, "loge", 4) == 0 && length >= VHDX_PAGE &&
		    length <= 64 * VHDX_PAGE) {
			(void)store_write(s, guid, sizeof(guid), at + 32);
			seal(s, at, length);
		}
	}
}

static bool on_entry(void *private_data, const struct vhdx_log_entry *entry)
{
	unsigned *left = private_data;

	(void)entry;
	return --*left > 0;
}

static void look(struct vhdx *disk, struct tevent_context *ev)
{
	static uint8_t bytes[65536];
	struct vhdx_info info = {};
	uint64_t at = 0;
	unsigned i = 0;

	vhdx_info_get(disk, &info);
	for (i = 0; i < STEPS && at < info.size; i++) {
		struct vhdx_extent e = {};
		uint64_t n = 0;
		int ret = vhdx_map(disk, at, info.size - at, &e);

		if (ret != 0) {
			at += info.block_size;
			continue;
		}
		if (e.length == 0 || e.length > info.size - at) {
			abort();
		}
		if (e.kind == VHDX_EXTENT_DATA && e.depth == 0 &&
		    (e.file_offset + e.length > info.file_size ||
		     e.file_offset < MIB)) {
			abort();
		}
		n = e.length < sizeof(bytes) ? e.length : sizeof(bytes);
		(void)vhdx_read(disk, ev, bytes, at, n);
		at += e.length;
	}
	if (info.size > sizeof(bytes)) {
		at = info.size - 4096;
		(void)vhdx_read(disk, ev, bytes, at - at % 4096, 4096);
	}
}

static void change(struct vhdx *disk, struct tevent_context *ev, uint8_t flags)
{
	static const uint8_t bytes[8192] = { 1, 2, 3 };
	struct vhdx_info info = {};
	int ret = 0;

	vhdx_info_get(disk, &info);
	if (info.size < MIB) {
		return;
	}
	(void)vhdx_write(disk, ev, bytes, 4096, sizeof(bytes), true);
	(void)vhdx_write(disk, ev, bytes, (info.size - 8192) / 4096 * 4096,
			 4096, false);
	(void)vhdx_unmap(disk, ev, 0, info.block_size);
	(void)vhdx_write(disk, ev, bytes, 8192, 4096, false);
	(void)vhdx_flush(disk, ev);
	if (flags & CHANGE) {
		ret = vhdx_resize(disk, info.size + 16 * MIB, false);
		if (ret == 0) {
			(void)vhdx_resize(disk, info.size, true);
		}
		(void)vhdx_compact(disk, NULL, NULL);
	}
}

static void open_one(TALLOC_CTX *frame, struct mem_store *ms,
		     struct tevent_context *ev, uint8_t flags)
{
	struct vhdx_open how = { .writable = flags & WRITABLE,
				 .without_parent = true,
				 .cache_bytes = MIB };
	struct vhdx_check_result result = {};
	const char *why = NULL;
	struct vhdx *disk = NULL;
	uint64_t size = 0;
	int ret = vhdx_open(frame, mem_store_get(ms), &how, &disk, &why);

	if (ret != 0) {
		return;
	}
	(void)store_size(mem_store_get(ms), &size);
	/* A bit for each MiB is much in a file said to be exabytes long. */
	if (size < 1ULL << 44) {
		(void)vhdx_check(disk, flags & WRITABLE, NULL, NULL, &result);
	}
	look(disk, ev);
	if (flags & WRITABLE) {
		change(disk, ev, flags);
	}
	if (talloc_total_size(disk) > MEMORY_MAX) {
		abort();
	}
	(void)vhdx_settle(disk, ev);
	(void)vhdx_close(disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tevent_context *ev = NULL;
	TALLOC_CTX *frame = NULL;
	struct mem_store *ms = NULL;
	unsigned left = 1000;
	uint8_t flags = 0;

	if (size < 2) {
		return 0;
	}
	frame = talloc_new(NULL);
	ev = tevent_context_init(frame);
	ms = mem_store_new(frame, ev);
	flags = data[0];
	base_create(frame, ms, data[1]);
	data += 2;
	size -= 2;
	while (size >= 6) {
		uint64_t at = get32(data) % (8 * MIB);
		size_t n = (size_t)(data[4] | data[5] << 8);

		data += 6;
		size -= 6;
		n = n < size ? n : size;
		(void)store_write(mem_store_get(ms), data, n, at);
		data += n;
		size -= n;
	}
	seal_all(mem_store_get(ms), flags);
	(void)vhdx_log_walk(mem_store_get(ms), on_entry, &left);
	open_one(frame, ms, ev, flags);
	if (mem_store_calls(ms) > CALLS_MAX) {
		abort();
	}
	talloc_free(frame);
	return 0;
}
