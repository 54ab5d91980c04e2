/*
 * The router: from an FSCTL to the feature that answers it, in place or in a
 * thread.  With core hooks every file-system FSCTL passes here before smbd
 * sees it and may be answered later; without, those that smbd hands to the
 * VFS arrive synchronously.
 */
#include "hvrs.h"

#include "fsctl/fsctl.h"

#ifndef FSCTL_FILE_LEVEL_TRIM
#define FSCTL_FILE_LEVEL_TRIM 0x00098208
#endif
#define FSCTL_CODE_INTEGRITY_GET 0x0009027C
#define FSCTL_CODE_INTEGRITY_SET 0x0009C280
#define FSCTL_CODE_INTEGRITY_SET_EX 0x00090380
#define FSCTL_CODE_FILE_REGIONS 0x00090284
#define FSCTL_CODE_CLONE_EX 0x000983E8
#define FSCTL_CODE_RESILIENCY 0x001401D4
#define FSCTL_CODE_OFFLOAD_READ 0x00094264
#define FSCTL_CODE_OFFLOAD_WRITE 0x00098268

struct fsctl_row {
	uint32_t code;
	enum option_id option;
	NTSTATUS (*handler)(struct hvrs_call *call);
};

static const struct fsctl_row rows[] = {
	{ FSCTL_SET_SPARSE, OPTION_SPARSE, hvrs_set_sparse },
	{ FSCTL_SET_ZERO_DATA, OPTION_ZERO_DATA, hvrs_zero_data },
	{ FSCTL_QUERY_ALLOCATED_RANGES, OPTION_SPARSE,
	  hvrs_allocated_ranges },
	{ FSCTL_FILE_LEVEL_TRIM, OPTION_TRIM, hvrs_trim },
	{ FSCTL_CODE_INTEGRITY_GET, OPTION_INTEGRITY, hvrs_integrity_get },
	{ FSCTL_CODE_INTEGRITY_SET, OPTION_INTEGRITY, hvrs_integrity_set },
	{ FSCTL_CODE_INTEGRITY_SET_EX, OPTION_INTEGRITY,
	  hvrs_integrity_set_ex },
	{ FSCTL_CODE_FILE_REGIONS, OPTION_FILE_REGIONS, hvrs_file_regions },
	{ FSCTL_DUP_EXTENTS_TO_FILE, OPTION_BLOCK_CLONING, hvrs_clone },
	{ FSCTL_CODE_CLONE_EX, OPTION_BLOCK_CLONING, hvrs_clone_ex },
	{ FSCTL_CODE_RESILIENCY, OPTION_RESILIENT, hvrs_resilient },
	{ FSCTL_CODE_OFFLOAD_READ, OPTION_OFFLOAD, hvrs_offload_read },
	{ FSCTL_CODE_OFFLOAD_WRITE, OPTION_OFFLOAD, hvrs_offload_write },
};

static const struct fsctl_row *row_find(const struct hvrs_share *share,
					uint32_t code)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].code == code) {
			return share->on[rows[i].option] ? &rows[i] : NULL;
		}
	}
	return NULL;
}

/* Whether the open is a plain file or directory of this machine's kernel. */
static bool is_kernel_file(struct files_struct *fsp)
{
	struct stat st = {};
	int fd = -1;

	if (fsp->fake_file_handle != NULL || fsp->print_file != NULL ||
	    fsp_is_alternate_stream(fsp)) {
		return false;
	}
	fd = fsp_get_pathref_fd(fsp);
	return fd != -1 && fstat(fd, &st) == 0 &&
		st.st_ino == fsp->fsp_name->st.st_ex_ino &&
		st.st_dev == fsp->fsp_name->st.st_ex_dev;
}

/* ---- one call ---------------------------------------------------------------- */

/* A request that smbd's core hands over, on its way down the VFS stack. */
struct ioctl_pass {
	struct tevent_context *ev;
	struct tevent_req *req;
	struct smbd_smb2_ioctl_state *state;
	bool later;		/* the answer comes when a thread is done */
	bool reached;
};

static struct ioctl_pass *current;

struct running {
	struct running *prev, *next;
	struct hvrs_call call;
	struct tevent_req *req;
	struct smbd_smb2_ioctl_state *state;
	struct hvrs_worker *worker;
};

static struct running *all_running;

static int running_destructor(struct running *running)
{
	DLIST_REMOVE(all_running, running);
	return 0;
}

static NTSTATUS call_end(struct hvrs_call *call)
{
	struct hvrs_job *job = call->job;
	NTSTATUS status = job->finish(call, job);

	if (job->modifies) {
		series_modify_end(call->fsp, job->marks_late, &job->modify);
		contend_level2_oplocks_end(call->fsp, LEVEL2_CONTEND_WRITE);
	}
	return status;
}

