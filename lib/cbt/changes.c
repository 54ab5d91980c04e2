/*
 * What changed between two marks: the union of the intervals between them.
 */
#include "cbt/cbt_priv.h"

#include <errno.h>
#include <string.h>

static int mark_index(const struct cbt_header *h, const struct guid *id,
		      uint32_t *_index)
{
	uint32_t i = 0;

	for (i = 0; i < h->count; i++) {
		if (guid_equal(&h->marks[i].id, id)) {
			*_index = i;
			return 0;
		}
	}
	return -ENOENT;
}

static int interval_find(const struct cbt_header *h,
			 const struct guid *target, const struct guid *limit,
			 uint32_t *_first, uint32_t *_end)
{
	uint32_t from = 0;
	uint32_t to = 0;
	uint32_t i = 0;
	int ret = mark_index(h, target, &to);

	if (ret == 0) {
		ret = mark_index(h, limit, &from);
	}
	if (ret != 0) {
		return ret;
	}
	if (h->state == CBT_BROKEN) {
		return -ESTALE;
	}
	if (to < from) {
		return -EINVAL;
	}
	for (i = from + 1; i <= to; i++) {
		if ((h->marks[i].flags & CBT_GAP) != 0) {
			return -ENODATA;
		}
	}
	*_first = from + 1;
	*_end = to + 1;
	return 0;
}

/* The union of a piece of bits, in cbt->piece[0]. */
static int piece_load(struct cbt *cbt, uint32_t first, uint32_t end,
		      uint64_t at)
{
	uint32_t i = 0;
	size_t k = 0;
	int ret = 0;

	memset(cbt->piece[0], 0, CBT_PIECE);
	for (i = first; i < end; i++) {
		ret = cbt_bits_read(cbt, cbt->header.marks[i].slot, at,
				    CBT_PIECE, cbt->piece[1]);
		if (ret != 0) {
			return ret;
		}
		for (k = 0; k < CBT_PIECE; k++) {
			cbt->piece[0][k] |= cbt->piece[1][k];
		}
	}
	return 0;
}

struct answer {
	struct cbt_range *ranges;
	size_t room;
	size_t count;
	uint64_t begin;		/* of the question */
	uint64_t end;
};

/* False where there is no room for the region. */
static bool region_add(struct answer *a, uint64_t region)
{
	uint64_t from = region * CBT_REGION;
	uint64_t to = from + CBT_REGION;
	struct cbt_range *last = a->count > 0 ? &a->ranges[a->count - 1]
					      : NULL;

	from = from < a->begin ? a->begin : from;
	to = to > a->end ? a->end : to;
	if (last != NULL && last->offset + last->length == from) {
		last->length += to - from;
		return true;
	}
	if (a->count == a->room) {
		return false;
	}
	a->ranges[a->count++] = (struct cbt_range) {
		.offset = from, .length = to - from,
	};
	return true;
}

/*
 * Adds the regions of a piece that begins at byte at; the first that has no
 * room goes to *_stop.
 */
static bool piece_add(struct answer *a, const uint8_t *piece, uint64_t at,
		      uint64_t *_stop)
{
	uint64_t region = 0;
	size_t k = 0;
	unsigned bit = 0;

	for (k = 0; k < CBT_PIECE; k++) {
		if (piece[k] == 0) {
			continue;
		}
		for (bit = 0; bit < 8; bit++) {
			region = (at + k) * 8 + bit;
			if ((piece[k] & 1U << bit) == 0 ||
			    (region + 1) * CBT_REGION <= a->begin) {
				continue;
			}
			if (region * CBT_REGION >= a->end) {
				return true;
			}
			if (!region_add(a, region)) {
				*_stop = region;
				return false;
			}
		}
	}
	return true;
}

int cbt_changes(struct cbt *cbt, const struct guid *target,
		const struct guid *limit, uint64_t offset, uint64_t length,
		struct cbt_range *ranges, size_t room, size_t *_count,
		uint64_t *_processed)
{
	struct answer a = {
		.ranges = ranges, .room = room, .begin = offset,
		.end = CBT_SIZE_MAX,
	};
	uint32_t first = 0;
	uint32_t end = 0;
	uint64_t at = 0;
	uint64_t stop = 0;
	int ret = interval_find(&cbt->header, target, limit, &first, &end);

	if (ret != 0) {
		return ret;
	}
	*_count = 0;
	*_processed = length;
	if (first == end || offset >= a.end) {
		return 0;
	}
	if (length < a.end - offset) {
		a.end = offset + length;
	}
	at = offset / CBT_REGION / 8 / CBT_PIECE * CBT_PIECE;
	for (; at * 8 * CBT_REGION < a.end; at += CBT_PIECE) {
		ret = piece_load(cbt, first, end, at);
		if (ret != 0) {
			return ret;
		}
		if (!piece_add(&a, cbt->piece[0], at, &stop)) {
			/* Complete up to the region that found no room. */
			*_processed = stop * CBT_REGION > offset ?
				stop * CBT_REGION - offset : 0;
			break;
		}
	}
	*_count = a.count;
	return 0;
}
