# SPDX-License-Identifier: Apache-2.0
"""GPUs passed in by the Container Device Interface, with a stand-in for them: null devices by the names of NVIDIA's, and a
driver that has no GPU. It proves the wiring, not CUDA: the container gets the device that was asked for, the driver's
library where weightd looks for it, and no other device."""
import json
import os
import pathlib
import stat

import pytest

from conftest import podman
from harness import ROOT, wait_until

SPECS = [pathlib.Path("/etc/cdi"), pathlib.Path("/run/cdi")]
CUDA = ROOT / "bazel-bin/cuda/libweightd_cuda.so"
DRIVER = ROOT / "bazel-bin/tests/deploy/libcuda.so.1"


@pytest.fixture
def gpus(folder):
    for specs in SPECS:
        for path in specs.glob("*"):
            if "nvidia.com/gpu" in path.read_text(errors="replace"):
                pytest.skip(f"this machine describes real GPUs: {path}")

    def device(name, *numbers):
        nodes = []
        for n in numbers:
            path = folder / f"nvidia{n}"
            if not path.exists():
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            nodes.append({"path": f"/dev/nvidia{n}", "hostPath": str(path), "type": "c", "major": 1, "minor": 3})
        return {"name": name, "containerEdits": {"deviceNodes": nodes, "env": [f"STAND_IN={name}"]}}
    driver = folder / "libcuda.so.1"
    driver.write_bytes(DRIVER.read_bytes())
    driver.chmod(0o755)
    edits = {"mounts": [{"hostPath": str(driver), "containerPath": "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
                         "options": ["ro", "nosuid", "nodev", "bind"]}]}
    SPECS[1].mkdir(exist_ok=True)
    spec = SPECS[1] / "weightd-test.json"
    spec.write_text(json.dumps({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "containerEdits": edits,
                                "devices": [device("0", 0), device("1", 1), device("all", 0, 1)]}))
    yield
    spec.unlink()


@pytest.mark.parametrize("name,expected", [("0", {0}), ("1", {1}), ("all", {0, 1})])
def test_exactly_the_asked_device(run, gpus, name, expected):
    c = run("--device", f"nvidia.com/gpu={name}", environment={"WEIGHTD_DEVICE": "cpu"})
    found = {p.name: p for p in c.proc("root/dev").glob("nvidia*")}
    assert set(found) == {f"nvidia{n}" for n in expected}
    for path in found.values():
        assert stat.S_ISCHR(path.stat().st_mode) and path.stat().st_rdev == os.makedev(1, 3)
    assert f"STAND_IN={name}" in c.proc("environ").read_text().split("\0")
    assert c.proc("root/usr/lib/x86_64-linux-gnu/libcuda.so.1").read_bytes() == DRIVER.read_bytes()


def test_none_unless_asked(run, gpus):
    c = run(environment={"WEIGHTD_DEVICE": "cpu"})
    assert not list(c.proc("root/dev").glob("nvidia*"))
    assert not c.proc("root/usr/lib/x86_64-linux-gnu/libcuda.so.1").exists()


def test_unknown_device(gpus):
    done = podman("run", "--rm", "--device", "nvidia.com/gpu=7", os.environ["IMAGE"], "--version", check=False)
    assert done.returncode != 0 and "unresolvable" in done.stderr and "nvidia.com/gpu=7" in done.stderr


@pytest.mark.skipif(not CUDA.exists(), reason="built without CUDA: no nvcc")
def test_weightd_finds_the_driver(run, gpus, folder):
    """--device cuda reports what the driver says, and without a device passed in, that there is none."""
    library = folder / "libweightd_cuda.so"
    library.write_bytes(CUDA.read_bytes())
    library.chmod(0o755)
    mount = [] if os.environ.get("IMAGE_CUDA") else ["--volume", f"{library}:/usr/lib/libweightd_cuda.so:ro"]
    for device, said in ((["--device", "nvidia.com/gpu=0"], "the driver is here and sees no GPU"),
                         ([], "no NVIDIA driver was found (libcuda.so.1)")):
        c = run(*device, *mount, environment={"WEIGHTD_DEVICE": "cuda"}, wait=False)
        assert int(podman("wait", c.name).stdout) == 1
        wait_until(lambda: said in c.log(), f"{said} in {c.log()}")