static void running_done(struct tevent_req *subreq)
{
	struct running *running = tevent_req_callback_data(
		subreq, struct running);
	struct hvrs_call *call = &running->call;
	int ret = pthreadpool_tevent_job_recv(subreq);
	NTSTATUS status = NT_STATUS_OK;

	TALLOC_FREE(subreq);
	hvrs_worker_release(running->worker);
	hvrs_job_end(call->job);
	if (ret == EAGAIN) {
		/* No thread to be had: in place rather than not at all. */
		call->job->work(call->job);
	} else if (ret != 0) {
		call->job->error = ret;
	}
	if (!change_to_user_and_service_by_fsp(call->fsp)) {
		status = NT_STATUS_ACCESS_DENIED;
		if (call->job->modifies) {
			contend_level2_oplocks_end(call->fsp,
						   LEVEL2_CONTEND_WRITE);
		}
	} else {
		status = call_end(call);
	}
	running->state->out_output = data_blob_const(call->out,
						     call->out_length);
	if (!NT_STATUS_IS_OK(status)) {
		tevent_req_nterror(running->req, status);
		return;
	}
	tevent_req_done(running->req);
}

/*
 * SMB2 CANCEL or CLOSE: the job ends at its next piece.  Not true, which would
 * tell smbd that the request has ended already.
 */
static bool running_cancel(struct tevent_req *req)
{
	struct running *running = NULL;

	for (running = all_running; running != NULL;
	     running = running->next) {
		if (running->req == req) {
			__atomic_store_n(&running->call.job->stop, true,
					 __ATOMIC_RELAXED);
		}
	}
	return false;
}

static NTSTATUS call_start_later(struct hvrs_call *call,
				 struct ioctl_pass *pass)
{
	struct smbd_server_connection *sconn = call->fsp->conn->sconn;
	struct running *running = talloc_zero(pass->state, struct running);
	struct tevent_req *subreq = NULL;
	int error = 0;

	if (running == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	running->call = *call;
	running->req = pass->req;
	running->state = pass->state;
	DLIST_ADD(all_running, running);
	talloc_set_destructor(running, running_destructor);
	if (call->job->other != NULL &&
	    !series_aio_add(call->job->other, pass->req)) {
		return NT_STATUS_NO_MEMORY;
	}
	error = hvrs_job_begin(call->job);
	if (error != 0) {
		return hvrs_status(error);
	}
	running->worker = hvrs_worker_take(sconn);
	subreq = pthreadpool_tevent_job_send(
		running, pass->ev, hvrs_worker_pool(running->worker, sconn),
		hvrs_job_thread, call->job);
	if (subreq == NULL) {
		hvrs_job_end(call->job);
		hvrs_worker_release(running->worker);
		return NT_STATUS_NO_MEMORY;
	}
	tevent_req_set_callback(subreq, running_done, running);
	tevent_req_set_cancel_fn(pass->req, running_cancel);
	pass->later = true;
	return NT_STATUS_OK;
}

static NTSTATUS call_run(struct hvrs_call *call,
			 const struct fsctl_row *row, struct ioctl_pass *pass)
{
	NTSTATUS status = row->handler(call);

	if (!NT_STATUS_IS_OK(status) || call->job == NULL) {
		return status;
	}
	if (call->job->modifies) {
		contend_level2_oplocks_begin(call->fsp, LEVEL2_CONTEND_WRITE);
		series_modify_begin(call->fsp, call->job->marks_late,
				    &call->job->modify);
		call->job->freeze = call->share->freeze;
	}
	if (pass != NULL && (call->job->sync || !call->job->brief ||
			     hvrs_freeze_is_on(call->job->freeze))) {
		status = call_start_later(call, pass);
		if (!NT_STATUS_IS_OK(status) && call->job->modifies) {
			contend_level2_oplocks_end(call->fsp,
						   LEVEL2_CONTEND_WRITE);
		}
		return status;
	}
	hvrs_freeze_wait(call->job->freeze);
	call->job->work(call->job);
	return call_end(call);
}

NTSTATUS hvrs_fsctl(struct vfs_handle_struct *handle, struct files_struct *fsp,
		    TALLOC_CTX *ctx, uint32_t function, uint16_t req_flags,
		    const uint8_t *in_data, uint32_t in_len,
		    uint8_t **out_data, uint32_t max_out_len,
		    uint32_t *out_len)
{
	const struct hvrs_share *share = hvrs_share(handle);
	const struct fsctl_row *row = NULL;
	struct ioctl_pass *pass = current;
	struct hvrs_call call = {
		.handle = handle, .share = share, .fsp = fsp,
		.code = function, .flags2 = req_flags, .in = in_data,
		.in_length = in_len, .max_out = max_out_len, .mem_ctx = ctx,
	};
	NTSTATUS status = NT_STATUS_OK;

	if (share != NULL) {
		row = row_find(share, function);
	}
	/* With core hooks that has been looked at. */
	if (row == NULL || (pass == NULL && !is_kernel_file(fsp))) {
		return SMB_VFS_NEXT_FSCTL(handle, fsp, ctx, function,
					  req_flags, in_data, in_len,
					  out_data, max_out_len, out_len);
	}
	if (pass != NULL) {
		current = NULL;
		pass->reached = true;
		call.smb2req = pass->state->smb2req;
	}
	status = call_run(&call, row, pass);
	*out_data = call.out;
	*out_len = call.out_length;
	return status;
}

/* Whether one of the modules on this share answers the code. */
static bool is_answered(struct connection_struct *conn, uint32_t code)
{
	struct vfs_handle_struct *handle = NULL;

	for (handle = conn->vfs_handles; handle != NULL;
	     handle = handle->next) {
		if (handle->fns->fsctl_fn == hvrs_fsctl &&
		    hvrs_share(handle) != NULL &&
		    row_find(hvrs_share(handle), code) != NULL) {
			return true;
		}
	}
	return false;
}

/*
 * The request goes through the whole VFS stack, so that the modules above see
 * it as they see any other FSCTL.
 */
bool hvrs_fsctl_ioctl(uint32_t code, struct tevent_context *ev,
		      struct tevent_req *req,
		      struct smbd_smb2_ioctl_state *state)
{
	struct ioctl_pass pass = { .ev = ev, .req = req, .state = state };
	uint8_t *out = NULL;
	uint32_t out_length = 0;
	NTSTATUS status = NT_STATUS_OK;

