/*
 * Commands that reach the disk: each is cut into steps of one request to it.
 */
#include "scsi/scsi_priv.h"

#include <errno.h>
#include <string.h>
#include <tevent.h>

#include "util/checked.h"
#include "util/zero.h"

/* What is compared, or written over and over, goes in pieces of this. */
#define PIECE_MAX (1U << 20)
/* Extents that one GET LBA STATUS looks at. */
#define STATUS_MAX 1024U

struct job {
	struct tevent_req *req;
	struct scsi_disk *disk;
	struct scsi_command *c;
	struct scsi_io io;
	/* What comes after the request under way; NULL: the end. */
	void (*next)(struct job *job);
	uint64_t offset;		/* bytes of the disk */
	uint64_t left;
	uint64_t done;
	uint8_t *buffer;
	size_t buffer_size;
	size_t descriptor;		/* of UNMAP */
	size_t descriptors;		/* and extents seen of LBA STATUS */
	bool through;
	bool exclusive;
	bool one_block;			/* compared again and again */
};

/* ---- the way of a job --------------------------------------------------------- */

static void job_done(struct job *job)
{
	tevent_req_done(job->req);
}

static void on_released(struct scsi_io *io, int error)
{
	(void)error;
	job_done(io->private_data);
}

static void job_end(struct job *job)
{
	if (job->exclusive) {
		job->exclusive = false;
		job->io = (struct scsi_io) {
			.op = SCSI_IO_RELEASE, .done = on_released,
			.private_data = job,
		};
		job->disk->submit(job->disk, &job->io);
		return;
	}
	job_done(job);
}

static void job_fail(struct job *job, enum scsi_sense sense)
{
	scsi_result_sense(&job->c->result, sense);
	job_end(job);
}

static enum scsi_sense sense_of(const struct scsi_io *io, int error)
{
	switch (error) {
	case -ENOSPC:
	case -EDQUOT:
	case -EFBIG:
		return SCSI_SENSE_SPACE;
	case -EROFS:
		return SCSI_SENSE_PROTECTED;
	case -ENOMEM:
		return SCSI_SENSE_INTERNAL;
	case -ECANCELED:
		return SCSI_SENSE_ABORTED;
	}
	return io->op == SCSI_IO_READ || io->op == SCSI_IO_STATUS ?
		SCSI_SENSE_READ_ERROR : SCSI_SENSE_WRITE_ERROR;
}

static void on_io(struct scsi_io *io, int error)
{
	struct job *job = io->private_data;

	if (error == -EBUSY && io->op == SCSI_IO_EXCLUSIVE) {
		scsi_result_status(&job->c->result, SCSI_BUSY);
		job_end(job);
		return;
	}
	if (error != 0) {
		uint64_t lba = io->offset / job->disk->geometry.block_size;

		scsi_result_sense_at(&job->c->result, sense_of(io, error),
				     lba);
		job_end(job);
		return;
	}
	if (job->next == NULL) {
		job_end(job);
		return;
	}
	job->next(job);
}

/* One request to the disk; next runs when it went well. */
static void job_io(struct job *job, enum scsi_io_op op, uint8_t *buffer,
		   uint64_t offset, uint64_t length,
		   void (*next)(struct job *job))
{
	job->next = next;
	job->io = (struct scsi_io) {
		.op = op, .buffer = buffer, .offset = offset,
		.length = length, .through = job->through,
		.exclusive = job->exclusive, .done = on_io,
		.private_data = job,
	};
	job->disk->submit(job->disk, &job->io);
}

/* Writes only read what they are given. */
static uint8_t *unconst(const uint8_t *bytes)
{
	union {
		const uint8_t *from;
		uint8_t *to;
	} both = { .from = bytes };

	return both.to;
}

static bool job_buffer(struct job *job, uint64_t size)
{
	job->buffer_size = (size_t)(size < PIECE_MAX ? size : PIECE_MAX);
	job->buffer = talloc_size(job, job->buffer_size);
	if (job->buffer == NULL) {
		job_fail(job, SCSI_SENSE_INTERNAL);
		return false;
	}
	return true;
}

/* ---- the range of a command ------------------------------------------------------ */

struct range {
	uint64_t lba;
	uint64_t count;
};

/* By the length that the opcode's group code says, [SPC-4] 4.3.5.1. */
static struct range range_get(const uint8_t *cdb)
{
	struct range r = {};

