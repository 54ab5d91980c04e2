/* hvrsctl disks: shared virtual disks ([MS-RSVD]) that are open. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cbt/cbt.h"
#include "hvrsctl.h"
#include "rsvd/fence.h"
#include "rsvd/record_file.h"
#include "rsvd/rsvd.h"
#include "store/store.h"
#include "util/cursor.h"
#include "vhdset/vhdset.h"

#define NAME "hvrs_rsvd_live.tdb"

static const char *const operation_names[] = {
	"resize", "snapshot", "optimize", "extract", "convert", "apply",
};

static const char *const type_names[] = {
	[SCSI_PR_NONE] = "none",
	[SCSI_PR_WRITE_EXCLUSIVE] = "write exclusive",
	[SCSI_PR_EXCLUSIVE] = "exclusive access",
	[SCSI_PR_WRITE_REGISTRANTS] = "write exclusive, registrants only",
	[SCSI_PR_EXCLUSIVE_REGISTRANTS] = "exclusive access, registrants only",
	[SCSI_PR_WRITE_ALL] = "write exclusive, all registrants",
	[SCSI_PR_EXCLUSIVE_ALL] = "exclusive access, all registrants",
};

struct look {
	json_t *disks;
	char *folder;		/* of the files that processes share */
	bool cluster;
	bool strange;		/* a record that is not understood */
};

static json_t *key_text(uint64_t key)
{
	return json_sprintf("0x%016" PRIx64, key);
}

static char *fence_path(const struct look *look, uint64_t device,
			uint64_t inode)
{
	return talloc_asprintf(NULL, "%s/%" PRIx64 "-%" PRIx64 ".fence",
			       look->folder, device, inode);
}

static void add_counters(json_t *out, const struct look *look,
			 const struct rsvd_record_open *open, uint64_t device,
			 uint64_t inode)
{
	struct rsvd_fence_counters n = {};
	char *path = fence_path(look, device, inode);

	if (path != NULL &&
	    rsvd_fence_look(path, open->slot, open->pid, &n) == 0) {
		json_object_update_new(out, json_pack(
			"{s:I, s:I, s:I, s:I, s:I}",
			"reads", (json_int_t)n.reads,
			"read bytes", (json_int_t)n.read_bytes,
			"writes", (json_int_t)n.writes,
			"written bytes", (json_int_t)n.write_bytes,
			"commands", (json_int_t)n.commands));
	}
	talloc_free(path);
}

static bool is_alive(const struct look *look,
		     const struct rsvd_record_open *open, uint64_t device,
		     uint64_t inode)
{
	char *path = NULL;
	bool held = false;

	if (look->cluster) {
		path = fence_path(look, device, inode);
		held = path != NULL && rsvd_fence_is_held_at(path, open->slot);
		talloc_free(path);
		return held;
	}
	return kill((pid_t)open->pid, 0) == 0 || errno == EPERM;
}

static json_t *open_to_json(const struct look *look,
			    const struct rsvd_record_open *open,
			    uint64_t device, uint64_t inode)
{
	char id[GUID_TEXT_SIZE] = "";
	bool alive = is_alive(look, open, device, inode);
	json_t *out = NULL;

	guid_format(&open->initiator, false, id);
	out = json_pack("{s:s, s:o, s:I, s:s, s:b}",
			"host", open->host, "initiator",
			open->has_initiator ? json_string(id) : json_null(),
			"process", (json_int_t)open->pid, "state",
			alive ? "open" : open->persistent ?
			"waits for its client" : "gone", "persistent",
			open->persistent);
	if (look->cluster) {
		json_object_set_new(out, "node", json_integer(open->vnn));
	}
	add_counters(out, look, open, device, inode);
	return out;
}

static json_t *registrations(const struct scsi_pr *pr)
{
	json_t *out = json_array();
	size_t i = 0;

	for (i = 0; i < pr->nexus_count; i++) {
		const struct scsi_nexus *nexus = &pr->nexuses[i];
		char id[GUID_TEXT_SIZE] = "";
		bool holds = pr->type >= SCSI_PR_WRITE_ALL ||
			(pr->type != SCSI_PR_NONE &&
			 guid_equal(&pr->holder, &nexus->id));

		if (nexus->key == 0) {
			continue;
		}
		guid_format(&nexus->id, false, id);
		json_array_append_new(out, json_pack(
			"{s:s, s:o, s:b, s:I}", "initiator", id, "key",
			key_text(nexus->key), "holds", holds, "attentions",
			(json_int_t)nexus->attention_count));
	}
	return out;
}

