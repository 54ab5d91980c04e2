/* What the files of snapset/ share. */
#ifndef HVRS_SNAPSET_PRIV_H
#define HVRS_SNAPSET_PRIV_H

#include "snapset/snapset.h"

#define SNAPSET_SHORT_S	180
#define SNAPSET_LONG_S	1800

/* Starts the message sequence timer, [MS-FSRVP] 3.1.2. */
void snapset_timer(struct snapset_state *state,
		   const struct snapset_rules *rules, uint32_t seconds,
		   uint64_t now);

/* No client has set a context any more. */
void snapset_context_clear(struct snapset_state *state);

/* A set and all that is in it shall go. */
void snapset_doom(struct snapset_set *set);

/*
 * The snapshot of a copy, where there may be one, shall go, and the copy be
 * as if none had been tried: what there may be becomes a doomed set of its
 * own.  Without memory the whole set is doomed instead.
 */
void snapset_copy_renew(struct snapset_state *state, struct snapset_set *set,
			struct snapset_copy *copy);

#endif
