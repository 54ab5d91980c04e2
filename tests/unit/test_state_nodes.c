/*
 * What nodes share in a folder: the second node of each test is a process of
 * its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>

/* The room of Samba has no library that would do without Samba. */
#include "../../samba/state_log.c"
#include "../../samba/state_nodes.c"

#define THIS 3
#define OTHER 5

static char folder[] = "/tmp/hvrs-nodes-XXXXXX";
static char shared_file[64];

/* ---- the other node ------------------------------------------------------- */

static int to_other = -1;
static int from_other = -1;
static pid_t other = -1;

static void other_append(uint64_t id, size_t length)
{
	struct handle_frame frame = {
		.kind = HANDLE_FRAME_PUT, .id = id, .revision = 1,
	};
	struct state_log_point point = {};
	uint8_t *bytes = calloc(1, length);

	frame.payload.data = bytes;
	frame.payload.length = length;
	if (state_log_append(&frame, &point) != 0) {
		_exit(1);
	}
	free(bytes);
}

/* Half of a frame, as of a process that dies. */
static void other_tear(void)
{
	struct log *log = current_log();
	uint8_t bytes[HANDLE_FRAME_HEADER + 64] = {};
	uint8_t data[64] = {};
	struct handle_frame frame = {
		.kind = HANDLE_FRAME_PUT, .id = 99, .revision = 1,
		.payload = { .data = data, .length = sizeof(data) },
	};
	int fd = open(log_state.path, O_WRONLY);

	memset(data, 0xFF, sizeof(data));
	handle_frame_encode(&frame, bytes);
	if (pwrite(fd, bytes, HANDLE_FRAME_HEADER + 8,
		   (off_t)(log->end - log->base)) < 0) {
		_exit(1);
	}
	close(fd);
}

/* A new log is where the old one was, and nobody knows yet. */
static void other_renames(void)
{
	uint8_t header[HANDLE_LOG_HEADER] = {};
	char path[128] = "";
	int fd = -1;

	snprintf(path, sizeof(path), "%s.new", log_state.path);
	handle_log_header_encode(current_log()->generation + 1, header);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (write(fd, header, sizeof(header)) != sizeof(header) ||
	    rename(path, log_state.path) != 0) {
		_exit(1);
	}
	close(fd);
	/* As a process that was forked since. */
	close(log_state.fd);
	log_state.fd = -1;
}

static void *other_tells(void *unused)
{
	usleep(100000);
	if (state_log_rewrite((const uint8_t *)"", 0) != 0) {
		_exit(1);
	}
	return unused;
}

/* What is to be on disk, while the log is written anew. */
static char other_commits(void)
{
	struct state_log_point point = {};
	pthread_t thread = 0;
	int ret = 0;

	other_append(7, 100);
	point.end = current_log()->end;
	other_renames();
	if (pthread_create(&thread, NULL, other_tells, NULL) != 0) {
		_exit(1);
	}
	ret = state_log_commit(point);
	pthread_join(thread, NULL);
	return ret == 0 && !state_log_is_sick() ? 'y' : 'n';
}

/* Who wrote it anew is dead: it is to be done again. */
static char other_appends(void)
{
	struct handle_frame frame = { .kind = HANDLE_FRAME_DROP, .id = 7 };
	struct state_log_point point = {};

	other_renames();
	return state_log_append(&frame, &point) == -EIO &&
		state_log_is_sick() ? 'y' : 'n';
}

static void other_main(int in, int out)
{
	char what = 0;

	if (state_log_open(shared_file, folder, "handles-5.log") != 0 ||
	    state_nodes_open(folder, OTHER) != 0) {
		_exit(1);
	}
	while (read(in, &what, 1) == 1) {
		switch (what) {
		case 'n':
			if (state_log_rewrite((const uint8_t *)"", 0) != 0) {
				_exit(1);
			}
			break;
		case 'm':	/* the machine starts again */
			memset(log_state.shared, 0, sizeof(struct shared));
			__attribute__((fallthrough));
		case 's':	/* smbd does */
			state_log_disable();
			if (state_log_rewrite((const uint8_t *)"", 0) != 0) {
				_exit(1);
			}
			break;
		case 'a':
			other_append(7, 100);
			break;
		case 'b':
			other_append(8, 200000);
			break;
		case 't':
			other_tear();
			break;
		case 'c':
			what = other_commits();
			break;
		case 'd':
			what = other_appends();
			break;
		case 'l':
			what = state_nodes_lock() ? 'y' : 'n';
			break;
		case 'u':
			state_nodes_unlock();
			break;
		case 'o':
			what = state_nodes_own(0x123456789) == 0 ? 'y' : 'n';
			break;
		}
		if (write(out, &what, 1) != 1) {
			_exit(1);
		}
	}
	_exit(0);
}

