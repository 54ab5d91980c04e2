/*
 * hvrsctl handles: the persistent and resilient handles of this server, or of
 * all nodes of a cluster, read from their logs, and the way to end one.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "handle/handle.h"
#include "hvrsctl.h"
#include "util/cursor.h"

#define CLOSE_WAIT_S 12

/* ---- the log ---------------------------------------------------------------- */

static char *store_directory(TALLOC_CTX *mem_ctx)
{
	char *line = hvrsctl_testparm("hvrs:handle store");
	char *path = NULL;

	if (line != NULL && line[0] == '/') {
		path = talloc_strdup(mem_ctx, line);
		free(line);
		return path;
	}
	free(line);
	line = hvrsctl_testparm("state directory");
	if (line != NULL) {
		path = talloc_asprintf(mem_ctx, "%s/hvrs", line);
	}
	free(line);
	return path;
}

/* 0 with *_log NULL where no handle was ever stored there. */
static int log_read(TALLOC_CTX *mem_ctx, const char *path, uint8_t **_log,
		    size_t *_length)
{
	struct stat st = {};
	uint8_t *log = NULL;
	ssize_t done = 0;
	int fd = open(path, O_RDONLY);

	*_log = NULL;
	*_length = 0;
	if (fd == -1) {
		if (errno == ENOENT) {
			return 0;
		}
		fprintf(stderr, "hvrsctl: %s cannot be read: %s%s\n", path,
			strerror(errno), errno == EACCES ?
			"; run hvrsctl as root" : "");
		return -1;
	}
	if (fstat(fd, &st) == 0) {
		log = talloc_array(mem_ctx, uint8_t, (size_t)st.st_size + 1);
		done = log == NULL ? -1 : read(fd, log, (size_t)st.st_size);
	}
	close(fd);
	if (done < 0) {
		fprintf(stderr, "hvrsctl: %s cannot be read\n", path);
		return -1;
	}
	*_log = log;
	*_length = (size_t)done;
	return 0;
}

/* What the logs say: one of each handle, the newest. */
struct row {
	uint64_t id;
	uint32_t revision;
	int node;		/* that has it open, or had; -1: no cluster */
	bool ended;
	struct handle_record record;
};

struct listing {
	struct row *rows;	/* what they point to is its child */
	size_t count;
	bool failed;
};

static void listing_add(struct listing *listing, const struct row *row)
{
	size_t i = 0;

	for (i = 0; row->node != -1 && i < listing->count; i++) {
		if (listing->rows[i].id != row->id) {
			continue;
		}
		if ((int32_t)(row->revision -
			      listing->rows[i].revision) >= 0) {
			listing->rows[i] = *row;
		}
		return;
	}
	if (listing->count == talloc_array_length(listing->rows)) {
		struct row *grown = talloc_realloc(
			NULL, listing->rows, struct row,
			listing->count * 2 + 64);

		if (grown == NULL) {
			fprintf(stderr, "hvrsctl: no memory\n");
			listing->failed = true;
			return;
		}
		listing->rows = grown;
	}
	listing->rows[listing->count++] = *row;
}

static void listing_put(struct listing *listing, uint64_t id,
			struct handle_bytes payload, bool cluster)
{
	size_t head = cluster ? HANDLE_OWNER_SIZE : 0;
	struct row row = { .id = id, .node = -1 };
	const char *why = "it is cut off";

	if (payload.length < head ||
	    handle_record_decode(payload.data + head, payload.length - head,
				 &row.record, &why) != 0) {
		fprintf(stderr, "hvrsctl: handle %08" PRIx64 " is not "
			"understood: %s\n", id, why);
		listing->failed = true;
		return;
	}
	if (cluster) {
		struct cursor c = {};

		cursor_init(&c, payload.data, head);
		cursor_skip(&c, HANDLE_OWNER_NODE);
		row.node = (int)cursor_le32(&c);
	}
	row.revision = row.record.revision;
	listing_add(listing, &row);
}

