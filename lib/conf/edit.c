/* smb.conf, line by line; see smb.conf(5), "FILE FORMAT". */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "conf/conf.h"

#define SEPARATORS " \t,;"

/* A logical line: with what a backslash at its end joins to it. */
struct line {
	const char *start;
	size_t length;		/* with its newline */
	const char *name;	/* of a parameter or section, or NULL */
	size_t name_length;
	const char *value;	/* of a parameter */
	size_t value_length;
	bool section;
};

/* ---- lines ------------------------------------------------------------------ */

static size_t logical_length(const char *start)
{
	const char *at = start;
	bool comment = false;

	while (*at == ' ' || *at == '\t') {
		at++;
	}
	comment = *at == '#' || *at == ';';
	while (*at != '\0') {
		const char *last = NULL;

		at += strcspn(at, "\n");
		last = at;
		if (*at == '\n') {
			at++;
		}
		while (last > start && isspace((unsigned char)last[-1])) {
			last--;
		}
		if (comment || last == start || last[-1] != '\\') {
			break;
		}
	}
	return (size_t)(at - start);
}

static void trim(const char **_text, size_t *_length)
{
	while (*_length > 0 && isspace((unsigned char)**_text)) {
		(*_text)++;
		(*_length)--;
	}
	while (*_length > 0 &&
	       isspace((unsigned char)(*_text)[*_length - 1])) {
		(*_length)--;
	}
}

/* False at the end of the text. */
static bool next_line(const char **_at, struct line *_line)
{
	struct line line = { .start = *_at };
	const char *text = *_at;
	const char *mark = NULL;
	size_t length = 0;

	if (*text == '\0') {
		return false;
	}
	line.length = length = logical_length(text);
	*_at = text + length;
	trim(&text, &length);
	if (length > 0 && *text == '[') {
		mark = memchr(text, ']', length);
		line.section = mark != NULL;
		line.name = mark != NULL ? text + 1 : NULL;
		line.name_length = mark != NULL ? (size_t)(mark - text - 1) :
			0;
	} else if (length > 0 && *text != '#' && *text != ';') {
		mark = memchr(text, '=', length);
		if (mark != NULL) {
			line.name = text;
			line.name_length = (size_t)(mark - text);
			line.value = mark + 1;
			line.value_length = length - line.name_length - 1;
			trim(&line.value, &line.value_length);
		}
	}
	if (line.name != NULL) {
		trim(&line.name, &line.name_length);
	}
	*_line = line;
	return true;
}

/* Ignoring case and white space. */
static bool same_name(const char *name, size_t length, const char *other)
{
	size_t i = 0;

	for (;; i++, other++) {
		while (i < length && isspace((unsigned char)name[i])) {
			i++;
		}
		while (isspace((unsigned char)*other)) {
			other++;
		}
		if (i >= length || *other == '\0') {
			return i >= length && *other == '\0';
		}
		if (tolower((unsigned char)name[i]) !=
		    tolower((unsigned char)*other)) {
			return false;
		}
	}
}

static bool is_section(const struct line *line, const char *section)
{
	return same_name(line->name, line->name_length, section) ||
		(strcasecmp(section, "global") == 0 &&
		 same_name(line->name, line->name_length, "globals"));
}

/* Two parameters have a second name that people use. */
static bool is_parameter(const struct line *line, const char *parameter)
{
	return same_name(line->name, line->name_length, parameter) ||
		(strcasecmp(parameter, "vfs objects") == 0 &&
		 same_name(line->name, line->name_length, "vfs object"));
}

/* ---- looking ------------------------------------------------------------------ */

bool conf_section_exists(const char *text, const char *section)
{
	struct line line = {};

	while (next_line(&text, &line)) {
		if (line.section && is_section(&line, section)) {
			return true;
		}
	}
	return false;
}

/* What comes before the first section belongs to [global]. */
static bool find(const char *text, const char *section, const char *parameter,
		 struct line *_found)
{
	struct line line = {};
	bool inside = strcasecmp(section, "global") == 0;
	bool found = false;

	while (next_line(&text, &line)) {
		if (line.section) {
			inside = is_section(&line, section);
		} else if (inside && line.name != NULL &&
			   is_parameter(&line, parameter)) {
			*_found = line;
			found = true;
		}
	}
	return found;
}

char *conf_get(TALLOC_CTX *mem_ctx, const char *text, const char *section,
	       const char *parameter)
{
	struct line found = {};
	char *value = NULL;
	char *at = NULL;

	if (!find(text, section, parameter, &found)) {
		return NULL;
	}
	value = talloc_strndup(mem_ctx, found.value, found.value_length);
	/* What joined lines is no part of the value. */
	for (at = value; at != NULL && *at != '\0'; at++) {
		if (*at == '\n' || (*at == '\\' && (at[1] == '\n'))) {
			*at = ' ';
		}
	}
	return value;
}

