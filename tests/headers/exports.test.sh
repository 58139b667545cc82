#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/headers/exports.test.sh CLANG [ARGUMENT...]
#
# singleflight.cppm exports every public name of singleflight.hpp, and this check would notice one
# that it forgets. CLANG is any clang++, which is asked for the names as an editor asks it to
# complete "singleflight::".
set -euo pipefail
cd "$(dirname "$0")/../../include"

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# declared COMPILER ARGUMENT...: the names of namespace singleflight but for the namespaces in it,
# and for an internal base class, which must be in this namespace. They are those of
# singleflight.hpp and of $work/more.hpp.
declared() {
  printf '#include <singleflight/singleflight.hpp>\n#include "more.hpp"\nauto x = singleflight::\n' \
    > "$work/complete.cpp"
  # The compiler fails, because the file is not complete.
  "$@" -std=c++20 -fsyntax-only -I . -Xclang "-code-completion-at=$work/complete.cpp:3:24" \
    "$work/complete.cpp" > "$work/completions" 2> "$work/errors" || true
  if grep error: "$work/errors" | grep -qv "complete.cpp:3:"; then
    cat "$work/errors" >&2
    return 1
  fi
  # A class template comes again as Name<Parameters>, for its constructors.
  sed -n 's/^COMPLETION: \(.*\) : .*/\1/p' "$work/completions" | grep -v '^[A-Za-z0-9_]*<[A-Za-z]' |
    grep -vxE 'detail|redis|FoundByLookup' | sort -u
}

# exported FILE
exported() {
  sed -n 's/^using singleflight::\(.*\);$/\1/p' "$1" | sort
}

# compare FILE COMPILER ARGUMENT...
compare() {
  local names differences
  names=$(declared "${@:2}") || return 1
  differences=$(diff <(echo "$names") <(exported "$1") |
    sed -n 's/^</not exported:/p; s/^>/exported, but not declared, or twice:/p')
  [[ -z $differences ]] || { echo "$differences"; return 1; }
  wc -l <<< "$names"
}

module=singleflight/singleflight.cppm
true > "$work/more.hpp"
count=$(compare $module "$@") || { echo "$count"; exit 1; }
[[ $count -gt 30 ]] || { echo "only $count names were found"; exit 1; }

# Whatever kind of name a header adds is reported.
{
  echo 'namespace singleflight {'
  echo 'class Class;'
  echo 'template <class T> struct ClassTemplate;'
  echo 'template <class T> using Alias = T;'
  echo 'template <class T> concept Concept = true;'
  echo 'enum class Enum { kScoped };'
  echo 'enum { kUnscoped };'
  echo 'inline constexpr int kVariable = 1;'
  echo 'template <class T> void Function(T&&);'
  echo 'namespace names { class Inner; }'
  echo 'inline namespace inline_names { class InInline; }'
  echo 'bool operator==(const Caller&, const Caller&);'
  echo 'bool operator<(const Caller&, const Caller&);'
  echo '}'
} > "$work/more.hpp"
! report=$(compare $module "$@")
expected=$(printf 'not exported: %s\n' Class ClassTemplate Alias Concept Enum kUnscoped kVariable \
  Function names inline_names InInline 'operator==' 'operator<' | sort)
diff <(echo "$expected") <(sort <<< "$report") || { echo "planted names: not as expected"; exit 1; }

true > "$work/more.hpp"
grep -v '^using singleflight::Group;' $module > "$work/forgets.cppm"
! report=$(compare "$work/forgets.cppm" "$@")
[[ $report == 'not exported: Group' ]] || { echo "not reported: Group"; exit 1; }
echo 'using singleflight::Invented;' | cat $module - > "$work/invents.cppm"
! report=$(compare "$work/invents.cppm" "$@")
[[ $report == *': Invented' ]] || { echo "not reported: Invented"; exit 1; }
echo "$count public names, all exported"
