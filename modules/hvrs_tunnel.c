/*
 * Tunnel servers (samba/tunnel.h): loads them when a share first wants one,
 * and hands them what is theirs.
 */
#include "hvrs.h"
#include "hooks.h"
#include "state_handles.h"
#include "tunnel.h"

#include <dlfcn.h>

#ifndef HVRS_TUNNEL_DIR
#error HVRS_TUNNEL_DIR is not set
#endif

struct loaded {
	const char *file;
	enum option_id option;
	bool tried;
	const struct tunnel_server *server;
	struct hvrs_handle_part part;
};

static void part_register(struct loaded *row);

static struct loaded servers[] = {
	{ .file = "rsvd.so", .option = OPTION_SHARED_DISKS },
	{ .file = "sqos.so", .option = OPTION_STORAGE_QOS },
};

static bool is_kept(uint64_t id)
{
	struct state_handle *h = state_handles_fetch(talloc_tos(), id);
	bool found = h != NULL;

	TALLOC_FREE(h);
	/* A node without handles of its own does not know of those of others. */
	return found || (lp_clustering() && !state_handles_init());
}

static const struct tunnel_host host = {
	.is_kept = is_kept,
	.turn_take = hvrs_turn_take,
	.turn_wait_send = hvrs_turn_wait_send,
};

/* ---- loading --------------------------------------------------------------------- */

static const struct tunnel_server *load(const char *file)
{
	const struct tunnel_server *server = NULL;
	tunnel_entry_fn *entry = NULL;
	char *path = NULL;
	void *object = NULL;
	bool ok = false;

	path = talloc_asprintf(talloc_tos(), "%s/%s", HVRS_TUNNEL_DIR, file);
	if (path == NULL) {
		return NULL;
	}
	/* Samba's symbols are found as the module's own are. */
	object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (object == NULL) {
		DBG_ERR("hvrs: %s cannot be loaded: %s\n", path, dlerror());
		TALLOC_FREE(path);
		return NULL;
	}
	*(void **)&entry = dlsym(object, TUNNEL_ENTRY);
	server = entry != NULL ? entry() : NULL;
	if (server == NULL || server->version != TUNNEL_VERSION) {
		DBG_ERR("hvrs: %s belongs to another version of hvrs; install "
			"both from one package\n", path);
		server = NULL;
	}
	if (server != NULL) {
		become_root();
		ok = server->start(&host);
		unbecome_root();
	}
	TALLOC_FREE(path);
	return ok ? server : NULL;
}

bool hvrs_tunnel_wanted(const struct hvrs_share *share, enum option_id option)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		struct loaded *row = &servers[i];

		if (row->option != option) {
			continue;
		}
		if (!hooks_active()) {
			DBG_ERR("hvrs: share %s: hvrs:%s needs the core hooks, "
				"which are off in this smbd; it stays off\n",
				share->name, option_row_get(option)->name);
			return false;
		}
		if (!row->tried) {
			row->tried = true;
			row->server = load(row->file);
			if (row->server != NULL) {
				part_register(row);
			}
		}
		return row->server != NULL;
	}
	return false;
}

/* The server of a row where this connection has it switched on. */
static const struct tunnel_server *active(const struct loaded *row,
					  struct connection_struct *conn)
{
	struct hvrs_share *share = NULL;

	if (row->server == NULL) {
		return NULL;
	}
	share = hvrs_share_of(conn);
	return share != NULL && share->on[row->option] ? row->server : NULL;
}

/* ---- CREATE ------------------------------------------------------------------------ */

/*
 * Between the lookup of a name and the create_file_fn that follows it at once:
 * the file name that lost a suffix.
 */
static const struct smb_filename *cut_name;
/* While a server opens the file of such a name. */
static bool creating;
static struct connection_struct *cut_conn;

bool hvrs_tunnel_is_creating(void)
{
	return creating;
}

size_t hvrs_tunnel_suffix(struct connection_struct *conn, const char *name)
{
	size_t i = 0;

	cut_name = NULL;
	cut_conn = conn;
	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server = active(&servers[i], conn);
		size_t length = strlen(name);
		size_t suffix = 0;

		if (server == NULL || server->suffix == NULL) {
			continue;
		}
		suffix = strlen(server->suffix);
		if (length > suffix &&
		    strcasecmp_m(name + length - suffix,
				 server->suffix) == 0) {
			return suffix;
		}
	}
	return 0;
}

void hvrs_tunnel_name_cut(struct smb_filename *smb_fname)
{
	cut_name = smb_fname;
}

