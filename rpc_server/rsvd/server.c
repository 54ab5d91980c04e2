/*
 * The door of the server of MS-RSVD: which CREATE is a shared open, what it
 * may do beside others, and its end.
 *
 * Share modes: to smbd a shared open is one that reads and lets others read.
 * So shared opens go together, and neither they nor a plain writer get past
 * each other, through whatever share of this server.  The writing is done by
 * a descriptor of this server's own.
 */
#include "server.h"
#include "step.h"

#include "../libcli/smb/smb2_create_blob.h"
#include "libcli/smb/smb2_constants.h"

#include <malloc.h>

/* Memory of requests that is kept for the next ones; more than one takes. */
#define KEPT_MEMORY (16 << 20)
#define LARGEST_REQUEST (9 << 20)

#define WRITES (FILE_WRITE_DATA | FILE_APPEND_DATA)

static struct rsvd_open *all_opens;

static const struct generic_mapping file_mapping = {
	FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_GENERIC_EXECUTE,
	FILE_GENERIC_ALL,
};

struct rsvd_open *rsvd_open_find(const struct files_struct *fsp)
{
	struct rsvd_open *open = NULL;

	for (open = all_opens; open != NULL; open = open->next) {
		if (open->fsp == fsp) {
			return open;
		}
	}
	return NULL;
}

struct rsvd_open *rsvd_open_find_set(const struct file_id *id)
{
	struct rsvd_open *open = NULL;

	for (open = all_opens; open != NULL; open = open->next) {
		if (open->is_virtual && open->is_set &&
		    file_id_equal(&open->fsp->file_id, id)) {
			return open;
		}
	}
	return NULL;
}

/* ---- the end of an open ------------------------------------------------------------ */

static void on_free(struct tevent_context *ev, struct tevent_immediate *im,
		    void *private_data)
{
	(void)ev;
	(void)im;
	talloc_free(private_data);
}

/*
 * smbd may be walking its list of files: those of this server are closed when
 * it is done.
 */
static void open_end(struct rsvd_open *open)
{
	struct tevent_immediate *im = NULL;

	TALLOC_FREE(open->tick);
	rsvd_merge_stop(open);
	rsvd_image_close_all(open);
	rsvd_shared_leave(open);
	im = tevent_create_immediate(open);
	if (im != NULL) {
		tevent_schedule_immediate(im, open->ev, on_free, open);
	}
}

void rsvd_open_idle(struct rsvd_open *open)
{
	if (open->closed && open->under_way == 0) {
		open_end(open);
	}
}

static void rsvd_close(struct files_struct *fsp)
{
	struct rsvd_open *open = rsvd_open_find(fsp);

	rsvd_store_closed(fsp);
	if (open == NULL) {
		return;
	}
	open->fsp = NULL;
	DLIST_REMOVE(all_opens, open);
	open->closed = true;
	if (open->under_way > 0) {
		/* smbd is going down with requests under way. */
		rsvd_merge_stop(open);
		rsvd_image_abandon_all(open);
		return;
	}
	open_end(open);
}

bool rsvd_open_become_user(struct rsvd_open *open)
{
	return open->fsp != NULL && open->fsp->vuid != UID_FIELD_INVALID &&
		change_to_user_and_service_by_fsp(open->fsp);
}

/* ---- CREATE --------------------------------------------------------------------------- */

static const struct smb2_create_blob *context_find(
	const struct tunnel_create *c)
{
	if (c->in_blobs == NULL || c->req == NULL || c->req->smb2req == NULL ||
	    c->req->xconn->protocol < PROTOCOL_SMB3_02) {
		return NULL;
	}
	return smb2_create_blob_find(c->in_blobs, SVHDX_OPEN_DEVICE_CONTEXT);
}

static NTSTATUS context_get(const struct tunnel_create *c,
			    struct rsvd_context *_context)
{
	const struct smb2_create_blob *blob = context_find(c);
	int ret = 0;

	if (blob == NULL) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	ret = rsvd_context_decode(blob->data.data, blob->data.length,
				  SERVER_VERSION, _context);
	if (ret == -EMSGSIZE) {
		return NT_STATUS_BUFFER_TOO_SMALL;
	}
	return ret == 0 ? NT_STATUS_OK : NT_STATUS_INVALID_PARAMETER;
}

