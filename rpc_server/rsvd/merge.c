/*
 * Merging, in the background and by OPTIMIZE (MS-RSVD 3.2.5.5.7.3): a file
 * that no snapshot has any more becomes one with its only child.
 *
 * The new file is built beside the others and takes the child's name: that
 * rename is the commit.  Before it a crash leaves a stray file, after it a
 * parent that nothing needs; both are noted.  Who has the old files open goes
 * on reading them, until it looks at the set again.
 */
#include "server.h"
#include "step.h"

#define SOON_MS 20
/* A new open leaves the disk to its client for a while. */
#define START_MS 1000
/* Another process is at it. */
#define BUSY_MS 500

/* An OPTIMIZE that waits. */
struct waiter {
	struct waiter *prev, *next;
	struct tevent_req *req;
	const struct rsvd_meta *meta;
};

/* What is to become one. */
struct plan {
	char *top;
	char *bottom;
	unsigned depth;
};

struct worker {
	struct rsvd_open *open;		/* NULL: it is gone */
	struct tevent_context *ev;
	struct tevent_timer *timer;
	struct tevent_req *lock;	/* asked for */
	struct waiter *waiters;
	struct plan *plan;
	char *path;			/* of what is built */
	bool has_merge;			/* the lock */
	bool running;			/* a build is under way */
	bool again;
	bool copies;			/* blocks cannot be shared here */
	bool told;			/* that it is at work */
};

/* Its transaction, for people. */
static const struct guid background;

static void worker_later(struct worker *w, unsigned ms);

/* ---- what there is to do -------------------------------------------------------------- */

/*
 * How far down a file may take its parents in.  Where blocks cannot be shared
 * all of it is copied: then only such that are not much more than what is
 * copied anyway, so that a chain is not written over and over again.
 */
static unsigned merge_depth(const struct rsvd_part *top, bool all)
{
	const struct rsvd_part *part = top->parent;
	uint64_t bytes = top->bytes;
	unsigned depth = 0;

	while (rsvd_part_merges(part) && (all || part->bytes <= 2 * bytes)) {
		bytes += part->bytes;
		depth++;
		part = part->parent;
	}
	return depth;
}

static struct plan *plan_make(TALLOC_CTX *mem_ctx,
			      const struct rsvd_part *top, unsigned depth)
{
	struct plan *plan = talloc_zero(mem_ctx, struct plan);
	const struct rsvd_part *bottom = top;
	unsigned i = 0;

	if (plan == NULL) {
		return NULL;
	}
	for (i = 0; i < depth; i++) {
		bottom = bottom->parent;
	}
	plan->depth = depth;
	plan->top = talloc_strdup(plan, top->path);
	plan->bottom = talloc_strdup(plan, bottom->path);
	if (plan->top == NULL || plan->bottom == NULL) {
		TALLOC_FREE(plan);
	}
	return plan;
}

/* NULL where there is nothing to do. */
static struct plan *plan_find(TALLOC_CTX *mem_ctx,
			      const struct rsvd_parts *parts, bool all)
{
	size_t i = 0;

	for (i = 0; i < parts->count; i++) {
		const struct rsvd_part *top = parts->list[i];
		unsigned depth = 0;

		if (!top->is_leaf && !rsvd_part_merges(top)) {
			depth = merge_depth(top, all);
		}
		if (depth > 0) {
			return plan_make(mem_ctx, top, depth);
		}
	}
	return NULL;
}

bool rsvd_merge_needed(struct rsvd_open *open)
{
	TALLOC_CTX *frame = NULL;
	struct rsvd_parts *parts = NULL;
	struct rsvd_set *set = NULL;
	bool needed = false;

	if (!open->is_set || !rsvd_set_has_notes(open)) {
		return false;
	}
	frame = talloc_stackframe();
	if (NT_STATUS_IS_OK(rsvd_set_open(frame, open, false, &set)) &&
	    NT_STATUS_IS_OK(rsvd_parts_look(frame, set, &parts))) {
		needed = plan_find(frame, parts, true) != NULL;
	}
	TALLOC_FREE(frame);
	return needed;
}

/* ---- the worker's end ----------------------------------------------------------------- */

static void locks_give(struct worker *w)
{
	if (w->has_merge && w->open != NULL) {
		rsvd_fence_give(w->open->fence, RSVD_FENCE_MERGE);
	}
	w->has_merge = false;
}

