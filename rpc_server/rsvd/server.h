/*
 * The server of MS-RSVD: what its files share.
 *
 *   server.c  the door: opens, closes, share modes
 *   image.c   the files of a disk, opened
 *   disk.c    an image as a SCSI disk
 *   store.c   a file of the VFS as a store
 *   files.c   files beside the one that was opened
 *   set.c     a VHD Set: which files it consists of, and changing that
 *   unused.c  files of a set that no snapshot has any more
 *   erase.c   the end of a set and its files
 *   build.c   a file made of several of a chain
 *   block.c   holding up all commands of a disk
 *   shared.c  who has the disk open, and the record that all share
 *   admit.c   unit attentions, reservations, and the fence
 *   node.c    a node that does not go on
 *   io.c      SMB2 READ and WRITE
 *   tunnel.c  the FSCTLs
 *   query.c   queries of a set, deletion of snapshots
 *   meta.c    meta operations: their start and their progress
 *   snapshot.c, change.c, copy.c, merge.c  what they do
 *   changes.c  the map of changes, and notes of writes
 *   tracking.c  change tracking's operations
 */
#ifndef HVRS_RPC_SERVER_RSVD_SERVER_H
#define HVRS_RPC_SERVER_RSVD_SERVER_H

#include "samba.h"
#include "state_rsvd.h"
#include "tunnel.h"

#include "rsvd/fence.h"
#include "rsvd/rsvd.h"
#include "rsvd/tracking.h"
#include "scsi/scsi.h"
#include "store/store.h"
#include "rsvd/meta.h"
#include "vhdset/vhdset.h"
#include "vhdx/vhdx.h"

#define SERVER_VERSION 2

/*
 * The files of a disk as one open has them.  A set gets others now and then;
 * requests that are under way end with those they began with.
 */
struct rsvd_image {
	struct rsvd_image *prev, *next;
	struct rsvd_open *open;		/* NULL: it is gone */
	struct tevent_context *ev;
	struct vhdx *disk;
	struct vhdx_share *share;	/* NULL: for reading only */
	struct store *leaf;
	struct rsvd_changes *changes;	/* NULL: not tracked */
	bool changes_bad;		/* the map is not usable */
	char *path;			/* for people */
	char file[VHDSET_NAME_MAX];	/* a set: the leaf's name */
	uint64_t epoch;			/* of the record */
	unsigned refs;			/* requests under way */
	bool retired;
	bool closing;
};

/* Since when an open has seen something of another's in the record. */
struct rsvd_seen {
	struct rsvd_worker worker;
	uint64_t until_ms;
	uint64_t since_ms;
};

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
	bool may_delete;		/* the client has DELETE of the file */
	uint64_t open_id;
	char *path;			/* share-relative, for people */

	/* A virtual disk; see image.c and disk.c */
	bool is_set;
	struct guid snapshot;		/* opened by it; else null */
	struct rsvd_image *image;
	struct scsi_disk scsi;
	struct tevent_timer *tick;
	void *merge;			/* see merge.c */

	/* Its place among the others; see shared.c */
	struct state_rsvd_key key;
	bool attached;
	bool kept;			/* a handle that outlives smbd */
	bool disconnecting;		/* and now does */
	struct rsvd_fence *fence;
	bool known;			/* pr is that of this generation */
	uint64_t generation;
	struct scsi_pr pr;
	struct rsvd_seen block_seen;
	struct rsvd_seen making_seen;

	struct rsvd_ring ring;
	unsigned under_way;		/* requests to the disk */
	bool closed;			/* freed when the last one is over */
};

/* The open behind a handle, or NULL. */
struct rsvd_open *rsvd_open_find(const struct files_struct *fsp);

/* An open of this process of the set in this file, or NULL. */
struct rsvd_open *rsvd_open_find_set(const struct file_id *id);

/* Ends an open that was closed and has nothing under way any more. */
void rsvd_open_idle(struct rsvd_open *open);

static inline bool rsvd_open_is_snapshot(const struct rsvd_open *open)
{
	return !guid_is_null(&open->snapshot);
}

/*
 * From a timer: becomes the user of the open, for what touches files.  False
 * where that is not possible any more.
 */
bool rsvd_open_become_user(struct rsvd_open *open);

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

/* Another open of the same file, that goes with the store. */
void rsvd_store_guard(struct store *store, struct files_struct *guard);

/* The store's file, or NULL when smbd has closed it. */
struct files_struct *rsvd_store_file(struct store *store);

