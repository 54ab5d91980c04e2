/* Records with a magic, a version and a checksum, for the files of sqos/. */
#ifndef HVRS_SQOS_PRIV_H
#define HVRS_SQOS_PRIV_H

#include "sqos/sqos.h"
#include "util/cursor.h"

/* Begins one with room for so many bytes behind the header. */
int sqos_record_begin(TALLOC_CTX *mem_ctx, uint32_t magic, size_t room,
		      struct cursor_put *_put);
void sqos_record_text(struct cursor_put *put, const char *text);
int sqos_record_end(struct cursor_put *put, uint8_t **_bytes,
		    size_t *_length);

/* -EBADMSG or -EPROTONOSUPPORT; *_in is behind the header. */
int sqos_record_open(const uint8_t *bytes, size_t length, uint32_t magic,
		     struct cursor *_in);
void sqos_record_take_text(struct cursor *in, char *out, size_t room);

#endif
