/*
 * Building log entries, and the commit of calls that wait.
 *
 * Each entry's tail is itself.  An entry is written only when all before it
 * are applied and stable (commit.c), so nothing older is ever needed, and two
 * of the longest fit the smallest log: the one before stays whole while the
 * next is being written.
 */
#include "vhdx/vhdx_priv.h"

#include <errno.h>
#include <string.h>

#include "util/crc32c.h"
#include "util/cursor.h"

size_t vhdx_log_entry_size(unsigned count)
{
	return ((size_t)vhdx_entry_descriptor_sectors(count) + count) *
	       VHDX_PAGE;
}

int vhdx_log_begin(struct vhdx *disk)
{
	int ret = guid_random(&disk->log.guid);

	if (ret == 0 && disk->log.sequence == 0) {
		disk->log.sequence = 1;
		disk->log.next = 0;
	}
	return ret;
}

void vhdx_log_build(struct vhdx *disk, const struct vhdx_log_page *pages,
		    unsigned count, uint64_t file_size, uint8_t *bytes,
		    uint32_t *_place)
{
	uint32_t first = vhdx_entry_descriptor_sectors(count) * VHDX_PAGE;
	struct vhdx_entry_header e = {
		.length = (uint32_t)vhdx_log_entry_size(count),
		.tail = disk->log.next,
		.sequence = disk->log.sequence,
		.descriptors = count,
		.log_guid = disk->log.guid,
		.flushed_file_offset = file_size - file_size % VHDX_MIB,
		.last_file_offset = disk->space_end,
	};
	unsigned i = 0;

	memset(bytes, 0, first);
	for (i = 0; i < count; i++) {
		vhdx_descriptor_encode(pages[i].bytes, pages[i].offset,
				       e.sequence, bytes + 64 + i * 32);
		vhdx_sector_encode(pages[i].bytes, e.sequence,
				   bytes + first + (size_t)i * VHDX_PAGE);
	}
	vhdx_entry_encode(&e, bytes);
	e.checksum = crc32c(bytes, e.length);
	vhdx_entry_encode(&e, bytes);
	*_place = disk->log.next;
	disk->log.next = (disk->log.next + e.length) %
			 disk->header.log_length;
	disk->log.sequence++;
}

static int write_entry(struct vhdx *disk, const uint8_t *bytes, size_t size,
		       uint32_t place)
{
	uint64_t offset = disk->header.log_offset;
	size_t first = disk->header.log_length - place;
	int ret = 0;

	if (first > size) {
		first = size;
	}
	ret = store_write(disk->store, bytes, first, offset + place);
	if (ret == 0 && first < size) {
		ret = store_write(disk->store, bytes + first, size - first,
				  offset);
	}
	return ret;
}

int vhdx_log_commit(struct vhdx *disk, const struct vhdx_log_page *pages,
		    unsigned count)
{
	struct vhdx_header header = {};
	uint8_t *bytes = NULL;
	uint32_t place = 0;
	uint64_t size = 0;
	unsigned i = 0;
	int ret = 0;

	if (count > VHDX_COMMIT_MAX) {
		return -EFBIG;
	}
	bytes = talloc_size(disk, vhdx_log_entry_size(count));
	if (bytes == NULL) {
		return -ENOMEM;
	}
	ret = store_flush(disk->store);
	if (ret == 0) {
		ret = store_size(disk->store, &size);
	}
	if (size > disk->space_end) {
		/* The file is about to be cut there, or holds nothing more. */
		size = disk->space_end;
	}
	if (ret == 0 && !disk->log.active) {
		ret = vhdx_log_begin(disk);
	}
	if (ret != 0) {
		talloc_free(bytes);
		return ret;
	}
	vhdx_log_build(disk, pages, count, size, bytes, &place);
	ret = write_entry(disk, bytes, vhdx_log_entry_size(count), place);
	if (ret == 0) {
		ret = store_flush(disk->store);
	}
	if (ret == 0 && !disk->log.active) {
		header = disk->header;
		header.log_guid = disk->log.guid;
		ret = vhdx_header_update(disk, &header, 1);
		disk->log.active = ret == 0;
	}
	for (i = 0; ret == 0 && i < count; i++) {
		ret = store_write(disk->store, pages[i].bytes, VHDX_PAGE,
				  pages[i].offset);
	}
	if (ret == 0) {
		ret = store_flush(disk->store);
	}
	if (ret != 0) {
		disk->broken = ret;
	}
	talloc_free(bytes);
	return ret;
}
