/*
 * Inside the VHDX engine.  One struct vhdx is one open file; what its files
 * do:
 *
 *   page.c     cache of 4 KiB pages of the block table and of bitmaps
 *   overlay.c  pages that a log replayed in memory lays over the file
 *   log.c      finding and replaying the active sequence, building entries
 *   header.c   header updates
 *   commit.c   flush, log, flush, apply: the only way a page reaches the file
 *   gate.c     who may change the table: session start, lock, shared record
 *   map.c      where a sector lies
 *   request.c  requests cut into pieces, one block each; reads and flushes
 *   allocate.c pieces that change the table: writes and unmaps
 *   merge.c    making a copy of a parent read as its child
 *   load.c open.c create.c resize.c compact.c check.c chain.c look.c
 */
#ifndef HVRS_VHDX_VHDX_PRIV_H
#define HVRS_VHDX_VHDX_PRIV_H

#include <endian.h>
#include <string.h>

#include "store/store.h"
#include "vhdx/vhdx.h"
#include "vhdx/vhdx_format.h"

/*
 * Pages in one log entry: the descriptors of 120 fit one sector, and two such
 * entries fit the smallest log.
 */
#define VHDX_COMMIT_MAX 120U
/* Dirty pages at which a commit starts by itself. */
#define VHDX_COMMIT_SOON 64U
/* A block's bits lie in at most this many pages (256 MiB of 512 bytes). */
#define VHDX_BITS_MAX 16U
/* Pieces of one request under way together. */
#define VHDX_PIECES_MAX 16U
/* Pieces that join one turn with the lock. */
#define VHDX_BATCH_MAX 256U

/* ---- waiting -------------------------------------------------------------- */

/* Something that waits its turn; embedded where it is needed. */
struct vhdx_wait {
	struct vhdx_wait *next;
	void (*wake)(struct vhdx_wait *wait, int result);
	bool inside;		/* the gate */
};

/* Stands for a wait that must not be: -EBUSY then. */
extern struct vhdx_wait vhdx_wait_never;

struct vhdx_queue {
	struct vhdx_wait *first;
	struct vhdx_wait *last;
};

void vhdx_queue_add(struct vhdx_queue *q, struct vhdx_wait *wait);
/* Takes all out first, so that one woken may queue again. */
void vhdx_queue_wake(struct vhdx_queue *q, int result);
/* Moves all of from to the end of to. */
void vhdx_queue_move(struct vhdx_queue *to, struct vhdx_queue *from);

/* ---- overlay -------------------------------------------------------------- */

struct vhdx_overlay;

struct vhdx_overlay *vhdx_overlay_new(TALLOC_CTX *mem_ctx);
/* -EFBIG past its bounds. */
int vhdx_overlay_page(struct vhdx_overlay *o, uint64_t offset,
		      const uint8_t *page);
int vhdx_overlay_zero(struct vhdx_overlay *o, uint64_t offset,
		      uint64_t length);
/* Lays itself over length bytes read at offset, both multiples of a page. */
void vhdx_overlay_apply(const struct vhdx_overlay *o, uint8_t *bytes,
			uint64_t offset, size_t length);

/* ---- pages ---------------------------------------------------------------- */

struct vhdx_page {
	struct vhdx_page *hash_next;
	struct vhdx_page *newer;	/* in order of last use */
	struct vhdx_page *older;
	uint64_t offset;		/* in the file */
	unsigned pins;
	bool valid;
	bool stale;			/* loading, but another changed it */
	bool dirty;
	bool committing;		/* copied, but not yet applied */
	struct vhdx *disk;
	struct vhdx_queue waiting;
	struct store_io io;
	uint8_t bytes[VHDX_PAGE];
};

struct vhdx_pages {
	struct vhdx_page **table;
	size_t table_size;		/* a power of two */
	struct vhdx_page *newest;
	struct vhdx_page *oldest;
	size_t count;
	size_t limit;
	unsigned dirty;
	struct vhdx_page *dirties[VHDX_COMMIT_MAX];
};