	switch (cdb[0] >> 5) {
	case 0:
		r.lba = scsi_get32(cdb) & 0x1FFFFF;
		r.count = cdb[4] != 0 ? cdb[4] : 256;
		break;
	case 1:
	case 2:
		r.lba = scsi_get32(cdb + 2);
		r.count = scsi_get16(cdb + 7);
		break;
	case 5:
		r.lba = scsi_get32(cdb + 2);
		r.count = scsi_get32(cdb + 6);
		break;
	default:
		r.lba = scsi_get64(cdb + 2);
		r.count = scsi_get32(cdb + 10);
		break;
	}
	return r;
}

/* Fills offset and left; false, with the answer given, for a bad range. */
static bool job_range(struct job *job, const struct range *r)
{
	const struct scsi_geometry *g = &job->disk->geometry;

	if (!checked_inside(r->lba, r->count, g->blocks)) {
		job_fail(job, SCSI_SENSE_RANGE);
		return false;
	}
	job->offset = r->lba * g->block_size;
	job->left = r->count * g->block_size;
	return true;
}

static bool job_may_write(struct job *job)
{
	if (job->disk->geometry.read_only) {
		job_fail(job, SCSI_SENSE_PROTECTED);
		return false;
	}
	return true;
}

/* RDPROTECT and its like: no protection information here. */
static bool job_unprotected(struct job *job)
{
	if (job->c->cdb[0] >= 0x20 && (job->c->cdb[1] & 0xE0) != 0) {
		job_fail(job, SCSI_SENSE_CDB);
		return false;
	}
	return true;
}

/* ---- READ and WRITE, [SBC-3] 5.8ff ---------------------------------------------- */

static void read_end(struct job *job)
{
	job->c->result.length = job->io.length;
	job_end(job);
}

static void start_read(struct job *job)
{
	struct scsi_command *c = job->c;
	struct range r = range_get(c->cdb);
	uint64_t length = 0;

	if (!job_unprotected(job) || !job_range(job, &r)) {
		return;
	}
	length = job->left;
	if (length > c->in_size) {
		length = c->in_size -
			c->in_size % job->disk->geometry.block_size;
	}
	if (length == 0) {
		job_end(job);
		return;
	}
	job_io(job, SCSI_IO_READ, c->in, job->offset, length, read_end);
}

static void start_write(struct job *job)
{
	struct scsi_command *c = job->c;
	struct range r = range_get(c->cdb);
	uint8_t group = c->cdb[0] & 0x1F;

	/* FUA; and WRITE AND VERIFY is stable when it is done. */
	job->through = !job->disk->geometry.write_cache || group == 0x0E ||
		(c->cdb[0] >= 0x20 && (c->cdb[1] & 0x08) != 0);
	if (!job_unprotected(job) || !job_range(job, &r) ||
	    !job_may_write(job)) {
		return;
	}
	if (c->out_length < job->left) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	if (job->left == 0) {
		job_end(job);
		return;
	}
	job_io(job, SCSI_IO_WRITE, unconst(c->out), job->offset, job->left,
	       NULL);
}

/* ---- VERIFY and COMPARE AND WRITE ---------------------------------------------- */

static void verify_step(struct job *job);

/* Where two ranges differ, or length. */
static size_t mismatch(const uint8_t *a, const uint8_t *b, size_t length)
{
	size_t i = 0;

	if (memcmp(a, b, length) == 0) {
		return length;
	}
	while (a[i] == b[i]) {
		i++;
	}
	return i;
}

static void verify_compare(struct job *job)
{
	size_t length = (size_t)job->io.length;
	size_t block = job->disk->geometry.block_size;
	size_t at = 0;

	while (job->c->out != NULL && at < length) {
		size_t part = job->one_block ? block : length;
		const uint8_t *with = job->c->out +
			(job->one_block ? 0 : job->done);
		size_t same = mismatch(job->buffer + at, with, part);

		if (same < part) {
			scsi_result_sense_at(&job->c->result,
					     SCSI_SENSE_MISCOMPARE,
					     job->done + at + same);
			job_end(job);
			return;
		}
		at += part;
	}
	job->offset += length;
	job->left -= length;
	job->done += length;
	verify_step(job);
}

static void compare_written(struct job *job)
{
	job_end(job);
}

static void verify_step(struct job *job)
{
	uint64_t part = job->left;

	if (part == 0) {
		if (job->exclusive) {
			/* COMPARE AND WRITE: the second half of the data. */
			job_io(job, SCSI_IO_WRITE,
			       unconst(job->c->out) + job->done,
			       job->offset - job->done, job->done,
			       compare_written);
			return;
		}
		job_end(job);
		return;
	}
	if (part > job->buffer_size) {
		part = job->buffer_size;
	}
	job_io(job, SCSI_IO_READ, job->buffer, job->offset, part,
	       verify_compare);
}

