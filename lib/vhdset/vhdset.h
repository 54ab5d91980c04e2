/*
 * VHD Sets: the small .vhds file that names the disk file which is written at
 * present (the leaf), and, beside it, a catalogue of the snapshots.
 *
 * Microsoft has not published the format.  What is known is the shape of sets
 * without snapshots; this room reads and writes exactly that.  A set that holds
 * more is opened, but never changed ("foreign").  Snapshots are therefore kept
 * in a file of our own, the catalogue; to Windows they are an ordinary chain of
 * differencing disks.  README.md in this folder describes both files.
 *
 * This room moves names, not blocks: making the new leaf before a change, and
 * removing files that nothing needs after it, is the caller's.
 *
 * Errors of this room:
 *   -EINVAL    the caller's request makes no sense (a bad name, a bad type)
 *   -EBADMSG   a file breaks its format; *_why, where there is one, says how
 *   -ENOTSUP   the set is sound but holds what is unknown here
 *   -EROFS     a change was asked of a set opened for reading
 *   -ENOENT    no such snapshot
 *   -EEXIST    a snapshot of that id is there, or the store is not empty
 *   -ESTALE    the catalogue does not belong to the set as it is: something
 *              else changed the set's leaf
 *   -EBUSY     the set has snapshots
 *   -EFBIG     more than VHDSET_SNAPSHOTS_MAX snapshots
 *   -ENOMEM, and whatever the store answers
 */
#ifndef HVRS_VHDSET_VHDSET_H
#define HVRS_VHDSET_VHDSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "util/guid.h"

struct store;
struct vhdset;

#define VHDSET_HEADER_SIZE 4096U
#define VHDSET_FILE_SIZE 0x41000U	/* of a new set */
#define VHDSET_NAME_MAX 256		/* a file name in UTF-8, with NUL */
#define VHDSET_CREATOR_MAX 768		/* the creator in UTF-8, with NUL */
#define VHDSET_SNAPSHOTS_MAX 1024
#define VHDSET_CATALOGUE_SUFFIX ".snapshots"
#define VHDSET_NOTES_SUFFIX ".unfinished"
#define VHDSET_NEW_SUFFIX ".new"	/* of notes that are being written */
#define VHDSET_CHANGES_SUFFIX ".changes"
#define VHDSET_BUILD_SUFFIX ".part"	/* of a file that is being made */
#define VHDSET_NOTES_MAX 2048		/* names */
#define VHDSET_NOTES_SIZE_MAX (1U << 20)

/* ---- the file ------------------------------------------------------------- */

/* One of the two headers, at 64 KiB and 128 KiB. */
struct vhdset_header {
	uint8_t signature[4];	/* "shdr" */
	uint32_t constant;	/* 0xFFFFE000; meaning unknown */
	uint64_t sequence;	/* the larger one counts */
	uint32_t count;		/* 1 */
	uint32_t checksum;	/* CRC-32C with this field zero */
	uint32_t entry_type;	/* 7: the leaf's name */
	uint32_t name_offset;
	uint32_t name_length;	/* bytes of UTF-16, no NUL */
	bool rest_is_zero;
	uint32_t computed;
};

/* Fills *_header from VHDSET_HEADER_SIZE bytes and judges nothing. */
void vhdset_header_decode(const uint8_t bytes[VHDSET_HEADER_SIZE],
			  struct vhdset_header *_header);

/* The bytes of header, with a new checksum and zeroes after its fields. */
void vhdset_header_encode(const struct vhdset_header *header,
			  uint8_t bytes[VHDSET_HEADER_SIZE]);

/*
 * Whether header is a valid copy (signature and checksum, -EBADMSG), and one
 * whose leaf can be found in a file of file_size bytes (-EBADMSG, -ENOTSUP).
 */
int vhdset_header_validate(const struct vhdset_header *header,
			   uint64_t file_size, const char **_why);

/*
 * Whether name may stand in a set: the name of a file in the set's own folder,
 * in UTF-8, without separators, colons or control characters, and not "." or
 * "..".  -EINVAL.
 */
int vhdset_name_check(const char *name);

/*
 * Makes the usual name of a new leaf: the set's name without folder and
 * ".vhds", "_", a new GUID, ".avhdx".  name holds VHDSET_NAME_MAX bytes.
 * -ENAMETOOLONG when it does not fit, -EINVAL for a set's name that cannot
 * stand in a set.
 */
int vhdset_leaf_name(const char *set_path, char *name);

/* Whether path is a set's: by its extension alone, [MS-RSVD] 3.2.5.1. */
bool vhdset_is_name(const char *path);

/* Whether a name is such a one, of that very set. */
bool vhdset_is_own_name(const char *set_path, const char *name);

/*
 * The names in the notes beside a set (VHDSET_NOTES_SUFFIX): each once, in
 * their order, NULL at the end, a talloc child of mem_ctx.  text is not
 * trusted, ends with NUL, and is cut up.  Left out is what is no name as the set
 * makes them, with or without VHDSET_BUILD_SUFFIX, and what is more than
 * VHDSET_NOTES_MAX.  -ENOMEM.
 */
int vhdset_notes_parse(TALLOC_CTX *mem_ctx, const char *set_path, char *text,
		       char ***_notes);

/*
 * Writes a new set that names leaf into store, which must be empty (-EEXIST),
 * and flushes it.  The signature is written last.
 */
int vhdset_create(struct store *store, const char *leaf);

/* ---- an open set ---------------------------------------------------------- */

struct vhdset_open {
	bool writable;
	/*
	 * The catalogue's store, or NULL where there is no such file.  A
	 * writable one may be empty: it is filled by the first snapshot.
	 */
	struct store *catalogue;
};

