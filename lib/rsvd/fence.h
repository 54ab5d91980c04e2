/*
 * What the processes of one shared disk tell each other without a lock: the
 * generation of its reservations, and which writes are under way.
 *
 * A page of memory that all of them map.  A write is published under the
 * generation it was admitted by, before the generation is looked at again; who
 * changes reservations raises the generation and then looks at what is
 * published.  So either the writer sees the change, or the changer sees the
 * write and waits for its end.
 *
 * Ranges are kept in the same way: a write publishes which bytes it changes and
 * then looks whether somebody compares them; who compares says which, and then
 * looks at what is published.
 *
 * A slot belongs to one open and is held by a lock on the file, which goes
 * with the last thread of its process: a slot that nobody holds has no write
 * under way, whatever it says.
 */
#ifndef HVRS_RSVD_FENCE_H
#define HVRS_RSVD_FENCE_H

#include <stdbool.h>
#include <stdint.h>
#include <talloc.h>

#include "util/guid.h"

#define RSVD_FENCE_SLOTS 256

struct rsvd_fence;

/* Counters of an open, for people. */
struct rsvd_fence_counters {
	uint64_t reads;
	uint64_t writes;
	uint64_t read_bytes;
	uint64_t write_bytes;
	uint64_t commands;
};

/*
 * Opens the file at path, made when missing, and takes a slot in it for an
 * open of nexus in process pid.  -EUSERS when all are taken, -EINVAL for a
 * file that is none, -ENOMEM, or what the system says.  Freeing it leaves.
 */
int rsvd_fence_open(TALLOC_CTX *mem_ctx, const char *path,
		    const struct guid *nexus, uint64_t pid,
		    struct rsvd_fence **_fence);

/* Which slot this is. */
uint32_t rsvd_fence_slot(const struct rsvd_fence *fence);

/* The generation now; odd while a change is being made. */
uint64_t rsvd_fence_generation(const struct rsvd_fence *fence);

/*
 * Publishes a write admitted under a generation.  False, with nothing
 * published, when that is not the generation any more.
 */
bool rsvd_fence_enter(struct rsvd_fence *fence, uint64_t generation);

/* That write is over. */
void rsvd_fence_exit(struct rsvd_fence *fence, uint64_t generation);

/*
 * Around a change of the record, under its lock.  end() gives the new
 * generation.  settle() is for one who finds, under the lock, that a process
 * died in between: it gives an even generation, a new one where needed.
 */
void rsvd_fence_change_begin(struct rsvd_fence *fence);
uint64_t rsvd_fence_change_end(struct rsvd_fence *fence);
uint64_t rsvd_fence_settle(struct rsvd_fence *fence);

/*
 * Calls each() for every open that has writes under way of a generation before
 * this one, with its nexus and process.  Returns how many times it said true.
 */
unsigned rsvd_fence_busy(struct rsvd_fence *fence, uint64_t generation,
			 bool (*each)(void *private_data,
				      const struct guid *nexus, uint64_t pid),
			 void *private_data);

/* This open's counters, to add to. */
struct rsvd_fence_counters *rsvd_fence_counters(struct rsvd_fence *fence);

/* Reads the counters of a slot of the file at path, to show them. */
int rsvd_fence_look(const char *path, uint32_t slot, uint64_t pid,
		    struct rsvd_fence_counters *_counters);

/*
 * Around a change of bytes of the disk.  *_entry names it to exit().  -EAGAIN,
 * to be tried again later, where somebody has a part of the range for himself.
 */
int rsvd_fence_range_enter(struct rsvd_fence *fence, uint64_t offset,
			   uint64_t length, uint32_t *_entry);
void rsvd_fence_range_exit(struct rsvd_fence *fence, uint32_t entry);

/*
 * A range for oneself, for COMPARE AND WRITE; one at a time among all
 * processes.  0: nobody enters it any more, until release(), and it is settled
 * when nobody is in it.  -EAGAIN, to be tried again later, while another has
 * one.  owner() is the process that has one now, or 0; *_turn is another each
 * time one is taken.
 */
int rsvd_fence_exclusive(struct rsvd_fence *fence, uint64_t offset,
			 uint64_t length);
bool rsvd_fence_is_settled(struct rsvd_fence *fence);
void rsvd_fence_release(struct rsvd_fence *fence);
uint64_t rsvd_fence_owner(struct rsvd_fence *fence, uint64_t *_turn);

/*
 * Longer work, one open at a time: changing which files a VHD Set consists of,
 * and merging them.  0, or -EAGAIN as above.  Goes with its process.
 */
enum rsvd_fence_lock {
	RSVD_FENCE_SET,
	RSVD_FENCE_MERGE,
	RSVD_FENCE_LOCKS,
};

int rsvd_fence_take(struct rsvd_fence *fence, enum rsvd_fence_lock lock);
void rsvd_fence_give(struct rsvd_fence *fence, enum rsvd_fence_lock lock);

#endif
