/* The frame of every stored record. */
#include <errno.h>
#include <string.h>

#include "sqos/sqos_priv.h"
#include "util/crc32c.h"

#define VERSION	1
#define HEADER	12

int sqos_record_begin(TALLOC_CTX *mem_ctx, uint32_t magic, size_t room,
		      struct cursor_put *_put)
{
	uint8_t *bytes = talloc_zero_array(mem_ctx, uint8_t, HEADER + room);

	if (bytes == NULL) {
		return -ENOMEM;
	}
	cursor_put_init(_put, bytes, HEADER + room);
	cursor_put_le32(_put, magic);
	cursor_put_le32(_put, VERSION);
	cursor_put_le32(_put, 0);
	return 0;
}

void sqos_record_text(struct cursor_put *put, const char *text)
{
	size_t length = strlen(text);

	cursor_put_le16(put, (uint16_t)length);
	cursor_put_bytes(put, text, length);
}

int sqos_record_end(struct cursor_put *put, uint8_t **_bytes, size_t *_length)
{
	size_t length = cursor_put_length(put);

	cursor_put_seek(put, 8);
	cursor_put_le32(put, crc32c(put->bytes + HEADER, length - HEADER));
	if (cursor_put_status(put) != 0) {
		talloc_free(put->bytes);
		return -EFBIG;
	}
	*_bytes = put->bytes;
	*_length = length;
	return 0;
}

int sqos_record_open(const uint8_t *bytes, size_t length, uint32_t magic,
		     struct cursor *_in)
{
	uint32_t version = 0;
	uint32_t sum = 0;

	cursor_init(_in, bytes, length);
	if (cursor_le32(_in) != magic) {
		return -EBADMSG;
	}
	version = cursor_le32(_in);
	sum = cursor_le32(_in);
	if (cursor_status(_in) != 0) {
		return -EBADMSG;
	}
	if (version != VERSION) {
		return -EPROTONOSUPPORT;
	}
	return sum == crc32c(bytes + HEADER, length - HEADER) ? 0 : -EBADMSG;
}

void sqos_record_take_text(struct cursor *in, char *out, size_t room)
{
	uint16_t length = cursor_le16(in);

	if (length >= room) {
		in->failed = true;
		return;
	}
	cursor_bytes(in, out, length);
	out[length] = '\0';
	if (memchr(out, '\0', length) != NULL) {
		in->failed = true;
	}
}
