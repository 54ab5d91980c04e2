/*
 * The file is written with zeros ahead of what is appended, so that a flush
 * has nothing to do but the data: no block to allocate, no length to note,
 * one flush of the device.  Where the log ends is known to the processes; what
 * one that died has begun to write lies behind the end and is written over.
 *
 * Places are counted on from one log to the next that replaces it: so what is
 * known to be on disk never goes back, and a flush that was begun for a log
 * may end after it was replaced.
 *
 * A process that is stopped or dies in a flush keeps nobody else from going
 * on: the leader is passed by after a while.
 */
#include "state_log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SHARED_MAGIC 0x3453524C48535648ULL
#define LOG_LONG ((uint64_t)16 << 20)
#define LOG_RESERVE ((uint64_t)1 << 20)
#define LEADER_PATIENCE_MS 200
#define REWRITE_PATIENCE_MS 5000
#define GATHER_PROCESSES 64
#define GATHER_RECENT_MS 30
#define GATHER_PART 3		/* of those that are at it */
#define GATHER_MOST_MS 10
#define GATHER_IDLE_MS 3

/* One log: only the other one of the two is ever filled in. */
struct log {
	uint64_t generation;	/* 0: it may not be written */
	uint64_t base;		/* place of its first byte */
	uint64_t end;		/* place behind the last frame */
	uint64_t reserved;	/* place up to which there are blocks */
	uint64_t size;		/* bytes when it was new */
	uint32_t broken;	/* a flush failed */
	uint32_t spare;
};

struct shared {
	uint64_t magic;
	uint64_t synced;	/* place up to which all is on disk */
	uint64_t last_turn;	/* milliseconds, of state_log_turn() */
	uint64_t last_cure;
	uint32_t current;	/* of logs */
	uint32_t turn;		/* futex: grows with every flush */
	uint32_t leader;	/* a thread that flushes */
	uint32_t arrived;	/* who asked since the last flush began */
	struct log logs[2];
	struct state_log_holder holder;	/* of the index; pid 0: none */
	uint64_t asked[GATHER_PROCESSES];	/* milliseconds, by pid */
	struct state_log_place places[STATE_LOG_NODES];
};
_Static_assert(sizeof(struct shared) <= 4096, "one page");

static struct {
	struct shared *shared;
	char *directory;
	char *path;
	int fd;			/* of the log of this generation */
	uint64_t generation;
	pid_t pid;
	pthread_mutex_t mutex;	/* of fd and generation */
} log_state = { .fd = -1, .mutex = PTHREAD_MUTEX_INITIALIZER };

#define LOAD(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)

static struct log *current_log(void)
{
	struct shared *shared = log_state.shared;

	return &shared->logs[LOAD(&shared->current) & 1];
}

static void advance(uint64_t *word, uint64_t to)
{
	uint64_t seen = LOAD(word);

	while (seen < to && !__atomic_compare_exchange_n(
			word, &seen, to, false, __ATOMIC_SEQ_CST,
			__ATOMIC_SEQ_CST)) {
	}
}

int state_log_open(const char *shared, const char *directory,
		   const char *name)
{
	struct shared *map = NULL;
	int fd = -1;

	if (log_state.shared != NULL) {
		return 0;
	}
	if (mkdir(directory, 0700) != 0 && errno != EEXIST) {
		return -errno;
	}
	fd = open(shared, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd == -1) {
		return -errno;
	}
	if (ftruncate(fd, 4096) != 0) {
		int saved = errno;

		close(fd);
		return -saved;
	}
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED) {
		return -errno;
	}
	log_state.directory = strdup(directory);
	if (log_state.directory == NULL ||
	    asprintf(&log_state.path, "%s/%s", directory, name) == -1) {
		return -ENOMEM;
	}
	log_state.shared = map;
	return 0;
}

static int read_all(int fd, uint8_t *out, size_t length)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = pread(fd, out + done, length - done, (off_t)done);

		if (n == 0) {
			return -EIO;
		}
		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int set_aside(void)
{
	char *to = NULL;
	int ret = 0;

	if (asprintf(&to, "%s.damaged-%lld", log_state.path,
		     (long long)time(NULL)) == -1) {
		return -ENOMEM;
	}
	ret = rename(log_state.path, to) == 0 ? -EINVAL : -errno;
	free(to);
	return ret;
}

