/*
 * Core hooks for Samba 4.22: the replacements that plt.c puts in place.
 */
#include "hooks.h"
#include "plt.h"

#undef DBGC_CLASS
#define DBGC_CLASS DBGC_VFS

static const struct hooks_client *hooks_client;
static bool hooks_tried;

static struct tevent_req *(*core_ioctl_filesys)(
	uint32_t, struct tevent_context *, struct tevent_req *,
	struct smbd_smb2_ioctl_state *);

static NTSTATUS (*core_do_qfsinfo)(
	struct smbXsrv_connection *, connection_struct *, TALLOC_CTX *,
	uint16_t, uint16_t, unsigned int, size_t *, struct files_struct *,
	struct smb_filename *, char **, int *);

static struct tevent_req *hooked_ioctl_filesys(
	uint32_t code, struct tevent_context *ev, struct tevent_req *req,
	struct smbd_smb2_ioctl_state *state)
{
	if (state->fsp == NULL ||
	    !hooks_client->ioctl(code, ev, req, state)) {
		return core_ioctl_filesys(code, ev, req, state);
	}
	if (!tevent_req_is_in_progress(req)) {
		return tevent_req_post(req, ev);
	}
	return req;
}

static NTSTATUS hooked_do_qfsinfo(
	struct smbXsrv_connection *xconn, connection_struct *conn,
	TALLOC_CTX *mem_ctx, uint16_t level, uint16_t flags2,
	unsigned int max_data, size_t *fixed, struct files_struct *fsp,
	struct smb_filename *fname, char **data, int *length)
{
	NTSTATUS status = NT_STATUS_OK;

	hooks_client->fs_info_begin(conn);
	status = core_do_qfsinfo(xconn, conn, mem_ctx, level, flags2,
				 max_data, fixed, fsp, fname, data, length);
	if (NT_STATUS_IS_OK(status) && *length > 0) {
		hooks_client->fs_info_end(conn, level, (uint8_t *)*data,
					  (size_t)*length);
	}
	return status;
}

void hooks_install(const struct hooks_client *client)
{
	const struct plt_hook hooks[] = {
		{ "smb2_ioctl_filesys", hooked_ioctl_filesys,
		  (void **)&core_ioctl_filesys },
		{ "smbd_do_qfsinfo", hooked_do_qfsinfo,
		  (void **)&core_do_qfsinfo },
	};
	const char *why = NULL;
	int ret = 0;

	if (hooks_tried) {
		return;
	}
	hooks_tried = true;
	hooks_client = client;
	ret = plt_hook_install(hooks, ARRAY_SIZE(hooks), &why);
	if (ret != 0) {
		hooks_client = NULL;
		DBG_ERR("hvrs: core hooks are off in this smbd: %s (%s). "
			"Everything that does not need them works; hvrs-check "
			"tells what is missing\n", why, strerror(-ret));
	}
}

bool hooks_active(void)
{
	return hooks_client != NULL;
}
