/*
 * The notes beside a set: names of its files that are to be removed or merged,
 * or are being made, one a line.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vhdset/vhdset_priv.h"

/*
 * Whoever may write into the folder may have written the notes, and names that
 * the set does not make are other disks'.
 */
static bool is_own(const char *set_path, const char *name)
{
	char plain[VHDSET_NAME_MAX] = "";
	size_t length = strlen(name);
	const size_t end = strlen(VHDSET_BUILD_SUFFIX);

	if (length >= sizeof(plain) || vhdset_name_check(name) != 0) {
		return false;
	}
	if (length > end &&
	    strcmp(name + length - end, VHDSET_BUILD_SUFFIX) == 0) {
		length -= end;
	}
	memcpy(plain, name, length);
	return vhdset_is_own_name(set_path, plain);
}

static bool is_noted(char *const *notes, const char *name)
{
	for (; *notes != NULL; notes++) {
		if (strcmp(*notes, name) == 0) {
			return true;
		}
	}
	return false;
}

int vhdset_notes_parse(TALLOC_CTX *mem_ctx, const char *set_path, char *text,
		       char ***_notes)
{
	char **notes = talloc_zero_array(mem_ctx, char *,
					 VHDSET_NOTES_MAX + 1);
	char *line = NULL;
	char *rest = NULL;
	size_t count = 0;

	if (notes == NULL) {
		return -ENOMEM;
	}
	for (line = strtok_r(text, "\n", &rest);
	     line != NULL && count < VHDSET_NOTES_MAX;
	     line = strtok_r(NULL, "\n", &rest)) {
		if (!is_own(set_path, line) || is_noted(notes, line)) {
			continue;
		}
		notes[count] = talloc_strdup(notes, line);
		if (notes[count++] == NULL) {
			talloc_free(notes);
			return -ENOMEM;
		}
	}
	*_notes = notes;
	return 0;
}
