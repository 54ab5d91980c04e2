/*
 * Any bytes as a VHD file: opened, looked at, checked and read.  The first
 * byte of the input says how the rest is spread: files of this format are
 * mostly zeroes, so the input is its start and its end, with a gap between.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <talloc.h>

#include "store/store.h"
#include "support/mem_store.h"
#include "vhd/vhd.h"

#define STEPS 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(TALLOC_CTX *mem_ctx, struct vhd *disk)
{
	struct vhd_check_result result = {};
	struct vhd_info info = {};
	static uint8_t bytes[70000];
	uint64_t at = 0;
	unsigned i = 0;
	char *name = NULL;

	vhd_info_get(disk, &info);
	for (i = 0; i < VHD_LOCATORS + 2; i++) {
		(void)vhd_parent_name(mem_ctx, disk, i, &name);
	}
	for (i = 0; i < STEPS && at < info.size; i++) {
		struct vhd_extent e = {};
		int ret = 0;

		ret = vhd_map(disk, at, info.size - at, &e);
		if (ret != 0) {
			at += 2 << 20;
			continue;
		}
		if (e.length == 0 || e.length > info.size - at) {
			abort();
		}
		if (e.kind == VHD_EXTENT_DATA &&
		    e.file_offset + e.length > info.file_size) {
			abort();
		}
		(void)vhd_read(disk, bytes, at, e.length < sizeof(bytes)
				? e.length : sizeof(bytes));
		at += e.length;
	}
	if (info.block_count < 100000) {
		(void)vhd_check(disk, NULL, NULL, &result);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TALLOC_CTX *frame = NULL;
	struct mem_store *ms = NULL;
	struct vhd *disk = NULL;
	const char *why = NULL;
	uint64_t gap = 0;
	size_t tail = 0;
	int ret = 0;

	if (size < 1) {
		return 0;
	}
	gap = (uint64_t)(data[0] & 0x7F) << 16;
	data++;
	size--;
	tail = size < VHD_FOOTER_SIZE ? size : VHD_FOOTER_SIZE;
	frame = talloc_new(NULL);
	ms = mem_store_new(frame, NULL);
	(void)store_write(mem_store_get(ms), data, size - tail, 0);
	(void)store_write(mem_store_get(ms), data + size - tail, tail,
			  size - tail + gap);
	ret = vhd_open(frame, mem_store_get(ms), NULL, &disk, &why);
	if (ret == 0) {
		walk(frame, disk);
	}
	talloc_free(frame);
	return 0;
}
