/* Logging on with NTLMv2 ([MS-NLMP]) and signing ([MS-SMB2] 3.1.4). */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <wctype.h>

#include <nettle/arcfour.h>
#include <nettle/cmac.h>
#include <nettle/hmac.h>
#include <nettle/md4.h>
#include <nettle/sha2.h>

#include "smb.h"
#include "util/cursor.h"
#include "util/utf16.h"

/* [MS-NLMP] 2.2.2.5: Unicode, request target, sign, NTLM, always sign,
 * extended session security, target info, 128, key exchange, 56. */
#define NTLM_FLAGS 0xE0888215u

#define AV_EOL		0
#define AV_DOMAIN	2	/* its NetBIOS name */
#define AV_TIMESTAMP	7

size_t auth_negotiate(uint8_t *out)
{
	struct cursor_put put = {};

	cursor_put_init(&put, out, 40);
	cursor_put_bytes(&put, "NTLMSSP", 8);
	cursor_put_le32(&put, 1);
	cursor_put_le32(&put, NTLM_FLAGS);
	cursor_put_zero(&put, 24);
	return cursor_put_length(&put);
}

static void md5_hmac(const uint8_t key[16], const void *a, size_t a_length,
		     const void *b, size_t b_length, uint8_t out[16])
{
	struct hmac_md5_ctx ctx = {};

	hmac_md5_set_key(&ctx, 16, key);
	hmac_md5_update(&ctx, a_length, a);
	hmac_md5_update(&ctx, b_length, b);
	hmac_md5_digest(&ctx, 16, out);
}

static void upper(uint8_t *utf16, size_t length)
{
	size_t i = 0;

	for (i = 0; i + 1 < length; i += 2) {
		wint_t c = (wint_t)(utf16[i] | utf16[i + 1] << 8);

		c = towupper(c);
		utf16[i] = (uint8_t)c;
		utf16[i + 1] = (uint8_t)(c >> 8);
	}
}

/* NTOWFv2, 3.3.2; the domain in UTF-16. */
static int owf(const struct smb_target *target, const uint8_t *domain,
	       size_t domain_length, uint8_t out[16])
{
	uint8_t text[1024] = {};
	uint8_t hash[16] = {};
	struct md4_ctx md4 = {};
	size_t length = 0;
	int ret = utf16_from_utf8(target->password, text, sizeof(text),
				  &length);

	if (ret != 0) {
		return ret;
	}
	md4_init(&md4);
	md4_update(&md4, length, text);
	md4_digest(&md4, 16, hash);
	ret = utf16_from_utf8(target->user, text, sizeof(text), &length);
	if (ret != 0) {
		return ret;
	}
	upper(text, length);
	md5_hmac(hash, text, length, domain, domain_length, out);
	return 0;
}

/* What the server tells of itself, 2.2.2.1; false where it does not. */
static bool find_pair(const uint8_t *info, size_t length, uint16_t wanted,
		      const uint8_t **_value, uint16_t *_size)
{
	struct cursor in = {};

	cursor_init(&in, info, length);
	while (cursor_remaining(&in) >= 4) {
		uint16_t id = cursor_le16(&in);

		*_size = cursor_le16(&in);
		*_value = cursor_borrow(&in, *_size);
		if (id == AV_EOL || *_value == NULL) {
			return false;
		}
		if (id == wanted) {
			return true;
		}
	}
	return false;
}

/* The server's clock where it tells it. */
static uint64_t find_time(const uint8_t *info, size_t length)
{
	uint64_t now = ((uint64_t)time(NULL) + UINT64_C(11644473600)) *
		       10000000;
	const uint8_t *value = NULL;
	struct cursor in = {};
	uint16_t size = 0;

	if (!find_pair(info, length, AV_TIMESTAMP, &value, &size) ||
	    size != 8) {
		return now;
	}
	cursor_init(&in, value, size);
	return cursor_le64(&in);
}

/*
 * The domain in UTF-16: the one that was given, else the server's own, where
 * a member of a domain keeps its users; none for user@domain.
 */
static int find_domain(const struct smb_target *target, const uint8_t *info,
		       size_t length, uint8_t *out, size_t room,
		       size_t *_length)
{
	const uint8_t *value = NULL;
	uint16_t size = 0;

	if (target->domain[0] != '\0' || strchr(target->user, '@') != NULL ||
	    !find_pair(info, length, AV_DOMAIN, &value, &size) ||
	    size > room) {
		return utf16_from_utf8(target->domain, out, room, _length);
	}
	memcpy(out, value, size);
	*_length = size;
	return 0;
}

struct field {
	size_t at;		/* of its descriptor */
	const uint8_t *data;
	size_t length;
};

static void put_fields(struct cursor_put *put, const struct field *fields,
		       size_t count)
{
	size_t at = 64;
	size_t i = 0;

	for (i = 0; i < count; i++) {
		cursor_put_seek(put, fields[i].at);
		cursor_put_le16(put, (uint16_t)fields[i].length);
		cursor_put_le16(put, (uint16_t)fields[i].length);
		cursor_put_le32(put, (uint32_t)at);
		cursor_put_seek(put, at);
		cursor_put_bytes(put, fields[i].data, fields[i].length);
		at += fields[i].length;
	}
}

