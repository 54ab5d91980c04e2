/* hvrsctl tokens: the live tokens of offload data transfer. */
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "hvrsctl.h"
#include "token/token.h"

struct listing {
	json_t *list;		/* NULL: as text */
	uint64_t now_ms;
	size_t count;
	size_t strange;		/* records of another version, or damaged */
};

static int list_one(struct tdb_context *tdb, TDB_DATA key, TDB_DATA value,
		    void *private_data)
{
	struct listing *listing = private_data;
	struct token_record record = {};
	int64_t left = 0;

	(void)tdb;
	(void)key;
	if (token_record_decode(value.dptr, value.dsize, &record) != 0) {
		listing->strange++;
		return 0;
	}
	left = (int64_t)(record.expires_ms - listing->now_ms) / 1000;
	if (record.expires_ms <= listing->now_ms) {
		return 0;
	}
	listing->count++;
	if (listing->list != NULL) {
		json_array_append_new(listing->list, json_pack(
			"{s:s, s:s, s:b, s:b, s:b, s:I, s:I, s:I, s:I}",
			"file", record.name, "user", record.user, "bearer",
			record.bearer, "pinned", record.pinned,
			"leased", record.leased, "offset",
			(json_int_t)record.offset, "length",
			(json_int_t)record.length, "seconds left",
			(json_int_t)left, "process",
			(json_int_t)record.process));
		return 0;
	}
	printf("%s\n    %" PRIu64 " KiB from %" PRIu64 ", %s, %s %s, %" PRId64
	       " s left, ", record.name,
	       (record.length + 1023) / 1024, record.offset,
	       record.leased ? "cloned when it must be" :
	       record.pinned ? "pinned" : "dies with a change",
	       record.bearer ? "for anybody, given to" : "for", record.user,
	       left);
	if (record.path[0] != '\0') {
		printf("held by %s\n", record.path);
	} else {
		printf("held by process %u\n", record.process);
	}
	return 0;
}

int command_tokens(int argc, char **argv)
{
	struct listing listing = {};
	struct timespec now = {};
	struct tdb_context *tdb = NULL;
	bool json = argc == 1 && strcmp(argv[0], "--json") == 0;
	bool missing = false;
	bool cluster = false;

	if (argc > 0 && !json) {
		fprintf(stderr, "hvrsctl tokens: unknown argument \"%s\"; "
			"--json is all it takes\n", argv[argc - 1]);
		return HVRSCTL_USAGE;
	}
	cluster = hvrsctl_is_cluster();
	clock_gettime(cluster ? CLOCK_REALTIME : CLOCK_BOOTTIME, &now);
	listing.now_ms = (uint64_t)now.tv_sec * 1000 +
		(uint64_t)now.tv_nsec / 1000000;
	if (json) {
		listing.list = json_array();
	}
	if (!cluster) {
		tdb = hvrsctl_database(HVRSCTL_LOCK, "hvrs_tokens.tdb",
				       O_RDONLY, &missing);
	}
	if (cluster ? hvrsctl_cluster_each("hvrs_tokens.tdb", false, list_one,
					   &listing) != HVRSCTL_OK
		    : tdb == NULL && !missing) {
		json_decref(listing.list);
		return HVRSCTL_FAILED;
	}
	if (tdb != NULL) {
		tdb_traverse_read(tdb, list_one, &listing);
		tdb_close(tdb);
	}
	if (json) {
		json_dumpf(listing.list, stdout, JSON_INDENT(2));
		printf("\n");
		json_decref(listing.list);
	} else if (listing.count == 0) {
		printf("no live tokens\n");
	}
	if (listing.strange > 0) {
		fprintf(stderr, "hvrsctl: %zu records are damaged or of "
			"another version of hvrs\n", listing.strange);
	}
	return HVRSCTL_OK;
}
