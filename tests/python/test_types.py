# SPDX-License-Identifier: Apache-2.0
"""Every type, as every output, bit for bit: random and adversarial blocks, any cut into chunks, every kind of file."""
import numpy as np
import pytest

import oracle
from ggufwrite import TYPES, Gguf, write_split
from harness import FULL, describe, failure, grpc, needs_cpu, one, pb, pb_grpc, stream

# Bytes that make the worst scales in whatever field they fall on: zeros, NaN, infinities, subnormals, the extremes.
ADVERSARIAL = [0x00, 0xFF, 0x7F, 0x80, 0x01, 0x7C, 0xFC, 0x3C]


def adversarial(kind):
    size = TYPES[kind][2]
    rows = [bytes([b]) * size for b in ADVERSARIAL]
    rows += [bytes([a, b] * size)[:size] for a in ADVERSARIAL for b in ADVERSARIAL]
    return b"".join(rows)


def whole_rows(kind, data, rows):
    """(dims, data) of a matrix with that many rows, cut from data."""
    _, elements, size, _ = TYPES[kind]
    per_row = len(data) // size // rows
    return (per_row * elements, rows), data[:per_row * rows * size]


def all_types(order="<", version=3, alignment=32, only=None, wild=True, scramble=False):
    """A file of every type, and what it holds: {name: (kind, data, dims)}."""
    held = {}
    for kind in only or TYPES:
        blocks = max(8, 4096 // TYPES[kind][1])
        for what, data in [("random", oracle.blocks(kind, blocks, wild=wild)), ("worst", adversarial(kind))]:
            dims, data = whole_rows(kind, data, 4)
            held[f"{kind.lower()}.{what}"] = (kind, data, dims)
    g = Gguf(version, order, alignment)
    g.kv("general.architecture", "string", "test")
    place, at = {}, 0
    for name in (reversed(held) if scramble else held):  # data in another order than the directory, and with gaps
        place[name] = at
        at += -(-len(held[name][1]) // alignment) * alignment + (alignment * 3 if scramble else 0)
    for name, (kind, data, dims) in held.items():
        g.tensor(name, kind, dims, data, offset=place[name])
    return g, held


@pytest.fixture(scope="module")
def everything(models):
    g, held = all_types()
    g.write(models / "everything.gguf")
    return "everything.gguf", held


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("output", oracle.OUTPUTS)
def test_bit_for_bit(stub, everything, kind, output):
    model, held = everything
    for d in stream(stub, model, f"{kind.lower()}.*", output_type=pb.OutputType.Value(output)):
        _, data, dims = held[d.tensor.name]
        values = oracle.decode(kind, data)
        oracle.assert_same(d.data, oracle.convert(values, output), output, d.tensor.name)
        assert (d.summary.overflows, d.summary.nans, d.summary.infinities) == oracle.counts(values, output)
        assert list(d.tensor.output_shape) == list(d.tensor.shape) == list(reversed(dims))
        assert d.tensor.output_bytes == len(d.data) == d.tensor.elements * oracle.ELEMENT_BYTES[output]


def test_stored_is_the_file(stub, everything):
    model, held = everything
    for d in stream(stub, model, output_type=pb.STORED):
        kind, data, _ = held[d.tensor.name]
        assert d.data == data
        assert (d.tensor.block_elements, d.tensor.block_bytes) == TYPES[kind][1:3]
        assert d.tensor.byte_order == pb.LITTLE_ENDIAN and d.tensor.output_type == pb.STORED
        assert not (d.summary.nans or d.summary.overflows)


@pytest.mark.parametrize("shape", ["v2", "big-endian", "big-endian v2", "alignment 8", "alignment 64", "alignment 4096",
                                   "scrambled"])
def test_every_kind_of_file(stub, folder, shape):
    path, name = folder
    options = {"v2": {"version": 2}, "big-endian": {"order": ">"}, "big-endian v2": {"order": ">", "version": 2},
               "alignment 8": {"alignment": 8}, "alignment 64": {"alignment": 64},
               "alignment 4096": {"alignment": 4096}, "scrambled": {"scramble": True}}[shape]
    g, held = all_types(**options)
    g.write(path / "x.gguf", trailing=b"more than the tensors need")
    header, _, tensors, _ = describe(stub, f"{name}/x.gguf")
    big = options.get("order") == ">"
    assert header.byte_order == (pb.BIG_ENDIAN if big else pb.LITTLE_ENDIAN)
    assert header.format_version == options.get("version", 3) and header.alignment == options.get("alignment", 32)
    assert [t.name for t in tensors] == list(held)
    for output in ("F16", "F32"):
        for d in stream(stub, f"{name}/x.gguf", output_type=pb.OutputType.Value(output)):
            kind, data, _ = held[d.tensor.name]
            oracle.assert_same(d.data, oracle.convert(oracle.decode(kind, data), output), output, d.tensor.name)
    raw = (path / "x.gguf").read_bytes()
    for d in stream(stub, f"{name}/x.gguf", output_type=pb.STORED):  # as the file has it, in the file's byte order
        assert d.data == raw[d.tensor.offset:][:len(d.data)] and d.tensor.byte_order == header.byte_order


@pytest.mark.parametrize("chunk", ["least", 4096 + 2, 70000, 1 << 20])
@pytest.mark.parametrize("output", ["F16", "F32", "STORED"])
def test_chunk_sizes(server, stub, everything, chunk, output):
    model, held = everything
    chunk = server.info().limits.min_chunk_bytes if chunk == "least" else chunk
    for d in stream(stub, model, output_type=pb.OutputType.Value(output), chunk_bytes=chunk):
        kind, data, _ = held[d.tensor.name]
        grain = TYPES[kind][2] if output == "STORED" else oracle.ELEMENT_BYTES[output]
        assert all(len(c) % grain == 0 for c in d.chunks), "a chunk never splits an element or a block"
        if output == "STORED":
            assert d.data == data
        else:
            oracle.assert_same(d.data, oracle.convert(oracle.decode(kind, data), output), output, d.tensor.name)


def test_chunks_as_large_as_they_get(server, stub, models):
    """A client that asks for more than 4 MiB a chunk has raised its own limit."""
    limit = server.info().limits.max_chunk_bytes
    data = oracle.blocks("Q8_0", 3 * limit // 128)
    Gguf().tensor("x", "Q8_0", (32 * 3, limit // 128), data).write(models / "large-chunks.gguf")
    channel = server.channel([("grpc.max_receive_message_length", -1)])
    d = one(pb_grpc.WeightServiceStub(channel), "large-chunks.gguf", "x", chunk_bytes=limit)
    assert max(map(len, d.chunks)) == limit and len(d.data) == 3 * limit // 2
    oracle.assert_same(d.data, oracle.convert(oracle.decode("Q8_0", data), "F16"), "F16")
    # Up to 4 MiB nobody has to raise anything.
    assert stream(stub, "large-chunks.gguf", chunk_bytes=4 << 20)


@pytest.mark.parametrize("simd", ["portable", "avx2", "avx512"])
def test_every_path_gives_the_same_bits(serve, models, everything, simd):
    needs_cpu(simd)
    model, held = everything
    s = serve(models, "--device", "cpu", env={"WEIGHTD_SIMD": simd})
    for output in oracle.OUTPUTS:
        for d in stream(s.stub, model, output_type=pb.OutputType.Value(output), chunk_bytes=65536):
            kind, data, _ = held[d.tensor.name]
            oracle.assert_same(d.data, oracle.convert(oracle.decode(kind, data), output), output, d.tensor.name)


def test_random_ranges_of_every_type(stub, everything, rng):
    """Any cut at element borders, in any order, gives the bytes of the whole."""
    model, held = everything
    index = {name: i for i, name in enumerate(held)}
    for _ in range(400 if FULL else 12):
        kind = rng.choice(list(TYPES))
        name = f"{kind.lower()}.random"
        output = rng.choice(oracle.OUTPUTS + ("STORED",))
        grain = TYPES[kind][2] if output == "STORED" else oracle.ELEMENT_BYTES[output]
        _, data, _ = held[name]
        whole = data if output == "STORED" else oracle.convert(oracle.decode(kind, data), output)
        total = len(whole) if output == "STORED" else whole.nbytes
        cuts = sorted({0, total, *(rng.randrange(total // grain) * grain for _ in range(rng.randrange(1, 9)))})
        pieces = list(zip(cuts, cuts[1:]))
        rng.shuffle(pieces)
        ranges = [pb.Range(tensor_index=index[name], begin=a, end=b) for a, b in pieces]
        got = stream(stub, model, output_type=pb.OutputType.Value(output), ranges=ranges, chunk_bytes=4096)
        assert [(d.begin, d.begin + len(d.data)) for d in got] == pieces
        joined = b"".join(d.data for d in sorted(got, key=lambda d: d.begin))
        if output == "STORED":
            assert joined == whole
        else:
            oracle.assert_same(joined, whole, output, name)


# ------------------------------------------------------------------------------------------ companion scales

def nvfp4_model(path, scale_dims, scale, *, kind="F32", suffix=".scale", order="<"):
    data = oracle.blocks("NVFP4", 8 * 2 * 3, 5)
    g = Gguf(order=order).tensor("x.weight", "NVFP4", (512, 2, 3), data)
    g.tensor(f"x{suffix}", kind, scale_dims, np.asarray(scale, "<f4" if kind == "F32" else "<f2").tobytes())
    g.write(path)
    return data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".scale", ".weight.scale"])
@pytest.mark.parametrize("scale", [[0.0123], [0.5, -3.7, 1e-3], [float("inf"), float("nan"), 0.0]])
def test_companion_scale(stub, folder, scale, suffix, order):
    path, name = folder
    data = nvfp4_model(path / "x.gguf", (len(scale),), scale, suffix=suffix, order=order)
    model = f"{name}/x.gguf"
    factor = np.repeat(np.asarray(scale, np.float32), 512 * 2 * 3 // len(scale))
    for output in oracle.OUTPUTS:
        d = one(stub, model, "x.weight", output_type=pb.OutputType.Value(output))
        assert d.tensor.companion_scale == f"x{suffix}" and d.tensor.companion_scale_applied
        values = oracle.decode("NVFP4", data, factor)
        oracle.assert_same(d.data, oracle.convert(values, output), output)
        assert (d.summary.overflows, d.summary.nans, d.summary.infinities) == oracle.counts(values, output)
        bare = one(stub, model, "x.weight", output_type=pb.OutputType.Value(output), no_companion_scale=True)
        assert not bare.tensor.companion_scale_applied
        oracle.assert_same(bare.data, oracle.convert(oracle.decode("NVFP4", data), output), output)
    stored = one(stub, model, "x.weight", output_type=pb.STORED)
    assert stored.data == data and not stored.tensor.companion_scale_applied
    # Slices and small chunks take their own factors along.
    d = one(stub, model, "x.weight", output_type=pb.F32, chunk_bytes=4096,
            selections=[pb.Selection(pattern="*", slice=pb.Slice(axis=2, rank=1, of=2))])
    expected = oracle.decode("NVFP4", data, factor).reshape(3, 2, 512)[:, :, 256:]
    oracle.assert_same(d.data, oracle.convert(np.ascontiguousarray(expected).reshape(-1), "F32"), "F32")


@pytest.mark.parametrize("dims,kind", [((2,), "F32"), ((6,), "F32"), ((0,), "F32"), ((1,), "F16")])
def test_companion_scales_that_do_not_fit(stub, folder, dims, kind):
    path, name = folder
    nvfp4_model(path / "x.gguf", dims, [1.0] * dims[0], kind=kind)
    model = f"{name}/x.gguf"
    said = failure(lambda: stub.StreamTensors(pb.StreamTensorsRequest(model=model, tensors=["x.weight"])),
                   grpc.StatusCode.FAILED_PRECONDITION)
    assert "x.weight" in said and "x.scale" in said
    assert len(one(stub, model, "x.weight", no_companion_scale=True).data) == 512 * 6 * 2
    assert one(stub, model, "x.weight", output_type=pb.STORED).data


# ------------------------------------------------------------------------------------------------- split models

def split_parts():
    kinds = ["Q4_K", "F16", "Q8_0", "NVFP4", "Q6_K", "F32", "IQ3_S"]
    tensors = [(f"t{i}.{k.lower()}", k, (512, 3), oracle.blocks(k, 1536 // TYPES[k][1], i))
               for i, k in enumerate(kinds)]
    return [tensors[:3], [], tensors[3:]]


@pytest.mark.parametrize("asked", ["x.gguf", "x-00001-of-00003.gguf", "x-00003-of-00003.gguf"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_split_models_are_one(stub, folder, asked, order):
    path, name = folder
    parts = split_parts()
    write_split(str(path / "x"), parts, order=order)
    header, _, tensors, _ = describe(stub, f"{name}/{asked}")
    assert header.model == f"{name}/x.gguf" and header.parts == 3
    assert header.file_bytes == sum(f.stat().st_size for f in path.iterdir())
    flat = [t for part in parts for t in part]
    assert [t.name for t in tensors] == [t[0] for t in flat]
    assert [t.part for t in tensors] == [0] * 3 + [2] * 4
    for d, (_, kind, _, data) in zip(stream(stub, f"{name}/{asked}"), flat, strict=True):
        oracle.assert_same(d.data, oracle.convert(oracle.decode(kind, data), "F16"), "F16", d.tensor.name)


def test_a_file_of_the_stem_name_wins(stub, folder):
    path, name = folder
    write_split(str(path / "x"), split_parts())
    Gguf().tensor("alone", "F32", (1,), bytes(4)).write(path / "x.gguf")
    assert [t.name for t in describe(stub, f"{name}/x.gguf")[2]] == ["alone"]
    assert len(describe(stub, f"{name}/x-00002-of-00003.gguf")[2]) == 7


def test_the_revision_is_the_content_not_the_inode(stub, folder):
    path, name = folder
    g = Gguf().tensor("a", "F32", (8,), bytes(32))
    g.write(path / "a.gguf")
    g.write(path / "b.gguf")
    Gguf().tensor("b", "F32", (8,), bytes(32)).write(path / "c.gguf")
    a, b, c = (describe(stub, f"{name}/{x}.gguf")[0].revision for x in "abc")
    assert a and a == b and a != c
    assert stream(stub, f"{name}/a.gguf", if_revision=a)
    assert describe(stub, f"{name}/a.gguf", if_revision=a)
    for call in (lambda: stub.StreamTensors(pb.StreamTensorsRequest(model=f"{name}/c.gguf", if_revision=a)),
                 lambda: stub.DescribeModel(pb.DescribeModelRequest(model=f"{name}/c.gguf", if_revision=a)),
                 lambda: stub.StreamStats(pb.StreamStatsRequest(model=f"{name}/c.gguf", if_revision="nonsense"))):
        assert "revision" in failure(call, grpc.StatusCode.FAILED_PRECONDITION)


def test_a_replaced_file_is_seen(stub, folder):
    path, name = folder
    Gguf().tensor("old", "F32", (8,), bytes(32)).write(path / "a.gguf")
    first = describe(stub, f"{name}/a.gguf")
    Gguf().tensor("new", "F32", (80,), bytes(320)).write(path / "new")
    (path / "new").rename(path / "a.gguf")
    second = describe(stub, f"{name}/a.gguf")
    assert first[0].revision != second[0].revision and second[2][0].name == "new"