static void listing_log(TALLOC_CTX *mem_ctx, struct listing *listing,
			const char *path, bool cluster)
{
	struct handle_replay *replay = NULL;
	struct handle_bytes payload = {};
	struct handle_frame frame = {};
	uint64_t id = 0;
	uint8_t *log = NULL;
	size_t length = 0;
	size_t i = 0;

	if (log_read(mem_ctx, path, &log, &length) != 0) {
		listing->failed = true;
		return;
	}
	if (log == NULL) {
		return;
	}
	if (handle_log_header_decode(log, length, &id) != 0 ||
	    handle_replay(mem_ctx, log, length, &replay) != 0) {
		fprintf(stderr, "hvrsctl: %s is no log this version "
			"understands\n", path);
		listing->failed = true;
		return;
	}
	for (i = 0; handle_replay_get(replay, i, &id, &payload); i++) {
		listing_put(listing, id, payload, cluster);
	}
	for (i = 0; cluster && handle_replay_dropped(replay, i, &frame); i++) {
		struct row row = {
			.id = frame.id, .revision = frame.revision,
			.ended = true,
		};

		listing_add(listing, &row);
	}
}

static void listing_read(TALLOC_CTX *mem_ctx, struct listing *listing,
			 const char *directory)
{
	char *pattern = talloc_asprintf(mem_ctx, "%s/handles-*.log",
					directory);
	glob_t found = {};
	size_t kept = 0;
	size_t i = 0;

	if (!hvrsctl_is_cluster()) {
		listing_log(mem_ctx, listing, talloc_asprintf(
			mem_ctx, "%s/handles.log", directory), false);
		return;
	}
	if (glob(pattern, 0, NULL, &found) == 0) {
		for (i = 0; i < found.gl_pathc; i++) {
			listing_log(mem_ctx, listing, found.gl_pathv[i], true);
		}
		globfree(&found);
	} else if (access(directory, X_OK) != 0) {
		fprintf(stderr, "hvrsctl: %s cannot be read: %s\n", directory,
			strerror(errno));
		listing->failed = true;
	}
	for (i = 0; i < listing->count; i++) {
		if (!listing->rows[i].ended) {
			listing->rows[kept++] = listing->rows[i];
		}
	}
	listing->count = kept;
}

/* ---- showing ----------------------------------------------------------------- */

