# SPDX-License-Identifier: Apache-2.0
"""The whole service on a machine with a GPU: python3 service_test.py BUNDLE [GOLDEN], run there by tests/gpu/run.sh.

A server that decodes on the GPU against one that decodes on the CPU: every byte and every statistic; then leases of GPU
memory, mapped by this process with CuPy. Needs grpcio, protobuf and cupy, no generated code: messages come from the
descriptor set in the bundle.
"""
import atexit
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

BUNDLE = pathlib.Path(sys.argv[1]).resolve()
GOLDEN = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 and pathlib.Path(sys.argv[2]).is_dir() else None
ENVIRONMENT = {**os.environ, "LD_LIBRARY_PATH": str(BUNDLE / "lib")}

files = descriptor_pb2.FileDescriptorSet.FromString((BUNDLE / "services.binpb").read_bytes())
pool = descriptor_pool.DescriptorPool()
for f in files.file:
    pool.Add(f)


def message(name):
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"weightd.v1.{name}"))


class Server:
    def __init__(self, root, folder, *flags, **environment):
        self.socket = pathlib.Path(folder, "socket")
        ready = pathlib.Path(folder, "ready")
        self.log = pathlib.Path(folder, "log")
        self.process = subprocess.Popen(
            [BUNDLE / "weightd", "serve", "--model-root", root, "--listen", f"unix:{self.socket}", "--ready-file", ready,
             *flags], env={**ENVIRONMENT, **environment}, stderr=self.log.open("w"))
        atexit.register(self.process.kill)  # whatever fails, it does not stay behind
        while not ready.exists():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        self.address = f"unix:{self.socket}"
        self.channel = grpc.insecure_channel(self.address)

    def call(self, kind, method, request, response):
        make = getattr(self.channel, kind)
        return make(f"/weightd.v1.WeightService/{method}", request_serializer=lambda m: m.SerializeToString(),
                    response_deserializer=message(response).FromString)(request)

    def info(self):
        return self.call("unary_unary", "GetServerInfo", message("GetServerInfoRequest")(), "GetServerInfoResponse")

    def tensors(self, **request):
        out, data = {}, None
        for chunk in self.call("unary_stream", "StreamTensors", message("StreamTensorsRequest")(**request), "TensorChunk"):
            data = bytearray() if chunk.HasField("tensor") else data
            tensor = chunk.tensor if chunk.HasField("tensor") else tensor
            data += chunk.data
            if chunk.HasField("summary"):
                s = chunk.summary
                out[tensor.name] = bytes(data), s.crc32c, (s.overflows, s.nans, s.infinities)
        return out

    def stats(self, model):
        return [m.SerializeToString(deterministic=True) for m in self.call(
            "unary_stream", "StreamStats", message("StreamStatsRequest")(model=model), "TensorStats")]

    def lease(self, requests):
        return self.call("stream_stream", "LeaseTensors", requests, "LeasedTensor")

    def ctl(self, *arguments):
        return subprocess.run([BUNDLE / "weightctl", "--server", self.address, *arguments], env=ENVIRONMENT, check=True,
                              capture_output=True, text=True).stdout

    def stop(self):
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, self.log.read_text()


passed = 0


def check(condition, what):
    global passed
    if not condition:
        sys.exit(f"FAILED: {what}")
    passed += 1


def same_bytes(cpu, gpu, model):
    slices = [{}] + [{"selections": [{"pattern": "*", "slice": {"axis": -1, "rank": r, "of": 3}}]} for r in range(3)]
    slices.append({"selections": [{"pattern": "blk.0.*.weight", "row_begin": 1, "row_end": 2}]})
    for output in range(4):
        for extra in slices if output == 0 else slices[:1]:
            if extra and model != "sample.gguf":
                continue
            request = {"model": model, "output_type": output, "chunk_bytes": 4096 if model == "sample.gguf" else 0}
            check(cpu.tensors(**request, **extra) == gpu.tensors(**request, **extra), f"{model}, output {output}, {extra}")
    check(cpu.stats(model) == gpu.stats(model), f"statistics of {model}")


def mapped(leased, cupy, allocation):
    """The bytes of a leased tensor, copied from the mapped memory."""
    size = leased.tensor.output_bytes
    memory = cupy.cuda.UnownedMemory(allocation + leased.offset, max(size, 1), None)
    return cupy.ndarray((size,), cupy.uint8, cupy.cuda.MemoryPointer(memory, 0)).get().tobytes()


