/*
 * The catalogue of a set's snapshots: a file of two slots, 1 MiB apart, each
 * holding one whole state under one checksum.  A change writes the slot that
 * does not hold the state in force.
 *
 * Each state says to which leaf it belongs.  Where a change moves the leaf as
 * well, the new state is written first and the set's header after it; until
 * then the set still names the old leaf, and the old state is the one found.
 */
#include <errno.h>
#include <string.h>

#include "store/store.h"
#include "util/crc32c.h"
#include "util/cursor.h"
#include "vhdset/vhdset_priv.h"

#define MAGIC "hvrssnap"
#define VERSION 1
#define SLOT_STEP 0x100000ULL
#define HEAD_SIZE 4096U
#define RECORD_SIZE 512U
#define CHECKSUM_AT 12

struct head {
	uint8_t magic[8];
	uint32_t version;
	uint32_t checksum;
	uint64_t sequence;
	uint32_t count;
	uint32_t record_size;
	struct guid leaf_parent;
	char leaf[VHDSET_NAME_MAX];
};

static void head_decode(const uint8_t bytes[HEAD_SIZE], struct head *_head)
{
	struct cursor c = {};

	cursor_init(&c, bytes, HEAD_SIZE);
	cursor_bytes(&c, _head->magic, sizeof(_head->magic));
	_head->version = cursor_le32(&c);
	_head->checksum = cursor_le32(&c);
	_head->sequence = cursor_le64(&c);
	_head->count = cursor_le32(&c);
	_head->record_size = cursor_le32(&c);
	cursor_guid(&c, &_head->leaf_parent);
	cursor_bytes(&c, _head->leaf, sizeof(_head->leaf));
}

static int head_validate(const struct head *head)
{
	if (memcmp(head->magic, MAGIC, 8) != 0) {
		return -EBADMSG;
	}
	if (head->version != VERSION) {
		return -ENOTSUP;
	}
	if (head->count > VHDSET_SNAPSHOTS_MAX ||
	    head->record_size != RECORD_SIZE ||
	    memchr(head->leaf, '\0', sizeof(head->leaf)) == NULL ||
	    vhdset_name_check(head->leaf) != 0) {
		return -EBADMSG;
	}
	return 0;
}

static void record_decode(struct cursor *in, struct vhdset_snapshot *s)
{
	const size_t begin = in->at;

	cursor_guid(in, &s->id);
	cursor_guid(in, &s->parent);
	cursor_guid(in, &s->log_id);
	s->created_ms = cursor_le64(in);
	s->type = cursor_le32(in);
	s->flags = cursor_le32(in);
	cursor_bytes(in, s->file, sizeof(s->file));
	cursor_seek(in, begin + RECORD_SIZE);
}

static int record_validate(const struct vhdset_snapshot *s)
{
	bool reference = s->flags & VHDSET_REFERENCE;

	if (guid_is_null(&s->id) ||
	    (s->type != VHDSET_VM && s->type != VHDSET_CDP &&
	     s->type != VHDSET_WRITEABLE) ||
	    memchr(s->file, '\0', sizeof(s->file)) == NULL) {
		return -EBADMSG;
	}
	if ((s->flags & ~(uint32_t)(VHDSET_TRACKED | VHDSET_REFERENCE)) != 0) {
		return -ENOTSUP;
	}
	if (reference ? s->file[0] != '\0'
		      : vhdset_name_check(s->file) != 0) {
		return -EBADMSG;
	}
	return 0;
}

static uint32_t checksum(const uint8_t *bytes, size_t length)
{
	static const uint8_t zero[4];
	uint32_t crc = 0;

	crc = crc32c(bytes, CHECKSUM_AT);
	crc = crc32c_more(crc, zero, sizeof(zero));
	return crc32c_more(crc, bytes + CHECKSUM_AT + 4,
			   length - CHECKSUM_AT - 4);
}

static int records_load(struct catalogue *cat, const uint8_t *bytes,
			size_t count)
{
	struct cursor c = {};
	size_t i = 0;
	int ret = 0;

	cat->list = talloc_zero_array(cat, struct vhdset_snapshot, count);
	if (cat->list == NULL) {
		return -ENOMEM;
	}
	cursor_init(&c, bytes, count * RECORD_SIZE);
	for (i = 0; i < count; i++) {
		record_decode(&c, &cat->list[i]);
		ret = record_validate(&cat->list[i]);
		if (ret != 0) {
			return ret;
		}
	}
	cat->count = count;
	return cursor_status(&c);
}

static int slot_parse(struct catalogue *cat, const uint8_t *head_bytes,
		      struct store *store, unsigned slot)
{
	struct head head = {};
	uint8_t *bytes = NULL;
	size_t length = 0;
	int ret = 0;

	head_decode(head_bytes, &head);
	ret = head_validate(&head);
	if (ret != 0) {
		return ret;
	}
	length = HEAD_SIZE + (size_t)head.count * RECORD_SIZE;
	bytes = talloc_size(cat, length);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	ret = store_read(store, bytes, length, slot * SLOT_STEP);
	if (ret == -ENODATA ||
	    (ret == 0 && checksum(bytes, length) != head.checksum)) {
		ret = -EBADMSG;
	}
	if (ret == 0) {
		ret = records_load(cat, bytes + HEAD_SIZE, head.count);
	}
	talloc_free(bytes);
	cat->sequence = head.sequence;
	cat->slot = slot;
	cat->leaf_parent = head.leaf_parent;
	memcpy(cat->leaf, head.leaf, sizeof(cat->leaf));
	return ret;
}

