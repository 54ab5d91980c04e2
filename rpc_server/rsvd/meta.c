/*
 * Meta operations, MS-RSVD 3.2.5.5.7 and 3.2.5.5.8: each is answered when it
 * is done, while other requests go on; how far it is stands in the record.
 */
#include "server.h"

/* Progress goes to the record this often at most. */
#define TELL_MS 200

struct meta_state {
	struct rsvd_call *call;
	struct rsvd_open *open;
	struct rsvd_meta meta;
	const struct rsvd_meta_work *work;
	bool locked;
};

/* ---- the sizes and values that are checked before anything is done ---------------------- */

static uint32_t check_set(const struct rsvd_open *open)
{
	return open->is_set ? 0 : NT_STATUS_V(NT_STATUS_INVALID_DEVICE_REQUEST);
}

static uint32_t check_snapshot(const struct rsvd_open *open,
			       const struct rsvd_meta *meta)
{
	struct rsvd_meta_snapshot s = {};
	uint32_t code = rsvd_meta_snapshot_decode(meta->data, meta->length,
						  &s);

	return code != 0 ? code : check_set(open);
}

static uint32_t check_optimize(const struct rsvd_open *open,
			       const struct rsvd_meta *meta)
{
	(void)meta;
	return check_set(open);
}

static uint32_t check_extract(const struct rsvd_open *open,
			      const struct rsvd_meta *meta)
{
	struct rsvd_meta_extract e = {};
	uint32_t code = rsvd_meta_extract_decode(meta->data, meta->length, &e);

	return code != 0 ? code : check_set(open);
}

static uint32_t check_convert(const struct rsvd_open *open,
			      const struct rsvd_meta *meta)
{
	char name[RSVD_META_NAME_MAX] = "";
	uint32_t code = rsvd_meta_convert_decode(meta->data, meta->length,
						 name);

	if (code == 0 && open->is_set) {
		return NT_STATUS_V(NT_STATUS_INVALID_DEVICE_REQUEST);
	}
	return code;
}

static uint32_t check_resize(const struct rsvd_open *open,
			     const struct rsvd_meta *meta)
{
	struct rsvd_meta_resize r = {};

	(void)open;
	return rsvd_meta_resize_decode(meta->data, meta->length, &r);
}

static uint32_t check_apply(const struct rsvd_open *open,
			    const struct rsvd_meta *meta)
{
	struct rsvd_meta_apply a = {};
	uint32_t code = rsvd_meta_apply_decode(meta->data, meta->length, &a);

	return code != 0 ? code : check_set(open);
}

static const struct rsvd_meta_work works[] = {
	[RSVD_META_RESIZE] = { false, rsvd_resize_send, check_resize },
	[RSVD_META_SNAPSHOT] = { false, rsvd_snapshot_send, check_snapshot },
	[RSVD_META_OPTIMIZE] = { true, rsvd_optimize_send, check_optimize },
	[RSVD_META_EXTRACT] = { true, rsvd_extract_send, check_extract },
	[RSVD_META_CONVERT] = { false, rsvd_convert_send, check_convert },
	[RSVD_META_APPLY] = { false, rsvd_apply_send, check_apply },
};

/* ---- progress ------------------------------------------------------------------------------ */

struct tell {
	const struct rsvd_open *open;
	const struct guid *transaction;
	uint32_t type;
	uint32_t status;
	bool over;
	uint64_t done;
	uint64_t all;
};

static enum rsvd_change tell(struct rsvd_record *record, void *private_data)
{
	const struct tell *t = private_data;
	struct rsvd_progress *row = rsvd_record_progress_find(
		record, t->transaction, t->type);

	if (row == NULL || (row->over && !t->over)) {
		row = rsvd_record_progress_add(record);
		if (row == NULL) {
			return RSVD_CHANGE_NONE;
		}
		row->transaction = *t->transaction;
		row->type = t->type;
		row->started_ms = rsvd_shared_now_ms();
	}
	row->worker = rsvd_shared_self(t->open);
	row->done = t->done;
	row->all = t->all;
	row->over = t->over;
	row->status = t->status;
	return RSVD_CHANGE_STORE;
}

