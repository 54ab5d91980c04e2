/*
 * A fast SMB client for measuring: one connection, one share, raw READ,
 * WRITE, IOCTL and QUERY_INFO with many requests under way.  libsmb2 logs on
 * and opens the files; then the socket is driven from here, with one send and
 * at most one receive a request, so that the client is not what is measured.
 */
#ifndef HVRS_BENCH_CLIENT_H
#define HVRS_BENCH_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CLIENT_FILES 4

#define CLIENT_CONTEXT_MAX 256

#define CLIENT_SUCCESS 0u
#define CLIENT_PENDING 0x00000103u

struct client;

struct client_where {
	const char *user;
	const char *password;
	int port;		/* of 127.0.0.1 */
	const char *share;
	unsigned reading;	/* files, as bits, that are opened to read */
};

struct client_reply {
	uint64_t id;		/* of the request */
	uint32_t status;
	uint32_t length;	/* of a READ or a WRITE */
};

/*
 * Logs on and opens files of the share, which must exist, for reading and
 * writing with a batch oplock.  0, or -1 with a line on standard error.
 */
int client_open(const struct client_where *where, const char *const *names,
		size_t count, struct client **_client);
void client_close(struct client *client);

/* A connection that somebody else has logged on. */
struct client_adopted {
	int fd;
	uint32_t tree;
	uint64_t session;
	uint64_t next_id;
};
int client_adopt(const struct client_adopted *adopted,
		 struct client **_client);

/* The process of the server that serves this connection, -1 if unknown. */
pid_t client_server(const struct client *client);

/*
 * Sends a request and tells its id.  "file" is the index of a name given to
 * client_open.  0 or -1.
 */
int client_read(struct client *client, size_t file, uint64_t offset,
		uint32_t length, uint64_t *_id);
int client_write(struct client *client, size_t file, uint64_t offset,
		 const void *data, uint32_t length, uint64_t *_id);
int client_ioctl(struct client *client, size_t file, uint32_t code,
		 const void *in, uint32_t length, uint64_t *_id);

/*
 * What the last FSCTL answered, until the next one does, and how much of it
 * was kept.
 */
const uint8_t *client_output(const struct client *client, size_t *_length);

/*
 * Where the payload of the next read goes, which is dropped otherwise; room
 * for what is asked for.
 */
void client_read_into(struct client *client, uint8_t *to);

/* A create context whose name has 16 bytes. */
struct client_context {
	const uint8_t *name;
	const uint8_t *data;
	size_t length;
};

/*
 * Opens a file, without oplock, as number "file"; whether it did is in the
 * reply.  One at a time.  A client with nothing open takes a count of 0 in
 * client_open() first.
 */
int client_create(struct client *client, size_t file, const char *name,
		  const struct client_context *context, uint64_t *_id);
int client_end(struct client *client, size_t file, uint64_t *_id);

/*
 * Makes or opens a file for itself alone with a lease, as a durable
 * handle of the second version: 0, or 2 for a persistent one.
 * client_promise() tells of the flags in the last answer, -1 where no handle
 * is kept.
 */
int client_keep(struct client *client, size_t file, const char *name,
		const uint8_t guid[16], uint32_t flags, uint64_t *_id);
int client_promise(const struct client *client);

/* Takes or gives up an exclusive lock of a byte range. */
int client_lock(struct client *client, size_t file, uint64_t offset,
		uint64_t length, bool unlock, uint64_t *_id);

/* To wait for several: readable, or replies that were read already. */
int client_socket(const struct client *client);
bool client_has_more(const struct client *client);

/* The 16 bytes that name an open file on the wire. */
const uint8_t *client_file_id(const struct client *client, size_t file);

/* A request that asks for eight bytes about a file: the bare round trip. */
int client_query(struct client *client, size_t file, uint64_t *_id);

/*
 * Waits for the next message, which may be no final reply: then its status is
 * CLIENT_PENDING.  0 or -1.
 */
int client_next(struct client *client, struct client_reply *_reply);

/*
 * Stays awake until something has come or two milliseconds are over.  A
 * processor that slept through a long request wakes up later than one that
 * slept through a short one, by tens of microseconds, which are not the
 * server's.
 */
void client_watch(const struct client *client);

/* Waits for the next reply that is final.  0 or -1. */
int client_receive(struct client *client, struct client_reply *_reply);

#endif
