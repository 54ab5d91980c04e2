/*
 * Before a command runs: unit attentions and reservations, which all processes
 * of a disk share.
 *
 * A plain command looks at its own copy of the state and at the generation of
 * the fence; nothing else while nobody changes reservations.  What changes the
 * state locks the record, decides, makes it durable where APTPL says so,
 * stores, and raises the generation.  Then it waits until no write is under
 * way any more that was admitted before and would not be now; who does not end
 * in time is ended.  Only then is it answered.
 */
#include "server.h"

/* How long a write may take before its process is taken for stuck. */
#define FENCE_PATIENCE_MS 3000
#define FENCE_POLL_FIRST_US 200
#define FENCE_POLL_MOST_US 20000
/* On a cluster: how long before a node that does not end is given up on. */
#define FENCE_GIVE_UP_MS 30000
/* How long the record's lock is waited for, before others have their turn. */
#define LOCK_TRY_MS 20

/* ---- without the lock ------------------------------------------------------------------- */

static bool needs_lock(const struct scsi_command *c)
{
	switch (c->cdb[0]) {
	case 0x5F: case 0x16: case 0x17: case 0x56: case 0x57:
		return true;
	case 0x5E:
		/* Answered here too, behind the same fence. */
		return true;
	}
	return false;
}

/* Whether it may take the right to write from others. */
static bool takes_away(const struct scsi_command *c)
{
	switch (c->cdb[0]) {
	case 0x16: case 0x56:
		return true;
	case 0x5F:
		/* RESERVE, PREEMPT, PREEMPT AND ABORT, REGISTER AND MOVE */
		switch (c->cdb[1] & 0x1F) {
		case 1: case 4: case 5: case 7:
			return true;
		}
		return false;
	}
	return false;
}

bool rsvd_admit_now(struct rsvd_open *open, const struct scsi_command *command,
		    struct rsvd_admitted *_a)
{
	struct scsi_admission admission = {};
	bool writes = scsi_command_writes(command->cdb);

	if (!open->known || needs_lock(command) ||
	    scsi_pr_attention(&open->pr, &open->nexus) != SCSI_SENSE_NONE) {
		return false;
	}
	/* Who only reads is in nobody's way. */
	if (writes ? !rsvd_fence_enter(open->fence, open->generation) :
	    rsvd_fence_generation(open->fence) != open->generation) {
		open->known = false;
		return false;
	}
	scsi_pr_admit(&open->pr, &open->nexus, command->cdb, &admission);
	*_a = (struct rsvd_admitted) {
		.go = admission.go, .fenced = admission.go && writes,
		.generation = open->generation,
		.result = admission.result,
	};
	if (writes && !_a->go) {
		rsvd_fence_exit(open->fence, open->generation);
	}
	return true;
}

void rsvd_admit_over(struct rsvd_open *open, const struct rsvd_admitted *a)
{
	if (a->fenced) {
		rsvd_fence_exit(open->fence, a->generation);
	}
}

/* ---- with it --------------------------------------------------------------------------- */

struct admit_state {
	struct rsvd_open *open;
	struct scsi_command *command;
	struct rsvd_admitted a;
	uint64_t wait_for;		/* fence: this generation */
	uint64_t epoch;			/* the record's, where it is another */
	uint64_t blocked;		/* the fence's generation then */
	uint64_t look_ms;		/* when to look at the record again */
	unsigned refreshes;
	struct scsi_pr_effect effect;
	struct timeval patience;
	struct timeval give_up;
	unsigned poll_us;
	bool killing;
};

/* Makes what APTPL keeps durable before anybody hears of it. */
static int keep(struct rsvd_open *open, const struct scsi_pr *before,
		const struct scsi_pr *after)
{
	if (!before->persist && !after->persist) {
		return 0;
	}
	return rsvd_shared_keep_reservations(open,
					     after->persist ? after : NULL);
}

static int change(struct rsvd_open *open, struct state_rsvd_lock *lock,
		  const struct scsi_pr *before, bool reservations,
		  uint64_t *_generation)
{
	int ret = reservations ? keep(open, before, &lock->record->pr) : 0;

	if (ret != 0) {
		return ret;
	}
	return rsvd_shared_store(open, lock, _generation);
}

/* A cluster: its files cannot be read or written from this node any more. */
static void broken(struct admit_state *state)
{
	DBG_ERR("hvrs: shared disk %s: the state that all nodes have cannot be "
		"reached: %s. Its commands fail until it is opened anew\n",
		state->open->path,
		strerror(-rsvd_fence_error(state->open->fence)));
	scsi_result_sense(&state->a.result, SCSI_SENSE_INTERNAL);
	state->a.go = false;
}

