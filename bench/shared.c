/*
 * A shared virtual disk beside a plain file: several clients on the disk and
 * as many on the file, the two taking turns as in io.c.  Each client has an
 * initiator of its own ([MS-RSVD] 2.2.4.12).
 */
#include "load.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "bench-shared.bin"
#define SUFFIX ":SharedVirtualDisk"
#define FILE_SIZE ((uint64_t)96 << 20)
#define SLICE (40 * MILLISECOND)
#define PAYLOAD_MAX ((size_t)1 << 20)
#define CLIENTS_MAX 8
#define KEY 0x1122334455667788

#define FSCTL_TUNNEL 0x90304
#define TUNNEL_SCSI 0x02001002

enum action { ACTION_REGISTER, ACTION_RESERVE, ACTION_RELEASE };

struct side {
	const struct target *target;
	const char *name;
	bool shared;
	struct client *clients[CLIENTS_MAX];
	uint32_t under_way[CLIENTS_MAX];
	pid_t servers[CLIENTS_MAX];
	uint64_t random, next;
	uint64_t operations, elapsed, server_cpu;
};

/* What a measurement does until a time is over. */
typedef int slice_fn(struct side *side, const struct load_options *options,
		     uint64_t nanoseconds);

static uint8_t *payload;

/* ---- opening -------------------------------------------------------------------- */

static const uint8_t context_name[16] = {
	0x9C, 0xCB, 0xCF, 0x9E, 0x04, 0xC1, 0xE6, 0x43,
	0x98, 0x0E, 0x15, 0x8D, 0xA1, 0xF6, 0xEC, 0x83,
};

static int wait_for(struct client *client, const char *what)
{
	struct client_reply reply = {};

	if (client_receive(client, &reply) != 0) {
		return -1;
	}
	if (reply.status != CLIENT_SUCCESS) {
		fprintf(stderr, "bench: %s: status 0x%08x\n", what,
			reply.status);
		return -1;
	}
	return 0;
}

static int side_create(struct side *side, size_t which)
{
	uint8_t data[168] = { [0] = 1, [4] = 1, [28] = 1, [32] = 1 };
	struct client_context context = {
		.name = context_name, .data = data, .length = sizeof(data),
	};
	char name[64] = {};
	uint64_t id = 0;

	/* The initiator: any GUID of its own. */
	memset(data + 8, 0x40 + (int)which, 16);
	snprintf(name, sizeof(name), "%s%s", side->name,
		 side->shared ? SUFFIX : "");
	if (client_create(side->clients[which], 0, name,
			  side->shared ? &context : NULL, &id) != 0) {
		return -1;
	}
	return wait_for(side->clients[which], name);
}

static int side_close(struct side *side, size_t which)
{
	uint64_t id = 0;

	if (client_end(side->clients[which], 0, &id) != 0) {
		return -1;
	}
	return wait_for(side->clients[which], "close");
}

static int side_connect(struct side *side, const struct load_options *options)
{
	size_t i = 0;

	for (i = 0; i < options->clients; i++) {
		if (load_connect(options, side->target, NULL, 0,
				 &side->clients[i]) != 0 ||
		    side_create(side, i) != 0) {
			return -1;
		}
		side->servers[i] = client_server(side->clients[i]);
	}
	return 0;
}

static void side_disconnect(struct side *side,
			    const struct load_options *options)
{
	size_t i = 0;

	for (i = 0; i < options->clients; i++) {
		client_close(side->clients[i]);
		side->clients[i] = NULL;
	}
}

static uint64_t side_cpu(const struct side *side,
			 const struct load_options *options)
{
	uint64_t sum = 0;
	size_t i = 0;

	for (i = 0; i < options->clients; i++) {
		sum += load_cpu(side->servers[i]);
	}
	return sum;
}

/* ---- reads and writes ------------------------------------------------------------ */

static int transfer_send(struct side *side, size_t which,
			 const struct load_options *options)
{
	const uint64_t places = FILE_SIZE / options->size;
	uint64_t place = options->random ?
		load_random(&side->random) % places : side->next++ % places;
	struct client *client = side->clients[which];
	uint64_t id = 0;

	side->under_way[which]++;
	if (strcmp(options->operation, "write") == 0) {
		return client_write(client, 0, place * options->size, payload,
				    options->size, &id);
	}
	return client_read(client, 0, place * options->size, options->size,
			   &id);
}

