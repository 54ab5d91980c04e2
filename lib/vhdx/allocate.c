/*
 * Pieces that write, and what they change in the table.
 *
 * A write that finds its sectors present goes straight to the file.  Any other
 * becomes the one operation on its block: it takes space, writes the payload,
 * and only then changes the table's pages, all in one go, so that a commit has
 * either all of it or nothing ([MS-VHDX] 2.5; README.md has the order).
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"

int vhdx_space_take(struct vhdx *disk, uint64_t length, uint64_t *_offset)
{
	uint64_t offset = disk->space_end;
	uint64_t end = 0;
	uint64_t size = 0;
	int ret = 0;

	ret = checked_round_up(length, VHDX_MIB, &length);
	if (ret == 0) {
		ret = checked_add(offset, length, &end);
	}
	if (ret != 0 || end > VHDX_FILE_MAX) {
		return -EFBIG;
	}
	/* New space lies past the end, so that it is zero. */
	ret = store_size(disk->store, &size);
	if (ret == 0 && size > offset) {
		ret = checked_round_up(size, VHDX_MIB, &offset);
		if (ret == 0) {
			ret = checked_add(offset, length, &end);
		}
	}
	if (ret == 0) {
		ret = store_truncate(disk->store, end);
	}
	if (ret != 0) {
		return ret;
	}
	disk->space_end = end;
	disk->file_size = end;
	*_offset = offset;
	return 0;
}

/* ---- one operation for each block ----------------------------------------- */

/*
 * Whether two operations exclude each other: on one block always, and in one
 * chunk while one of them makes the bitmap block that the other needs too.
 */
static bool is_clash(const struct vhdx_piece *piece,
		     const struct vhdx_piece *other)
{
	uint64_t ratio = piece->request->disk->geometry.chunk_ratio;

	return other->block == piece->block ||
	       (other->makes_bitmap && piece->partial &&
		other->block / ratio == piece->block / ratio);
}

/* Whether the piece is the block's operation now; else it waits for that. */
static bool block_take(struct vhdx_piece *piece)
{
	struct vhdx *disk = piece->request->disk;
	struct vhdx_piece *other = NULL;

	piece->makes_bitmap = piece->partial && piece->bit_pages == 0;
	for (other = disk->busy; other != NULL; other = other->busy_next) {
		if (is_clash(piece, other)) {
			vhdx_queue_add(&other->blocked, &piece->wait);
			return false;
		}
	}
	piece->busy_next = disk->busy;
	disk->busy = piece;
	return true;
}

static void block_release(struct vhdx_piece *piece)
{
	struct vhdx *disk = piece->request->disk;
	struct vhdx_piece **at = &disk->busy;
	struct vhdx_queue blocked = {};

	while (*at != piece) {
		at = &(*at)->busy_next;
	}
	*at = piece->busy_next;
	vhdx_queue_move(&blocked, &piece->blocked);
	vhdx_queue_wake(&blocked, 0);
}

/* What is read before it is written. */
void vhdx_piece_change_init(struct vhdx_piece *piece)
{
	piece->blocked.first = NULL;
	piece->bitmap_target = 0;
	piece->bat = NULL;
	piece->bitmap_bat = NULL;
	piece->bit_pages = 0;
	piece->reserved = 0;
	piece->partial = false;
}

static void unpin(struct vhdx_page **page)
{
	if (*page != NULL) {
		vhdx_page_unpin(*page);
		*page = NULL;
	}
}

static void unpin_all(struct vhdx_piece *piece)
{
	unsigned i = 0;

	unpin(&piece->bat);
	unpin(&piece->bitmap_bat);
	for (i = 0; i < piece->bit_pages; i++) {
		unpin(&piece->bits[i]);
	}
	piece->bit_pages = 0;
}

