/*
 * Foreign bytes as a stored state: refused, or a state that can be used.
 */
#include <string.h>

#include "scsi/scsi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct scsi_pr s;
	static uint8_t bytes[SCSI_PR_SIZE_MAX];
	const char *why = NULL;
	struct guid nexus = { { 1 } };
	struct scsi_admission a = {};
	struct scsi_result r = {};
	uint8_t cdb[16] = { 0x5E, 3, [7] = 0xFF };
	uint8_t in[512] = {};

	if (scsi_pr_decode(data, size, &s, &why) != 0 ||
	    scsi_pr_validate(&s, &why) != 0) {
		return 0;
	}
	scsi_pr_encode(&s, bytes);
	if (scsi_pr_size(&s) != size) {
		__builtin_trap();
	}
	scsi_pr_in(&s, cdb, in, sizeof(in), &r);
	scsi_pr_admit(&s, &nexus, cdb, &a);
	(void)scsi_pr_attach(&s, &nexus);
	scsi_pr_detach(&s, &nexus);
	scsi_pr_power_on(&s);
	if (scsi_pr_validate(&s, &why) != 0) {
		__builtin_trap();
	}
	return 0;
}
