/*
 * Merging: a copy of one file of a chain is made to read as the files above
 * it, in slices.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>
#include <tevent.h>

/* What is copied at a time. */
#define SLICE ((uint64_t)VHDX_MIB)
/* Extents that are looked at before the loop has its turn. */
#define LOOKS 256U

struct merge_state {
	struct tevent_context *ev;
	struct tevent_req *req;
	struct vhdx *from;
	struct vhdx *to;
	unsigned depth;
	bool (*progress)(void *private_data, uint64_t done, uint64_t all);
	void *private_data;
	struct vhdx_wait wait;
	struct tevent_immediate *im;
	uint64_t offset;
	uint64_t length;	/* of what is under way */
	uint8_t *buffer;
};

/* One look: where it is, and what must be done about it. */
struct look {
	enum vhdx_place place;
	unsigned depth;
	uint64_t length;
};

static void merge_go(struct merge_state *s);

static void merge_fail(struct merge_state *s, int ret)
{
	tevent_req_error(s->req, (uint64_t)-(int64_t)ret);
}

static void on_page(struct vhdx_wait *wait, int result)
{
	struct merge_state *s =
		(struct merge_state *)((char *)wait -
				       offsetof(struct merge_state, wait));

	if (result != 0) {
		merge_fail(s, result);
		return;
	}
	merge_go(s);
}

static void on_turn(struct tevent_context *ev, struct tevent_immediate *im,
		    void *private_data)
{
	(void)ev;
	(void)im;
	merge_go(private_data);
}

/* What comes after a request of ours; NULL where there is no memory for it. */
static void merge_next(struct merge_state *s, struct tevent_req *req,
		       void (*next)(struct tevent_req *req))
{
	if (req == NULL) {
		merge_fail(s, -ENOMEM);
		return;
	}
	tevent_req_set_callback(req, next, s);
}

static int look_at(struct merge_state *s, struct vhdx *disk, uint64_t offset,
		   uint64_t length, struct look *l)
{
	uint64_t file_offset = 0;
	struct vhdx *holder = NULL;

	l->length = length;
	return vhdx_map_chain(disk, offset, &l->length, &s->wait, &l->place,
			      &file_offset, &holder, &l->depth);
}

/* ---- the end -------------------------------------------------------------- */

static void on_settled(struct tevent_req *req)
{
	struct merge_state *s = tevent_req_callback_data(req,
							 struct merge_state);
	int ret = vhdx_settle_recv(req);

	talloc_free(req);
	if (ret == 0) {
		/* What was logged may have failed to reach its place. */
		ret = vhdx_idle_check(s->to, true);
	}
	if (ret != 0) {
		merge_fail(s, ret);
		return;
	}
	tevent_req_done(s->req);
}

static void on_flushed(struct tevent_req *req)
{
	struct merge_state *s = tevent_req_callback_data(req,
							 struct merge_state);
	int ret = vhdx_flush_recv(req);

	talloc_free(req);
	if (ret != 0) {
		merge_fail(s, ret);
		return;
	}
	merge_next(s, vhdx_settle_send(s, s->ev, s->to), on_settled);
}

static void merge_end(struct merge_state *s)
{
	merge_next(s, vhdx_flush_send(s, s->ev, s->to), on_flushed);
}

/* ---- data ----------------------------------------------------------------- */

static void slice_done(struct tevent_req *req, int ret)
{
	struct merge_state *s = tevent_req_callback_data(req,
							 struct merge_state);

	talloc_free(req);
	if (ret != 0) {
		merge_fail(s, ret);
		return;
	}
	s->offset += s->length;
	merge_go(s);
}

static void on_written(struct tevent_req *req)
{
	slice_done(req, vhdx_write_recv(req));
}

static void put(struct merge_state *s)
{
	merge_next(s, vhdx_write_send(s, s->ev, s->to, s->buffer, s->offset,
				      s->length, false), on_written);
}

static void on_read(struct tevent_req *req)
{
	struct merge_state *s = tevent_req_callback_data(req,
							 struct merge_state);
	int ret = vhdx_read_recv(req);

	talloc_free(req);
	if (ret != 0) {
		merge_fail(s, ret);
		return;
	}
	put(s);
}

static void copy(struct merge_state *s, uint64_t length)
{
	s->length = length < SLICE ? length : SLICE;
	merge_next(s, vhdx_read_send(s, s->ev, s->from, s->buffer, s->offset,
				     s->length), on_read);
}

/* ---- zeroes --------------------------------------------------------------- */

static void on_unmapped(struct tevent_req *req)
{
	slice_done(req, vhdx_unmap_recv(req));
}

static void unmap(struct merge_state *s, uint64_t length)
{
	s->length = length;
	merge_next(s, vhdx_unmap_send(s, s->ev, s->to, s->offset, length),
		   on_unmapped);
}

/* Whether the whole block of to that begins here is to be zero. */
static int block_is_zero(struct merge_state *s, uint64_t block, bool *_zero)
{
	uint64_t at = 0;
	int ret = 0;

	*_zero = true;
	while (at < block && *_zero && ret == 0) {
		struct look l = {};

		ret = look_at(s, s->from, s->offset + at, block - at, &l);
		if (ret == 0) {
			*_zero = l.place == VHDX_PLACE_ZERO;
			at += l.length;
		}
	}
	return ret;
}