/* What the map of changes beside a set says; null where there is none. */
static json_t *tracking(const char *path)
{
	static const char *const states[] = {
		[CBT_OFF] = "off", [CBT_ON] = "on", [CBT_BROKEN] = "broken",
	};
	char *name = talloc_asprintf(NULL, "%s.changes", path);
	const struct cbt_header *h = NULL;
	struct store *store = NULL;
	struct cbt *cbt = NULL;
	json_t *out = NULL;
	int ret = name != NULL ? file_store_open(name, NULL, AT_FDCWD, name, 0,
						 &store) : -ENOMEM;

	if (ret == 0) {
		ret = cbt_open(name, store, NULL, false, &cbt, NULL);
	}
	if (ret == 0) {
		h = cbt_header_get(cbt);
		out = json_pack("{s:s, s:b, s:I}", "state", states[h->state],
				"started", h->own[0] != 0,
				"marks", (json_int_t)h->count);
	} else if (ret == -ENOENT) {
		out = json_null();
	} else {
		out = json_pack("{s:s, s:s}", "state", "not readable",
				"error", strerror(-ret));
	}
	talloc_free(name);
	return out;
}

/* Those of the catalogue; null for what is no VHD Set. */
static json_t *snapshots(const char *path)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	char *name = talloc_asprintf(frame, "%s" VHDSET_CATALOGUE_SUFFIX,
				     path);
	const struct vhdset_snapshot *list = NULL;
	struct vhdset_open how = {};
	struct store *store = NULL;
	struct vhdset *set = NULL;
	json_int_t points = 0;
	json_t *out = NULL;
	size_t count = 0;
	size_t i = 0;
	int ret = name != NULL ? file_store_open(frame, NULL, AT_FDCWD, path,
						 0, &store) : -ENOMEM;

	if (ret == 0) {
		/* There is none before the first snapshot. */
		(void)file_store_open(frame, NULL, AT_FDCWD, name, 0,
				      &how.catalogue);
		ret = vhdset_open(frame, store, &how, &set, NULL);
	}
	if (ret == 0) {
		ret = vhdset_snapshot_list(set, &list, &count);
	}
	for (i = 0; i < count; i++) {
		points += list[i].file[0] == '\0' ? 1 : 0;
	}
	out = ret == 0 ? json_pack("{s:I, s:I}", "count",
				   (json_int_t)count - points,
				   "reference points", points)
		       : json_null();
	talloc_free(frame);
	return out;
}

/* What goes on at present. */
static json_t *operations(const struct look *look, const struct rsvd_record *r)
{
	json_t *out = json_array();
	size_t i = 0;

	for (i = 0; i < r->progress_count; i++) {
		const struct rsvd_progress *p = &r->progress[i];
		const char *name = p->type == RSVD_PROGRESS_MERGE ? "merge" :
			p->type < sizeof(operation_names) /
				  sizeof(operation_names[0]) ?
			operation_names[p->type] : "unknown";

		if (p->over || (!look->cluster &&
				kill((pid_t)p->worker.pid, 0) != 0 &&
				errno == ESRCH)) {
			continue;
		}
		json_array_append_new(out, json_pack(
			"{s:s, s:I, s:I}", "operation", name, "done",
			(json_int_t)p->done, "of", (json_int_t)p->all));
	}
	return out;
}

static json_t *disk_to_json(const struct look *look,
			    const struct rsvd_record *r, uint64_t device,
			    uint64_t inode)
{
	json_t *opens = json_array();
	char id[GUID_TEXT_SIZE] = "";
	size_t i = 0;

	for (i = 0; i < r->open_count; i++) {
		json_array_append_new(opens, open_to_json(look, &r->opens[i],
							  device, inode));
	}
	guid_format(&r->disk_id, false, id);
	return json_pack("{s:s, s:s, s:I, s:s, s:I, s:b, s:o, s:o, s:o, s:o, "
			 "s:o}",
			 "path", r->path, "id", id,
			 "size", (json_int_t)r->disk_size,
			 "reservation", type_names[r->pr.type],
			 "generation", (json_int_t)r->pr.generation,
			 "kept over power loss", r->pr.persist,
			 "registrations", registrations(&r->pr),
			 "tracking", tracking(r->path),
			 "snapshots", snapshots(r->path),
			 "operations", operations(look, r),
			 "opens", opens);
}