static void waiters_tell(struct worker *w, NTSTATUS status)
{
	while (w->waiters != NULL) {
		struct waiter *waiter = w->waiters;
		struct tevent_req *req = waiter->req;

		DLIST_REMOVE(w->waiters, waiter);
		if (!tevent_req_nterror(req, status)) {
			tevent_req_done(req);
		}
	}
}

/* Nothing more to do, or not now. */
static void rest(struct worker *w, NTSTATUS status)
{
	locks_give(w);
	if (w->told && w->open != NULL && !w->open->closed) {
		rsvd_meta_tell_over(w->open, &background, RSVD_PROGRESS_MERGE,
				    status);
	}
	w->told = false;
	TALLOC_FREE(w->plan);
	TALLOC_FREE(w->path);
	if (!NT_STATUS_IS_OK(status) && w->open != NULL) {
		DBG_WARNING("hvrs: shared disk %s: files of deleted snapshots "
			    "cannot be merged: %s\n", w->open->path,
			    nt_errstr(status));
	}
	if (w->again && w->open != NULL) {
		w->again = false;
		worker_later(w, SOON_MS);
		return;
	}
	waiters_tell(w, status);
}

void rsvd_merge_stop(struct rsvd_open *open)
{
	struct worker *w = open->merge;

	if (w == NULL) {
		return;
	}
	locks_give(w);
	TALLOC_FREE(w->timer);
	TALLOC_FREE(w->lock);
	open->merge = NULL;
	w->open = NULL;
	waiters_tell(w, NT_STATUS_FILE_CLOSED);
	if (!w->running) {
		talloc_free(w);
	}
}

/* ---- the commit ------------------------------------------------------------------------- */

static enum rsvd_change next_epoch(struct rsvd_record *record,
				   void *private_data)
{
	(void)private_data;
	record->epoch++;
	return RSVD_CHANGE_FENCE;
}

/* Whether the chain is still as it was when the build began. */
static NTSTATUS plan_check(struct worker *w, struct rsvd_set *set,
			   struct store *top)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct rsvd_parts *parts = NULL;
	const struct rsvd_part *part = NULL;
	unsigned i = 0;
	bool is = false;
	NTSTATUS status = rsvd_parts_look(frame, set, &parts);

	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_is(w->open, w->plan->top, top, &is);
	}
	if (NT_STATUS_IS_OK(status) && is) {
		part = rsvd_parts_find(parts, w->plan->top);
		is = part != NULL && !part->is_leaf;
	}
	for (i = 0; is && i < w->plan->depth; i++) {
		part = part->parent;
		is = rsvd_part_merges(part);
	}
	is = is && strcmp(part->path, w->plan->bottom) == 0;
	TALLOC_FREE(frame);
	return !NT_STATUS_IS_OK(status) || is ? status : NT_STATUS_RETRY;
}

struct built {
	struct worker *w;
	struct store *made;
	struct store *top;
};

static NTSTATUS commit(struct worker *w, struct built *built)
{
	struct rsvd_open *open = w->open;
	struct rsvd_set *set = NULL;
	NTSTATUS status = rsvd_set_open(w, open, true, &set);

	if (NT_STATUS_IS_OK(status)) {
		status = plan_check(w, set, built->top);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_rights_copy(built->made, built->top);
	}
	/* By its new name others must be able to open it at once. */
	TALLOC_FREE(built->made);
	step("merge-built");
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_replace(open, w->path, w->plan->top);
	}
	step("merge-renamed");
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_folder_flush(open, w->plan->top);
	}
	if (NT_STATUS_IS_OK(status)) {
		/* Before a file goes that somebody may be about to open. */
		status = rsvd_status_of(rsvd_shared_change(open, next_epoch,
							   NULL, NULL));
	}
	step("merge-told");
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_set_tidy(set);
	}
	step("merge-tidied");
	TALLOC_FREE(set);
	return status;
}

static void commit_over(struct worker *w, NTSTATUS status)
{
	bool changed = NT_STATUS_EQUAL(status, NT_STATUS_RETRY);

	/* There may be more, or what is to be done is another now. */
	w->again = w->again || NT_STATUS_IS_OK(status) || changed;
	rest(w, changed ? NT_STATUS_OK : status);
}

