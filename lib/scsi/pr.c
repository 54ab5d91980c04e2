/*
 * Reservations as a state machine ([SPC-4] 5.12 and 6.14): who is registered,
 * who holds what, who must be told.
 */
#include "scsi/scsi_priv.h"

#include <errno.h>
#include <string.h>

struct pr_request {
	unsigned action;
	unsigned scope_type;
	uint64_t key;
	uint64_t action_key;
	bool persist;
	const uint8_t *list;
	size_t list_length;
};

/* ---- nexuses ---------------------------------------------------------------- */

struct scsi_nexus *scsi_pr_nexus(struct scsi_pr *state, const struct guid *id)
{
	size_t i = 0;

	for (i = 0; i < state->nexus_count; i++) {
		if (guid_equal(&state->nexuses[i].id, id)) {
			return &state->nexuses[i];
		}
	}
	return NULL;
}

static const struct scsi_nexus *nexus_find(const struct scsi_pr *state,
					   const struct guid *id)
{
	size_t i = 0;

	for (i = 0; i < state->nexus_count; i++) {
		if (guid_equal(&state->nexuses[i].id, id)) {
			return &state->nexuses[i];
		}
	}
	return NULL;
}

static struct scsi_nexus *nexus_make(struct scsi_pr *state,
				     const struct guid *id)
{
	struct scsi_nexus *nexus = scsi_pr_nexus(state, id);

	if (nexus != NULL) {
		return nexus;
	}
	if (state->nexus_count == SCSI_PR_NEXUS_MAX) {
		return NULL;
	}
	nexus = &state->nexuses[state->nexus_count++];
	*nexus = (struct scsi_nexus) { .id = *id };
	return nexus;
}

/* Forgets those of whom nothing needs to be known. */
static void nexus_sweep(struct scsi_pr *state)
{
	size_t kept = 0;
	size_t i = 0;

	for (i = 0; i < state->nexus_count; i++) {
		struct scsi_nexus *nexus = &state->nexuses[i];

		if (nexus->key != 0 || nexus->attached > 0) {
			state->nexuses[kept++] = *nexus;
		}
	}
	state->nexus_count = kept;
}

static void attention_add(struct scsi_nexus *nexus, enum scsi_sense attention)
{
	size_t i = 0;

	for (i = 0; i < nexus->attention_count; i++) {
		if (nexus->attentions[i] == (uint32_t)attention) {
			return;
		}
	}
	if (nexus->attention_count < SCSI_PR_ATTENTION_MAX) {
		nexus->attentions[nexus->attention_count++] =
			(uint32_t)attention;
	}
}

void scsi_pr_attention_all(struct scsi_pr *state, const struct guid *except,
			   enum scsi_sense attention)
{
	size_t i = 0;

	for (i = 0; i < state->nexus_count; i++) {
		if (except == NULL ||
		    !guid_equal(&state->nexuses[i].id, except)) {
			attention_add(&state->nexuses[i], attention);
		}
	}
}

static void attention_registrants(struct scsi_pr *state,
				  const struct scsi_nexus *except,
				  enum scsi_sense attention)
{
	size_t i = 0;

	for (i = 0; i < state->nexus_count; i++) {
		if (&state->nexuses[i] != except &&
		    state->nexuses[i].key != 0) {
			attention_add(&state->nexuses[i], attention);
		}
	}
}

enum scsi_sense scsi_pr_attention(const struct scsi_pr *state,
				  const struct guid *nexus)
{
	const struct scsi_nexus *found = nexus_find(state, nexus);

	if (found == NULL || found->attention_count == 0) {
		return SCSI_SENSE_NONE;
	}
	return (enum scsi_sense)found->attentions[0];
}

bool scsi_pr_attention_take(struct scsi_pr *state, const struct guid *nexus)
{
	struct scsi_nexus *found = scsi_pr_nexus(state, nexus);

	if (found == NULL || found->attention_count == 0) {
		return false;
	}
	found->attention_count--;
	memmove(found->attentions, found->attentions + 1,
		found->attention_count * sizeof(found->attentions[0]));
	found->attentions[found->attention_count] = 0;
	return true;
}

int scsi_pr_attach(struct scsi_pr *state, const struct guid *nexus)
{
	struct scsi_nexus *found = nexus_make(state, nexus);

	if (found == NULL || found->attached == UINT16_MAX) {
		return -ENOSPC;
	}
	found->attached++;
	return 0;
}

