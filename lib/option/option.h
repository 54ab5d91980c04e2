/*
 * The table of smb.conf options of hvrs: names, kinds, defaults, and how a
 * value is read.  What reads smb.conf itself is in samba/; this room knows
 * only text.
 */
#ifndef HVRS_OPTION_OPTION_H
#define HVRS_OPTION_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind {
	OPTION_SWITCH,		/* auto, yes or no */
	OPTION_PATTERNS,	/* file name patterns, separated by spaces */
	OPTION_NUMBER,		/* decimal, from least to most */
	OPTION_WORD,		/* one of words */
	OPTION_PATH,		/* absolute path, or empty for none */
	OPTION_GUID,		/* a GUID, or empty for none */
};

enum option_switch {
	OPTION_NO = 0,
	OPTION_YES = 1,
	OPTION_AUTO = 2,
};

/* Rows of the table, in its order. */
enum option_id {
	OPTION_TRIM,
	OPTION_ZERO_DATA,
	OPTION_ZERO_DATA_FREES,
	OPTION_BLOCK_CLONING,
	OPTION_SPARSE,
	OPTION_SPARSE_VDL,
	OPTION_DISK_ATTRIBUTES,
	OPTION_DISK_FILES,
	OPTION_SECTOR_SIZES,
	OPTION_INTEGRITY,
	OPTION_FILE_REGIONS,
	OPTION_OFFLOAD,
	OPTION_OFFLOAD_SCOPE,
	OPTION_OFFLOAD_LIFETIME,
	OPTION_OFFLOAD_USER_TOKENS,
	OPTION_OFFLOAD_TOKENS,
	OPTION_OFFLOAD_PINNED,
	OPTION_OFFLOAD_EXTENDS,
	OPTION_COHERENT,
	OPTION_REMOTE_VSS,
	OPTION_SNAPSHOT_PROVIDER,
	OPTION_SNAPSHOT_SCRIPT,
	OPTION_SNAPSHOT_FREEZE_LIMIT,
	OPTION_RPC_INTEGRITY,
	OPTION_FSRVP_LEGACY,
	OPTION_SHARED_DISKS,
	OPTION_STORAGE_QOS,
	OPTION_QOS_ENFORCE,
	OPTION_QOS_POLICY,
	OPTION_PERSISTENT,
	OPTION_RESILIENT,
	OPTION_PERSISTENT_TIME,
	OPTION_PERSISTENT_MOST,
	OPTION_RESILIENT_TIME,
	OPTION_RESILIENT_MOST,
	OPTION_HANDLE_STORE,
	OPTION_HANDLE_SYNC,
	OPTION_FENCE_COMMAND,
	OPTION_CORE_HOOKS,
	OPTION_COUNT
};

struct option_row {
	const char *name;	/* as after "hvrs:" in smb.conf */
	enum option_kind kind;
	bool feature;		/* "no" takes the whole feature away */
	bool global;		/* belongs into [global], not into a share */
	const char *standard;	/* the default, as text */
	uint64_t least, most;	/* of a number */
	const char *words;	/* separated by spaces, of a word */
	const char *accepts;	/* of a number: the range, with its unit */
	const char *help;	/* one line for an administrator */
};

/*
 * The row of an option; id must be below OPTION_COUNT.
 */
const struct option_row *option_row_get(enum option_id id);

/*
 * Finds an option by its name, ignoring case and white space as smb.conf does.
 * Returns 0 and the id, or -ENOENT.
 */
int option_find(const char *name, enum option_id *_id);

/*
 * Names the option whose name comes nearest to a misspelt one, or NULL where
 * none is near.
 */
const char *option_nearest(const char *name);

/*
 * Reads a switch: auto; yes, true, on, 1; no, false, off, 0; in any case.
 * Returns 0 and the value, or -EINVAL with *_value untouched.
 */
int option_switch_parse(const char *text, enum option_switch *_value);

/*
 * Reads a number in the range of its row.  Returns 0 and the value, or
 * -EINVAL with *_value untouched.
 */
int option_number_parse(const struct option_row *row, const char *text,
			uint64_t *_value);

/*
 * Whether a text is a value of its row.  Returns 0 or -EINVAL.
 */
int option_validate(const struct option_row *row, const char *text);

/*
 * What the values of an option look like, for a message.
 */
const char *option_accepts(const struct option_row *row);

/*
 * Whether a list of patterns ("*.vhdx *.vhd") is well formed: not empty, no
 * '/', every item at most 255 bytes.  Returns 0 or -EINVAL.
 */
int option_patterns_validate(const char *patterns);

/*
 * Whether the last component of a path matches one of the patterns, ignoring
 * the case of ASCII letters ('*' and '?' as in the shell).
 */
bool option_patterns_match(const char *patterns, const char *path);

#endif
