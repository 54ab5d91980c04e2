/*
 * Persistent handles: which opens become one, what their record holds, and
 * what happens to it when the connection or the file goes.
 */
#include "hvrs_handles.h"
#include "tunnel.h"

#include "locking/leases_db.h"
#include "locking/share_mode_lock.h"
#include "locking/proto.h"
#include "smbd/smbXsrv_open.h"
#include "lib/util/server_id.h"

#define DH2Q_PERSISTENT 0x2
#define CAP_PERSISTENT 0x10

static const uint8_t cookie_magic[16] = "hvrs handle v1";

/* ---- small things --------------------------------------------------------------- */

struct guid hvrs_guid(const struct GUID *guid)
{
	struct guid out = {};
	struct GUID_ndr_buf buf = {};

	GUID_to_ndr_buf(guid, &buf);
	memcpy(out.bytes, buf.buf, 16);
	return out;
}

struct GUID hvrs_guid_back(const struct guid *guid)
{
	DATA_BLOB blob = data_blob_const(guid->bytes, 16);
	struct GUID out = {};

	GUID_from_ndr_blob(&blob, &out);
	return out;
}

struct guid hvrs_lease_guid(const struct smb2_lease_key *key)
{
	struct guid out = {};

	SBVAL(out.bytes, 0, key->data[0]);
	SBVAL(out.bytes, 8, key->data[1]);
	return out;
}

struct smb2_lease_key hvrs_lease_key(const struct guid *guid)
{
	struct smb2_lease_key key = {};

	key.data[0] = BVAL(guid->bytes, 0);
	key.data[1] = BVAL(guid->bytes, 8);
	return key;
}

struct handle_bytes hvrs_text(TALLOC_CTX *mem_ctx, const char *text)
{
	struct handle_bytes out = {};
	char *copy = talloc_strdup(mem_ctx, text != NULL ? text : "");

	if (copy != NULL) {
		out.data = (const uint8_t *)copy;
		out.length = strlen(copy);
	}
	return out;
}

char *hvrs_text_back(TALLOC_CTX *mem_ctx, struct handle_bytes text)
{
	return talloc_strndup(mem_ctx, (const char *)text.data, text.length);
}

static struct handle_bytes bytes_copy(TALLOC_CTX *mem_ctx,
				      struct handle_bytes from)
{
	struct handle_bytes out = {};

	out.data = talloc_memdup(mem_ctx, from.data, from.length);
	out.length = out.data != NULL ? from.length : 0;
	return out;
}

DATA_BLOB hvrs_open_cookie(TALLOC_CTX *mem_ctx, uint64_t id)
{
	uint8_t bytes[HANDLES_COOKIE_SIZE] = {};

	memcpy(bytes, cookie_magic, sizeof(cookie_magic));
	SBVAL(bytes, sizeof(cookie_magic), id);
	return data_blob_talloc(mem_ctx, bytes, sizeof(bytes));
}

bool hvrs_cookie_id(DATA_BLOB cookie, uint64_t *_id)
{
	if (cookie.length != HANDLES_COOKIE_SIZE ||
	    memcmp(cookie.data, cookie_magic, sizeof(cookie_magic)) != 0) {
		return false;
	}
	*_id = BVAL(cookie.data, sizeof(cookie_magic));
	return true;
}

/* ---- the open in this process ------------------------------------------------------ */

struct vfs_handle_struct *hvrs_handles_instance(
	struct connection_struct *conn)
{
	struct vfs_handle_struct *handle = NULL;

	for (handle = conn->vfs_handles; handle != NULL;
	     handle = handle->next) {
		struct hvrs_share *share = NULL;

		if (handle->fns->fsctl_fn != hvrs_fsctl) {
			continue;
		}
		share = hvrs_share(handle);
		if (share != NULL && (share->on[OPTION_PERSISTENT] ||
				      share->on[OPTION_RESILIENT])) {
			return handle;
		}
	}
	return NULL;
}

struct hvrs_open *hvrs_open_of(struct files_struct *fsp)
{
	struct vfs_handle_struct *handle = NULL;

	if (fsp == NULL || fsp->conn == NULL || fsp->vfs_extension == NULL) {
		return NULL;
	}
	handle = hvrs_handles_instance(fsp->conn);
	return handle == NULL ? NULL : VFS_FETCH_FSP_EXTENSION(handle, fsp);
}