/* Decides with the record in hand.  Everything but the fence happens here. */
static int decide(struct admit_state *state, struct state_rsvd_lock *lock)
{
	struct rsvd_open *open = state->open;
	struct scsi_command *c = state->command;
	struct scsi_pr *pr = &lock->record->pr;
	struct scsi_pr *before = talloc_memdup(lock, pr, sizeof(*pr));
	struct scsi_admission admission = {};
	uint64_t generation = rsvd_fence_settle(open->fence);
	bool changed = false;
	bool reservations = false;
	int ret = 0;

	if (before == NULL) {
		return -ENOMEM;
	}
	if (rsvd_fence_error(open->fence) != 0) {
		broken(state);
		return 0;
	}
	if (rsvd_shared_recover(open, lock->record)) {
		ret = rsvd_shared_store(open, lock, &generation);
		if (ret != 0) {
			return ret;
		}
	}
	if (lock->record->block.active) {
		state->blocked = generation;
		return -EBUSY;
	}
	if (lock->record->epoch != open->image->epoch) {
		state->epoch = lock->record->epoch;
		return -ESTALE;
	}
	scsi_pr_admit(pr, &open->nexus, c->cdb, &admission);
	state->a.attention = admission.attention;
	state->a.result = admission.result;
	changed = admission.changed;
	if (admission.go && c->cdb[0] == 0x5F) {
		scsi_pr_out(pr, &open->nexus, c->cdb, c->out, c->out_length,
			    &state->effect, &state->a.result);
		reservations = state->effect.changed;
	} else if (admission.go && c->cdb[0] == 0x5E) {
		scsi_pr_in(pr, c->cdb, c->in, c->in_size, &state->a.result);
	} else if (admission.go && needs_lock(c)) {
		scsi_pr_reserve(pr, &open->nexus, c->cdb, &reservations,
				&state->a.result);
	} else if (admission.go) {
		state->a.go = true;
	}
	if (changed || reservations) {
		ret = change(open, lock, before, reservations, &generation);
	}
	if (ret != 0) {
		/* Nothing of it happened. */
		open->known = false;
		scsi_result_sense(&state->a.result, SCSI_SENSE_INTERNAL);
		state->a.go = false;
		return 0;
	}
	rsvd_shared_learn(open, lock->record, generation);
	state->a.fenced = state->a.go && scsi_command_writes(c->cdb);
	if (state->a.fenced && !rsvd_fence_enter(open->fence, generation)) {
		/* Not while the record is locked. */
		return -EAGAIN;
	}
	state->a.generation = generation;
	state->a.settles = reservations && takes_away(c);
	state->wait_for = needs_lock(c) ? generation : 0;
	return 0;
}

/* ---- the fence -------------------------------------------------------------------------- */

static bool is_victim(const struct admit_state *state,
		      const struct guid *nexus)
{
	size_t i = 0;

	if (!scsi_pr_allows(&state->open->pr, nexus, SCSI_ACCESS_WRITE)) {
		return true;
	}
	for (i = 0; state->effect.abort && i < state->effect.victim_count;
	     i++) {
		if (guid_equal(&state->effect.victims[i], nexus) &&
		    !guid_equal(nexus, &state->open->nexus)) {
			return true;
		}
	}
	return false;
}

static bool each_busy(void *private_data, const struct guid *nexus,
		      const struct rsvd_fence_process *who)
{
	struct admit_state *state = private_data;

	if (!is_victim(state, nexus)) {
		return false;
	}
	if (state->killing) {
		rsvd_shared_end_process(state->open->path, who,
					"has a write under way that a "
					"reservation forbids");
	}
	return true;
}

/* Whether writes are under way that must not be any more. */
static bool is_busy(struct admit_state *state)
{
	unsigned busy = 0;

	rsvd_shared_look_begin();
	busy = rsvd_fence_busy(state->open->fence, state->wait_for, each_busy,
			       state);
	rsvd_shared_look_end();
	return busy > 0;
}

static void fence_poll(struct tevent_context *ev, struct tevent_timer *timer,
		       struct timeval now, void *private_data)
{
	struct tevent_req *req = private_data;
	struct admit_state *state = tevent_req_data(req, struct admit_state);

	(void)timer;
	state->killing = timeval_compare(&now, &state->patience) >= 0;
	if (!is_busy(state)) {
		tevent_req_done(req);
		return;
	}
	if (rsvd_shared_is_apart() &&
	    timeval_compare(&now, &state->give_up) >= 0) {
		/*
		 * Not done: a node that might wake still has a write under way.
		 * What was decided stands, and every other command on
		 * reservations waits as this one did.
		 */
		DBG_ERR("hvrs: shared disk %s: a node with a write under way "
			"that a reservation forbids does not go on, and is not "
			"fenced: BUSY\n", state->open->path);
		scsi_result_status(&state->a.result, SCSI_BUSY);
		state->a.settles = false;
		tevent_req_done(req);
		return;
	}
	if (state->killing) {
		state->patience = timeval_current_ofs_msec(FENCE_PATIENCE_MS);
	}
	state->poll_us = MIN(2 * state->poll_us, FENCE_POLL_MOST_US);
	if (tevent_add_timer(ev, state,
			     timeval_current_ofs_usec(state->poll_us),
			     fence_poll, req) == NULL) {
		tevent_req_error(req, ENOMEM);
	}
}

