/*
 * A copy by offload data transfer (ODX): beside cp on the same image, in
 * turns; with 4 KiB reads on the same connection; and beside other ways for a
 * client to copy.
 */
#include "load.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FROM_NAME "bench-from.vhdx"
#define TO_NAME "bench-to.vhdx"
#define READ_NAME "bench-read.vhdx"
#define READ_SIZE ((uint64_t)32 << 20)
#define READ_LENGTH 4096u
#define SAMPLES ((size_t)1 << 20)
#define STRETCH ((uint64_t)64 << 20)
#define WHOLE_PART ((uint64_t)256 << 20)
#define CHUNK 1048576u
#define CHUNKS 16u

#define FSCTL_OFFLOAD_READ 0x00094264
#define FSCTL_OFFLOAD_WRITE 0x00098268
#define FSCTL_RESUME_KEY 0x00140078
#define FSCTL_COPYCHUNK 0x001480F2

enum { FROM, TO, READ };

struct bench {
	const struct load_options *options;
	const struct target *target;
	struct client *client;
	bool cold;		/* read from disk, and written to it */
	bool open;		/* somebody could write to the image */
	int from;
	uint64_t random;
	uint64_t *took;		/* of 4 KiB reads; NULL: none are wanted */
	size_t count;
};

static void put32(uint8_t *to, uint32_t value)
{
	size_t i = 0;

	for (i = 0; i < 4; i++) {
		to[i] = (uint8_t)(value >> (8 * i));
	}
}

static void put64(uint8_t *to, uint64_t value)
{
	put32(to, (uint32_t)value);
	put32(to + 4, (uint32_t)(value >> 32));
}

static uint64_t get64(const uint8_t *from)
{
	uint64_t value = 0;
	size_t i = 0;

	for (i = 0; i < 8; i++) {
		value |= (uint64_t)from[i] << (8 * i);
	}
	return value;
}

/* ---- images ---------------------------------------------------------------------- */

/* XFS gives the blocks of a deleted file back later: waits until it has. */
static void wait_for_free(int fd)
{
	struct {
		uint32_t version, flags, uid, gid, prid, pad;
		uint64_t least;
		uint64_t pads[12];
	} request = { .version = 1, .flags = 1 };

	/* XFS_IOC_FREE_EOFBLOCKS; other file systems do not know it. */
	(void)ioctl(fd, _IOR('X', 58, request), &request);
}

/* Data all over, of one part that is written and cloned, in little room. */
static int make_whole(int fd, uint64_t length)
{
	struct file_clone_range range = { .src_fd = fd,
					  .src_length = WHOLE_PART };

	if (ftruncate(fd, 0) != 0 || ftruncate(fd, (off_t)length) != 0 ||
	    load_fill(fd, 0, WHOLE_PART) != 0 || fdatasync(fd) != 0) {
		return -1;
	}
	for (range.dest_offset = WHOLE_PART; range.dest_offset < length;
	     range.dest_offset += WHOLE_PART) {
		if (ioctl(fd, FICLONERANGE, &range) != 0) {
			fprintf(stderr, "bench: a clone: %s\n",
				strerror(errno));
			return -1;
		}
	}
	return fdatasync(fd);
}

/* Data and holes in turns. */
static int make_stretches(int fd, uint64_t length)
{
	uint64_t at = 0;

	if (ftruncate(fd, 0) != 0 || ftruncate(fd, (off_t)length) != 0) {
		return -1;
	}
	for (at = 0; at < length; at += 2 * STRETCH) {
		if (load_fill(fd, at, STRETCH) != 0) {
			return -1;
		}
	}
	return fdatasync(fd);
}

static int open_file(const struct bench *bench, const char *name, int flags)
{
	char path[512] = {};

	snprintf(path, sizeof(path), "%s/%s", bench->target->directory, name);
	return open(path, flags | O_CLOEXEC);
}

static int make_image(struct bench *bench)
{
	uint64_t length = bench->options->length;
	uint32_t extents = bench->options->extents;
	int fd = load_file(bench->target, FROM_NAME);
	int ret = 0;

	if (fd == -1) {
		return -1;
	}
	if (bench->cold) {
		ret = make_stretches(fd, length);
	} else if (extents > 1) {
		ret = load_extents(fd, length, extents);
	} else {
		ret = make_whole(fd, length);
	}
	close(fd);
	bench->from = open_file(bench, FROM_NAME,
				bench->open ? O_RDWR : O_RDONLY);
	return bench->from == -1 ? -1 : ret;
}

