/*
 * Tokens of a file that nobody has open for writing.  As long as we hold a
 * read lease of the kernel on it (fcntl(2), F_SETLEASE), whoever opens it for
 * writing or truncates it waits for us, smbd or not.  So its clone need not be
 * made when a token is given, but when somebody comes; most copies end before.
 *
 * A thread waits for the kernel's notice.  It makes the clone, says so by the
 * clone's mode, and gives the lease back.
 */
#include "hvrs_offload.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * The kernel takes a lease away so many seconds after somebody has come, 45 if
 * nobody has changed that.  Whoever was seen to have it has it for that long.
 */
#define BREAK_TIME	"/proc/sys/fs/lease-break-time"
#define BREAK_LEAST	30
#define BREAK_MARGIN	2

#define SECOND		((uint64_t)1000000000)
#define CLONE_SECONDS	15
#define CLONE_PIECE	((uint64_t)1 << 30)
#define MILLISECOND_US	1000
#define LOOK_US		5000

/* What the mode of a clone tells everybody who holds it. */
#define MODE_MADE	0400u
#define MODE_GIVEN_UP	0000u
#define MODE_BITS	0777u

/* An open for writing tries that often by itself, before smbd waits 1 s. */
#define OPEN_TRIES	10

struct hvrs_lease {
	struct hvrs_lease *prev, *next;
	int source;		/* an open file of its own, with the lease */
	int pin;		/* the clone to be */
	uint64_t begin;
	uint64_t end;
	uint64_t inode;
	uint64_t size;
	uint64_t mask;		/* of a cluster */
	uint64_t patience;	/* nanoseconds */
	uint64_t sure;		/* until when the kernel cannot have taken it */
	bool busy;		/* the thread is at it, without the lock */
	bool over;		/* the clone is made, or never will be */
	bool forgotten;		/* nobody needs it: the thread's to free */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t started = PTHREAD_COND_INITIALIZER;
static struct hvrs_lease *leases;
static pid_t watcher_process;	/* in which it runs */
static pid_t watcher;

bool hvrs_lease_is_held(int fd)
{
	return fcntl(fd, F_GETLEASE) == F_RDLCK;
}

bool hvrs_lease_is_whole(int fd, uint64_t size)
{
	struct stat st = {};

	return fstat(fd, &st) == 0 && (uint64_t)st.st_size == size;
}

/* ---- the clone ------------------------------------------------------------------ */

static int clone_pieces(const struct hvrs_lease *lease)
{
	uint64_t deadline = hvrs_job_now() + CLONE_SECONDS * SECOND;
	uint64_t end = MIN(lease->end, lease->size);
	uint64_t at = lease->begin;

	while (at < end) {
		uint64_t part = MIN(end - at, CLONE_PIECE);
		struct file_clone_range range = {
			.src_fd = lease->source, .src_offset = at,
			.src_length = part, .dest_offset = at,
		};

		if (hvrs_job_now() > deadline) {
			return ETIME;
		}
		if (ioctl(lease->pin, FICLONERANGE, &range) == 0) {
			at += part;
		} else if (errno != EINTR) {
			return errno;
		}
	}
	return 0;
}

/* Whoever wants to write waits, if the kernel has not lost patience. */
static int make_clone(const struct hvrs_lease *lease)
{
	int error = clone_pieces(lease);

	if (error == 0 &&
	    (hvrs_job_now() > lease->sure ||
	     !hvrs_lease_is_whole(lease->source, lease->size))) {
		error = EKEYREJECTED;
	}
	return error;
}

/* Looks whether a lease is held, and remembers when that was. */
static bool look(struct hvrs_lease *lease)
{
	uint64_t now = hvrs_job_now();

	if (!hvrs_lease_is_held(lease->source)) {
		return false;
	}
	lease->sure = now + lease->patience;
	return true;
}

/* ---- the thread ------------------------------------------------------------------- */

/* With the lock held.  Giving blocks back may take long, so without it. */
static void lease_free(struct hvrs_lease *lease)
{
	DLIST_REMOVE(leases, lease);
	pthread_mutex_unlock(&mutex);
	close(lease->source);
	close(lease->pin);
	free(lease);
	pthread_mutex_lock(&mutex);
}

/* With the lock held, which it lets go of for the clone. */
static void end_lease(struct hvrs_lease *lease)
{
	int error = 0;

	lease->busy = true;
	pthread_mutex_unlock(&mutex);
	error = make_clone(lease);
	/* Where that fails, those who look for the clone find neither. */
	(void)fchmod(lease->pin, error == 0 ? MODE_MADE : MODE_GIVEN_UP);
	/*
	 * The lease goes with the open file.  Its number must not come to name
	 * another generation of the source, so the clone takes it.
	 */
	while (dup3(lease->pin, lease->source, O_CLOEXEC) == -1 &&
	       (errno == EBUSY || errno == EINTR)) {
		continue;
	}
	pthread_mutex_lock(&mutex);
	lease->over = true;
}

/* Whether something was to be done. */
static bool serve_one(void)
{
	struct hvrs_lease *lease = NULL;

	for (lease = leases; lease != NULL; lease = lease->next) {
		if (lease->forgotten) {
			lease_free(lease);
			return true;
		}
		if (!lease->over && !look(lease)) {
			end_lease(lease);
			return true;
		}
	}
	return false;
}

static void *watch(void *private_data)
{
	/* A notice that went astray costs a second. */
	const struct timespec second = { .tv_sec = 1 };
	const sigset_t *signals = private_data;

	pthread_mutex_lock(&mutex);
	watcher = (pid_t)syscall(SYS_gettid);
	pthread_cond_signal(&started);
	for (;;) {
		bool any = false;

		while (serve_one()) {
			continue;
		}
		any = leases != NULL;
		pthread_mutex_unlock(&mutex);
		sigtimedwait(signals, NULL, any ? &second : NULL);
		pthread_mutex_lock(&mutex);
	}
	return NULL;
}

/* As root, which the thread stays.  It has all signals blocked. */
static bool start_watcher(void)
{
	static sigset_t signals;
	sigset_t all;
	sigset_t before;
	pthread_attr_t attributes;
	pthread_t thread;
	int ret = 0;

	if (watcher_process == getpid()) {
		return true;
	}
	sigemptyset(&signals);
	sigaddset(&signals, SIGIO);
	sigfillset(&all);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_mutex_lock(&mutex);
	watcher = 0;
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = pthread_create(&thread, &attributes, watch, &signals);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	while (ret == 0 && watcher == 0) {
		pthread_cond_wait(&started, &mutex);
	}
	pthread_mutex_unlock(&mutex);
	pthread_attr_destroy(&attributes);
	watcher_process = ret == 0 ? getpid() : 0;
	return ret == 0;
}

/* How long the kernel waits for a lease, less a margin; 0: not long enough. */
static uint64_t patience(void)
{
	char text[32] = "";
	int fd = open(BREAK_TIME, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd == -1 ? -1 : read(fd, text, sizeof(text) - 1);
	unsigned long seconds = length > 0 ? strtoul(text, NULL, 10) : 0;

	if (fd != -1) {
		close(fd);
	}
	return seconds < BREAK_LEAST ? 0 : (seconds - BREAK_MARGIN) * SECOND;
}

/* ---- leases --------------------------------------------------------------------------- */

/*
 * Opens an open file anew, for reading, and takes a lease on it; breaks of
 * it are told to the thread alone.  As root.  -1 where there is none to have.
 */
static int open_leased(int fd)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID };
	char path[64] = "";
	int leased = -1;

