/*
 * A region table: the input is its first bytes, the rest is zero, and its
 * checksum is put right.  What is accepted lies above the headers, on whole
 * MiB, and apart.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "util/crc32c.h"
#include "vhdx/vhdx.h"
#include "vhdx/vhdx_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(uint64_t offset, uint64_t length, uint64_t offset2,
		  uint64_t length2)
{
	if (offset < VHDX_MIB || offset % VHDX_MIB != 0 ||
	    length % VHDX_MIB != 0 || length == 0 ||
	    (offset < offset2 + length2 && offset2 < offset + length)) {
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[VHDX_REGION_SIZE];
	struct vhdx_header header = {
		.version = 1, .log_offset = VHDX_MIB, .log_length = VHDX_MIB,
	};
	struct vhdx_layout l = {};
	struct vhdx_region r = {};
	const char *why = NULL;
	uint32_t crc = 0;
	uint32_t i = 0;

	memset(bytes, 0, sizeof(bytes));
	memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
	memset(bytes + 4, 0, 4);
	crc = crc32c(bytes, sizeof(bytes));
	for (i = 0; i < 4; i++) {
		bytes[4 + i] = (uint8_t)(crc >> 8 * i);
	}
	if (vhdx_region_load(bytes, &header, &l, &why) != 0) {
		return 0;
	}
	judge(l.bat_offset, l.bat_length, l.metadata_offset,
	      l.metadata_length);
	judge(l.metadata_offset, l.metadata_length, header.log_offset,
	      header.log_length);
	judge(l.bat_offset, l.bat_length, header.log_offset,
	      header.log_length);
	for (i = 0; i < vhdx_region_count(bytes); i++) {
		vhdx_region_entry(bytes, i, &r);
	}
	vhdx_region_move_bat(bytes, 64 * VHDX_MIB, 2 * VHDX_MIB);
	return 0;
}
