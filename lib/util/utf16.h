/*
 * UTF-16, little-endian, as Windows writes it, to and from UTF-8.  Lone
 * surrogates and ill-formed UTF-8 are refused, never replaced.
 */
#ifndef HVRS_UTIL_UTF16_H
#define HVRS_UTIL_UTF16_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Turns length bytes of UTF-16LE into NUL-terminated UTF-8 in out, which holds
 * room bytes (3 for each 2 bytes of input and one more always suffice).  With
 * stop the text ends at its first NUL; without, a NUL inside is refused.
 * -EINVAL for an odd length or ill-formed text, -ENOSPC without room.
 */
int utf16_to_utf8(const uint8_t *bytes, size_t length, bool stop, char *out,
		  size_t room);

/*
 * Turns NUL-terminated UTF-8 into UTF-16LE without NUL in out, which holds
 * room bytes; *_length is what it took.  Errors as above.
 */
int utf16_from_utf8(const char *text, uint8_t *out, size_t room,
		    size_t *_length);

#endif
