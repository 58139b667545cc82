#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# usage: tests/examples/programs.test.sh DIRECTORY
#
# Runs the built examples in DIRECTORY as a user would, and checks what they print. Prints a line for
# each check, and exits at the first that fails. The programs that need Asio or cpp-httplib may be
# missing.
set -uo pipefail

run_example=$(cd "$(dirname "$0")/../../examples" && pwd)/run
cd "${1:?usage: tests/examples/programs.test.sh DIRECTORY}" || exit 2
server=''
listening='' try=''
output=$(mktemp)
errors=$(mktemp)
directory=$(mktemp -d)  # programs with a Redis server create its directory in here
trap '[[ -z $server ]] || kill "$server"; rm -rf "$output" "$errors" "$directory"' EXIT

# check WHAT COMMAND...: fails unless the command succeeds.
check() {
  if "${@:2}"; then
    echo "ok: $1"
  else
    echo "FAILED: $1 (${*:2})"
    cat "$output" "$errors"
    exit 1
  fi
}

# Runs a program for the checks that follow.
run() { "$@" > "$output" 2> "$errors"; }

# Succeeds if the last program printed COUNT lines that match PATTERN as a whole.
printed() { [[ $(grep -cxE -- "$2" "$output") -eq $1 ]]; }

# Succeeds if the last program printed exactly COUNT lines.
printed_lines() { [[ $(wc -l < "$output") -eq $1 ]]; }

# Succeeds if the last program printed exactly what the comment at the top of NAME.cpp says.
printed_as_announced() {  # NAME
  sed -n '/^\/\/ prints, always:$/,/^$/ s|^//   ||p' "${run_example%/run}/$1.cpp" |
    diff - "$output" >> "$errors"
}

# Succeeds if the command exits with STATUS and prints only one line, to stderr, which contains WHY.
refused() {  # STATUS WHY COMMAND...
  run "${@:3}"
  [[ $? -eq $1 && ! -s $output && $(wc -l < "$errors") -eq 1 ]] && grep -qF -- "$2" "$errors"
}

check 'quickstart runs' run ./quickstart
check 'quickstart: it prints 7 lines' printed_lines 7
check 'quickstart: without a group there are 10 loads' printed 1 \
  'without a group: 10 loads, all answered after [0-9]+ ms'
check 'quickstart: without a group 10 callers get the user, unshared' printed 1 \
  '  10 of 10 callers got Ada, and shared was true for 0 of them'
check 'quickstart: with a group there is 1 load' printed 1 \
  'with a group: 1 load, all answered after [0-9]+ ms'
check 'quickstart: with a group 10 callers get the user and share it' printed 1 \
  '  10 of 10 callers got Ada, and shared was true for 10 of them'

check 'async runs' run ./async
check 'async: it prints what its first lines say' printed_as_announced async
check 'async: 100 futures need 1 query' printed 1 \
  '100 futures asked for one user\. The group ran 1 query, and 100 futures got Ada\.'
check 'async: two groups work at the same time' printed 1 \
  'Two groups were asked .* Both queries ran at the same time: Ada has 3 orders\.'
check 'async: after a timeout the future is still a caller' printed 1 \
  'After 10 ms the report was not ready, and 1 caller was on the call\. Later it got a report\.'
check 'async: a future that is dropped leaves its call' printed 1 \
  '.* The call had 2 callers, then 1, then 0 as they were dropped\.'
check 'async: the last future to leave stops the query' printed 1 \
  'When the last future was dropped, the query was asked to stop, and it stopped\.'
check 'async: its counts are exact' printed 1 \
  'The group .* counted 2 executions, 1 follower, 2 callers that left, 0 failures\.'
check 'async: an argument is refused' refused 2 "unexpected argument 'fast'" ./async fast

check 'coroutine runs' run ./coroutine
check 'coroutine: it prints what its first lines say' printed_as_announced coroutine
check 'coroutine: 1000 coroutines need 1 query' printed 1 \
  '1000 coroutines asked for one user\. The group ran 1 query, and 1000 coroutines got Ada\.'
check 'coroutine: a leader that leaves does not stop the call' printed 1 \
  'Two coroutines .* The leader left after 10 ms\. The follower still got Ada\.'
