/*
 * The bytes of MS-RSVD: contexts, headers, bodies, the ring of errors, and the
 * record of a disk.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "rsvd/rsvd.h"

static void context_bytes(uint8_t out[192])
{
	memset(out, 0, 192);
	out[0] = 1;
	out[4] = 1;
	memset(out + 8, 0xAB, 16);
	out[24] = 5;
	out[28] = 1;
	out[32] = 9;
	out[40] = 4;
	memcpy(out + 42, "A\0B\0", 4);
}

static void test_context_is_refused_in_the_order_of_the_document(void **test)
{
	static const struct {
		size_t length;
		size_t at;
		uint8_t value;
		uint32_t server;
		int result;
	} rows[] = {
		{ 168, 0, 1, 1, 0 }, { 167, 0, 1, 1, -EMSGSIZE },
		{ 0, 0, 1, 1, -EMSGSIZE }, { 192, 0, 2, 2, 0 },
		{ 191, 0, 2, 2, -EMSGSIZE }, { 168, 0, 2, 2, -EMSGSIZE },
		{ 168, 0, 2, 1, -EINVAL }, { 192, 0, 3, 2, -EINVAL },
		{ 168, 0, 0, 2, -EINVAL }, { 168, 4, 2, 1, -EINVAL },
		{ 168, 4, 0, 1, 0 }, { 168, 40, 126, 1, 0 },
		{ 168, 40, 127, 1, -EINVAL }, { 168, 41, 1, 1, -EINVAL },
		/* Short and of a bad version: short comes first. */
		{ 167, 0, 7, 2, -EMSGSIZE },
	};
	struct rsvd_context c = {};
	size_t i = 0;

	(void)test;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t bytes[192];

		context_bytes(bytes);
		bytes[rows[i].at] = rows[i].value;
		assert_int_equal(rsvd_context_decode(bytes, rows[i].length,
						     rows[i].server, &c),
				 rows[i].result);
	}
}

static void test_context_comes_back_as_it_was(void **test)
{
	const struct rsvd_properties p = { 2, 512, 4096, 0x40000000 };
	struct rsvd_context c = {};
	uint8_t bytes[192];
	uint8_t out[192];

	(void)test;
	context_bytes(bytes);
	assert_int_equal(rsvd_context_decode(bytes, 168, 1, &c), 0);
	assert_true(c.has_initiator);
	assert_int_equal(c.request_id, 9);
	assert_int_equal(rsvd_context_encode(&c, &p, out), 168);
	assert_memory_equal(bytes, out, 168);
	bytes[0] = 2;
	assert_int_equal(rsvd_context_decode(bytes, 192, 2, &c), 0);
	assert_int_equal(rsvd_context_encode(&c, &p, out), 192);
	assert_memory_equal(out + 168, "\1\0\0\0\2\0\0\0\0\2\0\0\0\x10\0\0"
			    "\0\0\0\x40\0\0\0\0", 24);
}

/* rsvd.md section 15, the request that the test client sends */
static const uint8_t read_capacity[44] = {
	0x24, 0, 0, 0, 0x10, 0x14, 0x01, 0, 0x4a, 0x01, 0x20, 0, 8, 0, 0, 0,
	0x25,
};

static void test_scsi_as_the_worked_bytes_have_it(void **test)
{
	static const uint8_t answer[36] = {
		0x24, 0, 1, 0, 0x10, 0x14, 0x01, 0, 0x4a, 0x01, 0x20, 0,
		8, 0, 0, 0,
	};
	static const uint8_t conflict[16] = {
		0x24, 0, 4, 0x18, 0x0a, 0x14, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0,
	};
	struct rsvd_scsi r = {};
	struct scsi_result result = { .length = 8 };
	uint8_t out[36];

	(void)test;
	assert_int_equal(rsvd_scsi_decode(read_capacity, 44, &r), 0);
	assert_int_equal(r.transfer, 8);
	assert_int_equal(r.data_length, 0);
	assert_int_equal(r.cdb[0], 0x25);
	rsvd_scsi_encode(&r, &result, out);
	assert_memory_equal(out, answer, 36);
	r = (struct rsvd_scsi) { .cdb_length = 10, .srb_flags = 0x80 };
	scsi_result_status(&result, SCSI_CONFLICT);
	rsvd_scsi_encode(&r, &result, out);
	assert_memory_equal(out, conflict, 16);
	scsi_result_sense(&result, SCSI_SENSE_CDB);
	assert_int_equal(rsvd_srb_status(&result), 0x86);
	scsi_result_sense(&result, SCSI_SENSE_CAPACITY_CHANGED);
	assert_int_equal(rsvd_srb_status(&result), 0x84);
	rsvd_scsi_encode(&r, &result, out);
	assert_memory_equal(out + 16, result.sense, 18);
	assert_int_equal(out[34], 0);
	scsi_result_status(&result, SCSI_TASK_ABORTED);
	assert_int_equal(rsvd_srb_status(&result), 0x02);
}

static void test_scsi_bodies_that_are_refused(void **test)
{
	struct rsvd_scsi r = {};
	uint8_t body[36 + 512] = {};

	(void)test;
	memcpy(body, read_capacity, 36);
	assert_int_equal(rsvd_scsi_decode(body, 35, &r), -EMSGSIZE);
	body[0] = 0x23;
	assert_int_equal(rsvd_scsi_decode(body, 36, &r), -EINVAL);
	body[0] = 0x24;
	body[4] = 17;
	assert_int_equal(rsvd_scsi_decode(body, 36, &r), -EINVAL);
	body[4] = 16;
	body[5] = 21;
	assert_int_equal(rsvd_scsi_decode(body, 36, &r), -EINVAL);
	body[5] = 0;
	assert_int_equal(rsvd_scsi_decode(body, 36, &r), 0);
	/* WRITE(10) has its data with it, whatever the disposition says. */
	body[16] = 0x2A;
	body[12] = 0;
	body[13] = 2;
	assert_int_equal(rsvd_scsi_decode(body, 36 + 511, &r), -EINVAL);
	assert_int_equal(rsvd_scsi_decode(body, 36 + 512, &r), 0);
	assert_int_equal(r.data_length, 512);
	body[15] = 0xFF;
	assert_int_equal(rsvd_scsi_decode(body, 36 + 512, &r), -EINVAL);
}

