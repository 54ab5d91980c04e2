/* What the probes of hvrs-check share: one run, its files, its verdicts. */
#ifndef HVRS_CHECK_CHECK_H
#define HVRS_CHECK_CHECK_H

#include "smb.h"

enum verdict {
	PASS,
	FAIL,		/* it is there and wrong, or a duty is not met */
	ABSENT,		/* the server does not have it */
};

struct check {
	TALLOC_CTX *mem_ctx;
	struct smb_target target;
	const char *share;
	struct smb *smb;	/* the connection of most probes */
	uint32_t tree;
	uint32_t share_caps;
	const char *folder;	/* of this run, on the share */
	const char *local;	/* the share's directory here, or NULL */
	bool keep;
	const char *text;	/* of the verdict */
};

struct clause {
	const char *id;
	const char *name;
	bool must;
	enum verdict (*probe)(struct check *check);
};

/* Gives the verdict with its text, printf-like. */
enum verdict verdict(struct check *check, enum verdict verdict,
		     const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The usual words for a request that the server does not know. */
bool is_unknown(uint32_t status);

/* A file of the run's folder, read and write, made where it is missing. */
uint32_t check_open(struct check *check, struct smb *smb, const char *name,
		    struct smb_file *_file);

/* Its path on the share, of mem_ctx. */
const char *check_path(struct check *check, const char *name);

/* A block of bytes that no other seed gives. */
void check_fill(uint8_t *bytes, size_t length, uint32_t seed);

/* Writes or reads all of a range in requests of 64 KiB. */
uint32_t check_write(struct smb *smb, const struct smb_file *file,
		     uint64_t offset, const uint8_t *bytes, size_t length);
uint32_t check_read(struct smb *smb, const struct smb_file *file,
		    uint64_t offset, uint8_t *bytes, size_t length);

/* A second connection, logged on as the same user and on the share. */
uint32_t check_connect(struct check *check, const struct smb_target *target,
		       uint64_t previous, struct smb **_smb);

/* Size and space on disk, FileStandardInformation. */
uint32_t check_sizes(struct check *check, const struct smb_file *file,
		     uint64_t *_size, uint64_t *_allocated);

/* FileFsAttributeInformation's attributes. */
uint32_t check_volume(struct check *check, uint32_t *_attributes);

/* Whether the run's folder is in the directory that was given (local.c). */
bool check_is_here(struct check *check);

/* How many bytes two files have on the same blocks; false: cannot be told. */
bool check_shared(struct check *check, const char *from, const char *to,
		  uint64_t length, uint64_t *_shared);

/* Whether the file system lets a file share the blocks of this one. */
bool check_can_share(struct check *check, const char *from);

/*
 * A file that is made here and written over SMB: what make() says, NULL for a
 * dynamic VHDX of 64 MiB (probe_disk.c).
 */
struct store;
uint32_t check_disk_put(struct check *check, const char *name,
			int (*make)(struct store *store));

/* A disk of it, by a context of version 2. */
uint32_t check_disk_open(struct check *check, const char *name,
			 struct smb_file *_file);

/* The second half of probe_shared_disk(). */
enum verdict probe_set(struct check *check);

enum verdict probe_dialect(struct check *check);
enum verdict probe_persistent(struct check *check);
enum verdict probe_resilient(struct check *check);
enum verdict probe_offload(struct check *check);
enum verdict probe_zero(struct check *check);
enum verdict probe_trim(struct check *check);
enum verdict probe_clone(struct check *check);
enum verdict probe_attributes(struct check *check);
enum verdict probe_sparse_vdl(struct check *check);
enum verdict probe_shared_disk(struct check *check);
enum verdict probe_qos(struct check *check);
enum verdict probe_snapshot(struct check *check);

#endif
