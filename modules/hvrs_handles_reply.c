/*
 * Replies that promise something: NEGOTIATE and the capability, and every
 * reply to a change of a handle that outlives smbd, which is held back until
 * the log is on disk.  One flush at a time and process; what comes meanwhile
 * waits for the next, and the processes share theirs (state_log.c).
 */
#include "hvrs_handles.h"
#include "step.h"

#include <stdlib.h>

#include "locking/share_mode_lock.h"
#include "smbd/smbXsrv_open.h"

#define CAP_PERSISTENT 0x10
#define DH2Q_PERSISTENT 0x2

struct held {
	struct held *prev, *next;
	struct smbd_smb2_request *req;
	NTSTATUS status;
	DATA_BLOB body;
	DATA_BLOB dyn;
	bool has_dyn;
	const char *location;
	uint16_t opcode;
	struct state_log_point point;
};

static struct held *all_held;
static struct pthreadpool_tevent *flush_pool;

/* What the thread gets; whoever is last frees it. */
struct flush_job {
	struct state_log_point point;
	int error;
};

static struct {
	bool running;
	struct flush_job *job;
} flush;

/* ---- contexts of a CREATE reply -------------------------------------------------- */

/*
 * Puts the DH2Q context into a reply or takes it out of it, and tells the
 * body where the contexts are.
 */
static bool reply_dh2q(TALLOC_CTX *mem_ctx, DATA_BLOB body, DATA_BLOB *dyn,
		       bool keep, uint32_t timeout, uint32_t flags)
{
	struct smb2_create_blobs blobs = {};
	struct smb2_create_blobs out = {};
	uint8_t data[8] = {};
	DATA_BLOB pushed = data_blob_null;
	uint32_t i = 0;
	NTSTATUS status = NT_STATUS_OK;

	if (body.length < 0x58) {
		return false;
	}
	if (dyn->length > 0) {
		status = smb2_create_blob_parse(mem_ctx, *dyn, &blobs);
	}
	/* First, where clients of shared virtual disks look for it. */
	if (NT_STATUS_IS_OK(status) && keep) {
		SIVAL(data, 0, timeout);
		SIVAL(data, 4, flags);
		status = smb2_create_blob_add(mem_ctx, &out,
					      SMB2_CREATE_TAG_DH2Q,
					      data_blob_const(data,
							      sizeof(data)));
	}
	for (i = 0; NT_STATUS_IS_OK(status) && i < blobs.num_blobs; i++) {
		if (strcmp(blobs.blobs[i].tag, SMB2_CREATE_TAG_DH2Q) != 0) {
			status = smb2_create_blob_add(mem_ctx, &out,
						      blobs.blobs[i].tag,
						      blobs.blobs[i].data);
		}
	}
	if (NT_STATUS_IS_OK(status)) {
		status = smb2_create_blob_push(mem_ctx, &pushed, out);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return false;
	}
	*dyn = pushed;
	SIVAL(body.data, 0x50, pushed.length > 0 ? SMB2_HDR_BODY + 0x58 : 0);
	SIVAL(body.data, 0x54, (uint32_t)pushed.length);
	return true;
}

/* ---- what a reply has to wait for -------------------------------------------------- */

static void not_kept(struct files_struct *fsp, struct hvrs_open *open,
		     int error)
{
	DBG_ERR("hvrs: %s: its handle cannot be stored (%s); it is opened "
		"without persistence\n", fsp_str_dbg(fsp), strerror(-error));
	if (open->stored) {
		state_handles_drop(open->h.record.id);
	}
	fsp->op->global->durable = false;
	data_blob_free(&fsp->op->global->backend_cookie);
	smbXsrv_open_update(fsp->op);
	hvrs_open_forget(fsp);
}

static bool is_persistent(const struct hvrs_open *open)
{
	return (open->h.record.flags & HANDLE_PERSISTENT) != 0;
}

/* How long a new handle waits, which smbd clips to its own limits. */
static void set_time(struct files_struct *fsp, struct handle_record *r)
{
	struct vfs_handle_struct *handle = hvrs_handles_instance(fsp->conn);
	struct smbXsrv_open_global *global = fsp->op->global;
	const struct hvrs_share *share = hvrs_share(handle);
	uint64_t most = share->number[OPTION_PERSISTENT_MOST] * 1000;
	uint64_t time = r->timeout_ms != 0 ? r->timeout_ms :
		share->number[OPTION_PERSISTENT_TIME] * 1000;

	r->timeout_ms = (uint32_t)MIN(time, most);
	if (global->durable_timeout_msec != r->timeout_ms ||
	    series_folder_is_apart(fsp)) {
		global->durable = true;
		global->durable_timeout_msec = r->timeout_ms;
		smbXsrv_open_update(fsp->op);
	}
}

