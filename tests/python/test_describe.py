# SPDX-License-Identifier: Apache-2.0
"""DescribeModel: every value type, and models far larger than a message."""
import struct

import numpy as np
import pytest

import oracle
from ggufwrite import VALUES, Array, Gguf, Raw, write_split
from harness import describe, failure, grpc, one, pb, stream

MESSAGE = 1 << 20

EXTREMES = {
    "u8": [0, 255], "i8": [-128, 127], "u16": [0, 65535], "i16": [-32768, 32767], "u32": [0, 2 ** 32 - 1],
    "i32": [-2 ** 31, 2 ** 31 - 1], "u64": [0, 2 ** 64 - 1], "i64": [-2 ** 63, 2 ** 63 - 1], "bool": [0, 1],
    "f32": [0.5, -3.4028234663852886e38, float("inf")], "f64": [0.1, 5e-324, -1.7976931348623157e308],
    "string": ["", "x", "ü" * 100, "%s%n", "<b>", "line\nline"],
}


def value_of(entry):
    kind = entry.value.WhichOneof("kind")
    value = getattr(entry.value, kind)
    return plain(value) if kind == "array_value" else value


def plain(array):
    for field in ("uint_values", "int_values", "float_values", "bool_values", "string_values"):
        if len(getattr(array, field)):
            return list(getattr(array, field))
    return [plain(a) for a in array.array_values]


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_value_type(stub, folder, order):
    path, name = folder
    g, expected = Gguf(order=order), {}
    for kind, values in EXTREMES.items():
        for i, v in enumerate(values):
            g.kv(f"{kind}.{i}", kind, v)
            expected[f"{kind}.{i}"] = (VALUES[kind][0], v)
        g.kv(f"{kind}.array", "array", Array(kind, values))
        expected[f"{kind}.array"] = (9, values)
        g.kv(f"{kind}.none", "array", Array(kind, []))
        expected[f"{kind}.none"] = (9, [])
    g.kv("deep", "array", Array("array", [Array("array", [Array("u8", [1]), Array("u8", [])]), Array("string", ["z"])]))
    expected["deep"] = (9, [[[1], []], ["z"]])
    g.write(path / "x.gguf")
    header, metadata, _, _ = describe(stub, f"{name}/x.gguf", no_tensors=True)
    assert header.metadata_count == len(metadata) == len(expected)
    for entry, (key, (type_id, value)) in zip(metadata, expected.items()):
        assert (entry.key, entry.type) == (key, type_id)
        assert not entry.truncated and not entry.repaired and entry.offset == 0
        got = value_of(entry)
        assert got == value and [type(got)] == [type(value) if type_id != 7 else bool], key
        if type_id == 9:
            assert entry.length == len(value) == entry.value.array_value.length
        if type_id == 8:
            assert entry.length == len(value.encode())
    by_key = {e.key: e for e in metadata}
    assert by_key["i16.none"].value.array_value.element_type == pb.INT16


@pytest.mark.parametrize("raw,repaired", [(b"\xff", "\ufffd"), (b"a\xc3", "a\ufffd"), (b"a\0b", "a\ufffdb"),
                                          (b"ok \xed\xa0\x80 ok", None),
                                          (b"\xf4\x90\x80\x80", None), (b"\xc0\xaf", None)])
def test_text_that_is_not_utf8(stub, folder, raw, repaired):
    path, name = folder
    Gguf().kv("text", "string", raw).kv("good", "string", "gut").kv(
        "list", "array", Array("string", [b"x", raw])).write(path / "x.gguf")
    _, metadata, _, _ = describe(stub, f"{name}/x.gguf")
    text, good, many = metadata
    assert text.repaired and not good.repaired and many.repaired
    assert "\ufffd" in text.value.string_value and "\ufffd" in many.value.array_value.string_values[1]
    if repaired is not None:
        assert text.value.string_value == repaired


