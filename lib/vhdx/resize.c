/*
 * Changing the size, and rewriting metadata: everything goes through one log
 * entry, prepared so that before it nothing of the old is touched.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"
#include "util/cursor.h"

/* Pages of metadata read, changed and to be logged together. */
struct change {
	struct vhdx_log_page pages[VHDX_COMMIT_MAX];
	unsigned count;
};

/* Adds the pages that cover length bytes of a buffer meant for offset. */
static int change_add(struct change *c, const uint8_t *bytes, uint64_t offset,
		      size_t length)
{
	size_t at = 0;

	for (at = 0; at < length; at += VHDX_PAGE) {
		if (c->count == VHDX_COMMIT_MAX) {
			return -EFBIG;
		}
		c->pages[c->count].offset = offset + at;
		c->pages[c->count].bytes = bytes + at;
		c->count++;
	}
	return 0;
}

/* The page of the metadata region with the disk's size in it, changed. */
static int change_size(TALLOC_CTX *frame, struct vhdx *disk, uint64_t size,
		       struct change *c)
{
	uint8_t *table = talloc_size(frame, VHDX_META_TABLE_SIZE);
	uint8_t *bytes = talloc_size(frame, 2 * VHDX_PAGE);
	struct vhdx_item item = {};
	struct cursor_put put = {};
	uint64_t offset = 0;
	size_t length = VHDX_PAGE;
	int ret = 0;

	if (table == NULL || bytes == NULL) {
		return -ENOMEM;
	}
	ret = vhdx_meta_read(disk, table, VHDX_META_TABLE_SIZE,
			     disk->layout.metadata_offset);
	if (ret == 0 && !vhdx_meta_find(table, &vhdx_guid_size, &item)) {
		ret = -EBADMSG;
	}
	if (ret != 0) {
		return ret;
	}
	offset = disk->layout.metadata_offset + item.offset;
	if (offset % VHDX_PAGE + 8 > VHDX_PAGE) {
		length = 2 * VHDX_PAGE;
	}
	ret = vhdx_meta_read(disk, bytes, length, offset - offset % VHDX_PAGE);
	if (ret != 0) {
		return ret;
	}
	cursor_put_init(&put, bytes, length);
	cursor_put_seek(&put, offset % VHDX_PAGE);
	cursor_put_le64(&put, size);
	return change_add(c, bytes, offset - offset % VHDX_PAGE, length);
}

/* Both copies of the region table, with the block table at a new place. */
static int change_regions(TALLOC_CTX *frame, struct vhdx *disk,
			  const struct vhdx_layout *layout, struct change *c)
{
	uint8_t *bytes = talloc_size(frame, VHDX_REGION_SIZE);
	struct vhdx_layout found = {};
	const char *why = NULL;
	unsigned copy = 0;
	int ret = -ENOMEM;

	for (copy = 0; bytes != NULL && copy < 2; copy++) {
		ret = vhdx_meta_read(disk, bytes, VHDX_REGION_SIZE,
				     VHDX_REGION_OFFSET(copy));
		if (ret == 0) {
			ret = vhdx_region_load(bytes, &disk->header, &found,
					       &why);
		}
		if (ret == 0) {
			break;
		}
	}
	if (ret != 0) {
		return ret;
	}
	vhdx_region_move_bat(bytes, layout->bat_offset, layout->bat_length);
	/* Only the first pages of each copy can hold entries that changed. */
	for (copy = 0; ret == 0 && copy < 2; copy++) {
		ret = change_add(c, bytes, VHDX_REGION_OFFSET(copy),
				 VHDX_REGION_SIZE);
	}
	return ret;
}

int vhdx_regions_rewrite(struct vhdx *disk)
{
	TALLOC_CTX *frame = talloc_new(disk);
	struct change c = {};
	int ret = -ENOMEM;

	if (frame != NULL) {
		ret = change_regions(frame, disk, &disk->layout, &c);
	}
	if (ret == 0) {
		ret = vhdx_log_commit(disk, c.pages, c.count);
	}
	talloc_free(frame);
	return ret;
}

/* A larger block table at the end of the file, stable before it is named. */
static int table_move(struct vhdx *disk, uint64_t entries,
		      struct vhdx_layout *layout)
{
	uint8_t *bytes = NULL;
	uint64_t length = 0;
	uint64_t at = 0;
	int ret = checked_round_up(entries * 8, VHDX_MIB, &length);

