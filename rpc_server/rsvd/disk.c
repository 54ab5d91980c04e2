/*
 * The image of a shared open as a SCSI disk.
 */
#include "server.h"
#include "step.h"

#include "util/checked.h"

/* How long a command waits for others that change or compare its bytes. */
#define RANGE_PATIENCE_MS 10000
#define RANGE_POLL_US 200
/* For one who holds up the map of changes: another process that stands still. */
#define NOTE_POLL_US 100000

/* ---- a SCSI disk --------------------------------------------------------------------- */

struct step {
	struct rsvd_open *open;
	struct rsvd_image *image;
	struct scsi_io *io;
	uint32_t entry;		/* of the fence, where ranged */
	bool ranged;
	uint64_t until_ms;	/* its patience, once it waits */
	uint64_t turn;		/* of whom it waits for */
	uint8_t *buffer;	/* the ends of an UNMAP */
	uint64_t at;
	uint64_t end;
	uint64_t length;
};

static void step_end(struct step *step, int error)
{
	struct scsi_io *io = step->io;

	if (step->ranged) {
		rsvd_fence_range_exit(step->open->fence, step->entry);
	}
	rsvd_image_put(step->image);
	talloc_free(step);
	io->done(io, error);
}

/* ---- waiting for bytes that others change or compare --------------------------------- */

/* True when its time is over; then for another one. */
static bool patience_ends(struct step *step)
{
	uint64_t now = rsvd_shared_now_ms();
	bool ends = step->until_ms != 0 && now >= step->until_ms;

	if (step->until_ms == 0 || ends) {
		step->until_ms = now + RANGE_PATIENCE_MS;
	}
	return ends;
}

static void wait_for(struct step *step, uint32_t us,
		     tevent_timer_handler_t again)
{
	if (tevent_add_timer(step->open->ev, step,
			     timeval_current_ofs_usec(us), again,
			     step) == NULL) {
		smb_panic("hvrs: no memory for a request");
	}
}

static void exclusive_try(struct step *step);

static void on_exclusive_later(struct tevent_context *ev,
			       struct tevent_timer *timer, struct timeval now,
			       void *private_data)
{
	(void)ev;
	(void)timer;
	(void)now;
	exclusive_try(private_data);
}

/* COMPARE AND WRITE, [SBC-3] 5.2: nobody changes its blocks in between. */
static void exclusive_try(struct step *step)
{
	struct rsvd_fence *fence = step->open->fence;
	int error = 0;

	if (!step->ranged) {
		error = rsvd_fence_exclusive(fence, step->io->offset,
					     step->io->length);
		step->ranged = error == 0;
	}
	if (error == 0) {
		rsvd_shared_look_begin();
		error = rsvd_fence_is_settled(fence) ? 0 : -EAGAIN;
		rsvd_shared_look_end();
	}
	if (error == -EAGAIN && !patience_ends(step)) {
		wait_for(step, RANGE_POLL_US, on_exclusive_later);
		return;
	}
	if (error != 0 && step->ranged) {
		rsvd_fence_release(fence);
	}
	step->ranged = false;
	step_end(step, error == -EAGAIN ? -EBUSY : error);
}

static void on_transfer(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	int error = 0;

	switch (step->io->op) {
	case SCSI_IO_READ:
		error = vhdx_read_recv(req);
		break;
	case SCSI_IO_WRITE:
		error = vhdx_write_recv(req);
		break;
	default:
		error = vhdx_flush_recv(req);
		break;
	}
	TALLOC_FREE(req);
	step_end(step, error);
}

static void on_settled(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	struct scsi_io *io = step->io;
	struct vhdx_extent extent = {};
	int error = vhdx_settle_recv(req);

	TALLOC_FREE(req);
	if (error == 0) {
		error = vhdx_map(step->image->disk, io->offset, io->length,
				 &extent);
	}
	if (error == -EBUSY) {
		/* Others are at it: "mapped" is never wrong to say. */
		extent.kind = VHDX_EXTENT_DATA;
		extent.length = io->length;
		error = 0;
	}
	if (!step->open->scsi.geometry.thin) {
		/* [SBC-3] 5.6: a disk that is not thin has all its blocks. */
		extent.kind = VHDX_EXTENT_DATA;
		extent.length = io->length;
	}
	io->mapped = extent.kind == VHDX_EXTENT_DATA;
	io->length = extent.length;
	step_end(step, error);
}

static void on_later(struct tevent_context *ev, struct tevent_timer *timer,
		     struct timeval now, void *private_data)
{
	struct step *step = private_data;

