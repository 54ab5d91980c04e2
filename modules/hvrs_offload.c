/*
 * FSCTL_OFFLOAD_WRITE ([MS-FSCC] 2.3.44, [MS-FSA] 2.1.5.10.19), and what it has
 * in common with the read.
 */
#include "hvrs_offload.h"

#include <linux/falloc.h>
#include <unistd.h>

#include "state_tokens.h"

/* One answer takes no longer; the client goes on where it ended. */
#define SECONDS 4

NTSTATUS hvrs_offload_status(int error)
{
	switch (error) {
	case -ENODATA:
	case ENODATA:
		return NT_STATUS_END_OF_FILE;
	case -EKEYREJECTED:
	case EKEYREJECTED:
		return HVRS_STATUS_TOKEN;
	case EAGAIN:
	case EXDEV:
		return HVRS_STATUS_READ_FILE;
	}
	return hvrs_status(error);
}

const char *hvrs_offload_user(const struct files_struct *fsp,
			      struct dom_sid_buf *buffer)
{
	return dom_sid_str_buf(
		&fsp->conn->session_info->security_token->sids[0], buffer);
}

bool hvrs_offload_deleted(const struct files_struct *fsp)
{
	return fsp->fsp_name->st.st_ex_nlink == 0;
}

/* ---- write ---------------------------------------------------------------------- */

struct write_job {
	struct hvrs_job job;
	struct hvrs_copy copy;
	struct token_stamp stamp;
	uint64_t told;		/* when all is written */
	bool zero;
	bool frees;
};

/*
 * A file that grows ends behind the last byte that was put: what was put
 * there last may have been a hole.
 */
static int end_file(const struct hvrs_copy *copy, int fd)
{
	uint64_t end = copy->target + copy->done;
	struct token_stamp stamp = {};
	ssize_t ret = 0;
	int error = hvrs_stamp_get(fd, &stamp);

	if (error != 0 || copy->done == 0 || stamp.size >= end) {
		return error;
	}
	do {
		ret = pwrite(fd, "", 1, (off_t)(end - 1));
	} while (ret != 1 && errno == EINTR);
	return ret == 1 ? 0 : errno;
}

static void write_work(struct hvrs_job *job)
{
	struct write_job *write = (struct write_job *)job;
	struct hvrs_copy *copy = &write->copy;
	int error = 0;

	if (write->zero) {
		int mode = FALLOC_FL_KEEP_SIZE |
			(write->frees ? FALLOC_FL_PUNCH_HOLE
				      : FALLOC_FL_ZERO_RANGE);

		job->error = hvrs_job_fallocate(job, mode, copy->target,
						copy->length);
		if (job->error == EOPNOTSUPP) {
			job->error = hvrs_job_write_zeros(job, copy->target,
							  copy->length);
		}
		copy->done = job->error == 0 ? copy->length : 0;
	} else {
		copy->to = job->fd;
		copy->from = job->other_fd;
		copy->lease = &job->third_fd;
		copy->stop = &job->stop;
		job->error = hvrs_copy_run(copy, SECONDS);
	}
	error = end_file(copy, job->fd);
	if (error == 0 && copy->done > 0 && job->sync &&
	    fdatasync(job->fd) != 0) {
		error = errno;
	}
	if (error != 0) {
		/* Nothing may be promised. */
		job->error = error;
		copy->done = 0;
	}
}

static NTSTATUS write_finish(struct hvrs_call *call, struct hvrs_job *job)
{
	struct write_job *write = (struct write_job *)job;
	uint64_t done = write->copy.done;

	/* What is done is told; the next request meets what went wrong. */
	if (job->error != 0 && done < TOKEN_SECTOR) {
		return job->error == EAGAIN
			? NT_STATUS_INSUFFICIENT_RESOURCES
			: hvrs_offload_status(job->error);
	}
	/* All of it counts the last sector whole; a part is whole sectors. */
	if (done == write->copy.length) {
		done = write->told;
	} else {
		done = done / TOKEN_SECTOR * TOKEN_SECTOR;
	}
	if (!hvrs_call_output(call, OFFLOAD_WRITE_OUT)) {
		return NT_STATUS_NO_MEMORY;
	}
	offload_write_encode(call->out, done);
	return NT_STATUS_OK;
}

/* Whether a user may use a token, and what it stands for. */
static int open_token(struct hvrs_call *call, const struct token_id *id,
		      struct token_record *_record, int *_lease)
{
	struct dom_sid_buf sid;
	int ret = state_tokens_fetch(id, _record);

