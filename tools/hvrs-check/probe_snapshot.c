/*
 * C0012: remote VSS, [MS-FSRVP]: a snapshot is taken, the source changed, the
 * old content read from the exposed share, and all of it taken away again.
 */
#include <string.h>

#include "check.h"
#include "rpc.h"
#include "util/cursor.h"
#include "util/utf16.h"

#define E_ACCESS_DENIED		0x80070005u
#define E_NOT_SUPPORTED		0x8004230Cu
#define E_IN_PROGRESS		0x80042316u
#define SIZE			65536

static const struct guid interface = GUID_INIT(
	0xa8e0653c, 0x2744, 0x4389, 0xa6, 0x1d, 0x73, 0x73, 0xdf, 0x8b, 0x22,
	0x92);

enum {
	GET_VERSION, SET_CONTEXT, START, ADD, COMMIT, EXPOSE,
	RECOVERY_COMPLETE, ABORT, IS_SUPPORTED, IS_COPIED, GET_MAPPING,
	DELETE_MAPPING, PREPARE,
};

struct snapshot {
	struct rpc *rpc;
	const char *unc;
	struct guid set;
	struct guid copy;
	char exposed[256];
};

static void put_text(struct cursor_put *put, const char *text)
{
	uint8_t bytes[1024] = {};
	size_t length = 0;
	uint32_t count = 0;

	if (utf16_from_utf8(text, bytes, sizeof(bytes) - 2, &length) != 0) {
		put->failed = true;
		return;
	}
	count = (uint32_t)(length / 2 + 1);
	cursor_put_le32(put, count);
	cursor_put_le32(put, 0);
	cursor_put_le32(put, count);
	cursor_put_bytes(put, bytes, length + 2);
	while (cursor_put_length(put) % 4 != 0) {
		cursor_put_u8(put, 0);
	}
}

/* A call whose answer ends in its result; *_in reads what is before. */
static uint32_t call(struct snapshot *snapshot, uint16_t opnum,
		     const struct cursor_put *stub, uint32_t *_result,
		     struct cursor *_in)
{
	const uint8_t *out = NULL;
	size_t length = 0;
	uint32_t status = rpc_call(snapshot->rpc, opnum, stub->bytes,
				   cursor_put_length(stub), &out, &length);

	if (status != STATUS_OK) {
		return status;
	}
	cursor_init(_in, out, length);
	cursor_seek(_in, length < 4 ? length + 1 : length - 4);
	*_result = cursor_le32(_in);
	if (cursor_status(_in) != 0) {
		return STATUS_RPC_FAULT;
	}
	cursor_seek(_in, 0);
	return STATUS_OK;
}

/* A call with a set's id and perhaps a number. */
static uint32_t set_call(struct snapshot *snapshot, uint16_t opnum,
			 const uint32_t *number, uint32_t *_result)
{
	uint8_t bytes[32] = {};
	struct cursor_put put = {};
	struct cursor in = {};

	cursor_put_init(&put, bytes, sizeof(bytes));
	cursor_put_guid(&put, &snapshot->set);
	if (number != NULL) {
		cursor_put_le32(&put, *number);
	}
	return call(snapshot, opnum, &put, _result, &in);
}

static uint32_t name_call(struct snapshot *snapshot, uint16_t opnum,
			  uint32_t *_result)
{
	uint8_t bytes[2048] = {};
	struct cursor_put put = {};
	struct cursor in = {};

	cursor_put_init(&put, bytes, sizeof(bytes));
	put_text(&put, snapshot->unc);
	return call(snapshot, opnum, &put, _result, &in);
}

