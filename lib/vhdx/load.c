/* Reading the region tables and the metadata of a file. */
#include "vhdx/vhdx_priv.h"

#include <errno.h>

#include "util/cursor.h"

int vhdx_meta_read(struct vhdx *disk, void *bytes, size_t length,
		   uint64_t offset)
{
	int ret = store_read(disk->store, bytes, length, offset);

	/* What a file too short does not have reads as zero, and is judged. */
	if (ret != 0 && ret != -ENODATA) {
		return ret;
	}
	if (disk->overlay != NULL) {
		vhdx_overlay_apply(disk->overlay, bytes, offset, length);
	}
	return 0;
}

int vhdx_load_regions(struct vhdx *disk, const char **why)
{
	struct vhdx_layout layout = {};
	uint8_t *bytes = talloc_size(disk, VHDX_REGION_SIZE);
	unsigned copy = 0;
	int ret = 0;

	if (bytes == NULL) {
		return -ENOMEM;
	}
	for (copy = 0; copy < 2; copy++) {
		ret = vhdx_meta_read(disk, bytes, VHDX_REGION_SIZE,
				     VHDX_REGION_OFFSET(copy));
		if (ret == 0) {
			ret = vhdx_region_load(bytes, &disk->header, &layout,
					       why);
		}
		if (ret != -EBADMSG) {
			break;
		}
	}
	talloc_free(bytes);
	if (ret == 0) {
		disk->layout = layout;
	}
	return ret;
}

/* The bytes of an item, children of mem_ctx, by way of whole pages. */
static int item_read(TALLOC_CTX *mem_ctx, struct vhdx *disk,
		     const struct vhdx_item *item, const uint8_t **_bytes)
{
	uint64_t offset = disk->layout.metadata_offset + item->offset;
	uint64_t first = offset - offset % VHDX_PAGE;
	uint64_t length = offset + item->length - first;
	uint8_t *bytes = NULL;
	int ret = 0;

	length = (length + VHDX_PAGE - 1) / VHDX_PAGE * VHDX_PAGE;
	bytes = talloc_size(mem_ctx, length);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	ret = vhdx_meta_read(disk, bytes, length, first);
	*_bytes = bytes + (offset - first);
	return ret;
}

static int item_cursor(TALLOC_CTX *mem_ctx, struct vhdx *disk,
		       const uint8_t *table, const struct guid *id,
		       struct cursor *_c)
{
	struct vhdx_item item = {};
	const uint8_t *bytes = NULL;
	int ret = 0;

	if (!vhdx_meta_find(table, id, &item)) {
		return -EBADMSG;
	}
	ret = item_read(mem_ctx, disk, &item, &bytes);
	if (ret == 0) {
		cursor_init(_c, bytes, item.length);
	}
	return ret;
}

static int load_items(TALLOC_CTX *mem_ctx, struct vhdx *disk,
		      const uint8_t *table, struct vhdx_geometry *g,
		      struct guid *disk_id)
{
	struct cursor c = {};
	uint32_t flags = 0;
	int ret = 0;

	ret = item_cursor(mem_ctx, disk, table, &vhdx_guid_file_parameters,
			  &c);
	if (ret != 0) {
		return ret;
	}
	g->block_size = cursor_le32(&c);
	flags = cursor_le32(&c);
	g->leave_allocated = (flags & 1) != 0;
	g->has_parent = (flags & 2) != 0;
	ret = item_cursor(mem_ctx, disk, table, &vhdx_guid_size, &c);
	if (ret != 0) {
		return ret;
	}
	g->size = cursor_le64(&c);
	ret = item_cursor(mem_ctx, disk, table, &vhdx_guid_logical, &c);
	if (ret != 0) {
		return ret;
	}
	g->logical_sector = cursor_le32(&c);
	ret = item_cursor(mem_ctx, disk, table, &vhdx_guid_physical, &c);
	if (ret != 0) {
		return ret;
	}
	g->physical_sector = cursor_le32(&c);
	ret = item_cursor(mem_ctx, disk, table, &vhdx_guid_disk_id, &c);
	if (ret != 0) {
		return ret;
	}
	cursor_guid(&c, disk_id);
	return cursor_status(&c);
}

static int load_locator(struct vhdx *disk, const uint8_t *table,
			const char **why)
{
	struct vhdx_locator_pair *pairs = NULL;
	const uint8_t *bytes = NULL;
	struct vhdx_item item = {};
	TALLOC_CTX *frame = NULL;
	size_t count = 0;
	int ret = 0;

	if (!vhdx_meta_find(table, &vhdx_guid_locator, &item)) {
		*why = "a differencing file without a parent locator";
		return -EBADMSG;
	}
	frame = talloc_new(disk);
	if (frame == NULL) {
		return -ENOMEM;
	}
	ret = item_read(frame, disk, &item, &bytes);
	if (ret == 0) {
		ret = vhdx_locator_decode(disk, bytes, item.length, &pairs,
					  &count, why);
	}
	talloc_free(frame);
	if (ret == 0) {
		talloc_free(disk->pairs);
		disk->pairs = pairs;
		disk->pair_count = count;
	}
	return ret;
}

int vhdx_load_metadata(struct vhdx *disk, const char **why)
{
	struct vhdx_geometry g = {};
	struct guid disk_id = {};
	uint8_t *table = NULL;
	TALLOC_CTX *frame = talloc_new(disk);
	int ret = -ENOMEM;

	if (frame == NULL) {
		return -ENOMEM;
	}
	table = talloc_size(frame, VHDX_META_TABLE_SIZE);
	if (table != NULL) {
		ret = vhdx_meta_read(disk, table, VHDX_META_TABLE_SIZE,
				     disk->layout.metadata_offset);
	}
	if (ret == 0) {
		ret = vhdx_meta_validate(table, disk->layout.metadata_length,
					 why);
	}
	if (ret == 0) {
		ret = load_items(frame, disk, table, &g, &disk_id);
	}
	if (ret == 0 && vhdx_geometry_fill(&g) != 0) {
		*why = "a size in the metadata is not allowed";
		ret = -EBADMSG;
	}
	if (ret == 0 && g.entries > disk->layout.bat_length / 8) {
		*why = "the block table is too small for the disk";
		ret = -EBADMSG;
	}
	if (ret == 0 && g.has_parent) {
		ret = load_locator(disk, table, why);
	}
	talloc_free(frame);
	if (ret == 0) {
		disk->geometry = g;
		disk->disk_id = disk_id;
	}
	return ret;
}
