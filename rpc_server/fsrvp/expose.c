/*
 * Exposed shares, [MS-FSRVP] 3.1.4.6: written to the registry through
 * libsmbconf, so that the administrator's smb.conf stays as it is.  Each is
 * its base share with the path of the snapshot, hidden, read-only as soon as
 * it may be, and without what a snapshot has no use for.
 */
#include "fsrvp.h"

/* Parameters of the base that an exposed share does not take over. */
static const char *const left_out[] = {
	"path", "directory", "comment", "read only", "writeable", "writable",
	"write ok", "browseable", "browsable", "available", "printable",
	"print ok", "copy", "vfs objects", "vfs object", "write list",
	"preexec", "exec", "root preexec", "postexec", "root postexec",
	"preexec close", "root preexec close", "magic script",
	"magic output", "dfree command", "max connections",
	"smb3 share cap:CONTINUOUS AVAILABILITY", "veto files",
};

/* Modules it keeps, because the tree cannot be read rightly without. */
static const char *const kept_modules[] = {
	"acl_xattr", "acl_tdb", "streams_xattr", "streams_depot", "catia",
	"fruit", "xattr_tdb", "nfs4acl_xattr", "zfsacl", "gpfs", "ceph",
	"ceph_new", "glusterfs", "io_uring", "btrfs", "dirsort", "cap",
};

static bool is_in(const char *const list[], size_t count, const char *name)
{
	size_t i = 0;

	for (i = 0; i < count; i++) {
		if (strequal(list[i], name)) {
			return true;
		}
	}
	return false;
}

static bool is_left_out(const char *name)
{
	return is_in(left_out, ARRAY_SIZE(left_out), name) ||
	       strncasecmp_m(name, "hvrs:", 5) == 0 ||
	       strncasecmp_m(name, "shadow:", 7) == 0 ||
	       strncasecmp_m(name, "recycle:", 8) == 0 ||
	       strncasecmp_m(name, "full_audit:", 11) == 0;
}

static char *kept_objects(TALLOC_CTX *mem_ctx, const char *share)
{
	const char **objects = lp_vfs_objects(lp_servicenumber(share));
	char *text = talloc_strdup(mem_ctx, "");

	for (; objects != NULL && *objects != NULL; objects++) {
		if (is_in(kept_modules, ARRAY_SIZE(kept_modules), *objects)) {
			text = talloc_asprintf_append(text, "%s ", *objects);
		}
	}
	return text;
}

/* The base share's own lines, wherever they are. */
static sbcErr get_base(TALLOC_CTX *mem_ctx, struct smbconf_ctx *registry,
		       const char *share, struct smbconf_service **_base)
{
	struct smbconf_ctx *file = NULL;
	char *source = talloc_asprintf(mem_ctx, "file:%s",
				       get_dyn_CONFIGFILE());
	sbcErr err = SBC_ERR_NOMEM;

	if (source == NULL) {
		return err;
	}
	err = smbconf_init(mem_ctx, &file, source);
	if (SBC_ERROR_IS_OK(err)) {
		err = smbconf_get_share(file, mem_ctx, share, _base);
		smbconf_shutdown(file);
	}
	if (!SBC_ERROR_IS_OK(err)) {
		err = smbconf_get_share(registry, mem_ctx, share, _base);
	}
	return err;
}

static sbcErr set(struct smbconf_ctx *registry, const char *share,
		  const char *name, const char *value)
{
	return smbconf_set_parameter(registry, share, name, value);
}

static sbcErr write_share(struct smbconf_ctx *registry,
			  const struct smbconf_service *base,
			  const struct snapset_set *snapset,
			  const struct snapset_copy *copy,
			  const struct snapset_mapping *mapping)
{
	const char *name = mapping->exposed;
	char *path = talloc_asprintf(base, "%s%s", copy->snapshot,
				     mapping->path);
	char *comment = talloc_asprintf(base, "Snapshot of %s",
					mapping->share);
	char *objects = kept_objects(discard_const(base), mapping->share);
	sbcErr err = SBC_ERR_OK;
	uint32_t i = 0;

	if (path == NULL || comment == NULL || objects == NULL) {
		return SBC_ERR_NOMEM;
	}
	if (smbconf_share_exists(registry, name)) {
		err = smbconf_delete_share(registry, name);
	}
	if (SBC_ERROR_IS_OK(err)) {
		err = smbconf_create_share(registry, name);
	}
	for (i = 0; SBC_ERROR_IS_OK(err) && i < base->num_params; i++) {
		if (!is_left_out(base->param_names[i])) {
			err = set(registry, name, base->param_names[i],
				  base->param_values[i]);
		}
	}
	if (SBC_ERROR_IS_OK(err)) {
		err = set(registry, name, "path", path);
	}
	if (SBC_ERROR_IS_OK(err)) {
		err = set(registry, name, "comment", comment);
	}
	if (SBC_ERROR_IS_OK(err)) {
		err = set(registry, name, "browseable", "no");
	}
	if (SBC_ERROR_IS_OK(err)) {
		err = set(registry, name, "vfs objects", objects);
	}
	if (SBC_ERROR_IS_OK(err)) {
		err = set(registry, name, "read only",
			  snapset_is_writable(snapset) ? "no" : "yes");
	}
	return err;
}

