/*
 * Members of a share that have caches of their own: one goes, with all that it
 * has not flushed, and the other goes on with what is left.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <tevent.h>

#include "support/child.h"
#include "support/mem_store.h"
#include "vhdx/vhdx.h"

#define MIB VHDX_MIB
#define SIZE (16 * MIB)
#define RECORD_FLAGS (VHDX_SHARE_RECORD - 8)
#define BUSY 2

struct member {
	struct mem_store *ms;
	struct vhdx *disk;
};

struct fixture {
	TALLOC_CTX *mem_ctx;
	struct tevent_context *ev;
	char share[64];
	struct member *a;
	struct member *b;
	uint8_t bytes[MIB];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd = -1;

	f->mem_ctx = talloc_new(NULL);
	f->ev = tevent_context_init(f->mem_ctx);
	strcpy(f->share, "/tmp/test_vhdx_apart.XXXXXX");
	fd = mkstemp(f->share);
	close(fd);
	/* A test that hangs has failed. */
	alarm(100);
	*state = f;
	return fd >= 0 ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	alarm(0);
	unlink(f->share);
	talloc_free(f->mem_ctx);
	free(f);
	return 0;
}

static struct member *join(struct fixture *f, struct mem_store *ms)
{
	struct member *m = talloc_zero(f->mem_ctx, struct member);
	struct vhdx_open how = { .writable = true };
	const char *why = NULL;

	m->ms = talloc_steal(m, ms);
	assert_int_equal(vhdx_share_apart_open(m, f->ev, f->share,
					       &how.share), 0);
	assert_int_equal(vhdx_open(m, mem_store_get(ms), &how, &m->disk,
				   &why), 0);
	return m;
}

static void put(struct fixture *f, struct member *m, uint64_t block,
		uint8_t value, size_t length)
{
	memset(f->bytes, value, sizeof(f->bytes));
	assert_int_equal(vhdx_write(m->disk, f->ev, f->bytes, block * MIB,
				    length, true), 0);
	assert_int_equal(vhdx_settle(m->disk, f->ev), 0);
}

/* The value that all of the block from a place on has. */
static uint8_t get(struct fixture *f, struct vhdx *disk, uint64_t block,
		   size_t from)
{
	size_t i = 0;

	assert_int_equal(vhdx_read(disk, f->ev, f->bytes, block * MIB, MIB),
			 0);
	for (i = from; i < MIB; i++) {
		assert_int_equal(f->bytes[i], f->bytes[from]);
	}
	return f->bytes[from];
}

/* Both have read block 0, of value 1; what a does from here on is recorded. */
static void begin(struct fixture *f)
{
	struct vhdx_create c = {
		.type = VHDX_DYNAMIC, .size = SIZE, .block_size = MIB,
	};
	struct mem_store *ms = mem_store_new(f->mem_ctx, f->ev);

	assert_int_equal(vhdx_create(mem_store_get(ms), &c), 0);
	f->a = join(f, ms);
	put(f, f->a, 0, 1, MIB);
	f->b = join(f, mem_store_copy(f->mem_ctx, ms));
	assert_int_equal(get(f, f->b->disk, 0, 0), 1);
	assert_int_equal(get(f, f->b->disk, 1, 0), 0);
	mem_store_record(ms);
}

/* a goes; b sees what is left of it at that event. */
static void end_of_a(struct fixture *f, size_t cut, uint64_t seed)
{
	struct mem_store *left = mem_store_cut(f->mem_ctx, f->a->ms, cut,
					       seed);
	uint8_t *bytes = NULL;
	uint64_t size = 0;

	assert_int_equal(store_size(mem_store_get(left), &size), 0);
	bytes = talloc_size(left, size);
	assert_int_equal(store_read(mem_store_get(left), bytes, size, 0), 0);
	assert_int_equal(mem_store_load(f->b->ms, bytes, size), 0);
	talloc_free(left);
	TALLOC_FREE(f->a);
}

/* b leaves; what it leaves is sound. */
static struct vhdx *end_of_b(struct fixture *f)
{
	struct vhdx_check_result result = {};
	struct vhdx_open how = { .writable = true };
	struct vhdx *disk = NULL;

