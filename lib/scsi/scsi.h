/*
 * A SCSI disk ([SPC-4], [SBC-3]) as several initiators see it: commands from
 * their bytes to data and sense, and reservations as a state that somebody
 * else keeps.
 *
 * A command passes three gates, and the caller walks it through them:
 *
 *   scsi_pr_admit()     unit attentions and reservations; needs the state
 *   scsi_pr_out()/_in() PERSISTENT RESERVE commands; change or show the state
 *   scsi_execute_send() everything else; needs the disk
 *
 * The state is loaded before and stored after by the caller, under a lock of
 * its own.  Nothing here takes locks, reads clocks or opens databases.
 *
 * A SCSI failure is no error of these functions: it is a struct scsi_result,
 * a status with sense.  All numbers of SCSI are big-endian on the wire.
 */
#ifndef HVRS_SCSI_SCSI_H
#define HVRS_SCSI_SCSI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "util/guid.h"

struct tevent_context;
struct tevent_req;

#define SCSI_CDB_LENGTH 16
#define SCSI_SENSE_LENGTH 18

/* ---- results -------------------------------------------------------------- */

/* SAM-4 5.3.1 */
enum scsi_status {
	SCSI_GOOD = 0x00,
	SCSI_CHECK_CONDITION = 0x02,
	SCSI_BUSY = 0x08,
	SCSI_CONFLICT = 0x18,
	SCSI_TASK_SET_FULL = 0x28,
	SCSI_TASK_ABORTED = 0x40,
};

/* Sense key, additional sense code and qualifier in one number. */
enum scsi_sense {
	SCSI_SENSE_NONE = 0x000000,
	SCSI_SENSE_NOT_READY = 0x020401,
	SCSI_SENSE_WRITE_ERROR = 0x030C00,
	SCSI_SENSE_READ_ERROR = 0x031100,
	SCSI_SENSE_INTERNAL = 0x044400,
	SCSI_SENSE_LIST_LENGTH = 0x051A00,
	SCSI_SENSE_OPCODE = 0x052000,
	SCSI_SENSE_RANGE = 0x052100,
	SCSI_SENSE_CDB = 0x052400,
	SCSI_SENSE_LUN = 0x052500,
	SCSI_SENSE_LIST = 0x052600,
	SCSI_SENSE_RELEASE = 0x052604,
	SCSI_SENSE_SAVING = 0x053900,
	SCSI_SENSE_REGISTRATIONS = 0x055504,
	SCSI_SENSE_MODE_CHANGED = 0x062A01,
	SCSI_SENSE_RESERVATIONS_PREEMPTED = 0x062A03,
	SCSI_SENSE_RESERVATIONS_RELEASED = 0x062A04,
	SCSI_SENSE_REGISTRATIONS_PREEMPTED = 0x062A05,
	SCSI_SENSE_CAPACITY_CHANGED = 0x062A09,
	SCSI_SENSE_DEFINITION_CHANGED = 0x063F02,
	SCSI_SENSE_PROTECTED = 0x072700,
	SCSI_SENSE_SPACE = 0x072707,
	SCSI_SENSE_ABORTED = 0x0B0000,
	SCSI_SENSE_MISCOMPARE = 0x0E1D00,
};

struct scsi_result {
	uint8_t status;			/* enum scsi_status */
	uint8_t sense_length;		/* 0 or SCSI_SENSE_LENGTH */
	uint8_t sense[SCSI_SENSE_LENGTH];
	size_t length;			/* bytes of data for the initiator */
};

/* Sets a status without sense and without data. */
void scsi_result_status(struct scsi_result *r, enum scsi_status status);

/* CHECK CONDITION with fixed-format sense, [SPC-4] 4.5.3. */
void scsi_result_sense(struct scsi_result *r, enum scsi_sense sense);

/* The same with VALID set and INFORMATION, where it fits in 32 bits. */
void scsi_result_sense_at(struct scsi_result *r, enum scsi_sense sense,
			  uint64_t information);

/* The 18 bytes alone. */
void scsi_sense_encode(enum scsi_sense sense, uint8_t out[SCSI_SENSE_LENGTH]);

/* What a result's sense says, or SCSI_SENSE_NONE. */
enum scsi_sense scsi_result_sense_get(const struct scsi_result *r);

/* ---- commands ------------------------------------------------------------- */

enum scsi_direction {
	SCSI_NO_DATA,
	SCSI_TO_INITIATOR,
	SCSI_TO_DISK,
};

/* How a reservation of somebody else looks at a command, [SPC-4] table 42ff. */
enum scsi_access {
	SCSI_ACCESS_FREE,	/* always allowed */
	SCSI_ACCESS_READ,	/* as READ */
	SCSI_ACCESS_WRITE,	/* as WRITE */
	SCSI_ACCESS_PR_OUT,	/* by service action, in scsi_pr_out() */
	SCSI_ACCESS_RESERVE,	/* RESERVE and RELEASE of SPC-2 */
};

