/*
 * The end of a set, MS-RSVD 3.2.5.2: an EXTRACT that deletes on close leaves
 * it to smbd to take the set's name away, when nobody has it open any more.
 * Its files go with the name.
 *
 * They are noted before; the name's end is the commit.  What a crash leaves
 * after it goes when somebody looks for the set again.
 */
#include "server.h"
#include "step.h"

static const char *last_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

/* By the rights of who is in force. */
static void files_remove(struct rsvd_open *open, const char *path,
			 char *const *files)
{
	NTSTATUS status = NT_STATUS_OK;
	char *file = NULL;

	for (; *files != NULL && NT_STATUS_IS_OK(status); files++) {
		file = rsvd_path_beside(talloc_tos(), path, *files);
		status = file != NULL ? rsvd_file_remove(open, file)
				      : NT_STATUS_NO_MEMORY;
		if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
			status = NT_STATUS_OK;
		}
		TALLOC_FREE(file);
		step("erase-file");
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_folder_flush(open, path);
	}
	if (!NT_STATUS_IS_OK(status)) {
		DBG_ERR("hvrs: shared disk %s: it is deleted, but not all of "
			"its files are: %s\n", open->path, nt_errstr(status));
	}
}

void rsvd_erase_rest(struct rsvd_open *open, const char *path)
{
	TALLOC_CTX *frame = talloc_stackframe();
	char **files = NULL;
	int folder = -1;
	int ret = -1;

	become_root();
	folder = rsvd_file_folder_open(open, path);
	if (folder >= 0) {
		ret = vhdset_files_rest(frame, folder, last_of(path), &files);
		close(folder);
	}
	unbecome_root();
	if (ret == 0) {
		files_remove(open, path, files);
	}
	TALLOC_FREE(frame);
}

static int erase(struct rsvd_open *open, struct vfs_handle_struct *handle,
		 struct files_struct *dirfsp,
		 const struct smb_filename *smb_fname)
{
	TALLOC_CTX *frame = talloc_stackframe();
	const char *path = open->fsp->fsp_name->base_name;
	char **files = NULL;
	size_t parts = 0;
	int folder = -1;
	int ret = 0;

	/* Who is made on what is nothing that share modes should hide. */
	become_root();
	folder = rsvd_file_folder_open(open, path);
	ret = folder >= 0 ? vhdset_files(frame, folder, last_of(path), &files,
					 &parts) : -errno;
	unbecome_root();
	if (ret == 0) {
		ret = vhdset_files_note(folder, last_of(path), files, parts);
	}
	if (folder >= 0) {
		close(folder);
	}
	if (ret != 0) {
		DBG_ERR("hvrs: shared disk %s: it is not deleted, as it cannot "
			"be told what its files are: %s\n", open->path,
			strerror(-ret));
		TALLOC_FREE(frame);
		errno = -ret;
		return -1;
	}
	step("erase-noted");
	ret = SMB_VFS_NEXT_UNLINKAT(handle, dirfsp, smb_fname, 0);
	if (ret == 0) {
		(void)rsvd_file_folder_flush(open, path);
		step("erase-gone");
		files_remove(open, path, files);
	}
	TALLOC_FREE(frame);
	return ret;
}

bool rsvd_erase_unlink(struct vfs_handle_struct *handle,
		       struct files_struct *dirfsp,
		       const struct smb_filename *smb_fname, int *_ret)
{
	struct rsvd_open *open = NULL;
	SMB_STRUCT_STAT st = {};
	struct file_id id = {};

	if (!vhdset_is_name(smb_fname->base_name) ||
	    SMB_VFS_FSTATAT(handle->conn, dirfsp, smb_fname, &st,
			    AT_SYMLINK_NOFOLLOW) != 0) {
		return false;
	}
	id = vfs_file_id_from_sbuf(handle->conn, &st);
	open = rsvd_open_find_set(&id);
	if (open == NULL) {
		return false;
	}
	if (rsvd_shared_is_apart() && rsvd_shared_by_others(&id, open)) {
		/* What smbd knows of them may have gone with a node. */
		DBG_ERR("hvrs: shared disk %s: it is not deleted, as other "
			"nodes have it open\n", open->path);
		errno = EBUSY;
		*_ret = -1;
		return true;
	}
	*_ret = erase(open, handle, dirfsp, smb_fname);
	return true;
}

NTSTATUS rsvd_erase_check(struct rsvd_open *open)
{
	struct files_struct *fsp = open->fsp;

	if (fsp == NULL || !open->may_delete) {
		return NT_STATUS_ACCESS_DENIED;
	}
	if ((fdos_mode(fsp) & FILE_ATTRIBUTE_READONLY) != 0 &&
	    !lp_delete_readonly(SNUM(fsp->conn))) {
		return NT_STATUS_CANNOT_DELETE;
	}
	return NT_STATUS_OK;
}