static void start_verify(struct job *job)
{
	struct scsi_command *c = job->c;
	struct range r = range_get(c->cdb);
	unsigned compare = c->cdb[1] >> 1 & 3;
	uint64_t wanted = 0;

	if (!job_unprotected(job) || !job_range(job, &r)) {
		return;
	}
	if (compare == 2) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	job->one_block = compare == 3;
	wanted = compare == 1 ? job->left : 0;
	if (compare == 3 && job->left > 0) {
		wanted = job->disk->geometry.block_size;
	}
	if (c->out_length < wanted) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	if (compare == 0) {
		c->out = NULL;
	}
	if (job->left == 0) {
		job_end(job);
		return;
	}
	if (job_buffer(job, job->left)) {
		verify_step(job);
	}
}

static void compare_locked(struct job *job)
{
	job->exclusive = true;
	verify_step(job);
}

/* [SBC-3] 5.2 */
static void start_compare(struct job *job)
{
	struct scsi_command *c = job->c;
	struct range r = { scsi_get64(c->cdb + 2), c->cdb[13] };

	if (!job->disk->geometry.compare_and_write) {
		job_fail(job, SCSI_SENSE_OPCODE);
		return;
	}
	job->through = !job->disk->geometry.write_cache ||
		(c->cdb[1] & 0x08) != 0;
	if (!job_unprotected(job) || !job_range(job, &r) ||
	    !job_may_write(job)) {
		return;
	}
	if (c->out_length != 2 * job->left) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	if (job->left == 0) {
		job_end(job);
		return;
	}
	if (job_buffer(job, job->left)) {
		job_io(job, SCSI_IO_EXCLUSIVE, NULL, job->offset, job->left,
		       compare_locked);
	}
}

/* ---- WRITE SAME and UNMAP -------------------------------------------------------- */

static void same_step(struct job *job)
{
	uint64_t part = job->left;

	if (part == 0) {
		job_end(job);
		return;
	}
	if (part > job->buffer_size) {
		part = job->buffer_size;
	}
	job->offset += part;
	job->left -= part;
	job_io(job, SCSI_IO_WRITE, job->buffer, job->offset - part, part,
	       same_step);
}

/* [SBC-3] 5.41 and 5.42 */
static void start_same(struct job *job)
{
	struct scsi_command *c = job->c;
	struct range r = range_get(c->cdb);
	uint32_t block = job->disk->geometry.block_size;
	bool no_data = c->cdb[0] == 0x93 && (c->cdb[1] & 0x01) != 0;
	size_t i = 0;

	job->through = !job->disk->geometry.write_cache;
	/* ANCHOR, and the PBDATA and LBDATA of old; NDOB is of 16 only. */
	if ((c->cdb[1] & 0x16) != 0 ||
	    (c->cdb[0] == 0x41 && (c->cdb[1] & 0x01) != 0)) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	if (!job_unprotected(job)) {
		return;
	}
	if (r.count == 0 || r.count > SCSI_WRITE_SAME_MAX / block) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	if (!job_range(job, &r) || !job_may_write(job)) {
		return;
	}
	if (!no_data && c->out_length != block) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	if ((c->cdb[1] & 0x08) != 0 && job->disk->geometry.unmapped_zero &&
	    (no_data || is_zero(c->out, block))) {
		job_io(job, SCSI_IO_UNMAP, NULL, job->offset, job->left, NULL);
		return;
	}
	if (!job_buffer(job, job->left)) {
		return;
	}
	for (i = 0; i < job->buffer_size; i += block) {
		if (no_data) {
			memset(job->buffer + i, 0, block);
		} else {
			memcpy(job->buffer + i, c->out, block);
		}
	}
	same_step(job);
}

static void unmap_step(struct job *job)
{
	uint32_t block = job->disk->geometry.block_size;

	while (job->descriptor < job->descriptors) {
		const uint8_t *d = job->c->out + 8 + 16 * job->descriptor;
		uint64_t count = scsi_get32(d + 8);

		job->descriptor++;
		if (count > 0) {
			job_io(job, SCSI_IO_UNMAP, NULL,
			       scsi_get64(d) * block, count * block,
			       unmap_step);
			return;
		}
	}
	job_end(job);
}