/* A CREATE whose open is new: now all of it is known. */
static int store_new(struct files_struct *fsp, struct hvrs_open *open,
		     struct state_log_point *_point)
{
	int ret = 0;

	set_time(fsp, &open->h.record);
	hvrs_open_refresh(fsp, open);
	ret = state_handles_store(&open->h, _point);
	open->stored = ret == 0;
	return ret;
}

static int store_changed(struct hvrs_open *open,
			 struct state_log_point *_point)
{
	int ret = state_handles_store(&open->h, _point);

	open->stale = ret != 0;
	return ret;
}

/* ---- holding and sending --------------------------------------------------------------- */

static int held_destructor(struct held *held)
{
	DLIST_REMOVE(all_held, held);
	return 0;
}

/* The handle of the request, where it is still open. */
static struct hvrs_open *held_open(struct held *held)
{
	return hvrs_open_of(held->req->compat_chain_fsp);
}

static void held_send(struct held *held, int error)
{
	struct smbd_smb2_request *req = held->req;
	struct smbXsrv_connection *xconn = req->xconn;
	struct hvrs_open *open = held_open(held);
	NTSTATUS status = held->status;
	DATA_BLOB body = held->body;
	DATA_BLOB dyn = held->dyn;
	bool has_dyn = held->has_dyn;
	const char *location = held->location;
	NTSTATUS ret = NT_STATUS_OK;

	if (held->opcode == SMB2_OP_CREATE && open != NULL &&
	    !open->granted) {
		if (error != 0) {
			not_kept(req->compat_chain_fsp, open, error);
			reply_dh2q(req, body, &dyn, false, 0, 0);
		} else {
			open->granted = true;
			reply_dh2q(req, body, &dyn, true,
				   open->h.record.timeout_ms,
				   DH2Q_PERSISTENT);
		}
		has_dyn = true;
	} else if (error != 0 && held->opcode != SMB2_OP_CREATE) {
		/* A lock stays, which harms nobody but its owner. */
		if (open != NULL && !open->granted) {
			not_kept(req->compat_chain_fsp, open, error);
		}
		TALLOC_FREE(held);
		ret = smbd_smb2_request_error(req, NT_STATUS_DISK_FULL);
		if (!NT_STATUS_IS_OK(ret)) {
			smbd_server_connection_terminate(xconn,
							 nt_errstr(ret));
		}
		return;
	} else if (open != NULL && error == 0) {
		open->granted = true;
	}
	TALLOC_FREE(held);
	step("answer");
	ret = hooks_reply(req, status, body, has_dyn ? &dyn : NULL, location);
	step("answered");
	if (!NT_STATUS_IS_OK(ret)) {
		smbd_server_connection_terminate(xconn, nt_errstr(ret));
	}
}

static void flush_start(struct tevent_context *ev);

static void flush_thread(void *private_data)
{
	struct flush_job *job = private_data;

	step("flush");
	job->error = state_log_commit(job->point);
	step("flushed");
}

static void flush_send(int error)
{
	bool again = true;

	hvrs_handles_promise();
	/* Sending one may end others. */
	while (again) {
		struct held *held = NULL;

		again = false;
		for (held = all_held; held != NULL; held = held->next) {
			if (error != 0 || state_log_is_durable(held->point)) {
				held_send(held, error);
				again = true;
				break;
			}
		}
	}
}

static void flush_done(struct tevent_req *subreq)
{
	struct tevent_context *ev = tevent_req_callback_data_void(subreq);
	int ret = pthreadpool_tevent_job_recv(subreq);
	int error = 0;

	TALLOC_FREE(subreq);
	if (ret != 0) {
		flush_thread(flush.job);
	}
	error = flush.job->error;
	free(flush.job);
	flush.job = NULL;
	flush.running = false;
	flush_send(error);
	if (all_held != NULL) {
		flush_start(ev);
	}
}

