/* Snapshots of a VHD Set: every change is one new state of the catalogue. */
#include <errno.h>
#include <string.h>

#include "store/store.h"
#include "vhdset/vhdset_priv.h"

int vhdset_snapshot_list(const struct vhdset *set,
			 const struct vhdset_snapshot **_list, size_t *_count)
{
	if (set->catalogue_error != 0) {
		return set->catalogue_error;
	}
	*_list = set->catalogue->list;
	*_count = set->catalogue->count;
	return 0;
}

static int position(const struct catalogue *cat, const struct guid *id,
		    size_t *_at)
{
	size_t i = 0;

	for (i = 0; i < cat->count; i++) {
		if (guid_equal(&cat->list[i].id, id)) {
			*_at = i;
			return 0;
		}
	}
	return -ENOENT;
}

int vhdset_snapshot_find(const struct vhdset *set, const struct guid *id,
			 const struct vhdset_snapshot **_snapshot)
{
	size_t at = 0;
	int ret = 0;

	if (set->catalogue_error != 0) {
		return set->catalogue_error;
	}
	ret = position(set->catalogue, id, &at);
	if (ret != 0) {
		return ret;
	}
	*_snapshot = &set->catalogue->list[at];
	return 0;
}

static int may_change(const struct vhdset *set)
{
	if (!set->writable || set->catalogue_store == NULL) {
		return -EROFS;
	}
	if (set->foreign) {
		return -ENOTSUP;
	}
	return set->catalogue_error;
}

/* A copy of the state in force, with room for one snapshot more. */
static struct catalogue *state_copy(struct vhdset *set)
{
	const struct catalogue *old = set->catalogue;
	struct catalogue *next = NULL;

	next = talloc_zero(set, struct catalogue);
	if (next == NULL) {
		return NULL;
	}
	*next = *old;
	next->list = talloc_zero_array(next, struct vhdset_snapshot,
				       old->count + 1);
	if (next->list == NULL) {
		talloc_free(next);
		return NULL;
	}
	if (old->count > 0) {
		memcpy(next->list, old->list,
		       old->count * sizeof(*old->list));
	}
	return next;
}

/*
 * Writes next and, where the leaf changes, commits it by the set's header.
 * Takes next over.
 */
static int state_commit(struct vhdset *set, struct catalogue *next)
{
	struct catalogue *old = set->catalogue;
	int ret = 0;

	ret = catalogue_save(set->catalogue_store, old, next);
	if (ret == 0 && strcmp(next->leaf, set->leaf) != 0) {
		ret = set_commit(set, next->leaf);
	}
	if (ret != 0) {
		/*
		 * Whether it reached the disk is not known: the next open
		 * finds out, this one changes nothing any more.
		 */
		set->catalogue_error = -ESTALE;
		talloc_free(next);
		return ret;
	}
	set->catalogue = next;
	talloc_free(old);
	return 0;
}

static void name_put(char to[VHDSET_NAME_MAX], const char *name)
{
	memset(to, 0, VHDSET_NAME_MAX);
	memcpy(to, name, strlen(name));
}

static int new_leaf_check(const struct vhdset *set, const char *new_leaf)
{
	int ret = 0;

	ret = vhdset_name_check(new_leaf);
	if (ret != 0) {
		return ret;
	}
	return vhdset_file_needed(set, new_leaf) ? -EINVAL : 0;
}

int vhdset_snapshot_add(struct vhdset *set,
			const struct vhdset_snapshot *wanted,
			const char *new_leaf)
{
	struct vhdset_snapshot *s = NULL;
	struct catalogue *next = NULL;
	size_t at = 0;
	int ret = 0;

	ret = may_change(set);
	if (ret != 0) {
		return ret;
	}
	ret = new_leaf_check(set, new_leaf);
	if (ret != 0) {
		return ret;
	}
	if (guid_is_null(&wanted->id) ||
	    (wanted->type != VHDSET_VM && wanted->type != VHDSET_CDP &&
	     wanted->type != VHDSET_WRITEABLE) ||
	    (wanted->flags & ~(uint32_t)VHDSET_TRACKED) != 0) {
		return -EINVAL;
	}
	ret = position(set->catalogue, &wanted->id, &at);
	if (ret == 0) {
		return -EEXIST;
	}
	if (set->catalogue->count >= VHDSET_SNAPSHOTS_MAX) {
		return -EFBIG;
	}
	next = state_copy(set);
	if (next == NULL) {
		return -ENOMEM;
	}
	s = &next->list[next->count++];
	*s = *wanted;
	s->parent = next->leaf_parent;
	name_put(s->file, set->leaf);
	next->leaf_parent = s->id;
	name_put(next->leaf, new_leaf);
	return state_commit(set, next);
}

int vhdset_snapshot_apply(struct vhdset *set, const struct guid *id,
			  const char *new_leaf)
{
	struct catalogue *next = NULL;
	size_t at = 0;
	int ret = 0;

	ret = may_change(set);
	if (ret != 0) {
		return ret;
	}
	ret = new_leaf_check(set, new_leaf);
	if (ret != 0) {
		return ret;
	}
	ret = position(set->catalogue, id, &at);
	if (ret != 0) {
		return ret;
	}
	if (set->catalogue->list[at].flags & VHDSET_REFERENCE) {
		return -ENOENT;
	}
	next = state_copy(set);
	if (next == NULL) {
		return -ENOMEM;
	}
	next->leaf_parent = *id;
	name_put(next->leaf, new_leaf);
	return state_commit(set, next);
}

/* Those who came after the snapshot at position at come after its parent. */
static void parents_skip(struct catalogue *cat, size_t at)
{
	struct guid gone = cat->list[at].id;
	struct guid above = cat->list[at].parent;
	size_t i = 0;

	for (i = 0; i < cat->count; i++) {
		if (guid_equal(&cat->list[i].parent, &gone)) {
			cat->list[i].parent = above;
		}
	}
	if (guid_equal(&cat->leaf_parent, &gone)) {
		cat->leaf_parent = above;
	}
}

int vhdset_snapshot_remove(struct vhdset *set, const struct guid *id,
			   bool keep_reference)
{
	struct catalogue *next = NULL;
	size_t at = 0;
	int ret = 0;

	ret = may_change(set);
	if (ret != 0) {
		return ret;
	}
	ret = position(set->catalogue, id, &at);
	if (ret != 0) {
		return ret;
	}
	if (keep_reference && set->catalogue->list[at].type != VHDSET_VM) {
		return -EINVAL;		/* [MS-RSVD] DELETE_SNAPSHOT */
	}
	next = state_copy(set);
	if (next == NULL) {
		return -ENOMEM;
	}
	if (keep_reference) {
		next->list[at].flags |= VHDSET_REFERENCE;
		name_put(next->list[at].file, "");
	} else {
		parents_skip(next, at);
		memmove(&next->list[at], &next->list[at + 1],
			(next->count - at - 1) * sizeof(*next->list));
		next->count--;
	}
	return state_commit(set, next);
}

bool vhdset_file_needed(const struct vhdset *set, const char *file)
{
	size_t i = 0;

	if (strcmp(set->leaf, file) == 0) {
		return true;
	}
	if (set->catalogue == NULL) {
		return true;	/* not known: nothing may be thrown away */
	}
	for (i = 0; i < set->catalogue->count; i++) {
		if (strcmp(set->catalogue->list[i].file, file) == 0) {
			return true;
		}
	}
	return false;
}
