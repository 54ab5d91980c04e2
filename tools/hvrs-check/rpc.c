/* DCE/RPC over a named pipe. */
#include <string.h>

#include <nettle/arcfour.h>
#include <nettle/hmac.h>
#include <nettle/md5.h>

#include "rpc.h"
#include "util/cursor.h"

#define FSCTL_PIPE_TRANSCEIVE	0x0011C017u
#define PDU_REQUEST		0
#define PDU_RESPONSE		2
#define PDU_FAULT		3
#define PDU_BIND		11
#define PDU_BIND_ACK		12
#define PDU_AUTH3		16
#define AUTH_NTLM		10
#define LEVEL_INTEGRITY		5
#define SIGNATURE		16
#define PDU_MAX			4280

struct rpc {
	struct smb *smb;
	struct smb_file pipe;
	uint32_t tree;
	uint32_t call;
	uint8_t sign_key[16];
	struct arcfour_ctx seal;
	uint32_t sequence;
};

/* {8a885d04-1ceb-11c9-9fe8-08002b104860}, version 2 */
static const struct guid ndr = GUID_INIT(
	0x8a885d04, 0x1ceb, 0x11c9, 0x9f, 0xe8, 0x08, 0x00, 0x2b, 0x10, 0x48,
	0x60);

static void put_header(struct cursor_put *put, uint8_t kind, uint32_t call)
{
	cursor_put_le16(put, 5);
	cursor_put_u8(put, kind);
	cursor_put_u8(put, 3);			/* first and last fragment */
	cursor_put_le32(put, 0x10);
	cursor_put_le32(put, 0);		/* lengths, filled in later */
	cursor_put_le32(put, call);
}

static void put_lengths(uint8_t *pdu, size_t length, size_t auth)
{
	struct cursor_put put = {};

	cursor_put_init(&put, pdu + 8, 4);
	cursor_put_le16(&put, (uint16_t)length);
	cursor_put_le16(&put, (uint16_t)auth);
}

static void put_trailer(struct cursor_put *put, uint8_t pad)
{
	cursor_put_u8(put, AUTH_NTLM);
	cursor_put_u8(put, LEVEL_INTEGRITY);
	cursor_put_u8(put, pad);
	cursor_put_u8(put, 0);
	cursor_put_le32(put, 1);		/* context */
}

/* [MS-NLMP] 3.4.5.2 and 3.4.5.3, of what goes to the server. */
static void derive_keys(struct rpc *rpc, const uint8_t session_key[16])
{
	static const char sign[] = "session key to client-to-server signing "
				   "key magic constant";
	static const char seal[] = "session key to client-to-server sealing "
				   "key magic constant";
	struct md5_ctx md5 = {};
	uint8_t key[16] = {};

	md5_init(&md5);
	md5_update(&md5, 16, session_key);
	md5_update(&md5, sizeof(sign), (const uint8_t *)sign);
	md5_digest(&md5, 16, rpc->sign_key);
	md5_init(&md5);
	md5_update(&md5, 16, session_key);
	md5_update(&md5, sizeof(seal), (const uint8_t *)seal);
	md5_digest(&md5, 16, key);
	arcfour_set_key(&rpc->seal, 16, key);
}

/* NTLM's signature with a key that was exchanged, [MS-NLMP] 3.4.4.2. */
static void put_signature(struct rpc *rpc, struct cursor_put *put,
			  const uint8_t *pdu, size_t length)
{
	struct hmac_md5_ctx ctx = {};
	uint8_t sequence[4] = { (uint8_t)rpc->sequence,
				(uint8_t)(rpc->sequence >> 8),
				(uint8_t)(rpc->sequence >> 16),
				(uint8_t)(rpc->sequence >> 24) };
	uint8_t sum[16] = {};

	hmac_md5_set_key(&ctx, 16, rpc->sign_key);
	hmac_md5_update(&ctx, 4, sequence);
	hmac_md5_update(&ctx, length, pdu);
	hmac_md5_digest(&ctx, 16, sum);
	arcfour_crypt(&rpc->seal, 8, sum, sum);
	cursor_put_le32(put, 1);
	cursor_put_bytes(put, sum, 8);
	cursor_put_le32(put, rpc->sequence);
	rpc->sequence++;
}

static uint32_t transceive(struct rpc *rpc, const uint8_t *pdu, size_t length,
			   uint8_t kind, struct cursor *_in,
			   size_t *_auth)
{
	const uint8_t *out = NULL;
	size_t out_length = 0;
	uint8_t got = 0;
	uint16_t size = 0;
	uint32_t status = STATUS_OK;

	smb_use_tree(rpc->smb, rpc->tree);
	status = smb_fsctl(rpc->smb, &rpc->pipe, FSCTL_PIPE_TRANSCEIVE, pdu,
			   length, PDU_MAX, &out, &out_length);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_init(_in, out, out_length);
	cursor_skip(_in, 2);
	got = cursor_u8(_in);
	cursor_seek(_in, 8);
	size = cursor_le16(_in);
	*_auth = cursor_le16(_in);
	cursor_seek(_in, 16);
	if (cursor_status(_in) != 0 || got != kind || size != out_length ||
	    *_auth + 8 > out_length) {
		return STATUS_RPC_FAULT;
	}
	return STATUS_OK;
}

