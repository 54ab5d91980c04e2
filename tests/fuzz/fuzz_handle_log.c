/*
 * The log of handles.  The second half of the input is a list of changes to a
 * good log, so that damage behind right checksums is reached too.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "handle/handle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void replay(const uint8_t *log, size_t length)
{
	struct handle_replay *replay = NULL;
	struct handle_replay_counts counts = {};
	struct handle_bytes payload = {};
	uint64_t id = 0;
	size_t i = 0;

	if (handle_replay(NULL, log, length, &replay) != 0) {
		abort();
	}
	handle_replay_counts(replay, &counts);
	while (handle_replay_get(replay, i, &id, &payload)) {
		if (payload.length > 0 &&
		    (payload.data < log ||
		     payload.data + payload.length > log + length)) {
			abort();
		}
		i++;
	}
	if (i != counts.live) {
		abort();
	}
	TALLOC_FREE(replay);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t log[HANDLE_LOG_HEADER + 8 * 64] = {};
	uint64_t generation = 0;
	size_t at = HANDLE_LOG_HEADER;
	size_t i = 0;

	handle_log_header_decode(data, size, &generation);
	replay(data, size);
	handle_log_header_encode(1, log);
	for (i = 0; i < 8; i++) {
		struct handle_frame frame = {
			.kind = i == 5 ? HANDLE_FRAME_DROP : HANDLE_FRAME_PUT,
			.id = i % 3 + 1, .revision = (uint32_t)i,
			.synced = i * 40,
			.payload = { .data = (const uint8_t *)"12345678",
				     .length = 8 },
		};

		handle_frame_encode(&frame, log + at);
		at += handle_frame_size(8);
	}
	for (i = 0; i + 2 < size; i += 3) {
		log[(data[i] * 256u + data[i + 1]) % at] ^= data[i + 2];
	}
	replay(log, at);
	return 0;
}
