/*
 * A file of the VFS as a store: requests take the way of any other request to
 * that file, so that a shared disk stacks on whatever the share has.
 */
#include "server.h"
#include "step.h"

#include <linux/fs.h>
#include <sys/ioctl.h>

struct rsvd_store {
	struct store store;
	struct rsvd_store *prev, *next;
	struct tevent_context *ev;
	struct files_struct *fsp;
	bool internal;		/* made by create_internal_fsp() */
	struct files_struct *guard;	/* smbd's own open of the same file */
	unsigned under_way;
};

/*
 * smbd closes all files of a connection in an order of its own: a store may
 * lose its file before it goes.
 */
static struct rsvd_store *all_stores;

static struct rsvd_store *of(struct store *store)
{
	return (struct rsvd_store *)store;
}

/* ---- synchronous ------------------------------------------------------------------ */

static int vfs_read(struct store *store, void *buffer, size_t length,
		    uint64_t offset, size_t *_got)
{
	struct rsvd_store *s = of(store);
	size_t got = 0;

	if (s->fsp == NULL) {
		return -EIO;
	}
	while (got < length) {
		ssize_t part = SMB_VFS_PREAD(s->fsp, (uint8_t *)buffer + got,
			length - got, (off_t)(offset + got));

		if (part < 0 && errno == EINTR) {
			continue;
		}
		if (part < 0) {
			return -errno;
		}
		if (part == 0) {
			break;
		}
		got += (size_t)part;
	}
	*_got = got;
	return 0;
}

static int vfs_write(struct store *store, const void *buffer, size_t length,
		     uint64_t offset)
{
	struct rsvd_store *s = of(store);
	size_t done = 0;

	if (s->fsp == NULL) {
		return -EIO;
	}
	while (done < length) {
		ssize_t part = SMB_VFS_PWRITE(s->fsp, (const uint8_t *)buffer + done,
			length - done, (off_t)(offset + done));

		if (part < 0 && errno == EINTR) {
			continue;
		}
		if (part <= 0) {
			return part < 0 ? -errno : -EIO;
		}
		done += (size_t)part;
	}
	return 0;
}

/* Whether the file is the kernel's, by the number that the VFS has for it. */
static bool has_kernel_fd(const struct files_struct *fsp)
{
	const SMB_STRUCT_STAT *known = &fsp->fsp_name->st;
	struct stat st = {};

	return VALID_STAT(*known) && fstat(fsp_get_io_fd(fsp), &st) == 0 &&
		st.st_ino == known->st_ex_ino &&
		st.st_dev == known->st_ex_dev;
}

static int vfs_flush(struct store *store)
{
	struct rsvd_store *s = of(store);

	if (s->fsp == NULL) {
		return -EIO;
	}
	/*
	 * A module that answers from smbd's own loop (io_uring) never answers
	 * the one that is run here.
	 */
	if (has_kernel_fd(s->fsp)) {
		return fsync(fsp_get_io_fd(s->fsp)) == 0 ? 0 : -errno;
	}
	return smb_vfs_fsync_sync(s->fsp) == 0 ? 0 : -errno;
}

static int vfs_zero(struct store *store, uint64_t offset, uint64_t length)
{
	struct rsvd_store *s = of(store);
	int ret = 0;

	if (s->fsp == NULL) {
		return -EIO;
	}
	ret = SMB_VFS_FALLOCATE(s->fsp,
		VFS_FALLOCATE_FL_PUNCH_HOLE | VFS_FALLOCATE_FL_KEEP_SIZE,
		(off_t)offset, (off_t)length);

	if (ret == 0) {
		return 0;
	}
	return errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL ?
		-ENOTSUP : -errno;
}

static int vfs_size(struct store *store, uint64_t *_size)
{
	struct rsvd_store *s = of(store);
	SMB_STRUCT_STAT st = {};

	if (s->fsp == NULL) {
		return -EIO;
	}
	if (SMB_VFS_FSTAT(s->fsp, &st) != 0) {
		return -errno;
	}
	*_size = (uint64_t)st.st_ex_size;
	return 0;
}

