/*
 * Handles that outlive smbd: who may change one, in the log and in the index
 * (state_handles_index.c), and how both begin.
 */
#include "state_handles_priv.h"
#include "state_nodes.h"
#include "state_place.h"
#include "step.h"

#include <time.h>

#include "dbwrap/dbwrap.h"
#include "lib/global_contexts.h"
#include "lib/util/server_id.h"
#include "messages.h"
#include "serverid.h"

#include "option/option.h"

#define LEAP 0x10000		/* of the revision, from node to node */

static bool index_tried;
static bool synced = true;
static char *store;

/* Under which handles go from node to node; nothing where there is one. */
static bool places_lock(void)
{
	return !state_nodes_here(NULL) || state_nodes_lock();
}

static void places_unlock(void)
{
	if (state_nodes_here(NULL)) {
		state_nodes_unlock();
	}
}

static uint32_t here(void)
{
	uint32_t me = 0;

	state_nodes_here(&me);
	return me;
}

bool state_handles_holder(struct server_id *_id, uint64_t *_turn)
{
	struct state_log_holder holder = {};

	if (!state_log_holder(&holder)) {
		return false;
	}
	*_id = messaging_server_id(global_messaging_context());
	_id->pid = holder.pid;
	_id->unique_id = holder.unique;
	*_turn = holder.turn;
	return true;
}

/*
 * Whether nobody but processes of this node may change it: then the lock of the
 * index is enough.
 */
static bool is_of_here(const struct state_handle *h)
{
	return !state_nodes_here(NULL) ||
		(h->home == here() && procid_is_local(&h->owner) &&
		 (h->claimer.pid == 0 || procid_is_local(&h->claimer)));
}

/* The index is locked. */
static int store_locked(struct state_handle *h, struct state_log_point *_point)
{
	int ret = 0;

	/* Who is out, and does not know yet, never catches up with this. */
	h->record.revision += is_of_here(h) ? 1 : LEAP;
	state_handles_log_cure(store);
	step("append");
	ret = state_handles_log_put(h, _point);
	step("appended");
	if (ret == 0 && !state_handles_index_put(h, here())) {
		ret = -EIO;
	}
	step("indexed");
	return ret;
}

static bool is_me(const struct server_id *id)
{
	struct server_id me = messaging_server_id(global_messaging_context());

	return server_id_equal(id, &me);
}

/* Nothing is closed: it is all somebody else's by now. */
static void end_process(const char *why)
{
	DBG_ERR("hvrs: %s; this process ends\n", why);
	_exit(1);
}

int state_handles_store(struct state_handle *h,
			struct state_log_point *_point)
{
	struct state_handle *old = NULL;
	struct db_record *lock = NULL;
	int ret = 0;

	if (!state_handles_index_is_open()) {
		return -EIO;
	}
	if (state_nodes_here(NULL)) {
		ret = state_nodes_own(h->owner.unique_id);
		if (ret != 0) {
			return ret;
		}
	}
	lock = state_handles_index_lock(talloc_tos());
	if (lock == NULL) {
		return -EIO;
	}
	/* Others may have changed it meanwhile: a rename, a lost cache. */
	old = state_handles_index_get(talloc_tos(), h->record.id);
	if (state_nodes_here(NULL) && h->record.revision != 0 &&
	    (old == NULL || (!is_me(&old->owner) && !is_me(&old->claimer)))) {
		end_process("a handle of this process is another's now");
	}
	if (old != NULL && (int32_t)(old->record.revision -
				     h->record.revision) > 0) {
		h->record.revision = old->record.revision;
	}
	h->home = old != NULL ? old->home : here();
	TALLOC_FREE(old);
	ret = store_locked(h, _point);
	TALLOC_FREE(lock);
	return ret;
}

static bool is_unchanged(const struct state_handle *h,
			 const struct state_handle *now)
{
	return now != NULL &&
		now->record.revision == h->record.revision &&
		now->leaving == h->leaving &&
		server_id_equal(&now->owner, &h->owner) &&
		(now->claimer.pid == 0 ||
		 server_id_equal(&now->claimer, &h->claimer));
}

