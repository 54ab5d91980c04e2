/*
 * A tree connect: options from smb.conf, what the file system can do, and
 * what "auto" comes to.
 */
#include "hvrs.h"
#include "hooks.h"
#include "state_handles.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <unistd.h>

/* ---- options ---------------------------------------------------------------- */

struct unknown_search {
	const char *share;
	int snum;
	bool global;
};

/* Called for every "hvrs:..." key; logs the ones that mean nothing here. */
static bool report_unknown(const char *key, regmatch_t matches[],
			   void *private_data)
{
	const struct unknown_search *search = private_data;
	const char *name = key + matches[0].rm_eo;
	const char *nearest = NULL;
	enum option_id id = OPTION_COUNT;
	int ret = option_find(name, &id);

	if (ret == 0) {
		if (option_row_get(id)->global && !search->global) {
			DBG_ERR("hvrs: share %s: \"hvrs:%s\" belongs into "
				"[global]; it has no effect here\n",
				search->share, option_row_get(id)->name);
		}
		return false;
	}
	nearest = option_nearest(name);
	DBG_ERR("hvrs: %s%s: unknown option \"%s = %s\" in smb.conf has no "
		"effect%s%s%s. The options are listed in hvrs(8) and by "
		"\"hvrsctl options\"\n", search->global ? "" : "share ",
		search->global ? "[global]" : search->share, key,
		lp_parm_const_string(search->snum, "hvrs", name, ""),
		nearest != NULL ? "; did you mean \"hvrs:" : "",
		nearest != NULL ? nearest : "", nearest != NULL ? "\"?" : "");
	return false;
}

static void report_unknown_options(const char *share, int snum)
{
	struct unknown_search search = { .share = share, .snum = snum };

	series_share_options(snum, "^hvrs[[:space:]]*:", report_unknown,
			     &search);
	search.global = true;
	search.snum = GLOBAL_SECTION_SNUM;
	lp_wi_scan_global_parametrics("^hvrs[[:space:]]*:", 1, report_unknown,
				      &search);
}

static void report_value(const char *share, const struct option_row *row,
			 const char *text)
{
	DBG_ERR("hvrs: share %s: \"hvrs:%s = %s\" is not understood; accepted "
		"is %s. The default \"%s\" is used\n", share, row->name, text,
		option_accepts(row), row->standard);
}

/* False without memory. */
static bool read_options(struct hvrs_share *share, int snum)
{
	size_t i = 0;

	for (i = 0; i < OPTION_COUNT; i++) {
		const struct option_row *row = option_row_get(i);
		const char *text = lp_parm_const_string(
			snum, "hvrs", row->name, row->standard);
		int ret = 0;

		if (row->global) {
			continue;
		}
		ret = option_validate(row, text);
		share->text[i] = talloc_strdup(
			share, ret == 0 ? text : row->standard);
		if (share->text[i] == NULL) {
			return false;
		}
		if (row->kind == OPTION_SWITCH) {
			option_switch_parse(share->text[i], &share->asked[i]);
		} else if (row->kind == OPTION_NUMBER) {
			option_number_parse(row, share->text[i],
					    &share->number[i]);
		}
		if (ret != 0) {
			report_value(share->name, row, text);
		}
	}
	return true;
}

/* ---- the file system --------------------------------------------------------- */

/* An unnamed file in the directory; -1 with errno where none can be made. */
static int probe_file(const char *directory)
{
	char *name = NULL;
	int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd != -1 || (errno != EOPNOTSUPP && errno != EISDIR)) {
		return fd;
	}
	name = talloc_asprintf(talloc_tos(), "%s/.hvrs-probe-XXXXXX",
			       directory);
	if (name == NULL) {
		errno = ENOMEM;
		return -1;
	}
	fd = mkostemp(name, O_CLOEXEC);
	if (fd != -1) {
		unlink(name);
	}
	TALLOC_FREE(name);
	return fd;
}