static uint32_t take(struct snapshot *snapshot, uint32_t *_result)
{
	static const uint32_t long_ms = 170000;
	static const uint32_t commit_ms = 60000;
	uint8_t bytes[2048] = {};
	struct cursor_put put = {};
	struct cursor in = {};
	struct guid id = {};
	uint32_t status = STATUS_OK;

	cursor_put_init(&put, bytes, sizeof(bytes));
	cursor_put_le32(&put, 0);
	status = call(snapshot, SET_CONTEXT, &put, _result, &in);
	if (status != STATUS_OK || *_result != 0 || guid_random(&id) != 0) {
		return status;
	}
	cursor_put_init(&put, bytes, sizeof(bytes));
	cursor_put_guid(&put, &id);
	status = call(snapshot, START, &put, _result, &in);
	if (status != STATUS_OK || *_result != 0) {
		return status;
	}
	cursor_guid(&in, &snapshot->set);
	cursor_put_init(&put, bytes, sizeof(bytes));
	cursor_put_guid(&put, &id);
	cursor_put_guid(&put, &snapshot->set);
	put_text(&put, snapshot->unc);
	status = call(snapshot, ADD, &put, _result, &in);
	if (status != STATUS_OK || *_result != 0) {
		return status;
	}
	cursor_guid(&in, &snapshot->copy);
	status = set_call(snapshot, PREPARE, &long_ms, _result);
	if (status == STATUS_OK && *_result == 0) {
		status = set_call(snapshot, COMMIT, &commit_ms, _result);
	}
	if (status == STATUS_OK && *_result == 0) {
		status = set_call(snapshot, EXPOSE, &long_ms, _result);
	}
	return status;
}

/* GetShareMapping: the name of the exposed share. */
static uint32_t find_exposed(struct snapshot *snapshot, uint32_t *_result)
{
	uint8_t bytes[2048] = {};
	struct cursor_put put = {};
	struct cursor in = {};
	uint32_t share = 0;
	uint32_t exposed = 0;
	uint32_t status = STATUS_OK;
	uint32_t count = 0;
	const uint8_t *text = NULL;

	cursor_put_init(&put, bytes, sizeof(bytes));
	cursor_put_guid(&put, &snapshot->copy);
	cursor_put_guid(&put, &snapshot->set);
	put_text(&put, snapshot->unc);
	cursor_put_le32(&put, 1);
	status = call(snapshot, GET_MAPPING, &put, _result, &in);
	if (status != STATUS_OK || *_result != 0) {
		return status;
	}
	cursor_seek(&in, 40);
	share = cursor_le32(&in);
	exposed = cursor_le32(&in);
	cursor_skip(&in, 8);
	if (share != 0) {
		cursor_skip(&in, 8);
		count = cursor_le32(&in);
		cursor_skip(&in, (size_t)count * 2);
		cursor_seek(&in, (in.at + 3) / 4 * 4);
	}
	if (exposed == 0) {
		return STATUS_RPC_FAULT;
	}
	cursor_skip(&in, 8);
	count = cursor_le32(&in);
	text = cursor_borrow(&in, (size_t)count * 2);
	if (cursor_status(&in) != 0 ||
	    utf16_to_utf8(text, (size_t)count * 2, true, snapshot->exposed,
			  sizeof(snapshot->exposed)) != 0) {
		return STATUS_RPC_FAULT;
	}
	return STATUS_OK;
}

static uint32_t delete(struct snapshot *snapshot, uint32_t *_result)
{
	uint8_t bytes[2048] = {};
	struct cursor_put put = {};
	struct cursor in = {};

	cursor_put_init(&put, bytes, sizeof(bytes));
	cursor_put_guid(&put, &snapshot->set);
	cursor_put_guid(&put, &snapshot->copy);
	put_text(&put, snapshot->unc);
	return call(snapshot, DELETE_MAPPING, &put, _result, &in);
}

/* Whether the exposed share holds the file as it was. */
static bool holds_old(struct check *check, struct snapshot *snapshot,
		      const uint8_t *wanted)
{
	uint8_t *got = talloc_size(check->mem_ctx, SIZE);
	struct smb_open how = {
		.name = check_path(check, "snapshot.bin"),
		.access = ACCESS_READ, .share = SHARE_ALL,
		.disposition = DISPOSITION_OPEN,
		.options = OPTION_NON_DIRECTORY,
	};
	struct smb_file file = {};
	uint32_t tree = 0;
	bool same = false;

	if (got != NULL &&
	    smb_tree(check->smb, snapshot->exposed, &tree, NULL) ==
		    STATUS_OK &&
	    smb_create(check->smb, &how, &file) == STATUS_OK) {
		same = check_read(check->smb, &file, 0, got, SIZE) ==
			       STATUS_OK &&
		       memcmp(got, wanted, SIZE) == 0;
		smb_close(check->smb, &file);
	}
	smb_use_tree(check->smb, check->tree);
	return same;
}

