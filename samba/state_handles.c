/*
 * The index: a volatile database with one record per handle and the keys by
 * which one is looked for.  Every change is made under one key that is locked
 * first, so that the order of the others does not matter.
 */
#include "state_handles_priv.h"
#include "state_place.h"
#include "step.h"

#include <sys/stat.h>
#include <time.h>

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "lib/global_contexts.h"
#include "lib/util/server_id.h"
#include "messages.h"
#include "serverid.h"
#include "util_tdb.h"

#include "option/option.h"
#include "util/cursor.h"

#define HEAD_SIZE 60
#define FILE_KEY_SIZE 24
#define CLIENT_IDS 16
#define HEAD_CONNECTED 0x1
#define HEAD_LEAVING 0x2

static struct db_context *index_db;
static bool index_tried;
static bool synced = true;
static char *store;

/* ---- keys ------------------------------------------------------------------- */

struct key {
	uint8_t bytes[1 + 40];
	size_t length;
};

static TDB_DATA key_data(struct key *key)
{
	return make_tdb_data(key->bytes, key->length);
}

static struct key key_id(uint64_t id)
{
	struct key key = { .length = 9 };

	key.bytes[0] = 'i';
	SBVAL(key.bytes, 1, id);
	return key;
}

static struct key key_file(uint64_t device, uint64_t inode, uint64_t extra)
{
	struct key key = { .length = 1 + FILE_KEY_SIZE };

	key.bytes[0] = 'f';
	SBVAL(key.bytes, 1, device);
	SBVAL(key.bytes, 9, inode);
	SBVAL(key.bytes, 17, extra);
	return key;
}

static struct key key_guid(const struct guid *guid)
{
	struct key key = { .length = 17 };

	key.bytes[0] = 'g';
	memcpy(key.bytes + 1, guid->bytes, 16);
	return key;
}

static struct key key_entry(const struct server_id *pid, uint64_t gen_id)
{
	struct key key = { .length = 33 };

	key.bytes[0] = 'e';
	SBVAL(key.bytes, 1, pid->pid);
	SIVAL(key.bytes, 9, pid->task_id);
	SIVAL(key.bytes, 13, pid->vnn);
	SBVAL(key.bytes, 17, pid->unique_id);
	SBVAL(key.bytes, 25, gen_id);
	return key;
}

static struct key key_client(const struct guid *guid)
{
	struct key key = key_guid(guid);

	key.bytes[0] = 'c';
	return key;
}

static struct key key_mark(void)
{
	struct key key = { .length = 1 };

	key.bytes[0] = 'M';
	return key;
}

static struct key key_lock(void)
{
	struct key key = { .length = 1 };

	key.bytes[0] = 'L';
	return key;
}

static struct key key_device(uint64_t device)
{
	struct key key = { .length = 9 };

	key.bytes[0] = 'd';
	SBVAL(key.bytes, 1, device);
	return key;
}

struct index_holder {
	uint64_t pid;
};

static int holder_destructor(struct index_holder *holder)
{
	state_log_release(holder->pid);
	return 0;
}

/* Who has it is noted, for the case that it is stopped meanwhile. */
static struct db_record *index_lock(TALLOC_CTX *mem_ctx)
{
	struct key key = key_lock();
	struct server_id me = messaging_server_id(global_messaging_context());
	struct db_record *lock = dbwrap_fetch_locked(index_db, mem_ctx,
						     key_data(&key));
	struct index_holder *holder = NULL;

	if (lock != NULL) {
		holder = talloc_zero(lock, struct index_holder);
	}
	if (holder != NULL) {
		holder->pid = me.pid;
		state_log_hold(me.pid, me.unique_id);
		talloc_set_destructor(holder, holder_destructor);
	}
	return lock;
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

/* ---- one record ---------------------------------------------------------------- */

static void server_put(uint8_t out[24], const struct server_id *id)
{
	SBVAL(out, 0, id->pid);
	SIVAL(out, 8, id->task_id);
	SIVAL(out, 12, id->vnn);
	SBVAL(out, 16, id->unique_id);
}

static void server_get(const uint8_t in[24], struct server_id *id)
{
	id->pid = BVAL(in, 0);
	id->task_id = IVAL(in, 8);
	id->vnn = IVAL(in, 12);
	id->unique_id = BVAL(in, 16);
}

static uint8_t *handle_pack(TALLOC_CTX *mem_ctx, const struct state_handle *h,
			    size_t *_length)
{
	size_t size = handle_record_encode(&h->record, NULL, 0);
	uint8_t *bytes = NULL;

	if (size == 0) {
		return NULL;
	}
	bytes = talloc_array(mem_ctx, uint8_t, HEAD_SIZE + size);
	if (bytes == NULL) {
		return NULL;
	}
	SIVAL(bytes, 0, (h->connected ? HEAD_CONNECTED : 0) |
	      (h->leaving ? HEAD_LEAVING : 0));
	server_put(bytes + 4, &h->owner);
	SBVAL(bytes, 28, h->gen_id);
	server_put(bytes + 36, &h->claimer);
	handle_record_encode(&h->record, bytes + HEAD_SIZE, size);
	*_length = HEAD_SIZE + size;
	return bytes;
}

static struct state_handle *handle_unpack(TALLOC_CTX *mem_ctx, TDB_DATA value)
{
	struct state_handle *h = NULL;
	uint8_t *bytes = NULL;
	const char *why = NULL;
	int ret = 0;