static struct hvrs_open *open_attach(struct vfs_handle_struct *handle,
				     struct files_struct *fsp)
{
	struct hvrs_open *open = VFS_ADD_FSP_EXTENSION(
		handle, fsp, struct hvrs_open, NULL);

	if (open != NULL) {
		open->mem_ctx = VFS_MEMCTX_FSP_EXTENSION(handle, fsp);
		open->names = talloc_new(open->mem_ctx);
		open->locks = talloc_new(open->mem_ctx);
		open->modules = talloc_new(open->mem_ctx);
		open->h.owner = messaging_server_id(fsp->conn->sconn->msg_ctx);
		open->h.gen_id = fh_get_gen_id(fsp->fh);
		open->h.connected = true;
	}
	return open;
}

static void record_lease(struct handle_record *r,
			 const struct files_struct *fsp)
{
	const struct smb2_lease *lease = NULL;

	r->oplock = (uint32_t)fsp->oplock_type;
	if (fsp->oplock_type != LEASE_OPLOCK || fsp->lease == NULL) {
		r->flags &= ~(uint32_t)HANDLE_LEASE;
		return;
	}
	lease = &fsp->lease->lease;
	r->flags |= HANDLE_LEASE;
	r->lease_key = hvrs_lease_guid(&lease->lease_key);
	r->lease_parent = hvrs_lease_guid(&lease->parent_lease_key);
	r->lease_state = lease->lease_state;
	r->lease_flags = lease->lease_flags & SMB2_LEASE_FLAG_PARENT_LEASE_KEY_SET;
	r->lease_epoch = lease->lease_epoch;
	r->lease_version = lease->lease_version;
}

/* 0 where the file system does not tell. */
static uint64_t birth(int fd, const char *path)
{
	struct statx st = {};

	if (statx(fd, path, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BTIME,
		  &st) != 0 || (st.stx_mask & STATX_BTIME) == 0) {
		return 0;
	}
	return (uint64_t)st.stx_btime.tv_sec * 1000000000 +
		st.stx_btime.tv_nsec;
}

bool hvrs_is_successor(const struct handle_record *r, int fd,
		       const char *path)
{
	uint64_t born = r->born != 0 && fd != -1 ? birth(fd, path) : 0;

	return born != 0 && born != r->born;
}

struct hvrs_open *hvrs_open_create(struct vfs_handle_struct *handle,
				   struct files_struct *fsp, uint32_t kind)
{
	struct smbXsrv_open_global *global = fsp->op->global;
	struct hvrs_open *open = open_attach(handle, fsp);
	struct handle_record *r = NULL;
	struct dom_sid_buf sid = {};

	if (open == NULL) {
		return NULL;
	}
	r = &open->h.record;
	r->id = global->open_persistent_id;
	r->flags = kind;
	r->client_guid = hvrs_guid(&global->client_guid);
	r->create_guid = hvrs_guid(&global->create_guid);
	r->device = fsp->file_id.devid;
	r->inode = fsp->file_id.inode;
	r->extra = fsp->file_id.extid;
	r->born = birth(fsp_get_pathref_fd(fsp), "");
	if (r->device == (uint64_t)fsp->fsp_name->st.st_ex_dev) {
		r->flags |= HANDLE_DEVICE_STAT;
	}
	r->access = fsp->access_mask;
	r->private_options = series_private_options(fsp);
	r->uid = (uint32_t)get_current_uid(fsp->conn);
	r->open_time = timeval_to_nttime(&fsp->open_time);
	r->allocation = fsp->initial_allocation_size;
	r->owner = hvrs_text(open->mem_ctx,
			     dom_sid_str_buf(&global->open_owner, &sid));
	r->share = hvrs_text(open->mem_ctx, hvrs_share(handle)->name);
	r->path = hvrs_text(open->mem_ctx, fsp->conn->connectpath);
	r->user = hvrs_text(open->mem_ctx,
			    fsp->conn->session_info->unix_info->unix_name);
	memset(r->sequences, 0xFF, sizeof(r->sequences));
	record_lease(r, fsp);
	return open;
}

