/*
 * The log: a header, then frames, each with checksums of its own head and of
 * what it carries, at multiples of 8 bytes.
 */
#include "handle/handle.h"

#include <errno.h>
#include <string.h>

#include "util/crc32c.h"
#include "util/cursor.h"

#define LOG_VERSION 1
#define FRAME_MAGIC 0x4D524648		/* "HFRM" */
#define HEAD_CHECKED 40

static const uint8_t log_magic[8] = {
	'H', 'V', 'R', 'S', 'H', 'N', 'D', 'L'
};

void handle_log_header_encode(uint64_t generation,
			      uint8_t out[HANDLE_LOG_HEADER])
{
	struct cursor_put c = {};

	cursor_put_init(&c, out, HANDLE_LOG_HEADER);
	cursor_put_bytes(&c, log_magic, sizeof(log_magic));
	cursor_put_le32(&c, LOG_VERSION);
	cursor_put_le32(&c, 0);
	cursor_put_le64(&c, generation);
	cursor_put_le32(&c, 0);
	cursor_put_le32(&c, crc32c(out, HANDLE_LOG_HEADER - 4));
}

int handle_log_header_decode(const uint8_t *bytes, size_t length,
			     uint64_t *_generation)
{
	struct cursor c = {};
	uint32_t version = 0;
	uint64_t generation = 0;

	if (length < HANDLE_LOG_HEADER ||
	    memcmp(bytes, log_magic, sizeof(log_magic)) != 0) {
		return -EINVAL;
	}
	cursor_init(&c, bytes, HANDLE_LOG_HEADER);
	cursor_skip(&c, sizeof(log_magic));
	version = cursor_le32(&c);
	cursor_skip(&c, 4);
	generation = cursor_le64(&c);
	cursor_skip(&c, 4);
	if (cursor_le32(&c) != crc32c(bytes, HANDLE_LOG_HEADER - 4)) {
		return -EINVAL;
	}
	if (version != LOG_VERSION) {
		return -ENOTSUP;
	}
	*_generation = generation;
	return 0;
}

size_t handle_frame_size(size_t payload)
{
	return HANDLE_FRAME_HEADER + ((payload + 7) & ~(size_t)7);
}

void handle_frame_encode(const struct handle_frame *frame, uint8_t *out)
{
	size_t size = handle_frame_size(frame->payload.length);
	struct cursor_put c = {};

	memset(out, 0, size);
	cursor_put_init(&c, out, size);
	cursor_put_le32(&c, FRAME_MAGIC);
	cursor_put_le32(&c, (uint32_t)frame->payload.length);
	cursor_put_le32(&c, (uint32_t)frame->kind);
	cursor_put_le32(&c, frame->revision);
	cursor_put_le64(&c, frame->id);
	cursor_put_le64(&c, frame->synced);
	cursor_put_le32(&c, crc32c(frame->payload.data,
				   frame->payload.length));
	cursor_put_le32(&c, 0);
	cursor_put_le32(&c, crc32c(out, HEAD_CHECKED));
	cursor_put_le32(&c, 0);
	if (frame->payload.length > 0) {
		cursor_put_bytes(&c, frame->payload.data,
				 frame->payload.length);
	}
}

static bool frame_at(const uint8_t *log, size_t length, size_t at,
		     struct handle_frame *_frame)
{
	struct handle_frame frame = { .offset = at };
	struct cursor c = {};
	uint32_t payload = 0;
	uint32_t kind = 0;
	uint32_t crc = 0;

	cursor_init(&c, log + at, length - at);
	if (cursor_le32(&c) != FRAME_MAGIC) {
		return false;
	}
	payload = cursor_le32(&c);
	kind = cursor_le32(&c);
	frame.revision = cursor_le32(&c);
	frame.id = cursor_le64(&c);
	frame.synced = cursor_le64(&c);
	crc = cursor_le32(&c);
	cursor_skip(&c, 4);
	if (cursor_remaining(&c) < 8 ||
	    cursor_le32(&c) != crc32c(log + at, HEAD_CHECKED)) {
		return false;
	}
	cursor_skip(&c, 4);
	if (kind != HANDLE_FRAME_PUT && kind != HANDLE_FRAME_DROP) {
		return false;
	}
	if (payload > HANDLE_RECORD_MAX ||
	    handle_frame_size(payload) > length - at) {
		return false;
	}
	frame.kind = (enum handle_frame_kind)kind;
	frame.payload.length = payload;
	frame.payload.data = cursor_borrow(&c, payload);
	frame.size = handle_frame_size(payload);
	frame.damaged = crc != crc32c(frame.payload.data, payload);
	*_frame = frame;
	return true;
}

bool handle_frame_begins(const uint8_t bytes[HANDLE_FRAME_MARK])
{
	struct cursor c = {};

	cursor_init(&c, bytes, HANDLE_FRAME_MARK);
	return cursor_le32(&c) == FRAME_MAGIC;
}

int handle_frame_next(const uint8_t *log, size_t length, size_t *at,
		      struct handle_frame *_frame)
{
	size_t next = *at;

	if (next >= length) {
		return -ENODATA;
	}
	if (frame_at(log, length, next, _frame)) {
		*at = next + _frame->size;
		return 0;
	}
	do {
		next += 8;
	} while (next < length && !frame_at(log, length, next, _frame));
	*at = next < length ? next : length;
	return -EBADMSG;
}