	if (value.dsize < HEAD_SIZE) {
		return NULL;
	}
	h = talloc_zero(mem_ctx, struct state_handle);
	if (h == NULL) {
		return NULL;
	}
	bytes = talloc_memdup(h, value.dptr, value.dsize);
	if (bytes == NULL) {
		TALLOC_FREE(h);
		return NULL;
	}
	h->connected = (IVAL(bytes, 0) & HEAD_CONNECTED) != 0;
	h->leaving = (IVAL(bytes, 0) & HEAD_LEAVING) != 0;
	server_get(bytes + 4, &h->owner);
	h->gen_id = BVAL(bytes, 28);
	server_get(bytes + 36, &h->claimer);
	ret = handle_record_decode(bytes + HEAD_SIZE,
				   value.dsize - HEAD_SIZE, &h->record, &why);
	if (ret != 0) {
		DBG_ERR("hvrs: a handle in the index is refused: %s\n", why);
		TALLOC_FREE(h);
		return NULL;
	}
	return h;
}

struct parse {
	TALLOC_CTX *mem_ctx;
	struct state_handle *h;
	uint64_t *ids;
	size_t count;
};

static void parse_handle(TDB_DATA key, TDB_DATA value, void *private_data)
{
	struct parse *parse = private_data;

	(void)key;
	parse->h = handle_unpack(parse->mem_ctx, value);
}

static void parse_ids(TDB_DATA key, TDB_DATA value, void *private_data)
{
	struct parse *parse = private_data;
	size_t i = 0;

	(void)key;
	parse->ids = talloc_array(parse->mem_ctx, uint64_t, value.dsize / 8);
	if (parse->ids == NULL) {
		return;
	}
	parse->count = value.dsize / 8;
	for (i = 0; i < parse->count; i++) {
		parse->ids[i] = BVAL(value.dptr, i * 8);
	}
}

struct state_handle *state_handles_fetch(TALLOC_CTX *mem_ctx, uint64_t id)
{
	struct parse parse = { .mem_ctx = mem_ctx };
	struct key key = key_id(id);

	if (index_db != NULL) {
		dbwrap_parse_record(index_db, key_data(&key), parse_handle,
				    &parse);
	}
	return parse.h;
}

static struct state_handle *fetch_through(TALLOC_CTX *mem_ctx,
					  struct key *key)
{
	struct parse parse = { .mem_ctx = mem_ctx };
	struct state_handle *h = NULL;

