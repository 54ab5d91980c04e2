/* hvrsctl qos: the policies and flows of storage QoS ([MS-SQOS]). */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hvrsctl.h"
#include "sqos/sqos.h"

#define POLICIES "hvrs_sqos.tdb"
#define FLOWS	"hvrs_sqos_flows.tdb"

static int complain(const char *text, const char *what)
{
	fprintf(stderr, "hvrsctl qos: \"%s\": %s\n", text, what);
	return HVRSCTL_USAGE;
}

static TDB_DATA policy_key(struct guid *id)
{
	return (TDB_DATA) { .dptr = id->bytes, .dsize = sizeof(id->bytes) };
}

/* ---- what is told ----------------------------------------------------------------- */

static json_t *policy_to_json(const struct sqos_policy *policy)
{
	char id[GUID_TEXT_SIZE] = "";

	guid_format(&policy->id, false, id);
	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I}", "id", id, "name",
			 policy->name, "type",
			 policy->type == SQOS_DEDICATED ? "dedicated"
							: "aggregated",
			 "minimum", (json_int_t)policy->minimum, "maximum",
			 (json_int_t)policy->maximum, "bandwidth",
			 (json_int_t)policy->bandwidth);
}

static int add_policy(struct tdb_context *tdb, TDB_DATA key, TDB_DATA value,
		      void *private_data)
{
	struct sqos_policy policy = {};

	(void)tdb;
	(void)key;
	if (sqos_policy_decode(value.dptr, value.dsize, &policy) == 0) {
		json_array_append_new(private_data, policy_to_json(&policy));
	}
	return 0;
}

static int add_flow(struct tdb_context *tdb, TDB_DATA key, TDB_DATA value,
		    void *private_data)
{
	struct sqos_flow flow = {};
	char id[GUID_TEXT_SIZE] = "";
	char policy[GUID_TEXT_SIZE] = "";
	uint64_t now = (uint64_t)time(NULL) * 1000;
	uint64_t latency = 0;

	(void)tdb;
	(void)key;
	if (sqos_flow_decode(value.dptr, value.dsize, &flow) != 0 ||
	    now > flow.seen_ms + SQOS_FLOW_LIFE_MS) {
		return 0;
	}
	guid_format(&flow.id, false, id);
	guid_format(&flow.policy, false, policy);
	if (flow.total.ios > 0) {
		latency = flow.total.latency / flow.total.ios / 10;
	}
	json_array_append_new(private_data, json_pack(
		"{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I,"
		" s:I}", "id", id, "initiator", flow.name, "node", flow.node,
		"file", flow.file, "policy", policy, "owner", flow.owner,
		"iops", (json_int_t)flow.demand, "ios",
		(json_int_t)flow.total.ios, "kilobytes",
		(json_int_t)flow.total.kilobytes, "latency us",
		(json_int_t)latency, "limit", (json_int_t)flow.limit,
		"reservation", (json_int_t)flow.reservation,
		"seconds silent", (json_int_t)(
			now > flow.seen_ms ? (now - flow.seen_ms) / 1000
					   : 0)));
	return 0;
}

/* All of a database as an array; empty where there is none yet. */
static json_t *gather(enum hvrsctl_dir dir, const char *name,
		      tdb_traverse_func each)
{
	json_t *list = NULL;
	bool missing = false;
	struct tdb_context *tdb = NULL;

	if (hvrsctl_is_cluster()) {
		list = json_array();
		if (hvrsctl_cluster_each(name, dir == HVRSCTL_STATE, each,
					 list) != HVRSCTL_OK) {
			json_decref(list);
			return NULL;
		}
		return list;
	}
	tdb = hvrsctl_database(dir, name, O_RDONLY, &missing);
	if (tdb == NULL && !missing) {
		return NULL;
	}
	list = json_array();
	if (tdb != NULL) {
		tdb_traverse_read(tdb, each, list);
		tdb_close(tdb);
	}
	return list;
}

static long long number_of(json_t *object, const char *key)
{
	return (long long)json_integer_value(json_object_get(object, key));
}

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "";
}

