/*
 * Trim, zero and clone of a range: the file system's own call and the SMB
 * request on the same file in the same state, in turns, and the bare round
 * trip of the same connection.
 */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_NAME "bench-range.vhdx"
#define SOURCE_NAME "bench-source.vhdx"
#define WARM 20		/* round trips before one that counts */
#define STAY 8		/* rounds with one connection, of what is short */

#define FSCTL_ZERO 0x000980C8
#define FSCTL_TRIM 0x00098208
#define FSCTL_CLONE 0x00098344

struct bench {
	const struct load_options *options;
	const struct target *target;
	struct client *client;
	int fd;			/* what is trimmed, zeroed or cloned to */
	int source;
	struct stat full;	/* of the file as it is before */
};

static void put64(uint8_t *to, uint64_t value)
{
	size_t i = 0;

	for (i = 0; i < 8; i++) {
		to[i] = (uint8_t)(value >> (8 * i));
	}
}

/* ---- the three operations: by the file system, and as an FSCTL -------------------- */

static int local_punch(const struct bench *bench)
{
	return fallocate(bench->fd,
			 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			 (off_t)bench->options->length);
}

static int local_clone(const struct bench *bench)
{
	struct file_clone_range range = {
		.src_fd = bench->source,
		.src_length = bench->options->length,
	};

	return ioctl(bench->fd, FICLONERANGE, &range);
}

static uint32_t fill_trim(const struct bench *bench, uint8_t *in)
{
	in[4] = 1;		/* one range */
	put64(in + 16, bench->options->length);
	return 24;
}

static uint32_t fill_zero(const struct bench *bench, uint8_t *in)
{
	put64(in + 8, bench->options->length);
	return 16;
}

static uint32_t fill_clone(const struct bench *bench, uint8_t *in)
{
	memcpy(in, client_file_id(bench->client, 1), 16);
	put64(in + 32, bench->options->length);
	return 40;
}

static const struct operation {
	const char *name;
	uint32_t code;
	bool frees;
	int (*local)(const struct bench *bench);
	uint32_t (*fill)(const struct bench *bench, uint8_t *in);
} operations[] = {
	{ "trim", FSCTL_TRIM, true, local_punch, fill_trim },
	{ "zero", FSCTL_ZERO, true, local_punch, fill_zero },
	{ "clone", FSCTL_CLONE, false, local_clone, fill_clone },
};

static const struct operation *operation_find(const char *name)
{
	size_t i = 0;

	for (i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		if (strcmp(operations[i].name, name) == 0) {
			return &operations[i];
		}
	}
	return NULL;
}

/* ---- one measurement ---------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int finish(struct bench *bench, uint64_t begun, uint64_t *_elapsed)
{
	struct client_reply reply = {};

	client_watch(bench->client);
	if (client_receive(bench->client, &reply) != 0) {
		return -1;
	}
	*_elapsed = load_now() - begun;
	if (reply.status != CLIENT_SUCCESS) {
		fprintf(stderr, "bench: %s: status 0x%08x\n",
			bench->options->operation, reply.status);
		return -1;
	}
	return 0;
}

/* The median of a few bare round trips; also wakes everybody up. */
static int round_trip(struct bench *bench, uint64_t *_elapsed)
{
	uint64_t took[WARM] = {};
	size_t i = 0;

	for (i = 0; i < WARM; i++) {
		uint64_t begun = load_now();
		uint64_t id = 0;

		if (client_query(bench->client, 0, &id) != 0 ||
		    finish(bench, begun, &took[i]) != 0) {
			return -1;
		}
	}
	qsort(took, WARM, sizeof(took[0]), compare);
	*_elapsed = took[WARM / 2];
	return 0;
}

/* The file as it was: full before a trim, of one long hole before a clone. */
static int fill(struct bench *bench, const struct operation *operation)
{
	uint64_t length = bench->options->length;

	if (operation->frees) {
		return load_extents(bench->fd, length,
				    bench->options->extents);
	}
	return ftruncate(bench->fd, 0) == 0 &&
		ftruncate(bench->fd, (off_t)length) == 0 &&
		fdatasync(bench->fd) == 0 ? 0 : -1;
}

/*
 * On the processor of who will do the operation: the other's cache would not
 * know the file, which is worth 10 us and no work of anybody's.
 */
