/* The requests and answers of offload data transfer. */
#include <errno.h>

#include "token/token.h"
#include "util/checked.h"
#include "util/cursor.h"

static bool is_whole(uint64_t value)
{
	return value % TOKEN_SECTOR == 0;
}

static bool fits(uint64_t offset, uint64_t length)
{
	uint64_t end = 0;

	return checked_add(offset, length, &end) == 0 && end <= INT64_MAX;
}

int offload_read_decode(const uint8_t *in, size_t length, uint32_t max_output,
			struct offload_read *_read)
{
	struct offload_read read = {};
	struct cursor cursor = {};
	uint32_t size = 0;

	if (length < OFFLOAD_READ_IN || max_output < OFFLOAD_READ_OUT) {
		return -EMSGSIZE;
	}
	cursor_init(&cursor, in, length);
	size = cursor_le32(&cursor);
	cursor_skip(&cursor, 4);
	read.lifetime_ms = cursor_le32(&cursor);
	cursor_skip(&cursor, 4);
	read.offset = cursor_le64(&cursor);
	read.length = cursor_le64(&cursor);
	if (size != OFFLOAD_READ_IN || !is_whole(read.offset) ||
	    !is_whole(read.length) || !fits(read.offset, read.length)) {
		return -EINVAL;
	}
	*_read = read;
	return 0;
}

int offload_write_decode(const uint8_t *in, size_t length,
			 uint32_t max_output, struct offload_write *_write)
{
	struct offload_write write = {};
	struct cursor cursor = {};
	uint32_t size = 0;

	if (length < OFFLOAD_WRITE_IN || max_output < OFFLOAD_WRITE_OUT) {
		return -EMSGSIZE;
	}
	cursor_init(&cursor, in, length);
	size = cursor_le32(&cursor);
	cursor_skip(&cursor, 4);
	write.offset = cursor_le64(&cursor);
	write.length = cursor_le64(&cursor);
	write.from = cursor_le64(&cursor);
	write.token = cursor_borrow(&cursor, TOKEN_SIZE);
	if (size != OFFLOAD_WRITE_IN || !is_whole(write.offset) ||
	    !is_whole(write.length) || !is_whole(write.from) ||
	    !fits(write.offset, write.length) ||
	    !fits(write.from, write.length)) {
		return -EINVAL;
	}
	*_write = write;
	return 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* A file size is below 2^63, so rounding it up cannot overflow. */
static uint64_t round_up(uint64_t size)
{
	return (size + TOKEN_SECTOR - 1) / TOKEN_SECTOR * TOKEN_SECTOR;
}

int offload_read_plan(const struct offload_read *read, uint64_t file_size,
		      uint64_t *_length)
{
	if (read->length == 0) {
		*_length = 0;
		return 0;
	}
	if (file_size < TOKEN_SECTOR) {
		return -EINVAL;
	}
	if (read->offset >= file_size) {
		return -ENODATA;
	}
	*_length = least(read->length, round_up(file_size) - read->offset);
	return 0;
}

int offload_write_plan(const struct offload_write *write, uint64_t file_size,
		       uint64_t token_length, bool extends,
		       struct offload_write_plan *_plan)
{
	struct offload_write_plan plan = {};
	bool at_end = write->offset == file_size;

	if (write->length == 0) {
		*_plan = plan;
		return 0;
	}
	if (file_size > 0 && file_size < TOKEN_SECTOR) {
		return -EINVAL;
	}
	if (write->offset > file_size || (at_end && !extends)) {
		return -ENODATA;
	}
	if (write->from >= token_length) {
		return -EKEYREJECTED;
	}
	plan.told = least(write->length, token_length - write->from);
	plan.length = plan.told;
	if (!at_end) {
		plan.told = least(plan.told,
				  round_up(file_size) - write->offset);
		plan.length = least(plan.told, file_size - write->offset);
	}
	*_plan = plan;
	return 0;
}

void offload_read_encode(uint8_t *out, uint32_t flags, uint64_t length,
			 const uint8_t *token)
{
	struct cursor_put put = {};

	cursor_put_init(&put, out, OFFLOAD_READ_OUT);
	cursor_put_le32(&put, OFFLOAD_READ_OUT);
	cursor_put_le32(&put, flags);
	cursor_put_le64(&put, length);
	cursor_put_bytes(&put, token, TOKEN_SIZE);
}

void offload_write_encode(uint8_t *out, uint64_t length)
{
	struct cursor_put put = {};

	cursor_put_init(&put, out, OFFLOAD_WRITE_OUT);
	cursor_put_le32(&put, OFFLOAD_WRITE_OUT);
	cursor_put_le32(&put, 0);
	cursor_put_le64(&put, length);
}
