# SPDX-License-Identifier: Apache-2.0
"""Metrics over HTTP: that they parse, that they move as they must, and that who reads them cannot do harm."""
import contextlib
import http.client
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ggufwrite import Gguf
from harness import FULL, PATIENCE, Server, failure, pb, stream, wait_until
from scraping import NVML, OPENMETRICS, Scrape, address_of, build_nvml, get, scrape

@pytest.fixture
def monitored(serve, models):
    """Starts servers with metrics."""
    def start(*flags, **options):
        return serve(models, "--metrics-listen", "127.0.0.1:0", *flags, **options)
    return start


@pytest.fixture(scope="module")
def big(models):
    """A model that no socket holds: F16 zeros in a sparse file."""
    Gguf().tensor("x", "F16", (1 << 20, 50)).write(models / "big.gguf")
    return "big.gguf"


def hold(server, model):
    """A stream whose reader stops after the first chunk."""
    call = server.new_stub().StreamTensors(pb.StreamTensorsRequest(model=model))
    next(call)
    return call


# ------------------------------------------------------------------------------------------------ what is there

def test_format(monitored):
    server = monitored()
    response, body = get(server)
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert int(response.headers["Content-Length"]) == len(body)
    text = Scrape(parse_text(body.decode()))
    response, body = get(server, Accept=OPENMETRICS)
    assert response.headers["Content-Type"] == OPENMETRICS + "; charset=utf-8"
    assert body.endswith(b"\n# EOF\n")
    assert Scrape(parse_openmetrics(body.decode())).keys() == text.keys()
    for name, family in text.families.items():
        assert re.fullmatch(r"(weightd|process)_[a-z][a-z0-9_]*", name)
        kinds = {"counter": r"_total", "histogram": r"_(bucket|sum|count)", "gauge": ""}
        for sample in family.samples:
            assert re.fullmatch(re.escape(name) + kinds[family.type], sample.name)


@pytest.mark.parametrize("accept, openmetrics", [
    ("", False),
    ("*/*", False),
    ("text/plain", False),
    ("application/openmetrics-text", True),
    ("application/openmetrics-text; version=2.0.0, */*;q=0.1", False),
    ("application/openmetrics-text;q=0, text/plain", False),
    ("text/plain;q=0.9, application/openmetrics-text;q=0.3", False),
    ("Application/OpenMetrics-Text ; Q=1.0", True),
    ("application/openmetrics-text;q=many", False),
    (";;;,,;q=,=;version=,", False),
    # What Prometheus 2.42 and 3 send.
    ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
     "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
    ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
     "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
     "text/plain;version=0.0.4;q=0.2,*/*;q=0.1", True),
])
def test_negotiation(negotiating, accept, openmetrics):
    response, body = get(negotiating, Accept=accept)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text") == openmetrics
    assert body.endswith(b"# EOF\n") == openmetrics


@pytest.fixture(scope="module")
def negotiating(models, tmp_path_factory):
    s = Server(models, "--metrics-listen", "127.0.0.1:0", tmp=tmp_path_factory.mktemp("negotiating"))
    yield s
    s.close()


