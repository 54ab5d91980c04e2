/*
 * A file made of several of a chain: the lowest is cloned, or copied where the
 * file system cannot share blocks, and what those above it hold is written
 * over it.  None of the files it is made of is written to.
 */
#include "server.h"

#include "util/zero.h"

#define CLONE_SLICE (256ULL << 20)
#define COPY_SLICE (1ULL << 20)

struct build_state {
	struct rsvd_open *open;
	struct tevent_context *ev;
	struct rsvd_build build;
	struct store *top;
	struct store *bottom;
	struct store *made;
	struct vhdx *from;
	struct vhdx *to;
	struct store_io io;
	struct tevent_immediate *im;
	uint8_t *buffer;
	uint64_t offset;
	uint64_t size;		/* of the file at bottom */
};

static void build_fail(struct tevent_req *req, int error)
{
	tevent_req_nterror(req, error == -ECANCELED ? NT_STATUS_CANCELLED
						    : rsvd_status_of(error));
}

/* Half of the way is the copy, half what is written over it. */
static bool tell(struct build_state *state, uint64_t done, uint64_t all,
		 unsigned half)
{
	uint64_t part = all > 0 ? done * 1000 / all : 1000;

	return state->build.progress == NULL ||
		state->build.progress(state->build.private_data,
				      (part + 1000 * half) / 2, 1000);
}

/* ---- its end ------------------------------------------------------------------------- */

static NTSTATUS finish(struct build_state *state)
{
	struct vhdx_info info = {};
	struct guid linkage = {};
	int ret = 0;

	vhdx_info_get(state->from, &info);
	linkage = info.data_write_guid;
	if (!state->build.with_linkage) {
		ret = guid_random(&linkage);
	}
	if (ret == 0) {
		ret = vhdx_linkage_set(state->to, &linkage);
	}
	if (ret == 0) {
		ret = vhdx_close(state->to);
		state->to = NULL;
	}
	if (ret == 0) {
		ret = store_flush(state->made);
	}
	return rsvd_status_of(ret);
}

static void on_merged(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct build_state *state = tevent_req_data(req, struct build_state);
	int ret = vhdx_merge_recv(subreq);

	TALLOC_FREE(subreq);
	if (ret != 0) {
		build_fail(req, ret);
		return;
	}
	/* Nothing of it is under way any more: from the loop. */
	if (!tevent_req_nterror(req, finish(state))) {
		tevent_req_done(req);
	}
}

static bool on_merge_progress(void *private_data, uint64_t done, uint64_t all)
{
	return tell(private_data, done, all, 1);
}

/* ---- what is written over the copy ------------------------------------------------- */

static NTSTATUS made_open(struct build_state *state)
{
	struct vhdx_info from = {};
	struct vhdx_info to = {};
	NTSTATUS status = rsvd_image_chain_of(state, state->open, state->made,
					      state->build.path, true,
					      &state->to);

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	vhdx_info_get(state->from, &from);
	vhdx_info_get(state->to, &to);
	if (from.size == to.size) {
		return status;
	}
	return rsvd_status_of(vhdx_resize(state->to, from.size, true));
}

static void on_copied(struct store_io *io, int result)
{
	struct tevent_req *req = io->private_data;
	struct build_state *state = tevent_req_data(req, struct build_state);
	struct tevent_req *subreq = NULL;
	NTSTATUS status = NT_STATUS_FILE_CLOSED;

	if (result != 0) {
		build_fail(req, result);
		return;
	}
	if (!tell(state, 1, 1, 0)) {
		build_fail(req, -ECANCELED);
		return;
	}
	if (rsvd_open_become_user(state->open)) {
		status = made_open(state);
	}
	if (tevent_req_nterror(req, status)) {
		return;
	}
	subreq = vhdx_merge_send(state, state->ev, state->from,
				 state->build.depth, state->to,
				 on_merge_progress, state);
	if (!tevent_req_nomem(subreq, req)) {
		tevent_req_set_callback(subreq, on_merged, req);
	}
}

static void copied(struct tevent_req *req)
{
	struct build_state *state = tevent_req_data(req, struct build_state);

	/* So that nothing below waits long for the disk. */
	state->io = (struct store_io) {
		.op = STORE_FLUSH, .done = on_copied, .private_data = req,
	};
	store_submit(state->made, &state->io);
}

/* ---- the copy ------------------------------------------------------------------------ */

static void copy_slice(struct tevent_req *req);

static void on_slice(struct store_io *io, int result)
{
	struct tevent_req *req = io->private_data;
	struct build_state *state = tevent_req_data(req, struct build_state);

	if (result != 0) {
		build_fail(req, result);
		return;
	}
	state->offset += io->length;
	if (!tell(state, state->offset, state->size, 0)) {
		build_fail(req, -ECANCELED);
		return;
	}
	copy_slice(req);
}

