# SPDX-License-Identifier: Apache-2.0
"""weightctl, the program, against the real server."""
import contextlib
import json
import os
import pathlib
import pty
import signal
import socket
import struct
import subprocess
import threading

import numpy as np
import pytest
import safetensors

import oracle
from ggufwrite import TYPES, Gguf
from harness import FULL, PATIENCE, SAMPLE, WEIGHTCTL, describe, one, pb, stream, wait_until

COMMANDS = ["health", "info", "list", "describe", "stats", "fetch", "verify"]
DTYPES = {"F16": "F16", "BF16": "BF16", "F32": "F32"}


def run(*arguments, address=None, status=0, env=None, patience=PATIENCE):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTD_")}
    done = subprocess.run([WEIGHTCTL, *(["--server", address] if address else []), *map(str, arguments)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience,
                          env={**environment, "LC_ALL": "C.UTF-8", **(env or {})})
    assert done.returncode == status, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done


@pytest.fixture
def ctl(server):
    return lambda *arguments, **options: run(*arguments, address=server.address, **options)


def read_file(path):
    """(entries, metadata, data) of a safetensors file, read by hand; PyPI's safetensors must be able to read it too."""
    with safetensors.safe_open(path, framework="numpy") as f:
        keys = set(f.keys())
    blob = pathlib.Path(path).read_bytes()
    n = struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8:8 + n])
    metadata = header.pop("__metadata__", {})
    assert set(header) == keys
    data = {name: blob[8 + n:][slice(*e["data_offsets"])] for name, e in header.items()}
    return header, metadata, data


# --------------------------------------------------------------------------------------------------- the surface

def test_help_and_version():
    assert all(c in run("--help").stdout for c in COMMANDS)
    assert run("--version").stdout.startswith("weightctl ")
    for command in COMMANDS:
        text = run(command, "--help").stdout
        assert "--server" in text and "--json" in text


@pytest.mark.parametrize("arguments", [
    [], ["nonsense"], ["--nonsense"], ["describe"], ["describe", "a", "b"], ["fetch", "x.gguf"], ["fetch", "--out", "x"],
    ["fetch", "x.gguf", "--out", "y", "--type", "f8"], ["verify", "x"], ["stats"], ["info", "extra"],
    ["health", "--server"], ["fetch", "x.gguf", "--out"]], ids=" ".join)
def test_usage_errors(arguments):
    done = run(*arguments, status=2)
    assert done.stderr.strip() and not done.stdout


@pytest.mark.parametrize("command", [["health"], ["info"], ["list"], ["describe", "x"], ["stats", "x"],
                                     ["fetch", "x", "--out", "/dev/null"], ["verify", str(SAMPLE), "x"]],
                         ids=lambda c: c[0])
def test_nobody_there(command):
    with socket.socket() as s:  # a port that nobody listens on
        s.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % s.getsockname()[1]
        done = run(*command, address=address, status=1)
    assert done.stderr.startswith("weightctl: ")


def test_no_such_model(ctl, tmp_path):
    for command in (["describe", "no.gguf"], ["stats", "no.gguf"], ["fetch", "no.gguf", "--out", tmp_path / "x"]):
        assert "no.gguf" in ctl(*command, status=1).stderr
    assert not list(tmp_path.iterdir())


def test_the_server_may_come_from_the_environment(server):
    assert run("health", env={"WEIGHTD_SERVER": server.address}).stdout == "SERVING\n"


def test_unix_socket(serve, models, tmp_path):
    s = serve(models, listen=f"unix:{tmp_path / 'w.sock'}")
    assert run("health", address=s.address).stdout == "SERVING\n"
    run("fetch", "sample.gguf", "--out", tmp_path / "x.safetensors", address=s.address)
    run("verify", tmp_path / "x.safetensors", "sample.gguf", address=s.address)


# ---------------------------------------------------------------------------------------------- what it prints

def test_health_and_info(ctl):
    assert ctl("health").stdout == "SERVING\n" and json.loads(ctl("health", "--json").stdout)["status"] == "SERVING"
    info = json.loads(ctl("info", "--json").stdout)
    assert {t["name"] for t in info["tensor_types"]} == set(TYPES) and info["backend"] == "cpu"
    assert info["limits"]["default_chunk_bytes"] == 1 << 20 and "bytes_sent" in info["counters"]
    text = ctl("info").stdout
    assert all(kind in text for kind in TYPES)