void scsi_pr_detach(struct scsi_pr *state, const struct guid *nexus)
{
	struct scsi_nexus *found = scsi_pr_nexus(state, nexus);

	if (found == NULL || found->attached == 0) {
		return;
	}
	found->attached--;
	if (found->attached > 0) {
		return;
	}
	found->attention_count = 0;
	memset(found->attentions, 0, sizeof(found->attentions));
	if (state->reserved && guid_equal(&state->reserver, nexus)) {
		state->reserved = false;
		state->reserver = (struct guid) {};
	}
	nexus_sweep(state);
}

void scsi_pr_power_on(struct scsi_pr *state)
{
	size_t i = 0;

	if (!state->persist) {
		memset(state, 0, sizeof(*state));
		return;
	}
	state->generation = 0;
	state->reserved = false;
	state->reserver = (struct guid) {};
	for (i = 0; i < state->nexus_count; i++) {
		struct scsi_nexus *nexus = &state->nexuses[i];

		nexus->attached = 0;
		nexus->attention_count = 0;
		memset(nexus->attentions, 0, sizeof(nexus->attentions));
	}
	nexus_sweep(state);
}

/* ---- who may ----------------------------------------------------------------- */

bool scsi_pr_is_all(unsigned type)
{
	return type == SCSI_PR_WRITE_ALL || type == SCSI_PR_EXCLUSIVE_ALL;
}

static bool type_is_known(unsigned type)
{
	return type == 1 || type == 3 || (type >= 5 && type <= 8);
}

static bool type_is_exclusive(unsigned type)
{
	return type == SCSI_PR_EXCLUSIVE ||
		type == SCSI_PR_EXCLUSIVE_REGISTRANTS ||
		type == SCSI_PR_EXCLUSIVE_ALL;
}

bool scsi_pr_is_holder(const struct scsi_pr *state,
		       const struct scsi_nexus *nexus)
{
	if (state->type == SCSI_PR_NONE || nexus == NULL || nexus->key == 0) {
		return false;
	}
	return scsi_pr_is_all(state->type) ||
		guid_equal(&state->holder, &nexus->id);
}

bool scsi_pr_allows(const struct scsi_pr *state, const struct guid *nexus,
		    enum scsi_access access)
{
	const struct scsi_nexus *found = NULL;

	if (access == SCSI_ACCESS_FREE) {
		return true;
	}
	if (state->reserved && !guid_equal(&state->reserver, nexus)) {
		return false;
	}
	if (state->type == SCSI_PR_NONE) {
		return true;
	}
	found = nexus_find(state, nexus);
	if (scsi_pr_is_holder(state, found) ||
	    (state->type >= SCSI_PR_WRITE_REGISTRANTS && found != NULL &&
	     found->key != 0)) {
		return true;
	}
	return access == SCSI_ACCESS_READ && !type_is_exclusive(state->type);
}

/* Two commands change their row by what they ask for. */
static enum scsi_access access_of(const struct scsi_command_row *row,
				  const uint8_t *cdb)
{
	if (row->opcode == 0x1B && (cdb[4] & 0xF1) == 0x01) {
		return SCSI_ACCESS_FREE;
	}
	if (row->opcode == 0x1E && (cdb[4] & 0x03) == 0) {
		return SCSI_ACCESS_FREE;
	}
	return row->access;
}

static bool passes_spc2(const struct scsi_command_row *row,
			const uint8_t *cdb)
{
	return row->spc2_free ||
		((row->opcode == 0x1B || row->opcode == 0x1E) &&
		 access_of(row, cdb) == SCSI_ACCESS_FREE);
}

void scsi_pr_admit(struct scsi_pr *state, const struct guid *nexus,
		   const uint8_t cdb[SCSI_CDB_LENGTH],
		   struct scsi_admission *_a)
{
	const struct scsi_command_row *row = scsi_command_find(cdb);
	enum scsi_sense attention = scsi_pr_attention(state, nexus);
	bool silent = cdb[0] == 0x12 || cdb[0] == 0xA0;

