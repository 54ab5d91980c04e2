#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/child.h"

pid_t child_holds(bool (*take)(void *private_data), void *private_data)
{
	int told[2];
	char byte = 0;
	ssize_t got = 0;
	pid_t child = 0;

	if (pipe(told) != 0) {
		return -1;
	}
	child = fork();
	if (child == 0) {
		if (!take(private_data) || write(told[1], "x", 1) != 1) {
			_exit(1);
		}
		pause();
		_exit(0);
	}
	close(told[1]);
	got = read(told[0], &byte, 1);
	close(told[0]);
	if (got != 1 && child > 0) {
		waitpid(child, NULL, 0);
		child = -1;
	}
	return child;
}

void child_kill(pid_t child)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}
