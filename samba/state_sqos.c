/* The databases of storage QoS. */
#include "state_sqos.h"

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "lib/util_procid.h"
#include "util_tdb.h"

#undef DBGC_CLASS
#define DBGC_CLASS DBGC_VFS

#define POLICIES	"hvrs_sqos.tdb"
#define FLOWS		"hvrs_sqos_flows.tdb"
#define GROUPS		"hvrs_sqos_groups.tdb"
#define NODES		"hvrs_sqos_nodes.tdb"
#define KEY_MAX		32

static struct db_context *policies;
static struct db_context *flows;
static struct db_context *groups;	/* locked while a flow is */
static struct db_context *nodes;	/* locked while a group is */

struct state_sqos_lock {
	struct db_record *record;
};

/* One whose content is of use while smbd runs. */
static struct db_context *open_volatile(const char *name,
					enum dbwrap_lock_order order)
{
	char *path = lock_path(talloc_tos(), name);
	struct db_context *db = NULL;

	if (path != NULL) {
		db = db_open(NULL, path, 0,
			     TDB_CLEAR_IF_FIRST | TDB_INCOMPATIBLE_HASH,
			     O_RDWR | O_CREAT, 0600, order,
			     DBWRAP_FLAG_NONE);
	}
	TALLOC_FREE(path);
	return db;
}

bool state_sqos_open(void)
{
	char *path = NULL;

	path = state_path(talloc_tos(), POLICIES);
	if (path != NULL && policies == NULL) {
		policies = db_open(NULL, path, 0, TDB_DEFAULT,
				   O_RDWR | O_CREAT, 0600,
				   DBWRAP_LOCK_ORDER_2, DBWRAP_FLAG_NONE);
	}
	TALLOC_FREE(path);
	if (flows == NULL) {
		flows = open_volatile(FLOWS, DBWRAP_LOCK_ORDER_2);
	}
	if (groups == NULL) {
		groups = open_volatile(GROUPS, DBWRAP_LOCK_ORDER_3);
	}
	if (lp_clustering() && nodes == NULL) {
		nodes = open_volatile(NODES, DBWRAP_LOCK_ORDER_4);
	}
	if (policies == NULL || flows == NULL || groups == NULL ||
	    (lp_clustering() && nodes == NULL)) {
		DBG_ERR("hvrs: the databases of storage QoS (%s, %s, %s%s) "
			"cannot be opened: %s. It stays off\n", POLICIES,
			FLOWS, GROUPS, lp_clustering() ? ", " NODES : "",
			strerror(errno));
		return false;
	}
	return true;
}

static TDB_DATA guid_key(const struct guid *id)
{
	return make_tdb_data(id->bytes, sizeof(id->bytes));
}

int state_sqos_policy(const struct guid *id, struct sqos_policy *_policy)
{
	TDB_DATA value = {};
	NTSTATUS status = dbwrap_fetch(policies, talloc_tos(),
				       guid_key(id),
				       &value);
	int ret = 0;

	if (!NT_STATUS_IS_OK(status)) {
		return -ENOENT;
	}
	ret = sqos_policy_decode(value.dptr, value.dsize, _policy);
	TALLOC_FREE(value.dptr);
	if (ret != 0) {
		DBG_ERR("hvrs: a policy in %s is not understood; it counts "
			"as unknown\n", POLICIES);
		return -ENOENT;
	}
	return 0;
}

static struct state_sqos_lock *lock_key(TALLOC_CTX *mem_ctx,
					struct db_context *db, TDB_DATA key)
{
	struct state_sqos_lock *lock = talloc_zero(mem_ctx,
						   struct state_sqos_lock);

	if (lock == NULL) {
		return NULL;
	}
	lock->record = dbwrap_fetch_locked(db, lock, key);
	if (lock->record == NULL) {
		TALLOC_FREE(lock);
	}
	return lock;
}

struct state_sqos_lock *state_sqos_flow_lock(TALLOC_CTX *mem_ctx,
					     const struct guid *id,
					     struct sqos_flow *_flow,
					     bool *_found)
{
	struct state_sqos_lock *lock = lock_key(mem_ctx, flows, guid_key(id));
	TDB_DATA value = {};

	if (lock == NULL) {
		return NULL;
	}
	value = dbwrap_record_get_value(lock->record);
	/* What is damaged counts as not there. */
	*_found = value.dsize > 0 &&
		sqos_flow_decode(value.dptr, value.dsize, _flow) == 0;
	if (!*_found) {
		*_flow = (struct sqos_flow) {};
	}
	return lock;
}

static int store(struct state_sqos_lock *lock, uint8_t *bytes, size_t length)
{
	NTSTATUS status = dbwrap_record_store(
		lock->record, make_tdb_data(bytes, length), TDB_REPLACE);

	talloc_free(bytes);
	if (!NT_STATUS_IS_OK(status)) {
		DBG_ERR("hvrs: storage QoS: its state cannot be written: "
			"%s\n", nt_errstr(status));
		return -EIO;
	}
	return 0;
}

