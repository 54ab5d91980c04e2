/* The connection, the logon, and one request at a time. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "smb_priv.h"
#include "util/utf16.h"

#define FLAG_RESPONSE	0x1u
#define FLAG_ASYNC	0x2u
#define FLAG_SIGNED	0x8u

/* An answer takes no longer than this. */
#define TIMEOUT_S 60

uint32_t smb_lost(struct smb *smb, const char *why)
{
	if (smb->fd != -1) {
		close(smb->fd);
		smb->fd = -1;
	}
	if (smb->error == NULL) {
		smb->error = why;
	}
	return STATUS_LOST;
}

bool smb_is_lost(const struct smb *smb)
{
	return smb->fd == -1;
}

void smb_cut(struct smb *smb)
{
	smb_lost(smb, "it was cut");
}

uint16_t smb_dialect(const struct smb *smb)
{
	return smb->dialect;
}

uint32_t smb_capabilities(const struct smb *smb)
{
	return smb->capabilities;
}

uint64_t smb_session(const struct smb *smb)
{
	return smb->session;
}

const char *smb_error(const struct smb *smb)
{
	return smb->error != NULL ? smb->error : "nothing is wrong";
}

/* ---- bytes -------------------------------------------------------------------- */

static bool send_all(int fd, const uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);

		if (sent <= 0) {
			return false;
		}
		bytes += sent;
		length -= (size_t)sent;
	}
	return true;
}

static bool receive_all(int fd, uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t got = recv(fd, bytes, length, 0);

		if (got <= 0) {
			return false;
		}
		bytes += got;
		length -= (size_t)got;
	}
	return true;
}

static uint32_t receive_packet(struct smb *smb)
{
	uint8_t frame[4] = {};
	size_t length = 0;

	if (!receive_all(smb->fd, frame, 4)) {
		return smb_lost(smb, errno == EAGAIN || errno == EWOULDBLOCK
				? "the server did not answer in 60 s"
				: "the server closed the connection");
	}
	length = (size_t)frame[1] << 16 | (size_t)frame[2] << 8 | frame[3];
	if (frame[0] != 0 || length < HEADER || length > PACKET_MAX) {
		return smb_lost(smb, "the server sent no SMB2 packet");
	}
	if (!receive_all(smb->fd, smb->packet, length)) {
		return smb_lost(smb, "the server closed the connection");
	}
	smb->length = length;
	if (memcmp(smb->packet, "\xfeSMB", 4) != 0) {
		return smb_lost(smb, memcmp(smb->packet, "\xfdSMB", 4) == 0
				? "the server wants encryption, which "
				  "hvrs-check does not speak"
				: "the server sent no SMB2 packet");
	}
	return STATUS_OK;
}

static bool signature_is_right(struct smb *smb)
{
	uint8_t told[16] = {};
	uint8_t wanted[16] = {};

	memcpy(told, smb->packet + 48, 16);
	memset(smb->packet + 48, 0, 16);
	auth_sign(smb->dialect, smb->key, smb->packet, smb->length, wanted);
	return memcmp(told, wanted, 16) == 0;
}

const uint8_t *smb_bytes(const struct smb *smb, uint32_t offset,
			 uint32_t length)
{
	if (offset < HEADER || offset > smb->length ||
	    length > smb->length - offset) {
		return NULL;
	}
	return smb->packet + offset;
}

/* ---- one request ----------------------------------------------------------------- */

struct cursor_put smb_begin(struct smb *smb)
{
	struct cursor_put put = {};

	cursor_put_init(&put, smb->body + 4 + HEADER, BODY_MAX);
	return put;
}

static void put_header(struct smb *smb, uint16_t command, uint16_t charge,
		       uint32_t flags)
{
	struct cursor_put put = {};

	cursor_put_init(&put, smb->body + 4, HEADER);
	cursor_put_bytes(&put, "\xfeSMB", 4);
	cursor_put_le16(&put, HEADER);
	cursor_put_le16(&put, charge);
	cursor_put_le32(&put, 0);
	cursor_put_le16(&put, command);
	cursor_put_le16(&put, 64);		/* credits wanted */
	cursor_put_le32(&put, flags);
	cursor_put_le32(&put, 0);
	cursor_put_le64(&put, smb->message_id);
	cursor_put_le32(&put, 0xFEFF);
	cursor_put_le32(&put, smb->tree);
	cursor_put_le64(&put, smb->session);
	cursor_put_zero(&put, 16);
}