/* Nothing of an earlier copy is left or under way. */
static int prepare(struct bench *bench)
{
	load_unlink(bench->target, TO_NAME);
	if (syncfs(bench->from) != 0) {
		return -1;
	}
	wait_for_free(bench->from);
	if (bench->cold) {
		(void)posix_fadvise(bench->from, 0, 0, POSIX_FADV_DONTNEED);
	}
	return 0;
}

/* What is copied is on disk, where that is part of the measurement. */
static int finish(const struct bench *bench)
{
	int fd = -1;
	int ret = 0;

	if (bench->cold) {
		fd = open_file(bench, TO_NAME, O_RDWR);
		ret = fd == -1 ? -1 : fdatasync(fd);
		close(fd);
	}
	return ret;
}

/* The copy has the blocks of the image and, here and there, its bytes. */
static int check(struct bench *bench)
{
	struct stat from = {};
	struct stat to = {};
	uint8_t a[4096] = {};
	uint8_t b[4096] = {};
	uint64_t at = 0;
	int fd = open_file(bench, TO_NAME, O_RDONLY);
	int ret = -1;

	if (fd != -1 && fstat(bench->from, &from) == 0 &&
	    fstat(fd, &to) == 0 && from.st_size == to.st_size) {
		ret = 0;
	}
	if (ret == 0 && !bench->cold && to.st_blocks < from.st_blocks) {
		ret = -1;
	}
	for (at = 0; ret == 0 && at < bench->options->length;
	     at += bench->options->length / 64) {
		if (pread(bench->from, a, sizeof(a), (off_t)at) !=
			    sizeof(a) ||
		    pread(fd, b, sizeof(b), (off_t)at) != sizeof(b) ||
		    memcmp(a, b, sizeof(a)) != 0) {
			ret = -1;
		}
	}
	if (ret != 0) {
		fprintf(stderr, "bench: the copy is not what it should be\n");
	}
	close(fd);
	return ret;
}

/* ---- here ---------------------------------------------------------------------------- */

static int copy_here(struct bench *bench, uint64_t *_elapsed)
{
	extern char **environ;
	char from[512] = {};
	char to[512] = {};
	char cp[] = "cp";
	char how[32] = {};
	char *const words[] = { cp, how, from, to, NULL };
	uint64_t begun = 0;
	pid_t pid = 0;
	int status = 0;

	strcpy(how, bench->cold ? "--sparse=always" : "--reflink=always");
	snprintf(from, sizeof(from), "%s/%s", bench->target->directory,
		 FROM_NAME);
	snprintf(to, sizeof(to), "%s/%s", bench->target->directory, TO_NAME);
	if (prepare(bench) != 0) {
		return -1;
	}
	begun = load_now();
	if (posix_spawnp(&pid, cp, NULL, NULL, words, environ) != 0 ||
	    waitpid(pid, &status, 0) != pid || status != 0 ||
	    finish(bench) != 0) {
		fprintf(stderr, "bench: cp failed\n");
		return -1;
	}
	wait_for_free(bench->from);
	*_elapsed = load_now() - begun;
	return check(bench);
}

/* ---- by offload ---------------------------------------------------------------------- */

static int good(const struct client_reply *reply, const char *what)
{
	if (reply->status != CLIENT_SUCCESS) {
		fprintf(stderr, "bench: %s: status 0x%08x\n", what,
			reply->status);
		return -1;
	}
	return 0;
}

/* One read; tells whether another request was answered meanwhile. */
static int read_once(struct bench *bench, uint64_t wanted, bool *_over)
{
	uint64_t place = load_random(&bench->random) %
		(READ_SIZE / READ_LENGTH) * READ_LENGTH;
	struct client_reply reply = {};
	uint64_t sent = load_now();
	uint64_t id = 0;

	if (bench->count == SAMPLES ||
	    client_read(bench->client, READ, place, READ_LENGTH, &id) != 0) {
		return -1;
	}
	do {
		if (client_receive(bench->client, &reply) != 0 ||
		    good(&reply, "a read or an offload") != 0) {
			return -1;
		}
		*_over = *_over || reply.id == wanted;
	} while (reply.id != id);
	bench->took[bench->count++] = load_now() - sent;
	return 0;
}

