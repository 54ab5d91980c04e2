/* Opening VHDs, and reading them through their parents. */
#include <errno.h>
#include <string.h>

#include "store/store.h"
#include "util/checked.h"
#include "util/cursor.h"
#include "vhd/vhd_priv.h"

static int short_is_bad(int ret)
{
	return ret == -ENODATA ? -EBADMSG : ret;
}

/*
 * The footer is in the last 512 bytes; files by versions before Virtual PC
 * 2004 have one of 511 bytes ("Hard Disk Footer Format").
 */
static int footer_at_end(struct vhd *disk, const char **_why)
{
	uint8_t bytes[VHD_FOOTER_SIZE] = {};
	size_t length = VHD_FOOTER_SIZE;
	int first = 0;
	int ret = 0;

	for (length = VHD_FOOTER_SIZE; length >= VHD_FOOTER_SIZE - 1;
	     length--) {
		memset(bytes, 0, sizeof(bytes));
		ret = store_read(disk->store, bytes, length,
				 disk->file_size - length);
		if (ret != 0) {
			*_why = "the file became shorter";
			return short_is_bad(ret);
		}
		vhd_footer_decode(bytes, &disk->footer);
		if (length == VHD_FOOTER_SIZE) {
			ret = vhd_footer_validate(&disk->footer, _why);
			first = ret;
		} else {
			const char *why = NULL;

			ret = vhd_footer_validate(&disk->footer, &why);
		}
		if (ret == 0) {
			return 0;
		}
	}
	return first;
}

/* Dynamic and differencing files begin with a copy of the footer. */
static int footer_at_start(struct vhd *disk)
{
	uint8_t bytes[VHD_FOOTER_SIZE] = {};
	const char *why = NULL;
	int ret = 0;

	ret = store_read(disk->store, bytes, sizeof(bytes), 0);
	if (ret != 0) {
		return short_is_bad(ret);
	}
	vhd_footer_decode(bytes, &disk->footer);
	ret = vhd_footer_validate(&disk->footer, &why);
	if (ret == 0 && disk->footer.type == VHD_FIXED) {
		/* The disk's own content may well be a VHD. */
		return -EBADMSG;
	}
	return ret;
}

static int footer_find(struct vhd *disk, const char **_why)
{
	int ret = 0;

	if (disk->file_size < VHD_FOOTER_SIZE) {
		*_why = "the file is too short for a VHD footer";
		return -EBADMSG;
	}
	ret = footer_at_end(disk, _why);
	if (ret != -EBADMSG) {
		return ret;
	}
	if (footer_at_start(disk) != 0) {
		return ret;
	}
	disk->footer_was_copied = true;
	return 0;
}

static int header_find(struct vhd *disk, const char **_why)
{
	uint8_t bytes[VHD_HEADER_SIZE] = {};
	int ret = 0;

	if (!checked_inside(disk->footer.data_offset, sizeof(bytes),
			    disk->file_size)) {
		*_why = "the dynamic header lies outside the file";
		return -EBADMSG;
	}
	ret = store_read(disk->store, bytes, sizeof(bytes),
			 disk->footer.data_offset);
	if (ret != 0) {
		*_why = "the file became shorter";
		return short_is_bad(ret);
	}
	vhd_header_decode(bytes, &disk->header);
	ret = vhd_header_validate(&disk->header, &disk->footer,
				  disk->file_size, _why);
	if (ret != 0) {
		return ret;
	}
	disk->block_count = vhd_blocks(disk->footer.size,
				       disk->header.block_size);
	disk->bitmap_size = disk->header.block_size / VHD_SECTOR / 8;
	if (disk->bitmap_size % VHD_SECTOR != 0) {
		disk->bitmap_size += VHD_SECTOR -
				     disk->bitmap_size % VHD_SECTOR;
	}
	disk->window = talloc_size(disk, VHD_WINDOW);
	disk->bitmap = talloc_size(disk, disk->bitmap_size);
	return disk->window != NULL && disk->bitmap != NULL ? 0 : -ENOMEM;
}

static int geometry_find(struct vhd *disk, const char **_why)
{
	int ret = 0;

	ret = store_size(disk->store, &disk->file_size);
	if (ret != 0) {
		return ret;
	}
	ret = footer_find(disk, _why);
	if (ret != 0) {
		return ret;
	}
	if (disk->footer.type != VHD_FIXED) {
		return header_find(disk, _why);
	}
	if (disk->footer.size > disk->file_size - (VHD_FOOTER_SIZE - 1)) {
		*_why = "the file is shorter than its fixed disk";
		return -EBADMSG;
	}
	return 0;
}

