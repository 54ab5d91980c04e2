/* Shares and files: the requests of [MS-SMB2] 2.2 that probes make. */
#include <stdio.h>
#include <string.h>

#include "smb_priv.h"
#include "util/utf16.h"

/* A name as the wire has it, '\' between its parts. */
static int put_name(const char *name, uint8_t *out, size_t room,
		    size_t *_length)
{
	size_t i = 0;
	int ret = utf16_from_utf8(name, out, room, _length);

	for (i = 0; ret == 0 && i + 1 < *_length; i += 2) {
		if (out[i] == '/' && out[i + 1] == 0) {
			out[i] = '\\';
		}
	}
	return ret;
}

uint32_t smb_tree(struct smb *smb, const char *share, uint32_t *_tree,
		  uint32_t *_caps)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};
	char path[512] = "";
	uint8_t name[1024] = {};
	size_t length = 0;
	uint32_t status = STATUS_OK;
	uint32_t caps = 0;

	snprintf(path, sizeof(path), "\\\\%s\\%s", smb->target->host, share);
	if (utf16_from_utf8(path, name, sizeof(name), &length) != 0) {
		return STATUS_INVALID_PARAMETER;
	}
	cursor_put_le16(&put, 9);
	cursor_put_le16(&put, 0);
	cursor_put_le16(&put, HEADER + 8);
	cursor_put_le16(&put, (uint16_t)length);
	cursor_put_bytes(&put, name, length);
	smb->tree = 0;
	status = smb_call(smb, CMD_TREE_CONNECT, &put, 0, &in);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_skip(&in, 8);
	caps = cursor_le32(&in);
	cursor_seek(&in, 36);
	*_tree = cursor_le32(&in);
	smb->tree = *_tree;
	if (_caps != NULL) {
		*_caps = caps;
	}
	return cursor_status(&in) == 0
		? STATUS_OK
		: smb_lost(smb, "the server's TREE_CONNECT is cut off");
}

void smb_use_tree(struct smb *smb, uint32_t tree)
{
	smb->tree = tree;
}

/* ---- create ------------------------------------------------------------------ */

static void put_contexts(struct cursor_put *put, const struct smb_open *how)
{
	size_t i = 0;

	for (i = 0; i < how->context_count; i++) {
		const struct smb_context *context = &how->contexts[i];
		size_t begin = cursor_put_length(put);
		size_t name_end = 16 + context->name_length;
		size_t data_at = (name_end + 7) / 8 * 8;
		size_t end = (data_at + context->length + 7) / 8 * 8;
		bool last = i + 1 == how->context_count;

		cursor_put_le32(put, last ? 0 : (uint32_t)end);
		cursor_put_le16(put, 16);
		cursor_put_le16(put, (uint16_t)context->name_length);
		cursor_put_le16(put, 0);
		cursor_put_le16(put, context->length > 0
					     ? (uint16_t)data_at : 0);
		cursor_put_le32(put, (uint32_t)context->length);
		cursor_put_bytes(put, context->name, context->name_length);
		cursor_put_zero(put, data_at - name_end);
		cursor_put_bytes(put, context->data, context->length);
		if (!last) {
			cursor_put_zero(put, begin + end -
					     cursor_put_length(put));
		}
	}
}

static uint32_t take_create(struct smb *smb, struct cursor *in,
			    struct smb_file *file)
{
	uint32_t at = 0;
	uint32_t length = 0;

	cursor_skip(in, 2);
	file->oplock = cursor_u8(in);
	cursor_skip(in, 45);
	file->size = cursor_le64(in);
	file->attributes = cursor_le32(in);
	cursor_skip(in, 4);
	cursor_bytes(in, file->id, sizeof(file->id));
	at = cursor_le32(in);
	length = cursor_le32(in);
	file->contexts = NULL;
	file->contexts_length = 0;
	if (length > 0) {
		file->contexts = smb_bytes(smb, at, length);
		if (file->contexts == NULL) {
			return smb_lost(smb, "the contexts of the server's "
					"CREATE lie outside of it");
		}
		file->contexts_length = length;
	}
	return cursor_status(in) == 0
		? STATUS_OK
		: smb_lost(smb, "the server's CREATE is cut off");
}

