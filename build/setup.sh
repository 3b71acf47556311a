#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing and is quick where nothing is: Debian 12's packages and, for tests, the pinned Python
# packages in .venv. Called by ./run and ./test; on its own: build/setup.sh run|test|full|deploy
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-test}
case $what in run | test | full | deploy) ;; *)
  echo "usage: build/setup.sh run|test|full|deploy" >&2
  exit 2
  ;;
esac

# Building and serving.
packages=(gcc g++ bazel-bootstrap bazel-rules-java bazel-rules-proto libgrpc-dev libprotobuf-c-dev protobuf-c-compiler
  protobuf-compiler libisal-dev libxxhash-dev libjansson-dev libssl-dev liburing-dev
  libevent-dev)
# Testing.
[ "$what" = run ] || packages+=(libcmocka-dev libsimde-dev clang-format clang-tidy python3-venv libnss-wrapper openssl)
[ "$what" != full ] || packages+=(valgrind)
# Building and running the image without a registry (deploy/test).
[ "$what" != deploy ] || packages+=(podman buildah runc debootstrap)

say() { echo "setup: $*" >&2; }

# Two scripts started at once take turns.
exec 9< build/setup.sh
flock 9

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || echo "$package"
  done
}

if ! { command -v dpkg-query && command -v apt-get; } > /dev/null; then
  say "no apt here: weightd is built with Debian 12's packages; going on with what is installed"
else
  mapfile -t missing < <(missing_packages)
  if [ ${#missing[@]} -gt 0 ]; then
    install="apt-get install -y --no-install-recommends ${missing[*]}"
    root=()
    if [ "$(id -u)" != 0 ]; then
      if ! command -v sudo > /dev/null; then
        say "packages are missing and there is no sudo here; as root, run:"
        say "  apt-get update && $install"
        exit 1
      fi
      say "sudo is needed once, to install Debian packages"
      sudo -v
      root=(sudo)
    fi
    say "installing ${missing[*]}"
    log=$(mktemp)
    apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q)
    # The lists may be old and still good enough: what counts is whether the installation works.
    "${apt[@]}" update > "$log" 2>&1 || true
    if ! "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >> "$log" 2>&1; then
      tail -n 40 "$log" >&2
      say "the installation failed; this was: $install"
      rm -f "$log"
      exit 1
    fi
    rm -f "$log"
  fi
fi
command -v bazel > /dev/null || {
  say "bazel is not in PATH (Debian 12: bazel-bootstrap)"
  exit 1
}
[ "$what" != run ] || exit 0

# The virtual environment: made again when the pins change, or when the folder was moved or its Python is gone.
pins=$(sha256sum tests/requirements.txt)
state="$PWD $pins"
if [ "$(cat .venv/.state 2> /dev/null)" != "$state" ] || ! .venv/bin/python -c '' 2> /dev/null; then
  python=/usr/bin/python3
  [ -x $python ] || python=python3
  say "installing the Python packages of tests/requirements.txt into .venv"
  rm -rf .venv
  log=$(mktemp)
  if ! { $python -m venv .venv && .venv/bin/python -m pip install -q --no-deps --no-input \
    --disable-pip-version-check -r tests/requirements.txt; } > "$log" 2>&1; then
    tail -n 40 "$log" >&2
    say "the Python packages could not be installed"
    rm -rf "$log" .venv
    exit 1
  fi
  rm -f "$log"
  echo "$state" > .venv/.state
fi
