/*
 * What is done without a request: handles whose time is over end, requests of
 * an administrator are met, the log is written anew.  The process of each
 * client does it in turn, and a process of its own ("keeper") that lives as
 * long as smbd, for when there is no client.
 */
#include "hvrs_handles.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/global_contexts.h"
#include "lib/util/server_id.h"
#include "serverid.h"

#define SWEEP_MS 5000
#define KEEPER_MS 1000

static bool is_keeper;

struct owner {
	struct server_id id;
	bool lives;
};

struct sweep {
	struct owner *owners;	/* those that were looked for */
	size_t owner_count;
	uint64_t *ids;
	size_t count;
	uint64_t now;
};

/* Looking takes a few system calls, and handles come in no order. */
static bool owner_lives(struct sweep *sweep, const struct server_id *id)
{
	struct owner *owner = NULL;
	size_t i = 0;

	for (i = 0; i < sweep->owner_count; i++) {
		if (server_id_equal(&sweep->owners[i].id, id)) {
			return sweep->owners[i].lives;
		}
	}
	owner = talloc_realloc(talloc_tos(), sweep->owners, struct owner,
			       sweep->owner_count + 1);
	if (owner == NULL) {
		return true;
	}
	sweep->owners = owner;
	owner += sweep->owner_count++;
	owner->id = *id;
	owner->lives = !state_handles_is_gone(&owner->id);
	return owner->lives;
}

/* Marks since when an owner that died is awaited; collects the expired. */
static bool sweep_fn(struct state_handle *h, void *private_data)
{
	struct sweep *sweep = private_data;
	uint64_t *grown = NULL;

	if ((h->connected && owner_lives(sweep, &h->owner)) ||
	    (h->record.waiting_since_ms != 0 &&
	     !handle_expired(&h->record, sweep->now))) {
		return true;
	}
	grown = talloc_realloc(talloc_tos(), sweep->ids, uint64_t,
			       sweep->count + 1);
	if (grown == NULL) {
		return false;
	}
	sweep->ids = grown;
	sweep->ids[sweep->count++] = h->record.id;
	return true;
}

void hvrs_handles_sweep(void)
{
	struct sweep sweep = { .now = state_handles_now() };
	size_t i = 0;

	state_handles_traverse(sweep_fn, &sweep);
	for (i = 0; i < sweep.count; i++) {
		struct state_handle *h = state_handles_fetch(talloc_tos(),
							     sweep.ids[i]);

		if (h != NULL && state_handle_state(h) == HANDLE_WAITING &&
		    hvrs_handle_over(h)) {
			hvrs_handle_end(h);
		}
		TALLOC_FREE(h);
	}
	TALLOC_FREE(sweep.ids);
	TALLOC_FREE(sweep.owners);
}

/* "hvrsctl handles close": a file with the name of the handle asks for it. */
static void sweep_requests(void)
{
	char *folder = talloc_asprintf(talloc_tos(), "%s/close",
				       state_handles_directory());
	struct messaging_context *msg_ctx = global_messaging_context();
	struct dirent *entry = NULL;
	DIR *dir = NULL;

	if (folder == NULL) {
		return;
	}
	become_root();
	dir = opendir(folder);
	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		struct state_handle *h = NULL;
		char *end = NULL;
		uint64_t id = strtoull(entry->d_name, &end, 16);

		if (entry->d_name[0] == '.' || *end != '\0') {
			continue;
		}
		h = state_handles_fetch(talloc_tos(), id);
		if (h != NULL) {
			DBG_NOTICE("hvrs: handle %s is closed by an "
				   "administrator\n", entry->d_name);
			hvrs_close_remote(msg_ctx, h);
		}
		TALLOC_FREE(h);
		unlinkat(dirfd(dir), entry->d_name, 0);
	}
	if (dir != NULL) {
		closedir(dir);
	}
	unbecome_root();
	TALLOC_FREE(folder);
}

/*
 * Whoever has the index locked and is stopped keeps everybody from opening
 * anything; seen so twice, it is killed.
 */
