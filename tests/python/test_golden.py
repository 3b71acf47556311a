# SPDX-License-Identifier: Apache-2.0
"""The golden files, where WEIGHTD_GOLDEN names their folder: every one through the server and held against what is
expected of it bit for bit, and every file of bad/ against its verdict."""
import csv
import hashlib
import re

import numpy as np
import pytest
import safetensors

import oracle
from harness import GOLDEN, PATIENCE, Server, describe, failure, grpc, pb, stream

pytestmark = pytest.mark.skipif(GOLDEN is None, reason="WEIGHTD_GOLDEN is not set")
FILES = sorted(f.name for f in GOLDEN.glob("*.gguf") if not re.search(r"-\d{5}-of-", f.name)) if GOLDEN else []
BAD = sorted((GOLDEN / "bad").glob("*")) if GOLDEN and (GOLDEN / "bad").is_dir() else []


def table(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))


VERDICTS = {row["file"]: row for row in table(GOLDEN / "bad/MANIFEST.tsv")} if BAD else {}


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    s = Server(GOLDEN, tmp=tmp_path_factory.mktemp("golden"))
    yield s
    s.close()


def expectation(name):
    """The safetensors file that says what a golden file decodes to: its own, or that of the one it is a variant of."""
    for stem in (name[:-len(".gguf")], "-".join(name[:-len(".gguf")].split("-")[:-1])):
        path = GOLDEN / f"{stem}.expected.safetensors"
        if path.exists():
            return path
    return None


@pytest.mark.parametrize("name", FILES)
def test_every_tensor(golden, name):
    path = expectation(name)
    if path is None:
        header, metadata, tensors, _ = describe(golden.stub, name)
        assert header.metadata_count == len(metadata) and header.tensor_count == len(tensors)
        stream(golden.stub, name)
        return
    with safetensors.safe_open(path, framework="numpy") as expected:
        kinds = {key: expected.get_slice(key).get_dtype() for key in expected.keys()}
        for output, suffix in (("F16", ""), ("F32", ".f32")):
            delivered = stream(golden.stub, name, output_type=pb.OutputType.Value(output), no_companion_scale=True)
            assert {d.tensor.name + suffix for d in delivered} == {k for k, v in kinds.items() if v == output}
            for d in delivered:
                want = expected.get_tensor(d.tensor.name + suffix)
                shape = list(d.tensor.output_shape)
                while len(shape) > want.ndim and shape[0] == 1:
                    shape = shape[1:]
                assert shape == list(want.shape)
                bits = np.ascontiguousarray(want).reshape(-1).view(np.uint16 if output == "F16" else np.uint32)
                oracle.assert_same(d.data, bits, output, f"{name} {d.tensor.name}")


@pytest.mark.skipif(not (GOLDEN and (GOLDEN / "golden-model.expected.tsv").exists()), reason="no golden model")
@pytest.mark.parametrize("output,column", [("STORED", "sha256_raw"), ("F16", "sha256_f16"), ("F32", "sha256_f32")])
def test_the_golden_model(golden, output, column):
    rows = {row["name"]: row for row in table(GOLDEN / "golden-model.expected.tsv")}
    delivered = stream(golden.stub, "golden-model.gguf", output_type=pb.OutputType.Value(output))
    assert {d.tensor.name for d in delivered} == set(rows)
    for d in delivered:
        row = rows[d.tensor.name]
        assert "x".join(map(str, reversed(d.tensor.shape))) == row["shape_gguf_order"]
        assert d.tensor.type_name.upper() == row["type"].upper() and d.tensor.stored_bytes == int(row["nbytes"])
        assert hashlib.sha256(d.data).hexdigest() == row[column], d.tensor.name


@pytest.mark.parametrize("name", [f.name for f in BAD if f.name in VERDICTS])
def test_the_verdict_on(golden, name):
    verdict = VERDICTS[name]["expected"]

    def everything():
        describe(golden.stub, f"bad/{name}")
        stream(golden.stub, f"bad/{name}")
        list(golden.stub.StreamStats(pb.StreamStatsRequest(model=f"bad/{name}"), timeout=PATIENCE))

    if verdict == "accept":
        everything()
    elif verdict == "reject":
        for method, request in ((golden.stub.DescribeModel, pb.DescribeModelRequest(model=f"bad/{name}")),
                                (golden.stub.StreamTensors, pb.StreamTensorsRequest(model=f"bad/{name}")),
                                (golden.stub.StreamStats, pb.StreamStatsRequest(model=f"bad/{name}"))):
            said = failure(lambda m=method, r=request: m(r, timeout=PATIENCE), grpc.StatusCode.FAILED_PRECONDITION)
            assert "byte" in said, said
    else:
        assert verdict == "either", verdict
        try:
            everything()
        except grpc.RpcError as e:
            assert e.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED), e
    assert golden.alive()


@pytest.mark.skipif(not BAD, reason="no folder bad/")
def test_every_bad_file_has_a_verdict(golden):
    assert {f.name for f in BAD} - {"MANIFEST.tsv"} == {n for n in VERDICTS if not n.startswith("(")}
    assert golden.info().version
