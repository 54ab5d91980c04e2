/*
 * One command on a shared disk, from its bytes to its result.
 */
#include "server.h"

struct command_state {
	struct rsvd_open *open;
	struct scsi_command *command;
	struct rsvd_admitted a;
	struct rsvd_image *image;	/* that is recovered */
};

static void count(struct rsvd_open *open, const struct scsi_command *c)
{
	struct rsvd_fence_counters *n = rsvd_fence_counters(open->fence);
	const struct scsi_command_row *row = scsi_command_find(c->cdb);

	n->commands++;
	if (row == NULL || c->result.status != SCSI_GOOD) {
		return;
	}
	if (row->access == SCSI_ACCESS_READ) {
		n->reads++;
		n->read_bytes += c->result.length;
	} else if (row->access == SCSI_ACCESS_WRITE) {
		n->writes++;
		n->write_bytes += c->out_length;
	}
}

static void on_executed(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct command_state *state = tevent_req_data(req,
						      struct command_state);
	int ret = scsi_execute_recv(subreq);

	TALLOC_FREE(subreq);
	rsvd_admit_over(state->open, &state->a);
	if (ret != 0) {
		tevent_req_error(req, -ret);
		return;
	}
	count(state->open, state->command);
	tevent_req_done(req);
}

static void on_recovered(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct command_state *state = tevent_req_data(req,
						      struct command_state);
	int ret = vhdx_recover_recv(subreq);

	TALLOC_FREE(subreq);
	rsvd_image_put(state->image);
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: what a process that died left "
			"cannot be settled: %s\n", state->open->path,
			strerror(-ret));
		scsi_result_sense(&state->command->result,
				  SCSI_SENSE_INTERNAL);
	}
	count(state->open, state->command);
	tevent_req_done(req);
}

/*
 * Who may not write any more has no write under way.  But one that a process
 * began which then died can still become visible, by the log of the disk: now,
 * or it never will.
 */
static bool recover(struct tevent_req *req)
{
	struct command_state *state = tevent_req_data(req,
						      struct command_state);
	struct rsvd_open *open = state->open;
	struct tevent_req *subreq = NULL;

	if (!state->a.settles || open->image == NULL ||
	    open->image->share == NULL) {
		return false;
	}
	state->image = open->image;
	rsvd_image_get(state->image);
	subreq = vhdx_recover_send(state, open->ev, state->image->disk);
	if (subreq == NULL) {
		rsvd_image_put(state->image);
		return false;
	}
	tevent_req_set_callback(subreq, on_recovered, req);
	return true;
}

/* True where the request has ended. */
static bool admitted(struct tevent_req *req)
{
	struct command_state *state = tevent_req_data(req,
						      struct command_state);
	struct tevent_req *subreq = NULL;

	if (!state->a.go) {
		state->command->result = state->a.result;
		if (recover(req)) {
			return false;
		}
		count(state->open, state->command);
		tevent_req_done(req);
		return true;
	}
	rsvd_disk_refresh(state->open);
	state->command->attention = state->a.attention;
	subreq = scsi_execute_send(state, state->open->ev, &state->open->scsi,
				   state->command);
	if (subreq == NULL) {
		rsvd_admit_over(state->open, &state->a);
		tevent_req_error(req, ENOMEM);
		return true;
	}
	tevent_req_set_callback(subreq, on_executed, req);
	return false;
}

static void on_admitted(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct command_state *state = tevent_req_data(req,
						      struct command_state);
	int ret = rsvd_admit_recv(subreq, &state->a);

	TALLOC_FREE(subreq);
	if (ret != 0) {
		tevent_req_error(req, -ret);
		return;
	}
	admitted(req);
}

struct tevent_req *rsvd_command_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     struct scsi_command *command)
{
	struct command_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct command_state);
	struct tevent_req *subreq = NULL;

	if (req == NULL) {
		return NULL;
	}
	state->open = open;
	state->command = command;
	if (rsvd_open_is_snapshot(open)) {
		/* It takes no part in reservations, and never changes. */
		state->a.go = true;
		if (admitted(req)) {
			return tevent_req_post(req, open->ev);
		}
		return req;
	}
	if (rsvd_admit_now(open, command, &state->a)) {
		if (admitted(req)) {
			return tevent_req_post(req, open->ev);
		}
		return req;
	}
	subreq = rsvd_admit_send(state, open, command);
	if (tevent_req_nomem(subreq, req)) {
		return tevent_req_post(req, open->ev);
	}
	tevent_req_set_callback(subreq, on_admitted, req);
	return req;
}

int rsvd_command_recv(struct tevent_req *req)
{
	return tevent_req_simple_recv_unix(req) == 0 ? 0 : -ENOMEM;
}
