/*
 * The bytes of a record, and the byte-range locks in it.
 */
#include "handle/handle.h"

#include <errno.h>
#include <string.h>

#include "util/cursor.h"

#define RECORD_MAGIC 0x4C444E48		/* "HNDL" */

static bool text_valid(struct handle_bytes text)
{
	return text.length == 0 ||
		memchr(text.data, 0, text.length) == NULL;
}

static void put_bytes(struct cursor_put *c, struct handle_bytes b)
{
	cursor_put_le32(c, (uint32_t)b.length);
	if (b.length > 0) {
		cursor_put_bytes(c, b.data, b.length);
	}
}

static void put_fixed(struct cursor_put *c, const struct handle_record *r)
{
	cursor_put_le32(c, RECORD_MAGIC);
	cursor_put_le32(c, HANDLE_RECORD_VERSION);
	cursor_put_le64(c, r->id);
	cursor_put_le32(c, r->revision);
	cursor_put_le32(c, r->flags);
	cursor_put_guid(c, &r->create_guid);
	cursor_put_guid(c, &r->client_guid);
	cursor_put_guid(c, &r->app_instance);
	cursor_put_le64(c, r->app_version_high);
	cursor_put_le64(c, r->app_version_low);
	cursor_put_le64(c, r->device);
	cursor_put_le64(c, r->inode);
	cursor_put_le64(c, r->extra);
	cursor_put_le32(c, r->access);
	cursor_put_le32(c, r->sharing);
	cursor_put_le32(c, r->private_options);
	cursor_put_le32(c, r->desired_access);
	cursor_put_le32(c, r->create_options);
	cursor_put_le32(c, r->create_action);
	cursor_put_le32(c, r->oplock);
	cursor_put_guid(c, &r->lease_key);
	cursor_put_guid(c, &r->lease_parent);
	cursor_put_le32(c, r->lease_state);
	cursor_put_le32(c, r->lease_flags);
	cursor_put_le16(c, r->lease_epoch);
	cursor_put_le16(c, r->lease_version);
	cursor_put_le32(c, r->timeout_ms);
	cursor_put_le32(c, r->uid);
	cursor_put_le64(c, r->waiting_since_ms);
	cursor_put_le64(c, r->open_time);
	cursor_put_le64(c, r->position);
	cursor_put_le64(c, r->allocation);
	cursor_put_le16(c, r->channel_sequence);
	cursor_put_bytes(c, r->sequences, sizeof(r->sequences));
	cursor_put_le64(c, r->born);
}

#define FIXED_SIZE_1 290		/* of version 1 */
#define FIXED_SIZE 298

size_t handle_record_encode(const struct handle_record *r, uint8_t *out,
			    size_t size)
{
	const struct handle_bytes *tail[] = {
		&r->owner, &r->share, &r->path, &r->name, &r->user,
		&r->locks, &r->modules,
	};
	struct cursor_put c = {};
	size_t need = FIXED_SIZE;
	size_t i = 0;

	for (i = 0; i < sizeof(tail) / sizeof(tail[0]); i++) {
		if ((i < 5 && !text_valid(*tail[i])) ||
		    tail[i]->length > HANDLE_RECORD_MAX) {
			return 0;
		}
		need += 4 + tail[i]->length;
	}
	if (need > HANDLE_RECORD_MAX) {
		return 0;
	}
	if (need > size) {
		return need;
	}
	cursor_put_init(&c, out, size);
	put_fixed(&c, r);
	for (i = 0; i < sizeof(tail) / sizeof(tail[0]); i++) {
		put_bytes(&c, *tail[i]);
	}
	return cursor_put_status(&c) == 0 && cursor_put_length(&c) == need ?
		need : 0;
}

static struct handle_bytes get_bytes(struct cursor *c)
{
	struct handle_bytes b = {};

	b.length = cursor_le32(c);
	b.data = cursor_borrow(c, b.length);
	if (b.data == NULL) {
		b.length = 0;
	}
	return b;
}

static void get_fixed(struct cursor *c, uint32_t version,
		      struct handle_record *r)
{
	r->id = cursor_le64(c);
	r->revision = cursor_le32(c);
	r->flags = cursor_le32(c);
	cursor_guid(c, &r->create_guid);
	cursor_guid(c, &r->client_guid);
	cursor_guid(c, &r->app_instance);
	r->app_version_high = cursor_le64(c);
	r->app_version_low = cursor_le64(c);
	r->device = cursor_le64(c);
	r->inode = cursor_le64(c);
	r->extra = cursor_le64(c);
	r->access = cursor_le32(c);
	r->sharing = cursor_le32(c);
	r->private_options = cursor_le32(c);
	r->desired_access = cursor_le32(c);
	r->create_options = cursor_le32(c);
	r->create_action = cursor_le32(c);
	r->oplock = cursor_le32(c);
	cursor_guid(c, &r->lease_key);
	cursor_guid(c, &r->lease_parent);
	r->lease_state = cursor_le32(c);
	r->lease_flags = cursor_le32(c);
	r->lease_epoch = cursor_le16(c);
	r->lease_version = cursor_le16(c);
	r->timeout_ms = cursor_le32(c);
	r->uid = cursor_le32(c);
	r->waiting_since_ms = cursor_le64(c);
	r->open_time = cursor_le64(c);
	r->position = cursor_le64(c);
	r->allocation = cursor_le64(c);
	r->channel_sequence = cursor_le16(c);
	cursor_bytes(c, r->sequences, sizeof(r->sequences));
	if (version > 1) {
		r->born = cursor_le64(c);
	}
}

static bool modules_valid(const struct handle_record *r)
{
	struct handle_bytes state = {};
	uint32_t tag = 0;
	size_t at = 0;

	while (handle_module_next(r, &at, &tag, &state)) {
	}
	return at == r->modules.length;
}