void rsvd_meta_tell(struct rsvd_open *open, const struct guid *transaction,
		    uint32_t type, uint64_t done, uint64_t all)
{
	static uint64_t last;
	struct tell t = {
		.open = open, .transaction = transaction, .type = type,
		.done = done, .all = all,
	};
	uint64_t now = rsvd_shared_now_ms();

	if (done != 0 && done != all && now - last < TELL_MS) {
		return;
	}
	last = now;
	(void)rsvd_shared_change(open, tell, &t, NULL);
}

void rsvd_meta_tell_over(struct rsvd_open *open,
			 const struct guid *transaction, uint32_t type,
			 NTSTATUS status)
{
	struct tell t = {
		.open = open, .transaction = transaction, .type = type,
		.over = true, .done = 1, .all = 1,
		.status = NT_STATUS_V(status),
	};

	(void)rsvd_shared_change(open, tell, &t, NULL);
}

struct ask {
	const struct rsvd_open *open;
	const struct guid *transaction;
	struct rsvd_progress found;
	bool is_found;
};

static enum rsvd_change ask(struct rsvd_record *record, void *private_data)
{
	struct ask *a = private_data;
	struct rsvd_progress *row = rsvd_record_progress_find(
		record, a->transaction, UINT32_MAX);

	if (row == NULL) {
		return RSVD_CHANGE_NONE;
	}
	a->is_found = true;
	if (!row->over && !rsvd_shared_is_alive(a->open, record,
						   &row->worker)) {
		/* It died at its work: what it left is the old or the new. */
		row->over = true;
		row->status = NT_STATUS_V(NT_STATUS_CANCELLED);
		a->found = *row;
		return RSVD_CHANGE_STORE;
	}
	a->found = *row;
	return RSVD_CHANGE_NONE;
}

void rsvd_meta_progress(struct rsvd_call *call)
{
	struct guid transaction = {};
	struct ask a = { .open = call->open, .transaction = &transaction };
	uint8_t out[16];
	int ret = 0;

	memcpy(transaction.bytes, call->body, 16);
	ret = rsvd_shared_change(call->open, ask, &a, NULL);
	if (ret != 0 || !a.is_found) {
		rsvd_call_status(call, ret != 0 ? rsvd_status_of(ret)
						: NT_STATUS_NOT_FOUND);
		return;
	}
	if (a.found.over && a.found.status != 0) {
		rsvd_call_status(call, NT_STATUS(a.found.status));
		return;
	}
	if (a.found.over) {
		a.found.done = a.found.all = MAX(a.found.all, 1);
	} else if (a.found.all == 0 || a.found.done >= a.found.all) {
		/* Equal would say that it is over. */
		a.found.all = MAX(a.found.all, 1);
		a.found.done = a.found.all - 1;
	}
	rsvd_meta_progress_encode(a.found.done, a.found.all, out);
	rsvd_call_body(call, out, sizeof(out));
}

/* ---- the start ------------------------------------------------------------------------------ */

/* Its answer has a ChangeTrackingErrorStatus, 2.2.4.18. */
static bool is_cdp(const struct meta_state *state)
{
	struct rsvd_meta_snapshot s = {};

	return state->meta.type == RSVD_META_SNAPSHOT &&
		rsvd_meta_snapshot_decode(state->meta.data, state->meta.length,
					  &s) == 0 && s.type == VHDSET_CDP;
}

static void meta_over(struct meta_state *state, NTSTATUS status)
{
	uint8_t tracking[4];
	struct rsvd_call *call = state->call;
	struct rsvd_open *open = state->open;

	if (state->locked) {
		rsvd_fence_give(open->fence, RSVD_FENCE_SET);
	}
	if (!open->closed) {
		rsvd_meta_tell_over(open, &state->meta.transaction,
				    state->meta.type, status);
	}
	if (!NT_STATUS_IS_OK(status)) {
		DBG_NOTICE("hvrs: shared disk %s: meta operation %u: %s\n",
			   open->path, state->meta.type, nt_errstr(status));
	}
	rsvd_call_release(call);
	if (call->req != NULL && is_cdp(state)) {
		call->header.status = NT_STATUS_V(status);
		SIVAL(tracking, 0, rsvd_changes_status(
			      open->image != NULL ? open->image->changes
						  : NULL, false));
		rsvd_call_body(call, tracking, sizeof(tracking));
	} else if (call->req != NULL) {
		rsvd_call_status(call, status);
	}
	rsvd_call_over(call);
}

