/*
 * MS-RSVD as bytes.
 */
#include "rsvd/rsvd.h"

#include <errno.h>
#include <string.h>

#include "util/cursor.h"

/* ---- the open ------------------------------------------------------------------- */

int rsvd_context_decode(const uint8_t *bytes, size_t length,
			uint32_t server_version, struct rsvd_context *_c)
{
	struct rsvd_context c = {};
	struct cursor in = {};
	uint8_t has = 0;

	if (length < RSVD_CONTEXT_V1_SIZE) {
		return -EMSGSIZE;
	}
	cursor_init(&in, bytes, length);
	c.version = cursor_le32(&in);
	has = cursor_u8(&in);
	cursor_skip(&in, 3);
	cursor_guid(&in, &c.initiator);
	c.flags = cursor_le32(&in);
	c.originator = cursor_le32(&in);
	c.request_id = cursor_le64(&in);
	c.name_length = cursor_le16(&in);
	cursor_bytes(&in, c.name, RSVD_NAME_MAX);
	if (server_version >= 2 && c.version == 2 &&
	    length < RSVD_CONTEXT_V2_SIZE) {
		return -EMSGSIZE;
	}
	if (c.version < 1 || c.version > server_version || has > 1 ||
	    c.name_length > RSVD_NAME_MAX) {
		return -EINVAL;
	}
	c.has_initiator = has == 1;
	*_c = c;
	return cursor_status(&in);
}

size_t rsvd_context_encode(const struct rsvd_context *c,
			   const struct rsvd_properties *properties,
			   uint8_t out[RSVD_CONTEXT_V2_SIZE])
{
	struct cursor_put p = {};

	memset(out, 0, RSVD_CONTEXT_V2_SIZE);
	cursor_put_init(&p, out, RSVD_CONTEXT_V2_SIZE);
	cursor_put_le32(&p, c->version);
	cursor_put_u8(&p, c->has_initiator ? 1 : 0);
	cursor_put_zero(&p, 3);
	cursor_put_guid(&p, &c->initiator);
	cursor_put_le32(&p, c->flags);
	cursor_put_le32(&p, c->originator);
	cursor_put_le64(&p, c->request_id);
	cursor_put_le16(&p, c->name_length);
	cursor_put_bytes(&p, c->name, RSVD_NAME_MAX);
	if (c->version < 2) {
		return RSVD_CONTEXT_V1_SIZE;
	}
	cursor_put_le32(&p, 1);
	cursor_put_le32(&p, properties->server_version);
	cursor_put_le32(&p, properties->sector);
	cursor_put_le32(&p, properties->physical_sector);
	cursor_put_le64(&p, properties->size);
	return RSVD_CONTEXT_V2_SIZE;
}

/* ---- the tunnel -------------------------------------------------------------------- */

int rsvd_header_decode(const uint8_t *bytes, size_t length,
		       struct rsvd_header *_h)
{
	struct cursor in = {};

	if (length < RSVD_HEADER_SIZE) {
		return -EMSGSIZE;
	}
	cursor_init(&in, bytes, length);
	_h->operation = cursor_le32(&in);
	_h->status = cursor_le32(&in);
	_h->request_id = cursor_le64(&in);
	return 0;
}

void rsvd_header_encode(const struct rsvd_header *h,
			uint8_t out[RSVD_HEADER_SIZE])
{
	struct cursor_put p = {};

	cursor_put_init(&p, out, RSVD_HEADER_SIZE);
	cursor_put_le32(&p, h->operation);
	cursor_put_le32(&p, h->status);
	cursor_put_le64(&p, h->request_id);
}

/*
 * The text of 2.2.4.7 tells the disposition from the wrong side, so the
 * direction is taken from the command.
 */
static bool sends_data(const uint8_t *cdb)
{
	const struct scsi_command_row *row = scsi_command_find(cdb);

	return row != NULL && row->direction == SCSI_TO_DISK;
}

int rsvd_scsi_decode(const uint8_t *body, size_t length, struct rsvd_scsi *_r)
{
	struct rsvd_scsi r = {};
	struct cursor in = {};

	if (length < RSVD_SCSI_SIZE) {
		return -EMSGSIZE;
	}
	cursor_init(&in, body, length);
	if (cursor_le16(&in) != RSVD_SCSI_SIZE) {
		return -EINVAL;
	}
	cursor_skip(&in, 2);
	r.cdb_length = cursor_u8(&in);
	r.sense_length = cursor_u8(&in);
	r.disposition = cursor_u8(&in);
	cursor_skip(&in, 1);
	r.srb_flags = cursor_le32(&in);
	r.transfer = cursor_le32(&in);
	cursor_bytes(&in, r.cdb, sizeof(r.cdb));
	cursor_skip(&in, 4);
	if (r.cdb_length > SCSI_CDB_LENGTH || r.sense_length > RSVD_SENSE_SIZE) {
		return -EINVAL;
	}
	r.data = body + RSVD_SCSI_SIZE;
	r.data_length = length - RSVD_SCSI_SIZE;
	if (sends_data(r.cdb)) {
		if (r.data_length < r.transfer) {
			return -EINVAL;
		}
		/* Clients pad; what counts is what they say. */
		r.data_length = r.transfer;
	} else {
		r.data_length = 0;
	}
	*_r = r;
	return cursor_status(&in);
}

