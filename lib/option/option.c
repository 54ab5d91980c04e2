/*
 * The option table.  A new option is one row here and one entry in the man
 * page hvrs(8); a test compares the two.
 */
#include "option/option.h"
#include "util/guid.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct option_row rows[OPTION_COUNT] = {
	[OPTION_TRIM] = {
		.name = "trim", .kind = OPTION_SWITCH, .feature = true,
		.standard = "auto",
		.help = "FSCTL_FILE_LEVEL_TRIM frees blocks, and the volume "
			"says that trim is enabled",
	},
	[OPTION_ZERO_DATA] = {
		.name = "zero data", .kind = OPTION_SWITCH, .feature = true,
		.standard = "auto",
		.help = "FSCTL_SET_ZERO_DATA with all of its rules, without "
			"holding up other requests",
	},
	[OPTION_ZERO_DATA_FREES] = {
		.name = "zero data frees", .kind = OPTION_SWITCH,
		.standard = "auto",
		.help = "zeroed ranges of files without the sparse attribute "
			"are freed; auto: unless strict allocate = yes",
	},
	[OPTION_BLOCK_CLONING] = {
		.name = "block cloning", .kind = OPTION_SWITCH,
		.feature = true, .standard = "auto",
		.help = "FSCTL_DUPLICATE_EXTENTS_TO_FILE and _EX where the "
			"file system can share blocks",
	},
	[OPTION_SPARSE] = {
		.name = "sparse", .kind = OPTION_SWITCH, .feature = true,
		.standard = "auto",
		.help = "FSCTL_SET_SPARSE and FSCTL_QUERY_ALLOCATED_RANGES "
			"with all of their rules",
	},
	[OPTION_SPARSE_VDL] = {
		.name = "sparse vdl", .kind = OPTION_SWITCH, .feature = true,
		.standard = "auto",
		.help = "the volume announces FILE_SUPPORTS_SPARSE_VDL, so "
			"that virtual disks may be sparse files",
	},
	[OPTION_DISK_ATTRIBUTES] = {
		.name = "virtual disk attributes", .kind = OPTION_SWITCH,
		.feature = true, .standard = "auto",
		.help = "virtual disk files never show the attributes "
			"compressed and encrypted, nor sparse without sparse "
			"vdl",
	},
	[OPTION_DISK_FILES] = {
		.name = "virtual disk files", .kind = OPTION_PATTERNS,
		.standard = "*.vhd *.vhdx *.vhds *.avhd *.avhdx *.vhdpmem "
			"*.vmcx *.vmrs *.vmgs *.rct *.mrt *.vsv *.bin *.iso",
		.help = "names of the files that virtual disk attributes is "
			"about",
	},
	[OPTION_SECTOR_SIZES] = {
		.name = "sector sizes", .kind = OPTION_SWITCH,
		.feature = true, .standard = "auto",
		.help = "the volume tells its true cluster size, and sectors "
			"of 512 logical and 4096 physical bytes",
	},
	[OPTION_INTEGRITY] = {
		.name = "integrity information", .kind = OPTION_SWITCH,
		.feature = true, .standard = "auto",
		.help = "FSCTL_GET_INTEGRITY_INFORMATION and _SET answer as a "
			"volume without checksums; auto: with block cloning",
	},
	[OPTION_FILE_REGIONS] = {
		.name = "file regions", .kind = OPTION_SWITCH,
		.feature = true, .standard = "auto",
		.help = "FSCTL_QUERY_FILE_REGIONS",
	},
	[OPTION_OFFLOAD] = {
		.name = "offload", .kind = OPTION_SWITCH, .feature = true,
		.standard = "auto",
		.help = "offload data transfer (ODX): FSCTL_OFFLOAD_READ and "
			"FSCTL_OFFLOAD_WRITE",
	},
	[OPTION_OFFLOAD_SCOPE] = {
		.name = "offload token scope", .kind = OPTION_WORD,
		.standard = "user", .words = "user bearer",
		.help = "who may use a token of this share: the user it was "
			"given to, or whoever has it",
	},
	[OPTION_OFFLOAD_LIFETIME] = {
		.name = "offload token lifetime", .kind = OPTION_NUMBER,
		.standard = "120", .least = 1, .most = 3600,
		.accepts = "seconds, 1 to 3600",
		.help = "no token lives longer, whatever its client asks for",
	},
	[OPTION_OFFLOAD_USER_TOKENS] = {
		.name = "offload tokens per user", .kind = OPTION_NUMBER,
		.standard = "1024", .least = 1, .most = 65536,
		.accepts = "1 to 65536",
		.help = "live tokens of one user; the oldest goes for one "
			"more",
	},
	[OPTION_OFFLOAD_TOKENS] = {
		.name = "offload tokens", .kind = OPTION_NUMBER,
		.standard = "8192", .least = 1, .most = 65536,
		.accepts = "1 to 65536",
		.help = "live tokens in all; the oldest goes for one more",
	},
	[OPTION_OFFLOAD_PINNED] = {
		.name = "offload pinned", .kind = OPTION_NUMBER,
		.standard = "65536", .least = 1, .most = 1048576,
		.accepts = "gibibytes, 1 to 1048576",
		.help = "bytes that the clones behind all live tokens hold; "
			"the oldest token goes for more",
	},
	[OPTION_OFFLOAD_EXTENDS] = {
		.name = "offload extends", .kind = OPTION_SWITCH,
		.standard = "auto",
		.help = "an offload write that begins at the end of a file "
			"makes it longer; no: it is refused, as [MS-FSA] has "
			"it",
	},
	[OPTION_COHERENT] = {
		.name = "coherent file system", .kind = OPTION_SWITCH,
		.standard = "no",
		.help = "on a cluster: what one node has written, locked or "
			"cloned all others see at once",
	},
	[OPTION_REMOTE_VSS] = {
		.name = "remote vss", .kind = OPTION_SWITCH, .feature = true,
		.standard = "auto",
		.help = "remote VSS may take snapshots of the share; auto: "
			"where a provider can",
	},
	[OPTION_SNAPSHOT_PROVIDER] = {
		.name = "snapshot provider", .kind = OPTION_WORD,
		.standard = "auto", .words = "auto btrfs clone script",
		.help = "what takes the snapshots of remote VSS",
	},
	[OPTION_SNAPSHOT_SCRIPT] = {
		.name = "snapshot script", .kind = OPTION_PATH,
		.standard = "",
		.help = "the program of the snapshot provider script",
	},
	[OPTION_SNAPSHOT_FREEZE_LIMIT] = {
		.name = "snapshot freeze limit", .kind = OPTION_NUMBER,
		.standard = "2000", .least = 10, .most = 10000,
		.accepts = "milliseconds, 10 to 10000",
		.help = "writers wait no longer for the clones of a snapshot; "
			"one that takes longer fails",
	},
	[OPTION_RPC_INTEGRITY] = {
		.name = "rpc integrity", .kind = OPTION_SWITCH,
		.global = true, .standard = "yes",
		.help = "remote VSS refuses calls that are neither signed nor "
			"sealed",
	},
	[OPTION_FSRVP_LEGACY] = {
		.name = "fsrvp legacy statuses", .kind = OPTION_SWITCH,
		.global = true, .standard = "no",
		.help = "remote VSS answers as smbtorture's rpc.fsrvp expects "
			"it where that contradicts the document",
	},
	[OPTION_STORAGE_QOS] = {
		.name = "storage qos", .kind = OPTION_SWITCH, .feature = true,
		.standard = "no",
		.help = "storage QoS (MS-SQOS): flows and policies of Hyper-V "
			"hosts, which keep to what they are told",
	},
	[OPTION_QOS_ENFORCE] = {
		.name = "qos enforce", .kind = OPTION_SWITCH, .feature = true,
		.standard = "no",
		.help = "the server holds flows of storage QoS to their "
			"limits itself",
	},
	[OPTION_QOS_POLICY] = {
		.name = "qos policy", .kind = OPTION_GUID, .standard = "",
		.help = "the policy of files that are in no flow, each "
			"client one; needs qos enforce",
	},
	[OPTION_SHARED_DISKS] = {
		.name = "shared disks", .kind = OPTION_SWITCH, .feature = true,
		.standard = "no",
		.help = "VHDX files can be shared by several machines as "
			"SCSI disks with reservations (MS-RSVD)",
	},
	[OPTION_PERSISTENT] = {
		.name = "persistent handles", .kind = OPTION_SWITCH,
		.feature = true, .standard = "auto",
		.help = "the share is continuously available: clients get "
			"handles that outlive smbd, and their writes are on "
			"disk before they are answered",
	},
	[OPTION_RESILIENT] = {
		.name = "resilient handles", .kind = OPTION_SWITCH,
		.feature = true, .standard = "auto",
		.help = "FSCTL_LMR_REQUEST_RESILIENCY",
	},
	[OPTION_PERSISTENT_TIME] = {
		.name = "persistent timeout", .kind = OPTION_NUMBER,
		.standard = "60", .least = 1, .most = 3600,
		.accepts = "seconds, 1 to 3600",
		.help = "how long a persistent handle waits for its client, where "
			"that does not say",
	},
	[OPTION_PERSISTENT_MOST] = {
		.name = "persistent timeout most", .kind = OPTION_NUMBER,
		.standard = "300", .least = 1, .most = 3600,
		.accepts = "seconds, 1 to 3600",
		.help = "how long at most, whatever the client asks for",
	},
	[OPTION_RESILIENT_TIME] = {
		.name = "resilient timeout", .kind = OPTION_NUMBER,
		.standard = "120", .least = 1, .most = 3600,
		.accepts = "seconds, 1 to 3600",
		.help = "how long a resilient handle waits for its client, where "
			"that does not say",
	},
	[OPTION_RESILIENT_MOST] = {
		.name = "resilient timeout most", .kind = OPTION_NUMBER,
		.standard = "300", .least = 1, .most = 3600,
		.accepts = "seconds, 1 to 3600",
		.help = "a client that asks for more is refused",
	},
	[OPTION_HANDLE_STORE] = {
		.name = "handle store", .kind = OPTION_PATH,
		.global = true, .standard = "",
		.help = "directory of the log of handles, and on a cluster of "
			"the state of shared disks; empty: \"hvrs\" in smbd's "
			"state directory",
	},
	[OPTION_HANDLE_SYNC] = {
		.name = "handle store sync", .kind = OPTION_SWITCH,
		.global = true, .standard = "yes",
		.help = "handles outlive a power failure too; no: only the "
			"end of smbd",
	},
	[OPTION_FENCE_COMMAND] = {
		.name = "fence command", .kind = OPTION_PATH,
		.global = true, .standard = "",
		.help = "program that ends a process of another node, or the "
			"node; empty: none",
	},
	[OPTION_CORE_HOOKS] = {
		.name = "core hooks", .kind = OPTION_SWITCH, .global = true,
		.standard = "auto",
		.help = "re-point the few calls inside smbd that have no VFS "
			"hook",
	},
};