	*_a = (struct scsi_admission) {};
	if (row == NULL) {
		/* Of the reserve commands only the service action is unknown. */
		scsi_result_sense(&_a->result,
				  cdb[0] == 0x5E || cdb[0] == 0x5F ?
				  SCSI_SENSE_CDB : SCSI_SENSE_OPCODE);
		return;
	}
	if (attention != SCSI_SENSE_NONE && !silent) {
		_a->changed = scsi_pr_attention_take(state, nexus);
		if (cdb[0] != 0x03) {
			scsi_result_sense(&_a->result, attention);
			return;
		}
		_a->attention = attention;
	}
	if (state->reserved && !guid_equal(&state->reserver, nexus) &&
	    !passes_spc2(row, cdb)) {
		scsi_result_status(&_a->result, SCSI_CONFLICT);
		return;
	}
	switch (access_of(row, cdb)) {
	case SCSI_ACCESS_READ:
	case SCSI_ACCESS_WRITE:
		if (!scsi_pr_allows(state, nexus, access_of(row, cdb))) {
			scsi_result_status(&_a->result, SCSI_CONFLICT);
			return;
		}
		break;
	case SCSI_ACCESS_FREE:
	case SCSI_ACCESS_PR_OUT:
	case SCSI_ACCESS_RESERVE:
		break;
	}
	_a->go = true;
}

/* ---- PERSISTENT RESERVE OUT --------------------------------------------------- */

static void release(struct scsi_pr *state)
{
	state->type = SCSI_PR_NONE;
	state->holder = (struct guid) {};
}

static void take(struct scsi_pr *state, unsigned type, const struct guid *id)
{
	state->type = (uint8_t)type;
	state->holder = (struct guid) {};
	if (!scsi_pr_is_all(type)) {
		state->holder = *id;
	}
}

static size_t registrants(const struct scsi_pr *state)
{
	size_t count = 0;
	size_t i = 0;

	for (i = 0; i < state->nexus_count; i++) {
		count += state->nexuses[i].key != 0 ? 1 : 0;
	}
	return count;
}

/* [SPC-4] 5.12.11.3 */
static void unregister(struct scsi_pr *state, struct scsi_nexus *nexus)
{
	bool held = scsi_pr_is_holder(state, nexus);
	unsigned type = state->type;

	nexus->key = 0;
	if (!held || (scsi_pr_is_all(type) && registrants(state) > 0)) {
		return;
	}
	release(state);
	if (type == SCSI_PR_WRITE_REGISTRANTS ||
	    type == SCSI_PR_EXCLUSIVE_REGISTRANTS) {
		attention_registrants(state, nexus,
				      SCSI_SENSE_RESERVATIONS_RELEASED);
	}
}

static void pr_register(struct scsi_pr *state, const struct guid *id,
			const struct pr_request *r,
			struct scsi_pr_effect *effect,
			struct scsi_result *result)
{
	struct scsi_nexus *nexus = scsi_pr_nexus(state, id);
	uint64_t old = nexus != NULL ? nexus->key : 0;

	if (r->action == 0 && r->key != old) {
		/* For one who is not registered old is 0, as the key must be. */
		scsi_result_status(result, SCSI_CONFLICT);
		return;
	}
	if (old == 0 && r->action_key == 0) {
		return;
	}
	if (r->action_key == 0) {
		unregister(state, nexus);
	} else {
		nexus = nexus_make(state, id);
		if (nexus == NULL) {
			scsi_result_sense(result, SCSI_SENSE_REGISTRATIONS);
			return;
		}
		nexus->key = r->action_key;
	}
	state->persist = r->persist;
	state->generation++;
	effect->changed = true;
}

static void pr_reserve(struct scsi_pr *state, struct scsi_nexus *nexus,
		       const struct pr_request *r,
		       struct scsi_pr_effect *effect,
		       struct scsi_result *result)
{
	if (state->type == SCSI_PR_NONE) {
		take(state, r->scope_type, &nexus->id);
		effect->changed = true;
		return;
	}
	if (!scsi_pr_is_holder(state, nexus) ||
	    state->type != r->scope_type) {
		scsi_result_status(result, SCSI_CONFLICT);
	}
}

static void pr_release(struct scsi_pr *state, struct scsi_nexus *nexus,
		       const struct pr_request *r,
		       struct scsi_pr_effect *effect,
		       struct scsi_result *result)
{
	unsigned type = state->type;

	if (!scsi_pr_is_holder(state, nexus)) {
		return;
	}
	if (type != r->scope_type) {
		scsi_result_sense(result, SCSI_SENSE_RELEASE);
		return;
	}
	release(state);
	if (type >= SCSI_PR_WRITE_REGISTRANTS) {
		attention_registrants(state, nexus,
				      SCSI_SENSE_RESERVATIONS_RELEASED);
	}
	effect->changed = true;
}

