/*
 * Any bytes as a disk's beginning.
 */
#include <stdint.h>
#include <stdlib.h>

#include "rsvd/safe_size.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (rsvd_safe_size(data, size, 512, 1ULL << 40) > 1ULL << 40 ||
	    rsvd_safe_size(data, size, 4096, 1ULL << 40) > 1ULL << 40) {
		abort();
	}
	return 0;
}
