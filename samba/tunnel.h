/*
 * Tunnel servers: protocols that ride on opens of ordinary files, by FSCTLs
 * and create contexts of their own ([MS-RSVD], [MS-SQOS]).  Each is a shared
 * object of its own that the hvrs module loads for a share that wants it, and
 * the two know each other only by the tables below.
 *
 * A server exports one function, hvrs_tunnel_server(), and needs core hooks.
 * Everything is called in smbd's own thread, as the connected user where
 * nothing else is said.
 */
#ifndef HVRS_SAMBA_TUNNEL_H
#define HVRS_SAMBA_TUNNEL_H

#include "samba.h"

#define TUNNEL_VERSION 2
#define TUNNEL_ENTRY "hvrs_tunnel_server"

/* A CREATE on its way down: what create_file_fn was given. */
struct tunnel_create {
	struct vfs_handle_struct *handle;
	struct smb_request *req;
	struct files_struct *dirfsp;
	struct smb_filename *smb_fname;
	uint32_t access_mask;
	uint32_t share_access;
	uint32_t disposition;
	uint32_t options;
	uint32_t attributes;
	uint32_t oplock;
	const struct smb2_lease *lease;
	uint64_t allocation;
	uint32_t private_flags;
	struct security_descriptor *sd;
	struct ea_list *ea_list;
	files_struct **result;
	int *info;
	const struct smb2_create_blobs *in_blobs;
	struct smb2_create_blobs *out_blobs;
	/* The client's name ended in the suffix of a server; it is cut off. */
	bool suffix;
};

/* Goes on with the next VFS module. */
static inline NTSTATUS tunnel_create_next(const struct tunnel_create *c)
{
	return SMB_VFS_NEXT_CREATE_FILE(
		c->handle, c->req, c->dirfsp, c->smb_fname, c->access_mask,
		c->share_access, c->disposition, c->options, c->attributes,
		c->oplock, c->lease, c->allocation, c->private_flags, c->sd,
		c->ea_list, c->result, c->info, c->in_blobs, c->out_blobs);
}

struct hvrs_turn;

/* What the module does for a server. */
struct tunnel_host {
	/* Whether a handle waits for its client, by its persistent id. */
	bool (*is_kept)(uint64_t id);
	/*
	 * For reads and writes that a server takes: hvrs_turn_take() and
	 * hvrs_turn_wait_send().
	 */
	struct hvrs_turn *(*turn_take)(TALLOC_CTX *mem_ctx,
				       struct files_struct *fsp, size_t length,
				       bool *_wait);
	struct tevent_req *(*turn_wait_send)(TALLOC_CTX *mem_ctx,
					     struct tevent_context *ev,
					     struct hvrs_turn *turn);
};

struct tunnel_server {
	unsigned version;		/* TUNNEL_VERSION */
	const char *name;
	/*
	 * Of what it keeps with a handle; with HANDLE_MODULE_SPARE where a
	 * handle may come back without.
	 */
	uint32_t tag;
	/*
	 * A suffix of names, with its colon, that makes an open one of this
	 * server's; NULL for none.  It never names a stream.
	 */
	const char *suffix;
	/*
	 * Called once when the object is loaded, as root.  False, with a line
	 * in the log, where it cannot work.
	 */
	bool (*start)(const struct tunnel_host *host);
	/* Takes a CREATE, or returns false to leave it alone. */
	bool (*create)(const struct tunnel_create *c, NTSTATUS *_status);
	/* A file-system FSCTL; as struct hooks_client's ioctl. */
	bool (*ioctl)(uint32_t code, struct tevent_context *ev,
		      struct tevent_req *req,
		      struct smbd_smb2_ioctl_state *state);
	/*
	 * SMB2 READ and WRITE.  True where it takes them: then *_status is OK
	 * when it will end the request (smb2req->subreq), or the error.
	 */
	bool (*read)(struct smb_request *smbreq, struct files_struct *fsp,
		     TALLOC_CTX *mem_ctx, DATA_BLOB *data, off_t offset,
		     size_t length, NTSTATUS *_status);
	bool (*write)(struct smb_request *smbreq, struct files_struct *fsp,
		      uint64_t offset, DATA_BLOB data, bool through,
		      NTSTATUS *_status);
	/*
	 * QUERY_INFO of a file, as struct hooks_client's file_info; or NULL.
	 */
	NTSTATUS (*file_info)(struct files_struct *fsp, uint16_t level,
			      size_t room, SMB_STRUCT_STAT *st);
	/*
	 * A read or write of so many bytes: for how many microseconds it has
	 * to wait; a flush is of length 0 and waits for nothing.  policy is
	 * that of opens that are in no flow, "" for none.  charged() is called
	 * with *_flow, where not NULL, when it has ended.
	 */
	uint64_t (*charge)(struct files_struct *fsp, size_t length,
			   const char *policy, void **_flow);
	void (*charged)(void *flow, size_t length);
	/* One that waits does so still; called a few times a second. */
	void (*waits)(struct files_struct *fsp);
	/* The descriptor of a file is about to be closed. */
	void (*close)(struct files_struct *fsp);
	/*
	 * A name is to go, or NULL.  True where the server takes it: then
	 * *_ret is what unlinkat_fn returns, with errno.
	 */
	bool (*unlink)(struct vfs_handle_struct *handle,
		       struct files_struct *dirfsp,
		       const struct smb_filename *smb_fname, int *_ret);
	/* Whether the content of the file belongs to the server. */
	bool (*owns)(const struct files_struct *fsp);
	/*
	 * Handles that outlive smbd.  save() gives what an open needs to be
	 * put back, a talloc child of mem_ctx, and modes() the access and
	 * sharing that smbd has a file it owns open with.  disconnect() is
	 * called before close() where the handle stays, and restore() when
	 * the client is back and smbd has the file open again.
	 */
	bool (*save)(struct files_struct *fsp, TALLOC_CTX *mem_ctx,
		     DATA_BLOB *_state);
	void (*modes)(struct files_struct *fsp, uint32_t *_access,
		      uint32_t *_sharing);
	void (*disconnect)(struct files_struct *fsp);
	NTSTATUS (*restore)(struct vfs_handle_struct *handle,
			    struct files_struct *fsp, DATA_BLOB state,
			    DATA_BLOB extra);
	/* The create context that may come again with a reconnect, or NULL. */
	const char *context;
};

typedef const struct tunnel_server *tunnel_entry_fn(void);

#endif
