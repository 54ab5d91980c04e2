/*
 * Snapshots by an administrator's script (LVM, ZFS, a storage system):
 *
 *	SCRIPT check PATH		prints the identity of the store
 *	SCRIPT create PATH SNAPSHOT rw|ro	makes SNAPSHOT hold the tree
 *	SCRIPT seal SNAPSHOT		makes it read-only
 *	SCRIPT delete SNAPSHOT		takes it away, also half of one
 *
 * It runs as root with a clean environment and no shell of ours between;
 * status 0 is success, what it says on standard error goes to the log.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "provider.h"

/* The client gives up after 180 s; a script that takes longer has failed. */
#define LIMIT_S		150
#define MAX_OUTPUT	4096

/* Only root may say what root runs. */
static int check_script(const char *script, const char **why)
{
	struct stat st = {};

	if (script == NULL || script[0] != '/') {
		*why = "\"hvrs:snapshot script\" names no absolute path";
		return -EOPNOTSUPP;
	}
	if (stat(script, &st) != 0 || !S_ISREG(st.st_mode) ||
	    st.st_uid != 0 || (st.st_mode & 022) != 0 ||
	    (st.st_mode & 0100) == 0) {
		*why = "\"hvrs:snapshot script\" is no executable file that "
		       "root alone may change";
		return -EACCES;
	}
	return 0;
}

static void kill_group(pid_t pid)
{
	int status = 0;

	kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) == -1 && errno == EINTR) {
	}
}

/* Reads what it prints until it ends; -ETIMEDOUT where it does not. */
static int read_output(int fd, time_t limit, char *output)
{
	size_t length = 0;

	for (;;) {
		struct pollfd ready = { .fd = fd, .events = POLLIN };
		time_t left = limit - time(NULL);
		char waste[256];
		ssize_t got = 0;
		bool full = length + 1 >= MAX_OUTPUT;

		if (left <= 0 || poll(&ready, 1, (int)left * 1000) == 0) {
			return -ETIMEDOUT;
		}
		got = read(fd, full ? waste : output + length,
			   full ? sizeof(waste) : MAX_OUTPUT - 1 - length);
		if (got < 0 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			output[length] = '\0';
			return got == 0 ? 0 : -errno;
		}
		if (!full) {
			length += (size_t)got;
		}
	}
}

/* Runs it to its end.  The caller must see the end of its children. */
static int run(const char *const argv[], char *output, const char **why)
{
	static char *const environment[] = {
		(char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		(char *)"LC_ALL=C", NULL
	};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int ends[2] = { -1, -1 };
	pid_t pid = -1;
	int status = 0;
	int ret = 0;

	if (pipe2(ends, O_CLOEXEC) != 0) {
		return -errno;
	}
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY,
					 0);
	posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setpgroup(&attributes, 0);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
	ret = posix_spawn(&pid, argv[0], &actions, &attributes,
			  (char *const *)argv, environment);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	close(ends[1]);
	if (ret != 0) {
		close(ends[0]);
		*why = "the snapshot script cannot be run";
		return -ret;
	}
	ret = read_output(ends[0], time(NULL) + LIMIT_S, output);
	close(ends[0]);
	if (ret != 0) {
		kill_group(pid);
		*why = "the snapshot script did not end in 150 s and was "
		       "killed";
		return ret;
	}
	while (waitpid(pid, &status, 0) == -1) {
		if (errno != EINTR) {
			*why = "the end of the snapshot script was not seen";
			return -ECHILD;
		}
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		*why = "the snapshot script failed; see what it says";
		return -EIO;
	}
	return 0;
}

static int script_probe(TALLOC_CTX *mem_ctx, const char *share_path,
			const struct provider_config *config,
			struct provider_store *_store, const char **why)
{
	const char *argv[] = { config->script, "check", share_path, NULL };
	char output[MAX_OUTPUT] = "";
	int ret = check_script(config->script, why);

	if (ret != 0) {
		return ret;
	}
	ret = run(argv, output, why);
	if (ret != 0) {
		return ret;
	}
	output[strcspn(output, "\n")] = '\0';
	if (output[0] == '\0' || strlen(output) > 256) {
		*why = "the snapshot script's \"check\" printed no identity";
		return -EIO;
	}
	_store->id = talloc_asprintf(mem_ctx, "script:%s", output);
	_store->root = talloc_strdup(mem_ctx, share_path);
	_store->path = "";
	return _store->id != NULL && _store->root != NULL ? 0 : -ENOMEM;
}

static int script_prepare(struct provider_job *job)
{
	return provider_sync(job->root);
}

static int script_create(struct provider_job *job)
{
	const char *argv[] = { job->config->script, "create", job->root,
			       job->snapshot, job->writable ? "rw" : "ro",
			       NULL };
	char output[MAX_OUTPUT] = "";
	int folder = -1;
	int ret = check_script(job->config->script, &job->why);

	if (ret != 0) {
		return ret;
	}
	folder = provider_folder_open(job->root, &job->why);
	if (folder < 0) {
		return folder;
	}
	close(folder);
	return run(argv, output, &job->why);
}

static int on_snapshot(const struct provider_config *config, const char *what,
		       const char *snapshot, const char **why)
{
	const char *argv[] = { config->script, what, snapshot, NULL };
	char output[MAX_OUTPUT] = "";
	int ret = check_script(config->script, why);

	return ret != 0 ? ret : run(argv, output, why);
}

static int script_seal(const struct provider_config *config,
		       const char *snapshot, const char **why)
{
	return on_snapshot(config, "seal", snapshot, why);
}

static int script_destroy(const struct provider_config *config,
			  const char *snapshot, const char **why)
{
	return on_snapshot(config, "delete", snapshot, why);
}

const struct provider provider_script = {
	.name = "script",
	.probe = script_probe,
	.prepare = script_prepare,
	.create = script_create,
	.seal = script_seal,
	.destroy = script_destroy,
};
