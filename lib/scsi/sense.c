/*
 * Results: statuses and fixed-format sense ([SPC-4] 4.5.3).
 */
#include "scsi/scsi_priv.h"

#include <string.h>

void scsi_result_status(struct scsi_result *r, enum scsi_status status)
{
	*r = (struct scsi_result) { .status = (uint8_t)status };
}

void scsi_sense_encode(enum scsi_sense sense, uint8_t out[SCSI_SENSE_LENGTH])
{
	memset(out, 0, SCSI_SENSE_LENGTH);
	out[0] = 0x70;
	out[2] = (uint8_t)((unsigned)sense >> 16 & 0x0F);
	out[7] = SCSI_SENSE_LENGTH - 8;
	out[12] = (uint8_t)((unsigned)sense >> 8);
	out[13] = (uint8_t)sense;
}

void scsi_result_sense(struct scsi_result *r, enum scsi_sense sense)
{
	scsi_result_status(r, SCSI_CHECK_CONDITION);
	r->sense_length = SCSI_SENSE_LENGTH;
	scsi_sense_encode(sense, r->sense);
}

void scsi_result_sense_at(struct scsi_result *r, enum scsi_sense sense,
			  uint64_t information)
{
	scsi_result_sense(r, sense);
	/* Fixed format has four bytes; VALID stays off where it needs more. */
	if (information <= UINT32_MAX) {
		r->sense[0] |= 0x80;
		scsi_put32(r->sense + 3, (uint32_t)information);
	}
}

enum scsi_sense scsi_result_sense_get(const struct scsi_result *r)
{
	if (r->sense_length == 0) {
		return SCSI_SENSE_NONE;
	}
	return (enum scsi_sense)((r->sense[2] & 0x0FU) << 16 |
				 (unsigned)r->sense[12] << 8 | r->sense[13]);
}

void scsi_reply(struct scsi_command *c, const uint8_t *data, size_t length,
		size_t allocated)
{
	if (length > allocated) {
		length = allocated;
	}
	if (length > c->in_size) {
		length = c->in_size;
	}
	scsi_result_status(&c->result, SCSI_GOOD);
	if (length > 0) {
		memcpy(c->in, data, length);
	}
	c->result.length = length;
}
