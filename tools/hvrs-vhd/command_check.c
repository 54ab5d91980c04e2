/* check: whether a disk is sound, and what can be mended. */
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
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

/* Files that were looked at, by the GUID that each write of them changes. */
struct seen {
	struct guid *list;
	size_t count;
};

static bool is_seen(struct tool *tool, struct seen *seen, struct vhdx *file)
{
	struct vhdx_info info = {};
	size_t i = 0;

	vhdx_info_get(file, &info);
	for (i = 0; i < seen->count; i++) {
		if (guid_equal(&seen->list[i], &info.file_write_guid)) {
			return true;
		}
	}
	seen->list = talloc_realloc(tool->mem_ctx, seen->list, struct guid,
				    seen->count + 1);
	if (seen->list != NULL) {
		seen->list[seen->count++] = info.file_write_guid;
	}
	return false;
}

/* A file of a set with all its parents: each link, and each file once. */
static int check_chain(struct tool *tool, const char *path, struct seen *seen)
{
	struct disk *disk = disk_open(tool, path, false);
	struct vhdx *file = NULL;
	unsigned up = 0;
	int ret = TOOL_OK;

	if (disk == NULL) {
		return TOOL_DAMAGED;
	}
	for (file = disk->vhdx; file != NULL; file = vhdx_parent_get(file)) {
		char *name = talloc_asprintf(tool->mem_ctx, up == 0 ? "%s" :
					     "%s, parent %u", path, up);
		struct reporting reporting = { .path = name };
		struct vhdx_check_result result = {};

		up++;
		if (name == NULL || is_seen(tool, seen, file)) {
			continue;
		}
		if (vhdx_check(file, false, report_vhdx, &reporting,
			       &result) != 0 || result.errors > 0) {
			ret = TOOL_DAMAGED;
		}
	}
	disk_close(tool, disk);
	return ret;
}

/* Every snapshot of a set, and the leaf's parents. */
static int check_snapshots(struct tool *tool, const char *path)
{
	struct vhdset *set = set_open(tool, tool->mem_ctx, path, false);
	const struct vhdset_snapshot *list = NULL;
	struct seen seen = {};
	size_t count = 0;
	size_t i = 0;
	int ret = TOOL_OK;

	if (set == NULL || vhdset_snapshot_list(set, &list, &count) != 0) {
		return TOOL_FAILED;
	}
	ret = check_chain(tool, path, &seen);
	for (i = 0; i < count; i++) {
		char *copy = talloc_strdup(tool->mem_ctx, path);
		char *file = copy != NULL && list[i].file[0] != '\0' ?
			talloc_asprintf(tool->mem_ctx, "%s/%s", dirname(copy),
					list[i].file) : NULL;

		if (file != NULL &&
		    check_chain(tool, file, &seen) != TOOL_OK) {
			ret = TOOL_DAMAGED;
		}
	}
	printf("%s: %zu snapshot%s, %zu file%s in all\n", path, count,
	       count == 1 ? "" : "s", seen.count, seen.count == 1 ? "" : "s");
	return ret;
}

int command_check(struct tool *tool)
{
	struct disk *disk = disk_open_alone(tool, tool->arguments.files[0],
					    tool->arguments.repair != 0);
	bool is_set = false;
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
	is_set = disk->set != NULL;
	closed = disk_close(tool, disk);
	if (is_set && ret == TOOL_OK && closed == TOOL_OK) {
		ret = check_snapshots(tool, tool->arguments.files[0]);
	}
	return ret != TOOL_OK ? ret : closed;
}
