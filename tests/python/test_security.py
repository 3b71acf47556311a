# SPDX-License-Identifier: Apache-2.0
"""TLS, client certificates, bearer tokens and the health port, with stock clients; certificates and tokens that change
while the server runs."""
import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from wdgrpc.reflection.v1 import reflection_pb2, reflection_pb2_grpc

import certs
from ggufwrite import Gguf
from harness import PATIENCE, ROOT, WEIGHTCTL, WEIGHTD, failure, pb, pb_grpc, stream, wait_until

CODE = grpc.StatusCode
TOKENS = ["first-token-of-the-tests", "second~token+of/the.tests=="]


@pytest.fixture(scope="module")
def authority():
    return certs.Authority()


@pytest.fixture(scope="module")
def other_authority():
    return certs.Authority("another authority")


@pytest.fixture
def files(tmp_path, authority):
    """A folder with what a server needs: server.crt, server.key, ca.crt, tokens."""
    authority.issue("server").write(tmp_path, "server")
    (tmp_path / "ca.crt").write_bytes(authority.cert)
    put(tmp_path / "tokens", "# for tests\n\n" + TOKENS[0] + "\n  " + TOKENS[1] + "  # the second\r\n")
    return tmp_path


@pytest.fixture(scope="module")
def big(models):
    """200 MB of F16 zeros in a sparse file: more than any buffers on the way hold."""
    Gguf().tensor("x", "F16", (1 << 20, 100)).write(models / "big-secure.gguf")
    return "big-secure.gguf"


def put(path, content):
    """Replaces a file as secret managers do, all at once."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content if isinstance(content, bytes) else content.encode())
    fresh.chmod(0o600)
    os.replace(fresh, path)


def tls(files):
    return ["--tls-cert", files / "server.crt", "--tls-key", files / "server.key"]


def mutual(files):
    return [*tls(files), "--tls-client-ca", files / "ca.crt"]


numbers = itertools.count()


def channel(server, authority=None, client=None, token=None, address=None, options=()):
    """A stock channel of its own; with an authority it speaks TLS."""
    options = [("grpc.use_local_subchannel_pool", 1), ("test.number", next(numbers)), *options]
    if authority is None:
        made = grpc.insecure_channel(address or server.address, options=options)
    else:
        credentials = grpc.ssl_channel_credentials(authority.cert, *((client.key, client.cert) if client else ()))
        if token:
            credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
        made = grpc.secure_channel(address or server.address, credentials, options=options)
    server.channels.append(made)
    return made


def stub(server, *arguments, **options):
    return pb_grpc.WeightServiceStub(channel(server, *arguments, **options))


def info(s, **options):
    return s.GetServerInfo(pb.GetServerInfoRequest(), timeout=PATIENCE, **options)


def refused(s, *codes, **options):
    return failure(lambda: info(s, **options), *(codes or (CODE.UNAVAILABLE,)))


def shown_certificate(server):
    """What the server shows to a new connection, as DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as s, context.wrap_socket(s) as t:
        return t.getpeercert(binary_form=True)


def der(pair):
    return ssl.PEM_cert_to_DER_cert(pair.cert.decode())


# ---------------------------------------------------------------------------------------------------------- TLS

def test_a_stream_over_tls(serve, models, files, authority, server):
    s = serve(models, *tls(files))
    secure = stream(stub(s, authority), "sample.gguf")
    assert [d.data for d in secure] == [d.data for d in stream(server.stub, "sample.gguf")]


def test_a_certificate_of_somebody_else(serve, models, files, other_authority):
    refused(stub(serve(models, *tls(files)), other_authority))


def test_a_name_that_is_not_the_servers(serve, models, files, authority):
    s = serve(models, *tls(files))
    refused(stub(s, authority, options=[("grpc.ssl_target_name_override", "elsewhere.example")]))
    info(stub(s, authority, options=[("grpc.ssl_target_name_override", "localhost")]))


def test_plain_text_to_a_tls_port(serve, models, files, authority):
    s = serve(models, *tls(files))
    refused(stub(s))
    info(stub(s, authority))


def test_tls_to_a_plain_port(server, authority):
    refused(stub(server, authority))