static uint64_t now_ms(void)
{
	struct timespec now = {};

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static const char *kind_of(const struct handle_record *r)
{
	return (r->flags & HANDLE_PERSISTENT) != 0 ? "persistent" :
		"resilient";
}

static const char *state_of(const struct handle_record *r)
{
	return r->waiting_since_ms != 0 ? "waiting" : "open";
}

static void lease_text(const struct handle_record *r, char out[16])
{
	static const char letters[] = "RHW";
	size_t used = 0;
	size_t i = 0;

	if ((r->flags & HANDLE_LEASE) == 0) {
		snprintf(out, 16, "%s", r->oplock != 0 ? "oplock" : "none");
		return;
	}
	for (i = 0; i < 3; i++) {
		if ((r->lease_state & 1U << i) != 0) {
			out[used++] = letters[i];
		}
	}
	out[used] = '\0';
	if (used == 0) {
		snprintf(out, 16, "broken");
	}
}

static json_t *text_json(struct handle_bytes text)
{
	json_t *out = json_stringn((const char *)text.data, text.length);

	return out != NULL ? out : json_string("(not UTF-8)");
}

static json_t *row_json(const struct row *row)
{
	const struct handle_record *r = &row->record;
	json_t *out = NULL;
	json_t *locks = json_array();
	char client[GUID_TEXT_SIZE] = "";
	char lease[16] = "";
	char id[17] = "";
	size_t i = 0;

	guid_format(&r->client_guid, false, client);
	lease_text(r, lease);
	snprintf(id, sizeof(id), "%08" PRIx64, r->id);
	for (i = 0; i < handle_lock_count(r); i++) {
		struct handle_lock lock = {};

		handle_lock_get(r, i, &lock);
		json_array_append_new(locks, json_pack(
			"{s:I, s:I, s:b}", "start", (json_int_t)lock.start,
			"length", (json_int_t)lock.length, "exclusive",
			lock.exclusive));
	}
	out = json_pack(
		"{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:s, s:s, s:I, s:I, s:o}",
		"id", id, "kind", kind_of(r), "state", state_of(r), "share",
		text_json(r->share), "path", text_json(r->path), "file",
		text_json(r->name), "user", text_json(r->user), "client",
		client, "lease", lease, "timeout ms",
		(json_int_t)r->timeout_ms, "left ms",
		(json_int_t)handle_time_left(r, now_ms()), "locks", locks);
	if (row->node != -1) {
		json_object_set_new(out, "node", json_integer(row->node));
	}
	return out;
}

static void row_print(const struct row *row)
{
	const struct handle_record *r = &row->record;
	char client[GUID_BRACED_SIZE] = "";
	char lease[16] = "";
	size_t i = 0;

	guid_format(&r->client_guid, true, client);
	lease_text(r, lease);
	printf("%08" PRIx64 "  %-10s  %s", r->id, kind_of(r), state_of(r));
	if (r->waiting_since_ms != 0) {
		printf(", %.1f s left",
		       (double)handle_time_left(r, now_ms()) / 1000.0);
	}
	if (row->node != -1) {
		printf(", node %d", row->node);
	}
	printf("\n  %.*s/%.*s (share %.*s)\n  client %s, user %.*s, lease "
	       "%s\n", (int)r->path.length, (const char *)r->path.data,
	       (int)r->name.length, (const char *)r->name.data,
	       (int)r->share.length, (const char *)r->share.data, client,
	       (int)r->user.length, (const char *)r->user.data, lease);
	for (i = 0; i < handle_lock_count(r); i++) {
		struct handle_lock lock = {};

		handle_lock_get(r, i, &lock);
		printf("  lock %" PRIu64 " + %" PRIu64 " %s\n", lock.start,
		       lock.length, lock.exclusive ? "exclusive" : "shared");
	}
}

static int show(const struct listing *listing, bool json)
{
	json_t *all = json_array();
	size_t i = 0;

	for (i = 0; i < listing->count; i++) {
		if (json) {
			json_array_append_new(all,
					      row_json(&listing->rows[i]));
		} else {
			row_print(&listing->rows[i]);
		}
	}
	if (json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		printf("\n");
	} else if (i == 0) {
		printf("no persistent or resilient handles\n");
	}
	json_decref(all);
	return listing->failed ? HVRSCTL_FAILED : HVRSCTL_OK;
}

/* ---- ending one ----------------------------------------------------------------- */

static bool is_live(const struct listing *listing, uint64_t wanted)
{
	size_t i = 0;

	for (i = 0; i < listing->count; i++) {
		if (listing->rows[i].id == wanted) {
			return true;
		}
	}
	return false;
}

/* smbd does it: a file with the name of the handle asks for it. */
static int close_handle(TALLOC_CTX *mem_ctx, const char *directory,
			const struct listing *listing, const char *text)
{
	char *folder = talloc_asprintf(mem_ctx, "%s/close", directory);
	char *path = NULL;
	char *end = NULL;
	uint64_t id = strtoull(text, &end, 16);
	int i = 0;
	int fd = -1;

	if (*text == '\0' || *end != '\0' || !is_live(listing, id)) {
		fprintf(stderr, "hvrsctl: there is no handle %s; \"hvrsctl "
			"handles\" lists them\n", text);
		return HVRSCTL_FAILED;
	}
	path = talloc_asprintf(mem_ctx, "%s/%08" PRIx64, folder, id);
	if (mkdir(folder, 0700) == 0 || errno == EEXIST) {
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	}
	if (fd == -1) {
		fprintf(stderr, "hvrsctl: %s: %s\n", path, strerror(errno));
		return HVRSCTL_FAILED;
	}
	close(fd);
	for (i = 0; i < CLOSE_WAIT_S * 10; i++) {
		if (access(path, F_OK) != 0) {
			printf("handle %08" PRIx64 " is closed\n", id);
			return HVRSCTL_OK;
		}
		usleep(100000);
	}
	printf("handle %08" PRIx64 " will be closed as soon as a client is "
	       "connected to smbd\n", id);
	return HVRSCTL_OK;
}

int command_handles(int argc, char **argv)
{
	TALLOC_CTX *mem_ctx = talloc_new(NULL);
	struct listing listing = {};
	char *directory = NULL;
	bool json = argc == 1 && strcmp(argv[0], "--json") == 0;
	bool ending = argc == 2 && strcmp(argv[0], "close") == 0;
	int ret = HVRSCTL_FAILED;

	if (argc > 0 && !json && !ending) {
		fprintf(stderr, "hvrsctl handles: --json or \"close ID\" is "
			"all it takes\n");
		talloc_free(mem_ctx);
		return HVRSCTL_USAGE;
	}
	directory = store_directory(mem_ctx);
	if (directory == NULL) {
		fprintf(stderr, "hvrsctl: testparm does not tell Samba's "
			"directories\n");
		talloc_free(mem_ctx);
		return ret;
	}
	listing_read(mem_ctx, &listing, directory);
	if (!listing.failed || listing.count > 0) {
		ret = ending ? close_handle(mem_ctx, directory, &listing,
					    argv[1]) : show(&listing, json);
	}
	talloc_free(listing.rows);
	talloc_free(mem_ctx);
	return ret;
}
