/*
 * The way from Samba's RPC server to a method and back: the bytes are decoded
 * and encoded by Samba's own NDR code for the interface, as root, and the
 * method decides on the caller's token alone.
 */
#include "fsrvp.h"

static struct fsrvp *the_server;	/* the interface knows no other way */

static NTSTATUS op_bind(struct dcesrv_connection_context *context,
			const struct dcesrv_interface *iface)
{
	(void)context;
	(void)iface;
	return NT_STATUS_OK;
}

static void op_unbind(struct dcesrv_connection_context *context,
		      const struct dcesrv_interface *iface)
{
	(void)context;
	(void)iface;
}

static NTSTATUS op_ndr_pull(struct dcesrv_call_state *dce_call,
			    TALLOC_CTX *mem_ctx, struct ndr_pull *pull,
			    void **_r)
{
	const struct ndr_interface_table *table =
		&ndr_table_FileServerVssAgent;
	uint16_t opnum = dce_call->pkt.u.request.opnum;
	enum ndr_err_code err = NDR_ERR_SUCCESS;
	void *r = NULL;

	dce_call->fault_code = 0;
	if (opnum >= table->num_calls || fsrvp_method_get(opnum) == NULL) {
		dce_call->fault_code = DCERPC_FAULT_OP_RNG_ERROR;
		return NT_STATUS_NET_WRITE_FAULT;
	}
	r = talloc_zero_size(mem_ctx, table->calls[opnum].struct_size);
	if (r == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	talloc_set_name_const(r, table->calls[opnum].name);
	err = table->calls[opnum].ndr_pull(pull, NDR_IN, r);
	if (!NDR_ERR_CODE_IS_SUCCESS(err)) {
		dce_call->fault_code = DCERPC_FAULT_NDR;
		return NT_STATUS_NET_WRITE_FAULT;
	}
	*_r = r;
	return NT_STATUS_OK;
}

/* The pointers of what goes out are the callee's to make. */
static bool make_room(TALLOC_CTX *r, uint16_t opnum)
{
	switch (opnum) {
	case NDR_FSS_GETSUPPORTEDVERSION: {
		struct fss_GetSupportedVersion *m = r;

		m->out.MinVersion = talloc_zero(r, uint32_t);
		m->out.MaxVersion = talloc_zero(r, uint32_t);
		return m->out.MinVersion != NULL && m->out.MaxVersion != NULL;
	}
	case NDR_FSS_STARTSHADOWCOPYSET: {
		struct fss_StartShadowCopySet *m = r;

		m->out.pShadowCopySetId = talloc_zero(r, struct GUID);
		return m->out.pShadowCopySetId != NULL;
	}
	case NDR_FSS_ADDTOSHADOWCOPYSET: {
		struct fss_AddToShadowCopySet *m = r;

		m->out.pShadowCopyId = talloc_zero(r, struct GUID);
		return m->out.pShadowCopyId != NULL;
	}
	case NDR_FSS_ISPATHSUPPORTED: {
		struct fss_IsPathSupported *m = r;

		m->out.SupportedByThisProvider = talloc_zero(r, uint32_t);
		m->out.OwnerMachineName = talloc_zero(r, const char *);
		return m->out.SupportedByThisProvider != NULL &&
		       m->out.OwnerMachineName != NULL;
	}
	case NDR_FSS_ISPATHSHADOWCOPIED: {
		struct fss_IsPathShadowCopied *m = r;

		m->out.ShadowCopyPresent = talloc_zero(r, uint32_t);
		m->out.ShadowCopyCompatibility = talloc_zero(r, int32_t);
		return m->out.ShadowCopyPresent != NULL &&
		       m->out.ShadowCopyCompatibility != NULL;
	}
	case NDR_FSS_GETSHAREMAPPING: {
		struct fss_GetShareMapping *m = r;

		m->out.ShareMapping = talloc_zero(
			r, union fssagent_share_mapping);
		return m->out.ShareMapping != NULL;
	}
	default:
		return true;
	}
}

/*
 * One method: access, state, the method itself; what it changed is stored
 * before it is answered, and where it cannot be stored nothing changed.
 */
static uint32_t run_alone(struct fsrvp_call *call,
			  const struct fsrvp_method *method, void *r)
{
	struct fsrvp *server = call->server;
	uint32_t result = SNAPSET_OK;
	int ret = 0;

	ret = state_snapsets_load(call->mem_ctx, server->db, &call->state);
	if (ret != 0) {
		return ret == -ENOMEM ? SNAPSET_NO_MEMORY : SNAPSET_FAIL;
	}
	call->now = fsrvp_now();
	result = method->run(call, r);
	if (call->changed && fsrvp_store(server, call->state) != 0) {
		return SNAPSET_FAIL;
	}
	if (call->undo) {
		uint32_t undone = fsrvp_undo(server, call->state);

		result = result == SNAPSET_OK ? undone : result;
	}
	if (method->changes && !call->later) {
		DBG_NOTICE("hvrs: fsrvp: %s by %s: 0x%08x\n", method->name,
			   call->client, result);
	}
	return result;
}

static uint32_t run(struct fsrvp_call *call, const struct fsrvp_method *method,
		    void *r)
{
	uint32_t result = fsrvp_access(call, method->name);

	if (result != SNAPSET_OK) {
		return result;
	}
	if (!fsrvp_enter(call->server)) {
		/* Another node takes a snapshot. */
		return SNAPSET_IN_PROGRESS;
	}
	result = run_alone(call, method, r);
	state_snapsets_end(call->server->db);
	return result;
}

static NTSTATUS op_dispatch(struct dcesrv_call_state *dce_call,
			    TALLOC_CTX *mem_ctx, void *r)
{
	uint16_t opnum = dce_call->pkt.u.request.opnum;
	const struct fsrvp_method *method = fsrvp_method_get(opnum);
	struct fsrvp_call call = {
		.server = the_server,
		.dce_call = dce_call,
		.mem_ctx = r,
	};
	uint32_t result = SNAPSET_OK;

	(void)mem_ctx;
	if (method == NULL) {
		dce_call->fault_code = DCERPC_FAULT_OP_RNG_ERROR;
		return NT_STATUS_NET_WRITE_FAULT;
	}
	if (!make_room(r, opnum)) {
		return NT_STATUS_NO_MEMORY;
	}
	call.result = (uint32_t *)((uint8_t *)r + method->result);
	result = run(&call, method, r);
	if (call.later) {
		dce_call->state_flags |= DCESRV_CALL_STATE_FLAG_ASYNC;
		return NT_STATUS_OK;
	}
	*call.result = result;
	return NT_STATUS_OK;
}

static NTSTATUS op_reply(struct dcesrv_call_state *dce_call,
			 TALLOC_CTX *mem_ctx, void *r)
{
	(void)mem_ctx;
	(void)r;
	return dce_call->fault_code == 0 ? NT_STATUS_OK
					 : NT_STATUS_NET_WRITE_FAULT;
}

static NTSTATUS op_ndr_push(struct dcesrv_call_state *dce_call,
			    TALLOC_CTX *mem_ctx, struct ndr_push *push,
			    const void *r)
{
	uint16_t opnum = dce_call->pkt.u.request.opnum;
	enum ndr_err_code err =
		ndr_table_FileServerVssAgent.calls[opnum].ndr_push(
			push, NDR_OUT, r);

	(void)mem_ctx;
	if (!NDR_ERR_CODE_IS_SUCCESS(err)) {
		dce_call->fault_code = DCERPC_FAULT_NDR;
		return NT_STATUS_NET_WRITE_FAULT;
	}
	return NT_STATUS_OK;
}

static struct dcesrv_interface interface = {
	.name = "FileServerVssAgent",
	.bind = op_bind,
	.unbind = op_unbind,
	.ndr_pull = op_ndr_pull,
	.dispatch = op_dispatch,
	.reply = op_reply,
	.ndr_push = op_ndr_push,
	.local = op_dispatch,
};

static NTSTATUS init_server(struct dcesrv_context *context,
			    const struct dcesrv_endpoint_server *server)
{
	const struct ndr_interface_table *table =
		&ndr_table_FileServerVssAgent;
	uint32_t i = 0;

	(void)server;
	interface.syntax_id = table->syntax_id;
	for (i = 0; i < table->endpoints->count; i++) {
		NTSTATUS status = dcesrv_interface_register(
			context, table->endpoints->names[i], NULL, &interface,
			NULL);

		if (!NT_STATUS_IS_OK(status)) {
			return status;
		}
	}
	return NT_STATUS_OK;
}

static NTSTATUS shutdown_server(struct dcesrv_context *context,
				const struct dcesrv_endpoint_server *server)
{
	(void)context;
	(void)server;
	return NT_STATUS_OK;
}

static bool by_uuid(struct dcesrv_interface *iface, const struct GUID *uuid,
		    uint32_t version)
{
	if (GUID_equal(&interface.syntax_id.uuid, uuid) &&
	    interface.syntax_id.if_version == version) {
		*iface = interface;
		return true;
	}
	return false;
}

static bool by_name(struct dcesrv_interface *iface, const char *name)
{
	if (strcmp(interface.name, name) == 0) {
		*iface = interface;
		return true;
	}
	return false;
}

const struct dcesrv_endpoint_server *fsrvp_endpoint_server(
	struct fsrvp *server)
{
	static const struct dcesrv_endpoint_server endpoint_server = {
		.name = "FileServerVssAgent",
		.init_server = init_server,
		.shutdown_server = shutdown_server,
		.interface_by_uuid = by_uuid,
		.interface_by_name = by_name,
	};

	the_server = server;
	return &endpoint_server;
}
