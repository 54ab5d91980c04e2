/*
 * Editing smb.conf as text: lines are changed or added where they belong, and
 * everything else, comments and order too, stays byte for byte.
 */
#ifndef HVRS_CONF_CONF_H
#define HVRS_CONF_CONF_H

#include <stdbool.h>
#include <talloc.h>

/* Whether there is such a section ("[name]", ignoring case). */
bool conf_section_exists(const char *text, const char *section);

/*
 * The last value of a parameter in the sections of that name, or NULL;
 * names are compared as Samba does, ignoring case and white space.
 */
char *conf_get(TALLOC_CTX *mem_ctx, const char *text, const char *section,
	       const char *parameter);

/*
 * The text with a parameter set; value NULL takes its lines away.  The last
 * line of the parameter is replaced, or a new one added after the section's
 * last line, indented as its neighbours.  Without such a section, one is added
 * in front for "global" and at the end for others (value not NULL).  NULL
 * without memory.
 */
char *conf_set(TALLOC_CTX *mem_ctx, const char *text, const char *section,
	       const char *parameter, const char *value);

/* Whether a list ("a b, c") holds a word. */
bool conf_list_has(const char *list, const char *word);

/*
 * "hvrs" put into a list of VFS modules: last, but before those that stand in
 * for the file system (io_uring, btrfs, ceph ...).  NULL without memory.
 */
char *conf_list_add_module(TALLOC_CTX *mem_ctx, const char *list);

/* The list without the word; empty if nothing is left. */
char *conf_list_remove(TALLOC_CTX *mem_ctx, const char *list,
		       const char *word);

#endif
