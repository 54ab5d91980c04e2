/* The request and the reply of [MS-SQOS]. */
#include <errno.h>
#include <string.h>

#include "sqos/sqos.h"
#include "util/cursor.h"
#include "util/utf16.h"

#define SIZE_V10	112
#define SIZE_V11	128
/* The least offset of a name, by the letter of 3.2.5.1. */
#define NAME_LEAST	104
/* The least room for a reply, by the same. */
#define REPLY_LEAST	80

struct name {
	uint16_t offset;
	uint16_t length;
};

/*
 * A name is where it says, whatever it holds: what is no text is shown as
 * nothing, as names are for people alone.
 */
static int read_name(const uint8_t *in, size_t length, const struct name *name,
		     char *out)
{
	if (name->length > SQOS_NAME_BYTES || name->length % 2 != 0 ||
	    (uint32_t)name->offset + name->length > length ||
	    (name->length > 0 && name->offset < NAME_LEAST)) {
		return -EINVAL;
	}
	if (name->length > 0 &&
	    utf16_to_utf8(in + name->offset, name->length, false, out,
			  SQOS_NAME_MAX + 1) != 0) {
		out[0] = '\0';
	}
	return 0;
}

/* The values that servers refuse: too large, or client and policy numbers. */
static int check_values(const struct sqos_request *request)
{
	bool policy = !guid_is_null(&request->policy);

	if (request->limit > SQOS_RATE_MAX ||
	    request->reservation > SQOS_RATE_MAX ||
	    request->bandwidth > SQOS_RATE_MAX) {
		return -EINVAL;
	}
	if (request->limit > 0 && request->reservation > request->limit) {
		return -EINVAL;
	}
	if (policy && (request->limit > 0 || request->reservation > 0 ||
		       request->bandwidth > 0)) {
		return -EINVAL;
	}
	return 0;
}

bool sqos_request_attaches(const struct sqos_request *request, bool attached)
{
	if ((request->options & (SQOS_SET_FLOW | SQOS_PROBE_POLICY)) != 0) {
		return !guid_is_null(&request->flow);
	}
	return attached;
}

int sqos_request_decode(const uint8_t *in, size_t length, uint32_t max_output,
			bool attached, struct sqos_request *_request)
{
	struct sqos_request request = {};
	struct cursor cursor = {};
	struct name name = {};
	struct name node = {};
	uint32_t told = 0;
	bool sets = false;
	int ret = 0;

	if (length < 8) {
		return -EINVAL;
	}
	cursor_init(&cursor, in, length);
	request.version = cursor_le16(&cursor);
	if (request.version != SQOS_V10 && request.version != SQOS_V11) {
		return -EPROTONOSUPPORT;
	}
	if (length < (request.version == SQOS_V11 ? SIZE_V11 : SIZE_V10)) {
		return -EINVAL;
	}
	cursor_skip(&cursor, 2);
	told = cursor_le32(&cursor) & SQOS_OPTIONS;
	cursor_guid(&cursor, &request.flow);
	cursor_guid(&cursor, &request.policy);
	cursor_guid(&cursor, &request.initiator);
	request.limit = cursor_le64(&cursor);
	request.reservation = cursor_le64(&cursor);
	name.offset = cursor_le16(&cursor);
	name.length = cursor_le16(&cursor);
	node.offset = cursor_le16(&cursor);
	node.length = cursor_le16(&cursor);
	request.ios = cursor_le64(&cursor);
	request.normalised = cursor_le64(&cursor);
	request.latency = cursor_le64(&cursor);
	request.lower_latency = cursor_le64(&cursor);
	if (request.version == SQOS_V11) {
		request.bandwidth = cursor_le64(&cursor);
		request.kilobytes = cursor_le64(&cursor);
	}
	if (told == 0) {
		return -EINVAL;
	}
	request.options = told;
	if (attached) {
		request.options &= ~(uint32_t)SQOS_PROBE_POLICY;
	} else if ((told & SQOS_PROBE_POLICY) != 0 &&
		   guid_is_null(&request.flow)) {
		return -EINVAL;
	}
	sets = (request.options & (SQOS_SET_POLICY | SQOS_PROBE_POLICY)) != 0;
	if (sets) {
		ret = read_name(in, length, &name, request.name);
		if (ret == 0) {
			ret = read_name(in, length, &node, request.node);
		}
		if (ret == 0) {
			ret = check_values(&request);
		}
		if (ret != 0) {
			return ret;
		}
	}
	if (!sqos_request_attaches(&request, attached) &&
	    (request.options & (SQOS_SET_POLICY | SQOS_UPDATE_COUNTERS)) !=
		    0) {
		return -ENOENT;
	}
	if ((request.options & SQOS_GET_STATUS) != 0) {
		if (max_output < REPLY_LEAST ||
		    max_output < (request.version == SQOS_V11
					  ? SQOS_REPLY_V11
					  : SQOS_REPLY_V10)) {
			return -EINVAL;
		}
		if (!sqos_request_attaches(&request, attached)) {
			return -ENOENT;
		}
	}
	*_request = request;
	return 0;
}

size_t sqos_reply_encode(const struct sqos_reply *reply, uint16_t version,
			 uint8_t *out)
{
	size_t size = version == SQOS_V11 ? SQOS_REPLY_V11 : SQOS_REPLY_V10;
	struct cursor_put put = {};

	cursor_put_init(&put, out, size);
	cursor_put_le16(&put, version);
	cursor_put_le16(&put, 0);
	cursor_put_le32(&put, 0);
	cursor_put_guid(&put, &reply->flow);
	cursor_put_guid(&put, &reply->policy);
	cursor_put_guid(&put, &reply->initiator);
	cursor_put_le32(&put, reply->live_ms);
	cursor_put_le32(&put, reply->status);
	cursor_put_le64(&put, reply->maximum);
	cursor_put_le64(&put, reply->minimum);
	cursor_put_le32(&put, SQOS_BASE_IO_SIZE);
	cursor_put_le32(&put, 0);
	if (version == SQOS_V11) {
		cursor_put_le64(&put, reply->bandwidth);
	}
	return size;
}
