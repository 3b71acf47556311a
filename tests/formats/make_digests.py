#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes digests.inc: the CRC-32 of what a reference decoder makes of the streams of stream.c.

    make_digests.py REFERENCE.py > digests.inc

REFERENCE.py is a module with TYPES = {id: (name, elements, bytes, …)} and decode_f32(name, bytes) -> float32 array. The
streams are made here anew, in numpy; every NaN of an output is made the same one, as stream_same_nan does.
"""
import importlib.util
import sys
import zlib

import numpy as np

F16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00,
       0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfd01, 0x1400, 0x5555]
BF16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x3f80, 0xbf80,
        0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0xffa1, 0x3880, 0x477f]
F32 = [0x00000000, 0x80000000, 0x00000001, 0x807fffff, 0x00800000, 0x3f801000, 0x3f803000, 0x33000000,
       0xb3000001, 0x3f808000, 0x3f818000, 0x477fefff, 0x477ff000, 0x7f7fffff, 0xff800000, 0x7fa00001]
F64 = [0x0000000000000000, 0x8000000000000000, 0x0000000000000001, 0x3ff0000010000000, 0x3ff0000010000001,
       0x3ff0000030000000, 0xbff000002fffffff, 0x47efffffe0000000, 0x47effffff0000000, 0x47efffffefffffff,
       0x36a0000000000000, 0x3690000000000000, 0x3690000000000001, 0x7ff0000000000000, 0xfff8000000000000,
       0x40effdffffffffff]
I32 = [0, 1, 0xffffffff, 0x01000001, 0x01000003, 0xfeffffff, 0xfefffffd, 0x7fffffff,
       0x80000000, 0x80000001, 0x7fffffc0, 0x7fffffbf, 0x0000ffe0, 0x0000ffef, 0x0000fff0, 0xffff0010]
I64 = [0, 0xffffffffffffffff, 0x7fffffffffffffff, 0x8000000000000000, 0x8000000000000001, 0x4000004000000000,
       0x4000004000000001, 0x400000bfffffffff, 0xbfffffc000000000, 0xbfffffbfffffffff, 0x0020000000000001,
       0x0020000010000001, 0x0000000001000001, 0x0000001000000800, 0x00000000fffffff0, 0xffffffff00000001]

# type: offset, width and values of each scale of a block
SCALES = {
    "F32": [(0, 4, F32)], "F16": [(0, 2, F16)], "BF16": [(0, 2, BF16)], "F64": [(0, 8, F64)],
    "I32": [(0, 4, I32)], "I64": [(0, 8, I64)], "Q8_K": [(0, 4, F32)],
    "Q4_1": [(0, 2, F16), (2, 2, F16)], "Q5_1": [(0, 2, F16), (2, 2, F16)], "Q8_1": [(0, 2, F16), (2, 2, F16)],
    "Q4_K": [(0, 2, F16), (2, 2, F16)], "Q5_K": [(0, 2, F16), (2, 2, F16)], "Q2_K": [(80, 2, F16), (82, 2, F16)],
    "Q3_K": [(108, 2, F16)], "Q6_K": [(208, 2, F16)], "TQ1_0": [(52, 2, F16)], "TQ2_0": [(64, 2, F16)],
    "I8": [], "I16": [], "IQ1_M": [], "MXFP4": [], "NVFP4": [],
}
FACTOR = np.float32(0.3)


def words(seed, n):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xbf58476d1ce4e5b9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94d049bb133111eb)
        return z ^ z >> np.uint64(31)


def blocks(type_id, name, elements, size, special):
    n = 16384 + 5 if elements == 1 else 16384 // elements
    data = words(type_id << 32, -(-n * size // 8)).astype("<u8").view(np.uint8)[:n * size].reshape(n, size).copy()
    if special:
        for s, (offset, width, values) in enumerate(SCALES.get(name, [(0, 2, F16)])):
            for k in range(n):
                value = values[(k + k // 16 * 3 * s + 5 * s) % 16]
                data[k, offset:offset + width] = np.frombuffer(value.to_bytes(width, "little"), np.uint8)
        if name == "IQ1_M":
            for k in range(n):
                for word in range(4):
                    top = 48 + 2 * word + 1
                    data[k, top] = data[k, top] & 15 | (F16[k % 16] >> 4 * word & 15) << 4
    return data.tobytes()


def outputs(values):
    """The F16, BF16 and F32 bytes of float32 values."""
    nan = np.isnan(values)
    with np.errstate(all="ignore"):
        half = values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32).astype(np.uint64)
    brain = (bits + 0x7fff + (bits >> np.uint64(16) & np.uint64(1)) >> np.uint64(16)).astype(np.uint16)
    yield np.where(nan, 0x7e00, half).astype("<u2").tobytes()
    yield np.where(nan, 0x7fc0, brain).astype("<u2").tobytes()
    yield np.where(nan, 0x7fc00000, bits).astype("<u4").tobytes()


def main(path):
    spec = importlib.util.spec_from_file_location("reference", path)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    print("// SPDX-License-Identifier: Apache-2.0")
    print("// Written by make_digests.py: DIGEST(type, kind of stream, factor, CRC-32 as F16, as BF16, as F32).")
    for type_id in sorted(reference.TYPES):
        name, elements, size = reference.TYPES[type_id][:3]
        for special in (False, True):
            values = reference.decode_f32(name, blocks(type_id, name, elements, size, special))
            for factor in (1, FACTOR) if name == "NVFP4" else (1,):
                with np.errstate(all="ignore"):
                    scaled = values * np.float32(factor)
                crcs = ", ".join(f"0x{zlib.crc32(data):08x}" for data in outputs(scaled))
                text = "1.0f" if factor == 1 else "0.3f"
                print(f"DIGEST({name}, {'STREAM_SPECIAL' if special else 'STREAM_RANDOM'}, {text}, {crcs})")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