static enum verdict cycle(struct check *check, struct snapshot *snapshot)
{
	uint8_t *old = talloc_size(check->mem_ctx, SIZE);
	uint8_t *new = talloc_size(check->mem_ctx, SIZE);
	struct smb_file file = {};
	uint32_t result = 0;
	uint32_t status = STATUS_LOST;
	bool same = false;

	if (old == NULL || new == NULL) {
		return verdict(check, FAIL, "no memory here");
	}
	check_fill(old, SIZE, 120);
	check_fill(new, SIZE, 121);
	smb_use_tree(check->smb, check->tree);
	status = check_open(check, check->smb, "snapshot.bin", &file);
	if (status == STATUS_OK) {
		status = check_write(check->smb, &file, 0, old, SIZE);
	}
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a file cannot be written: %s",
			       smb_status(status));
	}
	status = take(snapshot, &result);
	if (status == STATUS_OK && result == E_IN_PROGRESS) {
		return verdict(check, FAIL, "another client is taking a "
			       "snapshot; try again later");
	}
	if (status != STATUS_OK || result != 0) {
		uint32_t ignored = 0;

		if (!guid_is_null(&snapshot->set)) {
			set_call(snapshot, ABORT, NULL, &ignored);
		}
		return verdict(check, FAIL, "a snapshot cannot be taken: %s, "
			       "result 0x%08X; the server's log says why",
			       smb_status(status), result);
	}
	smb_use_tree(check->smb, check->tree);
	check_write(check->smb, &file, 0, new, SIZE);
	smb_close(check->smb, &file);
	status = find_exposed(snapshot, &result);
	if (status == STATUS_OK && result == 0) {
		same = holds_old(check, snapshot, old);
	}
	if (set_call(snapshot, RECOVERY_COMPLETE, NULL, &result) !=
		    STATUS_OK || result != 0 ||
	    delete(snapshot, &result) != STATUS_OK || result != 0) {
		return verdict(check, FAIL, "the snapshot cannot be deleted: "
			       "result 0x%08X", result);
	}
	if (!same) {
		return verdict(check, FAIL, "the exposed share %s does not "
			       "hold the file as it was when the snapshot "
			       "was taken", snapshot->exposed);
	}
	return verdict(check, PASS, "a snapshot was taken, exposed with the "
		       "old content, and deleted");
}

enum verdict probe_snapshot(struct check *check)
{
	struct snapshot snapshot = {};
	enum verdict answer = FAIL;
	uint32_t result = 0;
	uint32_t status = rpc_bind(check->mem_ctx, check->smb, &check->target,
				   "FssagentRpc", &interface, &snapshot.rpc);

	if (status == STATUS_NAME_NOT_FOUND || status == STATUS_RPC_FAULT) {
		smb_use_tree(check->smb, check->tree);
		return verdict(check, ABSENT, "the server has no pipe "
			       "FssagentRpc; on Samba install rpcd_fsrvp of "
			       "hvrs");
	}
	if (status != STATUS_OK) {
		smb_use_tree(check->smb, check->tree);
		return verdict(check, ABSENT, "the pipe FssagentRpc: %s",
			       smb_status(status));
	}
	snapshot.unc = talloc_asprintf(check->mem_ctx, "\\\\%s\\%s",
				       check->target.host, check->share);
	status = name_call(&snapshot, IS_SUPPORTED, &result);
	if (status == STATUS_OK && result == 0) {
		answer = cycle(check, &snapshot);
	} else if (result == E_ACCESS_DENIED) {
		answer = verdict(check, ABSENT, "denied to this user; it must "
				 "be a member of Administrators or Backup "
				 "Operators on the server");
	} else if (result == E_NOT_SUPPORTED) {
		answer = verdict(check, ABSENT, "no snapshots of this share; "
				 "on Samba the log of rpcd_fsrvp says why "
				 "(\"registry shares = yes\" in [global], and "
				 "XFS with reflink, btrfs or a script)");
	} else {
		answer = verdict(check, FAIL, "IsPathSupported: %s, result "
				 "0x%08X", smb_status(status), result);
	}
	rpc_close(snapshot.rpc);
	smb_use_tree(check->smb, check->tree);
	return answer;
}
