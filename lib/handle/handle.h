/*
 * What outlives a server process of an open that a client was promised to get
 * back: the record of such a handle, the log the records are kept in, and the
 * rules of who may have a handle back and who must wait meanwhile
 * ([MS-SMB2] 3.3.5.9, protocol notes "handles").  Plain bytes and decisions;
 * files, databases and clocks belong to the caller.
 */
#ifndef HVRS_HANDLE_HANDLE_H
#define HVRS_HANDLE_HANDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <talloc.h>

#include "util/guid.h"

/* ---- the record ------------------------------------------------------------ */

#define HANDLE_RECORD_VERSION 2
#define HANDLE_RECORD_MAX ((size_t)1 << 20)
#define HANDLE_SEQUENCES 64

/* Bits of handle_record.flags; bits not named here make a record unknown. */
#define HANDLE_PERSISTENT	0x0001
#define HANDLE_RESILIENT	0x0002
#define HANDLE_DIRECTORY	0x0004
#define HANDLE_DELETE_INITIAL	0x0008	/* FILE_DELETE_ON_CLOSE at the open */
#define HANDLE_DELETE_PENDING	0x0010	/* FileDispositionInformation */
#define HANDLE_LEASE		0x0020
#define HANDLE_CREATE_GUID	0x0040	/* opened with DH2Q */
#define HANDLE_WRITE_THROUGH	0x0080
#define HANDLE_APP_INSTANCE	0x0100
#define HANDLE_APP_VERSION	0x0200
#define HANDLE_SHARED		0x0400	/* of a disk that several open */
#define HANDLE_DEVICE_STAT	0x0800	/* device is stat's st_dev */
#define HANDLE_FLAGS_KNOWN	0x0FFF

/*
 * On a cluster each node has a log, "handles-N.log", and a handle in it begins
 * with who has it open: so many bytes, the node at one of them (32 bits).
 */
#define HANDLE_OWNER_SIZE 60
#define HANDLE_OWNER_NODE 16

struct handle_bytes {
	const uint8_t *data;
	size_t length;
};

/* Text is UTF-8 without a NUL inside. */
struct handle_record {
	uint64_t id;			/* persistent part of the FileId */
	uint32_t revision;		/* grows with every change */
	uint32_t flags;
	struct guid create_guid;
	struct guid client_guid;
	struct guid app_instance;
	uint64_t app_version_high;
	uint64_t app_version_low;
	uint64_t device;		/* the server's id of the file */
	uint64_t inode;
	uint64_t extra;
	uint64_t born;			/* ns, to tell a file from the next of
					 * its inode; 0: not known */
	uint32_t access;
	uint32_t sharing;
	uint32_t private_options;
	uint32_t desired_access;	/* as the client asked, for a replay */
	uint32_t create_options;
	uint32_t create_action;
	uint32_t oplock;		/* the server's own kind */
	struct guid lease_key;
	struct guid lease_parent;
	uint32_t lease_state;
	uint32_t lease_flags;
	uint16_t lease_epoch;
	uint16_t lease_version;
	uint32_t timeout_ms;
	uint32_t uid;
	uint64_t waiting_since_ms;	/* wall clock; 0: not known to wait */
	uint64_t open_time;		/* NTTIME */
	uint64_t position;
	uint64_t allocation;
	uint16_t channel_sequence;
	uint8_t sequences[HANDLE_SEQUENCES];
	struct handle_bytes owner;	/* SID as text */
	struct handle_bytes share;
	struct handle_bytes path;	/* of the share */
	struct handle_bytes name;	/* in it */
	struct handle_bytes user;	/* for people */
	struct handle_bytes locks;	/* see handle_lock_put() */
	struct handle_bytes modules;	/* see handle_module_next() */
};

/*
 * Writes a record of the current version.  Returns its size, also where size
 * bytes are too few (then out holds nothing useful); 0 for a record that
 * cannot be written: a text with a NUL or more than HANDLE_RECORD_MAX.
 */
size_t handle_record_encode(const struct handle_record *r, uint8_t *out,
			    size_t size);

/*
 * Reads one; texts, locks and modules point into bytes.  -EINVAL with a
 * static *why where it is damaged, -ENOTSUP where it is of another version or
 * holds flags this one does not know.  Version 1 had no "born".
 */
