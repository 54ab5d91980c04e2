/*
 * Change tracking, MS-RSVD 3.2.5.5.12 and after, and QUERY_SAFE_SIZE.
 */
#include "server.h"

#include "rsvd/safe_size.h"

#define TIME_MS 10000
#define INVALID_ID NT_STATUS(0xC03A0029)
#define DISABLED NT_STATUS(0xC03A002A)
#define MISSING NT_STATUS(0xC03A0030)
/* Ranges of one answer at most: how long smbd is kept from others. */
#define RANGES_MAX 65536U

static bool is_no_set(struct rsvd_call *call)
{
	if (call->open->is_set && !rsvd_open_is_snapshot(call->open)) {
		return false;
	}
	rsvd_call_status(call, NT_STATUS_INVALID_DEVICE_REQUEST);
	return true;
}

/* ---- START and STOP: while all commands are held up ------------------------------- */

struct turn {
	struct rsvd_call *call;
	bool start;
	bool append;
	bool locked;
};

static void turn_over(struct turn *turn, NTSTATUS status, uint32_t tracking)
{
	struct rsvd_call *call = turn->call;
	uint8_t out[4];

	if (turn->locked && !call->open->closed) {
		rsvd_fence_give(call->open->fence, RSVD_FENCE_SET);
	}
	if (!NT_STATUS_IS_OK(status)) {
		DBG_NOTICE("hvrs: shared disk %s: change tracking: %s\n",
			   call->open->path, nt_errstr(status));
	}
	rsvd_call_release(call);
	if (call->req != NULL && turn->start) {
		rsvd_call_status(call, status);
	} else if (call->req != NULL) {
		/* Sent whatever the status is. */
		call->header.status = NT_STATUS_V(status);
		SIVAL(out, 0, tracking);
		rsvd_call_body(call, out, sizeof(out));
	}
	rsvd_call_over(call);
}

static void on_blocked(struct tevent_req *req)
{
	struct turn *turn = tevent_req_callback_data(req, struct turn);
	struct rsvd_open *open = turn->call->open;
	NTSTATUS status = rsvd_block_recv(req);
	NTSTATUS status2 = NT_STATUS_OK;
	uint32_t tracking = 0;

	TALLOC_FREE(req);
	if (!NT_STATUS_IS_OK(status)) {
		turn_over(turn, status, NT_STATUS_V(status));
		return;
	}
	if (!rsvd_open_become_user(open)) {
		status = NT_STATUS_FILE_CLOSED;
	} else if (turn->start) {
		status = rsvd_changes_start(open, turn->append);
	} else {
		status = rsvd_changes_stop(open, &tracking);
	}
	/* Everybody opens the map again before the next write. */
	status2 = rsvd_block_end(open, true, 0);
	turn_over(turn, NT_STATUS_IS_OK(status) ? status2 : status, tracking);
}

static void on_locked(struct tevent_req *req)
{
	struct turn *turn = tevent_req_callback_data(req, struct turn);
	struct rsvd_open *open = turn->call->open;
	uint64_t epoch = 0;
	NTSTATUS status = rsvd_lock_recv(req);

	TALLOC_FREE(req);
	turn->locked = NT_STATUS_IS_OK(status);
	if (turn->locked && !rsvd_open_become_user(open)) {
		status = NT_STATUS_FILE_CLOSED;
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_shared_epoch(open, &epoch);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_image_refresh(open, epoch);
	}
	req = NT_STATUS_IS_OK(status) ?
		rsvd_block_send(turn, open, TIME_MS, true) : NULL;
	if (req == NULL) {
		status = NT_STATUS_IS_OK(status) ? NT_STATUS_NO_MEMORY
						 : status;
		turn_over(turn, status, NT_STATUS_V(status));
		return;
	}
	tevent_req_set_callback(req, on_blocked, turn);
}

