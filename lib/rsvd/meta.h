/*
 * The bodies of MS-RSVD version 2 but for change tracking: meta operations,
 * queries of a VHD Set, deletion of snapshots.
 *
 * Decoders return 0 or the NTSTATUS that the document demands; the one for too
 * few bytes is that of the SMB2 response, all others belong into the tunnel's
 * header.  They allocate nothing and fill their struct only on success.
 */
#ifndef HVRS_RSVD_META_H
#define HVRS_RSVD_META_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/guid.h"

enum rsvd_set_operation {
	RSVD_META_START = 0x02002101,
	RSVD_META_PROGRESS = 0x02002002,
	RSVD_SET_QUERY = 0x02002005,
	RSVD_SNAPSHOT_DELETE = 0x02002006,
};

#define RSVD_META_TOO_SMALL 0xC0000023U		/* BUFFER_TOO_SMALL */
#define RSVD_META_INVALID 0xC000000DU		/* INVALID_PARAMETER */
#define RSVD_META_INVALID_1 0xC00000EFU		/* INVALID_PARAMETER_1; _2 ... */

/* ---- META_OPERATION_START, 2.2.4.17 ------------------------------------------- */

#define RSVD_META_SIZE 24

enum rsvd_meta_type {
	RSVD_META_RESIZE,
	RSVD_META_SNAPSHOT,
	RSVD_META_OPTIMIZE,
	RSVD_META_EXTRACT,
	RSVD_META_CONVERT,
	RSVD_META_APPLY,
};

struct rsvd_meta {
	struct guid transaction;
	uint32_t type;
	const uint8_t *data;	/* borrowed from the request */
	size_t length;
};

uint32_t rsvd_meta_decode(const uint8_t *body, size_t length,
			  struct rsvd_meta *_m);

/* Types as in vhdset.h; stages as enum rsvd_stage of rsvd.h, but 5 is the end. */
#define RSVD_SNAPSHOT_TRACKED 1U
#define RSVD_STAGES 6

enum rsvd_meta_stage {
	RSVD_DO_INITIALIZE = 1,
	RSVD_DO_BLOCK,
	RSVD_DO_SWITCH,
	RSVD_DO_UNBLOCK,
	RSVD_DO_FINALIZE,
};

struct rsvd_meta_snapshot {
	uint32_t type;
	uint32_t flags;
	uint32_t stages[RSVD_STAGES];
	struct guid id;
	struct guid log_id;	/* CDP */
};

uint32_t rsvd_meta_snapshot_decode(const uint8_t *data, size_t length,
				   struct rsvd_meta_snapshot *_s);

#define RSVD_META_NAME_MAX 1024	/* UTF-8, with NUL */

struct rsvd_meta_extract {
	uint32_t type;
	uint32_t flags;		/* bit 0: delete on close */
	struct guid source;
	struct guid limit;
	char name[RSVD_META_NAME_MAX];
};

uint32_t rsvd_meta_extract_decode(const uint8_t *data, size_t length,
				  struct rsvd_meta_extract *_e);

/* The name, which must end in ".vhds". */
uint32_t rsvd_meta_convert_decode(const uint8_t *data, size_t length,
				  char name[RSVD_META_NAME_MAX]);

struct rsvd_meta_resize {
	uint64_t size;
	bool expand_only;
	bool allow_unsafe;
	bool to_safe_size;
};

uint32_t rsvd_meta_resize_decode(const uint8_t *data, size_t length,
				 struct rsvd_meta_resize *_r);

struct rsvd_meta_apply {
	uint32_t type;
	struct guid id;
};

uint32_t rsvd_meta_apply_decode(const uint8_t *data, size_t length,
				struct rsvd_meta_apply *_a);

void rsvd_meta_progress_encode(uint64_t done, uint64_t all, uint8_t out[16]);

/* ---- VHDSET_QUERY_INFORMATION, 2.2.4.21 ------------------------------------------ */

#define RSVD_SET_QUERY_SIZE 24

enum rsvd_set_query_type {
	RSVD_QUERY_LIST = 2,
	RSVD_QUERY_ENTRY = 5,
	RSVD_QUERY_OPTIMIZE = 8,
	RSVD_QUERY_CDP_ROOT = 9,
	RSVD_QUERY_CDP_ACTIVE = 10,
	RSVD_QUERY_CDP_INACTIVE = 12,
};

struct rsvd_set_query {
	uint32_t type;
	uint32_t snapshot_type;
	struct guid id;
};

/* is_set: what is asked; its check has a place in the order of checks. */
uint32_t rsvd_set_query_decode(const uint8_t *body, size_t length, bool is_set,
			       struct rsvd_set_query *_q);

#define RSVD_SET_ENTRY_SIZE 72

struct rsvd_set_entry {
	uint32_t type;		/* of the query */
	uint64_t created_ms;
	uint32_t snapshot_type;
	bool valid;
	struct guid id;
	struct guid parent;
	struct guid log_id;
};

void rsvd_set_entry_encode(const struct rsvd_set_entry *e,
			   uint8_t out[RSVD_SET_ENTRY_SIZE]);

#define RSVD_SET_LIST_SIZE 16

/* The part of a list before its ids. */
void rsvd_set_list_encode(uint32_t count, bool complete,
			  uint8_t out[RSVD_SET_LIST_SIZE]);

void rsvd_set_optimize_encode(bool needed, uint8_t out[12]);

/* ---- DELETE_SNAPSHOT, 2.2.4.25 ------------------------------------------------------ */

#define RSVD_SNAPSHOT_DELETE_SIZE 24

struct rsvd_snapshot_delete {
	struct guid id;
	bool persist;
	uint32_t type;
};

uint32_t rsvd_snapshot_delete_decode(const uint8_t *body, size_t length,
				     struct rsvd_snapshot_delete *_d);

/* ---- the target specifier of an open, 2.2.4.33 ---------------------------------------- */

#define RSVD_TARGET_NAME "RSVD_TARGET_SPECIFIER_EA"
#define RSVD_TARGET_SIZE 24

struct rsvd_target {
	uint32_t type;
	struct guid id;
};

/* The value of the extended attribute of that name. */
uint32_t rsvd_target_decode(const uint8_t *value, size_t length,
			    struct rsvd_target *_t);

#endif
