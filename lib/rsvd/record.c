/*
 * The record of a shared disk: who has it open, and its reservations.
 */
#include "rsvd/rsvd.h"

#include <errno.h>
#include <string.h>

#include "util/cursor.h"

#define MAGIC 0x44535652	/* "RVSD" */
#define HEAD_SIZE 44
#define OPEN_SIZE 124
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

int rsvd_record_encode(TALLOC_CTX *mem_ctx, const struct rsvd_record *r,
		       uint8_t **_bytes, size_t *_length)
{
	size_t path_length = strlen(r->path);
	size_t pr_length = scsi_pr_size(&r->pr);
	size_t length = HEAD_SIZE + path_length + OPEN_SIZE * r->open_count +
		pr_length;
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

static void open_decode(struct cursor *c, struct rsvd_record_open *o)
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
}

static int record_fill(struct rsvd_record *r, struct cursor *c,
		       uint32_t path_length, uint32_t opens, uint32_t pr_length,
		       const char **_why)
{
	const uint8_t *path = cursor_borrow(c, path_length);
	uint32_t i = 0;
	int ret = 0;

	*_why = "there is no memory";
	talloc_free(r->path);
	r->path = talloc_strndup(r, (const char *)path, path_length);
	r->opens = talloc_zero_array(r, struct rsvd_record_open, opens);
	if (r->path == NULL || r->opens == NULL) {
		return -ENOMEM;
	}
	r->open_count = opens;
	for (i = 0; i < opens; i++) {
		open_decode(c, &r->opens[i]);
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
	if (version != RSVD_RECORD_VERSION) {
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
	    length != HEAD_SIZE + (size_t)path_length +
		      OPEN_SIZE * (size_t)opens + pr_length) {
		return -EINVAL;
	}
	*_why = "there is no memory";
	r = rsvd_record_create(mem_ctx);
	if (r == NULL) {
		return -ENOMEM;
	}
	r->disk_id = disk_id;
	r->disk_size = disk_size;
	ret = record_fill(r, &c, path_length, opens, pr_length, _why);
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