class Requests:
    """A request stream that stays open until it is told to end."""

    def __init__(self, request):
        import queue
        self.queue = queue.Queue()
        self.queue.put(request)

    def __iter__(self):
        return iter(self.queue.get, None)

    def end(self):
        self.queue.put(None)


def wait_for(condition, what):
    end = time.monotonic() + 60
    while not condition():
        check(time.monotonic() < end, f"waited in vain: {what}")
        time.sleep(0.02)


def leases(gpu, models):
    import cupy
    for model in models:
        for output in range(3):
            want = {name: data for name, (data, _, _) in gpu.tensors(model=model, output_type=output).items()}
            requests = Requests(message("LeaseTensorsRequest")(model=model, output_type=output))
            got, allocation, complete = {}, None, False
            for leased in (call := gpu.lease(iter(requests))):
                if leased.complete:
                    complete = True
                    break
                if allocation is None:
                    allocation = cupy.cuda.runtime.ipcOpenMemHandle(leased.ipc_handle)
                check(leased.offset % 256 == 0, "alignment")
                got[leased.tensor.name] = mapped(leased, cupy, allocation)
            check(complete and got.keys() == want.keys(), f"lease of {model} is complete")
            for name in want:  # any NaN for a NaN: the CPU counts them and unifies them, leases are as decoded
                check(equal(got[name], want[name], output), f"leased {name} of {model} as {output}")
            check(gpu.info().counters.gpu_bytes_leased > 0, "leases are counted")
            if allocation is not None:
                cupy.cuda.runtime.ipcCloseMemHandle(allocation)
            requests.end()
            check(list(call) == [] and call.code() == grpc.StatusCode.OK, "half-closing ends a lease")
            wait_for(lambda: gpu.info().counters.gpu_bytes_leased == 0, "memory comes back")


def equal(a, b, output):
    import numpy as np
    if a == b:
        return True
    kind, infinity = [(np.uint16, 0x7C00), (np.uint16, 0x7F80), (np.uint32, 0x7F800000)][output]
    a, b = np.frombuffer(a, kind), np.frombuffer(b, kind)
    magnitude = kind(~np.uint32(1 << 31) if kind is np.uint32 else 0x7FFF)
    nan = ((a & magnitude) > infinity) & ((b & magnitude) > infinity)
    return len(a) == len(b) and bool(((a == b) | nan).all())


CHILD = """
import sys; sys.argv = sys.argv[1:]
exec(open(sys.argv[0]).read().split("passed = 0")[0])
class Old(Server):
    def __init__(self, address): self.channel = grpc.insecure_channel(address)
import queue
q = queue.Queue(); q.put(message("LeaseTensorsRequest")(model="sample.gguf"))
for leased in Old(sys.argv[2]).lease(iter(q.get, None)):
    if leased.complete: print("leased", flush=True)
"""


def lives_and_deaths(gpu):
    child = subprocess.Popen([sys.executable, "-c", CHILD, __file__, str(BUNDLE), gpu.address], stdout=subprocess.PIPE,
                             text=True)
    check(child.stdout.readline() == "leased\n", "a child leases")
    check(gpu.info().counters.gpu_bytes_leased > 0, "its lease is counted")
    child.kill()
    child.wait()
    wait_for(lambda: gpu.info().counters.gpu_bytes_leased == 0, "memory of a dead client comes back")
    requests = Requests(message("LeaseTensorsRequest")(model="sample.gguf"))
    call = gpu.lease(iter(requests))
    check(next(call).tensor.name, "a lease begins")
    call.cancel()
    wait_for(lambda: gpu.info().counters.gpu_bytes_leased == 0, "memory of a cancelled lease comes back")


def drained(root, folder):
    """A lease outlives SIGTERM by the grace period and no more; the server still exits with 0."""
    server = Server(root, folder, "--device", "cuda", "--allow-cuda-ipc", "--grace", "1s")
    requests = Requests(message("LeaseTensorsRequest")(model="sample.gguf"))
    call = server.lease(iter(requests))
    while not next(call).complete:
        pass
    server.process.send_signal(signal.SIGTERM)
    try:
        list(call)
        check(False, "a drain ends a lease")
    except grpc.RpcError as e:
        check(e.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE), f"how a drain ends it: {e.code()}")
    check(server.process.wait(timeout=60) == 0, "a drained server exits with 0")
    requests.end()
    server.channel.close()


