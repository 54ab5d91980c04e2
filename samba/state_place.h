/*
 * Numbers of devices are not for ever: after a reboot, or a file system
 * mounted anew, a file that is the same has another.  What is remembered of it
 * is found again by its name and its inode.
 */
#ifndef HVRS_SAMBA_STATE_PLACE_H
#define HVRS_SAMBA_STATE_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "handle/handle.h"

#define STATE_PLACES 64

/* Which number became which; to is 0 where that is not one. */
struct state_places {
	size_t count;
	uint64_t from[STATE_PLACES];
	uint64_t to[STATE_PLACES];
};

/* Learns from a record whose file still has its name.  As root. */
void state_places_learn(struct state_places *places,
			const struct handle_record *r);

/*
 * The device on which a record's file is now: by its name, else by what the
 * other records told; as recorded where nothing tells otherwise.  As root.
 */
uint64_t state_places_device(const struct state_places *places,
			     const struct handle_record *r);

#endif
