/*
 * Work in the background.  (Files that no snapshot needs are removed here.)
 */
#include "server.h"

void rsvd_merge_start(struct rsvd_open *open)
{
	(void)open;
}

void rsvd_merge_stop(struct rsvd_open *open)
{
	(void)open;
}

void rsvd_merge_kick(struct rsvd_open *open)
{
	(void)open;
}

bool rsvd_merge_needed(struct rsvd_open *open)
{
	(void)open;
	return false;
}
