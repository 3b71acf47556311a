# SPDX-License-Identifier: Apache-2.0
"""How model files are read: every way gives the same bytes, cold files are read ahead, and a host may forbid io_uring."""
import mmap
import os
import stat
import subprocess
import sys
import threading

import pytest

from ggufwrite import Gguf
from harness import PATIENCE, WEIGHTD, WRAPPER, pb, stream

WAYS = {"direct": ["--read", "direct"], "direct, threads": ["--read", "direct", "--io", "threads"],
        "buffered, threads": ["--read", "buffered", "--io", "threads"]}

# Runs a program in whose process, and in whose children, io_uring_setup fails with EPERM, as in many containers.
FORBID = f"""#!{sys.executable}
import ctypes, os, struct, sys
EPERM, LOAD, EQUAL, RETURN, ALLOW, ERRNO = 1, 0x20, 0x15, 0x06, 0x7fff0000, 0x00050000
code = b"".join(struct.pack("HBBI", *step) for step in
                [(LOAD, 0, 0, 0), (EQUAL, 0, 1, 425), (RETURN, 0, 0, ERRNO | EPERM), (RETURN, 0, 0, ALLOW)])
libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(buffer)))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit(77)
os.execv({WEIGHTD!r}, [{WEIGHTD!r}, *sys.argv[1:]])
"""


@pytest.fixture
def forbidden(tmp_path):
    """weightd on a host that forbids io_uring."""
    program = tmp_path / "forbidden"
    program.write_text(FORBID)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    if subprocess.run([program, "--version"], capture_output=True).returncode == 77:
        pytest.skip("no seccomp filters here")
    return program


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """(root, its tensors' bytes) of a model of 24 MiB in two parts."""
    root = tmp_path_factory.mktemp("cold")
    noise, stored = os.urandom(1 << 20), {}
    for part in range(2):
        g = Gguf()
        g.kv("general.architecture", "string", "test")
        for key, kind, value in (("no", "u16", part), ("count", "u16", 2), ("tensors.count", "i32", 6)):
            g.kv(f"split.{key}", kind, value)
        for i in range(3):
            name, rows = f"p{part}.t{i}", 512 * (i + 1)
            begin = i * 1000 + part
            data = stored[name] = (noise * 8)[begin:begin + rows * 2048 * 2]
            g.tensor(name, "F16", (2048, rows), data)
        g.write(root / f"m-{part + 1:05}-of-00002.gguf")
    return root, stored


def drop(root):
    """Drops the files' pages; whether they are gone (on a tmpfs they stay)."""
    gone = True
    for path in root.glob("*.gguf"):
        with open(path, "rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            try:  # a byte in the middle, without waiting
                os.preadv(f.fileno(), [bytearray(1)], path.stat().st_size // 2 + mmap.PAGESIZE * 5, os.RWF_NOWAIT)
                gone = False
            except BlockingIOError:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            except OSError:
                gone = False
    return gone


def delivered(server, model, **fields):
    return {d.tensor.name: d.data for d in stream(server.new_stub(), model, **fields)}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_reading_gives_the_same(serve, models, server, way):
    s = serve(models, *WAYS[way])
    for output in ("F16", "F32", "STORED"):
        kind = pb.OutputType.Value(output)
        assert delivered(s, "sample.gguf", output_type=kind) == delivered(server, "sample.gguf", output_type=kind)
    request = pb.StreamStatsRequest(model="sample.gguf")
    assert list(s.stub.StreamStats(request)) == list(server.stub.StreamStats(request))
    counters = s.idle()
    assert counters.bytes_read > 0
    if "direct" in way:
        assert counters.bytes_read_ahead > 0
    assert counters.bytes_read_direct <= counters.bytes_read_ahead <= counters.bytes_read


@pytest.mark.parametrize("flags", [[], ["--io", "threads"], ["--read", "buffered"]], ids=["auto", "threads", "buffered"])
def test_cold_files_are_read_ahead(serve, cold, flags):
    root, stored = cold
    s = serve(root, *flags)
    gone = drop(root)
    assert delivered(s, "m.gguf") == stored
    counters = s.idle()
    total = sum(map(len, stored.values()))
    if gone:
        assert counters.bytes_read_ahead > total / 2
        assert {x.name: x.seconds for x in counters.stages}["read_ahead"] > 0
    if "buffered" in flags:
        assert counters.bytes_read_direct == 0
    assert total <= counters.bytes_read < total * 1.05


def test_cold_streams_stay_within_the_budget(serve, cold):
    """Many cold streams at once, readers that stop among them."""
    root, stored = cold
    s = serve(root, "--read", "direct", "--memory-budget", "8M")
    stopped = [s.new_stub().StreamTensors(pb.StreamTensorsRequest(model="m.gguf", chunk_bytes=65536)) for _ in range(3)]
    for call in stopped:
        next(call)
    wrong = []

    def run():
        if delivered(s, "m.gguf", chunk_bytes=262144) != stored:
            wrong.append(1)
    threads = [threading.Thread(target=run) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE)
    assert not wrong
    for call in stopped:
        call.cancel()
    counters = s.idle()
    assert 0 < counters.buffer_bytes_peak <= 8 << 20


@pytest.mark.skipif(bool(WRAPPER), reason="the program is a script here")
def test_a_host_that_forbids_io_uring(serve, cold, forbidden):
    root, stored = cold
    s = serve(root, "--read", "direct", program=str(forbidden))
    assert "reading ahead by threads, as this host allows no io_uring here: Operation not permitted" in s.log()
    assert delivered(s, "m.gguf") == stored
    assert s.idle().bytes_read_ahead > 0
    done = subprocess.run([forbidden, "serve", "--model-root", root, "--io", "uring"], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 1 and "--io threads" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("flags, env, says", [
    (["--read", "mmap"], {}, "--read mmap: give auto, buffered or direct"),
    (["--io", "aio"], {}, "--io 'aio': give auto, uring or threads"),
    ([], {"WEIGHTD_READ": "fast"}, "--read fast: give auto, buffered or direct"),
    ([], {"WEIGHTD_IO": "fast"}, "--io 'fast': give auto, uring or threads"),
])
def test_usage_errors(tmp_path, flags, env, says):
    done = subprocess.run([WEIGHTD, "serve", "--model-root", tmp_path, "--listen", "127.0.0.1:0", *flags],
                          env={**os.environ, **env}, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and says in done.stderr
