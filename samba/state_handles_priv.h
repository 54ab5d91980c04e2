/* Between the files of the index.  All with the index locked. */
#ifndef HVRS_SAMBA_STATE_HANDLES_PRIV_H
#define HVRS_SAMBA_STATE_HANDLES_PRIV_H

#include "state_handles.h"

/*
 * The database, and its lock, under which all of it changes; on a cluster what the
 * other nodes have written is in it then.  A talloc object, or NULL.
 */
bool state_handles_index_open(const char *path);	/* as root */
void state_handles_index_close(void);
bool state_handles_index_is_open(void);
struct db_record *state_handles_index_lock(TALLOC_CTX *mem_ctx);

/* Whether it holds what was in the log when smbd was started. */
bool state_handles_index_is_filled(void);
void state_handles_index_filled(void);

/* Devices whose handles were looked through. */
bool state_handles_index_device(uint64_t device);
void state_handles_index_device_put(uint64_t device);
void state_handles_index_device_drop(uint64_t device);

/*
 * On a cluster the logs hold a handle as the index does: who has it open comes
 * before the record.
 */
#define STATE_HANDLES_HEAD HANDLE_OWNER_SIZE
void state_handles_head_put(const struct state_handle *h,
			    uint8_t out[STATE_HANDLES_HEAD]);

/* -EINVAL or the record's error, with *why. */
int state_handles_decode(struct handle_bytes payload, struct state_handle *_h,
			 const char **why);

/*
 * Puts a handle and its keys into the index, in the place of what it was; it
 * is in the log of a node.
 */
bool state_handles_index_put(const struct state_handle *h, uint32_t home);

/* Appends a handle; errors of state_log_append(), -E2BIG, -ENOMEM. */
int state_handles_log_put(const struct state_handle *h,
			  struct state_log_point *_point);

/*
 * A handle that has ended, and of which another log than the one that says so
 * holds something older.
 */
struct state_handles_ended {
	uint64_t id;
	uint32_t revision;
	uint32_t home;
	uint64_t logs;
};
void state_handles_ended_put(const struct state_handles_ended *ended);
void state_handles_ended_forget(uint64_t id);
bool state_handles_ended_get(uint64_t id, struct state_handles_ended *_ended);
void state_handles_ended_traverse(
	bool (*fn)(const struct state_handles_ended *ended, void *data),
	void *data);

/* The index' own, whatever the logs of other nodes say. */
struct state_handle *state_handles_index_get(TALLOC_CTX *mem_ctx, uint64_t id);
void state_handles_index_drop(const struct state_handle *h);

/* Notes which logs hold something of it. */
void state_handles_index_logs(const struct state_handle *h, uint64_t logs);

/*
 * On a cluster: takes over what other nodes have written (state_follow.c).
 * _whole: from a whole log, which may be this node's own; as root.
 */
void state_handles_follow(void);
bool state_handles_follow_whole(uint32_t node, const uint8_t *log,
				size_t length, size_t *_end, void *data);

/* Whether the folder is that of all nodes; waits for it, and logs where not. */
bool state_handles_cluster_folder(const char *directory);

/* Writes the log anew, from the index.  As root. */
int state_handles_log_rewrite(void);

/* The same after an error of the disk, now and then, until it is well. */
void state_handles_log_cure(const char *directory);

/*
 * Fills the index from the log, and writes that anew.  False where the log
 * cannot be read.  As root.
 */
bool state_handles_log_restore(const char *directory);

#endif
