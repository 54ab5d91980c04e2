/*
 * FSCTL_GET_INTEGRITY_INFORMATION, _SET and _SET_EX of a volume without
 * checksums, and FSCTL_QUERY_FILE_REGIONS of one whose every byte is valid
 * ([MS-FSCC] 2.3.19, 2.3.63, 2.3.65, 2.3.55).  Block-cloning programs ask
 * the first for the cluster size.
 */
#include "hvrs.h"

#include "fsctl/fsctl.h"

NTSTATUS hvrs_integrity_get(struct hvrs_call *call)
{
	if (call->max_out < FSCTL_INTEGRITY_GET_REPLY) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	if (!hvrs_call_output(call, FSCTL_INTEGRITY_GET_REPLY)) {
		return NT_STATUS_NO_MEMORY;
	}
	fsctl_integrity_encode(call->out, call->share->probe.cluster);
	return NT_STATUS_OK;
}

static NTSTATUS integrity_set(struct hvrs_call *call, int ret, uint32_t access)
{
	NTSTATUS status = NT_STATUS_OK;

	if (ret == -EINVAL) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	if (!CAN_WRITE(call->fsp->conn) || call->fsp->fsp_name->twrp != 0) {
		return NT_STATUS_MEDIA_WRITE_PROTECTED;
	}
	status = series_check_any_access(call->fsp, access);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	return ret == 0 ? NT_STATUS_OK : NT_STATUS_INVALID_DEVICE_REQUEST;
}

NTSTATUS hvrs_integrity_set(struct hvrs_call *call)
{
	int ret = fsctl_integrity_set_check(call->in, call->in_length);

	return integrity_set(call, ret, FILE_WRITE_DATA |
			     FILE_WRITE_ATTRIBUTES);
}

NTSTATUS hvrs_integrity_set_ex(struct hvrs_call *call)
{
	int ret = fsctl_integrity_set_ex_check(call->in, call->in_length);

	return integrity_set(call, ret, FILE_WRITE_DATA |
			     FILE_WRITE_ATTRIBUTES);
}

NTSTATUS hvrs_file_regions(struct hvrs_call *call)
{
	/* ReFS tracks validity per cluster, as the file systems here do. */
	uint32_t usage = call->share->on[OPTION_SPARSE_VDL] ?
		FSCTL_REGIONS_VALID_NONCACHED : FSCTL_REGIONS_VALID_CACHED;
	struct fsctl_regions regions = {};
	uint8_t answer[FSCTL_REGIONS_REPLY] = {};
	size_t length = 0;
	uint64_t size = 0;
	NTSTATUS status = NT_STATUS_OK;
	int ret = 0;

	if (call->fsp->fsp_flags.is_directory) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	ret = fsctl_regions_decode(call->in, call->in_length, usage,
				   &regions);
	if (ret != 0) {
		return hvrs_status(ret);
	}
	status = hvrs_file_size(call->fsp, &size);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	ret = fsctl_regions_answer(&regions, size, call->max_out, answer,
				   &length);
	if (ret != 0 || length == 0) {
		return hvrs_status(ret);
	}
	if (!hvrs_call_output(call, length)) {
		return NT_STATUS_NO_MEMORY;
	}
	memcpy(call->out, answer, length);
	return NT_STATUS_OK;
}
