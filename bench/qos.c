/*
 * Storage QoS kept by the server: several clients that ask for more than they
 * may have, and what they get each second; a flow with a minimum among those
 * that have none; the latency of a flow below its limit; and what a control
 * request costs ([MS-SQOS] 2.2.2.2).
 */
#include "load.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define FSCTL_STORAGE_QOS_CONTROL 0x00090350
#define REQUEST_SIZE 128
#define OPTION_PROBE 0x04
#define OPTION_STATUS 0x08
#define FILE_SIZE ((uint64_t)8 << 20)
#define PAYLOAD_MAX ((size_t)1 << 20)
#define UNIT 8192
#define CLIENTS_MAX 16
#define DEPTH_MAX 64
#define SECONDS_MAX 600
#define CONTROLS 16
#define LATENCIES_MAX 200000

struct flow {
	struct client *client;
	char name[32];
	uint64_t ids[DEPTH_MAX];
	uint64_t sent[DEPTH_MAX];	/* when; 0: the place is free */
	uint32_t sizes[DEPTH_MAX];
	uint32_t under_way;
	uint64_t random;
	uint64_t per_second[SECONDS_MAX];	/* normalised requests */
	uint32_t size;			/* of each request; 0: of all kinds */
	bool writes;			/* with a size: not reads */
};

static uint8_t *payload;

static void put(uint8_t *bytes, uint64_t value, size_t count)
{
	size_t i = 0;

	for (i = 0; i < count; i++) {
		bytes[i] = (uint8_t)(value >> 8 * i);
	}
}

/* A GUID of a number and a kind; and the one that options say, of text. */
static void number_guid(uint8_t guid[16], uint32_t kind, uint64_t number)
{
	put(guid, number + 1, 8);
	put(guid + 8, kind, 8);
}

static int text_guid(const char *text, uint8_t guid[16])
{
	static const uint8_t order[16] = {
		3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15,
	};
	size_t i = 0;

	for (i = 0; i < 16; i++) {
		unsigned byte = 0;
		int used = 0;

		text += *text == '-';
		if (sscanf(text, "%2x%n", &byte, &used) != 1 || used != 2) {
			fprintf(stderr, "bench: --policy is no GUID\n");
			return -1;
		}
		guid[order[i]] = (uint8_t)byte;
		text += 2;
	}
	return 0;
}

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

struct control {
	uint64_t flow;		/* a number of its own */
	const char *policy;	/* or NULL */
	uint64_t limit, least;
};

static int control_send(struct client *client, const struct control *asked)
{
	uint8_t bytes[REQUEST_SIZE] = { [0] = 0x01, [1] = 0x01 };
	uint64_t id = 0;

	bytes[4] = OPTION_PROBE | OPTION_STATUS;
	number_guid(bytes + 8, (uint32_t)getpid(), asked->flow);
	if (asked->policy != NULL) {
		if (text_guid(asked->policy, bytes + 24) != 0) {
			return -1;
		}
		number_guid(bytes + 40, 7, asked->flow);
	}
	put(bytes + 56, asked->limit, 8);
	put(bytes + 64, asked->least, 8);
	return client_ioctl(client, 0, FSCTL_STORAGE_QOS_CONTROL, bytes,
			    sizeof(bytes), &id);
}

static int control(struct client *client, const struct control *asked)
{
	return control_send(client, asked) != 0 ? -1 :
		wait_for(client, "storage QoS control");
}

/* ---- clients -------------------------------------------------------------------- */

static int flow_open(struct flow *flow, const struct load_options *options,
		     const struct target *target, size_t which)
{
	const char *name = flow->name;
	int fd = -1;
	int ret = 0;

	snprintf(flow->name, sizeof(flow->name), "bench-qos-%zu.bin", which);
	fd = load_file(target, flow->name);
	if (fd == -1) {
		return -1;
	}
	ret = load_fill(fd, 0, FILE_SIZE);
	if (ret == 0 && fdatasync(fd) != 0) {
		ret = -1;
	}
	close(fd);
	flow->random = which + 1;
	return ret != 0 ? ret :
		load_connect(options, target, &name, 1, &flow->client);
}

