/* The record as a file: stored whole or not at all, and one lock. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "rsvd/record_file.h"
#include "support/child.h"
#include "util/crc32c.h"
#include "util/cursor.h"

struct place {
	char path[64];
};

static int start(void **test)
{
	struct place *p = talloc_zero(NULL, struct place);
	int fd = -1;

	strcpy(p->path, "/tmp/hvrs-record-XXXXXX");
	fd = mkstemp(p->path);
	close(fd);
	*test = p;
	return fd >= 0 ? 0 : -1;
}

static int finish(void **test)
{
	struct place *p = *test;

	unlink(p->path);
	talloc_free(p);
	return 0;
}

/* The text that is stored, "" for none; a child of p. */
static const char *stored(struct place *p)
{
	struct rsvd_record_file *file = NULL;
	uint8_t *bytes = NULL;
	size_t length = 0;
	const char *text = "";
	int ret = rsvd_record_file_lock(p, p->path, 0, &file, &bytes, &length);

	if (ret != 0) {
		return "error";
	}
	if (bytes != NULL) {
		text = talloc_strndup(p, (char *)bytes, length);
	}
	talloc_free(file);
	return text;
}

static int store(struct place *p, const char *text)
{
	struct rsvd_record_file *file = NULL;
	uint8_t *bytes = NULL;
	size_t length = 0;
	int ret = rsvd_record_file_lock(p, p->path, 0, &file, &bytes, &length);

	if (ret == 0) {
		ret = rsvd_record_file_store(file, (const uint8_t *)text,
					     strlen(text));
	}
	talloc_free(file);
	return ret;
}

/* In the library's place: whether what was written is stable. */
static unsigned flushes;
static bool flush_fails;

int fdatasync(int fd)
{
	(void)fd;
	flushes++;
	errno = EIO;
	return flush_fails ? -1 : 0;
}

static void test_it_is_stable_or_it_is_not_there(void **test)
{
	struct place *p = *test;
	unsigned round = 0;

	for (round = 0; round < 3; round++) {
		flushes = 0;
		assert_int_equal(store(p, "told"), 0);
		assert_int_equal(flushes, 1);
		flush_fails = true;
		assert_int_equal(store(p, "not told"), -EIO);
		flush_fails = false;
		assert_string_equal(stored(p), "told");
	}
}

static void test_what_is_stored_is_found(void **test)
{
	struct place *p = *test;
	struct rsvd_record_file *file = NULL;
	uint8_t *bytes = NULL;
	size_t length = 0;
	char name[8];
	unsigned i = 0;

	assert_string_equal(stored(p), "");
	for (i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(store(p, name), 0);
		assert_string_equal(stored(p), name);
	}
	assert_int_equal(store(p, ""), 0);
	assert_int_equal(rsvd_record_file_lock(p, p->path, 0, &file, &bytes,
					       &length), 0);
	assert_null(bytes);
	assert_int_equal(length, 0);
	talloc_free(file);
	assert_int_equal(store(p, "again"), 0);
	assert_string_equal(stored(p), "again");
}

static size_t whole(const char *path, uint8_t *bytes)
{
	int fd = open(path, O_RDONLY);
	ssize_t got = pread(fd, bytes, 2 * RSVD_RECORD_FILE_MAX, 0);

	close(fd);
	return got > 0 ? (size_t)got : 0;
}

/* A machine that goes leaves any part of what it wrote. */
static void test_cut_anywhere_it_is_the_old_or_the_new(void **test)
{
	struct place *p = *test;
	const size_t all = 2 * RSVD_RECORD_FILE_MAX;
	uint8_t *before = talloc_zero_size(p, all);
	uint8_t *after = talloc_zero_size(p, all);
	uint8_t *mixed = talloc_zero_size(p, all);
	unsigned round = 0;

	for (round = 0; round < 4; round++) {
		const char *old = stored(p);
		const char *new = round % 2 == 0 ? "another, and longer"
						 : "one more";
		unsigned news = 0;
		size_t cut = 0;

		memset(before, 0, all);
		memset(after, 0, all);
		(void)whole(p->path, before);
		assert_int_equal(store(p, new), 0);
		(void)whole(p->path, after);
		for (cut = 0; cut < all; cut++) {
			const char *now = NULL;
			int fd = -1;

			if (before[cut] == after[cut]) {
				continue;
			}
			/* What is before the cut came, what is behind not. */
			memcpy(mixed, after, cut);
			memcpy(mixed + cut, before + cut, all - cut);
			fd = open(p->path, O_WRONLY);
			assert_int_equal(pwrite(fd, mixed, all, 0), all);
			now = stored(p);
			assert_true(strcmp(now, old) == 0 ||
				    strcmp(now, new) == 0);
			news += strcmp(now, new) == 0;
			/* And the other way round. */
			memcpy(mixed, before, cut);
			memcpy(mixed + cut, after + cut, all - cut);
			assert_int_equal(pwrite(fd, mixed, all, 0), all);
			now = stored(p);
			assert_true(strcmp(now, old) == 0 ||
				    strcmp(now, new) == 0);
			assert_int_equal(pwrite(fd, after, all, 0), all);
			close(fd);
		}
		assert_int_equal(news, 0);
		assert_string_equal(stored(p), new);
	}
}

static void test_damage_is_no_empty_record(void **test)
{
	struct place *p = *test;
	const char junk = 'x';
	int fd = -1;

	assert_int_equal(store(p, "one"), 0);
	assert_int_equal(store(p, "two"), 0);
	fd = open(p->path, O_WRONLY);
	/* As if it had not been stored. */
	assert_int_equal(pwrite(fd, &junk, 1, 24), 1);
	assert_string_equal(stored(p), "one");
	assert_int_equal(pwrite(fd, &junk, 1, RSVD_RECORD_FILE_MAX + 24), 1);
	assert_string_equal(stored(p), "error");
	close(fd);
}

