/*
 * The record that the processes of a shared disk see: what each must know
 * before it changes anything, so that taking the lock needs no read of the
 * disk.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"
#include "util/cursor.h"

enum flags {
	ACTIVE = 1,	/* somebody has joined; the rest means something */
	BUSY = 2,	/* a turn is under way, or its process died in it */
	SESSION = 4,	/* FileWriteGuid of the session is written */
	DATA = 8,	/* and its DataWriteGuid */
	LOG = 16,	/* the header names the log GUID below */
};

struct record {
	uint64_t generation;
	uint32_t flags;
	uint32_t slot;
	uint64_t header_sequence;
	struct guid file_write_guid;
	struct guid data_write_guid;
	struct guid log_guid;
	uint64_t log_sequence;
	uint32_t log_next;
	uint32_t bat_length;
	uint64_t bat_offset;
	uint64_t space_end;
	uint64_t size;
};

static int record_decode(const uint8_t *bytes, struct record *r)
{
	struct cursor c = {};

	cursor_init(&c, bytes, VHDX_SHARE_RECORD);
	r->generation = cursor_le64(&c);
	r->header_sequence = cursor_le64(&c);
	cursor_guid(&c, &r->file_write_guid);
	cursor_guid(&c, &r->data_write_guid);
	cursor_guid(&c, &r->log_guid);
	r->log_sequence = cursor_le64(&c);
	r->log_next = cursor_le32(&c);
	r->bat_length = cursor_le32(&c);
	r->bat_offset = cursor_le64(&c);
	r->space_end = cursor_le64(&c);
	r->size = cursor_le64(&c);
	cursor_seek(&c, VHDX_SHARE_RECORD - 8);
	r->flags = cursor_le32(&c);
	r->slot = cursor_le32(&c);
	return cursor_status(&c);
}

static void record_encode(const struct record *r, uint8_t *bytes)
{
	struct cursor_put c = {};

	memset(bytes, 0, VHDX_SHARE_RECORD);
	cursor_put_init(&c, bytes, VHDX_SHARE_RECORD);
	cursor_put_le64(&c, r->generation);
	cursor_put_le64(&c, r->header_sequence);
	cursor_put_guid(&c, &r->file_write_guid);
	cursor_put_guid(&c, &r->data_write_guid);
	cursor_put_guid(&c, &r->log_guid);
	cursor_put_le64(&c, r->log_sequence);
	cursor_put_le32(&c, r->log_next);
	cursor_put_le32(&c, r->bat_length);
	cursor_put_le64(&c, r->bat_offset);
	cursor_put_le64(&c, r->space_end);
	cursor_put_le64(&c, r->size);
	cursor_put_seek(&c, VHDX_SHARE_RECORD - 8);
	cursor_put_le32(&c, r->flags);
	cursor_put_le32(&c, r->slot);
}

static int record_store(struct vhdx *disk, bool busy)
{
	uint8_t bytes[VHDX_SHARE_RECORD] = {};
	struct record r = {
		.generation = disk->gate.generation,
		.flags = ACTIVE | (busy ? BUSY : 0) |
			 (disk->session ? SESSION : 0) |
			 (disk->data_session ? DATA : 0) |
			 (disk->log.active ? LOG : 0),
		.slot = disk->slot,
		.header_sequence = disk->header.sequence,
		.file_write_guid = disk->header.file_write_guid,
		.data_write_guid = disk->header.data_write_guid,
		.log_guid = disk->log.guid,
		.log_sequence = disk->log.sequence,
		.log_next = disk->log.next,
		.bat_length = disk->layout.bat_length,
		.bat_offset = disk->layout.bat_offset,
		.space_end = disk->space_end,
		.size = disk->geometry.size,
	};

	record_encode(&r, bytes);
	return disk->share->ops->store(disk->share, bytes);
}