/* The operation is over; the piece may be gone afterwards. */
static void operation_end(struct vhdx_piece *piece, int result, bool changed)
{
	struct vhdx *disk = piece->request->disk;
	unsigned reserved = piece->reserved;

	unpin_all(piece);
	piece->reserved = 0;
	block_release(piece);
	if (changed) {
		/* With a share the piece waits for the turn's commit. */
		piece->at = piece->end;
		vhdx_commit_release(disk, reserved);
		if (!vhdx_gate_finish(disk, &piece->wait)) {
			vhdx_piece_end(piece, result);
		}
		return;
	}
	vhdx_commit_release(disk, reserved);
	vhdx_gate_exit(disk, &piece->wait);
	vhdx_piece_end(piece, result);
}

/* ---- pinning what the operation will change ------------------------------- */

/* The page's own pin; 0, -EINPROGRESS or an error. */
static int pin(struct vhdx_piece *piece, uint64_t offset,
	       struct vhdx_page **_page)
{
	int ret = vhdx_page_get(piece->request->disk, offset, &piece->wait,
				_page);

	if (ret != 0) {
		*_page = NULL;
		return ret;
	}
	vhdx_page_pin(*_page);
	return 0;
}

/* Pages that hold one block's bits; a block never straddles one more. */
static unsigned bit_pages_of(const struct vhdx *disk)
{
	uint32_t bytes = vhdx_geometry_sectors(&disk->geometry) / 8;

	return (bytes + VHDX_PAGE - 1) / VHDX_PAGE;
}

static int pin_bits(struct vhdx_piece *piece, uint64_t bitmap, bool fresh)
{
	struct vhdx *disk = piece->request->disk;
	const struct vhdx_geometry *g = &disk->geometry;
	uint64_t first = vhdx_geometry_first_bit(g, piece->block) / 8;
	uint64_t last = first + vhdx_geometry_sectors(g) / 8 - 1;
	uint64_t page = 0;
	int ret = 0;

	for (page = first / VHDX_PAGE; page <= last / VHDX_PAGE; page++) {
		struct vhdx_page **slot = &piece->bits[piece->bit_pages];
		uint64_t offset = bitmap + page * VHDX_PAGE;

		if (fresh) {
			ret = vhdx_page_fresh(disk, offset, slot);
			if (ret == 0) {
				vhdx_page_pin(*slot);
			} else {
				*slot = NULL;
			}
		} else {
			ret = pin(piece, offset, slot);
		}
		if (ret != 0) {
			return ret;
		}
		piece->bit_pages++;
	}
	return 0;
}

/* The bits of the sectors from offset to end of the block: set or clear. */
static void put_bits(struct vhdx_piece *piece, uint64_t from, uint64_t to,
		     bool set)
{
	const struct vhdx_geometry *g = &piece->request->disk->geometry;
	uint64_t first = vhdx_geometry_first_bit(g, piece->block);
	uint64_t base = first / 8 / VHDX_PAGE * VHDX_PAGE * 8;
	uint64_t bit = first + from / g->logical_sector - base;
	uint64_t end = first + to / g->logical_sector - base;

	while (bit < end) {
		struct vhdx_page *page = piece->bits[bit / (8 * VHDX_PAGE)];
		uint8_t *byte = &page->bytes[bit / 8 % VHDX_PAGE];

		if (bit % 8 == 0 && end - bit >= 8) {
			*byte = set ? 0xFF : 0;
			bit += 8;
			continue;
		}
		if (set) {
			*byte = (uint8_t)(*byte | 1U << bit % 8);
		} else {
			*byte = (uint8_t)(*byte & ~(1U << bit % 8));
		}
		bit++;
	}
}

static bool all_set(struct vhdx_piece *piece, uint64_t from, uint64_t to)
{
	const struct vhdx_geometry *g = &piece->request->disk->geometry;
	uint64_t first = vhdx_geometry_first_bit(g, piece->block);
	uint64_t base = first / 8 / VHDX_PAGE * VHDX_PAGE * 8;
	uint64_t bit = first + from / g->logical_sector - base;
	uint64_t end = first + to / g->logical_sector - base;

	while (bit < end) {
		struct vhdx_page *page = piece->bits[bit / (8 * VHDX_PAGE)];

		if ((page->bytes[bit / 8 % VHDX_PAGE] >> bit % 8 & 1) == 0) {
			return false;
		}
		bit++;
	}
	return true;
}

/* ---- writing -------------------------------------------------------------- */

