/*
 * What clients ask of a VHD Set, and the deletion of snapshots, MS-RSVD
 * 3.2.5.5.10 and 3.2.5.5.11.
 */
#include "server.h"
#include "step.h"

/* 2.2.4.6: ids only where all of them have room. */
static void list_answer(struct rsvd_call *call,
			const struct vhdset_snapshot *list, size_t count,
			uint32_t type)
{
	size_t room = call->max_out - RSVD_HEADER_SIZE;
	uint8_t *out = talloc_zero_size(call->state, RSVD_SET_LIST_SIZE +
					16 * count);
	size_t found = 0;
	size_t i = 0;
	bool complete = true;

	if (tevent_req_nomem(out, call->req)) {
		return;
	}
	for (i = 0; i < count; i++) {
		if (list[i].type == type ||
		    (type == VHDSET_VM && list[i].type == VHDSET_WRITEABLE)) {
			memcpy(out + RSVD_SET_LIST_SIZE + 16 * found++,
			       list[i].id.bytes, 16);
		}
	}
	complete = RSVD_SET_LIST_SIZE + 16 * found <= room;
	rsvd_set_list_encode((uint32_t)found, complete, out);
	rsvd_call_body(call, out, RSVD_SET_LIST_SIZE +
		       (complete ? 16 * found : 0));
	talloc_free(out);
}

static void entry_answer(struct rsvd_call *call, const struct rsvd_set *set,
			 const struct rsvd_set_query *q)
{
	const struct vhdset_snapshot *s = NULL;
	struct rsvd_set_entry entry = { .type = q->type };
	uint8_t out[RSVD_SET_ENTRY_SIZE];
	int ret = vhdset_snapshot_find(set->set, &q->id, &s);

	if (ret == -ENOENT || (ret == 0 && s->type != q->snapshot_type)) {
		rsvd_call_status(call, NT_STATUS_NOT_FOUND);
		return;
	}
	if (ret != 0) {
		rsvd_call_status(call, rsvd_status_of(ret));
		return;
	}
	entry.created_ms = s->created_ms;
	entry.snapshot_type = s->type;
	entry.valid = (s->flags & VHDSET_REFERENCE) == 0;
	entry.id = s->id;
	rsvd_set_entry_encode(&entry, out);
	rsvd_call_body(call, out, sizeof(out));
}

static void cdp_answer(struct rsvd_call *call,
		       const struct vhdset_snapshot *list, size_t count,
		       const struct rsvd_set_query *q)
{
	struct rsvd_set_entry entry = { .type = q->type };
	uint8_t out[RSVD_SET_ENTRY_SIZE];
	size_t i = 0;

	for (i = 0; i < count && list[i].type != VHDSET_CDP; i++) {
	}
	if (i == count) {
		rsvd_call_status(call, NT_STATUS_NOT_FOUND);
		return;
	}
	entry.created_ms = list[i].created_ms;
	entry.snapshot_type = list[i].type;
	entry.valid = true;
	entry.id = list[i].id;
	entry.parent = list[i].parent;
	entry.log_id = list[i].log_id;
	rsvd_set_entry_encode(&entry, out);
	rsvd_call_body(call, out, sizeof(out));
}

/* Those of the tracking that goes on, or the others. */
static void lists_answer(struct rsvd_call *call,
			 const struct vhdset_snapshot *list, size_t count,
			 bool active)
{
	struct vhdset_snapshot *some = talloc_array(
		call->state, struct vhdset_snapshot, count + 1);
	struct rsvd_changes *changes = NULL;
	NTSTATUS status = NT_STATUS_OK;
	bool bad = false;
	size_t found = 0;
	size_t i = 0;

	if (tevent_req_nomem(some, call->req)) {
		return;
	}
	status = rsvd_changes_look(some, call->open, &changes, &bad);
	if (!NT_STATUS_IS_OK(status)) {
		rsvd_call_status(call, status);
		return;
	}
	for (i = 0; i < count; i++) {
		if (rsvd_changes_is_active(changes, &list[i].id) == active) {
			some[found++] = list[i];
		}
	}
	list_answer(call, some, found, VHDSET_CDP);
	talloc_free(some);
}

