/*
 * The FSCTLs of MS-RSVD: the query for support, and the tunnel with its
 * operations, one row each.
 */
#include "server.h"

#define CODE_QUERY_SUPPORT 0x00090300
#define CODE_SYNC_TUNNEL 0x00090304
#define CODE_ASYNC_TUNNEL 0x00090364
#define CODE_OFFLOAD_READ 0x00094264
#define CODE_OFFLOAD_WRITE 0x00098268

static void end_status(struct tevent_req *req, NTSTATUS status)
{
	if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
}

/* Header and body as the output; the request is done. */
static void reply(struct smbd_smb2_ioctl_state *state, struct tevent_req *req,
		  const struct rsvd_header *header, const uint8_t *body,
		  size_t body_length, const uint8_t *data, size_t data_length)
{
	size_t length = RSVD_HEADER_SIZE + body_length + data_length;
	uint8_t *out = talloc_size(state, length);

	if (tevent_req_nomem(out, req)) {
		return;
	}
	rsvd_header_encode(header, out);
	if (body_length > 0) {
		memcpy(out + RSVD_HEADER_SIZE, body, body_length);
	}
	if (data_length > 0) {
		memcpy(out + RSVD_HEADER_SIZE + body_length, data,
		       data_length);
	}
	/* Never more than the client has room for. */
	state->out_output = data_blob_const(out, MIN(length,
						     state->in_max_output));
	tevent_req_done(req);
}

void rsvd_call_fail(const struct rsvd_call *call, NTSTATUS status)
{
	end_status(call->req, status);
}

void rsvd_call_status(const struct rsvd_call *call, NTSTATUS status)
{
	struct rsvd_header header = call->header;

	header.status = NT_STATUS_V(status);
	reply(call->state, call->req, &header, NULL, 0, NULL, 0);
}

void rsvd_call_body(const struct rsvd_call *call, const uint8_t *body,
		    size_t length)
{
	reply(call->state, call->req, &call->header, body, length, NULL, 0);
}

/* ---- operations that are done at once -------------------------------------------------- */

/* The size may have changed, and nobody read or wrote since. */
static void look_again(struct rsvd_open *open)
{
	uint64_t epoch = 0;

	if (NT_STATUS_IS_OK(rsvd_shared_epoch(open, &epoch))) {
		(void)rsvd_image_refresh(open, epoch);
	}
	rsvd_disk_refresh(open);
}

static void initial_info(struct rsvd_call *call)
{
	const struct scsi_geometry *g = &call->open->scsi.geometry;
	struct rsvd_properties p = { .server_version = SERVER_VERSION };
	uint8_t out[24];

	look_again(call->open);
	p.sector = g->block_size;
	p.physical_sector = g->physical_size;
	p.size = g->blocks * g->block_size;
	rsvd_initial_info_encode(&p, out);
	rsvd_call_body(call, out, sizeof(out));
}

static void check_connection(struct rsvd_call *call)
{
	rsvd_call_body(call, NULL, 0);
}

static void srb_status(struct rsvd_call *call)
{
	uint8_t out[24];
	int ret = rsvd_ring_show(&call->open->ring, call->body[0], out);

	if (ret != 0) {
		rsvd_call_status(call, NT_STATUS(RSVD_STATUS_NOT_STORED));
		return;
	}
	rsvd_call_body(call, out, sizeof(out));
}

static void disk_info(struct rsvd_call *call)
{
	struct rsvd_disk_info info = {
		.format = call->open->is_set ? 4 : 3,
	};
	struct vhdx_info v = {};
	uint8_t out[56];

	look_again(call->open);
	vhdx_info_get(call->open->image->disk, &v);
	info.type = v.type == VHDX_FIXED ? 2 : 3;
	info.block_size = v.type == VHDX_FIXED ? 0 : v.block_size;
	info.disk_id = v.disk_id;
	/* Others may have made it longer. */
	if (store_size(call->open->image->leaf, &info.file_size) != 0) {
		info.file_size = v.file_size;
	}
	rsvd_disk_info_encode(&info, out);
	rsvd_call_body(call, out, sizeof(out));
}

