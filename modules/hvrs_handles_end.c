/*
 * The end of a handle: of the process that holds it, where that is stopped;
 * of its time, when nobody comes; and on request.
 */
#include "hvrs_handles.h"
#include "step.h"
#include "vhdset/vhdset.h"

#include <signal.h>
#include <poll.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/global_contexts.h"
#include "lib/util/server_id.h"
#include "librpc/gen_ndr/ndr_open_files.h"
#include "locking/leases_db.h"
#include "locking/share_mode_lock.h"
#include "locking/proto.h"
#include "serverid.h"
#include "smbd/smbXsrv_open.h"

#define CLOSE_REMOTE_MS 3000
#define PROCESS_END_MS 5000
#define NEGOTIATE_WAIT_MS 1000

/* ---- a process that is stopped ------------------------------------------------------- */

/* One that a debugger looks at is not taken for stopped. */
struct process {
	bool stopped;
	bool ending;		/* killed, or writing its core */
};

static void process_line(struct process *process, const char *line)
{
	unsigned long long pending = 0;
	unsigned int dumping = 0;
	char state = 0;

	if (sscanf(line, "State: %c", &state) == 1) {
		process->stopped = state == 'T';
		process->ending = state == 'Z' || state == 'X';
	} else if (sscanf(line, "SigPnd: %llx", &pending) == 1 ||
		   sscanf(line, "ShdPnd: %llx", &pending) == 1) {
		process->ending = process->ending ||
			(pending & 1ULL << (SIGKILL - 1)) != 0;
	} else if (sscanf(line, "CoreDumping: %u", &dumping) == 1) {
		process->ending = process->ending || dumping != 0;
	}
}

/* Of its first thread, which smbd's loop runs in. */
static struct process process_look(pid_t pid)
{
	struct process process = {};
	char line[256] = {};
	char path[64] = {};
	FILE *file = NULL;

	snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
	file = fopen(path, "re");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		process_line(&process, line);
	}
	if (file != NULL) {
		fclose(file);
	}
	return process;
}

/* True where a process is seen to end within a time. */
static bool process_end(struct server_id owner, bool murder, int wait_ms)
{
	struct pollfd wait = { .fd = -1, .events = POLLIN };
	int i = 0;

	if (!procid_is_local(&owner)) {
		return state_handles_is_gone(&owner);
	}
	become_root();
	wait.fd = (int)syscall(SYS_pidfd_open, (pid_t)owner.pid, 0);
	/* It may have ended, and its number be another's. */
	if (wait.fd != -1 && serverid_exists(&owner)) {
		if (murder) {
			syscall(SYS_pidfd_send_signal, wait.fd, SIGKILL, NULL,
				0);
		}
		poll(&wait, 1, wait_ms);
	}
	/* Its parent has still to take note. */
	for (i = 0; i < wait_ms && (wait.revents & POLLIN) != 0 &&
	     serverid_exists(&owner); i++) {
		usleep(1000);
	}
	if (wait.fd != -1) {
		close(wait.fd);
	}
	unbecome_root();
	return !serverid_exists(&owner);
}

/*
 * A stopped process may wake up with writes in flight.  Killed it cannot; but
 * a write that the kernel has begun is done to its end, and the process is
 * gone for serverid_exists() only when the last of its threads is.
 */
static enum hvrs_fence fence(struct server_id owner, bool leaving,
			     int wait_ms)
{
	struct process process = {};

	if (state_handles_is_gone(&owner)) {
		return FENCE_GONE;
	}
	if (!procid_is_local(&owner)) {
		/* Of a node that is not seen: until that is fenced. */
		return leaving || !serverid_exists(&owner) ? FENCE_ENDING :
			FENCE_LIVES;
	}
	if (owner.pid == (uint64_t)getpid() ||
	    owner.pid <= 1) {
		return FENCE_LIVES;
	}
	process = process_look((pid_t)owner.pid);
	if (!process.stopped && !process.ending && !leaving) {
		return FENCE_LIVES;
	}
	if (process.stopped && !process.ending) {
		DBG_ERR("hvrs: process %llu is stopped and holds handles that "
			"their client wants back; it is killed\n",
			(unsigned long long)owner.pid);
	}
	return process_end(owner, process.stopped, wait_ms) ? FENCE_GONE :
		FENCE_ENDING;
}

enum hvrs_fence hvrs_fence(const struct state_handle *h, int wait_ms)
{
	if (h->claimer.pid != 0) {
		/* One that lives goes on; it is asked for by the claim. */
		fence(h->claimer, false, wait_ms);
	}
	if (!h->connected && !h->leaving) {
		return FENCE_GONE;
	}
	return fence(h->owner, h->leaving, wait_ms);
}