static void on_commit_lock(struct tevent_req *req)
{
	struct built *built = tevent_req_callback_data(req, struct built);
	struct worker *w = built->w;
	NTSTATUS status = rsvd_lock_recv(req);

	w->lock = NULL;
	TALLOC_FREE(req);
	if (!NT_STATUS_IS_OK(status)) {
		TALLOC_FREE(built);
		rest(w, status);
		return;
	}
	if (rsvd_open_become_user(w->open)) {
		status = commit(w, built);
		if (!NT_STATUS_IS_OK(status)) {
			(void)rsvd_file_remove(w->open, w->path);
		}
	} else {
		status = NT_STATUS_FILE_CLOSED;
	}
	TALLOC_FREE(built);
	rsvd_fence_give(w->open->fence, RSVD_FENCE_SET);
	commit_over(w, status);
}

/* What could not be built. */
static void build_over(struct worker *w, NTSTATUS status)
{
	if (rsvd_open_become_user(w->open)) {
		(void)rsvd_file_remove(w->open, w->path);
	}
	if (NT_STATUS_EQUAL(status, NT_STATUS_NOT_SUPPORTED)) {
		/* Blocks cannot be shared: what is worth a copy then? */
		w->copies = true;
		w->again = true;
		status = NT_STATUS_OK;
	}
	rest(w, status);
}

static void on_built(struct tevent_req *req)
{
	struct worker *w = tevent_req_callback_data(req, struct worker);
	struct built *built = talloc_zero(w, struct built);
	NTSTATUS status = built != NULL ?
		rsvd_build_recv(req, built, &built->made, &built->top) :
		NT_STATUS_NO_MEMORY;

	TALLOC_FREE(req);
	w->running = false;
	if (w->open == NULL) {
		/* What it has built is noted. */
		talloc_free(w);
		return;
	}
	if (!NT_STATUS_IS_OK(status)) {
		TALLOC_FREE(built);
		build_over(w, status);
		return;
	}
	built->w = w;
	w->lock = rsvd_lock_send(w, w->open, RSVD_FENCE_SET);
	if (w->lock == NULL) {
		TALLOC_FREE(built);
		rest(w, NT_STATUS_NO_MEMORY);
		return;
	}
	tevent_req_set_callback(w->lock, on_commit_lock, built);
}

/* ---- the build ---------------------------------------------------------------------------- */

static bool on_progress(void *private_data, uint64_t done, uint64_t all)
{
	struct worker *w = private_data;
	struct waiter *waiter = NULL;

	if (w->open == NULL || w->open->closed) {
		return false;
	}
	if (w->waiters == NULL) {
		rsvd_meta_tell(w->open, &background, RSVD_PROGRESS_MERGE, done,
			       all);
		w->told = true;
	}
	for (waiter = w->waiters; waiter != NULL; waiter = waiter->next) {
		rsvd_meta_tell(w->open, &waiter->meta->transaction,
			       waiter->meta->type, done, all);
	}
	return true;
}

static NTSTATUS build_start(struct worker *w, struct rsvd_set *set)
{
	struct rsvd_build build = {
		.top = w->plan->top, .bottom = w->plan->bottom,
		.depth = w->plan->depth, .with_linkage = true,
		.clone_only = w->waiters == NULL && !w->copies,
		.progress = on_progress, .private_data = w,
	};
	char name[VHDSET_NAME_MAX] = "";
	struct tevent_req *req = NULL;
	NTSTATUS status = rsvd_set_build_new(set, name);

	if (NT_STATUS_IS_OK(status)) {
		w->path = rsvd_file_beside(w, w->open, name);
		status = w->path != NULL ? NT_STATUS_OK : NT_STATUS_NO_MEMORY;
	}
	step("merge-noted");
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	build.path = w->path;
	req = rsvd_build_send(w, w->open, &build);
	if (req == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	w->running = true;
	tevent_req_set_callback(req, on_built, w);
	step("merge-begun");
	return NT_STATUS_OK;
}

/* With the set's lock.  Looks for work, and begins with it. */
static void look(struct worker *w)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct rsvd_parts *parts = NULL;
	struct rsvd_set *set = NULL;
	NTSTATUS status = rsvd_set_open(frame, w->open, true, &set);

	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_set_tidy(set);
	}
	if (NT_STATUS_IS_OK(status) && rsvd_set_has_notes(w->open)) {
		status = rsvd_parts_look(frame, set, &parts);
	}
	if (NT_STATUS_IS_OK(status) && parts != NULL) {
		w->plan = plan_find(w, parts, w->waiters != NULL ||
				    !w->copies);
	}
	if (NT_STATUS_IS_OK(status) && w->plan != NULL) {
		status = build_start(w, set);
	}
	TALLOC_FREE(frame);
	rsvd_fence_give(w->open->fence, RSVD_FENCE_SET);
	if (!w->running) {
		rest(w, status);
	}
}

