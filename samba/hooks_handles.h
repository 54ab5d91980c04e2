/*
 * Core hooks for handles that outlive smbd: where opens are made and refused,
 * where replies are sent, and where locks and leases change.
 */
#ifndef HVRS_SAMBA_HOOKS_HANDLES_H
#define HVRS_SAMBA_HOOKS_HANDLES_H

#include "samba.h"

#include "librpc/gen_ndr/open_files.h"
#include "messages.h"
#include "plt.h"

/* An open on any share, with or without hvrs, as the core is about to do. */
struct hooks_open {
	struct connection_struct *conn;
	struct smb_request *req;	/* NULL: the server's own */
	struct smb_filename *smb_fname;
	uint32_t access_mask;
	uint32_t share_access;
	uint32_t create_disposition;	/* may be changed */
	uint32_t create_options;
	const struct smb2_create_blobs *in;
	int create_action;		/* != 0: what to tell instead */
	struct smbd_smb2_request *smb2req;	/* NULL: it cannot wait */
	bool again;	/* where it is refused: take it up again, soon */
};

struct share_mode_lock;

struct hooks_handles {
	/* Before the core looks at an open; not OK ends it. */
	NTSTATUS (*open)(struct hooks_open *open);

	/*
	 * The same open, when the core has opened the file (of this name),
	 * has its entry locked and is about to look at it; not OK ends it.
	 */
	NTSTATUS (*entered)(struct hooks_open *open,
			    struct share_mode_lock *lck,
			    const struct smb_filename *name,
			    struct file_id file);

	/* A request before the core looks at it. */
	void (*begin)(void);

	/* A LOCK or CLOSE request, and the file that it is about. */
	void (*look_first)(struct files_struct *fsp);

	/* Whether an entry is of no open of the process that it names. */
	bool (*ghost)(const struct share_mode_entry *e);

	/* The name of an open file was changed by another process. */
	void (*named)(struct smbd_server_connection *sconn);

	/*
	 * A reply that is about to be sent.  True where it is taken: then
	 * hooks_reply() sends it later.
	 */
	bool (*reply)(struct smbd_smb2_request *req, NTSTATUS status,
		      DATA_BLOB body, DATA_BLOB *dyn, const char *location);

	/*
	 * Whether a CREATE has to come later, because it wants a handle back
	 * whose old process has not quite let it go.
	 */
	bool (*wait)(struct smbd_smb2_request *req);

	/* Whether the share of a CREATE keeps handles. */
	bool (*is_kept_share)(struct smbd_smb2_request *req);

	/* A connection is lost. */
	void (*lost)(struct smbXsrv_connection *xconn);

	/* A CREATE before the core reads it. */
	void (*request)(struct smbd_smb2_request *req);

	/*
	 * A client wants a durable handle back; req is its CREATE.  The id
	 * may be changed; not OK ends it with this status.
	 */
	NTSTATUS (*recreate)(struct smbd_smb2_request *req,
			     struct auth_session_info *session_info,
			     uint64_t *persistent_id,
			     const struct GUID *create_guid);

	/* A file is closed: before, and after; type as the core has it. */
	uint64_t (*close_begin)(struct files_struct *fsp,
				enum file_close_type type);
	void (*close_end)(uint64_t id, NTSTATUS *status);

	/* Whether a share mode entry of a dead process is to be kept. */
	bool (*protect)(const struct share_mode_entry *e);

	/* Whether a lock or an access runs into one of a waiting handle. */
	bool (*locked)(struct files_struct *fsp,
		       const struct lock_struct *lock);

	/* A lease of this client goes down to a state. */
	void (*lease_down)(struct smbXsrv_client *client,
			   const struct smb2_lease_key *key, uint32_t state);

	/* A rename of a file or directory; not OK forbids it. */
	NTSTATUS (*rename)(struct connection_struct *conn,
			   struct files_struct *fsp);

	/* It has been renamed; fsp has its new name. */
	void (*renamed)(struct connection_struct *conn,
			struct files_struct *fsp);

	/*
	 * A client connects with a GUID that another process may hold.  True
	 * where it must not be handed to that process.
	 */
	bool (*client)(struct smbd_smb2_request *req);

	/*
	 * A user has logged on whose session of before is to be closed.  True
	 * while it has to wait for a process that ends.
	 */
	bool (*session)(struct smbXsrv_connection *xconn,
			struct auth_session_info *session_info);
};

/* The rows for plt_hook_install(). */
extern const struct plt_hook hooks_handles_rows[];
extern const size_t hooks_handles_count;

void hooks_handles_set(const struct hooks_handles *handles);

/*
 * Whether a failure of the reconnect that the core is at may pass: the core
 * tells every one as OBJECT_NAME_NOT_FOUND, with which a client gives its handle
 * up; then it is FILE_NOT_AVAILABLE, and the client comes again.
 */
void hooks_come_again(bool may);

/* Sends a reply that was taken. */
NTSTATUS hooks_reply(struct smbd_smb2_request *req, NTSTATUS status,
		     DATA_BLOB body, DATA_BLOB *dyn, const char *location);

#endif
