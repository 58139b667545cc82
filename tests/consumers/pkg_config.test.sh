#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/consumers/pkg_config.test.sh PREFIX VERSION DIRECTORY COMPILER ARGUMENT...
#
# Moves a copy of the package installed in PREFIX to DIRECTORY, and builds programs with nothing but a
# compiler and what pkg-config says about it there.
set -euo pipefail
cd "$(dirname "$0")"

prefix=$1 version=$2 directory=$3
compiler=("${@:4}")
rm -rf "$directory"
mkdir -p "$directory"
cp -r "$prefix" "$directory/moved"
export PKG_CONFIG_PATH=$directory/moved/share/pkgconfig

# build PACKAGE SOURCE...: builds and runs a program that needs only PACKAGE.
build() {
  local flags
  pkg-config --validate "$1"
  [[ $(pkg-config --modversion "$1") == "$version" ]]
  flags=$(pkg-config --cflags --libs "$1")
  [[ $flags == *"$directory/moved"* && $flags == *-pthread* ]] || { echo "$flags"; exit 1; }
  # shellcheck disable=SC2086  # several flags
  "${compiler[@]}" "${@:2}" $flags -o "$directory/app"
  "$directory/app"
}

# Neither the place where it was installed nor that of the sources may be needed. The sources may be
# in /singleflight, which is no part of a longer path here.
places=$(printf '%s\n' "$prefix" "$(realpath ../..)" | sed 's/[][\.*^$+?(){}|]/\\&/g' | paste -sd '|')
! grep -rE "(^|-[IL]|[^[:alnum:]_.}/-])($places)([^[:alnum:]_.-]|$)" "$directory/moved" || exit 1
[[ $(realpath "$(pkg-config --variable=prefix singleflight)") == $(realpath "$directory/moved") ]]
[[ -f $(pkg-config --variable=includedir singleflight)/singleflight/singleflight.hpp ]]
build singleflight app/main.cpp app/users.cpp
build singleflight-redis find_package_redis/main.cpp
