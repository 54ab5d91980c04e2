/*
 * The byte-range locks of a handle in smbd's database: read into the record,
 * taken away with a handle that is given up, and put in again for its owner.
 *
 * On a cluster the record is what counts: after the end of a node, or when one
 * is back that was cut off, CTDB may go on with an older copy of what is in the
 * database.  So the record follows each change of a lock, and the database is
 * made what the record says, before that with the file's locks locked.
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
		     0644, DBWRAP_LOCK_ORDER_NONE, series_db_flags());
	unbecome_root();
	TALLOC_FREE(path);
	return db;
}

static TDB_DATA locks_key(const struct file_id *file)
{
	return make_tdb_data((const uint8_t *)file, sizeof(*file));
}

static size_t locks_count(TDB_DATA value)
{
	return value.dsize <= SERIES_LOCKS_HEADER ? 0 :
		(value.dsize - SERIES_LOCKS_HEADER) /
		sizeof(struct lock_struct);
}

static struct lock_struct lock_at(TDB_DATA value, size_t i)
{
	struct lock_struct lock = {};

	memcpy(&lock, value.dptr + SERIES_LOCKS_HEADER + i * sizeof(lock),
	       sizeof(lock));
	return lock;
}

struct locks_read {
	TALLOC_CTX *mem_ctx;
	uint64_t id;
	uint8_t *out;
	size_t length;
	struct lock_struct *all;	/* of that id, as they are there */
	size_t count;
};

static bool is_of(const struct lock_struct *lock, uint64_t id)
{
	return lock->context.smblctx == id && lock->lock_flav == WINDOWS_LOCK;
}

static void lock_to_record(const struct lock_struct *lock,
			   uint8_t out[HANDLE_LOCK_SIZE])
{
	struct handle_lock ours = {
		.start = lock->start, .length = lock->size,
		.exclusive = lock->lock_type == WRITE_LOCK,
	};

	handle_lock_put(out, &ours);
}

static void read_parser(TDB_DATA key, TDB_DATA value, void *private_data)
{
	struct locks_read *read = private_data;
	size_t count = locks_count(value);
	size_t i = 0;

	(void)key;
	read->out = talloc_array(read->mem_ctx, uint8_t,
				 count * HANDLE_LOCK_SIZE);
	read->all = talloc_array(read->out, struct lock_struct, count);
	for (i = 0; i < count && read->all != NULL; i++) {
		struct lock_struct lock = lock_at(value, i);

		if (is_of(&lock, read->id)) {
			read->all[read->count++] = lock;
			lock_to_record(&lock, read->out + read->length);
			read->length += HANDLE_LOCK_SIZE;
		}
	}
}

/* False where they are not known. */
static bool locks_read(const struct file_id *file, struct locks_read *read)
{
	struct db_context *db = locks_db();
	NTSTATUS status = NT_STATUS_INTERNAL_ERROR;

	if (db != NULL) {
		status = dbwrap_parse_record(db, locks_key(file), read_parser,
					     read);
	}
	return NT_STATUS_IS_OK(status) ||
		NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND);
}

bool hvrs_locks_read(TALLOC_CTX *mem_ctx, const struct file_id *file,
		     uint64_t id, uint8_t **_locks, size_t *_length)
{
	struct locks_read read = { .mem_ctx = mem_ctx, .id = id };
	bool known = locks_read(file, &read);

	*_locks = read.out;
	*_length = read.length;
	return known;
}

static int lock_compare(const void *a, const void *b)
{
	return memcmp(a, b, HANDLE_LOCK_SIZE);
}

/* Whether they are the same, in whatever order; sorts the first. */
static bool same_locks(uint8_t *locks, size_t length, struct handle_bytes b)
{
	uint8_t *sorted = NULL;
	bool same = length == b.length;

	if (!same || length == 0) {
		return same;
	}
	sorted = talloc_memdup(talloc_tos(), b.data, length);
	if (sorted == NULL) {
		return true;
	}
	qsort(locks, length / HANDLE_LOCK_SIZE, HANDLE_LOCK_SIZE,
	      lock_compare);
	qsort(sorted, length / HANDLE_LOCK_SIZE, HANDLE_LOCK_SIZE,
	      lock_compare);
	same = memcmp(locks, sorted, length) == 0;
	TALLOC_FREE(sorted);
	return same;
}

static bool are_right(struct locks_read *read, const struct server_id *me,
		      const struct handle_record *r)
{
	size_t i = 0;

	for (i = 0; i < read->count; i++) {
		if (!server_id_equal(&read->all[i].context.pid, me)) {
			return false;
		}
	}
	return same_locks(read->out, read->length, r->locks);
}