static void print_policies(json_t *list)
{
	size_t i = 0;
	json_t *one = NULL;

	if (json_array_size(list) == 0) {
		printf("no policies\n");
	}
	json_array_foreach(list, i, one) {
		printf("%s  %-10s  min %lld  max %lld  %lld KiB/s  %s\n",
		       text_of(one, "id"), text_of(one, "type"),
		       number_of(one, "minimum"), number_of(one, "maximum"),
		       number_of(one, "bandwidth"), text_of(one, "name"));
	}
}

static const char *sort_key;

static int compare(const void *a, const void *b)
{
	json_t *one = *(json_t *const *)a;
	json_t *two = *(json_t *const *)b;
	json_t *value = json_object_get(one, sort_key);

	if (json_is_integer(value)) {
		long long x = number_of(one, sort_key);
		long long y = number_of(two, sort_key);

		return x < y ? 1 : x > y ? -1 : 0;
	}
	return strcmp(text_of(one, sort_key), text_of(two, sort_key));
}

static json_t *sorted(json_t *list, const char *key)
{
	size_t count = json_array_size(list);
	json_t **all = calloc(count + 1, sizeof(*all));
	json_t *result = json_array();
	size_t i = 0;

	if (all == NULL) {
		return json_incref(list);
	}
	for (i = 0; i < count; i++) {
		all[i] = json_array_get(list, i);
	}
	sort_key = key;
	qsort(all, count, sizeof(*all), compare);
	for (i = 0; i < count; i++) {
		json_array_append(result, all[i]);
	}
	free(all);
	return result;
}

static int flows(int argc, char **argv)
{
	json_t *list = NULL;
	json_t *result = NULL;
	json_t *one = NULL;
	const char *key = "iops";
	bool json = false;
	size_t i = 0;
	int at = 0;

	for (at = 0; at < argc; at++) {
		if (strcmp(argv[at], "--json") == 0) {
			json = true;
		} else if (strcmp(argv[at], "--sort") == 0 && at + 1 < argc) {
			key = argv[++at];
		} else {
			return complain(argv[at], "flows takes --json and "
					"--sort KEY");
		}
	}
	list = gather(HVRSCTL_LOCK, FLOWS, add_flow);
	if (list == NULL) {
		return HVRSCTL_FAILED;
	}
	result = sorted(list, key);
	if (json) {
		json_dumpf(result, stdout, JSON_INDENT(2));
		printf("\n");
	} else {
		if (json_array_size(result) == 0) {
			printf("no flows\n");
		}
		json_array_foreach(result, i, one) {
			printf("%6lld IOPS  %8lld us  %s on %s\n"
			       "    %s, policy %s\n", number_of(one, "iops"),
			       number_of(one, "latency us"),
			       text_of(one, "initiator"),
			       text_of(one, "node"), text_of(one, "file"),
			       text_of(one, "policy"));
		}
	}
	json_decref(result);
	json_decref(list);
	return HVRSCTL_OK;
}

/* ---- what is changed --------------------------------------------------------------- */

/* Opens the policies to be changed, making the database where it is not. */
static struct tdb_context *open_policies(void)
{
	bool missing = false;

	return hvrsctl_database(HVRSCTL_STATE, POLICIES, O_RDWR | O_CREAT,
				&missing);
}

/* Stores a policy's record, or deletes it (value NULL). */
static int change(struct guid *id, const TDB_DATA *value)
{
	struct tdb_context *tdb = NULL;
	int ret = HVRSCTL_OK;

	if (hvrsctl_is_cluster()) {
		return hvrsctl_cluster_store(POLICIES, policy_key(id), value);
	}
	tdb = open_policies();
	if (tdb == NULL) {
		return HVRSCTL_FAILED;
	}
	if (tdb_transaction_start(tdb) != 0 ||
	    (value != NULL ? tdb_store(tdb, policy_key(id), *value,
				       TDB_REPLACE)
			   : tdb_delete(tdb, policy_key(id))) != 0 ||
	    tdb_transaction_commit(tdb) != 0) {
		fprintf(stderr, "hvrsctl qos: the policy cannot be %s: %s\n",
			value != NULL ? "stored" : "removed",
			tdb_errorstr(tdb));
		ret = HVRSCTL_FAILED;
	}
	tdb_close(tdb);
	return ret;
}