int state_sqos_flow_store(struct state_sqos_lock *lock,
			  const struct sqos_flow *flow)
{
	uint8_t *bytes = NULL;
	size_t length = 0;
	int ret = sqos_flow_encode(talloc_tos(), flow, &bytes, &length);

	return ret != 0 ? ret : store(lock, bytes, length);
}

struct state_sqos_lock *state_sqos_group_lock(TALLOC_CTX *mem_ctx,
					      const uint8_t key[32],
					      struct sqos_group *_group)
{
	struct state_sqos_lock *lock = lock_key(mem_ctx, groups,
						make_tdb_data(key, KEY_MAX));
	TDB_DATA value = {};

	if (lock == NULL) {
		return NULL;
	}
	value = dbwrap_record_get_value(lock->record);
	_group->count = 0;
	if (value.dsize > 0 &&
	    sqos_group_decode(value.dptr, value.dsize, _group) != 0) {
		_group->count = 0;
	}
	return lock;
}

int state_sqos_group_store(struct state_sqos_lock *lock,
			   const struct sqos_group *group)
{
	uint8_t *bytes = NULL;
	size_t length = 0;
	int ret = sqos_group_encode(talloc_tos(), group, &bytes, &length);

	return ret != 0 ? ret : store(lock, bytes, length);
}

uint32_t state_sqos_part(const uint8_t key[SQOS_RATE_KEY],
			 const struct sqos_used *used, uint64_t now_ms)
{
	struct state_sqos_lock *lock = NULL;
	struct sqos_nodes all = {};
	TDB_DATA value = {};
	uint8_t *bytes = NULL;
	size_t length = 0;
	uint32_t part = 0;

	if (nodes == NULL) {
		return SQOS_WHOLE;
	}
	lock = lock_key(talloc_tos(), nodes,
			make_tdb_data(key, SQOS_RATE_KEY));
	if (lock == NULL) {
		return 0;
	}
	value = dbwrap_record_get_value(lock->record);
	if (value.dsize == 0 ||
	    sqos_nodes_decode(value.dptr, value.dsize, &all) != 0) {
		all.count = 0;
	}
	if (sqos_nodes_ask(&all, get_my_vnn(), used, now_ms, &part) &&
	    (sqos_nodes_encode(talloc_tos(), &all, &bytes, &length) != 0 ||
	     store(lock, bytes, length) != 0)) {
		part = 0;
	}
	TALLOC_FREE(lock);
	return part;
}

/* ---- the end of flows ------------------------------------------------------------ */

struct sweep {
	struct db_context *db;
	uint64_t now;
	const char *owner;
	struct state_sqos_count live;
	struct sqos_group group;	/* room to look at one */
};

static bool is_over(struct sweep *sweep, TDB_DATA value)
{
	struct sqos_flow flow = {};
	size_t i = 0;

	if (sweep->db == nodes) {
		return sqos_nodes_over(value.dptr, value.dsize, sweep->now);
	}
	if (sweep->db == flows) {
		if (sqos_flow_decode(value.dptr, value.dsize, &flow) != 0 ||
		    sweep->now > flow.seen_ms + SQOS_FLOW_LIFE_MS) {
			return true;
		}
		sweep->live.all++;
		sweep->live.own += strcmp(flow.owner, sweep->owner) == 0;
		return false;
	}
	if (sqos_group_decode(value.dptr, value.dsize, &sweep->group) != 0) {
		return true;
	}
	for (i = 0; i < sweep->group.count; i++) {
		if (sweep->now <= sweep->group.members[i].seen_ms +
					  SQOS_FLOW_LIFE_MS) {
			return false;
		}
	}
	return true;
}

/* The record is locked. */
static int look(struct db_record *rec, void *private_data)
{
	if (is_over(private_data, dbwrap_record_get_value(rec))) {
		dbwrap_record_delete(rec);
	}
	return 0;
}

struct state_sqos_count state_sqos_sweep(uint64_t now_ms, const char *owner)
{
	struct sweep *sweep = talloc_zero(talloc_tos(), struct sweep);
	struct state_sqos_count live = {};

	if (sweep == NULL) {
		return live;
	}
	sweep->now = now_ms;
	sweep->owner = owner;
	sweep->db = nodes;
	if (nodes != NULL) {
		dbwrap_traverse(nodes, look, sweep, NULL);
	}
	sweep->db = groups;
	dbwrap_traverse(groups, look, sweep, NULL);
	sweep->db = flows;
	dbwrap_traverse(flows, look, sweep, NULL);
	live = sweep->live;
	TALLOC_FREE(sweep);
	return live;
}