static int transfer_receive(struct side *side, size_t which,
			    const struct load_options *options)
{
	struct client_reply reply = {};

	if (client_receive(side->clients[which], &reply) != 0) {
		return -1;
	}
	if (reply.status != CLIENT_SUCCESS || reply.length != options->size) {
		fprintf(stderr, "bench: %s of %s: status 0x%08x, %u bytes\n",
			options->operation, side->name, reply.status,
			reply.length);
		return -1;
	}
	side->under_way[which]--;
	side->operations++;
	return 0;
}

/* Waits until one of the clients has a reply. */
static int transfer_wait(struct side *side, const struct load_options *options,
			 bool *ready)
{
	struct pollfd wait[CLIENTS_MAX] = {};
	bool any = false;
	size_t i = 0;

	for (i = 0; i < options->clients; i++) {
		ready[i] = side->under_way[i] > 0 &&
			client_has_more(side->clients[i]);
		any |= ready[i];
		wait[i].fd = side->under_way[i] > 0 ?
			client_socket(side->clients[i]) : -1;
		wait[i].events = POLLIN;
	}
	if (any) {
		return 0;
	}
	if (options->clients == 1) {
		ready[0] = true;
		return 0;
	}
	if (poll(wait, options->clients, 30000) <= 0) {
		fprintf(stderr, "bench: no answer in 30 s\n");
		return -1;
	}
	for (i = 0; i < options->clients; i++) {
		ready[i] = wait[i].revents != 0;
	}
	return 0;
}

static int slice_transfer(struct side *side,
			  const struct load_options *options,
			  uint64_t nanoseconds)
{
	uint64_t begun = load_now();
	uint32_t sum = 0;
	size_t i = 0;

	do {
		bool ready[CLIENTS_MAX] = {};
		bool open = load_now() - begun < nanoseconds;

		for (i = 0; i < options->clients && open; i++) {
			while (side->under_way[i] < options->depth) {
				if (transfer_send(side, i, options) != 0) {
					return -1;
				}
			}
		}
		if (transfer_wait(side, options, ready) != 0) {
			return -1;
		}
		for (i = 0, sum = 0; i < options->clients; i++) {
			if (ready[i] &&
			    transfer_receive(side, i, options) != 0) {
				return -1;
			}
			sum += side->under_way[i];
		}
	} while (sum > 0 || load_now() - begun < nanoseconds);
	return 0;
}

/* ---- opens, and the bare round trip ------------------------------------------------ */

static int slice_open(struct side *side, const struct load_options *options,
		      uint64_t nanoseconds)
{
	uint64_t begun = load_now();

	(void)options;
	while (load_now() - begun < nanoseconds) {
		if (side_close(side, 0) != 0 || side_create(side, 0) != 0) {
			return -1;
		}
		side->operations++;
	}
	return 0;
}

/* [MS-RSVD] 2.2.4.7, 2.2.4.11 around PERSISTENT RESERVE OUT */
static int reserve_out(struct client *client, enum action action,
		       uint64_t key, uint64_t new_key)
{
	uint8_t out[16 + 36 + 24] = {};
	uint8_t *scsi = out + 16;
	uint8_t *data = out + 52;
	uint32_t operation = TUNNEL_SCSI;
	uint64_t id = 0;
	size_t i = 0;

	for (i = 0; i < 4; i++) {
		out[i] = (uint8_t)(operation >> 8 * i);
	}
	scsi[0] = 36;
	scsi[4] = 10;
	scsi[5] = 20;
	scsi[8] = 0x80;
	scsi[12] = 24;
	scsi[16] = 0x5F;
	scsi[17] = (uint8_t)action;
	scsi[18] = action == ACTION_REGISTER ? 0 : 1;
	scsi[24] = 24;
	for (i = 0; i < 8; i++) {
		data[i] = (uint8_t)(key >> (56 - 8 * i));
		data[8 + i] = (uint8_t)(new_key >> (56 - 8 * i));
	}
	if (client_ioctl(client, 0, FSCTL_TUNNEL, out, sizeof(out), &id) !=
	    0) {
		return -1;
	}
	return wait_for(client, "PERSISTENT RESERVE OUT");
}

static int slice_reserve(struct side *side, const struct load_options *options,
			 uint64_t nanoseconds)
{
	struct client *client = side->clients[0];
	bool registers = strcmp(options->operation, "register") == 0;
	uint64_t begun = load_now();
	uint64_t id = 0;
	int ret = 0;

	if (side->shared && !registers) {
		ret = reserve_out(client, ACTION_REGISTER, 0, KEY);
	}
	while (ret == 0 && load_now() - begun < nanoseconds) {
		if (!side->shared) {
			ret = client_query(client, 0, &id);
			if (ret == 0) {
				ret = wait_for(client, "query");
			}
			side->operations++;
			continue;
		}
		ret = registers ?
			reserve_out(client, ACTION_REGISTER, 0, KEY) :
			reserve_out(client, ACTION_RESERVE, KEY, 0);
		if (ret == 0) {
			ret = registers ?
				reserve_out(client, ACTION_REGISTER, KEY, 0) :
				reserve_out(client, ACTION_RELEASE, KEY, 0);
		}
		side->operations += 2;
	}
	if (side->shared && !registers && ret == 0) {
		ret = reserve_out(client, ACTION_REGISTER, KEY, 0);
	}
	return ret;
}