NTSTATUS hvrs_tunnel_create(const struct tunnel_create *given)
{
	struct tunnel_create c = *given;
	NTSTATUS status = NT_STATUS_OK;
	size_t i = 0;

	c.suffix = c.req != NULL && cut_name != NULL &&
		cut_name == c.smb_fname && cut_conn == c.handle->conn;
	if (c.suffix) {
		cut_name = NULL;
	}
	for (i = 0; i < ARRAY_SIZE(servers) && c.req != NULL; i++) {
		const struct tunnel_server *server =
			active(&servers[i], c.handle->conn);
		bool taken = false;

		if (server == NULL) {
			continue;
		}
		creating = c.suffix;
		taken = server->create(&c, &status);
		creating = false;
		if (taken) {
			return status;
		}
	}
	if (c.suffix) {
		/* Nobody took it, and a stream must never be made. */
		return NT_STATUS_OBJECT_NAME_NOT_FOUND;
	}
	return tunnel_create_next(&c);
}

/* ---- everything else ----------------------------------------------------------------- */

bool hvrs_tunnel_ioctl(uint32_t code, struct tevent_context *ev,
		       struct tevent_req *req,
		       struct smbd_smb2_ioctl_state *state)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server =
			active(&servers[i], state->fsp->conn);

		if (server != NULL && server->ioctl(code, ev, req, state)) {
			return true;
		}
	}
	return false;
}

bool hvrs_tunnel_read(struct smb_request *smbreq, struct files_struct *fsp,
		      TALLOC_CTX *mem_ctx, DATA_BLOB *data, off_t offset,
		      size_t length, NTSTATUS *_status)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server = servers[i].server;

		if (server != NULL && server->read != NULL &&
		    server->read(smbreq, fsp, mem_ctx, data, offset, length,
				 _status)) {
			return true;
		}
	}
	return false;
}

bool hvrs_tunnel_write(struct smb_request *smbreq, struct files_struct *fsp,
		       uint64_t offset, DATA_BLOB data, bool through,
		       NTSTATUS *_status)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server = servers[i].server;

		if (server != NULL && server->write != NULL &&
		    server->write(smbreq, fsp, offset, data, through,
				  _status)) {
			return true;
		}
	}
	return false;
}

NTSTATUS hvrs_tunnel_file_info(struct files_struct *fsp, uint16_t level,
			       size_t room, SMB_STRUCT_STAT *st)
{
	NTSTATUS status = NT_STATUS_OK;
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers) && NT_STATUS_IS_OK(status); i++) {
		const struct tunnel_server *server = servers[i].server;

		if (server != NULL && server->file_info != NULL) {
			status = server->file_info(fsp, level, room, st);
		}
	}
	return status;
}

uint64_t hvrs_tunnel_charge(const struct hvrs_share *share,
			    struct files_struct *fsp, size_t length,
			    void **_flow)
{
	size_t i = 0;

	*_flow = NULL;
	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server = servers[i].server;

		if (server != NULL && server->charge != NULL) {
			return server->charge(fsp, length,
					      share->text[OPTION_QOS_POLICY],
					      _flow);
		}
	}
	return 0;
}

void hvrs_tunnel_waits(struct files_struct *fsp)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server = servers[i].server;

		if (server != NULL && server->waits != NULL) {
			server->waits(fsp);
		}
	}
}

void hvrs_tunnel_charged(void *flow, size_t length)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server = servers[i].server;

		if (server != NULL && server->charged != NULL) {
			server->charged(flow, length);
		}
	}
}

void hvrs_tunnel_close(struct files_struct *fsp)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		if (servers[i].server != NULL &&
		    servers[i].server->close != NULL) {
			servers[i].server->close(fsp);
		}
	}
}

bool hvrs_tunnel_unlink(struct vfs_handle_struct *handle,
			struct files_struct *dirfsp,
			const struct smb_filename *smb_fname, int *_ret)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server =
			active(&servers[i], handle->conn);

		if (server != NULL && server->unlink != NULL &&
		    server->unlink(handle, dirfsp, smb_fname, _ret)) {
			return true;
		}
	}
	return false;
}

bool hvrs_tunnel_owns(const struct files_struct *fsp)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server = servers[i].server;

		if (server != NULL && server->owns != NULL &&
		    server->owns(fsp)) {
			return true;
		}
	}
	return false;
}

/* ---- handles that outlive smbd --------------------------------------------------------- */

bool hvrs_tunnel_modes(struct files_struct *fsp, uint32_t *_access,
		       uint32_t *_sharing)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server = servers[i].server;

		if (server != NULL && server->modes != NULL &&
		    server->owns != NULL && server->owns(fsp)) {
			server->modes(fsp, _access, _sharing);
			return true;
		}
	}
	return false;
}

void hvrs_tunnel_disconnect(struct files_struct *fsp)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		const struct tunnel_server *server = servers[i].server;

		if (server != NULL && server->disconnect != NULL) {
			server->disconnect(fsp);
		}
	}
}

static void part_register(struct loaded *row)
{
	const struct tunnel_server *server = row->server;

	if (server->save == NULL || server->restore == NULL) {
		return;
	}
	row->part = (struct hvrs_handle_part) {
		.tag = server->tag, .context = server->context,
		.save = server->save, .restore = server->restore,
	};
	hvrs_handles_part(&row->part);
}
