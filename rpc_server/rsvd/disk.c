/*
 * The image behind a shared open: its file and its parents through the VFS as
 * the connected user, the engine on them, and a SCSI disk on the engine.
 */
#include "server.h"

#include "util/checked.h"

/* Page tables kept per open: every initiator has its own. */
#define CACHE_BYTES (4U << 20)

/* ---- parents ------------------------------------------------------------------------ */

struct find {
	struct rsvd_open *open;
	NTSTATUS status;	/* why a parent could not be had */
};

/*
 * A locator's relative path, from the folder of the child, as a path from the
 * share's root.  -ENOENT where it leaves the share; "." and ".." are taken
 * away here, so that nothing below has to mind them.
 */
static int parent_path(TALLOC_CTX *mem_ctx, const char *child,
		       const char *relative, char **_path)
{
	char *folder = talloc_strdup(mem_ctx, child);
	char *path = NULL;
	char *rest = NULL;
	char *part = NULL;
	char *slash = NULL;

	if (folder == NULL) {
		return -ENOMEM;
	}
	slash = strrchr(folder, '/');
	if (slash != NULL) {
		*slash = '\0';
	} else {
		*folder = '\0';
	}
	path = talloc_asprintf(mem_ctx, "%s/%s", folder, relative);
	if (path == NULL) {
		return -ENOMEM;
	}
	string_replace(path, '\\', '/');
	*_path = talloc_strdup(mem_ctx, "");
	for (part = strtok_r(path, "/", &rest); part != NULL && *_path != NULL;
	     part = strtok_r(NULL, "/", &rest)) {
		if (strcmp(part, ".") == 0) {
			continue;
		}
		if (strcmp(part, "..") != 0) {
			*_path = talloc_asprintf_append(
				*_path, "%s%s", **_path != '\0' ? "/" : "",
				part);
			continue;
		}
		if (**_path == '\0') {
			return -ENOENT;
		}
		slash = strrchr(*_path, '/');
		if (slash != NULL) {
			*slash = '\0';
		} else {
			**_path = '\0';
		}
	}
	return *_path != NULL ? 0 : -ENOMEM;
}

/* Opens a parent for reading, by the rights of the user, without any link. */
static NTSTATUS parent_open(struct rsvd_open *open, const char *path,
			    struct files_struct **_fsp)
{
	struct connection_struct *conn = open->handle->conn;
	struct files_struct *dirfsp = NULL;
	struct smb_filename *smb_fname = NULL;
	struct smb_filename *relative = NULL;
	struct reparse_data_buffer *symlink = NULL;
	NTSTATUS status = filename_convert_dirfsp_nosymlink(
		talloc_tos(), conn, conn->cwd_fsp, path, 0, 0, &dirfsp,
		&smb_fname, &relative, &symlink);

