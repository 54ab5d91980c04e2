/*
 * Plain VHD disks (Virtual Hard Disk Image Format Specification, version 1.0):
 * fixed, dynamic and differencing ones are read, fixed and dynamic ones are
 * written once, from the start to the end, which is what a conversion needs.
 *
 * Errors of this room:
 *   -EINVAL    the caller's request makes no sense (alignment, range)
 *   -EBADMSG   the file breaks the format; *_why, where there is one, says how
 *   -ENOTSUP   the file is sound but demands something unknown here
 *   -ENOENT    a sector lies in a parent that was not given
 *   -ESTALE    a parent was found, but it is not the one the child names
 *   -ELOOP     the chain is deeper than VHD_CHAIN_MAX
 *   -EFBIG     larger than the format allows
 *   -ENOMEM, and whatever the store answers
 *
 * Units are bytes unless a name says otherwise.  Numbers of the format are
 * big-endian.
 */
#ifndef HVRS_VHD_VHD_H
#define HVRS_VHD_VHD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "util/guid.h"

struct store;
struct vhd;
struct vhd_writer;

#define VHD_SECTOR 512U
#define VHD_FOOTER_SIZE 512U
#define VHD_HEADER_SIZE 1024U
#define VHD_LOCATORS 8
#define VHD_CHAIN_MAX 128
#define VHD_NO_OFFSET UINT64_MAX
#define VHD_BLOCK_FREE UINT32_MAX
#define VHD_BLOCK_MIN 4096U
#define VHD_BLOCK_MAX (256U << 20)
/* What Windows accepts at most: 2040 GiB. */
#define VHD_DYNAMIC_MAX (2040ULL << 30)
#define VHD_FIXED_MAX (64ULL << 40)
#define VHD_NAME_MAX 1024	/* bytes of a parent's name in UTF-8, with NUL */

enum vhd_type {
	VHD_FIXED = 2,
	VHD_DYNAMIC = 3,
	VHD_DIFFERENCING = 4,
};

/* "Hard Disk Footer Format"; the last 512 bytes of every file */
struct vhd_footer {
	uint8_t cookie[8];
	uint32_t features;
	uint32_t version;
	uint64_t data_offset;
	uint32_t time;		/* seconds since 2000-01-01 00:00 UTC */
	uint8_t creator[4];
	uint32_t creator_version;
	uint8_t creator_host[4];
	uint64_t original_size;
	uint64_t size;
	uint16_t cylinders;
	uint8_t heads;
	uint8_t sectors;	/* per track */
	uint32_t type;		/* enum vhd_type */
	uint32_t checksum;
	struct guid id;
	uint8_t saved_state;
	uint32_t computed;	/* what the checksum should be */
};

/* "Parent Locator Entry", 24 bytes */
struct vhd_locator {
	uint32_t platform;	/* four characters: W2ru, W2ku, MacX, ... */
	uint32_t space;		/* sectors, or bytes, depending on the writer */
	uint32_t length;
	uint64_t offset;
};

/* "Dynamic Disk Header Format", 1024 bytes */
struct vhd_header {
	uint8_t cookie[8];
	uint64_t data_offset;
	uint64_t table_offset;
	uint32_t version;
	uint32_t table_entries;
	uint32_t block_size;
	uint32_t checksum;
	struct guid parent_id;
	uint32_t parent_time;
	uint8_t parent_name[512];	/* UTF-16, big-endian */
	struct vhd_locator locators[VHD_LOCATORS];
	uint32_t computed;
};

/*
 * Decoders: they fill *_footer or *_header from VHD_FOOTER_SIZE or
 * VHD_HEADER_SIZE bytes and judge nothing.  The GUID comes out in the order
 * that guid_format() expects.
 */
void vhd_footer_decode(const uint8_t bytes[VHD_FOOTER_SIZE],
		       struct vhd_footer *_footer);
void vhd_header_decode(const uint8_t bytes[VHD_HEADER_SIZE],
		       struct vhd_header *_header);

/*
 * Encoders: the bytes of footer or header with their checksum, whatever the
 * struct's own checksum says.
 */
void vhd_footer_encode(const struct vhd_footer *footer,
		       uint8_t bytes[VHD_FOOTER_SIZE]);
void vhd_header_encode(const struct vhd_header *header,
		       uint8_t bytes[VHD_HEADER_SIZE]);

/*
 * Whether the footer of a file is one this room can use: cookie, checksum,
 * version, type, size.  -EBADMSG, -ENOTSUP or -EFBIG, with *_why.
 */
int vhd_footer_validate(const struct vhd_footer *footer, const char **_why);

/*
 * The same for the header of a dynamic or differencing file of file_size
 * bytes whose footer was found sound.
 */
int vhd_header_validate(const struct vhd_header *header,
			const struct vhd_footer *footer, uint64_t file_size,
			const char **_why);

