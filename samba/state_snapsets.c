/* The database of shadow copy sets. */
#include "state_snapsets.h"

#include <fcntl.h>
#include <unistd.h>

#include "state_folder.h"

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "util_tdb.h"

#define NAME "hvrs_fsrvp.tdb"
#define KEY "snapsets"

/* How long another node may have the state. */
#define LOCK_TRIES 200
#define LOCK_WAIT_US 5000

struct state_snapsets {
	struct db_context *db;
	int lock;		/* of a cluster, else -1 */
	unsigned held;
};

/* ---- the database ------------------------------------------------------------- */

static struct db_context *open_db(TALLOC_CTX *mem_ctx)
{
	char *path = state_path(mem_ctx, NAME);
	struct db_context *db = NULL;

	if (path == NULL) {
		return NULL;
	}
	db = db_open(mem_ctx, path, 0, TDB_DEFAULT, O_RDWR | O_CREAT, 0600,
		     DBWRAP_LOCK_ORDER_1, DBWRAP_FLAG_NONE);
	if (db == NULL) {
		DBG_ERR("hvrs: fsrvp: the database %s cannot be opened: %s. "
			"Remote VSS does not work until it can\n", path,
			strerror(errno));
	}
	talloc_free(path);
	return db;
}

static int state_destructor(struct state_snapsets *state)
{
	if (state->lock != -1) {
		close(state->lock);
	}
	return 0;
}

static bool open_lock(struct state_snapsets *state)
{
	char *folder = state_folder_shared(state, state->db, "vss",
					   "remote VSS");
	char *path = folder == NULL ? NULL :
		talloc_asprintf(folder, "%s/lock", folder);

	if (path == NULL) {
		return false;
	}
	state->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
			   0600);
	if (state->lock == -1) {
		DBG_ERR("hvrs: fsrvp: %s: %s. Remote VSS does not work until "
			"it can be opened\n", path, strerror(errno));
	}
	talloc_free(folder);
	return state->lock != -1;
}

struct state_snapsets *state_snapsets_open(TALLOC_CTX *mem_ctx)
{
	struct state_snapsets *state = talloc_zero(mem_ctx,
						   struct state_snapsets);

	if (state == NULL) {
		return NULL;
	}
	state->lock = -1;
	talloc_set_destructor(state, state_destructor);
	state->db = open_db(state);
	if (state->db == NULL || (lp_clustering() && !open_lock(state))) {
		talloc_free(state);
		return NULL;
	}
	return state;
}

/* ---- nodes take turns ---------------------------------------------------------- */

static int set_lock(const struct state_snapsets *db, short type)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_len = 1,
	};

	return fcntl(db->lock, F_OFD_SETLK, &lock) == 0 ? 0 : -errno;
}

int state_snapsets_begin(struct state_snapsets *db, bool *_first)
{
	unsigned tries = 0;
	int ret = 0;

	*_first = false;
	if (db->lock == -1) {
		return 0;
	}
	if (db->held == 0) {
		ret = set_lock(db, F_WRLCK);
		while (ret != 0 && tries++ < LOCK_TRIES) {
			usleep(LOCK_WAIT_US);
			ret = set_lock(db, F_WRLCK);
		}
		if (ret != 0) {
			return -EBUSY;
		}
		*_first = true;
	}
	db->held++;
	return 0;
}

void state_snapsets_end(struct state_snapsets *db)
{
	if (db->lock != -1 && --db->held == 0) {
		set_lock(db, F_UNLCK);
	}
}

int state_snapsets_freeze(TALLOC_CTX *mem_ctx, uint64_t device,
			  struct snapset_freeze **_freeze)
{
	struct db_context *db = NULL;
	char *folder = NULL;
	char *path = NULL;
	int ret = -ENOTDIR;

	if (!lp_clustering()) {
		return snapset_freeze_open(mem_ctx, lp_lock_directory(), device,
					   _freeze);
	}
	db = open_db(mem_ctx);
	if (db != NULL) {
		folder = state_folder_shared(db, db, "vss", "remote VSS");
	}
	if (folder != NULL) {
		path = talloc_asprintf(folder, "%s/freeze", folder);
		ret = path == NULL ? -ENOMEM :
			snapset_freeze_open_apart(mem_ctx, path, _freeze);
	}
	TALLOC_FREE(db);
	return ret;
}

/* ---- the record ---------------------------------------------------------------- */

int state_snapsets_load(TALLOC_CTX *mem_ctx, struct state_snapsets *db,
			struct snapset_state **_state)
{
	TDB_DATA value = {};
	const char *why = "there is no memory";
	NTSTATUS status = dbwrap_fetch_bystring(db->db, mem_ctx, KEY, &value);
	int ret = 0;

	if (NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND)) {
		*_state = snapset_state_new(mem_ctx);
		return *_state != NULL ? 0 : -ENOMEM;
	}
	if (!NT_STATUS_IS_OK(status)) {
		DBG_ERR("hvrs: fsrvp: the database %s cannot be read: %s\n",
			NAME, nt_errstr(status));
		return -EIO;
	}
	ret = snapset_decode(mem_ctx, value.dptr, value.dsize, _state, &why);
	if (ret != 0) {
		DBG_ERR("hvrs: fsrvp: the state in %s is not understood: %s. "
			"It is left as it is, and remote VSS refuses to work; "
			"install the hvrs that wrote it, or remove the file "
			"when no shadow copy is needed any more\n", NAME, why);
	}
	TALLOC_FREE(value.dptr);
	return ret;
}

int state_snapsets_store(struct state_snapsets *db,
			 const struct snapset_state *state)
{
	uint8_t *bytes = NULL;
	size_t length = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = snapset_encode(db, state, &bytes, &length);

	if (ret != 0) {
		return ret;
	}
	status = dbwrap_trans_store_bystring(
		db->db, KEY, make_tdb_data(bytes, length), TDB_REPLACE);
	talloc_free(bytes);
	if (!NT_STATUS_IS_OK(status)) {
		DBG_ERR("hvrs: fsrvp: the state cannot be stored in %s: %s "
			"(is the disk full?). The request is refused\n", NAME,
			nt_errstr(status));
		return -EIO;
	}
	return 0;
}