int state_handles_store_other(struct state_handle *h,
			      struct state_log_point *_point)
{
	struct state_handle *now = NULL;
	struct db_record *lock = NULL;
	int ret = -EIO;

	if (!state_handles_index_is_open() || !places_lock()) {
		return -EIO;
	}
	lock = state_handles_index_lock(talloc_tos());
	if (lock != NULL) {
		now = state_handles_index_get(talloc_tos(), h->record.id);
		ret = -EAGAIN;
		if (is_unchanged(h, now)) {
			h->home = now->home;
			ret = is_of_here(now) || state_handles_is_let_go(now)
				? store_locked(h, _point) : -EREMOTE;
		}
		TALLOC_FREE(now);
	}
	TALLOC_FREE(lock);
	places_unlock();
	return ret;
}

/* On a cluster the others see it by the log alone. */
static bool note_locked(struct state_handle *h)
{
	struct state_log_point point = {};

	if (state_nodes_here(NULL)) {
		h->record.revision += is_of_here(h) ? 1 : LEAP;
		state_handles_log_put(h, &point);
	}
	return state_handles_index_put(h, here());
}

void state_handles_store_index(const struct state_handle *h)
{
	struct state_handle changed = *h;
	struct db_record *lock = NULL;

	if (state_handles_index_is_open()) {
		lock = state_handles_index_lock(talloc_tos());
		if (lock != NULL) {
			note_locked(&changed);
		}
		TALLOC_FREE(lock);
	}
}

/* Of the index' own record, which may be newer than what the caller has. */
void state_handles_leave(uint64_t id, const struct server_id *owner)
{
	struct db_record *lock = NULL;
	struct state_handle *h = NULL;

	if (!state_handles_index_is_open()) {
		return;
	}
	lock = state_handles_index_lock(talloc_tos());
	h = state_handles_index_get(talloc_tos(), id);
	if (lock != NULL && h != NULL && h->connected &&
	    server_id_equal(&h->owner, owner)) {
		h->leaving = true;
		note_locked(h);
	}
	TALLOC_FREE(h);
	TALLOC_FREE(lock);
}

/* The index is locked. */
static void drop_locked(const struct state_handle *h)
{
	struct handle_frame frame = {
		.kind = HANDLE_FRAME_DROP, .id = h->record.id,
		.revision = h->record.revision + 1,
	};
	struct state_handles_ended ended = {
		.id = h->record.id, .revision = frame.revision,
		.home = here(), .logs = h->logs | 1ULL << here(),
	};
	struct state_log_point point = {};
	uint8_t logs[8] = {};

	state_handles_index_drop(h);
	if (state_nodes_here(NULL) && h->logs != 1ULL << here()) {
		SBVAL(logs, 0, ended.logs);
		frame.payload.data = logs;
		frame.payload.length = sizeof(logs);
		state_handles_ended_put(&ended);
	}
	become_root();
	state_log_append(&frame, &point);
	unbecome_root();
}

void state_handles_drop(uint64_t id)
{
	struct state_handle *h = NULL;
	struct db_record *lock = NULL;

	if (!state_handles_index_is_open()) {
		return;
	}
	lock = state_handles_index_lock(talloc_tos());
	h = state_handles_index_get(talloc_tos(), id);
	if (lock != NULL && h != NULL &&
	    (!state_nodes_here(NULL) || is_me(&h->owner) ||
	     is_me(&h->claimer))) {
		drop_locked(h);
	}
	TALLOC_FREE(h);
	TALLOC_FREE(lock);
}

enum handle_state state_handle_state(const struct state_handle *h)
{
	struct server_id owner = h->owner;

	if (!h->connected ||
	    (state_nodes_here(NULL) && state_handles_is_gone(&owner))) {
		return HANDLE_WAITING;
	}
	/* Whom the cluster does not see is kept for by the record. */
	return serverid_exists(&owner) ? HANDLE_CONNECTED : HANDLE_WAITING;
}

bool state_handles_is_gone(const struct server_id *id)
{
	struct server_id process = *id;

	if (!state_nodes_here(NULL) || procid_is_local(&process)) {
		return !serverid_exists(&process);
	}
	return !state_nodes_owned(process.unique_id);
}

