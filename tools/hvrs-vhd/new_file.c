/*
 * New files have no name until they are whole: whatever ends the tool before,
 * nothing of them stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

static int destroy(struct new_file *file)
{
	if (file->temporary != NULL) {
		unlink(file->temporary);
	}
	if (file->fd != -1) {
		close(file->fd);
	}
	return 0;
}

static char *folder_of(TALLOC_CTX *mem_ctx, const char *path)
{
	const char *slash = strrchr(path, '/');

	if (slash == NULL) {
		return talloc_strdup(mem_ctx, ".");
	}
	return talloc_strndup(mem_ctx, path,
			      slash == path ? 1 : (size_t)(slash - path));
}

/* Where the file system has no files without names, one with a strange one. */
static int open_named(struct new_file *file)
{
	file->temporary = talloc_asprintf(file, "%s.hvrs-XXXXXX", file->path);
	if (file->temporary == NULL) {
		errno = ENOMEM;
		return -1;
	}
	return mkostemp(file->temporary, O_CLOEXEC);
}

/* What a crash left of a set that the server was to delete. */
static void set_rest_remove(struct new_file *file, const char *folder)
{
	const char *slash = strrchr(file->path, '/');
	const char *name = slash != NULL ? slash + 1 : file->path;
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char **files = NULL;

	if (fd >= 0) {
		if (vhdset_files_rest(file, fd, name, &files) == 0) {
			(void)vhdset_files_remove(fd, files);
		}
		close(fd);
	}
}

struct new_file *new_file_open(struct tool *tool, const char *path)
{
	struct new_file *file = talloc_zero(tool->mem_ctx, struct new_file);
	struct stat st = {};
	char *folder = NULL;
	int fd = -1;
	int ret = 0;

	if (file == NULL) {
		return NULL;
	}
	file->fd = -1;
	file->path = path;
	if (lstat(path, &st) == 0) {
		tool_fail(path, EEXIST, "it cannot be made", NULL);
		talloc_free(file);
		return NULL;
	}
	folder = folder_of(file, path);
	if (folder != NULL && vhdset_is_name(path)) {
		set_rest_remove(file, folder);
	}
	file->fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
	if (file->fd == -1 && (errno == EOPNOTSUPP || errno == EISDIR)) {
		file->fd = open_named(file);
	}
	talloc_set_destructor(file, destroy);
	fd = file->fd == -1 ? -1 : dup(file->fd);
	if (fd == -1) {
		tool_fail(path, errno, "it cannot be made", NULL);
		talloc_free(file);
		return NULL;
	}
	ret = file_store_from_fd(file, tool->ev, fd, FILE_STORE_WRITE,
				 &file->store);
	if (ret != 0) {
		close(fd);
		tool_fail(path, ret, "it cannot be made", NULL);
		talloc_free(file);
		return NULL;
	}
	return file;
}

static int give_name(struct new_file *file)
{
	char path[64] = "";
	mode_t mask = 0;

	if (file->temporary == NULL) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
		return linkat(AT_FDCWD, path, AT_FDCWD, file->path,
			      AT_SYMLINK_FOLLOW);
	}
	mask = umask(0);
	umask(mask);
	if (fchmod(file->fd, 0666 & ~mask) != 0 ||
	    renameat2(AT_FDCWD, file->temporary, AT_FDCWD, file->path,
		      RENAME_NOREPLACE) != 0) {
		return -1;
	}
	TALLOC_FREE(file->temporary);
	return 0;
}

int new_file_finish(struct new_file *file)
{
	char *folder = folder_of(file, file->path);
	int directory = -1;
	int ret = TOOL_OK;

	if (fsync(file->fd) != 0 || give_name(file) != 0) {
		ret = tool_fail(file->path, errno, "it cannot be finished",
				NULL);
	} else {
		directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (directory == -1 || fsync(directory) != 0) {
			ret = tool_fail(file->path, errno,
					"its folder cannot be synced", NULL);
		}
		if (directory != -1) {
			close(directory);
		}
	}
	talloc_free(file);
	return ret;
}
