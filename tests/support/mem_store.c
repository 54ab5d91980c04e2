/* A recording, failing store in memory. */
#include "support/mem_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <tevent.h>

#include "util/checked.h"

#define PAGE 4096
#define BUCKETS 4096

struct page {
	struct page *next;
	uint64_t number;
	uint8_t bytes[PAGE];
};

enum event_kind { EVENT_WRITE, EVENT_ZERO, EVENT_TRUNCATE, EVENT_FLUSH };

struct event {
	enum event_kind kind;
	uint64_t offset;
	uint64_t length;
	uint8_t *bytes;
};

struct mem_store {
	struct store store;
	struct tevent_context *ev;
	struct tevent_immediate *kick;
	struct page *pages[BUCKETS];
	uint64_t page_count;
	uint64_t size;
	struct store_io *queue[1024];
	size_t queued;
	bool kicked;
	uint64_t shuffle;
	uint64_t calls;
	uint64_t fail_at;
	int fail_error;
	bool fail_on;
	bool recording;
	struct mem_store *base;
	struct event *events;
	size_t event_count;
	size_t event_room;
};

static struct mem_store *of(struct store *store)
{
	return (struct mem_store *)store;
}

static uint64_t draw(uint64_t *seed)
{
	uint64_t x = *seed += 0x9E3779B97F4A7C15ULL;

	x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ULL;
	x = (x ^ x >> 27) * 0x94D049BB133111EBULL;
	return x ^ x >> 31;
}

/* ---- content -------------------------------------------------------------- */

static struct page **slot_of(struct mem_store *ms, uint64_t number)
{
	struct page **slot = &ms->pages[(number ^ number >> 16) % BUCKETS];

	while (*slot != NULL && (*slot)->number != number) {
		slot = &(*slot)->next;
	}
	return slot;
}

static void content_write(struct mem_store *ms, const uint8_t *bytes,
			  uint64_t length, uint64_t offset)
{
	if (length > 0 && offset + length > ms->size) {
		ms->size = offset + length;
	}
	while (length > 0) {
		uint64_t at = offset % PAGE;
		uint64_t n = PAGE - at < length ? PAGE - at : length;
		struct page **slot = slot_of(ms, offset / PAGE);

		if (*slot == NULL) {
			*slot = calloc(1, sizeof(**slot));
			if (*slot == NULL) {
				abort();
			}
			(*slot)->number = offset / PAGE;
			ms->page_count++;
		}
		memcpy((*slot)->bytes + at, bytes, n);
		bytes += n;
		offset += n;
		length -= n;
	}
}

static void content_read(struct mem_store *ms, uint8_t *bytes, uint64_t length,
			 uint64_t offset)
{
	while (length > 0) {
		uint64_t at = offset % PAGE;
		uint64_t n = PAGE - at < length ? PAGE - at : length;
		struct page **slot = slot_of(ms, offset / PAGE);

		if (*slot == NULL) {
			memset(bytes, 0, n);
		} else {
			memcpy(bytes, (*slot)->bytes + at, n);
		}
		bytes += n;
		offset += n;
		length -= n;
	}
}

static void page_drop(struct mem_store *ms, struct page **slot)
{
	struct page *gone = *slot;

	*slot = gone->next;
	free(gone);
	ms->page_count--;
}

/* Walks the pages there are, not the range, which may be terabytes. */
static void content_zero(struct mem_store *ms, uint64_t offset, uint64_t end)
{
	size_t i = 0;

	for (i = 0; i < BUCKETS; i++) {
		struct page **slot = &ms->pages[i];

		while (*slot != NULL) {
			uint64_t from = (*slot)->number * PAGE;
			uint64_t low = offset > from ? offset : from;
			uint64_t high = end < from + PAGE ? end : from + PAGE;

			if (low == from && high == from + PAGE) {
				page_drop(ms, slot);
				continue;
			}
			if (low < high) {
				memset((*slot)->bytes + (low - from), 0,
				       high - low);
			}
			slot = &(*slot)->next;
		}
	}
}

static void content_truncate(struct mem_store *ms, uint64_t size)
{
	if (size < ms->size) {
		content_zero(ms, size, UINT64_MAX - PAGE);
	}
	ms->size = size;
}

/* ---- recording ------------------------------------------------------------ */

static void note(struct mem_store *ms, enum event_kind kind, uint64_t offset,
		 uint64_t length, const void *bytes)
{
	struct event *e = NULL;

	if (!ms->recording) {
		return;
	}
	if (ms->event_count == ms->event_room) {
		ms->event_room = ms->event_room * 2 + 64;
		ms->events = realloc(ms->events,
				     ms->event_room * sizeof(*ms->events));
		if (ms->events == NULL) {
			abort();
		}
	}
	e = &ms->events[ms->event_count++];
	*e = (struct event) {
		.kind = kind, .offset = offset, .length = length,
	};
	if (bytes != NULL) {
		e->bytes = malloc(length + 1);
		if (e->bytes == NULL) {
			abort();
		}
		memcpy(e->bytes, bytes, length);
	}
}

