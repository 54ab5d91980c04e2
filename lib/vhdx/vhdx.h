/*
 * VHDX disks ([MS-VHDX]): fixed, dynamic and differencing, many requests in
 * flight, many processes on one disk, and an image that opens again after a
 * power cut at any write.  README.md in this folder has the write ordering.
 *
 * Errors of this room:
 *   -EINVAL    the caller's request makes no sense (alignment, range, option)
 *   -EBADMSG   the file breaks the format; *_why, where there is one, says how
 *   -ENOTSUP   the file is sound but demands something unknown here
 *   -EROFS     a change was asked of a disk opened for reading
 *   -ENOENT    no parent where the locator says
 *   -ESTALE    a parent was found, but it was changed since
 *   -ELOOP     the chain is its own parent, or deeper than VHDX_CHAIN_MAX
 *   -EBUSY     requests are under way, or the size cannot shrink that far
 *   -EFBIG     a bound of the format or of this engine
 *   -ENOMEM, and whatever the store answers
 *
 * Units are bytes unless a name says otherwise.  Strings are UTF-8.
 */
#ifndef HVRS_VHDX_VHDX_H
#define HVRS_VHDX_VHDX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "store/store.h"
#include "util/guid.h"

struct tevent_context;
struct tevent_req;
struct vhdx;
struct vhdx_share;

#define VHDX_MIB 0x100000ULL
#define VHDX_SIZE_MAX (64ULL << 40)
#define VHDX_BLOCK_MIN (1U << 20)
#define VHDX_BLOCK_MAX (256U << 20)
#define VHDX_CHAIN_MAX 128
#define VHDX_CREATOR_MAX 256	/* UTF-16 units of the creator string */

/* ---- create --------------------------------------------------------------- */

enum vhdx_type {
	VHDX_FIXED,
	VHDX_DYNAMIC,
	VHDX_DIFFERENCING,
};

/* The key/value pairs of a parent locator, [MS-VHDX] 2.2.3 (2.6.2.6) */
struct vhdx_locator_pair {
	const char *key;
	const char *value;
};

/*
 * What a new disk shall be.  Zero means the default: block_size 32 MiB (2 MiB
 * for differencing), logical_sector 512, physical_sector 4096, log_length
 * 1 MiB, disk_id a new random one.
 */
struct vhdx_create {
	enum vhdx_type type;
	uint64_t size;			/* not for DIFFERENCING: the parent's */
	uint32_t block_size;
	uint32_t logical_sector;
	uint32_t physical_sector;
	uint32_t log_length;
	struct guid disk_id;
	const char *creator;		/* NULL: "hvrs" */
	/*
	 * DIFFERENCING: the parent, opened, and where it lies, as pairs
	 * (relative_path, volume_path, absolute_win32_path).  parent_linkage
	 * is added here.
	 */
	const struct vhdx *parent;
	const struct vhdx_locator_pair *paths;
	size_t path_count;
};

/*
 * Writes a new, empty disk into store, which must be empty, and flushes it.
 * The headers are written last, so a file cut off in between is no VHDX.
 * Layout as Microsoft's: log at 1 MiB, metadata after it, table after that.
 * Borrows everything.  -EINVAL for sizes the format forbids, -EEXIST when the
 * store is not empty.
 */
int vhdx_create(struct store *store, const struct vhdx_create *wanted);

/* ---- open and close ------------------------------------------------------- */

struct vhdx_open {
	bool writable;
	size_t cache_bytes;	/* table pages kept; 0: 16 MiB, least 1 MiB */
	struct vhdx_share *share; /* NULL: this process has the disk alone */
	struct vhdx *parent;	/* opened before; NULL where none is needed */
	bool without_parent;	/* open a differencing file alone, to look */
};

/*
 * Opens one file.  A log left by a crash is replayed into the file when
 * writable, or in memory when not ([MS-VHDX] 2.3.3).  A differencing file
 * needs its parent (which becomes a talloc child of the result, is used for
 * reading only and was checked by vhdx_parent_check()), or without_parent, and
 * then reads of sectors that the parent holds fail with -ENOENT.
 *
 * The store is borrowed and must outlive the disk.  The result is a talloc
 * child of mem_ctx; freeing it without vhdx_close() abandons it as a crash
 * would.  *_why (may be NULL) is set to a static text for -EBADMSG/-ENOTSUP.
 */
