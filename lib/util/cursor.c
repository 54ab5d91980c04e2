/*
 * Bounded byte cursors.  Everything goes through two functions, take() and
 * room(), which are the only ones that compare a length with a buffer.
 */
#include "util/cursor.h"

#include <errno.h>
#include <string.h>

#include "util/guid.h"

static const uint8_t *take(struct cursor *c, size_t length)
{
	const uint8_t *found = NULL;

	if (c->failed || length > c->length - c->at) {
		c->failed = true;
		return NULL;
	}
	found = c->bytes + c->at;
	c->at += length;
	return found;
}

void cursor_init(struct cursor *c, const uint8_t *bytes, size_t length)
{
	static const uint8_t nothing[1];

	*c = (struct cursor) {
		.bytes = bytes != NULL ? bytes : nothing,
		.length = bytes != NULL ? length : 0,
		.failed = bytes == NULL && length > 0,
	};
}

static uint64_t le(struct cursor *c, size_t width)
{
	const uint8_t *p = take(c, width);
	uint64_t value = 0;
	size_t i = 0;

	if (p == NULL) {
		return 0;
	}
	for (i = 0; i < width; i++) {
		value |= (uint64_t)p[i] << (8 * i);
	}
	return value;
}

static uint64_t be(struct cursor *c, size_t width)
{
	const uint8_t *p = take(c, width);
	uint64_t value = 0;
	size_t i = 0;

	if (p == NULL) {
		return 0;
	}
	for (i = 0; i < width; i++) {
		value = value << 8 | p[i];
	}
	return value;
}

uint8_t cursor_u8(struct cursor *c)
{
	return (uint8_t)le(c, 1);
}

uint16_t cursor_le16(struct cursor *c)
{
	return (uint16_t)le(c, 2);
}

uint32_t cursor_le32(struct cursor *c)
{
	return (uint32_t)le(c, 4);
}

uint64_t cursor_le64(struct cursor *c)
{
	return le(c, 8);
}

uint16_t cursor_be16(struct cursor *c)
{
	return (uint16_t)be(c, 2);
}

uint32_t cursor_be32(struct cursor *c)
{
	return (uint32_t)be(c, 4);
}

uint64_t cursor_be64(struct cursor *c)
{
	return be(c, 8);
}

void cursor_bytes(struct cursor *c, void *out, size_t length)
{
	const uint8_t *p = take(c, length);

	if (length == 0) {
		return;
	}
	if (p == NULL) {
		memset(out, 0, length);
		return;
	}
	memcpy(out, p, length);
}

const uint8_t *cursor_borrow(struct cursor *c, size_t length)
{
	return take(c, length);
}

void cursor_guid(struct cursor *c, struct guid *out)
{
	cursor_bytes(c, out->bytes, sizeof(out->bytes));
}

void cursor_skip(struct cursor *c, size_t length)
{
	(void)take(c, length);
}

void cursor_seek(struct cursor *c, size_t position)
{
	if (c->failed || position > c->length) {
		c->failed = true;
		return;
	}
	c->at = position;
}

size_t cursor_remaining(const struct cursor *c)
{
	return c->failed ? 0 : c->length - c->at;
}

int cursor_status(const struct cursor *c)
{
	return c->failed ? -EINVAL : 0;
}

static uint8_t *room(struct cursor_put *c, size_t length)
{
	uint8_t *found = NULL;

	if (c->failed || length > c->length - c->at) {
		c->failed = true;
		return NULL;
	}
	found = c->bytes + c->at;
	c->at += length;
	return found;
}

void cursor_put_init(struct cursor_put *c, uint8_t *bytes, size_t length)
{
	static uint8_t nothing[1];

	*c = (struct cursor_put) {
		.bytes = bytes != NULL ? bytes : nothing,
		.length = bytes != NULL ? length : 0,
		.failed = bytes == NULL && length > 0,
	};
}

static void put_le(struct cursor_put *c, uint64_t value, size_t width)
{
	uint8_t *p = room(c, width);
	size_t i = 0;

	if (p == NULL) {
		return;
	}
	for (i = 0; i < width; i++) {
		p[i] = (uint8_t)(value >> (8 * i));
	}
}

static void put_be(struct cursor_put *c, uint64_t value, size_t width)
{
	uint8_t *p = room(c, width);
	size_t i = 0;

	if (p == NULL) {
		return;
	}
	for (i = 0; i < width; i++) {
		p[i] = (uint8_t)(value >> (8 * (width - 1 - i)));
	}
}

void cursor_put_u8(struct cursor_put *c, uint8_t value)
{
	put_le(c, value, 1);
}

void cursor_put_le16(struct cursor_put *c, uint16_t value)
{
	put_le(c, value, 2);
}

void cursor_put_le32(struct cursor_put *c, uint32_t value)
{
	put_le(c, value, 4);
}

void cursor_put_le64(struct cursor_put *c, uint64_t value)
{
	put_le(c, value, 8);
}

void cursor_put_be16(struct cursor_put *c, uint16_t value)
{
	put_be(c, value, 2);
}

void cursor_put_be32(struct cursor_put *c, uint32_t value)
{
	put_be(c, value, 4);
}

void cursor_put_be64(struct cursor_put *c, uint64_t value)
{
	put_be(c, value, 8);
}

void cursor_put_bytes(struct cursor_put *c, const void *in, size_t length)
{
	uint8_t *p = room(c, length);

	if (p != NULL && length > 0) {
		memcpy(p, in, length);
	}
}

void cursor_put_guid(struct cursor_put *c, const struct guid *in)
{
	cursor_put_bytes(c, in->bytes, sizeof(in->bytes));
}

void cursor_put_zero(struct cursor_put *c, size_t length)
{
	uint8_t *p = room(c, length);

	if (p != NULL && length > 0) {
		memset(p, 0, length);
	}
}

void cursor_put_seek(struct cursor_put *c, size_t position)
{
	if (c->failed || position > c->length) {
		c->failed = true;
		return;
	}
	c->at = position;
}

size_t cursor_put_length(const struct cursor_put *c)
{
	return c->at;
}

int cursor_put_status(const struct cursor_put *c)
{
	return c->failed ? -EINVAL : 0;
}
