/* What the files of offload data transfer share. */
#ifndef HVRS_MODULES_OFFLOAD_H
#define HVRS_MODULES_OFFLOAD_H

#include "hvrs.h"

#include "token/token.h"

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

/* Takes over a descriptor.  NULL without memory; then it does not. */
struct hvrs_pin *hvrs_pin_create(int fd, const struct hvrs_pinned *what);

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
 * Opens what a record stands for, in whatever process of this machine it is
 * held.  A descriptor, or -EKEYREJECTED where that is gone or changed.
 */
int hvrs_token_open(const struct token_record *record);

/* ---- the copy (hvrs_offload_copy.c) ------------------------------------------ */

struct hvrs_copy {
	int from;
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
