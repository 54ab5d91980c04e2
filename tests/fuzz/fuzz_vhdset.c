/*
 * Any bytes as a VHD Set and its catalogue.  The input is: one byte of flags,
 * the first 64 bytes of each header copy, 128 bytes of name, and the catalogue.
 * With flag 1 the checksums of the headers are put right, with flag 2 that of
 * the catalogue's first slot.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <talloc.h>

#include "store/store.h"
#include "support/mem_store.h"
#include "util/crc32c.h"
#include "vhdset/vhdset.h"

/* Headers are short: 64 bytes of input each, the rest of them is zero. */
#define HEADER_BYTES 64
#define NAME_BYTES 128

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(const uint8_t **data, size_t *size, size_t want,
		 uint8_t *out)
{
	size_t n = *size < want ? *size : want;

	memcpy(out, *data, n);
	*data += n;
	*size -= n;
}

static void put32(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
	p[2] = (uint8_t)(value >> 16);
	p[3] = (uint8_t)(value >> 24);
}

/* The head is 320 bytes of input and zeroes to 4096, then come records. */
static void catalogue_put(TALLOC_CTX *mem_ctx, struct store *store,
			  const uint8_t *data, size_t size, bool seal)
{
	size_t head = size < 320 ? size : 320;
	size_t length = 4096 + (size - head);
	uint8_t *bytes = NULL;

	if (size == 0) {
		return;
	}
	bytes = talloc_zero_size(mem_ctx, length);
	memcpy(bytes, data, head);
	memcpy(bytes + 4096, data + head, size - head);
	if (seal) {
		uint64_t count = (uint64_t)bytes[24] | bytes[25] << 8;
		uint64_t sealed = 4096 + 512 * count;

		put32(bytes + 12, 0);
		put32(bytes + 12, crc32c(bytes, sealed < length ? sealed
								: length));
	}
	(void)store_write(store, bytes, length, 0);
}

static void look(struct vhdset *set)
{
	const struct vhdset_snapshot *list = NULL;
	struct vhdset_snapshot s = { .id = { { 7, 7, 7 } },
				     .type = VHDSET_VM };
	struct vhdset_info info = {};
	size_t count = 0;
	size_t i = 0;
	int ret = 0;

	vhdset_info_get(set, &info);
	if (vhdset_name_check(info.leaf) != 0) {
		abort();
	}
	ret = vhdset_snapshot_list(set, &list, &count);
	for (i = 0; ret == 0 && i < count; i++) {
		if (list[i].file[0] != '\0' &&
		    vhdset_name_check(list[i].file) != 0) {
			abort();
		}
	}
	ret = vhdset_snapshot_add(set, &s, "new.avhdx");
	if (ret == 0) {
		vhdset_info_get(set, &info);
		if (info.foreign || strcmp(info.leaf, "new.avhdx") != 0) {
			abort();
		}
	}
	(void)vhdset_repair(set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t header[VHDSET_HEADER_SIZE] = {};
	uint8_t name[NAME_BYTES] = {};
	struct mem_store *cat = NULL;
	struct mem_store *ms = NULL;
	struct vhdset_open how = { .writable = true };
	struct vhdset *set = NULL;
	const char *why = NULL;
	TALLOC_CTX *frame = NULL;
	uint8_t flags = 0;
	unsigned i = 0;
	int ret = 0;

	take(&data, &size, 1, &flags);
	frame = talloc_new(NULL);
	ms = mem_store_new(frame, NULL);
	cat = mem_store_new(frame, NULL);
	(void)store_write(mem_store_get(ms), "vhdsetv1", 8, 0);
	(void)store_truncate(mem_store_get(ms), VHDSET_FILE_SIZE);
	for (i = 0; i < 2; i++) {
		memset(header, 0, sizeof(header));
		take(&data, &size, HEADER_BYTES, header);
		if (flags & 1) {
			put32(header + 20, 0);
			put32(header + 20, crc32c(header, sizeof(header)));
		}
		(void)store_write(mem_store_get(ms), header, sizeof(header),
				  0x10000 * (i + 1));
	}
	take(&data, &size, sizeof(name), name);
	(void)store_write(mem_store_get(ms), name, sizeof(name), 0x40000);
	catalogue_put(frame, mem_store_get(cat), data, size, flags & 2);
	how.catalogue = mem_store_get(cat);
	ret = vhdset_open(frame, mem_store_get(ms), &how, &set, &why);
	if (ret == 0) {
		look(set);
	}
	talloc_free(frame);
	return 0;
}
