/* Between the files of the index.  All with the index locked. */
#ifndef HVRS_SAMBA_STATE_HANDLES_PRIV_H
#define HVRS_SAMBA_STATE_HANDLES_PRIV_H

#include "state_handles.h"

/* Puts a handle and its keys into the index, in the place of what it was. */
bool state_handles_index_put(const struct state_handle *h);

/* Appends a record; errors of state_log_append(), -E2BIG, -ENOMEM. */
int state_handles_log_put(const struct handle_record *r,
			  struct state_log_point *_point);

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