static int record_validate(const struct handle_record *r, const char **why)
{
	size_t i = 0;

	if ((r->flags & ~(uint32_t)HANDLE_FLAGS_KNOWN) != 0) {
		*why = "it has flags of another version";
		return -ENOTSUP;
	}
	*why = NULL;
	if (r->id == 0 || (r->flags & (HANDLE_PERSISTENT |
				       HANDLE_RESILIENT)) == 0) {
		*why = "it is no handle";
	} else if (!text_valid(r->owner) || !text_valid(r->share) ||
		   !text_valid(r->path) || !text_valid(r->name) ||
		   !text_valid(r->user)) {
		*why = "a text holds a NUL";
	} else if (r->owner.length == 0 || r->path.length == 0) {
		*why = "it names no owner or no share";
	} else if (r->locks.length % HANDLE_LOCK_SIZE != 0) {
		*why = "its locks are cut off";
	} else if (!modules_valid(r)) {
		*why = "the state of other modules is cut off";
	} else if ((r->flags & HANDLE_LEASE) != 0 &&
		   (r->lease_state > 7 || r->lease_version < 1 ||
		    r->lease_version > 2)) {
		*why = "its lease does not exist";
	}
	for (i = 0; *why == NULL && i < handle_lock_count(r); i++) {
		if (r->locks.data[i * HANDLE_LOCK_SIZE + 16] > 1) {
			*why = "a lock is neither shared nor exclusive";
		}
	}
	return *why == NULL ? 0 : -EINVAL;
}

int handle_record_decode(const uint8_t *bytes, size_t length,
			 struct handle_record *_r, const char **why)
{
	struct handle_record r = {};
	struct cursor c = {};
	uint32_t version = 0;

	cursor_init(&c, bytes, length);
	if (cursor_le32(&c) != RECORD_MAGIC || length < FIXED_SIZE_1) {
		*why = "it is no record";
		return -EINVAL;
	}
	version = cursor_le32(&c);
	if (version < 1 || version > HANDLE_RECORD_VERSION) {
		*why = "it is of another version";
		return -ENOTSUP;
	}
	get_fixed(&c, version, &r);
	r.owner = get_bytes(&c);
	r.share = get_bytes(&c);
	r.path = get_bytes(&c);
	r.name = get_bytes(&c);
	r.user = get_bytes(&c);
	r.locks = get_bytes(&c);
	r.modules = get_bytes(&c);
	if (cursor_status(&c) != 0 || cursor_remaining(&c) != 0) {
		*why = "it is cut off";
		return -EINVAL;
	}
	*why = NULL;
	if (record_validate(&r, why) != 0) {
		return (r.flags & ~(uint32_t)HANDLE_FLAGS_KNOWN) != 0 ?
			-ENOTSUP : -EINVAL;
	}
	*_r = r;
	return 0;
}

/* ---- locks ------------------------------------------------------------------- */

void handle_lock_put(uint8_t out[HANDLE_LOCK_SIZE],
		     const struct handle_lock *lock)
{
	struct cursor_put c = {};

	cursor_put_init(&c, out, HANDLE_LOCK_SIZE);
	cursor_put_le64(&c, lock->start);
	cursor_put_le64(&c, lock->length);
	cursor_put_le64(&c, lock->exclusive ? 1 : 0);
}

size_t handle_lock_count(const struct handle_record *r)
{
	return r->locks.length / HANDLE_LOCK_SIZE;
}

void handle_lock_get(const struct handle_record *r, size_t i,
		     struct handle_lock *_lock)
{
	struct cursor c = {};

	cursor_init(&c, r->locks.data + i * HANDLE_LOCK_SIZE,
		    HANDLE_LOCK_SIZE);
	_lock->start = cursor_le64(&c);
	_lock->length = cursor_le64(&c);
	_lock->exclusive = cursor_le64(&c) == 1;
}

bool handle_range_overlap(uint64_t start_a, uint64_t length_a,
			  uint64_t start_b, uint64_t length_b)
{
	if (length_a == 0 || length_b == 0) {
		return false;
	}
	if (start_a >= start_b) {
		return start_a - start_b < length_b;
	}
	return start_b - start_a < length_a;
}

bool handle_locks_conflict(const struct handle_record *r, uint64_t start,
			   uint64_t length, bool exclusive)
{
	size_t i = 0;

	for (i = 0; i < handle_lock_count(r); i++) {
		struct handle_lock lock = {};

		handle_lock_get(r, i, &lock);
		if ((exclusive || lock.exclusive) &&
		    handle_range_overlap(start, length, lock.start,
					 lock.length)) {
			return true;
		}
	}
	return false;
}

/* ---- modules ----------------------------------------------------------------- */

bool handle_module_next(const struct handle_record *r, size_t *at,
			uint32_t *_tag, struct handle_bytes *_state)
{
	struct cursor c = {};
	struct handle_bytes state = {};
	uint32_t tag = 0;

	if (*at >= r->modules.length) {
		return false;
	}
	cursor_init(&c, r->modules.data + *at, r->modules.length - *at);
	tag = cursor_le32(&c);
	state = get_bytes(&c);
	if (cursor_status(&c) != 0) {
		return false;
	}
	*at += HANDLE_MODULE_HEAD + state.length;
	*_tag = tag;
	*_state = state;
	return true;
}

void handle_module_put(uint8_t *out, uint32_t tag, struct handle_bytes state)
{
	struct cursor_put c = {};

	cursor_put_init(&c, out, HANDLE_MODULE_HEAD + state.length);
	cursor_put_le32(&c, tag);
	put_bytes(&c, state);
}
