/*
 * C0008 and C0009: what attributes a virtual disk shows, in every information
 * class and in a listing, after all was done to make it show them.
 */
#include <string.h>

#include "check.h"
#include "util/cursor.h"

#define FSCTL_SET_SPARSE	0x000900C4u
#define FSCTL_SET_COMPRESSION	0x0009C040u
#define FS_SPARSE_VDL		0x10000000u
#define SPARSE			0x200u
#define COMPRESSED		0x800u
#define ENCRYPTED		0x4000u

/* Information classes with attributes in them, and where. */
static const struct {
	uint8_t level;
	uint8_t at;
	const char *name;
} classes[] = {
	{ 4, 32, "FileBasicInformation" },
	{ 18, 32, "FileAllInformation" },
	{ 34, 48, "FileNetworkOpenInformation" },
	{ 35, 0, "FileAttributeTagInformation" },
};

static const struct {
	uint8_t level;
	uint8_t name_at;
} listings[] = {
	{ 1, 64 }, { 2, 68 }, { 3, 94 }, { 37, 104 }, { 38, 80 },
};

/* The attributes of one entry of a listing; false where it is not there. */
static bool find_entry(const uint8_t *data, size_t length, uint8_t name_at,
		       const char *name, uint32_t *_attributes)
{
	size_t name_length = strlen(name);
	size_t at = 0;

	while (at < length) {
		struct cursor in = {};
		uint32_t next = 0;
		uint32_t attributes = 0;
		uint32_t size = 0;
		const uint8_t *text = NULL;
		size_t i = 0;

		cursor_init(&in, data + at, length - at);
		next = cursor_le32(&in);
		cursor_seek(&in, 56);
		attributes = cursor_le32(&in);
		size = cursor_le32(&in);
		cursor_seek(&in, name_at);
		text = cursor_borrow(&in, size);
		if (cursor_status(&in) != 0) {
			return false;
		}
		for (i = 0; i < name_length && size == 2 * name_length &&
			    text[2 * i] == (uint8_t)name[i]; i++) {
		}
		if (size == 2 * name_length && i == name_length) {
			*_attributes = attributes;
			return true;
		}
		if (next == 0) {
			return false;
		}
		at += next;
	}
	return false;
}

/* All attributes any answer shows, and which answer showed a bad one. */
static uint32_t gather(struct check *check, const struct smb_file *file,
		       const char *name, uint32_t bad, uint32_t *_seen,
		       const char **_where)
{
	struct smb_open how = {
		.name = check->folder, .access = ACCESS_READ,
		.share = SHARE_ALL, .disposition = DISPOSITION_OPEN,
		.options = OPTION_DIRECTORY,
	};
	struct smb_file folder = {};
	const uint8_t *out = NULL;
	size_t length = 0;
	uint32_t status = STATUS_OK;
	size_t i = 0;

	for (i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
		struct cursor in = {};
		uint32_t attributes = 0;

		status = smb_query(check->smb, file, 1, classes[i].level,
				   &out, &length);
		if (status != STATUS_OK) {
			return status;
		}
		cursor_init(&in, out, length);
		cursor_seek(&in, classes[i].at);
		attributes = cursor_le32(&in);
		*_seen |= attributes;
		if ((attributes & bad) != 0 && *_where == NULL) {
			*_where = classes[i].name;
		}
	}
	for (i = 0; i < sizeof(listings) / sizeof(listings[0]); i++) {
		uint32_t attributes = 0;

		status = smb_create(check->smb, &how, &folder);
		if (status == STATUS_OK) {
			status = smb_list(check->smb, &folder,
					  listings[i].level, &out, &length);
		}
		if (status != STATUS_OK ||
		    !find_entry(out, length, listings[i].name_at, name,
				&attributes)) {
			smb_close(check->smb, &folder);
			return status != STATUS_OK ? status : STATUS_LOST;
		}
		smb_close(check->smb, &folder);
		*_seen |= attributes;
		if ((attributes & bad) != 0 && *_where == NULL) {
			*_where = "a listing";
		}
	}
	return STATUS_OK;
}

