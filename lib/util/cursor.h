/*
 * Bounded byte cursors: the one way in which hvrs takes integers out of
 * foreign bytes and puts them into bytes for others.
 *
 * Both cursors are sticky.  An access that does not fit changes nothing in the
 * buffer, marks the cursor as failed, and every later access fails as well
 * (reads give zeroes), so that a decoder needs one test after its last field.
 * They borrow the buffer, allocate nothing and own nothing.
 */
#ifndef HVRS_UTIL_CURSOR_H
#define HVRS_UTIL_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guid;

/* ---- reader --------------------------------------------------------------- */

struct cursor {
	const uint8_t *bytes;
	size_t length;
	size_t at;
	bool failed;
};

/*
 * Starts reading at the first of length bytes.  bytes stays the caller's and
 * must outlive the cursor; it may be NULL only when length is 0.
 */
void cursor_init(struct cursor *c, const uint8_t *bytes, size_t length);

/* Integers of 1, 2, 4 and 8 bytes, little-endian; 0 once the cursor failed. */
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_le16(struct cursor *c);
uint32_t cursor_le32(struct cursor *c);
uint64_t cursor_le64(struct cursor *c);

/* The same, big-endian. */
uint16_t cursor_be16(struct cursor *c);
uint32_t cursor_be32(struct cursor *c);
uint64_t cursor_be64(struct cursor *c);

/*
 * Copies the next length bytes to out; zeroes out when they are not there.
 * out is the caller's and holds length bytes.
 */
void cursor_bytes(struct cursor *c, void *out, size_t length);

/*
 * The next length bytes themselves, borrowed from the buffer, or NULL when
 * they are not there (length 0 gives a pointer that must not be read).
 */
const uint8_t *cursor_borrow(struct cursor *c, size_t length);

/* A GUID of 16 bytes in the order Windows keeps in memory, [MS-DTYP] 2.3.4.2 */
void cursor_guid(struct cursor *c, struct guid *out);

/* Passes over length bytes without looking at them. */
void cursor_skip(struct cursor *c, size_t length);

/* Goes to an absolute position, in bytes from the start; the end is allowed. */
void cursor_seek(struct cursor *c, size_t position);

/* Bytes between the cursor and the end; 0 once the cursor failed. */
size_t cursor_remaining(const struct cursor *c);

/* 0, or -EINVAL when any access since cursor_init() did not fit. */
int cursor_status(const struct cursor *c);

/* ---- writer --------------------------------------------------------------- */

struct cursor_put {
	uint8_t *bytes;
	size_t length;
	size_t at;
	bool failed;
};

/*
 * Starts writing at the first of length bytes.  The buffer stays the caller's;
 * what is not written keeps its content.
 */
void cursor_put_init(struct cursor_put *c, uint8_t *bytes, size_t length);

/* Integers of 1, 2, 4 and 8 bytes, little-endian. */
void cursor_put_u8(struct cursor_put *c, uint8_t value);
void cursor_put_le16(struct cursor_put *c, uint16_t value);
void cursor_put_le32(struct cursor_put *c, uint32_t value);
void cursor_put_le64(struct cursor_put *c, uint64_t value);

/* The same, big-endian. */
void cursor_put_be16(struct cursor_put *c, uint16_t value);
void cursor_put_be32(struct cursor_put *c, uint32_t value);
void cursor_put_be64(struct cursor_put *c, uint64_t value);

/* Copies length bytes from in, which is borrowed for the call. */
void cursor_put_bytes(struct cursor_put *c, const void *in, size_t length);

/* A GUID in Windows' memory order, [MS-DTYP] 2.3.4.2 */
void cursor_put_guid(struct cursor_put *c, const struct guid *in);

/* Writes length zeroes. */
void cursor_put_zero(struct cursor_put *c, size_t length);

/* Goes to an absolute position, in bytes from the start; the end is allowed. */
void cursor_put_seek(struct cursor_put *c, size_t position);

/* Bytes from the start of the buffer to the cursor. */
size_t cursor_put_length(const struct cursor_put *c);

/* 0, or -EINVAL when any access since cursor_put_init() did not fit. */
int cursor_put_status(const struct cursor_put *c);

#endif