def out_of_memory(root, folder):
    """More than the device has is a status, and the device works on."""
    server = Server(root, folder, "--device", "cuda", "--allow-cuda-ipc", "--gpu-memory-budget", "2T")
    requests = Requests(message("LeaseTensorsRequest")(model="huge.gguf"))
    try:
        list(server.lease(iter(requests)))
        check(False, "a lease beyond the device's memory")
    except grpc.RpcError as e:
        check(e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "out of memory" in e.details(), e.details())
    requests.end()
    wait_for(lambda: server.info().counters.gpu_bytes_leased == 0, "what was counted is given back")
    check(len(server.tensors(model="sample.gguf")) > 40, "the device works on")
    server.stop()


def unpinned(cpu, root, folder):
    """A host that refuses to pin memory gets a warning, once, and the same bits."""
    server = Server(root, folder, "--device", "cuda", WEIGHTD_CUDA_LIBRARY=str(BUNDLE / "libweightd_cuda_unpinned.so"))
    check(server.info().backend == "cuda", "a host without pinned memory decodes on the GPU")
    for model in ["sample.gguf", "big.gguf"]:
        same_bytes(cpu, server, model)
    server.stop()
    check(server.log.read_text().count("cannot be pinned") == 1, "it says once that memory cannot be pinned")


def refusals(gpu):
    for request, code, word in [
            ({"model": "sample.gguf", "output_type": 3}, grpc.StatusCode.INVALID_ARGUMENT, "STORED"),
            ({"model": "sample.gguf", "device": "cuda:99"}, grpc.StatusCode.INVALID_ARGUMENT, "device"),
            ({"model": "nothing.gguf"}, grpc.StatusCode.NOT_FOUND, "nothing"),
            ({"model": "big.gguf"}, grpc.StatusCode.RESOURCE_EXHAUSTED, "--gpu-memory-budget")]:
        requests = Requests(message("LeaseTensorsRequest")(**request))
        try:
            list(gpu.lease(iter(requests)))
            check(False, f"{request} is refused")
        except grpc.RpcError as e:
            check(e.code() == code and word in e.details(), f"{request}: {e.code()} {e.details()}")
        requests.end()


def main():
    sys.path.insert(0, str(BUNDLE))
    import ggufwrite
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "models")
        root.mkdir()
        (root / "sample.gguf").write_bytes((BUNDLE / "sample.gguf").read_bytes())
        g = ggufwrite.Gguf()
        blocks = os.urandom(144 << 10)
        for i in range(8):
            g.tensor(f"t{i}", "Q4_K", (4096, 4096), blocks * (4096 * 4096 // 256 // 1024))
        g.write(str(root / "big.gguf"))
        ggufwrite.Gguf().tensor("t", "F16", (1 << 20, 1 << 17)).write(str(root / "huge.gguf"))  # 256 GiB, a hole
        models = ["sample.gguf", "big.gguf"]
        for path in sorted(GOLDEN.glob("golden-*.gguf")) if GOLDEN else []:
            (root / path.name).write_bytes(path.read_bytes())
            if "-of-" not in path.name or "00001-of" in path.name:
                models.append(path.name)
        folders = [pathlib.Path(folder, n) for n in ("cpu", "gpu", "drained", "full", "auto", "unpinned")]
        for f in folders:
            f.mkdir()
        cpu = Server(root, folders[0], "--device", "cpu")
        gpu = Server(root, folders[1], "--device", "cuda", "--allow-cuda-ipc", "--gpu-memory-budget", "200MiB")
        info = gpu.info()
        check(info.backend == "cuda" and info.devices[1].id == "cuda:0", "the server decodes on the GPU")
        check({t.decode_path for t in info.tensor_types} == {"cuda"}, "every type is decoded there")
        for model in models:
            same_bytes(cpu, gpu, model)
        print(f"bytes and statistics of {len(models)} models are the same on both")
        leases(gpu, [m for m in models if m != "big.gguf"])
        lives_and_deaths(gpu)
        refusals(gpu)
        gpu.stop()
        drained(root, folders[2])
        out_of_memory(root, folders[3])
        auto = Server(root, folders[4])
        check(auto.info().backend == "cuda" and "GPU" in auto.info().backend_note, "--device auto finds the GPU")
        same_bytes(cpu, auto, "big.gguf")
        auto.stop()
        unpinned(cpu, root, folders[5])
        cpu.stop()
    print(f"{passed} passed, 0 failed")


if __name__ == "__main__":
    main()
