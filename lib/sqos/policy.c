/* Policies as they are stored. */
#include <errno.h>
#include <string.h>

#include "sqos/sqos_priv.h"

#define MAGIC	0x50515348u	/* "HSQP" */

int sqos_policy_validate(const struct sqos_policy *policy, const char **_why)
{
	const char *why = NULL;

	if (guid_is_null(&policy->id)) {
		why = "its id is null";
	} else if (policy->type > SQOS_DEDICATED) {
		why = "it is neither aggregated nor dedicated";
	} else if (policy->minimum > SQOS_RATE_MAX ||
		   policy->maximum > SQOS_RATE_MAX ||
		   policy->bandwidth > SQOS_RATE_MAX) {
		why = "a number is above 1,000,000,000";
	} else if (policy->maximum > 0 && policy->minimum > policy->maximum) {
		why = "its minimum is above its maximum";
	} else if (policy->name[0] == '\0') {
		why = "it has no name";
	}
	if (why != NULL && _why != NULL) {
		*_why = why;
	}
	return why == NULL ? 0 : -EINVAL;
}

int sqos_policy_encode(TALLOC_CTX *mem_ctx, const struct sqos_policy *policy,
		       uint8_t **_bytes, size_t *_length)
{
	struct cursor_put put = {};
	int ret = sqos_record_begin(mem_ctx, MAGIC,
				    64 + strlen(policy->name), &put);

	if (ret != 0) {
		return ret;
	}
	cursor_put_guid(&put, &policy->id);
	cursor_put_le32(&put, policy->type);
	cursor_put_le64(&put, policy->minimum);
	cursor_put_le64(&put, policy->maximum);
	cursor_put_le64(&put, policy->bandwidth);
	sqos_record_text(&put, policy->name);
	return sqos_record_end(&put, _bytes, _length);
}

int sqos_policy_decode(const uint8_t *bytes, size_t length,
		       struct sqos_policy *_policy)
{
	struct sqos_policy policy = {};
	struct cursor in = {};
	int ret = sqos_record_open(bytes, length, MAGIC, &in);

	if (ret != 0) {
		return ret;
	}
	cursor_guid(&in, &policy.id);
	policy.type = cursor_le32(&in);
	policy.minimum = cursor_le64(&in);
	policy.maximum = cursor_le64(&in);
	policy.bandwidth = cursor_le64(&in);
	sqos_record_take_text(&in, policy.name, sizeof(policy.name));
	if (cursor_status(&in) != 0 || cursor_remaining(&in) != 0 ||
	    sqos_policy_validate(&policy, NULL) != 0) {
		return -EBADMSG;
	}
	*_policy = policy;
	return 0;
}
