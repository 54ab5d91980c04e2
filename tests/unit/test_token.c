/* Offload data transfer: tokens, requests, plans and records. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <talloc.h>

#include "token/token.h"
#include "util/cursor.h"

static void test_a_token_is_read_as_it_was_written(void **state)
{
	struct token_id id = {};
	struct token_id again = {};
	uint8_t bytes[TOKEN_SIZE] = {};
	size_t i = 0;

	(void)state;
	assert_int_equal(token_new(&id), 0);
	token_encode(&id, bytes);
	assert_int_equal(token_decode(bytes, &again), TOKEN_OURS);
	assert_memory_equal(&id, &again, sizeof(id));
	/* Any bit changed: it is not ours, or it is not this one. */
	for (i = 0; i < TOKEN_SIZE * 8; i++) {
		enum token_kind kind = TOKEN_OTHER;

		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		kind = token_decode(bytes, &again);
		assert_true(kind == TOKEN_OTHER ||
			    memcmp(&id, &again, sizeof(id)) != 0);
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
}

static void test_the_zero_token(void **state)
{
	struct token_id id = {};
	uint8_t bytes[TOKEN_SIZE] = {};

	(void)state;
	token_encode_zero(bytes);
	assert_memory_equal(bytes, "\xff\xff\x00\x01\x00\x00\x01\xf8", 8);
	assert_int_equal(token_decode(bytes, &id), TOKEN_ZERO);
	/* What is behind the type does not count. */
	memset(bytes + 4, 0x5A, TOKEN_SIZE - 4);
	assert_int_equal(token_decode(bytes, &id), TOKEN_ZERO);
	bytes[3] = 2;
	assert_int_equal(token_decode(bytes, &id), TOKEN_OTHER);
}

static void test_two_tokens_are_never_the_same(void **state)
{
	struct token_id a = {};
	struct token_id b = {};

	(void)state;
	assert_int_equal(token_new(&a), 0);
	assert_int_equal(token_new(&b), 0);
	assert_false(token_equal(&a, &b));
	assert_true(token_equal(&a, &a));
	b = a;
	b.secret[TOKEN_SECRET_SIZE - 1] ^= 0x80;
	assert_false(token_equal(&a, &b));
}

static const struct {
	uint64_t offset, length, size;
	int ret;
	uint64_t clipped;
} reads[] = {
	{ 0, 4096, 65536, 0, 4096 },
	{ 0, 1 << 20, 65536, 0, 65536 },
	{ 0, 1 << 20, 65537, 0, 66048 },
	{ 65024, 512, 65536, 0, 512 },
	{ 65536, 512, 65536, -ENODATA, 0 },
	{ 65536, 512, 65537, 0, 512 },
	{ 66048, 512, 65537, -ENODATA, 0 },
	{ 0, 0, 65536, 0, 0 },
	{ 0, 0, 0, 0, 0 },
	{ 0, 512, 511, -EINVAL, 0 },
	{ 0, 512, 0, -EINVAL, 0 },
};

static void test_reads_are_clipped_to_the_last_sector(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(reads) / sizeof(reads[0]); i++) {
		struct offload_read read = { .offset = reads[i].offset,
					     .length = reads[i].length };
		uint64_t length = 77;

		assert_int_equal(offload_read_plan(&read, reads[i].size,
						   &length), reads[i].ret);
		assert_int_equal(length, reads[i].ret == 0 ? reads[i].clipped
							   : 77);
	}
}

static const struct {
	uint64_t offset, length, from, size, token;
	bool extends;
	int ret;
	uint64_t written, told;
} writes[] = {
	{ 0, 4096, 0, 65536, 4096, false, 0, 4096, 4096 },
	{ 0, 4096, 0, 65536, 1024, false, 0, 1024, 1024 },
	{ 0, 4096, 0, 511, 4096, true, -EINVAL, 0, 0 },
	{ 0, 0, 0, 511, 4096, true, 0, 0, 0 },
	{ 0, 4096, 0, 0, 4096, true, 0, 4096, 4096 },
	{ 0, 4096, 0, 0, 4096, false, -ENODATA, 0, 0 },
	{ 0, 4096, 512, 65536, 1024, false, 0, 512, 512 },
	{ 0, 4096, 1024, 65536, 1024, false, -EKEYREJECTED, 0, 0 },
	{ 65024, 4096, 0, 65536, 4096, false, 0, 512, 512 },
	{ 65536, 4096, 0, 65536, 4096, false, -ENODATA, 0, 0 },
	{ 65536, 4096, 0, 65536, 4096, true, 0, 4096, 4096 },
	{ 66048, 4096, 0, 65536, 4096, true, -ENODATA, 0, 0 },
	{ 65536, 4096, 0, 65540, 4096, false, 0, 4, 512 },
	{ 0, 1 << 20, 0, 1000, 1 << 20, false, 0, 1000, 1024 },
	{ 0, 0, 0, 0, 0, false, 0, 0, 0 },
	{ 0, 512, 0, 0, 512, true, 0, 512, 512 },
	{ 0, 512, 0, 0, 512, false, -ENODATA, 0, 0 },
};