static void on_look_lock(struct tevent_req *req)
{
	struct worker *w = tevent_req_callback_data(req, struct worker);
	NTSTATUS status = rsvd_lock_recv(req);

	w->lock = NULL;
	TALLOC_FREE(req);
	if (!NT_STATUS_IS_OK(status)) {
		rest(w, status);
		return;
	}
	if (!rsvd_open_become_user(w->open)) {
		rsvd_fence_give(w->open->fence, RSVD_FENCE_SET);
		rest(w, NT_STATUS_FILE_CLOSED);
		return;
	}
	look(w);
}

static void on_timer(struct tevent_context *ev, struct tevent_timer *timer,
		     struct timeval now, void *private_data)
{
	struct worker *w = private_data;
	int ret = 0;

	(void)ev;
	(void)timer;
	(void)now;
	w->timer = NULL;
	if (w->open->closed || w->open->fence == NULL) {
		rest(w, NT_STATUS_FILE_CLOSED);
		return;
	}
	if (!rsvd_open_become_user(w->open) ||
	    !rsvd_set_has_notes(w->open)) {
		rest(w, NT_STATUS_OK);
		return;
	}
	ret = rsvd_fence_take(w->open->fence, RSVD_FENCE_MERGE);
	if (ret == -EAGAIN) {
		worker_later(w, BUSY_MS);
		return;
	}
	w->has_merge = ret == 0;
	w->lock = ret == 0 ? rsvd_lock_send(w, w->open, RSVD_FENCE_SET)
			   : NULL;
	if (w->lock == NULL) {
		rest(w, rsvd_status_of(ret != 0 ? ret : -ENOMEM));
		return;
	}
	tevent_req_set_callback(w->lock, on_look_lock, w);
}

static void worker_later(struct worker *w, unsigned ms)
{
	w->timer = tevent_add_timer(w->ev, w, timeval_current_ofs_msec(ms),
				    on_timer, w);
	if (w->timer == NULL) {
		waiters_tell(w, NT_STATUS_NO_MEMORY);
	}
}

static struct worker *worker_get(struct rsvd_open *open, unsigned ms)
{
	struct worker *w = open->merge;

	if (!open->is_set || rsvd_open_is_snapshot(open) || open->closed) {
		return NULL;
	}
	if (w == NULL) {
		/* A build may outlive the open. */
		w = talloc_zero(NULL, struct worker);
		if (w == NULL) {
			return NULL;
		}
		w->open = open;
		w->ev = open->ev;
		open->merge = w;
	}
	if (w->running || w->lock != NULL) {
		w->again = true;
		return w;
	}
	TALLOC_FREE(w->timer);
	worker_later(w, ms);
	return w;
}

void rsvd_merge_start(struct rsvd_open *open)
{
	(void)worker_get(open, START_MS);
}

void rsvd_merge_kick(struct rsvd_open *open)
{
	(void)worker_get(open, SOON_MS);
}

/* ---- OPTIMIZE ------------------------------------------------------------------------------ */

struct optimize_state {
	struct waiter waiter;
	struct rsvd_meta meta;
};

struct tevent_req *rsvd_optimize_send(TALLOC_CTX *mem_ctx,
				      struct rsvd_open *open,
				      const struct rsvd_meta *meta)
{
	struct optimize_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct optimize_state);
	struct worker *w = NULL;

	if (req == NULL) {
		return NULL;
	}
	state->meta = *meta;
	state->waiter.req = req;
	state->waiter.meta = &state->meta;
	w = worker_get(open, 0);
	if (w == NULL) {
		tevent_req_nterror(req, NT_STATUS_FILE_CLOSED);
		return tevent_req_post(req, open->ev);
	}
	/* What follows may end the open, and with it the worker. */
	tevent_req_defer_callback(req, open->ev);
	DLIST_ADD_END(w->waiters, &state->waiter);
	return req;
}
