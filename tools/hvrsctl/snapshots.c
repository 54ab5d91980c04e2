/* hvrsctl snapshots: the shadow copy sets of remote VSS ([MS-FSRVP]). */
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hvrsctl.h"
#include "snapset/snapset.h"

#define DATABASE "hvrs_fsrvp.tdb"

/* 100 ns from 1601 to 1970. */
#define EPOCH UINT64_C(116444736000000000)

static void format_time(uint64_t filetime, char *out, size_t size)
{
	time_t at = (time_t)((filetime - EPOCH) / 10000000);
	struct tm tm = {};

	if (filetime < EPOCH || localtime_r(&at, &tm) == NULL ||
	    strftime(out, size, "%Y-%m-%d %H:%M:%S", &tm) == 0) {
		snprintf(out, size, "unknown");
	}
}

static json_t *copy_to_json(const struct snapset_copy *copy)
{
	const struct snapset_mapping *mapping = NULL;
	json_t *shares = json_array();
	char id[GUID_TEXT_SIZE] = "";
	char when[32] = "";

	for (mapping = copy->mappings; mapping != NULL;
	     mapping = mapping->next) {
		json_array_append_new(shares, json_pack(
			"{s:s, s:s, s:b}", "share", mapping->share,
			"exposed as", mapping->exposed, "exposed",
			mapping->is_exposed));
	}
	guid_format(&copy->id, false, id);
	format_time(copy->created, when, sizeof(when));
	return json_pack("{s:s, s:s, s:s, s:s, s:o}", "id", id, "taken", when,
			 "provider", copy->provider, "path", copy->snapshot,
			 "shares", shares);
}

static json_t *to_json(const struct snapset_state *state)
{
	const struct snapset_set *set = NULL;
	const struct snapset_copy *copy = NULL;
	json_t *sets = json_array();

	for (set = state->sets; set != NULL; set = set->next) {
		json_t *copies = json_array();
		char id[GUID_TEXT_SIZE] = "";

		for (copy = set->copies; copy != NULL; copy = copy->next) {
			json_array_append_new(copies, copy_to_json(copy));
		}
		guid_format(&set->id, false, id);
		json_array_append_new(sets, json_pack(
			"{s:s, s:s, s:I, s:s, s:o}", "id", id, "status",
			snapset_status_text(set->status), "context",
			(json_int_t)set->context, "owner", set->owner,
			"copies", copies));
	}
	return json_pack("{s:I, s:o}", "deadline",
			 (json_int_t)(state->deadline / 1000), "sets", sets);
}

static void print_text(const struct snapset_state *state)
{
	const struct snapset_set *set = NULL;
	const struct snapset_copy *copy = NULL;
	const struct snapset_mapping *mapping = NULL;
	uint64_t now = (uint64_t)time(NULL) * 1000;

	if (state->sets == NULL) {
		printf("no shadow copy sets\n");
	}
	for (set = state->sets; set != NULL; set = set->next) {
		char id[GUID_BRACED_SIZE] = "";

		guid_format(&set->id, true, id);
		printf("set %s  %s%s, by %s\n", id,
		       snapset_status_text(set->status),
		       (set->context & SNAPSET_PERSISTENT) != 0
			       ? ", survives a reboot" : "", set->owner);
		for (copy = set->copies; copy != NULL; copy = copy->next) {
			char when[32] = "";

			format_time(copy->created, when, sizeof(when));
			printf("  %s  %s  %s\n", when, copy->provider,
			       copy->snapshot[0] != '\0' ? copy->snapshot
							 : "(not taken yet)");
			for (mapping = copy->mappings; mapping != NULL;
			     mapping = mapping->next) {
				printf("    share %s -> %s%s\n",
				       mapping->share, mapping->exposed,
				       mapping->is_exposed
					       ? "" : " (not exposed)");
			}
		}
	}
	if (state->deadline != 0) {
		printf("the set that is being made is dropped in %" PRId64
		       " s unless its client goes on\n",
		       state->deadline > now
			       ? (int64_t)((state->deadline - now) / 1000)
			       : 0);
	}
}

static const TDB_DATA state_key = {
	.dptr = (unsigned char *)"snapsets", .dsize = sizeof("snapsets"),
};

static int take_state(struct tdb_context *tdb, TDB_DATA key, TDB_DATA value,
		      void *private_data)
{
	TDB_DATA *out = private_data;

	(void)tdb;
	if (key.dsize == state_key.dsize && out->dptr == NULL &&
	    memcmp(key.dptr, state_key.dptr, key.dsize) == 0) {
		out->dptr = malloc(value.dsize + 1);
		if (out->dptr != NULL) {
			memcpy(out->dptr, value.dptr, value.dsize);
			out->dsize = value.dsize;
		}
	}
	return 0;
}

/* What is stored, from malloc(3); none where nothing is. */
static int fetch_state(TDB_DATA *_value)
{
	struct tdb_context *tdb = NULL;
	bool missing = false;

	if (hvrsctl_is_cluster()) {
		return hvrsctl_cluster_each(DATABASE, true, take_state,
					    _value);
	}
	tdb = hvrsctl_database(HVRSCTL_STATE, DATABASE, O_RDONLY, &missing);
	if (tdb != NULL) {
		*_value = tdb_fetch(tdb, state_key);
		tdb_close(tdb);
	}
	return tdb != NULL || missing ? HVRSCTL_OK : HVRSCTL_FAILED;
}

int command_snapshots(int argc, char **argv)
{
	TALLOC_CTX *mem_ctx = NULL;
	struct snapset_state *state = NULL;
	TDB_DATA value = {};
	const char *why = "there is no memory";
	bool json = argc == 1 && strcmp(argv[0], "--json") == 0;
	int ret = 0;

	if (argc > 0 && !json) {
		fprintf(stderr, "hvrsctl snapshots: unknown argument \"%s\"; "
			"--json is all it takes\n", argv[argc - 1]);
		return HVRSCTL_USAGE;
	}
	mem_ctx = talloc_new(NULL);
	if (fetch_state(&value) != HVRSCTL_OK) {
		talloc_free(mem_ctx);
		return HVRSCTL_FAILED;
	}
	if (value.dptr == NULL) {
		state = snapset_state_new(mem_ctx);
		ret = state == NULL ? -1 : 0;
	} else {
		ret = snapset_decode(mem_ctx, value.dptr, value.dsize, &state,
				     &why);
		free(value.dptr);
	}
	if (ret != 0) {
		fprintf(stderr, "hvrsctl: the state in " DATABASE " is not "
			"understood: %s\n", why);
		talloc_free(mem_ctx);
		return HVRSCTL_FAILED;
	}
	if (json) {
		json_t *root = to_json(state);

		json_dumpf(root, stdout, JSON_INDENT(2));
		printf("\n");
		json_decref(root);
	} else {
		print_text(state);
	}
	talloc_free(mem_ctx);
	return HVRSCTL_OK;
}
