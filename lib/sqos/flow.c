/* Flows: parameters, counters, rates, and their stored form. */
#include <errno.h>
#include <string.h>

#include "sqos/sqos_priv.h"

#define MAGIC	0x46515348u	/* "HSQF" */

/* Rates are looked at no more often. */
#define RATE_MS	1000

void sqos_flow_set(struct sqos_flow *flow, const struct sqos_request *request)
{
	flow->policy = request->policy;
	flow->initiator = request->initiator;
	flow->limit = request->limit;
	flow->reservation = request->reservation;
	flow->bandwidth = request->bandwidth;
	if (request->name[0] != '\0') {
		memcpy(flow->name, request->name, sizeof(flow->name));
	}
	if (request->node[0] != '\0') {
		memcpy(flow->node, request->node, sizeof(flow->node));
	}
}

static void add(uint64_t *sum, uint64_t more)
{
	if (__builtin_add_overflow(*sum, more, sum)) {
		*sum = UINT64_MAX;
	}
}

static void count(struct sqos_counters *counters,
		  const struct sqos_request *request)
{
	uint64_t lower = request->lower_latency < request->latency
		? request->lower_latency : request->latency;

	add(&counters->ios, request->ios);
	add(&counters->normalised, request->normalised);
	add(&counters->latency, request->latency);
	add(&counters->lower_latency, lower);
	add(&counters->kilobytes, request->kilobytes);
}

void sqos_flow_count(struct sqos_flow *flow,
		     const struct sqos_request *request, uint64_t now_ms)
{
	uint64_t elapsed = now_ms > flow->seen_ms ? now_ms - flow->seen_ms
						  : 0;
	/* No client does more than the highest rate there is, four times. */
	uint64_t most = SQOS_RATE_MAX / 1000 * 4 * (elapsed + 1000);

	if (request->ios > most || request->normalised > most ||
	    request->kilobytes > most) {
		return;
	}
	count(&flow->total, request);
	count(&flow->since, request);
}

void sqos_flow_rate(struct sqos_flow *flow, uint64_t now_ms)
{
	uint64_t elapsed = now_ms - flow->rated_ms;
	uint64_t rate = 0;

	if (now_ms < flow->rated_ms) {
		flow->rated_ms = now_ms;
		return;
	}
	if (elapsed < RATE_MS) {
		return;
	}
	/* Saturated counters are of no use, and would overflow. */
	rate = flow->since.normalised < UINT64_MAX / 1000
		? flow->since.normalised * 1000 / elapsed : SQOS_RATE_MAX;
	if (rate > SQOS_RATE_MAX) {
		rate = SQOS_RATE_MAX;
	}
	flow->demand = (flow->demand + rate) / 2;
	flow->since = (struct sqos_counters) {};
	flow->rated_ms = now_ms;
}

static void put_counters(struct cursor_put *put,
			 const struct sqos_counters *counters)
{
	cursor_put_le64(put, counters->ios);
	cursor_put_le64(put, counters->normalised);
	cursor_put_le64(put, counters->latency);
	cursor_put_le64(put, counters->lower_latency);
	cursor_put_le64(put, counters->kilobytes);
}

static void take_counters(struct cursor *in, struct sqos_counters *counters)
{
	counters->ios = cursor_le64(in);
	counters->normalised = cursor_le64(in);
	counters->latency = cursor_le64(in);
	counters->lower_latency = cursor_le64(in);
	counters->kilobytes = cursor_le64(in);
}

int sqos_flow_encode(TALLOC_CTX *mem_ctx, const struct sqos_flow *flow,
		     uint8_t **_bytes, size_t *_length)
{
	struct cursor_put put = {};
	int ret = sqos_record_begin(
		mem_ctx, MAGIC, 256 + strlen(flow->owner) +
		strlen(flow->name) + strlen(flow->node) + strlen(flow->file),
		&put);

	if (ret != 0) {
		return ret;
	}
	cursor_put_guid(&put, &flow->id);
	cursor_put_guid(&put, &flow->policy);
	cursor_put_guid(&put, &flow->initiator);
	cursor_put_le64(&put, flow->limit);
	cursor_put_le64(&put, flow->reservation);
	cursor_put_le64(&put, flow->bandwidth);
	cursor_put_le64(&put, flow->seen_ms);
	cursor_put_le64(&put, flow->rated_ms);
	cursor_put_le64(&put, flow->demand);
	put_counters(&put, &flow->total);
	put_counters(&put, &flow->since);
	cursor_put_le32(&put, flow->missed);
	sqos_record_text(&put, flow->owner);
	sqos_record_text(&put, flow->name);
	sqos_record_text(&put, flow->node);
	sqos_record_text(&put, flow->file);
	return sqos_record_end(&put, _bytes, _length);
}

int sqos_flow_decode(const uint8_t *bytes, size_t length,
		     struct sqos_flow *_flow)
{
	struct sqos_flow flow = {};
	struct cursor in = {};
	int ret = sqos_record_open(bytes, length, MAGIC, &in);

	if (ret != 0) {
		return ret;
	}
	cursor_guid(&in, &flow.id);
	cursor_guid(&in, &flow.policy);
	cursor_guid(&in, &flow.initiator);
	flow.limit = cursor_le64(&in);
	flow.reservation = cursor_le64(&in);
	flow.bandwidth = cursor_le64(&in);
	flow.seen_ms = cursor_le64(&in);
	flow.rated_ms = cursor_le64(&in);
	flow.demand = cursor_le64(&in);
	take_counters(&in, &flow.total);
	take_counters(&in, &flow.since);
	flow.missed = cursor_le32(&in);
	sqos_record_take_text(&in, flow.owner, sizeof(flow.owner));
	sqos_record_take_text(&in, flow.name, sizeof(flow.name));
	sqos_record_take_text(&in, flow.node, sizeof(flow.node));
	sqos_record_take_text(&in, flow.file, sizeof(flow.file));
	if (cursor_status(&in) != 0 || cursor_remaining(&in) != 0 ||
	    flow.demand > SQOS_RATE_MAX) {
		return -EBADMSG;
	}
	*_flow = flow;
	return 0;
}
