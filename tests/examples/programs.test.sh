#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/examples.test.sh DIRECTORY
#
# Runs the built examples in DIRECTORY as a user would, and checks what they print: a line for each
# check, and a non-zero exit at the first that fails. Those of Asio, Redis and HTTP may be missing.
set -uo pipefail

cd "${1:?usage: tests/examples.test.sh DIRECTORY}" || exit 2
server=''
listening=''
output=$(mktemp)
errors=$(mktemp)
directory=$(mktemp -d)  # where redis_fleet has its own
trap '[[ -z $server ]] || kill "$server"; rm -rf "$output" "$errors" "$directory"' EXIT

# check WHAT COMMAND...: the command must succeed.
check() {
  if "${@:2}"; then
    echo "ok: $1"
  else
    echo "FAILED: $1 (${*:2})"
    cat "$output" "$errors"
    exit 1
  fi
}

# Run a program for the checks that follow.
run() { "$@" > "$output" 2> "$errors"; }

# Of the last program: it printed COUNT lines that match the whole PATTERN.
printed() { [[ $(grep -cxE -- "$2" "$output") -eq $1 ]]; }

# It ends with STATUS and one line on stderr, which contains WHY.
refused() {  # STATUS WHY COMMAND...
  run "${@:3}"
  [[ $? -eq $1 && ! -s $output && $(wc -l < "$errors") -eq 1 ]] && grep -qF -- "$2" "$errors"
}

check 'quickstart runs' run ./quickstart
check 'quickstart: 10 executions without a group' printed 1 'without a group: Load ran 10 times'
check 'quickstart: 1 execution with a group' printed 1 'with a group: Load ran 1 time'
check 'quickstart: alone, ten threads got the user' printed 10 '  thread [0-9] got Ada'
check 'quickstart: ten threads shared one user' printed 10 '  thread [0-9] got Ada, shared: yes'

check 'async runs' run ./async
check 'async: 1 execution for 100 futures' printed 1 \
  '100 futures for one key: 1 execution, 100 got Ada'
check 'async: two groups work at the same time' printed 1 'two groups.* Ada has 3 orders, .*'
check 'async: a timeout ends the wait only' printed 1 \
  'after 10 ms: not ready, still on the call: yes; in the end: a report'
check 'async: the last to leave stops the work' printed 1 \
  'two futures, dropped: 2, then 1, then 0 callers; the work stopped: yes'
check 'async: its counts are exact' printed 1 \
  'reports: executions 2, followers 1, left 2, failures 0'

check 'coroutine runs' run ./coroutine
check 'coroutine: 1 execution for 1000 coroutines' printed 1 \
  '1000 coroutines for one key: 1 execution, 1000 got Ada'
check 'coroutine: one that leaves does not end the call' printed 1 \
  'of two, the one that led left after 10 ms, the other waited on: got Ada'
check 'coroutine: it goes on where it should' printed 1 \
  "on the call of another thread: got Ada, back on the loop's thread: yes"
check 'coroutine: its counts are exact' printed 1 'executions 3, followers 1001, left 1, failures 0'

check 'batch runs' run ./batch
check 'batch: without a group each page fetches all' printed 1 \
  'without a group: 5 queries for 120 ids, 118 rows'
check 'batch: with one each user is fetched once' printed 1 \
  'with a group: 4 queries for 39 ids, 38 rows'
check 'batch: three pages are complete' printed 3 '  page [024] shows 2[05] users'
check 'batch: a missing id is an error of its own' printed 2 \
  '  page [13] shows 24 users; no such user: 404'

check 'herd runs' run ./herd --rate 500 --seconds 2 --connections 5 --threads 100
check 'herd: a progress line a second, in both runs' printed 4 'with.* second [12]: .*'
check 'herd: every request is in the table, twice' printed 1 'requests +1000 +1000'
check 'herd: nothing is deduplicated without a group' printed 1 'deduplicated +0\.0 % .*'
check 'herd: something is with one' printed 1 'deduplicated .* [1-9][0-9]?\.[0-9] %'
check 'herd: an unknown flag is refused' refused 2 'unknown flag --speed' ./herd --speed 3
check 'herd: a rate of 0 is refused' refused 2 '--rate must be' ./herd --rate 0
check 'herd: a word for a number is refused' refused 2 "not 'many'" ./herd --keys many
check 'herd: a flag without a value is refused' refused 2 '--zipf needs a value' ./herd --zipf

