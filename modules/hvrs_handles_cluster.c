/*
 * A node that the others have given up: it was cut off from them, or stood
 * still.  Its processes write no more from when they can know, so that what
 * they hold can go to others: before a request is looked at after a pause,
 * every second, and before anything is promised.  A process that waits for the
 * cluster's databases does none of that; the warden kills it.
 */
#include "hvrs_handles.h"

#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "lib/global_contexts.h"
#include "lib/util/server_id.h"
#include "locking/share_mode_lock.h"
#include "locking/proto.h"

#define LOOK_MS 1000
#define PAUSE_MS 500
#define WARDEN_MS 300
#define HEAL_MOST 32

static uint64_t looked_ms;

/* Goes on while the machine sleeps. */
static uint64_t clock_ms(void)
{
	struct timespec now = {};

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Nothing is closed: it would be somebody else's. */
static void end_if(bool out, const char *why)
{
	if (out) {
		DBG_ERR("hvrs: %s; this process ends, and its client comes "
			"back to its handles\n", why);
		_exit(1);
	}
}

static void look(void)
{
	struct files_struct *fsp = NULL;
	bool looked = false;

	looked_ms = clock_ms();
	if (global_smbXsrv_client == NULL ||
	    global_smbXsrv_client->sconn == NULL) {
		return;
	}
	for (fsp = global_smbXsrv_client->sconn->files; fsp != NULL;
	     fsp = fsp->next) {
		struct hvrs_open *open = hvrs_open_of(fsp);

		if (open == NULL || !open->stored) {
			continue;
		}
		if (!looked) {
			looked = true;
			end_if(state_handles_is_out(), "the other nodes have "
			       "given up this one");
		}
		end_if(!state_handles_is_mine(open->h.record.id),
		       "another node has taken over a handle");
	}
}

void hvrs_handles_begin(void)
{
	if (lp_clustering() && clock_ms() - looked_ms >= PAUSE_MS) {
		look();
	}
}

void hvrs_handles_promise(void)
{
	if (lp_clustering()) {
		end_if(state_handles_is_out(), "the other nodes have given up "
		       "this one");
	}
}

/* Every handle in turn; a process may have thousands. */
static void heal(void)
{
	static uint64_t last;
	struct files_struct *fsp = NULL;
	struct files_struct *next = NULL;
	struct hvrs_open *open = NULL;
	int turn = 0;

	if (global_smbXsrv_client == NULL ||
	    global_smbXsrv_client->sconn == NULL) {
		return;
	}
	for (turn = 0; turn < HEAL_MOST; turn++) {
		next = NULL;
		for (fsp = global_smbXsrv_client->sconn->files; fsp != NULL;
		     fsp = fsp->next) {
			uint64_t id = 0;

			open = hvrs_open_of(fsp);
			if (open == NULL || !open->stored ||
			    open->stale || fsp->fsp_flags.closing) {
				continue;
			}
			id = open->h.record.id;
			if (id > last && (next == NULL || id <
			    hvrs_open_of(next)->h.record.id)) {
				next = fsp;
			}
		}
		if (next == NULL) {
			last = 0;
			return;
		}
		last = hvrs_open_of(next)->h.record.id;
		hvrs_open_heal(next, hvrs_open_of(next));
	}
}

void hvrs_handles_look_first(struct files_struct *fsp)
{
	struct hvrs_open *open = NULL;

	if (!lp_clustering()) {
		return;
	}
	open = hvrs_open_of(fsp);
	if (open != NULL && open->stored && !open->stale) {
		hvrs_open_heal(fsp, open);
	}
}

/*
 * What CTDB puts together after a node has died may be older than what the
 * living have done: an open of this process that was closed is there again.
 */
bool hvrs_handles_ghost(const struct share_mode_entry *e)
{
	struct server_id me = {};
	struct files_struct *fsp = NULL;

	if (!lp_clustering() || global_smbXsrv_client == NULL ||
	    global_smbXsrv_client->sconn == NULL) {
		return false;
	}
	me = messaging_server_id(global_smbXsrv_client->sconn->msg_ctx);
	if (!server_id_equal(&e->pid, &me)) {
		return false;
	}
	for (fsp = global_smbXsrv_client->sconn->files; fsp != NULL;
	     fsp = fsp->next) {
		if (fsp->fh != NULL &&
		    fh_get_gen_id(fsp->fh) == e->share_file_id) {
			return false;
		}
	}
	return true;
}

static void look_timer(struct tevent_context *ev, struct tevent_timer *te,
		       struct timeval now, void *private_data)
{
	(void)te;
	(void)now;
	look();
	heal();
	tevent_add_timer(ev, ev, timeval_current_ofs_msec(LOOK_MS), look_timer,
			 private_data);
}

void hvrs_handles_look_start(void)
{
	if (lp_clustering()) {
		tevent_add_timer(global_event_context(),
				 global_event_context(),
				 timeval_current_ofs_msec(LOOK_MS),
				 look_timer, NULL);
	}
}

/* Another node has renamed it: the record has to find it. */
void hvrs_handles_named(struct smbd_server_connection *sconn)
{
	struct files_struct *fsp = NULL;

	for (fsp = sconn->files; lp_clustering() && fsp != NULL;
	     fsp = fsp->next) {
		struct hvrs_open *open = hvrs_open_of(fsp);
		struct state_log_point point = {};

		if (open != NULL && open->stored &&
		    hvrs_open_refresh(fsp, open)) {
			state_handles_store(&open->h, &point);
		}
	}
}

/*
 * Whether the nodes give the share's files the same ids; asked with the first
 * open, when all modules of the share are there.
 */
bool hvrs_handles_agree(struct hvrs_share *share,
			struct connection_struct *conn)
{
	SMB_STRUCT_STAT st = {};
	struct file_id file = {};
	int same = 0;

	if (!lp_clustering() || share->agreed) {
		return true;
	}
	if (share->disagreed) {
		return false;
	}
	if (sys_stat(conn->connectpath, &st, false) != 0) {
		return false;
	}
	file = vfs_file_id_from_sbuf(conn, &st);
	same = state_handles_same_ids(conn->connectpath, &file);
	share->agreed = same == 1;
	share->disagreed = same == 0;
	if (share->disagreed) {
		DBG_ERR("hvrs: share %s: the ids of its files are not those "
			"that another node sees, so that locks of one would "
			"mean nothing to the other: no persistent and no "
			"resilient handles. See vfs_fileid(8), and after the "
			"file system was made anew restart CTDB on all "
			"nodes\n", share->name);
	}
	/* Where nobody tells, it is asked again with the next open. */
	return !share->disagreed;
}

/* ---- the warden --------------------------------------------------------------- */

static void end_owners(void)
{
	struct server_id *ids = NULL;
	size_t count = state_handles_owners(talloc_tos(), true, &ids);
	size_t i = 0;

	for (i = 0; i < count; i++) {
		hvrs_kill(&ids[i]);
	}
	TALLOC_FREE(ids);
}

/*
 * Asks nothing of the cluster but the file system.  A child of the keeper, and
 * ends with it.
 */
void hvrs_handles_warden_start(void)
{
	pid_t parent = getpid();

	if (!lp_clustering() || fork() != 0) {
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	series_process_title("warden");
	while (getppid() == parent) {
		TALLOC_CTX *frame = talloc_stackframe();

		if (state_handles_is_out()) {
			DBG_ERR("hvrs: the other nodes have given up this "
				"one; its processes that have handles are "
				"killed\n");
			end_owners();
			state_handles_begin();
		}
		TALLOC_FREE(frame);
		usleep(WARDEN_MS * 1000);
	}
	_exit(0);
}