static int adopt(struct vhdx *disk, const struct record *r)
{
	struct vhdx_geometry g = disk->geometry;
	int ret = 0;

	g.size = r->size;
	ret = vhdx_geometry_fill(&g);
	if (ret != 0 || r->slot > 1 ||
	    r->log_next >= disk->header.log_length ||
	    r->space_end > VHDX_FILE_MAX) {
		return -EBADMSG;
	}
	disk->geometry = g;
	disk->slot = r->slot;
	disk->header.sequence = r->header_sequence;
	disk->header.file_write_guid = r->file_write_guid;
	disk->header.data_write_guid = r->data_write_guid;
	disk->log.active = (r->flags & LOG) != 0;
	disk->log.guid = r->log_guid;
	disk->log.sequence = r->log_sequence;
	disk->log.next = r->log_next;
	disk->header.log_guid = (struct guid) {};
	if (disk->log.active) {
		disk->header.log_guid = r->log_guid;
	}
	disk->layout.bat_length = r->bat_length;
	disk->layout.bat_offset = r->bat_offset;
	disk->space_end = r->space_end;
	disk->session = (r->flags & SESSION) != 0;
	disk->data_session = (r->flags & DATA) != 0;
	return 0;
}

/* Another process died in its turn: its log says what it had done. */
static int repair(struct vhdx *disk, const struct record *r)
{
	const char *why = NULL;
	uint64_t size = 0;
	int ret = 0;

	vhdx_pages_forget(disk);
	disk->session = (r->flags & SESSION) != 0;
	disk->data_session = (r->flags & DATA) != 0;
	ret = vhdx_session_recover(disk, &why);
	if (ret == 0) {
		ret = vhdx_load_regions(disk, &why);
	}
	if (ret == 0) {
		ret = vhdx_load_metadata(disk, &why);
	}
	if (ret == 0) {
		ret = store_size(disk->store, &size);
	}
	if (ret == 0) {
		ret = checked_round_up(size, VHDX_MIB, &size);
	}
	if (ret != 0) {
		return ret;
	}
	disk->space_end = size > r->space_end ? size : r->space_end;
	/* Nobody may go on with what it read meanwhile. */
	disk->gate.generation = r->generation + (1ULL << 48) + 1;
	return 0;
}

int vhdx_share_enter(struct vhdx *disk, bool *_first)
{
	struct vhdx_share *share = disk->share;
	uint8_t bytes[VHDX_SHARE_RECORD] = {};
	struct record r = {};
	int ret = 0;

	ret = share->ops->load(share, bytes);
	if (ret == 0) {
		ret = record_decode(bytes, &r);
	}
	if (_first != NULL) {
		*_first = (r.flags & ACTIVE) == 0;
	}
	if (ret == 0 && (r.flags & ACTIVE) == 0) {
		if (_first == NULL) {
			/* The caller lost the record under an open disk. */
			ret = -EIO;
		}
	} else if (ret == 0 && (r.flags & BUSY) != 0) {
		ret = repair(disk, &r);
	} else if (ret == 0) {
		ret = adopt(disk, &r);
		if (ret == 0 && r.generation != disk->gate.generation) {
			vhdx_pages_forget(disk);
			disk->gate.generation = r.generation;
		}
	}
	if (ret == 0 && (r.flags & ACTIVE) != 0) {
		ret = record_store(disk, true);
	}
	if (ret != 0) {
		share->ops->unlock(share);
	}
	return ret;
}

int vhdx_share_beside(struct vhdx *disk)
{
	uint8_t bytes[VHDX_SHARE_RECORD] = {};
	struct record r = {};
	int ret = disk->share->ops->load(disk->share, bytes);

	if (ret == 0) {
		ret = record_decode(bytes, &r);
	}
	if (ret == 0 && (r.flags & ACTIVE) == 0) {
		ret = -EAGAIN;
	}
	if (ret == 0) {
		ret = adopt(disk, &r);
	}
	if (ret == 0) {
		disk->gate.generation = r.generation;
	}
	return ret;
}

int vhdx_share_lock(struct vhdx *disk, bool *_first)
{
	int ret = 0;

	if (disk->share == NULL) {
		if (_first != NULL) {
			*_first = true;
		}
		return 0;
	}
	ret = disk->share->ops->lock_wait(disk->share);
	if (ret != 0) {
		return ret;
	}
	return vhdx_share_enter(disk, _first);
}

int vhdx_share_unlock(struct vhdx *disk, bool changed, bool layout)
{
	int ret = 0;

	if (disk->share == NULL) {
		return 0;
	}
	if (changed) {
		disk->gate.generation++;
	}
	if (layout) {
		disk->gate.generation += 1ULL << 48;
	}
	ret = record_store(disk, false);
	disk->share->ops->unlock(disk->share);
	return ret;
}
