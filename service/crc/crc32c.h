// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli), as RFC 3720 appendix B.4 has it: reflected, polynomial 0x1EDC6F41, all ones before and after.
#ifndef WD_CRC_CRC32C_H
#define WD_CRC_CRC32C_H

#include <stddef.h>
#include <stdint.h>

// The CRC of a message whose first part has the CRC `crc` (0 for an empty one) and whose rest is data[0..size).
// wd_crc32c(0, "123456789", 9) is 0xE3069283.
uint32_t wd_crc32c(uint32_t crc, const void *data, size_t size);

// The CRC of a message in two parts from the parts' own CRCs; size_b is the length of the second in bytes. At most four
// multiplications of polynomials, so some hundred nanoseconds whatever the size. Thread-safe.
uint32_t wd_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t size_b);

#endif