static uint32_t bind_step(struct rpc *rpc, const struct guid *interface,
			  const uint8_t **_challenge, size_t *_length)
{
	uint8_t pdu[512] = {};
	uint8_t token[AUTH_MAX] = {};
	size_t token_length = auth_negotiate(token);
	struct cursor_put put = {};
	struct cursor in = {};
	size_t auth = 0;
	uint32_t status = STATUS_OK;

	cursor_put_init(&put, pdu, sizeof(pdu));
	put_header(&put, PDU_BIND, ++rpc->call);
	cursor_put_le16(&put, PDU_MAX);
	cursor_put_le16(&put, PDU_MAX);
	cursor_put_le32(&put, 0);
	cursor_put_le32(&put, 1);
	cursor_put_le16(&put, 0);
	cursor_put_le16(&put, 1);
	cursor_put_guid(&put, interface);
	cursor_put_le32(&put, 1);
	cursor_put_guid(&put, &ndr);
	cursor_put_le32(&put, 2);
	put_trailer(&put, 0);
	cursor_put_bytes(&put, token, token_length);
	put_lengths(pdu, cursor_put_length(&put), token_length);
	status = transceive(rpc, pdu, cursor_put_length(&put), PDU_BIND_ACK,
			    &in, &auth);
	if (status != STATUS_OK) {
		return status;
	}
	if (auth == 0) {
		return STATUS_RPC_FAULT;
	}
	*_challenge = in.bytes + in.length - auth;
	*_length = auth;
	return STATUS_OK;
}

/* AUTH3 has no answer: it is written, not transceived. */
static uint32_t auth3(struct rpc *rpc, const struct smb_target *target,
		      const uint8_t *challenge, size_t challenge_length)
{
	uint8_t pdu[AUTH_MAX + 64] = {};
	uint8_t token[AUTH_MAX] = {};
	uint8_t session_key[16] = {};
	struct cursor_put put = {};
	size_t length = 0;

	if (auth_authenticate(target, challenge, challenge_length, token,
			      &length, session_key) != 0) {
		return STATUS_RPC_FAULT;
	}
	derive_keys(rpc, session_key);
	cursor_put_init(&put, pdu, sizeof(pdu));
	put_header(&put, PDU_AUTH3, rpc->call);
	cursor_put_le32(&put, 0);
	put_trailer(&put, 0);
	cursor_put_bytes(&put, token, length);
	put_lengths(pdu, cursor_put_length(&put), length);
	return smb_write(rpc->smb, &rpc->pipe, 0, pdu,
			 (uint32_t)cursor_put_length(&put));
}

uint32_t rpc_bind(TALLOC_CTX *mem_ctx, struct smb *smb,
		  const struct smb_target *target, const char *pipe,
		  const struct guid *interface, struct rpc **_rpc)
{
	struct rpc *rpc = talloc_zero(mem_ctx, struct rpc);
	struct smb_open how = {
		.name = pipe, .access = ACCESS_READ_WRITE,
		.share = SHARE_ALL, .disposition = DISPOSITION_OPEN,
	};
	const uint8_t *challenge = NULL;
	size_t length = 0;
	uint32_t status = STATUS_LOST;

	if (rpc == NULL) {
		return status;
	}
	rpc->smb = smb;
	status = smb_tree(smb, "IPC$", &rpc->tree, NULL);
	if (status == STATUS_OK) {
		status = smb_create(smb, &how, &rpc->pipe);
	}
	if (status == STATUS_OK) {
		status = bind_step(rpc, interface, &challenge, &length);
	}
	if (status == STATUS_OK) {
		status = auth3(rpc, target, challenge, length);
	}
	if (status != STATUS_OK) {
		talloc_free(rpc);
		return status;
	}
	*_rpc = rpc;
	return STATUS_OK;
}

uint32_t rpc_call(struct rpc *rpc, uint16_t opnum, const uint8_t *stub,
		  size_t length, const uint8_t **_out, size_t *_out_length)
{
	uint8_t pdu[PDU_MAX] = {};
	struct cursor_put put = {};
	struct cursor in = {};
	uint8_t pad = (uint8_t)(-length & 15);
	size_t auth = 0;
	size_t behind = 0;
	uint32_t status = STATUS_OK;

	cursor_put_init(&put, pdu, sizeof(pdu));
	put_header(&put, PDU_REQUEST, ++rpc->call);
	cursor_put_le32(&put, (uint32_t)length);
	cursor_put_le16(&put, 0);
	cursor_put_le16(&put, opnum);
	cursor_put_bytes(&put, stub, length);
	cursor_put_zero(&put, pad);
	put_trailer(&put, pad);
	put_lengths(pdu, cursor_put_length(&put) + SIGNATURE, SIGNATURE);
	put_signature(rpc, &put, pdu, cursor_put_length(&put));
	if (cursor_put_status(&put) != 0) {
		return STATUS_INVALID_PARAMETER;
	}
	status = transceive(rpc, pdu, cursor_put_length(&put), PDU_RESPONSE,
			    &in, &auth);
	if (status != STATUS_OK) {
		return status;
	}
	cursor_seek(&in, 24);
	if (auth > 0) {
		/* pad, trailer and signature lie behind the stub */
		struct cursor trailer = {};

		cursor_init(&trailer, in.bytes, in.length);
		cursor_seek(&trailer, in.length - auth - 8 + 2);
		behind = auth + 8 + cursor_u8(&trailer);
	}
	if (cursor_status(&in) != 0 || behind > cursor_remaining(&in)) {
		return STATUS_RPC_FAULT;
	}
	*_out_length = cursor_remaining(&in) - behind;
	*_out = cursor_borrow(&in, *_out_length);
	return STATUS_OK;
}

void rpc_close(struct rpc *rpc)
{
	smb_use_tree(rpc->smb, rpc->tree);
	smb_close(rpc->smb, &rpc->pipe);
	talloc_free(rpc);
}
