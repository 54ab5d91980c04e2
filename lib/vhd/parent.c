/* The names under which a differencing VHD knows its parent. */
#include <errno.h>
#include <string.h>

#include "store/store.h"
#include "util/checked.h"
#include "util/utf16.h"
#include "vhd/vhd_priv.h"

#define W2RU 0x57327275U	/* relative path, UTF-16 little-endian */

/*
 * Takes a name apart from the drive, host or root before it: what is left can
 * be looked for beside the child.
 */
static void make_relative(char *name)
{
	char *from = name;
	char *p = NULL;

	for (p = name; *p != '\0'; p++) {
		if (*p == '\\') {
			*p = '/';
		}
	}
	if (name[0] == '/' || (name[0] != '\0' && name[1] == ':')) {
		p = strrchr(name, '/');
		from = p != NULL ? p + 1 : name + 2;
	}
	while (strncmp(from, "./", 2) == 0) {
		from += 2;
	}
	memmove(name, from, strlen(from) + 1);
}

/* Bytes of text up to the first 16-bit zero. */
static size_t text_length(const uint8_t *bytes, size_t length)
{
	size_t i = 0;

	for (i = 0; i + 1 < length; i += 2) {
		if (bytes[i] == 0 && bytes[i + 1] == 0) {
			return i;
		}
	}
	return length & ~(size_t)1;
}

static int locator_text(struct vhd *disk, const struct vhd_locator *l,
			char text[VHD_NAME_MAX])
{
	uint8_t bytes[2 * 256] = {};
	int ret = 0;

	if (l->length == 0 || l->length > sizeof(bytes) ||
	    !checked_inside(l->offset, l->length, disk->file_size)) {
		return -EBADMSG;
	}
	ret = store_read(disk->store, bytes, l->length, l->offset);
	if (ret != 0) {
		return ret;
	}
	return utf16_to_utf8(bytes, text_length(bytes, l->length), false,
			     text, VHD_NAME_MAX);
}

/* Name number index among those that can be read; -ENOENT past the last. */
static int name_number(struct vhd *disk, unsigned index,
		       char text[VHD_NAME_MAX])
{
	uint8_t name[sizeof(disk->header.parent_name)] = {};
	unsigned found = 0;
	size_t i = 0;
	int ret = 0;

	for (i = 0; i < VHD_LOCATORS; i++) {
		const struct vhd_locator *l = &disk->header.locators[i];

		if (l->platform != W2RU) {
			continue;
		}
		ret = locator_text(disk, l, text);
		if (ret == 0 && found++ == index) {
			return 0;
		}
	}
	if (found != index) {
		return -ENOENT;
	}
	/* The one text of the format that is big-endian. */
	for (i = 0; i < sizeof(name); i++) {
		name[i] = disk->header.parent_name[i ^ 1];
	}
	ret = utf16_to_utf8(name, text_length(name, sizeof(name)), false,
			    text, VHD_NAME_MAX);
	return ret == 0 ? 0 : -ENOENT;
}

int vhd_parent_name(TALLOC_CTX *mem_ctx, struct vhd *disk, unsigned index,
		    char **_name)
{
	char text[VHD_NAME_MAX] = "";
	char *name = NULL;
	int ret = 0;

	if (disk->footer.type != VHD_DIFFERENCING) {
		return -ENOENT;
	}
	ret = name_number(disk, index, text);
	if (ret != 0) {
		return ret;
	}
	make_relative(text);
	if (text[0] == '\0') {
		return -ENOENT;
	}
	name = talloc_strdup(mem_ctx, text);
	if (name == NULL) {
		return -ENOMEM;
	}
	*_name = name;
	return 0;
}
