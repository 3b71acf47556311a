# SPDX-License-Identifier: Apache-2.0
"""The image, as deployed: who it runs as, what it may do, health, drain, TLS and tokens, what it delivers."""
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import tarfile
import threading

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import IMAGE, TOKEN, podman
from ggufwrite import Gguf
from harness import PATIENCE, ROOT, failure, pb, stream, wait_until

CUDA = bool(os.environ.get("IMAGE_CUDA"))
CODE = grpc.StatusCode


# ------------------------------------------------------------------------------------------------------ the image

def test_description():
    about = json.loads(podman("inspect", IMAGE).stdout)[0]
    assert about["Size"] < (150e6 if CUDA else 60e6)
    version = re.search(r'WD_VERSION "([^"]+)"', (ROOT / "service/base/cli.h").read_text())[1]
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in about["Labels"].items()}
    assert labels["title"] == "weightd" and labels["licenses"] == "Apache-2.0" and labels["version"] == version
    assert labels["description"] and labels["revision"]
    assert podman("run", "--rm", "--network", "none", IMAGE, "--version").stdout == f"weightd {version}\n"
    config = about["Config"]
    assert config["User"] == "10001:10001" and config["StopSignal"] in ("SIGTERM", "15")
    assert set(config["ExposedPorts"]) == {"50151/tcp", "50152/tcp"}
    environment = dict(e.split("=", 1) for e in config["Env"])
    assert environment["NVIDIA_VISIBLE_DEVICES"] == ("all" if CUDA else "")
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_contents(tmp_path):
    """The same files as the folder that rootfs.sh makes here, so no compiler, no shell, no package manager."""
    here = tmp_path / "rootfs"
    subprocess.run([ROOT / "deploy/rootfs.sh", here, "--no-build", *["--cuda"] * CUDA], check=True, capture_output=True)
    expected = {str(p.relative_to(here)) for p in here.rglob("*")}
    name = podman("create", IMAGE).stdout.strip()
    try:
        with subprocess.Popen(["podman", "export", name], stdout=subprocess.PIPE) as export:
            with tarfile.open(fileobj=export.stdout, mode="r|") as tar:
                entries = {m.name.strip("/"): m for m in tar}
    finally:
        podman("rm", name)
    # Mount points that the engine puts in.
    engine = {"etc/hostname", "etc/hosts", "etc/resolv.conf", "run/.containerenv", "run/secrets", "etc/mtab", "dev/console"}
    assert {e for e in entries if e} - engine == expected
    assert not [n for n, m in entries.items() if m.mode & 0o6000]
    assert not {pathlib.PurePath(n).name for n, m in entries.items() if not m.isdir()} & {"sh", "bash", "gcc", "dpkg", "apt", "busybox", "nvcc"}


# -------------------------------------------------------------------------------------------------------- running

def test_unprivileged(deployed):
    status = dict(line.split(":\t", 1) for line in deployed.proc("status").read_text().splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}
    for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[which], 16) == 0, which
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"


def test_root_cannot_be_written(deployed):
    mounts = [line.split() for line in deployed.proc("mountinfo").read_text().splitlines()]
    options = {m[4]: m[5].split(",") for m in mounts}
    assert "ro" in options["/"] and "ro" in options["/models"] and "rw" in options["/tmp"]
    said = deployed.weightctl("fetch", "sample.gguf", "--out", "/models/x.safetensors", check=False)
    assert said.returncode == 1 and "Read-only file system" in said.stderr
    said = deployed.weightctl("fetch", "sample.gguf", "--out", "/x.safetensors", check=False)
    assert said.returncode == 1 and ("Read-only file system" in said.stderr or "Permission denied" in said.stderr)
    deployed.weightctl("fetch", "sample.gguf", "--out", "/tmp/x.safetensors")


def test_health(run):
    c = run()
    assert c.healthy()
    # It is the server that is asked: one that does not answer is not healthy.
    pid = c.state()["Pid"]
    os.kill(pid, signal.SIGSTOP)
    assert not c.healthy()
    os.kill(pid, signal.SIGCONT)
    assert c.healthy()
    assert c.stop() == 0


