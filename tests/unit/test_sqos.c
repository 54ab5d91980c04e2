/* Storage QoS: the bytes of sqos.md section 11, its rules, splits, records. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <talloc.h>

#include "sqos/sqos.h"
#include "util/cursor.h"

#define ROOM 4096

static const struct guid flow_id = { {
	0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77,
	0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00 } };
static const struct guid policy_id = { {
	0x04, 0x07, 0x32, 0xec, 0x43, 0x64, 0x6c, 0x42,
	0xab, 0x74, 0x86, 0x41, 0x3e, 0x90, 0xdb, 0xfb } };
static const struct guid initiator_id = { {
	0x0d, 0x0c, 0x0b, 0x0a, 0x0f, 0x0e, 0x11, 0x10,
	0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19 } };

/* What a request is made of; the names "VM1" and "HV1" at its end. */
struct parts {
	uint16_t version;
	uint32_t options;
	bool flow;
	bool policy;
	uint64_t limit;
	uint64_t reservation;
	uint64_t bandwidth;
	uint16_t name_offset;
	uint16_t name_length;
	uint16_t node_offset;
	uint16_t node_length;
	size_t size;		/* sent; 0: all */
	bool attached;
	uint32_t room;		/* for the answer; 0: enough */
	int wanted;
};

static size_t build(const struct parts *parts, uint8_t bytes[ROOM])
{
	struct cursor_put put = {};
	struct guid none = {};
	size_t fixed = parts->version == SQOS_V10 ? 112 : 128;

	memset(bytes, 0, ROOM);
	cursor_put_init(&put, bytes, ROOM);
	cursor_put_le16(&put, parts->version);
	cursor_put_le16(&put, 0);
	cursor_put_le32(&put, parts->options);
	cursor_put_guid(&put, parts->flow ? &flow_id : &none);
	cursor_put_guid(&put, parts->policy ? &policy_id : &none);
	cursor_put_guid(&put, &initiator_id);
	cursor_put_le64(&put, parts->limit);
	cursor_put_le64(&put, parts->reservation);
	cursor_put_le16(&put, parts->name_offset);
	cursor_put_le16(&put, parts->name_length);
	cursor_put_le16(&put, parts->node_offset);
	cursor_put_le16(&put, parts->node_length);
	bytes[112] = (uint8_t)parts->bandwidth;
	bytes[113] = (uint8_t)(parts->bandwidth >> 8);
	bytes[114] = (uint8_t)(parts->bandwidth >> 16);
	bytes[115] = (uint8_t)(parts->bandwidth >> 24);
	memcpy(bytes + fixed, "V\0M\0001\0H\0V\0001\0", 12);
	return parts->size != 0 ? parts->size : fixed + 12;
}

static int decode(const struct parts *parts, struct sqos_request *request)
{
	uint8_t bytes[ROOM];
	size_t length = build(parts, bytes);
	/* Of its very size, so that a read behind it is seen. */
	uint8_t *copy = talloc_memdup(NULL, bytes, length);
	int ret = sqos_request_decode(copy, length,
				      parts->room != 0 ? parts->room : 4096,
				      parts->attached, request);

	talloc_free(copy);
	return ret;
}

static void test_vector_a(void **state)
{
	static const uint8_t head[24] = {
		0x00, 0x01, 0x00, 0x00, 0x09, 0x00, 0x00, 0x00,
		0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77,
		0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00 };
	static const uint8_t zero[16];
	struct sqos_request request = {};
	struct sqos_flow flow = {};
	struct sqos_reply reply = {};
	uint8_t bytes[112] = {};
	uint8_t out[SQOS_REPLY_V11] = {};

	(void)state;
	memcpy(bytes, head, sizeof(head));
	assert_int_equal(sqos_request_decode(bytes, 112, 88, false, &request),
			 0);
	assert_int_equal(request.version, SQOS_V10);
	assert_int_equal(request.options, SQOS_SET_FLOW | SQOS_GET_STATUS);
	assert_true(guid_equal(&request.flow, &flow_id));
	assert_true(guid_is_null(&request.policy));
	/* D: what it is answered. */
	flow.id = request.flow;
	sqos_assign(&flow, NULL, NULL, &reply);
	reply.live_ms = 4000;
	assert_int_equal(sqos_reply_encode(&reply, SQOS_V10, out), 88);
	assert_memory_equal(out, "\x00\x01\x00\x00\x00\x00\x00\x00", 8);
	assert_memory_equal(out + 8, flow_id.bytes, 16);
	assert_memory_equal(out + 24, zero, 16);
	assert_memory_equal(out + 56, "\xa0\x0f\0\0\0\0\0\0", 8);
	assert_memory_equal(out + 64, zero, 16);
	assert_memory_equal(out + 80, "\x00\x20\0\0\0\0\0\0", 8);
}