	TALLOC_FREE(relative);
	TALLOC_FREE(symlink);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (!S_ISREG(smb_fname->st.st_ex_mode) ||
	    is_named_stream(smb_fname)) {
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	/* Others may read it too, nobody may write to it. */
	return SMB_VFS_CREATE_FILE(
		conn, NULL, dirfsp, smb_fname,
		FILE_READ_DATA | FILE_READ_ATTRIBUTES, FILE_SHARE_READ,
		FILE_OPEN, FILE_NON_DIRECTORY_FILE, 0, 0, NULL, 0, 0, NULL,
		NULL, _fsp, NULL, NULL, NULL);
}

static int find_parent(TALLOC_CTX *mem_ctx, void *private_data,
		       const char *child_path, const char *key,
		       const char *value, struct store **_store,
		       const char **_path)
{
	struct find *find = private_data;
	struct files_struct *fsp = NULL;
	char *path = NULL;
	int ret = 0;

	/* Paths of another machine's volumes mean nothing here. */
	if (strcmp(key, "relative_path") != 0) {
		return -ENOENT;
	}
	ret = parent_path(mem_ctx, child_path, value, &path);
	if (ret != 0) {
		return ret;
	}
	find->status = parent_open(find->open, path, &fsp);
	if (!NT_STATUS_IS_OK(find->status)) {
		return NT_STATUS_EQUAL(find->status,
				       NT_STATUS_ACCESS_DENIED) ?
			-EACCES : -ENOENT;
	}
	ret = rsvd_store_create(mem_ctx, find->open->ev, fsp, false, _store);
	if (ret != 0) {
		close_file_free(NULL, &fsp, NORMAL_CLOSE);
		return ret;
	}
	*_path = path;
	return 0;
}

static const struct vhdx_chain_ops chain_ops = { .find = find_parent };

/* ---- the open ------------------------------------------------------------------------- */

/* The same file again, for reading and writing, whatever the client asked. */
static NTSTATUS leaf_open(struct rsvd_open *open)
{
	struct files_struct *fsp = open->fsp;
	struct files_struct *own = NULL;
	struct vfs_open_how how = { .flags = O_RDWR | O_NONBLOCK };
	NTSTATUS status = NT_STATUS_OK;
	int fd = dup(fsp_get_pathref_fd(fsp));
	int ret = 0;

	if (fd == -1) {
		return map_nt_error_from_unix(errno);
	}
	status = create_internal_fsp(fsp->conn, fsp->fsp_name, &own);
	if (!NT_STATUS_IS_OK(status)) {
		close(fd);
		return status;
	}
	own->fsp_flags.is_pathref = true;
	own->fsp_flags.have_proc_fds = fsp->fsp_flags.have_proc_fds;
	own->file_id = fsp->file_id;
	fsp_set_fd(own, fd);
	status = reopen_from_fsp(fsp->conn->cwd_fsp, own->fsp_name, own, &how,
				 NULL);
	if (!NT_STATUS_IS_OK(status)) {
		file_free(NULL, own);
		return status;
	}
	own->access_mask = FILE_READ_DATA | FILE_WRITE_DATA;
	own->fsp_flags.can_read = true;
	own->fsp_flags.can_write = true;
	ret = rsvd_store_create(open, open->ev, own, true, &open->leaf);
	if (ret != 0) {
		fd_close(own);
		file_free(NULL, own);
		return NT_STATUS_NO_MEMORY;
	}
	return NT_STATUS_OK;
}

static NTSTATUS status_of(int error, const struct find *find)
{
	switch (error) {
	case -ENOMEM:
		return NT_STATUS_NO_MEMORY;
	case -EBADMSG:
		return NT_STATUS(0xC0000102);	/* FILE_CORRUPT_ERROR */
	case -ENOTSUP:
	case -EFBIG:
		return NT_STATUS(0xC03A001A);	/* VIRTUAL_DISK_LIMITATION */
	case -EACCES:
		return NT_STATUS(0xC03A0016);	/* parent access denied */
	case -ENOENT:
	case -ESTALE:
		(void)find;
		return NT_STATUS(0xC03A0019);	/* error in parent */
	case -ELOOP:
		return NT_STATUS(0xC03A0018);	/* chain cycle */
	case -EINVAL:
		return NT_STATUS(0xC03A001C);	/* invalid state */
	case -ENOSPC:
		return NT_STATUS_DISK_FULL;
	case -EROFS:
		return NT_STATUS_MEDIA_WRITE_PROTECTED;
	}
	return map_nt_error_from_unix(-error);
}

/* ---- a SCSI disk --------------------------------------------------------------------- */

struct step {
	struct rsvd_open *open;
	struct scsi_io *io;
	uint8_t *buffer;	/* the ends of an UNMAP */
	uint64_t at;
	uint64_t end;
	uint64_t length;
};

static void step_end(struct step *step, int error)
{
	struct scsi_io *io = step->io;

	talloc_free(step);
	io->done(io, error);
}

static void on_transfer(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	int error = 0;

	switch (step->io->op) {
	case SCSI_IO_READ:
		error = vhdx_read_recv(req);
		break;
	case SCSI_IO_WRITE:
		error = vhdx_write_recv(req);
		break;
	default:
		error = vhdx_flush_recv(req);
		break;
	}
	TALLOC_FREE(req);
	step_end(step, error);
}

static void on_settled(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	struct scsi_io *io = step->io;
	struct vhdx_extent extent = {};
	int error = vhdx_settle_recv(req);

	TALLOC_FREE(req);
	if (error == 0) {
		error = vhdx_map(step->open->disk, io->offset, io->length,
				 &extent);
	}
	if (error == -EBUSY) {
		/* Others are at it: "mapped" is never wrong to say. */
		extent.kind = VHDX_EXTENT_DATA;
		extent.length = io->length;
		error = 0;
	}
	io->mapped = extent.kind == VHDX_EXTENT_DATA;
	io->length = extent.length;
	step_end(step, error);
}

static void on_later(struct tevent_context *ev, struct tevent_timer *timer,
		     struct timeval now, void *private_data)
{
	struct step *step = private_data;
	int error = 0;

