/*
 * Core hooks: re-pointing calls that libsmbd-base makes to its own exported
 * functions through its procedure linkage table.
 */
#ifndef HVRS_SAMBA_PLT_H
#define HVRS_SAMBA_PLT_H

#include <stddef.h>

struct plt_hook {
	const char *symbol;	/* the exported function */
	void *replacement;	/* called instead */
	void **original;	/* where the true function's address goes */
};

/*
 * A row: function is its name, with and core are of its very type, as the
 * header has it that declares it.
 */
#define PLT_HOOK(function, with, core)					\
	{ #function, with, (void **)&core + 0 * sizeof(char[		\
		__builtin_types_compatible_p(__typeof__(&function),	\
					     __typeof__(core)) &&	\
		__builtin_types_compatible_p(__typeof__(&with),		\
					     __typeof__(core)) ? 1 : -1]) }

/*
 * Re-points the calls of the library that exports the hooks' functions, all
 * of them or none.  Call once per process, before another thread can be in
 * those functions.  Returns 0, or a negative errno with a static *why that
 * names the reason; then nothing was changed.
 *   -ENOENT   a function or its slot does not exist in this library
 *   -EBUSY    a slot does not point to where it should
 *   -EACCES   the page of a slot cannot be made writable
 */
int plt_hook_install(const struct plt_hook *hooks, size_t count,
		     const char **why);

#endif