static void test_vector_b(void **state)
{
	struct parts parts = {
		.version = SQOS_V11, .options = SQOS_PROBE_POLICY,
		.flow = true, .policy = true, .name_offset = 0x80,
		.name_length = 6, .node_offset = 0x86, .node_length = 6 };
	struct sqos_request request = {};
	uint8_t bytes[ROOM];

	(void)state;
	assert_int_equal(build(&parts, bytes), 140);
	assert_memory_equal(bytes + 0x48, "\x80\0\x06\0\x86\0\x06\0", 8);
	assert_int_equal(decode(&parts, &request), 0);
	assert_true(guid_equal(&request.policy, &policy_id));
	assert_true(guid_equal(&request.initiator, &initiator_id));
	assert_string_equal(request.name, "VM1");
	assert_string_equal(request.node, "HV1");
}

static void test_vector_c(void **state)
{
	static const uint8_t wanted[96] = {
		0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77,
		0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00,
		0x04, 0x07, 0x32, 0xec, 0x43, 0x64, 0x6c, 0x42,
		0xab, 0x74, 0x86, 0x41, 0x3e, 0x90, 0xdb, 0xfb,
		0x0d, 0x0c, 0x0b, 0x0a, 0x0f, 0x0e, 0x11, 0x10,
		0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19,
		0xa0, 0x0f, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		0xc8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		0x64, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		0x00, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		0x40, 0x06, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 };
	struct sqos_reply reply = {
		.flow = flow_id, .policy = policy_id,
		.initiator = initiator_id, .live_ms = 4000,
		.maximum = 200, .minimum = 100, .bandwidth = 1600 };
	uint8_t out[SQOS_REPLY_V11] = {};

	(void)state;
	assert_int_equal(sqos_reply_encode(&reply, SQOS_V11, out), 96);
	assert_memory_equal(out, wanted, 96);
}

