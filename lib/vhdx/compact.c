/*
 * Compacting: anchors are given up, blocks that lie past where the file could
 * end move into unused space below, and the file is cut.  A block is copied to
 * space that nothing refers to; the table follows through the log, with the
 * copy flushed before; what it leaves is above the cut and is not used again.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>

#include "util/checked.h"
#include "util/zero.h"

#define PIECE ((uint64_t)65536)

struct compact {
	struct vhdx *disk;
	struct vhdx_usage usage;
	uint64_t limit;		/* MiB; what lies past it moves */
	uint64_t from;		/* MiB; nothing is unused before */
	uint64_t from_small;	/* the same for bitmap blocks */
	uint8_t *bytes;
	bool (*progress)(void *private_data, uint64_t done, uint64_t all);
	void *private_data;
	uint64_t done;
	bool stopped;
};

static int mark(void *private_data, uint64_t index, uint64_t block,
		uint64_t entry)
{
	struct compact *c = private_data;
	uint64_t length = block == UINT64_MAX ? VHDX_BITMAP_SIZE
					      : c->disk->geometry.block_size;
	unsigned state = (unsigned)(entry & VHDX_ENTRY_STATE);
	int ret = vhdx_entry_check(c->disk, entry, block == UINT64_MAX);

	if (ret != 0) {
		return ret;
	}
	if (state == VHDX_PRESENT || state == VHDX_PARTIAL) {
		ret = vhdx_usage_mark(&c->usage, entry & VHDX_ENTRY_OFFSET,
				      length);
		return ret == 0 ? 0 : -EBADMSG;
	}
	if ((entry & VHDX_ENTRY_OFFSET) != 0 && block != UINT64_MAX) {
		return vhdx_entry_put(c->disk, index, VHDX_ZERO);
	}
	return 0;
}

/* Unused space may hold anything, and what is zero need not take any. */
static int copy(struct compact *c, uint64_t from, uint64_t to, uint64_t length)
{
	uint64_t at = 0;
	uint64_t i = 0;
	int ret = store_zero(c->disk->store, to, length);

	for (at = 0; ret == 0 && at < length; at += VHDX_MIB) {
		ret = store_read(c->disk->store, c->bytes, VHDX_MIB,
				 from + at);
		if (ret == -ENODATA) {
			/* The file's last MiB may be short; the rest is zero. */
			ret = 0;
		}
		for (i = 0; ret == 0 && i < VHDX_MIB; i += PIECE) {
			if (!is_zero(c->bytes + i, PIECE)) {
				ret = store_write(c->disk->store,
						  c->bytes + i, PIECE,
						  to + at + i);
			}
		}
	}
	return ret;
}

static int move(void *private_data, uint64_t index, uint64_t block,
		uint64_t entry)
{
	struct compact *c = private_data;
	bool bitmap = block == UINT64_MAX;
	uint64_t length = bitmap ? VHDX_BITMAP_SIZE
				 : c->disk->geometry.block_size;
	uint64_t *from = bitmap ? &c->from_small : &c->from;
	uint64_t offset = entry & VHDX_ENTRY_OFFSET;
	unsigned state = (unsigned)(entry & VHDX_ENTRY_STATE);
	uint64_t to = 0;
	int ret = 0;

	c->done += bitmap ? 0 : 1;
	if (c->stopped) {
		return 0;
	}
	if (c->progress != NULL && c->done % 64 == 1 && !bitmap &&
	    !c->progress(c->private_data, c->done,
			 c->disk->geometry.block_count)) {
		c->stopped = true;
		return 0;
	}
	if ((state != VHDX_PRESENT && state != VHDX_PARTIAL) ||
	    (offset + length) / VHDX_MIB <= c->limit) {
		return 0;
	}
	ret = vhdx_usage_find(&c->usage, *from, length / VHDX_MIB, &to);
	if (ret == -ENOSPC || (ret == 0 && to * VHDX_MIB >= offset)) {
		return 0;
	}
	*from = to;
	ret = copy(c, offset, to * VHDX_MIB, length);
	if (ret == 0) {
		ret = vhdx_usage_mark(&c->usage, to * VHDX_MIB, length);
	}
	if (ret == 0) {
		ret = vhdx_entry_put(c->disk, index, to * VHDX_MIB | state);
	}
	return ret;
}

