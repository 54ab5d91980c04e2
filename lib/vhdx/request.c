/*
 * Requests: cut into pieces of one block each, a bounded number of them under
 * way; reads; flushes; and the doors of all.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>
#include <tevent.h>

#include "util/checked.h"

/* Requests of one piece that are kept to be used again. */
#define SPARE_MAX 64

static void request_cut(struct vhdx_request *r);

/* ---- the end -------------------------------------------------------------- */

static void request_done(struct vhdx_request *r, int result)
{
	struct vhdx *disk = r->disk;
	struct vhdx_io *io = r->asked;

	disk->requests--;
	if (r->piece_count == 1 && disk->spare_count < SPARE_MAX) {
		r->spare_next = disk->spare;
		disk->spare = r;
		disk->spare_count++;
	} else {
		talloc_free(r);
	}
	io->done(io, result);
}

static void on_committed(struct vhdx_wait *wait, int result)
{
	struct vhdx_request *r =
		(struct vhdx_request *)((char *)wait -
					offsetof(struct vhdx_request, wait));

	request_done(r, result);
}

static void on_flushed(struct store_io *io, int result)
{
	struct vhdx_request *r = io->private_data;

	if (result != 0) {
		/*
		 * The kernel tells this once and drops what it could not
		 * write: the next flush would falsely succeed.
		 */
		r->disk->broken = result;
	}
	request_done(r, result);
}

/* Whether the table has changes that are not in the file yet. */
static bool is_changing(const struct vhdx *disk)
{
	return disk->pages.dirty > 0 || disk->commit.running;
}

static void request_flush(struct vhdx_request *r)
{
	struct vhdx *disk = r->disk;

	/* A shared disk commits before it calls a change done. */
	if (disk->share == NULL && is_changing(disk)) {
		r->wait = (struct vhdx_wait) { .wake = on_committed };
		vhdx_commit_ask(disk, &r->wait);
		return;
	}
	r->io = (struct store_io) {
		.op = STORE_FLUSH, .done = on_flushed, .private_data = r,
	};
	store_submit(disk->store, &r->io);
}

static void request_pieces_done(struct vhdx_request *r)
{
	if (r->op == VHDX_SETTLE && r->disk->commit.running) {
		r->wait = (struct vhdx_wait) { .wake = on_committed };
		vhdx_queue_add(&r->disk->commit.settled, &r->wait);
		return;
	}
	if (r->result == 0 && r->through) {
		request_flush(r);
		return;
	}
	request_done(r, r->result);
}

/* ---- pieces --------------------------------------------------------------- */

void vhdx_piece_end(struct vhdx_piece *piece, int result)
{
	struct vhdx_request *r = piece->request;

	if (result != 0 && r->result == 0) {
		r->result = result;
	}
	r->idle |= 1U << (piece - r->pieces);
	r->under_way--;
	request_cut(r);
}

static void on_read(struct store_io *io, int result);

static void piece_read(struct vhdx_piece *piece)
{
	struct vhdx_request *r = piece->request;

	while (piece->at < piece->end) {
		uint8_t *to = r->buffer + (piece->at - r->offset);
		uint64_t length = piece->end - piece->at;
		enum vhdx_place place = VHDX_PLACE_ZERO;
		uint64_t file_offset = 0;
		struct vhdx *holder = NULL;
		unsigned depth = 0;
		int ret = vhdx_map_chain(r->disk, piece->at, &length,
					 &piece->wait, &place, &file_offset,
					 &holder, &depth);

		if (ret == -EINPROGRESS) {
			return;
		}
		if (ret != 0) {
			vhdx_piece_end(piece, ret);
			return;
		}
		piece->at += length;
		if (place == VHDX_PLACE_ZERO) {
			memset(to, 0, length);
			continue;
		}
		piece->io = (struct store_io) {
			.op = STORE_READ, .buffer = to,
			.offset = file_offset, .length = length,
			.done = on_read, .private_data = piece,
		};
		store_submit(holder->store, &piece->io);
		return;
	}
	vhdx_piece_end(piece, 0);
}

static void on_read(struct store_io *io, int result)
{
	struct vhdx_piece *piece = io->private_data;

	if (result != 0) {
		vhdx_piece_end(piece, result);
		return;
	}
	piece_read(piece);
}

/* Whoever takes a turn repairs what a dead process left of its own. */
static void piece_recover(struct vhdx_piece *piece)
{
	struct vhdx *disk = piece->request->disk;

	if (disk->share != NULL) {
		if (!vhdx_gate_enter(disk, &piece->wait, true)) {
			return;
		}
		vhdx_gate_exit(disk, &piece->wait);
	}
	vhdx_piece_end(piece, 0);
}

