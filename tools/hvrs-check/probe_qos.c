/* C0011: storage QoS, [MS-SQOS]: a flow is set and its status asked for. */
#include <string.h>

#include "check.h"
#include "util/cursor.h"

#define FSCTL_QOS_CONTROL	0x00090350u
#define SET_FLOW		0x1u
#define GET_STATUS		0x8u

/* Asks in one dialect; *_text tells what was wrong with an answer. */
static uint32_t ask(struct check *check, const struct smb_file *file,
		    uint16_t version, const struct guid *flow,
		    const char **_text)
{
	size_t size = version == 0x0101 ? 128 : 112;
	size_t wanted = version == 0x0101 ? 96 : 88;
	uint8_t in[128] = {};
	struct guid told = {};
	struct cursor_put put = {};
	struct cursor answer = {};
	const uint8_t *out = NULL;
	size_t length = 0;
	uint16_t dialect = 0;
	uint32_t live = 0;
	uint32_t base = 0;
	uint32_t status = STATUS_OK;

	cursor_put_init(&put, in, sizeof(in));
	cursor_put_le16(&put, version);
	cursor_put_le16(&put, 0);
	cursor_put_le32(&put, SET_FLOW | GET_STATUS);
	cursor_put_guid(&put, flow);
	status = smb_fsctl(check->smb, file, FSCTL_QOS_CONTROL, in, size, 256,
			   &out, &length);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_init(&answer, out, length);
	dialect = cursor_le16(&answer);
	cursor_seek(&answer, 8);
	cursor_guid(&answer, &told);
	cursor_seek(&answer, 56);
	live = cursor_le32(&answer);
	cursor_seek(&answer, 80);
	base = cursor_le32(&answer);
	if (cursor_status(&answer) != 0 || length != wanted ||
	    dialect != version) {
		*_text = "the answer is not of the dialect that asked";
	} else if (!guid_equal(&told, flow)) {
		*_text = "the answer is about another flow";
	} else if (live == 0 || base == 0) {
		*_text = "the answer's time to live or I/O size is 0";
	}
	return STATUS_OK;
}

enum verdict probe_qos(struct check *check)
{
	struct smb_file file = {};
	struct guid flow = {};
	const char *text = NULL;
	uint16_t version = 0x0101;
	uint32_t status = check_open(check, check->smb, "qos.vhdx", &file);

	if (status != STATUS_OK || guid_random(&flow) != 0) {
		return verdict(check, FAIL, "a file cannot be written: %s",
			       smb_status(status));
	}
	status = ask(check, &file, version, &flow, &text);
	if (status == STATUS_INVALID_PARAMETER || status == 0xC0000059u) {
		version = 0x0100;
		status = ask(check, &file, version, &flow, &text);
	}
	smb_close(check->smb, &file);
	if (is_unknown(status)) {
		return verdict(check, ABSENT, "FSCTL_STORAGE_QOS_CONTROL: %s; "
			       "on Samba \"hvrs:storage qos = yes\"",
			       smb_status(status));
	}
	if (status != STATUS_OK || text != NULL) {
		return verdict(check, FAIL, "FSCTL_STORAGE_QOS_CONTROL: %s",
			       text != NULL ? text : smb_status(status));
	}
	return verdict(check, PASS, "dialect %u.%u, a flow was set and its "
		       "status told", version >> 8, version & 0xFF);
}