check 'coroutine: an executor runs a query that blocks' printed 1 \
  "A query that blocks ran on a worker's thread\. .* both got Ada\."
check 'coroutine: it resumes on its own thread' printed 1 \
  "The coroutine resumed on its loop's thread\."
check 'coroutine: its counts are exact' printed 1 \
  'The group counted 3 executions, 1001 followers, 1 caller that left, 0 failures\.'
check 'coroutine: an argument is refused' refused 2 "unexpected argument 'fast'" ./coroutine fast

check 'batch runs' run ./batch
check 'batch: it prints what its first lines say' printed_as_announced batch
check 'batch: without a group each page loads all of its users' printed 1 \
  'without a group: 5 queries for 120 ids returned 118 rows'
check 'batch: with a group each user is loaded once' printed 1 \
  'with a group: 4 queries for 39 ids returned 38 rows'
check 'batch: three pages are complete' printed 3 '  page [024] shows 2[05] users'
check 'batch: a missing user is an error of its own' printed 2 \
  '  page [13] shows 24 users \(there is no user 404\)'
check 'batch: an argument is refused' refused 2 "unexpected argument 'fast'" ./batch fast

check 'batcher runs' run ./batcher
check 'batcher: it prints what its first lines say' printed_as_announced batcher
check 'batcher: single asks become one query a round' printed 1 \
  '20 posts asked for 39 users, one at a time: 2 queries for 13 users'
check 'batcher: a missing user is an error of its own' printed 1 '  post 5 is by nobody: .*'
check 'batcher: an argument is refused' refused 2 "unexpected argument 'fast'" ./batcher fast

check 'callback runs' run ./callback
check 'callback: it prints what its first lines say' printed_as_announced callback
check 'callback: every request is finished exactly once' printed 1 \
  'requests that were finished exactly once: 4000 of 4000'
check 'callback: every client that stays gets its user' printed 1 \
  'clients that stayed and got their user: 2800 of 2800'
check 'callback: every client that hangs up is cancelled or gets its user' printed 1 \
  'clients that hung up, and were cancelled or got their user: 1200 of 1200'
check 'callback: each user is loaded once in a round' printed 1 \
  'executions: 400, one for each user in each round'
check 'callback: no request and no call is left over' printed 1 \
  'left over: 0 requests, 0 calls in flight'
check 'callback: an argument is refused' refused 2 "unexpected argument 'fast'" ./callback fast

check 'herd runs' run ./herd --rate 500 --seconds 2 --connections 5 --threads 100
check 'herd: every request is in the table, twice' printed 1 'requests +1000 +1000'
check 'herd: nothing is deduplicated without a group' printed 1 \
  'deduplicated +0\.0 % +[1-9][0-9]?\.[0-9] %'
check 'herd: a percentile without an answer says how long it was waited for' printed 1 \
  'latency p99 +> 2000 ms .*'
check 'herd: the columns of the table are aligned' test \
  "$(head -7 "$output" | awk '{ print length }' | sort -u)" = 44
check 'herd: the histogram has a row for the unanswered requests' printed 1 'unanswered +[1-9].*'
check 'herd: an unknown flag is refused' refused 2 'unknown flag --speed' ./herd --speed 3
check 'herd: a rate of 0 is refused' refused 2 '--rate must be' ./herd --rate 0
check 'herd: a word instead of a number is refused' refused 2 "not 'many'" ./herd --keys many
check 'herd: a flag without a value is refused' refused 2 '--zipf needs a value' ./herd --zipf

check 'cache runs' run ./cache --rate 400 --seconds 0.5 --backend-ms 20 --ttl-ms 1000000
check 'cache: all five runs have every request' printed 1 'requests +200 +200 +200 +200 +200'
check 'cache: without protection each request runs a query, with a fresh value none does' \
  printed 1 'executions +200 +0 +[0-9]+ +0 +0'
check 'cache: it explains the lines over time' printed 1 \
  'Queries over time\. Each character is [0-9]+ ms: how many queries started in it'
check 'cache: each run has a line over time' printed 5 '(no protection|[a-z]+) +[.1-9#]{60}'
check 'cache: an unknown flag is refused' refused 2 'unknown flag --speed' ./cache --speed 3

check 'examples/run: an unknown name is refused' refused 2 "no example 'slowstart'" \
  "$run_example" slowstart
