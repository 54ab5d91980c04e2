/* FSCTL_OFFLOAD_READ ([MS-FSCC] 2.3.41, [MS-FSA] 2.1.5.10.18). */
#include "hvrs_offload.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "state_tokens.h"

/* How often a file that changes all the time is looked at again. */
#define SETTLE_TRIES 20
#define SETTLE_US 1000

/* How often a clone is tried of a file whose end moves meanwhile. */
#define CLONE_TRIES 5

struct read_job {
	struct hvrs_job job;
	struct offload_read read;
	uint64_t length;
	uint64_t cluster;
	bool clones;
	bool exact;		/* local, and its stamps tell of any change */
	bool zero_beyond;
	int pin;		/* the clone, made in the thread */
	char *path;		/* its name, on a cluster; else NULL */
	struct hvrs_pinned pinned;
};

/* Whether the file system changes the ctime with any change, at once. */
static bool is_exact(int fd)
{
	struct statfs fs = {};

	if (fstatfs(fd, &fs) != 0) {
		return false;
	}
	switch ((uint32_t)fs.f_type) {
	case EXT4_SUPER_MAGIC:
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
		return true;
	}
	return false;
}

/* Whether there is nothing but a hole from there to the end of the file. */
static bool is_zero_from(int fd, uint64_t offset)
{
	return lseek(fd, (off_t)offset, SEEK_DATA) == -1 && errno == ENXIO;
}

/*
 * The stamp of a moment from which on any change will change it.  EAGAIN for
 * a file that does not come to rest.
 *
 * A store through a mapping changes the stamp only where the page was clean, so
 * the range is written out, at a time when a store gets another stamp.
 */
static int settle(struct read_job *read)
{
	int i = 0;

	for (i = 0; i < SETTLE_TRIES; i++) {
		int error = hvrs_stamp_get(read->job.fd,
					   &read->pinned.source);

		if (error != 0) {
			return error;
		}
		if (hvrs_stamp_is_old(&read->pinned.source)) {
			if (sync_file_range(read->job.fd,
					    (off_t)read->read.offset,
					    (off_t)read->length,
					    SYNC_FILE_RANGE_WAIT_BEFORE |
					    SYNC_FILE_RANGE_WRITE |
					    SYNC_FILE_RANGE_WAIT_AFTER) != 0) {
				return errno;
			}
			return 0;
		}
		usleep(SETTLE_US);
	}
	return EAGAIN;
}

/*
 * A clone of the range is a point in time by itself.  Its generation can be
 * told from the stamps before and after where they are the same and old
 * enough.
 */
static int clone_range(struct read_job *read)
{
	uint64_t mask = read->cluster - 1;
	struct hvrs_pinned *pinned = &read->pinned;
	struct token_stamp before = {};
	struct file_clone_range range = { .src_fd = read->job.fd };
	bool old = false;
	int error = hvrs_stamp_get(read->job.fd, &before);

	if (error != 0) {
		return error;
	}
	/* Asked now: a change after the clone may fall into the same tick. */
	old = hvrs_stamp_is_old(&before);
	error = offload_read_plan(&read->read, before.size, &read->length);
	if (error != 0) {
		return -error;
	}
	pinned->begin = read->read.offset & ~mask;
	pinned->end = (read->read.offset + read->length + mask) & ~mask;
	/* Only at the end of the file may it be less than a cluster. */
	range.src_offset = pinned->begin;
	range.dest_offset = pinned->begin;
	range.src_length = MIN(pinned->end, before.size) - pinned->begin;
	if (ftruncate(read->pin, (off_t)before.size) != 0 ||
	    ioctl(read->pin, FICLONERANGE, &range) != 0) {
		return errno;
	}
	error = hvrs_stamp_get(read->job.fd, &pinned->source);
	pinned->settled = error == 0 && old && read->exact &&
		token_stamp_equal(&before, &pinned->source);
	return error;
}

static void read_work(struct hvrs_job *job)
{
	struct read_job *read = (struct read_job *)job;
	int i = 0;

	if (read->clones) {
		job->error = EINVAL;
		for (i = 0; i < CLONE_TRIES && (job->error == EINVAL ||
						job->error == EINTR); i++) {
			job->error = clone_range(read);
		}
	} else {
		job->error = settle(read);
	}
	read->zero_beyond = is_zero_from(job->fd,
					 read->read.offset + read->length);
}

static uint32_t lifetime_ms(const struct hvrs_share *share,
			    const struct offload_read *read)
{
	uint64_t most = share->number[OPTION_OFFLOAD_LIFETIME] * 1000;

	return read->lifetime_ms != 0 && read->lifetime_ms < most
		? read->lifetime_ms : (uint32_t)most;
}

