/* What the files of fsrvp/ share: the server, one call, and its parts. */
#ifndef HVRS_FSRVP_FSRVP_H
#define HVRS_FSRVP_FSRVP_H

#include "rpc.h"
#include "state_snapsets.h"

#include "provider.h"
#include "snapset/snapset.h"

struct fsrvp_job;

struct fsrvp {
	struct tevent_context *ev;
	struct messaging_context *msg_ctx;
	struct state_snapsets *db;
	struct snapset_rules rules;
	bool integrity;		/* of calls is required */
	struct tevent_timer *timer;
	struct fsrvp_job *job;	/* that runs, or NULL */
	bool job_is_prepare;
	bool undo_failed;	/* it is tried again later */
};

/* One call of a client: what its method works with. */
struct fsrvp_call {
	struct fsrvp *server;
	struct dcesrv_call_state *dce_call;
	TALLOC_CTX *mem_ctx;	/* of the reply */
	struct snapset_state *state;
	uint64_t now;
	bool changed;		/* the state shall be stored */
	bool undo;		/* something is doomed */
	bool later;		/* the job answers, not the method */
	uint32_t *result;	/* where the answer goes */
	const char *client;	/* address and user */
};

/* Milliseconds of the wall clock. */
uint64_t fsrvp_now(void);

/*
 * Begins to work on the state, until state_snapsets_end(): on a cluster one
 * node at a time does.  False while another one has it for long.
 */
bool fsrvp_enter(struct fsrvp *server);

/* Stores a changed state and starts its timer again.  0 or an errno. */
int fsrvp_store(struct fsrvp *server, const struct snapset_state *state);

/*
 * Takes away what is doomed (undo.c): its shares, its snapshots, then its
 * record.  Returns what the client is told when that failed; the rest is
 * tried again later.
 */
uint32_t fsrvp_undo(struct fsrvp *server, struct snapset_state *state);

/* ---- rpc.c ------------------------------------------------------------------ */

const struct dcesrv_endpoint_server *fsrvp_endpoint_server(
	struct fsrvp *server);

/* ---- methods.c: one row per opnum, [MS-FSRVP] 3.1.4 --------------------------- */

struct fsrvp_method {
	const char *name;
	bool changes;		/* it is logged for an audit */
	uint32_t (*run)(struct fsrvp_call *call, void *r);
	/* where in r the answer goes */
	size_t result;
};

#define FSRVP_METHODS 13

const struct fsrvp_method *fsrvp_method_get(uint16_t opnum);

/* ---- access.c ----------------------------------------------------------------- */

/* SNAPSET_OK or SNAPSET_ACCESS_DENIED, with a line in the log. */
uint32_t fsrvp_access(struct fsrvp_call *call, const char *method);

/* Whether a host part is one of this server's names or addresses. */
bool fsrvp_is_our_host(const char *host);

/* ---- shares.c ----------------------------------------------------------------- */

struct fsrvp_share {
	const char *host;	/* as the client said it */
	const char *name;	/* as the configuration has it */
	const char *path;
	const struct provider *provider;
	struct provider_config config;
	struct provider_store store;
};

/* Finds the share a UNC names; an error of the method otherwise. */
uint32_t fsrvp_share_find(struct fsrvp_call *call, const char *unc,
			  struct fsrvp_share *_share);

/*
 * Finds what takes its snapshots.  SNAPSET_NOT_SUPPORTED, with a line in the
 * log that says why.
 */
uint32_t fsrvp_share_probe(TALLOC_CTX *mem_ctx, struct fsrvp_share *share);

/* What smb.conf says of a share to providers, by the share's name. */
void fsrvp_share_config(const char *name, struct provider_config *_config);

/* ---- expose.c: exposed shares, in the registry ---------------------------------- */

/* Makes the shares of a set.  SNAPSET_OK or an error, none is made then. */
uint32_t fsrvp_expose(struct fsrvp *server, const struct snapset_set *set);

/* Takes one away and disconnects who uses it; 0 where there is none. */
int fsrvp_unexpose(struct fsrvp *server, const char *exposed);

/* Makes the shares of a set read-only and disconnects who may write. */
uint32_t fsrvp_seal_shares(struct fsrvp *server,
			   const struct snapset_set *set);

/* ---- job.c: what takes long ------------------------------------------------------ */

/*
 * Begins to prepare or to take the snapshots of a set; the call is answered
 * when that is done or after so many milliseconds.
 */
uint32_t fsrvp_job_begin(struct fsrvp_call *call, struct snapset_set *set,
			 bool commit, uint32_t timeout_ms);

/* Waits for the job that runs already. */
uint32_t fsrvp_job_wait(struct fsrvp_call *call, uint32_t timeout_ms);

#endif
