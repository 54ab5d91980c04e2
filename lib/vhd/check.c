/* Looking at every entry of a VHD's block table. */
#include <errno.h>
#include <string.h>

#include "store/store.h"
#include "util/checked.h"
#include "vhd/vhd_priv.h"

/* Slots of the overlap map: 64 MiB of memory. */
#define SLOTS_MAX (1U << 24)

struct check {
	struct vhd *disk;
	void (*report)(void *private_data, const char *what, uint64_t block,
		       uint64_t file_offset);
	void *private_data;
	struct vhd_check_result *result;
	/*
	 * The file in slots as long as a block with its bitmap.  Blocks that
	 * do not overlap begin at most once in each: its sector in there,
	 * plus 1.
	 */
	uint32_t *starts;
	uint64_t slot;		/* sectors */
};

static void found(struct check *c, const char *what, uint64_t block,
		  uint64_t at)
{
	c->result->errors++;
	if (c->report != NULL) {
		c->report(c->private_data, what, block, at);
	}
}

static bool meets(uint64_t at, uint64_t length, uint64_t other,
		  uint64_t other_length)
{
	return at < other + other_length && other < at + length;
}

static bool meets_header(const struct vhd *disk, uint64_t at, uint64_t length)
{
	const struct vhd_footer *f = &disk->footer;
	const struct vhd_header *h = &disk->header;

	return meets(at, length, 0, VHD_FOOTER_SIZE) ||
	       meets(at, length, f->data_offset, VHD_HEADER_SIZE) ||
	       meets(at, length, h->table_offset, 4ULL * disk->block_count);
}

/* Whether a block that begins at sector overlaps one seen before. */
static bool taken(struct check *c, uint64_t sector)
{
	uint64_t n = sector / c->slot;
	uint64_t inside = sector % c->slot;

	if (c->starts[n] != 0 ||
	    (n > 0 && c->starts[n - 1] > inside + 1) ||
	    (c->starts[n + 1] != 0 && c->starts[n + 1] - 1 < inside)) {
		return true;
	}
	c->starts[n] = (uint32_t)inside + 1;
	return false;
}

/* The part of the block that the disk uses, with the bitmap. */
static uint64_t used_length(const struct vhd *disk, uint32_t block)
{
	uint64_t begin = (uint64_t)block * disk->header.block_size;
	uint64_t rest = disk->footer.size - begin;

	if (rest > disk->header.block_size) {
		rest = disk->header.block_size;
	}
	return disk->bitmap_size + rest;
}

static void check_entry(struct check *c, uint32_t block, uint32_t sector)
{
	struct vhd *disk = c->disk;
	uint64_t at = (uint64_t)sector * VHD_SECTOR;
	uint64_t length = used_length(disk, block);

	if (!checked_inside(at, length, disk->file_size)) {
		found(c, "the block lies outside the file", block, at);
	} else if (meets_header(disk, at, length)) {
		found(c, "the block lies on the headers or the block table",
		      block, at);
	} else if (taken(c, sector)) {
		found(c, "the block shares space with another one", block,
		      at);
	} else {
		c->result->blocks_present++;
	}
}

static int walk(struct check *c)
{
	uint32_t block = 0;
	uint32_t entry = 0;
	int ret = 0;

	for (block = 0; block < c->disk->block_count; block++) {
		ret = vhd_table_get(c->disk, block, &entry);
		if (ret != 0) {
			return ret;
		}
		if (entry != VHD_BLOCK_FREE) {
			check_entry(c, block, entry);
		}
	}
	return 0;
}

int vhd_check(struct vhd *disk,
	      void (*report)(void *private_data, const char *what,
			     uint64_t block, uint64_t file_offset),
	      void *private_data, struct vhd_check_result *_result)
{
	struct vhd_check_result result = {};
	struct check c = {
		.disk = disk, .report = report, .private_data = private_data,
		.result = &result,
	};
	uint64_t slots = 0;
	int ret = 0;

	if (disk->footer_was_copied) {
		found(&c, "the footer at the end of the file is damaged", 0,
		      disk->file_size - VHD_FOOTER_SIZE);
	}
	if (disk->footer.type != VHD_FIXED) {
		c.slot = (disk->header.block_size + disk->bitmap_size) /
			 VHD_SECTOR;
		slots = disk->file_size / VHD_SECTOR / c.slot + 2;
		if (slots > SLOTS_MAX) {
			return -EFBIG;
		}
		c.starts = talloc_zero_array(disk, uint32_t, slots);
		if (c.starts == NULL) {
			return -ENOMEM;
		}
		ret = walk(&c);
		talloc_free(c.starts);
	}
	if (ret != 0) {
		return ret;
	}
	*_result = result;
	return 0;
}
