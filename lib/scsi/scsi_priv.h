/*
 * What the files of lib/scsi share.
 */
#ifndef HVRS_SCSI_SCSI_PRIV_H
#define HVRS_SCSI_SCSI_PRIV_H

#include "scsi/scsi.h"

/* Bytes: what one WRITE SAME may cover, [SBC-3] 6.5.3. */
#define SCSI_WRITE_SAME_MAX (8U << 20)
/* Descriptors of one UNMAP. */
#define SCSI_UNMAP_MAX 4096U
/* Blocks of one COMPARE AND WRITE. */
#define SCSI_COMPARE_MAX 255U

static inline uint16_t scsi_get16(const uint8_t *p)
{
	return (uint16_t)((uint16_t)p[0] << 8 | p[1]);
}

static inline uint32_t scsi_get32(const uint8_t *p)
{
	return (uint32_t)scsi_get16(p) << 16 | scsi_get16(p + 2);
}

static inline uint64_t scsi_get64(const uint8_t *p)
{
	return (uint64_t)scsi_get32(p) << 32 | scsi_get32(p + 4);
}

static inline void scsi_put16(uint8_t *p, uint16_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static inline void scsi_put32(uint8_t *p, uint32_t value)
{
	scsi_put16(p, (uint16_t)(value >> 16));
	scsi_put16(p + 2, (uint16_t)value);
}

static inline void scsi_put64(uint8_t *p, uint64_t value)
{
	scsi_put32(p, (uint32_t)(value >> 32));
	scsi_put32(p + 4, (uint32_t)value);
}

/*
 * Hands data to the initiator: at most what it allocated and has room for.
 */
void scsi_reply(struct scsi_command *c, const uint8_t *data, size_t length,
		size_t allocated);

/* Commands that need no disk: fill c->result. */
void scsi_inquiry(const struct scsi_geometry *g, struct scsi_command *c);
void scsi_mode_sense(const struct scsi_geometry *g, struct scsi_command *c);
void scsi_mode_select(const struct scsi_geometry *g, struct scsi_command *c);
void scsi_request_sense(struct scsi_command *c);
void scsi_report_luns(struct scsi_command *c);
void scsi_read_capacity(const struct scsi_geometry *g, struct scsi_command *c);
void scsi_report_opcodes(const struct scsi_geometry *g,
			 struct scsi_command *c);

/* pr.c and pr_show.c */
struct scsi_nexus *scsi_pr_nexus(struct scsi_pr *state, const struct guid *id);
bool scsi_pr_is_holder(const struct scsi_pr *state,
		       const struct scsi_nexus *nexus);
bool scsi_pr_is_all(unsigned type);
void scsi_pr_transport_id(const struct guid *id, uint8_t out[24]);

#endif