	assert_int_equal(vhdx_close(f->b->disk), 0);
	assert_int_equal(vhdx_open(f->b, mem_store_get(f->b->ms), &how, &disk,
				   NULL), 0);
	assert_int_equal(vhdx_check(disk, false, NULL, NULL, &result), 0);
	assert_int_equal(result.errors, 0);
	return disk;
}

static void test_what_one_was_told_the_others_have(void **state)
{
	struct fixture *f = *state;
	struct vhdx *disk = NULL;
	uint64_t seed = 0;

	for (seed = 1; seed <= 60; seed++) {
		begin(f);
		put(f, f->a, 1, 2, MIB);
		put(f, f->a, 0, 3, 4096);
		put(f, f->a, 2, 4, 4096);
		/*
		 * Without a flush of its own: else its log, replayed by
		 * whoever opens the disk next, would bring back what b found
		 * gone.
		 */
		memset(f->bytes, 7, sizeof(f->bytes));
		assert_int_equal(vhdx_write(f->a->disk, f->ev, f->bytes,
					    4 * MIB, MIB, false), 0);
		end_of_a(f, mem_store_events(f->a->ms), seed);
		assert_int_equal(get(f, f->b->disk, 1, 0), 2);
		assert_int_equal(get(f, f->b->disk, 0, 4096), 1);
		assert_int_equal(f->bytes[0], 3);
		assert_int_equal(f->bytes[4095], 3);
		assert_int_equal(get(f, f->b->disk, 4, 0), 7);
		/* It takes no space that the other one has taken. */
		put(f, f->b, 3, 5, MIB);
		assert_int_equal(get(f, f->b->disk, 1, 0), 2);
		assert_int_equal(get(f, f->b->disk, 2, 4096), 0);
		assert_int_equal(f->bytes[0], 4);
		disk = end_of_b(f);
		assert_int_equal(get(f, disk, 1, 0), 2);
		assert_int_equal(get(f, disk, 3, 0), 5);
		assert_int_equal(get(f, disk, 0, 4096), 1);
		TALLOC_FREE(f->b);
	}
}

static void share_get(struct fixture *f, uint8_t page[4096])
{
	int fd = open(f->share, O_RDONLY);

	assert_int_equal(pread(fd, page, 4096, 0), 4096);
	close(fd);
}

static void share_put(struct fixture *f, const uint8_t page[4096])
{
	int fd = open(f->share, O_WRONLY);

	assert_int_equal(pwrite(fd, page, 4096, 0), 4096);
	close(fd);
}

/* a's write of block 1, and the share's page as it was during the turn. */
static void turn_of_a(struct fixture *f, uint8_t during[4096])
{
	struct tevent_req *req = NULL;
	uint8_t *value = talloc_size(f->a, MIB);
	uint8_t page[4096];
	bool seen = false;

	memset(value, 2, MIB);
	req = vhdx_write_send(f->a, f->ev, f->a->disk, value, MIB, MIB, true);
	assert_non_null(req);
	while (tevent_req_is_in_progress(req)) {
		assert_int_equal(tevent_loop_once(f->ev), 0);
		share_get(f, page);
		if ((page[RECORD_FLAGS] & BUSY) != 0) {
			memcpy(during, page, sizeof(page));
			seen = true;
		}
	}
	assert_int_equal(vhdx_write_recv(req), 0);
	assert_true(seen);
	assert_int_equal(vhdx_settle(f->a->disk, f->ev), 0);
}

static void test_one_goes_in_the_middle_of_its_turn(void **state)
{
	struct fixture *f = *state;
	uint8_t during[4096];
	struct vhdx *disk = NULL;
	size_t events = 1;
	size_t cut = 0;
	uint64_t seed = 0;
	unsigned there = 0;
	unsigned gone = 0;

	for (cut = 0; cut < events; cut++) {
		for (seed = 1; seed <= 6; seed++) {
			uint8_t value = 0;

			begin(f);
			turn_of_a(f, during);
			events = mem_store_events(f->a->ms);
			end_of_a(f, cut, seed);
			share_put(f, during);
			assert_int_equal(get(f, f->b->disk, 0, 0), 1);
			put(f, f->b, 3, 5, MIB);
			value = get(f, f->b->disk, 1, 0);
			assert_true(value == 0 || value == 2);
			there += value == 2;
			gone += value == 0;
			assert_int_equal(get(f, f->b->disk, 0, 0), 1);
			disk = end_of_b(f);
			assert_int_equal(get(f, disk, 1, 0), value);
			assert_int_equal(get(f, disk, 3, 0), 5);
			assert_int_equal(get(f, disk, 0, 0), 1);
			TALLOC_FREE(f->b);
		}
	}
	assert_true(there > 0 && gone > 0);
}