	(void)ev;
	(void)timer;
	(void)now;
	if (step->io->op == SCSI_IO_EXCLUSIVE) {
		error = rsvd_fence_exclusive(step->open->fence);
		if (error == -EAGAIN &&
		    tevent_add_timer(step->open->ev, step,
				     timeval_current_ofs_usec(500), on_later,
				     step) != NULL) {
			return;
		}
	}
	if (step->io->op == SCSI_IO_RELEASE) {
		rsvd_fence_release(step->open->fence);
	}
	step_end(step, error);
}

/* ---- UNMAP: whole blocks are freed, the rest is written with zeroes ---------------------- */

static void unmap_ends(struct step *step);

static void on_unmapped(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	int error = vhdx_unmap_recv(req);

	TALLOC_FREE(req);
	step_end(step, error);
}

static void on_zeroed(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	int error = vhdx_write_recv(req);

	TALLOC_FREE(req);
	if (error != 0) {
		step_end(step, error);
		return;
	}
	step->at += step->length;
	unmap_ends(step);
}

static void on_end_read(struct tevent_req *req)
{
	struct step *step = tevent_req_callback_data(req, struct step);
	int error = vhdx_read_recv(req);

	TALLOC_FREE(req);
	if (error != 0) {
		step_end(step, error);
		return;
	}
	/* What reads as zero already needs no block. */
	if (all_zero(step->buffer, step->length)) {
		step->at += step->length;
		unmap_ends(step);
		return;
	}
	memset(step->buffer, 0, step->length);
	req = vhdx_write_send(step, step->open->ev, step->open->disk,
			      step->buffer, step->at, step->length,
			      step->io->through);
	if (req == NULL) {
		step_end(step, -ENOMEM);
		return;
	}
	tevent_req_set_callback(req, on_zeroed, step);
}

static void unmap_ends(struct step *step)
{
	struct scsi_io *io = step->io;
	struct vhdx_info info = {};
	struct tevent_req *req = NULL;
	uint64_t first = 0;
	uint64_t last = 0;

	vhdx_info_get(step->open->disk, &info);
	/* The blocks that lie in the range as a whole. */
	first = (io->offset + info.block_size - 1) / info.block_size *
		info.block_size;
	last = step->end == info.size ? step->end :
		step->end / info.block_size * info.block_size;
	if (first >= last) {
		first = last = step->end;
	}
	if (step->at == first) {
		step->at = last;
	}
	if (step->at < step->end) {
		step->length = (step->at < first ? first : step->end) -
			step->at;
		step->length = MIN(step->length, 1U << 20);
		req = vhdx_read_send(step, step->open->ev, step->open->disk,
				     step->buffer, step->at, step->length);
		if (req == NULL) {
			step_end(step, -ENOMEM);
			return;
		}
		tevent_req_set_callback(req, on_end_read, step);
		return;
	}
	req = vhdx_unmap_send(step, step->open->ev, step->open->disk,
			      io->offset, io->length);
	if (req == NULL) {
		step_end(step, -ENOMEM);
		return;
	}
	tevent_req_set_callback(req, on_unmapped, step);
}

static bool start_unmap(struct step *step)
{
	if (!step->open->scsi.geometry.unmapped_zero) {
		return false;
	}
	step->buffer = talloc_size(step, 1U << 20);
	if (step->buffer == NULL) {
		return false;
	}
	step->at = step->io->offset;
	step->end = step->io->offset + step->io->length;
	unmap_ends(step);
	return true;
}

static void disk_submit(struct scsi_disk *scsi, struct scsi_io *io)
{
	struct rsvd_open *open = scsi->private_data;
	struct step *step = talloc_zero(NULL, struct step);
	struct tevent_req *req = NULL;

	if (step == NULL) {
		smb_panic("hvrs: no memory for a request");
	}
	step->open = open;
	step->io = io;
	switch (io->op) {
	case SCSI_IO_READ:
		req = vhdx_read_send(step, open->ev, open->disk, io->buffer,
				     io->offset, io->length);
		break;
	case SCSI_IO_WRITE:
		req = vhdx_write_send(step, open->ev, open->disk, io->buffer,
				      io->offset, io->length, io->through);
		break;
	case SCSI_IO_FLUSH:
		req = vhdx_flush_send(step, open->ev, open->disk);
		break;
	case SCSI_IO_STATUS:
		req = vhdx_settle_send(step, open->ev, open->disk);
		break;
	case SCSI_IO_UNMAP:
		if (start_unmap(step)) {
			return;
		}
		break;
	case SCSI_IO_EXCLUSIVE:
	case SCSI_IO_RELEASE:
		break;
	}
	if (req != NULL) {
		tevent_req_set_callback(req, io->op == SCSI_IO_STATUS ?
					on_settled : on_transfer, step);
		return;
	}
	if (tevent_add_timer(open->ev, step, timeval_zero(), on_later,
			     step) == NULL) {
		smb_panic("hvrs: no memory for a request");
	}
}

/* ---- the door ----------------------------------------------------------------------------- */

void rsvd_disk_refresh(struct rsvd_open *open)
{
	struct scsi_geometry *g = &open->scsi.geometry;
	struct vhdx_info info = {};

	vhdx_info_get(open->disk, &info);
	g->blocks = info.size / info.logical_sector;
	g->block_size = info.logical_sector;
	g->physical_size = info.physical_sector;
	g->thin = info.type != VHDX_FIXED;
	g->unmapped_zero = g->thin;
	g->unmap_granularity = g->thin ?
		info.block_size / info.logical_sector : 1;
	g->disk_id = info.disk_id;
	g->compare_and_write = true;
}

static bool is_vhdx(struct rsvd_open *open)
{
	uint8_t magic[8] = {};
	int ret = store_read(open->leaf, magic, sizeof(magic), 0);

	return ret == 0 && memcmp(magic, "vhdxfile", 8) == 0;
}

NTSTATUS rsvd_disk_open(struct rsvd_open *open, const char *share_path)
{
	struct vhdx_open how = {
		.writable = true, .cache_bytes = CACHE_BYTES,
	};
	struct find find = { .open = open };
	const char *why = "";
	NTSTATUS status = leaf_open(open);
	int ret = 0;

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (!is_vhdx(open)) {
		return NT_STATUS(RSVD_STATUS_WRONG_TYPE);
	}
	become_root();
	ret = vhdx_share_file_open(open, open->ev, share_path, &open->share);
	unbecome_root();
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: %s cannot be used: %s\n",
			open->path, share_path, strerror(-ret));
		return map_nt_error_from_unix(-ret);
	}
	how.share = open->share;
	ret = vhdx_chain_open(open, &chain_ops, &find, open->leaf,
			      open->fsp->fsp_name->base_name, &how,
			      &open->disk, &why);
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s cannot be opened: %s%s%s\n",
			open->path, strerror(-ret),
			why != NULL && *why != '\0' ? ": " : "",
			why != NULL ? why : "");
		open->disk = NULL;
		return status_of(ret, &find);
	}
	open->scsi.submit = disk_submit;
	open->scsi.private_data = open;
	open->scsi.geometry.write_cache = !open->through;
	rsvd_disk_refresh(open);
	return NT_STATUS_OK;
}

void rsvd_disk_close(struct rsvd_open *open)
{
	int ret = 0;

	if (open->disk != NULL) {
		ret = vhdx_close(open->disk);
		if (ret != 0) {
			DBG_WARNING("hvrs: shared disk %s: the close left its "
				    "log to the next open: %s\n", open->path,
				    strerror(-ret));
		}
		open->disk = NULL;
	}
	TALLOC_FREE(open->share);
	if (open->leaf != NULL) {
		talloc_free(open->leaf);
		open->leaf = NULL;
	}
}
