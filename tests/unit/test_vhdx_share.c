/*
 * One disk open in several processes that read, write, unmap, flush, close and
 * open again, while they are killed at random and the disk grows: each reads
 * what the others were told is written, byte for byte.
 *
 * HVRS_LONG=1 does a million operations instead of a few thousand.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <tevent.h>

#include "support/vhdx_model.h"
#include "vhdx/vhdx.h"

#define MIB VHDX_MIB
#define SIZE (8 * MIB)
#define SIZE_MOST (24 * MIB)
#define SECTORS (SIZE / MODEL_SECTOR)
#define REGION 65536U
#define REGIONS (SIZE / REGION)
#define WORKERS 4
#define PARENT_VALUE 1U
#define LENGTH_MOST MIB
#define PATIENCE_US 60000000U

/* What a worker is about: known to the others when it dies. */
struct intent {
	uint64_t offset;
	uint64_t length;	/* 0: nothing that changes the disk */
	uint32_t value;
};

struct shared {
	_Atomic uint64_t ops;
	_Atomic uint32_t next_value;
	_Atomic uint32_t owners[REGIONS];	/* 1 + the worker, or 0 */
	uint32_t values[SECTORS];
	struct intent intents[WORKERS];
	_Atomic uint64_t reads, writes, unmaps, opens;
	_Atomic uint32_t failed;
	char why[256];
};

struct place {
	char folder[64];
	char disk[96], parent[96], share[96];
	enum vhdx_type type;
	bool apart;
	struct shared *shared;
	uint64_t wanted;
};

struct worker {
	const struct place *place;
	unsigned number;
	uint64_t seed;
	TALLOC_CTX *mem_ctx;
	struct tevent_context *ev;
	struct vhdx_share *share;
	struct vhdx *disk;
	uint8_t *bytes;
};

static void complain(struct shared *shared, const char *what, uint64_t at,
		     uint32_t is, uint32_t must)
{
	if (atomic_exchange(&shared->failed, 1) == 0) {
		snprintf(shared->why, sizeof(shared->why),
			 "%s, sector %llu: %u, not %u", what,
			 (unsigned long long)at, is, must);
	}
}

/* ---- the disk ------------------------------------------------------------------ */

static int disk_open(struct worker *w)
{
	struct vhdx_open how = { .writable = true };
	struct vhdx_open alone = { .writable = false };
	struct store *store = NULL;
	const char *why = NULL;
	int ret = 0;

	w->mem_ctx = talloc_new(NULL);
	w->ev = tevent_context_init(w->mem_ctx);
	ret = w->place->apart ?
		vhdx_share_apart_open(w->mem_ctx, w->ev, w->place->share,
				      &w->share) :
		vhdx_share_file_open(w->mem_ctx, w->ev, w->place->share,
				     &w->share);
	if (ret == 0 && w->place->type == VHDX_DIFFERENCING) {
		ret = file_store_open(w->mem_ctx, w->ev, AT_FDCWD,
				      w->place->parent, 0, &store);
		if (ret == 0) {
			ret = vhdx_open(w->mem_ctx, store, &alone,
					&how.parent, &why);
		}
	}
	if (ret == 0) {
		ret = file_store_open(w->mem_ctx, w->ev, AT_FDCWD,
				      w->place->disk, FILE_STORE_WRITE, &store);
	}
	if (ret == 0) {
		how.share = w->share;
		ret = vhdx_open(w->mem_ctx, store, &how, &w->disk, &why);
	}
	return ret;
}

static int disk_close(struct worker *w)
{
	int ret = vhdx_settle(w->disk, w->ev);

	if (ret == 0) {
		ret = vhdx_close(w->disk);
	}
	TALLOC_FREE(w->mem_ctx);
	return ret;
}

/* ---- regions --------------------------------------------------------------------- */

static void regions_lock(struct worker *w, uint64_t offset, uint64_t length)
{
	uint64_t i = 0;

	for (i = offset / REGION; i <= (offset + length - 1) / REGION; i++) {
		_Atomic uint32_t *owner = &w->place->shared->owners[i];
		uint32_t nobody = 0;
		unsigned waited = 0;

		while (!atomic_compare_exchange_strong(owner, &nobody,
						       w->number + 1)) {
			nobody = 0;
			usleep(50);
			waited += 50;
			if (waited > PATIENCE_US) {
				complain(w->place->shared, "no lock", i, 0, 0);
				_exit(1);
			}
		}
	}
}

