/* CRC-32C by the SSE 4.2 instruction, or eight bytes at a time by tables. */
#include "util/crc32c.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#define POLYNOMIAL 0x82F63B78u

static uint32_t tables[8][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void tables_fill(void)
{
	uint32_t i = 0;
	int k = 0;

	for (i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (k = 0; k < 8; k++) {
			crc = crc >> 1 ^ ((crc & 1) != 0 ? POLYNOMIAL : 0);
		}
		tables[0][i] = crc;
	}
	for (i = 0; i < 256; i++) {
		for (k = 1; k < 8; k++) {
			uint32_t before = tables[k - 1][i];

			tables[k][i] = before >> 8 ^ tables[0][before & 0xFF];
		}
	}
}

static uint32_t load_le32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
	       (uint32_t)p[3] << 24;
}

uint32_t crc32c_more_portable(uint32_t crc, const void *bytes, size_t length)
{
	const uint8_t *p = bytes;

	pthread_once(&tables_once, tables_fill);
	crc = ~crc;
	while (length >= 8) {
		uint32_t low = crc ^ load_le32(p);
		uint32_t high = load_le32(p + 4);

		crc = tables[7][low & 0xFF] ^ tables[6][low >> 8 & 0xFF] ^
		      tables[5][low >> 16 & 0xFF] ^ tables[4][low >> 24] ^
		      tables[3][high & 0xFF] ^ tables[2][high >> 8 & 0xFF] ^
		      tables[1][high >> 16 & 0xFF] ^ tables[0][high >> 24];
		p += 8;
		length -= 8;
	}
	while (length > 0) {
		crc = crc >> 8 ^ tables[0][(crc ^ *p) & 0xFF];
		p++;
		length--;
	}
	return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2")))
static uint32_t more_sse42(uint32_t crc, const uint8_t *p, size_t length)
{
	uint64_t wide = (uint32_t)~crc;

	while (length >= 8) {
		uint64_t word = 0;

		memcpy(&word, p, 8);
		wide = __builtin_ia32_crc32di(wide, word);
		p += 8;
		length -= 8;
	}
	crc = (uint32_t)wide;
	while (length > 0) {
		crc = __builtin_ia32_crc32qi(crc, *p);
		p++;
		length--;
	}
	return ~crc;
}
#endif

uint32_t crc32c_more(uint32_t crc, const void *bytes, size_t length)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2")) {
		return more_sse42(crc, bytes, length);
	}
#endif
	return crc32c_more_portable(crc, bytes, length);
}

uint32_t crc32c(const void *bytes, size_t length)
{
	return crc32c_more(0, bytes, length);
}
