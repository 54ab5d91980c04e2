/*
 * The server of MS-RSVD: what its files share.
 *
 *   server.c  the door: opens, closes, share modes
 *   disk.c    an image with its parents, as a SCSI disk
 *   store.c   a file of the VFS as a store
 *   admit.c   unit attentions, reservations, and the fence
 *   io.c      SMB2 READ and WRITE
 *   tunnel.c  the FSCTLs
 */
#ifndef HVRS_RPC_SERVER_RSVD_SERVER_H
#define HVRS_RPC_SERVER_RSVD_SERVER_H

#include "samba.h"
#include "state_rsvd.h"
#include "tunnel.h"

#include "rsvd/fence.h"
#include "rsvd/rsvd.h"
#include "scsi/scsi.h"
#include "store/store.h"
#include "vhdx/vhdx.h"

/* Only the first version yet: no VHD Sets, no meta operations. */
#define SERVER_VERSION 1

/* One shared open. */
struct rsvd_open {
	struct rsvd_open *prev, *next;
	struct files_struct *fsp;
	struct vfs_handle_struct *handle;
	struct tevent_context *ev;
	struct rsvd_context context;
	struct guid nexus;		/* null: no initiator */
	uint32_t create_options;
	bool is_virtual;		/* else the bytes of the file */
	bool through;			/* a write is stable when answered */
	uint64_t open_id;
	char *path;			/* share-relative, for people */

	/* A virtual disk; see disk.c */
	struct vhdx *disk;
	struct vhdx_share *share;
	struct rsvd_file *files;
	struct store *leaf;
	struct scsi_disk scsi;

	/* Its place among the others; see admit.c */
	struct state_rsvd_key key;
	bool attached;
	bool kept;			/* a handle that outlives smbd */
	bool disconnecting;		/* and now does */
	struct rsvd_fence *fence;
	bool known;			/* pr is that of this generation */
	uint64_t generation;
	struct scsi_pr pr;

	struct rsvd_ring ring;
	unsigned under_way;		/* requests to the disk */
	bool closed;			/* freed when the last one is over */
};

/* The open behind a handle, or NULL. */
struct rsvd_open *rsvd_open_find(const struct files_struct *fsp);

/* Ends an open that was closed and has nothing under way any more. */
void rsvd_open_idle(struct rsvd_open *open);

/* ---- store.c ------------------------------------------------------------------- */

/*
 * A file that the VFS has open, as a store.  It takes fsp, which is closed
 * when the store is freed.
 */
int rsvd_store_create(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
		      struct files_struct *fsp, bool internal,
		      struct store **_store);

/* The VFS closes this file: a store that has it loses it. */
void rsvd_store_closed(const struct files_struct *fsp);

/* Keeps the descriptor from being closed: requests of threads go on. */
void rsvd_store_abandon(struct store *store);

/* ---- disk.c -------------------------------------------------------------------- */

/*
 * Opens the image behind open->fsp with its parents, as the connected user.
 * A status that says what is wrong.
 */
NTSTATUS rsvd_disk_open(struct rsvd_open *open, const char *share_path);

/* Closes it; leaves it to a later open to repair where that fails. */
void rsvd_disk_close(struct rsvd_open *open);

/* The geometry as it is now. */
void rsvd_disk_refresh(struct rsvd_open *open);

/* ---- admit.c ------------------------------------------------------------------- */

/* Opens what is shared by all; false with a line in the log. */
bool rsvd_admit_start(const struct tunnel_host *host);

/* The files next to the databases: "DIRECTORY/hvrs/DEVICE-INODE.KIND" */
char *rsvd_admit_path(TALLOC_CTX *mem_ctx, const struct file_id *id,
		      const char *kind);

/* Joins the disk: record, fence, power on where this is the first open. */
NTSTATUS rsvd_admit_join(struct rsvd_open *open);

/* Whether the record names an open of this disk, other than the one given. */
bool rsvd_admit_is_shared(const struct file_id *id,
			  const struct rsvd_open *except);

void rsvd_admit_leave(struct rsvd_open *open);

/* The open outlives its process from here on; false where that fails. */
bool rsvd_admit_keep(struct rsvd_open *open);

/* A command on its way; reservation commands are answered here. */
struct rsvd_admitted {
	bool go;		/* execute it, then rsvd_admit_over() */
	bool fenced;		/* it writes: others can wait for its end */
	uint64_t generation;
	enum scsi_sense attention;
	struct scsi_result result;	/* where not */
};

struct tevent_req *rsvd_admit_send(TALLOC_CTX *mem_ctx,
				   struct rsvd_open *open,
				   struct scsi_command *command);
int rsvd_admit_recv(struct tevent_req *req, struct rsvd_admitted *_a);

/*
 * The same for commands that need no wait, in place: false where the command
 * must go the long way.
 */
bool rsvd_admit_now(struct rsvd_open *open, const struct scsi_command *command,
		    struct rsvd_admitted *_a);
void rsvd_admit_over(struct rsvd_open *open, const struct rsvd_admitted *a);

/* ---- exec: admit, execute, over ---------------------------------------------------- */

/*
 * One command from its bytes to its result, in command->result.  Buffers are
 * the caller's until it is done; it must not be freed before.
 */
struct tevent_req *rsvd_command_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     struct scsi_command *command);
int rsvd_command_recv(struct tevent_req *req);

/* ---- io.c and tunnel.c ---------------------------------------------------------------- */

bool rsvd_read(struct smb_request *smbreq, struct files_struct *fsp,
	       TALLOC_CTX *mem_ctx, DATA_BLOB *data, off_t offset,
	       size_t length, NTSTATUS *_status);
bool rsvd_write(struct smb_request *smbreq, struct files_struct *fsp,
		uint64_t offset, DATA_BLOB data, bool through,
		NTSTATUS *_status);
bool rsvd_ioctl(uint32_t code, struct tevent_context *ev,
		struct tevent_req *req, struct smbd_smb2_ioctl_state *state);

#endif
