# SPDX-License-Identifier: Apache-2.0
"""What can be asked for: names, globs, selections, slices, ranges, and requests that make no sense."""
import numpy as np
import pytest

import oracle
from ggufwrite import TYPES, Gguf, write_split
from harness import FULL, PATIENCE, failure, grpc, one, pb, stream

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND

# Shapes slowest first, as the API has them.
SHAPES = {"a.norm": ("F32", (7,)), "a.weight": ("Q8_0", (10, 96)), "a.experts": ("Q4_K", (3, 5, 512)),
          "b.weight": ("F16", (2, 3, 5, 7)), "b.norm": ("BF16", (11,)), "b*star": ("F32", (2, 3)), "*": ("I8", (4,)),
          "scalar": ("F32", ()), "none": ("F16", (4, 0)), "none.q": ("Q4_K", (0, 256))}
ALL = list(SHAPES)


@pytest.fixture(scope="module")
def shapes(models):
    """A model of odd shapes, and each tensor's data and float32 values."""
    g, held = Gguf(), {}
    for name, (kind, shape) in SHAPES.items():
        n = int(np.prod(shape, dtype=np.int64))
        data = oracle.blocks(kind, n // TYPES[kind][1], name)
        g.tensor(name, kind, tuple(reversed(shape)), data)
        held[name] = (data, oracle.decode(kind, data).reshape(shape))
    g.write(models / "shapes.gguf")
    return held


def names(stub, *patterns):
    return [d.tensor.name for d in stream(stub, "shapes.gguf", *patterns)]


# ----------------------------------------------------------------------------------------------- which tensors

@pytest.mark.parametrize("patterns,expected", [
    ((), ALL), (("a.*",), ALL[:3]), (("*.weight",), ["a.weight", "b.weight"]), (("*",), ["*"]), (("**",), ALL),
    (("b*star",), ["b*star"]), (("b*",), ["b.weight", "b.norm", "b*star"]), (("*e*e*",), ["a.experts"]),
    (("b.norm", "a.norm"), ["a.norm", "b.norm"]), (("a.norm", "a.n*", "a.norm"), ["a.norm"]),
    (("*.w*ght", "scalar"), ["a.weight", "b.weight", "scalar"]), (("none",), ["none"]), (("none*",), ["none", "none.q"])])
def test_names_and_globs(stub, shapes, patterns, expected):
    assert names(stub, *patterns) == expected


@pytest.mark.parametrize("patterns", [("nothing",), ("a.norm", "nothing"), ("z*",), ("a.*", "*.z"), ("A.norm",),
                                      ("a.norm ",), ("a.?orm",), ("[a].norm",)])
def test_names_that_match_nothing(stub, shapes, patterns):
    for call in (lambda: stub.StreamTensors(pb.StreamTensorsRequest(model="shapes.gguf", tensors=patterns)),
                 lambda: stub.StreamStats(pb.StreamStatsRequest(model="shapes.gguf", tensors=patterns))):
        assert "tensors" in failure(call, NOT_FOUND)


@pytest.mark.parametrize("name,count", [("scalar", 1), ("none", 0), ("none.q", 0)])
@pytest.mark.parametrize("output", ["F16", "BF16", "F32", "STORED"])
def test_scalars_and_nothing(stub, shapes, name, count, output):
    d = one(stub, "shapes.gguf", name, output_type=pb.OutputType.Value(output))
    assert len(d.chunks) == 1 and d.summary.bytes == len(d.data)
    assert tuple(d.tensor.output_shape) == tuple(d.tensor.shape) == SHAPES[name][1]
    assert bool(d.data) == bool(count)
    if not count:
        assert d.summary.crc32c == 0


# ------------------------------------------------------------------------------------------------- which parts

def select(stub, name, output="F32", **fields):
    """One selected tensor as an array of its output shape (bits)."""
    if "slice" in fields:
        fields["slice"] = pb.Slice(**fields["slice"])
    d = one(stub, "shapes.gguf", name, output_type=pb.OutputType.Value(output), chunk_bytes=4096,
            selections=[pb.Selection(pattern=name, **fields)])
    assert d.tensor.output_bytes == len(d.data)
    if output == "STORED":
        return d
    return oracle.as_bits(d.data, output).reshape(tuple(d.tensor.output_shape))


def check(got, expected, output="F32"):
    expected = np.ascontiguousarray(expected)
    assert got.shape == expected.shape
    oracle.assert_same(got.tobytes(), oracle.convert(expected.reshape(-1), output), output)


@pytest.mark.parametrize("name", ["a.norm", "a.weight", "a.experts", "b.weight", "scalar"])
@pytest.mark.parametrize("of", [1, 2, 3, 4, 16])
def test_slices_on_every_axis(stub, shapes, name, of):
    values = shapes[name][1]
    view = values.reshape(1) if values.ndim == 0 else values
    for axis in range(view.ndim):
        n, ranks = view.shape[axis], []
        for rank in range(of):
            cut = [slice(None)] * view.ndim
            cut[axis] = slice(n * rank // of, n * (rank + 1) // of)
            signed = axis if rank % 2 else axis - view.ndim
            got = select(stub, name, slice={"axis": signed, "rank": rank, "of": of})
            if values.ndim == 0:
                assert got.size == view[tuple(cut)].size
            else:
                check(got, view[tuple(cut)])
            ranks.append(got)
        if values.ndim:
            check(np.concatenate(ranks, axis), view)


@pytest.mark.parametrize("begin,end", [(0, 0), (0, 1), (3, 7), (9, 0), (10, 0), (0, 10)])
@pytest.mark.parametrize("output", oracle.OUTPUTS)
def test_rows(stub, shapes, begin, end, output):
    got = select(stub, "a.weight", output, row_begin=begin, row_end=end)
    check(got, shapes["a.weight"][1][begin:end or None], output)


def test_rows_count_over_all_leading_axes(stub, shapes):
    values = shapes["a.experts"][1].reshape(15, 512)
    check(select(stub, "a.experts", row_begin=4, row_end=11), values[4:11])
    got = select(stub, "a.experts", row_begin=4, row_end=11, slice={"axis": -1, "rank": 1, "of": 3})
    check(got, values[4:11, 512 // 3:1024 // 3])
    values = shapes["b.weight"][1].reshape(30, 7)
    check(select(stub, "b.weight", row_begin=29), values[29:])
    check(select(stub, "a.norm", row_begin=0, row_end=1), shapes["a.norm"][1].reshape(1, 7))


def test_stored_slices_are_whole_blocks(stub, shapes):
    data = np.frombuffer(shapes["a.experts"][0], np.uint8).reshape(3, 5, 2, 144)
    d = select(stub, "a.experts", "STORED", slice={"axis": 2, "rank": 1, "of": 2})
    assert d.data == data[:, :, 1:].tobytes() and list(d.tensor.output_shape) == [3, 5, 256]
    d = select(stub, "a.experts", "STORED", slice={"axis": 1, "rank": 1, "of": 2})
    assert d.data == data[:, 2:].tobytes()
    d = select(stub, "a.experts", "STORED", row_begin=3, row_end=4)
    assert d.data == data.reshape(15, 288)[3].tobytes()
    for rank in range(3):
        said = failure(lambda r=rank: stub.StreamTensors(pb.StreamTensorsRequest(
            model="shapes.gguf", tensors=["a.experts"], output_type=pb.STORED,
            selections=[pb.Selection(pattern="a.experts", slice=pb.Slice(axis=-1, rank=r, of=3))])), INVALID)
        assert "slice" in said and "256" in said


def test_each_tensor_its_own_selection(stub, shapes):
    """An exact name beats a glob, among equals the first counts, and what nothing matches is delivered whole."""
    got = stream(stub, "shapes.gguf", "a.*", "b.norm", output_type=pb.F16, selections=[
        pb.Selection(pattern="a.*", slice=pb.Slice(axis=0, rank=0, of=2), output_type=pb.AS_BF16),
        pb.Selection(pattern="*.weight", output_type=pb.AS_STORED),
        pb.Selection(pattern="a.norm", output_type=pb.AS_F32),
        pb.Selection(pattern="a.norm", output_type=pb.AS_STORED)])
    values = {k: v[1] for k, v in shapes.items()}
    by_name = {d.tensor.name: d for d in got}
    for name, output, expected in [("a.norm", "F32", values["a.norm"]), ("a.weight", "BF16", values["a.weight"][:5]),
                                   ("a.experts", "BF16", values["a.experts"][:1]), ("b.norm", "F16", values["b.norm"])]:
        d = by_name[name]
        assert d.tensor.output_type == pb.OutputType.Value(output) and tuple(d.tensor.output_shape) == expected.shape
        oracle.assert_same(d.data, oracle.convert(np.ascontiguousarray(expected).reshape(-1), output), output, name)
    names = [d.tensor.name for d in stream(stub, "shapes.gguf", output_type=pb.F32, selections=[
        pb.Selection(pattern="*", output_type=pb.AS_BF16)]) if d.tensor.output_type == pb.BF16]
    assert names == ["*"], "the pattern '*' is the tensor of that name here"


# ------------------------------------------------------------------------------------------------------ ranges

def test_ranges_count_bytes_of_the_selected_output(stub, shapes):
    index = ALL.index("a.experts")
    selection = pb.Selection(pattern="a.experts", slice=pb.Slice(axis=1, rank=1, of=2), output_type=pb.AS_F32)
    whole = one(stub, "shapes.gguf", "a.experts", selections=[selection]).data
    total = len(whole)
    cuts = [(0, 4), (4, 0), (total - 4, total), (1000, 10000), (0, total), (total, 0), (8, 8)]
    got = stream(stub, "shapes.gguf", selections=[selection], chunk_bytes=4096,
                 ranges=[pb.Range(tensor_index=index, begin=a, end=b) for a, b in cuts])
    assert len(got) == len(cuts)
    for d, (a, b) in zip(got, cuts):
        end = b or total
        assert d.begin == a and d.data == whole[a:end] and d.tensor.output_bytes == total


def test_resuming_in_the_middle(stub, models, rng):
    """A client that breaks off after any chunk and asks for the rest ends up with the same bytes."""
    data = oracle.blocks("Q4_K", 2000, 1)
    Gguf().tensor("x", "Q4_K", (256 * 20, 100), data).write(models / "resume.gguf")
    whole = oracle.convert(oracle.decode("Q4_K", data), "F16").tobytes()
    for _ in range(50 if FULL else 5):
        got, chunk = b"", rng.choice([4096, 5000, 65536, 1 << 20])
        while len(got) < len(whole):
            call = stub.StreamTensors(pb.StreamTensorsRequest(
                model="resume.gguf", chunk_bytes=chunk, ranges=[pb.Range(tensor_index=0, begin=len(got))]))
            for _ in range(rng.randrange(1, 80)):
                try:
                    c = next(call)
                except StopIteration:
                    break
                assert c.offset == len(got)
                got += c.data
            call.cancel()
        assert got == whole


# ------------------------------------------------------------------------------ requests that make no sense

def selection(**fields):
    s = fields.pop("slice", None)
    return pb.Selection(pattern=fields.pop("pattern", "a.weight"), slice=pb.Slice(**s) if s else None, **fields)


def a_range(**fields):
    return {"ranges": [pb.Range(**{"tensor_index": 1, **fields})]}  # a.weight: 10 x 96, 1920 bytes as F16


@pytest.mark.parametrize("code,field,request_fields", [
    (INVALID, "model", {"model": ""}),
    (INVALID, "output_type", {"output_type": 4}),
    (INVALID, "output_type", {"output_type": -1}),
    (INVALID, "chunk_bytes", {"chunk_bytes": 1}),
    (INVALID, "chunk_bytes", {"chunk_bytes": 1 << 40}),
    (INVALID, "chunk_bytes", {"chunk_bytes": (1 << 64) - 1}),
    (INVALID, "tensors", {"tensors": [""]}),
    (INVALID, "pattern", {"selections": [selection(pattern="")]}),
    (NOT_FOUND, "pattern", {"selections": [selection(pattern="nothing")]}),
    (NOT_FOUND, "pattern", {"selections": [selection(pattern="nothing*")]}),
    (INVALID, "row_begin", {"selections": [selection(row_begin=11)]}),
    (INVALID, "row_end", {"selections": [selection(row_begin=0, row_end=11)]}),
    (INVALID, "row_begin", {"selections": [selection(row_begin=5, row_end=4)]}),
    (INVALID, "row_end", {"selections": [selection(row_begin=1, row_end=(1 << 64) - 1)]}),
    (INVALID, "axis", {"selections": [selection(slice={"axis": 2, "rank": 0, "of": 2})]}),
    (INVALID, "axis", {"selections": [selection(slice={"axis": -3, "rank": 0, "of": 2})]}),
    (INVALID, "axis", {"selections": [selection(slice={"axis": -2147483648, "rank": 0, "of": 2})]}),
    (INVALID, "rank", {"selections": [selection(slice={"axis": 0, "rank": 2, "of": 2})]}),
    (INVALID, "rank", {"selections": [selection(slice={"axis": 0, "rank": 4294967295, "of": 4294967295})]}),
    (INVALID, "of", {"selections": [selection(slice={"axis": 0, "rank": 1})]}),
    (INVALID, "axis", {"selections": [selection(row_begin=1, row_end=3, slice={"axis": 0, "rank": 0, "of": 2})]}),
    (INVALID, "output_type", {"selections": [selection(output_type=5)]}),
    (INVALID, "tensor_index", {"ranges": [pb.Range(tensor_index=len(ALL))]}),
    (INVALID, "tensor_index", {"ranges": [pb.Range(tensor_index=(1 << 64) - 1)]}),
    (INVALID, "tensor_index", {"tensors": ["a.norm"], **a_range()}),
    (INVALID, "begin", a_range(begin=1)),
    (INVALID, "begin", a_range(begin=1922)),
    (INVALID, "end", a_range(begin=0, end=3)),
    (INVALID, "end", a_range(begin=0, end=1922)),
    (INVALID, "begin", a_range(begin=4, end=2)),
    (INVALID, "begin", {"output_type": pb.STORED, **a_range(begin=2)}),
    (INVALID, "end", {"output_type": pb.F32, **a_range(begin=0, end=2)}),
    (INVALID, "begin", a_range(begin=(1 << 64) - 2)),
], ids=str)
def test_bad_requests_name_the_field(stub, shapes, code, field, request_fields):
    request = pb.StreamTensorsRequest(**{"model": "shapes.gguf", **request_fields})
    said = failure(lambda: stub.StreamTensors(request, timeout=PATIENCE), code)
    assert field in said


@pytest.mark.parametrize("method,request_type", [("DescribeModel", pb.DescribeModelRequest),
                                                 ("StreamTensors", pb.StreamTensorsRequest),
                                                 ("StreamStats", pb.StreamStatsRequest)])
def test_models_that_are_not_there(stub, method, request_type):
    for model in ("nothing.gguf", "no/such/folder.gguf", "sample.gguf/inside", "x" * 255, "x" * 3000):
        failure(lambda m=model: getattr(stub, method)(request_type(model=m), timeout=PATIENCE), NOT_FOUND,
                grpc.StatusCode.INVALID_ARGUMENT)
    assert "model" in failure(lambda: getattr(stub, method)(request_type(), timeout=PATIENCE), INVALID)


def test_too_many_globs(stub, shapes):
    request = pb.StreamTensorsRequest(model="shapes.gguf", tensors=["a*"] * 100_000)
    failure(lambda: stub.StreamTensors(request), INVALID, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_list_models(stub, models, folder):
    path, name = folder
    (path / "deep").mkdir()
    one_tensor = [("a", "F32", (4,), bytes(16))]
    write_split(str(path / "deep/split"), [one_tensor, [("b", "F32", (4,), bytes(16))], []])
    write_split(str(path / "holes"), [one_tensor, []])
    (path / "holes-00001-of-00002.gguf").unlink()
    for f in ("z.gguf", "A.gguf", "ü.gguf", "a.txt", ".hidden.gguf"):
        Gguf().write(path / f)
    (path / "not-a-model.gguf").write_bytes(b"")
    got = {m.model[len(name) + 1:]: m for m in stub.ListModels(pb.ListModelsRequest(prefix=f"{name}/"))}
    assert [k for k in got if not k.startswith(".")] == sorted(
        ["A.gguf", "deep/split.gguf", "holes.gguf", "not-a-model.gguf", "z.gguf", "ü.gguf"], key=str.encode)
    assert (got["deep/split.gguf"].parts, got["deep/split.gguf"].parts_missing) == (3, 0)
    assert got["deep/split.gguf"].bytes == sum(f.stat().st_size for f in (path / "deep").iterdir())
    assert got["holes.gguf"].parts_missing == 1
    assert got["z.gguf"].parts == 1 and got["z.gguf"].bytes == (path / "z.gguf").stat().st_size
    assert not list(stub.ListModels(pb.ListModelsRequest(prefix="nothing like this")))
    everything = [m.model for m in stub.ListModels(pb.ListModelsRequest())]
    assert "sample.gguf" in everything and f"{name}/z.gguf" in everything
    assert everything == sorted(everything, key=str.encode) and len(set(everything)) == len(everything)
