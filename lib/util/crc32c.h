/*
 * CRC-32C (Castagnoli): polynomial 0x1EDC6F41, reflected, initial and final
 * value all ones, as VHDX uses it for headers, region tables and log entries
 * ([MS-VHDX] 2.2.2).
 */
#ifndef HVRS_UTIL_CRC32C_H
#define HVRS_UTIL_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of length bytes. */
uint32_t crc32c(const void *bytes, size_t length);

/*
 * The checksum of what crc covers followed by length more bytes; a crc of 0
 * covers nothing.  So crc32c_more(crc32c(a), b) is the checksum of a and b.
 */
uint32_t crc32c_more(uint32_t crc, const void *bytes, size_t length);

/*
 * The same by table, on any processor; crc32c_more() uses the processor's own
 * instruction where there is one.  Public so that a test can compare the two.
 */
uint32_t crc32c_more_portable(uint32_t crc, const void *bytes, size_t length);

#endif
