/*
 * FSCTL_DUPLICATE_EXTENTS_TO_FILE and _EX ([MS-FSCC] 2.3.7 and 2.3.9,
 * [MS-FSA] 2.1.5.10.4): the target's range shares the source's blocks.
 * Byte-range locks are ignored, as ReFS does.
 */
#include "hvrs.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "smbd/smbXsrv_open.h"

#include "fsctl/fsctl.h"

/* An unnamed file that holds the target's old blocks. */
struct clone_backup {
	int fd;
};

struct clone_job {
	struct hvrs_job job;
	struct fsctl_clone clone;
	struct fsctl_clone_plan plan;
	struct clone_backup *backup;	/* NULL without */
};

/* ---- the work ------------------------------------------------------------------ */

static int clone_range(int source, uint64_t from, int target, uint64_t to,
		       uint64_t length)
{
	struct file_clone_range range = {
		.src_fd = source, .src_offset = from, .src_length = length,
		.dest_offset = to,
	};
	int ret = 0;

	if (length == 0) {
		return 0;
	}
	do {
		ret = ioctl(target, FICLONERANGE, &range);
	} while (ret != 0 && errno == EINTR);
	return ret == 0 ? 0 : errno;
}

/* Pieces leave other users of the two files a chance. */
static int clone_pieces(struct clone_job *clone)
{
	uint64_t piece = clone->job.brief ? clone->plan.shared :
		(uint64_t)1 << 30;
	uint64_t done = 0;

	while (done < clone->plan.shared) {
		uint64_t part = MIN(piece, clone->plan.shared - done);
		uint64_t begun = hvrs_job_now();
		int error = 0;

		if (hvrs_job_stopped(&clone->job)) {
			return ECANCELED;
		}
		error = clone_range(clone->job.other_fd, clone->clone.source + done,
				    clone->job.fd,
				    clone->clone.target + done, part);
		if (error != 0) {
			return error;
		}
		done += part;
		piece = hvrs_job_piece(piece, hvrs_job_now() - begun);
	}
	return 0;
}

/* The incomplete last cluster: its bytes, then zeros. */
static int clone_tail(struct clone_job *clone)
{
	uint64_t from = clone->clone.source + clone->plan.shared;
	uint64_t to = clone->clone.target + clone->plan.shared;
	size_t length = (size_t)(clone->plan.copied + clone->plan.zeroed);
	size_t got = 0;
	size_t put = 0;
	uint8_t *buffer = NULL;
	int error = 0;

	if (length == 0) {
		return 0;
	}
	buffer = calloc(1, length);
	if (buffer == NULL) {
		return ENOMEM;
	}
	while (got < clone->plan.copied && error == 0) {
		ssize_t ret = pread(clone->job.other_fd, buffer + got,
				    (size_t)clone->plan.copied - got,
				    (off_t)(from + got));

		if (ret > 0) {
			got += (size_t)ret;
		} else if (ret == 0) {
			break;
		} else if (errno != EINTR) {
			error = errno;
		}
	}
	while (put < length && error == 0) {
		ssize_t ret = pwrite(clone->job.fd, buffer + put,
				     length - put, (off_t)(to + put));

		if (ret > 0) {
			put += (size_t)ret;
		} else if (ret == 0 || errno != EINTR) {
			error = ret == 0 ? EIO : errno;
		}
	}
	free(buffer);
	return error;
}

static int clone_all(struct clone_job *clone)
{
	int error = clone_pieces(clone);

	return error != 0 ? error : clone_tail(clone);
}

/*
 * SOURCE_ATOMIC: the source is taken in one step, and a failure leaves the
 * target as it was.
 */
static int clone_atomic(struct clone_job *clone)
{
	uint64_t target = clone->clone.target;
	uint64_t shared = clone->plan.shared;
	uint64_t tail = clone->plan.copied + clone->plan.zeroed;
	int error = 0;

	/* Only the blocks that will be replaced; the tail is one write. */
	error = clone_range(clone->job.fd, target, clone->backup->fd, 0,
			    shared);
	if (error != 0) {
		return error;
	}
	error = clone_range(clone->job.other_fd, clone->clone.source,
			    clone->job.fd, target, shared);
	if (error == 0 && tail > 0) {
		error = clone_tail(clone);
	}
	if (error != 0) {
		int undo = clone_range(clone->backup->fd, 0, clone->job.fd,
				       target, shared);

		if (undo != 0) {
			return EIO;
		}
	}
	return error;
}

static void clone_work(struct hvrs_job *job)
{
	struct clone_job *clone = (struct clone_job *)job;

	if (clone->backup != NULL) {
		job->error = clone_atomic(clone);
	} else {
		job->error = clone_all(clone);
	}
	if (job->error == 0 && job->sync && fdatasync(job->fd) != 0) {
		job->error = errno;
	}
}

/* ---- before and after ------------------------------------------------------------ */

static NTSTATUS clone_finish(struct hvrs_call *call, struct hvrs_job *job)
{
	struct clone_job *clone = (struct clone_job *)job;

	(void)call;
	TALLOC_FREE(clone->backup);
	return hvrs_status(job->error);
}

/*
 * The open that a file id names, of the same session, on whatever share
 * ([MS-SMB2] 3.3.5.15.16: Session.OpenTable).  NULL where there is none.
 */