def test_promtool(monitored):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed")
    server = monitored()
    stream(server.stub, "sample.gguf")
    done = subprocess.run(["promtool", "check", "metrics"], input=get(server)[1], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()


# ------------------------------------------------------------------------------------------------ what it says

def check_histograms(samples):
    """Buckets grow, the last holds all, and the sum can be of that many values."""
    for family in samples.families.values():
        if family.type != "histogram":
            continue
        series = {}
        for s in family.samples:
            labels = dict(s.labels)
            le = labels.pop("le", None)
            series.setdefault(tuple(labels.items()), {})[le or s.name] = s.value
        for labels, values in series.items():
            total, count = values.pop(family.name + "_sum"), values.pop(family.name + "_count")
            edges = [float(le) for le in values]
            assert edges == sorted(edges) and edges[-1] == float("inf")
            counts = list(values.values())
            assert counts == sorted(counts) and counts[-1] == count, (family.name, labels)
            least = sum(low * (n - before) for low, n, before in zip([0, *edges], counts, [0, *counts]))
            assert total >= least * 0.999, (family.name, labels)
            assert (total == 0) == (count == 0) or count and total < 1e-6


def test_a_fetch_is_counted(monitored):
    server = monitored()
    before = scrape(server)
    units = stream(server.stub, "sample.gguf")
    server.idle()
    after = scrape(server)
    info = server.counters()

    def grown(name, **labels):
        return after.of(name, **labels) - before.of(name, **labels)

    payload = sum(len(u.data) for u in units)
    chunks = sum(len(u.chunks) for u in units)
    stored = sum(u.tensor.stored_bytes for u in units)
    assert payload and grown("weightd_sent_bytes_total") == payload
    assert grown("weightd_decoded_bytes_total") == payload
    assert grown("weightd_read_bytes_total") == stored >= grown("weightd_read_ahead_bytes_total")
    assert grown("weightd_sent_chunks_total") == grown("weightd_decoded_chunks_total") == chunks
    assert grown("weightd_requests_total", method="StreamTensors", status="OK") == 1
    assert grown("weightd_streams_started_total") == grown("weightd_streams_finished_total") == 1
    assert grown("weightd_request_duration_seconds_count", method="StreamTensors") == 1
    for stage in ("read", "decode", "sum", "send"):
        assert 0 < grown("weightd_stage_duration_seconds_count", stage=stage) <= chunks
    assert grown("weightd_stage_duration_seconds_count", stage="to_device") == 0
    assert grown("weightd_queue_wait_seconds_count", queue="task") == 1
    assert grown("weightd_queue_wait_seconds_count", queue="worker") == 1
    assert grown("weightd_queue_wait_seconds_count", queue="reader") == chunks
    check_histograms(after)
    # GetServerInfo says the same.
    assert after.of("weightd_sent_bytes_total") == info.bytes_sent
    assert after.of("weightd_read_bytes_total") == info.bytes_read
    assert after.of("weightd_pool_peak_bytes") == info.buffer_bytes_peak > 0
    for stage in info.stages:
        assert after.of("weightd_stage_duration_seconds_sum", stage=stage.name) == pytest.approx(stage.seconds)
    assert after.of("weightd_models_open") == info.models_open == 1
    assert 0 < after.of("weightd_metadata_used_bytes") < after.of("weightd_metadata_budget_bytes")
    assert after.of("weightd_pool_used_bytes") == after.of("weightd_streams_active") == 0


def test_statuses(monitored):
    server = monitored()
    failure(lambda: stream(server.stub, "missing.gguf"), grpc.StatusCode.NOT_FOUND)
    failure(lambda: stream(server.stub, "sample.gguf", chunk_bytes=1), grpc.StatusCode.INVALID_ARGUMENT)
    list(server.stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE))
    unknown = server.channel().unary_unary("/weightd.v1.WeightService/No\"such", lambda m: m, lambda m: m)
    failure(lambda: unknown(b"", timeout=PATIENCE), grpc.StatusCode.UNIMPLEMENTED)

    def counted():
        s = scrape(server)
        return (s.of("weightd_requests_total", method="StreamTensors", status="NOT_FOUND"),
                s.of("weightd_requests_total", method="StreamTensors", status="INVALID_ARGUMENT"),
                s.of("weightd_requests_total", method="ListModels", status="OK"),
                s.of("weightd_requests_total", method="other", status="UNIMPLEMENTED")) == (1, 1, 1, 1)
    wait_until(counted, "four calls to be counted")
    assert not re.search(r"No|such|missing|sample", get(server)[1].decode().replace("such calls", "").replace("Such", ""))


def refusals(server):
    s = scrape(server)
    return {dict(labels)["limit"]: int(v) for (name, labels), v in s.items() if name == "weightd_refusals_total" and v}


