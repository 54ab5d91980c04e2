/*
 * SMB2 READ and WRITE of a virtual disk, MS-RSVD 3.2.5.3 and 3.2.5.4: offsets
 * are the disk's, and failures have statuses of their own.
 */
#include "server.h"

/* Less than this is copied as fast as it is held. */
#define HOLD_LEAST 16384

/*
 * One request.  It lives by itself: smbd may drop the client's request, while
 * what is under way on the disk goes on.
 */
struct io {
	struct rsvd_open *open;
	struct scsi_command command;
	struct smb_request *smbreq;	/* NULL: nobody waits any more */
	struct guard *guard;		/* while that is there */
	struct tevent_req *hold;	/* keeps smbd from closing the file */
	struct hvrs_turn *turn;		/* of storage QoS, or NULL */
	bool write;
	size_t length;
	TALLOC_CTX *mem_ctx;
	DATA_BLOB *data;
};

/* Goes with the client's request. */
struct guard {
	struct io *io;
};

struct hold {
	struct io *io;
};

static int guard_destructor(struct guard *guard)
{
	if (guard->io != NULL) {
		guard->io->smbreq = NULL;
		guard->io->guard = NULL;
	}
	return 0;
}

/* smbd keeps an answered request until the client has all of the answer. */
static int io_destructor(struct io *io)
{
	if (io->guard != NULL) {
		io->guard->io = NULL;
	}
	return 0;
}

static int hold_destructor(struct hold *hold)
{
	if (hold->io != NULL) {
		hold->io->hold = NULL;
	}
	return 0;
}

/* ---- statuses -------------------------------------------------------------------------- */

static NTSTATUS stored(struct rsvd_open *open,
		       const struct scsi_result *result)
{
	uint8_t key = rsvd_ring_store_result(&open->ring, result);

	return NT_STATUS(RSVD_STATUS_STORED | key);
}

static NTSTATUS status_of(struct rsvd_open *open,
			  const struct scsi_result *result)
{
	enum scsi_sense sense = scsi_result_sense_get(result);

	if (result->status == SCSI_GOOD) {
		return NT_STATUS_OK;
	}
	if (result->status == SCSI_CONFLICT) {
		return NT_STATUS(RSVD_STATUS_CONFLICT);
	}
	if ((unsigned)sense >> 16 == 6) {
		return NT_STATUS(rsvd_attention_status(sense));
	}
	return stored(open, result);
}

/* 3.2.5.3: what Windows stores for an open without an initiator. */
static NTSTATUS no_initiator(struct rsvd_open *open)
{
	struct rsvd_error e = {
		.srb_status = 0x02, .scsi_status = 0x02,
		.sense = { 0xF0, [7] = 0x0A },
	};

	return NT_STATUS(RSVD_STATUS_STORED |
			 rsvd_ring_store(&open->ring, &e));
}

static NTSTATUS check(struct rsvd_open *open, const struct smb_request *smbreq,
		      uint64_t offset, size_t length, bool write)
{
	uint32_t sector = open->scsi.geometry.block_size;

	if (smbreq->unread_bytes != 0 ||
	    (smbd_smb2_is_compound(smbreq->smb2req) &&
	     !smbd_smb2_is_last_in_compound(smbreq->smb2req))) {
		return NT_STATUS_NOT_SUPPORTED;
	}
	if (rsvd_open_is_snapshot(open)) {
		if (write) {
			return NT_STATUS_MEDIA_WRITE_PROTECTED;
		}
	} else if (guid_is_null(&open->nexus)) {
		return no_initiator(open);
	}
	if ((open->create_options & FILE_NO_INTERMEDIATE_BUFFERING) == 0) {
		return NT_STATUS_NOT_SUPPORTED;
	}
	if (offset % sector != 0 || length % sector != 0) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	return NT_STATUS_OK;
}

/* ---- one request ------------------------------------------------------------------------ */

/* error: 0, or what of the system kept the command from its end. */
static void answer(struct io *io, int error)
{
	struct scsi_result *result = &io->command.result;
	struct tevent_req *smb2 = io->smbreq->smb2req->subreq;
	NTSTATUS status = error == 0 ? status_of(io->open, result)
		: error == -ECANCELED ? NT_STATUS_CANCELLED
				      : NT_STATUS_NO_MEMORY;

	if (NT_STATUS_IS_OK(status) && io->write) {
		status = smb2_write_complete_nosync(smb2, (ssize_t)io->length,
						    0);
	} else if (NT_STATUS_IS_OK(status)) {
		io->data->data = talloc_steal(io->mem_ctx, io->command.in);
		io->data->length = result->length;
		status = smb2_read_complete(smb2, (ssize_t)result->length, 0);
	}
	if (tevent_req_nterror(smb2, status)) {
		return;
	}
	tevent_req_done(smb2);
}

static void ended(struct io *io, int error)
{
	struct rsvd_open *open = io->open;

	/* The file may be closed in the course of the answer. */
	if (io->hold != NULL) {
		TALLOC_FREE(io->hold);
	}
	if (io->smbreq != NULL) {
		answer(io, error);
	}
	talloc_free(io);
	open->under_way--;
	rsvd_open_idle(open);
}

static void on_command(struct tevent_req *req)
{
	struct io *io = tevent_req_callback_data(req, struct io);
	int error = rsvd_command_recv(req);

	TALLOC_FREE(req);
	ended(io, error);
}

static bool command_start(struct io *io)
{
	struct tevent_req *req = rsvd_command_send(io, io->open, &io->command);

	if (req == NULL) {
		return false;
	}
	tevent_req_set_callback(req, on_command, io);
	return true;
}

