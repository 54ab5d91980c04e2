/*
 * hvrsctl enable, disable: the two lines of a share, in smb.conf or in the
 * registry.  The new file is judged by testparm before it takes the old one's
 * place, and the old one is kept beside it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "conf/conf.h"
#include "hvrsctl.h"

struct edit {
	TALLOC_CTX *mem_ctx;
	const char *share;
	char *path;		/* of smb.conf, links followed */
	char *text;
	char *module;		/* path of hvrs.so */
	json_t *config;		/* as testparm understands it */
	bool enable;
	bool changed;		/* the file has to be written */
	bool said;		/* the registry was changed */
};

/* ---- files ------------------------------------------------------------------ */

static char *config_path(TALLOC_CTX *mem_ctx, const char *given)
{
	char *argv[] = { (char *)"smbd", (char *)"-b", NULL };
	char resolved[PATH_MAX] = "";
	int status = 0;
	char *text = NULL;
	char *found = NULL;

	if (given == NULL) {
		text = hvrsctl_run(mem_ctx, &status, argv);
		found = text != NULL ? strstr(text, "CONFIGFILE: ") : NULL;
		if (found == NULL) {
			fprintf(stderr, "hvrsctl: \"smbd -b\" does not tell "
				"where smb.conf is; is Samba installed?\n");
			return NULL;
		}
		found += strlen("CONFIGFILE: ");
		found[strcspn(found, "\n")] = '\0';
		given = found;
	}
	if (realpath(given, resolved) == NULL) {
		fprintf(stderr, "hvrsctl: %s: %s\n", given, strerror(errno));
		return NULL;
	}
	return talloc_strdup(mem_ctx, resolved);
}

static char *file_read(TALLOC_CTX *mem_ctx, const char *path)
{
	FILE *in = fopen(path, "r");
	char *text = talloc_strdup(mem_ctx, "");
	char buffer[4096];
	size_t got = 0;
	bool ok = in != NULL;

	while (ok && text != NULL &&
	       (got = fread(buffer, 1, sizeof(buffer), in)) > 0) {
		ok = memchr(buffer, '\0', got) == NULL;
		text = talloc_strndup_append(text, buffer, got);
	}
	ok = ok && ferror(in) == 0;
	if (!ok) {
		fprintf(stderr, "hvrsctl: %s cannot be read: %s\n", path,
			in != NULL && errno == 0 ? "it is no text" :
			strerror(errno));
		text = NULL;
	}
	if (in != NULL) {
		fclose(in);
	}
	return text;
}

/* A new file with the owner and mode of smb.conf, on disk when it returns. */
static bool file_write(const char *path, const char *text,
		       const struct stat *like)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	size_t length = strlen(text);
	bool ok = fd != -1;

	while (ok && length > 0) {
		ssize_t done = write(fd, text, length);

		ok = done > 0;
		text += ok ? done : 0;
		length -= ok ? (size_t)done : 0;
	}
	ok = ok && fchown(fd, like->st_uid, like->st_gid) == 0 &&
		fchmod(fd, like->st_mode & 07777) == 0 && fsync(fd) == 0;
	if (!ok) {
		fprintf(stderr, "hvrsctl: %s: %s\n", path, strerror(errno));
	}
	if (fd != -1) {
		ok = close(fd) == 0 && ok;
	}
	return ok;
}

static bool sync_folder_of(const char *path)
{
	char *folder = talloc_strndup(NULL, path,
				      (size_t)(strrchr(path, '/') - path + 1));
	int fd = folder != NULL ? open(folder, O_RDONLY | O_DIRECTORY) : -1;
	bool ok = fd != -1 && fsync(fd) == 0;

	if (fd != -1) {
		close(fd);
	}
	talloc_free(folder);
	return ok;
}