static void pr_clear(struct scsi_pr *state, struct scsi_nexus *nexus,
		     struct scsi_pr_effect *effect)
{
	size_t i = 0;

	attention_registrants(state, nexus,
			      SCSI_SENSE_RESERVATIONS_PREEMPTED);
	for (i = 0; i < state->nexus_count; i++) {
		state->nexuses[i].key = 0;
	}
	release(state);
	state->generation++;
	effect->changed = true;
}

/*
 * Takes the registrations with a key away, or all for key 0.  Returns how many
 * matched, the spared one included.
 */
static size_t remove_key(struct scsi_pr *state, uint64_t key,
			 const struct scsi_nexus *caller, bool spare,
			 struct scsi_pr_effect *effect)
{
	size_t matched = 0;
	size_t i = 0;

	for (i = 0; i < state->nexus_count; i++) {
		struct scsi_nexus *nexus = &state->nexuses[i];

		if (nexus->key == 0 || (key != 0 && nexus->key != key)) {
			continue;
		}
		matched++;
		effect->victims[effect->victim_count++] = nexus->id;
		if (nexus == caller) {
			if (!spare) {
				nexus->key = 0;
			}
			continue;
		}
		nexus->key = 0;
		attention_add(nexus, SCSI_SENSE_REGISTRATIONS_PREEMPTED);
	}
	return matched;
}

/* [SPC-4] 5.12.11.2 */
static void pr_preempt(struct scsi_pr *state, struct scsi_nexus *nexus,
		       const struct pr_request *r,
		       struct scsi_pr_effect *effect,
		       struct scsi_result *result)
{
	bool all = scsi_pr_is_all(state->type);
	const struct scsi_nexus *holder = NULL;
	unsigned old = state->type;

	if (r->action_key == 0 && !all) {
		scsi_result_sense(result, SCSI_SENSE_LIST);
		return;
	}
	if (old != SCSI_PR_NONE && !all) {
		holder = nexus_find(state, &state->holder);
	}
	if ((all && r->action_key == 0) ||
	    (holder != NULL && holder->key == r->action_key)) {
		/* The reservation is taken over: only now its type counts. */
		if (!type_is_known(r->scope_type)) {
			scsi_result_sense(result, SCSI_SENSE_CDB);
			return;
		}
		remove_key(state, r->action_key, nexus, true, effect);
		take(state, r->scope_type, &nexus->id);
		if (old != r->scope_type) {
			attention_registrants(
				state, nexus,
				SCSI_SENSE_RESERVATIONS_RELEASED);
		}
	} else {
		if (remove_key(state, r->action_key, nexus, all, effect) == 0) {
			scsi_result_status(result, SCSI_CONFLICT);
			return;
		}
		if (all && registrants(state) == 0) {
			release(state);
		}
	}
	effect->abort = r->action == 5;
	state->generation++;
	effect->changed = true;
}

/* [SPC-4] 5.12.8; the list has a TransportID behind 24 bytes of its own. */
static void pr_move(struct scsi_pr *state, struct scsi_nexus *nexus,
		    const struct pr_request *r, struct scsi_pr_effect *effect,
		    struct scsi_result *result)
{
	struct scsi_nexus *target = NULL;
	uint8_t id[24] = {};
	size_t i = 0;

	if (!scsi_pr_is_holder(state, nexus) || scsi_pr_is_all(state->type)) {
		scsi_result_status(result, SCSI_CONFLICT);
		return;
	}
	if (scsi_get32(r->list + 20) != sizeof(id) ||
	    r->list_length != 24 + sizeof(id)) {
		scsi_result_sense(result, SCSI_SENSE_LIST_LENGTH);
		return;
	}
	for (i = 0; i < state->nexus_count; i++) {
		scsi_pr_transport_id(&state->nexuses[i].id, id);
		if (memcmp(id, r->list + 24, sizeof(id)) == 0) {
			target = &state->nexuses[i];
		}
	}
	if (r->action_key == 0 || scsi_get16(r->list + 18) != 1 ||
	    target == NULL || target == nexus) {
		scsi_result_sense(result, SCSI_SENSE_LIST);
		return;
	}
	target->key = r->action_key;
	state->holder = target->id;
	if ((r->list[17] & 0x02) != 0) {
		nexus->key = 0;
	}
	state->persist = (r->list[17] & 0x01) != 0;
	state->generation++;
	effect->changed = true;
}

