/*
 * The file-system control codes of a Hyper-V share: their wire forms and the
 * arithmetic of their rules ([MS-FSCC] 2.3, [MS-FSA] 2.1.5.10), without any
 * file or server.
 *
 * Decoders fill a structure and check nothing but lengths; the _validate and
 * _plan functions check meaning.  All numbers are bytes unless said otherwise.
 * Errors of this room, which the caller turns into a status once:
 *   -EINVAL     STATUS_INVALID_PARAMETER
 *   -EMSGSIZE   STATUS_BUFFER_TOO_SMALL
 *   -EOVERFLOW  STATUS_INTEGER_OVERFLOW
 *   -ENOTSUP    STATUS_NOT_SUPPORTED
 */
#ifndef HVRS_FSCTL_FSCTL_H
#define HVRS_FSCTL_FSCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A file offset on the wire is signed, so nothing lies beyond this. */
#define FSCTL_OFFSET_MAX ((uint64_t)INT64_MAX)

struct fsctl_range {
	uint64_t offset;
	uint64_t length;
};

/* ---- FSCTL_SET_ZERO_DATA, [MS-FSCC] 2.3.71 ------------------------------- */

#define FSCTL_ZERO_SIZE 16

struct fsctl_zero {
	uint64_t offset;
	uint64_t beyond;	/* first byte after the range */
};

/* Decodes the request; -EINVAL where it is shorter than 16 bytes. */
int fsctl_zero_decode(const uint8_t *in, size_t length,
		      struct fsctl_zero *_zero);

/*
 * Checks the request ([MS-FSA] 2.1.5.10.38: neither number negative, the range
 * not reversed) and clips it to the file's size.  An empty result means that
 * there is nothing to do.  Returns 0 or -EINVAL.
 */
int fsctl_zero_plan(const struct fsctl_zero *zero, uint64_t file_size,
		    struct fsctl_range *_range);

/* ---- FSCTL_FILE_LEVEL_TRIM, [MS-FSCC] 2.3.73 ----------------------------- */

#define FSCTL_TRIM_HEADER 8
#define FSCTL_TRIM_RANGE 16
#define FSCTL_TRIM_REPLY 4

struct fsctl_trim {
	uint32_t key;
	uint32_t count;
	const uint8_t *ranges;	/* borrowed from the request */
};

/*
 * Decodes and checks the header: -EINVAL where the request is too short for
 * it, the key is not 0 ([MS-SMB2] 3.3.5.15.14), there is no range, or fewer
 * ranges came than the header says.
 */
int fsctl_trim_decode(const uint8_t *in, size_t length,
		      struct fsctl_trim *_trim);

/*
 * The whole pages of one range (index below count) that a trim may free
 * ([MS-FSA] 2.1.5.10.7): the start rounded up to the page, the end clipped to
 * the allocation and rounded down.  An empty result means: skip this range.
 * page is a power of two.  Returns 0 or -EOVERFLOW.
 */
int fsctl_trim_plan(const struct fsctl_trim *trim, uint32_t index,
		    uint64_t allocation, uint64_t page,
		    struct fsctl_range *_range);

/* ---- FSCTL_DUPLICATE_EXTENTS_TO_FILE and _EX, [MS-FSCC] 2.3.7, 2.3.9 ------ */

#define FSCTL_CLONE_SIZE 40
#define FSCTL_CLONE_EX_SIZE 48
#define FSCTL_CLONE_EX_STRUCTURE 0x30
#define FSCTL_CLONE_SOURCE_ATOMIC 0x00000001

struct fsctl_clone {
	uint64_t persistent;	/* of the source's file id */
	uint64_t volatile_id;
	uint64_t source;
	uint64_t target;
	uint64_t length;
	bool atomic;
};

/*
 * Decode the two forms.  The _EX form is 56 bytes; 48 to 55 are accepted for
 * clients that trust its StructureSize.  -EINVAL: too short; -ENOTSUP: another
 * StructureSize.  Unknown flags are ignored.
 */
int fsctl_clone_decode(const uint8_t *in, size_t length,
		       struct fsctl_clone *_clone);