uint32_t smb_create(struct smb *smb, const struct smb_open *how,
		    struct smb_file *_file)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};
	uint8_t name[2048] = {};
	size_t length = 0;
	size_t contexts = 0;
	size_t end = 0;
	uint32_t status = STATUS_OK;

	if (put_name(how->name, name, sizeof(name), &length) != 0) {
		return STATUS_INVALID_PARAMETER;
	}
	cursor_put_le16(&put, 57);
	cursor_put_u8(&put, 0);
	cursor_put_u8(&put, how->oplock);
	cursor_put_le32(&put, 2);		/* impersonation */
	cursor_put_zero(&put, 16);
	cursor_put_le32(&put, how->access);
	cursor_put_le32(&put, how->attributes);
	cursor_put_le32(&put, how->share);
	cursor_put_le32(&put, how->disposition);
	cursor_put_le32(&put, how->options);
	cursor_put_le16(&put, HEADER + 56);
	cursor_put_le16(&put, (uint16_t)length);
	cursor_put_zero(&put, 8);
	cursor_put_bytes(&put, name, length);
	if (how->context_count > 0) {
		while (cursor_put_length(&put) % 8 != 0) {
			cursor_put_u8(&put, 0);
		}
		contexts = cursor_put_length(&put);
		put_contexts(&put, how);
		end = cursor_put_length(&put);
		cursor_put_seek(&put, 48);
		cursor_put_le32(&put, (uint32_t)(HEADER + contexts));
		cursor_put_le32(&put, (uint32_t)(end - contexts));
		cursor_put_seek(&put, end);
	} else if (length == 0) {
		cursor_put_zero(&put, 8);
	}
	status = smb_call(smb, CMD_CREATE, &put, 0, &in);
	if (status != STATUS_OK) {
		return status;
	}
	return take_create(smb, &in, _file);
}

const uint8_t *smb_context_find(const struct smb_file *file, const char *name,
				size_t name_length, size_t *_length)
{
	size_t at = 0;

	while (at < file->contexts_length) {
		struct cursor in = {};
		uint32_t next = 0;
		uint16_t name_at = 0;
		uint16_t size = 0;
		uint16_t data_at = 0;
		uint32_t length = 0;
		const uint8_t *found = NULL;
		const uint8_t *data = NULL;

		cursor_init(&in, file->contexts + at,
			    file->contexts_length - at);
		next = cursor_le32(&in);
		name_at = cursor_le16(&in);
		size = cursor_le16(&in);
		cursor_skip(&in, 2);
		data_at = cursor_le16(&in);
		length = cursor_le32(&in);
		cursor_seek(&in, name_at);
		found = cursor_borrow(&in, size);
		cursor_seek(&in, data_at);
		data = cursor_borrow(&in, length);
		if (cursor_status(&in) != 0) {
			return NULL;
		}
		if (size == name_length &&
		    memcmp(found, name, name_length) == 0) {
			*_length = length;
			return data;
		}
		if (next == 0) {
			return NULL;
		}
		at += next;
	}
	return NULL;
}

uint32_t smb_close(struct smb *smb, const struct smb_file *file)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};

	cursor_put_le16(&put, 24);
	cursor_put_zero(&put, 6);
	cursor_put_bytes(&put, file->id, 16);
	return smb_call(smb, CMD_CLOSE, &put, 0, &in);
}

uint32_t smb_flush(struct smb *smb, const struct smb_file *file)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};

	cursor_put_le16(&put, 24);
	cursor_put_zero(&put, 6);
	cursor_put_bytes(&put, file->id, 16);
	return smb_call(smb, CMD_FLUSH, &put, 0, &in);
}

/* ---- data -------------------------------------------------------------------- */

uint32_t smb_read(struct smb *smb, const struct smb_file *file,
		  uint64_t offset, void *data, uint32_t length,
		  uint32_t *_got)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};
	const uint8_t *bytes = NULL;
	uint32_t status = STATUS_OK;
	uint8_t at = 0;
	uint32_t got = 0;

	*_got = 0;
	cursor_put_le16(&put, 49);
	cursor_put_u8(&put, HEADER + 16);
	cursor_put_u8(&put, 0);
	cursor_put_le32(&put, length);
	cursor_put_le64(&put, offset);
	cursor_put_bytes(&put, file->id, 16);
	cursor_put_zero(&put, 17);
	status = smb_call(smb, CMD_READ, &put, length, &in);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_skip(&in, 2);
	at = cursor_u8(&in);
	cursor_skip(&in, 1);
	got = cursor_le32(&in);
	bytes = smb_bytes(smb, at, got);
	if (cursor_status(&in) != 0 || bytes == NULL || got > length) {
		return smb_lost(smb, "the server's READ makes no sense");
	}
	memcpy(data, bytes, got);
	*_got = got;
	return STATUS_OK;
}

