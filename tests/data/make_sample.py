#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the bundled sample: `make_sample.py [OUT]` writes tests/data/sample.gguf, the same bytes every time.

A small thing shaped like a model: every tensor type, one to three dimensions, a scalar, an empty tensor, NVFP4 with one
companion scale, with one per matrix and with none, and every kind of metadata value. The values are random and tame: no
NaN, no infinity. What every tensor decodes to stands in sample.expected.tsv, made with an implementation that
shares no code with weightd or with its tests.
"""
import hashlib
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))
from ggufwrite import TYPES, Array, Gguf, stored_bytes  # noqa: E402

WIDTH = 512
# Where FP16 scales stand in a block of each type.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q8_1": (0, 2), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,),
    "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_S": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
    "Q1_0": (0,), "Q2_0": (0,),
}


def randoms(seed, n):
    return hashlib.shake_256(seed.encode()).digest(n)


def weights(seed, n):
    """n numbers like a layer's weights: bell-shaped, around zero, below 0.25."""
    raw = struct.unpack(f"<{4 * n}h", randoms(seed, 8 * n))
    return [sum(raw[i:i + 4]) / (1 << 19) for i in range(0, 4 * n, 4)]


def tensor_data(name, kind, dims):
    size = stored_bytes(kind, dims)
    n = size // TYPES[kind][2] * TYPES[kind][1]
    if kind == "F32":
        return struct.pack(f"<{n}f", *weights(name, n))
    if kind == "F64":
        return struct.pack(f"<{n}d", *weights(name, n))
    if kind == "F16":
        return struct.pack(f"<{n}e", *weights(name, n))
    if kind == "BF16":
        full = struct.pack(f"<{n}f", *weights(name, n))
        return b"".join(full[i + 2:i + 4] for i in range(0, len(full), 4))
    if kind in ("I16", "I32", "I64"):  # small enough to be finite as FP16
        return struct.pack(f"<{n}{'hiq'[('I16', 'I32', 'I64').index(kind)]}",
                           *struct.unpack(f"<{n}h", randoms(name, 2 * n)))
    data = bytearray(randoms(name, size))
    step = TYPES[kind][2]
    for at in HALVES.get(kind, ()):
        for i in range(at, size, step):  # an exponent between 2^-10 and 2^-7, either sign
            data[i + 1] = data[i + 1] & 0x83 | 0x14 | data[i + 1] & 0x08
    for i in range(0, size, step):
        if kind == "Q8_K":
            data[i:i + 4] = struct.pack("<f", (data[i] + 1) / 65536)
        elif kind == "IQ1_M":  # the scale's top nibble stands in the last byte
            data[i + 55] = data[i + 55] & 0x0F | 0x10
        elif kind == "MXFP4":
            data[i] = 118 + data[i] % 4
        elif kind == "NVFP4":
            for j in range(4):
                data[i + j] = 0x08 + data[i + j] % 0x28
    return bytes(data)


def make():
    g = Gguf()
    g.kv("general.architecture", "string", "llama")
    g.kv("general.name", "string", "weightd sample")
    g.kv("general.description", "string", "Random tensors of every type, to try weightd with. Grüße, 你好.")
    g.kv("general.license", "string", "apache-2.0")
    g.kv("general.file_type", "u32", 15)
    g.kv("general.quantization_version", "u32", 2)
    g.kv("llama.block_count", "u32", 1)
    g.kv("llama.context_length", "u32", 2048)
    g.kv("llama.embedding_length", "u32", WIDTH)
    g.kv("llama.rope.freq_base", "f32", 10000.0)
    g.kv("tokenizer.ggml.model", "string", "llama")
    g.kv("tokenizer.ggml.tokens", "array", Array("string", ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]))
    g.kv("tokenizer.ggml.scores", "array", Array("f32", [-float(i) for i in range(259)]))
    g.kv("tokenizer.ggml.token_type", "array", Array("i32", [2, 3, 3] + [6] * 256))
    g.kv("tokenizer.ggml.add_bos_token", "bool", 1)
    for kind, value in [("u8", 255), ("i8", -128), ("u16", 65535), ("i16", -32768), ("i32", -2147483648),
                        ("u64", 2 ** 64 - 1), ("i64", -2 ** 63), ("f64", 0.1)]:
        g.kv(f"sample.{kind}", kind, value)
    g.kv("sample.nested", "array", Array("array", [Array("u8", [1, 2, 3]), Array("string", ["a", "b"]),
                                                   Array("array", [Array("f64", [0.5, -0.5])]), Array("i64", [])]))
    g.kv("sample.flags", "array", Array("bool", [1, 0, 1]))

    def add(name, kind, *dims):
        g.tensor(name, kind, dims, tensor_data(name, kind, dims))

    add("token_embd.weight", "Q4_K", WIDTH, 16)
    add("output_norm.weight", "F32", WIDTH)
    for kind in TYPES:
        if kind != "NVFP4":
            add(f"blk.0.{kind.lower()}.weight", kind, WIDTH, 3)
    add("blk.0.ffn_up_exps.weight", "Q5_K", WIDTH, 2, 3)
    # NVFP4 bare, with one factor, and with one per matrix of the last dimension.
    add("blk.0.nvfp4.weight", "NVFP4", WIDTH, 3)
    add("blk.0.attn_q.weight", "NVFP4", WIDTH, 3)
    g.tensor("blk.0.attn_q.scale", "F32", (1,), struct.pack("<f", 0.0123))
    add("blk.0.ffn_down_exps.weight", "NVFP4", WIDTH, 2, 3)
    g.tensor("blk.0.ffn_down_exps.scale", "F32", (3,), struct.pack("<3f", 0.5, -0.0371, 1.75))
    g.tensor("blk.0.scalar", "F32", (), struct.pack("<f", 3.140625))
    g.tensor("blk.0.empty", "F16", (0, 4), b"")
    add("blk.0.odd.weight", "F16", 7, 5, 3)
    return g


if __name__ == "__main__":
    make().write(sys.argv[1] if len(sys.argv) > 1 else HERE / "sample.gguf")
