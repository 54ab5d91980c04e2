/*
 * The server of [MS-SQOS]: FSCTL_STORAGE_QOS_CONTROL on any open of a share
 * with "hvrs:storage qos = yes".  Which flow an open is in is kept by the
 * process that has it open; the flow itself is shared by all.
 */
#include "samba.h"
#include "state_sqos.h"
#include "tunnel.h"

#include "handle/handle.h"
#include "sqos/rate.h"

#include <time.h>

#undef DBGC_CLASS
#define DBGC_CLASS DBGC_VFS

#define FSCTL_CONTROL	0x00090350u

/* Flows in all, and of one user; attached opens of one client's process. */
#define FLOWS_MAX	65536
#define OWN_FLOWS_MAX	32768
#define OPENS_MAX	4096

/* No user's name: whose flow it is that the server made. */
#define SERVER		"server"

/* So many new flows at least, and those nobody wants any more are swept. */
#define COUNT_AGAIN	64
#define FULL_FOR_MS	1000

const struct tunnel_server *hvrs_tunnel_server(void);

#define CHAINS		1024

/* An open in a flow; "last" is what is known of it, should it be swept. */
struct attached {
	struct attached *prev, *next;
	const struct files_struct *fsp;
	struct sqos_flow last;
	bool ours;		/* of the share's policy, not the client's */
	/* What follows is of use where the server enforces. */
	struct sqos_ref flow;
	struct sqos_ref group;
	uint64_t told;		/* ms; when its limits were last looked up */
	uint64_t least;		/* its minimum */
	struct sqos_request since;	/* told: what it did, of ours */
	uint64_t window;	/* ns; begin of a look at its minimum */
	uint64_t window_io;
	uint64_t idle;		/* ns of the window in which it asked nothing */
	uint64_t stopped;	/* ns; when it began to ask nothing */
	unsigned running;	/* requests that will be told to have ended */
	bool gone;		/* freed with the last of them */
};

static struct attached *chains[CHAINS];
static size_t attached_count;
static struct sqos_rates *rates;

static struct attached **chain_of(const struct files_struct *fsp)
{
	return &chains[((uintptr_t)fsp >> 6) % CHAINS];
}

static struct attached *find(const struct files_struct *fsp)
{
	struct attached *one = NULL;

	for (one = *chain_of(fsp); one != NULL; one = one->next) {
		if (one->fsp == fsp) {
			return one;
		}
	}
	return NULL;
}

/* In a flow of its client's. */
static bool is_attached(const struct files_struct *fsp)
{
	struct attached *one = find(fsp);

	return one != NULL && !one->ours;
}

static void detach(const struct files_struct *fsp)
{
	struct attached *one = find(fsp);
	struct attached **chain = chain_of(fsp);

	if (one == NULL) {
		return;
	}
	DLIST_REMOVE(*chain, one);
	attached_count--;
	one->gone = true;
	if (one->running == 0) {
		TALLOC_FREE(one);
	}
}

