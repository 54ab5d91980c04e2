/* What the client's files share: the connection and one request on it. */
#ifndef HVRS_CHECK_SMB_PRIV_H
#define HVRS_CHECK_SMB_PRIV_H

#include "smb.h"
#include "util/cursor.h"

#define CMD_NEGOTIATE		0
#define CMD_SESSION_SETUP	1
#define CMD_TREE_CONNECT	3
#define CMD_CREATE		5
#define CMD_CLOSE		6
#define CMD_FLUSH		7
#define CMD_READ		8
#define CMD_WRITE		9
#define CMD_LOCK		10
#define CMD_IOCTL		11
#define CMD_QUERY_DIRECTORY	14
#define CMD_QUERY_INFO		16
#define CMD_SET_INFO		17

#define HEADER		64
#define PACKET_MAX	(1u << 20)
#define BODY_MAX	(512u << 10)

struct smb {
	const struct smb_target *target;
	int fd;
	uint16_t dialect;
	uint32_t capabilities;
	uint64_t message_id;
	uint64_t session;
	uint32_t tree;
	bool signing;
	uint8_t preauth[64];
	uint8_t key[16];
	uint8_t *packet;	/* the last answer */
	size_t length;
	uint8_t *body;		/* where a request is written */
	const char *error;
};

/* A body to be written: its cursor starts at the body's first byte. */
struct cursor_put smb_begin(struct smb *smb);

/*
 * Sends what was written and waits for the final answer.  *_in reads its
 * body, and seeks from the packet's first byte.
 */
uint32_t smb_call(struct smb *smb, uint16_t command, struct cursor_put *put,
		  uint32_t payload, struct cursor *_in);

/* Bytes of an answer by their offset in the packet; NULL outside of it. */
const uint8_t *smb_bytes(const struct smb *smb, uint32_t offset,
			 uint32_t length);

/* Marks the connection as useless, with a reason. */
uint32_t smb_lost(struct smb *smb, const char *why);

#endif
