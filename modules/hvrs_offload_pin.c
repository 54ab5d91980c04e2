/*
 * What tokens stand for, held open by the process that gave them, or its child:
 * the record of a token names process and descriptor, and another process takes
 * a copy of that (pidfd_getfd(2)), as root for this one call.  So nothing has a
 * name on disk, and what is left by a crash is nothing.
 */
#include "hvrs_offload.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "state_tokens.h"

struct hvrs_pin {
	struct hvrs_pin *prev, *next;
	int fd;
	struct hvrs_lease *lease;	/* has the descriptor then */
	char *path;			/* of a cluster's */
	struct hvrs_pinned what;
	uint32_t tokens;
};

/* A token of this process, until its time is over. */
struct held {
	struct held *prev, *next;
	struct hvrs_pin *pin;
	struct token_id id;
	uint64_t expires_ms;
	struct tevent_timer *timer;
};

static struct hvrs_pin *pins;
static struct held *all_held;

/* ---- stamps -------------------------------------------------------------------- */

int hvrs_stamp_get(int fd, struct token_stamp *_stamp)
{
	struct stat st = {};

	if (fstat(fd, &st) != 0) {
		return errno;
	}
	*_stamp = (struct token_stamp) {
		.device = st.st_dev, .inode = st.st_ino,
		.size = (uint64_t)st.st_size,
		.mtime_s = st.st_mtim.tv_sec,
		.mtime_ns = (uint32_t)st.st_mtim.tv_nsec,
		.ctime_s = st.st_ctim.tv_sec,
		.ctime_ns = (uint32_t)st.st_ctim.tv_nsec,
	};
	return 0;
}

/*
 * The kernel stamps changes with a clock that ticks every few milliseconds.
 * Once that clock is beyond the stamp, the next change gets another one.
 */
bool hvrs_stamp_is_old(const struct token_stamp *stamp)
{
	struct timespec tick = {};

	clock_gettime(CLOCK_REALTIME_COARSE, &tick);
	return tick.tv_sec > stamp->ctime_s ||
	       (tick.tv_sec == stamp->ctime_s &&
		tick.tv_nsec > (long)stamp->ctime_ns);
}

/* ---- pins ----------------------------------------------------------------------- */

static void *close_thread(void *private_data)
{
	close((int)(intptr_t)private_data);
	return NULL;
}

/* Giving a clone's blocks back may take long: not in smbd's own thread. */
static void close_aside(int fd)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int ret = 0;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	ret = pthread_create(&thread, &attributes, close_thread,
			     (void *)(intptr_t)fd);
	pthread_attr_destroy(&attributes);
	if (ret != 0) {
		close(fd);
	}
}

void hvrs_pin_release(struct hvrs_pin *pin)
{
	if (pin->tokens > 0) {
		return;
	}
	DLIST_REMOVE(pins, pin);
	if (pin->path != NULL) {
		hvrs_folder_remove(pin->path);
	}
	if (pin->lease != NULL) {
		hvrs_lease_release(pin->lease);
	} else {
		close_aside(pin->fd);
	}
	TALLOC_FREE(pin);
}

struct hvrs_pin *hvrs_pin_find(const struct token_stamp *source,
			       uint64_t begin, uint64_t end)
{
	struct hvrs_pin *pin = NULL;

	for (pin = pins; pin != NULL; pin = pin->next) {
		if (pin->lease != NULL &&
		    pin->what.source.device == source->device &&
		    pin->what.source.inode == source->inode &&
		    hvrs_lease_cover(pin->lease, begin, end)) {
			return pin;
		}
		if (pin->what.settled && pin->what.begin <= begin &&
		    end <= pin->what.end &&
		    token_stamp_equal(&pin->what.source, source)) {
			return pin;
		}
	}
	return NULL;
}

struct hvrs_pin *hvrs_pin_create(int fd, const struct hvrs_pinned *what,
				 struct hvrs_lease *lease, const char *path)
{
	struct hvrs_pin *pin = talloc_zero(NULL, struct hvrs_pin);

