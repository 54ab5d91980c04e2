/*
 * A state as it is stored: a header with a version and a checksum, then every
 * field in turn.  Little-endian; text is a length of 16 bits and its bytes.
 */
#include <errno.h>
#include <string.h>

#include "snapset/snapset_priv.h"
#include "util/crc32c.h"
#include "util/cursor.h"

#define MAGIC		0x53535648	/* "HVSS" */
#define VERSION		1
#define HEADER		16		/* magic version length checksum */
#define MAX_BYTES	(16 << 20)
#define MAX_TEXT	4096

#define FLAG_EXPOSED	1
#define FLAG_DOOMED	2

/* ---- encoding ------------------------------------------------------------- */

static void put_text(struct cursor_put *out, const char *text)
{
	size_t length = strlen(text);

	if (length > MAX_TEXT) {
		out->failed = true;
		return;
	}
	cursor_put_le16(out, (uint16_t)length);
	cursor_put_bytes(out, text, length);
}

static size_t count_mappings(const struct snapset_mapping *mapping)
{
	size_t count = 0;

	for (; mapping != NULL; mapping = mapping->next) {
		count++;
	}
	return count;
}

static void put_copy(struct cursor_put *out, const struct snapset_copy *copy)
{
	const struct snapset_mapping *mapping = NULL;

	cursor_put_guid(out, &copy->id);
	cursor_put_le64(out, copy->created);
	cursor_put_u8(out, copy->doomed ? FLAG_DOOMED : 0);
	put_text(out, copy->store);
	put_text(out, copy->provider);
	put_text(out, copy->share);
	put_text(out, copy->snapshot);
	cursor_put_le16(out, (uint16_t)count_mappings(copy->mappings));
	for (mapping = copy->mappings; mapping != NULL;
	     mapping = mapping->next) {
		cursor_put_u8(out, (mapping->is_exposed ? FLAG_EXPOSED : 0) |
				   (mapping->doomed ? FLAG_DOOMED : 0));
		put_text(out, mapping->share);
		put_text(out, mapping->exposed);
		put_text(out, mapping->path);
	}
}

static void put_state(struct cursor_put *out,
		      const struct snapset_state *state)
{
	const struct snapset_set *set = NULL;
	const struct snapset_copy *copy = NULL;
	uint32_t count = 0;

	cursor_put_u8(out, state->context_set);
	cursor_put_le32(out, state->context);
	cursor_put_le32(out, state->retries);
	cursor_put_le64(out, state->deadline);
	put_text(out, state->client);
	put_text(out, state->boot);
	for (set = state->sets; set != NULL; set = set->next) {
		count++;
	}
	cursor_put_le32(out, count);
	for (set = state->sets; set != NULL; set = set->next) {
		cursor_put_guid(out, &set->id);
		cursor_put_u8(out, (uint8_t)set->status);
		cursor_put_le32(out, set->context);
		put_text(out, set->owner);
		count = 0;
		for (copy = set->copies; copy != NULL; copy = copy->next) {
			count++;
		}
		cursor_put_le32(out, count);
		for (copy = set->copies; copy != NULL; copy = copy->next) {
			put_copy(out, copy);
		}
	}
}

/* A bound of the bytes a state needs. */
static size_t room_for(const struct snapset_state *state)
{
	const struct snapset_set *set = NULL;
	const struct snapset_copy *copy = NULL;
	const struct snapset_mapping *mapping = NULL;
	size_t room = HEADER + 64 + strlen(state->client) +
		      strlen(state->boot);

	for (set = state->sets; set != NULL; set = set->next) {
		room += 64 + strlen(set->owner);
		for (copy = set->copies; copy != NULL; copy = copy->next) {
			room += 64 + strlen(copy->store) +
				strlen(copy->provider) +
				strlen(copy->share) +
				strlen(copy->snapshot);
			for (mapping = copy->mappings; mapping != NULL;
			     mapping = mapping->next) {
				room += 16 + strlen(mapping->share) +
					strlen(mapping->exposed) +
					strlen(mapping->path);
			}
		}
	}
	return room;
}

int snapset_encode(TALLOC_CTX *mem_ctx, const struct snapset_state *state,
		   uint8_t **_bytes, size_t *_length)
{
	size_t room = room_for(state);
	uint8_t *bytes = NULL;
	struct cursor_put out = {};
	size_t length = 0;

	if (room > MAX_BYTES) {
		return -EFBIG;
	}
	bytes = talloc_zero_array(mem_ctx, uint8_t, room);
	if (bytes == NULL) {
		return -ENOMEM;
	}
	cursor_put_init(&out, bytes, room);
	cursor_put_seek(&out, HEADER);
	put_state(&out, state);
	length = cursor_put_length(&out);
	cursor_put_seek(&out, 0);
	cursor_put_le32(&out, MAGIC);
	cursor_put_le32(&out, VERSION);
	cursor_put_le32(&out, (uint32_t)(length - HEADER));
	cursor_put_le32(&out, crc32c(bytes + HEADER, length - HEADER));
	if (cursor_put_status(&out) != 0) {
		talloc_free(bytes);
		return -EFBIG;
	}
	*_bytes = bytes;
	*_length = length;
	return 0;
}

/* ---- decoding ------------------------------------------------------------- */

