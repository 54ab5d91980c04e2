/* What the files of lib/vhd share. */
#ifndef HVRS_VHD_VHD_PRIV_H
#define HVRS_VHD_VHD_PRIV_H

#include "vhd/vhd.h"

#define VHD_FOOTER_COOKIE "conectix"
#define VHD_HEADER_COOKIE "cxsparse"
#define VHD_VERSION 0x00010000U
/* Table entries are 32-bit sector numbers. */
#define VHD_TABLE_REACH (0xFFFFFFFFULL * VHD_SECTOR)
#define VHD_WINDOW 65536U	/* bytes of the table, or of bitmaps, kept */
#define VHD_BITMAP_MAX (VHD_BLOCK_MAX / VHD_SECTOR / 8)

struct vhd {
	struct store *store;
	struct vhd *parent;
	struct vhd_footer footer;
	struct vhd_header header;
	uint64_t file_size;
	uint32_t block_count;
	uint32_t bitmap_size;	/* bytes, whole sectors */
	uint32_t depth;		/* parents below this one */
	bool footer_was_copied;
	/* A piece of the table, big-endian as on disk. */
	uint8_t *window;
	uint32_t window_first;	/* entry */
	uint32_t window_count;	/* entries; 0: nothing read yet */
	/* The sector bitmap of one block. */
	uint8_t *bitmap;
	uint64_t bitmap_at;	/* file offset; 0: none */
};

/* Blocks of a disk of size bytes; both sound. */
uint32_t vhd_blocks(uint64_t size, uint32_t block_size);

/* Entry number block of the table, in sectors. */
int vhd_table_get(struct vhd *disk, uint32_t block, uint32_t *_sector);

#endif
