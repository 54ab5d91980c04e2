/*
 * While a handle waits for its owner: what others find, on any share and by
 * any name that leads to the same file.
 */
#include "hvrs_handles.h"

#include "lib/util/server_id.h"
#include "locking/leases_db.h"
#include "locking/share_mode_lock.h"
#include "locking/proto.h"

#define DH2Q_PERSISTENT 0x2
#define FENCE_WAIT_MS 5000

/* ---- others ---------------------------------------------------------------------------- */

static void contender_contexts(struct handle_contender *who,
			       const struct smb2_create_blobs *in)
{
	static const char instance[] =
		"\x45\xBC\xA6\x6A\xEF\xA7\xF7\x4A\x90\x08\xFA\x46\x2E\x14"
		"\x4D\x74";
	static const char version[] =
		"\xB9\x82\xD0\xB7\x3B\x56\x07\x4F\xA0\x7B\x52\x4A\x81\x16"
		"\xA0\x10";
	struct smb2_create_blob *blob = NULL;

	if (in == NULL) {
		return;
	}
	blob = smb2_create_blob_find(in, SMB2_CREATE_TAG_DH2Q);
	if (blob != NULL && blob->data.length == 32) {
		who->has_create_guid = true;
		who->persistent = (IVAL(blob->data.data, 4) &
				   DH2Q_PERSISTENT) != 0;
		memcpy(who->create_guid.bytes, blob->data.data + 16, 16);
	}
	blob = smb2_create_blob_find(in, instance);
	if (blob != NULL && blob->data.length == 20) {
		who->has_app_instance = true;
		memcpy(who->app_instance.bytes, blob->data.data + 4, 16);
	}
	blob = smb2_create_blob_find(in, version);
	if (blob != NULL && blob->data.length == 24) {
		who->has_app_version = true;
		who->app_version_high = BVAL(blob->data.data, 8);
		who->app_version_low = BVAL(blob->data.data, 16);
	}
}

static void contender_init(struct handle_contender *who,
			   const struct hooks_open *open)
{
	who->access = open->access_mask;
	who->desired_access = open->access_mask;
	who->sharing = open->share_access;
	who->create_options = open->create_options;
	who->overwrites = open->create_disposition == FILE_SUPERSEDE ||
		open->create_disposition == FILE_OVERWRITE ||
		open->create_disposition == FILE_OVERWRITE_IF;
	who->internal = open->req == NULL || open->req->smb2req == NULL;
	who->shared = hvrs_tunnel_is_creating();
	if ((who->access & MAXIMUM_ALLOWED_ACCESS) != 0 ||
	    (who->access & GENERIC_ALL_ACCESS) != 0) {
		who->access |= FILE_READ_DATA | FILE_WRITE_DATA |
			DELETE_ACCESS;
	}
	if ((who->access & GENERIC_READ_ACCESS) != 0) {
		who->access |= FILE_READ_DATA;
	}
	if ((who->access & GENERIC_WRITE_ACCESS) != 0) {
		who->access |= FILE_WRITE_DATA;
	}
	if (who->internal) {
		return;
	}
	who->client_guid = hvrs_guid(&open->req->xconn->smb2.client.guid);
	who->replay = (IVAL(SMBD_SMB2_IN_HDR_PTR(open->req->smb2req),
			    SMB2_HDR_FLAGS) &
		       SMB2_HDR_FLAG_REPLAY_OPERATION) != 0;
	who->dialect_311 = open->req->xconn->protocol >= PROTOCOL_SMB3_11;
	contender_contexts(who, open->in);
}

