/*
 * Writing a new VHD.  Blocks are taken from the end of the file in the order
 * in which they are first written; the table is kept in memory (4 MiB for the
 * largest disk) and goes to its place with the footer at the end.
 */
#include <errno.h>
#include <string.h>

#include "store/store.h"
#include "util/checked.h"
#include "util/cursor.h"
#include "vhd/vhd_priv.h"

#define BLOCK_SIZE (2U << 20)
#define BITMAP_SIZE (BLOCK_SIZE / VHD_SECTOR / 8)
#define HEADER_AT VHD_FOOTER_SIZE
#define TABLE_AT (HEADER_AT + VHD_HEADER_SIZE)
/* Data of every block begins at a multiple of this, for reflinks. */
#define DATA_ALIGN 4096U

struct vhd_writer {
	struct store *store;
	struct vhd_footer footer;
	uint32_t *table;	/* sectors; NULL for fixed */
	uint32_t block_count;
	uint64_t table_size;	/* bytes, whole sectors */
	uint64_t end;		/* of what is in use */
};

static int footer_make(struct vhd_writer *w, enum vhd_type type,
		       uint64_t size, uint32_t time)
{
	w->footer = (struct vhd_footer) {
		.features = 2,		/* reserved, always set */
		.version = VHD_VERSION,
		.data_offset = type == VHD_FIXED ? VHD_NO_OFFSET : HEADER_AT,
		.time = time,
		.creator = { 'h', 'v', 'r', 's' },
		.creator_version = 0x00010000,
		.creator_host = { 'W', 'i', '2', 'k' },
		.original_size = size,
		.size = size,
		.type = type,
	};
	memcpy(w->footer.cookie, VHD_FOOTER_COOKIE, 8);
	vhd_geometry(size, &w->footer);
	return guid_random(&w->footer.id);
}

static int table_make(struct vhd_writer *w)
{
	uint32_t i = 0;

	w->block_count = vhd_blocks(w->footer.size, BLOCK_SIZE);
	w->table_size = 4ULL * w->block_count;
	w->table_size += (VHD_SECTOR - w->table_size % VHD_SECTOR) %
			 VHD_SECTOR;
	w->end = TABLE_AT + w->table_size;
	w->table = talloc_array(w, uint32_t, w->block_count);
	if (w->table == NULL) {
		return -ENOMEM;
	}
	for (i = 0; i < w->block_count; i++) {
		w->table[i] = VHD_BLOCK_FREE;
	}
	return 0;
}

int vhd_writer_open(TALLOC_CTX *mem_ctx, struct store *store,
		    enum vhd_type type, uint64_t size, uint32_t time,
		    struct vhd_writer **_writer)
{
	struct vhd_writer *w = NULL;
	uint64_t there = 0;
	int ret = 0;

	if ((type != VHD_FIXED && type != VHD_DYNAMIC) || size == 0 ||
	    size % VHD_SECTOR != 0) {
		return -EINVAL;
	}
	if (size > VHD_DYNAMIC_MAX) {
		return -EFBIG;
	}
	ret = store_size(store, &there);
	if (ret != 0) {
		return ret;
	}
	if (there != 0) {
		return -EEXIST;
	}
	w = talloc_zero(mem_ctx, struct vhd_writer);
	if (w == NULL) {
		return -ENOMEM;
	}
	w->store = store;
	ret = footer_make(w, type, size, time);
	if (ret == 0 && type == VHD_DYNAMIC) {
		ret = table_make(w);
	}
	if (ret == 0) {
		/* Growing the file gives zeroes, which all of it may stay. */
		w->end = type == VHD_FIXED ? size : w->end;
		ret = store_truncate(store, w->end);
	}
	if (ret != 0) {
		talloc_free(w);
		return ret;
	}
	*_writer = w;
	return 0;
}

static int block_make(struct vhd_writer *w, uint32_t block)
{
	uint8_t bitmap[BITMAP_SIZE] = {};
	uint64_t data = w->end + BITMAP_SIZE;
	int ret = 0;

	data += (DATA_ALIGN - data % DATA_ALIGN) % DATA_ALIGN;
	memset(bitmap, 0xFF, sizeof(bitmap));
	ret = store_write(w->store, bitmap, sizeof(bitmap),
			  data - BITMAP_SIZE);
	if (ret != 0) {
		return ret;
	}
	ret = store_truncate(w->store, data + BLOCK_SIZE);
	if (ret != 0) {
		return ret;
	}
	w->table[block] = (uint32_t)((data - BITMAP_SIZE) / VHD_SECTOR);
	w->end = data + BLOCK_SIZE;
	return 0;
}

