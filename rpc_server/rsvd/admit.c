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

#include "lib/file_id.h"
#include "messages.h"
#include "serverid.h"

#include <sys/syscall.h>

/* How long a write may take before its process is taken for stuck. */
#define FENCE_PATIENCE_MS 3000
#define FENCE_POLL_FIRST_US 200
#define FENCE_POLL_MOST_US 20000
/* On a cluster: how long before a node that does not end is given up on. */
#define FENCE_GIVE_UP_MS 30000
/* How long the record's lock is waited for, in place and where one may wait. */
#define LOCK_WAIT_MS 3000
#define LOCK_TRY_MS 20

static struct state_rsvd *database;
const struct tunnel_host *rsvd_module;

bool rsvd_admit_start(const struct tunnel_host *host)
{
	rsvd_module = host;
	database = state_rsvd_open(NULL);
	return database != NULL;
}

char *rsvd_admit_path(TALLOC_CTX *mem_ctx, const struct file_id *id,
		      const char *kind)
{
	return state_rsvd_path(mem_ctx, database, id, kind);
}

bool rsvd_admit_is_apart(void)
{
	return state_rsvd_is_apart(database);
}

void rsvd_admit_look_begin(void)
{
	if (rsvd_admit_is_apart()) {
		become_root();
	}
}

void rsvd_admit_look_end(void)
{
	if (rsvd_admit_is_apart()) {
		unbecome_root();
	}
}

/* ---- who, and since when --------------------------------------------------------------- */

