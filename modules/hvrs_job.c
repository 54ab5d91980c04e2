/*
 * Work in threads: long operations on one file in pieces, so that a request
 * of a terabyte neither holds up smbd nor locks others out of the file.
 */
#include "hvrs.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define GIGABYTE ((uint64_t)1 << 30)
#define PIECE_LEAST ((uint64_t)16 << 20)
#define MILLISECOND ((uint64_t)1000000)
#define ZEROS_AT_ONCE ((size_t)1 << 20)
#define BRIEF_MOST ((uint64_t)1 << 20)

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

bool hvrs_job_is_brief(int fd, uint64_t offset, uint64_t length)
{
	struct cache_range range = { .offset = offset, .length = length };
	struct cache_state state = {};

	if (length > BRIEF_MOST) {
		return false;
	}
	/* Where the kernel cannot tell, it may take long. */
	return length == 0 ||
		(syscall(SYS_cachestat, fd, &range, &state, 0) == 0 &&
		 state.dirty == 0 && state.writeback == 0);
}

int hvrs_job_fallocate(struct hvrs_job *job, int mode, uint64_t offset,
		       uint64_t length)
{
	uint64_t piece = GIGABYTE;

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
