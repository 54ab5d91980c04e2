/*
 * What takes long, in a thread: preparing and taking the snapshots of a set.
 * Calls wait for it as long as their clients said, and the job goes on after
 * that, so that a repeated CommitShadowCopySet finds it done.
 */
#include <pthread.h>

#include "fsrvp.h"

/* The client's own patience for one call is 180 s: it is answered before. */
#define LONGEST_MS 170000

struct item {
	struct guid copy;
	const char *share;
	const struct provider *provider;
	struct provider_config config;
	struct provider_job job;
	int error;
};

struct waiter {
	struct fsrvp_job *job;
	struct dcesrv_call_state *dce_call;
	uint32_t *result;
	struct waiter *prev, *next;
};

struct fsrvp_job {
	struct fsrvp *server;
	struct guid set;
	bool commit;
	struct item *items;
	size_t count;
	struct waiter *waiters;
	int done[2];		/* a pipe: the thread has ended */
	pthread_t thread;
	bool stop;
};

/* ---- the thread: nothing of Samba -------------------------------------------- */

/*
 * A failed copy ends the set; what it and those before left is taken away by
 * the undo.
 */
static void *job_thread(void *private_data)
{
	struct fsrvp_job *job = private_data;
	size_t i = 0;
	ssize_t written = 0;

	for (i = 0; i < job->count; i++) {
		struct item *item = &job->items[i];

		item->error = job->commit
			? item->provider->create(&item->job)
			: item->provider->prepare(&item->job);
		if (item->error != 0) {
			break;
		}
	}
	written = write(job->done[1], "", 1);
	(void)written;
	return NULL;
}

/* ---- its end ------------------------------------------------------------------ */

static uint32_t error_code(int error)
{
	switch (-error) {
	case 0:
		return SNAPSET_OK;
	case ENOSPC:
	case EDQUOT:
		return SNAPSET_NO_SPACE;
	case ENOMEM:
		return SNAPSET_NO_MEMORY;
	case EOPNOTSUPP:
		return SNAPSET_NOT_SUPPORTED;
	default:
		return SNAPSET_FAIL;
	}
}

static uint32_t job_result(const struct fsrvp_job *job)
{
	size_t i = 0;

	for (i = 0; i < job->count; i++) {
		const struct item *item = &job->items[i];
		const struct provider_job *done = &item->job;

		if (item->error != 0) {
			DBG_ERR("hvrs: fsrvp: share %s: the snapshot %s "
				"failed: %s%s%s\n", item->share,
				done->snapshot != NULL ? done->snapshot : "",
				strerror(-item->error),
				done->why != NULL ? ": " : "",
				done->why != NULL ? done->why : "");
			return error_code(item->error);
		}
		if (job->commit) {
			DBG_NOTICE("hvrs: fsrvp: share %s: snapshot %s taken; "
				   "%"PRIu64" files cloned while writers "
				   "waited %"PRIu64" us\n", item->share,
				   done->snapshot, done->files,
				   done->stall_ns / 1000);
		}
	}
	return SNAPSET_OK;
}

static void answer(struct fsrvp_job *job, uint32_t result)
{
	while (job->waiters != NULL) {
		struct waiter *waiter = job->waiters;
		struct dcesrv_call_state *dce_call = waiter->dce_call;

		*waiter->result = result;
		talloc_free(waiter);
		rpc_reply_later(dce_call);
	}
}

static void job_ended(struct tevent_context *ev, struct tevent_fd *fde,
		      uint16_t flags, void *private_data)
{
	struct fsrvp_job *job = private_data;
	struct fsrvp *server = job->server;
	TALLOC_CTX *frame = talloc_stackframe();
	struct snapset_state *state = NULL;
	uint32_t result = SNAPSET_OK;
	bool changed = false;

	(void)ev;
	(void)flags;
	TALLOC_FREE(fde);
	pthread_join(job->thread, NULL);
	close(job->done[0]);
	close(job->done[1]);
	result = job_result(job);
	server->job = NULL;
	if (state_snapsets_load(frame, server->db, &state) != 0) {
		result = SNAPSET_FAIL;
	} else {
		if (job->commit) {
			snapset_commit_done(state, &server->rules, &job->set,
					    result, fsrvp_now(), &changed);
		} else {
			snapset_prepare_done(state, &server->rules, result,
					     fsrvp_now(), &changed);
		}
		if (changed && fsrvp_store(server, state) != 0) {
			result = SNAPSET_FAIL;
		}
		fsrvp_undo(server, state);
	}
	state_snapsets_end(server->db);
	answer(job, result);
	talloc_free(job);
	TALLOC_FREE(frame);
}

