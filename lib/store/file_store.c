/*
 * A store over a file descriptor.  Submitted requests go to io_uring in
 * batches, once per turn of the loop; without io_uring they run one by one
 * from the same place.
 */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <string.h>
#include <sys/stat.h>
#include <tevent.h>
#include <unistd.h>

#include "util/checked.h"

#define RING_ENTRIES 128
#define IO_MAX (1U << 30)	/* one system call's worth */

struct file_store {
	struct store store;
	struct tevent_context *ev;
	struct tevent_immediate *kick;
	struct tevent_fd *ready;
	struct io_uring ring;
	struct store_io *first;	/* waiting to be started */
	struct store_io *last;
	unsigned in_ring;
	int fd;
	int lost;		/* a flush failed: it stays so */
	bool has_ring;
	bool dead_ring;		/* it takes nothing more */
	bool kicked;
};

static struct file_store *of(struct store *store)
{
	return (struct file_store *)store;
}

/* ---- synchronous ---------------------------------------------------------- */

static int file_read(struct store *store, void *buffer, size_t length,
		     uint64_t offset, size_t *_got)
{
	uint8_t *bytes = buffer;
	size_t done = 0;

	if (!checked_inside(offset, length, INT64_MAX)) {
		return -EINVAL;
	}
	while (done < length) {
		size_t want = length - done < IO_MAX ? length - done : IO_MAX;
		ssize_t n = pread(of(store)->fd, bytes + done, want,
				  (off_t)(offset + done));

		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return -errno;
		}
		if (n == 0) {
			break;
		}
		done += (size_t)n;
	}
	*_got = done;
	return 0;
}

static int file_write(struct store *store, const void *buffer, size_t length,
		      uint64_t offset)
{
	const uint8_t *bytes = buffer;
	size_t done = 0;

	if (!checked_inside(offset, length, INT64_MAX)) {
		return -EFBIG;
	}
	while (done < length) {
		size_t want = length - done < IO_MAX ? length - done : IO_MAX;
		ssize_t n = pwrite(of(store)->fd, bytes + done, want,
				   (off_t)(offset + done));

		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return -errno;
		}
		if (n == 0) {
			return -EIO;
		}
		done += (size_t)n;
	}
	return 0;
}

static int file_flush(struct store *store)
{
	struct file_store *fs = of(store);

	if (fs->lost == 0 && fdatasync(fs->fd) != 0) {
		fs->lost = -errno;
	}
	return fs->lost;
}

static int file_zero(struct store *store, uint64_t offset, uint64_t length)
{
	if (!checked_inside(offset, length, INT64_MAX)) {
		return -EINVAL;
	}
	if (length == 0) {
		return 0;
	}
	if (fallocate(of(store)->fd,
		      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)offset, (off_t)length) != 0) {
		return errno == EOPNOTSUPP || errno == ENOSYS ? -ENOTSUP
							      : -errno;
	}
	return 0;
}

static int file_size(struct store *store, uint64_t *_size)
{
	struct stat st = {};
	off_t end = 0;

	if (fstat(of(store)->fd, &st) != 0) {
		return -errno;
	}
	if (S_ISREG(st.st_mode)) {
		*_size = (uint64_t)st.st_size;
		return 0;
	}
	end = lseek(of(store)->fd, 0, SEEK_END);
	if (end < 0) {
		return -errno;
	}
	*_size = (uint64_t)end;
	return 0;
}

static int file_truncate(struct store *store, uint64_t size)
{
	if (size > INT64_MAX) {
		return -EFBIG;
	}
	return ftruncate(of(store)->fd, (off_t)size) == 0 ? 0 : -errno;
}

static int file_identity(struct store *store, struct store_identity *_id)
{
	struct stat st = {};

	if (fstat(of(store)->fd, &st) != 0) {
		return -errno;
	}
	_id->volume = (uint64_t)st.st_dev;
	_id->file = (uint64_t)st.st_ino;
	return 0;
}

/* ---- submitted ------------------------------------------------------------ */

static void file_kick(struct file_store *fs);

static void queue_add(struct file_store *fs, struct store_io *io)
{
	io->next = NULL;
	if (fs->first == NULL) {
		fs->first = io;
	} else {
		fs->last->next = io;
	}
	fs->last = io;
}

static struct store_io *queue_take(struct file_store *fs)
{
	struct store_io *io = fs->first;

	fs->first = io->next;
	io->next = NULL;
	return io;
}