int vhdx_pages_init(struct vhdx *disk, size_t bytes);
/*
 * The page at offset.  Returns 0 with *_page, valid until the loop runs again
 * unless pinned; or -EINPROGRESS, and then wait is woken when it is there (or
 * with the error); or another error at once.  NULL wait: reads synchronously;
 * &vhdx_wait_never: does not read.
 */
static inline int vhdx_page_get(struct vhdx *disk, uint64_t offset,
				struct vhdx_wait *wait,
				struct vhdx_page **_page);
/* The same where it is not the page that was used last. */
int vhdx_page_find(struct vhdx *disk, uint64_t offset, struct vhdx_wait *wait,
		   struct vhdx_page **_page);
/* A page of new, never used space, known to be zero. */
int vhdx_page_fresh(struct vhdx *disk, uint64_t offset,
		    struct vhdx_page **_page);
void vhdx_page_pin(struct vhdx_page *page);
void vhdx_page_unpin(struct vhdx_page *page);
/*
 * Will go out with the next commit; pinned until it is applied.  The caller
 * has reserved room for it (vhdx_commit_reserve()).
 */
void vhdx_page_dirty(struct vhdx_page *page);
/* Forgets all clean pages: another process changed some. */
void vhdx_pages_forget(struct vhdx *disk);
/* 8 bytes of a page, as a table entry. */
static inline uint64_t vhdx_page_entry(const struct vhdx_page *page,
				       unsigned at)
{
	uint64_t entry = 0;

	memcpy(&entry, page->bytes + at, sizeof(entry));
	return le64toh(entry);
}
void vhdx_page_entry_set(struct vhdx_page *page, unsigned at, uint64_t entry);

/* ---- log ------------------------------------------------------------------ */

struct vhdx_log {
	bool active;		/* the header names our log GUID */
	struct guid guid;
	uint64_t sequence;	/* of the next entry */
	uint32_t next;		/* its place */
};

/* What the scan of a log found. */
struct vhdx_sequence {
	uint32_t tail;		/* place of the first entry to replay */
	uint32_t head;		/* place of the last */
	uint32_t start;		/* place of the first entry of the sequence */
	uint32_t end;		/* place after the head */
	uint64_t head_sequence;
	uint64_t flushed_file_offset;
	uint64_t last_file_offset;
};

/* Finds the active sequence, 2.3.2; -EBADMSG when there is none. */
int vhdx_log_find(TALLOC_CTX *mem_ctx, struct store *store,
		  const struct vhdx_header *header,
		  struct vhdx_sequence *_found, const char **why);
/*
 * Replays it, into the store, or into overlay when that is not NULL.  Does not
 * flush.
 */
int vhdx_log_replay(TALLOC_CTX *mem_ctx, struct store *store,
		    const struct vhdx_header *header,
		    const struct vhdx_sequence *sequence,
		    struct vhdx_overlay *overlay, const char **why);

/* One page to be logged: its content is copied by the builder. */
struct vhdx_log_page {
	uint64_t offset;
	const uint8_t *bytes;
};

/* Bytes of an entry of count pages. */
size_t vhdx_log_entry_size(unsigned count);
/*
 * Builds the next entry of disk's log in bytes (vhdx_log_entry_size()), and
 * moves the log on behind it; *_place is where it goes, wrapping at the end.
 */
void vhdx_log_build(struct vhdx *disk, const struct vhdx_log_page *pages,
		    unsigned count, uint64_t file_size, uint8_t *bytes,
		    uint32_t *_place);
/* A new log GUID, before the first entry of a session. */
int vhdx_log_begin(struct vhdx *disk);
/* Logs and applies pages synchronously: all of commit.c for calls that wait. */
int vhdx_log_commit(struct vhdx *disk, const struct vhdx_log_page *pages,
		    unsigned count);

/* ---- headers -------------------------------------------------------------- */

/* The next header, for the other slot, encoded; not yet written. */
void vhdx_header_next(struct vhdx *disk, const struct vhdx_header *header,
		      uint8_t *bytes, uint64_t *_offset);
/* It is stable now. */
void vhdx_header_done(struct vhdx *disk, const struct vhdx_header *header);
/* Both, with write and flush; times: how many of the slots to bring along. */
int vhdx_header_update(struct vhdx *disk, const struct vhdx_header *header,
		       unsigned times);

