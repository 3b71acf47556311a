#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# No SIMD path leans on the portable decoders: its object needs nothing but memcpy, memset and the CPU's features, it
# defines a decoder for each of 35 types and 3 outputs, and its sources do not include decode8.h.
#
#   isolation_test.sh SOURCE... LIBRARY...     the SIMD sources; the archives of avx2, avx512 and of the impostor
set -u
failed=0

# Prints what is wrong with an archive of a path, nothing where it is right.
faults() {
  local needs decoders
  needs=$(nm -u "$1" | sed -n 's/^ *U //p' |
    grep -vE '^(memcpy|memset|wd_cpu_has_avx2|wd_cpu_has_avx512|_GLOBAL_OFFSET_TABLE_|__stack_chk_fail|__[au]b?san_.*|__tsan_.*|__sanitizer_.*|__gcov_.*|__llvm_.*)$')
  decoders=$(nm "$1" | grep -cE ' [tT] decode_[A-Z0-9_]+_(F16|BF16|F32)$')
  [ -z "$needs" ] || echo "needs" $needs
  [ "$decoders" -eq 105 ] || echo "defines $decoders decoders, not 105"
  ! nm "$1" | grep -E 'wd_decode8_|wd_path_portable'
}

# Reports on a file that should be without fault.
good() { # NAME FAULTS
  if [ -n "$2" ]; then
    echo "FAILED $1: $2"
    failed=1
  else
    echo "ok     $1"
  fi
}

# Reports on the impostor.
bad() { # NAME FAULTS
  case "$2" in
    *"needs wd_path_portable"*) echo "ok     $1 is caught: $2" ;;
    *)
      echo "FAILED $1 should have been caught: $2"
      failed=1
      ;;
  esac
}

archives=0
sources=0
for file in "$@"; do
  case "$file" in
    *impostor*.a)
      bad "$file" "$(faults "$file")"
      archives=$((archives + 1))
      ;;
    *.a)
      good "$file" "$(faults "$file")"
      archives=$((archives + 1))
      ;;
    *)
      good "$file" "$(grep -nE '#include.*(decode8|decode_portable|numeric)' "$file")"
      sources=$((sources + 1))
      ;;
  esac
done
# There may be a second archive of each, of position-independent code.
if [ "$archives" -lt 3 ] || [ "$sources" -ne 10 ]; then
  echo "FAILED: looked at $archives archives and $sources sources"
  failed=1
fi
exit $failed