/*
 * A part of a file by reference, of the same place; -ENOTSUP where the file
 * system cannot.
 */
int rsvd_store_clone(struct store *to, struct store *from, uint64_t offset,
		     uint64_t length);

/* ---- files.c ------------------------------------------------------------------- */

enum rsvd_file_mode {
	/* Nobody writes to it meanwhile. */
	RSVD_FILE_READ,
	/* Others of RSVD_FILE_SHARED may. */
	RSVD_FILE_LOOK,
	/* Nobody writes to it through smbd; written by this server alone. */
	RSVD_FILE_WRITE,
	/* Must not exist.  Nobody else has it open meanwhile. */
	RSVD_FILE_CREATE,
	/* Read and written by several processes; made where missing. */
	RSVD_FILE_SHARED,
	/* The same, not made. */
	RSVD_FILE_PRESENT,
	/* Nobody has it open through smbd. */
	RSVD_FILE_ALONE,
};

/* path is relative to the share.  As the user who is in force. */
NTSTATUS rsvd_file_open(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			const char *path, enum rsvd_file_mode mode,
			struct store **_store);

/* The file of an fsp again, by a descriptor of this server's own. */
NTSTATUS rsvd_file_reopen(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
			  struct files_struct *fsp, bool writable,
			  struct store **_store);

/* The path of a file beside another. */
char *rsvd_path_beside(TALLOC_CTX *mem_ctx, const char *path,
		       const char *name);

/* The path of a file beside the one that the client opened. */
char *rsvd_file_beside(TALLOC_CTX *mem_ctx, const struct rsvd_open *open,
		       const char *name);

NTSTATUS rsvd_file_remove(struct rsvd_open *open, const char *path);
NTSTATUS rsvd_file_rename(struct rsvd_open *open, const char *from,
			  const char *to);
/* The same in the place of a file that is there. */
NTSTATUS rsvd_file_replace(struct rsvd_open *open, const char *from,
			   const char *to);
NTSTATUS rsvd_file_link(struct rsvd_open *open, const char *from,
			const char *to);
/* Whether path names the file that store has open. */
NTSTATUS rsvd_file_is(struct rsvd_open *open, const char *path,
		      struct store *store, bool *_is);
/* Owner and rights of one file for another. */
NTSTATUS rsvd_file_rights_copy(struct store *to, struct store *from);
/* The folder of path, not by the VFS; a descriptor, or -1 with errno. */
int rsvd_file_folder_open(const struct rsvd_open *open, const char *path);
/* Makes names in the folder of path stable. */
NTSTATUS rsvd_file_folder_flush(struct rsvd_open *open, const char *path);

/*
 * A locator's relative path, from the folder of the child, as a path from the
 * share's root.  -ENOENT where it leaves the share.
 */
int rsvd_file_parent_path(TALLOC_CTX *mem_ctx, const char *child,
			  const char *relative, char **_path);

/* ---- image.c ------------------------------------------------------------------- */

/*
 * Opens the files of a disk as they are now, as the user who is in force.  A
 * status that says what is wrong.
 */
NTSTATUS rsvd_image_open(struct rsvd_open *open, uint64_t epoch,
			 struct rsvd_image **_image);

/*
 * A chain for reading, by the name of its leaf beside the set.  Its stores are
 * children of the result.
 */
NTSTATUS rsvd_image_chain(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			  const char *path, bool writable,
			  struct vhdx_share *share, struct store **_leaf,
			  struct vhdx **_disk);

/* The same of a file that is open already, named path. */
NTSTATUS rsvd_image_chain_of(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			     struct store *leaf, const char *path,
			     bool writable, struct vhdx **_disk);

/* One file of a chain, without its parents. */
NTSTATUS rsvd_image_alone(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			  const char *path, bool writable,
			  struct store **_store, struct vhdx **_disk);

/* Makes image the one of open; the former ends when its requests have. */
void rsvd_image_use(struct rsvd_open *open, struct rsvd_image *image);

void rsvd_image_get(struct rsvd_image *image);
void rsvd_image_put(struct rsvd_image *image);

/* Opens the files again where the record says so (epoch is the record's). */
NTSTATUS rsvd_image_refresh(struct rsvd_open *open, uint64_t epoch);

/* The open is going: closes all its images, or leaves them to a repair. */
void rsvd_image_close_all(struct rsvd_open *open);
void rsvd_image_abandon_all(struct rsvd_open *open);

NTSTATUS rsvd_status_of(int error);

/* ---- disk.c -------------------------------------------------------------------- */