/* ---- the gate ------------------------------------------------------------- */

enum vhdx_gate_state {
	VHDX_GATE_SHUT,		/* nobody asked */
	VHDX_GATE_LOCKING,	/* waiting for the share's lock */
	VHDX_GATE_HEADER,	/* a new DataWriteGuid is being written */
	VHDX_GATE_OPEN,		/* changes may be made */
	VHDX_GATE_CLOSING,	/* shared: committing what this turn changed */
};

struct vhdx_gate {
	enum vhdx_gate_state state;
	struct vhdx_queue queue;	/* want in */
	struct vhdx_queue finished;	/* shared: done when committed */
	unsigned inside;
	unsigned turn;		/* pieces let in this turn */
	bool waking;
	uint64_t generation;	/* that the cache agrees with */
	struct vhdx_header header;	/* being written */
	struct store_io io;
	uint8_t bytes[VHDX_HEADER_SIZE];
};

/*
 * Whether wait may go on at once; else it is queued and woken to ask again.
 * Without change, for writes in place, it is enough that the session has its
 * DataWriteGuid; with change, wait is inside until vhdx_gate_exit().
 */
bool vhdx_gate_enter(struct vhdx *disk, struct vhdx_wait *wait, bool change);
/* Leaves, if inside. */
void vhdx_gate_exit(struct vhdx *disk, struct vhdx_wait *wait);
/*
 * Leaves after a change.  Without a share returns false: the change is done.
 * With one, true: wait will be woken when this turn's changes are committed.
 */
bool vhdx_gate_finish(struct vhdx *disk, struct vhdx_wait *wait);
/*
 * A write in place into a block that a turn still under way has put there:
 * with a share true, and wait is woken when that turn is committed.
 */
bool vhdx_gate_join(struct vhdx *disk, struct vhdx_wait *wait);
/* commit.c tells that a commit ended. */
void vhdx_gate_committed(struct vhdx *disk, int result);
/* For every request: has another process changed the table? */
int vhdx_gate_refresh(struct vhdx *disk);

/* ---- the share's record --------------------------------------------------- */

/*
 * Takes the lock of the share, if there is one, and what the record says; a
 * turn that a dead process left is repaired.  *_first (may be NULL): no other
 * process has the disk open.
 */
int vhdx_share_lock(struct vhdx *disk, bool *_first);
/* The second half of it, when the lock was taken otherwise. */
int vhdx_share_enter(struct vhdx *disk, bool *_first);
/*
 * What the record says, while another disk of this process has the lock: what
 * it changes in its turn is told by the generation.  -EAGAIN when nobody has
 * read the file yet.
 */
int vhdx_share_beside(struct vhdx *disk);
/*
 * Writes the record and gives the lock back.  changed: the others must forget
 * their pages; layout: and read the region table and metadata again.
 */
int vhdx_share_unlock(struct vhdx *disk, bool changed, bool layout);

/* ---- sessions ------------------------------------------------------------- */

/*
 * New FileWriteGuid, and DataWriteGuid with data, where this session has not
 * written them yet.
 */
int vhdx_session_start(struct vhdx *disk, bool data);
/* The header of such a start. */
int vhdx_session_header(const struct vhdx *disk, bool data,
			struct vhdx_header *_header);
/* Reads the headers and replays a log that needs it. */
int vhdx_session_recover(struct vhdx *disk, const char **why);
/* Flushes and empties the log. */
int vhdx_session_end(struct vhdx *disk);

/* ---- commit --------------------------------------------------------------- */

struct vhdx_commit {
	bool running;
	bool again;
	unsigned step;
	unsigned count;		/* pages in it */
	unsigned applying;	/* writes under way */
	int error;
	struct vhdx_page *pages[VHDX_COMMIT_MAX];
	uint8_t *copies;	/* VHDX_COMMIT_MAX pages */
	uint8_t *entry;
	uint64_t stable_size;	/* of the file, at the flush */
	uint32_t place;
	struct store_io ios[VHDX_COMMIT_MAX];
	struct vhdx_header header;
	uint8_t header_bytes[VHDX_HEADER_SIZE];
	struct vhdx_queue waiting;	/* for the next commit */
	struct vhdx_queue served;	/* for the one that runs */
	struct vhdx_queue room;		/* for space in the next */
	struct vhdx_queue settled;	/* for none to run */
	unsigned reserved;	/* pages that operations under way will dirty */
};