def test_list(ctl, server):
    models = {m["model"]: m for m in json.loads(ctl("list", "--json").stdout)["models"]}
    assert models["sample.gguf"]["bytes"] == SAMPLE.stat().st_size
    assert "sample.gguf" in ctl("list").stdout
    assert [m["model"] for m in json.loads(ctl("list", "sample", "--json").stdout)["models"]] == ["sample.gguf"]


def test_describe(ctl, stub):
    got = json.loads(ctl("describe", "sample.gguf", "--json").stdout)
    _, metadata, tensors, _ = describe(stub, "sample.gguf")
    assert [t["name"] for t in got["tensors"]] == [t.name for t in tensors]
    assert [t["shape"] for t in got["tensors"]] == [list(t.shape) for t in tensors]
    assert len(got["metadata"]) == len(metadata)
    text = ctl("describe", "sample.gguf").stdout
    assert all(t.name in text for t in tensors) and "llama" in text


def test_stats(ctl, stub):
    got = json.loads(ctl("stats", "sample.gguf", "--json").stdout)
    rows = got["tensors"] if isinstance(got, dict) else got
    expected = list(stub.StreamStats(pb.StreamStatsRequest(model="sample.gguf")))
    by_name = {r["name"]: r for r in rows}
    assert set(by_name) == {s.name for s in expected}
    for s in expected:
        for field in ("count", "min", "max", "mean", "std", "rms"):
            assert by_name[s.name][field] == getattr(s, field), (s.name, field)
    text = ctl("stats", "sample.gguf").stdout
    assert all(s.name[:8] in text for s in expected)


def test_hostile_names_do_not_steer_the_terminal(ctl, folder):
    path, name = folder
    Gguf().kv("general.name", "string", "\x1b]0;owned\x07").tensor("\x1b[31mred", "F32", (4,), bytes(16)).write(
        path / "x.gguf")
    for command in ("describe", "stats"):
        done = ctl(command, f"{name}/x.gguf")
        assert "\x1b" not in done.stdout and "\x07" not in done.stdout
        json.loads(ctl(command, f"{name}/x.gguf", "--json").stdout)


# ------------------------------------------------------------------------------------------------ fetch, verify

@pytest.mark.parametrize("output", oracle.OUTPUTS)
def test_fetch(ctl, stub, tmp_path, output):
    out = tmp_path / "x.safetensors"
    done = ctl("fetch", "sample.gguf", "--out", out, "--type", output.lower())
    assert "\r" not in done.stderr, "a progress bar is for terminals"
    header, metadata, data = read_file(out)
    delivered = stream(stub, "sample.gguf", output_type=pb.OutputType.Value(output))
    assert set(data) == {d.tensor.name for d in delivered} and list(tmp_path.iterdir()) == [out]
    for d in delivered:
        entry = header[d.tensor.name]
        assert entry["dtype"] == DTYPES[output] and entry["shape"] == list(d.tensor.shape)
        assert data[d.tensor.name] == d.data
    assert all(isinstance(v, str) for v in metadata.values())
    assert any("blk.0.attn_q.weight" in v for v in metadata.values()), "the file says which tensors were scaled"
    ctl("verify", out, "sample.gguf")


def test_fetch_stored(ctl, stub, tmp_path):
    out = tmp_path / "x.safetensors"
    ctl("fetch", "sample.gguf", "--out", out, "--type", "stored")
    _, _, data = read_file(out)
    for d in stream(stub, "sample.gguf", output_type=pb.STORED):
        assert data[d.tensor.name] == d.data
    ctl("verify", out, "sample.gguf")


def test_fetch_what_safetensors_reads(ctl, stub, tmp_path):
    from safetensors.numpy import load_file

    out = tmp_path / "x.safetensors"
    ctl("fetch", "sample.gguf", "--out", out)
    for name, array in load_file(out).items():
        d = one(stub, "sample.gguf", name)
        assert array.dtype == np.float16 and array.shape == tuple(d.tensor.shape) and array.tobytes() == d.data


