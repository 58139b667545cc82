#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/consumers/single_header.test.sh DIRECTORY CMAKE COMPILER ARGUMENT...
#
# Makes the single header in DIRECTORY, and builds and runs two programs that have nothing else: the
# quickstart, and one whose two source files include it.
set -euo pipefail
cd "$(dirname "$0")"

directory=$1 cmake=$2
compiler=("${@:3}" -pthread -I "$directory/include")
rm -rf "$directory"
"$cmake" -P ../../include/package/single_header.cmake \
  "$directory/include/singleflight/singleflight.hpp"
[[ $(cd "$directory" && find . -type f) == ./include/singleflight/singleflight.hpp ]]

"${compiler[@]}" ../../examples/quickstart.cpp -o "$directory/quickstart"
"$directory/quickstart" | tee "$directory/output"
grep -qx 'with a group: 1 load, all answered after .* ms' "$directory/output"
"${compiler[@]}" app/main.cpp app/users.cpp -o "$directory/app"
"$directory/app"
