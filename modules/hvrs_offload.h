/* What the files of offload data transfer share. */
#ifndef HVRS_MODULES_OFFLOAD_H
#define HVRS_MODULES_OFFLOAD_H

#include "hvrs.h"

#include "token/token.h"

/* ---- both FSCTLs (hvrs_offload.c) ------------------------------------------ */

#define HVRS_STATUS_READ_FILE	NT_STATUS(0xC000A2A3)
#define HVRS_STATUS_WRITE_FILE	NT_STATUS(0xC000A2A4)
#define HVRS_STATUS_TOKEN	NT_STATUS(0xC0000465)

/* A negative errno of lib/token or a positive one of the work. */
NTSTATUS hvrs_offload_status(int error);

/* Whom a token is given to. */
const char *hvrs_offload_user(const struct files_struct *fsp,
			      struct dom_sid_buf *buffer);

/* With a fresh size: whether the file has no name left. */
bool hvrs_offload_deleted(const struct files_struct *fsp);

/* ---- pins (hvrs_offload_pin.c) --------------------------------------------- */

/*
 * What a token stands for, held by this process: an unnamed clone of the
 * source where the file system shares blocks (the pin), else the source
 * itself, which the token is about only as long as nobody changes it.
 */
struct hvrs_pin;

/* The stamp of an open file.  0 or an errno. */
int hvrs_stamp_get(int fd, struct token_stamp *_stamp);

/* Whether a change of the file from now on is sure to change its stamp. */
bool hvrs_stamp_is_old(const struct token_stamp *stamp);

/* A pin that holds a range of the generation the file is in now, or NULL. */
struct hvrs_pin *hvrs_pin_find(const struct token_stamp *source,
			       uint64_t begin, uint64_t end);

/*
 * What a pin holds.  settled: the source's stamp tells of any change, so that
 * the pin can serve later tokens of the same generation.
 */
struct hvrs_pinned {
	bool pinned;
	bool settled;
	struct token_stamp source;	/* its generation */
	uint64_t begin;			/* the part of it that was cloned */
	uint64_t end;
};

/*
 * Takes over a descriptor, or a lease that has it.  path: of a pin of a cluster,
 * removed with it; else NULL.  NULL without memory; then it does not.
 */
struct hvrs_lease;
struct hvrs_pin *hvrs_pin_create(int fd, const struct hvrs_pinned *what,
				 struct hvrs_lease *lease, const char *path);

/* Forgets a pin that no token needs. */
void hvrs_pin_release(struct hvrs_pin *pin);

/*
 * Makes a token of a part of a pin, which lives until then.  0 or a negative
 * errno; the pin is forgotten where no token needs it.
 */
struct hvrs_token_wanted {
	const char *user;
	const char *name;
	bool bearer;
	uint32_t lifetime_ms;
	uint64_t offset;
	uint64_t length;
	uint32_t user_limit;
	uint32_t all_limit;
	uint64_t pinned_limit;
};
int hvrs_pin_token(struct hvrs_pin *pin, struct tevent_context *ev,
		   const struct hvrs_token_wanted *wanted,
		   uint8_t token[TOKEN_SIZE]);

/*
 * Whether tokens of this process live; ends those whose time is over or that
 * the limits took away.  *_next_ms: until the first of the others ends.
 */
bool hvrs_pins_tend(uint64_t *_next_ms);

/*
 * In a child of the process that gave the tokens, which has inherited their
 * descriptors: their records name this process from now on.  False where the
 * database cannot be had.
 */
bool hvrs_pins_inherit(void);

/*
 * Opens what a record stands for, in whatever process of this machine it is
 * held.  A descriptor, or -EKEYREJECTED where that is gone or changed.
 * *_lease: a lease on the source, which is as good as the clone for as long
 * as it is held, or -1.
 */
int hvrs_token_open(const struct token_record *record, int *_lease);

/* ---- pins of a cluster (hvrs_offload_folder.c) ------------------------------- */

/*
 * Makes a file for a clone, in the share's folder for them.  *_path: its name,
 * of mem_ctx.  A descriptor, or -1 with errno and a line in the log.
 */
int hvrs_folder_file(TALLOC_CTX *mem_ctx, const struct connection_struct *conn,
		     uint64_t expires_ms, char **_path);

/* The clone is in it.  0 or an errno. */
int hvrs_folder_made(int fd);

/* Opens the file of a record.  A descriptor, or -EKEYREJECTED. */
int hvrs_folder_open(const struct token_record *record);

void hvrs_folder_remove(const char *path);

/* ---- leases (hvrs_offload_lease.c) ----------------------------------------- */

/*
 * Takes a lease on an open file that is to be cloned when somebody opens it
 * for writing, and takes over the file for the clone.  NULL where somebody has,
 * or the kernel gives none.  In smbd's own thread.
 */
struct hvrs_lease *hvrs_lease_take(int fd, int pin, uint64_t cluster);

/* Adds a range to the clone; false where it is too late for that. */
bool hvrs_lease_cover(struct hvrs_lease *lease, uint64_t begin, uint64_t end);

/* The descriptor of the source, and its inode. */
int hvrs_lease_source(const struct hvrs_lease *lease, uint64_t *_inode);

void hvrs_lease_release(struct hvrs_lease *lease);

/*
 * Another lease beside one that is held, for a copy that reads from the
 * source.  A descriptor, or -1.  In smbd's own thread.
 */
int hvrs_lease_join(int source);

/* Whether nobody could have written to the file until now; in any thread. */
bool hvrs_lease_is_held(int fd);

/*
 * An open for reading with O_TRUNC is the one change that waits for no lease.
 * Whoever makes the file longer again does.
 */
bool hvrs_lease_is_whole(int fd, uint64_t size);

/* Waits for the clone of a broken lease.  0, EKEYREJECTED or ECANCELED. */
int hvrs_lease_wait(int pin, const bool *stop);

/*
 * Before a fork: the thread serves no lease any more; waits where it is making
 * a clone, for CLONE_SECONDS at most.
 */
void hvrs_leases_stop(void);

/*
 * After it, in the child: breaks of the leases are told to its only thread, by
 * SIGIO, which then has hvrs_leases_serve() make the clones.
 */
void hvrs_leases_inherit(void);
void hvrs_leases_serve(void);

/* ---- a process for tokens (hvrs_offload_hold.c) ------------------------------- */

/*
 * Tokens outlive this process where it ends in order: at its exit a child takes
 * over what they stand for.  Called whenever a token is given.
 */
void hvrs_hold_later(void);

/* ---- the copy (hvrs_offload_copy.c) ------------------------------------------ */

struct hvrs_copy {
	int from;
	bool made_late;		/* a clone that may not be there yet */
	int *lease;		/* to copy from while it is held; -1 */
	uint64_t leased_size;	/* of that file */
	int to;
	uint64_t source;
	uint64_t target;
	uint64_t length;
	uint64_t cluster;	/* of the file systems */
	bool frees;		/* holes become holes, else zeros */
	const struct token_stamp *stamp;	/* the source must keep; NULL */
	bool *stop;
	uint64_t done;		/* bytes, from the start */
};

/*
 * Shares blocks as far as both files can, copies the rest with bounded memory
 * and keeps holes.  Stops early, with "done" set and 0, when it has taken so
 * many seconds.  0 or an errno; EKEYREJECTED when the source changed.
 */
int hvrs_copy_run(struct hvrs_copy *copy, uint32_t seconds);

#endif
