/*
 * C0001 (dialect), C0005 (zero data), C0006 (trim), C0007 (block cloning):
 * each done to a file of the run and read back.
 */
#include <string.h>

#include "check.h"
#include "util/cursor.h"

#define FSCTL_SET_ZERO_DATA	0x000980C8u
#define FSCTL_FILE_LEVEL_TRIM	0x00098208u
#define FSCTL_DUPLICATE_EXTENTS	0x00098344u
#define FS_BLOCK_REFCOUNTING	0x08000000u

#define SIZE (1u << 20)

enum verdict probe_dialect(struct check *check)
{
	uint16_t dialect = smb_dialect(check->smb);

	if (dialect < 0x0300) {
		return verdict(check, FAIL, "the server speaks no more than "
			       "SMB %x.%x; let it speak SMB 3 (\"server max "
			       "protocol = SMB3\")", dialect >> 8,
			       (dialect & 0xF0) >> 4);
	}
	return verdict(check, PASS, "SMB %x.%x.%x", dialect >> 8,
		       (dialect & 0xF0) >> 4, dialect & 0xF);
}

/* A file of 1 MiB without zeros, flushed. */
static uint32_t make_file(struct check *check, const char *name,
			  uint32_t seed, struct smb_file *_file,
			  uint8_t **_bytes)
{
	uint8_t *bytes = talloc_size(check->mem_ctx, SIZE);
	uint32_t status = STATUS_LOST;

	if (bytes == NULL) {
		return status;
	}
	check_fill(bytes, SIZE, seed);
	status = check_open(check, check->smb, name, _file);
	if (status == STATUS_OK) {
		status = check_write(check->smb, _file, 0, bytes, SIZE);
	}
	if (status == STATUS_OK) {
		status = smb_flush(check->smb, _file);
	}
	*_bytes = bytes;
	return status;
}

/* Whether the file now holds what it should; -1 where it cannot be read. */
static int holds(struct check *check, const struct smb_file *file,
		 const uint8_t *wanted, size_t *_at)
{
	uint8_t *got = talloc_size(check->mem_ctx, SIZE);
	size_t i = 0;

	if (got == NULL ||
	    check_read(check->smb, file, 0, got, SIZE) != STATUS_OK) {
		return -1;
	}
	for (i = 0; i < SIZE && got[i] == wanted[i]; i++) {
	}
	*_at = i;
	return i == SIZE;
}

enum verdict probe_zero(struct check *check)
{
	struct smb_file file = {};
	uint8_t *bytes = NULL;
	uint8_t in[16] = {};
	struct cursor_put put = {};
	uint64_t size = 0;
	uint64_t before = 0;
	uint64_t after = 0;
	size_t at = 0;
	uint32_t status = make_file(check, "zero.bin", 5, &file, &bytes);

	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a file cannot be written: %s",
			       smb_status(status));
	}
	check_sizes(check, &file, &size, &before);
	cursor_put_init(&put, in, sizeof(in));
	cursor_put_le64(&put, 10001);
	cursor_put_le64(&put, 900001);
	status = smb_fsctl(check->smb, &file, FSCTL_SET_ZERO_DATA, in,
			   sizeof(in), 0, NULL, NULL);
	if (is_unknown(status)) {
		return verdict(check, ABSENT, "FSCTL_SET_ZERO_DATA: %s",
			       smb_status(status));
	}
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "FSCTL_SET_ZERO_DATA: %s",
			       smb_status(status));
	}
	memset(bytes + 10001, 0, 890000);
	/* Across the end of the file: it must not grow. */
	cursor_put_init(&put, in, sizeof(in));
	cursor_put_le64(&put, SIZE - 100);
	cursor_put_le64(&put, SIZE + 100000);
	status = smb_fsctl(check->smb, &file, FSCTL_SET_ZERO_DATA, in,
			   sizeof(in), 0, NULL, NULL);
	memset(bytes + SIZE - 100, 0, 100);
	if (status != STATUS_OK ||
	    check_sizes(check, &file, &size, &after) != STATUS_OK ||
	    size != SIZE) {
		return verdict(check, FAIL, "a range across the end of the "
			       "file: %s, and the file is %llu bytes long, "
			       "not %u", smb_status(status),
			       (unsigned long long)size, SIZE);
	}
	if (holds(check, &file, bytes, &at) != 1) {
		return verdict(check, FAIL, "after zeroing, byte %zu is not "
			       "what it should be", at);
	}
	smb_close(check->smb, &file);
	return verdict(check, PASS, "zeroed 890000 bytes, read back; space "
		       "on disk %llu -> %llu KiB",
		       (unsigned long long)(before >> 10),
		       (unsigned long long)(after >> 10));
}

