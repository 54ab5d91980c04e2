/* map and dump-log: what lies where. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>

#include "tool.h"

struct listing {
	json_t *list;		/* NULL: as text */
	struct extent last;
};

static void show_extent(struct listing *listing)
{
	const struct extent *extent = &listing->last;

	if (extent->length == 0) {
		return;
	}
	if (listing->list == NULL) {
		printf("%#14" PRIx64 " %#14" PRIx64 "  %s", extent->offset,
		       extent->length, extent->data ? "data" : "zero");
		if (extent->data) {
			printf("  at %#" PRIx64 "%s", extent->file_offset,
			       extent->depth == 0 ? "" : " of parent ");
			if (extent->depth > 0) {
				printf("%u", extent->depth);
			}
		}
		printf("\n");
		return;
	}
	json_array_append_new(listing->list, json_pack(
		"{s:I, s:I, s:b, s:I, s:i}", "offset",
		(json_int_t)extent->offset, "length",
		(json_int_t)extent->length, "data", extent->data,
		"file offset", (json_int_t)extent->file_offset, "depth",
		(int)extent->depth));
}

static bool follows(const struct extent *a, const struct extent *b)
{
	return a->length > 0 && a->data == b->data && a->depth == b->depth &&
	       a->offset + a->length == b->offset &&
	       (!a->data || a->file_offset + a->length == b->file_offset);
}

int command_map(struct tool *tool)
{
	struct disk *disk = disk_open(tool, tool->arguments.files[0], false);
	struct listing listing = {};
	uint64_t offset = 0;
	int ret = 0;

	if (disk == NULL) {
		return TOOL_FAILED;
	}
	if (tool->arguments.json) {
		listing.list = json_array();
	}
	while (offset < disk->size && !stop_wanted()) {
		struct extent extent = {};

		ret = disk_map(disk, offset, disk->size - offset, &extent);
		if (ret != 0 || extent.length == 0) {
			tool_fail(disk->path, ret, "it cannot be mapped",
				  NULL);
			break;
		}
		if (follows(&listing.last, &extent)) {
			listing.last.length += extent.length;
		} else {
			show_extent(&listing);
			listing.last = extent;
		}
		offset += extent.length;
	}
	show_extent(&listing);
	if (listing.list != NULL) {
		json_dumpf(listing.list, stdout, JSON_INDENT(2));
		printf("\n");
		json_decref(listing.list);
	}
	disk_close(tool, disk);
	return ret != 0 ? TOOL_FAILED : TOOL_OK;
}

static bool show_entry(void *private_data, const struct vhdx_log_entry *entry)
{
	json_t *list = private_data;
	json_t *pieces = NULL;
	uint32_t i = 0;

	if (list == NULL) {
		printf("%#10" PRIx64 "  sequence %" PRIu64 ", %" PRIu32
		       " bytes, tail %#" PRIx32 ", file size %" PRIu64
		       " then %" PRIu64 "%s%s\n", entry->log_offset,
		       entry->sequence, entry->length, entry->tail,
		       entry->flushed_file_offset, entry->last_file_offset,
		       entry->active ? ", would be replayed" : "",
		       entry->current_guid ? "" : ", of an older log");
		for (i = 0; i < entry->piece_count; i++) {
			printf("            %s %#" PRIx64 " length %" PRIu64
			       "\n", entry->pieces[i].zero ? "zeros" : "page",
			       entry->pieces[i].file_offset,
			       entry->pieces[i].length);
		}
		return !stop_wanted();
	}
	pieces = json_array();
	for (i = 0; i < entry->piece_count; i++) {
		json_array_append_new(pieces, json_pack(
			"{s:b, s:I, s:I}", "zero", entry->pieces[i].zero,
			"file offset",
			(json_int_t)entry->pieces[i].file_offset, "length",
			(json_int_t)entry->pieces[i].length));
	}
	json_array_append_new(list, json_pack(
		"{s:I, s:I, s:I, s:I, s:b, s:b, s:o}", "log offset",
		(json_int_t)entry->log_offset, "sequence",
		(json_int_t)entry->sequence, "length",
		(json_int_t)entry->length, "tail", (json_int_t)entry->tail,
		"current", entry->current_guid, "active", entry->active,
		"pieces", pieces));
	return !stop_wanted();
}

int command_dump_log(struct tool *tool)
{
	const char *path = tool->arguments.files[0];
	struct store *store = NULL;
	json_t *list = NULL;
	struct stat st = {};
	int ret = 0;

	/* A pipe would be waited for. */
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) &&
	    !S_ISBLK(st.st_mode)) {
		return tool_fail(path, EINVAL, "it is neither a file nor a "
				 "block device", NULL);
	}
	ret = file_store_open(tool->mem_ctx, tool->ev, AT_FDCWD, path, 0,
			      &store);
	if (ret != 0) {
		return tool_fail(path, ret, "it cannot be opened", NULL);
	}
	if (tool->arguments.json) {
		list = json_array();
	}
	ret = vhdx_log_walk(store, show_entry, list);
	if (list != NULL) {
		json_dumpf(list, stdout, JSON_INDENT(2));
		printf("\n");
		json_decref(list);
	}
	talloc_free(store);
	return ret == 0 ? TOOL_OK
			: tool_fail(path, ret, "its log cannot be read",
				    NULL);
}
