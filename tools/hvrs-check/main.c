/*
 * hvrs-check: tells of any SMB server, clause by clause of [MS-HVRS] 2.2, what
 * it can do for Hyper-V, by doing it and reading back.
 */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>
#include <popt.h>

#include "check.h"
#include "util/cursor.h"
#include "util/utf16.h"

#define MAX_WANTED 32

static const struct clause clauses[] = {
	{ "C0001", "SMB 3.0 or newer", true, probe_dialect },
	{ "C0002", "persistent handles", true, probe_persistent },
	{ "C0003", "resilient handles", true, probe_resilient },
	{ "C0004", "offload data transfer", false, probe_offload },
	{ "C0005", "zero data", false, probe_zero },
	{ "C0006", "file level trim", false, probe_trim },
	{ "C0007", "block cloning", false, probe_clone },
	{ "C0008", "virtual disk attributes", true, probe_attributes },
	{ "C0009", "sparse VDL", false, probe_sparse_vdl },
	{ "C0010", "shared virtual disks", false, probe_shared_disk },
	{ "C0011", "storage QoS", false, probe_qos },
	{ "C0012", "remote VSS", false, probe_snapshot },
};

#define COUNT (sizeof(clauses) / sizeof(clauses[0]))

static const char *const words[] = {
	[PASS] = "pass", [FAIL] = "fail", [ABSENT] = "absent"
};

struct request {
	const char *user;
	const char *local;
	int port;
	int json;
	int keep;
	const char *wanted[MAX_WANTED];
	size_t wanted_count;
	const char *unc;
};

static void explain(void)
{
	fprintf(stderr, "usage: hvrs-check [-p PORT] -U [DOMAIN\\]USER%%"
		"PASSWORD //HOST/SHARE\n"
		"                  [--clause C0004]... [--local DIRECTORY] "
		"[--json] [--keep]\n");
}

static bool known_clause(const char *id)
{
	size_t i = 0;

	for (i = 0; i < COUNT; i++) {
		if (strcasecmp(clauses[i].id, id) == 0) {
			return true;
		}
	}
	return false;
}

/* 0, or the status to exit with. */
static int read_arguments(int argc, const char **argv,
			  struct request *request)
{
	struct poptOption options[] = {
		{ "user", 'U', POPT_ARG_STRING, &request->user, 0,
		  "who logs on; without the password it is taken from the "
		  "environment variable PASSWD", "[DOMAIN\\]USER%PASSWORD" },
		{ "port", 'p', POPT_ARG_INT, &request->port, 0,
		  "TCP port of the server, 445 if not given", "PORT" },
		{ "clause", 'c', POPT_ARG_STRING, NULL, 'c',
		  "probe this clause alone; may be given several times",
		  "CLAUSE" },
		{ "local", 'l', POPT_ARG_STRING, &request->local, 0,
		  "the share's directory, where the server is this machine: "
		  "looks at blocks on disk", "DIRECTORY" },
		{ "json", 'j', POPT_ARG_NONE, &request->json, 0,
		  "tell it as JSON", NULL },
		{ "keep", 'k', POPT_ARG_NONE, &request->keep, 0,
		  "leave the probes' files on the share", NULL },
		POPT_AUTOHELP
		POPT_TABLEEND
	};
	poptContext context = poptGetContext("hvrs-check", argc, argv,
					     options, 0);
	int option = 0;

	poptSetOtherOptionHelp(context, "//HOST/SHARE");
	while ((option = poptGetNextOpt(context)) > 0) {
		const char *id = poptGetOptArg(context);

		if (!known_clause(id) ||
		    request->wanted_count == MAX_WANTED) {
			fprintf(stderr, "hvrs-check: \"%s\" is no clause; "
				"they are C0001 to C0012\n", id);
			return 2;
		}
		request->wanted[request->wanted_count++] = id;
	}
	if (option < -1) {
		fprintf(stderr, "hvrs-check: %s: %s\n",
			poptBadOption(context, 0), poptStrerror(option));
		explain();
		return 2;
	}
	request->unc = poptGetArg(context);
	if (request->unc == NULL || poptGetArg(context) != NULL ||
	    request->user == NULL) {
		explain();
		return 2;
	}
	if (request->port < 1 || request->port > 65535) {
		fprintf(stderr, "hvrs-check: %d is no TCP port\n",
			request->port);
		return 2;
	}
	return 0;
}

