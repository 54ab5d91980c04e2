/*
 * A set from its start to its end: the transitions of [MS-FSRVP] 3.1.4, and
 * what is doomed on the way.
 */
#include <string.h>
#include <strings.h>

#include "snapset/snapset_priv.h"

static const char *const status_texts[] = {
	[SNAPSET_STARTED] = "started",
	[SNAPSET_ADDED] = "added",
	[SNAPSET_CREATING] = "creating",
	[SNAPSET_COMMITTED] = "committed",
	[SNAPSET_EXPOSED] = "exposed",
	[SNAPSET_RECOVERED] = "recovered",
	[SNAPSET_DOOMED] = "being removed",
};

const char *snapset_status_text(enum snapset_status status)
{
	if (status < SNAPSET_STARTED || status > SNAPSET_DOOMED) {
		return "unknown";
	}
	return status_texts[status];
}

struct snapset_set *snapset_find(struct snapset_state *state,
				 const struct guid *id)
{
	struct snapset_set *set = NULL;

	for (set = state->sets; set != NULL; set = set->next) {
		if (set->status != SNAPSET_DOOMED &&
		    guid_equal(&set->id, id)) {
			return set;
		}
	}
	return NULL;
}

static struct snapset_copy *find_copy(struct snapset_set *set,
				      const struct guid *id)
{
	struct snapset_copy *copy = NULL;

	for (copy = set->copies; copy != NULL; copy = copy->next) {
		if (!copy->doomed && guid_equal(&copy->id, id)) {
			return copy;
		}
	}
	return NULL;
}

static struct snapset_mapping *find_mapping(struct snapset_copy *copy,
					    const char *share)
{
	struct snapset_mapping *mapping = NULL;

	for (mapping = copy->mappings; mapping != NULL;
	     mapping = mapping->next) {
		if (!mapping->doomed &&
		    strcasecmp(mapping->share, share) == 0) {
			return mapping;
		}
	}
	return NULL;
}

/* The set a method is about, in one of two states it is legal in. */
static uint32_t set_in(struct snapset_state *state,
		       const struct snapset_rules *rules,
		       const struct guid *id, enum snapset_status first,
		       enum snapset_status second, struct snapset_set **_set)
{
	struct snapset_set *set = snapset_find(state, id);

	if (set == NULL) {
		return rules->legacy ? SNAPSET_INVALID_ARGUMENT
				     : SNAPSET_ID_MISMATCH;
	}
	if (set->status != first && set->status != second) {
		return SNAPSET_BAD_STATE;
	}
	*_set = set;
	return SNAPSET_OK;
}

/* ---- doom ----------------------------------------------------------------- */

void snapset_doom(struct snapset_set *set)
{
	struct snapset_copy *copy = NULL;
	struct snapset_mapping *mapping = NULL;

	set->status = SNAPSET_DOOMED;
	for (copy = set->copies; copy != NULL; copy = copy->next) {
		copy->doomed = true;
		for (mapping = copy->mappings; mapping != NULL;
		     mapping = mapping->next) {
			mapping->doomed = true;
		}
	}
}

void snapset_copy_renew(struct snapset_state *state, struct snapset_set *set,
			struct snapset_copy *copy)
{
	struct snapset_set *remains = NULL;
	struct snapset_copy *old = NULL;

	if (copy->snapshot[0] == '\0') {
		return;
	}
	remains = talloc_zero(state, struct snapset_set);
	if (remains == NULL) {
		snapset_doom(set);
		return;
	}
	old = talloc_zero(remains, struct snapset_copy);
	if (old == NULL) {
		talloc_free(remains);
		snapset_doom(set);
		return;
	}
	*remains = (struct snapset_set) {
		.id = set->id,
		.status = SNAPSET_DOOMED,
		.context = set->context,
		.owner = set->owner,
		.copies = old,
		.next = state->sets,
	};
	*old = (struct snapset_copy) {
		.id = copy->id,
		.created = copy->created,
		.store = copy->store,
		.provider = copy->provider,
		.share = copy->share,
		.snapshot = copy->snapshot,
		.doomed = true,
	};
	copy->snapshot = "";
	state->sets = remains;
}

