/*
 * hvrsctl handles: the persistent and resilient handles of this server, read
 * from their log, and the way to end one.
 */
#include <errno.h>
#include <fcntl.h>
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

/* 0 with *_log NULL where no handle was ever stored. */
static int log_read(TALLOC_CTX *mem_ctx, const char *directory,
		    uint8_t **_log, size_t *_length)
{
	char *path = talloc_asprintf(mem_ctx, "%s/handles.log", directory);
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

static json_t *record_json(const struct handle_record *r)
{
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
	return json_pack(
		"{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:s, s:s, s:I, s:I, s:o}",
		"id", id, "kind", kind_of(r), "state", state_of(r), "share",
		text_json(r->share), "path", text_json(r->path), "file",
		text_json(r->name), "user", text_json(r->user), "client",
		client, "lease", lease, "timeout ms",
		(json_int_t)r->timeout_ms, "left ms",
		(json_int_t)handle_time_left(r, now_ms()), "locks", locks);
}

static void record_print(const struct handle_record *r)
{
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

static int show(const struct handle_replay *replay, bool json)
{
	struct handle_bytes payload = {};
	json_t *all = json_array();
	int failed = 0;
	uint64_t id = 0;
	size_t i = 0;

	for (i = 0; replay != NULL &&
	     handle_replay_get(replay, i, &id, &payload); i++) {
		struct handle_record r = {};
		const char *why = NULL;

		if (handle_record_decode(payload.data, payload.length, &r,
					 &why) != 0) {
			fprintf(stderr, "hvrsctl: handle %08" PRIx64 " is not "
				"understood: %s\n", id, why);
			failed = 1;
			continue;
		}
		if (json) {
			json_array_append_new(all, record_json(&r));
		} else {
			record_print(&r);
		}
	}
	if (json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		printf("\n");
	} else if (i == 0) {
		printf("no persistent or resilient handles\n");
	}
	json_decref(all);
	return failed != 0 ? HVRSCTL_FAILED : HVRSCTL_OK;
}

/* ---- ending one ----------------------------------------------------------------- */

static bool is_live(const struct handle_replay *replay, uint64_t wanted)
{
	struct handle_bytes payload = {};
	uint64_t id = 0;
	size_t i = 0;

	while (replay != NULL && handle_replay_get(replay, i, &id, &payload)) {
		if (id == wanted) {
			return true;
		}
		i++;
	}
	return false;
}

/* smbd does it: a file with the name of the handle asks for it. */
static int close_handle(TALLOC_CTX *mem_ctx, const char *directory,
			const struct handle_replay *replay, const char *text)
{
	char *folder = talloc_asprintf(mem_ctx, "%s/close", directory);
	char *path = NULL;
	char *end = NULL;
	uint64_t id = strtoull(text, &end, 16);
	int i = 0;
	int fd = -1;

	if (*text == '\0' || *end != '\0' || !is_live(replay, id)) {
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
	struct handle_replay *replay = NULL;
	uint64_t generation = 0;
	char *directory = NULL;
	uint8_t *log = NULL;
	size_t length = 0;
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
	} else if (log_read(mem_ctx, directory, &log, &length) == 0) {
		if (log != NULL && handle_log_header_decode(
			log, length, &generation) != 0) {
			fprintf(stderr, "hvrsctl: %s/handles.log is no log "
				"this version understands\n", directory);
		} else if (log != NULL && handle_replay(
			mem_ctx, log, length, &replay) != 0) {
			fprintf(stderr, "hvrsctl: no memory\n");
		} else {
			ret = ending ? close_handle(mem_ctx, directory, replay,
						    argv[1]) :
				show(replay, json);
		}
	}
	talloc_free(mem_ctx);
	return ret;
}
