/* An open VHD Set: which copy of the header counts, and changing the leaf. */
#include <errno.h>
#include <string.h>

#include "store/store.h"
#include "util/utf16.h"
#include "util/checked.h"
#include "vhdset/vhdset_priv.h"

#define CREATOR_AT 8
#define CREATOR_BYTES 512	/* as in VHDX, [MS-VHDX] 2.2.1 */

static int short_is_bad(int ret)
{
	return ret == -ENODATA ? -EBADMSG : ret;
}

/* ---- new ------------------------------------------------------------------ */

static int name_write(struct store *store, const char *name, uint32_t at,
		      uint32_t *_length)
{
	uint8_t page[SET_NAME_STEP] = {};
	size_t length = 0;
	int ret = 0;

	ret = utf16_from_utf8(name, page, SET_NAME_BYTES, &length);
	if (ret != 0) {
		return -EINVAL;
	}
	ret = store_write(store, page, sizeof(page), at);
	if (ret != 0) {
		return ret;
	}
	*_length = (uint32_t)length;
	return 0;
}

static int header_write(struct store *store, unsigned copy,
			const struct vhdset_header *header)
{
	uint8_t bytes[VHDSET_HEADER_SIZE] = {};

	vhdset_header_encode(header, bytes);
	return store_write(store, bytes, sizeof(bytes), SET_HEADER_AT(copy));
}

static int signature_write(struct store *store)
{
	uint8_t bytes[CREATOR_AT + CREATOR_BYTES] = SET_SIGNATURE;
	size_t length = 0;
	int ret = 0;

	ret = utf16_from_utf8("hvrs", bytes + CREATOR_AT, CREATOR_BYTES,
			      &length);
	if (ret != 0) {
		return ret;
	}
	return store_write(store, bytes, sizeof(bytes), 0);
}

static int body_write(struct store *store, const char *leaf)
{
	struct vhdset_header header = {
		.signature = { 's', 'h', 'd', 'r' },
		.constant = SET_CONSTANT,
		.count = 1,
		.entry_type = SET_ENTRY_LEAF,
		.name_offset = SET_NAMES_AT,
	};
	int ret = 0;

	ret = store_truncate(store, VHDSET_FILE_SIZE);
	if (ret != 0) {
		return ret;
	}
	ret = name_write(store, leaf, SET_NAMES_AT, &header.name_length);
	if (ret != 0) {
		return ret;
	}
	ret = header_write(store, 0, &header);
	if (ret != 0) {
		return ret;
	}
	header.sequence = 1;
	ret = header_write(store, 1, &header);
	if (ret != 0) {
		return ret;
	}
	return store_flush(store);
}

int vhdset_create(struct store *store, const char *leaf)
{
	uint64_t size = 0;
	int ret = 0;

	ret = vhdset_name_check(leaf);
	if (ret != 0) {
		return ret;
	}
	ret = store_size(store, &size);
	if (ret != 0) {
		return ret;
	}
	if (size != 0) {
		return -EEXIST;
	}
	ret = body_write(store, leaf);
	if (ret != 0) {
		return ret;
	}
	ret = signature_write(store);
	if (ret != 0) {
		return ret;
	}
	return store_flush(store);
}

/* ---- open ----------------------------------------------------------------- */

/* The creator is for people: what cannot be read is left empty. */
static int signature_read(struct vhdset *set, const char **_why)
{
	uint8_t bytes[CREATOR_AT + CREATOR_BYTES] = {};
	size_t length = 0;
	int ret = 0;

	ret = store_read(set->store, bytes, sizeof(bytes), 0);
	if (ret != 0 && ret != -ENODATA) {
		return ret;
	}
	if (memcmp(bytes, SET_SIGNATURE, CREATOR_AT) != 0) {
		*_why = "it does not begin with the signature of a VHD Set";
		return -EBADMSG;
	}
	while (length < CREATOR_BYTES && (bytes[CREATOR_AT + length] != 0 ||
					  bytes[CREATOR_AT + length + 1] != 0)) {
		length += 2;
	}
	(void)utf16_to_utf8(bytes + CREATOR_AT, length, false, set->creator,
			    sizeof(set->creator));
	return 0;
}

