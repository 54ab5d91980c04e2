/*
 * MS-RSVD version 2 as bytes.
 */
#include "rsvd/meta.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "util/cursor.h"
#include "util/utf16.h"

#define TYPE_VM 1U
#define TYPE_CDP 3U
#define TYPE_WRITEABLE 4U

#define INVALID(n) (RSVD_META_INVALID_1 + (n) - 1U)

uint32_t rsvd_meta_decode(const uint8_t *body, size_t length,
			  struct rsvd_meta *_m)
{
	struct rsvd_meta m = {};
	struct cursor in = {};

	if (length < RSVD_META_SIZE) {
		return RSVD_META_TOO_SMALL;
	}
	cursor_init(&in, body, length);
	cursor_guid(&in, &m.transaction);
	m.type = cursor_le32(&in);
	if (m.type > RSVD_META_APPLY) {
		return RSVD_META_INVALID;
	}
	m.data = body + RSVD_META_SIZE;
	m.length = length - RSVD_META_SIZE;
	*_m = m;
	return 0;
}

/* ---- snapshots ------------------------------------------------------------------ */

#define SNAPSHOT_SIZE 52
#define CDP_SIZE 76

static uint32_t stages_check(const uint32_t *stages)
{
	size_t i = 0;

	if (stages[0] == 0) {
		return INVALID(2);
	}
	for (i = 1; i < RSVD_STAGES; i++) {
		if (stages[i] != 0 && stages[i - 1] == 0) {
			return INVALID(3);
		}
		if (stages[i] != 0 && stages[i] <= stages[i - 1]) {
			return INVALID(4);
		}
	}
	for (i = 0; i < RSVD_STAGES; i++) {
		if (stages[i] > RSVD_DO_FINALIZE) {
			return INVALID(4);
		}
	}
	return 0;
}

static uint32_t flags_check(const struct rsvd_meta_snapshot *s)
{
	if (s->flags != 0 && s->type != TYPE_VM) {
		return INVALID(5);
	}
	if (s->flags > RSVD_SNAPSHOT_TRACKED) {
		return INVALID(5);
	}
	if (s->flags != 0 && s->stages[0] != RSVD_DO_INITIALIZE) {
		return INVALID(5);
	}
	return 0;
}

uint32_t rsvd_meta_snapshot_decode(const uint8_t *data, size_t length,
				   struct rsvd_meta_snapshot *_s)
{
	struct rsvd_meta_snapshot s = {};
	struct cursor in = {};
	uint32_t payload = 0;
	uint32_t name_length = 0;
	uint32_t status = 0;
	size_t i = 0;

	if (length < SNAPSHOT_SIZE) {
		return RSVD_META_TOO_SMALL;
	}
	cursor_init(&in, data, length);
	s.type = cursor_le32(&in);
	s.flags = cursor_le32(&in);
	for (i = 0; i < RSVD_STAGES; i++) {
		s.stages[i] = cursor_le32(&in);
	}
	cursor_guid(&in, &s.id);
	payload = cursor_le32(&in);
	if (length - SNAPSHOT_SIZE < payload) {
		return RSVD_META_TOO_SMALL;
	}
	if (s.type != TYPE_VM && s.type != TYPE_CDP &&
	    s.type != TYPE_WRITEABLE) {
		return INVALID(1);
	}
	if (s.stages[0] == 0) {
		return INVALID(2);
	}
	status = flags_check(&s);
	if (status == 0) {
		status = stages_check(s.stages);
	}
	if (status != 0) {
		return status;
	}
	/* Microsoft's client pads a snapshot of another type with zeroes. */
	if (length >= CDP_SIZE) {
		cursor_skip(&in, 4);
		name_length = cursor_le32(&in);
		cursor_guid(&in, &s.log_id);
	}
	if (name_length != 0) {
		return INVALID(6);
	}
	*_s = s;
	return 0;
}

/* ---- the others ------------------------------------------------------------------- */

