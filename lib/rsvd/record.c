/*
 * The record of a shared disk: who has it open, and its reservations.
 */
#include "rsvd/rsvd.h"

#include <errno.h>
#include <string.h>

#include "util/cursor.h"

#define MAGIC 0x44535652	/* "RVSD" */
#define HEAD_SIZE 44
#define OPEN_V1_SIZE 124
#define OPEN_SIZE 140
#define WORKER_SIZE 24
#define PROGRESS_SIZE (56 + WORKER_SIZE)
#define SET_SIZE (8 + 16 + WORKER_SIZE + 56 + WORKER_SIZE + 8 + \
		  RSVD_RECORD_PROGRESS_MAX * PROGRESS_SIZE)
#define PATH_MAX_BYTES 8192

enum open_flags {
	PERSISTENT = 1,
	INITIATOR = 2,
};

struct rsvd_record *rsvd_record_create(TALLOC_CTX *mem_ctx)
{
	struct rsvd_record *r = talloc_zero(mem_ctx, struct rsvd_record);

	if (r == NULL) {
		return NULL;
	}
	r->path = talloc_strdup(r, "");
	if (r->path == NULL) {
		talloc_free(r);
		return NULL;
	}
	return r;
}

static void worker_encode(struct cursor_put *p, const struct rsvd_worker *w)
{
	cursor_put_le64(p, w->pid);
	cursor_put_le32(p, w->vnn);
	cursor_put_le32(p, w->task);
	cursor_put_le64(p, w->unique);
}

static void worker_decode(struct cursor *c, struct rsvd_worker *w)
{
	w->pid = cursor_le64(c);
	w->vnn = cursor_le32(c);
	w->task = cursor_le32(c);
	w->unique = cursor_le64(c);
}

/* What version 2 added, SET_SIZE bytes between head and path. */
static void set_encode(struct cursor_put *p, const struct rsvd_record *r)
{
	size_t i = 0;

	cursor_put_le64(p, r->epoch);
	cursor_put_le32(p, r->block.active ? 1 : 0);
	cursor_put_le32(p, r->block.working ? 1 : 0);
	cursor_put_le64(p, r->block.until_ms);
	worker_encode(p, &r->block.worker);
	cursor_put_le32(p, r->making.stage);
	cursor_put_le32(p, r->making.type);
	cursor_put_le32(p, r->making.flags);
	/* Where there was nothing: 0 is of a block that is told by its end. */
	cursor_put_le32(p, r->block.time_ms);
	cursor_put_guid(p, &r->making.transaction);
	cursor_put_guid(p, &r->making.snapshot);
	cursor_put_le64(p, r->making.until_ms);
	worker_encode(p, &r->making.worker);
	cursor_put_le64(p, r->progress_count);
	for (i = 0; i < RSVD_RECORD_PROGRESS_MAX; i++) {
		const struct rsvd_progress *o = &r->progress[i];

		cursor_put_guid(p, &o->transaction);
		cursor_put_le32(p, o->type);
		cursor_put_le32(p, o->status);
		cursor_put_le64(p, o->over ? 1 : 0);
		cursor_put_le64(p, o->done);
		cursor_put_le64(p, o->all);
		cursor_put_le64(p, o->started_ms);
		worker_encode(p, &o->worker);
	}
}

static void set_decode(struct cursor *c, struct rsvd_record *r)
{
	size_t i = 0;

	r->epoch = cursor_le64(c);
	r->block.active = cursor_le32(c) != 0;
	r->block.working = cursor_le32(c) != 0;
	r->block.until_ms = cursor_le64(c);
	worker_decode(c, &r->block.worker);
	r->making.stage = cursor_le32(c);
	r->making.type = cursor_le32(c);
	r->making.flags = cursor_le32(c);
	r->block.time_ms = cursor_le32(c);
	cursor_guid(c, &r->making.transaction);
	cursor_guid(c, &r->making.snapshot);
	r->making.until_ms = cursor_le64(c);
	worker_decode(c, &r->making.worker);
	r->progress_count = cursor_le64(c);
	for (i = 0; i < RSVD_RECORD_PROGRESS_MAX; i++) {
		struct rsvd_progress *o = &r->progress[i];

		cursor_guid(c, &o->transaction);
		o->type = cursor_le32(c);
		o->status = cursor_le32(c);
		o->over = cursor_le64(c) != 0;
		o->done = cursor_le64(c);
		o->all = cursor_le64(c);
		o->started_ms = cursor_le64(c);
		worker_decode(c, &o->worker);
	}
}