void hvrs_probe(const char *directory, struct hvrs_probe *_probe)
{
	struct hvrs_probe probe = { .cluster = 4096 };
	struct file_clone_range clone = {};
	struct statfs fs = {};
	struct stat st = {};
	int source = -1;
	int target = -1;
	int saved = 0;

	become_root();
	source = probe_file(directory);
	saved = errno;
	target = probe_file(directory);
	unbecome_root();
	if (source == -1 || target == -1) {
		DBG_NOTICE("hvrs: no file can be made in %s to see what its "
			   "file system can do: %s\n", directory,
			   strerror(source == -1 ? saved : errno));
		goto done;
	}
	probe.local = fstatfs(source, &fs) == 0;
	if (probe.local && (uint32_t)fs.f_type == XFS_SUPER_MAGIC &&
	    fstat(source, &st) == 0) {
		probe.counted = st.st_dev;
	}
	if (probe.local && fs.f_bsize >= 512 && fs.f_bsize <= 0x10000 &&
	    (fs.f_bsize & (fs.f_bsize - 1)) == 0) {
		probe.cluster = (uint32_t)fs.f_bsize;
	}
	if (ftruncate(source, 2 * probe.cluster) != 0 ||
	    ftruncate(target, 2 * probe.cluster) != 0) {
		goto done;
	}
	probe.punch = fallocate(source, FALLOC_FL_PUNCH_HOLE |
				FALLOC_FL_KEEP_SIZE, 0, probe.cluster) == 0;
	probe.seek = lseek(source, 0, SEEK_HOLE) == 0;
	clone.src_fd = source;
	clone.src_length = probe.cluster;
	probe.clone = ioctl(target, FICLONERANGE, &clone) == 0;
done:
	if (source != -1) {
		close(source);
	}
	if (target != -1) {
		close(target);
	}
	*_probe = probe;
}

/* ---- what it comes to --------------------------------------------------------- */

struct feature {
	enum option_id id;
	uint32_t part;
	bool (*can)(const struct hvrs_share *share, int snum);
	const char *lacks;	/* why "yes" cannot be had */
};

static bool can_punch(const struct hvrs_share *share, int snum)
{
	(void)snum;
	return share->probe.punch;
}

static bool can_local(const struct hvrs_share *share, int snum)
{
	(void)snum;
	return share->probe.local;
}

static bool can_clone(const struct hvrs_share *share, int snum)
{
	(void)snum;
	return share->probe.clone && (series_clones() || hooks_active());
}

static bool can_sparse(const struct hvrs_share *share, int snum)
{
	return share->probe.punch && share->probe.seek &&
		lp_store_dos_attributes(snum);
}

/* What has to be kept needs a way to hold back replies, and to be stored. */
static bool can_keep(const struct hvrs_share *share, int snum)
{
	(void)snum;
	return hooks_active() && state_handles_init() && share->probe.local;
}

static bool can_always(const struct hvrs_share *share, int snum)
{
	(void)share;
	(void)snum;
	return true;
}

static bool can_share_disks(const struct hvrs_share *share, int snum)
{
	(void)snum;
	return hvrs_tunnel_wanted(share, OPTION_SHARED_DISKS);
}

static bool can_tell_qos(const struct hvrs_share *share, int snum)
{
	(void)snum;
	return hvrs_tunnel_wanted(share, OPTION_STORAGE_QOS);
}

static bool can_enforce(const struct hvrs_share *share, int snum)
{
	(void)snum;
	return share->on[OPTION_STORAGE_QOS];
}

static const struct feature features[] = {
	{ OPTION_TRIM, HVRS_PART_FSCTL, can_punch,
	  "the file system cannot punch holes" },
	{ OPTION_ZERO_DATA, HVRS_PART_FSCTL, can_local,
	  "the files are not on a file system of this machine" },
	{ OPTION_BLOCK_CLONING, HVRS_PART_EXTENTS, can_clone,
	  "the file system cannot share blocks between files (XFS made with "
	  "reflink=1 and btrfs can), or the core hooks are off, without which "
	  "this Samba does not ask it to" },
	{ OPTION_SPARSE, HVRS_PART_FSCTL, can_sparse,
	  "the file system has no holes that can be found, or the share has "
	  "store dos attributes = no" },
	{ OPTION_SPARSE_VDL, HVRS_PART_FSCTL, can_sparse,
	  "the file system has no holes that can be found, or the share has "
	  "store dos attributes = no" },
	{ OPTION_DISK_ATTRIBUTES, HVRS_PART_FSCTL, can_always, NULL },
	{ OPTION_SECTOR_SIZES, HVRS_PART_FSCTL, can_local,
	  "the files are not on a file system of this machine" },
	{ OPTION_INTEGRITY, HVRS_PART_EXTENTS, can_always, NULL },
	{ OPTION_FILE_REGIONS, HVRS_PART_FSCTL, can_always, NULL },
	{ OPTION_OFFLOAD, HVRS_PART_EXTENTS, can_local,
	  "the files are not on a file system of this machine" },
	{ OPTION_SHARED_DISKS, HVRS_PART_FSCTL, can_share_disks,
	  "its server does not work in this smbd, as said above" },
	{ OPTION_STORAGE_QOS, HVRS_PART_FSCTL, can_tell_qos,
	  "its server does not work in this smbd, as said above" },
	{ OPTION_QOS_ENFORCE, HVRS_PART_FSCTL, can_enforce,
	  "hvrs:storage qos is not on" },
	{ OPTION_PERSISTENT, HVRS_PART_FSCTL, can_keep,
	  "core hooks are off, or the store of handles cannot be used" },
	{ OPTION_RESILIENT, HVRS_PART_FSCTL, can_keep,
	  "core hooks are off, or the store of handles cannot be used" },
};

