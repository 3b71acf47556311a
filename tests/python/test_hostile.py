# SPDX-License-Identifier: Apache-2.0
"""Files and paths meant to hurt. Each is refused with a reason, and the server goes on serving."""
import os
import pathlib
import shutil
import socket
import struct
import tempfile

import pytest

import oracle
from ggufwrite import TYPES, Array, Gguf, Raw, write_split
from harness import FULL, PATIENCE, WEIGHTD, WRAPPER, Server, describe, failure, grpc, pb, stream

CODE = grpc.StatusCode
REFUSED = CODE.FAILED_PRECONDITION


def ask(stub, model):
    return stub.DescribeModel(pb.DescribeModelRequest(model=model), timeout=PATIENCE)


def refused(stub, path, name, data, what="x.gguf"):
    (path / what).write_bytes(data)
    said = failure(lambda: ask(stub, f"{name}/{what}"), REFUSED)
    for call in (stub.StreamTensors(pb.StreamTensorsRequest(model=f"{name}/{what}")),
                 stub.StreamStats(pb.StreamStatsRequest(model=f"{name}/{what}"))):
        failure(lambda c=call: c, REFUSED)
    return said


def valid():
    g = Gguf().kv("general.architecture", "string", "llama").kv("n", "u32", 7)
    g.kv("list", "array", Array("string", ["a", "bc"])).kv("nested", "array", Array("array", [Array("i16", [1, 2])]))
    g.tensor("a.weight", "Q4_0", (64, 2), oracle.blocks("Q4_0", 4))
    return g.tensor("b", "F32", (3,), oracle.blocks("F32", 3))


# ----------------------------------------------------------------------------------------------------- files

def test_truncated_at_every_byte(stub, folder):
    path, name = folder
    data = valid().bytes()
    for cut in range(len(data)):
        said = refused(stub, path, name, data[:cut]) if cut % 16 == 0 else None
        if said is None:
            (path / "x.gguf").write_bytes(data[:cut])
            said = failure(lambda: ask(stub, f"{name}/x.gguf"), REFUSED)
        assert "byte" in said and "x.gguf" in said, said
    (path / "x.gguf").write_bytes(data)
    assert describe(stub, f"{name}/x.gguf")


