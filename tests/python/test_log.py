# SPDX-License-Identifier: Apache-2.0
"""The log: one line a request, as text and as JSON, with the trace that the caller is in."""
import json
import re
import socket
import struct
import subprocess

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import PATIENCE, WEIGHTCTL, failure, pb, stream, wait_until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def requests(server, n):
    """The lines of n requests, once they are there, as the requests came; all lines must be JSON."""
    def there():
        lines = [json.loads(line) for line in server.log().split("\n")[:-1]]
        found = [line for line in lines if "request" in line]
        return found if len(found) >= n else None
    found = wait_until(there, f"{n} lines")
    assert len(found) == n, found
    return sorted(found, key=lambda line: line["request"])


def fetch(server, *headers, model="sample.gguf"):
    return list(server.stub.StreamTensors(pb.StreamTensorsRequest(model=model), timeout=PATIENCE, metadata=headers))


def test_json(serve, models):
    server = serve(models, "--log", "json")
    payload = sum(len(u.data) for u in stream(server.stub, "sample.gguf"))
    failure(lambda: fetch(server, model='no "such"\n\\\u2028model\x7f'), grpc.StatusCode.NOT_FOUND)
    list(server.stub.DescribeModel(pb.DescribeModelRequest(model="sample.gguf"), timeout=PATIENCE))
    unknown = server.channel().unary_unary("/a.B/C", lambda m: m, lambda m: m)
    failure(lambda: unknown(b"", timeout=PATIENCE), grpc.StatusCode.UNIMPLEMENTED)
    ok, missing, describe, other = requests(server, 4)
    assert ok.keys() == {"time", "level", "request", "method", "peer", "model", "status", "message", "bytes", "seconds"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ok["time"]) and ok["level"] == "info"
    assert ok["method"] == "StreamTensors" and ok["model"] == "sample.gguf" and ok["status"] == "OK"
    assert ok["bytes"] == payload and 0 < ok["seconds"] < PATIENCE and ok["message"] == ""
    assert re.fullmatch(r"ipv4:127\.0\.0\.1:\d+", ok["peer"])
    assert missing["status"] == "NOT_FOUND" and missing["message"] and missing["bytes"] == 0
    assert missing["model"] == 'no "such"\n\\\u2028model\x7f'
    assert describe["method"] == "DescribeModel" and describe["bytes"] == 0
    assert other["method"] == "other" and other["status"] == "UNIMPLEMENTED" and "/a.B/C" in other["message"]
    assert len({line["request"] for line in (ok, missing, describe, other)}) == 4


def test_health_checks_only_with_verbose(serve, models):
    for flags, n in ((), 0), (("--verbose",), 1):
        server = serve(models, "--log", "json", *flags)
        health_pb2_grpc.HealthStub(server.channel()).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        fetch(server)
        checks = [line for line in requests(server, n + 1) if line["method"] == "Check"]
        assert len(checks) == n and all(c["level"] == "debug" and c["status"] == "OK" for c in checks)


def test_text_is_one_line(serve, models):
    server = serve(models)
    failure(lambda: fetch(server, ("traceparent", TRACEPARENT), model="a\nb\x1b[31m"), grpc.StatusCode.NOT_FOUND)
    line = wait_until(lambda: [x for x in server.log().splitlines() if "request=" in x], "the line")[0]
    assert r"model='a\x0Ab\x1B[31m'" in line and "status=NOT_FOUND: " in line
    assert f" trace_id={TRACE} parent_span_id={PARENT} sampled=1 " in line


def test_traceparent(serve, models):
    server = serve(models, "--log", "json")
    fetch(server, ("traceparent", TRACEPARENT))
    fetch(server, ("traceparent", TRACEPARENT[:-2] + "00"), ("tracestate", "a=b"))
    fetch(server, ("traceparent", f"42-{TRACE}-{PARENT}-01-from-the-future"))
    # One that fails, and ones that do little or nothing, carry it too.
    failure(lambda: fetch(server, ("traceparent", TRACEPARENT), model="missing"), grpc.StatusCode.NOT_FOUND)
    unknown = server.channel().unary_unary("/a.B/C", lambda m: m, lambda m: m)
    failure(lambda: unknown(b"", timeout=PATIENCE, metadata=(("traceparent", TRACEPARENT),)),
            grpc.StatusCode.UNIMPLEMENTED)
    list(server.stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE, metadata=(("traceparent", TRACEPARENT),)))
    lines = requests(server, 6)
    assert all(line["trace_id"] == TRACE and line["parent_span_id"] == PARENT for line in lines)
    assert [line["sampled"] for line in lines] == [True, False, True, True, True, True]


@pytest.mark.parametrize("value", [
    "",
    "hello",
    TRACEPARENT.upper(),
    TRACEPARENT + "-more",
    f"ff-{TRACE}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    "0" * 4000,
])
def test_invalid_traceparent(serve, models, value):
    """It is as if there were none: the request is served."""
    server = serve(models, "--log", "json")
    assert fetch(server, ("traceparent", value))
    assert "trace_id" not in requests(server, 1)[0]


def frame(kind, flags, stream_id, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


@pytest.mark.parametrize("n", [1, 2])
def test_two_traceparents_are_none(serve, models, n):
    """In HTTP/2 by hand, because Python's client sends each header once."""
    server = serve(models, "--log", "json")
    headers = [(":method", "POST"), (":scheme", "http"), (":path", "/weightd.v1.WeightService/ListModels"),
               (":authority", "x"), ("te", "trailers"), ("content-type", "application/grpc")]
    headers += [("traceparent", TRACEPARENT)] * n
    block = b"".join(b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in headers)
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE) as s:
        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, block)
                  + frame(0, 1, 1, bytes(5)))
        line = requests(server, 1)[0]
    assert line["method"] == "ListModels" and line["status"] == "OK"
    assert line.get("trace_id") == (TRACE if n == 1 else None)


@pytest.mark.parametrize("value, passed", [
    (TRACEPARENT, True),
    (f"99-{TRACE}-{PARENT}-03-more", True),
    ("", False),
    ("00-nonsense", False),
    ("x" * 100000, False),
])
def test_weightctl_passes_its_trace_on(serve, models, value, passed):
    server = serve(models, "--log", "json")
    for command in ["list"], ["fetch", "sample.gguf", "--out", "/dev/null"]:
        done = subprocess.run([WEIGHTCTL, "--server", server.address, *command], env={"TRACEPARENT": value},
                              capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
    lines = [line for line in wait_until(lambda: requests_of(server, "StreamTensors"), "the fetch to be logged")]
    lines += requests_of(server, "ListModels")
    for line in lines:
        assert line.get("trace_id") == (TRACE if passed else None), line


def requests_of(server, method):
    lines = [json.loads(line) for line in server.log().split("\n")[:-1]]
    return [line for line in lines if line.get("method") == method]
