# SPDX-License-Identifier: Apache-2.0
"""client/python/fetch.py, the documented Python client for replicas, as a program."""
import json
import os
import signal
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest

import certs
import oracle
from ggufwrite import Gguf
from harness import PATIENCE, ROOT, WEIGHTCTL, stream, wait_until
from test_replicas import NSS_WRAPPER, Slow
from test_weightctl import run

MIB = 1 << 20


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """60 MB as FP16, with names and shapes that are trouble."""
    folder = tmp_path_factory.mktemp("replicas")
    g = Gguf()
    for i in range(5):
        g.tensor(f"blk.{i}.weight", "Q8_0", (1024, 1024 * (4 + i)), oracle.blocks("Q8_0", 32 * 1024 * (4 + i), i))
    g.tensor("../../up", "F32", (3, 5), np.arange(15, dtype=np.float32).tobytes())
    g.tensor("none", "F16", (64, 0), b"")
    g.write(folder / "m.gguf")
    return folder


def start(servers, out, *arguments):
    return subprocess.Popen([sys.executable, ROOT / "client/python/fetch.py", "--server", servers, "m.gguf", "--out", out,
                             *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process, status=0):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, (process.returncode, out, err)
    return out, err


def check(out, server, names=None, output_type="F16"):
    delivered = {d.tensor.name: d for d in stream(server.stub, "m.gguf", *(names or []), output_type=output_type)}
    files = {urllib.parse.unquote(p.name.removesuffix(".npy")): np.load(p) for p in out.iterdir()}
    assert set(files) == set(delivered)
    for name, d in delivered.items():
        assert files[name].shape == tuple(d.tensor.shape) and files[name].tobytes() == d.data


@pytest.fixture
def three(serve, root):
    return [serve(root, expect=None) for _ in range(3)]


def one_first(servers):
    """Throttles: the first server's passes 6 MiB; the others' nothing, so that no connection of theirs is ready, and
    the first one is in the middle of pieces before they have any."""
    return Slow(servers[:1], 6 * MIB), Slow(servers[1:], 0)


def addresses(servers):
    return ",".join(s.address for s in servers)


def test_it_is_documented():
    text = (ROOT / "README.md").read_text()
    assert "client/python/fetch.py" in text
    said = subprocess.run([sys.executable, ROOT / "client/python/fetch.py", "--help"], capture_output=True, text=True)
    assert said.returncode == 0 and "--server" in said.stdout


def test_all_alive(three, tmp_path):
    end(start(addresses(three), tmp_path / "x", "--piece-mib", 4))
    sent = [s.counters().bytes_sent for s in three]
    assert sum(sent) == 60 * MIB + 30 and all(n >= 8 * MIB for n in sent), sent
    check(tmp_path / "x", three[0])


def test_some_tensors_of_one_server_as_f32(three, tmp_path):
    end(start(three[0].address, tmp_path / "x", "--tensor", "blk.1*", "--tensor", "none", "--type", "f32"))
    check(tmp_path / "x", three[0], ["blk.1*", "none"], "F32")


def test_one_killed(three, tmp_path):
    slow, others = one_first(three)
    process = start(f"{slow.addresses},{others.addresses}", tmp_path / "x", "--piece-mib", 4)
    try:
        slow.wait()
        others.release()
        three[0].process.kill()
        three[0].process.wait()
        slow.close()
        end(process)
    finally:
        process.kill()
        slow.close()
        others.close()
    # What the first one had delivered was not asked for again, but for what was in its proxy.
    assert 50 * MIB < sum(s.idle().bytes_sent for s in three[1:]) < 60 * MIB
    check(tmp_path / "x", three[1])


def test_one_hangs(three, tmp_path):
    slow, others = one_first(three)
    process = start(f"{slow.addresses},{others.addresses}", tmp_path / "x", "--piece-mib", 4, "--timeout", 10)
    try:
        slow.wait()
        others.release()
        three[0].signal(signal.SIGSTOP)
        end(process)
    finally:
        process.kill()
        three[0].signal(signal.SIGCONT)
        slow.close()
        others.close()
    check(tmp_path / "x", three[1])


def test_none_left(three, tmp_path):
    slow = Slow(three, 6 * MIB)
    process = start(slow.addresses, tmp_path / "x", "--piece-mib", 4)
    try:
        wait_until(lambda: any(p.held.is_set() for p in slow.proxies), "one to be in the middle of a piece")
        slow.close()
        _, stderr = end(process, status=1)
    finally:
        process.kill()
        slow.close()
    assert "UNAVAILABLE" in stderr and "Traceback" not in stderr


def test_another_revision(three, serve, root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "m.gguf").write_bytes((root / "m.gguf").read_bytes() + bytes(32))
    s = serve(other)
    _, stderr = end(start(addresses([three[0], s]), tmp_path / "x", "--piece-mib", 4), status=1)
    assert "FAILED_PRECONDITION" in stderr


@pytest.mark.skipif(not NSS_WRAPPER, reason="no libnss-wrapper here")
def test_a_name_with_several_addresses(serve, root, tmp_path):
    first = serve(root)
    port = first.address.rsplit(":", 1)[1]
    second = serve(root, listen=f"127.0.0.2:{port}")
    (tmp_path / "hosts").write_text("127.0.0.1 weights.test\n127.0.0.2 weights.test\n")
    env = {**os.environ, **NSS_WRAPPER, "NSS_WRAPPER_HOSTS": str(tmp_path / "hosts"), "GRPC_DNS_RESOLVER": "native"}
    subprocess.run([sys.executable, ROOT / "client/python/fetch.py", "--server", f"dns:///weights.test:{port}", "m.gguf",
                    "--out", tmp_path / "x", "--piece-mib", "4"], env=env, check=True, timeout=PATIENCE)
    assert first.counters().bytes_sent + second.counters().bytes_sent == 60 * MIB + 30
    assert first.counters().bytes_sent and second.counters().bytes_sent
    check(tmp_path / "x", first)


@pytest.fixture
def secured(serve, root, tmp_path):
    """Two servers at one name that want TLS and a token, the name's hosts file, and the flags for them."""
    authority = certs.Authority()
    (tmp_path / "ca.crt").write_bytes(authority.cert)
    cert, key = authority.issue("server", hosts=["weights.test", "127.0.0.1"]).write(tmp_path, "server")
    (tmp_path / "tokens").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "tokens").chmod(0o600)
    (tmp_path / "hosts").write_text("127.0.0.1 weights.test\n127.0.0.2 weights.test\n")
    flags = ["--tls-cert", cert, "--tls-key", key, "--token-file", tmp_path / "tokens"]
    first = serve(root, *flags)
    port = first.address.rsplit(":", 1)[1]
    serve(root, *flags, listen=f"127.0.0.2:{port}")
    return port, ["--tls-ca", tmp_path / "ca.crt", "--token-file", tmp_path / "tokens"]