def test_a_chain_with_an_intermediate(serve, models, files, authority):
    middle = certs.Authority("intermediate", parent=authority)
    leaf = middle.issue("server")
    put(files / "server.crt", leaf.cert + middle.cert)
    put(files / "server.key", leaf.key)
    info(stub(serve(models, *tls(files)), authority))


def old_context(protocol, version):
    context = ssl.SSLContext(protocol)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    return context


def shake_hands(client_context, files, version):
    """A handshake in memory with a server that takes that version."""
    server_context = old_context(ssl.PROTOCOL_TLS_SERVER, version)
    server_context.load_cert_chain(files / "server.crt", files / "server.key")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client_context.wrap_bio(back, there), server_context.wrap_bio(there, back, server_side=True)]
    for _ in range(10):
        for end in list(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)
    return not ends


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"])
def test_versions(serve, models, files, version):
    s = serve(models, *tls(files))
    context = old_context(ssl.PROTOCOL_TLS_CLIENT, version)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    assert shake_hands(context, files, version), "this test's own client must be able to do it"
    host, port = s.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as plain:
        if version in ("TLSv1", "TLSv1_1"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(plain)
        else:
            with context.wrap_socket(plain) as secure:
                assert secure.version() == version.replace("_", ".") and secure.selected_alpn_protocol() == "h2"


def test_a_handshake_that_never_ends_blocks_nobody(serve, models, files, authority):
    s = serve(models, *tls(files))
    host, port = s.address.rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        for junk in [b"", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", os.urandom(4000)] * 8:
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(junk)
        info(stub(s, authority))


# --------------------------------------------------------------------------------------------------- mutual TLS

def test_client_certificates(serve, models, files, authority, other_authority):
    s = serve(models, *mutual(files))
    assert len(stream(stub(s, authority, authority.issue("client")), "sample.gguf")) > 30
    refused(stub(s, authority))
    refused(stub(s, authority, other_authority.issue("client")))
    refused(stub(s, authority, authority.issue("client", end=certs.NOW - certs.DAY / 2)))
    refused(stub(s))


def test_client_certificates_and_tokens(serve, models, files, authority):
    """Where both are given, both are needed."""
    s, client = serve(models, *mutual(files), "--token-file", files / "tokens"), authority.issue("client")
    info(stub(s, authority, client, TOKENS[0]))
    refused(stub(s, authority, client), CODE.UNAUTHENTICATED)
    refused(stub(s, authority, None, TOKENS[0]))


# ------------------------------------------------------------------------------------------------------- tokens

@pytest.mark.parametrize("secure", [True, False], ids=["tls", "plain"])
def test_tokens(serve, models, files, authority, secure):
    s = serve(models, *(tls(files) if secure else []), "--token-file", files / "tokens")
    anonymous = stub(s, authority if secure else None)
    for token in TOKENS:
        info(anonymous, metadata=[("authorization", "Bearer " + token)])
        info(anonymous, metadata=[("authorization", "bearer   " + token)])
        if secure:
            assert len(stream(stub(s, authority, token=token), "sample.gguf")) > 30
    assert "--token-file" in refused(anonymous, CODE.UNAUTHENTICATED)
    for value in ["Bearer wrong", "Bearer " + TOKENS[0] + "x", "Bearer " + TOKENS[0][:-1], "Bearer", "Bearer ", "",
                  "Basic " + TOKENS[0], TOKENS[0], "Bearer # for tests", "Bearer " + " ".join(TOKENS), "Bearer " + "x" * 4000]:
        told = refused(anonymous, CODE.UNAUTHENTICATED, metadata=[("authorization", value)])
        assert TOKENS[0] not in told
    refused(anonymous, CODE.UNAUTHENTICATED, metadata=[("authorization", "Bearer " + t) for t in TOKENS])
    log = s.log()
    assert "calls without a valid token were turned away" in log
    assert not any(t in log for t in TOKENS) and "wrong" not in log


def test_without_a_token_nothing_is_answered(serve, models, files):
    """Every method, and one that does not exist; calls that stream requests, too, and ones that never send any."""
    s = serve(models, "--token-file", files / "tokens")
    c = channel(s)
    w = pb_grpc.WeightServiceStub(c)
    code = CODE.UNAUTHENTICATED
    failure(lambda: w.GetServerInfo(pb.GetServerInfoRequest(), timeout=PATIENCE), code)
    failure(lambda: w.ListModels(pb.ListModelsRequest(), timeout=PATIENCE), code)
    failure(lambda: w.DescribeModel(pb.DescribeModelRequest(model="sample.gguf"), timeout=PATIENCE), code)
    failure(lambda: w.StreamTensors(pb.StreamTensorsRequest(model="sample.gguf"), timeout=PATIENCE), code)
    failure(lambda: w.StreamStats(pb.StreamStatsRequest(model="sample.gguf"), timeout=PATIENCE), code)
    failure(lambda: w.LeaseTensors(iter([pb.LeaseTensorsRequest()]), timeout=PATIENCE), code)
    failure(lambda: health(c), code)
    failure(lambda: health_pb2_grpc.HealthStub(c).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE), code)
    failure(lambda: reflect(c), code)
    for path in ["/weightd.v1.WeightService/Nothing", "/nothing.Here/AtAll"]:
        failure(lambda: c.unary_unary(path)(b"", timeout=PATIENCE), code)
    # The answer comes although no request does.
    waiting = c.stream_stream("/weightd.v1.WeightService/StreamTensors")(iter(lambda: wait_for_ever(), None), timeout=PATIENCE)
    failure(lambda: waiting, code)
    failure(lambda: c.unary_unary("/nothing.Here/AtAll")(b"", timeout=PATIENCE,
            metadata=[("authorization", "Bearer " + TOKENS[0])]), CODE.UNIMPLEMENTED)
    counters = info(w, metadata=[("authorization", "Bearer " + TOKENS[0])]).counters
    assert counters.streams_started == 0 and counters.chunks_decoded == 0


def wait_for_ever():
    threading.Event().wait(PATIENCE)


def health(c, **options):
    return health_pb2_grpc.HealthStub(c).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE, **options)


