/*
 * Handles that outlive smbd, as the files hvrs_handles*.c share them.
 */
#ifndef HVRS_MODULES_HVRS_HANDLES_H
#define HVRS_MODULES_HVRS_HANDLES_H

#include "hvrs.h"
#include "hooks_handles.h"
#include "state_handles.h"

#define HANDLES_COOKIE_SIZE 24

/* One open of this process that is such a handle, or becomes one. */
struct hvrs_open {
	struct state_handle h;
	TALLOC_CTX *mem_ctx;	/* of what the record points to */
	TALLOC_CTX *names;	/* of its name */
	TALLOC_CTX *locks;	/* of its locks */
	TALLOC_CTX *modules;	/* of the state of other modules */
	bool stored;		/* it is in the log */
	bool stale;		/* the log does not know yet what changed */
	bool granted;		/* the client was told */
	bool relocked;		/* on a cluster: the log does not know its locks */
};

/* The handle of an open file, or NULL. */
struct hvrs_open *hvrs_open_of(struct files_struct *fsp);

/* The instance of hvrs in a connection that keeps handles, or NULL. */
struct vfs_handle_struct *hvrs_handles_instance(
	struct connection_struct *conn);

/* Makes a record of a file that this process has just opened. */
struct hvrs_open *hvrs_open_create(struct vfs_handle_struct *handle,
				   struct files_struct *fsp, uint32_t kind);

/*
 * Whether a file is not the one of a record, but has its inode: that one was
 * deleted behind the server's back.  By a descriptor, or by its path (from that of
 * its folder, or AT_FDCWD), where no link at its end is followed.
 */
bool hvrs_is_successor(const struct handle_record *r, int fd,
		       const char *path);

/*
 * Puts into smbd's databases what a handle that is open should have there, and
 * that went with another node of the cluster.
 */
void hvrs_open_heal(struct files_struct *fsp, struct hvrs_open *open);

/* Gives a file that was put back its record. */
struct hvrs_open *hvrs_open_adopt(struct vfs_handle_struct *handle,
				  struct files_struct *fsp,
				  const struct handle_record *record);

void hvrs_open_forget(struct files_struct *fsp);

/*
 * Takes over into the record what may change while a file is open: name,
 * locks, lease, deletion.  True where something did.
 */
bool hvrs_open_refresh(struct files_struct *fsp, struct hvrs_open *open);

/* The state of other parts (hvrs_handles_parts.c). */
bool hvrs_parts_save(struct files_struct *fsp, struct hvrs_open *open);
bool hvrs_parts_keep(struct files_struct *fsp);
NTSTATUS hvrs_parts_restore(struct vfs_handle_struct *handle,
			    struct files_struct *fsp,
			    const struct handle_record *r);

/*
 * A reconnect may carry more contexts than smbd allows: the others are taken
 * out, and kept for the parts that know them.
 */
void hvrs_parts_request(struct smbd_smb2_request *req);

/* The create contexts of a CREATE as it came. */
bool hvrs_request_contexts(TALLOC_CTX *mem_ctx, struct smbd_smb2_request *req,
			   struct smb2_create_blobs *_blobs);

/* Whether a CREATE wants a durable handle back, and which. */
bool hvrs_request_wants(struct smbd_smb2_request *req, uint64_t *_id);

DATA_BLOB hvrs_open_cookie(TALLOC_CTX *mem_ctx, uint64_t id);
bool hvrs_cookie_id(DATA_BLOB cookie, uint64_t *_id);

/*
 * Locks of one handle in smbd's database, taken out or put in.  _read: false
 * where they are not known.
 */
bool hvrs_locks_read(TALLOC_CTX *mem_ctx, const struct file_id *file,
		     uint64_t id, uint8_t **_locks, size_t *_length);

/*
 * Whether smbd's database has the locks of a handle, as this process's own, and
 * no others: CTDB may lose the newest copy of them with a node.  True where that
 * is not known.
 */
bool hvrs_locks_are_there(const struct files_struct *fsp,
			  const struct handle_record *r);
void hvrs_locks_remove(const struct file_id *file, uint64_t id);
bool hvrs_locks_restore(struct files_struct *fsp,
			const struct handle_record *r);

/*
 * Gives up a handle that waits: entries, lease, locks, deletion, record.
 * False where another node is at it, or its owner is back.
 */
bool hvrs_handle_end(struct state_handle *h);

