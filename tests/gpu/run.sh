#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Tests on a machine with a GPU: run it where tests/gpu/bundle.sh has put it, beside the programs, or from the tree.
set -uo pipefail

usage() {
  cat << 'END'
usage: run.sh [--quick] [--no-sanitizer]

Runs weightd's tests on the first GPU: bits against the CPU's decoders for every type and output, alignments, odd
counts, guards, tensors beyond 2^31 elements (needs 30 GB of GPU memory); the examples; the golden files, where
WEIGHTD_GOLDEN names their folder or "golden" lies beside this script; and, where compute-sanitizer is there and the
machine lets it work, memcheck, racecheck and initcheck. Without a GPU everything is skipped, by name.

  --quick         without the big tensors and the sanitizers
  --no-sanitizer  without the sanitizers
END
}

quick=''
sanitizer=1
for argument; do
  case $argument in
    --quick) quick=1 sanitizer= ;;
    --no-sanitizer) sanitizer= ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
done

here=$(cd "$(dirname "$0")" && pwd)
# In a bundle everything lies beside this script; Bazel has a folder for each package.
find_file() {
  local candidate
  for candidate in "$here/$1" "$here/../../$2/$1" "$here/../../bazel-bin/$2/$1"; do
    if [ -e "$candidate" ]; then
      echo "$candidate"
      return
    fi
  done
}
gpu_test=$(find_file gpu_test tests/gpu)
library=$(find_file libweightd_cuda.so cuda)
if [ -z "$gpu_test" ] || [ -z "$library" ]; then
  echo "[  SKIPPED ] gpu: built without CUDA (no nvcc was found)"
  exit 0
fi

status=0
"$gpu_test" ${quick:+--quick} || status=1
stats_test=$(find_file stats_test tests/gpu)
if [ -n "$stats_test" ]; then
  "$stats_test" || [ $? = 77 ] || status=1  # 77: skipped, it has said so
fi

# example NAME COMMAND…
example() {
  local name=$1 said
  shift
  if said=$("$@" 2>&1); then
    case $said in
      skipped*) echo "[  SKIPPED ] $name: ${said#skipped: }" ;;
      *) echo "[       OK ] $name: $said" ;;
    esac
  else
    echo "[  FAILED  ] $name: $said"
    status=1
  fi
}
example example_c "$(find_file dequantize cuda/examples)"
if command -v python3 > /dev/null; then
  example example_python python3 -B "$(find_file dequantize.py cuda/examples)" "$library"
else
  echo "[  SKIPPED ] example_python: no python3 here"
fi

golden=${WEIGHTD_GOLDEN:-$here/golden}
if [ -d "$golden" ] && command -v python3 > /dev/null; then
  python3 -B "$(find_file golden.py tests/gpu)" "$golden" "$library" || status=1
else
  echo "[  SKIPPED ] golden: no golden files (WEIGHTD_GOLDEN) or no python3 here"
fi

# The whole service, which the bundle alone holds; it needs Python's grpcio, protobuf and cupy.
if [ ! -x "$here/weightd" ]; then
  echo "[  SKIPPED ] service: tests/gpu/bundle.sh makes a bundle that has it"
elif ! python3 -c 'import cupy, google.protobuf, grpc, sys; sys.exit(cupy.cuda.runtime.getDeviceCount() < 1)' 2> /dev/null; then
  echo "[  SKIPPED ] service: no GPU, or no grpcio, protobuf or cupy here"
elif said=$(python3 -B "$here/service_test.py" "$here" ${golden:+"$golden"} 2>&1); then
  echo "[       OK ] service: $(tail -n 1 <<< "$said")"
else
  echo "[  FAILED  ] service: $said"
  status=1
fi

# A tool that cannot work on this machine at all is waived: it fails on a program that works without it.
if [ -n "$sanitizer" ]; then
  small=$(find_file dequantize cuda/examples)
  for tool in memcheck racecheck initcheck; do
    if ! command -v compute-sanitizer > /dev/null; then
      echo "[  SKIPPED ] $tool: no compute-sanitizer here"
    elif ! said=$("$small" 2>&1); then
      echo "[  FAILED  ] $tool: $small does not run: $said"
      status=1
    elif [[ $said == skipped* ]]; then
      echo "[  SKIPPED ] $tool: ${said#skipped: }"
    elif ! said=$(compute-sanitizer --tool "$tool" "$small" 2>&1) || ! grep -q '^ok' <<< "$said"; then
      echo "[  SKIPPED ] $tool: waived, this machine does not let it work: $(grep -iE 'not supported|unable|error' <<< "$said" | head -n 1)"
    else
      for program in "$gpu_test" "$stats_test"; do
        if said=$(compute-sanitizer --tool "$tool" --error-exitcode 9 "$program" --quick 2>&1); then
          echo "[       OK ] $tool of $(basename "$program"): $(grep -E 'SUMMARY' <<< "$said")"
        else
          echo "[  FAILED  ] $tool of $(basename "$program"):"
          tail -n 60 <<< "$said"
          status=1
        fi
      done
    fi
  done
fi
exit $status
