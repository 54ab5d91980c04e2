/*
 * The ends of partitions, [UEFI] 5.2.1 (MBR) and 5.3 (GPT).  Whatever is in
 * doubt makes the answer larger.
 */
#include "rsvd/safe_size.h"

#include <stdbool.h>
#include <string.h>

#include "util/cursor.h"
#include "util/zero.h"

#define PROTECTIVE 0xEE
#define ENTRY_MIN 128U
#define ENTRIES_MAX 1024U

/* CRC-32 of IEEE 802.3; small tables, seldom read. */
static uint32_t crc32_ieee(uint32_t crc, const uint8_t *bytes, size_t length)
{
	size_t i = 0;
	int bit = 0;

	for (i = 0; i < length; i++) {
		crc ^= bytes[i];
		for (bit = 0; bit < 8; bit++) {
			crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320U : 0);
		}
	}
	return crc;
}

/* In sectors; false where the table is no table to rely on. */
static bool gpt_end(const uint8_t *head, size_t length, uint32_t sector,
		    uint64_t *_end)
{
	static const uint8_t zero[4];
	const uint8_t *header = head + sector;
	struct cursor in = {};
	uint32_t header_size = 0;
	uint32_t header_crc = 0;
	uint32_t crc = 0;
	uint64_t lba = 0;
	uint32_t count = 0;
	uint32_t entry = 0;
	uint32_t table_crc = 0;
	uint64_t bytes = 0;
	uint64_t last = 0;
	uint64_t end = 0;
	uint32_t i = 0;

	if (length < 2 * (size_t)sector ||
	    memcmp(header, "EFI PART", 8) != 0) {
		return false;
	}
	cursor_init(&in, header, sector);
	cursor_skip(&in, 12);
	header_size = cursor_le32(&in);
	header_crc = cursor_le32(&in);
	cursor_seek(&in, 72);
	lba = cursor_le64(&in);
	count = cursor_le32(&in);
	entry = cursor_le32(&in);
	table_crc = cursor_le32(&in);
	if (header_size < 92 || header_size > sector || count > ENTRIES_MAX ||
	    entry < ENTRY_MIN || entry > sector || lba >= length / sector) {
		return false;
	}
	crc = crc32_ieee(0xFFFFFFFFU, header, 16);
	crc = crc32_ieee(crc, zero, 4);
	crc = ~crc32_ieee(crc, header + 20, header_size - 20);
	bytes = (uint64_t)count * entry;
	if (crc != header_crc || bytes > length - lba * sector ||
	    ~crc32_ieee(0xFFFFFFFFU, head + lba * sector, bytes) !=
	    table_crc) {
		return false;
	}
	/* Also without any partition the table itself stays. */
	end = lba + (bytes + sector - 1) / sector;
	for (i = 0; i < count; i++) {
		const uint8_t *e = head + lba * sector + (uint64_t)i * entry;

		if (is_zero(e, 16)) {
			continue;
		}
		cursor_init(&in, e, entry);
		cursor_seek(&in, 40);
		last = cursor_le64(&in);
		if (last >= UINT64_MAX / sector - ENTRIES_MAX * 2) {
			return false;
		}
		end = last + 1 > end ? last + 1 : end;
	}
	/* The second table and its header, at the new end. */
	*_end = end + (bytes + sector - 1) / sector + 1;
	return true;
}

static bool mbr_end(const uint8_t *head, uint64_t *_end, bool *_protective)
{
	struct cursor in = {};
	uint64_t begin = 0;
	uint64_t count = 0;
	uint64_t end = 0;
	uint8_t type = 0;
	int i = 0;

	for (i = 0; i < 4; i++) {
		cursor_init(&in, head, 512);
		cursor_seek(&in, 446 + 16 * (size_t)i + 4);
		type = cursor_u8(&in);
		cursor_skip(&in, 3);
		begin = cursor_le32(&in);
		count = cursor_le32(&in);
		if (type == 0) {
			continue;
		}
		*_protective |= type == PROTECTIVE;
		end = begin + count > end ? begin + count : end;
	}
	*_end = end;
	/* No partition: a file system may lie on the disk as a whole. */
	return end > 0;
}

uint64_t rsvd_safe_size(const uint8_t *head, size_t length, uint32_t sector,
			uint64_t size)
{
	uint64_t end = 0;
	bool protective = false;

	if (sector < 512 || length < sector || head[510] != 0x55 ||
	    head[511] != 0xAA || !mbr_end(head, &end, &protective)) {
		return size;
	}
	if (protective && !gpt_end(head, length, sector, &end)) {
		return size;
	}
	return end < size / sector ? end * sector : size;
}
