/*
 * What a disk says of itself: INQUIRY and its pages, mode pages, capacity.
 * Names and identifiers are those of Hyper-V's own virtual disks, so that
 * guests take a shared disk for the same device wherever it lies.
 */
#include "scsi/scsi_priv.h"

#include <stdio.h>
#include <string.h>

#define INQUIRY_LENGTH 96

/* ---- vital product data, [SPC-4] 7.8 and [SBC-3] 6.6 ------------------------ */

static size_t page_supported(const struct scsi_geometry *g, uint8_t *out)
{
	static const uint8_t pages[] = { 0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2,
					 0xCE, 0xCF };

	(void)g;
	memcpy(out, pages, sizeof(pages));
	return sizeof(pages);
}

static size_t page_serial(const struct scsi_geometry *g, uint8_t *out)
{
	size_t i = 0;

	for (i = 0; i < sizeof(g->disk_id.bytes); i++) {
		char text[3] = {};

		snprintf(text, sizeof(text), "%02x", g->disk_id.bytes[i]);
		memcpy(out + 2 * i, text, 2);
	}
	return 2 * sizeof(g->disk_id.bytes);
}

/* Clusters know a disk by this page: the same for every initiator, for ever. */
static size_t page_identification(const struct scsi_geometry *g, uint8_t *out)
{
	static const uint8_t vendor[12] = { 0x01, 0x01, 0x00, 0x18, 'M', 's',
					    'f', 't', ' ', ' ', ' ', ' ' };
	static const uint8_t naa[8] = { 0x01, 0x03, 0x00, 0x10,
					0x60, 0x02, 0x24, 0x80 };
	/* Relative target port 1, as READ FULL STATUS says. */
	static const uint8_t port[8] = { 0x01, 0x14, 0x00, 0x04, 0, 0, 0, 1 };
	size_t at = 0;

	memcpy(out, vendor, sizeof(vendor));
	at += sizeof(vendor);
	memcpy(out + at, g->disk_id.bytes, 16);
	at += 16;
	memcpy(out + at, naa, sizeof(naa));
	at += sizeof(naa);
	memcpy(out + at, g->disk_id.bytes, 6);
	memcpy(out + at + 6, g->disk_id.bytes + 10, 6);
	at += 12;
	memcpy(out + at, port, sizeof(port));
	return at + sizeof(port);
}

static size_t page_limits(const struct scsi_geometry *g, uint8_t *out)
{
	uint32_t granularity = g->unmap_granularity;

	out[0] = 1;	/* WSNZ */
	out[1] = g->compare_and_write ? SCSI_COMPARE_MAX : 0;
	scsi_put16(out + 2, (uint16_t)(g->physical_size / g->block_size));
	scsi_put32(out + 16, UINT32_MAX);
	scsi_put32(out + 20, SCSI_UNMAP_MAX);
	scsi_put32(out + 24, granularity > 0 ? granularity : 1);
	out[28] = 0x80;	/* UGAVALID, alignment 0 */
	scsi_put64(out + 32, SCSI_WRITE_SAME_MAX / g->block_size);
	return 0x3C;
}

static size_t page_characteristics(const struct scsi_geometry *g, uint8_t *out)
{
	(void)g;
	scsi_put16(out, 1);	/* does not rotate */
	return 0x3C;
}

static size_t page_provisioning(const struct scsi_geometry *g, uint8_t *out)
{
	uint8_t exponent = 1;

	while (exponent < 63 && g->blocks >> exponent > UINT32_MAX) {
		exponent++;
	}
	out[0] = exponent;
	/* UNMAP is there whether it frees anything or not (MS-HVRS). */
	out[1] = 0x80;
	if (g->unmapped_zero) {
		out[1] |= 0x64;	/* LBPWS, LBPWS10, LBPRZ */
	}
	out[2] = g->thin ? 2 : 0;
	return 4;
}

static size_t page_paging(const struct scsi_geometry *g, uint8_t *out)
{
	(void)g;
	out[0] = 1;
	out[1] = 1;
	return 4;
}

static size_t page_virtual(const struct scsi_geometry *g, uint8_t *out)
{
	static const struct guid kind = GUID_INIT(
		0x89A98F15, 0xC928, 0x4D8B, 0x94, 0xCD, 0xEF, 0x51, 0xFA,
		0xA9, 0x9D, 0x33);

	(void)g;
	out[0] = 1;
	memcpy(out + 4, kind.bytes, sizeof(kind.bytes));
	return 20;
}