bool hvrs_is_stopped(const struct server_id *id)
{
	struct server_id owner = *id;

	return procid_is_local(&owner) && owner.pid != (uint64_t)getpid() &&
		owner.pid > 1 && process_look((pid_t)owner.pid).stopped &&
		serverid_exists(&owner);
}

void hvrs_kill(const struct server_id *id)
{
	process_end(*id, true, PROCESS_END_MS);
}

/*
 * smbd hands a new connection of a client to the process that has its others,
 * and waits for an answer; a stopped one never gives it.  Who asks is not
 * known yet, so nobody is killed: this process keeps the connection.
 */
bool hvrs_handles_client(struct smbd_smb2_request *req)
{
	struct guid client = hvrs_guid(&req->xconn->smb2.client.guid);
	uint64_t *ids = NULL;
	size_t count = state_handles_of_client(talloc_tos(), &client, &ids);
	bool stopped = false;
	size_t i = 0;

	for (i = 0; i < count && !stopped; i++) {
		struct state_handle *h = state_handles_fetch(talloc_tos(),
							     ids[i]);

		if (h != NULL && h->connected && !h->leaving) {
			stopped = hvrs_is_stopped(&h->owner);
			if (!stopped && i == 0) {
				fence(h->owner, false, NEGOTIATE_WAIT_MS);
			}
		}
		TALLOC_FREE(h);
	}
	TALLOC_FREE(ids);
	return stopped;
}

/*
 * A client that has logged on and names its session of before: smbd waits for
 * the process that has it, so one that is stopped is killed now.
 */
bool hvrs_handles_session(struct smbXsrv_connection *xconn,
			  struct auth_session_info *session_info)
{
	struct guid client = hvrs_guid(&xconn->smb2.client.guid);
	uint64_t *ids = NULL;
	size_t count = state_handles_of_client(talloc_tos(), &client, &ids);
	bool wait = false;
	size_t i = 0;

	for (i = 0; i < count && !wait; i++) {
		struct state_handle *h = state_handles_fetch(talloc_tos(),
							     ids[i]);

		if (h != NULL && h->connected && !h->leaving &&
		    hvrs_is_owner(session_info, &h->record)) {
			wait = fence(h->owner, false, 0) == FENCE_ENDING;
		}
		TALLOC_FREE(h);
	}
	TALLOC_FREE(ids);
	return wait;
}

/*
 * The process has no connection left, but what is in flight holds it up: a
 * client that comes back meanwhile has to wait, not to be told that its
 * handles are somebody's.
 */
void hvrs_handles_lost(struct smbXsrv_connection *xconn)
{
	struct smbXsrv_connection *other = NULL;
	struct files_struct *fsp = NULL;

	for (other = xconn->client->connections; other != NULL;
	     other = other->next) {
		if (other != xconn &&
		    NT_STATUS_IS_OK(other->transport.status)) {
			return;
		}
	}
	for (fsp = xconn->client->sconn->files; fsp != NULL;
	     fsp = fsp->next) {
		struct hvrs_open *open = hvrs_open_of(fsp);

		if (open != NULL && open->stored) {
			open->h.leaving = true;
			state_handles_leave(open->h.record.id,
					    &open->h.owner);
		}
	}
}

/* Whether a handle is on the way out of this process, with its session. */
bool hvrs_is_leaving_here(struct smbXsrv_client *client, uint64_t id)
{
	struct smbXsrv_session *session = NULL;
	struct files_struct *fsp = NULL;
	uint32_t i = 0;

	for (fsp = client->sconn->files; fsp != NULL; fsp = fsp->next) {
		if (fsp->op != NULL &&
		    fsp->op->global->open_persistent_id == id) {
			break;
		}
	}
	if (fsp == NULL) {
		return false;
	}
	smb2srv_session_lookup_client(client, fsp->vuid, 0, &session);
	for (i = 0; session != NULL && i < session->global->num_channels;
	     i++) {
		const struct smbXsrv_connection *xconn =
			session->global->channels[i].connection;

		if (xconn != NULL && NT_STATUS_IS_OK(xconn->transport.status)) {
			return false;
		}
	}
	return true;
}

/* ---- the end of a handle ---------------------------------------------------------------- */

struct end_entry {
	const struct state_handle *h;
	bool others;		/* somebody else has the file open */
	bool ours;
	struct server_id pid;
	uint64_t share_file_id;
};

bool hvrs_is_entry_of(const struct state_handle *h,
		      const struct share_mode_entry *e)
{
	if (server_id_is_disconnected(&e->pid)) {
		return e->share_file_id == h->record.id;
	}
	return server_id_equal(&e->pid, &h->owner) &&
		e->share_file_id == h->gen_id;
}