static int remark(void *private_data, uint64_t index, uint64_t block,
		  uint64_t entry)
{
	struct compact *c = private_data;
	uint64_t end = (entry & VHDX_ENTRY_OFFSET) +
		       (block == UINT64_MAX ? VHDX_BITMAP_SIZE
					    : c->disk->geometry.block_size);
	unsigned state = (unsigned)(entry & VHDX_ENTRY_STATE);

	(void)index;
	if ((state == VHDX_PRESENT || state == VHDX_PARTIAL) &&
	    end / VHDX_MIB > c->limit) {
		c->limit = end / VHDX_MIB;
	}
	return 0;
}

/* Everything is where it stays: the file ends after the last of it. */
static int cut(struct compact *c)
{
	struct vhdx *disk = c->disk;
	const struct vhdx_layout *l = &disk->layout;
	uint64_t end = disk->header.log_offset + disk->header.log_length;
	int ret = 0;

	c->limit = end / VHDX_MIB;
	if ((l->bat_offset + l->bat_length) / VHDX_MIB > c->limit) {
		c->limit = (l->bat_offset + l->bat_length) / VHDX_MIB;
	}
	if ((l->metadata_offset + l->metadata_length) / VHDX_MIB > c->limit) {
		c->limit = (l->metadata_offset + l->metadata_length) /
			   VHDX_MIB;
	}
	ret = vhdx_table_walk(disk, remark, c);
	end = c->limit * VHDX_MIB;
	if (ret != 0 || end >= disk->space_end) {
		return ret;
	}
	disk->space_end = end;
	if (disk->log.active) {
		/* The log may no longer call the longer file stable, 2.3.3 */
		ret = vhdx_log_commit(disk, NULL, 0);
	}
	if (ret == 0) {
		ret = store_truncate(disk->store, end);
	}
	if (ret == 0) {
		ret = store_flush(disk->store);
	}
	if (ret == 0) {
		disk->file_size = end;
	} else {
		disk->broken = ret;
	}
	return ret;
}

static int compact_run(struct compact *c)
{
	struct vhdx *disk = c->disk;
	int ret = vhdx_table_walk(disk, mark, c);

	if (ret == 0) {
		ret = vhdx_commit_wait(disk);
	}
	if (ret != 0) {
		return ret;
	}
	c->limit = c->usage.used;
	ret = vhdx_table_walk(disk, move, c);
	if (ret == 0) {
		ret = vhdx_commit_wait(disk);
	}
	if (ret == 0) {
		ret = cut(c);
	}
	if (ret == 0 && c->progress != NULL && !c->stopped) {
		(void)c->progress(c->private_data, disk->geometry.block_count,
				  disk->geometry.block_count);
	}
	return ret;
}

int vhdx_compact(struct vhdx *disk,
		 bool (*progress)(void *private_data, uint64_t done,
				  uint64_t all),
		 void *private_data)
{
	struct compact *c = NULL;
	int ret = vhdx_idle_check(disk, true);

	if (ret != 0) {
		return ret;
	}
	if (disk->share != NULL) {
		return -EINVAL;
	}
	c = talloc_zero(disk, struct compact);
	if (c == NULL) {
		return -ENOMEM;
	}
	c->disk = disk;
	c->progress = progress;
	c->private_data = private_data;
	c->bytes = talloc_size(c, VHDX_MIB);
	ret = c->bytes != NULL ? 0 : -ENOMEM;
	if (ret == 0) {
		ret = vhdx_usage_init(c, disk, &c->usage);
	}
	if (ret == 0) {
		ret = vhdx_commit_wait(disk);
	}
	if (ret == 0) {
		ret = vhdx_session_start(disk, false);
	}
	if (ret == 0) {
		ret = compact_run(c);
	}
	talloc_free(c);
	return ret;
}
