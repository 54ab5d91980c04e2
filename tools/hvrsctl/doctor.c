/*
 * hvrsctl doctor: what to change on this server for Hyper-V, in words and in
 * lines of smb.conf.  Rows of a table for parameters; functions for the rest.
 */
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conf/conf.h"
#include "hvrsctl.h"
#include "option/option.h"

struct visit {
	TALLOC_CTX *mem_ctx;
	json_t *config;
	json_t *found;		/* of {level, section, text, lines} */
	char *modules;
	size_t errors;
};

/* What a value does to virtual machines; testparm tells yes and no as said. */
struct advice {
	const char *parameter;
	const char *standard;
	const char *bad;
	bool error;
	const char *why;
	const char *line;
};

static const struct advice advices[] = {
	{ "strict sync", "Yes", "No", true,
	  "a flush that a machine asks for is not made: a power failure takes "
	  "data that its disk said was safe", "strict sync = yes" },
	{ "smb2 leases", "Yes", "No", false,
	  "without leases clients do not ask for persistent handles that "
	  "outlive the server", "smb2 leases = yes" },
	{ "oplocks", "Yes", "No", false,
	  "without oplocks handles do not outlive a connection",
	  "oplocks = yes" },
	{ "store dos attributes", "Yes", "No", false,
	  "the attribute of sparse files has nowhere to be kept, so they are "
	  "off", "store dos attributes = yes" },
	{ "strict allocate", "No", "Yes", false,
	  "freed blocks of disks are not given back: trim is off by itself",
	  "strict allocate = no" },
	{ "read only", "Yes", "Yes", true,
	  "nobody can write a virtual disk to it", "read only = no" },
};

static const struct advice global_advices[] = {
	{ "registry shares", "No", "No", false,
	  "remote VSS (backups that a Hyper-V host starts) has nowhere to "
	  "expose its snapshots", "registry shares = yes" },
	{ "server multi channel support", "Yes", "No", false,
	  "a host uses one of its network paths only",
	  "server multi channel support = yes" },
};

static void tell(struct visit *visit, bool error, const char *section,
		 const char *text, const char *line)
{
	visit->errors += error ? 1 : 0;
	json_array_append_new(visit->found, json_pack(
		"{s:s, s:s, s:s, s:o}", "level", error ? "error" : "advice",
		"section", section, "text", text, "line",
		line != NULL ? json_string(line) : json_null()));
}

static void apply(struct visit *visit, const char *section,
		  const struct advice *rows, size_t count)
{
	size_t i = 0;

	for (i = 0; i < count; i++) {
		const char *value = hvrsctl_value(visit->config, section,
						  rows[i].parameter,
						  rows[i].standard);

		if (strcasecmp(value, rows[i].bad) == 0) {
			tell(visit, rows[i].error, section, rows[i].why,
			     rows[i].line);
		}
	}
}

/* ---- the module --------------------------------------------------------------- */

/*
 * In a child: Samba's own libraries, then the module, every symbol of which
 * must be found in them.  What smbd would do, without a smbd.
 */
static int load(const char *library, const char *module, int out)
{
	const char *why = NULL;

	if (dlopen(library, RTLD_NOW | RTLD_GLOBAL) == NULL ||
	    dlopen(module, RTLD_NOW | RTLD_LOCAL) == NULL) {
		why = dlerror();
		dprintf(out, "%s", why != NULL ? why : "unknown");
		return 1;
	}
	return 0;
}

