/*
 * The state of reservations as others see it: PERSISTENT RESERVE IN, and the
 * bytes it is stored as.
 */
#include "scsi/scsi_priv.h"

#include <errno.h>
#include <string.h>

#include "util/cursor.h"

/* ---- PERSISTENT RESERVE IN, [SPC-4] 6.13 --------------------------------------- */

#define STATUS_SIZE 48

/*
 * Nothing public says how an initiator of a shared virtual disk is named: SAS,
 * as which these disks show themselves, with eight bytes of the id.  The id's
 * halves are mixed, as one host makes ids that share one of them.
 */
void scsi_pr_transport_id(const struct guid *id, uint8_t out[24])
{
	size_t i = 0;

	memset(out, 0, 24);
	out[0] = 0x06;
	for (i = 0; i < 8; i++) {
		out[4 + i] = (uint8_t)(id->bytes[i] ^ id->bytes[8 + i]);
	}
}

static size_t read_keys(const struct scsi_pr *state, uint8_t *out)
{
	size_t at = 8;
	size_t i = 0;

	for (i = 0; i < state->nexus_count; i++) {
		if (state->nexuses[i].key != 0) {
			scsi_put64(out + at, state->nexuses[i].key);
			at += 8;
		}
	}
	return at;
}

static size_t read_reservation(const struct scsi_pr *state, uint8_t *out)
{
	size_t i = 0;

	if (state->type == SCSI_PR_NONE) {
		return 8;
	}
	/* All registrants hold it: the key is none of theirs. */
	for (i = 0; i < state->nexus_count; i++) {
		if (!scsi_pr_is_all(state->type) &&
		    scsi_pr_is_holder(state, &state->nexuses[i])) {
			scsi_put64(out + 8, state->nexuses[i].key);
		}
	}
	out[21] = state->type;
	return 24;
}

static size_t read_status(const struct scsi_pr *state, uint8_t *out)
{
	size_t at = 8;
	size_t i = 0;

	for (i = 0; i < state->nexus_count; i++) {
		const struct scsi_nexus *nexus = &state->nexuses[i];

		if (nexus->key == 0) {
			continue;
		}
		scsi_put64(out + at, nexus->key);
		if (scsi_pr_is_holder(state, nexus)) {
			out[at + 12] = 0x01;
			out[at + 13] = state->type;
		}
		scsi_put16(out + at + 18, 1);
		scsi_put32(out + at + 20, 24);
		scsi_pr_transport_id(&nexus->id, out + at + 24);
		at += STATUS_SIZE;
	}
	return at;
}

void scsi_pr_in(const struct scsi_pr *state,
		const uint8_t cdb[SCSI_CDB_LENGTH], uint8_t *data, size_t size,
		struct scsi_result *_result)
{
	uint8_t out[8 + STATUS_SIZE * SCSI_PR_NEXUS_MAX] = {};
	/* CRH, ATP_C, PTPL_C; all types, TMV, whether APTPL is active */
	const uint8_t capabilities[8] = {
		0, 8, 0x15, (uint8_t)(0x80 | (state->persist ? 1 : 0)),
		0xEA, 0x01, 0, 0,
	};
	size_t allocated = scsi_get16(cdb + 7);
	size_t length = 0;

	switch (cdb[1] & 0x1F) {
	case 0:
		length = read_keys(state, out);
		break;
	case 1:
		length = read_reservation(state, out);
		break;
	case 2:
		memcpy(out, capabilities, sizeof(capabilities));
		length = sizeof(capabilities);
		break;
	case 3:
		length = read_status(state, out);
		break;
	default:
		scsi_result_sense(_result, SCSI_SENSE_CDB);
		return;
	}
	if ((cdb[1] & 0x1F) != 2) {
		scsi_put32(out, state->generation);
		scsi_put32(out + 4, (uint32_t)(length - 8));
	}
	if (length > allocated) {
		length = allocated;
	}
	if (length > size) {
		length = size;
	}
	scsi_result_status(_result, SCSI_GOOD);
	if (length > 0) {
		memcpy(data, out, length);
	}
	_result->length = length;
}

/* ---- stored bytes ---------------------------------------------------------------- */

#define MAGIC 0x31525053	/* "SPR1" */

enum flags {
	PERSIST = 1,
	RESERVED = 2,
};

size_t scsi_pr_size(const struct scsi_pr *state)
{
	return SCSI_PR_HEAD_SIZE + SCSI_PR_NEXUS_SIZE * state->nexus_count;
}

