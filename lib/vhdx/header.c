/* Header updates, [MS-VHDX] 2.2.2.1: the slot that is not current, then flush. */
#include "vhdx/vhdx_priv.h"

void vhdx_header_next(struct vhdx *disk, const struct vhdx_header *header,
		      uint8_t *bytes, uint64_t *_offset)
{
	struct vhdx_header h = *header;

	h.sequence = disk->header.sequence + 1;
	vhdx_header_encode(&h, bytes);
	*_offset = VHDX_HEADER_OFFSET(1 - disk->slot);
}

void vhdx_header_done(struct vhdx *disk, const struct vhdx_header *header)
{
	uint64_t sequence = disk->header.sequence + 1;

	disk->header = *header;
	disk->header.sequence = sequence;
	disk->slot = 1 - disk->slot;
}

int vhdx_header_update(struct vhdx *disk, const struct vhdx_header *header,
		       unsigned times)
{
	uint8_t bytes[VHDX_HEADER_SIZE] = {};
	uint64_t offset = 0;
	unsigned i = 0;
	int ret = 0;

	for (i = 0; i < times; i++) {
		vhdx_header_next(disk, header, bytes, &offset);
		ret = store_write(disk->store, bytes, sizeof(bytes), offset);
		if (ret == 0) {
			ret = store_flush(disk->store);
		}
		if (ret != 0) {
			disk->broken = ret;
			return ret;
		}
		vhdx_header_done(disk, header);
	}
	return 0;
}
