# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks that run the two programs share: models to serve, the server, a fetch, and a raw socket beside it.

WEIGHTD and WEIGHTCTL name other programs than those Bazel left.
"""
import itertools
import json
import mmap
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/python"))
import ggufwrite  # noqa: E402

WEIGHTD = os.environ.get("WEIGHTD", str(ROOT / "bazel-bin/service/weightd"))
WEIGHTCTL = os.environ.get("WEIGHTCTL", str(ROOT / "bazel-bin/client/weightctl"))
MIB = 1 << 20
COLUMNS = 4096
# Where the FP16 scales of a block stand: their upper byte is set so that no value is NaN, infinite or subnormal.
SCALES = {"Q4_0": [1], "Q8_0": [1], "Q4_K": [1, 3], "Q5_K": [1, 3], "Q6_K": [209], "IQ2_XXS": [1], "F16": [1], "MXFP4": []}


def write_model(path, kind, gigabytes, tensors=None):
    """A model of `gigabytes` as FP16, in tensors of up to 64 Mi elements, or in so many. Returns its bytes as FP16."""
    rows_each = 16384
    rows = max(1, round(gigabytes * 1e9 / 2 / COLUMNS))
    if tensors:
        rows_each = max(1, rows // tensors)
        rows = rows_each * tensors
    g = ggufwrite.Gguf()
    g.kv("general.architecture", "string", "bench")
    for i, begin in enumerate(range(0, rows, rows_each)):
        g.tensor(f"blk.{i}.weight", kind, (COLUMNS, min(rows_each, rows - begin)))
    _, _, block_bytes, _ = ggufwrite.TYPES[kind]
    blocks = max(1, 4 * MIB // block_bytes)
    pattern = bytearray(os.urandom(blocks * block_bytes))
    for at in SCALES[kind]:
        pattern[at::block_bytes] = b"\x24" * blocks
    left = ggufwrite.stored_bytes(kind, (COLUMNS, rows))
    g.write(path)
    size = os.path.getsize(path)
    with open(path, "r+b") as f:
        f.seek(size - left if left <= size else 0)
        while left > 0:
            left -= f.write(pattern[:left])
        # On the disk now, or it would be on its way there for seconds of what is measured.
        f.flush()
        os.fsync(f.fileno())
    return rows * COLUMNS * 2


def cpu_seconds(pid):
    """Of all threads of a process that runs, user and system."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3): to the nanosecond
    except OSError:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _receive(listener, size):
    connection, _ = listener.accept()
    # The kernel copies from the beginnings of pages. Where malloc would put this buffer, 16 bytes behind one, each read
    # has the low 12 bits of a write just before it, and some processors wait for that one: they lose 40 %.
    buffer = memoryview(mmap.mmap(-1, MIB + 4096))[1024:1024 + MIB]
    while size > 0:
        got = connection.recv_into(buffer)
        if not got:
            os._exit(1)
        size -= got


def _send(address, size, buffers):
    memory = [memoryview(bytearray(os.urandom(1 << 16) * 16)) for _ in range(buffers)]
    with socket.create_connection(address) as s:
        turn = 0
        while size > 0:
            piece = memory[turn % buffers][:min(size, MIB)]
            size -= len(piece)
            s.sendall(piece)
            turn += 1


def raw_transfer(size, pairs=1, buffers=1):
    """Sends `size` bytes through so many TCP sockets on loopback at once, each from so many buffers of 1 MiB in turn, a
    process at each end. Returns bytes a second and CPU seconds of both sides."""
    each = size // pairs
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(pairs)]
    children, begin = [], time.monotonic()
    for work in [(_receive, l, each) for l in listeners] + [(_send, l.getsockname(), each, buffers) for l in listeners]:
        pid = os.fork()
        if pid == 0:
            work[0](*work[1:])
            os._exit(0)
        children.append(pid)
    usages = [os.wait4(pid, 0)[2] for pid in children]
    seconds = time.monotonic() - begin
    for listener in listeners:
        listener.close()
    return each * pairs / seconds, sum(u.ru_utime + u.ru_stime for u in usages)


class Server:
    """weightd on the folder's models. `client` is how weightctl reaches it: --server and what else it needs.
    `environment` is added to the server's."""

    def __init__(self, folder, flags, client=(), environment=()):
        number = next(Server.numbers)
        ready = pathlib.Path(folder, f"ready-{number}")
        self.log = open(pathlib.Path(folder, f"log-{number}"), "w+")
        self.process = subprocess.Popen(
            [WEIGHTD, "serve", "--model-root", folder, "--listen", "127.0.0.1:0",
             "--ready-file", ready, *flags], stderr=self.log, env={**os.environ, **dict(environment)})
        while not ready.exists():
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"weightd did not start: {self.log.read()}")
            time.sleep(0.01)
        self.address = ready.read_text().strip()
        self.client = [WEIGHTCTL, "--server", self.address, *client]

    numbers = itertools.count()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()


def stages(server):
    info = subprocess.run([*server.client, "info", "--json"], check=True, capture_output=True)
    return {s["name"]: s["seconds"] for s in json.loads(info.stdout)["counters"].get("stages", [])}


def finish(clients):
    """Waits for processes. Returns whether one failed, their CPU seconds, and the largest one's peak memory in bytes,
    which is looked at while they run: what wait4 tells includes this process, which they were forked from."""
    peak, over = [0], threading.Event()

    def watch():
        while not over.wait(0.005):
            for client in clients:
                try:
                    peak[0] = max(peak[0], resource_peak(client.pid))
                except OSError:
                    pass  # it has ended
    watcher = threading.Thread(target=watch)
    watcher.start()
    ended = [os.wait4(client.pid, 0) for client in clients]
    over.set()
    watcher.join()
    return (any(status for _, status, _ in ended), sum(u.ru_utime + u.ru_stime for _, _, u in ended), peak[0] * MIB)


def fetch(server, model, size, extra=()):
    """Fetches and verifies. Returns bytes a second, CPU seconds of both sides, and the client's peak memory."""
    before, begin = cpu_seconds(server.process.pid), time.monotonic()
    client = subprocess.Popen([*server.client, "fetch", model, "--out", "/dev/null", "--quiet", *extra])
    failed, cpu, peak = finish([client])
    seconds = time.monotonic() - begin
    if failed:
        sys.exit(f"weightctl failed on {model}")
    return size / seconds, cpu_seconds(server.process.pid) - before + cpu, peak


def resource_peak(pid):
    """The peak memory of a process that runs, in MiB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0