void scsi_pr_encode(const struct scsi_pr *state, uint8_t *out)
{
	struct cursor_put c = {};
	size_t i = 0;
	size_t k = 0;

	cursor_put_init(&c, out, scsi_pr_size(state));
	cursor_put_le32(&c, MAGIC);
	cursor_put_le16(&c, SCSI_PR_VERSION);
	cursor_put_le16(&c, (uint16_t)state->nexus_count);
	cursor_put_le32(&c, state->generation);
	cursor_put_u8(&c, state->type);
	cursor_put_u8(&c, (uint8_t)((state->persist ? PERSIST : 0) |
				    (state->reserved ? RESERVED : 0)));
	cursor_put_zero(&c, 6);
	cursor_put_guid(&c, &state->holder);
	cursor_put_guid(&c, &state->reserver);
	for (i = 0; i < state->nexus_count; i++) {
		const struct scsi_nexus *nexus = &state->nexuses[i];

		cursor_put_guid(&c, &nexus->id);
		cursor_put_le64(&c, nexus->key);
		cursor_put_le16(&c, nexus->attached);
		cursor_put_u8(&c, nexus->attention_count);
		cursor_put_u8(&c, 0);
		for (k = 0; k < SCSI_PR_ATTENTION_MAX; k++) {
			/* The key is always UNIT ATTENTION. */
			cursor_put_le32(&c, nexus->attentions[k]);
		}
	}
}

static void nexus_decode(struct cursor *c, struct scsi_nexus *nexus)
{
	size_t k = 0;

	cursor_guid(c, &nexus->id);
	nexus->key = cursor_le64(c);
	nexus->attached = cursor_le16(c);
	nexus->attention_count = cursor_u8(c);
	cursor_skip(c, 1);
	for (k = 0; k < SCSI_PR_ATTENTION_MAX; k++) {
		nexus->attentions[k] = cursor_le32(c);
	}
}

int scsi_pr_decode(const uint8_t *bytes, size_t length, struct scsi_pr *_state,
		   const char **_why)
{
	struct cursor c = {};
	uint32_t magic = 0;
	uint16_t version = 0;
	uint16_t count = 0;
	uint8_t flags = 0;
	size_t i = 0;

	cursor_init(&c, bytes, length);
	magic = cursor_le32(&c);
	version = cursor_le16(&c);
	count = cursor_le16(&c);
	*_why = "it does not begin as reservations do";
	if (cursor_status(&c) != 0 || magic != MAGIC) {
		return -EINVAL;
	}
	*_why = "it is of another version of hvrs";
	if (version != SCSI_PR_VERSION) {
		return -EPROTONOSUPPORT;
	}
	*_why = "its length is wrong";
	if (count > SCSI_PR_NEXUS_MAX ||
	    length != SCSI_PR_HEAD_SIZE + SCSI_PR_NEXUS_SIZE * (size_t)count) {
		return -EINVAL;
	}
	memset(_state, 0, sizeof(*_state));
	_state->nexus_count = count;
	_state->generation = cursor_le32(&c);
	_state->type = cursor_u8(&c);
	flags = cursor_u8(&c);
	_state->persist = (flags & PERSIST) != 0;
	_state->reserved = (flags & RESERVED) != 0;
	cursor_skip(&c, 6);
	cursor_guid(&c, &_state->holder);
	cursor_guid(&c, &_state->reserver);
	for (i = 0; i < count; i++) {
		nexus_decode(&c, &_state->nexuses[i]);
	}
	return cursor_status(&c);
}

static bool nexus_is_valid(const struct scsi_nexus *nexus)
{
	size_t k = 0;

	if (nexus->attention_count > SCSI_PR_ATTENTION_MAX) {
		return false;
	}
	for (k = 0; k < SCSI_PR_ATTENTION_MAX; k++) {
		bool used = k < nexus->attention_count;

		if (used ? nexus->attentions[k] >> 16 != 6
			 : nexus->attentions[k] != 0) {
			return false;
		}
	}
	return true;
}

int scsi_pr_validate(const struct scsi_pr *state, const char **_why)
{
	bool holder = false;
	size_t registered = 0;
	size_t i = 0;
	size_t k = 0;

	*_why = "a type of reservation that does not exist";
	if (state->type == 2 || state->type == 4 || state->type > 8) {
		return -EINVAL;
	}
	*_why = "an initiator that makes no sense";
	for (i = 0; i < state->nexus_count; i++) {
		const struct scsi_nexus *nexus = &state->nexuses[i];

		if (!nexus_is_valid(nexus)) {
			return -EINVAL;
		}
		for (k = 0; k < i; k++) {
			if (guid_equal(&state->nexuses[k].id, &nexus->id)) {
				return -EINVAL;
			}
		}
		registered += nexus->key != 0 ? 1 : 0;
		holder = holder || (nexus->key != 0 &&
				    guid_equal(&nexus->id, &state->holder));
	}
	*_why = "a reservation without its holder";
	if (state->type == SCSI_PR_NONE) {
		return guid_is_null(&state->holder) ? 0 : -EINVAL;
	}
	if (scsi_pr_is_all(state->type)) {
		return registered > 0 && guid_is_null(&state->holder) ?
			0 : -EINVAL;
	}
	return holder ? 0 : -EINVAL;
}
