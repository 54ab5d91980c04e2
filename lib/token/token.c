/* The token's bytes and the record behind it. */
#include "token/token.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "util/crc32c.h"
#include "util/cursor.h"

/* TokenType, big-endian as the only fields beside the length. */
#define TYPE_ZERO	0xFFFF0001u
#define TYPE_OURS	0x48565253u	/* "HVRS" */
#define ID_LENGTH	504
#define HEADER		8

#define RECORD_MAGIC	0x4b545648u	/* "HVTK" */
#define RECORD_VERSION	3u
#define RECORD_HEADER	12

#define FLAG_BEARER	1u
#define FLAG_PINNED	2u
#define FLAG_LEASED	4u

int token_new(struct token_id *_id)
{
	if (getrandom(_id, sizeof(*_id), 0) != sizeof(*_id)) {
		return -EIO;
	}
	return 0;
}

static void put_header(struct cursor_put *put, uint32_t type)
{
	cursor_put_be32(put, type);
	cursor_put_le16(put, 0);
	cursor_put_be16(put, ID_LENGTH);
}

void token_encode(const struct token_id *id, uint8_t *out)
{
	struct cursor_put put = {};

	cursor_put_init(&put, out, TOKEN_SIZE);
	put_header(&put, TYPE_OURS);
	cursor_put_bytes(&put, id->index, TOKEN_INDEX_SIZE);
	cursor_put_bytes(&put, id->secret, TOKEN_SECRET_SIZE);
	cursor_put_zero(&put, TOKEN_SIZE - HEADER - TOKEN_INDEX_SIZE -
			      TOKEN_SECRET_SIZE);
}

void token_encode_zero(uint8_t *out)
{
	struct cursor_put put = {};

	cursor_put_init(&put, out, TOKEN_SIZE);
	put_header(&put, TYPE_ZERO);
	cursor_put_zero(&put, ID_LENGTH);
}

enum token_kind token_decode(const uint8_t *in, struct token_id *_id)
{
	struct cursor cursor = {};
	uint8_t rest = 0;
	uint32_t type = 0;
	size_t i = 0;

	cursor_init(&cursor, in, TOKEN_SIZE);
	type = cursor_be32(&cursor);
	if (type == TYPE_ZERO) {
		return TOKEN_ZERO;
	}
	if (type != TYPE_OURS || cursor_le16(&cursor) != 0 ||
	    cursor_be16(&cursor) != ID_LENGTH) {
		return TOKEN_OTHER;
	}
	cursor_bytes(&cursor, _id->index, TOKEN_INDEX_SIZE);
	cursor_bytes(&cursor, _id->secret, TOKEN_SECRET_SIZE);
	for (i = cursor.at; i < TOKEN_SIZE; i++) {
		rest |= in[i];
	}
	return rest == 0 ? TOKEN_OURS : TOKEN_OTHER;
}

bool token_equal(const struct token_id *a, const struct token_id *b)
{
	volatile uint8_t differs = 0;
	size_t i = 0;

	for (i = 0; i < TOKEN_SECRET_SIZE; i++) {
		differs |= a->secret[i] ^ b->secret[i];
	}
	return differs == 0;
}

bool token_stamp_equal(const struct token_stamp *a,
		       const struct token_stamp *b)
{
	return a->device == b->device && a->inode == b->inode &&
	       a->size == b->size && a->mtime_s == b->mtime_s &&
	       a->mtime_ns == b->mtime_ns && a->ctime_s == b->ctime_s &&
	       a->ctime_ns == b->ctime_ns;
}

/* ---- the record -------------------------------------------------------------- */