	(void)ev;
	(void)timer;
	(void)now;
	if (step->io->op == SCSI_IO_EXCLUSIVE) {
		exclusive_try(step);
		return;
	}
	if (step->io->op == SCSI_IO_RELEASE) {
		rsvd_fence_release(step->open->fence);
	}
	step_end(step, 0);
}

/* ---- UNMAP: whole blocks are freed, the rest is written with zeroes ---------------------- */

static void unmap_ends(struct step *step);

static void on_unmapped(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	int error = vhdx_unmap_recv(req);

	TALLOC_FREE(req);
	step_end(step, error);
}

static void on_zeroed(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	int error = vhdx_write_recv(req);

	TALLOC_FREE(req);
	if (error != 0) {
		step_end(step, error);
		return;
	}
	step->at += step->length;
	unmap_ends(step);
}

static void on_end_read(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	int error = vhdx_read_recv(req);

	TALLOC_FREE(req);
	if (error != 0) {
		step_end(step, error);
		return;
	}
	/* What reads as zero already needs no block. */
	if (all_zero(step->buffer, step->length)) {
		step->at += step->length;
		unmap_ends(step);
		return;
	}
	memset(step->buffer, 0, step->length);
	req = vhdx_write_send(step, step->open->ev, step->image->disk,
			      step->buffer, step->at, step->length,
			      step->io->through);
	if (req == NULL) {
		step_end(step, -ENOMEM);
		return;
	}
	tevent_req_set_callback(req, on_zeroed, step);
}

static void unmap_ends(struct step *step)
{
	struct scsi_io *io = step->io;
	struct vhdx_info info = {};
	struct tevent_req *req = NULL;
	uint64_t first = 0;
	uint64_t last = 0;

	vhdx_info_get(step->image->disk, &info);
	/* The blocks that lie in the range as a whole. */
	first = (io->offset + info.block_size - 1) / info.block_size *
		info.block_size;
	last = step->end == info.size ? step->end :
		step->end / info.block_size * info.block_size;
	if (first >= last) {
		first = last = step->end;
	}
	if (step->at == first) {
		step->at = last;
	}
	if (step->at < step->end) {
		step->length = (step->at < first ? first : step->end) -
			step->at;
		step->length = MIN(step->length, 1U << 20);
		req = vhdx_read_send(step, step->open->ev, step->image->disk,
				     step->buffer, step->at, step->length);
		if (req == NULL) {
			step_end(step, -ENOMEM);
			return;
		}
		tevent_req_set_callback(req, on_end_read, step);
		return;
	}
	req = vhdx_unmap_send(step, step->open->ev, step->image->disk,
			      io->offset, io->length);
	if (req == NULL) {
		step_end(step, -ENOMEM);
		return;
	}
	tevent_req_set_callback(req, on_unmapped, step);
}

static bool start_unmap(struct step *step)
{
	if (!step->open->scsi.geometry.unmapped_zero) {
		return false;
	}
	step->buffer = talloc_size(step, 1U << 20);
	if (step->buffer == NULL) {
		return false;
	}
	step->at = step->io->offset;
	step->end = step->io->offset + step->io->length;
	unmap_ends(step);
	return true;
}

static void start(struct step *step);
static void range_and_start(struct step *step);
static void note_and_start(struct step *step);

static void on_note_later(struct tevent_context *ev,
			  struct tevent_timer *timer, struct timeval now,
			  void *private_data)
{
	(void)ev;
	(void)timer;
	(void)now;
	note_and_start(private_data);
}

static void on_noted(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	int error = rsvd_changes_note_recv(req);

	TALLOC_FREE(req);
	if (error == -ETIMEDOUT) {
		/* A process that stands still has the map's lock. */
		wait_for(step, NOTE_POLL_US, on_note_later);
		return;
	}
	if (error != 0) {
		step_end(step, error);
		return;
	}
	range_and_start(step);
}

static void on_refused(struct tevent_context *ev, struct tevent_timer *timer,
		       struct timeval now, void *private_data)
{
	(void)ev;
	(void)timer;
	(void)now;
	step_end(private_data, -EIO);
}

/* Not from inside the submit. */
static void refuse(struct step *step)
{
	if (tevent_add_timer(step->open->ev, step, timeval_zero(), on_refused,
			     step) == NULL) {
		smb_panic("hvrs: no memory for a request");
	}
}

static bool changes_disk(const struct step *step)
{
	switch (step->io->op) {
	case SCSI_IO_WRITE:
		return true;
	case SCSI_IO_UNMAP:
		return step->open->scsi.geometry.unmapped_zero;
	default:
		return false;
	}
}

static void on_range_later(struct tevent_context *ev,
			   struct tevent_timer *timer, struct timeval now,
			   void *private_data)
{
	(void)ev;
	(void)timer;
	(void)now;
	range_and_start(private_data);
}

