/* Which files go with a set: its own, but for what others are made on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/store.h"
#include "vhdset/vhdset.h"
#include "vhdx/vhdx.h"

#define ID(n) "_0000000" #n "-0000-0000-0000-000000000000.avhdx"
#define SET "a.vhds"
#define LEAF "a" ID(1)
#define OLD "a" ID(2)
#define BASE "a" ID(3)
#define BUILT "a" ID(4) ".part"
#define FOREIGN "b" ID(5)

struct fixture {
	TALLOC_CTX *mem_ctx;
	char path[64];
	int folder;
};

static void text_put(struct fixture *f, const char *name, const char *text)
{
	int fd = openat(f->folder, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

/* A disk, made on another where parent is not NULL. */
static void disk_put(struct fixture *f, const char *name, const char *parent)
{
	const struct vhdx_open alone = { .without_parent = true };
	struct vhdx_locator_pair paths = { .key = "relative_path" };
	struct vhdx_create how = {
		.type = VHDX_DYNAMIC, .size = 1 << 20, .block_size = 1 << 20,
	};
	struct store *store = NULL;
	struct store *below = NULL;
	struct vhdx *disk = NULL;

	assert_int_equal(file_store_open(f->mem_ctx, NULL, f->folder, name,
					 FILE_STORE_CREATE, &store), 0);
	if (parent != NULL) {
		assert_int_equal(file_store_open(f->mem_ctx, NULL, f->folder,
						 parent, 0, &below), 0);
		assert_int_equal(vhdx_open(f->mem_ctx, below, &alone,
					   &disk, NULL), 0);
		paths.value = talloc_asprintf(f->mem_ctx, ".\\%s", parent);
		how = (struct vhdx_create) {
			.type = VHDX_DIFFERENCING, .parent = disk,
			.paths = &paths, .path_count = 1,
		};
	}
	assert_int_equal(vhdx_create(store, &how), 0);
	talloc_free(disk);
	talloc_free(below);
	talloc_free(store);
}

static void set_put(struct fixture *f)
{
	struct store *store = NULL;

	assert_int_equal(file_store_open(f->mem_ctx, NULL, f->folder, SET,
					 FILE_STORE_CREATE, &store), 0);
	assert_int_equal(vhdset_create(store, LEAF), 0);
	talloc_free(store);
}

/* The leaf on two files that were noted. */
static int setup(void **state)
{
	struct fixture *f = talloc_zero(NULL, struct fixture);

	*state = f;
	f->mem_ctx = talloc_new(f);
	strcpy(f->path, "/tmp/hvrs-files-XXXXXX");
	assert_non_null(mkdtemp(f->path));
	f->folder = open(f->path, O_RDONLY | O_DIRECTORY);
	disk_put(f, BASE, NULL);
	disk_put(f, OLD, BASE);
	disk_put(f, LEAF, OLD);
	set_put(f);
	text_put(f, SET ".unfinished", BASE "\n" OLD "\n" BUILT "\n"
		 FOREIGN "\n../x\n");
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char *command = talloc_asprintf(f, "rm -r %s", f->path);

	close(f->folder);
	assert_int_equal(system(command), 0);
	talloc_free(f);
	return 0;
}

#define assert_parts(f, ...)						\
	parts_are(f, (const char *[]) { __VA_ARGS__ __VA_OPT__(,) NULL })

static void parts_are(struct fixture *f, const char *const *wanted)
{
	static const char *const beside[] = {
		SET ".snapshots", SET ".changes", SET ".unfinished.new",
		SET ".unfinished", NULL,
	};
	char **files = NULL;
	size_t parts = 0;
	size_t i = 0;

	assert_int_equal(vhdset_files(f->mem_ctx, f->folder, SET, &files,
				      &parts), 0);
	for (i = 0; wanted[i] != NULL; i++) {
		assert_true(i < parts);
		assert_string_equal(files[i], wanted[i]);
	}
	assert_int_equal(parts, i);
	for (i = 0; beside[i] != NULL; i++) {
		assert_string_equal(files[parts + i], beside[i]);
	}
	assert_null(files[parts + i]);
	talloc_free(files);
}