static void test_a_size_is_what_the_others_have(void **state)
{
	struct fixture *f = *state;
	struct vhdx_info info = {};
	struct vhdx *disk = NULL;
	uint64_t seed = 0;

	for (seed = 1; seed <= 16; seed++) {
		begin(f);
		assert_int_equal(vhdx_resize(f->a->disk, 2 * SIZE, false), 0);
		end_of_a(f, mem_store_events(f->a->ms), seed);
		put(f, f->b, 3, 5, MIB);
		vhdx_info_get(f->b->disk, &info);
		assert_int_equal(info.size, 2 * SIZE);
		put(f, f->b, 2 * SIZE / MIB - 1, 6, MIB);
		disk = end_of_b(f);
		vhdx_info_get(disk, &info);
		assert_int_equal(info.size, 2 * SIZE);
		assert_int_equal(get(f, disk, 0, 0), 1);
		assert_int_equal(get(f, disk, 2 * SIZE / MIB - 1, 0), 6);
		TALLOC_FREE(f->b);
	}
}

/* In the library's place: the share's page as it is when it becomes stable. */
static struct {
	unsigned count;
	bool fails;
	uint8_t page[4096];
} flushed;

static int flush(int fd)
{
	flushed.count++;
	if (flushed.fails || pread(fd, flushed.page, 4096, 0) != 4096) {
		errno = EIO;
		return -1;
	}
	return 0;
}

int fdatasync(int fd)
{
	return flush(fd);
}

int fsync(int fd)
{
	return flush(fd);
}

static struct vhdx_share *member(struct fixture *f, bool apart)
{
	struct vhdx_share *share = NULL;

	assert_int_equal((apart ? vhdx_share_apart_open : vhdx_share_file_open)(
				 f->mem_ctx, f->ev, f->share, &share), 0);
	return share;
}

static void test_a_record_is_stable_before_it_counts(void **state)
{
	struct fixture *f = *state;
	struct vhdx_share *share = member(f, true);
	uint8_t record[VHDX_SHARE_RECORD];
	unsigned turn = 0;

	for (turn = 1; turn <= 3; turn++) {
		memset(record, (int)turn, sizeof(record));
		assert_int_equal(share->ops->lock_wait(share), 0);
		flushed.count = 0;
		assert_int_equal(share->ops->store(share, record), 0);
		assert_int_equal(flushed.count, 1);
		assert_memory_equal(flushed.page, record, sizeof(record));
		flushed.fails = true;
		assert_int_equal(share->ops->store(share, record), -EIO);
		flushed.fails = false;
		share->ops->unlock(share);
	}
	talloc_free(share);
}

/* A turn whose beginning is not stable changes nothing. */
static void test_a_turn_begins_when_it_is_stable(void **state)
{
	struct fixture *f = *state;
	struct vhdx_open how = { .writable = true };
	struct vhdx *disk = NULL;
	size_t events = 0;

	begin(f);
	events = mem_store_events(f->a->ms);
	flushed.fails = true;
	memset(f->bytes, 2, sizeof(f->bytes));
	assert_int_equal(vhdx_write(f->a->disk, f->ev, f->bytes, MIB, MIB,
				    true), -EIO);
	flushed.fails = false;
	assert_int_equal(mem_store_events(f->a->ms), events);
	TALLOC_FREE(f->a->disk);
	assert_int_equal(vhdx_open(f->a, mem_store_get(f->a->ms), &how, &disk,
				   NULL), 0);
	assert_int_equal(get(f, disk, 0, 0), 1);
	assert_int_equal(get(f, disk, 1, 0), 0);
	TALLOC_FREE(f->b);
}

