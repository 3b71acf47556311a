# SPDX-License-Identifier: Apache-2.0
"""Finds the CUDA toolkit; where there is none, the CUDA backend is left out with one line."""

_BUILD = """# Written by //build:cuda.bzl.
package(default_visibility = ["//visibility:public"])
"""

def _find_nvcc(ctx):
    home = ctx.os.environ.get("CUDA_HOME", "")
    candidates = [home + "/bin/nvcc"] if home else []
    on_path = ctx.which("nvcc")
    if on_path:
        candidates.append(str(on_path))
    candidates.append("/usr/local/cuda/bin/nvcc")
    for nvcc in candidates:
        if ctx.path(nvcc).exists:
            return nvcc
    return None

def _cuda_toolkit_impl(ctx):
    nvcc = _find_nvcc(ctx)
    if not nvcc:
        # buildifier: disable=print
        print("no nvcc in CUDA_HOME, PATH or /usr/local/cuda: building without the CUDA backend")
    ctx.file("BUILD", _BUILD)
    ctx.file("defs.bzl", "HAVE_CUDA = {}\nNVCC = {}\n".format(bool(nvcc), repr(nvcc or "")))

cuda_toolkit = repository_rule(
    implementation = _cuda_toolkit_impl,
    environ = ["CUDA_HOME", "PATH"],
    local = True,
)
