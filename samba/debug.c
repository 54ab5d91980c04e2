/*
 * The debug class "hvrs" of all objects: "log level = 1 hvrs:5".  Registered
 * when the object is loaded, before anything of it runs; a name that is known
 * already, from smb.conf or another object, keeps its number.
 */
#include "samba.h"

int hvrs_debug_class = DBGC_VFS;

__attribute__((constructor))
static void debug_register(void)
{
	int found = debug_add_class("hvrs");

	if (found != -1) {
		hvrs_debug_class = found;
	}
}
