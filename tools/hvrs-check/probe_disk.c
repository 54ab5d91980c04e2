/*
 * C0010: a shared virtual disk, [MS-RSVD]: a small VHDX is put on the share,
 * opened as a disk by two initiators, written, read, and reserved.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "store/store.h"
#include "util/cursor.h"
#include "util/utf16.h"
#include "vhdx/vhdx.h"

#define FSCTL_QUERY_SUPPORT	0x00090300u
#define FSCTL_TUNNEL		0x00090304u
#define OP_SCSI			0x02001002u
#define CONTEXT_LENGTH		192
#define TUNNEL_HEADER		16
#define SCSI_FIXED		36
#define DISK_SIZE		(64u << 20)
#define CONFLICT		0xC05CFF07u

/* 2.2.4.12: the name of the open device context. */
static const char context_name[17] =
	"\x9C\xCB\xCF\x9E\x04\xC1\xE6\x43\x98\x0E\x15\x8D\xA1\xF6\xEC\x83";

static int make_disk(struct store *store)
{
	struct vhdx_create wanted = { .type = VHDX_DYNAMIC,
				      .size = DISK_SIZE };

	return vhdx_create(store, &wanted);
}

uint32_t check_disk_put(struct check *check, const char *name,
			int (*make)(struct store *store))
{
	TALLOC_CTX *mem_ctx = talloc_new(check->mem_ctx);
	struct store *store = NULL;
	struct smb_file file = {};
	uint8_t *bytes = NULL;
	uint32_t status = STATUS_LOST;
	off_t length = 0;
	int fd = memfd_create("hvrs-check", MFD_CLOEXEC);
	int keep = fd == -1 ? -1 : dup(fd);

	if (keep == -1 ||
	    file_store_from_fd(mem_ctx, NULL, fd, FILE_STORE_WRITE,
			       &store) != 0 ||
	    (make != NULL ? make : make_disk)(store) != 0) {
		goto done;
	}
	length = lseek(keep, 0, SEEK_END);
	bytes = length > 0 ? talloc_size(mem_ctx, (size_t)length) : NULL;
	if (bytes == NULL ||
	    pread(keep, bytes, (size_t)length, 0) != length) {
		goto done;
	}
	status = check_open(check, check->smb, name, &file);
	if (status == STATUS_OK) {
		status = check_write(check->smb, &file, 0, bytes,
				     (size_t)length);
		smb_close(check->smb, &file);
	}
done:
	if (keep != -1) {
		close(keep);
	}
	talloc_free(mem_ctx);
	return status;
}

static uint32_t open_disk(struct check *check, const char *path,
			  const struct guid *initiator, uint32_t version,
			  struct smb_file *_file)
{
	uint8_t data[CONTEXT_LENGTH] = {};
	uint8_t host[126] = {};
	struct smb_context context = {
		.name = context_name, .name_length = 16,
		.data = data, .length = sizeof(data),
	};
	struct smb_open how = {
		.name = path, .access = 0x00020083u, .share = SHARE_ALL,
		.disposition = DISPOSITION_OPEN,
		.options = OPTION_NO_BUFFERING | OPTION_NON_DIRECTORY,
		.contexts = &context, .context_count = 1,
	};
	struct cursor_put put = {};
	size_t length = 0;

	utf16_from_utf8("hvrs-check", host, sizeof(host), &length);
	cursor_put_init(&put, data, sizeof(data));
	cursor_put_le32(&put, version);
	cursor_put_u8(&put, 1);
	cursor_put_zero(&put, 3);
	cursor_put_guid(&put, initiator);
	cursor_put_le32(&put, 0);
	cursor_put_le32(&put, 1);		/* attach as a SCSI disk */
	cursor_put_le64(&put, 1);
	cursor_put_le16(&put, (uint16_t)length);
	cursor_put_bytes(&put, host, sizeof(host));
	return smb_create(check->smb, &how, _file);
}

/*
 * One CDB through the tunnel.  in_length bytes go to the disk or, when 0,
 * out_length come from it.  *_scsi is the disk's status.
 */
