/* info: what a disk is. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "tool.h"

static void add_guid(json_t *object, const char *name, const struct guid *id)
{
	char text[GUID_TEXT_SIZE] = "";

	guid_format(id, false, text);
	json_object_set_new(object, name, json_string(text));
}

static void add_size(json_t *object, const char *name, uint64_t size)
{
	json_object_set_new(object, name, json_integer((json_int_t)size));
}

static void describe_vhdx(json_t *object, struct disk *disk)
{
	const struct vhdx_locator_pair *pairs = NULL;
	struct vhdx_info info = {};
	size_t count = 0;
	size_t i = 0;

	vhdx_info_get(disk->vhdx, &info);
	json_object_set_new(object, "type",
			    json_string(type_text(info.type)));
	add_size(object, "file size", info.file_size);
	add_size(object, "block size", info.block_size);
	add_size(object, "logical sector", info.logical_sector);
	add_size(object, "physical sector", info.physical_sector);
	add_size(object, "log size", info.log_length);
	add_guid(object, "disk id", &info.disk_id);
	add_guid(object, "data write id", &info.data_write_guid);
	json_object_set_new(object, "creator", json_string(info.creator));
	json_object_set_new(object, "log was dirty",
			    json_boolean(info.log_was_replayed));
	if (vhdx_locator_get(disk->vhdx, &pairs, &count) == 0) {
		json_t *parent = json_object();

		for (i = 0; i < count; i++) {
			json_object_set_new(parent, pairs[i].key,
					    json_string(pairs[i].value));
		}
		json_object_set_new(object, "parent", parent);
	}
}

static void describe_vhd(json_t *object, struct disk *disk)
{
	static const char *const types[] = { "unknown", "unknown", "fixed",
					     "dynamic", "differencing" };
	struct vhd_info info = {};

	vhd_info_get(disk->vhd, &info);
	json_object_set_new(object, "type", json_string(
		types[info.type <= 4 ? info.type : 0]));
	add_size(object, "file size", info.file_size);
	add_size(object, "block size", info.block_size);
	add_guid(object, "disk id", &info.id);
	json_object_set_new(object, "creator", json_string(info.creator));
	json_object_set_new(object, "footer was damaged",
			    json_boolean(info.footer_was_copied));
	if (info.has_parent) {
		add_guid(object, "parent id", &info.parent_id);
	}
}

static void describe_set(json_t *object, struct disk *disk)
{
	struct vhdset_info info = {};
	const struct vhdset_snapshot *list = NULL;
	size_t count = 0;

	vhdset_info_get(disk->set, &info);
	json_object_set_new(object, "leaf", json_string(info.leaf));
	json_object_set_new(object, "holds what is unknown",
			    json_boolean(info.foreign));
	if (vhdset_snapshot_list(disk->set, &list, &count) == 0) {
		add_size(object, "snapshots", count);
	}
}

static void print_object(json_t *object, const char *indent)
{
	const char *key = NULL;
	json_t *value = NULL;

	json_object_foreach(object, key, value) {
		char text[32] = "";

		printf("%s%-18s ", indent, key);
		if (json_is_object(value)) {
			printf("\n");
			print_object(value, "  ");
		} else if (json_is_integer(value)) {
			printf("%s\n", size_text(
				(uint64_t)json_integer_value(value), text));
		} else if (json_is_boolean(value)) {
			printf("%s\n", json_is_true(value) ? "yes" : "no");
		} else {
			printf("%s\n", json_string_value(value));
		}
	}
}

int command_info(struct tool *tool)
{
	struct disk *disk = disk_open_alone(
		tool, tool->arguments.files[0], false);
	json_t *object = NULL;

	if (disk == NULL) {
		return TOOL_FAILED;
	}
	object = json_object();
	json_object_set_new(object, "file", json_string(disk->path));
	json_object_set_new(object, "format",
			    json_string(format_text(disk->format)));
	add_size(object, "size", disk->size);
	if (disk->set != NULL) {
		describe_set(object, disk);
	}
	if (disk->vhdx != NULL) {
		describe_vhdx(object, disk);
	} else if (disk->vhd != NULL) {
		describe_vhd(object, disk);
	}
	if (tool->arguments.json) {
		json_dumpf(object, stdout, JSON_INDENT(2));
		printf("\n");
	} else {
		/* A count is no size. */
		json_t *count = json_object_get(object, "snapshots");

		if (count != NULL) {
			char text[16] = "";

			snprintf(text, sizeof(text), "%d",
				 (int)json_integer_value(count));
			json_object_set_new(object, "snapshots",
					    json_string(text));
		}
		print_object(object, "");
	}
	json_decref(object);
	return disk_close(tool, disk);
}