	if (ret == 0 && length > VHDX_BAT_MAX) {
		ret = -EFBIG;
	}
	if (ret == 0) {
		ret = vhdx_space_take(disk, length, &layout->bat_offset);
	}
	if (ret != 0) {
		return ret;
	}
	layout->bat_length = (uint32_t)length;
	bytes = talloc_size(disk, VHDX_MIB);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	for (at = 0; ret == 0 && at < disk->layout.bat_length;
	     at += VHDX_MIB) {
		ret = vhdx_meta_read(disk, bytes, VHDX_MIB,
				     disk->layout.bat_offset + at);
		if (ret == 0) {
			ret = store_write(disk->store, bytes, VHDX_MIB,
					  layout->bat_offset + at);
		}
	}
	talloc_free(bytes);
	return ret == 0 ? store_flush(disk->store) : ret;
}

int vhdx_entry_put(struct vhdx *disk, uint64_t index, uint64_t entry)
{
	struct vhdx_page *page = NULL;
	unsigned at = 0;
	int ret = 0;

	if (disk->pages.dirty == VHDX_COMMIT_MAX) {
		ret = vhdx_commit_wait(disk);
		if (ret != 0) {
			return ret;
		}
	}
	ret = vhdx_page_get(disk, vhdx_entry_page(disk, index, &at), NULL,
			    &page);
	if (ret == 0) {
		vhdx_page_entry_set(page, at, entry);
		vhdx_page_dirty(page);
	}
	return ret;
}

/* ---- growing -------------------------------------------------------------- */

/*
 * A fixed disk's new blocks take their space, which is zero, and their entries
 * before the size admits them.
 */
static int fixed_grow(struct vhdx *disk, const struct vhdx_geometry *g)
{
	uint64_t block = 0;
	int ret = 0;

	for (block = disk->geometry.block_count;
	     ret == 0 && block < g->block_count; block++) {
		uint64_t place = 0;

		ret = vhdx_space_take(disk, g->block_size, &place);
		if (ret == 0) {
			ret = vhdx_entry_put(disk, vhdx_geometry_payload(g, block),
					place | VHDX_PRESENT);
		}
	}
	return ret == 0 ? vhdx_commit_wait(disk) : ret;
}

/*
 * Entries past the old end may hold anything, and blocks of a differencing
 * disk must not show its parent there ([MS-VHDX] 2.5.1.1): they become zero.
 */
static int entries_clear(struct vhdx *disk, const struct vhdx_geometry *g,
			 uint64_t first, uint64_t end)
{
	uint64_t fresh = g->has_parent ? VHDX_ZERO : VHDX_NOT_PRESENT;
	uint64_t block = 0;
	int ret = 0;

	for (block = first; ret == 0 && block < end; block++) {
		uint64_t index = vhdx_geometry_payload(g, block);
		struct vhdx_page *page = NULL;
		unsigned at = 0;

		ret = vhdx_page_get(disk, vhdx_entry_page(disk, index, &at),
				    NULL, &page);
		if (ret == 0 && vhdx_page_entry(page, at) != fresh) {
			ret = vhdx_entry_put(disk, index, fresh);
		}
	}
	return ret == 0 ? vhdx_commit_wait(disk) : ret;
}

/*
 * What lies past the end inside the last block must read as zero when the disk
 * grows: made so after it shrank, and, as a cut may have come in between, again
 * before it grows.
 */
static int tail_zero(struct vhdx *disk, const struct vhdx_geometry *g)
{
	uint64_t rest = g->size % g->block_size;
	uint64_t index = vhdx_geometry_payload(g, g->block_count - 1);
	struct vhdx_page *page = NULL;
	uint64_t entry = 0;
	unsigned at = 0;
	int ret = 0;

	if (rest == 0) {
		return 0;
	}
	ret = vhdx_page_get(disk, vhdx_entry_page(disk, index, &at), NULL,
			    &page);
	if (ret != 0) {
		return ret;
	}
	entry = vhdx_page_entry(page, at);
	ret = vhdx_entry_check(disk, entry, false);
	if (ret != 0 || (entry & VHDX_ENTRY_STATE) != VHDX_PRESENT) {
		return ret;
	}
	ret = store_zero(disk->store, (entry & VHDX_ENTRY_OFFSET) + rest,
			 g->block_size - rest);
	return ret == 0 ? store_flush(disk->store) : ret;
}