static void answer(struct rsvd_call *call, const struct rsvd_set *set,
		   const struct rsvd_set_query *q)
{
	const struct vhdset_snapshot *list = NULL;
	uint8_t out[12];
	size_t count = 0;
	int ret = vhdset_snapshot_list(set->set, &list, &count);

	if (ret != 0) {
		rsvd_call_status(call, rsvd_status_of(ret));
		return;
	}
	switch (q->type) {
	case RSVD_QUERY_LIST:
		list_answer(call, list, count, VHDSET_VM);
		return;
	case RSVD_QUERY_ENTRY:
		entry_answer(call, set, q);
		return;
	case RSVD_QUERY_OPTIMIZE:
		rsvd_set_optimize_encode(rsvd_merge_needed(call->open), out);
		rsvd_call_body(call, out, sizeof(out));
		return;
	case RSVD_QUERY_CDP_ROOT:
		cdp_answer(call, list, count, q);
		return;
	default:
		lists_answer(call, list, count,
			     q->type == RSVD_QUERY_CDP_ACTIVE);
		return;
	}
}

static const uint32_t least_out[] = {
	[RSVD_QUERY_LIST] = 32, [RSVD_QUERY_ENTRY] = 88,
	[RSVD_QUERY_OPTIMIZE] = 28, [RSVD_QUERY_CDP_ROOT] = 88,
	[RSVD_QUERY_CDP_ACTIVE] = 32, [RSVD_QUERY_CDP_INACTIVE] = 32,
};

void rsvd_query_set(struct rsvd_call *call)
{
	struct rsvd_set *set = NULL;
	struct rsvd_set_query q = {};
	uint32_t code = rsvd_set_query_decode(call->body, call->body_length,
					      call->open->is_set, &q);
	NTSTATUS status = NT_STATUS_OK;

	if (code == RSVD_META_TOO_SMALL) {
		rsvd_call_fail(call, NT_STATUS(code));
		return;
	}
	if (code != 0) {
		rsvd_call_status(call, NT_STATUS(code));
		return;
	}
	if (call->max_out < least_out[q.type]) {
		rsvd_call_fail(call, NT_STATUS_BUFFER_TOO_SMALL);
		return;
	}
	status = rsvd_set_open(call->state, call->open, false, &set);
	if (!NT_STATUS_IS_OK(status)) {
		rsvd_call_status(call, status);
		return;
	}
	answer(call, set, &q);
	TALLOC_FREE(set);
}

/* ---- deletion --------------------------------------------------------------------------- */

struct used {
	const struct rsvd_open *open;
	const struct guid *id;
	bool found;
};

static enum rsvd_change look_used(struct rsvd_record *record,
				  void *private_data)
{
	struct used *used = private_data;
	size_t i = 0;

	for (i = 0; i < record->open_count; i++) {
		const struct rsvd_record_open *o = &record->opens[i];
		struct rsvd_worker worker = {
			.pid = o->pid, .vnn = o->vnn, .task = o->task,
			.unique = o->unique,
		};

		if (guid_equal(&o->snapshot, used->id) &&
		    rsvd_shared_is_alive(used->open, record, &worker)) {
			used->found = true;
		}
	}
	return RSVD_CHANGE_NONE;
}

/* 3.2.5.5.11: of those that are active the oldest only. */
static bool cdp_may_go(struct rsvd_open *open, const struct rsvd_set *set,
		       const struct guid *id)
{
	const struct vhdset_snapshot *list = NULL;
	struct rsvd_changes *changes = NULL;
	bool bad = false;
	bool active = false;
	size_t count = 0;
	size_t i = 0;

	if (vhdset_snapshot_list(set->set, &list, &count) != 0 ||
	    !NT_STATUS_IS_OK(rsvd_changes_look(talloc_tos(), open, &changes,
					       &bad))) {
		return false;
	}
	for (i = 0; i < count; i++) {
		active = list[i].type == VHDSET_CDP &&
			rsvd_changes_is_active(changes, &list[i].id);
		if (active || guid_equal(&list[i].id, id)) {
			break;
		}
	}
	if (i < count && !guid_equal(&list[i].id, id)) {
		active = !rsvd_changes_is_active(changes, id);
	} else {
		active = true;
	}
	TALLOC_FREE(changes);
	return active;
}

