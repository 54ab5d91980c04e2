/*
 * Appending needs no lock: the kernel serialises writes with O_APPEND.  A
 * process that is stopped or dies in the middle of anything here keeps nobody
 * else from going on: the leader of a flush is passed by after a while.
 */
#include "state_log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
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

#define SHARED_MAGIC 0x3153524C48535648ULL
#define LOG_LONG ((uint64_t)16 << 20)
#define LOG_RESERVE ((uint64_t)4 << 20)
#define LEADER_PATIENCE_MS 200

struct shared {
	uint64_t magic;
	uint64_t generation;	/* of the log; 0: none may be written */
	uint64_t synced;	/* bytes of it that are on disk */
	uint64_t size;		/* bytes of it when it was rewritten */
	uint64_t reserved;	/* bytes of it that have blocks on disk */
	uint64_t flushes;
	uint64_t last_turn;	/* milliseconds, of state_log_turn() */
	uint32_t turn;		/* futex: grows with every flush */
	uint32_t leader;	/* a thread that flushes */
	uint32_t broken;	/* a flush or a write failed */
};

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

static void advance(uint64_t *word, uint64_t to)
{
	uint64_t seen = LOAD(word);

	while (seen < to && !__atomic_compare_exchange_n(
			word, &seen, to, false, __ATOMIC_SEQ_CST,
			__ATOMIC_SEQ_CST)) {
	}
}

int state_log_open(const char *shared, const char *directory)
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
	    asprintf(&log_state.path, "%s/handles.log", directory) == -1) {
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

static int write_all(int fd, const uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, bytes, length);

		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		if (n > 0) {
			bytes += n;
			length -= (size_t)n;
		}
	}
	return 0;
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

int state_log_rewrite(const uint8_t *frames, size_t length)
{
	struct shared *shared = log_state.shared;
	uint8_t header[HANDLE_LOG_HEADER] = {};
	uint64_t generation = 0;
	char *path = NULL;
	int fd = -1;
	int ret = 0;

	if (asprintf(&path, "%s.new", log_state.path) == -1) {
		return -ENOMEM;
	}
	/* Never one that any process has seen before. */
	generation = (uint64_t)time(NULL) << 20;
	if (generation <= LOAD(&shared->generation)) {
		generation = LOAD(&shared->generation) + 1;
	}
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd == -1) {
		ret = -errno;
		free(path);
		return ret;
	}
	handle_log_header_encode(generation, header);
	ret = write_all(fd, header, sizeof(header));
	if (ret == 0) {
		ret = write_all(fd, frames, length);
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
	STORE(&shared->magic, SHARED_MAGIC);
	STORE(&shared->size, sizeof(header) + length);
	STORE(&shared->synced, sizeof(header) + length);
	STORE(&shared->reserved, 0);
	STORE(&shared->leader, 0);
	STORE(&shared->broken, 0);
	STORE(&shared->generation, generation);
	return 0;
}

void state_log_disable(void)
{
	if (log_state.shared != NULL) {
		STORE(&log_state.shared->generation, 0);
	}
}

/* A descriptor of the present log that is this process' own. */
static int log_descriptor(uint64_t *_generation)
{
	struct shared *shared = log_state.shared;
	uint64_t generation = LOAD(&shared->generation);
	uint8_t header[HANDLE_LOG_HEADER] = {};
	uint64_t found = 0;
	int fd = -1;

	if (generation == 0 || LOAD(&shared->broken) != 0) {
		return -EIO;
	}
	pthread_mutex_lock(&log_state.mutex);
	if (log_state.fd != -1 && (log_state.generation != generation ||
				   log_state.pid != getpid())) {
		close(log_state.fd);
		log_state.fd = -1;
	}
	if (log_state.fd == -1) {
		fd = open(log_state.path, O_RDWR | O_APPEND | O_CLOEXEC);
		if (fd != -1 && (read_all(fd, header, sizeof(header)) != 0 ||
				 handle_log_header_decode(
					header, sizeof(header), &found) != 0 ||
				 found != generation)) {
			close(fd);
			fd = -1;
			errno = EIO;
		}
		log_state.fd = fd;
		log_state.generation = generation;
		log_state.pid = getpid();
	}
	fd = log_state.fd == -1 ? -errno : log_state.fd;
	pthread_mutex_unlock(&log_state.mutex);
	*_generation = generation;
	return fd;
}

/*
 * Blocks are reserved before they are needed, so that a full disk refuses a
 * frame as a whole instead of half of it.
 */
static int reserve(int fd, size_t size)
{
	struct shared *shared = log_state.shared;
	uint64_t reserved = LOAD(&shared->reserved);
	struct stat st = {};

	if (fstat(fd, &st) != 0) {
		return -errno;
	}
	/* Twice: others append at the same time. */
	if ((uint64_t)st.st_size + LOG_RESERVE / 4 + 2 * size <= reserved) {
		return 0;
	}
	reserved = (uint64_t)st.st_size + LOG_RESERVE + 2 * size;
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)reserved) != 0) {
		if (errno != EOPNOTSUPP && errno != ENOSYS) {
			return -errno;
		}
		reserved = UINT64_MAX;
	}
	advance(&shared->reserved, reserved);
	return 0;
}