bool snapset_has_share(const struct snapset_copy *copy)
{
	const struct snapset_mapping *mapping = NULL;

	for (mapping = copy->mappings; mapping != NULL;
	     mapping = mapping->next) {
		if (mapping->is_exposed) {
			return true;
		}
	}
	return false;
}

static void sweep_mappings(struct snapset_copy *copy, bool *changed)
{
	struct snapset_mapping **at = &copy->mappings;

	while (*at != NULL) {
		struct snapset_mapping *mapping = *at;

		if (mapping->doomed && !mapping->is_exposed) {
			*at = mapping->next;
			*changed = true;
		} else {
			at = &mapping->next;
		}
	}
}

static void sweep_copies(struct snapset_set *set, bool *changed)
{
	struct snapset_copy **at = &set->copies;

	while (*at != NULL) {
		struct snapset_copy *copy = *at;

		sweep_mappings(copy, changed);
		if (copy->doomed && copy->mappings == NULL &&
		    copy->snapshot[0] == '\0') {
			*at = copy->next;
			*changed = true;
		} else {
			at = &copy->next;
		}
	}
}

void snapset_sweep(struct snapset_state *state, bool *changed)
{
	struct snapset_set **at = &state->sets;

	while (*at != NULL) {
		struct snapset_set *set = *at;

		sweep_copies(set, changed);
		if (set->status == SNAPSET_DOOMED && set->copies == NULL) {
			*at = set->next;
			*changed = true;
		} else {
			at = &set->next;
		}
	}
}

/* ---- from start to commit --------------------------------------------------- */

uint32_t snapset_start(struct snapset_state *state,
		       const struct snapset_rules *rules,
		       const struct guid *client_id,
		       const struct guid *new_id, const char *owner,
		       uint64_t now, bool *changed)
{
	struct snapset_set *set = NULL;
	size_t count = 0;

	if (!state->context_set) {
		return SNAPSET_BAD_STATE;
	}
	if (guid_is_null(client_id)) {
		return SNAPSET_INVALID_ARGUMENT;
	}
	for (set = state->sets; set != NULL; set = set->next) {
		count++;
		if (set->status == SNAPSET_RECOVERED ||
		    set->status == SNAPSET_DOOMED ||
		    (set->status == SNAPSET_EXPOSED && rules->legacy)) {
			continue;
		}
		return SNAPSET_IN_PROGRESS;
	}
	if (count >= SNAPSET_MAX_SETS) {
		return SNAPSET_NO_SPACE;
	}
	set = talloc_zero(state, struct snapset_set);
	if (set == NULL) {
		return SNAPSET_NO_MEMORY;
	}
	set->owner = talloc_strdup(set, owner);
	if (set->owner == NULL) {
		talloc_free(set);
		return SNAPSET_NO_MEMORY;
	}
	set->id = *new_id;
	set->status = SNAPSET_STARTED;
	set->context = state->context;
	set->next = state->sets;
	state->sets = set;
	snapset_timer(state, rules, SNAPSET_SHORT_S, now);
	*changed = true;
	return SNAPSET_OK;
}

static struct snapset_mapping *new_mapping(struct snapset_copy *copy,
					   const struct snapset_add *add)
{
	struct snapset_mapping *mapping = talloc_zero(copy,
						      struct snapset_mapping);
	char id[GUID_BRACED_SIZE] = "";

	if (mapping == NULL) {
		return NULL;
	}
	guid_format(&copy->id, true, id);
	mapping->share = talloc_strdup(mapping, add->share);
	mapping->path = talloc_strdup(mapping, add->path);
	mapping->exposed = talloc_asprintf(mapping, "%s@%s%s", add->share, id,
					   add->hidden ? "$" : "");
	if (mapping->share == NULL || mapping->path == NULL ||
	    mapping->exposed == NULL) {
		talloc_free(mapping);
		return NULL;
	}
	return mapping;
}