	if (ret != 0) {
		return ret;
	}
	ret = token_record_check(_record, id,
				 hvrs_offload_user(call->fsp, &sid),
				 state_tokens_now());
	return ret != 0 ? ret : hvrs_token_open(_record, _lease);
}

static NTSTATUS write_checks(struct hvrs_call *call,
			     const struct offload_write *write,
			     uint64_t *_size)
{
	NTSTATUS status = NT_STATUS_OK;

	if (!CAN_WRITE(call->fsp->conn)) {
		return NT_STATUS_MEDIA_WRITE_PROTECTED;
	}
	if (call->fsp->fsp_flags.is_directory) {
		return HVRS_STATUS_WRITE_FILE;
	}
	status = hvrs_check_write(call->fsp);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = hvrs_file_size(call->fsp, _size);
	if (!NT_STATUS_IS_OK(status) || write->length == 0) {
		return status;
	}
	if (!call->share->on[OPTION_SPARSE_VDL] &&
	    hvrs_file_sparse(call->fsp)) {
		return HVRS_STATUS_WRITE_FILE;
	}
	if (hvrs_offload_deleted(call->fsp)) {
		return NT_STATUS_FILE_DELETED;
	}
	if (hvrs_range_locked(call->fsp, write->offset, write->length)) {
		return NT_STATUS_FILE_LOCK_CONFLICT;
	}
	return NT_STATUS_OK;
}

NTSTATUS hvrs_offload_write(struct hvrs_call *call)
{
	struct offload_write write = {};
	struct offload_write_plan plan = {};
	struct token_record record = { .length = UINT64_MAX };
	struct token_id id = {};
	struct write_job *job = NULL;
	enum token_kind kind = TOKEN_OTHER;
	uint64_t size = 0;
	bool extends = call->share->on[OPTION_OFFLOAD_EXTENDS];
	NTSTATUS status = NT_STATUS_OK;
	int source = -1;
	int lease = -1;
	int ret = offload_write_decode(call->in, call->in_length,
				       call->max_out, &write);

	if (ret != 0) {
		return hvrs_offload_status(ret);
	}
	status = write_checks(call, &write, &size);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	/* Where it begins is looked at before the token. */
	ret = offload_write_plan(&write, size, UINT64_MAX, extends, &plan);
	if (ret != 0) {
		return hvrs_offload_status(ret);
	}
	if (plan.told > 0) {
		kind = token_decode(write.token, &id);
		if (kind == TOKEN_OTHER) {
			return HVRS_STATUS_TOKEN;
		}
	}
	if (kind == TOKEN_OURS) {
		source = open_token(call, &id, &record, &lease);
		if (source < 0) {
			return HVRS_STATUS_TOKEN;
		}
		ret = offload_write_plan(&write, size, record.length, extends,
					 &plan);
	}
	if (ret == 0 && plan.told == 0) {
		status = hvrs_call_output(call, OFFLOAD_WRITE_OUT)
			? NT_STATUS_OK : NT_STATUS_NO_MEMORY;
		if (NT_STATUS_IS_OK(status)) {
			offload_write_encode(call->out, 0);
		}
	} else {
		status = hvrs_offload_status(ret);
	}
	if (kind == TOKEN_OURS && plan.told > 0 && write.offset == size) {
		/* A file that grows ends where the source does. */
		plan.length = MIN(plan.length, record.stamp.size -
					       record.offset - write.from);
	}
	if (NT_STATUS_IS_OK(status) && plan.told > 0) {
		job = (struct write_job *)hvrs_job_create(
			call, sizeof(*job), "struct write_job");
		status = job != NULL ? NT_STATUS_OK : NT_STATUS_NO_MEMORY;
	}
	if (!NT_STATUS_IS_OK(status) || plan.told == 0) {
		if (source >= 0) {
			close(source);
		}
		if (lease >= 0) {
			close(lease);
		}
		return status;
	}
	job->job.other_fd = source;
	job->job.third_fd = lease;
	job->job.work = write_work;
	job->job.finish = write_finish;
	job->job.modifies = true;
	/* What smbd notes of a change would change what the token is about. */
	job->job.marks_late = !record.pinned;
	job->told = plan.told;
	job->zero = kind == TOKEN_ZERO;
	job->frees = hvrs_zero_frees(call->share, call->fsp);
	job->stamp = record.stamp;
	job->copy = (struct hvrs_copy) {
		.source = record.offset + write.from,
		.target = write.offset, .length = plan.length,
		.cluster = call->share->probe.cluster,
		.frees = job->frees,
		.stamp = record.pinned ? NULL : &job->stamp,
		.made_late = record.leased,
		.leased_size = record.stamp.size,
	};
	call->job = &job->job;
	return NT_STATUS_OK;
}