/* Of an odd and an even turn, so that the next one never goes over it. */
static void test_a_place_has_every_other_turn(void **test)
{
	struct place *p = *test;
	uint8_t *all = talloc_zero_size(p, 2 * RSVD_RECORD_FILE_MAX);
	int fd = -1;

	assert_int_equal(store(p, "one"), 0);
	assert_true(whole(p->path, all) > RSVD_RECORD_FILE_MAX);
	fd = open(p->path, O_WRONLY);
	assert_int_equal(pwrite(fd, all + RSVD_RECORD_FILE_MAX, 64, 0), 64);
	assert_int_equal(pwrite(fd, "xxxxxxxx", 8, RSVD_RECORD_FILE_MAX), 8);
	assert_string_equal(stored(p), "error");
	close(fd);
}

/* A first place of turn 2, as long as it says as far as the file goes. */
static void foreign_put(struct place *p, uint32_t length)
{
	uint8_t *all = talloc_zero_size(p, 2 * RSVD_RECORD_FILE_MAX);
	size_t size = (size_t)length + 24;
	struct cursor_put c = {};
	uint32_t sum = 0;
	int fd = open(p->path, O_WRONLY);

	(void)whole(p->path, all);
	cursor_put_init(&c, all, 24);
	cursor_put_le64(&c, 0x4352534852535648ULL);
	cursor_put_le64(&c, 2);
	cursor_put_le32(&c, length);
	cursor_put_le32(&c, 0);
	sum = crc32c(all, size < 2 * RSVD_RECORD_FILE_MAX ? size : 24);
	cursor_put_init(&c, all + 20, 4);
	cursor_put_le32(&c, sum);
	assert_int_equal(pwrite(fd, all, 24, 0), 24);
	close(fd);
	talloc_free(all);
}

static void test_a_place_that_says_too_much_does_not_count(void **test)
{
	static const uint32_t much[] = {
		RSVD_RECORD_FILE_MAX - 23, RSVD_RECORD_FILE_MAX,
		2 * RSVD_RECORD_FILE_MAX, 1U << 31, UINT32_MAX - 24,
		UINT32_MAX - 23, UINT32_MAX - 22, UINT32_MAX,
	};
	struct place *p = *test;
	struct rsvd_record_file *file = NULL;
	uint8_t *bytes = NULL;
	size_t length = 0;
	size_t i = 0;

	assert_int_equal(store(p, "told"), 0);
	for (i = 0; i < sizeof(much) / sizeof(much[0]); i++) {
		foreign_put(p, much[i]);
		assert_string_equal(stored(p), "told");
	}
	/* One that is as long as its place. */
	foreign_put(p, RSVD_RECORD_FILE_MAX - 24);
	assert_int_equal(rsvd_record_file_lock(p, p->path, 0, &file, &bytes,
					       &length), 0);
	assert_int_equal(length, RSVD_RECORD_FILE_MAX - 24);
	talloc_free(file);
}

static bool take_lock(void *private_data)
{
	struct place *p = private_data;
	struct rsvd_record_file *file = NULL;
	uint8_t *bytes = NULL;
	size_t length = 0;

	return rsvd_record_file_lock(p, p->path, 0, &file, &bytes,
				     &length) == 0;
}

static void test_one_has_the_lock_until_it_dies(void **test)
{
	struct place *p = *test;
	struct rsvd_record_file *file = NULL;
	uint8_t *bytes = NULL;
	size_t length = 0;
	pid_t child = child_holds(take_lock, p);

	assert_true(child > 0);
	alarm(10);
	assert_int_equal(rsvd_record_file_lock(p, p->path, 20, &file, &bytes,
					       &length), -ETIMEDOUT);
	child_kill(child);
	assert_int_equal(rsvd_record_file_lock(p, p->path, 1000, &file, &bytes,
					       &length), 0);
	alarm(0);
	talloc_free(file);
}

static void test_too_much_is_refused(void **test)
{
	struct place *p = *test;
	struct rsvd_record_file *file = NULL;
	uint8_t *much = talloc_zero_size(p, RSVD_RECORD_FILE_MAX);
	uint8_t *bytes = NULL;
	size_t length = 0;

	assert_int_equal(store(p, "small"), 0);
	assert_int_equal(rsvd_record_file_lock(p, p->path, 0, &file, &bytes,
					       &length), 0);
	assert_int_equal(rsvd_record_file_store(file, much,
						RSVD_RECORD_FILE_MAX - 23),
			 -EFBIG);
	assert_int_equal(rsvd_record_file_store(file, much,
						RSVD_RECORD_FILE_MAX - 24), 0);
	talloc_free(file);
	assert_int_equal(rsvd_record_file_lock(p, p->path, 0, &file, &bytes,
					       &length), 0);
	assert_int_equal(length, RSVD_RECORD_FILE_MAX - 24);
	talloc_free(file);
}

#define T(test) cmocka_unit_test_setup_teardown(test, start, finish)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_it_is_stable_or_it_is_not_there),
		T(test_what_is_stored_is_found),
		T(test_cut_anywhere_it_is_the_old_or_the_new),
		T(test_damage_is_no_empty_record),
		T(test_a_place_has_every_other_turn),
		T(test_a_place_that_says_too_much_does_not_count),
		T(test_one_has_the_lock_until_it_dies),
		T(test_too_much_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
