/* What all stores share: whole reads, and zeroing where there is no cheap way. */
#include "store/store.h"

#include <errno.h>
#include <string.h>

#include "util/checked.h"

#define ZERO_PIECE 65536

int store_read(struct store *store, void *buffer, size_t length,
	       uint64_t offset)
{
	size_t got = 0;
	int ret = 0;

	ret = store->ops->read(store, buffer, length, offset, &got);
	if (ret != 0) {
		return ret;
	}
	if (got < length) {
		memset((uint8_t *)buffer + got, 0, length - got);
		return -ENODATA;
	}
	return 0;
}

int store_write(struct store *store, const void *buffer, size_t length,
		uint64_t offset)
{
	return store->ops->write(store, buffer, length, offset);
}

int store_flush(struct store *store)
{
	return store->ops->flush(store);
}

int store_zero(struct store *store, uint64_t offset, uint64_t length)
{
	static const uint8_t zeroes[ZERO_PIECE];
	uint64_t size = 0;
	uint64_t end = 0;
	int ret = 0;

	ret = checked_add(offset, length, &end);
	if (ret != 0) {
		return ret;
	}
	ret = store->ops->size(store, &size);
	if (ret != 0) {
		return ret;
	}
	if (end > size) {
		end = size;
	}
	if (offset >= end) {
		return 0;
	}
	ret = store->ops->zero(store, offset, end - offset);
	if (ret != -ENOTSUP) {
		return ret;
	}
	while (offset < end) {
		uint64_t piece = end - offset;

		if (piece > ZERO_PIECE) {
			piece = ZERO_PIECE;
		}
		ret = store->ops->write(store, zeroes, piece, offset);
		if (ret != 0) {
			return ret;
		}
		offset += piece;
	}
	return 0;
}

int store_size(struct store *store, uint64_t *_size)
{
	return store->ops->size(store, _size);
}

int store_truncate(struct store *store, uint64_t size)
{
	return store->ops->truncate(store, size);
}

int store_identity(struct store *store, struct store_identity *_id)
{
	return store->ops->identity(store, _id);
}

void store_submit(struct store *store, struct store_io *io)
{
	io->next = NULL;
	io->at = 0;
	io->got = 0;
	store->ops->submit(store, io);
}