static int grow(struct vhdx *disk, const struct vhdx_geometry *g,
		struct vhdx_layout *layout, struct change *c,
		TALLOC_CTX *frame)
{
	uint64_t old = disk->geometry.block_count;
	bool moved = false;
	int ret = 0;

	if (g->entries > disk->layout.bat_length / 8) {
		ret = table_move(disk, g->entries, layout);
		if (ret == 0) {
			ret = change_regions(frame, disk, layout, c);
		}
		moved = true;
	}
	if (ret == 0 && moved) {
		/* The old table's space is unused from here on. */
		ret = vhdx_log_commit(disk, c->pages, c->count);
		c->count = 0;
		if (ret == 0) {
			disk->layout = *layout;
			vhdx_pages_forget(disk);
		}
	}
	if (ret == 0) {
		ret = tail_zero(disk, &disk->geometry);
	}
	if (ret == 0 && g->leave_allocated && !g->has_parent) {
		return fixed_grow(disk, g);
	}
	if (ret == 0) {
		ret = entries_clear(disk, g, old, g->block_count);
	}
	return ret;
}

/* ---- shrinking ------------------------------------------------------------ */

static int last_block(struct vhdx *disk, uint64_t *_blocks)
{
	const struct vhdx_geometry *g = &disk->geometry;
	uint64_t block = g->block_count;
	int ret = 0;

	while (block > 0) {
		uint64_t index = vhdx_geometry_payload(g, block - 1);
		struct vhdx_page *page = NULL;
		unsigned state = 0;
		unsigned at = 0;

		ret = vhdx_page_get(disk, vhdx_entry_page(disk, index, &at),
				    NULL, &page);
		if (ret != 0) {
			return ret;
		}
		state = vhdx_page_entry(page, at) & VHDX_ENTRY_STATE;
		/* In a differencing disk the parent's data counts as well. */
		if (state == VHDX_PRESENT || state == VHDX_PARTIAL ||
		    (state == VHDX_NOT_PRESENT && g->has_parent)) {
			break;
		}
		block--;
	}
	*_blocks = block;
	return 0;
}

int vhdx_size_least(struct vhdx *disk, uint64_t *_size)
{
	const struct vhdx_geometry *g = &disk->geometry;
	uint64_t blocks = 0;
	uint64_t size = 0;
	int ret = vhdx_idle_check(disk, false);

	if (ret == 0) {
		ret = last_block(disk, &blocks);
	}
	if (ret != 0) {
		return ret;
	}
	size = blocks * g->block_size;
	if (size == 0) {
		size = g->block_size;
	}
	*_size = size < g->size ? size : g->size;
	return 0;
}

/* ---- the door ------------------------------------------------------------- */

static int resize_locked(struct vhdx *disk, uint64_t size, bool discard,
			 bool *_layout)
{
	struct vhdx_geometry g = disk->geometry;
	struct vhdx_geometry old = disk->geometry;
	struct vhdx_layout layout = disk->layout;
	TALLOC_CTX *frame = NULL;
	struct change c = {};
	uint64_t blocks = 0;
	int ret = 0;

	g.size = size;
	ret = vhdx_geometry_fill(&g);
	if (ret != 0 || size == disk->geometry.size) {
		return ret;
	}
	/* In a partial block the bits past the end would need rewriting. */
	if (size < old.size && g.has_parent && size % g.block_size != 0) {
		return -EINVAL;
	}
	if (size < old.size && !discard) {
		ret = last_block(disk, &blocks);
		if (ret == 0 && blocks > g.block_count) {
			ret = -EBUSY;
		}
	}
	if (ret == 0) {
		ret = vhdx_session_start(disk, true);
	}
	if (ret != 0) {
		return ret;
	}
	frame = talloc_new(disk);
	if (frame == NULL) {
		return -ENOMEM;
	}
	*_layout = true;
	if (size > old.size) {
		ret = grow(disk, &g, &layout, &c, frame);
	}
	if (ret == 0) {
		ret = change_size(frame, disk, size, &c);
	}
	if (ret == 0) {
		ret = vhdx_log_commit(disk, c.pages, c.count);
	}
	talloc_free(frame);
	if (ret != 0) {
		return ret;
	}
	disk->geometry = g;
	if (size < old.size) {
		/* The size is what counts; entries past it are cleared after. */
		ret = entries_clear(disk, &old, g.block_count,
				    old.block_count);
		if (ret == 0) {
			ret = tail_zero(disk, &g);
		}
	}
	return ret;
}

int vhdx_resize(struct vhdx *disk, uint64_t size, bool discard)
{
	bool layout = false;
	int ret = vhdx_idle_check(disk, true);
	int ret2 = 0;

	if (ret != 0) {
		return ret;
	}
	ret = vhdx_commit_wait(disk);
	if (ret == 0) {
		ret = vhdx_share_lock(disk, NULL);
	}
	if (ret != 0) {
		return ret;
	}
	ret = resize_locked(disk, size, discard, &layout);
	if (disk->broken != 0 && disk->share != NULL) {
		disk->share->ops->unlock(disk->share);
		return ret;
	}
	ret2 = vhdx_share_unlock(disk, layout, layout);
	return ret != 0 ? ret : ret2;
}