enum verdict probe_trim(struct check *check)
{
	struct smb_file file = {};
	uint8_t *bytes = NULL;
	uint8_t *got = NULL;
	uint8_t in[24] = {};
	struct cursor_put put = {};
	uint64_t size = 0;
	uint64_t before = 0;
	uint64_t after = 0;
	size_t i = 0;
	bool zeroed = true;
	uint32_t status = make_file(check, "trim.bin", 6, &file, &bytes);

	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a file cannot be written: %s",
			       smb_status(status));
	}
	check_sizes(check, &file, &size, &before);
	cursor_put_init(&put, in, sizeof(in));
	cursor_put_le32(&put, 0);
	cursor_put_le32(&put, 1);
	cursor_put_le64(&put, 131072);
	cursor_put_le64(&put, 524288);
	status = smb_fsctl(check->smb, &file, FSCTL_FILE_LEVEL_TRIM, in,
			   sizeof(in), 4, NULL, NULL);
	if (is_unknown(status)) {
		return verdict(check, ABSENT, "FSCTL_FILE_LEVEL_TRIM: %s; on "
			       "Samba add hvrs to \"vfs objects\", and leave "
			       "\"hvrs:trim\" on", smb_status(status));
	}
	got = talloc_size(check->mem_ctx, SIZE);
	if (status != STATUS_OK || got == NULL ||
	    check_read(check->smb, &file, 0, got, SIZE) != STATUS_OK ||
	    check_sizes(check, &file, &size, &after) != STATUS_OK) {
		return verdict(check, FAIL, "FSCTL_FILE_LEVEL_TRIM: %s",
			       smb_status(status));
	}
	for (i = 0; i < SIZE; i++) {
		bool inside = i >= 131072 && i < 131072 + 524288;

		if (inside && got[i] != bytes[i] && got[i] == 0) {
			continue;
		}
		zeroed = zeroed && !inside;
		if (got[i] != bytes[i]) {
			return verdict(check, FAIL, "after a trim of 131072 "
				       "to 655360, byte %zu is neither old "
				       "nor zero", i);
		}
	}
	smb_close(check->smb, &file);
	return verdict(check, PASS, "trimmed 512 KiB, which read as %s; space "
		       "on disk %llu -> %llu KiB", zeroed ? "zeros"
							  : "before",
		       (unsigned long long)(before >> 10),
		       (unsigned long long)(after >> 10));
}

enum verdict probe_clone(struct check *check)
{
	struct smb_file from = {};
	struct smb_file to = {};
	uint8_t *bytes = NULL;
	uint8_t in[40] = {};
	uint8_t size[8] = {};
	uint8_t changed[4096] = {};
	struct cursor_put put = {};
	uint32_t volume = 0;
	size_t at = 0;
	uint32_t status = check_volume(check, &volume);

	if (status != STATUS_OK) {
		return verdict(check, FAIL, "the volume's attributes cannot "
			       "be read: %s", smb_status(status));
	}
	if ((volume & FS_BLOCK_REFCOUNTING) == 0) {
		return verdict(check, ABSENT, "the volume does not announce "
			       "block cloning; it needs XFS with reflink or "
			       "btrfs, and on Samba hvrs in \"vfs objects\"");
	}
	status = make_file(check, "clone-from.bin", 7, &from, &bytes);
	if (status == STATUS_OK) {
		status = check_open(check, check->smb, "clone-to.bin", &to);
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
	cursor_put_init(&put, in, sizeof(in));
	cursor_put_bytes(&put, from.id, 16);
	cursor_put_le64(&put, 0);
	cursor_put_le64(&put, 0);
	cursor_put_le64(&put, SIZE);
	status = smb_fsctl(check->smb, &to, FSCTL_DUPLICATE_EXTENTS, in,
			   sizeof(in), 0, NULL, NULL);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "block cloning is announced, and "
			       "FSCTL_DUPLICATE_EXTENTS_TO_FILE fails: %s",
			       smb_status(status));
	}
	if (holds(check, &to, bytes, &at) != 1) {
		return verdict(check, FAIL, "the clone differs at byte %zu",
			       at);
	}
	check_fill(changed, sizeof(changed), 8);
	status = smb_write(check->smb, &to, 8192, changed, sizeof(changed));
	if (status != STATUS_OK || holds(check, &from, bytes, &at) != 1) {
		return verdict(check, FAIL, "a write to the clone changed the "
			       "file it was cloned from");
	}
	memcpy(bytes + 8192, changed, sizeof(changed));
	if (holds(check, &to, bytes, &at) != 1) {
		return verdict(check, FAIL, "the clone differs at byte %zu "
			       "after a write to it", at);
	}
	smb_close(check->smb, &from);
	smb_close(check->smb, &to);
	return verdict(check, PASS, "cloned 1 MiB, read back, and each side "
		       "keeps its own after a write");
}
