/*
 * Records, log and rules of handles that outlive their server.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "handle/handle.h"

static struct handle_bytes text(const char *s)
{
	return (struct handle_bytes){ .data = (const uint8_t *)s,
				      .length = strlen(s) };
}

static struct handle_record sample(uint64_t id, uint32_t revision)
{
	static uint8_t locks[2 * HANDLE_LOCK_SIZE];
	static uint8_t modules[HANDLE_MODULE_HEAD + 3];
	struct handle_lock lock = { .start = 100, .length = 10,
				    .exclusive = true };
	struct handle_record r = {};

	handle_lock_put(locks, &lock);
	lock = (struct handle_lock){ .start = 200, .length = 5 };
	handle_lock_put(locks + HANDLE_LOCK_SIZE, &lock);
	handle_module_put(modules, 7, text("abc"));
	r.id = id;
	r.revision = revision;
	r.flags = HANDLE_PERSISTENT | HANDLE_CREATE_GUID | HANDLE_LEASE;
	memset(r.create_guid.bytes, 1, 16);
	memset(r.client_guid.bytes, 2, 16);
	memset(r.lease_key.bytes, 3, 16);
	r.device = 11;
	r.inode = 22;
	r.born = UINT64_C(0x123456789A);
	r.access = 0x12019F;
	r.lease_state = 7;
	r.lease_version = 2;
	r.timeout_ms = 60000;
	r.sequences[63] = 9;
	r.owner = text("S-1-5-21-1-2-3-1000");
	r.share = text("vm");
	r.path = text("/srv/vm");
	r.name = text("a/disk.vhdx");
	r.user = text("hvrs");
	r.locks.data = locks;
	r.locks.length = sizeof(locks);
	r.modules.data = modules;
	r.modules.length = sizeof(modules);
	return r;
}

static uint8_t *encode(const struct handle_record *r, size_t *_size)
{
	size_t size = handle_record_encode(r, NULL, 0);
	uint8_t *bytes = malloc(size);

	assert_true(size > 0);
	assert_int_equal(size, handle_record_encode(r, bytes, size));
	*_size = size;
	return bytes;
}

static void test_record_comes_back_as_it_was(void **state)
{
	struct handle_record r = sample(5, 3);
	struct handle_record back = {};
	struct handle_lock lock = {};
	struct handle_bytes module = {};
	const char *why = NULL;
	uint32_t tag = 0;
	size_t size = 0;
	size_t at = 0;
	uint8_t *bytes = encode(&r, &size);
	uint8_t *again = NULL;

	(void)state;
	assert_int_equal(0, handle_record_decode(bytes, size, &back, &why));
	assert_int_equal(5, back.id);
	assert_int_equal(3, back.revision);
	assert_int_equal(9, back.sequences[63]);
	assert_int_equal(2, handle_lock_count(&back));
	handle_lock_get(&back, 0, &lock);
	assert_int_equal(100, lock.start);
	assert_true(lock.exclusive);
	assert_true(handle_module_next(&back, &at, &tag, &module));
	assert_int_equal(7, tag);
	assert_memory_equal("abc", module.data, 3);
	assert_false(handle_module_next(&back, &at, &tag, &module));
	again = encode(&back, &at);
	assert_int_equal(size, at);
	assert_memory_equal(bytes, again, size);
	assert_int_equal(UINT64_C(0x123456789A), back.born);
	/* Of version 1, which did not know it. */
	memmove(bytes + 290, bytes + 298, size - 298);
	bytes[4] = 1;
	assert_int_equal(0, handle_record_decode(bytes, size - 8, &back,
						 &why));
	assert_int_equal(0, back.born);
	assert_int_equal(9, back.sequences[63]);
	assert_int_equal(2, handle_lock_count(&back));
	bytes[4] = 3;
	assert_int_equal(-ENOTSUP, handle_record_decode(bytes, size, &back,
							&why));
	free(bytes);
	free(again);
}

static void test_cut_or_longer_record_is_refused(void **state)
{
	struct handle_record r = sample(5, 3);
	struct handle_record back = {};
	const char *why = NULL;
	size_t size = 0;
	size_t i = 0;
	uint8_t *bytes = encode(&r, &size);

	(void)state;
	for (i = 0; i < size; i++) {
		uint8_t *cut = malloc(i + 1);

		memcpy(cut, bytes, i);
		assert_int_equal(-EINVAL, handle_record_decode(
			cut, i, &back, &why));
		assert_non_null(why);
		free(cut);
	}
	bytes = realloc(bytes, size + 1);
	bytes[size] = 0;
	assert_int_equal(-EINVAL, handle_record_decode(bytes, size + 1, &back,
						       &why));
	free(bytes);
}

