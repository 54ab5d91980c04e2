/*
 * A reader beside a long zero: 4 KiB reads, one at a time, first alone and
 * then while a range of many extents is zeroed on the same connection; of
 * another file, and of the very file that is zeroed.
 */
#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_NAME "bench-long.vhdx"
#define READ_NAME "bench-read.vhdx"
#define READ_SIZE ((uint64_t)32 << 20)
#define READ_LENGTH 4096u
#define SAMPLES ((size_t)1 << 20)
#define FSCTL_ZERO 0x000980C8

struct bench {
	const struct load_options *options;
	struct client *client;
	uint64_t random;
	uint64_t *took;
	size_t count;
};

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Which of the two files, and how much of it, is read. */
struct reader {
	const char *name;
	size_t file;
	uint64_t size;
};

/*
 * Reads one after the other until the time is over, or, with the id of a long
 * request, until that is answered; tells when that was.
 */
static int read_until(struct bench *bench, const struct reader *reader,
		      uint64_t nanoseconds, uint64_t long_id,
		      uint64_t *_ended)
{
	uint64_t begun = load_now();
	bool over = false;

	bench->count = 0;
	while (!over && bench->count < SAMPLES) {
		uint64_t place = load_random(&bench->random) %
			(reader->size / READ_LENGTH);
		uint64_t sent = load_now();
		uint64_t id = 0;
		bool answered = false;

		if (client_read(bench->client, reader->file,
				place * READ_LENGTH, READ_LENGTH, &id) != 0) {
			return -1;
		}
		while (!answered) {
			struct client_reply reply = {};

			if (client_receive(bench->client, &reply) != 0) {
				return -1;
			}
			if (reply.status != CLIENT_SUCCESS) {
				fprintf(stderr, "bench: status 0x%08x\n",
					reply.status);
				return -1;
			}
			if (long_id != 0 && reply.id == long_id) {
				*_ended = load_now();
				over = true;
			}
			answered = reply.id == id;
		}
		bench->took[bench->count++] = load_now() - sent;
		over = over || (long_id == 0 &&
				load_now() - begun > nanoseconds);
	}
	return over ? 0 : -1;
}

static uint64_t part(const struct bench *bench, double share)
{
	return bench->took[(size_t)((double)(bench->count - 1) * share)];
}

static void print_quantiles(struct bench *bench, const char *name)
{
	qsort(bench->took, bench->count, sizeof(bench->took[0]), compare);
	printf(", \"%s_reads\": %zu, \"%s_p50_ns\": %ju, \"%s_p99_ns\": %ju, "
	       "\"%s_max_ns\": %ju", name, bench->count,
	       name, (uintmax_t)part(bench, 0.5),
	       name, (uintmax_t)part(bench, 0.99),
	       name, (uintmax_t)part(bench, 1));
}

static int measure(struct bench *bench, const struct target *target,
		   const struct reader *reader, uint32_t round)
{
	uint8_t in[16] = {};
	uint64_t begun = 0;
	uint64_t ended = 0;
	uint64_t id = 0;
	size_t i = 0;

	for (i = 0; i < 8; i++) {
		in[8 + i] = (uint8_t)(bench->options->length >> (8 * i));
	}
	if (read_until(bench, reader, SECOND / 20, 0, &ended) != 0 ||
	    read_until(bench, reader, SECOND / 3, 0, &ended) != 0) {
		return -1;
	}
	printf("{\"round\": %u, \"share\": \"%s\", \"reads\": \"%s\"", round,
	       target->share, reader->name);
	print_quantiles(bench, "alone");
	begun = load_now();
	if (client_ioctl(bench->client, 0, FSCTL_ZERO, in, sizeof(in),
			 &id) != 0 ||
	    read_until(bench, reader, 0, id, &ended) != 0) {
		return -1;
	}
	print_quantiles(bench, "beside");
	printf(", \"zero_ns\": %ju}\n", (uintmax_t)(ended - begun));
	return 0;
}

static int share_run(struct bench *bench, const struct target *target,
		     uint32_t round)
{
	const char *const names[] = { LONG_NAME, READ_NAME };
	const struct reader readers[] = {
		{ "another file", 1, READ_SIZE },
		{ "the same file", 0, bench->options->length },
	};
	size_t i = 0;
	int ret = 0;
	int file = load_file(target, READ_NAME);

	if (file == -1 || load_fill(file, 0, READ_SIZE) != 0) {
		return -1;
	}
	close(file);
	for (i = 0; i < 2 && ret == 0; i++) {
		int fd = load_file(target, LONG_NAME);

		bench->random = round;
		ret = fd == -1 ? -1 :
			load_extents(fd, bench->options->length,
				     bench->options->extents);
		if (ret == 0) {
			ret = load_connect(bench->options, target, names, 2,
					   &bench->client);
		}
		if (ret == 0) {
			ret = measure(bench, target, &readers[i], round);
			client_close(bench->client);
		}
		if (fd != -1) {
			close(fd);
		}
	}
	return ret;
}

int beside_measure(const struct load_options *options)
{
	struct bench bench = { .options = options };
	uint32_t round = 0;
	size_t i = 0;
	int ret = 0;

	bench.took = calloc(SAMPLES, sizeof(bench.took[0]));
	if (bench.took == NULL) {
		return -1;
	}
	for (round = 0; round < options->rounds && ret == 0; round++) {
		for (i = 0; i < options->count && ret == 0; i++) {
			ret = share_run(&bench, &options->targets[i], round);
		}
	}
	for (i = 0; i < options->count; i++) {
		load_unlink(&options->targets[i], LONG_NAME);
		load_unlink(&options->targets[i], READ_NAME);
	}
	free(bench.took);
	return ret;
}
