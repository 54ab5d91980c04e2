/*
 * Reads and writes that go on to the next module as they are.
 */
#ifndef HVRS_SAMBA_NEXT_H
#define HVRS_SAMBA_NEXT_H

#include "samba.h"

/*
 * SMB_VFS_NEXT_PREAD_SEND() and _PWRITE_SEND() without the request that Samba
 * puts around the next module's: what a module's pread_send and pwrite_send
 * may give back as their own, and must hand to next_pread_recv() in pread_recv
 * and to next_pwrite_recv() in pwrite_recv.  NULL without memory.
 */
struct tevent_req *next_pread_send(struct vfs_handle_struct *handle,
				   TALLOC_CTX *mem_ctx,
				   struct tevent_context *ev,
				   struct files_struct *fsp, void *data,
				   size_t length, off_t offset);
struct tevent_req *next_pwrite_send(struct vfs_handle_struct *handle,
				    TALLOC_CTX *mem_ctx,
				    struct tevent_context *ev,
				    struct files_struct *fsp,
				    const void *data, size_t length,
				    off_t offset);

/* The bytes read or written; -1 with the error in aio. */
ssize_t next_pread_recv(struct tevent_req *req, struct vfs_aio_state *aio);
ssize_t next_pwrite_recv(struct tevent_req *req, struct vfs_aio_state *aio);

#endif
