/* The footer and the dynamic header of a VHD: bytes to structs and back. */
#include "vhd/vhd.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"
#include "util/cursor.h"
#include "vhd/vhd_priv.h"

#define CHECKSUM_AT_FOOTER 64
#define CHECKSUM_AT_HEADER 36
#define CHS_SECTORS_MAX (65535ULL * 16 * 255)

/*
 * "Checksum": the one's complement of the sum of all bytes but the checksum's
 * own four.
 */
static uint32_t checksum(const uint8_t *bytes, size_t length, size_t skip)
{
	uint32_t sum = 0;
	size_t i = 0;

	for (i = 0; i < length; i++) {
		if (i < skip || i >= skip + 4) {
			sum += bytes[i];
		}
	}
	return ~sum;
}

/* VHD keeps a GUID's groups big-endian, struct guid little-endian. */
static void guid_turn(struct guid *g)
{
	static const uint8_t from[16] = {
		3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15,
	};
	struct guid turned = {};
	size_t i = 0;

	for (i = 0; i < 16; i++) {
		turned.bytes[i] = g->bytes[from[i]];
	}
	*g = turned;
}

void vhd_footer_decode(const uint8_t bytes[VHD_FOOTER_SIZE],
		       struct vhd_footer *_footer)
{
	struct vhd_footer f = {};
	struct cursor c = {};

	cursor_init(&c, bytes, VHD_FOOTER_SIZE);
	cursor_bytes(&c, f.cookie, sizeof(f.cookie));
	f.features = cursor_be32(&c);
	f.version = cursor_be32(&c);
	f.data_offset = cursor_be64(&c);
	f.time = cursor_be32(&c);
	cursor_bytes(&c, f.creator, sizeof(f.creator));
	f.creator_version = cursor_be32(&c);
	cursor_bytes(&c, f.creator_host, sizeof(f.creator_host));
	f.original_size = cursor_be64(&c);
	f.size = cursor_be64(&c);
	f.cylinders = cursor_be16(&c);
	f.heads = cursor_u8(&c);
	f.sectors = cursor_u8(&c);
	f.type = cursor_be32(&c);
	f.checksum = cursor_be32(&c);
	cursor_guid(&c, &f.id);
	guid_turn(&f.id);
	f.saved_state = cursor_u8(&c);
	f.computed = checksum(bytes, VHD_FOOTER_SIZE, CHECKSUM_AT_FOOTER);
	*_footer = f;
}

void vhd_footer_encode(const struct vhd_footer *footer,
		       uint8_t bytes[VHD_FOOTER_SIZE])
{
	struct guid id = footer->id;
	struct cursor_put c = {};

	guid_turn(&id);
	memset(bytes, 0, VHD_FOOTER_SIZE);
	cursor_put_init(&c, bytes, VHD_FOOTER_SIZE);
	cursor_put_bytes(&c, footer->cookie, sizeof(footer->cookie));
	cursor_put_be32(&c, footer->features);
	cursor_put_be32(&c, footer->version);
	cursor_put_be64(&c, footer->data_offset);
	cursor_put_be32(&c, footer->time);
	cursor_put_bytes(&c, footer->creator, sizeof(footer->creator));
	cursor_put_be32(&c, footer->creator_version);
	cursor_put_bytes(&c, footer->creator_host,
			 sizeof(footer->creator_host));
	cursor_put_be64(&c, footer->original_size);
	cursor_put_be64(&c, footer->size);
	cursor_put_be16(&c, footer->cylinders);
	cursor_put_u8(&c, footer->heads);
	cursor_put_u8(&c, footer->sectors);
	cursor_put_be32(&c, footer->type);
	cursor_put_be32(&c, 0);
	cursor_put_guid(&c, &id);
	cursor_put_u8(&c, footer->saved_state);
	cursor_put_seek(&c, CHECKSUM_AT_FOOTER);
	cursor_put_be32(&c, checksum(bytes, VHD_FOOTER_SIZE,
				     CHECKSUM_AT_FOOTER));
}

static void locator_decode(struct cursor *in, struct vhd_locator *l)
{
	l->platform = cursor_be32(in);
	l->space = cursor_be32(in);
	l->length = cursor_be32(in);
	cursor_skip(in, 4);
	l->offset = cursor_be64(in);
}

void vhd_header_decode(const uint8_t bytes[VHD_HEADER_SIZE],
		       struct vhd_header *_header)
{
	struct vhd_header h = {};
	struct cursor c = {};
	size_t i = 0;

	cursor_init(&c, bytes, VHD_HEADER_SIZE);
	cursor_bytes(&c, h.cookie, sizeof(h.cookie));
	h.data_offset = cursor_be64(&c);
	h.table_offset = cursor_be64(&c);
	h.version = cursor_be32(&c);
	h.table_entries = cursor_be32(&c);
	h.block_size = cursor_be32(&c);
	h.checksum = cursor_be32(&c);
	cursor_guid(&c, &h.parent_id);
	guid_turn(&h.parent_id);
	h.parent_time = cursor_be32(&c);
	cursor_skip(&c, 4);
	cursor_bytes(&c, h.parent_name, sizeof(h.parent_name));
	for (i = 0; i < VHD_LOCATORS; i++) {
		locator_decode(&c, &h.locators[i]);
	}
	h.computed = checksum(bytes, VHD_HEADER_SIZE, CHECKSUM_AT_HEADER);
	*_header = h;
}