static void piece_go(struct vhdx_piece *piece)
{
	switch (piece->request->op) {
	case VHDX_READ:
		piece_read(piece);
		return;
	case VHDX_WRITE:
		vhdx_piece_write(piece);
		return;
	case VHDX_UNMAP:
		vhdx_piece_unmap(piece);
		return;
	case VHDX_RECOVER:
		piece_recover(piece);
		return;
	case VHDX_FLUSH:
	case VHDX_SETTLE:
		vhdx_piece_end(piece, 0);
		return;
	}
}

static void on_wake(struct vhdx_wait *wait, int result)
{
	struct vhdx_piece *piece =
		(struct vhdx_piece *)((char *)wait -
				      offsetof(struct vhdx_piece, wait));

	if (result != 0) {
		vhdx_gate_exit(piece->request->disk, wait);
		vhdx_piece_end(piece, result);
		return;
	}
	piece_go(piece);
}

/* Only what is used: to clear all of it takes longer than to find a block. */
static void piece_init(struct vhdx_piece *piece, struct vhdx_request *r,
		       uint64_t end)
{
	piece->wait = (struct vhdx_wait) { .wake = on_wake };
	piece->request = r;
	piece->at = r->next;
	piece->end = end;
	piece->block = r->next >> r->disk->geometry.block_shift;
	if (r->op == VHDX_WRITE || r->op == VHDX_UNMAP) {
		vhdx_piece_change_init(piece);
	}
}

/*
 * Gives idle pieces the next blocks.  A piece that ends at once comes back
 * here through vhdx_piece_end(); the flag keeps that a loop, not a recursion.
 */
static void request_cut(struct vhdx_request *r)
{
	const struct vhdx_geometry *g = &r->disk->geometry;

	if (r->cutting) {
		return;
	}
	r->cutting = true;
	while (r->next < r->end && r->idle != 0 && r->result == 0) {
		unsigned i = (unsigned)__builtin_ctz(r->idle);
		struct vhdx_piece *piece = &r->pieces[i];
		uint64_t rest = g->block_size -
			(r->next & (g->block_size - 1));

		if (rest > r->end - r->next) {
			rest = r->end - r->next;
		}
		piece_init(piece, r, r->next + rest);
		r->next += rest;
		r->idle &= ~(1U << i);
		r->under_way++;
		piece_go(piece);
	}
	r->cutting = false;
	if (r->under_way == 0) {
		request_pieces_done(r);
	}
}

/* ---- requests in one place ------------------------------------------------- */

static void on_whole(struct store_io *whole, int result)
{
	struct vhdx_io *io = whole->private_data;

	io->disk->requests--;
	io->done(io, result);
}

/*
 * Where all of a write lies, if nobody has to be asked: the session has its
 * DataWriteGuid, and of a shared disk nothing is changed that others cannot
 * see yet.
 */
static int map_whole_write(struct vhdx *disk, uint64_t offset,
			   uint64_t *_length, enum vhdx_place *_place,
			   uint64_t *_file_offset)
{
	if (!disk->data_session ||
	    (disk->share != NULL && is_changing(disk))) {
		return -EBUSY;
	}
	return vhdx_map_file(disk, offset, _length, &vhdx_wait_never, _place,
			     _file_offset);
}

/*
 * Most requests lie in one place that is known already: they need nothing of
 * the disk's.  False when this one does not; nothing has happened then.
 */
static bool request_whole(struct vhdx *disk, struct vhdx_io *io)
{
	uint64_t length = io->length;
	enum vhdx_place place = VHDX_PLACE_ZERO;
	uint64_t file_offset = 0;
	struct vhdx *holder = disk;
	unsigned depth = 0;
	int ret = io->op == VHDX_READ ?
		vhdx_map_chain(disk, io->offset, &length, &vhdx_wait_never,
			       &place, &file_offset, &holder, &depth) :
		map_whole_write(disk, io->offset, &length, &place,
				&file_offset);

	if (ret != 0 || place != VHDX_PLACE_FILE || length != io->length) {
		return false;
	}
	io->disk = disk;
	/* Field by field: to clear the rest as well takes twice as long. */
	io->whole.op = io->op == VHDX_READ ? STORE_READ : STORE_WRITE;
	io->whole.buffer = io->buffer;
	io->whole.offset = file_offset;
	io->whole.length = length;
	io->whole.done = on_whole;
	io->whole.private_data = io;
	disk->requests++;
	store_submit(holder->store, &io->whole);
	return true;
}

