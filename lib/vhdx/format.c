/* File identifier, headers and region table, [MS-VHDX] 2.2. */
#include "vhdx/vhdx_format.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"
#include "util/crc32c.h"
#include "util/cursor.h"
#include "util/utf16.h"

#define HEADER_SIGNATURE 0x64616568U	/* "head" */
#define REGION_SIGNATURE 0x69676572U	/* "regi" */
#define REGION_ENTRY 32U

const struct guid vhdx_guid_bat = GUID_INIT(
	0x2DC27766, 0xF623, 0x4200,
	0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08);
const struct guid vhdx_guid_metadata = GUID_INIT(
	0x8B7CA206, 0x4790, 0x4B9A,
	0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F, 0x88, 0x6E);

int vhdx_identity_decode(const uint8_t *bytes, char *creator, size_t room)
{
	if (memcmp(bytes, "vhdxfile", 8) != 0) {
		return -EBADMSG;
	}
	if (utf16_to_utf8(bytes + 8, 2 * VHDX_CREATOR_MAX, true, creator,
			  room) != 0) {
		/* For diagnosis only, 2.2.1: bad text there harms nothing. */
		creator[0] = '\0';
	}
	return 0;
}

void vhdx_identity_encode(const char *creator, uint8_t *bytes)
{
	size_t length = 0;

	memcpy(bytes, "vhdxfile", 8);
	memset(bytes + 8, 0, 2 * VHDX_CREATOR_MAX);
	if (utf16_from_utf8(creator, bytes + 8, 2 * VHDX_CREATOR_MAX - 2,
			    &length) != 0) {
		memset(bytes + 8, 0, 2 * VHDX_CREATOR_MAX);
	}
}

static uint32_t checksum_of(const uint8_t *bytes, size_t length)
{
	static const uint8_t zero[4];
	uint32_t crc = crc32c(bytes, 4);

	crc = crc32c_more(crc, zero, 4);
	return crc32c_more(crc, bytes + 8, length - 8);
}

/* [MS-VHDX] 2.2.2 */
int vhdx_header_decode(const uint8_t *bytes, struct vhdx_header *_header)
{
	struct vhdx_header h = {};
	struct cursor c = {};
	uint32_t signature = 0;

	cursor_init(&c, bytes, VHDX_HEADER_SIZE);
	signature = cursor_le32(&c);
	h.checksum = cursor_le32(&c);
	h.sequence = cursor_le64(&c);
	cursor_guid(&c, &h.file_write_guid);
	cursor_guid(&c, &h.data_write_guid);
	cursor_guid(&c, &h.log_guid);
	h.log_version = cursor_le16(&c);
	h.version = cursor_le16(&c);
	h.log_length = cursor_le32(&c);
	h.log_offset = cursor_le64(&c);
	if (signature != HEADER_SIGNATURE ||
	    h.checksum != checksum_of(bytes, VHDX_HEADER_SIZE)) {
		return -EBADMSG;
	}
	*_header = h;
	return cursor_status(&c);
}

int vhdx_header_validate(const struct vhdx_header *h, const char **why)
{
	if (h->version != 1) {
		*why = "unknown format version";
		return -ENOTSUP;
	}
	if (h->log_version != 0 && !guid_is_null(&h->log_guid)) {
		*why = "log of an unknown version to replay";
		return -ENOTSUP;
	}
	if (h->log_offset % VHDX_MIB != 0 || h->log_length % VHDX_MIB != 0 ||
	    h->log_offset < VHDX_MIB || h->log_length == 0 ||
	    h->log_length > VHDX_LOG_MAX ||
	    !checked_inside(h->log_offset, h->log_length, VHDX_FILE_MAX)) {
		*why = "the log's place or length is not allowed";
		return -EBADMSG;
	}
	return 0;
}

