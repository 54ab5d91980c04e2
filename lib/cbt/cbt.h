/*
 * Change tracking: which regions of a disk were written between two marks.
 *
 * One file per disk.  It never forgets a write, whatever dies when:
 *  - a region's bit is written to the file before the disk's write begins, so
 *    it outlives the process;
 *  - before the first write to a group of regions the group is "armed", and
 *    that is made stable.  After a power cut, which may lose bits, all of an
 *    armed group counts as changed.  So only the first write to a group since
 *    a mark waits for a sync.
 * What is told may be too much, never too little.  README.md has the format.
 *
 * Errors of this room:
 *   -EINVAL    the caller's request makes no sense
 *   -EBADMSG   the file breaks the format; *_why, where there is one, says how
 *   -ENOTSUP   another version of the format
 *   -ENOENT    no such mark
 *   -EEXIST    a mark of that id is there, or the store is not empty
 *   -ENODATA   not all of the time between the two marks was tracked
 *   -ESTALE    tracking was broken (cbt_break())
 *   -ENOSPC    CBT_MARKS_MAX marks are there already
 *   -ENOMEM, and whatever the store answers
 */
#ifndef HVRS_CBT_CBT_H
#define HVRS_CBT_CBT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "util/guid.h"

struct store;
struct cbt;

#define CBT_REGION 0x10000ULL		/* what one bit stands for */
#define CBT_GROUP 0x4000000ULL		/* the least that is armed: 64 MiB */
#define CBT_SIZE_MAX (64ULL << 40)
#define CBT_MARKS_MAX 1024U

/* ---- the header ----------------------------------------------------------- */

#define CBT_HEADER_SIZE 0x10000U

enum cbt_state {
	CBT_OFF = 0,
	CBT_ON = 1,
	CBT_BROKEN = 2,		/* a write may be missing */
};

enum cbt_mark_flags {
	CBT_GAP = 1,		/* writes before it were not all tracked */
	CBT_OWN = 2,		/* the caller's; means nothing here */
};

struct cbt_mark {
	struct guid id;
	uint32_t slot;		/* what changed since the mark before */
	uint32_t flags;
};

#define CBT_OWN_SIZE 64
#define CBT_STAMP_SIZE 32

struct cbt_header {
	uint64_t sequence;
	uint64_t size;		/* of the disk, as far as it was told */
	struct guid identity;	/* the disk's, as cbt_identity_set() left it */
	uint32_t state;
	uint32_t reason;	/* BROKEN: the caller's */
	uint32_t slot;		/* what changes now */
	uint32_t flags;		/* of the mark to come */
	uint32_t count;
	struct cbt_mark marks[CBT_MARKS_MAX];	/* oldest first */
	uint8_t own[CBT_OWN_SIZE];	/* the caller's */
	uint8_t stamp[CBT_STAMP_SIZE];	/* see cbt_session() */
};

/* Fills *_h from CBT_HEADER_SIZE bytes: -EBADMSG, -ENOTSUP. */
int cbt_header_decode(const uint8_t *bytes, struct cbt_header *_h,
		      const char **_why);

/* The CBT_HEADER_SIZE bytes of h, with its checksum. */
void cbt_header_encode(const struct cbt_header *h, uint8_t *bytes);

/* ---- the map -------------------------------------------------------------- */

/*
 * Bits are changed eight at a time: several processes that share a file give
 * a lock, held only around one read and one write of it.  It must become free
 * when its holder dies.  It may end with -ETIMEDOUT: then nothing was changed,
 * and the same may be tried again.
 */
struct cbt_lock {
	int (*lock)(void *private_data);
	void (*unlock)(void *private_data);
	void *private_data;
	/*
	 * The others have caches of their own, that go with them: a bit is made
	 * stable before the write, as an arm else, so nothing is armed.
	 */
	bool apart;
};

/* Writes an empty map, tracking off, into an empty store (-EEXIST). */
int cbt_create(struct store *store, uint64_t size);