/* The rules of sqos.md section 4.2 to 4.4, a row each. */
static void test_rules(void **state)
{
	static const struct parts rows[] = {
		{ .version = 0x0101, .options = 1, .flow = true, .size = 7,
		  .wanted = -EINVAL },
		{ .version = 0x0102, .options = 1, .flow = true,
		  .wanted = -EPROTONOSUPPORT },
		{ .version = 0x0001, .options = 1, .flow = true,
		  .wanted = -EPROTONOSUPPORT },
		/* The version comes before the length that it asks for. */
		{ .version = 0x0200, .options = 1, .size = 8,
		  .wanted = -EPROTONOSUPPORT },
		{ .version = 0x0100, .options = 1, .flow = true, .size = 111,
		  .wanted = -EINVAL },
		{ .version = 0x0100, .options = 1, .flow = true, .size = 112 },
		{ .version = 0x0101, .options = 1, .flow = true, .size = 127,
		  .wanted = -EINVAL },
		{ .version = 0x0101, .options = 1, .flow = true, .size = 128 },
		{ .version = 0x0101, .options = 0, .flow = true,
		  .wanted = -EINVAL },
		{ .version = 0x0101, .options = 0x20, .flow = true,
		  .wanted = -EINVAL },
		{ .version = 0x0101, .options = 0x21, .flow = true },
		/* No flow: only what makes one. */
		{ .version = 0x0101, .options = 2, .flow = true,
		  .wanted = -ENOENT },
		{ .version = 0x0101, .options = 8, .flow = true,
		  .wanted = -ENOENT },
		{ .version = 0x0101, .options = 0x10, .flow = true,
		  .wanted = -ENOENT },
		{ .version = 0x0101, .options = 2, .attached = true },
		{ .version = 0x0101, .options = 8, .attached = true },
		{ .version = 0x0101, .options = 0x10, .attached = true },
		{ .version = 0x0101, .options = 4, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 4, .attached = true },
		{ .version = 0x0101, .options = 0x1F, .flow = true },
		/* A null flow takes the open out of its own. */
		{ .version = 0x0101, .options = 1, .attached = true },
		{ .version = 0x0101, .options = 9, .attached = true,
		  .wanted = -ENOENT },
		/* Names. */
		{ .version = 0x0101, .options = 3, .flow = true,
		  .name_offset = 128, .name_length = 6 },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .name_offset = 128, .name_length = 12 },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .name_offset = 128, .name_length = 14, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .name_offset = 128, .name_length = 5, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .name_offset = 103, .name_length = 2, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .name_offset = 0xFFFF, .name_length = 0xFFFE,
		  .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .node_offset = 134, .node_length = 8, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .name_offset = 128, .name_length = 512, .size = 640 },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .name_offset = 128, .name_length = 514, .size = 700,
		  .wanted = -EINVAL },
		/* They do not matter where no policy is set. */
		{ .version = 0x0101, .options = 1, .flow = true,
		  .name_offset = 0xFFFF, .name_length = 0xFFFF },
		/* Values. */
		{ .version = 0x0101, .options = 3, .flow = true,
		  .limit = 100, .reservation = 100 },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .limit = 100, .reservation = 101, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .reservation = 101 },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .limit = SQOS_RATE_MAX },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .limit = SQOS_RATE_MAX + 1, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .reservation = SQOS_RATE_MAX + 1, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .bandwidth = SQOS_RATE_MAX + 1, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .policy = true },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .policy = true, .limit = 1, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .policy = true, .reservation = 1, .wanted = -EINVAL },
		{ .version = 0x0101, .options = 3, .flow = true,
		  .policy = true, .bandwidth = 1, .wanted = -EINVAL },
		/* Room for the answer. */
		{ .version = 0x0100, .options = 9, .flow = true, .room = 87,
		  .wanted = -EINVAL },
		{ .version = 0x0100, .options = 9, .flow = true, .room = 88 },
		{ .version = 0x0101, .options = 9, .flow = true, .room = 95,
		  .wanted = -EINVAL },
		{ .version = 0x0101, .options = 9, .flow = true, .room = 96 },
		{ .version = 0x0101, .options = 1, .flow = true, .room = 1 },
	};
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sqos_request request = {};
		int ret = decode(&rows[i], &request);

		if (ret != rows[i].wanted) {
			fail_msg("row %zu: %d, not %d", i, ret,
				 rows[i].wanted);
		}
	}
}

static void test_a_probe_of_a_flow_asks_nothing(void **state)
{
	struct parts parts = { .version = SQOS_V11, .options = 0xC,
			       .attached = true };
	struct sqos_request request = {};

	(void)state;
	assert_int_equal(decode(&parts, &request), 0);
	assert_int_equal(request.options, SQOS_GET_STATUS);
}

static void test_counters_saturate_and_nonsense_is_left_out(void **state)
{
	struct sqos_flow flow = { .seen_ms = 1000, .rated_ms = 1000 };
	struct sqos_request request = {
		.ios = 100, .normalised = 200, .latency = UINT64_MAX,
		.lower_latency = UINT64_MAX, .kilobytes = 800 };
	struct sqos_request wild = { .ios = UINT64_MAX };

	(void)state;
	sqos_flow_count(&flow, &request, 2000);
	sqos_flow_count(&flow, &request, 2000);
	sqos_flow_count(&flow, &wild, 2000);
	assert_int_equal(flow.total.ios, 200);
	assert_true(flow.total.latency == UINT64_MAX);
	sqos_flow_rate(&flow, 3000);
	assert_int_equal(flow.demand, 100);	/* (0 + 400 / 2 s) / 2 */
	/* However much is told: no more than there can be. */
	flow.since.normalised = UINT64_MAX / 1000 - 1;
	sqos_flow_rate(&flow, 4000);
	assert_true(flow.demand <= SQOS_RATE_MAX);
	/* The clock went back: nothing is made of it. */
	sqos_flow_rate(&flow, 10);
	assert_int_equal(flow.rated_ms, 10);
}

static void fill(struct sqos_group *group, struct sqos_flow *flows,
		 const uint64_t *demands, size_t count)
{
	size_t i = 0;

	for (i = 0; i < count; i++) {
		flows[i] = (struct sqos_flow) { .demand = demands[i] };
		flows[i].id.bytes[0] = (uint8_t)(i + 1);
		flows[i].policy = policy_id;
		sqos_group_update(group, &flows[i], 1000);
	}
}

