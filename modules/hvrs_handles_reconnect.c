/*
 * A client comes back for its handle: the checks before smbd looks at it, and
 * the open file put together again from the record, whatever is left of it in
 * smbd's own databases.
 */
#include "hvrs_handles.h"
#include "step.h"

#include "dbwrap/dbwrap.h"
#include "dbwrap/dbwrap_open.h"
#include "lib/util/server_id.h"
#include "libcli/smb/smb2_lease.h"
#include "librpc/gen_ndr/ndr_smbXsrv.h"
#include "locking/leases_db.h"
#include "locking/share_mode_lock.h"
#include "locking/proto.h"
#include "serverid.h"
#include "smbd/smbXsrv_open.h"
#include "messages.h"
#include "util_tdb.h"

#define DH2C_PERSISTENT 0x2

/* ---- the request ----------------------------------------------------------------- */

static void want_init(struct handle_reconnect *want,
		      struct smbd_smb2_request *req,
		      const struct smb2_create_blobs *blobs)
{
	struct smb2_create_blob *blob = smb2_create_blob_find(
		blobs, SMB2_CREATE_TAG_DH2C);
	struct smb2_lease lease = {};

	want->client_guid = hvrs_guid(&req->xconn->smb2.client.guid);
	want->path = req->tcon->compat->connectpath;
	if (blob != NULL && blob->data.length == 36) {
		want->v2 = true;
		memcpy(want->create_guid.bytes, blob->data.data + 16, 16);
		want->persistent = (IVAL(blob->data.data, 32) &
				    DH2C_PERSISTENT) != 0;
	}
	blob = smb2_create_blob_find(blobs, SMB2_CREATE_TAG_RQLS);
	if (blob != NULL && smb2_lease_pull(blob->data.data,
					    blob->data.length,
					    &lease) != -1) {
		want->lease = true;
		want->lease_key = hvrs_lease_guid(&lease.lease_key);
	}
}

bool hvrs_is_owner(const struct auth_session_info *info,
		   const struct handle_record *r)
{
	char *text = hvrs_text_back(talloc_tos(), r->owner);
	struct dom_sid sid = {};
	bool same = text != NULL && string_to_sid(&sid, text) &&
		security_token_is_sid(info->security_token, &sid);

	TALLOC_FREE(text);
	return same;
}

/* ---- smbd's record of the open ----------------------------------------------------- */

static struct db_context *global_db(void)
{
	static struct db_context *db;
	char *path = NULL;

	if (db == NULL) {
		path = lock_path(talloc_tos(), "smbXsrv_open_global.tdb");
		become_root();
		db = path == NULL ? NULL : db_open(
			NULL, path, SMBD_VOLATILE_TDB_HASH_SIZE,
			SMBD_VOLATILE_TDB_FLAGS, O_RDWR | O_CREAT, 0600,
			DBWRAP_LOCK_ORDER_NONE, series_db_flags());
		unbecome_root();
		TALLOC_FREE(path);
	}
	return db;
}

enum global_state {
	GLOBAL_NONE,		/* there is no record with this id */
	GLOBAL_GOOD,		/* smbd can use it */
	GLOBAL_DEAD,		/* its process died */
	GLOBAL_FOREIGN,		/* it is another open's */
	GLOBAL_UNKNOWN,		/* the database does not tell */
};

struct global_look {
	const struct handle_record *r;
	enum global_state state;
};

static void global_parser(TDB_DATA key, TDB_DATA value, void *private_data)
{
	struct global_look *look = private_data;
	DATA_BLOB blob = data_blob_const(value.dptr, value.dsize);
	struct smbXsrv_open_globalB global = {};
	struct smbXsrv_open_global *g = NULL;
	struct guid guid = {};

	(void)key;
	look->state = GLOBAL_DEAD;
	if (!NDR_ERR_CODE_IS_SUCCESS(ndr_pull_struct_blob(
		&blob, talloc_tos(), &global, (ndr_pull_flags_fn_t)
		ndr_pull_smbXsrv_open_globalB)) ||
	    global.version != SMBXSRV_VERSION_CURRENT ||
	    global.info.SERIES_OPEN_INFO == NULL) {
		return;
	}
	g = global.info.SERIES_OPEN_INFO;
	guid = hvrs_guid(&g->client_guid);
	if (lp_clustering() && g->open_time == look->r->open_time &&
	    guid_equal(&guid, &look->r->client_guid)) {
		/* It may be of before: CTDB loses what a dead node had. */
		look->state = GLOBAL_DEAD;
	} else if (server_id_is_disconnected(&g->server_id)) {
		look->state = GLOBAL_GOOD;
	} else if (serverid_exists(&g->server_id)) {
		look->state = GLOBAL_FOREIGN;
	}
	if (look->state == GLOBAL_GOOD &&
	    (!g->durable || !guid_equal(&guid, &look->r->client_guid) ||
	     g->open_time != look->r->open_time)) {
		look->state = GLOBAL_FOREIGN;
	}
	TALLOC_FREE(g);
}

