/*
 * GUIDs, kept as the 16 bytes Windows has in memory and on disk: the first
 * three groups little-endian, the rest as written ([MS-DTYP] 2.3.4.2).
 */
#ifndef HVRS_UTIL_GUID_H
#define HVRS_UTIL_GUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guid {
	uint8_t bytes[16];
};

/* Bytes of the text form with its final NUL, without and with braces. */
#define GUID_TEXT_SIZE 37
#define GUID_BRACED_SIZE 39

/*
 * An initialiser from the groups of the text form: the first three as
 * numbers, then the last eight bytes.
 */
#define GUID_INIT(a, b, c, d0, d1, d2, d3, d4, d5, d6, d7) \
	{ { (uint8_t)(a), (uint8_t)((uint32_t)(a) >> 8), \
	    (uint8_t)((uint32_t)(a) >> 16), (uint8_t)((uint32_t)(a) >> 24), \
	    (uint8_t)(b), (uint8_t)((uint32_t)(b) >> 8), \
	    (uint8_t)(c), (uint8_t)((uint32_t)(c) >> 8), \
	    d0, d1, d2, d3, d4, d5, d6, d7 } }

/* Whether both are the same 16 bytes. */
bool guid_equal(const struct guid *a, const struct guid *b);

/* Whether all 16 bytes are zero. */
bool guid_is_null(const struct guid *g);

/*
 * Fills *_g with a random GUID of version 4 (RFC 4122 section 4.4) from the
 * kernel.  -EIO when the kernel gives no random bytes; *_g is untouched then.
 */
int guid_random(struct guid *_g);

/*
 * Reads 36 characters xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, of either case and
 * with or without braces.  text need not end in NUL; length counts its
 * characters.  -EINVAL for anything else; *_g is untouched then.
 */
int guid_parse(const char *text, size_t length, struct guid *_g);

/*
 * Writes the lower-case text form with a NUL, and with braces when braced, to
 * out, which holds at least GUID_TEXT_SIZE (GUID_BRACED_SIZE) bytes.
 */
void guid_format(const struct guid *g, bool braced, char *out);

#endif
