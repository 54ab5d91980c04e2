/* resize and compact: a disk changed in place. */
#include <errno.h>
#include <stdio.h>

#include "tool.h"

static struct disk *open_to_change(struct tool *tool)
{
	struct disk *disk = disk_open(tool, tool->arguments.files[0], true);

	if (disk != NULL && disk->vhdx == NULL) {
		tool_fail(disk->path, ENOTSUP, "it cannot be changed in place",
			  "only VHDX can; convert it");
		disk_close(tool, disk);
		return NULL;
	}
	return disk;
}

/*
 * The end of the last byte past size that is not zero, or size.  The engine
 * looks at whole blocks; what is lost within one matters as much.
 */
static int find_data(struct tool *tool, struct disk *disk, uint64_t size,
		     uint64_t *_end)
{
	static uint8_t buffer[1 << 20];
	uint64_t offset = size;

	*_end = size;
	while (offset < disk->size) {
		struct extent extent = {};
		uint64_t at = 0;
		int ret = disk_map(disk, offset, disk->size - offset,
				   &extent);

		if (ret != 0 || extent.length == 0) {
			return ret != 0 ? ret : -EIO;
		}
		while (extent.data && at < extent.length) {
			uint64_t part = extent.length - at;
			size_t i = 0;

			part = part < sizeof(buffer) ? part : sizeof(buffer);
			ret = disk_read(tool, disk, buffer, offset + at,
					(size_t)part);
			if (ret != 0) {
				return ret;
			}
			for (i = (size_t)part; i > 0 && buffer[i - 1] == 0;
			     i--) {
			}
			if (i > 0) {
				*_end = offset + at + i;
			}
			at += part;
		}
		offset += extent.length;
	}
	return 0;
}

int command_resize(struct tool *tool)
{
	struct disk *disk = NULL;
	uint64_t size = 0;
	uint64_t least = 0;
	char text[32] = "";
	int ret = 0;
	int closed = TOOL_OK;

	if (!size_parse(tool->arguments.files[1], &size)) {
		fprintf(stderr, "hvrs-vhd: \"%s\" is no size; write 64G, "
			"512M or bytes\n", tool->arguments.files[1]);
		return TOOL_USAGE;
	}
	disk = open_to_change(tool);
	if (disk == NULL) {
		return TOOL_FAILED;
	}
	if (size < disk->size && !tool->arguments.discard) {
		ret = find_data(tool, disk, size, &least);
		if (ret == 0 && least > size) {
			ret = -EBUSY;
			least = (least + 511) / 512 * 512;
		}
	}
	if (ret == 0) {
		/* What lies past the new end is zeros, or may be lost. */
		ret = vhdx_resize(disk->vhdx, size, size < disk->size);
	}
	if (ret == -EBUSY && least > 0) {
		fprintf(stderr, "hvrs-vhd: %s: it holds data up to %s, which "
			"would be lost; --discard says that it may be\n",
			disk->path, size_text(least, text));
		disk_close(tool, disk);
		return TOOL_FAILED;
	}
	if (ret != 0) {
		tool_fail(disk->path, ret, "it cannot be resized", NULL);
	}
	closed = disk_close(tool, disk);
	return ret != 0 ? TOOL_FAILED : closed;
}

static bool compacting(void *private_data, uint64_t done, uint64_t all)
{
	progress(private_data, "compacting", done, all);
	return !stop_wanted();
}

int command_compact(struct tool *tool)
{
	struct disk *disk = open_to_change(tool);
	uint64_t before = 0;
	uint64_t after = 0;
	char first[32] = "";
	char second[32] = "";
	int ret = 0;
	int closed = TOOL_OK;

	if (disk == NULL) {
		return TOOL_FAILED;
	}
	store_size(disk->store, &before);
	ret = vhdx_compact(disk->vhdx, compacting, tool);
	progress_end(tool);
	store_size(disk->store, &after);
	if (ret != 0) {
		tool_fail(disk->path, ret, "it cannot be compacted",
			  stop_wanted() ? "you wanted it to stop; it is sound"
					: NULL);
	} else if (!tool->arguments.quiet) {
		printf("%s: %s -> %s\n", disk->file, size_text(before, first),
		       size_text(after, second));
	}
	closed = disk_close(tool, disk);
	return ret != 0 ? TOOL_FAILED : closed;
}