int state_log_append(struct handle_frame *frame,
		     struct state_log_point *_point)
{
	struct shared *shared = log_state.shared;
	struct state_log_point point = {};
	size_t size = handle_frame_size(frame->payload.length);
	uint8_t *bytes = NULL;
	ssize_t done = 0;
	int ret = 0;
	int fd = -1;

	if (shared == NULL) {
		return -EIO;
	}
	fd = log_descriptor(&point.generation);
	if (fd < 0) {
		return fd;
	}
	ret = reserve(fd, size);
	if (ret != 0) {
		return ret;
	}
	bytes = malloc(size);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	frame->synced = LOAD(&shared->synced);
	handle_frame_encode(frame, bytes);
	do {
		done = write(fd, bytes, size);
	} while (done == -1 && errno == EINTR);
	free(bytes);
	if (done == -1) {
		return -errno;
	}
	if ((size_t)done != size) {
		/* Half a frame: what follows would lie askew. */
		STORE(&shared->broken, 1);
		return -ENOSPC;
	}
	point.end = (uint64_t)lseek(fd, 0, SEEK_CUR);
	*_point = point;
	return 0;
}

bool state_log_is_durable(struct state_log_point point)
{
	struct shared *shared = log_state.shared;

	/* A newer log holds all that was appended to the one before. */
	return LOAD(&shared->generation) != point.generation ||
		LOAD(&shared->synced) >= point.end;
}

static void futex_wait(uint32_t *word, uint32_t seen, long milliseconds)
{
	struct timespec wait = {
		.tv_sec = milliseconds / 1000,
		.tv_nsec = milliseconds % 1000 * 1000000,
	};

	syscall(SYS_futex, word, FUTEX_WAIT, seen, &wait, NULL, 0);
}

static int flush(int fd)
{
	struct shared *shared = log_state.shared;
	struct stat st = {};

	if (fstat(fd, &st) != 0) {
		return -errno;
	}
	if (fdatasync(fd) != 0) {
		/* The kernel may drop what it failed to write. */
		STORE(&shared->broken, 1);
		return -EIO;
	}
	__atomic_add_fetch(&shared->flushes, 1, __ATOMIC_SEQ_CST);
	advance(&shared->synced, (uint64_t)st.st_size);
	return 0;
}

int state_log_commit(struct state_log_point point)
{
	struct shared *shared = log_state.shared;
	uint32_t me = (uint32_t)syscall(SYS_gettid);
	int patience = 0;
	int ret = 0;

	while (!state_log_is_durable(point)) {
		uint32_t turn = LOAD(&shared->turn);
		uint64_t generation = 0;
		uint32_t none = 0;
		bool lead = __atomic_compare_exchange_n(
			&shared->leader, &none, me, false, __ATOMIC_SEQ_CST,
			__ATOMIC_SEQ_CST);
		int fd = -1;

		if (LOAD(&shared->broken) != 0) {
			if (lead) {
				STORE(&shared->leader, 0);
			}
			return -EIO;
		}
		if (!lead && patience < LEADER_PATIENCE_MS) {
			futex_wait(&shared->turn, turn, 20);
			patience += LOAD(&shared->turn) == turn ? 20 : 0;
			continue;
		}
		fd = log_descriptor(&generation);
		if (fd >= 0 && generation == point.generation) {
			ret = flush(fd);
		} else if (fd < 0) {
			ret = fd;
		}
		if (lead) {
			none = me;
			__atomic_compare_exchange_n(
				&shared->leader, &none, 0, false,
				__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		} else {
			/* Its leader is stopped, dead, or very slow. */
			none = LOAD(&shared->leader);
			__atomic_compare_exchange_n(
				&shared->leader, &none, 0, false,
				__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		}
		__atomic_add_fetch(&shared->turn, 1, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &shared->turn, FUTEX_WAKE, INT32_MAX, NULL,
			NULL, 0);
		if (ret != 0) {
			return ret;
		}
	}
	return 0;
}

uint64_t state_log_flushes(void)
{
	return log_state.shared != NULL ? LOAD(&log_state.shared->flushes) : 0;
}

bool state_log_is_long(void)
{
	struct shared *shared = log_state.shared;
	struct stat st = {};

	return shared != NULL && LOAD(&shared->generation) != 0 &&
		stat(log_state.path, &st) == 0 &&
		(uint64_t)st.st_size > LOG_LONG + LOAD(&shared->size) * 2;
}

bool state_log_turn(uint64_t now_ms, uint64_t interval_ms)
{
	struct shared *shared = log_state.shared;
	uint64_t last = 0;

	if (shared == NULL) {
		return false;
	}
	last = LOAD(&shared->last_turn);
	if (last <= now_ms && now_ms - last < interval_ms) {
		return false;
	}
	return __atomic_compare_exchange_n(&shared->last_turn, &last, now_ms,
					   false, __ATOMIC_SEQ_CST,
					   __ATOMIC_SEQ_CST);
}
