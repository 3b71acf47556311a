# SPDX-License-Identifier: Apache-2.0
"""A server without room for another stream says when to come again, and weightctl does; what it asks for ahead, while
the last bytes of a piece are on their way, never makes a transfer fail."""
import collections
import contextlib
import pathlib
import signal
import subprocess
import threading
from concurrent import futures

import grpc
import pytest

from ggufwrite import Gguf
from harness import FULL, PATIENCE, failure, pb, pb_grpc, preload, wait_until
from test_replicas import Slow, check, end, start, write_big
from test_weightctl import run

CODE = grpc.StatusCode
MIB = 1 << 20
ANY_SIZE = "grpc.max_receive_message_length", -1


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    write_big(folder / "big.gguf")
    g = Gguf().tensor("a", "F16", (8 * MIB,), bytes(16 * MIB)).tensor("b", "F16", (8 * MIB,), bytes(16 * MIB))
    g.tensor("empty", "F32", (0,), b"").write(folder / "empty.gguf")
    return folder


class Relay(pb_grpc.WeightServiceServicer):
    """A server in front of another, which passes calls on, or does with them what a test wants.

    on_stream(ahead, request, context, chunks): of StreamTensors; `ahead` where the same connection has another one
    under way. on_list(number, context): of ListModels, before it is passed on.
    """

    def __init__(self, server, on_stream=None, on_list=None):
        self.behind, self.real = server, server.new_stub(ANY_SIZE)
        self.on_stream, self.on_list = on_stream, on_list
        self.lock = threading.Lock()
        self.under_way = collections.Counter()
        self.lists = 0

    def DescribeModel(self, request, context):
        yield from self.real.DescribeModel(request)

    def ListModels(self, request, context):
        self.lists += 1
        if self.on_list:
            self.on_list(self.lists, context)
        yield from self.real.ListModels(request)

    def StreamTensors(self, request, context):
        with self.lock:
            ahead = self.under_way[context.peer()] > 0
            self.under_way[context.peer()] += 1
        try:
            chunks = self.real.StreamTensors(request)
            yield from self.on_stream(ahead, request, context, chunks) if self.on_stream else chunks
        finally:
            with self.lock:
                self.under_way[context.peer()] -= 1


@pytest.fixture
def relay(serve, root):
    with contextlib.ExitStack() as stack:
        def start(**hooks):
            relay = Relay(serve(root, expect=None), **hooks)
            front = grpc.server(futures.ThreadPoolExecutor(16))
            pb_grpc.add_WeightServiceServicer_to_server(relay, front)
            relay.address = f"127.0.0.1:{front.add_insecure_port('127.0.0.1:0')}"
            front.start()
            stack.callback(lambda: front.stop(0).wait())
            return relay
        yield start


def refuse(context, pushback):
    context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
    context.abort(CODE.RESOURCE_EXHAUSTED, "full")


# ------------------------------------------------------------------------------------------------- no room at all

@pytest.mark.parametrize("limits, chunk_bytes, what", [
    (["--max-streams", "1"], 0, "--max-streams"),
    (["--memory-budget", "16M"], 8 << 20, "running streams reserve"),
    (["--memory-budget", "16M"], 16 << 20, "streams have ")])
def test_it_says_when_to_come_again(serve, root, limits, chunk_bytes, what):
    """Where others use what was wanted; not where there never is as much."""
    server = serve(root, *limits, expect=None)
    request = pb.StreamTensorsRequest(model="big.gguf", chunk_bytes=chunk_bytes)
    stub = server.new_stub(ANY_SIZE)
    passing = what != "streams have "
    with contextlib.ExitStack() as stack:
        if passing:
            held = stub.StreamTensors(request)
            stack.callback(held.cancel)
            next(held)
        call = stub.StreamTensors(request)
        assert what in failure(lambda: call, CODE.RESOURCE_EXHAUSTED)
    said = dict(call.trailing_metadata())
    assert said.get("grpc-retry-pushback-ms") == ("100" if passing else None), said


