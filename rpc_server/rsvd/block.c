/*
 * Holding up all commands of a disk: a block in its record makes every process
 * wait before it lets a command in, and the fence tells when those that were
 * let in before are over.
 */
#include "server.h"

#define POLL_FIRST_US 100
#define POLL_MOST_US 2000
/* How long a lock of the fence may be another's before somebody hears of it. */
#define LOCK_TELL_MS 30000
/* When the record could not be had for the end of a block. */
#define END_AGAIN_MS 200

/* ---- waiting -------------------------------------------------------------------- */

struct sleep_state {
	int unused;
};

static void on_slept(struct tevent_context *ev, struct tevent_timer *timer,
		     struct timeval now, void *private_data)
{
	(void)ev;
	(void)timer;
	(void)now;
	tevent_req_done(private_data);
}

struct tevent_req *rsvd_sleep_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev, unsigned ms)
{
	struct sleep_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct sleep_state);

	if (req == NULL) {
		return NULL;
	}
	if (tevent_add_timer(ev, state, timeval_current_ofs_msec(ms), on_slept,
			     req) == NULL) {
		tevent_req_nterror(req, NT_STATUS_NO_MEMORY);
		return tevent_req_post(req, ev);
	}
	return req;
}

/* ---- the locks of the fence ------------------------------------------------------- */

struct lock_state {
	struct rsvd_open *open;
	enum rsvd_fence_lock lock;
	unsigned poll_us;
	uint64_t tell_ms;	/* when to say that it takes long */
};

static void lock_try(struct tevent_req *req);

static void lock_poll(struct tevent_context *ev, struct tevent_timer *timer,
		      struct timeval now, void *private_data)
{
	(void)ev;
	(void)timer;
	(void)now;
	lock_try(private_data);
}

static void lock_try(struct tevent_req *req)
{
	struct lock_state *state = tevent_req_data(req, struct lock_state);
	int ret = 0;

	if (state->open->closed || state->open->fence == NULL) {
		tevent_req_nterror(req, NT_STATUS_FILE_CLOSED);
		return;
	}
	ret = rsvd_fence_take(state->open->fence, state->lock);
	if (ret == 0) {
		tevent_req_done(req);
		return;
	}
	if (ret != -EAGAIN) {
		tevent_req_nterror(req, map_nt_error_from_unix(-ret));
		return;
	}
	if (rsvd_shared_now_ms() >= state->tell_ms) {
		DBG_ERR("hvrs: shared disk %s: another process has had its "
			"files to itself for %d seconds; snapshots and merges "
			"wait for it\n", state->open->path,
			LOCK_TELL_MS / 1000);
		state->tell_ms = UINT64_MAX;
	}
	state->poll_us = MIN(2 * state->poll_us, 20000);
	if (tevent_add_timer(state->open->ev, state,
			     timeval_current_ofs_usec(state->poll_us),
			     lock_poll, req) == NULL) {
		tevent_req_nterror(req, NT_STATUS_NO_MEMORY);
	}
}

struct tevent_req *rsvd_lock_send(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
				  enum rsvd_fence_lock lock)
{
	struct lock_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct lock_state);

	if (req == NULL) {
		return NULL;
	}
	state->open = open;
	state->lock = lock;
	state->poll_us = 500;
	state->tell_ms = rsvd_shared_now_ms() + LOCK_TELL_MS;
	lock_try(req);
	if (!tevent_req_is_in_progress(req)) {
		return tevent_req_post(req, open->ev);
	}
	return req;
}

NTSTATUS rsvd_lock_recv(struct tevent_req *req)
{
	return tevent_req_simple_recv_ntstatus(req);
}

/* ---- the block ----------------------------------------------------------------------- */

struct block_state {
	struct rsvd_open *open;
	uint32_t time_ms;
	uint64_t until_ms;
	uint64_t generation;
	bool own;
	bool working;
	bool taken;
	unsigned poll_us;
};

static enum rsvd_change take(struct rsvd_record *record, void *private_data)
{
	struct block_state *state = private_data;

	if (record->block.active) {
		return RSVD_CHANGE_NONE;
	}
	record->block = (struct rsvd_block) {
		.active = true, .working = state->working,
		.worker = rsvd_shared_self(state->open),
		.until_ms = state->until_ms, .time_ms = state->time_ms,
	};
	state->taken = true;
	return RSVD_CHANGE_FENCE;
}

static void block_step(struct tevent_req *req);

static void block_poll(struct tevent_context *ev, struct tevent_timer *timer,
		       struct timeval now, void *private_data)
{
	(void)ev;
	(void)timer;
	(void)now;
	block_step(private_data);
}

static void block_later(struct tevent_req *req)
{
	struct block_state *state = tevent_req_data(req, struct block_state);

	state->poll_us = MIN(2 * state->poll_us, POLL_MOST_US);
	if (tevent_add_timer(state->open->ev, state,
			     timeval_current_ofs_usec(state->poll_us),
			     block_poll, req) == NULL) {
		tevent_req_nterror(req, NT_STATUS_NO_MEMORY);
	}
}

