/*
 * The map: noting writes, and everything that changes the header.
 */
#include "cbt/cbt_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/store.h"

static bool bit_get(const uint8_t *bits, uint64_t n)
{
	return (bits[n / 8] & 1U << n % 8) != 0;
}

static void bit_set(uint8_t *bits, uint64_t n)
{
	bits[n / 8] |= (uint8_t)(1U << n % 8);
}

int cbt_bits_read(struct cbt *cbt, uint32_t slot, uint64_t at, size_t length,
		  uint8_t *bits)
{
	int ret = store_read(cbt->store, bits, length, cbt_bits_at(slot) + at);

	return ret == -ENODATA ? 0 : ret;
}

static int lock(struct cbt *cbt)
{
	int ret = 0;

	if (cbt->locked == 0 && cbt->lock.lock != NULL) {
		ret = cbt->lock.lock(cbt->lock.private_data);
	}
	cbt->locked += ret == 0;
	return ret;
}

static void unlock(struct cbt *cbt)
{
	cbt->locked--;
	if (cbt->locked == 0 && cbt->lock.unlock != NULL) {
		cbt->lock.unlock(cbt->lock.private_data);
	}
}

/* ---- the header ---------------------------------------------------------------- */

/* The copy with the larger sequence; its place is the sequence's parity. */
static int header_load(struct cbt *cbt, const char **_why)
{
	uint8_t *bytes = talloc_zero_size(cbt, CBT_HEADER_SIZE);
	struct cbt_header *h = talloc_zero(cbt, struct cbt_header);
	int found = -EBADMSG;
	int ret = 0;
	unsigned i = 0;

	if (bytes == NULL || h == NULL) {
		talloc_free(bytes);
		talloc_free(h);
		return -ENOMEM;
	}
	for (i = 0; i < 2; i++) {
		ret = store_read(cbt->store, bytes, CBT_HEADER_SIZE,
				 (uint64_t)i * CBT_HEADER_SIZE);
		if (ret == 0 || ret == -ENODATA) {
			ret = cbt_header_decode(bytes, h, _why);
		}
		if (ret == -ENOTSUP) {
			/* Newer than we: the other copy is no way around. */
			found = ret;
			break;
		}
		if (ret == 0 && (h->sequence & 1) == i &&
		    (found != 0 || h->sequence > cbt->header.sequence)) {
			cbt->header = *h;
			found = 0;
		} else if (ret != 0 && ret != -EBADMSG) {
			found = ret;
			break;
		}
	}
	talloc_free(bytes);
	talloc_free(h);
	return found;
}

/*
 * Writes h as the next header.  The caller has flushed what it speaks of.
 * Where that fails the old one may or may not be in force: it is read again.
 */
static int header_store(struct cbt *cbt, struct cbt_header *h)
{
	uint8_t *bytes = talloc_size(cbt, CBT_HEADER_SIZE);
	int ret = 0;

	if (bytes == NULL) {
		return -ENOMEM;
	}
	h->sequence = cbt->header.sequence + 1;
	cbt_header_encode(h, bytes);
	ret = store_write(cbt->store, bytes, CBT_HEADER_SIZE,
			  (h->sequence & 1) * CBT_HEADER_SIZE);
	if (ret == 0) {
		ret = store_flush(cbt->store);
	}
	talloc_free(bytes);
	if (ret == 0) {
		cbt->header = *h;
	} else {
		/* Which of the two is in force must be known before a note. */
		cbt->doubt = true;
	}
	return ret;
}

static struct cbt_header *header_copy(struct cbt *cbt)
{
	return talloc_memdup(cbt, &cbt->header, sizeof(cbt->header));
}

/* Changes nothing but the header. */
static int header_commit(struct cbt *cbt, struct cbt_header *h)
{
	int ret = header_store(cbt, h);

	talloc_free(h);
	return ret;
}

static int mark_index(const struct cbt_header *h, const struct guid *id)
{
	uint32_t i = 0;

	for (i = 0; i < h->count; i++) {
		if (guid_equal(&h->marks[i].id, id)) {
			return (int)i;
		}
	}
	return -ENOENT;
}