static void regions_unlock(struct worker *w, uint64_t offset, uint64_t length)
{
	uint64_t i = 0;

	for (i = offset / REGION; i <= (offset + length - 1) / REGION; i++) {
		atomic_store(&w->place->shared->owners[i], 0);
	}
}

/* ---- operations -------------------------------------------------------------------- */

static void op_read(struct worker *w, uint64_t offset, uint64_t length)
{
	struct shared *shared = w->place->shared;
	uint64_t at = 0;
	int ret = vhdx_read(w->disk, w->ev, w->bytes, offset, length);

	if (ret != 0) {
		complain(shared, "read failed", offset, (uint32_t)-ret, 0);
		return;
	}
	for (at = 0; at < length; at += MODEL_SECTOR) {
		uint64_t s = (offset + at) / MODEL_SECTOR;
		uint32_t is = model_value(w->bytes + at, offset + at);

		if (is != shared->values[s]) {
			complain(shared, "read", s, is, shared->values[s]);
		}
	}
	atomic_fetch_add(&shared->reads, 1);
}

static void op_change(struct worker *w, uint64_t offset, uint64_t length,
		      bool unmap, bool through)
{
	struct shared *shared = w->place->shared;
	struct intent *intent = &shared->intents[w->number];
	uint32_t value = unmap ? 0 :
		atomic_fetch_add(&shared->next_value, 1);
	uint64_t s = 0;
	int ret = 0;

	*intent = (struct intent) { offset, length, value };
	atomic_thread_fence(memory_order_seq_cst);
	if (unmap) {
		ret = vhdx_unmap(w->disk, w->ev, offset, length);
	} else {
		model_fill(w->bytes, offset, length, value);
		ret = vhdx_write(w->disk, w->ev, w->bytes, offset, length,
				 through);
	}
	if (ret != 0) {
		complain(shared, "change failed", offset, (uint32_t)-ret, 0);
	}
	for (s = offset / MODEL_SECTOR; s < (offset + length) / MODEL_SECTOR;
	     s++) {
		shared->values[s] = value;
	}
	atomic_thread_fence(memory_order_seq_cst);
	intent->length = 0;
	atomic_fetch_add(unmap ? &shared->unmaps : &shared->writes, 1);
}

static void op(struct worker *w)
{
	uint64_t dice = model_draw(&w->seed) % 1000;
	uint64_t offset = model_draw(&w->seed) % SECTORS * MODEL_SECTOR;
	uint64_t length = (model_draw(&w->seed) % 200 + 1) * MODEL_SECTOR;

	if (dice < 60) {
		offset -= offset % MIB;
		length = MIB;
	}
	if (length > SIZE - offset) {
		length = SIZE - offset;
	}
	if (dice >= 995) {
		if (disk_close(w) != 0 || disk_open(w) != 0) {
			complain(w->place->shared, "not opened", 0, 0, 0);
			_exit(1);
		}
		atomic_fetch_add(&w->place->shared->opens, 1);
		return;
	}
	if (dice >= 950) {
		if (vhdx_flush(w->disk, w->ev) != 0) {
			complain(w->place->shared, "flush", 0, 0, 0);
		}
		return;
	}
	regions_lock(w, offset, length);
	if (dice < 40) {
		op_change(w, offset, length, true, false);
	} else if (dice < 500) {
		op_change(w, offset, length, false, dice % 8 == 0);
	} else {
		op_read(w, offset, length);
	}
	regions_unlock(w, offset, length);
}

static pid_t worker_start(const struct place *place, unsigned number,
			  uint64_t seed)
{
	struct worker w = { .place = place, .number = number, .seed = seed };
	pid_t pid = fork();

	if (pid != 0) {
		return pid;
	}
	/* Locks belong to descriptions, which this would share. */
	close_range(3, ~0U, 0);
	w.bytes = malloc(LENGTH_MOST);
	if (w.bytes == NULL || disk_open(&w) != 0) {
		complain(place->shared, "not opened at first", 0, 0, 0);
		_exit(1);
	}
	while (atomic_fetch_add(&place->shared->ops, 1) < place->wanted &&
	       atomic_load(&place->shared->failed) == 0) {
		op(&w);
	}
	_exit(disk_close(&w) == 0 ? 0 : 1);
}

