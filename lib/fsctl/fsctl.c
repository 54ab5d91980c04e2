/*
 * Wire forms and rules of the smaller file-system controls: zero data, trim,
 * allocated ranges, integrity, file regions.
 */
#include "fsctl/fsctl.h"

#include <errno.h>
#include <string.h>

#include "util/cursor.h"

static uint64_t fsctl_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void put_le32(uint8_t *out, uint32_t value)
{
	size_t i = 0;

	for (i = 0; i < 4; i++) {
		out[i] = (uint8_t)(value >> (8 * i));
	}
}

static void put_le64(uint8_t *out, uint64_t value)
{
	put_le32(out, (uint32_t)value);
	put_le32(out + 4, (uint32_t)(value >> 32));
}

/* ---- zero data ------------------------------------------------------------ */

int fsctl_zero_decode(const uint8_t *in, size_t length,
		      struct fsctl_zero *_zero)
{
	struct cursor c = {};
	struct fsctl_zero zero = {};
	int ret = 0;

	cursor_init(&c, in, length);
	zero.offset = cursor_le64(&c);
	zero.beyond = cursor_le64(&c);
	ret = cursor_status(&c);
	if (ret == 0) {
		*_zero = zero;
	}
	return ret;
}

int fsctl_zero_plan(const struct fsctl_zero *zero, uint64_t file_size,
		    struct fsctl_range *_range)
{
	struct fsctl_range range = {};

	if (zero->offset > FSCTL_OFFSET_MAX ||
	    zero->beyond > FSCTL_OFFSET_MAX || zero->offset > zero->beyond) {
		return -EINVAL;
	}
	range.offset = zero->offset;
	if (zero->offset < file_size) {
		range.length = fsctl_min(zero->beyond, file_size) -
			zero->offset;
	}
	*_range = range;
	return 0;
}

/* ---- trim ----------------------------------------------------------------- */

int fsctl_trim_decode(const uint8_t *in, size_t length,
		      struct fsctl_trim *_trim)
{
	struct cursor c = {};
	struct fsctl_trim trim = {};
	int ret = 0;

	cursor_init(&c, in, length);
	trim.key = cursor_le32(&c);
	trim.count = cursor_le32(&c);
	ret = cursor_status(&c);
	if (ret != 0) {
		return ret;
	}
	if (trim.key != 0 || trim.count == 0) {
		return -EINVAL;
	}
	if (trim.count > (length - FSCTL_TRIM_HEADER) / FSCTL_TRIM_RANGE) {
		return -EINVAL;
	}
	trim.ranges = in + FSCTL_TRIM_HEADER;
	*_trim = trim;
	return 0;
}

int fsctl_trim_plan(const struct fsctl_trim *trim, uint32_t index,
		    uint64_t allocation, uint64_t page,
		    struct fsctl_range *_range)
{
	struct cursor c = {};
	struct fsctl_range range = {};
	uint64_t skipped = 0;

	cursor_init(&c, trim->ranges + (size_t)index * FSCTL_TRIM_RANGE,
		    FSCTL_TRIM_RANGE);
	range.offset = cursor_le64(&c);
	range.length = cursor_le64(&c);
	skipped = -range.offset & (page - 1);
	if (range.offset > UINT64_MAX - skipped) {
		return -EOVERFLOW;
	}
	range.offset += skipped;
	range.length -= fsctl_min(range.length, skipped);
	if (range.offset < allocation) {
		if (range.length > UINT64_MAX - range.offset) {
			return -EOVERFLOW;
		}
		range.length = fsctl_min(range.length,
					 allocation - range.offset);
		range.length &= ~(page - 1);
	} else {
		range.length = 0;
	}
	*_range = range;
	return 0;
}

/* ---- allocated ranges ------------------------------------------------------ */

int fsctl_ranges_decode(const uint8_t *in, size_t length,
			struct fsctl_range *_range)
{
	struct cursor c = {};
	struct fsctl_range range = {};
	int ret = 0;

	cursor_init(&c, in, length);
	range.offset = cursor_le64(&c);
	range.length = cursor_le64(&c);
	ret = cursor_status(&c);
	if (ret == 0) {
		*_range = range;
	}
	return ret;
}

int fsctl_ranges_plan(const struct fsctl_range *asked, uint64_t file_size,
		      uint32_t max_output, struct fsctl_range *_range)
{
	struct fsctl_range range = {};

	if (asked->offset > FSCTL_OFFSET_MAX ||
	    asked->length > FSCTL_OFFSET_MAX - asked->offset) {
		return -EINVAL;
	}
	range.offset = asked->offset;
	if (asked->length > 0 && asked->offset < file_size) {
		if (max_output < FSCTL_RANGES_ENTRY) {
			return -EMSGSIZE;
		}
		range.length = fsctl_min(asked->length,
					 file_size - asked->offset);
	}
	*_range = range;
	return 0;
}