def test_one_that_stays_full(serve, root):
    """weightctl asks again, and then says why."""
    server = serve(root, "--max-streams", "1", expect=None)
    held = server.new_stub().StreamTensors(pb.StreamTensorsRequest(model="big.gguf"))
    next(held)
    done = run("list", address=server.address, status=1)
    assert "already has 1 calls" in done.stderr and "RESOURCE_EXHAUSTED" in done.stderr
    assert server.counters().requests_refused > 1
    held.cancel()


def test_full_for_a_moment(relay):
    """Whoever comes again gets what was asked for, and nothing is said of it."""
    server = relay(on_list=lambda number, context: refuse(context, "1") if number < 4 else None)
    done = run("list", address=server.address)
    assert "big.gguf" in done.stdout and done.stderr == ""
    assert server.lists == 4


@pytest.mark.parametrize("pushback", ["-1", "2001", "99999999999999999999", "soon", ""])
def test_not_to_come_again(relay, pushback):
    """gRPC's way to say so is a negative number; two seconds are more than weightctl waits."""
    server = relay(on_list=lambda number, context: refuse(context, pushback))
    assert "full (RESOURCE_EXHAUSTED)" in run("list", address=server.address, status=1).stderr
    assert server.lists == 1


def test_interrupted_while_it_is_full(relay):
    again = threading.Event()

    def on_list(number, context):
        if number == 1:
            refuse(context, "500")
        again.wait(PATIENCE)

    server = relay(on_list=on_list)
    process = start(server.address, command="list")
    try:
        wait_until(lambda: server.lists, "the server to be asked")
        process.send_signal(signal.SIGINT)
        _, stderr = end(process, status=1)
    finally:
        process.kill()
        again.set()
    assert stderr == "weightctl: interrupted\n"


# -------------------------------------------------------------------------------------------- what is asked ahead

@pytest.fixture
def many_cores(tmp_path):
    """An environment in which weightctl sees cores to spare, so that each connection to /dev/null gets a thread that
    receives."""
    library = tmp_path / "cores.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-xc", "-", "-o", library], check=True, text=True, input="""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <unistd.h>
        long sysconf(int name) {
          return name == _SC_NPROCESSORS_ONLN ? 64 : ((long (*)(int))dlsym(RTLD_NEXT, "sysconf"))(name);
        }""")
    return preload(library)


def test_no_room_to_ask_ahead(serve, root, tmp_path):
    """A server that has room for the connections and no more refuses what is asked ahead, and nobody is told."""
    server = serve(root, "--max-streams", "2", expect=None)
    out = tmp_path / "x.safetensors"
    done = run("fetch", "big.gguf", "--out", out, "--type", "f32", "--connections", "2", address=server.address)
    assert done.stderr == ""
    counters = server.counters()
    assert counters.requests_refused > 0, "it was asked"
    assert counters.streams_started > 4, "in more pieces than connections"
    check(out, server)


def test_one_of_two_without_room(serve, root, tmp_path):
    """So does one of two, and both deliver."""
    two = [serve(root, "--max-streams", n, expect=None) for n in ("1", "64")]
    out = tmp_path / "x.safetensors"
    slow = Slow(two[1:], 2 * MIB)
    process = start(f"{two[0].address},{slow.addresses}", "big.gguf", "--out", out, "--type", "f32",
                    "--connections", "1")
    try:
        slow.wait()
        wait_until(lambda: two[0].counters().requests_refused, "the first to be asked ahead")
        slow.release()
        _, stderr = end(process)
    finally:
        process.kill()
        slow.close()
    assert stderr == "" and not two[1].counters().requests_refused
    check(out, two[1])