/* Runs one request to its end by system calls. */
static int run_plain(struct file_store *fs, struct store_io *io)
{
	size_t got = 0;
	int ret = 0;

	switch (io->op) {
	case STORE_READ:
		ret = file_read(&fs->store, io->buffer, io->length,
				io->offset, &got);
		if (ret != 0) {
			return ret;
		}
		io->got = got;
		if (got < io->length) {
			memset((uint8_t *)io->buffer + got, 0,
					 io->length - got);
		}
		return 0;
	case STORE_WRITE:
		return file_write(&fs->store, io->buffer, io->length,
				  io->offset);
	case STORE_FLUSH:
		return file_flush(&fs->store);
	case STORE_ZERO:
		return store_zero(&fs->store, io->offset, io->length);
	}
	return -EINVAL;
}

static unsigned piece_of(const struct store_io *io)
{
	uint64_t rest = io->length - io->at;

	return (unsigned)(rest < IO_MAX ? rest : IO_MAX);
}

static void prepare(struct file_store *fs, struct io_uring_sqe *sqe,
		    struct store_io *io)
{
	uint8_t *bytes = (uint8_t *)io->buffer + io->at;
	uint64_t offset = io->offset + io->at;

	switch (io->op) {
	case STORE_READ:
		io_uring_prep_read(sqe, fs->fd, bytes, piece_of(io), offset);
		break;
	case STORE_WRITE:
		io_uring_prep_write(sqe, fs->fd, bytes, piece_of(io), offset);
		break;
	case STORE_FLUSH:
		io_uring_prep_fsync(sqe, fs->fd, IORING_FSYNC_DATASYNC);
		break;
	case STORE_ZERO:
		io_uring_prep_fallocate(sqe, fs->fd,
					FALLOC_FL_PUNCH_HOLE |
					FALLOC_FL_KEEP_SIZE,
					(off_t)io->offset, (off_t)io->length);
		break;
	}
	io_uring_sqe_set_data(sqe, io);
}

/*
 * Takes one completion: true when the request is done, with *_result; false
 * when the rest of it was queued again.
 */
static bool complete(struct file_store *fs, struct store_io *io, int res,
		     int *_result)
{
	*_result = 0;
	if (res == -EINTR || res == -EAGAIN) {
		queue_add(fs, io);
		return false;
	}
	if (io->op == STORE_ZERO && (res == -EOPNOTSUPP || res == -EINVAL ||
				     res == -ENOSYS)) {
		*_result = store_zero(&fs->store, io->offset, io->length);
		return true;
	}
	if (io->op == STORE_FLUSH) {
		if (res < 0 && fs->lost == 0) {
			/* Told once by the kernel; what it lost stays lost. */
			fs->lost = res;
		}
		*_result = fs->lost;
		return true;
	}
	if (res < 0) {
		*_result = res;
		return true;
	}
	if (io->op == STORE_ZERO) {
		return true;
	}
	io->at += (unsigned)res;
	if (io->op == STORE_READ) {
		io->got = io->at;
	}
	if (io->at == io->length) {
		return true;
	}
	if (res > 0) {
		queue_add(fs, io);
		return false;
	}
	if (io->op == STORE_READ) {
		memset((uint8_t *)io->buffer + io->at, 0,
				 io->length - io->at);
		return true;
	}
	*_result = -EIO;
	return true;
}

static void reap(struct file_store *fs)
{
	unsigned bound = RING_ENTRIES;
	struct io_uring_cqe *cqe = NULL;

	while (bound > 0 && fs->in_ring > 0 &&
	       io_uring_peek_cqe(&fs->ring, &cqe) == 0) {
		struct store_io *io = io_uring_cqe_get_data(cqe);
		int res = cqe->res;
		int result = 0;

		io_uring_cqe_seen(&fs->ring, cqe);
		fs->in_ring--;
		bound--;
		if (complete(fs, io, res, &result)) {
			io->done(io, result);
		}
	}
	if (fs->first != NULL) {
		file_kick(fs);
	}
}

/*
 * Hands the ring to the kernel.  Short of something (-EAGAIN, -EBUSY, -EINTR)
 * the kernel takes the rest another time.  After any other error it would never
 * take them: those requests, and all that follow, run as system calls.
 */
static void submit_ring(struct file_store *fs)
{
	struct io_uring_sq *sq = &fs->ring.sq;
	int ret = io_uring_submit(&fs->ring);
	unsigned head = 0;

	if (ret >= 0 || ret == -EAGAIN || ret == -EBUSY || ret == -EINTR) {
		return;
	}
	fs->dead_ring = true;
	for (head = __atomic_load_n(sq->khead, __ATOMIC_ACQUIRE);
	     head != sq->sqe_tail; head++) {
		struct io_uring_sqe *sqe = &sq->sqes[head & *sq->kring_mask];

		queue_add(fs, (struct store_io *)(uintptr_t)sqe->user_data);
		fs->in_ring--;
	}
}