int vhd_open(TALLOC_CTX *mem_ctx, struct store *store,
	     const struct vhd_open *how, struct vhd **_disk,
	     const char **_why)
{
	struct vhd *disk = NULL;
	const char *unheard = NULL;
	const char **why = _why != NULL ? _why : &unheard;
	int ret = 0;

	*why = NULL;
	disk = talloc_zero(mem_ctx, struct vhd);
	if (disk == NULL) {
		return -ENOMEM;
	}
	disk->store = store;
	ret = geometry_find(disk, why);
	if (ret == 0 && how != NULL && how->parent != NULL) {
		if (disk->footer.type != VHD_DIFFERENCING) {
			ret = -EINVAL;
		} else if (how->parent->depth + 1 >= VHD_CHAIN_MAX) {
			ret = -ELOOP;
		} else {
			ret = vhd_parent_check(disk, how->parent);
		}
	}
	if (ret != 0) {
		talloc_free(disk);
		return ret;
	}
	if (how != NULL && how->parent != NULL) {
		disk->parent = talloc_steal(disk, how->parent);
		disk->depth = how->parent->depth + 1;
	}
	*_disk = disk;
	return 0;
}

void vhd_info_get(const struct vhd *disk, struct vhd_info *_info)
{
	const struct vhd_footer *f = &disk->footer;
	size_t i = 0;

	*_info = (struct vhd_info) {
		.type = (enum vhd_type)f->type,
		.size = f->size,
		.file_size = disk->file_size,
		.block_size = disk->header.block_size,
		.block_count = disk->block_count,
		.id = f->id,
		.time = f->time,
		.cylinders = f->cylinders,
		.heads = f->heads,
		.sectors = f->sectors,
		.footer_was_copied = disk->footer_was_copied,
		.has_parent = f->type == VHD_DIFFERENCING,
	};
	if (f->type == VHD_DIFFERENCING) {
		_info->parent_id = disk->header.parent_id;
	}
	for (i = 0; i < sizeof(f->creator); i++) {
		bool plain = f->creator[i] > ' ' && f->creator[i] < 127;

		_info->creator[i] = plain ? (char)f->creator[i] : ' ';
	}
	for (i = sizeof(f->creator); i > 0 && _info->creator[i - 1] == ' ';
	     i--) {
		_info->creator[i - 1] = '\0';
	}
}

int vhd_parent_check(const struct vhd *child, const struct vhd *parent)
{
	return guid_equal(&child->header.parent_id, &parent->footer.id)
		? 0 : -ESTALE;
}

int vhd_table_get(struct vhd *disk, uint32_t block, uint32_t *_sector)
{
	struct cursor c = {};
	int ret = 0;

	if (block < disk->window_first ||
	    block - disk->window_first >= disk->window_count) {
		uint32_t first = block - block % (VHD_WINDOW / 4);
		uint32_t count = disk->block_count - first;

		if (count > VHD_WINDOW / 4) {
			count = VHD_WINDOW / 4;
		}
		disk->window_count = 0;
		ret = store_read(disk->store, disk->window, 4ULL * count,
				 disk->header.table_offset + 4ULL * first);
		if (ret != 0) {
			return short_is_bad(ret);
		}
		disk->window_first = first;
		disk->window_count = count;
	}
	cursor_init(&c, disk->window, 4ULL * disk->window_count);
	cursor_seek(&c, 4ULL * (block - disk->window_first));
	*_sector = cursor_be32(&c);
	return cursor_status(&c);
}

static int bitmap_load(struct vhd *disk, uint64_t at)
{
	int ret = 0;

	if (disk->bitmap_at == at) {
		return 0;
	}
	disk->bitmap_at = 0;
	ret = store_read(disk->store, disk->bitmap, disk->bitmap_size, at);
	if (ret != 0) {
		return short_is_bad(ret);
	}
	disk->bitmap_at = at;
	return 0;
}

static bool bit(const struct vhd *disk, uint32_t sector)
{
	return disk->bitmap[sector / 8] & (0x80 >> sector % 8);
}

