/*
 * Reads and writes: the shares take turns in slices of a few hundredths of a
 * second, so that whatever else the machine does meets all of them alike.
 * Each round has connections of its own: a server process that happens to be
 * placed well or badly counts for one round only.
 */
#include "load.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "bench-io.vhdx"
#define FILE_SIZE ((uint64_t)128 << 20)
#define SLICE (40 * MILLISECOND)
#define PAYLOAD_MAX ((size_t)8 << 20)

/* One share in a round. */
struct lane {
	struct client *client;
	int fd;
	pid_t server;
	uint64_t random, next;		/* where the next request goes */
	uint64_t operations, elapsed;
	uint64_t server_cpu, client_cpu;
};

static uint8_t *payload;

static int lane_send(struct lane *lane, const struct load_options *options)
{
	const uint64_t places = FILE_SIZE / options->size;
	uint64_t place = options->random ?
		load_random(&lane->random) % places : lane->next++ % places;
	uint64_t id = 0;

	if (strcmp(options->operation, "write") == 0) {
		return client_write(lane->client, 0, place * options->size,
				    payload, options->size, &id);
	}
	return client_read(lane->client, 0, place * options->size,
			   options->size, &id);
}

static int lane_receive(struct lane *lane, const struct load_options *options)
{
	struct client_reply reply = {};

	if (client_receive(lane->client, &reply) != 0) {
		return -1;
	}
	if (reply.status != CLIENT_SUCCESS || reply.length != options->size) {
		fprintf(stderr, "bench: %s: status 0x%08x, %u bytes\n",
			options->operation, reply.status, reply.length);
		return -1;
	}
	return 0;
}

/* Keeps the queue full until the time is over, then lets it run empty. */
static int lane_run(struct lane *lane, const struct load_options *options,
		    uint64_t nanoseconds)
{
	uint64_t server_cpu = load_cpu(lane->server);
	uint64_t client_cpu = load_cpu(getpid());
	uint64_t begun = load_now();
	uint64_t now = begun;
	uint32_t under_way = 0;

	do {
		while (under_way < options->depth &&
		       now - begun < nanoseconds) {
			if (lane_send(lane, options) != 0) {
				return -1;
			}
			under_way++;
		}
		if (lane_receive(lane, options) != 0) {
			return -1;
		}
		under_way--;
		lane->operations++;
		now = load_now();
	} while (under_way > 0 || now - begun < nanoseconds);
	lane->elapsed += now - begun;
	lane->server_cpu += load_cpu(lane->server) - server_cpu;
	lane->client_cpu += load_cpu(getpid()) - client_cpu;
	return 0;
}

static int lane_begin(struct lane *lane, const struct load_options *options,
		      const struct target *target, uint32_t round)
{
	const char *name = FILE_NAME;
	int fd = lane->fd;

	/* What the last round wrote shall not be written out in this one. */
	if (fdatasync(fd) != 0) {
		return -1;
	}
	*lane = (struct lane){ .fd = fd, .random = round };
	if (load_connect_apart(options, target, &name, 1,
			       &lane->client) != 0) {
		return -1;
	}
	lane->server = client_server(lane->client);
	if (lane_run(lane, options, SLICE) != 0) {
		return -1;
	}
	lane->operations = lane->elapsed = 0;
	lane->server_cpu = lane->client_cpu = 0;
	return 0;
}

static int round_run(struct lane *lanes, const struct load_options *options,
		     uint32_t round)
{
	uint64_t slices = (uint64_t)(options->seconds * 1e9) / SLICE + 1;
	uint64_t slice = 0;
	size_t i = 0;

	/* Nobody is always the first to connect: that was worth 5 percent. */
	for (i = 0; i < options->count; i++) {
		size_t at = (i + round) % options->count;

		if (lane_begin(&lanes[at], options, &options->targets[at],
			       round) != 0) {
			return -1;
		}
	}
	for (slice = 0; slice < slices; slice++) {
		for (i = 0; i < options->count; i++) {
			size_t at = (slice + round) % 2 == 0 ? i :
				options->count - 1 - i;

			if (lane_run(&lanes[at], options, SLICE) != 0) {
				return -1;
			}
		}
	}
	for (i = 0; i < options->count; i++) {
		client_close(lanes[i].client);
		printf("{\"round\": %u, \"share\": \"%s\", "
		       "\"operations\": %ju, \"ns\": %ju, "
		       "\"server_cpu_ns\": %ju, \"client_cpu_ns\": %ju}\n",
		       round, options->targets[i].share,
		       (uintmax_t)lanes[i].operations,
		       (uintmax_t)lanes[i].elapsed,
		       (uintmax_t)lanes[i].server_cpu,
		       (uintmax_t)lanes[i].client_cpu);
	}
	return 0;
}

int io_measure(const struct load_options *options)
{
	struct lane lanes[TARGETS_MAX] = {};
	uint64_t seed = 7;
	uint32_t round = 0;
	size_t i = 0;
	int ret = 0;

	if (options->size == 0 || options->size > PAYLOAD_MAX ||
	    options->depth == 0) {
		fprintf(stderr, "bench: --size or --depth is out of range\n");
		return -1;
	}
	payload = malloc(PAYLOAD_MAX);
	if (payload == NULL) {
		return -1;
	}
	for (i = 0; i < PAYLOAD_MAX; i++) {
		payload[i] = (uint8_t)load_random(&seed);
	}
	for (i = 0; i < options->count && ret == 0; i++) {
		lanes[i].fd = load_file(&options->targets[i], FILE_NAME);
		ret = lanes[i].fd == -1 ? -1 :
			load_fill(lanes[i].fd, 0, FILE_SIZE);
	}
	for (round = 0; round < options->rounds && ret == 0; round++) {
		ret = round_run(lanes, options, round);
	}
	for (i = 0; i < options->count; i++) {
		load_unlink(&options->targets[i], FILE_NAME);
	}
	free(payload);
	return ret;
}
