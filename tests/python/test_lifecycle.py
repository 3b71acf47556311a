# SPDX-License-Identifier: Apache-2.0
"""Many clients, slow clients, clients that leave; starting, draining and ending the server."""
import contextlib
import hashlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import oracle
from ggufwrite import TYPES, Gguf
from harness import FULL, PATIENCE, WEIGHTCTL, WEIGHTD, WRAPPER, failure, one, pb, stream, wait_until

CODE = grpc.StatusCode


@pytest.fixture(scope="session")
def big(models):
    """100 MB of F16 zeros in a sparse file, and what it takes to leave the server with a stream nobody reads."""
    Gguf().tensor("x", "F16", (1 << 20, 50)).write(models / "big.gguf")
    return "big.gguf"


@pytest.fixture(scope="session")
def mixed(models):
    """Real bytes of several types, about 20 MB as FP16, with the digest of each tensor."""
    g, digests = Gguf(), {}
    for i, kind in enumerate(["Q4_K", "Q6_K", "Q8_0", "F16", "IQ2_XXS", "BF16", "F32", "NVFP4"]):
        data = oracle.blocks(kind, (1 << 20) // TYPES[kind][1], i)
        g.tensor(f"t{i}", kind, (1024, 1024), data)
        bits = oracle.convert(oracle.decode(kind, data), "F16")
        digests[f"t{i}"] = hashlib.sha256(bits.tobytes()).hexdigest()
    g.write(models / "mixed.gguf")
    return "mixed.gguf", digests


def held_up(server, model, **fields):
    """A stream whose reader takes one chunk and no more, when the server can send no more either."""
    call = server.new_stub().StreamTensors(pb.StreamTensorsRequest(model=model, **fields))
    next(call)
    last = []

    def still():
        last.append(server.counters().chunks_decoded)
        return len(last) > 40 and len(set(last[-40:])) == 1
    wait_until(still, "flow control to hold the stream up")
    assert server.counters().streams_active == 1
    return call


# -------------------------------------------------------------------------------------------- many at once

def test_ten_clients_at_once(server, mixed):
    model, digests = mixed
    results, orders = [], [list(digests), list(reversed(digests))]

    def client(number):
        got = {d.tensor.name: hashlib.sha256(d.data).hexdigest()
               for d in stream(server.new_stub(), model, *orders[number % 2], chunk_bytes=[0, 65536, 2 << 20][number % 3])}
        results.append(got == digests)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [True] * 10
    server.idle()


def test_streams_on_one_connection(server, mixed):
    """Many calls of one channel, read in turns."""
    model, digests = mixed
    stub = server.new_stub()
    calls = [(name, stub.StreamTensors(pb.StreamTensorsRequest(model=model, tensors=[name]))) for name in digests]
    sums = {name: hashlib.sha256() for name in digests}
    while calls:
        for name, call in list(calls):
            try:
                sums[name].update(next(call).data)
            except StopIteration:
                calls.remove((name, call))
    assert {n: s.hexdigest() for n, s in sums.items()} == digests


def test_one_of_ten_is_frozen(serve, models, big, mixed):
    """Nine finish; the frozen one is cut, told why when it wakes up, and every buffer comes back."""
    s = serve(models, "--stall-timeout", "6s")
    model, digests = mixed
    program = pathlib.Path(__file__).with_name("frozen_client.py")
    frozen = subprocess.Popen([sys.executable, program, s.address, big, "stop"], stdout=subprocess.PIPE, text=True)
    try:
        assert frozen.stdout.readline() == "first chunk\n"
        results = []
        threads = [threading.Thread(target=lambda: results.append({
            d.tensor.name: hashlib.sha256(d.data).hexdigest() for d in stream(s.new_stub(), model)} == digests))
            for _ in range(9)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert results == [True] * 9
        c = s.idle()
        assert c.streams_stalled == 1 and not c.buffer_bytes_in_use
        frozen.send_signal(signal.SIGCONT)
        told = frozen.stdout.readline(), frozen.stdout.readline()
        # Where even the sockets were full, the server had to drop the connection to get its buffers back.
        assert told[0] == "DEADLINE_EXCEEDED\n" and "stall" in told[1] or told[0] == "UNAVAILABLE\n", (told, s.log())
    finally:
        frozen.kill()
        frozen.wait()
        frozen.stdout.close()


def test_a_slow_reader_is_not_a_stalled_one(serve, models, big):
    """Served to the end though that takes longer than the timeout. (What lies in the sockets' buffers, some 20 MB here,
    hides a reader's progress for a while, so there is a limit to how slow one may be.)"""
    s = serve(models, "--stall-timeout", "4s")
    call = s.new_stub().StreamTensors(pb.StreamTensorsRequest(model=big))
    got = 0
    for chunk in call:
        got += len(chunk.data)
        time.sleep(0.06)  # 6 s in all
    assert got == 2 * 50 << 20


# ----------------------------------------------------------------------------------------- leaving early

def test_cancel_stops_the_work(serve, models, big):
    s = serve(models)
    call = held_up(s, big)
    before = s.counters()
    assert before.streams_active == 1 and before.buffers_in_use
    call.cancel()
    after = s.idle()
    assert after.chunks_decoded - before.chunks_decoded <= before.buffers_in_use
    assert after.streams_cancelled == before.streams_cancelled + 1
    assert after.buffer_bytes_in_use == 0 and after.bytes_sent < 2 * 50 << 20


def test_cancel_before_anything(server, big):
    for _ in range(20):
        server.stub.StreamTensors(pb.StreamTensorsRequest(model=big)).cancel()
        server.stub.StreamStats(pb.StreamStatsRequest(model=big)).cancel()
        server.stub.DescribeModel(pb.DescribeModelRequest(model=big)).cancel()
    server.idle()
    assert server.alive()


def test_a_deadline_stops_the_work(serve, models, big):
    s = serve(models)
    call = s.new_stub().StreamTensors(pb.StreamTensorsRequest(model=big), timeout=5)
    next(call)
    wait_until(lambda: call.code() is not None if not call.is_active() else False, "the deadline")
    assert call.code() == CODE.DEADLINE_EXCEEDED
    c = s.idle()
    assert c.streams_cancelled == 1 and c.bytes_sent < 2 * 50 << 20


def test_a_deadline_stops_statistics(serve, models):
    Gguf().tensor("x", "Q4_K", (1 << 20, 200_000)).write(models / "endless.gguf")  # 200 billion elements
    s = serve(models)
    failure(lambda: s.stub.StreamStats(pb.StreamStatsRequest(model="endless.gguf"), timeout=1), CODE.DEADLINE_EXCEEDED)
    c = s.idle()
    assert c.bytes_read < 1 << 36


def test_a_connection_that_breaks(serve, models, big):
    """The client process is killed: nothing says goodbye, and all comes back."""
    s = serve(models)
    client = subprocess.Popen([sys.executable, pathlib.Path(__file__).with_name("frozen_client.py"), s.address, big],
                              stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "first chunk\n"
    client.kill()
    client.wait()
    client.stdout.close()
    assert s.idle().streams_cancelled <= 1 and s.alive()


@pytest.mark.parametrize("junk", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 1000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
                                  bytes(range(256)) * 40])
def test_connections_that_speak_something_else(server, stub, junk):
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as c:
        c.sendall(junk)
    assert server.info().version


# ------------------------------------------------------------------------------------------------- memory

def giant(models, name, gigabytes, parts=50):
    if not (models / name).exists():
        g = Gguf()
        for i in range(parts):
            g.tensor(f"x{i}", "F16", (1 << 20, gigabytes * 512 // parts))  # 2 MiB a row
        g.write(models / name)
    return name


@pytest.mark.skipif(bool(WRAPPER), reason="valgrind's memory is not the server's")
@pytest.mark.parametrize("output", ["F16", "STORED", "F32"])
def test_memory_does_not_grow_with_the_model(serve, models, big, output):
    """100 GB, streamed in ranges from all over it (in whole with --full), needs what 100 MB do."""
    kind = pb.OutputType.Value(output)
    small = serve(models)
    for chunk in small.new_stub().StreamTensors(pb.StreamTensorsRequest(model=big, output_type=kind)):
        pass
    name = giant(models, "giant.gguf", 100)
    assert (models / name).stat().st_size >= 100 << 30 and (models / name).stat().st_blocks < 1000
    large = serve(models)
    step = 2 << 30 if output != "F32" else 4 << 30
    ranges = [pb.Range(tensor_index=i, begin=at, end=at + (10 << 20)) for i in range(0, 50) for at in (0, step - (10 << 20))]
    total = 0
    for chunk in large.new_stub().StreamTensors(pb.StreamTensorsRequest(model=name, output_type=kind, ranges=ranges)):
        total += len(chunk.data)
    assert total == 100 * 10 << 20
    if FULL and output == "F16":
        subprocess.run([WEIGHTCTL, "--server", large.address, "fetch", name, "--out", "/dev/null"], check=True,
                       capture_output=True)
        assert large.counters().bytes_sent >= 100 << 30
    peaks = small.vm_hwm(), large.vm_hwm()
    print(f"peak RSS: 100 MB model {peaks[0] >> 20} MiB, 100 GB model {peaks[1] >> 20} MiB")
    assert peaks[1] <= peaks[0] + (32 << 20)


@pytest.mark.skipif(bool(WRAPPER), reason="valgrind's memory is not the server's")
def test_64_streams_within_the_budget(serve, models, big, mixed):
    budget = 64 << 20
    s = serve(models, "--memory-budget", "64M", "--max-streams", "100")
    base = s.vm_hwm()
    calls = [s.new_stub().StreamTensors(pb.StreamTensorsRequest(model=big, chunk_bytes=256 << 10)) for _ in range(63)]
    for call in calls:
        next(call)
    assert s.counters().streams_active == 63
    # All of them are held up; one more client still gets everything.
    model, digests = mixed
    got = {d.tensor.name: hashlib.sha256(d.data).hexdigest()
           for d in stream(s.new_stub(), model, chunk_bytes=256 << 10)}
    assert got == digests
    for call in calls:
        call.cancel()
    c = s.idle()
    assert 0 < c.buffer_bytes_peak <= budget
    peak = s.vm_hwm()
    print(f"peak RSS {peak >> 20} MiB, {base >> 20} MiB idle")
    assert peak <= base + budget + (64 << 20)


def test_a_budget_too_small_for_a_chunk(serve, models, big):
    s = serve(models, "--memory-budget", "16M")
    limit = s.info().limits.max_chunk_bytes
    said = failure(lambda: s.stub.StreamTensors(pb.StreamTensorsRequest(model=big, chunk_bytes=limit)),
                   CODE.RESOURCE_EXHAUSTED, CODE.INVALID_ARGUMENT) if limit > 16 << 20 else "memory budget"
    assert "budget" in said
    s.idle()


def test_max_streams(serve, models, big):
    s = serve(models, "--max-streams", "3")
    assert s.info().limits.max_streams == 3
    calls = []
    for _ in range(3):
        calls.append(s.new_stub().StreamTensors(pb.StreamTensorsRequest(model=big)))
        next(calls[-1])
    before = s.counters().requests_refused
    failure(lambda: s.new_stub().StreamTensors(pb.StreamTensorsRequest(model=big)), CODE.RESOURCE_EXHAUSTED)
    assert s.counters().requests_refused == before + 1
    calls[0].cancel()
    wait_until(lambda: s.counters().streams_active == 2, "the cancelled stream to end")
    assert one(s.new_stub(), "sample.gguf", "output_norm.weight").data
    for call in calls:
        call.cancel()


# ----------------------------------------------------------------------------------------------- draining

def test_sigterm_drains(serve, models, big):
    s = serve(models, "--grace", "100s")
    health = health_pb2_grpc.HealthStub(s.channel())
    watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    call = held_up(s, big)
    s.signal(signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    for stub in (s.stub, s.new_stub()):
        failure(lambda st=stub: st.StreamTensors(pb.StreamTensorsRequest(model=big), timeout=PATIENCE), CODE.UNAVAILABLE)
    assert s.alive()
    assert sum(len(chunk.data) for chunk in call) == (2 * 50 << 20) - (1 << 20), "the running stream is served to the end"
    assert s.wait() == 0
    with contextlib.suppress(grpc.RpcError):  # the end of the connection
        for later in watch:
            assert later.status != health_pb2.HealthCheckResponse.SERVING


def test_grace_ends(serve, models, big):
    s = serve(models, "--grace", "1s", expect=None)
    call = held_up(s, big)
    s.signal(signal.SIGTERM)
    code = s.wait()
    assert code == 0, s.log()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() in (CODE.UNAVAILABLE, CODE.CANCELLED)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(serve, models, big, second):
    s = serve(models, "--grace", "1000s", expect=None)
    call = held_up(s, big)
    s.signal(signal.SIGTERM)
    wait_until(lambda: "drain" in s.log().lower(), "the log to say that it drains")
    assert s.alive()
    s.signal(second)
    s.wait()
    assert s.returncode is not None
    call.cancel()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_servers_end_with_0(serve, models, number, tmp_path):
    path = tmp_path / "w.sock"
    s = serve(models, listen=f"unix:{path}")
    assert s.info().version
    s.signal(number)
    assert s.wait() == 0


# ----------------------------------------------------------------------------------------------- starting

def start(*arguments, env=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTD_")}
    return subprocess.run([WEIGHTD, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE,
                          stdin=subprocess.DEVNULL, env={**environment, **(env or {})})


def test_help_and_version():
    for arguments in (["--help"], ["serve", "--help"], ["--version"]):
        done = start(*arguments)
        assert done.returncode == 0 and done.stdout.strip(), arguments
    text = start("serve", "--help").stdout
    for flag in ("model-root", "listen", "device", "memory-budget", "stall-timeout", "grace", "max-streams", "threads",
                 "log", "insecure", "ready-file", "metrics-listen"):
        assert f"--{flag}" in text


@pytest.mark.parametrize("arguments", [
    [], ["nonsense"], ["serve"], ["serve", "--nonsense"], ["serve", "--model-root"],
    ["serve", "--model-root", ".", "--memory-budget", "lots"], ["serve", "--model-root", ".", "--memory-budget", "-1"],
    ["serve", "--model-root", ".", "--stall-timeout", "soon"], ["serve", "--model-root", ".", "--threads", "-1"],
    ["serve", "--model-root", ".", "--device", "toaster"], ["serve", "--model-root", ".", "--log", "xml"],
    ["serve", "--model-root", ".", "--listen", "127.0.0.1"], ["serve", "--model-root", ".", "--listen", "127.0.0.1:http"],
    ["serve", "--model-root", ".", "extra"], ["serve", "--model-root", ".", "--max-streams", "99999999999999999999"],
], ids=" ".join)
def test_usage_errors(arguments):
    done = start(*arguments)
    assert done.returncode == 2, done
    assert done.stderr.strip() and not done.stdout


def test_bad_environment():
    done = start("serve", "--model-root", ".", env={"WEIGHTD_MEMORY_BUDGET": "lots"})
    assert done.returncode == 2 and "MEMORY_BUDGET" in done.stderr.upper().replace("-", "_")


@pytest.mark.parametrize("root", ["/no/such/folder", "/etc/passwd"])
def test_bad_roots(root):
    done = start("serve", "--model-root", root, "--listen", "127.0.0.1:0")
    assert done.returncode in (1, 2) and root in done.stderr


def test_the_port_is_taken(server, models):
    if not server.address.startswith("127."):
        pytest.skip("the shared server listens elsewhere")
    done = start("serve", "--model-root", models, "--listen", server.address)
    assert done.returncode == 1 and server.address.rsplit(":")[-1] in done.stderr


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_beyond_loopback_needs_a_word(models, listen):
    done = start("serve", "--model-root", models, "--listen", listen)
    assert done.returncode in (1, 2) and "insecure" in done.stderr


def test_beyond_loopback_with_that_word(serve, models):
    s = serve(models, "--insecure", listen="0.0.0.0:0")
    s.address = "127.0.0.1:" + s.address.rsplit(":", 1)[1]
    assert s.info().version


def has_gpu():
    return any(pathlib.Path("/dev").glob("nvidia[0-9]*"))


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_cuda_without_a_gpu(serve, models):
    done = start("serve", "--model-root", models, "--listen", "127.0.0.1:0", "--device", "cuda")
    assert done.returncode == 1 and "cuda" in done.stderr.lower()
    s = serve(models, "--device", "auto")
    info = s.info()
    assert info.backend == "cpu" and "cuda" in info.backend_note.lower() and info.backend_note in s.log()


def test_unknown_simd(models):
    done = start("serve", "--model-root", models, "--listen", "127.0.0.1:0", env={"WEIGHTD_SIMD": "abacus"})
    assert done.returncode in (1, 2) and "abacus" in done.stderr and "portable" in done.stderr


def test_environment_twins(serve, models, tmp_path):
    """Every flag may come from the environment; the command line wins."""
    s = serve(models, "--max-streams", "7", env={"WEIGHTD_MAX_STREAMS": "5", "WEIGHTD_MEMORY_BUDGET": "32M",
                                                "WEIGHTD_STALL_TIMEOUT": "1500ms", "WEIGHTD_LOG": "json"})
    limits = s.info().limits
    assert (limits.max_streams, limits.memory_budget_bytes, limits.stall_timeout_ms) == (7, 32 << 20, 1500)


def test_logs(serve, models):
    import json
    s = serve(models, "--log", "json")
    assert one(s.stub, "sample.gguf", "output_norm.weight").data
    failure(lambda: s.stub.StreamTensors(pb.StreamTensorsRequest(model="no\nsuch\x1b[31m.gguf")), CODE.NOT_FOUND)
    s.idle()
    lines = [json.loads(line) for line in s.log().splitlines()]
    assert lines and any(s.address in str(line) for line in lines)
    assert "\x1b" not in s.log()
    assert "listening on 127.0.0.1:" in serve(models, "--log", "text").log()


def test_two_servers_on_one_socket_path(serve, models, tmp_path):
    """A left-over socket file is no obstacle, a living server is."""
    path = tmp_path / "w.sock"
    first = serve(models, listen=f"unix:{path}", expect=None)
    done = start("serve", "--model-root", models, "--listen", f"unix:{path}")
    assert done.returncode == 1 and "w.sock" in done.stderr
    assert first.info().version
    first.signal(signal.SIGKILL)
    first.wait()
    second = serve(models, listen=f"unix:{path}")
    assert second.info().version
