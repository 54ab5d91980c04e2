/*
 * Nodes of a cluster: the index of each follows the logs of all.  Of each
 * handle the highest revision counts, in whatever log it is; what an older log
 * holds of a handle that has ended must not bring it back, so the end is
 * remembered until no other log holds any of it.
 *
 * And who has been given up: a node that the cluster does not see, and whose
 * processes may still write.
 */
#include "state_handles_priv.h"
#include "state_nodes.h"

#include <stdlib.h>
#include <unistd.h>

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "lib/global_contexts.h"
#include "lib/util/server_id.h"
#include "messages.h"
#include "serverid.h"
#include "util_tdb.h"

#define GIVE_UP_MS 3000
#define SUSPECTS 256
#define FOLDER_PAUSE_MS 200
#define FOLDER_TRIES 300

static bool is_older(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

/* ---- one frame ---------------------------------------------------------------- */

/* It is in this log too, whatever else is known. */
static bool is_news(uint32_t node, uint64_t id, uint32_t revision)
{
	struct state_handles_ended ended = {};
	struct state_handle *h = NULL;
	bool news = true;

	if (state_handles_ended_get(id, &ended)) {
		news = !is_older(revision, ended.revision);
		if (!news) {
			ended.logs |= 1ULL << node;
			state_handles_ended_put(&ended);
		}
	}
	h = news ? state_handles_index_get(talloc_tos(), id) : NULL;
	if (h != NULL && is_older(revision, h->record.revision)) {
		news = false;
		state_handles_index_logs(h, h->logs | 1ULL << node);
	}
	TALLOC_FREE(h);
	return news;
}

static void apply_put(uint32_t node, uint64_t id, struct handle_bytes payload)
{
	struct state_handle h = {};
	const char *why = NULL;

	if (state_handles_decode(payload, &h, &why) != 0 ||
	    h.record.id != id) {
		DBG_ERR("hvrs: a handle in the log of node %u is refused: "
			"%s\n", node, why != NULL ? why : "it is another's");
		return;
	}
	if (is_news(node, id, h.record.revision)) {
		state_handles_ended_forget(id);
		state_handles_index_put(&h, node);
	}
}

static void apply_drop(uint32_t node, const struct handle_frame *frame)
{
	struct state_handles_ended ended = {
		.id = frame->id, .revision = frame->revision, .home = node,
	};
	struct state_handle *h = NULL;

	if (!is_news(node, frame->id, frame->revision)) {
		return;
	}
	if (frame->payload.length == 8) {
		ended.logs = BVAL(frame->payload.data, 0);
	}
	h = state_handles_index_get(talloc_tos(), frame->id);
	if (h != NULL) {
		ended.logs |= h->logs;
		state_handles_index_drop(h);
	}
	if ((ended.logs & ~(1ULL << node)) != 0) {
		ended.logs |= 1ULL << node;
		state_handles_ended_put(&ended);
	}
	TALLOC_FREE(h);
}

static void apply(uint32_t node, const struct handle_frame *frame, void *data)
{
	(void)data;
	if (frame->kind == HANDLE_FRAME_PUT) {
		apply_put(node, frame->id, frame->payload);
	} else {
		apply_drop(node, frame);
	}
}

/* ---- a whole log --------------------------------------------------------------- */

struct ids {
	uint64_t *list;
	size_t count;
	uint32_t node;
	bool failed;
};

static void ids_add(struct ids *ids, uint64_t id)
{
	if (ids->count == talloc_array_length(ids->list)) {
		uint64_t *grown = talloc_realloc(NULL, ids->list, uint64_t,
						 ids->count * 2 + 64);

		if (grown == NULL) {
			ids->failed = true;
			return;
		}
		ids->list = grown;
	}
	ids->list[ids->count++] = id;
}

static bool known_handle(struct state_handle *h, void *data)
{
	struct ids *ids = data;

	if ((h->logs & 1ULL << ids->node) != 0) {
		ids_add(ids, h->record.id);
	}
	return true;
}

static bool known_ended(const struct state_handles_ended *ended, void *data)
{
	struct ids *ids = data;

	if ((ended->logs & 1ULL << ids->node) != 0) {
		ids_add(ids, ended->id);
	}
	return true;
}

static int id_compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The log of a node holds nothing of this handle any more. */
static void not_there(uint32_t node, uint64_t id)
{
	struct state_handles_ended ended = {};
	struct state_handle *h = state_handles_index_get(talloc_tos(), id);
	uint64_t bit = 1ULL << node;

	if (h != NULL && h->home == node) {
		state_handles_index_drop(h);
	} else if (h != NULL) {
		state_handles_index_logs(h, h->logs & ~bit);
	}
	TALLOC_FREE(h);
	if (!state_handles_ended_get(id, &ended)) {
		return;
	}
	ended.logs &= ~bit;
	if (ended.home == node || ended.logs == 0) {
		state_handles_ended_forget(id);
	} else {
		state_handles_ended_put(&ended);
	}
}

bool state_handles_follow_whole(uint32_t node, const uint8_t *log,
				size_t length, size_t *_end, void *data)
{
	struct handle_replay *replay = NULL;
	struct handle_replay_counts counts = {};
	struct ids known = { .node = node };
	struct ids there = { .node = node };
	struct handle_bytes payload = {};
	struct handle_frame frame = {};
	uint64_t id = 0;
	size_t i = 0;

	(void)data;
	if (handle_replay(NULL, log, length, &replay) != 0) {
		return false;
	}
	handle_replay_counts(replay, &counts);
	state_handles_traverse(known_handle, &known);
	state_handles_ended_traverse(known_ended, &known);
	for (i = 0; handle_replay_get(replay, i, &id, &payload); i++) {
		ids_add(&there, id);
		apply_put(node, id, payload);
	}
	for (i = 0; handle_replay_dropped(replay, i, &frame); i++) {
		ids_add(&there, frame.id);
		apply_drop(node, &frame);
	}
	if (there.count > 0) {
		qsort(there.list, there.count, sizeof(uint64_t), id_compare);
	}
	for (i = 0; i < known.count && !there.failed; i++) {
		if (there.count == 0 ||
		    bsearch(&known.list[i], there.list, there.count,
			    sizeof(uint64_t), id_compare) == NULL) {
			not_there(node, known.list[i]);
		}
	}
	if (counts.refused > 0 || counts.holes > 0) {
		DBG_ERR("hvrs: the log of handles of node %u is damaged: %zu "
			"handles are refused, %zu are kept\n", node,
			counts.refused, counts.live);
	}
	*_end = counts.end;
	TALLOC_FREE(known.list);
	TALLOC_FREE(there.list);
	TALLOC_FREE(replay);
	return true;
}

static void adopt(const struct handle_frame *frame, void *data)
{
	uint32_t me = 0;

	state_nodes_here(&me);
	apply(me, frame, data);
}

void state_handles_follow(void)
{
	static const struct state_nodes_reader reader = {
		.whole = state_handles_follow_whole, .frame = apply,
	};

	if (!state_nodes_here(NULL)) {
		return;
	}
	become_root();
	state_log_adopt(adopt, NULL);
	state_nodes_read(&reader);
	unbecome_root();
}

/* ---- what the nodes have in common -------------------------------------------- */

/* CTDB's, so a node that is not of the cluster right now waits at it. */
static struct db_context *cluster_db(void)
{
	static struct db_context *db;
	char *path = NULL;

	if (db == NULL) {
		path = lock_path(talloc_tos(), "hvrs_nodes.tdb");
		become_root();
		db = path == NULL ? NULL : db_open(
			NULL, path, 0, TDB_CLEAR_IF_FIRST | TDB_INCOMPATIBLE_HASH,
			O_RDWR | O_CREAT, 0600, DBWRAP_LOCK_ORDER_NONE,
			DBWRAP_FLAG_NONE);
		unbecome_root();
		TALLOC_FREE(path);
	}
	return db;
}

/*
 * Whether the nodes say the same of something: as the one that was asked first
 * does, which may change its mind.  1, 0, or -EAGAIN where CTDB does not tell.
 */
static int is_agreed(const char *name, const uint8_t *value, size_t length)
{
	struct db_context *db = cluster_db();
	TDB_DATA key = string_term_tdb_data(name);
	TDB_DATA said = {};
	struct db_record *record = NULL;
	uint8_t *ours = NULL;
	uint32_t me = 0;
	int same = -EAGAIN;

	state_nodes_here(&me);
	record = db == NULL ? NULL : dbwrap_fetch_locked(db, talloc_tos(),
							 key);
	ours = record == NULL ? NULL : talloc_array(record, uint8_t,
						    4 + length);
	if (ours == NULL) {
		TALLOC_FREE(record);
		return -EAGAIN;
	}
	SIVAL(ours, 0, me);
	memcpy(ours + 4, value, length);
	said = dbwrap_record_get_value(record);
	if (said.dsize != 4 + length || IVAL(said.dptr, 0) == me) {
		if (NT_STATUS_IS_OK(dbwrap_record_store(
			record, make_tdb_data(ours, 4 + length), 0))) {
			same = 1;
		}
	} else {
		same = memcmp(said.dptr + 4, value, length) == 0 ? 1 : 0;
	}
	TALLOC_FREE(record);
	return same;
}

/* smbd is without handles until it ends where this fails, so it waits. */
bool state_handles_cluster_folder(const char *directory)
{
	uint8_t id[16] = {};
	int tries = 0;
	int ret = -EAGAIN;

	while (ret == -EAGAIN && tries++ < FOLDER_TRIES) {
		if (tries == 2) {
			DBG_WARNING("hvrs: waiting for the cluster's databases "
				    "and for a lock on %s/nodes\n", directory);
		}
		if (tries > 1) {
			usleep(FOLDER_PAUSE_MS * 1000);
		}
		ret = state_nodes_folder(id);
		if (ret == 0) {
			ret = is_agreed("folder", id, sizeof(id));
		}
	}
	if (ret < 0) {
		DBG_ERR("hvrs: %s/nodes cannot be locked, or CTDB does not "
			"answer: %s. Clients get no persistent and no resilient "
			"handles before smbd is started again\n", directory,
			strerror(-ret));
	} else if (ret == 0) {
		DBG_ERR("hvrs: %s (hvrs:handle store) is not the folder that "
			"the other nodes have. Clients of this node get no "
			"persistent and no resilient handles\n", directory);
	}
	return ret == 1;
}

int state_handles_same_ids(const char *path, const struct file_id *file)
{
	uint8_t id[24] = {};
	char *name = NULL;
	int same = -ENOMEM;

	if (!state_nodes_here(NULL)) {
		return 1;
	}
	SBVAL(id, 0, file->devid);
	SBVAL(id, 8, file->inode);
	SBVAL(id, 16, file->extid);
	name = talloc_asprintf(talloc_tos(), "file %s", path);
	if (name != NULL) {
		same = is_agreed(name, id, sizeof(id));
	}
	TALLOC_FREE(name);
	return same;
}

/* ---- nodes that are given up -------------------------------------------------- */

static uint64_t began_times;

static bool given_up(uint64_t *_times)
{
	uint32_t me = 0;

	return !state_nodes_here(&me) || state_nodes_given_up(me, _times);
}

void state_handles_begin(void)
{
	given_up(&began_times);
}

bool state_handles_is_out(void)
{
	uint64_t times = began_times;

	return !given_up(&times) || times != began_times;
}

bool state_handles_is_mine(uint64_t id)
{
	struct server_id me = messaging_server_id(global_messaging_context());
	struct state_handle *h = state_handles_fetch(talloc_tos(), id);
	bool mine = h != NULL && (server_id_equal(&h->owner, &me) ||
				  server_id_equal(&h->claimer, &me));

	TALLOC_FREE(h);
	return mine;
}

struct suspect {
	struct server_id id;
	uint64_t since_ms;
	uint64_t times;		/* its node was given up by then */
	bool seen;
	bool done;		/* its node was given up for it */
};

static struct suspect suspects[SUSPECTS];

static struct suspect *suspect_of(const struct server_id *id)
{
	struct suspect *spare = NULL;
	size_t i = 0;

	for (i = 0; i < SUSPECTS; i++) {
		if (suspects[i].since_ms != 0 &&
		    server_id_equal(&suspects[i].id, id)) {
			return &suspects[i];
		}
		if (suspects[i].since_ms == 0 && spare == NULL) {
			spare = &suspects[i];
		}
	}
	return spare;
}

struct owners {
	TALLOC_CTX *mem_ctx;
	bool here;
	struct server_id *ids;
	size_t count;
};

static bool owners_fn(struct state_handle *h, void *data)
{
	struct owners *owners = data;
	struct server_id *grown = NULL;
	size_t i = 0;

	if ((!h->connected && !h->leaving) ||
	    procid_is_local(&h->owner) != owners->here) {
		return true;
	}
	for (i = 0; i < owners->count; i++) {
		if (server_id_equal(&owners->ids[i], &h->owner)) {
			return true;
		}
	}
	grown = talloc_realloc(owners->mem_ctx, owners->ids, struct server_id,
			       owners->count + 1);
	if (grown == NULL) {
		return false;
	}
	owners->ids = grown;
	owners->ids[owners->count++] = h->owner;
	return true;
}

size_t state_handles_owners(TALLOC_CTX *mem_ctx, bool here,
			    struct server_id **_ids)
{
	struct owners owners = { .mem_ctx = mem_ctx, .here = here };

	state_handles_traverse(owners_fn, &owners);
	*_ids = owners.ids;
	return owners.count;
}

static void look_at(struct server_id *id, uint64_t now)
{
	struct suspect *suspect = suspect_of(id);

	if (suspect == NULL || state_handles_is_gone(id) ||
	    serverid_exists(id)) {
		return;
	}
	if (suspect->since_ms == 0) {
		suspect->id = *id;
		suspect->since_ms = now;
		suspect->done = false;
		state_nodes_given_up(id->vnn, &suspect->times);
	}
	suspect->seen = true;
}

/*
 * Only with a record of CTDB's locked, which a node that was cut off from the
 * others does not get; it would take them for gone.
 */
static void give_up(struct suspect *suspect)
{
	int ret = -EAGAIN;
	struct db_context *db = cluster_db();
	struct db_record *record = NULL;

	record = db == NULL ? NULL : dbwrap_fetch_locked(
		db, talloc_tos(), string_term_tdb_data("give up"));
	if (record == NULL ||
	    !NT_STATUS_IS_OK(dbwrap_record_store(
		record, string_term_tdb_data("now"), 0))) {
		TALLOC_FREE(record);
		return;
	}
	if (!serverid_exists(&suspect->id) &&
	    !state_handles_is_gone(&suspect->id)) {
		ret = state_nodes_give_up(suspect->id.vnn, suspect->times);
	}
	/* Another process of it, or another node, may have been faster. */
	suspect->done = ret == 0 || ret == -EEXIST;
	if (ret == 0) {
		DBG_ERR("hvrs: node %u is not seen by the cluster, but may "
			"write: its processes are told to end, and their "
			"handles wait until they have\n", suspect->id.vnn);
	}
	TALLOC_FREE(record);
}

void state_handles_give_up(void)
{
	uint64_t now = state_handles_now();
	struct server_id *ids = NULL;
	size_t count = 0;
	size_t i = 0;

	if (!state_nodes_here(NULL)) {
		return;
	}
	for (i = 0; i < SUSPECTS; i++) {
		suspects[i].seen = false;
	}
	count = state_handles_owners(talloc_tos(), false, &ids);
	for (i = 0; i < count; i++) {
		look_at(&ids[i], now);
	}
	TALLOC_FREE(ids);
	for (i = 0; i < SUSPECTS; i++) {
		if (!suspects[i].seen) {
			suspects[i].since_ms = 0;
		} else if (!suspects[i].done &&
			   now - suspects[i].since_ms >= GIVE_UP_MS) {
			give_up(&suspects[i]);
		}
	}
}