/* Blocked: until the fence moves, and now and then a look at the record. */
#define HELD_POLL_US 1000
#define HELD_POLL_MOST_US 10000
#define HELD_LOOK_MS 100
#define REFRESHES_MAX 20

static void attempt(struct tevent_req *req);

static void held_poll(struct tevent_context *ev, struct tevent_timer *timer,
		      struct timeval now, void *private_data)
{
	struct tevent_req *req = private_data;
	struct admit_state *state = tevent_req_data(req, struct admit_state);

	(void)timer;
	(void)now;
	if (state->open->closed) {
		tevent_req_error(req, ESHUTDOWN);
		return;
	}
	if (rsvd_fence_generation(state->open->fence) == state->blocked &&
	    rsvd_shared_now_ms() < state->look_ms) {
		state->poll_us = MIN(2 * state->poll_us, HELD_POLL_MOST_US);
		if (tevent_add_timer(ev, state, timeval_current_ofs_usec(
				     state->poll_us), held_poll,
				     req) == NULL) {
			tevent_req_error(req, ENOMEM);
		}
		return;
	}
	if (!rsvd_open_become_user(state->open)) {
		tevent_req_error(req, ESHUTDOWN);
		return;
	}
	attempt(req);
}

static void hold(struct tevent_req *req)
{
	struct admit_state *state = tevent_req_data(req, struct admit_state);

	state->open->known = false;
	state->poll_us = HELD_POLL_US;
	state->look_ms = rsvd_shared_now_ms() + HELD_LOOK_MS;
	if (tevent_add_timer(state->open->ev, state,
			     timeval_current_ofs_usec(state->poll_us),
			     held_poll, req) == NULL) {
		tevent_req_error(req, ENOMEM);
	}
}

/* The disk consists of other files; false where they cannot be had. */
static bool refresh(struct admit_state *state)
{
	NTSTATUS status = rsvd_image_refresh(state->open, state->epoch);

	if (NT_STATUS_IS_OK(status)) {
		return true;
	}
	/* It may have changed again meanwhile. */
	if (state->refreshes++ < REFRESHES_MAX) {
		return true;
	}
	DBG_ERR("hvrs: shared disk %s: its new files cannot be opened: %s\n",
		state->open->path, nt_errstr(status));
	scsi_result_sense(&state->a.result, SCSI_SENSE_INTERNAL);
	state->a.go = false;
	return false;
}

static void attempt(struct tevent_req *req)
{
	struct admit_state *state = tevent_req_data(req, struct admit_state);
	struct rsvd_open *open = state->open;
	struct state_rsvd_lock *lock = NULL;
	int ret = -EAGAIN;

	while (ret == -EAGAIN || ret == -ESTALE) {
		become_root();
		ret = rsvd_shared_lock(state, open, LOCK_TRY_MS, &lock);
		if (ret == 0) {
			ret = decide(state, lock);
			TALLOC_FREE(lock);
		}
		unbecome_root();
		if (ret == -ESTALE && !refresh(state)) {
			tevent_req_done(req);
			return;
		}
	}
	if (ret == -ETIMEDOUT) {
		/* Another node has the record. */
		state->blocked = rsvd_fence_generation(open->fence);
	}
	if (ret == -EBUSY || ret == -ETIMEDOUT) {
		hold(req);
		return;
	}
	if (ret != 0) {
		tevent_req_error(req, -ret);
		return;
	}
	if (state->wait_for == 0 || !is_busy(state)) {
		tevent_req_done(req);
		return;
	}
	state->poll_us = FENCE_POLL_FIRST_US;
	state->patience = timeval_current_ofs_msec(FENCE_PATIENCE_MS);
	state->give_up = timeval_current_ofs_msec(FENCE_GIVE_UP_MS);
	if (tevent_add_timer(open->ev, state,
			     timeval_current_ofs_usec(state->poll_us),
			     fence_poll, req) == NULL) {
		tevent_req_error(req, ENOMEM);
	}
}

struct tevent_req *rsvd_admit_send(TALLOC_CTX *mem_ctx,
				   struct rsvd_open *open,
				   struct scsi_command *command)
{
	struct admit_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct admit_state);

	if (req == NULL) {
		return NULL;
	}
	state->open = open;
	state->command = command;
	attempt(req);
	if (!tevent_req_is_in_progress(req)) {
		return tevent_req_post(req, open->ev);
	}
	return req;
}

int rsvd_admit_recv(struct tevent_req *req, struct rsvd_admitted *_a)
{
	struct admit_state *state = tevent_req_data(req, struct admit_state);
	int error = 0;

	if (tevent_req_is_unix_error(req, &error)) {
		tevent_req_received(req);
		return -error;
	}
	*_a = state->a;
	tevent_req_received(req);
	return 0;
}
