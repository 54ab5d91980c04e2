/*
 * convert: one disk into another format.  Holes stay holes; where both files
 * lie on a file system that shares blocks, nothing is copied.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"
#include "util/zero.h"

#define YEAR_2000 946684800
#define PIECE ((size_t)1 << 20)
#define CLUSTER 4096

struct target {
	enum format format;
	uint64_t unit;		/* writes are multiples of it */
	struct new_file *file;
	struct vhdx *vhdx;
	struct vhd_writer *vhd;
	bool clones;		/* until the file system says no */
	uint64_t cloned;
};

static int target_open(struct tool *tool, struct target *target,
		       const char *path, uint64_t size)
{
	const struct arguments *arguments = &tool->arguments;
	struct vhdx_create wanted = {
		.type = arguments->fixed ? VHDX_FIXED : VHDX_DYNAMIC,
		.size = size,
		.block_size = (uint32_t)arguments->block_size,
		.logical_sector = (uint32_t)arguments->sector,
		.physical_sector = (uint32_t)arguments->physical,
	};
	struct vhdx_open how = { .writable = true };
	const char *why = NULL;
	int ret = 0;

	target->file = new_file_open(tool, path);
	if (target->file == NULL) {
		return TOOL_FAILED;
	}
	target->clones = true;
	switch (target->format) {
	case FORMAT_RAW:
		ret = store_truncate(target->file->store, size);
		break;
	case FORMAT_VHD:
		ret = vhd_writer_open(target->file, target->file->store,
				      arguments->fixed ? VHD_FIXED
						       : VHD_DYNAMIC,
				      size,
				      (uint32_t)(time(NULL) - YEAR_2000),
				      &target->vhd);
		break;
	case FORMAT_VHDX:
	case FORMAT_SET:
		ret = vhdx_create(target->file->store, &wanted);
		if (ret == 0) {
			ret = vhdx_open(target->file, target->file->store,
					&how, &target->vhdx, &why);
		}
		break;
	}
	if (ret != 0) {
		TALLOC_FREE(target->file);
		return tool_fail(path, ret, "it cannot be created", why);
	}
	return TOOL_OK;
}

static int target_write(struct tool *tool, struct target *target,
			const void *buffer, uint64_t offset, size_t length)
{
	if (target->vhdx != NULL) {
		return vhdx_write(target->vhdx, tool->ev, buffer, offset,
				  length, false);
	}
	if (target->vhd != NULL) {
		return vhd_writer_write(target->vhd, buffer, offset, length);
	}
	return store_write(target->file->store, buffer, length, offset);
}

/* Where data of the disk lies in the target's file, made where it is not. */
static int target_place(struct tool *tool, struct target *target,
			uint64_t offset, uint64_t *_file_offset,
			uint64_t *_length)
{
	static const uint8_t zeros[CLUSTER];
	struct vhdx_extent extent = {};
	int ret = 0;

	if (target->vhd != NULL) {
		uint64_t follows = 0;

		ret = vhd_writer_place(target->vhd, offset, _file_offset,
				       &follows);
		*_length = follows < *_length ? follows : *_length;
		return ret;
	}
	if (target->vhdx == NULL) {
		*_file_offset = offset;
		return 0;
	}
	ret = vhdx_map(target->vhdx, offset, *_length, &extent);
	if (ret == 0 && extent.kind != VHDX_EXTENT_DATA) {
		/* A write of a little makes the whole block. */
		ret = vhdx_write(target->vhdx, tool->ev, zeros, offset,
				 sizeof(zeros), false);
		if (ret == 0) {
			ret = vhdx_map(target->vhdx, offset, *_length,
				       &extent);
		}
	}
	if (ret != 0) {
		return ret;
	}
	if (extent.kind != VHDX_EXTENT_DATA) {
		return -EIO;
	}
	*_file_offset = extent.file_offset;
	*_length = extent.length < *_length ? extent.length : *_length;
	return 0;
}

