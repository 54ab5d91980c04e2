/* Where a sector lies: table entries, bitmaps, parents. [MS-VHDX] 2.5 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>

#include "util/checked.h"

uint64_t vhdx_entry_page(const struct vhdx *disk, uint64_t index, unsigned *_at)
{
	uint64_t offset = disk->layout.bat_offset + index * 8;

	*_at = (unsigned)(offset % VHDX_PAGE);
	return offset - *_at;
}

static bool meets(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
	return a < b + b_length && b < a + a_length;
}

int vhdx_entry_check(struct vhdx *disk, uint64_t entry, bool bitmap)
{
	uint64_t offset = entry & VHDX_ENTRY_OFFSET;
	unsigned state = (unsigned)(entry & VHDX_ENTRY_STATE);
	uint64_t length = bitmap ? VHDX_BITMAP_SIZE : disk->geometry.block_size;
	uint64_t end = 0;

	if ((entry & VHDX_ENTRY_RESERVED) != 0 || state == 4 ||
	    (bitmap && state != VHDX_NOT_PRESENT && state != VHDX_PRESENT) ||
	    (state == VHDX_PARTIAL && !disk->geometry.has_parent)) {
		return -EBADMSG;
	}
	if (state != VHDX_PRESENT && state != VHDX_PARTIAL) {
		return 0;
	}
	if (offset < VHDX_MIB || checked_add(offset, length, &end) != 0 ||
	    end > VHDX_FILE_MAX ||
	    meets(offset, length, disk->header.log_offset,
		  disk->header.log_length) ||
	    meets(offset, length, disk->layout.bat_offset,
		  disk->layout.bat_length) ||
	    meets(offset, length, disk->layout.metadata_offset,
		  disk->layout.metadata_length)) {
		return -EBADMSG;
	}
	if (end > disk->file_size) {
		uint64_t size = 0;
		int ret = store_size(disk->store, &size);

		if (ret != 0) {
			return ret;
		}
		/* The last MiB of a file may be short, and reads as zero. */
		ret = checked_round_up(size, VHDX_MIB, &size);
		if (ret == 0 && size > disk->file_size) {
			disk->file_size = size;
		}
		if (end > disk->file_size) {
			return -EBADMSG;
		}
	}
	return 0;
}

/* Bits alike from bit first of a page on, at most count; *_set tells which. */
static uint32_t run_of(const uint8_t *bytes, uint32_t first, uint32_t count,
		       bool *_set)
{
	bool set = (bytes[first / 8] >> first % 8 & 1) != 0;
	uint8_t whole = set ? 0xFF : 0;
	uint32_t n = 0;

	while (n < count) {
		uint32_t bit = first + n;

		if (bit % 8 == 0 && count - n >= 8 && bytes[bit / 8] == whole) {
			n += 8;
			continue;
		}
		if (((bytes[bit / 8] >> bit % 8 & 1) != 0) != set) {
			break;
		}
		n++;
	}
	*_set = set;
	return n;
}

/* A block in state 7: its sectors by the chunk's bitmap. */
static int map_partial(struct vhdx *disk, uint64_t block, uint64_t within,
		       uint64_t *_length, struct vhdx_wait *wait,
		       bool *_here)
{
	const struct vhdx_geometry *g = &disk->geometry;
	struct vhdx_page *page = NULL;
	uint64_t entry = 0;
	uint64_t byte = 0;
	uint64_t bit = 0;
	uint32_t run = 0;
	unsigned at = 0;
	uint64_t offset = vhdx_entry_page(
		disk, vhdx_geometry_bitmap(g, block), &at);
	int ret = vhdx_page_get(disk, offset, wait, &page);

	if (ret != 0) {
		return ret;
	}
	entry = vhdx_page_entry(page, at);
	ret = vhdx_entry_check(disk, entry, true);
	if (ret != 0) {
		return ret;
	}
	if ((entry & VHDX_ENTRY_STATE) != VHDX_PRESENT) {
		return -EBADMSG;
	}
	bit = vhdx_geometry_first_bit(g, block) + within / g->logical_sector;
	byte = bit / 8;
	ret = vhdx_page_get(disk, (entry & VHDX_ENTRY_OFFSET) +
				  byte - byte % VHDX_PAGE, wait, &page);
	if (ret != 0) {
		return ret;
	}
	bit %= 8 * VHDX_PAGE;
	run = 8 * VHDX_PAGE - (uint32_t)bit;
	if (*_length / g->logical_sector < run) {
		run = (uint32_t)(*_length / g->logical_sector);
	}
	run = run_of(page->bytes, (uint32_t)bit, run, _here);
	*_length = (uint64_t)run * g->logical_sector;
	return 0;
}

int vhdx_map_file(struct vhdx *disk, uint64_t offset, uint64_t *_length,
		  struct vhdx_wait *wait, enum vhdx_place *_place,
		  uint64_t *_file_offset)
{
	const struct vhdx_geometry *g = &disk->geometry;
	uint64_t block = offset >> g->block_shift;
	uint64_t within = offset & (g->block_size - 1);
	struct vhdx_page *page = NULL;
	bool here = true;
	uint64_t entry = 0;
	unsigned at = 0;
	int ret = 0;

	if (offset >= g->size) {
		*_place = VHDX_PLACE_ZERO;
		return 0;
	}
	if (*_length > g->size - offset) {
		*_length = g->size - offset;
	}
	if (*_length > g->block_size - within) {
		*_length = g->block_size - within;
	}
	ret = vhdx_page_get(disk,
			    vhdx_entry_page(disk,
					    vhdx_geometry_payload(g, block),
					    &at),
			    wait, &page);
	if (ret != 0) {
		return ret;
	}
	entry = vhdx_page_entry(page, at);
	ret = vhdx_entry_check(disk, entry, false);
	if (ret != 0) {
		return ret;
	}
	*_file_offset = (entry & VHDX_ENTRY_OFFSET) + within;
	switch (entry & VHDX_ENTRY_STATE) {
	case VHDX_NOT_PRESENT:
		*_place = g->has_parent ? VHDX_PLACE_PARENT : VHDX_PLACE_ZERO;
		return 0;
	case VHDX_PRESENT:
		*_place = VHDX_PLACE_FILE;
		return 0;
	case VHDX_PARTIAL:
		ret = map_partial(disk, block, within, _length, wait, &here);
		*_place = here ? VHDX_PLACE_FILE : VHDX_PLACE_PARENT;
		return ret;
	default:
		*_place = VHDX_PLACE_ZERO;
		return 0;
	}
}

int vhdx_map_chain(struct vhdx *disk, uint64_t offset, uint64_t *_length,
		   struct vhdx_wait *wait, enum vhdx_place *_place,
		   uint64_t *_file_offset, struct vhdx **_holder,
		   unsigned *_depth)
{
	unsigned depth = 0;
	int ret = 0;

	/* The chain was bounded when it was opened. */
	for (;;) {
		ret = vhdx_map_file(disk, offset, _length, wait, _place,
				    _file_offset);
		if (ret != 0) {
			return ret;
		}
		*_holder = disk;
		*_depth = depth;
		if (*_place != VHDX_PLACE_PARENT) {
			return 0;
		}
		if (disk->parent == NULL) {
			return -ENOENT;
		}
		disk = disk->parent;
		depth++;
	}
}
