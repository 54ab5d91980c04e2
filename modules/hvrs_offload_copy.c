/*
 * From what a token stands for into a file: blocks are shared where both lie
 * on one file system that can, the rest goes through a few buffers with
 * io_uring, a read of one under way with a write of another, and holes stay
 * holes.  Runs in a thread of a job; nothing here is smbd's.
 */
#include "hvrs_offload.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BUFFERS		4
#define BUFFER_SIZE	((uint64_t)1 << 20)
#define PIECE		((uint64_t)256 << 20)
#define PIECE_MOST	((uint64_t)4 << 30)
/* A file written onto itself is read whole before, so in such parts. */
#define SELF_SIZE	((uint64_t)16 << 20)

static bool is_stopped(const struct hvrs_copy *copy)
{
	return __atomic_load_n(copy->stop, __ATOMIC_RELAXED);
}

/* A clone, or what it would be of. */
static int source_of(const struct hvrs_copy *copy)
{
	return *copy->lease != -1 ? *copy->lease : copy->from;
}

/* Whether the source is still what its token is about. */
static int check_source(const struct hvrs_copy *copy)
{
	struct token_stamp now = {};

	if (*copy->lease != -1) {
		return hvrs_lease_is_held(*copy->lease) &&
		       hvrs_lease_is_whole(*copy->lease, copy->leased_size)
			       ? 0 : EKEYREJECTED;
	}
	if (copy->stamp == NULL) {
		return 0;
	}
	if (hvrs_stamp_get(copy->from, &now) != 0 ||
	    !token_stamp_equal(&now, copy->stamp)) {
		return EKEYREJECTED;
	}
	return 0;
}

/* ---- by reference --------------------------------------------------------------- */

/*
 * Whole clusters; what is left is for the copy.  EXDEV and the like are no
 * errors: then nothing was shared.
 */
static int share(struct hvrs_copy *copy, uint64_t deadline)
{
	uint64_t mask = copy->cluster - 1;
	uint64_t piece = PIECE;

	if (copy->stamp != NULL || ((copy->source | copy->target) & mask)) {
		return 0;
	}
	while (copy->length - copy->done > mask) {
		uint64_t part = MIN(MIN(piece, PIECE_MOST),
				    (copy->length - copy->done) & ~mask);
		struct file_clone_range range = {
			.src_fd = source_of(copy),
			.src_offset = copy->source + copy->done,
			.src_length = part,
			.dest_offset = copy->target + copy->done,
		};
		uint64_t begun = hvrs_job_now();
		int error = check_source(copy);

		if (error != 0) {
			return error;
		}
		if (is_stopped(copy)) {
			return ECANCELED;
		}
		if (copy->done > 0 && begun > deadline) {
			return 0;
		}
		if (ioctl(copy->to, FICLONERANGE, &range) != 0) {
			if (errno == EINTR) {
				continue;
			}
			if (errno == EXDEV || errno == EINVAL ||
			    errno == EOPNOTSUPP || errno == ETXTBSY) {
				return 0;
			}
			return errno;
		}
		/* Who came meanwhile still waits for us, but not for ever. */
		error = check_source(copy);
		if (error != 0) {
			return error;
		}
		copy->done += part;
		piece = hvrs_job_piece(piece, hvrs_job_now() - begun);
	}
	return 0;
}

/* ---- holes ------------------------------------------------------------------------ */

/* Zeros in the target, without space where that is wanted. */
static int put_hole(struct hvrs_copy *copy, uint64_t length)
{
	off_t at = (off_t)(copy->target + copy->done);
	int mode = FALLOC_FL_KEEP_SIZE |
		(copy->frees ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
	uint8_t *zeros = NULL;
	int error = 0;

	if (fallocate(copy->to, mode, at, (off_t)length) == 0) {
		copy->done += length;
		return 0;
	}
	if (errno != EOPNOTSUPP) {
		return errno;
	}
	zeros = calloc(1, BUFFER_SIZE);
	if (zeros == NULL) {
		return ENOMEM;
	}
	while (length > 0 && error == 0) {
		ssize_t put = pwrite(copy->to, zeros,
				     MIN(length, BUFFER_SIZE),
				     (off_t)(copy->target + copy->done));

		if (put > 0) {
			copy->done += (uint64_t)put;
			length -= (uint64_t)put;
		} else if (put == 0 || errno != EINTR) {
			error = put == 0 ? EIO : errno;
		}
	}
	free(zeros);
	return error;
}

/*
 * What comes next at the copy's place: a hole or data, and how much of it.  A
 * file system that cannot tell has data everywhere.
 */
static void look(const struct hvrs_copy *copy, bool *_hole, uint64_t *_length)
{
	off_t at = (off_t)(copy->source + copy->done);
	uint64_t left = copy->length - copy->done;
	off_t data = lseek(source_of(copy), at, SEEK_DATA);
	off_t end = 0;

	if (data == -1) {
		*_hole = errno == ENXIO;
		*_length = left;
		return;
	}
	if (data > at) {
		*_hole = true;
		*_length = MIN(left, (uint64_t)(data - at));
		return;
	}
	end = lseek(source_of(copy), at, SEEK_HOLE);
	*_hole = false;
	*_length = end > at ? MIN(left, (uint64_t)(end - at)) : left;
}

/* ---- data --------------------------------------------------------------------------- */

enum buffer_state { BUFFER_FREE, BUFFER_READ, BUFFER_WRITE };

struct buffer {
	enum buffer_state state;
	uint8_t *bytes;
	uint64_t at;		/* offset in the copy */
	uint64_t length;
	uint64_t filled;
	uint64_t written;
};

struct pipeline {
	struct hvrs_copy *copy;
	struct io_uring ring;
	struct buffer buffers[BUFFERS];
	uint64_t begin;		/* of this stretch of data, in the copy */
	uint64_t next;
	uint64_t end;
	unsigned under_way;
	int error;
};

static void submit(struct pipeline *pipeline, struct buffer *buffer)
{
	struct hvrs_copy *copy = pipeline->copy;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&pipeline->ring);

	/* Twice as many entries as buffers: there always is one. */
	if (sqe == NULL) {
		pipeline->error = EAGAIN;
		return;
	}
	if (buffer->state == BUFFER_READ) {
		io_uring_prep_read(sqe, source_of(copy),
				   buffer->bytes + buffer->filled,
				   (unsigned)(buffer->length - buffer->filled),
				   copy->source + buffer->at +
					   buffer->filled);
	} else {
		io_uring_prep_write(sqe, copy->to,
				    buffer->bytes + buffer->written,
				    (unsigned)(buffer->length -
					       buffer->written),
				    copy->target + buffer->at +
					    buffer->written);
	}
	io_uring_sqe_set_data(sqe, buffer);
	pipeline->under_way++;
}