def test_parts_of_metadata(stub, folder):
    path, name = folder
    def more(part, g):
        g.kv(f"only.{part}", "u32", part)
    write_split(str(path / "x"), [[("a", "F32", (1,), bytes(4))], [("b", "F32", (1,), bytes(4))]], tamper=more)
    _, metadata, _, _ = describe(stub, f"{name}/x.gguf")
    parts = {m.key: m.part for m in metadata if m.key.startswith("only.")}
    assert parts == {"only.0": 0, "only.1": 1}


def test_no_metadata_no_tensors(stub):
    header, metadata, tensors, _ = describe(stub, "sample.gguf", no_metadata=True, no_tensors=True)
    assert header.metadata_count and header.tensor_count and not metadata and not tensors
    assert describe(stub, "sample.gguf", no_metadata=True)[2]
    assert describe(stub, "sample.gguf", no_tensors=True)[1]


def test_long_values_are_cut_unless_named(stub, folder):
    path, name = folder
    text = ("0123456789ä" * 400_000)  # 4.8 MB as UTF-8
    numbers = np.arange(1_500_000, dtype="<i4")
    words = [f"w{i}" * (i % 7) for i in range(400_000)]
    packed = struct.pack("<IQ", 8, len(words)) + b"".join(struct.pack("<Q", len(w)) + w.encode() for w in words)
    Gguf().kv("text", "string", text).kv("small", "u8", 1).kv(
        "numbers", "array", Raw(struct.pack("<IQ", 5, numbers.size) + numbers.tobytes())).kv(
        "words", "array", Raw(packed)).write(path / "x.gguf")
    model = f"{name}/x.gguf"

    _, metadata, _, sizes = describe(stub, model)
    assert [m.key for m in metadata] == ["text", "small", "numbers", "words"] and max(sizes) < MESSAGE
    for m in metadata:
        assert m.truncated == (m.key != "small")
    cut = {m.key: m for m in metadata}
    assert cut["text"].length == len(text.encode()) and text.startswith(cut["text"].value.string_value)
    assert 0 < len(cut["text"].value.string_value)
    assert cut["numbers"].length == numbers.size and cut["words"].length == len(words)
    head = list(cut["numbers"].value.array_value.int_values)
    assert head == list(range(len(head))) and head

    _, metadata, _, sizes = describe(stub, model, metadata_keys=["text", "numbers", "words"])
    assert max(sizes) < MESSAGE
    whole = {"text": "", "numbers": [], "words": []}
    for m in metadata:
        if m.key == "small":
            continue
        assert not m.truncated
        if m.key == "text":
            assert m.offset == len(whole["text"].encode())
            whole["text"] += m.value.string_value
        else:
            assert m.offset == len(whole[m.key]) and m.value.array_value.length == m.length
            whole[m.key].extend(m.value.array_value.int_values or m.value.array_value.string_values)
    assert whole["text"] == text and whole["words"] == words and whole["numbers"] == list(range(numbers.size))


def test_unknown_metadata_keys(stub):
    said = failure(lambda: stub.DescribeModel(pb.DescribeModelRequest(model="sample.gguf", metadata_keys=["no.such"])),
                   grpc.StatusCode.NOT_FOUND)
    assert "metadata_keys" in said


def test_a_long_string_in_an_array(stub, folder):
    """One element larger than a message: cut without asking, whole on request or else honestly marked."""
    path, name = folder
    long = "y" * 3_000_000
    Gguf().kv("list", "array", Array("string", ["a", long, "b"])).write(path / "x.gguf")
    for keys in ([], ["list"]):
        _, metadata, _, sizes = describe(stub, f"{name}/x.gguf", metadata_keys=keys)
        assert max(sizes) < MESSAGE and all(m.length == 3 for m in metadata)
        got = [s for m in metadata for s in m.value.array_value.string_values]
        assert all(long.startswith(s) or s in ("a", "b") for s in got) and metadata[-1].key == "list"


