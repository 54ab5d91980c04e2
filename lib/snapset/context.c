/*
 * The context a client sets, the message sequence timer, and a start of the
 * server with a stored state.
 */
#include <string.h>

#include "snapset/snapset_priv.h"

/* [MS-FSRVP] 3.1.4.2: SetContext of the same client is tried again so often. */
#define MAX_RETRIES 5

struct snapset_state *snapset_state_new(TALLOC_CTX *mem_ctx)
{
	struct snapset_state *state = talloc_zero(mem_ctx,
						  struct snapset_state);

	if (state == NULL) {
		return NULL;
	}
	state->client = talloc_strdup(state, "");
	state->boot = talloc_strdup(state, "");
	if (state->client == NULL || state->boot == NULL) {
		talloc_free(state);
		return NULL;
	}
	return state;
}

/* [MS-FSRVP] 3.1.2: 180 seconds, or 1800 where the client works long. */
void snapset_timer(struct snapset_state *state,
		   const struct snapset_rules *rules, uint32_t seconds,
		   uint64_t now)
{
	if (rules->sequence_s != 0) {
		seconds = rules->sequence_s;
	}
	state->deadline = now + (uint64_t)seconds * 1000;
}

void snapset_timer_short(struct snapset_state *state,
			 const struct snapset_rules *rules, uint64_t now,
			 bool *changed)
{
	snapset_timer(state, rules, SNAPSET_SHORT_S, now);
	*changed = true;
}

void snapset_context_clear(struct snapset_state *state)
{
	state->context_set = false;
	state->client = "";
}

/*
 * [MS-FSRVP] 2.2.2.2: a base context, alone or with one of the two kinds of
 * recovery.  The attribute "file share" is in no table of the document but in
 * its vendor's headers, and changes nothing.
 */
static bool is_context(uint32_t context)
{
	static const uint32_t bases[] = { 0x00, 0x10, 0x09, 0x19 };
	uint32_t recovery = SNAPSET_AUTO_RECOVERY | SNAPSET_NO_AUTO_RECOVERY;
	size_t i = 0;

	if ((context & recovery) == recovery) {
		return false;
	}
	for (i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
		if ((context & ~recovery) == bases[i]) {
			return true;
		}
	}
	return false;
}

/* Dooms the set that is being made, as there is at most one. */
static void doom_unfinished(struct snapset_state *state, bool keep_exposed)
{
	struct snapset_set *set = NULL;

	for (set = state->sets; set != NULL; set = set->next) {
		if (set->status == SNAPSET_RECOVERED ||
		    (set->status == SNAPSET_EXPOSED && keep_exposed)) {
			continue;
		}
		snapset_doom(set);
	}
}

uint32_t snapset_context_set(struct snapset_state *state,
			     const struct snapset_rules *rules,
			     uint32_t context, const char *client,
			     uint64_t now, bool *changed)
{
	const char *copy = NULL;

	context &= ~(uint32_t)SNAPSET_FILE_SHARE;
	if (!is_context(context)) {
		return SNAPSET_UNSUPPORTED_CONTEXT;
	}
	copy = talloc_strdup(state, client);
	if (copy == NULL) {
		return SNAPSET_NO_MEMORY;
	}
	if (state->context_set) {
		if (strcmp(state->client, client) != 0) {
			return SNAPSET_IN_PROGRESS;
		}
		*changed = true;
		doom_unfinished(state, rules->legacy);
		snapset_context_clear(state);
		state->retries++;
		if (state->retries > MAX_RETRIES && !rules->legacy) {
			state->deadline = 0;
			return SNAPSET_IN_PROGRESS;
		}
	} else {
		state->retries = 0;
	}
	state->client = copy;
	state->context = context;
	state->context_set = true;
	snapset_timer(state, rules, SNAPSET_SHORT_S, now);
	*changed = true;
	return SNAPSET_OK;
}

void snapset_expire(struct snapset_state *state,
		    const struct snapset_rules *rules, uint64_t now,
		    bool *changed)
{
	if (state->deadline == 0 || now < state->deadline) {
		return;
	}
	state->deadline = 0;
	doom_unfinished(state, rules->legacy);
	snapset_context_clear(state);
	*changed = true;
}

void snapset_restart(struct snapset_state *state,
		     const struct snapset_rules *rules, const char *boot,
		     uint64_t now, bool *changed)
{
	bool booted = strcmp(state->boot, boot) != 0;
	struct snapset_set *set = NULL;
	struct snapset_copy *copy = NULL;

	if (booted) {
		const char *text = talloc_strdup(state, boot);

		if (text != NULL) {
			state->boot = text;
			*changed = true;
		}
	}
	for (set = state->sets; set != NULL; set = set->next) {
		if (booted && (set->context & SNAPSET_PERSISTENT) == 0 &&
		    set->status != SNAPSET_DOOMED) {
			if (set->status != SNAPSET_RECOVERED) {
				snapset_context_clear(state);
				state->deadline = 0;
			}
			snapset_doom(set);
			*changed = true;
		}
		if (set->status != SNAPSET_CREATING) {
			continue;
		}
		/* Half of its snapshots may be there: none of them counts. */
		set->status = SNAPSET_ADDED;
		*changed = true;
		for (copy = set->copies; copy != NULL; copy = copy->next) {
			snapset_copy_renew(state, set, copy);
		}
	}
	snapset_expire(state, rules, now, changed);
}
