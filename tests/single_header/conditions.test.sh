#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/single_header/conditions.test.sh CMAKE COMPILER
#
# Makes single headers of small headers that are planted here, and compares what the compiler sees in
# them with what it sees in the headers themselves, for every combination of the macros that they test.
set -euo pipefail
cd "$(dirname "$0")"

cmake=$1 compiler=$2
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
mkdir -p "$folder"/{include/singleflight/detail,single/singleflight}
cp -r ../../include/package "$folder/include"
cp ../../include/singleflight/version.hpp "$folder/include/singleflight"
made=$folder/single/singleflight/singleflight.hpp

# header NAME: plants a header with the text of the standard input.
header() {
  { printf '// SPDX-License-Identifier: MIT\n#pragma once\n'; cat; } \
    > "$folder/include/singleflight/$1"
}

make_single_header() {
  "$cmake" -P "$folder/include/package/single_header.cmake" "$made" > "$folder/log" 2>&1
}

# refused SENTENCE: these headers make no single header, and the reason is given.
refused() {
  if make_single_header || ! tr -s '\n ' ' ' < "$folder/log" | grep -qF "$1"; then
    echo "not refused: $1"
    cat "$folder/log"
    exit 1
  fi
}

# What the compiler sees of the headers in a folder, without lines that are empty or are from others.
seen() {
  "$compiler" -std=c++20 -E -I "$1" "${@:2}" -x c++ - <<< '#include <singleflight/singleflight.hpp>' |
    awk '/^# [0-9]+ "/ { ours = /singleflight/ } !/^#/ && !/^[ \t]*$/ && ours'
}

header detail/first.hpp <<'END'
#include <climits>
#  include "second.hpp"
int first;
END
header detail/second.hpp << 'END'
constexpr char kText[] = R"(a;b [c] \n ${d} @e@ "f" \)";  // #include "nothing.hpp"
#define TWO_LINES \
  int two_lines
END
header detail/third.hpp <<'END'
#if defined(A)
#include "first.hpp"
#include <climits>
#elif defined(B)
#include "second.hpp"
#else
# include "there is no such file"
#endif
TWO_LINES;
#include "first.hpp"  // also where A was not defined
#include "fourth.hpp"
#include "second.hpp"
END
header detail/fourth.hpp <<'END'
#ifndef A
#if B > 1
#include "fifth.hpp"
int fourth;
#endif
#include <climits>
#endif
#include <climits>
#ifdef SINGLEFLIGHT_NEVER
#error never
#endif
END
header detail/fifth.hpp <<'END'
int fifth;
END
header singleflight.hpp <<'END'
#include "detail/third.hpp"
#include "detail/fourth.hpp"
#include "detail/fifth.hpp"
#include <climits>
constexpr int kMax = INT_MAX;
END

make_single_header || { cat "$folder/log"; exit 1; }
for macros in -DA -DB '-DA -DB' -DB=2 '-DA -DB=2'; do
  # shellcheck disable=SC2086  # several macros
  diff <(seen "$folder/include" $macros) <(seen "$folder/single" $macros)
  # shellcheck disable=SC2086
  [[ $(seen "$folder/single" $macros | grep -c -e 'int first;' -e 'kText' -e 'int fifth;') -eq 3 ]]
done
[[ $(grep -c 'include <climits>' "$made") -eq 4 ]] # two others are surely repetitions
if seen "$folder/single" > /dev/null 2>&1; then
  echo "a file that must be missing was left out"
  exit 1
fi
grep -qx '// Permission is hereby granted, free of charge,.*' "$made" && exit 1 # no LICENSE there
cp ../../LICENSE "$folder"
make_single_header
grep -q '^// Permission is hereby granted, free of charge,' "$made"
[[ $(head -1 "$made") == '// SPDX-License-Identifier: MIT' && $(grep -c SPDX "$made") -eq 1 ]]

before=$(stat -c %y "$made")
make_single_header
[[ $(stat -c %y "$made") == "$before" ]] # so nothing is compiled again

header detail/fifth.hpp <<< '#include "nowhere.hpp"'
refused 'detail/fifth.hpp includes nowhere.hpp, which does not exist'
header detail/fifth.hpp <<< '#if 1'
refused 'detail/fifth.hpp has 1 more #if than #endif'
echo 'int fifth;' > "$folder/include/singleflight/detail/fifth.hpp"
refused 'detail/fifth.hpp does not begin with its license'
