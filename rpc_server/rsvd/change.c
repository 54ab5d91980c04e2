/*
 * Changes of a disk as a whole while it is in use: going back to a snapshot,
 * and another size.
 */
#include "server.h"
#include "step.h"

#include "rsvd/safe_size.h"

#define TIME_MS 30000

struct change_state {
	struct rsvd_open *open;
	struct rsvd_meta meta;
	struct rsvd_meta_apply apply;
	struct rsvd_meta_resize resize;
	uint8_t *head;		/* of the disk, for its partitions */
	size_t head_length;
};

/* ---- apply, 3.2.5.5.7.6 --------------------------------------------------------------- */

static uint64_t info_size(const struct rsvd_open *open)
{
	struct vhdx_info info = {};

	vhdx_info_get(open->image->disk, &info);
	return info.size;
}

static NTSTATUS apply_files(struct change_state *state, uint64_t *_size)
{
	TALLOC_CTX *frame = talloc_stackframe();
	const struct vhdset_snapshot *s = NULL;
	char leaf[VHDSET_NAME_MAX] = "";
	struct vhdset_info info = {};
	struct vhdx_info disk_info = {};
	struct store *store = NULL;
	struct vhdx *disk = NULL;
	struct rsvd_set *set = NULL;
	NTSTATUS status = rsvd_set_open(frame, state->open, true, &set);
	int ret = 0;

	if (NT_STATUS_IS_OK(status)) {
		ret = vhdset_snapshot_find(set->set, &state->apply.id, &s);
		if (ret == 0 && (s->file[0] == '\0' ||
				 s->type != state->apply.type)) {
			ret = -ENOENT;
		}
		status = ret == -ENOENT ? NT_STATUS_NOT_FOUND
					: rsvd_status_of(ret);
	}
	if (NT_STATUS_IS_OK(status)) {
		vhdset_info_get(set->set, &info);
		status = rsvd_set_leaf_new(set, s->file, leaf);
	}
	if (NT_STATUS_IS_OK(status)) {
		/* What is given up goes when the new leaf is in force. */
		status = rsvd_set_note(state->open, info.leaf);
	}
	step("apply-noted");
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_image_alone(frame, state->open, rsvd_file_beside(
					  frame, state->open, leaf), false,
					  &store, &disk);
	}
	if (NT_STATUS_IS_OK(status)) {
		vhdx_info_get(disk, &disk_info);
		*_size = disk_info.size;
		TALLOC_FREE(disk);
		TALLOC_FREE(store);
		status = rsvd_changes_revert(state->open, &state->apply.id,
					     leaf);
	}
	if (NT_STATUS_IS_OK(status) && *_size != info_size(state->open)) {
		status = rsvd_changes_resize(state->open, *_size);
	}
	step("apply-marked");
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_status_of(vhdset_snapshot_apply(
			set->set, &state->apply.id, leaf));
	}
	step("apply-applied");
	TALLOC_FREE(frame);
	return status;
}

static void apply_tidy(struct change_state *state)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct rsvd_set *set = NULL;

	if (NT_STATUS_IS_OK(rsvd_set_open(frame, state->open, true, &set))) {
		(void)rsvd_set_tidy(set);
	}
	TALLOC_FREE(frame);
}

static void on_apply_blocked(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct change_state *state = tevent_req_data(req, struct change_state);
	uint64_t size = 0;
	NTSTATUS status = rsvd_block_recv(subreq);
	NTSTATUS status2 = NT_STATUS_OK;

	TALLOC_FREE(subreq);
	if (tevent_req_nterror(req, status)) {
		return;
	}
	if (rsvd_open_become_user(state->open)) {
		status = apply_files(state, &size);
	} else {
		status = NT_STATUS_FILE_CLOSED;
	}
	status2 = rsvd_block_end(state->open, true, size);
	if (NT_STATUS_IS_OK(status)) {
		status = status2;
	}
	step("apply-told");
	if (NT_STATUS_IS_OK(status)) {
		/* Nobody waits for this any more. */
		apply_tidy(state);
		rsvd_merge_kick(state->open);
	}
	if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
}

static struct tevent_req *block_start(struct tevent_req *req,
				      struct change_state *state,
				      void (*then)(struct tevent_req *req))
{
	struct tevent_req *subreq = rsvd_block_send(state, state->open,
						    TIME_MS, true);

	if (!tevent_req_nomem(subreq, req)) {
		tevent_req_set_callback(subreq, then, req);
	}
	if (!tevent_req_is_in_progress(req)) {
		return tevent_req_post(req, state->open->ev);
	}
	return req;
}

struct tevent_req *rsvd_apply_send(TALLOC_CTX *mem_ctx,
				   struct rsvd_open *open,
				   const struct rsvd_meta *meta)
{
	struct change_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct change_state);

	if (req == NULL) {
		return NULL;
	}
	state->open = open;
	state->meta = *meta;
	(void)rsvd_meta_apply_decode(meta->data, meta->length, &state->apply);
	return block_start(req, state, on_apply_blocked);
}