int vhdx_open(TALLOC_CTX *mem_ctx, struct store *store,
	      const struct vhdx_open *how, struct vhdx **_disk,
	      const char **_why);

/*
 * Commits what is pending, empties the log and frees the disk.  -EBUSY while
 * anything is under way (nothing happens then; vhdx_settle_send()); after any other error the
 * disk is freed and its log is left for the next open to replay.
 */
int vhdx_close(struct vhdx *disk);

struct vhdx_info {
	enum vhdx_type type;
	uint64_t size;
	uint64_t file_size;
	uint32_t block_size;
	uint32_t logical_sector;
	uint32_t physical_sector;
	bool writable;
	bool leave_allocated;
	bool has_parent;
	bool log_was_replayed;	/* by this open, in the file or in memory */
	uint16_t version;
	uint16_t log_version;
	uint64_t sequence;	/* of the current header */
	uint64_t log_offset;
	uint32_t log_length;
	uint64_t bat_offset;
	uint32_t bat_length;
	uint64_t metadata_offset;
	uint32_t metadata_length;
	uint64_t block_count;
	struct guid file_write_guid;
	struct guid data_write_guid;
	struct guid log_guid;
	struct guid disk_id;	/* SCSI page 83 data */
	char creator[3 * VHDX_CREATOR_MAX + 1];
};

/* Fills *_info with what is known of the disk without I/O. */
void vhdx_info_get(const struct vhdx *disk, struct vhdx_info *_info);

/*
 * The parent locator's pairs; *_pairs is owned by the disk.  -ENOENT when the
 * disk has no parent.
 */
int vhdx_locator_get(const struct vhdx *disk,
		     const struct vhdx_locator_pair **_pairs, size_t *_count);

/*
 * Rewrites the locator through the log, to refresh stale paths or to add
 * parent_linkage2 before a merge.  All pairs are given, parent_linkage too.
 * Only with nothing under way and no share.
 */
int vhdx_locator_set(struct vhdx *disk, const struct vhdx_locator_pair *pairs,
		     size_t count);

/*
 * Whether parent may be the parent of child: its DataWriteGuid is one of the
 * linkages (-ESTALE) and the logical sectors agree (-EINVAL).
 */
int vhdx_parent_check(const struct vhdx *child, const struct vhdx *parent);

/* The parent that the disk was opened with, borrowed, or NULL. */
struct vhdx *vhdx_parent_get(const struct vhdx *disk);

/* ---- chains --------------------------------------------------------------- */

/*
 * How vhdx_chain_open() reaches a parent.  find() turns one pair of the
 * locator of the child at child_path into a store opened for reading and the
 * path by which it will be named itself; both become children of mem_ctx.
 * -ENOENT means "try the next pair"; any other error ends the open.
 */
struct vhdx_chain_ops {
	int (*find)(TALLOC_CTX *mem_ctx, void *private_data,
		    const char *child_path, const char *key,
		    const char *value, struct store **_store,
		    const char **_path);
};

/*
 * Opens the disk in store, named path, with all its parents: relative_path
 * first, then volume_path, then absolute_win32_path.  how->parent and
 * how->without_parent must be unset.  A disk without a parent is a chain of
 * one.
 */
int vhdx_chain_open(TALLOC_CTX *mem_ctx, const struct vhdx_chain_ops *ops,
		    void *private_data, struct store *store, const char *path,
		    const struct vhdx_open *how, struct vhdx **_disk,
		    const char **_why);

/*
 * A find() for files of this machine: only relative_path, taken from the
 * folder of child_path, with '\' or '/', never leaving the folder root_path.
 */
struct vhdx_chain_files {
	struct tevent_context *ev;
	const char *root_path;
};
extern const struct vhdx_chain_ops vhdx_chain_files_ops;

/* ---- requests ------------------------------------------------------------- */

enum vhdx_op {
	VHDX_READ,
	VHDX_WRITE,
	VHDX_UNMAP,
	VHDX_FLUSH,
	VHDX_SETTLE,
	VHDX_RECOVER,
};

/* One request; what each does stands at the tevent form of it below. */
struct vhdx_io {
	enum vhdx_op op;
	bool through;
	union {
		void *buffer;		/* to read into */
		const void *data;	/* to write */
	};
	uint64_t offset;
	uint64_t length;
	/* 0 or a negative errno; io is the caller's again. */
	void (*done)(struct vhdx_io *io, int result);
	void *private_data;