/* The file as testparm understands it gives the share what was wanted. */
static bool judged(const struct edit *edit, const char *path)
{
	json_t *config = hvrsctl_config(path);
	const char *list = NULL;
	bool right = false;

	if (config == NULL) {
		return false;
	}
	list = hvrsctl_value(config, edit->share, "vfs objects", "");
	/* A share of the registry is not in the file. */
	right = json_object_get(config, edit->share) == NULL ||
		conf_list_has(list, "hvrs") == edit->enable;
	if (!right) {
		fprintf(stderr, "hvrsctl: with the changed line the share %s "
			"would still have \"vfs objects = %s\"; an include or "
			"copy in smb.conf decides it. Nothing was changed\n",
			edit->share, list);
	}
	json_decref(config);
	return right;
}

static bool file_replace(const struct edit *edit)
{
	TALLOC_CTX *mem_ctx = edit->mem_ctx;
	time_t now = time(NULL);
	struct tm tm = {};
	struct stat st = {};
	char stamp[32] = "";
	char *fresh = talloc_asprintf(mem_ctx, "%s.hvrs-new.%d", edit->path,
				      (int)getpid());
	char *backup = NULL;
	char *old = file_read(mem_ctx, edit->path);
	bool ok = false;

	localtime_r(&now, &tm);
	strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &tm);
	backup = talloc_asprintf(mem_ctx, "%s.before-hvrs-%s-%d", edit->path,
				 stamp, (int)getpid());
	if (fresh == NULL || backup == NULL || old == NULL ||
	    stat(edit->path, &st) != 0) {
		return false;
	}
	ok = file_write(fresh, edit->text, &st) && judged(edit, fresh) &&
		file_write(backup, old, &st);
	if (ok && rename(fresh, edit->path) != 0) {
		fprintf(stderr, "hvrsctl: %s: %s\n", edit->path,
			strerror(errno));
		ok = false;
	}
	if (!ok) {
		unlink(fresh);
		return false;
	}
	sync_folder_of(edit->path);
	printf("%s is changed; as it was it is kept as %s\n", edit->path,
	       backup);
	return true;
}

/* ---- what to change ----------------------------------------------------------- */

static bool net_conf(const struct edit *edit, const char *section,
		     const char *parameter, const char *value)
{
	const char *set[] = { "net", "conf", "setparm", section, parameter,
			      value, NULL };
	const char *del[] = { "net", "conf", "delparm", section, parameter,
			      NULL };
	int status = 0;

	talloc_free(hvrsctl_run(edit->mem_ctx, &status, (char *const *)
				(value[0] != '\0' ? set : del)));
	if (status != 0) {
		fprintf(stderr, "hvrsctl: \"net conf\" cannot change \"%s\" "
			"of [%s] in the registry\n", parameter, section);
	} else {
		printf("registry: [%s] %s = %s\n", section, parameter, value);
	}
	return status == 0;
}

static bool change(struct edit *edit, bool registry, const char *section,
		   const char *parameter, const char *value)
{
	char *text = NULL;

	if (registry) {
		edit->said = net_conf(edit, section, parameter, value);
		return edit->said;
	}
	text = conf_set(edit->mem_ctx, edit->text, section, parameter,
			value[0] != '\0' ? value : NULL);
	if (text == NULL) {
		return false;
	}
	edit->changed = edit->changed || strcmp(text, edit->text) != 0;
	edit->text = text;
	return true;
}

/* Whether another share, or [global] for all of them, needs the preload. */
static bool others_use_it(const struct edit *edit)
{
	const char *name = NULL;
	json_t *section = NULL;

	json_object_foreach(edit->config, name, section) {
		const char *list = json_string_value(
			json_object_get(section, "vfs objects"));

		if (list != NULL && strcasecmp(name, edit->share) != 0 &&
		    (conf_list_has(list, "hvrs") ||
		     conf_list_has(list, "hvrs_fsctl") ||
		     conf_list_has(list, "hvrs_extents"))) {
			return true;
		}
	}
	return false;
}

