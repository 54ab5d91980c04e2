/*
 * FSCTL_SET_SPARSE and FSCTL_QUERY_ALLOCATED_RANGES ([MS-FSCC] 2.3.69 and
 * 2.3.48, [MS-FSA] 2.1.5.10.37 and 2.1.5.10.22).
 */
#include "hvrs.h"

#include <linux/falloc.h>
#include <unistd.h>

#include "fsctl/fsctl.h"

/* ---- set sparse --------------------------------------------------------------- */

struct unsparse_job {
	struct hvrs_job job;
	uint64_t size;
};

/* Fills every hole with allocated blocks that read as zeros. */
static void unsparse_work(struct hvrs_job *job)
{
	struct unsparse_job *unsparse = (struct unsparse_job *)job;

	job->error = hvrs_job_fallocate(job, FALLOC_FL_KEEP_SIZE, 0,
					unsparse->size);
	if (job->error == 0 && job->sync && fdatasync(job->fd) != 0) {
		job->error = errno;
	}
}

static bool set_sparse_running;

bool hvrs_set_sparse_running(void)
{
	return set_sparse_running;
}

static NTSTATUS set_sparse_next(struct hvrs_call *call)
{
	NTSTATUS status = NT_STATUS_OK;

	set_sparse_running = true;
	status = SMB_VFS_NEXT_FSCTL(call->handle, call->fsp, call->mem_ctx,
				    call->code, call->flags2, call->in,
				    (uint32_t)call->in_length, &call->out,
				    call->max_out, &call->out_length);
	set_sparse_running = false;
	return status;
}

static NTSTATUS unsparse_finish(struct hvrs_call *call, struct hvrs_job *job)
{
	if (job->error != 0 && job->error != EOPNOTSUPP) {
		return hvrs_status(job->error);
	}
	return set_sparse_next(call);
}

NTSTATUS hvrs_set_sparse(struct hvrs_call *call)
{
	bool sparse = call->in_length == 0 || call->in[0] != 0;
	struct unsparse_job *unsparse = NULL;
	uint64_t size = 0;
	NTSTATUS status = NT_STATUS_OK;

	if (call->fsp->fsp_flags.is_directory) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	if (!CAN_WRITE(call->fsp->conn) || call->fsp->fsp_name->twrp != 0) {
		return NT_STATUS_MEDIA_WRITE_PROTECTED;
	}
	status = series_check_any_access(call->fsp, FILE_WRITE_DATA |
				      FILE_WRITE_ATTRIBUTES |
				      SEC_FILE_APPEND_DATA);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (sparse) {
		/* A virtual disk that must not be sparse stays as it is. */
		if (!call->share->on[OPTION_SPARSE_VDL] &&
		    hvrs_is_disk_file(call->share, call->fsp)) {
			return NT_STATUS_OK;
		}
		return set_sparse_next(call);
	}
	status = hvrs_file_size(call->fsp, &size);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (size == 0 || !hvrs_file_sparse(call->fsp) ||
	    (call->fsp->access_mask & (FILE_WRITE_DATA |
				       SEC_FILE_APPEND_DATA)) == 0) {
		return set_sparse_next(call);
	}
	unsparse = (struct unsparse_job *)hvrs_job_create(
		call, sizeof(*unsparse), "struct unsparse_job");
	if (unsparse == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	unsparse->job.work = unsparse_work;
	unsparse->job.finish = unsparse_finish;
	unsparse->size = size;
	call->job = &unsparse->job;
	return NT_STATUS_OK;
}

/* ---- allocated ranges ----------------------------------------------------------- */

struct ranges_job {
	struct hvrs_job job;
	struct fsctl_range range;
	uint8_t *entries;
	size_t room;		/* entries */
	size_t count;
	bool more;		/* there was one that did not fit */
};

static void ranges_work(struct hvrs_job *job)
{
	struct ranges_job *ranges = (struct ranges_job *)job;
	off_t at = (off_t)ranges->range.offset;
	off_t end = at + (off_t)ranges->range.length;

	while (at < end && !hvrs_job_stopped(job)) {
		off_t data = lseek(job->fd, at, SEEK_DATA);
		off_t hole = 0;
		struct fsctl_range found = {};

		if (data == -1 && errno != ENXIO) {
			job->error = errno;
			return;
		}
		if (data == -1 || data >= end) {
			return;
		}
		hole = lseek(job->fd, data, SEEK_HOLE);
		if (hole == -1) {
			/* ENXIO: the file became shorter meanwhile. */
			job->error = errno == ENXIO ? 0 : errno;
			return;
		}
		if (ranges->count == ranges->room) {
			ranges->more = true;
			return;
		}
		at = MIN(hole, end);
		found.offset = (uint64_t)data;
		found.length = (uint64_t)(at - data);
		fsctl_ranges_encode(ranges->entries +
				    ranges->count * FSCTL_RANGES_ENTRY,
				    &found);
		ranges->count += 1;
	}
}

static NTSTATUS ranges_finish(struct hvrs_call *call, struct hvrs_job *job)
{
	struct ranges_job *ranges = (struct ranges_job *)job;

	if (job->error != 0) {
		return hvrs_status(job->error);
	}
	call->out = ranges->entries;
	call->out_length = (uint32_t)(ranges->count * FSCTL_RANGES_ENTRY);
	return ranges->more ? STATUS_BUFFER_OVERFLOW : NT_STATUS_OK;
}

static NTSTATUS ranges_whole(struct hvrs_call *call,
			     const struct fsctl_range *range)
{
	if (!hvrs_call_output(call, FSCTL_RANGES_ENTRY)) {
		return NT_STATUS_NO_MEMORY;
	}
	fsctl_ranges_encode(call->out, range);
	return NT_STATUS_OK;
}

NTSTATUS hvrs_allocated_ranges(struct hvrs_call *call)
{
	struct fsctl_range asked = {};
	struct fsctl_range range = {};
	struct ranges_job *ranges = NULL;
	uint64_t size = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	if (call->fsp->fsp_flags.is_directory) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	status = series_check_any_access(call->fsp, FILE_READ_DATA);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	ret = fsctl_ranges_decode(call->in, call->in_length, &asked);
	if (ret != 0) {
		return hvrs_status(ret);
	}
	status = hvrs_file_size(call->fsp, &size);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	ret = fsctl_ranges_plan(&asked, size, call->max_out, &range);
	if (ret != 0 || range.length == 0) {
		return hvrs_status(ret);
	}
	if (!hvrs_file_sparse(call->fsp)) {
		return ranges_whole(call, &range);
	}
	ranges = (struct ranges_job *)hvrs_job_create(call, sizeof(*ranges),
						      "struct ranges_job");
	if (ranges == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	ranges->room = call->max_out / FSCTL_RANGES_ENTRY;
	ranges->entries = talloc_array(ranges, uint8_t,
				       ranges->room * FSCTL_RANGES_ENTRY);
	if (ranges->entries == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	ranges->range = range;
	ranges->job.work = ranges_work;
	ranges->job.finish = ranges_finish;
	call->job = &ranges->job;
	return NT_STATUS_OK;
}
