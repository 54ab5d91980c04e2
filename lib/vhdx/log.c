/*
 * Finding and replaying the active sequence of a log, [MS-VHDX] 2.3.2 and
 * 2.3.3.  The log is read through two windows, whatever its length; every
 * place is judged once, and the bytes summed are bounded, so that entries made
 * to overlap cannot make the search slow.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"
#include "util/crc32c.h"

#define WINDOW 65536U

enum verdict { UNKNOWN, BAD, GOOD };

/* What is known of the entry at one place. */
struct place {
	enum verdict verdict;
	uint32_t length;
	uint32_t tail;
	uint64_t sequence;
	uint64_t flushed_file_offset;
	uint64_t last_file_offset;
};

struct window {
	uint64_t start;
	bool filled;
	uint8_t bytes[WINDOW];
};

struct reader {
	struct store *store;
	const struct vhdx_header *header;
	struct place *places;
	uint64_t budget;	/* bytes that may still be summed */
	struct window windows[2];
};

/* The sector at a place, wrapping; the pointer is good until the next call. */
static int sector(struct reader *r, unsigned which, uint64_t at,
		  const uint8_t **_bytes)
{
	struct window *w = &r->windows[which];
	int ret = 0;

	at %= r->header->log_length;
	if (!w->filled || at < w->start || at >= w->start + WINDOW) {
		w->start = at - at % WINDOW;
		w->filled = false;
		ret = store_read(r->store, w->bytes, WINDOW,
				 r->header->log_offset + w->start);
		if (ret != 0 && ret != -ENODATA) {
			return ret;
		}
		w->filled = true;
	}
	*_bytes = w->bytes + (at - w->start);
	return 0;
}

static uint32_t sum_first(const uint8_t *bytes)
{
	static const uint8_t zero[4];
	uint32_t crc = crc32c(bytes, 4);

	crc = crc32c_more(crc, zero, 4);
	return crc32c_more(crc, bytes + 8, VHDX_PAGE - 8);
}

/* Counts the data descriptors of one sector; -EBADMSG when one is wrong. */
static int judge_descriptors(struct reader *r, const uint8_t *bytes,
			     uint32_t index,
			     const struct vhdx_entry_header *e,
			     uint32_t *_data)
{
	uint32_t first = index == 0 ? 2 : 0;
	uint32_t i = 0;
	int ret = 0;

	for (i = first; i < 128; i++) {
		uint32_t number = index * 128 + i - 2;
		struct vhdx_descriptor d = {};

		if (number >= e->descriptors) {
			break;
		}
		ret = vhdx_descriptor_decode(bytes + (size_t)i * 32, &d);
		if (ret == 0) {
			ret = vhdx_descriptor_validate(&d, e->sequence,
						       r->header);
		}
		if (ret != 0) {
			return ret;
		}
		*_data += d.zero ? 0 : 1;
	}
	return 0;
}

/* Judges the whole entry at a place: 0, -EBADMSG, or a failure of the store. */
static int judge(struct reader *r, uint32_t at, struct vhdx_entry_header *e)
{
	const uint8_t *bytes = NULL;
	uint32_t descriptor_sectors = 0;
	uint32_t data = 0;
	uint32_t crc = 0;
	uint32_t i = 0;
	int ret = 0;

	ret = sector(r, 0, at, &bytes);
	if (ret == 0) {
		ret = vhdx_entry_decode(bytes, e);
	}
	if (ret == 0) {
		ret = vhdx_entry_validate(e, r->header->log_length);
	}
	if (ret != 0) {
		return ret;
	}
	/* An entry as long as the log would leave no place for another. */
	if (!guid_equal(&e->log_guid, &r->header->log_guid) ||
	    e->length >= r->header->log_length) {
		return -EBADMSG;
	}
	if (e->length > r->budget) {
		r->budget = 0;
		return -EBADMSG;
	}
	r->budget -= e->length;
	descriptor_sectors = vhdx_entry_descriptor_sectors(e->descriptors);
	for (i = 0; i < e->length / VHDX_PAGE; i++) {
		ret = sector(r, 0, (uint64_t)at + (uint64_t)i * VHDX_PAGE,
			     &bytes);
		if (ret != 0) {
			return ret;
		}
		crc = i == 0 ? sum_first(bytes)
			     : crc32c_more(crc, bytes, VHDX_PAGE);
		if (i < descriptor_sectors) {
			ret = judge_descriptors(r, bytes, i, e, &data);
		} else {
			ret = vhdx_sector_check(bytes, e->sequence);
		}
		if (ret != 0) {
			return ret;
		}
	}
	if (crc != e->checksum ||
	    (uint64_t)descriptor_sectors + data != e->length / VHDX_PAGE) {
		return -EBADMSG;
	}
	return 0;
}