const struct option_row *option_row_get(enum option_id id)
{
	return &rows[id];
}

/* The next byte of a name that counts, in lower case; 0 at its end. */
static int name_next(const char **name)
{
	while (isspace((unsigned char)**name)) {
		*name += 1;
	}
	if (**name == '\0') {
		return 0;
	}
	return tolower((unsigned char)*(*name)++);
}

static bool name_equal(const char *a, const char *b)
{
	int x = 0;

	do {
		x = name_next(&a);
		if (x != name_next(&b)) {
			return false;
		}
	} while (x != 0);
	return true;
}

int option_find(const char *name, enum option_id *_id)
{
	size_t i = 0;

	for (i = 0; i < OPTION_COUNT; i++) {
		if (name_equal(rows[i].name, name)) {
			*_id = (enum option_id)i;
			return 0;
		}
	}
	return -ENOENT;
}

/* Edit distance of two names of at most 63 counting bytes. */
static size_t name_distance(const char *a, const char *b)
{
	size_t row[64] = {};
	size_t columns = 0;
	size_t i = 0;
	char text[64] = {};
	int x = 0;

	while (columns < 63 && (x = name_next(&b)) != 0) {
		text[columns++] = (char)x;
	}
	for (i = 0; i <= columns; i++) {
		row[i] = i;
	}
	while ((x = name_next(&a)) != 0) {
		size_t diagonal = row[0]++;

		for (i = 1; i <= columns; i++) {
			size_t best = diagonal + (text[i - 1] != x);

			if (row[i] + 1 < best) {
				best = row[i] + 1;
			}
			if (row[i - 1] + 1 < best) {
				best = row[i - 1] + 1;
			}
			diagonal = row[i];
			row[i] = best;
		}
	}
	return row[columns];
}

