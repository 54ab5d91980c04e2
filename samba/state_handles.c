/*
 * The index: a volatile database with one record per handle and the keys by
 * which one is looked for.  Every change is made under one key that is locked
 * first, so that the order of the others does not matter.
 */
#include "state_handles_priv.h"
#include "state_nodes.h"
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

#define OWNER_SIZE STATE_HANDLES_HEAD
#define HEAD_SIZE (OWNER_SIZE + 12)
#define ENDED_SIZE 16
#define LEAP 0x10000		/* of the revision, from node to node */
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

static struct key key_ended(uint64_t id)
{
	struct key key = key_id(id);

	key.bytes[0] = 't';
	return key;
}

struct index_holder {
	uint64_t pid;
};

static unsigned int index_held;		/* by this process */

static int holder_destructor(struct index_holder *holder)
{
	index_held--;
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
		index_held++;
		talloc_set_destructor(holder, holder_destructor);
		if (index_held == 1) {
			state_handles_follow();
		}
	}
	return lock;
}

/* What is looked up is as new as what any node has written. */
static void catch_up(void)
{
	struct db_record *lock = NULL;

	if (index_db == NULL || index_held > 0 ||
	    !state_nodes_here(NULL) || !state_nodes_news()) {
		return;
	}
	lock = index_lock(talloc_tos());
	TALLOC_FREE(lock);
}

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

void state_handles_head_put(const struct state_handle *h,
			    uint8_t out[STATE_HANDLES_HEAD])
{
	SIVAL(out, 0, (h->connected ? HEAD_CONNECTED : 0) |
	      (h->leaving ? HEAD_LEAVING : 0));
	server_put(out + 4, &h->owner);
	SBVAL(out, 28, h->gen_id);
	server_put(out + 36, &h->claimer);
}

static void head_get(const uint8_t *bytes, struct state_handle *h)
{
	h->connected = (IVAL(bytes, 0) & HEAD_CONNECTED) != 0;
	h->leaving = (IVAL(bytes, 0) & HEAD_LEAVING) != 0;
	server_get(bytes + 4, &h->owner);
	h->gen_id = BVAL(bytes, 28);
	server_get(bytes + 36, &h->claimer);
}