static void flow_close(struct flow *flow, const struct target *target)
{
	if (flow->client != NULL) {
		client_close(flow->client);
		flow->client = NULL;
	}
	load_unlink(target, flow->name);
}

/* 4 KiB to 1 MiB, half of them reads; or all of one kind. */
static int flow_send(struct flow *flow)
{
	uint64_t dice = load_random(&flow->random);
	uint32_t size = flow->size != 0 ? flow->size :
		4096u << dice / 2 % 9;
	uint64_t place = (dice >> 16) % (FILE_SIZE / size);
	bool write = flow->size != 0 ? flow->writes : dice % 2 == 0;
	uint32_t at = 0;

	while (flow->sent[at] != 0) {
		at++;
	}
	flow->sizes[at] = size;
	flow->sent[at] = load_now();
	flow->under_way++;
	return write ? client_write(flow->client, 0, place * size, payload,
				    size, &flow->ids[at]) :
		client_read(flow->client, 0, place * size, size,
			    &flow->ids[at]);
}

/* The request that was answered: its size, 0 for none yet, and what it took. */
static int flow_next(struct flow *flow, uint32_t *_size, uint64_t *_took)
{
	struct client_reply reply = {};
	uint32_t at = 0;

	*_size = 0;
	if (client_next(flow->client, &reply) != 0) {
		return -1;
	}
	if (reply.status == CLIENT_PENDING) {
		return 0;
	}
	while (at < DEPTH_MAX && (flow->sent[at] == 0 ||
				  flow->ids[at] != reply.id)) {
		at++;
	}
	if (at == DEPTH_MAX || reply.status != CLIENT_SUCCESS) {
		fprintf(stderr, "bench: %s: status 0x%08x\n", flow->name,
			reply.status);
		return -1;
	}
	*_size = flow->sizes[at];
	*_took = load_now() - flow->sent[at];
	flow->sent[at] = 0;
	flow->under_way--;
	return 0;
}

static int flows_wait(struct flow *flows, size_t count, bool *ready)
{
	struct pollfd wait[CLIENTS_MAX] = {};
	bool any = false;
	size_t i = 0;

	for (i = 0; i < count; i++) {
		ready[i] = flows[i].under_way > 0 &&
			client_has_more(flows[i].client);
		any |= ready[i];
		wait[i].fd = flows[i].under_way > 0 ?
			client_socket(flows[i].client) : -1;
		wait[i].events = POLLIN;
	}
	if (any) {
		return 0;
	}
	if (poll(wait, count, 30000) <= 0) {
		fprintf(stderr, "bench: no answer in 30 s\n");
		return -1;
	}
	for (i = 0; i < count; i++) {
		ready[i] = wait[i].revents != 0;
	}
	return 0;
}

/* All keep their queues full for so many seconds, then let them run empty. */
static int flows_run(struct flow *flows, size_t count, uint32_t seconds,
		     uint32_t depth)
{
	uint64_t begun = load_now();
	uint64_t at = 0;
	uint32_t left = 0;
	size_t i = 0;

	do {
		bool ready[CLIENTS_MAX] = {};

		at = (load_now() - begun) / SECOND;
		for (i = 0; i < count && at < seconds; i++) {
			while (flows[i].under_way < depth) {
				if (flow_send(&flows[i]) != 0) {
					return -1;
				}
			}
		}
		if (flows_wait(flows, count, ready) != 0) {
			return -1;
		}
		at = (load_now() - begun) / SECOND;
		for (i = 0, left = 0; i < count; i++) {
			uint32_t size = 0;
			uint64_t took = 0;

			if (ready[i] &&
			    flow_next(&flows[i], &size, &took) != 0) {
				return -1;
			}
			if (at < seconds) {
				flows[i].per_second[at] +=
					(size + UNIT - 1) / UNIT;
			}
			left += flows[i].under_way;
		}
	} while (left > 0 || at < seconds);
	return 0;
}