bool hvrs_locks_are_there(const struct files_struct *fsp,
			  const struct handle_record *r)
{
	struct server_id me = messaging_server_id(fsp->conn->sconn->msg_ctx);
	struct locks_read read = { .mem_ctx = talloc_tos(), .id = r->id };
	bool right = !locks_read(&fsp->file_id, &read) ||
		are_right(&read, &me, r);

	TALLOC_FREE(read.out);
	return right;
}

void hvrs_locks_remove(const struct file_id *file, uint64_t id)
{
	struct db_context *db = locks_db();
	struct db_record *record = NULL;
	TDB_DATA value = {};
	uint8_t *kept = NULL;
	size_t count = 0;
	size_t length = SERIES_LOCKS_HEADER;
	size_t i = 0;
	int flags = 0;

	if (db == NULL || !dbwrap_exists(db, locks_key(file))) {
		return;
	}
	record = dbwrap_fetch_locked(db, talloc_tos(), locks_key(file));
	if (record == NULL) {
		return;
	}
	value = dbwrap_record_get_value(record);
	count = locks_count(value);
	kept = talloc_array(record, uint8_t, value.dsize +
			    SERIES_LOCKS_HEADER);
	for (i = 0; i < count && kept != NULL; i++) {
		struct lock_struct lock = lock_at(value, i);

		if (lock.context.smblctx != id) {
			memcpy(kept + length, &lock, sizeof(lock));
			length += sizeof(lock);
			flags |= series_lock_flags(&lock);
		}
	}
	if (kept != NULL && length == SERIES_LOCKS_HEADER) {
		dbwrap_record_delete(record);
	} else if (kept != NULL && length != value.dsize) {
		series_locks_begin(kept);
		dbwrap_record_store(record, make_tdb_data(kept, length),
				    flags);
	}
	TALLOC_FREE(record);
}

static struct lock_struct lock_back(const struct files_struct *fsp,
				    const struct handle_record *r, size_t i)
{
	struct handle_lock ours = {};

	handle_lock_get(r, i, &ours);
	return (struct lock_struct){
		.context = {
			.smblctx = r->id,
			.tid = fsp->conn->cnum,
			.pid = messaging_server_id(
				fsp->conn->sconn->msg_ctx),
		},
		.start = ours.start,
		.size = ours.length,
		.fnum = fsp->fnum,
		.lock_type = ours.exclusive ? WRITE_LOCK : READ_LOCK,
		.lock_flav = WINDOWS_LOCK,
	};
}

bool hvrs_locks_restore(struct files_struct *fsp,
			const struct handle_record *r)
{
	size_t count = handle_lock_count(r);
	struct db_context *db = locks_db();
	struct db_record *record = NULL;
	TDB_DATA value = {};
	uint8_t *all = NULL;
	size_t before = 0;
	int flags = 0;
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
	before = MAX(value.dsize, SERIES_LOCKS_HEADER);
	all = talloc_zero_array(record, uint8_t, before +
				count * sizeof(struct lock_struct));
	if (all != NULL) {
		if (value.dsize > 0) {
			memcpy(all, value.dptr, value.dsize);
		}
		series_locks_begin(all);
		for (i = 0; i < locks_count(value); i++) {
			struct lock_struct lock = lock_at(value, i);

			flags |= series_lock_flags(&lock);
		}
		for (i = 0; i < count; i++) {
			struct lock_struct lock = lock_back(fsp, r, i);

			memcpy(all + before + i * sizeof(lock), &lock,
			       sizeof(lock));
		}
		status = dbwrap_record_store(
			record, make_tdb_data(all, before + count *
					      sizeof(struct lock_struct)),
			flags);
		fsp->current_lock_count = (int)count;
	}
	TALLOC_FREE(record);
	return NT_STATUS_IS_OK(status);
}

/* ---- a change, with the file's locks locked ------------------------------------ */

/* What was repaired already, for as long as it is locked. */
static struct repaired {
	const struct byte_range_lock *br_lck;
} *repaired;

static int repaired_destructor(struct repaired *one)
{
	if (repaired == one) {
		repaired = NULL;
	}
	return 0;
}

