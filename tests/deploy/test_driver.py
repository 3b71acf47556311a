# SPDX-License-Identifier: Apache-2.0
"""What weightd says where CUDA cannot start, provoked by a driver that fails as real ones do (stub_driver.c), and that the
operations page has each of these messages word for word."""
import os
import re
import subprocess

import pytest

from harness import PATIENCE, WEIGHTD
from manifests import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "bazel-bin/cuda/libweightd_cuda.so").exists(), reason="built without CUDA: no nvcc")
STUB = ROOT / "bazel-bin/tests/deploy"
PAGE = re.sub(r"\s+", " ", (ROOT / "docs/operations.md").read_text())


def started(tmp_path, **environment):
    """Starts weightd on the GPU, which there is not; its last line."""
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(STUB), **environment}
    done = subprocess.run([WEIGHTD, "serve", "--model-root", tmp_path, "--listen", "127.0.0.1:0", "--device", "cuda"],
                          capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 1, done.stderr
    return done.stderr.splitlines()[-1]


# cuInit's answers, and the beginning and the remedy of the message.
@pytest.mark.parametrize("code,said,remedy", [
    (3, "initialization error", "/dev/nvidia-uvm"),
    (34, "CUDA driver is a stub library", "LD_LIBRARY_PATH"),
    (46, "CUDA-capable device(s) is/are busy or unavailable", "nvidia-smi -q -d COMPUTE"),
    (100, "no CUDA-capable device is detected", "with MIG enabled, create a compute instance"),
    (304, "OS call failed or operation not supported on this OS", "/dev/nvidia-uvm"),
    (802, "system not yet initialized", "start nvidia-fabricmanager"),
    (803, "system has unsupported display driver / cuda driver combination", "reboot after an update of the driver"),
    (804, "forward compatibility was attempted on non supported HW", "update the host's driver instead"),
    (805, "MPS client failed to connect to the MPS control daemon or the MPS server", "CUDA_MPS_PIPE_DIRECTORY"),
    (999, "unknown error", "systemctl daemon-reload"),
])
def test_first_errors(tmp_path, code, said, remedy):
    line = started(tmp_path, STUB_CUDA_INIT=str(code))
    assert line.startswith(f"weightd: --device cuda: there is no usable CUDA device ({said}): ") and remedy in line
    assert line.split(f"({said}): ")[1] in PAGE, "the operations page has the advice as it is printed"
    assert said in PAGE


def test_driver_too_old(tmp_path):
    line = started(tmp_path, STUB_CUDA_VERSION="11040")
    found = re.search(r": the driver is for CUDA 11\.4 and this build needs CUDA (\d+)\.\d+: update the host's driver, or "
                      r"build weightd with the toolkit of CUDA 11 or older$", line)
    assert found, line
    assert "the driver is for CUDA 12.4 and this build needs CUDA 13.0: update the host's driver, or build weightd with the " \
        "toolkit of CUDA 12 or older" in PAGE


def test_no_driver(tmp_path):
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has a driver")
    line = started(tmp_path, LD_LIBRARY_PATH="")
    assert "no NVIDIA driver was found (libcuda.so.1): install the driver on the host" in line
    assert line.split("runtime version): ")[1] in PAGE


def test_hidden(tmp_path):
    line = started(tmp_path, CUDA_VISIBLE_DEVICES="7")
    assert line.endswith(": CUDA_VISIBLE_DEVICES=7 hides all GPUs or names none that is here: compare it with nvidia-smi -L")
    assert "hides all GPUs or names none that is here: compare it with nvidia-smi -L" in PAGE


def test_auto_goes_on_without(tmp_path):
    """--device auto says the same and serves on the CPU."""
    ready = tmp_path / "ready"
    with subprocess.Popen([WEIGHTD, "serve", "--model-root", tmp_path, "--listen", "127.0.0.1:0", "--ready-file", ready],
                          stderr=subprocess.PIPE, text=True, env={"LD_LIBRARY_PATH": str(STUB)}) as server:
        line = server.stderr.readline()
        server.terminate()
    assert "on the CPU, because there is no usable CUDA device (no CUDA-capable device is detected): " in line
    assert "nvidia-smi -L lists them)" in line, "the whole advice"


def messages(path):
    """The string literals of a source file, joined as the compiler joins them."""
    text = re.sub(r'"\s*\n\s*"', "", (ROOT / path).read_text())
    return [m.replace('\\"', '"') for m in re.findall(r'"((?:[^"\\\n]|\\.)*)"', text)]


def test_the_page_has_all_advice():
    """Each text of cuda/advice.cu, those that only a real GPU can provoke too."""
    texts = [m for m in messages("cuda/advice.cu") if len(m) > 60 and "%" not in m]
    assert len(texts) > 9
    for text in texts:
        assert text in PAGE, text


def test_the_loader_s_messages():
    texts = [m for m in messages("service/engine/cuda_loader.c") if "build has no CUDA backend" in m or "could not be loaded" in m]
    assert len(texts) == 2
    for text in texts:
        for part in re.split(r"%s", text):
            assert part.strip() in PAGE, part