int state_handles_decode(struct handle_bytes payload, struct state_handle *_h,
			 const char **why)
{
	if (payload.length < OWNER_SIZE) {
		*why = "it is cut off";
		return -EINVAL;
	}
	head_get(payload.data, _h);
	return handle_record_decode(payload.data + OWNER_SIZE,
				    payload.length - OWNER_SIZE, &_h->record,
				    why);
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
	state_handles_head_put(h, bytes);
	SIVAL(bytes, OWNER_SIZE, h->home);
	SBVAL(bytes, OWNER_SIZE + 4, h->logs);
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
	head_get(bytes, h);
	h->home = IVAL(bytes, OWNER_SIZE);
	h->logs = BVAL(bytes, OWNER_SIZE + 4);
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

struct state_handle *state_handles_index_get(TALLOC_CTX *mem_ctx, uint64_t id)
{
	struct parse parse = { .mem_ctx = mem_ctx };
	struct key key = key_id(id);

	if (index_db != NULL) {
		dbwrap_parse_record(index_db, key_data(&key), parse_handle,
				    &parse);
	}
	return parse.h;
}

struct state_handle *state_handles_fetch(TALLOC_CTX *mem_ctx, uint64_t id)
{
	catch_up();
	return state_handles_index_get(mem_ctx, id);
}

static struct state_handle *fetch_through(TALLOC_CTX *mem_ctx,
					  struct key *key)
{
	struct parse parse = { .mem_ctx = mem_ctx };
	struct state_handle *h = NULL;

	if (index_db == NULL) {
		return NULL;
	}
	catch_up();
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
	catch_up();
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
	catch_up();
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

bool state_handles_index_put(const struct state_handle *h, uint32_t home)
{
	struct state_handle *old = state_handles_index_get(talloc_tos(),
							   h->record.id);
	struct state_handle new = *h;
	struct key key = key_id(h->record.id);
	size_t length = 0;
	uint8_t *bytes = NULL;
	NTSTATUS status = NT_STATUS_OK;

	new.home = home;
	new.logs = (old != NULL ? old->logs : 0) | 1ULL << home;
	bytes = handle_pack(talloc_tos(), &new, &length);
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

void state_handles_index_logs(const struct state_handle *h, uint64_t logs)
{
	struct state_handle new = *h;
	struct key key = key_id(h->record.id);
	size_t length = 0;
	uint8_t *bytes = NULL;

	new.logs = logs;
	bytes = handle_pack(talloc_tos(), &new, &length);
	if (bytes != NULL) {
		dbwrap_store(index_db, key_data(&key),
			     make_tdb_data(bytes, length), 0);
	}
	TALLOC_FREE(bytes);
}

void state_handles_index_drop(const struct state_handle *h)
{
	struct key key = key_id(h->record.id);

	keys_change(h, false);
	dbwrap_delete(index_db, key_data(&key));
}

/* ---- what has ended, on a cluster ---------------------------------------------- */

void state_handles_ended_put(const struct state_handles_ended *ended)
{
	struct key key = key_ended(ended->id);
	uint8_t bytes[ENDED_SIZE] = {};

	SIVAL(bytes, 0, ended->revision);
	SIVAL(bytes, 4, ended->home);
	SBVAL(bytes, 8, ended->logs);
	dbwrap_store(index_db, key_data(&key),
		     make_tdb_data(bytes, sizeof(bytes)), 0);
}

void state_handles_ended_forget(uint64_t id)
{
	struct key key = key_ended(id);

	dbwrap_delete(index_db, key_data(&key));
}

static void parse_ended(TDB_DATA key, TDB_DATA value, void *private_data)
{
	struct state_handles_ended *ended = private_data;

	if (key.dsize == 9 && value.dsize == ENDED_SIZE) {
		ended->id = BVAL(key.dptr, 1);
		ended->revision = IVAL(value.dptr, 0);
		ended->home = IVAL(value.dptr, 4);
		ended->logs = BVAL(value.dptr, 8);
	}
}

bool state_handles_ended_get(uint64_t id, struct state_handles_ended *_ended)
{
	struct key key = key_ended(id);

	*_ended = (struct state_handles_ended){};
	dbwrap_parse_record(index_db, key_data(&key), parse_ended, _ended);
	return _ended->logs != 0;
}

struct ended_traverse {
	bool (*fn)(const struct state_handles_ended *ended, void *data);
	void *data;
};

static int ended_traverse_one(struct db_record *rec, void *private_data)
{
	struct ended_traverse *traverse = private_data;
	struct state_handles_ended ended = {};
	TDB_DATA key = dbwrap_record_get_key(rec);

	if (key.dsize == 9 && key.dptr[0] == 't') {
		parse_ended(key, dbwrap_record_get_value(rec), &ended);
		if (ended.logs != 0 && !traverse->fn(&ended,
						     traverse->data)) {
			return -1;
		}
	}
	return 0;
}

void state_handles_ended_traverse(
	bool (*fn)(const struct state_handles_ended *ended, void *data),
	void *data)
{
	struct ended_traverse traverse = { .fn = fn, .data = data };

	dbwrap_traverse_read(index_db, ended_traverse_one, &traverse, NULL);
}

/* ---- all of them ---------------------------------------------------------------- */

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
		catch_up();
		dbwrap_traverse_read(index_db, traverse_one, &traverse, NULL);
	}
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

	if (index_db == NULL) {
		return -EIO;
	}
	if (state_nodes_here(NULL)) {
		ret = state_nodes_own(h->owner.unique_id);
		if (ret != 0) {
			return ret;
		}
	}
	lock = index_lock(talloc_tos());
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

	if (index_db == NULL || !places_lock()) {
		return -EIO;
	}
	lock = index_lock(talloc_tos());
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

	if (index_db != NULL) {
		lock = index_lock(talloc_tos());
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

	if (index_db == NULL) {
		return;
	}
	lock = index_lock(talloc_tos());
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

	if (index_db == NULL) {
		return;
	}
	lock = index_lock(talloc_tos());
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

	if (index_db == NULL ||
	    (cluster && state_nodes_own(me->unique_id) != 0) ||
	    !places_lock()) {
		return false;
	}
	lock = index_lock(talloc_tos());
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
	struct key key = {};
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
		key = key_device(h->record.device);
		dbwrap_delete(index_db, key_data(&key));
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
	struct key key = key_device(device);
	struct db_record *lock = NULL;
	struct move move = {};
	uint8_t one = 1;
	size_t moved = 0;
	size_t i = 0;

	if (index_db == NULL || dbwrap_exists(index_db, key_data(&key)) ||
	    !places_lock()) {
		return;
	}
	lock = index_lock(talloc_tos());
	if (lock == NULL) {
		places_unlock();
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
	char name[32] = "handles.log";
	bool ok = true;

	if (path == NULL || shared == NULL) {
		return false;
	}
	/* Of this node alone, also on a cluster. */
	lp_do_parameter(GLOBAL_SECTION_SNUM, "ctdb:hvrs_handles.tdb", "no");
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
	if (state_nodes_here(NULL)) {
		state_nodes_log_name(here(), name);
	}
	ok = state_log_open(shared, directory, name) == 0;
	/* What is in it is read when it is known to be whole. */
	index_held++;
	lock = index_lock(talloc_tos());
	index_held--;
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
		return index_db != NULL;
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
	return index_db != NULL;
}
