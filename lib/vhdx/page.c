/*
 * The cache of table and bitmap pages: a hash by file offset and a list by
 * last use.  It never holds more than its limit, but for pages that are
 * pinned, being loaded or dirty, whose number the requests under way bound.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#include "util/cursor.h"

struct vhdx_wait vhdx_wait_never;

void vhdx_queue_add(struct vhdx_queue *q, struct vhdx_wait *wait)
{
	wait->next = NULL;
	if (q->first == NULL) {
		q->first = wait;
	} else {
		q->last->next = wait;
	}
	q->last = wait;
}

void vhdx_queue_wake(struct vhdx_queue *q, int result)
{
	struct vhdx_wait *wait = q->first;

	q->first = NULL;
	while (wait != NULL) {
		struct vhdx_wait *next = wait->next;

		wait->wake(wait, result);
		wait = next;
	}
}

void vhdx_queue_move(struct vhdx_queue *to, struct vhdx_queue *from)
{
	if (from->first == NULL) {
		return;
	}
	if (to->first == NULL) {
		to->first = from->first;
	} else {
		to->last->next = from->first;
	}
	to->last = from->last;
	from->first = NULL;
}

int vhdx_pages_init(struct vhdx *disk, size_t bytes)
{
	struct vhdx_pages *pages = &disk->pages;

	if (bytes == 0) {
		bytes = 16 * VHDX_MIB;
	}
	if (bytes < VHDX_MIB) {
		bytes = VHDX_MIB;
	}
	pages->limit = bytes / VHDX_PAGE;
	pages->table_size = 256;
	while (pages->table_size < pages->limit && pages->table_size < 65536) {
		pages->table_size *= 2;
	}
	pages->table = talloc_zero_array(disk, struct vhdx_page *,
					 pages->table_size);
	return pages->table != NULL ? 0 : -ENOMEM;
}

static struct vhdx_page **slot_of(struct vhdx_pages *pages, uint64_t offset)
{
	uint64_t number = offset / VHDX_PAGE;

	number ^= number >> 17;
	return &pages->table[number & (pages->table_size - 1)];
}

static struct vhdx_page *find(struct vhdx_pages *pages, uint64_t offset)
{
	struct vhdx_page *p = *slot_of(pages, offset);

	while (p != NULL && p->offset != offset) {
		p = p->hash_next;
	}
	return p;
}

static void list_remove(struct vhdx_pages *pages, struct vhdx_page *p)
{
	if (p->newer != NULL) {
		p->newer->older = p->older;
	} else {
		pages->newest = p->older;
	}
	if (p->older != NULL) {
		p->older->newer = p->newer;
	} else {
		pages->oldest = p->newer;
	}
	p->newer = NULL;
	p->older = NULL;
}

static void list_add(struct vhdx_pages *pages, struct vhdx_page *p)
{
	p->older = pages->newest;
	if (pages->newest != NULL) {
		pages->newest->newer = p;
	} else {
		pages->oldest = p;
	}
	pages->newest = p;
}

static void touch(struct vhdx_pages *pages, struct vhdx_page *p)
{
	if (pages->newest != p) {
		list_remove(pages, p);
		list_add(pages, p);
	}
}

static void drop(struct vhdx_pages *pages, struct vhdx_page *p)
{
	struct vhdx_page **slot = slot_of(pages, p->offset);

	while (*slot != p) {
		slot = &(*slot)->hash_next;
	}
	*slot = p->hash_next;
	list_remove(pages, p);
	pages->count--;
	talloc_free(p);
}

static bool is_free(const struct vhdx_page *p)
{
	return p->pins == 0 && p->valid && !p->dirty;
}

static struct vhdx_page *make(struct vhdx *disk, uint64_t offset)
{
	struct vhdx_pages *pages = &disk->pages;
	struct vhdx_page **slot = slot_of(pages, offset);
	struct vhdx_page *p = pages->oldest;
	unsigned tries = 0;

	/* A page in use may be the oldest; a few looks find a free one. */
	for (tries = 0; pages->count >= pages->limit && p != NULL &&
			tries < 64; tries++) {
		struct vhdx_page *newer = p->newer;

		if (is_free(p)) {
			drop(pages, p);
		}
		p = newer;
	}
	p = talloc_zero(disk, struct vhdx_page);
	if (p == NULL) {
		return NULL;
	}
	p->disk = disk;
	p->offset = offset;
	p->hash_next = *slot;
	*slot = p;
	list_add(pages, p);
	pages->count++;
	return p;
}

