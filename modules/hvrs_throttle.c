/*
 * Reads and writes that wait for what storage QoS allows (hvrs:qos enforce).
 * Without it the request of the next module is the answer itself, so that
 * nothing of ours stands between.
 */
#include "hvrs.h"

#include "next.h"

#define SLICE_US 200000

/* ---- a turn -------------------------------------------------------------------- */

struct hvrs_turn {
	struct files_struct *fsp;
	size_t length;
	void *flow;
	uint64_t wait;		/* microseconds */
};

static int turn_destructor(struct hvrs_turn *turn)
{
	if (turn->flow != NULL) {
		hvrs_tunnel_charged(turn->flow, turn->length);
	}
	return 0;
}

struct hvrs_turn *hvrs_turn_take(TALLOC_CTX *mem_ctx, struct files_struct *fsp,
				 size_t length, bool *_wait)
{
	const struct hvrs_share *share = hvrs_share_of(fsp->conn);
	struct hvrs_turn *turn = NULL;
	void *flow = NULL;
	uint64_t wait = 0;

	*_wait = false;
	if (share == NULL || !share->on[OPTION_QOS_ENFORCE]) {
		return NULL;
	}
	wait = hvrs_tunnel_charge(share, fsp, length, &flow);
	if (wait == 0 && flow == NULL) {
		return NULL;
	}
	turn = talloc_zero(mem_ctx, struct hvrs_turn);
	if (turn == NULL) {
		if (flow != NULL) {
			hvrs_tunnel_charged(flow, length);
		}
		return NULL;
	}
	turn->fsp = fsp;
	turn->length = length;
	turn->flow = flow;
	turn->wait = wait;
	talloc_set_destructor(turn, turn_destructor);
	*_wait = wait != 0;
	return turn;
}

struct waiting {
	struct tevent_context *ev;
	struct hvrs_turn *turn;
};

/* Nobody hears the answer: smbd waits for the request alone to end. */
static bool is_client_gone(const struct files_struct *fsp)
{
	const struct smbXsrv_connection *each =
		fsp->conn->sconn->client->connections;

	for (; each != NULL; each = each->next) {
		if (NT_STATUS_IS_OK(each->transport.status)) {
			return false;
		}
	}
	return true;
}

static void turn_waited(struct tevent_req *subreq);

/* In slices: a file that is closed does not wait for what was asked before. */
static bool turn_slice(struct tevent_req *req)
{
	struct waiting *state = tevent_req_data(req, struct waiting);
	uint64_t slice = MIN(state->turn->wait, SLICE_US);
	struct tevent_req *subreq = tevent_wakeup_send(
		state, state->ev,
		tevent_timeval_current_ofs(0, (uint32_t)slice));

	if (subreq == NULL) {
		return false;
	}
	state->turn->wait -= slice;
	tevent_req_set_callback(subreq, turn_waited, req);
	return true;
}

static void turn_waited(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct waiting *state = tevent_req_data(req, struct waiting);
	struct files_struct *fsp = state->turn->fsp;

	tevent_wakeup_recv(subreq);
	TALLOC_FREE(subreq);
	if (fsp->fsp_flags.closing || is_client_gone(fsp)) {
		tevent_req_error(req, ECANCELED);
	} else if (state->turn->wait == 0) {
		tevent_req_done(req);
	} else {
		hvrs_tunnel_waits(fsp);
		if (!turn_slice(req)) {
			tevent_req_error(req, ENOMEM);
		}
	}
}

struct tevent_req *hvrs_turn_wait_send(TALLOC_CTX *mem_ctx,
				       struct tevent_context *ev,
				       struct hvrs_turn *turn)
{
	struct waiting *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct waiting);

	if (req == NULL) {
		return NULL;
	}
	state->ev = ev;
	state->turn = turn;
	if (!turn_slice(req)) {
		TALLOC_FREE(req);
	}
	return req;
}

/* ---- reads and writes of files ----------------------------------------------------- */

struct throttled {
	struct tevent_context *ev;
	struct vfs_handle_struct *handle;
	struct files_struct *fsp;
	void *in;		/* of a read */
	const void *out;	/* of a write; neither: a flush */
	size_t length;
	off_t offset;
	struct hvrs_turn *turn;
	ssize_t done;
	struct vfs_aio_state aio;
};

static void throttled_done(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct throttled *state = tevent_req_data(req, struct throttled);

	if (state->in != NULL) {
		state->done = next_pread_recv(subreq, &state->aio);
	} else if (state->out != NULL) {
		state->done = hvrs_pwrite_recv(subreq, &state->aio);
	} else {
		state->done = SMB_VFS_FSYNC_RECV(subreq, &state->aio);
	}
	TALLOC_FREE(subreq);
	TALLOC_FREE(state->turn);
	tevent_req_done(req);
}

static void throttled_go(struct tevent_req *req)
{
	struct throttled *state = tevent_req_data(req, struct throttled);
	struct tevent_req *subreq = NULL;

	if (state->in != NULL) {
		subreq = next_pread_send(state->handle, state, state->ev,
					 state->fsp, state->in,
					 state->length, state->offset);
	} else if (state->out == NULL) {
		subreq = SMB_VFS_NEXT_FSYNC_SEND(state, state->ev,
						 state->handle, state->fsp);
	} else {
		subreq = hvrs_pwrite_send(state->handle, state, state->ev,
					  state->fsp, state->out,
					  state->length, state->offset);
	}
	if (tevent_req_nomem(subreq, req)) {
		return;
	}
	tevent_req_set_callback(subreq, throttled_done, req);
}

