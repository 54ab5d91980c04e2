/*
 * The replacements.
 */
#include "hooks_handles.h"
#include "step.h"

#include "locking/share_mode_lock.h"
#include "locking/proto.h"
#include "smbd/smbXsrv_open.h"
#include "librpc/gen_ndr/ndr_open_files.h"
#include "messages.h"

#define WAIT_LEAST_MS 2
#define WAIT_MOST_MS 50
#define WAIT_IN_ALL_MS 25000
#define PREVIOUS_MS 10
#define CLOSING_MS 5

static const struct hooks_handles *client;
static struct smbd_smb2_request *current_create;
static bool create_again;	/* current_create is to be taken up later */
static bool come_again;		/* by its client */

static NTSTATUS (*core_create_file)(
	connection_struct *, struct smb_request *, struct files_struct *,
	struct smb_filename *, uint32_t, uint32_t, uint32_t, uint32_t,
	uint32_t, uint32_t, const struct smb2_lease *, uint64_t, uint32_t,
	struct security_descriptor *, struct ea_list *, files_struct **,
	int *, const struct smb2_create_blobs *, struct smb2_create_blobs *);
static NTSTATUS (*core_process_create)(struct smbd_smb2_request *);
static NTSTATUS (*core_done)(struct smbd_smb2_request *, NTSTATUS, DATA_BLOB,
			     DATA_BLOB *, const char *);
static NTSTATUS (*core_recreate)(
	struct smbXsrv_connection *, TO_4_22(struct auth_session_info *)
	FROM_4_24(struct smbXsrv_session *, struct smbXsrv_tcon *) uint64_t,
	const struct GUID *, FROM_4_24(const struct smb2_lease_key *) NTTIME,
	struct smbXsrv_open **);
static void (*core_terminate)(struct smbXsrv_connection *, const char *,
			      const char *);
static NTSTATUS (*core_close)(struct smb_request *, struct files_struct *,
			      enum file_close_type);
static bool (*core_stale)(struct share_mode_entry *);
static NTSTATUS (*core_brl_lock)(struct byte_range_lock *,
				 struct lock_struct *);
static bool (*core_strict_lock)(files_struct *, struct lock_struct *);
static NTSTATUS (*core_downgrade)(struct smbXsrv_client *, uint32_t,
				  const struct file_id *,
				  const struct smb2_lease_key *, uint32_t);
static NTSTATUS (*core_lease_break)(struct smbXsrv_client *, uint16_t,
				    uint32_t, struct smb2_lease_key *,
				    uint32_t, uint32_t);
static NTSTATUS (*core_rename)(
	connection_struct *, FROM_4_24(struct files_struct *) files_struct *,
	TO_4_17(struct files_struct *) FROM_4_24(struct smb_filename *)
	FROM_4_22(struct share_mode_lock **) TO_4_22(struct smb_filename *, const char *) uint32_t,
	FROM_4_24(const char *) bool);
static struct tevent_req *(*core_mc_negprot)(TALLOC_CTX *,
					     struct tevent_context *,
					     struct smbd_smb2_request *);

#if SERIES_IS(SERIES_4_22)
static NTSTATUS (*core_prepare_lock)(
	struct share_mode_entry_prepare_state *, struct file_id, const char *,
	const struct smb_filename *, TO_4_22(const struct timespec *)
	share_mode_entry_prepare_lock_fn_t, void *, const char *);
#endif
static NTSTATUS (*core_dispatch)(struct smbd_smb2_request *);
static NTSTATUS (*core_process_lock)(struct smbd_smb2_request *);
static NTSTATUS (*core_process_close)(struct smbd_smb2_request *);
static struct tevent_req *(*core_close_previous)(
	TALLOC_CTX *, struct tevent_context *, struct smbXsrv_connection *,
	struct auth_session_info *, uint64_t, uint64_t);

void hooks_handles_set(const struct hooks_handles *handles)
{
	client = handles;
}

