/*
 * The store: bytes with offsets, below every disk format engine.
 *
 * A store is a table of operations.  Two kinds of them are needed:
 *
 *  - synchronous ones, for what happens once (open, create, resize, close);
 *  - submit(), for what happens all the time.  It takes a request that its
 *    owner keeps in its own memory and calls the owner back.  This form was
 *    chosen over tevent's _send/_recv because an engine keeps up to a hundred
 *    requests in flight for each of its own (payload, table pages, log, flush)
 *    and must not allocate, and so must not be able to fail for want of
 *    memory, between a write that was acknowledged and its commit.  Over
 *    SMB_VFS_NEXT a store embeds nothing: submit() starts the module's _send
 *    and its callback calls io->done.  Toward their users the engines speak
 *    _send/_recv.
 *
 * A store is used by one thread.  Sizes and offsets are bytes.  Everything
 * returns 0 or a negative errno.
 */
#ifndef HVRS_STORE_STORE_H
#define HVRS_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

struct store;
struct store_io;
struct tevent_context;

enum store_op {
	STORE_READ,	/* fill buffer; what lies past the end reads as zero */
	STORE_WRITE,	/* write buffer, growing the store where needed */
	STORE_FLUSH,	/* all writes done before the submit become stable */
	STORE_ZERO,	/* the range reads as zero; its space may be freed */
};

/*
 * One request.  The owner fills the first part, keeps the memory until done is
 * called, and may submit it again from there.  The second part is the store's.
 */
struct store_io {
	enum store_op op;
	void *buffer;
	uint64_t offset;
	uint64_t length;
	void (*done)(struct store_io *io, int result);
	void *private_data;
	uint64_t got;		/* READ: bytes that came from the store */

	struct store_io *next;
	uint64_t at;
};

/* Names one underlying file, however it was reached (device and inode). */
struct store_identity {
	uint64_t volume;
	uint64_t file;
};

struct store_ops {
	const char *name;
	/* Reads up to length bytes; *_got is short only at the end. */
	int (*read)(struct store *store, void *buffer, size_t length,
		    uint64_t offset, size_t *_got);
	/* Writes all of length bytes. */
	int (*write)(struct store *store, const void *buffer, size_t length,
		     uint64_t offset);
	int (*flush)(struct store *store);
	/* As STORE_ZERO; a store without a cheap way returns -ENOTSUP. */
	int (*zero)(struct store *store, uint64_t offset, uint64_t length);
	int (*size)(struct store *store, uint64_t *_size);
	/* Cuts, or grows by zeroes that take no space where possible. */
	int (*truncate)(struct store *store, uint64_t size);
	int (*identity)(struct store *store, struct store_identity *_id);
	/*
	 * Starts io.  It never calls io->done before it returns, and reports
	 * every error there.
	 */
	void (*submit)(struct store *store, struct store_io *io);
};

/* Every kind of store begins with this. */
struct store {
	const struct store_ops *ops;
};

/*
 * Reads exactly length bytes; -ENODATA when the store ends before, and then
 * the missing bytes of buffer are zero.
 */
int store_read(struct store *store, void *buffer, size_t length,
	       uint64_t offset);

/* Writes exactly length bytes. */
int store_write(struct store *store, const void *buffer, size_t length,
		uint64_t offset);

/* Makes stable what was written before. */
int store_flush(struct store *store);

/*
 * Makes the range read as zero, by the store's own way or, failing that, by
 * writing zeroes in bounded pieces.  The store does not grow: what lies past
 * its end reads as zero already.
 */
int store_zero(struct store *store, uint64_t offset, uint64_t length);

/* The size now. */
int store_size(struct store *store, uint64_t *_size);

/* Cuts or grows the store to size. */
int store_truncate(struct store *store, uint64_t size);

/* Which file this is, to find a chain that bites its own tail. */
int store_identity(struct store *store, struct store_identity *_id);

/* Starts io; see struct store_ops. */
void store_submit(struct store *store, struct store_io *io);

/* ---- the file store ------------------------------------------------------- */

enum file_store_flags {
	FILE_STORE_WRITE = 1,	/* else read only */
	FILE_STORE_CREATE = 2,	/* must not exist yet; implies WRITE */
	FILE_STORE_PLAIN = 4,	/* pread and pwrite even where io_uring works */
};

/*
 * Opens the file at path, relative to dirfd (AT_FDCWD is allowed), as a store
 * whose requests run on io_uring and complete from ev's loop.  Where the
 * kernel refuses io_uring, they run as pread and pwrite from that loop.
 * ev may be NULL if nothing will be submitted.  The store is a talloc child of
 * mem_ctx and closes the file when freed, which the owner does only when none
 * of its requests is under way.  Errors: those of openat(2), -ENOMEM.
 */
int file_store_open(TALLOC_CTX *mem_ctx, struct tevent_context *ev, int dirfd,
		    const char *path, unsigned flags, struct store **_store);

/* The same over an open descriptor, which the store takes over on success. */
int file_store_from_fd(TALLOC_CTX *mem_ctx, struct tevent_context *ev, int fd,
		       unsigned flags, struct store **_store);

/* Whether requests run on io_uring. */
bool file_store_uses_uring(const struct store *store);

#endif
