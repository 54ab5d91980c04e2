/*
 * Tokens of a client that has gone.  smbd ends with its client's last
 * connection, and with it what its tokens stand for would; so a process that
 * ends in order leaves a child behind ("hvrs tokens"), which inherits all of it
 * and does nothing else: it ends with the last token, or with smbd.
 */
#include "hvrs_offload.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/util/util_process.h"

/* So many such processes at once; tokens of those that come more are over. */
#define HOLDERS_MAX 32
#define HOLDERS "hvrs_tokens.holders"

/* How long after its exit began a process waits for its own threads. */
#define THREADS_MS 1000
#define READY_S 5

/* The limits of others may take a token away. */
#define LOOK_MS 1000

static pid_t registered;	/* the process that does this at its exit */

static bool server_is_gone(uint64_t wait_ms, const sigset_t *signals)
{
	struct pollfd watch = { .fd = parent_watch_fd(), .events = POLLIN };
	struct timespec wait = {
		.tv_sec = (time_t)(wait_ms / 1000),
		.tv_nsec = (long)(wait_ms % 1000) * 1000000,
	};

	return watch.fd == -1 || ppoll(&watch, 1, &wait, signals) > 0;
}

/* One of the places for such processes, held as long as this descriptor. */
static int take_place(void)
{
	char *path = lock_path(talloc_tos(), HOLDERS);
	int fd = path == NULL ? -1 :
		open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	off_t place = 0;

	for (place = 0; place < HOLDERS_MAX && fd != -1; place++) {
		struct flock lock = {
			.l_type = F_WRLCK, .l_whence = SEEK_SET,
			.l_start = place, .l_len = 1,
		};

		if (fcntl(fd, F_OFD_SETLK, &lock) == 0) {
			break;
		}
	}
	if (fd != -1 && place == HOLDERS_MAX) {
		close(fd);
		fd = -1;
	}
	TALLOC_FREE(path);
	return fd;
}

/* ---- the child ------------------------------------------------------------------ */

/* Of clients, of winbindd, of other processes of smbd. */
static void close_sockets(void)
{
	struct dirent *entry = NULL;
	DIR *dir = opendir("/proc/self/fd");

	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		int fd = atoi(entry->d_name);
		int type = 0;
		socklen_t size = sizeof(type);

		if (fd > STDERR_FILENO &&
		    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0) {
			close(fd);
		}
	}
	if (dir != NULL) {
		closedir(dir);
	}
}

static void notice(int number)
{
	(void)number;
}

/* SIGIO tells of a lease, and comes only while we wait. */
static void set_signals(sigset_t *_waiting)
{
	const int others[] = {
		SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD, SIGPIPE,
	};
	sigset_t blocked;
	size_t i = 0;

	sigfillset(_waiting);
	sigdelset(_waiting, SIGIO);
	sigdelset(_waiting, SIGTERM);
	sigdelset(_waiting, SIGINT);
	sigdelset(_waiting, SIGALRM);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGIO);
	for (i = 0; i < ARRAY_SIZE(others); i++) {
		CatchSignal(others[i], SIG_IGN);
	}
	CatchSignal(SIGTERM, SIG_DFL);
	CatchSignal(SIGINT, SIG_DFL);
	CatchSignal(SIGALRM, SIG_DFL);
	CatchSignal(SIGIO, notice);
	sigprocmask(SIG_SETMASK, &blocked, NULL);
}

static void hold(int ready)
{
	sigset_t waiting;
	uint64_t wait_ms = 0;

	/* A lock that a thread held at the fork is held for ever. */
	set_signals(&waiting);
	alarm(READY_S);
	series_process_title("tokens");
	close_sockets();
	if (chdir("/") != 0 || !hvrs_pins_inherit()) {
		return;
	}
	hvrs_leases_inherit();
	if (write(ready, "", 1) != 1) {
		return;
	}
	close(ready);
	alarm(0);
	do {
		hvrs_leases_serve();
		if (!hvrs_pins_tend(&wait_ms)) {
			return;
		}
	} while (!server_is_gone(MIN(wait_ms + 1, LOOK_MS), &waiting));
}

/* ---- the process that ends -------------------------------------------------------- */

/* Until the records name the child, or it has given up. */
static void wait_until_ready(int ready)
{
	struct pollfd watch = { .fd = ready, .events = POLLIN };

	while (poll(&watch, 1, READY_S * 1000) == -1 && errno == EINTR) {
	}
}

static void leave_child(void)
{
	int place = take_place();
	int ready[2] = { -1, -1 };
	pid_t child = -1;

	if (place == -1) {
		DBG_NOTICE("hvrs: %u processes hold tokens of clients that "
			   "have gone; those of this one end now\n",
			   HOLDERS_MAX);
		return;
	}
	/* Files that they have open would stay open in the child. */
	hvrs_jobs_wait(THREADS_MS);
	if (pipe2(ready, O_CLOEXEC) == 0) {
		hvrs_leases_stop();
		child = fork();
	}
	if (child == 0) {
		close(ready[0]);
		hold(ready[1]);
		_exit(0);
	}
	if (child == -1) {
		DBG_ERR("hvrs: no process can be started for the tokens of a "
			"client that has gone: %s. They end now\n",
			strerror(errno));
		return;
	}
	close(ready[1]);
	wait_until_ready(ready[0]);
}

static void at_exit(void)
{
	TALLOC_CTX *frame = NULL;
	uint64_t next_ms = 0;

	/* Others that were forked from this one come by here, too. */
	if (registered != getpid() || geteuid() != 0 ||
	    server_is_gone(0, NULL)) {
		return;
	}
	frame = talloc_stackframe();
	if (hvrs_pins_tend(&next_ms)) {
		leave_child();
	}
	TALLOC_FREE(frame);
}

void hvrs_hold_later(void)
{
	if (registered != getpid() && atexit(at_exit) == 0) {
		registered = getpid();
	}
}
