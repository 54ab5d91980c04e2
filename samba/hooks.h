/*
 * The calls inside smbd that have no VFS hook and that hvrs needs (DESIGN.md,
 * "core hooks").  Each is a function that a module registers; without core
 * hooks none is called and everything else works.
 */
#ifndef HVRS_SAMBA_HOOKS_H
#define HVRS_SAMBA_HOOKS_H

#include "samba.h"

struct hooks_client {
	/*
	 * A file-system FSCTL that is about to be carried out on a file of a
	 * disk share, as the connected user.  Returns true where it takes the
	 * request: then it has finished req, or will, with state->out_output
	 * set.  Returns false to leave it to smbd.
	 */
	bool (*ioctl)(uint32_t code, struct tevent_context *ev,
		      struct tevent_req *req,
		      struct smbd_smb2_ioctl_state *state);

	/* Before file-system information of a tree connect is built. */
	void (*fs_info_begin)(struct connection_struct *conn);

	/*
	 * After it was built: level is smbd's own, data of length bytes is what
	 * will be sent.
	 */
	void (*fs_info_end)(struct connection_struct *conn, uint16_t level,
			    uint8_t *data, size_t length);

	/*
	 * The name of a CREATE: returns the length of a suffix that is no part
	 * of the file's name, or 0; afterwards it is told the file name that
	 * was made without it.
	 */
	size_t (*name_suffix)(struct connection_struct *conn,
			      const char *name);
	void (*name_cut)(struct smb_filename *smb_fname);

	/*
	 * SMB2 READ and WRITE.  True where the client takes them; then
	 * *_status is OK when it will end smbreq->smb2req->subreq itself.
	 */
	bool (*read)(struct smb_request *smbreq, struct files_struct *fsp,
		     TALLOC_CTX *mem_ctx, DATA_BLOB *data, off_t offset,
		     size_t length, NTSTATUS *_status);
	bool (*write)(struct smb_request *smbreq, struct files_struct *fsp,
		      uint64_t offset, DATA_BLOB data, bool through,
		      NTSTATUS *_status);

	/*
	 * QUERY_INFO of an open file: level is smbd's own, room what the
	 * client has for the answer, and st, which may be changed, what it is
	 * made of.  An error is the answer.
	 */
	NTSTATUS (*file_info)(struct files_struct *fsp, uint16_t level,
			      size_t room, SMB_STRUCT_STAT *st);
};

/*
 * Installs the hooks in this process, once; client must stay valid.  Logs one
 * line where they cannot be installed.
 */
void hooks_install(const struct hooks_client *client);

/*
 * Whether the core hooks are at work in this process.
 */
bool hooks_active(void);

#endif
