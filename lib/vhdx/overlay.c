/*
 * What a log replayed in memory lays over a file opened for reading.  Pages
 * are kept in a hash by offset, ranges of zeroes in the order in which they
 * were logged; a page logged after a range hides it, and a range forgets the
 * pages under it.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#define PAGES_MAX 16384U
#define ZEROES_MAX 1024U
#define BUCKETS 1024U

struct overlay_page {
	struct overlay_page *next;
	uint64_t offset;
	uint8_t bytes[VHDX_PAGE];
};

struct overlay_zero {
	uint64_t offset;
	uint64_t end;
};

struct vhdx_overlay {
	struct overlay_page *table[BUCKETS];
	unsigned pages;
	struct overlay_zero *zeroes;
	unsigned zero_count;
};

struct vhdx_overlay *vhdx_overlay_new(TALLOC_CTX *mem_ctx)
{
	return talloc_zero(mem_ctx, struct vhdx_overlay);
}

static struct overlay_page *const *bucket(const struct vhdx_overlay *o,
					  uint64_t offset)
{
	return &o->table[offset / VHDX_PAGE % BUCKETS];
}

static struct overlay_page *find(const struct vhdx_overlay *o, uint64_t offset)
{
	struct overlay_page *p = *bucket(o, offset);

	while (p != NULL && p->offset != offset) {
		p = p->next;
	}
	return p;
}

int vhdx_overlay_page(struct vhdx_overlay *o, uint64_t offset,
		      const uint8_t *page)
{
	struct overlay_page *p = find(o, offset);
	struct overlay_page **head = &o->table[offset / VHDX_PAGE % BUCKETS];

	if (p == NULL) {
		if (o->pages == PAGES_MAX) {
			return -EFBIG;
		}
		p = talloc_zero(o, struct overlay_page);
		if (p == NULL) {
			return -ENOMEM;
		}
		p->offset = offset;
		p->next = *head;
		*head = p;
		o->pages++;
	}
	memcpy(p->bytes, page, VHDX_PAGE);
	return 0;
}

int vhdx_overlay_zero(struct vhdx_overlay *o, uint64_t offset, uint64_t length)
{
	struct overlay_zero *grown = NULL;
	unsigned i = 0;

	if (o->zero_count == ZEROES_MAX) {
		return -EFBIG;
	}
	grown = talloc_realloc(o, o->zeroes, struct overlay_zero,
			       o->zero_count + 1);
	if (grown == NULL) {
		return -ENOMEM;
	}
	o->zeroes = grown;
	o->zeroes[o->zero_count].offset = offset;
	o->zeroes[o->zero_count].end = offset + length;
	o->zero_count++;
	for (i = 0; i < BUCKETS; i++) {
		struct overlay_page **at = &o->table[i];

		while (*at != NULL) {
			struct overlay_page *p = *at;

			if (p->offset >= offset &&
			    p->offset < offset + length) {
				*at = p->next;
				talloc_free(p);
				o->pages--;
				continue;
			}
			at = &p->next;
		}
	}
	return 0;
}

static bool is_zeroed(const struct vhdx_overlay *o, uint64_t offset)
{
	unsigned i = 0;

	for (i = 0; i < o->zero_count; i++) {
		if (offset >= o->zeroes[i].offset &&
		    offset < o->zeroes[i].end) {
			return true;
		}
	}
	return false;
}

void vhdx_overlay_apply(const struct vhdx_overlay *o, uint8_t *bytes,
			uint64_t offset, size_t length)
{
	size_t at = 0;

	for (at = 0; at + VHDX_PAGE <= length; at += VHDX_PAGE) {
		const struct overlay_page *p = find(o, offset + at);

		if (p != NULL) {
			memcpy(bytes + at, p->bytes, VHDX_PAGE);
		} else if (is_zeroed(o, offset + at)) {
			memset(bytes + at, 0, VHDX_PAGE);
		}
	}
}
