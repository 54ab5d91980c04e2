/*
 * The log of handle records on disk, shared by all processes of smbd, and the
 * one flush that covers all who wait.  Plain system calls and threads: nothing
 * here needs smbd.
 */
#ifndef HVRS_SAMBA_STATE_LOG_H
#define HVRS_SAMBA_STATE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "handle/handle.h"

/* A place in the log: durable when state_log_commit() of it returned 0. */
struct state_log_point {
	uint64_t end;
};

/*
 * Maps what the processes share; called in each of them before the rest.
 * shared is a file that does not outlive smbd, directory holds the log, which
 * has this name.  0 or a negative errno.
 */
int state_log_open(const char *shared, const char *directory,
		   const char *name);

/*
 * On a cluster: how far this server has read the log of a node, at most
 * STATE_LOG_NODES of them.  Changed with the index locked.
 */
#define STATE_LOG_NODES 64
struct state_log_place {
	uint64_t generation;	/* 0: nothing of it */
	uint64_t offset;
};
struct state_log_place *state_log_place(uint32_t node);

/*
 * Frames behind the end, which a process has written that died before it could
 * say so: others have read them, so they are in the log from now on.  Calls fn
 * for each.  The index is locked.
 */
void state_log_adopt(void (*fn)(const struct handle_frame *frame, void *data),
		     void *data);

/*
 * The whole log as it lies on disk, for a replay; talloc'd, empty where there
 * is none.  -ENOTSUP: a log of another version, which stays as it is.
 * -EINVAL: no log at all, which was set aside.
 */
int state_log_read(TALLOC_CTX *mem_ctx, uint8_t **_log, size_t *_length);

/*
 * Puts a new log with these frames in the old one's place, on disk when it
 * returns 0; then the processes may append.  The index is locked.
 */
int state_log_rewrite(const uint8_t *frames, size_t length);
void state_log_disable(void);

/*
 * Whether the processes of this server share the log as this one does: not
 * while some of them have another build of this module.
 */
bool state_log_is_known(void);

/*
 * Notes which process has the index locked, and that it has no longer.
 * _holder: false where none has; *_turn is another for each time.
 */
struct state_log_holder {
	uint64_t pid;
	uint64_t unique;
	uint64_t turn;
};
void state_log_hold(uint64_t pid, uint64_t unique);
void state_log_release(uint64_t pid);
bool state_log_holder(struct state_log_holder *_holder);

/* Whether nothing can be appended until the log is written anew. */
bool state_log_is_sick(void);

/*
 * Appends a frame; *_point is where it ends.  The index is locked, or the log
 * nobody else's yet.  -EIO where the log is sick; other errors of write(2).
 */
int state_log_append(struct handle_frame *frame,
		     struct state_log_point *_point);

/*
 * Waits until everything up to a point is on disk: flushes it itself, or
 * waits for another process that does.  Safe in any thread.
 */
int state_log_commit(struct state_log_point point);

/* Whether it is known to be on disk; asks nobody. */
bool state_log_is_durable(struct state_log_point point);

/* Whether the log has grown enough to be rewritten. */
bool state_log_is_long(void);

/*
 * Whether it is this process' turn at something that all of them do now and
 * then: true for one of them, after the interval is over.
 */
bool state_log_turn(uint64_t now_ms, uint64_t interval_ms);

/* Likewise, and only while the log is sick: to write it anew. */
bool state_log_cure_turn(uint64_t now_ms, uint64_t interval_ms);

#endif
