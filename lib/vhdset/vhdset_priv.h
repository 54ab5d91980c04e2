/* What the files of lib/vhdset share. */
#ifndef HVRS_VHDSET_VHDSET_PRIV_H
#define HVRS_VHDSET_VHDSET_PRIV_H

#include "vhdset/vhdset.h"

#define SET_SIGNATURE "vhdsetv1"
#define SET_HEADER_AT(copy) (0x10000ULL * ((copy) + 1))
#define SET_NAMES_AT 0x40000U	/* where the area of names begins */
#define SET_NAME_STEP 0x1000U
#define SET_CONSTANT 0xFFFFE000U
#define SET_ENTRY_LEAF 7U
#define SET_NAME_BYTES (2U * 255)	/* UTF-16 of the longest name */

/*
 * The catalogue in memory.  leaf is the set's leaf to which this state
 * belongs, which is how a crash between the two files is told.
 */
struct catalogue {
	uint64_t sequence;
	unsigned slot;		/* where this state lies */
	char leaf[VHDSET_NAME_MAX];
	struct guid leaf_parent; /* the snapshot below the leaf, or null */
	struct vhdset_snapshot *list;
	size_t count;
};

struct vhdset {
	struct store *store;
	struct store *catalogue_store;
	uint64_t file_size;
	struct vhdset_header headers[2];
	bool valid[2];
	unsigned current;
	bool writable;
	bool foreign;
	char leaf[VHDSET_NAME_MAX];
	char creator[VHDSET_CREATOR_MAX];
	struct catalogue *catalogue;
	int catalogue_error;
};

/*
 * Loads the state that belongs to leaf from store (NULL or an empty one: no
 * snapshots).  *_catalogue is a talloc child of mem_ctx.
 */
int catalogue_load(TALLOC_CTX *mem_ctx, struct store *store, const char *leaf,
		   struct catalogue **_catalogue);

/*
 * Writes next to the slot that old does not lie in, with a sequence above
 * every other, and flushes.  old stays what a reader of the old leaf finds.
 */
int catalogue_save(struct store *store, const struct catalogue *old,
		   struct catalogue *next);

/* The commit: the set names leaf from now on. */
int set_commit(struct vhdset *set, const char *leaf);

#endif