static NTSTATUS answer(const struct tunnel_create *c,
		       const struct rsvd_open *open)
{
	const struct scsi_geometry *g = &open->scsi.geometry;
	struct rsvd_properties properties = {
		.server_version = SERVER_VERSION, .sector = g->block_size,
		.physical_sector = g->physical_size,
		.size = g->blocks * g->block_size,
	};
	uint8_t bytes[RSVD_CONTEXT_V2_SIZE];
	size_t length = rsvd_context_encode(&open->context, &properties,
					    bytes);

	if (c->out_blobs == NULL) {
		return NT_STATUS_OK;
	}
	return smb2_create_blob_add(c->out_blobs, c->out_blobs,
				    SVHDX_OPEN_DEVICE_CONTEXT,
				    data_blob_const(bytes, length));
}

static bool is_through(const struct tunnel_create *c)
{
	int snum = SNUM(c->handle->conn);

	/* What a node has not flushed goes with it. */
	return (c->options & FILE_WRITE_THROUGH) != 0 ||
		rsvd_shared_is_apart() ||
		lp_sync_always(snum) ||
		lp_parm_bool(snum, "smb3 share cap",
			     "CONTINUOUS AVAILABILITY", false);
}

static bool is_part_name(const char *name)
{
	size_t length = strlen(name);

	return length > 6 && strcasecmp_m(name + length - 6, ".avhdx") == 0;
}

static struct rsvd_open *open_create(const struct tunnel_create *c,
				     const struct rsvd_context *context)
{
	struct rsvd_open *open = talloc_zero(NULL, struct rsvd_open);

	if (open == NULL) {
		return NULL;
	}
	open->handle = c->handle;
	open->ev = c->handle->conn->sconn->ev_ctx;
	open->context = *context;
	open->create_options = c->options;
	open->is_set = vhdset_is_name(c->smb_fname->base_name);
	open->through = is_through(c);
	open->is_virtual = context->originator != RSVD_ORIGINATOR_VHDMP;
	if (context->has_initiator) {
		open->nexus = context->initiator;
	}
	open->path = talloc_asprintf(open, "%s/%s",
				     c->handle->conn->connectpath,
				     c->smb_fname->base_name);
	if (open->path == NULL) {
		TALLOC_FREE(open);
	}
	return open;
}

/* The file for smbd: read by this open, and read by others at most. */
static NTSTATUS create_file(const struct tunnel_create *c, uint32_t wanted)
{
	struct tunnel_create next = *c;

	next.access_mask = (wanted & ~(uint32_t)(WRITES | DELETE_ACCESS |
						 FILE_DELETE_CHILD |
						 MAXIMUM_ALLOWED_ACCESS)) |
		FILE_READ_DATA | FILE_READ_ATTRIBUTES;
	next.share_access = FILE_SHARE_READ;
	next.disposition = FILE_OPEN;
	next.options = (c->options & ~(uint32_t)FILE_DELETE_ON_CLOSE) |
		FILE_NON_DIRECTORY_FILE;
	next.oplock = NO_OPLOCK;
	next.lease = NULL;
	/* The core knows nothing of the disk, which it would have to keep. */
	next.private_flags &= ~(uint32_t)SERIES_PERSISTENT_OPEN;
	next.allocation = 0;
	next.sd = NULL;
	next.ea_list = NULL;
	return tunnel_create_next(&next);
}

static NTSTATUS check_write(const struct tunnel_create *c,
			    struct files_struct *fsp, uint32_t wanted)
{
	if (!CAN_WRITE(c->handle->conn)) {
		return NT_STATUS_MEDIA_WRITE_PROTECTED;
	}
	if ((wanted & (WRITES | MAXIMUM_ALLOWED_ACCESS)) == 0) {
		return NT_STATUS_OK;
	}
	return smbd_check_access_rights_fsp(c->handle->conn->cwd_fsp, fsp,
					    false, FILE_WRITE_DATA);
}

/*
 * smbd opens the file without DELETE, as nobody shares that: here it is looked
 * at who has it.
 */
static NTSTATUS check_delete(const struct tunnel_create *c,
			     struct rsvd_open *open, uint32_t wanted)
{
	NTSTATUS status = NT_STATUS_ACCESS_DENIED;

	if ((wanted & (DELETE_ACCESS | MAXIMUM_ALLOWED_ACCESS)) == 0) {
		return NT_STATUS_OK;
	}
	if (CAN_WRITE(c->handle->conn)) {
		status = smbd_check_access_rights_fsp(
			c->handle->conn->cwd_fsp, *c->result, false,
			DELETE_ACCESS);
	}
	open->may_delete = NT_STATUS_IS_OK(status);
	return (wanted & DELETE_ACCESS) != 0 ? status : NT_STATUS_OK;
}

