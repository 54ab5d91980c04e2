/*
 * Commands on a disk in memory: a table of refusals, one row per clause of
 * scsi.md sections 3 and 4, and what the commands do when they are accepted.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "scsi/scsi_priv.h"
#include "support/mem_disk.h"

static uint8_t data_in[65536];

struct run {
	struct mem_disk *disk;
	struct scsi_command c;
};

static void run_cdb(struct run *run, const uint8_t *cdb, size_t cdb_length,
		    const void *out, size_t out_length)
{
	run->c = (struct scsi_command) {
		.cdb_length = 16, .out = out, .out_length = out_length,
		.in = data_in, .in_size = sizeof(data_in),
	};
	memset(data_in, 0xEE, sizeof(data_in));
	memcpy(run->c.cdb, cdb, cdb_length);
	mem_disk_execute(run->disk, &run->c);
}

#define RUN(run, out, out_length, ...) \
	run_cdb(run, (const uint8_t[]) { __VA_ARGS__ }, \
		sizeof((const uint8_t[]) { __VA_ARGS__ }), out, out_length)

static int start(void **test)
{
	struct run *run = talloc_zero(NULL, struct run);

	run->disk = mem_disk_create(run);
	*test = run;
	return 0;
}

static int finish(void **test)
{
	talloc_free(*test);
	return 0;
}

static void good(const struct run *run, size_t length)
{
	assert_int_equal(run->c.result.status, SCSI_GOOD);
	assert_int_equal(run->c.result.sense_length, 0);
	assert_int_equal(run->c.result.length, length);
}

static void sense(const struct run *run, enum scsi_sense wanted)
{
	assert_int_equal(run->c.result.status, SCSI_CHECK_CONDITION);
	assert_int_equal(scsi_result_sense_get(&run->c.result), wanted);
	assert_int_equal(run->c.result.length, 0);
}

/* ---- refusals ----------------------------------------------------------------- */

struct refusal {
	const char *name;
	uint8_t cdb[16];
	size_t out_length;
	enum scsi_sense sense;
};