static NTSTATUS verdict_status(enum handle_verdict verdict)
{
	switch (verdict) {
	case HANDLE_GRANT:
	case HANDLE_REPLAY:
	case HANDLE_CLOSE_OLD:
		return NT_STATUS_OK;
	case HANDLE_DENIED:
		return NT_STATUS_ACCESS_DENIED;
	case HANDLE_BAD_PARAMETER:
		return NT_STATUS_INVALID_PARAMETER;
	case HANDLE_SHARING:
		return NT_STATUS_SHARING_VIOLATION;
	case HANDLE_MISMATCH:
		return NT_STATUS(0xC0000719);
	case HANDLE_FORCED_CLOSED:
		return NT_STATUS(0xC00000B6);
	case HANDLE_DUPLICATE:
		return NT_STATUS_DUPLICATE_OBJECTID;
	case HANDLE_NOT_FOUND:
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	case HANDLE_UNAVAILABLE:
		break;
	}
	return NT_STATUS_FILE_NOT_AVAILABLE;
}

/* ---- who comes to a handle whose process lives -------------------- */

/* [MS-SMB2] 3.3.5.9.13: its maximal access holds GENERIC_READ. */
static bool may_read(const struct hooks_open *open)
{
	struct files_struct *fsp = open->smb_fname->fsp;

	return fsp != NULL && NT_STATUS_IS_OK(smbd_check_access_rights_fsp(
		open->conn->cwd_fsp, fsp, false, FILE_GENERIC_READ));
}

/* True when it is closed; else the open may be one to take up again. */
static bool close_old(struct hooks_open *open, struct state_handle *h)
{
	struct messaging_context *msg_ctx = open->conn->sconn->msg_ctx;
	enum hvrs_moved moved = MOVED_NOT;

	if (open->smb2req == NULL) {
		return hvrs_close_remote(msg_ctx, h);
	}
	moved = hvrs_close_remote_step(msg_ctx, open->smb2req, h);
	open->again = moved == MOVED_WAIT;
	return moved == MOVED_DONE;
}

static NTSTATUS open_against_connected(struct hooks_open *open,
				       struct handle_contender *who,
				       struct state_handle *h)
{
	enum handle_verdict verdict = HANDLE_GRANT;

	if (who->internal) {
		return NT_STATUS_OK;
	}
	/* [MS-SMB2] 3.3.5.9.10: a replay of what another connection has. */
	if (who->replay && who->persistent && who->has_create_guid &&
	    (h->record.flags & HANDLE_PERSISTENT) != 0 &&
	    guid_equal(&h->record.create_guid, &who->create_guid)) {
		return NT_STATUS_FILE_NOT_AVAILABLE;
	}
	if (!who->has_app_instance) {
		return NT_STATUS_OK;
	}
	verdict = handle_app_instance(&h->record, who);
	if (verdict == HANDLE_CLOSE_OLD && !close_old(open, h)) {
		verdict = HANDLE_UNAVAILABLE;
	}
	return verdict_status(verdict);
}

/*
 * A resilient handle that waits lets a compatible open pass; what its client
 * has cached is then no longer true.
 */
struct lose_cache {
	const struct state_handle *h;
};

static bool lose_cache_fn(struct share_mode_entry *e, bool *modified,
			  void *private_data)
{
	struct lose_cache *lose = private_data;

	if (hvrs_is_entry_of(lose->h, e) && e->op_type != LEASE_OPLOCK) {
		e->op_type = NO_OPLOCK;
		*modified = true;
	}
	return false;
}

/* False where the handle has just been taken back. */
static bool lose_cache(struct state_handle *h)
{
	struct handle_record *r = &h->record;
	struct file_id file = {
		.devid = r->device, .inode = r->inode, .extid = r->extra,
	};
	struct GUID client_guid = hvrs_guid_back(&r->client_guid);
	struct smb2_lease_key key = hvrs_lease_key(&r->lease_key);
	struct lose_cache lose = { .h = h };
	struct share_mode_lock *lck = NULL;
	struct state_log_point point = {};
	int ret = 0;

	if ((r->flags & HANDLE_DIRECTORY) != 0) {
		return true;
	}
	if ((r->flags & HANDLE_LEASE) != 0 ? r->lease_state == 0 :
	    r->oplock == NO_OPLOCK) {
		return true;
	}
	if ((r->flags & HANDLE_LEASE) != 0) {
		r->lease_state = 0;
		r->lease_epoch++;
	} else {
		r->oplock = NO_OPLOCK;
	}
	ret = state_handles_store_other(h, &point);
	if (ret == -EAGAIN) {
		return false;
	}
	if (ret == 0 && state_handles_synced()) {
		become_root();
		state_log_commit(point);
		unbecome_root();
	}
	lck = get_existing_share_mode_lock(talloc_tos(), file);
	if (lck != NULL) {
		share_mode_forall_entries(lck, lose_cache_fn, &lose);
	}
	if ((r->flags & HANDLE_LEASE) != 0) {
		leases_db_set(&client_guid, &key, 0, false, 0, 0,
			      r->lease_version, r->lease_epoch);
	}
	TALLOC_FREE(lck);
	return true;
}