static uint32_t scsi(struct check *check, const struct smb_file *disk,
		     const uint8_t cdb[16], const uint8_t *in,
		     size_t in_length, uint8_t *out, size_t out_length,
		     uint8_t *_scsi)
{
	uint8_t request[TUNNEL_HEADER + SCSI_FIXED + 512] = {};
	struct cursor_put put = {};
	struct cursor answer = {};
	const uint8_t *data = NULL;
	size_t length = 0;
	uint32_t status = STATUS_OK;
	uint32_t tunnel = 0;
	uint32_t got = 0;

	cursor_put_init(&put, request, sizeof(request));
	cursor_put_le32(&put, OP_SCSI);
	cursor_put_le32(&put, 0);
	cursor_put_le64(&put, 1);
	cursor_put_le16(&put, SCSI_FIXED);
	cursor_put_le16(&put, 0);
	cursor_put_u8(&put, 16);
	cursor_put_u8(&put, 20);
	cursor_put_u8(&put, in_length > 0 ? 0 : out_length > 0 ? 1 : 2);
	cursor_put_u8(&put, 0);
	cursor_put_le32(&put, 0);
	cursor_put_le32(&put, (uint32_t)(in_length > 0 ? in_length
						       : out_length));
	cursor_put_bytes(&put, cdb, 16);
	cursor_put_le32(&put, 0);
	cursor_put_bytes(&put, in, in_length);
	status = smb_fsctl(check->smb, disk, FSCTL_TUNNEL, request,
			   cursor_put_length(&put), 4096, &data, &length);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_init(&answer, data, length);
	cursor_skip(&answer, 4);
	tunnel = cursor_le32(&answer);
	if (tunnel != STATUS_OK) {
		return tunnel;
	}
	cursor_seek(&answer, TUNNEL_HEADER + 3);
	*_scsi = cursor_u8(&answer);
	cursor_seek(&answer, TUNNEL_HEADER + 12);
	got = cursor_le32(&answer);
	cursor_seek(&answer, TUNNEL_HEADER + SCSI_FIXED);
	if (out_length > 0 && *_scsi == 0) {
		cursor_bytes(&answer, out,
			     got < out_length ? got : out_length);
	}
	return cursor_status(&answer) == 0 ? STATUS_OK : STATUS_LOST;
}

/* PERSISTENT RESERVE OUT with its 24 bytes, SPC-4 6.14. */
static uint32_t reserve(struct check *check, const struct smb_file *disk,
			uint8_t action, uint8_t type, uint64_t key,
			uint64_t new_key, uint8_t *_scsi)
{
	uint8_t cdb[16] = { 0x5F, action, type, 0, 0, 0, 0, 0, 24 };
	uint8_t list[24] = {};
	struct cursor_put put = {};

	cursor_put_init(&put, list, sizeof(list));
	cursor_put_be64(&put, key);
	cursor_put_be64(&put, new_key);
	return scsi(check, disk, cdb, list, sizeof(list), NULL, 0, _scsi);
}

static enum verdict reservations(struct check *check,
				 const struct smb_file *one,
				 const struct smb_file *two,
				 const uint8_t *bytes)
{
	uint8_t scsi_status = 0xFF;
	uint32_t status = reserve(check, one, 0, 0, 0, 0xA1, &scsi_status);

	if (status == STATUS_OK && scsi_status == 0) {
		/* Write exclusive, held by the first. */
		status = reserve(check, one, 1, 1, 0xA1, 0, &scsi_status);
	}
	if (status != STATUS_OK || scsi_status != 0) {
		return verdict(check, FAIL, "a persistent reservation cannot "
			       "be had: %s, SCSI status 0x%02x",
			       smb_status(status), scsi_status);
	}
	status = smb_write(check->smb, two, 1 << 20, bytes, 4096);
	if (status != CONFLICT) {
		return verdict(check, FAIL, "a write against the reservation "
			       "of another: %s, not a reservation conflict",
			       smb_status(status));
	}
	status = smb_write(check->smb, one, 1 << 20, bytes, 4096);
	if (status == STATUS_OK) {
		status = reserve(check, one, 3, 0, 0xA1, 0, &scsi_status);
	}
	if (status != STATUS_OK || scsi_status != 0) {
		return verdict(check, FAIL, "the holder of a reservation "
			       "cannot write or clear it: %s",
			       smb_status(status));
	}
	return verdict(check, PASS, "a shared VHDX: INQUIRY, capacity, data "
		       "between two initiators, and a reservation that "
		       "fences");
}

