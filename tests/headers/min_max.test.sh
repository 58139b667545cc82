#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/headers/min_max.test.sh COMPILER ARGUMENT...
#
# Compiles singleflight.hpp where `min` and `max` are macros, as after windows.h without NOMINMAX.
# The standard headers come first, because the compiler's own may not survive these macros. An older
# library does not have them all.
set -euo pipefail
cd "$(dirname "$0")/../../include"

{
  grep -rh --exclude-dir=redis --exclude-dir=asio '^#include <[a-z_]*>' singleflight | sort -u |
    sed 's|^#include \(.*\)|#if __has_include(\1)\n&\n#endif|'
  echo '#define min(a, b) (((a) < (b)) ? (a) : (b))'
  echo '#define max(a, b) (((a) > (b)) ? (a) : (b))'
  echo '#include <singleflight/singleflight.hpp>'
  echo 'singleflight::Group<int, int> group({.max_calls_in_flight = 1});'
  echo 'int Ask() { return *group.Do(1, [] { return 2; }, {.timeout = std::chrono::hours(1)}); }'
} | "$@" -fsyntax-only -I . -x c++ -