static char ask(char what)
{
	assert_int_equal(1, write(to_other, &what, 1));
	assert_int_equal(1, read(from_other, &what, 1));
	return what;
}

static void end_other(void)
{
	if (other != -1) {
		kill(other, SIGKILL);
		waitpid(other, NULL, 0);
		close(to_other);
		close(from_other);
		other = -1;
	}
}

static int setup(void **state)
{
	int in[2] = {};
	int out[2] = {};

	(void)state;
	if (pipe(in) != 0 || pipe(out) != 0) {
		return -1;
	}
	other = fork();
	if (other == 0) {
		/* Nothing of this node's is its. */
		nodes.here = false;
		nodes.fd = -1;
		log_state.shared = NULL;
		snprintf(shared_file, sizeof(shared_file), "%s/shared-5",
			 folder);
		close(in[1]);
		close(out[0]);
		other_main(in[0], out[1]);
	}
	close(in[0]);
	close(out[1]);
	to_other = in[1];
	from_other = out[0];
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	end_other();
	return 0;
}

/* ---- what is read ------------------------------------------------------------ */

static struct {
	int whole;
	int frames;
	uint64_t last;
} seen;

static bool see_whole(uint32_t node, const uint8_t *log, size_t length,
		      size_t *_end, void *data)
{
	struct handle_replay *replay = NULL;
	struct handle_replay_counts counts = {};

	(void)data;
	assert_int_equal(OTHER, node);
	assert_int_equal(0, handle_replay(NULL, log, length, &replay));
	handle_replay_counts(replay, &counts);
	*_end = counts.end;
	TALLOC_FREE(replay);
	seen.whole++;
	return true;
}

static void see_frame(uint32_t node, const struct handle_frame *frame,
		      void *data)
{
	(void)data;
	assert_int_equal(OTHER, node);
	seen.frames++;
	seen.last = frame->id;
}

static void read_on(void)
{
	static const struct state_nodes_reader reader = {
		.whole = see_whole, .frame = see_frame,
	};

	memset(&seen, 0, sizeof(seen));
	state_nodes_read(&reader);
}

static void test_appended_frames_are_read_once(void **state)
{
	(void)state;
	ask('n');
	assert_true(state_nodes_news());
	read_on();
	assert_int_equal(1, seen.whole);
	assert_false(state_nodes_news());
	ask('a');
	assert_true(state_nodes_news());
	read_on();
	assert_int_equal(0, seen.whole);
	assert_int_equal(1, seen.frames);
	assert_int_equal(7, seen.last);
	assert_false(state_nodes_news());
	ask('a');
	ask('b');
	ask('a');
	read_on();
	assert_int_equal(3, seen.frames);
	assert_false(state_nodes_news());
}

static void test_a_log_written_anew_is_read_whole(void **state)
{
	(void)state;
	ask('n');
	ask('a');
	read_on();
	assert_int_equal(1, seen.whole);
	assert_false(state_nodes_news());
	ask('n');
	assert_true(state_nodes_news());
	read_on();
	assert_int_equal(1, seen.whole);
	ask('b');
	read_on();
	assert_int_equal(1, seen.frames);
	assert_int_equal(8, seen.last);
}

/* However soon: the time of day has not gone on. */
static void test_a_log_after_a_start_is_another(void **state)
{
	const char starts[] = "smssmm";
	size_t i = 0;

	(void)state;
	ask('n');
	ask('a');
	read_on();
	for (i = 0; starts[i] != '\0'; i++) {
		ask(starts[i]);
		assert_true(state_nodes_news());
		read_on();
		assert_int_equal(1, seen.whole);
		assert_int_equal(0, seen.frames);
		ask('a');
		read_on();
		assert_int_equal(0, seen.whole);
		assert_int_equal(1, seen.frames);
	}
}

static void test_a_flush_waits_for_a_log_that_is_written_anew(void **state)
{
	(void)state;
	ask('n');
	assert_int_equal('y', ask('c'));
	/* It is whole behind that. */
	ask('a');
	assert_int_equal('y', ask('d'));
	ask('n');
	read_on();
	ask('a');
	read_on();
	assert_int_equal(1, seen.frames);
}

