/*
 * The table of commands, and REPORT SUPPORTED OPERATION CODES, which shows it.
 */
#include "scsi/scsi_priv.h"

#include <string.h>

/* Columns: opcode, has action, action, CDB length, direction, access, SPC-2 */
#define LBA10 0xFF, 0xFF, 0xFF, 0xFF
#define LBA16 LBA10, LBA10

static const struct scsi_command_row rows[] = {
	{ 0x00, false, 0, 6, SCSI_NO_DATA, SCSI_ACCESS_FREE, false,
	  "TEST UNIT READY", { 0, 0, 0, 0, 0 } },
	{ 0x03, false, 0, 6, SCSI_TO_INITIATOR, SCSI_ACCESS_FREE, true,
	  "REQUEST SENSE", { 0x01, 0, 0, 0xFF, 0 } },
	{ 0x04, false, 0, 6, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "FORMAT UNIT", { 0xFF, 0, 0, 0, 0 } },
	{ 0x08, false, 0, 6, SCSI_TO_INITIATOR, SCSI_ACCESS_READ, false,
	  "READ(6)", { 0x1F, 0xFF, 0xFF, 0xFF, 0 } },
	{ 0x0A, false, 0, 6, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "WRITE(6)", { 0x1F, 0xFF, 0xFF, 0xFF, 0 } },
	{ 0x12, false, 0, 6, SCSI_TO_INITIATOR, SCSI_ACCESS_FREE, true,
	  "INQUIRY", { 0x01, 0xFF, 0xFF, 0xFF, 0 } },
	{ 0x15, false, 0, 6, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "MODE SELECT(6)", { 0x11, 0, 0, 0xFF, 0 } },
	{ 0x16, false, 0, 6, SCSI_NO_DATA, SCSI_ACCESS_RESERVE, true,
	  "RESERVE(6)", { 0, 0, 0, 0, 0 } },
	{ 0x17, false, 0, 6, SCSI_NO_DATA, SCSI_ACCESS_RESERVE, true,
	  "RELEASE(6)", { 0, 0, 0, 0, 0 } },
	{ 0x1A, false, 0, 6, SCSI_TO_INITIATOR, SCSI_ACCESS_READ, false,
	  "MODE SENSE(6)", { 0x08, 0xFF, 0xFF, 0xFF, 0 } },
	{ 0x1B, false, 0, 6, SCSI_NO_DATA, SCSI_ACCESS_WRITE, false,
	  "START STOP UNIT", { 0x01, 0, 0, 0xF3, 0 } },
	{ 0x1D, false, 0, 6, SCSI_NO_DATA, SCSI_ACCESS_WRITE, false,
	  "SEND DIAGNOSTIC", { 0x04, 0, 0, 0, 0 } },
	{ 0x1E, false, 0, 6, SCSI_NO_DATA, SCSI_ACCESS_WRITE, false,
	  "PREVENT ALLOW MEDIUM REMOVAL", { 0, 0, 0, 0x03, 0 } },
	{ 0x25, false, 0, 10, SCSI_TO_INITIATOR, SCSI_ACCESS_FREE, true,
	  "READ CAPACITY(10)", { 0, LBA10, 0, 0, 0x01, 0 } },
	{ 0x28, false, 0, 10, SCSI_TO_INITIATOR, SCSI_ACCESS_READ, false,
	  "READ(10)", { 0x18, LBA10, 0, 0xFF, 0xFF, 0 } },
	{ 0x2A, false, 0, 10, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "WRITE(10)", { 0x18, LBA10, 0, 0xFF, 0xFF, 0 } },
	{ 0x2E, false, 0, 10, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "WRITE AND VERIFY(10)", { 0x10, LBA10, 0, 0xFF, 0xFF, 0 } },
	{ 0x2F, false, 0, 10, SCSI_TO_DISK, SCSI_ACCESS_READ, false,
	  "VERIFY(10)", { 0x16, LBA10, 0, 0xFF, 0xFF, 0 } },
	{ 0x35, false, 0, 10, SCSI_NO_DATA, SCSI_ACCESS_WRITE, false,
	  "SYNCHRONIZE CACHE(10)", { 0x02, LBA10, 0, 0xFF, 0xFF, 0 } },
	{ 0x41, false, 0, 10, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "WRITE SAME(10)", { 0x08, LBA10, 0, 0xFF, 0xFF, 0 } },
	{ 0x42, false, 0, 10, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "UNMAP", { 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0 } },
	{ 0x55, false, 0, 10, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "MODE SELECT(10)", { 0x11, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0 } },
	{ 0x56, false, 0, 10, SCSI_NO_DATA, SCSI_ACCESS_RESERVE, true,
	  "RESERVE(10)", { 0, 0, 0, 0, 0, 0, 0, 0, 0 } },
	{ 0x57, false, 0, 10, SCSI_NO_DATA, SCSI_ACCESS_RESERVE, true,
	  "RELEASE(10)", { 0, 0, 0, 0, 0, 0, 0, 0, 0 } },
	{ 0x5A, false, 0, 10, SCSI_TO_INITIATOR, SCSI_ACCESS_READ, false,
	  "MODE SENSE(10)", { 0x18, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0 } },
	{ 0x5E, true, 0x00, 10, SCSI_TO_INITIATOR, SCSI_ACCESS_FREE, false,
	  "PERSISTENT RESERVE IN, READ KEYS",
	  { 0x1F, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0 } },
	{ 0x5E, true, 0x01, 10, SCSI_TO_INITIATOR, SCSI_ACCESS_FREE, false,
	  "PERSISTENT RESERVE IN, READ RESERVATION",
	  { 0x1F, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0 } },
	{ 0x5E, true, 0x02, 10, SCSI_TO_INITIATOR, SCSI_ACCESS_FREE, false,
	  "PERSISTENT RESERVE IN, REPORT CAPABILITIES",
	  { 0x1F, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0 } },
	{ 0x5E, true, 0x03, 10, SCSI_TO_INITIATOR, SCSI_ACCESS_FREE, false,
	  "PERSISTENT RESERVE IN, READ FULL STATUS",
	  { 0x1F, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0 } },
	{ 0x5F, true, 0x00, 10, SCSI_TO_DISK, SCSI_ACCESS_PR_OUT, false,
	  "PERSISTENT RESERVE OUT, REGISTER",
	  { 0x1F, 0xFF, 0, 0, LBA10, 0 } },
	{ 0x5F, true, 0x01, 10, SCSI_TO_DISK, SCSI_ACCESS_PR_OUT, false,
	  "PERSISTENT RESERVE OUT, RESERVE",
	  { 0x1F, 0xFF, 0, 0, LBA10, 0 } },
	{ 0x5F, true, 0x02, 10, SCSI_TO_DISK, SCSI_ACCESS_PR_OUT, false,
	  "PERSISTENT RESERVE OUT, RELEASE",
	  { 0x1F, 0xFF, 0, 0, LBA10, 0 } },
	{ 0x5F, true, 0x03, 10, SCSI_TO_DISK, SCSI_ACCESS_PR_OUT, false,
	  "PERSISTENT RESERVE OUT, CLEAR",
	  { 0x1F, 0xFF, 0, 0, LBA10, 0 } },
	{ 0x5F, true, 0x04, 10, SCSI_TO_DISK, SCSI_ACCESS_PR_OUT, false,
	  "PERSISTENT RESERVE OUT, PREEMPT",
	  { 0x1F, 0xFF, 0, 0, LBA10, 0 } },
	{ 0x5F, true, 0x05, 10, SCSI_TO_DISK, SCSI_ACCESS_PR_OUT, false,
	  "PERSISTENT RESERVE OUT, PREEMPT AND ABORT",
	  { 0x1F, 0xFF, 0, 0, LBA10, 0 } },
	{ 0x5F, true, 0x06, 10, SCSI_TO_DISK, SCSI_ACCESS_PR_OUT, false,
	  "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY",
	  { 0x1F, 0xFF, 0, 0, LBA10, 0 } },
	{ 0x5F, true, 0x07, 10, SCSI_TO_DISK, SCSI_ACCESS_PR_OUT, false,
	  "PERSISTENT RESERVE OUT, REGISTER AND MOVE",
	  { 0x1F, 0xFF, 0, 0, LBA10, 0 } },
	{ 0x88, false, 0, 16, SCSI_TO_INITIATOR, SCSI_ACCESS_READ, false,
	  "READ(16)", { 0x18, LBA16, LBA10, 0, 0 } },
	{ 0x89, false, 0, 16, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "COMPARE AND WRITE", { 0x18, LBA16, 0, 0, 0, 0xFF, 0, 0 } },
	{ 0x8A, false, 0, 16, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "WRITE(16)", { 0x18, LBA16, LBA10, 0, 0 } },
	{ 0x8E, false, 0, 16, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "WRITE AND VERIFY(16)", { 0x10, LBA16, LBA10, 0, 0 } },
	{ 0x8F, false, 0, 16, SCSI_TO_DISK, SCSI_ACCESS_READ, false,
	  "VERIFY(16)", { 0x16, LBA16, LBA10, 0, 0 } },
	{ 0x91, false, 0, 16, SCSI_NO_DATA, SCSI_ACCESS_WRITE, false,
	  "SYNCHRONIZE CACHE(16)", { 0x02, LBA16, LBA10, 0, 0 } },
	{ 0x93, false, 0, 16, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "WRITE SAME(16)", { 0x09, LBA16, LBA10, 0, 0 } },
	{ 0x9E, true, 0x10, 16, SCSI_TO_INITIATOR, SCSI_ACCESS_FREE, true,
	  "READ CAPACITY(16)", { 0x1F, LBA16, LBA10, 0x01, 0 } },
	{ 0x9E, true, 0x12, 16, SCSI_TO_INITIATOR, SCSI_ACCESS_READ, false,
	  "GET LBA STATUS", { 0x1F, LBA16, LBA10, 0, 0 } },
	{ 0xA0, false, 0, 12, SCSI_TO_INITIATOR, SCSI_ACCESS_FREE, true,
	  "REPORT LUNS", { 0, 0xFF, 0, 0, 0, LBA10, 0, 0 } },
	{ 0xA3, true, 0x0C, 12, SCSI_TO_INITIATOR, SCSI_ACCESS_READ, false,
	  "REPORT SUPPORTED OPERATION CODES",
	  { 0x1F, 0x87, 0xFF, 0xFF, 0xFF, LBA10, 0, 0 } },
	{ 0xA8, false, 0, 12, SCSI_TO_INITIATOR, SCSI_ACCESS_READ, false,
	  "READ(12)", { 0x18, LBA10, LBA10, 0, 0 } },
	{ 0xAA, false, 0, 12, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "WRITE(12)", { 0x18, LBA10, LBA10, 0, 0 } },
	{ 0xAE, false, 0, 12, SCSI_TO_DISK, SCSI_ACCESS_WRITE, false,
	  "WRITE AND VERIFY(12)", { 0x10, LBA10, LBA10, 0, 0 } },
	{ 0xAF, false, 0, 12, SCSI_TO_DISK, SCSI_ACCESS_READ, false,
	  "VERIFY(12)", { 0x16, LBA10, LBA10, 0, 0 } },
};

