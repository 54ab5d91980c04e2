/*
 * From the frames of a log to the handles that are.
 */
#include "handle/handle.h"

#include <errno.h>
#include <string.h>

enum entry_state {
	ENTRY_FREE,
	ENTRY_LIVE,
	ENTRY_DROPPED,
	ENTRY_REFUSED,
};

struct entry {
	uint64_t id;
	enum entry_state state;
	uint32_t revision;
	size_t offset;
	struct handle_bytes payload;
};

struct handle_replay {
	struct entry *table;	/* open addressing, a power of two */
	size_t size;
	size_t used;
	size_t *live;		/* places of live entries */
	size_t *dropped;
	size_t dropped_count;
	struct handle_replay_counts counts;
};

static struct entry *entry_find(struct entry *table, size_t size, uint64_t id)
{
	size_t at = (size_t)(id * 0x9E3779B97F4A7C15ULL >> 20) & (size - 1);

	while (table[at].state != ENTRY_FREE && table[at].id != id) {
		at = (at + 1) & (size - 1);
	}
	return &table[at];
}

static int table_grow(struct handle_replay *replay)
{
	size_t size = replay->size == 0 ? 1024 : replay->size * 2;
	struct entry *table = talloc_zero_array(replay, struct entry, size);
	size_t i = 0;

	if (table == NULL) {
		return -ENOMEM;
	}
	for (i = 0; i < replay->size; i++) {
		if (replay->table[i].state != ENTRY_FREE) {
			*entry_find(table, size, replay->table[i].id) =
				replay->table[i];
		}
	}
	TALLOC_FREE(replay->table);
	replay->table = table;
	replay->size = size;
	return 0;
}

/* What is newest in the log for one handle; older frames change nothing. */
static int frame_apply(struct handle_replay *replay,
		       const struct handle_frame *frame, size_t synced)
{
	struct entry *entry = NULL;

	if (replay->used * 2 >= replay->size) {
		int ret = table_grow(replay);

		if (ret != 0) {
			return ret;
		}
	}
	entry = entry_find(replay->table, replay->size, frame->id);
	if (entry->state != ENTRY_FREE &&
	    (int32_t)(frame->revision - entry->revision) < 0) {
		return 0;
	}
	if (frame->damaged && frame->offset >= synced) {
		replay->counts.torn += frame->size;
		return 0;
	}
	if (entry->state == ENTRY_FREE) {
		replay->used++;
	}
	entry->id = frame->id;
	entry->revision = frame->revision;
	entry->offset = frame->offset;
	entry->payload = frame->payload;
	if (frame->damaged) {
		entry->state = ENTRY_REFUSED;
	} else if (frame->kind == HANDLE_FRAME_PUT) {
		entry->state = ENTRY_LIVE;
	} else {
		entry->state = ENTRY_DROPPED;
	}
	return 0;
}

/* Any handle may have had its newest state in a place that is damaged. */
static void hole_apply(struct handle_replay *replay)
{
	size_t i = 0;

	replay->counts.holes++;
	for (i = 0; i < replay->size; i++) {
		if (replay->table[i].state == ENTRY_LIVE) {
			replay->table[i].state = ENTRY_REFUSED;
		}
	}
}

static size_t log_synced(const uint8_t *log, size_t length)
{
	struct handle_frame frame = {};
	size_t synced = HANDLE_LOG_HEADER;
	size_t at = HANDLE_LOG_HEADER;
	int ret = 0;

	while ((ret = handle_frame_next(log, length, &at, &frame)) !=
	       -ENODATA) {
		if (ret == 0 && frame.synced > synced &&
		    frame.synced <= frame.offset) {
			synced = (size_t)frame.synced;
		}
	}
	return synced;
}

static int collect(struct handle_replay *replay)
{
	size_t i = 0;

	for (i = 0; i < replay->size; i++) {
		if (replay->table[i].state == ENTRY_LIVE) {
			replay->counts.live++;
		} else if (replay->table[i].state == ENTRY_REFUSED) {
			replay->counts.refused++;
		} else if (replay->table[i].state == ENTRY_DROPPED) {
			replay->dropped_count++;
		}
	}
	replay->live = talloc_array(replay, size_t, replay->counts.live);
	replay->dropped = talloc_array(replay, size_t, replay->dropped_count);
	if (replay->live == NULL || replay->dropped == NULL) {
		return -ENOMEM;
	}
	replay->counts.live = 0;
	replay->dropped_count = 0;
	for (i = 0; i < replay->size; i++) {
		if (replay->table[i].state == ENTRY_LIVE) {
			replay->live[replay->counts.live++] = i;
		} else if (replay->table[i].state == ENTRY_DROPPED) {
			replay->dropped[replay->dropped_count++] = i;
		}
	}
	return 0;
}

int handle_replay(TALLOC_CTX *mem_ctx, const uint8_t *log, size_t length,
		  struct handle_replay **_replay)
{
	struct handle_replay *replay = talloc_zero(mem_ctx,
						   struct handle_replay);
	struct handle_frame frame = {};
	size_t synced = log_synced(log, length);
	size_t at = HANDLE_LOG_HEADER;
	size_t before = at;
	int ret = 0;

	if (replay == NULL) {
		return -ENOMEM;
	}
	replay->counts.end = at;
	while (ret != -ENODATA) {
		before = at;
		ret = handle_frame_next(log, length, &at, &frame);
		if (ret == 0) {
			replay->counts.frames++;
			if (!frame.damaged) {
				replay->counts.end = at;
			}
			ret = frame_apply(replay, &frame, synced);
			if (ret != 0) {
				TALLOC_FREE(replay);
				return ret;
			}
		} else if (ret == -EBADMSG && before < synced) {
			hole_apply(replay);
		} else if (ret == -EBADMSG) {
			replay->counts.torn += at - before;
		}
	}
	ret = collect(replay);
	if (ret != 0) {
		TALLOC_FREE(replay);
		return ret;
	}
	*_replay = replay;
	return 0;
}

void handle_replay_counts(const struct handle_replay *replay,
			  struct handle_replay_counts *_counts)
{
	*_counts = replay->counts;
}

bool handle_replay_get(const struct handle_replay *replay, size_t i,
		       uint64_t *_id, struct handle_bytes *_payload)
{
	if (i >= replay->counts.live) {
		return false;
	}
	*_id = replay->table[replay->live[i]].id;
	*_payload = replay->table[replay->live[i]].payload;
	return true;
}

bool handle_replay_dropped(const struct handle_replay *replay, size_t i,
			   struct handle_frame *_frame)
{
	const struct entry *entry = NULL;

	if (i >= replay->dropped_count) {
		return false;
	}
	entry = &replay->table[replay->dropped[i]];
	*_frame = (struct handle_frame){
		.kind = HANDLE_FRAME_DROP, .revision = entry->revision,
		.id = entry->id, .offset = entry->offset,
		.payload = entry->payload,
	};
	return true;
}
