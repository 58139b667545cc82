#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/consumers/older_cmake.test.sh PREFIX
#
# The oldest CMake that CMakeLists.txt claims to need can read what a consumer needs: the package that
# is installed in PREFIX, and our own files. Checks that none of them demands a newer CMake, and that
# they have no command, variable or option that came later, unless an if(CMAKE_VERSION ...) skips it.
# Cannot run an older CMake, and of variables and options, knows only those that are listed here.
set -euo pipefail
cd "$(dirname "$0")/../.."

claimed=$(sed -nE 's/^cmake_minimum_required\(VERSION ([0-9.]+)\.\.\..*/\1/p' CMakeLists.txt)
grep -qF "| CMake $claimed |" README.md
grep -qF "PRETENDED_CMAKE_VERSION=$claimed." tests/consumers/CMakeLists.txt

# Every command that CMake 3.17 to 4.1 added, and the words of theirs that are likely to be used here.
commands='cmake_language|cmake_path|block|endblock|cmake_file_api|cmake_instrumentation|cmake_pkg_config'
words='FILE_SET|BASE_DIRS|HEADER_SETS|PROJECT_IS_TOP_LEVEL|ZIP_LISTS|PATH_EQUAL|REAL_PATH|COPY_FILE'
words+='|CHECK_START|CMAKE_CURRENT_FUNCTION|PROPAGATE|CXX_MODULES|BUILD_LOCAL_INTERFACE'
words+='|EXPORT_NO_SYSTEM|FIND_PACKAGE_ARGS|RUNTIME_DEPENDENCY_SET|CODEGEN|VALIDATOR|ARCHIVE_CREATE'
words+='|COMPILE_WARNING_AS_ERROR|CHMOD|COMMAND_ERROR_IS_FATAL|file\(CONFIGURE|string\((JSON|HEX)'
words+='|\$<PATH:'

# What an older CMake sees: without comments, and without what a condition on the version skips.
seen_by_older() {
  awk '/^[ \t]*#/ { next }
       /^[ \t]*if *\(/ {
         ++depth
         if (!skip && /\(CMAKE_VERSION VERSION_GREATER_EQUAL|\(NOT CMAKE_VERSION VERSION_LESS/) skip = depth
       }
       /^[ \t]*else/ && skip == depth { skip = 0 }
       /^[ \t]*endif *\(/ { if (skip == depth) skip = 0; --depth }
       !skip' "$1"
}

# complaints FILE: prints what of the file needs a newer CMake.
complaints() {
  seen_by_older "$1" | grep -nE "(^|[^A-Za-z0-9_])($commands) *\(|$words" || true
  # The least version in cmake_policy(VERSION 2.8...3.20), and a version at which the file gives up.
  local demand version
  while read -r demand; do
    version=$(grep -oE '[0-9]+(\.[0-9]+)+' <<< "$demand" | head -1)
    [[ $(printf '%s\n' "$version" "$claimed" | sort -V | tail -1) == "$claimed" ]] || echo "$demand"
  done < <(seen_by_older "$1" | tr '\n' ' ' | grep -oE \
    'cmake_(policy|minimum_required)\(VERSION [0-9.]+|VERSION_LESS "?[0-9.]+"?\) *message\(FATAL_ERROR')
}

planted=$(mktemp)
trap 'rm "$planted"' EXIT
for line in 'cmake_path(GET x FILENAME y)' '  target_sources(x INTERFACE FILE_SET HEADERS)' \
  'cmake_policy(VERSION 3.23...3.30)' 'string(JSON x GET y)' \
  $'if(CMAKE_VERSION VERSION_LESS "3.23")\n  message(FATAL_ERROR "too old")\nendif()' \
  $'if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.25)\nelse()\nblock()\nendif()'; do
  echo "$line" > "$planted"
  [[ -n $(complaints "$planted") ]] || { echo "not noticed: $line"; exit 1; }
done
for line in 'cmake_policy(VERSION 2.8.3...3.23)' '# cmake_path(GET x FILENAME y)' \
  $'if(NOT CMAKE_VERSION VERSION_LESS "3.23.0")\nif(x)\nendif()\n  target_sources(x FILE_SET y)\nendif()'
do
  echo "$line" > "$planted"
  [[ -z $(complaints "$planted") ]] || { echo "noticed, but is allowed: $line"; exit 1; }
done

files=("$1"/share/cmake/singleflight/*.cmake CMakeLists.txt include/package/single_header.cmake)
[[ ${#files[@]} -ge 6 ]]
failed=0
for file in "${files[@]}"; do
  found=$(complaints "$file")
  [[ -z $found ]] || { echo "$file needs a CMake newer than $claimed: $found"; failed=1; }
done
exit $failed