static int store_policy(const struct sqos_policy *policy)
{
	struct sqos_policy copy = *policy;
	uint8_t *bytes = NULL;
	size_t length = 0;
	const char *why = NULL;
	int ret = sqos_policy_validate(policy, &why);

	if (ret != 0) {
		return complain(policy->name, why);
	}
	ret = sqos_policy_encode(NULL, policy, &bytes, &length);
	if (ret != 0) {
		return HVRSCTL_FAILED;
	}
	ret = change(&copy.id, &(TDB_DATA) {
		.dptr = bytes, .dsize = length });
	talloc_free(bytes);
	return ret;
}

static int read_number(const char *text, uint64_t *_number)
{
	char *end = NULL;

	errno = 0;
	*_number = strtoull(text, &end, 10);
	return errno == 0 && *end == '\0' && text[0] >= '0' && text[0] <= '9'
		? 0 : -EINVAL;
}

/* --min N --max N --bandwidth N --name TEXT --dedicated --aggregated --id ID */
static int read_policy(int argc, char **argv, struct sqos_policy *policy)
{
	int i = 0;

	for (i = 0; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";
		int ret = 0;

		if (strcmp(argv[i], "--dedicated") == 0) {
			policy->type = SQOS_DEDICATED;
			continue;
		}
		if (strcmp(argv[i], "--aggregated") == 0) {
			policy->type = SQOS_AGGREGATED;
			continue;
		}
		if (strcmp(argv[i], "--min") == 0) {
			ret = read_number(value, &policy->minimum);
		} else if (strcmp(argv[i], "--max") == 0) {
			ret = read_number(value, &policy->maximum);
		} else if (strcmp(argv[i], "--bandwidth") == 0) {
			ret = read_number(value, &policy->bandwidth);
		} else if (strcmp(argv[i], "--id") == 0) {
			ret = guid_parse(value, strlen(value), &policy->id);
		} else if (strcmp(argv[i], "--name") == 0) {
			snprintf(policy->name, sizeof(policy->name), "%s",
				 value);
		} else {
			return complain(argv[i], "known are --name, --min, "
					"--max, --bandwidth (KiB/s), "
					"--dedicated, --aggregated, --id");
		}
		if (ret != 0) {
			return complain(value, "that is no value of the "
					"option before it");
		}
		i++;
	}
	return HVRSCTL_OK;
}

struct search {
	struct guid id;
	struct sqos_policy *policy;
	bool found;
};

static int look(struct tdb_context *tdb, TDB_DATA key, TDB_DATA value,
		void *private_data)
{
	struct search *search = private_data;

	(void)tdb;
	if (key.dsize == sizeof(search->id.bytes) &&
	    memcmp(key.dptr, search->id.bytes, key.dsize) == 0) {
		search->found = sqos_policy_decode(value.dptr, value.dsize,
						   search->policy) == 0;
	}
	return 0;
}

static int find_policy(const char *text, struct sqos_policy *_policy)
{
	struct search search = { .policy = _policy };
	struct tdb_context *tdb = NULL;
	bool missing = false;

	if (guid_parse(text, strlen(text), &search.id) != 0) {
		return complain(text, "that is no policy's id");
	}
	if (hvrsctl_is_cluster()) {
		if (hvrsctl_cluster_each(POLICIES, true, look, &search) !=
		    HVRSCTL_OK) {
			return HVRSCTL_FAILED;
		}
	} else {
		tdb = hvrsctl_database(HVRSCTL_STATE, POLICIES, O_RDONLY,
				       &missing);
		if (tdb != NULL) {
			tdb_traverse_read(tdb, look, &search);
			tdb_close(tdb);
		}
	}
	return search.found ? HVRSCTL_OK : complain(text, "there is no such "
						    "policy");
}

static int policy_add(int argc, char **argv)
{
	struct sqos_policy policy = { .type = SQOS_DEDICATED };
	char id[GUID_TEXT_SIZE] = "";
	int ret = guid_random(&policy.id);

	if (ret != 0) {
		return HVRSCTL_FAILED;
	}
	ret = read_policy(argc, argv, &policy);
	if (ret == HVRSCTL_OK) {
		ret = store_policy(&policy);
	}
	if (ret == HVRSCTL_OK) {
		guid_format(&policy.id, false, id);
		printf("%s\n", id);
	}
	return ret;
}