void vhd_header_encode(const struct vhd_header *header,
		       uint8_t bytes[VHD_HEADER_SIZE])
{
	struct guid parent = header->parent_id;
	struct cursor_put c = {};
	size_t i = 0;

	guid_turn(&parent);
	memset(bytes, 0, VHD_HEADER_SIZE);
	cursor_put_init(&c, bytes, VHD_HEADER_SIZE);
	cursor_put_bytes(&c, header->cookie, sizeof(header->cookie));
	cursor_put_be64(&c, header->data_offset);
	cursor_put_be64(&c, header->table_offset);
	cursor_put_be32(&c, header->version);
	cursor_put_be32(&c, header->table_entries);
	cursor_put_be32(&c, header->block_size);
	cursor_put_be32(&c, 0);
	cursor_put_guid(&c, &parent);
	cursor_put_be32(&c, header->parent_time);
	cursor_put_be32(&c, 0);
	cursor_put_bytes(&c, header->parent_name, sizeof(header->parent_name));
	for (i = 0; i < VHD_LOCATORS; i++) {
		cursor_put_be32(&c, header->locators[i].platform);
		cursor_put_be32(&c, header->locators[i].space);
		cursor_put_be32(&c, header->locators[i].length);
		cursor_put_be32(&c, 0);
		cursor_put_be64(&c, header->locators[i].offset);
	}
	cursor_put_seek(&c, CHECKSUM_AT_HEADER);
	cursor_put_be32(&c, checksum(bytes, VHD_HEADER_SIZE,
				     CHECKSUM_AT_HEADER));
}

static int bad(const char *what, int error, const char **_why)
{
	*_why = what;
	return error;
}

int vhd_footer_validate(const struct vhd_footer *footer, const char **_why)
{
	if (memcmp(footer->cookie, VHD_FOOTER_COOKIE, 8) != 0) {
		return bad("it does not end in a VHD footer", -EBADMSG, _why);
	}
	if (footer->checksum != footer->computed) {
		return bad("the checksum of the footer is wrong", -EBADMSG,
			   _why);
	}
	/* "Drivers must only look at the major version." */
	if (footer->version >> 16 != VHD_VERSION >> 16) {
		return bad("the format version is not 1", -ENOTSUP, _why);
	}
	if (footer->type != VHD_FIXED && footer->type != VHD_DYNAMIC &&
	    footer->type != VHD_DIFFERENCING) {
		return bad("the disk is neither fixed, dynamic nor "
			   "differencing", -ENOTSUP, _why);
	}
	if (footer->size == 0 || footer->size % VHD_SECTOR != 0) {
		return bad("the disk size is not a multiple of 512", -EBADMSG,
			   _why);
	}
	if (footer->size > VHD_FIXED_MAX ||
	    (footer->type != VHD_FIXED && footer->size > VHD_TABLE_REACH)) {
		return bad("the disk is larger than the format allows",
			   -EFBIG, _why);
	}
	return 0;
}

int vhd_header_validate(const struct vhd_header *header,
			const struct vhd_footer *footer, uint64_t file_size,
			const char **_why)
{
	uint64_t reach = 0;

	if (memcmp(header->cookie, VHD_HEADER_COOKIE, 8) != 0) {
		return bad("there is no dynamic header where the footer "
			   "says", -EBADMSG, _why);
	}
	if (header->checksum != header->computed) {
		return bad("the checksum of the dynamic header is wrong",
			   -EBADMSG, _why);
	}
	if (header->version >> 16 != VHD_VERSION >> 16) {
		return bad("the version of the dynamic header is not 1",
			   -ENOTSUP, _why);
	}
	if (header->block_size < VHD_BLOCK_MIN ||
	    header->block_size > VHD_BLOCK_MAX ||
	    (header->block_size & (header->block_size - 1)) != 0) {
		return bad("the block size is not a power of two between "
			   "4 KiB and 256 MiB", -EBADMSG, _why);
	}
	reach = (uint64_t)header->block_size * header->table_entries;
	if (reach < footer->size) {
		return bad("the block table is too short for the disk",
			   -EBADMSG, _why);
	}
	if (header->table_offset % VHD_SECTOR != 0 ||
	    header->table_offset < VHD_FOOTER_SIZE ||
	    !checked_inside(header->table_offset,
			    4ULL * vhd_blocks(footer->size,
					      header->block_size),
			    file_size)) {
		return bad("the block table lies outside the file", -EBADMSG,
			   _why);
	}
	return 0;
}

uint32_t vhd_blocks(uint64_t size, uint32_t block_size)
{
	return (uint32_t)((size + block_size - 1) / block_size);
}

void vhd_geometry(uint64_t size, struct vhd_footer *_footer)
{
	uint64_t total = size / VHD_SECTOR;
	uint32_t cylinder_heads = 0;
	uint32_t sectors = 17;
	uint32_t heads = 0;

	if (total > CHS_SECTORS_MAX) {
		total = CHS_SECTORS_MAX;
	}
	if (total >= 65535ULL * 16 * 63) {
		sectors = 255;
		heads = 16;
		cylinder_heads = (uint32_t)(total / sectors);
	} else {
		cylinder_heads = (uint32_t)(total / sectors);
		heads = (cylinder_heads + 1023) / 1024;
		if (heads < 4) {
			heads = 4;
		}
		if (cylinder_heads >= heads * 1024 || heads > 16) {
			sectors = 31;
			heads = 16;
			cylinder_heads = (uint32_t)(total / sectors);
		}
		if (cylinder_heads >= heads * 1024) {
			sectors = 63;
			heads = 16;
			cylinder_heads = (uint32_t)(total / sectors);
		}
	}
	_footer->cylinders = (uint16_t)(cylinder_heads / heads);
	_footer->heads = (uint8_t)heads;
	_footer->sectors = (uint8_t)sectors;
}