/* ---- waiting ------------------------------------------------------------------- */

static int waiter_gone(struct waiter *waiter)
{
	DLIST_REMOVE(waiter->job->waiters, waiter);
	return 0;
}

static void patience_over(struct tevent_context *ev, struct tevent_timer *te,
			  struct timeval now, void *private_data)
{
	struct waiter *waiter = private_data;
	struct fsrvp_job *job = waiter->job;
	struct dcesrv_call_state *dce_call = waiter->dce_call;
	TALLOC_CTX *frame = talloc_stackframe();
	struct snapset_state *state = NULL;
	bool changed = false;

	(void)ev;
	(void)te;
	(void)now;
	*waiter->result = job->commit ? SNAPSET_COMMIT_TIMEOUT
				      : SNAPSET_WAIT_TIMEOUT;
	if (state_snapsets_load(frame, job->server->db, &state) == 0) {
		snapset_timer_short(state, &job->server->rules, fsrvp_now(),
				    &changed);
		fsrvp_store(job->server, state);
	}
	talloc_free(waiter);
	rpc_reply_later(dce_call);
	TALLOC_FREE(frame);
}

uint32_t fsrvp_job_wait(struct fsrvp_call *call, uint32_t timeout_ms)
{
	struct fsrvp_job *job = call->server->job;
	struct waiter *waiter = NULL;
	struct tevent_timer *timer = NULL;
	uint32_t over = job->commit ? SNAPSET_COMMIT_TIMEOUT
				    : SNAPSET_WAIT_TIMEOUT;

	if ((call->dce_call->state_flags &
	     DCESRV_CALL_STATE_FLAG_MAY_ASYNC) == 0 || timeout_ms == 0) {
		return over;
	}
	waiter = talloc_zero(call->mem_ctx, struct waiter);
	if (waiter == NULL) {
		return SNAPSET_NO_MEMORY;
	}
	timer = tevent_add_timer(
		call->server->ev, waiter,
		timeval_current_ofs_msec(MIN(timeout_ms, LONGEST_MS)),
		patience_over, waiter);
	if (timer == NULL) {
		talloc_free(waiter);
		return SNAPSET_WAIT_FAILED;
	}
	waiter->job = job;
	waiter->dce_call = call->dce_call;
	waiter->result = call->result;
	DLIST_ADD(job->waiters, waiter);
	talloc_set_destructor(waiter, waiter_gone);
	call->later = true;
	return SNAPSET_OK;
}

/* ---- its begin ------------------------------------------------------------------ */

/*
 * A name of shadow_copy2's kind that no snapshot there has: the time in whole
 * seconds, later ones where it is taken.
 */
static char *new_snapshot(TALLOC_CTX *mem_ctx, const char *root)
{
	time_t at = time(NULL);
	int tries = 0;

	for (tries = 0; tries < 3600; tries++, at++) {
		struct tm tm = {};
		char text[32] = "";
		struct stat st = {};
		char *path = NULL;

		if (gmtime_r(&at, &tm) == NULL ||
		    strftime(text, sizeof(text),
			     "@GMT-%Y.%m.%d-%H.%M.%S", &tm) == 0) {
			return NULL;
		}
		path = talloc_asprintf(mem_ctx, "%s/%s/%s",
				       strcmp(root, "/") == 0 ? "" : root,
				       PROVIDER_FOLDER, text);
		if (path == NULL ||
		    (lstat(path, &st) != 0 && errno == ENOENT)) {
			return path;
		}
		talloc_free(path);
	}
	return NULL;
}

/* The share as it is now: it may have moved since it was added. */
static uint32_t fill_item(struct fsrvp_call *call, struct fsrvp_job *job,
			  const struct snapset_set *set,
			  struct snapset_copy *copy, struct item *item)
{
	struct fsrvp_share share = {};
	char *unc = talloc_asprintf(call->mem_ctx, "\\\\localhost\\%s",
				    copy->share);
	uint32_t result = SNAPSET_NO_MEMORY;