/* Shares a part of an extent; *_length 0 where that cannot be done. */
static int clone_part(struct tool *tool, struct target *target,
		      struct disk *source, const struct extent *extent,
		      uint64_t *_length)
{
	struct file_clone_range range = { .src_fd = source->fd };
	uint64_t place = 0;
	uint64_t length = *_length & ~(uint64_t)(CLUSTER - 1);
	int ret = 0;

	*_length = 0;
	if (!target->clones || length == 0 || extent->depth != 0 ||
	    extent->file_offset % CLUSTER != 0 ||
	    extent->offset % CLUSTER != 0) {
		return 0;
	}
	ret = target_place(tool, target, extent->offset, &place, &length);
	if (ret != 0) {
		return ret;
	}
	length &= ~(uint64_t)(CLUSTER - 1);
	if (length == 0 || place % CLUSTER != 0) {
		return 0;
	}
	range.src_offset = extent->file_offset;
	range.src_length = length;
	range.dest_offset = place;
	if (ioctl(target->file->fd, FICLONERANGE, &range) != 0) {
		if (errno == ENOSPC || errno == EIO || errno == EDQUOT) {
			return -errno;
		}
		/* What the place holds by now is zeros: it is copied over. */
		target->clones = false;
		return 0;
	}
	target->cloned += length;
	*_length = length;
	return 0;
}

/*
 * Copies a part.  An extent may begin or end within a sector of the target
 * (512 bytes in one of 4096, a raw disk's last bytes): the whole sector is
 * copied then, with zeros past the source's end.
 */
static int copy_part(struct tool *tool, struct target *target,
		     struct disk *source, uint64_t offset, uint64_t length,
		     uint8_t *buffer)
{
	uint64_t begin = offset / target->unit * target->unit;
	uint64_t end = (offset + length + target->unit - 1) / target->unit *
		       target->unit;
	uint64_t there = end < source->size ? end : source->size;
	int ret = disk_read(tool, source, buffer, begin,
			    (size_t)(there - begin));

	if (ret != 0) {
		return ret;
	}
	memset(buffer + (there - begin), 0, (size_t)(end - there));
	if (is_zero(buffer, (size_t)(end - begin))) {
		return 0;
	}
	return target_write(tool, target, buffer, begin,
			    (size_t)(end - begin));
}

/*
 * How much of an extent from its start on is a hole of the file it lies in,
 * and so zeros, which the new file has anyway.  *_data: what follows it up to
 * the next hole.
 */
static uint64_t hole_length(const struct disk *source,
			    const struct extent *extent, uint64_t *_data)
{
	off_t at = (off_t)extent->file_offset;
	off_t data = -1;
	off_t hole = -1;

	*_data = extent->length;
	if (extent->depth != 0) {
		return 0;
	}
	data = lseek(source->fd, at, SEEK_DATA);
	if (data == -1) {
		return errno == ENXIO ? extent->length : 0;
	}
	if (data > at) {
		return (uint64_t)(data - at) < extent->length
			       ? (uint64_t)(data - at)
			       : extent->length;
	}
	hole = lseek(source->fd, at, SEEK_HOLE);
	if (hole > at && (uint64_t)(hole - at) < extent->length) {
		*_data = (uint64_t)(hole - at);
	}
	return 0;
}

static int copy_extent(struct tool *tool, struct target *target,
		       struct disk *source, struct extent *extent,
		       uint8_t *buffer)
{
	while (extent->length > 0) {
		uint64_t data = 0;
		uint64_t part = hole_length(source, extent, &data);
		bool hole = part > 0;
		int ret = 0;

		if (stop_wanted()) {
			return -EINTR;
		}
		if (!hole) {
			part = data;
			ret = clone_part(tool, target, source, extent, &part);
		}
		if (ret == 0 && part == 0) {
			part = data < PIECE ? data : PIECE;
			ret = copy_part(tool, target, source, extent->offset,
					part, buffer);
		}
		if (ret != 0) {
			return ret;
		}
		extent->offset += part;
		extent->file_offset += part;
		extent->length -= part;
		progress(tool, "converting", extent->offset, source->size);
	}
	return 0;
}

