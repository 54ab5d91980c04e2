/* Opening and closing a file; sessions; what is known of a disk. */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"

/* ---- sessions ------------------------------------------------------------- */

int vhdx_session_header(const struct vhdx *disk, bool data,
			struct vhdx_header *_header)
{
	struct vhdx_header h = disk->header;
	int ret = 0;

	if (!disk->session) {
		ret = guid_random(&h.file_write_guid);
	}
	if (ret == 0 && data && !disk->data_session) {
		ret = guid_random(&h.data_write_guid);
	}
	*_header = h;
	return ret;
}

int vhdx_session_start(struct vhdx *disk, bool data)
{
	struct vhdx_header h = {};
	int ret = 0;

	if (disk->session && (!data || disk->data_session)) {
		return 0;
	}
	ret = vhdx_session_header(disk, data, &h);
	if (ret == 0) {
		ret = vhdx_header_update(disk, &h, 1);
	}
	if (ret == 0) {
		disk->session = true;
		disk->data_session = disk->data_session || data;
	}
	return ret;
}

static int read_headers(struct vhdx *disk, const char **why)
{
	uint8_t headers[2][VHDX_HEADER_SIZE] = {};
	unsigned slot = 0;
	int ret = 0;

	for (slot = 0; slot < 2; slot++) {
		ret = store_read(disk->store, headers[slot], VHDX_HEADER_SIZE,
				 VHDX_HEADER_OFFSET(slot));
		if (ret != 0 && ret != -ENODATA) {
			return ret;
		}
	}
	return vhdx_header_select(headers[0], headers[1], &disk->header,
				  &disk->slot, why);
}

/* The log goes into the file, which is then as if it had been closed. */
static int replay_into_file(struct vhdx *disk,
			    const struct vhdx_sequence *found,
			    const char **why)
{
	struct vhdx_header h = {};
	int ret = vhdx_session_start(disk, false);

	if (ret == 0) {
		ret = vhdx_log_replay(disk, disk->store, &disk->header, found,
				      NULL, why);
	}
	if (ret == 0) {
		ret = store_flush(disk->store);
	}
	if (ret == 0) {
		h = disk->header;
		h.log_guid = (struct guid) {};
		ret = vhdx_header_update(disk, &h, 2);
	}
	return ret;
}

int vhdx_session_recover(struct vhdx *disk, const char **why)
{
	struct vhdx_sequence found = {};
	int ret = read_headers(disk, why);

	disk->log = (struct vhdx_log) {};
	if (ret != 0 || guid_is_null(&disk->header.log_guid)) {
		return ret;
	}
	ret = vhdx_log_find(disk, disk->store, &disk->header, &found, why);
	if (ret != 0) {
		return ret;
	}
	disk->replayed = true;
	if (disk->writable) {
		return replay_into_file(disk, &found, why);
	}
	disk->overlay = vhdx_overlay_new(disk);
	if (disk->overlay == NULL) {
		return -ENOMEM;
	}
	disk->file_size = found.last_file_offset;
	return vhdx_log_replay(disk, disk->store, &disk->header, &found,
			       disk->overlay, why);
}

int vhdx_session_end(struct vhdx *disk)
{
	struct vhdx_header h = disk->header;
	int ret = 0;

	if (disk->broken != 0) {
		return disk->broken;
	}
	ret = vhdx_commit_wait(disk);
	if (ret == 0 && (disk->session || disk->log.active)) {
		ret = store_flush(disk->store);
	}
	if (ret == 0 && disk->log.active) {
		h = disk->header;
		h.log_guid = (struct guid) {};
		ret = vhdx_header_update(disk, &h, 2);
		disk->log.active = ret != 0;
	}
	return ret;
}

/* ---- opening -------------------------------------------------------------- */

static int read_identity(struct vhdx *disk, const char **why)
{
	uint8_t bytes[8 + 2 * VHDX_CREATOR_MAX] = {};
	int ret = store_read(disk->store, bytes, sizeof(bytes), 0);

	if (ret == 0) {
		ret = vhdx_identity_decode(bytes, disk->creator,
					   sizeof(disk->creator));
	}
	if (ret == -ENODATA || ret == -EBADMSG) {
		*why = "not a VHDX file";
		return -EBADMSG;
	}
	return ret;
}

