/*
 * One small file, "nodes": a byte for each node, a number for each node, the
 * folder's name.  Behind them, where no byte ever lies, are the places of the
 * locks.  It stays open to the end of the process: closing any descriptor of
 * it would let go of the locks.
 */
#include "state_nodes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <talloc.h>

#define AT_NODES 0
#define AT_TIMES 64
#define AT_FOLDER 1024
#define LOCK_PLACES 4096
#define LOCK_OWNERS 8192
#define LOCK_WAIT_MS 1000
#define CHUNK ((size_t)1 << 16)

static struct {
	bool here;
	uint32_t me;
	int fd;
	char *directory;
} nodes = { .fd = -1 };

/* A descriptor of the log of another node, and which one it is. */
static struct {
	int fd;
	uint64_t generation;
} logs[STATE_LOG_NODES];

static off_t owner_place(uint64_t unique)
{
	return (off_t)(LOCK_OWNERS + (unique >> 2));
}

static int lock_at(off_t place, short type)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = place,
		.l_len = 1,
	};

	return fcntl(nodes.fd, F_SETLK, &lock) == 0 ? 0 : -errno;
}

int state_nodes_open(const char *directory, uint32_t me)
{
	const uint8_t one = 1;
	char *path = NULL;
	size_t i = 0;

	if (nodes.here) {
		return 0;
	}
	if (me >= STATE_LOG_NODES) {
		return -ERANGE;
	}
	if (mkdir(directory, 0700) != 0 && errno != EEXIST) {
		return -errno;
	}
	nodes.directory = strdup(directory);
	if (nodes.directory == NULL ||
	    asprintf(&path, "%s/nodes", directory) == -1) {
		return -ENOMEM;
	}
	nodes.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	free(path);
	if (nodes.fd == -1) {
		return -errno;
	}
	if (pwrite(nodes.fd, &one, 1, AT_NODES + me) != 1) {
		return -EIO;
	}
	for (i = 0; i < STATE_LOG_NODES; i++) {
		logs[i].fd = -1;
	}
	nodes.me = me;
	nodes.here = true;
	return 0;
}

bool state_nodes_here(uint32_t *_me)
{
	if (_me != NULL) {
		*_me = nodes.me;
	}
	return nodes.here;
}

uint64_t state_nodes_all(void)
{
	uint8_t there[STATE_LOG_NODES] = {};
	uint64_t all = 0;
	size_t i = 0;

	if (!nodes.here ||
	    pread(nodes.fd, there, sizeof(there), AT_NODES) < 0) {
		return 0;
	}
	for (i = 0; i < STATE_LOG_NODES; i++) {
		all |= there[i] != 0 ? 1ULL << i : 0;
	}
	return all;
}

int state_nodes_folder(uint8_t _id[16])
{
	static const uint8_t none[16];
	int ret = 0;

	if (!nodes.here) {
		return -EINVAL;
	}
	/* The first node gives it, and it stays. */
	if (pread(nodes.fd, _id, 16, AT_FOLDER) == 16 &&
	    memcmp(_id, none, 16) != 0) {
		return 0;
	}
	if (!state_nodes_lock()) {
		return -EAGAIN;
	}
	memset(_id, 0, 16);
	if (pread(nodes.fd, _id, 16, AT_FOLDER) < 0) {
		ret = -errno;
	} else if (memcmp(_id, none, 16) == 0 &&
		   (getrandom(_id, 16, 0) != 16 ||
		    pwrite(nodes.fd, _id, 16, AT_FOLDER) != 16)) {
		ret = -EIO;
	}
	state_nodes_unlock();
	return ret;
}

int state_nodes_own(uint64_t unique)
{
	static uint64_t owned;
	static pid_t owner;
	int ret = 0;

	if (!nodes.here) {
		return -EINVAL;
	}
	if (owned == unique && owner == getpid()) {
		return 0;
	}
	ret = lock_at(owner_place(unique), F_WRLCK);
	if (ret == 0) {
		owned = unique;
		owner = getpid();
	}
	return ret;
}

bool state_nodes_owned(uint64_t unique)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET,
		.l_start = owner_place(unique), .l_len = 1,
	};

	return !nodes.here || fcntl(nodes.fd, F_GETLK, &lock) != 0 ||
		lock.l_type != F_UNLCK;
}

bool state_nodes_lock(void)
{
	int ret = -EAGAIN;
	int i = 0;

	for (i = 0; i < LOCK_WAIT_MS && ret != 0; i++) {
		ret = lock_at(LOCK_PLACES, F_WRLCK);
		if (ret != 0 && ret != -EAGAIN && ret != -EACCES) {
			return false;
		}
		if (ret != 0) {
			usleep(1000);
		}
	}
	return ret == 0;
}

void state_nodes_unlock(void)
{
	lock_at(LOCK_PLACES, F_UNLCK);
}

bool state_nodes_given_up(uint32_t node, uint64_t *_times)
{
	uint64_t times = 0;
	ssize_t n = 0;

	if (!nodes.here || node >= STATE_LOG_NODES) {
		return false;
	}
	n = pread(nodes.fd, &times, sizeof(times),
		  (off_t)(AT_TIMES + node * sizeof(times)));
	*_times = n == sizeof(times) ? times : 0;
	return n >= 0;
}

int state_nodes_give_up(uint32_t node, uint64_t seen)
{
	uint64_t times = 0;
	int ret = 0;

	if (!state_nodes_lock()) {
		return -EAGAIN;
	}
	if (!state_nodes_given_up(node, &times)) {
		ret = -EIO;
	} else if (times != seen) {
		ret = -EEXIST;
	} else {
		times++;
		if (pwrite(nodes.fd, &times, sizeof(times), (off_t)
			   (AT_TIMES + node * sizeof(times))) !=
		    sizeof(times)) {
			ret = -EIO;
		}
	}
	state_nodes_unlock();
	return ret;
}

