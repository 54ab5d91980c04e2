/*
 * Creating a snapshot, MS-RSVD 3.2.5.5.7.2: stages in one call or in several,
 * of one transaction at a time.
 */
#include "server.h"
#include "step.h"

/* How long others may be held up between BlockIO and UnblockIO. */
#define VM_TIME_MS 10000
#define CDP_TIME_MS 700
/* How long a transaction may wait between its calls otherwise. */
#define MAKING_TIME_MS 60000

#define NT_STATUS_INVALID_STATE NT_STATUS(0xC0000184)

struct snapshot_state {
	struct rsvd_open *open;
	struct rsvd_meta meta;
	struct rsvd_meta_snapshot s;
	size_t next;		/* of the stages */
	/* Made while others still go on: the next leaf, and of which. */
	char leaf[VHDSET_NAME_MAX];
	char parent[VHDSET_NAME_MAX];
	struct rsvd_image *image;	/* that is flushed */
};

/* ---- the record's part of each stage ----------------------------------------------------- */

struct move {
	struct snapshot_state *state;
	uint32_t stage;		/* of the client */
	NTSTATUS status;
};

static bool is_same(const struct rsvd_making *making,
		    const struct snapshot_state *state)
{
	return guid_equal(&making->transaction, &state->meta.transaction) &&
		guid_equal(&making->snapshot, &state->s.id);
}

/* Whether somebody else is in the middle of it. */
static bool is_taken(struct rsvd_open *open,
		     const struct rsvd_record *record)
{
	const struct rsvd_making *making = &record->making;

	if (making->stage == RSVD_STAGE_IDLE ||
	    making->stage == RSVD_STAGE_FAILED ||
	    making->stage == RSVD_STAGE_UNBLOCKED) {
		return false;
	}
	return !rsvd_shared_is_late(&open->making_seen, &making->worker,
				    making->until_ms, MAKING_TIME_MS) &&
		rsvd_shared_is_alive(open, record, &making->worker);
}

static void move_begin(struct rsvd_record *record, struct move *m)
{
	struct rsvd_making *making = &record->making;
	struct snapshot_state *state = m->state;

	if (is_taken(state->open, record)) {
		m->status = NT_STATUS_INVALID_STATE;
		return;
	}
	*making = (struct rsvd_making) {
		.stage = RSVD_STAGE_INITIALIZED, .type = state->s.type,
		.flags = state->s.flags,
		.transaction = state->meta.transaction,
		.snapshot = state->s.id,
		.worker = rsvd_shared_self(state->open),
		.until_ms = rsvd_shared_now_ms() + MAKING_TIME_MS,
	};
}

static enum rsvd_change move(struct rsvd_record *record, void *private_data)
{
	/* What must have been before each stage. */
	static const uint32_t before[] = {
		[RSVD_DO_BLOCK] = RSVD_STAGE_INITIALIZED,
		[RSVD_DO_SWITCH] = RSVD_STAGE_BLOCKED,
		[RSVD_DO_UNBLOCK] = RSVD_STAGE_SWITCHED,
		[RSVD_DO_FINALIZE] = RSVD_STAGE_UNBLOCKED,
	};
	static const uint32_t after[] = {
		[RSVD_DO_BLOCK] = RSVD_STAGE_BLOCKED,
		[RSVD_DO_SWITCH] = RSVD_STAGE_SWITCHED,
		[RSVD_DO_UNBLOCK] = RSVD_STAGE_UNBLOCKED,
		[RSVD_DO_FINALIZE] = RSVD_STAGE_IDLE,
	};
	struct move *m = private_data;
	struct rsvd_making *making = &record->making;

