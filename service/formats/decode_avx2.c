// SPDX-License-Identifier: Apache-2.0
// The path for x86 processors with AVX2, FMA and F16C: simd_*.h over vec_avx2.h. Compiled with WD_AVX2_COPTS.
#include "service/formats/vec_avx2.h"
// The decoders, over the vectors above.
#include "service/formats/simd_path.h"

const struct wd_decode_path wd_path_avx2 = {"avx2", wd_cpu_has_avx2, {WD_TYPES(WD_PATH_ROW)}, {CODES_ROWS}};
