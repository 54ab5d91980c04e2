/*
 * C0010, version 2 of [MS-RSVD]: a VHD Set is put on the share, and has a
 * snapshot taken, gone back to, made a disk of, and deleted.
 */
#include <string.h>

#include "check.h"
#include "rsvd/meta.h"
#include "util/cursor.h"
#include "util/utf16.h"
#include "vhdset/vhdset.h"
#include "vhdx/vhdx.h"

#define FSCTL_ASYNC_TUNNEL	0x00090364u
#define TUNNEL_HEADER		16
#define EXTRACTED		"shared-extracted.vhdx"

static const struct guid snapshot_id = GUID_INIT(
	0x68767273, 0x6368, 0x4563, 0x8b, 2, 0, 0, 0, 0, 0, 1);

static int make_set(struct store *store)
{
	return vhdset_create(store, "shared.avhdx");
}

/* One operation; the status is the header's where there is one. */
static uint32_t tunnel(struct check *check, const struct smb_file *disk,
		       uint32_t operation, const struct cursor_put *body,
		       uint8_t *out, size_t out_length)
{
	uint8_t request[512] = {};
	const uint8_t *data = NULL;
	struct cursor_put put = {};
	struct cursor answer = {};
	size_t length = 0;
	uint32_t status = STATUS_OK;

	cursor_put_init(&put, request, sizeof(request));
	cursor_put_le32(&put, operation);
	cursor_put_le32(&put, 0);
	cursor_put_le64(&put, 1);
	cursor_put_bytes(&put, body->bytes, cursor_put_length(body));
	status = smb_fsctl(check->smb, disk, FSCTL_ASYNC_TUNNEL, request,
			   cursor_put_length(&put), 4096, &data, &length);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_init(&answer, data, length);
	cursor_skip(&answer, 4);
	status = cursor_le32(&answer);
	cursor_seek(&answer, TUNNEL_HEADER);
	if (status == STATUS_OK && out_length > 0) {
		cursor_bytes(&answer, out, out_length);
	}
	return cursor_status(&answer) == 0 ? status : STATUS_LOST;
}

/* META_OPERATION_START, 2.2.4.17, with data of its type after its head. */
static void meta_head(struct cursor_put *put, uint8_t *bytes, size_t room,
		      uint32_t type)
{
	struct guid transaction = {};

	(void)guid_random(&transaction);
	cursor_put_init(put, bytes, room);
	cursor_put_guid(put, &transaction);
	cursor_put_le32(put, type);
	cursor_put_le32(put, 0);
}

static uint32_t take(struct check *check, const struct smb_file *disk)
{
	uint8_t bytes[128] = {};
	struct cursor_put put = {};
	uint32_t stage = 0;

	meta_head(&put, bytes, sizeof(bytes), RSVD_META_SNAPSHOT);
	cursor_put_le32(&put, VHDSET_VM);
	cursor_put_le32(&put, 0);
	for (stage = RSVD_DO_INITIALIZE; stage <= RSVD_DO_FINALIZE; stage++) {
		cursor_put_le32(&put, stage);
	}
	cursor_put_le32(&put, 0);
	cursor_put_guid(&put, &snapshot_id);
	cursor_put_le32(&put, 0);
	cursor_put_zero(&put, 24);
	return tunnel(check, disk, RSVD_META_START, &put, NULL, 0);
}

static uint32_t go_back(struct check *check, const struct smb_file *disk)
{
	uint8_t bytes[64] = {};
	struct cursor_put put = {};

	meta_head(&put, bytes, sizeof(bytes), RSVD_META_APPLY);
	cursor_put_le32(&put, VHDSET_VM);
	cursor_put_guid(&put, &snapshot_id);
	return tunnel(check, disk, RSVD_META_START, &put, NULL, 0);
}

static uint32_t extract(struct check *check, const struct smb_file *disk)
{
	uint8_t name[2 * sizeof(EXTRACTED)] = {};
	uint8_t bytes[192] = {};
	struct cursor_put put = {};
	size_t length = 0;

	utf16_from_utf8(EXTRACTED, name, sizeof(name), &length);
	meta_head(&put, bytes, sizeof(bytes), RSVD_META_EXTRACT);
	cursor_put_le32(&put, VHDSET_VM);
	cursor_put_le64(&put, 0);
	cursor_put_guid(&put, &snapshot_id);
	cursor_put_zero(&put, 16);
	/* With the NUL that ends it. */
	cursor_put_le32(&put, (uint32_t)length + 2);
	cursor_put_bytes(&put, name, length + 2);
	cursor_put_zero(&put, 4);
	return tunnel(check, disk, RSVD_META_START, &put, NULL, 0);
}

static uint32_t optimize(struct check *check, const struct smb_file *disk)
{
	uint8_t bytes[64] = {};
	struct cursor_put put = {};

	meta_head(&put, bytes, sizeof(bytes), RSVD_META_OPTIMIZE);
	cursor_put_zero(&put, 4);
	return tunnel(check, disk, RSVD_META_START, &put, NULL, 0);
}

