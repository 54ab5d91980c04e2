/*
 * Flows that share one allocation, and how it is split: by demand, as water
 * fills vessels, with enough for an idle flow that it can wake up.
 */
#include <errno.h>
#include <string.h>

#include "sqos/sqos_priv.h"

#define MAGIC	0x47515348u	/* "HSQG" */

/* Who has been silent for so long asks for nothing now. */
#define SILENT_MS	(3 * SQOS_LIVE_MS)

/* Below 95 of 100 of its minimum, so often in turn: insufficient. */
#define MISSED	2

void sqos_group_key(const struct sqos_policy *policy,
		    const struct sqos_flow *flow, uint8_t key[32])
{
	const struct guid *who = &flow->initiator;

	memset(key, 0, 32);
	memcpy(key, policy->id.bytes, 16);
	if (policy->type == SQOS_DEDICATED) {
		if (guid_is_null(who)) {
			who = &flow->id;
		}
		memcpy(key + 16, who->bytes, 16);
	}
}

void sqos_group_remove(struct sqos_group *group, const struct guid *flow)
{
	size_t i = 0;

	for (i = 0; i < group->count; i++) {
		if (guid_equal(&group->members[i].flow, flow)) {
			group->members[i] = group->members[--group->count];
			return;
		}
	}
}

void sqos_group_update(struct sqos_group *group, const struct sqos_flow *flow,
		       uint64_t now_ms)
{
	size_t i = 0;

	while (i < group->count) {
		struct sqos_member *member = &group->members[i];

		if (now_ms > member->seen_ms + SILENT_MS) {
			member->demand = 0;
		}
		if (guid_equal(&member->flow, &flow->id) ||
		    now_ms > member->seen_ms + SQOS_FLOW_LIFE_MS) {
			group->members[i] = group->members[--group->count];
		} else {
			i++;
		}
	}
	if (group->count < SQOS_GROUP_MAX) {
		group->members[group->count++] = (struct sqos_member) {
			.flow = flow->id, .demand = flow->demand,
			.seen_ms = now_ms,
		};
	}
}

int sqos_group_encode(TALLOC_CTX *mem_ctx, const struct sqos_group *group,
		      uint8_t **_bytes, size_t *_length)
{
	struct cursor_put put = {};
	size_t i = 0;
	int ret = sqos_record_begin(mem_ctx, MAGIC, 4 + 32 * group->count,
				    &put);

	if (ret != 0) {
		return ret;
	}
	cursor_put_le32(&put, (uint32_t)group->count);
	for (i = 0; i < group->count; i++) {
		cursor_put_guid(&put, &group->members[i].flow);
		cursor_put_le64(&put, group->members[i].demand);
		cursor_put_le64(&put, group->members[i].seen_ms);
	}
	return sqos_record_end(&put, _bytes, _length);
}

int sqos_group_decode(const uint8_t *bytes, size_t length,
		      struct sqos_group *_group)
{
	struct cursor in = {};
	uint32_t count = 0;
	uint32_t i = 0;
	int ret = sqos_record_open(bytes, length, MAGIC, &in);

	if (ret != 0) {
		return ret;
	}
	count = cursor_le32(&in);
	if (count > SQOS_GROUP_MAX) {
		return -EBADMSG;
	}
	for (i = 0; i < count; i++) {
		cursor_guid(&in, &_group->members[i].flow);
		_group->members[i].demand = cursor_le64(&in);
		_group->members[i].seen_ms = cursor_le64(&in);
		if (_group->members[i].demand > SQOS_RATE_MAX) {
			return -EBADMSG;
		}
	}
	if (cursor_status(&in) != 0 || cursor_remaining(&in) != 0) {
		return -EBADMSG;
	}
	_group->count = count;
	return 0;
}

/*
 * The share of a flow in an allocation.  Everyone may have the level at which
 * all demands together fill it; who wants less leaves the rest to others, and
 * keeps what is between the others and one more.  unit is what one normalised
 * request counts in "all".
 */
static uint64_t split(const struct sqos_group *group,
		      const struct sqos_flow *flow, uint64_t all,
		      uint64_t unit)
{
	uint64_t floor = all / (group->count + 1);
	uint64_t left = all;
	uint64_t level = 0;
	uint64_t wanted = flow->demand * unit;
	size_t rest = group->count;
	size_t round = 0;

	if (all == 0 || group->count <= 1) {
		return all;
	}
	/* Each round settles everybody below the level; few are needed. */
	for (round = 0; round < 16 && rest > 0; round++) {
		uint64_t next = left / rest;
		uint64_t used = 0;
		size_t below = 0;
		size_t i = 0;

		for (i = 0; i < group->count; i++) {
			uint64_t demand = group->members[i].demand * unit;

			if (demand < next) {
				used += demand;
				below++;
			}
		}
		level = next;
		if (used > all || below == group->count) {
			break;
		}
		if (group->count - below == rest) {
			break;
		}
		left = all - used;
		rest = group->count - below;
	}
	/* Nobody is told less than would let it wake up. */
	if (wanted < level) {
		level = wanted + (all - wanted) / (group->count + 1);
	}
	if (level < floor) {
		level = floor;
	}
	return level < all ? (level > 0 ? level : 1) : all;
}

/* A minimum is split evenly weighted by demand. */
static uint64_t split_minimum(const struct sqos_group *group,
			      const struct sqos_flow *flow, uint64_t all)
{
	uint64_t sum = 0;
	size_t i = 0;

	if (all == 0 || group->count <= 1) {
		return all;
	}
	for (i = 0; i < group->count; i++) {
		sum += group->members[i].demand + 1;
	}
	return (uint64_t)((unsigned __int128)all * (flow->demand + 1) / sum);
}

static uint32_t judge(struct sqos_flow *flow, uint64_t minimum)
{
	if (minimum == 0 || flow->demand >= minimum / 100 * 95 ||
	    flow->demand == 0) {
		flow->missed = 0;
		return SQOS_OK;
	}
	/*
	 * Below its minimum: by its own wish, unless what it asks waits for
	 * us, which the client's latencies tell: all of it is ours.
	 */
	if (flow->total.latency == 0 ||
	    flow->total.lower_latency < flow->total.latency / 10 * 9) {
		flow->missed = 0;
		return SQOS_OK;
	}
	flow->missed++;
	return flow->missed > MISSED ? SQOS_INSUFFICIENT : SQOS_OK;
}

void sqos_assign(struct sqos_flow *flow, const struct sqos_policy *policy,
		 const struct sqos_group *group, struct sqos_reply *_reply)
{
	static const struct sqos_group alone;
	struct sqos_reply reply = {
		.flow = flow->id, .policy = flow->policy,
		.initiator = flow->initiator, .live_ms = SQOS_LIVE_MS,
	};

	if (group == NULL) {
		group = &alone;
	}
	if (policy != NULL) {
		reply.maximum = split(group, flow, policy->maximum, 1);
		reply.minimum = split_minimum(group, flow, policy->minimum);
		reply.bandwidth = split(group, flow, policy->bandwidth,
					SQOS_BASE_IO_SIZE / 1024);
		/* No flow needs more than it may have. */
		if (reply.maximum > 0 && reply.minimum > reply.maximum) {
			reply.minimum = reply.maximum;
		}
		reply.status = judge(flow, reply.minimum);
	} else if (!guid_is_null(&flow->policy)) {
		reply.status = SQOS_UNKNOWN_POLICY;
	} else {
		reply.maximum = flow->limit;
		reply.minimum = flow->reservation;
		reply.bandwidth = flow->bandwidth;
		reply.status = judge(flow, reply.minimum);
	}
	*_reply = reply;
}