check 'cache runs' run ./cache --rate 400 --seconds 0.5 --backend-ms 20 --ttl-ms 1000000
check 'cache: all four runs answer every request' printed 1 'requests +200 +200 +200 +200'
check 'cache: without protection, an execution a request; with both, one a key' printed 1 \
  'backend executions +200 +[0-9]+ +[0-9]+ +4'
check 'cache: a line over time for each run' printed 4 '(no protection|[a-z]+) +[.1-9#]{60}'
check 'cache: an unknown flag is refused' refused 2 'unknown flag --speed' ./cache --speed 3

if [[ -x asio_server ]]; then
  check 'asio_server runs' run ./asio_server --connections 300 --work-ms 500
  check 'asio_server: all connections are answered' printed 1 'status 200: 300'
  check 'asio_server: they get one body' printed 1 'distinct bodies: 1'
  check 'asio_server: for one upstream run' printed 1 'upstream runs: 1'
  check 'asio_server: an unknown flag is refused' refused 2 'unknown flag --speed' \
    ./asio_server --speed 3
else
  echo 'skipped: asio_server, which was not built (Asio was not found)'
fi

if [[ -x redis_fleet ]] && command -v redis-server > /dev/null; then
  export TMPDIR=$directory
  check 'redis_fleet runs' run ./redis_fleet --query-ms 10
  check 'redis_fleet: 128 callers of a key are one execution' printed 1 \
    'executions of each key:( 1){10}'
  check 'redis_fleet: each of 8 processes gets all answers' printed 1 \
    'right answers to each process:( 160){8}'
  check 'redis_fleet: all know that they share them' printed 1 'shared: 1280 of 1280'
  check 'redis_fleet: nothing is left of its server' rmdir "$directory"

  mkdir "$directory"
  exec 3< <(exec ./redis_fleet --query-ms 3600000)
  server=$!
  check 'redis_fleet says what it does' read -r -t 30 listening <&3
  check 'redis_fleet can be told to end' kill -TERM "$server"
  wait "$server"
  check 'redis_fleet ends as one that was told to' test $? -eq $((128 + 15))
  server=''
  check 'redis_fleet: nothing is left of its server then, either' rmdir "$directory"
  unset TMPDIR

  check 'redis_fleet: a server that is not there is reported' refused 1 'No such file' \
    ./redis_fleet --socket ./no_such_socket
  check 'redis_fleet: an unknown flag is refused' refused 2 'unknown flag --speed' \
    ./redis_fleet --speed 3
else
  echo 'skipped: redis_fleet (hiredis or redis-server was not found)'
fi

if [[ ! -x http_server || ! -x http_client ]]; then
  echo 'skipped: http_server and http_client, which were not built (cpp-httplib was not found)'
  exit 0
fi

exec 3< <(exec ./http_server --port 0 --work-ms 1500)
server=$!
check 'http_server says where it listens' read -r -t 30 listening <&3
port=${listening##*:}

check 'http_client runs' run ./http_client --port "$port" --count 50
check 'http: 50 requests at once are answered' printed 1 'status 200: 50'
check 'http: they get one body' printed 1 'distinct bodies: 1'
check 'http: for one execution' printed 1 \
  'server: \{"answers": \{"executions": 1, "followers": 49, .*\}\}'

check 'http_client runs on /alone' run ./http_client --port "$port" --count 20 --path /alone
check 'http: without a group they get a body each' printed 1 'distinct bodies: 20'
check 'http: and its calls are not among them' printed 1 \
  'server: \{"answers": \{"executions": 1, .*\}\}'

check 'http_server: a port in use is refused' refused 1 "port $port" ./http_server --port "$port"
check 'http_server: an unknown flag is refused' refused 2 'unknown flag --speed' \
  ./http_server --speed 3
check 'http_server: a port beyond 65535 is refused' refused 2 '--port must be' \
  ./http_server --port 65536
check 'http_client: an unknown flag is refused' refused 2 'unknown flag --speed' \
  ./http_client --speed 3

check 'http_server can be told to end' kill -TERM "$server"
check 'http_server ends well' wait "$server"
check 'http_server has served all' grep -qx 'stopped: {"answers": {"executions": 1, .*}}' <&3
server=''
check 'http_client: a server that is gone is reported' refused 1 'no answer' \
  ./http_client --port "$port"