/* Whether the handle's file is gone, and this one has its inode. */
static bool is_successor(const struct smb_filename *name,
			 const struct state_handle *h)
{
	const struct files_struct *fsp = name->fsp;

	return fsp != NULL &&
		hvrs_is_successor(&h->record, fsp_get_pathref_fd(fsp), "");
}

static NTSTATUS open_against(struct hooks_open *open,
			     struct handle_contender *who,
			     struct state_handle *h)
{
	enum handle_verdict verdict = HANDLE_GRANT;

	if (state_handle_state(h) == HANDLE_CONNECTED) {
		return open_against_connected(open, who, h);
	}
	if (hvrs_handle_over(h) || is_successor(open->smb_fname, h)) {
		return hvrs_handle_end(h) ? NT_STATUS_OK :
			NT_STATUS_FILE_NOT_AVAILABLE;
	}
	who->owner = hvrs_is_owner(open->conn->session_info, &h->record);
	verdict = handle_contend(&h->record, who);
	if (verdict == HANDLE_CLOSE_OLD && open->smb2req != NULL) {
		return verdict_status(close_old(open, h) ? HANDLE_GRANT :
				      HANDLE_UNAVAILABLE);
	}
	if ((verdict == HANDLE_REPLAY || verdict == HANDLE_CLOSE_OLD) &&
	    hvrs_fence(h, FENCE_WAIT_MS) != FENCE_GONE) {
		verdict = HANDLE_UNAVAILABLE;
	}
	if (verdict == HANDLE_REPLAY) {
		/* It was made by the open that is asked for again. */
		open->create_disposition = FILE_OPEN;
		open->create_action = (int)h->record.create_action;
	}
	if (verdict == HANDLE_REPLAY || verdict == HANDLE_CLOSE_OLD) {
		h->record.flags &= ~(uint32_t)(HANDLE_DELETE_INITIAL |
					       HANDLE_DELETE_PENDING);
		if (!hvrs_handle_end(h)) {
			verdict = HANDLE_UNAVAILABLE;
		}
	} else if (verdict == HANDLE_GRANT && !who->internal &&
		   !lose_cache(h)) {
		verdict = HANDLE_UNAVAILABLE;
	}
	return verdict_status(verdict);
}

NTSTATUS hvrs_handles_open(struct hooks_open *open)
{
	struct handle_contender who = {};
	struct file_id file = {};
	uint64_t *ids = NULL;
	size_t count = 0;
	size_t i = 0;
	NTSTATUS status = NT_STATUS_OK;

	if (open->smb_fname == NULL || !VALID_STAT(open->smb_fname->st)) {
		return NT_STATUS_OK;
	}
	file = vfs_file_id_from_sbuf(open->conn, &open->smb_fname->st);
	state_handles_device(file.devid);
	count = state_handles_of_file(talloc_tos(), &file, &ids);
	if (count > 0) {
		contender_init(&who, open);
		who.may_read = who.has_app_instance && may_read(open);
	}
	for (i = 0; i < count && NT_STATUS_IS_OK(status); i++) {
		struct state_handle *h = state_handles_fetch(talloc_tos(),
							     ids[i]);

		if (h != NULL) {
			status = open_against(open, &who, h);
		}
		TALLOC_FREE(h);
	}
	TALLOC_FREE(ids);
	return status;
}