/* ---- changing ----------------------------------------------------------------- */

static char *splice(TALLOC_CTX *mem_ctx, const char *text, size_t at,
		    size_t without, const char *with)
{
	return talloc_asprintf(mem_ctx, "%.*s%s%s%s", (int)at, text,
			       at > 0 && text[at - 1] != '\n' ? "\n" : "",
			       with, text + at + without);
}

static size_t indent_length(const char *start)
{
	return strspn(start, " \t");
}

static char *remove_all(TALLOC_CTX *mem_ctx, const char *text,
			const char *section, const char *parameter)
{
	char *result = talloc_strdup(mem_ctx, text);
	struct line found = {};

	while (result != NULL && find(result, section, parameter, &found)) {
		char *less = splice(mem_ctx, result,
				    (size_t)(found.start - result),
				    found.length, "");

		talloc_free(result);
		result = less;
	}
	return result;
}

char *conf_set(TALLOC_CTX *mem_ctx, const char *text, const char *section,
	       const char *parameter, const char *value)
{
	struct line line = {};
	const char *at = text;
	const char *end = NULL;		/* of the section's last line */
	const char *indent = "\t";
	size_t indent_size = 1;
	char *added = NULL;
	char *result = NULL;
	bool inside = false;

	if (value == NULL) {
		return remove_all(mem_ctx, text, section, parameter);
	}
	if (find(text, section, parameter, &line)) {
		added = talloc_asprintf(mem_ctx, "%.*s%s = %s\n",
					(int)indent_length(line.start),
					line.start, parameter, value);
		result = added == NULL ? NULL :
			splice(mem_ctx, text, (size_t)(line.start - text),
			       line.length, added);
		talloc_free(added);
		return result;
	}
	while (next_line(&at, &line)) {
		if (line.section) {
			inside = is_section(&line, section);
		} else if (inside && line.name != NULL) {
			indent = line.start;
			indent_size = indent_length(line.start);
		}
		if (inside && line.name != NULL) {
			end = line.start + line.length;
		}
	}
	if (end != NULL) {
		added = talloc_asprintf(mem_ctx, "%.*s%s = %s\n",
					(int)indent_size, indent, parameter,
					value);
	} else {
		end = strcasecmp(section, "global") == 0 ? text :
			text + strlen(text);
		added = talloc_asprintf(mem_ctx, "%s[%s]\n\t%s = %s\n",
					end == text ? "" : "\n", section,
					parameter, value);
	}
	result = added == NULL ? NULL :
		splice(mem_ctx, text, (size_t)(end - text), 0, added);
	talloc_free(added);
	return result;
}

/* ---- lists -------------------------------------------------------------------- */

static bool next_word(const char **_at, const char **_word, size_t *_length)
{
	*_at += strspn(*_at, SEPARATORS);
	*_word = *_at;
	*_length = strcspn(*_at, SEPARATORS);
	*_at += *_length;
	return *_length > 0;
}

static bool is_word(const char *word, size_t length, const char *other)
{
	return strlen(other) == length && strncmp(word, other, length) == 0;
}

bool conf_list_has(const char *list, const char *word)
{
	const char *found = NULL;
	size_t length = 0;

	while (next_word(&list, &found, &length)) {
		if (is_word(found, length, word)) {
			return true;
		}
	}
	return false;
}

static bool is_backend(const char *word, size_t length)
{
	static const char *const backends[] = {
		"io_uring", "btrfs", "ceph", "ceph_new", "ceph_snapshots",
		"glusterfs", "gpfs", "aio_pthread", "default_quota",
	};
	size_t i = 0;

	for (i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
		if (is_word(word, length, backends[i])) {
			return true;
		}
	}
	return false;
}

static char *append(char *list, const char *word, size_t length)
{
	if (list == NULL) {
		return NULL;
	}
	return talloc_asprintf_append(list, "%s%.*s",
				      list[0] != '\0' ? " " : "", (int)length,
				      word);
}

char *conf_list_add_module(TALLOC_CTX *mem_ctx, const char *list)
{
	char *result = talloc_strdup(mem_ctx, "");
	const char *word = NULL;
	size_t length = 0;
	bool done = conf_list_has(list, "hvrs");

	while (next_word(&list, &word, &length)) {
		if (!done && is_backend(word, length)) {
			result = append(result, "hvrs", 4);
			done = true;
		}
		result = append(result, word, length);
	}
	return done ? result : append(result, "hvrs", 4);
}

char *conf_list_remove(TALLOC_CTX *mem_ctx, const char *list,
		       const char *without)
{
	char *result = talloc_strdup(mem_ctx, "");
	const char *word = NULL;
	size_t length = 0;

	while (next_word(&list, &word, &length)) {
		if (!is_word(word, length, without)) {
			result = append(result, word, length);
		}
	}
	return result;
}
