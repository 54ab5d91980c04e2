/*
 * The connection: libsmb2 as far as the open files, then plain requests on
 * its socket ([MS-SMB2] 2.2).
 */
#include "load.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <smb2/smb2.h>
#include <smb2/libsmb2.h>
#include <smb2/libsmb2-raw.h>

#define HEADER 64
#define FRAME 4
#define NAME_MAX_UNITS 64
#define CREATED 88
#define BUFFER ((size_t)256 << 10)
#define KEEP_CONTEXTS (56 + 76)
#define CREDIT_UNIT 65536u
#define OUTPUT 1024
#define WATCH ((uint64_t)2000000)	/* ns */

/* Named in the documentation of libsmb2 but in none of its headers. */
#define SEC_NTLMSSP 1

#define COMMAND_CREATE 5
#define COMMAND_CLOSE 6
#define COMMAND_READ 8
#define COMMAND_WRITE 9
#define COMMAND_LOCK 10
#define COMMAND_IOCTL 11
#define COMMAND_QUERY_INFO 16

struct client {
	struct smb2_context *smb2;
	uint8_t ids[CLIENT_FILES][16];
	size_t creating;	/* of ids: the CREATE under way */
	int promise;		/* DH2Q flags of its answer, or -1 */
	int fd;
	uint64_t next_id;
	uint32_t tree;
	uint64_t session;
	uint8_t *in;
	size_t at, have;	/* unread bytes of "in" */
	uint8_t *keep;		/* for the payload of a read */
	uint8_t output[OUTPUT];
	size_t output_length;
};

/* ---- bytes ------------------------------------------------------------------- */