static enum global_state global_look(const struct handle_record *r)
{
	struct global_look look = { .r = r, .state = GLOBAL_NONE };
	struct db_context *db = global_db();
	uint8_t key[4] = {};
	NTSTATUS status = NT_STATUS_OK;

	RSIVAL(key, 0, (uint32_t)r->id);
	if (db == NULL) {
		return GLOBAL_UNKNOWN;
	}
	status = dbwrap_parse_record(db, make_tdb_data(key, sizeof(key)),
				     global_parser, &look);
	return NT_STATUS_IS_OK(status) ||
		NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND) ? look.state :
		GLOBAL_UNKNOWN;
}

static bool global_restore(struct smbXsrv_connection *xconn,
			   const struct handle_record *r)
{
	struct smbXsrv_open_global *global = talloc_zero(
		talloc_tos(), struct smbXsrv_open_global);
	struct smbXsrv_open op = {
		.table = xconn->client->open_table, .global = global,
	};
	char *owner = NULL;
	NTSTATUS status = NT_STATUS_NO_MEMORY;

	if (global == NULL) {
		return false;
	}
	owner = hvrs_text_back(global, r->owner);
	server_id_set_disconnected(&global->server_id);
	global->open_global_id = (uint32_t)r->id;
	global->open_persistent_id = r->id;
	global->open_time = r->open_time;
	global->create_guid = hvrs_guid_back(&r->create_guid);
	global->client_guid = hvrs_guid_back(&r->client_guid);
	global->disconnect_time = timeval_to_nttime(
		&(struct timeval){ .tv_sec = time(NULL) });
	global->durable_timeout_msec = r->timeout_ms;
	global->durable = true;
	global->backend_cookie = hvrs_open_cookie(global, r->id);
	global->channel_sequence = r->channel_sequence;
	memcpy(global->lock_sequence_array, r->sequences,
	       sizeof(global->lock_sequence_array));
	if (owner != NULL && string_to_sid(&global->open_owner, owner) &&
	    global->backend_cookie.data != NULL) {
		status = smbXsrv_open_update(&op);
	}
	TALLOC_FREE(global);
	return NT_STATUS_IS_OK(status);
}

