/*
 * A VHDX disk in a memory store beside a model of what it must hold: the model
 * keeps, for every 512 bytes, a number, and a sector of the disk is a function
 * of its place and number, so that a test compares content, not status.
 */
#ifndef HVRS_TESTS_SUPPORT_VHDX_MODEL_H
#define HVRS_TESTS_SUPPORT_VHDX_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "support/mem_store.h"
#include "vhdx/vhdx.h"

struct tevent_context;

#define MODEL_SECTOR 512U

/* A drawn number; the same seed gives the same numbers. */
uint64_t model_draw(uint64_t *seed);

/* Fills length bytes as the sectors from offset on with number value. */
void model_fill(uint8_t *bytes, uint64_t offset, size_t length,
		uint32_t value);

/* The number that a sector's bytes carry, or UINT32_MAX when they are torn. */
uint32_t model_value(const uint8_t *bytes, uint64_t offset);

struct model {
	uint64_t size;
	uint32_t *values;	/* of each sector; 0 reads as zero */
};

struct model *model_new(TALLOC_CTX *mem_ctx, uint64_t size);
void model_write(struct model *m, uint64_t offset, uint64_t length,
		 uint32_t value);

/* Reads the whole disk and fails the test where it is not the model. */
void model_compare(const struct model *m, struct vhdx *disk,
		   struct tevent_context *ev);

/* Asserting shorthands. */
struct vhdx *model_open(TALLOC_CTX *mem_ctx, struct mem_store *ms,
			bool writable);
void model_put(struct model *m, struct vhdx *disk, struct tevent_context *ev,
	       uint64_t offset, uint64_t length, uint32_t value);

#endif
