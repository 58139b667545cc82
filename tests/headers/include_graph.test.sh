#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/headers/include_graph.test.sh
#
# The include graph is as it should be, and include_graph reports what it must: in a copy of the
# headers it finds each include that is planted there.
set -euo pipefail
cd "$(dirname "$0")"

./include_graph
copy=$(mktemp -d)
trap 'rm -r "$copy"' EXIT

# planted FILE INCLUDE REPORT
planted() {
  rm -rf "${copy:?}"/*
  cp -r ../../include/singleflight/. "$copy"
  sed -i "s|^#pragma once$|&\n#include \"$2\"|" "$copy/$1"
  if report=$(./include_graph "$copy") || ! grep -qF "$3" <<< "$report"; then
    echo "not reported: $1 includes $2 ($3)"
    echo "$report"
    exit 1
  fi
}

planted detail/call.hpp ../group.hpp 'detail/call.hpp includes group.hpp: the arrow runs up'
planted detail/asio/context_users.hpp ../../async.hpp 'the arrow runs up'
planted read_through.hpp async.hpp 'one way of waiting must not need another'
planted many.hpp detail/asio/context_users.hpp 'a wing belongs to one header'
planted detail/outcome.hpp ledger.hpp 'in a circle'
planted group.hpp group.hpp 'a header must not include itself'
echo '#pragma once' > "$copy/newcomer.hpp"
echo '#include "group.hpp"' >> "$copy/newcomer.hpp"
! report=$(./include_graph "$copy" 2>&1)
grep -q 'newcomer.hpp has no floor' <<< "$report"