	if (unc != NULL) {
		result = fsrvp_share_find(call, unc, &share);
	}
	if (result == SNAPSET_OK) {
		result = fsrvp_share_probe(job, &share);
	}
	if (result != SNAPSET_OK) {
		return result;
	}
	if (strcmp(share.store.id, copy->store) != 0) {
		DBG_ERR("hvrs: fsrvp: share %s lies elsewhere than when it "
			"was added to the set: no snapshot\n", share.name);
		return SNAPSET_FAIL;
	}
	item->copy = copy->id;
	item->share = talloc_strdup(job, share.name);
	item->provider = share.provider;
	item->config = share.config;
	item->config.script = talloc_strdup(job, share.config.script);
	item->config.freeze = talloc_strdup(job, share.config.freeze);
	item->config.freeze_file = talloc_strdup(job,
						 share.config.freeze_file);
	item->job.config = &item->config;
	item->job.root = talloc_strdup(job, share.store.root);
	item->job.writable = (set->context & SNAPSET_AUTO_RECOVERY) != 0;
	item->job.stop = &job->stop;
	if (item->share == NULL || item->job.root == NULL) {
		return SNAPSET_NO_MEMORY;
	}
	if (job->commit) {
		item->job.snapshot = new_snapshot(job, item->job.root);
		if (item->job.snapshot == NULL) {
			return SNAPSET_NO_MEMORY;
		}
		copy->snapshot = item->job.snapshot;
		copy->created = unix_timespec_to_nt_time(
			timespec_current());
		call->changed = true;
	}
	return SNAPSET_OK;
}

static uint32_t start_thread(struct fsrvp *server, struct fsrvp_job *job)
{
	struct tevent_fd *fde = NULL;
	int ret = 0;

	if (pipe(job->done) != 0) {
		return SNAPSET_WAIT_FAILED;
	}
	fde = tevent_add_fd(server->ev, job, job->done[0], TEVENT_FD_READ,
			    job_ended, job);
	ret = fde == NULL ? ENOMEM
			  : pthread_create(&job->thread, NULL, job_thread,
					   job);
	if (ret != 0) {
		TALLOC_FREE(fde);
		close(job->done[0]);
		close(job->done[1]);
		return SNAPSET_WAIT_FAILED;
	}
	return SNAPSET_OK;
}

uint32_t fsrvp_job_begin(struct fsrvp_call *call, struct snapset_set *set,
			 bool commit, uint32_t timeout_ms)
{
	struct fsrvp *server = call->server;
	struct fsrvp_job *job = NULL;
	struct snapset_copy *copy = NULL;
	uint32_t result = SNAPSET_OK;
	bool first = false;

	if (server->job != NULL) {
		return SNAPSET_IN_PROGRESS;
	}
	job = talloc_zero(server, struct fsrvp_job);
	if (job == NULL) {
		return SNAPSET_NO_MEMORY;
	}
	job->server = server;
	job->set = set->id;
	job->commit = commit;
	job->items = talloc_zero_array(job, struct item, SNAPSET_MAX_COPIES);
	if (job->items == NULL) {
		talloc_free(job);
		return SNAPSET_NO_MEMORY;
	}
	for (copy = set->copies; copy != NULL; copy = copy->next) {
		result = fill_item(call, job, set, copy,
				   &job->items[job->count++]);
		if (result != SNAPSET_OK) {
			break;
		}
	}
	/* What it is about to make is known before it begins. */
	if (result == SNAPSET_OK && call->changed &&
	    fsrvp_store(server, call->state) != 0) {
		result = SNAPSET_FAIL;
	}
	call->changed = false;
	if (result == SNAPSET_OK) {
		result = start_thread(server, job);
	}
	if (result != SNAPSET_OK) {
		talloc_free(job);
		return result;
	}
	/* The call has it already, and the job beyond its end. */
	(void)state_snapsets_begin(server->db, &first);
	server->job = job;
	server->job_is_prepare = !commit;
	return fsrvp_job_wait(call, timeout_ms);
}
