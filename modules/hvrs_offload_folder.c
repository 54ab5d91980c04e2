/*
 * Pins of a cluster.  A descriptor is of one machine, so there the clone that a
 * token stands for has a name, in a folder of root's own in the share:
 *
 *	.hvrs-tokens/RANDOM-TIME
 *
 * Whoever uses the token opens it by that, on whatever node.  It is gone with
 * its token, or, where its node or process is, at its TIME (milliseconds since
 * 1970), when any process that serves the share removes it.
 */
#include "hvrs_offload.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "state_tokens.h"

#define FOLDER HVRS_TOKENS_FOLDER
#define SWEEP_S 10

/* By how much the clocks of nodes may differ. */
#define MARGIN_MS 10000

/* What the mode of a pin tells: its clone was made. */
#define MODE_MADE 0400u
#define MODE_BITS 07777u

struct swept {
	char *path;
};

/* Root's own, and nobody else's, whoever may rename it.  As root. */
static int open_folder(const char *path)
{
	struct stat st = {};
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd != -1 && (fstat(fd, &st) != 0 || st.st_uid != 0 ||
			 (st.st_mode & 077) != 0)) {
		close(fd);
		errno = EPERM;
		fd = -1;
	}
	return fd;
}

/* ---- making one ----------------------------------------------------------------- */

/* As root. */
static int make_file(const char *folder, const char *name)
{
	int dir = -1;
	int fd = -1;
	int saved = 0;

	if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
		return -1;
	}
	dir = open_folder(folder);
	if (dir == -1) {
		return -1;
	}
	fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	saved = errno;
	close(dir);
	errno = saved;
	return fd;
}

int hvrs_folder_file(TALLOC_CTX *mem_ctx, const struct connection_struct *conn,
		     uint64_t expires_ms, char **_path)
{
	uint64_t random[2] = {};
	char *folder = talloc_asprintf(mem_ctx, "%s/" FOLDER,
				       conn->connectpath);
	char *name = NULL;
	int fd = -1;
	int saved = ENOMEM;

	if (getrandom(random, sizeof(random), 0) == sizeof(random)) {
		name = talloc_asprintf(mem_ctx, "%016" PRIx64 "%016" PRIx64
				       "-%" PRIu64, random[0], random[1],
				       expires_ms);
	}
	if (folder != NULL && name != NULL) {
		become_root();
		fd = make_file(folder, name);
		saved = errno;
		unbecome_root();
	}
	if (fd == -1) {
		DBG_WARNING("hvrs: no file for a token can be made in %s, a "
			    "folder that must be root's alone: %s\n",
			    folder != NULL ? folder : FOLDER,
			    strerror(saved));
	} else {
		*_path = talloc_asprintf(mem_ctx, "%s/%s", folder, name);
	}
	TALLOC_FREE(folder);
	TALLOC_FREE(name);
	errno = saved;
	return fd;
}

/*
 * The node's journal has this change of the file behind those of its clone, so
 * a node that dies cannot leave the one without the other.
 */
int hvrs_folder_made(int fd)
{
	int error = 0;

	become_root();
	error = fchmod(fd, MODE_MADE) == 0 ? 0 : errno;
	unbecome_root();
	return error;
}

/* ---- using one ------------------------------------------------------------------ */

int hvrs_folder_open(const struct token_record *record)
{
	char folder[TOKEN_PATH_MAX + 1] = "";
	char *slash = NULL;
	struct stat st = {};
	int dir = -1;
	int fd = -1;

	strlcpy(folder, record->path, sizeof(folder));
	slash = strrchr(folder, '/');
	if (slash == NULL) {
		return -EKEYREJECTED;
	}
	*slash = '\0';
	become_root();
	dir = open_folder(folder);
	if (dir != -1) {
		fd = openat(dir, slash + 1,
			    O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		close(dir);
	}
	unbecome_root();
	if (fd != -1 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
			 (st.st_mode & MODE_BITS) != MODE_MADE ||
			 (uint64_t)st.st_ino != record->stamp.inode ||
			 (uint64_t)st.st_size != record->stamp.size)) {
		close(fd);
		fd = -1;
	}
	return fd == -1 ? -EKEYREJECTED : fd;
}

void hvrs_folder_remove(const char *path)
{
	become_root();
	unlink(path);
	unbecome_root();
}

/* ---- what nobody removed ----------------------------------------------------------- */

static bool is_over(const char *name, uint64_t now_ms)
{
	const char *dash = strchr(name, '-');
	char *end = NULL;
	uint64_t expires_ms = 0;

	if (dash == NULL || dash - name != 32) {
		return false;
	}
	expires_ms = strtoull(dash + 1, &end, 10);
	return *end == '\0' && expires_ms < UINT64_MAX - MARGIN_MS &&
		expires_ms + MARGIN_MS < now_ms;
}

static void sweep(const char *path)
{
	uint64_t now_ms = state_tokens_now();
	struct dirent *entry = NULL;
	DIR *dir = NULL;
	int fd = -1;

	become_root();
	fd = open_folder(path);
	dir = fd != -1 ? fdopendir(fd) : NULL;
	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		if (is_over(entry->d_name, now_ms)) {
			unlinkat(fd, entry->d_name, 0);
		}
	}
	if (dir != NULL) {
		closedir(dir);
	} else if (fd != -1) {
		close(fd);
	}
	unbecome_root();
}

static void sweep_timer(struct tevent_context *ev, struct tevent_timer *te,
			struct timeval now, void *private_data)
{
	struct swept *swept = private_data;

	(void)te;
	(void)now;
	sweep(swept->path);
	tevent_add_timer(ev, swept, timeval_current_ofs(SWEEP_S, 0),
			 sweep_timer, swept);
}

void hvrs_folder_begin(struct hvrs_share *share, struct connection_struct *conn)
{
	struct tevent_context *ev = conn->sconn->ev_ctx;
	struct swept *swept = NULL;

	/* Not one that serves a client, as helpers of RPC make them. */
	if (ev == NULL) {
		return;
	}
	swept = talloc_zero(share, struct swept);
	if (swept == NULL) {
		return;
	}
	swept->path = talloc_asprintf(swept, "%s/" FOLDER, conn->connectpath);
	if (swept->path == NULL) {
		return;
	}
	tevent_add_timer(ev, swept, timeval_zero(), sweep_timer, swept);
}
