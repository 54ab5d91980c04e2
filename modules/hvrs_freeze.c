/*
 * Writers of a share wait while the files of a snapshot are cloned one by one
 * (lib/snapset/freeze.h).  Otherwise a write costs one look at memory.
 */
#include "hvrs.h"

#include "next.h"
#include "state_snapsets.h"

/* How often a waiting write looks again. */
#define LOOK_US 500

/* The pages of this process: few, and needed as long as it runs. */
struct page {
	uint64_t device;
	struct snapset_freeze *freeze;
	struct page *next;
};

static struct page *pages;

struct snapset_freeze *hvrs_freeze_open(const char *directory)
{
	struct page *page = NULL;
	struct stat st = {};
	int ret = 0;

	if (stat(directory, &st) != 0) {
		return NULL;
	}
	for (page = pages; page != NULL; page = page->next) {
		if (page->device == st.st_dev) {
			return page->freeze;
		}
	}
	page = talloc_zero(NULL, struct page);
	if (page == NULL) {
		return NULL;
	}
	page->device = st.st_dev;
	become_root();
	ret = state_snapsets_freeze(page, page->device, &page->freeze);
	unbecome_root();
	if (ret != 0) {
		DBG_ERR("hvrs: the write freeze cannot be opened: %s. "
			"Snapshots of remote VSS do not wait for writers of "
			"%s\n", strerror(-ret), directory);
		TALLOC_FREE(page);
		return NULL;
	}
	page->next = pages;
	pages = page;
	return page->freeze;
}

bool hvrs_freeze_is_on(struct snapset_freeze *freeze)
{
	return freeze != NULL && snapset_freeze_left(freeze) != 0;
}

void hvrs_freeze_wait(struct snapset_freeze *freeze)
{
	while (hvrs_freeze_is_on(freeze)) {
		usleep(LOOK_US);
	}
}

static struct snapset_freeze *freeze_of(struct vfs_handle_struct *handle)
{
	const struct hvrs_share *share = hvrs_share(handle);

	return share != NULL ? share->freeze : NULL;
}

/* ---- writes that cannot be put off -------------------------------------------- */

ssize_t hvrs_pwrite(struct vfs_handle_struct *handle, struct files_struct *fsp,
		    const void *data, size_t length, off_t offset)
{
	hvrs_freeze_wait(freeze_of(handle));
	return SMB_VFS_NEXT_PWRITE(handle, fsp, data, length, offset);
}

int hvrs_ftruncate(struct vfs_handle_struct *handle, struct files_struct *fsp,
		   off_t length)
{
	if (hvrs_tunnel_owns(fsp)) {
		/* Its size is not that of the disk in it. */
		errno = EACCES;
		return -1;
	}
	hvrs_freeze_wait(freeze_of(handle));
	return SMB_VFS_NEXT_FTRUNCATE(handle, fsp, length);
}

/* ---- writes that are put off ---------------------------------------------------- */

struct frozen_write {
	struct tevent_context *ev;
	struct vfs_handle_struct *handle;
	struct files_struct *fsp;
	const void *data;
	size_t length;
	off_t offset;
	ssize_t written;
	struct vfs_aio_state aio;
};

static void frozen_look(struct tevent_req *subreq);
static void frozen_written(struct tevent_req *subreq);

static bool frozen_wait(struct tevent_req *req, struct frozen_write *state)
{
	struct tevent_req *subreq = tevent_wakeup_send(
		state, state->ev, timeval_current_ofs_usec(LOOK_US));

	if (subreq == NULL) {
		return false;
	}
	tevent_req_set_callback(subreq, frozen_look, req);
	return true;
}

static void frozen_look(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct frozen_write *state = tevent_req_data(req,
						     struct frozen_write);

	tevent_wakeup_recv(subreq);
	TALLOC_FREE(subreq);
	if (hvrs_freeze_is_on(freeze_of(state->handle))) {
		if (!frozen_wait(req, state)) {
			tevent_req_error(req, ENOMEM);
		}
		return;
	}
	subreq = next_pwrite_send(state->handle, state, state->ev, state->fsp,
				  state->data, state->length, state->offset);
	if (tevent_req_nomem(subreq, req)) {
		return;
	}
	tevent_req_set_callback(subreq, frozen_written, req);
}

static void frozen_written(struct tevent_req *subreq)
{
	struct tevent_req *req = tevent_req_callback_data(subreq,
							  struct tevent_req);
	struct frozen_write *state = tevent_req_data(req,
						     struct frozen_write);

	state->written = next_pwrite_recv(subreq, &state->aio);
	TALLOC_FREE(subreq);
	tevent_req_done(req);
}

/*
 * Without a freeze the request of the next module is the answer itself, so
 * that nothing of ours stands between.
 */
struct tevent_req *hvrs_pwrite_send(struct vfs_handle_struct *handle,
				    TALLOC_CTX *mem_ctx,
				    struct tevent_context *ev,
				    struct files_struct *fsp,
				    const void *data, size_t length,
				    off_t offset)
{
	struct tevent_req *req = NULL;
	struct frozen_write *state = NULL;

	if (!hvrs_freeze_is_on(freeze_of(handle))) {
		return next_pwrite_send(handle, mem_ctx, ev, fsp, data, length,
					offset);
	}
	req = tevent_req_create(mem_ctx, &state, struct frozen_write);
	if (req == NULL) {
		return NULL;
	}
	*state = (struct frozen_write) {
		.ev = ev, .handle = handle, .fsp = fsp, .data = data,
		.length = length, .offset = offset,
	};
	if (!frozen_wait(req, state)) {
		tevent_req_error(req, ENOMEM);
		return tevent_req_post(req, ev);
	}
	return req;
}

ssize_t hvrs_pwrite_recv(struct tevent_req *req,
			 struct vfs_aio_state *aio_state)
{
	struct frozen_write *state = talloc_get_type(
		_tevent_req_data(req), struct frozen_write);

	if (state == NULL) {
		return next_pwrite_recv(req, aio_state);
	}
	if (tevent_req_is_unix_error(req, &aio_state->error)) {
		return -1;
	}
	*aio_state = state->aio;
	return state->written;
}