static bool pr_decode(const uint8_t *cdb, const uint8_t *list,
		      size_t list_length, struct pr_request *r,
		      struct scsi_result *result)
{
	uint32_t length = scsi_get32(cdb + 5);

	*r = (struct pr_request) {
		.action = cdb[1] & 0x1F, .scope_type = cdb[2],
	};
	if (r->action > 7) {
		scsi_result_sense(result, SCSI_SENSE_CDB);
		return false;
	}
	if (length < 24 || (length != 24 && r->action != 7) ||
	    list_length < length) {
		scsi_result_sense(result, SCSI_SENSE_LIST_LENGTH);
		return false;
	}
	r->list = list;
	r->list_length = length;
	r->key = scsi_get64(list);
	r->action_key = scsi_get64(list + 8);
	r->persist = (list[20] & 0x01) != 0;
	if (r->action != 7 && (list[20] & 0x08) != 0) {
		/* SPEC_I_PT */
		scsi_result_sense(result, SCSI_SENSE_LIST);
		return false;
	}
	if (r->action == 1 && !type_is_known(r->scope_type)) {
		scsi_result_sense(result, SCSI_SENSE_CDB);
		return false;
	}
	return true;
}

void scsi_pr_out(struct scsi_pr *state, const struct guid *id,
		 const uint8_t cdb[SCSI_CDB_LENGTH], const uint8_t *list,
		 size_t list_length, struct scsi_pr_effect *_effect,
		 struct scsi_result *_result)
{
	struct scsi_nexus *nexus = scsi_pr_nexus(state, id);
	struct pr_request r = {};

	_effect->changed = false;
	_effect->abort = false;
	_effect->victim_count = 0;
	scsi_result_status(_result, SCSI_GOOD);
	if (!pr_decode(cdb, list, list_length, &r, _result)) {
		return;
	}
	if (r.action == 0 || r.action == 6) {
		pr_register(state, id, &r, _effect, _result);
	} else if (nexus == NULL || nexus->key == 0 || nexus->key != r.key) {
		scsi_result_status(_result, SCSI_CONFLICT);
	} else if (r.action == 1) {
		pr_reserve(state, nexus, &r, _effect, _result);
	} else if (r.action == 2) {
		pr_release(state, nexus, &r, _effect, _result);
	} else if (r.action == 3) {
		pr_clear(state, nexus, _effect);
	} else if (r.action == 7) {
		pr_move(state, nexus, &r, _effect, _result);
	} else {
		pr_preempt(state, nexus, &r, _effect, _result);
	}
	if (_effect->changed) {
		nexus_sweep(state);
	}
}

/* ---- RESERVE and RELEASE of SPC-2, with CRH of [SPC-4] 5.12.3 ------------------- */

void scsi_pr_reserve(struct scsi_pr *state, const struct guid *id,
		     const uint8_t cdb[SCSI_CDB_LENGTH], bool *_changed,
		     struct scsi_result *_result)
{
	const struct scsi_nexus *nexus = nexus_find(state, id);
	bool reserve = cdb[0] == 0x16 || cdb[0] == 0x56;
	bool mine = state->reserved && guid_equal(&state->reserver, id);

	*_changed = false;
	scsi_result_status(_result, SCSI_GOOD);
	if ((cdb[1] & 0x11) != 0) {
		/* Extents and third parties are gone since SPC-2. */
		scsi_result_sense(_result, SCSI_SENSE_CDB);
		return;
	}
	if (registrants(state) > 0 && !state->reserved) {
		if (nexus == NULL || nexus->key == 0 ||
		    (state->type != SCSI_PR_NONE &&
		     state->type < SCSI_PR_WRITE_REGISTRANTS &&
		     !scsi_pr_is_holder(state, nexus))) {
			scsi_result_status(_result, SCSI_CONFLICT);
		}
		return;
	}
	if (reserve && state->reserved && !mine) {
		scsi_result_status(_result, SCSI_CONFLICT);
	} else if (reserve && !mine) {
		state->reserved = true;
		state->reserver = *id;
		*_changed = true;
	} else if (!reserve && mine) {
		state->reserved = false;
		state->reserver = (struct guid) {};
		*_changed = true;
	}
}
