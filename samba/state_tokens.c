/* The database of offload tokens. */
#include "state_tokens.h"

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "util_tdb.h"

#define NAME "hvrs_tokens.tdb"

/* Expired records that one look at the table removes. */
#define MANY 64

/*
 * To look at all records takes all nodes of a cluster, so there what was seen
 * is good for so long; only what this process adds is counted meanwhile.
 */
#define GOOD_MS 1000

/* One of this process, opened by the first that needs it. */
static struct db_context *opened;

static struct db_context *database(void)
{
	char *path = NULL;

	if (opened != NULL) {
		return opened;
	}
	path = lock_path(talloc_tos(), NAME);
	if (path == NULL) {
		return NULL;
	}
	become_root();
	opened = db_open(NULL, path, 0,
			 TDB_CLEAR_IF_FIRST | TDB_INCOMPATIBLE_HASH,
			 O_RDWR | O_CREAT, 0600, DBWRAP_LOCK_ORDER_2,
			 DBWRAP_FLAG_NONE);
	unbecome_root();
	if (opened == NULL) {
		DBG_ERR("hvrs: the database %s cannot be opened: %s. Offload "
			"data transfer does not work until it can\n", path,
			strerror(errno));
	}
	TALLOC_FREE(path);
	return opened;
}

bool state_tokens_reopen(void)
{
	TALLOC_FREE(opened);
	return database() != NULL;
}