static void test_writes_are_clipped_to_file_and_token(void **state)
{
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
		struct offload_write write = {
			.offset = writes[i].offset,
			.length = writes[i].length, .from = writes[i].from,
		};
		struct offload_write_plan plan = {};

		assert_int_equal(offload_write_plan(
			&write, writes[i].size, writes[i].token,
			writes[i].extends, &plan), writes[i].ret);
		assert_int_equal(plan.length, writes[i].written);
		assert_int_equal(plan.told, writes[i].told);
	}
}

static void test_requests_are_decoded_whole_or_not(void **state)
{
	uint8_t in[600] = {};
	struct cursor_put put = {};
	struct offload_read read = {};
	struct offload_write write = {};
	size_t i = 0;

	(void)state;
	cursor_put_init(&put, in, sizeof(in));
	cursor_put_le32(&put, OFFLOAD_READ_IN);
	cursor_put_le32(&put, 0);
	cursor_put_le32(&put, 5000);
	cursor_put_le32(&put, 0);
	cursor_put_le64(&put, 1024);
	cursor_put_le64(&put, 4096);
	for (i = 0; i < 40; i++) {
		assert_int_equal(offload_read_decode(in, i, 528, &read),
				 i < 32 ? -EMSGSIZE : 0);
	}
	assert_int_equal(read.offset, 1024);
	assert_int_equal(read.length, 4096);
	assert_int_equal(read.lifetime_ms, 5000);
	assert_int_equal(offload_read_decode(in, 32, 527, &read), -EMSGSIZE);
	in[0] = 33;
	assert_int_equal(offload_read_decode(in, 32, 528, &read), -EINVAL);
	memset(in, 0, sizeof(in));
	cursor_put_init(&put, in, sizeof(in));
	cursor_put_le32(&put, OFFLOAD_WRITE_IN);
	for (i = 0; i < 600; i++) {
		assert_int_equal(offload_write_decode(in, i, 16, &write),
				 i < 544 ? -EMSGSIZE : 0);
	}
	assert_ptr_equal(write.token, in + 32);
	assert_int_equal(offload_write_decode(in, 544, 15, &write),
			 -EMSGSIZE);
	in[24] = 1;
	assert_int_equal(offload_write_decode(in, 544, 16, &write), -EINVAL);
}

static void test_a_record_is_stored_and_its_damage_seen(void **state)
{
	struct token_record record = {
		.pinned = true, .created_ms = 5, .expires_ms = 10,
		.offset = 512, .length = 4096, .process = 77, .started = 88,
		.descriptor = 9,
		.stamp = { 1, 2, 3, -4, 5, 6, 7 },
		.leased = true, .source = 10, .source_inode = 11,
		.user = "S-1-5-21-1", .name = "vm: disk.vhdx",
		.path = "/shared/vm/.hvrs-tokens/x-9",
	};
	struct token_record again = {};
	uint8_t *bytes = NULL;
	size_t length = 0;
	size_t i = 0;

	(void)state;
	assert_int_equal(token_new(&record.id), 0);
	assert_int_equal(token_record_encode(NULL, &record, &bytes, &length),
			 0);
	assert_int_equal(token_record_decode(bytes, length, &again), 0);
	assert_memory_equal(&record, &again, sizeof(record));
	for (i = 0; i < length; i++) {
		assert_true(token_record_decode(bytes, i, &again) != 0);
	}
	for (i = 0; i < length * 8; i++) {
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_true(token_record_decode(bytes, length, &again) != 0);
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	bytes[4] = 1;
	assert_int_equal(token_record_decode(bytes, length, &again),
			 -EPROTONOSUPPORT);
	talloc_free(bytes);
}

static void test_a_record_is_for_its_user_and_its_time(void **state)
{
	struct token_record record = { .expires_ms = 100, .user = "me" };
	struct token_id other = {};

	(void)state;
	assert_int_equal(token_record_check(&record, &record.id, "me", 99),
			 0);
	assert_int_equal(token_record_check(&record, &record.id, "me", 100),
			 -EKEYREJECTED);
	assert_int_equal(token_record_check(&record, &record.id, "you", 99),
			 -EKEYREJECTED);
	record.bearer = true;
	assert_int_equal(token_record_check(&record, &record.id, "you", 99),
			 0);
	other.secret[0] = 1;
	assert_int_equal(token_record_check(&record, &other, "me", 99),
			 -EKEYREJECTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_token_is_read_as_it_was_written),
		cmocka_unit_test(test_the_zero_token),
		cmocka_unit_test(test_two_tokens_are_never_the_same),
		cmocka_unit_test(test_reads_are_clipped_to_the_last_sector),
		cmocka_unit_test(test_writes_are_clipped_to_file_and_token),
		cmocka_unit_test(test_requests_are_decoded_whole_or_not),
		cmocka_unit_test(test_a_record_is_stored_and_its_damage_seen),
		cmocka_unit_test(test_a_record_is_for_its_user_and_its_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
