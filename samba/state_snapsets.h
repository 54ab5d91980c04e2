/*
 * The database of shadow copy sets, hvrs_fsrvp.tdb in Samba's state directory:
 * one record, the whole state (lib/snapset), changed in transactions.  On a
 * cluster it is CTDB's, one node at a time works on it, and the file of the
 * write freeze lies beside the lock for that, in "vss" of "hvrs:handle store".
 */
#ifndef HVRS_SAMBA_STATE_SNAPSETS_H
#define HVRS_SAMBA_STATE_SNAPSETS_H

#include "samba.h"

#include "snapset/freeze.h"
#include "snapset/snapset.h"

/* The file of the write freeze, below "hvrs:handle store". */
#define STATE_SNAPSETS_FREEZE "vss/freeze"

struct state_snapsets;

/* Opens it, as root.  NULL with a line in the log where that fails. */
struct state_snapsets *state_snapsets_open(TALLOC_CTX *mem_ctx);

/*
 * Reads the state.  0, or a negative errno with a line in the log; -ENOMEM,
 * and -EPROTONOSUPPORT or -EINVAL for a record nobody understands, which is
 * left alone.
 */
int state_snapsets_load(TALLOC_CTX *mem_ctx, struct state_snapsets *db,
			struct snapset_state **_state);

/* Stores it durably.  0, or a negative errno with a line in the log. */
int state_snapsets_store(struct state_snapsets *db,
			 const struct snapset_state *state);

/*
 * On a cluster, the right to work on the state until as many calls of end(); on
 * a single machine there is nobody else.  *_first: it was not held before, and
 * whoever had it may have gone in the middle.  0, or -EBUSY after a second
 * in which another node had it.
 */
int state_snapsets_begin(struct state_snapsets *db, bool *_first);
void state_snapsets_end(struct state_snapsets *db);

/*
 * The write freeze of a file system by its device, for whoever freezes and for
 * those who wait; on a cluster that of all file systems.  As root.  0, or a
 * negative errno; -ENOTDIR, with a line in the log, where this node's store is
 * not that of the others.
 */
int state_snapsets_freeze(TALLOC_CTX *mem_ctx, uint64_t device,
			  struct snapset_freeze **_freeze);

#endif