	if (index_db == NULL) {
		return NULL;
	}
	dbwrap_parse_record(index_db, key_data(key), parse_ids, &parse);
	if (parse.count > 0) {
		h = state_handles_fetch(mem_ctx, parse.ids[0]);
	}
	TALLOC_FREE(parse.ids);
	return h;
}

struct state_handle *state_handles_by_guid(TALLOC_CTX *mem_ctx,
					   const struct guid *create_guid)
{
	struct key key = key_guid(create_guid);

	return fetch_through(mem_ctx, &key);
}

struct state_handle *state_handles_by_entry(TALLOC_CTX *mem_ctx,
					    const struct server_id *pid,
					    uint64_t share_file_id)
{
	struct key key = key_entry(pid, share_file_id);

	if (server_id_is_disconnected(pid)) {
		return state_handles_fetch(mem_ctx, share_file_id);
	}
	return fetch_through(mem_ctx, &key);
}

size_t state_handles_of_client(TALLOC_CTX *mem_ctx, const struct guid *client,
			       uint64_t **_ids)
{
	struct parse parse = { .mem_ctx = mem_ctx };
	struct key key = key_client(client);

	*_ids = NULL;
	if (index_db == NULL) {
		return 0;
	}
	dbwrap_parse_record(index_db, key_data(&key), parse_ids, &parse);
	*_ids = parse.ids;
	return parse.count;
}

size_t state_handles_of_file(TALLOC_CTX *mem_ctx, const struct file_id *file,
			     uint64_t **_ids)
{
	struct parse parse = { .mem_ctx = mem_ctx };
	struct key key = key_file(file->devid, file->inode, file->extid);

	*_ids = NULL;
	if (index_db == NULL) {
		return 0;
	}
	dbwrap_parse_record(index_db, key_data(&key), parse_ids, &parse);
	*_ids = parse.ids;
	return parse.count;
}

/* ---- changes ------------------------------------------------------------------- */

static void list_change(struct key *key, uint64_t id, bool add, size_t most)
{
	struct parse parse = { .mem_ctx = talloc_tos() };
	uint8_t *bytes = NULL;
	size_t count = 0;
	size_t i = 0;

	dbwrap_parse_record(index_db, key_data(key), parse_ids, &parse);
	bytes = talloc_array(talloc_tos(), uint8_t, (parse.count + 1) * 8);
	if (bytes == NULL) {
		TALLOC_FREE(parse.ids);
		return;
	}
	i = add && parse.count >= most ? parse.count - most + 1 : 0;
	for (; i < parse.count; i++) {
		if (parse.ids[i] != id) {
			SBVAL(bytes, 8 * count, parse.ids[i]);
			count++;
		}
	}
	if (add) {
		SBVAL(bytes, 8 * count, id);
		count++;
	}
	if (count == 0) {
		dbwrap_delete(index_db, key_data(key));
	} else {
		dbwrap_store(index_db, key_data(key),
			     make_tdb_data(bytes, 8 * count), 0);
	}
	TALLOC_FREE(parse.ids);
	TALLOC_FREE(bytes);
}

/* The keys of one handle, put or taken away. */
static void keys_change(const struct state_handle *h, bool add)
{
	const struct handle_record *r = &h->record;
	struct key key = key_file(r->device, r->inode, r->extra);

	list_change(&key, r->id, add, SIZE_MAX);
	if ((r->flags & HANDLE_CREATE_GUID) != 0) {
		key = key_guid(&r->create_guid);
		list_change(&key, r->id, add, SIZE_MAX);
	}
	/* The newest will do: a client has one process. */
	key = key_client(&r->client_guid);
	list_change(&key, r->id, add, CLIENT_IDS);
	if (h->owner.pid != 0) {
		key = key_entry(&h->owner, h->gen_id);
		list_change(&key, r->id, add, SIZE_MAX);
	}
}

static bool same_keys(const struct state_handle *a,
		      const struct state_handle *b)
{
	return server_id_equal(&a->owner, &b->owner) &&
		a->gen_id == b->gen_id &&
		a->record.device == b->record.device &&
		a->record.inode == b->record.inode &&
		a->record.extra == b->record.extra &&
		a->record.flags == b->record.flags &&
		guid_equal(&a->record.create_guid, &b->record.create_guid);
}

bool state_handles_index_put(const struct state_handle *h)
{
	struct state_handle *old = state_handles_fetch(talloc_tos(),
						       h->record.id);
	struct key key = key_id(h->record.id);
	size_t length = 0;
	uint8_t *bytes = handle_pack(talloc_tos(), h, &length);
	NTSTATUS status = NT_STATUS_OK;

	if (bytes == NULL) {
		TALLOC_FREE(old);
		return false;
	}
	if (old != NULL && !same_keys(old, h)) {
		keys_change(old, false);
		TALLOC_FREE(old);
	}
	status = dbwrap_store(index_db, key_data(&key),
			      make_tdb_data(bytes, length), 0);
	if (NT_STATUS_IS_OK(status) && old == NULL) {
		keys_change(h, true);
	}
	TALLOC_FREE(old);
	TALLOC_FREE(bytes);
	return NT_STATUS_IS_OK(status);
}

struct traverse {
	bool (*fn)(struct state_handle *h, void *data);
	void *data;
};

static int traverse_one(struct db_record *rec, void *private_data)
{
	struct traverse *traverse = private_data;
	TDB_DATA key = dbwrap_record_get_key(rec);
	struct state_handle *h = NULL;
	bool more = true;

	if (key.dsize == 9 && key.dptr[0] == 'i') {
		h = handle_unpack(talloc_tos(), dbwrap_record_get_value(rec));
		if (h != NULL) {
			more = traverse->fn(h, traverse->data);
		}
		TALLOC_FREE(h);
	}
	return more ? 0 : -1;
}

void state_handles_traverse(bool (*fn)(struct state_handle *h, void *data),
			    void *data)
{
	struct traverse traverse = { .fn = fn, .data = data };

	if (index_db != NULL) {
		dbwrap_traverse_read(index_db, traverse_one, &traverse, NULL);
	}
}

/* The index is locked. */
static int store_locked(struct state_handle *h, struct state_log_point *_point)
{
	int ret = 0;

	h->record.revision++;
	state_handles_log_cure(store);
	step("append");
	ret = state_handles_log_put(&h->record, _point);
	step("appended");
	if (ret == 0 && !state_handles_index_put(h)) {
		ret = -EIO;
	}
	step("indexed");
	return ret;
}

int state_handles_store(struct state_handle *h,
			struct state_log_point *_point)
{
	struct state_handle *old = NULL;
	struct db_record *lock = NULL;
	int ret = 0;

