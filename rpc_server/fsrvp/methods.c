/*
 * The thirteen methods, [MS-FSRVP] 3.1.4: each takes its parameters, asks the
 * state machine (lib/snapset), and does what that says.
 */
#include "fsrvp.h"

static struct guid guid_in(const struct GUID *in)
{
	struct GUID_ndr_buf buffer = {};
	struct guid out = {};

	GUID_to_ndr_buf(in, &buffer);
	memcpy(out.bytes, buffer.buf, sizeof(out.bytes));
	return out;
}

static struct GUID guid_out(const struct guid *in)
{
	DATA_BLOB blob = data_blob_const(in->bytes, sizeof(in->bytes));
	struct GUID out = {};

	GUID_from_ndr_blob(&blob, &out);
	return out;
}

static uint32_t get_version(struct fsrvp_call *call, void *r)
{
	struct fss_GetSupportedVersion *m = r;

	(void)call;
	*m->out.MinVersion = FSRVP_RPC_VERSION_1;
	*m->out.MaxVersion = FSRVP_RPC_VERSION_1;
	return SNAPSET_OK;
}

static uint32_t set_context(struct fsrvp_call *call, void *r)
{
	struct fss_SetContext *m = r;

	call->undo = true;
	return snapset_context_set(call->state, &call->server->rules,
				   m->in.Context, call->client, call->now,
				   &call->changed);
}

static uint32_t start(struct fsrvp_call *call, void *r)
{
	struct fss_StartShadowCopySet *m = r;
	struct guid client_id = guid_in(&m->in.ClientShadowCopySetId);
	struct guid new_id = {};
	uint32_t result = SNAPSET_FAIL;

	*m->out.pShadowCopySetId = (struct GUID) {};
	if (guid_random(&new_id) != 0) {
		return SNAPSET_FAIL;
	}
	result = snapset_start(call->state, &call->server->rules, &client_id,
			       &new_id, call->client, call->now,
			       &call->changed);
	if (result == SNAPSET_OK) {
		*m->out.pShadowCopySetId = guid_out(&new_id);
	}
	return result;
}

static uint32_t add(struct fsrvp_call *call, void *r)
{
	struct fss_AddToShadowCopySet *m = r;
	struct fsrvp_share share = {};
	struct snapset_add request = {};
	struct guid copy = {};
	size_t length = 0;
	uint32_t result = SNAPSET_OK;

	*m->out.pShadowCopyId = (struct GUID) {};
	result = fsrvp_share_find(call, m->in.ShareName, &share);
	if (result == SNAPSET_OK) {
		result = fsrvp_share_probe(call->mem_ctx, &share);
	}
	if (result != SNAPSET_OK) {
		return result;
	}
	if (guid_random(&request.new_id) != 0) {
		return SNAPSET_FAIL;
	}
	length = strlen(share.name);
	request.set = guid_in(&m->in.ShadowCopySetId);
	request.share = share.name;
	request.store = share.store.id;
	request.provider = share.provider->name;
	request.path = share.store.path;
	request.hidden = length > 0 && share.name[length - 1] == '$';
	request.created = unix_timespec_to_nt_time(timespec_current());
	result = snapset_add(call->state, &call->server->rules, &request,
			     call->now, &copy, &call->changed);
	if (result == SNAPSET_OK) {
		*m->out.pShadowCopyId = guid_out(&copy);
	}
	return result;
}

static uint32_t prepare(struct fsrvp_call *call, void *r)
{
	struct fss_PrepareShadowCopySet *m = r;
	struct guid id = guid_in(&m->in.ShadowCopySetId);
	struct snapset_set *set = NULL;
	struct fsrvp_job *job = call->server->job;
	uint32_t result = snapset_prepare(call->state, &call->server->rules,
					  &id, &set);

	if (result != SNAPSET_OK) {
		return result;
	}
	if (job != NULL) {
		return fsrvp_job_wait(call, m->in.TimeOutInMilliseconds);
	}
	result = fsrvp_job_begin(call, set, false,
				 m->in.TimeOutInMilliseconds);
	if (result != SNAPSET_OK) {
		snapset_prepare_done(call->state, &call->server->rules,
				     result, call->now, &call->changed);
	}
	return result;
}

