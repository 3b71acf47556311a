#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a program of the image without a container engine: under chroot with only the GPU's devices and driver mounted into
# it, as a container runtime would do it, or in place by the loader that the folder brings.
set -euo pipefail

usage() {
  cat << 'END'
usage: deploy/rootfs_run.sh [--in-place] FOLDER PROGRAM [ARGUMENT]...

FOLDER was made by rootfs.sh; PROGRAM is weightd or weightctl. Under chroot (as root, where mounting is allowed) the
program sees a read-only root, /proc and /tmp of the machine, and its NVIDIA devices and driver, and nothing else; it is
user 10001 (RUN_AS=UID:GID names another one). Otherwise, and with --in-place, it runs in the machine's own filesystem
with the folder's loader and libraries.

  deploy/rootfs_run.sh rootfs weightd serve --model-root /tmp/models --device cuda
END
}

in_place=''
case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  --in-place)
    in_place=1
    shift
    ;;
esac
if [ $# -lt 2 ] || [ ! -x "$1/usr/bin/$2" ]; then
  usage >&2
  exit 2
fi
root=$(cd "$1" && pwd)
program=$2
shift 2

if [ -z "$in_place" ] && ! { [ "$(id -u)" = 0 ] && unshare --mount true 2> /dev/null; }; then
  echo "rootfs_run.sh: no chroot here (not root, or mounting is not allowed): running in place" >&2
  in_place=1
fi
if [ -n "$in_place" ]; then
  # The loader is then what /proc/self/exe names, so the backend is not found beside the program.
  if [ -e "$root/usr/lib/libweightd_cuda.so" ]; then export WEIGHTD_CUDA_LIBRARY=$root/usr/lib/libweightd_cuda.so; fi
  exec "$root/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" --argv0 "$program" \
    "$root/usr/bin/$program" "$@"
fi

# What a container runtime mounts of a GPU: its devices, and the driver's libraries for computing and for nvidia-smi.
if [ "${ROOTFS_RUN_INSIDE:-}" != "$root" ]; then
  ROOTFS_RUN_INSIDE=$root exec unshare --mount --propagation private "$0" "$root" "$program" "$@"
fi
unset ROOTFS_RUN_INSIDE
mount --bind "$root" "$root"
mount --rbind /proc "$root/proc"
mount --bind /tmp "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
bind() {  # what, where in the root
  mkdir -p "$(dirname "$root$2")"
  if [ -d "$1" ]; then mkdir -p "$root$2"; else : > "$root$2"; fi
  mount --bind "$1" "$root$2"
}
for device in /dev/null /dev/zero /dev/urandom /dev/nvidia[0-9]* /dev/nvidiactl /dev/nvidia-uvm /dev/nvidia-uvm-tools \
  /dev/nvidia-caps/*; do
  [ ! -e "$device" ] || bind "$device" "$device"
done
# The folder itself stays as it is: the driver lies on a layer of its own.
libraries=$root/usr/lib/x86_64-linux-gnu
layer=$(mktemp -d)
mount -t tmpfs tmpfs "$layer"
cp -a "$libraries" "$layer/libraries"
for library in $(ldconfig -p | awk '/x86-64/ && /lib(cuda|nvidia-(ml|ptxjitcompiler|nvvm.*|gpucomp))\.so/ { print $NF }'); do
  cp -L "$library" "$layer/libraries/$(basename "$library")"
done
mount --bind "$layer/libraries" "$libraries"
umount -l "$layer"
rmdir "$layer"
mount -o remount,bind,ro "$root"
cd /
exec setpriv --no-new-privs chroot --userspec="${RUN_AS:-10001:10001}" "$root" "/usr/bin/$program" "$@"