/* A name of a file beside the set: its own length, and a NUL that may end it. */
static uint32_t name_get(struct cursor *in, char name[RSVD_META_NAME_MAX])
{
	uint32_t length = cursor_le32(in);
	const uint8_t *bytes = NULL;
	const unsigned char *c = NULL;

	if (cursor_status(in) != 0 || cursor_remaining(in) < length) {
		return RSVD_META_TOO_SMALL;
	}
	bytes = cursor_borrow(in, length);
	if (length == 0 || utf16_to_utf8(bytes, length, true, name,
					 RSVD_META_NAME_MAX) != 0) {
		return RSVD_META_INVALID;
	}
	if (*name == '\0' || strcmp(name, ".") == 0 ||
	    strcmp(name, "..") == 0) {
		return RSVD_META_INVALID;
	}
	for (c = (const unsigned char *)name; *c != '\0'; c++) {
		if (*c < 32 || strchr("\"*/:<>?\\|", *c) != NULL) {
			return RSVD_META_INVALID;
		}
	}
	return 0;
}

#define EXTRACT_SIZE 48

uint32_t rsvd_meta_extract_decode(const uint8_t *data, size_t length,
				  struct rsvd_meta_extract *_e)
{
	struct rsvd_meta_extract e = {};
	struct cursor in = {};
	uint32_t status = 0;

	if (length < EXTRACT_SIZE) {
		return RSVD_META_TOO_SMALL;
	}
	cursor_init(&in, data, length);
	e.type = cursor_le32(&in);
	cursor_skip(&in, 4);
	e.flags = cursor_le32(&in);
	cursor_guid(&in, &e.source);
	cursor_guid(&in, &e.limit);
	status = name_get(&in, e.name);
	if (status != 0) {
		return status;
	}
	if (e.flags > 1 || (e.flags != 0 && e.type != TYPE_VM)) {
		return INVALID(2);
	}
	*_e = e;
	return 0;
}

uint32_t rsvd_meta_convert_decode(const uint8_t *data, size_t length,
				  char name[RSVD_META_NAME_MAX])
{
	struct cursor in = {};
	size_t end = 0;
	uint32_t status = 0;

	if (length < 4) {
		return RSVD_META_TOO_SMALL;
	}
	cursor_init(&in, data, length);
	status = name_get(&in, name);
	if (status != 0) {
		return status;
	}
	end = strlen(name);
	if (end <= 5 || strcasecmp(name + end - 5, ".vhds") != 0) {
		return RSVD_META_INVALID;
	}
	return 0;
}

#define RESIZE_SIZE 12

uint32_t rsvd_meta_resize_decode(const uint8_t *data, size_t length,
				 struct rsvd_meta_resize *_r)
{
	struct rsvd_meta_resize r = {};
	struct cursor in = {};

	if (length < RESIZE_SIZE) {
		return RSVD_META_TOO_SMALL;
	}
	cursor_init(&in, data, length);
	r.size = cursor_le64(&in);
	r.expand_only = cursor_u8(&in) != 0;
	r.allow_unsafe = cursor_u8(&in) != 0;
	r.to_safe_size = cursor_u8(&in) != 0;
	if (r.to_safe_size &&
	    (r.size != 0 || r.expand_only || r.allow_unsafe)) {
		return INVALID(1);
	}
	*_r = r;
	return 0;
}

#define APPLY_SIZE 20

uint32_t rsvd_meta_apply_decode(const uint8_t *data, size_t length,
				struct rsvd_meta_apply *_a)
{
	struct rsvd_meta_apply a = {};
	struct cursor in = {};

	if (length < APPLY_SIZE) {
		return RSVD_META_TOO_SMALL;
	}
	cursor_init(&in, data, length);
	a.type = cursor_le32(&in);
	cursor_guid(&in, &a.id);
	if (a.type != TYPE_VM && a.type != TYPE_WRITEABLE) {
		return INVALID(1);
	}
	*_a = a;
	return 0;
}

void rsvd_meta_progress_encode(uint64_t done, uint64_t all, uint8_t out[16])
{
	struct cursor_put p = {};

	cursor_put_init(&p, out, 16);
	cursor_put_le64(&p, done);
	cursor_put_le64(&p, all);
}

/* ---- queries ------------------------------------------------------------------------- */

uint32_t rsvd_set_query_decode(const uint8_t *body, size_t length, bool is_set,
			       struct rsvd_set_query *_q)
{
	struct rsvd_set_query q = {};
	struct cursor in = {};