static int vfs_truncate(struct store *store, uint64_t size)
{
	struct rsvd_store *s = of(store);

	if (s->fsp == NULL) {
		return -EIO;
	}
	return SMB_VFS_FTRUNCATE(s->fsp, (off_t)size) == 0 ?
		0 : -errno;
}

static int vfs_identity(struct store *store, struct store_identity *_id)
{
	struct rsvd_store *s = of(store);

	if (s->fsp == NULL) {
		return -EIO;
	}
	*_id = (struct store_identity) {
		.volume = s->fsp->file_id.devid,
		.file = s->fsp->file_id.inode,
	};
	return 0;
}

/* ---- asynchronous ------------------------------------------------------------------ */

/* One request; lives by itself, as nothing must free it while it is under way. */
struct pending {
	struct rsvd_store *s;
	struct store_io *io;
	int result;
};

static void pending_start(struct pending *p);

static void pending_end(struct pending *p, int result)
{
	struct store_io *io = p->io;

	p->s->under_way--;
	talloc_free(p);
	io->done(io, result);
}

static void on_immediate(struct tevent_context *ev,
			 struct tevent_immediate *im, void *private_data)
{
	struct pending *p = private_data;

	(void)ev;
	(void)im;
	pending_end(p, p->result);
}

static void pending_later(struct pending *p, int result)
{
	struct tevent_immediate *im = tevent_create_immediate(p);

	if (im == NULL) {
		smb_panic("hvrs: no memory for the end of a request");
	}
	p->result = result;
	tevent_schedule_immediate(im, p->s->ev, on_immediate, p);
}

static void on_read(struct tevent_req *req)
{
	struct pending *p = tevent_req_callback_data(req, struct pending);
	struct vfs_aio_state state = {};
	ssize_t got = SMB_VFS_PREAD_RECV(req, &state);
	struct store_io *io = p->io;

	TALLOC_FREE(req);
	if (got < 0) {
		pending_end(p, state.error != 0 ? -state.error : -EIO);
		return;
	}
	io->at += (uint64_t)got;
	io->got = io->at;
	if (got == 0) {
		/* What lies past the end reads as zero. */
		memset((uint8_t *)io->buffer + io->at, 0,
		       io->length - io->at);
		pending_end(p, 0);
		return;
	}
	pending_start(p);
}

static void on_write(struct tevent_req *req)
{
	struct pending *p = tevent_req_callback_data(req, struct pending);
	struct vfs_aio_state state = {};
	ssize_t done = SMB_VFS_PWRITE_RECV(req, &state);

	TALLOC_FREE(req);
	if (done <= 0) {
		pending_end(p, state.error != 0 ? -state.error : -EIO);
		return;
	}
	p->io->at += (uint64_t)done;
	pending_start(p);
}

static void on_fsync(struct tevent_req *req)
{
	struct pending *p = tevent_req_callback_data(req, struct pending);
	struct vfs_aio_state state = {};
	int ret = SMB_VFS_FSYNC_RECV(req, &state);

	TALLOC_FREE(req);
	step("rsvd-flushed");
	pending_end(p, ret == 0 ? 0 : state.error != 0 ? -state.error : -EIO);
}

static void pending_start(struct pending *p)
{
	struct rsvd_store *s = p->s;
	struct store_io *io = p->io;
	struct tevent_req *req = NULL;

	if (s->fsp == NULL) {
		pending_later(p, -EIO);
		return;
	}
	switch (io->op) {
	case STORE_READ:
		if (io->at == io->length) {
			pending_end(p, 0);
			return;
		}
		req = SMB_VFS_PREAD_SEND(
			p, s->ev, s->fsp,
			(uint8_t *)io->buffer + io->at,
			(size_t)(io->length - io->at),
			(off_t)(io->offset + io->at));
		break;
	case STORE_WRITE:
		if (io->at == io->length) {
			pending_end(p, 0);
			return;
		}
		req = SMB_VFS_PWRITE_SEND(
			p, s->ev, s->fsp,
			(const uint8_t *)io->buffer + io->at,
			(size_t)(io->length - io->at),
			(off_t)(io->offset + io->at));
		break;
	case STORE_FLUSH:
		req = SMB_VFS_FSYNC_SEND(p, s->ev, s->fsp);
		break;
	case STORE_ZERO:
		pending_later(p, store_zero(&s->store, io->offset,
					    io->length));
		return;
	}
	if (req == NULL) {
		pending_later(p, -ENOMEM);
		return;
	}
	switch (io->op) {
	case STORE_READ:
		tevent_req_set_callback(req, on_read, p);
		break;
	case STORE_WRITE:
		tevent_req_set_callback(req, on_write, p);
		break;
	case STORE_FLUSH:
	case STORE_ZERO:
		tevent_req_set_callback(req, on_fsync, p);
		break;
	}
}

