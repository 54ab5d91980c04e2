/*
 * The record of a shared disk as a file, for several machines: locked with
 * fcntl(2), and stored so that a machine which goes at any moment leaves the
 * old bytes or the new ones.  Two places take turns.
 */
#ifndef HVRS_RSVD_RECORD_FILE_H
#define HVRS_RSVD_RECORD_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#define RSVD_RECORD_FILE_MAX 0x40000U

struct rsvd_record_file;

/*
 * Opens the file at path, made when missing, and locks it, waiting so long at
 * most: -ETIMEDOUT.  *_bytes are those stored last, a child of the result; NULL
 * where nothing was.  -EINVAL where there is neither an old nor a new record
 * but bytes.  Freeing it unlocks.
 */
int rsvd_record_file_lock(TALLOC_CTX *mem_ctx, const char *path,
			  unsigned wait_ms, struct rsvd_record_file **_file,
			  uint8_t **_bytes, size_t *_length);

/* Stable when it returns 0; length 0 for no record.  -EFBIG, or an error. */
int rsvd_record_file_store(struct rsvd_record_file *file,
			   const uint8_t *bytes, size_t length);

#endif
