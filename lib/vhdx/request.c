/*
 * Requests: cut into pieces of one block each, a bounded number of them under
 * way; reads; flushes; and the doors of all four.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>
#include <tevent.h>

#include "util/checked.h"

static void request_cut(struct vhdx_request *r);

/* ---- the end -------------------------------------------------------------- */

static void request_done(struct vhdx_request *r, int result)
{
	r->disk->requests--;
	r->done(r, result);
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

static void request_flush(struct vhdx_request *r)
{
	struct vhdx *disk = r->disk;

	/* A shared disk commits before it calls a change done. */
	if (disk->share == NULL &&
	    (disk->pages.dirty > 0 || disk->commit.running)) {
		r->wait.wake = on_committed;
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
	if (r->op == VHDX_OP_SETTLE && r->disk->commit.running) {
		r->wait.wake = on_committed;
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
	case VHDX_OP_READ:
		piece_read(piece);
		return;
	case VHDX_OP_WRITE:
		vhdx_piece_write(piece);
		return;
	case VHDX_OP_UNMAP:
		vhdx_piece_unmap(piece);
		return;
	case VHDX_OP_RECOVER:
		piece_recover(piece);
		return;
	case VHDX_OP_FLUSH:
	case VHDX_OP_SETTLE:
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

/*
 * Gives idle pieces the next blocks.  A piece that ends at once comes back
 * here through vhdx_piece_end(); the flag keeps that a loop, not a recursion.
 */
static void request_cut(struct vhdx_request *r)
{
	uint64_t block = r->disk->geometry.block_size;

	if (r->cutting) {
		return;
	}
	r->cutting = true;
	while (r->next < r->end && r->idle != 0 && r->result == 0) {
		unsigned i = (unsigned)__builtin_ctz(r->idle);
		struct vhdx_piece *piece = &r->pieces[i];
		uint64_t rest = block - r->next % block;

		if (rest > r->end - r->next) {
			rest = r->end - r->next;
		}
		*piece = (struct vhdx_piece) {
			.request = r, .at = r->next, .end = r->next + rest,
			.block = r->next / block,
		};
		piece->wait.wake = on_wake;
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

/* ---- the doors ------------------------------------------------------------ */

struct request_state {
	struct vhdx_request *request;
};

static void on_request(struct vhdx_request *r, int result)
{
	struct tevent_req *req = r->private_data;

	if (result != 0) {
		/* tevent wants errors to be positive. */
		tevent_req_error(req, (uint64_t)-(int64_t)result);
		return;
	}
	tevent_req_done(req);
}

static int request_check(const struct vhdx *disk, enum vhdx_op op,
			 uint64_t offset, uint64_t length)
{
	if (op == VHDX_OP_SETTLE) {
		return 0;
	}
	if (disk->broken != 0) {
		return disk->broken;
	}
	if (op != VHDX_OP_READ && !disk->writable) {
		return op == VHDX_OP_FLUSH ? 0 : -EROFS;
	}
	if (offset % disk->geometry.logical_sector != 0 ||
	    length % disk->geometry.logical_sector != 0 ||
	    !checked_inside(offset, length, disk->geometry.size)) {
		return -EINVAL;
	}
	return 0;
}

static struct tevent_req *request_send(TALLOC_CTX *mem_ctx,
				       struct tevent_context *ev,
				       struct vhdx *disk, enum vhdx_op op,
				       uint8_t *buffer, uint64_t offset,
				       uint64_t length, bool through)
{
	uint64_t block = disk->geometry.block_size;
	struct request_state *state = NULL;
	struct tevent_req *req = NULL;
	struct vhdx_request *r = NULL;
	uint64_t pieces = 0;
	int ret = 0;

	req = tevent_req_create(mem_ctx, &state, struct request_state);
	if (req == NULL) {
		return NULL;
	}
	ret = vhdx_gate_refresh(disk);
	if (ret == 0) {
		ret = request_check(disk, op, offset, length);
	}
	if (ret == 0 && op == VHDX_OP_UNMAP) {
		uint64_t size = disk->geometry.size;
		uint64_t end = offset + length;

		/* Whole blocks; the disk's last may be short. */
		if (end < size) {
			end -= end % block;
		}
		offset += (block - offset % block) % block;
		length = end > offset ? end - offset : 0;
	}
	if (length > 0) {
		pieces = (offset + length - 1) / block - offset / block + 1;
	}
	if (pieces > VHDX_PIECES_MAX) {
		pieces = VHDX_PIECES_MAX;
	}
	if (ret == 0) {
		r = talloc_zero_size(state, sizeof(*r) +
					    pieces * sizeof(r->pieces[0]));
		ret = r != NULL ? 0 : -ENOMEM;
	}
	if (ret != 0) {
		tevent_req_error(req, (uint64_t)-(int64_t)ret);
		return tevent_req_post(req, ev);
	}
	state->request = r;
	r->disk = disk;
	r->op = op;
	r->buffer = buffer;
	r->offset = offset;
	r->next = offset;
	r->end = offset + length;
	r->piece_count = (unsigned)pieces;
	r->idle = (1U << pieces) - 1;
	r->through = through;
	r->done = on_request;
	r->private_data = req;
	disk->requests++;
	request_cut(r);
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
	return request_send(mem_ctx, ev, disk, VHDX_OP_READ, buffer, offset,
			    length, false);
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
	/* Requests of both directions share a pointer; writes only read it. */
	union {
		const void *from;
		void *to;
	} both = { .from = buffer };

	return request_send(mem_ctx, ev, disk, VHDX_OP_WRITE, both.to, offset,
			    length, through);
}

int vhdx_write_recv(struct tevent_req *req)
{
	return vhdx_request_recv(req);
}

struct tevent_req *vhdx_flush_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct vhdx *disk)
{
	return request_send(mem_ctx, ev, disk, VHDX_OP_FLUSH, NULL, 0, 0,
			    disk->writable);
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
	return request_send(mem_ctx, ev, disk, VHDX_OP_UNMAP, NULL, offset,
			    length, false);
}

int vhdx_unmap_recv(struct tevent_req *req)
{
	return vhdx_request_recv(req);
}

struct tevent_req *vhdx_settle_send(TALLOC_CTX *mem_ctx,
				    struct tevent_context *ev,
				    struct vhdx *disk)
{
	return request_send(mem_ctx, ev, disk, VHDX_OP_SETTLE, NULL, 0, 0,
			    false);
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
	return request_send(mem_ctx, ev, disk, VHDX_OP_RECOVER, NULL, 0,
			    disk->geometry.logical_sector, false);
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