check 'examples/run: it lists the names' grep -qw quickstart "$errors"
check 'examples/run: without a name it compiles and runs quickstart' run "$run_example"
check 'examples/run: it prints the command' printed 1 '.* examples/quickstart\.cpp -o .*'
check 'examples/run: it prints the output' printed 1 'with a group: 1 load, .*'

if [[ -x asio_server ]]; then
  check 'asio_server runs' run ./asio_server --connections 300 --work-ms 3000
  check 'asio_server: all connections are answered' printed 1 'status 200: 300'
  check 'asio_server: they get one body' printed 1 'distinct bodies: 1'
  check 'asio_server: the upstream runs once' printed 1 'upstream runs: 1'
  check 'asio_server: it counts one execution' printed 1 \
    '\[.*"stats": \{"executions": 1, "followers": 299, "failures": 0, .*\}\]'
  check 'asio_server: an unknown flag is refused' refused 2 'unknown flag --speed' \
    ./asio_server --speed 3
else
  echo 'skipped: asio_server, which was not built (Asio was not found)'
fi

if [[ -x redis_fleet ]] && command -v redis-server > /dev/null; then
  export TMPDIR=$directory
  check 'redis_fleet runs' run ./redis_fleet --query-ms 10
  check 'redis_fleet: it prints 9 lines' printed_lines 9
  check 'redis_fleet: each key is run once' printed 1 \
    'with a redis::Group: 10 executions, 4000 correct answers'
  check 'redis_fleet: no key is run twice' printed 1 '  executions of each key:( 1){10}'
  check 'redis_fleet: each of 8 processes gets all answers' printed 1 \
    '  correct answers in each process:( 500){8}'
  check 'redis_fleet: 500 coroutines need two connections' printed 1 \
    '  connections to the server in each process:( 2){8}'
  check 'redis_fleet: a caller takes over when the leader is killed' printed 1 \
    '  A caller in another process took over [0-9]+ ms later and ran the query again\.'
  check 'redis_fleet: the query of the killed leader does not finish' printed 1 \
    '  executions: 2 started, 1 finished'
  check 'redis_fleet: all callers of the other process are answered' printed 1 \
    '  correct answers in that process: 500 of 500'
  check 'redis_fleet: nothing is left of its server' rmdir "$directory"

  mkdir "$directory"
  exec 3< <(exec ./redis_fleet --query-ms 3600000)
  server=$!
  check 'redis_fleet says what it does' read -r -t 30 listening <&3
  check 'redis_fleet can be stopped by a signal' kill -TERM "$server"
  wait "$server"
  check 'redis_fleet exits with 128 plus the signal' test $? -eq $((128 + 15))
  server=''
  check 'redis_fleet: nothing is left of its server after a signal' rmdir "$directory"
  unset TMPDIR

  check 'redis_fleet: an unknown flag is refused' refused 2 'unknown flag --speed' \
    ./redis_fleet --speed 3
else
  echo 'skipped: redis_fleet (redis-server was not found)'
fi

if [[ -x tracing ]] && command -v redis-server > /dev/null; then
  mkdir -p "$directory"
  spans=$(mktemp)
  export TMPDIR=$directory
  check 'tracing runs' run ./tracing --json "$spans"
  check 'tracing: it prints what its first lines say' printed_as_announced tracing
  check 'tracing: followers have links to the call of their leader' printed 4 \
    '  request [2356] followed the call of request [14]: .*'
  check 'tracing: two of them left, and one got an exception' printed 3 \
    '  request ([36] .*: left|5 .*: error, the database is down)'
  check 'tracing: a call that follows another process has a link to the call there' printed 1 \
    '  request 8 led a call with 1 caller, which followed the call of request 7: ok'
  check 'tracing: the JSON has a line for each part of the program, and one for each process' \
    test "$(grep -cx '{"resourceSpans":.*}' "$spans")" = 4
  check 'tracing: the JSON has a span for each of eight requests and four calls' \
    test "$(grep -o '"kind":[12]' "$spans" | wc -l)" = 12
  check 'tracing: the JSON has five links' \
    test "$(grep -o '"links":\[{"traceId":"[0-9a-f]\{32\}"' "$spans" | wc -l)" = 5
  check 'tracing: without a file the JSON is printed' run ./tracing --json -
  check 'tracing: it is among the lines' printed 4 '\{"resourceSpans":.*\}'
  check 'tracing: nothing is left of its server' rmdir "$directory"
  unset TMPDIR
  rm "$spans"

  check 'tracing: an unknown flag is refused' refused 2 'unknown flag --speed' ./tracing --speed 3