static uint64_t within(const struct vhdx_piece *piece, uint64_t at)
{
	return at - piece->block * piece->request->disk->geometry.block_size;
}

/* The payload is in the file: now the table may say so. */
static void change_table(struct vhdx_piece *piece)
{
	struct vhdx *disk = piece->request->disk;
	const struct vhdx_geometry *g = &disk->geometry;
	unsigned at = 0;
	unsigned i = 0;

	if (piece->partial) {
		if (piece->state != VHDX_PARTIAL) {
			/* What an earlier life of the block left, 2.5.1.2 */
			put_bits(piece, 0, g->block_size, false);
		}
		put_bits(piece, within(piece, piece->at),
			 within(piece, piece->end), true);
		for (i = 0; i < piece->bit_pages; i++) {
			vhdx_page_dirty(piece->bits[i]);
		}
	}
	if (piece->bitmap_target != 0) {
		(void)vhdx_entry_page(disk,
				      vhdx_geometry_bitmap(g, piece->block),
				      &at);
		vhdx_page_entry_set(piece->bitmap_bat, at,
				    piece->bitmap_target | VHDX_PRESENT);
		vhdx_page_dirty(piece->bitmap_bat);
	}
	if (!piece->partial || piece->state != VHDX_PARTIAL) {
		(void)vhdx_entry_page(disk,
				      vhdx_geometry_payload(g, piece->block),
				      &at);
		vhdx_page_entry_set(piece->bat, at, piece->target |
				    (piece->partial ? VHDX_PARTIAL
						    : VHDX_PRESENT));
		vhdx_page_dirty(piece->bat);
	}
}

static void on_payload(struct store_io *io, int result)
{
	struct vhdx_piece *piece = io->private_data;

	if (result != 0) {
		operation_end(piece, result, false);
		return;
	}
	change_table(piece);
	operation_end(piece, 0, true);
}

static void submit_payload(struct vhdx_piece *piece, uint64_t target,
			   void (*done)(struct store_io *io, int result))
{
	struct vhdx_request *r = piece->request;

	piece->io = (struct store_io) {
		.op = STORE_WRITE,
		.buffer = r->buffer + (piece->at - r->offset),
		.offset = target + within(piece, piece->at),
		.length = piece->end - piece->at,
		.done = done, .private_data = piece,
	};
	store_submit(r->disk->store, &piece->io);
}

static void on_zeroed(struct store_io *io, int result)
{
	struct vhdx_piece *piece = io->private_data;

	if (result != 0) {
		operation_end(piece, result, false);
		return;
	}
	submit_payload(piece, piece->target, on_payload);
}

/* Whether others cannot see yet where this block is. */
static bool is_uncommitted(const struct vhdx_piece *piece)
{
	bool yes = piece->bat->dirty || piece->bat->committing;
	unsigned i = 0;

	for (i = 0; i < piece->bit_pages; i++) {
		yes = yes || piece->bits[i]->dirty ||
		      piece->bits[i]->committing;
	}
	return yes;
}

static void on_in_place(struct store_io *io, int result)
{
	struct vhdx_piece *piece = io->private_data;

	if (result == 0 && piece->uncommitted) {
		piece->at = piece->end;
		if (vhdx_gate_join(piece->request->disk, &piece->wait)) {
			return;
		}
	}
	vhdx_piece_end(piece, result);
}

/* Space of an unmapped block, kept for it: may it be used again? */
static bool anchor_is_good(struct vhdx *disk, uint64_t entry)
{
	uint64_t present = (entry & VHDX_ENTRY_OFFSET) | VHDX_PRESENT;

	return (entry & VHDX_ENTRY_STATE) == VHDX_UNMAPPED &&
	       (entry & VHDX_ENTRY_OFFSET) != 0 &&
	       vhdx_entry_check(disk, present, false) == 0;
}

/*
 * Takes the space that the operation needs.  Nothing refers to it before the
 * table is changed, so what a failure leaves behind is only unused.
 */