/*
 * Opens the map in store, which is borrowed and must outlive it.  lock may be
 * NULL where this process has it alone.  recover must be set by the first who
 * opens it after it was not closed, unless it is certain that the machine and
 * the file system went on meanwhile.  The result is a talloc child of mem_ctx.
 */
int cbt_open(TALLOC_CTX *mem_ctx, struct store *store,
	     const struct cbt_lock *lock, bool recover, struct cbt **_cbt,
	     const char **_why);

/*
 * Instead of recover: stamp is what differs after a power cut (which mount of
 * the file system this is).  The first who comes with another one recovers and
 * leaves his.  It may be called beside others who note, with a lock.
 */
int cbt_session(struct cbt *cbt, const uint8_t stamp[CBT_STAMP_SIZE]);

/*
 * Reads the header again, after another process has changed it.  Nothing of
 * what this process knew of the map counts any more.
 */
int cbt_reload(struct cbt *cbt);

/* What is known, borrowed until the next call that changes it. */
const struct cbt_header *cbt_header_get(const struct cbt *cbt);

/*
 * Whether cbt_note() would have to sync (an armed group is missing; apart, a
 * bit), so that a caller that must not wait can call it elsewhere.
 */
bool cbt_note_waits(const struct cbt *cbt, uint64_t offset, uint64_t length);

/*
 * The same in steps, so that the sync can be the caller's: arms these bytes'
 * groups in the file (apart: sets the bits); after the caller has flushed the
 * store, done().
 */
int cbt_arm_write(struct cbt *cbt, uint64_t offset, uint64_t length);
void cbt_arm_done(struct cbt *cbt, uint64_t offset, uint64_t length);

/*
 * Before a change of these bytes of the disk begins.  After an error it must
 * not begin.  Does nothing where tracking is not on.
 */
int cbt_note(struct cbt *cbt, uint64_t offset, uint64_t length);

/*
 * The calls below change the header.  One process at a time calls them, with
 * no write of the disk under way in any; the others reload before their next.
 * Each is stable when it returns; a cut in between leaves before or after.
 */

/* Tracking on (a gap before the next mark) or off. */
int cbt_start(struct cbt *cbt);
int cbt_stop(struct cbt *cbt);

/* A write may be missing: all marks are worthless from now on. */
int cbt_break(struct cbt *cbt, uint32_t reason);

/* Forgets every mark, and begins anew with tracking on. */
int cbt_reset(struct cbt *cbt);

/* The disk as it is now gets a name. */
int cbt_mark(struct cbt *cbt, const struct guid *id);

/* The caller's 64 bytes, and its flag of a mark (-ENOENT). */
int cbt_own_set(struct cbt *cbt, const uint8_t own[CBT_OWN_SIZE]);
int cbt_mark_own(struct cbt *cbt, const struct guid *id, bool on);

/* A name nobody asks for again; the others stay usable. */
int cbt_forget(struct cbt *cbt, const struct guid *id);

/*
 * The disk became what it was at mark id again: all that changed since then
 * has changed once more.
 */
int cbt_revert(struct cbt *cbt, const struct guid *id);

/* What the disk itself says of its content, to tell a change without us. */
int cbt_identity_set(struct cbt *cbt, const struct guid *identity);

/* The disk's size changed; what was cut off or added counts as changed. */
int cbt_resize(struct cbt *cbt, uint64_t size);

/*
 * By the last who has it open, with nothing under way: bits become stable and
 * groups are disarmed, so that the next open has nothing to recover.
 */
int cbt_settle(struct cbt *cbt);

/* ---- the question --------------------------------------------------------- */

struct cbt_range {
	uint64_t offset;
	uint64_t length;
};

/*
 * The ranges of [offset, offset + length) that may differ between the marks
 * limit and target, ascending, apart from each other.  At most room of them;
 * *_processed tells how much of length they are the whole answer for.
 * -EINVAL where target is older than limit.
 */
int cbt_changes(struct cbt *cbt, const struct guid *target,
		const struct guid *limit, uint64_t offset, uint64_t length,
		struct cbt_range *ranges, size_t room, size_t *_count,
		uint64_t *_processed);

#endif
