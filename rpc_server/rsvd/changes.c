/*
 * The map of changes of a set, beside it: ".changes".
 *
 * Every image has its own view of it.  Its header changes only while all
 * commands of the disk are held up, and with the epoch, so that every process
 * opens it again before its next write.  Notes of writes go before the write.
 */
#include "server.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "util/crc32c.h"

/* How long the lock on bits is waited for in place. */
#define BITS_STEPS 100
#define BITS_STEP_US 200
#define MOUNT_ID_UNIQUE 0x4000U		/* statx(2), Linux 6.8 */
#define MOUNT_ID_AT 0x90
/* What a stamp ends with. */
#define STAMP_MOUNT 1
#define STAMP_APART 2

/*
 * Around one read and write of bits; goes with its process.  Who has it may
 * stand still, on another node: then the caller tries again, from the loop.
 */
static int bits_lock(void *private_data)
{
	struct rsvd_changes *changes = private_data;
	struct flock range = { .l_type = F_WRLCK, .l_len = 1 };
	unsigned steps = 0;
	int ret = fcntl(changes->lock_fd, F_OFD_SETLK, &range);

	while (ret != 0 && (errno == EAGAIN || errno == EACCES ||
			    errno == EINTR)) {
		if (steps++ == BITS_STEPS) {
			return -ETIMEDOUT;
		}
		usleep(BITS_STEP_US);
		ret = fcntl(changes->lock_fd, F_OFD_SETLK, &range);
	}
	return ret == 0 ? 0 : -errno;
}

static void bits_unlock(void *private_data)
{
	struct rsvd_changes *changes = private_data;
	struct flock range = { .l_type = F_UNLCK, .l_len = 1 };

	(void)fcntl(changes->lock_fd, F_OFD_SETLK, &range);
}

static int changes_destructor(struct rsvd_changes *changes)
{
	if (changes->lock_fd >= 0) {
		close(changes->lock_fd);
	}
	return 0;
}

/*
 * What differs after a power cut: the boot and the mount.  Where the system
 * cannot tell them, nothing is ever the same, and more is told than changed.
 * On a cluster bits are stable before the write: nothing need differ, but from
 * what a single machine has left.
 */
static int stamp_get(struct store *store, uint8_t stamp[CBT_STAMP_SIZE])
{
	static const char boot[] = "/proc/sys/kernel/random/boot_id";
	struct files_struct *fsp = rsvd_store_file(store);
	uint8_t text[40] = {};
	uint8_t answer[256] = {};
	struct guid other = {};
	size_t i = 0;
	size_t n = 0;
	int fd = -1;
	int ret = 0;

	memset(stamp, 0, CBT_STAMP_SIZE);
	if (rsvd_shared_is_apart()) {
		stamp[CBT_STAMP_SIZE - 1] = STAMP_APART;
		return 0;
	}
	fd = open(boot, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t got = read(fd, text, 36);

		close(fd);
		for (i = 0; got == 36 && i < 36; i++) {
			if (text[i] != '-') {
				stamp[n] = (uint8_t)(stamp[n] * 31 + text[i]);
				n = (n + 1) % 16;
			}
		}
	}
	if (fd >= 0 && fsp != NULL && fsp_get_io_fd(fsp) >= 0 &&
	    syscall(SYS_statx, fsp_get_io_fd(fsp), "", AT_EMPTY_PATH,
		    MOUNT_ID_UNIQUE, answer) == 0 &&
	    (IVAL(answer, 0) & MOUNT_ID_UNIQUE) != 0) {
		memcpy(stamp + 16, answer + MOUNT_ID_AT, 8);
		stamp[CBT_STAMP_SIZE - 1] = STAMP_MOUNT;
		return 0;
	}
	ret = guid_random(&other);
	memcpy(stamp + 8, other.bytes, 16);
	return ret;
}

static NTSTATUS status_of(struct rsvd_open *open, int error)
{
	if (error != 0) {
		DBG_ERR("hvrs: shared disk %s: its map of changes: %s\n",
			open->path, strerror(-error));
	}
	return error == -ENOSPC ? NT_STATUS_INSUFFICIENT_RESOURCES
				: rsvd_status_of(error);
}