static uint32_t count(struct check *check, const struct smb_file *disk,
		      uint32_t *_count)
{
	uint8_t bytes[RSVD_SET_QUERY_SIZE] = {};
	uint8_t out[RSVD_SET_LIST_SIZE] = {};
	struct cursor_put put = {};
	struct cursor in = {};
	uint32_t status = STATUS_OK;

	cursor_put_init(&put, bytes, sizeof(bytes));
	cursor_put_le32(&put, RSVD_QUERY_LIST);
	cursor_put_le32(&put, VHDSET_VM);
	cursor_put_zero(&put, 16);
	status = tunnel(check, disk, RSVD_SET_QUERY, &put, out, sizeof(out));
	cursor_init(&in, out, sizeof(out));
	cursor_skip(&in, 12);
	*_count = cursor_le32(&in);
	return status;
}

static uint32_t forget(struct check *check, const struct smb_file *disk)
{
	uint8_t bytes[RSVD_SNAPSHOT_DELETE_SIZE] = {};
	struct cursor_put put = {};

	cursor_put_init(&put, bytes, sizeof(bytes));
	cursor_put_guid(&put, &snapshot_id);
	cursor_put_le32(&put, 0);
	cursor_put_le32(&put, VHDSET_VM);
	return tunnel(check, disk, RSVD_SNAPSHOT_DELETE, &put, NULL, 0);
}

static bool holds(struct check *check, const struct smb_file *disk,
		  const uint8_t bytes[4096])
{
	uint8_t got[4096] = {};

	return check_read(check->smb, disk, 0, got, sizeof(got)) ==
		STATUS_OK && memcmp(got, bytes, sizeof(got)) == 0;
}

static enum verdict failed(struct check *check, const char *what,
			   uint32_t status)
{
	return verdict(check, FAIL, "a VHD Set: %s: %s", what,
		       smb_status(status));
}

static enum verdict extracted(struct check *check, const uint8_t bytes[4096])
{
	struct smb_file disk = {};
	uint32_t status = check_disk_open(check, EXTRACTED, &disk);
	bool good = false;

	if (status != STATUS_OK) {
		return failed(check, "the disk that was extracted cannot be "
			      "opened", status);
	}
	good = holds(check, &disk, bytes);
	smb_close(check->smb, &disk);
	return good ? PASS : failed(check, "the disk that was extracted holds "
				    "something else", STATUS_OK);
}

static enum verdict use_set(struct check *check, const struct smb_file *disk)
{
	uint8_t before[4096];
	uint8_t after[4096];
	uint32_t snapshots = 0;
	uint32_t status = STATUS_OK;

	check_fill(before, sizeof(before), 21);
	check_fill(after, sizeof(after), 22);
	status = smb_write(check->smb, disk, 0, before, sizeof(before));
	if (status == STATUS_OK) {
		status = take(check, disk);
	}
	if (status == STATUS_OK) {
		status = smb_write(check->smb, disk, 0, after, sizeof(after));
	}
	if (status == STATUS_OK) {
		status = count(check, disk, &snapshots);
	}
	if (status != STATUS_OK || snapshots != 1) {
		return failed(check, "no snapshot can be taken", status);
	}
	status = extract(check, disk);
	if (status != STATUS_OK) {
		return failed(check, "the snapshot cannot be extracted",
			      status);
	}
	if (!holds(check, disk, after) ||
	    extracted(check, before) != PASS) {
		return failed(check, "what was extracted is not the snapshot",
			      STATUS_OK);
	}
	status = go_back(check, disk);
	if (status != STATUS_OK || !holds(check, disk, before)) {
		return failed(check, "the disk does not go back to the "
			      "snapshot", status);
	}
	status = forget(check, disk);
	if (status == STATUS_OK) {
		status = optimize(check, disk);
	}
	if (status == STATUS_OK) {
		status = count(check, disk, &snapshots);
	}
	if (status != STATUS_OK || snapshots != 0 ||
	    !holds(check, disk, before)) {
		return failed(check, "the snapshot cannot be deleted", status);
	}
	return verdict(check, PASS, "a shared VHDX: INQUIRY, capacity, data "
		       "between two initiators, and a reservation that "
		       "fences; a VHD Set: a snapshot taken, extracted, gone "
		       "back to and deleted");
}

enum verdict probe_set(struct check *check)
{
	struct smb_file disk = {};
	enum verdict result = FAIL;
	uint32_t status = check_disk_put(check, "shared.avhdx", NULL);

	if (status == STATUS_OK) {
		status = check_disk_put(check, "shared.vhds", make_set);
	}
	if (status == STATUS_OK) {
		status = check_disk_open(check, "shared.vhds", &disk);
	}
	if (status != STATUS_OK) {
		return failed(check, "it cannot be opened", status);
	}
	result = use_set(check, &disk);
	smb_close(check->smb, &disk);
	return result;
}
