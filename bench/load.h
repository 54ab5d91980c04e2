/*
 * What the measurements share: where to measure, clocks, files.  Each prints
 * one JSON object a line; the Python files beside make figures of them.
 */
#ifndef HVRS_BENCH_LOAD_H
#define HVRS_BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "client.h"

#define TARGETS_MAX 32
#define MILLISECOND ((uint64_t)1000000)
#define SECOND ((uint64_t)1000000000)

/*
 * A share, and its directory on this machine; for handles, a name and a
 * connection: FD:TREE:SESSION:NEXT.
 */
struct target {
	const char *share;
	const char *directory;
};

struct load_options {
	const char *user;
	const char *password;
	int port;
	const char *operation;	/* read write, or trim zero clone */
	bool random;
	uint32_t size;		/* of one read or write */
	uint32_t depth;
	double seconds;
	uint32_t rounds;
	uint64_t length;	/* of a range */
	uint32_t extents;
	const char *image;	/* of a shared disk */
	uint32_t clients;
	const char *policy;	/* of storage QoS, and a limit in requests */
	uint64_t limit;
	uint32_t promise;	/* what a durable handle is to be: 0 or 2 */
	unsigned reading;	/* files that are opened to read alone */
	struct target targets[TARGETS_MAX];
	size_t count;
};

/* The measurements: 0, or -1 with a line on standard error. */
int io_measure(const struct load_options *options);
int ranges_measure(const struct load_options *options);
int beside_measure(const struct load_options *options);
int shared_measure(const struct load_options *options);
int qos_measure(const struct load_options *options);
int handles_measure(const struct load_options *options);
int offload_measure(const struct load_options *options);

/* Nanoseconds of a clock that never goes back. */
uint64_t load_now(void);

/* The value below which that share of the numbers lies; sorts them. */
uint64_t load_quantile(uint64_t *numbers, size_t count, double share);

/* CPU time a process has used so far, all of its threads; 0 if unknown. */
uint64_t load_cpu(pid_t pid);

/* A number that looks random, for choosing offsets. */
uint64_t load_random(uint64_t *state);

/* A connection to a share as the options say. */
int load_connect(const struct load_options *options,
		 const struct target *target, const char *const *names,
		 size_t count, struct client **_client);

/* Puts a process on a processor of its own, where there are two. */
enum { LOAD_CLIENT, LOAD_SERVER };
int load_place(pid_t pid, int place);
/* The two change places at the next load_place(): processors are not alike. */
void load_swap(void);

/*
 * The same with this process and the server's on a processor each: left to
 * chance, the two share one or not for as long as the server's lives, which
 * makes more difference than what is measured.
 */
int load_connect_apart(const struct load_options *options,
		       const struct target *target, const char *const *names,
		       size_t count, struct client **_client);

/*
 * Makes an empty file that belongs to the owner of the directory, as if a
 * client had made it.  A descriptor or -1 with a line on standard error.
 */
int load_file(const struct target *target, const char *name);
void load_unlink(const struct target *target, const char *name);

/* Writes data that no file system can shrink. */
int load_fill(int fd, uint64_t offset, uint64_t length);

/*
 * Makes a file of that length anew, of so many extents of equal size spread
 * evenly over it with holes between, all on disk.  Of more than LOAD_MANY each
 * is one block, and what is done to them takes long.
 */
#define LOAD_MANY 1000
int load_extents(int fd, uint64_t length, uint32_t extents);

#endif