static int look(struct reader *r, uint32_t at, struct place **_place)
{
	struct place *p = &r->places[at / VHDX_PAGE];
	struct vhdx_entry_header e = {};
	int ret = 0;

	if (p->verdict == UNKNOWN) {
		ret = judge(r, at, &e);
		if (ret != 0 && ret != -EBADMSG) {
			return ret;
		}
		p->verdict = ret == 0 ? GOOD : BAD;
		p->length = e.length;
		p->tail = e.tail;
		p->sequence = e.sequence;
		p->flushed_file_offset = e.flushed_file_offset;
		p->last_file_offset = e.last_file_offset;
	}
	*_place = p;
	return 0;
}

/*
 * The sequence that starts at a place: its head is left in *found, which is
 * empty (head_sequence 0) when no entry starts there.  *_full tells that it
 * ended where it would have run into its own start.
 */
static int follow(struct reader *r, uint32_t start,
		  struct vhdx_sequence *found, bool *_full)
{
	uint32_t log_length = r->header->log_length;
	uint32_t used = 0;

	*found = (struct vhdx_sequence) { .start = start, .end = start };
	*_full = false;
	for (;;) {
		struct place *p = NULL;
		int ret = look(r, found->end, &p);

		if (ret != 0) {
			return ret;
		}
		if (p->verdict != GOOD ||
		    (used > 0 && p->sequence != found->head_sequence + 1)) {
			return 0;
		}
		if (p->length > log_length - used) {
			*_full = true;
			return 0;
		}
		used += p->length;
		found->head = found->end;
		found->end = (found->end + p->length) % log_length;
		found->head_sequence = p->sequence;
		found->tail = p->tail;
		found->flushed_file_offset = p->flushed_file_offset;
		found->last_file_offset = p->last_file_offset;
		if (used == log_length) {
			*_full = true;
			return 0;
		}
	}
}

/* Whether the head's tail is the start of one of the sequence's entries. */
static bool tail_inside(const struct reader *r, const struct vhdx_sequence *s)
{
	uint32_t at = s->start;

	for (;;) {
		if (at == s->tail) {
			return true;
		}
		if (at == s->head) {
			return false;
		}
		at = (at + r->places[at / VHDX_PAGE].length) %
		     r->header->log_length;
	}
}

static int search(struct reader *r, struct vhdx_sequence *best)
{
	uint32_t log_length = r->header->log_length;
	uint32_t fulls = 0;
	uint32_t tail = 0;

	for (;;) {
		struct vhdx_sequence s = {};
		uint32_t before = tail;
		bool full = false;
		int ret = follow(r, tail, &s, &full);

		if (ret != 0) {
			return ret;
		}
		if (s.head_sequence != 0 && tail_inside(r, &s)) {
			if (s.head_sequence > best->head_sequence) {
				*best = s;
			}
			tail = s.end;
		} else if (s.head_sequence != 0 && !full) {
			/*
			 * A later start leads to the same head, and its tail
			 * lies before all of them.
			 */
			tail = s.end;
		} else {
			tail = (tail + VHDX_PAGE) % log_length;
			if (full && ++fulls > 256) {
				return -EBADMSG;
			}
		}
		if (tail <= before) {
			return 0;
		}
	}
}

static int reader_new(TALLOC_CTX *mem_ctx, struct store *store,
		      const struct vhdx_header *header, struct reader **_r)
{
	struct reader *r = talloc_zero(mem_ctx, struct reader);

	if (r == NULL) {
		return -ENOMEM;
	}
	r->store = store;
	r->header = header;
	r->budget = 2ULL * header->log_length;
	r->places = talloc_zero_array(r, struct place,
				      header->log_length / VHDX_PAGE);
	if (r->places == NULL) {
		talloc_free(r);
		return -ENOMEM;
	}
	*_r = r;
	return 0;
}

