# SPDX-License-Identifier: Apache-2.0
"""Starts the real server and hands out stock gRPC clients for it.

WEIGHTD and WEIGHTCTL name the programs (default: what Bazel built), WEIGHTD_GOLDEN the folder of golden files, and
WEIGHTD_FULL=1 asks for the long tests. WEIGHTD_WRAPPER is a command to run the server under, such as valgrind.
"""
import atexit
import itertools
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import grpc
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WEIGHTD = os.environ.get("WEIGHTD", str(ROOT / "bazel-bin/service/weightd"))
WEIGHTCTL = os.environ.get("WEIGHTCTL", str(ROOT / "bazel-bin/client/weightctl"))
FULL = os.environ.get("WEIGHTD_FULL", "") not in ("", "0")
WRAPPER = shlex.split(os.environ.get("WEIGHTD_WRAPPER", ""))
GOLDEN = pathlib.Path(os.environ["WEIGHTD_GOLDEN"]) if os.environ.get("WEIGHTD_GOLDEN") else None
SAMPLE = ROOT / "tests/data/sample.gguf"
# A proxy that the machine may have is not for loopback.
os.environ["no_grpc_proxy"] = "127.0.0.1,localhost"
# Waits are safety nets against a hang, nothing is measured: generous, for slow machines and valgrind.
PATIENCE = 120 * (10 if WRAPPER else 1)


def _generate_stubs():
    """Python modules of our protos, made afresh in a folder of their own."""
    from grpc_tools import protoc

    out = tempfile.mkdtemp(prefix="weightd-stubs-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    files = ["weightd/v1/weightd.proto", "grpc/reflection/v1/reflection.proto"]
    for f in files:
        status = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}", f"--grpc_python_out={out}", f])
        assert status == 0, f"protoc failed on {f}"
    # grpc/ is the gRPC package itself: its reflection stubs go in under another name.
    os.rename(os.path.join(out, "grpc"), os.path.join(out, "wdgrpc"))
    stub = pathlib.Path(out, "wdgrpc/reflection/v1/reflection_pb2_grpc.py")
    stub.write_text(stub.read_text().replace("from grpc.reflection.v1 import", "from wdgrpc.reflection.v1 import"))
    sys.path.insert(0, out)
    return out


STUBS = _generate_stubs()
from weightd.v1 import weightd_pb2 as pb  # noqa: E402
from weightd.v1 import weightd_pb2_grpc as pb_grpc  # noqa: E402


def wait_until(condition, what, patience=PATIENCE):
    """Waits for something that must come to pass; how long it takes is not judged."""
    end = time.monotonic() + patience
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.01)


def needs_cpu(simd):
    """Skips the test where this CPU (or valgrind's) lacks the instructions of a decode path."""
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    if simd == "avx2" and " avx2" not in flags or simd == "avx512" and (" avx512f" not in flags or WRAPPER):
        pytest.skip(f"no {simd} here")


class Server:
    def __init__(self, root, *flags, listen="127.0.0.1:0", env=None, tmp=None, user=None, program=None):
        self.tmp = pathlib.Path(tmp)
        self.tmp.mkdir(parents=True, exist_ok=True)
        number = next(Server.numbers)
        self.ready = self.tmp / f"ready-{number}"
        self.log_path = self.tmp / f"log-{number}"
        self.args = [program or WEIGHTD, "serve", "--model-root", str(root), "--listen", listen,
                     "--ready-file", str(self.ready), *map(str, flags)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTD_")}
        if WRAPPER:  # valgrind knows no AVX-512, and stops all threads while one waits in io_uring
            environment.update(WEIGHTD_SIMD="portable", WEIGHTD_IO="threads")
        environment.update(env or {})
        self.log_file = open(self.log_path, "wb")
        self.process = subprocess.Popen(WRAPPER + self.args, stdin=subprocess.DEVNULL, stdout=self.log_file,
                                        stderr=self.log_file, env=environment, user=user)
        self.channels, self.returncode = [], None
        wait_until(lambda: self.ready.exists() and self.ready.read_text().strip() or self.process.poll() is not None,
                   "the server to be ready")
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
        self.address = self.ready.read_text().strip()

    numbers = itertools.count()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def channel(self, options=None):
        channel = grpc.insecure_channel(self.address, options=options)
        self.channels.append(channel)
        return channel

    def new_stub(self, *options):
        """A stub on a connection of its own, as unconfigured as can be but for the options."""
        return pb_grpc.WeightServiceStub(self.channel([("grpc.use_local_subchannel_pool", 1), *options]))

    @property
    def stub(self):
        if not hasattr(self, "_stub"):
            self._stub = pb_grpc.WeightServiceStub(self.channel())
        return self._stub

    def info(self):
        return self.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=PATIENCE)

    def counters(self):
        return self.info().counters

    def idle(self):
        """Waits until no stream is left, and returns the counters; every buffer is back then."""
        def settled():
            c = self.counters()
            return c if not c.streams_active and not c.buffers_in_use else None
        return wait_until(settled, "streams to end and buffers to come back")

    def vm_hwm(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))

    def alive(self):
        return self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        self.returncode = self.process.wait(PATIENCE)
        return self.returncode

    def close(self, expect=0):
        """Ends the server like an operator would. It must end well."""
        for c in self.channels:
            c.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the server did not end after SIGTERM") from None
        finally:
            self.log_file.close()
        if expect is not None:
            assert code == expect, f"the server ended with {code}:\n{self.log()[-4000:]}"
        for word in ("AddressSanitizer", "runtime error:", "ThreadSanitizer"):
            assert word not in self.log(), self.log()[-8000:]