/* ---- the logs of the others -------------------------------------------------- */

void state_nodes_log_name(uint32_t node, char _name[32])
{
	snprintf(_name, 32, "handles-%u.log", node);
}

static void log_close(uint32_t node)
{
	if (logs[node].fd != -1) {
		close(logs[node].fd);
	}
	logs[node].fd = -1;
	logs[node].generation = 0;
}

/* Whether the open log of a node is the one that lies there now. */
static bool log_is_there(uint32_t node)
{
	struct stat st = {};

	return logs[node].fd != -1 && fstat(logs[node].fd, &st) == 0 &&
		st.st_nlink > 0;
}

/* The log that lies there now; false where there is none. */
static bool log_open(uint32_t node)
{
	uint8_t header[HANDLE_LOG_HEADER] = {};
	char name[32] = "";
	char *path = NULL;

	if (log_is_there(node)) {
		return true;
	}
	log_close(node);
	state_nodes_log_name(node, name);
	if (asprintf(&path, "%s/%s", nodes.directory, name) == -1) {
		return false;
	}
	logs[node].fd = open(path, O_RDONLY | O_CLOEXEC);
	free(path);
	if (logs[node].fd == -1) {
		return false;
	}
	if (pread(logs[node].fd, header, sizeof(header), 0) !=
	    sizeof(header) ||
	    handle_log_header_decode(header, sizeof(header),
				     &logs[node].generation) != 0) {
		log_close(node);
		return false;
	}
	return true;
}

/* With open_it, opens a log that is another one now; that takes root. */
static bool log_news(uint32_t node, bool open_it)
{
	const struct state_log_place *place = state_log_place(node);
	uint8_t mark[HANDLE_FRAME_MARK] = {};
	uint64_t offset = 0;

	if (place == NULL || (open_it && !log_open(node))) {
		return false;
	}
	if (!open_it && !log_is_there(node)) {
		return true;
	}
	offset = __atomic_load_n(&place->offset, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&place->generation, __ATOMIC_SEQ_CST) !=
	    logs[node].generation) {
		return true;
	}
	return pread(logs[node].fd, mark, sizeof(mark), (off_t)offset) ==
		sizeof(mark) && handle_frame_begins(mark);
}

bool state_nodes_news(void)
{
	uint64_t others = state_nodes_all() & ~(1ULL << nodes.me);
	uint32_t i = 0;

	for (i = 0; others != 0 && i < STATE_LOG_NODES; i++) {
		if ((others & 1ULL << i) != 0 && log_news(i, false)) {
			return true;
		}
	}
	return false;
}

static void place_set(uint32_t node, uint64_t generation, uint64_t offset)
{
	struct state_log_place *place = state_log_place(node);

	/* Who looks without the lock finds news where they do not match. */
	__atomic_store_n(&place->generation, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&place->offset, offset, __ATOMIC_SEQ_CST);
	__atomic_store_n(&place->generation, generation, __ATOMIC_SEQ_CST);
}

static void read_whole(uint32_t node, const struct state_nodes_reader *reader)
{
	struct stat st = {};
	uint8_t *log = NULL;
	ssize_t length = -1;
	size_t end = 0;

	if (fstat(logs[node].fd, &st) == 0) {
		log = talloc_array(NULL, uint8_t, (size_t)st.st_size + 1);
	}
	if (log != NULL) {
		length = pread(logs[node].fd, log, (size_t)st.st_size, 0);
	}
	if (length >= HANDLE_LOG_HEADER &&
	    reader->whole(node, log, (size_t)length, &end, reader->data)) {
		place_set(node, logs[node].generation, end);
	}
	TALLOC_FREE(log);
}

/* False where there is nothing more that is whole. */
static bool read_chunk(uint32_t node, const struct state_nodes_reader *reader,
		       size_t size)
{
	struct state_log_place *place = state_log_place(node);
	struct handle_frame frame = {};
	uint8_t *bytes = malloc(size);
	ssize_t length = 0;
	size_t done = 0;
	size_t at = 0;

	if (bytes == NULL) {
		return false;
	}
	length = pread(logs[node].fd, bytes, size, (off_t)place->offset);
	while (length >= HANDLE_FRAME_HEADER &&
	       handle_frame_begins(bytes + at) &&
	       handle_frame_next(bytes, (size_t)length, &at, &frame) == 0 &&
	       !frame.damaged) {
		reader->frame(node, &frame, reader->data);
		done = at;
		if (at + HANDLE_FRAME_HEADER > (size_t)length) {
			break;
		}
	}
	free(bytes);
	if (done > 0) {
		place_set(node, place->generation, place->offset + done);
		return true;
	}
	/* A frame that is larger than what was read. */
	return length == (ssize_t)size && size < HANDLE_RECORD_MAX * 2 &&
		read_chunk(node, reader, size * 32);
}

void state_nodes_read(const struct state_nodes_reader *reader)
{
	uint64_t others = state_nodes_all() & ~(1ULL << nodes.me);
	uint32_t i = 0;

	for (i = 0; others != 0 && i < STATE_LOG_NODES; i++) {
		if ((others & 1ULL << i) == 0 || !log_news(i, true)) {
			continue;
		}
		if (state_log_place(i)->generation != logs[i].generation) {
			read_whole(i, reader);
		}
		while (state_log_place(i)->generation == logs[i].generation &&
		       read_chunk(i, reader, CHUNK)) {
		}
	}
}
