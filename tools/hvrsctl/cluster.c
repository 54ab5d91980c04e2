/*
 * Databases of a Samba cluster: they belong to CTDB, and its own tool is the
 * way to them that does not change with Samba's libraries.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "hvrsctl.h"

bool hvrsctl_is_cluster(void)
{
	static int known = -1;
	char *text = NULL;

	if (known == -1) {
		text = hvrsctl_testparm("clustering");
		known = text != NULL && strcasecmp(text, "yes") == 0;
		free(text);
	}
	return known == 1;
}

static char *ctdb(TALLOC_CTX *mem_ctx, char *const argv[])
{
	int status = -1;
	char *text = hvrsctl_run(mem_ctx, &status, argv);

	if (text == NULL || status != 0) {
		fprintf(stderr, "hvrsctl: \"ctdb %s %s\" failed; is CTDB "
			"running on this node, and is this root?\n", argv[1],
			argv[2] != NULL ? argv[2] : "");
		return NULL;
	}
	return text;
}

/* Makes a persistent database that nobody has opened yet. */
static bool attach(TALLOC_CTX *mem_ctx, const char *name)
{
	char *const argv[] = {
		(char []) { "ctdb" }, (char []) { "attach" },
		talloc_strdup(mem_ctx, name), (char []) { "persistent" },
		NULL,
	};

	return argv[2] != NULL && ctdb(mem_ctx, argv) != NULL;
}

/* A volatile one that nobody has opened yet is none. */
static char *dump(TALLOC_CTX *mem_ctx, const char *name, bool persistent)
{
	char *const look[] = {
		(char []) { "ctdb" }, (char []) { "getdbstatus" },
		talloc_strdup(mem_ctx, name), NULL,
	};
	char *const cat[] = {
		(char []) { "ctdb" }, (char []) { "catdb" }, look[2], NULL,
	};
	char *const node[] = {
		(char []) { "ctdb" }, (char []) { "pnn" }, NULL,
	};
	int status = -1;

	if (look[2] == NULL || (persistent && !attach(mem_ctx, name))) {
		return NULL;
	}
	if (!persistent && hvrsctl_run(mem_ctx, &status, look) != NULL &&
	    status != 0) {
		return ctdb(mem_ctx, node) != NULL ? talloc_strdup(mem_ctx, "")
						   : NULL;
	}
	return ctdb(mem_ctx, cat);
}

/* ---- what "ctdb catdb" prints --------------------------------------------------- */

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0'
	     : c >= 'A' && c <= 'F' ? c - 'A' + 10
	     : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* name(LENGTH) = "TEXT", where all but plain characters are \XX. */
static bool take_bytes(TALLOC_CTX *mem_ctx, const char *line, TDB_DATA *_data)
{
	const char *at = strchr(line, '"');
	TDB_DATA data = {};

	if (at == NULL) {
		return false;
	}
	data.dptr = talloc_array(mem_ctx, uint8_t, strlen(at));
	if (data.dptr == NULL) {
		return false;
	}
	for (at++; *at != '\0' && *at != '"'; at++) {
		int high = *at == '\\' ? digit(at[1]) : -1;
		int low = high != -1 ? digit(at[2]) : -1;

		if (*at != '\\') {
			data.dptr[data.dsize++] = (uint8_t)*at;
		} else if (low != -1) {
			data.dptr[data.dsize++] = (uint8_t)(high * 16 + low);
			at += 2;
		} else {
			return false;
		}
	}
	*_data = data;
	return *at == '"';
}

int hvrsctl_cluster_each(const char *name, bool persistent,
			 tdb_traverse_func each, void *private_data)
{
	TALLOC_CTX *mem_ctx = talloc_new(NULL);
	char *text = dump(mem_ctx, name, persistent);
	char *rest = NULL;
	char *line = NULL;
	TDB_DATA key = {};
	TDB_DATA value = {};
	int ret = text != NULL ? HVRSCTL_OK : HVRSCTL_FAILED;

	for (line = text != NULL ? strtok_r(text, "\n", &rest) : NULL;
	     line != NULL; line = strtok_r(NULL, "\n", &rest)) {
		if (strncmp(line, "key(", 4) == 0) {
			if (!take_bytes(mem_ctx, line, &key)) {
				key.dsize = 0;
			}
		} else if (strncmp(line, "data(", 5) == 0 && key.dsize > 0 &&
			   take_bytes(mem_ctx, line, &value)) {
			each(NULL, key, value, private_data);
		}
	}
	talloc_free(mem_ctx);
	return ret;
}

/* ---- changes --------------------------------------------------------------------- */

static char *hex(TALLOC_CTX *mem_ctx, TDB_DATA data)
{
	char *text = talloc_array(mem_ctx, char, 2 * data.dsize + 3);
	size_t i = 0;

	if (text != NULL) {
		memcpy(text, "0x", 3);
		for (i = 0; i < data.dsize; i++) {
			snprintf(text + 2 + 2 * i, 3, "%02x", data.dptr[i]);
		}
	}
	return text;
}

int hvrsctl_cluster_store(const char *name, TDB_DATA key,
			  const TDB_DATA *value)
{
	TALLOC_CTX *mem_ctx = talloc_new(NULL);
	char *const argv[] = {
		(char []) { "ctdb" },
		value != NULL ? (char []) { "pstore" }
			      : (char []) { "pdelete" },
		talloc_strdup(mem_ctx, name), hex(mem_ctx, key),
		value != NULL ? hex(mem_ctx, *value) : NULL, NULL,
	};
	bool done = argv[3] != NULL && (value == NULL || argv[4] != NULL) &&
		attach(mem_ctx, name) && ctdb(mem_ctx, argv) != NULL;

	talloc_free(mem_ctx);
	return done ? HVRSCTL_OK : HVRSCTL_FAILED;
}
