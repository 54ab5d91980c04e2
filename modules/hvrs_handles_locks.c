/*
 * The byte-range locks of a handle in smbd's database: read into the record,
 * taken away with a handle that is given up, and put in again for its owner.
 */
#include "hvrs_handles.h"

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "locking/proto.h"
#include "util_tdb.h"

static struct db_context *locks_db(void)
{
	static struct db_context *db;
	char *path = NULL;

	if (db != NULL) {
		return db;
	}
	path = lock_path(talloc_tos(), "brlock.tdb");
	if (path == NULL) {
		return NULL;
	}
	become_root();
	db = db_open(NULL, path, SMBD_VOLATILE_TDB_HASH_SIZE,
		     SMBD_VOLATILE_TDB_FLAGS | TDB_SEQNUM, O_RDWR | O_CREAT,
		     0644, DBWRAP_LOCK_ORDER_NONE, DBWRAP_FLAG_NONE);
	unbecome_root();
	TALLOC_FREE(path);
	return db;
}

static TDB_DATA locks_key(const struct file_id *file)
{
	return make_tdb_data((const uint8_t *)file, sizeof(*file));
}

struct locks_read {
	TALLOC_CTX *mem_ctx;
	uint64_t id;
	uint8_t *out;
	size_t length;
	const struct server_id *owner;	/* NULL: whoever */
	size_t others;			/* of that id, but not the owner's */
};

static void read_parser(TDB_DATA key, TDB_DATA value, void *private_data)
{
	struct locks_read *read = private_data;
	size_t count = value.dsize / sizeof(struct lock_struct);
	size_t i = 0;

	(void)key;
	read->out = talloc_array(read->mem_ctx, uint8_t,
				 count * HANDLE_LOCK_SIZE);
	for (i = 0; i < count && read->out != NULL; i++) {
		struct lock_struct lock = {};
		struct handle_lock ours = {};

		memcpy(&lock, value.dptr + i * sizeof(lock), sizeof(lock));
		if (lock.context.smblctx != read->id ||
		    lock.lock_flav != WINDOWS_LOCK) {
			continue;
		}
		if (read->owner != NULL &&
		    !server_id_equal(&lock.context.pid, read->owner)) {
			read->others++;
			continue;
		}
		ours.start = lock.start;
		ours.length = lock.size;
		ours.exclusive = lock.lock_type == WRITE_LOCK;
		handle_lock_put(read->out + read->length, &ours);
		read->length += HANDLE_LOCK_SIZE;
	}
}

bool hvrs_locks_read(TALLOC_CTX *mem_ctx, const struct file_id *file,
		     uint64_t id, uint8_t **_locks, size_t *_length)
{
	struct locks_read read = { .mem_ctx = mem_ctx, .id = id };
	struct db_context *db = locks_db();
	NTSTATUS status = NT_STATUS_INTERNAL_ERROR;

	if (db != NULL) {
		status = dbwrap_parse_record(db, locks_key(file), read_parser,
					     &read);
	}
	*_locks = read.out;
	*_length = read.length;
	return NT_STATUS_IS_OK(status) ||
		NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND);
}

bool hvrs_locks_are_there(const struct files_struct *fsp,
			  const struct handle_record *r)
{
	struct server_id me = messaging_server_id(fsp->conn->sconn->msg_ctx);
	struct locks_read read = {
		.mem_ctx = talloc_tos(), .id = r->id, .owner = &me,
	};
	struct db_context *db = locks_db();
	NTSTATUS status = NT_STATUS_INTERNAL_ERROR;

	if (db != NULL) {
		status = dbwrap_parse_record(db, locks_key(&fsp->file_id),
					     read_parser, &read);
	}
	TALLOC_FREE(read.out);
	if (!NT_STATUS_IS_OK(status) &&
	    !NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND)) {
		return true;
	}
	return read.length >= r->locks.length && read.others == 0;
}

void hvrs_locks_remove(const struct file_id *file, uint64_t id)
{
	struct db_context *db = locks_db();
	struct db_record *record = NULL;
	TDB_DATA value = {};
	uint8_t *kept = NULL;
	size_t count = 0;
	size_t length = 0;
	size_t i = 0;

	if (db == NULL || !dbwrap_exists(db, locks_key(file))) {
		return;
	}
	record = dbwrap_fetch_locked(db, talloc_tos(), locks_key(file));
	if (record == NULL) {
		return;
	}
	value = dbwrap_record_get_value(record);
	count = value.dsize / sizeof(struct lock_struct);
	kept = talloc_array(record, uint8_t, value.dsize);
	for (i = 0; i < count && kept != NULL; i++) {
		struct lock_struct lock = {};

		memcpy(&lock, value.dptr + i * sizeof(lock), sizeof(lock));
		if (lock.context.smblctx != id) {
			memcpy(kept + length, &lock, sizeof(lock));
			length += sizeof(lock);
		}
	}
	if (kept != NULL && length == 0) {
		dbwrap_record_delete(record);
	} else if (kept != NULL && length != value.dsize) {
		dbwrap_record_store(record, make_tdb_data(kept, length), 0);
	}
	TALLOC_FREE(record);
}

bool hvrs_locks_restore(struct files_struct *fsp,
			const struct handle_record *r)
{
	struct server_id me = messaging_server_id(fsp->conn->sconn->msg_ctx);
	size_t count = handle_lock_count(r);
	struct db_context *db = locks_db();
	struct db_record *record = NULL;
	TDB_DATA value = {};
	uint8_t *all = NULL;
	NTSTATUS status = NT_STATUS_NO_MEMORY;
	size_t i = 0;

	if (count == 0) {
		return true;
	}
	record = db == NULL ? NULL : dbwrap_fetch_locked(
		db, talloc_tos(), locks_key(&fsp->file_id));
	if (record == NULL) {
		return false;
	}
	value = dbwrap_record_get_value(record);
	all = talloc_zero_array(record, uint8_t, value.dsize +
				count * sizeof(struct lock_struct));
	if (all != NULL) {
		if (value.dsize > 0) {
			memcpy(all, value.dptr, value.dsize);
		}
		for (i = 0; i < count; i++) {
			struct lock_struct lock = {};
			struct handle_lock ours = {};

			handle_lock_get(r, i, &ours);
			lock.context.smblctx = r->id;
			lock.context.tid = fsp->conn->cnum;
			lock.context.pid = me;
			lock.start = ours.start;
			lock.size = ours.length;
			lock.fnum = fsp->fnum;
			lock.lock_type = ours.exclusive ? WRITE_LOCK :
				READ_LOCK;
			lock.lock_flav = WINDOWS_LOCK;
			memcpy(all + value.dsize + i * sizeof(lock), &lock,
			       sizeof(lock));
		}
		status = dbwrap_record_store(
			record, make_tdb_data(all, value.dsize + count *
					      sizeof(struct lock_struct)), 0);
		fsp->current_lock_count = (int)count;
	}
	TALLOC_FREE(record);
	return NT_STATUS_IS_OK(status);
}
