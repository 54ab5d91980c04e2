/*
 * Shadow copy sets: the state machine of [MS-FSRVP] 3.1 as functions of
 * (state, request, now), its stored form, and the names clients send.
 *
 * Nothing here takes a snapshot, makes a share, reads a clock or stores
 * anything.  The caller loads the state, asks, stores the state where
 * *changed was set, and only then answers.  What a transition leaves to be
 * taken away (shares, snapshots) stays in the state, marked as doomed, until
 * the caller has taken it away and says so; so a crash at any point leaves
 * nothing behind that the state does not name.
 *
 * Times are milliseconds of the wall clock, as the timers of a stored state
 * go on while no process runs.
 */
#ifndef HVRS_SNAPSET_SNAPSET_H
#define HVRS_SNAPSET_SNAPSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "util/guid.h"

/* [MS-FSRVP] 2.2.4: what a method returns. */
#define SNAPSET_OK			0x00000000
#define SNAPSET_WAIT_TIMEOUT		0x00000102
#define SNAPSET_WAIT_FAILED		0xFFFFFFFF
#define SNAPSET_COMMIT_TIMEOUT		0x80042500
#define SNAPSET_BAD_STATE		0x80042301
#define SNAPSET_OBJECT_NOT_FOUND	0x80042308
#define SNAPSET_NOT_SUPPORTED		0x8004230C
#define SNAPSET_OBJECT_EXISTS		0x8004230D
#define SNAPSET_IN_PROGRESS		0x80042316
#define SNAPSET_UNSUPPORTED_CONTEXT	0x8004231B
#define SNAPSET_NO_SPACE		0x8004231F
#define SNAPSET_ID_MISMATCH		0x80042501
#define SNAPSET_ACCESS_DENIED		0x80070005
#define SNAPSET_NO_MEMORY		0x8007000E
#define SNAPSET_INVALID_ARGUMENT	0x80070057
#define SNAPSET_FAIL			0x80004005

/* [MS-FSRVP] 2.2.2.2: attributes of a context. */
#define SNAPSET_PERSISTENT		0x00000001
#define SNAPSET_NO_AUTO_RECOVERY	0x00000002
#define SNAPSET_NO_AUTO_RELEASE		0x00000008
#define SNAPSET_NO_WRITERS		0x00000010
#define SNAPSET_AUTO_RECOVERY		0x00400000
#define SNAPSET_FILE_SHARE		0x04000000

/* More than these at once are refused: a state stays small. */
#define SNAPSET_MAX_SETS		512
#define SNAPSET_MAX_COPIES		64
#define SNAPSET_MAX_MAPPINGS	64
#define SNAPSET_MAX_NAME		1024

/* [MS-FSRVP] 3.1.1.3: Status of a set; doomed ones await their removal. */
enum snapset_status {
	SNAPSET_STARTED = 1,
	SNAPSET_ADDED,
	SNAPSET_CREATING,
	SNAPSET_COMMITTED,
	SNAPSET_EXPOSED,
	SNAPSET_RECOVERED,
	SNAPSET_DOOMED,
};

struct snapset_mapping {
	const char *share;	/* of the server's configuration */
	const char *exposed;	/* share@{id}, named when added */
	const char *path;	/* of the share below the snapshot, or "" */
	bool is_exposed;
	bool doomed;
	struct snapset_mapping *next;
};

struct snapset_copy {
	struct guid id;
	uint64_t created;	/* FILETIME, 100 ns since 1601 */
	const char *store;	/* identity of the file store: VolumeName */
	const char *provider;
	const char *share;	/* whose configuration its provider goes by */
	const char *snapshot;	/* where it is or is about to be, or "" */
	bool doomed;
	struct snapset_mapping *mappings;
	struct snapset_copy *next;
};

struct snapset_set {
	struct guid id;
	enum snapset_status status;
	uint32_t context;
	const char *owner;	/* who started it, for people */
	struct snapset_copy *copies;
	struct snapset_set *next;
};