/*
 * Zeroes that are not there yet.  Whole blocks are unmapped, but of a fixed
 * disk, which stays full.  Returns 0 with nothing under way, or -EINPROGRESS.
 */
static int zero(struct merge_state *s, uint64_t length)
{
	const struct vhdx_geometry *g = &s->to->geometry;
	uint64_t block = g->block_size;
	struct look l = {};
	bool whole = false;
	int ret = look_at(s, s->to, s->offset, length, &l);

	if (ret != 0) {
		return ret;
	}
	if (l.place == VHDX_PLACE_ZERO) {
		s->offset += l.length;
		return 0;
	}
	if (block > g->size - s->offset) {
		block = g->size - s->offset;
	}
	if (s->offset % g->block_size == 0 &&
	    (!g->leave_allocated || g->has_parent)) {
		ret = block_is_zero(s, block, &whole);
	}
	if (ret != 0) {
		return ret;
	}
	if (whole) {
		unmap(s, block);
		return -EINPROGRESS;
	}
	s->length = l.length < SLICE ? l.length : SLICE;
	memset(s->buffer, 0, s->length);
	put(s);
	return -EINPROGRESS;
}

/* ---- going on ------------------------------------------------------------- */

static int merge_look(struct merge_state *s)
{
	struct look l = {};
	int ret = look_at(s, s->from, s->offset,
			  s->from->geometry.size - s->offset, &l);

	if (ret != 0) {
		return ret;
	}
	if (l.place == VHDX_PLACE_FILE && l.depth < s->depth) {
		copy(s, l.length);
		return -EINPROGRESS;
	}
	/* What lies past the end of to's original is zero by it. */
	if (l.place == VHDX_PLACE_ZERO && l.depth <= s->depth) {
		return zero(s, l.length);
	}
	s->offset += l.length;
	return 0;
}

static void merge_go(struct merge_state *s)
{
	uint64_t size = s->from->geometry.size;
	unsigned looks = 0;
	int ret = 0;

	while (ret == 0 && looks++ < LOOKS && s->offset < size) {
		ret = merge_look(s);
	}
	if (ret == -EINPROGRESS) {
		return;
	}
	if (ret == 0 && s->progress != NULL &&
	    !s->progress(s->private_data, s->offset, size)) {
		ret = -ECANCELED;
	}
	if (ret != 0) {
		merge_fail(s, ret);
		return;
	}
	if (s->offset >= size) {
		merge_end(s);
		return;
	}
	tevent_schedule_immediate(s->im, s->ev, on_turn, s);
}

static int merge_check(const struct vhdx *from, unsigned depth,
		       const struct vhdx *to)
{
	int ret = vhdx_idle_check(to, true);

	if (ret != 0) {
		return ret;
	}
	if (from->geometry.size != to->geometry.size ||
	    from->geometry.logical_sector != to->geometry.logical_sector ||
	    to->share != NULL || from == to) {
		return -EINVAL;
	}
	while (depth-- > 0) {
		if (from == NULL) {
			return -EINVAL;
		}
		from = from->parent;
	}
	return from != NULL ? 0 : -EINVAL;
}

struct tevent_req *vhdx_merge_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct vhdx *from, unsigned depth,
				   struct vhdx *to,
				   bool (*progress)(void *private_data,
						    uint64_t done,
						    uint64_t all),
				   void *private_data)
{
	struct merge_state *s = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &s,
						   struct merge_state);
	int ret = 0;

	if (req == NULL) {
		return NULL;
	}
	s->req = req;
	s->ev = ev;
	s->from = from;
	s->to = to;
	s->depth = depth;
	s->progress = progress;
	s->private_data = private_data;
	s->wait.wake = on_page;
	s->im = tevent_create_immediate(s);
	s->buffer = talloc_size(s, SLICE);
	ret = merge_check(from, depth, to);
	if (ret == 0 && (s->im == NULL || s->buffer == NULL)) {
		ret = -ENOMEM;
	}
	if (ret != 0) {
		merge_fail(s, ret);
		return tevent_req_post(req, ev);
	}
	/* From the loop, so that progress is never called from in here. */
	tevent_schedule_immediate(s->im, ev, on_turn, s);
	return req;
}

int vhdx_merge_recv(struct tevent_req *req)
{
	return vhdx_request_recv(req);
}

int vhdx_linkage_set(struct vhdx *disk, const struct guid *linkage)
{
	struct vhdx_header h = {};
	int ret = vhdx_idle_check(disk, true);

	if (ret == 0 && disk->share != NULL) {
		ret = -EINVAL;
	}
	if (ret == 0) {
		ret = vhdx_session_header(disk, true, &h);
	}
	if (ret == 0) {
		h.data_write_guid = *linkage;
		ret = vhdx_header_update(disk, &h, 1);
	}
	if (ret == 0) {
		disk->session = true;
		disk->data_session = true;
	}
	return ret;
}
