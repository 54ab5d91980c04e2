/*
 * The bodies of change tracking as bytes.
 */
#include "rsvd/tracking.h"

#include <errno.h>
#include <string.h>

#include "util/cursor.h"

/* A plain file name of UTF-16, perhaps with a NUL at its end. */
static bool is_name(const uint8_t *name, size_t *_length)
{
	size_t length = *_length;
	bool dots = true;
	size_t i = 0;

	if (length % 2 != 0) {
		return false;
	}
	if (length >= 2 && name[length - 2] == 0 && name[length - 1] == 0) {
		length -= 2;
	}
	for (i = 0; i < length; i += 2) {
		unsigned c = name[i] | (unsigned)name[i + 1] << 8;

		if (c < 0x20 || (c < 0x80 && strchr("\\/:*?\"<>|", (int)c))) {
			return false;
		}
		dots = dots && c == '.';
	}
	*_length = length;
	return length > 0 && !dots;
}

int rsvd_tracking_start_decode(const uint8_t *body, size_t length,
			       struct rsvd_tracking_start *_s)
{
	struct rsvd_tracking_start s = {};
	struct cursor in = {};
	uint32_t at = 0;
	uint32_t append = 0;

	if (length < RSVD_TRACKING_START_SIZE) {
		return -EMSGSIZE;
	}
	cursor_init(&in, body, length);
	cursor_guid(&in, &s.transaction);
	at = cursor_le32(&in);
	s.name_length = cursor_le32(&in);
	cursor_guid(&in, &s.log_id);
	s.log_size_max = cursor_le64(&in);
	append = cursor_le32(&in);
	if (append > 1) {
		return -EINVAL;
	}
	s.append = append == 1;
	if (s.name_length > 0) {
		if (at < RSVD_TRACKING_START_SIZE || at > length ||
		    s.name_length > length - at) {
			return -EINVAL;
		}
		s.name = body + at;
		if (!is_name(s.name, &s.name_length)) {
			return -EINVAL;
		}
	}
	*_s = s;
	return cursor_status(&in);
}

void rsvd_tracking_parameters_encode(uint32_t status, uint64_t log_size,
				     uint8_t out[16])
{
	struct cursor_put p = {};

	cursor_put_init(&p, out, 16);
	cursor_put_le32(&p, status);
	cursor_put_le32(&p, 0);
	cursor_put_le64(&p, log_size);
}

int rsvd_tracking_changes_decode(const uint8_t *body, size_t length,
				 struct rsvd_tracking_changes *_q)
{
	struct rsvd_tracking_changes q = {};
	struct cursor in = {};

	if (length < RSVD_TRACKING_CHANGES_SIZE) {
		return -EMSGSIZE;
	}
	cursor_init(&in, body, length);
	cursor_guid(&in, &q.target);
	cursor_guid(&in, &q.limit);
	q.snapshot_type = cursor_le32(&in);
	cursor_skip(&in, 4);
	q.offset = cursor_le64(&in);
	q.length = cursor_le64(&in);
	/* Only snapshots of virtual machines have reference points. */
	if (q.snapshot_type != 1) {
		return -EINVAL;
	}
	*_q = q;
	return cursor_status(&in);
}

size_t rsvd_tracking_room(size_t bytes)
{
	return bytes < RSVD_TRACKING_ANSWER_SIZE ? 0 :
		(bytes - RSVD_TRACKING_ANSWER_SIZE) / RSVD_TRACKING_RANGE_SIZE;
}

size_t rsvd_tracking_changes_encode(uint64_t processed,
				    const struct cbt_range *ranges,
				    size_t count, uint8_t *out)
{
	size_t length = RSVD_TRACKING_ANSWER_SIZE +
		count * RSVD_TRACKING_RANGE_SIZE;
	struct cursor_put p = {};
	size_t i = 0;

	cursor_put_init(&p, out, length);
	cursor_put_le64(&p, processed);
	cursor_put_le32(&p, (uint32_t)count);
	cursor_put_le32(&p, 0);
	for (i = 0; i < count; i++) {
		cursor_put_le64(&p, ranges[i].offset);
		cursor_put_le64(&p, ranges[i].length);
		cursor_put_le64(&p, 0);
	}
	return length;
}
