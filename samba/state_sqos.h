/*
 * The databases of storage QoS: policies in hvrs_sqos.tdb of the state
 * directory; flows, and the groups they form, in hvrs_sqos_flows.tdb and
 * hvrs_sqos_groups.tdb of the lock directory, which are gone when Samba starts
 * anew, and on a cluster how nodes divide limits, in hvrs_sqos_nodes.tdb.
 */
#ifndef HVRS_SAMBA_STATE_SQOS_H
#define HVRS_SAMBA_STATE_SQOS_H

#include "samba.h"

#include "sqos/rate.h"
#include "sqos/sqos.h"

/* Opens both, as root.  False with a line in the log. */
bool state_sqos_open(void);

/* 0, or -ENOENT where there is none that can be read. */
int state_sqos_policy(const struct guid *id, struct sqos_policy *_policy);

/*
 * A flow and its lock: nobody else changes it until the lock is freed.
 * *_found tells whether it was there; *_flow is empty otherwise.
 */
struct state_sqos_lock;
struct state_sqos_lock *state_sqos_flow_lock(TALLOC_CTX *mem_ctx,
					     const struct guid *id,
					     struct sqos_flow *_flow,
					     bool *_found);
int state_sqos_flow_store(struct state_sqos_lock *lock,
			  const struct sqos_flow *flow);

/* The same for the group of a key; *_group is empty where there is none. */
struct state_sqos_lock *state_sqos_group_lock(TALLOC_CTX *mem_ctx,
					      const uint8_t key[32],
					      struct sqos_group *_group);
int state_sqos_group_store(struct state_sqos_lock *lock,
			   const struct sqos_group *group);

/*
 * The part of a limit that this node may use: SQOS_WHOLE on a single machine,
 * 0 where it cannot be told now.
 */
uint32_t state_sqos_part(const uint8_t key[SQOS_RATE_KEY],
			 const struct sqos_used *used, uint64_t now_ms);

/* Flows: in all, and of one owner. */
struct state_sqos_count {
	size_t all, own;
};

/* Removes what nobody asked about for long; tells what flows are left. */
struct state_sqos_count state_sqos_sweep(uint64_t now_ms, const char *owner);

#endif
