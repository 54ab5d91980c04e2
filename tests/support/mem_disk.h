/*
 * A SCSI disk in memory for tests: requests wait until they are run, one by
 * one, and any of them can be made to fail.
 */
#ifndef HVRS_TESTS_MEM_DISK_H
#define HVRS_TESTS_MEM_DISK_H

#include "scsi/scsi.h"

#define MEM_DISK_BLOCKS 4096U
#define MEM_DISK_BLOCK 512U

struct mem_disk {
	struct scsi_disk disk;
	uint8_t *bytes;
	bool mapped[MEM_DISK_BLOCKS];
	struct scsi_io *waiting;
	int fail;		/* errno of the next request, negative */
	unsigned reads, writes, flushes, unmaps, throughs;
	bool exclusive;
};

/* A disk of zeroes; a talloc child of mem_ctx. */
struct mem_disk *mem_disk_create(TALLOC_CTX *mem_ctx);

/* Executes one command to its end. */
void mem_disk_execute(struct mem_disk *disk, struct scsi_command *command);

#endif