static char *map_path(TALLOC_CTX *mem_ctx, const struct rsvd_open *open)
{
	return talloc_asprintf(mem_ctx, "%s%s", open->fsp->fsp_name->base_name,
			       VHDSET_CHANGES_SUFFIX);
}

static int lock_file(const char *path)
{
	return open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

static int lock_open(struct rsvd_open *open)
{
	char *path = rsvd_shared_path(talloc_tos(), &open->fsp->file_id,
				      "changes");
	int fd = -1;

	if (path == NULL) {
		errno = ENOMEM;
		return -1;
	}
	become_root();
	fd = lock_file(path);
	unbecome_root();
	TALLOC_FREE(path);
	return fd;
}

NTSTATUS rsvd_changes_look(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
			   struct rsvd_changes **_changes, bool *_bad)
{
	struct rsvd_changes *changes = NULL;
	struct cbt_lock lock = {
		.lock = bits_lock, .unlock = bits_unlock,
		.apart = rsvd_shared_is_apart(),
	};
	uint8_t stamp[CBT_STAMP_SIZE];
	const char *why = NULL;
	uint64_t size = 0;
	char *path = NULL;
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	*_changes = NULL;
	*_bad = false;
	if (!open->is_set || rsvd_open_is_snapshot(open)) {
		return NT_STATUS_OK;
	}
	changes = talloc_zero(mem_ctx, struct rsvd_changes);
	path = changes != NULL ? map_path(changes, open) : NULL;
	if (path == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	changes->lock_fd = -1;
	talloc_set_destructor(changes, changes_destructor);
	status = rsvd_file_open(changes, open, path, RSVD_FILE_PRESENT,
				&changes->store);
	if (NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
		talloc_free(changes);
		return NT_STATUS_OK;
	}
	if (!NT_STATUS_IS_OK(status)) {
		/* A write that is not noted would never be told. */
		DBG_ERR("hvrs: shared disk %s: its map of changes cannot be "
			"opened: %s\n", open->path, nt_errstr(status));
		talloc_free(changes);
		return status;
	}
	changes->lock_fd = lock_open(open);
	lock.private_data = changes;
	ret = changes->lock_fd < 0 ? -errno : store_size(changes->store, &size);
	if (ret == 0) {
		ret = cbt_open(changes, changes->store, &lock, false,
			       &changes->cbt, &why);
	}
	if (ret == 0) {
		ret = stamp_get(changes->store, stamp);
	}
	if (ret == 0) {
		ret = cbt_session(changes->cbt, stamp);
	}
	if (ret == -EBADMSG || ret == -ENOTSUP) {
		DBG_ERR("hvrs: shared disk %s: its map of changes is not "
			"usable: %s: changes are not tracked\n", open->path,
			why != NULL ? why : "of another version");
		talloc_free(changes);
		*_bad = true;
		return NT_STATUS_OK;
	}
	if (ret != 0) {
		talloc_free(changes);
		return status_of(open, ret);
	}
	*_changes = changes;
	return NT_STATUS_OK;
}

/*
 * The caller's bytes of the map: whether START is in force, and the leaves the
 * set may have.  Two, as the map is written before the set.  A tool that gave
 * the set another one while nobody looked may have changed the disk.
 */
#define OWN_STARTED 0
#define OWN_LEAF 8

static void leaf_put(uint8_t own[CBT_OWN_SIZE], unsigned which,
		     const char *leaf)
{
	SIVAL(own, OWN_LEAF + 8 * which, crc32c(leaf, strlen(leaf)));
	SIVAL(own, OWN_LEAF + 8 * which + 4, strlen(leaf));
}

static bool leaf_is(const struct cbt_header *h, const char *leaf)
{
	uint8_t own[CBT_OWN_SIZE] = {};

	leaf_put(own, 0, leaf);
	return memcmp(own + OWN_LEAF, h->own + OWN_LEAF, 8) == 0 ||
		memcmp(own + OWN_LEAF, h->own + OWN_LEAF + 8, 8) == 0;
}

static int leaf_expect(struct cbt *cbt, const char *now, const char *next)
{
	uint8_t own[CBT_OWN_SIZE];

	memcpy(own, cbt_header_get(cbt)->own, sizeof(own));
	leaf_put(own, 0, now);
	leaf_put(own, 1, next);
	return cbt_own_set(cbt, own);
}

NTSTATUS rsvd_changes_open(struct rsvd_open *open, struct rsvd_image *image)
{
	NTSTATUS status = rsvd_changes_look(image, open, &image->changes,
					    &image->changes_bad);

	if (image->changes != NULL &&
	    !leaf_is(cbt_header_get(image->changes->cbt), image->file)) {
		DBG_ERR("hvrs: shared disk %s: the set was changed without its "
			"map of changes, which counts no more\n", open->path);
		TALLOC_FREE(image->changes);
		image->changes_bad = true;
	}
	return status;
}

/* ---- writes ---------------------------------------------------------------------- */

struct note_state {
	struct rsvd_changes *changes;
	uint64_t offset;
	uint64_t length;
	struct store_io io;
};

int rsvd_changes_note(struct rsvd_image *image, uint64_t offset,
		      uint64_t length)
{
	struct rsvd_changes *changes = image->changes;

	if (changes == NULL) {
		return 0;
	}
	if (cbt_note_waits(changes->cbt, offset, length)) {
		return -EAGAIN;
	}
	return cbt_note(changes->cbt, offset, length);
}

static void on_armed(struct store_io *io, int result)
{
	struct tevent_req *req = io->private_data;
	struct note_state *state = tevent_req_data(req, struct note_state);

	if (result == 0) {
		cbt_arm_done(state->changes->cbt, state->offset,
			     state->length);
		result = cbt_note(state->changes->cbt, state->offset,
				  state->length);
	}
	if (result != 0) {
		tevent_req_error(req, -result);
		return;
	}
	tevent_req_done(req);
}

struct tevent_req *rsvd_changes_note_send(TALLOC_CTX *mem_ctx,
					  struct rsvd_image *image,
					  uint64_t offset, uint64_t length)
{
	struct note_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct note_state);
	int ret = 0;

	if (req == NULL) {
		return NULL;
	}
	state->changes = image->changes;
	state->offset = offset;
	state->length = length;
	ret = cbt_arm_write(state->changes->cbt, offset, length);
	if (ret != 0) {
		tevent_req_error(req, -ret);
		return tevent_req_post(req, image->ev);
	}
	state->io = (struct store_io) {
		.op = STORE_FLUSH, .done = on_armed, .private_data = req,
	};
	store_submit(state->changes->store, &state->io);
	return req;
}

int rsvd_changes_note_recv(struct tevent_req *req)
{
	int error = 0;

	return tevent_req_is_unix_error(req, &error) ? -error : 0;
}

/* ---- while all commands are held up ------------------------------------------------ */

static NTSTATUS map_fill(struct rsvd_open *open, struct store *store,
			 uint64_t size)
{
	const char *leaf = open->image->file;
	struct cbt *cbt = NULL;
	int ret = cbt_create(store, size);

	if (ret == 0) {
		ret = cbt_open(talloc_tos(), store, NULL, false, &cbt, NULL);
	}
	if (ret == 0) {
		ret = leaf_expect(cbt, leaf, leaf);
	}
	TALLOC_FREE(cbt);
	return status_of(open, ret);
}

/* The header as it is now; another process may have changed it last. */
static NTSTATUS fresh(struct rsvd_open *open, bool create)
{
	struct rsvd_image *image = open->image;
	struct store *store = NULL;
	char *path = map_path(talloc_tos(), open);
	struct vhdx_info info = {};
	NTSTATUS status = NT_STATUS_OK;

	if (path == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	TALLOC_FREE(image->changes);
	status = rsvd_changes_open(open, image);
	if (!NT_STATUS_IS_OK(status) || image->changes != NULL || !create) {
		return status;
	}
	if (image->changes_bad) {
		status = rsvd_file_remove(open, path);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_open(talloc_tos(), open, path,
					RSVD_FILE_SHARED, &store);
	}
	if (NT_STATUS_IS_OK(status)) {
		vhdx_info_get(image->disk, &info);
		status = map_fill(open, store, info.size);
		TALLOC_FREE(store);
	}
	if (NT_STATUS_IS_OK(status)) {
		status = rsvd_file_folder_flush(open, path);
	}
	return NT_STATUS_IS_OK(status) ? rsvd_changes_open(open, image)
				       : status;
}

static int turn_on(struct cbt *cbt)
{
	int ret = cbt_start(cbt);

	/* What is known is worthless: begin anew. */
	return ret == -ESTALE ? cbt_reset(cbt) : ret;
}

NTSTATUS rsvd_changes_start(struct rsvd_open *open, bool append)
{
	uint8_t own[CBT_OWN_SIZE] = {};
	const struct cbt_header *h = NULL;
	NTSTATUS status = fresh(open, true);
	struct cbt *cbt = NULL;
	uint32_t i = 0;
	int ret = 0;

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	cbt = open->image->changes->cbt;
	h = cbt_header_get(cbt);
	if (append && h->state == CBT_BROKEN) {
		return NT_STATUS(RSVD_TRACKING_CHANGED_OFFLINE);
	}
	ret = turn_on(cbt);
	for (i = 0; i < h->count && ret == 0 && !append; i++) {
		if ((h->marks[i].flags & CBT_OWN) != 0) {
			struct guid id = h->marks[i].id;

			ret = cbt_mark_own(cbt, &id, false);
		}
	}
	memcpy(own, h->own, sizeof(own));
	own[OWN_STARTED] = 1;
	if (ret == 0 && own[OWN_STARTED] != h->own[OWN_STARTED]) {
		ret = cbt_own_set(cbt, own);
	}
	return status_of(open, ret);
}

NTSTATUS rsvd_changes_stop(struct rsvd_open *open, uint32_t *_tracking)
{
	uint8_t own[CBT_OWN_SIZE] = {};
	const struct cbt_header *h = NULL;
	NTSTATUS status = fresh(open, false);
	struct cbt *cbt = NULL;
	uint32_t i = 0;
	int ret = 0;

	*_tracking = rsvd_changes_status(open->image->changes,
					 open->image->changes_bad);
	if (!NT_STATUS_IS_OK(status) || *_tracking != 0) {
		return status;
	}
	cbt = open->image->changes->cbt;
	h = cbt_header_get(cbt);
	for (i = 0; i < h->count && ret == 0; i++) {
		if ((h->marks[i].flags & CBT_OWN) != 0) {
			struct guid id = h->marks[i].id;

			ret = cbt_mark_own(cbt, &id, false);
		}
	}
	memcpy(own, h->own, sizeof(own));
	own[OWN_STARTED] = 0;
	if (ret == 0) {
		ret = cbt_own_set(cbt, own);
	}
	/* Reference points of backups go on being followed. */
	if (ret == 0 && h->count == 0) {
		ret = cbt_stop(cbt);
	}
	return status_of(open, ret);
}

uint32_t rsvd_changes_status(const struct rsvd_changes *changes, bool bad)
{
	const struct cbt_header *h = NULL;

	if (bad) {
		return RSVD_TRACKING_INCONSISTENT;
	}
	if (changes == NULL) {
		return RSVD_TRACKING_NOT_INITIALIZED;
	}
	h = cbt_header_get(changes->cbt);
	if (h->state == CBT_BROKEN) {
		return RSVD_TRACKING_CHANGED_OFFLINE;
	}
	return h->own[OWN_STARTED] != 0 ? 0 : RSVD_TRACKING_NOT_INITIALIZED;
}

uint64_t rsvd_changes_log_size(const struct rsvd_changes *changes)
{
	struct files_struct *fsp = changes != NULL ?
		rsvd_store_file(changes->store) : NULL;
	SMB_STRUCT_STAT st = {};

	if (fsp == NULL || SMB_VFS_FSTAT(fsp, &st) != 0) {
		return 0;
	}
	return (uint64_t)st.st_ex_blocks * 512;
}

/* Marks that no snapshot has make room. */
static int prune(struct cbt *cbt, struct vhdset *set)
{
	const struct cbt_header *h = cbt_header_get(cbt);
	const struct vhdset_snapshot *s = NULL;
	uint32_t i = h->count;
	int ret = 0;

	while (i-- > 0 && ret == 0) {
		struct guid id = h->marks[i].id;

		if (vhdset_snapshot_find(set, &id, &s) == -ENOENT) {
			ret = cbt_forget(cbt, &id);
		}
	}
	return ret;
}

/*
 * Before the set names the snapshot: a crash in between leaves a mark that
 * nobody asks for, which the next of that id takes the place of.
 */
NTSTATUS rsvd_changes_mark(struct rsvd_open *open, struct rsvd_set *set,
			   const struct vhdset_snapshot *s, const char *leaf)
{
	bool tracked = (s->flags & VHDSET_TRACKED) != 0;
	NTSTATUS status = fresh(open, tracked);
	struct cbt *cbt = NULL;
	int ret = 0;

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (open->image->changes == NULL) {
		return NT_STATUS_OK;
	}
	cbt = open->image->changes->cbt;
	ret = cbt_forget(cbt, &s->id);
	if (ret == -ENOENT) {
		ret = 0;
	}
	if (ret == 0 && tracked) {
		ret = turn_on(cbt);
	}
	if (ret == 0 && cbt_header_get(cbt)->count == CBT_MARKS_MAX) {
		ret = prune(cbt, set->set);
	}
	if (ret == 0) {
		ret = cbt_mark(cbt, &s->id);
	}
	if (ret == 0 && s->type == VHDSET_CDP &&
	    rsvd_changes_status(open->image->changes, false) == 0) {
		ret = cbt_mark_own(cbt, &s->id, true);
	}
	if (ret == 0) {
		ret = leaf_expect(cbt, open->image->file, leaf);
	}
	return status_of(open, ret);
}

/* Before the set goes back to a snapshot. */
NTSTATUS rsvd_changes_revert(struct rsvd_open *open, const struct guid *id,
			     const char *leaf)
{
	NTSTATUS status = fresh(open, false);
	const struct cbt_header *h = NULL;
	struct vhdx_info info = {};
	struct cbt *cbt = NULL;
	int ret = 0;

	if (!NT_STATUS_IS_OK(status) || open->image->changes == NULL) {
		return status;
	}
	cbt = open->image->changes->cbt;
	ret = cbt_revert(cbt, id);
	if (ret == -ENOENT) {
		/* From before it was tracked: anything may differ. */
		h = cbt_header_get(cbt);
		vhdx_info_get(open->image->disk, &info);
		ret = cbt_note(cbt, 0, MAX(h->size, info.size));
	}
	if (ret == 0) {
		ret = leaf_expect(cbt, open->image->file, leaf);
	}
	return status_of(open, ret);
}

/* Before the disk has another size. */
NTSTATUS rsvd_changes_resize(struct rsvd_open *open, uint64_t size)
{
	NTSTATUS status = fresh(open, false);

	if (!NT_STATUS_IS_OK(status) || open->image->changes == NULL) {
		return status;
	}
	return status_of(open, cbt_resize(open->image->changes->cbt, size));
}

/* After the snapshot went: writes may be under way. */
void rsvd_changes_forget(struct rsvd_open *open, const struct guid *id)
{
	struct rsvd_changes *changes = NULL;
	bool bad = false;
	/* A view of its own: those of writes stay as they are. */
	NTSTATUS status = rsvd_changes_look(talloc_tos(), open, &changes,
					    &bad);
	int ret = 0;

	if (NT_STATUS_IS_OK(status) && changes != NULL) {
		ret = cbt_forget(changes->cbt, id);
	}
	TALLOC_FREE(changes);
	if (ret != 0 && ret != -ENOENT) {
		/* It stays until there is no room. */
		(void)status_of(open, ret);
	}
}

bool rsvd_changes_is_active(const struct rsvd_changes *changes,
			    const struct guid *id)
{
	const struct cbt_header *h = NULL;
	uint32_t i = 0;

	if (changes == NULL) {
		return false;
	}
	h = cbt_header_get(changes->cbt);
	for (i = 0; i < h->count; i++) {
		if (guid_equal(&h->marks[i].id, id)) {
			return (h->marks[i].flags & CBT_OWN) != 0;
		}
	}
	return false;
}