def test_refusals_by_limit(monitored, big):
    server = monitored("--max-streams", 1)
    held = hold(server, big)
    wait_until(lambda: scrape(server).of("weightd_streams_active") == 1, "the stream to run")
    failure(lambda: stream(server.stub, "sample.gguf"), grpc.StatusCode.RESOURCE_EXHAUSTED)
    held.cancel()
    server.idle()
    assert refusals(server) == {"max_streams": 1} and server.counters().requests_refused == 1

    server = monitored("--memory-budget", "8MiB", "--threads", 1)
    failure(lambda: stream(server.stub, "sample.gguf", chunk_bytes=16 << 20), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert refusals(server) == {"memory_budget": 1} and server.counters().requests_refused == 1

    server = monitored("--metadata-budget", "1KiB")
    failure(lambda: stream(server.stub, "sample.gguf"), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert refusals(server) == {"metadata_budget": 1} and server.counters().requests_refused == 1

    server = monitored()
    # An empty Selection takes two bytes here and a hundred unpacked.
    request = pb.StreamTensorsRequest(model="sample.gguf", selections=[pb.Selection()] * 1_000_000)
    failure(lambda: list(server.stub.StreamTensors(request, timeout=PATIENCE)), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert refusals(server) == {"request_size": 1} and server.counters().requests_refused == 1


def test_build_and_process(monitored):
    server = monitored("--threads", 3)
    samples = scrape(server)
    info = server.info()
    labels = {"version": info.version, "build": info.build, "backend": info.backend}
    assert samples.of("weightd_build_info", **labels) == 1
    assert samples.of("weightd_worker_threads") == 3
    assert 3 < samples.of("process_threads") < 200
    resident = samples.of("process_resident_memory_bytes")
    assert 1 << 20 < resident <= server.vm_hwm() and resident < samples.of("process_virtual_memory_bytes")
    assert 3 < samples.of("process_open_fds") < samples.of("process_max_fds")
    assert samples.of("process_start_time_seconds") == pytest.approx(server.log_path.stat().st_ctime, abs=3600)
    start = samples.of("process_start_time_seconds")
    before = samples.of("process_cpu_seconds_total")
    stream(server.stub, "sample.gguf")
    samples = scrape(server)
    assert samples.of("process_cpu_seconds_total") > before
    assert samples.of("process_start_time_seconds") == start


def test_while_draining(monitored, big):
    server = monitored("--grace", "60s")
    held = hold(server, big)
    assert scrape(server).of("weightd_draining") == 0
    server.signal(signal.SIGTERM)
    wait_until(lambda: scrape(server).of("weightd_draining") == 1, "metrics to tell of the drain")
    assert scrape(server).of("weightd_streams_active") == 1
    failure(lambda: stream(server.stub, "sample.gguf"), grpc.StatusCode.UNAVAILABLE)
    held.cancel()
    assert server.wait() == 0


# ------------------------------------------------------------------------------------------------ HTTP

def test_paths_and_methods(monitored):
    server = monitored()
    response, body = get(server, "/")
    assert response.status == 200 and b'href="/metrics"' in body
    assert response.headers["Content-Type"].startswith("text/html")
    head, nothing = get(server, method="HEAD")
    assert head.status == 200 and nothing == b"" and int(head.headers["Content-Length"]) > 1000
    assert head.headers["Content-Type"].startswith("text/plain")
    assert get(server, "/metrics?debug=1")[0].status == 200
    for path in ("/metric", "/metrics/", "/metrics/../metrics", "/%2e%2e/etc/passwd", "/../../etc/passwd"):
        assert get(server, path)[0].status == 404, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        response, _ = get(server, method=method)
        assert response.status == 405 and response.headers["Allow"] == "GET, HEAD", method


def talk(server, data):
    """Sends raw bytes; what comes back until the server closes."""
    out = b""
    with socket.create_connection(address_of(server), PATIENCE) as s:
        with contextlib.suppress(ConnectionError):
            s.sendall(data)
            while piece := s.recv(65536):
                out += piece
    return out


@pytest.mark.parametrize("data, least", [
    (b"\r\n\r\n", 400),
    (b"GET\r\n\r\n", 400),
    (b"BREW /metrics HTTP/1.1\r\n\r\n", 400),
    (b"GET /metrics HTTP/9.9\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
    (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n", 400),
    (b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 400),
    (b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (bytes(range(256)) * 100 + b"\r\n\r\n", 400),
])
def test_malformed(negotiating, data, least):
    answer = talk(negotiating, data)
    if answer:  # or it was closed without a word
        assert int(answer.split()[1]) >= least, answer[:200]
    assert get(negotiating)[0].status == 200


def test_random_requests(negotiating, rng):
    """Real requests with bytes changed, cut, doubled and put in: whatever comes back, the server lives."""
    whole = [b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;q=0.5, */*;q=0.1\r\n\r\n",
             b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
             b"HEAD http://u:p@[::1]:80/%6detrics?a=b#c HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nxx"]
    for _ in range(1000 if FULL else 200):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            piece = data[at:at + rng.randint(1, 8)]
            data[at:at + rng.choice([0, 1, len(piece)])] = rng.choice(
                [b"", rng.randbytes(rng.randint(1, 4)), piece * rng.randint(2, 2000), b"\r\n", b"\0"])
        with socket.create_connection(address_of(negotiating), PATIENCE) as s:
            with contextlib.suppress(ConnectionError):
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
    assert get(negotiating)[0].status == 200


def test_two_requests_on_one_connection(negotiating):
    answer = talk(negotiating, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert answer.count(b"HTTP/1.1 200 OK") == 1 and b"Connection: close" in answer


def test_who_trickles_is_cut(monitored):
    """A byte now and then keeps no connection alive."""
    server = monitored()
    with socket.create_connection(address_of(server), PATIENCE) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        s.settimeout(0.2)

        def cut():
            try:
                s.sendall(b"y")
                return s.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True
        wait_until(cut, "the connection to be cut")
    assert get(server)[0].status == 200


def descriptors(server):
    return int(scrape(server).of("process_open_fds"))


def test_a_crowd(monitored):
    """More connections than there may be: the oldest go, scrapers get through, and the service does not notice."""
    server = monitored()
    before = descriptors(server)
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(socket.create_connection(address_of(server), PATIENCE)) for _ in range(100)]
        for s in crowd[50:]:
            with contextlib.suppress(ConnectionError):
                s.sendall(b"GET /metrics HTTP/1.1\r\n")
        wait_until(lambda: descriptors(server) <= before + 16, "the crowd to shrink")
        assert len(stream(server.stub, "sample.gguf"))
        for s in crowd[:80]:
            s.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                assert s.recv(1) == b""
    wait_until(lambda: descriptors(server) <= before + 2, "descriptors to be closed")


def test_who_does_not_read(monitored):
    """An answer that nobody takes holds up no other one."""
    server = monitored()
    with contextlib.ExitStack() as stack:
        for _ in range(15):
            s = stack.enter_context(socket.socket())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            s.connect(address_of(server))
            s.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        for _ in range(5):
            assert get(server)[0].status == 200


def test_many_scrapers_and_a_fetch(monitored):
    server = monitored()
    stop = threading.Event()
    failed = []

    def scraper():
        try:
            while not stop.is_set():
                check_histograms(scrape(server))
        except Exception as e:  # noqa: BLE001
            failed.append(e)
    threads = [threading.Thread(target=scraper) for _ in range(8)]
    for t in threads:
        t.start()
    for _ in range(5):
        stream(server.stub, "sample.gguf", chunk_bytes=4096)
    stop.set()
    for t in threads:
        t.join()
    assert not failed, failed


# ------------------------------------------------------------------------------------------------ where it listens

def test_off_by_default(server):
    assert "metrics at" not in server.log()


def test_addresses(monitored, models, tmp_path):
    server = monitored()
    host, port = address_of(server)

    def refused(where, status):
        done = subprocess.run([server.args[0], "serve", "--model-root", models, "--listen", "127.0.0.1:0",
                               "--metrics-listen", where], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == status and "--metrics-listen" in done.stderr, done.stderr
    refused(f"{host}:{port}", 1)
    refused("192.0.2.1:50153", 1)
    for bad in ("50153", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "unix:/tmp/metrics", "::1:50153", ":50153"):
        refused(bad, 2)
    # Beyond loopback it is allowed, because it tells of no model and no client, and said.
    where = "0.0.0.0:0"
    open_to_all = Server(models, env={"WEIGHTD_METRICS_LISTEN": where}, tmp=tmp_path / "open")
    assert re.search(r"metrics at http://0\.0\.0\.0:\d+/metrics, in plain text, for everybody", open_to_all.log())
    open_to_all.close()


def test_ipv6(serve, models):
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    server = serve(models, "--metrics-listen", "[::1]:0")
    port = int(re.search(r"metrics at http://\[::1\]:(\d+)/metrics", server.log())[1])
    connection = http.client.HTTPConnection("::1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200


# ------------------------------------------------------------------------------------------------ GPUs

@pytest.fixture
def driver(tmp_path):
    """Compiles a libnvidia-ml.so.1; the environment that has it found."""
    return lambda source: build_nvml(tmp_path / "driver", source)


def test_gpus(monitored, driver):
    begin = time.monotonic()
    server = monitored(env=driver(NVML))
    samples = scrape(server)
    gpus = [dict(labels) for name, labels in samples if name == "weightd_gpu_info"]
    assert [g["gpu"] for g in gpus] == ["0", "1"]
    assert gpus[0]["uuid"] == "GPU-0x1" and gpus[0]["name"] == 'An "H200" \\ \ufffd'
    assert samples.of("weightd_gpu_utilization_ratio", gpu="0") == 0.37
    assert samples.of("weightd_gpu_memory_utilization_ratio", gpu="0") == 0.08
    assert samples.of("weightd_gpu_memory_bytes", gpu="1") == 150754820096
    assert samples.of("weightd_gpu_memory_used_bytes", gpu="1") == 12345
    assert ("weightd_gpu_utilization_ratio", (("gpu", "1"),)) not in samples
    assert Scrape(parse_openmetrics(get(server, Accept=OPENMETRICS)[1].decode()))
    for _ in range(50):
        assert get(server)[0].status == 200
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    # However often it is scraped, the driver is asked once a second, for the utilization of each of the two.
    seconds = time.monotonic() - begin
    assert int(re.search(r"nvml: shut down after (\d+)", server.log())[1]) <= 2 * (seconds + 2)


@pytest.mark.parametrize("how", ["fails", "lacks a function", "is no library"])
def test_a_driver_that(monitored, driver, tmp_path, how):
    env = driver(NVML.replace("nvmlDeviceGetUUID", "nvmlDeviceGetUuid") if how == "lacks a function" else NVML)
    if how == "fails":
        env["STUB_FAILS"] = "1"
    elif how == "is no library":
        (tmp_path / "driver/libnvidia-ml.so.1").write_bytes(b"\x7fELF" + bytes(1000))
    server = monitored("--verbose", env=env)
    assert not [name for name, _ in scrape(server) if name.startswith("weightd_gpu_") and "lease" not in name]
    assert "no GPU metrics" in server.log()


def test_a_driver_that_hangs(monitored, driver):
    """It costs the metrics, and neither the service nor its end."""
    hangs = 'for (fputs("asked for ever\\n", stderr);;) sleep(1)'
    server = monitored(env=driver(NVML.replace("asked++", hangs).replace("<stdio.h>", "<stdio.h>\n#include <unistd.h>")))
    with socket.create_connection(address_of(server), PATIENCE) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_until(lambda: "asked for ever" in server.log(), "the driver to be asked")
        assert stream(server.stub, "sample.gguf")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "the metrics thread is stuck" in server.log()
