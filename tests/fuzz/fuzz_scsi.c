/*
 * Any CDB with any data on a disk in memory, which traps on a request outside
 * the disk.  Input: CDB length, CDB, sizes of the two data phases, data.
 */
#include <string.h>

#include "support/mem_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mem_disk *disk;
	struct scsi_command c = {};
	size_t in_size = 0;

	if (size < 20) {
		return 0;
	}
	if (disk == NULL) {
		disk = mem_disk_create(NULL);
	}
	disk->disk.geometry.unmapped_zero = (data[19] & 1) != 0;
	disk->disk.geometry.read_only = (data[19] & 2) != 0;
	disk->fail = (data[19] & 4) != 0 ? -5 : 0;
	c.cdb_length = data[0] & 0x1F;
	memcpy(c.cdb, data + 1, SCSI_CDB_LENGTH);
	in_size = (size_t)data[17] * 64;
	/* Blocks of their own, so that a byte too far is seen. */
	c.in = talloc_size(disk, in_size);
	c.in_size = in_size;
	c.out_length = size - 20;
	c.out = talloc_memdup(c.in, data + 20, size - 20);
	mem_disk_execute(disk, &c);
	if (c.result.length > in_size) {
		__builtin_trap();
	}
	disk->fail = 0;
	talloc_free(c.in);
	return 0;
}
