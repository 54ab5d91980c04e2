/* The parent locator, [MS-VHDX] 2.6.2.6. */
#include "vhdx/vhdx_format.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"
#include "util/cursor.h"
#include "util/utf16.h"

#define LOCATOR_HEAD 20U
#define LOCATOR_ENTRY 12U

const struct guid vhdx_guid_locator_type = GUID_INIT(
	0xB04AEFB7, 0xD19E, 0x4A81,
	0xB7, 0x89, 0x25, 0xB8, 0xE9, 0x44, 0x59, 0x13);

static int text_decode(TALLOC_CTX *mem_ctx, const uint8_t *bytes,
		       size_t length, uint32_t offset, uint16_t size,
		       const char **_text, const char **why)
{
	size_t room = (size_t)size / 2 * 3 + 1;
	char *text = NULL;

	if (offset == 0 || !checked_inside(offset, size, length)) {
		*why = "a parent locator string lies outside its item";
		return -EBADMSG;
	}
	text = talloc_array(mem_ctx, char, room);
	if (text == NULL) {
		return -ENOMEM;
	}
	/* Some writers count the final NUL; it carries nothing. */
	if (size >= 2 && bytes[offset + size - 1] == 0 &&
	    bytes[offset + size - 2] == 0) {
		size -= 2;
	}
	if (utf16_to_utf8(bytes + offset, size, false, text, room) != 0) {
		*why = "a parent locator string is no text";
		return -EBADMSG;
	}
	*_text = text;
	return 0;
}

int vhdx_locator_decode(TALLOC_CTX *mem_ctx, const uint8_t *bytes,
			size_t length, struct vhdx_locator_pair **_pairs,
			size_t *_count, const char **why)
{
	struct vhdx_locator_pair *pairs = NULL;
	struct cursor c = {};
	struct guid type = {};
	size_t count = 0;
	size_t i = 0;
	int ret = 0;

	cursor_init(&c, bytes, length);
	cursor_guid(&c, &type);
	cursor_skip(&c, 2);
	count = cursor_le16(&c);
	if (cursor_status(&c) != 0 || count > VHDX_LOCATOR_MAX) {
		*why = "no valid parent locator";
		return -EBADMSG;
	}
	if (!guid_equal(&type, &vhdx_guid_locator_type)) {
		*why = "a parent locator of an unknown type";
		return -ENOTSUP;
	}
	pairs = talloc_zero_array(mem_ctx, struct vhdx_locator_pair,
				  count + 1);
	if (pairs == NULL) {
		return -ENOMEM;
	}
	for (i = 0; i < count; i++) {
		uint32_t key = cursor_le32(&c);
		uint32_t value = cursor_le32(&c);
		uint16_t key_size = cursor_le16(&c);
		uint16_t value_size = cursor_le16(&c);

		ret = cursor_status(&c) == 0 ? 0 : -EBADMSG;
		*why = ret != 0 ? "no valid parent locator" : *why;
		if (ret == 0) {
			ret = text_decode(pairs, bytes, length, key, key_size,
					  &pairs[i].key, why);
		}
		if (ret == 0) {
			ret = text_decode(pairs, bytes, length, value,
					  value_size, &pairs[i].value, why);
		}
		if (ret == 0 &&
		    vhdx_locator_value(pairs, i, pairs[i].key) != NULL) {
			*why = "a parent locator key is listed twice";
			ret = -EBADMSG;
		}
		if (ret != 0) {
			talloc_free(pairs);
			return ret;
		}
	}
	*_pairs = pairs;
	*_count = count;
	return 0;
}

const char *vhdx_locator_value(const struct vhdx_locator_pair *pairs,
			       size_t count, const char *key)
{
	size_t i = 0;

	for (i = 0; i < count; i++) {
		if (strcmp(pairs[i].key, key) == 0) {
			return pairs[i].value;
		}
	}
	return NULL;
}

/* Puts text at *_at; its place and size go out through the last two. */
static int text_encode(const char *text, uint8_t *bytes, size_t room,
		       size_t *_at, size_t *_size)
{
	int ret = utf16_from_utf8(text, bytes + *_at, room - *_at, _size);

	if (ret == -ENOSPC) {
		return -EFBIG;
	}
	if (ret != 0 || *_size == 0 || *_size > UINT16_MAX) {
		return -EINVAL;
	}
	*_at += *_size;
	return 0;
}

int vhdx_locator_encode(const struct vhdx_locator_pair *pairs, size_t count,
			uint8_t *bytes, size_t room, size_t *_length)
{
	size_t at = LOCATOR_HEAD + count * LOCATOR_ENTRY;
	struct cursor_put c = {};
	size_t i = 0;
	int ret = 0;

	if (count > VHDX_LOCATOR_MAX) {
		return -EINVAL;
	}
	if (at > room) {
		return -EFBIG;
	}
	cursor_put_init(&c, bytes, room);
	cursor_put_guid(&c, &vhdx_guid_locator_type);
	cursor_put_le16(&c, 0);
	cursor_put_le16(&c, (uint16_t)count);
	for (i = 0; i < count; i++) {
		size_t key = at;
		size_t key_size = 0;
		size_t value = 0;
		size_t value_size = 0;

		ret = text_encode(pairs[i].key, bytes, room, &at, &key_size);
		if (ret != 0) {
			return ret;
		}
		value = at;
		ret = text_encode(pairs[i].value, bytes, room, &at,
				  &value_size);
		if (ret != 0) {
			return ret;
		}
		cursor_put_le32(&c, (uint32_t)key);
		cursor_put_le32(&c, (uint32_t)value);
		cursor_put_le16(&c, (uint16_t)key_size);
		cursor_put_le16(&c, (uint16_t)value_size);
	}
	*_length = at;
	return cursor_put_status(&c);
}
