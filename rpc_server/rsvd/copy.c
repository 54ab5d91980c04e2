/* A disk of its own from a snapshot, and a set from a disk. */
#include "server.h"
#include "step.h"

/* ---- a set from a disk, 3.2.5.5.7.5 ------------------------------------------------------ */

/*
 * The commit is the disk's new name, as the set's leaf.  The set is there
 * before it, whole, so a crash leaves the disk as it was beside a set that
 * names a file which does not exist, or the set.  Such a set is all that may
 * be replaced.
 */
static NTSTATUS convert_room(TALLOC_CTX *frame, struct rsvd_open *open,
			     const char *path)
{
	struct vhdset_open how = {};
	struct vhdset_info info = {};
	struct vhdset *set = NULL;
	struct store *store = NULL;
	struct store *leaf = NULL;
	NTSTATUS status = rsvd_file_open(frame, open, path, RSVD_FILE_LOOK,
					 &store);
	int ret = 0;

	if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
		return NT_STATUS_OK;
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	ret = vhdset_open(frame, store, &how, &set, NULL);
	if (ret == 0) {
		vhdset_info_get(set, &info);
		path = rsvd_file_beside(frame, open, info.leaf);
		status = path == NULL ? NT_STATUS_NO_MEMORY :
			rsvd_file_open(frame, open, path, RSVD_FILE_LOOK,
				       &leaf);
	}
	TALLOC_FREE(leaf);
	TALLOC_FREE(set);
	TALLOC_FREE(store);
	if (ret != 0 ||
	    !NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
		return NT_STATUS_OBJECT_NAME_COLLISION;
	}
	return NT_STATUS_OBJECT_NAME_EXISTS;
}

/* The set's file, under a name of its own until it is whole. */
static NTSTATUS convert_set(TALLOC_CTX *frame, struct rsvd_open *open,
			    const char *path, const char *leaf)
{
	struct store *store = NULL;
	char *made = talloc_asprintf(frame, "%s.new", leaf);
	NTSTATUS status = NT_STATUS_NO_MEMORY;

	if (made != NULL) {
		made = rsvd_file_beside(frame, open, made);
	}
	if (made != NULL) {
		status = rsvd_file_open(frame, open, made, RSVD_FILE_CREATE,
					&store);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = rsvd_status_of(vhdset_create(store, leaf));
	TALLOC_FREE(store);
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_rename(open, made, path);
	}
	if (!NT_STATUS_IS_OK(status)) {
		(void)rsvd_file_remove(open, made);
		return status;
	}
	return rsvd_file_folder_flush(open, path);
}

static NTSTATUS convert(struct rsvd_open *open, const struct rsvd_meta *meta)
{
	TALLOC_CTX *frame = talloc_stackframe();
	const char *source = open->fsp->fsp_name->base_name;
	char name[RSVD_META_NAME_MAX] = "";
	char leaf[VHDSET_NAME_MAX] = "";
	char *path = NULL;
	char *leaf_path = NULL;
	NTSTATUS status = NT_STATUS_OK;

	(void)rsvd_meta_convert_decode(meta->data, meta->length, name);
	if (vhdset_name_check(name) != 0 ||
	    vhdset_leaf_name(name, leaf) != 0) {
		TALLOC_FREE(frame);
		return NT_STATUS_INVALID_PARAMETER;
	}
	path = rsvd_file_beside(frame, open, name);
	leaf_path = rsvd_file_beside(frame, open, leaf);
	status = path == NULL || leaf_path == NULL ? NT_STATUS_NO_MEMORY :
		convert_room(frame, open, path);
	if (NT_STATUS_IS_OK(status)) {
		rsvd_erase_rest(open, path);
	}
	if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_EXISTS)) {
		status = rsvd_file_remove(open, path);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = convert_set(frame, open, path, leaf);
	}
	step("convert-made");
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_rename(open, source, leaf_path);
		step("convert-renamed");
		if (NT_STATUS_IS_OK(status)) {
			status = rsvd_file_folder_flush(open, leaf_path);
		} else {
			(void)rsvd_file_remove(open, path);
		}
	}
	TALLOC_FREE(frame);
	return status;
}

/* ---- the operations ---------------------------------------------------------------------- */

struct copy_state {
	struct rsvd_open *open;
};

static struct tevent_req *at_once(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
				  NTSTATUS status)
{
	struct copy_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct copy_state);

	if (req == NULL) {
		return NULL;
	}
	if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
	return tevent_req_post(req, open->ev);
}

struct tevent_req *rsvd_convert_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     const struct rsvd_meta *meta)
{
	return at_once(mem_ctx, open, convert(open, meta));
}

/* ---- a disk from a snapshot, 3.2.5.5.7.4 ------------------------------------------------- */

struct extract_state {
	struct rsvd_open *open;
	struct rsvd_meta meta;
	struct rsvd_meta_extract e;
	char *path;		/* while it is made */
	char *target;
};

static bool on_progress(void *private_data, uint64_t done, uint64_t all)
{
	struct extract_state *state = private_data;

	if (state->open->closed) {
		return false;
	}
	rsvd_meta_tell(state->open, &state->meta.transaction,
		       state->meta.type, done, all);
	return true;
}

