# SPDX-License-Identifier: Apache-2.0
"""LeaseTensors as far as it goes without a GPU: who is refused, and why. tests/gpu has the rest."""
import queue

import grpc
import pytest

from harness import SAMPLE, pb


def lease(stub, **request):
    """The status and details with which a lease ends."""
    q = queue.Queue()
    q.put(pb.LeaseTensorsRequest(**request))
    call = stub.LeaseTensors(iter(q.get, None))
    try:
        return [m.tensor.name for m in call], None
    except grpc.RpcError as e:
        return e.code(), e.details()
    finally:
        q.put(None)


def test_off_by_default(serve):
    s = serve(SAMPLE.parent)
    code, details = lease(s.new_stub(), model=SAMPLE.name)
    assert code == grpc.StatusCode.PERMISSION_DENIED and "--allow-cuda-ipc" in details
    assert s.info().limits.gpu_memory_budget_bytes == 0


def test_same_host_only(serve):
    s = serve(SAMPLE.parent, "--allow-cuda-ipc")
    code, details = lease(s.new_stub(), model=SAMPLE.name)
    assert code == grpc.StatusCode.PERMISSION_DENIED and "unix socket" in details


def test_needs_a_gpu(serve, tmp_path):
    s = serve(SAMPLE.parent, "--allow-cuda-ipc", "--gpu-memory-budget", "1GiB", "--device", "cpu",
              listen=f"unix:{tmp_path}/s")
    code, details = lease(s.new_stub(), model=SAMPLE.name)
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "CPU" in details
    assert s.info().limits.gpu_memory_budget_bytes == 1 << 30


@pytest.mark.parametrize("send", [0, 1])
def test_a_client_that_leaves(serve, send):
    """Ends its side at once, before or behind its request: the call ends, and nothing is left."""
    s = serve(SAMPLE.parent)
    call = s.new_stub().LeaseTensors(iter([pb.LeaseTensorsRequest(model=SAMPLE.name)] * send))
    try:
        list(call)
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.PERMISSION_DENIED
    assert not s.idle().gpu_bytes_leased


def test_a_request_that_is_none(serve):
    """Bytes that are no request end the call with an error, not as a lease that ended well."""
    s = serve(SAMPLE.parent, "--allow-cuda-ipc")
    q = queue.Queue()
    q.put(b"\xff\xff\xff")
    with grpc.insecure_channel(s.address) as channel:
        method = channel.stream_stream("/weightd.v1.WeightService/LeaseTensors", request_serializer=bytes)
        with pytest.raises(grpc.RpcError) as e:
            list(method(iter(q.get, None)))
    q.put(None)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "LeaseTensorsRequest" in e.value.details()