const char *option_nearest(const char *name)
{
	const char *nearest = NULL;
	size_t least = 4;
	size_t i = 0;

	for (i = 0; i < OPTION_COUNT; i++) {
		size_t distance = name_distance(name, rows[i].name);

		if (distance < least && distance < strlen(rows[i].name)) {
			least = distance;
			nearest = rows[i].name;
		}
	}
	return nearest;
}

int option_switch_parse(const char *text, enum option_switch *_value)
{
	static const struct {
		const char *word;
		enum option_switch value;
	} words[] = {
		{ "auto", OPTION_AUTO },
		{ "yes", OPTION_YES }, { "true", OPTION_YES },
		{ "on", OPTION_YES }, { "1", OPTION_YES },
		{ "no", OPTION_NO }, { "false", OPTION_NO },
		{ "off", OPTION_NO }, { "0", OPTION_NO },
	};
	size_t i = 0;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcasecmp(text, words[i].word) == 0) {
			*_value = words[i].value;
			return 0;
		}
	}
	return -EINVAL;
}

int option_number_parse(const struct option_row *row, const char *text,
			uint64_t *_value)
{
	char *end = NULL;
	unsigned long long value = 0;

	if (!isdigit((unsigned char)text[0])) {
		return -EINVAL;
	}
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno != 0 || *end != '\0' || value < row->least ||
	    value > row->most) {
		return -EINVAL;
	}
	*_value = value;
	return 0;
}

