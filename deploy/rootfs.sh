#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes the root filesystem of the image: the two programs, the CUDA backend where it is asked for, every shared library
# they need, and nothing else. The Dockerfile copies it into an image FROM scratch; as a plain folder it runs under chroot,
# and in place by rootfs_run.sh.
set -euo pipefail

usage() {
  cat << 'END'
usage: deploy/rootfs.sh FOLDER [--cuda] [--locked | --write-lock] [--lock FILE] [--no-build]

Builds weightd and weightctl and makes FOLDER (empty or not there yet) the root filesystem of the image.

  --cuda        with the CUDA backend: needs nvcc, in CUDA_HOME, PATH or /usr/local/cuda
  --locked      also refuse versions of Debian packages other than those in deploy/rootfs.lock
  --write-lock  write deploy/rootfs.lock: after a library was added on purpose, or Debian has updated one
  --lock FILE   another lock than deploy/rootfs.lock
  --no-build    take the programs that Bazel has left in bazel-bin

deploy/rootfs.lock says what may go in. A library that is not in it is refused; a package of another version is said.
END
}

die() {
  echo "rootfs.sh: $*" >&2
  exit 1
}

folder='' cuda='' lock=names build=1 locked=''
while [ $# -gt 0 ]; do
  case $1 in
    --cuda) cuda=1 ;;
    --locked) lock=versions ;;
    --write-lock) lock='write' ;;
    --no-build) build='' ;;
    --lock)
      locked=$(realpath -m "${2:?--lock: name the file}")
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*)
      echo "rootfs.sh: unknown option $1" >&2
      usage >&2
      exit 2
      ;;
    *) folder=$1 ;;
  esac
  shift
done
if [ -z "$folder" ]; then
  usage >&2
  exit 2
fi
mkdir -p "$folder"
root=$(cd "$folder" && pwd)
[ -z "$(ls -A "$root")" ] || die "$folder is not empty: give a folder that is"
cd "$(dirname "$0")/.."

read -ra bazel <<< "${BAZEL:-bazel}"
if [ -n "$build" ]; then
  "${bazel[@]}" build --noshow_progress --show_result=0 //service:weightd //client:weightctl ${cuda:+//cuda:weightd_cuda}
fi
[ -z "$cuda" ] || [ -e bazel-bin/cuda/libweightd_cuda.so ] ||
  die "there is no CUDA backend: no nvcc was found in CUDA_HOME, PATH or /usr/local/cuda"

# ---- The programs, without debug information

libraries=$root/usr/lib/x86_64-linux-gnu
install -d -m 755 "$root"/{dev,etc/ssl/certs,models,proc,run,sys,usr/{bin,lib64,share/weightd},var/lib/dpkg/status.d} "$libraries"
install -d -m 1777 "$root/tmp"
# The places by which other programs know these folders: the loader, and what mounts a driver into a container.
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
ln -s usr/bin "$root/bin"
ln -s usr/bin "$root/sbin"
ln -s bin "$root/usr/sbin"
for program in service/weightd client/weightctl; do
  strip -o "$root/usr/bin/${program#*/}" "bazel-bin/$program"
done
programs=("$root/usr/bin/weightd" "$root/usr/bin/weightctl")
if [ -n "$cuda" ]; then
  # Where the daemon looks: ../lib from its own folder.
  strip -o "$root/usr/lib/libweightd_cuda.so" bazel-bin/cuda/libweightd_cuda.so
  programs+=("$root/usr/lib/libweightd_cuda.so")
fi
chmod 755 "${programs[@]}"

# ---- The libraries

# "soname path" of each library that a program needs, or that what it needs needs.
closure() {
  local lines
  lines=$(ldd "${programs[@]}")
  ! grep 'not found' <<< "$lines" || die "a library is missing here"
  awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }  $1 ~ /^\/.*ld-linux/ { n = split($1, part, "/"); print part[n], $1 }' <<< "$lines" |
    sort -u
}
needed=$(closure)
if [ -n "$cuda" ]; then
  # NVIDIA's driver comes from the host, and its libraries ask for these, which glibc 2.34 made empty shells.
  for name in libdl.so.2 libpthread.so.0 librt.so.1; do
    needed+=$'\n'"$name /lib/x86_64-linux-gnu/$name"
  done