/* Whether it keeps others out yet. */
static bool is_kept(const struct state_handle *h)
{
	return !handle_expired(&h->record, state_handles_now()) ||
		(lp_clustering() && !state_handles_is_let_go(h));
}

bool hvrs_handles_protect(const struct share_mode_entry *e)
{
	struct state_handle *h = state_handles_by_entry(
		talloc_tos(), &e->pid, e->share_file_id);
	bool keep = h != NULL && state_handle_state(h) == HANDLE_WAITING &&
		is_kept(h);

	TALLOC_FREE(h);
	return keep;
}

/*
 * What CTDB's databases held of a handle may be lost with another node, also
 * while its process lives; what its record holds is not.
 */
static bool is_guarded(const struct state_handle *h)
{
	return lp_clustering() || state_handle_state(h) == HANDLE_WAITING;
}

bool hvrs_handles_locked(struct files_struct *fsp,
			 const struct lock_struct *lock)
{
	uint64_t *ids = NULL;
	size_t count = 0;
	size_t i = 0;
	bool locked = false;

	count = state_handles_with_locks(talloc_tos(), &fsp->file_id, &ids);
	for (i = 0; i < count && !locked; i++) {
		struct state_handle *h = NULL;

		if (fsp->op != NULL &&
		    fsp->op->global->open_persistent_id == ids[i]) {
			continue;
		}
		h = state_handles_fetch(talloc_tos(), ids[i]);
		locked = h != NULL && h->record.locks.length > 0 &&
			is_guarded(h) && is_kept(h) &&
			handle_locks_conflict(&h->record, lock->start,
					      lock->size, lock->lock_type ==
					      WRITE_LOCK) &&
			!hvrs_is_successor(&h->record,
					   fsp_get_pathref_fd(fsp), "");
		TALLOC_FREE(h);
	}
	TALLOC_FREE(ids);
	return locked;
}

/* ---- with the file's entry locked, on a cluster --------------------------------------- */

struct live_entry {
	const struct state_handle *h;
	bool found;
};

static bool live_entry_fn(struct share_mode_entry *e, bool *modified,
			  void *private_data)
{
	struct live_entry *live = private_data;

	(void)modified;
	live->found = hvrs_is_entry_of(live->h, e) &&
		!server_id_is_disconnected(&e->pid);
	return live->found;
}

static NTSTATUS enter_against(const struct smb_filename *name,
			      struct share_mode_lock *lck,
			      const struct handle_contender *who,
			      struct state_handle *h, bool *_again)
{
	struct live_entry live = { .h = h };
	bool connected = state_handle_state(h) == HANDLE_CONNECTED;
	enum handle_verdict verdict = HANDLE_GRANT;

	if (connected) {
		/* Then smbd's own rules hold. */
		share_mode_forall_entries(lck, live_entry_fn, &live);
	}
	if (live.found || !is_kept(h) || is_successor(name, h)) {
		return NT_STATUS_OK;
	}
	verdict = handle_contend(&h->record, who);
	if (verdict == HANDLE_CLOSE_OLD || verdict == HANDLE_REPLAY) {
		verdict = HANDLE_UNAVAILABLE;
	}
	/* It may just be on its way out. */
	*_again = *_again || (connected && verdict != HANDLE_GRANT);
	return verdict_status(verdict);
}

/*
 * What the databases of the cluster held of a node may have gone with it since
 * hvrs_handles_open() looked: smbd waits until the others have agreed on what
 * is left, and that may be nothing.  So it is looked again here, where nothing
 * of it can go any more.
 */
NTSTATUS hvrs_handles_entered(struct hooks_open *open,
			      struct share_mode_lock *lck,
			      const struct smb_filename *name,
			      struct file_id file)
{
	struct handle_contender who = {};
	uint64_t *ids = NULL;
	size_t count = 0;
	size_t i = 0;
	NTSTATUS status = NT_STATUS_OK;