static const struct {
	uint8_t page;
	size_t (*fill)(const struct scsi_geometry *g, uint8_t *out);
} pages[] = {
	{ 0x00, page_supported },
	{ 0x80, page_serial },
	{ 0x83, page_identification },
	{ 0xB0, page_limits },
	{ 0xB1, page_characteristics },
	{ 0xB2, page_provisioning },
	{ 0xCE, page_paging },
	{ 0xCF, page_virtual },
};

static void inquiry_page(const struct scsi_geometry *g, struct scsi_command *c,
			 size_t allocated)
{
	uint8_t data[4 + 0x60] = {};
	size_t length = 0;
	size_t i = 0;

	for (i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		if (pages[i].page == c->cdb[2]) {
			length = pages[i].fill(g, data + 4);
			data[1] = pages[i].page;
			scsi_put16(data + 2, (uint16_t)length);
			scsi_reply(c, data, 4 + length, allocated);
			return;
		}
	}
	scsi_result_sense(&c->result, SCSI_SENSE_CDB);
}

/* [SPC-4] 6.6 */
void scsi_inquiry(const struct scsi_geometry *g, struct scsi_command *c)
{
	uint8_t data[INQUIRY_LENGTH] = {
		[2] = 0x05, [3] = 0x02, [4] = INQUIRY_LENGTH - 5, [7] = 0x02,
	};
	size_t allocated = scsi_get16(c->cdb + 3);

	if ((c->cdb[1] & 0x02) != 0) {
		scsi_result_sense(&c->result, SCSI_SENSE_CDB);
		return;
	}
	if ((c->cdb[1] & 0x01) != 0) {
		inquiry_page(g, c, allocated);
		return;
	}
	if (c->cdb[2] != 0) {
		scsi_result_sense(&c->result, SCSI_SENSE_CDB);
		return;
	}
	memcpy(data + 8, "Msft    Virtual Disk    1.0 ", 28);
	/* Version descriptors: SAM-4, SPC-3, SBC-3 without a version. */
	scsi_put16(data + 58, 0x0080);
	scsi_put16(data + 60, 0x0300);
	scsi_put16(data + 62, 0x04C0);
	scsi_reply(c, data, sizeof(data), allocated);
}

/* ---- mode pages, [SPC-4] 6.11 and 7.5 ------------------------------------------ */

#define CACHING_LENGTH 20
#define CONTROL_LENGTH 12

static size_t put_caching(const struct scsi_geometry *g, bool changeable,
			  uint8_t *out)
{
	memset(out, 0, CACHING_LENGTH);
	out[0] = 0x08;
	out[1] = CACHING_LENGTH - 2;
	if (!changeable && g->write_cache) {
		out[2] = 0x04;	/* WCE */
	}
	return CACHING_LENGTH;
}

static size_t put_control(uint8_t *out)
{
	memset(out, 0, CONTROL_LENGTH);
	out[0] = 0x0A;
	out[1] = CONTROL_LENGTH - 2;
	return CONTROL_LENGTH;
}

void scsi_mode_sense(const struct scsi_geometry *g, struct scsi_command *c)
{
	bool ten = c->cdb[0] == 0x5A;
	unsigned control = c->cdb[2] >> 6;
	unsigned page = c->cdb[2] & 0x3F;
	unsigned subpage = c->cdb[3];
	size_t head = ten ? 8 : 4;
	uint8_t data[8 + CACHING_LENGTH + CONTROL_LENGTH] = {};
	uint8_t flags = (uint8_t)(0x10 | (g->read_only ? 0x80 : 0));
	size_t at = head;

	if (control == 3) {
		scsi_result_sense(&c->result, SCSI_SENSE_SAVING);
		return;
	}
	if ((page != 0x08 && page != 0x0A && page != 0x3F) ||
	    (subpage != 0 && !(page == 0x3F && subpage == 0xFF))) {
		scsi_result_sense(&c->result, SCSI_SENSE_CDB);
		return;
	}
	if (page != 0x0A) {
		at += put_caching(g, control == 1, data + at);
	}
	if (page != 0x08) {
		at += put_control(data + at);
	}
	if (ten) {
		scsi_put16(data, (uint16_t)(at - 2));
		data[3] = flags;
		scsi_reply(c, data, at, scsi_get16(c->cdb + 7));
		return;
	}
	data[0] = (uint8_t)(at - 1);
	data[2] = flags;
	scsi_reply(c, data, at, c->cdb[4]);
}

