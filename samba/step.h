/*
 * Places at which a test may end smbd, to see what is left.
 */
#ifndef HVRS_SAMBA_STEP_H
#define HVRS_SAMBA_STEP_H

/*
 * Where smbd was started with HVRS_DIE_AT=DIRECTORY in its environment, and a
 * file of this name is there: takes it away and ends the process as kill -9
 * does; for a file "stop-NAME" it is stopped.  Else nothing.
 */
void step(const char *name);

#endif