	m->status = NT_STATUS_OK;
	if (m->stage == RSVD_DO_INITIALIZE) {
		move_begin(record, m);
		return NT_STATUS_IS_OK(m->status) ? RSVD_CHANGE_STORE
						  : RSVD_CHANGE_NONE;
	}
	if (!is_same(making, m->state)) {
		m->status = NT_STATUS_INVALID_STATE;
		return RSVD_CHANGE_NONE;
	}
	if (making->stage == RSVD_STAGE_FAILED) {
		m->status = NT_STATUS_IO_TIMEOUT;
		return RSVD_CHANGE_NONE;
	}
	/* Its time was over when all was done but this. */
	if (m->stage == RSVD_DO_UNBLOCK &&
	    making->stage == RSVD_STAGE_UNBLOCKED) {
		return RSVD_CHANGE_NONE;
	}
	if (making->stage != before[m->stage] ||
	    making->type != m->state->s.type) {
		m->status = NT_STATUS_INVALID_STATE;
		return RSVD_CHANGE_NONE;
	}
	if (record->block.active) {
		record->block.working = false;
		record->block.worker = rsvd_shared_self(m->state->open);
	}
	making->stage = after[m->stage];
	making->worker = rsvd_shared_self(m->state->open);
	making->until_ms = rsvd_shared_now_ms() + MAKING_TIME_MS;
	m->state->s.flags = making->flags;
	if (m->stage == RSVD_DO_FINALIZE) {
		*making = (struct rsvd_making) {};
	}
	return RSVD_CHANGE_STORE;
}

static NTSTATUS record_move(struct snapshot_state *state, uint32_t stage)
{
	struct move m = { .state = state, .stage = stage };
	int ret = rsvd_shared_change(state->open, move, &m, NULL);

	return ret != 0 ? rsvd_status_of(ret) : m.status;
}

struct look {
	struct snapshot_state *state;
	struct rsvd_making making;
};

static enum rsvd_change look(struct rsvd_record *record, void *private_data)
{
	struct look *l = private_data;

	l->making = record->making;
	return RSVD_CHANGE_NONE;
}

/* ---- the stages -------------------------------------------------------------------------- */

static NTSTATUS initialize(struct snapshot_state *state)
{
	const struct vhdset_snapshot *s = NULL;
	struct rsvd_set *set = NULL;
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	if (guid_is_null(&state->s.id)) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	status = rsvd_set_open(state, state->open, true, &set);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	/* What a crash has left, while nobody is held up. */
	status = rsvd_set_tidy(set);
	if (NT_STATUS_IS_OK(status)) {
		ret = vhdset_snapshot_find(set->set, &state->s.id, &s);
		status = ret == 0 ? NT_STATUS_OBJECT_NAME_COLLISION :
			ret == -ENOENT ? NT_STATUS_OK : rsvd_status_of(ret);
	}
	TALLOC_FREE(set);
	return NT_STATUS_IS_OK(status) ?
		record_move(state, RSVD_DO_INITIALIZE) : status;
}

/*
 * Whether the leaf that was made before the block is still a child of the one
 * in force: the first write of a session gives that another linkage.
 */
static bool leaf_fits(struct snapshot_state *state, struct rsvd_set *set,
		      const char *parent)
{
	TALLOC_CTX *frame = NULL;
	const char *names[2] = { parent, state->leaf };
	struct store *stores[2] = {};
	struct vhdx *disks[2] = {};
	bool fits = state->leaf[0] != '\0' &&
		strcmp(parent, state->parent) == 0;
	size_t i = 0;

	if (!fits) {
		return false;
	}
	frame = talloc_stackframe();
	for (i = 0; i < 2 && fits; i++) {
		char *path = rsvd_file_beside(frame, set->open, names[i]);

		fits = path != NULL && NT_STATUS_IS_OK(rsvd_image_alone(
			frame, set->open, path, false, &stores[i],
			&disks[i]));
	}
	fits = fits && vhdx_parent_check(disks[1], disks[0]) == 0;
	talloc_free(disks[1]);
	talloc_free(disks[0]);
	TALLOC_FREE(frame);
	return fits;
}

