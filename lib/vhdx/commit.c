/*
 * Commits: the only way in which a changed page reaches the file.
 *
 *   1 flush     what the pages refer to becomes stable, and with it the pages
 *               that the commit before applied
 *   2 log       one entry with all pages that are dirty now
 *   3 flush     the change has happened: those who wait are told
 *   4 header    (first commit of a session) names the log; written and flushed
 *               before 3 counts
 *   5 apply     the pages go to their places
 *   6 flush     (share whose members have caches of their own) and are stable
 *               there, before others are told that they have changed
 *
 * The pages are copied before 1, so that what comes later belongs to the next
 * commit.  One runs at a time.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

enum step {
	FLUSH_DATA,
	WRITE_LOG,
	FLUSH_LOG,
	WRITE_HEADER,
	FLUSH_HEADER,
	APPLY,
	FLUSH_APPLIED,
};

int vhdx_commit_init(struct vhdx *disk)
{
	struct vhdx_commit *c = &disk->commit;

	c->copies = talloc_size(disk, (size_t)VHDX_COMMIT_MAX * VHDX_PAGE);
	c->entry = talloc_size(disk, vhdx_log_entry_size(VHDX_COMMIT_MAX));
	return c->copies != NULL && c->entry != NULL ? 0 : -ENOMEM;
}

static void commit_start(struct vhdx *disk);
static void commit_next(struct vhdx *disk);

bool vhdx_commit_reserve(struct vhdx *disk, unsigned pages,
			 struct vhdx_wait *wait)
{
	struct vhdx_commit *c = &disk->commit;

	if (disk->pages.dirty + c->reserved + pages > VHDX_COMMIT_MAX) {
		vhdx_gate_exit(disk, wait);
		vhdx_queue_add(&c->room, wait);
		if (disk->share == NULL && disk->pages.dirty > 0) {
			vhdx_commit_ask(disk, NULL);
		}
		return false;
	}
	c->reserved += pages;
	return true;
}

void vhdx_commit_release(struct vhdx *disk, unsigned pages)
{
	struct vhdx_queue room = {};

	disk->commit.reserved -= pages;
	if (disk->share == NULL && disk->pages.dirty >= VHDX_COMMIT_SOON) {
		vhdx_commit_ask(disk, NULL);
	}
	vhdx_queue_move(&room, &disk->commit.room);
	vhdx_queue_wake(&room, 0);
}

void vhdx_commit_ask(struct vhdx *disk, struct vhdx_wait *wait)
{
	struct vhdx_commit *c = &disk->commit;

	if (wait != NULL) {
		vhdx_queue_add(&c->waiting, wait);
	}
	if (c->running) {
		c->again = true;
		return;
	}
	commit_start(disk);
}

static void commit_end(struct vhdx *disk, int result)
{
	struct vhdx_commit *c = &disk->commit;
	struct vhdx_queue settled = {};
	struct vhdx_queue served = {};
	struct vhdx_queue room = {};
	unsigned i = 0;

	if (result != 0) {
		disk->broken = result;
		vhdx_queue_move(&c->served, &c->waiting);
	}
	for (i = 0; i < c->count; i++) {
		c->pages[i]->committing = false;
		vhdx_page_unpin(c->pages[i]);
	}
	c->count = 0;
	vhdx_queue_move(&served, &c->served);
	vhdx_queue_move(&room, &c->room);
	c->running = false;
	if (result == 0 && c->again && disk->share == NULL) {
		commit_start(disk);
	}
	vhdx_queue_wake(&served, result);
	vhdx_gate_committed(disk, result);
	vhdx_queue_wake(&room, result);
	if (!c->running) {
		vhdx_queue_move(&settled, &c->settled);
		vhdx_queue_wake(&settled, 0);
	}
}

static void on_step(struct store_io *io, int result)
{
	struct vhdx *disk = io->private_data;
	struct vhdx_commit *c = &disk->commit;

	if (result != 0 && c->error == 0) {
		c->error = result;
	}
	c->applying--;
	if (c->applying > 0) {
		return;
	}
	if (c->error != 0) {
		commit_end(disk, c->error);
		return;
	}
	commit_next(disk);
}

static void submit(struct vhdx *disk, unsigned slot, enum store_op op,
		   void *buffer, uint64_t offset, uint64_t length)
{
	struct vhdx_commit *c = &disk->commit;

	c->ios[slot] = (struct store_io) {
		.op = op, .buffer = buffer, .offset = offset,
		.length = length, .done = on_step, .private_data = disk,
	};
	c->applying++;
	store_submit(disk->store, &c->ios[slot]);
}

static void submit_flush(struct vhdx *disk)
{
	submit(disk, 0, STORE_FLUSH, NULL, 0, 0);
}

static int submit_log(struct vhdx *disk)
{
	struct vhdx_commit *c = &disk->commit;
	struct vhdx_log_page pages[VHDX_COMMIT_MAX] = {};
	uint64_t offset = disk->header.log_offset;
	uint64_t size = 0;
	size_t total = vhdx_log_entry_size(c->count);
	size_t first = 0;
	unsigned i = 0;
	int ret = 0;

	if (!disk->log.active) {
		ret = vhdx_log_begin(disk);
		if (ret != 0) {
			return ret;
		}
	}
	ret = store_size(disk->store, &size);
	if (ret != 0) {
		return ret;
	}
	/* What was added since the flush is not stable yet. */
	if (size > c->stable_size) {
		size = c->stable_size;
	}
	for (i = 0; i < c->count; i++) {
		pages[i].offset = c->pages[i]->offset;
		pages[i].bytes = c->copies + (size_t)i * VHDX_PAGE;
	}
	vhdx_log_build(disk, pages, c->count, size, c->entry, &c->place);
	first = disk->header.log_length - c->place;
	if (first >= total) {
		submit(disk, 0, STORE_WRITE, c->entry, offset + c->place,
		       total);
		return 0;
	}
	/* Both are prepared before either can complete. */
	submit(disk, 0, STORE_WRITE, c->entry, offset + c->place, first);
	submit(disk, 1, STORE_WRITE, c->entry + first, offset, total - first);
	return 0;
}