/* Makes a SCSI disk of the open's image. */
void rsvd_disk_setup(struct rsvd_open *open);

/* The geometry as it is now. */
void rsvd_disk_refresh(struct rsvd_open *open);

/* ---- shared.c ------------------------------------------------------------------ */

/* What the hvrs module does for us. */
extern const struct tunnel_host *rsvd_module;

/* Opens what is shared by all; false with a line in the log. */
bool rsvd_shared_start(const struct tunnel_host *host);

/*
 * Whether the processes of a disk run on several nodes: then what they tell
 * each other lies in files that all nodes have, and nothing is mapped.
 */
bool rsvd_shared_is_apart(void);

/*
 * Around a look at what other opens say in the fence: on a cluster that is in
 * files of root's, which are opened when they are first looked at.
 */
void rsvd_shared_look_begin(void);
void rsvd_shared_look_end(void);

/* state_rsvd_path() */
char *rsvd_shared_path(TALLOC_CTX *mem_ctx, const struct file_id *id,
		       const char *kind);

/* The epoch of the record now, 0 where there is none. */
NTSTATUS rsvd_shared_epoch(struct rsvd_open *open, uint64_t *_epoch);

/*
 * Joins the disk: record, fence, power on where this is the first open.
 * NT_STATUS_RETRY where the files are others meanwhile.
 */
NTSTATUS rsvd_shared_join(struct rsvd_open *open);

/*
 * Changes the record, under its lock: change() may be NULL, and says what
 * changed.  With fence nobody goes on with what he knew.
 */
enum rsvd_change {
	RSVD_CHANGE_NONE,	/* nothing to be stored */
	RSVD_CHANGE_STORE,
	RSVD_CHANGE_FENCE,	/* and everybody must look at it */
};

int rsvd_shared_change(struct rsvd_open *open,
		       enum rsvd_change (*change)(struct rsvd_record *record,
						  void *private_data),
		       void *private_data, uint64_t *_generation);

/* Commands under way that were let in before this generation. */
bool rsvd_shared_busy(struct rsvd_open *open, uint64_t generation);

struct rsvd_worker rsvd_shared_self(const struct rsvd_open *open);
bool rsvd_shared_is_alive(const struct rsvd_open *open,
			  const struct rsvd_record *record,
			  const struct rsvd_worker *worker);

/*
 * Ends a process (pid 0: none) that keeps others from going on, with a line in
 * the log that says what it did; never this one.  On another node the
 * administrator's command is asked to (node.c).
 */
void rsvd_shared_end_process(const char *path,
			     const struct rsvd_fence_process *process,
			     const char *what);

/* Boot time of this machine, in milliseconds. */
uint64_t rsvd_shared_now_ms(void);

/*
 * Whether the time of something in the record is over that a worker began:
 * until_ms by his clock, which on a cluster may be another machine's.  There
 * time_ms counts, from when this open first saw it.
 */
bool rsvd_shared_is_late(struct rsvd_seen *seen,
			 const struct rsvd_worker *worker, uint64_t until_ms,
			 uint32_t time_ms);

/* Ends a block whose process or time is over; true where it did. */
bool rsvd_shared_recover(struct rsvd_open *open, struct rsvd_record *record);

/*
 * Whether a process of any node has the file open as a shared disk, or as the
 * file of a set that is written to, by the locks of the nodes' folder alone.
 */
bool rsvd_shared_is_used(const struct file_id *id);

/* Whether the record names an open of this disk, other than the one given. */
bool rsvd_shared_by_others(const struct file_id *id,
			   const struct rsvd_open *except);

void rsvd_shared_leave(struct rsvd_open *open);

/* The open outlives its process from here on; false where that fails. */
bool rsvd_shared_keep(struct rsvd_open *open);

/*
 * For admit.c, as root: the lock of the record, for that long; stores the record
 * with the fence raised, so that nobody goes on with what he knew (*_generation,
 * which may be NULL, is the new one); takes over what it says of reservations;
 * and makes durable what APTPL keeps of them (NULL: nothing).
 */
int rsvd_shared_lock(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
		     unsigned wait_ms, struct state_rsvd_lock **_lock);
int rsvd_shared_store(struct rsvd_open *open, struct state_rsvd_lock *lock,
		      uint64_t *_generation);
void rsvd_shared_learn(struct rsvd_open *open, const struct rsvd_record *record,
		       uint64_t generation);
int rsvd_shared_keep_reservations(struct rsvd_open *open,
				  const struct scsi_pr *pr);

