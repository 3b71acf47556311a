# SPDX-License-Identifier: Apache-2.0
"""The flags of every C file of ours, and of those for AVX-512."""

WD_COPTS = [
    "-std=c17",
    "-D_GNU_SOURCE",
    "-O2",
    "-Wall",
    "-Wextra",
    # What an initializer does not name is zero, which is what it is left out for.
    "-Wno-missing-field-initializers",
    "-Werror",
    "-Wshadow",
    "-Wvla",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wpointer-arith",
    "-Wwrite-strings",
    # Every float32 operation rounds on its own: see service/formats/types.h.
    "-ffp-contract=off",
    "-fno-strict-aliasing",
]

# What may only run where wd_cpu_has_avx512() says so; that says yes where AVX-512 is emulated.
WD_AVX512_COPTS = select({
    "//build:emulated": [
        "-include",
        "tests/emulated/avx512.h",
        "-mavx2",
        "-mf16c",
        "-mfma",
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