static void test_a_maximum_is_split_by_demand(void **state)
{
	static const uint64_t demands[] = { 10, 5000, 5000, 20 };
	struct sqos_policy policy = { .id = policy_id, .maximum = 1000,
				      .minimum = 400, .bandwidth = 8000 };
	struct sqos_group *group = talloc_zero(NULL, struct sqos_group);
	struct sqos_flow flows[4] = {};
	struct sqos_reply replies[4] = {};
	uint64_t minimum = 0;
	size_t i = 0;

	(void)state;
	fill(group, flows, demands, 4);
	for (i = 0; i < 4; i++) {
		sqos_assign(&flows[i], &policy, group, &replies[i]);
		assert_true(replies[i].maximum >= 1000 / 5);
		assert_true(replies[i].minimum <= replies[i].maximum);
		minimum += replies[i].minimum;
	}
	/* Who wants much shares what the others leave. */
	assert_int_equal(replies[1].maximum, (1000 - 30) / 2);
	assert_int_equal(replies[2].maximum, (1000 - 30) / 2);
	assert_true(minimum <= 400);
	/* Alone, it has it all. */
	for (i = 1; i < 4; i++) {
		sqos_group_remove(group, &flows[i].id);
	}
	sqos_assign(&flows[0], &policy, group, &replies[0]);
	assert_int_equal(replies[0].maximum, 1000);
	assert_int_equal(replies[0].minimum, 400);
	assert_int_equal(replies[0].bandwidth, 8000);
	talloc_free(group);
}

static void test_the_greatest_numbers(void **state)
{
	struct sqos_policy policy = { .id = policy_id,
				      .maximum = SQOS_RATE_MAX,
				      .minimum = SQOS_RATE_MAX,
				      .bandwidth = SQOS_RATE_MAX };
	struct sqos_group *group = talloc_zero(NULL, struct sqos_group);
	struct sqos_flow flow = { .demand = SQOS_RATE_MAX,
				  .policy = policy_id };
	struct sqos_reply reply = {};
	size_t i = 0;

	(void)state;
	for (i = 0; i < SQOS_GROUP_MAX + 10; i++) {
		flow.id.bytes[0] = (uint8_t)i;
		flow.id.bytes[1] = (uint8_t)(i >> 8);
		flow.id.bytes[15] = 1;
		sqos_group_update(group, &flow, 1000);
	}
	assert_int_equal(group->count, SQOS_GROUP_MAX);
	sqos_assign(&flow, &policy, group, &reply);
	assert_int_equal(reply.maximum, SQOS_RATE_MAX / SQOS_GROUP_MAX);
	assert_true(reply.minimum <= reply.maximum);
	/* All are gone when nobody has asked for long. */
	sqos_group_update(group, &flow, 1001 + SQOS_FLOW_LIFE_MS);
	assert_int_equal(group->count, 1);
	talloc_free(group);
}

static void test_status(void **state)
{
	struct sqos_flow flow = { .policy = policy_id };
	struct sqos_policy policy = { .id = policy_id, .minimum = 1000 };
	struct sqos_reply reply = {};
	int i = 0;

	(void)state;
	sqos_assign(&flow, NULL, NULL, &reply);
	assert_int_equal(reply.status, SQOS_UNKNOWN_POLICY);
	/* Below its minimum because it wants no more. */
	flow.demand = 500;
	sqos_assign(&flow, &policy, NULL, &reply);
	assert_int_equal(reply.status, SQOS_OK);
	/* Below its minimum because the storage is slow, time after time. */
	flow.total.latency = 1000;
	flow.total.lower_latency = 1000;
	for (i = 0; i < 3; i++) {
		sqos_assign(&flow, &policy, NULL, &reply);
		assert_int_equal(reply.status,
				 i < 2 ? SQOS_OK : SQOS_INSUFFICIENT);
	}
	flow.demand = 950;
	sqos_assign(&flow, &policy, NULL, &reply);
	assert_int_equal(reply.status, SQOS_OK);
	/* Without a policy, what the client told is what it is told. */
	flow.policy = (struct guid) {};
	flow.limit = 7;
	flow.reservation = 3;
	flow.bandwidth = 9;
	sqos_assign(&flow, NULL, NULL, &reply);
	assert_int_equal(reply.maximum, 7);
	assert_int_equal(reply.minimum, 3);
	assert_int_equal(reply.bandwidth, 9);
}