else
  echo 'skipped: tracing (redis-server was not found)'
fi

if [[ -x fleet_cache ]] && command -v redis-server > /dev/null; then
  mkdir -p "$directory"
  export TMPDIR=$directory
  check 'fleet_cache runs' run ./fleet_cache --seconds 0.7
  check 'fleet_cache: it prints 8 lines' printed_lines 8
  check 'fleet_cache: three processes with an empty cache render each page once' printed 1 \
    'an empty cache +300 +[0-9]+ +50( +[0-9.]+ ms){2}'
  check 'fleet_cache: readers have hits, and expired pages are rendered again' printed 1 \
    'readers +[1-9][0-9]+ +[1-9][0-9]* +[1-9][0-9]*( +[0-9.]+ ms){2}'
  check 'fleet_cache: no page is rendered twice at a time' printed 1 \
    '  Renders of a page that was being rendered already: 0'
  check 'fleet_cache: when a process is killed, the others go on' printed 1 \
    'a process is killed +[1-9][0-9]+ +[1-9][0-9]* +[1-9][0-9]*( +[0-9.]+ ms){2}'
  check 'fleet_cache: another process renders the page of the one that was killed' printed 1 \
    '  It was rendering a page\. Another process did so [0-9]+ ms later\. Its lease was 1 s\.'
  check 'fleet_cache: after Invalidate no reader gets an older page' printed 1 \
    '  Pages that were invalidated: [1-9][0-9]*\. Readers that got an older one afterwards: 0'
  check 'fleet_cache: nothing is left of its server' rmdir "$directory"
  unset TMPDIR

  check 'fleet_cache: an unknown flag is refused' refused 2 'unknown flag --speed' \
    ./fleet_cache --speed 3
else
  echo 'skipped: fleet_cache, which was not built, or there is no redis-server'
fi

if [[ ! -x http_server || ! -x http_client ]]; then
  echo 'skipped: http_server and http_client, which were not built (cpp-httplib was not found)'
  exit 0
fi

exec 3< <(exec ./http_server --port 0 --work-ms 1500)
server=$!
check 'http_server says where it listens' read -r -t 30 listening <&3
port=${listening##*:}
check 'http_server says what to try' read -r -t 30 try <&3
check 'http_server: the command to try has its port' test "$try" = \
  "try: curl http://127.0.0.1:$port/"

check 'http_client runs' run ./http_client --port "$port" --count 50
check 'http: 50 requests at the same time are answered' printed 1 'status 200: 50'
check 'http: they get one body' printed 1 'distinct bodies: 1'
check 'http: the group counts one execution' printed 1 \
  "the server's /stats: \[\{.*\"answers\"\}, \"stats\": \{\"executions\": 1, \"followers\": 49, .*\}\}\]"

check 'http_client runs with /alone' run ./http_client --port "$port" --count 20 --path /alone
check 'http: without a group each request gets its own body' printed 1 'distinct bodies: 20'
check 'http: the group does not count these requests' printed 1 \
  "the server's /stats: \[\{.*\"answers\"\}, \"stats\": \{\"executions\": 1, .*\}\}\]"

check 'http_server: a port in use is refused' refused 1 "port $port" ./http_server --port "$port"
check 'http_server: an unknown flag is refused' refused 2 'unknown flag --speed' \
  ./http_server --speed 3
check 'http_server: a port beyond 65535 is refused' refused 2 '--port must be' \
  ./http_server --port 65536
check 'http_client: an unknown flag is refused' refused 2 'unknown flag --speed' \
  ./http_client --speed 3

check 'http_server can be stopped by a signal' kill -TERM "$server"
check 'http_server exits with 0' wait "$server"
check 'http_server prints its counts' grep -qx \
  'stopped: \[{"labels": {"group": "answers"}, "stats": {"executions": 1, "followers": 49, .*}}\]' <&3
server=''
check 'http_client: a server that has stopped is reported' refused 1 'no answer' \
  ./http_client --port "$port"
