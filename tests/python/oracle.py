# SPDX-License-Identifier: Apache-2.0
"""What every element of a tensor is: PyPI gguf's dequantizers, which know most types, and a line of numpy for the rest.

Values are float32, every operation rounded on its own; outputs are those rounded to nearest even.
"""
import hashlib

import gguf
import numpy as np
from gguf.quants import dequantize

from ggufwrite import TYPES

F32 = np.float32
OUTPUTS = ("F16", "BF16", "F32")
ELEMENT_BYTES = {"F16": 2, "BF16": 2, "F32": 4}
NUMBERS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def _half(blocks, at=0):
    return blocks[:, at:at + 2].copy().view("<f2").astype(F32)


def _q8_1(b):
    return b[:, 4:].view(np.int8).astype(F32) * _half(b)


def _q8_k(b):
    return b[:, :4].copy().view("<f4") * b[:, 4:260].view(np.int8).astype(F32)


def _q1_0(b):
    d = _half(b)
    return np.where(np.unpackbits(b[:, 2:], axis=1, bitorder="little") == 1, d, -d)


def _q2_0(b):
    codes = np.stack([b[:, 2:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(len(b), 64)
    return (codes.astype(F32) - F32(1)) * _half(b)


OWN = {"Q8_1": _q8_1, "Q8_K": _q8_k, "Q1_0": _q1_0, "Q2_0": _q2_0}


def decode(kind, data, factor=None):
    """The float32 values of little-endian blocks, flat; `factor` (a scalar or one per element) scales them."""
    with np.errstate(all="ignore"):
        if kind in NUMBERS:
            values = np.frombuffer(data, NUMBERS[kind]).astype(F32)
        else:
            type_id, _, size, _ = TYPES[kind]
            blocks = np.frombuffer(data, np.uint8).reshape(-1, size)
            if not len(blocks):
                values = np.empty(0, F32)
            elif kind in OWN:
                values = OWN[kind](blocks)
            else:
                values = dequantize(blocks, gguf.GGMLQuantizationType(type_id))
        values = np.ascontiguousarray(values, F32).reshape(-1)
        return values if factor is None else values * np.asarray(factor, F32)


def convert(values, output):
    """float32 values as an array of the output's bits (uint16 or uint32)."""
    with np.errstate(all="ignore"):
        if output == "F32":
            return values.view(np.uint32)
        if output == "F16":
            return values.astype(np.float16).view(np.uint16)
        bits = values.view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


INFINITY = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000}
MAGNITUDE = {"F16": 0x7FFF, "BF16": 0x7FFF, "F32": 0x7FFFFFFF}


def is_nan(bits, output):
    return (bits & MAGNITUDE[output]) > INFINITY[output]


def as_bits(data, output):
    return np.frombuffer(data, "<u4" if output == "F32" else "<u2")


def assert_same(data, expected, output, what=""):
    """`data` (bytes) holds exactly the expected bits; where NaN is expected, any NaN will do."""
    got = as_bits(data, output)
    assert got.size == expected.size, f"{what}: {got.size} elements instead of {expected.size}"
    same = (got == expected) | (is_nan(got, output) & is_nan(expected, output))
    if not same.all():
        at = int(np.argmin(same))
        raise AssertionError(f"{what}: {int((~same).sum())} of {same.size} elements differ, the first is {at}: "
                             f"{int(got[at]):#x} instead of {int(expected[at]):#x}")


def counts(values, output):
    """(overflows, NaN, infinities) as a Summary counts them."""
    finite = np.isfinite(values)
    magnitude = convert(values, output) & MAGNITUDE[output]
    return int((finite & (magnitude == INFINITY[output])).sum()), int(np.isnan(values).sum()), int(np.isinf(values).sum())


def blocks(kind, n_blocks, seed=0, *, wild=False):
    """n_blocks blocks of reproducible bytes. Unless `wild`, scales are such that no value is NaN or infinite."""
    type_id, _, size, _ = TYPES[kind]
    raw = hashlib.shake_256(f"{kind} {seed}".encode()).digest(n_blocks * size)
    if wild:
        return raw
    b = np.frombuffer(raw, np.uint8).reshape(n_blocks, size).copy()
    for at in SCALES.get(kind, ()):
        b[:, at + 1] = b[:, at + 1] & 0x83 | 0x20  # FP16 of an exponent around 2^-7
    if kind in ("F32", "F16", "BF16", "F64", "Q8_K"):
        high = {"F32": 3, "F16": 1, "BF16": 1, "F64": 7, "Q8_K": 3}[kind]
        b[:, high] = b[:, high] & 0x80 | (0x2C if kind == "F16" else 0x3D if kind != "F64" else 0x3F)
        if kind == "F64":
            b[:, 6] = b[:, 6] & 0x0F | 0xA0
    if kind == "IQ1_M":
        b[:, 55] = b[:, 55] & 0x0F | 0x20
        b[:, 53] &= 0x0F
    if kind == "MXFP4":
        b[:, 0] = 118 + b[:, 0] % 8
    return b.tobytes()


# Where the FP16 scales of a block stand.
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q8_1": (0, 2), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,),
    "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_S": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
    "Q1_0": (0,), "Q2_0": (0,),
}