struct hvrs_open *hvrs_open_adopt(struct vfs_handle_struct *handle,
				  struct files_struct *fsp,
				  const struct handle_record *record)
{
	struct hvrs_open *open = open_attach(handle, fsp);
	struct handle_record *r = NULL;

	if (open == NULL) {
		return NULL;
	}
	r = &open->h.record;
	*r = *record;
	r->owner = bytes_copy(open->mem_ctx, record->owner);
	r->share = bytes_copy(open->mem_ctx, record->share);
	r->path = bytes_copy(open->mem_ctx, record->path);
	r->user = bytes_copy(open->mem_ctx, record->user);
	r->name = bytes_copy(open->names, record->name);
	r->locks = bytes_copy(open->locks, record->locks);
	r->modules = bytes_copy(open->modules, record->modules);
	open->stored = true;
	open->granted = true;
	return open;
}

void hvrs_open_forget(struct files_struct *fsp)
{
	struct vfs_handle_struct *handle = hvrs_handles_instance(fsp->conn);

	if (handle != NULL) {
		VFS_REMOVE_FSP_EXTENSION(handle, fsp);
	}
}

static bool bytes_differ(struct handle_bytes a, const void *data,
			 size_t length)
{
	return a.length != length ||
		(length > 0 && memcmp(a.data, data, length) != 0);
}

static bool refresh_locks(struct files_struct *fsp, struct hvrs_open *open)
{
	struct handle_record *r = &open->h.record;
	uint8_t *locks = NULL;
	size_t length = 0;
	bool changed = false;

	/* It has followed them, and the database may have lost them. */
	if (lp_clustering() && open->stored) {
		changed = open->relocked;
		open->relocked = false;
		return changed;
	}
	if (!hvrs_locks_read(talloc_tos(), &fsp->file_id, r->id, &locks,
			     &length)) {
		return false;
	}
	changed = bytes_differ(r->locks, locks, length);
	if (changed) {
		talloc_free_children(open->locks);
		r->locks = bytes_copy(open->locks, (struct handle_bytes){
			.data = locks, .length = length });
	}
	TALLOC_FREE(locks);
	return changed;
}

/* Whether FileDispositionInformation wants the file gone, by anyone. */
static bool is_to_be_deleted(struct files_struct *fsp)
{
	struct share_mode_lock *lck = fetch_share_mode_unlocked(
		talloc_tos(), fsp->file_id);
	bool gone = lck != NULL &&
		is_delete_on_close_set(lck, fsp->name_hash);

	TALLOC_FREE(lck);
	return gone;
}

bool hvrs_open_refresh(struct files_struct *fsp, struct hvrs_open *open)
{
	struct handle_record *r = &open->h.record;
	struct handle_record before = *r;
	const char *name = fsp->fsp_name->base_name;
	bool changed = refresh_locks(fsp, open);
	uint32_t deletion = 0;

	if (bytes_differ(r->name, name, strlen(name))) {
		talloc_free_children(open->names);
		r->name = hvrs_text(open->names, name);
		changed = true;
	}
	if (fsp->fsp_flags.initial_delete_on_close) {
		deletion |= HANDLE_DELETE_INITIAL;
	}
	if (is_to_be_deleted(fsp)) {
		deletion |= HANDLE_DELETE_PENDING;
	}
	r->flags &= ~(uint32_t)(HANDLE_DELETE_INITIAL | HANDLE_DELETE_PENDING);
	r->flags |= deletion;
	record_lease(r, fsp);
	changed = hvrs_parts_save(fsp, open) || changed;
	r->position = fh_get_position_information(fsp->fh);
	r->channel_sequence = (uint16_t)fsp->op->global->channel_sequence;
	memcpy(r->sequences, fsp->op->global->lock_sequence_array,
	       sizeof(r->sequences));
	return changed || before.flags != r->flags ||
		before.oplock != r->oplock ||
		before.lease_state != r->lease_state ||
		before.lease_epoch != r->lease_epoch ||
		memcmp(before.sequences, r->sequences,
		       sizeof(r->sequences)) != 0;
}

/* ---- VFS --------------------------------------------------------------------------- */