/*
 * What keeps state that only one machine has: the freeze of a snapshot; and
 * what lies in files that another node may see late.
 * Through that it would be wrong without a word.
 */
static const enum option_id one_machine[] = {
	OPTION_PERSISTENT, OPTION_RESILIENT, OPTION_OFFLOAD,
	OPTION_SHARED_DISKS, OPTION_REMOTE_VSS,
};

static bool works_on_cluster(const struct hvrs_share *share, enum option_id id)
{
	if (share->asked[OPTION_COHERENT] != OPTION_YES) {
		return false;
	}
	return id == OPTION_OFFLOAD || id == OPTION_SHARED_DISKS ||
		id == OPTION_REMOTE_VSS ||
		(state_handles_work_on_cluster() &&
		 (id == OPTION_PERSISTENT || id == OPTION_RESILIENT));
}

static void refuse_on_cluster(struct hvrs_share *share)
{
	char *list = talloc_strdup(talloc_tos(), "");
	size_t i = 0;

	if (!lp_clustering()) {
		return;
	}
	for (i = 0; i < ARRAY_SIZE(one_machine); i++) {
		enum option_id id = one_machine[i];

		if (works_on_cluster(share, id)) {
			continue;
		}
		if (share->asked[id] != OPTION_NO && list != NULL) {
			list = talloc_asprintf_append(
				list, "%s%s", list[0] != '\0' ? ", " : "",
				option_row_get(id)->name);
		}
		share->asked[id] = OPTION_NO;
		share->on[id] = false;
	}
	if (list == NULL || list[0] != '\0') {
		DBG_ERR("hvrs: share %s: clustering = yes: off, because it "
			"works on a single machine only, or needs hvrs:coherent "
			"file system = yes%s: %s\n", share->name,
			state_handles_work_on_cluster() ? "" :
			" (and handles a newer Samba)",
			list != NULL ? list : "much");
	}
	TALLOC_FREE(list);
}

/*
 * Where an administrator has switched on Samba's own persistent handles, they
 * are Samba's own: a handle has one owner.
 */
static void leave_to_core(struct hvrs_share *share, int snum)
{
	bool wanted = (share->parts & HVRS_PART_FSCTL) != 0 &&
		share->asked[OPTION_PERSISTENT] != OPTION_NO;

	share->core_persists = series_core_available(snum) ||
		(series_core_persists() && !wanted);
	if (!share->core_persists || !wanted) {
		return;
	}
	DBG_WARNING("hvrs: share %s: persistent handles = yes and continuous "
		    "availability = yes: its persistent handles are Samba's "
		    "own, hvrs makes none there; resilient ones it does\n",
		    share->name);
	share->asked[OPTION_PERSISTENT] = OPTION_NO;
}

static void resolve(struct hvrs_share *share, int snum)
{
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *feature = &features[i];
		enum option_switch asked = share->asked[feature->id];

		if ((share->parts & feature->part) == 0 ||
		    asked == OPTION_NO) {
			continue;
		}
		share->on[feature->id] = feature->can(share, snum);
		if (!share->on[feature->id] && asked == OPTION_YES) {
			DBG_ERR("hvrs: share %s: hvrs:%s = yes cannot be had: "
				"%s; it stays off\n", share->name,
				option_row_get(feature->id)->name,
				feature->lacks);
		}
	}
	/* Freed blocks are not wanted where the share allocates up front. */
	if (share->asked[OPTION_TRIM] == OPTION_AUTO &&
	    lp_strict_allocate(snum)) {
		share->on[OPTION_TRIM] = false;
	}
	if (share->asked[OPTION_INTEGRITY] == OPTION_AUTO) {
		share->on[OPTION_INTEGRITY] = share->on[OPTION_BLOCK_CLONING];
	}
	share->on[OPTION_OFFLOAD_EXTENDS] =
		share->asked[OPTION_OFFLOAD_EXTENDS] != OPTION_NO;
	share->on[OPTION_ZERO_DATA_FREES] =
		share->asked[OPTION_ZERO_DATA_FREES] == OPTION_YES ||
		(share->asked[OPTION_ZERO_DATA_FREES] == OPTION_AUTO &&
		 !lp_strict_allocate(snum));
}

