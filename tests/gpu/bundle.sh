#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Puts everything that tests and measures weightd on a GPU into one folder, for a machine that has a GPU and its driver and
# nothing else of ours: copy the folder there and run its run.sh and bench.sh.
set -euo pipefail

if [ $# -lt 1 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
  echo "usage: tests/gpu/bundle.sh FOLDER [BAZEL OPTION]...    (WEIGHTD_GOLDEN=DIR adds the golden files)"
  [ $# -ge 1 ] && exit 0 || exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.."
read -ra bazel <<< "${BAZEL:-bazel}"
"${bazel[@]}" build "$@" //tests/gpu:gpu_test //tests/gpu:stats_test //bench/gpu:gpu_bench \
  //bench/gpu:stats //bench/gpu:feed //cuda:weightd_cuda //cuda/examples:dequantize //tests/gpu:unpinned
bin=$("${bazel[@]}" info "$@" bazel-bin 2> /dev/null)
if [ ! -e "$bin/cuda/libweightd_cuda.so" ]; then
  echo "bundle.sh: no nvcc here, so there is nothing to bundle" >&2
  exit 1
fi
install -m 755 "$bin/tests/gpu/gpu_test" "$bin/tests/gpu/stats_test" "$bin/bench/gpu/gpu_bench" \
  "$bin/cuda/libweightd_cuda.so" "$bin/tests/gpu/libweightd_cuda_unpinned.so" \
  "$bin/cuda/examples/dequantize" cuda/examples/dequantize.py tests/gpu/run.sh tests/gpu/golden.py "$folder"
install -m 755 bench/gpu/run.sh "$folder/bench.sh"
install -m 755 "$bin/bench/gpu/stats" "$folder/bench_stats"
install -m 755 "$bin/bench/gpu/feed" "$folder/bench_feed"

# The whole service, with the libraries that a bare machine lacks.
"${bazel[@]}" build "$@" //service:weightd //client:weightctl //bench/gpu:backend //bench:openssl //bench:drain \
  //bench:decode //bench:stats_rate //proto:descriptor_set
install -m 755 "$bin/service/weightd" "$bin/client/weightctl" bench/fetch bench/tls bench/growth bench/overlap "$folder"
install -m 755 bench/read bench/ggml "$folder"
install -m 755 bench/python "$folder/bench_python"
install -m 755 bench/stats "$folder/bench_cpu_stats"
install -m 755 "$bin/bench/decode" "$folder/bench_decode"
install -m 755 "$bin/bench/stats_rate" "$folder"
install -m 644 bench/common.py bench/report.py "$folder"
install -m 755 "$bin/bench/gpu/backend" "$folder/bench_backend"
install -m 755 "$bin/bench/openssl" "$folder/bench_openssl"
install -m 755 "$bin/bench/drain" "$folder/drain"
gcc -O2 -shared -fPIC -o "$folder/slow.so" bench/slow.c -ldl -lpthread
install -m 644 "$bin/proto/services.binpb" tests/data/sample.gguf tests/python/ggufwrite.py tests/gpu/service_test.py "$folder"
mkdir -p "$folder/lib"
# glibc's own libraries are the machine's.
for library in $(ldd "$folder/weightd" "$folder/weightctl" "$folder/bench_backend" "$folder/drain" | awk '$3 ~ /^\// { print $3 }' | sort -u |
  grep -vE '/(libc|libm|libdl|libpthread|librt|libresolv)\.so'); do
  install -m 755 "$library" "$folder/lib"
done
if [ -n "${WEIGHTD_GOLDEN:-}" ]; then
  mkdir -p "$folder/golden"
  cp "$WEIGHTD_GOLDEN"/*.gguf "$WEIGHTD_GOLDEN"/*.expected.* "$folder/golden/"
  chmod -R u+w "$folder/golden"
fi
du -sh "$folder"
