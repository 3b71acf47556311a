#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The golden files on a GPU: golden.py FOLDER LIBRARY

Decodes every tensor of every golden file in FOLDER through the launch API and holds it bit for bit against what is
expected of it (any NaN for a NaN). Needs Python's standard library and a GPU, nothing else.
"""
import hashlib
import json
import pathlib
import re
import struct
import sys

sys.path += [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2] / "cuda/examples")]
import dequantize  # noqa: E402

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class Reader:
    """A well-formed little-endian GGUF file."""

    def __init__(self, data):
        self.data, self.at = data, 4
        self.version, tensors, values = self.take("IQQ")
        alignment = 32
        for _ in range(values):
            key = self.string()
            value = self.value(self.take("I")[0])
            alignment = value if key == b"general.alignment" else alignment
        self.tensors = []
        for _ in range(tensors):
            name = self.string().decode()
            shape = self.take(f"{self.take('I')[0]}Q")
            self.tensors.append((name, shape, *self.take("IQ")))
        self.start = -(-self.at // alignment) * alignment

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def string(self):
        size, = self.take("Q")
        self.at += size
        return self.data[self.at - size:self.at]

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, count = self.take("IQ")
            return [self.value(kind) for _ in range(count)]
        return self.take(SCALARS[kind])[0]


def expectations(path):
    data = path.read_bytes()
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    return {k: data[8 + size:][slice(*v["data_offsets"])] for k, v in header.items() if k != "__metadata__"}


def same(got, want, output):
    """Where NaN is expected any NaN will do."""
    if got == want:
        return True
    form, infinity, sign = ("I", 0x7F800000, 0x80000000) if output == dequantize.F32 else ("H", 0x7C00, 0x8000)
    size = struct.calcsize(form)
    if len(got) != len(want):
        return False
    for a, b in zip(struct.unpack(f"<{len(got) // size}{form}", got), struct.unpack(f"<{len(got) // size}{form}", want)):
        if a != b and not (a & ~sign > infinity and b & ~sign > infinity):
            return False
    return True


def main():
    folder, library = pathlib.Path(sys.argv[1]), sys.argv[2]
    try:
        gpu = dequantize.Gpu(library)
    except dequantize.NoDevice as reason:
        print(f"[  SKIPPED ] golden: {reason}")
        return 0
    sums = {}
    for table in folder.glob("*.expected.tsv"):
        for line in table.read_text().splitlines()[1:]:
            row = line.split("\t")
            sums[table.name.split(".")[0], row[0]] = row[5:7]
    failed = 0
    for path in sorted(folder.glob("*.gguf")):
        data = path.read_bytes()
        stem = path.name[:-len(".gguf")]
        model = re.sub(r"-\d{5}-of-\d{5}$", "", stem)
        candidates = (folder / f"{s}.expected.safetensors" for s in (stem, stem.rpartition("-")[0]))
        expected = next((expectations(c) for c in candidates if c.exists()), {})
        if struct.unpack_from("<I", data, 4)[0] > 0xFFFF:
            print(f"[  SKIPPED ] {path.name}: big-endian, which is turned before it comes to the GPU")
            continue
        reader = Reader(data)
        compared, wrong = 0, []
        for name, shape, kind, offset in reader.tensors:
            elements = 1
            for n in shape:
                elements *= n
            block, size = gpu.api.wd_dequant_block_elements(kind), gpu.api.wd_dequant_block_bytes(kind)
            stored = data[reader.start + offset:][:elements // block * size]
            for output, suffix, column in ((dequantize.F16, "", 0), (dequantize.F32, ".f32", 1)):
                got = gpu.dequantize(kind, stored, elements, output)
                if name + suffix in expected:
                    right = same(got, expected[name + suffix], output)
                elif (model, name) in sums:
                    right = hashlib.sha256(got).hexdigest() == sums[model, name][column]
                else:
                    continue
                compared += 1
                wrong += [] if right else [name + suffix]
        verdict = "[  FAILED  ]" if wrong else "[       OK ]"
        print(f"{verdict} {path.name}: {compared} tensors compared" + (f", these differ: {wrong}" if wrong else ""))
        failed += bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