/* //HOST/SHARE and DOMAIN\USER%PASSWORD into their parts. */
static int read_target(struct check *check, const struct request *request)
{
	const char *host = request->unc;
	const char *share = NULL;
	char *user = talloc_strdup(check->mem_ctx, request->user);
	char *password = strchr(user, '%');
	char *name = NULL;

	if (strncmp(host, "//", 2) == 0 || strncmp(host, "\\\\", 2) == 0) {
		host += 2;
		share = host + strcspn(host, "/\\");
	}
	if (share == NULL || share == host || share[0] == '\0' ||
	    share[1] == '\0' || strpbrk(share + 1, "/\\") != NULL) {
		fprintf(stderr, "hvrs-check: \"%s\" is not //HOST/SHARE\n",
			request->unc);
		return 2;
	}
	check->target.host = talloc_strndup(check->mem_ctx, host,
					    (size_t)(share - host));
	check->share = talloc_strdup(check->mem_ctx, share + 1);
	check->target.port = (unsigned)request->port;
	if (password != NULL) {
		*password++ = '\0';
	} else {
		password = getenv("PASSWD");
	}
	if (password == NULL) {
		fprintf(stderr, "hvrs-check: no password: -U USER%%PASSWORD, "
			"or PASSWD in the environment\n");
		return 2;
	}
	name = strpbrk(user, "\\/");
	check->target.domain = "";
	if (name != NULL) {
		*name++ = '\0';
		check->target.domain = user;
		user = name;
	}
	check->target.user = user;
	check->target.password = password;
	return guid_random(&check->target.client) == 0 ? 0 : 1;
}

/* ---- the run's folder ------------------------------------------------------ */

static uint32_t make_folder(struct check *check)
{
	struct smb_file folder = {};
	struct smb_open how = {
		.access = ACCESS_READ_WRITE, .share = SHARE_ALL,
		.disposition = DISPOSITION_CREATE,
		.options = OPTION_DIRECTORY,
	};
	struct guid id = {};
	char text[GUID_TEXT_SIZE] = "";
	uint32_t status = STATUS_LOST;

	if (guid_random(&id) != 0) {
		return status;
	}
	guid_format(&id, false, text);
	check->folder = talloc_asprintf(check->mem_ctx, "hvrs-check-%.8s",
					text);
	how.name = check->folder;
	status = smb_create(check->smb, &how, &folder);
	if (status == STATUS_OK) {
		smb_close(check->smb, &folder);
	}
	return status;
}

/* A probe may have lost its connection: the next gets a new one. */
static uint32_t connect_again(struct check *check)
{
	const char *error = NULL;
	uint32_t status = smb_connect(check->mem_ctx, &check->target, 0,
				      &check->smb, &error);

	if (status == STATUS_OK) {
		status = smb_tree(check->smb, check->share, &check->tree,
				  &check->share_caps);
	}
	return status;
}

static uint32_t remove_one(struct check *check, const char *path,
			   bool directory)
{
	struct smb_file file = {};
	struct smb_open how = {
		.name = path, .access = ACCESS_DELETE, .share = SHARE_ALL,
		.disposition = DISPOSITION_OPEN,
		.options = OPTION_DELETE_ON_CLOSE |
			   (directory ? OPTION_DIRECTORY
				      : OPTION_NON_DIRECTORY),
	};
	uint32_t status = smb_create(check->smb, &how, &file);

	return status != STATUS_OK ? status : smb_close(check->smb, &file);
}

#define NAME_AT 64	/* FileDirectoryInformation, [MS-FSCC] 2.4.10 */

/* One file whose name begins with "shared", as the server names parts itself. */
static uint32_t remove_part(struct check *check, bool *_found)
{
	struct smb_open how = {
		.name = check->folder, .access = ACCESS_READ,
		.share = SHARE_ALL, .disposition = DISPOSITION_OPEN,
		.options = OPTION_DIRECTORY,
	};
	struct smb_file folder = {};
	char name[256] = "";
	const uint8_t *out = NULL;
	struct cursor in = {};
	size_t length = 0;
	size_t at = 0;
	uint32_t next = 1;
	uint32_t status = smb_create(check->smb, &how, &folder);

	*_found = false;
	if (status != STATUS_OK) {
		return status;
	}
	status = smb_list(check->smb, &folder, 1, &out, &length);
	while (status == STATUS_OK && next != 0 && !*_found) {
		const uint8_t *text = NULL;
		uint32_t bytes = 0;

		cursor_init(&in, out, length);
		cursor_seek(&in, at);
		next = cursor_le32(&in);
		cursor_seek(&in, at + NAME_AT - 4);
		bytes = cursor_le32(&in);
		text = cursor_borrow(&in, bytes);
		if (cursor_status(&in) != 0) {
			status = STATUS_LOST;
		} else {
			*_found = utf16_to_utf8(text, bytes, true, name,
						sizeof(name)) == 0 &&
				strncmp(name, "shared", 6) == 0;
		}
		at += next;
	}
	smb_close(check->smb, &folder);
	if (status != STATUS_OK || !*_found) {
		return status;
	}
	return remove_one(check, check_path(check, name), false);
}

/*
 * Every file a probe makes; what was not made is not there.  The connection
 * is cut before, which closes what a probe left open.
 */