static bool is_asked_for(const struct smb2_create_blobs *in, DATA_BLOB *_dh2q)
{
	struct smb2_create_blob *blob = NULL;

	if (in == NULL) {
		return false;
	}
	blob = smb2_create_blob_find(in, SMB2_CREATE_TAG_DH2Q);
	if (blob == NULL || blob->data.length != 32) {
		return false;
	}
	*_dh2q = blob->data;
	return (IVAL(blob->data.data, 4) & DH2Q_PERSISTENT) != 0;
}

static void record_application(struct handle_record *r,
			       const struct smb2_create_blobs *in)
{
	static const char instance[] =
		"\x45\xBC\xA6\x6A\xEF\xA7\xF7\x4A\x90\x08\xFA\x46\x2E\x14"
		"\x4D\x74";
	static const char version[] =
		"\xB9\x82\xD0\xB7\x3B\x56\x07\x4F\xA0\x7B\x52\x4A\x81\x16"
		"\xA0\x10";
	struct smb2_create_blob *blob = smb2_create_blob_find(in, instance);

	if (blob != NULL && blob->data.length == 20) {
		r->flags |= HANDLE_APP_INSTANCE;
		memcpy(r->app_instance.bytes, blob->data.data + 4, 16);
	}
	blob = smb2_create_blob_find(in, version);
	if (blob != NULL && blob->data.length == 24) {
		r->flags |= HANDLE_APP_VERSION;
		r->app_version_high = BVAL(blob->data.data, 8);
		r->app_version_low = BVAL(blob->data.data, 16);
	}
}

static void make_persistent(const struct tunnel_create *c,
			    struct files_struct *fsp, DATA_BLOB dh2q)
{
	struct hvrs_open *open = hvrs_open_create(
		c->handle, fsp, HANDLE_PERSISTENT | HANDLE_CREATE_GUID);
	struct handle_record *r = NULL;

	if (open == NULL) {
		return;
	}
	r = &open->h.record;
	memcpy(r->create_guid.bytes, dh2q.data + 16, 16);
	r->sharing = c->share_access;
	r->desired_access = c->access_mask;
	r->create_options = c->options;
	r->create_action = (uint32_t)*c->info;
	/* As the client asks; what it gets is known when it is answered. */
	r->timeout_ms = IVAL(dh2q.data, 0);
	if (fsp->fsp_flags.is_directory) {
		r->flags |= HANDLE_DIRECTORY;
	} else if ((c->options & FILE_WRITE_THROUGH) != 0) {
		r->flags |= HANDLE_WRITE_THROUGH;
	}
	record_application(r, c->in_blobs);
	if (hvrs_tunnel_modes(fsp, &r->access, &r->sharing)) {
		r->flags |= HANDLE_SHARED;
	}
	/* This alone makes the core call the open durable. */
	if (!series_folder_is_apart(fsp)) {
		fsp->op->global->backend_cookie =
			hvrs_open_cookie(fsp->op, r->id);
	}
}

bool hvrs_handles_create_begin(struct tunnel_create *c)
{
	struct hvrs_share *share = hvrs_share(c->handle);

	if (!share->on[OPTION_PERSISTENT] || c->req == NULL ||
	    c->req->smb2req == NULL ||
	    (c->req->xconn->smb2.server.capabilities & CAP_PERSISTENT) == 0 ||
	    !hvrs_handles_agree(share, c->handle->conn)) {
		return false;
	}
	hvrs_handles_apply(share, c->handle->conn);
	/* [MS-SMB2] 3.3.5.9: every open of such a share. */
	c->options |= FILE_WRITE_THROUGH;
	return true;
}

void hvrs_handles_create_end(const struct tunnel_create *c)
{
	DATA_BLOB dh2q = data_blob_null;
	struct files_struct *fsp = *c->result;

	if (!is_asked_for(c->in_blobs, &dh2q) || fsp->op == NULL ||
	    fsp_is_alternate_stream(fsp) ||
	    fsp->fake_file_handle != NULL || fsp->print_file != NULL ||
	    (!S_ISREG(fsp->fsp_name->st.st_ex_mode) &&
	     !fsp->fsp_flags.is_directory) ||
	    (hvrs_tunnel_owns(fsp) && !hvrs_parts_keep(fsp))) {
		return;
	}
	make_persistent(c, fsp, dh2q);
}

