/*
 * C0002 and C0003: an open that its connection is cut away from, taken up
 * again on a new one, with its content and its lock.
 */
#include <string.h>

#include "check.h"
#include "util/cursor.h"

#define FSCTL_REQUEST_RESILIENCY 0x001401D4u
#define LOCK_AT 65536

/* Another client must meet the lock; OK where it does. */
static uint32_t lock_is_held(struct check *check, const char *name)
{
	struct smb_file other = {};
	uint8_t byte = 1;
	uint32_t status = check_open(check, check->smb, name, &other);

	if (status != STATUS_OK) {
		return status;
	}
	status = smb_write(check->smb, &other, LOCK_AT, &byte, 1);
	smb_close(check->smb, &other);
	return status == STATUS_FILE_LOCK_CONFLICT ? STATUS_OK
						   : STATUS_LOCK_NOT_GRANTED;
}

/* Content and a lock into a file that is about to lose its connection. */
static uint32_t use(struct smb *smb, const struct smb_file *file,
		    const uint8_t *bytes, size_t length)
{
	uint32_t status = check_write(smb, file, 0, bytes, length);

	if (status == STATUS_OK) {
		status = smb_lock(smb, file, LOCK_AT, 4096, false);
	}
	return status;
}

/* After the reconnect: the content, the lock, and one more write. */
static enum verdict judge(struct check *check, struct smb *smb,
			  const struct smb_file *file, const char *name,
			  const uint8_t *bytes, size_t length,
			  const char *what)
{
	uint8_t *got = talloc_size(check->mem_ctx, length);
	uint32_t status = got == NULL ? STATUS_LOST
				      : check_read(smb, file, 0, got, length);

	if (status != STATUS_OK || memcmp(got, bytes, length) != 0) {
		return verdict(check, FAIL, "%s taken up again does not read "
			       "what was written: %s", what,
			       smb_status(status));
	}
	status = lock_is_held(check, name);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "%s taken up again has lost its "
			       "byte-range lock", what);
	}
	status = smb_write(smb, file, LOCK_AT, bytes, 4096);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "%s taken up again cannot write "
			       "below its own lock: %s", what,
			       smb_status(status));
	}
	smb_close(smb, file);
	smb_cut(smb);
	return verdict(check, PASS, "%s kept its content and lock over a cut "
		       "connection", what);
}

enum verdict probe_persistent(struct check *check)
{
	struct smb_target target = check->target;
	struct guid create_id = {};
	uint8_t request[32] = {};
	uint8_t reconnect[36] = {};
	struct smb_context context = { .name = "DH2Q", .name_length = 4,
				       .data = request, .length = 32 };
	struct smb_open how = {
		.access = ACCESS_READ_WRITE | ACCESS_DELETE,
		.share = SHARE_ALL, .disposition = DISPOSITION_OPEN_IF,
		.options = OPTION_NON_DIRECTORY, .oplock = OPLOCK_NONE,
		.contexts = &context, .context_count = 1,
	};
	struct smb_file file = {};
	struct smb *smb = NULL;
	struct cursor_put put = {};
	struct cursor in = {};
	const uint8_t *answer = NULL;
	size_t length = 0;
	uint64_t session = 0;
	uint32_t flags = 0;
	uint8_t bytes[131072];
	uint32_t status = STATUS_OK;