static void submit_header(struct vhdx *disk)
{
	struct vhdx_commit *c = &disk->commit;
	uint64_t offset = 0;

	c->header = disk->header;
	c->header.log_guid = disk->log.guid;
	vhdx_header_next(disk, &c->header, c->header_bytes, &offset);
	submit(disk, 0, STORE_WRITE, c->header_bytes, offset,
	       VHDX_HEADER_SIZE);
}

static void submit_pages(struct vhdx *disk)
{
	struct vhdx_commit *c = &disk->commit;
	struct vhdx_queue served = {};
	unsigned i = 0;

	for (i = 0; i < c->count; i++) {
		submit(disk, i, STORE_WRITE,
		       c->copies + (size_t)i * VHDX_PAGE,
		       c->pages[i]->offset, VHDX_PAGE);
	}
	vhdx_queue_move(&served, &c->served);
	vhdx_queue_wake(&served, 0);
}

/* The step that ended leads to the next. */
static void commit_next(struct vhdx *disk)
{
	struct vhdx_commit *c = &disk->commit;
	int ret = 0;

	switch ((enum step)c->step) {
	case FLUSH_DATA:
		if (c->count == 0) {
			commit_end(disk, 0);
			return;
		}
		c->step = WRITE_LOG;
		ret = submit_log(disk);
		if (ret != 0) {
			commit_end(disk, ret);
		}
		return;
	case WRITE_LOG:
		c->step = FLUSH_LOG;
		submit_flush(disk);
		return;
	case FLUSH_LOG:
		if (!disk->log.active) {
			c->step = WRITE_HEADER;
			submit_header(disk);
			return;
		}
		c->step = APPLY;
		submit_pages(disk);
		return;
	case WRITE_HEADER:
		c->step = FLUSH_HEADER;
		submit_flush(disk);
		return;
	case FLUSH_HEADER:
		vhdx_header_done(disk, &c->header);
		disk->log.active = true;
		c->step = APPLY;
		submit_pages(disk);
		return;
	case APPLY:
		if (disk->share != NULL && disk->share->apart) {
			c->step = FLUSH_APPLIED;
			submit_flush(disk);
			return;
		}
		commit_end(disk, 0);
		return;
	case FLUSH_APPLIED:
		commit_end(disk, 0);
		return;
	}
}

static void take_pages(struct vhdx *disk)
{
	struct vhdx_commit *c = &disk->commit;
	unsigned i = 0;

	c->count = disk->pages.dirty;
	for (i = 0; i < c->count; i++) {
		struct vhdx_page *page = disk->pages.dirties[i];

		memcpy(c->copies + (size_t)i * VHDX_PAGE, page->bytes,
		       VHDX_PAGE);
		page->dirty = false;
		page->committing = true;
		c->pages[i] = page;
	}
	disk->pages.dirty = 0;
}

static void commit_start(struct vhdx *disk)
{
	struct vhdx_commit *c = &disk->commit;
	struct vhdx_queue served = {};

	if (disk->broken != 0) {
		vhdx_queue_move(&served, &c->waiting);
		vhdx_queue_wake(&served, disk->broken);
		vhdx_queue_move(&served, &c->room);
		vhdx_queue_wake(&served, disk->broken);
		return;
	}
	c->running = true;
	c->again = false;
	c->error = 0;
	c->applying = 0;
	c->step = FLUSH_DATA;
	vhdx_queue_move(&c->served, &c->waiting);
	take_pages(disk);
	c->stable_size = disk->space_end;
	submit_flush(disk);
}

int vhdx_commit_wait(struct vhdx *disk)
{
	struct vhdx_commit *c = &disk->commit;
	struct vhdx_log_page pages[VHDX_COMMIT_MAX] = {};
	unsigned i = 0;
	int ret = 0;

	if (disk->pages.dirty == 0) {
		return 0;
	}
	take_pages(disk);
	for (i = 0; i < c->count; i++) {
		pages[i].offset = c->pages[i]->offset;
		pages[i].bytes = c->copies + (size_t)i * VHDX_PAGE;
	}
	ret = vhdx_log_commit(disk, pages, c->count);
	for (i = 0; i < c->count; i++) {
		c->pages[i]->committing = false;
		vhdx_page_unpin(c->pages[i]);
	}
	c->count = 0;
	if (ret != 0) {
		/* The pages are clean now, yet not in the file. */
		disk->broken = ret;
	}
	return ret;
}
