# SPDX-License-Identifier: Apache-2.0
"""Builds shared libraries and programs with nvcc, for the architectures we ship.

Every source is compiled by an action of its own, so that a change costs one of them and several are compiled at once.
"""

load("@cuda_toolkit//:defs.bzl", "HAVE_CUDA", "NVCC")

# Turing and older run the PTX of none of these; Ampere, Hopper and Blackwell have code of their own, and what comes
# after them compiles the PTX.
_ARCHITECTURES = ["80", "90", "100", "120"]

# Every float32 operation rounds on its own: see service/formats/types.h.
_COPTS = ["-O3", "-std=c++17", "-I", ".", "--fmad=false", "--ftz=false", "--prec-div=true", "--Werror", "all-warnings"]
_HOST_COPTS = "-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror,-Wno-unknown-pragmas,-ffp-contract=off"

def _code():
    flags = ["-gencode=arch=compute_{a},code=sm_{a}".format(a = a) for a in _ARCHITECTURES]
    return flags + ["-gencode=arch=compute_{a},code=compute_{a}".format(a = _ARCHITECTURES[-1])]

def _run(ctx, args, inputs, output, mnemonic):
    ctx.actions.run(
        executable = NVCC,
        arguments = [args],
        inputs = inputs,
        outputs = [output],
        use_default_shell_env = True,
        mnemonic = mnemonic,
        progress_message = "nvcc: " + output.short_path,
    )

def _compile(ctx):
    objects = []
    headers = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps]
    for src in ctx.files.srcs:
        name = src.basename[:-len(src.extension) - 1]
        out = ctx.actions.declare_file("_nvcc/{}/{}.o".format(ctx.label.name, name))
        args = ctx.actions.args()
        # In a sandbox every nvcc believes to be process 2: its temporary files, named after that, go beside the object.
        args.add_all(["-c", src, "-o", out, "--objdir-as-tempdir"])
        if src.extension == "c":
            args.add_all(["-O2", "-I", ".", "-Xcompiler", "-std=c17," + _HOST_COPTS])
        else:
            args.add_all(_COPTS + _code() + ["-Xcompiler", _HOST_COPTS])
        _run(ctx, args, depset([src] + ctx.files.hdrs, transitive = headers), out, "NvccCompile")
        objects.append(out)
    return objects

# The archives of deps, each once.
def _archives(ctx):
    files = []
    for dep in ctx.attr.deps:
        for linker_input in dep[CcInfo].linking_context.linker_inputs.to_list():
            for library in linker_input.libraries:
                archive = library.pic_static_library or library.static_library
                if archive and archive not in files:
                    files.append(archive)
    return files

# Finds shared libraries where Bazel puts them and, in a bundle, beside what needs them.
def _rpath(ctx):
    up = "/".join([".."] * len(ctx.label.package.split("/")))
    return ["-Xlinker", "-rpath,$ORIGIN:$ORIGIN/{}/cuda".format(up)] if ctx.files.libraries else []

def _nvcc_library_impl(ctx):
    out = ctx.actions.declare_file(ctx.attr.out)
    objects = _compile(ctx) + _archives(ctx) + ctx.files.libraries
    args = ctx.actions.args()
    args.add_all(["-shared", "-o", out, "--cudart", "static"] + objects)

    # Not the symbols of the archives: only what the headers mark is of use outside.
    args.add_all(_code() + ["-Xlinker", "--exclude-libs,ALL", "-Xlinker", "-soname," + ctx.attr.out])
    args.add_all(_rpath(ctx))
    _run(ctx, args, objects, out, "NvccLink")
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out] + ctx.files.libraries))]

def _nvcc_binary_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name)
    objects = _compile(ctx) + _archives(ctx)
    libraries = ctx.files.libraries
    args = ctx.actions.args()
    args.add_all(["-o", out, "--cudart", "static"] + objects + libraries)
    args.add_all(_rpath(ctx))
    args.add_all(_code())
    _run(ctx, args, objects + libraries, out, "NvccLink")
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out] + libraries), executable = out)]

_ATTRS = {
    "srcs": attr.label_list(allow_files = [".c", ".cc", ".cu"]),
    "hdrs": attr.label_list(allow_files = [".h", ".cuh", ".cu"]),
    "deps": attr.label_list(doc = "Whose headers may be included and whose code is linked in.", providers = [CcInfo]),
    "libraries": attr.label_list(doc = "Shared libraries to link with."),
}

_nvcc_library = rule(
    implementation = _nvcc_library_impl,
    attrs = dict(_ATTRS, out = attr.string()),
)

_nvcc_binary = rule(
    implementation = _nvcc_binary_impl,
    executable = True,
    attrs = _ATTRS,
)

def nvcc_library(name, **kwargs):
    """A library where nvcc was found; an empty target where it was not."""
    if HAVE_CUDA:
        _nvcc_library(name = name, **kwargs)
    else:
        native.filegroup(name = name, testonly = kwargs.get("testonly"))

def nvcc_binary(name, **kwargs):
    """A program where nvcc was found; an empty target where it was not."""
    if HAVE_CUDA:
        _nvcc_binary(name = name, **kwargs)
    else:
        native.filegroup(name = name, testonly = kwargs.get("testonly"))