/* [SBC-3] 5.28: all of the list is looked at before any of it is done. */
static void start_unmap(struct job *job)
{
	struct scsi_command *c = job->c;
	size_t length = scsi_get16(c->cdb + 7);
	size_t bytes = 0;
	size_t i = 0;

	job->through = !job->disk->geometry.write_cache;
	if ((c->cdb[1] & 0x01) != 0) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	if (length == 0) {
		job_end(job);
		return;
	}
	if (length < 8 || c->out_length < length) {
		job_fail(job, SCSI_SENSE_LIST_LENGTH);
		return;
	}
	bytes = scsi_get16(c->out + 2);
	if (bytes > length - 8) {
		/* What did not come is not done. */
		job_fail(job, SCSI_SENSE_LIST_LENGTH);
		return;
	}
	if (bytes / 16 > SCSI_UNMAP_MAX || bytes % 16 != 0) {
		job_fail(job, SCSI_SENSE_LIST);
		return;
	}
	for (i = 0; i < bytes / 16; i++) {
		const uint8_t *d = c->out + 8 + 16 * i;

		if (!checked_inside(scsi_get64(d), scsi_get32(d + 8),
				    job->disk->geometry.blocks)) {
			job_fail(job, SCSI_SENSE_RANGE);
			return;
		}
	}
	if (!job_may_write(job)) {
		return;
	}
	job->descriptors = bytes / 16;
	unmap_step(job);
}

/* ---- GET LBA STATUS, [SBC-3] 5.6 -------------------------------------------------- */

static void status_found(struct job *job);

static void status_step(struct job *job)
{
	size_t room = job->buffer_size - (size_t)job->done;

	/* Fewer blocks than asked for may be told; a huge disk takes long. */
	if (job->left == 0 || room < 16 || job->descriptors++ >= STATUS_MAX) {
		scsi_put32(job->buffer, (uint32_t)(job->done - 4));
		scsi_reply(job->c, job->buffer, (size_t)job->done,
			   job->buffer_size);
		job_end(job);
		return;
	}
	job_io(job, SCSI_IO_STATUS, NULL, job->offset, job->left,
	       status_found);
}

static void status_found(struct job *job)
{
	uint32_t block = job->disk->geometry.block_size;
	uint64_t length = job->io.length;
	uint8_t status = job->io.mapped ? 0 : 1;
	uint8_t *d = job->buffer + job->done - 16;
	bool joined = false;

	if (length == 0 || length > job->left || length % block != 0) {
		job_fail(job, SCSI_SENSE_INTERNAL);
		return;
	}
	if (length / block > UINT32_MAX) {
		length = (uint64_t)UINT32_MAX * block;
	}
	if (job->done > 8 && d[12] == status &&
	    scsi_get32(d + 8) + length / block <= UINT32_MAX) {
		scsi_put32(d + 8, (uint32_t)(scsi_get32(d + 8) +
					     length / block));
		joined = true;
	}
	if (!joined) {
		d = job->buffer + job->done;
		memset(d, 0, 16);
		scsi_put64(d, job->offset / block);
		scsi_put32(d + 8, (uint32_t)(length / block));
		d[12] = status;
		job->done += 16;
	}
	job->offset += length;
	job->left -= length;
	status_step(job);
}

static void start_status(struct job *job)
{
	const struct scsi_geometry *g = &job->disk->geometry;
	uint64_t lba = scsi_get64(job->c->cdb + 2);
	uint32_t allocated = scsi_get32(job->c->cdb + 10);

	if (allocated < 24) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	if (lba >= g->blocks) {
		job_fail(job, SCSI_SENSE_RANGE);
		return;
	}
	/* A full table of descriptors is no use to anybody. */
	if (!job_buffer(job, allocated < 8 + 16 * 256 ? allocated
						       : 8 + 16 * 256)) {
		return;
	}
	memset(job->buffer, 0, 8);
	job->done = 8;
	job->offset = lba * g->block_size;
	job->left = (g->blocks - lba) * g->block_size;
	status_step(job);
}

/* ---- flushes, and what asks for little --------------------------------------------- */

static void job_flush(struct job *job)
{
	if (job->disk->geometry.read_only) {
		job_end(job);
		return;
	}
	job_io(job, SCSI_IO_FLUSH, NULL, 0, 0, NULL);
}

static void start_sync(struct job *job)
{
	struct range r = range_get(job->c->cdb);

	if (job_range(job, &r)) {
		job_flush(job);
	}
}

static void start_stop(struct job *job)
{
	const uint8_t *cdb = job->c->cdb;

	if ((cdb[1] & 0x01) != 0) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	if ((cdb[4] & 0xF1) == 0) {
		job_flush(job);
		return;
	}
	job_end(job);
}

