/*
 * Foreign bytes as an open context, a tunnel header with its body, and the
 * record of a disk.  What is accepted goes back into bytes.
 */
#include <string.h>

#include "rsvd/rsvd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void as_context(const uint8_t *data, size_t size, uint32_t server)
{
	static const struct rsvd_properties p = { 2, 512, 4096, 1 << 20 };
	struct rsvd_context c = {};
	uint8_t out[RSVD_CONTEXT_V2_SIZE];
	size_t length = 0;

	if (rsvd_context_decode(data, size, server, &c) != 0) {
		return;
	}
	length = rsvd_context_encode(&c, &p, out);
	/* Version, flag, initiator, and all up to the name are echoed. */
	if (length > size || memcmp(out, data, 5) != 0 ||
	    memcmp(out + 8, data + 8, 160) != 0) {
		__builtin_trap();
	}
}

static void as_request(const uint8_t *data, size_t size)
{
	struct rsvd_header h = {};
	struct rsvd_scsi r = {};
	struct scsi_result result = {};
	uint8_t out[RSVD_SCSI_SIZE];

	if (rsvd_header_decode(data, size, &h) != 0 ||
	    rsvd_scsi_decode(data + RSVD_HEADER_SIZE, size - RSVD_HEADER_SIZE,
			     &r) != 0) {
		return;
	}
	if (r.data_length > size - RSVD_HEADER_SIZE - RSVD_SCSI_SIZE ||
	    r.cdb_length > SCSI_CDB_LENGTH) {
		__builtin_trap();
	}
	scsi_result_sense(&result, SCSI_SENSE_CDB);
	rsvd_scsi_encode(&r, &result, out);
}

static void as_record(const uint8_t *data, size_t size)
{
	struct rsvd_record *r = NULL;
	const char *why = NULL;
	uint8_t *bytes = NULL;
	size_t length = 0;

	if (rsvd_record_decode(NULL, data, size, &r, &why) != 0) {
		return;
	}
	if (rsvd_record_encode(r, r, &bytes, &length) != 0) {
		__builtin_trap();
	}
	while (r->open_count > 0) {
		rsvd_record_open_remove(r, r->open_count - 1);
	}
	talloc_free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0) {
		return 0;
	}
	switch (data[0]) {
	case 1:
	case 2:
		as_context(data + 1, size - 1, data[0]);
		break;
	case 3:
		as_request(data + 1, size - 1);
		break;
	default:
		as_record(data + 1, size - 1);
		break;
	}
	return 0;
}