/* Waits for a reply, with reads beside where they are wanted. */
static int wait_beside(struct bench *bench, uint64_t wanted)
{
	struct client_reply reply = {};
	bool over = false;

	while (!over && bench->took != NULL) {
		if (read_once(bench, wanted, &over) != 0) {
			return -1;
		}
	}
	while (!over) {
		if (client_receive(bench->client, &reply) != 0 ||
		    good(&reply, "an offload") != 0) {
			return -1;
		}
		over = reply.id == wanted;
	}
	return 0;
}

static int ask(struct bench *bench, size_t file, uint32_t code,
	       const uint8_t *in, uint32_t length, size_t least)
{
	uint64_t id = 0;
	size_t have = 0;

	if (client_ioctl(bench->client, file, code, in, length, &id) != 0 ||
	    wait_beside(bench, id) != 0) {
		return -1;
	}
	client_output(bench->client, &have);
	return have >= least ? 0 : -1;
}

static int copy_offload(struct bench *bench, uint64_t length)
{
	uint8_t read[32] = {};
	uint8_t write[544] = {};
	uint64_t done = 0;
	size_t have = 0;

	while (done < length) {
		uint64_t end = 0;
		const uint8_t *out = NULL;

		put32(read, sizeof(read));
		put64(read + 16, done);
		put64(read + 24, length - done);
		if (ask(bench, FROM, FSCTL_OFFLOAD_READ, read, sizeof(read),
			528) != 0) {
			return -1;
		}
		out = client_output(bench->client, &have);
		end = done + get64(out + 8);
		put32(write, sizeof(write));
		put64(write + 24, 0);
		memcpy(write + 32, out + 16, 512);
		while (done < end) {
			uint64_t part = 0;

			put64(write + 8, done);
			put64(write + 16, end - done);
			if (ask(bench, TO, FSCTL_OFFLOAD_WRITE, write,
				sizeof(write), 16) != 0) {
				return -1;
			}
			part = get64(client_output(bench->client, &have) + 8);
			if (part == 0 || part > end - done) {
				return -1;
			}
			done += part;
			put64(write + 24, get64(write + 24) + part);
		}
	}
	return 0;
}

/* As a client has its target before it asks for a token. */
static int connect_copy(struct bench *bench)
{
	const char *const names[] = { FROM_NAME, TO_NAME, READ_NAME };
	struct load_options options = *bench->options;
	int fd = load_file(bench->target, TO_NAME);
	int ret = fd == -1 ? -1 :
		ftruncate(fd, (off_t)bench->options->length);

	if (fd != -1) {
		close(fd);
	}
	options.reading = 1 << FROM;
	return ret != 0 ? -1 :
		load_connect(&options, bench->target, names,
			     bench->took != NULL ? 3 : 2, &bench->client);
}

/* Whether a process has a file open on a file system. */
static bool is_at(const char *process, dev_t device)
{
	char path[300] = {};
	struct dirent *entry = NULL;
	struct stat st = {};
	DIR *dir = NULL;
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%s/fd", process);
	dir = opendir(path);
	while (dir != NULL && !found && (entry = readdir(dir)) != NULL) {
		found = fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 &&
			S_ISREG(st.st_mode) && st.st_dev == device;
	}
	if (dir != NULL) {
		closedir(dir);
	}
	return found;
}

static bool is_holder(const char *process)
{
	char path[300] = {};
	char name[32] = {};
	FILE *file = NULL;

	snprintf(path, sizeof(path), "/proc/%s/comm", process);
	file = fopen(path, "r");
	if (file != NULL) {
		if (fgets(name, sizeof(name), file) == NULL) {
			name[0] = '\0';
		}
		fclose(file);
	}
	return strcmp(name, "smbd-hvrs\n") == 0;
}

/*
 * Ends the processes that hold tokens of clients that have gone, which would
 * otherwise wait until these are over.  Whether there were any.
 */
static bool end_holders(const struct bench *bench)
{
	struct stat st = {};
	struct dirent *entry = NULL;
	DIR *proc = fstat(bench->from, &st) == 0 ? opendir("/proc") : NULL;
	bool found = false;

	while (proc != NULL && (entry = readdir(proc)) != NULL) {
		if (is_holder(entry->d_name) &&
		    is_at(entry->d_name, st.st_dev)) {
			kill((pid_t)strtol(entry->d_name, NULL, 10), SIGTERM);
			found = true;
		}
	}
	if (proc != NULL) {
		closedir(proc);
	}
	return found;
}