fi
while read -r name path; do
  strip -o "$libraries/$name" "$path" 2> /dev/null || cp -L "$path" "$libraries/$name"
  chmod 755 "$libraries/$name"
done <<< "$needed"
ln -s ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$root/usr/lib64/ld-linux-x86-64.so.2"

# ---- The few files that libraries read

# Who runs: a user that is not root, known by name.
echo 'root:x:0:0:root:/:/usr/sbin/nologin
weightd:x:10001:10001:weightd:/:/usr/sbin/nologin' > "$root/etc/passwd"
echo 'root:x:0:
weightd:x:10001:' > "$root/etc/group"
# Names of hosts: glibc has both of these built in.
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
# Drivers are mounted into one of these, depending on the container runtime.
printf '/usr/lib/x86_64-linux-gnu\n/usr/lib64\n' > "$root/etc/ld.so.conf"
# By these, runtimes know the place of libraries, and scanners whose packages they look at.
cp -L /etc/os-release "$root/etc/os-release"
if [ -e /etc/debian_version ]; then cp /etc/debian_version "$root/etc/debian_version"; fi
# Whom weightctl trusts where no other authority is named.
[ -s /etc/ssl/certs/ca-certificates.crt ] || die "/etc/ssl/certs/ca-certificates.crt is missing: install ca-certificates"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
cp LICENSE "$root/usr/share/weightd/LICENSE"

# ---- What went in

# "package path" of all of them, at once. dpkg knows a file by its path before or after the merge of / and /usr.
paths=$(awk '{ print $2; print "/usr" $2; sub("^/usr", "", $2); print $2 }' <<< "$needed" | sort -u)
# shellcheck disable=SC2086  # one word a path
owners=$(dpkg-query -S $paths 2> /dev/null | sed -E 's/^([^:,]+)[^ ]*: /\1 /' || true)
contents=''
while read -r name path; do
  package=$(awk -v path="${path#/usr}" '{ sub("^/usr", "", $2) } $2 == path { print $1; exit }' <<< "$owners")
  [ -n "$package" ] || die "$path is of no Debian package"
  status=$root/var/lib/dpkg/status.d/$package
  [ -e "$status" ] || dpkg-query -s "$package" | sed '/^\(Status\|Conffiles\):/d' > "$status"
  contents+="$name $package $(sed -n 's/^Version: //p' "$status")"$'\n'
done <<< "$needed"
contents=$(LC_ALL=C sort -u <<< "${contents%$'\n'}")
echo "$contents" > "$root/usr/share/weightd/libraries"

locked=${locked:-deploy/rootfs.lock}
if [ $lock = write ]; then
  [ -n "$cuda" ] || die "--write-lock goes with --cuda: the lock holds what any image may have"
  {
    echo '# What may go into the image beside our own programs: library, Debian package, version. See rootfs.sh.'
    echo "$contents"
  } > "$locked"
  echo "rootfs.sh: wrote $locked" >&2
else
  new=$(awk 'NR == FNR { known[$1 " " $2] = 1; next } !(($1 " " $2) in known)' "$locked" - <<< "$contents")
  [ -z "$new" ] || die "not in $locked, so not meant to be in the image:"$'\n'"$new"$'\n'"If it is meant: deploy/rootfs.sh EMPTY_FOLDER --cuda --write-lock"
  other=$(awk 'NR == FNR { known[$0] = 1; next } !($0 in known) { print $2, $3 }' "$locked" - <<< "$contents" | sort -u)
  if [ -n "$other" ]; then
    echo "rootfs.sh: other versions than those in $locked:"$'\n'"$other" >&2
    [ $lock = names ] || die "refused (--locked)"
  fi
fi
# Everything as old as the source, so that the same source makes the same folder.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || echo 0)}
find "$root" -exec touch -h -d "@$epoch" {} +
du -sb --apparent-size "$root" | awk -v n="$(wc -l <<< "$contents")" -v cuda="${cuda:+with CUDA, }" \
  '{ printf "rootfs.sh: %s%d libraries, %.1f MB\n", cuda, n, $1 / 1e6 }' >&2