static struct files_struct *source_find(struct hvrs_call *call,
					const struct fsctl_clone *request)
{
	struct smbXsrv_connection *xconn = NULL;
	struct smbXsrv_open *op = NULL;
	struct files_struct *source = NULL;
	NTSTATUS status = NT_STATUS_OK;

	xconn = call->smb2req != NULL ? call->smb2req->xconn :
		call->fsp->conn->sconn->client->connections;
	if (xconn == NULL) {
		return NULL;
	}
	status = smb2srv_open_lookup(xconn, request->persistent,
				     request->volatile_id, 0, &op);
	if (!NT_STATUS_IS_OK(status)) {
		return NULL;
	}
	source = op->compat;
	if (source == NULL || source->vuid != call->fsp->vuid ||
	    source->fsp_flags.closing) {
		return NULL;
	}
	return source;
}

static int backup_destructor(struct clone_backup *backup)
{
	if (backup->fd != -1) {
		close(backup->fd);
	}
	return 0;
}

/* Makes the backup beside the target; NULL with errno where it cannot. */
static struct clone_backup *backup_open(TALLOC_CTX *mem_ctx,
					struct files_struct *fsp)
{
	struct clone_backup *backup = talloc_zero(mem_ctx,
						  struct clone_backup);
	char *path = talloc_asprintf(backup, "%s/%s", fsp->conn->connectpath,
				     fsp->fsp_name->base_name);
	int saved = 0;

	if (backup == NULL || path == NULL) {
		TALLOC_FREE(backup);
		errno = ENOMEM;
		return NULL;
	}
	*strrchr(path, '/') = '\0';
	become_root();
	backup->fd = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	saved = errno;
	unbecome_root();
	talloc_set_destructor(backup, backup_destructor);
	if (backup->fd == -1) {
		TALLOC_FREE(backup);
		errno = saved;
	}
	return backup;
}

static NTSTATUS check_opens(struct hvrs_call *call,
			    struct files_struct *source)
{
	struct files_struct *target = call->fsp;
	NTSTATUS status = NT_STATUS_OK;

	if (target->fsp_flags.is_directory) {
		return NT_STATUS_NOT_SUPPORTED;
	}
	status = series_check_any_access(target, FILE_WRITE_DATA |
				      SEC_FILE_APPEND_DATA);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (source->fsp_flags.is_directory ||
	    fsp_is_alternate_stream(source) ||
	    source->fake_file_handle != NULL ||
	    source->fsp_flags.is_pathref || fsp_get_io_fd(source) == -1) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	status = series_check_any_access(source, FILE_READ_DATA);
	return NT_STATUS_IS_OK(status) ? status : NT_STATUS_INVALID_PARAMETER;
}

static NTSTATUS clone_start(struct hvrs_call *call,
			    const struct fsctl_clone *request)
{
	struct fsctl_clone_files files = {
		.cluster = call->share->probe.cluster,
	};
	struct clone_job *clone = NULL;
	struct files_struct *source = NULL;
	struct fsctl_clone_plan plan = {};
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	source = source_find(call, request);
	if (source == NULL) {
		return NT_STATUS_INVALID_HANDLE;
	}
	if (!CAN_WRITE(call->fsp->conn) || call->fsp->fsp_name->twrp != 0) {
		return NT_STATUS_MEDIA_WRITE_PROTECTED;
	}
	status = check_opens(call, source);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = hvrs_file_size(source, &files.source_size);
	if (NT_STATUS_IS_OK(status)) {
		status = hvrs_file_size(call->fsp, &files.target_size);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	files.same = source->fsp_name->st.st_ex_dev ==
		call->fsp->fsp_name->st.st_ex_dev &&
		source->fsp_name->st.st_ex_ino ==
		call->fsp->fsp_name->st.st_ex_ino;
	files.source_sparse = hvrs_file_sparse(source);
	/* Only beside a sparse source does it matter. */
	files.target_sparse = files.source_sparse &&
		hvrs_file_sparse(call->fsp);
	ret = fsctl_clone_plan(request, &files, &plan);
	if (ret != 0 || plan.shared + plan.copied + plan.zeroed == 0) {
		return hvrs_status(ret);
	}
	clone = (struct clone_job *)hvrs_job_create(call, sizeof(*clone),
						    "struct clone_job");
	if (clone == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	clone->clone = *request;
	clone->plan = plan;
	hvrs_job_other(&clone->job, source);
	if (request->atomic) {
		clone->backup = backup_open(clone, call->fsp);
		if (clone->backup == NULL) {
			return hvrs_status(errno);
		}
	}
	clone->job.work = clone_work;
	clone->job.finish = clone_finish;
	clone->job.modifies = true;
	clone->job.brief = clone->backup == NULL &&
		hvrs_job_is_brief(call, source, request->source,
				  request->length) &&
		hvrs_job_is_brief(call, call->fsp, request->target,
				  request->length);
	call->job = &clone->job;
	return NT_STATUS_OK;
}

NTSTATUS hvrs_clone(struct hvrs_call *call)
{
	struct fsctl_clone request = {};
	int ret = fsctl_clone_decode(call->in, call->in_length, &request);

	if (ret != 0) {
		return hvrs_status(ret);
	}
	return clone_start(call, &request);
}

NTSTATUS hvrs_clone_ex(struct hvrs_call *call)
{
	struct fsctl_clone request = {};
	int ret = fsctl_clone_ex_decode(call->in, call->in_length, &request);

	/* The source is looked at before StructureSize. */
	if (ret == -ENOTSUP &&
	    fsctl_clone_decode(call->in + 8, call->in_length - 8,
			       &request) == 0 &&
	    source_find(call, &request) == NULL) {
		return NT_STATUS_INVALID_HANDLE;
	}
	if (ret != 0) {
		return hvrs_status(ret);
	}
	return clone_start(call, &request);
}
