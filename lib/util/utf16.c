/* UTF-16LE to and from UTF-8 (RFC 2781, RFC 3629). */
#include "util/utf16.h"

#include <errno.h>

#include "util/cursor.h"

static void put_utf8(struct cursor_put *out, uint32_t code)
{
	if (code < 0x80) {
		cursor_put_u8(out, (uint8_t)code);
		return;
	}
	if (code < 0x800) {
		cursor_put_u8(out, (uint8_t)(0xC0 | code >> 6));
	} else if (code < 0x10000) {
		cursor_put_u8(out, (uint8_t)(0xE0 | code >> 12));
		cursor_put_u8(out, (uint8_t)(0x80 | (code >> 6 & 0x3F)));
	} else {
		cursor_put_u8(out, (uint8_t)(0xF0 | code >> 18));
		cursor_put_u8(out, (uint8_t)(0x80 | (code >> 12 & 0x3F)));
		cursor_put_u8(out, (uint8_t)(0x80 | (code >> 6 & 0x3F)));
	}
	cursor_put_u8(out, (uint8_t)(0x80 | (code & 0x3F)));
}

int utf16_to_utf8(const uint8_t *bytes, size_t length, bool stop, char *out,
		  size_t room)
{
	struct cursor_put put = {};
	struct cursor in = {};

	if (length % 2 != 0) {
		return -EINVAL;
	}
	cursor_init(&in, bytes, length);
	cursor_put_init(&put, (uint8_t *)out, room);
	while (cursor_remaining(&in) > 0) {
		uint32_t code = cursor_le16(&in);

		if (code == 0) {
			if (stop) {
				break;
			}
			return -EINVAL;
		}
		if (code >= 0xDC00 && code <= 0xDFFF) {
			return -EINVAL;
		}
		if (code >= 0xD800 && code <= 0xDBFF) {
			uint32_t low = cursor_le16(&in);

			if (low < 0xDC00 || low > 0xDFFF) {
				return -EINVAL;
			}
			code = 0x10000 + ((code - 0xD800) << 10) +
			       (low - 0xDC00);
		}
		put_utf8(&put, code);
	}
	cursor_put_u8(&put, 0);
	return cursor_put_status(&put) == 0 ? 0 : -ENOSPC;
}

/* Reads one code point; false for ill-formed text. */
static bool take_utf8(const uint8_t **_p, uint32_t *_code)
{
	static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
	const uint8_t *p = *_p;
	uint32_t code = *p++;
	unsigned more = 0;
	unsigned i = 0;

	if (code >= 0xF0 && code < 0xF8) {
		more = 3;
		code &= 0x07;
	} else if (code >= 0xE0 && code < 0xF0) {
		more = 2;
		code &= 0x0F;
	} else if (code >= 0xC0 && code < 0xE0) {
		more = 1;
		code &= 0x1F;
	} else if (code >= 0x80) {
		return false;
	}
	for (i = 0; i < more; i++) {
		/* The final NUL ends this as any other wrong byte. */
		if ((*p & 0xC0) != 0x80) {
			return false;
		}
		code = code << 6 | (*p++ & 0x3F);
	}
	if (code < least[more] || code > 0x10FFFF ||
	    (code >= 0xD800 && code <= 0xDFFF)) {
		return false;
	}
	*_p = p;
	*_code = code;
	return true;
}

int utf16_from_utf8(const char *text, uint8_t *out, size_t room,
		    size_t *_length)
{
	const uint8_t *p = (const uint8_t *)text;
	struct cursor_put put = {};

	cursor_put_init(&put, out, room);
	while (*p != 0) {
		uint32_t code = 0;

		if (!take_utf8(&p, &code)) {
			return -EINVAL;
		}
		if (code >= 0x10000) {
			code -= 0x10000;
			cursor_put_le16(&put, (uint16_t)(0xD800 + (code >> 10)));
			code = 0xDC00 + (code & 0x3FF);
		}
		cursor_put_le16(&put, (uint16_t)code);
		if (cursor_put_status(&put) != 0) {
			return -ENOSPC;
		}
	}
	*_length = cursor_put_length(&put);
	return 0;
}
