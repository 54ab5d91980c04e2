/*
 * FSCTL_DUPLICATE_EXTENTS_TO_FILE and _EX: wire forms and rules.
 */
#include "fsctl/fsctl.h"

#include <errno.h>

#include "util/cursor.h"

static void clone_fields(struct cursor *in, struct fsctl_clone *clone)
{
	clone->persistent = cursor_le64(in);
	clone->volatile_id = cursor_le64(in);
	clone->source = cursor_le64(in);
	clone->target = cursor_le64(in);
	clone->length = cursor_le64(in);
	clone->atomic = false;
}

int fsctl_clone_decode(const uint8_t *in, size_t length,
		       struct fsctl_clone *_clone)
{
	struct cursor c = {};
	struct fsctl_clone clone = {};
	int ret = 0;

	cursor_init(&c, in, length);
	clone_fields(&c, &clone);
	ret = cursor_status(&c);
	if (ret == 0) {
		*_clone = clone;
	}
	return ret;
}

int fsctl_clone_ex_decode(const uint8_t *in, size_t length,
			  struct fsctl_clone *_clone)
{
	struct cursor c = {};
	struct fsctl_clone clone = {};
	uint64_t structure_size = 0;
	int ret = 0;

	cursor_init(&c, in, length);
	structure_size = cursor_le64(&c);
	clone_fields(&c, &clone);
	ret = cursor_status(&c);
	if (ret != 0) {
		return ret;
	}
	if (structure_size != FSCTL_CLONE_EX_STRUCTURE) {
		return -ENOTSUP;
	}
	if (length >= FSCTL_CLONE_EX_SIZE + 4) {
		uint32_t flags = cursor_le32(&c);

		clone.atomic = (flags & FSCTL_CLONE_SOURCE_ATOMIC) != 0;
	}
	*_clone = clone;
	return 0;
}

static bool clone_fits(uint64_t offset, uint64_t length)
{
	return offset <= FSCTL_OFFSET_MAX &&
		length <= FSCTL_OFFSET_MAX - offset;
}

static uint64_t clone_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

int fsctl_clone_plan(const struct fsctl_clone *clone,
		     const struct fsctl_clone_files *files,
		     struct fsctl_clone_plan *_plan)
{
	struct fsctl_clone_plan plan = {};
	uint64_t mask = files->cluster - 1;
	uint64_t end = 0;
	uint64_t length = 0;
	uint64_t data = 0;

	if (!clone_fits(clone->source, clone->length) ||
	    !clone_fits(clone->target, clone->length)) {
		return -EINVAL;
	}
	end = clone->source + clone->length;
	if ((clone->source & mask) != 0 || (clone->target & mask) != 0) {
		return -EINVAL;
	}
	if ((clone->length & mask) != 0 && end != files->source_size) {
		return -EINVAL;
	}
	if (clone->length == 0) {
		*_plan = plan;
		return 0;
	}
	/* The last cluster of the source may be incomplete. */
	if (end > files->source_size &&
	    end - files->source_size > (-files->source_size & mask)) {
		return -ENOTSUP;
	}
	if (clone->source >= files->source_size) {
		return -ENOTSUP;
	}
	if (files->source_sparse && !files->target_sparse) {
		return -ENOTSUP;
	}
	if (files->same &&
	    clone->source < clone->target + clone->length &&
	    clone->target < clone->source + clone->length) {
		return -ENOTSUP;
	}
	if (clone->target > files->target_size) {
		return -EINVAL;
	}
	length = clone_min(clone->length, files->target_size - clone->target);
	data = clone_min(length, files->source_size - clone->source);
	if ((data & mask) != 0 &&
	    clone->source + data == files->source_size &&
	    clone->target + data >= files->target_size) {
		/* Both files end here: the incomplete cluster is shared. */
		plan.shared = data;
	} else {
		plan.shared = data & ~mask;
	}
	plan.copied = data - plan.shared;
	plan.zeroed = length - data;
	*_plan = plan;
	return 0;
}