struct snapset_state {
	bool context_set;
	uint32_t context;
	uint32_t retries;
	const char *client;	/* who set the context */
	const char *boot;	/* of the machine that stored it last */
	uint64_t deadline;	/* of the message sequence timer, 0 stopped */
	struct snapset_set *sets;
};

/* Where a server differs from the documents, for a test suite's sake. */
struct snapset_rules {
	bool legacy;		/* what smbtorture's rpc.fsrvp expects */
	bool many_shares;	/* several shares of one store in one set */
	uint32_t sequence_s;	/* replaces 180 and 1800 seconds; 0: does not */
};

/* ---- methods -------------------------------------------------------------- */

/*
 * Each returns what the client is told.  *changed becomes true where the
 * state must be stored before that.
 */

/* A state nothing happened in; NULL without memory. */
struct snapset_state *snapset_state_new(TALLOC_CTX *mem_ctx);

/* SetContext, [MS-FSRVP] 3.1.4.2.  client tells one client from another. */
uint32_t snapset_context_set(struct snapset_state *state,
			     const struct snapset_rules *rules,
			     uint32_t context, const char *client,
			     uint64_t now, bool *changed);

/* StartShadowCopySet, 3.1.4.3.  new_id is the server's own for the set. */
uint32_t snapset_start(struct snapset_state *state,
		       const struct snapset_rules *rules,
		       const struct guid *client_id,
		       const struct guid *new_id, const char *owner,
		       uint64_t now, bool *changed);

/*
 * AddToShadowCopySet, 3.1.4.4, of a share that exists and whose store can be
 * snapshotted.  path is that of the share below the root of its snapshot.
 */
struct snapset_add {
	struct guid set;
	struct guid new_id;
	const char *share;
	const char *store;
	const char *provider;
	const char *path;
	bool hidden;		/* the exposed name ends in $ */
	uint64_t created;
};
uint32_t snapset_add(struct snapset_state *state,
		     const struct snapset_rules *rules,
		     const struct snapset_add *add, uint64_t now,
		     struct guid *_copy, bool *changed);

/* PrepareShadowCopySet, 3.1.4.13: whether it may; then what came of it. */
uint32_t snapset_prepare(struct snapset_state *state,
			 const struct snapset_rules *rules,
			 const struct guid *set, struct snapset_set **_set);
void snapset_prepare_done(struct snapset_state *state,
			  const struct snapset_rules *rules, uint32_t result,
			  uint64_t now, bool *changed);

/*
 * CommitShadowCopySet, 3.1.4.5: whether it may.  *begin tells a first call,
 * whose work must be begun, from a repeated one that only waits.
 */
uint32_t snapset_commit(struct snapset_state *state,
			const struct snapset_rules *rules,
			const struct guid *set, uint64_t now,
			struct snapset_set **_set, bool *begin,
			bool *changed);

/* The snapshots are there (SNAPSET_OK) or are not, with the reason. */
void snapset_commit_done(struct snapset_state *state,
			 const struct snapset_rules *rules,
			 const struct guid *set, uint32_t result,
			 uint64_t now, bool *changed);

/* A caller's patience is over while the work goes on: the timer. */
void snapset_timer_short(struct snapset_state *state,
			 const struct snapset_rules *rules, uint64_t now,
			 bool *changed);

/* ExposeShadowCopySet, 3.1.4.6: whether it may; then what came of it. */
uint32_t snapset_expose(struct snapset_state *state,
			const struct snapset_rules *rules,
			const struct guid *set, struct snapset_set **_set);
void snapset_expose_done(struct snapset_state *state,
			 const struct snapset_rules *rules,
			 const struct guid *set, uint32_t result,
			 uint64_t now, bool *changed);

/*
 * RecoveryCompleteShadowCopySet, 3.1.4.7: whether it may; then, when what was
 * writable is sealed, done.
 */