static const struct refusal refusals[] = {
	{ "an unknown opcode", { 0xC1 }, 0, SCSI_SENSE_OPCODE },
	{ "extended copy", { 0x83 }, 0, SCSI_SENSE_OPCODE },
	{ "receive ROD token", { 0x84 }, 0, SCSI_SENSE_OPCODE },
	{ "an unknown service action", { 0x9E, 0x11 }, 0, SCSI_SENSE_OPCODE },
	{ "NACA in the control byte", { 0x00, 0, 0, 0, 0, 4 }, 0,
	  SCSI_SENSE_CDB },
	{ "inquiry with CMDDT", { 0x12, 2, 0, 0, 96 }, 0, SCSI_SENSE_CDB },
	{ "inquiry with a page but no EVPD", { 0x12, 0, 0x80, 0, 96 }, 0,
	  SCSI_SENSE_CDB },
	{ "an unknown page", { 0x12, 1, 0x8F, 0, 96 }, 0, SCSI_SENSE_CDB },
	{ "request sense with DESC", { 0x03, 1, 0, 0, 18 }, 0,
	  SCSI_SENSE_CDB },
	{ "report luns of 15 bytes", { 0xA0, [9] = 15 }, 0, SCSI_SENSE_CDB },
	{ "report luns, report 3", { 0xA0, 0, 3, [9] = 16 }, 0,
	  SCSI_SENSE_CDB },
	{ "mode sense, saved values", { 0x1A, 0, 0xC8, 0, 64 }, 0,
	  SCSI_SENSE_SAVING },
	{ "mode sense, unknown page", { 0x1A, 0, 0x05, 0, 64 }, 0,
	  SCSI_SENSE_CDB },
	{ "mode sense, subpage", { 0x1A, 0, 0x08, 1, 64 }, 0,
	  SCSI_SENSE_CDB },
	{ "mode select without PF", { 0x15, 0, 0, 0, 24 }, 24,
	  SCSI_SENSE_CDB },
	{ "mode select with SP", { 0x15, 0x11, 0, 0, 24 }, 24,
	  SCSI_SENSE_CDB },
	{ "mode select with a descriptor too long", { 0x15, 0x10, 0, 0, 24 },
	  24, SCSI_SENSE_LIST_LENGTH },
	{ "mode select cut short", { 0x15, 0x10, 0, 0, 24 }, 23,
	  SCSI_SENSE_LIST_LENGTH },
	{ "start stop with IMMED", { 0x1B, 1, 0, 0, 1 }, 0, SCSI_SENSE_CDB },
	{ "send diagnostic, extended", { 0x1D, 0x24 }, 0, SCSI_SENSE_CDB },
	{ "read capacity with an address", { 0x25, 0, 0, 0, 0, 1 }, 0,
	  SCSI_SENSE_CDB },
	{ "read past the end", { 0x28, 0, 0, 0, 0x0F, 0xFF, 0, 0, 2 }, 0,
	  SCSI_SENSE_RANGE },
	{ "read at the end of no blocks but one too far",
	  { 0x28, 0, 0, 0, 0x10, 1, 0, 0, 0 }, 0, SCSI_SENSE_RANGE },
	{ "read(16) whose sum wraps",
	  { 0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 2 }, 0,
	  SCSI_SENSE_RANGE },
	{ "read with RDPROTECT", { 0x28, 0x20, [8] = 1 }, 0, SCSI_SENSE_CDB },
	{ "write with WRPROTECT", { 0x2A, 0x40, [8] = 1 }, 512,
	  SCSI_SENSE_CDB },
	{ "write past the end", { 0x2A, 0, 0, 0, 0x10, 0, 0, 0, 1 }, 512,
	  SCSI_SENSE_RANGE },
	{ "write of too little data", { 0x2A, [8] = 2 }, 1023,
	  SCSI_SENSE_CDB },
	{ "write(6) of 256 blocks of too little data", { 0x0A }, 65536,
	  SCSI_SENSE_CDB },
	{ "verify with BYTCHK 2", { 0x2F, 4, [8] = 1 }, 512,
	  SCSI_SENSE_CDB },
	{ "verify past the end", { 0x2F, 0, 0, 0, 0x10, 0, 0, 0, 1 }, 0,
	  SCSI_SENSE_RANGE },
	{ "verify of too little data", { 0x2F, 2, [8] = 2 }, 512,
	  SCSI_SENSE_CDB },
	{ "synchronize cache past the end",
	  { 0x35, 0, 0, 0, 0x10, 1, 0, 0, 0 }, 0, SCSI_SENSE_RANGE },
	{ "write same of no blocks", { 0x41 }, 512, SCSI_SENSE_CDB },
	{ "write same of more than the limit",
	  { 0x41, [7] = 0x40, [8] = 1 }, 512, SCSI_SENSE_CDB },
	{ "write same with ANCHOR", { 0x93, 0x18, [13] = 1 }, 512,
	  SCSI_SENSE_CDB },
	{ "write same with LBDATA", { 0x41, 2, [8] = 1 }, 512,
	  SCSI_SENSE_CDB },
	{ "write same with PBDATA", { 0x41, 4, [8] = 1 }, 512,
	  SCSI_SENSE_CDB },
	{ "write same(10) with NDOB", { 0x41, 1, [8] = 1 }, 512,
	  SCSI_SENSE_CDB },
	{ "write same without its block", { 0x41, [8] = 1 }, 511,
	  SCSI_SENSE_CDB },
	{ "write same with two blocks", { 0x41, [8] = 1 }, 1024,
	  SCSI_SENSE_CDB },
	{ "compare and write of too much data", { 0x89, [13] = 1 }, 1536,
	  SCSI_SENSE_CDB },
	{ "write same past the end",
	  { 0x41, 0, 0, 0, 0x0F, 0xFF, 0, 0, 2 }, 512, SCSI_SENSE_RANGE },
	{ "unmap with ANCHOR", { 0x42, 1, [8] = 24 }, 24, SCSI_SENSE_CDB },
	{ "unmap of a list of seven", { 0x42, [8] = 7 }, 24,
	  SCSI_SENSE_LIST_LENGTH },
	{ "unmap of a list that did not come", { 0x42, [8] = 24 }, 23,
	  SCSI_SENSE_LIST_LENGTH },
	{ "LBA status of 23 bytes", { 0x9E, 0x12, [13] = 23 }, 0,
	  SCSI_SENSE_CDB },
	{ "LBA status past the end", { 0x9E, 0x12, [8] = 0x10, [13] = 24 }, 0,
	  SCSI_SENSE_RANGE },
	{ "compare and write of half its data", { 0x89, [13] = 1 }, 1023,
	  SCSI_SENSE_CDB },
	{ "compare and write past the end",
	  { 0x89, [8] = 0x10, [13] = 1 }, 1024, SCSI_SENSE_RANGE },
	{ "report opcodes, option 4", { 0xA3, 0x0C, 4, [9] = 64 }, 0,
	  SCSI_SENSE_CDB },
	{ "report opcodes, one with actions",
	  { 0xA3, 0x0C, 1, 0x5E, [9] = 64 }, 0, SCSI_SENSE_CDB },
	{ "report opcodes, action of one without",
	  { 0xA3, 0x0C, 2, 0x28, [9] = 64 }, 0, SCSI_SENSE_CDB },
	{ "persistent reserve does not come here", { 0x5E, [8] = 8 }, 0,
	  SCSI_SENSE_OPCODE },
};