static struct hooks_open *entering;	/* the open that the core is at */

#if SERIES_IS(SERIES_4_22)
struct enter {
	struct hooks_open *open;
	const struct smb_filename *name;
	struct file_id file;
	share_mode_entry_prepare_lock_fn_t fn;
	void *private_data;
	NTSTATUS status;
};

static void enter(struct share_mode_lock *lck, bool *keep_locked,
		  void *private_data)
{
	struct enter *enter = private_data;

	enter->status = client->entered(enter->open, lck, enter->name,
					enter->file);
	if (!NT_STATUS_IS_OK(enter->status)) {
		*keep_locked = false;
		return;
	}
	enter->fn(lck, keep_locked, enter->private_data);
}

static NTSTATUS hooked_prepare_lock(
	struct share_mode_entry_prepare_state *state, struct file_id file,
	const char *path, const struct smb_filename *name,
	TO_4_22(const struct timespec *written)
	share_mode_entry_prepare_lock_fn_t fn, void *private_data,
	const char *location)
{
	struct enter entered = {
		.open = entering, .name = name, .file = file, .fn = fn,
		.private_data = private_data,
	};
	NTSTATUS status = NT_STATUS_OK;

	/* One without a path is the end of an open. */
	if (client == NULL || entering == NULL || path == NULL) {
		return core_prepare_lock(state, file, path, name,
					 TO_4_22(written) fn, private_data,
					 location);
	}
	status = core_prepare_lock(state, file, path, name, TO_4_22(written)
				   enter, &entered, location);
	create_again = create_again || entered.open->again;
	return NT_STATUS_IS_OK(entered.status) ? status : entered.status;
}
#endif

static NTSTATUS hooked_dispatch(struct smbd_smb2_request *req)
{
	if (client != NULL) {
		client->begin();
	}
	return core_dispatch(req);
}

/* The same place of the file in both. */
static void look_first(struct smbd_smb2_request *req)
{
	const uint8_t *body = SMBD_SMB2_IN_BODY_PTR(req);
	struct files_struct *fsp = NULL;

	if (client != NULL && SMBD_SMB2_IN_BODY_LEN(req) >= 0x18) {
		fsp = file_fsp_smb2(req, BVAL(body, 8), BVAL(body, 16));
	}
	if (fsp != NULL) {
		client->look_first(fsp);
	}
}

static NTSTATUS hooked_process_lock(struct smbd_smb2_request *req)
{
	look_first(req);
	return core_process_lock(req);
}

static NTSTATUS hooked_process_close(struct smbd_smb2_request *req)
{
	look_first(req);
	return core_process_close(req);
}

