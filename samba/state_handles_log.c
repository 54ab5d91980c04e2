/*
 * The index and the log (state_log.c): records that go into it, a new one
 * from all that the index has, and an index from what it holds.
 */
#include "state_handles_priv.h"
#include "state_nodes.h"

#define CURE_MS 1000

/* ---- one record --------------------------------------------------------------- */

/* A frame whose payload is a child of mem_ctx.  0, -E2BIG or -ENOMEM. */
static int frame_of(TALLOC_CTX *mem_ctx, const struct state_handle *h,
		    struct handle_frame *_frame)
{
	size_t size = handle_record_encode(&h->record, NULL, 0);
	size_t head = state_nodes_here(NULL) ? STATE_HANDLES_HEAD : 0;
	uint8_t *bytes = NULL;

	if (size == 0) {
		return -E2BIG;
	}
	bytes = talloc_array(mem_ctx, uint8_t, head + size);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	if (head != 0) {
		state_handles_head_put(h, bytes);
	}
	handle_record_encode(&h->record, bytes + head, size);
	*_frame = (struct handle_frame) {
		.kind = HANDLE_FRAME_PUT, .revision = h->record.revision,
		.id = h->record.id,
		.payload = { .data = bytes, .length = head + size },
	};
	return 0;
}

int state_handles_log_put(const struct state_handle *h,
			  struct state_log_point *_point)
{
	TALLOC_CTX *frame_ctx = talloc_new(talloc_tos());
	struct handle_frame frame = {};
	int ret = frame_of(frame_ctx, h, &frame);

	if (ret == 0) {
		become_root();
		ret = state_log_append(&frame, _point);
		unbecome_root();
	}
	TALLOC_FREE(frame_ctx);
	return ret;
}

/* ---- the log anew --------------------------------------------------------------- */

struct compact {
	uint8_t *out;
	size_t length;
	bool failed;
	bool cluster;
	uint32_t here;
	uint64_t *over;		/* ended, and in no other log any more */
	size_t over_count;
};

static bool compact_add(struct compact *compact,
			const struct handle_frame *frame)
{
	size_t size = handle_frame_size(frame->payload.length);
	uint8_t *grown = talloc_realloc(NULL, compact->out, uint8_t,
					compact->length + size);

	if (grown == NULL) {
		compact->failed = true;
		return false;
	}
	handle_frame_encode(frame, grown + compact->length);
	compact->out = grown;
	compact->length += size;
	return true;
}

static bool compact_one(struct state_handle *h, void *private_data)
{
	struct compact *compact = private_data;
	TALLOC_CTX *frame_ctx = NULL;
	struct handle_frame frame = {};

	if (compact->cluster && h->home != compact->here) {
		return true;
	}
	frame_ctx = talloc_new(talloc_tos());
	if (frame_of(frame_ctx, h, &frame) == 0) {
		compact_add(compact, &frame);
	} else {
		compact->failed = true;
	}
	TALLOC_FREE(frame_ctx);
	return !compact->failed;
}

static bool compact_ended(const struct state_handles_ended *ended,
			  void *private_data)
{
	struct compact *compact = private_data;
	uint8_t logs[8] = {};
	struct handle_frame frame = {
		.kind = HANDLE_FRAME_DROP, .revision = ended->revision,
		.id = ended->id,
		.payload = { .data = logs, .length = sizeof(logs) },
	};
	uint64_t *grown = NULL;

	if (ended->home != compact->here) {
		return true;
	}
	if (ended->logs != 1ULL << compact->here) {
		SBVAL(logs, 0, ended->logs);
		return compact_add(compact, &frame);
	}
	grown = talloc_realloc(NULL, compact->over, uint64_t,
			       compact->over_count + 1);
	if (grown != NULL) {
		compact->over = grown;
		compact->over[compact->over_count++] = ended->id;
	}
	return true;
}

/*
 * The log from the index; the caller has locked the index.  On a cluster, what
 * is newest in this node's log.
 */
