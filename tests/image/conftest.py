# SPDX-License-Identifier: Apache-2.0
"""Runs the image as it is deployed; deploy/test has built it, named it in IMAGE and given the tests a network of their own."""
import contextlib
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess

import grpc
import pytest

import certs
from harness import PATIENCE, SAMPLE, pb, pb_grpc, wait_until

IMAGE = os.environ["IMAGE"]
TOKEN = "token-of-the-image-tests"
HARDENED = ["--network", "host", "--user", "10001:10001", "--read-only", "--tmpfs", "/tmp:size=64m", "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges", "--memory", "1g", "--pids-limit", "256"]
numbers = itertools.count()


def podman(*arguments, check=True):
    done = subprocess.run(["podman", *map(str, arguments)], capture_output=True, text=True)
    # Without systemd there is no timer for health checks, which the tests ask for themselves.
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if "systemd" not in line)
    assert not check or done.returncode == 0, f"podman {arguments}: {done.stderr}"
    return done


@pytest.fixture(scope="session", autouse=True)
def loopback():
    """A network of its own begins with its loopback device down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        flags = fcntl.ioctl(s, 0x8913, struct.pack("16sh22x", b"lo", 0))
        up = struct.unpack("16sh22x", flags)[1] | 1
        fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", up))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """What is mounted: models, and secrets that user 10001 can read."""
    folder = tmp_path_factory.mktemp("deployed")
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    (folder / "models").mkdir()
    shutil.copy(SAMPLE, folder / "models")
    secrets = folder / "secrets"
    secrets.mkdir()
    authority = certs.Authority()
    pair = authority.issue("weightd")
    for name, content in (("tls.crt", pair.cert), ("tls.key", pair.key), ("ca.crt", authority.cert),
                          ("tokens", f"{TOKEN}\nanother-token-of-the-tests\n".encode())):
        (secrets / name).write_bytes(content)
        os.chown(secrets / name, 10001, 10001)
        (secrets / name).chmod(0o400)
    return folder


class Container:
    """One of the image, running. Options are podman's, arguments weightd's."""

    def __init__(self, folder, *options, environment=None, arguments=(), image=IMAGE, wait=True):
        self.folder, self.name, self.channels = folder, f"weightd-test-{os.getpid()}-{next(numbers)}", []
        environment = {"WEIGHTD_TLS_CERT": "/run/secrets/tls.crt", "WEIGHTD_TLS_KEY": "/run/secrets/tls.key",
                       "WEIGHTD_TOKEN_FILE": "/run/secrets/tokens", **(environment or {})}
        podman("run", "--detach", "--name", self.name, *HARDENED, "--volume", f"{folder}/models:/models:ro", "--volume",
               f"{folder}/secrets:/run/secrets:ro", *[f"--env={k}={v}" for k, v in environment.items() if v is not None],
               *options, image, *arguments)
        if wait:
            wait_until(lambda: self.state()["Status"] != "running" or self.healthy(), f"{self.name} to be healthy")
            assert self.state()["Status"] == "running", self.log()

    def state(self):
        return json.loads(podman("inspect", self.name).stdout)[0]["State"]

    def healthy(self):
        return podman("healthcheck", "run", self.name, check=False).returncode == 0

    def log(self):
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def proc(self, what):
        """A file or folder of /proc of weightd's process."""
        return pathlib.Path("/proc", str(self.state()["Pid"]), what)

    def exec(self, *command, check=True):
        return podman("exec", self.name, *command, check=check)

    def weightctl(self, *arguments, check=True):
        return self.exec("weightctl", "--server=localhost:50151", "--tls-ca=/run/secrets/ca.crt",
                         "--token-file=/run/secrets/tokens", *arguments, check=check)

    def channel(self, secure=True, token=TOKEN):
        options = [("grpc.use_local_subchannel_pool", 1), ("test.number", next(numbers))]
        if not secure:
            made = grpc.insecure_channel("localhost:50151", options)
        else:
            credentials = grpc.ssl_channel_credentials((self.folder / "secrets/ca.crt").read_bytes())
            if token:
                credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
            made = grpc.secure_channel("localhost:50151", credentials, options)
        self.channels.append(made)
        return made

    def stub(self, **options):
        return pb_grpc.WeightServiceStub(self.channel(**options))

    def info(self, **options):
        return self.stub(**options).GetServerInfo(pb.GetServerInfoRequest(), timeout=PATIENCE)

    def stop(self):
        """SIGTERM, as podman stop sends it; returns the exit status."""
        podman("kill", "--signal", "TERM", self.name)
        return int(podman("wait", self.name).stdout)

    def close(self):
        for channel in self.channels:
            channel.close()
        podman("rm", "--force", "--time", "0", "--volumes", self.name, check=False)


shared = []  # the container of `deployed`, while it runs


def close_shared():
    while shared:
        shared.pop().close()


@pytest.fixture
def run(folder):
    """Starts containers that end with the test. The image's ports are of one at a time, so the shared one ends."""
    close_shared()
    with contextlib.ExitStack() as stack:
        def start(*options, **named):
            container = Container(folder, *options, **named)
            stack.callback(container.close)
            return container
        yield start


@pytest.fixture
def deployed(folder):
    """A container that tests share which do nothing special to it."""
    if not shared:
        shared.append(Container(folder))
    yield shared[0]


@pytest.fixture(scope="session", autouse=True)
def end_of_shared():
    yield
    close_shared()