static void test_unknown_version_or_flag_is_refused(void **state)
{
	struct handle_record r = sample(5, 3);
	struct handle_record back = {};
	const char *why = NULL;
	size_t size = 0;
	uint8_t *bytes = encode(&r, &size);

	(void)state;
	bytes[4] = 3;
	assert_int_equal(-ENOTSUP, handle_record_decode(bytes, size, &back,
							&why));
	bytes[4] = 2;
	bytes[22] = 0x80;
	assert_int_equal(-ENOTSUP, handle_record_decode(bytes, size, &back,
							&why));
	free(bytes);
}

static void test_text_with_a_nul_is_not_written(void **state)
{
	struct handle_record r = sample(5, 3);

	(void)state;
	r.name.data = (const uint8_t *)"a\0b";
	r.name.length = 3;
	assert_int_equal(0, handle_record_encode(&r, NULL, 0));
}

static void test_locks_conflict_as_ranges_and_kinds_say(void **state)
{
	static const struct {
		uint64_t start, length;
		bool exclusive, conflict;
	} rows[] = {
		{ 100, 1, false, true }, { 109, 1, true, true },
		{ 110, 1, true, false }, { 99, 1, true, false },
		{ 99, 2, false, true }, { 0, UINT64_MAX, false, true },
		{ 200, 5, false, false }, { 200, 5, true, true },
		{ 204, 0, true, false },
		{ UINT64_MAX, 1, true, false },
	};
	struct handle_record r = sample(5, 3);
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(rows[i].conflict, handle_locks_conflict(
			&r, rows[i].start, rows[i].length,
			rows[i].exclusive));
	}
}

/* ---- log ------------------------------------------------------------------------ */

struct log {
	uint8_t bytes[16384];
	size_t length;
	size_t at[32];		/* of each frame */
	size_t count;
};

static void log_start(struct log *log)
{
	memset(log, 0, sizeof(*log));
	handle_log_header_encode(77, log->bytes);
	log->length = HANDLE_LOG_HEADER;
}

static void log_add(struct log *log, enum handle_frame_kind kind, uint64_t id,
		    uint32_t revision, uint64_t synced)
{
	struct handle_record r = sample(id, revision);
	struct handle_frame frame = { .kind = kind, .id = id,
				      .revision = revision,
				      .synced = synced };
	size_t size = 0;
	uint8_t *bytes = encode(&r, &size);

	if (kind == HANDLE_FRAME_PUT) {
		frame.payload.data = bytes;
		frame.payload.length = size;
	}
	handle_frame_encode(&frame, log->bytes + log->length);
	log->at[log->count++] = log->length;
	log->length += handle_frame_size(frame.payload.length);
	assert_true(log->length < sizeof(log->bytes));
	free(bytes);
}

static struct handle_replay_counts replay(const struct log *log,
					  size_t length, uint64_t *ids)
{
	struct handle_replay_counts counts = {};
	struct handle_replay *replay = NULL;
	struct handle_bytes payload = {};
	uint8_t *copy = malloc(length);
	uint64_t id = 0;
	size_t i = 0;

	memcpy(copy, log->bytes, length);
	assert_int_equal(0, handle_replay(NULL, copy, length, &replay));
	handle_replay_counts(replay, &counts);
	*ids = 0;
	for (i = 0; handle_replay_get(replay, i, &id, &payload); i++) {
		struct handle_record r = {};
		const char *why = NULL;

		assert_int_equal(0, handle_record_decode(
			payload.data, payload.length, &r, &why));
		assert_int_equal(id, r.id);
		*ids |= 1ULL << id;
	}
	TALLOC_FREE(replay);
	free(copy);
	return counts;
}

static void test_header_is_checked(void **state)
{
	uint8_t header[HANDLE_LOG_HEADER] = {};
	uint64_t generation = 0;
	size_t i = 0;

	(void)state;
	handle_log_header_encode(0x1234567890, header);
	assert_int_equal(0, handle_log_header_decode(
		header, sizeof(header), &generation));
	assert_int_equal(0x1234567890, generation);
	assert_int_equal(-EINVAL, handle_log_header_decode(
		header, sizeof(header) - 1, &generation));
	for (i = 0; i < sizeof(header); i++) {
		header[i] ^= 1;
		assert_int_equal(-EINVAL, handle_log_header_decode(
			header, sizeof(header), &generation));
		header[i] ^= 1;
	}
}