static void start_ring(struct file_store *fs)
{
	unsigned started = 0;

	while (fs->first != NULL && fs->in_ring < RING_ENTRIES) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&fs->ring);

		if (sqe == NULL) {
			break;
		}
		prepare(fs, sqe, queue_take(fs));
		fs->in_ring++;
		started++;
	}
	if (started > 0) {
		/* What the kernel does not take now, the next turn offers. */
		submit_ring(fs);
	}
	if (fs->dead_ring || io_uring_sq_ready(&fs->ring) > 0) {
		file_kick(fs);
	}
}

static void start_plain(struct file_store *fs)
{
	unsigned bound = RING_ENTRIES;

	while (fs->first != NULL && bound > 0) {
		struct store_io *io = queue_take(fs);

		bound--;
		io->done(io, run_plain(fs, io));
	}
	if (fs->first != NULL) {
		file_kick(fs);
	}
}

static void on_kick(struct tevent_context *ev, struct tevent_immediate *im,
		    void *private_data)
{
	struct file_store *fs = private_data;

	(void)ev;
	(void)im;
	fs->kicked = false;
	if (fs->has_ring && !fs->dead_ring &&
	    io_uring_sq_ready(&fs->ring) > 0) {
		submit_ring(fs);
	}
	if (!fs->has_ring || fs->dead_ring) {
		start_plain(fs);
		return;
	}
	start_ring(fs);
	/* What the page cache answered is here already. */
	reap(fs);
}

static void on_ready(struct tevent_context *ev, struct tevent_fd *fde,
		     uint16_t flags, void *private_data)
{
	(void)ev;
	(void)fde;
	(void)flags;
	reap(private_data);
}

static void file_kick(struct file_store *fs)
{
	if (fs->kicked) {
		return;
	}
	fs->kicked = true;
	tevent_schedule_immediate(fs->kick, fs->ev, on_kick, fs);
}

static void file_submit(struct store *store, struct store_io *io)
{
	queue_add(of(store), io);
	file_kick(of(store));
}

/* ---- opening -------------------------------------------------------------- */

static const struct store_ops file_ops = {
	.name = "file",
	.read = file_read,
	.write = file_write,
	.flush = file_flush,
	.zero = file_zero,
	.size = file_size,
	.truncate = file_truncate,
	.identity = file_identity,
	.submit = file_submit,
};

static int file_destructor(struct file_store *fs)
{
	TALLOC_FREE(fs->ready);
	TALLOC_FREE(fs->kick);
	if (fs->has_ring) {
		io_uring_queue_exit(&fs->ring);
	}
	close(fs->fd);
	return 0;
}

/* Leaves has_ring false where io_uring does not work; that is no error. */
static int ring_open(struct file_store *fs)
{
	int ret = io_uring_queue_init(RING_ENTRIES, &fs->ring, 0);

	if (ret != 0) {
		return 0;
	}
	fs->has_ring = true;
	fs->ready = tevent_add_fd(fs->ev, fs, fs->ring.ring_fd,
				  TEVENT_FD_READ, on_ready, fs);
	return fs->ready != NULL ? 0 : -ENOMEM;
}

int file_store_from_fd(TALLOC_CTX *mem_ctx, struct tevent_context *ev, int fd,
		       unsigned flags, struct store **_store)
{
	struct file_store *fs = talloc_zero(mem_ctx, struct file_store);
	int ret = 0;

	if (fs == NULL) {
		return -ENOMEM;
	}
	fs->store.ops = &file_ops;
	fs->ev = ev;
	fs->fd = fd;
	if (ev != NULL) {
		fs->kick = tevent_create_immediate(fs);
		if (fs->kick == NULL) {
			talloc_free(fs);
			return -ENOMEM;
		}
	}
	if (ev != NULL && (flags & FILE_STORE_PLAIN) == 0) {
		ret = ring_open(fs);
		if (ret != 0) {
			io_uring_queue_exit(&fs->ring);
			talloc_free(fs);
			return ret;
		}
	}
	talloc_set_destructor(fs, file_destructor);
	*_store = &fs->store;
	return 0;
}

int file_store_open(TALLOC_CTX *mem_ctx, struct tevent_context *ev, int dirfd,
		    const char *path, unsigned flags, struct store **_store)
{
	int mode = O_RDONLY;
	int fd = -1;
	int ret = 0;

	if ((flags & FILE_STORE_CREATE) != 0) {
		mode = O_RDWR | O_CREAT | O_EXCL;
	} else if ((flags & FILE_STORE_WRITE) != 0) {
		mode = O_RDWR;
	}
	fd = openat(dirfd, path, mode | O_CLOEXEC, 0666);
	if (fd < 0) {
		return -errno;
	}
	ret = file_store_from_fd(mem_ctx, ev, fd, flags, _store);
	if (ret != 0) {
		close(fd);
	}
	return ret;
}

bool file_store_uses_uring(const struct store *store)
{
	return ((const struct file_store *)store)->has_ring;
}