int vhdx_commit_init(struct vhdx *disk);
/*
 * Room for pages more dirty pages; false when wait was queued until there may
 * be.  Given back with vhdx_commit_release().
 */
bool vhdx_commit_reserve(struct vhdx *disk, unsigned pages,
			 struct vhdx_wait *wait);
void vhdx_commit_release(struct vhdx *disk, unsigned pages);
/* wait (may be NULL) is woken when all that is dirty now is stable. */
void vhdx_commit_ask(struct vhdx *disk, struct vhdx_wait *wait);
/* Commits all dirty pages synchronously; nothing may be under way. */
int vhdx_commit_wait(struct vhdx *disk);

/* ---- where things lie ----------------------------------------------------- */

enum vhdx_place {
	VHDX_PLACE_ZERO,
	VHDX_PLACE_FILE,
	VHDX_PLACE_PARENT,
};

/* File offset of the page that holds an entry, and the entry's place in it. */
uint64_t vhdx_entry_page(const struct vhdx *disk, uint64_t index,
			 unsigned *_at);
/*
 * Judges an entry of the table: state, reserved bits, place.  -EBADMSG.
 * bitmap: it is a bitmap block's.
 */
int vhdx_entry_check(struct vhdx *disk, uint64_t entry, bool bitmap);
/*
 * Where the sectors at offset lie in this file alone; *_length is cut to what
 * is alike.  Waiting as vhdx_page_get().
 */
int vhdx_map_file(struct vhdx *disk, uint64_t offset, uint64_t *_length,
		  struct vhdx_wait *wait, enum vhdx_place *_place,
		  uint64_t *_file_offset);
/* The same through the parents: never VHDX_PLACE_PARENT. */
int vhdx_map_chain(struct vhdx *disk, uint64_t offset, uint64_t *_length,
		   struct vhdx_wait *wait, enum vhdx_place *_place,
		   uint64_t *_file_offset, struct vhdx **_holder,
		   unsigned *_depth);

/* ---- requests ------------------------------------------------------------- */

struct vhdx_request;

/* In the order of use: each line of cache that a read touches costs. */
struct vhdx_piece {
	struct vhdx_wait wait;
	struct vhdx_request *request;
	uint64_t at;			/* of the disk */
	uint64_t end;
	uint64_t block;
	struct store_io io;
	/* while it changes the table: */
	struct vhdx_queue blocked;	/* pieces that want the same block */
	uint64_t bitmap_target;		/* a new bitmap block's, or 0 */
	struct vhdx_page *bat;
	struct vhdx_page *bitmap_bat;
	unsigned bit_pages;		/* of bits */
	unsigned reserved;
	bool partial;			/* will be state 7 */
	bool whole;
	bool makes_bitmap;
	bool uncommitted;		/* in place, where others see nothing */
	unsigned state;			/* the block's before */
	uint64_t target;		/* the block's place in the file */
	struct vhdx_piece *busy_next;
	struct vhdx_page *bits[VHDX_BITS_MAX];
};

struct vhdx_request {
	/* of its flush: */
	struct store_io io;
	struct vhdx_wait wait;
	/* of all: */
	struct vhdx *disk;
	struct vhdx_io *asked;
	struct vhdx_request *spare_next;
	enum vhdx_op op;
	int result;
	uint8_t *buffer;
	uint64_t offset;
	uint64_t end;
	uint64_t next;			/* not yet cut into pieces */
	unsigned under_way;
	unsigned piece_count;		/* there is room for */
	uint32_t idle;		/* pieces free to take the next block */
	bool through;
	bool cutting;
	struct vhdx_piece pieces[];
};

/* The recv of every request: 0 or a negative errno. */
int vhdx_request_recv(struct tevent_req *req);

/* The piece is done; its request takes the next block with it. */
void vhdx_piece_end(struct vhdx_piece *piece, int result);
/* A piece that was given a block, before it writes or unmaps. */
void vhdx_piece_change_init(struct vhdx_piece *piece);
/* Goes on with a piece of a write or an unmap. */
void vhdx_piece_write(struct vhdx_piece *piece);
void vhdx_piece_unmap(struct vhdx_piece *piece);

