/*
 * Storage QoS ([MS-SQOS]): the two forms of its one request, flows and
 * policies as stored records, and what a flow is assigned.  No file, no clock,
 * no database: the caller loads, asks, stores.
 *
 * IOPS are normalised (a request counts once for each 8 KiB begun), bandwidths
 * are KiB a second, latencies 100 ns, times milliseconds.
 *
 * Errors of decoding and checking, for the caller to turn into a status once:
 *   -EINVAL          STATUS_INVALID_PARAMETER
 *   -EPROTONOSUPPORT STATUS_REVISION_MISMATCH
 *   -ENOENT          STATUS_NOT_FOUND
 */
#ifndef HVRS_SQOS_SQOS_H
#define HVRS_SQOS_SQOS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "util/guid.h"

#define SQOS_V10		0x0100
#define SQOS_V11		0x0101
#define SQOS_BASE_IO_SIZE	8192
#define SQOS_RATE_MAX		UINT64_C(1000000000)
#define SQOS_NAME_BYTES		512	/* of UTF-16 */
#define SQOS_NAME_MAX		768	/* of UTF-8, without NUL */
#define SQOS_REPLY_V10		88
#define SQOS_REPLY_V11		96

/* 2.2.2.1: Options */
#define SQOS_SET_FLOW		0x1
#define SQOS_SET_POLICY		0x2
#define SQOS_PROBE_POLICY	0x4
#define SQOS_GET_STATUS		0x8
#define SQOS_UPDATE_COUNTERS	0x10
#define SQOS_OPTIONS		0x1F

/* 2.2.2.3: Status of a flow */
enum sqos_status {
	SQOS_OK = 0,
	SQOS_INSUFFICIENT = 1,
	SQOS_UNKNOWN_POLICY = 2,
	SQOS_MISMATCH = 4,
	SQOS_NOT_AVAILABLE = 5,
};

/* ---- wire (wire.c) ---------------------------------------------------------- */

struct sqos_request {
	uint16_t version;
	uint32_t options;
	struct guid flow;
	struct guid policy;
	struct guid initiator;
	uint64_t limit;
	uint64_t reservation;
	uint64_t bandwidth;
	uint64_t ios;
	uint64_t normalised;
	uint64_t latency;
	uint64_t lower_latency;
	uint64_t kilobytes;
	/* UTF-8; empty where the request has none, or one of no use */
	char name[SQOS_NAME_MAX + 1];
	char node[SQOS_NAME_MAX + 1];
};

/*
 * Decodes a request and makes all checks that need no state, in the order of
 * 3.2.5.1: version, length, options, and, where a policy is set, names and
 * values.  attached says whether the open is in a flow: then a probe asks for
 * nothing and is taken out of options.  max_output is the room for an answer.
 */
int sqos_request_decode(const uint8_t *in, size_t length, uint32_t max_output,
			bool attached, struct sqos_request *_request);

/* Whether the open will be in a flow after the request. */
bool sqos_request_attaches(const struct sqos_request *request,
			   bool attached);

/* What a flow is told, 2.2.2.2. */
struct sqos_reply {
	struct guid flow;
	struct guid policy;
	struct guid initiator;
	uint32_t live_ms;
	uint32_t status;
	uint64_t maximum;
	uint64_t minimum;
	uint64_t bandwidth;
};

/* Writes it in the form of a dialect to 88 or 96 bytes; their count. */
size_t sqos_reply_encode(const struct sqos_reply *reply, uint16_t version,
			 uint8_t *out);

/* ---- policies (policy.c) -------------------------------------------------------- */

enum sqos_policy_type {
	SQOS_AGGREGATED = 0,	/* all flows share it */
	SQOS_DEDICATED = 1,	/* each initiator has it for itself */
};

struct sqos_policy {
	struct guid id;
	uint32_t type;
	uint64_t minimum;
	uint64_t maximum;
	uint64_t bandwidth;
	char name[SQOS_NAME_MAX + 1];
};

/* Whether its numbers make sense: 0, or -EINVAL with *_why. */
int sqos_policy_validate(const struct sqos_policy *policy, const char **_why);

int sqos_policy_encode(TALLOC_CTX *mem_ctx, const struct sqos_policy *policy,
		       uint8_t **_bytes, size_t *_length);
/* -EBADMSG for damaged bytes, -EPROTONOSUPPORT for another version. */
int sqos_policy_decode(const uint8_t *bytes, size_t length,
		       struct sqos_policy *_policy);

/* ---- flows (flow.c) ---------------------------------------------------------------- */

struct sqos_counters {
	uint64_t ios;
	uint64_t normalised;
	uint64_t latency;
	uint64_t lower_latency;
	uint64_t kilobytes;
};

