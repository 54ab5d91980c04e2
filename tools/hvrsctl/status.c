/*
 * hvrsctl status: everything on one screen, as JSON, or as a file for the
 * textfile collector of Prometheus' node_exporter.  What other commands show
 * is asked of them.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/conf.h"
#include "hvrsctl.h"
#include "option/option.h"

/* What a feature needs; the module decides the same when a client connects. */
enum need { NEED_NOTHING, NEED_PUNCH, NEED_CLONE, NEED_HOOKS };

static const struct {
	enum option_id id;
	enum need need;
} needs[] = {
	{ OPTION_TRIM, NEED_PUNCH },
	{ OPTION_SPARSE, NEED_PUNCH },
	{ OPTION_SPARSE_VDL, NEED_PUNCH },
	{ OPTION_BLOCK_CLONING, NEED_CLONE },
	{ OPTION_PERSISTENT, NEED_HOOKS },
	{ OPTION_RESILIENT, NEED_HOOKS },
	{ OPTION_SHARED_DISKS, NEED_HOOKS },
};

static const char *const words[] = { "handles", "disks", "snapshots",
				     "tokens" };

/* ---- collecting ---------------------------------------------------------------- */

static json_t *ask(const char *word)
{
	char *argv[] = { (char *)"/proc/self/exe", (char *)word,
			 (char *)"--json", NULL };
	int status = 0;
	char *text = hvrsctl_run(NULL, &status, argv);
	json_t *result = text != NULL ? json_loads(text, 0, NULL) : NULL;

	talloc_free(text);
	return result != NULL ? result : json_null();
}

static enum need need_of(enum option_id id)
{
	size_t i = 0;

	for (i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
		if (needs[i].id == id) {
			return needs[i].need;
		}
	}
	return NEED_NOTHING;
}

/* NULL: the feature is on. */
static const char *why_not(const json_t *config, const char *share,
			   const struct option_row *row, enum option_id id,
			   const struct hvrsctl_volume *volume, bool hooks)
{
	enum option_switch asked = OPTION_AUTO;
	char *name = talloc_asprintf(NULL, "hvrs:%s", row->name);
	const char *text = hvrsctl_value(config, share, name, row->standard);

	talloc_free(name);
	if (option_switch_parse(text, &asked) != 0) {
		option_switch_parse(row->standard, &asked);
	}
	if (asked == OPTION_NO) {
		return "switched off";
	}
	switch (need_of(id)) {
	case NEED_PUNCH:
		return volume->punch ? NULL :
			"the file system cannot punch holes";
	case NEED_CLONE:
		return volume->clone ? NULL :
			"the file system cannot share blocks between files";
	case NEED_HOOKS:
		return hooks ? NULL : "hvrs.so is not in preload modules, or "
			"core hooks are off";
	case NEED_NOTHING:
		break;
	}
	return NULL;
}

static json_t *share_json(const json_t *config, const char *share, bool hooks)
{
	const char *path = hvrsctl_value(config, share, "path", "");
	struct hvrsctl_volume volume = {};
	json_t *features = json_object();
	int ret = hvrsctl_volume(path, &volume);
	size_t i = 0;

	for (i = 0; i < OPTION_COUNT; i++) {
		const struct option_row *row = option_row_get(i);
		const char *why = NULL;

		if (!row->feature) {
			continue;
		}
		why = why_not(config, share, row, i, &volume, hooks);
		json_object_set_new(features, row->name, json_pack(
			"{s:b, s:o}", "on", why == NULL, "why not",
			why != NULL ? json_string(why) : json_null()));
	}
	return json_pack("{s:s, s:s, s:b, s:o}", "share", share, "path", path,
			 "reachable", ret == 0, "features", features);
}