/* ---- the locator ---------------------------------------------------------- */

/*
 * The new locator takes a place of the region that the old one does not use,
 * or, where there is none, more room than it had.
 */
static int locator_place(const uint8_t *table, uint32_t region_length,
			 const struct vhdx_item *now, size_t length,
			 uint32_t *_offset)
{
	uint64_t end = VHDX_META_TABLE_SIZE;
	uint32_t count = vhdx_meta_count(table);
	uint32_t i = 0;

	for (i = 0; i < count; i++) {
		struct vhdx_item item = {};

		vhdx_meta_entry(table, i, &item);
		if ((uint64_t)item.offset + item.length > end) {
			end = (uint64_t)item.offset + item.length;
		}
	}
	end = (end + VHDX_PAGE - 1) / VHDX_PAGE * VHDX_PAGE;
	if (checked_inside(end, length, region_length)) {
		*_offset = (uint32_t)end;
		return 0;
	}
	if (length <= now->length) {
		*_offset = now->offset;
		return 0;
	}
	return -EFBIG;
}

static int locator_change(TALLOC_CTX *frame, struct vhdx *disk,
			  const struct vhdx_locator_pair *pairs, size_t count,
			  struct change *c)
{
	uint8_t *table = talloc_size(frame, VHDX_META_TABLE_SIZE);
	uint8_t *item_bytes = talloc_zero_size(frame, VHDX_ITEM_MAX);
	uint8_t *bytes = NULL;
	struct vhdx_item item = {};
	uint64_t first = 0;
	uint64_t end = 0;
	uint32_t offset = 0;
	size_t length = 0;
	int ret = 0;

	if (table == NULL || item_bytes == NULL) {
		return -ENOMEM;
	}
	ret = vhdx_locator_encode(pairs, count, item_bytes, VHDX_ITEM_MAX,
				  &length);
	if (ret == 0) {
		ret = vhdx_meta_read(disk, table, VHDX_META_TABLE_SIZE,
				     disk->layout.metadata_offset);
	}
	if (ret == 0 && !vhdx_meta_find(table, &vhdx_guid_locator, &item)) {
		ret = -EBADMSG;
	}
	if (ret == 0) {
		ret = locator_place(table, disk->layout.metadata_length, &item,
				    length, &offset);
	}
	if (ret != 0) {
		return ret;
	}
	first = offset - offset % VHDX_PAGE;
	end = (offset + length + VHDX_PAGE - 1) / VHDX_PAGE * VHDX_PAGE;
	bytes = talloc_size(frame, end - first);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	ret = vhdx_meta_read(disk, bytes, end - first,
			     disk->layout.metadata_offset + first);
	if (ret != 0) {
		return ret;
	}
	memcpy(bytes + (offset - first), item_bytes, length);
	vhdx_meta_set_place(table, &vhdx_guid_locator, offset,
			    (uint32_t)length);
	ret = change_add(c, table, disk->layout.metadata_offset,
			 VHDX_META_TABLE_SIZE);
	if (ret == 0) {
		ret = change_add(c, bytes,
				 disk->layout.metadata_offset + first,
				 end - first);
	}
	return ret;
}

int vhdx_locator_set(struct vhdx *disk, const struct vhdx_locator_pair *pairs,
		     size_t count)
{
	TALLOC_CTX *frame = NULL;
	const char *why = NULL;
	struct change c = {};
	int ret = vhdx_idle_check(disk, true);

	if (ret != 0) {
		return ret;
	}
	if (!disk->geometry.has_parent || disk->share != NULL ||
	    vhdx_locator_value(pairs, count, "parent_linkage") == NULL) {
		return -EINVAL;
	}
	frame = talloc_new(disk);
	if (frame == NULL) {
		return -ENOMEM;
	}
	ret = vhdx_commit_wait(disk);
	if (ret == 0) {
		ret = vhdx_session_start(disk, false);
	}
	if (ret == 0) {
		ret = locator_change(frame, disk, pairs, count, &c);
	}
	if (ret == 0) {
		ret = vhdx_log_commit(disk, c.pages, c.count);
	}
	talloc_free(frame);
	return ret == 0 ? vhdx_load_metadata(disk, &why) : ret;
}
