/* snapshot: those of a VHD Set that nobody has open. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

static char *beside(TALLOC_CTX *mem_ctx, const char *set, const char *name)
{
	char *copy = talloc_strdup(mem_ctx, set);

	return talloc_asprintf(mem_ctx, "%s/%s", dirname(copy), name);
}

/* A child of a file of the set, with a name of its own and made durable. */
static int make_child(struct tool *tool, const char *set, const char *parent,
		      char name[VHDSET_NAME_MAX])
{
	struct tool child = *tool;
	int ret = vhdset_leaf_name(set, name);

	if (ret != 0) {
		return tool_fail(set, ret, "no name for a new file", NULL);
	}
	child.arguments = (struct arguments) {
		.parent = beside(tool->mem_ctx, set, parent),
		.format = "vhdx",
		.files = { beside(tool->mem_ctx, set, name) },
		.count = 1, .quiet = 1,
	};
	return command_create(&child);
}

/* Whether the leaf is at rest; what a crash left in its log is replayed. */
static int rest(struct tool *tool, const struct vhdset *set, const char *path)
{
	struct vhdset_info info = {};
	struct disk *leaf = NULL;

	vhdset_info_get(set, &info);
	leaf = disk_open_alone(tool, beside(tool->mem_ctx, path, info.leaf),
			       true);
	return leaf != NULL ? disk_close(tool, leaf) : TOOL_FAILED;
}

static int list_all(const struct vhdset *set, const char *path)
{
	const struct vhdset_snapshot *list = NULL;
	size_t count = 0;
	size_t i = 0;
	int ret = vhdset_snapshot_list(set, &list, &count);

	if (ret != 0) {
		return tool_fail(path, ret, "its catalogue of snapshots",
				 NULL);
	}
	for (i = 0; i < count; i++) {
		char id[GUID_TEXT_SIZE] = "";
		char when[32] = "";
		time_t at = (time_t)(list[i].created_ms / 1000);
		struct tm tm = {};

		guid_format(&list[i].id, false, id);
		if (localtime_r(&at, &tm) != NULL) {
			strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S",
				 &tm);
		}
		printf("%s  %s  %s%s\n", id, when,
		       list[i].file[0] != '\0' ? list[i].file
					       : "reference point, no data",
		       (list[i].flags & VHDSET_TRACKED) != 0 ? ", tracked"
							     : "");
	}
	return TOOL_OK;
}