/* Nothing can be changed: only what is true already is accepted. */
void scsi_mode_select(const struct scsi_geometry *g, struct scsi_command *c)
{
	bool ten = c->cdb[0] == 0x55;
	size_t head = ten ? 8 : 4;
	size_t length = ten ? scsi_get16(c->cdb + 7) : c->cdb[4];
	size_t at = 0;
	uint8_t caching[CACHING_LENGTH] = {};
	uint8_t control[CONTROL_LENGTH] = {};

	if ((c->cdb[1] & 0x10) == 0 || (c->cdb[1] & 0x01) != 0) {
		scsi_result_sense(&c->result, SCSI_SENSE_CDB);
		return;
	}
	if (length == 0) {
		scsi_result_status(&c->result, SCSI_GOOD);
		return;
	}
	if (length < head || c->out_length < length) {
		scsi_result_sense(&c->result, SCSI_SENSE_LIST_LENGTH);
		return;
	}
	put_caching(g, false, caching);
	put_control(control);
	/* A block descriptor may name the sizes as they are. */
	at = head + (ten ? scsi_get16(c->out + 6) : c->out[3]);
	if (at > length) {
		scsi_result_sense(&c->result, SCSI_SENSE_LIST_LENGTH);
		return;
	}
	if (at != head && (at != head + 8 ||
			   (scsi_get32(c->out + head + 4) & 0xFFFFFF) !=
			   g->block_size)) {
		scsi_result_sense(&c->result, SCSI_SENSE_LIST);
		return;
	}
	while (at < length) {
		size_t rest = length - at;
		const uint8_t *page = c->out + at;

		if (rest >= CACHING_LENGTH &&
		    memcmp(page, caching, CACHING_LENGTH) == 0) {
			at += CACHING_LENGTH;
		} else if (rest >= CONTROL_LENGTH &&
			   memcmp(page, control, CONTROL_LENGTH) == 0) {
			at += CONTROL_LENGTH;
		} else {
			scsi_result_sense(&c->result, SCSI_SENSE_LIST);
			return;
		}
	}
	scsi_result_status(&c->result, SCSI_GOOD);
}

/* ---- the small ones -------------------------------------------------------------- */

/* [SPC-4] 6.29: what waits for this initiator is data here, not a failure. */
void scsi_request_sense(struct scsi_command *c)
{
	uint8_t data[SCSI_SENSE_LENGTH] = {};

	if ((c->cdb[1] & 0x01) != 0) {
		scsi_result_sense(&c->result, SCSI_SENSE_CDB);
		return;
	}
	scsi_sense_encode(c->attention, data);
	scsi_reply(c, data, sizeof(data), c->cdb[4]);
}

/* [SPC-4] 6.25 */
void scsi_report_luns(struct scsi_command *c)
{
	uint8_t data[16] = {};
	size_t allocated = scsi_get32(c->cdb + 6);

	if (c->cdb[2] > 2 || allocated < 16) {
		scsi_result_sense(&c->result, SCSI_SENSE_CDB);
		return;
	}
	if (c->cdb[2] == 1) {
		scsi_reply(c, data, 8, allocated);
		return;
	}
	scsi_put32(data, 8);
	scsi_reply(c, data, sizeof(data), allocated);
}

/* [SBC-3] 5.15 and 5.16 */
void scsi_read_capacity(const struct scsi_geometry *g, struct scsi_command *c)
{
	uint8_t data[32] = {};
	uint64_t last = g->blocks - 1;
	bool ten = c->cdb[0] == 0x25;
	uint64_t lba = ten ? scsi_get32(c->cdb + 2) : scsi_get64(c->cdb + 2);
	uint32_t ratio = g->physical_size / g->block_size;

	if (lba != 0) {
		scsi_result_sense(&c->result, SCSI_SENSE_CDB);
		return;
	}
	if (ten) {
		scsi_put32(data, last > UINT32_MAX ? UINT32_MAX
						   : (uint32_t)last);
		scsi_put32(data + 4, g->block_size);
		scsi_reply(c, data, 8, 8);
		return;
	}
	scsi_put64(data, last);
	scsi_put32(data + 8, g->block_size);
	while (ratio > 1 && data[13] < 15) {
		data[13]++;
		ratio /= 2;
	}
	if (g->thin) {
		data[14] = (uint8_t)(0x80 | (g->unmapped_zero ? 0x40 : 0));
	}
	scsi_reply(c, data, sizeof(data), scsi_get32(c->cdb + 10));
}
