# SPDX-License-Identifier: Apache-2.0
"""The bundled sample: the file is what its generator makes, and every tensor is what the committed digests say."""
import hashlib
import subprocess
import sys

import pytest

import ggufwrite
import oracle
from harness import ROOT, SAMPLE, describe, pb, stream

ROWS = [line.split("\t") for line in (ROOT / "tests/data/sample.expected.tsv").read_text().splitlines()[1:]]


def test_the_generator_makes_the_committed_file(tmp_path):
    made = tmp_path / "sample.gguf"
    subprocess.run([sys.executable, ROOT / "tests/data/make_sample.py", made], check=True)
    assert made.read_bytes() == SAMPLE.read_bytes()
    assert len(SAMPLE.read_bytes()) <= 300_000


def test_it_holds_every_type():
    assert {row[1] for row in ROWS} == set(ggufwrite.TYPES)


def test_the_oracle_agrees_with_the_digests():
    sys.path.insert(0, str(ROOT / "tests/data"))
    import make_sample

    made = {t[0].decode(): t for t in make_sample.make().tensors}
    assert list(made) == [row[0] for row in ROWS]
    for name, kind, _, stored, *digests in ROWS:
        data, factor = made[name][3], None
        scale = made.get(name.replace(".weight", ".scale"))
        values = oracle.decode(kind, data)
        if kind == "NVFP4" and scale:
            factor = oracle.decode("F32", scale[3])
            values = oracle.decode(kind, data, factor.repeat(values.size // factor.size))
        assert hashlib.sha256(data).hexdigest() == stored
        for output, digest in zip(oracle.OUTPUTS, digests):
            assert hashlib.sha256(oracle.convert(values, output).tobytes()).hexdigest() == digest, (name, output)


@pytest.mark.parametrize("output,column", [("STORED", 3), ("F16", 4), ("BF16", 5), ("F32", 6)])
def test_the_server_delivers_the_digests(stub, output, column):
    got = stream(stub, "sample.gguf", output_type=pb.OutputType.Value(output))
    assert [d.tensor.name for d in got] == [row[0] for row in ROWS]
    for d, row in zip(got, ROWS):
        shape = "x".join(map(str, d.tensor.shape)) or "scalar"
        assert (d.tensor.type_name, shape) == (row[1], row[2])
        assert hashlib.sha256(d.data).hexdigest() == row[column], row[0]
        assert d.tensor.output_bytes == len(d.data) and d.tensor.output_type == pb.OutputType.Value(output)


def test_its_description(stub):
    header, metadata, tensors, _ = describe(stub, "sample.gguf")
    assert (header.architecture, header.name) == ("llama", "weightd sample")
    assert (header.format_version, header.alignment, header.parts) == (3, 32, 1)
    assert header.file_bytes == SAMPLE.stat().st_size
    assert header.tensor_count == len(tensors) == len(ROWS) and header.metadata_count == len(metadata)
    assert header.elements == sum(t.elements for t in tensors)
    assert header.stored_bytes == sum(t.stored_bytes for t in tensors)
    assert header.f16_bytes == 2 * header.elements
    by_name = {t.name: t for t in tensors}
    assert by_name["blk.0.attn_q.weight"].companion_scale == "blk.0.attn_q.scale"
    assert by_name["blk.0.nvfp4.weight"].companion_scale == ""
    values = {m.key: m.value for m in metadata}
    assert values["sample.u64"].uint_value == 2 ** 64 - 1 and values["sample.i64"].int_value == -2 ** 63
    assert values["sample.f64"].float_value == 0.1 and values["sample.i8"].int_value == -128
    assert values["general.description"].string_value.endswith("Grüße, 你好.")
    assert values["tokenizer.ggml.add_bos_token"].bool_value is True
    nested = values["sample.nested"].array_value
    assert nested.length == 4 and list(nested.array_values[0].uint_values) == [1, 2, 3]
    assert list(nested.array_values[1].string_values) == ["a", "b"]
    assert list(nested.array_values[2].array_values[0].float_values) == [0.5, -0.5]
    assert nested.array_values[3].length == 0 and nested.array_values[3].element_type == pb.INT64
    assert list(values["sample.flags"].array_value.bool_values) == [True, False, True]