static void seconds_print(const struct flow *flows, size_t count,
			  uint32_t seconds)
{
	uint32_t at = 0;
	size_t i = 0;

	for (at = 0; at < seconds; at++) {
		uint64_t sum = 0;

		for (i = 1; i < count; i++) {
			sum += flows[i].per_second[at];
		}
		printf("{\"second\": %u, \"first\": %ju, \"others\": %ju}\n",
		       at, (uintmax_t)flows[0].per_second[at],
		       (uintmax_t)sum);
	}
}

/* ---- the measurements -------------------------------------------------------------- */

/* The first seconds are of the burst, and of shares that settle. */
static int flows_measure(struct flow *flows, size_t count, uint32_t seconds,
			 uint32_t depth)
{
	size_t i = 0;

	if (flows_run(flows, count, 3, depth) != 0) {
		return -1;
	}
	for (i = 0; i < count; i++) {
		memset(flows[i].per_second, 0, sizeof(flows[i].per_second));
	}
	return flows_run(flows, count, seconds, depth);
}

/* The first and the others do not wait for each other in one process. */
static int flows_measure_apart(struct flow *flows, size_t count,
			       uint32_t seconds, uint32_t depth)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == -1) {
		return -1;
	}
	if (pid == 0) {
		_exit(flows_measure(flows + 1, count - 1, seconds, depth) == 0
		      ? 0 : 1);
	}
	if (flows_measure(flows, 1, seconds, depth) != 0) {
		status = -1;
	}
	return waitpid(pid, status == 0 ? &status : NULL, 0) == pid &&
		status == 0 ? 0 : -1;
}