/* ---- the parent -------------------------------------------------------------------- */

/* What a dead worker was about is old or new, sector by sector, for good. */
static void settle_dead(struct worker *w, unsigned number)
{
	struct shared *shared = w->place->shared;
	struct intent *intent = &shared->intents[number];
	uint64_t at = 0;
	uint64_t i = 0;

	if (vhdx_recover(w->disk, w->ev) != 0) {
		complain(shared, "not recovered", 0, 0, 0);
	}
	if (intent->length > 0) {
		if (vhdx_read(w->disk, w->ev, w->bytes, intent->offset,
			      intent->length) != 0) {
			complain(shared, "read after death", 0, 0, 0);
		}
		for (at = 0; at < intent->length; at += MODEL_SECTOR) {
			uint64_t s = (intent->offset + at) / MODEL_SECTOR;
			uint32_t is = model_value(w->bytes + at,
						  intent->offset + at);

			if (is != shared->values[s] && is != intent->value) {
				complain(shared, "after death", s, is,
					 shared->values[s]);
			}
			shared->values[s] = is;
		}
		intent->length = 0;
	}
	for (i = 0; i < REGIONS; i++) {
		uint32_t owner = number + 1;

		atomic_compare_exchange_strong(&shared->owners[i], &owner, 0);
	}
}

static void make_disk(struct place *place)
{
	struct vhdx_create c = {
		.type = VHDX_DYNAMIC, .size = SIZE, .block_size = MIB,
	};
	struct vhdx_locator_pair path = { "relative_path", "parent.vhdx" };
	TALLOC_CTX *mem_ctx = talloc_new(NULL);
	struct tevent_context *ev = tevent_context_init(mem_ctx);
	struct vhdx_open how = { .writable = true };
	struct store *store = NULL;
	struct vhdx *parent = NULL;
	const char *why = NULL;
	uint8_t *bytes = talloc_size(mem_ctx, SIZE / 2);
	uint64_t s = 0;

	assert_non_null(bytes);
	if (place->type == VHDX_DIFFERENCING) {
		assert_int_equal(file_store_open(
			mem_ctx, ev, AT_FDCWD, place->parent,
			FILE_STORE_CREATE, &store), 0);
		assert_int_equal(vhdx_create(store, &c), 0);
		assert_int_equal(vhdx_open(mem_ctx, store, &how, &parent,
					   &why), 0);
		model_fill(bytes, 0, SIZE / 2, PARENT_VALUE);
		assert_int_equal(vhdx_write(parent, ev, bytes, 0, SIZE / 2,
					    false), 0);
		for (s = 0; s < SECTORS / 2; s++) {
			place->shared->values[s] = PARENT_VALUE;
		}
		assert_int_equal(vhdx_close(parent), 0);
		how.writable = false;
		assert_int_equal(vhdx_open(mem_ctx, store, &how, &parent,
					   &why), 0);
		c = (struct vhdx_create) {
			.type = VHDX_DIFFERENCING, .block_size = MIB,
			.parent = parent, .paths = &path, .path_count = 1,
		};
	}
	assert_int_equal(file_store_open(mem_ctx, ev, AT_FDCWD, place->disk,
					 FILE_STORE_CREATE,
					 &store), 0);
	assert_int_equal(vhdx_create(store, &c), 0);
	if (parent != NULL) {
		assert_int_equal(vhdx_close(parent), 0);
	}
	talloc_free(mem_ctx);
}

static void check_at_the_end(const struct place *place)
{
	struct vhdx_check_result result = {};
	struct worker w = { .place = place, .bytes = malloc(SIZE) };

	assert_non_null(w.bytes);
	assert_int_equal(disk_open(&w), 0);
	op_read(&w, 0, SIZE);
	assert_int_equal(vhdx_check(w.disk, false, NULL, NULL, &result), 0);
	assert_int_equal(result.errors, 0);
	assert_int_equal(disk_close(&w), 0);
	free(w.bytes);
}

