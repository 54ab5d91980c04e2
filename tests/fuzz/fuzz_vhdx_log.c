/*
 * A log of 1 MiB.  The input is patches of its first 64 KiB, as in fuzz_vhdx:
 * place (2 bytes), length (2 bytes), bytes.  Each sector that begins as an
 * entry gets the right GUID, the right checksum, and stamps to its descriptors
 * and data as its number says, so that the search and the replay see many.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <talloc.h>

#include "store/store.h"
#include "support/mem_store.h"
#include "util/crc32c.h"
#include "vhdx/vhdx_priv.h"

#define PART 65536U
#define CALLS_MAX 100000U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t get32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
	       (uint32_t)p[3] << 24;
}

static void seal(uint8_t *bytes, size_t at, const struct vhdx_header *header)
{
	uint32_t length = get32(bytes + at + 8);
	uint32_t count = get32(bytes + at + 24);
	uint32_t crc = 0;
	uint32_t i = 0;

	if (length < VHDX_PAGE || length > PART - at) {
		return;
	}
	memset(bytes + at + 32, 0, 16);
	bytes[at + 32] = header->log_guid.bytes[0];
	for (i = 0; i < count && 64 + (i + 1) * 32 <= VHDX_PAGE; i++) {
		memcpy(bytes + at + 64 + (size_t)i * 32 + 24, bytes + at + 16,
		       8);
	}
	for (i = VHDX_PAGE; i < length; i += VHDX_PAGE) {
		if (i + VHDX_PAGE > length) {
			break;
		}
		if (memcmp(bytes + at + i, "data", 4) == 0) {
			memcpy(bytes + at + i + 4, bytes + at + 20, 4);
			memcpy(bytes + at + i + 4092, bytes + at + 16, 4);
		}
	}
	memset(bytes + at + 4, 0, 4);
	crc = crc32c(bytes + at, length);
	for (i = 0; i < 4; i++) {
		bytes[at + 4 + i] = (uint8_t)(crc >> 8 * i);
	}
}

static bool on_entry(void *private_data, const struct vhdx_log_entry *entry)
{
	uint64_t *sum = private_data;
	uint32_t i = 0;

	for (i = 0; i < entry->piece_count; i++) {
		*sum += entry->pieces[i].file_offset;
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vhdx_header header = {
		.version = 1, .log_offset = VHDX_MIB, .log_length = VHDX_MIB,
		.sequence = 1, .log_guid = { { 9 } },
	};
	static uint8_t bytes[PART];
	uint8_t head[VHDX_HEADER_SIZE] = {};
	struct vhdx_sequence found = {};
	struct vhdx_overlay *overlay = NULL;
	struct mem_store *ms = NULL;
	TALLOC_CTX *frame = NULL;
	const char *why = NULL;
	uint64_t sum = 0;
	size_t at = 0;
	int ret = 0;

	memset(bytes, 0, sizeof(bytes));
	while (size >= 4) {
		size_t to = (size_t)(data[0] | data[1] << 8);
		size_t n = (size_t)(data[2] | data[3] << 8);

		data += 4;
		size -= 4;
		n = n < size ? n : size;
		n = n < PART - to ? n : PART - to;
		memcpy(bytes + to, data, n);
		data += n;
		size -= n;
	}
	for (at = 0; at < PART; at += VHDX_PAGE) {
		if (memcmp(bytes + at, "loge", 4) == 0) {
			seal(bytes, at, &header);
		}
	}
	frame = talloc_new(NULL);
	ms = mem_store_new(frame, NULL);
	(void)store_truncate(mem_store_get(ms), 8 * VHDX_MIB);
	(void)store_write(mem_store_get(ms), "vhdxfile", 8, 0);
	vhdx_header_encode(&header, head);
	(void)store_write(mem_store_get(ms), head, sizeof(head),
			  VHDX_HEADER_OFFSET(0));
	(void)store_write(mem_store_get(ms), bytes, PART, VHDX_MIB);
	ret = vhdx_log_find(frame, mem_store_get(ms), &header, &found, &why);
	if (ret == 0) {
		overlay = vhdx_overlay_new(frame);
		(void)vhdx_log_replay(frame, mem_store_get(ms), &header,
				      &found, overlay, &why);
		vhdx_overlay_apply(overlay, bytes, 2 * VHDX_MIB, PART);
		(void)vhdx_log_replay(frame, mem_store_get(ms), &header,
				      &found, NULL, &why);
		/* The headers and the log itself are out of its reach. */
		(void)store_read(mem_store_get(ms), bytes, VHDX_HEADER_SIZE,
				 VHDX_HEADER_OFFSET(0));
		if (memcmp(bytes, head, sizeof(head)) != 0) {
			abort();
		}
	}
	(void)vhdx_log_walk(mem_store_get(ms), on_entry, &sum);
	if (mem_store_calls(ms) > CALLS_MAX) {
		abort();
	}
	talloc_free(frame);
	return 0;
}
