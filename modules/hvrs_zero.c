/*
 * FSCTL_SET_ZERO_DATA ([MS-FSCC] 2.3.71, [MS-FSA] 2.1.5.10.38): the range
 * reads as zeros, is freed where the file is sparse or the share says so, and
 * the file never grows.
 */
#include "hvrs.h"

#include <linux/falloc.h>
#include <unistd.h>

#include "fsctl/fsctl.h"

struct zero_job {
	struct hvrs_job job;
	struct fsctl_range range;
	bool frees;
};

bool hvrs_zero_frees(const struct hvrs_share *share, struct files_struct *fsp)
{
	return share->on[OPTION_ZERO_DATA_FREES] || hvrs_file_sparse(fsp);
}

static void zero_work(struct hvrs_job *job)
{
	struct zero_job *zero = (struct zero_job *)job;
	uint64_t offset = zero->range.offset;
	uint64_t length = zero->range.length;
	int hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	int keep = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

	job->error = hvrs_job_fallocate(job, zero->frees ? hole : keep,
					offset, length);
	if (job->error == EOPNOTSUPP) {
		job->error = hvrs_job_write_zeros(job, offset, length);
	}
	if (job->error == 0 && job->sync && fdatasync(job->fd) != 0) {
		job->error = errno;
	}
}

NTSTATUS hvrs_zero_data(struct hvrs_call *call)
{
	struct fsctl_zero request = {};
	struct fsctl_range range = {};
	struct zero_job *zero = NULL;
	uint64_t size = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = fsctl_zero_decode(call->in, call->in_length, &request);

	if (ret == 0) {
		ret = fsctl_zero_plan(&request, UINT64_MAX, &range);
	}
	if (ret != 0) {
		return hvrs_status(ret);
	}
	status = hvrs_check_write(call->fsp);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = hvrs_file_size(call->fsp, &size);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	/* Locks beyond the end of file count too, as on stock servers. */
	if (range.length > 0 && hvrs_range_locked(call->fsp, range.offset,
						  range.length)) {
		return NT_STATUS_FILE_LOCK_CONFLICT;
	}
	ret = fsctl_zero_plan(&request, size, &range);
	if (ret != 0 || range.length == 0) {
		return hvrs_status(ret);
	}
	zero = (struct zero_job *)hvrs_job_create(call, sizeof(*zero),
						  "struct zero_job");
	if (zero == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	zero->job.work = zero_work;
	zero->job.modifies = true;
	zero->job.brief = hvrs_job_is_brief(call, call->fsp, range.offset,
					    range.length);
	zero->range = range;
	zero->frees = hvrs_zero_frees(call->share, call->fsp);
	call->job = &zero->job;
	return NT_STATUS_OK;
}
