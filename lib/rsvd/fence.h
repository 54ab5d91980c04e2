/*
 * What the processes of one shared disk tell each other without a lock: the
 * generation of its reservations, and which writes are under way.
 *
 * On one machine a page of memory that all of them map.  Among several, files
 * that are read and written: one for all, and one for each open, which it
 * alone writes to, so that its node keeps it; a read must see each write that
 * has returned on another machine.  A write is published under the
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
/* One that nobody has: of an open without a process. */
#define RSVD_FENCE_NO_SLOT UINT32_MAX

struct rsvd_fence;

/* A process, and the machine it runs on (0 where there is but one). */
struct rsvd_fence_process {
	uint64_t pid;
	uint32_t node;
};

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
 * open of nexus in that process.  apart: other machines have it too; then path
 * lies on a file system that they share, and each slot has a file of its own,
 * "PATH.N".  -EUSERS when all are taken, -EINVAL for a file that is none,
 * -ENOMEM, or what the system says.  Freeing it leaves.
 */
int rsvd_fence_open(TALLOC_CTX *mem_ctx, const char *path, bool apart,
		    const struct guid *nexus,
		    const struct rsvd_fence_process *process,
		    struct rsvd_fence **_fence);

/*
 * 0, or what went wrong when the files were read or written: then nothing is
 * let in any more, and others are held up until the open ends.
 */
int rsvd_fence_error(const struct rsvd_fence *fence);

/*
 * Whether an open has the slot: until the last thread of its process is gone,
 * and, on another machine, until the file system has let go of its locks.
 * True also where that cannot be told.  The second is for one who has no slot.
 */
bool rsvd_fence_is_held(const struct rsvd_fence *fence, uint32_t slot);
bool rsvd_fence_is_held_at(const char *path, uint32_t slot);

/* Whether anybody has any slot of the file at path; false where it is not. */
bool rsvd_fence_is_used_at(const char *path);

/* Which slot this is. */
uint32_t rsvd_fence_slot(const struct rsvd_fence *fence);

/* The generation now; odd while a change is being made. */
uint64_t rsvd_fence_generation(struct rsvd_fence *fence);

/*
 * Publishes a write admitted under a generation.  False, with nothing
 * published, when that is not the generation any more.
 */
bool rsvd_fence_enter(struct rsvd_fence *fence, uint64_t generation);

/* That write is over. */
void rsvd_fence_exit(struct rsvd_fence *fence, uint64_t generation);

/*
 * Around a change of the record, under its lock; nothing is to be stored where
 * begin() says that it cannot be.  end() gives the new generation.  settle() is for one who finds, under the lock, that a process
 * died in between: it gives an even generation, a new one where needed.
 */
int rsvd_fence_change_begin(struct rsvd_fence *fence);
uint64_t rsvd_fence_change_end(struct rsvd_fence *fence);
uint64_t rsvd_fence_settle(struct rsvd_fence *fence);

/*
 * Calls each() for every open that has writes under way of a generation before
 * this one, with its nexus and process.  Returns how many times it said true.
 */
unsigned rsvd_fence_busy(struct rsvd_fence *fence, uint64_t generation,
			 bool (*each)(void *private_data,
				      const struct guid *nexus,
				      const struct rsvd_fence_process *who),
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
struct rsvd_fence_process rsvd_fence_owner(struct rsvd_fence *fence,
					   uint64_t *_turn);

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