/* A disk that is no disk was not opened. */
static void validate_disk(struct rsvd_call *call)
{
	uint8_t valid = 1;

	rsvd_call_body(call, &valid, 1);
}

/* ---- QUERY_INFO ---------------------------------------------------------------------- */

/* [MS-FSCC] 2.4: the levels that are refused where there is no room. */
static const struct {
	uint16_t level;
	size_t size;
} file_levels[] = {
	{ SMB_FILE_STANDARD_INFORMATION, 24 },
	{ SMB_FILE_NETWORK_OPEN_INFORMATION, 56 },
	{ SMB_FILE_END_OF_FILE_INFORMATION, 8 },
};

NTSTATUS rsvd_file_info(struct files_struct *fsp, uint16_t level, size_t room,
			SMB_STRUCT_STAT *st)
{
	struct rsvd_open *open = rsvd_open_find(fsp);
	const struct scsi_geometry *g = NULL;
	uint64_t size = 0;
	size_t i = 0;

	if (open == NULL) {
		return NT_STATUS_OK;
	}
	for (i = 0; i < ARRAY_SIZE(file_levels); i++) {
		if (file_levels[i].level == level &&
		    room < file_levels[i].size) {
			return NT_STATUS_BUFFER_TOO_SMALL;
		}
	}
	if (!open->is_virtual) {
		return NT_STATUS_OK;
	}
	look_again(open);
	g = &open->scsi.geometry;
	if (store_size(open->image->leaf, &size) != 0) {
		return NT_STATUS_INTERNAL_ERROR;
	}
	st->st_ex_size = (off_t)(g->blocks * g->block_size);
	st->st_ex_blocks = (blkcnt_t)(size + 511) / 512;
	return NT_STATUS_OK;
}

/* ---- SCSI --------------------------------------------------------------------------------- */

struct guard {
	struct rsvd_call *call;
};

static int guard_destructor(struct guard *guard)
{
	if (guard->call != NULL) {
		guard->call->req = NULL;
		guard->call->guard = NULL;
	}
	return 0;
}

/* smbd may keep a request that has its answer. */
static int call_destructor(struct rsvd_call *call)
{
	if (call->guard != NULL) {
		call->guard->call = NULL;
	}
	return 0;
}

static int hold_destructor(struct guard *hold)
{
	if (hold->call != NULL) {
		hold->call->hold = NULL;
	}
	return 0;
}

static void on_command(struct tevent_req *req)
{
	struct rsvd_call *call = tevent_req_callback_data(req,
							  struct rsvd_call);
	uint8_t body[RSVD_SCSI_SIZE];
	int error = rsvd_command_recv(req);

	TALLOC_FREE(req);
	rsvd_call_release(call);
	if (call->req != NULL && error != 0) {
		tevent_req_nterror(call->req, NT_STATUS_NO_MEMORY);
	} else if (call->req != NULL) {
		rsvd_scsi_encode(&call->scsi, &call->command.result, body);
		reply(call->state, call->req, &call->header, body,
		      sizeof(body), call->command.in,
		      call->command.result.length);
	}
	rsvd_call_over(call);
}

void rsvd_call_release(struct rsvd_call *call)
{
	if (call->hold != NULL) {
		TALLOC_FREE(call->hold);
	}
}

void rsvd_call_over(struct rsvd_call *call)
{
	struct rsvd_open *open = call->open;

	rsvd_call_release(call);
	talloc_free(call);
	open->under_way--;
	rsvd_open_idle(open);
}

struct rsvd_call *rsvd_call_keep(const struct rsvd_call *given)
{
	struct rsvd_call *call = talloc_memdup(NULL, given, sizeof(*given));
	struct guard *guard = NULL;
	struct guard *hold = NULL;

	if (call == NULL) {
		return NULL;
	}
	talloc_set_name_const(call, "struct rsvd_call");
	call->body = NULL;
	call->body_length = 0;
	guard = talloc_zero(call->state, struct guard);
	call->hold = tevent_req_create(call, &hold, struct guard);
	if (guard == NULL || call->hold == NULL ||
	    !series_aio_add(call->open->fsp, call->hold)) {
		talloc_free(call);
		return NULL;
	}
	guard->call = call;
	call->guard = guard;
	talloc_set_destructor(call, call_destructor);
	talloc_set_destructor(guard, guard_destructor);
	hold->call = call;
	talloc_set_destructor(hold, hold_destructor);
	call->open->under_way++;
	return call;
}