uint64_t rsvd_admit_now_ms(void)
{
	struct timespec now = {};

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool rsvd_admit_is_late(struct rsvd_seen *seen,
			const struct rsvd_worker *worker, uint64_t until_ms,
			uint32_t time_ms)
{
	uint64_t now = rsvd_admit_now_ms();

	if (!rsvd_admit_is_apart()) {
		return now >= until_ms;
	}
	if (seen->until_ms != until_ms || seen->worker.pid != worker->pid ||
	    seen->worker.vnn != worker->vnn ||
	    seen->worker.unique != worker->unique) {
		*seen = (struct rsvd_seen) {
			.worker = *worker, .until_ms = until_ms,
			.since_ms = now,
		};
	}
	return now - seen->since_ms >= time_ms;
}

struct rsvd_worker rsvd_admit_self(const struct rsvd_open *open)
{
	struct server_id self = messaging_server_id(
		open->handle->conn->sconn->msg_ctx);

	return (struct rsvd_worker) {
		.pid = self.pid, .task = self.task_id, .vnn = self.vnn,
		.unique = self.unique_id,
	};
}

bool rsvd_admit_is_alive(const struct rsvd_open *open,
			 const struct rsvd_record *record,
			 const struct rsvd_worker *worker)
{
	struct server_id id = {
		.pid = worker->pid, .task_id = worker->task,
		.vnn = worker->vnn, .unique_id = worker->unique,
	};
	size_t i = 0;

	if (!rsvd_admit_is_apart()) {
		return serverid_exists(&id);
	}
	for (i = 0; i < record->open_count; i++) {
		const struct rsvd_record_open *row = &record->opens[i];

		if (row->pid == worker->pid && row->vnn == worker->vnn &&
		    row->unique == worker->unique &&
		    rsvd_fence_is_held(open->fence, row->slot)) {
			return true;
		}
	}
	return false;
}

/* By a descriptor, so that it is this process or none. */
void rsvd_admit_end_process(const char *path,
			    const struct rsvd_fence_process *process,
			    const char *what)
{
	int fd = -1;

	if (process->pid == 0) {
		return;
	}
	if (process->node != get_my_vnn()) {
		rsvd_fence_node(path, process, what);
		return;
	}
	if (process->pid == (uint64_t)getpid()) {
		return;
	}
	become_root();
	fd = (int)syscall(SYS_pidfd_open, (pid_t)process->pid, 0);
	if (fd >= 0) {
		(void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		close(fd);
	}
	unbecome_root();
	DBG_ERR("hvrs: shared disk %s: process %llu %s, and did not end it in "
		"time: killed\n", path, (unsigned long long)process->pid,
		what);
}

/*
 * Stores the record with the fence raised: nobody goes on with what he knew.
 * *_generation (may be NULL) is the new one.
 */
static int store_fenced(struct rsvd_open *open, struct state_rsvd_lock *lock,
			uint64_t *_generation)
{
	uint64_t generation = 0;
	int ret = rsvd_fence_change_begin(open->fence);

	if (ret != 0) {
		return ret;
	}
	ret = state_rsvd_store(lock);
	generation = rsvd_fence_change_end(open->fence);
	if (_generation != NULL) {
		*_generation = generation;
	}
	return ret;
}

/*
 * Whoever dies or stops while he holds all others up must not do so for ever.
 * What he had done to the files is not known: everybody looks again.
 */
bool rsvd_admit_recover(struct rsvd_open *open, struct rsvd_record *record)
{
	struct rsvd_fence_process worker = {
		.pid = record->block.worker.pid,
		.node = record->block.worker.vnn,
	};
	struct rsvd_making *making = &record->making;
	bool late = false;
	bool alive = false;

	if (!record->block.active) {
		return false;
	}
	late = rsvd_admit_is_late(&open->block_seen, &record->block.worker,
				  record->block.until_ms,
				  record->block.time_ms);
	alive = rsvd_admit_is_alive(open, record, &record->block.worker);
	if (late && alive && record->block.working) {
		/* It might wake up and finish on what others go on with. */
		rsvd_admit_end_process(record->path, &worker,
				       "changes the files of the disk");
		return false;
	}
	if (!late && alive) {
		return false;
	}
	DBG_WARNING("hvrs: shared disk %s: its I/O was held up by process "
		    "%llu, %s: it goes on\n", record->path,
		    (unsigned long long)record->block.worker.pid,
		    late ? "for too long" : "which is gone");
	record->block = (struct rsvd_block) {};
	record->epoch++;
	if (making->stage == RSVD_STAGE_BLOCKED) {
		making->stage = RSVD_STAGE_FAILED;
	} else if (making->stage == RSVD_STAGE_SWITCHED) {
		making->stage = RSVD_STAGE_UNBLOCKED;
	}
	return true;
}

/* ---- joining and leaving ------------------------------------------------------------- */

static NTSTATUS status_of(int error)
{
	switch (error) {
	case 0:
		return NT_STATUS_OK;
	case -EUSERS:
	case -ENOSPC:
		return NT_STATUS_TOO_MANY_OPENED_FILES;
	case -EINVAL:
	case -EPROTONOSUPPORT:
		return NT_STATUS_INTERNAL_DB_CORRUPTION;
	case -EBUSY:
	case -ETIMEDOUT:
		/* A client comes again. */
		return NT_STATUS_FILE_NOT_AVAILABLE;
	}
	return map_nt_error_from_unix(-error);
}

static void key_fill(struct rsvd_open *open)
{
	const SMB_STRUCT_STAT *st = &open->fsp->fsp_name->st;
	const struct guid *id = &open->scsi.geometry.disk_id;

	open->key = (struct state_rsvd_key) { .id = open->fsp->file_id };
	SBVAL(open->key.lasting, 0, st->st_ex_ino);
	/* One that Samba makes up from other times changes with them. */
	if ((st->st_ex_iflags & ST_EX_IFLAG_CALCULATED_BTIME) == 0) {
		SBVAL(open->key.lasting, 8, (uint64_t)st->st_ex_btime.tv_sec);
		SBVAL(open->key.lasting, 16,
		      (uint64_t)st->st_ex_btime.tv_nsec);
	}
	memcpy(open->key.lasting + 24, id->bytes, 16);
}

static void host_name(const struct rsvd_context *c, char *out, size_t size)
{
	char *text = NULL;
	size_t length = 0;

	*out = '\0';
	if (convert_string_talloc(talloc_tos(), CH_UTF16LE, CH_UTF8, c->name,
				  c->name_length, &text, &length) && length > 0) {
		strlcpy(out, text, MIN(size, length + 1));
	}
	TALLOC_FREE(text);
}

/* Under the record's lock: takes over what is known. */
static void learn(struct rsvd_open *open, const struct rsvd_record *record,
		  uint64_t generation)
{
	open->pr = record->pr;
	open->generation = generation;
	open->known = true;
}

static struct rsvd_record_open *row_find(struct rsvd_record *record,
					 uint64_t open_id)
{
	size_t i = 0;

	for (i = 0; i < record->open_count; i++) {
		if (record->opens[i].open_id == open_id) {
			return &record->opens[i];
		}
	}
	return NULL;
}

/*
 * A snapshot may be of another size than the disk.  Where a process died at a
 * resize, those whose handles outlived it hear of it here.
 */
static void size_note(const struct rsvd_open *open,
		      struct rsvd_record *record)
{
	const struct scsi_geometry *g = &open->scsi.geometry;
	uint64_t size = g->blocks * g->block_size;

	if (rsvd_open_is_snapshot(open) && record->disk_size != 0) {
		return;
	}
	if (record->open_count > 0 && record->disk_size != size) {
		scsi_pr_attention_all(&record->pr, NULL,
				      SCSI_SENSE_CAPACITY_CHANGED);
	}
	record->disk_size = size;
}

/*
 * On a cluster a row is told by its slot: this one's is no other's any more,
 * and one who waits for his client has none.
 */
static void slot_sweep(const struct rsvd_open *open,
		       struct rsvd_record *record)
{
	size_t i = record->open_count;

	while (rsvd_admit_is_apart() && i-- > 0) {
		struct rsvd_record_open *row = &record->opens[i];

		if (row->slot != rsvd_fence_slot(open->fence)) {
			continue;
		}
		if (row->persistent && rsvd_module->is_kept(row->open_id)) {
			row->slot = RSVD_FENCE_NO_SLOT;
		} else {
			rsvd_record_open_remove(record, i);
		}
	}
}

static int join_locked(struct rsvd_open *open, struct state_rsvd_lock *lock,
		       const char *fence)
{
	struct rsvd_worker self = rsvd_admit_self(open);
	struct rsvd_record *record = lock->record;
	struct rsvd_record_open row = {
		.pid = self.pid, .task = self.task, .vnn = self.vnn,
		.unique = self.unique, .snapshot = open->snapshot,
		.open_id = open->open_id,
		.slot = rsvd_fence_slot(open->fence),
		.has_initiator = !guid_is_null(&open->nexus),
		.initiator = open->nexus,
		.persistent = open->kept,
	};
	struct rsvd_record_open *old = NULL;
	uint64_t generation = 0;
	int ret = 0;

	host_name(&open->context, row.host, sizeof(row.host));
	slot_sweep(open, record);
	state_rsvd_sweep(database, fence, record, rsvd_module->is_kept);
	/* Nothing was stored yet, so nothing is lost by the retry. */
	rsvd_admit_recover(open, record);
	if (record->epoch != open->image->epoch) {
		ret = store_fenced(open, lock, NULL);
		return ret == 0 ? -EAGAIN : ret;
	}
	if (record->open_count == 0) {
		/* The first: what the power cut left, [SPC-4] 5.12.5. */
		scsi_pr_power_on(&record->pr);
		ret = state_rsvd_kept_load(database, &open->key, &record->pr);
		if (ret != 0 && ret != -ENOENT) {
			return ret;
		}
		scsi_pr_power_on(&record->pr);
	}
	TALLOC_FREE(record->path);
	record->path = talloc_strdup(record, open->path);
	record->disk_id = open->scsi.geometry.disk_id;
	size_note(open, record);
	if (record->path == NULL) {
		return -ENOMEM;
	}
	old = open->kept ? row_find(record, open->open_id) : NULL;
	if (old != NULL && rsvd_admit_is_apart() &&
	    rsvd_fence_is_held(open->fence, old->slot)) {
		/* Another node is about to give it back, or was. */
		return -EBUSY;
	}
	if (old != NULL) {
		/* The open that its process left behind. */
		*old = row;
	} else {
		ret = rsvd_record_open_add(record, &row);
	}
	if (ret != 0) {
		return ret;
	}
	ret = store_fenced(open, lock, &generation);
	if (ret == 0) {
		learn(open, record, generation);
	}
	return ret;
}

NTSTATUS rsvd_admit_epoch(struct rsvd_open *open, uint64_t *_epoch)
{
	struct state_rsvd_key key = { .id = open->fsp->file_id };
	struct state_rsvd_lock *lock = NULL;
	int ret = 0;

	become_root();
	ret = state_rsvd_lock(talloc_tos(), database, &key, LOCK_WAIT_MS, &lock);
	unbecome_root();
	if (ret == 0) {
		*_epoch = lock->record->epoch;
		TALLOC_FREE(lock);
	}
	return status_of(ret);
}

NTSTATUS rsvd_admit_join(struct rsvd_open *open)
{
	struct rsvd_fence_process self = {
		.pid = (uint64_t)getpid(), .node = get_my_vnn(),
	};
	struct state_rsvd_lock *lock = NULL;
	char *path = NULL;
	int ret = 0;

	key_fill(open);
	path = rsvd_admit_path(talloc_tos(), &open->key.id, "fence");
	if (path == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	become_root();
	ret = rsvd_fence_open(open, path, rsvd_admit_is_apart(), &open->nexus,
			      &self, &open->fence);
	if (ret == 0) {
		ret = state_rsvd_lock(talloc_tos(), database, &open->key,
				      LOCK_WAIT_MS, &lock);
	}
	if (ret == 0) {
		ret = join_locked(open, lock, path);
		TALLOC_FREE(lock);
	}
	unbecome_root();
	TALLOC_FREE(path);
	if (ret != 0) {
		TALLOC_FREE(open->fence);
		return ret == -EAGAIN ? NT_STATUS_RETRY : status_of(ret);
	}
	open->attached = true;
	return NT_STATUS_OK;
}

void rsvd_admit_leave(struct rsvd_open *open)
{
	struct state_rsvd_lock *lock = NULL;
	size_t i = 0;
	int ret = 0;

	if (!open->attached) {
		TALLOC_FREE(open->fence);
		return;
	}
	open->attached = false;
	if (open->disconnecting) {
		/* It stays in the record, without a process. */
		TALLOC_FREE(open->fence);
		return;
	}
	become_root();
	ret = state_rsvd_lock(talloc_tos(), database, &open->key, LOCK_WAIT_MS,
			      &lock);
	if (ret == 0) {
		for (i = 0; i < lock->record->open_count; i++) {
			const struct rsvd_record_open *row =
				&lock->record->opens[i];

			if (row->open_id == open->open_id &&
			    row->pid == (uint64_t)getpid() &&
			    row->vnn == get_my_vnn()) {
				rsvd_record_open_remove(lock->record, i);
				break;
			}
		}
		ret = store_fenced(open, lock, NULL);
		TALLOC_FREE(lock);
	}
	unbecome_root();
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: the close is not recorded: %s\n",
			open->path, strerror(-ret));
	}
	TALLOC_FREE(open->fence);
}

bool rsvd_admit_keep(struct rsvd_open *open)
{
	struct state_rsvd_lock *lock = NULL;
	struct rsvd_record_open *row = NULL;
	int ret = 0;

	if (open->kept) {
		return true;
	}
	become_root();
	ret = state_rsvd_lock(talloc_tos(), database, &open->key, LOCK_WAIT_MS,
			      &lock);
	if (ret == 0) {
		row = row_find(lock->record, open->open_id);
		ret = row != NULL ? 0 : -ENOENT;
		if (row != NULL) {
			row->persistent = true;
			ret = state_rsvd_store(lock);
		}
		TALLOC_FREE(lock);
	}
	unbecome_root();
	open->kept = ret == 0;
	return open->kept;
}

bool rsvd_admit_is_used(const struct file_id *id)
{
	char *fence = rsvd_admit_path(talloc_tos(), id, "fence");
	char *disk = rsvd_admit_path(talloc_tos(), id, "disk");
	bool used = fence == NULL || disk == NULL;

	become_root();
	used = used || rsvd_fence_is_used_at(fence) ||
		vhdx_share_is_used_at(disk);
	unbecome_root();
	TALLOC_FREE(fence);
	TALLOC_FREE(disk);
	return used;
}

bool rsvd_admit_is_shared(const struct file_id *id,
			  const struct rsvd_open *except)
{
	struct state_rsvd_key key = { .id = *id };
	char *fence = rsvd_admit_path(talloc_tos(), id, "fence");
	struct state_rsvd_lock *lock = NULL;
	size_t others = 0;
	int ret = 0;

	if (fence == NULL) {
		return true;
	}
	become_root();
	ret = state_rsvd_lock(talloc_tos(), database, &key, LOCK_WAIT_MS, &lock);
	if (ret == 0) {
		state_rsvd_sweep(database, fence, lock->record,
				 rsvd_module->is_kept);
		others = lock->record->open_count;
		if (except != NULL && except->attached && others > 0) {
			others--;
		}
		TALLOC_FREE(lock);
	}
	unbecome_root();
	TALLOC_FREE(fence);
	return ret != 0 || others > 0;
}

int rsvd_admit_change(struct rsvd_open *open,
		      enum rsvd_change (*change)(struct rsvd_record *record,
						 void *private_data),
		      void *private_data, uint64_t *_generation)
{
	struct state_rsvd_lock *lock = NULL;
	enum rsvd_change what = RSVD_CHANGE_NONE;
	uint64_t generation = 0;
	int ret = 0;

	if (!open->attached || open->fence == NULL) {
		return -ESHUTDOWN;
	}
	become_root();
	ret = state_rsvd_lock(talloc_tos(), database, &open->key, LOCK_WAIT_MS,
			      &lock);
	if (ret == 0) {
		bool recovered = rsvd_admit_recover(open, lock->record);

		generation = rsvd_fence_settle(open->fence);
		what = change(lock->record, private_data);
		if (recovered) {
			what = RSVD_CHANGE_FENCE;
		}
		if (what == RSVD_CHANGE_FENCE) {
			ret = store_fenced(open, lock, &generation);
		} else if (what != RSVD_CHANGE_NONE) {
			ret = state_rsvd_store(lock);
		}
		TALLOC_FREE(lock);
	}
	unbecome_root();
	if (ret == 0 && _generation != NULL) {
		*_generation = generation;
	}
	return ret;
}

static bool each_any(void *private_data, const struct guid *nexus,
		     const struct rsvd_fence_process *who)
{
	(void)private_data;
	(void)nexus;
	(void)who;
	return true;
}

bool rsvd_admit_busy(struct rsvd_open *open, uint64_t generation)
{
	unsigned busy = 0;

	rsvd_admit_look_begin();
	busy = rsvd_fence_busy(open->fence, generation, each_any, NULL);
	rsvd_admit_look_end();
	return busy > 0;
}

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
	return state_rsvd_kept_store(database, &open->key,
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
	return store_fenced(open, lock, _generation);
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
	if (rsvd_admit_recover(open, lock->record)) {
		ret = store_fenced(open, lock, &generation);
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
	learn(open, lock->record, generation);
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
		rsvd_admit_end_process(state->open->path, who,
				       "has a write under way that a "
				       "reservation forbids");
	}
	return true;
}

/* Whether writes are under way that must not be any more. */
static bool is_busy(struct admit_state *state)
{
	unsigned busy = 0;

	rsvd_admit_look_begin();
	busy = rsvd_fence_busy(state->open->fence, state->wait_for, each_busy,
			       state);
	rsvd_admit_look_end();
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
	if (rsvd_admit_is_apart() &&
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
	    rsvd_admit_now_ms() < state->look_ms) {
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
	state->look_ms = rsvd_admit_now_ms() + HELD_LOOK_MS;
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
		ret = state_rsvd_lock(state, database, &open->key,
				      LOCK_TRY_MS, &lock);
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
