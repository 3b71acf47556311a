#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The table of the kernels' speed on the first GPU: bench/gpu/run.sh [--json] [--smoke] [--only TYPE]...
# From the tree it builds first; in a bundle (tests/gpu/bundle.sh) the program lies beside it. Takes 25 s on an H200 and
# 40 GB of its memory.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ -x "$here/gpu_bench" ]; then
  exec "$here/gpu_bench" "$@"
fi
cd "$here/../.."
bazel build --noshow_progress --ui_event_filters=-info --show_result=0 //bench/gpu:gpu_bench
if [ ! -x bazel-bin/bench/gpu/gpu_bench ]; then
  echo "skipped gpu_bench: built without CUDA (no nvcc was found)"
  exit 0
fi
exec bazel-bin/bench/gpu/gpu_bench "$@"