static void throttled_waited(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	int error = 0;

	if (tevent_req_is_unix_error(subreq, &error)) {
		TALLOC_FREE(subreq);
		tevent_req_error(req, error);
		return;
	}
	TALLOC_FREE(subreq);
	throttled_go(req);
}

/* False where the request need not be ours, or there is no memory. */
static bool throttle(TALLOC_CTX *mem_ctx, const struct throttled *what,
		     struct tevent_req **_req)
{
	struct tevent_req *req = NULL;
	struct tevent_req *subreq = NULL;
	struct throttled *state = NULL;
	struct hvrs_turn *turn = NULL;
	bool wait = false;

	/* A tunnel server counts what its clients ask, not what it does. */
	if (hvrs_tunnel_owns(what->fsp)) {
		return false;
	}
	turn = hvrs_turn_take(mem_ctx, what->fsp, what->length, &wait);
	if (turn == NULL) {
		return false;
	}
	req = tevent_req_create(mem_ctx, &state, struct throttled);
	*_req = req;
	if (req == NULL) {
		TALLOC_FREE(turn);
		return true;
	}
	*state = *what;
	state->turn = talloc_steal(state, turn);
	if (!wait) {
		throttled_go(req);
		return true;
	}
	subreq = hvrs_turn_wait_send(state, what->ev, turn);
	if (tevent_req_nomem(subreq, req)) {
		tevent_req_post(req, what->ev);
		return true;
	}
	tevent_req_set_callback(subreq, throttled_waited, req);
	return true;
}

static bool is_on(struct vfs_handle_struct *handle)
{
	const struct hvrs_share *share = hvrs_share(handle);

	return share != NULL && share->on[OPTION_QOS_ENFORCE];
}

struct tevent_req *hvrs_throttle_pread_send(struct vfs_handle_struct *handle,
					    TALLOC_CTX *mem_ctx,
					    struct tevent_context *ev,
					    struct files_struct *fsp,
					    void *data, size_t length,
					    off_t offset)
{
	const struct throttled what = {
		.ev = ev, .handle = handle, .fsp = fsp, .in = data,
		.length = length, .offset = offset,
	};
	struct tevent_req *req = NULL;

	if (is_on(handle) && throttle(mem_ctx, &what, &req)) {
		return req;
	}
	return next_pread_send(handle, mem_ctx, ev, fsp, data, length,
			       offset);
}

struct tevent_req *hvrs_throttle_pwrite_send(struct vfs_handle_struct *handle,
					     TALLOC_CTX *mem_ctx,
					     struct tevent_context *ev,
					     struct files_struct *fsp,
					     const void *data, size_t length,
					     off_t offset)
{
	const struct throttled what = {
		.ev = ev, .handle = handle, .fsp = fsp, .out = data,
		.length = length, .offset = offset,
	};
	struct tevent_req *req = NULL;

	if (is_on(handle) && throttle(mem_ctx, &what, &req)) {
		return req;
	}
	return hvrs_pwrite_send(handle, mem_ctx, ev, fsp, data, length,
				offset);
}

/* Waits for nothing; but a flow that waits for its disk is not idle. */
struct tevent_req *hvrs_throttle_fsync_send(struct vfs_handle_struct *handle,
					    TALLOC_CTX *mem_ctx,
					    struct tevent_context *ev,
					    struct files_struct *fsp)
{
	const struct throttled what = {
		.ev = ev, .handle = handle, .fsp = fsp,
	};
	struct tevent_req *req = NULL;

	if (is_on(handle) && throttle(mem_ctx, &what, &req)) {
		return req;
	}
	return SMB_VFS_NEXT_FSYNC_SEND(mem_ctx, ev, handle, fsp);
}

static ssize_t throttled_recv(struct tevent_req *req,
			      struct throttled *state,
			      struct vfs_aio_state *aio)
{
	if (tevent_req_is_unix_error(req, &aio->error)) {
		return -1;
	}
	*aio = state->aio;
	return state->done;
}

ssize_t hvrs_throttle_pread_recv(struct tevent_req *req,
				 struct vfs_aio_state *aio)
{
	struct throttled *state = talloc_get_type(_tevent_req_data(req),
						  struct throttled);

	return state == NULL ? next_pread_recv(req, aio)
			     : throttled_recv(req, state, aio);
}

ssize_t hvrs_throttle_pwrite_recv(struct tevent_req *req,
				  struct vfs_aio_state *aio)
{
	struct throttled *state = talloc_get_type(_tevent_req_data(req),
						  struct throttled);

	return state == NULL ? hvrs_pwrite_recv(req, aio)
			     : throttled_recv(req, state, aio);
}

int hvrs_throttle_fsync_recv(struct tevent_req *req, struct vfs_aio_state *aio)
{
	struct throttled *state = talloc_get_type(_tevent_req_data(req),
						  struct throttled);

	return state == NULL ? SMB_VFS_FSYNC_RECV(req, aio)
			     : (int)throttled_recv(req, state, aio);
}
