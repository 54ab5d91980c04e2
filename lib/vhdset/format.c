/* The header of a VHD Set and the names in it: bytes to structs and back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "util/utf16.h"
#include "util/checked.h"
#include "util/crc32c.h"
#include "util/cursor.h"
#include "vhdset/vhdset_priv.h"

#define CHECKSUM_AT 20
#define FIELDS_END 36

static uint32_t checksum(const uint8_t bytes[VHDSET_HEADER_SIZE])
{
	static const uint8_t zero[4];
	uint32_t crc = 0;

	crc = crc32c(bytes, CHECKSUM_AT);
	crc = crc32c_more(crc, zero, sizeof(zero));
	return crc32c_more(crc, bytes + CHECKSUM_AT + 4,
			   VHDSET_HEADER_SIZE - CHECKSUM_AT - 4);
}

void vhdset_header_decode(const uint8_t bytes[VHDSET_HEADER_SIZE],
			  struct vhdset_header *_header)
{
	struct vhdset_header h = {};
	struct cursor c = {};
	size_t i = 0;

	cursor_init(&c, bytes, VHDSET_HEADER_SIZE);
	cursor_bytes(&c, h.signature, sizeof(h.signature));
	h.constant = cursor_le32(&c);
	h.sequence = cursor_le64(&c);
	h.count = cursor_le32(&c);
	h.checksum = cursor_le32(&c);
	h.entry_type = cursor_le32(&c);
	h.name_offset = cursor_le32(&c);
	h.name_length = cursor_le32(&c);
	h.rest_is_zero = true;
	for (i = FIELDS_END; i < VHDSET_HEADER_SIZE; i++) {
		h.rest_is_zero = h.rest_is_zero && bytes[i] == 0;
	}
	h.computed = checksum(bytes);
	*_header = h;
}

void vhdset_header_encode(const struct vhdset_header *header,
			  uint8_t bytes[VHDSET_HEADER_SIZE])
{
	struct cursor_put c = {};

	memset(bytes, 0, VHDSET_HEADER_SIZE);
	cursor_put_init(&c, bytes, VHDSET_HEADER_SIZE);
	cursor_put_bytes(&c, header->signature, sizeof(header->signature));
	cursor_put_le32(&c, header->constant);
	cursor_put_le64(&c, header->sequence);
	cursor_put_le32(&c, header->count);
	cursor_put_le32(&c, 0);
	cursor_put_le32(&c, header->entry_type);
	cursor_put_le32(&c, header->name_offset);
	cursor_put_le32(&c, header->name_length);
	cursor_put_seek(&c, CHECKSUM_AT);
	cursor_put_le32(&c, checksum(bytes));
}

int vhdset_header_validate(const struct vhdset_header *header,
			   uint64_t file_size, const char **_why)
{
	if (memcmp(header->signature, "shdr", 4) != 0) {
		*_why = "a header of the set has no signature";
		return -EBADMSG;
	}
	if (header->checksum != header->computed) {
		*_why = "the checksum of a header of the set is wrong";
		return -EBADMSG;
	}
	if (header->count == 0 || header->entry_type != SET_ENTRY_LEAF) {
		*_why = "the set does not begin with the name of its disk";
		return -ENOTSUP;
	}
	if (header->name_length == 0 || header->name_length % 2 != 0 ||
	    header->name_length > SET_NAME_BYTES) {
		*_why = "the name of the set's disk has an impossible length";
		return -EBADMSG;
	}
	if (header->name_offset < SET_HEADER_AT(1) + VHDSET_HEADER_SIZE ||
	    !checked_inside(header->name_offset, header->name_length,
			    file_size)) {
		*_why = "the name of the set's disk lies outside the file";
		return -EBADMSG;
	}
	return 0;
}

int vhdset_name_check(const char *name)
{
	uint8_t utf16[SET_NAME_BYTES] = {};
	const unsigned char *p = NULL;
	size_t length = 0;
	int ret = 0;

	if (name[0] == '\0' || strlen(name) >= VHDSET_NAME_MAX ||
	    strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		return -EINVAL;
	}
	for (p = (const unsigned char *)name; *p != '\0'; p++) {
		if (*p < ' ' || *p == 127 ||
		    strchr("/\\:*?\"<>|", *p) != NULL) {
			return -EINVAL;
		}
	}
	ret = utf16_from_utf8(name, utf16, sizeof(utf16), &length);
	return ret == 0 ? 0 : -EINVAL;
}

bool vhdset_is_name(const char *path)
{
	size_t length = strlen(path);

	return length > 5 && strcasecmp(path + length - 5, ".vhds") == 0;
}

/* The set's name without folder and ".vhds". */
static const char *stem_of(const char *set_path, size_t *_length)
{
	const char *slash = strrchr(set_path, '/');
	const char *base = slash != NULL ? slash + 1 : set_path;
	const char *dot = strrchr(base, '.');

	*_length = dot != NULL && strcasecmp(dot, ".vhds") == 0
		? (size_t)(dot - base) : strlen(base);
	return base;
}

bool vhdset_is_own_name(const char *set_path, const char *name)
{
	size_t length = 0;
	const char *base = stem_of(set_path, &length);
	const size_t id = GUID_TEXT_SIZE - 1;
	struct guid g = {};

	return strncasecmp(name, base, length) == 0 && name[length] == '_' &&
		strlen(name + length + 1) == id + strlen(".avhdx") &&
		guid_parse(name + length + 1, id, &g) == 0 &&
		strcasecmp(name + length + 1 + id, ".avhdx") == 0;
}

int vhdset_leaf_name(const char *set_path, char *name)
{
	size_t length = 0;
	const char *base = stem_of(set_path, &length);
	char id[GUID_TEXT_SIZE] = "";
	struct guid g = {};
	int ret = 0;

	if (length + 1 + strlen(".avhdx") + GUID_TEXT_SIZE > VHDSET_NAME_MAX) {
		return -ENAMETOOLONG;
	}
	ret = guid_random(&g);
	if (ret != 0) {
		return ret;
	}
	guid_format(&g, false, id);
	snprintf(name, VHDSET_NAME_MAX, "%.*s_%s.avhdx", (int)length, base,
		 id);
	return vhdset_name_check(name);
}
