/*
 * The file identifier and the two headers.  The input is 520 bytes of
 * identifier, then for each header a byte that says whether its checksum is
 * put right and 80 bytes; the rest of a header is zero.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "util/crc32c.h"
#include "vhdx/vhdx.h"
#include "vhdx/vhdx_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(const uint8_t **data, size_t *size, size_t want, uint8_t *out)
{
	size_t n = *size < want ? *size : want;

	memcpy(out, *data, n);
	*data += n;
	*size -= n;
}

static void seal(uint8_t *bytes)
{
	uint32_t crc = 0;
	unsigned i = 0;

	memset(bytes + 4, 0, 4);
	crc = crc32c(bytes, VHDX_HEADER_SIZE);
	for (i = 0; i < 4; i++) {
		bytes[4 + i] = (uint8_t)(crc >> 8 * i);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t identity[8 + 2 * VHDX_CREATOR_MAX] = {};
	uint8_t headers[2][VHDX_HEADER_SIZE] = {};
	char creator[3 * VHDX_CREATOR_MAX + 1];
	struct vhdx_header h = {};
	const char *why = NULL;
	unsigned slot = 0;
	unsigned i = 0;

	take(&data, &size, sizeof(identity), identity);
	for (i = 0; i < 2; i++) {
		uint8_t sealed = 0;

		take(&data, &size, 1, &sealed);
		take(&data, &size, 80, headers[i]);
		if (sealed & 1) {
			seal(headers[i]);
		}
		if (vhdx_header_decode(headers[i], &h) == 0) {
			/* What decodes comes out of its encoding again. */
			struct vhdx_header again = {};
			uint8_t bytes[VHDX_HEADER_SIZE] = {};

			vhdx_header_encode(&h, bytes);
			if (vhdx_header_decode(bytes, &again) != 0 ||
			    memcmp(&again.log_guid, &h.log_guid, 16) != 0 ||
			    again.sequence != h.sequence) {
				abort();
			}
		}
	}
	if (vhdx_identity_decode(identity, creator, sizeof(creator)) == 0 &&
	    strlen(creator) >= sizeof(creator)) {
		abort();
	}
	if (vhdx_header_select(headers[0], headers[1], &h, &slot, &why) == 0 &&
	    (slot > 1 || vhdx_header_validate(&h, &why) != 0 ||
	     h.log_length % VHDX_MIB != 0 || h.log_offset < VHDX_MIB)) {
		abort();
	}
	return 0;
}
