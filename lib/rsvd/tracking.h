/*
 * The bodies of change tracking of MS-RSVD version 2.
 *
 * Decoders return 0, -EMSGSIZE for too few bytes, -EINVAL for bytes that make
 * no sense; they allocate nothing and fill their struct only on success.
 * Offsets count from the start of the body.
 */
#ifndef HVRS_RSVD_TRACKING_H
#define HVRS_RSVD_TRACKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cbt/cbt.h"
#include "util/guid.h"

enum rsvd_tracking_operation {
	RSVD_TRACKING_PARAMETERS = 0x02002008,
	RSVD_TRACKING_START = 0x02002009,
	RSVD_TRACKING_STOP = 0x0200200A,
	RSVD_TRACKING_CHANGES = 0x0200200C,
	RSVD_SAFE_SIZE = 0x0200200D,
};

/* ChangeTrackingStatus */
#define RSVD_TRACKING_NOT_INITIALIZED 0xC03A0020U
#define RSVD_TRACKING_TOO_LARGE 0xC03A0021U
#define RSVD_TRACKING_CHANGED_OFFLINE 0xC03A0022U
#define RSVD_TRACKING_INVALID_STATE 0xC03A0023U
#define RSVD_TRACKING_INCONSISTENT 0xC03A0024U

#define RSVD_TRACKING_START_SIZE 56

struct rsvd_tracking_start {
	struct guid transaction;
	struct guid log_id;
	uint64_t log_size_max;		/* 0: any */
	bool append;
	size_t name_length;		/* bytes of UTF-16, 0: none */
	const uint8_t *name;		/* borrowed from the request */
};

/*
 * The document has no name here, and Microsoft's clients send one: it must
 * lie behind the fixed part and within the body, be of whole characters, and
 * may not name a way (separators, colons, dots alone, control characters).
 * A NUL may end it.
 */
int rsvd_tracking_start_decode(const uint8_t *body, size_t length,
			       struct rsvd_tracking_start *_s);

void rsvd_tracking_parameters_encode(uint32_t status, uint64_t log_size,
				     uint8_t out[16]);

#define RSVD_TRACKING_CHANGES_SIZE 56

struct rsvd_tracking_changes {
	struct guid target;
	struct guid limit;
	uint32_t snapshot_type;
	uint64_t offset;
	uint64_t length;
};

int rsvd_tracking_changes_decode(const uint8_t *body, size_t length,
				 struct rsvd_tracking_changes *_q);

#define RSVD_TRACKING_ANSWER_SIZE 16
#define RSVD_TRACKING_RANGE_SIZE 24

/* How many ranges go into so many bytes of body. */
size_t rsvd_tracking_room(size_t bytes);

/*
 * The answer's body, RSVD_TRACKING_ANSWER_SIZE and a
 * RSVD_TRACKING_RANGE_SIZE for each range; returns its length.
 */
size_t rsvd_tracking_changes_encode(uint64_t processed,
				    const struct cbt_range *ranges,
				    size_t count, uint8_t *out);

#endif
