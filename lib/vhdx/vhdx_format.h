/*
 * The bytes of a VHDX file: decoders that only fill a structure, validators
 * that judge it, encoders.  No I/O, no allocation (the locator's strings
 * excepted).  Validators return 0, -EBADMSG or -ENOTSUP and set *why to a
 * static text.
 */
#ifndef HVRS_VHDX_VHDX_FORMAT_H
#define HVRS_VHDX_VHDX_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/guid.h"
#include "vhdx/vhdx.h"

#define VHDX_PAGE 4096U
#define VHDX_IDENTITY_SIZE 65536U
#define VHDX_HEADER_SIZE 4096U
#define VHDX_HEADER_OFFSET(slot) ((uint64_t)(65536U + 65536U * (slot)))
#define VHDX_REGION_SIZE 65536U
#define VHDX_REGION_OFFSET(copy) ((uint64_t)(196608U + 65536U * (copy)))
#define VHDX_REGION_MAX 2047U
#define VHDX_META_TABLE_SIZE 65536U
#define VHDX_META_MAX 2047U
#define VHDX_ITEM_MAX (1U << 20)
#define VHDX_LOCATOR_MAX 256U
#define VHDX_BITMAP_SIZE (1U << 20)
#define VHDX_LOG_MAX (1U << 30)
#define VHDX_BAT_MAX (513U << 20)
#define VHDX_META_REGION_MAX (128U << 20)
/* No structure of a file lies beyond this; twice the largest disk. */
#define VHDX_FILE_MAX (1ULL << 47)

extern const struct guid vhdx_guid_bat;
extern const struct guid vhdx_guid_metadata;
extern const struct guid vhdx_guid_file_parameters;
extern const struct guid vhdx_guid_size;
extern const struct guid vhdx_guid_disk_id;
extern const struct guid vhdx_guid_logical;
extern const struct guid vhdx_guid_physical;
extern const struct guid vhdx_guid_locator;
extern const struct guid vhdx_guid_locator_type;

/* ---- file identifier, headers, region table ([MS-VHDX] 2.2) -------------- */

/*
 * Decodes the identifier's creator into UTF-8; -EBADMSG without the signature.
 * bytes holds 8 + 512.
 */
int vhdx_identity_decode(const uint8_t *bytes, char *creator, size_t room);
/* Encodes into 8 + 512 bytes; a creator too long is cut. */
void vhdx_identity_encode(const char *creator, uint8_t *bytes);

struct vhdx_header {
	uint32_t checksum;
	uint64_t sequence;
	struct guid file_write_guid;
	struct guid data_write_guid;
	struct guid log_guid;
	uint16_t log_version;
	uint16_t version;
	uint32_t log_length;
	uint64_t log_offset;
};

/* bytes holds VHDX_HEADER_SIZE.  -EBADMSG without signature or checksum. */
int vhdx_header_decode(const uint8_t *bytes, struct vhdx_header *_header);
/* Meaning: version, place and length of the log. */
int vhdx_header_validate(const struct vhdx_header *header, const char **why);
/* Encodes with a fresh checksum. */
void vhdx_header_encode(const struct vhdx_header *header, uint8_t *bytes);
/*
 * Chooses the current of two headers (each VHDX_HEADER_SIZE bytes) and tells
 * its slot, 0 or 1; -EBADMSG when neither serves.  2.2.2.1
 */
int vhdx_header_select(const uint8_t *first, const uint8_t *second,
		       struct vhdx_header *_header, unsigned *_slot,
		       const char **why);

struct vhdx_region {
	struct guid type;
	uint64_t offset;
	uint32_t length;
	bool required;
};

struct vhdx_layout {
	uint64_t bat_offset;
	uint32_t bat_length;
	uint64_t metadata_offset;
	uint32_t metadata_length;
};

/*
 * Decodes and judges one copy of the region table (VHDX_REGION_SIZE bytes):
 * checksum, count, alignment, overlaps with each other and with the log, both
 * known regions present, no unknown required one.
 */
int vhdx_region_load(const uint8_t *bytes, const struct vhdx_header *header,
		     struct vhdx_layout *_layout, const char **why);
/* Entry index of a table already judged. */
void vhdx_region_entry(const uint8_t *bytes, uint32_t index,
		       struct vhdx_region *_region);
/* Entries of a table, as its header says. */
uint32_t vhdx_region_count(const uint8_t *bytes);
/* Writes a table with the BAT and the metadata region. */
void vhdx_region_encode(const struct vhdx_layout *layout, uint8_t *bytes);
/* Changes the BAT's place in a table already judged, and its checksum. */
void vhdx_region_move_bat(uint8_t *bytes, uint64_t offset, uint32_t length);

/* ---- metadata ([MS-VHDX] 2.6) --------------------------------------------- */

struct vhdx_item {
	struct guid id;
	uint32_t offset;	/* from the region's start */
	uint32_t length;
	bool user;
	bool virtual_disk;
	bool required;
};

/*
 * Judges a metadata table (VHDX_META_TABLE_SIZE bytes) of a region of
 * region_length bytes: signature, count, item ranges, no overlap, no repeated
 * item, no unknown required one, all required ones present and long enough.
 */
int vhdx_meta_validate(const uint8_t *bytes, uint32_t region_length,
		       const char **why);
/* Entries, and the entry at index. */
uint32_t vhdx_meta_count(const uint8_t *bytes);
void vhdx_meta_entry(const uint8_t *bytes, uint32_t index,
		     struct vhdx_item *_item);