static json_t *collect(const json_t *config)
{
	char *smbd[] = { (char *)"smbd", (char *)"--version", NULL };
	int status = 0;
	char *version = hvrsctl_run(NULL, &status, smbd);
	json_t *shares = json_array();
	json_t *root = NULL;
	const char *name = NULL;
	json_t *section = NULL;
	bool hooks = strstr(hvrsctl_value(config, "global", "preload modules",
					  ""), "/hvrs.so") != NULL &&
		strcasecmp(hvrsctl_value(config, "global", "hvrs:core hooks",
					 "yes"), "no") != 0;
	size_t i = 0;

	json_object_foreach((json_t *)config, name, section) {
		if (strcmp(name, "global") != 0 &&
		    conf_list_has(hvrsctl_value(config, name, "vfs objects",
						""), "hvrs")) {
			json_array_append_new(shares, share_json(config, name,
								 hooks));
		}
	}
	if (version != NULL) {
		version[strcspn(version, "\n")] = '\0';
	}
	root = json_pack("{s:s, s:s, s:b, s:o}", "hvrs", HVRS_VERSION,
			 "samba", version == NULL ? "" :
			 strncmp(version, "Version ", 8) == 0 ? version + 8 :
			 version, "core hooks", hooks, "shares", shares);
	talloc_free(version);
	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		json_object_set_new(root, words[i], ask(words[i]));
	}
	return root;
}

/* How many things a command told; -1 where it could not. */
static long count_of(const json_t *root, const char *word)
{
	const json_t *value = json_object_get(root, word);

	if (strcmp(word, "snapshots") == 0) {
		value = json_object_get(value, "sets");
	}
	return json_is_array(value) ? (long)json_array_size(value) : -1;
}

static const char *text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text != NULL ? text : "";
}

/* ---- for people ----------------------------------------------------------------- */

static void print_share(const json_t *share)
{
	const char *name = NULL;
	json_t *feature = NULL;
	bool first = true;

	printf("\nshare %s  %s%s\n  on:", text_of(share, "share"),
	       text_of(share, "path"),
	       json_is_true(json_object_get(share, "reachable")) ? "" :
	       "  (cannot be looked at)");
	json_object_foreach(json_object_get(share, "features"), name,
			    feature) {
		if (json_is_true(json_object_get(feature, "on"))) {
			printf("%s %s", first ? "" : ",", name);
			first = false;
		}
	}
	printf("\n");
	json_object_foreach(json_object_get(share, "features"), name,
			    feature) {
		if (!json_is_true(json_object_get(feature, "on"))) {
			printf("  off: %s: %s\n", name,
			       text_of(feature, "why not"));
		}
	}
}

static void print_text(const json_t *root)
{
	const json_t *share = NULL;
	size_t i = 0;

	printf("hvrs %s, Samba %s, core hooks %s\n", text_of(root, "hvrs"),
	       text_of(root, "samba"), json_is_true(json_object_get(
		root, "core hooks")) ? "on" : "off");
	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		long count = count_of(root, words[i]);

		if (count < 0) {
			printf("%s: cannot be read, see \"hvrsctl %s\"\n",
			       words[i], words[i]);
		} else {
			printf("%s: %ld\n", words[i], count);
		}
	}
	json_array_foreach(json_object_get(root, "shares"), i, share) {
		print_share(share);
	}
}

/* ---- for Prometheus -------------------------------------------------------------- */

static void label(FILE *out, const char *text)
{
	fputc('"', out);
	for (; *text != '\0'; text++) {
		if (*text == '\n') {
			fputs("\\n", out);
			continue;
		}
		if (*text == '"' || *text == '\\') {
			fputc('\\', out);
		}
		fputc(*text, out);
	}
	fputc('"', out);
}

static void metrics_shares(FILE *out, const json_t *root)
{
	const json_t *share = NULL;
	const char *name = NULL;
	json_t *feature = NULL;
	size_t i = 0;

	fprintf(out, "# HELP hvrs_feature Whether a feature of a share is on."
		"\n# TYPE hvrs_feature gauge\n");
	json_array_foreach(json_object_get(root, "shares"), i, share) {
		json_object_foreach(json_object_get(share, "features"), name,
				    feature) {
			fprintf(out, "hvrs_feature{share=");
			label(out, text_of(share, "share"));
			fprintf(out, ",feature=");
			label(out, name);
			fprintf(out, "} %d\n", json_is_true(json_object_get(
				feature, "on")) ? 1 : 0);
		}
	}
}

