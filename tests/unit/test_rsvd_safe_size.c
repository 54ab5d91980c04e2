/*
 * The safe size of a disk, of tables put together here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "rsvd/safe_size.h"

#define SIZE (1ULL << 30)

static uint8_t head[RSVD_SAFE_SIZE_HEAD];

static void put32(uint8_t *p, uint32_t v)
{
	int i = 0;

	for (i = 0; i < 4; i++) {
		p[i] = (uint8_t)(v >> 8 * i);
	}
}

static void mbr(int i, uint8_t type, uint32_t begin, uint32_t count)
{
	head[510] = 0x55;
	head[511] = 0xAA;
	head[446 + 16 * i + 4] = type;
	put32(head + 446 + 16 * i + 8, begin);
	put32(head + 446 + 16 * i + 12, count);
}

static uint32_t crc(const uint8_t *bytes, size_t length)
{
	uint32_t c = ~0U;
	size_t i = 0;

	for (i = 0; i < 8 * length; i++) {
		c = c >> 1 ^ (((c ^ bytes[i / 8] >> i % 8) & 1) ?
			      0xEDB88320U : 0);
	}
	return ~c;
}

static void gpt(uint32_t sector, uint32_t last)
{
	uint8_t *h = head + sector;

	mbr(0, 0xEE, 1, 0xFFFFFFFF);
	memcpy(h, "EFI PART", 8);
	put32(h + 12, 92);
	put32(h + 72, 2);
	put32(h + 80, 128);
	put32(h + 84, 128);
	if (last > 0) {
		head[2 * sector + 128] = 0xAF;
		put32(head + 2 * sector + 128 + 32, 2048);
		put32(head + 2 * sector + 128 + 40, last);
	}
	put32(h + 88, crc(head + 2 * sector, 128 * 128));
	put32(h + 16, 0);
	put32(h + 16, crc(h, 92));
}

static int clear(void **test)
{
	(void)test;
	memset(head, 0, sizeof(head));
	return 0;
}

static uint64_t safe(uint32_t sector)
{
	return rsvd_safe_size(head, sizeof(head), sector, SIZE);
}

static void test_unknown_content_is_all_needed(void **test)
{
	(void)test;
	assert_int_equal(SIZE, safe(512));
	mbr(0, 0, 0, 0);
	assert_int_equal(SIZE, safe(512));
	assert_int_equal(SIZE, rsvd_safe_size(head, 511, 512, SIZE));
}

static void test_mbr_ends_with_its_last_partition(void **test)
{
	(void)test;
	mbr(1, 7, 4096, 1000);
	mbr(0, 0x0F, 100, 200);
	assert_int_equal(5096 * 512, safe(512));
	mbr(2, 7, 0xFFFFFFFF, 0xFFFFFFFF);
	assert_int_equal(SIZE, safe(512));
}

static void test_gpt_keeps_room_for_its_second_table(void **test)
{
	(void)test;
	gpt(512, 10000 - 1);
	assert_int_equal((10000 + 33) * 512, safe(512));
	/* The word of the disk's owner stands, but not past its end. */
	clear(NULL);
	gpt(512, (uint32_t)(SIZE / 512) - 5);
	assert_int_equal(SIZE, safe(512));
	clear(NULL);
	gpt(512, 0);
	assert_int_equal((34 + 33) * 512, safe(512));
	clear(NULL);
	gpt(4096, 1000 - 1);
	assert_int_equal((1000 + 5) * 4096, safe(4096));
}

static void test_a_damaged_gpt_is_not_believed(void **test)
{
	(void)test;
	gpt(512, 9999);
	head[1024 + 128 + 41] ^= 1;
	assert_int_equal(SIZE, safe(512));
	head[1024 + 128 + 41] ^= 1;
	head[512 + 30] ^= 1;
	assert_int_equal(SIZE, safe(512));
	head[512 + 30] ^= 1;
	assert_int_not_equal(SIZE, safe(512));
	assert_int_equal(SIZE, rsvd_safe_size(head, 1024 + 128 * 128 - 1, 512,
					      SIZE));
}

#define T(f) cmocka_unit_test_setup(f, clear)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_unknown_content_is_all_needed),
		T(test_mbr_ends_with_its_last_partition),
		T(test_gpt_keeps_room_for_its_second_table),
		T(test_a_damaged_gpt_is_not_believed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