int state_log_read(TALLOC_CTX *mem_ctx, uint8_t **_log, size_t *_length)
{
	uint64_t generation = 0;
	struct stat st = {};
	uint8_t *log = NULL;
	int fd = open(log_state.path, O_RDONLY | O_CLOEXEC);
	int ret = 0;

	*_log = NULL;
	*_length = 0;
	if (fd == -1) {
		return errno == ENOENT ? 0 : -errno;
	}
	if (fstat(fd, &st) != 0) {
		ret = -errno;
		close(fd);
		return ret;
	}
	log = talloc_array(mem_ctx, uint8_t, (size_t)st.st_size + 1);
	ret = log == NULL ? -ENOMEM :
		read_all(fd, log, (size_t)st.st_size);
	close(fd);
	if (ret == 0) {
		ret = handle_log_header_decode(log, (size_t)st.st_size,
					       &generation);
		if (ret == -EINVAL) {
			ret = set_aside();
		}
	}
	if (ret != 0) {
		TALLOC_FREE(log);
		return ret;
	}
	*_log = log;
	*_length = (size_t)st.st_size;
	return 0;
}

static int write_at(int fd, const uint8_t *bytes, size_t length,
		    uint64_t offset)
{
	while (length > 0) {
		ssize_t n = pwrite(fd, bytes, length, (off_t)offset);

		if (n == 0) {
			return -ENOSPC;
		}
		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		if (n > 0) {
			bytes += n;
			length -= (size_t)n;
			offset += (uint64_t)n;
		}
	}
	return 0;
}

static int write_zeros(int fd, uint64_t offset, uint64_t length)
{
	static const uint8_t zeros[65536];
	int ret = 0;

	while (length > 0 && ret == 0) {
		size_t part = length < sizeof(zeros) ? (size_t)length :
			sizeof(zeros);

		ret = write_at(fd, zeros, part, offset);
		offset += part;
		length -= part;
	}
	return ret;
}

static int sync_directory(void)
{
	int fd = open(log_state.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int ret = 0;

	if (fd == -1) {
		return -errno;
	}
	ret = fsync(fd) == 0 ? 0 : -errno;
	close(fd);
	return ret;
}

/* Of the log that lies there, which other nodes may have read; 0: of none. */
static uint64_t generation_there(void)
{
	uint8_t header[HANDLE_LOG_HEADER] = {};
	uint64_t generation = 0;
	int fd = open(log_state.path, O_RDONLY | O_CLOEXEC);

	if (fd != -1 && (pread(fd, header, sizeof(header), 0) !=
			 sizeof(header) ||
			 handle_log_header_decode(header, sizeof(header),
						  &generation) != 0)) {
		generation = 0;
	}
	if (fd != -1) {
		close(fd);
	}
	return generation;
}

int state_log_rewrite(const uint8_t *frames, size_t length)
{
	struct shared *shared = log_state.shared;
	struct log *old = current_log();
	struct log *log = &shared->logs[(LOAD(&shared->current) & 1) ^ 1];
	uint8_t header[HANDLE_LOG_HEADER] = {};
	uint64_t there = generation_there();
	uint64_t generation = 0;
	uint64_t reserved = 0;
	char *path = NULL;
	int fd = -1;
	int ret = 0;

	if (asprintf(&path, "%s.new", log_state.path) == -1) {
		return -ENOMEM;
	}
	/* Never one that any process of any node has seen before. */
	generation = (uint64_t)time(NULL) << 20;
	if (generation <= old->generation) {
		generation = old->generation + 1;
	}
	if (generation <= log->generation) {
		generation = log->generation + 1;
	}
	if (generation <= there) {
		generation = there + 1;
	}
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd == -1) {
		ret = -errno;
		free(path);
		return ret;
	}
	handle_log_header_encode(generation, header);
	ret = write_at(fd, header, sizeof(header), 0);
	if (ret == 0) {
		ret = write_at(fd, frames, length, sizeof(header));
	}
	/* Where the disk is full, later. */
	if (ret == 0 && write_zeros(fd, sizeof(header) + length,
				    LOG_RESERVE) == 0) {
		reserved = LOG_RESERVE;
	}
	if (ret == 0 && fsync(fd) != 0) {
		ret = -errno;
	}
	close(fd);
	if (ret == 0 && rename(path, log_state.path) != 0) {
		ret = -errno;
	}
	if (ret == 0) {
		ret = sync_directory();
	}
	if (ret != 0) {
		unlink(path);
		free(path);
		return ret;
	}
	free(path);
	/* Who waits for a place in the old one finds it on disk. */
	STORE(&log->generation, generation);
	STORE(&log->base, old->end);
	STORE(&log->end, old->end + sizeof(header) + length);
	STORE(&log->reserved, log->end + reserved);
	STORE(&log->size, sizeof(header) + length);
	STORE(&log->broken, 0);
	STORE(&shared->current, (LOAD(&shared->current) & 1) ^ 1);
	advance(&shared->synced, log->end);
	STORE(&shared->leader, 0);
	STORE(&shared->magic, SHARED_MAGIC);
	return 0;
}