/* Both ids name snapshots that have data, or limit is NULL. */
static NTSTATUS snapshots_find(struct extract_state *state,
			       const struct rsvd_set *set, char **_source,
			       char **_limit)
{
	const struct rsvd_meta_extract *e = &state->e;
	const struct vhdset_snapshot *s = NULL;
	int ret = vhdset_snapshot_find(set->set, &e->source, &s);

	*_limit = NULL;
	if (ret == 0 && s->file[0] != '\0' && s->type == e->type) {
		*_source = rsvd_file_beside(state, state->open, s->file);
	} else if (ret == 0 || ret == -ENOENT) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	if (ret == 0 && !guid_is_null(&e->limit)) {
		ret = vhdset_snapshot_find(set->set, &e->limit, &s);
		if (ret == -ENOENT || (ret == 0 && s->file[0] == '\0')) {
			return NT_STATUS_INVALID_PARAMETER;
		}
		if (ret == 0) {
			*_limit = rsvd_file_beside(state, state->open,
						   s->file);
		}
	}
	return rsvd_status_of(ret);
}

/* The lowest file of those that the new one is made of. */
static NTSTATUS bottom_find(const struct rsvd_parts *parts,
			    const char *source, const char *limit,
			    struct rsvd_build *build)
{
	const struct rsvd_part *part = rsvd_parts_find(parts, source);
	const struct rsvd_part *end = NULL;

	if (limit != NULL) {
		end = rsvd_parts_find(parts, limit);
		if (end == NULL || end == part) {
			return NT_STATUS_INVALID_PARAMETER;
		}
	}
	build->depth = 0;
	while (part != NULL && part->parent != end) {
		part = part->parent;
		build->depth++;
	}
	if (part == NULL) {
		/* The limit is of another branch. */
		return NT_STATUS_INVALID_PARAMETER;
	}
	build->bottom = part->path;
	return NT_STATUS_OK;
}

static NTSTATUS extract_begin(struct extract_state *state, TALLOC_CTX *frame,
			      struct tevent_req **_req)
{
	struct rsvd_build build = {
		.progress = on_progress, .private_data = state,
	};
	char name[VHDSET_NAME_MAX] = "";
	struct rsvd_parts *parts = NULL;
	struct rsvd_set *set = NULL;
	struct store *taken = NULL;
	char *source = NULL;
	char *limit = NULL;
	NTSTATUS status = rsvd_set_open(frame, state->open, true, &set);

	if (NT_STATUS_IS_OK(status)) {
		status = snapshots_find(state, set, &source, &limit);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_parts_look(frame, set, &parts);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = bottom_find(parts, source, limit, &build);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = rsvd_file_open(frame, state->open, state->target,
				RSVD_FILE_LOOK, &taken);
	if (!NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
		return NT_STATUS_IS_OK(status) ?
			NT_STATUS_OBJECT_NAME_COLLISION : status;
	}
	status = rsvd_set_build_new(set, name);
	if (NT_STATUS_IS_OK(status)) {
		state->path = rsvd_file_beside(state, state->open, name);
	}
	step("extract-noted");
	build.top = source;
	build.path = state->path;
	*_req = state->path != NULL ?
		rsvd_build_send(state, state->open, &build) : NULL;
	return *_req == NULL && NT_STATUS_IS_OK(status) ? NT_STATUS_NO_MEMORY
							: status;
}

static void on_extracted(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct extract_state *state = tevent_req_data(req,
						      struct extract_state);
	struct store *made = NULL;
	struct store *top = NULL;
	NTSTATUS status = rsvd_build_recv(subreq, state, &made, &top);
	bool is_user = false;

	TALLOC_FREE(subreq);
	TALLOC_FREE(top);
	step("extract-built");
	is_user = rsvd_open_become_user(state->open);
	if (NT_STATUS_IS_OK(status)) {
		status = is_user ? rsvd_file_rename(state->open, state->path,
						    state->target)
				 : NT_STATUS_FILE_CLOSED;
	}
	if (!NT_STATUS_IS_OK(status) && is_user) {
		(void)rsvd_file_remove(state->open, state->path);
	}
	TALLOC_FREE(made);
	step("extract-renamed");
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_folder_flush(state->open, state->target);
	}
	if (NT_STATUS_IS_OK(status) && state->e.flags != 0) {
		/* PendingDelete; the handle is stored before the answer. */
		state->open->fsp->fsp_flags.initial_delete_on_close = true;
	}
	if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
}

static void on_extract_lock(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct extract_state *state = tevent_req_data(req,
						      struct extract_state);
	TALLOC_CTX *frame = NULL;
	NTSTATUS status = rsvd_lock_recv(subreq);

	TALLOC_FREE(subreq);
	if (tevent_req_nterror(req, status)) {
		return;
	}
	frame = talloc_stackframe();
	status = rsvd_open_become_user(state->open) ?
		extract_begin(state, frame, &subreq) : NT_STATUS_FILE_CLOSED;
	TALLOC_FREE(frame);
	/* What it needs is open: others may go on with the set. */
	rsvd_fence_give(state->open->fence, RSVD_FENCE_SET);
	if (tevent_req_nterror(req, status)) {
		return;
	}
	tevent_req_set_callback(subreq, on_extracted, req);
}

struct tevent_req *rsvd_extract_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     const struct rsvd_meta *meta)
{
	struct extract_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct extract_state);
	struct tevent_req *subreq = NULL;

	if (req == NULL) {
		return NULL;
	}
	state->open = open;
	state->meta = *meta;
	(void)rsvd_meta_extract_decode(meta->data, meta->length, &state->e);
	if (state->e.flags != 0 &&
	    tevent_req_nterror(req, rsvd_erase_check(open))) {
		return tevent_req_post(req, open->ev);
	}
	state->target = rsvd_file_beside(state, open, state->e.name);
	subreq = state->target != NULL ?
		rsvd_lock_send(state, open, RSVD_FENCE_SET) : NULL;
	if (tevent_req_nomem(subreq, req)) {
		return tevent_req_post(req, open->ev);
	}
	tevent_req_set_callback(subreq, on_extract_lock, req);
	return req;
}
