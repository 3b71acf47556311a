# SPDX-License-Identifier: Apache-2.0
"""Every decode path against PyPI gguf's dequantizer, bit for bit, on random and adversarial blocks of every type.

    WEIGHTD_DECODE_DRIVER   the driver (//tests/property:decode_driver); where unset, Bazel's place for it
    WEIGHTD_FULL=1          longer runs, with a seed of the moment
    WEIGHTD_SEED=N          that seed

gguf 0.19 has 26 of the 35 types, and for all 26 its values are bit for bit those of ggml, whatever the block holds: its
numpy rounds every product and sum in the formats' order. Of the others numpy itself is the judge of the integers and of
F64 (its conversion rounds once). Q8_1, Q8_K, Q1_0 and Q2_0 are not in gguf; here their paths are held to the portable
one, and tests/formats/digest_test holds that to the reference. Any NaN will do for a NaN.
"""
import os
import pathlib
import subprocess
import time

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRIVER = os.environ.get("WEIGHTD_DECODE_DRIVER") or str(ROOT / "bazel-bin/tests/property/decode_driver")
FULL = os.environ.get("WEIGHTD_FULL", "") not in ("", "0")
SEED = int(os.environ.get("WEIGHTD_SEED") or (time.time_ns() if FULL else 2026))
ROUNDS = 10 if FULL else 1
ELEMENTS = 1 << 16  # of a round

# name: elements and bytes of a block
TYPES = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "F64": (1, 8), "I8": (1, 1), "I16": (1, 2), "I32": (1, 4),
    "I64": (1, 8), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q8_1": (32, 36), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210), "Q8_K": (256, 292), "IQ1_S": (256, 50), "IQ1_M": (256, 56), "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74), "IQ2_S": (256, 82), "IQ3_XXS": (256, 98), "IQ3_S": (256, 110), "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136), "TQ1_0": (256, 54), "TQ2_0": (256, 66), "MXFP4": (32, 17), "NVFP4": (64, 36),
    "Q1_0": (128, 18), "Q2_0": (64, 18),
}
NUMPY = {"F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
NOT_IN_GGUF = {"Q8_1", "Q8_K", "Q1_0", "Q2_0"}
OUTPUTS = ("F16", "BF16", "F32")

HALVES = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x83ff, 0x0400, 0x3c00, 0xbc00, 0x7bff, 0xfbff, 0x7c00,
                   0xfc00, 0x7e00, 0xfe00, 0x7c01], "<u2")