const struct cbt_header *cbt_header_get(const struct cbt *cbt)
{
	return &cbt->header;
}

/* ---- noting -------------------------------------------------------------------- */

static uint64_t regions(uint64_t size)
{
	return (size + CBT_REGION - 1) / CBT_REGION;
}

/* What is armed at once: a 4096th of a large disk. */
static uint64_t arm_size(const struct cbt *cbt)
{
	uint64_t size = CBT_GROUP;

	while (size * 4096 < cbt->header.size) {
		size *= 2;
	}
	return size;
}

/* Forgets what this process knows of the current slot. */
static int known_reset(struct cbt *cbt)
{
	uint64_t size = (regions(cbt->header.size) + 7) / 8;

	memset(cbt->armed, 0, CBT_ARMS / 8);
	/* Of a large disk most is never touched: the system's zeroes. */
	free(cbt->known);
	cbt->known_size = 0;
	cbt->known = calloc(1, size + 1);
	if (cbt->known == NULL) {
		return -ENOMEM;
	}
	cbt->known_size = size;
	return 0;
}

static bool in_range(uint64_t offset, uint64_t length)
{
	return offset <= CBT_SIZE_MAX && length <= CBT_SIZE_MAX - offset;
}

static bool all_known(const struct cbt *cbt, uint64_t first, uint64_t last)
{
	uint64_t n = 0;

	if (last / 8 >= cbt->known_size) {
		return false;
	}
	for (n = first; n <= last; n++) {
		if (!bit_get(cbt->known, n)) {
			return false;
		}
	}
	return true;
}

static void known_set(struct cbt *cbt, uint64_t first, uint64_t last)
{
	uint64_t n = 0;

	for (n = first; n <= last && n / 8 < cbt->known_size; n++) {
		bit_set(cbt->known, n);
	}
}

bool cbt_note_waits(const struct cbt *cbt, uint64_t offset, uint64_t length)
{
	uint64_t g = 0;

	if (cbt->header.state != CBT_ON || length == 0 ||
	    !in_range(offset, length)) {
		return false;
	}
	if (cbt->lock.apart) {
		return !all_known(cbt, offset / CBT_REGION,
				  (offset + length - 1) / CBT_REGION);
	}
	for (g = offset / CBT_GROUP; g <= (offset + length - 1) / CBT_GROUP;
	     g++) {
		if (!bit_get(cbt->armed, g)) {
			return true;
		}
	}
	return false;
}

static void arm_range(const struct cbt *cbt, uint64_t offset, uint64_t length,
		      uint64_t *_from, uint64_t *_to)
{
	uint64_t step = arm_size(cbt);
	uint64_t to = (offset + length + step - 1) / step * step;

	*_from = offset / step * step;
	*_to = to > CBT_SIZE_MAX ? CBT_SIZE_MAX : to;
}

/* ORs bits into a slot, under the lock that others take too. */
static int bits_or(struct cbt *cbt, uint32_t slot, uint64_t at,
		   const uint8_t *bits, size_t length)
{
	uint8_t *now = cbt->piece[1];
	bool differs = false;
	size_t k = 0;
	int ret = lock(cbt);

	if (ret != 0) {
		return ret;
	}
	ret = cbt_bits_read(cbt, slot, at, length, now);
	for (k = 0; k < length && ret == 0; k++) {
		/* Apart: who has set it may go before it is stable. */
		differs |= (bits[k] & (cbt->lock.apart ? 0xFF : ~now[k])) != 0;
		now[k] |= bits[k];
	}
	if (ret == 0 && differs) {
		ret = store_write(cbt->store, now, length,
				  cbt_bits_at(slot) + at);
	}
	unlock(cbt);
	return ret;
}

