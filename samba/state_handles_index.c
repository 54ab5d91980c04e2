/*
 * The index: a volatile database of each node with one record per handle and the
 * keys by which one is looked for.  Every change is made under one key that is
 * locked first, so that the order of the others does not matter.
 */
#include "state_handles_priv.h"
#include "state_nodes.h"

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "lib/global_contexts.h"
#include "lib/util/server_id.h"
#include "messages.h"
#include "util_tdb.h"

#define OWNER_SIZE STATE_HANDLES_HEAD
#define HEAD_SIZE (OWNER_SIZE + 12)
#define ENDED_SIZE 16
#define FILE_KEY_SIZE 24
#define CLIENT_IDS 16
#define SEEN 32
#define HEAD_CONNECTED 0x1
#define HEAD_LEAVING 0x2

/* The one handle of a file, or none, as long as the database stays as it is. */
struct seen {
	struct file_id file;
	int seqnum;		/* of the database */
	size_t count;
	uint64_t id;
};

static struct db_context *index_db;
static bool is_filled;		/* as this process knows */
static struct seen seen[SEEN];	/* by inode */

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

/* ---- the database ---------------------------------------------------------------- */

bool state_handles_index_open(const char *path)
{
	memset(seen, 0, sizeof(seen));
	/* Of this node alone, also on a cluster. */
	lp_do_parameter(GLOBAL_SECTION_SNUM, "ctdb:hvrs_handles.tdb", "no");
	index_db = db_open(NULL, path, SMBD_VOLATILE_TDB_HASH_SIZE,
			   SMBD_VOLATILE_TDB_FLAGS | TDB_SEQNUM,
			   O_RDWR | O_CREAT, 0600, DBWRAP_LOCK_ORDER_NONE,
			   DBWRAP_FLAG_NONE);
	return index_db != NULL;
}

void state_handles_index_close(void)
{
	TALLOC_FREE(index_db);
}

bool state_handles_index_is_open(void)
{
	return index_db != NULL;
}

static bool has_mark(struct key key)
{
	return dbwrap_exists(index_db, key_data(&key));
}

static void put_mark(struct key key)
{
	uint8_t one = 1;

	dbwrap_store(index_db, key_data(&key), make_tdb_data(&one, 1), 0);
}

bool state_handles_index_is_filled(void)
{
	is_filled = has_mark(key_mark());
	return is_filled;
}

void state_handles_index_filled(void)
{
	put_mark(key_mark());
	is_filled = true;
}

bool state_handles_index_device(uint64_t device)
{
	return has_mark(key_device(device));
}

void state_handles_index_device_put(uint64_t device)
{
	put_mark(key_device(device));
}

void state_handles_index_device_drop(uint64_t device)
{
	struct key key = key_device(device);

	dbwrap_delete(index_db, key_data(&key));
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
struct db_record *state_handles_index_lock(TALLOC_CTX *mem_ctx)
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
		if (index_held == 1 && is_filled) {
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
	lock = state_handles_index_lock(talloc_tos());
	TALLOC_FREE(lock);
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

static NTSTATUS ids_of_file(const struct file_id *file, struct parse *parse)
{
	struct key key = key_file(file->devid, file->inode, file->extid);

	return dbwrap_parse_record(index_db, key_data(&key), parse_ids, parse);
}

size_t state_handles_of_file(TALLOC_CTX *mem_ctx, const struct file_id *file,
			     uint64_t **_ids)
{
	struct parse parse = { .mem_ctx = mem_ctx };

	if (index_db != NULL) {
		catch_up();
		ids_of_file(file, &parse);
	}
	*_ids = parse.ids;
	return parse.count;
}

/*
 * The number is taken before the record is read: a change meanwhile makes the
 * next look a new one.  A process may end between its change and the number,
 * so this does for locks alone: none is given before that change is answered.
 */
size_t state_handles_with_locks(TALLOC_CTX *mem_ctx,
				const struct file_id *file, uint64_t **_ids)
{
	struct parse parse = { .mem_ctx = mem_ctx };
	struct seen *last = &seen[file->inode % SEEN];
	struct seen now = { .file = *file };
	NTSTATUS status = NT_STATUS_OK;

	*_ids = NULL;
	if (index_db == NULL) {
		return 0;
	}
	catch_up();
	now.seqnum = dbwrap_get_seqnum(index_db);
	if (last->seqnum == now.seqnum && file_id_equal(&last->file, file)) {
		if (last->count > 0) {
			*_ids = talloc_memdup(mem_ctx, &last->id,
					      sizeof(last->id));
		}
		return *_ids == NULL ? 0 : last->count;
	}
	status = ids_of_file(file, &parse);
	if (parse.count == 1) {
		now.id = parse.ids[0];
	}
	now.count = parse.count;
	if (parse.count == 1 || NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND)) {
		*last = now;
	}
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