/* ---- admit.c ------------------------------------------------------------------- */

/* A command on its way; reservation commands are answered here. */
struct rsvd_admitted {
	bool go;		/* execute it, then rsvd_admit_over() */
	bool fenced;		/* it writes: others can wait for its end */
	bool settles;		/* others must not write any more */
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

/* ---- node.c -------------------------------------------------------------------- */

/*
 * A process of another node that does not go on: starts "hvrs:fence command",
 * now and then, and does not wait for it.  What it came to is told by the
 * locks that the node then has no more.
 */
void rsvd_fence_node(const char *path,
		     const struct rsvd_fence_process *process,
		     const char *what);

/* ---- exec: admit, execute, over ---------------------------------------------------- */

/*
 * One command from its bytes to its result, in command->result.  Buffers are
 * the caller's until it is done; it must not be freed before.
 */
struct tevent_req *rsvd_command_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     struct scsi_command *command);
int rsvd_command_recv(struct tevent_req *req);

/* ---- block.c --------------------------------------------------------------------- */

/*
 * Holds up all commands of the disk, waits for those under way, and makes what
 * they wrote stable.  With working the caller goes on at once and changes
 * files: also the reads of this open are over then, and a caller who does not
 * end in time is ended before anybody else goes on.
 * NT_STATUS_IO_TIMEOUT where it takes too long; nothing is held up then.
 */
struct tevent_req *rsvd_block_send(TALLOC_CTX *mem_ctx,
				   struct rsvd_open *open, uint32_t time_ms,
				   bool working);
NTSTATUS rsvd_block_recv(struct tevent_req *req);

/*
 * Lets them go on; with other files or another size where changed.  Where a
 * node that stands still has the record it is done later, and the answer is
 * NT_STATUS_IO_TIMEOUT.
 */
NTSTATUS rsvd_block_end(struct rsvd_open *open, bool changed,
			uint64_t new_size);

/* Takes a lock of the fence, waiting. */
struct tevent_req *rsvd_lock_send(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
				  enum rsvd_fence_lock lock);
NTSTATUS rsvd_lock_recv(struct tevent_req *req);

/* Waits some milliseconds. */
struct tevent_req *rsvd_sleep_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev, unsigned ms);

/* ---- set.c ------------------------------------------------------------------------ */

struct rsvd_set {
	struct rsvd_open *open;
	struct vhdset *set;
	struct store *file;
	struct store *catalogue;
};

/* Opens the set behind open->fsp; freeing it closes it. */
NTSTATUS rsvd_set_open(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
		       bool writable, struct rsvd_set **_set);

/*
 * A new, empty child of a file of the set, under a name of its own, written
 * down as unfinished first.
 */
NTSTATUS rsvd_set_leaf_new(struct rsvd_set *set, const char *parent,
			   char name[VHDSET_NAME_MAX]);

/* ---- unused.c --------------------------------------------------------------------- */

/*
 * Names of files that may have to go: those a crash left, and those no
 * snapshot has any more.  note() makes one stable.  tidy() removes those that
 * nothing needs; a name stays noted while its file is a link of a chain, or is
 * being made.  With RSVD_FENCE_SET held.
 */
NTSTATUS rsvd_set_note(struct rsvd_open *open, const char *name);
NTSTATUS rsvd_set_tidy(struct rsvd_set *set);

/* A name for a file that is being made, noted. */
NTSTATUS rsvd_set_build_new(struct rsvd_set *set, char name[VHDSET_NAME_MAX]);

/* One file that the set reads. */
struct rsvd_part {
	char *path;			/* from the share's root */
	struct rsvd_part *parent;
	struct rsvd_part *child;	/* one of them */
	unsigned children;
	uint64_t bytes;			/* that it takes on the disk */
	bool named;			/* by the set */
	bool is_leaf;
	bool given_up;			/* noted, and so the set's own */
};

struct rsvd_parts {
	struct rsvd_part **list;
	size_t count;
};

/* All of them; fails where one cannot be opened. */
NTSTATUS rsvd_parts_look(TALLOC_CTX *mem_ctx, struct rsvd_set *set,
			 struct rsvd_parts **_parts);

struct rsvd_part *rsvd_parts_find(const struct rsvd_parts *parts,
				  const char *path);

/*
 * Whether a file can become one with its only child: no snapshot has it any
 * more, and nobody writes to the child.
 */
bool rsvd_part_merges(const struct rsvd_part *part);

/* Whether anything is noted. */
bool rsvd_set_has_notes(struct rsvd_open *open);