static void start_read(struct pipeline *pipeline, struct buffer *buffer)
{
	buffer->state = BUFFER_READ;
	buffer->at = pipeline->next;
	buffer->length = MIN(BUFFER_SIZE, pipeline->end - pipeline->next);
	buffer->filled = 0;
	buffer->written = 0;
	pipeline->next += buffer->length;
	submit(pipeline, buffer);
}

static void completed(struct pipeline *pipeline, struct buffer *buffer,
		      int result)
{
	int error = 0;

	if (result == -EINTR || result == -EAGAIN) {
		submit(pipeline, buffer);
		return;
	}
	if (result < 0 || (result == 0 && buffer->state == BUFFER_WRITE)) {
		pipeline->error = result < 0 ? -result : EIO;
		return;
	}
	if (buffer->state == BUFFER_READ) {
		buffer->filled += (uint64_t)result;
		/* Behind the end of the source there are zeros. */
		if (result == 0) {
			memset(buffer->bytes + buffer->filled, 0,
			       buffer->length - buffer->filled);
			buffer->filled = buffer->length;
		}
		if (buffer->filled < buffer->length) {
			submit(pipeline, buffer);
			return;
		}
		/* A change during the read has changed the stamp by now. */
		error = check_source(pipeline->copy);
		if (error != 0) {
			pipeline->error = error;
			return;
		}
		buffer->state = BUFFER_WRITE;
		submit(pipeline, buffer);
		return;
	}
	buffer->written += (uint64_t)result;
	if (buffer->written < buffer->length) {
		submit(pipeline, buffer);
		return;
	}
	buffer->state = BUFFER_FREE;
}

static void pump(struct pipeline *pipeline, uint64_t deadline)
{
	size_t i = 0;

	for (;;) {
		struct io_uring_cqe *cqe = NULL;
		int ret = 0;

		if (is_stopped(pipeline->copy) && pipeline->error == 0) {
			pipeline->error = ECANCELED;
		}
		if (hvrs_job_now() > deadline) {
			pipeline->end = pipeline->next;
		}
		for (i = 0; i < BUFFERS && pipeline->error == 0 &&
			    pipeline->next < pipeline->end; i++) {
			if (pipeline->buffers[i].state == BUFFER_FREE) {
				start_read(pipeline, &pipeline->buffers[i]);
			}
		}
		if (pipeline->under_way == 0) {
			return;
		}
		ret = io_uring_submit_and_wait(&pipeline->ring, 1);
		if (ret < 0 && ret != -EINTR && ret != -EAGAIN) {
			pipeline->error = -ret;
		}
		while (io_uring_peek_cqe(&pipeline->ring, &cqe) == 0) {
			struct buffer *buffer = io_uring_cqe_get_data(cqe);
			int result = cqe->res;

			io_uring_cqe_seen(&pipeline->ring, cqe);
			pipeline->under_way--;
			if (pipeline->error == 0) {
				completed(pipeline, buffer, result);
			}
		}
	}
}

