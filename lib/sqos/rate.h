/*
 * Limits held by all processes of a machine together: words of shared memory
 * that tell when the next request is due (the generic cell rate algorithm),
 * changed by compare-and-swap.  A process that dies leaves its debt at most.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC; io counts normalised requests, kb
 * KiB.  The file is emptied when the machine has started anew.
 */
#ifndef HVRS_SQOS_RATE_H
#define HVRS_SQOS_RATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <talloc.h>

#define SQOS_RATE_KEY 33
/* What may be taken at once by who has waited. */
#define SQOS_BURST_NS UINT64_C(30000000)
/* How often it is looked whether flows get their minimum. */
#define SQOS_LOOK_NS UINT64_C(200000000)

struct sqos_rates;

/* A slot; it is another's when its generation is. */
struct sqos_ref {
	uint32_t index;		/* 0: none */
	uint32_t generation;
};

/* Maps the file, made where it is missing.  A negative errno. */
int sqos_rates_open(TALLOC_CTX *mem_ctx, const char *path,
		    struct sqos_rates **_rates);

/*
 * The slot of a key, made where there is none.  False where all in reach are
 * in use by others, which have been used within the last two minutes.
 */
bool sqos_rates_find(struct sqos_rates *rates,
		     const uint8_t key[SQOS_RATE_KEY], uint64_t now,
		     struct sqos_ref *_ref);

/* What a slot allows: io and kb a second, 0 for no limit; the least of io. */
void sqos_rates_set(struct sqos_rates *rates, const struct sqos_ref *ref,
		    uint64_t io, uint64_t kb, uint64_t least, uint64_t now);

/*
 * What was charged to a slot since it was taken: io and kb.  True where
 * requests were told to wait, and will for longer than a burst.
 */
bool sqos_rates_used(struct sqos_rates *rates, const struct sqos_ref *ref,
		     uint64_t now, uint64_t *_io, uint64_t *_kb);

/*
 * Charges a request to a flow and its group, each a slot or none, and returns
 * for how long it has to wait.  A flow below its minimum waits for nobody but
 * its own limit.
 */
uint64_t sqos_rates_charge(struct sqos_rates *rates,
			   const struct sqos_ref *flow,
			   const struct sqos_ref *group, uint64_t io,
			   uint64_t kb, uint64_t now);

/*
 * A flow with a minimum tells which part of it it got while it asked for more:
 * if too little, all that is not owed to a minimum is held back, the more the
 * more is missing, else less and less.  A little less than the minimum is
 * enough: a flow gets no more before the others' turn, so that they would be
 * held back for ever otherwise.  What nobody tells for two seconds is forgotten.
 */
void sqos_rates_feedback(struct sqos_rates *rates, double got, uint64_t now);

/* To what all others are held, io a second; 0: to nothing.  For tests. */
uint64_t sqos_rates_held(const struct sqos_rates *rates, uint64_t now);

#endif