static void scsi_bad(const struct rsvd_call *call, NTSTATUS status)
{
	struct rsvd_header header = call->header;

	header.status = NT_STATUS_V(status);
	reply(call->state, call->req, &header, call->body,
	      MIN(call->body_length, RSVD_SCSI_SIZE), NULL, 0);
}

static void scsi(struct rsvd_call *given)
{
	struct tevent_req *req = given->req;
	struct rsvd_call *call = NULL;
	struct scsi_command *c = NULL;
	size_t room = given->max_out - RSVD_HEADER_SIZE - RSVD_SCSI_SIZE;
	int ret = 0;

	if (guid_is_null(&given->open->nexus)) {
		scsi_bad(given, NT_STATUS_INVALID_HANDLE);
		return;
	}
	ret = rsvd_scsi_decode(given->body, given->body_length, &given->scsi);
	if (ret != 0) {
		scsi_bad(given, NT_STATUS_INVALID_PARAMETER);
		return;
	}
	call = rsvd_call_keep(given);
	if (tevent_req_nomem(call, req)) {
		return;
	}
	c = &call->command;
	memcpy(c->cdb, call->scsi.cdb, sizeof(c->cdb));
	c->cdb_length = call->scsi.cdb_length;
	c->in_size = MIN(call->scsi.transfer, room);
	c->in = talloc_size(call, MAX(c->in_size, 1));
	c->out_length = call->scsi.data_length;
	c->out = talloc_memdup(call, call->scsi.data, c->out_length);
	if (tevent_req_nomem(c->in, req) || tevent_req_nomem(c->out, req)) {
		rsvd_call_over(call);
		return;
	}
	req = rsvd_command_send(call, call->open, c);
	if (tevent_req_nomem(req, call->req)) {
		rsvd_call_over(call);
		return;
	}
	tevent_req_set_callback(req, on_command, call);
}

/* ---- the dispatch, 3.2.5.5 ------------------------------------------------------------------ */

static const struct operation {
	uint32_t code;
	size_t min_in;
	uint32_t min_out;
	NTSTATUS small_in;
	NTSTATUS small_out;
	void (*run)(struct rsvd_call *call);
} operations[] = {
	{ RSVD_INITIAL_INFO, 16, 40, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, initial_info },
	{ RSVD_SCSI, 16, 52, NT_STATUS_INVALID_PARAMETER,
	  NT_STATUS_INVALID_PARAMETER, scsi },
	{ RSVD_CHECK_CONNECTION, 16, 16, NT_STATUS_BUFFER_TOO_SMALL,
	  STATUS_BUFFER_OVERFLOW, check_connection },
	{ RSVD_SRB_STATUS, 17, 40, NT_STATUS_INVALID_PARAMETER,
	  NT_STATUS_INVALID_PARAMETER, srb_status },
	{ RSVD_DISK_INFO, 16, 72, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, disk_info },
	{ RSVD_VALIDATE_DISK, 16, 17, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, validate_disk },
	/* Version 2.  The handlers check the rest of the sizes. */
	{ RSVD_META_START, 40, 16, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, rsvd_meta_start },
	{ RSVD_META_PROGRESS, 32, 32, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, rsvd_meta_progress },
	{ RSVD_SET_QUERY, 40, 16, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, rsvd_query_set },
	{ RSVD_SNAPSHOT_DELETE, 40, 16, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, rsvd_delete_snapshot },
	{ RSVD_TRACKING_PARAMETERS, 16, 32, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, rsvd_tracking_parameters },
	{ RSVD_TRACKING_START, 72, 16, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, rsvd_tracking_start },
	{ RSVD_TRACKING_STOP, 16, 20, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, rsvd_tracking_stop },
	{ RSVD_TRACKING_CHANGES, 72, 32, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, rsvd_tracking_changes },
	{ RSVD_SAFE_SIZE, 16, 24, NT_STATUS_BUFFER_TOO_SMALL,
	  NT_STATUS_BUFFER_TOO_SMALL, rsvd_safe_size_query },
};