static void on_worked(struct tevent_req *req)
{
	struct meta_state *state = tevent_req_callback_data(req,
							    struct meta_state);
	NTSTATUS status = tevent_req_simple_recv_ntstatus(req);

	TALLOC_FREE(req);
	meta_over(state, status);
}

static void work_begin(struct meta_state *state)
{
	struct tevent_req *req = state->work->send(state, state->open,
						   &state->meta);

	if (req == NULL) {
		meta_over(state, NT_STATUS_NO_MEMORY);
		return;
	}
	tevent_req_set_callback(req, on_worked, state);
}

static void on_locked(struct tevent_req *req)
{
	struct meta_state *state = tevent_req_callback_data(req,
							    struct meta_state);
	struct rsvd_open *open = state->open;
	uint64_t epoch = 0;
	NTSTATUS status = rsvd_lock_recv(req);

	TALLOC_FREE(req);
	state->locked = NT_STATUS_IS_OK(status);
	if (state->locked && !rsvd_open_become_user(open)) {
		status = NT_STATUS_FILE_CLOSED;
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_shared_epoch(open, &epoch);
	}
	/* Nobody else changes it any more. */
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_image_refresh(open, epoch);
	}
	if (!NT_STATUS_IS_OK(status)) {
		meta_over(state, status);
		return;
	}
	work_begin(state);
}

static struct meta_state *meta_keep(struct rsvd_call *given,
				    const struct rsvd_meta *meta)
{
	struct rsvd_call *call = rsvd_call_keep(given);
	struct meta_state *state = NULL;

	if (call == NULL) {
		return NULL;
	}
	state = talloc_zero(call, struct meta_state);
	if (state == NULL) {
		rsvd_call_over(call);
		return NULL;
	}
	state->call = call;
	state->open = call->open;
	state->meta = *meta;
	state->work = &works[meta->type];
	state->meta.data = talloc_memdup(state, meta->data, meta->length);
	if (state->meta.data == NULL && meta->length > 0) {
		rsvd_call_over(call);
		return NULL;
	}
	return state;
}

void rsvd_meta_start(struct rsvd_call *given)
{
	struct meta_state *state = NULL;
	struct rsvd_meta meta = {};
	struct tevent_req *req = given->req;
	uint32_t code = rsvd_meta_decode(given->body, given->body_length,
					 &meta);

	if (code == 0 && rsvd_open_is_snapshot(given->open)) {
		code = NT_STATUS_V(NT_STATUS_INVALID_DEVICE_REQUEST);
	}
	if (code == 0) {
		code = works[meta.type].check(given->open, &meta);
	}
	if (code == RSVD_META_TOO_SMALL) {
		rsvd_call_fail(given, NT_STATUS(code));
		return;
	}
	if (code != 0) {
		rsvd_call_status(given, NT_STATUS(code));
		return;
	}
	state = meta_keep(given, &meta);
	if (state == NULL) {
		tevent_req_nterror(req, NT_STATUS_NO_MEMORY);
		return;
	}
	rsvd_meta_tell(state->open, &meta.transaction, meta.type, 0, 1);
	if (state->work->unlocked) {
		/* It may take long: the client may close the disk meanwhile. */
		rsvd_call_release(state->call);
		work_begin(state);
		return;
	}
	req = rsvd_lock_send(state, state->open, RSVD_FENCE_SET);
	if (req == NULL) {
		meta_over(state, NT_STATUS_NO_MEMORY);
		return;
	}
	tevent_req_set_callback(req, on_locked, state);
}
