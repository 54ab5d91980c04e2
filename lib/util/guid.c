/* GUIDs: comparison, making and text. */
#include "util/guid.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* The place in memory of each byte of the text form, [MS-DTYP] 2.3.4.2 */
static const uint8_t text_order[16] = {
	3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15,
};

static bool dash_before(size_t byte)
{
	return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

bool guid_equal(const struct guid *a, const struct guid *b)
{
	return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

bool guid_is_null(const struct guid *g)
{
	static const struct guid null;

	return guid_equal(g, &null);
}

int guid_random(struct guid *_g)
{
	struct guid g = {};
	ssize_t got = 0;

	do {
		got = getrandom(g.bytes, sizeof(g.bytes), 0);
	} while (got < 0 && errno == EINTR);
	if (got != (ssize_t)sizeof(g.bytes)) {
		return -EIO;
	}
	g.bytes[7] = (uint8_t)((g.bytes[7] & 0x0F) | 0x40);
	g.bytes[8] = (uint8_t)((g.bytes[8] & 0x3F) | 0x80);
	*_g = g;
	return 0;
}

static int nibble(char c)
{
	if (c >= '0' && c <= '9') {
		return c - '0';
	}
	if (c >= 'a' && c <= 'f') {
		return c - 'a' + 10;
	}
	if (c >= 'A' && c <= 'F') {
		return c - 'A' + 10;
	}
	return -1;
}

int guid_parse(const char *text, size_t length, struct guid *_g)
{
	struct guid g = {};
	size_t at = 0;
	size_t i = 0;

	if (length == GUID_BRACED_SIZE - 1) {
		if (text[0] != '{' || text[length - 1] != '}') {
			return -EINVAL;
		}
		text++;
		length -= 2;
	}
	if (length != GUID_TEXT_SIZE - 1) {
		return -EINVAL;
	}
	for (i = 0; i < 16; i++) {
		int high = -1;
		int low = -1;

		if (dash_before(i)) {
			if (text[at] != '-') {
				return -EINVAL;
			}
			at++;
		}
		high = nibble(text[at]);
		low = nibble(text[at + 1]);
		if (high < 0 || low < 0) {
			return -EINVAL;
		}
		g.bytes[text_order[i]] = (uint8_t)(high << 4 | low);
		at += 2;
	}
	*_g = g;
	return 0;
}

void guid_format(const struct guid *g, bool braced, char *out)
{
	static const char digits[] = "0123456789abcdef";
	size_t i = 0;

	if (braced) {
		*out++ = '{';
	}
	for (i = 0; i < 16; i++) {
		uint8_t byte = g->bytes[text_order[i]];

		if (dash_before(i)) {
			*out++ = '-';
		}
		*out++ = digits[byte >> 4];
		*out++ = digits[byte & 15];
	}
	if (braced) {
		*out++ = '}';
	}
	*out = '\0';
}