static uint32_t commit(struct fsrvp_call *call, void *r)
{
	struct fss_CommitShadowCopySet *m = r;
	struct guid id = guid_in(&m->in.ShadowCopySetId);
	struct snapset_set *set = NULL;
	bool begin = false;
	uint32_t result = SNAPSET_OK;

	if (call->server->job != NULL && call->server->job_is_prepare) {
		/* Its flush goes on in peace; the client tries again. */
		return SNAPSET_COMMIT_TIMEOUT;
	}
	result = snapset_commit(call->state, &call->server->rules, &id,
				call->now, &set, &begin, &call->changed);
	if (result != SNAPSET_OK) {
		return result;
	}
	if (!begin) {
		return fsrvp_job_wait(call, m->in.TimeOutInMilliseconds);
	}
	result = fsrvp_job_begin(call, set, true,
				 m->in.TimeOutInMilliseconds);
	if (result != SNAPSET_OK && call->server->job == NULL) {
		snapset_commit_done(call->state, &call->server->rules, &id,
				    result, call->now, &call->changed);
		call->undo = true;
	}
	return result;
}

/* What is about to be made is in the state before it is made. */
static uint32_t expose(struct fsrvp_call *call, void *r)
{
	struct fss_ExposeShadowCopySet *m = r;
	struct guid id = guid_in(&m->in.ShadowCopySetId);
	struct snapset_set *set = NULL;
	struct snapset_copy *copy = NULL;
	struct snapset_mapping *mapping = NULL;
	uint32_t result = snapset_expose(call->state, &call->server->rules,
					 &id, &set);

	if (result != SNAPSET_OK) {
		return result;
	}
	for (copy = set->copies; copy != NULL; copy = copy->next) {
		for (mapping = copy->mappings; mapping != NULL;
		     mapping = mapping->next) {
			mapping->is_exposed = true;
		}
	}
	result = fsrvp_store(call->server, call->state) == 0
		? fsrvp_expose(call->server, set) : SNAPSET_FAIL;
	snapset_expose_done(call->state, &call->server->rules, &id, result,
			    call->now, &call->changed);
	return result;
}

/*
 * First the shares, so that nobody writes any more, then the snapshots where
 * their file system can hold them fast.
 */
static uint32_t recovery_complete(struct fsrvp_call *call, void *r)
{
	struct fss_RecoveryCompleteShadowCopySet *m = r;
	struct guid id = guid_in(&m->in.ShadowCopySetId);
	struct snapset_set *set = NULL;
	struct snapset_copy *copy = NULL;
	uint32_t result = snapset_recovery(call->state, &call->server->rules,
					   &id, &set);

	if (result != SNAPSET_OK) {
		return result;
	}
	if (snapset_is_writable(set)) {
		result = fsrvp_seal_shares(call->server, set);
		for (copy = set->copies; copy != NULL; copy = copy->next) {
			const struct provider *provider =
				provider_find(copy->provider);
			struct provider_config config = {};
			const char *why = NULL;
			int ret = 0;

			fsrvp_share_config(copy->share, &config);
			ret = provider == NULL
				? -ENOENT
				: provider->seal(&config, copy->snapshot,
						 &why);
			if (ret != 0) {
				DBG_ERR("hvrs: fsrvp: the snapshot %s cannot "
					"be made read-only: %s\n",
					copy->snapshot,
					why != NULL ? why : strerror(-ret));
				result = SNAPSET_FAIL;
			}
		}
	}
	if (result == SNAPSET_OK) {
		snapset_recovery_done(call->state, &id, &call->changed);
	}
	return result;
}

static uint32_t abort_set(struct fsrvp_call *call, void *r)
{
	struct fss_AbortShadowCopySet *m = r;
	struct guid id = guid_in(&m->in.ShadowCopySetId);

	call->undo = true;
	return snapset_abort(call->state, &call->server->rules, &id,
			     &call->changed);
}

static uint32_t is_path_supported(struct fsrvp_call *call, void *r)
{
	struct fss_IsPathSupported *m = r;
	struct fsrvp_share share = {};
	uint32_t result = SNAPSET_OK;

	*m->out.SupportedByThisProvider = 0;
	*m->out.OwnerMachineName = NULL;
	result = fsrvp_share_find(call, m->in.ShareName, &share);
	if (result == SNAPSET_OK) {
		result = fsrvp_share_probe(call->mem_ctx, &share);
	}
	if (result == SNAPSET_OK) {
		*m->out.SupportedByThisProvider = 1;
		*m->out.OwnerMachineName = share.host;
	}
	return result;
}

static uint32_t is_path_shadow_copied(struct fsrvp_call *call, void *r)
{
	struct fss_IsPathShadowCopied *m = r;
	struct fsrvp_share share = {};
	uint32_t result = SNAPSET_OK;

	*m->out.ShadowCopyPresent = 0;
	*m->out.ShadowCopyCompatibility = 0;
	result = fsrvp_share_find(call, m->in.ShareName, &share);
	if (result != SNAPSET_OK) {
		return result;
	}
	/* A share that cannot be snapshotted has no snapshot either. */
	if (fsrvp_share_probe(call->mem_ctx, &share) == SNAPSET_OK &&
	    snapset_is_copied(call->state, share.store.id)) {
		*m->out.ShadowCopyPresent = 1;
		/* Defragmentation would take shared blocks apart. */
		*m->out.ShadowCopyCompatibility = 1;
	}
	return SNAPSET_OK;
}

