/*
 * Creating a file: log at 1 MiB, metadata after it, block table after that,
 * then the blocks of a fixed disk.  The headers come last, after a flush.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"
#include "util/cursor.h"

/* Items follow each other in the metadata region from here. */
#define ITEMS_OFFSET VHDX_META_TABLE_SIZE

struct plan {
	const struct vhdx_create *wanted;
	struct vhdx_geometry geometry;
	struct vhdx_layout layout;
	struct vhdx_header header;
	struct guid disk_id;
	uint64_t payload;	/* of the first block of a fixed disk */
	uint64_t end;		/* of the file */
};

static int plan_make(const struct vhdx_create *w, struct plan *p)
{
	struct vhdx_geometry *g = &p->geometry;
	uint64_t bytes = 0;
	uint64_t log_length = w->log_length != 0 ? w->log_length : VHDX_MIB;
	int ret = 0;

	p->wanted = w;
	g->size = w->size;
	g->block_size = w->block_size;
	g->logical_sector = w->logical_sector != 0 ? w->logical_sector : 512;
	g->physical_sector = w->physical_sector != 0 ? w->physical_sector
						     : 4096;
	g->has_parent = w->type == VHDX_DIFFERENCING;
	g->leave_allocated = w->type == VHDX_FIXED;
	p->disk_id = w->disk_id;
	if (g->has_parent) {
		const struct vhdx *parent = w->parent;

		if (parent == NULL || w->path_count == 0 || w->size != 0) {
			return -EINVAL;
		}
		/* IsVirtualDisk items are the parent's, 2.6.2 */
		g->size = parent->geometry.size;
		g->logical_sector = parent->geometry.logical_sector;
		g->physical_sector = parent->geometry.physical_sector;
		p->disk_id = parent->disk_id;
	}
	if (g->block_size == 0) {
		g->block_size = g->has_parent ? 2U << 20 : 32U << 20;
	}
	if (log_length % VHDX_MIB != 0 || log_length > VHDX_LOG_MAX) {
		return -EINVAL;
	}
	ret = vhdx_geometry_fill(g);
	if (ret == 0 && guid_is_null(&p->disk_id)) {
		ret = guid_random(&p->disk_id);
	}
	if (ret == 0) {
		ret = checked_round_up(g->entries * 8, VHDX_MIB, &bytes);
	}
	if (ret != 0) {
		return ret;
	}
	p->header.version = 1;
	p->header.log_offset = VHDX_MIB;
	p->header.log_length = (uint32_t)log_length;
	p->layout.metadata_offset = VHDX_MIB + log_length;
	p->layout.metadata_length = VHDX_MIB;
	p->layout.bat_offset = p->layout.metadata_offset +
			       p->layout.metadata_length;
	p->layout.bat_length = (uint32_t)bytes;
	p->payload = p->layout.bat_offset + bytes;
	p->end = p->payload;
	if (g->leave_allocated) {
		p->end += g->block_count * g->block_size;
	}
	ret = guid_random(&p->header.file_write_guid);
	if (ret == 0) {
		ret = guid_random(&p->header.data_write_guid);
	}
	return ret;
}

/* The locator, with the linkage of today in front. */
static int locator_make(const struct vhdx_create *w, uint8_t *bytes,
			size_t room, size_t *_length)
{
	struct vhdx_locator_pair *pairs = NULL;
	char linkage[GUID_BRACED_SIZE] = "";
	size_t i = 0;
	int ret = 0;

	pairs = talloc_array(NULL, struct vhdx_locator_pair,
			     w->path_count + 1);
	if (pairs == NULL) {
		return -ENOMEM;
	}
	guid_format(&w->parent->header.data_write_guid, true, linkage);
	pairs[0].key = "parent_linkage";
	pairs[0].value = linkage;
	for (i = 0; i < w->path_count; i++) {
		pairs[i + 1] = w->paths[i];
	}
	ret = vhdx_locator_encode(pairs, w->path_count + 1, bytes, room,
				  _length);
	talloc_free(pairs);
	return ret;
}