/* ---- rounds -------------------------------------------------------------------------- */

static int side_run(struct side *side, const struct load_options *options,
		    slice_fn *slice)
{
	uint64_t cpu = side_cpu(side, options);
	uint64_t begun = load_now();

	if (slice(side, options, SLICE) != 0) {
		return -1;
	}
	side->elapsed += load_now() - begun;
	side->server_cpu += side_cpu(side, options) - cpu;
	return 0;
}

static int round_run(struct side *sides, const struct load_options *options,
		     slice_fn *slice, uint32_t round)
{
	uint64_t slices = (uint64_t)(options->seconds * 1e9) / SLICE + 1;
	uint64_t n = 0;
	size_t i = 0;

	sync();
	for (i = 0; i < 2; i++) {
		struct side *side = &sides[(i + round) % 2];

		side->random = round;
		if (side_connect(side, options) != 0 ||
		    side_run(side, options, slice) != 0) {
			return -1;
		}
		side->operations = side->elapsed = side->server_cpu = 0;
	}
	for (n = 0; n < 2 * slices; n++) {
		/* one two, two one */
		if (side_run(&sides[((n + 1) / 2 + round) % 2], options,
			     slice) != 0) {
			return -1;
		}
	}
	for (i = 0; i < 2; i++) {
		side_disconnect(&sides[i], options);
		printf("{\"round\": %u, \"share\": \"%s\", "
		       "\"operations\": %ju, \"ns\": %ju, "
		       "\"server_cpu_ns\": %ju}\n",
		       round, i == 0 ? "disk" : "file",
		       (uintmax_t)sides[i].operations,
		       (uintmax_t)sides[i].elapsed,
		       (uintmax_t)sides[i].server_cpu);
	}
	return 0;
}

/* Every block of a dynamic disk is there before anybody measures. */
static int disk_fill(struct side *side, const struct load_options *options)
{
	struct load_options one = *options;
	uint64_t at = 0;
	uint64_t id = 0;
	int ret = 0;

	one.clients = 1;
	ret = side_connect(side, &one);
	for (at = 0; at < FILE_SIZE && ret == 0; at += PAYLOAD_MAX) {
		ret = client_write(side->clients[0], 0, at, payload,
				   PAYLOAD_MAX, &id);
		if (ret == 0) {
			ret = wait_for(side->clients[0], "filling the disk");
		}
	}
	side_disconnect(side, &one);
	return ret;
}

static slice_fn *slice_of(const char *operation)
{
	if (strcmp(operation, "open") == 0) {
		return slice_open;
	}
	if (strcmp(operation, "reserve") == 0 ||
	    strcmp(operation, "register") == 0) {
		return slice_reserve;
	}
	return slice_transfer;
}

int shared_measure(const struct load_options *options)
{
	struct side sides[2] = {
		{ .target = &options->targets[0], .name = options->image,
		  .shared = true },
		{ .target = &options->targets[1], .name = FILE_NAME },
	};
	uint64_t seed = 7;
	uint32_t round = 0;
	size_t i = 0;
	int fd = -1;
	int ret = 0;

	if (options->size == 0 || options->size > PAYLOAD_MAX ||
	    options->depth == 0 || options->clients == 0 ||
	    options->clients > CLIENTS_MAX || options->image == NULL) {
		fprintf(stderr, "bench: --size, --depth, --clients or --image "
			"is out of range\n");
		return -1;
	}
	payload = malloc(PAYLOAD_MAX);
	fd = load_file(&options->targets[1], FILE_NAME);
	if (payload == NULL || fd == -1) {
		free(payload);
		return -1;
	}
	for (i = 0; i < PAYLOAD_MAX; i++) {
		payload[i] = (uint8_t)load_random(&seed);
	}
	ret = load_fill(fd, 0, FILE_SIZE);
	close(fd);
	if (ret == 0) {
		ret = disk_fill(&sides[0], options);
	}
	for (round = 0; round < options->rounds && ret == 0; round++) {
		ret = round_run(sides, options,
				slice_of(options->operation), round);
	}
	load_unlink(&options->targets[1], FILE_NAME);
	free(payload);
	return ret;
}