/*
 * Opens the set in store.  Both stores are borrowed and must outlive the set.
 * The result is a talloc child of mem_ctx; freeing it is all there is to
 * closing.  A catalogue that does not fit the set does not fail the open; the
 * snapshot functions answer -ESTALE (or -EBADMSG) then.
 */
int vhdset_open(TALLOC_CTX *mem_ctx, struct store *store,
		const struct vhdset_open *how, struct vhdset **_set,
		const char **_why);

struct vhdset_info {
	uint64_t sequence;
	uint64_t file_size;
	bool writable;
	bool foreign;		/* holds what is unknown here: not changed */
	bool header_damaged;	/* one of the two copies is not valid */
	int catalogue_error;	/* 0, -ESTALE, -EBADMSG, -ENOTSUP */
	char leaf[VHDSET_NAME_MAX];
	char creator[VHDSET_CREATOR_MAX];
};

/* Fills *_info without I/O. */
void vhdset_info_get(const struct vhdset *set, struct vhdset_info *_info);

/*
 * Makes leaf the file that the set names.  One 4 KiB header write is the
 * commit: a crash leaves the old name or the new one.  Only for a set without
 * snapshots (-EBUSY); others change by the functions below.  -ENOTSUP for a
 * foreign set.
 */
int vhdset_leaf_set(struct vhdset *set, const char *leaf);

/*
 * Rewrites a damaged copy of the header from the sound one, with a sequence
 * one below it.  0 when nothing was to do.  -ENOTSUP for a foreign set.
 */
int vhdset_repair(struct vhdset *set);

/* ---- snapshots ------------------------------------------------------------ */

/* [MS-RSVD] SnapshotType; 2 does not exist */
enum vhdset_snapshot_type {
	VHDSET_VM = 1,
	VHDSET_CDP = 3,
	VHDSET_WRITEABLE = 4,
};

enum vhdset_snapshot_flags {
	VHDSET_TRACKED = 1,	/* made with change tracking on */
	VHDSET_REFERENCE = 2,	/* a reference point: the data is gone */
};

struct vhdset_snapshot {
	struct guid id;
	struct guid parent;	/* the snapshot before it, or null */
	struct guid log_id;	/* CDP: the log file's id */
	uint64_t created_ms;	/* since 1970-01-01 00:00 UTC */
	uint32_t type;
	uint32_t flags;
	char file[VHDSET_NAME_MAX]; /* empty for a reference point */
};

/*
 * The snapshots, oldest first; *_list is borrowed until the next change.
 * -ESTALE, -EBADMSG or -ENOTSUP when the catalogue cannot be used.
 */
int vhdset_snapshot_list(const struct vhdset *set,
			 const struct vhdset_snapshot **_list,
			 size_t *_count);

/* One of them by id, borrowed until the next change; -ENOENT. */
int vhdset_snapshot_find(const struct vhdset *set, const struct guid *id,
			 const struct vhdset_snapshot **_snapshot);

/*
 * The leaf becomes the file of a new snapshot, and new_leaf, which the caller
 * has made as its child and flushed, with its folder, becomes the leaf.  Of
 * wanted, id, log_id, created_ms, type and flags are used.  The commit is the
 * set's header; after a crash before it, new_leaf is a stray file.
 */
int vhdset_snapshot_add(struct vhdset *set,
			const struct vhdset_snapshot *wanted,
			const char *new_leaf);

/*
 * Goes back to snapshot id: new_leaf, which the caller has made as a child of
 * the snapshot's file, becomes the leaf.  The snapshot stays.  The old leaf's
 * file is no longer needed when vhdset_file_needed() says so.
 */
int vhdset_snapshot_apply(struct vhdset *set, const struct guid *id,
			  const char *new_leaf);

/*
 * Takes snapshot id out of the catalogue, or with keep_reference makes a
 * reference point of it.  The snapshots that came after it become those of its
 * parent.  Its file stays a link of the chain until the caller merges it.
 */
int vhdset_snapshot_remove(struct vhdset *set, const struct guid *id,
			   bool keep_reference);

/*
 * Whether the set itself names file, as its leaf or as a snapshot's.  A file
 * it does not name may still be the parent of one that it names.
 */
bool vhdset_file_needed(const struct vhdset *set, const char *file);

/* ---- the end of a set ----------------------------------------------------- */

/*
 * The files of folder (a descriptor) that go with the set called name: NULL at
 * the end, a talloc child of mem_ctx, in the order in which they may go once
 * the set's own file is gone.  The first *_parts are disks that the set names
 * or has noted, under names as it makes them; the others lie beside it and may
 * be missing.  A disk stays where another one of the folder has it as its
 * parent, or a disk that stays has.  Everything in the folder is read, nothing
 * is written.
 * -ENOENT: there is no such set.  Other errors where it cannot be told what may
 * go.
 */
int vhdset_files(TALLOC_CTX *mem_ctx, int folder, const char *name,
		 char ***_files, size_t *_parts);

/*
 * The same of what a crash left of a set that was to go (vhdset_files_note());
 * -EEXIST: it is there, or another of that name.
 */
int vhdset_files_rest(TALLOC_CTX *mem_ctx, int folder, const char *name,
		      char ***_files);

/*
 * Before the set's own file goes: makes stable that it will, and these disks
 * with it, so that what a crash leaves of them is found again.  As long as the
 * set is there it loses nothing by the notes.
 */
int vhdset_files_note(int folder, const char *name, char *const *files,
		      size_t parts);

/* After it went, where no VFS is to be asked. */
int vhdset_files_remove(int folder, char *const *files);

#endif