NTSTATUS hvrs_durable_cookie(struct vfs_handle_struct *handle,
			     struct files_struct *fsp, TALLOC_CTX *mem_ctx,
			     DATA_BLOB *cookie)
{
	struct hvrs_open *open = hvrs_open_of(fsp);

	if (open == NULL) {
		return SMB_VFS_NEXT_DURABLE_COOKIE(handle, fsp, mem_ctx,
						   cookie);
	}
	if (series_folder_is_apart(fsp)) {
		return NT_STATUS_NOT_SUPPORTED;
	}
	*cookie = hvrs_open_cookie(mem_ctx, open->h.record.id);
	return cookie->data != NULL ? NT_STATUS_OK : NT_STATUS_NO_MEMORY;
}

/* The handle waits from now on; others are kept out by its record. */
static void begin_to_wait(struct files_struct *fsp, struct hvrs_open *open)
{
	struct state_log_point point = {};
	int ret = 0;

	hvrs_open_refresh(fsp, open);
	open->h.record.waiting_since_ms = state_handles_now();
	open->h.connected = false;
	/*
	 * Where the last connection is lost smbd gives up on its writes that
	 * threads are about to do, or do; they stop when the process ends.
	 */
	open->h.leaving = smbXsrv_client_valid_connections(
		fsp->conn->sconn->client) == 0;
	ret = state_handles_store(&open->h, &point);
	if (ret != 0) {
		state_handles_store_index(&open->h);
	}
}

static void mark_disconnected(struct share_mode_lock *lck, void *private_data)
{
	struct files_struct *fsp = private_data;

	if (!mark_share_mode_disconnected(lck, fsp)) {
		DBG_WARNING("hvrs: no share mode entry of %s\n",
			    fsp_str_dbg(fsp));
	}
}

NTSTATUS hvrs_durable_disconnect(struct vfs_handle_struct *handle,
				 struct files_struct *fsp,
				 const DATA_BLOB old_cookie,
				 TALLOC_CTX *mem_ctx, DATA_BLOB *new_cookie)
{
	struct hvrs_open *open = hvrs_open_of(fsp);
	NTSTATUS status = NT_STATUS_OK;

	if (open == NULL) {
		return SMB_VFS_NEXT_DURABLE_DISCONNECT(
			handle, fsp, old_cookie, mem_ctx, new_cookie);
	}
	if (!open->stored) {
		/* Nobody was told that it would be kept. */
		return NT_STATUS_NOT_SUPPORTED;
	}
	series_write_time_flush(fsp);
	hvrs_tunnel_disconnect(fsp);
	begin_to_wait(fsp, open);
	status = series_entry_do(fsp->file_id, mark_disconnected, fsp);
	if (!NT_STATUS_IS_OK(status)) {
		DBG_WARNING("hvrs: %s: %s\n", fsp_str_dbg(fsp),
			    nt_errstr(status));
	}
	fd_close(fsp);
	*new_cookie = hvrs_open_cookie(mem_ctx, open->h.record.id);
	return NT_STATUS_OK;
}

/* ---- closing ------------------------------------------------------------------------ */

/*
 * smbd knows no durable directories: it closes them for good, which is right
 * but for one that is to be deleted, and the record is what is left.
 */
static uint64_t close_directory(struct files_struct *fsp,
				struct hvrs_open *open, bool keep)
{
	hvrs_open_refresh(fsp, open);
	if (!keep || (open->h.record.flags & (HANDLE_DELETE_INITIAL |
					      HANDLE_DELETE_PENDING)) != 0) {
		if (fsp->op != NULL) {
			fsp->op->global->durable = false;
		}
		return open->h.record.id;
	}
	begin_to_wait(fsp, open);
	if (series_folder_is_apart(fsp)) {
		fsp->op->global->durable = false;
	}
	return 0;
}

static uint64_t close_begin(struct files_struct *fsp,
			    enum file_close_type type)
{
	struct hvrs_open *open = hvrs_open_of(fsp);
	bool keep = type == SHUTDOWN_CLOSE && fsp->op != NULL &&
		fsp->op->global->durable;

	if (open == NULL || !open->stored) {
		return 0;
	}
	if (fsp->fsp_flags.is_directory) {
		return close_directory(fsp, open, keep);
	}
	return keep ? 0 : open->h.record.id;
}

/*
 * The record goes last: smbd may end before the close is whole.  Where CTDB has lost the file's entries since they were looked for, smbd has
 * closed the file and let all else be: it is done by the record.
 */