static int range_set(struct cbt *cbt, uint32_t slot, uint64_t first,
		     uint64_t last)
{
	uint64_t byte = first / 8;
	uint64_t n = 0;
	size_t length = 0;
	int ret = 0;

	for (; byte <= last / 8 && ret == 0; byte += length) {
		length = last / 8 - byte + 1 < CBT_PIECE ?
			(size_t)(last / 8 - byte + 1) : CBT_PIECE;
		memset(cbt->piece[0], 0, length);
		for (n = byte * 8; n < (byte + length) * 8; n++) {
			if (n >= first && n <= last) {
				bit_set(cbt->piece[0], n - byte * 8);
			}
		}
		ret = bits_or(cbt, slot, byte, cbt->piece[0], length);
	}
	return ret;
}

/* Arms are bytes of their own, so processes need no lock for them. */
int cbt_arm_write(struct cbt *cbt, uint64_t offset, uint64_t length)
{
	uint64_t from = 0;
	uint64_t to = 0;
	uint64_t count = 0;
	uint8_t *ones = NULL;
	int ret = 0;

	if (!in_range(offset, length) || length == 0 || cbt->doubt) {
		return -EINVAL;
	}
	if (cbt->lock.apart) {
		return range_set(cbt, cbt->header.slot, offset / CBT_REGION,
				 (offset + length - 1) / CBT_REGION);
	}
	arm_range(cbt, offset, length, &from, &to);
	count = (to - from) / CBT_GROUP;
	ones = talloc_size(cbt, count);
	if (ones == NULL) {
		return -ENOMEM;
	}
	memset(ones, 1, count);
	ret = store_write(cbt->store, ones, count,
			  cbt_arms_at(cbt->header.slot) + from / CBT_GROUP);
	talloc_free(ones);
	return ret;
}

void cbt_arm_done(struct cbt *cbt, uint64_t offset, uint64_t length)
{
	uint64_t from = 0;
	uint64_t to = 0;
	uint64_t g = 0;

	if (cbt->lock.apart) {
		known_set(cbt, offset / CBT_REGION,
			  (offset + length - 1) / CBT_REGION);
		return;
	}
	arm_range(cbt, offset, length, &from, &to);
	for (g = from / CBT_GROUP; g < to / CBT_GROUP; g++) {
		bit_set(cbt->armed, g);
	}
}

static int arm(struct cbt *cbt, uint64_t offset, uint64_t length)
{
	int ret = cbt_arm_write(cbt, offset, length);

	if (ret == 0) {
		ret = store_flush(cbt->store);
	}
	if (ret == 0) {
		cbt_arm_done(cbt, offset, length);
	}
	return ret;
}

int cbt_note(struct cbt *cbt, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / CBT_REGION;
	uint64_t last = 0;
	int ret = cbt->doubt ? cbt_reload(cbt) : 0;

	if (ret != 0 || cbt->header.state != CBT_ON || length == 0) {
		return ret;
	}
	if (!in_range(offset, length)) {
		return -EINVAL;
	}
	last = (offset + length - 1) / CBT_REGION;
	if (all_known(cbt, first, last)) {
		return 0;
	}
	if (cbt_note_waits(cbt, offset, length)) {
		ret = arm(cbt, offset, length);
	}
	if (ret == 0 && !cbt->lock.apart) {
		ret = range_set(cbt, cbt->header.slot, first, last);
	}
	if (ret == 0) {
		known_set(cbt, first, last);
	}
	return ret;
}

/* ---- open and close ------------------------------------------------------------- */

int cbt_create(struct store *store, uint64_t size)
{
	struct cbt *cbt = NULL;
	struct cbt_header *h = NULL;
	uint64_t now = 0;
	int ret = store_size(store, &now);

	if (ret != 0) {
		return ret;
	}
	if (now != 0) {
		return -EEXIST;
	}
	if (size > CBT_SIZE_MAX) {
		return -EINVAL;
	}
	cbt = talloc_zero(NULL, struct cbt);
	h = talloc_zero(cbt, struct cbt_header);
	if (h == NULL) {
		talloc_free(cbt);
		return -ENOMEM;
	}
	cbt->store = store;
	h->size = size;
	ret = header_store(cbt, h);
	talloc_free(cbt);
	return ret;
}

