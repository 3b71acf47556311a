#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fetches a model's tensors from one weightd or several replicas, and writes each to FOLDER/NAME.npy.

    fetch.py --server a:50151,b:50151,c:50151 llama.gguf --out llama/
    fetch.py --server dns:///weightd.models.svc:50151 llama.gguf --out llama/ --tensor 'blk.0.*' --type f32

An example for programs of your own: stock grpcio, grpcio-tools and numpy, and nothing of weightd but its .proto.
One gRPC channel balances over the replicas (round_robin). The tensors are cut into pieces of some megabytes, each a call
that goes to the next replica; where one dies, what it had not delivered is asked for again, of another one. All calls
name the revision that was described first, so that replicas with other files refuse. The files are complete when the
program ends with status 0.
"""
import argparse
import concurrent.futures
import ctypes
import os
import pathlib
import re
import socket
import sys
import time
import urllib.parse

import grpc
import numpy as np

try:
    import google_crc32c  # checks what was received, where it is installed
except ImportError:
    google_crc32c = None

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"  # wherever you keep weightd/v1/weightd.proto
sys.path.append(str(PROTO))
protos, services = grpc.protos_and_services("weightd/v1/weightd.proto")

# malloc is to keep the memory of messages. By default glibc gives it back to the kernel after each, and every page of the
# next one faults. As environment: MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824.
if hasattr(ctypes.CDLL(None), "mallopt"):
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 32 << 20)
    ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 1 << 30)

ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN,
           grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
TRIES = 5  # failures in a row, without a byte in between, after which a piece is given up


def connect(servers, ca=None, token=None, silence=30):
    """A stub whose calls go to one replica after the other. `servers` is HOST:PORT, several with commas in between, or
    dns:///NAME:PORT, which stands for all addresses of that name."""
    half = int(silence * 500)  # milliseconds
    options = [("grpc.service_config", ROUND_ROBIN),
               # A replica that hangs or vanished answers no ping: it counts as lost then.
               ("grpc.keepalive_time_ms", half), ("grpc.keepalive_timeout_ms", half), ("grpc.http2.ping_timeout_ms", half),
               ("grpc.http2.max_pings_without_data", 0)]
    if "," in servers:  # gRPC takes several addresses in one target as numbers
        hosts = [s.strip().partition(":") for s in servers.split(",")]
        servers = "ipv4:" + ",".join(f"{socket.gethostbyname(host)}:{port or 50151}" for host, _, port in hosts)
        options.append(("grpc.default_authority", hosts[0][0]))  # the name that certificates are for
    if not ca:
        return services.WeightServiceStub(grpc.insecure_channel(servers, options))
    credentials = grpc.ssl_channel_credentials(pathlib.Path(ca).read_bytes())
    if token:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return services.WeightServiceStub(grpc.secure_channel(servers, credentials, options))


def retried(call):
    """call(), again after a pause where a replica was lost. The call returns whether it made any progress."""
    failures = 0
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            failures = 1 if getattr(error, "progress", False) else failures + 1
            if error.code() not in PASSING or failures == TRIES:
                raise
            time.sleep(0.25 * 2 ** (failures - 1))


def describe(stub, model):
    """(revision, tensors) of a model."""
    def ask():
        messages = list(stub.DescribeModel(protos.DescribeModelRequest(model=model, no_metadata=True)))
        return messages[0].header.revision, [t for m in messages for t in m.tensors]
    return retried(ask)


def pieces_of(arrays, piece_bytes):
    """Cuts arrays into lists of [index, begin, end] (bytes) of about piece_bytes each."""
    piece, left = [], piece_bytes
    for index, array in arrays.items():
        begin = 0
        while begin < array.nbytes:
            end = min(array.nbytes, begin + left)
            piece.append([index, begin, end])
            left -= end - begin
            begin = end
            if not left:
                yield piece
                piece, left = [], piece_bytes
    if piece:
        yield piece