/* What a client gets, for whoever wonders. */
static void log_features(const struct hvrs_share *share)
{
	char *list = talloc_strdup(talloc_tos(), "");
	size_t i = 0;

	for (i = 0; i < ARRAY_SIZE(features); i++) {
		if (share->on[features[i].id]) {
			list = talloc_asprintf_append(
				list, "%s%s", list[0] != '\0' ? ", " : "",
				option_row_get(features[i].id)->name);
		}
		if (list == NULL) {
			return;
		}
	}
	DBG_INFO("hvrs: share %s has: %s\n", share->name, list);
	TALLOC_FREE(list);
}

/*
 * Clients do not reach the folder that snapshots or tokens lie in, whatever
 * their rights there: what the share's owner could rename would not be root's
 * any more.  name: with slashes around it.
 */
static void hide(const struct connection_struct *conn, const char *name)
{
	int snum = SNUM(conn);
	const struct loadparm_substitution *lp_sub =
		loadparm_s3_global_substitution();
	const char *veto = lp_veto_files(talloc_tos(), lp_sub, snum);
	char *more = NULL;

	if (veto != NULL && strstr(veto, name) != NULL) {
		return;
	}
	more = talloc_asprintf(talloc_tos(), "%s%s", veto != NULL ? veto : "",
			       veto != NULL && veto[0] != '\0' &&
				       veto[strlen(veto) - 1] == '/'
				       ? name + 1 : name);
	if (more != NULL) {
		lp_do_parameter(snum, "veto files", more);
	}
}

/*
 * Where files are cloned one by one the snapshots of a share lie in its own
 * folder, while shadow_copy2 looks for them where the file system is mounted.
 * Below it we are asked first, so it can be told.  A btrfs subvolume is a
 * mount point to it.
 */
static void show_previous_versions(const struct connection_struct *conn)
{
	int snum = SNUM(conn);
	struct statfs fs = {};

	if (lp_parm_const_string(snum, "shadow", "mountpoint", NULL) == NULL &&
	    lp_parm_const_string(snum, "shadow", "snapdir", NULL) == NULL &&
	    statfs(conn->connectpath, &fs) == 0 &&
	    fs.f_type != BTRFS_SUPER_MAGIC) {
		lp_do_parameter(snum, "shadow:mountpoint",
				conn->connectpath);
	}
}

struct hvrs_share *hvrs_share_create(TALLOC_CTX *mem_ctx,
				     struct connection_struct *conn,
				     uint32_t parts)
{
	const struct loadparm_substitution *lp_sub =
		loadparm_s3_global_substitution();
	struct hvrs_share *share = talloc_zero(mem_ctx, struct hvrs_share);

	if (share == NULL) {
		return NULL;
	}
	share->parts = parts;
	share->name = lp_servicename(share, lp_sub, SNUM(conn));
	report_unknown_options(share->name, SNUM(conn));
	if (!read_options(share, SNUM(conn)) || share->name == NULL) {
		TALLOC_FREE(share);
		return NULL;
	}
	hvrs_probe(conn->connectpath, &share->probe);
	leave_to_core(share, SNUM(conn));
	refuse_on_cluster(share);
	resolve(share, SNUM(conn));
	if (CHECK_DEBUGLVL(DBGLVL_INFO)) {
		log_features(share);
	}
	hvrs_sectors_apply(share, conn);
	if (share->asked[OPTION_REMOTE_VSS] != OPTION_NO) {
		hide(conn, "/.snapshots/");
		show_previous_versions(conn);
	}
	if (share->asked[OPTION_REMOTE_VSS] != OPTION_NO &&
	    share->probe.clone) {
		share->freeze = hvrs_freeze_open(conn->connectpath);
	}
	if (share->on[OPTION_OFFLOAD] && lp_clustering()) {
		hide(conn, "/" HVRS_TOKENS_FOLDER "/");
		hvrs_folder_begin(share, conn);
	}
	return share;
}
