/* The databases of shared disks. */
#include "state_rsvd.h"

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "serverid.h"
#include "util_tdb.h"

#define LIVE "hvrs_rsvd_live.tdb"
#define KEPT "hvrs_rsvd.tdb"

struct state_rsvd {
	struct db_context *live;
	struct db_context *kept;
};

static struct db_context *open_one(TALLOC_CTX *mem_ctx, char *path,
				   enum dbwrap_lock_order order)
{
	struct db_context *db = NULL;

	if (path == NULL) {
		return NULL;
	}
	db = db_open(mem_ctx, path, 0, TDB_DEFAULT, O_RDWR | O_CREAT, 0600,
		     order, DBWRAP_FLAG_NONE);
	if (db == NULL) {
		DBG_ERR("hvrs: shared disks: the database %s cannot be opened: "
			"%s. Shared disks do not work until it can\n", path,
			strerror(errno));
	}
	talloc_free(path);
	return db;
}

struct state_rsvd *state_rsvd_open(TALLOC_CTX *mem_ctx)
{
	struct state_rsvd *db = talloc_zero(mem_ctx, struct state_rsvd);

	if (db == NULL) {
		return NULL;
	}
	/* A file may be closed under the lock of its share modes. */
	db->live = open_one(db, lock_path(db, LIVE), DBWRAP_LOCK_ORDER_2);
	db->kept = open_one(db, state_path(db, KEPT), DBWRAP_LOCK_ORDER_3);
	if (db->live == NULL || db->kept == NULL) {
		talloc_free(db);
		return NULL;
	}
	return db;
}

static void log_strange(const char *name, const char *why)
{
	DBG_ERR("hvrs: shared disks: a record in %s is not understood: %s. It "
		"is left as it is, and its disk cannot be opened shared; "
		"install the hvrs that wrote it, or remove the file while no "
		"shared disk is open\n", name, why);
}

static TDB_DATA live_key(const struct state_rsvd_key *key, uint8_t out[16])
{
	push_file_id_16((void *)out, &key->id);
	return make_tdb_data(out, 16);
}

int state_rsvd_lock(TALLOC_CTX *mem_ctx, struct state_rsvd *db,
		    const struct state_rsvd_key *key,
		    struct state_rsvd_lock **_lock)
{
	struct state_rsvd_lock *lock = talloc_zero(mem_ctx,
						   struct state_rsvd_lock);
	const char *why = NULL;
	uint8_t bytes[16];
	TDB_DATA value = {};
	int ret = 0;

	if (lock == NULL) {
		return -ENOMEM;
	}
	lock->rec = dbwrap_fetch_locked(db->live, lock, live_key(key, bytes));
	if (lock->rec == NULL) {
		talloc_free(lock);
		return -EIO;
	}
	value = dbwrap_record_get_value(lock->rec);
	if (value.dsize == 0) {
		lock->record = rsvd_record_create(lock);
		ret = lock->record != NULL ? 0 : -ENOMEM;
	} else {
		lock->found = true;
		ret = rsvd_record_decode(lock, value.dptr, value.dsize,
					 &lock->record, &why);
		if (ret == -EINVAL || ret == -EPROTONOSUPPORT) {
			log_strange(LIVE, why);
		}
	}
	if (ret != 0) {
		talloc_free(lock);
		return ret;
	}
	*_lock = lock;
	return 0;
}

int state_rsvd_store(struct state_rsvd_lock *lock)
{
	uint8_t *bytes = NULL;
	size_t length = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	if (lock->record->open_count == 0) {
		status = dbwrap_record_delete(lock->rec);
		if (NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND)) {
			status = NT_STATUS_OK;
		}
	} else {
		ret = rsvd_record_encode(lock, lock->record, &bytes, &length);
		if (ret != 0) {
			return ret;
		}
		status = dbwrap_record_store(
			lock->rec, make_tdb_data(bytes, length), TDB_REPLACE);
		talloc_free(bytes);
	}
	if (!NT_STATUS_IS_OK(status)) {
		DBG_ERR("hvrs: shared disks: %s cannot be written: %s\n", LIVE,
			nt_errstr(status));
		return -EIO;
	}
	return 0;
}

bool state_rsvd_sweep(struct rsvd_record *record,
		      bool (*is_kept)(uint64_t open_id))
{
	bool changed = false;
	size_t i = record->open_count;

	while (i-- > 0) {
		const struct rsvd_record_open *open = &record->opens[i];
		struct server_id id = {
			.pid = open->pid, .task_id = open->task,
			.vnn = open->vnn, .unique_id = open->unique,
		};

		if (!serverid_exists(&id) &&
		    !(open->persistent && is_kept(open->open_id))) {
			rsvd_record_open_remove(record, i);
			changed = true;
		}
	}
	return changed;
}

/* ---- what APTPL keeps ------------------------------------------------------------- */

static TDB_DATA kept_key(const struct state_rsvd_key *key, uint8_t out[40])
{
	memcpy(out, key->lasting, 40);
	return make_tdb_data(out, 40);
}

int state_rsvd_kept_load(struct state_rsvd *db,
			 const struct state_rsvd_key *key,
			 struct scsi_pr *_pr)
{
	uint8_t bytes[40];
	const char *why = NULL;
	TDB_DATA value = {};
	NTSTATUS status = dbwrap_fetch(db->kept, talloc_tos(),
				       kept_key(key, bytes), &value);
	int ret = 0;

	if (NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND)) {
		return -ENOENT;
	}
	if (!NT_STATUS_IS_OK(status)) {
		return -EIO;
	}
	ret = scsi_pr_decode(value.dptr, value.dsize, _pr, &why);
	if (ret == 0) {
		ret = scsi_pr_validate(_pr, &why);
	}
	if (ret != 0) {
		log_strange(KEPT, why);
	}
	TALLOC_FREE(value.dptr);
	return ret;
}

int state_rsvd_kept_store(struct state_rsvd *db,
			  const struct state_rsvd_key *key,
			  const struct scsi_pr *pr)
{
	uint8_t key_bytes[40];
	TDB_DATA tdb_key = kept_key(key, key_bytes);
	uint8_t *bytes = NULL;
	NTSTATUS status = NT_STATUS_OK;

	if (pr == NULL) {
		if (!dbwrap_exists(db->kept, tdb_key)) {
			return 0;
		}
		status = dbwrap_trans_delete(db->kept, tdb_key);
	} else {
		bytes = talloc_size(talloc_tos(), scsi_pr_size(pr));
		if (bytes == NULL) {
			return -ENOMEM;
		}
		scsi_pr_encode(pr, bytes);
		status = dbwrap_trans_store(
			db->kept, tdb_key,
			make_tdb_data(bytes, scsi_pr_size(pr)), TDB_REPLACE);
		TALLOC_FREE(bytes);
	}
	if (!NT_STATUS_IS_OK(status)) {
		DBG_ERR("hvrs: shared disks: %s cannot be written: %s (is the "
			"disk full?). The reservation command is refused\n",
			KEPT, nt_errstr(status));
		return -EIO;
	}
	return 0;
}