static enum verdict use_disk(struct check *check, const struct smb_file *one,
			     const struct smb_file *two)
{
	static const uint8_t inquiry[16] = { 0x12, 0, 0, 0, 96 };
	static const uint8_t capacity[16] = { 0x25 };
	uint8_t bytes[8192];
	uint8_t out[96] = {};
	uint8_t got[8192] = {};
	uint8_t scsi_status = 0xFF;
	uint64_t sectors = 0;
	struct cursor in = {};
	uint32_t status = scsi(check, one, inquiry, NULL, 0, out, 96,
			       &scsi_status);

	if (status != STATUS_OK || scsi_status != 0 || (out[0] & 0x1F) != 0) {
		return verdict(check, FAIL, "INQUIRY through the tunnel: %s, "
			       "SCSI status 0x%02x", smb_status(status),
			       scsi_status);
	}
	status = scsi(check, one, capacity, NULL, 0, out, 8, &scsi_status);
	cursor_init(&in, out, 8);
	sectors = (uint64_t)cursor_be32(&in) + 1;
	if (status != STATUS_OK || scsi_status != 0 ||
	    sectors * cursor_be32(&in) != DISK_SIZE) {
		return verdict(check, FAIL, "READ CAPACITY through the "
			       "tunnel: %s, SCSI status 0x%02x",
			       smb_status(status), scsi_status);
	}
	check_fill(bytes, sizeof(bytes), 10);
	status = smb_write(check->smb, one, 3 << 20, bytes, sizeof(bytes));
	if (status == STATUS_OK) {
		status = check_read(check->smb, two, 3 << 20, got,
				    sizeof(got));
	}
	if (status != STATUS_OK || memcmp(got, bytes, sizeof(got)) != 0) {
		return verdict(check, FAIL, "what one initiator wrote the "
			       "other does not read: %s",
			       smb_status(status));
	}
	return reservations(check, one, two, bytes);
}

uint32_t check_disk_open(struct check *check, const char *name,
			 struct smb_file *_file)
{
	static const struct guid initiator = GUID_INIT(
		0x68767273, 0x6368, 0x4563, 0x8b, 1, 0, 0, 0, 0, 0, 3);
	const char *path = talloc_asprintf(check->mem_ctx,
					   "%s/%s:SharedVirtualDisk",
					   check->folder, name);

	return open_disk(check, path, &initiator, 2, _file);
}

enum verdict probe_shared_disk(struct check *check)
{
	static const struct guid first = GUID_INIT(
		0x68767273, 0x6368, 0x4563, 0x8b, 1, 0, 0, 0, 0, 0, 1);
	static const struct guid second = GUID_INIT(
		0x68767273, 0x6368, 0x4563, 0x8b, 1, 0, 0, 0, 0, 0, 2);
	struct smb_file plain = {};
	struct smb_file one = {};
	struct smb_file two = {};
	const uint8_t *out = NULL;
	size_t length = 0;
	const char *path = NULL;
	enum verdict result = FAIL;
	uint32_t version = 0;
	uint32_t status = check_disk_put(check, "shared.vhdx", NULL);

	if (status == STATUS_OK) {
		status = check_open(check, check->smb, "shared.vhdx", &plain);
	}
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a VHDX cannot be written: %s",
			       smb_status(status));
	}
	status = smb_fsctl(check->smb, &plain, FSCTL_QUERY_SUPPORT, NULL, 0,
			   8, &out, &length);
	/* A server of version 1 refuses the context of version 2. */
	version = status == STATUS_OK && length == 8 && out[0] == 7 ? 2 : 1;
	smb_close(check->smb, &plain);
	if (is_unknown(status)) {
		return verdict(check, ABSENT, "FSCTL_QUERY_SHARED_VIRTUAL_"
			       "DISK_SUPPORT: %s; on Samba \"hvrs:shared "
			       "disks = yes\"", smb_status(status));
	}
	if (status != STATUS_OK || length != 8) {
		return verdict(check, FAIL, "FSCTL_QUERY_SHARED_VIRTUAL_DISK_"
			       "SUPPORT: %s", smb_status(status));
	}
	path = talloc_asprintf(check->mem_ctx,
			       "%s/shared.vhdx:SharedVirtualDisk",
			       check->folder);
	status = open_disk(check, path, &first, version, &one);
	if (status == STATUS_OK) {
		status = open_disk(check, path, &second, version, &two);
	}
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a VHDX cannot be opened as "
			       "shared disk: %s", smb_status(status));
	}
	result = use_disk(check, &one, &two);
	smb_close(check->smb, &two);
	smb_close(check->smb, &one);
	return result == PASS && version == 2 ? probe_set(check) : result;
}
