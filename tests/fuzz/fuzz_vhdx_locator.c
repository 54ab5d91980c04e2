/*
 * A parent locator.  The input is an item; what decodes is encoded, decoded
 * again, and must be the same.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <talloc.h>

#include "vhdx/vhdx.h"
#include "vhdx/vhdx_format.h"

/* 256 pairs that all name the same 64 KiB of text, as UTF-8. */
#define MEMORY_MAX (64U << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[4 << 20];
	TALLOC_CTX *frame = talloc_new(NULL);
	struct vhdx_locator_pair *pairs = NULL;
	struct vhdx_locator_pair *again = NULL;
	const char *why = NULL;
	size_t length = 0;
	size_t count = 0;
	size_t count2 = 0;
	size_t i = 0;
	int ret = vhdx_locator_decode(frame, data, size, &pairs, &count, &why);

	if (ret != 0 && why == NULL) {
		abort();
	}
	if (talloc_total_size(frame) > MEMORY_MAX) {
		abort();
	}
	if (ret == 0) {
		ret = vhdx_locator_encode(pairs, count, bytes, sizeof(bytes),
					  &length);
	}
	if (ret == 0) {
		ret = vhdx_locator_decode(frame, bytes, length, &again,
					  &count2, &why);
		if (ret != 0 || count2 != count) {
			abort();
		}
		for (i = 0; i < count; i++) {
			if (strcmp(pairs[i].key, again[i].key) != 0 ||
			    strcmp(pairs[i].value, again[i].value) != 0) {
				abort();
			}
		}
	}
	talloc_free(frame);
	return 0;
}