static void grow(struct worker *w, uint64_t *_size)
{
	if (*_size < SIZE_MOST && vhdx_settle(w->disk, w->ev) == 0) {
		*_size += MIB;
		if (vhdx_resize(w->disk, *_size, false) != 0) {
			complain(w->place->shared, "resize", 0, 0, 0);
		}
	}
}

static void all(enum vhdx_type type, bool apart)
{
	struct place place = { .type = type, .apart = apart };
	struct worker w = { .place = &place, .number = WORKERS };
	pid_t pids[WORKERS] = {};
	uint64_t seed = 1;
	uint64_t size = SIZE;
	unsigned kills = 0;
	unsigned left = WORKERS;
	unsigned i = 0;

	place.wanted = getenv("HVRS_LONG") != NULL ? 500000 : 3000;
	snprintf(place.folder, sizeof(place.folder), "%s/hvrs-share-XXXXXX",
		 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(place.folder));
	snprintf(place.disk, sizeof(place.disk), "%s/disk.vhdx",
		 place.folder);
	snprintf(place.parent, sizeof(place.parent), "%s/parent.vhdx",
		 place.folder);
	snprintf(place.share, sizeof(place.share), "%s/share", place.folder);
	place.shared = mmap(NULL, sizeof(*place.shared),
			    PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(place.shared != MAP_FAILED);
	atomic_store(&place.shared->next_value, 2);
	make_disk(&place);

	w.bytes = malloc(LENGTH_MOST);
	assert_non_null(w.bytes);
	assert_int_equal(disk_open(&w), 0);
	for (i = 0; i < WORKERS; i++) {
		pids[i] = worker_start(&place, i, seed++);
		assert_true(pids[i] > 0);
	}
	while (left > 0) {
		usleep((useconds_t)(model_draw(&seed) % 20000));
		i = (unsigned)(model_draw(&seed) % WORKERS);
		if (pids[i] > 0) {
			int status = 0;

			if (atomic_load(&place.shared->ops) < place.wanted) {
				kill(pids[i], SIGKILL);
			}
			assert_int_equal(waitpid(pids[i], &status, 0),
					 pids[i]);
			pids[i] = 0;
			left--;
			if (WIFSIGNALED(status)) {
				assert_int_equal(WTERMSIG(status), SIGKILL);
				kills++;
				settle_dead(&w, i);
				pids[i] = worker_start(&place, i, seed++);
				left++;
			} else {
				assert_int_equal(WEXITSTATUS(status), 0);
			}
		}
		if (model_draw(&seed) % 8 == 0) {
			grow(&w, &size);
		}
	}
	assert_int_equal(disk_close(&w), 0);
	free(w.bytes);
	if (atomic_load(&place.shared->failed) != 0) {
		fail_msg("%s", place.shared->why);
	}
	check_at_the_end(&place);
	if (atomic_load(&place.shared->failed) != 0) {
		fail_msg("at the end: %s", place.shared->why);
	}
	print_message("%llu reads, %llu writes, %llu unmaps, %llu opened "
		      "again, %u killed\n",
		      (unsigned long long)place.shared->reads,
		      (unsigned long long)place.shared->writes,
		      (unsigned long long)place.shared->unmaps,
		      (unsigned long long)place.shared->opens, kills);
	assert_true(kills >= 5);
	unlink(place.disk);
	unlink(place.parent);
	unlink(place.share);
	rmdir(place.folder);
	munmap(place.shared, sizeof(*place.shared));
}

static void test_a_dynamic_disk(void **state)
{
	(void)state;
	all(VHDX_DYNAMIC, false);
}

static void test_a_differencing_disk(void **state)
{
	(void)state;
	all(VHDX_DIFFERENCING, false);
}

static void test_a_dynamic_disk_apart(void **state)
{
	(void)state;
	all(VHDX_DYNAMIC, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_dynamic_disk),
		cmocka_unit_test(test_a_differencing_disk),
		cmocka_unit_test(test_a_dynamic_disk_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
