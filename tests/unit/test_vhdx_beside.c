/*
 * Two disks of one process on one file with a share: one opens, reads and
 * closes at every moment of the other's turns.  They share a loop, so whoever
 * waited for the other without it would wait for ever.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <tevent.h>

#include "store/store.h"
#include "support/vhdx_model.h"
#include "vhdx/vhdx.h"

#define MIB VHDX_MIB
#define SIZE (16 * MIB)
#define MOMENTS 60

struct fixture {
	TALLOC_CTX *mem_ctx;
	struct tevent_context *ev;
	struct model *m;
	char folder[64];
	char disk[96];
	char share[96];
	uint8_t bytes[MIB];
};

static struct vhdx *beside_open(struct fixture *f, TALLOC_CTX *mem_ctx)
{
	struct vhdx_open how = { .writable = true };
	struct store *store = NULL;
	struct vhdx *disk = NULL;
	const char *why = NULL;

	assert_int_equal(vhdx_share_file_open(mem_ctx, f->ev, f->share,
					      &how.share), 0);
	assert_int_equal(file_store_open(mem_ctx, f->ev, AT_FDCWD, f->disk,
					 FILE_STORE_WRITE, &store), 0);
	assert_int_equal(vhdx_open(mem_ctx, store, &how, &disk, &why), 0);
	return disk;
}

static int setup(void **state)
{
	struct vhdx_create c = {
		.type = VHDX_DYNAMIC, .size = SIZE, .block_size = MIB,
	};
	struct fixture *f = calloc(1, sizeof(*f));
	struct store *store = NULL;

	f->mem_ctx = talloc_new(NULL);
	f->ev = tevent_context_init(f->mem_ctx);
	f->m = model_new(f->mem_ctx, SIZE);
	snprintf(f->folder, sizeof(f->folder), "/tmp/test_vhdx_beside.XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	snprintf(f->disk, sizeof(f->disk), "%s/disk.vhdx", f->folder);
	snprintf(f->share, sizeof(f->share), "%s/share", f->folder);
	assert_int_equal(file_store_open(f->mem_ctx, f->ev, AT_FDCWD, f->disk,
					 FILE_STORE_CREATE, &store), 0);
	assert_int_equal(vhdx_create(store, &c), 0);
	talloc_free(store);
	/* A test that hangs has failed. */
	alarm(60);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	alarm(0);
	unlink(f->disk);
	unlink(f->share);
	rmdir(f->folder);
	talloc_free(f->mem_ctx);
	free(f);
	return 0;
}

/* A write that makes a block, with so many steps of the loop done. */
static struct tevent_req *begin(struct fixture *f, struct vhdx *disk,
				uint64_t block, uint32_t value, unsigned steps)
{
	struct tevent_req *req = NULL;

	model_fill(f->bytes, block * MIB, sizeof(f->bytes), value);
	model_write(f->m, block * MIB, sizeof(f->bytes), value);
	req = vhdx_write_send(f->mem_ctx, f->ev, disk, f->bytes, block * MIB,
			      sizeof(f->bytes), false);
	assert_non_null(req);
	while (steps-- > 0 && tevent_req_is_in_progress(req)) {
		assert_int_equal(tevent_loop_once(f->ev), 0);
	}
	return req;
}

static void end(struct fixture *f, struct tevent_req *req)
{
	assert_true(tevent_req_poll(req, f->ev));
	assert_int_equal(vhdx_write_recv(req), 0);
	talloc_free(req);
}

static void reread(struct fixture *f)
{
	TALLOC_CTX *frame = talloc_new(f->mem_ctx);
	struct vhdx *disk = beside_open(f, frame);

	model_compare(f->m, disk, f->ev);
	assert_int_equal(vhdx_close(disk), 0);
	talloc_free(frame);
}

static void test_one_opens_in_the_middle_of_the_others_turn(void **state)
{
	struct fixture *f = *state;
	TALLOC_CTX *one_ctx = talloc_new(f->mem_ctx);
	struct vhdx *one = beside_open(f, one_ctx);
	unsigned i = 0;

	for (i = 0; i < MOMENTS; i++) {
		TALLOC_CTX *two_ctx = talloc_new(f->mem_ctx);
		uint64_t block = i % (SIZE / MIB);
		struct tevent_req *req = NULL;
		struct vhdx *two = NULL;

		if (i >= SIZE / MIB) {
			/* So that the block is made anew. */
			assert_int_equal(vhdx_unmap(one, f->ev, block * MIB,
						    MIB), 0);
		}
		req = begin(f, one, block, i + 1, i);
		two = beside_open(f, two_ctx);
		end(f, req);
		model_compare(f->m, two, f->ev);
		/* It takes turns like any other. */
		end(f, begin(f, two, (block + 1) % (SIZE / MIB), i + 100,
			     0));
		model_compare(f->m, one, f->ev);
		assert_int_equal(vhdx_settle(two, f->ev), 0);
		assert_int_equal(vhdx_close(two), 0);
		talloc_free(two_ctx);
	}
	assert_int_equal(vhdx_settle(one, f->ev), 0);
	assert_int_equal(vhdx_close(one), 0);
	talloc_free(one_ctx);
	reread(f);
}

static void test_one_closes_in_the_middle_of_the_others_turn(void **state)
{
	struct fixture *f = *state;
	TALLOC_CTX *one_ctx = talloc_new(f->mem_ctx);
	struct vhdx *one = beside_open(f, one_ctx);
	unsigned i = 0;

	for (i = 0; i < MOMENTS; i++) {
		TALLOC_CTX *two_ctx = talloc_new(f->mem_ctx);
		struct vhdx *two = beside_open(f, two_ctx);
		uint64_t block = i % (SIZE / MIB);
		struct tevent_req *req = NULL;

		if (i >= SIZE / MIB) {
			assert_int_equal(vhdx_unmap(one, f->ev, block * MIB,
						    MIB), 0);
		}
		req = begin(f, one, block, i + 1, i);
		assert_int_equal(vhdx_close(two), 0);
		talloc_free(two_ctx);
		end(f, req);
		model_compare(f->m, one, f->ev);
	}
	assert_int_equal(vhdx_settle(one, f->ev), 0);
	assert_int_equal(vhdx_close(one), 0);
	talloc_free(one_ctx);
	reread(f);
}

/* Another process that does not give the lock back is not waited for. */
static void test_a_lock_that_stays_held_is_not_waited_for_for_ever(
	void **state)
{
	struct fixture *f = *state;
	struct vhdx_share *share = NULL;
	int pipes[2] = {};
	char byte = 0;
	pid_t pid = 0;
	int status = 0;

	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	if (pid == 0) {
		int ret = vhdx_share_file_open(f->mem_ctx, f->ev, f->share,
					       &share);

		if (ret == 0) {
			ret = share->ops->lock_wait(share);
		}
		byte = ret == 0 ? 'y' : 'n';
		(void)!write(pipes[1], &byte, 1);
		pause();
		_exit(1);
	}
	assert_true(pid > 0);
	assert_int_equal(read(pipes[0], &byte, 1), 1);
	assert_int_equal(byte, 'y');
	assert_int_equal(vhdx_share_file_open(f->mem_ctx, f->ev, f->share,
					      &share), -ETIMEDOUT);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(vhdx_share_file_open(f->mem_ctx, f->ev, f->share,
					      &share), 0);
	talloc_free(share);
	close(pipes[0]);
	close(pipes[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_one_opens_in_the_middle_of_the_others_turn, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_one_closes_in_the_middle_of_the_others_turn,
			setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_lock_that_stays_held_is_not_waited_for_for_ever,
			setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