static NTSTATUS answer_token(struct hvrs_call *call, struct hvrs_pin *pin,
			     const struct offload_read *read, uint64_t length,
			     bool zero_beyond)
{
	const struct hvrs_share *share = call->share;
	struct dom_sid_buf sid;
	struct hvrs_token_wanted wanted = {
		.user = hvrs_offload_user(call->fsp, &sid),
		.bearer = strequal(share->text[OPTION_OFFLOAD_SCOPE],
				   "bearer"),
		.lifetime_ms = lifetime_ms(share, read),
		.offset = read->offset, .length = length,
		.user_limit = (uint32_t)share->number[
			OPTION_OFFLOAD_USER_TOKENS],
		.all_limit = (uint32_t)share->number[OPTION_OFFLOAD_TOKENS],
		.pinned_limit = share->number[OPTION_OFFLOAD_PINNED] << 30,
	};
	uint8_t token[TOKEN_SIZE] = {};
	int ret = 0;

	wanted.name = talloc_asprintf(call->mem_ctx, "%s: %s", share->name,
				      fsp_str_dbg(call->fsp));
	if (wanted.name == NULL || !hvrs_call_output(call, OFFLOAD_READ_OUT)) {
		hvrs_pin_release(pin);
		return NT_STATUS_NO_MEMORY;
	}
	ret = hvrs_pin_token(pin, call->fsp->conn->sconn->ev_ctx, &wanted,
			     token);
	if (ret != 0) {
		call->out_length = 0;
		return NT_STATUS_INSUFFICIENT_RESOURCES;
	}
	offload_read_encode(call->out,
			    zero_beyond ? OFFLOAD_ALL_ZERO_BEYOND : 0, length,
			    token);
	return NT_STATUS_OK;
}

static NTSTATUS read_finish(struct hvrs_call *call, struct hvrs_job *job)
{
	struct read_job *read = (struct read_job *)job;
	struct hvrs_pin *pin = NULL;
	int fd = -1;

	if (job->error == 0 && read->path != NULL) {
		job->error = hvrs_folder_made(read->pin);
	}
	if (job->error != 0) {
		if (read->path != NULL) {
			hvrs_folder_remove(read->path);
		}
		return hvrs_offload_status(job->error);
	}
	if (read->clones) {
		fd = read->pin;
		read->pin = -1;
		/* Given to the pin, and so no longer the job's to close. */
		job->other_fd = -1;
	} else {
		fd = fcntl(job->fd, F_DUPFD_CLOEXEC, 0);
		if (fd == -1) {
			return NT_STATUS_INSUFFICIENT_RESOURCES;
		}
	}
	read->pinned.pinned = read->clones;
	pin = hvrs_pin_create(fd, &read->pinned, NULL, read->path);
	if (pin == NULL) {
		if (read->path != NULL) {
			hvrs_folder_remove(read->path);
		}
		close(fd);
		return NT_STATUS_NO_MEMORY;
	}
	return answer_token(call, pin, &read->read, read->length,
			    read->zero_beyond);
}

/* What is asked for reads as zeros: a token that needs nothing. */
static NTSTATUS answer_zero(struct hvrs_call *call, uint64_t length,
			    bool zero_beyond)
{
	uint8_t token[TOKEN_SIZE] = {};

	if (!hvrs_call_output(call, OFFLOAD_READ_OUT)) {
		return NT_STATUS_NO_MEMORY;
	}
	token_encode_zero(token);
	offload_read_encode(call->out,
			    zero_beyond ? OFFLOAD_ALL_ZERO_BEYOND : 0,
			    length, token);
	return NT_STATUS_OK;
}

/* An unnamed file beside the source, root's own. */
static int pin_file(struct files_struct *fsp)
{
	char *path = talloc_asprintf(talloc_tos(), "%s/%s",
				     fsp->conn->connectpath,
				     fsp->fsp_name->base_name);
	int fd = -1;
	int saved = 0;

	if (path == NULL) {
		errno = ENOMEM;
		return -1;
	}
	*strrchr(path, '/') = '\0';
	become_root();
	fd = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	saved = errno;
	unbecome_root();
	TALLOC_FREE(path);
	errno = saved;
	return fd;
}

/*
 * A token of a file that nobody has open for writing: it is cloned when
 * somebody opens it so.  *_status is set where there is one, or an error.
 */