static struct snapset_copy *new_copy(struct snapset_set *set,
				     const struct snapset_add *add)
{
	struct snapset_copy *copy = talloc_zero(set, struct snapset_copy);

	if (copy == NULL) {
		return NULL;
	}
	copy->id = add->new_id;
	copy->created = add->created;
	copy->store = talloc_strdup(copy, add->store);
	copy->provider = talloc_strdup(copy, add->provider);
	copy->share = talloc_strdup(copy, add->share);
	copy->snapshot = "";
	copy->mappings = new_mapping(copy, add);
	if (copy->store == NULL || copy->provider == NULL ||
	    copy->share == NULL || copy->mappings == NULL) {
		talloc_free(copy);
		return NULL;
	}
	return copy;
}

static size_t count_mappings(const struct snapset_copy *copy)
{
	const struct snapset_mapping *mapping = NULL;
	size_t count = 0;

	for (mapping = copy->mappings; mapping != NULL;
	     mapping = mapping->next) {
		count++;
	}
	return count;
}

uint32_t snapset_add(struct snapset_state *state,
		     const struct snapset_rules *rules,
		     const struct snapset_add *add, uint64_t now,
		     struct guid *_copy, bool *changed)
{
	struct snapset_set *set = NULL;
	struct snapset_copy *copy = NULL;
	struct snapset_copy **end = NULL;
	struct snapset_mapping *mapping = NULL;
	uint32_t result = set_in(state, rules, &add->set, SNAPSET_STARTED,
				 SNAPSET_ADDED, &set);
	size_t count = 0;

	if (result != SNAPSET_OK) {
		return result;
	}
	for (end = &set->copies; *end != NULL; end = &(*end)->next) {
		copy = *end;
		count++;
		if (strcmp(copy->store, add->store) != 0) {
			continue;
		}
		if (find_mapping(copy, add->share) != NULL ||
		    !rules->many_shares) {
			snapset_timer(state, rules, SNAPSET_SHORT_S, now);
			*changed = true;
			return SNAPSET_OBJECT_EXISTS;
		}
		if (count_mappings(copy) >= SNAPSET_MAX_MAPPINGS) {
			return SNAPSET_NO_SPACE;
		}
		mapping = new_mapping(copy, add);
		if (mapping == NULL) {
			return SNAPSET_NO_MEMORY;
		}
		mapping->next = copy->mappings;
		copy->mappings = mapping;
		goto added;
	}
	if (count >= SNAPSET_MAX_COPIES) {
		return SNAPSET_NO_SPACE;
	}
	copy = new_copy(set, add);
	if (copy == NULL) {
		return SNAPSET_NO_MEMORY;
	}
	*end = copy;
added:
	set->status = SNAPSET_ADDED;
	snapset_timer(state, rules, SNAPSET_LONG_S, now);
	*changed = true;
	*_copy = copy->id;
	return SNAPSET_OK;
}

uint32_t snapset_prepare(struct snapset_state *state,
			 const struct snapset_rules *rules,
			 const struct guid *set, struct snapset_set **_set)
{
	return set_in(state, rules, set, SNAPSET_ADDED, SNAPSET_ADDED, _set);
}

void snapset_prepare_done(struct snapset_state *state,
			  const struct snapset_rules *rules, uint32_t result,
			  uint64_t now, bool *changed)
{
	snapset_timer(state, rules, result == SNAPSET_OK ? SNAPSET_LONG_S
							 : SNAPSET_SHORT_S,
		      now);
	*changed = true;
}

