/*
 * The commands of hvrsctl, one file each, and the way to Samba's databases:
 * they are read with libtdb, without smbd, and their records decoded by lib/.
 */
#ifndef HVRS_HVRSCTL_H
#define HVRS_HVRSCTL_H

#include <stdint.h>
#include <talloc.h>
#include <tdb.h>

/* Exit status of all commands. */
#define HVRSCTL_OK	0
#define HVRSCTL_FAILED	1	/* it was said why */
#define HVRSCTL_USAGE	2

/* Which of Samba's directories a database lies in. */
enum hvrsctl_dir {
	HVRSCTL_STATE,	/* "state directory": survives a reboot */
	HVRSCTL_LOCK,	/* "lock directory": does not */
};

/*
 * Opens a database to be read; flags are open(2)'s access mode and libtdb's
 * own are chosen here.  NULL with *_missing true where there is no such file
 * yet (nothing ever was stored), NULL with a message on standard error
 * otherwise.
 */
struct tdb_context *hvrsctl_database(enum hvrsctl_dir dir, const char *name,
				     int access, bool *_missing);

/*
 * The value of a parameter of [global], as testparm tells it; free() it.  NULL
 * where it is empty or testparm does not work.
 */
char *hvrsctl_testparm(const char *parameter);

/* Commands: argc and argv without the name of the command. */
int command_options(int argc, char **argv);
int command_disks(int argc, char **argv);
int command_snapshots(int argc, char **argv);
int command_handles(int argc, char **argv);
int command_tokens(int argc, char **argv);

#endif
