// SPDX-License-Identifier: Apache-2.0
// A SIMD path that hands one type to the portable code: isolation_test.sh must catch it.
#include "service/formats/paths.h"

const struct wd_decode_path wd_path_impostor;

void wd_impostor_decode(const uint8_t *blocks, size_t n_blocks, float factor, void *out);

void wd_impostor_decode(const uint8_t *blocks, size_t n_blocks, float factor, void *out) {
  wd_path_portable.decode[WD_Q4_0][WD_OUT_F16](blocks, n_blocks, factor, out);
}
