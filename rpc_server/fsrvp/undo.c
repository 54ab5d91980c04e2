/* Taking away what is doomed. */
#include "fsrvp.h"

static bool undo_shares(struct fsrvp *server, struct snapset_copy *copy,
			bool *changed)
{
	struct snapset_mapping *mapping = NULL;
	bool done = true;

	for (mapping = copy->mappings; mapping != NULL;
	     mapping = mapping->next) {
		if (!mapping->doomed || !mapping->is_exposed) {
			continue;
		}
		if (fsrvp_unexpose(server, mapping->exposed) != 0) {
			done = false;
			continue;
		}
		mapping->is_exposed = false;
		*changed = true;
	}
	return done;
}

static bool undo_snapshot(struct snapset_copy *copy, bool *changed)
{
	const struct provider *provider = provider_find(copy->provider);
	struct provider_config config = {};
	const char *why = NULL;
	int ret = 0;

	if (!copy->doomed || copy->snapshot[0] == '\0' ||
	    snapset_has_share(copy)) {
		return true;
	}
	fsrvp_share_config(copy->share, &config);
	ret = provider == NULL ? -ENOENT
			       : provider->destroy(&config, copy->snapshot,
						   &why);
	if (ret != 0) {
		DBG_ERR("hvrs: fsrvp: the snapshot %s cannot be removed: %s. "
			"It is tried again every minute\n", copy->snapshot,
			why != NULL ? why : strerror(-ret));
		return false;
	}
	DBG_NOTICE("hvrs: fsrvp: removed snapshot %s\n", copy->snapshot);
	copy->snapshot = "";
	*changed = true;
	return true;
}

uint32_t fsrvp_undo(struct fsrvp *server, struct snapset_state *state)
{
	struct snapset_set *set = NULL;
	struct snapset_copy *copy = NULL;
	bool changed = false;
	bool done = true;

	if (server->job != NULL) {
		/* Its end does this: what it makes may be doomed. */
		return SNAPSET_OK;
	}
	for (set = state->sets; set != NULL; set = set->next) {
		for (copy = set->copies; copy != NULL; copy = copy->next) {
			done &= undo_shares(server, copy, &changed);
			done &= undo_snapshot(copy, &changed);
		}
	}
	snapset_sweep(state, &changed);
	server->undo_failed = !done;
	if (changed && fsrvp_store(server, state) != 0) {
		return SNAPSET_FAIL;
	}
	return done ? SNAPSET_OK : SNAPSET_FAIL;
}
