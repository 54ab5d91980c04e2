/*
 * A stored state of shadow copy sets, and the names clients send.  A state
 * that is understood is stored again as the same bytes, and outlives a start
 * of the server; the checksum is put right so that what is behind it is
 * reached.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "snapset/snapset.h"
#include "util/crc32c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void state(TALLOC_CTX *mem_ctx, uint8_t *bytes, size_t size)
{
	static const struct snapset_rules rules = {};
	struct snapset_state *found = NULL;
	uint8_t *again = NULL;
	size_t length = 0;
	uint32_t sum = 0;
	bool changed = false;

	if (size >= 16) {
		uint32_t rest = (uint32_t)size - 16;

		memcpy(bytes + 8, &rest, 4);
		sum = crc32c(bytes + 16, size - 16);
		memcpy(bytes + 12, &sum, 4);
	}
	if (snapset_decode(mem_ctx, bytes, size, &found, NULL) != 0) {
		return;
	}
	if (snapset_encode(mem_ctx, found, &again, &length) != 0) {
		return;
	}
	snapset_restart(found, &rules, "boot", 1, &changed);
	snapset_expire(found, &rules, UINT64_MAX, &changed);
	snapset_sweep(found, &changed);
	if (snapset_encode(mem_ctx, found, &again, &length) == 0 &&
	    snapset_decode(mem_ctx, again, length, &found, NULL) != 0) {
		abort();
	}
}

static void name(TALLOC_CTX *mem_ctx, const uint8_t *bytes, size_t size)
{
	char *text = talloc_strndup(mem_ctx, (const char *)bytes, size);
	char *host = NULL;
	char *share = NULL;

	if (snapset_unc_parse(mem_ctx, text, &host, &share) == 0 &&
	    (host[0] == '\0' || share[0] == '\0' ||
	     strpbrk(share, "/\\%") != NULL || strstr(share, "..") != NULL)) {
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TALLOC_CTX *mem_ctx = talloc_new(NULL);
	uint8_t *copy = talloc_memdup(mem_ctx, data, size);

	name(mem_ctx, data, size);
	if (copy != NULL) {
		state(mem_ctx, copy, size);
	}
	talloc_free(mem_ctx);
	return 0;
}