	if (pin != NULL && path != NULL) {
		pin->path = talloc_strdup(pin, path);
		if (pin->path == NULL) {
			TALLOC_FREE(pin);
		}
	}
	if (pin == NULL) {
		return NULL;
	}
	pin->fd = fd;
	pin->lease = lease;
	pin->what = *what;
	DLIST_ADD(pins, pin);
	return pin;
}

/* ---- processes -------------------------------------------------------------------- */

/*
 * When a process started, in clock ticks: field 22 of its stat, counted from
 * the end of the name, which may hold anything.  0 where there is none.
 */
static uint64_t process_start(uint32_t process)
{
	char path[64] = "";
	char text[1024] = "";
	char *at = NULL;
	ssize_t length = 0;
	int fd = -1;
	int field = 0;

	snprintf(path, sizeof(path), "/proc/%u/stat", process);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1) {
		return 0;
	}
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length <= 0) {
		return 0;
	}
	text[length] = '\0';
	at = strrchr(text, ')');
	for (field = 2; at != NULL && field < 22; field++) {
		at = strchr(at + 1, ' ');
	}
	return at != NULL ? strtoull(at + 1, NULL, 10) : 0;
}

static uint64_t my_start(void)
{
	static uint64_t start;
	static pid_t process;

	if (process != getpid()) {
		process = getpid();
		start = process_start((uint32_t)process);
	}
	return start;
}

/* A copy of a descriptor of the process that gave the token, or -1. */
static int take_from(const struct token_record *record, uint32_t descriptor)
{
	int process = -1;
	int fd = -1;

	if (record->process == (uint32_t)getpid()) {
		return fcntl((int)descriptor, F_DUPFD_CLOEXEC, 0);
	}
	/* The process that this names cannot become another one. */
	process = (int)syscall(SYS_pidfd_open, (pid_t)record->process, 0);
	if (process == -1) {
		return -1;
	}
	if (process_start(record->process) == record->started) {
		fd = (int)syscall(SYS_pidfd_getfd, process, descriptor, 0);
	}
	close(process);
	return fd;
}

/* A lease beside the one on the source, if that is what we took. */
static int join_lease(const struct token_record *record, int source)
{
	struct token_stamp stamp = {};
	int lease = -1;

	if (source != -1 && hvrs_stamp_get(source, &stamp) == 0 &&
	    stamp.device == record->stamp.device &&
	    stamp.inode == record->source_inode) {
		lease = hvrs_lease_join(source);
	}
	if (source != -1) {
		close(source);
	}
	return lease;
}

static int open_held(const struct token_record *record, int *_lease)
{
	struct token_record again = {};
	struct token_stamp stamp = {};
	int source = -1;
	int lease = -1;
	int fd = -1;
	int saved = 0;

	become_root();
	fd = take_from(record, record->descriptor);
	saved = errno;
	if (fd != -1 && record->leased) {
		source = take_from(record, record->source);
		if (source == -1) {
			close(fd);
			fd = -1;
		}
	}
	unbecome_root();
	lease = join_lease(record, source);
	if (fd == -1) {
		DBG_INFO("hvrs: a token's file cannot be taken: %s\n",
			 strerror(saved));
		return -EKEYREJECTED;
	}
	/*
	 * The number may have come to name another file meanwhile, even one
	 * with the inode of the old.  But a record is taken away before its
	 * descriptor is closed: where it still is, this is the right one.
	 */
	if (state_tokens_fetch(&record->id, &again) != 0 ||
	    hvrs_stamp_get(fd, &stamp) != 0 ||
	    stamp.device != record->stamp.device ||
	    stamp.inode != record->stamp.inode ||
	    (!record->pinned &&
	     !token_stamp_equal(&stamp, &record->stamp))) {
		close(fd);
		if (lease != -1) {
			close(lease);
		}
		return -EKEYREJECTED;
	}
	*_lease = lease;
	return fd;
}

/* Tried again where another process has taken it over meanwhile. */
int hvrs_token_open(const struct token_record *record, int *_lease)
{
	struct token_record now = *record;
	uint32_t process = 0;
	int fd = -1;

	if (record->path[0] != '\0') {
		*_lease = -1;
		return hvrs_folder_open(record);
	}
	do {
		process = now.process;
		fd = open_held(&now, _lease);
	} while (fd < 0 && state_tokens_fetch(&record->id, &now) == 0 &&
		 now.process != process);
	return fd;
}