static int copy_all(struct tool *tool, struct target *target,
		    struct disk *source)
{
	uint8_t *buffer = talloc_size(tool->mem_ctx, PIECE + 2 * CLUSTER);
	uint64_t offset = 0;
	int ret = 0;

	if (buffer == NULL) {
		return -ENOMEM;
	}
	while (offset < source->size && ret == 0) {
		struct extent extent = {};

		ret = disk_map(source, offset, source->size - offset,
			       &extent);
		if (ret != 0 || extent.length == 0) {
			ret = ret != 0 ? ret : -EIO;
			break;
		}
		offset += extent.length;
		if (extent.data) {
			ret = copy_extent(tool, target, source, &extent,
					  buffer);
		}
	}
	talloc_free(buffer);
	return ret;
}

static int target_close(struct tool *tool, struct target *target)
{
	int ret = 0;

	if (target->vhdx != NULL) {
		ret = vhdx_flush(target->vhdx, tool->ev);
		if (ret == 0) {
			ret = vhdx_settle(target->vhdx, tool->ev);
		}
		if (ret == 0) {
			ret = vhdx_close(target->vhdx);
		}
	} else if (target->vhd != NULL) {
		ret = vhd_writer_close(target->vhd);
	}
	return ret;
}

static uint64_t sector_of(const struct tool *tool, enum format format)
{
	if (format == FORMAT_RAW) {
		return 1;
	}
	return format != FORMAT_VHD && tool->arguments.sector == 4096 ? 4096
								      : 512;
}

static int convert_to(struct tool *tool, struct disk *source,
		      enum format format, const char *path)
{
	struct target target = { .format = format };
	char text[32] = "";
	int ret = TOOL_OK;

	target.unit = sector_of(tool, format);
	ret = target_open(tool, &target, path,
			  (source->size + target.unit - 1) / target.unit *
				  target.unit);
	if (ret != TOOL_OK) {
		return ret;
	}
	ret = copy_all(tool, &target, source);
	progress_end(tool);
	if (ret == 0) {
		ret = target_close(tool, &target);
	}
	if (ret != 0) {
		TALLOC_FREE(target.file);
		return tool_fail(path, ret, "it cannot be written",
				 ret == -EINTR ? "you wanted it to stop; "
						 "nothing is left of it"
					       : NULL);
	}
	ret = new_file_finish(target.file);
	if (ret == TOOL_OK && target.cloned > 0 && !tool->arguments.quiet) {
		printf("%s: %s shared with %s\n", path,
		       size_text(target.cloned, text), source->file);
	}
	return ret;
}

static int convert_to_set(struct tool *tool, struct disk *source,
			  const char *path)
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
	file = new_file_open(tool, path);
	if (file == NULL) {
		return TOOL_FAILED;
	}
	snprintf(folder, sizeof(folder), "%s", path);
	leaf = talloc_asprintf(tool->mem_ctx, "%s/%s", dirname(folder), name);
	ret = convert_to(tool, source, FORMAT_VHDX, leaf);
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

int command_convert(struct tool *tool)
{
	const char *path = tool->arguments.files[1];
	enum format format = FORMAT_RAW;
	struct disk *source = NULL;
	int ret = TOOL_OK;

	if (format_choose(tool->arguments.format, path, &format) != 0) {
		fprintf(stderr, "hvrs-vhd: \"%s\" is no format; they are "
			"raw, vhd, vhdx and vhds\n", tool->arguments.format);
		return TOOL_USAGE;
	}
	tool->no_writers = true;
	source = disk_open(tool, tool->arguments.files[0], false);
	if (source == NULL) {
		return TOOL_FAILED;
	}
	ret = format == FORMAT_SET
		? convert_to_set(tool, source, path)
		: convert_to(tool, source, format, path);
	disk_close(tool, source);
	return ret;
}
