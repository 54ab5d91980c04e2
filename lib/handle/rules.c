/*
 * Who may have a handle back, and what others find while it waits.
 */
#include "handle/handle.h"

#include <string.h>

#define LEASE_READ 1
#define LEASE_HANDLE 2
#define LEASE_WRITE 4
#define OPLOCK_BATCH_BITS 3		/* the server's exclusive and batch */

/* [MS-DTYP] 2.4.3, file rights */
#define RIGHTS_READ 0x21		/* read, execute */
#define RIGHTS_WRITE 0x06		/* write, append */
#define RIGHTS_DELETE 0x10000
#define RIGHTS_CONFLICTING (RIGHTS_READ | RIGHTS_WRITE | RIGHTS_DELETE)
#define SHARE_READ 1
#define SHARE_WRITE 2
#define SHARE_DELETE 4

uint64_t handle_time_left(const struct handle_record *r, uint64_t now_ms)
{
	uint64_t waited = 0;

	if (r->waiting_since_ms != 0 && now_ms > r->waiting_since_ms) {
		waited = now_ms - r->waiting_since_ms;
	}
	return waited < r->timeout_ms ? r->timeout_ms - waited : 0;
}

bool handle_expired(const struct handle_record *r, uint64_t now_ms)
{
	return r->waiting_since_ms != 0 && handle_time_left(r, now_ms) == 0;
}

enum handle_verdict handle_may_reconnect(const struct handle_record *r,
					 enum handle_state state,
					 uint64_t now_ms,
					 const struct handle_reconnect *want)
{
	bool lease = (r->flags & HANDLE_LEASE) != 0;
	bool persistent = (r->flags & HANDLE_PERSISTENT) != 0;

	if (state == HANDLE_WAITING && handle_expired(r, now_ms)) {
		return HANDLE_NOT_FOUND;
	}
	if (strlen(want->path) != r->path.length ||
	    memcmp(want->path, r->path.data, r->path.length) != 0) {
		return HANDLE_NOT_FOUND;
	}
	if (lease && !guid_equal(&r->client_guid, &want->client_guid)) {
		return HANDLE_NOT_FOUND;
	}
	if (want->v2) {
		if (persistent && !want->persistent) {
			return HANDLE_NOT_FOUND;
		}
		if (!guid_equal(&r->create_guid, &want->create_guid)) {
			return HANDLE_NOT_FOUND;
		}
	}
	if (state == HANDLE_CONNECTED) {
		return HANDLE_NOT_FOUND;
	}
	if (lease != want->lease ||
	    (lease && !guid_equal(&r->lease_key, &want->lease_key))) {
		return HANDLE_NOT_FOUND;
	}
	if (want->v2 && want->persistent && !persistent) {
		return HANDLE_BAD_PARAMETER;
	}
	return want->owner ? HANDLE_GRANT : HANDLE_DENIED;
}

bool handle_sharing_conflict(uint32_t access_a, uint32_t sharing_a,
			     uint32_t access_b, uint32_t sharing_b)
{
	static const struct {
		uint32_t rights;
		uint32_t share;
	} rows[] = {
		{ RIGHTS_READ, SHARE_READ },
		{ RIGHTS_WRITE, SHARE_WRITE },
		{ RIGHTS_DELETE, SHARE_DELETE },
	};
	size_t i = 0;

	/* Opens for attributes alone exclude nobody. */
	if ((access_a & RIGHTS_CONFLICTING) == 0 ||
	    (access_b & RIGHTS_CONFLICTING) == 0) {
		return false;
	}
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (((access_a & rows[i].rights) != 0 &&
		     (sharing_b & rows[i].share) == 0) ||
		    ((access_b & rows[i].rights) != 0 &&
		     (sharing_a & rows[i].share) == 0)) {
			return true;
		}
	}
	return false;
}

enum handle_verdict handle_app_instance(const struct handle_record *r,
					const struct handle_contender *who)
{
	bool has_version = (r->flags & HANDLE_APP_VERSION) != 0;

	if (!who->has_app_instance || (r->flags & HANDLE_APP_INSTANCE) == 0 ||
	    !guid_equal(&r->app_instance, &who->app_instance) ||
	    guid_equal(&r->client_guid, &who->client_guid)) {
		return HANDLE_GRANT;
	}
	if (has_version && who->has_app_version &&
	    (r->app_version_high > who->app_version_high ||
	     (r->app_version_high == who->app_version_high &&
	      r->app_version_low >= who->app_version_low))) {
		return HANDLE_FORCED_CLOSED;
	}
	if (has_version && !who->has_app_version && who->dialect_311) {
		return HANDLE_FORCED_CLOSED;
	}
	return who->may_read ? HANDLE_CLOSE_OLD : HANDLE_GRANT;
}

static enum handle_verdict same_create(const struct handle_record *r,
				       const struct handle_contender *who)
{
	if (!who->owner) {
		return HANDLE_DENIED;
	}
	/* A shared disk is opened by modes that are not the client's. */
	if (!(who->shared && (r->flags & HANDLE_SHARED) != 0) &&
	    (r->desired_access != who->desired_access ||
	     r->create_options != who->create_options ||
	     r->sharing != who->sharing)) {
		return HANDLE_MISMATCH;
	}
	return HANDLE_REPLAY;
}

enum handle_verdict handle_contend(const struct handle_record *r,
				   const struct handle_contender *who)
{
	enum handle_verdict verdict = HANDLE_GRANT;

	if (who->internal &&
	    (who->access & RIGHTS_CONFLICTING) == 0) {
		return HANDLE_GRANT;
	}
	/* [MS-SMB2] 3.3.5.9.10: the CREATE whose answer was lost. */
	if (who->replay && who->persistent && who->has_create_guid &&
	    (r->flags & HANDLE_PERSISTENT) != 0 &&
	    guid_equal(&r->create_guid, &who->create_guid)) {
		return same_create(r, who);
	}
	if (!who->replay && who->has_create_guid &&
	    (r->flags & HANDLE_CREATE_GUID) != 0 &&
	    guid_equal(&r->create_guid, &who->create_guid) &&
	    guid_equal(&r->client_guid, &who->client_guid)) {
		return HANDLE_DUPLICATE;
	}
	verdict = handle_app_instance(r, who);
	if (verdict != HANDLE_GRANT) {
		return verdict;
	}
	/*
	 * A folder is shared by many: only what its owner forbade is kept; the
	 * machines of a shared disk do not wait for each other.
	 */
	if ((r->flags & HANDLE_PERSISTENT) != 0 &&
	    (r->flags & HANDLE_DIRECTORY) == 0 &&
	    !(who->shared && (r->flags & HANDLE_SHARED) != 0)) {
		return HANDLE_UNAVAILABLE;
	}
	if (!handle_sharing_conflict(
		    r->access, r->sharing,
		    who->access | (who->overwrites ? 0x2 : 0),
		    who->sharing)) {
		return HANDLE_GRANT;
	}
	/* It is worth coming again: its owner, or its end, is near. */
	return (r->flags & (HANDLE_PERSISTENT | HANDLE_DIRECTORY)) ==
		(HANDLE_PERSISTENT | HANDLE_DIRECTORY) ?
		HANDLE_UNAVAILABLE : HANDLE_SHARING;
}
