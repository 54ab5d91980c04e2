/*
 * Registration of VFS modules with a running smbd.
 */
#ifndef HVRS_SAMBA_REGISTER_H
#define HVRS_SAMBA_REGISTER_H

#include "samba.h"

/*
 * Makes smbd register the modules that are built into it.  It does so by
 * itself only while no module at all is registered, so that a module that
 * "preload modules" brings in early would keep it from its own.  Call before
 * the first smb_register_vfs().  False without memory.
 */
bool register_builtin_first(void);

#endif
