/*
 * One command on a shared disk, from its bytes to its result.
 */
#include "server.h"

struct command_state {
	struct rsvd_open *open;
	struct scsi_command *command;
	struct rsvd_admitted a;
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

/* True where the request has ended. */
static bool admitted(struct tevent_req *req)
{
	struct command_state *state = tevent_req_data(req,
						      struct command_state);
	struct tevent_req *subreq = NULL;

	if (!state->a.go) {
		state->command->result = state->a.result;
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