static void metrics_handles(FILE *out, const json_t *root)
{
	static const char *const kinds[] = { "persistent", "resilient" };
	static const char *const states[] = { "open", "waiting" };
	const json_t *handle = NULL;
	size_t kind = 0;
	size_t state = 0;
	size_t i = 0;

	fprintf(out, "# HELP hvrs_handles Handles that outlive a connection."
		"\n# TYPE hvrs_handles gauge\n");
	for (kind = 0; kind < 2; kind++) {
		for (state = 0; state < 2; state++) {
			unsigned count = 0;

			json_array_foreach(json_object_get(root, "handles"),
					   i, handle) {
				count += strcmp(text_of(handle, "kind"),
						kinds[kind]) == 0 &&
					strcmp(text_of(handle, "state"),
					       states[state]) == 0;
			}
			fprintf(out, "hvrs_handles{kind=\"%s\",state=\"%s\"} "
				"%u\n", kinds[kind], states[state], count);
		}
	}
}

static void metrics(FILE *out, const json_t *root)
{
	size_t i = 0;

	fprintf(out, "# HELP hvrs_info Versions.\n# TYPE hvrs_info gauge\n"
		"hvrs_info{version=");
	label(out, text_of(root, "hvrs"));
	fprintf(out, ",samba=");
	label(out, text_of(root, "samba"));
	fprintf(out, "} 1\n");
	metrics_shares(out, root);
	if (count_of(root, "handles") >= 0) {
		metrics_handles(out, root);
	}
	for (i = 1; i < sizeof(words) / sizeof(words[0]); i++) {
		if (count_of(root, words[i]) >= 0) {
			fprintf(out, "# HELP hvrs_%s See hvrsctl %s.\n"
				"# TYPE hvrs_%s gauge\nhvrs_%s %ld\n",
				words[i], words[i], words[i], words[i],
				count_of(root, words[i]));
		}
	}
}

/* The collector may read at any moment: it sees the old or the new file. */
static int metrics_file(const char *path, const json_t *root)
{
	char *fresh = talloc_asprintf(NULL, "%s.%d", path, (int)getpid());
	FILE *out = fopen(fresh, "wx");
	bool ok = out != NULL;

	if (ok) {
		metrics(out, root);
		ok = fchmod(fileno(out), 0644) == 0 && ferror(out) == 0;
		ok = fclose(out) == 0 && ok;
	}
	if (!ok || rename(fresh, path) != 0) {
		fprintf(stderr, "hvrsctl status: %s: %s\n", path,
			strerror(errno));
		if (out != NULL) {
			unlink(fresh);
		}
		ok = false;
	}
	talloc_free(fresh);
	return ok ? HVRSCTL_OK : HVRSCTL_FAILED;
}

int command_status(int argc, char **argv)
{
	bool json = argc == 1 && strcmp(argv[0], "--json") == 0;
	bool file = argc == 2 && strcmp(argv[0], "--prometheus") == 0;
	json_t *config = NULL;
	json_t *root = NULL;
	int ret = HVRSCTL_OK;

	if (argc > 0 && !json && !file) {
		fprintf(stderr, "usage: hvrsctl status [--json | --prometheus "
			"FILE]\n");
		return HVRSCTL_USAGE;
	}
	config = hvrsctl_config(NULL);
	root = config != NULL ? collect(config) : NULL;
	if (root == NULL) {
		json_decref(config);
		return HVRSCTL_FAILED;
	}
	if (file) {
		ret = metrics_file(argv[1], root);
	} else if (json) {
		json_dumpf(root, stdout, JSON_INDENT(2));
		printf("\n");
	} else {
		print_text(root);
	}
	json_decref(root);
	json_decref(config);
	return ret;
}