/* One that holds these frames. */
static void log_make(struct log *log, const struct handle_frame *frames,
		     size_t count)
{
	size_t i = 0;

	log_start(log);
	for (i = 0; i < count; i++) {
		log_add(log, frames[i].kind, frames[i].id, frames[i].revision,
			0);
	}
}

static void test_who_reads_several_logs_is_told_of_ends(void **state)
{
	static const struct handle_frame frames[] = {
		{ .kind = HANDLE_FRAME_PUT, .id = 1, .revision = 1 },
		{ .kind = HANDLE_FRAME_DROP, .id = 1, .revision = 2 },
		{ .kind = HANDLE_FRAME_DROP, .id = 2, .revision = 9 },
		{ .kind = HANDLE_FRAME_DROP, .id = 3, .revision = 1 },
		{ .kind = HANDLE_FRAME_PUT, .id = 3, .revision = 2 },
	};
	static struct log log;
	struct handle_replay_counts counts = {};
	struct handle_replay *replay = NULL;
	struct handle_frame frame = {};

	(void)state;
	log_make(&log, frames, sizeof(frames) / sizeof(frames[0]));
	assert_true(handle_frame_begins(log.bytes + log.at[0]));
	assert_false(handle_frame_begins(log.bytes));
	assert_int_equal(0, handle_replay(NULL, log.bytes, log.length + 64,
					  &replay));
	handle_replay_counts(replay, &counts);
	assert_int_equal(log.length, counts.end);
	assert_true(handle_replay_dropped(replay, 0, &frame));
	assert_int_equal(HANDLE_FRAME_DROP, frame.kind);
	if (frame.id == 1) {
		assert_int_equal(2, frame.revision);
		assert_true(handle_replay_dropped(replay, 1, &frame));
		assert_int_equal(2, frame.id);
		assert_int_equal(9, frame.revision);
	} else {
		assert_int_equal(2, frame.id);
		assert_int_equal(9, frame.revision);
		assert_true(handle_replay_dropped(replay, 1, &frame));
		assert_int_equal(1, frame.id);
	}
	assert_false(handle_replay_dropped(replay, 2, &frame));
	TALLOC_FREE(replay);
	/* What was begun there is not behind the end. */
	log.bytes[log.at[4] + HANDLE_FRAME_HEADER] ^= 1;
	assert_int_equal(0, handle_replay(NULL, log.bytes, log.length,
					  &replay));
	handle_replay_counts(replay, &counts);
	assert_int_equal(log.at[4], counts.end);
	TALLOC_FREE(replay);
}

static void test_newest_state_counts(void **state)
{
	static const struct handle_frame frames[] = {
		{ .kind = HANDLE_FRAME_PUT, .id = 1, .revision = 1 },
		{ .kind = HANDLE_FRAME_PUT, .id = 2, .revision = 1 },
		{ .kind = HANDLE_FRAME_DROP, .id = 1, .revision = 2 },
		{ .kind = HANDLE_FRAME_PUT, .id = 2, .revision = 2 },
		/* Late: no effect. */
		{ .kind = HANDLE_FRAME_PUT, .id = 1, .revision = 1 },
	};
	static struct log log;
	struct handle_replay_counts counts = {};
	uint64_t ids = 0;

	(void)state;
	log_make(&log, frames, sizeof(frames) / sizeof(frames[0]));
	counts = replay(&log, log.length, &ids);
	assert_int_equal(1, counts.live);
	assert_int_equal(1ULL << 2, ids);
	assert_int_equal(0, counts.refused);
}

static void test_unfinished_write_is_the_end(void **state)
{
	static struct log log;
	struct handle_replay_counts counts = {};
	uint64_t ids = 0;
	size_t cut = 0;

	(void)state;
	log_start(&log);
	log_add(&log, HANDLE_FRAME_PUT, 1, 1, 0);
	log_add(&log, HANDLE_FRAME_PUT, 2, 1, 0);
	for (cut = log.at[1]; cut < log.length; cut++) {
		counts = replay(&log, cut, &ids);
		assert_int_equal(1ULL << 1, ids);
		assert_int_equal(0, counts.refused);
		assert_int_equal(0, counts.holes);
	}
}