uint64_t state_tokens_now(void)
{
	struct timespec ts = {};

	clock_gettime(lp_clustering() ? CLOCK_REALTIME : CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static TDB_DATA key_of(const struct token_id *id)
{
	return make_tdb_data(id->index, sizeof(id->index));
}

struct count {
	const char *user;
	uint64_t now;
	uint32_t users;
	uint32_t all;
	uint64_t pinned;
	uint64_t user_pinned;
	uint64_t oldest_user_ms;
	uint64_t oldest_ms;
	struct token_id oldest_user;
	struct token_id oldest;
	struct token_id expired[MANY];
	size_t expired_count;
};

static struct count seen;	/* at the last look */

static int count_one(struct db_record *rec, void *private_data)
{
	struct count *count = private_data;
	TDB_DATA value = dbwrap_record_get_value(rec);
	TDB_DATA key = dbwrap_record_get_key(rec);
	struct token_record record = {};

	/* What is damaged or of another version goes like the expired. */
	if (token_record_decode(value.dptr, value.dsize, &record) != 0 ||
	    record.expires_ms <= count->now) {
		if (key.dsize == TOKEN_INDEX_SIZE &&
		    count->expired_count < MANY) {
			memcpy(count->expired[count->expired_count++].index,
			       key.dptr, key.dsize);
		}
		return 0;
	}
	count->all++;
	count->pinned += record.pinned ? record.length : 0;
	if (record.created_ms < count->oldest_ms) {
		count->oldest_ms = record.created_ms;
		count->oldest = record.id;
	}
	if (strcmp(record.user, count->user) == 0) {
		count->users++;
		count->user_pinned += record.pinned ? record.length : 0;
		if (record.created_ms < count->oldest_user_ms) {
			count->oldest_user_ms = record.created_ms;
			count->oldest_user = record.id;
		}
	}
	return 0;
}

/*
 * Whether there is room for one more, by what was seen of late: for the user,
 * too, if all tokens were of one.
 */
static bool has_room(const struct token_record *record,
		     const struct state_tokens_limits *limits, uint64_t now)
{
	uint64_t more = record->pinned ? record->length : 0;

	if (!lp_clustering() || now - seen.now >= GOOD_MS ||
	    seen.all >= limits->user || seen.all >= limits->all ||
	    seen.pinned + more > limits->pinned / 2) {
		return false;
	}
	seen.all++;
	seen.pinned += more;
	return true;
}

/* Makes room for one more; false where the database cannot be read. */
static bool make_room(struct db_context *db,
		      const struct token_record *record,
		      const struct state_tokens_limits *limits, uint64_t now)
{
	uint64_t more = record->pinned ? record->length : 0;
	struct count count = {};
	int tries = 0;

	if (has_room(record, limits, now)) {
		return true;
	}
	for (tries = 0; tries < 1000; tries++) {
		NTSTATUS status = NT_STATUS_OK;
		size_t i = 0;

		count = (struct count) {
			.user = record->user, .now = now,
			.oldest_ms = UINT64_MAX,
			.oldest_user_ms = UINT64_MAX,
		};
		status = dbwrap_traverse_read(db, count_one, &count, NULL);
		if (!NT_STATUS_IS_OK(status)) {
			return false;
		}
		for (i = 0; i < count.expired_count; i++) {
			dbwrap_delete(db, key_of(&count.expired[i]));
		}
		if (count.expired_count == MANY) {
			continue;
		}
		if (count.users >= limits->user ||
		    (count.users > 0 && more > 0 &&
		     count.user_pinned + more > limits->pinned / 2)) {
			dbwrap_delete(db, key_of(&count.oldest_user));
		} else if (count.all >= limits->all ||
			   (count.all > 0 && more > 0 &&
			    count.pinned + more > limits->pinned)) {
			dbwrap_delete(db, key_of(&count.oldest));
		} else {
			seen = count;
			seen.user = NULL;
			seen.all++;
			seen.pinned += more;
			return true;
		}
	}
	return true;
}

int state_tokens_store(const struct token_record *record,
		       const struct state_tokens_limits *limits,
		       uint64_t now_ms)
{
	struct db_context *db = database();
	uint8_t *bytes = NULL;
	size_t length = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	if (db == NULL) {
		return -EIO;
	}
	if (!make_room(db, record, limits, now_ms)) {
		return -EIO;
	}
	ret = token_record_encode(talloc_tos(), record, &bytes, &length);
	if (ret != 0) {
		return ret;
	}
	status = dbwrap_store(db, key_of(&record->id),
			      make_tdb_data(bytes, length), TDB_INSERT);
	TALLOC_FREE(bytes);
	if (!NT_STATUS_IS_OK(status)) {
		DBG_ERR("hvrs: a token cannot be stored in %s: %s\n", NAME,
			nt_errstr(status));
		return -EIO;
	}
	return 0;
}

int state_tokens_fetch(const struct token_id *id, struct token_record *_record)
{
	struct db_context *db = database();
	TDB_DATA value = {};
	int ret = 0;

	if (db == NULL ||
	    !NT_STATUS_IS_OK(dbwrap_fetch(db, talloc_tos(), key_of(id),
					  &value))) {
		return -EKEYREJECTED;
	}
	ret = token_record_decode(value.dptr, value.dsize, _record);
	TALLOC_FREE(value.dptr);
	return ret == 0 ? 0 : -EKEYREJECTED;
}

int state_tokens_move(const struct token_id *id, uint32_t process,
		      uint64_t started)
{
	struct db_context *db = database();
	struct db_record *locked = db == NULL ? NULL :
		dbwrap_fetch_locked(db, talloc_tos(), key_of(id));
	struct token_record record = {};
	TDB_DATA value = {};
	uint8_t *bytes = NULL;
	size_t length = 0;
	int ret = -EKEYREJECTED;

	if (locked == NULL) {
		return ret;
	}
	value = dbwrap_record_get_value(locked);
	if (token_record_decode(value.dptr, value.dsize, &record) == 0) {
		record.process = process;
		record.started = started;
		ret = token_record_encode(talloc_tos(), &record, &bytes,
					  &length);
	}
	if (ret == 0 && !NT_STATUS_IS_OK(dbwrap_record_store(
				locked, make_tdb_data(bytes, length),
				TDB_REPLACE))) {
		ret = -EKEYREJECTED;
	}
	TALLOC_FREE(bytes);
	TALLOC_FREE(locked);
	return ret;
}

void state_tokens_delete(const struct token_id *id)
{
	struct db_context *db = database();

	if (db != NULL) {
		dbwrap_delete(db, key_of(id));
	}
}