	if (length < RSVD_SET_QUERY_SIZE) {
		return RSVD_META_TOO_SMALL;
	}
	cursor_init(&in, body, length);
	q.type = cursor_le32(&in);
	q.snapshot_type = cursor_le32(&in);
	cursor_guid(&in, &q.id);
	if (!is_set) {
		return 0xC0000010U;	/* INVALID_DEVICE_REQUEST */
	}
	switch (q.type) {
	case RSVD_QUERY_LIST:
		if (q.snapshot_type != TYPE_VM) {
			return INVALID(1);
		}
		break;
	case RSVD_QUERY_ENTRY:
		if (q.snapshot_type != TYPE_VM && q.snapshot_type != TYPE_CDP &&
		    q.snapshot_type != TYPE_WRITEABLE) {
			return INVALID(1);
		}
		break;
	case RSVD_QUERY_OPTIMIZE:
	case RSVD_QUERY_CDP_ROOT:
	case RSVD_QUERY_CDP_ACTIVE:
	case RSVD_QUERY_CDP_INACTIVE:
		if (q.snapshot_type != 0) {
			return RSVD_META_INVALID;
		}
		break;
	default:
		return INVALID(1);
	}
	*_q = q;
	return 0;
}

void rsvd_set_entry_encode(const struct rsvd_set_entry *e,
			   uint8_t out[RSVD_SET_ENTRY_SIZE])
{
	struct cursor_put p = {};

	cursor_put_init(&p, out, RSVD_SET_ENTRY_SIZE);
	cursor_put_le32(&p, e->type);
	cursor_put_le32(&p, 0);
	cursor_put_le64(&p, e->created_ms);
	cursor_put_le32(&p, e->snapshot_type);
	cursor_put_le32(&p, e->valid ? 1 : 0);
	cursor_put_guid(&p, &e->id);
	cursor_put_guid(&p, &e->parent);
	cursor_put_guid(&p, &e->log_id);
}

void rsvd_set_list_encode(uint32_t count, bool complete,
			  uint8_t out[RSVD_SET_LIST_SIZE])
{
	struct cursor_put p = {};

	cursor_put_init(&p, out, RSVD_SET_LIST_SIZE);
	/* 2.2.4.22: this value for lists of every kind */
	cursor_put_le32(&p, RSVD_QUERY_LIST);
	cursor_put_le32(&p, 0);
	cursor_put_le32(&p, complete ? 1 : 0);
	cursor_put_le32(&p, count);
}

void rsvd_set_optimize_encode(bool needed, uint8_t out[12])
{
	struct cursor_put p = {};

	cursor_put_init(&p, out, 12);
	cursor_put_le32(&p, RSVD_QUERY_OPTIMIZE);
	cursor_put_le32(&p, 0);
	cursor_put_le32(&p, needed ? 1 : 0);
}

/* ---- the rest -------------------------------------------------------------------------- */

uint32_t rsvd_snapshot_delete_decode(const uint8_t *body, size_t length,
				     struct rsvd_snapshot_delete *_d)
{
	struct rsvd_snapshot_delete d = {};
	struct cursor in = {};
	uint32_t persist = 0;

	if (length < RSVD_SNAPSHOT_DELETE_SIZE) {
		return RSVD_META_TOO_SMALL;
	}
	cursor_init(&in, body, length);
	cursor_guid(&in, &d.id);
	persist = cursor_le32(&in);
	d.type = cursor_le32(&in);
	d.persist = persist != 0;
	if (d.persist && d.type != TYPE_VM) {
		return RSVD_META_INVALID;
	}
	*_d = d;
	return 0;
}

uint32_t rsvd_target_decode(const uint8_t *value, size_t length,
			    struct rsvd_target *_t)
{
	struct rsvd_target t = {};
	struct cursor in = {};

	if (length < RSVD_TARGET_SIZE) {
		return RSVD_META_INVALID;
	}
	cursor_init(&in, value, length);
	if (cursor_le32(&in) != 0) {
		return RSVD_META_INVALID;	/* not a snapshot's id */
	}
	t.type = cursor_le32(&in);
	cursor_guid(&in, &t.id);
	if (t.type != TYPE_VM && t.type != TYPE_WRITEABLE) {
		return RSVD_META_INVALID;
	}
	*_t = t;
	return 0;
}
