/*
 * Offload data transfer (ODX): the wire forms of FSCTL_OFFLOAD_READ and
 * FSCTL_OFFLOAD_WRITE ([MS-FSCC] 2.3.41 to 2.3.44), the token, and the record
 * that stands behind one.  No file, no clock, no database.
 *
 * Errors are those of lib/fsctl: -EINVAL STATUS_INVALID_PARAMETER, -EMSGSIZE
 * STATUS_BUFFER_TOO_SMALL; and -ENODATA STATUS_END_OF_FILE, -EKEYREJECTED
 * STATUS_INVALID_TOKEN.
 */
#ifndef HVRS_TOKEN_TOKEN_H
#define HVRS_TOKEN_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#define TOKEN_SIZE		512
#define TOKEN_INDEX_SIZE	16
#define TOKEN_SECRET_SIZE	32
#define TOKEN_SECTOR		512u

#define OFFLOAD_READ_IN		32
#define OFFLOAD_READ_OUT	528
#define OFFLOAD_WRITE_IN	544
#define OFFLOAD_WRITE_OUT	16
#define OFFLOAD_ALL_ZERO_BEYOND	1

/* ---- the token ------------------------------------------------------------- */

/*
 * A token of ours: where its record is, and 256 random bits that prove that
 * the record was meant.  Everything else in it is fixed.
 */
struct token_id {
	uint8_t index[TOKEN_INDEX_SIZE];
	uint8_t secret[TOKEN_SECRET_SIZE];
};

enum token_kind {
	TOKEN_OURS,
	TOKEN_ZERO,		/* well-known: zeros ([MS-FSCC] 2.3.79.2) */
	TOKEN_OTHER,		/* nothing of this server */
};

/* Fills a new one from the kernel.  0, or -EIO without random bytes. */
int token_new(struct token_id *_id);

/* Writes TOKEN_SIZE bytes. */
void token_encode(const struct token_id *id, uint8_t *out);
void token_encode_zero(uint8_t *out);

/* Reads TOKEN_SIZE bytes; *_id is filled for TOKEN_OURS. */
enum token_kind token_decode(const uint8_t *in, struct token_id *_id);

/* Whether the secrets are the same, in a time that does not depend on it. */
bool token_equal(const struct token_id *a, const struct token_id *b);

/* ---- requests -------------------------------------------------------------- */

struct offload_read {
	uint32_t lifetime_ms;	/* a hint; 0: the server's */
	uint64_t offset;
	uint64_t length;
};

struct offload_write {
	uint64_t offset;
	uint64_t length;
	uint64_t from;		/* offset in what the token stands for */
	const uint8_t *token;	/* borrowed from the request */
};

/*
 * Decode and check what needs no file: lengths (-EMSGSIZE), the Size field,
 * whole sectors, and sums below 2^63 (-EINVAL).
 */
int offload_read_decode(const uint8_t *in, size_t length, uint32_t max_output,
			struct offload_read *_read);
int offload_write_decode(const uint8_t *in, size_t length,
			 uint32_t max_output, struct offload_write *_write);

/*
 * Clips a read to the file ([MS-FSA] 2.1.5.10.18): to its end rounded up to a
 * sector.  -ENODATA where it begins behind the end, -EINVAL for a file smaller
 * than a sector.  *_length 0: nothing was asked for.
 */
int offload_read_plan(const struct offload_read *read, uint64_t file_size,
		      uint64_t *_length);

struct offload_write_plan {
	uint64_t length;	/* bytes to write */
	uint64_t told;		/* LengthWritten when all are written */
};

/*
 * Clips a write ([MS-FSA] 2.1.5.10.19) to the file, whose last sector may be
 * incomplete, and to the bytes the token has from its offset (-EKEYREJECTED
 * where it has none).  extends: a write that begins at the end makes the file
 * longer.  -ENODATA where it begins behind the end, -EINVAL for a file
 * smaller than a sector that is not empty.
 */
int offload_write_plan(const struct offload_write *write, uint64_t file_size,
		       uint64_t token_length, bool extends,
		       struct offload_write_plan *_plan);

/* Write the answers, OFFLOAD_READ_OUT and OFFLOAD_WRITE_OUT bytes. */
void offload_read_encode(uint8_t *out, uint32_t flags, uint64_t length,
			 const uint8_t *token);
void offload_write_encode(uint8_t *out, uint64_t length);

/* ---- the record -------------------------------------------------------------- */

/* What tells that a file is the one it was: it changes with any change. */
struct token_stamp {
	uint64_t device;
	uint64_t inode;
	uint64_t size;
	int64_t mtime_s;
	int64_t ctime_s;
	uint32_t mtime_ns;
	uint32_t ctime_ns;
};

bool token_stamp_equal(const struct token_stamp *a,
		       const struct token_stamp *b);

#define TOKEN_USER_MAX	184	/* a SID as text */
#define TOKEN_NAME_MAX	1024
#define TOKEN_PATH_MAX	1024

/*
 * A file of the cluster with a path, or a descriptor that a process of this
 * machine holds: which process (with its start time, as numbers are used
 * again), which descriptor, which file.
 */
struct token_record {
	struct token_id id;
	bool bearer;		/* any user may use it */
	bool pinned;		/* the file is a clone that nobody changes */
	char user[TOKEN_USER_MAX + 1];
	char name[TOKEN_NAME_MAX + 1];	/* share and path, for people */
	char path[TOKEN_PATH_MAX + 1];	/* empty: a descriptor */
	uint64_t created_ms;	/* by the clock of the database */
	uint64_t expires_ms;
	uint64_t offset;
	uint64_t length;
	uint32_t process;
	uint64_t started;	/* of the process, in clock ticks */
	uint32_t descriptor;
	struct token_stamp stamp;	/* of the held file */
	bool leased;		/* the clone waits for a change of the source */
	uint32_t source;	/* then: the source's descriptor and inode */
	uint64_t source_inode;
};

/* New bytes of mem_ctx, with a version and a checksum.  0 or -ENOMEM. */
int token_record_encode(TALLOC_CTX *mem_ctx, const struct token_record *record,
			uint8_t **_bytes, size_t *_length);

/* 0, -EINVAL for damaged bytes, -EPROTONOSUPPORT for another version. */
int token_record_decode(const uint8_t *bytes, size_t length,
			struct token_record *_record);

/* Whether a user may use it at a time: 0 or -EKEYREJECTED. */
int token_record_check(const struct token_record *record,
		       const struct token_id *id, const char *user,
		       uint64_t now_ms);

#endif