static NTSTATUS switch_files(struct snapshot_state *state)
{
	struct vhdset_snapshot wanted = {
		.id = state->s.id, .type = state->s.type,
		.log_id = state->s.log_id,
	};
	char leaf[VHDSET_NAME_MAX] = "";
	struct vhdset_info info = {};
	struct timespec now = {};
	struct rsvd_set *set = NULL;
	NTSTATUS status = rsvd_set_open(state, state->open, true, &set);

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	wanted.created_ms = (uint64_t)now.tv_sec * 1000 +
		(uint64_t)now.tv_nsec / 1000000;
	if ((state->s.flags & RSVD_SNAPSHOT_TRACKED) != 0) {
		wanted.flags = VHDSET_TRACKED;
	}
	vhdset_info_get(set->set, &info);
	if (leaf_fits(state, set, info.leaf)) {
		strlcpy(leaf, state->leaf, sizeof(leaf));
	} else {
		status = rsvd_set_leaf_new(set, info.leaf, leaf);
	}
	step("switch-made");
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_changes_mark(state->open, set, &wanted, leaf);
	}
	step("switch-marked");
	if (NT_STATUS_IS_OK(status)) {
		int ret = vhdset_snapshot_add(set->set, &wanted, leaf);

		status = ret == -EEXIST ? NT_STATUS_OBJECT_NAME_COLLISION
					: rsvd_status_of(ret);
	}
	step("switch-added");
	TALLOC_FREE(set);
	return status;
}

/*
 * From here on nobody takes the block for over while this process lives and
 * its time is not over; and then it is ended.
 */
static enum rsvd_change work_begin(struct rsvd_record *record,
				   void *private_data)
{
	struct move *m = private_data;
	struct rsvd_making *making = &record->making;

	m->status = NT_STATUS_INVALID_STATE;
	if (!is_same(making, m->state)) {
		return RSVD_CHANGE_NONE;
	}
	if (making->stage == RSVD_STAGE_FAILED) {
		m->status = NT_STATUS_IO_TIMEOUT;
		return RSVD_CHANGE_NONE;
	}
	if (making->stage != RSVD_STAGE_BLOCKED || !record->block.active) {
		return RSVD_CHANGE_NONE;
	}
	record->block.working = true;
	record->block.worker = rsvd_shared_self(m->state->open);
	record->block.until_ms = rsvd_shared_now_ms() + VM_TIME_MS;
	record->block.time_ms = VM_TIME_MS;
	m->state->s.flags = making->flags;
	m->status = NT_STATUS_OK;
	return RSVD_CHANGE_STORE;
}

static void fail(struct tevent_req *req, NTSTATUS status, bool unblock)
{
	struct snapshot_state *state = tevent_req_data(req,
						       struct snapshot_state);

	if (unblock && !state->open->closed) {
		/* Whatever became of the files: everybody looks again. */
		rsvd_block_end(state->open, true, 0);
	}
	tevent_req_nterror(req, status);
}

/* False where it failed, and req is over. */
static bool switch_store(struct tevent_req *req, struct snapshot_state *state)
{
	struct move m = { .state = state };
	NTSTATUS status = rsvd_status_of(rsvd_shared_change(
		state->open, work_begin, &m, NULL));

	if (NT_STATUS_IS_OK(status)) {
		status = m.status;
	}
	if (!NT_STATUS_IS_OK(status)) {
		fail(req, status, false);
		return false;
	}
	status = switch_files(state);
	if (NT_STATUS_IS_OK(status)) {
		status = record_move(state, RSVD_DO_SWITCH);
	}
	if (!NT_STATUS_IS_OK(status)) {
		fail(req, status, true);
	}
	return NT_STATUS_IS_OK(status);
}

static void next_stages(struct tevent_req *req);

static void on_blocked(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct snapshot_state *state = tevent_req_data(req,
						       struct snapshot_state);
	NTSTATUS status = rsvd_block_recv(subreq);

	TALLOC_FREE(subreq);
	if (!NT_STATUS_IS_OK(status)) {
		fail(req, status, false);
		return;
	}
	status = record_move(state, RSVD_DO_BLOCK);
	if (NT_STATUS_IS_OK(status) && !rsvd_open_become_user(state->open)) {
		status = NT_STATUS_FILE_CLOSED;
	}
	if (!NT_STATUS_IS_OK(status)) {
		fail(req, status, true);
		return;
	}
	state->next++;
	next_stages(req);
}

