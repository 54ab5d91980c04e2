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

/*
 * The main loop of a helper of samba-dcerpcd, from Samba's private library
 * RPC-WORKER, which a launcher has opened (rpc_server/fsrvp/launcher.c).
 */
int rpc_worker_main(int argc, const char *argv[], const char *name,
		    int workers, int idle_seconds,
		    size_t (*interfaces)(
			    const struct ndr_interface_table ***tables,
			    void *private_data),
		    NTSTATUS (*servers)(
			    struct dcesrv_context *context,
			    const struct dcesrv_endpoint_server ***servers,
			    size_t *count, void *private_data),
		    void *private_data);

#endif
