/*
 * Any series of reservation commands by four initiators: the state stays
 * valid, survives its own bytes, and two owners never come about.
 * Input: 28 bytes for each step.
 */
#include <string.h>

#include "scsi/scsi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct scsi_pr *s)
{
	static uint8_t bytes[SCSI_PR_SIZE_MAX];
	static struct scsi_pr back;
	const char *why = NULL;
	size_t writers = 0;
	size_t i = 0;

	scsi_pr_encode(s, bytes);
	if (scsi_pr_validate(s, &why) != 0 ||
	    scsi_pr_decode(bytes, scsi_pr_size(s), &back, &why) != 0 ||
	    scsi_pr_validate(&back, &why) != 0) {
		__builtin_trap();
	}
	for (i = 0; i < s->nexus_count; i++) {
		writers += scsi_pr_allows(s, &s->nexuses[i].id,
					  SCSI_ACCESS_WRITE) ? 1 : 0;
	}
	if ((s->type == 1 || s->type == 3) && writers > 1) {
		__builtin_trap();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct scsi_pr s;
	static struct scsi_pr_effect effect;
	static uint8_t in[16384];

	memset(&s, 0, sizeof(s));
	while (size >= 28) {
		struct guid nexus = { { (uint8_t)(data[0] & 3), 1 } };
		struct scsi_result r = {};
		struct scsi_admission a = {};
		uint8_t cdb[16] = { 0x5F, data[1], data[2], 0, 0, 0, 0, 0, 24 };
		bool changed = false;

		if ((data[0] & 0xC0) == 0x40) {
			cdb[0] = 0x5E;
			cdb[7] = data[3];
		} else if ((data[0] & 0xC0) == 0x80) {
			memcpy(cdb, data + 1, 16);
		} else if ((data[0] & 0xC0) == 0xC0) {
			switch (data[1] & 3) {
			case 0:
				(void)scsi_pr_attach(&s, &nexus);
				break;
			case 1:
				scsi_pr_detach(&s, &nexus);
				break;
			case 2:
				scsi_pr_power_on(&s);
				break;
			case 3:
				scsi_pr_attention_all(
					&s, NULL, SCSI_SENSE_CAPACITY_CHANGED);
				break;
			}
		}
		scsi_pr_admit(&s, &nexus, cdb, &a);
		if (a.go && cdb[0] == 0x5F) {
			scsi_pr_out(&s, &nexus, cdb, data + 4, 24, &effect,
				    &r);
		} else if (a.go && cdb[0] == 0x5E) {
			scsi_pr_in(&s, cdb, in, data[3], &r);
		} else if (a.go && (cdb[0] & 0xBE) == 0x16) {
			scsi_pr_reserve(&s, &nexus, cdb, &changed, &r);
		}
		check(&s);
		data += 28;
		size -= 28;
	}
	return 0;
}