int vhdx_log_find(TALLOC_CTX *mem_ctx, struct store *store,
		  const struct vhdx_header *header,
		  struct vhdx_sequence *_found, const char **why)
{
	struct vhdx_sequence best = {};
	struct reader *r = NULL;
	uint64_t size = 0;
	int ret = 0;

	ret = reader_new(mem_ctx, store, header, &r);
	if (ret != 0) {
		return ret;
	}
	ret = search(r, &best);
	talloc_free(r);
	if (ret == 0 && best.head_sequence == 0) {
		ret = -EBADMSG;
	}
	if (ret != 0) {
		*why = "the log has no valid entries to replay";
		return ret;
	}
	ret = store_size(store, &size);
	if (ret != 0) {
		return ret;
	}
	if (size < best.flushed_file_offset) {
		*why = "the file is shorter than its log says";
		return -EBADMSG;
	}
	*_found = best;
	return 0;
}

static int apply_zero(struct reader *r, const struct vhdx_descriptor *d,
		      struct vhdx_overlay *overlay)
{
	if (d->length == 0) {
		return 0;
	}
	if (overlay != NULL) {
		return vhdx_overlay_zero(overlay, d->file_offset, d->length);
	}
	return store_zero(r->store, d->file_offset, d->length);
}

static int apply_entry(struct reader *r, uint32_t at,
		       struct vhdx_overlay *overlay)
{
	struct vhdx_entry_header e = {};
	uint8_t page[VHDX_PAGE] = {};
	const uint8_t *bytes = NULL;
	uint64_t data = 0;
	uint32_t i = 0;
	int ret = 0;

	ret = sector(r, 0, at, &bytes);
	if (ret == 0) {
		ret = vhdx_entry_decode(bytes, &e);
	}
	if (ret != 0) {
		return ret;
	}
	data = at + (uint64_t)vhdx_entry_descriptor_sectors(e.descriptors) *
			    VHDX_PAGE;
	for (i = 0; i < e.descriptors; i++) {
		uint64_t place = ((uint64_t)i + 2) * 32;
		struct vhdx_descriptor d = {};

		ret = sector(r, 0, at + place - place % VHDX_PAGE, &bytes);
		if (ret == 0) {
			ret = vhdx_descriptor_decode(bytes +
						     place % VHDX_PAGE, &d);
		}
		if (ret == 0 && d.zero) {
			ret = apply_zero(r, &d, overlay);
		} else if (ret == 0) {
			ret = sector(r, 1, data, &bytes);
			data += VHDX_PAGE;
			if (ret != 0) {
				return ret;
			}
			vhdx_sector_decode(bytes, &d, page);
			ret = overlay != NULL
				      ? vhdx_overlay_page(overlay,
							  d.file_offset, page)
				      : store_write(r->store, page, VHDX_PAGE,
						    d.file_offset);
		}
		if (ret != 0) {
			return ret;
		}
	}
	return 0;
}

int vhdx_log_replay(TALLOC_CTX *mem_ctx, struct store *store,
		    const struct vhdx_header *header,
		    const struct vhdx_sequence *s,
		    struct vhdx_overlay *overlay, const char **why)
{
	struct reader *r = NULL;
	uint32_t at = s->tail;
	uint64_t size = 0;
	int ret = 0;

	ret = reader_new(mem_ctx, store, header, &r);
	if (ret != 0) {
		return ret;
	}
	for (;;) {
		struct place *p = NULL;

		ret = look(r, at, &p);
		if (ret == 0 && p->verdict != GOOD) {
			*why = "the log changed while it was replayed";
			ret = -EBADMSG;
		}
		if (ret == 0) {
			ret = apply_entry(r, at, overlay);
		}
		if (ret != 0 || at == s->head) {
			break;
		}
		at = (at + p->length) % header->log_length;
	}
	talloc_free(r);
	if (ret == -EFBIG) {
		*why = "the log is too large to replay in memory";
	}
	if (ret != 0 || overlay != NULL) {
		return ret;
	}
	ret = store_size(store, &size);
	if (ret == 0 && size < s->last_file_offset) {
		ret = store_truncate(store, s->last_file_offset);
	}
	return ret;
}

/* ---- looking -------------------------------------------------------------- */

static int read_pieces(struct reader *r, uint32_t at, uint32_t count,
		       struct vhdx_log_piece *pieces)
{
	uint32_t i = 0;
	int ret = 0;