/* ---- tokens ------------------------------------------------------------------------- */

static int held_destructor(struct held *held)
{
	DLIST_REMOVE(all_held, held);
	state_tokens_delete(&held->id);
	held->pin->tokens--;
	hvrs_pin_release(held->pin);
	return 0;
}

static void held_expires(struct tevent_context *ev, struct tevent_timer *te,
			 struct timeval now, void *private_data)
{
	struct held *held = private_data;

	(void)ev;
	(void)te;
	(void)now;
	TALLOC_FREE(held);
}

bool hvrs_pins_tend(uint64_t *_next_ms)
{
	uint64_t now = state_tokens_now();
	struct held *held = NULL;
	struct held *next = NULL;
	struct token_record record = {};

	*_next_ms = UINT64_MAX;
	for (held = all_held; held != NULL; held = next) {
		next = held->next;
		if (held->expires_ms <= now ||
		    state_tokens_fetch(&held->id, &record) != 0) {
			TALLOC_FREE(held);
		} else {
			*_next_ms = MIN(*_next_ms, held->expires_ms - now);
		}
	}
	return all_held != NULL;
}

bool hvrs_pins_inherit(void)
{
	struct held *held = NULL;
	struct held *next = NULL;

	if (!state_tokens_reopen()) {
		return false;
	}
	for (held = all_held; held != NULL; held = next) {
		next = held->next;
		if (state_tokens_move(&held->id, (uint32_t)getpid(),
				      my_start()) != 0) {
			TALLOC_FREE(held);
		}
	}
	return true;
}

int hvrs_pin_token(struct hvrs_pin *pin, struct tevent_context *ev,
		   const struct hvrs_token_wanted *wanted,
		   uint8_t token[TOKEN_SIZE])
{
	uint64_t next_ms = 0;
	const struct state_tokens_limits limits = {
		.user = wanted->user_limit, .all = wanted->all_limit,
		.pinned = wanted->pinned_limit,
	};
	struct token_record record = {
		.bearer = wanted->bearer, .pinned = pin->what.pinned,
		.created_ms = state_tokens_now(), .offset = wanted->offset,
		.length = wanted->length, .process = (uint32_t)getpid(),
		.started = my_start(), .descriptor = (uint32_t)pin->fd,
	};
	struct held *held = talloc_zero(NULL, struct held);
	int ret = -ENOMEM;

	if (held != NULL) {
		ret = token_new(&record.id);
	}
	if (ret == 0 && hvrs_stamp_get(pin->fd, &record.stamp) != 0) {
		ret = -EIO;
	}
	if (ret == 0) {
		record.expires_ms = record.created_ms + wanted->lifetime_ms;
		strlcpy(record.user, wanted->user, sizeof(record.user));
		strlcpy(record.name, wanted->name, sizeof(record.name));
		strlcpy(record.path, pin->path != NULL ? pin->path : "",
			sizeof(record.path));
		if (!pin->what.pinned) {
			record.stamp = pin->what.source;
		}
		record.leased = pin->lease != NULL;
		if (record.leased) {
			record.source = (uint32_t)hvrs_lease_source(
				pin->lease, &record.source_inode);
		}
		ret = state_tokens_store(&record, &limits,
					 record.created_ms);
	}
	if (ret != 0) {
		talloc_free(held);
		hvrs_pin_release(pin);
		return ret;
	}
	pin->tokens++;
	held->pin = pin;
	held->id = record.id;
	held->expires_ms = record.expires_ms;
	DLIST_ADD(all_held, held);
	talloc_set_destructor(held, held_destructor);
	held->timer = tevent_add_timer(
		ev, held, timeval_current_ofs_msec(wanted->lifetime_ms),
		held_expires, held);
	if (held->timer == NULL) {
		TALLOC_FREE(held);
		return -ENOMEM;
	}
	token_encode(&record.id, token);
	hvrs_pins_tend(&next_ms);
	if (pin->path == NULL) {
		hvrs_hold_later();
	}
	return 0;
}