def test_fetch_some_tensors(ctl, tmp_path):
    out = tmp_path / "x.safetensors"
    ctl("fetch", "sample.gguf", "--out", out, "--tensor", "*norm*", "--tensor", "token_embd.weight")
    header, _, _ = read_file(out)
    assert set(header) == {"output_norm.weight", "token_embd.weight"}
    ctl("verify", out, "sample.gguf")
    assert "nothing" in ctl("fetch", "sample.gguf", "--out", tmp_path / "y", "--tensor", "nothing", status=1).stderr
    assert list(tmp_path.iterdir()) == [out]


def test_fetch_to_nowhere(ctl, server):
    before = server.counters().bytes_sent
    ctl("fetch", "sample.gguf", "--out", "/dev/null")
    assert server.counters().bytes_sent - before == sum(2 * t.elements for t in describe(server.stub, "sample.gguf")[2])
    assert os.stat("/dev/null").st_rdev == os.makedev(1, 3)


def test_fetch_a_model_without_tensors(ctl, folder, tmp_path):
    path, name = folder
    Gguf().write(path / "x.gguf")
    ctl("fetch", f"{name}/x.gguf", "--out", tmp_path / "x")
    assert read_file(tmp_path / "x")[0] == {}


def test_fetch_leaves_an_existing_file_alone(ctl, tmp_path):
    """Neither a failed fetch nor one without a word of consent destroys what is there."""
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"precious")
    ctl("fetch", "sample.gguf", "--out", out, status=1)
    assert out.read_bytes() == b"precious"
    ctl("fetch", "sample.gguf", "--out", out, "--force")
    read_file(out)
    assert "no/such" in ctl("fetch", "sample.gguf", "--out", tmp_path / "no/such/folder", status=1).stderr


def test_names_are_kept(ctl, folder, tmp_path):
    path, name = folder
    names = ["../../up", "/abs", "ü" * 32, "%s%n", "a\nb", 'quo"te\\', "\x1b[31m"]
    g = Gguf()
    for i, n in enumerate(names):
        g.tensor(n, "F32", (4,), struct.pack("<4f", i, i, i, i))
    g.write(path / "x.gguf")
    ctl("fetch", f"{name}/x.gguf", "--out", tmp_path / "x")
    assert set(read_file(tmp_path / "x")[0]) == set(names)
    ctl("verify", tmp_path / "x", f"{name}/x.gguf")


def test_verify_finds_a_flipped_bit(ctl, tmp_path):
    out = tmp_path / "x.safetensors"
    ctl("fetch", "sample.gguf", "--out", out)
    header, _, _ = read_file(out)
    blob = bytearray(out.read_bytes())
    start = 8 + struct.unpack("<Q", blob[:8])[0]
    entry = header["blk.0.q6_k.weight"]
    at = start + entry["data_offsets"][0] + 777
    for bit in (0, 7):
        blob[at] ^= 1 << bit
        out.write_bytes(blob)
        assert "blk.0.q6_k.weight" in "".join(ctl("verify", out, "sample.gguf", status=1).stdout.splitlines()
                                              + ctl("verify", out, "sample.gguf", status=1).stderr.splitlines())
        blob[at] ^= 1 << bit
    out.write_bytes(blob)
    report = ctl("verify", out, "sample.gguf", "--json")
    assert json.loads(report.stdout) is not None


@pytest.mark.parametrize("damage", ["short", "long", "header", "empty", "huge header", "not there", "other model"])
def test_verify_files_that_are_wrong(ctl, folder, tmp_path, damage):
    path, name = folder
    Gguf().tensor("token_embd.weight", "F32", (4,), bytes(16)).write(path / "other.gguf")
    out = tmp_path / "x.safetensors"
    ctl("fetch", "sample.gguf", "--out", out)
    blob = out.read_bytes()
    out.write_bytes({"short": blob[:-1], "long": blob + b"x", "header": blob[:20] + b"\xff" + blob[21:], "empty": b"",
                     "huge header": struct.pack("<Q", 2 ** 63) + blob[8:]}.get(damage, blob))
    if damage == "not there":
        out.unlink()
    done = ctl("verify", out, f"{name}/other.gguf" if damage == "other model" else "sample.gguf", status=1)
    assert done.stderr.strip() or done.stdout.strip()