/*
 * Hangs up and waits until the server has let go of everything, pins too.
 * How long that takes.
 */
static int hang_up(struct bench *bench, uint64_t *_elapsed)
{
	pid_t server = client_server(bench->client);
	uint64_t begun = load_now();

	client_close(bench->client);
	bench->client = NULL;
	while (server > 0 && kill(server, 0) == 0) {
		if (load_now() - begun > 60 * SECOND) {
			return -1;
		}
		usleep(200);
	}
	while (end_holders(bench)) {
		usleep(200);
	}
	wait_for_free(bench->from);
	*_elapsed = load_now() - begun;
	return server > 0 ? 0 : -1;
}

/*
 * What a server does when its client is gone counts as far as it is more
 * than for a client that has copied nothing.
 */
static int copy_there(struct bench *bench, uint64_t *_elapsed,
		      uint64_t *_release)
{
	uint64_t idle = 0;
	uint64_t after = 0;
	uint64_t begun = 0;
	uint64_t copied = 0;

	if (prepare(bench) != 0 || connect_copy(bench) != 0 ||
	    hang_up(bench, &idle) != 0 || prepare(bench) != 0 ||
	    connect_copy(bench) != 0) {
		return -1;
	}
	begun = load_now();
	if (copy_offload(bench, bench->options->length) != 0 ||
	    finish(bench) != 0) {
		return -1;
	}
	copied = load_now() - begun;
	if (hang_up(bench, &after) != 0) {
		return -1;
	}
	*_release = after > idle ? after - idle : 0;
	*_elapsed = copied + *_release;
	return check(bench);
}

static int rounds_beside_cp(struct bench *bench)
{
	uint32_t round = 0;

	for (round = 0; round < bench->options->rounds; round++) {
		uint64_t local = 0;
		uint64_t smb = 0;
		uint64_t release = 0;
		size_t i = 0;

		for (i = 0; i < 2; i++) {
			int ret = (round + i) % 2 == 0 ?
				copy_here(bench, &local) :
				copy_there(bench, &smb, &release);

			if (ret != 0) {
				return -1;
			}
		}
		printf("{\"round\": %u, \"local_ns\": %ju, \"smb_ns\": %ju, "
		       "\"release_ns\": %ju}\n", round, (uintmax_t)local,
		       (uintmax_t)smb, (uintmax_t)release);
	}
	return 0;
}

/* ---- a reader beside ------------------------------------------------------------------ */

static int read_alone(struct bench *bench)
{
	uint64_t begun = load_now();
	bool unused = false;

	bench->count = 0;
	while (load_now() - begun < SECOND) {
		if (read_once(bench, UINT64_MAX, &unused) != 0) {
			return -1;
		}
	}
	return 0;
}

static int rounds_reader(struct bench *bench)
{
	uint32_t round = 0;
	int fd = load_file(bench->target, READ_NAME);

	bench->took = calloc(SAMPLES, sizeof(bench->took[0]));
	if (fd == -1 || bench->took == NULL ||
	    load_fill(fd, 0, READ_SIZE) != 0) {
		return -1;
	}
	close(fd);
	for (round = 0; round < bench->options->rounds; round++) {
		uint64_t alone = 0;
		uint64_t unused = 0;

		if (prepare(bench) != 0 || connect_copy(bench) != 0 ||
		    read_alone(bench) != 0) {
			return -1;
		}
		alone = load_quantile(bench->took, bench->count, 0.99);
		bench->count = 0;
		if (copy_offload(bench, bench->options->length) != 0) {
			return -1;
		}
		printf("{\"round\": %u, \"alone_p99_ns\": %ju, "
		       "\"reads\": %zu, \"beside_p99_ns\": %ju",
		       round, (uintmax_t)alone, bench->count,
		       (uintmax_t)load_quantile(bench->took, bench->count,
						0.99));
		printf(", \"beside_max_ns\": %ju}\n",
		       (uintmax_t)load_quantile(bench->took, bench->count,
						1));
		if (hang_up(bench, &unused) != 0 || check(bench) != 0) {
			return -1;
		}
	}
	load_unlink(bench->target, READ_NAME);
	free(bench->took);
	bench->took = NULL;
	return 0;
}

/* ---- other ways to copy ------------------------------------------------------------------ */

