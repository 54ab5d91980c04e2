/*
 * What the volume tells about sectors and clusters (FileFsSectorSize-
 * Information, FileFsSizeInformation; [MS-FSCC] 2.5.7 and 2.5.8).  The
 * numbers are parameters of smbd's own, set where the administrator set none;
 * the trim flag needs a core hook.
 */
#include "hvrs.h"

#define SECTOR_FLAGS_OFFSET 16
#define SECTOR_INFO_LENGTH 28
#define SECTOR_TRIM_ENABLED 0x00000008

static const struct {
	const char *name;
	const char *value;
} sectors[] = {
	{ "logical bytes per sector", "512" },
	{ "aligned bytes per sector", "4096" },
	{ "performance bytes per sector", "4096" },
	{ "effective aligned bytes per sector", "4096" },
};

void hvrs_sectors_apply(const struct hvrs_share *share,
			struct connection_struct *conn)
{
	int snum = SNUM(conn);
	char text[32] = {};
	size_t i = 0;

	if (!share->on[OPTION_SECTOR_SIZES]) {
		return;
	}
	for (i = 0; i < ARRAY_SIZE(sectors); i++) {
		if (lp_parm_const_string(snum, "fs", sectors[i].name,
					 NULL) == NULL) {
			lp_do_parameter(snum, talloc_asprintf(
				talloc_tos(), "fs:%s", sectors[i].name),
				sectors[i].value);
		}
	}
	/* 1024 is smbd's default: no file system here has such clusters. */
	if (lp_block_size(snum) == 1024) {
		snprintf(text, sizeof(text), "%u", share->probe.cluster);
		lp_do_parameter(snum, "block size", text);
	}
}

void hvrs_sectors_fs_info(const struct hvrs_share *share, uint16_t level,
			  uint8_t *data, size_t length)
{
	if (level != SMB_FS_SECTOR_SIZE_INFORMATION ||
	    !share->on[OPTION_TRIM] || length < SECTOR_INFO_LENGTH) {
		return;
	}
	SIVAL(data, SECTOR_FLAGS_OFFSET,
	      IVAL(data, SECTOR_FLAGS_OFFSET) | SECTOR_TRIM_ENABLED);
}