static void test_damage_of_what_was_on_disk_refuses(void **state)
{
	static struct log log;
	struct handle_replay_counts counts = {};
	uint64_t ids = 0;
	size_t i = 0;

	(void)state;
	for (i = 0; i < 400; i++) {
		log_start(&log);
		log_add(&log, HANDLE_FRAME_PUT, 1, 1, 0);
		log_add(&log, HANDLE_FRAME_PUT, 2, 1, 0);
		log_add(&log, HANDLE_FRAME_PUT, 3, 1, log.length);
		if (i >= log.at[1] - log.at[0]) {
			break;
		}
		log.bytes[log.at[1] + i] ^= 0x10;
		counts = replay(&log, log.length, &ids);
		if ((i >= 44 && i < 48) || i >= log.at[2] - log.at[1] - 4) {
			continue;	/* padding, which nobody reads */
		}
		/* Never handle 2 as it is now; 3 is newer than the damage. */
		assert_int_equal(0, ids & 1ULL << 2);
		assert_int_equal(1ULL << 3, ids & 1ULL << 3);
		assert_true(counts.holes == 1 || counts.refused == 1);
		if (counts.holes == 1) {
			/* Its newest state may have been there. */
			assert_int_equal(0, ids & 1ULL << 1);
		}
	}
}

static void test_damage_behind_what_was_on_disk_is_no_damage(void **state)
{
	static struct log log;
	struct handle_replay_counts counts = {};
	uint64_t ids = 0;

	(void)state;
	log_start(&log);
	log_add(&log, HANDLE_FRAME_PUT, 1, 1, 0);
	log_add(&log, HANDLE_FRAME_PUT, 2, 1, log.length);
	log_add(&log, HANDLE_FRAME_PUT, 3, 1, log.at[1]);
	memset(log.bytes + log.at[1], 0, log.at[2] - log.at[1]);
	counts = replay(&log, log.length, &ids);
	assert_int_equal(0, counts.holes);
	assert_int_equal(1ULL << 1 | 1ULL << 3, ids);
	assert_true(counts.torn > 0);
}

/* ---- rules ----------------------------------------------------------------------- */

static struct handle_reconnect rightful(const struct handle_record *r)
{
	struct handle_reconnect want = {
		.v2 = true, .persistent = true,
		.create_guid = r->create_guid,
		.client_guid = r->client_guid, .lease = true,
		.lease_key = r->lease_key, .owner = true,
		.path = "/srv/vm",
	};

	return want;
}

static void test_only_the_rightful_client_gets_it_back(void **state)
{
	struct handle_record r = sample(5, 1);
	struct handle_reconnect want = rightful(&r);

	(void)state;
	r.waiting_since_ms = 1000;
	assert_int_equal(HANDLE_GRANT, handle_may_reconnect(
		&r, HANDLE_WAITING, 2000, &want));
	assert_int_equal(HANDLE_NOT_FOUND, handle_may_reconnect(
		&r, HANDLE_CONNECTED, 2000, &want));
	assert_int_equal(HANDLE_GRANT, handle_may_reconnect(
		&r, HANDLE_WAITING, 60999, &want));
	assert_int_equal(HANDLE_NOT_FOUND, handle_may_reconnect(
		&r, HANDLE_WAITING, 61000, &want));
	want.owner = false;
	assert_int_equal(HANDLE_DENIED, handle_may_reconnect(
		&r, HANDLE_WAITING, 2000, &want));
	want = rightful(&r);
	want.persistent = false;
	assert_int_equal(HANDLE_NOT_FOUND, handle_may_reconnect(
		&r, HANDLE_WAITING, 2000, &want));
	want = rightful(&r);
	want.create_guid.bytes[0] ^= 1;
	assert_int_equal(HANDLE_NOT_FOUND, handle_may_reconnect(
		&r, HANDLE_WAITING, 2000, &want));
	want = rightful(&r);
	want.client_guid.bytes[0] ^= 1;
	assert_int_equal(HANDLE_NOT_FOUND, handle_may_reconnect(
		&r, HANDLE_WAITING, 2000, &want));
	want = rightful(&r);
	want.lease_key.bytes[0] ^= 1;
	assert_int_equal(HANDLE_NOT_FOUND, handle_may_reconnect(
		&r, HANDLE_WAITING, 2000, &want));
	want = rightful(&r);
	want.lease = false;
	assert_int_equal(HANDLE_NOT_FOUND, handle_may_reconnect(
		&r, HANDLE_WAITING, 2000, &want));
	want = rightful(&r);
	want.path = "/srv/other";
	assert_int_equal(HANDLE_NOT_FOUND, handle_may_reconnect(
		&r, HANDLE_WAITING, 2000, &want));
	want = rightful(&r);
	r.flags = HANDLE_RESILIENT | HANDLE_LEASE;
	assert_int_equal(HANDLE_BAD_PARAMETER, handle_may_reconnect(
		&r, HANDLE_WAITING, 2000, &want));
}