int rsvd_record_encode(TALLOC_CTX *mem_ctx, const struct rsvd_record *r,
		       uint8_t **_bytes, size_t *_length)
{
	size_t path_length = strlen(r->path);
	size_t pr_length = scsi_pr_size(&r->pr);
	size_t length = HEAD_SIZE + SET_SIZE + path_length +
		OPEN_SIZE * r->open_count + pr_length;
	uint8_t *bytes = talloc_size(mem_ctx, length);
	struct cursor_put p = {};
	size_t i = 0;

	if (bytes == NULL) {
		return -ENOMEM;
	}
	cursor_put_init(&p, bytes, length);
	cursor_put_le32(&p, MAGIC);
	cursor_put_le32(&p, RSVD_RECORD_VERSION);
	cursor_put_guid(&p, &r->disk_id);
	cursor_put_le64(&p, r->disk_size);
	cursor_put_le32(&p, (uint32_t)path_length);
	cursor_put_le32(&p, (uint32_t)r->open_count);
	cursor_put_le32(&p, (uint32_t)pr_length);
	set_encode(&p, r);
	cursor_put_bytes(&p, r->path, path_length);
	for (i = 0; i < r->open_count; i++) {
		const struct rsvd_record_open *o = &r->opens[i];

		cursor_put_le64(&p, o->pid);
		cursor_put_le32(&p, o->vnn);
		cursor_put_le32(&p, o->task);
		cursor_put_le64(&p, o->unique);
		cursor_put_le64(&p, o->open_id);
		cursor_put_le32(&p, o->slot);
		cursor_put_le32(&p, (o->persistent ? PERSISTENT : 0) |
				    (o->has_initiator ? INITIATOR : 0));
		cursor_put_guid(&p, &o->initiator);
		cursor_put_bytes(&p, o->host, sizeof(o->host));
		cursor_put_zero(&p, 4);
		cursor_put_guid(&p, &o->snapshot);
	}
	if (p.failed || p.at + pr_length != length) {
		talloc_free(bytes);
		return -EINVAL;
	}
	scsi_pr_encode(&r->pr, bytes + p.at);
	*_bytes = bytes;
	*_length = length;
	return 0;
}

static void open_decode(struct cursor *c, uint32_t version,
			struct rsvd_record_open *o)
{
	uint32_t flags = 0;

	o->pid = cursor_le64(c);
	o->vnn = cursor_le32(c);
	o->task = cursor_le32(c);
	o->unique = cursor_le64(c);
	o->open_id = cursor_le64(c);
	o->slot = cursor_le32(c);
	flags = cursor_le32(c);
	o->persistent = (flags & PERSISTENT) != 0;
	o->has_initiator = (flags & INITIATOR) != 0;
	cursor_guid(c, &o->initiator);
	cursor_bytes(c, o->host, sizeof(o->host));
	o->host[sizeof(o->host) - 1] = '\0';
	cursor_skip(c, 4);
	if (version >= 2) {
		cursor_guid(c, &o->snapshot);
	}
}

static int record_fill(struct rsvd_record *r, struct cursor *c,
		       uint32_t version, uint32_t path_length, uint32_t opens, uint32_t pr_length,
		       const char **_why)
{
	const uint8_t *path = NULL;
	uint32_t i = 0;
	int ret = 0;

	if (version >= 2) {
		set_decode(c, r);
	}
	*_why = "a number of it makes no sense";
	if (r->progress_count > RSVD_RECORD_PROGRESS_MAX ||
	    r->making.stage > RSVD_STAGE_FAILED) {
		return -EINVAL;
	}
	path = cursor_borrow(c, path_length);

	*_why = "there is no memory";
	talloc_free(r->path);
	r->path = talloc_strndup(r, (const char *)path, path_length);
	r->opens = talloc_zero_array(r, struct rsvd_record_open, opens);
	if (r->path == NULL || r->opens == NULL) {
		return -ENOMEM;
	}
	r->open_count = opens;
	for (i = 0; i < opens; i++) {
		open_decode(c, version, &r->opens[i]);
	}
	ret = scsi_pr_decode(cursor_borrow(c, pr_length), pr_length, &r->pr,
			     _why);
	if (ret == 0) {
		ret = scsi_pr_validate(&r->pr, _why);
	}
	return ret;
}