	if (!is_answered(state->fsp->conn, code) ||
	    !is_kernel_file(state->fsp)) {
		return false;
	}
	current = &pass;
	status = SMB_VFS_FSCTL(state->fsp, state, code,
			       state->smbreq->flags2, state->in_input.data,
			       state->in_input.length, &out,
			       state->in_max_output, &out_length);
	current = NULL;
	if (pass.later) {
		return true;
	}
	if (!pass.reached && NT_STATUS_EQUAL(status, NT_STATUS_NOT_SUPPORTED)) {
		status = NT_STATUS_INVALID_DEVICE_REQUEST;
	}
	state->out_output = data_blob_const(out, out_length);
	if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
	return true;
}

/* ---- what handlers share ------------------------------------------------------- */

NTSTATUS hvrs_status(int error)
{
	switch (error) {
	case 0:
		return NT_STATUS_OK;
	case -EMSGSIZE:
		return NT_STATUS_BUFFER_TOO_SMALL;
	case -EOVERFLOW:
		return NT_STATUS_INTEGER_OVERFLOW;
	case -ENOTSUP:
		return NT_STATUS_NOT_SUPPORTED;
	case -EINVAL:
	case EINVAL:
		return NT_STATUS_INVALID_PARAMETER;
	case EOPNOTSUPP:
		return NT_STATUS_INVALID_DEVICE_REQUEST;
	case ENOSPC:
	case EDQUOT:
		return NT_STATUS_DISK_FULL;
	case EXDEV:
		return NT_STATUS_INVALID_HANDLE;
	case EPERM:
	case ETXTBSY:
		return NT_STATUS_ACCESS_DENIED;
	case EROFS:
		return NT_STATUS_MEDIA_WRITE_PROTECTED;
	case ECANCELED:
		return NT_STATUS_CANCELLED;
	case EIO:
		return NT_STATUS_IO_DEVICE_ERROR;
	}
	return map_nt_error_from_unix(error > 0 ? error : -error);
}

bool hvrs_range_locked(struct files_struct *fsp, uint64_t offset,
		       uint64_t length)
{
	struct lock_struct lock = {};

	series_strict_lock(fsp, offset, length, WRITE_LOCK, &lock);
	return !SMB_VFS_STRICT_LOCK_CHECK(fsp->conn, fsp, &lock);
}

NTSTATUS hvrs_check_write(struct files_struct *fsp)
{
	if (fsp->fsp_flags.is_directory) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	if (!CAN_WRITE(fsp->conn) || fsp->fsp_name->twrp != 0) {
		return NT_STATUS_MEDIA_WRITE_PROTECTED;
	}
	return series_check_any_access(fsp, FILE_WRITE_DATA);
}

bool hvrs_call_output(struct hvrs_call *call, size_t length)
{
	call->out = talloc_zero_array(call->mem_ctx, uint8_t, length);
	if (call->out == NULL) {
		return false;
	}
	call->out_length = (uint32_t)length;
	return true;
}

NTSTATUS hvrs_file_size(struct files_struct *fsp, uint64_t *_size)
{
	NTSTATUS status = vfs_stat_fsp(fsp);

	if (NT_STATUS_IS_OK(status)) {
		*_size = (uint64_t)fsp->fsp_name->st.st_ex_size;
	}
	return status;
}

bool hvrs_file_sparse(struct files_struct *fsp)
{
	return (series_dos_mode(fsp) & FILE_ATTRIBUTE_SPARSE) != 0;
}