static void test_others_find_it_unavailable(void **state)
{
	struct handle_record r = sample(5, 1);
	struct handle_contender who = { .access = 1, .sharing = 7 };

	(void)state;
	r.sharing = 7;
	assert_int_equal(HANDLE_UNAVAILABLE, handle_contend(&r, &who));
	who.internal = true;
	assert_int_equal(HANDLE_UNAVAILABLE, handle_contend(&r, &who));
	who.access = 0x80;
	assert_int_equal(HANDLE_GRANT, handle_contend(&r, &who));
	r.flags = HANDLE_PERSISTENT | HANDLE_DIRECTORY;
	who.internal = false;
	assert_int_equal(HANDLE_GRANT, handle_contend(&r, &who));
	r.sharing = 0;
	who.access = 1;
	assert_int_equal(HANDLE_UNAVAILABLE, handle_contend(&r, &who));
	r.sharing = 7;
	r.flags = HANDLE_RESILIENT;
	who.internal = false;
	who.access = 1;
	assert_int_equal(HANDLE_GRANT, handle_contend(&r, &who));
	r.sharing = 0;
	assert_int_equal(HANDLE_SHARING, handle_contend(&r, &who));
}

static void test_same_create_again_is_a_replay(void **state)
{
	struct handle_record r = sample(5, 1);
	struct handle_contender who = {
		.replay = true, .persistent = true, .owner = true,
		.has_create_guid = true, .create_guid = r.create_guid,
	};

	(void)state;
	assert_int_equal(HANDLE_REPLAY, handle_contend(&r, &who));
	who.sharing = 1;
	assert_int_equal(HANDLE_MISMATCH, handle_contend(&r, &who));
	who.owner = false;
	assert_int_equal(HANDLE_DENIED, handle_contend(&r, &who));
	who.replay = false;
	assert_int_equal(HANDLE_UNAVAILABLE, handle_contend(&r, &who));
	who.client_guid = r.client_guid;
	assert_int_equal(HANDLE_DUPLICATE, handle_contend(&r, &who));
}

static void test_application_that_moved_closes_its_old_open(void **state)
{
	struct handle_record r = sample(5, 1);
	struct handle_contender who = { .has_app_instance = true,
					.may_read = true,
					.dialect_311 = true };

	(void)state;
	memset(r.app_instance.bytes, 4, 16);
	r.flags |= HANDLE_APP_INSTANCE;
	who.app_instance = r.app_instance;
	assert_int_equal(HANDLE_CLOSE_OLD, handle_contend(&r, &who));
	who.may_read = false;
	assert_int_equal(HANDLE_UNAVAILABLE, handle_contend(&r, &who));
	who.may_read = true;
	who.client_guid = r.client_guid;
	assert_int_equal(HANDLE_UNAVAILABLE, handle_contend(&r, &who));
	who.client_guid.bytes[0] ^= 1;
	r.flags |= HANDLE_APP_VERSION;
	r.app_version_high = 1;
	r.app_version_low = 5;
	assert_int_equal(HANDLE_FORCED_CLOSED, handle_contend(&r, &who));
	who.has_app_version = true;
	who.app_version_high = 1;
	who.app_version_low = 5;
	assert_int_equal(HANDLE_FORCED_CLOSED, handle_contend(&r, &who));
	who.app_version_low = 6;
	assert_int_equal(HANDLE_CLOSE_OLD, handle_contend(&r, &who));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record_comes_back_as_it_was),
		cmocka_unit_test(test_cut_or_longer_record_is_refused),
		cmocka_unit_test(test_unknown_version_or_flag_is_refused),
		cmocka_unit_test(test_text_with_a_nul_is_not_written),
		cmocka_unit_test(test_locks_conflict_as_ranges_and_kinds_say),
		cmocka_unit_test(test_header_is_checked),
		cmocka_unit_test(test_newest_state_counts),
		cmocka_unit_test(test_who_reads_several_logs_is_told_of_ends),
		cmocka_unit_test(test_unfinished_write_is_the_end),
		cmocka_unit_test(test_damage_of_what_was_on_disk_refuses),
		cmocka_unit_test(
			test_damage_behind_what_was_on_disk_is_no_damage),
		cmocka_unit_test(test_only_the_rightful_client_gets_it_back),
		cmocka_unit_test(test_others_find_it_unavailable),
		cmocka_unit_test(test_same_create_again_is_a_replay),
		cmocka_unit_test(
			test_application_that_moved_closes_its_old_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
