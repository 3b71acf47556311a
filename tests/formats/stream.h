// SPDX-License-Identifier: Apache-2.0
// Test blocks that C and Python make alike (make_digests.py has the same in numpy), and sums of what decoders write.
#ifndef WD_TESTS_FORMATS_STREAM_H
#define WD_TESTS_FORMATS_STREAM_H

#include "service/formats/decode.h"

// What a stream of blocks holds: random bits; random bits with every scale one of the values that arithmetic trips over
// (zeros, subnormals, the largest, infinities, NaN, ties of rounding); one byte repeated over a block; one 16-bit word.
enum stream_kind { STREAM_RANDOM, STREAM_SPECIAL, STREAM_BYTES, STREAM_WORDS, STREAM_KINDS };

// Blocks first, first + 1, … of a type's stream.
void stream_fill(enum stream_kind kind, enum wd_type type, size_t first, size_t n_blocks, uint8_t *blocks);

// The blocks that a digest is taken of: about 16384 elements.
size_t stream_digest_blocks(enum wd_type type);

// Replaces every NaN among n elements by one of them: which NaN comes out of an operation is not part of the formats.
void stream_same_nan(enum wd_output output, void *values, size_t n);

// The CRC-32 of zlib.
uint32_t stream_crc32(const void *data, size_t size);

// Word n of the sequence splitmix64 of this seed.
uint64_t stream_word(uint64_t seed, uint64_t n);

#endif