	/* The disk's. */
	struct vhdx *disk;
	struct store_io whole;
};

/*
 * All requests may be under way together, in any number.  Offset and length
 * are multiples of the logical sector and lie inside the disk (-EINVAL).
 * Buffers, and io, stay the disk's until the request is done.
 *
 * Starts a request at the least cost.  io->done may be called before this
 * returns.
 */
void vhdx_submit(struct vhdx *disk, struct vhdx_io *io);

/*
 * The same as tevent requests.  One is not cancelled by freeing it before it is
 * done: do not.  The disk's loop is the one its store completes on; ev is the
 * same.
 */
struct tevent_req *vhdx_read_send(TALLOC_CTX *mem_ctx,
				  struct tevent_context *ev,
				  struct vhdx *disk, void *buffer,
				  uint64_t offset, size_t length);
int vhdx_read_recv(struct tevent_req *req);

/*
 * Writes.  With through (FUA) it is done when stable.  Without, when later
 * reads see it; a following flush makes it stable.
 */
struct tevent_req *vhdx_write_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct vhdx *disk, const void *buffer,
				   uint64_t offset, size_t length,
				   bool through);
int vhdx_write_recv(struct tevent_req *req);

/* Makes every write and unmap that was done before it stable. */
struct tevent_req *vhdx_flush_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct vhdx *disk);
int vhdx_flush_recv(struct tevent_req *req);

/*
 * Unmaps the whole blocks inside the range: they read as zero afterwards and
 * the file's space is freed, but stays reserved for the same block
 * ([MS-VHDX] 2.5.1.1, state 3).  Blocks that only a parent has become zero.
 * Partial blocks at the ends, and fixed disks, are left as they are.
 */
struct tevent_req *vhdx_unmap_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct vhdx *disk, uint64_t offset,
				   uint64_t length);
int vhdx_unmap_recv(struct tevent_req *req);

/*
 * Done when nothing of the disk is under way that nobody waits for: what a
 * flush logged is still being applied when the flush is done.  Before
 * vhdx_close() and the synchronous calls below.
 */
struct tevent_req *vhdx_settle_send(TALLOC_CTX *mem_ctx,
				    struct tevent_context *ev,
				    struct vhdx *disk);
int vhdx_settle_recv(struct tevent_req *req);

/*
 * With a share: finishes or undoes what processes that died had begun.  Before,
 * a write of theirs that was never answered may become visible at any time.
 */
struct tevent_req *vhdx_recover_send(TALLOC_CTX *mem_ctx,
				     struct tevent_context *ev,
				     struct vhdx *disk);
int vhdx_recover_recv(struct tevent_req *req);

/*
 * The same for a program that waits: each runs ev's loop until its request is
 * done and the disk has settled.  Not from inside that loop.
 */
int vhdx_read(struct vhdx *disk, struct tevent_context *ev, void *buffer,
	      uint64_t offset, size_t length);
int vhdx_write(struct vhdx *disk, struct tevent_context *ev,
	       const void *buffer, uint64_t offset, size_t length,
	       bool through);
int vhdx_flush(struct vhdx *disk, struct tevent_context *ev);
int vhdx_unmap(struct vhdx *disk, struct tevent_context *ev, uint64_t offset,
	       uint64_t length);
int vhdx_settle(struct vhdx *disk, struct tevent_context *ev);
int vhdx_recover(struct vhdx *disk, struct tevent_context *ev);

/* ---- merging -------------------------------------------------------------- */

/*
 * Makes to read as from.  to began as a copy of the file that is depth parents
 * above from (1: from's parent), is opened with that file's parent, without a
 * share, and was given from's size: so only what the files before that one
 * hold is written to it.  It is stable when the request is done, and has
 * settled.  Nobody writes to from meanwhile, and nobody uses to.
 *
 * progress (may be NULL) is told bytes done and in all now and then, and ends
 * the work by returning false: -ECANCELED.  As with other requests, neither
 * disk nor request is freed before it is done.
 */
struct tevent_req *vhdx_merge_send(TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct vhdx *from, unsigned depth,
				   struct vhdx *to,
				   bool (*progress)(void *private_data,
						    uint64_t done,
						    uint64_t all),
				   void *private_data);
