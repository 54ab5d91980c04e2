/* Where Samba keeps its databases, and how they are opened beside smbd. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hvrsctl.h"

/* As smb.conf has it; testparm knows the default that was built in. */
static char *ask_testparm(const char *command)
{
	FILE *in = popen(command, "r");
	char *line = NULL;
	size_t size = 0;
	ssize_t length = 0;

	if (in == NULL) {
		return NULL;
	}
	length = getline(&line, &size, in);
	pclose(in);
	if (length <= 1) {
		free(line);
		return NULL;
	}
	line[strcspn(line, "\n")] = '\0';
	return line;
}

char *hvrsctl_testparm(const char *parameter)
{
	char command[256] = "";

	snprintf(command, sizeof(command), "testparm -s --parameter-name='%s'"
		 " 2>/dev/null", parameter);
	return ask_testparm(command);
}

struct tdb_context *hvrsctl_database(enum hvrsctl_dir dir, const char *name,
				     int access, bool *_missing)
{
	static const char *const commands[] = {
		[HVRSCTL_STATE] = "testparm -s --parameter-name="
				  "'state directory' 2>/dev/null",
		[HVRSCTL_LOCK] = "testparm -s --parameter-name="
				 "'lock directory' 2>/dev/null",
	};
	struct tdb_context *tdb = NULL;
	char *folder = ask_testparm(commands[dir]);
	char *path = NULL;

	*_missing = false;
	if (folder == NULL) {
		fprintf(stderr, "hvrsctl: testparm does not tell Samba's "
			"directories; is Samba installed and smb.conf "
			"right?\n");
		return NULL;
	}
	path = talloc_asprintf(NULL, "%s/%s", folder, name);
	free(folder);
	if (path == NULL) {
		fprintf(stderr, "hvrsctl: no memory\n");
		return NULL;
	}
	/* Not CLEAR_IF_FIRST: what smbd stored must be found. */
	tdb = tdb_open(path, 0, TDB_DEFAULT, access, 0600);
	if (tdb == NULL && errno == ENOENT) {
		*_missing = true;
	} else if (tdb == NULL) {
		fprintf(stderr, "hvrsctl: %s cannot be opened: %s%s\n", path,
			strerror(errno), errno == EACCES ?
			"; run hvrsctl as root" : "");
	}
	talloc_free(path);
	return tdb;
}