static void watch_index(void)
{
	static struct server_id seen;
	static uint64_t seen_turn;
	struct server_id holder = {};
	uint64_t turn = 0;

	if (!state_handles_holder(&holder, &turn) ||
	    !hvrs_is_stopped(&holder)) {
		seen_turn = 0;
		return;
	}
	if (turn == seen_turn && server_id_equal(&seen, &holder)) {
		DBG_ERR("hvrs: process %llu is stopped and keeps all others "
			"from their handles; it is killed\n",
			(unsigned long long)holder.pid);
		hvrs_kill(&holder);
	}
	seen = holder;
	seen_turn = turn;
}

/* private_data: after how many milliseconds again. */
static void sweep_timer(struct tevent_context *ev, struct tevent_timer *te,
			struct timeval now, void *private_data)
{
	const uint32_t *interval_ms = private_data;

	(void)te;
	(void)now;
	watch_index();
	if (is_keeper) {
		state_handles_give_up();
	}
	if (state_log_turn(state_handles_now(), SWEEP_MS / 2)) {
		hvrs_handles_sweep();
		sweep_requests();
		state_handles_compact();
	}
	tevent_add_timer(ev, ev, timeval_current_ofs_msec(*interval_ms),
			 sweep_timer, private_data);
}

static void sweep_often(struct tevent_context *ev, uint32_t *interval_ms)
{
	tevent_add_timer(ev, ev, timeval_current_ofs_msec(100), sweep_timer,
			 interval_ms);
}

/* ---- the keeper --------------------------------------------------------------------- */

/* The client shall see it when the process that serves it is gone. */
static void close_connections(void)
{
	struct dirent *entry = NULL;
	DIR *dir = opendir("/proc/self/fd");

	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		int fd = atoi(entry->d_name);
		int domain = 0;
		socklen_t size = sizeof(domain);

		if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) ==
		    0 && (domain == AF_INET || domain == AF_INET6)) {
			close(fd);
		}
	}
	if (dir != NULL) {
		closedir(dir);
	}
}

/* Never returns; ends with smbd, which its event context watches. */
static void keeper(void)
{
	static uint32_t interval_ms = KEEPER_MS;
	struct tevent_context *ev = global_event_context();
	NTSTATUS status = NT_STATUS_OK;

	status = series_after_fork(global_messaging_context(), ev);
	if (!NT_STATUS_IS_OK(status)) {
		_exit(1);
	}
	close_connections();
	series_process_title("keeper");
	reopen_logs();
	hvrs_handles_warden_start();
	is_keeper = true;
	sweep_often(ev, &interval_ms);
	while (true) {
		TALLOC_CTX *frame = talloc_stackframe();

		if (tevent_loop_once(ev) != 0) {
			_exit(1);
		}
		TALLOC_FREE(frame);
	}
}

/* Before the first request: nothing of a client's is open yet. */
static bool is_early(void)
{
	return global_smbXsrv_client != NULL &&
		global_smbXsrv_client->sconn != NULL &&
		global_smbXsrv_client->sconn->files == NULL &&
		global_smbXsrv_client->connections != NULL &&
		global_smbXsrv_client->connections->protocol == PROTOCOL_NONE;
}

/* One for all: it holds a lock on a file as long as it lives. */
static void keeper_start(void)
{
	char *path = lock_path(talloc_tos(), "hvrs_handles.keeper");
	pid_t child = 0;
	int fd = -1;

	if (path == NULL || !is_early() || parent_watch_fd() == -1) {
		TALLOC_FREE(path);
		return;
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	TALLOC_FREE(path);
	if (fd == -1 || flock(fd, LOCK_EX | LOCK_NB) != 0) {
		if (fd != -1) {
			close(fd);
		}
		return;
	}
	child = fork();
	if (child == 0) {
		/* No child of this process: that may end before. */
		child = fork();
		if (child == 0) {
			keeper();
		}
		_exit(child == -1 ? 1 : 0);
	}
	close(fd);
	while (child > 0 && waitpid(child, NULL, 0) == -1 && errno == EINTR) {
	}
	if (child == -1) {
		DBG_ERR("hvrs: no process can be started that looks after "
			"handles while no client is connected: %s\n",
			strerror(errno));
	}
}

void hvrs_handles_sweep_start(void)
{
	static uint32_t interval_ms = SWEEP_MS;

	keeper_start();
	/* What was asked for while nobody was there. */
	sweep_requests();
	sweep_often(global_event_context(), &interval_ms);
	hvrs_handles_look_start();
}