/* ---- resize, 3.2.5.5.7.1 --------------------------------------------------------------- */

static NTSTATUS resize_disk(struct change_state *state, uint64_t *_size)
{
	struct rsvd_image *image = state->open->image;
	struct rsvd_meta_resize *r = &state->resize;
	struct vhdx_info info = {};
	uint64_t size = r->size;
	uint64_t safe = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	vhdx_info_get(image->disk, &info);
	/* What must stay is the end of the last partition. */
	safe = rsvd_safe_size(state->head, state->head_length,
			      info.logical_sector, info.size);
	if (r->expand_only && size < info.size) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	if (r->to_safe_size) {
		/* A differencing disk ends with a whole block. */
		size = (safe + info.block_size - 1) / info.block_size *
			info.block_size;
		size = MIN(MAX(size, info.block_size), info.size);
	} else if (size < safe && size < info.size && !r->allow_unsafe) {
		return NT_STATUS(0xC03A0031);	/* would truncate data */
	}
	if (size == 0 || size % info.logical_sector != 0 ||
	    size > VHDX_SIZE_MAX) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	status = rsvd_changes_resize(state->open, size);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	step("resize-marked");
	ret = vhdx_resize(image->disk, size, true);
	step("resize-resized");
	if (ret == -EINVAL) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	if (ret == 0) {
		*_size = size;
	}
	return rsvd_status_of(ret);
}

static void resize_end(struct tevent_req *req, NTSTATUS status, uint64_t size)
{
	struct change_state *state = tevent_req_data(req, struct change_state);
	NTSTATUS status2 = rsvd_block_end(state->open, true, size);

	if (NT_STATUS_IS_OK(status)) {
		status = status2;
	}
	if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
}

static void on_resize_later(struct tevent_context *ev,
			    struct tevent_immediate *im, void *private_data)
{
	struct tevent_req *req = private_data;
	struct change_state *state = tevent_req_data(req, struct change_state);
	uint64_t size = 0;
	NTSTATUS status = NT_STATUS_OK;

	(void)ev;
	(void)im;
	status = resize_disk(state, &size);
	resize_end(req, status, size);
}

static void on_head_read(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct change_state *state = tevent_req_data(req, struct change_state);
	struct tevent_immediate *im = tevent_create_immediate(state);
	int ret = vhdx_read_recv(subreq);

	TALLOC_FREE(subreq);
	if (ret != 0 || im == NULL) {
		resize_end(req, rsvd_status_of(ret != 0 ? ret : -ENOMEM), 0);
		return;
	}
	/* The engine is still calling; it wants nothing under way. */
	tevent_schedule_immediate(im, state->open->ev, on_resize_later, req);
}

static void on_resize_settled(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct change_state *state = tevent_req_data(req, struct change_state);
	int ret = vhdx_settle_recv(subreq);

	TALLOC_FREE(subreq);
	state->head_length = MIN(RSVD_SAFE_SIZE_HEAD,
				 state->open->scsi.geometry.blocks *
				 state->open->scsi.geometry.block_size);
	state->head = talloc_size(state, state->head_length);
	if (ret == 0 && state->head != NULL) {
		subreq = vhdx_read_send(state, state->open->ev,
					state->open->image->disk, state->head,
					0, state->head_length);
	}
	if (subreq == NULL) {
		resize_end(req, rsvd_status_of(ret != 0 ? ret : -ENOMEM), 0);
		return;
	}
	tevent_req_set_callback(subreq, on_head_read, req);
}

static void on_resize_blocked(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct change_state *state = tevent_req_data(req, struct change_state);
	NTSTATUS status = rsvd_block_recv(subreq);

	TALLOC_FREE(subreq);
	if (tevent_req_nterror(req, status)) {
		return;
	}
	if (!rsvd_open_become_user(state->open)) {
		resize_end(req, NT_STATUS_FILE_CLOSED, 0);
		return;
	}
	subreq = vhdx_settle_send(state, state->open->ev,
				  state->open->image->disk);
	if (subreq == NULL) {
		resize_end(req, NT_STATUS_NO_MEMORY, 0);
		return;
	}
	tevent_req_set_callback(subreq, on_resize_settled, req);
}

struct tevent_req *rsvd_resize_send(TALLOC_CTX *mem_ctx,
				    struct rsvd_open *open,
				    const struct rsvd_meta *meta)
{
	struct change_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct change_state);

	if (req == NULL) {
		return NULL;
	}
	state->open = open;
	state->meta = *meta;
	(void)rsvd_meta_resize_decode(meta->data, meta->length,
				      &state->resize);
	return block_start(req, state, on_resize_blocked);
}
