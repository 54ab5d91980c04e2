/*
 * The database of offload tokens, hvrs_tokens.tdb in Samba's lock directory, or
 * a volatile one of CTDB: one record a token (lib/token), gone when Samba starts
 * anew, or with the node that had it last.
 */
#ifndef HVRS_SAMBA_STATE_TOKENS_H
#define HVRS_SAMBA_STATE_TOKENS_H

#include "samba.h"

#include "token/token.h"

struct state_tokens_limits {
	uint32_t user;		/* tokens of one user */
	uint32_t all;
	uint64_t pinned;	/* bytes that all hold; one user half */
};

/*
 * Stores a record, and removes the oldest of its user, or of all, where the
 * limits ask for it.  Records that have expired go by the way.  0 or a
 * negative errno, with a line in the log.
 */
int state_tokens_store(const struct token_record *record,
		       const struct state_tokens_limits *limits,
		       uint64_t now_ms);

/* 0, or -EKEYREJECTED where there is no such record. */
int state_tokens_fetch(const struct token_id *id,
		       struct token_record *_record);

void state_tokens_delete(const struct token_id *id);

/*
 * The clock of all times in records, in milliseconds: since boot, suspended or
 * not; on a cluster that of the day, which its nodes have to agree on.
 */
uint64_t state_tokens_now(void);

/* In a child, which must not use what its parent has open.  Has to succeed. */
bool state_tokens_reopen(void);

/* Another process holds it.  0, or -EKEYREJECTED where there is no record. */
int state_tokens_move(const struct token_id *id, uint32_t process,
		      uint64_t started);

#endif