static void flush_start(struct tevent_context *ev)
{
	struct tevent_req *subreq = NULL;
	struct held *held = NULL;
	struct flush_job *job = NULL;

	if (flush.running || all_held == NULL) {
		return;
	}
	job = calloc(1, sizeof(*job));
	if (job != NULL && flush_pool == NULL) {
		pthreadpool_tevent_init(NULL, 1, &flush_pool);
	}
	if (job == NULL || flush_pool == NULL) {
		free(job);
		flush_send(-ENOMEM);
		return;
	}
	for (held = all_held; held != NULL; held = held->next) {
		if (held->point.end > job->point.end) {
			job->point = held->point;
		}
	}
	flush.job = job;
	flush.running = true;
	subreq = pthreadpool_tevent_job_send(flush_pool, ev, flush_pool,
					     flush_thread, job);
	if (subreq == NULL) {
		flush_thread(job);
		flush.running = false;
		flush.job = NULL;
		flush_send(job->error);
		free(job);
		return;
	}
	tevent_req_set_callback(subreq, flush_done, ev);
}

static bool hold(struct smbd_smb2_request *req, NTSTATUS status,
		 DATA_BLOB body, DATA_BLOB *dyn, const char *location,
		 uint16_t opcode, struct state_log_point point)
{
	struct held *held = talloc_zero(req, struct held);

	if (held == NULL) {
		return false;
	}
	held->req = req;
	held->status = status;
	held->body = body;
	if (dyn != NULL) {
		held->dyn = data_blob_talloc(held, dyn->data, dyn->length);
		/* It outlives the holding. */
		talloc_steal(req, held->dyn.data);
		held->has_dyn = true;
	}
	held->location = location;
	held->opcode = opcode;
	held->point = point;
	DLIST_ADD_END(all_held, held);
	talloc_set_destructor(held, held_destructor);
	/* The work is done: nothing is left that could be cancelled. */
	req->subreq = NULL;
	flush_start(req->sconn->ev_ctx);
	return true;
}

/* ---- NEGOTIATE --------------------------------------------------------------------------- */

static void negotiate(struct smbd_smb2_request *req, DATA_BLOB body)
{
	struct smbXsrv_connection *xconn = req->xconn;

	/* [MS-SMB2] 3.3.5.4: only where the client offers it, from 3.0 on. */
	if (body.length < 0x40 || SVAL(body.data, 4) < 0x0300 ||
	    SVAL(body.data, 4) == 0x02FF ||
	    (xconn->smb2.client.capabilities & CAP_PERSISTENT) == 0) {
		return;
	}
	SIVAL(body.data, 0x18, IVAL(body.data, 0x18) | CAP_PERSISTENT);
	xconn->smb2.server.capabilities |= CAP_PERSISTENT;
}

/* ---- the hook ------------------------------------------------------------------------------- */

/*
 * A client has one lease for all its opens of a file: one of them may raise
 * it for the others.
 */
static void store_siblings(struct files_struct *fsp)
{
	struct files_struct *other = NULL;
	struct state_log_point point = {};

	if (fsp->oplock_type != LEASE_OPLOCK || fsp->lease == NULL ||
	    fsp->lease->ref_count < 2) {
		return;
	}
	for (other = fsp->conn->sconn->files; other != NULL;
	     other = other->next) {
		struct hvrs_open *open = NULL;

		if (other == fsp || other->oplock_type != LEASE_OPLOCK ||
		    other->lease != fsp->lease) {
			continue;
		}
		open = hvrs_open_of(other);
		if (open != NULL && open->stored && other->op != NULL &&
		    open->h.record.lease_state !=
		    fsp->lease->lease.lease_state) {
			hvrs_open_refresh(other, open);
			state_handles_store(&open->h, &point);
		}
	}
}

static bool reply_create(struct smbd_smb2_request *req, NTSTATUS status,
			 DATA_BLOB body, DATA_BLOB *dyn, const char *location,
			 struct files_struct *fsp, struct hvrs_open *open)
{
	struct state_log_point point = {};
	DATA_BLOB none = data_blob_null;
	int ret = 0;

	if (dyn == NULL) {
		dyn = &none;
	}
	if (open->stored && !open->stale) {
		/* [MS-SMB2] 3.3.5.9.10: the same answer to a replay. */
		if ((IVAL(SMBD_SMB2_IN_HDR_PTR(req), SMB2_HDR_FLAGS) &
		     SMB2_HDR_FLAG_REPLAY_OPERATION) != 0 &&
		    is_persistent(open) && open->granted) {
			reply_dh2q(req, body, dyn, true,
				   open->h.record.timeout_ms,
				   DH2Q_PERSISTENT);
		}
		return false;
	}
	store_siblings(fsp);
	ret = open->stored ? store_changed(open, &point) :
		store_new(fsp, open, &point);
	if (ret != 0 && open->granted) {
		DBG_ERR("hvrs: %s: its handle cannot be stored again (%s)\n",
			fsp_str_dbg(fsp), strerror(-ret));
		state_handles_store_index(&open->h);
		return false;
	}
	if (ret != 0) {
		not_kept(fsp, open, ret);
		reply_dh2q(req, body, dyn, false, 0, 0);
		return false;
	}
	if (state_handles_synced() && hold(req, status, body, dyn, location,
					   SMB2_OP_CREATE, point)) {
		return true;
	}
	if (!open->granted) {
		open->granted = true;
		reply_dh2q(req, body, dyn, true, open->h.record.timeout_ms,
			   DH2Q_PERSISTENT);
	}
	return false;
}