static enum verdict attributes(struct check *check, bool sparse_vdl)
{
	static const uint8_t lznt1[2] = { 1, 0 };
	struct smb_file file = {};
	uint8_t byte = 1;
	uint32_t bad = COMPRESSED | ENCRYPTED | (sparse_vdl ? 0 : SPARSE);
	uint32_t seen = 0;
	const char *where = NULL;
	uint32_t status = check_open(check, check->smb, "attributes.vhdx",
				     &file);

	if (status == STATUS_OK) {
		status = smb_write(check->smb, &file, 1 << 20, &byte, 1);
	}
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a file cannot be written: %s",
			       smb_status(status));
	}
	/* Whether it is refused or taken does not matter: what shows does. */
	smb_fsctl(check->smb, &file, FSCTL_SET_SPARSE, &byte, 1, 0, NULL,
		  NULL);
	smb_fsctl(check->smb, &file, FSCTL_SET_COMPRESSION, lznt1, 2, 0,
		  NULL, NULL);
	status = gather(check, &file, "attributes.vhdx", bad, &seen, &where);
	smb_close(check->smb, &file);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "attributes cannot be read: %s",
			       smb_status(status));
	}
	if (where != NULL) {
		return verdict(check, FAIL, "%s shows a virtual disk as%s%s%s"
			       ", which Hyper-V refuses; on Samba add hvrs to "
			       "\"vfs objects\" (\"hvrs:virtual disk "
			       "attributes\")", where,
			       (seen & bad & SPARSE) != 0 ? " sparse" : "",
			       (seen & bad & COMPRESSED) != 0 ? " compressed"
							      : "",
			       (seen & bad & ENCRYPTED) != 0 ? " encrypted"
							     : "");
	}
	return verdict(check, PASS, "no bad attribute in %zu information "
		       "classes and %zu listings%s",
		       sizeof(classes) / sizeof(classes[0]),
		       sizeof(listings) / sizeof(listings[0]),
		       sparse_vdl ? "; sparse is allowed by C0009" : "");
}

enum verdict probe_attributes(struct check *check)
{
	uint32_t volume = 0;
	uint32_t status = check_volume(check, &volume);

	if (status != STATUS_OK) {
		return verdict(check, FAIL, "the volume's attributes cannot "
			       "be read: %s", smb_status(status));
	}
	return attributes(check, (volume & FS_SPARSE_VDL) != 0);
}

enum verdict probe_sparse_vdl(struct check *check)
{
	static const uint8_t yes[1] = { 1 };
	struct smb_file file = {};
	const uint8_t *out = NULL;
	size_t length = 0;
	struct cursor in = {};
	uint32_t volume = 0;
	uint32_t shown = 0;
	uint8_t byte = 1;
	uint32_t status = check_volume(check, &volume);

	if (status != STATUS_OK) {
		return verdict(check, FAIL, "the volume's attributes cannot "
			       "be read: %s", smb_status(status));
	}
	if ((volume & FS_SPARSE_VDL) == 0) {
		return verdict(check, ABSENT, "the volume does not announce "
			       "sparse VDL; on Samba add hvrs to \"vfs "
			       "objects\" (\"hvrs:sparse vdl\")");
	}
	status = check_open(check, check->smb, "sparse.vhdx", &file);
	if (status == STATUS_OK) {
		status = smb_fsctl(check->smb, &file, FSCTL_SET_SPARSE, yes,
				   1, 0, NULL, NULL);
	}
	if (status == STATUS_OK) {
		status = smb_write(check->smb, &file, 8 << 20, &byte, 1);
	}
	if (status == STATUS_OK) {
		status = smb_query(check->smb, &file, 1, 4, &out, &length);
	}
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a sparse file cannot be made: "
			       "%s", smb_status(status));
	}
	cursor_init(&in, out, length);
	cursor_seek(&in, 32);
	shown = cursor_le32(&in);
	smb_close(check->smb, &file);
	if ((shown & SPARSE) == 0) {
		return verdict(check, FAIL, "sparse VDL is announced, and a "
			       "file that was made sparse does not say so");
	}
	return verdict(check, PASS, "announced, and a sparse virtual disk "
		       "says that it is");
}
