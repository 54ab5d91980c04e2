/*
 * The header of a map, as bytes.
 */
#include "cbt/cbt.h"

#include <errno.h>
#include <string.h>

#include "util/crc32c.h"
#include "util/cursor.h"

#define MAGIC "hvrschng"
#define VERSION 1
#define CHECKSUM_AT 12

/* Behind the marks: the last bytes of a header. */
#define OWN_AT (CBT_HEADER_SIZE - CBT_OWN_SIZE - CBT_STAMP_SIZE)

static uint32_t checksum(const uint8_t *bytes)
{
	static const uint8_t zero[4];
	uint32_t crc = crc32c(bytes, CHECKSUM_AT);

	crc = crc32c_more(crc, zero, sizeof(zero));
	return crc32c_more(crc, bytes + CHECKSUM_AT + 4,
			   CBT_HEADER_SIZE - CHECKSUM_AT - 4);
}

static int bad(const char **_why, const char *why)
{
	if (_why != NULL) {
		*_why = why;
	}
	return -EBADMSG;
}

static int header_validate(const struct cbt_header *h, const char **_why)
{
	uint8_t used[(CBT_MARKS_MAX + 1 + 7) / 8] = {};
	uint32_t i = 0;
	uint32_t k = 0;

	if (h->size > CBT_SIZE_MAX || h->state > CBT_BROKEN ||
	    h->count > CBT_MARKS_MAX || (h->flags & ~(uint32_t)CBT_GAP) != 0) {
		return bad(_why, "a field of the header is out of range");
	}
	for (i = 0; i <= h->count; i++) {
		uint32_t slot = i < h->count ? h->marks[i].slot : h->slot;

		if (slot > CBT_MARKS_MAX ||
		    (used[slot / 8] & 1U << slot % 8) != 0) {
			return bad(_why, "two intervals share a slot");
		}
		used[slot / 8] |= (uint8_t)(1U << slot % 8);
	}
	for (i = 0; i < h->count; i++) {
		if ((h->marks[i].flags & ~(uint32_t)(CBT_GAP | CBT_OWN)) !=
		    0) {
			return bad(_why, "a mark has unknown flags");
		}
		for (k = 0; k < i; k++) {
			if (guid_equal(&h->marks[i].id, &h->marks[k].id)) {
				return bad(_why, "two marks have one id");
			}
		}
	}
	return 0;
}

int cbt_header_decode(const uint8_t *bytes, struct cbt_header *_h,
		      const char **_why)
{
	struct cursor in = {};
	uint8_t magic[8];
	uint32_t version = 0;
	uint32_t sum = 0;
	uint32_t i = 0;

	memset(_h, 0, sizeof(*_h));
	cursor_init(&in, bytes, CBT_HEADER_SIZE);
	cursor_bytes(&in, magic, sizeof(magic));
	version = cursor_le32(&in);
	sum = cursor_le32(&in);
	if (memcmp(magic, MAGIC, sizeof(magic)) != 0) {
		return bad(_why, "it is no map of changes");
	}
	if (sum != checksum(bytes)) {
		return bad(_why, "the header's checksum is wrong");
	}
	if (version != VERSION) {
		return -ENOTSUP;
	}
	_h->sequence = cursor_le64(&in);
	_h->size = cursor_le64(&in);
	cursor_guid(&in, &_h->identity);
	_h->state = cursor_le32(&in);
	_h->reason = cursor_le32(&in);
	_h->slot = cursor_le32(&in);
	_h->flags = cursor_le32(&in);
	_h->count = cursor_le32(&in);
	for (i = 0; i < _h->count && i < CBT_MARKS_MAX; i++) {
		cursor_guid(&in, &_h->marks[i].id);
		_h->marks[i].slot = cursor_le32(&in);
		_h->marks[i].flags = cursor_le32(&in);
	}
	cursor_init(&in, bytes + OWN_AT, CBT_HEADER_SIZE - OWN_AT);
	cursor_bytes(&in, _h->own, sizeof(_h->own));
	cursor_bytes(&in, _h->stamp, sizeof(_h->stamp));
	if (cursor_status(&in) != 0) {
		return bad(_why, "the header is cut off");
	}
	return header_validate(_h, _why);
}

void cbt_header_encode(const struct cbt_header *h, uint8_t *bytes)
{
	struct cursor_put p = {};
	uint32_t i = 0;

	memset(bytes, 0, CBT_HEADER_SIZE);
	cursor_put_init(&p, bytes, CBT_HEADER_SIZE);
	cursor_put_bytes(&p, MAGIC, 8);
	cursor_put_le32(&p, VERSION);
	cursor_put_le32(&p, 0);
	cursor_put_le64(&p, h->sequence);
	cursor_put_le64(&p, h->size);
	cursor_put_guid(&p, &h->identity);
	cursor_put_le32(&p, h->state);
	cursor_put_le32(&p, h->reason);
	cursor_put_le32(&p, h->slot);
	cursor_put_le32(&p, h->flags);
	cursor_put_le32(&p, h->count);
	for (i = 0; i < h->count; i++) {
		cursor_put_guid(&p, &h->marks[i].id);
		cursor_put_le32(&p, h->marks[i].slot);
		cursor_put_le32(&p, h->marks[i].flags);
	}
	memcpy(bytes + OWN_AT, h->own, sizeof(h->own));
	memcpy(bytes + OWN_AT + CBT_OWN_SIZE, h->stamp, sizeof(h->stamp));
	cursor_put_init(&p, bytes, CBT_HEADER_SIZE);
	cursor_put_seek(&p, CHECKSUM_AT);
	cursor_put_le32(&p, checksum(bytes));
}
