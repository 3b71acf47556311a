# SPDX-License-Identifier: Apache-2.0
"""Writes GGUF files for tests: right ones, wrong ones, huge ones.

Only the standard library is needed, so that the sample's generator can run anywhere. Tensor data is always given
little-endian; a big-endian file swaps it field by field.

    g = Gguf()                                    # version 3, little-endian, alignment 32
    g.kv("general.name", "string", "x")
    g.tensor("a", "F32", (3, 2), data)            # GGUF's order of dimensions: the fastest first
    g.write(path)

To write a malformed file, override what the header declares (`Gguf(n_tensors=…)`), what a tensor claims (`type_id`,
`offset`), or patch the bytes that `header()` returns; `marks` says where each part of the header begins.
"""
import struct

# name: (id, elements of a block, bytes of a block, multi-byte fields as (offset, width, count))
TYPES = {
    "F32": (0, 1, 4, [(0, 4, 1)]), "F16": (1, 1, 2, [(0, 2, 1)]),
    "Q4_0": (2, 32, 18, [(0, 2, 1)]), "Q4_1": (3, 32, 20, [(0, 2, 2)]),
    "Q5_0": (6, 32, 22, [(0, 2, 1)]), "Q5_1": (7, 32, 24, [(0, 2, 2)]),
    "Q8_0": (8, 32, 34, [(0, 2, 1)]), "Q8_1": (9, 32, 36, [(0, 2, 2)]),
    "Q2_K": (10, 256, 84, [(80, 2, 2)]), "Q3_K": (11, 256, 110, [(108, 2, 1)]),
    "Q4_K": (12, 256, 144, [(0, 2, 2)]), "Q5_K": (13, 256, 176, [(0, 2, 2)]),
    "Q6_K": (14, 256, 210, [(208, 2, 1)]), "Q8_K": (15, 256, 292, [(0, 4, 1), (260, 2, 16)]),
    "IQ2_XXS": (16, 256, 66, [(0, 2, 33)]), "IQ2_XS": (17, 256, 74, [(0, 2, 33)]),
    "IQ3_XXS": (18, 256, 98, [(0, 2, 1)]), "IQ1_S": (19, 256, 50, [(0, 2, 1), (34, 2, 8)]),
    "IQ4_NL": (20, 32, 18, [(0, 2, 1)]), "IQ3_S": (21, 256, 110, [(0, 2, 1)]),
    "IQ2_S": (22, 256, 82, [(0, 2, 1)]), "IQ4_XS": (23, 256, 136, [(0, 2, 2)]),
    "I8": (24, 1, 1, []), "I16": (25, 1, 2, [(0, 2, 1)]), "I32": (26, 1, 4, [(0, 4, 1)]),
    "I64": (27, 1, 8, [(0, 8, 1)]), "F64": (28, 1, 8, [(0, 8, 1)]),
    "IQ1_M": (29, 256, 56, []), "BF16": (30, 1, 2, [(0, 2, 1)]),
    "TQ1_0": (34, 256, 54, [(52, 2, 1)]), "TQ2_0": (35, 256, 66, [(64, 2, 1)]),
    "MXFP4": (39, 32, 17, []), "NVFP4": (40, 64, 36, []),
    "Q1_0": (41, 128, 18, [(0, 2, 1)]), "Q2_0": (42, 64, 18, [(0, 2, 1)]),
}

VALUES = {  # name: (id, struct code)
    "u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"), "f32": (6, "f"),
    "bool": (7, "B"), "string": (8, None), "array": (9, None), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d"),
}


class Array:
    """A metadata array. `values` are of the named type; for "array" they are Arrays themselves."""

    def __init__(self, kind, values):
        self.kind, self.values = kind, values


class Raw:
    """Bytes written as they are: a value nobody else would write."""

    def __init__(self, data, type_id=None):
        self.data, self.type_id = data, type_id


def stored_bytes(type_name, dims):
    _, elements, size, _ = TYPES[type_name]
    n = 1
    for d in dims:
        n *= d
    return n // elements * size


def swap_blocks(type_name, data):
    """Little-endian blocks as a big-endian file stores them."""
    _, _, size, fields = TYPES[type_name]
    if not fields:
        return bytes(data)
    out = bytearray(data)
    for offset, width, count in fields:
        for i in range(count):
            at = offset + i * width
            for b in range(width):
                out[at + b::size] = data[at + width - 1 - b::size]
    return bytes(out)