/*
 * Requests are large, and come one after the other: memory that is given back
 * to the kernel in between costs as much as all else that is done for them.
 */
static void memory_keep(void)
{
	static bool done;

	if (!done) {
		(void)mallopt(M_MMAP_THRESHOLD, LARGEST_REQUEST);
		(void)mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY);
		done = true;
	}
}

/*
 * The files and the record together: what the set consists of may change
 * between a look at the one and at the other.
 */
static NTSTATUS open_and_join(struct rsvd_open *open)
{
	NTSTATUS status = NT_STATUS_RETRY;
	unsigned tries = 0;

	while (NT_STATUS_EQUAL(status, NT_STATUS_RETRY) && tries++ < 20) {
		struct rsvd_image *image = NULL;
		uint64_t epoch = 0;
		uint64_t later = 0;

		status = rsvd_shared_epoch(open, &epoch);
		if (!NT_STATUS_IS_OK(status)) {
			return status;
		}
		status = rsvd_image_open(open, epoch, &image);
		if (!NT_STATUS_IS_OK(status)) {
			/* A file may have gone while it was looked for. */
			if (NT_STATUS_IS_OK(rsvd_shared_epoch(open, &later)) &&
			    later != epoch) {
				status = NT_STATUS_RETRY;
				continue;
			}
			return status;
		}
		rsvd_image_use(open, image);
		step("rsvd-opened");
		status = rsvd_shared_join(open);
	}
	if (NT_STATUS_IS_OK(status)) {
		memory_keep();
		rsvd_merge_start(open);
	}
	return status;
}

