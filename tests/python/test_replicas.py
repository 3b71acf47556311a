# SPDX-License-Identifier: Apache-2.0
"""Several servers that serve the same: one model's tensors come from all of them, and it goes on when one is lost."""
import contextlib
import glob
import json
import os
import signal
import subprocess

import numpy as np
import pytest

import oracle
from ggufwrite import Gguf
from harness import FULL, PATIENCE, WEIGHTCTL, Server, preload, wait_until
from test_weightctl import Throttle, journalled, read_file, run

MIB = 1 << 20
# What makes a program look names up in the file NSS_WRAPPER_HOSTS; empty where libnss-wrapper is not installed.
NSS_WRAPPER = next((preload(p) for p in glob.glob("/usr/lib/*/libnss_wrapper.so")), {})


def write_big(path, seed=0):
    """92 MB as FP16, from 49 MB."""
    g = Gguf()
    block = oracle.blocks("Q8_0", 32 * 1024, seed)
    for i in range(6):
        g.tensor(f"blk.{i}.weight", "Q8_0", (1024, 1024 * (5 + i)), block * (5 + i))
    g.tensor("small", "F32", (7,), np.arange(7, dtype=np.float32).tobytes())
    g.write(path)
    return sum(2 * 1024 * 1024 * (5 + i) for i in range(6)) + 14


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    assert write_big(folder / "big.gguf") == TOTAL
    return folder


TOTAL = 45 * 2 * MIB + 14


@pytest.fixture
def three(serve, root):
    return [serve(root, expect=None) for _ in range(3)]


def addresses(servers):
    return ",".join(s.address for s in servers)