static void on_turn(struct tevent_req *req)
{
	struct io *io = tevent_req_callback_data(req, struct io);
	int error = 0;
	bool failed = tevent_req_is_unix_error(req, &error);

	TALLOC_FREE(req);
	if (failed) {
		ended(io, -error);
	} else if (!command_start(io)) {
		ended(io, -ENOMEM);
	}
}

static bool turn_start(struct io *io)
{
	struct tevent_req *req = rsvd_module->turn_wait_send(
		io, io->open->fsp->conn->sconn->ev_ctx, io->turn);

	if (req == NULL) {
		return false;
	}
	tevent_req_set_callback(req, on_turn, io);
	return true;
}

static bool guard_set(struct io *io, TALLOC_CTX *request,
		      struct files_struct *fsp)
{
	struct guard *guard = talloc_zero(request, struct guard);
	struct hold *hold = NULL;

	if (guard == NULL) {
		return false;
	}
	io->hold = tevent_req_create(io, &hold, struct hold);
	if (io->hold == NULL) {
		return false;
	}
	guard->io = io;
	io->guard = guard;
	hold->io = io;
	talloc_set_destructor(io, io_destructor);
	talloc_set_destructor(guard, guard_destructor);
	talloc_set_destructor(hold, hold_destructor);
	return series_aio_add(fsp, io->hold);
}

/* ---- what is written ---------------------------------------------------------------------- */

struct search {
	const uint8_t *data;
	const void *chunk;
};

static void on_chunk(const void *chunk, int depth, int max_depth, int is_ref,
		     void *private_data)
{
	struct search *search = private_data;
	const uint8_t *start = chunk;

	(void)max_depth;
	if (depth == 1 && is_ref == 0 && search->data >= start &&
	    search->data < start + talloc_get_size(chunk)) {
		search->chunk = chunk;
	}
}

/*
 * smbd's packet goes with its request, which the write may outlive: held, or
 * copied where it is small.
 */
static const uint8_t *data_hold(struct io *io, struct smb_request *smbreq,
				DATA_BLOB data)
{
	struct search search = { .data = data.data };

	if (data.length >= HOLD_LEAST) {
		talloc_report_depth_cb(smbreq->smb2req, 0, 1, on_chunk,
				       &search);
	}
	if (search.chunk != NULL &&
	    talloc_reference(io, search.chunk) != NULL) {
		return data.data;
	}
	return talloc_memdup(io, data.data, data.length);
}

static NTSTATUS io_start(struct io *io, struct smb_request *smbreq,
			 uint64_t offset, bool through)
{
	uint32_t sector = io->open->scsi.geometry.block_size;
	struct scsi_command *c = &io->command;
	bool wait = false;

	/* Its subreq is known when smbd has queued it. */
	io->smbreq = smbreq;
	c->cdb_length = SCSI_CDB_LENGTH;
	c->cdb[0] = io->write ? 0x8A : 0x88;
	c->cdb[1] = through ? 0x08 : 0;
	RSBVAL(c->cdb, 2, offset / sector);
	RSIVAL(c->cdb, 10, io->length / sector);
	if (!guard_set(io, smbreq, io->open->fsp)) {
		talloc_free(io);
		return NT_STATUS_NO_MEMORY;
	}
	io->turn = rsvd_module->turn_take(io, io->open->fsp, io->length,
					  &wait);
	if (!(wait ? turn_start(io) : command_start(io))) {
		talloc_free(io);
		return NT_STATUS_NO_MEMORY;
	}
	io->open->under_way++;
	return NT_STATUS_OK;
}

bool rsvd_read(struct smb_request *smbreq, struct files_struct *fsp,
	       TALLOC_CTX *mem_ctx, DATA_BLOB *data, off_t offset,
	       size_t length, NTSTATUS *_status)
{
	struct rsvd_open *open = rsvd_open_find(fsp);
	struct io *io = NULL;

	if (open == NULL || !open->is_virtual) {
		return false;
	}
	*_status = check(open, smbreq, (uint64_t)offset, length, false);
	if (!NT_STATUS_IS_OK(*_status)) {
		return true;
	}
	io = talloc_zero(NULL, struct io);
	if (io != NULL) {
		/* Not NULL for no bytes at all. */
		io->command.in = talloc_size(io, MAX(length, 1));
	}
	if (io == NULL || io->command.in == NULL) {
		TALLOC_FREE(io);
		*_status = NT_STATUS_NO_MEMORY;
		return true;
	}
	io->open = open;
	io->command.in_size = length;
	io->length = length;
	io->mem_ctx = mem_ctx;
	io->data = data;
	*_status = io_start(io, smbreq, (uint64_t)offset, false);
	return true;
}

bool rsvd_write(struct smb_request *smbreq, struct files_struct *fsp,
		uint64_t offset, DATA_BLOB data, bool through,
		NTSTATUS *_status)
{
	struct rsvd_open *open = rsvd_open_find(fsp);
	struct io *io = NULL;

	if (open == NULL || !open->is_virtual) {
		return false;
	}
	*_status = check(open, smbreq, offset, data.length, true);
	if (!NT_STATUS_IS_OK(*_status)) {
		return true;
	}
	io = talloc_zero(NULL, struct io);
	if (io != NULL) {
		io->command.out = data_hold(io, smbreq, data);
	}
	if (io == NULL || io->command.out == NULL) {
		TALLOC_FREE(io);
		*_status = NT_STATUS_NO_MEMORY;
		return true;
	}
	io->open = open;
	io->write = true;
	io->command.out_length = data.length;
	io->length = data.length;
	*_status = io_start(io, smbreq, offset, through);
	return true;
}