void vhdx_header_encode(const struct vhdx_header *h, uint8_t *bytes)
{
	struct cursor_put c = {};

	memset(bytes, 0, VHDX_HEADER_SIZE);
	cursor_put_init(&c, bytes, VHDX_HEADER_SIZE);
	cursor_put_le32(&c, HEADER_SIGNATURE);
	cursor_put_le32(&c, 0);
	cursor_put_le64(&c, h->sequence);
	cursor_put_guid(&c, &h->file_write_guid);
	cursor_put_guid(&c, &h->data_write_guid);
	cursor_put_guid(&c, &h->log_guid);
	cursor_put_le16(&c, h->log_version);
	cursor_put_le16(&c, h->version);
	cursor_put_le32(&c, h->log_length);
	cursor_put_le64(&c, h->log_offset);
	cursor_put_seek(&c, 4);
	cursor_put_le32(&c, checksum_of(bytes, VHDX_HEADER_SIZE));
}

int vhdx_header_select(const uint8_t *first, const uint8_t *second,
		       struct vhdx_header *_header, unsigned *_slot,
		       const char **why)
{
	struct vhdx_header h[2] = {};
	int ret0 = vhdx_header_decode(first, &h[0]);
	int ret1 = vhdx_header_decode(second, &h[1]);
	unsigned slot = 0;

	if (ret0 != 0 && ret1 != 0) {
		*why = "no valid header";
		return -EBADMSG;
	}
	if (ret0 == 0 && ret1 == 0 && h[0].sequence == h[1].sequence &&
	    memcmp(first, second, VHDX_HEADER_SIZE) != 0) {
		*why = "two different headers with one number";
		return -EBADMSG;
	}
	if (ret0 != 0 || (ret1 == 0 && h[1].sequence > h[0].sequence)) {
		slot = 1;
	}
	*_header = h[slot];
	*_slot = slot;
	return vhdx_header_validate(&h[slot], why);
}

/* ---- region table, [MS-VHDX] 2.2.3 ---------------------------------------- */

uint32_t vhdx_region_count(const uint8_t *bytes)
{
	struct cursor c = {};

	cursor_init(&c, bytes, VHDX_REGION_SIZE);
	cursor_skip(&c, 8);
	return cursor_le32(&c);
}

void vhdx_region_entry(const uint8_t *bytes, uint32_t index,
		       struct vhdx_region *_region)
{
	struct cursor c = {};

	cursor_init(&c, bytes, VHDX_REGION_SIZE);
	cursor_seek(&c, 16 + (size_t)index * REGION_ENTRY);
	cursor_guid(&c, &_region->type);
	_region->offset = cursor_le64(&c);
	_region->length = cursor_le32(&c);
	_region->required = (cursor_le32(&c) & 1) != 0;
}

static bool ranges_meet(uint64_t a, uint64_t a_length, uint64_t b,
			uint64_t b_length)
{
	return a < b + b_length && b < a + a_length;
}

static int region_check(const uint8_t *bytes, uint32_t index,
			const struct vhdx_region *r,
			const struct vhdx_header *header, const char **why)
{
	uint32_t i = 0;

	if (r->offset % VHDX_MIB != 0 || r->length % VHDX_MIB != 0 ||
	    r->offset < VHDX_MIB || r->length == 0 ||
	    !checked_inside(r->offset, r->length, VHDX_FILE_MAX)) {
		*why = "a region's place or length is not allowed";
		return -EBADMSG;
	}
	if (ranges_meet(r->offset, r->length, header->log_offset,
			header->log_length)) {
		*why = "a region overlaps the log";
		return -EBADMSG;
	}
	/* All before it were judged already, so their sums do not wrap. */
	for (i = 0; i < index; i++) {
		struct vhdx_region other = {};

		vhdx_region_entry(bytes, i, &other);
		if (guid_equal(&other.type, &r->type)) {
			*why = "a region is listed twice";
			return -EBADMSG;
		}
		if (ranges_meet(r->offset, r->length, other.offset,
				other.length)) {
			*why = "two regions overlap";
			return -EBADMSG;
		}
	}
	return 0;
}