static void on_flushed(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct block_state *state = tevent_req_data(req, struct block_state);
	int ret = vhdx_flush_recv(subreq);

	TALLOC_FREE(subreq);
	rsvd_image_put(state->open->image);
	if (ret != 0) {
		rsvd_block_end(state->open, false, 0);
		tevent_req_nterror(req, rsvd_status_of(ret));
		return;
	}
	tevent_req_done(req);
}

static void block_flush(struct tevent_req *req)
{
	struct block_state *state = tevent_req_data(req, struct block_state);
	struct tevent_req *subreq = NULL;

	rsvd_image_get(state->open->image);
	subreq = vhdx_flush_send(state, state->open->ev,
				 state->open->image->disk);
	if (subreq == NULL) {
		rsvd_image_put(state->open->image);
		rsvd_block_end(state->open, false, 0);
		tevent_req_nterror(req, NT_STATUS_NO_MEMORY);
		return;
	}
	tevent_req_set_callback(subreq, on_flushed, req);
}

static void block_step(struct tevent_req *req)
{
	struct block_state *state = tevent_req_data(req, struct block_state);
	struct rsvd_open *open = state->open;
	bool late = rsvd_shared_now_ms() >= state->until_ms;
	int ret = 0;

	if (open->closed) {
		/* Who is held up sees that this process is gone. */
		tevent_req_nterror(req, NT_STATUS_FILE_CLOSED);
		return;
	}
	if (!state->taken && !late) {
		ret = rsvd_shared_change(open, take, state,
					 &state->generation);
		if (ret != 0) {
			tevent_req_nterror(req, rsvd_status_of(ret));
			return;
		}
	}
	if (state->taken &&
	    !rsvd_shared_busy(open, state->generation) &&
	    !(state->own && open->image->refs > 0)) {
		block_flush(req);
		return;
	}
	if (late) {
		if (state->taken) {
			rsvd_block_end(open, false, 0);
		}
		tevent_req_nterror(req, NT_STATUS_IO_TIMEOUT);
		return;
	}
	block_later(req);
}

struct tevent_req *rsvd_block_send(TALLOC_CTX *mem_ctx,
				   struct rsvd_open *open, uint32_t time_ms,
				   bool working)
{
	struct block_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct block_state);

	if (req == NULL) {
		return NULL;
	}
	state->open = open;
	state->time_ms = time_ms;
	state->own = working;
	state->working = working;
	state->until_ms = rsvd_shared_now_ms() + time_ms;
	state->poll_us = POLL_FIRST_US;
	block_step(req);
	if (!tevent_req_is_in_progress(req)) {
		return tevent_req_post(req, open->ev);
	}
	return req;
}

NTSTATUS rsvd_block_recv(struct tevent_req *req)
{
	return tevent_req_simple_recv_ntstatus(req);
}

struct end {
	struct rsvd_open *open;
	bool changed;
	uint64_t new_size;
};

static enum rsvd_change end(struct rsvd_record *record, void *private_data)
{
	struct end *e = private_data;
	struct rsvd_worker self = rsvd_shared_self(e->open);

	if (record->block.active &&
	    record->block.worker.pid == self.pid &&
	    record->block.worker.unique == self.unique) {
		record->block = (struct rsvd_block) {};
	}
	if (e->changed) {
		record->epoch++;
	}
	if (e->new_size != 0 && e->new_size != record->disk_size) {
		record->disk_size = e->new_size;
		scsi_pr_attention_all(&record->pr, NULL,
				      SCSI_SENSE_CAPACITY_CHANGED);
	}
	return RSVD_CHANGE_FENCE;
}

static void end_later(struct end *e);

static void on_end_later(struct tevent_context *ev,
			 struct tevent_timer *timer, struct timeval now,
			 void *private_data)
{
	struct end *e = private_data;

	(void)ev;
	(void)timer;
	(void)now;
	if (!e->open->closed &&
	    rsvd_shared_change(e->open, end, e, NULL) == -ETIMEDOUT) {
		end_later(e);
		return;
	}
	talloc_free(e);
}

/* Else this process would hold up all others for as long as it lives. */
static void end_later(struct end *e)
{
	if (tevent_add_timer(e->open->ev, e,
			     timeval_current_ofs_msec(END_AGAIN_MS),
			     on_end_later, e) == NULL) {
		smb_panic("hvrs: no memory for the end of a block");
	}
}

NTSTATUS rsvd_block_end(struct rsvd_open *open, bool changed,
			uint64_t new_size)
{
	struct end e = {
		.open = open, .changed = changed, .new_size = new_size,
	};
	struct end *again = NULL;
	int ret = rsvd_shared_change(open, end, &e, NULL);

	if (ret == -ETIMEDOUT) {
		again = talloc_memdup(open, &e, sizeof(e));
		if (again == NULL) {
			smb_panic("hvrs: no memory for the end of a block");
		}
		end_later(again);
	}
	return rsvd_status_of(ret);
}
