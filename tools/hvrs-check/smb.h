/*
 * The client of hvrs-check: as much of [MS-SMB2] as the probes need, with
 * every capability and create context that a probe wants to ask for.  One
 * request at a time; every answer is taken apart with bounds.
 */
#ifndef HVRS_CHECK_SMB_H
#define HVRS_CHECK_SMB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "util/guid.h"

/* NTSTATUS values the probes tell apart, [MS-ERREF] 2.3. */
#define STATUS_OK			0x00000000u
#define STATUS_PENDING			0x00000103u
#define STATUS_BUFFER_OVERFLOW		0x80000005u
#define STATUS_NO_MORE_FILES		0x80000006u
#define STATUS_INVALID_PARAMETER	0xC000000Du
#define STATUS_INVALID_DEVICE_REQUEST	0xC0000010u
#define STATUS_MORE_PROCESSING		0xC0000016u
#define STATUS_ACCESS_DENIED		0xC0000022u
#define STATUS_NAME_NOT_FOUND		0xC0000034u
#define STATUS_NAME_COLLISION		0xC0000035u
#define STATUS_LOCK_NOT_GRANTED		0xC0000055u
#define STATUS_FILE_LOCK_CONFLICT	0xC0000054u
#define STATUS_LOGON_FAILURE		0xC000006Du
#define STATUS_NOT_SUPPORTED		0xC00000BBu
#define STATUS_BAD_NETWORK_NAME		0xC00000CCu
#define STATUS_INVALID_TOKEN		0xC0000465u
/* Of this program: the connection is gone, smb_error() says why. */
#define STATUS_LOST			0xE0000001u

#define CAP_PERSISTENT_HANDLES	0x10	/* of the server */
#define SHARE_CA		0x10	/* of the share */

#define ACCESS_READ_WRITE	0x0012019Fu
#define ACCESS_READ		0x00120089u
#define ACCESS_DELETE		0x00010000u
#define DISPOSITION_OPEN	1
#define DISPOSITION_CREATE	2
#define DISPOSITION_OPEN_IF	3
#define OPTION_DIRECTORY	0x00000001u
#define OPTION_NO_BUFFERING	0x00000008u
#define OPTION_NON_DIRECTORY	0x00000040u
#define OPTION_DELETE_ON_CLOSE	0x00001000u
#define SHARE_NONE		0
#define SHARE_ALL		7
#define OPLOCK_NONE		0
#define OPLOCK_BATCH		9

struct smb;

/* Whom and where; borrowed for the life of a connection. */
struct smb_target {
	const char *host;
	unsigned port;
	const char *domain;
	const char *user;
	const char *password;
	struct guid client;	/* the client's GUID */
};

struct smb_context {
	const char *name;	/* raw bytes */
	size_t name_length;
	const uint8_t *data;
	size_t length;
};

struct smb_open {
	const char *name;	/* UTF-8, '/' or '\' between parts */
	uint32_t access;
	uint32_t attributes;
	uint32_t share;
	uint32_t disposition;
	uint32_t options;
	uint8_t oplock;
	const struct smb_context *contexts;
	size_t context_count;
};

struct smb_file {
	uint8_t id[16];
	uint64_t size;
	uint32_t attributes;
	uint8_t oplock;
	/* The create contexts of the answer, until the next request. */
	const uint8_t *contexts;
	size_t contexts_length;
};

/*
 * Connects, negotiates the highest dialect and logs on.  previous is the
 * session this one takes the place of, 0 for none.  The result belongs to
 * mem_ctx.  On failure a status, with *_error a text of mem_ctx.
 */
uint32_t smb_connect(TALLOC_CTX *mem_ctx, const struct smb_target *target,
		     uint64_t previous, struct smb **_smb,
		     const char **_error);

/* Whether nothing more can be asked. */
bool smb_is_lost(const struct smb *smb);

/* Closes the socket at once, as a lost connection does. */
void smb_cut(struct smb *smb);

uint16_t smb_dialect(const struct smb *smb);
uint32_t smb_capabilities(const struct smb *smb);
uint64_t smb_session(const struct smb *smb);
const char *smb_error(const struct smb *smb);

/* Connects to a share; what follows goes there.  *_caps may be NULL. */
uint32_t smb_tree(struct smb *smb, const char *share, uint32_t *_tree,
		  uint32_t *_caps);
void smb_use_tree(struct smb *smb, uint32_t tree);

uint32_t smb_create(struct smb *smb, const struct smb_open *how,
		    struct smb_file *_file);
/* The data of one create context of an answer, or NULL. */
const uint8_t *smb_context_find(const struct smb_file *file, const char *name,
				size_t name_length, size_t *_length);
uint32_t smb_close(struct smb *smb, const struct smb_file *file);
/* *_got may be less; the bytes are at most length. */
uint32_t smb_read(struct smb *smb, const struct smb_file *file,
		  uint64_t offset, void *data, uint32_t length,
		  uint32_t *_got);
uint32_t smb_write(struct smb *smb, const struct smb_file *file,
		   uint64_t offset, const void *data, uint32_t length);
uint32_t smb_flush(struct smb *smb, const struct smb_file *file);
uint32_t smb_lock(struct smb *smb, const struct smb_file *file,
		  uint64_t offset, uint64_t length, bool unlock);
/* The output stays the client's until the next request. */
uint32_t smb_fsctl(struct smb *smb, const struct smb_file *file, uint32_t code,
		   const void *in, size_t in_length, uint32_t max_out,
		   const uint8_t **_out, size_t *_out_length);
/* kind 1: of the file, 2: of the volume. */
uint32_t smb_query(struct smb *smb, const struct smb_file *file, uint8_t kind,
		   uint8_t level, const uint8_t **_out, size_t *_out_length);
uint32_t smb_set(struct smb *smb, const struct smb_file *file, uint8_t level,
		 const void *data, size_t length);
/* One answer of a listing with FileDirectoryInformation entries. */
uint32_t smb_list(struct smb *smb, const struct smb_file *directory,
		  uint8_t level, const uint8_t **_out, size_t *_out_length);

/* A status as text: its name where it is known, else its number. */
const char *smb_status(uint32_t status);

/* ---- auth.c ------------------------------------------------------------------ */

/* Bytes of the largest message of a logon. */
#define AUTH_MAX 4096

/* NTLMSSP NEGOTIATE, [MS-NLMP] 2.2.1.1; its length. */
size_t auth_negotiate(uint8_t *out);

/*
 * NTLMSSP AUTHENTICATE (2.2.1.3) for a CHALLENGE, with NTLMv2 alone.  0, or
 * -EINVAL for a challenge that is none, -EIO without random bytes.
 */
int auth_authenticate(const struct smb_target *target,
		      const uint8_t *challenge, size_t challenge_length,
		      uint8_t *out, size_t *_length, uint8_t session_key[16]);

/* The signing key of a session, [MS-SMB2] 3.1.4.2. */
void auth_signing_key(uint16_t dialect, const uint8_t session_key[16],
		      const uint8_t preauth[64], uint8_t key[16]);

/* The signature of a packet whose signature field is zero, 3.1.4.1. */
void auth_sign(uint16_t dialect, const uint8_t key[16], const uint8_t *packet,
	       size_t length, uint8_t signature[16]);

/* SHA-512 of hash and packet, into hash: 3.2.5.2 preauthentication. */
void auth_preauth(uint8_t hash[64], const uint8_t *packet, size_t length);

#endif
