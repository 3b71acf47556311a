# SPDX-License-Identifier: Apache-2.0
"""GetServerInfo, health, reflection, and what happens to methods nobody knows."""
import threading

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import ggufwrite
from harness import PATIENCE, SAMPLE, failure, needs_cpu, one, pb
from wdgrpc.reflection.v1 import reflection_pb2, reflection_pb2_grpc

SERVICES = {"weightd.v1.WeightService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection"}


def test_server_info(server, stub):
    info = server.info()
    assert info.version and info.build and info.backend == "cpu" and not info.draining
    types = {t.name: (t.id, t.block_elements, t.block_bytes) for t in info.tensor_types}
    assert types == {name: row[:3] for name, row in ggufwrite.TYPES.items()}
    assert len(info.tensor_types) == 35 and all(t.decode_path for t in info.tensor_types)
    cpu = info.devices[0]
    assert cpu.id == "cpu" and cpu.name and cpu.cores > 0 and cpu.memory_bytes > 0
    limits = info.limits
    assert limits.memory_budget_bytes == 256 << 20 and limits.default_chunk_bytes == 1 << 20
    assert 0 < limits.min_chunk_bytes <= 1 << 20 <= limits.max_chunk_bytes
    assert limits.max_tensors >= 100_000 and limits.max_header_bytes >= 50 << 20
    assert limits.max_streams and limits.stall_timeout_ms and limits.max_array_depth >= 3


def test_counters_count(server, stub):
    before = server.idle()
    d = one(stub, "sample.gguf", "token_embd.weight")
    after = server.idle()
    assert after.bytes_sent - before.bytes_sent == len(d.data)
    assert after.bytes_decoded - before.bytes_decoded == len(d.data)
    assert after.chunks_sent - before.chunks_sent == 1 == after.chunks_decoded - before.chunks_decoded
    assert after.streams_started - before.streams_started == 1 == after.streams_finished - before.streams_finished
    assert after.bytes_read > before.bytes_read and after.buffer_bytes_peak > 0


@pytest.mark.parametrize("simd", ["portable", "avx2", "avx512"])
def test_simd_override(serve, models, simd):
    needs_cpu(simd)
    s = serve(models, "--device", "cpu", env={"WEIGHTD_SIMD": simd})
    assert {t.decode_path for t in s.info().tensor_types} == {simd}


def test_health(server):
    stub = health_pb2_grpc.HealthStub(server.channel())
    for service in ("", "weightd.v1.WeightService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    failure(lambda: stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE),
            grpc.StatusCode.NOT_FOUND)


def test_health_watch(server):
    stub = health_pb2_grpc.HealthStub(server.channel())
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="weightd.v1.WeightService"), timeout=PATIENCE)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_reflection_v1alpha(server):
    database = ProtoReflectionDescriptorDatabase(server.channel())
    assert set(database.get_services()) == SERVICES
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("weightd.v1.WeightService")
    assert [m.name for m in service.methods] == ["GetServerInfo", "ListModels", "DescribeModel", "StreamTensors",
                                                 "StreamStats", "LeaseTensors"]
    assert pool.FindMessageTypeByName("weightd.v1.TensorChunk").fields_by_name["data"].number == 6


def test_reflection_v1(server):
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel())
    request = reflection_pb2.ServerReflectionRequest
    requests = [request(list_services=""), request(file_by_filename="weightd/v1/weightd.proto"),
                request(file_containing_symbol="weightd.v1.WeightService.StreamTensors"),
                request(file_containing_symbol="weightd.v1.Tensor"),
                request(file_containing_symbol="weightd.v1.nothing"), request(file_by_filename="no.proto")]
    answers = list(stub.ServerReflectionInfo(iter(requests), timeout=PATIENCE))
    assert len(answers) == len(requests)
    assert {s.name for s in answers[0].list_services_response.service} == SERVICES
    for answer, asked in zip(answers, requests):
        assert answer.original_request == asked
    for answer in answers[1:4]:
        files = [FileDescriptorProto.FromString(f) for f in answer.file_descriptor_response.file_descriptor_proto]
        assert "weightd/v1/weightd.proto" in [f.name for f in files]
    for answer in answers[4:]:
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("method", ["/weightd.v1.WeightService/Nothing", "/no.such.Service/Method",
                                    "/weightd.v1.WeightService/PrepareModel"])
def test_unknown_methods(server, stub, method):
    call = server.channel().unary_unary(method)
    failure(lambda: call(b"", timeout=PATIENCE), grpc.StatusCode.UNIMPLEMENTED)


@pytest.mark.parametrize("method", ["GetServerInfo", "ListModels", "DescribeModel", "StreamTensors", "StreamStats"])
@pytest.mark.parametrize("junk", [b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab"])
def test_requests_that_are_no_protobuf(server, stub, method, junk):
    call = server.channel().unary_stream(f"/weightd.v1.WeightService/{method}")
    failure(lambda: call(junk, timeout=PATIENCE), grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)


def test_an_oversized_request_is_refused(server, stub):
    limit = server.info().limits.max_request_bytes
    request = pb.StreamTensorsRequest(model="sample.gguf", tensors=["x" * 1000] * (limit // 1000 + 1))
    failure(lambda: stub.StreamTensors(request, timeout=PATIENCE), grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.INVALID_ARGUMENT)


def test_unix_socket(serve, models, tmp_path):
    s = serve(models, listen=f"unix:{tmp_path / 'w.sock'}")
    assert s.address.startswith("unix:")
    assert s.info().version
    d = one(s.stub, "sample.gguf", "output_norm.weight", output_type=pb.STORED)
    assert d.data in SAMPLE.read_bytes()


def test_many_connections_at_once(server):
    stubs = [server.new_stub() for _ in range(20)]
    answers = []
    threads = [threading.Thread(target=lambda s=s: answers.append(s.GetServerInfo(
        pb.GetServerInfoRequest(), timeout=PATIENCE))) for s in stubs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(answers) == 20
