// SPDX-License-Identifier: Apache-2.0
// The path for x86 processors with AVX-512: simd_*.h over vec_avx512.h. Compiled with WD_AVX512_COPTS.
#include "service/formats/vec_avx512.h"
// The decoders, over the vectors above.
#include "service/formats/simd_path.h"

const struct wd_decode_path wd_path_avx512 = {"avx512", wd_cpu_has_avx512, {WD_TYPES(WD_PATH_ROW)}, {CODES_ROWS}};
