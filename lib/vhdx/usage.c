/* Which MiB of a file are used, and by what. */
#include "vhdx/vhdx_priv.h"

#include <errno.h>

#include "util/checked.h"
#include "util/cursor.h"

int vhdx_usage_mark(struct vhdx_usage *u, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / VHDX_MIB;
	uint64_t count = length / VHDX_MIB;
	uint64_t i = 0;

	if (!checked_inside(first, count, u->mibs)) {
		return -ERANGE;
	}
	for (i = first; i < first + count; i++) {
		if ((u->bits[i / 8] >> i % 8 & 1) != 0) {
			return -EEXIST;
		}
	}
	for (i = first; i < first + count; i++) {
		u->bits[i / 8] = (uint8_t)(u->bits[i / 8] | 1U << i % 8);
	}
	u->used += count;
	return 0;
}

void vhdx_usage_clear(struct vhdx_usage *u, uint64_t offset, uint64_t length)
{
	uint64_t i = 0;

	for (i = offset / VHDX_MIB; i < (offset + length) / VHDX_MIB; i++) {
		u->bits[i / 8] = (uint8_t)(u->bits[i / 8] & ~(1U << i % 8));
		u->used--;
	}
}

int vhdx_usage_find(const struct vhdx_usage *u, uint64_t from, uint64_t mibs,
		    uint64_t *_at)
{
	uint64_t start = from;
	uint64_t i = 0;

	for (i = from; i < u->mibs; i++) {
		if (i % 8 == 0 && u->bits[i / 8] == 0xFF) {
			i += 7;
			start = i + 1;
			continue;
		}
		if ((u->bits[i / 8] >> i % 8 & 1) != 0) {
			start = i + 1;
		} else if (i + 1 - start == mibs) {
			*_at = start;
			return 0;
		}
	}
	return -ENOSPC;
}

int vhdx_usage_init(TALLOC_CTX *mem_ctx, struct vhdx *disk,
		    struct vhdx_usage *u)
{
	const struct vhdx_layout *l = &disk->layout;
	uint64_t size = 0;
	int ret = store_size(disk->store, &size);

	if (ret == 0 && size < disk->file_size) {
		size = disk->file_size;
	}
	if (ret == 0) {
		ret = checked_round_up(size, VHDX_MIB, &size);
	}
	if (ret != 0) {
		return ret;
	}
	if (size > VHDX_FILE_MAX) {
		return -EFBIG;
	}
	*u = (struct vhdx_usage) { .mibs = size / VHDX_MIB };
	u->bits = talloc_zero_array(mem_ctx, uint8_t, u->mibs / 8 + 1);
	if (u->bits == NULL) {
		return -ENOMEM;
	}
	ret = vhdx_usage_mark(u, 0, VHDX_MIB);
	if (ret == 0) {
		ret = vhdx_usage_mark(u, disk->header.log_offset,
				      disk->header.log_length);
	}
	if (ret == 0) {
		ret = vhdx_usage_mark(u, l->metadata_offset,
				      l->metadata_length);
	}
	if (ret == 0) {
		ret = vhdx_usage_mark(u, l->bat_offset, l->bat_length);
	}
	return ret == 0 ? 0 : -EBADMSG;
}

int vhdx_table_walk(struct vhdx *disk,
		    int (*each)(void *private_data, uint64_t index,
				uint64_t block, uint64_t entry),
		    void *private_data)
{
	const struct vhdx_geometry *g = &disk->geometry;
	uint8_t *bytes = talloc_size(disk, VHDX_MIB);
	struct cursor c = {};
	uint64_t index = 0;
	int ret = 0;

	if (bytes == NULL) {
		return -ENOMEM;
	}
	for (index = 0; ret == 0 && index < g->entries; index++) {
		uint64_t block = index - index / (g->chunk_ratio + 1);

		if (index * 8 % VHDX_MIB == 0) {
			ret = vhdx_meta_read(disk, bytes, VHDX_MIB,
					     disk->layout.bat_offset +
						     index * 8);
			cursor_init(&c, bytes, VHDX_MIB);
		}
		if (index % (g->chunk_ratio + 1) == g->chunk_ratio) {
			block = UINT64_MAX;
		} else if (block >= g->block_count) {
			/* The last chunk of a differencing disk is not full. */
			cursor_skip(&c, 8);
			continue;
		}
		if (ret == 0) {
			ret = each(private_data, index, block,
				   cursor_le64(&c));
		}
	}
	talloc_free(bytes);
	return ret;
}
