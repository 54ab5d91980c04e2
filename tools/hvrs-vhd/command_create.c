/* create: new disks, and sets of one. */
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

/* Seconds from 1970 to 2000, where a VHD begins to count. */
#define YEAR_2000 946684800

/* The parent's path from the folder of its child, as Windows writes it. */
static char *relative_path(TALLOC_CTX *mem_ctx, const char *parent)
{
	const char *name = strrchr(parent, '/');

	return talloc_asprintf(mem_ctx, ".\\%s",
			       name != NULL ? name + 1 : parent);
}

static bool same_folder(const char *a, const char *b)
{
	char first[4096] = "";
	char second[4096] = "";

	snprintf(first, sizeof(first), "%s", a);
	snprintf(second, sizeof(second), "%s", b);
	return strcmp(dirname(first), dirname(second)) == 0;
}

static int make_vhdx(struct tool *tool, const char *path)
{
	const struct arguments *arguments = &tool->arguments;
	struct vhdx_create wanted = {
		.type = arguments->fixed ? VHDX_FIXED : VHDX_DYNAMIC,
		.size = arguments->size,
		.block_size = (uint32_t)arguments->block_size,
		.logical_sector = (uint32_t)arguments->sector,
		.physical_sector = (uint32_t)arguments->physical,
	};
	struct vhdx_locator_pair pair = { .key = "relative_path" };
	struct disk *parent = NULL;
	struct new_file *file = NULL;
	int ret = 0;

	if (arguments->parent != NULL) {
		if (!same_folder(arguments->parent, path)) {
			return tool_fail(path, EINVAL, "it must lie in the "
					 "folder of its parent", NULL);
		}
		tool->no_writers = true;
		parent = disk_open(tool, arguments->parent, false);
		if (parent == NULL) {
			return TOOL_FAILED;
		}
		if (parent->vhdx == NULL) {
			return tool_fail(arguments->parent, EINVAL,
					 "a VHDX has a VHDX for parent",
					 NULL);
		}
		wanted.type = VHDX_DIFFERENCING;
		wanted.size = 0;
		wanted.parent = parent->vhdx;
		pair.value = relative_path(parent, arguments->parent);
		wanted.paths = &pair;
		wanted.path_count = 1;
	}
	file = new_file_open(tool, path);
	if (file == NULL) {
		return TOOL_FAILED;
	}
	ret = vhdx_create(file->store, &wanted);
	if (parent != NULL) {
		disk_close(tool, parent);
	}
	if (ret != 0) {
		talloc_free(file);
		return tool_fail(path, ret, "it cannot be created",
				 ret == -EINVAL ? "no disk has such sizes"
						: NULL);
	}
	return new_file_finish(file);
}

static int make_vhd(struct tool *tool, const char *path)
{
	struct new_file *file = new_file_open(tool, path);
	struct vhd_writer *writer = NULL;
	int ret = 0;

	if (file == NULL) {
		return TOOL_FAILED;
	}
	ret = vhd_writer_open(file, file->store,
			      tool->arguments.fixed ? VHD_FIXED : VHD_DYNAMIC,
			      tool->arguments.size,
			      (uint32_t)(time(NULL) - YEAR_2000), &writer);
	if (ret == 0) {
		ret = vhd_writer_close(writer);
	}
	if (ret != 0) {
		talloc_free(file);
		return tool_fail(path, ret, "it cannot be created", NULL);
	}
	return new_file_finish(file);
}

static int make_set(struct tool *tool, const char *path)
{
	char name[VHDSET_NAME_MAX] = "";
	char folder[4096] = "";
	char *leaf = NULL;
	struct new_file *file = NULL;
	int ret = vhdset_leaf_name(path, name);

	if (ret != 0) {
		return tool_fail(path, ret, "its name cannot be that of a "
				 "set", NULL);
	}
	snprintf(folder, sizeof(folder), "%s", path);
	leaf = talloc_asprintf(tool->mem_ctx, "%s/%s", dirname(folder), name);
	/* The set first: where it cannot be, no leaf is left. */
	file = new_file_open(tool, path);
	if (file == NULL) {
		return TOOL_FAILED;
	}
	ret = make_vhdx(tool, leaf);
	if (ret != TOOL_OK) {
		talloc_free(file);
		return ret;
	}
	ret = vhdset_create(file->store, name);
	if (ret != 0) {
		talloc_free(file);
		unlink(leaf);
		return tool_fail(path, ret, "it cannot be created", NULL);
	}
	ret = new_file_finish(file);
	if (ret != TOOL_OK) {
		unlink(leaf);
	}
	return ret;
}

int command_create(struct tool *tool)
{
	const char *path = tool->arguments.files[0];
	enum format format = FORMAT_RAW;

	if (format_choose(tool->arguments.format, path, &format) != 0) {
		fprintf(stderr, "hvrs-vhd: \"%s\" is no format; they are "
			"vhd, vhdx and vhds\n", tool->arguments.format);
		return TOOL_USAGE;
	}
	if (tool->arguments.parent == NULL && tool->arguments.size == 0) {
		fprintf(stderr, "hvrs-vhd: create wants --size or "
			"--parent\n");
		return TOOL_USAGE;
	}
	switch (format) {
	case FORMAT_VHDX:
		return make_vhdx(tool, path);
	case FORMAT_VHD:
		return make_vhd(tool, path);
	case FORMAT_SET:
		return make_set(tool, path);
	case FORMAT_RAW:
		break;
	}
	fprintf(stderr, "hvrs-vhd: the name %s tells no format; use "
		"--format, or truncate(1) for a raw disk\n", path);
	return TOOL_USAGE;
}