static int call(struct mem_store *ms)
{
	ms->calls++;
	if (ms->fail_at != 0 &&
	    (ms->calls == ms->fail_at ||
	     (ms->fail_on && ms->calls > ms->fail_at))) {
		return ms->fail_error;
	}
	return 0;
}

/* ---- operations ----------------------------------------------------------- */

static int mem_read(struct store *store, void *buffer, size_t length,
		    uint64_t offset, size_t *_got)
{
	struct mem_store *ms = of(store);
	uint64_t there = 0;
	int ret = call(ms);

	if (ret != 0) {
		return ret;
	}
	if (offset < ms->size) {
		there = ms->size - offset;
	}
	*_got = length < there ? length : (size_t)there;
	content_read(ms, buffer, *_got, offset);
	return 0;
}

static int mem_write(struct store *store, const void *buffer, size_t length,
		     uint64_t offset)
{
	int ret = call(of(store));

	if (ret != 0) {
		return ret;
	}
	if (!checked_inside(offset, length, INT64_MAX)) {
		return -EFBIG;
	}
	note(of(store), EVENT_WRITE, offset, length, buffer);
	content_write(of(store), buffer, length, offset);
	return 0;
}

static int mem_flush(struct store *store)
{
	int ret = call(of(store));

	if (ret != 0) {
		return ret;
	}
	note(of(store), EVENT_FLUSH, of(store)->event_count, 0, NULL);
	return 0;
}

static int mem_zero(struct store *store, uint64_t offset, uint64_t length)
{
	struct mem_store *ms = of(store);
	int ret = call(ms);

	if (ret != 0) {
		return ret;
	}
	if (!checked_inside(offset, length, ms->size)) {
		if (offset >= ms->size) {
			return 0;
		}
		length = ms->size - offset;
	}
	note(ms, EVENT_ZERO, offset, length, NULL);
	content_zero(ms, offset, offset + length);
	return 0;
}

static int mem_size(struct store *store, uint64_t *_size)
{
	int ret = call(of(store));

	if (ret == 0) {
		*_size = of(store)->size;
	}
	return ret;
}

static int mem_truncate(struct store *store, uint64_t size)
{
	int ret = call(of(store));

	if (ret != 0) {
		return ret;
	}
	if (size > INT64_MAX) {
		return -EFBIG;
	}
	note(of(store), EVENT_TRUNCATE, size, 0, NULL);
	content_truncate(of(store), size);
	return 0;
}

static int mem_identity(struct store *store, struct store_identity *_id)
{
	int ret = call(of(store));

	_id->volume = 1;
	_id->file = (uint64_t)(uintptr_t)store;
	return ret;
}

static int run(struct mem_store *ms, struct store_io *io)
{
	size_t got = 0;
	int ret = 0;

	switch (io->op) {
	case STORE_READ:
		ret = mem_read(&ms->store, io->buffer, io->length, io->offset,
			       &got);
		if (ret != 0) {
			return ret;
		}
		io->got = got;
		if (got < io->length) {
			memset((uint8_t *)io->buffer + got, 0,
			       io->length - got);
		}
		return 0;
	case STORE_WRITE:
		return mem_write(&ms->store, io->buffer, io->length,
				 io->offset);
	case STORE_FLUSH:
		ret = call(ms);
		if (ret == 0) {
			note(ms, EVENT_FLUSH, io->at, 0, NULL);
		}
		return ret;
	case STORE_ZERO:
		return mem_zero(&ms->store, io->offset, io->length);
	}
	return -EINVAL;
}

static void on_kick(struct tevent_context *ev, struct tevent_immediate *im,
		    void *private_data)
{
	struct mem_store *ms = private_data;
	struct store_io *io = NULL;
	size_t pick = 0;

	if (ms->queued == 0) {
		ms->kicked = false;
		return;
	}
	if (ms->shuffle != 0) {
		pick = draw(&ms->shuffle) % ms->queued;
	}
	io = ms->queue[pick];
	memmove(ms->queue + pick, ms->queue + pick + 1,
		(ms->queued - pick - 1) * sizeof(ms->queue[0]));
	ms->queued--;
	/* One at a time, so that other events of the loop come in between. */
	tevent_schedule_immediate(im, ev, on_kick, ms);
	io->done(io, run(ms, io));
}

static void mem_submit(struct store *store, struct store_io *io)
{
	struct mem_store *ms = of(store);

	if (ms->queued == sizeof(ms->queue) / sizeof(ms->queue[0])) {
		abort();
	}
	/* A flush is good for what had been done by now, and no more. */
	io->at = ms->event_count;
	ms->queue[ms->queued++] = io;
	if (!ms->kicked) {
		ms->kicked = true;
		tevent_schedule_immediate(ms->kick, ms->ev, on_kick, ms);
	}
}

static const struct store_ops mem_ops = {
	.name = "memory",
	.read = mem_read,
	.write = mem_write,
	.flush = mem_flush,
	.zero = mem_zero,
	.size = mem_size,
	.truncate = mem_truncate,
	.identity = mem_identity,
	.submit = mem_submit,
};

