/*
 * The bytes of MS-RSVD and what a server keeps of them: open contexts, tunnel
 * headers and bodies, the ring of stored errors, the record of a shared disk.
 *
 * Decoders return 0, -EMSGSIZE for too few bytes, -EINVAL for bytes that make
 * no sense; they allocate nothing and fill their struct only on success.
 */
#ifndef HVRS_RSVD_RSVD_H
#define HVRS_RSVD_RSVD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "scsi/scsi.h"
#include "util/guid.h"

/* ---- the open, MS-RSVD 2.2.4.12 and 2.2.4.32 --------------------------------- */

#define RSVD_CONTEXT_V1_SIZE 168
#define RSVD_CONTEXT_V2_SIZE 192
#define RSVD_NAME_MAX 126	/* bytes of UTF-16 */

enum rsvd_originator {
	RSVD_ORIGINATOR_PARSER = 1,	/* a virtual SCSI disk */
	RSVD_ORIGINATOR_VHDMP = 4,	/* the file itself */
};

struct rsvd_context {
	uint32_t version;
	bool has_initiator;
	struct guid initiator;
	uint32_t flags;
	uint32_t originator;
	uint64_t request_id;
	uint16_t name_length;
	uint8_t name[RSVD_NAME_MAX];
};

/* What a version 2 response adds. */
struct rsvd_properties {
	uint32_t server_version;
	uint32_t sector;
	uint32_t physical_sector;
	uint64_t size;
};

/*
 * Reads a request's context as a server of server_version does, MS-RSVD
 * 3.2.5.1: -EMSGSIZE and -EINVAL in the order it demands.
 */
int rsvd_context_decode(const uint8_t *bytes, size_t length,
			uint32_t server_version, struct rsvd_context *_c);

/* The response; returns its length, 168 or 192.  properties for version 2. */
size_t rsvd_context_encode(const struct rsvd_context *c,
			   const struct rsvd_properties *properties,
			   uint8_t out[RSVD_CONTEXT_V2_SIZE]);

/* ---- the tunnel, 2.2.4.11 ----------------------------------------------------- */

#define RSVD_HEADER_SIZE 16

enum rsvd_operation {
	RSVD_INITIAL_INFO = 0x02001001,
	RSVD_SCSI = 0x02001002,
	RSVD_CHECK_CONNECTION = 0x02001003,
	RSVD_SRB_STATUS = 0x02001004,
	RSVD_DISK_INFO = 0x02001005,
	RSVD_VALIDATE_DISK = 0x02001006,
};

struct rsvd_header {
	uint32_t operation;
	uint32_t status;
	uint64_t request_id;
};

int rsvd_header_decode(const uint8_t *bytes, size_t length,
		       struct rsvd_header *_h);
void rsvd_header_encode(const struct rsvd_header *h,
			uint8_t out[RSVD_HEADER_SIZE]);

/* ---- SCSI, 2.2.4.7 and 2.2.4.8 -------------------------------------------------- */

#define RSVD_SCSI_SIZE 36
#define RSVD_SENSE_SIZE 20

enum rsvd_srb_status {
	RSVD_SRB_SUCCESS = 0x01,
	RSVD_SRB_ABORTED = 0x02,
	RSVD_SRB_ERROR = 0x04,
	RSVD_SRB_INVALID_REQUEST = 0x06,
	RSVD_SRB_AUTOSENSE = 0x80,
};

struct rsvd_scsi {
	uint8_t cdb_length;
	uint8_t sense_length;
	uint8_t disposition;
	uint32_t srb_flags;
	uint32_t transfer;		/* bytes of the data phase */
	uint8_t cdb[SCSI_CDB_LENGTH];
	const uint8_t *data;		/* borrowed from the request */
	size_t data_length;
};

/*
 * Reads a request's body.  -EINVAL also where a command that sends data has
 * less of it than it says.
 */
int rsvd_scsi_decode(const uint8_t *body, size_t length,
		     struct rsvd_scsi *_r);