/* After a power cut: all of what is armed has changed. */
static int recover_slot(struct cbt *cbt)
{
	const uint64_t per_group = CBT_GROUP / CBT_REGION;
	uint8_t *arms = talloc_zero_size(cbt, CBT_ARMS);
	bool any = false;
	uint64_t g = 0;
	int ret = 0;

	if (arms == NULL) {
		return -ENOMEM;
	}
	ret = store_read(cbt->store, arms, CBT_ARMS,
			 cbt_arms_at(cbt->header.slot));
	if (ret == -ENODATA) {
		ret = 0;
	}
	for (g = 0; g < CBT_ARMS && ret == 0; g++) {
		if (arms[g] != 0) {
			any = true;
			ret = range_set(cbt, cbt->header.slot, g * per_group,
					(g + 1) * per_group - 1);
		}
	}
	talloc_free(arms);
	if (ret == 0 && any) {
		ret = store_flush(cbt->store);
	}
	return ret;
}

int cbt_reload(struct cbt *cbt)
{
	int ret = header_load(cbt, NULL);

	if (ret == 0) {
		ret = known_reset(cbt);
	}
	cbt->doubt = ret != 0;
	return ret;
}

int cbt_session(struct cbt *cbt, const uint8_t stamp[CBT_STAMP_SIZE])
{
	struct cbt_header *h = NULL;
	int ret = 0;

	if (memcmp(cbt->header.stamp, stamp, CBT_STAMP_SIZE) == 0) {
		return 0;
	}
	ret = lock(cbt);
	if (ret != 0) {
		return ret;
	}
	ret = cbt_reload(cbt);
	/* Who changes headers has left his stamp before: nobody does now. */
	if (ret == 0 &&
	    memcmp(cbt->header.stamp, stamp, CBT_STAMP_SIZE) != 0) {
		ret = recover_slot(cbt);
		h = ret == 0 ? header_copy(cbt) : NULL;
		if (ret == 0 && h == NULL) {
			ret = -ENOMEM;
		}
		if (ret == 0) {
			memcpy(h->stamp, stamp, CBT_STAMP_SIZE);
			ret = header_commit(cbt, h);
		}
	}
	unlock(cbt);
	return ret;
}

static int cbt_destructor(struct cbt *cbt)
{
	free(cbt->known);
	return 0;
}

int cbt_open(TALLOC_CTX *mem_ctx, struct store *store,
	     const struct cbt_lock *how, bool recover, struct cbt **_cbt,
	     const char **_why)
{
	struct cbt *cbt = talloc_zero(mem_ctx, struct cbt);
	int ret = 0;

	if (cbt == NULL) {
		return -ENOMEM;
	}
	cbt->store = store;
	talloc_set_destructor(cbt, cbt_destructor);
	if (how != NULL) {
		cbt->lock = *how;
	}
	cbt->armed = talloc_zero_size(cbt, CBT_ARMS / 8);
	ret = cbt->armed != NULL ? header_load(cbt, _why) : -ENOMEM;
	if (ret == 0) {
		ret = known_reset(cbt);
	}
	if (ret == 0 && recover) {
		ret = recover_slot(cbt);
	}
	if (ret != 0) {
		talloc_free(cbt);
		return ret;
	}
	*_cbt = cbt;
	return 0;
}

int cbt_settle(struct cbt *cbt)
{
	int ret = store_flush(cbt->store);

	/* Disarmed only when the bits are stable. */
	if (ret == 0) {
		ret = store_zero(cbt->store, cbt_arms_at(cbt->header.slot),
				 CBT_ARMS);
	}
	if (ret == 0) {
		ret = store_flush(cbt->store);
	}
	memset(cbt->armed, 0, CBT_ARMS / 8);
	return ret;
}

/* ---- changes of the header -------------------------------------------------------- */

int cbt_start(struct cbt *cbt)
{
	struct cbt_header *h = header_copy(cbt);

	if (h == NULL) {
		return -ENOMEM;
	}
	if (h->state != CBT_OFF) {
		int ret = h->state == CBT_BROKEN ? -ESTALE : 0;

		talloc_free(h);
		return ret;
	}
	h->state = CBT_ON;
	h->flags |= CBT_GAP;
	return header_commit(cbt, h);
}