	if (!start_watcher()) {
		return -1;
	}
	owner.pid = watcher;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	leased = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (leased != -1 && (fcntl(leased, F_SETOWN_EX, &owner) != 0 ||
			     fcntl(leased, F_SETLEASE, F_RDLCK) != 0)) {
		close(leased);
		leased = -1;
	}
	return leased;
}

struct hvrs_lease *hvrs_lease_take(int fd, int pin, uint64_t cluster)
{
	uint64_t waits = patience();
	struct hvrs_lease *lease = waits == 0 ? NULL :
		calloc(1, sizeof(*lease));
	struct stat st = {};

	if (lease == NULL) {
		return NULL;
	}
	become_root();
	lease->source = open_leased(fd);
	unbecome_root();
	/* The clone's size is the source's, which moves no more. */
	if (lease->source == -1 || fstat(lease->source, &st) != 0 ||
	    ftruncate(pin, st.st_size) != 0) {
		if (lease->source != -1) {
			close(lease->source);
		}
		free(lease);
		return NULL;
	}
	lease->pin = pin;
	lease->inode = st.st_ino;
	lease->size = (uint64_t)st.st_size;
	lease->mask = cluster - 1;
	lease->begin = UINT64_MAX;
	lease->patience = waits;
	lease->sure = hvrs_job_now() + waits;
	pthread_mutex_lock(&mutex);
	DLIST_ADD(leases, lease);
	pthread_mutex_unlock(&mutex);
	return lease;
}

