// SPDX-License-Identifier: Apache-2.0
// ggml's CPU decoders, from its shared libraries: what bench:decode measures ours against.
#ifndef WD_BENCH_PEER_H
#define WD_BENCH_PEER_H

#include "service/base/error.h"
#include "service/formats/types.h"

struct peer;

// Loads libggml-base.so and libggml-cpu.so from `folder`. NOT_FOUND where one is missing or is not what it should be.
// A loaded peer stays for the life of the process.
enum wd_status peer_open(const char *folder, struct peer **peer, struct wd_error *err);

// Whether it decodes the type to floats. False for F16 too, which is a copy with either.
bool peer_has(const struct peer *peer, const struct wd_type_info *type);

// Decodes n_blocks blocks to FP16 as ggml would: to_float a row of about 4,096 elements at a time, which stays in the
// nearest cache, and the conversion of its CPU backend. F32 has nothing but the conversion.
void peer_decode(const struct peer *peer, const struct wd_type_info *type, const uint8_t *blocks, size_t n_blocks,
                 uint8_t *out);

#endif