static NTSTATUS hooked_create_file(
	connection_struct *conn, struct smb_request *req,
	struct files_struct *dirfsp, struct smb_filename *smb_fname,
	uint32_t access_mask, uint32_t share_access,
	uint32_t create_disposition, uint32_t create_options,
	uint32_t file_attributes, uint32_t oplock_request,
	const struct smb2_lease *lease, uint64_t allocation_size,
	uint32_t private_flags, struct security_descriptor *sd,
	struct ea_list *ea_list, files_struct **result, int *pinfo,
	const struct smb2_create_blobs *in, struct smb2_create_blobs *out)
{
	struct hooks_open open = {
		.conn = conn, .req = req, .smb_fname = smb_fname,
		.access_mask = access_mask, .share_access = share_access,
		.create_disposition = create_disposition,
		.create_options = create_options, .in = in,
		.smb2req = req == NULL ? NULL : req->smb2req,
	};
	struct hooks_open *outer = entering;
	NTSTATUS status = NT_STATUS_OK;

	if (open.smb2req != current_create) {
		open.smb2req = NULL;
	}
	if (client != NULL) {
		status = client->open(&open);
		create_again = create_again || open.again;
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	step("open");
	entering = &open;
	status = core_create_file(
		conn, req, dirfsp, smb_fname, access_mask, share_access,
		open.create_disposition, create_options, file_attributes,
		oplock_request, lease, allocation_size, private_flags, sd,
		ea_list, result, pinfo, in, out);
	entering = outer;
	step("opened");
	if (NT_STATUS_IS_OK(status) && pinfo != NULL &&
	    open.create_action != 0) {
		*pinfo = open.create_action;
	}
	return status;
}

/* ---- a file that is closed by a message ----------------------------------- */

struct closing {
	struct messaging_context *msg_ctx;
	struct smbd_server_connection *sconn;
	struct server_id from;
	DATA_BLOB data;
};

static void close_message(struct messaging_context *msg_ctx,
			  void *private_data, uint32_t type,
			  struct server_id from, DATA_BLOB *data);

static void closing_timer(struct tevent_context *ev, struct tevent_timer *te,
			  struct timeval now, void *private_data)
{
	struct closing *closing = talloc_get_type_abort(private_data,
							struct closing);

	(void)ev;
	(void)te;
	(void)now;
	close_message(closing->msg_ctx, closing->sconn, MSG_SMB_CLOSE_FILE,
		      closing->from, &closing->data);
	TALLOC_FREE(closing);
}

/*
 * What hvrs sends, in the form that the core has for it since 4.22; false for
 * anything else.  smbd panics where reads or writes of the file are under
 * way: not yet.
 */
static bool close_ours(struct messaging_context *msg_ctx,
			struct smbd_server_connection *sconn,
			struct server_id from, const DATA_BLOB *data)
{
	struct oplock_break_message message = {};
	struct closing *closing = NULL;
	struct files_struct *fsp = NULL;
	uint32_t i = 0;

	if (!NDR_ERR_CODE_IS_SUCCESS(ndr_pull_struct_blob_all_noalloc(
		data, &message, (ndr_pull_flags_fn_t)
		ndr_pull_oplock_break_message))) {
		return false;
	}
	fsp = file_find_dif(sconn, message.id, message.share_file_id);
	if (fsp == NULL) {
		return true;
	}
	if (fsp->num_aio_requests == 0) {
		close_file_free(NULL, &fsp, NORMAL_CLOSE);
		return true;
	}
	fsp->fsp_flags.closing = true;
	while (i < fsp->num_aio_requests) {
		if (!tevent_req_cancel(fsp->aio_requests[i])) {
			i++;
		}
	}
	closing = talloc_zero(sconn, struct closing);
	if (closing == NULL) {
		return true;
	}
	closing->msg_ctx = msg_ctx;
	closing->sconn = sconn;
	closing->from = from;
	closing->data = data_blob_talloc(closing, data->data, data->length);
	tevent_add_timer(sconn->ev_ctx, closing,
			 timeval_current_ofs_msec(CLOSING_MS), closing_timer,
			 closing);
	return true;
}

static void close_message(struct messaging_context *msg_ctx,
			  void *private_data, uint32_t type,
			  struct server_id from, DATA_BLOB *data)
{
	struct smbd_server_connection *sconn = talloc_get_type_abort(
		private_data, struct smbd_server_connection);

	if (!close_ours(msg_ctx, sconn, from, data)) {
		msg_close_file(msg_ctx, private_data, type, from, data);
	}
}

static void renamed_message(struct messaging_context *msg_ctx,
			    void *private_data, uint32_t type,
			    struct server_id from, DATA_BLOB *data)
{
	msg_file_was_renamed(msg_ctx, private_data, type, from, data);
	client->named(talloc_get_type_abort(private_data,
					    struct smbd_server_connection));
}

/* Before anything is open: instead of the core's. */
static void messages_begin(struct smbd_server_connection *sconn)
{
	static bool done;

	if (!done) {
		done = true;
		messaging_deregister(sconn->msg_ctx, MSG_SMB_FILE_RENAME,
				     sconn);
		messaging_register(sconn->msg_ctx, sconn, MSG_SMB_FILE_RENAME,
				   renamed_message);
		messaging_deregister(sconn->msg_ctx, MSG_SMB_CLOSE_FILE,
				     sconn);
		messaging_register(sconn->msg_ctx, sconn, MSG_SMB_CLOSE_FILE,
				   close_message);
	}
}

/* ---- a CREATE that comes too early ---------------------------------------- */

struct wait {
	struct smbd_smb2_request *req;
	uint32_t next_ms;
	uint32_t all_ms;
};

static bool wait_again(struct wait *wait);

static void wait_done(struct tevent_req *subreq)
{
	struct wait *wait = tevent_req_callback_data(subreq, struct wait);
	struct smbd_smb2_request *req = wait->req;
	struct smbXsrv_connection *xconn = req->xconn;
	NTSTATUS status = NT_STATUS_OK;

	tevent_wakeup_recv(subreq);
	TALLOC_FREE(subreq);
	req->subreq = NULL;
	if (wait->all_ms < WAIT_IN_ALL_MS && client->wait(req) &&
	    wait_again(wait)) {
		return;
	}
	/* As smbd does with a CREATE that waited for another client. */
	status = smbd_smb2_request_dispatch(req);
	if (!NT_STATUS_IS_OK(status)) {
		smbd_server_connection_terminate(xconn, nt_errstr(status));
	}
}

static bool wait_again(struct wait *wait)
{
	struct smbd_smb2_request *req = wait->req;
	struct tevent_req *subreq = tevent_wakeup_send(
		wait, req->sconn->ev_ctx,
		timeval_current_ofs_msec(wait->next_ms));

	if (subreq == NULL) {
		return false;
	}
	tevent_req_set_callback(subreq, wait_done, wait);
	wait->all_ms += wait->next_ms;
	wait->next_ms = MIN(wait->next_ms * 2, WAIT_MOST_MS);
	return NT_STATUS_IS_OK(smbd_smb2_request_pending_queue(req, subreq,
							       500));
}

static bool wait_start(struct smbd_smb2_request *req)
{
	struct wait *wait = talloc_zero(req, struct wait);

	if (wait == NULL) {
		return false;
	}
	wait->req = req;
	wait->next_ms = WAIT_LEAST_MS;
	return wait_again(wait);
}

/* The request waits once; where that took too long it has to be refused. */
static bool wait_begin(struct smbd_smb2_request *req)
{
	if ((IVAL(SMBD_SMB2_OUT_HDR_PTR(req), SMB2_HDR_FLAGS) &
	     SMB2_HDR_FLAG_ASYNC) != 0 || req->async_te != NULL ||
	    !client->wait(req)) {
		return false;
	}
	return wait_start(req);
}

static void hooked_terminate(struct smbXsrv_connection *xconn,
			     const char *reason, const char *location)
{
	bool first = !xconn->transport.terminating;

	if (client != NULL && first) {
		client->lost(xconn);
	}
	core_terminate(xconn, reason, location);
}

#if SERIES_IS(SERIES_4_25)
/*
 * The core makes a handle persistent of whoever was told of such handles, by
 * the server and the share: also where we were those who told.
 */
static void keep_core_out(struct smbd_smb2_request *req)
{
	if (req->tcon != NULL && (!series_core_persists() ||
				  client->is_kept_share(req))) {
		req->tcon->capabilities &=
			~SMB2_SHARE_CAP_CONTINUOUS_AVAILABILITY;
	}
}
#endif

static NTSTATUS hooked_process_create(struct smbd_smb2_request *req)
{
	NTSTATUS status = NT_STATUS_OK;

	if (client != NULL) {
		messages_begin(req->sconn);
	}
	if (client != NULL && wait_begin(req)) {
		return NT_STATUS_OK;
	}
	if (client != NULL) {
		client->request(req);
#if SERIES_IS(SERIES_4_25)
		keep_core_out(req);
#endif
	}
	current_create = req;
	create_again = false;
	come_again = false;
	status = core_process_create(req);
	current_create = NULL;
	create_again = false;
	come_again = false;
	return status;
}

#if !SERIES_IS(SERIES_4_22)
/*
 * [MS-SMB2] 2.2.10: later ones announce it themselves, by the same parameter.
 * The capabilities are at offset 8 of the answer to a TREE_CONNECT.
 */
static void announce_availability(struct smbd_smb2_request *req,
				  NTSTATUS status, DATA_BLOB body)
{
	struct smbXsrv_tcon *tcon = NULL;

	if (SVAL(SMBD_SMB2_IN_HDR_PTR(req), SMB2_HDR_OPCODE) != SMB2_OP_TCON ||
	    !NT_STATUS_IS_OK(status) || body.length < 16 ||
	    req->session == NULL || req->xconn->protocol < PROTOCOL_SMB3_00 ||
	    !NT_STATUS_IS_OK(smb2srv_tcon_lookup(
		    req->session, req->last_tid,
		    timeval_to_nttime(&req->request_time), &tcon)) ||
	    tcon->compat == NULL ||
	    !lp_parm_bool(SNUM(tcon->compat), "smb3 share cap",
			  "CONTINUOUS AVAILABILITY", false)) {
		return;
	}
	SIVAL(body.data, 8, IVAL(body.data, 8) |
	      SMB2_SHARE_CAP_CONTINUOUS_AVAILABILITY);
}
#endif

static NTSTATUS hooked_done(struct smbd_smb2_request *req, NTSTATUS status,
			    DATA_BLOB body, DATA_BLOB *dyn,
			    const char *location)
{
	/* Not refused, but taken up again. */
	if (create_again && req == current_create &&
	    !NT_STATUS_IS_OK(status)) {
		create_again = false;
		if (wait_start(req)) {
			return NT_STATUS_OK;
		}
	}
	if (come_again && req == current_create &&
	    !NT_STATUS_IS_OK(status)) {
		status = NT_STATUS_FILE_NOT_AVAILABLE;
	}
#if !SERIES_IS(SERIES_4_22)
	announce_availability(req, status, body);
#endif
	if (client != NULL &&
	    client->reply(req, status, body, dyn, location)) {
		return NT_STATUS_OK;
	}
	return core_done(req, status, body, dyn, location);
}

void hooks_come_again(bool may)
{
	come_again = may;
}

NTSTATUS hooks_reply(struct smbd_smb2_request *req, NTSTATUS status,
		     DATA_BLOB body, DATA_BLOB *dyn, const char *location)
{
	return core_done(req, status, body, dyn, location);
}

static NTSTATUS hooked_recreate(
	struct smbXsrv_connection *xconn,
	TO_4_22(struct auth_session_info *session_info)
	FROM_4_24(struct smbXsrv_session *session, struct smbXsrv_tcon *tcon)
	uint64_t persistent_id, const struct GUID *create_guid,
	FROM_4_24(const struct smb2_lease_key *lease_key) NTTIME now,
	struct smbXsrv_open **_open)
{
#if SERIES_IS(SERIES_4_24)
	struct auth_session_info *session_info =
		session->global->auth_session_info;
#endif
	NTSTATUS status = NT_STATUS_OK;

	if (client != NULL && current_create != NULL &&
	    current_create->xconn == xconn) {
		status = client->recreate(current_create, session_info,
					  &persistent_id, create_guid);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	return core_recreate(xconn, TO_4_22(session_info)
			     FROM_4_24(session, tcon) persistent_id,
			     create_guid, FROM_4_24(lease_key) now, _open);
}

#if SERIES_IS(SERIES_4_24)
/*
 * Since 4.24 the cache of replays is shared and outlives the processes that
 * fill it: a CREATE that one of them died of is pending for ever, and a replay
 * of one that it has answered is taken for a reconnect.  Where handles have a
 * record, that decides, and of the cache only what this process put there.
 */
struct reserved {
	struct reserved *prev, *next;
	struct GUID create_guid;
};

static struct reserved *all_reserved;

static NTSTATUS (*core_replay)(struct smbXsrv_connection *,
			       struct smbXsrv_session *, struct GUID,
			       const char *, FROM_4_25(bool) FROM_4_25(bool)
			       NTTIME, uint64_t *, struct smbXsrv_open **);

static int reserved_destructor(struct reserved *reserved)
{
	DLIST_REMOVE(all_reserved, reserved);
	return 0;
}

static void reserved_add(const struct GUID *create_guid)
{
	struct reserved *reserved = talloc_zero(current_create,
						struct reserved);

	if (reserved != NULL) {
		reserved->create_guid = *create_guid;
		DLIST_ADD(all_reserved, reserved);
		talloc_set_destructor(reserved, reserved_destructor);
	}
}

static bool is_reserved(const struct GUID *create_guid)
{
	const struct reserved *reserved = NULL;

	for (reserved = all_reserved; reserved != NULL;
	     reserved = reserved->next) {
		if (GUID_equal(&reserved->create_guid, create_guid)) {
			return true;
		}
	}
	return false;
}

static bool is_left_over(NTSTATUS status, const struct GUID *create_guid)
{
	return NT_STATUS_EQUAL(status, NT_STATUS_HANDLE_NO_LONGER_VALID) ||
		NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND) ||
		(NT_STATUS_EQUAL(status, NT_STATUS_FILE_NOT_AVAILABLE) &&
		 !is_reserved(create_guid));
}

static NTSTATUS hooked_replay(struct smbXsrv_connection *xconn,
			      struct smbXsrv_session *session,
			      struct GUID create_guid, const char *name,
			      FROM_4_25(bool replay) FROM_4_25(bool persistent)
			      NTTIME now, uint64_t *persistent_id,
			      struct smbXsrv_open **_open)
{
	uint64_t id = *persistent_id;
	NTSTATUS status = core_replay(xconn, session, create_guid, name,
				      FROM_4_25(replay) FROM_4_25(persistent)
				      now, persistent_id, _open);

	if (client == NULL || current_create == NULL ||
	    !client->is_kept_share(current_create)) {
		return status;
	}
	if (is_left_over(status, &create_guid)) {
		*persistent_id = id;
		smbXsrv_open_purge_replay_cache(xconn->client, &create_guid);
		status = core_replay(xconn, session, create_guid, name,
				     FROM_4_25(replay) FROM_4_25(persistent)
				     now, persistent_id, _open);
	}
	if (NT_STATUS_EQUAL(status, NT_STATUS_FWP_RESERVED)) {
		reserved_add(&create_guid);
	}
	return status;
}
#endif

static NTSTATUS hooked_close(struct smb_request *req,
			     struct files_struct *fsp,
			     enum file_close_type type)
{
	uint64_t id = client != NULL ? client->close_begin(fsp, type) : 0;
	NTSTATUS status = NT_STATUS_OK;

	step("close");
	status = core_close(req, fsp, type);
	step("closed");
	if (id != 0) {
		client->close_end(id, &status);
	}
	step("dropped");
	return status;
}

static bool hooked_stale(struct share_mode_entry *e)
{
	bool was = e->stale;

	if (!core_stale(e)) {
		e->stale = client != NULL && client->ghost(e);
		return e->stale;
	}
	if (was || client == NULL || !client->protect(e)) {
		return true;
	}
	e->stale = false;
	return false;
}

static NTSTATUS hooked_brl_lock(struct byte_range_lock *br_lck,
				struct lock_struct *lock)
{
	if (client != NULL && client->locked(brl_fsp(br_lck), lock)) {
		lock->context.smblctx = 0xFFFFFFFFFFFFFFFFULL;
		return NT_STATUS_LOCK_NOT_GRANTED;
	}
	return core_brl_lock(br_lck, lock);
}

static bool hooked_strict_lock(files_struct *fsp, struct lock_struct *lock)
{
	if (!core_strict_lock(fsp, lock)) {
		return false;
	}
	return client == NULL || lock->size == 0 ||
		!client->locked(fsp, lock);
}

static NTSTATUS hooked_downgrade(struct smbXsrv_client *smb_client,
				 uint32_t count, const struct file_id *ids,
				 const struct smb2_lease_key *key,
				 uint32_t state)
{
	if (client != NULL) {
		client->lease_down(smb_client, key, state);
	}
	return core_downgrade(smb_client, count, ids, key, state);
}

static NTSTATUS hooked_lease_break(struct smbXsrv_client *smb_client,
				   uint16_t epoch, uint32_t flags,
				   struct smb2_lease_key *key,
				   uint32_t current, uint32_t state)
{
	/* Without an acknowledgement it has gone down already. */
	if (client != NULL &&
	    (flags & SMB2_NOTIFY_BREAK_LEASE_FLAG_ACK_REQUIRED) == 0) {
		client->lease_down(smb_client, key, state);
	}
	return core_lease_break(smb_client, epoch, flags, key, current,
				state);
}

static NTSTATUS hooked_rename(
	connection_struct *conn, FROM_4_24(struct files_struct *dirfsp)
	files_struct *fsp, TO_4_17(struct files_struct *dirfsp)
	FROM_4_24(struct smb_filename *rel)
	FROM_4_22(struct share_mode_lock **lck)
	TO_4_22(struct smb_filename *to, const char *last) uint32_t attributes,
	FROM_4_24(const char *to) bool replace)
{
	NTSTATUS status = client != NULL ? client->rename(conn, fsp) :
		NT_STATUS_OK;

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = core_rename(conn, FROM_4_24(dirfsp) fsp, TO_4_17(dirfsp)
			     FROM_4_24(rel) FROM_4_22(lck) TO_4_22(to, last)
			     attributes, FROM_4_24(to) replace);
	if (client != NULL && NT_STATUS_IS_OK(status)) {
		client->renamed(conn, fsp);
	}
	return status;
}

static struct tevent_req *hooked_mc_negprot(TALLOC_CTX *mem_ctx,
					    struct tevent_context *ev,
					    struct smbd_smb2_request *req)
{
	struct tevent_req *done = NULL;
	uint8_t *state = NULL;

	if (client == NULL || !client->client(req)) {
		return core_mc_negprot(mem_ctx, ev, req);
	}
	/* As if no other process had the client, but without taking it. */
	done = tevent_req_create(mem_ctx, &state, uint8_t);
	if (done == NULL) {
		return NULL;
	}
	req->xconn->client->global->client_guid =
		req->xconn->smb2.client.guid;
	req->xconn->smb2.client.guid_verified = true;
	tevent_req_done(done);
	return tevent_req_post(done, ev);
}

/* ---- the session of before, of a process that is about to end ------------- */

struct previous {
	struct tevent_context *ev;
	struct smbXsrv_connection *xconn;
	struct auth_session_info *session_info;
	uint64_t previous;
	uint64_t current;
	uint32_t all_ms;
};

static void previous_wait(struct tevent_req *req);

/*
 * The core refuses the login where the process that has the session hears no
 * message any more, but has not ended yet.
 */
static void previous_done(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct previous *state = tevent_req_data(req, struct previous);
	NTSTATUS status = tevent_req_simple_recv_ntstatus(subreq);

	TALLOC_FREE(subreq);
	if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND) &&
	    state->all_ms < WAIT_IN_ALL_MS) {
		previous_wait(req);
	} else if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
}

