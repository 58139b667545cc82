#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/consumers/conan_create.test.sh DIRECTORY VERSION
#
# Makes the package with Conan 2, in a cache of its own, and builds and runs a CMake project that finds
# it. Needs no network.
set -euo pipefail
cd "$(dirname "$0")"

directory=$1 version=$2
rm -rf "$directory"
mkdir -p "$directory"
export CONAN_HOME=$directory/home
settings=(-s compiler.cppstd=20 -s build_type=Release)

conan profile detect
conan create conan "${settings[@]}"
# In this folder, beside a CMakeLists.txt, Conan would leave a CMakeUserPresets.json.
(cd "$directory" && conan install --requires "singleflight/$version" "${settings[@]}" -g CMakeDeps \
  -g CMakeToolchain -c tools.cmake.cmaketoolchain:generator=Ninja --output-folder packages)
cmake -S find_package -B "$directory/app" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DVERSION=$version" \
  "-DCMAKE_TOOLCHAIN_FILE=$directory/packages/conan_toolchain.cmake"
cmake --build "$directory/app"
"$directory/app/app"
