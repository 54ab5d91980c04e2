/*
 * The map of changes of a disk of 16 TiB: a million regions changed between
 * two marks, and the time to tell them, in answers as large as a client may
 * ask for (MS-RSVD, QUERY_VIRTUAL_DISK_CHANGES).
 *
 *   bench-changes FILE
 *
 * Prints nanoseconds and the ranges that were told.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cbt/cbt.h"
#include "store/store.h"

#define SIZE ((uint64_t)16 << 40)
#define CHANGES 1000000u
#define STEP ((uint64_t)16 << 20)	/* between two of them */
#define ANSWER (((1 << 20) - 16) / 24)	/* ranges */

static uint64_t now(void)
{
	struct timespec ts = {};

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Everywhere once: the step and the number of places have no divisor. */
static int change_all(struct cbt *cbt)
{
	uint64_t i = 0;
	int ret = 0;

	for (i = 0; i < CHANGES && ret == 0; i++) {
		ret = cbt_note(cbt, i * 700001 % CHANGES * STEP, 4096);
	}
	return ret;
}

static int tell_all(struct cbt *cbt, const struct guid *from,
		    const struct guid *to, uint64_t *_told)
{
	static struct cbt_range ranges[ANSWER];
	uint64_t at = 0;
	int ret = 0;

	while (at < SIZE && ret == 0) {
		uint64_t processed = 0;
		size_t count = 0;

		ret = cbt_changes(cbt, to, from, at, SIZE - at, ranges,
				  ANSWER, &count, &processed);
		*_told += count;
		at += processed;
	}
	return ret;
}

int main(int argc, char **argv)
{
	const struct guid from = { { 1 } };
	const struct guid to = { { 2 } };
	struct store *store = NULL;
	struct cbt *cbt = NULL;
	uint64_t told = 0;
	uint64_t begun = 0;
	int ret = argc == 2 ? 0 : -1;

	if (ret == 0) {
		ret = file_store_open(NULL, NULL, AT_FDCWD, argv[1],
				      FILE_STORE_CREATE, &store);
	}
	ret = ret == 0 ? cbt_create(store, SIZE) : ret;
	ret = ret == 0 ? cbt_open(NULL, store, NULL, false, &cbt, NULL) : ret;
	ret = ret == 0 ? cbt_start(cbt) : ret;
	ret = ret == 0 ? cbt_mark(cbt, &from) : ret;
	ret = ret == 0 ? change_all(cbt) : ret;
	ret = ret == 0 ? cbt_mark(cbt, &to) : ret;
	begun = now();
	ret = ret == 0 ? tell_all(cbt, &from, &to, &told) : ret;
	if (ret != 0 || told != CHANGES) {
		fprintf(stderr, "bench-changes: %d, %ju ranges\n", ret,
			(uintmax_t)told);
		return 1;
	}
	printf("%ju %ju\n", (uintmax_t)(now() - begun), (uintmax_t)told);
	talloc_free(cbt);
	talloc_free(store);
	return 0;
}
