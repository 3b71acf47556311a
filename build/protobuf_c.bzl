# SPDX-License-Identifier: Apache-2.0
"""protobuf-c sources and descriptor sets, generated at build time and never committed."""

def _protobuf_c_sources_impl(ctx):
    outs = []
    for src in ctx.files.srcs:
        stem = src.basename[:-len(".proto")]
        folder = src.short_path[len(ctx.label.package) + 1:-len(src.basename)]
        c = ctx.actions.declare_file(folder + stem + ".pb-c.c")
        h = ctx.actions.declare_file(folder + stem + ".pb-c.h")
        outs += [c, h]
        out_root = c.path[:-len(folder + stem + ".pb-c.c")]
        ctx.actions.run_shell(
            inputs = ctx.files.srcs,
            outputs = [c, h],
            command = "protoc-c -I {pkg} --c_out={out} {src}".format(
                pkg = ctx.label.package,
                out = out_root,
                src = src.path,
            ),
            use_default_shell_env = True,
            mnemonic = "ProtobufC",
        )
    return [DefaultInfo(files = depset(outs))]

protobuf_c_sources = rule(
    doc = "X.pb-c.c and X.pb-c.h of each X.proto, in the same folder under the package.",
    implementation = _protobuf_c_sources_impl,
    attrs = {"srcs": attr.label_list(allow_files = [".proto"])},
)