struct scsi_command_row {
	uint8_t opcode;
	bool has_action;
	uint8_t action;
	uint8_t length;		/* of the CDB */
	enum scsi_direction direction;
	enum scsi_access access;
	bool spc2_free;		/* passes a reservation made by RESERVE */
	const char *name;
	/* What REPORT SUPPORTED OPERATION CODES tells, bytes 1..14 */
	uint8_t usage[15];
};

/* The row of a CDB, by opcode and service action; NULL for an unknown one. */
const struct scsi_command_row *scsi_command_find(
	const uint8_t cdb[SCSI_CDB_LENGTH]);

/* Rows in the table's order, to walk it; NULL past the last. */
const struct scsi_command_row *scsi_command_row_get(size_t index);

/* ---- the state of reservations -------------------------------------------- */

/* [SPC-4] table 59; types above 4 are for registrants or all of them. */
enum scsi_pr_type {
	SCSI_PR_NONE = 0,
	SCSI_PR_WRITE_EXCLUSIVE = 1,
	SCSI_PR_EXCLUSIVE = 3,
	SCSI_PR_WRITE_REGISTRANTS = 5,
	SCSI_PR_EXCLUSIVE_REGISTRANTS = 6,
	SCSI_PR_WRITE_ALL = 7,
	SCSI_PR_EXCLUSIVE_ALL = 8,
};

#define SCSI_PR_NEXUS_MAX 256
#define SCSI_PR_ATTENTION_MAX 6

/* One initiator that is attached, registered, or has an attention to come. */
struct scsi_nexus {
	struct guid id;
	uint64_t key;			/* 0: not registered */
	uint16_t attached;		/* opens it has */
	uint8_t attention_count;	/* oldest first */
	uint32_t attentions[SCSI_PR_ATTENTION_MAX];	/* enum scsi_sense */
};

struct scsi_pr {
	uint32_t generation;
	bool persist;		/* APTPL: outlives the last detach */
	uint8_t type;		/* enum scsi_pr_type */
	struct guid holder;	/* types 1, 3, 5, 6 */
	bool reserved;		/* SPC-2 RESERVE */
	struct guid reserver;
	size_t nexus_count;
	struct scsi_nexus nexuses[SCSI_PR_NEXUS_MAX];
};

/* What a command meets before it runs. */
struct scsi_admission {
	bool go;			/* false: result is the answer */
	bool changed;			/* the state must be stored */
	enum scsi_sense attention;	/* for REQUEST SENSE to report */
	struct scsi_result result;
};

/*
 * Unit attention, then reservation conflict ([SAM-4] 5.14, [SPC-4] 5.9).  An
 * unknown opcode is answered here as well.  Does not look at the rest of the
 * CDB.
 */
void scsi_pr_admit(struct scsi_pr *state, const struct guid *nexus,
		   const uint8_t cdb[SCSI_CDB_LENGTH],
		   struct scsi_admission *_a);

/* The reservation alone: whether nexus may read, may write. */
bool scsi_pr_allows(const struct scsi_pr *state, const struct guid *nexus,
		    enum scsi_access access);

/* The oldest attention of nexus, or SCSI_SENSE_NONE; take removes it. */
enum scsi_sense scsi_pr_attention(const struct scsi_pr *state,
				  const struct guid *nexus);
bool scsi_pr_attention_take(struct scsi_pr *state, const struct guid *nexus);

/* Gives an attention to every known nexus but one (except may be NULL). */
void scsi_pr_attention_all(struct scsi_pr *state, const struct guid *except,
			   enum scsi_sense attention);

struct scsi_pr_effect {
	bool changed;		/* the state must be stored */
	/* PREEMPT AND ABORT: commands of these are aborted before the answer */
	bool abort;
	size_t victim_count;
	struct guid victims[SCSI_PR_NEXUS_MAX];
};

/*
 * PERSISTENT RESERVE OUT, [SPC-4] 6.14.  Where the result is GOOD and the
 * state changed, it must be stored (durably when persist is or was set), and
 * commands of those who lost their rights must be over, before the answer.
 */
void scsi_pr_out(struct scsi_pr *state, const struct guid *nexus,
		 const uint8_t cdb[SCSI_CDB_LENGTH], const uint8_t *list,
		 size_t list_length, struct scsi_pr_effect *_effect,
		 struct scsi_result *_result);

/* PERSISTENT RESERVE IN, [SPC-4] 6.13; data holds size bytes. */
void scsi_pr_in(const struct scsi_pr *state,
		const uint8_t cdb[SCSI_CDB_LENGTH], uint8_t *data, size_t size,
		struct scsi_result *_result);

/* RESERVE and RELEASE of SPC-2; as scsi_pr_out(). */
void scsi_pr_reserve(struct scsi_pr *state, const struct guid *nexus,
		     const uint8_t cdb[SCSI_CDB_LENGTH], bool *_changed,
		     struct scsi_result *_result);

