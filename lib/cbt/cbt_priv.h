/*
 * Change tracking, between the files of this room.
 */
#ifndef HVRS_CBT_CBT_PRIV_H
#define HVRS_CBT_CBT_PRIV_H

#include "cbt/cbt.h"

/* Where slot number slot has what. */
#define CBT_SLOT_FIRST 0x100000ULL
#define CBT_SLOT_STEP (192ULL << 20)
#define CBT_ARMS (CBT_SIZE_MAX / CBT_GROUP)	/* one byte each */
#define CBT_BITS_AT 0x100000ULL
#define CBT_BITS (CBT_SIZE_MAX / CBT_REGION / 8)
/* Bytes of bits that are handled at once: 4 GiB of the disk. */
#define CBT_PIECE 0x2000U

struct cbt {
	struct store *store;
	struct cbt_lock lock;
	struct cbt_header header;
	bool doubt;		/* a header may or may not have been written */
	uint8_t *armed;		/* bits: groups known to be armed */
	uint8_t *known;		/* bits: regions known to be set; malloc's */
	unsigned locked;	/* how often, by this process */
	uint64_t known_size;	/* bytes of known */
	uint8_t piece[2][CBT_PIECE];
};

static inline uint64_t cbt_arms_at(uint32_t slot)
{
	return CBT_SLOT_FIRST + slot * CBT_SLOT_STEP;
}

static inline uint64_t cbt_bits_at(uint32_t slot)
{
	return cbt_arms_at(slot) + CBT_BITS_AT;
}

/* Reads bits of a slot; what lies past the end of the file is zero. */
int cbt_bits_read(struct cbt *cbt, uint32_t slot, uint64_t at, size_t length,
		  uint8_t *bits);

#endif
