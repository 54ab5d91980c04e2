/*
 * The entry points of [MS-FSRVP]: calls one after another, each an opnum and
 * stub bytes, through Samba's NDR code, the check of access, the methods and
 * the state machine, and their answers back into stub bytes.  What takes a
 * snapshot, makes a share or stores is played here.
 *
 * A call is: opnum (5 bits) and what the player does (3 bits), seconds that
 * pass, length in two bytes, stub.  In a stub "SET-SET-SET-SET-" is the id of
 * the newest set, "COPY-COPY-COPY-C" that of the newest copy.
 */
#include "fsrvp.h"

#undef strcasecmp
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALLS_MOST 64
#define WORK_FAILS 1		/* of the player */
#define WORK_LATER 2
#define STORE_FAILS 4

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static struct dcesrv_interface interface;
static struct fsrvp server;
static uint8_t *stored;
static size_t stored_length;
static uint64_t now;
static unsigned plays;

/* ---- what the server would do, played ---------------------------------------- */

uint64_t fsrvp_now(void)
{
	return now;
}

bool fsrvp_enter(struct fsrvp *one)
{
	(void)one;
	return true;
}

void state_snapsets_end(struct state_snapsets *db)
{
	(void)db;
}

int state_snapsets_load(TALLOC_CTX *mem_ctx, struct state_snapsets *db,
			struct snapset_state **_state)
{
	(void)db;
	if (stored == NULL) {
		*_state = snapset_state_new(mem_ctx);
		return *_state != NULL ? 0 : -ENOMEM;
	}
	/* What was stored can be read again. */
	if (snapset_decode(mem_ctx, stored, stored_length, _state, NULL) !=
	    0) {
		abort();
	}
	return 0;
}

int fsrvp_store(struct fsrvp *one, const struct snapset_state *state)
{
	uint8_t *bytes = NULL;
	size_t length = 0;
	int ret = 0;

	(void)one;
	if ((plays & STORE_FAILS) != 0) {
		return -EIO;
	}
	ret = snapset_encode(NULL, state, &bytes, &length);
	if (ret == 0) {
		talloc_free(stored);
		stored = bytes;
		stored_length = length;
	}
	return ret;
}

uint32_t fsrvp_job_begin(struct fsrvp_call *call, struct snapset_set *set,
			 bool commit, uint32_t timeout_ms)
{
	uint32_t result = (plays & WORK_FAILS) != 0 ? SNAPSET_FAIL
						    : SNAPSET_OK;
	struct snapset_copy *copy = NULL;
	struct guid id = set->id;

	if ((plays & WORK_LATER) != 0) {
		snapset_timer_short(call->state, &call->server->rules, now,
				    &call->changed);
		return timeout_ms == 0 ? SNAPSET_COMMIT_TIMEOUT
				       : SNAPSET_WAIT_TIMEOUT;
	}
	if (!commit) {
		snapset_prepare_done(call->state, &call->server->rules,
				     result, now, &call->changed);
		return result;
	}
	for (copy = set->copies; copy != NULL; copy = copy->next) {
		copy->snapshot = "/srv/.snapshots/@GMT-2026.01.01-00.00.00";
	}
	snapset_commit_done(call->state, &call->server->rules, &id, result,
			    now, &call->changed);
	return result;
}

uint32_t fsrvp_job_wait(struct fsrvp_call *call, uint32_t timeout_ms)
{
	(void)call;
	(void)timeout_ms;
	return SNAPSET_WAIT_TIMEOUT;
}

static uint32_t outcome(void)
{
	return (plays & WORK_FAILS) != 0 ? SNAPSET_FAIL : SNAPSET_OK;
}

uint32_t fsrvp_expose(struct fsrvp *one, const struct snapset_set *set)
{
	(void)one;
	(void)set;
	return outcome();
}

int fsrvp_unexpose(struct fsrvp *one, const char *exposed)
{
	(void)one;
	(void)exposed;
	return (plays & WORK_FAILS) != 0 ? -EIO : 0;
}

uint32_t fsrvp_seal_shares(struct fsrvp *one, const struct snapset_set *set)
{
	(void)one;
	(void)set;
	return outcome();
}

static int played(const struct provider_config *config, const char *snapshot,
		  const char **why)
{
	(void)config;
	(void)snapshot;
	*why = "played";
	return (plays & WORK_FAILS) != 0 ? -EIO : 0;
}

const struct provider provider_script = {
	.name = "script", .seal = played, .destroy = played,
};

const struct provider *provider_find(const char *name)
{
	return strcmp(name, "script") == 0 ? &provider_script : NULL;
}

const struct provider *provider_choose(TALLOC_CTX *mem_ctx,
				       const char *share_path,
				       const struct provider_config *config,
				       struct provider_store *_store,
				       const char **why)
{
	(void)config;
	(void)why;
	_store->id = talloc_asprintf(mem_ctx, "played:%s", share_path);
	_store->root = share_path;
	_store->path = "";
	return &provider_script;
}

/* ---- calls -------------------------------------------------------------------- */