static void test_what_the_dead_left_is_cleared(void **state)
{
	static const uint8_t nothing[4096];
	struct fixture *f = *state;
	struct vhdx_share *share = NULL;
	uint8_t page[4096];

	memset(page, 3, sizeof(page));
	share_put(f, page);
	flushed.fails = true;
	assert_int_equal(vhdx_share_apart_open(f->mem_ctx, f->ev, f->share,
					       &share), -EIO);
	flushed.fails = false;
	share_put(f, page);
	flushed.count = 0;
	share = member(f, true);
	assert_int_equal(flushed.count, 1);
	assert_memory_equal(flushed.page, nothing, 4096);
	share_put(f, page);
	/* Not where somebody is there. */
	talloc_free(member(f, true));
	share_get(f, flushed.page);
	assert_memory_equal(flushed.page, page, 4096);
	talloc_free(share);
}

static bool be_member(void *private_data)
{
	return member(private_data, true) != NULL;
}

static void test_alone_is_who_has_nobody_beside_him(void **state)
{
	struct fixture *f = *state;
	unsigned apart = 0;
	pid_t child = 0;

	for (apart = 0; apart < 2; apart++) {
		struct vhdx_share *a = member(f, apart != 0);
		struct vhdx_share *b = NULL;
		bool alone = false;

		assert_int_equal(a->ops->alone(a, &alone), 0);
		assert_true(alone);
		/* Nor does it keep others out. */
		b = member(f, apart != 0);
		assert_int_equal(a->ops->alone(a, &alone), 0);
		assert_false(alone);
		assert_int_equal(b->ops->alone(b, &alone), 0);
		assert_false(alone);
		talloc_free(b);
		assert_int_equal(a->ops->alone(a, &alone), 0);
		assert_true(alone);
		assert_true(vhdx_share_is_used_at(f->share));
		child = child_holds(be_member, f);
		assert_true(child > 0);
		assert_int_equal(a->ops->alone(a, &alone), 0);
		assert_false(alone);
		child_kill(child);
		assert_int_equal(a->ops->alone(a, &alone), 0);
		assert_true(alone);
		talloc_free(a);
	}
}

/* The session goes on, and the log with it, until the last. */
static void test_only_the_last_who_closes_ends_the_session(void **state)
{
	struct fixture *f = *state;
	uint8_t page[4096];
	uint8_t after[4096];
	size_t events = 0;

	begin(f);
	put(f, f->a, 1, 2, MIB);
	share_get(f, page);
	events = mem_store_events(f->a->ms);
	assert_int_equal(vhdx_close(f->a->disk), 0);
	assert_int_equal(mem_store_events(f->a->ms), events);
	share_get(f, after);
	assert_memory_equal(page, after, sizeof(page));
	end_of_a(f, events, 0);
	assert_int_equal(get(f, f->b->disk, 1, 0), 2);
	put(f, f->b, 3, 5, MIB);
	(void)end_of_b(f);
	TALLOC_FREE(f->b);
}

static void test_who_is_a_member_is_told(void **state)
{
	struct fixture *f = *state;
	struct vhdx_share *share = NULL;

	assert_false(vhdx_share_is_used_at(f->share));
	assert_int_equal(vhdx_share_apart_open(f->mem_ctx, f->ev, f->share,
					       &share), 0);
	assert_true(vhdx_share_is_used_at(f->share));
	talloc_free(share);
	assert_false(vhdx_share_is_used_at(f->share));
	assert_false(vhdx_share_is_used_at("/nowhere/disk"));
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_what_one_was_told_the_others_have),
		T(test_one_goes_in_the_middle_of_its_turn),
		T(test_a_size_is_what_the_others_have),
		T(test_a_record_is_stable_before_it_counts),
		T(test_a_turn_begins_when_it_is_stable),
		T(test_what_the_dead_left_is_cleared),
		T(test_alone_is_who_has_nobody_beside_him),
		T(test_only_the_last_who_closes_ends_the_session),
		T(test_who_is_a_member_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
