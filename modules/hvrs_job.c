/*
 * Work in threads: long operations on one file in pieces, so that a request
 * of a terabyte neither holds up smbd nor locks others out of the file.
 */
#include "hvrs.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define GIGABYTE ((uint64_t)1 << 30)
#define PIECE_LEAST ((uint64_t)16 << 20)
#define MILLISECOND ((uint64_t)1000000)
#define ZEROS_AT_ONCE ((size_t)1 << 20)
#define BRIEF_MOST ((uint64_t)1 << 20)
#define BRIEF_EXTENTS 64	/* of the whole file, a few us each */
#define BRIEF_PAGES 4096	/* in the page cache */

/* cachestat(2), Linux 6.5: older headers do not have it. */
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

struct cache_range {
	uint64_t offset;
	uint64_t length;
};

struct cache_state {
	uint64_t cached;
	uint64_t dirty;
	uint64_t writeback;
	uint64_t evicted;
	uint64_t recently_evicted;
};

/*
 * A request can end before its thread does: the client is gone, its files are
 * closed, and their descriptors may soon name other files.  So a job in a
 * thread has descriptors of its own, and whoever comes last closes them.
 */
enum {
	JOB_IDLE,
	JOB_IN_THREAD,
	JOB_DONE,
	JOB_ABANDONED,		/* by the request */
};

static int in_threads;		/* how many */

static void job_close(struct hvrs_job *job)
{
	if (job->fd != -1 && !job->fd_is_lent) {
		close(job->fd);
	}
	if (job->other_fd != -1 && !job->other_is_lent) {
		close(job->other_fd);
	}
	if (job->third_fd != -1) {
		close(job->third_fd);
	}
}

static int job_destructor(struct hvrs_job *job)
{
	int was = __atomic_exchange_n(&job->state, JOB_ABANDONED,
				      __ATOMIC_SEQ_CST);

	if (was == JOB_IN_THREAD) {
		__atomic_store_n(&job->stop, true, __ATOMIC_RELAXED);
		return -1;
	}
	job_close(job);
	return 0;
}

static int job_own(int *fd, bool *_is_lent)
{
	int own = *_is_lent ? fcntl(*fd, F_DUPFD_CLOEXEC, 0) : *fd;

	if (*_is_lent && own == -1) {
		return errno;
	}
	*fd = own;
	*_is_lent = false;
	return 0;
}

int hvrs_job_begin(struct hvrs_job *job)
{
	int error = job_own(&job->fd, &job->fd_is_lent);

	if (error == 0) {
		error = job_own(&job->other_fd, &job->other_is_lent);
	}
	if (error == 0) {
		__atomic_store_n(&job->state, JOB_IN_THREAD,
				 __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&in_threads, 1, __ATOMIC_SEQ_CST);
	}
	return error;
}

void hvrs_job_thread(void *private_data)
{
	struct hvrs_job *job = private_data;
	int was = 0;

	hvrs_freeze_wait(job->freeze);
	job->work(job);
	was = __atomic_exchange_n(&job->state, JOB_DONE, __ATOMIC_SEQ_CST);
	if (was == JOB_ABANDONED) {
		job_close(job);
	}
	__atomic_sub_fetch(&in_threads, 1, __ATOMIC_SEQ_CST);
}

void hvrs_jobs_wait(uint32_t milliseconds)
{
	while (milliseconds-- > 0 &&
	       __atomic_load_n(&in_threads, __ATOMIC_SEQ_CST) > 0) {
		usleep(MILLISECOND / 1000);
	}
}

void hvrs_job_end(struct hvrs_job *job)
{
	int was = __atomic_exchange_n(&job->state, JOB_DONE,
				      __ATOMIC_SEQ_CST);

	/* No thread ever had it. */
	if (was == JOB_IN_THREAD) {
		__atomic_sub_fetch(&in_threads, 1, __ATOMIC_SEQ_CST);
	}
}

void hvrs_job_other(struct hvrs_job *job, struct files_struct *other)
{
	job->other = other;
	job->other_fd = fsp_get_io_fd(other);
	job->other_is_lent = true;
}

