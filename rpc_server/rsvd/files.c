/*
 * Files beside the one that the client opened: parents, leaves of a set, its
 * catalogue.  All through the VFS, by the rights of the user who is in force.
 */
#include "server.h"

/* A name, looked up without following any link. */
struct place {
	struct files_struct *dirfsp;
	struct smb_filename *full;
	struct smb_filename *relative;
};

static NTSTATUS place_find(struct rsvd_open *open, const char *path,
			   struct place *_place)
{
	struct connection_struct *conn = open->handle->conn;
	NTSTATUS status = series_convert_plain(
		talloc_tos(), conn, path, &_place->dirfsp, &_place->full,
		&_place->relative);

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if ((VALID_STAT(_place->full->st) &&
	     !S_ISREG(_place->full->st.st_ex_mode)) ||
	    is_named_stream(_place->full)) {
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	return NT_STATUS_OK;
}

char *rsvd_path_beside(TALLOC_CTX *mem_ctx, const char *path,
		       const char *name)
{
	const char *slash = strrchr(path, '/');

	if (slash == NULL) {
		return talloc_strdup(mem_ctx, name);
	}
	return talloc_asprintf(mem_ctx, "%.*s/%s", (int)(slash - path), path,
			       name);
}

char *rsvd_file_beside(TALLOC_CTX *mem_ctx, const struct rsvd_open *open,
		       const char *name)
{
	return rsvd_path_beside(mem_ctx, open->fsp->fsp_name->base_name, name);
}

/*
 * "." and ".." are taken away here, so that nothing below has to mind them.
 */
int rsvd_file_parent_path(TALLOC_CTX *mem_ctx, const char *child,
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

NTSTATUS rsvd_file_reopen(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
			  struct files_struct *fsp, bool writable,
			  struct store **_store)
{
	struct files_struct *own = NULL;
	struct vfs_open_how how = {
		.flags = (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK,
	};
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
	status = series_reopen(own, &how);
	if (!NT_STATUS_IS_OK(status)) {
		file_free(NULL, own);
		return status;
	}
	own->access_mask = FILE_READ_DATA | (writable ? FILE_WRITE_DATA : 0);
	own->fsp_flags.can_read = true;
	own->fsp_flags.can_write = writable;
	ret = rsvd_store_create(mem_ctx, ev, own, true, _store);
	if (ret != 0) {
		fd_close(own);
		file_free(NULL, own);
		return NT_STATUS_NO_MEMORY;
	}
	return NT_STATUS_OK;
}

static NTSTATUS create(struct rsvd_open *open, const struct place *place,
		       enum rsvd_file_mode mode, struct files_struct **_fsp)
{
	uint32_t access = FILE_READ_DATA | FILE_READ_ATTRIBUTES;
	uint32_t sharing = FILE_SHARE_READ;
	uint32_t disposition = FILE_OPEN;

	if (mode == RSVD_FILE_CREATE) {
		access |= FILE_WRITE_DATA;
		sharing = FILE_SHARE_NONE;
		disposition = FILE_CREATE;
	} else if (mode == RSVD_FILE_LOOK) {
		sharing |= FILE_SHARE_WRITE;
	} else if (mode == RSVD_FILE_ALONE) {
		sharing = FILE_SHARE_NONE;
	} else if (mode == RSVD_FILE_SHARED || mode == RSVD_FILE_PRESENT) {
		access |= FILE_WRITE_DATA;
		sharing = FILE_SHARE_READ | FILE_SHARE_WRITE;
		disposition = mode == RSVD_FILE_SHARED ? FILE_OPEN_IF
						       : FILE_OPEN;
	}
	return SMB_VFS_CREATE_FILE(
		open->handle->conn, NULL, place->dirfsp, place->full, access,
		sharing, disposition, FILE_NON_DIRECTORY_FILE, 0, 0, NULL, 0,
		0, NULL, NULL, _fsp, NULL, NULL, NULL);
}

NTSTATUS rsvd_file_open(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			const char *path, enum rsvd_file_mode mode,
			struct store **_store)
{
	struct files_struct *fsp = NULL;
	struct place place = {};
	NTSTATUS status = place_find(open, path, &place);
	int ret = 0;

	if (NT_STATUS_IS_OK(status)) {
		status = create(open, &place, mode, &fsp);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (mode == RSVD_FILE_WRITE) {
		status = rsvd_file_reopen(mem_ctx, open->ev, fsp, true,
					  _store);
		if (NT_STATUS_IS_OK(status)) {
			rsvd_store_guard(*_store, fsp);
			return status;
		}
	} else {
		ret = rsvd_store_create(mem_ctx, open->ev, fsp, false, _store);
		if (ret == 0) {
			return NT_STATUS_OK;
		}
		status = NT_STATUS_NO_MEMORY;
	}
	close_file_free(NULL, &fsp, NORMAL_CLOSE);
	return status;
}

/* ---- names ---------------------------------------------------------------------- */

NTSTATUS rsvd_file_remove(struct rsvd_open *open, const char *path)
{
	struct place place = {};
	NTSTATUS status = place_find(open, path, &place);

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (!VALID_STAT(place.full->st)) {
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	if (SMB_VFS_UNLINKAT(open->handle->conn, place.dirfsp, place.relative,
			     0) != 0) {
		return map_nt_error_from_unix(errno);
	}
	return NT_STATUS_OK;
}

enum two_names {
	NAMES_LINK,
	NAMES_RENAME,
	NAMES_REPLACE,
};

static NTSTATUS two_names(struct rsvd_open *open, const char *from,
			  const char *to, enum two_names what)
{
	struct connection_struct *conn = open->handle->conn;
	struct place a = {};
	struct place b = {};
	NTSTATUS status = place_find(open, from, &a);
	int ret = 0;

	if (NT_STATUS_IS_OK(status)) {
		status = place_find(open, to, &b);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (VALID_STAT(b.full->st) && what != NAMES_REPLACE) {
		return NT_STATUS_OBJECT_NAME_COLLISION;
	}
	if (what == NAMES_LINK) {
		ret = SMB_VFS_LINKAT(conn, a.dirfsp, a.relative, b.dirfsp,
				     b.relative, 0);
	} else {
		ret = series_renameat(conn, a.dirfsp, a.relative, b.dirfsp,
				      b.relative);
	}
	return ret == 0 ? NT_STATUS_OK : map_nt_error_from_unix(errno);
}

NTSTATUS rsvd_file_rename(struct rsvd_open *open, const char *from,
			  const char *to)
{
	return two_names(open, from, to, NAMES_RENAME);
}

NTSTATUS rsvd_file_replace(struct rsvd_open *open, const char *from,
			   const char *to)
{
	return two_names(open, from, to, NAMES_REPLACE);
}

NTSTATUS rsvd_file_link(struct rsvd_open *open, const char *from,
			const char *to)
{
	return two_names(open, from, to, NAMES_LINK);
}

NTSTATUS rsvd_file_is(struct rsvd_open *open, const char *path,
		      struct store *store, bool *_is)
{
	struct files_struct *fsp = rsvd_store_file(store);
	struct place place = {};
	struct file_id id = {};
	NTSTATUS status = place_find(open, path, &place);

	*_is = false;
	if (!NT_STATUS_IS_OK(status) || fsp == NULL ||
	    !VALID_STAT(place.full->st)) {
		return status;
	}
	id = vfs_file_id_from_sbuf(open->handle->conn, &place.full->st);
	*_is = file_id_equal(&id, &fsp->file_id);
	return NT_STATUS_OK;
}

#define RIGHTS (SECINFO_OWNER | SECINFO_GROUP | SECINFO_DACL)

NTSTATUS rsvd_file_rights_copy(struct store *to, struct store *from)
{
	struct files_struct *new = rsvd_store_file(to);
	struct files_struct *old = rsvd_store_file(from);
	struct security_descriptor *sd = NULL;
	NTSTATUS status = NT_STATUS_FILE_CLOSED;

	if (new == NULL || old == NULL) {
		return status;
	}
	/* Its owner is whoever made the old one. */
	become_root();
	status = SMB_VFS_FGET_NT_ACL(metadata_fsp(old), RIGHTS, talloc_tos(),
				     &sd);
	if (NT_STATUS_IS_OK(status)) {
		status = SMB_VFS_FSET_NT_ACL(metadata_fsp(new), RIGHTS, sd);
	}
	unbecome_root();
	TALLOC_FREE(sd);
	return status;
}

static int folder_open(const char *path)
{
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int rsvd_file_folder_open(const struct rsvd_open *open, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder = talloc_asprintf(talloc_tos(), "%s/%.*s",
				       open->handle->conn->connectpath,
				       slash != NULL ? (int)(slash - path) : 0,
				       path);
	int fd = -1;

	if (folder == NULL) {
		errno = ENOMEM;
		return -1;
	}
	fd = folder_open(folder);
	TALLOC_FREE(folder);
	return fd;
}

NTSTATUS rsvd_file_folder_flush(struct rsvd_open *open, const char *path)
{
	int fd = -1;
	int error = 0;

	/* The VFS has no call that makes a folder's names stable. */
	become_root();
	fd = rsvd_file_folder_open(open, path);
	error = fd < 0 || fsync(fd) != 0 ? errno : 0;
	if (fd >= 0) {
		close(fd);
	}
	unbecome_root();
	return error == 0 || error == EINVAL ? NT_STATUS_OK
					     : map_nt_error_from_unix(error);
}
