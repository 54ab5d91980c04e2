/*
 * Storage QoS: the request in both forms, and the four stored records with
 * their checksum put right.  The first byte says which, and whether the open is
 * in a flow.  What is taken keeps its bounds, and is the same when written and
 * read again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sqos/sqos.h"
#include "util/crc32c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void request(const uint8_t *data, size_t size, bool attached)
{
	struct sqos_request request = {};
	struct sqos_flow flow = {};
	struct sqos_group *group = talloc_zero(NULL, struct sqos_group);
	struct sqos_policy policy = { .maximum = 1000, .bandwidth = 1000 };
	struct sqos_reply reply = {};

	if (group != NULL && sqos_request_decode(data, size, 4096, attached,
						 &request) == 0) {
		if (request.name[SQOS_NAME_MAX] != '\0' ||
		    request.node[SQOS_NAME_MAX] != '\0') {
			abort();
		}
		sqos_flow_set(&flow, &request);
		sqos_flow_count(&flow, &request, 1000);
		sqos_flow_rate(&flow, 2000);
		sqos_group_update(group, &flow, 2000);
		sqos_assign(&flow, &policy, group, &reply);
		if (flow.demand > SQOS_RATE_MAX || reply.maximum > 1000 ||
		    reply.bandwidth > 1000) {
			abort();
		}
	}
	talloc_free(group);
}

static void records(const uint8_t *data, size_t size)
{
	struct sqos_flow flow = {};
	struct sqos_policy policy = {};
	struct sqos_group *group = talloc_zero(NULL, struct sqos_group);
	const struct sqos_used used = { .io = 1000, .io_limit = 10 };
	struct sqos_nodes nodes = {};
	uint8_t *bytes = NULL;
	size_t length = 0;
	uint32_t part = 0;

	if (group == NULL) {
		return;
	}
	if (sqos_flow_decode(data, size, &flow) == 0 &&
	    (sqos_flow_encode(group, &flow, &bytes, &length) != 0 ||
	     sqos_flow_decode(bytes, length, &flow) != 0)) {
		abort();
	}
	if (sqos_policy_decode(data, size, &policy) == 0 &&
	    (sqos_policy_encode(group, &policy, &bytes, &length) != 0 ||
	     sqos_policy_decode(bytes, length, &policy) != 0)) {
		abort();
	}
	if (sqos_group_decode(data, size, group) == 0) {
		if (group->count > SQOS_GROUP_MAX) {
			abort();
		}
		if (sqos_group_encode(group, group, &bytes, &length) != 0 ||
		    sqos_group_decode(bytes, length, group) != 0) {
			abort();
		}
	}
	if (sqos_nodes_decode(data, size, &nodes) == 0) {
		sqos_nodes_ask(&nodes, 1, &used, 100000, &part);
		if (part > SQOS_WHOLE || nodes.count > SQOS_NODES_MAX ||
		    sqos_nodes_encode(group, &nodes, &bytes, &length) != 0 ||
		    sqos_nodes_decode(bytes, length, &nodes) != 0) {
			abort();
		}
	}
	talloc_free(group);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = NULL;
	uint32_t sum = 0;

	if (size == 0) {
		return 0;
	}
	copy = malloc(size);
	if (copy == NULL) {
		return 0;
	}
	memcpy(copy, data + 1, size - 1);
	if ((data[0] & 2) == 0) {
		request(copy, size - 1, (data[0] & 1) != 0);
	} else {
		if (size - 1 > 12) {
			sum = crc32c(copy + 12, size - 1 - 12);
			memcpy(copy + 8, &sum, 4);
		}
		records(copy, size - 1);
	}
	free(copy);
	return 0;
}