void fsctl_ranges_encode(uint8_t *out, const struct fsctl_range *range)
{
	put_le64(out, range->offset);
	put_le64(out + 8, range->length);
}

/* ---- integrity ------------------------------------------------------------- */

/* [MS-FSCC] 2.3.20: CHECKSUM_TYPE_NONE, no flags. */
void fsctl_integrity_encode(uint8_t *out, uint32_t cluster)
{
	memset(out, 0, FSCTL_INTEGRITY_GET_REPLY);
	put_le32(out + 8, 0);
	put_le32(out + 12, cluster);
}

#define INTEGRITY_NONE 0x0000
#define INTEGRITY_CRC32 0x0001
#define INTEGRITY_CRC64 0x0002
#define INTEGRITY_UNCHANGED 0xFFFF
#define INTEGRITY_ENFORCEMENT_OFF 0x00000001

/* [MS-FSA] 2.1.5.10.36, for a file whose checksum is NONE. */
int fsctl_integrity_set_check(const uint8_t *in, size_t length)
{
	struct cursor c = {};
	uint16_t algorithm = 0;
	uint32_t flags = 0;
	int ret = 0;

	cursor_init(&c, in, length);
	algorithm = cursor_le16(&c);
	cursor_skip(&c, 2);
	flags = cursor_le32(&c);
	ret = cursor_status(&c);
	if (ret != 0) {
		return ret;
	}
	if ((flags & ~(uint32_t)INTEGRITY_ENFORCEMENT_OFF) != 0) {
		return -EINVAL;
	}
	switch (algorithm) {
	case INTEGRITY_NONE:
	case INTEGRITY_UNCHANGED:
		return flags != 0 ? -EINVAL : 0;
	case INTEGRITY_CRC32:
	case INTEGRITY_CRC64:
		return -ENOTSUP;
	}
	return -EINVAL;
}

/* [MS-FSCC] 2.3.65: EnableIntegrity, KeepIntegrityStateUnchanged, Flags. */
int fsctl_integrity_set_ex_check(const uint8_t *in, size_t length)
{
	struct cursor c = {};
	uint8_t enable = 0;
	uint8_t keep = 0;
	uint32_t flags = 0;
	uint8_t version = 0;
	int ret = 0;

	cursor_init(&c, in, length);
	enable = cursor_u8(&c);
	keep = cursor_u8(&c);
	cursor_skip(&c, 2);
	flags = cursor_le32(&c);
	version = cursor_u8(&c);
	cursor_skip(&c, 7);
	ret = cursor_status(&c);
	if (ret != 0) {
		return ret;
	}
	if (version != 1 ||
	    (flags & ~(uint32_t)INTEGRITY_ENFORCEMENT_OFF) != 0) {
		return -EINVAL;
	}
	if (keep != 0 || enable == 0) {
		return flags != 0 ? -EINVAL : 0;
	}
	return -ENOTSUP;
}

/* ---- file regions ---------------------------------------------------------- */

int fsctl_regions_decode(const uint8_t *in, size_t length, uint32_t usage,
			 struct fsctl_regions *_regions)
{
	struct cursor c = {};
	struct fsctl_regions regions = {
		.length = FSCTL_OFFSET_MAX,
		.usage = usage,
	};

	if (length == 0) {
		*_regions = regions;
		return 0;
	}
	if (length < FSCTL_REGIONS_SIZE) {
		return -EMSGSIZE;
	}
	cursor_init(&c, in, length);
	regions.offset = cursor_le64(&c);
	regions.length = cursor_le64(&c);
	regions.usage = cursor_le32(&c);
	if (regions.length == 0 || regions.length > FSCTL_OFFSET_MAX ||
	    regions.offset > FSCTL_OFFSET_MAX - regions.length) {
		return -EINVAL;
	}
	if ((regions.usage & usage) == 0) {
		return -EINVAL;
	}
	regions.usage = usage;
	*_regions = regions;
	return 0;
}

int fsctl_regions_answer(const struct fsctl_regions *regions,
			 uint64_t file_size, uint32_t max_output,
			 uint8_t *out, size_t *_length)
{
	uint64_t length = 0;

	if (max_output < FSCTL_REGIONS_REPLY) {
		return -EMSGSIZE;
	}
	if (regions->offset > file_size ||
	    (regions->offset == file_size && file_size > 0)) {
		*_length = 0;
		return 0;
	}
	length = fsctl_min(regions->length, file_size - regions->offset);
	memset(out, 0, FSCTL_REGIONS_REPLY);
	put_le32(out + 4, 1);
	put_le32(out + 8, 1);
	put_le64(out + 16, regions->offset);
	put_le64(out + 24, length);
	put_le32(out + 32, length > 0 ? regions->usage : 0);
	*_length = FSCTL_REGIONS_REPLY;
	return 0;
}
