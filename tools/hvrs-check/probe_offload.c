/* C0004: offload data transfer, [MS-FSCC] 2.3.41 and 2.3.44. */
#include <string.h>

#include "check.h"
#include "util/cursor.h"

#define FSCTL_OFFLOAD_READ	0x00094264u
#define FSCTL_OFFLOAD_WRITE	0x00098268u
#define READ_OUT		528
#define WRITE_IN		544
#define TOKEN			512
#define SIZE			(1u << 20)

static uint32_t offload_read(struct check *check, const struct smb_file *file,
			     uint64_t length, uint8_t token[TOKEN],
			     uint64_t *_length)
{
	uint8_t in[32] = {};
	struct cursor_put put = {};
	struct cursor answer = {};
	const uint8_t *out = NULL;
	size_t out_length = 0;
	uint32_t status = STATUS_OK;

	cursor_put_init(&put, in, sizeof(in));
	cursor_put_le32(&put, sizeof(in));
	cursor_put_zero(&put, 12);
	cursor_put_le64(&put, 0);
	cursor_put_le64(&put, length);
	status = smb_fsctl(check->smb, file, FSCTL_OFFLOAD_READ, in,
			   sizeof(in), READ_OUT, &out, &out_length);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_init(&answer, out, out_length);
	cursor_skip(&answer, 8);
	*_length = cursor_le64(&answer);
	cursor_bytes(&answer, token, TOKEN);
	return cursor_status(&answer) == 0 ? STATUS_OK : STATUS_LOST;
}

/* Writes all of a token, in as many requests as the server wants. */
static uint32_t offload_write(struct check *check, const struct smb_file *file,
			      uint64_t offset, uint64_t length,
			      const uint8_t token[TOKEN])
{
	uint64_t done = 0;

	while (done < length) {
		uint8_t in[WRITE_IN] = {};
		struct cursor_put put = {};
		struct cursor answer = {};
		const uint8_t *out = NULL;
		size_t out_length = 0;
		uint32_t status = STATUS_OK;
		uint64_t part = 0;

		cursor_put_init(&put, in, sizeof(in));
		cursor_put_le32(&put, sizeof(in));
		cursor_put_le32(&put, 0);
		cursor_put_le64(&put, offset + done);
		cursor_put_le64(&put, length - done);
		cursor_put_le64(&put, done);
		cursor_put_bytes(&put, token, TOKEN);
		status = smb_fsctl(check->smb, file, FSCTL_OFFLOAD_WRITE, in,
				   sizeof(in), 16, &out, &out_length);
		if (status != STATUS_OK) {
			return status;
		}
		cursor_init(&answer, out, out_length);
		cursor_skip(&answer, 8);
		part = cursor_le64(&answer);
		if (cursor_status(&answer) != 0 || part == 0 ||
		    part > length - done) {
			return STATUS_LOST;
		}
		done += part;
	}
	return STATUS_OK;
}

static bool same(struct check *check, const struct smb_file *file,
		 const uint8_t *wanted)
{
	uint8_t *got = talloc_size(check->mem_ctx, SIZE);

	return got != NULL &&
	       check_read(check->smb, file, 0, got, SIZE) == STATUS_OK &&
	       memcmp(got, wanted, SIZE) == 0;
}

/*
 * One more copy, of a source that stays as it is, looked at on disk.  The text
 * to add, or NULL with a verdict given.
 */
static const char *look_at_blocks(struct check *check,
				  const struct smb_file *from,
				  const struct smb_file *to,
				  const uint8_t *bytes)
{
	uint8_t token[TOKEN] = {};
	uint64_t length = 0;
	uint64_t shared = 0;
	uint32_t status = offload_read(check, from, SIZE, token, &length);

	if (status == STATUS_OK && length == SIZE) {
		status = offload_write(check, to, 0, SIZE, token);
	}
	if (status != STATUS_OK || !same(check, to, bytes)) {
		verdict(check, FAIL, "a second copy: %s, and it is not its "
			"source", smb_status(status));
		return NULL;
	}
	if (!check_shared(check, "offload-from.bin", "offload-to.bin", SIZE,
			  &shared)) {
		return "; its blocks on disk cannot be looked at";
	}
	if (shared == SIZE) {
		return "; all blocks are shared with the source";
	}
	return check_can_share(check, "offload-from.bin")
		? "; blocks are copied, though the file system can share them"
		: "; blocks are copied, as the file system cannot share them";
}