static int policy_set(int argc, char **argv)
{
	struct sqos_policy policy = {};
	uint32_t type = 0;
	struct guid id = {};
	int ret = argc > 0 ? find_policy(argv[0], &policy)
			   : complain("set", "it wants a policy's id");

	if (ret != HVRSCTL_OK) {
		return ret;
	}
	type = policy.type;
	id = policy.id;
	ret = read_policy(argc - 1, argv + 1, &policy);
	if (ret != HVRSCTL_OK) {
		return ret;
	}
	if (policy.type != type || !guid_equal(&policy.id, &id)) {
		return complain(argv[0], "type and id of a policy stay");
	}
	return store_policy(&policy);
}

static int policy_remove(int argc, char **argv)
{
	struct sqos_policy policy = {};
	int ret = argc == 1 ? find_policy(argv[0], &policy)
			    : complain("remove", "it wants a policy's id");

	return ret == HVRSCTL_OK ? change(&policy.id, NULL) : ret;
}

static int policy_list(int argc, char **argv)
{
	json_t *list = gather(HVRSCTL_STATE, POLICIES, add_policy);

	if (list == NULL) {
		return HVRSCTL_FAILED;
	}
	if (argc == 1 && strcmp(argv[0], "--json") == 0) {
		json_dumpf(list, stdout, JSON_INDENT(2));
		printf("\n");
	} else {
		print_policies(list);
	}
	json_decref(list);
	return HVRSCTL_OK;
}

/* What "list --json" wrote, from standard input; all or nothing is checked. */
static int policy_import(int argc, char **argv)
{
	json_error_t error = {};
	json_t *list = json_loadf(stdin, 0, &error);
	json_t *one = NULL;
	size_t i = 0;
	int turn = 0;
	int ret = HVRSCTL_OK;

	(void)argc;
	(void)argv;
	if (!json_is_array(list)) {
		return complain("import", list == NULL ? error.text
						       : "that is no list");
	}
	for (turn = 0; turn < 2 && ret == HVRSCTL_OK; turn++) {
		json_array_foreach(list, i, one) {
			struct sqos_policy policy = {};
			const char *id = text_of(one, "id");
			const char *why = NULL;

			if (guid_parse(id, strlen(id), &policy.id) != 0) {
				ret = complain(id, "that is no id");
				break;
			}
			policy.type = strcmp(text_of(one, "type"),
					     "aggregated") == 0
				? SQOS_AGGREGATED : SQOS_DEDICATED;
			policy.minimum = (uint64_t)number_of(one, "minimum");
			policy.maximum = (uint64_t)number_of(one, "maximum");
			policy.bandwidth = (uint64_t)number_of(one,
							       "bandwidth");
			snprintf(policy.name, sizeof(policy.name), "%s",
				 text_of(one, "name"));
			if (sqos_policy_validate(&policy, &why) != 0) {
				ret = complain(id, why);
				break;
			}
			if (turn == 1) {
				ret = store_policy(&policy);
			}
		}
	}
	json_decref(list);
	return ret;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} actions[] = {
	{ "add", policy_add }, { "set", policy_set },
	{ "remove", policy_remove }, { "list", policy_list },
	{ "import", policy_import },
};

int command_qos(int argc, char **argv)
{
	size_t i = 0;

	if (argc > 0 && strcmp(argv[0], "flows") == 0) {
		return flows(argc - 1, argv + 1);
	}
	for (i = 0; argc > 1 && strcmp(argv[0], "policy") == 0 &&
		    i < sizeof(actions) / sizeof(actions[0]); i++) {
		if (strcmp(argv[1], actions[i].name) == 0) {
			return actions[i].run(argc - 2, argv + 2);
		}
	}
	fprintf(stderr, "usage: hvrsctl qos policy "
		"add|set ID|remove ID|list|import, or hvrsctl qos flows\n");
	return HVRSCTL_USAGE;
}