def fetch_piece(stub, request, piece, arrays):
    """Delivers a piece into the arrays, whatever number of calls that takes."""
    def ask():
        progress = False
        request_now = protos.StreamTensorsRequest()
        request_now.CopyFrom(request)
        for index, begin, end in piece:
            request_now.ranges.add(tensor_index=index, begin=begin, end=end)
        try:
            for chunk in stub.StreamTensors(request_now):
                assert (chunk.tensor_index, chunk.offset) == tuple(piece[0][:2]), "not what was asked for"
                if google_crc32c and google_crc32c.value(chunk.data) != chunk.crc32c:
                    raise ValueError(f"tensor {chunk.tensor_index}, byte {chunk.offset}: damaged on the way")
                end = chunk.offset + len(chunk.data)
                array = arrays[chunk.tensor_index].reshape(-1).view(np.uint8)
                array[chunk.offset:end] = np.frombuffer(chunk.data, np.uint8)
                piece[0][1], progress = end, True
                if end == piece[0][2]:
                    piece.pop(0)
        except grpc.RpcError as error:
            error.progress = progress
            if piece:
                raise
    while piece:
        retried(ask)


def fetch(stub, model, patterns=(), output_type="F16", allocate=lambda name, shape, dtype: np.empty(shape, dtype),
          calls=4, piece_bytes=32 << 20):
    """{name: array} of a model's tensors, fetched by so many calls at once. `allocate` makes the arrays."""
    revision, tensors = describe(stub, model)
    wanted = [re.compile(".*".join(map(re.escape, p.split("*"))), re.S) for p in patterns]
    dtype = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}[output_type]
    chosen = [t for t in tensors if not wanted or any(w.fullmatch(t.name) for w in wanted)]
    arrays = {t.index: allocate(t.name, tuple(t.shape), dtype) for t in chosen}
    request = protos.StreamTensorsRequest(model=model, if_revision=revision,
                                          output_type=protos.OutputType.Value(output_type))
    with concurrent.futures.ThreadPoolExecutor(calls) as pool:
        futures = [pool.submit(fetch_piece, stub, request, piece, arrays) for piece in pieces_of(arrays, piece_bytes)]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {t.name: arrays[t.index] for t in chosen}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--server", default=os.environ.get("WEIGHTD_SERVER", "127.0.0.1:50151"), metavar="ADDR[,ADDR…]",
                        help="one server, several, or dns:///NAME:PORT (default 127.0.0.1:50151, or WEIGHTD_SERVER)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the .npy files go")
    parser.add_argument("--tensor", action="append", default=[], metavar="GLOB", help="only these; may be repeated")
    parser.add_argument("--type", choices=["f16", "f32"], default="f16")
    parser.add_argument("--calls", type=int, default=4, help="how many calls at once (default 4)")
    parser.add_argument("--piece-mib", type=int, default=32, metavar="N", help="MiB of a call (default 32)")
    parser.add_argument("--timeout", type=float, default=30, metavar="SECONDS",
                        help="a replica that answers no ping for so long is lost (default 30)")
    parser.add_argument("--tls-ca", metavar="FILE", help="speak TLS, and trust the authorities in FILE (PEM)")
    parser.add_argument("--token-file", metavar="FILE", help="with --tls-ca: send the bearer token in FILE")
    options = parser.parse_args()
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)

    def allocate(name, shape, dtype):
        """An array that lies in its file. Names are the model's and may hold anything, so they are quoted."""
        path = folder / (urllib.parse.quote(name, safe=" ") + ".npy")
        if 0 in shape:  # nothing to map
            np.save(path, np.empty(shape, dtype))
            return np.empty(shape, dtype)
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)

    token = pathlib.Path(options.token_file).read_text().strip() if options.token_file else None
    begin = time.monotonic()
    try:
        arrays = fetch(connect(options.server, options.tls_ca, token, options.timeout), options.model, options.tensor,
                       options.type.upper(), allocate, options.calls, options.piece_mib << 20)
    except grpc.RpcError as error:
        sys.exit(f"fetch.py: {options.model}: {error.details()} ({error.code().name})")
    except (OSError, ValueError) as error:
        sys.exit(f"fetch.py: {error}")
    size, seconds = sum(a.nbytes for a in arrays.values()), time.monotonic() - begin
    print(f"{len(arrays)} tensors, {size / 1e6:.1f} MB in {seconds:.1f} s ({size / 1e6 / seconds:.0f} MB/s)")


if __name__ == "__main__":
    main()