/*
 * Cylinders, heads and sectors for a size, by the appendix "CHS Calculation".
 * They describe at most 127 GiB, and are rounded down.
 */
void vhd_geometry(uint64_t size, struct vhd_footer *_footer);

/* ---- reading -------------------------------------------------------------- */

struct vhd_open {
	struct vhd *parent;	/* opened before and checked; or NULL */
};

/*
 * Opens the file in store, which is borrowed and must outlive the disk.  A
 * differencing file may be opened without its parent; reads of what the
 * parent holds fail with -ENOENT then.  The parent becomes a talloc child of
 * the result on success.  A damaged footer at the end is replaced by its copy
 * at the start, where the type has one ("footer_was_copied").  The result is a
 * talloc child of mem_ctx and needs no close.  *_why may be NULL.
 */
int vhd_open(TALLOC_CTX *mem_ctx, struct store *store,
	     const struct vhd_open *how, struct vhd **_disk,
	     const char **_why);

struct vhd_info {
	enum vhd_type type;
	uint64_t size;
	uint64_t file_size;
	uint32_t block_size;	/* 0 for fixed */
	uint32_t block_count;	/* 0 for fixed */
	struct guid id;
	struct guid parent_id;	/* null without parent */
	uint32_t time;		/* seconds since 2000-01-01 00:00 UTC */
	uint16_t cylinders;
	uint8_t heads;
	uint8_t sectors;
	char creator[5];
	bool footer_was_copied;	/* the one at the end is damaged */
	bool has_parent;
};

/* Fills *_info with what is known without I/O. */
void vhd_info_get(const struct vhd *disk, struct vhd_info *_info);

/*
 * The name under which parent number index (from 0) is to be looked for, as
 * UTF-8 with '/' between folders: first the relative locators, then the name
 * in the header.  Absolute paths are not given out.  *_name is a talloc child
 * of mem_ctx.  -ENOENT when there are no more.
 */
int vhd_parent_name(TALLOC_CTX *mem_ctx, struct vhd *disk, unsigned index,
		    char **_name);

/* Whether parent is the one that child names by its id: 0 or -ESTALE. */
int vhd_parent_check(const struct vhd *child, const struct vhd *parent);

/*
 * Reads length bytes at offset, any alignment.  -EINVAL past the end.
 */
int vhd_read(struct vhd *disk, void *buffer, uint64_t offset, size_t length);

enum vhd_extent_kind {
	VHD_EXTENT_ZERO,
	VHD_EXTENT_DATA,
	VHD_EXTENT_PARENT,	/* in a parent that was not given */
};

struct vhd_extent {
	enum vhd_extent_kind kind;
	uint64_t offset;
	uint64_t length;
	uint64_t file_offset;	/* DATA: in that file */
	unsigned depth;		/* 0: this disk; 1: its parent; ... */
};

/*
 * The extent at offset, at most length long, through the parents; blocks are
 * not merged.  -EINVAL for a range past the end or of no length.
 */
int vhd_map(struct vhd *disk, uint64_t offset, uint64_t length,
	    struct vhd_extent *_extent);

struct vhd_check_result {
	uint64_t errors;
	uint64_t blocks_present;
};

/*
 * Reads the whole table and tells each bad entry to report (may be NULL) with
 * a static sentence, its number and where it points: blocks outside the file,
 * on the footer, header or table, or on one another.  Memory: four bytes for
 * each block that has room in the file; -EFBIG where that would pass 64 MiB,
 * which takes a huge file of tiny blocks.
 */
int vhd_check(struct vhd *disk,
	      void (*report)(void *private_data, const char *what,
			     uint64_t block, uint64_t file_offset),
	      void *private_data, struct vhd_check_result *_result);

/* ---- writing -------------------------------------------------------------- */

/*
 * Begins a new disk in store, which must be empty (-EEXIST).  type is
 * VHD_FIXED or VHD_DYNAMIC, size a multiple of 512 and at most
 * VHD_DYNAMIC_MAX, time in seconds since 2000.  The footer is written last, so
 * a file cut off in between is no VHD.  The store is borrowed.
 */
int vhd_writer_open(TALLOC_CTX *mem_ctx, struct store *store,
		    enum vhd_type type, uint64_t size, uint32_t time,
		    struct vhd_writer **_writer);

/*
 * Writes length bytes at offset, both multiples of 512.  What is never written
 * reads as zero.
 */
int vhd_writer_write(struct vhd_writer *writer, const void *buffer,
		     uint64_t offset, size_t length);

/*
 * Where offset's data lies, or will lie, in the file, and how many bytes
 * follow it there; allocates the block.  For data that is brought in by other
 * means than vhd_writer_write().
 */
int vhd_writer_place(struct vhd_writer *writer, uint64_t offset,
		     uint64_t *_file_offset, uint64_t *_length);

/* Writes table, headers and footer, flushes, and frees the writer. */
int vhd_writer_close(struct vhd_writer *writer);

#endif
