/* Whether anybody has bytes of a file locked. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <talloc.h>

#include "support/child.h"
#include "util/filelock.h"

#define FIRST 4096
#define LAST 4105		/* of ten */

struct place {
	char folder[32];
	char file[64];
	char link[64];
	int fd;
	short type;
	bool posix;		/* locks of a process */
};

static int start(void **test)
{
	struct place *p = talloc_zero(NULL, struct place);

	strcpy(p->folder, "/tmp/hvrs-filelock-XXXXXX");
	if (mkdtemp(p->folder) == NULL) {
		return -1;
	}
	snprintf(p->file, sizeof(p->file), "%s/file", p->folder);
	snprintf(p->link, sizeof(p->link), "%s/link", p->folder);
	p->fd = open(p->file, O_RDWR | O_CREAT | O_EXCL, 0600);
	p->type = F_WRLCK;
	*test = p;
	return p->fd >= 0 ? 0 : -1;
}

static int finish(void **test)
{
	struct place *p = *test;

	close(p->fd);
	unlink(p->link);
	unlink(p->file);
	rmdir(p->folder);
	talloc_free(p);
	return 0;
}

static bool lock(const struct place *p, int fd, short type, off_t start,
		 off_t length)
{
	struct flock all = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = start,
		.l_len = length,
	};

	return fcntl(fd, p->posix ? F_SETLK : F_OFD_SETLK, &all) == 0;
}

static bool is_held(const struct place *p)
{
	return filelock_is_held(p->file, FIRST, LAST + 1 - FIRST);
}

static bool take(void *private_data)
{
	struct place *p = private_data;
	int fd = open(p->file, O_RDWR);

	return lock(p, fd, p->type, LAST, 1);
}

static void test_another_process_has_it_until_it_dies(void **test)
{
	static const short types[] = { F_WRLCK, F_RDLCK };
	struct place *p = *test;
	unsigned i = 0;

	for (i = 0; i < 4; i++) {
		pid_t child = 0;

		p->type = types[i % 2];
		p->posix = i >= 2;
		assert_false(is_held(p));
		child = child_holds(take, p);
		assert_true(child > 0);
		assert_true(is_held(p));
		assert_true(is_held(p));
		child_kill(child);
		assert_false(is_held(p));
	}
}

/* It is asked of the file, not of who asks: another disk may have it. */
static void test_one_of_this_process_counts_and_is_not_lost(void **test)
{
	struct place *p = *test;

	assert_true(lock(p, p->fd, F_RDLCK, FIRST, 1));
	assert_true(is_held(p));
	/* The question does not give it back. */
	assert_true(is_held(p));
	assert_true(lock(p, p->fd, F_UNLCK, FIRST, 1));
	assert_false(is_held(p));
	p->posix = true;
	assert_true(lock(p, p->fd, F_WRLCK, LAST, 1));
	assert_true(is_held(p));
}

static void test_who_asks_is_in_nobodys_way(void **test)
{
	struct place *p = *test;
	unsigned taken = 0;
	pid_t child = fork();

	if (child == 0) {
		unsigned i = 0;

		for (i = 0; i < 20000; i++) {
			(void)is_held(p);
		}
		_exit(0);
	}
	assert_true(child > 0);
	while (waitpid(child, NULL, WNOHANG) == 0) {
		assert_true(lock(p, p->fd, F_WRLCK, FIRST, 1));
		assert_true(lock(p, p->fd, F_UNLCK, FIRST, 1));
		taken++;
	}
	assert_true(taken > 100);
}

static void test_each_of_the_bytes_and_no_other(void **test)
{
	struct place *p = *test;
	off_t at = 0;

	for (at = FIRST - 2; at <= LAST + 2; at++) {
		assert_true(lock(p, p->fd, F_WRLCK, at, 1));
		assert_int_equal(is_held(p), at >= FIRST && at <= LAST);
		assert_true(lock(p, p->fd, F_UNLCK, at, 1));
	}
	assert_true(lock(p, p->fd, F_WRLCK, 0, 0));
	assert_true(is_held(p));
}

static void test_where_there_is_no_file_nobody_has_it(void **test)
{
	struct place *p = *test;
	struct stat st = {};

	assert_false(filelock_is_held(p->link, FIRST, 1));
	/* Nor is one made. */
	assert_int_equal(lstat(p->link, &st), -1);
	assert_false(filelock_is_held("/nowhere/file", FIRST, 1));
}

/* Who cannot tell must not say that it is free. */
static void test_what_is_not_known_counts_as_held(void **test)
{
	struct place *p = *test;

	assert_false(is_held(p));
	assert_int_equal(symlink(p->file, p->link), 0);
	assert_true(filelock_is_held(p->link, FIRST, 1));
	assert_int_equal(unlink(p->link), 0);
	assert_int_equal(symlink("/nowhere", p->link), 0);
	assert_true(filelock_is_held(p->link, FIRST, 1));
	/* A folder cannot be opened for it; a place before the file is none. */
	assert_true(filelock_is_held(p->folder, FIRST, 1));
	assert_true(filelock_is_held(p->file, -1, 1));
}

static void test_no_descriptor_is_left(void **test)
{
	struct place *p = *test;
	int before = open("/dev/null", O_RDONLY);
	int after = -1;
	unsigned i = 0;

	assert_true(lock(p, p->fd, F_WRLCK, FIRST, 1));
	for (i = 0; i < 10; i++) {
		assert_true(is_held(p));
		assert_false(filelock_is_held(p->file, 0, 1));
		assert_true(filelock_is_held(p->file, -1, 1));
	}
	after = open("/dev/null", O_RDONLY);
	assert_int_equal(after, before + 1);
	close(after);
	close(before);
}

#define T(test) cmocka_unit_test_setup_teardown(test, start, finish)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_another_process_has_it_until_it_dies),
		T(test_one_of_this_process_counts_and_is_not_lost),
		T(test_who_asks_is_in_nobodys_way),
		T(test_each_of_the_bytes_and_no_other),
		T(test_where_there_is_no_file_nobody_has_it),
		T(test_what_is_not_known_counts_as_held),
		T(test_no_descriptor_is_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
