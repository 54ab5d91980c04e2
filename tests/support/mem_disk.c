#include "support/mem_disk.h"

#include <string.h>
#include <tevent.h>

static void mem_submit(struct scsi_disk *d, struct scsi_io *io)
{
	struct mem_disk *disk = d->private_data;

	if (disk->waiting != NULL) {
		__builtin_trap();
	}
	disk->waiting = io;
}

struct mem_disk *mem_disk_create(TALLOC_CTX *mem_ctx)
{
	struct mem_disk *disk = talloc_zero(mem_ctx, struct mem_disk);

	if (disk == NULL) {
		return NULL;
	}
	disk->bytes = talloc_zero_size(disk, (size_t)MEM_DISK_BLOCKS *
				       MEM_DISK_BLOCK);
	disk->disk = (struct scsi_disk) {
		.submit = mem_submit, .private_data = disk,
		.geometry = {
			.blocks = MEM_DISK_BLOCKS,
			.block_size = MEM_DISK_BLOCK, .physical_size = 4096,
			.write_cache = true, .thin = true,
			.unmapped_zero = true, .compare_and_write = true,
			.unmap_granularity = 8,
			.disk_id = { { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
				       13, 14, 15, 16 } },
		},
	};
	return disk;
}

static void run_one(struct mem_disk *disk)
{
	struct scsi_io *io = disk->waiting;
	uint64_t first = io->offset / MEM_DISK_BLOCK;
	uint64_t count = io->length / MEM_DISK_BLOCK;
	int error = disk->fail;
	uint64_t i = 0;

	disk->waiting = NULL;
	disk->fail = 0;
	if (io->op != SCSI_IO_FLUSH && io->op != SCSI_IO_RELEASE &&
	    (io->offset % MEM_DISK_BLOCK != 0 || count == 0 ||
	     io->length % MEM_DISK_BLOCK != 0 ||
	     first + count > MEM_DISK_BLOCKS)) {
		__builtin_trap();
	}
	if (io->op != SCSI_IO_RELEASE && io->exclusive != disk->exclusive) {
		__builtin_trap();
	}
	disk->throughs += io->through ? 1 : 0;
	if (error != 0) {
		io->done(io, error);
		return;
	}
	switch (io->op) {
	case SCSI_IO_READ:
		disk->reads++;
		memcpy(io->buffer, disk->bytes + io->offset, io->length);
		break;
	case SCSI_IO_WRITE:
		disk->writes++;
		memcpy(disk->bytes + io->offset, io->buffer, io->length);
		memset(disk->mapped + first, 1, count);
		break;
	case SCSI_IO_FLUSH:
		disk->flushes++;
		break;
	case SCSI_IO_UNMAP:
		disk->unmaps++;
		memset(disk->bytes + io->offset, 0, io->length);
		memset(disk->mapped + first, 0, count);
		break;
	case SCSI_IO_STATUS:
		while (i < count &&
		       disk->mapped[first + i] == disk->mapped[first]) {
			i++;
		}
		io->mapped = disk->mapped[first];
		io->length = i * MEM_DISK_BLOCK;
		break;
	case SCSI_IO_EXCLUSIVE:
		disk->exclusive = true;
		break;
	case SCSI_IO_RELEASE:
		disk->exclusive = false;
		break;
	}
	io->done(io, 0);
}

void mem_disk_execute(struct mem_disk *disk, struct scsi_command *command)
{
	struct tevent_context *ev = tevent_context_init(disk);
	struct tevent_req *req = scsi_execute_send(ev, ev, &disk->disk,
						   command);

	while (tevent_req_is_in_progress(req)) {
		if (disk->waiting != NULL) {
			run_one(disk);
		} else {
			tevent_loop_once(ev);
		}
	}
	if (scsi_execute_recv(req) != 0 || disk->exclusive) {
		__builtin_trap();
	}
	talloc_free(ev);
}
