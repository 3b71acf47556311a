# SPDX-License-Identifier: Apache-2.0
"""What the image will hold, made as a folder from the programs that Bazel left: deploy/rootfs.sh."""
import hashlib
import os
import pathlib
import stat
import subprocess

import pytest

from manifests import DEPLOY, ROOT

LOCK = DEPLOY / "rootfs.lock"
CUDA = ROOT / "bazel-bin/cuda/libweightd_cuda.so"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
VARIANTS = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not CUDA.exists(), reason="built without CUDA: no nvcc"))]


def make(folder, *flags):
    return subprocess.run([DEPLOY / "rootfs.sh", folder, "--no-build", *flags], capture_output=True, text=True)


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory, variant):
    folder = tmp_path_factory.mktemp("rootfs") / variant
    done = make(folder, *["--cuda"] * (variant == "cuda"))
    assert done.returncode == 0, done.stderr
    return folder


def files(folder):
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()}


def locked():
    return {line.split()[0]: line.split()[1] for line in LOCK.read_text().splitlines() if line and line[0] != "#"}


def test_size(rootfs, variant):
    total = sum(p.stat().st_size for p in files(rootfs).values())
    assert total < (150e6 if variant == "cuda" else 60e6)


def test_nothing_else(rootfs, variant):
    """The programs, the libraries of the lock, and a few small files."""
    found = set(files(rootfs))
    programs = {"usr/bin/weightd", "usr/bin/weightctl"} | ({"usr/lib/libweightd_cuda.so"} if variant == "cuda" else set())
    libraries = {f for f in found if f.startswith(LIBRARIES)}
    rest = found - programs - libraries
    assert {pathlib.Path(f).name for f in libraries} <= set(locked())
    assert {f for f in rest if not f.startswith("var/lib/dpkg/status.d/")} <= {
        "etc/debian_version", "etc/group", "etc/ld.so.conf", "etc/nsswitch.conf", "etc/os-release", "etc/passwd",
        "etc/ssl/certs/ca-certificates.crt", "usr/share/weightd/LICENSE", "usr/share/weightd/libraries"}
    assert {pathlib.Path(f).name for f in rest if f.startswith("var/lib/dpkg/status.d/")} <= set(locked().values())
    for name, path in files(rootfs).items():
        mode = path.stat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH), name
        executable = path.read_bytes()[:4] == b"\x7fELF"
        assert executable == (name in programs | libraries), name


def test_libraries_are_all_there(rootfs):
    """The loader of the folder resolves everything, and finds nothing outside."""
    for program in ("usr/bin/weightd", "usr/bin/weightctl", *(["usr/lib/libweightd_cuda.so"] if (
            rootfs / "usr/lib/libweightd_cuda.so").exists() else [])):
        said = subprocess.run([rootfs / "lib64/ld-linux-x86-64.so.2", "--inhibit-cache", "--library-path",
                               rootfs / LIBRARIES, "--list", rootfs / program], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        paths = [line.split("=>")[1].split()[0] for line in said.stdout.splitlines() if "=>" in line]
        assert len(paths) > 3
        for path in paths:
            # The loader names itself as the program asked for it.
            assert path.startswith(str(rootfs)) or path == "/lib64/ld-linux-x86-64.so.2", path


def test_runs(rootfs):
    for program in ("weightd", "weightctl"):
        said = subprocess.run([DEPLOY / "rootfs_run.sh", "--in-place", rootfs, program, "--version"],
                              capture_output=True, text=True)
        assert said.returncode == 0 and said.stdout.startswith(program), said.stderr
    if os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0:
        said = subprocess.run([DEPLOY / "rootfs_run.sh", rootfs, "weightd", "serve", "--model-root", "/etc", "--device",
                               "cuda", "--listen", "127.0.0.1:0", "--ready-file", "/ready"], capture_output=True, text=True)
        # Without a GPU it cannot start, and with one it cannot write to its root.
        assert said.returncode == 1, said.stderr
        assert "--device cuda: " in said.stderr or "Read-only file system" in said.stderr


def test_driver_finds_its_libraries(rootfs, variant):
    """libcuda.so.1, which comes from the host, needs these beside libc."""
    wanted = {"libdl.so.2", "libpthread.so.0", "librt.so.1", "libm.so.6", "libc.so.6"}
    assert variant == "cpu" or wanted <= set(os.listdir(rootfs / LIBRARIES))


def test_same_again(rootfs, variant, tmp_path):
    def fingerprint(folder):
        return {name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mode, path.stat().st_mtime)
                for name, path in files(folder).items()}
    done = make(tmp_path / "again", *["--cuda"] * (variant == "cuda"))
    assert done.returncode == 0, done.stderr
    assert fingerprint(rootfs) == fingerprint(tmp_path / "again")


def test_lock_refuses(tmp_path):
    """A library that is not in the lock, and with --locked another version."""
    lines = LOCK.read_text().splitlines()
    short = tmp_path / "short"
    short.write_text("\n".join(line for line in lines if not line.startswith("libssl.so.3 ")) + "\n")
    done = make(tmp_path / "a", "--lock", short)
    assert done.returncode == 1 and "not meant to be in the image:\nlibssl.so.3 libssl3" in done.stderr
    other = tmp_path / "other"
    other.write_text("\n".join(line + "+1" if line.startswith("libz.so.1 ") else line for line in lines) + "\n")
    done = make(tmp_path / "b", "--lock", other)
    assert done.returncode == 0 and "other versions than those in" in done.stderr
    done = make(tmp_path / "c", "--lock", other, "--locked")
    assert done.returncode == 1 and "refused (--locked)" in done.stderr


def test_folder_must_be_empty(tmp_path):
    (tmp_path / "mine").write_text("")
    done = make(tmp_path)
    assert done.returncode == 1 and "is not empty" in done.stderr
    assert (tmp_path / "mine").exists()
