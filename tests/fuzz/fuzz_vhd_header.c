/*
 * A footer and a dynamic header whose checksums are put right, so that what
 * lies behind the checksum is reached: decode, validate, encode.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/vhd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t fb[VHD_FOOTER_SIZE] = {};
	uint8_t hb[VHD_HEADER_SIZE] = {};
	uint8_t again[VHD_HEADER_SIZE] = {};
	struct vhd_footer f = {};
	struct vhd_header h = {};
	const char *why = NULL;
	size_t n = size < sizeof(fb) ? size : sizeof(fb);
	int ret = 0;

	memcpy(fb, data, n);
	if (size > n) {
		memcpy(hb, data + n, size - n < sizeof(hb) ? size - n
							   : sizeof(hb));
	}
	vhd_footer_decode(fb, &f);
	vhd_footer_encode(&f, fb);
	vhd_footer_decode(fb, &f);
	if (f.checksum != f.computed) {
		abort();
	}
	ret = vhd_footer_validate(&f, &why);
	if (ret != 0) {
		return 0;
	}
	vhd_header_decode(hb, &h);
	vhd_header_encode(&h, hb);
	vhd_header_decode(hb, &h);
	if (h.checksum != h.computed) {
		abort();
	}
	vhd_header_encode(&h, again);
	if (memcmp(hb, again, sizeof(hb)) != 0) {
		abort();
	}
	ret = vhd_header_validate(&h, &f, 1ULL << 40, &why);
	if (ret == 0 && h.table_offset >= 1ULL << 40) {
		abort();
	}
	return 0;
}
