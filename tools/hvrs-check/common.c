/* What several probes do. */
#include <stdarg.h>
#include <string.h>

#include "check.h"
#include "util/cursor.h"

#define PIECE 65536

enum verdict verdict(struct check *check, enum verdict v, const char *format,
		     ...)
{
	va_list list;

	va_start(list, format);
	check->text = talloc_vasprintf(check->mem_ctx, format, list);
	va_end(list);
	return v;
}

bool is_unknown(uint32_t status)
{
	return status == STATUS_INVALID_DEVICE_REQUEST ||
	       status == STATUS_NOT_SUPPORTED;
}

const char *check_path(struct check *check, const char *name)
{
	return talloc_asprintf(check->mem_ctx, "%s/%s", check->folder, name);
}

uint32_t check_open(struct check *check, struct smb *smb, const char *name,
		    struct smb_file *_file)
{
	struct smb_open how = {
		.name = check_path(check, name),
		.access = ACCESS_READ_WRITE | ACCESS_DELETE,
		.share = SHARE_ALL,
		.disposition = DISPOSITION_OPEN_IF,
		.options = OPTION_NON_DIRECTORY,
	};

	return smb_create(smb, &how, _file);
}

void check_fill(uint8_t *bytes, size_t length, uint32_t seed)
{
	uint32_t x = seed * 2654435761u + 1;
	size_t i = 0;

	for (i = 0; i < length; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		/* never zero, so that a hole is seen */
		bytes[i] = (uint8_t)(x % 255 + 1);
	}
}

uint32_t check_write(struct smb *smb, const struct smb_file *file,
		     uint64_t offset, const uint8_t *bytes, size_t length)
{
	size_t at = 0;

	while (at < length) {
		size_t part = length - at < PIECE ? length - at : PIECE;
		uint32_t status = smb_write(smb, file, offset + at,
					    bytes + at, (uint32_t)part);

		if (status != STATUS_OK) {
			return status;
		}
		at += part;
	}
	return STATUS_OK;
}

uint32_t check_read(struct smb *smb, const struct smb_file *file,
		    uint64_t offset, uint8_t *bytes, size_t length)
{
	size_t at = 0;

	while (at < length) {
		size_t part = length - at < PIECE ? length - at : PIECE;
		uint32_t got = 0;
		uint32_t status = smb_read(smb, file, offset + at,
					   bytes + at, (uint32_t)part, &got);

		if (status != STATUS_OK) {
			return status;
		}
		if (got == 0) {
			return 0xC0000011u;	/* END_OF_FILE */
		}
		at += got;
	}
	return STATUS_OK;
}

uint32_t check_connect(struct check *check, const struct smb_target *target,
		       uint64_t previous, struct smb **_smb)
{
	const char *error = NULL;
	uint32_t tree = 0;
	uint32_t status = smb_connect(check->mem_ctx, target, previous, _smb,
				      &error);

	if (status == STATUS_OK) {
		status = smb_tree(*_smb, check->share, &tree, NULL);
	}
	return status;
}

uint32_t check_sizes(struct check *check, const struct smb_file *file,
		     uint64_t *_size, uint64_t *_allocated)
{
	const uint8_t *out = NULL;
	size_t length = 0;
	struct cursor in = {};
	uint32_t status = smb_query(check->smb, file, 1, 5, &out, &length);

	if (status != STATUS_OK) {
		return status;
	}
	cursor_init(&in, out, length);
	*_allocated = cursor_le64(&in);
	*_size = cursor_le64(&in);
	return cursor_status(&in) == 0 ? STATUS_OK : STATUS_LOST;
}

uint32_t check_volume(struct check *check, uint32_t *_attributes)
{
	struct smb_open how = {
		.name = check->folder, .access = ACCESS_READ,
		.share = SHARE_ALL, .disposition = DISPOSITION_OPEN,
		.options = OPTION_DIRECTORY,
	};
	struct smb_file folder = {};
	const uint8_t *out = NULL;
	size_t length = 0;
	struct cursor in = {};
	uint32_t status = smb_create(check->smb, &how, &folder);

	if (status != STATUS_OK) {
		return status;
	}
	status = smb_query(check->smb, &folder, 2, 5, &out, &length);
	if (status == STATUS_OK) {
		cursor_init(&in, out, length);
		*_attributes = cursor_le32(&in);
		if (cursor_status(&in) != 0) {
			status = STATUS_LOST;
		}
	}
	smb_close(check->smb, &folder);
	return status;
}