/* Finds a system item; false when it is not there. */
bool vhdx_meta_find(const uint8_t *bytes, const struct guid *id,
		    struct vhdx_item *_item);
/* Writes a table of count items. */
void vhdx_meta_encode(const struct vhdx_item *items, uint32_t count,
		      uint8_t *bytes);
/* Changes an item's place and length in a table; it must be there. */
void vhdx_meta_set_place(uint8_t *bytes, const struct guid *id,
			 uint32_t offset, uint32_t length);

/* ---- parent locator ([MS-VHDX] 2.6.2.6) ----------------------------------- */

/*
 * Decodes an item of length bytes; the pairs are children of mem_ctx, their
 * strings UTF-8.  -ENOTSUP for another locator type, -EBADMSG for bad ranges,
 * repeated keys or text that is no UTF-16.
 */
int vhdx_locator_decode(TALLOC_CTX *mem_ctx, const uint8_t *bytes,
			size_t length, struct vhdx_locator_pair **_pairs,
			size_t *_count, const char **why);
/*
 * Encodes pairs into room bytes; *_length is what it took.  -EINVAL for text
 * that is no UTF-8 or longer than the format allows, -EFBIG without room.
 */
int vhdx_locator_encode(const struct vhdx_locator_pair *pairs, size_t count,
			uint8_t *bytes, size_t room, size_t *_length);
/* The value of key, or NULL. */
const char *vhdx_locator_value(const struct vhdx_locator_pair *pairs,
			       size_t count, const char *key);

/* ---- geometry and table entries ([MS-VHDX] 2.5) --------------------------- */

enum vhdx_state {
	VHDX_NOT_PRESENT = 0,
	VHDX_UNDEFINED = 1,
	VHDX_ZERO = 2,
	VHDX_UNMAPPED = 3,
	VHDX_UNMAPPED_DRAFT = 5,
	VHDX_PRESENT = 6,
	VHDX_PARTIAL = 7,
};

#define VHDX_ENTRY_OFFSET (~(VHDX_MIB - 1))
#define VHDX_ENTRY_STATE 7ULL
#define VHDX_ENTRY_RESERVED 0xFFFF8ULL

struct vhdx_geometry {
	uint64_t size;
	uint32_t block_size;
	uint32_t logical_sector;
	uint32_t physical_sector;
	bool has_parent;
	bool leave_allocated;
	unsigned block_shift;	/* block_size and chunk_ratio are powers */
	unsigned chunk_shift;	/* of 2, and divisions are slow */
	uint64_t chunk_ratio;
	uint64_t block_count;
	uint64_t entries;	/* that the table must hold */
};

/*
 * Computes the derived fields from the others; -EINVAL for sizes that the
 * format forbids.
 */
int vhdx_geometry_fill(struct vhdx_geometry *geometry);
/* Index in the table of a payload block, and of a chunk's bitmap block. */
static inline uint64_t vhdx_geometry_payload(const struct vhdx_geometry *g,
					     uint64_t block)
{
	return block + (block >> g->chunk_shift);
}
uint64_t vhdx_geometry_bitmap(const struct vhdx_geometry *g, uint64_t block);
/* Sectors in one block, and a block's first bit in its chunk's bitmap. */
uint32_t vhdx_geometry_sectors(const struct vhdx_geometry *g);
uint64_t vhdx_geometry_first_bit(const struct vhdx_geometry *g,
				 uint64_t block);

/* ---- log entries ([MS-VHDX] 2.3) ------------------------------------------ */

struct vhdx_entry_header {
	uint32_t checksum;
	uint32_t length;
	uint32_t tail;
	uint64_t sequence;
	uint32_t descriptors;
	struct guid log_guid;
	uint64_t flushed_file_offset;
	uint64_t last_file_offset;
};

/* bytes holds one sector.  -EBADMSG without the signature. */
int vhdx_entry_decode(const uint8_t *bytes, struct vhdx_entry_header *_entry);
/* Lengths, number and tail against a log of log_length bytes. */
int vhdx_entry_validate(const struct vhdx_entry_header *entry,
			uint32_t log_length);
void vhdx_entry_encode(const struct vhdx_entry_header *entry, uint8_t *bytes);
/* Sectors that descriptors take, with the header. */
uint32_t vhdx_entry_descriptor_sectors(uint32_t descriptors);

struct vhdx_descriptor {
	bool zero;
	uint8_t leading[8];	/* data */
	uint8_t trailing[4];	/* data */
	uint64_t length;	/* zero */
	uint64_t file_offset;
	uint64_t sequence;
};

/* bytes holds 32.  -EBADMSG without one of the two signatures. */
int vhdx_descriptor_decode(const uint8_t *bytes, struct vhdx_descriptor *_d);
/* Alignment, number, and that it touches neither the headers nor the log. */
int vhdx_descriptor_validate(const struct vhdx_descriptor *d,
			     uint64_t sequence,
			     const struct vhdx_header *header);
/* Writes the data descriptor of a page. */
void vhdx_descriptor_encode(const uint8_t *page, uint64_t file_offset,
			    uint64_t sequence, uint8_t *bytes);
/* Writes the data sector of a page, and back. */
void vhdx_sector_encode(const uint8_t *page, uint64_t sequence,
			uint8_t *bytes);
int vhdx_sector_check(const uint8_t *bytes, uint64_t sequence);
void vhdx_sector_decode(const uint8_t *bytes, const struct vhdx_descriptor *d,
			uint8_t *page);

#endif