static int word_validate(const char *words, const char *text)
{
	size_t length = strlen(text);

	while (*words != '\0') {
		size_t size = strcspn(words, " ");

		if (size == length && strncasecmp(words, text, size) == 0) {
			return 0;
		}
		words += size;
		words += strspn(words, " ");
	}
	return -EINVAL;
}

int option_validate(const struct option_row *row, const char *text)
{
	enum option_switch on = OPTION_AUTO;
	uint64_t number = 0;
	struct guid guid = {};

	switch (row->kind) {
	case OPTION_SWITCH:
		return option_switch_parse(text, &on);
	case OPTION_PATTERNS:
		return option_patterns_validate(text);
	case OPTION_NUMBER:
		return option_number_parse(row, text, &number);
	case OPTION_WORD:
		return word_validate(row->words, text);
	case OPTION_PATH:
		return text[0] == '\0' || text[0] == '/' ? 0 : -EINVAL;
	case OPTION_GUID:
		return text[0] == '\0' ? 0 : guid_parse(text, strlen(text),
							&guid);
	}
	return -EINVAL;
}

const char *option_accepts(const struct option_row *row)
{
	switch (row->kind) {
	case OPTION_SWITCH:
		return "auto, yes or no";
	case OPTION_PATTERNS:
		return "file name patterns separated by spaces, such as "
			"\"*.vhdx *.vhd\"";
	case OPTION_NUMBER:
		return row->accepts;
	case OPTION_WORD:
		return row->words;
	case OPTION_PATH:
		return "an absolute path";
	case OPTION_GUID:
		return "an id as hvrsctl qos policy list shows it";
	}
	return "";
}

/* Takes the next item of a list; false at its end. */
static bool patterns_next(const char **list, const char **_item,
			  size_t *_length)
{
	*list += strspn(*list, " \t,");
	*_item = *list;
	*_length = strcspn(*list, " \t,");
	*list += *_length;
	return *_length > 0;
}

int option_patterns_validate(const char *patterns)
{
	const char *item = NULL;
	size_t length = 0;
	size_t count = 0;

	while (patterns_next(&patterns, &item, &length)) {
		if (length > 255 || memchr(item, '/', length) != NULL) {
			return -EINVAL;
		}
		count += 1;
	}
	return count > 0 ? 0 : -EINVAL;
}

bool option_patterns_match(const char *patterns, const char *path)
{
	const char *base = strrchr(path, '/');
	const char *item = NULL;
	size_t length = 0;
	char pattern[256] = {};

	base = base != NULL ? base + 1 : path;
	while (patterns_next(&patterns, &item, &length)) {
		if (length >= sizeof(pattern)) {
			continue;
		}
		memcpy(pattern, item, length);
		pattern[length] = '\0';
		if (fnmatch(pattern, base, FNM_CASEFOLD | FNM_NOESCAPE) == 0) {
			return true;
		}
	}
	return false;
}