static void test_refusals_have_their_sense_and_touch_nothing(void **test)
{
	struct run *run = *test;
	static uint8_t out[65536];
	size_t i = 0;

	memset(out, 0x5A, sizeof(out));
	for (i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		const struct refusal *row = &refusals[i];

		run_cdb(run, row->cdb, 16, out, row->out_length);
		if (scsi_result_sense_get(&run->c.result) != row->sense ||
		    run->c.result.length != 0) {
			fail_msg("%s: %06x", row->name,
				 scsi_result_sense_get(&run->c.result));
		}
		assert_int_equal(run->disk->writes + run->disk->unmaps, 0);
	}
}

static void test_a_protected_disk_takes_no_writes(void **test)
{
	static const uint8_t cdbs[][16] = {
		{ 0x2A, [8] = 1 }, { 0x0A, [4] = 1 }, { 0x8A, [13] = 1 },
		{ 0xAA, [9] = 1 }, { 0x93, 0x01, [13] = 1 },
		{ 0x89, [13] = 1 }, { 0x2E, [8] = 1 }, { 0x04 },
	};
	struct run *run = *test;
	uint8_t out[1024] = {};
	size_t i = 0;

	run->disk->disk.geometry.read_only = true;
	for (i = 0; i < sizeof(cdbs) / sizeof(cdbs[0]); i++) {
		run_cdb(run, cdbs[i], 16, out, sizeof(out));
		sense(run, SCSI_SENSE_PROTECTED);
		assert_true(scsi_command_writes(cdbs[i]));
	}
	RUN(run, NULL, 0, 0x1A, 0, 0x08, 0, 64);
	assert_int_equal(data_in[2], 0x90);
	RUN(run, NULL, 0, 0x35);
	good(run, 0);
}

/* ---- what a disk says ---------------------------------------------------------- */

static void test_inquiry(void **test)
{
	struct run *run = *test;

	RUN(run, NULL, 0, 0x12, 0, 0, 0, 255);
	good(run, 96);
	assert_memory_equal(data_in, "\0\0\5\2\x5b\0\0\2Msft    Virtual Disk  "
			    "  1.0 ", 36);
	assert_memory_equal(data_in + 58, "\0\x80\3\0\4\xc0\0", 7);
	RUN(run, NULL, 0, 0x12, 0, 0, 0, 5);
	good(run, 5);
	RUN(run, NULL, 0, 0x12, 1, 0, 0, 255);
	good(run, 12);
	assert_memory_equal(data_in, "\0\0\0\x8\0\x80\x83\xb0\xb1\xb2\xce\xcf",
			    12);
	RUN(run, NULL, 0, 0x12, 1, 0x80, 0, 255);
	good(run, 36);
	assert_memory_equal(data_in + 4, "0102030405060708090a0b0c0d0e0f10",
			    32);
	RUN(run, NULL, 0, 0x12, 1, 0x83, 0, 255);
	good(run, 4 + 28 + 20 + 8);
}

static void test_identification_page(void **test)
{
	struct run *run = *test;

	RUN(run, NULL, 0, 0x12, 1, 0x83, 0, 255);
	assert_int_equal(scsi_get16(data_in + 2), run->c.result.length - 4);
	assert_memory_equal(data_in + 4, "\1\1\0\x18Msft    \1\2\3\4\5\6\7\x8"
			    "\x9\xa\xb\xc\xd\xe\xf\x10", 28);
	assert_memory_equal(data_in + 32, "\1\3\0\x10\x60\2\x24\x80\1\2\3\4\5\6"
			    "\xb\xc\xd\xe\xf\x10", 20);
	assert_memory_equal(data_in + 52, "\1\x14\0\4\0\0\0\1", 8);
}