def test_progress_on_a_terminal(server, models, tmp_path):
    Gguf().tensor("x", "F16", (1 << 20, 30)).write(models / "sixty.gguf")
    parent, child = pty.openpty()
    process = subprocess.Popen([WEIGHTCTL, "--server", server.address, "fetch", "sixty.gguf", "--out", "/dev/null"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=child,
                               env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"})
    os.close(child)
    seen = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(parent)
    assert process.wait(PATIENCE) == 0
    assert b"%" in seen and b"\r" in seen


# ------------------------------------------------------------------------------------------------------- resume

class Throttle:
    """A TCP proxy that lets through `limit` bytes of each connection from the server and then holds it up until
    release(). `held` is set when so many connections are."""

    def __init__(self, address, limit, connections=1):
        self.lead_to(address)
        self.limit, self.free, self.lock = limit, connections, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.sockets, self.closed = [self.listener], False
        self.held, self.going = threading.Event(), threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, address):
        """The server of connections to come."""
        host, port = address.rsplit(":", 1)
        self.target = host, int(port)

    def _accept(self):
        with contextlib.suppress(OSError):  # until the listener is closed
            while True:
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(self.target)
                except OSError:  # as the server would refuse it
                    client.close()
                    continue
                with self.lock:
                    if self.closed:
                        client.close()
                        server.close()
                        return
                    self.sockets += [client, server]
                threading.Thread(target=self._copy, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._copy, args=(server, client, True), daemon=True).start()

    def _copy(self, source, sink, limited):
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if limited and passed > self.limit and not self.going.is_set():
                    self._hold()
                sink.sendall(data)
        self._end(source, sink)

    @staticmethod
    def _end(*sockets):
        for s in sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def _hold(self):
        with self.lock:
            self.free -= 1
            if self.free == 0:
                self.held.set()
        self.going.wait()

    def release(self):
        self.going.set()

    def close(self):
        """Ends the connections, also those that a thread waits for."""
        with self.lock:
            self.closed = True
        self._end(*self.sockets)
        for s in self.sockets:
            s.close()
        self.release()


def journalled(path):
    """Bytes that a journal vouches for."""
    try:
        blob = path.read_bytes()
    except FileNotFoundError:  # not yet, or no more
        blob = b""
    records = blob[blob.find(b"\n") + 1:] if b"\n" in blob else b""
    return sum(end - begin for _, begin, end, _ in
               (struct.unpack("<QQQQ", records[i:i + 32]) for i in range(0, len(records) // 32 * 32, 32)))


@pytest.fixture(scope="module")
def twenty(models):
    """20 MB as FP16 in tensors of several sizes."""
    g = Gguf()
    for i in range(40):
        g.tensor(f"t{i}", "Q8_0", (1024, 64 + i * 10), oracle.blocks("Q8_0", 32 * (64 + i * 10), i))
    g.write(models / "twenty.gguf")
    return "twenty.gguf", sum(2 * 1024 * (64 + i * 10) for i in range(40))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["f16", "stored"])
def test_resume_after_kill(serve, models, twenty, tmp_path, share, kind):
    """Killed half way, a fetch goes on where it was: nothing that was journalled is sent again."""
    model, total = twenty
    if kind == "stored":
        total = total // 64 * 34
    s = serve(models)
    out = tmp_path / "x.safetensors"
    journal = tmp_path / "x.safetensors.part.journal"
    limit = int(total * share)
    proxy = Throttle(s.address, limit)
    first = subprocess.Popen([WEIGHTCTL, "--server", proxy.address, "fetch", model, "--out", out, "--type", kind],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert proxy.held.wait(PATIENCE)
        steady = []

        def settled():  # the client has written down all that it got
            steady.append(journalled(journal))
            return len(steady) > 20 and len(set(steady[-20:])) == 1
        wait_until(settled, "the client to write down what it got")
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
        proxy.close()
    had = journalled(journal)
    assert not out.exists() and had >= limit - limit // 50 - 8 * (1 << 20) and (share < 0.5 or had)
    s.idle()
    before = s.counters().bytes_sent
    run("fetch", model, "--out", out, "--type", kind, "--resume", address=s.address)
    again = s.counters().bytes_sent - before
    print(f"{total} bytes in all, {had} journalled, {again} sent after that")
    assert again + had <= total + (1 << 20), "at most one chunk is sent twice"
    assert list(tmp_path.glob("x.*")) == [out]
    run("verify", out, model, address=s.address)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_the_server_counts_at_most_one_chunk_twice(serve, models, tmp_path, part):
    """The whole bill of a fetch that was killed and resumed, straight over loopback, as the server counts it."""
    if not (models / "hundred.gguf").exists():
        Gguf().tensor("x", "F16", (1 << 20, 60)).tensor("y", "Q8_0", (1 << 20, 40)).write(models / "hundred.gguf")
    total = 200 << 20
    s = serve(models)
    out = tmp_path / "x.safetensors"
    first = subprocess.Popen([WEIGHTCTL, "--server", s.address, "fetch", "hundred.gguf", "--out", out],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: first.poll() is not None or journalled(tmp_path / "x.safetensors.part.journal") > total * part,
               "the fetch to come that far")
    first.kill()
    first.wait()
    s.idle()
    run("fetch", "hundred.gguf", "--out", out, "--resume", address=s.address)
    assert s.counters().bytes_sent <= total + (1 << 20)
    run("verify", out, "hundred.gguf", address=s.address)


def test_killed_at_random_moments(serve, models, twenty, tmp_path, rng):
    """Again and again, without a proxy; whatever moment it is, the end is the same."""
    model, _ = twenty
    s = serve(models)
    out = tmp_path / "x.safetensors"
    for _ in range(40 if FULL else 6):
        process = subprocess.Popen([WEIGHTCTL, "--server", s.address, "fetch", model, "--out", out, "--resume"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.random() * 0.15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    run("fetch", model, "--out", out, "--resume", address=s.address)
    run("verify", out, model, address=s.address)
    assert list(tmp_path.glob("x.*")) == [out]
    s.idle()


def interrupted(s, model, out, limit):
    """Leaves a partial fetch behind."""
    proxy = Throttle(s.address, limit)
    process = subprocess.Popen([WEIGHTCTL, "--server", proxy.address, "fetch", model, "--out", out],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert proxy.held.wait(PATIENCE)
    wait_until(lambda: journalled(pathlib.Path(f"{out}.part.journal")), "something to be written down")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    proxy.close()
    assert process.returncode not in (0, 2) and "--resume" in said, (process.returncode, said)


def test_interrupted_then_resumed(serve, models, twenty, tmp_path):
    model, _ = twenty
    s = serve(models)
    out = tmp_path / "x.safetensors"
    interrupted(s, model, out, 5 << 20)
    run("fetch", model, "--out", out, "--resume", address=s.address)
    run("verify", out, model, address=s.address)


def test_resuming_something_else(serve, models, twenty, tmp_path):
    """What another model, another selection or another revision left behind is not continued."""
    model, _ = twenty
    s = serve(models)
    out = tmp_path / "x.safetensors"
    interrupted(s, model, out, 5 << 20)
    for other in (["sample.gguf"], [model, "--type", "f32"], [model, "--tensor", "t1*"]):
        run("fetch", *other, "--out", out, "--resume", address=s.address, status=1)
    assert not out.exists()
    run("fetch", model, "--out", out, "--resume", address=s.address)
    run("verify", out, model, address=s.address)


def test_a_damaged_partial_file_is_noticed(serve, models, twenty, tmp_path):
    """Bytes that do not match their record are fetched again."""
    model, _ = twenty
    s = serve(models)
    out = tmp_path / "x.safetensors"
    interrupted(s, model, out, 10 << 20)
    part = tmp_path / "x.safetensors.part"
    with open(part, "r+b") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        f.seek(8 + n + 1000)
        byte = f.read(1)
        f.seek(8 + n + 1000)
        f.write(bytes([byte[0] ^ 1]))
    run("fetch", model, "--out", out, "--resume", address=s.address)
    run("verify", out, model, address=s.address)


def test_resume_of_nothing_and_of_everything(serve, models, twenty, tmp_path):
    model, total = twenty
    s = serve(models)
    out = tmp_path / "x.safetensors"
    run("fetch", model, "--out", out, "--resume", address=s.address)
    before = s.counters().bytes_sent
    assert before == total
    run("fetch", model, "--out", out, "--resume", address=s.address)
    assert s.counters().bytes_sent == before, "a complete file needs nothing"