/* One slot; -EBADMSG when it holds no whole state. */
static int slot_load(TALLOC_CTX *mem_ctx, struct store *store, unsigned slot,
		     struct catalogue **_cat)
{
	uint8_t bytes[HEAD_SIZE] = {};
	struct catalogue *cat = NULL;
	int ret = 0;

	ret = store_read(store, bytes, sizeof(bytes), slot * SLOT_STEP);
	if (ret != 0) {
		return ret == -ENODATA ? -EBADMSG : ret;
	}
	cat = talloc_zero(mem_ctx, struct catalogue);
	if (cat == NULL) {
		return -ENOMEM;
	}
	ret = slot_parse(cat, bytes, store, slot);
	if (ret != 0) {
		talloc_free(cat);
		return ret;
	}
	*_cat = cat;
	return 0;
}

static int empty_new(TALLOC_CTX *mem_ctx, const char *leaf,
		     struct catalogue **_cat)
{
	struct catalogue *cat = NULL;

	cat = talloc_zero(mem_ctx, struct catalogue);
	if (cat == NULL) {
		return -ENOMEM;
	}
	cat->slot = 1;		/* the first change goes to slot 0 */
	memcpy(cat->leaf, leaf, strlen(leaf));
	*_cat = cat;
	return 0;
}

/* Of two states, the newer one that belongs to leaf. */
static struct catalogue *choose(struct catalogue *state[2], const char *leaf)
{
	struct catalogue *best = NULL;
	unsigned i = 0;

	for (i = 0; i < 2; i++) {
		if (state[i] != NULL && strcmp(state[i]->leaf, leaf) == 0 &&
		    (best == NULL || state[i]->sequence > best->sequence)) {
			best = state[i];
		}
	}
	return best;
}

/*
 * -EBADMSG only when neither slot is whole.  A catalogue whose very first
 * change was cut off has one broken slot and one that was never written.
 */
static int states_judge(struct store *store, const int error[2])
{
	uint8_t bytes[HEAD_SIZE] = {};
	int ret = 0;

	if (error[0] == -ENOTSUP || error[1] == -ENOTSUP) {
		return -ENOTSUP;
	}
	if (error[0] == 0 || error[1] == 0) {
		return -ESTALE;
	}
	ret = store_read(store, bytes, sizeof(bytes), SLOT_STEP);
	return ret == -ENODATA ? 0 : -EBADMSG;
}

int catalogue_load(TALLOC_CTX *mem_ctx, struct store *store, const char *leaf,
		   struct catalogue **_catalogue)
{
	struct catalogue *state[2] = {};
	struct catalogue *best = NULL;
	int error[2] = {};
	unsigned i = 0;
	int ret = 0;

	if (store == NULL) {
		return empty_new(mem_ctx, leaf, _catalogue);
	}
	for (i = 0; i < 2; i++) {
		error[i] = slot_load(mem_ctx, store, i, &state[i]);
		if (error[i] != 0 && error[i] != -EBADMSG &&
		    error[i] != -ENOTSUP) {
			ret = error[i];
		}
	}
	best = ret == 0 ? choose(state, leaf) : NULL;
	for (i = 0; i < 2; i++) {
		/* A later change must be newer than any that was cut off. */
		if (best != NULL && state[i] != NULL && state[i] != best) {
			if (state[i]->sequence > best->sequence) {
				best->sequence = state[i]->sequence;
			}
			talloc_free(state[i]);
			state[i] = NULL;
		}
	}
	if (best != NULL) {
		*_catalogue = best;
		return 0;
	}
	talloc_free(state[0]);
	talloc_free(state[1]);
	if (ret == 0) {
		ret = states_judge(store, error);
	}
	return ret == 0 ? empty_new(mem_ctx, leaf, _catalogue) : ret;
}

static void state_encode(const struct catalogue *cat, uint8_t *bytes,
			 size_t length)
{
	struct cursor_put c = {};
	size_t i = 0;

	cursor_put_init(&c, bytes, length);
	cursor_put_bytes(&c, MAGIC, 8);
	cursor_put_le32(&c, VERSION);
	cursor_put_le32(&c, 0);
	cursor_put_le64(&c, cat->sequence);
	cursor_put_le32(&c, (uint32_t)cat->count);
	cursor_put_le32(&c, RECORD_SIZE);
	cursor_put_guid(&c, &cat->leaf_parent);
	cursor_put_bytes(&c, cat->leaf, sizeof(cat->leaf));
	for (i = 0; i < cat->count; i++) {
		const struct vhdset_snapshot *s = &cat->list[i];

		cursor_put_seek(&c, HEAD_SIZE + i * RECORD_SIZE);
		cursor_put_guid(&c, &s->id);
		cursor_put_guid(&c, &s->parent);
		cursor_put_guid(&c, &s->log_id);
		cursor_put_le64(&c, s->created_ms);
		cursor_put_le32(&c, s->type);
		cursor_put_le32(&c, s->flags);
		cursor_put_bytes(&c, s->file, sizeof(s->file));
	}
	cursor_put_seek(&c, CHECKSUM_AT);
	cursor_put_le32(&c, checksum(bytes, length));
}

int catalogue_save(struct store *store, const struct catalogue *old,
		   struct catalogue *next)
{
	size_t length = HEAD_SIZE + next->count * RECORD_SIZE;
	uint8_t *bytes = NULL;
	int ret = 0;

	if (next->count > VHDSET_SNAPSHOTS_MAX) {
		return -EFBIG;
	}
	bytes = talloc_zero_size(next, length);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	next->sequence = old->sequence + 1;
	next->slot = 1 - old->slot;
	state_encode(next, bytes, length);
	ret = store_write(store, bytes, length, next->slot * SLOT_STEP);
	if (ret == 0) {
		ret = store_flush(store);
	}
	talloc_free(bytes);
	return ret;
}