static uint32_t remove_folder(struct check *check)
{
	static const char *const names[] = {
		"persistent.bin", "resilient.bin", "offload-from.bin",
		"offload-to.bin", "zero.bin", "trim.bin", "clone-from.bin",
		"clone-to.bin", "attributes.vhdx", "sparse.vhdx",
		"shared.vhdx", "qos.vhdx", "snapshot.bin",
	};
	uint32_t again = STATUS_OK;
	bool found = true;
	size_t i = 0;

	smb_cut(check->smb);
	again = connect_again(check);
	if (again != STATUS_OK) {
		return again;
	}
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		uint32_t status = remove_one(check,
					     check_path(check, names[i]),
					     false);

		if (status != STATUS_OK && status != STATUS_NAME_NOT_FOUND) {
			return status;
		}
	}
	while (found) {
		again = remove_part(check, &found);
		if (again != STATUS_OK) {
			return again;
		}
	}
	again = remove_one(check, check->folder, true);
	if (again != STATUS_OK) {
		return again;
	}
	again = remove_one(check, check->folder, true);
	return again == STATUS_NAME_NOT_FOUND ? STATUS_OK : 0xC0000101u;
}

/* ---- telling ---------------------------------------------------------------- */

static void tell(const struct clause *clause, enum verdict result,
		 const char *text, json_t *list)
{
	if (list == NULL) {
		printf("%s  %-6s  %s: %s\n", clause->id, words[result],
		       clause->name, text);
		fflush(stdout);
		return;
	}
	json_array_append_new(list, json_pack(
		"{s:s, s:s, s:b, s:s, s:s}", "clause", clause->id, "name",
		clause->name, "must", clause->must, "verdict",
		words[result], "text", text));
}

static bool is_wanted(const struct request *request, const char *id)
{
	size_t i = 0;

	for (i = 0; i < request->wanted_count; i++) {
		if (strcasecmp(request->wanted[i], id) == 0) {
			return true;
		}
	}
	return request->wanted_count == 0;
}

/* Whether every duty is met and nothing fails. */
static bool run(struct check *check, const struct request *request,
		json_t *list)
{
	bool good = true;
	size_t i = 0;

	for (i = 0; i < COUNT; i++) {
		const struct clause *clause = &clauses[i];
		enum verdict result = FAIL;

		if (!is_wanted(request, clause->id)) {
			continue;
		}
		check->text = NULL;
		smb_use_tree(check->smb, check->tree);
		result = clause->probe(check);
		tell(clause, result,
		     check->text != NULL ? check->text : "no memory", list);
		if (result == FAIL || (result == ABSENT && clause->must)) {
			good = false;
		}
		if (smb_is_lost(check->smb) &&
		    connect_again(check) != STATUS_OK) {
			fprintf(stderr, "hvrs-check: the server is gone: "
				"%s\n", smb_error(check->smb));
			return false;
		}
	}
	return good;
}

int main(int argc, const char **argv)
{
	struct request request = { .port = 445 };
	struct check check = {};
	const char *error = NULL;
	json_t *list = NULL;
	uint32_t status = STATUS_OK;
	bool good = false;
	int ret = 0;

	setlocale(LC_CTYPE, "");
	/* Who stops listening ("| head") does not stop the cleaning up. */
	signal(SIGPIPE, SIG_IGN);
	ret = read_arguments(argc, argv, &request);
	if (ret != 0) {
		return ret;
	}
	check.mem_ctx = talloc_new(NULL);
	check.keep = request.keep != 0;
	check.local = request.local;
	ret = read_target(&check, &request);
	if (ret != 0) {
		return ret;
	}
	status = smb_connect(check.mem_ctx, &check.target, 0, &check.smb,
			     &error);
	if (status != STATUS_OK) {
		fprintf(stderr, "hvrs-check: no connection to %s: %s\n",
			request.unc, error);
		return 1;
	}
	status = smb_tree(check.smb, check.share, &check.tree,
			  &check.share_caps);
	if (status == STATUS_OK) {
		status = make_folder(&check);
	}
	if (status != STATUS_OK) {
		fprintf(stderr, "hvrs-check: %s: %s; the user must be able to "
			"write to the share\n", request.unc,
			status == STATUS_LOST ? smb_error(check.smb)
					      : smb_status(status));
		return 1;
	}
	if (check.local != NULL && !check_is_here(&check)) {
		fprintf(stderr, "hvrs-check: %s is not the directory of %s: "
			"the folder %s is not in it\n", check.local,
			request.unc, check.folder);
		remove_folder(&check);
		return 2;
	}
	if (request.json) {
		list = json_array();
	}
	good = run(&check, &request, list);
	if (list != NULL) {
		json_t *root = json_pack("{s:s, s:b, s:o}", "server",
					 request.unc, "good", good,
					 "clauses", list);

		json_dumpf(root, stdout, JSON_INDENT(2));
		printf("\n");
		json_decref(root);
	}
	if (!check.keep) {
		status = remove_folder(&check);
		if (status != STATUS_OK) {
			fprintf(stderr, "hvrs-check: the folder %s cannot be "
				"removed: %s\n", check.folder,
				smb_status(status));
			good = false;
		}
	}
	talloc_free(check.mem_ctx);
	return good ? 0 : 1;
}