/*
 * The base's permissions as they are now, as Windows does it; they are not
 * part of the registry's transaction, and written before the share is there.
 */
static bool copy_security(TALLOC_CTX *mem_ctx,
			  const struct snapset_mapping *mapping)
{
	size_t size = 0;
	struct security_descriptor *sd = get_share_security(
		mem_ctx, mapping->share, &size);
	NTSTATUS status = NT_STATUS_OK;

	if (sd == NULL) {
		return false;
	}
	status = set_share_security(mapping->exposed, sd);
	return NT_STATUS_IS_OK(status);
}

static sbcErr write_set(TALLOC_CTX *mem_ctx, struct smbconf_ctx *registry,
			const struct snapset_set *snapset)
{
	const struct snapset_copy *copy = NULL;
	const struct snapset_mapping *mapping = NULL;
	sbcErr err = SBC_ERR_OK;

	for (copy = snapset->copies; copy != NULL; copy = copy->next) {
		for (mapping = copy->mappings; mapping != NULL;
		     mapping = mapping->next) {
			struct smbconf_service *base = NULL;

			err = get_base(mem_ctx, registry, mapping->share,
				       &base);
			if (!SBC_ERROR_IS_OK(err)) {
				return err;
			}
			if (!copy_security(mem_ctx, mapping)) {
				return SBC_ERR_IO_FAILURE;
			}
			err = write_share(registry, base, snapset, copy,
					  mapping);
			if (!SBC_ERROR_IS_OK(err)) {
				return err;
			}
		}
	}
	return err;
}

static void tell_servers(struct fsrvp *server)
{
	messaging_send_all(server->msg_ctx, MSG_SMB_CONF_UPDATED, NULL, 0);
}

uint32_t fsrvp_expose(struct fsrvp *server, const struct snapset_set *snapset)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct smbconf_ctx *registry = NULL;
	sbcErr err = smbconf_init(frame, &registry, "registry");

	if (SBC_ERROR_IS_OK(err)) {
		err = smbconf_transaction_start(registry);
	}
	if (SBC_ERROR_IS_OK(err)) {
		err = write_set(frame, registry, snapset);
		if (SBC_ERROR_IS_OK(err)) {
			err = smbconf_transaction_commit(registry);
		} else {
			smbconf_transaction_cancel(registry);
		}
	}
	if (!SBC_ERROR_IS_OK(err)) {
		DBG_ERR("hvrs: fsrvp: the shares of a snapshot cannot be "
			"written to the registry: %s\n",
			sbcErrorString(err));
		TALLOC_FREE(frame);
		return SNAPSET_FAIL;
	}
	tell_servers(server);
	TALLOC_FREE(frame);
	return SNAPSET_OK;
}

int fsrvp_unexpose(struct fsrvp *server, const char *exposed)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct smbconf_ctx *registry = NULL;
	sbcErr err = smbconf_init(frame, &registry, "registry");

	if (SBC_ERROR_IS_OK(err) && smbconf_share_exists(registry, exposed)) {
		err = smbconf_delete_share(registry, exposed);
	}
	if (!SBC_ERROR_IS_OK(err)) {
		DBG_ERR("hvrs: fsrvp: the share %s cannot be removed from the "
			"registry: %s. It is tried again every minute\n",
			exposed, sbcErrorString(err));
		TALLOC_FREE(frame);
		return -EIO;
	}
	delete_share_security(exposed);
	messaging_send_all(server->msg_ctx, MSG_SMB_FORCE_TDIS, exposed,
			   strlen(exposed) + 1);
	tell_servers(server);
	TALLOC_FREE(frame);
	return 0;
}

uint32_t fsrvp_seal_shares(struct fsrvp *server,
			   const struct snapset_set *snapset)
{
	TALLOC_CTX *frame = talloc_stackframe();
	struct smbconf_ctx *registry = NULL;
	const struct snapset_copy *copy = NULL;
	const struct snapset_mapping *mapping = NULL;
	sbcErr err = smbconf_init(frame, &registry, "registry");

	for (copy = snapset->copies; copy != NULL; copy = copy->next) {
		for (mapping = copy->mappings; mapping != NULL;
		     mapping = mapping->next) {
			if (!SBC_ERROR_IS_OK(err) || !mapping->is_exposed) {
				continue;
			}
			err = set(registry, mapping->exposed, "read only",
				  "yes");
			if (SBC_ERROR_IS_OK(err)) {
				messaging_send_all(server->msg_ctx,
						   MSG_SMB_FORCE_TDIS,
						   mapping->exposed,
						   strlen(mapping->exposed) +
							   1);
			}
		}
	}
	if (!SBC_ERROR_IS_OK(err)) {
		DBG_ERR("hvrs: fsrvp: the share of a snapshot cannot be made "
			"read-only: %s\n", sbcErrorString(err));
		TALLOC_FREE(frame);
		return SNAPSET_FAIL;
	}
	tell_servers(server);
	TALLOC_FREE(frame);
	return SNAPSET_OK;
}