void state_log_disable(void)
{
	if (log_state.shared != NULL) {
		STORE(&current_log()->generation, 0);
	}
}

bool state_log_is_known(void)
{
	return log_state.shared != NULL &&
		LOAD(&log_state.shared->magic) == SHARED_MAGIC;
}

void state_log_hold(uint64_t pid, uint64_t unique)
{
	struct shared *shared = log_state.shared;

	if (shared != NULL) {
		STORE(&shared->holder.unique, unique);
		STORE(&shared->holder.turn, shared->holder.turn + 1);
		STORE(&shared->holder.pid, pid);
	}
}

/* It may be another's by now. */
void state_log_release(uint64_t pid)
{
	struct shared *shared = log_state.shared;

	if (shared != NULL) {
		__atomic_compare_exchange_n(&shared->holder.pid, &pid, 0,
					    false, __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST);
	}
}

bool state_log_holder(struct state_log_holder *_holder)
{
	struct shared *shared = log_state.shared;

	if (shared == NULL) {
		return false;
	}
	_holder->pid = LOAD(&shared->holder.pid);
	_holder->unique = LOAD(&shared->holder.unique);
	_holder->turn = LOAD(&shared->holder.turn);
	return _holder->pid != 0;
}

bool state_log_is_sick(void)
{
	return log_state.shared != NULL &&
		(LOAD(&current_log()->generation) == 0 ||
		 LOAD(&current_log()->broken) != 0);
}

/*
 * An error of the disk, or a log that is not where it was: it has to be
 * written anew.  Not where merely something was short.
 */
static int broken(const struct log *seen, int error)
{
	struct log *now = current_log();

	switch (-error) {
	case ENOSPC:
	case EDQUOT:
	case ENOMEM:
	case EMFILE:
	case ENFILE:
	case EAGAIN:
		return error;
	}
	if (LOAD(&now->generation) == seen->generation) {
		STORE(&now->broken, 1);
	}
	return error;
}

/*
 * A descriptor of a log that is this process' own; the log as it was when the
 * descriptor was right.  -EAGAIN where somebody is about to put a new one there,
 * or has died doing so.
 */
static int log_descriptor(struct log *_log)
{
	struct log *log = current_log();
	struct log seen = {
		.generation = LOAD(&log->generation), .base = LOAD(&log->base),
		.end = LOAD(&log->end), .reserved = LOAD(&log->reserved),
		.broken = LOAD(&log->broken),
	};
	uint8_t header[HANDLE_LOG_HEADER] = {};
	uint64_t found = 0;
	int fd = -1;

	*_log = seen;
	if (log != current_log() || LOAD(&log->generation) != seen.generation) {
		return -EAGAIN;
	}
	if (seen.generation == 0 || seen.broken != 0) {
		return -EIO;
	}
	pthread_mutex_lock(&log_state.mutex);
	if (log_state.fd != -1 && (log_state.generation != seen.generation ||
				   log_state.pid != getpid())) {
		close(log_state.fd);
		log_state.fd = -1;
	}
	if (log_state.fd == -1) {
		fd = open(log_state.path, O_RDWR | O_CLOEXEC);
		if (fd != -1 && (read_all(fd, header, sizeof(header)) != 0 ||
				 handle_log_header_decode(
					header, sizeof(header), &found) != 0 ||
				 found != seen.generation)) {
			close(fd);
			fd = -1;
			errno = log != current_log() ||
				found > seen.generation ? EAGAIN : EIO;
		}
		log_state.fd = fd;
		log_state.generation = seen.generation;
		log_state.pid = getpid();
	}
	fd = log_state.fd == -1 ? -errno : log_state.fd;
	pthread_mutex_unlock(&log_state.mutex);
	return fd < 0 ? broken(&seen, fd) : fd;
}