static int write_metadata(struct store *store, const struct plan *p)
{
	const struct vhdx_geometry *g = &p->geometry;
	struct vhdx_item items[6] = {
		{ vhdx_guid_file_parameters, ITEMS_OFFSET, 8, false, false,
		  true },
		{ vhdx_guid_size, ITEMS_OFFSET + 8, 8, false, true, true },
		{ vhdx_guid_disk_id, ITEMS_OFFSET + 16, 16, false, true,
		  true },
		{ vhdx_guid_logical, ITEMS_OFFSET + 32, 4, false, true,
		  true },
		{ vhdx_guid_physical, ITEMS_OFFSET + 36, 4, false, true,
		  true },
		{ vhdx_guid_locator, ITEMS_OFFSET + VHDX_PAGE, 0, false,
		  false, true },
	};
	size_t room = VHDX_MIB;
	struct cursor_put c = {};
	uint8_t *bytes = NULL;
	size_t length = 0;
	int ret = 0;

	bytes = talloc_zero_size(NULL, room);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	if (g->has_parent) {
		ret = locator_make(p->wanted, bytes + items[5].offset,
				   room - items[5].offset, &length);
		items[5].length = (uint32_t)length;
	}
	vhdx_meta_encode(items, g->has_parent ? 6 : 5, bytes);
	cursor_put_init(&c, bytes, room);
	cursor_put_seek(&c, ITEMS_OFFSET);
	cursor_put_le32(&c, g->block_size);
	cursor_put_le32(&c, (g->leave_allocated ? 1U : 0) |
			    (g->has_parent ? 2U : 0));
	cursor_put_le64(&c, g->size);
	cursor_put_guid(&c, &p->disk_id);
	cursor_put_le32(&c, g->logical_sector);
	cursor_put_le32(&c, g->physical_sector);
	if (ret == 0) {
		ret = store_write(store, bytes,
				  ITEMS_OFFSET + VHDX_PAGE + length,
				  p->layout.metadata_offset);
	}
	talloc_free(bytes);
	return ret;
}

/* Every entry of a fixed disk: its block, present; bitmap places stay 0. */
static int write_fixed_table(struct store *store, const struct plan *p)
{
	const struct vhdx_geometry *g = &p->geometry;
	uint8_t *bytes = talloc_size(NULL, VHDX_MIB);
	uint64_t index = 0;
	uint64_t block = 0;
	int ret = 0;

	if (bytes == NULL) {
		return -ENOMEM;
	}
	while (ret == 0 && index < g->entries) {
		struct cursor_put c = {};
		uint64_t at = index * 8;

		cursor_put_init(&c, bytes, VHDX_MIB);
		while (index < g->entries &&
		       cursor_put_length(&c) < VHDX_MIB) {
			uint64_t entry = 0;

			if (index == vhdx_geometry_payload(g, block)) {
				entry = (p->payload + block * g->block_size) |
					VHDX_PRESENT;
				block++;
			}
			cursor_put_le64(&c, entry);
			index++;
		}
		ret = store_write(store, bytes, cursor_put_length(&c),
				  p->layout.bat_offset + at);
	}
	talloc_free(bytes);
	return ret;
}

static int write_head(struct store *store, const struct plan *p)
{
	uint8_t *bytes = talloc_zero_size(NULL, VHDX_IDENTITY_SIZE);
	unsigned copy = 0;
	int ret = 0;

	if (bytes == NULL) {
		return -ENOMEM;
	}
	vhdx_identity_encode(p->wanted->creator != NULL ? p->wanted->creator
							: "hvrs", bytes);
	ret = store_write(store, bytes, VHDX_IDENTITY_SIZE, 0);
	vhdx_region_encode(&p->layout, bytes);
	for (copy = 0; ret == 0 && copy < 2; copy++) {
		ret = store_write(store, bytes, VHDX_REGION_SIZE,
				  VHDX_REGION_OFFSET(copy));
	}
	talloc_free(bytes);
	return ret;
}

static int write_headers(struct store *store, const struct plan *p)
{
	uint8_t bytes[VHDX_HEADER_SIZE] = {};
	struct vhdx_header h = p->header;
	unsigned slot = 0;
	int ret = 0;

	for (slot = 0; ret == 0 && slot < 2; slot++) {
		h.sequence = slot + 1;
		vhdx_header_encode(&h, bytes);
		ret = store_write(store, bytes, sizeof(bytes),
				  VHDX_HEADER_OFFSET(slot));
	}
	return ret == 0 ? store_flush(store) : ret;
}

int vhdx_create(struct store *store, const struct vhdx_create *wanted)
{
	struct plan p = {};
	uint64_t size = 0;
	int ret = plan_make(wanted, &p);

	if (ret == 0) {
		ret = store_size(store, &size);
	}
	if (ret == 0 && size != 0) {
		ret = -EEXIST;
	}
	if (ret == 0) {
		ret = store_truncate(store, p.end);
	}
	if (ret == 0) {
		ret = write_metadata(store, &p);
	}
	if (ret == 0 && p.geometry.leave_allocated) {
		ret = write_fixed_table(store, &p);
	}
	if (ret == 0) {
		ret = write_head(store, &p);
	}
	if (ret == 0) {
		ret = store_flush(store);
	}
	if (ret == 0) {
		ret = write_headers(store, &p);
	}
	return ret;
}