uint32_t smb_write(struct smb *smb, const struct smb_file *file,
		   uint64_t offset, const void *data, uint32_t length)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};
	uint32_t status = STATUS_OK;

	cursor_put_le16(&put, 49);
	cursor_put_le16(&put, HEADER + 48);
	cursor_put_le32(&put, length);
	cursor_put_le64(&put, offset);
	cursor_put_bytes(&put, file->id, 16);
	cursor_put_zero(&put, 16);
	cursor_put_bytes(&put, data, length);
	status = smb_call(smb, CMD_WRITE, &put, length, &in);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_skip(&in, 4);
	if (cursor_le32(&in) != length) {
		return smb_lost(smb, "the server wrote less than it was "
				"given");
	}
	return STATUS_OK;
}

uint32_t smb_lock(struct smb *smb, const struct smb_file *file,
		  uint64_t offset, uint64_t length, bool unlock)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};

	cursor_put_le16(&put, 48);
	cursor_put_le16(&put, 1);
	cursor_put_le32(&put, 0);
	cursor_put_bytes(&put, file->id, 16);
	cursor_put_le64(&put, offset);
	cursor_put_le64(&put, length);
	/* exclusive, and fail at once */
	cursor_put_le32(&put, unlock ? 0x4 : 0x12);
	cursor_put_le32(&put, 0);
	return smb_call(smb, CMD_LOCK, &put, 0, &in);
}

uint32_t smb_fsctl(struct smb *smb, const struct smb_file *file, uint32_t code,
		   const void *data, size_t length, uint32_t max_out,
		   const uint8_t **_out, size_t *_out_length)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};
	uint32_t status = STATUS_OK;
	uint32_t at = 0;
	uint32_t size = 0;
	const uint8_t *out = NULL;

	if (_out != NULL) {
		*_out = NULL;
		*_out_length = 0;
	}
	cursor_put_le16(&put, 57);
	cursor_put_le16(&put, 0);
	cursor_put_le32(&put, code);
	cursor_put_bytes(&put, file->id, 16);
	cursor_put_le32(&put, HEADER + 56);
	cursor_put_le32(&put, (uint32_t)length);
	cursor_put_zero(&put, 12);
	cursor_put_le32(&put, max_out);
	cursor_put_le32(&put, 1);
	cursor_put_le32(&put, 0);
	cursor_put_bytes(&put, data, length);
	if (length == 0) {
		cursor_put_zero(&put, 1);
	}
	status = smb_call(smb, CMD_IOCTL, &put,
			  max_out > length ? max_out : (uint32_t)length, &in);
	if (status != STATUS_OK && status != STATUS_BUFFER_OVERFLOW) {
		return status;
	}
	cursor_skip(&in, 32);
	at = cursor_le32(&in);
	size = cursor_le32(&in);
	if (cursor_status(&in) != 0) {
		return smb_lost(smb, "the server's IOCTL is cut off");
	}
	if (size > 0) {
		out = smb_bytes(smb, at, size);
		if (out == NULL || size > max_out) {
			return smb_lost(smb, "the output of the server's "
					"IOCTL lies outside of it");
		}
	}
	if (_out != NULL) {
		*_out = out;
		*_out_length = size;
	}
	return status;
}

/* ---- information --------------------------------------------------------------- */

static uint32_t take_output(struct smb *smb, struct cursor *in,
			    const uint8_t **_out, size_t *_length)
{
	uint16_t at = 0;
	uint32_t size = 0;

	cursor_skip(in, 2);
	at = cursor_le16(in);
	size = cursor_le32(in);
	*_out = size > 0 ? smb_bytes(smb, at, size) : smb->packet;
	*_length = size;
	if (cursor_status(in) != 0 || *_out == NULL) {
		return smb_lost(smb, "the output of the server's answer lies "
				"outside of it");
	}
	return STATUS_OK;
}