static void test_half_a_frame_is_not_read(void **state)
{
	(void)state;
	ask('n');
	read_on();
	ask('t');
	read_on();
	assert_int_equal(0, seen.frames);
	/* The next process of that node writes over it. */
	ask('a');
	read_on();
	assert_int_equal(1, seen.frames);
	assert_int_equal(7, seen.last);
}

static void adopted(const struct handle_frame *frame, void *data)
{
	(void)data;
	seen.frames++;
	seen.last = frame->id;
}

static void test_what_a_process_left_behind_the_end_is_adopted(void **state)
{
	struct handle_frame frame = {
		.kind = HANDLE_FRAME_PUT, .id = 11, .revision = 1,
	};
	struct state_log_point point = {};
	uint64_t before = 0;

	(void)state;
	assert_int_equal(0, state_log_rewrite((const uint8_t *)"", 0));
	before = current_log()->end;
	assert_int_equal(0, state_log_append(&frame, &point));
	/* As if it had died before it could say so. */
	current_log()->end = before;
	memset(&seen, 0, sizeof(seen));
	state_log_adopt(adopted, NULL);
	assert_int_equal(1, seen.frames);
	assert_int_equal(11, seen.last);
	assert_int_equal(point.end, current_log()->end);
	memset(&seen, 0, sizeof(seen));
	state_log_adopt(adopted, NULL);
	assert_int_equal(0, seen.frames);
}

/* ---- locks ---------------------------------------------------------------------- */

static void test_a_lock_tells_of_a_process_until_it_ends(void **state)
{
	(void)state;
	assert_false(state_nodes_owned(0x123456789));
	assert_int_equal('y', ask('o'));
	assert_true(state_nodes_owned(0x123456789));
	assert_false(state_nodes_owned(0x987654321));
	end_other();
	assert_false(state_nodes_owned(0x123456789));
}

static void test_one_has_the_lock_of_places(void **state)
{
	(void)state;
	assert_int_equal('y', ask('l'));
	assert_false(state_nodes_lock());
	ask('u');
	assert_true(state_nodes_lock());
	assert_int_equal('n', ask('l'));
	state_nodes_unlock();
	assert_int_equal('y', ask('l'));
	end_other();
	assert_true(state_nodes_lock());
	state_nodes_unlock();
}

static void test_a_node_is_given_up_once(void **state)
{
	uint64_t times = 9;

	(void)state;
	assert_true(state_nodes_given_up(OTHER, &times));
	assert_int_equal(0, times);
	assert_int_equal(0, state_nodes_give_up(OTHER, 0));
	assert_int_equal(-EEXIST, state_nodes_give_up(OTHER, 0));
	assert_true(state_nodes_given_up(OTHER, &times));
	assert_int_equal(1, times);
	assert_true(state_nodes_given_up(THIS, &times));
	assert_int_equal(0, times);
}

static void test_the_folder_keeps_its_name(void **state)
{
	uint8_t id[16] = {};
	uint8_t again[16] = {};

	(void)state;
	assert_int_equal(0, state_nodes_folder(id));
	/* Nobody waits for a lock to read it: a node that starts does. */
	assert_int_equal('y', ask('l'));
	assert_int_equal(0, state_nodes_folder(again));
	assert_memory_equal(id, again, 16);
	ask('u');
	assert_int_equal(1ULL << THIS | 1ULL << OTHER, state_nodes_all());
}

static int begin(void **state)
{
	(void)state;
	if (mkdtemp(folder) == NULL) {
		return -1;
	}
	snprintf(shared_file, sizeof(shared_file), "%s/shared-3", folder);
	return state_log_open(shared_file, folder, "handles-3.log") != 0 ||
		state_nodes_open(folder, THIS) != 0;
}

static int finish(void **state)
{
	static const char *const names[] = {
		"nodes", "handles-3.log", "handles-5.log", "shared-3",
		"shared-5",
	};
	char path[128] = "";
	size_t i = 0;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		unlink(path);
	}
	return rmdir(folder);
}

int main(void)
{
#define ROW(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		ROW(test_appended_frames_are_read_once),
		ROW(test_a_log_written_anew_is_read_whole),
		ROW(test_a_log_after_a_start_is_another),
		ROW(test_a_flush_waits_for_a_log_that_is_written_anew),
		ROW(test_half_a_frame_is_not_read),
		ROW(test_what_a_process_left_behind_the_end_is_adopted),
		ROW(test_a_lock_tells_of_a_process_until_it_ends),
		ROW(test_one_has_the_lock_of_places),
		ROW(test_a_node_is_given_up_once),
		ROW(test_the_folder_keeps_its_name),
	};

	return cmocka_run_group_tests(tests, begin, finish);
}
