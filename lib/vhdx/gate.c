/*
 * The gate before every change of the table.
 *
 * A disk that one process has alone: it opens once, when the session's
 * DataWriteGuid is stable ([MS-VHDX] 2.2.2: before the first change), and stays
 * open; changes are committed when somebody flushes or many have gathered.
 *
 * A shared disk: it opens for a turn, under the share's lock.  Pieces that
 * come while it is open join the turn.  When the last of them is through, what
 * they changed is logged and applied, the generation is raised, the lock given
 * back, and only then are they done.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>

static void gate_kick(struct vhdx *disk);
static void gate_settle(struct vhdx *disk);

bool vhdx_gate_enter(struct vhdx *disk, struct vhdx_wait *wait, bool change)
{
	struct vhdx_gate *gate = &disk->gate;

	if (wait->inside || (!change && disk->data_session)) {
		return true;
	}
	if (disk->share == NULL && gate->state == VHDX_GATE_SHUT &&
	    disk->data_session) {
		/*
		 * A resize or a repair wrote the DataWriteGuid.  Kicking would
		 * wake wait from in here, while its owner takes it for queued.
		 */
		gate->state = VHDX_GATE_OPEN;
	}
	if (disk->share == NULL && gate->state == VHDX_GATE_OPEN) {
		return true;
	}
	if (gate->state == VHDX_GATE_OPEN && change &&
	    gate->turn < VHDX_BATCH_MAX) {
		wait->inside = true;
		gate->inside++;
		gate->turn++;
		return true;
	}
	vhdx_queue_add(&gate->queue, wait);
	gate_kick(disk);
	return false;
}

void vhdx_gate_exit(struct vhdx *disk, struct vhdx_wait *wait)
{
	if (wait->inside) {
		wait->inside = false;
		disk->gate.inside--;
		gate_settle(disk);
	}
}

bool vhdx_gate_finish(struct vhdx *disk, struct vhdx_wait *wait)
{
	if (disk->share == NULL) {
		return false;
	}
	vhdx_queue_add(&disk->gate.finished, wait);
	wait->inside = false;
	disk->gate.inside--;
	gate_settle(disk);
	return true;
}

bool vhdx_gate_join(struct vhdx *disk, struct vhdx_wait *wait)
{
	struct vhdx_gate *gate = &disk->gate;

	if (disk->share == NULL || (gate->state != VHDX_GATE_OPEN &&
				    gate->state != VHDX_GATE_CLOSING)) {
		return false;
	}
	vhdx_queue_add(&gate->finished, wait);
	return true;
}

/* Tells all that wait that it cannot be. */
static void gate_fail(struct vhdx *disk, int result)
{
	struct vhdx_queue queue = {};

	disk->gate.state = VHDX_GATE_SHUT;
	vhdx_queue_move(&queue, &disk->gate.finished);
	vhdx_queue_move(&queue, &disk->gate.queue);
	vhdx_queue_wake(&queue, result);
}

static void gate_open(struct vhdx *disk)
{
	struct vhdx_gate *gate = &disk->gate;
	struct vhdx_queue queue = {};

	gate->state = VHDX_GATE_OPEN;
	gate->turn = 0;
	vhdx_queue_move(&queue, &gate->queue);
	gate->waking = true;
	vhdx_queue_wake(&queue, 0);
	gate->waking = false;
	gate_settle(disk);
}

/* ---- the header of a session ---------------------------------------------- */

static void on_header_flushed(struct store_io *io, int result)
{
	struct vhdx *disk = io->private_data;

	if (result != 0) {
		disk->broken = result;
		if (disk->share != NULL) {
			disk->share->ops->unlock(disk->share);
		}
		gate_fail(disk, result);
		return;
	}
	vhdx_header_done(disk, &disk->gate.header);
	disk->session = true;
	disk->data_session = true;
	gate_open(disk);
}