/* ---- for tests ------------------------------------------------------------ */

static int mem_destructor(struct mem_store *ms)
{
	size_t i = 0;

	for (i = 0; i < BUCKETS; i++) {
		while (ms->pages[i] != NULL) {
			page_drop(ms, &ms->pages[i]);
		}
	}
	for (i = 0; i < ms->event_count; i++) {
		free(ms->events[i].bytes);
	}
	free(ms->events);
	return 0;
}

struct mem_store *mem_store_new(TALLOC_CTX *mem_ctx,
				struct tevent_context *ev)
{
	struct mem_store *ms = talloc_zero_size(mem_ctx, sizeof(*ms));

	if (ms == NULL) {
		abort();
	}
	talloc_set_name_const(ms, "struct mem_store");
	ms->store.ops = &mem_ops;
	ms->ev = ev;
	if (ev != NULL) {
		ms->kick = tevent_create_immediate(ms);
	}
	talloc_set_destructor(ms, mem_destructor);
	return ms;
}

struct store *mem_store_get(struct mem_store *ms)
{
	return &ms->store;
}

void mem_store_shuffle(struct mem_store *ms, uint64_t seed)
{
	ms->shuffle = seed;
}

void mem_store_fail(struct mem_store *ms, uint64_t nth, int error)
{
	ms->fail_at = nth == 0 ? 0 : ms->calls + nth;
	ms->fail_error = error;
	ms->fail_on = false;
}

void mem_store_fail_from(struct mem_store *ms, uint64_t nth, int error)
{
	mem_store_fail(ms, nth, error);
	ms->fail_on = true;
}

uint64_t mem_store_calls(const struct mem_store *ms)
{
	return ms->calls;
}

struct mem_store *mem_store_copy(TALLOC_CTX *mem_ctx, struct mem_store *ms)
{
	struct mem_store *copy = mem_store_new(mem_ctx, ms->ev);
	size_t i = 0;

	for (i = 0; i < BUCKETS; i++) {
		struct page *p = NULL;

		for (p = ms->pages[i]; p != NULL; p = p->next) {
			content_write(copy, p->bytes, PAGE, p->number * PAGE);
		}
	}
	copy->size = ms->size;
	return copy;
}

void mem_store_record(struct mem_store *ms)
{
	talloc_free(ms->base);
	ms->base = mem_store_copy(ms, ms);
	ms->recording = true;
}

size_t mem_store_events(const struct mem_store *ms)
{
	return ms->event_count;
}

static void replay(struct mem_store *ms, const struct event *e,
		   uint64_t *seed)
{
	uint64_t length = e->length;

	if (seed != NULL && e->kind == EVENT_WRITE && length > 512 &&
	    draw(seed) % 4 == 0) {
		/* Torn: a run of its sectors arrives. */
		uint64_t sectors = length / 512;
		uint64_t from = draw(seed) % sectors;
		uint64_t count = draw(seed) % (sectors - from) + 1;

		content_write(ms, e->bytes + from * 512, count * 512,
			      e->offset + from * 512);
		return;
	}
	switch (e->kind) {
	case EVENT_WRITE:
		content_write(ms, e->bytes, length, e->offset);
		break;
	case EVENT_ZERO:
		content_zero(ms, e->offset, e->offset + length);
		break;
	case EVENT_TRUNCATE:
		content_truncate(ms, e->offset);
		break;
	case EVENT_FLUSH:
		break;
	}
}

struct mem_store *mem_store_cut(TALLOC_CTX *mem_ctx, struct mem_store *ms,
				size_t cut, uint64_t seed)
{
	struct mem_store *left = mem_store_copy(mem_ctx, ms->base);
	size_t order[256];
	size_t stable = 0;
	size_t count = 0;
	size_t i = 0;

	for (i = 0; i < cut; i++) {
		if (ms->events[i].kind == EVENT_FLUSH &&
		    ms->events[i].offset > stable) {
			stable = ms->events[i].offset;
		}
	}
	for (i = 0; i < stable; i++) {
		replay(left, &ms->events[i], NULL);
	}
	if (seed == 0) {
		for (i = stable; i < cut; i++) {
			replay(left, &ms->events[i], NULL);
		}
		return left;
	}
	for (i = stable; i < cut; i++) {
		/* Sometimes all but one, sometimes none but one. */
		if (draw(&seed) % 3 != 0 && count < 256) {
			order[count++] = i;
		}
	}
	if (draw(&seed) % 2 == 0) {
		for (i = count; i > 1; i--) {
			size_t j = draw(&seed) % i;
			size_t t = order[i - 1];

			order[i - 1] = order[j];
			order[j] = t;
		}
	}
	for (i = 0; i < count; i++) {
		replay(left, &ms->events[order[i]], &seed);
	}
	return left;
}

int mem_store_load(struct mem_store *ms, const uint8_t *bytes, size_t length)
{
	content_truncate(ms, 0);
	content_write(ms, bytes, length, 0);
	return 0;
}

uint64_t mem_store_bytes_used(const struct mem_store *ms)
{
	return ms->page_count * PAGE;
}
