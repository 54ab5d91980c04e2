/* Looking at a disk as a whole: where its bytes are, and its table. */
#include "vhdx/vhdx_priv.h"

#include <errno.h>

int vhdx_map(struct vhdx *disk, uint64_t offset, uint64_t length,
	     struct vhdx_extent *_extent)
{
	enum vhdx_place place = VHDX_PLACE_ZERO;
	struct vhdx_extent extent = {};
	struct vhdx *holder = NULL;
	int ret = vhdx_idle_check(disk, false);

	if (ret != 0) {
		return ret;
	}
	if (offset % disk->geometry.logical_sector != 0 ||
	    length < disk->geometry.logical_sector ||
	    offset >= disk->geometry.size) {
		return -EINVAL;
	}
	if (length > disk->geometry.size - offset) {
		length = disk->geometry.size - offset;
	}
	ret = vhdx_map_chain(disk, offset, &length, NULL, &place,
			     &extent.file_offset, &holder, &extent.depth);
	if (ret != 0) {
		return ret;
	}
	extent.offset = offset;
	extent.length = length;
	extent.kind = VHDX_EXTENT_DATA;
	if (place == VHDX_PLACE_ZERO) {
		extent.kind = VHDX_EXTENT_ZERO;
		extent.file_offset = 0;
	}
	*_extent = extent;
	return 0;
}

int vhdx_block_get(struct vhdx *disk, uint64_t block,
		   struct vhdx_block *_block)
{
	struct vhdx_page *page = NULL;
	uint64_t entry = 0;
	unsigned at = 0;
	int ret = vhdx_idle_check(disk, false);

	if (ret == 0 && block >= disk->geometry.block_count) {
		ret = -EINVAL;
	}
	if (ret == 0) {
		uint64_t index = vhdx_geometry_payload(&disk->geometry, block);

		ret = vhdx_page_get(disk, vhdx_entry_page(disk, index, &at),
				    NULL, &page);
	}
	if (ret != 0) {
		return ret;
	}
	entry = vhdx_page_entry(page, at);
	_block->state = (unsigned)(entry & VHDX_ENTRY_STATE);
	_block->file_offset = entry & VHDX_ENTRY_OFFSET;
	return 0;
}
