/* check: whether a disk is sound, and what can be mended. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "tool.h"

struct reporting {
	const char *path;
	uint64_t shown;
};

/* Damage may be everywhere: the first lines tell enough. */
#define MOST_LINES 100

static bool may_show(struct reporting *reporting)
{
	reporting->shown++;
	if (reporting->shown == MOST_LINES + 1) {
		printf("%s: ... and more\n", reporting->path);
	}
	return reporting->shown <= MOST_LINES;
}

static void report_vhdx(void *private_data, const struct vhdx_finding *finding)
{
	struct reporting *reporting = private_data;

	if (finding->kind != VHDX_CHECK_LEAK && may_show(reporting)) {
		printf("%s: %s (entry %" PRIu64 ", at %" PRIu64 ")%s\n",
		       reporting->path, finding->what, finding->index,
		       finding->file_offset,
		       finding->repaired ? ": repaired" : "");
	}
}

static void report_vhd(void *private_data, const char *what, uint64_t block,
		       uint64_t file_offset)
{
	struct reporting *reporting = private_data;

	if (may_show(reporting)) {
		printf("%s: %s (block %" PRIu64 ", at %" PRIu64 ")\n",
		       reporting->path, what, block, file_offset);
	}
}

static int tell(const char *path, uint64_t errors, uint64_t repaired)
{
	if (errors == 0) {
		printf("%s: sound\n", path);
		return TOOL_OK;
	}
	printf("%s: %" PRIu64 " errors, %" PRIu64 " repaired\n", path, errors,
	       repaired);
	return errors == repaired ? TOOL_OK : TOOL_DAMAGED;
}

static int check_vhdx(struct tool *tool, struct disk *disk)
{
	struct reporting reporting = { .path = disk->file };
	struct vhdx_check_result result = {};
	struct vhdx_info info = {};
	char text[32] = "";
	int ret = vhdx_check(disk->vhdx, tool->arguments.repair != 0,
			     report_vhdx, &reporting, &result);

	if (ret != 0) {
		return tool_fail(disk->file, ret, "it cannot be checked",
				 NULL);
	}
	vhdx_info_get(disk->vhdx, &info);
	if (info.log_was_replayed) {
		printf("%s: the log held what a crash had left; it was "
		       "replayed%s\n", disk->file,
		       tool->arguments.repair ? "" : " in memory");
	}
	printf("%s: %" PRIu64 " blocks hold data, %" PRIu64 " in part, %"
	       PRIu64 " are unmapped; %s of the file are unused\n",
	       disk->file, result.blocks_present, result.blocks_partial,
	       result.blocks_unmapped, size_text(result.bytes_leaked, text));
	return tell(disk->file, result.errors, result.repaired);
}

static int check_vhd(struct disk *disk)
{
	struct reporting reporting = { .path = disk->file };
	struct vhd_check_result result = {};
	int ret = vhd_check(disk->vhd, report_vhd, &reporting, &result);

	if (ret != 0) {
		return tool_fail(disk->file, ret, "it cannot be checked",
				 NULL);
	}
	return tell(disk->file, result.errors, 0);
}

static int check_set(struct tool *tool, struct disk *disk)
{
	struct vhdset_info info = {};
	struct vhdset *set = disk->set;
	int ret = 0;

	vhdset_info_get(set, &info);
	if (info.catalogue_error != 0) {
		return tool_fail(disk->path, info.catalogue_error,
				 "its catalogue of snapshots", NULL);
	}
	if (!info.header_damaged) {
		return TOOL_OK;
	}
	printf("%s: one of the two headers is damaged\n", disk->path);
	if (!tool->arguments.repair) {
		return TOOL_DAMAGED;
	}
	set = set_open(tool, disk, disk->path, true);
	if (set == NULL) {
		return TOOL_FAILED;
	}
	ret = vhdset_repair(set);
	return ret == 0 ? TOOL_OK
			: tool_fail(disk->path, ret, "it cannot be repaired",
				    NULL);
}

int command_check(struct tool *tool)
{
	struct disk *disk = disk_open_alone(tool, tool->arguments.files[0],
					    tool->arguments.repair != 0);
	int ret = TOOL_OK;
	int closed = TOOL_OK;

	if (disk == NULL) {
		return TOOL_FAILED;
	}
	if (disk->set != NULL) {
		ret = check_set(tool, disk);
	}
	if (ret != TOOL_FAILED && disk->vhdx != NULL) {
		int found = check_vhdx(tool, disk);

		ret = found != TOOL_OK ? found : ret;
	} else if (disk->vhd != NULL) {
		ret = check_vhd(disk);
	} else if (disk->format == FORMAT_RAW) {
		printf("%s: a raw disk has nothing to check\n", disk->path);
	}
	closed = disk_close(tool, disk);
	return ret != TOOL_OK ? ret : closed;
}
