/* Checking a whole file, and repairing what can be repaired safely. */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

struct check {
	struct vhdx *disk;
	bool repair;
	void (*report)(void *private_data, const struct vhdx_finding *finding);
	void *private_data;
	struct vhdx_usage usage;
	struct vhdx_check_result result;
};

static void found(struct check *c, enum vhdx_check_kind kind, const char *what,
		  uint64_t index, uint64_t offset, uint64_t length,
		  bool repaired)
{
	struct vhdx_finding f = {
		.kind = kind, .what = what, .index = index,
		.file_offset = offset, .length = length,
		.repaired = repaired,
	};

	if (kind != VHDX_CHECK_LEAK) {
		c->result.errors++;
		c->result.repaired += repaired ? 1 : 0;
	}
	if (c->report != NULL) {
		c->report(c->private_data, &f);
	}
}

static int check_headers(struct check *c)
{
	uint8_t bytes[VHDX_HEADER_SIZE] = {};
	struct vhdx *disk = c->disk;
	struct vhdx_header h = {};
	unsigned slot = 0;
	int ret = 0;

	for (slot = 0; slot < 2; slot++) {
		ret = store_read(disk->store, bytes, sizeof(bytes),
				 VHDX_HEADER_OFFSET(slot));
		if (ret != 0) {
			return ret;
		}
		if (vhdx_header_decode(bytes, &h) == 0) {
			continue;
		}
		if (c->repair) {
			h = disk->header;
			ret = vhdx_header_update(disk, &h, 2);
		}
		found(c, VHDX_CHECK_HEADER, "one of the two headers is bad",
		      slot, VHDX_HEADER_OFFSET(slot), VHDX_HEADER_SIZE,
		      c->repair && ret == 0);
		if (ret != 0) {
			return ret;
		}
	}
	return 0;
}

static int check_regions(struct check *c)
{
	struct vhdx *disk = c->disk;
	struct vhdx_layout layout = {};
	uint8_t *bytes[2] = {};
	const char *why = NULL;
	bool bad[2] = {};
	unsigned copy = 0;
	int ret = 0;

	for (copy = 0; copy < 2; copy++) {
		bytes[copy] = talloc_size(c->usage.bits, VHDX_REGION_SIZE);
		if (bytes[copy] == NULL) {
			return -ENOMEM;
		}
		ret = vhdx_meta_read(disk, bytes[copy], VHDX_REGION_SIZE,
				     VHDX_REGION_OFFSET(copy));
		if (ret != 0) {
			return ret;
		}
		bad[copy] = vhdx_region_load(bytes[copy], &disk->header,
					     &layout, &why) != 0;
	}
	if (!bad[0] && !bad[1] &&
	    memcmp(bytes[0], bytes[1], VHDX_REGION_SIZE) == 0) {
		return 0;
	}
	if (c->repair) {
		ret = vhdx_regions_rewrite(disk);
	}
	copy = bad[0] ? 0 : 1;
	found(c, VHDX_CHECK_REGION, "the two region tables differ", copy,
	      VHDX_REGION_OFFSET(copy), VHDX_REGION_SIZE,
	      c->repair && ret == 0);
	return ret;
}

/* An entry that cannot stay; cleared, its block reads as zero. */
static int bad_entry(struct check *c, enum vhdx_check_kind kind,
		     const char *what, uint64_t index, uint64_t offset,
		     uint64_t length, bool bitmap)
{
	int ret = 0;

	if (c->repair) {
		/*
		 * Zero, not absent: in a differencing disk an absent block
		 * would show its parent's old data.
		 */
		ret = vhdx_entry_put(c->disk, index,
				     bitmap ? VHDX_NOT_PRESENT : VHDX_ZERO);
	}
	found(c, kind, what, index, offset, length, c->repair && ret == 0);
	return ret;
}

static int check_bitmap(struct check *c, uint64_t block, uint64_t index,
			uint64_t offset)
{
	struct vhdx *disk = c->disk;
	struct vhdx_page *page = NULL;
	uint64_t entry = 0;
	unsigned at = 0;
	int ret = vhdx_page_get(
		disk,
		vhdx_entry_page(disk, vhdx_geometry_bitmap(&disk->geometry,
							   block), &at),
		NULL, &page);

	if (ret != 0) {
		return ret;
	}
	entry = vhdx_page_entry(page, at);
	if ((entry & VHDX_ENTRY_STATE) == VHDX_PRESENT &&
	    vhdx_entry_check(disk, entry, true) == 0) {
		return 0;
	}
	return bad_entry(c, VHDX_CHECK_BITMAP,
			 "a partial block without its bitmap", index, offset,
			 disk->geometry.block_size, false);
}