#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

const struct scsi_command_row *scsi_command_row_get(size_t index)
{
	return index < ROW_COUNT ? &rows[index] : NULL;
}

const struct scsi_command_row *scsi_command_find(
	const uint8_t cdb[SCSI_CDB_LENGTH])
{
	size_t i = 0;

	for (i = 0; i < ROW_COUNT; i++) {
		if (rows[i].opcode == cdb[0] &&
		    (!rows[i].has_action ||
		     rows[i].action == (cdb[1] & 0x1F))) {
			return &rows[i];
		}
	}
	return NULL;
}

bool scsi_command_writes(const uint8_t cdb[SCSI_CDB_LENGTH])
{
	switch (cdb[0]) {
	case 0x04: case 0x0A: case 0x2A: case 0xAA: case 0x8A: case 0x2E:
	case 0xAE: case 0x8E: case 0x41: case 0x93: case 0x42: case 0x89:
		return true;
	}
	return false;
}

/* ---- REPORT SUPPORTED OPERATION CODES, [SPC-4] 6.27 ------------------------- */

static bool is_offered(const struct scsi_geometry *g,
		       const struct scsi_command_row *row)
{
	return row->opcode != 0x89 || g->compare_and_write;
}

/* The command timeouts descriptor, which names none. */
static size_t put_timeouts(uint8_t *out)
{
	memset(out, 0, 12);
	out[1] = 10;
	return 12;
}

