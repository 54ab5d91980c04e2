/*
 * What the nodes of a cluster share in the folder of the handles' logs, beside
 * these: which nodes there are, which of them the others have given up, and
 * the locks that tell whether a process may still write.  Locks are those of
 * fcntl(2): a cluster file system lets go of them when their process has ended
 * or when its node is kept from writing.  Plain system calls.
 */
#ifndef HVRS_SAMBA_STATE_NODES_H
#define HVRS_SAMBA_STATE_NODES_H

#include <stdbool.h>
#include <stdint.h>

#include "state_log.h"

/* Notes this node.  0 or a negative errno; -ERANGE: too high a number. */
int state_nodes_open(const char *directory, uint32_t me);

/* Whether there is a cluster: the above was called and succeeded. */
bool state_nodes_here(uint32_t *_me);

/* Bit for each node that was ever here. */
uint64_t state_nodes_all(void);

/* Sixteen random bytes that name the folder. */
int state_nodes_folder(uint8_t _id[16]);

/*
 * Takes the lock of this process, which it holds to its end; unique is one of
 * a kind in the cluster.  May be called again.  0 or a negative errno.
 */
int state_nodes_own(uint64_t unique);

/*
 * Whether a process, not this one, has its lock: as long as it may write.
 * True as well where nobody can tell.
 */
bool state_nodes_owned(uint64_t unique);

/*
 * The lock under which handles go from one process to another.  Waits for a
 * second; false where another node has it that long.
 */
bool state_nodes_lock(void);
void state_nodes_unlock(void);

/*
 * How often the others have given up a node: its processes that were there
 * before end themselves.  _give_up: only where it is still seen.  False or a
 * negative errno where the folder cannot be read.
 */
bool state_nodes_given_up(uint32_t node, uint64_t *_times);
int state_nodes_give_up(uint32_t node, uint64_t seen);

/* ---- the logs of the others -------------------------------------------------- */

/* Whether any of them holds what was not read yet; asks without a lock. */
bool state_nodes_news(void);

/*
 * Reads on in all of them, and notes how far; the index is locked.  whole is
 * called for a log that is new, log NULL where there is none any more; then
 * frame for every one that was appended.
 */
struct state_nodes_reader {
	bool (*whole)(uint32_t node, const uint8_t *log, size_t length,
		      size_t *_end, void *data);
	void (*frame)(uint32_t node, const struct handle_frame *frame,
		      void *data);
	void *data;
};
void state_nodes_read(const struct state_nodes_reader *reader);

/* The name of the log of a node, in its folder. */
void state_nodes_log_name(uint32_t node, char _name[32]);

#endif