int token_record_encode(TALLOC_CTX *mem_ctx, const struct token_record *record,
			uint8_t **_bytes, size_t *_length)
{
	size_t user = strlen(record->user);
	size_t name = strlen(record->name);
	size_t path = strlen(record->path);
	size_t room = RECORD_HEADER + 256 + user + name + path;
	uint8_t *bytes = talloc_zero_array(mem_ctx, uint8_t, room);
	struct cursor_put put = {};
	size_t length = 0;

	if (bytes == NULL) {
		return -ENOMEM;
	}
	cursor_put_init(&put, bytes, room);
	cursor_put_le32(&put, RECORD_MAGIC);
	cursor_put_le32(&put, RECORD_VERSION);
	cursor_put_le32(&put, 0);
	cursor_put_bytes(&put, record->id.index, TOKEN_INDEX_SIZE);
	cursor_put_bytes(&put, record->id.secret, TOKEN_SECRET_SIZE);
	cursor_put_le32(&put, (record->bearer ? FLAG_BEARER : 0) |
			      (record->pinned ? FLAG_PINNED : 0) |
			      (record->leased ? FLAG_LEASED : 0));
	cursor_put_le64(&put, record->created_ms);
	cursor_put_le64(&put, record->expires_ms);
	cursor_put_le64(&put, record->offset);
	cursor_put_le64(&put, record->length);
	cursor_put_le32(&put, record->process);
	cursor_put_le64(&put, record->started);
	cursor_put_le32(&put, record->descriptor);
	cursor_put_le64(&put, record->stamp.device);
	cursor_put_le64(&put, record->stamp.inode);
	cursor_put_le64(&put, record->stamp.size);
	cursor_put_le64(&put, (uint64_t)record->stamp.mtime_s);
	cursor_put_le32(&put, record->stamp.mtime_ns);
	cursor_put_le64(&put, (uint64_t)record->stamp.ctime_s);
	cursor_put_le32(&put, record->stamp.ctime_ns);
	cursor_put_le32(&put, record->source);
	cursor_put_le64(&put, record->source_inode);
	cursor_put_le16(&put, (uint16_t)user);
	cursor_put_bytes(&put, record->user, user);
	cursor_put_le16(&put, (uint16_t)name);
	cursor_put_bytes(&put, record->name, name);
	cursor_put_le16(&put, (uint16_t)path);
	cursor_put_bytes(&put, record->path, path);
	length = cursor_put_length(&put);
	cursor_put_seek(&put, 8);
	cursor_put_le32(&put, crc32c(bytes + RECORD_HEADER,
				     length - RECORD_HEADER));
	*_bytes = bytes;
	*_length = length;
	return 0;
}

static void get_text(struct cursor *in, char *out, size_t most)
{
	uint16_t length = cursor_le16(in);

	if (length > most) {
		in->failed = true;
		return;
	}
	cursor_bytes(in, out, length);
	out[length] = '\0';
}

int token_record_decode(const uint8_t *bytes, size_t length,
			struct token_record *_record)
{
	struct token_record record = {};
	struct cursor in = {};
	uint32_t flags = 0;
	uint32_t sum = 0;
	uint32_t version = 0;

	cursor_init(&in, bytes, length);
	if (cursor_le32(&in) != RECORD_MAGIC) {
		return -EINVAL;
	}
	version = cursor_le32(&in);
	sum = cursor_le32(&in);
	if (cursor_status(&in) != 0) {
		return -EINVAL;
	}
	if (version != RECORD_VERSION) {
		return -EPROTONOSUPPORT;
	}
	if (sum != crc32c(bytes + RECORD_HEADER, length - RECORD_HEADER)) {
		return -EINVAL;
	}
	cursor_bytes(&in, record.id.index, TOKEN_INDEX_SIZE);
	cursor_bytes(&in, record.id.secret, TOKEN_SECRET_SIZE);
	flags = cursor_le32(&in);
	record.bearer = (flags & FLAG_BEARER) != 0;
	record.pinned = (flags & FLAG_PINNED) != 0;
	record.leased = (flags & FLAG_LEASED) != 0;
	record.created_ms = cursor_le64(&in);
	record.expires_ms = cursor_le64(&in);
	record.offset = cursor_le64(&in);
	record.length = cursor_le64(&in);
	record.process = cursor_le32(&in);
	record.started = cursor_le64(&in);
	record.descriptor = cursor_le32(&in);
	record.stamp.device = cursor_le64(&in);
	record.stamp.inode = cursor_le64(&in);
	record.stamp.size = cursor_le64(&in);
	record.stamp.mtime_s = (int64_t)cursor_le64(&in);
	record.stamp.mtime_ns = cursor_le32(&in);
	record.stamp.ctime_s = (int64_t)cursor_le64(&in);
	record.stamp.ctime_ns = cursor_le32(&in);
	record.source = cursor_le32(&in);
	record.source_inode = cursor_le64(&in);
	get_text(&in, record.user, TOKEN_USER_MAX);
	get_text(&in, record.name, TOKEN_NAME_MAX);
	get_text(&in, record.path, TOKEN_PATH_MAX);
	if (cursor_status(&in) != 0 || cursor_remaining(&in) != 0) {
		return -EINVAL;
	}
	*_record = record;
	return 0;
}

int token_record_check(const struct token_record *record,
		       const struct token_id *id, const char *user,
		       uint64_t now_ms)
{
	bool good = token_equal(&record->id, id);

	good &= now_ms < record->expires_ms;
	good &= record->bearer || strcmp(record->user, user) == 0;
	return good ? 0 : -EKEYREJECTED;
}
