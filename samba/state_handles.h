/*
 * Handles that outlive a process of smbd: an index of all of them that every
 * process sees, over the log that outlives smbd itself.  Lock order: README.
 */
#ifndef HVRS_SAMBA_STATE_HANDLES_H
#define HVRS_SAMBA_STATE_HANDLES_H

#include "samba.h"

#include "handle/handle.h"
#include "state_log.h"

struct state_handle {
	struct handle_record record;	/* points into memory of this */
	bool connected;			/* as its owner last said */
	bool leaving;			/* owner was about to end, and may */
					/* have writes in flight until then */
	struct server_id owner;		/* the process that has it open */
	struct server_id claimer;	/* one that is putting it together */
	uint64_t gen_id;		/* of its share mode entry there */
	uint32_t home;			/* node whose log holds the newest */
	uint64_t logs;			/* bit of each that holds any of it */
};

/*
 * Opens the index, and where no process has it open, fills it from the log:
 * then every handle waits for its owner.  Called in each process as root
 * before the first request.  False with one log line where handles cannot be
 * kept; then the others find nothing and store nothing.
 */
bool state_handles_init(void);

/* NULL where there is none or it cannot be read (logged). */
struct state_handle *state_handles_fetch(TALLOC_CTX *mem_ctx, uint64_t id);
struct state_handle *state_handles_by_guid(TALLOC_CTX *mem_ctx,
					   const struct guid *create_guid);

/* By the share mode entry of a process that has it open, or had. */
struct state_handle *state_handles_by_entry(TALLOC_CTX *mem_ctx,
					    const struct server_id *pid,
					    uint64_t share_file_id);

/* Ids of the handles of a file; 0 and NULL where there is none. */
size_t state_handles_of_file(TALLOC_CTX *mem_ctx, const struct file_id *file,
			     uint64_t **_ids);

/*
 * The same, of those that may hold locks: one that is just being opened and
 * not answered yet may be missing.  Cheap, for reads, writes and locks.
 */
size_t state_handles_with_locks(TALLOC_CTX *mem_ctx,
				const struct file_id *file, uint64_t **_ids);

/*
 * To be called before handles of files on a device are looked for: the first
 * time since smbd started, handles whose file systems have come back under
 * other numbers are found again.
 */
void state_handles_device(uint64_t device);

/* Ids of some of the newest handles of a client. */
size_t state_handles_of_client(TALLOC_CTX *mem_ctx, const struct guid *client,
			       uint64_t **_ids);

/* What it is now: one whose owner died waits. */
enum handle_state state_handle_state(const struct state_handle *h);

/*
 * Whether a process can write no more.  On a cluster this takes more than that
 * the others do not see it: the file system must have let go of its lock.
 */
bool state_handles_is_gone(const struct server_id *id);

/* Whether nobody writes any more for a handle that nobody has put back. */
bool state_handles_is_let_go(const struct state_handle *h);

/*
 * On a cluster: whether this process has been given up by the others, or has
 * lost a handle to them; then it must not write any more.  The first asks for
 * the process, as cheaply as can be; the second for one handle.
 */
bool state_handles_is_out(void);
void state_handles_begin(void);		/* from now on */
bool state_handles_is_mine(uint64_t id);

/*
 * On a cluster: whether a folder has the id that the first node which asked
 * found there.  Else Samba's own locks would not be those of the same files.
 * 1, 0, or an error where nobody tells.
 */
int state_handles_same_ids(const char *path, const struct file_id *file);

/*
 * The processes that have handles open, of this node or of the others, each
 * once; how many.
 */
size_t state_handles_owners(TALLOC_CTX *mem_ctx, bool here,
			    struct server_id **_ids);

/*
 * Gives up the nodes of the processes that have these handles, where this node
 * is in touch with the cluster and they are not seen for a while, but may
 * write.  Now and then, as root, by one process of a node.
 */
void state_handles_give_up(void);

/*
 * Puts a handle into the log and the index, with the next revision.  After 0
 * it is durable once *_point is (state_log_commit()).  A negative errno: it
 * is stored nowhere.
 */
int state_handles_store(struct state_handle *h,
			struct state_log_point *_point);

/*
 * The same for who has not the handle's file open: -EAGAIN where somebody else
 * has changed the handle or taken it since it was fetched, -EREMOTE where a
 * process of another node may change it; then nothing is stored.
 */
int state_handles_store_other(struct state_handle *h,
			      struct state_log_point *_point);

/* Changes of the index alone, which need not outlive smbd. */
void state_handles_store_index(const struct state_handle *h);

/* Notes that the owner of a handle is about to let it go. */
void state_handles_leave(uint64_t id, const struct server_id *owner);

/* Forgets a handle, in the log too. */
void state_handles_drop(uint64_t id);

/*
 * Lets this process put a handle together that waits, unless another was
 * faster; only the one that gets true may go on.  Until it stores the handle
 * as its own (or without a claimer, to give up) it waits on for all others.
 * _end: to end it instead.
 */
bool state_handles_claim(uint64_t id, const struct server_id *me);
bool state_handles_claim_end(uint64_t id, const struct server_id *me);

/* Calls fn for every handle until it returns false. */
void state_handles_traverse(bool (*fn)(struct state_handle *h, void *data),
			    void *data);

/*
 * The process that has the index locked right now; *_turn is another for each
 * time.  False where none has.
 */
bool state_handles_holder(struct server_id *_id, uint64_t *_turn);

/*
 * Writes the log anew where it holds much that is over, or where the disk had
 * an error.
 */
void state_handles_compact(void);

/* Milliseconds of the wall clock, as in the records. */
uint64_t state_handles_now(void);

/* Whether this series of Samba has what clusters take (hooks_handles.c). */
static inline bool state_handles_work_on_cluster(void)
{
	return SERIES_IS(SERIES_4_22);
}

/* Where the log lies. */
const char *state_handles_directory(void);

/* Whether commits wait for the disk (hvrs:handle store sync). */
bool state_handles_synced(void);

#endif
