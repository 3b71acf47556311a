// SPDX-License-Identifier: Apache-2.0
#include "service/formats/paths.h"

#ifdef __x86_64__
#include <cpuid.h>

// clang's __builtin_cpu_supports does not know F16C. AVX2, which is asked for with it, says that the operating system
// keeps the registers.
static bool has_f16c_and_fma(void) {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) && (c & bit_FMA);
}

bool wd_cpu_has_avx2(void) {
  return __builtin_cpu_supports("avx2") && has_f16c_and_fma();
}

bool wd_cpu_has_avx512(void) {
#ifdef WD_EMULATED_AVX512  // by functions that run on AVX2, for tests
  return wd_cpu_has_avx2();
#else
  return wd_cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
}
#endif

bool wd_cpu_any(void) {
  return true;
}