/* ---- the doors ------------------------------------------------------------ */

static int request_check(const struct vhdx *disk, const struct vhdx_io *io)
{
	const struct vhdx_geometry *g = &disk->geometry;

	if (io->op == VHDX_SETTLE) {
		return 0;
	}
	if (disk->broken != 0) {
		return disk->broken;
	}
	if (io->op != VHDX_READ && !disk->writable) {
		return io->op == VHDX_FLUSH ? 0 : -EROFS;
	}
	if (((io->offset | io->length) & (g->logical_sector - 1)) != 0 ||
	    !checked_inside(io->offset, io->length, g->size)) {
		return -EINVAL;
	}
	return 0;
}

/* What io asks for, from offset to end.  NULL: no memory. */
static struct vhdx_request *request_new(struct vhdx *disk, struct vhdx_io *io,
					uint64_t offset, uint64_t end,
					unsigned pieces)
{
	struct vhdx_request *r = disk->spare;
	unsigned room = pieces > 1 ? pieces : 1;

	if (room == 1 && r != NULL) {
		disk->spare = r->spare_next;
		disk->spare_count--;
	} else {
		r = talloc_size(disk, sizeof(*r) +
				      room * sizeof(r->pieces[0]));
	}
	if (r == NULL) {
		return NULL;
	}
	/* As in piece_init(). */
	r->disk = disk;
	r->asked = io;
	r->op = io->op;
	r->result = 0;
	r->buffer = io->buffer;
	r->offset = offset;
	r->end = end;
	r->next = offset;
	r->under_way = 0;
	r->piece_count = room;
	r->idle = (1U << pieces) - 1;
	r->through = io->through;
	r->cutting = false;
	return r;
}

/* Whole blocks; the disk's last may be short. */
static void unmap_inside(const struct vhdx *disk, uint64_t *_offset,
			 uint64_t *_end)
{
	uint64_t block = disk->geometry.block_size;

	if (*_end < disk->geometry.size) {
		*_end -= *_end % block;
	}
	*_offset += (block - *_offset % block) % block;
	if (*_end < *_offset) {
		*_end = *_offset;
	}
}

void vhdx_submit(struct vhdx *disk, struct vhdx_io *io)
{
	unsigned shift = disk->geometry.block_shift;
	uint64_t offset = io->offset;
	uint64_t end = io->offset + io->length;
	struct vhdx_request *r = NULL;
	uint64_t pieces = 0;
	int ret = vhdx_gate_refresh(disk);

	if (ret == 0) {
		ret = request_check(disk, io);
	}
	if (ret != 0) {
		io->done(io, ret);
		return;
	}
	if ((io->op == VHDX_READ || (io->op == VHDX_WRITE && !io->through)) &&
	    io->length > 0 && request_whole(disk, io)) {
		return;
	}
	if (io->op == VHDX_UNMAP) {
		unmap_inside(disk, &offset, &end);
	}
	if (end > offset) {
		pieces = ((end - 1) >> shift) - (offset >> shift) + 1;
	}
	if (pieces > VHDX_PIECES_MAX) {
		pieces = VHDX_PIECES_MAX;
	}
	r = request_new(disk, io, offset, end, (unsigned)pieces);
	if (r == NULL) {
		io->done(io, -ENOMEM);
		return;
	}
	disk->requests++;
	request_cut(r);
}

static void on_asked(struct vhdx_io *io, int result)
{
	struct tevent_req *req = io->private_data;

	if (result != 0) {
		/* tevent wants errors to be positive. */
		tevent_req_error(req, (uint64_t)-(int64_t)result);
		return;
	}
	tevent_req_done(req);
}

static struct tevent_req *request_send(TALLOC_CTX *mem_ctx,
				       struct tevent_context *ev,
				       struct vhdx *disk,
				       const struct vhdx_io *what)
{
	struct vhdx_io *io = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &io,
						   struct vhdx_io);

	if (req == NULL) {
		return NULL;
	}
	*io = *what;
	io->done = on_asked;
	io->private_data = req;
	vhdx_submit(disk, io);
	if (!tevent_req_is_in_progress(req)) {
		return tevent_req_post(req, ev);
	}
	return req;
}

int vhdx_request_recv(struct tevent_req *req)
{
	enum tevent_req_state state = TEVENT_REQ_INIT;
	uint64_t error = 0;
	int ret = 0;

	if (tevent_req_is_error(req, &state, &error)) {
		ret = state == TEVENT_REQ_USER_ERROR ? -(int)error : -ENOMEM;
	}
	tevent_req_received(req);
	return ret;
}