static void on_ready(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct snapshot_state *state = tevent_req_data(req,
						       struct snapshot_state);
	int ret = vhdx_flush_recv(subreq);

	TALLOC_FREE(subreq);
	rsvd_image_put(state->image);
	if (tevent_req_nterror(req, rsvd_status_of(ret))) {
		return;
	}
	subreq = rsvd_block_send(state, state->open,
				 state->s.type == VHDSET_CDP ? CDP_TIME_MS
							     : VM_TIME_MS,
				 false);
	if (tevent_req_nomem(subreq, req)) {
		return;
	}
	tevent_req_set_callback(subreq, on_blocked, req);
}

/* What takes a while, while nobody is held up. */
static NTSTATUS prepare(struct snapshot_state *state)
{
	struct vhdset_info info = {};
	struct rsvd_set *set = NULL;
	NTSTATUS status = NT_STATUS_OK;

	if (state->next + 1 >= RSVD_STAGES ||
	    state->s.stages[state->next + 1] != RSVD_DO_SWITCH) {
		return status;
	}
	status = rsvd_set_open(state, state->open, true, &set);
	if (NT_STATUS_IS_OK(status)) {
		vhdset_info_get(set->set, &info);
		strlcpy(state->parent, info.leaf, sizeof(state->parent));
		status = rsvd_set_leaf_new(set, info.leaf, state->leaf);
	}
	TALLOC_FREE(set);
	return status;
}

static void block(struct tevent_req *req)
{
	struct snapshot_state *state = tevent_req_data(req,
						       struct snapshot_state);
	struct look l = { .state = state };
	struct tevent_req *subreq = NULL;
	NTSTATUS status = NT_STATUS_OK;
	int ret = rsvd_shared_change(state->open, look, &l, NULL);

	if (ret != 0) {
		fail(req, rsvd_status_of(ret), false);
		return;
	}
	if (!is_same(&l.making, state) ||
	    l.making.stage != RSVD_STAGE_INITIALIZED) {
		fail(req, is_same(&l.making, state) &&
		     l.making.stage == RSVD_STAGE_FAILED ?
		     NT_STATUS_IO_TIMEOUT : NT_STATUS_INVALID_STATE, false);
		return;
	}
	status = prepare(state);
	if (tevent_req_nterror(req, status)) {
		return;
	}
	/* So that little is left for the flush in the block. */
	state->image = state->open->image;
	rsvd_image_get(state->image);
	subreq = vhdx_flush_send(state, state->open->ev, state->image->disk);
	if (subreq == NULL) {
		rsvd_image_put(state->image);
		tevent_req_nterror(req, NT_STATUS_NO_MEMORY);
		return;
	}
	tevent_req_set_callback(subreq, on_ready, req);
}

/* As many stages as need no wait. */
static void next_stages(struct tevent_req *req)
{
	struct snapshot_state *state = tevent_req_data(req,
						       struct snapshot_state);
	NTSTATUS status = NT_STATUS_OK;

	while (NT_STATUS_IS_OK(status) && state->next < RSVD_STAGES &&
	       state->s.stages[state->next] != 0) {
		switch (state->s.stages[state->next]) {
		case RSVD_DO_INITIALIZE:
			status = initialize(state);
			break;
		case RSVD_DO_BLOCK:
			block(req);
			return;
		case RSVD_DO_SWITCH:
			if (!switch_store(req, state)) {
				return;
			}
			break;
		case RSVD_DO_UNBLOCK:
			status = record_move(state, RSVD_DO_UNBLOCK);
			if (NT_STATUS_IS_OK(status)) {
				status = rsvd_block_end(state->open, true, 0);
				/* Below it nobody writes any more. */
				rsvd_merge_kick(state->open);
			}
			break;
		default:
			status = record_move(state, RSVD_DO_FINALIZE);
			break;
		}
		state->next++;
	}
	if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
}

struct tevent_req *rsvd_snapshot_send(TALLOC_CTX *mem_ctx,
				      struct rsvd_open *open,
				      const struct rsvd_meta *meta)
{
	struct snapshot_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct snapshot_state);

	if (req == NULL) {
		return NULL;
	}
	state->open = open;
	state->meta = *meta;
	(void)rsvd_meta_snapshot_decode(meta->data, meta->length, &state->s);
	next_stages(req);
	if (!tevent_req_is_in_progress(req)) {
		return tevent_req_post(req, open->ev);
	}
	return req;
}