static int rest(struct fixture *f, char ***_files)
{
	return vhdset_files_rest(f->mem_ctx, f->folder, SET, _files);
}

static void test_what_is_named_or_noted_goes(void **state)
{
	struct fixture *f = *state;

	disk_put(f, FOREIGN, NULL);
	text_put(f, "notes.txt", "");
	text_put(f, "raw", "no disk, and longer than a signature");
	assert_int_equal(mkdirat(f->folder, "folder", 0700), 0);
	assert_parts(f, LEAF, BASE, OLD, BUILT);
}

static void test_what_another_is_made_on_stays_with_its_parents(void **state)
{
	struct fixture *f = *state;

	disk_put(f, "of no extension", OLD);
	assert_parts(f, LEAF, BUILT);
}

static void test_a_link_is_no_disk(void **state)
{
	struct fixture *f = *state;

	disk_put(f, "other", OLD);
	assert_int_equal(mkdirat(f->folder, "folder", 0700), 0);
	assert_int_equal(renameat(f->folder, "other", f->folder,
				  "folder/other"), 0);
	assert_int_equal(symlinkat("folder/other", f->folder, "other"), 0);
	assert_int_equal(mkfifoat(f->folder, "pipe", 0600), 0);
	assert_parts(f, LEAF, BASE, OLD, BUILT);
}

static void test_a_disk_that_cannot_be_read_stops_it(void **state)
{
	struct fixture *f = *state;
	char **files = NULL;
	size_t parts = 0;

	text_put(f, "torn", "vhdxfile, but no more than that");
	assert_int_equal(vhdset_files(f->mem_ctx, f->folder, SET, &files,
				      &parts), -EBADMSG);
	assert_null(files);
}

static void test_a_set_that_is_away_has_no_files_until_it_goes(void **state)
{
	struct fixture *f = *state;
	char **files = NULL;
	size_t parts = 0;

	assert_int_equal(unlinkat(f->folder, SET, 0), 0);
	assert_int_equal(vhdset_files(f->mem_ctx, f->folder, SET, &files,
				      &parts), -ENOENT);
	assert_int_equal(rest(f, &files), -ENOENT);
	set_put(f);
	assert_int_equal(vhdset_files(f->mem_ctx, f->folder, SET, &files,
				      &parts), 0);
	assert_int_equal(vhdset_files_note(f->folder, SET, files, parts), 0);
	assert_parts(f, LEAF, BASE, OLD, BUILT);
	assert_int_equal(rest(f, &files), -EEXIST);
	assert_int_equal(unlinkat(f->folder, SET, 0), 0);
	assert_int_equal(rest(f, &files), 0);
	assert_string_equal(files[0], BASE);
	assert_string_equal(files[3], LEAF);
	assert_int_equal(vhdset_files_remove(f->folder, files), 0);
	assert_int_equal(rest(f, &files), -ENOENT);
	assert_int_equal(faccessat(f->folder, LEAF, F_OK, 0), -1);
	assert_int_equal(faccessat(f->folder, SET ".unfinished", F_OK, 0), -1);
}

static void test_notes_that_are_anothers_file_are_not_written(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(linkat(f->folder, SET ".unfinished", f->folder,
				"another's", 0), 0);
	assert_int_equal(vhdset_files_note(f->folder, SET, NULL, 0), -EBADMSG);
	assert_int_equal(unlinkat(f->folder, SET ".unfinished", 0), 0);
	assert_int_equal(symlinkat("another's", f->folder, SET ".unfinished"),
			 0);
	assert_int_equal(vhdset_files_note(f->folder, SET, NULL, 0), -ELOOP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(test_what_is_named_or_noted_goes),
		TEST(test_what_another_is_made_on_stays_with_its_parents),
		TEST(test_a_link_is_no_disk),
		TEST(test_a_disk_that_cannot_be_read_stops_it),
		TEST(test_a_set_that_is_away_has_no_files_until_it_goes),
		TEST(test_notes_that_are_anothers_file_are_not_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
