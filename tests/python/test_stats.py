# SPDX-License-Identifier: Apache-2.0
"""StreamStats against sums of exact fractions."""
import math
from fractions import Fraction

import numpy as np
import pytest

import oracle
from ggufwrite import TYPES, Gguf
from harness import PATIENCE, pb


def expected(values):
    finite = values[np.isfinite(values)]
    half = oracle.convert(values, "F16") & 0x7FFF
    out = dict(count=values.size, nans=int(np.isnan(values).sum()),
               positive_infinities=int((values == np.inf).sum()), negative_infinities=int((values == -np.inf).sum()),
               min=0.0, max=0.0, mean=0.0, std=0.0, rms=0.0, abs_max=0.0, zeros=int((values == 0).sum()),
               f16_overflows=int((np.isfinite(values) & (half == 0x7C00)).sum()),
               f16_subnormals=int(((half > 0) & (half < 0x400)).sum()),
               f16_underflows=int((np.isfinite(values) & (values != 0) & (half == 0)).sum()))
    if finite.size:
        total = squares = 0  # of 2^-149 and 2^-298
        for v in finite.tolist():
            scaled = int(math.ldexp(1, 149) * Fraction(v)) if v else 0
            total += scaled
            squares += scaled * scaled
        n, unit = finite.size, Fraction(1, 1 << 149)
        mean, square = total * unit / n, squares * unit * unit / n
        out.update(min=float(finite.min()), max=float(finite.max()), abs_max=float(np.abs(finite).max()),
                   mean=float(mean), std=math.sqrt(float(square - mean * mean)), rms=math.sqrt(float(square)))
    bins = {}
    for negative in (True, False):
        side = np.abs(finite[(finite < 0) if negative else (finite > 0)])
        exponents = np.maximum((side.view(np.uint32) >> 23).astype(int) - 127, -127)
        for e, c in zip(*np.unique(exponents, return_counts=True)):
            bins[negative, int(e)] = int(c)
    return out, bins


def hold_against(got, values):
    fields, bins = expected(values)
    for name, value in fields.items():
        assert getattr(got, name) == value, f"{got.name}: {name} is {getattr(got, name)!r}, not {value!r}"
    assert {(b.negative, b.exponent): b.count for b in got.histogram} == bins, got.name
    order = [-(b.exponent + 1000) if b.negative else b.exponent + 1000 for b in got.histogram]
    assert order == sorted(order), "from the most negative values to the most positive"


def specials():
    tiny = np.array([0, 1, 2, 0x7FFFFF, 0x800000, 0x800001], np.uint32)
    bits = np.concatenate([tiny, tiny | 0x80000000, np.array([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7F7FFFFF,
                           0xFF7FFFFF, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x38800000, 0x387FFFFF],
                           np.uint32)])
    return bits.view(np.float32)


@pytest.fixture(scope="module")
def model(models):
    g, held = Gguf(), {}

    def add(name, kind, dims, data):
        g.tensor(name, kind, dims, data)
        held[name] = oracle.decode(kind, data)

    for kind in TYPES:
        add(f"{kind}.tame", kind, (512, 4), oracle.blocks(kind, 2048 // TYPES[kind][1], 3))
        add(f"{kind}.wild", kind, (512, 4), oracle.blocks(kind, 2048 // TYPES[kind][1], 4, wild=True))
    add("specials", "F32", (specials().size,), specials().tobytes())
    # Where naive sums go wrong: big values that cancel, small ones that remain.
    cancelling = np.array([1e38, 1.0, -1e38, 3e-39, 2.0 ** 60, -2.0 ** 60, 0.1] * 999, np.float32)
    add("cancelling", "F32", (cancelling.size,), cancelling.tobytes())
    add("constant", "F32", (10_001,), np.full(10_001, 0.1, np.float32).tobytes())
    add("nothing finite", "F32", (3,), np.array([np.nan, np.inf, -np.inf], np.float32).tobytes())
    add("zeros", "F32", (2,), np.array([0.0, -0.0], np.float32).tobytes())
    add("empty", "F32", (0,), b"")
    add("one", "F16", (), np.float16(-0.375).tobytes())
    add("large", "F16", (1 << 20,), oracle.blocks("F16", 1 << 20, 7))
    g.write(models / "stats.gguf")
    return held


def stats(stub, *tensors, **fields):
    return list(stub.StreamStats(pb.StreamStatsRequest(model="stats.gguf", tensors=tensors, **fields),
                                 timeout=PATIENCE))


def test_against_exact_sums(stub, model):
    got = stats(stub)
    assert [s.name for s in got] == list(model)
    for i, s in enumerate(got):
        assert s.tensor_index == i
        hold_against(s, model[s.name])


def test_selecting_tensors(stub, model):
    assert [s.name for s in stats(stub, "*.wild", "one")] == [f"{k}.wild" for k in TYPES] + ["one"]


@pytest.mark.parametrize("flags,env", [(["--threads", "1"], {}), (["--threads", "3"], {}),
                                       (["--memory-budget", "16M"], {"WEIGHTD_SIMD": "portable"})])
def test_the_same_however_the_work_is_divided(serve, models, stub, model, flags, env):
    s = serve(models, *flags, "--device", "cpu", env=env)
    assert [x.SerializeToString() for x in stats(s.stub)] == [x.SerializeToString() for x in stats(stub)]


def test_companion_scales(stub):
    def one(**fields):
        return next(stub.StreamStats(pb.StreamStatsRequest(model="sample.gguf", tensors=["blk.0.attn_q.weight"],
                                                           **fields)))
    scaled, bare = one(), one(no_companion_scale=True)
    assert scaled.companion_scale_applied and not bare.companion_scale_applied
    assert scaled.abs_max == float(np.float32(bare.abs_max) * np.float32(0.0123))