static void add_record(struct look *look, uint64_t device, uint64_t inode,
		       const uint8_t *bytes, size_t length)
{
	struct rsvd_record *r = NULL;
	const char *why = NULL;
	bool open = false;
	size_t i = 0;
	int ret = rsvd_record_decode(NULL, bytes, length, &r, &why);

	if (ret != 0) {
		fprintf(stderr, "hvrsctl disks: a record is not understood: "
			"%s\n", why);
		look->strange = true;
		return;
	}
	/* What only dead processes had open is as good as closed. */
	for (i = 0; i < r->open_count && !open; i++) {
		open = r->opens[i].persistent ||
			is_alive(look, &r->opens[i], device, inode);
	}
	if (open) {
		json_array_append_new(look->disks,
				      disk_to_json(look, r, device, inode));
	}
	talloc_free(r);
}

static int each_record(struct tdb_context *tdb, TDB_DATA key, TDB_DATA value,
		       void *private_data)
{
	struct cursor c = {};
	uint64_t device = 0;
	uint64_t inode = 0;

	(void)tdb;
	cursor_init(&c, key.dptr, key.dsize);
	device = cursor_le64(&c);
	inode = cursor_le64(&c);
	add_record(private_data, device, inode, value.dptr, value.dsize);
	return 0;
}

static int look_database(struct look *look)
{
	struct tdb_context *tdb = NULL;
	char *folder = hvrsctl_testparm("lock directory");
	bool missing = false;
	int status = HVRSCTL_OK;

	if (folder == NULL) {
		return HVRSCTL_FAILED;
	}
	look->folder = talloc_asprintf(NULL, "%s/hvrs", folder);
	free(folder);
	tdb = hvrsctl_database(HVRSCTL_LOCK, NAME, O_RDONLY, &missing);
	if (tdb == NULL) {
		return missing ? HVRSCTL_OK : HVRSCTL_FAILED;
	}
	if (tdb_traverse_read(tdb, each_record, look) < 0) {
		fprintf(stderr, "hvrsctl disks: %s cannot be read: %s\n", NAME,
			tdb_errorstr(tdb));
		status = HVRSCTL_FAILED;
	}
	tdb_close(tdb);
	return status;
}

/* ---- on a cluster: records are files ------------------------------------------------ */

static void look_file(struct look *look, const char *name)
{
	struct rsvd_record_file *file = NULL;
	TALLOC_CTX *frame = talloc_new(NULL);
	char *path = talloc_asprintf(frame, "%s/%s", look->folder, name);
	uint8_t *bytes = NULL;
	uint8_t *copy = NULL;
	uint64_t device = 0;
	uint64_t inode = 0;
	size_t length = 0;
	int end = 0;
	int ret = -ENOMEM;

	if (sscanf(name, "%" SCNx64 "-%" SCNx64 ".record%n", &device, &inode,
		   &end) != 2 || end == 0 || name[end] != '\0') {
		talloc_free(frame);
		return;
	}
	if (path != NULL) {
		ret = rsvd_record_file_lock(frame, path, 3000, &file, &bytes,
					    &length);
	}
	if (ret != 0) {
		fprintf(stderr, "hvrsctl disks: %s: %s\n", path,
			strerror(-ret));
		look->strange = true;
	} else if (bytes != NULL) {
		/* Nobody waits for what comes now. */
		copy = talloc_steal(frame, bytes);
		talloc_free(file);
		add_record(look, device, inode, copy, length);
	}
	talloc_free(frame);
}

