/*
 * Folders in which the processes of one machine meet, and those in which the
 * nodes of a cluster do: on the file system that they share, below "hvrs:handle
 * store".
 */
#ifndef HVRS_SAMBA_STATE_FOLDER_H
#define HVRS_SAMBA_STATE_FOLDER_H

#include "samba.h"

struct db_context;

/*
 * Makes a folder that is root's alone, where it is missing; as root.  False
 * with a line in the log.  what: the feature, for that line.
 */
bool state_folder_make(const char *path, const char *what);

/*
 * On a cluster: makes the folder of that name, and compares what it is called
 * inside with what db, a database of all nodes, has: NULL with a line in the
 * log where this node has another one than the others.  As root.
 */
char *state_folder_shared(TALLOC_CTX *mem_ctx, struct db_context *db,
			  const char *name, const char *what);

#endif