static bool end_entry_fn(struct share_mode_entry *e, bool *modified,
			 void *private_data)
{
	struct end_entry *end = private_data;

	(void)modified;
	if (hvrs_is_entry_of(end->h, e)) {
		end->ours = true;
		end->pid = e->pid;
		end->share_file_id = e->share_file_id;
	} else if (!share_entry_stale_pid(e)) {
		end->others = true;
	}
	return false;
}

/* A set of virtual disks takes its files along, [MS-RSVD] 3.2.5.2. */
static int end_unlink_set(int folder, const char *name)
{
	TALLOC_CTX *frame = talloc_stackframe();
	char **files = NULL;
	size_t parts = 0;
	int ret = vhdset_files(frame, folder, name, &files, &parts);

	if (ret == 0) {
		ret = vhdset_files_note(folder, name, files, parts);
	}
	if (ret == 0 && unlinkat(folder, name, 0) != 0) {
		ret = -errno;
	}
	if (ret == 0) {
		ret = vhdset_files_remove(folder, files);
	}
	TALLOC_FREE(frame);
	return ret;
}

/*
 * A file that was to go with its last handle goes now.  As root, so it is looked
 * at and removed in one folder, whatever its path leads to meanwhile.
 */
static void end_delete(const struct state_handle *h)
{
	const struct handle_record *r = &h->record;
	char *path = talloc_asprintf(
		talloc_tos(), "%.*s/%.*s", (int)r->path.length,
		(const char *)r->path.data, (int)r->name.length,
		(const char *)r->name.data);
	char *name = path != NULL ? strrchr(path, '/') + 1 : NULL;
	char *folder_path = name == NULL ? NULL :
		talloc_strndup(path, path, (size_t)(name - path));
	int folder = folder_path == NULL ? -1 :
		open(folder_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st = {};
	int ret = 0;

	if (folder != -1 &&
	    fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    (uint64_t)st.st_ino == r->inode && S_ISREG(st.st_mode) &&
	    !hvrs_is_successor(r, folder, name)) {
		if ((r->flags & HANDLE_SHARED) != 0 && vhdset_is_name(name)) {
			ret = end_unlink_set(folder, name);
		} else if (unlinkat(folder, name, 0) != 0) {
			ret = -errno;
		}
	}
	if (ret != 0) {
		DBG_WARNING("hvrs: %s should be deleted: %s\n", path,
			    strerror(-ret));
	}
	if (folder != -1) {
		close(folder);
	}
	TALLOC_FREE(path);
}

bool hvrs_handle_end(struct state_handle *h)
{
	const struct handle_record *r = &h->record;
	struct file_id file = {
		.devid = r->device, .inode = r->inode, .extid = r->extra,
	};
	struct end_entry end = { .h = h };
	struct GUID client_guid = hvrs_guid_back(&r->client_guid);
	struct smb2_lease_key key = hvrs_lease_key(&r->lease_key);
	struct share_mode_lock *lck = NULL;
	struct server_id me = messaging_server_id(global_messaging_context());

	if (!state_handles_claim_end(r->id, &me)) {
		return false;
	}
	become_root();
	lck = get_existing_share_mode_lock(talloc_tos(), file);
	if (lck != NULL) {
		share_mode_forall_entries(lck, end_entry_fn, &end);
		if (end.ours) {
			series_entry_del(lck, end.pid, end.share_file_id);
		}
	}
	if ((r->flags & HANDLE_LEASE) != 0) {
		leases_db_del(&client_guid, &key, &file);
	}
	hvrs_locks_remove(&file, r->id);
	TALLOC_FREE(lck);
	if (!end.others && (r->flags & (HANDLE_DELETE_INITIAL |
					HANDLE_DELETE_PENDING)) != 0) {
		end_delete(h);
	}
	state_handles_drop(r->id);
	smbXsrv_open_cleanup(r->id);
	unbecome_root();
	return true;
}

/* Since when it waits, where that is not known; true where its time is over. */
bool hvrs_handle_over(struct state_handle *h)
{
	uint64_t now = state_handles_now();

	/* The time of one that may still be written for has not begun. */
	if (lp_clustering() && !state_handles_is_let_go(h)) {
		return false;
	}
	if (h->record.waiting_since_ms == 0 ||
	    h->record.waiting_since_ms > now) {
		struct state_log_point point = {};

		/* Who has got it back meanwhile does not wait. */
		h->record.waiting_since_ms = now;
		h->connected = false;
		step("over");
		state_handles_store_other(h, &point);
		return false;
	}
	return handle_expired(&h->record, now) &&
		!(h->leaving && serverid_exists(&h->owner));
}

/* ---- an open in another process -------------------------------------------------- */

/* Ends a handle that waits, where nothing of it is still being written. */
static bool end_fenced(struct state_handle *h)
{
	if (hvrs_fence(h, PROCESS_END_MS) != FENCE_GONE) {
		return false;
	}
	return hvrs_handle_end(h);
}

/*
 * Asks the process that holds an open to close it: [MS-SMB2] 3.3.5.9.13, the
 * application has moved to another client.
 */
static bool ask_to_close(struct messaging_context *msg_ctx,
			 const struct state_handle *h)
{
	struct oplock_break_message message = {
		.id = { .devid = h->record.device, .inode = h->record.inode,
			.extid = h->record.extra },
		.share_file_id = h->gen_id,
	};
	DATA_BLOB blob = data_blob_null;

	if (!NDR_ERR_CODE_IS_SUCCESS(ndr_push_struct_blob(
		&blob, talloc_tos(), &message, (ndr_push_flags_fn_t)
		ndr_push_oplock_break_message))) {
		return false;
	}
	if (hvrs_fence(h, 0) == FENCE_LIVES) {
		messaging_send(msg_ctx, h->owner, MSG_SMB_CLOSE_FILE, &blob);
	}
	data_blob_free(&blob);
	return true;
}

/* One that does not do it in time; what else it held its client gets back. */
static void kill_for_move(const struct state_handle *h)
{
	DBG_ERR("hvrs: process %llu does not close a file whose application "
		"has moved to another client; it is killed\n",
		(unsigned long long)h->owner.pid);
	process_end(h->owner, true, 0);
}

/* An open that waits for another one to be closed. */
struct moving {
	struct moving *prev, *next;
	struct smbd_smb2_request *req;
	uint64_t id;		/* of the other's handle */
	uint64_t begun;
	bool killed;
};

static struct moving *all_moving;

static int moving_destructor(struct moving *moving)
{
	DLIST_REMOVE(all_moving, moving);
	return 0;
}

/* The one of this request; a new one has asked for the close. */
static struct moving *moving_of(struct messaging_context *msg_ctx,
				struct smbd_smb2_request *req,
				const struct state_handle *h)
{
	struct moving *moving = NULL;

	for (moving = all_moving; moving != NULL; moving = moving->next) {
		if (moving->req == req && moving->id == h->record.id) {
			return moving;
		}
	}
	moving = talloc_zero(req, struct moving);
	if (moving == NULL) {
		return NULL;
	}
	moving->req = req;
	moving->id = h->record.id;
	moving->begun = state_handles_now();
	DLIST_ADD(all_moving, moving);
	talloc_set_destructor(moving, moving_destructor);
	if (state_handle_state(h) == HANDLE_CONNECTED &&
	    !ask_to_close(msg_ctx, h)) {
		TALLOC_FREE(moving);
	}
	return moving;
}

enum hvrs_moved hvrs_close_remote_step(struct messaging_context *msg_ctx,
				       struct smbd_smb2_request *req,
				       struct state_handle *h)
{
	struct moving *moving = moving_of(msg_ctx, req, h);
	uint64_t waited = 0;

	if (moving == NULL) {
		return MOVED_NOT;
	}
	waited = state_handles_now() - moving->begun;
	if (state_handle_state(h) == HANDLE_WAITING &&
	    hvrs_fence(h, 0) == FENCE_GONE) {
		h->record.flags &= ~(uint32_t)(HANDLE_DELETE_INITIAL |
					       HANDLE_DELETE_PENDING);
		return hvrs_handle_end(h) ? MOVED_DONE : MOVED_WAIT;
	}
	if (waited < CLOSE_REMOTE_MS) {
		return MOVED_WAIT;
	}
	if (!moving->killed && state_handle_state(h) == HANDLE_CONNECTED) {
		moving->killed = true;
		kill_for_move(h);
	}
	return waited < CLOSE_REMOTE_MS + PROCESS_END_MS ? MOVED_WAIT :
		MOVED_NOT;
}

/* The same, for one that cannot wait otherwise. */
bool hvrs_close_remote(struct messaging_context *msg_ctx,
		       struct state_handle *h)
{
	struct server_id me = messaging_server_id(msg_ctx);
	uint64_t id = h->record.id;
	int i = 0;

	if (state_handle_state(h) == HANDLE_WAITING) {
		return end_fenced(h);
	}
	if (!ask_to_close(msg_ctx, h)) {
		return false;
	}
	if (server_id_equal(&h->owner, &me)) {
		/* This process reads it when it is back in its loop. */
		return true;
	}
	for (i = 0; i < CLOSE_REMOTE_MS / 5; i++) {
		struct state_handle *now = state_handles_fetch(talloc_tos(),
							       id);
		bool done = now == NULL ||
			state_handle_state(now) == HANDLE_WAITING;
		bool ended = now == NULL || (done && end_fenced(now));

		TALLOC_FREE(now);
		if (done) {
			return ended;
		}
		usleep(5000);
	}
	kill_for_move(h);
	if (!process_end(h->owner, false, PROCESS_END_MS)) {
		return false;
	}
	return hvrs_handle_end(h);
}