int rsvd_record_decode(TALLOC_CTX *mem_ctx, const uint8_t *bytes,
		       size_t length, struct rsvd_record **_r,
		       const char **_why)
{
	struct rsvd_record *r = NULL;
	struct cursor c = {};
	struct guid disk_id = {};
	uint64_t disk_size = 0;
	uint32_t magic = 0;
	uint32_t version = 0;
	uint32_t path_length = 0;
	uint32_t opens = 0;
	uint32_t pr_length = 0;
	int ret = 0;

	cursor_init(&c, bytes, length);
	magic = cursor_le32(&c);
	version = cursor_le32(&c);
	*_why = "it does not begin as a shared disk does";
	if (cursor_status(&c) != 0 || magic != MAGIC) {
		return -EINVAL;
	}
	*_why = "it is of another version of hvrs";
	if (version != 1 && version != RSVD_RECORD_VERSION) {
		return -EPROTONOSUPPORT;
	}
	cursor_guid(&c, &disk_id);
	disk_size = cursor_le64(&c);
	path_length = cursor_le32(&c);
	opens = cursor_le32(&c);
	pr_length = cursor_le32(&c);
	*_why = "its length is wrong";
	if (cursor_status(&c) != 0 || path_length > PATH_MAX_BYTES ||
	    opens > RSVD_RECORD_OPENS_MAX || pr_length > SCSI_PR_SIZE_MAX ||
	    length != HEAD_SIZE + (version >= 2 ? SET_SIZE : 0) +
		      (size_t)path_length +
		      (version >= 2 ? OPEN_SIZE : OPEN_V1_SIZE) *
		      (size_t)opens + pr_length) {
		return -EINVAL;
	}
	*_why = "there is no memory";
	r = rsvd_record_create(mem_ctx);
	if (r == NULL) {
		return -ENOMEM;
	}
	r->disk_id = disk_id;
	r->disk_size = disk_size;
	ret = record_fill(r, &c, version, path_length, opens, pr_length,
			  _why);
	if (ret != 0) {
		talloc_free(r);
		return ret;
	}
	*_r = r;
	return 0;
}

int rsvd_record_open_add(struct rsvd_record *r,
			 const struct rsvd_record_open *open)
{
	struct rsvd_record_open *opens = NULL;
	int ret = 0;

	if (r->open_count >= RSVD_RECORD_OPENS_MAX) {
		return -ENOSPC;
	}
	opens = talloc_realloc(r, r->opens, struct rsvd_record_open,
			       (unsigned)r->open_count + 1);
	if (opens == NULL) {
		return -ENOMEM;
	}
	r->opens = opens;
	if (open->has_initiator && !guid_is_null(&open->initiator)) {
		ret = scsi_pr_attach(&r->pr, &open->initiator);
	}
	if (ret != 0) {
		return ret;
	}
	opens[r->open_count++] = *open;
	return 0;
}

void rsvd_record_open_remove(struct rsvd_record *r, size_t index)
{
	const struct rsvd_record_open *open = &r->opens[index];

	if (open->has_initiator && !guid_is_null(&open->initiator)) {
		scsi_pr_detach(&r->pr, &open->initiator);
	}
	r->open_count--;
	memmove(&r->opens[index], &r->opens[index + 1],
		(r->open_count - index) * sizeof(r->opens[0]));
}

/* ---- meta operations ----------------------------------------------------------------- */

struct rsvd_progress *rsvd_record_progress_find(struct rsvd_record *r,
						const struct guid *transaction,
						uint32_t type)
{
	size_t i = r->progress_count;

	while (i-- > 0) {
		if (guid_equal(&r->progress[i].transaction, transaction) &&
		    (type == UINT32_MAX || r->progress[i].type == type)) {
			return &r->progress[i];
		}
	}
	return NULL;
}

