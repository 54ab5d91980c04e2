/* The database of shadow copy sets. */
#include "state_snapsets.h"

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "util_tdb.h"

#define NAME "hvrs_fsrvp.tdb"
#define KEY "snapsets"

struct state_snapsets {
	struct db_context *db;
};

struct state_snapsets *state_snapsets_open(TALLOC_CTX *mem_ctx)
{
	struct state_snapsets *state = talloc_zero(mem_ctx,
						   struct state_snapsets);
	char *path = NULL;

	/* Writers on other nodes would not stand still for a snapshot. */
	if (lp_clustering()) {
		DBG_ERR("hvrs: fsrvp: clustering = yes: writes through other "
			"nodes could not be frozen; remote VSS does not "
			"start\n");
		talloc_free(state);
		return NULL;
	}
	if (state == NULL) {
		return NULL;
	}
	path = state_path(state, NAME);
	if (path == NULL) {
		talloc_free(state);
		return NULL;
	}
	state->db = db_open(state, path, 0, TDB_DEFAULT, O_RDWR | O_CREAT,
			    0600, DBWRAP_LOCK_ORDER_1, DBWRAP_FLAG_NONE);
	if (state->db == NULL) {
		DBG_ERR("hvrs: fsrvp: the database %s cannot be opened: %s. "
			"Remote VSS does not work until it can\n", path,
			strerror(errno));
		talloc_free(state);
		return NULL;
	}
	talloc_free(path);
	return state;
}

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