def test_100000_tensors(server, stub, folder):
    path, name = folder
    n = 100_000
    g = Gguf()
    for i in range(n):
        g.tensor(f"blk.{i}.ffn_gate_inp_some_longer_name.weight", "F32", (2, 1, 1, 1), struct.pack("<2f", i, -i))
    g.write(path / "x.gguf")
    model = f"{name}/x.gguf"
    header, _, tensors, sizes = describe(stub, model)
    assert header.tensor_count == len(tensors) == n and max(sizes) < MESSAGE
    assert [t.index for t in tensors] == list(range(n))
    assert tensors[77_777].name.startswith("blk.77777.") and list(tensors[77_777].shape) == [1, 1, 1, 2]
    d = one(stub, model, "blk.99999.*", output_type=pb.F32)
    assert struct.unpack("<2f", d.data) == (99999, -99999)
    got = stream(stub, model, *(f"blk.{i}.ffn_gate_inp_some_longer_name.weight" for i in range(0, n, 100)),
                 output_type=pb.F32)
    assert [d.tensor.index for d in got] == list(range(0, n, 100))
    every = stream(stub, model, "*9.ffn*", output_type=pb.F32)
    assert len(every) == n // 10 and all(d.data == struct.pack("<2f", d.tensor.index, -d.tensor.index) for d in every)


def test_50_mb_of_metadata(stub, folder):
    path, name = folder
    values = np.arange(12_000_000, dtype="<f4")  # 48 MB
    words = b"".join(struct.pack("<Q", 3) + b"%03d" % (i % 1000) for i in range(400_000))  # 4.4 MB
    g = Gguf().kv("scores", "array", Raw(struct.pack("<IQ", 6, values.size) + values.tobytes()))
    g.kv("words", "array", Raw(struct.pack("<IQ", 8, 400_000) + words))
    for i in range(20_000):
        g.kv(f"key.{i}", "u32", i)
    g.tensor("a", "F32", (4,), bytes(16)).write(path / "x.gguf")
    model = f"{name}/x.gguf"
    assert (path / "x.gguf").stat().st_size > 50 << 20
    _, metadata, tensors, sizes = describe(stub, model)
    assert len(metadata) == 20_002 and max(sizes) < MESSAGE and tensors[0].name == "a"
    at, request = 0, pb.DescribeModelRequest(model=model, metadata_keys=["scores"], no_tensors=True)
    for message in stub.DescribeModel(request):
        assert message.ByteSize() < MESSAGE
        for m in message.metadata:
            if m.key == "scores":
                assert m.offset == at
                got = np.array(m.value.array_value.float_values, "<f4")
                assert (got == values[at:at + got.size]).all()
                at += got.size
    assert at == values.size


def test_empty_models(stub, folder):
    path, name = folder
    Gguf().write(path / "nothing.gguf")
    Gguf().kv("a", "u8", 1).write(path / "keys.gguf")
    header, metadata, tensors, _ = describe(stub, f"{name}/nothing.gguf")
    assert not metadata and not tensors and header.revision
    assert stream(stub, f"{name}/nothing.gguf") == []
    assert list(stub.StreamStats(pb.StreamStatsRequest(model=f"{name}/keys.gguf"))) == []


@pytest.mark.parametrize("tensor_name", ["../../etc/passwd", "/abs", "a b\tc", "%s%n", "<script>", "\u202egpj", "ä" * 32,
                                         "x" * 64, "a\nb", "__metadata__"])
def test_names_are_only_names(stub, folder, tensor_name):
    path, name = folder
    data = oracle.blocks("F32", 4)
    Gguf().tensor(tensor_name, "F32", (4,), data).write(path / "x.gguf")
    assert [t.name for t in describe(stub, f"{name}/x.gguf")[2]] == [tensor_name]
    assert one(stub, f"{name}/x.gguf", tensor_name, output_type=pb.F32).data == data