/* ---- the disk ------------------------------------------------------------- */

struct vhdx {
	/* what every request looks at, together: */
	struct store *store;
	struct vhdx_share *share;
	struct vhdx *parent;
	int broken;		/* a metadata write failed: nothing more */
	bool writable;
	bool without_parent;
	bool replayed;
	bool session;		/* this session's FileWriteGuid is written */
	bool data_session;	/* and its DataWriteGuid */
	unsigned requests;	/* under way */
	unsigned spare_count;
	struct vhdx_request *spare;
	uint64_t file_size;	/* known to be at least this */
	struct vhdx_geometry geometry;
	struct vhdx_layout layout;
	struct vhdx_header header;
	struct vhdx_pages pages;
	/* and the rest: */
	unsigned slot;
	struct guid disk_id;
	char creator[3 * VHDX_CREATOR_MAX + 1];
	struct vhdx_locator_pair *pairs;
	size_t pair_count;
	uint64_t space_end;	/* first byte never given to a structure */
	struct vhdx_piece *busy;
	struct vhdx_overlay *overlay;
	struct vhdx_log log;
	struct vhdx_commit commit;
	struct vhdx_gate gate;
};

static inline int vhdx_page_get(struct vhdx *disk, uint64_t offset,
				struct vhdx_wait *wait,
				struct vhdx_page **_page)
{
	struct vhdx_page *page = disk->pages.newest;

	if (page != NULL && page->offset == offset && page->valid) {
		*_page = page;
		return 0;
	}
	return vhdx_page_find(disk, offset, wait, _page);
}

/* Reads metadata, with the overlay; multiples of a page. */
int vhdx_meta_read(struct vhdx *disk, void *bytes, size_t length,
		   uint64_t offset);
/* Reads the region tables; -EBADMSG when both are bad. */
int vhdx_load_regions(struct vhdx *disk, const char **why);
/* Reads metadata and fills the geometry. */
int vhdx_load_metadata(struct vhdx *disk, const char **why);
/* Takes length bytes, rounded up to MiB, at the end of the file. */
int vhdx_space_take(struct vhdx *disk, uint64_t length, uint64_t *_offset);
/*
 * Changes one entry synchronously, through the cache; a full set of dirty
 * pages is committed on the way, the last by vhdx_commit_wait().
 */
int vhdx_entry_put(struct vhdx *disk, uint64_t index, uint64_t entry);
/* Writes both region tables anew from the good one, through the log. */
int vhdx_regions_rewrite(struct vhdx *disk);

/* ---- what of the file is used --------------------------------------------- */

/* One bit for each MiB of the file. */
struct vhdx_usage {
	uint8_t *bits;
	uint64_t mibs;
	uint64_t used;		/* bits that are set */
};

/* Headers, log, table and metadata are marked; -EBADMSG when they overlap. */
int vhdx_usage_init(TALLOC_CTX *mem_ctx, struct vhdx *disk,
		    struct vhdx_usage *usage);
/* Marks a range of whole MiB; -EEXIST when part of it is, -ERANGE outside. */
int vhdx_usage_mark(struct vhdx_usage *usage, uint64_t offset,
		    uint64_t length);
/* The first unused place of so many MiB at or after from; -ENOSPC. */
int vhdx_usage_find(const struct vhdx_usage *usage, uint64_t from,
		    uint64_t mibs, uint64_t *_at);
void vhdx_usage_clear(struct vhdx_usage *usage, uint64_t offset,
		      uint64_t length);
/*
 * Calls each() for every entry of the table that the disk uses, as the file
 * has it; block is UINT64_MAX for a bitmap block's.
 */
int vhdx_table_walk(struct vhdx *disk,
		    int (*each)(void *private_data, uint64_t index,
				uint64_t block, uint64_t entry),
		    void *private_data);

/* Whether a synchronous call may run: 0, -EBUSY, -EROFS or what broke. */
int vhdx_idle_check(const struct vhdx *disk, bool change);

#endif
