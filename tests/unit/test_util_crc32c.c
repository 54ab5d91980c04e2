/* CRC-32C: the published vectors, and both ways of computing it agree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "util/crc32c.h"

/* RFC 3720 B.4, the byte strings of the iSCSI examples */
static void test_published_vectors(void **state)
{
	uint8_t bytes[32] = {};
	size_t i = 0;

	(void)state;
	assert_int_equal(crc32c("", 0), 0);
	assert_int_equal(crc32c("123456789", 9), 0xE3069283);
	assert_int_equal(crc32c(bytes, 32), 0x8A9136AA);
	memset(bytes, 0xFF, sizeof(bytes));
	assert_int_equal(crc32c(bytes, 32), 0x62A8AB43);
	for (i = 0; i < 32; i++) {
		bytes[i] = (uint8_t)i;
	}
	assert_int_equal(crc32c(bytes, 32), 0x46DD794E);
	for (i = 0; i < 32; i++) {
		bytes[i] = (uint8_t)(31 - i);
	}
	assert_int_equal(crc32c(bytes, 32), 0x113FDB5C);
}

static void test_instruction_and_tables_agree_at_every_length(void **state)
{
	uint8_t bytes[300];
	uint32_t seed = 1;
	size_t length = 0;
	size_t start = 0;
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(bytes); i++) {
		seed = seed * 1103515245 + 12345;
		bytes[i] = (uint8_t)(seed >> 16);
	}
	for (start = 0; start < 9; start++) {
		for (length = 0; length + start <= 290; length++) {
			assert_int_equal(
				crc32c_more(7, bytes + start, length),
				crc32c_more_portable(7, bytes + start,
						     length));
		}
	}
}

static void test_pieces_give_the_checksum_of_the_whole(void **state)
{
	static const char text[] = "the quick brown fox jumps over it";
	size_t cut = 0;

	(void)state;
	for (cut = 0; cut <= sizeof(text); cut++) {
		uint32_t crc = crc32c(text, cut);

		crc = crc32c_more(crc, text + cut, sizeof(text) - cut);
		assert_int_equal(crc, crc32c(text, sizeof(text)));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_published_vectors),
		cmocka_unit_test(
			test_instruction_and_tables_agree_at_every_length),
		cmocka_unit_test(test_pieces_give_the_checksum_of_the_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