static int take_space(struct vhdx_piece *piece, uint64_t entry, bool *_zero)
{
	struct vhdx *disk = piece->request->disk;
	int ret = 0;

	*_zero = false;
	piece->target = entry & VHDX_ENTRY_OFFSET;
	if (piece->makes_bitmap) {
		ret = vhdx_space_take(disk, VHDX_BITMAP_SIZE,
				      &piece->bitmap_target);
		if (ret == 0) {
			ret = pin_bits(piece, piece->bitmap_target, true);
		}
		if (ret != 0) {
			return ret;
		}
	}
	if (piece->state == VHDX_PARTIAL) {
		return 0;
	}
	if (anchor_is_good(disk, entry)) {
		/* A short last block is whole to the disk, not to the file. */
		*_zero = piece->end - piece->at != disk->geometry.block_size;
		return 0;
	}
	return vhdx_space_take(disk, disk->geometry.block_size,
			       &piece->target);
}

static void operation_start(struct vhdx_piece *piece, uint64_t entry)
{
	struct vhdx *disk = piece->request->disk;
	bool zero = false;
	int ret = take_space(piece, entry, &zero);

	if (ret != 0) {
		operation_end(piece, ret, false);
		return;
	}
	if (!zero) {
		submit_payload(piece, piece->target, on_payload);
		return;
	}
	piece->io = (struct store_io) {
		.op = STORE_ZERO, .offset = piece->target,
		.length = disk->geometry.block_size,
		.done = on_zeroed, .private_data = piece,
	};
	store_submit(disk->store, &piece->io);
}

/* Pins the pages of a block that is or will be partial. */
static int pin_partial(struct vhdx_piece *piece)
{
	struct vhdx *disk = piece->request->disk;
	uint64_t entry = 0;
	unsigned at = 0;
	int ret = pin(piece,
		      vhdx_entry_page(disk,
				      vhdx_geometry_bitmap(&disk->geometry,
							   piece->block),
				      &at),
		      &piece->bitmap_bat);

	if (ret != 0) {
		return ret;
	}
	entry = vhdx_page_entry(piece->bitmap_bat, at);
	ret = vhdx_entry_check(disk, entry, true);
	if (ret != 0) {
		return ret;
	}
	if ((entry & VHDX_ENTRY_STATE) != VHDX_PRESENT) {
		/* A block cannot be partial without its bitmap. */
		return piece->state == VHDX_PARTIAL ? -EBADMSG : 0;
	}
	return pin_bits(piece, entry & VHDX_ENTRY_OFFSET, false);
}

static int write_prepare(struct vhdx_piece *piece, uint64_t *_entry,
			 bool *_in_place)
{
	struct vhdx *disk = piece->request->disk;
	const struct vhdx_geometry *g = &disk->geometry;
	uint64_t end = (piece->block + 1) * g->block_size;
	unsigned at = 0;
	int ret = pin(piece,
		      vhdx_entry_page(disk,
				      vhdx_geometry_payload(g, piece->block),
				      &at),
		      &piece->bat);

	if (ret != 0) {
		return ret;
	}
	*_entry = vhdx_page_entry(piece->bat, at);
	ret = vhdx_entry_check(disk, *_entry, false);
	if (ret != 0) {
		return ret;
	}
	piece->state = (unsigned)(*_entry & VHDX_ENTRY_STATE);
	*_in_place = piece->state == VHDX_PRESENT;
	piece->whole = within(piece, piece->at) == 0 &&
		       (piece->end == end || piece->end == g->size);
	piece->partial = !piece->whole &&
			 (piece->state == VHDX_PARTIAL ||
			  (piece->state == VHDX_NOT_PRESENT && g->has_parent));
	if (!piece->partial) {
		return 0;
	}
	ret = pin_partial(piece);
	if (ret != 0) {
		return ret;
	}
	if (piece->state == VHDX_PARTIAL) {
		*_in_place = all_set(piece, within(piece, piece->at),
				     within(piece, piece->end));
	}
	return 0;
}

