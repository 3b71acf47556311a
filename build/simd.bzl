# SPDX-License-Identifier: Apache-2.0
"""What the files for AVX2 and AVX-512 are compiled with, beside WD_COPTS."""

# What may only run where wd_cpu_has_avx2() says so.
WD_AVX2_COPTS = [
    "-mavx2",
    "-mf16c",
    "-mfma",
]

# What may only run where wd_cpu_has_avx512() says so; that says yes where AVX-512 is emulated.
WD_AVX512_COPTS = select({
    "//build:emulated": WD_AVX2_COPTS + [
        "-include",
        "tests/emulated/avx512.h",
        "-Wno-psabi",
        "-Wno-maybe-uninitialized",
    ],
    "//conditions:default": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mf16c",
        "-mfma",
    ],
})
WD_AVX512_DEPS = select({
    "//build:emulated": ["//tests/emulated:avx512"],
    "//conditions:default": [],
})
