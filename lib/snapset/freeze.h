/*
 * The write freeze: for the moment in which many files are cloned one by one,
 * all writers of a file system wait, so that the clones together are one
 * point in time.
 *
 * One page of memory per file system, mapped by every process, holds the time
 * until which writes wait; 0 most of the time.  A writer looks at it before
 * it begins a write (one load of memory), and nobody waits for writes that
 * have begun: they were not acknowledged yet, so no later write depends on
 * them, and whatever depends on them begins after the freeze.  So every write
 * that a clone holds was begun before the freeze, and everything it depends
 * on was done before it too.
 *
 * A freeze ends by itself: who froze and died keeps nobody waiting.
 *
 * The nodes of a cluster have a small file instead, on the file system that
 * they share, and a writer reads it: the same holds where a read sees each write
 * that has returned elsewhere.  Clocks are not compared: whoever freezes holds
 * a lock of the file, and each process counts the time since it saw the freeze.
 */
#ifndef HVRS_SNAPSET_FREEZE_H
#define HVRS_SNAPSET_FREEZE_H

#include <stdbool.h>
#include <stdint.h>
#include <talloc.h>

/* No freeze lasts longer, whatever the page says: nanoseconds. */
#define SNAPSET_FREEZE_MAX_NS	UINT64_C(10000000000)

struct snapset_freeze;

/*
 * Maps the page of the file system "device" (of stat(2)) in a folder that
 * only root may write to, making it where it is missing.  Returns 0 or a
 * negative errno.
 */
int snapset_freeze_open(TALLOC_CTX *mem_ctx, const char *folder,
			uint64_t device, struct snapset_freeze **_freeze);

/*
 * The same for all nodes of a cluster: path is the file, which is made where it
 * is missing.
 */
int snapset_freeze_open_apart(TALLOC_CTX *mem_ctx, const char *path,
			      struct snapset_freeze **_freeze);

/* Nanoseconds for which a write shall wait; 0 when it may begin. */
uint64_t snapset_freeze_left(struct snapset_freeze *freeze);

/*
 * Makes writes wait for at most so many nanoseconds.  -EBUSY while another
 * freeze is on, -EINVAL above the longest allowed.
 */
int snapset_freeze_begin(struct snapset_freeze *freeze, uint64_t ns);

/*
 * Lets writes go on.  0 when they waited the whole time, -ETIMEDOUT when the
 * freeze had ended before: what was cloned is no point in time.
 */
int snapset_freeze_end(struct snapset_freeze *freeze);

#endif