int cbt_stop(struct cbt *cbt)
{
	struct cbt_header *h = header_copy(cbt);

	if (h == NULL) {
		return -ENOMEM;
	}
	if (h->state != CBT_ON) {
		talloc_free(h);
		return 0;
	}
	h->state = CBT_OFF;
	h->flags |= CBT_GAP;
	return header_commit(cbt, h);
}

int cbt_break(struct cbt *cbt, uint32_t reason)
{
	struct cbt_header *h = header_copy(cbt);

	if (h == NULL) {
		return -ENOMEM;
	}
	h->state = CBT_BROKEN;
	h->reason = reason;
	return header_commit(cbt, h);
}

static uint32_t slot_free(const struct cbt_header *h)
{
	uint8_t used[CBT_MARKS_MAX + 1] = {};
	uint32_t i = 0;

	for (i = 0; i < h->count; i++) {
		used[h->marks[i].slot] = 1;
	}
	used[h->slot] = 1;
	for (i = 0; i <= CBT_MARKS_MAX && used[i]; i++) {
	}
	return i;
}

/* An empty slot becomes the current one; what the old one has is stable. */
static int slot_next(struct cbt *cbt, struct cbt_header *h)
{
	uint32_t slot = slot_free(h);
	int ret = 0;

	if (slot > CBT_MARKS_MAX) {
		return -ENOSPC;
	}
	/* From its last use; a cut leaves it unused still. */
	ret = store_zero(cbt->store, cbt_arms_at(slot),
			 CBT_BITS_AT + CBT_BITS);
	if (ret == 0) {
		ret = store_flush(cbt->store);
	}
	if (ret == 0) {
		h->slot = slot;
	}
	return ret;
}

int cbt_own_set(struct cbt *cbt, const uint8_t own[CBT_OWN_SIZE])
{
	struct cbt_header *h = header_copy(cbt);

	if (h == NULL) {
		return -ENOMEM;
	}
	memcpy(h->own, own, CBT_OWN_SIZE);
	return header_commit(cbt, h);
}

int cbt_mark_own(struct cbt *cbt, const struct guid *id, bool on)
{
	int index = mark_index(&cbt->header, id);
	struct cbt_header *h = NULL;

	if (index < 0) {
		return index;
	}
	h = header_copy(cbt);
	if (h == NULL) {
		return -ENOMEM;
	}
	h->marks[index].flags &= ~(uint32_t)CBT_OWN;
	h->marks[index].flags |= on ? CBT_OWN : 0;
	return header_commit(cbt, h);
}

int cbt_reset(struct cbt *cbt)
{
	struct cbt_header *h = header_copy(cbt);
	int ret = 0;

	if (h == NULL) {
		return -ENOMEM;
	}
	h->count = 0;
	h->state = CBT_ON;
	h->reason = 0;
	h->flags = CBT_GAP;
	ret = slot_next(cbt, h);
	if (ret != 0) {
		talloc_free(h);
		return ret;
	}
	ret = header_commit(cbt, h);
	return ret == 0 ? known_reset(cbt) : ret;
}

int cbt_mark(struct cbt *cbt, const struct guid *id)
{
	struct cbt_header *h = NULL;
	int ret = 0;

	if (mark_index(&cbt->header, id) >= 0) {
		return -EEXIST;
	}
	if (cbt->header.count == CBT_MARKS_MAX) {
		return -ENOSPC;
	}
	h = header_copy(cbt);
	if (h == NULL) {
		return -ENOMEM;
	}
	h->marks[h->count++] = (struct cbt_mark) {
		.id = *id, .slot = h->slot, .flags = h->flags,
	};
	h->flags = h->state == CBT_ON ? 0 : CBT_GAP;
	ret = slot_next(cbt, h);
	if (ret != 0) {
		talloc_free(h);
		return ret;
	}
	ret = header_commit(cbt, h);
	return ret == 0 ? known_reset(cbt) : ret;
}