static void report_all(const struct scsi_geometry *g, struct scsi_command *c,
		       bool timeouts, size_t allocated)
{
	uint8_t data[4 + 20 * ROW_COUNT];
	size_t at = 4;
	size_t i = 0;

	memset(data, 0, sizeof(data));
	for (i = 0; i < ROW_COUNT; i++) {
		if (!is_offered(g, &rows[i])) {
			continue;
		}
		data[at] = rows[i].opcode;
		scsi_put16(data + at + 2, rows[i].action);
		data[at + 5] = (uint8_t)((rows[i].has_action ? 1 : 0) |
					 (timeouts ? 2 : 0));
		scsi_put16(data + at + 6, rows[i].length);
		at += 8;
		if (timeouts) {
			at += put_timeouts(data + at);
		}
	}
	scsi_put32(data, (uint32_t)(at - 4));
	scsi_reply(c, data, at, allocated);
}

static void report_one(const struct scsi_geometry *g, struct scsi_command *c,
		       const struct scsi_command_row *row, bool timeouts,
		       size_t allocated)
{
	uint8_t data[4 + SCSI_CDB_LENGTH + 12] = { 0, 1 };
	size_t at = 4;

	if (row != NULL && is_offered(g, row)) {
		data[1] = 3;
		scsi_put16(data + 2, row->length);
		data[4] = row->opcode;
		memcpy(data + 5, row->usage, row->length - 1U);
		if (row->has_action) {
			/* The service action itself, [SPC-4] table 283. */
			data[5] = (uint8_t)((data[5] & 0xE0) | row->action);
		}
		at += row->length;
		if (timeouts) {
			data[1] |= 0x80;
			at += put_timeouts(data + at);
		}
	}
	scsi_reply(c, data, at, allocated);
}

