# SPDX-License-Identifier: Apache-2.0
"""Builds a shared library with nvcc, for the architectures we ship."""

load("@cuda_toolkit//:defs.bzl", "HAVE_CUDA", "NVCC")

# Turing and older run the PTX of none of these; Ampere, Hopper and Blackwell have code of their own, and what comes
# after them compiles the PTX.
_ARCHITECTURES = ["80", "90", "100", "120"]

def _nvcc_library_impl(ctx):
    out = ctx.actions.declare_file(ctx.attr.out)
    args = ctx.actions.args()
    args.add_all(["-shared", "-o", out, "-O3", "-std=c++17", "--cudart", "static"])
    args.add_all(["-I", ".", "--fmad=false", "--ftz=false", "--prec-div=true", "--Werror", "all-warnings"])
    args.add_all(["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror,-ffp-contract=off"])
    for arch in _ARCHITECTURES:
        args.add("-gencode=arch=compute_{a},code=sm_{a}".format(a = arch))
    args.add("-gencode=arch=compute_{a},code=compute_{a}".format(a = _ARCHITECTURES[-1]))
    args.add_all(ctx.files.srcs)
    ctx.actions.run(
        executable = NVCC,
        arguments = [args],
        inputs = depset(
            ctx.files.srcs + ctx.files.hdrs,
            transitive = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps],
        ),
        outputs = [out],
        use_default_shell_env = True,
        mnemonic = "Nvcc",
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

_nvcc_library = rule(
    implementation = _nvcc_library_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = [".h", ".cuh"]),
        "deps": attr.label_list(doc = "Whose headers may be included.", providers = [CcInfo]),
        "out": attr.string(),
    },
)

def nvcc_library(name, **kwargs):
    """A library where nvcc was found; an empty target where it was not."""
    if HAVE_CUDA:
        _nvcc_library(name = name, **kwargs)
    else:
        native.filegroup(name = name)