/* The same with two system calls, where the kernel has no io_uring for us. */
static int copy_plainly(struct hvrs_copy *copy, uint64_t length,
			uint64_t deadline, uint8_t *bytes)
{
	while (length > 0) {
		uint64_t part = MIN(length, BUFFER_SIZE);
		uint64_t got = 0;
		uint64_t put = 0;
		int error = 0;

		if (is_stopped(copy)) {
			return ECANCELED;
		}
		if (hvrs_job_now() > deadline) {
			return 0;
		}
		while (got < part) {
			ssize_t ret = pread(source_of(copy), bytes + got,
					    part - got,
					    (off_t)(copy->source +
						    copy->done + got));

			if (ret < 0 && errno != EINTR) {
				return errno;
			}
			if (ret == 0) {
				memset(bytes + got, 0, part - got);
				got = part;
			}
			got += ret > 0 ? (uint64_t)ret : 0;
		}
		error = check_source(copy);
		if (error != 0) {
			return error;
		}
		while (put < part) {
			ssize_t ret = pwrite(copy->to, bytes + put,
					     part - put,
					     (off_t)(copy->target +
						     copy->done + put));

			if (ret == 0 || (ret < 0 && errno != EINTR)) {
				return ret == 0 ? EIO : errno;
			}
			put += ret > 0 ? (uint64_t)ret : 0;
		}
		copy->done += part;
		length -= part;
	}
	return 0;
}

/* One stretch of data. */
static int put_data(struct hvrs_copy *copy, uint64_t length,
		    uint64_t deadline)
{
	struct pipeline pipeline = {
		.copy = copy, .begin = copy->done, .next = copy->done,
		.end = copy->done + length,
	};
	uint8_t *bytes = NULL;
	int error = 0;
	size_t i = 0;

	bytes = malloc(BUFFERS * BUFFER_SIZE);
	if (bytes == NULL) {
		return ENOMEM;
	}
	if (length <= BUFFER_SIZE ||
	    io_uring_queue_init(2 * BUFFERS, &pipeline.ring, 0) != 0) {
		error = copy_plainly(copy, length, deadline, bytes);
		free(bytes);
		return error;
	}
	for (i = 0; i < BUFFERS; i++) {
		pipeline.buffers[i].bytes = bytes + i * BUFFER_SIZE;
	}
	pump(&pipeline, deadline);
	io_uring_queue_exit(&pipeline.ring);
	free(bytes);
	if (pipeline.error == 0) {
		copy->done = pipeline.end;
	}
	return pipeline.error;
}

/*
 * A file onto itself without a clone: its first write changes its stamp, so
 * all of this part is read before.
 */
static int copy_self(struct hvrs_copy *copy)
{
	uint64_t length = MIN(copy->length, SELF_SIZE);
	uint8_t *bytes = calloc(1, length);
	uint64_t at = 0;
	int error = 0;

	if (bytes == NULL) {
		return ENOMEM;
	}
	while (at < length && error == 0) {
		ssize_t ret = pread(copy->from, bytes + at, length - at,
				    (off_t)(copy->source + at));

		if (ret == 0) {
			break;
		}
		if (ret < 0 && errno != EINTR) {
			error = errno;
		}
		at += ret > 0 ? (uint64_t)ret : 0;
	}
	if (error == 0) {
		error = check_source(copy);
	}
	for (at = 0; at < length && error == 0;) {
		ssize_t ret = pwrite(copy->to, bytes + at, length - at,
				     (off_t)(copy->target + at));

		if (ret == 0 || (ret < 0 && errno != EINTR)) {
			error = ret == 0 ? EIO : errno;
		}
		at += ret > 0 ? (uint64_t)ret : 0;
	}
	free(bytes);
	copy->done = error == 0 ? length : 0;
	return error;
}

static int copy_other(struct hvrs_copy *copy, uint64_t deadline)
{
	int error = share(copy, deadline);

	while (error == 0 && copy->done < copy->length &&
	       (copy->done == 0 || hvrs_job_now() < deadline)) {
		uint64_t length = 0;
		bool hole = false;

		if (is_stopped(copy)) {
			return ECANCELED;
		}
		look(copy, &hole, &length);
		error = check_source(copy);
		if (error != 0) {
			break;
		}
		error = hole ? put_hole(copy, length)
			     : put_data(copy, length, deadline);
	}
	return error;
}

int hvrs_copy_run(struct hvrs_copy *copy, uint32_t seconds)
{
	uint64_t deadline = hvrs_job_now() + (uint64_t)seconds * 1000000000;
	struct token_stamp target = {};
	int error = 0;

	if (copy->stamp != NULL) {
		if (hvrs_stamp_get(copy->to, &target) != 0) {
			return EIO;
		}
		if (target.device == copy->stamp->device &&
		    target.inode == copy->stamp->inode) {
			return copy_self(copy);
		}
	}
	if (*copy->lease != -1) {
		error = copy_other(copy, deadline);
		if (error != EKEYREJECTED ||
		    !hvrs_lease_is_whole(*copy->lease, copy->leased_size)) {
			return error;
		}
		/* Somebody waits to write. */
		close(*copy->lease);
		*copy->lease = -1;
		if (copy->done > 0) {
			return 0;
		}
	}
	if (copy->made_late) {
		error = hvrs_lease_wait(copy->from, copy->stop);
		if (error != 0) {
			return error;
		}
		deadline = hvrs_job_now() + (uint64_t)seconds * 1000000000;
	}
	return copy_other(copy, deadline);
}