	for (i = 0; i < count; i++) {
		uint64_t place = ((uint64_t)i + 2) * 32;
		struct vhdx_descriptor d = {};
		const uint8_t *bytes = NULL;

		ret = sector(r, 0, at + place - place % VHDX_PAGE, &bytes);
		if (ret == 0) {
			ret = vhdx_descriptor_decode(bytes +
						     place % VHDX_PAGE, &d);
		}
		if (ret != 0) {
			return ret;
		}
		pieces[i] = (struct vhdx_log_piece) {
			.zero = d.zero, .file_offset = d.file_offset,
			.length = d.zero ? d.length : VHDX_PAGE,
		};
	}
	return 0;
}

/* Tells one entry, if one starts there; *_length is how far to step. */
static int walk_one(struct reader *r, uint32_t at,
		    const struct vhdx_header *header,
		    const struct vhdx_sequence *active,
		    bool (*each)(void *private_data,
				 const struct vhdx_log_entry *entry),
		    void *private_data, uint32_t *_length, bool *_stop)
{
	uint32_t log_length = header->log_length;
	struct vhdx_log_piece *pieces = NULL;
	struct vhdx_header any = *header;
	struct vhdx_log_entry entry = {};
	struct vhdx_entry_header e = {};
	const uint8_t *bytes = NULL;
	int ret = 0;

	*_length = VHDX_PAGE;
	ret = sector(r, 0, at, &bytes);
	if (ret != 0) {
		return ret;
	}
	if (vhdx_entry_decode(bytes, &e) != 0) {
		return 0;
	}
	/* Older sessions' entries are judged by their own GUID. */
	any.log_guid = e.log_guid;
	r->header = &any;
	ret = judge(r, at, &e);
	if (ret != 0) {
		r->header = header;
		return ret == -EBADMSG ? 0 : ret;
	}
	pieces = talloc_array(r, struct vhdx_log_piece,
			      (size_t)e.descriptors + 1);
	if (pieces == NULL) {
		r->header = header;
		return -ENOMEM;
	}
	ret = read_pieces(r, at, e.descriptors, pieces);
	r->header = header;
	if (ret == 0) {
		entry = (struct vhdx_log_entry) {
			.log_offset = at, .sequence = e.sequence,
			.length = e.length, .tail = e.tail,
			.flushed_file_offset = e.flushed_file_offset,
			.last_file_offset = e.last_file_offset,
			.log_guid = e.log_guid,
			.current_guid = !guid_is_null(&header->log_guid) &&
				guid_equal(&e.log_guid, &header->log_guid),
			.piece_count = e.descriptors, .pieces = pieces,
		};
		entry.active = entry.current_guid &&
			active->head_sequence != 0 &&
			(at + log_length - active->tail) % log_length <=
			(active->head + log_length - active->tail) %
				log_length &&
			e.sequence <= active->head_sequence;
		*_stop = !each(private_data, &entry);
		*_length = e.length;
	}
	talloc_free(pieces);
	return ret;
}

int vhdx_log_walk(struct store *store,
		  bool (*each)(void *private_data,
			       const struct vhdx_log_entry *entry),
		  void *private_data)
{
	uint8_t headers[2][VHDX_HEADER_SIZE] = {};
	struct vhdx_sequence active = {};
	struct vhdx_header header = {};
	struct reader *r = NULL;
	const char *why = NULL;
	unsigned slot = 0;
	bool stop = false;
	uint64_t at = 0;
	int ret = 0;

	for (slot = 0; slot < 2; slot++) {
		ret = store_read(store, headers[slot], VHDX_HEADER_SIZE,
				 VHDX_HEADER_OFFSET(slot));
		if (ret != 0 && ret != -ENODATA) {
			return ret;
		}
	}
	ret = vhdx_header_select(headers[0], headers[1], &header, &slot,
				 &why);
	if (ret != 0) {
		return ret;
	}
	if (!guid_is_null(&header.log_guid)) {
		ret = vhdx_log_find(NULL, store, &header, &active, &why);
		if (ret != 0 && ret != -EBADMSG) {
			return ret;
		}
	}
	ret = reader_new(NULL, store, &header, &r);
	if (ret != 0) {
		return ret;
	}
	while (ret == 0 && !stop && at < header.log_length) {
		uint32_t length = 0;

		ret = walk_one(r, (uint32_t)at, &header, &active, each,
			       private_data, &length, &stop);
		at += length;
	}
	talloc_free(r);
	return ret;
}