def test_a_thread_that_receives(serve, root, many_cores):
    """With cores to spare and nothing to write: refused, held up and interrupted like any other."""
    server = serve(root, "--max-streams", "2", expect=None)
    done = run("fetch", "big.gguf", "--out", "/dev/null", "--type", "f32", "--connections", "2",
               address=server.address, env=many_cores)
    assert "every CRC right" in done.stdout and done.stderr == ""
    slow = Slow([server], 10 * MIB)
    process = start(slow.addresses, "big.gguf", "--out", "/dev/null", "--connections", "2", env=many_cores)
    try:
        slow.wait()
        threads = pathlib.Path("/proc", str(process.pid), "task")
        assert "receive" in [(t / "comm").read_text().strip() for t in threads.iterdir()]
        process.send_signal(signal.SIGINT)
        _, stderr = end(process, status=1)
    finally:
        process.kill()
        slow.close()
    assert "interrupted" in stderr


@pytest.mark.parametrize("after, most", [(1, 2), (13, 6)])
def test_what_was_asked_ahead_is_cut(relay, tmp_path, after, most):
    """As a server does with a stream whose reader takes nothing while it waits for the piece before. It is asked again,
    for what did not come yet, and no more is asked ahead: each connection may have asked before it knew, for the piece
    behind it too where it came to know late, and what is asked again is beside that one."""
    ahead = []

    def on_stream(is_ahead, request, context, chunks):
        ahead.append(is_ahead)
        for i, chunk in enumerate(chunks):
            yield chunk
            if is_ahead and i == after:
                context.abort(CODE.DEADLINE_EXCEEDED, "the reader took nothing")

    server = relay(on_stream=on_stream)
    out = tmp_path / "x.safetensors"
    done = run("fetch", "big.gguf", "--out", out, "--type", "f32", "--connections", "2", address=server.address)
    assert done.stderr == ""
    assert 1 <= ahead.count(True) <= most
    check(out, server.behind)


def test_what_was_asked_ahead_falls_silent(relay):
    """That is a failure: whoever has waited for --timeout does not wait once more."""
    silent, over = [], threading.Event()

    def on_stream(is_ahead, request, context, chunks):
        if is_ahead and not silent:
            silent.append(context.peer())
        if context.peer() in silent:
            over.wait(PATIENCE)
        yield from chunks

    server = relay(on_stream=on_stream)
    try:
        done = run("fetch", "big.gguf", "--out", "/dev/null", "--type", "f32", "--connections", "2", "--timeout", "5s",
                   address=server.address)
    finally:
        over.set()
    assert done.stderr.count("is lost") == 1 and "has sent nothing for 5000 ms" in done.stderr


def test_an_empty_rest_is_refused(relay):
    """A piece of which only a tensor without elements is left, delivered and then refused: what a server of ours never
    does, and a client has to live through."""
    lost = threading.Event()
    asked = []

    def on_stream(is_ahead, request, context, chunks):
        first = request.ranges[0].tensor_index
        asked.append([r.tensor_index for r in request.ranges])
        if first == 0:
            lost.wait(PATIENCE)
        for chunk in chunks:
            if first == 1 and chunk.tensor_index == 2:
                lost.set()
                context.abort(CODE.UNAVAILABLE, "gone")
            yield chunk
        if first == 2:
            refuse(context, "1")

    server = relay(on_stream=on_stream)
    done = run("fetch", "empty.gguf", "--out", "/dev/null", "--connections", "2", address=server.address)
    assert "is lost" in done.stderr and [1, 2] in asked and [2] in asked, asked


@pytest.mark.skipif(not FULL, reason="takes 20 s; with --full")
def test_slow_wire(serve, root, tmp_path):
    """Nothing is asked ahead where the last bytes of a piece take long: its reader would seem to have stalled."""
    slow = tmp_path / "slow.so"
    source = pathlib.Path(__file__).parents[2] / "bench" / "slow.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", slow, source, "-ldl", "-lpthread"], check=True)
    server = serve(root, "--stall-timeout", "1s", expect=None,
                   env={**preload(slow), "SLOW_SEND": "10000000"})
    done = run("fetch", "big.gguf", "--out", tmp_path / "x.safetensors", "--type", "f32", "--connections", "2",
               address=server.address)
    assert done.stderr == ""