/* A full disk is found here, before there is half a frame. */
static int reserve(int fd, const struct log *log, uint64_t end)
{
	uint64_t to = end + LOG_RESERVE;
	int ret = 0;

	if (end <= log->reserved) {
		return 0;
	}
	ret = write_zeros(fd, log->reserved - log->base, to - log->reserved);
	if (ret == -ENOSPC || ret == -EDQUOT) {
		/* The last that there is. */
		to = end;
		ret = write_zeros(fd, log->reserved - log->base,
				  to - log->reserved);
	}
	if (ret == 0) {
		STORE(&current_log()->reserved, to);
	}
	return ret;
}

int state_log_append(struct handle_frame *frame,
		     struct state_log_point *_point)
{
	struct shared *shared = log_state.shared;
	struct log log = {};
	size_t size = handle_frame_size(frame->payload.length);
	uint64_t synced = 0;
	uint8_t *bytes = NULL;
	int ret = 0;
	int fd = -1;

	if (shared == NULL) {
		return -EIO;
	}
	fd = log_descriptor(&log);
	if (fd < 0) {
		/* Who else would write it anew?  This one has the index. */
		return fd == -EAGAIN ? broken(&log, -EIO) : fd;
	}
	ret = reserve(fd, &log, log.end + size);
	if (ret != 0) {
		return broken(&log, ret);
	}
	bytes = malloc(size);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	synced = LOAD(&shared->synced);
	frame->synced = synced > log.base ? synced - log.base : 0;
	handle_frame_encode(frame, bytes);
	ret = write_at(fd, bytes, size, log.end - log.base);
	free(bytes);
	if (ret != 0) {
		return broken(&log, ret);
	}
	STORE(&current_log()->end, log.end + size);
	_point->end = log.end + size;
	return 0;
}

/* Room for the largest. */
#define ADOPT_BYTES (HANDLE_RECORD_MAX + ((size_t)1 << 16))

void state_log_adopt(void (*fn)(const struct handle_frame *frame, void *data),
		     void *data)
{
	struct handle_frame frame = {};
	struct log log = {};
	uint8_t mark[HANDLE_FRAME_MARK] = {};
	uint8_t *bytes = NULL;
	ssize_t length = 0;
	size_t at = 0;
	int fd = log_state.shared == NULL ? -1 : log_descriptor(&log);

	if (fd < 0 || pread(fd, mark, sizeof(mark),
			    (off_t)(log.end - log.base)) != sizeof(mark) ||
	    !handle_frame_begins(mark)) {
		return;
	}
	bytes = malloc(ADOPT_BYTES);
	if (bytes != NULL) {
		length = pread(fd, bytes, ADOPT_BYTES,
			       (off_t)(log.end - log.base));
	}
	while (length > 0 &&
	       handle_frame_next(bytes, (size_t)length, &at, &frame) == 0 &&
	       !frame.damaged) {
		STORE(&current_log()->end, log.end + at);
		fn(&frame, data);
	}
	free(bytes);
}

struct state_log_place *state_log_place(uint32_t node)
{
	return log_state.shared == NULL || node >= STATE_LOG_NODES ? NULL :
		&log_state.shared->places[node];
}

bool state_log_is_durable(struct state_log_point point)
{
	return LOAD(&log_state.shared->synced) >= point.end;
}

static void futex_wait(uint32_t *word, uint32_t seen, long milliseconds)
{
	struct timespec wait = {
		.tv_sec = milliseconds / 1000,
		.tv_nsec = milliseconds % 1000 * 1000000,
	};

	syscall(SYS_futex, word, FUTEX_WAIT, seen, &wait, NULL, 0);
}

static int flush(int fd, const struct log *log)
{
	if (fdatasync(fd) != 0) {
		/* The kernel may drop what it failed to write. */
		return broken(log, -EIO);
	}
	advance(&log_state.shared->synced, log->end);
	return 0;
}