static void start_diagnostic(struct job *job)
{
	const uint8_t *cdb = job->c->cdb;

	if ((cdb[1] & ~0x04) != 0 || scsi_get16(cdb + 3) != 0) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	job_end(job);
}

static void start_format(struct job *job)
{
	if (job_may_write(job)) {
		job_end(job);
	}
}

static void start_capacity16(struct job *job)
{
	if ((job->c->cdb[1] & 0x1F) == 0x12) {
		start_status(job);
		return;
	}
	scsi_read_capacity(&job->disk->geometry, job->c);
	job_end(job);
}

/* Commands that look at the geometry alone. */
static void start_plain(struct job *job)
{
	const struct scsi_geometry *g = &job->disk->geometry;
	struct scsi_command *c = job->c;

	switch (c->cdb[0]) {
	case 0x03:
		scsi_request_sense(c);
		break;
	case 0x12:
		scsi_inquiry(g, c);
		break;
	case 0x15:
	case 0x55:
		scsi_mode_select(g, c);
		break;
	case 0x1A:
	case 0x5A:
		scsi_mode_sense(g, c);
		break;
	case 0x25:
		scsi_read_capacity(g, c);
		break;
	case 0xA0:
		scsi_report_luns(c);
		break;
	case 0xA3:
		scsi_report_opcodes(g, c);
		break;
	}
	job_end(job);
}

static const struct {
	uint8_t opcode;
	void (*start)(struct job *job);
} starts[] = {
	{ 0x00, job_end }, { 0x1E, job_end }, { 0x04, start_format },
	{ 0x1B, start_stop }, { 0x1D, start_diagnostic },
	{ 0x03, start_plain }, { 0x12, start_plain }, { 0x15, start_plain },
	{ 0x55, start_plain }, { 0x1A, start_plain }, { 0x5A, start_plain },
	{ 0x25, start_plain }, { 0xA0, start_plain }, { 0xA3, start_plain },
	{ 0x9E, start_capacity16 },
	{ 0x08, start_read }, { 0x28, start_read }, { 0xA8, start_read },
	{ 0x88, start_read },
	{ 0x0A, start_write }, { 0x2A, start_write }, { 0xAA, start_write },
	{ 0x8A, start_write }, { 0x2E, start_write }, { 0xAE, start_write },
	{ 0x8E, start_write },
	{ 0x2F, start_verify }, { 0xAF, start_verify },
	{ 0x8F, start_verify },
	{ 0x35, start_sync }, { 0x91, start_sync },
	{ 0x41, start_same }, { 0x93, start_same }, { 0x42, start_unmap },
	{ 0x89, start_compare },
};

/* ---- the door ------------------------------------------------------------------------ */

static void job_start(struct job *job)
{
	struct scsi_command *c = job->c;
	const struct scsi_command_row *row = scsi_command_find(c->cdb);
	size_t i = 0;

	scsi_result_status(&c->result, SCSI_GOOD);
	if (row == NULL) {
		job_fail(job, SCSI_SENSE_OPCODE);
		return;
	}
	/* NACA of the CONTROL byte, and bytes that are not there. */
	if (c->cdb_length < row->length ||
	    (c->cdb[row->length - 1] & 0x04) != 0) {
		job_fail(job, SCSI_SENSE_CDB);
		return;
	}
	for (i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
		if (starts[i].opcode == c->cdb[0]) {
			starts[i].start(job);
			return;
		}
	}
	job_fail(job, SCSI_SENSE_OPCODE);
}

struct tevent_req *scsi_execute_send(TALLOC_CTX *mem_ctx,
				     struct tevent_context *ev,
				     struct scsi_disk *disk,
				     struct scsi_command *command)
{
	struct tevent_req *req = NULL;
	struct job *job = NULL;

	req = tevent_req_create(mem_ctx, &job, struct job);
	if (req == NULL) {
		return NULL;
	}
	job->req = req;
	job->disk = disk;
	job->c = command;
	job_start(job);
	if (!tevent_req_is_in_progress(req)) {
		return tevent_req_post(req, ev);
	}
	return req;
}

int scsi_execute_recv(struct tevent_req *req)
{
	enum tevent_req_state state = TEVENT_REQ_INIT;
	uint64_t error = 0;
	int ret = tevent_req_is_error(req, &state, &error) ? -ENOMEM : 0;

	tevent_req_received(req);
	return ret;
}