bool state_handles_is_let_go(const struct state_handle *h)
{
	return (!h->connected && !h->leaving) ||
		state_handles_is_gone(&h->owner);
}

static bool claim(uint64_t id, const struct server_id *me, bool end)
{
	struct db_record *lock = NULL;
	struct state_handle *h = NULL;
	bool cluster = state_nodes_here(NULL);
	bool mine = false;

	if (!state_handles_index_is_open() ||
	    (cluster && state_nodes_own(me->unique_id) != 0) ||
	    !places_lock()) {
		return false;
	}
	lock = state_handles_index_lock(talloc_tos());
	h = state_handles_index_get(talloc_tos(), id);
	if (lock != NULL && h != NULL &&
	    state_handle_state(h) == HANDLE_WAITING &&
	    (!cluster || state_handles_is_let_go(h)) &&
	    (end || !handle_expired(&h->record, state_handles_now())) &&
	    (h->claimer.pid == 0 || state_handles_is_gone(&h->claimer))) {
		h->claimer = *me;
		mine = note_locked(h);
	}
	TALLOC_FREE(h);
	TALLOC_FREE(lock);
	places_unlock();
	return mine;
}

bool state_handles_claim(uint64_t id, const struct server_id *me)
{
	return claim(id, me, false);
}

bool state_handles_claim_end(uint64_t id, const struct server_id *me)
{
	return !state_nodes_here(NULL) || claim(id, me, true);
}

/* ---- devices that have other numbers now ------------------------------------------ */

struct move {
	struct state_places places;
	uint64_t *ids;
	size_t count;
};

static bool move_learn(struct state_handle *h, void *private_data)
{
	struct move *move = private_data;

	state_places_learn(&move->places, &h->record);
	if (move->count == talloc_array_length(move->ids)) {
		uint64_t *grown = talloc_realloc(talloc_tos(), move->ids,
						 uint64_t,
						 move->count * 2 + 64);

		if (grown == NULL) {
			return false;
		}
		move->ids = grown;
	}
	move->ids[move->count++] = h->record.id;
	return true;
}

/* Not flushed: it would be found out again. */
static bool move_one(const struct state_places *places, uint64_t id)
{
	struct state_handle *h = state_handles_fetch(talloc_tos(), id);
	static const struct state_places none;
	struct state_log_point point = {};
	uint64_t device = 0;
	bool moved = false;

	/* Of one that is open, only its own name may tell. */
	if (h != NULL) {
		device = state_places_device(
			state_handle_state(h) == HANDLE_WAITING ? places
								: &none,
			&h->record);
		moved = device != h->record.device &&
			(is_of_here(h) || state_handles_is_let_go(h));
	}
	if (moved) {
		state_handles_index_device_drop(h->record.device);
		h->record.device = device;
		h->record.revision += is_of_here(h) ? 1 : LEAP;
		state_handles_log_put(h, &point);
		state_handles_index_put(h, here());
	}
	TALLOC_FREE(h);
	return moved;
}

void state_handles_device(uint64_t device)
{
	struct db_record *lock = NULL;
	struct move move = {};
	size_t moved = 0;
	size_t i = 0;

	if (!state_handles_index_is_open() ||
	    state_handles_index_device(device) ||
	    !places_lock()) {
		return;
	}
	lock = state_handles_index_lock(talloc_tos());
	if (lock == NULL) {
		places_unlock();
		return;
	}
	if (!state_handles_index_device(device)) {
		become_root();
		state_handles_traverse(move_learn, &move);
		for (i = 0; i < move.count; i++) {
			moved += move_one(&move.places, move.ids[i]) ? 1 : 0;
		}
		unbecome_root();
		state_handles_index_device_put(device);
	}
	TALLOC_FREE(lock);
	places_unlock();
	TALLOC_FREE(move.ids);
	if (moved > 0) {
		DBG_NOTICE("hvrs: %zu handles that wait for their clients are "
			   "on file systems that have other device numbers "
			   "now\n", moved);
	}
}

