/*
 * Databases of shared disks:
 *
 *   hvrs_rsvd_live.tdb  (lock directory)   one record per disk that is open,
 *                       by file id: opens, registrations, reservation.  It
 *                       outlives smbd, not a reboot.
 *   hvrs_rsvd.tdb       (state directory)  what APTPL must keep, by a key
 *                       that a reboot does not change; in transactions.
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
};

/* Opens both, as root.  NULL with a line in the log. */
struct state_rsvd *state_rsvd_open(TALLOC_CTX *mem_ctx);

/*
 * Locks a disk's record and reads it; *_lock is a talloc child of mem_ctx.  A
 * record nobody understands is left alone: -EPROTONOSUPPORT or -EINVAL, with a
 * line in the log.
 */
int state_rsvd_lock(TALLOC_CTX *mem_ctx, struct state_rsvd *db,
		    const struct state_rsvd_key *key,
		    struct state_rsvd_lock **_lock);

/* Stores the record, or deletes it where it has no open left. */
int state_rsvd_store(struct state_rsvd_lock *lock);

/*
 * Takes opens away whose process is gone and that nobody may reconnect to.
 * True when the record changed.
 */
bool state_rsvd_sweep(struct rsvd_record *record,
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
