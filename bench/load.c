/*
 * bench-load: the program that measures.  "bench-load --help" tells how.
 */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHUNK ((size_t)1 << 20)
#define EXTENT_MAX ((uint64_t)64 << 10)
#define BLOCK ((uint64_t)4096)

uint64_t load_now(void)
{
	struct timespec now = {};

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

uint64_t load_cpu(pid_t pid)
{
	struct timespec used = {};
	clockid_t clock = 0;

	if (pid < 0 || clock_getcpuclockid(pid, &clock) != 0 ||
	    clock_gettime(clock, &used) != 0) {
		return 0;
	}
	return (uint64_t)used.tv_sec * SECOND + (uint64_t)used.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

uint64_t load_quantile(uint64_t *numbers, size_t count, double share)
{
	qsort(numbers, count, sizeof(numbers[0]), compare);
	return count > 0 ? numbers[(size_t)((double)(count - 1) * share)] : 0;
}

/* splitmix64: one multiply-and-shift chain a number, any seed will do. */
uint64_t load_random(uint64_t *state)
{
	uint64_t z = *state += 0x9E3779B97F4A7C15;

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
	return z ^ (z >> 31);
}

int load_connect(const struct load_options *options,
		 const struct target *target, const char *const *names,
		 size_t count, struct client **_client)
{
	struct client_where where = {
		.user = options->user, .password = options->password,
		.port = options->port, .share = target->share,
		.reading = options->reading,
	};

	return client_open(&where, names, count, _client);
}

static int first_place;

void load_swap(void)
{
	first_place = 1 - first_place;
}

int load_place(pid_t pid, int place)
{
	static cpu_set_t ours;		/* before the first call */
	cpu_set_t one;
	int cpu = -1;

	if (CPU_COUNT(&ours) == 0 &&
	    sched_getaffinity(0, sizeof(ours), &ours) != 0) {
		return -1;
	}
	place = (place + first_place) % CPU_COUNT(&ours);
	do {
		cpu++;
		place -= CPU_ISSET(cpu, &ours) ? 1 : 0;
	} while (place >= 0);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return sched_setaffinity(pid, sizeof(one), &one);
}

int load_connect_apart(const struct load_options *options,
		       const struct target *target, const char *const *names,
		       size_t count, struct client **_client)
{
	if (load_connect(options, target, names, count, _client) != 0) {
		return -1;
	}
	if (load_place(getpid(), LOAD_CLIENT) != 0 ||
	    load_place(client_server(*_client), LOAD_SERVER) != 0) {
		fprintf(stderr, "bench: no processor for the server: %s\n",
			strerror(errno));
		client_close(*_client);
		*_client = NULL;
		return -1;
	}
	return 0;
}

static void file_path(const struct target *target, const char *name,
		      char *path, size_t size)
{
	snprintf(path, size, "%s/%s", target->directory, name);
}

int load_file(const struct target *target, const char *name)
{
	struct stat directory = {};
	char path[512] = {};
	int fd = -1;

	file_path(target, name, path, sizeof(path));
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd == -1 || stat(target->directory, &directory) != 0 ||
	    fchown(fd, directory.st_uid, directory.st_gid) != 0) {
		fprintf(stderr, "bench: %s: %s\n", path, strerror(errno));
		return -1;
	}
	return fd;
}

void load_unlink(const struct target *target, const char *name)
{
	char path[512] = {};

	file_path(target, name, path, sizeof(path));
	unlink(path);
}

int load_fill(int fd, uint64_t offset, uint64_t length)
{
	static uint64_t buffer[CHUNK / sizeof(uint64_t)];
	static uint64_t seed = 1;
	size_t i = 0;

	if (buffer[0] == 0) {
		for (i = 0; i < CHUNK / sizeof(uint64_t); i++) {
			buffer[i] = load_random(&seed);
		}
	}
	while (length > 0) {
		size_t part = length < CHUNK ? (size_t)length : CHUNK;
		ssize_t done = pwrite(fd, buffer, part, (off_t)offset);

		if (done <= 0) {
			fprintf(stderr, "bench: writing: %s\n",
				strerror(errno));
			return -1;
		}
		offset += (uint64_t)done;
		length -= (uint64_t)done;
	}
	return 0;
}

int load_extents(int fd, uint64_t length, uint32_t extents)
{
	uint64_t stride = length / extents / BLOCK * BLOCK;
	uint64_t size = stride / 2 / BLOCK * BLOCK;
	uint32_t i = 0;

	if (size > EXTENT_MAX) {
		size = EXTENT_MAX;
	}
	if (extents > LOAD_MANY) {
		size = BLOCK;
	}
	if (size == 0 || ftruncate(fd, 0) != 0 ||
	    ftruncate(fd, (off_t)length) != 0) {
		fprintf(stderr, "bench: no file of %ju bytes: %s\n",
			(uintmax_t)length, strerror(errno));
		return -1;
	}
	for (i = 0; i < extents; i++) {
		if (load_fill(fd, i * stride, size) != 0) {
			return -1;
		}
	}
	if (fdatasync(fd) != 0) {
		fprintf(stderr, "bench: fdatasync: %s\n", strerror(errno));
		return -1;
	}
	return 0;
}

/* ---- the command line ------------------------------------------------------------ */

static const struct {
	const char *name;
	int (*measure)(const struct load_options *options);
	size_t shares;		/* at least */
} commands[] = {
	{ "io", io_measure, 2 },
	{ "ranges", ranges_measure, 1 },
	{ "beside", beside_measure, 1 },
	{ "shared", shared_measure, 2 },
	{ "qos", qos_measure, 1 },
	{ "handles", handles_measure, 1 },
	{ "offload", offload_measure, 1 },
};

static const char usage[] =
	"usage: bench-load COMMAND [OPTION]... SHARE=DIRECTORY...\n"
	"\n"
	"  io       reads or writes on each share in turns (--operation read,\n"
	"           write; --size, --depth, --random, --seconds, --rounds)\n"
	"  ranges   trim, zero or clone of a range, by the file system and over\n"
	"           SMB in turns (--operation, --length, --extents, --rounds)\n"
	"  beside   4 KiB reads while a range is zeroed on the same connection\n"
	"           (--length, --extents, --rounds)\n"
	"  shared   a shared disk on the first share beside a file on the second\n"
	"           (--image of the disk, --clients, --operation read, write,\n"
	"           reserve, register, open; else as io)\n"
	"  qos      what the server makes of storage QoS (--operation limit,\n"
	"           minimum, latency, control; --policy, --limit, --clients,\n"
	"           --depth, --seconds, --rounds; --extents: flows)\n"
	"  handles  opens, locks and writes of durable handles on connections\n"
	"           that were logged on, NAME=FD:TREE:SESSION:NEXT each, all at\n"
	"           once (--operation open, lock, write; --promise 0 or 2,\n"
	"           --size, --depth, --seconds)\n"
	"  offload  a copy by offload data transfer beside cp (--operation\n"
	"           clone, clone-open, copy), a reader beside it\n"
	"           (reader-clone, reader-copy), and other ways to copy\n"
	"           (ways); --length, --extents, --rounds\n"
	"\n"
	"  --port N --user NAME --password TEXT   of the server on 127.0.0.1\n";

enum {
	ARG_PORT = 1, ARG_USER, ARG_PASSWORD, ARG_OPERATION, ARG_RANDOM,
	ARG_SIZE, ARG_DEPTH, ARG_SECONDS, ARG_ROUNDS, ARG_LENGTH, ARG_EXTENTS,
	ARG_IMAGE, ARG_CLIENTS, ARG_POLICY, ARG_LIMIT,
	ARG_PROMISE, ARG_HELP,
};

static const struct option arguments[] = {
	{ "port", required_argument, NULL, ARG_PORT },
	{ "user", required_argument, NULL, ARG_USER },
	{ "password", required_argument, NULL, ARG_PASSWORD },
	{ "operation", required_argument, NULL, ARG_OPERATION },
	{ "random", no_argument, NULL, ARG_RANDOM },
	{ "size", required_argument, NULL, ARG_SIZE },
	{ "depth", required_argument, NULL, ARG_DEPTH },
	{ "seconds", required_argument, NULL, ARG_SECONDS },
	{ "rounds", required_argument, NULL, ARG_ROUNDS },
	{ "length", required_argument, NULL, ARG_LENGTH },
	{ "extents", required_argument, NULL, ARG_EXTENTS },
	{ "image", required_argument, NULL, ARG_IMAGE },
	{ "clients", required_argument, NULL, ARG_CLIENTS },
	{ "policy", required_argument, NULL, ARG_POLICY },
	{ "limit", required_argument, NULL, ARG_LIMIT },
	{ "promise", required_argument, NULL, ARG_PROMISE },
	{ "help", no_argument, NULL, ARG_HELP },
	{}
};

static int take_argument(struct load_options *options, int which)
{
	switch (which) {
	case ARG_PORT: options->port = atoi(optarg); return 0;
	case ARG_USER: options->user = optarg; return 0;
	case ARG_PASSWORD: options->password = optarg; return 0;
	case ARG_OPERATION: options->operation = optarg; return 0;
	case ARG_IMAGE: options->image = optarg; return 0;
	case ARG_POLICY: options->policy = optarg; return 0;
	case ARG_LIMIT:
		options->limit = strtoull(optarg, NULL, 10);
		return 0;
	case ARG_PROMISE:
		options->promise = (uint32_t)strtoul(optarg, NULL, 10);
		return 0;
	case ARG_CLIENTS:
		options->clients = (uint32_t)strtoul(optarg, NULL, 10);
		return 0;
	case ARG_RANDOM: options->random = true; return 0;
	case ARG_SIZE:
		options->size = (uint32_t)strtoul(optarg, NULL, 10);
		return 0;
	case ARG_DEPTH:
		options->depth = (uint32_t)strtoul(optarg, NULL, 10);
		return 0;
	case ARG_SECONDS: options->seconds = atof(optarg); return 0;
	case ARG_ROUNDS:
		options->rounds = (uint32_t)strtoul(optarg, NULL, 10);
		return 0;
	case ARG_LENGTH:
		options->length = strtoull(optarg, NULL, 10);
		return 0;
	case ARG_EXTENTS:
		options->extents = (uint32_t)strtoul(optarg, NULL, 10);
		return 0;
	}
	return -1;
}

static int take_target(struct load_options *options, char *text)
{
	char *equal = strchr(text, '=');

	if (equal == NULL || options->count == TARGETS_MAX) {
		return -1;
	}
	*equal = '\0';
	options->targets[options->count].share = text;
	options->targets[options->count].directory = equal + 1;
	options->count += 1;
	return 0;
}

int main(int argc, char **argv)
{
	struct load_options options = {
		.user = "hvrs", .password = "hvrs", .port = 1445,
		.operation = "read", .size = 4096, .depth = 1,
		.seconds = 0.5, .rounds = 3, .length = 1 << 20, .extents = 16,
		.clients = 1,
	};
	size_t i = 0;
	int which = 0;

	while ((which = getopt_long(argc, argv, "", arguments, NULL)) != -1) {
		if (take_argument(&options, which) != 0) {
			fputs(usage, which == ARG_HELP ? stdout : stderr);
			return which == ARG_HELP ? 0 : 2;
		}
	}
	if (optind < argc) {
		const char *command = argv[optind++];

		for (; optind < argc; optind++) {
			if (take_target(&options, argv[optind]) != 0) {
				break;
			}
		}
		for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
			if (optind == argc &&
			    strcmp(commands[i].name, command) == 0 &&
			    options.count >= commands[i].shares) {
				return commands[i].measure(&options) == 0 ?
					0 : 1;
			}
		}
	}
	fputs(usage, stderr);
	return 2;
}