static void put16(uint8_t *to, uint16_t value)
{
	to[0] = (uint8_t)value;
	to[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *to, uint32_t value)
{
	put16(to, (uint16_t)value);
	put16(to + 2, (uint16_t)(value >> 16));
}

static void put64(uint8_t *to, uint64_t value)
{
	put32(to, (uint32_t)value);
	put32(to + 4, (uint32_t)(value >> 32));
}

static uint32_t get32(const uint8_t *from)
{
	return (uint32_t)from[0] | (uint32_t)from[1] << 8 |
		(uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static uint64_t get64(const uint8_t *from)
{
	return get32(from) | (uint64_t)get32(from + 4) << 32;
}

/* ---- receiving ----------------------------------------------------------------- */

/* Makes at least "want" bytes available at client->in + client->at. */
static int need(struct client *client, size_t want)
{
	if (client->at > 0 && client->at + want > BUFFER) {
		memmove(client->in, client->in + client->at, client->have);
		client->at = 0;
	}
	while (client->have < want) {
		size_t end = client->at + client->have;
		ssize_t got = recv(client->fd, client->in + end, BUFFER - end,
				   0);

		if (got == -1 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			fprintf(stderr, "bench: the connection ended: %s\n",
				got == 0 ? "closed" : strerror(errno));
			return -1;
		}
		client->have += (size_t)got;
	}
	return 0;
}

static int skip(struct client *client, size_t bytes)
{
	size_t part = bytes < client->have ? bytes : client->have;

	client->at += part;
	client->have -= part;
	bytes -= part;
	if (client->have == 0) {
		client->at = 0;
	}
	/* The payload of a read: nobody looks at it, so it is not copied. */
	while (bytes > 0) {
		ssize_t got = recv(client->fd, NULL, bytes, MSG_TRUNC);

		if (got == -1 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			fprintf(stderr, "bench: the connection ended\n");
			return -1;
		}
		bytes -= (size_t)got;
	}
	return 0;
}

/* The flags of the DH2Q context of a CREATE's answer, or -1. */
static int promise_of(const uint8_t *header, size_t size)
{
	size_t at = get32(header + HEADER + 80);
	size_t end = at + get32(header + HEADER + 84);

	while (at >= HEADER && end <= size && at + 32 <= end) {
		const uint8_t *c = header + at;
		uint32_t next = get32(c);

		if (c[4] == 16 && c[6] == 4 && get32(c + 12) == 8 &&
		    memcmp(c + 16, "DH2Q", 4) == 0) {
			return (int)get32(c + 28);
		}
		at = next != 0 ? at + next : end;
	}
	return -1;
}

/* Moves so many bytes to where they are wanted. */
static int take(struct client *client, uint8_t *to, size_t bytes)
{
	size_t part = bytes < client->have ? bytes : client->have;

	memcpy(to, client->in + client->at, part);
	if (skip(client, part) != 0) {
		return -1;
	}
	while (part < bytes) {
		ssize_t got = recv(client->fd, to + part, bytes - part, 0);

		if (got == -1 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			fprintf(stderr, "bench: the connection ended\n");
			return -1;
		}
		part += (size_t)got;
	}
	return 0;
}

/* What an FSCTL answers is small, so it is here with its header or soon. */
static int keep_output(struct client *client, uint32_t size)
{
	const uint8_t *body = NULL;
	uint32_t offset = 0;
	uint32_t length = 0;

	if (size > BUFFER - FRAME || need(client, FRAME + size) != 0) {
		return -1;
	}
	body = client->in + client->at + FRAME + HEADER;
	offset = get32(body + 32);
	length = get32(body + 36);
	if (length > OUTPUT || offset > size || length > size - offset) {
		fprintf(stderr, "bench: an FSCTL answers too much\n");
		return -1;
	}
	memcpy(client->output, client->in + client->at + FRAME + offset,
	       length);
	client->output_length = length;
	return 0;
}

/* The payload of a read, and what is left of its message. */
static int keep_payload(struct client *client, uint32_t *_size)
{
	const uint8_t *header = client->in + client->at + FRAME;
	uint32_t offset = header[HEADER + 2];
	uint32_t length = get32(header + HEADER + 4);
	uint8_t *to = client->keep;

	if (offset > *_size || length > *_size - offset) {
		return -1;
	}
	client->keep = NULL;
	if (skip(client, FRAME + offset) != 0 ||
	    take(client, to, length) != 0) {
		return -1;
	}
	*_size -= offset + length;
	return skip(client, *_size);
}

int client_next(struct client *client, struct client_reply *_reply)
{
	/* An answer to a lock has no more. */
	const size_t least = FRAME + HEADER + 4;
	const uint8_t *frame = NULL;
	const uint8_t *header = NULL;
	struct client_reply reply = {};
	uint32_t size = 0;
	unsigned command = 0;

	if (need(client, least) != 0) {
		return -1;
	}
	frame = client->in + client->at;
	size = (uint32_t)frame[1] << 16 | (uint32_t)frame[2] << 8 | frame[3];
	header = frame + FRAME;
	reply.status = get32(header + 8);
	reply.id = get64(header + 24);
	command = header[12];
	if (get32(header) != 0x424D53FE || size < HEADER + 4) {
		fprintf(stderr, "bench: no SMB2 message\n");
		return -1;
	}
	if (command == COMMAND_READ || command == COMMAND_WRITE) {
		if (size < HEADER + 8 || need(client, least + 4) != 0) {
			return -1;
		}
		header = client->in + client->at + FRAME;
		reply.length = get32(header + HEADER + 4);
	}
	if (command == COMMAND_CREATE && reply.status == CLIENT_SUCCESS) {
		if (size < HEADER + CREATED || size > BUFFER - FRAME ||
		    need(client, FRAME + size) != 0) {
			return -1;
		}
		header = client->in + client->at + FRAME;
		memcpy(client->ids[client->creating], header + HEADER + 64,
		       16);
		client->promise = promise_of(header, size);
	}
	if (command == COMMAND_IOCTL && reply.status == CLIENT_SUCCESS &&
	    keep_output(client, size) != 0) {
		return -1;
	}
	if (command == COMMAND_READ && reply.status == CLIENT_SUCCESS &&
	    client->keep != NULL) {
		if (keep_payload(client, &size) != 0) {
			return -1;
		}
	} else if (skip(client, FRAME + size) != 0) {
		return -1;
	}
	/* An oplock break is not what anybody wants. */
	if (reply.id == UINT64_MAX) {
		reply.status = CLIENT_PENDING;
	}
	*_reply = reply;
	return 0;
}

void client_watch(const struct client *client)
{
	struct pollfd event = { .fd = client->fd, .events = POLLIN };
	uint64_t begun = load_now();

	while (poll(&event, 1, 0) == 0 && load_now() - begun < WATCH) {
		;
	}
}

int client_receive(struct client *client, struct client_reply *_reply)
{
	do {
		if (client_next(client, _reply) != 0) {
			return -1;
		}
	} while (_reply->status == CLIENT_PENDING);
	return 0;
}

/* ---- sending ------------------------------------------------------------------- */

static int send_all(struct client *client, struct iovec *iov, size_t count)
{
	while (count > 0) {
		struct msghdr message = { .msg_iov = iov, .msg_iovlen = count };
		ssize_t sent = sendmsg(client->fd, &message, MSG_NOSIGNAL);

		if (sent == -1 && errno == EINTR) {
			continue;
		}
		if (sent == -1) {
			fprintf(stderr, "bench: sending: %s\n",
				strerror(errno));
			return -1;
		}
		while (count > 0 && (size_t)sent >= iov->iov_len) {
			sent -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (count > 0) {
			iov->iov_base = (uint8_t *)iov->iov_base + sent;
			iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

/* "payload" is how much goes one way or the other: it sets the credits. */
static int request(struct client *client, uint8_t command, uint8_t *body,
		   size_t length, const void *data, size_t data_length,
		   uint32_t payload, uint64_t *_id)
{
	uint8_t head[FRAME + HEADER] = {};
	uint8_t *header = head + FRAME;
	uint32_t charge = payload == 0 ? 1 : (payload - 1) / CREDIT_UNIT + 1;
	size_t size = HEADER + length + data_length;
	struct iovec iov[3] = {
		{ head, sizeof(head) }, { body, length },
		/* sendmsg only reads it */
		{ (void *)(uintptr_t)data, data_length },
	};

	head[1] = (uint8_t)(size >> 16);
	head[2] = (uint8_t)(size >> 8);
	head[3] = (uint8_t)size;
	put32(header, 0x424D53FE);
	put16(header + 4, HEADER);
	put16(header + 6, (uint16_t)charge);
	header[12] = command;
	put16(header + 14, (uint16_t)(charge + 16));
	put64(header + 24, client->next_id);
	put32(header + 36, client->tree);
	put64(header + 40, client->session);
	*_id = client->next_id;
	client->next_id += charge;
	return send_all(client, iov, data_length > 0 ? 3 : 2);
}

const uint8_t *client_output(const struct client *client, size_t *_length)
{
	*_length = client->output_length;
	return client->output;
}

void client_read_into(struct client *client, uint8_t *to)
{
	client->keep = to;
}

const uint8_t *client_file_id(const struct client *client, size_t file)
{
	return client->ids[file];
}

int client_read(struct client *client, size_t file, uint64_t offset,
		uint32_t length, uint64_t *_id)
{
	uint8_t body[49] = {};

	put16(body, 49);
	body[2] = HEADER + 16;
	put32(body + 4, length);
	put64(body + 8, offset);
	memcpy(body + 16, client->ids[file], 16);
	return request(client, COMMAND_READ, body, sizeof(body), NULL, 0,
		       length, _id);
}

int client_write(struct client *client, size_t file, uint64_t offset,
		 const void *data, uint32_t length, uint64_t *_id)
{
	uint8_t body[48] = {};

	put16(body, 49);
	put16(body + 2, HEADER + sizeof(body));
	put32(body + 4, length);
	put64(body + 8, offset);
	memcpy(body + 16, client->ids[file], 16);
	return request(client, COMMAND_WRITE, body, sizeof(body), data,
		       length, length, _id);
}

int client_ioctl(struct client *client, size_t file, uint32_t code,
		 const void *in, uint32_t length, uint64_t *_id)
{
	uint8_t body[56] = {};

	put16(body, 57);
	put32(body + 4, code);
	memcpy(body + 8, client->ids[file], 16);
	put32(body + 24, HEADER + sizeof(body));
	put32(body + 28, length);
	put32(body + 44, 4096);
	put32(body + 48, 1);	/* an FSCTL */
	return request(client, COMMAND_IOCTL, body, sizeof(body), in, length,
		       4096, _id);
}

int client_query(struct client *client, size_t file, uint64_t *_id)
{
	uint8_t body[41] = {};

	put16(body, 41);
	body[2] = 1;		/* about a file */
	body[3] = 6;		/* FileInternalInformation */
	put32(body + 4, 8);
	memcpy(body + 24, client->ids[file], 16);
	return request(client, COMMAND_QUERY_INFO, body, sizeof(body), NULL,
		       0, 8, _id);
}

/* [MS-SMB2] 2.2.13, 2.2.13.2: one create context, or none. */
int client_create(struct client *client, size_t file, const char *name,
		  const struct client_context *context, uint64_t *_id)
{
	uint8_t body[56 + 2 * NAME_MAX_UNITS + 8 + CLIENT_CONTEXT_MAX] = {};
	size_t units = strlen(name);
	size_t at = 56 + (2 * units + 7) / 8 * 8;
	size_t i = 0;

	if (units > NAME_MAX_UNITS || (context != NULL &&
	    32 + context->length > CLIENT_CONTEXT_MAX)) {
		fprintf(stderr, "bench: the name %s is too long\n", name);
		return -1;
	}
	put16(body, 57);
	put32(body + 4, 2);		/* impersonation */
	put32(body + 24, 0x83);		/* read, write, read attributes */
	put32(body + 32, 7);		/* others may do all */
	put32(body + 36, 1);		/* it exists */
	put32(body + 40, 0x48);		/* no buffering, no directory */
	put16(body + 44, HEADER + 56);
	put16(body + 46, (uint16_t)(2 * units));
	for (i = 0; i < units; i++) {
		body[56 + 2 * i] = (uint8_t)name[i];
	}
	if (context != NULL) {
		uint8_t *c = body + at;

		put32(body + 48, (uint32_t)(HEADER + at));
		put32(body + 52, (uint32_t)(32 + context->length));
		put16(c + 4, 16);
		put16(c + 6, 16);
		put16(c + 10, 32);
		put32(c + 12, (uint32_t)context->length);
		memcpy(c + 16, context->name, 16);
		memcpy(c + 32, context->data, context->length);
		at += 32 + context->length;
	}
	client->creating = file;
	return request(client, COMMAND_CREATE, body, at, NULL, 0, 0, _id);
}

/*
 * [MS-SMB2] 2.2.13.2.10 and .11.  A lease, since Samba 4.25 knows no
 * persistent handle with a batch oplock; its key is the handle's GUID.
 */
int client_keep(struct client *client, size_t file, const char *name,
		const uint8_t guid[16], uint32_t flags, uint64_t *_id)
{
	uint8_t body[56 + 2 * NAME_MAX_UNITS + 8 + KEEP_CONTEXTS] = {};
	size_t units = strlen(name);
	size_t at = 56 + (2 * units + 7) / 8 * 8;
	size_t i = 0;
	uint8_t *c = body + at;

	if (units > NAME_MAX_UNITS) {
		return -1;
	}
	put16(body, 57);
	body[3] = 0xFF;			/* a lease */
	put32(body + 4, 2);		/* impersonation */
	put32(body + 24, 0x10083);	/* read, write, attributes, delete */
	put32(body + 36, 3);		/* open or create */
	put32(body + 40, 0x40);		/* no directory */
	put16(body + 44, HEADER + 56);
	put16(body + 46, (uint16_t)(2 * units));
	for (i = 0; i < units; i++) {
		body[56 + 2 * i] = (uint8_t)name[i];
	}
	put32(body + 48, (uint32_t)(HEADER + at));
	put32(body + 52, KEEP_CONTEXTS);
	put32(c, 56);
	put16(c + 4, 16);
	put16(c + 6, 4);
	put16(c + 10, 24);
	put32(c + 12, 32);
	memcpy(c + 16, "DH2Q", 4);
	put32(c + 28, flags);
	memcpy(c + 40, guid, 16);
	c += 56;
	put16(c + 4, 16);
	put16(c + 6, 4);
	put16(c + 10, 24);
	put32(c + 12, 52);
	memcpy(c + 16, "RqLs", 4);
	memcpy(c + 24, guid, 16);
	put32(c + 40, 7);		/* read, handle, write */
	client->creating = file;
	return request(client, COMMAND_CREATE, body, at + KEEP_CONTEXTS, NULL, 0, 0,
		       _id);
}

int client_promise(const struct client *client)
{
	return client->promise;
}

int client_lock(struct client *client, size_t file, uint64_t offset,
		uint64_t length, bool unlock, uint64_t *_id)
{
	uint8_t body[48] = {};

	put16(body, 48);
	put16(body + 2, 1);
	memcpy(body + 8, client->ids[file], 16);
	put64(body + 24, offset);
	put64(body + 32, length);
	/* Unlock, or exclusive and without waiting. */
	put32(body + 40, unlock ? 0x4 : 0x12);
	return request(client, COMMAND_LOCK, body, sizeof(body), NULL, 0, 0,
		       _id);
}

int client_end(struct client *client, size_t file, uint64_t *_id)
{
	uint8_t body[24] = {};

	put16(body, 24);
	memcpy(body + 8, client->ids[file], 16);
	return request(client, COMMAND_CLOSE, body, sizeof(body), NULL, 0, 0,
		       _id);
}

int client_socket(const struct client *client)
{
	return client->fd;
}

bool client_has_more(const struct client *client)
{
	return client->have > 0;
}

/* ---- opening ------------------------------------------------------------------- */

struct opening {
	uint8_t *id;
	int status;
	bool done;
};

static void opened(struct smb2_context *smb2, int status, void *data,
		   void *private_data)
{
	struct opening *opening = private_data;
	struct smb2_create_reply *reply = data;

	(void)smb2;
	opening->status = status;
	opening->done = true;
	if (status == 0) {
		memcpy(opening->id, reply->file_id, 16);
	}
}

/* Serves libsmb2 until a request is answered. */
static int serve(struct smb2_context *smb2, const bool *done)
{
	while (!*done) {
		struct pollfd wait = {
			.fd = smb2_get_fd(smb2),
			.events = (short)smb2_which_events(smb2),
		};

		if (poll(&wait, 1, 10000) <= 0 ||
		    smb2_service(smb2, wait.revents) < 0) {
			return -1;
		}
	}
	return 0;
}

static int open_file(struct client *client, size_t index, const char *name,
		     bool reading)
{
	struct opening opening = { .id = client->ids[index] };
	struct smb2_create_request create = {
		.requested_oplock_level = SMB2_OPLOCK_LEVEL_BATCH,
		.impersonation_level = SMB2_IMPERSONATION_IMPERSONATION,
		.desired_access = SMB2_FILE_READ_DATA |
			SMB2_FILE_READ_ATTRIBUTES |
			(reading ? 0 : SMB2_FILE_WRITE_DATA |
				       SMB2_FILE_WRITE_ATTRIBUTES),
		.share_access = SMB2_FILE_SHARE_READ | SMB2_FILE_SHARE_WRITE,
		.create_disposition = SMB2_FILE_OPEN,
		.create_options = SMB2_FILE_NON_DIRECTORY_FILE,
		.name = name,
	};
	struct smb2_pdu *pdu = smb2_cmd_create_async(client->smb2, &create,
						     opened, &opening);

	if (pdu == NULL) {
		return -1;
	}
	smb2_queue_pdu(client->smb2, pdu);
	if (serve(client->smb2, &opening.done) != 0 || opening.status != 0) {
		fprintf(stderr, "bench: cannot open %s: %s\n", name,
			smb2_get_error(client->smb2));
		return -1;
	}
	return 0;
}

/* Only ever called when libsmb2 is torn down. */
static void ignored(struct smb2_context *smb2, int status, void *data,
		    void *private_data)
{
	(void)smb2;
	(void)status;
	(void)data;
	(void)private_data;
}

/*
 * One more request by libsmb2 whose answer is read here: its header holds
 * what the requests that follow must carry.
 */
static int take_over(struct client *client)
{
	const uint8_t *frame = NULL;
	int one = 1;
	int flags = 0;
	struct smb2_query_info_request query = {
		.info_type = SMB2_0_INFO_FILE,
		.file_info_class = SMB2_FILE_INTERNAL_INFORMATION,
		.output_buffer_length = 8,
	};
	struct smb2_pdu *pdu = NULL;

	memcpy(query.file_id, client->ids[0], 16);
	pdu = smb2_cmd_query_info_async(client->smb2, &query, ignored, NULL);
	if (pdu == NULL) {
		return -1;
	}
	smb2_queue_pdu(client->smb2, pdu);
	while ((smb2_which_events(client->smb2) & POLLOUT) != 0) {
		if (smb2_service(client->smb2, POLLOUT) < 0) {
			return -1;
		}
	}
	client->fd = smb2_get_fd(client->smb2);
	flags = fcntl(client->fd, F_GETFL);
	if (flags == -1 ||
	    fcntl(client->fd, F_SETFL, flags & ~O_NONBLOCK) == -1 ||
	    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one,
		       sizeof(one)) != 0 ||
	    need(client, FRAME + HEADER) != 0) {
		return -1;
	}
	frame = client->in + client->at;
	client->next_id = get64(frame + FRAME + 24) + 1;
	client->tree = get32(frame + FRAME + 36);
	client->session = get64(frame + FRAME + 40);
	return skip(client, FRAME + ((size_t)frame[2] << 8 | frame[3]));
}

int client_open(const struct client_where *where, const char *const *names,
		size_t count, struct client **_client)
{
	struct client *client = calloc(1, sizeof(*client));
	char server[32] = {};
	size_t i = 0;

	if (client == NULL || count > CLIENT_FILES) {
		free(client);
		return -1;
	}
	client->in = malloc(BUFFER);
	client->smb2 = smb2_init_context();
	if (client->in == NULL || client->smb2 == NULL) {
		goto failed;
	}
	snprintf(server, sizeof(server), "127.0.0.1:%d", where->port);
	smb2_set_version(client->smb2, SMB2_VERSION_0302);
	smb2_set_security_mode(client->smb2, SMB2_NEGOTIATE_SIGNING_ENABLED);
	smb2_set_authentication(client->smb2, SEC_NTLMSSP);
	smb2_set_user(client->smb2, where->user);
	smb2_set_password(client->smb2, where->password);
	if (smb2_connect_share(client->smb2, server, where->share,
			       where->user) != 0) {
		fprintf(stderr, "bench: cannot connect to %s: %s\n",
			where->share, smb2_get_error(client->smb2));
		goto failed;
	}
	for (i = 0; i < count; i++) {
		if (open_file(client, i, names[i],
			      (where->reading >> i & 1) != 0) != 0) {
			goto failed;
		}
	}
	if (take_over(client) != 0) {
		fprintf(stderr, "bench: cannot take the connection over\n");
		goto failed;
	}
	*_client = client;
	return 0;
failed:
	if (client->smb2 != NULL) {
		smb2_destroy_context(client->smb2);
	}
	free(client->in);
	free(client);
	return -1;
}

int client_adopt(const struct client_adopted *adopted,
		 struct client **_client)
{
	struct client *client = calloc(1, sizeof(*client));

	if (client == NULL) {
		return -1;
	}
	client->in = malloc(BUFFER);
	if (client->in == NULL) {
		free(client);
		return -1;
	}
	client->fd = adopted->fd;
	client->tree = adopted->tree;
	client->session = adopted->session;
	client->next_id = adopted->next_id;
	*_client = client;
	return 0;
}

/* Just hangs up: the server closes what was open. */
void client_close(struct client *client)
{
	if (client != NULL) {
		if (client->smb2 != NULL) {
			smb2_destroy_context(client->smb2);
		}
		free(client->in);
		free(client);
	}
}

/* ---- the other end --------------------------------------------------------------- */

/* The inode of the server's end of our connection, from /proc/net/tcp. */
static unsigned long peer_inode(const struct client *client)
{
	struct sockaddr_in ours = {};
	struct sockaddr_in theirs = {};
	socklen_t size = sizeof(ours);
	unsigned long found = 0;
	char line[512] = {};
	FILE *file = NULL;

	if (getsockname(client->fd, (struct sockaddr *)&ours, &size) != 0 ||
	    getpeername(client->fd, (struct sockaddr *)&theirs, &size) != 0) {
		return 0;
	}
	file = fopen("/proc/net/tcp", "r");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		unsigned local = 0;
		unsigned remote = 0;
		unsigned long inode = 0;

		if (sscanf(line, " %*d: %*x:%x %*x:%x %*x %*s %*s %*s %*d "
			   "%*d %lu", &local, &remote, &inode) == 3 &&
		    local == ntohs(theirs.sin_port) &&
		    remote == ntohs(ours.sin_port)) {
			found = inode;
		}
	}
	if (file != NULL) {
		fclose(file);
	}
	return found;
}

static bool holds_socket(const char *pid, const char *socket)
{
	char path[300] = {};
	char target[64] = {};
	struct dirent *entry = NULL;
	bool holds = false;
	DIR *dir = NULL;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	dir = opendir(path);
	while (dir != NULL && !holds && (entry = readdir(dir)) != NULL) {
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, target,
					    sizeof(target) - 1);

		if (length > 0) {
			target[length] = '\0';
			holds = strcmp(target, socket) == 0;
		}
	}
	if (dir != NULL) {
		closedir(dir);
	}
	return holds;
}

pid_t client_server(const struct client *client)
{
	unsigned long inode = peer_inode(client);
	struct dirent *entry = NULL;
	char socket[64] = {};
	pid_t found = -1;
	DIR *proc = NULL;

	if (inode == 0) {
		return -1;
	}
	snprintf(socket, sizeof(socket), "socket:[%lu]", inode);
	proc = opendir("/proc");
	while (proc != NULL && found == -1 &&
	       (entry = readdir(proc)) != NULL) {
		if (isdigit((unsigned char)entry->d_name[0]) &&
		    holds_socket(entry->d_name, socket)) {
			found = (pid_t)strtol(entry->d_name, NULL, 10);
		}
	}
	if (proc != NULL) {
		closedir(proc);
	}
	return found;
}