static int look_folder(struct look *look)
{
	char *store = hvrsctl_testparm("hvrs:handle store");
	struct dirent *entry = NULL;
	DIR *folder = NULL;

	look->folder = talloc_asprintf(NULL, "%s/disks",
				       store != NULL ? store : "");
	free(store);
	folder = look->folder != NULL ? opendir(look->folder) : NULL;
	if (folder == NULL) {
		/* Nobody had one yet. */
		return errno == ENOENT ? HVRSCTL_OK : HVRSCTL_FAILED;
	}
	while ((entry = readdir(folder)) != NULL) {
		look_file(look, entry->d_name);
	}
	closedir(folder);
	return HVRSCTL_OK;
}

/* ---- for people -------------------------------------------------------------------- */

static const char *text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text != NULL ? text : "-";
}

static json_int_t number_of(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

static const char *node_of(const json_t *open, char *text, size_t size)
{
	text[0] = '\0';
	if (json_object_get(open, "node") != NULL) {
		snprintf(text, size, " of node %lld",
			 (long long)number_of(open, "node"));
	}
	return text;
}

static void print_disk(const json_t *disk)
{
	const json_t *row = NULL;
	char node[32];
	size_t i = 0;

	printf("%s\n  %lld MiB, reservation: %s, generation %lld%s\n",
	       text_of(disk, "path"),
	       (long long)number_of(disk, "size") / (1 << 20),
	       text_of(disk, "reservation"),
	       (long long)number_of(disk, "generation"),
	       json_is_true(json_object_get(disk, "kept over power loss")) ?
	       ", kept (APTPL)" : "");
	row = json_object_get(disk, "snapshots");
	if (json_is_object(row)) {
		printf("  snapshots: %lld, reference points: %lld\n",
		       (long long)number_of(row, "count"),
		       (long long)number_of(row, "reference points"));
	}
	json_array_foreach(json_object_get(disk, "operations"), i, row) {
		printf("  %s: %lld of %lld\n", text_of(row, "operation"),
		       (long long)number_of(row, "done"),
		       (long long)number_of(row, "of"));
	}
	row = json_object_get(disk, "tracking");
	if (json_is_object(row)) {
		printf("  changes: %s, %lld marks\n", text_of(row, "state"),
		       (long long)number_of(row, "marks"));
	}
	json_array_foreach(json_object_get(disk, "opens"), i, row) {
		printf("  open by %s, initiator %s, process %lld%s: %s\n"
		       "    %lld reads (%lld KiB), %lld writes (%lld KiB)\n",
		       text_of(row, "host"), text_of(row, "initiator"),
		       (long long)number_of(row, "process"),
		       node_of(row, node, sizeof(node)),
		       text_of(row, "state"),
		       (long long)number_of(row, "reads"),
		       (long long)number_of(row, "read bytes") / 1024,
		       (long long)number_of(row, "writes"),
		       (long long)number_of(row, "written bytes") / 1024);
	}
	json_array_foreach(json_object_get(disk, "registrations"), i, row) {
		printf("  registered: %s, key %s%s\n",
		       text_of(row, "initiator"), text_of(row, "key"),
		       json_is_true(json_object_get(row, "holds")) ?
		       ", holds the reservation" : "");
	}
}

static void print_text(const json_t *disks)
{
	const json_t *disk = NULL;
	size_t i = 0;

	if (json_array_size(disks) == 0) {
		printf("no shared disk is open\n");
	}
	json_array_foreach(disks, i, disk) {
		print_disk(disk);
	}
}

int command_disks(int argc, char **argv)
{
	struct look look = {};
	bool json = argc == 1 && strcmp(argv[0], "--json") == 0;
	int status = HVRSCTL_OK;

	if (argc > 1 || (argc == 1 && !json)) {
		fprintf(stderr, "hvrsctl disks: unknown argument \"%s\"; "
			"--json is all it takes\n", argv[argc - 1]);
		return HVRSCTL_USAGE;
	}
	look.disks = json_array();
	look.cluster = hvrsctl_is_cluster();
	status = look.cluster ? look_folder(&look) : look_database(&look);
	if (status == HVRSCTL_OK && look.strange) {
		status = HVRSCTL_FAILED;
	}
	if (json) {
		json_dumpf(look.disks, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_text(look.disks);
	}
	json_decref(look.disks);
	talloc_free(look.folder);
	return status;
}