/* ---- erase.c ---------------------------------------------------------------------- */

/* Whether this open may ask for the end of the set with its own. */
NTSTATUS rsvd_erase_check(struct rsvd_open *open);

/* As struct tunnel_server's unlink: a set that is open takes its files along. */
bool rsvd_erase_unlink(struct vfs_handle_struct *handle,
		       struct files_struct *dirfsp,
		       const struct smb_filename *smb_fname, int *_ret);

/* There is no file at path: removes what is left of a set that was deleted. */
void rsvd_erase_rest(struct rsvd_open *open, const char *path);

/* ---- build.c ---------------------------------------------------------------------- */

/*
 * A new file at path that reads as the one at top does.  It takes the place of
 * the file at bottom, depth parents above top, and of all between; its parent
 * is bottom's.  Files are opened before this returns, as the user who is in
 * force.  with_linkage: children of top's are its children.
 */
struct rsvd_build {
	const char *top;
	const char *bottom;
	unsigned depth;
	const char *path;
	bool with_linkage;
	bool clone_only;	/* NOT_SUPPORTED where that is not possible */
	/* Now and then; ends it by returning false. */
	bool (*progress)(void *private_data, uint64_t done, uint64_t all);
	void *private_data;
};

/* Not to be freed before it is done. */
struct tevent_req *rsvd_build_send(TALLOC_CTX *mem_ctx,
				   struct rsvd_open *open,
				   const struct rsvd_build *build);
/*
 * *_made is the new file, whole and stable, still open, so that nobody tidies
 * it away; *_top the one it was made from.
 */
NTSTATUS rsvd_build_recv(struct tevent_req *req, TALLOC_CTX *mem_ctx,
			 struct store **_made, struct store **_top);

/* ---- changes.c ----------------------------------------------------------------------- */

/* One view of the map of changes of a set. */
struct rsvd_changes {
	struct store *store;
	struct cbt *cbt;
	int lock_fd;
};

/* *_changes is NULL where there is none, or one that is not usable: *_bad. */
NTSTATUS rsvd_changes_look(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			   struct rsvd_changes **_changes, bool *_bad);
NTSTATUS rsvd_changes_open(struct rsvd_open *open, struct rsvd_image *image);

/*
 * Before a write begins.  -EAGAIN where that must wait for the disk: then by
 * send and recv.  Both: -ETIMEDOUT where others hold it up, to be tried again.
 */
int rsvd_changes_note(struct rsvd_image *image, uint64_t offset,
		      uint64_t length);
struct tevent_req *rsvd_changes_note_send(TALLOC_CTX *mem_ctx,
					  struct rsvd_image *image,
					  uint64_t offset, uint64_t length);
int rsvd_changes_note_recv(struct tevent_req *req);

/* While all commands are held up, and with another epoch after it: */
NTSTATUS rsvd_changes_start(struct rsvd_open *open, bool append);
NTSTATUS rsvd_changes_stop(struct rsvd_open *open, uint32_t *_tracking);
NTSTATUS rsvd_changes_mark(struct rsvd_open *open, struct rsvd_set *set,
			   const struct vhdset_snapshot *s, const char *leaf);
NTSTATUS rsvd_changes_revert(struct rsvd_open *open, const struct guid *id,
			     const char *leaf);
NTSTATUS rsvd_changes_resize(struct rsvd_open *open, uint64_t size);

/* With RSVD_FENCE_SET held. */
void rsvd_changes_forget(struct rsvd_open *open, const struct guid *id);

/* ChangeTrackingStatus, and what GET_PARAMETERS says else. */
uint32_t rsvd_changes_status(const struct rsvd_changes *changes, bool bad);
uint64_t rsvd_changes_log_size(const struct rsvd_changes *changes);

/* Whether a CDP snapshot is of the tracking that goes on. */
bool rsvd_changes_is_active(const struct rsvd_changes *changes,
			    const struct guid *id);

/* ---- tunnel.c: operations ----------------------------------------------------------- */

/* One operation on its way. */
struct guard;

struct rsvd_call {
	struct rsvd_open *open;
	struct tevent_req *req;		/* NULL: nobody waits any more */
	struct tevent_req *hold;
	struct guard *guard;		/* while the client's request is there */
	struct smbd_smb2_ioctl_state *state;
	struct rsvd_header header;
	const uint8_t *body;
	size_t body_length;
	uint32_t max_out;
	struct rsvd_scsi scsi;
	struct scsi_command command;
};

