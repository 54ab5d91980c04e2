/*
 * FSCTL_FILE_LEVEL_TRIM ([MS-FSCC] 2.3.73, [MS-FSA] 2.1.5.10.7): whole pages
 * of the ranges are freed and then read as zeros; the file keeps its size.
 */
#include "hvrs.h"

#include <linux/falloc.h>
#include <unistd.h>

#include "fsctl/fsctl.h"

struct trim_job {
	struct hvrs_job job;
	struct fsctl_range *ranges;
	uint32_t count;
	uint32_t done;
	NTSTATUS after;		/* why the ranges behind these were not taken */
};

static void trim_work(struct hvrs_job *job)
{
	struct trim_job *trim = (struct trim_job *)job;

	for (trim->done = 0; trim->done < trim->count; trim->done++) {
		struct fsctl_range *range = &trim->ranges[trim->done];

		job->error = hvrs_job_fallocate(
			job, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			range->offset, range->length);
		if (job->error != 0) {
			return;
		}
	}
	if (job->sync && fdatasync(job->fd) != 0) {
		job->error = errno;
	}
}

/* Success even where every range was smaller than a page: the count tells. */
static NTSTATUS trim_answer(struct hvrs_call *call, uint32_t done)
{
	if (call->max_out >= FSCTL_TRIM_REPLY) {
		if (!hvrs_call_output(call, FSCTL_TRIM_REPLY)) {
			return NT_STATUS_NO_MEMORY;
		}
		SIVAL(call->out, 0, done);
	}
	return NT_STATUS_OK;
}

static NTSTATUS trim_finish(struct hvrs_call *call, struct hvrs_job *job)
{
	struct trim_job *trim = (struct trim_job *)job;

	if (job->error != 0) {
		return hvrs_status(job->error);
	}
	if (!NT_STATUS_IS_OK(trim->after)) {
		return trim->after;
	}
	return trim_answer(call, trim->done);
}

/* Takes the ranges up to the first that is wrong or locked. */
static void trim_collect(struct trim_job *job, struct files_struct *fsp,
			 const struct fsctl_trim *trim, uint64_t allocation,
			 uint64_t page)
{
	uint32_t i = 0;

	for (i = 0; i < trim->count; i++) {
		struct fsctl_range range = {};
		int ret = fsctl_trim_plan(trim, i, allocation, page, &range);

		if (ret != 0) {
			job->after = hvrs_status(ret);
			return;
		}
		if (range.length == 0) {
			continue;
		}
		if (hvrs_range_locked(fsp, range.offset, range.length)) {
			job->after = NT_STATUS_FILE_LOCK_CONFLICT;
			return;
		}
		job->ranges[job->count++] = range;
	}
}

NTSTATUS hvrs_trim(struct hvrs_call *call)
{
	const uint64_t page = MAX(4096, call->share->probe.cluster);
	struct fsctl_trim request = {};
	struct trim_job *trim = NULL;
	uint64_t size = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = fsctl_trim_decode(call->in, call->in_length, &request);

	if (ret != 0) {
		return hvrs_status(ret);
	}
	if (call->max_out > 0 && call->max_out < FSCTL_TRIM_REPLY) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	status = hvrs_check_write(call->fsp);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = hvrs_file_size(call->fsp, &size);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	trim = (struct trim_job *)hvrs_job_create(call, sizeof(*trim),
						  "struct trim_job");
	if (trim == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	trim->ranges = talloc_array(trim, struct fsctl_range, request.count);
	if (trim->ranges == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	trim_collect(trim, call->fsp, &request, (size + page - 1) & ~(page - 1),
		     page);
	if (trim->count == 0) {
		return NT_STATUS_IS_OK(trim->after) ? trim_answer(call, 0) :
			trim->after;
	}
	trim->job.work = trim_work;
	trim->job.finish = trim_finish;
	trim->job.modifies = true;
	trim->job.brief = trim->count == 1 &&
		hvrs_job_is_brief(call, call->fsp, trim->ranges[0].offset,
				  trim->ranges[0].length);
	call->job = &trim->job;
	return NT_STATUS_OK;
}