static void test_keys_of_the_ring(void **test)
{
	static struct rsvd_ring ring;
	struct scsi_result result = {};
	uint8_t out[24];
	unsigned i = 0;

	(void)test;
	memset(&ring, 0, sizeof(ring));
	scsi_result_sense(&result, SCSI_SENSE_RANGE);
	assert_int_equal(rsvd_ring_show(&ring, 0, out), -ENOENT);
	assert_int_equal(rsvd_ring_store_result(&ring, &result), 1);
	assert_int_equal(rsvd_ring_show(&ring, 1, out), 0);
	assert_memory_equal(out, "\1\x86\2\x14\x70\0\5", 7);
	assert_int_equal(rsvd_ring_show(&ring, 1, out), 0);
	for (i = 2; i < 256; i++) {
		assert_int_equal(rsvd_ring_store_result(&ring, &result), i);
	}
	assert_int_equal(rsvd_ring_show(&ring, 0, out), -ENOENT);
	assert_int_equal(rsvd_ring_store_result(&ring, &result), 0);
	assert_int_equal(rsvd_ring_show(&ring, 0, out), 0);
	assert_int_equal(rsvd_ring_store_result(&ring, &result), 1);
}

static void test_statuses_of_attentions(void **test)
{
	(void)test;
	assert_int_equal(rsvd_attention_status(SCSI_SENSE_CAPACITY_CHANGED),
			 0xC05CFF02);
	assert_int_equal(rsvd_attention_status(
				 SCSI_SENSE_RESERVATIONS_PREEMPTED),
			 0xC05CFF03);
	assert_int_equal(rsvd_attention_status(
				 SCSI_SENSE_RESERVATIONS_RELEASED),
			 0xC05CFF04);
	assert_int_equal(rsvd_attention_status(
				 SCSI_SENSE_REGISTRATIONS_PREEMPTED),
			 0xC05CFF05);
	assert_int_equal(rsvd_attention_status(SCSI_SENSE_DEFINITION_CHANGED),
			 0xC05CFF06);
	assert_int_equal(rsvd_attention_status(SCSI_SENSE_MODE_CHANGED),
			 0xC05CFF01);
}

static void test_the_record_comes_back(void **test)
{
	TALLOC_CTX *mem = talloc_new(NULL);
	struct rsvd_record *r = rsvd_record_create(mem);
	struct rsvd_record *back = NULL;
	struct rsvd_record_open open = {
		.pid = 7, .vnn = 1, .task = 2, .unique = 3, .open_id = 4,
		.slot = 5, .persistent = true, .has_initiator = true,
		.initiator = { { 9 } }, .host = "node1",
	};
	uint8_t *bytes = NULL;
	size_t length = 0;
	size_t i = 0;
	const char *why = NULL;

	(void)test;
	r->path = talloc_strdup(r, "/srv/disk.vhdx");
	r->disk_size = 1 << 30;
	r->block = (struct rsvd_block) {
		.active = true, .until_ms = 12345, .time_ms = 700,
	};
	r->making.flags = 3;
	assert_int_equal(rsvd_record_open_add(r, &open), 0);
	open.initiator.bytes[0] = 8;
	assert_int_equal(rsvd_record_open_add(r, &open), 0);
	open.has_initiator = false;
	assert_int_equal(rsvd_record_open_add(r, &open), 0);
	assert_int_equal(r->pr.nexus_count, 2);
	assert_int_equal(rsvd_record_encode(mem, r, &bytes, &length), 0);
	assert_int_equal(rsvd_record_decode(mem, bytes, length, &back, &why),
			 0);
	assert_string_equal(back->path, "/srv/disk.vhdx");
	assert_int_equal(back->open_count, 3);
	assert_memory_equal(back->opens, r->opens, 3 * sizeof(open));
	assert_true(back->block.active);
	assert_int_equal(back->block.until_ms, 12345);
	assert_int_equal(back->block.time_ms, 700);
	assert_int_equal(back->making.flags, 3);
	assert_int_equal(back->pr.nexus_count, 2);
	rsvd_record_open_remove(back, 0);
	assert_int_equal(back->pr.nexus_count, 1);
	rsvd_record_open_remove(back, 1);
	assert_int_equal(back->pr.nexus_count, 1);
	for (i = 0; i < length; i++) {
		assert_int_not_equal(rsvd_record_decode(mem, bytes, i, &back,
							&why), 0);
	}
	bytes[4] = 99;
	assert_int_equal(rsvd_record_decode(mem, bytes, length, &back, &why),
			 -EPROTONOSUPPORT);
	bytes[0] ^= 1;
	assert_int_equal(rsvd_record_decode(mem, bytes, length, &back, &why),
			 -EINVAL);
	talloc_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_context_is_refused_in_the_order_of_the_document),
		cmocka_unit_test(test_context_comes_back_as_it_was),
		cmocka_unit_test(test_scsi_as_the_worked_bytes_have_it),
		cmocka_unit_test(test_scsi_bodies_that_are_refused),
		cmocka_unit_test(test_keys_of_the_ring),
		cmocka_unit_test(test_statuses_of_attentions),
		cmocka_unit_test(test_the_record_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
