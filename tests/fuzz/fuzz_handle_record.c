/*
 * Record of a handle: what is accepted is written again as it was, and its
 * locks and module states can all be walked.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "handle/handle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct handle_record r = {};
	struct handle_bytes state = {};
	const char *why = NULL;
	uint8_t *again = NULL;
	size_t length = 0;
	uint32_t tag = 0;
	size_t at = 0;
	size_t i = 0;

	if (handle_record_decode(data, size, &r, &why) != 0) {
		if (why == NULL) {
			abort();
		}
		return 0;
	}
	for (i = 0; i < handle_lock_count(&r); i++) {
		struct handle_lock lock = {};

		handle_lock_get(&r, i, &lock);
		if (lock.length > 0 &&
		    !handle_locks_conflict(&r, lock.start, lock.length,
					   true)) {
			abort();
		}
	}
	while (handle_module_next(&r, &at, &tag, &state)) {
	}
	/* One of version 1 is written in the current one. */
	length = handle_record_encode(&r, NULL, 0);
	if (at != r.modules.length || length != size + (data[4] == 1 ? 8 : 0)) {
		abort();
	}
	again = malloc(length);
	handle_record_encode(&r, again, length);
	if (data[4] == 1 ? handle_record_decode(again, length, &r, &why) != 0
			 : memcmp(again, data, size) != 0) {
		abort();
	}
	free(again);
	return 0;
}