static void on_header_written(struct store_io *io, int result)
{
	struct vhdx *disk = io->private_data;

	if (result != 0) {
		on_header_flushed(io, result);
		return;
	}
	*io = (struct store_io) {
		.op = STORE_FLUSH, .done = on_header_flushed,
		.private_data = disk,
	};
	store_submit(disk->store, io);
}

static void header_start(struct vhdx *disk)
{
	struct vhdx_gate *gate = &disk->gate;
	uint64_t offset = 0;
	int ret = 0;

	if (disk->data_session) {
		gate_open(disk);
		return;
	}
	gate->state = VHDX_GATE_HEADER;
	gate->io = (struct store_io) { .private_data = disk };
	ret = vhdx_session_header(disk, true, &gate->header);
	if (ret != 0) {
		on_header_flushed(&gate->io, ret);
		return;
	}
	vhdx_header_next(disk, &gate->header, gate->bytes, &offset);
	gate->io = (struct store_io) {
		.op = STORE_WRITE, .buffer = gate->bytes, .offset = offset,
		.length = VHDX_HEADER_SIZE, .done = on_header_written,
		.private_data = disk,
	};
	store_submit(disk->store, &gate->io);
}

/* ---- the lock ------------------------------------------------------------- */

static void on_locked(void *engine, int result)
{
	struct vhdx *disk = engine;

	if (result == 0) {
		result = vhdx_share_enter(disk, NULL);
	}
	if (result != 0) {
		gate_fail(disk, result);
		return;
	}
	header_start(disk);
}

static void gate_kick(struct vhdx *disk)
{
	struct vhdx_gate *gate = &disk->gate;

	if (gate->state != VHDX_GATE_SHUT) {
		return;
	}
	if (disk->share == NULL) {
		header_start(disk);
		return;
	}
	gate->state = VHDX_GATE_LOCKING;
	disk->share->ops->lock(disk->share, on_locked, disk);
}

/* The turn's changes are applied, or there were none: the others may go on. */
static void turn_end(struct vhdx *disk, bool changed, int result)
{
	struct vhdx_gate *gate = &disk->gate;
	struct vhdx_queue finished = {};
	int ret = 0;

	if (result != 0) {
		/*
		 * The record still says that a turn is under way, so the next
		 * process repairs what this one could not.
		 */
		disk->share->ops->unlock(disk->share);
		gate_fail(disk, result);
		return;
	}
	ret = vhdx_share_unlock(disk, changed, false);
	gate->state = VHDX_GATE_SHUT;
	vhdx_queue_move(&finished, &gate->finished);
	vhdx_queue_wake(&finished, ret);
	if (gate->queue.first != NULL) {
		gate_kick(disk);
	}
}

static void gate_settle(struct vhdx *disk)
{
	struct vhdx_gate *gate = &disk->gate;

	if (disk->share == NULL || gate->state != VHDX_GATE_OPEN ||
	    gate->waking || gate->inside > 0) {
		return;
	}
	gate->state = VHDX_GATE_CLOSING;
	if (disk->pages.dirty > 0) {
		vhdx_commit_ask(disk, NULL);
		return;
	}
	turn_end(disk, false, 0);
}

void vhdx_gate_committed(struct vhdx *disk, int result)
{
	if (disk->share != NULL && disk->gate.state == VHDX_GATE_CLOSING) {
		turn_end(disk, true, result);
	}
}

int vhdx_gate_refresh(struct vhdx *disk)
{
	struct vhdx_gate *gate = &disk->gate;
	const char *why = NULL;
	uint64_t generation = 0;
	uint64_t before = gate->generation;
	int ret = 0;

	if (disk->share == NULL || gate->state >= VHDX_GATE_HEADER) {
		return 0;
	}
	ret = disk->share->ops->generation(disk->share, &generation);
	if (ret != 0 || generation == before) {
		return ret;
	}
	gate->generation = generation;
	vhdx_pages_forget(disk);
	/* The upper bits count changes of the layout. */
	if (generation >> 48 != before >> 48) {
		ret = vhdx_load_regions(disk, &why);
		if (ret == 0) {
			ret = vhdx_load_metadata(disk, &why);
		}
	}
	return ret;
}