/* NULL marks the cursor as failed: damaged bytes, or no memory. */
static const char *get_text(TALLOC_CTX *mem_ctx, struct cursor *in)
{
	uint16_t length = cursor_le16(in);
	const uint8_t *bytes = NULL;
	char *text = NULL;

	if (length > MAX_TEXT) {
		in->failed = true;
		return NULL;
	}
	bytes = cursor_borrow(in, length);
	if (bytes == NULL || memchr(bytes, 0, length) != NULL) {
		in->failed = true;
		return NULL;
	}
	text = talloc_strndup(mem_ctx, (const char *)bytes, length);
	if (text == NULL) {
		in->failed = true;
	}
	return text;
}

static void get_mappings(struct cursor *in, struct snapset_copy *copy)
{
	struct snapset_mapping **end = &copy->mappings;
	uint16_t count = cursor_le16(in);
	uint16_t i = 0;

	if (count > SNAPSET_MAX_MAPPINGS) {
		in->failed = true;
	}
	for (i = 0; i < count && !in->failed; i++) {
		struct snapset_mapping *mapping = talloc_zero(
			copy, struct snapset_mapping);
		uint8_t flags = cursor_u8(in);

		if (mapping == NULL) {
			in->failed = true;
			return;
		}
		mapping->is_exposed = (flags & FLAG_EXPOSED) != 0;
		mapping->doomed = (flags & FLAG_DOOMED) != 0;
		mapping->share = get_text(mapping, in);
		mapping->exposed = get_text(mapping, in);
		mapping->path = get_text(mapping, in);
		*end = mapping;
		end = &mapping->next;
	}
}

static void get_copies(struct cursor *in, struct snapset_set *set)
{
	struct snapset_copy **end = &set->copies;
	uint32_t count = cursor_le32(in);
	uint32_t i = 0;

	if (count > SNAPSET_MAX_COPIES) {
		in->failed = true;
	}
	for (i = 0; i < count && !in->failed; i++) {
		struct snapset_copy *copy = talloc_zero(set,
							struct snapset_copy);

		if (copy == NULL) {
			in->failed = true;
			return;
		}
		cursor_guid(in, &copy->id);
		copy->created = cursor_le64(in);
		copy->doomed = (cursor_u8(in) & FLAG_DOOMED) != 0;
		copy->store = get_text(copy, in);
		copy->provider = get_text(copy, in);
		copy->share = get_text(copy, in);
		copy->snapshot = get_text(copy, in);
		get_mappings(in, copy);
		*end = copy;
		end = &copy->next;
	}
}

static void get_state(struct cursor *in, struct snapset_state *state)
{
	struct snapset_set **end = &state->sets;
	uint32_t count = 0;
	uint32_t i = 0;

	state->context_set = cursor_u8(in) != 0;
	state->context = cursor_le32(in);
	state->retries = cursor_le32(in);
	state->deadline = cursor_le64(in);
	state->client = get_text(state, in);
	state->boot = get_text(state, in);
	count = cursor_le32(in);
	/* What is doomed besides may be as much again. */
	if (count > 2 * SNAPSET_MAX_SETS) {
		in->failed = true;
	}
	for (i = 0; i < count && !in->failed; i++) {
		struct snapset_set *set = talloc_zero(state,
						      struct snapset_set);
		uint8_t status = 0;

		if (set == NULL) {
			in->failed = true;
			return;
		}
		cursor_guid(in, &set->id);
		status = cursor_u8(in);
		if (status < SNAPSET_STARTED || status > SNAPSET_DOOMED) {
			in->failed = true;
		}
		set->status = status;
		set->context = cursor_le32(in);
		set->owner = get_text(set, in);
		get_copies(in, set);
		*end = set;
		end = &set->next;
	}
	if (cursor_remaining(in) != 0) {
		in->failed = true;
	}
}

int snapset_decode(TALLOC_CTX *mem_ctx, const uint8_t *bytes, size_t length,
		   struct snapset_state **_state, const char **why)
{
	struct snapset_state *state = NULL;
	struct cursor in = {};
	uint32_t magic = 0;
	uint32_t version = 0;
	uint32_t size = 0;
	uint32_t checksum = 0;
	const char *unused = NULL;

	if (why == NULL) {
		why = &unused;
	}
	cursor_init(&in, bytes, length);
	magic = cursor_le32(&in);
	version = cursor_le32(&in);
	size = cursor_le32(&in);
	checksum = cursor_le32(&in);
	if (cursor_status(&in) != 0 || magic != MAGIC) {
		*why = "it is no state of shadow copy sets";
		return -EINVAL;
	}
	if (version != VERSION) {
		*why = "it was stored by another version of hvrs";
		return -EPROTONOSUPPORT;
	}
	if (size != cursor_remaining(&in) || size > MAX_BYTES ||
	    checksum != crc32c(bytes + HEADER, size)) {
		*why = "its checksum is wrong";
		return -EINVAL;
	}
	state = talloc_zero(mem_ctx, struct snapset_state);
	if (state == NULL) {
		return -ENOMEM;
	}
	get_state(&in, state);
	if (cursor_status(&in) != 0) {
		talloc_free(state);
		*why = "its fields contradict each other";
		return -EINVAL;
	}
	*_state = state;
	return 0;
}