static void previous_go(struct tevent_req *req)
{
	struct previous *state = tevent_req_data(req, struct previous);
	struct tevent_req *subreq = NULL;

	if (state->all_ms < WAIT_IN_ALL_MS &&
	    client->session(state->xconn, state->session_info)) {
		previous_wait(req);
		return;
	}
	subreq = core_close_previous(state, state->ev, state->xconn,
				     state->session_info, state->previous,
				     state->current);
	if (!tevent_req_nomem(subreq, req)) {
		tevent_req_set_callback(subreq, previous_done, req);
	}
}

static void previous_woken(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);

	tevent_wakeup_recv(subreq);
	TALLOC_FREE(subreq);
	previous_go(req);
}

static void previous_wait(struct tevent_req *req)
{
	struct previous *state = tevent_req_data(req, struct previous);
	struct tevent_req *subreq = tevent_wakeup_send(
		state, state->ev, timeval_current_ofs_msec(PREVIOUS_MS));

	if (!tevent_req_nomem(subreq, req)) {
		state->all_ms += PREVIOUS_MS;
		tevent_req_set_callback(subreq, previous_woken, req);
	}
}

/* The core would wait for what such a process does not do any more. */
static struct tevent_req *hooked_close_previous(
	TALLOC_CTX *mem_ctx, struct tevent_context *ev,
	struct smbXsrv_connection *xconn,
	struct auth_session_info *session_info, uint64_t previous,
	uint64_t current)
{
	struct tevent_req *req = NULL;
	struct previous *state = NULL;

	if (client == NULL || session_info == NULL) {
		return core_close_previous(mem_ctx, ev, xconn, session_info,
					   previous, current);
	}
	req = tevent_req_create(mem_ctx, &state, struct previous);
	if (req == NULL) {
		return NULL;
	}
	*state = (struct previous){
		.ev = ev, .xconn = xconn, .session_info = session_info,
		.previous = previous, .current = current,
	};
	previous_go(req);
	return tevent_req_is_in_progress(req) ? req :
		tevent_req_post(req, ev);
}

