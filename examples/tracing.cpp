// SPDX-License-Identifier: MIT

// Spans for a tracing system such as OpenTelemetry. A follower's span has a link to the span of its
// leader's call, also if it left or got an exception.
//
//   ./tracing
//
//   --json  a file to which all spans are appended as OpenTelemetry's JSON, or - to print it (none)
//
// prints, always:
//
//   Three threads ask for one user. One of them leaves.
//     request 1 led a call with 2 callers: ok
//     request 2 followed the call of request 1: ok
//     request 3 followed the call of request 1: left
//   Three coroutines ask for one user. One of them leaves, and then the query fails.
//     request 4 led a call with 2 callers: error, the database is down
//     request 5 followed the call of request 4: error, the database is down
//     request 6 followed the call of request 4: left
//   Two processes ask for one report, and share a Redis server. One of them runs the query.
//     request 7 led a call with 1 caller: ok
//     request 8 led a call with 1 caller, which followed the call of request 7: ok

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <iostream>
#include <singleflight/redis.hpp>
#include <singleflight/singleflight.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "adapters/spans.hpp"
#include "support/event_loop.hpp"
#include "support/flags.hpp"
#include "support/joining_thread.hpp"
#include "support/processes.hpp"
#include "support/redis_own_server.hpp"
#include "support/span_report.hpp"

namespace {

using namespace std::chrono_literals;

struct Traced : singleflight::GroupTraits {
  using Listener = SpanListener;
};
using Users = singleflight::Group<std::string, std::string, singleflight::DefaultHash<std::string>,
                                  singleflight::DefaultEqual<std::string>, Traced>;
using Reports =
    singleflight::redis::Group<std::string, singleflight::redis::Codec<std::string>, Traced>;

// One request that a thread handles. `traceparent` is a header of it.
void Handle(SpanStore& store, Users& users, const std::string& name, const std::string& traceparent,
            const singleflight::CallOptions& options) {
  const auto load = [&users] {  // until one caller has joined, and another one has left
    while (users.GetStats().left < 1 || users.Callers("user:42") < 2) std::this_thread::yield();
    return "Ada";
  };
  Span span(store, name, ParseTraceparent(traceparent));
  try {
    const auto user = span.Run([&] { return users.Do("user:42", load, options); });  // shows it
  } catch (const std::system_error&) {  // answers without the user
  }
}

void UseThreads(SpanStore& store, Users& users) {
  const std::string client = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const JoiningThread one([&] { Handle(store, users, "request 1", client, {}); });
  while (users.Callers("user:42") < 1) std::this_thread::yield();
  const JoiningThread two([&] { Handle(store, users, "request 2", "", {}); });
  Handle(store, users, "request 3", "", {.timeout = 10ms});
}

Task<std::string> Query(Loop& loop) {
  co_await loop.Sleep(10ms);
  throw std::runtime_error("the database is down");
  co_return "Ada";
}

Task<bool> Handle(SpanStore& store, Users& users, Loop& loop, std::string name,
                  singleflight::StopToken client_has_gone) {
  Span span(store, std::move(name));
  try {
    const auto load = [&loop] { return Query(loop); };
    const auto user =
        co_await span.Await(singleflight::CoDo(users, "user:43", load, client_has_gone));
    co_return true;
  } catch (const std::exception&) {  // answers with an error
    co_return false;
  }
}

void UseCoroutines(SpanStore& store, Users& users) {
  Loop loop;
  singleflight::StopSource gone;
  std::vector<Task<bool>> handled;
  handled.push_back(Handle(store, users, loop, "request 4", {}));
  handled.push_back(Handle(store, users, loop, "request 5", {}));
  handled.push_back(Handle(store, users, loop, "request 6", gone.get_token()));
  gone.request_stop();
  loop.RunUntil([&handled] { return std::ranges::all_of(handled, &Task<bool>::Done); });
}

// What two processes of a fleet share, in memory.
struct Shared {
  std::atomic<bool> query_runs = false;
  std::atomic<std::size_t> turn = 0;  // the process that may print
  TraceContext call;                  // of request 7
};

// Each process handles one request. The first one runs the query until the second one follows.
void UseProcess(Shared& shared, std::size_t process, const std::string& socket,
                const std::string& file) {
  SpanStore store;
  // A slow machine must not look like an outage.
  singleflight::redis::Client redis(
      {.unix_socket = socket, .connect_timeout = 1min, .command_timeout = 1min});
  Reports reports(redis, "tracing",
                  {.lease = 10min, .on_outage = singleflight::redis::OnOutage::kFail},
                  SpanListener(store, "reports"));
  const auto query = [&] {
    shared.query_runs = true;
    while (reports.InspectFleet().at(0).followers < 1) std::this_thread::sleep_for(1ms);
    return "a report";
  };
  while (process == 1 && !shared.query_runs) std::this_thread::sleep_for(1ms);
  {
    Span span(store, process == 0 ? "request 7" : "request 8");
    const auto report = span.Run([&] { return reports.Do("report:7", query); });
  }
  while (shared.turn != process) std::this_thread::sleep_for(1ms);
  const auto spans = store.Take();
  Report(spans, file, {{shared.call, "request 7"}});
  shared.call = spans.at(0).context;
  ++shared.turn;
}

}  // namespace

int main(int argc, char** argv) try {
  Flags flags(argc, argv);
  const std::string file = flags.Text("json", "none");
  flags.RefuseOthers();
  Processes processes;

  SpanStore store;
  Users users({}, SpanListener(store, "users"));
  std::cout << "Three threads ask for one user. One of them leaves.\n";
  UseThreads(store, users);
  Report(store.Take(), file);

  std::cout << "Three coroutines ask for one user. One of them leaves, and then the query fails.\n";
  UseCoroutines(store, users);
  Report(store.Take(), file);

  std::cout << "Two processes ask for one report, and share a Redis server. One of them runs the "
               "query.\n";
  const OwnRedisServer server;
  const InSharedMemory<Shared> shared;
  return processes.Run(
      2, [&](std::size_t process) { UseProcess(*shared, process, server.Socket(), file); });
} catch (const std::exception& error) {
  std::cerr << "tracing: " << error.what() << '\n';
  return 1;
}