static void test_keys(void **state)
{
	struct sqos_policy policy = { .id = policy_id };
	struct sqos_flow a = { .id = flow_id, .initiator = initiator_id };
	struct sqos_flow b = { .id = policy_id, .initiator = flow_id };
	uint8_t one[32] = {};
	uint8_t other[32] = {};

	(void)state;
	sqos_group_key(&policy, &a, one);
	sqos_group_key(&policy, &b, other);
	assert_memory_equal(one, other, 32);
	policy.type = SQOS_DEDICATED;
	sqos_group_key(&policy, &a, one);
	sqos_group_key(&policy, &b, other);
	assert_memory_not_equal(one, other, 32);
	b.initiator = initiator_id;
	sqos_group_key(&policy, &b, other);
	assert_memory_equal(one, other, 32);
}

/* Every bit of a record changed, and every length: it is refused. */
static void test_records(void **state)
{
	struct sqos_flow flow = { .id = flow_id, .policy = policy_id,
				  .owner = "S-1-5-21-1-2-3-4", .name = "vm",
				  .node = "host", .file = "vm: a.vhdx",
				  .demand = 17, .missed = 1,
				  .total = { .ios = 5 } };
	struct sqos_flow again = {};
	struct sqos_policy policy = { .id = policy_id, .name = "gold",
				      .minimum = 1, .maximum = 2,
				      .type = SQOS_DEDICATED };
	struct sqos_policy policy_again = {};
	struct sqos_group *group = talloc_zero(NULL, struct sqos_group);
	struct sqos_group *group_again = talloc_zero(group, struct sqos_group);
	uint8_t *bytes[3] = {};
	size_t lengths[3] = {};
	size_t i = 0;
	size_t k = 0;

	(void)state;
	sqos_group_update(group, &flow, 1);
	assert_int_equal(sqos_flow_encode(group, &flow, &bytes[0],
					  &lengths[0]), 0);
	assert_int_equal(sqos_policy_encode(group, &policy, &bytes[1],
					    &lengths[1]), 0);
	assert_int_equal(sqos_group_encode(group, group, &bytes[2],
					   &lengths[2]), 0);
	assert_int_equal(sqos_flow_decode(bytes[0], lengths[0], &again), 0);
	assert_memory_equal(&flow, &again, sizeof(flow));
	assert_int_equal(sqos_policy_decode(bytes[1], lengths[1],
					    &policy_again), 0);
	assert_memory_equal(&policy, &policy_again, sizeof(policy));
	assert_int_equal(sqos_group_decode(bytes[2], lengths[2], group_again),
			 0);
	assert_int_equal(group_again->count, 1);
	assert_int_equal(group_again->members[0].demand, 17);
	for (k = 0; k < 3; k++) {
		for (i = 0; i <= lengths[k] * 8; i++) {
			size_t length = i < lengths[k] * 8 ? lengths[k]
							   : lengths[k] - 1;

			if (i < lengths[k] * 8) {
				bytes[k][i / 8] ^= (uint8_t)(1 << i % 8);
			}
			assert_int_not_equal(
				k == 0 ? sqos_flow_decode(bytes[k], length,
							  &again)
				: k == 1 ? sqos_policy_decode(
						   bytes[k], length,
						   &policy_again)
					 : sqos_group_decode(
						   bytes[k], length,
						   group_again), 0);
			if (i < lengths[k] * 8) {
				bytes[k][i / 8] ^= (uint8_t)(1 << i % 8);
			}
		}
	}
	talloc_free(group);
}

/* Of three who filled the limit two fall silent: the third gets all of it. */
static void test_silent_flows_leave_their_share(void **state)
{
	struct sqos_group *group = talloc_zero(NULL, struct sqos_group);
	struct sqos_policy policy = { .id = policy_id, .maximum = 900 };
	struct sqos_reply reply = {};
	struct sqos_flow flow = { .demand = 300, .policy = policy_id };
	uint64_t now = 100000;
	size_t i = 0;

	(void)state;
	for (i = 0; i < 3; i++) {
		flow.id.bytes[0] = (uint8_t)i;
		sqos_group_update(group, &flow, now);
	}
	sqos_assign(&flow, &policy, group, &reply);
	assert_int_equal(reply.maximum, 300);
	for (i = 0; i < 20; i++) {
		now += 1000;
		sqos_group_update(group, &flow, now);
		sqos_assign(&flow, &policy, group, &reply);
		assert_true(i < 6 || reply.maximum > 300);
		flow.demand = reply.maximum;
	}
	assert_true(reply.maximum > 880);
	assert_int_equal(group->count, 3);
	talloc_free(group);
}