uint64_t state_handles_now(void)
{
	struct timespec now = {};

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

const char *state_handles_directory(void)
{
	return store;
}

bool state_handles_synced(void)
{
	return synced;
}

/* ---- after smbd was gone ---------------------------------------------------------- */

/* Nobody appends meanwhile: all do it with the index locked. */
void state_handles_compact(void)
{
	struct db_record *lock = NULL;
	int ret = 0;

	if (!state_handles_index_is_open() || (!state_log_is_long() &&
				 !state_log_is_sick())) {
		return;
	}
	lock = state_handles_index_lock(talloc_tos());
	if (lock != NULL) {
		state_handles_log_cure(store);
	}
	if (lock != NULL && state_log_is_long()) {
		become_root();
		ret = state_handles_log_rewrite();
		unbecome_root();
	}
	TALLOC_FREE(lock);
	if (ret != 0) {
		DBG_ERR("hvrs: %s/handles.log cannot be written anew: %s\n",
			store, strerror(-ret));
	}
}

static bool index_open(const char *directory)
{
	struct db_record *lock = NULL;
	char *path = lock_path(talloc_tos(), "hvrs_handles.tdb");
	char *shared = lock_path(talloc_tos(), "hvrs_handles.shared");
	char name[32] = "handles.log";
	bool ok = true;

	if (path == NULL || shared == NULL) {
		return false;
	}
	if (!state_handles_index_open(path)) {
		DBG_ERR("hvrs: %s cannot be opened: %s. Clients get no "
			"persistent and no resilient handles\n", path,
			strerror(errno));
		return false;
	}
	if (state_nodes_here(NULL)) {
		state_nodes_log_name(here(), name);
	}
	ok = state_log_open(shared, directory, name) == 0;
	lock = state_handles_index_lock(talloc_tos());
	if (ok && lock != NULL && state_handles_index_is_filled()) {
		ok = state_log_is_known();
		if (!ok) {
			DBG_ERR("hvrs: processes of this smbd have another "
				"build of this module. New clients get no "
				"persistent and no resilient handles before "
				"smbd is started again\n");
		}
	} else if (ok && lock != NULL) {
		state_log_disable();
		ok = state_handles_log_restore(directory);
		if (ok) {
			state_handles_index_filled();
		}
	}
	TALLOC_FREE(lock);
	TALLOC_FREE(path);
	TALLOC_FREE(shared);
	if (!ok) {
		state_handles_index_close();
	}
	return ok;
}

/* As root. */
static bool cluster_open(const char *text, const char *directory)
{
	struct server_id me = messaging_server_id(global_messaging_context());
	int ret = 0;

	if (text[0] != '/') {
		DBG_NOTICE("hvrs: clustering = yes: \"hvrs:handle store\" has "
			   "to name a folder on the cluster's file system. Clients "
			   "get no persistent and no resilient handles\n");
		return false;
	}
	ret = state_nodes_open(directory, me.vnn);
	if (ret != 0) {
		DBG_ERR("hvrs: %s/nodes cannot be used: %s. Clients get no "
			"persistent and no resilient handles\n", directory,
			strerror(-ret));
		return false;
	}
	state_handles_begin();
	return state_handles_cluster_folder(directory);
}

bool state_handles_init(void)
{
	const char *text = NULL;
	enum option_switch value = OPTION_AUTO;
	char *directory = NULL;

	if (index_tried) {
		return state_handles_index_is_open();
	}
	index_tried = true;
	text = lp_parm_const_string(
		GLOBAL_SECTION_SNUM, "hvrs",
		option_row_get(OPTION_HANDLE_SYNC)->name, "yes");
	synced = option_switch_parse(text, &value) != 0 || value != OPTION_NO;
	text = lp_parm_const_string(
		GLOBAL_SECTION_SNUM, "hvrs",
		option_row_get(OPTION_HANDLE_STORE)->name, "");
	directory = text[0] == '/' ? talloc_strdup(talloc_tos(), text) :
		state_path(talloc_tos(), "hvrs");
	if (directory == NULL) {
		return false;
	}
	become_root();
	if (!lp_clustering() || cluster_open(text, directory)) {
		index_open(directory);
	}
	unbecome_root();
	store = talloc_steal(NULL, directory);
	return state_handles_index_is_open();
}
