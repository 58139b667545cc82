#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/consumers/meson.test.sh HOW PREFIX DIRECTORY
#
# Builds and runs the project in meson/, in DIRECTORY. It finds the library by pkg-config or by cmake
# in PREFIX, where the library is installed, or by its wrap, from an archive that is made here.
set -euo pipefail
cd "$(dirname "$0")"

how=$1 prefix=$2 directory=$3
rm -rf "$directory"
mkdir -p "$directory"
cp -r app meson "$directory"

case $how in
  pkg-config)
    options=(-Dmethod=pkg-config --wrap-mode=nofallback
      "-Dpkg_config_path=$prefix/share/pkgconfig")
    found='Run-time dependency singleflight found: YES'
    ;;
  cmake)
    options=(-Dmethod=cmake --wrap-mode=nofallback "-Dcmake_prefix_path=$prefix")
    found='Run-time dependency singleflight found: YES'
    ;;
  wrap)
    options=(--wrap-mode=forcefallback)
    found='Dependency singleflight found: YES'
    name=$(sed -n 's/^directory = //p' meson/subprojects/singleflight.wrap)
    mkdir "$directory/$name"
    cp -r ../../include ../../LICENSE "$directory/$name"
    tar -C "$directory" -czf "$directory/meson/subprojects/packagefiles/$name.tar.gz" "$name"
    ;;
esac

cd "$directory"
meson setup "${options[@]}" build meson | tee setup.log
grep -qF "$found" setup.log
ninja -C build
build/app
