/* No link is followed: a name that a user has replaced tells nothing. */
#include "state_place.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The device of the file of a record, 0 where its name leads elsewhere. */
static uint64_t look(const struct handle_record *r)
{
	struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
			RESOLVE_NO_MAGICLINKS,
	};
	struct stat st = {};
	uint64_t device = 0;
	char *path = NULL;
	char *name = NULL;
	int root = -1;
	int fd = -1;

	if ((r->flags & HANDLE_DEVICE_STAT) == 0) {
		return 0;
	}
	path = strndup((const char *)r->path.data, r->path.length);
	name = r->name.length == 0 ? strdup(".")
		: strndup((const char *)r->name.data, r->name.length);
	if (path != NULL && name != NULL) {
		root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	if (root != -1) {
		fd = (int)syscall(SYS_openat2, root, name, &how, sizeof(how));
		close(root);
	}
	if (fd != -1) {
		if (fstat(fd, &st) == 0 && (uint64_t)st.st_ino == r->inode) {
			device = (uint64_t)st.st_dev;
		}
		close(fd);
	}
	free(path);
	free(name);
	return device;
}

void state_places_learn(struct state_places *places,
			const struct handle_record *r)
{
	uint64_t device = look(r);
	size_t i = 0;

	if (device == 0) {
		return;
	}
	for (i = 0; i < places->count; i++) {
		if (places->from[i] == r->device) {
			if (places->to[i] != device) {
				places->to[i] = 0;
			}
			return;
		}
	}
	if (places->count < STATE_PLACES) {
		places->from[places->count] = r->device;
		places->to[places->count++] = device;
	}
}

uint64_t state_places_device(const struct state_places *places,
			     const struct handle_record *r)
{
	uint64_t device = look(r);
	size_t i = 0;

	if (device != 0 || (r->flags & HANDLE_DEVICE_STAT) == 0) {
		return device != 0 ? device : r->device;
	}
	for (i = 0; i < places->count; i++) {
		if (places->from[i] == r->device && places->to[i] != 0) {
			return places->to[i];
		}
	}
	return r->device;
}
