/*
 * Snapshot providers: what takes, seals and removes a snapshot of a folder.
 * They run as root, in a thread of their own, call nothing of Samba, and
 * return 0 or a negative errno with *why a static text or one of mem_ctx.
 */
#ifndef HVRS_FSRVP_PROVIDER_H
#define HVRS_FSRVP_PROVIDER_H

#include <stdbool.h>
#include <stdint.h>
#include <talloc.h>

/* The folder snapshots lie in, below what is snapshotted; shadow_copy2's. */
#define PROVIDER_FOLDER	".snapshots"

/* What of smb.conf concerns the providers of a share. */
struct provider_config {
	const char *provider;	/* auto, btrfs, clone or script */
	const char *script;	/* absolute path, or NULL */
	const char *freeze;	/* the folder of the freeze's pages */
	const char *freeze_file;	/* on a cluster; else NULL */
	uint32_t freeze_ms;	/* no freeze is longer */
};

/* Where a share lies. */
struct provider_store {
	const char *id;		/* the same for all that is snapshotted in one */
	const char *root;	/* what is snapshotted */
	const char *path;	/* of the share below it, "" the root itself */
};

struct provider_job {
	const struct provider_config *config;
	const char *root;
	const char *snapshot;	/* where it shall be; absolute */
	bool writable;		/* until it is sealed */
	bool *stop;		/* set: end early with -ECANCELED */
	const char *why;
	/* what it did, for the log */
	uint64_t files;
	uint64_t stall_ns;	/* that writers waited */
};

struct provider {
	const char *name;
	/* Whether it can, and where the share lies.  -EOPNOTSUPP: it cannot. */
	int (*probe)(TALLOC_CTX *mem_ctx, const char *share_path,
		     const struct provider_config *config,
		     struct provider_store *_store, const char **why);
	/* What can be done before writers stand still. */
	int (*prepare)(struct provider_job *job);
	/* Takes it.  A failure leaves what destroy() takes away. */
	int (*create)(struct provider_job *job);
	/* Makes it read-only for good where the file system can. */
	int (*seal)(const struct provider_config *config,
		    const char *snapshot, const char **why);
	/* Takes it away, also half of one; 0 where there is none. */
	int (*destroy)(const struct provider_config *config,
		       const char *snapshot, const char **why);
};

extern const struct provider provider_btrfs;
extern const struct provider provider_clone;
extern const struct provider provider_script;

/* By its name, or NULL. */
const struct provider *provider_find(const char *name);

/*
 * The provider a share is snapshotted by: the one its config names, or with
 * "auto" the first whose probe succeeds.  NULL with *why for the log.
 */
const struct provider *provider_choose(TALLOC_CTX *mem_ctx,
				       const char *share_path,
				       const struct provider_config *config,
				       struct provider_store *_store,
				       const char **why);

/*
 * Opens the folder of snapshots below root, making it where it is missing:
 * root's own, writable by nobody else, no link.  A descriptor or a negative
 * errno.
 */
int provider_folder_open(const char *root, const char **why);

/*
 * Opens the folder a snapshot lies in and gives its last name: what else is
 * done to a snapshot is done below that descriptor, so that nobody can put a
 * link in the way.  -ENOENT where the folder is gone.
 */
int provider_parent_open(const char *snapshot, const char **_name,
			 const char **why);

/*
 * Calls take() while the writers of the file system of root (a descriptor)
 * stand still.  What is dirty is written before, so that they do not wait for
 * the disk.  What take() returns, or a negative errno of the freeze.
 */
int provider_frozen(struct provider_job *job, int root,
		    int (*take)(struct provider_job *job, void *private_data),
		    void *private_data);

/* Makes all that is written so far below a folder durable. */
int provider_sync(const char *root);

#endif
