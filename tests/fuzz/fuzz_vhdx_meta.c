/*
 * A metadata table: the input is its first bytes, the rest is zero.  Items of
 * a table that is accepted lie inside the region.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vhdx/vhdx.h"
#include "vhdx/vhdx_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[VHDX_META_TABLE_SIZE];
	struct vhdx_item item = {};
	const char *why = NULL;
	uint32_t i = 0;

	memset(bytes, 0, sizeof(bytes));
	memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
	if (vhdx_meta_validate(bytes, VHDX_MIB, &why) != 0) {
		if (why == NULL) {
			abort();
		}
		return 0;
	}
	for (i = 0; i < vhdx_meta_count(bytes); i++) {
		struct vhdx_item found = {};

		vhdx_meta_entry(bytes, i, &item);
		if (item.length != 0 &&
		    (item.offset < VHDX_META_TABLE_SIZE ||
		     (uint64_t)item.offset + item.length > VHDX_MIB)) {
			abort();
		}
		if (!item.user && !vhdx_meta_find(bytes, &item.id, &found)) {
			abort();
		}
	}
	return 0;
}