def test_mutations(server, stub, folder, rng):
    """One to four bytes of a header changed: whatever comes of it, it comes in order."""
    path, name = folder
    data = valid().bytes()
    end = len(data) - 12 - 128
    allowed = (REFUSED, CODE.RESOURCE_EXHAUSTED)
    for i in range(20_000 if FULL else 400):
        mutant = bytearray(data)
        for _ in range(rng.randrange(1, 5)):
            mutant[rng.randrange(end)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        (path / "m.gguf").write_bytes(mutant)
        for call in (ask(stub, f"{name}/m.gguf"),
                     stub.StreamTensors(pb.StreamTensorsRequest(model=f"{name}/m.gguf"), timeout=PATIENCE)):
            try:
                list(call)
            except grpc.RpcError as e:
                assert e.code() in allowed, (e, mutant.hex())
    assert server.alive()


def patch(at, what):
    """The valid file with the bytes at a mark replaced."""
    g = valid()
    data = bytearray(g.bytes())
    offset = g.marks[at[:2]] + (at[2] if len(at) > 2 else 0)
    data[offset:offset + len(what)] = what
    return bytes(data)


def u32(v):
    return struct.pack("<I", v)


def u64(v):
    return struct.pack("<Q", v)


WRONG = {
    "empty file": b"", "magic": b"GGML" + valid().bytes()[4:], "magic lower": b"gguf" + valid().bytes()[4:],
    **{f"version {v}": Gguf(v).bytes() for v in (0, 1, 4, 99, 2 ** 31, 2 ** 32 - 1)},
    **{f"{n} tensors": Gguf(n_tensors=n).bytes() for n in (1, 2 ** 32, 2 ** 61, 2 ** 63, 2 ** 64 - 1)},
    **{f"{n} keys": Gguf(n_kv=n).bytes() for n in (1, 2 ** 32, 2 ** 61, 2 ** 63, 2 ** 64 - 1)},
    "empty key": Gguf().kv("", "u8", 1).bytes(),
    "key twice": Gguf().kv("a", "u8", 1).kv("a", "u8", 2).bytes(),
    "key not UTF-8": Gguf().kv(b"\xff\xfe", "u8", 1).bytes(),
    "key with NUL": Gguf().kv(b"a\0b", "u8", 1).bytes(),
    **{f"value type {t}": Gguf().kv("a", "u8", Raw(b"\0" * 64, t)).bytes() for t in (13, 255, 2 ** 31, 2 ** 32 - 1)},
    **{f"array of type {t}": Gguf().kv("a", "array", Raw(struct.pack("<IQ", t, 2) + bytes(64))).bytes()
       for t in (13, 99, 2 ** 32 - 1)},
    **{f"array of {n} of type {t}": Gguf().kv("a", "array", Raw(struct.pack("<IQ", t, n) + bytes(64))).bytes()
       for t in (0, 4, 8, 9, 10) for n in (1000, 2 ** 32, 2 ** 60 + 1, 2 ** 61, 2 ** 63, 2 ** 64 - 1)},
    **{f"string of {n}": Gguf().kv("a", "string", Raw(u64(n) + bytes(64))).bytes()
       for n in (1000, 2 ** 32, 2 ** 63, 2 ** 64 - 1, 2 ** 64 - 24)},
    "alignment 0": Gguf().kv("general.alignment", "u32", 0).tensor("a", "F32", (8,), bytes(32)).bytes(),
    **{f"alignment {a}": Gguf().kv("general.alignment", "u32", a).tensor("a", "F32", (8,), bytes(32)).bytes()
       for a in (3, 33, 48, 2 ** 31, 2 ** 32 - 1)},
    "alignment a string": Gguf().kv("general.alignment", "string", "32").tensor("a", "F32", (8,), bytes(32)).bytes(),
    "name empty": Gguf().tensor("", "F32", (8,), bytes(32)).bytes(),
    "name of 65": Gguf().tensor("x" * 65, "F32", (8,), bytes(32)).bytes(),
    "name with NUL": Gguf().tensor(b"a\0b", "F32", (8,), bytes(32)).bytes(),
    "name not UTF-8": Gguf().tensor(b"a\xff", "F32", (8,), bytes(32)).bytes(),
    "name a surrogate": Gguf().tensor(b"\xed\xa0\x80", "F32", (8,), bytes(32)).bytes(),
    "name overlong": Gguf().tensor(b"\xc0\xaf", "F32", (8,), bytes(32)).bytes(),
    "name twice": Gguf().tensor("a", "F32", (8,), bytes(32)).tensor("a", "F32", (8,), bytes(32)).bytes(),
    **{f"{n} dimensions": patch(("dims", b"a.weight"), u32(n)) for n in (5, 1000, 2 ** 31, 2 ** 32 - 1)},
    **{f"dimensions {d}": Gguf().tensor("a", "F32", d, bytes(64), size=64).bytes()
       for d in ((2 ** 63,), (2 ** 64 - 1,), (2 ** 32, 2 ** 32), (16, 2 ** 58 + 1), (2 ** 33, 2 ** 31, 1, 1),
                 (17,), (2 ** 62,), (0, 2 ** 63))},
    **{f"removed type {t}": Gguf().tensor("a", "F32", (256,), bytes(1024), type_id=t).bytes()
       for t in (4, 5, 31, 32, 33, 36, 37, 38)},
    **{f"unknown type {t}": Gguf().tensor("a", "F32", (256,), bytes(1024), type_id=t).bytes()
       for t in (43, 64, 255, 2 ** 31, 2 ** 32 - 1)},
    **{f"half a block of {k}": Gguf().tensor("a", k, (row[1] // 2 * 3, 2), bytes(row[2] * 3)).bytes()
       for k, row in TYPES.items() if row[1] > 1},
    **{f"offset {o}": Gguf().tensor("a", "F32", (8,), offset=o).bytes()[:200] + bytes(64)
       for o in (2 ** 63, 2 ** 64 - 32, 2 ** 64 - 128, 2 ** 40)},
    "offset unaligned": Gguf().tensor("a", "F32", (8,), bytes(32), offset=16).bytes() + bytes(64),
    "ends in a tensor": Gguf().tensor("a", "F32", (8,), bytes(31), size=31).bytes(),
    "deep nesting": Gguf().kv("a", "array", Raw(struct.pack("<IQ", 9, 1) * 300_000)).bytes(),
    "wide nesting": Gguf().kv("a", "array", Raw(struct.pack("<IQ", 9, 2 ** 40) + struct.pack("<IQ", 9, 0) * 1000)).bytes(),
}


@pytest.mark.parametrize("case", WRONG, ids=lambda c: c.replace("/", "-"))
def test_refused(stub, folder, case):
    path, name = folder
    said = refused(stub, path, name, WRONG[case])
    assert "x.gguf" in said and "byte" in said, said


def test_removed_and_unknown_types_are_named(stub, folder):
    path, name = folder
    assert "Q4_2" in refused(stub, path, name, WRONG["removed type 4"])
    assert "64" in refused(stub, path, name, WRONG["unknown type 64"])


ACCEPTED = {
    "no tensors": Gguf().kv("a", "u8", 1), "nothing": Gguf(), "no keys": Gguf().tensor("a", "F32", (8,), bytes(32)),
    "gap": Gguf().tensor("a", "F32", (8,), bytes(32)).tensor("b", "F32", (8,), bytes(32), offset=4096),
    "backwards": Gguf().tensor("a", "F32", (8,), bytes(32), offset=64).tensor("b", "F32", (8,), bytes(32), offset=0),
    "name of 64": Gguf().tensor("x" * 64, "F32", (8,), bytes(32)), "zero dims": Gguf().tensor("a", "F32", (), bytes(4)),
    "four dims": Gguf().tensor("a", "Q8_0", (32, 2, 3, 4), bytes(34 * 24)),
    "empty string": Gguf().kv("a", "string", ""), "empty at the end": Gguf().tensor("a", "F32", (0,), b""),
    "NUL in a string": Gguf().kv("a", "string", b"x\0y"),
    "5 deep": Gguf().kv("a", "array", Array("array", [Array("array", [Array("array", [Array("u8", [1])])])])),
}


@pytest.mark.parametrize("case", ACCEPTED)
@pytest.mark.parametrize("trailing", [b"", b"trailing bytes"])
def test_accepted(stub, folder, case, trailing):
    path, name = folder
    (path / "x.gguf").write_bytes(ACCEPTED[case].bytes() + trailing)
    assert describe(stub, f"{name}/x.gguf")
    assert stream(stub, f"{name}/x.gguf") is not None


@pytest.mark.parametrize("many", ["tensors", "keys", "colliding"])
def test_20000_names_take_no_quadratic_time(stub, folder, many):
    path, name = folder
    g = Gguf()
    for i in range(20_000):
        if many == "keys":
            g.kv(f"k{i}", "u8", 1)
        else:
            g.tensor(f"t{i}" if many == "tensors" else f"{i:0>64}", "F32", (0,), b"")
    g.write(path / "x.gguf")
    header, *_ = describe(stub, f"{name}/x.gguf", no_tensors=True, no_metadata=True)
    assert header.tensor_count + header.metadata_count == 20_000


def test_overlapping_tensors_are_bounded(server, stub, folder):
    """Many tensors over the same bytes: refused, or else read within limits. Never a crash."""
    path, name = folder
    g = Gguf()
    for i in range(1000):
        g.tensor(f"t{i}", "F32", (1024,), bytes(4096) if i == 0 else None, offset=0)
    (path / "x.gguf").write_bytes(g.bytes())
    try:
        list(ask(stub, f"{name}/x.gguf"))
    except grpc.RpcError as e:
        assert e.code() == REFUSED
    assert server.alive()


SPLIT_LIES = {
    "another count": lambda n, g: replace(g, "split.count", "u16", 3) if n == 1 else None,
    "another number": lambda n, g: replace(g, "split.no", "u16", 0) if n == 1 else None,
    "number out of range": lambda n, g: replace(g, "split.no", "u16", 9) if n == 1 else None,
    "tensor count": lambda n, g: replace(g, "split.tensors.count", "i32", 5),
    "tensor count in one": lambda n, g: replace(g, "split.tensors.count", "i32", 5) if n == 1 else None,
    "tensor count negative": lambda n, g: replace(g, "split.tensors.count", "i32", -1),
    "no keys": lambda n, g: g.kvs.clear() if n == 1 else None,
    "a string": lambda n, g: replace(g, "split.no", "string", "1") if n == 1 else None,
    "same tensor twice": lambda n, g: g.tensors.__setitem__(0, ["a.0", "F32", (1,), bytes(4), None, None, None]),
    "other byte order": lambda n, g: setattr(g, "order", ">") if n == 1 else None,
}


def replace(g, key, kind, value):
    g.kvs = [(k, kind, value) if k == key.encode() else (k, t, v) for k, t, v in g.kvs]


@pytest.mark.parametrize("lie", SPLIT_LIES)
def test_split_parts_that_disagree(stub, folder, lie):
    path, name = folder
    write_split(str(path / "s"), [[("a.0", "F32", (1,), bytes(4))], [("b.0", "F32", (1,), bytes(4))]],
                tamper=SPLIT_LIES[lie])
    for model in ("s.gguf", "s-00001-of-00002.gguf", "s-00002-of-00002.gguf"):
        if lie == "other byte order":  # may be refused, may be read
            try:
                list(ask(stub, f"{name}/{model}"))
            except grpc.RpcError as e:
                assert e.code() == REFUSED
        else:
            failure(lambda m=model: ask(stub, f"{name}/{m}"), REFUSED)


def test_a_missing_part(stub, folder):
    path, name = folder
    write_split(str(path / "s"), [[("a", "F32", (1,), bytes(4))], [("b", "F32", (1,), bytes(4))]])
    (path / "s-00002-of-00002.gguf").unlink()
    for model in ("s.gguf", "s-00001-of-00002.gguf"):
        assert "00002-of-00002" in failure(lambda m=model: ask(stub, f"{name}/{m}"), REFUSED, CODE.NOT_FOUND)
    (path / "s-00001-of-00002.gguf").rename(path / "t-00001-of-00003.gguf")
    failure(lambda: ask(stub, f"{name}/t.gguf"), REFUSED, CODE.NOT_FOUND)


# ----------------------------------------------------------------------------------------------------- paths

@pytest.fixture(scope="module")
def outside(models):
    """A model beside the model root, which no path may reach."""
    folder = models.parent / "outside"
    folder.mkdir(exist_ok=True)
    valid().write(folder / "secret.gguf")
    return folder


def test_paths_leaving_the_root(stub, models, folder, outside):
    path, name = folder
    (path / "absolute.gguf").symlink_to(outside / "secret.gguf")
    (path / "relative.gguf").symlink_to("../../outside/secret.gguf")
    (path / "folder").symlink_to(outside)
    (path / "zero.gguf").symlink_to("/dev/zero")
    (path / "proc.gguf").symlink_to("/proc/self/root/etc/passwd")
    for model in (str(outside / "secret.gguf"), "/etc/passwd", "../outside/secret.gguf",
                  f"{name}/../../outside/secret.gguf", f"{name}/absolute.gguf", f"{name}/relative.gguf",
                  f"{name}/folder/secret.gguf", f"{name}/zero.gguf", f"{name}/proc.gguf", "..", "/",
                  str(models / "sample.gguf")):
        failure(lambda m=model: ask(stub, m), CODE.PERMISSION_DENIED)
        failure(lambda m=model: stub.StreamTensors(pb.StreamTensorsRequest(model=m)), CODE.PERMISSION_DENIED)


def test_a_split_model_with_a_part_outside(stub, folder, outside):
    path, name = folder
    write_split(str(outside / "s"), [[("a", "F32", (1,), bytes(4))], [("b", "F32", (1,), bytes(4))]])
    shutil.copy(outside / "s-00001-of-00002.gguf", path)
    (path / "s-00002-of-00002.gguf").symlink_to(outside / "s-00002-of-00002.gguf")
    failure(lambda: ask(stub, f"{name}/s.gguf"), CODE.PERMISSION_DENIED, REFUSED)


def test_links_that_stay_are_followed(stub, folder):
    path, name = folder
    valid().write(path / "real.gguf")
    (path / "link.gguf").symlink_to("real.gguf")
    (path / "sub").mkdir()
    (path / "sub/up.gguf").symlink_to("../real.gguf")
    for model in ("real.gguf", "link.gguf", "sub/up.gguf", "sub/../real.gguf", "./real.gguf"):
        assert describe(stub, f"{name}/{model}")[2]


def test_what_is_no_file(stub, folder):
    path, name = folder
    (path / "directory.gguf").mkdir()
    os.mkfifo(path / "fifo.gguf")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(path / "socket.gguf"))
        for model in ("directory.gguf", "fifo.gguf", "socket.gguf", "", "."):
            failure(lambda m=model: ask(stub, f"{name}/{m}" if m else name), REFUSED)
    if os.geteuid() == 0:
        try:
            os.mknod(path / "zero.gguf", 0o20666, os.makedev(1, 5))
        except OSError:
            return
        failure(lambda: ask(stub, f"{name}/zero.gguf"), REFUSED, CODE.PERMISSION_DENIED)


def test_links_that_lead_nowhere(stub, folder):
    path, name = folder
    (path / "dangling.gguf").symlink_to("nothing")
    (path / "loop.gguf").symlink_to("loop.gguf")
    (path / "a.gguf").symlink_to("b.gguf")
    (path / "b.gguf").symlink_to("a.gguf")
    failure(lambda: ask(stub, f"{name}/dangling.gguf"), CODE.NOT_FOUND)
    for model in ("loop.gguf", "a.gguf"):
        failure(lambda m=model: ask(stub, f"{name}/{m}"), REFUSED, CODE.NOT_FOUND, CODE.PERMISSION_DENIED)


@pytest.mark.parametrize("model", ["a\nb.gguf", "\x1b[31m.gguf", "%s%n.gguf", "a" * 5000, "a/" * 3000 + "x.gguf", "ü", "a\0b"])
def test_strange_paths(stub, model):
    failure(lambda: ask(stub, model), CODE.NOT_FOUND, CODE.INVALID_ARGUMENT, CODE.PERMISSION_DENIED, REFUSED)


def test_unreadable_files(tmp_path_factory):
    """Served by somebody who may not read them: root may read anything, so the server runs as nobody where it can."""
    base = pathlib.Path(tempfile.mkdtemp(prefix="weightd-nobody-"))
    try:
        base.chmod(0o755)
        for folder in ("models", "run"):
            (base / folder).mkdir()
        valid().write(base / "models/secret.gguf")
        valid().write(base / "models/open.gguf")
        (base / "models/secret.gguf").chmod(0)
        root = os.geteuid() == 0
        if root and WRAPPER:
            pytest.skip("not under a wrapper")
        program = shutil.copy(WEIGHTD, base / "weightd")
        if root:
            os.chown(base / "run", 65534, 65534)
        s = Server(base / "models", tmp=base / "run", program=program, user=65534 if root else None)
        try:
            assert describe(s.stub, "open.gguf")
            said = failure(lambda: ask(s.stub, "secret.gguf"), CODE.PERMISSION_DENIED, REFUSED)
            assert "ermission" in said
        finally:
            s.close()
    finally:
        shutil.rmtree(base)


# ------------------------------------------------------------------------------- files that change meanwhile

@pytest.mark.parametrize("change", ["truncate", "rewrite", "empty"])
def test_a_file_changed_under_a_stream(server, stub, folder, change):
    path, name = folder
    Gguf().tensor("x", "F16", (1 << 20, 100)).write(path / "x.gguf")  # 200 MB, sparse
    call = stub.StreamTensors(pb.StreamTensorsRequest(model=f"{name}/x.gguf"), timeout=PATIENCE)
    next(call)
    with open(path / "x.gguf", "r+b") as f:
        if change == "truncate":
            f.truncate(150 << 20)
        elif change == "empty":
            f.truncate(0)
        else:
            f.seek(190 << 20)
            f.write(b"changed")
    said = failure(lambda: call, CODE.DATA_LOSS)
    assert "x.gguf" in said
    server.idle()
    assert describe(stub, "sample.gguf")


def test_a_file_replaced_under_a_stream_is_read_to_its_end(server, stub, folder):
    """The server holds the old file open: replacing it by rename disturbs nobody."""
    path, name = folder
    Gguf().tensor("x", "F16", (1 << 20, 50)).write(path / "x.gguf")
    call = stub.StreamTensors(pb.StreamTensorsRequest(model=f"{name}/x.gguf"), timeout=PATIENCE)
    got = len(next(call).data)
    valid().write(path / "new.gguf")
    (path / "new.gguf").rename(path / "x.gguf")
    assert got + sum(len(c.data) for c in call) == 100 << 20
    assert [t.name for t in describe(stub, f"{name}/x.gguf")[2]] == ["a.weight", "b"]