/* The 36 bytes before the data of a response. */
void rsvd_scsi_encode(const struct rsvd_scsi *request,
		      const struct scsi_result *result,
		      uint8_t out[RSVD_SCSI_SIZE]);

/* The SRB status byte of a result, with bit 7 for sense. */
uint8_t rsvd_srb_status(const struct scsi_result *result);

/* ---- stored errors, 3.2.5.5.4 ----------------------------------------------------- */

struct rsvd_error {
	bool stored;
	uint8_t srb_status;
	uint8_t scsi_status;
	uint8_t sense[RSVD_SENSE_SIZE];
};

struct rsvd_ring {
	uint8_t sequence;
	struct rsvd_error errors[256];
};

/* Stores an error; returns its key, 1 for the first. */
uint8_t rsvd_ring_store(struct rsvd_ring *ring, const struct rsvd_error *e);

/* Stores a failed command's result. */
uint8_t rsvd_ring_store_result(struct rsvd_ring *ring,
			       const struct scsi_result *result);

/* The body of an SRB_STATUS response, 24 bytes; -ENOENT for an unknown key. */
int rsvd_ring_show(const struct rsvd_ring *ring, uint8_t key, uint8_t out[24]);

/* ---- statuses, 2.2.3 ---------------------------------------------------------------- */

#define RSVD_STATUS_STORED 0xC05C0000U
#define RSVD_STATUS_NOT_STORED 0xC05CFF00U
#define RSVD_STATUS_ATTENTION 0xC05CFF01U
#define RSVD_STATUS_CONFLICT 0xC05CFF07U
#define RSVD_STATUS_WRONG_TYPE 0xC05CFF08U
#define RSVD_STATUS_VERSION 0xC05CFF09U
#define RSVD_STATUS_VHD_SHARED 0xC05CFF0AU
#define RSVD_STATUS_NO_INITIATOR 0xC05CFF0BU

/* The status that READ and WRITE give for a unit attention. */
uint32_t rsvd_attention_status(enum scsi_sense attention);

/* ---- disk information, 2.2.4.3 and 2.2.4.14 ------------------------------------------ */

struct rsvd_disk_info {
	uint32_t type;		/* 2 fixed, 3 dynamic */
	uint32_t format;	/* 3 VHDX, 4 VHD Set */
	uint32_t block_size;
	uint64_t file_size;
	struct guid disk_id;
};

void rsvd_disk_info_encode(const struct rsvd_disk_info *info,
			   uint8_t out[56]);
void rsvd_initial_info_encode(const struct rsvd_properties *p,
			      uint8_t out[24]);

/* ---- the record of a shared disk ------------------------------------------------------ */

#define RSVD_RECORD_VERSION 2
#define RSVD_RECORD_OPENS_MAX 512

/* One open, in the process that has it or, persistent, in none. */
struct rsvd_record_open {
	uint64_t pid;
	uint32_t vnn;
	uint32_t task;
	uint64_t unique;
	uint64_t open_id;
	uint32_t slot;			/* of the fence */
	bool persistent;
	bool has_initiator;
	struct guid initiator;
	char host[64];			/* UTF-8, cut where it does not fit */
	struct guid snapshot;		/* opened by target specifier, or null */
};

/* Who is at work; as the first fields of an open. */
struct rsvd_worker {
	uint64_t pid;
	uint32_t vnn;
	uint32_t task;
	uint64_t unique;
};

/*
 * No command is let in while a block is in force.  It ends with its time or
 * its process, whichever is first.
 */
struct rsvd_block {
	bool active;
	bool working;			/* its process changes files just now */
	struct rsvd_worker worker;
	uint64_t until_ms;		/* CLOCK_BOOTTIME, of its machine */
	uint32_t time_ms;		/* how long that was when it began */
};

/* A snapshot on its way, MS-RSVD 3.2.5.5.7. */
enum rsvd_stage {
	RSVD_STAGE_IDLE,
	RSVD_STAGE_INITIALIZED,
	RSVD_STAGE_BLOCKED,
	RSVD_STAGE_SWITCHED,
	RSVD_STAGE_UNBLOCKED,
	RSVD_STAGE_FAILED,	/* its time was over while it blocked */
};

