/* DCE/RPC over a named pipe, with integrity by NTLM ([MS-RPCE]). */
#ifndef HVRS_CHECK_RPC_H
#define HVRS_CHECK_RPC_H

#include "smb.h"

struct rpc;

/* A fault or an answer that makes no sense, as a status. */
#define STATUS_RPC_FAULT 0xC0020000u

/*
 * Opens a pipe of IPC$ (which it connects to) and binds to an interface of
 * version 1.0.
 */
uint32_t rpc_bind(TALLOC_CTX *mem_ctx, struct smb *smb,
		  const struct smb_target *target, const char *pipe,
		  const struct guid *interface, struct rpc **_rpc);

/* One call; the answer's stub stays the client's until the next request. */
uint32_t rpc_call(struct rpc *rpc, uint16_t opnum, const uint8_t *stub,
		  size_t length, const uint8_t **_out, size_t *_out_length);

void rpc_close(struct rpc *rpc);

#endif
