#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Tries what the CUDA image holds on a bare GPU machine, which has a driver and neither container engine nor toolkit.
set -euo pipefail

usage() {
  cat << 'END'
usage: deploy/gpu_check.sh ROOTFS [--gigabytes N] [--device cuda[:N]] [--types LIST]

ROOTFS was made by `deploy/rootfs.sh ROOTFS --cuda`. Starts its weightd on the GPU as the user of the image, asks it what it
runs on, fetches the sample model, then models of N gigabytes as FP16 (8) of each type (Q4_K,Q8_0), all of them verified, and
measures that beside a raw TCP socket (bench/fetch). Copy the checkout and ROOTFS there and run it as root: then the
programs run under chroot with only the GPU mounted into it, otherwise in place.
END
}

root='' gigabytes=8 device=cuda types=Q4_K,Q8_0
while [ $# -gt 0 ]; do
  case $1 in
    --gigabytes | --device | --types)
      [ $# -ge 2 ] || { usage >&2 && exit 2; }
      declare "${1#--}=$2"
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*)
      usage >&2
      exit 2
      ;;
    *) root=$1 ;;
  esac
  shift
done
[ -n "$root" ] || { usage >&2 && exit 2; }
root=$(realpath "$root")
cd "$(dirname "$0")/.."

work=$(mktemp -d)
server=''
clean_up() {
  [ -z "$server" ] || kill "$server" 2> /dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "gpu_check.sh: nvidia-smi does not work here" >&2

# Programs by these names run in the rootfs. bench/fetch keeps its models in a folder of its own user.
for program in weightd weightctl; do
  printf '#!/bin/sh\nexec "%s/deploy/rootfs_run.sh" "%s" %s "$@"\n' "$PWD" "$root" $program > "$work/$program"
done
chmod -R a+rwX "$work"
chmod a+x "$work"/weight*
mkdir -m 777 "$work/models" "$work/out"
cp tests/data/sample.gguf "$work/models"

"$work/weightd" serve --model-root "$work/models" --listen 127.0.0.1:0 --device "$device" --ready-file "$work/out/address" &
server=$!
until [ -s "$work/out/address" ]; do
  kill -0 "$server" 2> /dev/null || { server='' && exit 1; }
  sleep 0.1
done
export WEIGHTD_SERVER
WEIGHTD_SERVER=$(cat "$work/out/address")
"$work/weightctl" health
"$work/weightctl" info | sed '/^counters/,$d'
"$work/weightctl" fetch sample.gguf --out "$work/out/sample.safetensors"
"$work/weightctl" verify "$work/out/sample.safetensors" sample.gguf
kill -TERM "$server"
wait "$server" || { echo "gpu_check.sh: weightd ended with $?" >&2 && exit 1; }
server=''
unset WEIGHTD_SERVER

RUN_AS=0:0 WEIGHTD=$work/weightd WEIGHTCTL=$work/weightctl bench/fetch --gigabytes "$gigabytes" --types "$types" -- --device "$device"
