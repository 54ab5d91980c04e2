/*
 * Any bytes as a map of changes.  The input is: one byte of flags, the first
 * bytes of a header (the rest of it is zero), and what then follows of the
 * first slot's bits.  With flag 1 the checksum is put right.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <talloc.h>

#include "cbt/cbt.h"
#include "store/store.h"
#include "support/mem_store.h"
#include "util/crc32c.h"

#define HEADER_BYTES 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct cbt *cbt)
{
	const struct cbt_header *h = cbt_header_get(cbt);
	struct cbt_range ranges[16];
	uint64_t processed = 0;
	size_t count = 0;
	size_t i = 0;
	struct guid new_id = { { 0xAA, 0x55 } };
	struct guid first = h->marks[0].id;

	if (h->count >= 2) {
		if (cbt_changes(cbt, &h->marks[h->count - 1].id, &first, 0,
				1ULL << 34, ranges, 16, &count,
				&processed) == 0) {
			for (i = 1; i < count; i++) {
				if (ranges[i].offset <= ranges[i - 1].offset +
				    ranges[i - 1].length) {
					abort();
				}
			}
		}
	}
	(void)cbt_note(cbt, 12345, 1 << 20);
	if (cbt_mark(cbt, &new_id) == 0 &&
	    cbt_changes(cbt, &new_id, &new_id, 0, 1, ranges, 16, &count,
			&processed) == 0 && count != 0) {
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TALLOC_CTX *mem = talloc_new(NULL);
	struct mem_store *ms = mem_store_new(mem, NULL);
	struct store *store = mem_store_get(ms);
	uint8_t *bytes = talloc_zero_size(mem, CBT_HEADER_SIZE);
	struct cbt *cbt = NULL;
	const char *why = NULL;
	uint32_t crc = 0;
	size_t n = 0;

	if (size > 1) {
		n = size - 1 < HEADER_BYTES ? size - 1 : HEADER_BYTES;
		memcpy(bytes, data + 1, n);
		if ((data[0] & 1) != 0) {
			memset(bytes + 12, 0, 4);
			crc = crc32c(bytes, CBT_HEADER_SIZE);
			bytes[12] = (uint8_t)crc;
			bytes[13] = (uint8_t)(crc >> 8);
			bytes[14] = (uint8_t)(crc >> 16);
			bytes[15] = (uint8_t)(crc >> 24);
		}
		/* Its place goes by the sequence's parity. */
		(void)store_write(store, bytes, CBT_HEADER_SIZE,
				  (bytes[16] & 1) * CBT_HEADER_SIZE);
		if (size - 1 > n) {
			(void)store_write(store, data + 1 + n, size - 1 - n,
					  0x200000);
		}
		if (cbt_open(mem, store, NULL, (data[0] & 2) != 0, &cbt,
			     &why) == 0) {
			use(cbt);
		}
	}
	talloc_free(mem);
	return 0;
}