def test_with_tls_and_a_token(serve, root, secured, tmp_path):
    """Certificates are held against the name that was given, not against the addresses it has."""
    port, flags = secured
    plain = serve(root)
    _, stderr = end(start(f"127.0.0.1:{port}", tmp_path / "refused"), status=1)
    assert "UNAVAILABLE" in stderr
    end(start(f"127.0.0.1:{port},127.0.0.2:{port}", tmp_path / "x", "--piece-mib", 4, *flags))
    check(tmp_path / "x", plain)


@pytest.mark.skipif(not NSS_WRAPPER, reason="no libnss-wrapper here")
def test_tls_at_a_name_with_several_addresses(serve, root, secured, tmp_path):
    port, flags = secured
    plain = serve(root)
    env = {**os.environ, **NSS_WRAPPER, "NSS_WRAPPER_HOSTS": str(tmp_path / "hosts"), "GRPC_DNS_RESOLVER": "native"}
    done = subprocess.run([WEIGHTCTL, "--server", f"dns:///weights.test:{port}", "fetch", "m.gguf", "--out",
                           tmp_path / "x.safetensors", "--json", *flags], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(s["bytes"] > 20 * MIB and not s["losses"] for s in json.loads(done.stdout)["servers"])
    run("verify", tmp_path / "x.safetensors", "m.gguf", address=plain.address)
    subprocess.run([sys.executable, ROOT / "client/python/fetch.py", "--server", f"dns:///weights.test:{port}", "m.gguf",
                    "--out", tmp_path / "x", *flags], env=env, check=True, timeout=PATIENCE)
    check(tmp_path / "x", plain)
