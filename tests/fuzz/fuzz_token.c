/*
 * Offload data transfer: both requests with their plans, the token, and the
 * stored record with its checksum put right.  What is planned lies inside file
 * and token.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "token/token.h"
#include "util/crc32c.h"

#define FILE_SIZE	((1ULL << 40) + 123)
#define TOKEN_LENGTH	(1ULL << 30)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void requests(const uint8_t *data, size_t size)
{
	struct offload_read read = {};
	struct offload_write write = {};
	struct offload_write_plan plan = {};
	struct token_id id = {};
	uint64_t length = 0;

	if (offload_read_decode(data, size, 4096, &read) == 0 &&
	    offload_read_plan(&read, FILE_SIZE, &length) == 0 &&
	    (length > read.length || length % TOKEN_SECTOR != 0 ||
	     read.offset + length >= FILE_SIZE + TOKEN_SECTOR) &&
	    length != 0) {
		abort();
	}
	if (offload_write_decode(data, size, 4096, &write) != 0) {
		return;
	}
	token_decode(write.token, &id);
	if (offload_write_plan(&write, FILE_SIZE, TOKEN_LENGTH, true,
			       &plan) == 0 && plan.told > 0 &&
	    (plan.told > write.length || plan.length > plan.told ||
	     plan.told - plan.length >= TOKEN_SECTOR ||
	     write.from + plan.told > TOKEN_LENGTH ||
	     (write.offset != FILE_SIZE &&
	      write.offset + plan.length > FILE_SIZE))) {
		abort();
	}
}

static void record(uint8_t *data, size_t size)
{
	struct token_record record = {};
	uint8_t *again = NULL;
	size_t length = 0;
	uint32_t sum = 0;

	if (size > 12) {
		sum = crc32c(data + 12, size - 12);
		memcpy(data + 8, &sum, 4);
	}
	if (token_record_decode(data, size, &record) != 0 ||
	    token_record_encode(NULL, &record, &again, &length) != 0) {
		return;
	}
	if (token_record_decode(again, length, &record) != 0) {
		abort();
	}
	talloc_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + 1);

	requests(data, size);
	if (copy != NULL) {
		memcpy(copy, data, size);
		record(copy, size);
		free(copy);
	}
	return 0;
}