struct sqos_flow {
	struct guid id;
	struct guid policy;
	struct guid initiator;
	uint64_t limit;
	uint64_t reservation;
	uint64_t bandwidth;
	uint64_t seen_ms;	/* the last request about it */
	uint64_t rated_ms;	/* when its rate was last looked at */
	uint64_t demand;	/* normalised IOPS, smoothed */
	struct sqos_counters total;
	struct sqos_counters since;	/* rated_ms */
	uint32_t missed;	/* times its minimum was, one after another */
	char owner[184 + 1];	/* the user who made it, as SID */
	char name[SQOS_NAME_MAX + 1];
	char node[SQOS_NAME_MAX + 1];
	char file[1024 + 1];	/* share and path of the last open, for people */
};

/* A flow nobody asks about for so long is gone. */
#define SQOS_FLOW_LIFE_MS	120000

/* What a flow is told to come back after. */
#define SQOS_LIVE_MS		2000

/* Applies SET_POLICY or PROBE_POLICY. */
void sqos_flow_set(struct sqos_flow *flow, const struct sqos_request *request);

/* Adds the increments of UPDATE_COUNTERS, saturating, nonsense ignored. */
void sqos_flow_count(struct sqos_flow *flow,
		     const struct sqos_request *request, uint64_t now_ms);

/* Looks at the rate of the time since it was last looked at. */
void sqos_flow_rate(struct sqos_flow *flow, uint64_t now_ms);

int sqos_flow_encode(TALLOC_CTX *mem_ctx, const struct sqos_flow *flow,
		     uint8_t **_bytes, size_t *_length);
int sqos_flow_decode(const uint8_t *bytes, size_t length,
		     struct sqos_flow *_flow);

/* ---- groups (group.c): flows that share one allocation ------------------------------ */

/* No group has more; what comes after is as alone. */
#define SQOS_GROUP_MAX	1024

struct sqos_member {
	struct guid flow;
	uint64_t demand;
	uint64_t seen_ms;
};

struct sqos_group {
	size_t count;
	struct sqos_member members[SQOS_GROUP_MAX];
};

/*
 * What names the group of a flow with a policy: the policy, and for a
 * dedicated one the initiator (or the flow where it tells none).
 */
void sqos_group_key(const struct sqos_policy *policy,
		    const struct sqos_flow *flow, uint8_t key[32]);

/*
 * Puts a flow's demand into its group.  Who has been silent for six seconds
 * asks for nothing there, and is dropped after SQOS_FLOW_LIFE_MS.
 */
void sqos_group_update(struct sqos_group *group, const struct sqos_flow *flow,
		       uint64_t now_ms);

/* Takes a flow out. */
void sqos_group_remove(struct sqos_group *group, const struct guid *flow);

int sqos_group_encode(TALLOC_CTX *mem_ctx, const struct sqos_group *group,
		      uint8_t **_bytes, size_t *_length);
int sqos_group_decode(const uint8_t *bytes, size_t length,
		      struct sqos_group *_group);

/* ---- nodes (nodes.c): one limit held by several machines ---------------------------- */

#define SQOS_NODES_MAX	64
#define SQOS_WHOLE	1000000u	/* parts of a limit */
/* What a node has from the start, even if the others have all the rest. */
#define SQOS_LEAST	(SQOS_WHOLE / 100)

struct sqos_node {
	uint32_t number;
	uint32_t part;		/* granted */
	uint32_t wanted;
	uint64_t seen_ms;
	uint64_t io;		/* sqos_used of that time */
	uint64_t kb;
};

struct sqos_nodes {
	size_t count;
	struct sqos_node nodes[SQOS_NODES_MAX];
};

/*
 * What a node has used of a limit in all, and the limit itself; 0 for none.
 * behind: requests wait, so it would use more than it may, however much it did
 * since it asked last.
 */
struct sqos_used {
	uint64_t io, kb;
	uint64_t io_limit, kb_limit;
	bool behind;
};

/*
 * Asks for a node's part of a limit, as often as it likes and once a second at
 * least; after three seconds of silence it is others'.  Times are those of the
 * nodes' clocks, which agree within a second.  True where nodes has changed.
 */
bool sqos_nodes_ask(struct sqos_nodes *nodes, uint32_t number,
		    const struct sqos_used *used, uint64_t now_ms,
		    uint32_t *_part);

/* Whether a record can go: it is damaged, or nobody uses the limit. */
bool sqos_nodes_over(const uint8_t *bytes, size_t length, uint64_t now_ms);

/* That part of a limit; no limit stays none, and none is made. */
uint64_t sqos_part(uint64_t limit, uint32_t part);

int sqos_nodes_encode(TALLOC_CTX *mem_ctx, const struct sqos_nodes *nodes,
		      uint8_t **_bytes, size_t *_length);
int sqos_nodes_decode(const uint8_t *bytes, size_t length,
		      struct sqos_nodes *_nodes);

/*
 * What a flow is assigned.  policy is that of its PolicyID, NULL where that is
 * null or unknown; group is the flow's, updated, NULL where it has none.
 */
void sqos_assign(struct sqos_flow *flow, const struct sqos_policy *policy,
		 const struct sqos_group *group, struct sqos_reply *_reply);

#endif