static int create(struct tool *tool, struct vhdset *set, const char *path)
{
	struct vhdset_snapshot wanted = { .type = VHDSET_VM };
	struct vhdset_info info = {};
	struct timespec now = {};
	char leaf[VHDSET_NAME_MAX] = "";
	char id[GUID_TEXT_SIZE] = "";
	int ret = 0;

	vhdset_info_get(set, &info);
	ret = make_child(tool, path, info.leaf, leaf);
	if (ret != TOOL_OK) {
		return ret;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	wanted.created_ms = (uint64_t)now.tv_sec * 1000;
	ret = guid_random(&wanted.id);
	if (ret == 0) {
		ret = vhdset_snapshot_add(set, &wanted, leaf);
	}
	if (ret != 0) {
		unlink(beside(tool->mem_ctx, path, leaf));
		return tool_fail(path, ret, "no snapshot can be made", NULL);
	}
	guid_format(&wanted.id, false, id);
	printf("%s\n", id);
	return TOOL_OK;
}

static int apply(struct tool *tool, struct vhdset *set, const char *path,
		 const struct vhdset_snapshot *snapshot)
{
	struct vhdset_info info = {};
	struct guid id = snapshot->id;
	char leaf[VHDSET_NAME_MAX] = "";
	char old[VHDSET_NAME_MAX] = "";
	int ret = 0;

	if (snapshot->file[0] == '\0') {
		return tool_fail(path, EINVAL, "a reference point has no data "
				 "to go back to", NULL);
	}
	vhdset_info_get(set, &info);
	snprintf(old, sizeof(old), "%s", info.leaf);
	ret = make_child(tool, path, snapshot->file, leaf);
	if (ret != TOOL_OK) {
		return ret;
	}
	ret = vhdset_snapshot_apply(set, &id, leaf);
	if (ret != 0) {
		unlink(beside(tool->mem_ctx, path, leaf));
		return tool_fail(path, ret, "it cannot go back", NULL);
	}
	/* What was written since the last snapshot is given up. */
	if (!vhdset_file_needed(set, old)) {
		unlink(beside(tool->mem_ctx, path, old));
	}
	return TOOL_OK;
}

static int export(struct tool *tool, const char *path,
		  const struct vhdset_snapshot *snapshot, const char *target)
{
	struct tool other = *tool;

	if (snapshot->file[0] == '\0') {
		return tool_fail(path, EINVAL, "a reference point has no data",
				 NULL);
	}
	other.arguments.files[0] = beside(tool->mem_ctx, path,
					  snapshot->file);
	other.arguments.files[1] = target;
	other.arguments.count = 2;
	return command_convert(&other);
}

/*
 * For the server, which merges or removes what is noted when it opens the set
 * next.  Stable before the snapshot goes.
 */
static int note(struct tool *tool, const char *path,
		const struct vhdset_snapshot *snapshot)
{
	char *notes = talloc_asprintf(tool->mem_ctx, "%s.unfinished", path);
	char *line = talloc_asprintf(tool->mem_ctx, "%s\n", snapshot->file);
	struct stat st = {};
	bool is_new = false;
	int fd = -1;
	int ret = 0;

	if (snapshot->file[0] == '\0') {
		return TOOL_OK;
	}
	if (notes == NULL || line == NULL || stat(path, &st) != 0) {
		return tool_fail(path, errno, "nothing can be noted", NULL);
	}
	is_new = access(notes, F_OK) != 0;
	fd = open(notes, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC |
		  O_NOFOLLOW, st.st_mode & 0777);
	if (fd == -1 || (is_new && geteuid() == 0 &&
			 fchown(fd, st.st_uid, st.st_gid) != 0) ||
	    write(fd, line, strlen(line)) != (ssize_t)strlen(line) ||
	    fsync(fd) != 0) {
		ret = tool_fail(notes, errno, "it cannot be written", NULL);
	}
	if (fd != -1) {
		close(fd);
	}
	return ret;
}

/* The snapshot is part of the set until it is removed. */
static int delete(struct tool *tool, struct vhdset *set, const char *path,
		  const struct vhdset_snapshot *snapshot)
{
	struct guid id = snapshot->id;
	int ret = note(tool, path, snapshot);

	if (ret != TOOL_OK) {
		return ret;
	}
	ret = vhdset_snapshot_remove(set, &id, false);
	return ret == 0 ? TOOL_OK : tool_fail(path, ret, "the snapshot cannot "
					      "be deleted", NULL);
}

static int act(struct tool *tool, const char *action, const char *path,
	       const char *id_text, const char *target)
{
	bool looks = strcmp(action, "list") == 0 ||
		strcmp(action, "export") == 0;
	struct vhdset *set = set_open(tool, tool->mem_ctx, path, !looks);
	const struct vhdset_snapshot *snapshot = NULL;
	struct guid id = {};
	int ret = 0;

	if (set == NULL) {
		return TOOL_FAILED;
	}
	if (strcmp(action, "list") == 0) {
		return list_all(set, path);
	}
	if (!looks && rest(tool, set, path) != TOOL_OK) {
		return TOOL_FAILED;
	}
	if (strcmp(action, "create") == 0) {
		return create(tool, set, path);
	}
	if (id_text == NULL ||
	    guid_parse(id_text, strlen(id_text), &id) != 0) {
		fprintf(stderr, "hvrs-vhd: snapshot %s wants the id of a "
			"snapshot, as \"snapshot list\" shows it\n", action);
		return TOOL_USAGE;
	}
	ret = vhdset_snapshot_find(set, &id, &snapshot);
	if (ret != 0) {
		return tool_fail(path, ret, "it has no such snapshot", NULL);
	}
	if (strcmp(action, "apply") == 0) {
		return apply(tool, set, path, snapshot);
	}
	if (strcmp(action, "export") == 0 && target != NULL) {
		return export(tool, path, snapshot, target);
	}
	if (strcmp(action, "delete") == 0) {
		return delete(tool, set, path, snapshot);
	}
	fprintf(stderr, "hvrs-vhd: snapshot knows list, create, apply, delete "
		"and export\n");
	return TOOL_USAGE;
}

int command_snapshot(struct tool *tool)
{
	const struct arguments *arguments = &tool->arguments;
	const char *path = arguments->files[1];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int ret = TOOL_OK;

	if (fd == -1) {
		return tool_fail(path, errno, "it cannot be opened", NULL);
	}
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		ret = tool_fail(path, errno, "another hvrs-vhd works on it",
				NULL);
	} else {
		ret = act(tool, arguments->files[0], path,
			  arguments->files[2], arguments->files[3]);
	}
	close(fd);
	return ret;
}