void vhdx_piece_write(struct vhdx_piece *piece)
{
	struct vhdx *disk = piece->request->disk;
	bool in_place = false;
	uint64_t entry = 0;
	unsigned need = 0;
	int ret = 0;

	if (piece->at == piece->end) {
		/* Woken by the commit of its turn. */
		vhdx_piece_end(piece, 0);
		return;
	}
	if (disk->broken != 0) {
		vhdx_gate_exit(disk, &piece->wait);
		vhdx_piece_end(piece, disk->broken);
		return;
	}
	if (!vhdx_gate_enter(disk, &piece->wait, false)) {
		return;
	}
	ret = write_prepare(piece, &entry, &in_place);
	if (ret != 0) {
		unpin_all(piece);
		if (ret != -EINPROGRESS) {
			vhdx_gate_exit(disk, &piece->wait);
			vhdx_piece_end(piece, ret);
		}
		return;
	}
	if (in_place) {
		piece->uncommitted = is_uncommitted(piece);
		unpin_all(piece);
		vhdx_gate_exit(disk, &piece->wait);
		submit_payload(piece, entry & VHDX_ENTRY_OFFSET, on_in_place);
		return;
	}
	need = piece->partial ? 2 + bit_pages_of(disk) : 1;
	if (!vhdx_gate_enter(disk, &piece->wait, true) || !block_take(piece)) {
		unpin_all(piece);
		return;
	}
	if (!vhdx_commit_reserve(disk, need, &piece->wait)) {
		unpin_all(piece);
		block_release(piece);
		return;
	}
	piece->reserved = need;
	operation_start(piece, entry);
}

/* ---- unmapping ------------------------------------------------------------ */

static void on_punched(struct store_io *io, int result)
{
	/*
	 * The block reads as zero by its state already; space that could not
	 * be freed is zeroed when it is used again.
	 */
	(void)result;
	operation_end(io->private_data, 0, true);
}

/* Whether a block may read as anything but zero: its own, or its parent's. */
static bool holds_data(const struct vhdx_geometry *g, unsigned state)
{
	return state == VHDX_PRESENT || state == VHDX_PARTIAL ||
	       (state == VHDX_NOT_PRESENT && g->has_parent);
}

void vhdx_piece_unmap(struct vhdx_piece *piece)
{
	struct vhdx *disk = piece->request->disk;
	const struct vhdx_geometry *g = &disk->geometry;
	unsigned state = 0;
	uint64_t entry = 0;
	unsigned at = 0;
	int ret = disk->broken;

	if (piece->at == piece->end ||
	    (g->leave_allocated && !g->has_parent)) {
		vhdx_piece_end(piece, 0);
		return;
	}
	if (ret == 0) {
		ret = pin(piece,
			  vhdx_entry_page(disk,
					  vhdx_geometry_payload(g,
								piece->block),
					  &at),
			  &piece->bat);
	}
	if (ret == -EINPROGRESS) {
		return;
	}
	if (ret == 0) {
		entry = vhdx_page_entry(piece->bat, at);
		ret = vhdx_entry_check(disk, entry, false);
	}
	state = (unsigned)(entry & VHDX_ENTRY_STATE);
	if (ret != 0 || !holds_data(g, state)) {
		unpin_all(piece);
		vhdx_gate_exit(disk, &piece->wait);
		vhdx_piece_end(piece, ret);
		return;
	}
	if (!vhdx_gate_enter(disk, &piece->wait, true) || !block_take(piece)) {
		unpin_all(piece);
		return;
	}
	if (!vhdx_commit_reserve(disk, 1, &piece->wait)) {
		unpin_all(piece);
		block_release(piece);
		return;
	}
	piece->reserved = 1;
	if (state == VHDX_NOT_PRESENT) {
		vhdx_page_entry_set(piece->bat, at, VHDX_ZERO);
		vhdx_page_dirty(piece->bat);
		operation_end(piece, 0, true);
		return;
	}
	piece->target = entry & VHDX_ENTRY_OFFSET;
	vhdx_page_entry_set(piece->bat, at, piece->target | VHDX_UNMAPPED);
	vhdx_page_dirty(piece->bat);
	piece->io = (struct store_io) {
		.op = STORE_ZERO, .offset = piece->target,
		.length = g->block_size,
		.done = on_punched, .private_data = piece,
	};
	store_submit(disk->store, &piece->io);
}
