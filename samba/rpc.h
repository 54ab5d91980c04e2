/*
 * The include door of RPC servers: what they may see of Samba besides the
 * door of the modules.
 */
#ifndef HVRS_SAMBA_RPC_H
#define HVRS_SAMBA_RPC_H

#include "samba.h"

#include "lib/global_contexts.h"
#include "lib/smbconf/smbconf.h"
#include "lib/smbconf/smbconf_init.h"
#include "lib/tsocket/tsocket.h"
#include "librpc/gen_ndr/ndr_fsrvp.h"
#include "librpc/rpc/dcesrv_core.h"
#include "auth.h"
#include "serverid.h"
#include "messages.h"
#include "system/network.h"

#undef free
#undef strcasecmp

typedef size_t rpc_interfaces_fn(const struct ndr_interface_table ***tables,
				 void *private_data);
typedef NTSTATUS rpc_servers_fn(
	struct dcesrv_context *context,
	const struct dcesrv_endpoint_server ***servers, size_t *count,
	void *private_data);

/*
 * The main loop of a helper of samba-dcerpcd, from Samba's private library
 * RPC-WORKER, which a launcher has opened (rpc_server/fsrvp/launcher.c).
 */
#if SERIES_IS(SERIES_4_22)
int rpc_worker_main(int argc, const char *argv[], const char *name,
		    int workers, int idle_seconds,
		    rpc_interfaces_fn *interfaces, rpc_servers_fn *servers,
		    void *private_data);
#else
typedef size_t rpc_servers_old_fn(
	struct dcesrv_context *context,
	const struct dcesrv_endpoint_server ***servers, void *private_data);

int rpc_worker_main(int argc, const char *argv[], const char *name,
		    int workers, int idle_seconds,
		    rpc_interfaces_fn *interfaces,
		    rpc_servers_old_fn *servers, void *private_data);
#endif

#if !SERIES_IS(SERIES_4_22)
static inline size_t rpc_servers_old(
	struct dcesrv_context *context,
	const struct dcesrv_endpoint_server ***servers, void *private_data)
{
	rpc_servers_fn *fn = private_data;
	size_t count = 0;

	return NT_STATUS_IS_OK(fn(context, servers, &count, NULL)) ? count : 0;
}
#endif

/* The same for servers that need no private data. */
static inline int rpc_run(int argc, const char *argv[], const char *name,
			  int idle_seconds, rpc_interfaces_fn *interfaces,
			  rpc_servers_fn *servers)
{
#if SERIES_IS(SERIES_4_22)
	return rpc_worker_main(argc, argv, name, 1, idle_seconds, interfaces,
			       servers, NULL);
#else
	return rpc_worker_main(argc, argv, name, 1, idle_seconds, interfaces,
			       rpc_servers_old, servers);
#endif
}

/* Answers a call that was not answered in place. */
static inline void rpc_reply_later(struct dcesrv_call_state *call)
{
#if SERIES_IS(SERIES_4_22)
	dcesrv_async_reply(call);
#else
	NTSTATUS status = dcesrv_reply(call);

	if (!NT_STATUS_IS_OK(status)) {
		dcesrv_terminate_connection(call->conn, nt_errstr(status));
	}
#endif
}

#endif