static uint32_t wait_answer(struct smb *smb, uint64_t message_id,
			    struct cursor *_in)
{
	for (;;) {
		struct cursor in = {};
		uint32_t status = receive_packet(smb);
		uint32_t flags = 0;
		uint64_t id = 0;

		if (status != STATUS_OK) {
			return status;
		}
		cursor_init(&in, smb->packet, smb->length);
		cursor_seek(&in, 8);
		status = cursor_le32(&in);
		cursor_seek(&in, 16);
		flags = cursor_le32(&in);
		cursor_seek(&in, 24);
		id = cursor_le64(&in);
		/* Breaks of oplocks and interim answers pass by. */
		if (id != message_id ||
		    (status == STATUS_PENDING && (flags & FLAG_ASYNC) != 0)) {
			continue;
		}
		if (smb->signing && (flags & FLAG_SIGNED) != 0 &&
		    !signature_is_right(smb)) {
			return smb_lost(smb, "the server's signature is "
					"wrong");
		}
		cursor_seek(&in, HEADER);
		*_in = in;
		return status;
	}
}

uint32_t smb_call(struct smb *smb, uint16_t command,
		      struct cursor_put *put, uint32_t payload,
		      struct cursor *_in)
{
	size_t length = HEADER + cursor_put_length(put);
	uint16_t charge = (uint16_t)((payload > 0 ? payload - 1 : 0) / 65536 +
				     1);
	uint64_t id = smb->message_id;
	uint8_t signature[16] = {};

	if (smb->fd == -1) {
		return STATUS_LOST;
	}
	if (cursor_put_status(put) != 0) {
		return smb_lost(smb, "a request does not fit its packet");
	}
	if (smb->dialect < 0x0210) {
		charge = 0;
	}
	put_header(smb, command, charge, smb->signing ? FLAG_SIGNED : 0);
	smb->message_id += charge > 0 ? charge : 1;
	if (smb->signing) {
		auth_sign(smb->dialect, smb->key, smb->body + 4, length,
			  signature);
		memcpy(smb->body + 4 + 48, signature, 16);
	}
	smb->body[0] = 0;
	smb->body[1] = (uint8_t)(length >> 16);
	smb->body[2] = (uint8_t)(length >> 8);
	smb->body[3] = (uint8_t)length;
	if (!send_all(smb->fd, smb->body, length + 4)) {
		return smb_lost(smb, "the connection is gone");
	}
	if (command == CMD_NEGOTIATE || command == CMD_SESSION_SETUP) {
		auth_preauth(smb->preauth, smb->body + 4, length);
	}
	return wait_answer(smb, id, _in);
}

/* ---- logging on ------------------------------------------------------------------- */

/* [MS-SMB2] 2.2.3: every dialect, every capability a host has. */
static uint32_t negotiate(struct smb *smb)
{
	static const uint16_t dialects[] = {
		0x0202, 0x0210, 0x0300, 0x0302, 0x0311
	};
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};
	uint8_t salt[32] = {};
	uint32_t status = STATUS_OK;
	size_t i = 0;

	if (getrandom(salt, sizeof(salt), 0) != sizeof(salt)) {
		return smb_lost(smb, "the kernel gives no random bytes");
	}
	cursor_put_le16(&put, 36);
	cursor_put_le16(&put, 5);
	cursor_put_le16(&put, 1);		/* signing enabled */
	cursor_put_le16(&put, 0);
	cursor_put_le32(&put, 0x3F);		/* but encryption */
	cursor_put_guid(&put, &smb->target->client);
	cursor_put_le32(&put, 112);		/* contexts begin */
	cursor_put_le16(&put, 1);
	cursor_put_le16(&put, 0);
	for (i = 0; i < 5; i++) {
		cursor_put_le16(&put, dialects[i]);
	}
	cursor_put_zero(&put, 2);
	cursor_put_le16(&put, 1);		/* preauth integrity */
	cursor_put_le16(&put, 38);
	cursor_put_le32(&put, 0);
	cursor_put_le16(&put, 1);
	cursor_put_le16(&put, 32);
	cursor_put_le16(&put, 1);		/* SHA-512 */
	cursor_put_bytes(&put, salt, sizeof(salt));
	status = smb_call(smb, CMD_NEGOTIATE, &put, 0, &in);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_skip(&in, 4);
	smb->dialect = cursor_le16(&in);
	cursor_skip(&in, 18);
	smb->capabilities = cursor_le32(&in);
	if (cursor_status(&in) != 0) {
		return smb_lost(smb, "the server's NEGOTIATE is cut off");
	}
	auth_preauth(smb->preauth, smb->packet, smb->length);
	return STATUS_OK;
}

/*
 * One step of the logon.  The NTLM message of an answer is found by its
 * signature, as the server may wrap it in SPNEGO or not.
 */