int handle_record_decode(const uint8_t *bytes, size_t length,
			 struct handle_record *_r, const char **why);

/* A byte-range lock: 24 bytes in handle_record.locks. */
#define HANDLE_LOCK_SIZE 24
struct handle_lock {
	uint64_t start;
	uint64_t length;
	bool exclusive;
};

void handle_lock_put(uint8_t out[HANDLE_LOCK_SIZE],
		     const struct handle_lock *lock);
size_t handle_lock_count(const struct handle_record *r);
void handle_lock_get(const struct handle_record *r, size_t i,
		     struct handle_lock *_lock);

/* Whether two ranges have a byte in common; a length of 0 has none. */
bool handle_range_overlap(uint64_t start_a, uint64_t length_a,
			  uint64_t start_b, uint64_t length_b);

/*
 * Whether a lock or an access of a stranger runs into a lock of the record;
 * reads pass shared locks.
 */
bool handle_locks_conflict(const struct handle_record *r, uint64_t start,
			   uint64_t length, bool exclusive);

/*
 * State of other modules, in handle_record.modules: a tag, a length, bytes.
 * _next: at starts at 0; true while there was another.  _size: bytes one
 * takes.  A tag with HANDLE_MODULE_SPARE is of state without which a handle may
 * come back as well.
 */
#define HANDLE_MODULE_HEAD 8
#define HANDLE_MODULE_SPARE 0x80000000u
bool handle_module_next(const struct handle_record *r, size_t *at,
			uint32_t *_tag, struct handle_bytes *_state);
void handle_module_put(uint8_t *out, uint32_t tag, struct handle_bytes state);

/* ---- the log --------------------------------------------------------------- */

#define HANDLE_LOG_HEADER 32
#define HANDLE_FRAME_HEADER 48

enum handle_frame_kind {
	HANDLE_FRAME_PUT = 1,
	HANDLE_FRAME_DROP = 2,
};

struct handle_frame {
	enum handle_frame_kind kind;
	uint32_t revision;
	uint64_t id;
	uint64_t synced;	/* bytes of the log known to be on disk then */
	size_t offset;		/* where it starts */
	size_t size;		/* with header and padding */
	struct handle_bytes payload;
	bool damaged;		/* the payload is not what was written */
};

void handle_log_header_encode(uint64_t generation,
			      uint8_t out[HANDLE_LOG_HEADER]);

/* -EINVAL: not such a log; -ENOTSUP: one of another version. */
int handle_log_header_decode(const uint8_t *bytes, size_t length,
			     uint64_t *_generation);

/* Bytes of a frame with so much payload. */
size_t handle_frame_size(size_t payload);

/* Writes a frame to out, which holds handle_frame_size() bytes. */
void handle_frame_encode(const struct handle_frame *frame, uint8_t *out);

/*
 * Whether a frame may begin with these HANDLE_FRAME_MARK bytes; where none
 * was written yet they are zeros.
 */
#define HANDLE_FRAME_MARK 4
bool handle_frame_begins(const uint8_t bytes[HANDLE_FRAME_MARK]);

/*
 * The frame at *at, which moves behind it.  0; -ENODATA at the end; -EBADMSG
 * where bytes are no frame: *at moves to the next frame or to the end.
 */
int handle_frame_next(const uint8_t *log, size_t length, size_t *at,
		      struct handle_frame *_frame);

/*
 * What a log says: the handles that are, and what had to be refused.  A hole
 * behind what was known to be on disk is the end of an unfinished write; one
 * before it is damage, and every handle whose newest state may have been in
 * it is refused rather than guessed.
 */
struct handle_replay;

struct handle_replay_counts {
	size_t frames;
	size_t live;
	size_t refused;		/* handles given up because of damage */
	size_t holes;		/* damaged places that were on disk */
	size_t torn;		/* bytes of unfinished writes */
	size_t end;		/* behind the last whole frame */
};

/* log is borrowed and must outlive the result.  -ENOMEM. */
int handle_replay(TALLOC_CTX *mem_ctx, const uint8_t *log, size_t length,
		  struct handle_replay **_replay);
