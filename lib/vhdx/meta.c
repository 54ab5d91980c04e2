/* The metadata table, [MS-VHDX] 2.6, and the geometry that its items give. */
#include "vhdx/vhdx_format.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"
#include "util/cursor.h"

#define META_ENTRY 32U
#define META_USER_MAX 1024U
#define CHUNK_SECTORS (1ULL << 23)

const struct guid vhdx_guid_file_parameters = GUID_INIT(
	0xCAA16737, 0xFA36, 0x4D43,
	0xB3, 0xB6, 0x33, 0xF0, 0xAA, 0x44, 0xE7, 0x6B);
const struct guid vhdx_guid_size = GUID_INIT(
	0x2FA54224, 0xCD1B, 0x4876,
	0xB2, 0x11, 0x5D, 0xBE, 0xD8, 0x3B, 0xF4, 0xB8);
const struct guid vhdx_guid_disk_id = GUID_INIT(
	0xBECA12AB, 0xB2E6, 0x4523,
	0x93, 0xEF, 0xC3, 0x09, 0xE0, 0x00, 0xC7, 0x46);
const struct guid vhdx_guid_logical = GUID_INIT(
	0x8141BF1D, 0xA96F, 0x4709,
	0xBA, 0x47, 0xF2, 0x33, 0xA8, 0xFA, 0xAB, 0x5F);
const struct guid vhdx_guid_physical = GUID_INIT(
	0xCDA348C7, 0x445D, 0x4471,
	0x9C, 0xC9, 0xE9, 0x88, 0x52, 0x51, 0xC5, 0x56);
const struct guid vhdx_guid_locator = GUID_INIT(
	0xA8D35F2D, 0xB30B, 0x454D,
	0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB, 0x0C);
/* Present while a file is still being made: such a file is refused. */
static const struct guid incomplete = GUID_INIT(
	0x71CC85F0, 0x1B69, 0x4E28,
	0x95, 0x58, 0xC3, 0xBF, 0x83, 0xAE, 0x75, 0xD3);

static const struct {
	const struct guid *id;
	uint32_t length;	/* least */
	bool needed;
} known[] = {
	{ &vhdx_guid_file_parameters, 8, true },
	{ &vhdx_guid_size, 8, true },
	{ &vhdx_guid_disk_id, 16, true },
	{ &vhdx_guid_logical, 4, true },
	{ &vhdx_guid_physical, 4, true },
	{ &vhdx_guid_locator, 20, false },
};

#define KNOWN (sizeof(known) / sizeof(known[0]))

uint32_t vhdx_meta_count(const uint8_t *bytes)
{
	struct cursor c = {};

	cursor_init(&c, bytes, VHDX_META_TABLE_SIZE);
	cursor_skip(&c, 10);
	return cursor_le16(&c);
}

void vhdx_meta_entry(const uint8_t *bytes, uint32_t index,
		     struct vhdx_item *_item)
{
	struct cursor c = {};
	uint32_t flags = 0;

	cursor_init(&c, bytes, VHDX_META_TABLE_SIZE);
	cursor_seek(&c, 32 + (size_t)index * META_ENTRY);
	cursor_guid(&c, &_item->id);
	_item->offset = cursor_le32(&c);
	_item->length = cursor_le32(&c);
	flags = cursor_le32(&c);
	_item->user = (flags & 1) != 0;
	_item->virtual_disk = (flags & 2) != 0;
	_item->required = (flags & 4) != 0;
}

bool vhdx_meta_find(const uint8_t *bytes, const struct guid *id,
		    struct vhdx_item *_item)
{
	uint32_t count = vhdx_meta_count(bytes);
	uint32_t i = 0;

	for (i = 0; i < count && i < VHDX_META_MAX; i++) {
		vhdx_meta_entry(bytes, i, _item);
		if (!_item->user && guid_equal(&_item->id, id)) {
			return true;
		}
	}
	return false;
}

static int item_check(const struct vhdx_item *item, uint32_t region_length,
		      const char **why)
{
	uint32_t k = 0;

	if (item->length > VHDX_ITEM_MAX ||
	    (item->length > 0 &&
	     (item->offset < VHDX_META_TABLE_SIZE ||
	      !checked_inside(item->offset, item->length, region_length)))) {
		*why = "a metadata item lies outside its region";
		return -EBADMSG;
	}
	if (item->user) {
		if (item->required) {
			*why = "an unknown metadata item is required";
			return -ENOTSUP;
		}
		return 0;
	}
	if (guid_equal(&item->id, &incomplete)) {
		*why = "the making of this file was not finished";
		return -ENOTSUP;
	}
	for (k = 0; k < KNOWN; k++) {
		if (!guid_equal(&item->id, known[k].id)) {
			continue;
		}
		if (item->length < known[k].length) {
			*why = "a metadata item is too short";
			return -EBADMSG;
		}
		return 0;
	}
	if (item->required) {
		*why = "an unknown metadata item is required";
		return -ENOTSUP;
	}
	return 0;
}

