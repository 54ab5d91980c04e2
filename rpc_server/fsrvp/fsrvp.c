/*
 * The server of [MS-FSRVP], in place of Samba's own rpcd_fsrvp: one worker
 * process of samba-dcerpcd, its state in a database, its timers in absolute
 * time, so that a worker that ends or dies loses nothing.
 */
#include "fsrvp.h"

/* The worker stays while its longest timer may run. */
#define IDLE_S 2100

/*
 * After which what could not be taken away is tried again; and on a cluster,
 * what other nodes have left is looked for.
 */
#define UNDO_MS 60000
/* After which a state that another node had is tried again. */
#define BUSY_MS 1000

int hvrs_fsrvp_main(int argc, const char *argv[]);

uint64_t fsrvp_now(void)
{
	struct timespec ts = {};

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- the timer ------------------------------------------------------------- */

static void start_timer(struct fsrvp *server,
			const struct snapset_state *state);

static void start_timer_in(struct fsrvp *server, uint64_t ms);

static void timer_fires(struct tevent_context *ev, struct tevent_timer *te,
			struct timeval when, void *private_data)
{
	struct fsrvp *server = private_data;
	TALLOC_CTX *frame = talloc_stackframe();
	struct snapset_state *state = NULL;
	bool changed = false;

	(void)ev;
	(void)te;
	(void)when;
	server->timer = NULL;
	if (!fsrvp_enter(server)) {
		start_timer_in(server, BUSY_MS);
		TALLOC_FREE(frame);
		return;
	}
	if (state_snapsets_load(frame, server->db, &state) != 0) {
		goto done;
	}
	/* What is being made ends first; its end comes here again. */
	if (server->job == NULL) {
		snapset_expire(state, &server->rules, fsrvp_now(),
			       &changed);
	}
	if (changed) {
		DBG_NOTICE("hvrs: fsrvp: the client of a shadow copy set has "
			   "been silent too long: the set is dropped\n");
		if (fsrvp_store(server, state) != 0) {
			goto done;
		}
	}
	fsrvp_undo(server, state);
	start_timer(server, state);
done:
	state_snapsets_end(server->db);
	TALLOC_FREE(frame);
}

static void start_timer_in(struct fsrvp *server, uint64_t ms)
{
	/* A tevent timer counts 31 bits of milliseconds. */
	server->timer = tevent_add_timer(
		server->ev, server,
		timeval_current_ofs_msec(MIN(ms, 3600 * 1000) + 1),
		timer_fires, server);
	if (server->timer == NULL) {
		DBG_ERR("hvrs: fsrvp: no memory for a timer\n");
	}
}

static void start_timer(struct fsrvp *server,
			const struct snapset_state *state)
{
	bool again = server->undo_failed || lp_clustering();
	uint64_t now = fsrvp_now();
	uint64_t left = 0;

	TALLOC_FREE(server->timer);
	if (state->deadline != 0) {
		left = state->deadline > now ? state->deadline - now : 0;
		if (server->job != NULL && left < 1000) {
			left = 1000;
		}
	} else if (!again) {
		return;
	}
	if (again && (left == 0 || left > UNDO_MS)) {
		left = UNDO_MS;
	}
	start_timer_in(server, left);
}

int fsrvp_store(struct fsrvp *server, const struct snapset_state *state)
{
	int ret = state_snapsets_store(server->db, state);

	if (ret == 0) {
		start_timer(server, state);
	}
	return ret;
}

/* ---- the start ---------------------------------------------------------------- */

/* A cluster stays when one of its nodes starts again. */
static void read_boot(char *out, size_t size)
{
	int fd = lp_clustering() ? -1 : open(
		"/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd == -1 ? -1 : read(fd, out, size - 1);

	out[length > 0 ? length : 0] = '\0';
	out[strcspn(out, "\n")] = '\0';
	if (fd != -1) {
		close(fd);
	}
}

/* What an earlier worker left half done, and what has run out since. */
static void go_on(struct fsrvp *server)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct snapset_state *state = NULL;
	char boot[64] = "";
	bool changed = false;

	read_boot(boot, sizeof(boot));
	if (state_snapsets_load(frame, server->db, &state) == 0) {
		snapset_restart(state, &server->rules, boot, fsrvp_now(),
				&changed);
		if (!changed || fsrvp_store(server, state) == 0) {
			fsrvp_undo(server, state);
			start_timer(server, state);
		}
	}
	TALLOC_FREE(frame);
}

/* Another node may have ended in the middle of what it did. */
bool fsrvp_enter(struct fsrvp *server)
{
	bool first = false;

	if (state_snapsets_begin(server->db, &first) != 0) {
		return false;
	}
	if (first) {
		go_on(server);
	}
	return true;
}

static void read_rules(struct fsrvp *server)
{
	server->rules.legacy = lp_parm_bool(GLOBAL_SECTION_SNUM, "hvrs",
					    "fsrvp legacy statuses", false);
	server->rules.many_shares = true;
	server->integrity = lp_parm_bool(GLOBAL_SECTION_SNUM, "hvrs",
					 "rpc integrity", true);
	if (server->rules.legacy) {
		int timeout = lp_parm_int(GLOBAL_SECTION_SNUM, "fss",
					  "sequence timeout", 0);

		server->rules.sequence_s = timeout > 0 ? (uint32_t)timeout
						       : 0;
	}
}

static size_t interfaces(const struct ndr_interface_table ***_tables,
			 void *private_data)
{
	static const struct ndr_interface_table *tables[1];

	(void)private_data;
	tables[0] = &ndr_table_FileServerVssAgent;
	*_tables = tables;
	return 1;
}

static NTSTATUS servers(struct dcesrv_context *context,
			const struct dcesrv_endpoint_server ***_servers,
			size_t *_count, void *private_data)
{
	static const struct dcesrv_endpoint_server *list[1];
	struct fsrvp *server = talloc_zero(context, struct fsrvp);

	(void)private_data;
	if (server == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	lp_load_with_shares(get_dyn_CONFIGFILE());
	load_interfaces();
	/* A snapshot script's end must be seen. */
	CatchChildLeaveStatus();
	server->ev = global_event_context();
	server->msg_ctx = global_messaging_context();
	read_rules(server);
	server->db = state_snapsets_open(server);
	if (server->db == NULL) {
		return NT_STATUS_CANNOT_LOAD_REGISTRY_FILE;
	}
	if (lp_clustering()) {
		/* Its timer comes by when another node has it. */
		start_timer_in(server, 0);
	} else {
		go_on(server);
	}
	list[0] = fsrvp_endpoint_server(server);
	*_servers = list;
	*_count = 1;
	return NT_STATUS_OK;
}

/* What the launcher calls, with the arguments of the program. */
__attribute__((visibility("default")))
int hvrs_fsrvp_main(int argc, const char *argv[])
{
	return rpc_run(argc, argv, "rpcd_fsrvp", IDLE_S, interfaces, servers);
}