static void vfs_submit(struct store *store, struct store_io *io)
{
	struct pending *p = talloc_zero(NULL, struct pending);

	if (p == NULL) {
		smb_panic("hvrs: no memory for a request");
	}
	p->s = of(store);
	p->s->under_way++;
	p->io = io;
	io->at = 0;
	io->got = 0;
	if ((io->op == STORE_READ || io->op == STORE_WRITE) &&
	    io->length == 0) {
		pending_later(p, 0);
		return;
	}
	pending_start(p);
}

static const struct store_ops store_ops = {
	.name = "vfs",
	.read = vfs_read,
	.write = vfs_write,
	.flush = vfs_flush,
	.zero = vfs_zero,
	.size = vfs_size,
	.truncate = vfs_truncate,
	.identity = vfs_identity,
	.submit = vfs_submit,
};

static int store_destructor(struct rsvd_store *s)
{
	struct files_struct *fsp = s->fsp;

	DLIST_REMOVE(all_stores, s);
	s->fsp = NULL;
	if (fsp != NULL && s->internal) {
		fd_close(fsp);
		file_free(NULL, fsp);
	} else if (fsp != NULL) {
		close_file_free(NULL, &fsp, NORMAL_CLOSE);
	}
	fsp = s->guard;
	s->guard = NULL;
	if (fsp != NULL) {
		close_file_free(NULL, &fsp, NORMAL_CLOSE);
	}
	return 0;
}

void rsvd_store_closed(const struct files_struct *fsp)
{
	struct rsvd_store *s = NULL;

	for (s = all_stores; s != NULL; s = s->next) {
		if (s->fsp == fsp) {
			if (s->under_way > 0) {
				rsvd_store_abandon(&s->store);
			}
			s->fsp = NULL;
		}
		if (s->guard == fsp) {
			s->guard = NULL;
		}
	}
}

int rsvd_store_create(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
		      struct files_struct *fsp, bool internal,
		      struct store **_store)
{
	struct rsvd_store *s = talloc_zero(mem_ctx, struct rsvd_store);

	if (s == NULL) {
		return -ENOMEM;
	}
	s->store.ops = &store_ops;
	s->ev = ev;
	s->fsp = fsp;
	s->internal = internal;
	DLIST_ADD(all_stores, s);
	talloc_set_destructor(s, store_destructor);
	*_store = &s->store;
	return 0;
}

void rsvd_store_abandon(struct store *store)
{
	struct rsvd_store *s = of(store);

	/* A number that is closed now might soon name another file. */
	if (s->fsp != NULL) {
		fsp_set_fd(s->fsp, -1);
		s->fsp = NULL;
	}
}

void rsvd_store_guard(struct store *store, struct files_struct *guard)
{
	of(store)->guard = guard;
}

struct files_struct *rsvd_store_file(struct store *store)
{
	return of(store)->fsp;
}

int rsvd_store_clone(struct store *to, struct store *from, uint64_t offset,
		     uint64_t length)
{
	struct files_struct *target = rsvd_store_file(to);
	struct files_struct *source = rsvd_store_file(from);
	struct file_clone_range range = {
		.src_offset = offset, .src_length = length,
		.dest_offset = offset,
	};

	if (target == NULL || source == NULL) {
		return -EIO;
	}
	range.src_fd = fsp_get_io_fd(source);
	if (ioctl(fsp_get_io_fd(target), FICLONERANGE, &range) == 0) {
		return 0;
	}
	return errno == ENOSPC || errno == EDQUOT || errno == EIO ? -errno
								  : -ENOTSUP;
}