struct rsvd_making {
	uint32_t stage;
	uint32_t type;
	uint32_t flags;
	struct guid transaction;
	struct guid snapshot;
	struct rsvd_worker worker;
	uint64_t until_ms;
};

/* A meta operation, under way or over, for QUERY_PROGRESS and for people. */
struct rsvd_progress {
	struct guid transaction;
	uint32_t type;		/* enum rsvd_meta_type; or RSVD_PROGRESS_MERGE */
	uint32_t status;	/* NTSTATUS, when over */
	bool over;
	uint64_t done;
	uint64_t all;
	uint64_t started_ms;	/* CLOCK_BOOTTIME, of its machine */
	struct rsvd_worker worker;
};

#define RSVD_PROGRESS_MERGE 0x100	/* in the background: no transaction */
#define RSVD_RECORD_PROGRESS_MAX 8

struct rsvd_record {
	char *path;			/* for people */
	struct guid disk_id;
	uint64_t disk_size;
	struct scsi_pr pr;
	/* Raised when the disk consists of other files, or has another size. */
	uint64_t epoch;
	struct rsvd_block block;
	struct rsvd_making making;
	size_t progress_count;
	struct rsvd_progress progress[RSVD_RECORD_PROGRESS_MAX];
	size_t open_count;
	struct rsvd_record_open *opens;
};

/*
 * The row of a transaction, or NULL.  row_add() gives a new one: a free one, or
 * that of the oldest operation that is over; NULL where all are under way.
 */
struct rsvd_progress *rsvd_record_progress_find(struct rsvd_record *r,
						const struct guid *transaction,
						uint32_t type);
struct rsvd_progress *rsvd_record_progress_add(struct rsvd_record *r);

/* An empty one; a talloc child of mem_ctx. */
struct rsvd_record *rsvd_record_create(TALLOC_CTX *mem_ctx);

/* The bytes of a record; *_bytes is a talloc child of mem_ctx.  -ENOMEM. */
int rsvd_record_encode(TALLOC_CTX *mem_ctx, const struct rsvd_record *r,
		       uint8_t **_bytes, size_t *_length);

/*
 * Reads it back as a talloc child of mem_ctx.  -EPROTONOSUPPORT for another
 * version, -EINVAL for foreign bytes (*_why says why), -ENOMEM.
 */
int rsvd_record_decode(TALLOC_CTX *mem_ctx, const uint8_t *bytes,
		       size_t length, struct rsvd_record **_r,
		       const char **_why);

/* What must be known to put an open back after its process died. */
struct rsvd_kept {
	uint32_t create_options;
	bool writable;
	bool through;
	bool may_delete;	/* the client has DELETE of the file */
	struct rsvd_context context;
	struct rsvd_ring ring;
};

#define RSVD_KEPT_SIZE (14 + RSVD_CONTEXT_V1_SIZE)
#define RSVD_KEPT_ERROR_SIZE (3 + RSVD_SENSE_SIZE)
#define RSVD_KEPT_SIZE_MAX (RSVD_KEPT_SIZE + 256 * RSVD_KEPT_ERROR_SIZE)

/* Returns the bytes written. */
size_t rsvd_kept_encode(const struct rsvd_kept *kept,
			uint8_t out[RSVD_KEPT_SIZE_MAX]);

/* 0; -EPROTONOSUPPORT for another version, -EINVAL for foreign bytes. */
int rsvd_kept_decode(const uint8_t *bytes, size_t length,
		     struct rsvd_kept *_kept);

/* Adds an open; -ENOSPC, -ENOMEM. */
int rsvd_record_open_add(struct rsvd_record *r,
			 const struct rsvd_record_open *open);

/* Takes the open at an index away, and its nexus' attachment. */
void rsvd_record_open_remove(struct rsvd_record *r, size_t index);

#endif