static uint64_t now_ns(void)
{
	struct timespec ts = {};

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static uint64_t now_ms(void)
{
	struct timespec ts = {};

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static NTSTATUS status_of(int error)
{
	switch (error) {
	case 0:
		return NT_STATUS_OK;
	case -EPROTONOSUPPORT:
		return NT_STATUS_REVISION_MISMATCH;
	case -ENOENT:
		return NT_STATUS_NOT_FOUND;
	case -EACCES:
		return NT_STATUS_ACCESS_DENIED;
	case -EINVAL:
		return NT_STATUS_INVALID_PARAMETER;
	default:
		return NT_STATUS_INSUFFICIENT_RESOURCES;
	}
}

/* ---- whose flow it is -------------------------------------------------------------- */

static bool is_admin(const struct files_struct *fsp)
{
	const struct security_token *token =
		fsp->conn->session_info->security_token;

	return security_token_has_builtin_administrators(token);
}

/*
 * A flow is its maker's: others neither join it nor change it, whatever they
 * know of its id.
 */
static int check_owner(const struct files_struct *fsp,
		       const struct sqos_flow *flow)
{
	struct dom_sid_buf sid;
	const char *user = dom_sid_str_buf(
		&fsp->conn->session_info->security_token->sids[0], &sid);

	if (strcmp(flow->owner, user) == 0 || is_admin(fsp)) {
		return 0;
	}
	DBG_NOTICE("hvrs: storage QoS: a flow of another user was asked for "
		   "by %s on %s\n", user, fsp_str_dbg(fsp));
	return -EACCES;
}

/*
 * Counting all flows takes the longer the more there are, and is done the more
 * rarely.  Where there is no room nothing is counted for a second.
 */
static bool is_room(const char *owner)
{
	static uint32_t left;
	static uint64_t full_until_ms;
	uint64_t now = now_ms();
	struct state_sqos_count live = {};

	if (left > 0) {
		left--;
		return true;
	}
	if (now < full_until_ms && full_until_ms - now <= FULL_FOR_MS) {
		return false;
	}
	live = state_sqos_sweep(now, owner);
	if (live.all < FLOWS_MAX && live.own < OWN_FLOWS_MAX) {
		left = (uint32_t)MIN(live.all, FLOWS_MAX - live.all) / 16 +
			COUNT_AGAIN;
		return true;
	}
	full_until_ms = now + FULL_FOR_MS;
	DBG_ERR("hvrs: storage QoS: there are %zu flows, %zu of them of user "
		"%s; of %u, and %u of one user, no more are made\n",
		live.all, live.own, owner, FLOWS_MAX, OWN_FLOWS_MAX);
	return false;
}

static int new_flow(const struct files_struct *fsp, const struct guid *id,
		    struct sqos_flow *flow)
{
	struct dom_sid_buf sid;
	const char *user = dom_sid_str_buf(
		&fsp->conn->session_info->security_token->sids[0], &sid);

	if (!is_room(user)) {
		return -ENOMEM;
	}
	flow->id = *id;
	strlcpy(flow->owner, user, sizeof(flow->owner));
	return 0;
}

/* ---- one request ------------------------------------------------------------------ */

/* Sets what a slot allows: of a limit of the whole cluster this node's part. */
static void limit(const uint8_t key[SQOS_RATE_KEY], const struct sqos_ref *ref,
		  uint64_t io, uint64_t kb, uint64_t least)
{
	struct sqos_used used = { .io_limit = io, .kb_limit = kb };
	uint32_t part = SQOS_WHOLE;

	if (lp_clustering() && (io != 0 || kb != 0)) {
		used.behind = sqos_rates_used(rates, ref, now_ns(), &used.io,
					      &used.kb);
		part = state_sqos_part(key, &used, now_ms());
	}
	if (part != 0) {
		sqos_rates_set(rates, ref, sqos_part(io, part),
			       sqos_part(kb, part), least, now_ns());
	}
}

/*
 * What the server itself holds the flow and its group to.  A flow among others
 * gets a little more than its share: what all have together is the limit.
 */
static void hold(struct attached *one, const uint8_t group_key[32],
		 const struct sqos_policy *policy, size_t members,
		 const struct sqos_reply *reply)
{
	uint8_t key[SQOS_RATE_KEY] = { 'F' };
	uint64_t now = now_ns();
	uint64_t io = reply->maximum;
	uint64_t kb = reply->bandwidth;

	if (rates == NULL || one == NULL) {
		return;
	}
	memcpy(key + 1, one->last.id.bytes, 16);
	if (!sqos_rates_find(rates, key, now, &one->flow)) {
		/* It has no limit of its own then. */
	} else if (policy == NULL) {
		limit(key, &one->flow, io, kb, reply->minimum);
	} else {
		io = members > 1 && policy->maximum != 0 ? io + io / 10 + 1
							 : 0;
		kb = members > 1 && policy->bandwidth != 0 ? kb + kb / 10 + 1
							   : 0;
		sqos_rates_set(rates, &one->flow, io, kb, reply->minimum,
			       now);
	}
	one->least = reply->minimum;
	one->group = (struct sqos_ref) {};
	key[0] = 'G';
	memcpy(key + 1, group_key, 32);
	if (policy != NULL &&
	    sqos_rates_find(rates, key, now, &one->group)) {
		limit(key, &one->group, policy->maximum, policy->bandwidth,
		      0);
	}
	one->told = now / 1000000;
}

/* What the flow is told; its group learns of its demand. */
static void assign(TALLOC_CTX *mem_ctx, struct attached *one,
		   struct sqos_flow *flow, uint64_t now,
		   struct sqos_reply *_reply)
{
	struct sqos_policy policy = {};
	struct sqos_group *group = NULL;
	struct state_sqos_lock *lock = NULL;
	uint8_t key[32] = {};

	if (guid_is_null(&flow->policy) ||
	    state_sqos_policy(&flow->policy, &policy) != 0) {
		sqos_assign(flow, NULL, NULL, _reply);
		hold(one, key, NULL, 1, _reply);
		return;
	}
	group = talloc_zero(mem_ctx, struct sqos_group);
	sqos_group_key(&policy, flow, key);
	lock = group != NULL ? state_sqos_group_lock(mem_ctx, key, group)
			     : NULL;
	if (lock != NULL) {
		sqos_group_update(group, flow, now);
		state_sqos_group_store(lock, group);
	}
	sqos_assign(flow, &policy, group, _reply);
	hold(one, key, &policy, group != NULL ? group->count : 1, _reply);
	TALLOC_FREE(lock);
	TALLOC_FREE(group);
}

/* Puts the open into the flow, or keeps what is known of it up to date. */
static int attach(const struct files_struct *fsp, const struct sqos_flow *flow)
{
	struct attached *one = find(fsp);

	if (one == NULL) {
		if (attached_count >= OPENS_MAX) {
			return -ENOMEM;
		}
		one = talloc_zero(NULL, struct attached);
		if (one == NULL) {
			return -ENOMEM;
		}
		one->fsp = fsp;
		DLIST_ADD(*chain_of(fsp), one);
		attached_count++;
	}
	if (!guid_equal(&one->last.id, &flow->id)) {
		one->flow = (struct sqos_ref) {};
		one->ours = false;
	}
	one->last = *flow;
	return 0;
}

/*
 * The flow a request is about, locked.  A flow that was swept while an open
 * was in it comes back as it was.
 */
static int lock_flow(TALLOC_CTX *mem_ctx, const struct files_struct *fsp,
		     const struct sqos_request *request,
		     struct sqos_flow *flow, struct state_sqos_lock **_lock)
{
	struct attached *one = is_attached(fsp) ? find(fsp) : NULL;
	bool joins = (request->options &
		      (SQOS_SET_FLOW | SQOS_PROBE_POLICY)) != 0;
	struct guid id = joins || one == NULL ? request->flow : one->last.id;
	struct state_sqos_lock *lock = NULL;
	bool found = false;
	int ret = 0;

	/* Made before the lock, as it may sweep. */
	struct sqos_flow fresh = {};

	lock = state_sqos_flow_lock(mem_ctx, &id, flow, &found);
	if (lock == NULL) {
		return -EIO;
	}
	if (!found) {
		TALLOC_FREE(lock);
		if (one != NULL && guid_equal(&one->last.id, &id)) {
			fresh = one->last;
		} else {
			ret = new_flow(fsp, &id, &fresh);
			if (ret != 0) {
				return ret;
			}
		}
		lock = state_sqos_flow_lock(mem_ctx, &id, flow, &found);
		if (lock == NULL) {
			return -EIO;
		}
		if (!found) {
			*flow = fresh;
		}
	}
	ret = check_owner(fsp, flow);
	if (ret != 0) {
		TALLOC_FREE(lock);
		return ret;
	}
	*_lock = lock;
	return 0;
}

static int control(TALLOC_CTX *mem_ctx, struct files_struct *fsp,
		   const struct sqos_request *request,
		   struct sqos_reply *_reply)
{
	struct state_sqos_lock *lock = NULL;
	struct sqos_flow flow = {};
	uint64_t now = now_ms();
	int ret = 0;

	if ((request->options & SQOS_SET_FLOW) != 0 &&
	    guid_is_null(&request->flow)) {
		detach(fsp);
		return 0;
	}
	if (!sqos_request_attaches(request, is_attached(fsp))) {
		return 0;
	}
	ret = lock_flow(mem_ctx, fsp, request, &flow, &lock);
	if (ret != 0) {
		return ret;
	}
	if ((request->options & (SQOS_SET_POLICY | SQOS_PROBE_POLICY)) != 0) {
		sqos_flow_set(&flow, request);
	}
	if ((request->options & SQOS_UPDATE_COUNTERS) != 0) {
		sqos_flow_count(&flow, request, now);
	}
	flow.seen_ms = now;
	sqos_flow_rate(&flow, now);
	snprintf(flow.file, sizeof(flow.file), "%s: %s",
		 lp_const_servicename(SNUM(fsp->conn)), fsp_str_dbg(fsp));
	ret = attach(fsp, &flow);
	if (ret == 0) {
		assign(mem_ctx, find(fsp), &flow, now, _reply);
		ret = state_sqos_flow_store(lock, &flow);
	}
	TALLOC_FREE(lock);
	return ret;
}

static bool sqos_ioctl(uint32_t code, struct tevent_context *ev,
		       struct tevent_req *req,
		       struct smbd_smb2_ioctl_state *state)
{
	struct files_struct *fsp = state->fsp;
	struct sqos_request *request = NULL;
	struct sqos_reply reply = {};
	uint8_t *out = NULL;
	size_t length = 0;
	int ret = 0;

	(void)ev;
	if (code != FSCTL_CONTROL) {
		return false;
	}
	if (fsp->fsp_flags.is_directory || fsp->fake_file_handle != NULL ||
	    fsp->print_file != NULL) {
		tevent_req_nterror(req, NT_STATUS_INVALID_DEVICE_REQUEST);
		return true;
	}
	request = talloc_zero(state, struct sqos_request);
	if (tevent_req_nomem(request, req)) {
		return true;
	}
	ret = sqos_request_decode(state->in_input.data,
				  state->in_input.length,
				  state->in_max_output, is_attached(fsp),
				  request);
	if (ret == 0) {
		ret = control(state, fsp, request, &reply);
	}
	if (tevent_req_nterror(req, status_of(ret))) {
		return true;
	}
	if ((request->options & SQOS_GET_STATUS) != 0) {
		out = talloc_zero_array(state, uint8_t, SQOS_REPLY_V11);
		if (tevent_req_nomem(out, req)) {
			return true;
		}
		length = sqos_reply_encode(&reply, request->version, out);
		state->out_output = data_blob_const(out, length);
	}
	tevent_req_done(req);
	return true;
}

/* ---- enforcement --------------------------------------------------------------------- */

/*
 * An open in no flow of its client's is in one that the server makes, for each
 * client machine one of a policy.
 */
static struct attached *attach_ours(const struct files_struct *fsp,
				    const char *policy)
{
	struct sqos_flow flow = { .owner = SERVER };
	const struct GUID *client =
		&fsp->conn->sconn->client->global->client_guid;
	size_t i = 0;

	if (guid_parse(policy, strlen(policy), &flow.policy) != 0) {
		return NULL;
	}
	memcpy(flow.initiator.bytes, client, sizeof(*client));
	for (i = 0; i < sizeof(flow.id.bytes); i++) {
		flow.id.bytes[i] = (uint8_t)(flow.initiator.bytes[i] ^
					     flow.policy.bytes[i] ^ 0x5A);
	}
	strlcpy(flow.name, fsp->conn->sconn->remote_hostname,
		sizeof(flow.name));
	if (attach(fsp, &flow) != 0) {
		return NULL;
	}
	find(fsp)->ours = true;
	return find(fsp);
}

/*
 * Once a second: what the flow is allowed now.  What it did counts here where
 * its client does not tell; only clients know of latencies.
 */
static void look_again(struct files_struct *fsp, struct attached *one)
{
	struct state_sqos_lock *lock = NULL;
	struct sqos_flow flow = {};
	struct sqos_reply reply = {};
	uint64_t now = now_ms();
	bool found = false;

	one->told = now_ns() / 1000000;
	lock = state_sqos_flow_lock(talloc_tos(), &one->last.id, &flow,
				    &found);
	if (lock == NULL) {
		return;
	}
	if (!found) {
		flow = one->last;
	}
	if (flow.total.latency == 0) {
		sqos_flow_count(&flow, &one->since, now);
		sqos_flow_rate(&flow, now);
	}
	one->since = (struct sqos_request) {};
	flow.seen_ms = now;
	if (one->ours) {
		snprintf(flow.file, sizeof(flow.file), "%s: %s",
			 lp_const_servicename(SNUM(fsp->conn)),
			 fsp_str_dbg(fsp));
	}
	one->last = flow;
	assign(talloc_tos(), one, &flow, now, &reply);
	state_sqos_flow_store(lock, &flow);
	TALLOC_FREE(lock);
}

/* A request of a flow with a minimum begins. */
static void run(struct attached *one, uint64_t now, void **_flow)
{
	if (one->least == 0) {
		return;
	}
	if (one->running == 0) {
		one->idle += now - MAX(one->stopped, one->window);
	}
	one->running++;
	*_flow = one;
}

static uint64_t sqos_charge(struct files_struct *fsp, size_t length,
			    const char *policy, void **_flow)
{
	struct attached *one = find(fsp);
	uint64_t now = now_ns();
	uint64_t io = (length + SQOS_BASE_IO_SIZE - 1) / SQOS_BASE_IO_SIZE;
	uint64_t kb = (length + 1023) / 1024;

	if (rates == NULL) {
		return 0;
	}
	if (length == 0) {
		if (one != NULL) {
			run(one, now, _flow);
		}
		return 0;
	}
	if (one == NULL && policy[0] != '\0') {
		one = attach_ours(fsp, policy);
	}
	if (one == NULL) {
		/* Counts for those who are owed a minimum. */
		return sqos_rates_charge(rates, NULL, NULL, io, kb, now) /
			1000;
	}
	one->since.ios++;
	one->since.normalised += io;
	one->since.kilobytes += kb;
	if (now / 1000000 - one->told >= 1000) {
		look_again(fsp, one);
	}
	run(one, now, _flow);
	return (sqos_rates_charge(rates, &one->flow, &one->group, io, kb,
				  now) + 999) / 1000;
}

/* Its part of a limit is lost to whoever does not ask for it any more. */
static void sqos_waits(struct files_struct *fsp)
{
	struct attached *one = find(fsp);

	if (one != NULL && now_ns() / 1000000 - one->told >= 1000) {
		look_again(fsp, one);
	}
}

/*
 * Did a flow get its minimum, where it asked for that much?  It asked where it
 * would have had it, had every request been answered at once.
 */
static void look_at_minimum(struct attached *one, uint64_t now)
{
	double got = (double)one->window_io * 1e9;
	double wanted = (double)one->least * (double)(now - one->window);
	bool asked = (double)one->least * (double)one->idle <= got;

	sqos_rates_feedback(rates, asked ? got / wanted : 1, now);
	one->window = now;
	one->window_io = 0;
	one->idle = 0;
}

static void sqos_charged(void *private_data, size_t length)
{
	struct attached *one = private_data;
	uint64_t now = now_ns();

	one->running--;
	one->stopped = now;
	one->window_io += (length + SQOS_BASE_IO_SIZE - 1) /
		SQOS_BASE_IO_SIZE;
	if (now - one->window >= SQOS_LOOK_NS) {
		look_at_minimum(one, now);
	}
	if (one->gone && one->running == 0) {
		TALLOC_FREE(one);
	}
}

static void sqos_close(struct files_struct *fsp)
{
	detach(fsp);
}

/* ---- handles that outlive smbd ---------------------------------------------------- */

/* What the client set, and not what was counted: it changes seldom. */
static bool sqos_save(struct files_struct *fsp, TALLOC_CTX *mem_ctx,
		      DATA_BLOB *_state)
{
	struct attached *one = find(fsp);
	struct sqos_flow flow = {};
	uint8_t *bytes = NULL;
	size_t length = 0;

	if (one == NULL || one->ours) {
		return false;
	}
	flow = one->last;
	flow.seen_ms = 0;
	flow.rated_ms = 0;
	flow.demand = 0;
	flow.total = (struct sqos_counters) {};
	flow.since = (struct sqos_counters) {};
	flow.missed = 0;
	if (sqos_flow_encode(mem_ctx, &flow, &bytes, &length) != 0) {
		return false;
	}
	*_state = data_blob_const(bytes, length);
	return true;
}

/* In its flow again, which is there still or is made as it was. */
static NTSTATUS sqos_restore(struct vfs_handle_struct *handle,
			     struct files_struct *fsp, DATA_BLOB state,
			     DATA_BLOB extra)
{
	struct state_sqos_lock *lock = NULL;
	struct sqos_flow kept = {};
	struct sqos_flow flow = {};
	bool found = false;

	(void)handle;
	(void)extra;
	if (sqos_flow_decode(state.data, state.length, &kept) != 0) {
		DBG_ERR("hvrs: storage QoS: the flow of %s is damaged; the "
			"file comes back without\n", fsp_str_dbg(fsp));
		return NT_STATUS_OK;
	}
	lock = state_sqos_flow_lock(talloc_tos(), &kept.id, &flow, &found);
	if (lock == NULL) {
		return NT_STATUS_OK;
	}
	if (!found) {
		flow = kept;
	}
	flow.seen_ms = now_ms();
	if (strcmp(flow.owner, kept.owner) == 0 && attach(fsp, &flow) == 0) {
		state_sqos_flow_store(lock, &flow);
	}
	TALLOC_FREE(lock);
	return NT_STATUS_OK;
}

static bool sqos_start(const struct tunnel_host *host)
{
	char *path = lock_path(talloc_tos(), "hvrs_sqos_rates");
	int ret = path == NULL ? -ENOMEM : sqos_rates_open(NULL, path, &rates);

	(void)host;
	TALLOC_FREE(path);
	if (ret != 0) {
		DBG_ERR("hvrs: the limits of storage QoS cannot be shared in "
			"%s: %s. Nothing is enforced\n", lp_lock_directory(),
			strerror(-ret));
	}
	return state_sqos_open();
}

static bool sqos_create(const struct tunnel_create *c, NTSTATUS *_status)
{
	(void)c;
	(void)_status;
	return false;
}

__attribute__((visibility("default")))
const struct tunnel_server *hvrs_tunnel_server(void)
{
	static const struct tunnel_server server = {
		.version = TUNNEL_VERSION,
		.name = "sqos",
		.tag = 0x534F5153 | HANDLE_MODULE_SPARE,
		.start = sqos_start,
		.create = sqos_create,
		.ioctl = sqos_ioctl,
		.charge = sqos_charge,
		.charged = sqos_charged,
		.waits = sqos_waits,
		.close = sqos_close,
		.save = sqos_save,
		.restore = sqos_restore,
	};

	return &server;
}
