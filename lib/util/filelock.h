/*
 * Locks of open file descriptions, as others see them.
 */
#ifndef HVRS_UTIL_FILELOCK_H
#define HVRS_UTIL_FILELOCK_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Whether anybody holds a lock on any of these bytes of a file; no link is
 * followed.  False where there is no such file, true where it is not known.
 */
bool filelock_is_held(const char *path, off_t start, off_t length);

#endif
