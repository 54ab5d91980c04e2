/*
 * Databases of shared disks:
 *
 *   hvrs_rsvd_live.tdb  (lock directory)   one record per disk that is open,
 *                       by file id: opens, registrations, reservation.  It
 *                       outlives smbd, not a reboot.
 *   hvrs_rsvd.tdb       (state directory)  what APTPL must keep, by a key
 *                       that a reboot does not change; in transactions.
 *
 * On a cluster the second is one of CTDB's, of all nodes.  The first is not: a
 * node that dies takes the newest copies of a volatile record with it, and a
 * persistent one costs a commit of all nodes.  There each record is a file of
 * its own on the file system that the nodes share (rsvd/record_file.h), in the
 * folder "disks" of "hvrs:handle store".
 *
 * Records are those of lib/rsvd and lib/scsi.
 */
#ifndef HVRS_SAMBA_STATE_RSVD_H
#define HVRS_SAMBA_STATE_RSVD_H

#include "samba.h"

#include "rsvd/rsvd.h"

struct state_rsvd;

/* Names a disk in both databases. */
struct state_rsvd_key {
	struct file_id id;
	uint8_t lasting[40];	/* inode, birth time, disk id */
};

/* A record under its lock: freeing it unlocks. */
struct state_rsvd_lock {
	struct rsvd_record *record;	/* a new one where none was */
	bool found;
	struct db_record *rec;
	struct rsvd_record_file *file;	/* on a cluster, instead */
};

/* Opens both, as root.  NULL with a line in the log. */
struct state_rsvd *state_rsvd_open(TALLOC_CTX *mem_ctx);

/*
 * Where what processes tell each other of a disk lies, "DEVICE-INODE.KIND": in
 * the lock directory, and on a cluster in the folder all nodes have.  NULL for
 * want of memory.
 */
char *state_rsvd_path(TALLOC_CTX *mem_ctx, const struct state_rsvd *db,
		      const struct file_id *id, const char *kind);

/* Whether other nodes have the disks too. */
bool state_rsvd_is_apart(const struct state_rsvd *db);

/*
 * Locks a disk's record and reads it; *_lock is a talloc child of mem_ctx.  A
 * record nobody understands is left alone: -EPROTONOSUPPORT or -EINVAL, with a
 * line in the log.  On a cluster it waits for wait_ms at most: -ETIMEDOUT, as a
 * node may have stopped in the middle.
 */
int state_rsvd_lock(TALLOC_CTX *mem_ctx, struct state_rsvd *db,
		    const struct state_rsvd_key *key, unsigned wait_ms,
		    struct state_rsvd_lock **_lock);

/*
 * Stores the record, or deletes it where it has no open left; on a cluster all
 * of it but the epoch.
 */
int state_rsvd_store(struct state_rsvd_lock *lock);

/*
 * Whether the process of an open is there.  On a cluster: whether it has its
 * slot of the fence (a file at that path), which it has until the file system
 * lets go of its lock; so a node that CTDB has given up, but that might wake,
 * counts as there.
 */
bool state_rsvd_is_alive(const struct state_rsvd *db, const char *fence,
			 const struct rsvd_record_open *open);

/*
 * Takes opens away whose process is gone and that nobody may reconnect to.
 * True when the record changed.
 */
bool state_rsvd_sweep(const struct state_rsvd *db, const char *fence,
		      struct rsvd_record *record,
		      bool (*is_kept)(uint64_t open_id));

/* What APTPL kept: 0 and the state; -ENOENT; or as state_rsvd_lock(). */
int state_rsvd_kept_load(struct state_rsvd *db,
			 const struct state_rsvd_key *key,
			 struct scsi_pr *_pr);

/* Makes it durable, or deletes it (pr NULL).  Costs syncs of the disk. */
int state_rsvd_kept_store(struct state_rsvd *db,
			  const struct state_rsvd_key *key,
			  const struct scsi_pr *pr);

#endif