static void test_limits_and_provisioning(void **test)
{
	struct run *run = *test;

	RUN(run, NULL, 0, 0x12, 1, 0xB0, 0, 255);
	good(run, 64);
	assert_int_equal(data_in[4], 1);
	assert_int_equal(data_in[5], 255);
	assert_int_equal(scsi_get32(data_in + 20), 0xFFFFFFFF);
	assert_int_equal(scsi_get32(data_in + 24), 4096);
	assert_int_equal(scsi_get32(data_in + 28), 8);
	assert_int_equal(scsi_get32(data_in + 32), 0x80000000);
	assert_int_equal(scsi_get64(data_in + 36), 16384);
	RUN(run, NULL, 0, 0x12, 1, 0xB2, 0, 255);
	good(run, 8);
	assert_memory_equal(data_in, "\0\xb2\0\4\1\xe4\2\0", 8);
	run->disk->disk.geometry.unmapped_zero = false;
	run->disk->disk.geometry.thin = false;
	RUN(run, NULL, 0, 0x12, 1, 0xB2, 0, 255);
	assert_memory_equal(data_in, "\0\xb2\0\4\1\x80\0\0", 8);
	RUN(run, NULL, 0, 0x9E, 0x10, [13] = 32);
	assert_int_equal(data_in[14], 0);
	RUN(run, NULL, 0, 0x12, 1, 0xB1, 0, 255);
	good(run, 64);
	assert_int_equal(scsi_get16(data_in + 4), 1);
	RUN(run, NULL, 0, 0x12, 1, 0xCE, 0, 255);
	good(run, 8);
	RUN(run, NULL, 0, 0x12, 1, 0xCF, 0, 255);
	good(run, 24);
}

static void test_read_capacity(void **test)
{
	struct run *run = *test;

	RUN(run, NULL, 0, 0x25);
	good(run, 8);
	assert_memory_equal(data_in, "\0\0\x0f\xff\0\0\2\0", 8);
	RUN(run, NULL, 0, 0x9E, 0x10, [13] = 32);
	good(run, 32);
	assert_memory_equal(data_in, "\0\0\0\0\0\0\x0f\xff\0\0\2\0\0\3\xc0",
			    15);
	run->disk->disk.geometry.blocks = 0x100000001;
	RUN(run, NULL, 0, 0x25);
	assert_int_equal(scsi_get32(data_in), 0xFFFFFFFF);
	RUN(run, NULL, 0, 0x9E, 0x10, [13] = 12);
	good(run, 12);
	assert_int_equal(scsi_get64(data_in), 0x100000000);
	RUN(run, NULL, 0, 0x12, 1, 0xB2, 0, 255);
	assert_int_equal(data_in[4], 1);
}

static void test_mode_pages(void **test)
{
	struct run *run = *test;
	uint8_t list[64] = {};

	RUN(run, NULL, 0, 0x1A, 0, 0x3F, 0, 255);
	good(run, 36);
	assert_memory_equal(data_in, "\x23\0\x10\0\x08\x12\x04", 7);
	assert_memory_equal(data_in + 24, "\x0a\x0a\0\0", 4);
	RUN(run, NULL, 0, 0x1A, 0, 0x48, 0, 255);
	assert_int_equal(data_in[6], 0);
	RUN(run, NULL, 0, 0x5A, 0, 0x08, 0, 0, 0, 0, 0, 255);
	good(run, 28);
	assert_memory_equal(data_in, "\0\x1a\0\x10\0\0\0\0\x08\x12\x04", 11);
	/* What is true may be set. */
	memcpy(list + 8, data_in + 8, 20);
	RUN(run, list, 28, 0x55, 0x10, 0, 0, 0, 0, 0, 0, 28);
	good(run, 0);
	list[10] = 0;
	RUN(run, list, 28, 0x55, 0x10, 0, 0, 0, 0, 0, 0, 28);
	sense(run, SCSI_SENSE_LIST);
	RUN(run, NULL, 0, 0x15, 0x10, 0, 0, 0);
	good(run, 0);
}