struct hvrs_job *hvrs_job_create(struct hvrs_call *call, size_t size,
				 const char *type)
{
	struct hvrs_job *job = talloc_zero_size(call->mem_ctx, size);
	int flags = 0;

	if (job == NULL) {
		return NULL;
	}
	talloc_set_name_const(job, type);
	job->fd = fsp_get_io_fd(call->fsp);
	job->fd_is_lent = true;
	job->other_fd = -1;
	job->third_fd = -1;
	talloc_set_destructor(job, job_destructor);
	job->finish = hvrs_job_finish;
	flags = fcntl(job->fd, F_GETFL);
	job->sync = lp_strict_sync(SNUM(call->fsp->conn)) &&
		(lp_sync_always(SNUM(call->fsp->conn)) ||
		 (flags != -1 && (flags & O_DSYNC) != 0));
	return job;
}

NTSTATUS hvrs_job_finish(struct hvrs_call *call, struct hvrs_job *job)
{
	(void)call;
	return hvrs_status(job->error);
}

bool hvrs_job_stopped(struct hvrs_job *job)
{
	return __atomic_load_n(&job->stop, __ATOMIC_RELAXED);
}

uint64_t hvrs_job_now(void)
{
	struct timespec now = {};

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 * MILLISECOND +
		(uint64_t)now.tv_nsec;
}

uint64_t hvrs_job_piece(uint64_t piece, uint64_t nanoseconds)
{
	if (nanoseconds < MILLISECOND && piece < (uint64_t)1 << 50) {
		return piece * 8;
	}
	if (nanoseconds < 5 * MILLISECOND && piece < (uint64_t)1 << 50) {
		return piece * 2;
	}
	if (nanoseconds > 20 * MILLISECOND && piece > PIECE_LEAST) {
		return piece / 2;
	}
	return piece;
}

static bool has_few_extents(int fd)
{
	struct fsxattr attributes = {};

	return ioctl(fd, FS_IOC_FSGETXATTR, &attributes) == 0 &&
		attributes.fsx_nextents <= BRIEF_EXTENTS;
}

/*
 * Looks at longer and longer pieces, since a look takes the longer the more
 * is cached.  False where the kernel cannot tell.
 */
static bool is_clean(int fd, uint64_t offset, uint64_t length)
{
	uint64_t piece = (uint64_t)64 << 20;
	uint64_t cached = 0;

	while (length > 0) {
		struct cache_range range = {
			.offset = offset,
			.length = MIN(length, piece),
		};
		struct cache_state state = {};

		if (syscall(SYS_cachestat, fd, &range, &state, 0) != 0 ||
		    state.dirty != 0 || state.writeback != 0) {
			return false;
		}
		cached += state.cached;
		if (cached > BRIEF_PAGES) {
			return false;
		}
		offset += range.length;
		length -= range.length;
		piece *= 64;
	}
	return true;
}

bool hvrs_job_is_brief(const struct hvrs_call *call, struct files_struct *fsp,
		       uint64_t offset, uint64_t length)
{
	const dev_t counted = call->share->probe.counted;
	int fd = fsp_get_io_fd(fsp);

	return (length <= BRIEF_MOST ||
		(counted != 0 && fsp->fsp_name->st.st_ex_dev == counted &&
		 has_few_extents(fd))) &&
		is_clean(fd, offset, length);
}

int hvrs_job_fallocate(struct hvrs_job *job, int mode, uint64_t offset,
		       uint64_t length)
{
	uint64_t piece = job->brief ? length : GIGABYTE;

	while (length > 0) {
		uint64_t part = MIN(length, piece);
		uint64_t begun = hvrs_job_now();
		int ret = 0;

		if (hvrs_job_stopped(job)) {
			return ECANCELED;
		}
		ret = fallocate(job->fd, mode, (off_t)offset, (off_t)part);
		if (ret != 0 && errno != EINTR) {
			return errno;
		}
		if (ret == 0) {
			offset += part;
			length -= part;
		}
		piece = hvrs_job_piece(piece, hvrs_job_now() - begun);
	}
	return 0;
}

int hvrs_job_write_zeros(struct hvrs_job *job, uint64_t offset,
			 uint64_t length)
{
	uint8_t *zeros = calloc(1, ZEROS_AT_ONCE);
	int error = 0;

	if (zeros == NULL) {
		return ENOMEM;
	}
	while (length > 0 && error == 0) {
		size_t part = (size_t)MIN(length, ZEROS_AT_ONCE);
		ssize_t done = pwrite(job->fd, zeros, part, (off_t)offset);

		if (hvrs_job_stopped(job)) {
			error = ECANCELED;
		} else if (done > 0) {
			offset += (uint64_t)done;
			length -= (uint64_t)done;
		} else if (done == 0 || errno != EINTR) {
			error = done == 0 ? EIO : errno;
		}
	}
	free(zeros);
	return error;
}