/* The change is refused, as it would not outlive what the handle outlives. */
static bool reply_not_stored(struct smbd_smb2_request *req,
			     struct files_struct *fsp, struct hvrs_open *open,
			     int error)
{
	NTSTATUS ret = NT_STATUS_OK;

	if (!open->granted) {
		not_kept(fsp, open, error);
	} else {
		DBG_ERR("hvrs: %s: a change of its handle cannot be stored "
			"(%s)\n", fsp_str_dbg(fsp), strerror(-error));
		/* What the processes know suffices as long as they live. */
		state_handles_store_index(&open->h);
	}
	ret = smbd_smb2_request_error(req, NT_STATUS_DISK_FULL);
	if (!NT_STATUS_IS_OK(ret)) {
		smbd_server_connection_terminate(req->xconn, nt_errstr(ret));
	}
	return true;
}

/*
 * [MS-SMB2] 3.3.5.14: a lock request that is no replay makes its bucket's
 * number invalid before anything else.  Kept like a lock: else the old number,
 * which comes again after 16 refused requests, would be taken for a replay
 * behind a reconnect, and a lock be told that nobody has.
 */
static bool reply_refused_lock(struct smbd_smb2_request *req, NTSTATUS status,
			       DATA_BLOB body, DATA_BLOB *dyn,
			       const char *location, struct files_struct *fsp,
			       struct hvrs_open *open)
{
	struct state_log_point point = {};
	int ret = 0;

	if (!open->stored || open->stale || !hvrs_open_refresh(fsp, open)) {
		return false;
	}
	ret = store_changed(open, &point);
	if (ret != 0) {
		DBG_ERR("hvrs: %s: a change of its handle cannot be stored "
			"(%s)\n", fsp_str_dbg(fsp), strerror(-ret));
		state_handles_store_index(&open->h);
		return false;
	}
	return state_handles_synced() && hold(req, status, body, dyn, location,
					      SMB2_OP_LOCK, point);
}

/* Others go by the record on a cluster, and were woken before it changed. */
static void wake_lockers(struct files_struct *fsp)
{
	if (lp_clustering()) {
		share_mode_wakeup_waiters(fsp->file_id);
	}
}

bool hvrs_handles_reply(struct smbd_smb2_request *req, NTSTATUS status,
			DATA_BLOB body, DATA_BLOB *dyn, const char *location)
{
	uint16_t opcode = SVAL(SMBD_SMB2_IN_HDR_PTR(req), SMB2_HDR_OPCODE);
	struct state_log_point point = {};
	struct files_struct *fsp = NULL;
	struct hvrs_open *open = NULL;
	int ret = 0;

	if (opcode == SMB2_OP_NEGPROT) {
		negotiate(req, body);
		return false;
	}
	if (opcode != SMB2_OP_CREATE && opcode != SMB2_OP_LOCK &&
	    opcode != SMB2_OP_SETINFO && opcode != SMB2_OP_IOCTL) {
		return false;
	}
	fsp = req->compat_chain_fsp;
	open = hvrs_open_of(fsp);
	if (open == NULL || fsp->op == NULL) {
		return false;
	}
	if (opcode == SMB2_OP_LOCK && !NT_STATUS_IS_OK(status)) {
		return reply_refused_lock(req, status, body, dyn, location,
					  fsp, open);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return false;
	}
	if (opcode == SMB2_OP_CREATE) {
		return reply_create(req, status, body, dyn, location, fsp,
				    open);
	}
	/* A new one here was made by FSCTL_LMR_REQUEST_RESILIENCY. */
	if (!hvrs_open_refresh(fsp, open) && open->stored && !open->stale) {
		return false;
	}
	ret = store_changed(open, &point);
	if (opcode == SMB2_OP_LOCK) {
		wake_lockers(fsp);
	}
	if (ret != 0) {
		return reply_not_stored(req, fsp, open, ret);
	}
	open->stored = true;
	if (state_handles_synced() && hold(req, status, body, dyn, location,
					   opcode, point)) {
		return true;
	}
	open->granted = true;
	return false;
}