struct tevent_req *vhdx_read_send(TALLOC_CTX *mem_ctx,
				  struct tevent_context *ev,
				  struct vhdx *disk, void *buffer,
				  uint64_t offset, size_t length)
{
	const struct vhdx_io io = {
		.op = VHDX_READ, .buffer = buffer, .offset = offset,
		.length = length,
	};

	return request_send(mem_ctx, ev, disk, &io);
}

int vhdx_read_recv(struct tevent_req *req)
{
	return vhdx_request_recv(req);
}

struct tevent_req *vhdx_write_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct vhdx *disk, const void *buffer,
				   uint64_t offset, size_t length,
				   bool through)
{
	const struct vhdx_io io = {
		.op = VHDX_WRITE, .data = buffer, .offset = offset,
		.length = length, .through = through,
	};

	return request_send(mem_ctx, ev, disk, &io);
}

int vhdx_write_recv(struct tevent_req *req)
{
	return vhdx_request_recv(req);
}

struct tevent_req *vhdx_flush_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct vhdx *disk)
{
	const struct vhdx_io io = {
		.op = VHDX_FLUSH, .through = disk->writable,
	};

	return request_send(mem_ctx, ev, disk, &io);
}

int vhdx_flush_recv(struct tevent_req *req)
{
	return vhdx_request_recv(req);
}

struct tevent_req *vhdx_unmap_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct vhdx *disk, uint64_t offset,
				   uint64_t length)
{
	const struct vhdx_io io = {
		.op = VHDX_UNMAP, .offset = offset, .length = length,
	};

	return request_send(mem_ctx, ev, disk, &io);
}

int vhdx_unmap_recv(struct tevent_req *req)
{
	return vhdx_request_recv(req);
}

struct tevent_req *vhdx_settle_send(TALLOC_CTX *mem_ctx,
				    struct tevent_context *ev,
				    struct vhdx *disk)
{
	const struct vhdx_io io = { .op = VHDX_SETTLE };

	return request_send(mem_ctx, ev, disk, &io);
}

int vhdx_settle_recv(struct tevent_req *req)
{
	return vhdx_request_recv(req);
}

struct tevent_req *vhdx_recover_send(TALLOC_CTX *mem_ctx,
				     struct tevent_context *ev,
				     struct vhdx *disk)
{
	/* A sector, to have one piece. */
	const struct vhdx_io io = {
		.op = VHDX_RECOVER, .length = disk->geometry.logical_sector,
	};

	return request_send(mem_ctx, ev, disk, &io);
}

int vhdx_recover_recv(struct tevent_req *req)
{
	return vhdx_request_recv(req);
}

/* ---- for programs that wait ----------------------------------------------- */

static int request_wait(struct vhdx *disk, struct tevent_req *req,
			struct tevent_context *ev)
{
	int ret = 0;

	if (req == NULL) {
		return -ENOMEM;
	}
	if (!tevent_req_poll(req, ev)) {
		/* The loop itself failed; the request is still under way. */
		return -EIO;
	}
	ret = vhdx_request_recv(req);
	talloc_free(req);
	while (disk->commit.running) {
		if (tevent_loop_once(ev) != 0) {
			return -EIO;
		}
	}
	return ret;
}

int vhdx_read(struct vhdx *disk, struct tevent_context *ev, void *buffer,
	      uint64_t offset, size_t length)
{
	return request_wait(disk, vhdx_read_send(disk, ev, disk, buffer,
						 offset, length), ev);
}

int vhdx_write(struct vhdx *disk, struct tevent_context *ev,
	       const void *buffer, uint64_t offset, size_t length,
	       bool through)
{
	return request_wait(disk, vhdx_write_send(disk, ev, disk, buffer,
						  offset, length, through),
			    ev);
}

int vhdx_flush(struct vhdx *disk, struct tevent_context *ev)
{
	return request_wait(disk, vhdx_flush_send(disk, ev, disk), ev);
}

int vhdx_unmap(struct vhdx *disk, struct tevent_context *ev, uint64_t offset,
	       uint64_t length)
{
	return request_wait(disk, vhdx_unmap_send(disk, ev, disk, offset,
						  length), ev);
}

int vhdx_settle(struct vhdx *disk, struct tevent_context *ev)
{
	return request_wait(disk, vhdx_settle_send(disk, ev, disk), ev);
}

int vhdx_recover(struct vhdx *disk, struct tevent_context *ev)
{
	return request_wait(disk, vhdx_recover_send(disk, ev, disk), ev);
}