struct rsvd_progress *rsvd_record_progress_add(struct rsvd_record *r)
{
	size_t i = 0;

	if (r->progress_count == RSVD_RECORD_PROGRESS_MAX) {
		/* They are in the order of their start. */
		while (i < r->progress_count && !r->progress[i].over) {
			i++;
		}
		if (i == r->progress_count) {
			return NULL;
		}
		r->progress_count--;
		memmove(&r->progress[i], &r->progress[i + 1],
			(r->progress_count - i) * sizeof(r->progress[0]));
	}
	r->progress[r->progress_count] = (struct rsvd_progress) {};
	return &r->progress[r->progress_count++];
}

/* ---- what a handle keeps ------------------------------------------------------------ */

#define KEPT_VERSION 1

enum kept_flags {
	WRITABLE = 1,
	THROUGH = 2,
	MAY_DELETE = 4,
};

size_t rsvd_kept_encode(const struct rsvd_kept *kept,
			uint8_t out[RSVD_KEPT_SIZE_MAX])
{
	uint8_t context[RSVD_CONTEXT_V2_SIZE];
	struct rsvd_context c = kept->context;
	struct cursor_put p = {};
	size_t i = 0;

	/* The version asked for goes first; the rest has one layout. */
	c.version = 1;
	(void)rsvd_context_encode(&c, NULL, context);
	cursor_put_init(&p, out, RSVD_KEPT_SIZE_MAX);
	cursor_put_le16(&p, KEPT_VERSION);
	cursor_put_le16(&p, (uint16_t)kept->context.version);
	cursor_put_le32(&p, kept->create_options);
	cursor_put_le32(&p, (kept->writable ? WRITABLE : 0) |
			    (kept->through ? THROUGH : 0) |
			    (kept->may_delete ? MAY_DELETE : 0));
	cursor_put_le16(&p, kept->ring.sequence);
	cursor_put_bytes(&p, context, RSVD_CONTEXT_V1_SIZE);
	for (i = 0; i < 256; i++) {
		const struct rsvd_error *e = &kept->ring.errors[i];

		if (e->stored) {
			cursor_put_u8(&p, (uint8_t)i);
			cursor_put_u8(&p, e->srb_status);
			cursor_put_u8(&p, e->scsi_status);
			cursor_put_bytes(&p, e->sense, sizeof(e->sense));
		}
	}
	return cursor_put_length(&p);
}

int rsvd_kept_decode(const uint8_t *bytes, size_t length,
		     struct rsvd_kept *_kept)
{
	struct cursor c = {};
	uint16_t kept_version = 0;
	uint16_t version = 0;
	uint32_t flags = 0;
	int ret = 0;

	cursor_init(&c, bytes, length);
	kept_version = cursor_le16(&c);
	if (cursor_status(&c) == 0 && kept_version != KEPT_VERSION) {
		return -EPROTONOSUPPORT;
	}
	if (length < RSVD_KEPT_SIZE ||
	    (length - RSVD_KEPT_SIZE) % RSVD_KEPT_ERROR_SIZE != 0) {
		return -EINVAL;
	}
	memset(_kept, 0, sizeof(*_kept));
	version = cursor_le16(&c);
	_kept->create_options = cursor_le32(&c);
	flags = cursor_le32(&c);
	_kept->writable = (flags & WRITABLE) != 0;
	_kept->through = (flags & THROUGH) != 0;
	_kept->may_delete = (flags & MAY_DELETE) != 0;
	_kept->ring.sequence = (uint8_t)cursor_le16(&c);
	ret = rsvd_context_decode(bytes + c.at, RSVD_CONTEXT_V1_SIZE, 1,
				  &_kept->context);
	if (ret != 0) {
		return -EINVAL;
	}
	_kept->context.version = version;
	cursor_skip(&c, RSVD_CONTEXT_V1_SIZE);
	while (cursor_remaining(&c) > 0) {
		struct rsvd_error *e = &_kept->ring.errors[cursor_u8(&c)];

		e->stored = true;
		e->srb_status = cursor_u8(&c);
		e->scsi_status = cursor_u8(&c);
		cursor_bytes(&c, e->sense, sizeof(e->sense));
	}
	return cursor_status(&c);
}