void handle_replay_counts(const struct handle_replay *replay,
			  struct handle_replay_counts *_counts);

/* The payload of the i-th live handle; false behind the last. */
bool handle_replay_get(const struct handle_replay *replay, size_t i,
		       uint64_t *_id, struct handle_bytes *_payload);

/*
 * The i-th frame that is the newest of its handle and says that this is no
 * more, for who reads several logs; false behind the last.
 */
bool handle_replay_dropped(const struct handle_replay *replay, size_t i,
			   struct handle_frame *_frame);

/* ---- the rules ------------------------------------------------------------- */

enum handle_state {
	HANDLE_CONNECTED,	/* its owner process lives and has it open */
	HANDLE_WAITING,		/* for its owner */
};

enum handle_verdict {
	HANDLE_GRANT = 0,
	HANDLE_NOT_FOUND,		/* OBJECT_NAME_NOT_FOUND */
	HANDLE_DENIED,			/* ACCESS_DENIED */
	HANDLE_BAD_PARAMETER,		/* INVALID_PARAMETER */
	HANDLE_UNAVAILABLE,		/* FILE_NOT_AVAILABLE */
	HANDLE_SHARING,			/* SHARING_VIOLATION */
	HANDLE_MISMATCH,		/* CONTEXT_MISMATCH */
	HANDLE_FORCED_CLOSED,		/* FILE_FORCED_CLOSED */
	HANDLE_DUPLICATE,		/* DUPLICATE_OBJECTID */
	HANDLE_REPLAY,			/* the open itself, asked for again */
	HANDLE_CLOSE_OLD,		/* the old one must go first */
};

/* A client that wants its handle back, [MS-SMB2] 3.3.5.9.7 and .12. */
struct handle_reconnect {
	bool v2;			/* DH2C, else DHnC */
	bool persistent;		/* DH2C flag */
	struct guid create_guid;
	struct guid client_guid;
	bool lease;			/* RqLs is there */
	struct guid lease_key;
	bool owner;			/* the user is the handle's */
	const char *path;		/* of the share */
};

enum handle_verdict handle_may_reconnect(const struct handle_record *r,
					 enum handle_state state,
					 uint64_t now_ms,
					 const struct handle_reconnect *want);

/* Whether the time of a waiting handle is over. */
bool handle_expired(const struct handle_record *r, uint64_t now_ms);

/* Milliseconds it still waits; its whole time where that has not begun. */
uint64_t handle_time_left(const struct handle_record *r, uint64_t now_ms);

/* Someone else's open of the file of a handle that waits. */
struct handle_contender {
	bool internal;			/* the server's own, no client's */
	bool shared;			/* of a disk that several open */
	uint32_t access;		/* as granted or asked */
	uint32_t sharing;
	bool overwrites;
	bool replay;			/* SMB2_FLAGS_REPLAY_OPERATION */
	bool persistent;		/* DH2Q with the flag */
	bool owner;			/* the same user */
	bool has_create_guid;
	struct guid create_guid;
	struct guid client_guid;
	uint32_t desired_access;
	uint32_t create_options;
	bool has_app_instance;
	struct guid app_instance;
	bool has_app_version;
	uint64_t app_version_high;
	uint64_t app_version_low;
	bool may_read;			/* of the file */
	bool dialect_311;
};

/*
 * What an open finds where a handle waits: HANDLE_GRANT lets it pass,
 * HANDLE_CLOSE_OLD and HANDLE_REPLAY let it pass after the handle was given
 * up (an AppInstanceId of the same application; the same CREATE again).
 */
enum handle_verdict handle_contend(const struct handle_record *r,
				   const struct handle_contender *who);

/*
 * AppInstanceId alone, for handles that are connected too: HANDLE_GRANT where
 * the two have nothing to do with each other.  [MS-SMB2] 3.3.5.9.13 and .16
 */
enum handle_verdict handle_app_instance(const struct handle_record *r,
					const struct handle_contender *who);

/* Whether access and sharing of two opens exclude each other. */
bool handle_sharing_conflict(uint32_t access_a, uint32_t sharing_a,
			     uint32_t access_b, uint32_t sharing_b);

#endif