static bool change_preload(struct edit *edit)
{
	const char *now = hvrsctl_value(edit->config, "global",
					"preload modules", "");
	bool registry = strcasecmp(hvrsctl_value(
		edit->config, "global", "config backend", "file"),
		"registry") == 0;
	bool has = conf_list_has(now, edit->module);
	char *value = NULL;

	if (edit->enable) {
		value = talloc_asprintf(edit->mem_ctx, "%s%s%s", now,
					now[0] != '\0' ? " " : "",
					edit->module);
	} else {
		value = conf_list_remove(edit->mem_ctx, now, edit->module);
	}
	if (value == NULL || has == edit->enable ||
	    (!edit->enable && others_use_it(edit))) {
		return value != NULL;
	}
	return change(edit, registry, "global", "preload modules", value);
}

static bool change_share(struct edit *edit)
{
	const char *now = hvrsctl_value(edit->config, edit->share,
					"vfs objects", "");
	bool registry = !conf_section_exists(edit->text, edit->share);
	bool has = conf_list_has(now, "hvrs");
	char *value = NULL;

	if (has == edit->enable) {
		return true;
	}
	value = edit->enable ? conf_list_add_module(edit->mem_ctx, now) :
		conf_list_remove(edit->mem_ctx, now, "hvrs");
	return value != NULL && change(edit, registry, edit->share,
				       "vfs objects", value);
}

/* Named as smb.conf has it, whatever the case on the command line. */
static const char *share_find(const json_t *config, const char *share)
{
	const char *name = NULL;
	json_t *section = NULL;

	json_object_foreach((json_t *)config, name, section) {
		if (strcasecmp(name, share) == 0) {
			return name;
		}
	}
	return NULL;
}

static bool prepare(struct edit *edit, const char *file, const char *share)
{
	char *modules = NULL;

	edit->path = config_path(edit->mem_ctx, file);
	edit->text = edit->path != NULL ?
		file_read(edit->mem_ctx, edit->path) : NULL;
	edit->config = edit->text != NULL ? hvrsctl_config(file) : NULL;
	if (edit->config == NULL) {
		return false;
	}
	edit->share = share_find(edit->config, share);
	if (edit->share == NULL || strcasecmp(share, "global") == 0) {
		fprintf(stderr, "hvrsctl: there is no share \"%s\" in %s\n",
			share, edit->path);
		return false;
	}
	modules = hvrsctl_modules_directory(edit->mem_ctx);
	edit->module = talloc_asprintf(edit->mem_ctx, "%s/vfs/hvrs.so",
				       modules);
	if (modules == NULL || edit->module == NULL ||
	    (edit->enable && access(edit->module, R_OK) != 0)) {
		fprintf(stderr, "hvrsctl: the module %s is not installed\n",
			edit->module);
		return false;
	}
	return true;
}

static int run(const char *name, bool enable, int argc, char **argv)
{
	struct edit edit = { .enable = enable };
	const char *file = NULL;
	bool ok = false;

	if (argc == 3 && strcmp(argv[0], "--config") == 0) {
		file = argv[1];
		argv += 2;
		argc -= 2;
	}
	if (argc != 1 || argv[0][0] == '-') {
		fprintf(stderr, "usage: hvrsctl %s [--config FILE] SHARE\n",
			name);
		return HVRSCTL_USAGE;
	}
	edit.mem_ctx = talloc_new(NULL);
	/* First the share's line: the registry's is done at once. */
	ok = prepare(&edit, file, argv[0]) && change_share(&edit) &&
		change_preload(&edit);
	if (ok && edit.changed) {
		ok = file_replace(&edit);
	}
	if (ok && !edit.changed && !edit.said) {
		printf("share %s: nothing to change\n", edit.share);
	} else if (ok) {
		printf("now: smbcontrol all reload-config; clients that are "
		       "connected get it when they connect again\n");
	}
	json_decref(edit.config);
	talloc_free(edit.mem_ctx);
	return ok ? HVRSCTL_OK : HVRSCTL_FAILED;
}

int command_enable(int argc, char **argv)
{
	return run("enable", true, argc, argv);
}

int command_disable(int argc, char **argv)
{
	return run("disable", false, argc, argv);
}
