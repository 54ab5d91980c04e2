/* Another process, that takes something and has it until it is killed. */
#ifndef HVRS_TESTS_SUPPORT_CHILD_H
#define HVRS_TESTS_SUPPORT_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

/* Returns when take() has been true there; -1 where it was not. */
pid_t child_holds(bool (*take)(void *private_data), void *private_data);

/* Its end by SIGKILL, waited for. */
void child_kill(pid_t child);

#endif