/* "Block Allocation Table": where the bytes of the block are, if anywhere. */
static int find_here(struct vhd *disk, struct vhd_extent *e, bool *_here)
{
	uint32_t block_size = disk->header.block_size;
	uint32_t block = (uint32_t)(e->offset / block_size);
	uint32_t inside = (uint32_t)(e->offset % block_size);
	uint32_t sector = inside / VHD_SECTOR;
	uint32_t entry = 0;
	uint64_t at = 0;
	uint64_t run = 0;
	int ret = 0;

	if (e->length > block_size - inside) {
		e->length = block_size - inside;
	}
	ret = vhd_table_get(disk, block, &entry);
	if (ret != 0) {
		return ret;
	}
	*_here = false;
	if (entry == VHD_BLOCK_FREE) {
		return 0;
	}
	at = (uint64_t)entry * VHD_SECTOR;
	if (entry == 0 || !checked_inside(at, disk->bitmap_size,
					  disk->file_size)) {
		return -EBADMSG;
	}
	ret = bitmap_load(disk, at);
	if (ret != 0) {
		return ret;
	}
	*_here = bit(disk, sector);
	run = VHD_SECTOR - inside % VHD_SECTOR;
	for (sector++; run < e->length && bit(disk, sector) == *_here;
	     sector++) {
		run += VHD_SECTOR;
	}
	if (e->length > run) {
		e->length = run;
	}
	e->file_offset = at + disk->bitmap_size + inside;
	if (*_here && !checked_inside(e->file_offset, e->length,
				      disk->file_size)) {
		return -EBADMSG;
	}
	return 0;
}

/* One level: DATA, ZERO, or PARENT for "not here, ask the next". */
static int map_level(struct vhd *disk, struct vhd_extent *e)
{
	bool here = false;
	int ret = 0;

	if (e->offset >= disk->footer.size) {
		e->kind = VHD_EXTENT_ZERO;	/* the child is larger */
		return 0;
	}
	if (e->length > disk->footer.size - e->offset) {
		e->length = disk->footer.size - e->offset;
	}
	if (disk->footer.type == VHD_FIXED) {
		e->kind = VHD_EXTENT_DATA;
		e->file_offset = e->offset;
		return 0;
	}
	ret = find_here(disk, e, &here);
	if (ret != 0) {
		return ret;
	}
	e->kind = here ? VHD_EXTENT_DATA
		: disk->footer.type == VHD_DYNAMIC ? VHD_EXTENT_ZERO
						   : VHD_EXTENT_PARENT;
	return 0;
}

static int map_chain(struct vhd *disk, struct vhd_extent *e,
		     struct vhd **_holder)
{
	int ret = 0;

	for (;;) {
		ret = map_level(disk, e);
		if (ret != 0) {
			return ret;
		}
		if (e->kind != VHD_EXTENT_PARENT || disk->parent == NULL) {
			break;
		}
		disk = disk->parent;
		e->depth++;
	}
	*_holder = disk;
	if (e->kind != VHD_EXTENT_DATA) {
		e->file_offset = 0;
	}
	return 0;
}

int vhd_map(struct vhd *disk, uint64_t offset, uint64_t length,
	    struct vhd_extent *_extent)
{
	struct vhd_extent e = { .offset = offset, .length = length };
	struct vhd *holder = NULL;
	int ret = 0;

	if (length == 0 ||
	    !checked_inside(offset, length, disk->footer.size)) {
		return -EINVAL;
	}
	ret = map_chain(disk, &e, &holder);
	if (ret != 0) {
		return ret;
	}
	*_extent = e;
	return 0;
}

int vhd_read(struct vhd *disk, void *buffer, uint64_t offset, size_t length)
{
	uint8_t *bytes = buffer;
	int ret = 0;

	if (!checked_inside(offset, length, disk->footer.size)) {
		return -EINVAL;
	}
	while (length > 0) {
		struct vhd_extent e = { .offset = offset, .length = length };
		struct vhd *holder = NULL;

		ret = map_chain(disk, &e, &holder);
		if (ret != 0) {
			return ret;
		}
		if (e.kind == VHD_EXTENT_PARENT) {
			return -ENOENT;
		}
		if (e.kind == VHD_EXTENT_ZERO) {
			memset(bytes, 0, e.length);
		} else {
			ret = store_read(holder->store, bytes, e.length,
					 e.file_offset);
			if (ret != 0) {
				return short_is_bad(ret);
			}
		}
		bytes += e.length;
		offset += e.length;
		length -= e.length;
	}
	return 0;
}