static int prepare(struct bench *bench, const struct operation *operation,
		   int place)
{
	int ret = load_place(getpid(), place);

	if (ret == 0) {
		ret = fill(bench, operation);
	}
	return load_place(getpid(), LOAD_CLIENT) != 0 ? -1 : ret;
}

/* That what was measured has happened. */
static int check(struct bench *bench, const struct operation *operation)
{
	struct stat st = {};
	blkcnt_t want = operation->frees ? 0 : bench->full.st_blocks;

	if (fstat(bench->fd, &st) != 0 || st.st_blocks < want ||
	    (operation->frees && st.st_blocks > want) ||
	    st.st_size != (off_t)bench->options->length) {
		fprintf(stderr, "bench: %s left %ju blocks and %ju bytes\n",
			operation->name, (uintmax_t)st.st_blocks,
			(uintmax_t)st.st_size);
		return -1;
	}
	return 0;
}

static int measure_local(struct bench *bench,
			 const struct operation *operation, uint64_t *_elapsed)
{
	uint64_t begun = 0;
	uint64_t unused = 0;

	if (prepare(bench, operation, LOAD_CLIENT) != 0 ||
	    round_trip(bench, &unused) != 0) {
		return -1;
	}
	begun = load_now();
	if (operation->local(bench) != 0) {
		fprintf(stderr, "bench: %s here: %s\n", operation->name,
			strerror(errno));
		return -1;
	}
	*_elapsed = load_now() - begun;
	return check(bench, operation);
}

static int measure_smb(struct bench *bench, const struct operation *operation,
		       uint64_t *_elapsed, uint64_t *_trip)
{
	uint8_t in[64] = {};
	uint32_t length = operation->fill(bench, in);
	uint64_t begun = 0;
	uint64_t id = 0;

	if (prepare(bench, operation, LOAD_SERVER) != 0 ||
	    round_trip(bench, _trip) != 0) {
		return -1;
	}
	begun = load_now();
	if (client_ioctl(bench->client, 0, operation->code, in, length,
			 &id) != 0 || finish(bench, begun, _elapsed) != 0) {
		return -1;
	}
	return check(bench, operation);
}

static int reconnect(struct bench *bench)
{
	const char *const names[] = { FILE_NAME, SOURCE_NAME };

	client_close(bench->client);
	bench->client = NULL;
	load_swap();
	return load_connect_apart(bench->options, bench->target, names, 2,
				  &bench->client);
}

static int rounds_run(struct bench *bench, const struct operation *operation)
{
	uint32_t stay = bench->options->extents > LOAD_MANY ? 1 : STAY;
	uint32_t round = 0;

	for (round = 0; round < bench->options->rounds; round++) {
		uint64_t local = 0;
		uint64_t smb = 0;
		uint64_t trip = 0;
		size_t i = 0;

		if (round % stay == 0 && reconnect(bench) != 0) {
			return -1;
		}
		for (i = 0; i < 2; i++) {
			int ret = (round + i) % 2 == 0 ?
				measure_local(bench, operation, &local) :
				measure_smb(bench, operation, &smb, &trip);

			if (ret != 0) {
				return -1;
			}
		}
		printf("{\"round\": %u, \"place\": %u, \"local_ns\": %ju, "
		       "\"smb_ns\": %ju, \"trip_ns\": %ju}\n", round,
		       round / stay % 2, (uintmax_t)local, (uintmax_t)smb,
		       (uintmax_t)trip);
	}
	return 0;
}

int ranges_measure(const struct load_options *options)
{
	const struct operation *operation = operation_find(options->operation);
	const struct target *target = &options->targets[0];
	struct bench bench = { .options = options, .target = target };
	int ret = -1;

	if (operation == NULL) {
		fprintf(stderr, "bench: unknown operation %s\n",
			options->operation);
		return -1;
	}
	bench.fd = load_file(target, FILE_NAME);
	bench.source = load_file(target, SOURCE_NAME);
	if (bench.fd != -1 && bench.source != -1 &&
	    load_extents(bench.source, options->length,
			 operation->frees ? 1 : options->extents) == 0 &&
	    fstat(bench.source, &bench.full) == 0) {
		ret = rounds_run(&bench, operation);
	}
	client_close(bench.client);
	load_unlink(target, FILE_NAME);
	load_unlink(target, SOURCE_NAME);
	return ret;
}
