/* Folders in which processes, and nodes of a cluster, meet. */
#include "state_folder.h"

#include "dbwrap/dbwrap.h"
#include "util_tdb.h"

#include "option/option.h"
#include "util/guid.h"

bool state_folder_make(const char *path, const char *what)
{
	struct stat st = {};

	if (mkdir(path, 0700) != 0 && errno != EEXIST) {
		DBG_ERR("hvrs: %s: the folder %s cannot be made: %s\n", what,
			path, strerror(errno));
		return false;
	}
	if (lstat(path, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != 0 ||
	    (st.st_mode & 022) != 0) {
		DBG_ERR("hvrs: %s: %s is not a folder that only root may change; "
			"it stays off\n", what, path);
		return false;
	}
	return true;
}

/* The name of the folder, which it has in itself; -ENOENT where it has none. */
static int folder_name(const char *path, char name[GUID_TEXT_SIZE])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct guid id = {};
	ssize_t got = 0;

	if (fd < 0) {
		return -errno;
	}
	got = read(fd, name, GUID_TEXT_SIZE - 1);
	close(fd);
	if (got < 0) {
		return -errno;
	}
	name[got] = '\0';
	return guid_parse(name, strlen(name), &id);
}

/* A new one, whole or not at all; another node may be first. */
static int folder_name_new(const char *path, char name[GUID_TEXT_SIZE])
{
	char *part = talloc_asprintf(talloc_tos(), "%s.%d-%u", path,
				     (int)getpid(), generate_random());
	struct guid id = {};
	int fd = -1;
	int ret = guid_random(&id);

	if (part == NULL || ret != 0) {
		return -ENOMEM;
	}
	guid_format(&id, false, name);
	fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		return -errno;
	}
	if (write(fd, name, strlen(name)) != (ssize_t)strlen(name) ||
	    fsync(fd) != 0 || link(part, path) != 0) {
		ret = errno == EEXIST ? 0 : -errno;
	}
	close(fd);
	unlink(part);
	TALLOC_FREE(part);
	return ret != 0 ? ret : folder_name(path, name);
}

/*
 * Two nodes that took different folders for the one they share would each
 * grant what only one may have: the name in the folder is also in a database
 * of all nodes.
 */
static bool folder_is_shared(struct db_context *db, const char *folder,
			     const char *what)
{
	static const char key[] = "folder";
	char *path = talloc_asprintf(talloc_tos(), "%s/id", folder);
	char name[GUID_TEXT_SIZE] = "";
	TDB_DATA tdb_key = string_term_tdb_data(key);
	TDB_DATA known = {};
	NTSTATUS status = NT_STATUS_NO_MEMORY;
	int ret = -ENOMEM;

	if (path != NULL) {
		ret = folder_name(path, name);
		status = dbwrap_fetch(db, talloc_tos(), tdb_key,
				      &known);
	}
	if (ret == -ENOENT && NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND)) {
		ret = folder_name_new(path, name);
	}
	if (ret == 0 && NT_STATUS_EQUAL(status, NT_STATUS_NOT_FOUND)) {
		status = dbwrap_trans_store(
			db, tdb_key, make_tdb_data(
				(uint8_t *)name, strlen(name)), TDB_INSERT);
		if (!NT_STATUS_IS_OK(status)) {
			/* Another node may have been first. */
			status = dbwrap_fetch(db, talloc_tos(), tdb_key,
					      &known);
		} else {
			known.dptr = talloc_memdup(talloc_tos(), name,
						   strlen(name));
			known.dsize = strlen(name);
		}
	}
	if (ret != 0 || !NT_STATUS_IS_OK(status) || known.dptr == NULL ||
	    known.dsize != strlen(name) ||
	    memcmp(known.dptr, name, known.dsize) != 0) {
		DBG_ERR("hvrs: %s: %s is not known to be the same "
			"folder on every node (%s holds \"%s\", the cluster's "
			"%s \"%.*s\"%s%s). It must lie on the file system "
			"that the nodes share; where it was moved, its file id "
			"goes with it. It stays off\n", what, folder,
			path != NULL ? path : "", name, dbwrap_name(db),
			(int)known.dsize, (const char *)known.dptr,
			ret != 0 ? ": " : "", ret != 0 ? strerror(-ret) : "");
		return false;
	}
	TALLOC_FREE(known.dptr);
	TALLOC_FREE(path);
	return true;
}

char *state_folder_shared(TALLOC_CTX *mem_ctx, struct db_context *db,
			  const char *name, const char *what)
{
	const char *store = lp_parm_const_string(
		GLOBAL_SECTION_SNUM, "hvrs",
		option_row_get(OPTION_HANDLE_STORE)->name, "");
	char *folder = NULL;

	if (store[0] != '/') {
		DBG_ERR("hvrs: %s: clustering = yes, and hvrs:%s does not name "
			"a folder on the file system that the nodes share; it "
			"stays off\n", what,
			option_row_get(OPTION_HANDLE_STORE)->name);
		return NULL;
	}
	folder = talloc_asprintf(mem_ctx, "%s/%s", store, name);
	if (folder == NULL || !state_folder_make(store, what) ||
	    !state_folder_make(folder, what) ||
	    !folder_is_shared(db, folder, what)) {
		TALLOC_FREE(folder);
	}
	return folder;
}