def test_it_does_not_start_open_to_all(run):
    """As it stands the image listens on all addresses, so it wants TLS, and tokens or client certificates."""
    c = run(environment={"WEIGHTD_TLS_CERT": None, "WEIGHTD_TLS_KEY": None, "WEIGHTD_TOKEN_FILE": None}, wait=False)
    assert int(podman("wait", c.name).stdout) in (1, 2)
    assert "--tls-cert" in c.log() and "--insecure" in c.log()


def test_missing_models_and_secrets(run):
    c = run(environment={"WEIGHTD_MODEL_ROOT": "/elsewhere"}, wait=False)
    assert int(podman("wait", c.name).stdout) == 1 and "/elsewhere" in c.log()
    c = run(environment={"WEIGHTD_TLS_KEY": "/run/secrets/absent"}, wait=False)
    assert int(podman("wait", c.name).stdout) == 1 and "/run/secrets/absent" in c.log()


# --------------------------------------------------------------------------------------------------- TLS and tokens

def test_tls_is_required(deployed):
    failure(lambda: deployed.info(secure=False, token=None), CODE.UNAVAILABLE)
    assert deployed.info().version


@pytest.mark.parametrize("token", [None, "wrong-token-of-the-tests", TOKEN + "x"])
def test_token_is_required(deployed, token):
    failure(lambda: deployed.info(token=token), CODE.UNAUTHENTICATED)


def test_secrets_are_renewed(run, folder):
    """A token added to the mounted file counts without a restart."""
    c = run()
    fresh = "a-third-token-of-the-tests"
    failure(lambda: c.info(token=fresh), CODE.UNAUTHENTICATED)
    path = folder / "secrets/tokens"
    before = path.read_bytes()
    try:
        replacement = path.with_name("tokens.new")
        replacement.write_bytes(before + fresh.encode() + b"\n")
        os.chown(replacement, 10001, 10001)
        os.replace(replacement, path)

        def taken():
            try:
                return c.info(token=fresh)
            except grpc.RpcError as e:
                assert e.code() == CODE.UNAUTHENTICATED
        wait_until(taken, "the new token to count")
    finally:
        path.write_bytes(before)


# ------------------------------------------------------------------------------------------------------- delivering

def test_fetch_bit_for_bit(deployed, tmp_path):
    """What a stock client gets, and what weightctl of the image writes, are the bits of the committed digests."""
    rows = [line.split("\t") for line in (ROOT / "tests/data/sample.expected.tsv").read_text().splitlines()[1:]]
    got = {d.tensor.name: bytes(d.data) for d in stream(deployed.stub(), "sample.gguf")}
    assert {n: hashlib.sha256(data).hexdigest() for n, data in got.items()} == {row[0]: row[4] for row in rows}
    deployed.weightctl("fetch", "sample.gguf", "--out", "/tmp/all.safetensors")
    said = deployed.weightctl("verify", "/tmp/all.safetensors", "sample.gguf")
    assert "bit for bit" in said.stdout
    written = deployed.proc("root/tmp/all.safetensors").read_bytes()
    (tmp_path / "all.safetensors").write_bytes(written)
    arrays = load_file(tmp_path / "all.safetensors")
    assert {name: a.tobytes() for name, a in arrays.items()} == got
    assert all(a.dtype == np.float16 for a in arrays.values())


def test_drain(run, folder):
    """SIGTERM: a running stream is delivered whole, new calls are refused, and the exit status is 0."""
    Gguf().tensor("x", "F16", (1 << 20, 100)).write(folder / "models/big.gguf")
    c = run(environment={"WEIGHTD_GRACE": "2m"})
    call = c.stub().StreamTensors(pb.StreamTensorsRequest(model="big.gguf"), timeout=PATIENCE)
    got = len(next(call).data)
    status = []
    waiter = threading.Thread(target=lambda: status.append(c.stop()))
    waiter.start()
    wait_until(lambda: "draining" in c.log(), "the drain to begin")
    assert not c.healthy()
    got += sum(len(chunk.data) for chunk in call)
    assert got == 2 * 100 << 20
    waiter.join(PATIENCE)
    assert status == [0]


def test_logs_are_json(run):
    c = run(environment={"WEIGHTD_LOG": "json"})
    stream(c.stub(), "sample.gguf")
    wait_until(lambda: "StreamTensors" in c.log(), "the log line")
    lines = [json.loads(line) for line in c.log().splitlines()]
    assert any(line.get("method") == "StreamTensors" and line.get("status") == "OK" for line in lines)
    assert TOKEN not in c.log()