/*
 * One more, or one less, open of a nexus.  -ENOSPC when the table is full.  A
 * nexus that has no open left loses its SPC-2 reservation and its attentions.
 */
int scsi_pr_attach(struct scsi_pr *state, const struct guid *nexus);
void scsi_pr_detach(struct scsi_pr *state, const struct guid *nexus);

/*
 * The disk was without any open and now gets its first: what power loss
 * leaves ([SPC-4] 5.12.5).  All of it goes unless persist is set; then
 * registrations and the reservation stay, and the generation starts again.
 */
void scsi_pr_power_on(struct scsi_pr *state);

/* ---- the state as bytes --------------------------------------------------- */

#define SCSI_PR_VERSION 1
#define SCSI_PR_HEAD_SIZE 52
#define SCSI_PR_NEXUS_SIZE 52
#define SCSI_PR_SIZE_MAX \
	(SCSI_PR_HEAD_SIZE + SCSI_PR_NEXUS_SIZE * SCSI_PR_NEXUS_MAX)

/* Bytes that scsi_pr_encode() will write. */
size_t scsi_pr_size(const struct scsi_pr *state);

/* Writes the state to out of scsi_pr_size() bytes. */
void scsi_pr_encode(const struct scsi_pr *state, uint8_t *out);

/*
 * Reads it back.  -EPROTONOSUPPORT for another version, -EINVAL for bytes
 * that are none of ours (*_why says why); *_state is untouched then.
 */
int scsi_pr_decode(const uint8_t *bytes, size_t length, struct scsi_pr *_state,
		   const char **_why);

/* Whether a state makes sense: types, holder, no nexus twice.  0, -EINVAL. */
int scsi_pr_validate(const struct scsi_pr *state, const char **_why);

/* ---- the disk ------------------------------------------------------------- */

/* What commands tell about a disk; numbers of blocks unless said otherwise. */
struct scsi_geometry {
	uint64_t blocks;
	uint32_t block_size;		/* bytes: 512 or 4096 */
	uint32_t physical_size;		/* bytes */
	bool read_only;
	bool write_cache;		/* a write may be unstable until flushed */
	bool thin;			/* UNMAP frees space */
	bool unmapped_zero;		/* and it reads as zero then */
	bool compare_and_write;		/* SCSI_IO_EXCLUSIVE works */
	uint32_t unmap_granularity;	/* at least 1 */
	struct guid disk_id;
};

enum scsi_io_op {
	SCSI_IO_READ,
	SCSI_IO_WRITE,
	SCSI_IO_FLUSH,
	/*
	 * Frees what can be freed of a range.  Where the geometry says
	 * unmapped_zero, all of the range reads as zero afterwards.
	 */
	SCSI_IO_UNMAP,
	/* Finds the longest extent from offset on: length and mapped. */
	SCSI_IO_STATUS,
	/*
	 * The range for the command alone, until RELEASE: nobody else changes
	 * it.  -EBUSY where that cannot be had in reasonable time.
	 */
	SCSI_IO_EXCLUSIVE,
	SCSI_IO_RELEASE,
};

/* One request to the disk, in bytes; kept by its owner until done is called. */
struct scsi_io {
	enum scsi_io_op op;
	uint8_t *buffer;
	uint64_t offset;
	uint64_t length;
	bool through;			/* stable when done */
	bool exclusive;			/* of a command that is */
	bool mapped;			/* STATUS: the answer */
	void (*done)(struct scsi_io *io, int error);	/* 0, -errno */
	void *private_data;
};

struct scsi_disk {
	struct scsi_geometry geometry;
	/* Starts io; never calls io->done from inside. */
	void (*submit)(struct scsi_disk *disk, struct scsi_io *io);
	void *private_data;
};

struct scsi_command {
	uint8_t cdb[SCSI_CDB_LENGTH];
	uint8_t cdb_length;
	const uint8_t *out;		/* data to the disk */
	size_t out_length;
	uint8_t *in;			/* room for data to the initiator */
	size_t in_size;
	enum scsi_sense attention;	/* from scsi_pr_admit() */
	struct scsi_result result;
};

/*
 * Executes any command but PERSISTENT RESERVE and RESERVE/RELEASE, which get
 * INVALID COMMAND OPERATION CODE here.  command is the caller's and has the
 * result when the request is done.  _recv returns 0, or -ENOMEM without a
 * result.  The request must not be freed before it is done.
 */
struct tevent_req *scsi_execute_send(TALLOC_CTX *mem_ctx,
				     struct tevent_context *ev,
				     struct scsi_disk *disk,
				     struct scsi_command *command);
int scsi_execute_recv(struct tevent_req *req);

/* Whether the command changes what is on the disk. */
bool scsi_command_writes(const uint8_t cdb[SCSI_CDB_LENGTH]);

#endif