/* What another copy of it would say is not in the database yet. */
static bool is_first(struct byte_range_lock *br_lck)
{
	if (repaired != NULL && repaired->br_lck == br_lck) {
		return false;
	}
	repaired = talloc_zero(br_lck, struct repaired);
	if (repaired != NULL) {
		repaired->br_lck = br_lck;
		talloc_set_destructor(repaired, repaired_destructor);
	}
	return repaired != NULL;
}

static void repair(struct vfs_handle_struct *handle,
		   struct byte_range_lock *br_lck, struct files_struct *fsp,
		   const struct handle_record *r)
{
	struct server_id me = messaging_server_id(fsp->conn->sconn->msg_ctx);
	struct locks_read read = { .mem_ctx = talloc_tos(), .id = r->id };
	size_t i = 0;

	if (!is_first(br_lck) || !locks_read(&fsp->file_id, &read) ||
	    are_right(&read, &me, r)) {
		TALLOC_FREE(read.out);
		return;
	}
	DBG_NOTICE("hvrs: %s: its locks in the cluster's database are those of "
		   "an older copy; they are put right\n", fsp_str_dbg(fsp));
	for (i = 0; i < read.count; i++) {
		read.all[i].lock_type = UNLOCK_LOCK;
		SMB_VFS_NEXT_BRL_UNLOCK_WINDOWS(handle, br_lck, &read.all[i]);
	}
	for (i = 0; i < handle_lock_count(r); i++) {
		struct lock_struct lock = lock_back(fsp, r, i);

		SMB_VFS_NEXT_BRL_LOCK_WINDOWS(handle, br_lck, &lock);
	}
	TALLOC_FREE(read.out);
}

/* The handle that a change is of, where it has to be noted in its record. */
static struct hvrs_open *changing(struct vfs_handle_struct *handle,
				  struct byte_range_lock *br_lck,
				  const struct lock_struct *lock)
{
	struct files_struct *fsp = brl_fsp(br_lck);
	struct hvrs_open *open = lp_clustering() ? hvrs_open_of(fsp) : NULL;

	if (open == NULL || !open->stored ||
	    !is_of(lock, open->h.record.id)) {
		return NULL;
	}
	repair(handle, br_lck, fsp, &open->h.record);
	return open;
}

static void note(struct hvrs_open *open, const uint8_t *kept, size_t length,
		 const uint8_t *more, size_t more_length)
{
	struct handle_bytes old = open->h.record.locks;
	uint8_t *all = talloc_array(open->locks, uint8_t,
				    length + more_length);

	if (all == NULL) {
		smb_panic("hvrs: no memory for the locks of a handle");
	}
	if (length > 0) {
		memcpy(all, kept, length);
	}
	if (more_length > 0) {
		memcpy(all + length, more, more_length);
	}
	open->h.record.locks = (struct handle_bytes){
		.data = all, .length = length + more_length };
	open->relocked = true;
	talloc_free(discard_const_p(uint8_t, old.data));
}

NTSTATUS hvrs_handles_lock(struct vfs_handle_struct *handle,
			   struct byte_range_lock *br_lck,
			   struct lock_struct *lock)
{
	struct hvrs_open *open = changing(handle, br_lck, lock);
	uint8_t ours[HANDLE_LOCK_SIZE] = {};
	NTSTATUS status = SMB_VFS_NEXT_BRL_LOCK_WINDOWS(handle, br_lck, lock);

	if (open != NULL && NT_STATUS_IS_OK(status)) {
		lock_to_record(lock, ours);
		note(open, open->h.record.locks.data,
		     open->h.record.locks.length, ours, sizeof(ours));
	}
	return status;
}

/* smbd takes the first of these bounds away, shared or exclusive. */
bool hvrs_handles_unlock(struct vfs_handle_struct *handle,
			 struct byte_range_lock *br_lck,
			 const struct lock_struct *lock)
{
	struct hvrs_open *open = changing(handle, br_lck, lock);
	struct handle_bytes locks = {};
	size_t i = 0;

	if (!SMB_VFS_NEXT_BRL_UNLOCK_WINDOWS(handle, br_lck, lock)) {
		return false;
	}
	for (i = 0; open != NULL && i < handle_lock_count(&open->h.record);
	     i++) {
		struct handle_lock ours = {};
		size_t at = i * HANDLE_LOCK_SIZE;

		handle_lock_get(&open->h.record, i, &ours);
		if (ours.start == lock->start && ours.length == lock->size) {
			locks = open->h.record.locks;
			note(open, locks.data, at,
			     locks.data + at + HANDLE_LOCK_SIZE,
			     locks.length - at - HANDLE_LOCK_SIZE);
			break;
		}
	}
	return true;
}