static void test_request_sense_shows_the_attention(void **test)
{
	struct run *run = *test;

	RUN(run, NULL, 0, 0x03, 0, 0, 0, 252);
	good(run, 18);
	assert_memory_equal(data_in, "\x70\0\0\0\0\0\0\x0a\0\0\0\0\0\0", 14);
	run->c.attention = SCSI_SENSE_CAPACITY_CHANGED;
	mem_disk_execute(run->disk, &run->c);
	assert_int_equal(data_in[2], 6);
	assert_int_equal(data_in[12], 0x2A);
	assert_int_equal(data_in[13], 0x09);
}

static void test_report_luns_and_opcodes(void **test)
{
	struct run *run = *test;
	size_t at = 4;
	size_t count = 0;

	RUN(run, NULL, 0, 0xA0, [9] = 16);
	good(run, 16);
	assert_memory_equal(data_in, "\0\0\0\x8\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	RUN(run, NULL, 0, 0xA0, 0, 1, [9] = 16);
	good(run, 8);
	RUN(run, NULL, 0, 0xA3, 0x0C, 0, [8] = 0x10);
	assert_int_equal(scsi_get32(data_in) + 4, run->c.result.length);
	for (at = 4; at < run->c.result.length; at += 8) {
		const struct scsi_command_row *row =
			scsi_command_row_get(count++);

		assert_int_equal(data_in[at], row->opcode);
		assert_int_equal(scsi_get16(data_in + at + 6), row->length);
	}
	assert_null(scsi_command_row_get(count));
	RUN(run, NULL, 0, 0xA3, 0x0C, 1, 0x28, [9] = 64);
	good(run, 14);
	assert_memory_equal(data_in, "\0\3\0\x0a\x28\x18\xff\xff\xff\xff\0\xff"
			    "\xff\0", 14);
	RUN(run, NULL, 0, 0xA3, 0x0C, 2, 0x5F, 0, 5, [9] = 64);
	good(run, 14);
	assert_memory_equal(data_in + 4, "\x5f\5\xff", 3);
	RUN(run, NULL, 0, 0xA3, 0x0C, 1, 0xC1, [9] = 64);
	assert_int_equal(data_in[1], 1);
	RUN(run, NULL, 0, 0xA3, 0x0C, 3, 0x28, 0, 1, [9] = 64);
	assert_int_equal(data_in[1], 1);
	RUN(run, NULL, 0, 0xA3, 0x0C, 0x83, 0x9E, 0, 0x12, [9] = 64);
	good(run, 4 + 16 + 12);
}

/* ---- data -------------------------------------------------------------------------- */

static void test_write_and_read_back_in_every_form(void **test)
{
	static const uint8_t writes[][16] = {
		{ 0x0A, 0, 0, 8, 2 }, { 0x2A, [5] = 8, [8] = 2 },
		{ 0xAA, [5] = 8, [9] = 2 }, { 0x8A, [9] = 8, [13] = 2 },
		{ 0x2E, [5] = 8, [8] = 2 }, { 0xAE, [5] = 8, [9] = 2 },
		{ 0x8E, [9] = 8, [13] = 2 },
	};
	static const uint8_t reads[][16] = {
		{ 0x08, 0, 0, 8, 2 }, { 0x28, [5] = 8, [8] = 2 },
		{ 0xA8, [5] = 8, [9] = 2 }, { 0x88, [9] = 8, [13] = 2 },
	};
	struct run *run = *test;
	uint8_t out[1024];
	size_t i = 0;
	size_t k = 0;

	for (i = 0; i < 7; i++) {
		unsigned before = run->disk->throughs;

		memset(out, (int)i + 1, sizeof(out));
		run_cdb(run, writes[i], 16, out, sizeof(out));
		good(run, 0);
		assert_int_equal(run->disk->throughs - before, i >= 4 ? 1 : 0);
		assert_int_equal(run->disk->bytes[8 * 512 - 1], 0);
		assert_int_equal(run->disk->bytes[10 * 512], 0);
		for (k = 0; k < 4; k++) {
			run_cdb(run, reads[k], 16, NULL, 0);
			good(run, 1024);
			assert_memory_equal(data_in, out, 1024);
		}
	}
	RUN(run, out, 1024, 0x2A, 0x08, [5] = 8, [8] = 2);
	assert_int_equal(run->disk->throughs, 4);
	run->disk->disk.geometry.write_cache = false;
	RUN(run, out, 1024, 0x2A, 0, [5] = 8, [8] = 2);
	assert_int_equal(run->disk->throughs, 5);
	/* No blocks: no data, and good. */
	RUN(run, NULL, 0, 0x28, [4] = 0x10);
	good(run, 0);
}

static void test_verify_and_compare(void **test)
{
	struct run *run = *test;
	uint8_t out[1024];

	memset(out, 7, sizeof(out));
	RUN(run, out, 1024, 0x2A, [8] = 2);
	RUN(run, out, 1024, 0x2F, 2, [8] = 2);
	good(run, 0);
	RUN(run, out, 512, 0x2F, 6, [8] = 2);
	good(run, 0);
	out[700] = 8;
	RUN(run, out, 1024, 0x2F, 2, [8] = 2);
	sense(run, SCSI_SENSE_MISCOMPARE);
	assert_int_equal(run->c.result.sense[0], 0xF0);
	assert_int_equal(scsi_get32(run->c.result.sense + 3), 700);
	RUN(run, NULL, 0, 0x2F, 0, [8] = 2);
	good(run, 0);
}

static void test_compare_and_write(void **test)
{
	struct run *run = *test;
	uint8_t out[1024] = {};

	memset(out + 512, 9, 512);
	RUN(run, out, 1024, 0x89, [9] = 3, [13] = 1);
	good(run, 0);
	assert_int_equal(run->disk->bytes[3 * 512], 9);
	assert_int_equal(run->disk->bytes[4 * 512], 0);
	RUN(run, out, 1024, 0x89, [9] = 3, [13] = 1);
	sense(run, SCSI_SENSE_MISCOMPARE);
	assert_int_equal(run->disk->writes, 1);
	/* The range was not to be had. */
	run->disk->fail = -EBUSY;
	RUN(run, out, 1024, 0x89, [9] = 4, [13] = 1);
	assert_int_equal(run->c.result.status, SCSI_BUSY);
	assert_int_equal(run->c.result.sense_length, 0);
	assert_int_equal(run->disk->writes, 1);
	run->disk->disk.geometry.compare_and_write = false;
	RUN(run, out, 1024, 0x89, [9] = 3, [13] = 1);
	sense(run, SCSI_SENSE_OPCODE);
	RUN(run, NULL, 0, 0x12, 1, 0xB0, 0, 255);
	assert_int_equal(data_in[5], 0);
}

static void test_write_same(void **test)
{
	struct run *run = *test;
	uint8_t out[512];

	memset(out, 3, sizeof(out));
	RUN(run, out, 512, 0x41, [5] = 2, [7] = 0x0C);	/* 3072 blocks */
	good(run, 0);
	assert_int_equal(run->disk->writes, 2);
	assert_int_equal(run->disk->bytes[2 * 512 - 1], 0);
	assert_int_equal(run->disk->bytes[2 * 512], 3);
	assert_int_equal(run->disk->bytes[3074 * 512 - 1], 3);
	assert_int_equal(run->disk->bytes[3074 * 512], 0);
	/* UNMAP with data that is not zero writes it. */
	RUN(run, out, 512, 0x93, 0x08, [9] = 2, [13] = 4);
	good(run, 0);
	assert_int_equal(run->disk->unmaps, 0);
	memset(out, 0, sizeof(out));
	RUN(run, out, 512, 0x93, 0x08, [9] = 2, [13] = 4);
	good(run, 0);
	assert_int_equal(run->disk->unmaps, 1);
	RUN(run, NULL, 0, 0x93, 0x09, [9] = 6, [13] = 4);
	good(run, 0);
	assert_int_equal(run->disk->unmaps, 2);
	assert_int_equal(run->disk->bytes[9 * 512], 0);
	/* Where unmapped blocks need not read as zero, zeroes are written. */
	run->disk->disk.geometry.unmapped_zero = false;
	RUN(run, NULL, 0, 0x93, 0x09, [9] = 10, [13] = 4);
	good(run, 0);
	assert_int_equal(run->disk->unmaps, 2);
	assert_int_equal(run->disk->bytes[10 * 512], 0);
}

static void test_unmap_is_checked_as_a_whole(void **test)
{
	struct run *run = *test;
	uint8_t list[40] = {};

	scsi_put16(list, 38);
	scsi_put16(list + 2, 32);
	scsi_put64(list + 8, 8);
	scsi_put32(list + 16, 8);
	scsi_put64(list + 24, 4090);
	scsi_put32(list + 32, 7);
	memset(run->disk->bytes, 1, 65536);
	RUN(run, list, 40, 0x42, [8] = 40);
	sense(run, SCSI_SENSE_RANGE);
	assert_int_equal(run->disk->unmaps, 0);
	scsi_put32(list + 32, 0);
	RUN(run, list, 40, 0x42, [8] = 40);
	good(run, 0);
	assert_int_equal(run->disk->unmaps, 1);
	assert_int_equal(run->disk->bytes[8 * 512], 0);
	assert_int_equal(run->disk->bytes[16 * 512], 1);
	RUN(run, NULL, 0, 0x42);
	good(run, 0);
	scsi_put16(list + 2, 48);
	RUN(run, list, 40, 0x42, [8] = 40);
	sense(run, SCSI_SENSE_LIST_LENGTH);
	scsi_put16(list + 2, 17);
	RUN(run, list, 40, 0x42, [8] = 40);
	sense(run, SCSI_SENSE_LIST);
}

static void test_lba_status_is_true(void **test)
{
	struct run *run = *test;
	uint8_t out[4096] = {};

	RUN(run, out, 4096, 0x2A, [5] = 16, [8] = 8);
	RUN(run, NULL, 0, 0x9E, 0x12, [12] = 1);
	good(run, 8 + 3 * 16);
	assert_int_equal(scsi_get32(data_in), 4 + 3 * 16);
	assert_int_equal(scsi_get64(data_in + 8), 0);
	assert_int_equal(scsi_get32(data_in + 16), 16);
	assert_int_equal(data_in[20], 1);
	assert_int_equal(scsi_get64(data_in + 24), 16);
	assert_int_equal(scsi_get32(data_in + 32), 8);
	assert_int_equal(data_in[36], 0);
	assert_int_equal(scsi_get64(data_in + 40), 24);
	assert_int_equal(scsi_get32(data_in + 48), 4096 - 24);
	RUN(run, NULL, 0, 0x9E, 0x12, [9] = 20, [13] = 24);
	good(run, 24);
	assert_int_equal(scsi_get64(data_in + 8), 20);
	assert_int_equal(scsi_get32(data_in + 16), 4);
}

static void test_failures_of_the_disk_become_sense(void **test)
{
	static const struct {
		int error;
		uint8_t opcode;
		enum scsi_sense sense;
	} cases[] = {
		{ -EIO, 0x28, SCSI_SENSE_READ_ERROR },
		{ -EIO, 0x2A, SCSI_SENSE_WRITE_ERROR },
		{ -ENOSPC, 0x2A, SCSI_SENSE_SPACE },
		{ -EROFS, 0x2A, SCSI_SENSE_PROTECTED },
		{ -ENOMEM, 0x28, SCSI_SENSE_INTERNAL },
		{ -ECANCELED, 0x2A, SCSI_SENSE_ABORTED },
	};
	struct run *run = *test;
	uint8_t out[512] = {};
	size_t i = 0;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		run->disk->fail = cases[i].error;
		RUN(run, out, 512, cases[i].opcode, [5] = 33, [8] = 1);
		sense(run, cases[i].sense);
		assert_int_equal(run->c.result.sense[0], 0xF0);
		assert_int_equal(run->c.result.sense[6], 33);
	}
	/* A lock taken is given back. */
	run->disk->fail = 0;
	memset(run->disk->bytes, 1, 512);
	RUN(run, out, 0, 0x35);
	assert_int_equal(run->disk->flushes, 1);
	RUN(run, NULL, 0, 0x1B, 0, 0, 0, 0);
	assert_int_equal(run->disk->flushes, 2);
	RUN(run, NULL, 0, 0x1B, 0, 0, 0, 1);
	assert_int_equal(run->disk->flushes, 2);
}

#define T(test) cmocka_unit_test_setup_teardown(test, start, finish)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_refusals_have_their_sense_and_touch_nothing),
		T(test_a_protected_disk_takes_no_writes),
		T(test_inquiry),
		T(test_identification_page),
		T(test_limits_and_provisioning),
		T(test_read_capacity),
		T(test_mode_pages),
		T(test_request_sense_shows_the_attention),
		T(test_report_luns_and_opcodes),
		T(test_write_and_read_back_in_every_form),
		T(test_verify_and_compare),
		T(test_compare_and_write),
		T(test_write_same),
		T(test_unmap_is_checked_as_a_whole),
		T(test_lba_status_is_true),
		T(test_failures_of_the_disk_become_sense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