int auth_authenticate(const struct smb_target *target,
		      const uint8_t *challenge, size_t challenge_length,
		      uint8_t *out, size_t *_length, uint8_t session_key[16])
{
	uint8_t response[2048] = {};
	uint8_t user[512] = {};
	uint8_t domain[512] = {};
	uint8_t key[16] = {};
	uint8_t base[16] = {};
	uint8_t sealed[16] = {};
	uint8_t server[8] = {};
	uint8_t mine[8] = {};
	uint8_t lm[24] = {};
	struct arcfour_ctx rc4 = {};
	struct cursor in = {};
	struct cursor_put put = {};
	const uint8_t *info = NULL;
	size_t user_length = 0;
	size_t domain_length = 0;
	size_t blob = 0;
	uint32_t info_at = 0;
	uint16_t info_length = 0;
	int ret = 0;

	cursor_init(&in, challenge, challenge_length);
	cursor_seek(&in, 24);
	cursor_bytes(&in, server, 8);
	cursor_seek(&in, 40);
	info_length = cursor_le16(&in);
	cursor_skip(&in, 2);
	info_at = cursor_le32(&in);
	cursor_seek(&in, info_at);
	info = cursor_borrow(&in, info_length);
	if (cursor_status(&in) != 0 || info_length > 1600 ||
	    memcmp(challenge, "NTLMSSP\0\2\0\0\0", 12) != 0) {
		return -EINVAL;
	}
	if (getrandom(mine, sizeof(mine), 0) != sizeof(mine) ||
	    getrandom(session_key, 16, 0) != 16) {
		return -EIO;
	}
	ret = find_domain(target, info, info_length, domain, sizeof(domain),
			  &domain_length);
	if (ret == 0) {
		ret = owf(target, domain, domain_length, key);
	}
	if (ret == 0) {
		ret = utf16_from_utf8(target->user, user, sizeof(user),
				      &user_length);
	}
	if (ret != 0) {
		return ret;
	}
	/* The blob behind the 16 bytes of its proof, 2.2.2.7. */
	cursor_put_init(&put, response, sizeof(response));
	cursor_put_seek(&put, 16);
	cursor_put_le32(&put, 0x0101);
	cursor_put_zero(&put, 4);
	cursor_put_le64(&put, find_time(info, info_length));
	cursor_put_bytes(&put, mine, 8);
	cursor_put_zero(&put, 4);
	cursor_put_bytes(&put, info, info_length);
	cursor_put_zero(&put, 4);
	blob = cursor_put_length(&put) - 16;
	md5_hmac(key, server, 8, response + 16, blob, response);
	md5_hmac(key, response, 16, NULL, 0, base);
	arcfour_set_key(&rc4, 16, base);
	arcfour_crypt(&rc4, 16, sealed, session_key);
	{
		const struct field fields[] = {
			{ 28, domain, domain_length },
			{ 36, user, user_length },
			{ 44, NULL, 0 },		/* workstation */
			{ 12, lm, sizeof(lm) },
			{ 20, response, blob + 16 },
			{ 52, sealed, sizeof(sealed) },
		};

		cursor_put_init(&put, out, AUTH_MAX);
		cursor_put_bytes(&put, "NTLMSSP", 8);
		cursor_put_le32(&put, 3);
		put_fields(&put, fields, sizeof(fields) / sizeof(fields[0]));
		*_length = cursor_put_length(&put);
		cursor_put_seek(&put, 60);
		cursor_put_le32(&put, NTLM_FLAGS);
	}
	return cursor_put_status(&put);
}

/* SP 800-108 in counter mode, one block, as [MS-SMB2] 3.1.4.2 has it. */
static void derive(const uint8_t key[16], const char *label,
		   size_t label_length, const uint8_t *context,
		   size_t context_length, uint8_t out[16])
{
	static const uint8_t one[4] = { 0, 0, 0, 1 };
	static const uint8_t bits[4] = { 0, 0, 0, 128 };
	static const uint8_t zero[1] = { 0 };
	struct hmac_sha256_ctx ctx = {};

	hmac_sha256_set_key(&ctx, 16, key);
	hmac_sha256_update(&ctx, 4, one);
	hmac_sha256_update(&ctx, label_length, (const uint8_t *)label);
	hmac_sha256_update(&ctx, 1, zero);
	hmac_sha256_update(&ctx, context_length, context);
	hmac_sha256_update(&ctx, 4, bits);
	hmac_sha256_digest(&ctx, 16, out);
}

void auth_signing_key(uint16_t dialect, const uint8_t session_key[16],
		      const uint8_t preauth[64], uint8_t key[16])
{
	if (dialect >= 0x0311) {
		derive(session_key, "SMBSigningKey", 14, preauth, 64, key);
	} else if (dialect >= 0x0300) {
		derive(session_key, "SMB2AESCMAC", 12,
		       (const uint8_t *)"SmbSign", 8, key);
	} else {
		memcpy(key, session_key, 16);
	}
}

void auth_sign(uint16_t dialect, const uint8_t key[16], const uint8_t *packet,
	       size_t length, uint8_t signature[16])
{
	if (dialect >= 0x0300) {
		struct cmac_aes128_ctx ctx = {};

		cmac_aes128_set_key(&ctx, key);
		cmac_aes128_update(&ctx, length, packet);
		cmac_aes128_digest(&ctx, 16, signature);
	} else {
		struct hmac_sha256_ctx ctx = {};

		hmac_sha256_set_key(&ctx, 16, key);
		hmac_sha256_update(&ctx, length, packet);
		hmac_sha256_digest(&ctx, 16, signature);
	}
}

void auth_preauth(uint8_t hash[64], const uint8_t *packet, size_t length)
{
	struct sha512_ctx ctx = {};

	sha512_init(&ctx);
	sha512_update(&ctx, 64, hash);
	sha512_update(&ctx, length, packet);
	sha512_digest(&ctx, 64, hash);
}
