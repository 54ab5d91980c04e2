/* The shares clients name, and what smb.conf says of their snapshots. */
#include "fsrvp.h"

#include "option/option.h"

static const char *parm(int snum, const char *name, const char *standard)
{
	return lp_parm_const_string(snum, "hvrs", name, standard);
}

/* Writers on all nodes look at the same file. */
static const char *freeze_file(void)
{
	static char path[PATH_MAX];

	if (!lp_clustering()) {
		return NULL;
	}
	snprintf(path, sizeof(path), "%s/" STATE_SNAPSETS_FREEZE,
		 parm(GLOBAL_SECTION_SNUM, option_row_get(
			OPTION_HANDLE_STORE)->name, ""));
	return path;
}

void fsrvp_share_config(const char *name, struct provider_config *_config)
{
	int snum = lp_servicenumber(name);
	int limit = 0;

	if (snum < 0) {
		snum = GLOBAL_SECTION_SNUM;
	}
	limit = lp_parm_int(snum, "hvrs", "snapshot freeze limit", 2000);
	if (limit < 10 || limit > 10000) {
		DBG_ERR("hvrs: share %s: hvrs:snapshot freeze limit = %d is "
			"not 10 to 10000 milliseconds; 2000 is used\n", name,
			limit);
		limit = 2000;
	}
	_config->provider = parm(snum, "snapshot provider", "auto");
	_config->script = parm(snum, "snapshot script", NULL);
	_config->freeze = lp_lock_directory();
	_config->freeze_file = freeze_file();
	_config->freeze_ms = (uint32_t)limit;
}

/* Whether writers of a share wait for a freeze: by a module of ours. */
static bool has_hvrs(int snum)
{
	const char **objects = lp_vfs_objects(snum);

	for (; objects != NULL && *objects != NULL; objects++) {
		if (strncmp(*objects, "hvrs", 4) == 0) {
			return true;
		}
	}
	return false;
}

uint32_t fsrvp_share_find(struct fsrvp_call *call, const char *unc,
			  struct fsrvp_share *_share)
{
	const struct loadparm_substitution *lp_sub =
		loadparm_s3_global_substitution();
	char *host = NULL;
	char *name = NULL;
	char *service = NULL;
	char *path = NULL;
	char real[PATH_MAX] = "";
	int snum = -1;
	int ret = snapset_unc_parse(call->mem_ctx, unc, &host, &name);

	if (ret != 0) {
		return ret == -ENOMEM ? SNAPSET_NO_MEMORY
				      : SNAPSET_INVALID_ARGUMENT;
	}
	if (!fsrvp_is_our_host(host)) {
		DBG_NOTICE("hvrs: fsrvp: %s: the host of %s is not this "
			   "server\n", call->client, unc);
		return SNAPSET_INVALID_ARGUMENT;
	}
	snum = find_service(call->mem_ctx, name, &service);
	if (snum < 0 || service == NULL || lp_printable(snum) ||
	    strequal(service, "IPC$")) {
		return SNAPSET_OBJECT_NOT_FOUND;
	}
	path = lp_path(call->mem_ctx, lp_sub, snum);
	if (path == NULL || realpath(path, real) == NULL) {
		DBG_ERR("hvrs: fsrvp: share %s: its path %s: %s\n", service,
			path != NULL ? path : "", strerror(errno));
		return SNAPSET_NOT_SUPPORTED;
	}
	_share->host = host;
	_share->name = service;
	_share->path = talloc_strdup(call->mem_ctx, real);
	return _share->path != NULL ? SNAPSET_OK : SNAPSET_NO_MEMORY;
}

uint32_t fsrvp_share_probe(TALLOC_CTX *mem_ctx, struct fsrvp_share *share)
{
	enum option_switch wanted = OPTION_AUTO;
	enum option_switch coherent = OPTION_NO;
	const char *why = NULL;
	int snum = lp_servicenumber(share->name);
	const char *text = parm(snum, "remote vss", "auto");

	if (option_switch_parse(text, &wanted) != 0) {
		DBG_ERR("hvrs: share %s: hvrs:remote vss = %s is none of %s; "
			"auto is used\n", share->name, text,
			option_accepts(
				option_row_get(OPTION_REMOTE_VSS)));
	}
	if (wanted == OPTION_NO) {
		why = "\"hvrs:remote vss = no\" forbids them";
	} else if (lp_clustering() &&
		   (option_switch_parse(parm(snum, option_row_get(
				OPTION_COHERENT)->name, "no"), &coherent) != 0 ||
		    coherent != OPTION_YES)) {
		why = "on a cluster it needs \"hvrs:coherent file system = "
		      "yes\"";
	} else if (!lp_registry_shares()) {
		why = "[global] has no \"registry shares = yes\", which "
		      "exposed snapshots need";
	} else {
		fsrvp_share_config(share->name, &share->config);
		share->provider = provider_choose(mem_ctx, share->path,
						  &share->config,
						  &share->store, &why);
	}
	if (share->provider != NULL && share->provider != &provider_script &&
	    !has_hvrs(snum)) {
		share->provider = NULL;
		why = "without \"hvrs\" in its vfs objects its writers do not "
		      "wait for the moment of a snapshot";
	}
	if (share->provider == NULL) {
		DBG_ERR("hvrs: fsrvp: no snapshots of share %s: %s\n",
			share->name, why != NULL ? why : "no provider");
		return SNAPSET_NOT_SUPPORTED;
	}
	return SNAPSET_OK;
}
