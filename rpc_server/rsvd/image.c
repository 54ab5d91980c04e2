/*
 * The image behind a shared open: its file and its parents through the VFS as
 * the connected user, and the engine on them.
 */
#include "server.h"

/* Page tables kept per open: every initiator has its own. */
#define CACHE_BYTES (4U << 20)

static struct rsvd_image *all_images;

NTSTATUS rsvd_status_of(int error)
{
	switch (error) {
	case 0:
		return NT_STATUS_OK;
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

/* ---- parents ------------------------------------------------------------------------ */

static int find_parent(TALLOC_CTX *mem_ctx, void *private_data,
		       const char *child_path, const char *key,
		       const char *value, struct store **_store,
		       const char **_path)
{
	struct rsvd_open *open = private_data;
	NTSTATUS status = NT_STATUS_OK;
	char *path = NULL;
	int ret = 0;

	/* Paths of another machine's volumes mean nothing here. */
	if (strcmp(key, "relative_path") != 0) {
		return -ENOENT;
	}
	ret = rsvd_file_parent_path(mem_ctx, child_path, value, &path);
	if (ret != 0) {
		return ret;
	}
	/* Others may read it too, nobody may write to it. */
	status = rsvd_file_open(mem_ctx, open, path, RSVD_FILE_READ, _store);
	if (!NT_STATUS_IS_OK(status)) {
		return NT_STATUS_EQUAL(status, NT_STATUS_ACCESS_DENIED) ?
			-EACCES : -ENOENT;
	}
	*_path = path;
	return 0;
}

static const struct vhdx_chain_ops chain_ops = { .find = find_parent };

static NTSTATUS chain_open(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			   struct store *leaf, const char *path,
			   struct vhdx_share *share, bool writable,
			   struct vhdx **_disk)
{
	struct vhdx_open how = {
		.writable = writable, .cache_bytes = CACHE_BYTES,
		.share = share,
	};
	const char *why = "";
	int ret = vhdx_chain_open(mem_ctx, &chain_ops, open, leaf, path, &how,
				  _disk, &why);

	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: %s cannot be opened: %s%s%s\n",
			open->path, path, strerror(-ret),
			why != NULL && *why != '\0' ? ": " : "",
			why != NULL ? why : "");
	}
	return rsvd_status_of(ret);
}

NTSTATUS rsvd_image_chain(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			  const char *path, bool writable,
			  struct vhdx_share *share, struct store **_leaf,
			  struct vhdx **_disk)
{
	NTSTATUS status = rsvd_file_open(mem_ctx, open, path, writable ?
					 RSVD_FILE_WRITE : RSVD_FILE_READ,
					 _leaf);

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = chain_open(mem_ctx, open, *_leaf, path, share, writable,
			    _disk);
	if (!NT_STATUS_IS_OK(status)) {
		TALLOC_FREE(*_leaf);
	}
	return status;
}

NTSTATUS rsvd_image_chain_of(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			     struct store *leaf, const char *path,
			     bool writable, struct vhdx **_disk)
{
	return chain_open(mem_ctx, open, leaf, path, NULL, writable, _disk);
}

NTSTATUS rsvd_image_alone(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			  const char *path, bool writable,
			  struct store **_store, struct vhdx **_disk)
{
	struct vhdx_open how = {
		.writable = writable, .cache_bytes = CACHE_BYTES,
		.without_parent = true,
	};
	NTSTATUS status = rsvd_file_open(mem_ctx, open, path, writable ?
					 RSVD_FILE_WRITE : RSVD_FILE_READ,
					 _store);
	int ret = 0;

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	ret = vhdx_open(mem_ctx, *_store, &how, _disk, NULL);
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: %s cannot be opened: %s\n",
			open->path, path, strerror(-ret));
		TALLOC_FREE(*_store);
	}
	return rsvd_status_of(ret);
}

/* ---- opening ---------------------------------------------------------------------------- */

static bool is_vhdx(struct store *leaf)
{
	uint8_t magic[8] = {};
	int ret = store_read(leaf, magic, sizeof(magic), 0);

	return ret == 0 && memcmp(magic, "vhdxfile", 8) == 0;
}

/* Which file of the set this open has. */
static NTSTATUS set_file(struct rsvd_open *open, struct rsvd_image *image)
{
	const struct vhdset_snapshot *snapshot = NULL;
	struct vhdset_info info = {};
	struct rsvd_set *set = NULL;
	NTSTATUS status = rsvd_set_open(image, open, false, &set);
	int ret = 0;

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	vhdset_info_get(set->set, &info);
	strlcpy(image->file, info.leaf, sizeof(image->file));
	if (rsvd_open_is_snapshot(open)) {
		ret = vhdset_snapshot_find(set->set, &open->snapshot,
					   &snapshot);
		if (ret == 0 && snapshot->file[0] == '\0') {
			ret = -ENOENT;	/* a reference point: no data */
		}
		if (ret == 0) {
			strlcpy(image->file, snapshot->file,
				sizeof(image->file));
		}
	}
	TALLOC_FREE(set);
	if (ret == -ENOENT) {
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	return rsvd_status_of(ret);
}

static NTSTATUS share_open(struct rsvd_open *open, struct rsvd_image *image)
{
	struct files_struct *fsp = rsvd_store_file(image->leaf);
	char *path = rsvd_shared_path(talloc_tos(), &fsp->file_id, "disk");
	int ret = -ENOMEM;

	if (path != NULL) {
		become_root();
		ret = rsvd_shared_is_apart() ?
			vhdx_share_apart_open(image, open->ev, path,
					      &image->share) :
			vhdx_share_file_open(image, open->ev, path,
					     &image->share);
		unbecome_root();
	}
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: %s cannot be used: %s\n",
			open->path, path != NULL ? path : "", strerror(-ret));
	}
	TALLOC_FREE(path);
	return ret == 0 ? NT_STATUS_OK : map_nt_error_from_unix(-ret);
}

