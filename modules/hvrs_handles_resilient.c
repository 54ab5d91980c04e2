/*
 * FSCTL_LMR_REQUEST_RESILIENCY ([MS-SMB2] 2.2.31.3, 3.3.5.15.9): an open that
 * was made without a thought of it is kept from now on.  Here it survives
 * what a persistent one survives, which is more than Windows promises.
 */
#include "hvrs_handles.h"

#include <fcntl.h>

#include "lib/util/server_id.h"
#include "locking/share_mode_lock.h"
#include "locking/proto.h"
#include "smbd/smbXsrv_open.h"

#define RESILIENCY_LENGTH 8

struct sharing_search {
	struct server_id me;
	uint64_t gen_id;
	uint32_t sharing;
	bool found;
};

static bool sharing_fn(struct share_mode_entry *e, bool *modified,
		       void *private_data)
{
	struct sharing_search *search = private_data;

	(void)modified;
	if (server_id_equal(&e->pid, &search->me) &&
	    e->share_file_id == search->gen_id) {
		search->sharing = e->share_access;
		search->found = true;
	}
	return search->found;
}

/* What the open lets others do stands in its share mode entry alone. */
static bool open_sharing(struct files_struct *fsp, uint32_t *_sharing)
{
	struct sharing_search search = {
		.me = messaging_server_id(fsp->conn->sconn->msg_ctx),
		.gen_id = fh_get_gen_id(fsp->fh),
	};
	struct share_mode_lock *lck = get_existing_share_mode_lock(
		talloc_tos(), fsp->file_id);

	if (lck != NULL) {
		share_mode_forall_entries(lck, sharing_fn, &search);
	}
	TALLOC_FREE(lck);
	*_sharing = search.sharing;
	return search.found;
}

static struct hvrs_open *make_resilient(struct hvrs_call *call)
{
	struct files_struct *fsp = call->fsp;
	struct hvrs_open *open = NULL;
	struct handle_record *r = NULL;
	uint32_t sharing = 0;
	uint32_t kind = HANDLE_RESILIENT;
	int flags = fcntl(fsp_get_io_fd(fsp), F_GETFL);

	if (!open_sharing(fsp, &sharing)) {
		return NULL;
	}
	if (!GUID_all_zero(&fsp->op->global->create_guid)) {
		kind |= HANDLE_CREATE_GUID;
	}
	if (flags != -1 && (flags & O_DSYNC) != 0) {
		kind |= HANDLE_WRITE_THROUGH;
	}
	open = hvrs_open_create(call->handle, fsp, kind);
	if (open == NULL) {
		return NULL;
	}
	r = &open->h.record;
	r->sharing = sharing;
	r->desired_access = r->access;
	r->create_action = series_create_action(fsp->op);
	return open;
}

NTSTATUS hvrs_resilient(struct hvrs_call *call)
{
	struct files_struct *fsp = call->fsp;
	struct smbXsrv_open_global *global = NULL;
	struct hvrs_open *open = NULL;
	struct hvrs_share *share = hvrs_share(call->handle);
	uint32_t timeout = 0;

	if (call->in_length < RESILIENCY_LENGTH) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	timeout = IVAL(call->in, 0);
	if (timeout > share->number[OPTION_RESILIENT_MOST] * 1000) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	if (fsp->op == NULL || fsp->fsp_flags.is_directory ||
	    hvrs_tunnel_owns(fsp) || series_is_persistent(fsp->op) ||
	    !hvrs_handles_agree(share, fsp->conn)) {
		return NT_STATUS_NOT_SUPPORTED;
	}
	open = hvrs_open_of(fsp);
	if (open == NULL) {
		open = make_resilient(call);
	}
	if (open == NULL) {
		return NT_STATUS_INSUFFICIENT_RESOURCES;
	}
	global = fsp->op->global;
	open->h.record.flags |= HANDLE_RESILIENT;
	open->h.record.timeout_ms = timeout != 0 ? timeout :
		(uint32_t)share->number[OPTION_RESILIENT_TIME] * 1000;
	open->stale = true;
	global->durable = true;
	global->durable_timeout_msec = open->h.record.timeout_ms;
	if (global->backend_cookie.length != HANDLES_COOKIE_SIZE) {
		data_blob_free(&global->backend_cookie);
		global->backend_cookie = hvrs_open_cookie(
			fsp->op, open->h.record.id);
	}
	return smbXsrv_open_update(fsp->op);
}