	if ((smb_capabilities(check->smb) & CAP_PERSISTENT_HANDLES) == 0) {
		return verdict(check, ABSENT, "the server announces no "
			       "persistent handles; on Samba load hvrs.so by "
			       "\"preload modules\" in [global] and have a "
			       "share with \"vfs objects = hvrs\"");
	}
	if ((check->share_caps & SHARE_CA) == 0) {
		return verdict(check, ABSENT, "the share is not continuously "
			       "available; on Samba add hvrs to its \"vfs "
			       "objects\" (\"hvrs:persistent handles\")");
	}
	check_fill(bytes, sizeof(bytes), 2);
	if (guid_random(&target.client) != 0 || guid_random(&create_id) != 0) {
		return verdict(check, FAIL, "no random bytes here");
	}
	status = check_connect(check, &target, 0, &smb);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "no second connection: %s",
			       smb_status(status));
	}
	cursor_put_init(&put, request, sizeof(request));
	cursor_put_le32(&put, 60000);
	cursor_put_le32(&put, 2);
	cursor_put_zero(&put, 8);
	cursor_put_guid(&put, &create_id);
	how.name = check_path(check, "persistent.bin");
	status = smb_create(smb, &how, &file);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "an open that asks to be "
			       "persistent fails: %s", smb_status(status));
	}
	answer = smb_context_find(&file, "DH2Q", 4, &length);
	if (answer != NULL) {
		cursor_init(&in, answer, length);
		cursor_skip(&in, 4);
		flags = cursor_le32(&in);
	}
	if ((flags & 2) == 0) {
		return verdict(check, FAIL, "the server announces persistent "
			       "handles and grants none; its log says why");
	}
	status = use(smb, &file, bytes, sizeof(bytes));
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a persistent handle cannot be "
			       "used: %s", smb_status(status));
	}
	session = smb_session(smb);
	smb_cut(smb);
	status = check_connect(check, &target, session, &smb);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "no new connection: %s",
			       smb_status(status));
	}
	cursor_put_init(&put, reconnect, sizeof(reconnect));
	cursor_put_bytes(&put, file.id, 16);
	cursor_put_guid(&put, &create_id);
	cursor_put_le32(&put, 2);
	context.name = "DH2C";
	context.data = reconnect;
	context.length = sizeof(reconnect);
	how.disposition = DISPOSITION_OPEN;
	status = smb_create(smb, &how, &file);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a persistent handle is not given "
			       "back after its connection was cut: %s",
			       smb_status(status));
	}
	return judge(check, smb, &file, "persistent.bin", bytes, LOCK_AT,
		     "a persistent handle");
}

enum verdict probe_resilient(struct check *check)
{
	static const uint8_t want[8] = { 0x60, 0xEA, 0, 0, 0, 0, 0, 0 };
	struct smb_target target = check->target;
	uint8_t id[16] = {};
	struct smb_context context = { .name = "DHnC", .name_length = 4,
				       .data = id, .length = 16 };
	struct smb_open how = {
		.access = ACCESS_READ_WRITE | ACCESS_DELETE,
		.share = SHARE_ALL, .disposition = DISPOSITION_OPEN,
		.options = OPTION_NON_DIRECTORY,
		.contexts = &context, .context_count = 1,
	};
	struct smb_file file = {};
	struct smb *smb = NULL;
	uint64_t session = 0;
	uint8_t bytes[131072];
	uint32_t status = STATUS_OK;

	check_fill(bytes, sizeof(bytes), 3);
	if (guid_random(&target.client) != 0) {
		return verdict(check, FAIL, "no random bytes here");
	}
	status = check_connect(check, &target, 0, &smb);
	if (status == STATUS_OK) {
		status = check_open(check, smb, "resilient.bin", &file);
	}
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "no file on a second connection: "
			       "%s", smb_status(status));
	}
	status = smb_fsctl(smb, &file, FSCTL_REQUEST_RESILIENCY, want,
			   sizeof(want), 0, NULL, NULL);
	if (is_unknown(status)) {
		smb_close(smb, &file);
		smb_cut(smb);
		return verdict(check, ABSENT, "FSCTL_LMR_REQUEST_RESILIENCY: "
			       "%s; on Samba add hvrs to \"vfs objects\" "
			       "(\"hvrs:resilient handles\")",
			       smb_status(status));
	}
	if (status == STATUS_OK) {
		status = use(smb, &file, bytes, sizeof(bytes));
	}
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a resilient handle cannot be had "
			       "or used: %s", smb_status(status));
	}
	memcpy(id, file.id, sizeof(id));
	session = smb_session(smb);
	smb_cut(smb);
	status = check_connect(check, &target, session, &smb);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "no new connection: %s",
			       smb_status(status));
	}
	how.name = check_path(check, "resilient.bin");
	status = smb_create(smb, &how, &file);
	if (status != STATUS_OK) {
		return verdict(check, FAIL, "a resilient handle is not given "
			       "back after its connection was cut: %s",
			       smb_status(status));
	}
	return judge(check, smb, &file, "resilient.bin", bytes, LOCK_AT,
		     "a resilient handle");
}
