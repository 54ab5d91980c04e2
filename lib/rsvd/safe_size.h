/*
 * How far a disk can shrink without losing what its partitions hold, MS-RSVD
 * QUERY_SAFE_SIZE.
 */
#ifndef HVRS_RSVD_SAFE_SIZE_H
#define HVRS_RSVD_SAFE_SIZE_H

#include <stddef.h>
#include <stdint.h>

/* The bytes of a disk's beginning that are enough for a usual table. */
#define RSVD_SAFE_SIZE_HEAD 0x10000U

/*
 * head is the disk's first length bytes.  The end of the last partition, with
 * room for GPT's second table behind it; size itself where the table is not
 * understood, damaged, or lies outside of head.  Never more than size.
 */
uint64_t rsvd_safe_size(const uint8_t *head, size_t length, uint32_t sector,
			uint64_t size);

#endif