int vhdx_meta_validate(const uint8_t *bytes, uint32_t region_length,
		       const char **why)
{
	uint32_t count = vhdx_meta_count(bytes);
	uint32_t users = 0;
	uint32_t i = 0;
	uint32_t j = 0;
	int ret = 0;

	if (memcmp(bytes, "metadata", 8) != 0 || count > VHDX_META_MAX) {
		*why = "no valid metadata table";
		return -EBADMSG;
	}
	for (i = 0; i < count; i++) {
		struct vhdx_item item = {};

		vhdx_meta_entry(bytes, i, &item);
		ret = item_check(&item, region_length, why);
		if (ret != 0) {
			return ret;
		}
		users += item.user ? 1 : 0;
		for (j = 0; j < i; j++) {
			struct vhdx_item other = {};

			vhdx_meta_entry(bytes, j, &other);
			if (guid_equal(&other.id, &item.id) &&
			    other.user == item.user) {
				*why = "a metadata item is listed twice";
				return -EBADMSG;
			}
			if (item.length > 0 && other.length > 0 &&
			    item.offset < other.offset + other.length &&
			    other.offset < item.offset + item.length) {
				*why = "two metadata items overlap";
				return -EBADMSG;
			}
		}
	}
	if (users > META_USER_MAX) {
		*why = "too many user metadata items";
		return -EBADMSG;
	}
	for (i = 0; i < KNOWN; i++) {
		struct vhdx_item item = {};

		if (known[i].needed &&
		    !vhdx_meta_find(bytes, known[i].id, &item)) {
			*why = "a metadata item is missing";
			return -EBADMSG;
		}
	}
	return 0;
}

void vhdx_meta_encode(const struct vhdx_item *items, uint32_t count,
		      uint8_t *bytes)
{
	struct cursor_put c = {};
	uint32_t i = 0;

	memset(bytes, 0, VHDX_META_TABLE_SIZE);
	cursor_put_init(&c, bytes, VHDX_META_TABLE_SIZE);
	cursor_put_bytes(&c, "metadata", 8);
	cursor_put_le16(&c, 0);
	cursor_put_le16(&c, (uint16_t)count);
	cursor_put_zero(&c, 20);
	for (i = 0; i < count; i++) {
		cursor_put_guid(&c, &items[i].id);
		cursor_put_le32(&c, items[i].offset);
		cursor_put_le32(&c, items[i].length);
		cursor_put_le32(&c, (items[i].user ? 1U : 0) |
				    (items[i].virtual_disk ? 2U : 0) |
				    (items[i].required ? 4U : 0));
		cursor_put_le32(&c, 0);
	}
}

void vhdx_meta_set_place(uint8_t *bytes, const struct guid *id,
			 uint32_t offset, uint32_t length)
{
	uint32_t count = vhdx_meta_count(bytes);
	struct cursor_put c = {};
	uint32_t i = 0;

	cursor_put_init(&c, bytes, VHDX_META_TABLE_SIZE);
	for (i = 0; i < count && i < VHDX_META_MAX; i++) {
		struct vhdx_item item = {};

		vhdx_meta_entry(bytes, i, &item);
		if (!item.user && guid_equal(&item.id, id)) {
			cursor_put_seek(&c, 32 + (size_t)i * META_ENTRY + 16);
			cursor_put_le32(&c, offset);
			cursor_put_le32(&c, length);
		}
	}
}

/* ---- geometry, [MS-VHDX] 2.5 ---------------------------------------------- */

int vhdx_geometry_fill(struct vhdx_geometry *g)
{
	uint64_t chunks = 0;

	if ((g->logical_sector != 512 && g->logical_sector != 4096) ||
	    (g->physical_sector != 512 && g->physical_sector != 4096) ||
	    g->block_size < VHDX_BLOCK_MIN || g->block_size > VHDX_BLOCK_MAX ||
	    (g->block_size & (g->block_size - 1)) != 0 || g->size == 0 ||
	    g->size > VHDX_SIZE_MAX || g->size % g->logical_sector != 0) {
		return -EINVAL;
	}
	g->chunk_ratio = CHUNK_SECTORS * g->logical_sector / g->block_size;
	g->block_shift = (unsigned)__builtin_ctz(g->block_size);
	g->chunk_shift = (unsigned)__builtin_ctzll(g->chunk_ratio);
	g->block_count = (g->size + g->block_size - 1) >> g->block_shift;
	chunks = (g->block_count + g->chunk_ratio - 1) / g->chunk_ratio;
	if (g->has_parent) {
		g->entries = chunks * (g->chunk_ratio + 1);
	} else {
		g->entries = g->block_count +
			     (g->block_count - 1) / g->chunk_ratio;
	}
	return 0;
}

uint64_t vhdx_geometry_bitmap(const struct vhdx_geometry *g, uint64_t block)
{
	return (block >> g->chunk_shift) * (g->chunk_ratio + 1) +
		g->chunk_ratio;
}

uint32_t vhdx_geometry_sectors(const struct vhdx_geometry *g)
{
	return g->block_size / g->logical_sector;
}

uint64_t vhdx_geometry_first_bit(const struct vhdx_geometry *g,
				 uint64_t block)
{
	return (block & (g->chunk_ratio - 1)) * vhdx_geometry_sectors(g);
}