uint32_t snapset_commit(struct snapset_state *state,
			const struct snapset_rules *rules,
			const struct guid *id, uint64_t now,
			struct snapset_set **_set, bool *begin, bool *changed)
{
	struct snapset_set *set = NULL;
	uint32_t result = set_in(state, rules, id, SNAPSET_ADDED,
				 SNAPSET_CREATING, &set);

	if (result != SNAPSET_OK) {
		return result;
	}
	*begin = set->status == SNAPSET_ADDED;
	if (*begin) {
		/* It cannot expire while its snapshots are taken. */
		set->status = SNAPSET_CREATING;
		snapset_timer(state, rules, SNAPSET_LONG_S, now);
		*changed = true;
	}
	*_set = set;
	return SNAPSET_OK;
}

void snapset_commit_done(struct snapset_state *state,
			 const struct snapset_rules *rules,
			 const struct guid *id, uint32_t result, uint64_t now,
			 bool *changed)
{
	struct snapset_set *set = snapset_find(state, id);
	struct snapset_copy *copy = NULL;

	if (set == NULL || set->status != SNAPSET_CREATING) {
		return;
	}
	set->status = result == SNAPSET_OK ? SNAPSET_COMMITTED
					   : SNAPSET_ADDED;
	*changed = true;
	if (result != SNAPSET_OK) {
		for (copy = set->copies; copy != NULL; copy = copy->next) {
			snapset_copy_renew(state, set, copy);
		}
	}
	snapset_timer(state, rules, SNAPSET_SHORT_S, now);
}

/* ---- from commit to the end --------------------------------------------------- */

uint32_t snapset_expose(struct snapset_state *state,
			const struct snapset_rules *rules,
			const struct guid *set, struct snapset_set **_set)
{
	return set_in(state, rules, set, SNAPSET_COMMITTED, SNAPSET_COMMITTED,
		      _set);
}

void snapset_expose_done(struct snapset_state *state,
			 const struct snapset_rules *rules,
			 const struct guid *id, uint32_t result, uint64_t now,
			 bool *changed)
{
	struct snapset_set *set = snapset_find(state, id);

	if (set == NULL) {
		return;
	}
	if (result == SNAPSET_OK) {
		set->status = SNAPSET_EXPOSED;
	}
	snapset_timer(state, rules, SNAPSET_SHORT_S, now);
	*changed = true;
}

uint32_t snapset_recovery(struct snapset_state *state,
			  const struct snapset_rules *rules,
			  const struct guid *set, struct snapset_set **_set)
{
	return set_in(state, rules, set, SNAPSET_EXPOSED, SNAPSET_EXPOSED,
		      _set);
}

void snapset_recovery_done(struct snapset_state *state, const struct guid *id,
			   bool *changed)
{
	struct snapset_set *set = snapset_find(state, id);

	if (set == NULL) {
		return;
	}
	set->status = SNAPSET_RECOVERED;
	state->deadline = 0;
	snapset_context_clear(state);
	*changed = true;
}

uint32_t snapset_abort(struct snapset_state *state,
		       const struct snapset_rules *rules,
		       const struct guid *id, bool *changed)
{
	struct snapset_set *set = NULL;

	if (guid_is_null(id)) {
		return SNAPSET_INVALID_ARGUMENT;
	}
	set = snapset_find(state, id);
	if (set == NULL) {
		return rules->legacy ? SNAPSET_INVALID_ARGUMENT
				     : SNAPSET_ID_MISMATCH;
	}
	/* Its snapshots are being taken: they cannot be taken back yet. */
	if (set->status == SNAPSET_RECOVERED ||
	    set->status == SNAPSET_CREATING) {
		return SNAPSET_BAD_STATE;
	}
	snapset_doom(set);
	state->deadline = 0;
	snapset_context_clear(state);
	*changed = true;
	return SNAPSET_OK;
}