static enum verdict zero_token(struct check *check,
			       const struct smb_file *to, uint8_t *bytes,
			       const char *how, const char *more)
{
	static const uint8_t zero[TOKEN] = { 0xFF, 0xFF, 0, 1, 0, 0, 1, 0xF8 };
	uint32_t status = offload_write(check, to, 65536, 131072, zero);

	memset(bytes + 65536, 0, 131072);
	if (status != STATUS_OK || !same(check, to, bytes)) {
		return verdict(check, FAIL, "the zero token: %s, and the "
			       "range is not zero", smb_status(status));
	}
	return verdict(check, PASS, "1 MiB by token: %s; zero token: zeros%s",
		       how, more);
}

enum verdict probe_offload(struct check *check)
{
	struct smb_file from = {};
	struct smb_file to = {};
	uint8_t token[TOKEN] = {};
	uint8_t size[8] = {};
	struct cursor_put put = {};
	uint64_t length = 0;
	uint8_t *old = talloc_size(check->mem_ctx, SIZE);
	uint8_t *new = talloc_size(check->mem_ctx, SIZE);
	const char *more = "";
	uint32_t status = STATUS_LOST;

	if (old == NULL || new == NULL) {
		return verdict(check, FAIL, "no memory here");
	}
	check_fill(old, SIZE, 40);
	check_fill(new, SIZE, 41);
	status = check_open(check, check->smb, "offload-from.bin", &from);
	if (status == STATUS_OK) {
		status = check_open(check, check->smb, "offload-to.bin", &to);
	}
	if (status == STATUS_OK) {
		status = check_write(check->smb, &from, 0, old, SIZE);
	}
	if (status == STATUS_OK) {
		cursor_put_init(&put, size, sizeof(size));
		cursor_put_le64(&put, SIZE);
		status = smb_set(check->smb, &to, 20, size, sizeof(size));
	}
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "files cannot be written: %s",
			       smb_status(status));
	}
	status = offload_read(check, &from, SIZE, token, &length);
	if (is_unknown(status)) {
		return verdict(check, ABSENT, "FSCTL_OFFLOAD_READ: %s; on "
			       "Samba add hvrs to \"vfs objects\" "
			       "(\"hvrs:offload\")", smb_status(status));
	}
	if (status != STATUS_OK || length == 0 || length > SIZE) {
		return verdict(check, FAIL, "FSCTL_OFFLOAD_READ: %s",
			       smb_status(status));
	}
	/* The source changes; the token is of before, or it is dead. */
	status = check_write(check->smb, &from, 0, new, SIZE);
	if (status == STATUS_OK) {
		status = offload_write(check, &to, 0, length, token);
	}
	if (status == STATUS_OK) {
		memset(old + length, 0, SIZE - length);
		if (!same(check, &to, old)) {
			return verdict(check, FAIL, "a token's data is not "
				       "that of when it was given: a copy "
				       "mixes old and new");
		}
		if (check->local != NULL) {
			more = look_at_blocks(check, &from, &to, new);
			memcpy(old, new, SIZE);
		}
		return more == NULL ? FAIL : zero_token(
			check, &to, old, "the data of when the token was "
			"given, though the source had changed", more);
	}
	if (status != STATUS_INVALID_TOKEN) {
		return verdict(check, FAIL, "FSCTL_OFFLOAD_WRITE: %s",
			       smb_status(status));
	}
	/* It died with the change, as it may; an unchanged source must do. */
	status = offload_read(check, &from, SIZE, token, &length);
	if (status == STATUS_OK) {
		status = offload_write(check, &to, 0, length, token);
	}
	if (status == STATUS_OK) {
		memset(new + length, 0, SIZE - length);
	}
	if (status != STATUS_OK || !same(check, &to, new)) {
		return verdict(check, FAIL, "FSCTL_OFFLOAD_WRITE: %s",
			       smb_status(status));
	}
	if (check->local != NULL) {
		more = look_at_blocks(check, &from, &to, new);
	}
	return more == NULL ? FAIL : zero_token(
		check, &to, new, "copied, and a token dies when its source "
		"changes", more);
}
