/*
 * Every control's decoder, and the plan that follows it: whatever is planned
 * lies inside the file.  The first byte chooses the control.
 */
#include <stdint.h>
#include <stdlib.h>

#include "fsctl/fsctl.h"

#define SIZE (1ULL << 40)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(const struct fsctl_range *range)
{
	if (range->length > 0 &&
	    (range->offset > SIZE || range->length > SIZE - range->offset)) {
		abort();
	}
}

static void zero(const uint8_t *data, size_t size)
{
	struct fsctl_zero request = {};
	struct fsctl_range range = {};

	if (fsctl_zero_decode(data, size, &request) == 0 &&
	    fsctl_zero_plan(&request, SIZE, &range) == 0) {
		inside(&range);
	}
}

static void trim(const uint8_t *data, size_t size)
{
	struct fsctl_trim request = {};
	struct fsctl_range range = {};
	uint32_t i = 0;

	if (fsctl_trim_decode(data, size, &request) != 0) {
		return;
	}
	for (i = 0; i < request.count; i++) {
		range = (struct fsctl_range) {};
		if (fsctl_trim_plan(&request, i, SIZE, 4096, &range) == 0) {
			inside(&range);
		}
	}
}

static void clone(const uint8_t *data, size_t size, bool ex)
{
	struct fsctl_clone request = {};
	struct fsctl_clone_files files = {
		.cluster = 4096, .source_size = SIZE, .target_size = SIZE,
		.same = size > 0 && (data[size - 1] & 1) != 0,
	};
	struct fsctl_clone_plan plan = {};
	int ret = ex ? fsctl_clone_ex_decode(data, size, &request)
		     : fsctl_clone_decode(data, size, &request);
	uint64_t all = 0;

	if (ret != 0 || fsctl_clone_plan(&request, &files, &plan) != 0) {
		return;
	}
	all = plan.shared + plan.copied + plan.zeroed;
	if (all == 0) {
		return;
	}
	if (all > request.length + files.cluster ||
	    request.target > SIZE || all > SIZE - request.target ||
	    request.source > SIZE ||
	    plan.shared + plan.copied > SIZE - request.source) {
		abort();
	}
}

static void ranges(const uint8_t *data, size_t size)
{
	struct fsctl_range asked = {};
	struct fsctl_range range = {};

	if (fsctl_ranges_decode(data, size, &asked) == 0 &&
	    fsctl_ranges_plan(&asked, SIZE, 4096, &range) == 0) {
		inside(&range);
	}
}

static void regions(const uint8_t *data, size_t size)
{
	struct fsctl_regions request = {};
	uint8_t out[FSCTL_REGIONS_REPLY] = {};
	size_t length = 0;

	if (fsctl_regions_decode(data, size, 1, &request) == 0 &&
	    fsctl_regions_answer(&request, SIZE, 4096, out, &length) == 0 &&
	    length > sizeof(out)) {
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0) {
		return 0;
	}
	switch (data[0] % 7) {
	case 0:
		zero(data + 1, size - 1);
		break;
	case 1:
		trim(data + 1, size - 1);
		break;
	case 2:
		clone(data + 1, size - 1, false);
		break;
	case 3:
		clone(data + 1, size - 1, true);
		break;
	case 4:
		ranges(data + 1, size - 1);
		break;
	case 5:
		regions(data + 1, size - 1);
		break;
	case 6:
		fsctl_integrity_set_check(data + 1, size - 1);
		fsctl_integrity_set_ex_check(data + 1, size - 1);
		break;
	}
	return 0;
}