static int measure(struct vhdx *disk)
{
	uint64_t end = disk->header.log_offset + disk->header.log_length;
	const struct vhdx_layout *l = &disk->layout;
	uint64_t size = 0;
	int ret = store_size(disk->store, &size);

	if (ret == 0) {
		ret = checked_round_up(size, VHDX_MIB, &size);
	}
	if (ret != 0) {
		return ret;
	}
	if (size > disk->file_size) {
		disk->file_size = size;
	}
	/* A structure may lie past the end of a file cut too short. */
	if (l->bat_offset + l->bat_length > end) {
		end = l->bat_offset + l->bat_length;
	}
	if (l->metadata_offset + l->metadata_length > end) {
		end = l->metadata_offset + l->metadata_length;
	}
	disk->space_end = size > end ? size : end;
	return 0;
}

/* Is there the parent that the disk needs? */
static int parent_take(struct vhdx *disk, const struct vhdx_open *how)
{
	if (!disk->geometry.has_parent || how->without_parent) {
		return 0;
	}
	if (how->parent == NULL) {
		return -ENOENT;
	}
	return vhdx_parent_check(disk, how->parent);
}

/* As the file says now, without its log. */
static int load_plain(struct vhdx *disk, const char **why)
{
	int ret = read_headers(disk, why);

	if (ret == 0) {
		ret = vhdx_load_regions(disk, why);
	}
	if (ret == 0) {
		ret = vhdx_load_metadata(disk, why);
	}
	return ret;
}

static int load(struct vhdx *disk, const struct vhdx_open *how,
		const char **why)
{
	int ret = vhdx_session_recover(disk, why);

	if (ret == 0) {
		ret = vhdx_load_regions(disk, why);
	}
	if (ret == 0) {
		ret = vhdx_load_metadata(disk, why);
	}
	if (ret == 0) {
		ret = measure(disk);
	}
	return ret == 0 ? parent_take(disk, how) : ret;
}

/*
 * In the middle of a turn of another disk of this process.  Nobody else has
 * the lock, and that turn changes neither size nor layout.
 */
static int join_beside(struct vhdx *disk, const struct vhdx_open *how,
		       const char **why)
{
	int ret = load_plain(disk, why);

	if (ret == 0) {
		ret = vhdx_share_beside(disk);
	}
	return ret == 0 ? parent_take(disk, how) : ret;
}

/* Reads the file, under the share's lock where there is one. */
static int join(struct vhdx *disk, const struct vhdx_open *how,
		const char **why)
{
	bool first = true;
	int ret = 0;
	int ret2 = 0;

	if (disk->share == NULL) {
		return load(disk, how, why);
	}
	ret = disk->share->ops->lock_wait(disk->share);
	if (ret == -EDEADLK) {
		return join_beside(disk, how, why);
	}
	if (ret != 0) {
		return ret;
	}
	/* What the record does not tell must be there before it is taken. */
	ret = load_plain(disk, why);
	if (ret != 0 && ret != -EBADMSG) {
		disk->share->ops->unlock(disk->share);
		return ret;
	}
	/* -EBADMSG perhaps only until a log is replayed, as first or below. */
	ret = vhdx_share_enter(disk, &first);
	if (ret != 0) {
		return ret;
	}
	if (first) {
		ret = load(disk, how, why);
	} else {
		ret = parent_take(disk, how);
	}
	if (ret != 0 && first) {
		/* As if never joined. */
		disk->share->ops->unlock(disk->share);
		return ret;
	}
	ret2 = vhdx_share_unlock(disk, false, false);
	return ret != 0 ? ret : ret2;
}

int vhdx_open(TALLOC_CTX *mem_ctx, struct store *store,
	      const struct vhdx_open *how, struct vhdx **_disk,
	      const char **_why)
{
	struct vhdx *disk = NULL;
	const char *why = NULL;
	int ret = 0;

	if (_why == NULL) {
		_why = &why;
	}
	*_why = NULL;
	if ((how->share != NULL && !how->writable) ||
	    (how->parent != NULL && how->without_parent)) {
		return -EINVAL;
	}
	disk = talloc_zero(mem_ctx, struct vhdx);
	if (disk == NULL) {
		return -ENOMEM;
	}
	disk->store = store;
	disk->share = how->share;
	disk->writable = how->writable;
	disk->without_parent = how->without_parent;
	ret = vhdx_pages_init(disk, how->cache_bytes);
	if (ret == 0 && how->writable) {
		ret = vhdx_commit_init(disk);
	}
	if (ret == 0) {
		ret = read_identity(disk, _why);
	}
	if (ret == 0) {
		ret = join(disk, how, _why);
	}
	if (ret != 0) {
		talloc_free(disk);
		return ret;
	}
	if (disk->geometry.has_parent && how->parent != NULL) {
		disk->parent = talloc_steal(disk, how->parent);
	}
	*_disk = disk;
	return 0;
}

