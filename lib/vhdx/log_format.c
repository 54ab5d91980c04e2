/* The bytes of log entries, [MS-VHDX] 2.3.1. */
#include "vhdx/vhdx_format.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"
#include "util/cursor.h"

#define ENTRY_SIGNATURE 0x65676F6CU	/* "loge" */
#define ZERO_SIGNATURE 0x6F72657AU	/* "zero" */
#define DESC_SIGNATURE 0x63736564U	/* "desc" */
#define DATA_SIGNATURE 0x61746164U	/* "data" */

int vhdx_entry_decode(const uint8_t *bytes, struct vhdx_entry_header *_entry)
{
	struct vhdx_entry_header e = {};
	struct cursor c = {};
	uint32_t signature = 0;

	cursor_init(&c, bytes, VHDX_PAGE);
	signature = cursor_le32(&c);
	e.checksum = cursor_le32(&c);
	e.length = cursor_le32(&c);
	e.tail = cursor_le32(&c);
	e.sequence = cursor_le64(&c);
	e.descriptors = cursor_le32(&c);
	cursor_skip(&c, 4);
	cursor_guid(&c, &e.log_guid);
	e.flushed_file_offset = cursor_le64(&c);
	e.last_file_offset = cursor_le64(&c);
	if (signature != ENTRY_SIGNATURE) {
		return -EBADMSG;
	}
	*_entry = e;
	return cursor_status(&c);
}

uint32_t vhdx_entry_descriptor_sectors(uint32_t descriptors)
{
	return (uint32_t)(((uint64_t)descriptors + 2 + 127) / 128);
}

int vhdx_entry_validate(const struct vhdx_entry_header *e,
			uint32_t log_length)
{
	if (e->length == 0 || e->length % VHDX_PAGE != 0 ||
	    e->length > log_length || e->tail % VHDX_PAGE != 0 ||
	    e->tail >= log_length || e->sequence == 0 ||
	    vhdx_entry_descriptor_sectors(e->descriptors) >
		    e->length / VHDX_PAGE ||
	    e->last_file_offset > VHDX_FILE_MAX ||
	    e->flushed_file_offset > VHDX_FILE_MAX) {
		return -EBADMSG;
	}
	return 0;
}

void vhdx_entry_encode(const struct vhdx_entry_header *e, uint8_t *bytes)
{
	struct cursor_put c = {};

	cursor_put_init(&c, bytes, VHDX_PAGE);
	cursor_put_le32(&c, ENTRY_SIGNATURE);
	cursor_put_le32(&c, e->checksum);
	cursor_put_le32(&c, e->length);
	cursor_put_le32(&c, e->tail);
	cursor_put_le64(&c, e->sequence);
	cursor_put_le32(&c, e->descriptors);
	cursor_put_le32(&c, 0);
	cursor_put_guid(&c, &e->log_guid);
	cursor_put_le64(&c, e->flushed_file_offset);
	cursor_put_le64(&c, e->last_file_offset);
}

int vhdx_descriptor_decode(const uint8_t *bytes, struct vhdx_descriptor *_d)
{
	struct vhdx_descriptor d = {};
	struct cursor c = {};
	uint32_t signature = 0;

	cursor_init(&c, bytes, 32);
	signature = cursor_le32(&c);
	cursor_bytes(&c, d.trailing, sizeof(d.trailing));
	cursor_bytes(&c, d.leading, sizeof(d.leading));
	d.file_offset = cursor_le64(&c);
	d.sequence = cursor_le64(&c);
	if (signature == ZERO_SIGNATURE) {
		cursor_seek(&c, 8);
		d.zero = true;
		d.length = cursor_le64(&c);
	} else if (signature != DESC_SIGNATURE) {
		return -EBADMSG;
	}
	*_d = d;
	return cursor_status(&c);
}

int vhdx_descriptor_validate(const struct vhdx_descriptor *d,
			     uint64_t sequence,
			     const struct vhdx_header *header)
{
	uint64_t length = d->zero ? d->length : VHDX_PAGE;

	if (d->sequence != sequence || d->file_offset % VHDX_PAGE != 0 ||
	    length % VHDX_PAGE != 0 ||
	    d->file_offset < VHDX_REGION_OFFSET(0) ||
	    !checked_inside(d->file_offset, length, VHDX_FILE_MAX)) {
		return -EBADMSG;
	}
	if (d->file_offset < header->log_offset + header->log_length &&
	    header->log_offset < d->file_offset + length) {
		return -EBADMSG;
	}
	return 0;
}

void vhdx_descriptor_encode(const uint8_t *page, uint64_t file_offset,
			    uint64_t sequence, uint8_t *bytes)
{
	struct cursor_put c = {};

	cursor_put_init(&c, bytes, 32);
	cursor_put_le32(&c, DESC_SIGNATURE);
	cursor_put_bytes(&c, page + VHDX_PAGE - 4, 4);
	cursor_put_bytes(&c, page, 8);
	cursor_put_le64(&c, file_offset);
	cursor_put_le64(&c, sequence);
}

void vhdx_sector_encode(const uint8_t *page, uint64_t sequence,
			uint8_t *bytes)
{
	struct cursor_put c = {};

	cursor_put_init(&c, bytes, VHDX_PAGE);
	cursor_put_le32(&c, DATA_SIGNATURE);
	cursor_put_le32(&c, (uint32_t)(sequence >> 32));
	cursor_put_bytes(&c, page + 8, VHDX_PAGE - 12);
	cursor_put_le32(&c, (uint32_t)sequence);
}

int vhdx_sector_check(const uint8_t *bytes, uint64_t sequence)
{
	struct cursor c = {};
	uint32_t signature = 0;
	uint64_t stamp = 0;

	cursor_init(&c, bytes, VHDX_PAGE);
	signature = cursor_le32(&c);
	stamp = (uint64_t)cursor_le32(&c) << 32;
	cursor_seek(&c, VHDX_PAGE - 4);
	stamp |= cursor_le32(&c);
	return signature == DATA_SIGNATURE && stamp == sequence ? 0
								: -EBADMSG;
}

void vhdx_sector_decode(const uint8_t *bytes, const struct vhdx_descriptor *d,
			uint8_t *page)
{
	memcpy(page, d->leading, sizeof(d->leading));
	memcpy(page + 8, bytes + 8, VHDX_PAGE - 12);
	memcpy(page + VHDX_PAGE - 4, d->trailing, sizeof(d->trailing));
}