int fsctl_clone_ex_decode(const uint8_t *in, size_t length,
			  struct fsctl_clone *_clone);

struct fsctl_clone_files {
	uint64_t cluster;	/* power of two */
	uint64_t source_size;
	uint64_t target_size;
	bool same;		/* source and target are one file */
	bool source_sparse;
	bool target_sparse;
};

struct fsctl_clone_plan {
	uint64_t shared;	/* bytes to share by reference, from the start */
	uint64_t copied;	/* bytes of the last cluster to copy after it */
	uint64_t zeroed;	/* bytes to zero after those */
};

/*
 * Checks a clone ([MS-FSA] 2.1.5.10.4, and what ReFS does) and says how much
 * of it is shared and how much of an incomplete last cluster is copied.
 * -EINVAL: negative, wrapping or misaligned numbers (a length that ends
 * exactly at the source's end may be misaligned: the Linux client sends it),
 * or a target that begins behind the target's end.  -ENOTSUP: source shorter
 * than asked, source sparse and target not, overlap within one file.  A range
 * beyond the target's end is capped, as Windows does; the target never grows.
 */
int fsctl_clone_plan(const struct fsctl_clone *clone,
		     const struct fsctl_clone_files *files,
		     struct fsctl_clone_plan *_plan);

/* ---- FSCTL_QUERY_ALLOCATED_RANGES, [MS-FSCC] 2.3.48 ---------------------- */

#define FSCTL_RANGES_SIZE 16
#define FSCTL_RANGES_ENTRY 16

/* Decodes the request; -EINVAL where it is shorter than 16 bytes. */
int fsctl_ranges_decode(const uint8_t *in, size_t length,
			struct fsctl_range *_range);

/*
 * Checks the request ([MS-FSA] 2.1.5.10.22) and clips it to the file's size;
 * an empty result is an empty answer.  max_output is what the client has room
 * for.  Returns 0, -EINVAL or -EMSGSIZE.
 */
int fsctl_ranges_plan(const struct fsctl_range *asked, uint64_t file_size,
		      uint32_t max_output, struct fsctl_range *_range);

/* Writes one entry of the answer to 16 bytes at out. */
void fsctl_ranges_encode(uint8_t *out, const struct fsctl_range *range);

/* ---- FSCTL_GET_/SET_INTEGRITY_INFORMATION(_EX), [MS-FSCC] 2.3.19, 2.3.63 -- */

#define FSCTL_INTEGRITY_GET_REPLY 16

/* Writes the answer of a file without checksums; cluster is its size. */
void fsctl_integrity_encode(uint8_t *out, uint32_t cluster);

/*
 * Check a request that sets integrity on a file that has none: 0 where it
 * changes nothing, -EINVAL where it is malformed, -ENOTSUP where it asks for
 * checksums.
 */
int fsctl_integrity_set_check(const uint8_t *in, size_t length);
int fsctl_integrity_set_ex_check(const uint8_t *in, size_t length);

/* ---- FSCTL_QUERY_FILE_REGIONS, [MS-FSCC] 2.3.55 -------------------------- */

#define FSCTL_REGIONS_SIZE 24
#define FSCTL_REGIONS_REPLY 40
#define FSCTL_REGIONS_VALID_CACHED 1
#define FSCTL_REGIONS_VALID_NONCACHED 2

struct fsctl_regions {
	uint64_t offset;
	uint64_t length;
	uint32_t usage;
};

/*
 * Decodes the request; an empty one asks for the whole file.  -EMSGSIZE:
 * between 1 and 23 bytes.  -EINVAL: nothing asked for, or beyond 63 bits.
 */
int fsctl_regions_decode(const uint8_t *in, size_t length, uint32_t usage,
			 struct fsctl_regions *_regions);

/*
 * Writes the answer for a file whose bytes are all valid (FSCTL_REGIONS_REPLY
 * bytes at out) and its length, which is 0 where the answer is empty.
 * Returns 0 or -EMSGSIZE.
 */
int fsctl_regions_answer(const struct fsctl_regions *regions,
			 uint64_t file_size, uint32_t max_output,
			 uint8_t *out, size_t *_length);

#endif