/* ---- closing -------------------------------------------------------------- */

static int leave(struct vhdx *disk)
{
	bool alone = false;
	int ret = vhdx_share_lock(disk, NULL);

	if (ret == -EDEADLK) {
		/* Another of this process goes on. */
		return 0;
	}
	if (ret != 0) {
		return ret;
	}
	ret = disk->share->ops->alone(disk->share, &alone);
	if (ret == 0 && alone) {
		ret = vhdx_session_end(disk);
	}
	if (ret != 0) {
		/* Left as it is: the next process repairs it. */
		disk->share->ops->unlock(disk->share);
		return ret;
	}
	return vhdx_share_unlock(disk, false, false);
}

int vhdx_close(struct vhdx *disk)
{
	int ret = 0;

	if (disk->requests > 0 || disk->commit.running ||
	    disk->gate.state == VHDX_GATE_LOCKING ||
	    disk->gate.state == VHDX_GATE_HEADER ||
	    disk->gate.state == VHDX_GATE_CLOSING) {
		return -EBUSY;
	}
	if (disk->writable) {
		if (disk->broken != 0) {
			ret = disk->broken;
		} else if (disk->share != NULL) {
			ret = leave(disk);
		} else {
			ret = vhdx_session_end(disk);
		}
	}
	talloc_free(disk);
	return ret;
}

/* ---- what is known -------------------------------------------------------- */

int vhdx_idle_check(const struct vhdx *disk, bool change)
{
	if (disk->requests > 0 || disk->commit.running) {
		return -EBUSY;
	}
	if (disk->broken != 0) {
		return disk->broken;
	}
	return change && !disk->writable ? -EROFS : 0;
}

void vhdx_info_get(const struct vhdx *disk, struct vhdx_info *_info)
{
	const struct vhdx_geometry *g = &disk->geometry;
	const struct vhdx_header *h = &disk->header;
	enum vhdx_type type = VHDX_DYNAMIC;

	if (g->has_parent) {
		type = VHDX_DIFFERENCING;
	} else if (g->leave_allocated) {
		type = VHDX_FIXED;
	}
	*_info = (struct vhdx_info) {
		.type = type,
		.size = g->size,
		.file_size = disk->file_size,
		.block_size = g->block_size,
		.logical_sector = g->logical_sector,
		.physical_sector = g->physical_sector,
		.writable = disk->writable,
		.leave_allocated = g->leave_allocated,
		.has_parent = g->has_parent,
		.log_was_replayed = disk->replayed,
		.version = h->version,
		.log_version = h->log_version,
		.sequence = h->sequence,
		.log_offset = h->log_offset,
		.log_length = h->log_length,
		.bat_offset = disk->layout.bat_offset,
		.bat_length = disk->layout.bat_length,
		.metadata_offset = disk->layout.metadata_offset,
		.metadata_length = disk->layout.metadata_length,
		.block_count = g->block_count,
		.file_write_guid = h->file_write_guid,
		.data_write_guid = h->data_write_guid,
		.log_guid = h->log_guid,
		.disk_id = disk->disk_id,
	};
	memcpy(_info->creator, disk->creator, sizeof(_info->creator));
}

int vhdx_locator_get(const struct vhdx *disk,
		     const struct vhdx_locator_pair **_pairs, size_t *_count)
{
	if (!disk->geometry.has_parent) {
		return -ENOENT;
	}
	*_pairs = disk->pairs;
	*_count = disk->pair_count;
	return 0;
}

struct vhdx *vhdx_parent_get(const struct vhdx *disk)
{
	return disk->parent;
}

static bool linkage_matches(const struct vhdx *child, const char *key,
			    const struct guid *wanted)
{
	const char *value = vhdx_locator_value(child->pairs,
					       child->pair_count, key);
	struct guid g = {};

	return value != NULL &&
	       guid_parse(value, strlen(value), &g) == 0 &&
	       guid_equal(&g, wanted);
}

int vhdx_parent_check(const struct vhdx *child, const struct vhdx *parent)
{
	const struct guid *wanted = &parent->header.data_write_guid;

	if (!child->geometry.has_parent ||
	    child->geometry.logical_sector != parent->geometry.logical_sector) {
		return -EINVAL;
	}
	/* Windows writes both and accepts either. */
	if (!linkage_matches(child, "parent_linkage", wanted) &&
	    !linkage_matches(child, "parent_linkage2", wanted)) {
		return -ESTALE;
	}
	return 0;
}