bool snapset_is_copied(const struct snapset_state *state, const char *store)
{
	const struct snapset_set *set = NULL;
	const struct snapset_copy *copy = NULL;

	for (set = state->sets; set != NULL; set = set->next) {
		if (set->status < SNAPSET_COMMITTED ||
		    set->status > SNAPSET_RECOVERED) {
			continue;
		}
		for (copy = set->copies; copy != NULL; copy = copy->next) {
			if (!copy->doomed &&
			    strcmp(copy->store, store) == 0) {
				return true;
			}
		}
	}
	return false;
}

uint32_t snapset_mapping_get(struct snapset_state *state,
			     const struct snapset_rules *rules,
			     const struct guid *copy_id,
			     const struct guid *set_id, const char *share,
			     uint32_t level, uint64_t now,
			     const struct snapset_copy **_copy,
			     const struct snapset_mapping **_mapping,
			     bool *changed)
{
	struct snapset_set *set = NULL;
	struct snapset_copy *copy = NULL;
	struct snapset_mapping *mapping = NULL;
	uint32_t result = SNAPSET_OK;

	if (level != 1) {
		return SNAPSET_INVALID_ARGUMENT;
	}
	result = set_in(state, rules, set_id, SNAPSET_EXPOSED,
			SNAPSET_RECOVERED, &set);
	if (result != SNAPSET_OK) {
		return result;
	}
	copy = find_copy(set, copy_id);
	if (copy == NULL) {
		return SNAPSET_INVALID_ARGUMENT;
	}
	mapping = find_mapping(copy, share);
	if (mapping == NULL) {
		return SNAPSET_INVALID_ARGUMENT;
	}
	if (set->status == SNAPSET_EXPOSED) {
		snapset_timer(state, rules, SNAPSET_LONG_S, now);
		*changed = true;
	}
	*_copy = copy;
	*_mapping = mapping;
	return SNAPSET_OK;
}

static bool all_doomed(const struct snapset_set *set)
{
	const struct snapset_copy *copy = NULL;

	for (copy = set->copies; copy != NULL; copy = copy->next) {
		if (!copy->doomed) {
			return false;
		}
	}
	return true;
}

uint32_t snapset_mapping_delete(struct snapset_state *state,
				const struct snapset_rules *rules,
				const struct guid *set_id,
				const struct guid *copy_id, const char *share,
				bool *changed)
{
	struct snapset_set *set = NULL;
	struct snapset_copy *copy = NULL;
	struct snapset_mapping *mapping = NULL;
	bool exposed = false;

	if (guid_is_null(set_id) || guid_is_null(copy_id)) {
		return SNAPSET_INVALID_ARGUMENT;
	}
	set = snapset_find(state, set_id);
	if (set == NULL) {
		return SNAPSET_OBJECT_NOT_FOUND;
	}
	if (set->status != SNAPSET_EXPOSED &&
	    set->status != SNAPSET_RECOVERED) {
		return SNAPSET_BAD_STATE;
	}
	copy = find_copy(set, copy_id);
	mapping = copy != NULL ? find_mapping(copy, share) : NULL;
	if (mapping == NULL) {
		return rules->legacy ? SNAPSET_INVALID_ARGUMENT
				     : SNAPSET_OBJECT_NOT_FOUND;
	}
	mapping->doomed = true;
	*changed = true;
	for (mapping = copy->mappings; mapping != NULL;
	     mapping = mapping->next) {
		if (!mapping->doomed) {
			return SNAPSET_OK;
		}
	}
	copy->doomed = true;
	if (!all_doomed(set)) {
		return SNAPSET_OK;
	}
	exposed = set->status == SNAPSET_EXPOSED;
	snapset_doom(set);
	if (exposed) {
		/* Nothing is being made any more: no retry, no timer. */
		state->deadline = 0;
		snapset_context_clear(state);
	}
	return SNAPSET_OK;
}

bool snapset_is_writable(const struct snapset_set *set)
{
	return (set->context & SNAPSET_AUTO_RECOVERY) != 0 &&
	       set->status < SNAPSET_RECOVERED;
}