static void close_end(uint64_t id, NTSTATUS *status)
{
	struct state_handle *h = NULL;
	struct state_log_point point = {};

	if (!lp_clustering() ||
	    !NT_STATUS_EQUAL(*status, NT_STATUS_NOT_FOUND)) {
		state_handles_drop(id);
		return;
	}
	h = state_handles_fetch(talloc_tos(), id);
	if (h != NULL) {
		h->connected = false;
		h->leaving = false;
		h->record.waiting_since_ms = 1;
		h->record.timeout_ms = 0;
		/* Else it is over, and ends with the next look at it. */
		if (state_handles_store(h, &point) == 0) {
			hvrs_handle_end(h);
		}
	}
	TALLOC_FREE(h);
	*status = NT_STATUS_OK;
}

static void lease_down(struct smbXsrv_client *client,
		       const struct smb2_lease_key *key, uint32_t state)
{
	struct smbd_server_connection *sconn = client->sconn;
	struct files_struct *fsp = NULL;

	for (fsp = sconn->files; fsp != NULL; fsp = fsp->next) {
		struct hvrs_open *open = NULL;
		struct state_log_point point = {};

		if (fsp->oplock_type != LEASE_OPLOCK || fsp->lease == NULL ||
		    !smb2_lease_key_equal(&fsp->lease->lease.lease_key,
					  key)) {
			continue;
		}
		open = hvrs_open_of(fsp);
		if (open == NULL || !open->stored ||
		    open->h.record.lease_state == state) {
			continue;
		}
		open->h.record.lease_state = state;
		if (state_handles_store(&open->h, &point) == 0 &&
		    state_handles_synced()) {
			become_root();
			state_log_commit(point);
			unbecome_root();
		}
	}
}

/* ---- set up -------------------------------------------------------------------------- */

static const struct {
	const char *name;
	const char *value;
} needed[] = {
	{ "smb3 share cap:CONTINUOUS AVAILABILITY", "yes" },
	{ "posix locking", "no" },
	{ "kernel oplocks", "no" },
	{ "kernel share modes", "no" },
	{ "durable handles", "yes" },
	SERIES_LEASE_PARAMETERS
};

void hvrs_handles_apply(const struct hvrs_share *share,
			struct connection_struct *conn)
{
	int snum = SNUM(conn);
	struct stat st = {};
	size_t i = 0;

	if (stat(conn->connectpath, &st) == 0) {
		state_handles_device((uint64_t)st.st_dev);
	}
	/* One of them tells whether a reload took them all away. */
	if (!share->on[OPTION_PERSISTENT] ||
	    lp_parm_bool(snum, "smb3 share cap", "CONTINUOUS AVAILABILITY",
			 false)) {
		return;
	}
	for (i = 0; i < ARRAY_SIZE(needed); i++) {
		lp_do_parameter(snum, needed[i].name, needed[i].value);
	}
}

static bool is_kept_share(struct smbd_smb2_request *req)
{
	struct vfs_handle_struct *handle = req->tcon == NULL ? NULL :
		hvrs_handles_instance(req->tcon->compat);

	return handle != NULL && !hvrs_share(handle)->core_persists;
}

static const struct hooks_handles handles_client = {
	.open = hvrs_handles_open,
	.entered = hvrs_handles_entered,
	.begin = hvrs_handles_begin,
	.look_first = hvrs_handles_look_first,
	.ghost = hvrs_handles_ghost,
	.named = hvrs_handles_named,
	.reply = hvrs_handles_reply,
	.wait = hvrs_handles_wait,
	.is_kept_share = is_kept_share,
	.lost = hvrs_handles_lost,
	.request = hvrs_parts_request,
	.recreate = hvrs_handles_recreate,
	.close_begin = close_begin,
	.close_end = close_end,
	.protect = hvrs_handles_protect,
	.locked = hvrs_handles_locked,
	.lease_down = lease_down,
	.rename = hvrs_handles_rename,
	.renamed = hvrs_handles_renamed,
	.client = hvrs_handles_client,
	.session = hvrs_handles_session,
};

void hvrs_handles_start(void)
{
	if (state_handles_init()) {
		hooks_handles_set(&handles_client);
		hvrs_handles_sweep_start();
	}
}