/* Whether an entry of smbd's own database is that of a handle. */
bool hvrs_is_entry_of(const struct state_handle *h,
		      const struct share_mode_entry *e);

/*
 * Whether the time of a handle that waits is over; begins it where its owner
 * was not seen to go.
 */
bool hvrs_handle_over(struct state_handle *h);

/*
 * Has an open closed that another process holds, or that waits.  A process
 * that does not do it in time is killed; what else it held comes back.  False
 * where that process may still write.
 */
bool hvrs_close_remote(struct messaging_context *msg_ctx,
		       struct state_handle *h);

/*
 * The same for an open that can be taken up again: asked for again and again,
 * it blocks nobody.
 */
enum hvrs_moved {
	MOVED_DONE,		/* the other open is closed */
	MOVED_WAIT,
	MOVED_NOT,		/* its process may still write */
};
enum hvrs_moved hvrs_close_remote_step(struct messaging_context *msg_ctx,
				       struct smbd_smb2_request *req,
				       struct state_handle *h);

/* Ends those whose time is over. */
void hvrs_handles_sweep(void);

/*
 * Lets one of the processes do that every few seconds, also while there is no
 * client.
 */
void hvrs_handles_sweep_start(void);

enum hvrs_fence {
	FENCE_GONE,		/* nothing is written any more for the handle */
	FENCE_ENDING,		/* its process ends, which takes long */
	FENCE_LIVES,		/* its process goes on with it */
};

/*
 * Sees to it that the process which has a handle, or had it, writes no more:
 * one that is stopped is killed, one that ends is waited for a while.
 */
enum hvrs_fence hvrs_fence(const struct state_handle *h, int wait_ms);

/* Whether a process is stopped, by a signal; the end of one. */
bool hvrs_is_stopped(const struct server_id *id);
void hvrs_kill(const struct server_id *id);

/* Whether the user of a session is the one a handle belongs to. */
bool hvrs_is_owner(const struct auth_session_info *info,
		   const struct handle_record *r);

bool hvrs_is_leaving_here(struct smbXsrv_client *client, uint64_t id);

/* Which instance of a GUID of Samba's. */
struct guid hvrs_guid(const struct GUID *guid);
struct GUID hvrs_guid_back(const struct guid *guid);
struct guid hvrs_lease_guid(const struct smb2_lease_key *key);
struct smb2_lease_key hvrs_lease_key(const struct guid *guid);
struct handle_bytes hvrs_text(TALLOC_CTX *mem_ctx, const char *text);
char *hvrs_text_back(TALLOC_CTX *mem_ctx, struct handle_bytes text);

/* ---- hooks -------------------------------------------------------------------- */

NTSTATUS hvrs_handles_open(struct hooks_open *open);
bool hvrs_handles_reply(struct smbd_smb2_request *req, NTSTATUS status,
			DATA_BLOB body, DATA_BLOB *dyn, const char *location);
NTSTATUS hvrs_handles_recreate(struct smbd_smb2_request *req,
			       struct auth_session_info *session_info,
			       uint64_t *persistent_id,
			       const struct GUID *create_guid);
void hvrs_handles_begin(void);
void hvrs_handles_look_first(struct files_struct *fsp);
bool hvrs_handles_ghost(const struct share_mode_entry *e);
void hvrs_handles_promise(void);	/* about to tell a client something */
void hvrs_handles_look_start(void);
bool hvrs_handles_agree(struct hvrs_share *share,
			struct connection_struct *conn);
void hvrs_handles_warden_start(void);
void hvrs_handles_named(struct smbd_server_connection *sconn);
NTSTATUS hvrs_handles_entered(struct hooks_open *open,
			      struct share_mode_lock *lck,
			      const struct smb_filename *name,
			      struct file_id file);
bool hvrs_handles_protect(const struct share_mode_entry *e);
bool hvrs_handles_locked(struct files_struct *fsp,
			 const struct lock_struct *lock);
NTSTATUS hvrs_handles_rename(struct connection_struct *conn,
			     struct files_struct *fsp);
void hvrs_handles_renamed(struct connection_struct *conn,
			  struct files_struct *fsp);
bool hvrs_handles_client(struct smbd_smb2_request *req);
bool hvrs_handles_session(struct smbXsrv_connection *xconn,
			  struct auth_session_info *session_info);
bool hvrs_handles_wait(struct smbd_smb2_request *req);
void hvrs_handles_lost(struct smbXsrv_connection *xconn);

#endif