uint32_t smb_query(struct smb *smb, const struct smb_file *file, uint8_t kind,
		   uint8_t level, const uint8_t **_out, size_t *_out_length)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};
	uint32_t status = STATUS_OK;

	cursor_put_le16(&put, 41);
	cursor_put_u8(&put, kind);
	cursor_put_u8(&put, level);
	cursor_put_le32(&put, 4096);
	cursor_put_zero(&put, 16);
	cursor_put_bytes(&put, file->id, 16);
	status = smb_call(smb, CMD_QUERY_INFO, &put, 4096, &in);
	return status != STATUS_OK ? status
				   : take_output(smb, &in, _out, _out_length);
}

uint32_t smb_set(struct smb *smb, const struct smb_file *file, uint8_t level,
		 const void *data, size_t length)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};

	cursor_put_le16(&put, 33);
	cursor_put_u8(&put, 1);
	cursor_put_u8(&put, level);
	cursor_put_le32(&put, (uint32_t)length);
	cursor_put_le16(&put, HEADER + 32);
	cursor_put_zero(&put, 6);
	cursor_put_bytes(&put, file->id, 16);
	cursor_put_bytes(&put, data, length);
	return smb_call(smb, CMD_SET_INFO, &put, 0, &in);
}

uint32_t smb_list(struct smb *smb, const struct smb_file *directory,
		  uint8_t level, const uint8_t **_out, size_t *_out_length)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};
	uint32_t status = STATUS_OK;

	cursor_put_le16(&put, 33);
	cursor_put_u8(&put, level);
	cursor_put_u8(&put, 1);			/* from the start */
	cursor_put_le32(&put, 0);
	cursor_put_bytes(&put, directory->id, 16);
	cursor_put_le16(&put, HEADER + 32);
	cursor_put_le16(&put, 2);
	cursor_put_le32(&put, 65536);
	cursor_put_le16(&put, '*');
	status = smb_call(smb, CMD_QUERY_DIRECTORY, &put, 65536, &in);
	return status != STATUS_OK ? status
				   : take_output(smb, &in, _out, _out_length);
}

/* ---- statuses -------------------------------------------------------------------- */

const char *smb_status(uint32_t status)
{
	static const struct {
		uint32_t value;
		const char *name;
	} names[] = {
		{ STATUS_OK, "success" },
		{ STATUS_INVALID_PARAMETER, "INVALID_PARAMETER" },
		{ STATUS_INVALID_DEVICE_REQUEST, "INVALID_DEVICE_REQUEST" },
		{ STATUS_ACCESS_DENIED, "ACCESS_DENIED" },
		{ STATUS_NAME_NOT_FOUND, "OBJECT_NAME_NOT_FOUND" },
		{ STATUS_NAME_COLLISION, "OBJECT_NAME_COLLISION" },
		{ STATUS_LOCK_NOT_GRANTED, "LOCK_NOT_GRANTED" },
		{ STATUS_FILE_LOCK_CONFLICT, "FILE_LOCK_CONFLICT" },
		{ STATUS_LOGON_FAILURE,
		  "LOGON_FAILURE (wrong user or password)" },
		{ STATUS_NOT_SUPPORTED, "NOT_SUPPORTED" },
		{ STATUS_BAD_NETWORK_NAME,
		  "BAD_NETWORK_NAME (no such share)" },
		{ STATUS_INVALID_TOKEN, "INVALID_TOKEN" },
		{ STATUS_LOST, "the connection was lost" },
		{ 0xC0000008u, "INVALID_HANDLE" },
		{ 0xC000007Fu, "DISK_FULL" },
		{ 0xC0000043u, "SHARING_VIOLATION" },
		{ 0xC0000033u, "OBJECT_NAME_INVALID" },
		{ 0xC05CFF07u, "SVHDX_RESERVATION_CONFLICT" },
		{ 0xC05CFF08u, "SVHDX_WRONG_FILE_TYPE" },
		{ 0xC0000056u, "DELETE_PENDING" },
		{ 0xC0000101u, "DIRECTORY_NOT_EMPTY" },
		{ 0xC0000467u, "FILE_NOT_AVAILABLE" },
		{ 0xC0000011u, "END_OF_FILE" },
	};
	static char number[16];
	size_t i = 0;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (names[i].value == status) {
			return names[i].name;
		}
	}
	snprintf(number, sizeof(number), "0x%08X", status);
	return number;
}