	if (!lp_clustering()) {
		return status;
	}
	count = state_handles_of_file(talloc_tos(), &file, &ids);
	if (count > 0) {
		contender_init(&who, open);
	}
	for (i = 0; i < count && NT_STATUS_IS_OK(status); i++) {
		struct state_handle *h = state_handles_fetch(talloc_tos(),
							     ids[i]);

		if (h != NULL) {
			who.owner = hvrs_is_owner(open->conn->session_info,
						  &h->record);
			status = enter_against(name, lck, &who, h,
					       &open->again);
		}
		TALLOC_FREE(h);
	}
	TALLOC_FREE(ids);
	return status;
}

/* ---- renames ------------------------------------------------------------------------------ */

struct below {
	struct handle_bytes path;
	const char *name;
	bool found;
};

static bool below_fn(struct state_handle *h, void *private_data)
{
	struct below *below = private_data;
	const struct handle_record *r = &h->record;
	size_t length = strlen(below->name);

	if (r->path.length == below->path.length &&
	    memcmp(r->path.data, below->path.data, r->path.length) == 0 &&
	    r->name.length > length &&
	    memcmp(r->name.data, below->name, length) == 0 &&
	    r->name.data[length] == '/' &&
	    state_handle_state(h) == HANDLE_WAITING &&
	    !handle_expired(r, state_handles_now())) {
		below->found = true;
	}
	return !below->found;
}

NTSTATUS hvrs_handles_rename(struct connection_struct *conn,
			     struct files_struct *fsp)
{
	struct below below = { .name = fsp->fsp_name->base_name };

	if (!fsp->fsp_flags.is_directory) {
		return NT_STATUS_OK;
	}
	below.path.data = (const uint8_t *)conn->connectpath;
	below.path.length = strlen(conn->connectpath);
	state_handles_traverse(below_fn, &below);
	return below.found ? NT_STATUS_ACCESS_DENIED : NT_STATUS_OK;
}

/* The name of a file in the share of a handle, or NULL outside of it. */
static const char *name_in(const struct handle_record *r, const char *full)
{
	if (strncmp(full, (const char *)r->path.data, r->path.length) != 0 ||
	    full[r->path.length] != '/') {
		return NULL;
	}
	return full + r->path.length + 1;
}

/* Again where somebody changes the handle at the same time. */
static bool rename_one(uint64_t id, const char *full,
		       struct state_log_point *_point)
{
	int ret = -EAGAIN;
	int turn = 0;

	for (turn = 0; turn < 100 && ret == -EAGAIN; turn++) {
		struct state_handle *h = state_handles_fetch(talloc_tos(), id);
		const char *name = h != NULL ? name_in(&h->record, full) :
			NULL;

		ret = -ENOENT;
		if (name != NULL) {
			h->record.name.data = (const uint8_t *)name;
			h->record.name.length = strlen(name);
			ret = state_handles_store_other(h, _point);
		}
		TALLOC_FREE(h);
	}
	return ret == 0;
}

/* Every handle of the file is to be found by its new name after a crash. */
void hvrs_handles_renamed(struct connection_struct *conn,
			  struct files_struct *fsp)
{
	struct state_log_point point = {};
	uint64_t *ids = NULL;
	size_t count = fsp->fsp_flags.is_directory ? 0 :
		state_handles_of_file(talloc_tos(), &fsp->file_id, &ids);
	char *full = NULL;
	bool stored = false;
	size_t i = 0;

	if (count > 0) {
		full = talloc_asprintf(talloc_tos(), "%s/%s",
				       conn->connectpath,
				       fsp->fsp_name->base_name);
	}
	for (i = 0; full != NULL && i < count; i++) {
		stored = rename_one(ids[i], full, &point) || stored;
	}
	if (stored && state_handles_synced()) {
		become_root();
		state_log_commit(point);
		unbecome_root();
	}
	TALLOC_FREE(full);
	TALLOC_FREE(ids);
}
