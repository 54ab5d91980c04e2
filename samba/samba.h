/*
 * The include door: the only way to Samba's own headers.  Modules include
 * this and nothing else of Samba; what differs between Samba series is made
 * equal below it.
 */
#ifndef HVRS_SAMBA_SAMBA_H
#define HVRS_SAMBA_SAMBA_H

#include "includes.h"
#include "smbd/smbd.h"
#include "smbd/globals.h"
#include "smbd/smb2_ioctl_private.h"
#include "smbd/fd_handle.h"
#include "libcli/security/security.h"
#include "lib/util/tevent_ntstatus.h"
#include "lib/pthreadpool/pthreadpool_tevent.h"
#include "lib/util/tevent_unix.h"
#include "include/ntioctl.h"
#include "trans2.h"
#include "librpc/gen_ndr/ioctl.h"
#include "series.h"

/* Messages of hvrs have a class of their own. */
extern int hvrs_debug_class;
#undef DBGC_CLASS
#define DBGC_CLASS hvrs_debug_class

/* Samba poisons some names for its own code; plain C uses them rightly. */
#undef free
#undef strcasecmp

#endif