static void patch(uint8_t *stub, size_t length, const char *mark,
		  const struct guid *id)
{
	uint8_t *at = id != NULL ? memmem(stub, length, mark, 16) : NULL;

	if (at != NULL) {
		memcpy(at, id->bytes, 16);
	}
}

/* Ids that the caller knows from answers. */
static void patch_ids(uint8_t *stub, size_t length)
{
	struct snapset_state *state = NULL;
	struct snapset_set *set = NULL;
	struct snapset_copy *copy = NULL;

	state_snapsets_load(NULL, NULL, &state);
	for (set = state->sets; set != NULL && set->next != NULL;
	     set = set->next) {
	}
	copy = set != NULL ? set->copies : NULL;
	while (copy != NULL && copy->next != NULL) {
		copy = copy->next;
	}
	patch(stub, length, "SET-SET-SET-SET-", set != NULL ? &set->id : NULL);
	patch(stub, length, "COPY-COPY-COPY-C",
	      copy != NULL ? &copy->id : NULL);
	talloc_free(state);
}

static void one_call(struct dcesrv_call_state *call, uint16_t opnum,
		     const uint8_t *stub, size_t length)
{
	TALLOC_CTX *frame = talloc_stackframe();
	DATA_BLOB blob = data_blob_talloc(frame, stub, length);
	struct ndr_pull *pull = NULL;
	struct ndr_push *push = ndr_push_init_ctx(frame);
	void *r = NULL;

	patch_ids(blob.data, blob.length);
	pull = ndr_pull_init_blob(&blob, frame);
	pull->flags |= LIBNDR_FLAG_REF_ALLOC;
	call->pkt.u.request.opnum = opnum;
	if (NT_STATUS_IS_OK(interface.ndr_pull(call, frame, pull, &r)) &&
	    NT_STATUS_IS_OK(interface.dispatch(call, frame, r)) &&
	    !NT_STATUS_IS_OK(interface.ndr_push(call, frame, push, r))) {
		/* Every answer can be told. */
		abort();
	}
	TALLOC_FREE(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct security_unix_token unix_token;
	static struct auth_user_info_unix user = { .unix_name = "fuzz" };
	struct security_token token = {
		.num_sids = 1, .sids = discard_const_p(
			struct dom_sid, &global_sid_Builtin_Administrators),
	};
	struct auth_session_info session = {
		.security_token = &token, .unix_token = &unix_token,
		.unix_info = &user,
	};
	struct dcesrv_auth auth = {
		.auth_finished = true, .session_info = &session,
		.auth_type = DCERPC_AUTH_TYPE_NTLMSSP,
		.auth_level = DCERPC_AUTH_LEVEL_INTEGRITY,
	};
	struct dcesrv_connection connection = {};
	struct dcesrv_call_state *call = talloc_zero(
		NULL, struct dcesrv_call_state);
	unsigned count = 0;

	call->auth_state = &auth;
	call->conn = &connection;
	now = 1000000;
	server.rules.legacy = size % 2 != 0;
	server.integrity = true;
	TALLOC_FREE(stored);
	while (size >= 4 && count++ < CALLS_MOST) {
		size_t length = data[2] | (size_t)data[3] << 8;

		length = MIN(length, size - 4);
		plays = data[0] >> 5;
		now += 1000 * (uint64_t)data[1];
		one_call(call, data[0] & 31, data + 4, length);
		data += 4 + length;
		size -= 4 + length;
	}
	TALLOC_FREE(call);
	TALLOC_FREE(stored);
	return 0;
}

static void silent(void *private_data, int level, const char *text)
{
	(void)private_data;
	(void)level;
	(void)text;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char text[] =
		"[global]\nnetbios name = HVRS-FUZZ\nregistry shares = yes\n"
		"disable netbios = yes\nlog level = 0\nlog file = /dev/null\n"
		"[vm]\npath = /tmp\nvfs objects = hvrs\n"
		"[other]\npath = /usr\nvfs objects = hvrs\n"
		"[plain]\npath = /\n[gone]\npath = /nowhere\n"
		"vfs objects = hvrs\n";
	char path[] = "/tmp/hvrs-fuzz-XXXXXX";
	int fd = mkstemp(path);
	TALLOC_CTX *frame = talloc_stackframe();

	(void)argc;
	(void)argv;
	if (fd == -1 || write(fd, text, sizeof(text) - 1) < 0 ||
	    close(fd) != 0) {
		abort();
	}
	smb_init_locale();
	debug_set_callback(NULL, silent);
	setup_logging("fuzz_fsrvp", DEBUG_CALLBACK);
	if (!lp_load_global(path) || !lp_load_with_shares(path)) {
		abort();
	}
	unlink(path);
	server.rules.many_shares = true;
	fsrvp_endpoint_server(&server)->interface_by_name(
		&interface, "FileServerVssAgent");
	interface.syntax_id = ndr_table_FileServerVssAgent.syntax_id;
	TALLOC_FREE(frame);
	return 0;
}