static uint64_t clock_ms(void)
{
	struct timespec now = {};

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void arrive(void)
{
	struct shared *shared = log_state.shared;
	size_t slot = (size_t)getpid() % GATHER_PROCESSES;

	STORE(&shared->asked[slot], clock_ms());
	__atomic_add_fetch(&shared->arrived, 1, __ATOMIC_SEQ_CST);
}

/*
 * Where many processes ask again and again, a flush waits until a part of
 * them has; one that would come for a few makes all the others wait.
 */
static void gather(void)
{
	struct shared *shared = log_state.shared;
	struct timespec wait = { .tv_nsec = 1000000 };
	uint64_t now = clock_ms();
	uint32_t active = 0;
	uint32_t seen = 0;
	int idle = 0;
	int i = 0;

	for (i = 0; i < GATHER_PROCESSES; i++) {
		uint64_t asked = LOAD(&shared->asked[i]);

		if (asked <= now && now - asked < GATHER_RECENT_MS) {
			active++;
		}
	}
	for (i = 0; i < GATHER_MOST_MS && idle < GATHER_IDLE_MS &&
	     LOAD(&shared->arrived) < active / GATHER_PART; i++) {
		idle = LOAD(&shared->arrived) == seen ? idle + 1 : 0;
		seen = LOAD(&shared->arrived);
		nanosleep(&wait, NULL);
	}
	STORE(&shared->arrived, 0);
}

/*
 * One try to have all on disk that is in the log now.  While it is written anew
 * it is about to be, unless that takes too long.
 */
static int commit_once(int *waited_ms)
{
	struct timespec wait = { .tv_nsec = 1000000 };
	struct log log = {};
	int fd = log_descriptor(&log);

	if (fd == -EAGAIN && (*waited_ms)++ < REWRITE_PATIENCE_MS) {
		nanosleep(&wait, NULL);
		return 0;
	}
	if (fd == -EAGAIN) {
		return broken(&log, -EIO);
	}
	return fd < 0 ? fd : flush(fd, &log);
}

int state_log_commit(struct state_log_point point)
{
	struct shared *shared = log_state.shared;
	uint32_t me = (uint32_t)syscall(SYS_gettid);
	int patience = 0;
	int waited_ms = 0;
	int ret = 0;

	if (!state_log_is_durable(point)) {
		arrive();
	}
	while (!state_log_is_durable(point)) {
		uint32_t turn = LOAD(&shared->turn);
		uint32_t none = 0;
		bool lead = __atomic_compare_exchange_n(
			&shared->leader, &none, me, false, __ATOMIC_SEQ_CST,
			__ATOMIC_SEQ_CST);

		if (!lead && patience < LEADER_PATIENCE_MS) {
			futex_wait(&shared->turn, turn, 20);
			patience += LOAD(&shared->turn) == turn ? 20 : 0;
			continue;
		}
		if (lead) {
			gather();
		}
		ret = commit_once(&waited_ms);
		/* Where it did not lead: the leader is stopped, dead or slow. */
		none = lead ? me : LOAD(&shared->leader);
		__atomic_compare_exchange_n(&shared->leader, &none, 0, false,
					    __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&shared->turn, 1, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &shared->turn, FUTEX_WAKE, INT32_MAX, NULL,
			NULL, 0);
		if (ret != 0) {
			return state_log_is_durable(point) ? 0 : ret;
		}
	}
	return 0;
}

bool state_log_is_long(void)
{
	const struct log *log = NULL;

	if (log_state.shared == NULL) {
		return false;
	}
	log = current_log();
	return LOAD(&log->generation) != 0 &&
		LOAD(&log->end) - LOAD(&log->base) >
		LOG_LONG + LOAD(&log->size) * 2;
}

static bool turn_of(uint64_t *word, uint64_t now_ms, uint64_t interval_ms)
{
	uint64_t last = LOAD(word);

	if (last <= now_ms && now_ms - last < interval_ms) {
		return false;
	}
	return __atomic_compare_exchange_n(word, &last, now_ms, false,
					   __ATOMIC_SEQ_CST,
					   __ATOMIC_SEQ_CST);
}

bool state_log_turn(uint64_t now_ms, uint64_t interval_ms)
{
	return log_state.shared != NULL &&
		turn_of(&log_state.shared->last_turn, now_ms, interval_ms);
}

bool state_log_cure_turn(uint64_t now_ms, uint64_t interval_ms)
{
	return state_log_is_sick() &&
		turn_of(&log_state.shared->last_cure, now_ms, interval_ms);
}