static void turn_start(struct rsvd_call *given, bool start, bool append)
{
	struct rsvd_call *call = rsvd_call_keep(given);
	struct tevent_req *req = NULL;
	struct turn *turn = NULL;

	if (tevent_req_nomem(call, given->req)) {
		return;
	}
	turn = talloc_zero(call, struct turn);
	if (turn != NULL) {
		*turn = (struct turn) {
			.call = call, .start = start, .append = append,
		};
		req = rsvd_lock_send(turn, call->open, RSVD_FENCE_SET);
	}
	if (req == NULL) {
		rsvd_call_fail(call, NT_STATUS_NO_MEMORY);
		rsvd_call_over(call);
		return;
	}
	tevent_req_set_callback(req, on_locked, turn);
}

void rsvd_tracking_start(struct rsvd_call *call)
{
	struct rsvd_tracking_start s = {};
	int ret = rsvd_tracking_start_decode(call->body, call->body_length,
					     &s);

	if (is_no_set(call)) {
		return;
	}
	if (ret != 0) {
		rsvd_call_status(call, NT_STATUS_INVALID_PARAMETER);
		return;
	}
	turn_start(call, true, s.append);
}

void rsvd_tracking_stop(struct rsvd_call *call)
{
	if (!is_no_set(call)) {
		turn_start(call, false, false);
	}
}

/* ---- questions ---------------------------------------------------------------------- */

/* The map as it is now; one that the image does not trust is none. */
static NTSTATUS view(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
		     struct rsvd_changes **_changes, bool *_bad)
{
	uint64_t epoch = 0;
	NTSTATUS status = rsvd_shared_epoch(open, &epoch);

	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_image_refresh(open, epoch);
	}
	if (NT_STATUS_IS_OK(status) && open->image->changes_bad) {
		*_bad = true;
		return status;
	}
	return NT_STATUS_IS_OK(status) ?
		rsvd_changes_look(mem_ctx, open, _changes, _bad) : status;
}

void rsvd_tracking_parameters(struct rsvd_call *call)
{
	struct rsvd_changes *changes = NULL;
	NTSTATUS status = NT_STATUS_OK;
	uint8_t out[16];
	bool bad = false;

	if (is_no_set(call)) {
		return;
	}
	status = view(call->state, call->open, &changes, &bad);
	if (!NT_STATUS_IS_OK(status)) {
		rsvd_call_status(call, status);
		return;
	}
	rsvd_tracking_parameters_encode(rsvd_changes_status(changes, bad),
					rsvd_changes_log_size(changes), out);
	TALLOC_FREE(changes);
	rsvd_call_body(call, out, sizeof(out));
}

/* Both must be snapshots, or what is left of them, made with tracking on. */
static NTSTATUS check_ids(struct rsvd_call *call,
			  const struct rsvd_tracking_changes *q)
{
	const struct vhdset_snapshot *s = NULL;
	struct rsvd_set *set = NULL;
	NTSTATUS status = rsvd_set_open(call->state, call->open, false, &set);
	unsigned i = 0;

	for (i = 0; i < 2 && NT_STATUS_IS_OK(status); i++) {
		int ret = vhdset_snapshot_find(set->set, i == 0 ? &q->target :
					       &q->limit, &s);

		if (ret == -ENOENT) {
			status = INVALID_ID;
		} else if (ret != 0) {
			status = rsvd_status_of(ret);
		} else if ((s->flags & VHDSET_TRACKED) == 0) {
			status = DISABLED;
		}
	}
	TALLOC_FREE(set);
	return status;
}

static NTSTATUS changes_status(int error)
{
	switch (error) {
	case -ENOENT:
	case -ENODATA:
	case -ESTALE:
		return MISSING;
	case -EINVAL:
		return NT_STATUS_INVALID_PARAMETER;
	}
	return rsvd_status_of(error);
}

