/*
 * The commands of hvrsctl, one file each, and the way to Samba's databases:
 * they are read with libtdb, without smbd, and their records decoded by lib/.
 */
#ifndef HVRS_HVRSCTL_H
#define HVRS_HVRSCTL_H

#include <jansson.h>
#include <stdbool.h>
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

/* Whether Samba's databases are those of a cluster ("clustering = yes"). */
bool hvrsctl_is_cluster(void);

/*
 * All records of a database of the cluster, made where there is none; each
 * gets no tdb.  An exit status, with a message where it is no success.
 */
int hvrsctl_cluster_each(const char *name, bool persistent,
			 tdb_traverse_func each, void *private_data);

/* Stores a record of a persistent one, or deletes it (value NULL); the same. */
int hvrsctl_cluster_store(const char *name, TDB_DATA key,
			  const TDB_DATA *value);

/*
 * The value of a parameter of [global], as testparm tells it; free() it.  NULL
 * where it is empty or testparm does not work.
 */
char *hvrsctl_testparm(const char *parameter);

/*
 * Runs a program without standard input and error, and returns what it
 * printed; *_status is its exit status, or -1 where it did not exit.
 */
char *hvrsctl_run(TALLOC_CTX *mem_ctx, int *_status, char *const argv[]);

/*
 * {section: {parameter: value}} of smb.conf as testparm understands it (file
 * NULL: the one smbd reads, with the shares of the registry), without what is
 * at its default.  NULL with a message.
 */
json_t *hvrsctl_config(const char *file);

/* A parameter of a share, as [global] has it unless the share says it. */
const char *hvrsctl_value(const json_t *config, const char *section,
			  const char *parameter, const char *otherwise);

/* Where Samba's modules are; NULL if smbd does not tell. */
char *hvrsctl_modules_directory(TALLOC_CTX *mem_ctx);

/* What a file system can do. */
struct hvrsctl_volume {
	bool punch;		/* holes */
	bool clone;		/* blocks of two files at once */
};

/* Tries it in a directory, leaving nothing there; 0 or a negative errno. */
int hvrsctl_volume(const char *path, struct hvrsctl_volume *_volume);

/* Commands: argc and argv without the name of the command. */
int command_options(int argc, char **argv);
int command_disks(int argc, char **argv);
int command_snapshots(int argc, char **argv);
int command_handles(int argc, char **argv);
int command_tokens(int argc, char **argv);
int command_status(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_enable(int argc, char **argv);
int command_disable(int argc, char **argv);
int command_qos(int argc, char **argv);

#endif
