/*
 * A request tells nothing of the module it comes from, and so not which
 * function receives it.  That of the first module that reads or writes went
 * on to is remembered, as most processes meet no other; a request of another
 * one gets a request around it that knows.
 */
#include "next.h"

typedef ssize_t (*next_recv_fn)(struct tevent_req *req,
				struct vfs_aio_state *aio);

static next_recv_fn first_pread_recv, first_pwrite_recv;

static bool is_first(next_recv_fn *first, next_recv_fn recv)
{
	if (*first == NULL) {
		*first = recv;
	}
	return *first == recv;
}

struct next_around {
	next_recv_fn recv;
	ssize_t done;
	struct vfs_aio_state aio;
};

static void next_around_done(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct next_around *state = tevent_req_data(req, struct next_around);

	state->done = state->recv(subreq, &state->aio);
	TALLOC_FREE(subreq);
	tevent_req_done(req);
}

/* Begins with subreq, which hangs at the state. */
static struct tevent_req *next_around_begin(struct tevent_req *req,
					    struct tevent_context *ev,
					    struct tevent_req *subreq)
{
	if (tevent_req_nomem(subreq, req)) {
		return tevent_req_post(req, ev);
	}
	tevent_req_set_callback(subreq, next_around_done, req);
	return req;
}

static struct tevent_req *next_around_create(TALLOC_CTX *mem_ctx,
					     next_recv_fn recv,
					     struct next_around **_state)
{
	struct tevent_req *req = tevent_req_create(mem_ctx, _state,
						   struct next_around);

	if (req != NULL) {
		(*_state)->recv = recv;
	}
	return req;
}

static ssize_t next_recv(struct tevent_req *req, next_recv_fn first,
			 struct vfs_aio_state *aio)
{
	struct next_around *state = talloc_get_type(_tevent_req_data(req),
						    struct next_around);

	if (state == NULL) {
		return first(req, aio);
	}
	if (tevent_req_is_unix_error(req, &aio->error)) {
		return -1;
	}
	*aio = state->aio;
	return state->done;
}

struct tevent_req *next_pread_send(struct vfs_handle_struct *handle,
				   TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct files_struct *fsp, void *data,
				   size_t length, off_t offset)
{
	struct vfs_handle_struct *next = handle->next;
	struct next_around *state = NULL;
	struct tevent_req *req = NULL;

	while (next->fns->pread_send_fn == NULL) {
		next = next->next;
	}
	if (is_first(&first_pread_recv, next->fns->pread_recv_fn)) {
		return next->fns->pread_send_fn(next, mem_ctx, ev, fsp, data,
						length, offset);
	}
	req = next_around_create(mem_ctx, next->fns->pread_recv_fn, &state);
	return req == NULL ? NULL : next_around_begin(
		req, ev, next->fns->pread_send_fn(next, state, ev, fsp, data,
						  length, offset));
}

struct tevent_req *next_pwrite_send(struct vfs_handle_struct *handle,
				    TALLOC_CTX *mem_ctx,
				    struct tevent_context *ev,
				    struct files_struct *fsp,
				    const void *data, size_t length,
				    off_t offset)
{
	struct vfs_handle_struct *next = handle->next;
	struct next_around *state = NULL;
	struct tevent_req *req = NULL;

	while (next->fns->pwrite_send_fn == NULL) {
		next = next->next;
	}
	if (is_first(&first_pwrite_recv, next->fns->pwrite_recv_fn)) {
		return next->fns->pwrite_send_fn(next, mem_ctx, ev, fsp, data,
						 length, offset);
	}
	req = next_around_create(mem_ctx, next->fns->pwrite_recv_fn, &state);
	return req == NULL ? NULL : next_around_begin(
		req, ev, next->fns->pwrite_send_fn(next, state, ev, fsp, data,
						   length, offset));
}

ssize_t next_pread_recv(struct tevent_req *req, struct vfs_aio_state *aio)
{
	return next_recv(req, first_pread_recv, aio);
}

ssize_t next_pwrite_recv(struct tevent_req *req, struct vfs_aio_state *aio)
{
	return next_recv(req, first_pwrite_recv, aio);
}