static uint32_t setup_step(struct smb *smb, uint64_t previous,
			   const uint8_t *blob, size_t length,
			   const uint8_t **_answer, size_t *_answer_length)
{
	struct cursor_put put = smb_begin(smb);
	struct cursor in = {};
	const uint8_t *found = NULL;
	uint16_t flags = 0;
	uint32_t status = STATUS_OK;

	cursor_put_le16(&put, 25);
	cursor_put_u8(&put, 0);
	cursor_put_u8(&put, 1);			/* signing enabled */
	cursor_put_le32(&put, 0);
	cursor_put_le32(&put, 0);
	cursor_put_le16(&put, HEADER + 24);
	cursor_put_le16(&put, (uint16_t)length);
	cursor_put_le64(&put, previous);
	cursor_put_bytes(&put, blob, length);
	status = smb_call(smb, CMD_SESSION_SETUP, &put, 0, &in);
	if (status != STATUS_OK && status != STATUS_MORE_PROCESSING) {
		return status;
	}
	cursor_skip(&in, 2);
	flags = cursor_le16(&in);
	cursor_seek(&in, 40);
	smb->session = cursor_le64(&in);
	if (cursor_status(&in) != 0) {
		return smb_lost(smb, "the server's SESSION_SETUP is cut off");
	}
	if (status == STATUS_OK) {
		if ((flags & 3) != 0) {
			return smb_lost(smb, "the server logged on a guest, "
					"not the user");
		}
		if ((flags & 4) != 0) {
			return smb_lost(smb, "the server wants encryption, "
					"which hvrs-check does not speak");
		}
		return STATUS_OK;
	}
	auth_preauth(smb->preauth, smb->packet, smb->length);
	found = memmem(smb->packet + HEADER, smb->length - HEADER,
		       "NTLMSSP", 8);
	if (found == NULL) {
		return smb_lost(smb, "the server does not take NTLM, and "
				"hvrs-check speaks nothing else");
	}
	*_answer = found;
	*_answer_length = smb->length - (size_t)(found - smb->packet);
	return status;
}

static uint32_t log_on(struct smb *smb, uint64_t previous)
{
	uint8_t message[AUTH_MAX] = {};
	uint8_t session_key[16] = {};
	const uint8_t *challenge = NULL;
	size_t challenge_length = 0;
	size_t length = auth_negotiate(message);
	uint32_t status = setup_step(smb, previous, message, length,
				     &challenge, &challenge_length);

	if (status != STATUS_MORE_PROCESSING) {
		return status == STATUS_OK
			? smb_lost(smb, "the server asked for no password")
			: status;
	}
	if (auth_authenticate(smb->target, challenge, challenge_length,
			      message, &length, session_key) != 0) {
		return smb_lost(smb, "the server's NTLM challenge is not "
				"understood");
	}
	status = setup_step(smb, previous, message, length, &challenge,
			    &challenge_length);
	if (status != STATUS_OK) {
		return status;
	}
	auth_signing_key(smb->dialect, session_key, smb->preauth, smb->key);
	smb->signing = true;
	return STATUS_OK;
}

static int smb_destroy(struct smb *smb)
{
	if (smb->fd != -1) {
		close(smb->fd);
	}
	return 0;
}

static int open_socket(const struct smb_target *target)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *list = NULL;
	struct addrinfo *one = NULL;
	struct timeval limit = { .tv_sec = TIMEOUT_S };
	char port[16] = "";
	int on = 1;
	int fd = -1;

	snprintf(port, sizeof(port), "%u", target->port);
	if (getaddrinfo(target->host, port, &hints, &list) != 0) {
		errno = EHOSTUNREACH;
		return -1;
	}
	for (one = list; one != NULL; one = one->ai_next) {
		fd = socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC,
			    one->ai_protocol);
		if (fd == -1) {
			continue;
		}
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit,
			   sizeof(limit));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit,
			   sizeof(limit));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		if (connect(fd, one->ai_addr, one->ai_addrlen) == 0) {
			break;
		}
		close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	return fd;
}

uint32_t smb_connect(TALLOC_CTX *mem_ctx, const struct smb_target *target,
		     uint64_t previous, struct smb **_smb,
		     const char **_error)
{
	struct smb *smb = talloc_zero(mem_ctx, struct smb);
	uint32_t status = STATUS_OK;

	if (smb == NULL) {
		*_error = "no memory";
		return STATUS_LOST;
	}
	smb->target = target;
	smb->fd = -1;
	talloc_set_destructor(smb, smb_destroy);
	smb->packet = talloc_zero_size(smb, PACKET_MAX);
	smb->body = talloc_zero_size(smb, 4 + HEADER + BODY_MAX);
	smb->fd = open_socket(target);
	if (smb->fd == -1 || smb->packet == NULL || smb->body == NULL) {
		*_error = talloc_asprintf(mem_ctx, "%s port %u: %s",
					  target->host, target->port,
					  strerror(errno));
		talloc_free(smb);
		return STATUS_LOST;
	}
	status = negotiate(smb);
	if (status == STATUS_OK) {
		status = log_on(smb, previous);
	}
	if (status != STATUS_OK) {
		*_error = status == STATUS_LOST
			? smb_error(smb) : smb_status(status);
		talloc_free(smb);
		return status;
	}
	*_smb = smb;
	return STATUS_OK;
}