/* ORs all of a slot into another. */
static int slot_merge(struct cbt *cbt, uint32_t from, uint32_t into)
{
	static const uint8_t zero[CBT_PIECE];
	uint64_t at = 0;
	int ret = 0;

	for (at = 0; at < CBT_BITS && ret == 0; at += CBT_PIECE) {
		/* A large disk that was cut keeps its bits: all are looked at. */
		ret = cbt_bits_read(cbt, from, at, CBT_PIECE, cbt->piece[0]);
		if (ret == 0 && memcmp(cbt->piece[0], zero, CBT_PIECE) != 0) {
			ret = bits_or(cbt, into, at, cbt->piece[0],
				      CBT_PIECE);
		}
	}
	return ret;
}

int cbt_forget(struct cbt *cbt, const struct guid *id)
{
	int index = mark_index(&cbt->header, id);
	struct cbt_header *h = NULL;
	uint32_t at = 0;
	bool last = false;
	int ret = 0;

	if (index < 0) {
		return index;
	}
	h = header_copy(cbt);
	if (h == NULL) {
		return -ENOMEM;
	}
	at = (uint32_t)index;
	last = at + 1 == h->count;
	/* Nobody can ask for what lies before the oldest mark. */
	if (at > 0) {
		ret = slot_merge(cbt, h->marks[at].slot,
				 last ? h->slot : h->marks[at + 1].slot);
		if (ret == 0) {
			ret = store_flush(cbt->store);
		}
		if (last) {
			h->flags |= h->marks[at].flags & CBT_GAP;
		} else {
			h->marks[at + 1].flags |=
				h->marks[at].flags & CBT_GAP;
		}
	}
	if (ret != 0) {
		talloc_free(h);
		return ret;
	}
	memmove(&h->marks[at], &h->marks[at + 1],
		(h->count - at - 1) * sizeof(h->marks[0]));
	h->count--;
	memset(&h->marks[h->count], 0, sizeof(h->marks[0]));
	return header_commit(cbt, h);
}

int cbt_revert(struct cbt *cbt, const struct guid *id)
{
	int index = mark_index(&cbt->header, id);
	struct cbt_header *h = NULL;
	uint32_t i = 0;
	int ret = 0;

	if (index < 0) {
		return index;
	}
	for (i = (uint32_t)index + 1; i < cbt->header.count && ret == 0; i++) {
		ret = slot_merge(cbt, cbt->header.marks[i].slot,
				 cbt->header.slot);
	}
	if (ret == 0) {
		ret = store_flush(cbt->store);
	}
	if (ret != 0) {
		return ret;
	}
	h = header_copy(cbt);
	if (h == NULL) {
		return -ENOMEM;
	}
	for (i = (uint32_t)index + 1; i < h->count; i++) {
		h->flags |= h->marks[i].flags & CBT_GAP;
	}
	return header_commit(cbt, h);
}

int cbt_identity_set(struct cbt *cbt, const struct guid *identity)
{
	struct cbt_header *h = NULL;

	if (guid_equal(&cbt->header.identity, identity)) {
		return 0;
	}
	h = header_copy(cbt);
	if (h == NULL) {
		return -ENOMEM;
	}
	h->identity = *identity;
	return header_commit(cbt, h);
}

int cbt_resize(struct cbt *cbt, uint64_t size)
{
	uint64_t now = cbt->header.size;
	uint64_t from = size < now ? size : now;
	struct cbt_header *h = NULL;
	int ret = 0;

	if (size > CBT_SIZE_MAX) {
		return -EINVAL;
	}
	ret = cbt_note(cbt, from, (size < now ? now : size) - from);
	if (ret == 0) {
		ret = store_flush(cbt->store);
	}
	if (ret != 0) {
		return ret;
	}
	h = header_copy(cbt);
	if (h == NULL) {
		return -ENOMEM;
	}
	h->size = size;
	ret = header_commit(cbt, h);
	return ret == 0 ? known_reset(cbt) : ret;
}