/* One aggregated policy and all clients, or a minimum and those without. */
static int measure_rate(const struct load_options *options,
			const struct target *target, bool least)
{
	const size_t room = CLIENTS_MAX * sizeof(struct flow);
	struct flow *flows = mmap(NULL, room, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int (*run)(struct flow *, size_t, uint32_t, uint32_t) =
		least ? flows_measure_apart : flows_measure;
	uint32_t seconds = (uint32_t)options->seconds;
	size_t i = 0;
	int ret = 0;

	if (flows == MAP_FAILED) {
		return -1;
	}

	for (i = 0; i < options->clients && ret == 0; i++) {
		struct control asked = {
			.flow = i,
			.policy = least ? NULL : options->policy,
			.least = least && i == 0 ? options->limit : 0,
		};

		flows[i].size = !least ? 0 : i == 0 ? 4096 : 65536;
		flows[i].writes = true;
		ret = flow_open(&flows[i], options, target, i);
		if (ret == 0) {
			ret = control(flows[i].client, &asked);
		}
	}
	if (ret == 0) {
		ret = run(flows, options->clients, seconds, options->depth);
	}
	if (ret == 0) {
		seconds_print(flows, options->clients, seconds);
	}
	for (i = 0; i < options->clients; i++) {
		flow_close(&flows[i], target);
	}
	munmap(flows, room);
	return ret;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* 4 KiB reads one after another, without and with a flow, in turns. */
static int measure_latency(const struct load_options *options)
{
	uint64_t *took = malloc(LATENCIES_MAX * sizeof(*took));
	uint32_t round = 0;
	int ret = took != NULL ? 0 : -1;

	for (round = 0; round < 2 * options->rounds && ret == 0; round++) {
		bool held = (round + 1) / 2 % 2 == 0;
		const struct target *target = &options->targets[held ? 0 : 1];
		struct control asked = { .limit = options->limit };
		struct flow flow = { .size = 4096 };
		uint64_t until = 0;
		size_t count = 0;

		ret = flow_open(&flow, options, target, 0);
		if (ret == 0 && held) {
			ret = control(flow.client, &asked);
		}
		until = load_now() + (uint64_t)(options->seconds * 1e9);
		while (ret == 0 && load_now() < until &&
		       count < LATENCIES_MAX) {
			uint32_t size = 0;

			ret = flow_send(&flow);
			while (ret == 0 && size == 0) {
				ret = flow_next(&flow, &size, &took[count]);
			}
			count++;
		}
		flow_close(&flow, target);
		if (ret == 0) {
			qsort(took, count, sizeof(*took), compare);
			printf("{\"share\": \"%s\", \"p50_ns\": %ju, "
			       "\"p99_ns\": %ju, \"count\": %zu}\n",
			       held ? "held" : "free",
			       (uintmax_t)took[count / 2],
			       (uintmax_t)took[count * 99 / 100], count);
		}
	}
	free(took);
	return ret;
}

/* Control requests for flows in turn or any of them, or bare round trips. */
enum asked { IN_TURN, ANY, BARE };

static int ask_many(struct client *client, enum asked kind, uint64_t flows,
		    uint64_t requests, uint64_t *random)
{
	const char *what = kind == BARE ? "query" : "storage QoS control";
	uint64_t sent = 0;
	uint64_t done = 0;
	int ret = 0;

	while (done < requests && ret == 0) {
		if (sent < requests && sent - done < CONTROLS) {
			struct control asked = {
				.flow = kind == IN_TURN ? sent :
					load_random(random) % flows,
				.limit = 1000,
			};
			uint64_t id = 0;

			ret = kind == BARE ? client_query(client, 0, &id)
					   : control_send(client, &asked);
			sent++;
		} else {
			ret = wait_for(client, what);
			done++;
		}
	}
	return ret;
}

/*
 * As many flows as --extents, made and asked about; and the bare round trip,
 * which smbd itself costs.  Some are under way at a time, so that what a
 * process costs to wake up is not what is measured.
 */
static int measure_control(const struct load_options *options,
			   const struct target *target)
{
	struct flow flow = {};
	uint64_t random = 1;
	uint32_t round = 0;
	int ret = flow_open(&flow, options, target, 0);

	for (round = 0; round <= options->rounds && ret == 0; round++) {
		uint64_t requests = round == 0 ? options->extents : 2000;
		pid_t server = client_server(flow.client);
		uint64_t cpu = load_cpu(server);
		uint64_t begun = load_now();

		ret = ask_many(flow.client, round == 0 ? IN_TURN : ANY,
			       options->extents, requests, &random);
		cpu = load_cpu(server) - cpu;
		begun = load_now() - begun;
		if (ret != 0) {
			break;
		}
		printf("{\"round\": %u, \"requests\": %ju, \"ns\": %ju, "
		       "\"server_cpu_ns\": %ju", round, (uintmax_t)requests,
		       (uintmax_t)begun, (uintmax_t)cpu);
		cpu = load_cpu(server);
		ret = ask_many(flow.client, BARE, 1, requests, &random);
		printf(", \"trip_cpu_ns\": %ju}\n",
		       (uintmax_t)(load_cpu(server) - cpu));
	}
	flow_close(&flow, target);
	return ret;
}

int qos_measure(const struct load_options *options)
{
	const struct target *target = &options->targets[0];
	int ret = -1;

	if (options->clients == 0 || options->clients > CLIENTS_MAX ||
	    options->depth == 0 || options->depth > DEPTH_MAX ||
	    options->seconds > SECONDS_MAX ||
	    (options->clients < 2 &&
	     strcmp(options->operation, "minimum") == 0)) {
		fprintf(stderr, "bench: --clients, --depth or --seconds is "
			"out of range\n");
		return -1;
	}
	payload = calloc(1, PAYLOAD_MAX);
	if (payload == NULL) {
		return -1;
	}
	if (strcmp(options->operation, "latency") == 0 &&
	    options->count == 2) {
		ret = measure_latency(options);
	} else if (strcmp(options->operation, "control") == 0) {
		ret = measure_control(options, target);
	} else if (strcmp(options->operation, "limit") == 0 &&
		   options->policy != NULL) {
		ret = measure_rate(options, target, false);
	} else if (strcmp(options->operation, "minimum") == 0) {
		ret = measure_rate(options, target, true);
	} else {
		fprintf(stderr, "bench: --operation is none of qos's, or "
			"wants more\n");
	}
	free(payload);
	return ret;
}
