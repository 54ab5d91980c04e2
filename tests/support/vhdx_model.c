/* What a disk must hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "support/vhdx_model.h"

#include <cmocka.h>

#define CHUNK (1U << 20)

uint64_t model_draw(uint64_t *seed)
{
	uint64_t x = *seed += 0x9E3779B97F4A7C15ULL;

	x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ULL;
	x = (x ^ x >> 27) * 0x94D049BB133111EBULL;
	return x ^ x >> 31;
}

static void sector_fill(uint8_t *bytes, uint64_t number, uint32_t value)
{
	uint64_t words[MODEL_SECTOR / 8];
	size_t i = 0;

	for (i = 0; i < MODEL_SECTOR / 8; i++) {
		words[i] = value == 0 ? 0
				      : number * 0x9E3779B97F4A7C15ULL +
						((uint64_t)value << 32 | value);
	}
	memcpy(bytes, words, MODEL_SECTOR);
}

void model_fill(uint8_t *bytes, uint64_t offset, size_t length, uint32_t value)
{
	size_t at = 0;

	for (at = 0; at < length; at += MODEL_SECTOR) {
		sector_fill(bytes + at, (offset + at) / MODEL_SECTOR, value);
	}
}

uint32_t model_value(const uint8_t *bytes, uint64_t offset)
{
	uint64_t number = offset / MODEL_SECTOR;
	uint64_t word = 0;
	uint32_t value = 0;
	uint8_t whole[MODEL_SECTOR];

	memcpy(&word, bytes, 8);
	if (word != 0) {
		value = (uint32_t)(word - number * 0x9E3779B97F4A7C15ULL);
	}
	sector_fill(whole, number, value);
	return memcmp(whole, bytes, MODEL_SECTOR) == 0 ? value : UINT32_MAX;
}

struct model *model_new(TALLOC_CTX *mem_ctx, uint64_t size)
{
	struct model *m = talloc_zero(mem_ctx, struct model);

	assert_non_null(m);
	m->size = size;
	m->values = talloc_zero_array(m, uint32_t, size / MODEL_SECTOR);
	assert_non_null(m->values);
	return m;
}

void model_write(struct model *m, uint64_t offset, uint64_t length,
		 uint32_t value)
{
	uint64_t at = 0;

	for (at = offset; at < offset + length; at += MODEL_SECTOR) {
		m->values[at / MODEL_SECTOR] = value;
	}
}

void model_compare(const struct model *m, struct vhdx *disk,
		   struct tevent_context *ev)
{
	uint8_t *bytes = malloc(CHUNK);
	uint64_t at = 0;

	assert_non_null(bytes);
	while (at < m->size) {
		size_t n = m->size - at < CHUNK ? m->size - at : CHUNK;
		size_t i = 0;

		memset(bytes, 0xA5, n);
		assert_int_equal(vhdx_read(disk, ev, bytes, at, n), 0);
		for (i = 0; i < n; i += MODEL_SECTOR) {
			uint32_t is = model_value(bytes + i, at + i);
			uint32_t must = m->values[(at + i) / MODEL_SECTOR];

			if (is != must) {
				free(bytes);
				fail_msg("sector at %llu: %u, not %u",
					 (unsigned long long)(at + i), is,
					 must);
			}
		}
		at += n;
	}
	free(bytes);
}

struct vhdx *model_open(TALLOC_CTX *mem_ctx, struct mem_store *ms,
			bool writable)
{
	struct vhdx_open how = { .writable = writable };
	struct vhdx *disk = NULL;
	const char *why = NULL;
	int ret = vhdx_open(mem_ctx, mem_store_get(ms), &how, &disk, &why);

	if (ret != 0) {
		fail_msg("open: %d %s", ret, why != NULL ? why : "");
	}
	return disk;
}

void model_put(struct model *m, struct vhdx *disk, struct tevent_context *ev,
	       uint64_t offset, uint64_t length, uint32_t value)
{
	uint8_t *bytes = malloc(length);

	assert_non_null(bytes);
	model_fill(bytes, offset, length, value);
	assert_int_equal(vhdx_write(disk, ev, bytes, offset, length, false),
			 0);
	free(bytes);
	model_write(m, offset, length, value);
}