def reflect(c):
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    return list(reflection_pb2_grpc.ServerReflectionStub(c).ServerReflectionInfo(iter([ask]), timeout=PATIENCE))


@pytest.mark.parametrize("exempt", ["health", "reflection", "health,reflection", "reflection,health"])
def test_what_needs_no_token(serve, models, files, exempt):
    s = serve(models, "--token-file", files / "tokens", "--token-exempt", exempt)
    c = channel(s)
    for name, ask in [("health", health), ("reflection", reflect)]:
        if name in exempt:
            ask(c)
        else:
            failure(lambda: ask(c), CODE.UNAUTHENTICATED)
    refused(pb_grpc.WeightServiceStub(c), CODE.UNAUTHENTICATED)


# ------------------------------------------------------------------------------------------------------- health

def health_address(s):
    return re.search(r"health alone, in plain text, on (\S+)", s.log()).group(1)


def test_the_health_port(serve, models, files, authority, big):
    s = serve(models, *mutual(files), "--token-file", files / "tokens", "--health-listen", "127.0.0.1:0")
    c = channel(s, address=health_address(s))
    assert health(c).status == health_pb2.HealthCheckResponse.SERVING
    watch = health_pb2_grpc.HealthStub(c).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    # Nothing else, not even with a token.
    w = pb_grpc.WeightServiceStub(c)
    token = [("authorization", "Bearer " + TOKENS[0])]
    assert "health" in refused(w, CODE.UNIMPLEMENTED).lower()
    refused(w, CODE.UNIMPLEMENTED, metadata=token)
    failure(lambda: w.StreamTensors(pb.StreamTensorsRequest(model="sample.gguf"), timeout=PATIENCE, metadata=token),
            CODE.UNIMPLEMENTED)
    failure(lambda: reflect(c), CODE.UNIMPLEMENTED)
    refused(stub(s, authority, authority.issue("client"), address=health_address(s)))
    # A drain is told there, too.
    held = stub(s, authority, authority.issue("client"), TOKENS[0]).StreamTensors(pb.StreamTensorsRequest(model=big))
    next(held)
    s.signal(signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert health(c).status == health_pb2.HealthCheckResponse.NOT_SERVING
    held.cancel()


def test_the_health_port_may_be_a_socket(serve, models, tmp_path):
    path = tmp_path / "health.sock"
    s = serve(models, "--health-listen", f"unix:{path}")
    assert health(channel(s, address=f"unix:{path}")).status == health_pb2.HealthCheckResponse.SERVING
    s.close()
    assert not path.exists()


def test_the_health_port_is_taken(models, server):
    done = start("--model-root", models, "--listen", "127.0.0.1:0", "--health-listen", server.address)
    assert done.returncode == 1 and "--health-listen" in done.stderr


def test_watchers_do_not_keep_others_from_asking(serve, models):
    s = serve(models, "--health-listen", "127.0.0.1:0")
    watches = []
    for _ in range(1100):
        if len(watches) % 200 == 0:
            c = channel(s, address=health_address(s))
        watch = health_pb2_grpc.HealthStub(c).Watch(health_pb2.HealthCheckRequest())
        try:
            next(watch)
        except grpc.RpcError as e:
            assert e.code() == CODE.RESOURCE_EXHAUSTED
            break
        watches.append(watch)
    assert len(watches) == 1024
    assert health(channel(s, address=health_address(s))).status == health_pb2.HealthCheckResponse.SERVING
    info(stub(s))


@pytest.mark.parametrize("method", ["StreamTensors", "GetServerInfo", "Nothing"])
def test_a_request_that_never_comes(serve, models, method):
    """Calls without their request hold up neither others nor the end."""
    s = serve(models)
    c = channel(s)
    waiting = [c.stream_stream(f"/weightd.v1.WeightService/{method}")(iter(lambda: wait_for_ever(), None)) for _ in range(20)]
    info(pb_grpc.WeightServiceStub(c))
    s.signal(signal.SIGTERM)
    assert s.wait() == 0
    for call in waiting:
        failure(lambda: call, CODE.UNAVAILABLE, CODE.CANCELLED, CODE.UNIMPLEMENTED)


# ------------------------------------------------------------------------------------------- files that change

def test_a_new_certificate(serve, models, files, authority, big):
    """A running stream goes on with the old one, and connections that come see the new one."""
    s = serve(models, *mutual(files), "--token-file", files / "tokens")
    client = authority.issue("client")
    old = stub(s, authority, client, TOKENS[0])
    call = old.StreamTensors(pb.StreamTensorsRequest(model=big))
    got = len(next(call).data)
    before = shown_certificate_mutual(s, client, files)
    fresh = authority.issue("server, renewed")
    put(files / "server.crt", fresh.cert)
    put(files / "server.key", fresh.key)
    wait_until(lambda: shown_certificate_mutual(s, client, files) == der(fresh), "the new certificate to be shown")
    assert before != der(fresh)
    info(stub(s, authority, client, TOKENS[0]))
    for chunk in call:
        got += len(chunk.data)
    assert got == 100 << 21
    info(old)  # the connection is still there


def shown_certificate_mutual(server, client, files):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    cert, key = client.write(files, "shown-client")
    context.load_cert_chain(cert, key)
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as s, context.wrap_socket(s) as t:
        return t.getpeercert(binary_form=True)


def test_another_client_authority(serve, models, files, authority, other_authority):
    s = serve(models, *mutual(files))
    theirs = other_authority.issue("client")
    refused(stub(s, authority, theirs))
    put(files / "ca.crt", other_authority.cert)
    wait_until(lambda: reaches(s, authority, theirs), "clients of the new authority to be let in")
    refused(stub(s, authority, authority.issue("client")))
    # Both, while clients move from one to the other.
    put(files / "ca.crt", authority.cert + other_authority.cert)
    wait_until(lambda: reaches(s, authority, authority.issue("client")), "clients of the old authority to be let in again")
    info(stub(s, authority, theirs))


def reaches(s, authority, client=None):
    try:
        info(stub(s, authority, client))
        return True
    except grpc.RpcError:
        return False


def test_a_link_that_is_turned(serve, models, files, authority, tmp_path):
    """The way Kubernetes changes a mounted secret: names are links into a folder that is a link itself."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        authority.issue("server " + version).write(tmp_path / version, "server")
    os.symlink("one", tmp_path / "..data")
    mount = tmp_path / "mount"
    mount.mkdir()
    for name in ("server.crt", "server.key"):
        os.symlink(f"../..data/{name}", mount / name)
    s = serve(models, *tls(mount))
    before = shown_certificate(s)
    os.symlink("two", tmp_path / "..data.new")
    os.replace(tmp_path / "..data.new", tmp_path / "..data")
    wait_until(lambda: shown_certificate(s) != before, "the new certificate to be shown")
    info(stub(s, authority))


def test_new_tokens(serve, models, files, authority, big):
    """A running stream goes on although its token is gone; new calls need a new one."""
    s = serve(models, *tls(files), "--token-file", files / "tokens")
    old = stub(s, authority, token=TOKENS[0])
    call = old.StreamTensors(pb.StreamTensorsRequest(model=big))
    got = len(next(call).data)
    put(files / "tokens", "third-token-of-the-tests\n")

    def turned_away():
        try:
            info(old)
        except grpc.RpcError as e:
            return e.code() == CODE.UNAUTHENTICATED
        return False
    wait_until(turned_away, "the old token to be refused")
    info(stub(s, authority, token="third-token-of-the-tests"))
    assert got + sum(len(chunk.data) for chunk in call) == 100 << 21
    assert "third" not in s.log()


def broken_reload(s, path, content, word):
    before = s.log().count("still serving with")
    put(path, content)
    wait_until(lambda: s.log().count("still serving with") > before, "the warning")
    line = s.log().rsplit("still serving with", 1)[0].rsplit("\n", 1)[1]
    assert str(path) in line and re.search(word, line), line


def test_broken_certificates_change_nothing(serve, models, files, authority):
    s = serve(models, *mutual(files))
    client, before = authority.issue("client"), None
    before = shown_certificate_mutual(s, client, files)
    good = {name: (files / name).read_bytes() for name in ("server.crt", "server.key", "ca.crt")}
    expired = authority.issue("server", end=certs.NOW - certs.DAY / 2)
    for name, content, word in [("server.crt", b"", "PEM"), ("server.crt", expired.cert, "expired"),
                                ("server.key", authority.key, "not the key"), ("ca.crt", b"junk", "PEM"),
                                ("server.key", b"\0" * 100, "NUL"), ("server.crt", good["server.crt"][:-200], "PEM|cert")]:
        broken_reload(s, files / name, content, word)
        assert shown_certificate_mutual(s, client, files) == before
        info(stub(s, authority, client))
        put(files / name, good[name])
    os.remove(files / "server.key")
    wait_until(lambda: "No such file" in s.log(), "the warning")
    info(stub(s, authority, client))
    # And after all of it, a good one is taken.
    fresh = authority.issue("server, renewed")
    put(files / "server.crt", fresh.cert)
    put(files / "server.key", fresh.key)
    wait_until(lambda: shown_certificate_mutual(s, client, files) == der(fresh), "the new certificate to be shown")


def test_broken_tokens_change_nothing(serve, models, files):
    s = serve(models, "--token-file", files / "tokens")
    secret = "a-secret-in-a-broken-file"
    for content, word in [("", "no token"), ("# nothing\n", "no token"), (f"{secret} {secret}\n", "line 1"),
                          (f"ok-token-ok-token\n{secret}\x07\n", "line 2"), ("x" * 600, "line 1"),
                          (b"\xff\xfe" * 20, "line 1"), ("\n".join(f"token-number-{i:08}" for i in range(300)), "line 257")]:
        broken_reload(s, files / "tokens", content, word)
        info(stub(s), metadata=[("authorization", "Bearer " + TOKENS[1])])
    assert secret not in s.log() and "token-number" not in s.log()


# ------------------------------------------------------------------------------------------------------ at start

def start(*arguments, env=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTD_")}
    return subprocess.run([WEIGHTD, "serve", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=PATIENCE, env={**environment, **(env or {})})


def test_certificates_that_cannot_be_used(models, files, authority):
    """Each is told at the start, with the file and what to do."""
    def told(*words, status=1, flags=None):
        done = start("--model-root", models, "--listen", "127.0.0.1:0", *(flags or mutual(files)))
        assert done.returncode == status, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("weightd: ") and all(w in last for w in words), last

    good = {name: (files / name).read_bytes() for name in ("server.crt", "server.key", "ca.crt")}

    def with_file(name, content, *words):
        put(files / name, content)
        told(str(files / name), *words)
        put(files / name, good[name])

    with_file("server.crt", b"not a certificate", "--tls-cert", "PEM")
    with_file("server.crt", der(authority), "--tls-cert", "NUL")
    with_file("server.crt", authority.issue("s", end=certs.NOW - certs.DAY / 2).cert, "expired", "renew")
    with_file("server.crt", authority.issue("s", begin=certs.NOW + certs.DAY).cert, "not valid before", "clock")
    with_file("server.crt", authority.issue("s").cert, "not the key", "server.key")
    with_file("server.crt", authority.issue("s", rsa_bits=1024).cert, "key too small")
    with_file("server.crt", good["server.crt"] + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
              "certificate 2 of the chain")
    with_file("server.key", b"", "--tls-key", "PEM")
    with_file("server.key", certs.key_pem(authority.private, b"secret"), "encrypted", "openssl pkey")
    with_file("server.key", b"x" * (1 << 21), "more than")
    with_file("ca.crt", b"", "--tls-client-ca", "PEM")
    with_file("ca.crt", certs.Authority("old", end=certs.NOW - certs.DAY / 2).cert, "expired")
    with_file("ca.crt", good["ca.crt"] + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 2")
    os.remove(files / "server.key")
    told("server.key", "No such file")
    os.mkfifo(files / "server.key")
    told("server.key", "regular file")
    told("--tls-key", status=2, flags=["--tls-cert", files / "server.crt"])
    told("--tls-cert", status=2, flags=["--tls-key", files / "server.key"])
    told("--tls-cert", status=2, flags=["--tls-client-ca", files / "ca.crt"])
    told("--token-file", status=2, flags=["--token-exempt", "health"])
    told("--token-file", "No such file", flags=["--token-file", files / "nothing"])
    put(files / "tokens", "# none\n")
    told("--token-file", "no token", "openssl rand", flags=["--token-file", files / "tokens"])
    done = start("--model-root", models, "--token-exempt", "everything")
    assert done.returncode == 2 and "health,reflection" in done.stderr


def test_a_key_that_may_not_be_read(files):
    with tempfile.TemporaryDirectory(prefix="weightd-key-") as folder:
        base = pathlib.Path(folder)
        base.chmod(0o755)
        pair = base / "server.crt", base / "server.key"
        shutil.copy(files / "server.crt", pair[0])
        shutil.copy(files / "server.key", pair[1])
        pair[0].chmod(0o644)
        pair[1].chmod(0)
        done = subprocess.run([shutil.copy(WEIGHTD, base), "serve", "--model-root", folder, "--listen", "127.0.0.1:0",
                               "--tls-cert", pair[0], "--tls-key", pair[1]], capture_output=True, text=True,
                              user=65534 if os.geteuid() == 0 else None, timeout=PATIENCE)
    assert done.returncode == 1 and "server.key" in done.stderr and "Permission denied" in done.stderr


def test_secrets_that_others_may_read(serve, models, files, authority):
    (files / "server.key").chmod(0o644)
    (files / "tokens").chmod(0o604)
    s = serve(models, *tls(files), "--token-file", files / "tokens")
    warnings = [line for line in s.log().splitlines() if "chmod" in line]
    assert len(warnings) == 2 and "server.key" in warnings[0] and "tokens" in warnings[1]
    info(stub(s, authority, token=TOKENS[0]))


def test_weak_tokens_and_certificates_about_to_end(serve, models, files, authority):
    put(files / "tokens", "short\n")
    soon = authority.issue("server", end=certs.NOW + certs.DAY)
    put(files / "server.crt", soon.cert)
    put(files / "server.key", soon.key)
    s = serve(models, *tls(files), "--token-file", files / "tokens")
    assert "can be guessed" in s.log() and "short" not in s.log().split("serving")[0].replace("shorter", "")
    assert "renew it" in s.log()
    info(stub(s, authority, token="short"))


# Beyond loopback: TLS, and a way to know the callers, or the word.
def listening(models, files, *flags, listen="0.0.0.0:0"):
    done = start("--model-root", models / "nowhere", "--listen", listen, *flags)
    return done.returncode, done.stderr


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_what_beyond_loopback_needs(models, files, listen):
    """Options are judged before the model root, which does not exist, is looked at."""
    tokens = ["--token-file", files / "tokens"]
    for flags, word in [([], "--tls-cert"), (tokens, "tokens"), (tls(files), "--token-file or --tls-client-ca")]:
        code, said = listening(models, files, *flags, listen=listen)
        assert code == 2 and "--insecure" in said and word in said, said
    for flags in [[*tls(files), *tokens], mutual(files), [*mutual(files), *tokens], ["--insecure"],
                  [*tokens, "--insecure"], [*tls(files), "--insecure"]]:
        code, said = listening(models, files, *flags, listen=listen)
        assert code == 1 and "nowhere" in said, said


def test_health_beyond_loopback_needs_nothing(serve, models):
    s = serve(models, "--health-listen", "0.0.0.0:0")
    c = channel(s, address="127.0.0.1:" + health_address(s).rsplit(":", 1)[1])
    assert health(c).status == health_pb2.HealthCheckResponse.SERVING


def test_environment(serve, models, files, authority):
    s = serve(models, env={"WEIGHTD_TLS_CERT": str(files / "server.crt"), "WEIGHTD_TLS_KEY": str(files / "server.key"),
                           "WEIGHTD_TOKEN_FILE": str(files / "tokens"), "WEIGHTD_TOKEN_EXEMPT": "health"})
    c = channel(s, authority)
    health(c)
    refused(pb_grpc.WeightServiceStub(c), CODE.UNAUTHENTICATED)
    info(stub(s, authority, token=TOKENS[1]))


def test_the_client_of_the_readme(serve, models, files):
    s = serve(models, *tls(files), "--token-file", files / "tokens")
    put(files / "token", TOKENS[1] + "\n")
    [code] = re.findall(r"<!-- a test runs this, too -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    code = code.replace("weights.example:50151", s.address)
    code = f"import grpc\nprotos, services = grpc.protos_and_services('weightd/v1/weightd.proto')\n{code}\n" \
           "print(stub.GetServerInfo(protos.GetServerInfoRequest()).version)"
    out = subprocess.run([sys.executable, "-c", code], env=dict(os.environ, PYTHONPATH=str(ROOT / "proto")), cwd=files,
                         check=True, capture_output=True, text=True).stdout
    assert re.match(r"\d+\.\d+", out)


# ---------------------------------------------------------------------------------------------------- weightctl

def ctl(server, *arguments, status=0, env=None, address=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTD_")}
    done = subprocess.run([WEIGHTCTL, "--server", address or server.address, *map(str, arguments)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=PATIENCE,
                          env={**environment, "LC_ALL": "C.UTF-8", **(env or {})})
    assert done.returncode == status, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    assert not any(t in done.stdout + done.stderr for t in TOKENS)
    return done


def test_weightctl(serve, models, files, authority, tmp_path):
    s = serve(models, *mutual(files), "--token-file", files / "tokens")
    cert, key = authority.issue("client").write(tmp_path, "client")
    flags = ["--tls-ca", files / "ca.crt", "--tls-client-cert", cert, "--tls-client-key", key, "--token-file", files / "tokens"]
    assert ctl(s, "health", *flags).stdout == "SERVING\n"
    assert json.loads(ctl(s, "info", "--json", *flags).stdout)
    out = tmp_path / "out.safetensors"
    for command in (["list"], ["describe", "sample.gguf"], ["stats", "sample.gguf"],
                    ["fetch", "sample.gguf", "--out", out, "--connections", "3"], ["verify", out, "sample.gguf"]):
        ctl(s, *command, *flags)
    names = ["TLS_CA", "TLS_CLIENT_CERT", "TLS_CLIENT_KEY", "TOKEN_FILE"]
    twins = {"WEIGHTD_" + n: str(v) for n, v in zip(names, flags[1::2])}
    assert ctl(s, "health", env=twins).stdout == "SERVING\n"
    # The second token is as good, and comments are none.
    put(files / "mine", f"# mine\n{TOKENS[1]} # the second\n")
    ctl(s, "health", *flags[:-1], files / "mine")


def test_weightctl_says_what_is_wrong(serve, models, files, authority, other_authority, tmp_path):
    s = serve(models, *mutual(files), "--token-file", files / "tokens")
    cert, key = authority.issue("client").write(tmp_path, "client")
    (tmp_path / "other.crt").write_bytes(other_authority.cert)
    put(tmp_path / "wrong", "a-token-of-another-server")
    ca, client = ["--tls-ca", files / "ca.crt"], ["--tls-client-cert", cert, "--tls-client-key", key]
    token = ["--token-file", files / "tokens"]

    def told(word, *flags, status=1, **options):
        assert word in ctl(s, "health", *flags, status=status, **options).stderr

    told("--token-file", *ca, *client)
    told("UNAUTHENTICATED", *ca, *client, "--token-file", tmp_path / "wrong")
    told("--tls-client-cert", *ca, *token)
    told("do not vouch", "--tls-ca", tmp_path / "other.crt", *client, *token)
    told("--tls-ca FILE", "--tls", *client, *token)
    told("--tls-name", *ca, *client, *token, "--tls-name", "elsewhere.example")
    told("if it speaks TLS", *token)
    told("come together", *ca, "--tls-client-cert", cert, status=2)
    told("No such file", "--tls-ca", tmp_path / "nothing", status=2)
    told("No such file", *ca, *client, "--token-file", tmp_path / "nothing")
    told("not the key", *ca, "--tls-client-cert", cert, "--tls-client-key", files / "server.key", status=2)
    for address in ["192.0.2.1:1", "127.elsewhere.example:1", "localhost.elsewhere.example:1", "[fe80::1]:1"]:
        told("plain text", *token, address=address, status=2)
    # 0.0.0.0 is this host to the kernel, and not loopback by its looks; nobody listens there.
    trusted = ctl(s, "health", *token, "--insecure", "--timeout", "200ms", address="0.0.0.0:1", status=1)
    assert "in plain text" not in trusted.stderr
    plain = serve(models, "--token-file", files / "tokens")
    assert "speaks plain text" in ctl(plain, "health", *ca, *token, status=1).stderr
    ctl(plain, "health", *token)


def test_weightctl_names(serve, models, files, authority):
    """A server reached by an address that its certificate does not carry."""
    pair = authority.issue("server", hosts=["weightd.example"])
    put(files / "server.crt", pair.cert)
    put(files / "server.key", pair.key)
    s = serve(models, *tls(files))
    ca = ["--tls-ca", files / "ca.crt"]
    assert "--tls-name" in ctl(s, "health", *ca, status=1).stderr
    ctl(s, "health", *ca, "--tls-name", "weightd.example")


def test_weightctl_with_the_systems_authorities(serve, models, files):
    s = serve(models, *tls(files))
    ctl(s, "health", "--tls", env={"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(files / "ca.crt")})
    ctl(s, "health", env={"WEIGHTD_TLS": "1", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(files / "ca.crt")})


def test_weightctl_asks_the_health_port(serve, models, files):
    """As a container's health check does, in the environment of the daemon."""
    s = serve(models, *mutual(files), "--token-file", files / "tokens", "--health-listen", "127.0.0.1:0")
    daemons = {"WEIGHTD_TLS_CERT": str(files / "server.crt"), "WEIGHTD_TLS_KEY": str(files / "server.key"),
               "WEIGHTD_TLS_CLIENT_CA": str(files / "ca.crt"), "WEIGHTD_TOKEN_FILE": str(files / "tokens")}
    assert ctl(s, "health", address=health_address(s), env=daemons).stdout == "SERVING\n"
    assert "UNIMPLEMENTED" in ctl(s, "info", address=health_address(s), env=daemons, status=1).stderr


def test_weightctl_names_of_replicas(serve, models, files, authority):
    """A name's addresses are asked one by one, and each must show a certificate of that name."""
    pair = authority.issue("server", hosts=["localhost"])
    put(files / "server.crt", pair.cert)
    put(files / "server.key", pair.key)
    s = serve(models, *tls(files))
    ca, port = ["--tls-ca", files / "ca.crt"], s.address.rsplit(":", 1)[1]
    ctl(s, "health", *ca, address=f"dns:///localhost:{port}")
    ctl(s, "fetch", "sample.gguf", "--out", "/dev/null", *ca, address=f"dns:///localhost:{port}")
    assert "--tls-name" in ctl(s, "health", *ca, status=1).stderr