uint8_t rsvd_srb_status(const struct scsi_result *result)
{
	enum scsi_sense sense = scsi_result_sense_get(result);
	uint8_t status = RSVD_SRB_ERROR;

	if (result->status == SCSI_GOOD) {
		return RSVD_SRB_SUCCESS;
	}
	if (result->status == SCSI_TASK_ABORTED) {
		return RSVD_SRB_ABORTED;
	}
	if ((unsigned)sense >> 16 == 5) {
		status = RSVD_SRB_INVALID_REQUEST;
	}
	return (uint8_t)(status | (result->sense_length > 0 ?
				   RSVD_SRB_AUTOSENSE : 0));
}

void rsvd_scsi_encode(const struct rsvd_scsi *request,
		      const struct scsi_result *result,
		      uint8_t out[RSVD_SCSI_SIZE])
{
	struct cursor_put p = {};

	memset(out, 0, RSVD_SCSI_SIZE);
	cursor_put_init(&p, out, RSVD_SCSI_SIZE);
	cursor_put_le16(&p, RSVD_SCSI_SIZE);
	cursor_put_u8(&p, rsvd_srb_status(result));
	cursor_put_u8(&p, result->status);
	cursor_put_u8(&p, request->cdb_length);
	/* 18 bytes are valid; Windows says 20, and clients count on it. */
	cursor_put_u8(&p, RSVD_SENSE_SIZE);
	cursor_put_u8(&p, request->disposition);
	cursor_put_u8(&p, 0);
	cursor_put_le32(&p, request->srb_flags);
	cursor_put_le32(&p, (uint32_t)result->length);
	cursor_put_bytes(&p, result->sense, result->sense_length);
}

/* ---- stored errors ------------------------------------------------------------------ */

uint8_t rsvd_ring_store(struct rsvd_ring *ring, const struct rsvd_error *e)
{
	ring->sequence++;
	ring->errors[ring->sequence] = *e;
	ring->errors[ring->sequence].stored = true;
	return ring->sequence;
}

uint8_t rsvd_ring_store_result(struct rsvd_ring *ring,
			       const struct scsi_result *result)
{
	struct rsvd_error e = {
		.srb_status = rsvd_srb_status(result),
		.scsi_status = result->status,
	};

	memcpy(e.sense, result->sense, result->sense_length);
	return rsvd_ring_store(ring, &e);
}

int rsvd_ring_show(const struct rsvd_ring *ring, uint8_t key, uint8_t out[24])
{
	const struct rsvd_error *e = &ring->errors[key];

	if (!e->stored) {
		return -ENOENT;
	}
	out[0] = key;
	out[1] = e->srb_status;
	out[2] = e->scsi_status;
	out[3] = RSVD_SENSE_SIZE;
	memcpy(out + 4, e->sense, RSVD_SENSE_SIZE);
	return 0;
}

uint32_t rsvd_attention_status(enum scsi_sense attention)
{
	switch (attention) {
	case SCSI_SENSE_CAPACITY_CHANGED:
		return 0xC05CFF02U;
	case SCSI_SENSE_RESERVATIONS_PREEMPTED:
		return 0xC05CFF03U;
	case SCSI_SENSE_RESERVATIONS_RELEASED:
		return 0xC05CFF04U;
	case SCSI_SENSE_REGISTRATIONS_PREEMPTED:
		return 0xC05CFF05U;
	case SCSI_SENSE_DEFINITION_CHANGED:
		return 0xC05CFF06U;
	default:
		return RSVD_STATUS_ATTENTION;
	}
}

/* ---- information ----------------------------------------------------------------------- */

void rsvd_disk_info_encode(const struct rsvd_disk_info *info, uint8_t out[56])
{
	struct cursor_put p = {};

	memset(out, 0, 56);
	cursor_put_init(&p, out, 56);
	cursor_put_le32(&p, info->type);
	cursor_put_le32(&p, info->format);
	cursor_put_le32(&p, info->block_size);
	cursor_put_zero(&p, 16);
	cursor_put_u8(&p, 1);	/* mounted */
	cursor_put_u8(&p, 1);	/* aligned to 4 KiB, as all of VHDX is */
	cursor_put_zero(&p, 2);
	cursor_put_le64(&p, info->file_size);
	cursor_put_guid(&p, &info->disk_id);
}

void rsvd_initial_info_encode(const struct rsvd_properties *props,
			      uint8_t out[24])
{
	struct cursor_put p = {};

	cursor_put_init(&p, out, 24);
	cursor_put_le32(&p, props->server_version);
	cursor_put_le32(&p, props->sector);
	cursor_put_le32(&p, props->physical_sector);
	cursor_put_le32(&p, 0);
	cursor_put_le64(&p, props->size);
}