static uint32_t get_mapping(struct fsrvp_call *call, void *r)
{
	struct fss_GetShareMapping *m = r;
	struct guid copy_id = guid_in(&m->in.ShadowCopyId);
	struct guid set_id = guid_in(&m->in.ShadowCopySetId);
	struct fssagent_share_mapping_1 *out = NULL;
	const struct snapset_copy *copy = NULL;
	const struct snapset_mapping *mapping = NULL;
	struct fsrvp_share share = {};
	uint32_t result = SNAPSET_OK;

	m->out.ShareMapping->ShareMapping1 = NULL;
	if (m->in.Level != 1) {
		return SNAPSET_INVALID_ARGUMENT;
	}
	result = fsrvp_share_find(call, m->in.ShareName, &share);
	if (result != SNAPSET_OK) {
		return result;
	}
	result = snapset_mapping_get(call->state, &call->server->rules,
				     &copy_id, &set_id, share.name,
				     m->in.Level, call->now, &copy, &mapping,
				     &call->changed);
	if (result != SNAPSET_OK) {
		return result;
	}
	out = talloc_zero(call->mem_ctx, struct fssagent_share_mapping_1);
	if (out == NULL) {
		return SNAPSET_NO_MEMORY;
	}
	out->ShadowCopySetId = guid_out(&set_id);
	out->ShadowCopyId = guid_out(&copy->id);
	out->ShareNameUNC = talloc_asprintf(out, "\\\\%s\\%s", share.host,
					    mapping->share);
	out->ShadowCopyShareName = mapping->is_exposed
		? talloc_strdup(out, mapping->exposed) : NULL;
	out->tstamp = copy->created;
	m->out.ShareMapping->ShareMapping1 = out;
	return out->ShareNameUNC != NULL ? SNAPSET_OK : SNAPSET_NO_MEMORY;
}

/* The share may be gone from smb.conf; its snapshot goes all the same. */
static uint32_t delete_mapping(struct fsrvp_call *call, void *r)
{
	struct fss_DeleteShareMapping *m = r;
	struct guid set_id = guid_in(&m->in.ShadowCopySetId);
	struct guid copy_id = guid_in(&m->in.ShadowCopyId);
	char *host = NULL;
	char *share = NULL;

	if (snapset_unc_parse(call->mem_ctx, m->in.ShareName, &host,
			      &share) != 0 || !fsrvp_is_our_host(host)) {
		return SNAPSET_INVALID_ARGUMENT;
	}
	call->undo = true;
	return snapset_mapping_delete(call->state, &call->server->rules,
				      &set_id, &copy_id, share,
				      &call->changed);
}

#define METHOD(op, name_, changes_, run_)				\
	[NDR_FSS_##op] = { #name_, changes_, run_,			\
			   offsetof(struct fss_##name_, out.result) }

static const struct fsrvp_method methods[FSRVP_METHODS] = {
	METHOD(GETSUPPORTEDVERSION, GetSupportedVersion, false, get_version),
	METHOD(SETCONTEXT, SetContext, true, set_context),
	METHOD(STARTSHADOWCOPYSET, StartShadowCopySet, true, start),
	METHOD(ADDTOSHADOWCOPYSET, AddToShadowCopySet, true, add),
	METHOD(COMMITSHADOWCOPYSET, CommitShadowCopySet, true, commit),
	METHOD(EXPOSESHADOWCOPYSET, ExposeShadowCopySet, true, expose),
	METHOD(RECOVERYCOMPLETESHADOWCOPYSET, RecoveryCompleteShadowCopySet,
	       true, recovery_complete),
	METHOD(ABORTSHADOWCOPYSET, AbortShadowCopySet, true, abort_set),
	METHOD(ISPATHSUPPORTED, IsPathSupported, false, is_path_supported),
	METHOD(ISPATHSHADOWCOPIED, IsPathShadowCopied, false,
	       is_path_shadow_copied),
	METHOD(GETSHAREMAPPING, GetShareMapping, false, get_mapping),
	METHOD(DELETESHAREMAPPING, DeleteShareMapping, true, delete_mapping),
	METHOD(PREPARESHADOWCOPYSET, PrepareShadowCopySet, true, prepare),
};

const struct fsrvp_method *fsrvp_method_get(uint16_t opnum)
{
	return opnum < FSRVP_METHODS ? &methods[opnum] : NULL;
}
