# SPDX-License-Identifier: Apache-2.0
"""The flags of every C file of ours."""

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
