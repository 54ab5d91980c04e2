/*
 * Durable handles: opens and closes, locks, and writes, each as fast as the
 * answers come.  The connections were logged on by somebody else, since
 * libsmb2 does not say that it knows persistent handles.
 */
#include "load.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define WRITES ((uint64_t)64 << 20)	/* the range that is written */
#define PAYLOAD_MAX ((size_t)1 << 20)

/* One connection. */
struct side {
	struct client *client;
	const char *name;
	uint8_t guid[16];
	bool open;
	bool locked;
	uint32_t under_way;
	uint64_t random;
	uint64_t operations;
};

static uint8_t *payload;

static int side_open(struct side *side, const struct load_options *options)
{
	uint64_t id = 0;
	uint64_t word = load_random(&side->random);

	memcpy(side->guid, &word, sizeof(word));
	word = load_random(&side->random);
	memcpy(side->guid + 8, &word, sizeof(word));
	return client_keep(side->client, 0, side->name, side->guid,
			   options->promise, &id);
}

/* The next request; those for an open handle alternate. */
static int side_send(struct side *side, const struct load_options *options)
{
	uint64_t id = 0;
	uint64_t at = 0;

	side->under_way++;
	if (strcmp(options->operation, "open") == 0) {
		return side->open ? client_end(side->client, 0, &id) :
			side_open(side, options);
	}
	if (strcmp(options->operation, "lock") == 0) {
		return client_lock(side->client, 0, 4096, 1, side->locked,
				   &id);
	}
	at = load_random(&side->random) % (WRITES / options->size);
	return client_write(side->client, 0, at * options->size, payload,
			    options->size, &id);
}

/* Takes one answer, which counts where it ends a pair or is a write. */
static int side_receive(struct side *side, const struct load_options *options,
			bool *_counts)
{
	struct client_reply reply = {};

	*_counts = false;
	if (client_next(side->client, &reply) != 0) {
		return -1;
	}
	if (reply.status == CLIENT_PENDING) {
		return 0;
	}
	if (reply.status != CLIENT_SUCCESS) {
		fprintf(stderr, "bench: %s of %s: status 0x%08x\n",
			options->operation, side->name, reply.status);
		return -1;
	}
	side->under_way--;
	if (strcmp(options->operation, "open") == 0) {
		side->open = !side->open;
		*_counts = !side->open;
		if (side->open && client_promise(side->client) !=
		    (int)options->promise) {
			fprintf(stderr, "bench: %s: no such handle\n",
				side->name);
			return -1;
		}
	} else if (strcmp(options->operation, "lock") == 0) {
		side->locked = !side->locked;
		*_counts = !side->locked;
	} else {
		*_counts = reply.length == options->size;
	}
	return 0;
}

/* Takes what has come for one connection, and sends what is next. */
static int side_step(struct side *side, const struct load_options *options,
		     bool more)
{
	bool counts = false;

	do {
		if (side_receive(side, options, &counts) != 0) {
			return -1;
		}
		side->operations += counts;
		while (side->under_way < options->depth &&
		       (more || side->open || side->locked)) {
			if (side_send(side, options) != 0) {
				return -1;
			}
			if (strcmp(options->operation, "write") != 0) {
				break;
			}
		}
	} while (client_has_more(side->client));
	return 0;
}

static int run(struct side *sides, const struct load_options *options)
{
	struct pollfd waits[TARGETS_MAX] = {};
	uint64_t begun = load_now();
	uint64_t until = begun + (uint64_t)(options->seconds * 1e9);
	uint64_t operations = 0;
	bool busy = true;
	size_t i = 0;

	for (i = 0; i < options->count; i++) {
		waits[i].fd = client_socket(sides[i].client);
		waits[i].events = POLLIN;
		while (sides[i].under_way < options->depth) {
			if (side_send(&sides[i], options) != 0) {
				return -1;
			}
		}
	}
	while (busy) {
		if (poll(waits, options->count, 30000) <= 0) {
			fprintf(stderr, "bench: no answer in 30 seconds\n");
			return -1;
		}
		busy = false;
		for (i = 0; i < options->count; i++) {
			if (waits[i].revents != 0 &&
			    side_step(&sides[i], options,
				      load_now() < until) != 0) {
				return -1;
			}
			busy = busy || sides[i].under_way > 0;
		}
	}
	for (i = 0; i < options->count; i++) {
		operations += sides[i].operations;
	}
	printf("{\"operations\": %" PRIu64 ", \"ns\": %" PRIu64 "}\n",
	       operations, load_now() - begun);
	return 0;
}

/* Locks and writes want a handle that is open. */
static int begin(struct side *side, const struct load_options *options)
{
	struct client_reply reply = {};

	if (strcmp(options->operation, "open") == 0) {
		return 0;
	}
	if (side_open(side, options) != 0 ||
	    client_receive(side->client, &reply) != 0 ||
	    reply.status != CLIENT_SUCCESS ||
	    client_promise(side->client) != (int)options->promise) {
		fprintf(stderr, "bench: %s cannot be opened: 0x%08x\n",
			side->name, reply.status);
		return -1;
	}
	return 0;
}

static void end(struct side *side, const struct load_options *options)
{
	struct client_reply reply = {};
	uint64_t id = 0;

	if (strcmp(options->operation, "open") != 0 &&
	    client_end(side->client, 0, &id) == 0) {
		client_receive(side->client, &reply);
	}
}

static int adopt(struct side *side, const struct target *target)
{
	struct client_adopted adopted = {};

	side->name = target->share;
	if (sscanf(target->directory, "%d:%" SCNu32 ":%" SCNu64 ":%" SCNu64,
		   &adopted.fd, &adopted.tree, &adopted.session,
		   &adopted.next_id) != 4) {
		fprintf(stderr, "bench: %s is no connection\n",
			target->directory);
		return -1;
	}
	side->random = load_now() ^ (uint64_t)(uintptr_t)side;
	return client_adopt(&adopted, &side->client);
}

int handles_measure(const struct load_options *options)
{
	struct side sides[TARGETS_MAX] = {};
	uint64_t seed = 7;
	size_t i = 0;
	int ret = 0;

	payload = malloc(PAYLOAD_MAX);
	if (payload == NULL || options->size == 0 ||
	    options->size > PAYLOAD_MAX || options->depth == 0 ||
	    (strcmp(options->operation, "write") != 0 &&
	     options->depth != 1)) {
		fprintf(stderr, "bench: --size or --depth is out of range\n");
		return -1;
	}
	for (i = 0; i < PAYLOAD_MAX; i++) {
		payload[i] = (uint8_t)load_random(&seed);
	}
	for (i = 0; i < options->count && ret == 0; i++) {
		ret = adopt(&sides[i], &options->targets[i]);
		if (ret == 0) {
			ret = begin(&sides[i], options);
		}
	}
	if (ret == 0) {
		ret = run(sides, options);
	}
	for (i = 0; i < options->count; i++) {
		if (sides[i].client != NULL && ret == 0) {
			end(&sides[i], options);
		}
		client_close(sides[i].client);
	}
	free(payload);
	return ret;
}