class Gguf:
    def __init__(self, version=3, order="<", alignment=32, *, magic=b"GGUF", n_tensors=None, n_kv=None):
        self.version, self.order, self.alignment, self.magic = version, order, alignment, magic
        self.n_tensors, self.n_kv = n_tensors, n_kv
        self.kvs, self.tensors, self.marks = [], [], {}
        if alignment != 32:
            self.kv("general.alignment", "u32", alignment)

    def kv(self, key, kind, value):
        self.kvs.append((key.encode() if isinstance(key, str) else key, kind, value))
        return self

    def tensor(self, name, kind, dims=(), data=None, *, offset=None, type_id=None, size=None):
        """data None: a hole of the right size at the file's end or between tensors. Offsets count from the data."""
        name = name.encode() if isinstance(name, str) else name
        self.tensors.append([name, kind, tuple(dims), data, offset, type_id, size])
        return self

    def _string(self, s):
        s = s.encode() if isinstance(s, str) else s
        return struct.pack(self.order + "Q", len(s)) + s

    def _value(self, kind, value):
        if isinstance(value, Raw):
            return value.data
        if kind == "string":
            return self._string(value)
        if kind == "array":
            head = struct.pack(self.order + "IQ", VALUES[value.kind][0], len(value.values))
            code = VALUES[value.kind][1]
            if code:
                return head + struct.pack(f"{self.order}{len(value.values)}{code}", *value.values)
            return head + b"".join(self._value(value.kind, v) for v in value.values)
        return struct.pack(self.order + VALUES[kind][1], value)

    def _layout(self):
        """The offset of each tensor from the data's start, and the data's length."""
        at, offsets = 0, []
        for name, kind, dims, data, offset, _, size in self.tensors:
            if offset is None:
                offset = at
            if size is None:
                size = len(data) if data is not None else stored_bytes(kind, dims)
            offsets.append((offset, size))
            end = offset + size
            if end < 1 << 62:  # a lie about the offset moves nothing
                at = max(at, -(-end // self.alignment) * self.alignment)
        return offsets, at

    def header(self):
        o = self.order
        out = [self.magic, struct.pack(o + "I", self.version)]
        out.append(struct.pack(o + "QQ", len(self.tensors) if self.n_tensors is None else self.n_tensors,
                               len(self.kvs) if self.n_kv is None else self.n_kv))
        at = sum(map(len, out))

        def put(mark, data):
            nonlocal at
            self.marks[mark] = at
            out.append(data)
            at += len(data)

        for key, kind, value in self.kvs:
            put(("key", key), self._string(key))
            type_id = VALUES[kind][0] if not isinstance(value, Raw) or value.type_id is None else value.type_id
            put(("type", key), struct.pack(o + "I", type_id))
            put(("value", key), self._value(kind, value))
        offsets, _ = self._layout()
        for (name, kind, dims, _, _, type_id, _), (offset, _) in zip(self.tensors, offsets):
            put(("tensor", name), self._string(name))
            put(("dims", name), struct.pack(f"{o}I{len(dims)}Q", len(dims), *dims))
            put(("info", name), struct.pack(o + "IQ", TYPES[kind][0] if type_id is None else type_id, offset))
        self.marks["end"] = at
        out.append(bytes(-at % self.alignment if self.alignment > 0 else 0))
        return b"".join(out)

    def write(self, path, trailing=b""):
        header = self.header()
        offsets, _ = self._layout()
        end = len(header)
        with open(path, "wb") as f:
            f.write(header)
            for (_, kind, _, data, _, _, _), (offset, size) in zip(self.tensors, offsets):
                if size < 1 << 62 and offset < 1 << 62:
                    end = max(end, len(header) + offset + size)
                if data:
                    f.seek(len(header) + offset)
                    f.write(swap_blocks(kind, data) if self.order == ">" else data)
            f.truncate(max(end, f.seek(0, 2)))
            f.seek(0, 2)
            f.write(trailing)
        return path

    def bytes(self):
        """The whole file, for small ones; what claims to be far away is left out."""
        header = self.header()
        body = bytearray()
        for (_, kind, _, data, _, _, _), (offset, size) in zip(self.tensors, self._layout()[0]):
            if offset + size <= 1 << 26:
                body.extend(bytes(max(0, offset + size - len(body))))
                if data:
                    body[offset:offset + size] = swap_blocks(kind, data) if self.order == ">" else data
        return header + bytes(body)


def write_split(stem, parts, *, tamper=None, **options):
    """Writes stem-0000N-of-0000M.gguf from lists of (name, kind, dims, data); returns their paths.

    `tamper(part, gguf)` may change a part before it is written."""
    total = sum(map(len, parts))
    paths = []
    for no, tensors in enumerate(parts):
        g = Gguf(**options)
        if no == 0:
            g.kv("general.architecture", "string", "llama")
        g.kv("split.no", "u16", no).kv("split.count", "u16", len(parts)).kv("split.tensors.count", "i32", total)
        for t in tensors:
            g.tensor(*t)
        if tamper:
            tamper(no, g)
        paths.append(g.write(f"{stem}-{no + 1:05d}-of-{len(parts):05d}.gguf"))
    return paths