void scsi_report_opcodes(const struct scsi_geometry *g, struct scsi_command *c)
{
	const struct scsi_command_row *row = NULL;
	bool timeouts = (c->cdb[2] & 0x80) != 0;
	unsigned options = c->cdb[2] & 0x07;
	uint8_t opcode = c->cdb[3];
	uint16_t action = scsi_get16(c->cdb + 4);
	size_t allocated = scsi_get32(c->cdb + 6);
	bool known = false;
	bool has_action = false;
	size_t i = 0;

	if (options > 3) {
		scsi_result_sense(&c->result, SCSI_SENSE_CDB);
		return;
	}
	if (options == 0) {
		report_all(g, c, timeouts, allocated);
		return;
	}
	for (i = 0; i < ROW_COUNT && row == NULL; i++) {
		if (rows[i].opcode == opcode) {
			known = true;
			has_action = rows[i].has_action;
			if (!has_action || rows[i].action == action) {
				row = &rows[i];
			}
		}
	}
	/* 1 asks for an opcode without service actions, 2 for one of them. */
	if (known && ((options == 1 && has_action) ||
		      (options == 2 && !has_action))) {
		scsi_result_sense(&c->result, SCSI_SENSE_CDB);
		return;
	}
	if (options == 3 && !has_action && action != 0) {
		row = NULL;
	}
	report_one(g, c, row, timeouts, allocated);
}