static NTSTATUS delete(struct rsvd_open *open,
		       const struct rsvd_snapshot_delete *d)
{
	TALLOC_CTX *frame = talloc_stackframe();
	const struct vhdset_snapshot *s = NULL;
	struct used used = { .open = open, .id = &d->id };
	struct rsvd_set *set = NULL;
	NTSTATUS status = rsvd_set_open(frame, open, true, &set);
	int ret = 0;

	if (NT_STATUS_IS_OK(status)) {
		ret = vhdset_snapshot_find(set->set, &d->id, &s);
		if (ret == 0 && s->type != d->type) {
			ret = -ENOENT;
		}
		status = ret == -ENOENT ? NT_STATUS_NOT_FOUND
					: rsvd_status_of(ret);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_status_of(rsvd_shared_change(open, look_used,
							   &used, NULL));
	}
	if (NT_STATUS_IS_OK(status) && used.found) {
		/* Somebody reads it by its target specifier. */
		status = NT_STATUS_SHARING_VIOLATION;
	}
	if (NT_STATUS_IS_OK(status) && s->type == VHDSET_CDP &&
	    !cdp_may_go(open, set, &d->id)) {
		status = NT_STATUS_SHARING_VIOLATION;
	}
	if (NT_STATUS_IS_OK(status) && s->file[0] != '\0') {
		status = rsvd_set_note(open, s->file);
	}
	step("delete-noted");
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_status_of(vhdset_snapshot_remove(
			set->set, &d->id, d->persist));
	}
	step("delete-removed");
	if (NT_STATUS_IS_OK(status)) {
		/* Of a branch that was given up: nothing is above it. */
		(void)rsvd_set_tidy(set);
	}
	step("delete-tidied");
	if (NT_STATUS_IS_OK(status) && !d->persist) {
		rsvd_changes_forget(open, &d->id);
	}
	TALLOC_FREE(frame);
	return status;
}

struct deletion {
	struct rsvd_call *call;
	struct rsvd_snapshot_delete d;
};

static void on_locked(struct tevent_req *req)
{
	struct deletion *deletion = tevent_req_callback_data(req,
							     struct deletion);
	struct rsvd_call *call = deletion->call;
	struct rsvd_open *open = call->open;
	NTSTATUS status = rsvd_lock_recv(req);

	TALLOC_FREE(req);
	if (NT_STATUS_IS_OK(status) && !rsvd_open_become_user(open)) {
		rsvd_fence_give(open->fence, RSVD_FENCE_SET);
		status = NT_STATUS_FILE_CLOSED;
	} else if (NT_STATUS_IS_OK(status)) {
		status = delete(open, &deletion->d);
		rsvd_fence_give(open->fence, RSVD_FENCE_SET);
	}
	rsvd_call_release(call);
	if (call->req != NULL) {
		rsvd_call_status(call, status);
	}
	if (NT_STATUS_IS_OK(status)) {
		rsvd_merge_kick(open);
	}
	rsvd_call_over(call);
}

void rsvd_delete_snapshot(struct rsvd_call *given)
{
	struct rsvd_snapshot_delete d = {};
	uint32_t code = rsvd_snapshot_delete_decode(given->body,
						    given->body_length, &d);
	struct deletion *deletion = NULL;
	struct rsvd_call *call = NULL;
	struct tevent_req *req = NULL;

	if (!given->open->is_set || rsvd_open_is_snapshot(given->open)) {
		rsvd_call_status(given, NT_STATUS_INVALID_DEVICE_REQUEST);
		return;
	}
	if (code != 0) {
		rsvd_call_status(given, NT_STATUS(code));
		return;
	}
	call = rsvd_call_keep(given);
	if (tevent_req_nomem(call, given->req)) {
		return;
	}
	deletion = talloc_zero(call, struct deletion);
	if (deletion != NULL) {
		deletion->call = call;
		deletion->d = d;
		req = rsvd_lock_send(call, call->open, RSVD_FENCE_SET);
	}
	if (req == NULL) {
		rsvd_call_fail(call, NT_STATUS_NO_MEMORY);
		rsvd_call_over(call);
		return;
	}
	tevent_req_set_callback(req, on_locked, deletion);
}
