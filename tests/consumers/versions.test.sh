#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/consumers/versions.test.sh VERSION
#
# Every place that must be changed for a new version has VERSION. CMake and the Conan recipe take it
# from include/singleflight/version.hpp, and the tests of the packages check that they do.
set -euo pipefail
cd "$(dirname "$0")/../.."

# check VERSION: prints each place that has another version.
check() {
  local minor=${1%.*}
  place include/singleflight/version.hpp "#define SINGLEFLIGHT_VERSION_STRING \"$1\""
  place include/singleflight/README.md "### $1"
  place README.md "GIT_TAG v$1"
  place README.md "find_package(singleflight $minor "
  place README.md "require \`singleflight/$1\`"
  place README.md "This is version $1"
  place tests/consumers/vcpkg/singleflight/vcpkg.json "\"version\": \"$1\""
  place tests/consumers/bazel/MODULE.bazel "version = \"$1\","
  place tests/consumers/meson/subprojects/singleflight.wrap "directory = singleflight-$1"
  place tests/consumers/meson/subprojects/singleflight.wrap "source_filename = singleflight-$1.tar.gz"
  place tests/consumers/meson/subprojects/singleflight.wrap "revision = v$1"
  place tests/consumers/meson/subprojects/packagefiles/singleflight/meson.build "version: '$1'"
}

# place FILE TEXT: complains unless FILE has TEXT.
place() {
  places=$((places + 1))
  grep -qF -- "$2" "$1" || complaints+=("$1 does not have: $2")
}

places=0 complaints=()
check 98.76.54
if [[ ${#complaints[@]} -ne $places ]]; then
  echo "a wrong version would not be noticed everywhere. Noticed: "
  printf '%s\n' "${complaints[@]}"
  exit 1
fi

places=0 complaints=()
check "$1"
if [[ ${#complaints[@]} -gt 0 ]]; then
  printf '%s\n' "${complaints[@]}"
  exit 1
fi
echo "$places places have version $1"
