/* Any text as the notes beside a set: only names of its own come out, once. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <talloc.h>

#include "vhdset/vhdset.h"

#define SET "folder/a.vhds"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *name)
{
	char plain[VHDSET_NAME_MAX] = "";
	size_t length = strlen(name);

	if (length >= sizeof(plain) || vhdset_name_check(name) != 0) {
		abort();
	}
	memcpy(plain, name, length);
	if (!vhdset_is_own_name(SET, plain)) {
		plain[length - strlen(VHDSET_BUILD_SUFFIX)] = '\0';
		if (!vhdset_is_own_name(SET, plain)) {
			abort();
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TALLOC_CTX *frame = talloc_new(NULL);
	char *text = talloc_zero_array(frame, char, size + 1);
	char **notes = NULL;
	size_t i = 0;
	size_t j = 0;

	if (size > 0) {
		memcpy(text, data, size);
	}
	if (vhdset_notes_parse(frame, SET, text, &notes) != 0) {
		abort();
	}
	for (i = 0; notes[i] != NULL; i++) {
		check(notes[i]);
		for (j = 0; j < i; j++) {
			if (strcmp(notes[i], notes[j]) == 0) {
				abort();
			}
		}
	}
	if (i > VHDSET_NOTES_MAX) {
		abort();
	}
	talloc_free(frame);
	return 0;
}
