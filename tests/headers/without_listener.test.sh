#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/headers/without_listener.test.sh COMPILER [ARGUMENT...]
#
# A group without a listener pays nothing for those that have one: its callers are the same machine
# code, instruction for instruction, as with a copy of the headers that calls no hooks at all.
set -euo pipefail
cd "$(dirname "$0")"

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cp -r ../../include "$work/include"

# The same functions, but empty.
cat > "$work/include/singleflight/detail/telling.hpp" << 'END'
#pragma once
#include "call.hpp"
namespace singleflight::detail {
template <class Ledger>
struct Telling {
  static void OnLead(auto&&...) noexcept {}
  static void ExpectTag(auto&&...) noexcept {}
  static bool AsksInOnLead(auto&&...) noexcept { return false; }
  static void KeepKey(auto&&...) noexcept {}
  static void OnFollow(auto&&...) noexcept {}
  static void OnLeave(auto&&...) noexcept {}
  static void OnLand(auto&&...) noexcept {}
  static void OnRefuse(auto&&...) noexcept {}
};
}  // namespace singleflight::detail
END

# assembly INCLUDE_DIRECTORY COMPILER ARGUMENT...: without the numbers of labels.
assembly() {
  "${@:2}" -std=c++20 -O2 -S -I "$1" without_listener.cpp -o "$work/code.s"
  sed -E 's/\.L[A-Za-z_]*[0-9]+(_[0-9]+)?/.L/g' "$work/code.s" | grep -vE '^\s*\.(file|ident|loc)\b'
}

assembly "$work/include" "$@" > "$work/never_told.s"
assembly ../../include "$@" > "$work/without.s"
if ! diff "$work/never_told.s" "$work/without.s" > "$work/difference"; then
  echo "a group without a listener is not the same code as one that cannot have any:"
  head -40 "$work/difference"
  exit 1
fi
grep -q Unshared "$work/without.s" || { echo "there is no code to compare"; exit 1; }

# The check itself notices a hook.
sed -i 's/static void OnLand(auto&&...) noexcept {}/static void OnLand(auto\&\&...) noexcept { asm volatile("nop"); }/' \
  "$work/include/singleflight/detail/telling.hpp"
assembly "$work/include" "$@" > "$work/told.s"
if diff -q "$work/told.s" "$work/without.s" > /dev/null; then
  echo "the check does not notice one more instruction"
  exit 1
fi
echo "$(wc -l < "$work/without.s") lines of assembly: the same"