int vhd_writer_place(struct vhd_writer *writer, uint64_t offset,
		     uint64_t *_file_offset, uint64_t *_length)
{
	uint32_t block = 0;
	uint64_t inside = 0;
	int ret = 0;

	if (offset >= writer->footer.size) {
		return -EINVAL;
	}
	if (writer->table == NULL) {
		*_file_offset = offset;
		*_length = writer->footer.size - offset;
		return 0;
	}
	block = (uint32_t)(offset / BLOCK_SIZE);
	inside = offset % BLOCK_SIZE;
	if (writer->table[block] == VHD_BLOCK_FREE) {
		ret = block_make(writer, block);
		if (ret != 0) {
			return ret;
		}
	}
	*_file_offset = (uint64_t)writer->table[block] * VHD_SECTOR +
			BITMAP_SIZE + inside;
	*_length = BLOCK_SIZE - inside;
	if (*_length > writer->footer.size - offset) {
		*_length = writer->footer.size - offset;
	}
	return 0;
}

int vhd_writer_write(struct vhd_writer *writer, const void *buffer,
		     uint64_t offset, size_t length)
{
	const uint8_t *bytes = buffer;

	if (offset % VHD_SECTOR != 0 || length % VHD_SECTOR != 0 ||
	    !checked_inside(offset, length, writer->footer.size)) {
		return -EINVAL;
	}
	while (length > 0) {
		uint64_t at = 0;
		uint64_t piece = 0;
		int ret = 0;

		ret = vhd_writer_place(writer, offset, &at, &piece);
		if (ret != 0) {
			return ret;
		}
		if (piece > length) {
			piece = length;
		}
		ret = store_write(writer->store, bytes, piece, at);
		if (ret != 0) {
			return ret;
		}
		bytes += piece;
		offset += piece;
		length -= piece;
	}
	return 0;
}

static int table_write(struct vhd_writer *w)
{
	uint8_t *bytes = NULL;
	struct cursor_put c = {};
	uint32_t i = 0;
	int ret = 0;

	bytes = talloc_size(w, w->table_size);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	/* "All unused table entries must be initialized to 0xFFFFFFFF." */
	memset(bytes, 0xFF, w->table_size);
	cursor_put_init(&c, bytes, w->table_size);
	for (i = 0; i < w->block_count; i++) {
		cursor_put_be32(&c, w->table[i]);
	}
	ret = cursor_put_status(&c);
	if (ret == 0) {
		ret = store_write(w->store, bytes, w->table_size, TABLE_AT);
	}
	talloc_free(bytes);
	return ret;
}

static int header_write(struct vhd_writer *w)
{
	struct vhd_header h = {
		.data_offset = VHD_NO_OFFSET,
		.table_offset = TABLE_AT,
		.version = VHD_VERSION,
		.table_entries = w->block_count,
		.block_size = BLOCK_SIZE,
	};
	uint8_t bytes[VHD_HEADER_SIZE] = {};

	memcpy(h.cookie, VHD_HEADER_COOKIE, 8);
	vhd_header_encode(&h, bytes);
	return store_write(w->store, bytes, sizeof(bytes), HEADER_AT);
}

static int finish(struct vhd_writer *w)
{
	uint8_t bytes[VHD_FOOTER_SIZE] = {};
	int ret = 0;

	if (w->table != NULL) {
		ret = table_write(w);
		if (ret != 0) {
			return ret;
		}
		ret = header_write(w);
		if (ret != 0) {
			return ret;
		}
	}
	ret = store_flush(w->store);
	if (ret != 0) {
		return ret;
	}
	vhd_footer_encode(&w->footer, bytes);
	if (w->table != NULL) {
		ret = store_write(w->store, bytes, sizeof(bytes), 0);
		if (ret != 0) {
			return ret;
		}
	}
	ret = store_write(w->store, bytes, sizeof(bytes), w->end);
	if (ret != 0) {
		return ret;
	}
	return store_flush(w->store);
}

int vhd_writer_close(struct vhd_writer *writer)
{
	int ret = 0;

	ret = finish(writer);
	talloc_free(writer);
	return ret;
}