static void check_loads(struct visit *visit, const char *name)
{
	char *library = talloc_asprintf(
		visit->mem_ctx, "%s/libsmbd-base-private-samba.so.0",
		visit->modules);
	char *module = talloc_asprintf(visit->mem_ctx, "%s/%s",
				       visit->modules, name);
	char why[512] = "";
	int pipes[2] = { -1, -1 };
	int status = -1;
	ssize_t got = 0;
	pid_t pid = -1;

	if (access(library, R_OK) != 0) {
		/* Debian 12's name of it. */
		library = talloc_asprintf(visit->mem_ctx,
					  "%s/libsmbd-base-samba4.so.0",
					  visit->modules);
	}
	if (pipe(pipes) != 0) {
		return;
	}
	pid = fork();
	if (pid == 0) {
		_exit(load(library, module, pipes[1]));
	}
	close(pipes[1]);
	got = read(pipes[0], why, sizeof(why) - 1);
	close(pipes[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
		char *text = talloc_asprintf(
			visit->mem_ctx, "%s cannot be loaded into this Samba "
			"(%s); install or build hvrs for it", module,
			got > 0 ? why : "it crashed");

		tell(visit, true, "global", text, NULL);
	}
}

static void check_module(struct visit *visit)
{
	if (visit->modules == NULL) {
		tell(visit, true, "global", "\"smbd -b\" does not tell where "
		     "Samba's modules are; is Samba installed?", NULL);
		return;
	}
	check_loads(visit, "vfs/hvrs.so");
}

static bool uses_hvrs(const struct visit *visit, const char *section)
{
	return conf_list_has(hvrsctl_value(visit->config, section,
					   "vfs objects", ""), "hvrs");
}

static void check_global(struct visit *visit)
{
	const char *preload = hvrsctl_value(visit->config, "global",
					    "preload modules", "");
	const char *most = hvrsctl_value(visit->config, "global",
					 "server max protocol", "SMB3");
	char *line = talloc_asprintf(visit->mem_ctx,
				     "preload modules = %s/vfs/hvrs.so",
				     visit->modules);

	if (strstr(preload, "/hvrs.so") == NULL) {
		tell(visit, true, "global", "hvrs is not loaded before a "
		     "client's first request: persistent handles and all "
		     "that needs core hooks is off", line);
	}
	if (strncasecmp(most, "SMB3", 4) != 0) {
		tell(visit, true, "global", "Hyper-V needs SMB 3",
		     "server max protocol = SMB3");
	}
	apply(visit, "global", global_advices,
	      sizeof(global_advices) / sizeof(global_advices[0]));
}

/* ---- shares ------------------------------------------------------------------- */

static void check_options(struct visit *visit, const char *section)
{
	const char *name = NULL;
	json_t *value = NULL;
	bool global = strcmp(section, "global") == 0;

	json_object_foreach(json_object_get(visit->config, section), name,
			    value) {
		enum option_id id = OPTION_COUNT;
		const char *nearest = NULL;
		char *text = NULL;

		if (strncasecmp(name, "hvrs:", 5) != 0) {
			continue;
		}
		if (option_find(name + 5, &id) != 0) {
			nearest = option_nearest(name + 5);
			text = talloc_asprintf(
				visit->mem_ctx, "there is no option \"%s\"%s%s"
				"%s", name, nearest != NULL ?
				"; did you mean \"hvrs:" : "",
				nearest != NULL ? nearest : "",
				nearest != NULL ? "\"?" : "");
			tell(visit, true, section, text, NULL);
		} else if (option_row_get(id)->global && !global) {
			text = talloc_asprintf(visit->mem_ctx, "\"%s\" "
					       "belongs into [global]", name);
			tell(visit, true, section, text, NULL);
		} else if (option_validate(option_row_get(id),
					   json_string_value(value)) != 0) {
			text = talloc_asprintf(
				visit->mem_ctx, "\"%s = %s\" is not "
				"understood; accepted is %s", name,
				json_string_value(value),
				option_accepts(option_row_get(id)));
			tell(visit, true, section, text, NULL);
		}
	}
}

static void check_volume(struct visit *visit, const char *section)
{
	const char *path = hvrsctl_value(visit->config, section, "path", "");
	struct hvrsctl_volume volume = {};
	int ret = 0;

	if (path[0] == '\0' || strchr(path, '%') != NULL) {
		return;
	}
	ret = hvrsctl_volume(path, &volume);
	if (ret == -ENOENT || ret == -ENOTDIR) {
		tell(visit, true, section, talloc_asprintf(
			visit->mem_ctx, "there is no directory %s", path),
		     talloc_asprintf(visit->mem_ctx, "# mkdir -p %s", path));
	} else if (ret != 0) {
		tell(visit, false, section, talloc_asprintf(
			visit->mem_ctx, "it cannot be seen what the file "
			"system of %s can do (%s)", path, strerror(-ret)),
		     NULL);
	} else if (!volume.clone) {
		tell(visit, false, section, talloc_asprintf(
			visit->mem_ctx, "the file system of %s cannot share "
			"blocks between files: no block cloning, copies by "
			"ODX are real ones, remote VSS needs a script; XFS "
			"made with reflink=1 or btrfs can", path), NULL);
	}
	if (ret == 0 && !volume.punch) {
		tell(visit, false, section, talloc_asprintf(
			visit->mem_ctx, "the file system of %s cannot punch "
			"holes: trim and sparse files are off", path), NULL);
	}
}

static size_t check_shares(struct visit *visit)
{
	const char *section = NULL;
	json_t *values = NULL;
	size_t count = 0;

	json_object_foreach(visit->config, section, values) {
		if (strcmp(section, "global") == 0 ||
		    !uses_hvrs(visit, section)) {
			continue;
		}
		count++;
		apply(visit, section, advices,
		      sizeof(advices) / sizeof(advices[0]));
		check_options(visit, section);
		check_volume(visit, section);
	}
	return count;
}

static void print_text(const struct visit *visit, size_t shares)
{
	const json_t *row = NULL;
	size_t i = 0;

	json_array_foreach(visit->found, i, row) {
		const json_t *line = json_object_get(row, "line");

		printf("%s [%s]: %s\n", json_string_value(
			json_object_get(row, "level")), json_string_value(
			json_object_get(row, "section")), json_string_value(
			json_object_get(row, "text")));
		if (json_is_string(line)) {
			printf("        %s\n", json_string_value(line));
		}
	}
	if (visit->errors == 0) {
		printf("%zu share%s with hvrs: nothing is wrong\n", shares,
		       shares == 1 ? "" : "s");
	}
}

int command_doctor(int argc, char **argv)
{
	struct visit visit = {};
	const char *file = NULL;
	bool json = false;
	bool module = false;
	size_t shares = 0;
	int i = 0;

	for (i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0) {
			json = true;
		} else if (strcmp(argv[i], "--module") == 0) {
			module = true;
		} else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) {
			file = argv[++i];
		} else {
			fprintf(stderr, "usage: hvrsctl doctor [--json] "
				"[--module | --config FILE]\n");
			return HVRSCTL_USAGE;
		}
	}
	visit.mem_ctx = talloc_new(NULL);
	visit.found = json_array();
	visit.modules = hvrsctl_modules_directory(visit.mem_ctx);
	check_module(&visit);
	if (!module) {
		visit.config = hvrsctl_config(file);
		if (visit.config == NULL) {
			json_decref(visit.found);
			talloc_free(visit.mem_ctx);
			return HVRSCTL_FAILED;
		}
		shares = check_shares(&visit);
		check_options(&visit, "global");
		if (shares == 0) {
			tell(&visit, true, "global", "no share has hvrs; "
			     "\"hvrsctl enable SHARE\" gives it to one",
			     NULL);
		} else {
			check_global(&visit);
		}
	}
	if (json) {
		json_dumpf(visit.found, stdout, JSON_INDENT(2));
		printf("\n");
	} else if (module) {
		printf("%s\n", visit.errors == 0 ? "the module can be loaded" :
		       json_string_value(json_object_get(json_array_get(
			visit.found, 0), "text")));
	} else {
		print_text(&visit, shares);
	}
	json_decref(visit.found);
	json_decref(visit.config);
	talloc_free(visit.mem_ctx);
	return visit.errors == 0 ? HVRSCTL_OK : HVRSCTL_FAILED;
}