int vhdx_region_load(const uint8_t *bytes, const struct vhdx_header *header,
		     struct vhdx_layout *_layout, const char **why)
{
	struct vhdx_layout layout = {};
	struct cursor c = {};
	uint32_t signature = 0;
	uint32_t checksum = 0;
	uint32_t count = 0;
	uint32_t i = 0;
	int ret = 0;

	cursor_init(&c, bytes, VHDX_REGION_SIZE);
	signature = cursor_le32(&c);
	checksum = cursor_le32(&c);
	count = cursor_le32(&c);
	if (signature != REGION_SIGNATURE || count > VHDX_REGION_MAX ||
	    checksum != checksum_of(bytes, VHDX_REGION_SIZE)) {
		*why = "no valid region table";
		return -EBADMSG;
	}
	for (i = 0; i < count; i++) {
		struct vhdx_region r = {};

		vhdx_region_entry(bytes, i, &r);
		ret = region_check(bytes, i, &r, header, why);
		if (ret != 0) {
			return ret;
		}
		if (guid_equal(&r.type, &vhdx_guid_bat)) {
			layout.bat_offset = r.offset;
			layout.bat_length = r.length;
		} else if (guid_equal(&r.type, &vhdx_guid_metadata)) {
			layout.metadata_offset = r.offset;
			layout.metadata_length = r.length;
		} else if (r.required) {
			*why = "an unknown region is required";
			return -ENOTSUP;
		}
	}
	if (layout.bat_length == 0 || layout.metadata_length == 0) {
		*why = "no block table or no metadata region";
		return -EBADMSG;
	}
	if (layout.bat_length > VHDX_BAT_MAX ||
	    layout.metadata_length > VHDX_META_REGION_MAX) {
		*why = "a region larger than any disk needs";
		return -EBADMSG;
	}
	*_layout = layout;
	return 0;
}

static void region_seal(uint8_t *bytes)
{
	struct cursor_put c = {};

	cursor_put_init(&c, bytes, VHDX_REGION_SIZE);
	cursor_put_seek(&c, 4);
	cursor_put_le32(&c, checksum_of(bytes, VHDX_REGION_SIZE));
}

void vhdx_region_encode(const struct vhdx_layout *layout, uint8_t *bytes)
{
	struct cursor_put c = {};

	memset(bytes, 0, VHDX_REGION_SIZE);
	cursor_put_init(&c, bytes, VHDX_REGION_SIZE);
	cursor_put_le32(&c, REGION_SIGNATURE);
	cursor_put_le32(&c, 0);
	cursor_put_le32(&c, 2);
	cursor_put_le32(&c, 0);
	cursor_put_guid(&c, &vhdx_guid_bat);
	cursor_put_le64(&c, layout->bat_offset);
	cursor_put_le32(&c, layout->bat_length);
	cursor_put_le32(&c, 1);
	cursor_put_guid(&c, &vhdx_guid_metadata);
	cursor_put_le64(&c, layout->metadata_offset);
	cursor_put_le32(&c, layout->metadata_length);
	cursor_put_le32(&c, 1);
	region_seal(bytes);
}

void vhdx_region_move_bat(uint8_t *bytes, uint64_t offset, uint32_t length)
{
	uint32_t count = vhdx_region_count(bytes);
	struct cursor_put c = {};
	uint32_t i = 0;

	cursor_put_init(&c, bytes, VHDX_REGION_SIZE);
	for (i = 0; i < count && i < VHDX_REGION_MAX; i++) {
		struct vhdx_region r = {};

		vhdx_region_entry(bytes, i, &r);
		if (guid_equal(&r.type, &vhdx_guid_bat)) {
			cursor_put_seek(&c, 16 + (size_t)i * REGION_ENTRY +
						16);
			cursor_put_le64(&c, offset);
			cursor_put_le32(&c, length);
		}
	}
	region_seal(bytes);
}