bool hvrs_lease_cover(struct hvrs_lease *lease, uint64_t begin, uint64_t end)
{
	bool held = false;

	pthread_mutex_lock(&mutex);
	held = !lease->busy && !lease->over &&
		look(lease) && hvrs_lease_is_whole(lease->source, lease->size);
	if (held) {
		lease->begin = MIN(lease->begin, begin & ~lease->mask);
		lease->end = MAX(lease->end,
				 (end + lease->mask) & ~lease->mask);
	}
	pthread_mutex_unlock(&mutex);
	return held;
}

int hvrs_lease_source(const struct hvrs_lease *lease, uint64_t *_inode)
{
	*_inode = lease->inode;
	return lease->source;
}

void hvrs_lease_release(struct hvrs_lease *lease)
{
	pthread_mutex_lock(&mutex);
	lease->forgotten = true;
	pthread_mutex_unlock(&mutex);
	syscall(SYS_tgkill, getpid(), watcher, SIGIO);
}

/*
 * Only when ours is there as well is the other one asked: from when the token
 * was given until we are done, somebody held one.
 */
int hvrs_lease_join(int source)
{
	int fd = -1;

	become_root();
	fd = open_leased(source);
	unbecome_root();
	if (fd != -1 && !hvrs_lease_is_held(source)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int hvrs_lease_wait(int pin, const bool *stop)
{
	uint64_t deadline = hvrs_job_now() + (CLONE_SECONDS + 1) * SECOND;

	for (;;) {
		struct stat st = {};

		if (fstat(pin, &st) != 0) {
			return errno;
		}
		if ((st.st_mode & MODE_BITS) == MODE_MADE) {
			return 0;
		}
		if ((st.st_mode & MODE_BITS) == MODE_GIVEN_UP ||
		    hvrs_job_now() > deadline) {
			return EKEYREJECTED;
		}
		if (__atomic_load_n(stop, __ATOMIC_RELAXED)) {
			return ECANCELED;
		}
		usleep(LOOK_US);
	}
}

/* ---- a process that inherits them ------------------------------------------------ */

static bool any_ends(void)
{
	const struct hvrs_lease *lease = NULL;

	for (lease = leases; lease != NULL; lease = lease->next) {
		if (lease->busy && !lease->over) {
			return true;
		}
	}
	return false;
}

void hvrs_leases_stop(void)
{
	pthread_mutex_lock(&mutex);
	while (any_ends()) {
		pthread_mutex_unlock(&mutex);
		usleep(MILLISECOND_US);
		pthread_mutex_lock(&mutex);
	}
}

void hvrs_leases_inherit(void)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID, .pid = getpid() };
	const struct hvrs_lease *lease = NULL;

	watcher_process = getpid();
	watcher = getpid();
	for (lease = leases; lease != NULL; lease = lease->next) {
		if (!lease->over) {
			(void)fcntl(lease->source, F_SETOWN_EX, &owner);
		}
	}
	pthread_mutex_unlock(&mutex);
}

void hvrs_leases_serve(void)
{
	pthread_mutex_lock(&mutex);
	while (serve_one()) {
		continue;
	}
	pthread_mutex_unlock(&mutex);
}

/* ---- opens ------------------------------------------------------------------------------ */

/*
 * smbd opens without waiting for leases and tries again after a second.  Most
 * clones are made in much less.
 */
int hvrs_openat(struct vfs_handle_struct *handle,
		const struct files_struct *dirfsp,
		const struct smb_filename *smb_fname,
		struct files_struct *fsp, const struct vfs_open_how *how)
{
	int fd = SMB_VFS_NEXT_OPENAT(handle, dirfsp, smb_fname, fsp, how);
	int i = 0;

	for (i = 0; i < OPEN_TRIES && fd == -1 && errno == EWOULDBLOCK &&
		    (how->flags & O_ACCMODE) != O_RDONLY; i++) {
		usleep(MILLISECOND_US);
		fd = SMB_VFS_NEXT_OPENAT(handle, dirfsp, smb_fname, fsp, how);
	}
	return fd;
}