int vhdx_merge_recv(struct tevent_req *req);

/*
 * Gives the disk another's DataWriteGuid ([MS-VHDX] 2.2.2), whose content it
 * has, so that children of the other are its own.  Synchronously, with nothing
 * under way and no share.
 */
int vhdx_linkage_set(struct vhdx *disk, const struct guid *linkage);

/* ---- looking and changing as a whole -------------------------------------- */

/*
 * These read or write synchronously and want nothing under way (-EBUSY;
 * vhdx_settle_send()).
 */

enum vhdx_extent_kind {
	VHDX_EXTENT_ZERO,	/* reads as zero, no data anywhere */
	VHDX_EXTENT_DATA,	/* in the file of the disk at depth */
};

struct vhdx_extent {
	enum vhdx_extent_kind kind;
	uint64_t offset;	/* of the disk */
	uint64_t length;
	uint64_t file_offset;	/* DATA: in that file */
	unsigned depth;		/* 0: this disk; 1: its parent; ... */
};

/*
 * The longest extent found at offset, at most length long, without merging
 * blocks.  Looks through the parents.  Walk a disk by adding lengths.
 */
int vhdx_map(struct vhdx *disk, uint64_t offset, uint64_t length,
	     struct vhdx_extent *_extent);

/* One entry of the block table, [MS-VHDX] 2.5.1 */
struct vhdx_block {
	unsigned state;		/* 0..7 */
	uint64_t file_offset;	/* 0: none; in state 1 or 3 a soft anchor */
};

/* The table's entry of payload block number block (< block_count). */
int vhdx_block_get(struct vhdx *disk, uint64_t block,
		   struct vhdx_block *_block);

/*
 * Changes the size to a multiple of the logical sector of at most
 * VHDX_SIZE_MAX.  Growing a fixed disk grows its file.  Shrinking is refused
 * with -EBUSY while a block wholly past the new end holds data, unless discard
 * is set: then it is lost.  With a share: under its lock.
 */
int vhdx_resize(struct vhdx *disk, uint64_t size, bool discard);

/*
 * The smallest size to which vhdx_resize() goes without discard: the end of
 * the last block that holds data.
 */
int vhdx_size_least(struct vhdx *disk, uint64_t *_size);

/*
 * Moves blocks from the end of the file into unused space, gives up the space
 * of unmapped blocks and cuts the file.  progress (may be NULL) is told blocks
 * done and in all, and ends the work early, with the disk sound, by returning
 * false.  Not with a share.
 */
int vhdx_compact(struct vhdx *disk,
		 bool (*progress)(void *private_data, uint64_t done,
				  uint64_t all),
		 void *private_data);

enum vhdx_check_kind {
	VHDX_CHECK_HEADER,	/* one of the two headers is not valid */
	VHDX_CHECK_REGION,	/* the two region tables differ or one is bad */
	VHDX_CHECK_ENTRY,	/* a table entry is not allowed */
	VHDX_CHECK_OUTSIDE,	/* a block lies outside the file */
	VHDX_CHECK_OVERLAP,	/* two structures share space */
	VHDX_CHECK_BITMAP,	/* a partial block without its bitmap */
	VHDX_CHECK_LEAK,	/* space of the file that nothing uses */
};

struct vhdx_finding {
	enum vhdx_check_kind kind;
	const char *what;	/* a static sentence */
	uint64_t index;		/* of the table entry, where there is one */
	uint64_t file_offset;
	uint64_t length;
	bool repaired;
};

struct vhdx_check_result {
	uint64_t errors;	/* findings other than leaks */
	uint64_t repaired;
	uint64_t blocks_present;
	uint64_t blocks_partial;
	uint64_t blocks_unmapped;
	uint64_t bytes_leaked;
};

/*
 * Reads the whole table and both copies of every header, and tells each
 * finding to report (may be NULL).  With repair (needs a writable disk without
 * a share) headers and region tables are rewritten from the good copy, and
 * entries that are not allowed or point outside the file or into another
 * structure are cleared: their data is lost, so that the rest is safe.  Leaks
 * are only counted; vhdx_compact() takes them back.  Memory: one bit for each
 * MiB of the file.
 */