/* ---- nodes of a cluster ----------------------------------------------------- */

#define NODES 5
#define LIMIT 1000000

/* A node that would do so much, and does what it is let. */
struct machine {
	uint64_t wants;		/* a second */
	uint64_t done;
	uint32_t part;
	uint64_t asked;		/* ms */
	bool down;
};

static uint64_t parts_sum(const struct sqos_nodes *nodes)
{
	uint64_t sum = 0;
	size_t i = 0;

	for (i = 0; i < nodes->count; i++) {
		sum += nodes->nodes[i].part;
	}
	return sum;
}

/* What all do in so many seconds, each asking once a second at its own time. */
static uint64_t cluster_runs(struct sqos_nodes *nodes, struct machine *machines,
			     uint64_t *_now, uint64_t seconds)
{
	uint64_t end = *_now + seconds * 1000;
	uint64_t all = 0;

	for (; *_now < end; *_now += 10) {
		size_t i = 0;

		for (i = 0; i < NODES; i++) {
			struct machine *machine = &machines[i];
			struct sqos_used used = {
				.io = machine->done, .io_limit = LIMIT,
			};
			uint64_t most = 0;

			if (machine->down || machine->wants == 0) {
				continue;
			}
			if (*_now >= machine->asked + 1000) {
				sqos_nodes_ask(nodes, (uint32_t)i, &used,
					       *_now, &machine->part);
				machine->asked = *_now;
			}
			most = sqos_part(LIMIT, machine->part);
			most = machine->wants < most ? machine->wants : most;
			machine->done += most / 100;
			all += most / 100;
		}
		/* Each may begin with its hundredth. */
		assert_true(parts_sum(nodes) <=
			    SQOS_WHOLE + NODES * SQOS_LEAST);
	}
	return all;
}

static void test_nodes_share_a_limit(void **state)
{
	struct machine machines[NODES] = {};
	struct sqos_nodes nodes = {};
	uint64_t now = 1000000;
	uint64_t done = 0;
	size_t i = 0;

	(void)state;
	for (i = 0; i < NODES; i++) {
		machines[i].wants = i < 3 ? 10000000 : 0;
		machines[i].asked = i * 217;
	}
	cluster_runs(&nodes, machines, &now, 5);
	done = cluster_runs(&nodes, machines, &now, 10);
	assert_in_range(done, LIMIT * 98 / 10, LIMIT * 101 / 10);
	for (i = 0; i < 3; i++) {
		assert_in_range(machines[i].part, SQOS_WHOLE / 3 - 20000,
				SQOS_WHOLE / 3 + 20000);
	}
	/* One falls silent, and another begins. */
	machines[0].down = true;
	machines[4].wants = 10000000;
	cluster_runs(&nodes, machines, &now, 8);
	done = cluster_runs(&nodes, machines, &now, 10);
	assert_in_range(done, LIMIT * 98 / 10, LIMIT * 101 / 10);
	assert_in_range(machines[4].part, SQOS_WHOLE / 3 - 20000,
			SQOS_WHOLE / 3 + 20000);
}

static void test_nodes_that_want_little_leave_the_rest(void **state)
{
	struct machine machines[NODES] = {
		{ .wants = 100000 }, { .wants = 10000000 }, { .wants = 10000 },
	};
	struct sqos_nodes nodes = {};
	uint64_t now = 1000000;
	uint64_t done = 0;

	(void)state;
	cluster_runs(&nodes, machines, &now, 10);
	done = cluster_runs(&nodes, machines, &now, 10);
	assert_in_range(done, LIMIT * 97 / 10, LIMIT * 101 / 10);
	/* Who wanted little and wakes up has as much as the other in some seconds. */
	machines[0].wants = 10000000;
	cluster_runs(&nodes, machines, &now, 8);
	assert_true(machines[0].part > SQOS_WHOLE * 9 / 20);
	assert_true(machines[2].part < SQOS_WHOLE / 10);
	/* Alone, and below the limit: it has all of it. */
	machines[0].down = machines[1].down = true;
	cluster_runs(&nodes, machines, &now, 6);
	assert_int_equal(machines[2].part, SQOS_WHOLE);
}