def start(servers, *arguments, command="fetch", env=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTD_")}
    return subprocess.Popen([WEIGHTCTL, "--server", servers, command, *map(str, arguments)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**environment, **(env or {})})


def end(process, status=0):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, (process.returncode, out, err)
    return out, err


def part(out):
    return out.with_name(out.name + ".part.journal")


class Slow:
    """Throttles in front of servers."""

    def __init__(self, servers, limit, connections=1):
        self.proxies = [Throttle(s.address, limit, connections) for s in servers]
        self.addresses = ",".join(p.address for p in self.proxies)

    def wait(self):
        """Until each of them is held up: whoever is late, none of the others can take its pieces."""
        for p in self.proxies:
            assert p.held.wait(PATIENCE), f"{p.address} has passed too little"

    def release(self, first=0):
        for p in self.proxies[first:]:
            p.release()

    def close(self):
        for p in self.proxies:
            p.close()


def check(out, server):
    """The file is what one server alone delivers, in whole and tensor by tensor."""
    run("verify", out, "big.gguf", address=server.address)
    assert sorted(p.name for p in out.parent.glob("x.*")) == [out.name]
    assert set(read_file(out)[0]) == {f"blk.{i}.weight" for i in range(6)} | {"small"}


# ----------------------------------------------------------------------------------------------------- all alive

@pytest.mark.parametrize("connections", [1, 2])
def test_each_delivers_a_part(three, tmp_path, connections):
    out = tmp_path / "x.safetensors"
    slow = Slow(three, 2 * MIB, connections)  # so that each connection has its piece
    process = start(slow.addresses, "big.gguf", "--out", out, "--json", "--connections", connections)
    try:
        slow.wait()
        slow.release()
        stdout, _ = end(process)
    finally:
        process.kill()
        slow.close()
    report = json.loads(stdout)
    sent = [s.counters().bytes_sent for s in three]
    assert sum(sent) == TOTAL == report["fetched_bytes"], "every byte came once"
    assert all(n > 20 * MIB for n in sent), sent
    assert {s["address"]: s["bytes"] for s in report["servers"]} == {p.address: n for p, n in zip(slow.proxies, sent)}
    # Each of them is asked for the revision, one for the description, and each connection makes sure before its piece.
    assert sum(s.counters().streams_started for s in three) == 3 + 1 + 2 * 3 * connections
    check(out, three[0])


def test_verify_uses_them_too(three, tmp_path):
    out = tmp_path / "x.safetensors"
    run("fetch", "big.gguf", "--out", out, address=three[0].address)
    before = [s.idle().bytes_sent for s in three]
    slow = Slow(three, 2 * MIB)
    process = start(slow.addresses, out, "big.gguf", command="verify")
    try:
        slow.wait()
        slow.release()
        end(process)
    finally:
        process.kill()
        slow.close()
    after = [s.idle().bytes_sent for s in three]
    assert sum(after) - sum(before) == TOTAL and all(a > b for a, b in zip(after, before))


def test_how_servers_are_named(three):
    """Repeated or separated by commas, on the command line or in the environment, which the command line replaces."""
    a, b, c = (s.address for s in three)
    both = ["--server", f"{a}, {b}", "--server", c]
    done = run("fetch", "big.gguf", "--out", "/dev/null", "--json", *both)
    assert [s["address"] for s in json.loads(done.stdout)["servers"]] == [a, b, c]
    done = run("fetch", "big.gguf", "--out", "/dev/null", "--json", env={"WEIGHTD_SERVER": f"{a},{b}"})
    assert [s["address"] for s in json.loads(done.stdout)["servers"]] == [a, b]
    done = run("fetch", "big.gguf", "--out", "/dev/null", "--json", "--server", c, "--server", f"{c},{c}",
               env={"WEIGHTD_SERVER": f"{a},{b}"})
    assert [s["address"] for s in json.loads(done.stdout)["servers"]] == [c], "each once"
    for wrong in ("", f"{a},", "not an address", "dns:///", "dns:///x:y", ",".join(["h"] + [f"h{i}" for i in range(64)])):
        assert run("list", "--server", wrong, status=2).stderr.startswith("weightctl: --server: "), wrong
    assert "looked up" in run("list", "--server", "dns:///no-such-host.invalid", status=1).stderr


@pytest.mark.skipif(not NSS_WRAPPER, reason="no libnss-wrapper here")
def test_a_name_with_several_addresses(root, serve, tmp_path):
    """dns:///NAME: as many servers as addresses, of which one is not there."""
    first = serve(root, listen="127.0.0.1:0")
    port = first.address.rsplit(":", 1)[1]
    second = serve(root, listen=f"127.0.0.2:{port}")
    (tmp_path / "hosts").write_text("".join(f"127.0.0.{i} weights.test\n" for i in (1, 2, 3)))
    env = {**NSS_WRAPPER, "NSS_WRAPPER_HOSTS": str(tmp_path / "hosts")}
    out = tmp_path / "x.safetensors"
    done = run("fetch", "big.gguf", "--out", out, "--json", address=f"dns:///weights.test:{port}", env=env)
    assert {s["address"] for s in json.loads(done.stdout)["servers"]} == {f"127.0.0.{i}:{port}" for i in (1, 2, 3)}
    assert f"127.0.0.3:{port} is left out" in done.stderr or f"127.0.0.3:{port} is lost" in done.stderr
    assert first.counters().bytes_sent + second.counters().bytes_sent == TOTAL and second.counters().bytes_sent
    check(out, first)


# -------------------------------------------------------------------------------------------------- one is lost

def test_one_killed(three, tmp_path):
    """SIGKILL in the middle: the others take over what it had not delivered, and nothing else."""
    out = tmp_path / "x.safetensors"
    slow = Slow(three, 10 * MIB)  # so that it is surely in the middle of a piece
    process = start(slow.addresses, "big.gguf", "--out", out, "--json")
    try:
        slow.wait()
        slow.release(1)
        wait_until(lambda: journalled(part(out)) > TOTAL // 3, "the others to go on meanwhile")
        three[0].process.kill()
        three[0].process.wait()
        slow.proxies[0].close()
        stdout, stderr = end(process)
    finally:
        process.kill()
        slow.close()
    victim = slow.proxies[0].address
    assert "is lost" in stderr and victim in stderr
    report = json.loads(stdout)
    of = {s["address"]: s for s in report["servers"]}
    assert of[victim]["losses"] == 1 and 0 < of[victim]["bytes"] <= 10 * MIB
    assert sum(s["bytes"] for s in report["servers"]) == report["bytes"] == TOTAL, "no byte was fetched twice"
    assert sum(s.idle().bytes_sent for s in three[1:]) == TOTAL - of[victim]["bytes"]
    check(out, three[1])


@pytest.mark.parametrize("rounds", [range(12 if FULL else 3)], ids=["rounds"])
def test_killed_at_random_moments(root, tmp_path, rng, rounds):
    """Straight over loopback, again and again: whichever of the three it hits and whenever, the file is right."""
    for i in rounds:
        with contextlib.ExitStack() as stack:
            servers = [Server(root, tmp=tmp_path / "server") for _ in range(3)]
            for s in servers:
                stack.callback(s.close, None)
            out = tmp_path / f"x.{i}.safetensors"
            process = start(addresses(servers), "big.gguf", "--out", out)
            victim, at = servers[rng.randrange(3)], rng.random() * TOTAL
            wait_until(lambda: process.poll() is not None or journalled(part(out)) >= at, "the fetch to come that far")
            victim.process.kill()
            victim.process.wait()
            end(process)
            run("verify", out, "big.gguf", address=next(s for s in servers if s is not victim).address)
            out.unlink()


def test_one_drains(three, tmp_path):
    """SIGTERM: a server that shuts down refuses further pieces (UNAVAILABLE), and the others deliver them."""
    out = tmp_path / "x.safetensors"
    process = start(addresses(three), "big.gguf", "--out", out, "--json")
    try:
        wait_until(lambda: journalled(part(out)) > TOTAL // 10, "the fetch to begin")
        three[2].signal(signal.SIGTERM)
        stdout, _ = end(process)
    finally:
        process.kill()
    report = json.loads(stdout)
    assert sum(s["bytes"] for s in report["servers"]) == TOTAL
    check(out, three[0])


def test_one_hangs(three, tmp_path):
    """SIGSTOP: after --timeout of silence the others take over."""
    out = tmp_path / "x.safetensors"
    slow = Slow(three, 10 * MIB)
    process = start(slow.addresses, "big.gguf", "--out", out, "--timeout", "5s", "--json")
    try:
        slow.wait()
        three[0].signal(signal.SIGSTOP)
        slow.release(1)
        stdout, stderr = end(process)
    finally:
        process.kill()
        three[0].signal(signal.SIGCONT)
        slow.close()
    assert "has sent nothing for 5000 ms" in stderr
    assert sum(s["bytes"] for s in json.loads(stdout)["servers"]) == TOTAL
    check(out, three[1])


def test_one_hangs_from_the_start(three, tmp_path):
    three[1].signal(signal.SIGSTOP)
    try:
        out = tmp_path / "x.safetensors"
        done = run("fetch", "big.gguf", "--out", out, "--timeout", "5s", address=addresses(three))
        assert three[1].address in done.stderr
        done = run("list", "--timeout", "5s", address=addresses(three[1:]))
        assert f"asking the server at {three[2].address}" in done.stderr and "big.gguf" in done.stdout
    finally:
        three[1].signal(signal.SIGCONT)
    check(out, three[0])


def test_one_comes_back(root, serve, tmp_path):
    """A server that is restarted at its address is used again."""
    first, second = serve(root, expect=None), serve(root)
    slow = Slow([first, second], 10 * MIB)
    out = tmp_path / "x.safetensors"
    process = start(slow.addresses, "big.gguf", "--out", out, "--json")
    try:
        slow.wait()
        first.process.kill()
        first.process.wait()
        # The second stays held up, so that the end cannot come before the first is back.
        slow.proxies[0].release()
        again = serve(root, listen=first.address)
        wait_until(lambda: again.counters().bytes_sent > MIB, "it to be used again")
        slow.proxies[1].close()  # lost for good: everything is left to the one that came back
        stdout, stderr = end(process)
    finally:
        process.kill()
        slow.close()
    of = {s["address"]: s for s in json.loads(stdout)["servers"]}
    assert of[slow.proxies[0].address]["losses"] >= 1 and again.counters().bytes_sent > TOTAL // 2
    check(out, again)


def test_a_single_server_that_is_restarted(root, serve, tmp_path):
    first = serve(root, expect=None)
    again = serve(root)
    slow = Slow([first], 10 * MIB)
    out = tmp_path / "x.safetensors"
    process = start(slow.addresses, "big.gguf", "--out", out)
    try:
        slow.wait()
        first.process.kill()
        first.process.wait()
        slow.proxies[0].lead_to(again.address)
        slow.release()
        _, stderr = end(process)
    finally:
        process.kill()
        slow.close()
    assert "is lost" in stderr
    check(out, again)


# --------------------------------------------------------------------------------------------- those that refuse

def test_another_revision(root, serve, three, tmp_path):
    """Servers that disagree about the model are told apart before a byte is fetched."""
    other = tmp_path / "other"
    other.mkdir()
    write_big(other / "big.gguf", seed=0)
    with open(other / "big.gguf", "ab") as f:
        f.write(bytes(32))
    s = serve(other)
    out = tmp_path / "x.safetensors"
    done = run("fetch", "big.gguf", "--out", out, address=f"{three[0].address},{s.address}", status=1)
    assert "revision" in done.stderr and s.address in done.stderr and three[0].address in done.stderr
    assert not list(tmp_path.glob("x.*")) and not s.counters().bytes_sent
    # One that comes with another revision while the fetch runs is left out.
    first, second = three[:2]
    slow = Slow([first, second], 10 * MIB)
    process = start(slow.addresses, "big.gguf", "--out", out)
    try:
        slow.wait()
        first.process.kill()
        first.process.wait()
        slow.proxies[0].release()
        again = serve(other, listen=first.address)
        # Nobody is left who has it: the second is stuck, then lost.
        wait_until(lambda: b"left out" in os.read(process.stderr.fileno(), 65536), "the stranger to be left out")
        slow.close()
        _, stderr = end(process, status=1)
    finally:
        process.kill()
        slow.close()
    assert "--resume" in stderr and not again.counters().bytes_sent
    run("fetch", "big.gguf", "--out", out, "--resume", address=second.address)
    check(out, second)


def test_one_without_the_model(three, serve, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    s = serve(empty)
    out = tmp_path / "x.safetensors"
    done = run("fetch", "big.gguf", "--out", out, address=f"{s.address},{addresses(three)}")
    assert f"{s.address} is left out" in done.stderr
    check(out, three[0])
    done = run("fetch", "big.gguf", "--out", tmp_path / "y", address=f"{s.address},{s.address.replace('127.0.0.1', 'localhost')}",
               status=1)
    assert "none of the 2 servers" in done.stderr


def test_none_left(three, tmp_path):
    """All are lost: the fetch fails, keeps what it has, and goes on from there when there are servers again."""
    out = tmp_path / "x.safetensors"
    slow = Slow(three, 10 * MIB)
    process = start(slow.addresses, "big.gguf", "--out", out)
    try:
        slow.wait()
        slow.close()
        _, stderr = end(process, status=1)
    finally:
        process.kill()
        slow.close()
    assert "none of the 3 servers is left" in stderr and "--resume" in stderr
    had = journalled(part(out))
    assert had > 15 * MIB
    for s in three:
        s.idle()
    before = sum(s.counters().bytes_sent for s in three)
    run("fetch", "big.gguf", "--out", out, "--resume", address=addresses(three))
    assert sum(s.counters().bytes_sent for s in three) - before == TOTAL - had
    check(out, three[0])


def test_interrupted_while_nobody_answers(three, tmp_path):
    out = tmp_path / "x.safetensors"
    slow = Slow(three, 10 * MIB)
    process = start(slow.addresses, "big.gguf", "--out", out)
    try:
        slow.wait()
        slow.close()
        wait_until(lambda: b"is lost" in os.read(process.stderr.fileno(), 65536), "the loss to be told")
        process.send_signal(signal.SIGINT)
        _, stderr = end(process, status=1)
    finally:
        process.kill()
        slow.close()
    assert "interrupted" in stderr and "--resume" in stderr


def test_nobody_there_at_all(tmp_path):
    for command in (["health"], ["list"], ["fetch", "big.gguf", "--out", tmp_path / "x"]):
        assert run(*command, address="127.0.0.1:1,127.0.0.1:2", status=1).stderr.startswith("weightctl: ")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- weightctl killed

@pytest.mark.parametrize("connections", [1, 2])
def test_weightctl_killed_and_resumed(three, tmp_path, connections):
    """The whole bill, as the servers count it. A chunk for each connection may have been sent and not been written
    down; on a busy machine, where threads wait for their turn between the two, the one behind it too."""
    out = tmp_path / "x.safetensors"
    process = start(addresses(three), "big.gguf", "--out", out, "--connections", connections)
    wait_until(lambda: process.poll() is not None or journalled(part(out)) > TOTAL // 2, "the fetch to come that far")
    process.kill()
    process.communicate()
    for s in three:
        s.idle()
    run("fetch", "big.gguf", "--out", out, "--resume", "--connections", connections, address=addresses(three))
    sent = sum(s.idle().bytes_sent for s in three)
    print(f"{sent - TOTAL} bytes were sent twice")
    assert sent <= TOTAL + 2 * 3 * connections * MIB
    check(out, three[0])


# ------------------------------------------------------------------------------------------------ other commands

def test_the_other_commands_ask_one_that_serves(three, tmp_path):
    """The first that is serving; who it is stands on stderr, and stdout is as always."""
    dead, drained, alive = three
    dead.process.kill()
    dead.process.wait()
    everyone = addresses(three)
    # A call that stays open holds the draining server up.
    watch = stream_slowly(drained)
    drained.signal(signal.SIGTERM)
    wait_until(lambda: "NOT_SERVING" in subprocess.run([WEIGHTCTL, "--server", drained.address, "health"],
                                                      capture_output=True, text=True).stdout
               or run_fails(drained.address), "it to drain")
    for command in (["info"], ["list"], ["describe", "big.gguf"], ["stats", "big.gguf", "--tensor", "small"]):
        alone, done = run(*command, address=alive.address), run(*command, address=everyone)
        assert f"asking the server at {alive.address}" in done.stderr and dead.address in done.stderr
        assert command == ["info"] or done.stdout == alone.stdout
    done = run("health", address=everyone)
    assert done.stdout == "SERVING\n" and alive.address in done.stderr
    watch.cancel()


def run_fails(address):
    return subprocess.run([WEIGHTCTL, "--server", address, "list"], capture_output=True).returncode != 0


def stream_slowly(server):
    from harness import pb
    call = server.new_stub().StreamTensors(pb.StreamTensorsRequest(model="big.gguf"))
    next(call)
    return call
