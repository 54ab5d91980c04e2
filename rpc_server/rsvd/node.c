/*
 * A node of the cluster that does not go on, and keeps others from it.  Nothing
 * can be done about it from here but to ask whoever can switch it off.
 */
#include "server.h"

#include "option/option.h"

#include <sys/wait.h>

/* Not more often than this, for one node. */
#define AGAIN_S 30

/* In a grandchild, which nobody has to wait for. */
static void run(const char *command, const char *node, const char *pid)
{
	pid_t child = fork();
	int status = 0;

	if (child == 0) {
		if (fork() == 0) {
			(void)close_range(3, ~0U, 0);
			execl(command, command, node, pid, NULL);
		}
		_exit(0);
	}
	while (child > 0 && waitpid(child, &status, 0) == -1 &&
	       errno == EINTR) {
	}
}

void rsvd_fence_node(const char *path,
		     const struct rsvd_fence_process *process,
		     const char *what)
{
	static time_t asked[64];
	const char *command = lp_parm_const_string(
		GLOBAL_SECTION_SNUM, "hvrs",
		option_row_get(OPTION_FENCE_COMMAND)->name, "");
	time_t now = time_mono(NULL);
	time_t *last = &asked[process->node % ARRAY_SIZE(asked)];
	char node[16];
	char pid[24];

	if (*last != 0 && now < *last + AGAIN_S) {
		return;
	}
	*last = now;
	DBG_ERR("hvrs: shared disk %s: process %llu of node %u %s, and did not "
		"end it in time: %s%s\n", path,
		(unsigned long long)process->pid, process->node, what,
		command[0] == '/' ? "asking " : "nothing goes on until the "
		"file system lets go of its locks (hvrs:fence command is not "
		"set)", command[0] == '/' ? command : "");
	if (command[0] != '/') {
		return;
	}
	snprintf(node, sizeof(node), "%u", process->node);
	snprintf(pid, sizeof(pid), "%llu", (unsigned long long)process->pid);
	become_root();
	run(command, node, pid);
	unbecome_root();
}