/* Records of many nodes, and clocks that jump. */
static void test_nodes_are_bounded(void **state)
{
	struct sqos_nodes *nodes = talloc_zero(NULL, struct sqos_nodes);
	struct sqos_nodes *again = talloc_zero(nodes, struct sqos_nodes);
	const struct sqos_used used = { .io = 5, .kb = 7, .kb_limit = 100 };
	uint8_t *bytes = NULL;
	size_t length = 0;
	uint32_t part = 0;
	uint32_t i = 0;

	(void)state;
	for (i = 0; i < SQOS_NODES_MAX; i++) {
		assert_true(sqos_nodes_ask(nodes, i, &used, 10000, &part));
		assert_true(part >= SQOS_LEAST);
		assert_false(sqos_nodes_ask(nodes, i, &used, 10500, &part));
	}
	assert_false(sqos_nodes_ask(nodes, i, &used, 10000, &part));
	assert_int_equal(part, SQOS_LEAST);
	assert_int_equal(sqos_nodes_encode(nodes, nodes, &bytes, &length), 0);
	assert_int_equal(sqos_nodes_decode(bytes, length, again), 0);
	assert_memory_equal(nodes, again, sizeof(*nodes));
	assert_false(sqos_nodes_over(bytes, length, 13000));
	assert_true(sqos_nodes_over(bytes, length, 13001));
	for (i = 0; i < length * 8; i++) {
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_not_equal(sqos_nodes_decode(bytes, length, again),
				     0);
		assert_true(sqos_nodes_over(bytes, length, 10000));
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	assert_int_not_equal(sqos_nodes_decode(bytes, length - 1, again), 0);
	/* An hour back, and a count that begins anew. */
	assert_true(sqos_nodes_ask(nodes, 3, &used, 5000, &part));
	assert_int_equal(nodes->count, 1);
	assert_int_equal(part, SQOS_WHOLE);
	assert_true(sqos_nodes_ask(nodes, 3, &(struct sqos_used) {
		.kb_limit = 100 }, 6000, &part));
	assert_int_equal(part, SQOS_WHOLE);
	assert_int_equal(sqos_part(0, 5), 0);
	assert_int_equal(sqos_part(3, 5), 1);
	assert_int_equal(sqos_part(UINT64_MAX, SQOS_WHOLE), UINT64_MAX);
	talloc_free(nodes);
}

static void test_policies_that_make_no_sense(void **state)
{
	struct sqos_policy good = { .id = policy_id, .name = "a",
				    .minimum = 5, .maximum = 5 };
	struct sqos_policy policy = good;
	const char *why = NULL;

	(void)state;
	assert_int_equal(sqos_policy_validate(&policy, &why), 0);
	policy.minimum = 6;
	assert_int_equal(sqos_policy_validate(&policy, &why), -EINVAL);
	assert_non_null(why);
	policy.maximum = 0;
	assert_int_equal(sqos_policy_validate(&policy, NULL), 0);
	policy = good;
	policy.type = 2;
	assert_int_equal(sqos_policy_validate(&policy, NULL), -EINVAL);
	policy = good;
	policy.bandwidth = SQOS_RATE_MAX + 1;
	assert_int_equal(sqos_policy_validate(&policy, NULL), -EINVAL);
	policy = good;
	policy.name[0] = '\0';
	assert_int_equal(sqos_policy_validate(&policy, NULL), -EINVAL);
	policy = good;
	policy.id = (struct guid) {};
	assert_int_equal(sqos_policy_validate(&policy, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vector_a),
		cmocka_unit_test(test_vector_b),
		cmocka_unit_test(test_vector_c),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_a_probe_of_a_flow_asks_nothing),
		cmocka_unit_test(
			test_counters_saturate_and_nonsense_is_left_out),
		cmocka_unit_test(test_a_maximum_is_split_by_demand),
		cmocka_unit_test(test_the_greatest_numbers),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_records),
		cmocka_unit_test(test_silent_flows_leave_their_share),
		cmocka_unit_test(test_nodes_share_a_limit),
		cmocka_unit_test(test_nodes_that_want_little_leave_the_rest),
		cmocka_unit_test(test_nodes_are_bounded),
		cmocka_unit_test(test_policies_that_make_no_sense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