static bool answer_leased(struct hvrs_call *call, struct read_job *job,
			  NTSTATUS *_status)
{
	int flags = fcntl(job->job.fd, F_GETFL);
	struct hvrs_pinned pinned = { .pinned = true };
	struct hvrs_lease *lease = NULL;
	struct hvrs_pin *pin = NULL;
	int ret = 0;

	if (flags == -1 || (flags & O_ACCMODE) != O_RDONLY) {
		return false;
	}
	lease = hvrs_lease_take(job->job.fd, job->pin, job->cluster);
	if (lease == NULL) {
		return false;
	}
	/* What the file was a moment ago may have been before the lease. */
	ret = -hvrs_stamp_get(job->job.fd, &pinned.source);
	if (ret == 0) {
		ret = offload_read_plan(&job->read, pinned.source.size,
					&job->length);
	}
	if (ret == 0 &&
	    !hvrs_lease_cover(lease, job->read.offset,
			      job->read.offset + job->length)) {
		ret = EAGAIN;
	}
	if (ret == 0) {
		pin = hvrs_pin_create(job->pin, &pinned, lease, NULL);
		ret = pin == NULL ? -ENOMEM : 0;
	}
	job->pin = -1;
	job->job.other_fd = -1;
	if (ret != 0) {
		hvrs_lease_release(lease);
		*_status = hvrs_offload_status(ret);
		return true;
	}
	*_status = answer_token(call, pin, &job->read, job->length,
				is_zero_from(job->job.fd, job->read.offset +
							  job->length));
	return true;
}

static NTSTATUS read_checks(struct hvrs_call *call,
			    const struct offload_read *read, uint64_t *_length)
{
	struct lock_struct lock = {};
	uint64_t size = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	if (call->fsp->fsp_flags.is_directory) {
		return HVRS_STATUS_READ_FILE;
	}
	status = series_check_any_access(call->fsp, FILE_READ_DATA);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = hvrs_file_size(call->fsp, &size);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	/* [MS-FSA] 2.1.5.10.18, what NTFS with its one VDL cannot do. */
	if (read->length > 0 && !call->share->on[OPTION_SPARSE_VDL] &&
	    hvrs_file_sparse(call->fsp)) {
		return HVRS_STATUS_READ_FILE;
	}
	if (hvrs_offload_deleted(call->fsp)) {
		return NT_STATUS_FILE_DELETED;
	}
	ret = offload_read_plan(read, size, _length);
	if (ret != 0 && ret != -ENODATA) {
		return hvrs_offload_status(ret);
	}
	if (read->length > 0) {
		series_strict_lock(call->fsp, read->offset, read->length,
				   READ_LOCK, &lock);
		if (!SMB_VFS_STRICT_LOCK_CHECK(call->fsp->conn, call->fsp,
					       &lock)) {
			return NT_STATUS_FILE_LOCK_CONFLICT;
		}
	}
	return hvrs_offload_status(ret);
}

NTSTATUS hvrs_offload_read(struct hvrs_call *call)
{
	struct offload_read read = {};
	struct read_job *job = NULL;
	struct token_stamp stamp = {};
	struct hvrs_pin *pin = NULL;
	uint64_t length = 0;
	off_t data = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = offload_read_decode(call->in, call->in_length,
				      call->max_out, &read);

	if (ret != 0) {
		return hvrs_offload_status(ret);
	}
	status = read_checks(call, &read, &length);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (length == 0) {
		return answer_zero(call, 0, false);
	}
	/* A hole to begin with is a token of its own. */
	data = lseek(fsp_get_io_fd(call->fsp), (off_t)read.offset, SEEK_DATA);
	if (data == -1 && errno == ENXIO) {
		return answer_zero(call, length, true);
	}
	if (data > (off_t)read.offset) {
		uint64_t hole = ((uint64_t)data - read.offset) /
				TOKEN_SECTOR * TOKEN_SECTOR;

		if (hole > 0) {
			return answer_zero(call, MIN(hole, length), false);
		}
	}
	job = (struct read_job *)hvrs_job_create(call, sizeof(*job),
						 "struct read_job");
	if (job == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	job->pin = -1;
	job->read = read;
	job->length = length;
	job->job.sync = false;
	job->job.work = read_work;
	job->job.finish = read_finish;
	if (hvrs_stamp_get(job->job.fd, &stamp) == 0) {
		pin = hvrs_pin_find(&stamp, read.offset,
				    read.offset + length);
	}
	if (pin != NULL) {
		return answer_token(call, pin, &read, length,
				    is_zero_from(job->job.fd,
						 read.offset + length));
	}
	job->cluster = call->share->probe.cluster;
	/* What tells of changes, stamps and leases, is of one machine. */
	job->exact = !lp_clustering() && is_exact(job->job.fd);
	if (call->share->probe.clone) {
		job->pin = lp_clustering()
			? hvrs_folder_file(job, call->fsp->conn,
					   state_tokens_now() +
					   lifetime_ms(call->share, &read),
					   &job->path)
			: pin_file(call->fsp);
		job->job.other_fd = job->pin;
		job->clones = job->pin != -1;
	}
	/* A lease knows nothing of other machines on a shared file system. */
	if (job->clones && job->exact &&
	    answer_leased(call, job, &status)) {
		return status;
	}
	if (!job->clones && !job->exact) {
		return HVRS_STATUS_READ_FILE;
	}
	call->job = &job->job;
	return NT_STATUS_OK;
}