	if (index_db == NULL) {
		return -EIO;
	}
	lock = index_lock(talloc_tos());
	if (lock == NULL) {
		return -EIO;
	}
	/* Others may have changed it meanwhile: a rename, a lost cache. */
	old = state_handles_fetch(talloc_tos(), h->record.id);
	if (old != NULL && (int32_t)(old->record.revision -
				     h->record.revision) > 0) {
		h->record.revision = old->record.revision;
	}
	TALLOC_FREE(old);
	ret = store_locked(h, _point);
	TALLOC_FREE(lock);
	return ret;
}

static bool is_unchanged(const struct state_handle *h)
{
	struct state_handle *now = state_handles_fetch(talloc_tos(),
						       h->record.id);
	bool same = now != NULL &&
		now->record.revision == h->record.revision &&
		now->leaving == h->leaving &&
		server_id_equal(&now->owner, &h->owner) &&
		(now->claimer.pid == 0 ||
		 server_id_equal(&now->claimer, &h->claimer));

	TALLOC_FREE(now);
	return same;
}

int state_handles_store_other(struct state_handle *h,
			      struct state_log_point *_point)
{
	struct db_record *lock = NULL;
	int ret = -EIO;

	if (index_db != NULL) {
		lock = index_lock(talloc_tos());
	}
	if (lock != NULL) {
		ret = is_unchanged(h) ? store_locked(h, _point) : -EAGAIN;
	}
	TALLOC_FREE(lock);
	return ret;
}

void state_handles_store_index(const struct state_handle *h)
{
	struct db_record *lock = NULL;

	if (index_db != NULL) {
		lock = index_lock(talloc_tos());
		if (lock != NULL) {
			state_handles_index_put(h);
		}
		TALLOC_FREE(lock);
	}
}

/* Of the index' own record, which may be newer than what the caller has. */
void state_handles_leave(uint64_t id, const struct server_id *owner)
{
	struct db_record *lock = NULL;
	struct state_handle *h = NULL;

	if (index_db == NULL) {
		return;
	}
	lock = index_lock(talloc_tos());
	h = state_handles_fetch(talloc_tos(), id);
	if (lock != NULL && h != NULL && h->connected &&
	    server_id_equal(&h->owner, owner)) {
		h->leaving = true;
		state_handles_index_put(h);
	}
	TALLOC_FREE(h);
	TALLOC_FREE(lock);
}

void state_handles_drop(uint64_t id)
{
	struct handle_frame frame = { .kind = HANDLE_FRAME_DROP, .id = id };
	struct state_log_point point = {};
	struct key key = key_id(id);
	struct state_handle *h = NULL;
	struct db_record *lock = NULL;

	if (index_db == NULL) {
		return;
	}
	lock = index_lock(talloc_tos());
	h = state_handles_fetch(talloc_tos(), id);
	if (lock != NULL && h != NULL) {
		frame.revision = h->record.revision + 1;
		keys_change(h, false);
		dbwrap_delete(index_db, key_data(&key));
		become_root();
		state_log_append(&frame, &point);
		unbecome_root();
	}
	TALLOC_FREE(h);
	TALLOC_FREE(lock);
}

enum handle_state state_handle_state(const struct state_handle *h)
{
	struct server_id owner = h->owner;