int state_handles_log_rewrite(void)
{
	struct compact compact = {};
	size_t i = 0;
	int ret = 0;

	compact.cluster = state_nodes_here(&compact.here);
	state_handles_traverse(compact_one, &compact);
	if (compact.cluster && !compact.failed) {
		state_handles_ended_traverse(compact_ended, &compact);
	}
	ret = compact.failed ? -ENOMEM :
		state_log_rewrite(compact.out, compact.length);
	for (i = 0; ret == 0 && i < compact.over_count; i++) {
		state_handles_ended_forget(compact.over[i]);
	}
	TALLOC_FREE(compact.out);
	TALLOC_FREE(compact.over);
	return ret;
}

/* After an error of the disk, when it is well again; the index is locked. */
void state_handles_log_cure(const char *directory)
{
	int ret = 0;

	if (!state_log_cure_turn(state_handles_now(), CURE_MS)) {
		return;
	}
	become_root();
	ret = state_handles_log_rewrite();
	unbecome_root();
	if (ret == 0) {
		DBG_ERR("hvrs: the log of handles in %s is written anew: clients get "
			"persistent and resilient handles again\n", directory);
	} else {
		DBG_NOTICE("hvrs: the log of handles in %s still cannot be written: "
			   "%s\n", directory, strerror(-ret));
	}
}

/* ---- after smbd was gone ---------------------------------------------------------- */

/* A handle from the log waits from now on, or since it was seen to. */
static bool restore_one(struct handle_bytes payload, uint64_t now)
{
	struct state_handle h = {};
	const char *why = NULL;
	int ret = handle_record_decode(payload.data, payload.length,
				       &h.record, &why);

	if (ret != 0) {
		DBG_ERR("hvrs: a handle in the log is refused: %s\n", why);
		return false;
	}
	if (h.record.waiting_since_ms == 0 ||
	    h.record.waiting_since_ms > now) {
		h.record.waiting_since_ms = now;
	}
	return state_handles_index_put(&h, 0);
}

/* As one whose processes are all gone sees it, beside the others. */
static int restore_cluster(const uint8_t *log, size_t length, uint32_t here)
{
	size_t end = 0;
	uint32_t i = 0;

	for (i = 0; i < STATE_LOG_NODES; i++) {
		*state_log_place(i) = (struct state_log_place){};
	}
	if (length > 0 &&
	    !state_handles_follow_whole(here, log, length, &end, NULL)) {
		return -ENOMEM;
	}
	state_handles_follow();
	return 0;
}

bool state_handles_log_restore(const char *directory)
{
	struct handle_replay *replay = NULL;
	struct handle_replay_counts counts = {};
	struct handle_bytes payload = {};
	uint64_t now = state_handles_now();
	uint64_t id = 0;
	uint32_t here = 0;
	uint8_t *log = NULL;
	size_t length = 0;
	size_t refused = 0;
	size_t i = 0;
	int ret = state_log_read(talloc_tos(), &log, &length);

	if (ret == -EINVAL) {
		DBG_ERR("hvrs: %s/handles.log is no log of handles; it was "
			"set aside, and no client gets a handle back that was "
			"in it\n", directory);
		ret = 0;
	}
	if (ret == 0 && state_nodes_here(&here)) {
		ret = restore_cluster(log, length, here);
	} else if (ret == 0 && length > 0) {
		ret = handle_replay(talloc_tos(), log, length, &replay);
	}
	if (ret != 0) {
		DBG_ERR("hvrs: %s/handles.log cannot be read: %s. Clients get "
			"no persistent and no resilient handles\n", directory,
			ret == -ENOTSUP ? "it is of another version of hvrs" :
			strerror(-ret));
		TALLOC_FREE(log);
		return false;
	}
	if (replay != NULL) {
		handle_replay_counts(replay, &counts);
		for (i = 0; handle_replay_get(replay, i, &id, &payload); i++) {
			if (!restore_one(payload, now)) {
				refused++;
			}
		}
	}
	if (counts.refused + refused > 0 || counts.holes > 0) {
		DBG_ERR("hvrs: %s/handles.log is damaged: %zu handles are "
			"refused, %zu are kept\n", directory,
			counts.refused + refused, counts.live - refused);
	}
	TALLOC_FREE(replay);
	TALLOC_FREE(log);
	ret = state_handles_log_rewrite();
	if (ret != 0) {
		DBG_ERR("hvrs: %s/handles.log cannot be written: %s. Clients "
			"get no persistent and no resilient handles\n",
			directory, strerror(-ret));
		state_log_disable();
	}
	return true;
}