def driver(*arguments, data=b""):
    run = subprocess.run([DRIVER, *map(str, arguments)], input=data, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode(errors="replace")
    return run.stdout


def paths():
    if not os.path.exists(DRIVER):
        return []
    return driver("--list").decode().split()


PATHS = paths()


def test_the_driver_is_there():
    assert os.path.exists(DRIVER), f"no {DRIVER}: build //tests/property:decode_driver or set WEIGHTD_DECODE_DRIVER"
    assert "portable" in PATHS


def judge(name, blocks):
    """float32 of uint8[n, block bytes], or None where only the digests can tell."""
    with np.errstate(all="ignore"):
        if name in NUMPY:
            return blocks.copy().view(NUMPY[name]).reshape(-1).astype(np.float32)
        if name in NOT_IN_GGUF:
            return None
        rows = blocks if TYPES[name][0] > 1 else blocks.reshape(1, -1)
        values = dequantize(rows, gguf.GGMLQuantizationType[name])
        return np.ascontiguousarray(values.reshape(-1), np.float32)


def as_output(values, output):
    """The bits of float32 values as an output type."""
    with np.errstate(all="ignore"):
        if output == "F16":
            return values.astype(np.float16).view(np.uint16)
        if output == "BF16":
            bits = values.view(np.uint32).astype(np.uint64)
            rounded = bits + 0x7fff + (bits >> np.uint64(16) & np.uint64(1)) >> np.uint64(16)
            return np.where(np.isnan(values), 0x7fc0, rounded).astype(np.uint16)
        return values.view(np.uint32)


def same_nan(bits, output):
    limit, mask = {"F16": (0x7c00, 0x7fff), "BF16": (0x7f80, 0x7fff), "F32": (0x7f800000, 0x7fffffff)}[output]
    return np.where((bits & mask) > limit, limit + 1, bits)


def random_blocks(rng, name, n):
    return rng.integers(0, 256, (n, TYPES[name][1]), np.uint8)


def adversarial_blocks(rng, name, n):
    """Random blocks with some of their 16-bit words, wherever they lie, made values that arithmetic trips over."""
    blocks = random_blocks(rng, name, n)
    size = blocks.shape[1]
    words = blocks[:, :size // 2 * 2].copy().view("<u2")
    chosen = rng.random(words.shape) < rng.choice([0.02, 0.3, 1.0], (n, 1))
    words = np.where(chosen, rng.choice(HALVES, words.shape), words).astype("<u2")
    blocks[:, :size // 2 * 2] = words.view(np.uint8).reshape(n, -1)
    return blocks


def scaled_blocks(rng, name, n):
    """Every 16-bit word of a block a special value in turn, the rest random: every scale is among them."""
    blocks = random_blocks(rng, name, n)
    size = blocks.shape[1]
    for k in range(n if size > 1 else 0):
        at = k // len(HALVES) * 2 % (size // 2 * 2)
        blocks[k, at:at + 2] = HALVES[k % len(HALVES):][:1].view(np.uint8)
    return blocks


def flat_blocks(rng, name, n):
    """Every byte of a block the same."""
    size = TYPES[name][1]
    return np.repeat(np.arange(n, dtype=np.uint8)[:, None], size, 1)


MAKERS = (random_blocks, adversarial_blocks, scaled_blocks, flat_blocks)


def streams(name, salt=""):
    elements = TYPES[name][0]
    for n in range(ROUNDS):
        rng = np.random.default_rng([SEED, n, *(name + salt).encode()])
        for make in MAKERS:
            blocks = make(rng, name, max(1, ELEMENTS // elements + int(rng.integers(0, 3))))
            yield rng, f"{make.__name__}, round {n}, WEIGHTD_SEED={SEED}", blocks


def explain(name, blocks, got, want, what):
    at = int(np.flatnonzero(got != want)[0])
    block = at // TYPES[name][0]
    return (f"{what}: element {at % TYPES[name][0]} of block {bytes(blocks[block]).hex()} is {int(got[at]):#x}, "
            f"should be {int(want[at]):#x}")


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("path", PATHS)
def test_values(path, name):
    """Each output has the judge's bits."""
    for _, what, blocks in streams(name):
        data = blocks.tobytes()
        values = judge(name, blocks)
        for output in OUTPUTS:
            bits = np.uint32 if output == "F32" else np.uint16
            if values is None:
                want = np.frombuffer(driver("portable", name, output, 1, data=data), bits)
            else:
                want = as_output(values, output)
            got = np.frombuffer(driver(path, name, output, 1, data=data), bits)
            assert got.size == want.size == blocks.shape[0] * TYPES[name][0]
            got, want = same_nan(got, output), same_nan(want, output)
            assert np.array_equal(got, want), explain(name, blocks, got, want, f"{output}, {what}")


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("path", PATHS)
def test_cut_anywhere(path, name):
    """Decoded in pieces, the bytes are those of the whole, NaNs and all."""
    for rng, what, blocks in streams(name, "cut"):
        data = blocks.tobytes()
        pieces = rng.integers(0, 1 + blocks.shape[0] // 8, 12)
        output = OUTPUTS[int(rng.integers(0, 3))]
        whole = driver(path, name, output, 1, data=data)
        assert whole == driver(path, name, output, 1, *pieces, data=data), f"{output}, {list(pieces)}, {what}"


@pytest.mark.parametrize("path", PATHS)
def test_factor(path):
    """A factor is one more product, rounded to float32, for NVFP4; the other types ignore it."""
    for rng, what, blocks in streams("NVFP4", "factor"):
        factor = np.float32(rng.choice([0.5, 3e38, 1e-40, -1.75, rng.random()]))
        with np.errstate(all="ignore"):
            want = judge("NVFP4", blocks) * factor
        for output in OUTPUTS:
            bits = np.uint32 if output == "F32" else np.uint16
            got = np.frombuffer(driver(path, "NVFP4", output, repr(float(factor)), data=blocks.tobytes()), bits)
            expected = as_output(want, output)
            told = f"{output} × {factor}, {what}"
            assert np.array_equal(got, expected), explain("NVFP4", blocks, got, expected, told)
    blocks = random_blocks(np.random.default_rng(SEED), "MXFP4", 100).tobytes()
    assert driver(path, "MXFP4", "F32", 0.25, data=blocks) == driver(path, "MXFP4", "F32", 1, data=blocks)


def test_gguf_has_the_types_we_say():
    """So that a newer gguf, which may judge more types, does not go unnoticed."""
    for name, (elements, size) in TYPES.items():
        try:
            dequantize(np.zeros((1, size), np.uint8), gguf.GGMLQuantizationType[name])
            judged = True
        except (NotImplementedError, KeyError):
            judged = False
        assert judged == (name not in NOT_IN_GGUF and name not in NUMPY), name
        if judged:
            assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] == (elements, size)