static void dispatch(struct rsvd_call *call)
{
	uint32_t group = call->header.operation & 0x00FFF000;
	size_t i = 0;

	if (group != 0x1000 && group != 0x2000) {
		rsvd_call_status(call, NT_STATUS(RSVD_STATUS_VERSION));
		return;
	}
	for (i = 0; i < ARRAY_SIZE(operations); i++) {
		const struct operation *op = &operations[i];

		if (op->code != call->header.operation) {
			continue;
		}
		if (RSVD_HEADER_SIZE + call->body_length < op->min_in) {
			end_status(call->req, op->small_in);
			return;
		}
		if (call->max_out < op->min_out) {
			end_status(call->req, op->small_out);
			return;
		}
		op->run(call);
		return;
	}
	rsvd_call_status(call, NT_STATUS_INVALID_PARAMETER);
}

static void tunnel(struct tevent_req *req, struct smbd_smb2_ioctl_state *state)
{
	struct rsvd_call call = {
		.open = rsvd_open_find(state->fsp), .req = req,
		.state = state, .max_out = state->in_max_output,
	};
	int ret = 0;

	if (call.open == NULL) {
		end_status(req, NT_STATUS_INVALID_DEVICE_REQUEST);
		return;
	}
	ret = rsvd_header_decode(state->in_input.data, state->in_input.length,
				 &call.header);
	if (ret != 0) {
		end_status(req, NT_STATUS_BUFFER_TOO_SMALL);
		return;
	}
	if ((call.header.operation & 0xFF000000) != 0x02000000 ||
	    !call.open->is_virtual) {
		end_status(req, NT_STATUS_INVALID_DEVICE_REQUEST);
		return;
	}
	if (call.max_out < RSVD_HEADER_SIZE &&
	    call.header.operation != RSVD_SCSI &&
	    call.header.operation != RSVD_CHECK_CONNECTION &&
	    call.header.operation != RSVD_SRB_STATUS) {
		end_status(req, NT_STATUS_BUFFER_TOO_SMALL);
		return;
	}
	call.header.status = 0;
	call.body = state->in_input.data + RSVD_HEADER_SIZE;
	call.body_length = state->in_input.length - RSVD_HEADER_SIZE;
	dispatch(&call);
}

/* 3.2.5.6: also asked of plain opens, to learn what the share can. */
static void query_support(struct tevent_req *req,
			  struct smbd_smb2_ioctl_state *state)
{
	const struct rsvd_open *open = rsvd_open_find(state->fsp);
	uint8_t *out = NULL;

	if (state->in_max_output < 8) {
		end_status(req, NT_STATUS_BUFFER_TOO_SMALL);
		return;
	}
	out = talloc_zero_array(state, uint8_t, 8);
	if (tevent_req_nomem(out, req)) {
		return;
	}
	SIVAL(out, 0, 7);
	if (open != NULL) {
		SIVAL(out, 4, 3);
	} else if (rsvd_shared_by_others(&state->fsp->file_id, NULL)) {
		SIVAL(out, 4, 1);
	}
	state->out_output = data_blob_const(out, 8);
	tevent_req_done(req);
}

bool rsvd_ioctl(uint32_t code, struct tevent_context *ev,
		struct tevent_req *req, struct smbd_smb2_ioctl_state *state)
{
	(void)ev;
	switch (code) {
	case CODE_QUERY_SUPPORT:
		query_support(req, state);
		return true;
	case CODE_SYNC_TUNNEL:
	case CODE_ASYNC_TUNNEL:
		tunnel(req, state);
		return true;
	case CODE_OFFLOAD_READ:
	case CODE_OFFLOAD_WRITE:
		if (rsvd_open_find(state->fsp) == NULL) {
			return false;
		}
		end_status(req, NT_STATUS(code == CODE_OFFLOAD_READ ?
					  0xC000A2A3 : 0xC000A2A4));
		return true;
	}
	return false;
}