	if (!h->connected) {
		return HANDLE_WAITING;
	}
	return serverid_exists(&owner) ? HANDLE_CONNECTED : HANDLE_WAITING;
}

bool state_handles_claim(uint64_t id, const struct server_id *me)
{
	struct db_record *lock = NULL;
	struct state_handle *h = NULL;
	bool mine = false;

	if (index_db == NULL) {
		return false;
	}
	lock = index_lock(talloc_tos());
	h = state_handles_fetch(talloc_tos(), id);
	if (lock != NULL && h != NULL &&
	    state_handle_state(h) == HANDLE_WAITING &&
	    !handle_expired(&h->record, state_handles_now()) &&
	    (h->claimer.pid == 0 || !serverid_exists(&h->claimer))) {
		h->claimer = *me;
		mine = state_handles_index_put(h);
	}
	TALLOC_FREE(h);
	TALLOC_FREE(lock);
	return mine;
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
	struct key key = {};
	bool moved = false;

	/* Of one that is open, only its own name may tell. */
	if (h != NULL) {
		device = state_places_device(
			state_handle_state(h) == HANDLE_WAITING ? places
								: &none,
			&h->record);
		moved = device != h->record.device;
	}
	if (moved) {
		key = key_device(h->record.device);
		dbwrap_delete(index_db, key_data(&key));
		h->record.device = device;
		h->record.revision++;
		state_handles_log_put(&h->record, &point);
		state_handles_index_put(h);
	}
	TALLOC_FREE(h);
	return moved;
}

void state_handles_device(uint64_t device)
{
	struct key key = key_device(device);
	struct db_record *lock = NULL;
	struct move move = {};
	uint8_t one = 1;
	size_t moved = 0;
	size_t i = 0;

	if (index_db == NULL || dbwrap_exists(index_db, key_data(&key))) {
		return;
	}
	lock = index_lock(talloc_tos());
	if (lock == NULL) {
		return;
	}
	if (!dbwrap_exists(index_db, key_data(&key))) {
		become_root();
		state_handles_traverse(move_learn, &move);
		for (i = 0; i < move.count; i++) {
			moved += move_one(&move.places, move.ids[i]) ? 1 : 0;
		}
		unbecome_root();
		dbwrap_store(index_db, key_data(&key),
			     make_tdb_data(&one, 1), 0);
	}
	TALLOC_FREE(lock);
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

	if (index_db == NULL || (!state_log_is_long() &&
				 !state_log_is_sick())) {
		return;
	}
	lock = index_lock(talloc_tos());
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
	struct key mark = key_mark();
	uint8_t one = 1;
	struct db_record *lock = NULL;
	char *path = lock_path(talloc_tos(), "hvrs_handles.tdb");
	char *shared = lock_path(talloc_tos(), "hvrs_handles.shared");
	bool ok = true;

	if (path == NULL || shared == NULL) {
		return false;
	}
	index_db = db_open(NULL, path, SMBD_VOLATILE_TDB_HASH_SIZE,
			   SMBD_VOLATILE_TDB_FLAGS | TDB_SEQNUM,
			   O_RDWR | O_CREAT, 0600, DBWRAP_LOCK_ORDER_NONE,
			   DBWRAP_FLAG_NONE);
	if (index_db == NULL) {
		DBG_ERR("hvrs: %s cannot be opened: %s. Clients get no "
			"persistent and no resilient handles\n", path,
			strerror(errno));
		return false;
	}
	ok = state_log_open(shared, directory) == 0;
	lock = index_lock(talloc_tos());
	if (ok && lock != NULL && dbwrap_exists(index_db, key_data(&mark))) {
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
			dbwrap_store(index_db, key_data(&mark),
				     make_tdb_data(&one, 1), 0);
		}
	}
	TALLOC_FREE(lock);
	TALLOC_FREE(path);
	TALLOC_FREE(shared);
	if (!ok) {
		TALLOC_FREE(index_db);
	}
	return ok;
}

bool state_handles_init(void)
{
	const char *text = NULL;
	enum option_switch value = OPTION_AUTO;
	char *directory = NULL;

	if (index_tried) {
		return index_db != NULL;
	}
	index_tried = true;
	/* The index and the flushes know the processes of one machine. */
	if (lp_clustering()) {
		return false;
	}
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
	index_open(directory);
	unbecome_root();
	store = talloc_steal(NULL, directory);
	return index_db != NULL;
}