/* A test stops here who has compared and not written yet. */
static void pass_compared(const struct scsi_io *io)
{
	if (io->exclusive && io->op == SCSI_IO_WRITE) {
		step("rsvd-compared");
	}
}

/* Not while somebody compares these bytes, to write what fits them. */
static void range_and_start(struct step *step)
{
	struct rsvd_fence *fence = step->open->fence;
	struct scsi_io *io = step->io;
	struct rsvd_fence_process owner = {};
	uint64_t turn = 0;
	int ret = 0;

	pass_compared(io);
	if (changes_disk(step) && !io->exclusive) {
		ret = rsvd_fence_range_enter(fence, io->offset, io->length,
					     &step->entry);
		step->ranged = ret == 0;
	}
	if (ret == 0) {
		start(step);
		return;
	}
	if (ret != -EAGAIN) {
		refuse(step);
		return;
	}
	rsvd_shared_look_begin();
	owner = rsvd_fence_owner(fence, &turn);
	rsvd_shared_look_end();
	if (turn != step->turn) {
		step->turn = turn;
		step->until_ms = 0;
	}
	if (patience_ends(step)) {
		rsvd_shared_end_process(step->open->path, &owner,
					"compares what others write");
	}
	wait_for(step, RANGE_POLL_US, on_range_later);
}

/* What changes the disk is noted before it begins, or does not begin. */
static void note_and_start(struct step *step)
{
	struct scsi_io *io = step->io;
	struct tevent_req *req = NULL;
	int ret = 0;

	if (changes_disk(step)) {
		ret = rsvd_changes_note(step->image, io->offset, io->length);
	}
	if (ret == 0) {
		range_and_start(step);
		return;
	}
	if (ret == -ETIMEDOUT) {
		wait_for(step, NOTE_POLL_US, on_note_later);
		return;
	}
	if (ret == -EAGAIN) {
		req = rsvd_changes_note_send(step, step->image, io->offset,
					     io->length);
	}
	if (req != NULL) {
		tevent_req_set_callback(req, on_noted, step);
	} else {
		refuse(step);
	}
}

static void disk_submit(struct scsi_disk *scsi, struct scsi_io *io)
{
	struct rsvd_open *open = scsi->private_data;
	struct step *step = talloc_zero(NULL, struct step);

	if (step == NULL) {
		smb_panic("hvrs: no memory for a request");
	}
	step->open = open;
	step->io = io;
	step->image = open->image;
	rsvd_image_get(step->image);
	note_and_start(step);
}

static void start(struct step *step)
{
	struct rsvd_open *open = step->open;
	struct scsi_io *io = step->io;
	struct tevent_req *req = NULL;

	switch (io->op) {
	case SCSI_IO_READ:
		req = vhdx_read_send(step, open->ev, step->image->disk, io->buffer,
				     io->offset, io->length);
		break;
	case SCSI_IO_WRITE:
		req = vhdx_write_send(step, open->ev, step->image->disk, io->buffer,
				      io->offset, io->length, io->through);
		break;
	case SCSI_IO_FLUSH:
		req = vhdx_flush_send(step, open->ev, step->image->disk);
		break;
	case SCSI_IO_STATUS:
		req = vhdx_settle_send(step, open->ev, step->image->disk);
		break;
	case SCSI_IO_UNMAP:
		if (start_unmap(step)) {
			return;
		}
		break;
	case SCSI_IO_EXCLUSIVE:
	case SCSI_IO_RELEASE:
		break;
	}
	if (req != NULL) {
		tevent_req_set_callback(req, io->op == SCSI_IO_STATUS ?
					on_settled : on_transfer, step);
		return;
	}
	if (tevent_add_timer(open->ev, step, timeval_zero(), on_later,
			     step) == NULL) {
		smb_panic("hvrs: no memory for a request");
	}
}

/* ---- the door ----------------------------------------------------------------------------- */

void rsvd_disk_refresh(struct rsvd_open *open)
{
	struct scsi_geometry *g = &open->scsi.geometry;
	struct vhdx_info info = {};

	vhdx_info_get(open->image->disk, &info);
	g->blocks = info.size / info.logical_sector;
	g->block_size = info.logical_sector;
	g->physical_size = info.physical_sector;
	g->thin = info.type != VHDX_FIXED;
	g->unmapped_zero = g->thin;
	g->unmap_granularity = g->thin ?
		info.block_size / info.logical_sector : 1;
	g->disk_id = info.disk_id;
	g->compare_and_write = true;
}

void rsvd_disk_setup(struct rsvd_open *open)
{
	open->scsi.submit = disk_submit;
	open->scsi.private_data = open;
	open->scsi.geometry.write_cache = !open->through;
	rsvd_disk_refresh(open);
}