static int check_entry(void *private_data, uint64_t index, uint64_t block,
		       uint64_t entry)
{
	struct check *c = private_data;
	struct vhdx *disk = c->disk;
	bool bitmap = block == UINT64_MAX;
	uint64_t offset = entry & VHDX_ENTRY_OFFSET;
	uint64_t length = bitmap ? VHDX_BITMAP_SIZE
				 : disk->geometry.block_size;
	unsigned state = (unsigned)(entry & VHDX_ENTRY_STATE);
	int ret = vhdx_entry_check(disk, entry, bitmap);

	if (ret == -EBADMSG) {
		bool allowed = (entry & VHDX_ENTRY_RESERVED) == 0 &&
			       (state == VHDX_PRESENT ||
				(state == VHDX_PARTIAL && !bitmap &&
				 disk->geometry.has_parent));

		return bad_entry(c, allowed ? VHDX_CHECK_OUTSIDE
					    : VHDX_CHECK_ENTRY,
				 allowed ? "a block lies where none may be"
					 : "a table entry that is not allowed",
				 index, offset, length, bitmap);
	}
	if (ret != 0) {
		return ret;
	}
	if (state == VHDX_UNMAPPED || state == VHDX_UNMAPPED_DRAFT) {
		c->result.blocks_unmapped++;
	}
	if (state != VHDX_PRESENT && state != VHDX_PARTIAL) {
		if (offset != 0 && state != VHDX_ZERO) {
			/* A soft anchor; one that clashes is just not used. */
			(void)vhdx_usage_mark(&c->usage, offset, length);
		}
		return 0;
	}
	ret = vhdx_usage_mark(&c->usage, offset, length);
	if (ret != 0) {
		return bad_entry(c, ret == -EEXIST ? VHDX_CHECK_OVERLAP
						   : VHDX_CHECK_OUTSIDE,
				 "two structures share space", index, offset,
				 length, bitmap);
	}
	if (!bitmap) {
		c->result.blocks_present += state == VHDX_PRESENT ? 1 : 0;
		c->result.blocks_partial += state == VHDX_PARTIAL ? 1 : 0;
	}
	if (state == VHDX_PARTIAL) {
		return check_bitmap(c, block, index, offset);
	}
	return 0;
}

static int check_all(struct check *c)
{
	int ret = check_headers(c);

	if (ret == 0) {
		ret = check_regions(c);
	}
	if (ret == 0) {
		ret = vhdx_table_walk(c->disk, check_entry, c);
	}
	if (ret == 0 && c->repair) {
		ret = vhdx_commit_wait(c->disk);
	}
	if (ret == 0 && c->usage.used < c->usage.mibs) {
		c->result.bytes_leaked = (c->usage.mibs - c->usage.used) *
					 VHDX_MIB;
		found(c, VHDX_CHECK_LEAK, "space that nothing uses", 0, 0,
		      c->result.bytes_leaked, false);
	}
	return ret;
}

int vhdx_check(struct vhdx *disk, bool repair,
	       void (*report)(void *private_data,
			      const struct vhdx_finding *finding),
	       void *private_data, struct vhdx_check_result *_result)
{
	struct check *c = NULL;
	int ret = vhdx_idle_check(disk, repair);

	if (ret == 0 && repair && disk->share != NULL) {
		ret = -EINVAL;
	}
	if (ret != 0) {
		return ret;
	}
	c = talloc_zero(disk, struct check);
	if (c == NULL) {
		return -ENOMEM;
	}
	c->disk = disk;
	c->repair = repair;
	c->report = report;
	c->private_data = private_data;
	ret = vhdx_usage_init(c, disk, &c->usage);
	if (ret == 0 && disk->pages.dirty > 0) {
		ret = vhdx_commit_wait(disk);
	}
	if (ret == 0 && repair) {
		ret = vhdx_session_start(disk, true);
	}
	if (ret == 0) {
		ret = check_all(c);
	}
	if (ret == 0) {
		*_result = c->result;
	}
	talloc_free(c);
	return ret;
}
