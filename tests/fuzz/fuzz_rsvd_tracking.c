/*
 * Any bytes as the requests of change tracking.
 */
#include <stdint.h>
#include <stdlib.h>

#include "rsvd/tracking.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rsvd_tracking_start s = {};
	struct rsvd_tracking_changes q = {};
	unsigned sum = 0;
	size_t i = 0;

	if (rsvd_tracking_start_decode(data, size, &s) == 0) {
		/* The name lies in the request, or the sanitizer says so. */
		for (i = 0; i < s.name_length; i++) {
			sum += s.name[i];
		}
		if (s.name_length > 0 && sum == 0) {
			abort();
		}
	}
	if (rsvd_tracking_changes_decode(data, size, &q) == 0 &&
	    q.snapshot_type != 1) {
		abort();
	}
	return 0;
}