static NTSTATUS attach(const struct tunnel_create *c, struct rsvd_open *open,
		       uint32_t wanted)
{
	struct files_struct *fsp = *c->result;
	NTSTATUS status = check_write(c, fsp, wanted);

	if (NT_STATUS_IS_OK(status)) {
		status = check_delete(c, open, wanted);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (fsp->op == NULL) {
		return NT_STATUS_INTERNAL_ERROR;
	}
	open->fsp = fsp;
	open->open_id = fsp->op->global->open_persistent_id;
	status = open_and_join(open);
	if (NT_STATUS_IS_OK(status) && !rsvd_open_is_snapshot(open)) {
		status = answer(c, open);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if ((wanted & (WRITES | MAXIMUM_ALLOWED_ACCESS)) != 0) {
		fsp->fsp_flags.can_write = true;
		fsp->access_mask |= FILE_WRITE_DATA | FILE_APPEND_DATA;
	}
	return NT_STATUS_OK;
}

static NTSTATUS create_virtual(const struct tunnel_create *c,
			       struct rsvd_open *open)
{
	uint32_t wanted = c->access_mask;
	NTSTATUS status = NT_STATUS_OK;

	se_map_generic(&wanted, &file_mapping);
	/* Files of a set are its own: never a disk by themselves. */
	if (is_part_name(c->smb_fname->base_name)) {
		return NT_STATUS(RSVD_STATUS_WRONG_TYPE);
	}
	if (lp_min_receive_file_size() != 0) {
		DBG_ERR("hvrs: shared disks need min receivefile size = 0\n");
		return NT_STATUS_NOT_SUPPORTED;
	}
	status = create_file(c, wanted);
	if (open->is_set &&
	    NT_STATUS_EQUAL(status, NT_STATUS_OBJECT_NAME_NOT_FOUND)) {
		rsvd_erase_rest(open, c->smb_fname->base_name);
	}
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = attach(c, open, wanted);
	if (!NT_STATUS_IS_OK(status)) {
		rsvd_merge_stop(open);
		rsvd_image_close_all(open);
		rsvd_shared_leave(open);
		open->fsp = NULL;
		close_file_free(c->req, c->result, ERROR_CLOSE);
		return status;
	}
	DLIST_ADD(all_opens, open);
	return NT_STATUS_OK;
}

/* The bytes of the file, for tools of the host; never beside a shared open. */
static NTSTATUS create_raw(const struct tunnel_create *c,
			   struct rsvd_open *open)
{
	struct tunnel_create next = *c;
	struct file_id id = vfs_file_id_from_sbuf(c->handle->conn,
						  &c->smb_fname->st);
	NTSTATUS status = NT_STATUS_OK;

	if (VALID_STAT(c->smb_fname->st) && rsvd_shared_by_others(&id, NULL)) {
		return NT_STATUS(RSVD_STATUS_VHD_SHARED);
	}
	next.disposition = FILE_OPEN;
	next.options |= FILE_NON_DIRECTORY_FILE;
	status = tunnel_create_next(&next);
	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	status = answer(c, open);
	if (!NT_STATUS_IS_OK(status)) {
		close_file_free(c->req, c->result, ERROR_CLOSE);
		return status;
	}
	open->fsp = *c->result;
	DLIST_ADD(all_opens, open);
	return NT_STATUS_OK;
}

/* 3.2.5.1: a snapshot, by an extended attribute and no device context. */
static NTSTATUS target_get(const struct tunnel_create *c,
			   struct rsvd_context *context, struct guid *_snapshot)
{
	const struct ea_struct *ea = &c->ea_list->ea;
	struct rsvd_target target = {};
	uint32_t code = 0;

	if (c->ea_list->next != NULL ||
	    strcasecmp_m(ea->name, RSVD_TARGET_NAME) != 0 ||
	    !vhdset_is_name(c->smb_fname->base_name)) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	code = rsvd_target_decode(ea->value.data, ea->value.length, &target);
	if (code != 0) {
		return NT_STATUS(code);
	}
	if (guid_is_null(&target.id)) {
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	*context = (struct rsvd_context) {
		.version = 2, .originator = RSVD_ORIGINATOR_PARSER,
	};
	*_snapshot = target.id;
	return NT_STATUS_OK;
}

static NTSTATUS create_shared(const struct tunnel_create *c)
{
	struct rsvd_context context = {};
	struct rsvd_open *open = NULL;
	struct guid snapshot = {};
	NTSTATUS status = c->ea_list != NULL && context_find(c) == NULL ?
		target_get(c, &context, &snapshot) : context_get(c, &context);

	if (!NT_STATUS_IS_OK(status)) {
		return status;
	}
	if (c->disposition != FILE_OPEN && c->disposition != FILE_OPEN_IF) {
		return NT_STATUS_INVALID_PARAMETER;
	}
	open = open_create(c, &context);
	if (open == NULL) {
		return NT_STATUS_NO_MEMORY;
	}
	open->snapshot = snapshot;
	status = open->is_virtual ? create_virtual(c, open)
				  : create_raw(c, open);
	if (!NT_STATUS_IS_OK(status)) {
		talloc_free(open);
	}
	return status;
}

/*
 * A plain writer of a shared disk, on a cluster: what smbd knows of the disk's
 * opens may have gone with a node that had it last.
 */
static bool is_kept_out(const struct tunnel_create *c)
{
	uint32_t wanted = c->access_mask;
	struct file_id id = {};

	if (!rsvd_shared_is_apart() || !VALID_STAT(c->smb_fname->st) ||
	    !S_ISREG(c->smb_fname->st.st_ex_mode)) {
		return false;
	}
	se_map_generic(&wanted, &file_mapping);
	if ((wanted & (WRITES | DELETE_ACCESS | MAXIMUM_ALLOWED_ACCESS)) == 0 &&
	    (c->disposition == FILE_OPEN || c->disposition == FILE_OPEN_IF ||
	     c->disposition == FILE_CREATE)) {
		return false;
	}
	id = vfs_file_id_from_sbuf(c->handle->conn, &c->smb_fname->st);
	return rsvd_shared_is_used(&id);
}

static bool rsvd_create(const struct tunnel_create *c, NTSTATUS *_status)
{
	const struct smb2_create_blob *blob = NULL;

	if (c->suffix) {
		*_status = create_shared(c);
		return true;
	}
	if (is_kept_out(c)) {
		*_status = NT_STATUS_SHARING_VIOLATION;
		return true;
	}
	blob = context_find(c);
	/* MS-SMB2 3.3.5.9.14: without the suffix only one originator counts. */
	if (blob != NULL && blob->data.length >= 32 &&
	    IVAL(blob->data.data, 28) == RSVD_ORIGINATOR_VHDMP) {
		*_status = NT_STATUS(RSVD_STATUS_VHD_SHARED);
		return true;
	}
	return false;
}

static bool rsvd_owns(const struct files_struct *fsp)
{
	const struct rsvd_open *open = rsvd_open_find(fsp);

	return open != NULL && open->is_virtual;
}

/* ---- handles that outlive smbd --------------------------------------------------------- */

static bool rsvd_save(struct files_struct *fsp, TALLOC_CTX *mem_ctx,
		      DATA_BLOB *_state)
{
	struct rsvd_open *open = rsvd_open_find(fsp);
	struct rsvd_kept *kept = NULL;
	uint8_t bytes[RSVD_KEPT_SIZE_MAX];
	size_t length = 0;

	if (open == NULL || !open->is_virtual || rsvd_open_is_snapshot(open) ||
	    !rsvd_shared_keep(open)) {
		return false;
	}
	kept = talloc_zero(mem_ctx, struct rsvd_kept);
	if (kept == NULL) {
		return false;
	}
	kept->create_options = open->create_options;
	kept->writable = (fsp->access_mask & FILE_WRITE_DATA) != 0;
	kept->through = open->through;
	kept->may_delete = open->may_delete;
	kept->context = open->context;
	kept->ring = open->ring;
	length = rsvd_kept_encode(kept, bytes);
	TALLOC_FREE(kept);
	*_state = data_blob_talloc(mem_ctx, bytes, length);
	return _state->data != NULL;
}

static void rsvd_modes(struct files_struct *fsp, uint32_t *_access,
		       uint32_t *_sharing)
{
	*_access = fsp->access_mask & ~(uint32_t)WRITES;
	*_sharing = FILE_SHARE_READ;
}

static void rsvd_disconnect(struct files_struct *fsp)
{
	struct rsvd_open *open = rsvd_open_find(fsp);

	if (open != NULL) {
		open->disconnecting = open->kept;
	}
}

static void restore_from(struct rsvd_open *open, const struct rsvd_kept *kept)
{
	open->context = kept->context;
	open->create_options = kept->create_options;
	open->through = kept->through;
	open->may_delete = kept->may_delete;
	open->ring = kept->ring;
	open->is_virtual = true;
	open->kept = true;
	if (kept->context.has_initiator) {
		open->nexus = kept->context.initiator;
	}
}

static NTSTATUS rsvd_restore(struct vfs_handle_struct *handle,
			     struct files_struct *fsp, DATA_BLOB state,
			     DATA_BLOB extra)
{
	struct rsvd_open *open = talloc_zero(NULL, struct rsvd_open);
	struct rsvd_kept *kept = talloc_zero(open, struct rsvd_kept);
	NTSTATUS status = NT_STATUS_OK;

	/* 3.2.5.1: a reconnect finds its open; its context says nothing new. */
	(void)extra;
	if (open == NULL || kept == NULL) {
		TALLOC_FREE(open);
		return NT_STATUS_NO_MEMORY;
	}
	if (rsvd_kept_decode(state.data, state.length, kept) != 0) {
		TALLOC_FREE(open);
		return NT_STATUS_INTERNAL_DB_CORRUPTION;
	}
	restore_from(open, kept);
	open->handle = handle;
	open->ev = handle->conn->sconn->ev_ctx;
	open->fsp = fsp;
	open->open_id = fsp->op->global->open_persistent_id;
	open->path = talloc_asprintf(open, "%s/%s", handle->conn->connectpath,
				     fsp->fsp_name->base_name);
	open->is_set = vhdset_is_name(fsp->fsp_name->base_name);
	status = open->path != NULL ? open_and_join(open)
				    : NT_STATUS_NO_MEMORY;
	if (!NT_STATUS_IS_OK(status)) {
		rsvd_merge_stop(open);
		rsvd_image_close_all(open);
		/* It goes on waiting in the record. */
		open->disconnecting = true;
		rsvd_shared_leave(open);
		talloc_free(open);
		return status;
	}
	if (kept->writable) {
		fsp->fsp_flags.can_write = true;
		fsp->access_mask |= FILE_WRITE_DATA | FILE_APPEND_DATA;
	}
	DLIST_ADD(all_opens, open);
	return NT_STATUS_OK;
}

/* ---- the table ---------------------------------------------------------------------------- */

static const struct tunnel_server server = {
	.version = TUNNEL_VERSION,
	.name = "rsvd",
	.tag = 0x44565352,
	.context = SVHDX_OPEN_DEVICE_CONTEXT,
	.suffix = ":SharedVirtualDisk",
	.start = rsvd_shared_start,
	.create = rsvd_create,
	.ioctl = rsvd_ioctl,
	.read = rsvd_read,
	.write = rsvd_write,
	.file_info = rsvd_file_info,
	.close = rsvd_close,
	.unlink = rsvd_erase_unlink,
	.owns = rsvd_owns,
	.save = rsvd_save,
	.modes = rsvd_modes,
	.disconnect = rsvd_disconnect,
	.restore = rsvd_restore,
};

__attribute__((visibility("default")))
const struct tunnel_server *hvrs_tunnel_server(void);

__attribute__((visibility("default")))
const struct tunnel_server *hvrs_tunnel_server(void)
{
	return &server;
}