static bool is_foreign(const struct vhdset_header *h)
{
	return h->count != 1 || !h->rest_is_zero ||
	       h->constant != SET_CONSTANT || h->name_offset < SET_NAMES_AT;
}

/* The valid copy with the larger sequence number counts. */
static int headers_read(struct vhdset *set, const char **_why)
{
	const char *why[2] = {};
	int error[2] = {};
	unsigned i = 0;

	for (i = 0; i < 2; i++) {
		uint8_t bytes[VHDSET_HEADER_SIZE] = {};
		int ret = 0;

		ret = store_read(set->store, bytes, sizeof(bytes),
				 SET_HEADER_AT(i));
		if (ret != 0 && ret != -ENODATA) {
			return ret;
		}
		vhdset_header_decode(bytes, &set->headers[i]);
		error[i] = vhdset_header_validate(&set->headers[i],
						  set->file_size, &why[i]);
		set->valid[i] = error[i] == 0;
	}
	if (!set->valid[0] && !set->valid[1]) {
		i = error[0] == -ENOTSUP ? 0 : 1;
		*_why = why[i];
		return error[i];
	}
	/*
	 * A newer copy that is intact but not understood is no reason to go
	 * back to an older one.
	 */
	for (i = 0; i < 2; i++) {
		if (error[i] == -ENOTSUP && set->headers[i].sequence >
					    set->headers[1 - i].sequence) {
			*_why = why[i];
			return error[i];
		}
	}
	set->current = set->valid[1] && (!set->valid[0] ||
		       set->headers[1].sequence > set->headers[0].sequence);
	set->foreign = (set->valid[0] && is_foreign(&set->headers[0])) ||
		       (set->valid[1] && is_foreign(&set->headers[1])) ||
		       error[0] == -ENOTSUP || error[1] == -ENOTSUP;
	return 0;
}

static int leaf_read(struct vhdset *set, const char **_why)
{
	const struct vhdset_header *h = &set->headers[set->current];
	uint8_t bytes[SET_NAME_BYTES] = {};
	int ret = 0;

	ret = store_read(set->store, bytes, h->name_length, h->name_offset);
	if (ret != 0) {
		*_why = "the file became shorter";
		return short_is_bad(ret);
	}
	ret = utf16_to_utf8(bytes, h->name_length, false, set->leaf,
			    sizeof(set->leaf));
	if (ret != 0) {
		*_why = "the name of the set's disk is not UTF-16, or too long";
		return -EBADMSG;
	}
	ret = vhdset_name_check(set->leaf);
	if (ret != 0) {
		*_why = "the name of the set's disk is not one of a file in "
			"the set's own folder";
		return -ENOTSUP;
	}
	return 0;
}

static int open_files(struct vhdset *set, const char **_why)
{
	int ret = 0;

	ret = store_size(set->store, &set->file_size);
	if (ret != 0) {
		return ret;
	}
	ret = signature_read(set, _why);
	if (ret != 0) {
		return ret;
	}
	ret = headers_read(set, _why);
	if (ret != 0) {
		return ret;
	}
	ret = leaf_read(set, _why);
	if (ret != 0) {
		return ret;
	}
	ret = catalogue_load(set, set->catalogue_store, set->leaf,
			     &set->catalogue);
	if (ret == -ESTALE || ret == -EBADMSG || ret == -ENOTSUP) {
		set->catalogue_error = ret;
		return 0;
	}
	return ret;
}

int vhdset_open(TALLOC_CTX *mem_ctx, struct store *store,
		const struct vhdset_open *how, struct vhdset **_set,
		const char **_why)
{
	struct vhdset *set = NULL;
	const char *unheard = NULL;
	const char **why = _why != NULL ? _why : &unheard;
	int ret = 0;

	*why = NULL;
	set = talloc_zero(mem_ctx, struct vhdset);
	if (set == NULL) {
		return -ENOMEM;
	}
	set->store = store;
	if (how != NULL) {
		set->writable = how->writable;
		set->catalogue_store = how->catalogue;
	}
	ret = open_files(set, why);
	if (ret != 0) {
		talloc_free(set);
		return ret;
	}
	*_set = set;
	return 0;
}