static void on_slice_read(struct store_io *io, int result)
{
	struct tevent_req *req = io->private_data;
	struct build_state *state = tevent_req_data(req, struct build_state);

	if (result != 0 || is_zero(state->buffer, io->length)) {
		/* What is not written is a hole. */
		on_slice(io, result);
		return;
	}
	io->op = STORE_WRITE;
	io->done = on_slice;
	store_submit(state->made, io);
}

static void copy_slice(struct tevent_req *req)
{
	struct build_state *state = tevent_req_data(req, struct build_state);

	if (state->offset >= state->size) {
		copied(req);
		return;
	}
	state->io = (struct store_io) {
		.op = STORE_READ, .buffer = state->buffer,
		.offset = state->offset,
		.length = MIN(COPY_SLICE, state->size - state->offset),
		.done = on_slice_read, .private_data = req,
	};
	store_submit(state->bottom, &state->io);
}

static void clone_slice(struct tevent_context *ev, struct tevent_immediate *im,
			void *private_data)
{
	struct tevent_req *req = private_data;
	struct build_state *state = tevent_req_data(req, struct build_state);
	uint64_t length = MIN(CLONE_SLICE, state->size - state->offset);
	int ret = 0;

	if (!tell(state, state->offset, state->size, 0)) {
		build_fail(req, -ECANCELED);
		return;
	}
	ret = rsvd_store_clone(state->made, state->bottom, state->offset,
			       length);
	if (ret == -ENOTSUP && !state->build.clone_only) {
		copy_slice(req);
		return;
	}
	if (ret == -ENOTSUP) {
		tevent_req_nterror(req, NT_STATUS_NOT_SUPPORTED);
		return;
	}
	if (ret != 0) {
		build_fail(req, ret);
		return;
	}
	state->offset += length;
	if (state->offset < state->size) {
		tevent_schedule_immediate(im, ev, clone_slice, req);
		return;
	}
	copied(req);
}

/* ---- its start ----------------------------------------------------------------------- */

static NTSTATUS files_open(struct build_state *state)
{
	const struct rsvd_build *b = &state->build;
	NTSTATUS status = rsvd_image_chain(state, state->open, b->top, false,
					   NULL, &state->top, &state->from);
	int ret = 0;

	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_open(state, state->open, b->bottom,
					RSVD_FILE_READ, &state->bottom);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_open(state, state->open, b->path,
					RSVD_FILE_CREATE, &state->made);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	ret = store_size(state->bottom, &state->size);
	if (ret == 0) {
		ret = store_truncate(state->made, state->size);
	}
	return rsvd_status_of(ret);
}

/* Disks before the files that they lie in. */
static int state_destructor(struct build_state *state)
{
	TALLOC_FREE(state->to);
	TALLOC_FREE(state->from);
	return 0;
}

struct tevent_req *rsvd_build_send(TALLOC_CTX *mem_ctx,
				   struct rsvd_open *open,
				   const struct rsvd_build *build)
{
	struct build_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct build_state);

	if (req == NULL) {
		return NULL;
	}
	state->open = open;
	state->ev = open->ev;
	state->build = *build;
	state->build.top = talloc_strdup(state, build->top);
	state->build.bottom = talloc_strdup(state, build->bottom);
	state->build.path = talloc_strdup(state, build->path);
	state->buffer = talloc_size(state, COPY_SLICE);
	state->im = tevent_create_immediate(state);
	talloc_set_destructor(state, state_destructor);
	if (state->build.top == NULL || state->build.bottom == NULL ||
	    state->build.path == NULL || state->buffer == NULL ||
	    state->im == NULL) {
		tevent_req_nterror(req, NT_STATUS_NO_MEMORY);
		return tevent_req_post(req, state->ev);
	}
	if (tevent_req_nterror(req, files_open(state))) {
		return tevent_req_post(req, state->ev);
	}
	tevent_schedule_immediate(state->im, state->ev, clone_slice, req);
	return req;
}

NTSTATUS rsvd_build_recv(struct tevent_req *req, TALLOC_CTX *mem_ctx,
			 struct store **_made, struct store **_top)
{
	struct build_state *state = tevent_req_data(req, struct build_state);
	NTSTATUS status = NT_STATUS_OK;

	if (!tevent_req_is_nterror(req, &status)) {
		/* The disk goes first. */
		TALLOC_FREE(state->from);
		*_made = talloc_move(mem_ctx, &state->made);
		*_top = talloc_move(mem_ctx, &state->top);
	}
	return status;
}