/* The page's bytes arrived, or did not. */
static void loaded(struct vhdx_page *p, int result)
{
	struct vhdx_queue waiting = p->waiting;
	struct vhdx *disk = p->disk;

	p->waiting.first = NULL;
	p->valid = true;
	if (result != 0 || p->stale) {
		drop(&disk->pages, p);
	} else if (disk->overlay != NULL) {
		vhdx_overlay_apply(disk->overlay, p->bytes, p->offset,
				   VHDX_PAGE);
	}
	vhdx_queue_wake(&waiting, result);
}

static void on_loaded(struct store_io *io, int result)
{
	loaded(io->private_data, result);
}

int vhdx_page_find(struct vhdx *disk, uint64_t offset, struct vhdx_wait *wait,
		   struct vhdx_page **_page)
{
	struct vhdx_page *p = find(&disk->pages, offset);
	int ret = 0;

	if (p != NULL && p->valid) {
		touch(&disk->pages, p);
		*_page = p;
		return 0;
	}
	if (wait == &vhdx_wait_never) {
		return -EBUSY;
	}
	if (p != NULL) {
		if (wait == NULL) {
			return -EBUSY;
		}
		vhdx_queue_add(&p->waiting, wait);
		return -EINPROGRESS;
	}
	p = make(disk, offset);
	if (p == NULL) {
		return -ENOMEM;
	}
	if (wait != NULL) {
		p->io = (struct store_io) {
			.op = STORE_READ, .buffer = p->bytes,
			.offset = offset, .length = VHDX_PAGE,
			.done = on_loaded, .private_data = p,
		};
		vhdx_queue_add(&p->waiting, wait);
		store_submit(disk->store, &p->io);
		return -EINPROGRESS;
	}
	ret = store_read(disk->store, p->bytes, VHDX_PAGE, offset);
	if (ret != 0 && ret != -ENODATA) {
		p->valid = true;
		drop(&disk->pages, p);
		return ret;
	}
	loaded(p, 0);
	*_page = p;
	return 0;
}

int vhdx_page_fresh(struct vhdx *disk, uint64_t offset,
		    struct vhdx_page **_page)
{
	struct vhdx_page *p = find(&disk->pages, offset);

	if (p == NULL) {
		p = make(disk, offset);
	}
	if (p == NULL) {
		return -ENOMEM;
	}
	p->valid = true;
	memset(p->bytes, 0, VHDX_PAGE);
	*_page = p;
	return 0;
}

void vhdx_page_pin(struct vhdx_page *page)
{
	page->pins++;
}

void vhdx_page_unpin(struct vhdx_page *page)
{
	page->pins--;
}

void vhdx_page_dirty(struct vhdx_page *page)
{
	struct vhdx_pages *pages = &page->disk->pages;

	if (!page->dirty) {
		page->dirty = true;
		vhdx_page_pin(page);
		pages->dirties[pages->dirty++] = page;
	}
}

void vhdx_pages_forget(struct vhdx *disk)
{
	struct vhdx_page *p = disk->pages.oldest;

	while (p != NULL) {
		struct vhdx_page *newer = p->newer;

		if (is_free(p)) {
			drop(&disk->pages, p);
		} else if (!p->valid) {
			p->stale = true;
		}
		p = newer;
	}
}

void vhdx_page_entry_set(struct vhdx_page *page, unsigned at, uint64_t entry)
{
	struct cursor_put c = {};

	cursor_put_init(&c, page->bytes, VHDX_PAGE);
	cursor_put_seek(&c, at);
	cursor_put_le64(&c, entry);
}