void vhdset_info_get(const struct vhdset *set, struct vhdset_info *_info)
{
	*_info = (struct vhdset_info) {
		.sequence = set->headers[set->current].sequence,
		.file_size = set->file_size,
		.writable = set->writable,
		.foreign = set->foreign,
		.header_damaged = !set->valid[0] || !set->valid[1],
		.catalogue_error = set->catalogue_error,
	};
	memcpy(_info->leaf, set->leaf, sizeof(_info->leaf));
	memcpy(_info->creator, set->creator, sizeof(_info->creator));
}

/* ---- change --------------------------------------------------------------- */

static bool name_in_use(const struct vhdset *set, uint32_t at)
{
	unsigned i = 0;

	for (i = 0; i < 2; i++) {
		const struct vhdset_header *h = &set->headers[i];

		if (set->valid[i] && h->name_offset < at + SET_NAME_STEP &&
		    at < (uint64_t)h->name_offset + h->name_length) {
			return true;
		}
	}
	return false;
}

int set_commit(struct vhdset *set, const char *leaf)
{
	struct vhdset_header next = set->headers[set->current];
	unsigned copy = 1 - set->current;
	uint32_t at = SET_NAMES_AT;
	uint8_t bytes[VHDSET_HEADER_SIZE] = {};
	int ret = 0;

	/* Two names at most are in use, each in one or two places. */
	while (name_in_use(set, at)) {
		at += SET_NAME_STEP;
	}
	if (next.sequence == UINT64_MAX) {
		return -ENOTSUP;
	}
	ret = name_write(set->store, leaf, at, &next.name_length);
	if (ret != 0) {
		return ret;
	}
	ret = store_flush(set->store);
	if (ret != 0) {
		return ret;
	}
	next.name_offset = at;
	next.sequence++;
	set->valid[copy] = false;	/* until the write is known to be whole */
	ret = header_write(set->store, copy, &next);
	if (ret != 0) {
		return ret;
	}
	ret = store_flush(set->store);
	if (ret != 0) {
		return ret;
	}
	vhdset_header_encode(&next, bytes);
	vhdset_header_decode(bytes, &set->headers[copy]);
	set->valid[copy] = true;
	set->current = copy;
	memset(set->leaf, 0, sizeof(set->leaf));
	memcpy(set->leaf, leaf, strlen(leaf));
	return store_size(set->store, &set->file_size);
}

int vhdset_leaf_set(struct vhdset *set, const char *leaf)
{
	int ret = 0;

	if (!set->writable) {
		return -EROFS;
	}
	if (set->foreign) {
		return -ENOTSUP;
	}
	ret = vhdset_name_check(leaf);
	if (ret != 0) {
		return ret;
	}
	if (set->catalogue_error != 0) {
		return set->catalogue_error;
	}
	if (set->catalogue->count > 0) {
		return -EBUSY;
	}
	return set_commit(set, leaf);
}

int vhdset_repair(struct vhdset *set)
{
	struct vhdset_header other = set->headers[set->current];
	unsigned copy = 1 - set->current;
	int ret = 0;

	if (set->valid[copy]) {
		return 0;
	}
	if (!set->writable) {
		return -EROFS;
	}
	if (set->foreign) {
		return -ENOTSUP;
	}
	/* Never above the sound one; a copy of number 0 gets the same. */
	if (other.sequence > 0) {
		other.sequence--;
	}
	ret = header_write(set->store, copy, &other);
	if (ret != 0) {
		return ret;
	}
	ret = store_flush(set->store);
	if (ret != 0) {
		return ret;
	}
	set->headers[copy] = other;
	set->valid[copy] = true;
	return 0;
}