# ------------------------------------------------------------------------------------------------ talking to it

def describe(stub, model, **fields):
    """(header, metadata entries, tensors, sizes of the messages)."""
    header, metadata, tensors, sizes = None, [], [], []
    for i, message in enumerate(stub.DescribeModel(pb.DescribeModelRequest(model=model, **fields), timeout=PATIENCE)):
        if i == 0:
            assert message.HasField("header") and not message.metadata and not message.tensors
            header = message.header
        else:
            assert not message.HasField("header")
            assert not (tensors and message.metadata), "metadata comes before tensors"
        metadata.extend(message.metadata)
        tensors.extend(message.tensors)
        sizes.append(message.ByteSize())
    assert header is not None
    return header, metadata, tensors, sizes


class Delivered:
    """What came of one tensor, or of one range."""

    def __init__(self, first):
        self.tensor, self.summary, self.begin, self.chunks = first.tensor, None, first.offset, []

    @property
    def data(self):
        return b"".join(self.chunks)


def stream(stub, model, *tensors, timeout=PATIENCE, check=True, **fields):
    """Streams and checks everything a stream promises; a list of Delivered, in order."""
    import google_crc32c

    request = pb.StreamTensorsRequest(model=model, tensors=tensors, **fields)
    limit = request.chunk_bytes or 1 << 20
    out, open_unit, at = [], None, 0
    for chunk in stub.StreamTensors(request, timeout=timeout):
        if open_unit is None:
            assert chunk.HasField("tensor"), "the first chunk carries the tensor"
            open_unit, at = Delivered(chunk), chunk.offset
            out.append(open_unit)
            assert chunk.tensor.index == chunk.tensor_index
        else:
            assert not chunk.HasField("tensor")
            assert chunk.data, "only a tensor without elements has an empty chunk"
        assert chunk.tensor_index == open_unit.tensor.index and chunk.offset == at
        if check:
            assert len(chunk.data) <= limit
            assert chunk.crc32c == google_crc32c.value(chunk.data)
        at += len(chunk.data)
        open_unit.chunks.append(chunk.data)
        if chunk.HasField("summary"):
            open_unit.summary = chunk.summary
            if check:
                data = open_unit.data
                assert chunk.summary.bytes == len(data) and chunk.summary.crc32c == google_crc32c.value(data)
            open_unit = None
    assert open_unit is None, "the last chunk carries the summary"
    return out


def one(stub, model, name, **fields):
    """One tensor's Delivered."""
    out = stream(stub, model, name, **fields)
    assert len(out) == 1
    return out[0]


def failure(call, *codes):
    """Runs call, which must fail with one of these codes; returns what the server said."""
    with pytest.raises(grpc.RpcError) as caught:
        result = call()
        if hasattr(result, "__iter__"):
            list(result)
    assert caught.value.code() in codes, f"{caught.value.code()}: {caught.value.details()}"
    details = caught.value.details()
    assert details and "\n" not in details, "a status says what is wrong, in one line"
    return details


def preload(library):
    """What has a program load a library before its own. A sanitizer wants to be the first, and is told that this is no
    matter."""
    return {"LD_PRELOAD": str(library), "ASAN_OPTIONS": "verify_asan_link_order=0"}


full_only = pytest.mark.skipif(not FULL, reason="only with --full")