static int copy_chunks(struct bench *bench, uint64_t length)
{
	uint8_t in[32 + 24 * CHUNKS] = {};
	uint64_t done = 0;
	size_t have = 0;

	if (ask(bench, FROM, FSCTL_RESUME_KEY, NULL, 0, 24) != 0) {
		return -1;
	}
	memcpy(in, client_output(bench->client, &have), 24);
	while (done < length) {
		uint32_t count = 0;

		while (count < CHUNKS && done < length) {
			uint8_t *chunk = in + 32 + (size_t)24 * count++;

			put64(chunk, done);
			put64(chunk + 8, done);
			put32(chunk + 16, CHUNK);
			done += CHUNK;
		}
		put32(in + 24, count);
		if (ask(bench, TO, FSCTL_COPYCHUNK, in, 32 + 24 * count,
			12) != 0) {
			return -1;
		}
	}
	return 0;
}

/* 1 MiB is read while the one before is written. */
static int copy_through(struct bench *bench, uint64_t length)
{
	uint8_t *buffers = malloc((size_t)2 * CHUNK);
	uint64_t at = 0;
	int ret = buffers == NULL ? -1 : 0;

	for (at = 0; ret == 0 && at <= length; at += CHUNK) {
		size_t half = at / CHUNK % 2;
		struct client_reply reply = {};
		uint64_t id = 0;
		unsigned under_way = 0;

		if (at < length) {
			client_read_into(bench->client, buffers + half * CHUNK);
			ret = client_read(bench->client, FROM, at, CHUNK,
					  &id);
			under_way++;
		}
		if (at > 0 && ret == 0) {
			ret = client_write(bench->client, TO, at - CHUNK,
					   buffers + (1 - half) * CHUNK,
					   CHUNK, &id);
			under_way++;
		}
		while (ret == 0 && under_way-- > 0) {
			ret = client_receive(bench->client, &reply);
			if (ret == 0) {
				ret = reply.length == CHUNK ?
					good(&reply, "a read or a write") : -1;
			}
		}
	}
	free(buffers);
	return ret;
}

static int rounds_ways(struct bench *bench)
{
	static const struct {
		const char *name;
		int (*copy)(struct bench *bench, uint64_t length);
	} ways[] = {
		{ "offload", copy_offload },
		{ "chunk", copy_chunks },
		{ "client", copy_through },
	};
	uint32_t round = 0;

	for (round = 0; round < bench->options->rounds; round++) {
		size_t i = 0;

		printf("{\"round\": %u", round);
		for (i = 0; i < 3; i++) {
			size_t which = (round + i) % 3;
			uint64_t begun = 0;
			uint64_t unused = 0;

			if (prepare(bench) != 0 || connect_copy(bench) != 0) {
				return -1;
			}
			begun = load_now();
			if (ways[which].copy(bench,
					     bench->options->length) != 0) {
				fprintf(stderr, "bench: the copy by %s "
					"failed\n", ways[which].name);
				return -1;
			}
			printf(", \"%s_ns\": %ju", ways[which].name,
			       (uintmax_t)(load_now() - begun));
			if (hang_up(bench, &unused) != 0 ||
			    check(bench) != 0) {
				return -1;
			}
		}
		printf("}\n");
	}
	return 0;
}

int offload_measure(const struct load_options *options)
{
	static const struct {
		const char *name;
		int (*rounds)(struct bench *bench);
		bool cold;
		bool open;
	} kinds[] = {
		{ "clone", rounds_beside_cp, false, false },
		{ "clone-open", rounds_beside_cp, false, true },
		{ "copy", rounds_beside_cp, true, false },
		{ "reader-clone", rounds_reader, false, false },
		{ "reader-copy", rounds_reader, true, false },
		{ "ways", rounds_ways, false, false },
	};
	struct bench bench = { .options = options,
			       .target = &options->targets[0] };
	size_t i = 0;
	int ret = -1;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(kinds[i].name, options->operation) == 0) {
			bench.cold = kinds[i].cold;
			bench.open = kinds[i].open;
			ret = make_image(&bench) != 0 ? -1 :
				kinds[i].rounds(&bench);
		}
	}
	client_close(bench.client);
	load_unlink(bench.target, FROM_NAME);
	load_unlink(bench.target, TO_NAME);
	load_unlink(bench.target, READ_NAME);
	return ret;
}