static NTSTATUS image_files(struct rsvd_open *open, struct rsvd_image *image)
{
	bool reads = rsvd_open_is_snapshot(open);
	const char *path = open->fsp->fsp_name->base_name;
	NTSTATUS status = NT_STATUS_OK;

	if (open->is_set) {
		status = set_file(open, image);
		if (!NT_STATUS_IS_OK(status)) {
			return status;
		}
		path = rsvd_file_beside(image, open, image->file);
		if (path == NULL) {
			return NT_STATUS_NO_MEMORY;
		}
		status = rsvd_file_open(image, open, path, reads ?
					RSVD_FILE_READ : RSVD_FILE_WRITE,
					&image->leaf);
		if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
			/* VHDSET_BACKING_STORAGE_NOT_FOUND */
			status = NT_STATUS(0xC05CFF0C);
		}
	} else {
		status = rsvd_file_reopen(image, open->ev, open->fsp, true,
					  &image->leaf);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (!is_vhdx(image->leaf)) {
		return NT_STATUS(RSVD_STATUS_WRONG_TYPE);
	}
	if (!reads) {
		status = share_open(open, image);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = rsvd_changes_open(open, image);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	return chain_open(image, open, image->leaf, path, image->share, !reads,
			  &image->disk);
}

static int image_destructor(struct rsvd_image *image)
{
	DLIST_REMOVE(all_images, image);
	return 0;
}

NTSTATUS rsvd_image_open(struct rsvd_open *open, uint64_t epoch,
			 struct rsvd_image **_image)
{
	/* Its requests may outlive the open. */
	struct rsvd_image *image = talloc_zero(NULL, struct rsvd_image);
	NTSTATUS status = NT_STATUS_OK;

	if (image == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	image->open = open;
	image->ev = open->ev;
	image->epoch = epoch;
	DLIST_ADD(all_images, image);
	talloc_set_destructor(image, image_destructor);
	image->path = talloc_strdup(image, open->path);
	status = image->path != NULL ? image_files(open, image)
				     : NT_STATUS_NO_MEMORY;
	if (!NT_STATUS_IS_OK(status)) {
		talloc_free(image);
		return status;
	}
	*_image = image;
	return NT_STATUS_OK;
}

/* ---- closing ------------------------------------------------------------------------------ */

static void image_close(struct rsvd_image *image)
{
	int ret = 0;

	if (image->disk != NULL) {
		ret = vhdx_close(image->disk);
		if (ret != 0 && image->share != NULL) {
			DBG_WARNING("hvrs: shared disk %s: the close left its "
				    "log to the next open: %s\n", image->path,
				    strerror(-ret));
		}
		image->disk = NULL;
	}
	talloc_free(image);
}

static void on_settled(struct tevent_req *req)
{
	struct rsvd_image *image = tevent_req_callback_data(
		req, struct rsvd_image);

	(void)vhdx_settle_recv(req);
	TALLOC_FREE(req);
	image_close(image);
}

static void on_idle(struct tevent_context *ev, struct tevent_immediate *im,
		    void *private_data)
{
	struct rsvd_image *image = private_data;
	struct tevent_req *req = NULL;

	(void)im;
	if (image->refs > 0) {
		image->closing = false;
		return;
	}
	req = vhdx_settle_send(image, ev, image->disk);
	if (req == NULL) {
		image_close(image);
		return;
	}
	tevent_req_set_callback(req, on_settled, image);
}

/* Not from inside the engine, which may be calling back. */
static void close_when_idle(struct rsvd_image *image)
{
	struct tevent_immediate *im = NULL;

	if (!image->retired || image->refs > 0 || image->closing) {
		return;
	}
	image->closing = true;
	im = tevent_create_immediate(image);
	if (im == NULL) {
		smb_panic("hvrs: no memory for the end of an image");
	}
	tevent_schedule_immediate(im, image->ev, on_idle, image);
}

void rsvd_image_get(struct rsvd_image *image)
{
	image->refs++;
}

void rsvd_image_put(struct rsvd_image *image)
{
	image->refs--;
	close_when_idle(image);
}

void rsvd_image_use(struct rsvd_open *open, struct rsvd_image *image)
{
	struct rsvd_image *old = open->image;

	open->image = image;
	if (old != NULL) {
		old->retired = true;
		close_when_idle(old);
	}
	rsvd_disk_setup(open);
}

NTSTATUS rsvd_image_refresh(struct rsvd_open *open, uint64_t epoch)
{
	struct rsvd_image *image = NULL;
	NTSTATUS status = NT_STATUS_OK;

	if (open->image->epoch == epoch || rsvd_open_is_snapshot(open)) {
		return NT_STATUS_OK;
	}
	status = rsvd_image_open(open, epoch, &image);
	if (NT_STATUS_IS_OK(status)) {
		rsvd_image_use(open, image);
	}
	return status;
}

void rsvd_image_close_all(struct rsvd_open *open)
{
	struct rsvd_image *image = NULL;
	struct rsvd_image *next = NULL;

	for (image = all_images; image != NULL; image = next) {
		next = image->next;
		if (image->open != open) {
			continue;
		}
		if (image == open->image) {
			open->image = NULL;
			image_close(image);
		} else {
			/* It ends by itself. */
			image->open = NULL;
		}
	}
}

void rsvd_image_abandon_all(struct rsvd_open *open)
{
	struct rsvd_image *image = NULL;

	for (image = all_images; image != NULL; image = image->next) {
		if (image->open == open && image->leaf != NULL) {
			rsvd_store_abandon(image->leaf);
		}
	}
}