void rsvd_tracking_changes(struct rsvd_call *call)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct rsvd_tracking_changes q = {};
	struct rsvd_changes *changes = NULL;
	struct cbt_range *ranges = NULL;
	uint8_t *out = NULL;
	uint64_t processed = 0;
	size_t room = MIN(RANGES_MAX, rsvd_tracking_room(
		call->max_out - RSVD_HEADER_SIZE));
	size_t count = 0;
	bool bad = false;
	NTSTATUS status = NT_STATUS_OK;

	if (is_no_set(call)) {
		TALLOC_FREE(frame);
		return;
	}
	if (rsvd_tracking_changes_decode(call->body, call->body_length,
					 &q) != 0) {
		status = NT_STATUS_INVALID_PARAMETER;
	}
	if (NT_STATUS_IS_OK(status)) {
		status = check_ids(call, &q);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = view(frame, call->open, &changes, &bad);
	}
	if (NT_STATUS_IS_OK(status) && changes == NULL) {
		status = MISSING;
	}
	ranges = talloc_array(frame, struct cbt_range, room + 1);
	out = talloc_size(frame, RSVD_TRACKING_ANSWER_SIZE +
			  RSVD_TRACKING_RANGE_SIZE * (room + 1));
	if (NT_STATUS_IS_OK(status) && (ranges == NULL || out == NULL)) {
		status = NT_STATUS_NO_MEMORY;
	}
	if (NT_STATUS_IS_OK(status)) {
		status = changes_status(cbt_changes(
			changes->cbt, &q.target, &q.limit, q.offset, q.length,
			ranges, room, &count, &processed));
	}
	if (NT_STATUS_IS_OK(status)) {
		rsvd_call_body(call, out, rsvd_tracking_changes_encode(
			processed, ranges, count, out));
	} else {
		rsvd_call_status(call, status);
	}
	TALLOC_FREE(frame);
}

/* ---- QUERY_SAFE_SIZE ---------------------------------------------------------------- */

struct safe {
	struct rsvd_call *call;
	struct rsvd_image *image;
	uint8_t *head;
	size_t length;
};

static void on_read(struct tevent_req *req)
{
	struct safe *safe = tevent_req_callback_data(req, struct safe);
	struct rsvd_call *call = safe->call;
	struct vhdx_info info = {};
	uint8_t out[8];
	int ret = vhdx_read_recv(req);

	TALLOC_FREE(req);
	vhdx_info_get(safe->image->disk, &info);
	SBVAL(out, 0, rsvd_safe_size(safe->head, safe->length,
				     info.logical_sector, info.size));
	rsvd_image_put(safe->image);
	rsvd_call_release(call);
	if (call->req != NULL && ret == 0) {
		rsvd_call_body(call, out, sizeof(out));
	} else if (call->req != NULL) {
		rsvd_call_status(call, rsvd_status_of(ret));
	}
	rsvd_call_over(call);
}

void rsvd_safe_size_query(struct rsvd_call *given)
{
	struct rsvd_open *open = given->open;
	struct rsvd_call *call = NULL;
	struct tevent_req *req = NULL;
	struct vhdx_info info = {};
	struct safe *safe = NULL;
	uint64_t epoch = 0;

	if (NT_STATUS_IS_OK(rsvd_shared_epoch(open, &epoch))) {
		(void)rsvd_image_refresh(open, epoch);
	}
	call = rsvd_call_keep(given);
	if (tevent_req_nomem(call, given->req)) {
		return;
	}
	vhdx_info_get(open->image->disk, &info);
	safe = talloc_zero(call, struct safe);
	if (safe != NULL) {
		safe->call = call;
		safe->image = open->image;
		safe->length = MIN(RSVD_SAFE_SIZE_HEAD, info.size);
		safe->head = talloc_zero_size(safe, safe->length + 1);
	}
	if (safe != NULL && safe->head != NULL) {
		rsvd_image_get(safe->image);
		req = vhdx_read_send(safe, open->ev, safe->image->disk,
				     safe->head, 0, safe->length);
		if (req == NULL) {
			rsvd_image_put(safe->image);
		}
	}
	if (req == NULL) {
		rsvd_call_fail(call, NT_STATUS_NO_MEMORY);
		rsvd_call_over(call);
		return;
	}
	tevent_req_set_callback(req, on_read, safe);
}
