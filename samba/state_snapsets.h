/*
 * The database of shadow copy sets, hvrs_fsrvp.tdb in Samba's state directory:
 * one record, the whole state (lib/snapset), changed in transactions.
 */
#ifndef HVRS_SAMBA_STATE_SNAPSETS_H
#define HVRS_SAMBA_STATE_SNAPSETS_H

#include "samba.h"

#include "snapset/snapset.h"

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

#endif