const struct plt_hook hooks_handles_rows[] = {
	PLT_HOOK(create_file_default, hooked_create_file, core_create_file),
	PLT_HOOK(smbd_smb2_request_process_create, hooked_process_create,
		 core_process_create),
	PLT_HOOK(smbd_smb2_request_done_ex, hooked_done, core_done),
	PLT_HOOK(smb2srv_open_recreate, hooked_recreate, core_recreate),
#if SERIES_IS(SERIES_4_24)
	PLT_HOOK(smb2srv_open_lookup_replay_cache, hooked_replay,
		 core_replay),
#endif
	PLT_HOOK(smbd_server_connection_terminate_ex, hooked_terminate,
		 core_terminate),
	PLT_HOOK(close_file_smb, hooked_close, core_close),
	PLT_HOOK(share_entry_stale_pid, hooked_stale, core_stale),
	PLT_HOOK(brl_lock_windows_default, hooked_brl_lock, core_brl_lock),
	PLT_HOOK(strict_lock_check_default, hooked_strict_lock,
		 core_strict_lock),
	PLT_HOOK(downgrade_lease, hooked_downgrade, core_downgrade),
	PLT_HOOK(smbd_smb2_send_lease_break, hooked_lease_break,
		 core_lease_break),
	PLT_HOOK(rename_internals_fsp, hooked_rename, core_rename),
	PLT_HOOK(smb2srv_client_mc_negprot_send, hooked_mc_negprot,
		 core_mc_negprot),
#if SERIES_IS(SERIES_4_22)
	PLT_HOOK(_share_mode_entry_prepare_lock, hooked_prepare_lock,
		 core_prepare_lock),
#endif
	PLT_HOOK(smbd_smb2_request_dispatch, hooked_dispatch, core_dispatch),
	PLT_HOOK(smbd_smb2_request_process_lock, hooked_process_lock,
		 core_process_lock),
	PLT_HOOK(smbd_smb2_request_process_close, hooked_process_close,
		 core_process_close),
	PLT_HOOK(smb2srv_session_close_previous_send, hooked_close_previous,
		 core_close_previous),
};

const size_t hooks_handles_count = ARRAY_SIZE(hooks_handles_rows);
