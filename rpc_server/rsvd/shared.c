/*
 * What all processes of a disk share: who has it open, its record, and the lock
 * under which that changes.  What it says of reservations each keeps a copy of
 * (admit.c), which the fence tells to be old.
 */
#include "server.h"

#include "lib/file_id.h"
#include "messages.h"
#include "serverid.h"

#include <sys/syscall.h>

#define LOCK_WAIT_MS 3000	/* in place */

static struct state_rsvd *database;
const struct tunnel_host *rsvd_module;

bool rsvd_shared_start(const struct tunnel_host *host)
{
	rsvd_module = host;
	database = state_rsvd_open(NULL);
	return database != NULL;
}

char *rsvd_shared_path(TALLOC_CTX *mem_ctx, const struct file_id *id,
		       const char *kind)
{
	return state_rsvd_path(mem_ctx, database, id, kind);
}

bool rsvd_shared_is_apart(void)
{
	return state_rsvd_is_apart(database);
}

void rsvd_shared_look_begin(void)
{
	if (rsvd_shared_is_apart()) {
		become_root();
	}
}

void rsvd_shared_look_end(void)
{
	if (rsvd_shared_is_apart()) {
		unbecome_root();
	}
}

int rsvd_shared_lock(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
		     unsigned wait_ms, struct state_rsvd_lock **_lock)
{
	return state_rsvd_lock(mem_ctx, database, &open->key, wait_ms, _lock);
}

int rsvd_shared_keep_reservations(struct rsvd_open *open,
				  const struct scsi_pr *pr)
{
	return state_rsvd_kept_store(database, &open->key, pr);
}

/* ---- who, and since when --------------------------------------------------------------- */

uint64_t rsvd_shared_now_ms(void)
{
	struct timespec now = {};

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool rsvd_shared_is_late(struct rsvd_seen *seen,
			 const struct rsvd_worker *worker, uint64_t until_ms,
			 uint32_t time_ms)
{
	uint64_t now = rsvd_shared_now_ms();

	if (!rsvd_shared_is_apart()) {
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

struct rsvd_worker rsvd_shared_self(const struct rsvd_open *open)
{
	struct server_id self = messaging_server_id(
		open->handle->conn->sconn->msg_ctx);

	return (struct rsvd_worker) {
		.pid = self.pid, .task = self.task_id, .vnn = self.vnn,
		.unique = self.unique_id,
	};
}

bool rsvd_shared_is_alive(const struct rsvd_open *open,
			  const struct rsvd_record *record,
			  const struct rsvd_worker *worker)
{
	struct server_id id = {
		.pid = worker->pid, .task_id = worker->task,
		.vnn = worker->vnn, .unique_id = worker->unique,
	};
	size_t i = 0;

	if (!rsvd_shared_is_apart()) {
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
void rsvd_shared_end_process(const char *path,
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

int rsvd_shared_store(struct rsvd_open *open, struct state_rsvd_lock *lock,
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
bool rsvd_shared_recover(struct rsvd_open *open, struct rsvd_record *record)
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
	late = rsvd_shared_is_late(&open->block_seen, &record->block.worker,
				   record->block.until_ms,
				   record->block.time_ms);
	alive = rsvd_shared_is_alive(open, record, &record->block.worker);
	if (late && alive && record->block.working) {
		/* It might wake up and finish on what others go on with. */
		rsvd_shared_end_process(record->path, &worker,
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

void rsvd_shared_learn(struct rsvd_open *open, const struct rsvd_record *record,
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

	while (rsvd_shared_is_apart() && i-- > 0) {
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
	struct rsvd_worker self = rsvd_shared_self(open);
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
	rsvd_shared_recover(open, record);
	if (record->epoch != open->image->epoch) {
		ret = rsvd_shared_store(open, lock, NULL);
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
	if (old != NULL && rsvd_shared_is_apart() &&
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
	ret = rsvd_shared_store(open, lock, &generation);
	if (ret == 0) {
		rsvd_shared_learn(open, record, generation);
	}
	return ret;
}

NTSTATUS rsvd_shared_epoch(struct rsvd_open *open, uint64_t *_epoch)
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

NTSTATUS rsvd_shared_join(struct rsvd_open *open)
{
	struct rsvd_fence_process self = {
		.pid = (uint64_t)getpid(), .node = get_my_vnn(),
	};
	struct state_rsvd_lock *lock = NULL;
	char *path = NULL;
	int ret = 0;

	key_fill(open);
	path = rsvd_shared_path(talloc_tos(), &open->key.id, "fence");
	if (path == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	become_root();
	ret = rsvd_fence_open(open, path, rsvd_shared_is_apart(), &open->nexus,
			      &self, &open->fence);
	if (ret == 0) {
		ret = rsvd_shared_lock(talloc_tos(), open, LOCK_WAIT_MS, &lock);
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

void rsvd_shared_leave(struct rsvd_open *open)
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
	ret = rsvd_shared_lock(talloc_tos(), open, LOCK_WAIT_MS, &lock);
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
		ret = rsvd_shared_store(open, lock, NULL);
		TALLOC_FREE(lock);
	}
	unbecome_root();
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: the close is not recorded: %s\n",
			open->path, strerror(-ret));
	}
	TALLOC_FREE(open->fence);
}

bool rsvd_shared_keep(struct rsvd_open *open)
{
	struct state_rsvd_lock *lock = NULL;
	struct rsvd_record_open *row = NULL;
	int ret = 0;

	if (open->kept) {
		return true;
	}
	become_root();
	ret = rsvd_shared_lock(talloc_tos(), open, LOCK_WAIT_MS, &lock);
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

bool rsvd_shared_is_used(const struct file_id *id)
{
	char *fence = rsvd_shared_path(talloc_tos(), id, "fence");
	char *disk = rsvd_shared_path(talloc_tos(), id, "disk");
	bool used = fence == NULL || disk == NULL;

	become_root();
	used = used || rsvd_fence_is_used_at(fence) ||
		vhdx_share_is_used_at(disk);
	unbecome_root();
	TALLOC_FREE(fence);
	TALLOC_FREE(disk);
	return used;
}

bool rsvd_shared_by_others(const struct file_id *id,
			   const struct rsvd_open *except)
{
	struct state_rsvd_key key = { .id = *id };
	char *fence = rsvd_shared_path(talloc_tos(), id, "fence");
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

int rsvd_shared_change(struct rsvd_open *open,
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
	ret = rsvd_shared_lock(talloc_tos(), open, LOCK_WAIT_MS, &lock);
	if (ret == 0) {
		bool recovered = rsvd_shared_recover(open, lock->record);

		generation = rsvd_fence_settle(open->fence);
		what = change(lock->record, private_data);
		if (recovered) {
			what = RSVD_CHANGE_FENCE;
		}
		if (what == RSVD_CHANGE_FENCE) {
			ret = rsvd_shared_store(open, lock, &generation);
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

bool rsvd_shared_busy(struct rsvd_open *open, uint64_t generation)
{
	unsigned busy = 0;

	rsvd_shared_look_begin();
	busy = rsvd_fence_busy(open->fence, generation, each_any, NULL);
	rsvd_shared_look_end();
	return busy > 0;
}
