# SPDX-License-Identifier: Apache-2.0
"""Holds the API against its committed baseline: once shipped, fields are added, never changed.

After an addition: `.venv/bin/python tests/python/test_conformance.py` writes the baseline anew.
"""
import pathlib
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASELINE = ROOT / "tests/conformance/weightd.v1.txt"
SOURCES = ["weightd/v1/weightd.proto", "grpc/health/v1/health.proto", "grpc/reflection/v1/reflection.proto",
           "grpc/reflection/v1alpha/reflection.proto"]


def listing(files):
    """One line for everything a client's wire format or code depends on."""
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(prefix, m):
        name = f"{prefix}.{m.name}"
        yield f"message {name}"
        for f in m.field:
            label = "repeated " if f.label == kinds.LABEL_REPEATED else ""
            kind = f.type_name or kinds.Type.Name(f.type)[len("TYPE_"):].lower()
            oneof = f" oneof {m.oneof_decl[f.oneof_index].name}" if f.HasField("oneof_index") else ""
            yield f"field {name}.{f.name} = {f.number} {label}{kind}{oneof}"
        for e in m.enum_type:
            yield from enum(name, e)
        for n in m.nested_type:
            yield from message(name, n)

    def enum(prefix, e):
        yield f"enum {prefix}.{e.name}"
        for v in e.value:
            yield f"value {prefix}.{e.name}.{v.name} = {v.number}"

    for file in sorted(files, key=lambda f: f.name):
        for m in file.message_type:
            yield from message(file.package, m)
        for e in file.enum_type:
            yield from enum(file.package, e)
        for s in file.service:
            yield f"service {file.package}.{s.name}"
            for m in s.method:
                streams = ("stream " if m.client_streaming else "", "stream " if m.server_streaming else "")
                yield (f"method {file.package}.{s.name}.{m.name} ({streams[0]}{m.input_type}) returns "
                       f"({streams[1]}{m.output_type})")


def built():
    """From the descriptor set that reflection serves where Bazel built it, else from the sources."""
    blob = ROOT / "bazel-bin/proto/services.binpb"
    if not blob.exists():
        blob = pathlib.Path(tempfile.mkdtemp()) / "services.binpb"
        subprocess.run(["protoc", f"-I{ROOT / 'proto'}", "--include_imports", f"--descriptor_set_out={blob}", *SOURCES],
                       check=True)
    return list(listing(descriptor_pb2.FileDescriptorSet.FromString(blob.read_bytes()).file))


def test_nothing_was_removed_or_changed():
    gone = [line for line in BASELINE.read_text().splitlines() if line not in set(built())]
    assert not gone, "clients out there rely on these: " + "; ".join(gone)


def test_additions_are_in_the_baseline():
    new = [line for line in built() if line not in set(BASELINE.read_text().splitlines())]
    assert not new, f"write them down with `.venv/bin/python tests/python/{pathlib.Path(__file__).name}`: " + "; ".join(new)


def test_reflection_serves_the_same(server):
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    database = ProtoReflectionDescriptorDatabase(server.channel())
    files = [database.FindFileContainingSymbol(s) for s in database.get_services()]
    assert sorted(listing(files)) == sorted(BASELINE.read_text().splitlines())


if __name__ == "__main__":
    BASELINE.parent.mkdir(exist_ok=True)
    BASELINE.write_text("\n".join(built()) + "\n")
    print(f"wrote {BASELINE}", file=sys.stderr)