static NTSTATUS reconnect_status(enum handle_verdict verdict)
{
	switch (verdict) {
	case HANDLE_GRANT:
		return NT_STATUS_OK;
	case HANDLE_DENIED:
		return NT_STATUS_ACCESS_DENIED;
	case HANDLE_BAD_PARAMETER:
		return NT_STATUS_INVALID_PARAMETER;
	default:
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
}

/* What the record says of a client that comes back. */
static enum handle_verdict verdict_of(struct smbd_smb2_request *req,
				      struct auth_session_info *session_info,
				      const struct state_handle *h,
				      struct handle_reconnect *want)
{
	char *share = hvrs_text_back(talloc_tos(), h->record.share);
	struct vfs_handle_struct *handle = hvrs_handles_instance(
		req->tcon->compat);
	bool same = share != NULL && handle != NULL &&
		strequal(share, hvrs_share(handle)->name);

	TALLOC_FREE(share);
	if (!same) {
		return HANDLE_NOT_FOUND;
	}
	want->owner = hvrs_is_owner(session_info, &h->record);
	/* Nobody but the rightful owner has a process killed for it. */
	return handle_may_reconnect(&h->record, HANDLE_WAITING,
				    state_handles_now(), want);
}

static NTSTATUS recreate_check(struct smbd_smb2_request *req,
			       struct auth_session_info *session_info,
			       struct state_handle *h,
			       struct handle_reconnect *want)
{
	enum handle_verdict verdict = verdict_of(req, session_info, h, want);
	struct server_id me = messaging_server_id(req->sconn->msg_ctx);
	enum global_state global = GLOBAL_NONE;
	enum hvrs_fence fence = FENCE_GONE;

	if (verdict != HANDLE_GRANT) {
		return reconnect_status(
			state_handle_state(h) == HANDLE_CONNECTED ?
			HANDLE_NOT_FOUND : verdict);
	}
	fence = hvrs_fence(h, 0);
	if (fence != FENCE_GONE) {
		/*
		 * The client may come again.  Another process may not know yet
		 * that it has lost the client, or its node: smbd has all
		 * connections of a client in one, unless that hangs.
		 */
		return fence == FENCE_ENDING ||
			!server_id_equal(&h->owner, &me) ||
			hvrs_is_leaving_here(req->xconn->client,
					     h->record.id) ?
			NT_STATUS_FILE_NOT_AVAILABLE :
			NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	global = global_look(&h->record);
	if (global == GLOBAL_FOREIGN) {
		DBG_ERR("hvrs: handle %08llx cannot be given back: its "
			"number is in use\n",
			(unsigned long long)h->record.id);
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	if (global == GLOBAL_UNKNOWN ||
	    (global != GLOBAL_GOOD &&
	     !global_restore(req->xconn, &h->record))) {
		return NT_STATUS_FILE_NOT_AVAILABLE;
	}
	/* What smbd cannot do now it may do soon. */
	hooks_come_again(true);
	return NT_STATUS_OK;
}

/* The handle that a CREATE wants back, or NULL. */
static struct state_handle *wanted(struct smbd_smb2_request *req, uint64_t id,
				   bool by_guid,
				   struct handle_reconnect *want)
{
	struct smb2_create_blobs blobs = {};
	struct state_handle *h = NULL;

	if (!hvrs_request_contexts(talloc_tos(), req, &blobs)) {
		return NULL;
	}
	want_init(want, req, &blobs);
	TALLOC_FREE(blobs.blobs);
	h = state_handles_fetch(talloc_tos(), id);
	if (h == NULL && by_guid && want->persistent) {
		h = state_handles_by_guid(talloc_tos(), &want->create_guid);
	}
	return h;
}

NTSTATUS hvrs_handles_recreate(struct smbd_smb2_request *req,
			       struct auth_session_info *session_info,
			       uint64_t *persistent_id,
			       const struct GUID *create_guid)
{
	struct handle_reconnect want = {};
	struct state_handle *h = NULL;
	NTSTATUS status = NT_STATUS_OK;

	if (session_info == NULL || req->tcon == NULL) {
		return NT_STATUS_OK;
	}
	h = wanted(req, *persistent_id, create_guid != NULL, &want);
	if (h != NULL) {
		*persistent_id = h->record.id;
		status = recreate_check(req, session_info, h, &want);
	}
	TALLOC_FREE(h);
	return status;
}

bool hvrs_handles_wait(struct smbd_smb2_request *req)
{
	struct handle_reconnect want = {};
	struct state_handle *h = NULL;
	enum hvrs_fence fence = FENCE_GONE;
	uint64_t id = 0;
	bool wait = false;

	if (!hvrs_request_wants(req, &id) || req->tcon == NULL ||
	    req->session == NULL ||
	    req->session->global->auth_session_info == NULL) {
		return false;
	}
	h = wanted(req, id, true, &want);
	if (h != NULL &&
	    verdict_of(req, req->session->global->auth_session_info, h,
		       &want) == HANDLE_GRANT) {
		fence = hvrs_fence(h, 0);
		wait = fence == FENCE_ENDING || (fence == FENCE_LIVES &&
			hvrs_is_leaving_here(req->xconn->client,
					     h->record.id));
	}
	TALLOC_FREE(h);
	return wait;
}

/* ---- the open file ------------------------------------------------------------------- */

struct rebuild {
	struct files_struct *fsp;
	struct smb_request *smb1req;
	const struct state_handle *h;
	const struct handle_record *r;
	struct smb_filename *smb_fname;
	struct server_id me;
	uint64_t mid;
	bool heal;		/* the file is open, and has its lease */
	NTSTATUS status;
};

static struct smb2_lease_key rebuild_key(const struct handle_record *r)
{
	return hvrs_lease_key(&r->lease_key);
}

static bool rebuild_lease(struct rebuild *rebuild)
{
	const struct handle_record *r = rebuild->r;
	struct files_struct *fsp = rebuild->fsp;
	struct GUID client_guid = hvrs_guid_back(&r->client_guid);
	struct smb2_lease_key key = rebuild_key(r);
	/* Nobody told of what happened in a folder meanwhile. */
	uint32_t state = (r->flags & HANDLE_DIRECTORY) != 0 ? 0 :
		r->lease_state;
	uint32_t stored = 0;
	uint16_t version = r->lease_version;
	uint16_t epoch = r->lease_epoch;
	bool breaking = false;
	NTSTATUS status = NT_STATUS_OK;

	status = leases_db_get(&client_guid, &key, &fsp->file_id, &stored,
			       &breaking, NULL, NULL, &version, &epoch);
	if (NT_STATUS_IS_OK(status) && rebuild->heal) {
		return true;
	}
	if (NT_STATUS_IS_OK(status)) {
		/* Never more than either of the two remembers. */
		state &= stored;
		status = leases_db_set(&client_guid, &key, state, false, 0, 0,
				       version, epoch);
	} else {
		status = leases_db_add(&client_guid, &key, &fsp->file_id,
				       state, version, epoch,
				       fsp->conn->connectpath,
				       fsp->fsp_name->base_name, NULL);
	}
	if (!NT_STATUS_IS_OK(status)) {
		DBG_WARNING("hvrs: lease of %s: %s\n", fsp_str_dbg(fsp),
			    nt_errstr(status));
		return false;
	}
	if (rebuild->heal) {
		return true;
	}
	fsp->lease = find_fsp_lease(fsp, &key, state, version, epoch);
	if (fsp->lease == NULL) {
		return false;
	}
	fsp->lease->lease.parent_lease_key = hvrs_lease_key(&r->lease_parent);
	fsp->lease->lease.lease_flags = r->lease_flags;
	return true;
}

static void rebuild_flags(struct share_mode_lock *lck,
			  const struct rebuild *rebuild)
{
	uint32_t access = 0;
	uint32_t sharing = 0;
	uint32_t lease = 0;

	share_mode_flags_get(lck, &access, &sharing, &lease);
	access |= rebuild->r->access;
	sharing &= rebuild->r->sharing;
	lease |= fsp_lease_type(rebuild->fsp);
	share_mode_flags_set(lck, access, sharing, lease, NULL);
}

struct find_entry {
	const struct state_handle *h;
	struct server_id pid;
	uint64_t share_file_id;
	bool found;
};

static bool find_entry_fn(struct share_mode_entry *e, bool *modified,
			  void *private_data)
{
	struct find_entry *find = private_data;

	(void)modified;
	if (hvrs_is_entry_of(find->h, e)) {
		find->pid = e->pid;
		find->share_file_id = e->share_file_id;
		find->found = true;
	}
	return find->found;
}

/* With the file's entry locked; no VFS call may be made here. */
static void rebuild_locked(struct share_mode_lock *lck, bool *keep_locked,
			   void *private_data)
{
	struct rebuild *rebuild = private_data;
	const struct handle_record *r = rebuild->r;
	struct files_struct *fsp = rebuild->fsp;
	struct find_entry find = { .h = rebuild->h };
	struct smb2_lease_key key = rebuild_key(r);
	bool ok = false;

	*keep_locked = false;
	rebuild->status = NT_STATUS_INTERNAL_DB_ERROR;
	fsp->oplock_type = (int)r->oplock;
	/* What an orderly end or a crash left, or nothing. */
	share_mode_forall_entries(lck, find_entry_fn, &find);
	if (find.found && server_id_equal(&find.pid, &rebuild->me) &&
	    find.share_file_id == fh_get_gen_id(fsp->fh)) {
		ok = true;	/* it is healed, for its lease or locks */
	} else if (find.found) {
		ok = series_entry_reset(lck, find.pid, find.share_file_id,
					fsp, rebuild->mid);
	} else {
		ok = set_share_mode(lck, fsp, r->uid, rebuild->mid,
				    (uint16_t)r->oplock, &key,
				    FROM_4_25(NULL) r->sharing, r->access);
	}
	if (!ok) {
		return;
	}
	if ((r->flags & HANDLE_LEASE) != 0 && !rebuild_lease(rebuild)) {
		del_share_mode(lck, fsp);
		return;
	}
	rebuild_flags(lck, rebuild);
	hvrs_locks_remove(&fsp->file_id, r->id);
	if (!hvrs_locks_restore(fsp, r)) {
		del_share_mode(lck, fsp);
		return;
	}
	if ((r->flags & HANDLE_DELETE_PENDING) != 0 &&
	    !is_delete_on_close_set(lck, fsp->name_hash)) {
		set_delete_on_close_lck(
			fsp, lck, fsp->conn->session_info->security_token,
			fsp->conn->session_info->unix_token);
	}
	step("entered");
	rebuild->status = NT_STATUS_OK;
}

static bool has_entry(struct files_struct *fsp, struct hvrs_open *open)
{
	struct share_mode_lock *lck = fetch_share_mode_unlocked(
		talloc_tos(), fsp->file_id);
	struct find_entry find = { .h = &open->h };

	if (lck != NULL) {
		share_mode_forall_entries(lck, find_entry_fn, &find);
	}
	TALLOC_FREE(lck);
	return find.found;
}

void hvrs_open_heal(struct files_struct *fsp, struct hvrs_open *open)
{
	struct rebuild rebuild = {
		.fsp = fsp, .h = &open->h, .r = &open->h.record,
		.me = messaging_server_id(fsp->conn->sconn->msg_ctx),
		.heal = true,
	};
	int oplock = fsp->oplock_type;
	NTSTATUS status = NT_STATUS_OK;

	if (has_entry(fsp, open) &&
	    hvrs_locks_are_there(fsp, &open->h.record)) {
		return;
	}
	DBG_NOTICE("hvrs: %s: its entries in the cluster's databases were lost "
		   "with another node; they are made again\n",
		   fsp_str_dbg(fsp));
	status = series_entry_lock(fsp, rebuild_locked, &rebuild);
	fsp->oplock_type = oplock;
	if (!NT_STATUS_IS_OK(status) || !NT_STATUS_IS_OK(rebuild.status)) {
		DBG_WARNING("hvrs: %s: %s\n", fsp_str_dbg(fsp),
			    nt_errstr(NT_STATUS_IS_OK(status) ?
				      rebuild.status : status));
	}
}

static bool is_kind(const struct handle_record *r, const SMB_STRUCT_STAT *st)
{
	return (r->flags & HANDLE_DIRECTORY) != 0 ?
		S_ISDIR(st->st_ex_mode) : S_ISREG(st->st_ex_mode);
}

static NTSTATUS rebuild_open(struct rebuild *rebuild,
			     struct files_struct *dirfsp,
			     struct smb_filename *rel)
{
	const struct handle_record *r = rebuild->r;
	struct files_struct *fsp = rebuild->fsp;
	bool directory = (r->flags & HANDLE_DIRECTORY) != 0;
	struct vfs_open_how how = {};
	struct file_id file = {};
	NTSTATUS status = NT_STATUS_OK;

	series_private_options_set(fsp, r->private_options);
	fh_set_position_information(fsp->fh, r->position);
	nttime_to_timeval(&fsp->open_time, r->open_time);
	fsp->access_mask = r->access;
	fsp->fsp_flags.can_read = (r->access & FILE_READ_DATA) != 0;
	fsp->fsp_flags.can_write = (r->access & (FILE_WRITE_DATA |
						 FILE_APPEND_DATA)) != 0;
	fsp->fsp_flags.is_directory = directory;
	fsp->fsp_flags.can_lock = !directory;
	fsp->fsp_flags.initial_delete_on_close =
		(r->flags & HANDLE_DELETE_INITIAL) != 0;
	fsp->initial_allocation_size = r->allocation;
	if (directory) {
		fsp->fsp_flags.can_write = false;
		how.flags = O_RDONLY | O_DIRECTORY;
	}
	if (fsp->fsp_flags.can_write && !CAN_WRITE(fsp->conn)) {
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	if (fsp->fsp_flags.can_write) {
		how.flags = fsp->fsp_flags.can_read ? O_RDWR : O_WRONLY;
	}
	if ((r->flags & HANDLE_WRITE_THROUGH) != 0 &&
	    lp_strict_sync(SNUM(fsp->conn))) {
		how.flags |= O_SYNC;
	}
	status = fd_openat(dirfsp, rel, fsp, &how);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (SMB_VFS_FSTAT(fsp, &fsp->fsp_name->st) != 0) {
		return map_nt_error_from_unix(errno);
	}
	file = vfs_file_id_from_sbuf(fsp->conn, &fsp->fsp_name->st);
	if (!is_kind(r, &fsp->fsp_name->st) ||
	    !file_id_equal(&fsp->file_id, &file) ||
	    hvrs_is_successor(r, fsp_get_pathref_fd(fsp), "")) {
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	(void)fdos_mode(fsp);
	return NT_STATUS_OK;
}

static NTSTATUS rebuild_file(struct vfs_handle_struct *handle,
			     struct rebuild *rebuild,
			     struct smbXsrv_open *op,
			     struct files_struct *dirfsp,
			     struct smb_filename *rel)
{
	struct files_struct *fsp = rebuild->fsp;
	struct hvrs_open *open = NULL;
	NTSTATUS status = rebuild_open(rebuild, dirfsp, rel);

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	op->compat = fsp;
	fsp->op = op;
	status = series_entry_lock(fsp, rebuild_locked, rebuild);
	status = NT_STATUS_IS_OK(status) ? rebuild->status :
		NT_STATUS_INTERNAL_DB_ERROR;
	if (NT_STATUS_IS_OK(status)) {
		status = set_file_oplock(fsp);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = hvrs_parts_restore(handle, fsp, rebuild->r);
	}
	if (NT_STATUS_IS_OK(status)) {
		open = hvrs_open_adopt(handle, fsp, rebuild->r);
		status = open != NULL ? NT_STATUS_OK : NT_STATUS_NO_MEMORY;
	}
	if (NT_STATUS_IS_OK(status)) {
		/*
		 * smbd's own entry keeps the others out now; the reply, which
		 * comes before anything else, stores that it waits no more.
		 */
		open->h.record.waiting_since_ms = 0;
		open->stale = true;
	}
	return status;
}

static void rebuild_undo(struct rebuild *rebuild, struct smbXsrv_open *op)
{
	struct state_handle *h = state_handles_fetch(talloc_tos(),
						     rebuild->r->id);

	if (fsp_get_pathref_fd(rebuild->fsp) != -1) {
		fd_close(rebuild->fsp);
	}
	op->compat = NULL;
	rebuild->fsp->op = NULL;
	file_free(rebuild->smb1req, rebuild->fsp);
	/* It goes on waiting. */
	if (h != NULL) {
		h->claimer.pid = 0;
		state_handles_store_index(h);
	}
	TALLOC_FREE(h);
}

/* It may be another one's since it was looked up. */
static bool rebuild_again(struct rebuild *rebuild, struct state_handle **_h)
{
	struct state_handle *old = *_h;
	struct state_handle *h = state_handles_fetch(talloc_tos(),
						     old->record.id);
	bool same = h != NULL &&
		h->record.device == old->record.device &&
		h->record.inode == old->record.inode &&
		h->record.extra == old->record.extra &&
		h->record.name.length == old->record.name.length &&
		memcmp(h->record.name.data, old->record.name.data,
		       h->record.name.length) == 0;

	if (h != NULL) {
		*_h = h;
		rebuild->h = h;
		rebuild->r = &h->record;
		TALLOC_FREE(old);
	}
	return same;
}

static NTSTATUS rebuild_start(struct vfs_handle_struct *handle,
			      struct rebuild *rebuild, uint64_t fnum,
			      struct files_struct **_dirfsp,
			      struct smb_filename **_rel)
{
	struct connection_struct *conn = handle->conn;
	const struct handle_record *r = rebuild->r;
	struct smb_filename *smb_fname = NULL;
	char *name = hvrs_text_back(talloc_tos(), r->name);
	struct file_id file = {};
	NTSTATUS status = NT_STATUS_NO_MEMORY;

	if (name == NULL) {
		return status;
	}
	status = series_convert(talloc_tos(), conn, name, _dirfsp, &smb_fname,
				_rel);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	file = vfs_file_id_from_sbuf(conn, &smb_fname->st);
	if (!VALID_STAT(smb_fname->st) || !is_kind(r, &smb_fname->st) ||
	    file.devid != r->device || file.inode != r->inode ||
	    file.extid != r->extra) {
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	rebuild->fsp = series_fsp_new(conn);
	if (rebuild->fsp == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	rebuild->fsp->file_id = file;
	rebuild->fsp->file_pid = rebuild->smb1req->smbpid;
	rebuild->fsp->vuid = rebuild->smb1req->vuid;
	rebuild->fsp->fnum = fnum;
	series_fsp_number(rebuild->fsp, r->id);
	if (!series_fsp_name(rebuild->fsp, smb_fname)) {
		file_free(rebuild->smb1req, rebuild->fsp);
		return NT_STATUS_NO_MEMORY;
	}
	return NT_STATUS_OK;
}

static NTSTATUS give_back(struct vfs_handle_struct *handle,
			  struct smb_request *smb1req,
			  struct smbXsrv_open *op, struct state_handle **_h,
			  struct files_struct **_fsp)
{
	struct rebuild rebuild = {
		.smb1req = smb1req, .h = *_h, .r = &(*_h)->record,
		.me = messaging_server_id(handle->conn->sconn->msg_ctx),
		.mid = smb1req->mid,
	};
	uint64_t id = rebuild.r->id;
	struct files_struct *dirfsp = NULL;
	struct smb_filename *rel = NULL;
	NTSTATUS status = rebuild_start(handle, &rebuild, op->local_id,
					&dirfsp, &rel);

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (!state_handles_claim(id, &rebuild.me)) {
		file_free(smb1req, rebuild.fsp);
		/* Another process is about to give it back, or has. */
		return handle_expired(rebuild.r, state_handles_now()) ?
			NT_STATUS_OBJECT_NAME_NOT_FOUND :
			NT_STATUS_FILE_NOT_AVAILABLE;
	}
	step("claimed");
	status = NT_STATUS_FILE_NOT_AVAILABLE;
	if (rebuild_again(&rebuild, _h)) {
		status = rebuild_file(handle, &rebuild, op, dirfsp, rel);
	}
	step("rebuilt");
	if (!NT_STATUS_IS_OK(status)) {
		DBG_WARNING("hvrs: %s cannot be given back: %s\n",
			    fsp_str_dbg(rebuild.fsp), nt_errstr(status));
		rebuild_undo(&rebuild, op);
		return status;
	}
	smb1req->chain_fsp = rebuild.fsp;
	smb1req->smb2req->compat_chain_fsp = rebuild.fsp;
	rebuild.fsp->fsp_flags.is_fsa = true;
	*_fsp = rebuild.fsp;
	return NT_STATUS_OK;
}

/* What has nothing to do with the file or its client, and may pass. */
static bool may_pass(NTSTATUS status)
{
	return NT_STATUS_EQUAL(status, NT_STATUS_FILE_NOT_AVAILABLE) ||
		NT_STATUS_EQUAL(status, NT_STATUS_INTERNAL_DB_ERROR) ||
		NT_STATUS_EQUAL(status, NT_STATUS_NO_MEMORY) ||
		NT_STATUS_EQUAL(status, NT_STATUS_INSUFFICIENT_RESOURCES) ||
		NT_STATUS_EQUAL(status, NT_STATUS_TOO_MANY_OPENED_FILES);
}

NTSTATUS hvrs_durable_reconnect(struct vfs_handle_struct *handle,
				struct smb_request *smb1req,
				struct smbXsrv_open *op,
				const DATA_BLOB old_cookie,
				FROM_4_25(const struct smb2_lease *lease)
				TALLOC_CTX *mem_ctx,
				struct files_struct **_fsp,
				DATA_BLOB *new_cookie)
{
	struct state_handle *h = NULL;
	uint64_t id = 0;
	NTSTATUS status = NT_STATUS_OBJECT_NAME_NOT_FOUND;

	if (!hvrs_cookie_id(old_cookie, &id)) {
		return smb_vfs_call_durable_reconnect(
			handle->next, smb1req, op, old_cookie,
			FROM_4_25(lease) mem_ctx, _fsp, new_cookie);
	}
	h = state_handles_fetch(talloc_tos(), id);
	if (h != NULL && id == op->global->open_persistent_id) {
		status = give_back(handle, smb1req, op, &h, _fsp);
	}
	hooks_come_again(may_pass(status));
	if (NT_STATUS_IS_OK(status)) {
		*new_cookie = series_folder_is_apart(*_fsp) ? data_blob_null :
			hvrs_open_cookie(mem_ctx, id);
	}
	TALLOC_FREE(h);
	return status;
}