int vhdx_check(struct vhdx *disk, bool repair,
	       void (*report)(void *private_data,
			      const struct vhdx_finding *finding),
	       void *private_data, struct vhdx_check_result *_result);

/* ---- the log, for looking ------------------------------------------------- */

struct vhdx_log_piece {
	bool zero;		/* else one 4 KiB page */
	uint64_t file_offset;
	uint64_t length;
};

struct vhdx_log_entry {
	uint64_t log_offset;	/* from the start of the log */
	uint64_t sequence;
	uint32_t length;
	uint32_t tail;
	uint64_t flushed_file_offset;
	uint64_t last_file_offset;
	struct guid log_guid;
	bool current_guid;	/* the header's */
	bool active;		/* a replay would use it */
	uint32_t piece_count;
	const struct vhdx_log_piece *pieces;	/* for the call only */
};

/*
 * Walks the log of a file that need not be opened, entry by entry in the order
 * of their place, including old ones; each() ends the walk by returning false.
 * Needs a file whose header is valid (-EBADMSG).
 */
int vhdx_log_walk(struct store *store,
		  bool (*each)(void *private_data,
			       const struct vhdx_log_entry *entry),
		  void *private_data);

/* ---- many processes ------------------------------------------------------- */

/*
 * One disk open in several processes at once.  The caller provides a lock and
 * a small record that all of them see; the engine does the rest: payload goes
 * in parallel, changes of the table one process at a time, and no process uses
 * a table page that another has changed since.
 *
 * The record is VHDX_SHARE_RECORD bytes, opaque but for its first eight: the
 * generation, little-endian, which only grows.  store() may be cut short by the
 * death of its process: then the first eight must be old or new, and be new
 * before the last eight are.  It must be all zero for the
 * first process that joins after the last one left or died, and must not
 * outlive a reboot.  A lock held by a process that dies must become free.
 *
 * Everything but generation() is called with the lock held; load() and store()
 * may be slow, generation() is called for every request.
 */
#define VHDX_SHARE_RECORD 128

struct vhdx_share_ops {
	/*
	 * Takes the lock, waiting.  Then lock_done is called, from the loop and
	 * never from inside lock(), with 0 or a negative errno.
	 */
	void (*lock)(struct vhdx_share *share,
		     void (*lock_done)(void *engine, int result),
		     void *engine);
	/*
	 * The same for open, resize and close, which may block: a while, then
	 * -ETIMEDOUT.  -EDEADLK when another disk of this process has it, whose
	 * turn ends by the loop.
	 */
	int (*lock_wait)(struct vhdx_share *share);
	void (*unlock)(struct vhdx_share *share);
	int (*load)(struct vhdx_share *share,
		    uint8_t record[VHDX_SHARE_RECORD]);
	int (*store)(struct vhdx_share *share,
		     const uint8_t record[VHDX_SHARE_RECORD]);
	/* The generation alone, without the lock, as of now or later. */
	int (*generation)(struct vhdx_share *share, uint64_t *_generation);
	/* Whether no other process has joined. */
	int (*alone)(struct vhdx_share *share, bool *_alone);
};

/* Every kind of share begins with this; one per open disk. */
struct vhdx_share {
	const struct vhdx_share_ops *ops;
	/*
	 * Members have caches of their own, which go with them: what a turn has
	 * put in its place is flushed before others are told of it.
	 */
	bool apart;
};

/*
 * A share on this machine: a file of its own, at path, whose first bytes are
 * the record (mapped by every process) and whose byte locks are the lock and
 * the membership.  Made when missing; may be removed when nobody has the disk
 * open.  Joins at once and leaves when freed.
 */
int vhdx_share_file_open(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
			 const char *path, struct vhdx_share **_share);

/*
 * The same among machines: path and the disk lie on a file system that they
 * share, on which a read sees each write that has returned on another machine,
 * and whose fcntl(2) locks hold for all of them and go with a machine not
 * before that can write no more.  Nothing is mapped; the record is stable
 * whenever the lock is given back, and before a turn logs anything.
 */
int vhdx_share_apart_open(TALLOC_CTX *mem_ctx, struct tevent_context *ev,
			  const char *path, struct vhdx_share **_share);

/* Whether either has a member at path; false where there is no such file. */
bool vhdx_share_is_used_at(const char *path);

#endif
