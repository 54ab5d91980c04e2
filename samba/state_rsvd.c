/* The databases of shared disks. */
#include "state_rsvd.h"

#include "state_folder.h"

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "serverid.h"
#include "util_tdb.h"

#include "rsvd/fence.h"
#include "rsvd/record_file.h"

#define LIVE "hvrs_rsvd_live.tdb"
#define KEPT "hvrs_rsvd.tdb"

struct state_rsvd {
	struct db_context *live;	/* NULL on a cluster */
	struct db_context *kept;
	char *folder;
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

/* ---- the folder ---------------------------------------------------------------------- */

static bool folder_open(struct state_rsvd *db)
{
	if (!lp_clustering()) {
		db->folder = lock_path(db, "hvrs");
		return db->folder != NULL &&
			state_folder_make(db->folder, "shared disks");
	}
	db->folder = state_folder_shared(db, db->kept, "disks",
					 "shared disks");
	return db->folder != NULL;
}

struct state_rsvd *state_rsvd_open(TALLOC_CTX *mem_ctx)
{
	struct state_rsvd *db = talloc_zero(mem_ctx, struct state_rsvd);

	if (db == NULL) {
		return NULL;
	}
	/* A file may be closed under the lock of its share modes. */
	if (!lp_clustering()) {
		db->live = open_one(db, lock_path(db, LIVE),
				    DBWRAP_LOCK_ORDER_2);
	}
	db->kept = open_one(db, state_path(db, KEPT), DBWRAP_LOCK_ORDER_3);
	if ((db->live == NULL && !lp_clustering()) || db->kept == NULL ||
	    !folder_open(db)) {
		talloc_free(db);
		return NULL;
	}
	return db;
}

char *state_rsvd_path(TALLOC_CTX *mem_ctx, const struct state_rsvd *db,
		      const struct file_id *id, const char *kind)
{
	return talloc_asprintf(mem_ctx, "%s/%llx-%llx.%s", db->folder,
			       (unsigned long long)id->devid,
			       (unsigned long long)id->inode, kind);
}

bool state_rsvd_is_apart(const struct state_rsvd *db)
{
	return db->live == NULL;
}

/* ---- records ------------------------------------------------------------------------- */

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

/* The bytes of the record, under its lock. */
static int lock_bytes(struct state_rsvd *db, const struct state_rsvd_key *key,
		      unsigned wait_ms, struct state_rsvd_lock *lock,
		      TDB_DATA *_value)
{
	uint8_t bytes[16];
	char *path = NULL;
	int ret = 0;

	if (db->live != NULL) {
		lock->rec = dbwrap_fetch_locked(db->live, lock,
						live_key(key, bytes));
		if (lock->rec == NULL) {
			return -EIO;
		}
		*_value = dbwrap_record_get_value(lock->rec);
		return 0;
	}
	path = state_rsvd_path(lock, db, &key->id, "record");
	if (path == NULL) {
		return -ENOMEM;
	}
	ret = rsvd_record_file_lock(lock, path, wait_ms, &lock->file,
				    &_value->dptr, &_value->dsize);
	if (ret == -EINVAL) {
		log_strange(path, "it is damaged");
	} else if (ret == -ETIMEDOUT && wait_ms >= 1000) {
		DBG_ERR("hvrs: shared disks: %s is locked by a process of "
			"another node that does not go on\n", path);
	} else if (ret != 0 && ret != -ETIMEDOUT) {
		DBG_ERR("hvrs: shared disks: %s: %s\n", path, strerror(-ret));
	}
	TALLOC_FREE(path);
	return ret;
}

int state_rsvd_lock(TALLOC_CTX *mem_ctx, struct state_rsvd *db,
		    const struct state_rsvd_key *key, unsigned wait_ms,
		    struct state_rsvd_lock **_lock)
{
	struct state_rsvd_lock *lock = talloc_zero(mem_ctx,
						   struct state_rsvd_lock);
	const char *why = NULL;
	TDB_DATA value = {};
	int ret = 0;

	if (lock == NULL) {
		return -ENOMEM;
	}
	ret = lock_bytes(db, key, wait_ms, lock, &value);
	if (ret != 0) {
		talloc_free(lock);
		return ret;
	}
	if (value.dsize == 0) {
		lock->record = rsvd_record_create(lock);
		ret = lock->record != NULL ? 0 : -ENOMEM;
	} else {
		lock->found = true;
		ret = rsvd_record_decode(lock, value.dptr, value.dsize,
					 &lock->record, &why);
		if (ret == -EINVAL || ret == -EPROTONOSUPPORT) {
			log_strange(db->live != NULL ? LIVE : db->folder, why);
		}
	}
	if (ret != 0) {
		talloc_free(lock);
		return ret;
	}
	*_lock = lock;
	return 0;
}

static int store_file(struct state_rsvd_lock *lock)
{
	struct rsvd_record *record = lock->record;
	uint8_t *bytes = NULL;
	size_t length = 0;
	int ret = 0;

	if (record->open_count == 0) {
		/* The next one must not take old files for those in force. */
		record = rsvd_record_create(lock);
		if (record == NULL) {
			return -ENOMEM;
		}
		record->epoch = lock->record->epoch;
	}
	ret = rsvd_record_encode(lock, record, &bytes, &length);
	if (ret == 0) {
		ret = rsvd_record_file_store(lock->file, bytes, length);
	}
	TALLOC_FREE(bytes);
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: its record cannot be written: "
			"%s\n", lock->record->path != NULL ?
			lock->record->path : "", strerror(-ret));
	}
	return ret;
}

int state_rsvd_store(struct state_rsvd_lock *lock)
{
	uint8_t *bytes = NULL;
	size_t length = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	if (lock->file != NULL) {
		return store_file(lock);
	}
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

bool state_rsvd_is_alive(const struct state_rsvd *db, const char *fence,
			 const struct rsvd_record_open *open)
{
	struct server_id id = {
		.pid = open->pid, .task_id = open->task,
		.vnn = open->vnn, .unique_id = open->unique,
	};

	if (state_rsvd_is_apart(db)) {
		return rsvd_fence_is_held_at(fence, open->slot);
	}
	return serverid_exists(&id);
}

bool state_rsvd_sweep(const struct state_rsvd *db, const char *fence,
		      struct rsvd_record *record,
		      bool (*is_kept)(uint64_t open_id))
{
	bool changed = false;
	size_t i = record->open_count;

	while (i-- > 0) {
		const struct rsvd_record_open *open = &record->opens[i];

		if (!state_rsvd_is_alive(db, fence, open) &&
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
	if (value.dsize == 0) {
		/* What CTDB leaves of a record that was deleted. */
		return -ENOENT;
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