uint32_t snapset_recovery(struct snapset_state *state,
			  const struct snapset_rules *rules,
			  const struct guid *set,
			  struct snapset_set **_set);
void snapset_recovery_done(struct snapset_state *state,
			   const struct guid *set, bool *changed);

/* AbortShadowCopySet, 3.1.4.8: dooms the set. */
uint32_t snapset_abort(struct snapset_state *state,
		       const struct snapset_rules *rules,
		       const struct guid *set, bool *changed);

/* IsPathShadowCopied, 3.1.4.10: whether a live copy holds the store. */
bool snapset_is_copied(const struct snapset_state *state, const char *store);

/* GetShareMapping, 3.1.4.11.  The results are borrowed from the state. */
uint32_t snapset_mapping_get(struct snapset_state *state,
			     const struct snapset_rules *rules,
			     const struct guid *copy, const struct guid *set,
			     const char *share, uint32_t level, uint64_t now,
			     const struct snapset_copy **_copy,
			     const struct snapset_mapping **_mapping,
			     bool *changed);

/*
 * DeleteShareMapping, 3.1.4.12: dooms the mapping, the copy whose last it
 * was, and the set whose last that was.
 */
uint32_t snapset_mapping_delete(struct snapset_state *state,
				const struct snapset_rules *rules,
				const struct guid *set,
				const struct guid *copy, const char *share,
				bool *changed);

/* The message sequence timer, 3.1.5: dooms the set that was being made. */
void snapset_expire(struct snapset_state *state,
		    const struct snapset_rules *rules, uint64_t now,
		    bool *changed);

/*
 * A server process begins with a stored state.  boot names this start of the
 * machine: after another one what is not persistent is doomed.  Snapshots
 * that were being taken are doomed and their set is ADDED again, so that the
 * client may commit once more; everything else goes on.
 */
void snapset_restart(struct snapset_state *state,
		     const struct snapset_rules *rules, const char *boot,
		     uint64_t now, bool *changed);

/* ---- what is doomed --------------------------------------------------------- */

/*
 * The caller takes away the exposed share of every doomed mapping
 * (is_exposed), then the snapshot of every doomed copy that has no share left
 * (snapset_has_share), and says so in these fields.
 */
bool snapset_has_share(const struct snapset_copy *copy);

/* Forgets all that is doomed and has neither share nor snapshot any more. */
void snapset_sweep(struct snapset_state *state, bool *changed);

/* The set of an id, doomed ones not; NULL where there is none. */
struct snapset_set *snapset_find(struct snapset_state *state,
				 const struct guid *id);

/* Whether clients may write to the exposed shares of a set now. */
bool snapset_is_writable(const struct snapset_set *set);

const char *snapset_status_text(enum snapset_status status);

/* ---- stored form (codec.c) --------------------------------------------------- */

/*
 * The state as bytes with a version and a checksum; *_bytes is a new talloc
 * array.  Returns 0, -ENOMEM, or -EFBIG for what could not be read again.
 */
int snapset_encode(TALLOC_CTX *mem_ctx, const struct snapset_state *state,
		   uint8_t **_bytes, size_t *_length);

/*
 * Reads it again.  -EINVAL for damaged bytes, -EPROTONOSUPPORT for those of
 * another version, -ENOMEM; *why, when not NULL, becomes a static text.
 */
int snapset_decode(TALLOC_CTX *mem_ctx, const uint8_t *bytes, size_t length,
		   struct snapset_state **_state, const char **why);

/* ---- names (unc.c) ------------------------------------------------------------ */

/*
 * \\host\share, with or without a final backslash, into its parts (new talloc
 * strings).  -EINVAL for everything else: deeper paths, empty parts, control
 * characters and what has a meaning to a file system or to smb.conf.
 */
int snapset_unc_parse(TALLOC_CTX *mem_ctx, const char *unc, char **_host,
		      char **_share);

#endif