/* The SMB2 response fails. */
void rsvd_call_fail(const struct rsvd_call *call, NTSTATUS status);
/* A bare header with this status. */
void rsvd_call_status(const struct rsvd_call *call, NTSTATUS status);
void rsvd_call_body(const struct rsvd_call *call, const uint8_t *body,
		    size_t length);

/*
 * A call that outlives its handler: it keeps smbd from closing the file, and
 * loses req when the client's request goes.  It has no body any more.  over()
 * ends it, after an answer where req is not NULL.
 */
struct rsvd_call *rsvd_call_keep(const struct rsvd_call *given);
void rsvd_call_release(struct rsvd_call *call);
void rsvd_call_over(struct rsvd_call *call);

/* Handlers, one row of tunnel.c's table each. */
void rsvd_meta_start(struct rsvd_call *call);
void rsvd_meta_progress(struct rsvd_call *call);
void rsvd_query_set(struct rsvd_call *call);
void rsvd_delete_snapshot(struct rsvd_call *call);
void rsvd_tracking_start(struct rsvd_call *call);
void rsvd_tracking_stop(struct rsvd_call *call);
void rsvd_tracking_parameters(struct rsvd_call *call);
void rsvd_tracking_changes(struct rsvd_call *call);
void rsvd_safe_size_query(struct rsvd_call *call);

/* ---- meta operations ------------------------------------------------------------------ */

/*
 * Each is done with a status for the header.  They run with the lock
 * RSVD_FENCE_SET held and the image fresh, but for those that are long.
 */
struct rsvd_meta_work {
	/* It takes the lock itself, when it needs it. */
	bool unlocked;
	struct tevent_req *(*send)(TALLOC_CTX *mem_ctx,
				   struct rsvd_open *open,
				   const struct rsvd_meta *meta);
	/* The status of bad bytes, or 0; before anything else. */
	uint32_t (*check)(const struct rsvd_open *open,
			  const struct rsvd_meta *meta);
};

struct tevent_req *rsvd_snapshot_send(TALLOC_CTX *mem_ctx,
				      struct rsvd_open *open,
				      const struct rsvd_meta *meta);
struct tevent_req *rsvd_apply_send(TALLOC_CTX *mem_ctx,
				   struct rsvd_open *open,
				   const struct rsvd_meta *meta);
struct tevent_req *rsvd_resize_send(TALLOC_CTX *mem_ctx,
				    struct rsvd_open *open,
				    const struct rsvd_meta *meta);
struct tevent_req *rsvd_convert_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     const struct rsvd_meta *meta);
struct tevent_req *rsvd_extract_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     const struct rsvd_meta *meta);
struct tevent_req *rsvd_optimize_send(TALLOC_CTX *mem_ctx,
				      struct rsvd_open *open,
				      const struct rsvd_meta *meta);

/* ---- merge.c ----------------------------------------------------------------------------- */

/*
 * Work in the background: files that no snapshot needs are merged or removed,
 * by one process at a time, whichever; what one leaves another takes up.
 */
void rsvd_merge_start(struct rsvd_open *open);
void rsvd_merge_stop(struct rsvd_open *open);

/* There may be work. */
void rsvd_merge_kick(struct rsvd_open *open);

/* Whether there is, as OptimizeNeeded tells it. */
bool rsvd_merge_needed(struct rsvd_open *open);

/* How far it is; written to the record now and then. */
void rsvd_meta_tell(struct rsvd_open *open, const struct guid *transaction,
		    uint32_t type, uint64_t done, uint64_t all);
void rsvd_meta_tell_over(struct rsvd_open *open,
			 const struct guid *transaction, uint32_t type,
			 NTSTATUS status);

/* ---- io.c and tunnel.c ---------------------------------------------------------------- */

bool rsvd_read(struct smb_request *smbreq, struct files_struct *fsp,
	       TALLOC_CTX *mem_ctx, DATA_BLOB *data, off_t offset,
	       size_t length, NTSTATUS *_status);
bool rsvd_write(struct smb_request *smbreq, struct files_struct *fsp,
		uint64_t offset, DATA_BLOB data, bool through,
		NTSTATUS *_status);
/* As struct hooks_client's: the size is the disk's, the allocation its file's. */
NTSTATUS rsvd_file_info(struct files_struct *fsp, uint16_t level, size_t room,
			SMB_STRUCT_STAT *st);
bool rsvd_ioctl(uint32_t code, struct tevent_context *ev,
		struct tevent_req *req, struct smbd_smb2_ioctl_state *state);

#endif
