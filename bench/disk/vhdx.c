/*
 * The VHDX engine, or the bare file under it, by requests of one size, some
 * under way at a time:
 *
 *   bench-vhdx vhdx FILE read|write|through SIZE DEPTH COUNT STEP LENGTH
 *   bench-vhdx raw FILE read|write|through SIZE DEPTH COUNT STEP LENGTH BASE
 *   bench-vhdx open FILE
 *
 * Request i is at i * STEP modulo LENGTH, as that of "qemu-img bench": a step
 * that is no divisor goes everywhere once; in the bare file that many bytes
 * behind BASE.  Prints nanoseconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <tevent.h>

#include "store/store.h"
#include "vhdx/vhdx.h"

#define DEPTH_MAX 256

struct slot {
	struct run *run;
	struct store_io io;
	struct vhdx_io disk_io;
	uint8_t *buffer;
};

struct run {
	TALLOC_CTX *mem_ctx;
	struct tevent_context *ev;
	struct store *store;
	struct vhdx *disk;	/* NULL: the bare file */
	bool writes;
	bool through;
	size_t size;
	uint64_t count, step, length, base;
	uint64_t sent, done;
	int error;
	struct slot slots[DEPTH_MAX];
};

static uint64_t now(void)
{
	struct timespec ts = {};

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void next(struct slot *slot);

static void over(struct slot *slot, int result)
{
	struct run *run = slot->run;

	run->done++;
	if (result != 0 && run->error == 0) {
		run->error = result;
	}
	next(slot);
}

static void on_io(struct store_io *io, int result)
{
	struct slot *slot = io->private_data;

	if (result != 0 || !slot->run->through || io->op == STORE_FLUSH) {
		over(slot, result);
		return;
	}
	io->op = STORE_FLUSH;
	store_submit(slot->run->store, io);
}

static void on_disk(struct vhdx_io *io, int result)
{
	over(io->private_data, result);
}

static void next(struct slot *slot)
{
	struct run *run = slot->run;
	uint64_t at = run->sent * run->step % run->length;

	if (run->sent == run->count || run->error != 0) {
		return;
	}
	run->sent++;
	/* Only what is not as before: to fill it in is nobody's work. */
	if (run->disk == NULL) {
		slot->io.op = run->writes ? STORE_WRITE : STORE_READ;
		slot->io.offset = run->base + at;
		store_submit(run->store, &slot->io);
		return;
	}
	slot->disk_io.offset = at;
	vhdx_submit(run->disk, &slot->disk_io);
}

static int disk_open(struct run *run, const char *path, bool writable)
{
	char folder[4096] = "";
	struct vhdx_chain_files files = { .ev = run->ev };
	struct vhdx_open how = { .writable = writable };
	const char *why = NULL;

	snprintf(folder, sizeof(folder), "%s", path);
	files.root_path = dirname(folder);
	return vhdx_chain_open(run->mem_ctx, &vhdx_chain_files_ops, &files,
			       run->store, path, &how, &run->disk, &why);
}

static int slot_init(struct run *run, struct slot *slot)
{
	slot->run = run;
	slot->buffer = aligned_alloc(4096, run->size);
	if (slot->buffer == NULL) {
		return -ENOMEM;
	}
	memset(slot->buffer, 'h', run->size);
	slot->io = (struct store_io) {
		.buffer = slot->buffer, .length = run->size, .done = on_io,
		.private_data = slot,
	};
	slot->disk_io = (struct vhdx_io) {
		.op = run->writes ? VHDX_WRITE : VHDX_READ,
		.buffer = slot->buffer, .length = run->size,
		.through = run->through, .done = on_disk,
		.private_data = slot,
	};
	return 0;
}

/* Requests up to this number, so many of them under way. */
static int run_to(struct run *run, uint64_t count, unsigned depth)
{
	unsigned i = 0;

	run->count = count;
	for (i = 0; i < depth; i++) {
		next(&run->slots[i]);
	}
	while (run->done < run->sent) {
		if (tevent_loop_once(run->ev) != 0) {
			return -EIO;
		}
	}
	return run->error;
}

static int measure(struct run *run, unsigned depth, bool whole)
{
	uint64_t count = run->count;
	uint64_t begun = 0;
	unsigned i = 0;
	int ret = 0;

	for (i = 0; i < depth; i++) {
		if (slot_init(run, &run->slots[i]) != 0) {
			return -ENOMEM;
		}
	}
	/* The first write makes the session's header stable, once. */
	ret = whole ? 0 : run_to(run, 1, 1);
	if (ret != 0) {
		return ret;
	}
	begun = now();
	ret = run_to(run, count, depth);
	printf("%llu\n", (unsigned long long)(now() - begun));
	return ret;
}

int main(int argc, char **argv)
{
	struct run *run = calloc(1, sizeof(*run));
	bool opens = argc == 3 && strcmp(argv[1], "open") == 0;
	bool raw = argc == 10 && strcmp(argv[1], "raw") == 0;
	bool makes = false;
	unsigned depth = 0;
	uint64_t begun = 0;
	int ret = -EINVAL;

	if (run == NULL || (!opens && !raw && argc != 9)) {
		fprintf(stderr, "bench-vhdx vhdx FILE read|write|through|make SIZE "
			"DEPTH COUNT STEP LENGTH | raw ... BASE | open FILE\n");
		return 2;
	}
	run->mem_ctx = talloc_new(NULL);
	run->ev = tevent_context_init(run->mem_ctx);
	begun = now();
	if (!opens) {
		run->through = strcmp(argv[3], "through") == 0;
		makes = strcmp(argv[3], "make") == 0;
		run->writes = run->through || makes ||
			strcmp(argv[3], "write") == 0;
		run->size = strtoul(argv[4], NULL, 10);
		depth = (unsigned)strtoul(argv[5], NULL, 10);
		run->count = strtoull(argv[6], NULL, 10);
		run->step = strtoull(argv[7], NULL, 10);
		run->length = strtoull(argv[8], NULL, 10);
		run->base = raw ? strtoull(argv[9], NULL, 10) : 0;
		if (run->size == 0 || depth == 0 || depth > DEPTH_MAX ||
		    run->length == 0) {
			fprintf(stderr, "bench-vhdx: a number is of no use\n");
			return 2;
		}
	}
	ret = file_store_open(run->mem_ctx, run->ev, AT_FDCWD, argv[2],
			      run->writes ? FILE_STORE_WRITE : 0,
			      &run->store);
	if (ret == 0 && !raw) {
		ret = disk_open(run, argv[2], run->writes);
	}
	if (ret == 0 && opens) {
		printf("%llu\n", (unsigned long long)(now() - begun));
	} else if (ret == 0) {
		ret = measure(run, depth, makes);
	}
	if (ret == 0 && run->disk != NULL) {
		ret = vhdx_settle(run->disk, run->ev);
		if (ret == 0) {
			ret = vhdx_close(run->disk);
		}
	}
	if (ret != 0) {
		fprintf(stderr, "bench-vhdx: %s: %s\n", argv[2],
			strerror(-ret));
		return 1;
	}
	return 0;
}
