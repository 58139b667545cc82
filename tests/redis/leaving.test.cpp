// SPDX-License-Identifier: MIT

// Tests callers of a redis::Group that leave, and threads that are cancelled. blocked.test.cpp has
// those that leave while nothing answers.

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <latch>
#include <memory>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "processes.hpp"
#include "sanitizers/sanitizers.hpp"
#include "server.hpp"
#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/platform.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

void AwaitNoKeys(const RedisServer& server) {
  Await([&] { return server.Keys().empty(); });
}

// Returns only if the thread is cancelled. ThreadSanitizer's own pause() does not see the
// unwinding.
[[noreturn]] void PauseForEver() {
  for (;;) {
#if defined(UNDER_THREAD_SANITIZER)
    ::pthread_testcancel();
#else
    ::pause();
#endif
  }
}

using Strings = std::vector<std::unique_ptr<test::Caller<std::string>>>;

}  // namespace

// ---- Timeout and stop

TEST_CASE("redis: a caller that waits for another process gives up after its timeout") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v"s);
  const auto began = std::chrono::steady_clock::now();
  CHECK(ErrorOf([&] { return there.Do("k", NeverRun, {.timeout = 20ms}); }) ==
        std::errc::timed_out);
  CHECK(std::chrono::steady_clock::now() - began >= 20ms);
  CHECK(there.Callers("k") == 0);
  CHECK(there.GetStats().calls.left == 1);
  Await([&] { return there.GetStats().calls.in_flight == 0; });
  CHECK(there.GetStats() == redis::Stats{.calls = {.executions = 1, .left = 1}});
}

TEST_CASE("redis: a caller with a timeout of zero never leads") {
  const RedisServer server;
  RedisPages here(server), there(server);
  CHECK(ErrorOf([&] { return there.Do("k", NeverRun, {.timeout = 0ms}); }) == std::errc::timed_out);
  {
    RedisLeader leader(here, "k", "v"s);
    CHECK(ErrorOf([&] { return there.Do("k", NeverRun, {.timeout = 0ms}); }) ==
          std::errc::timed_out);
    CHECK(ErrorOf([&] { return here.Do("k", NeverRun, {.timeout = 0ms}); }) ==
          std::errc::timed_out);
  }
  CHECK(there.GetStats().executions == 0);
  AwaitNoKeys(server);  // it has given the lease back, if it has got it
  CHECK(*here.Do("k", [] { return "v"s; }) == "v");
}

TEST_CASE("redis: a timeout does not cut the caller's own function short") {
  const RedisServer server;
  RedisPages pages(server);
  std::chrono::steady_clock::time_point deadline;
  CHECK(*pages.Do("k",
                  [&] {
                    Await([&] { return std::chrono::steady_clock::now() > deadline; });
                    return "v"s;
                  },
                  {.timeout = deadline = std::chrono::steady_clock::now() + 500ms}) == "v");
}

TEST_CASE("redis: a caller that waits for another process leaves when it is stopped") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v"s);
  StopSource stop;
  test::Caller follower([&] { return there.Do("k", NeverRun, {.stop = stop.get_token()}); });
  AwaitFollowers(server, "k", 1);
  stop.request_stop();
  CHECK(follower.Join().error == std::errc::operation_canceled);
  CHECK(there.GetStats().calls.left == 1);
  CHECK(there.Callers("k") == 0);
}

TEST_CASE("redis: a caller that was stopped before it asks does not run its function") {
  const RedisServer server;
  RedisPages pages(server);
  StopSource stop;
  stop.request_stop();
  CHECK(ErrorOf([&] { return pages.Do("k", NeverRun, {.stop = stop.get_token()}); }) ==
        std::errc::operation_canceled);
  CHECK(pages.GetStats() == redis::Stats());
}

TEST_CASE("redis: every caller that leaves is counted exactly once") {
  constexpr int kRounds = 300;
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v"s);
  int left = 0;
  for (int i = 0; i < kRounds; ++i) {
    StopSource stop;
    CallOptions options{.stop = stop.get_token()};
    if (i % 2 == 0) options.timeout = 1ms;  // the timeout and the stop race
    test::Caller follower([&] { return there.Do("k", NeverRun, options); });
    Await([&] { return there.GetStats().calls.executions == static_cast<std::uint64_t>(i + 1); });
    stop.request_stop();
    if (follower.Join().error.has_value()) ++left;
  }
  CHECK(left == kRounds);
  Await([&] { return there.GetStats().calls.in_flight == 0; });
  CHECK(there.GetStats() == redis::Stats{.calls = {.executions = kRounds, .left = kRounds}});
  CHECK(leader.Finish().value == "v");
}

TEST_CASE("redis: a caller that leaves while it waits for another process disturbs nobody else") {
  const RedisServer server;
  for (const bool by_stop : {false, true}) {
    RedisPages here(server), there(server);
    RedisLeader leader(here, "k", "v"s);
    StopSource stop;
    test::Caller first([&] {
      const CallOptions options =
          by_stop ? CallOptions{.stop = stop.get_token()} : CallOptions{.timeout = 500ms};
      return there.Do("k", NeverRun, options);
    });
    AwaitFollowers(server, "k", 1);
    Strings others;
    for (int i = 0; i < 5; ++i) {
      others.push_back(
          std::make_unique<test::Caller<std::string>>([&] { return there.Do("k", NeverRun); }));
    }
    if (by_stop) {
      AwaitCallers(there, "k", 6);
      stop.request_stop();
    }
    CHECK(first.Join().error == (by_stop ? std::errc::operation_canceled : std::errc::timed_out));
    AwaitCallers(there, "k", 5);
    leader.Finish();
    for (auto& other : others) {
      CHECK(other->Join().value == "v");
      CHECK(other->Join().role == Role::kFollower);
    }
    CHECK(there.GetStats() ==
          redis::Stats{.remote = 1,
                       .calls = {.executions = there.GetStats().calls.executions,
                                 .followers = there.GetStats().calls.followers,
                                 .left = 1}});
    Await([&] { return !server.Ask("EXISTS", LeaseName("t", "k")).number; });
  }
}

TEST_CASE("redis: each follower keeps its own timeout, whoever of its process leaves before") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v"s);
  StopSource stop;
  test::Caller first([&] { return there.Do("k", NeverRun, {.stop = stop.get_token()}); });
  AwaitFollowers(server, "k", 1);
  const auto began = std::chrono::steady_clock::now();
  test::Caller second([&] { return there.Do("k", NeverRun, {.timeout = 300ms}); });
  AwaitCallers(there, "k", 2);
  stop.request_stop();
  CHECK(first.Join().error == std::errc::operation_canceled);
  CHECK(second.Join().error == std::errc::timed_out);
  CHECK(std::chrono::steady_clock::now() - began >= 300ms);
  CHECK(there.GetStats().calls.left == 2);
}

// ---- Who does the work

TEST_CASE("redis: if the caller that asked first has left, another one of its process leads") {
  RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");  // it is connected
  AwaitNoKeys(server);
  for (const bool by_stop : {true, false}) {
    server.Stop();  // nobody knows who leads
    StopSource stop;
    test::Caller first([&] {
      const CallOptions options =
          by_stop ? CallOptions{.stop = stop.get_token()} : CallOptions{.timeout = 1ms};
      return pages.Do("k", NeverRun, options);
    });
    if (by_stop) AwaitCallers(pages, "k", 1);
    if (!by_stop) first.Join();
    Strings others;
    for (int i = 0; i < 3; ++i) {
      others.push_back(std::make_unique<test::Caller<std::string>>(
          [&pages, i] { return pages.Do("k", [i] { return std::to_string(i); }); }));
    }
    AwaitCallers(pages, "k", by_stop ? 4 : 3);
    stop.request_stop();
    CHECK(first.Join().error == (by_stop ? std::errc::operation_canceled : std::errc::timed_out));
    server.Continue();
    int leaders = 0;
    std::string value;
    for (std::size_t i = 0; i < 3; ++i) {
      if (others[i]->Join().role != Role::kLeader) continue;
      ++leaders;
      value = std::to_string(i);
    }
    CHECK(leaders == 1);
    for (auto& other : others) CHECK(other->Join().value == value);
    AwaitNoKeys(server);
  }
}

TEST_CASE("redis: a lease that comes when all callers have left is given back") {
  RedisServer server;
  RedisPages pages(server, {.lease = 1h}), there(server);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");
  AwaitNoKeys(server);
  server.Stop();
  CHECK(ErrorOf([&] { return pages.Do("k", NeverRun, {.timeout = 10ms}); }) ==
        std::errc::timed_out);
  server.Continue();
  CHECK(*there.Do("k", [] { return "v"s; }) == "v");
  AwaitNoKeys(server);
  CHECK(pages.GetStats().executions == 1);
}

TEST_CASE("redis: other processes take over a call that nobody in the leader's process wants") {
  const RedisServer server;
  RedisPages here(server, {.lease = 1h}), there(server, {.lease = 1h});
  StopSource stop;
  RedisLeader leader(
      here, "k",
      [](const redis::Lease& lease) { return lease.stop().stop_requested() ? "stopped"s : ""s; },
      {.stop = stop.get_token()});
  test::Caller follower([&] { return there.Do("k", [] { return "mine"s; }); });
  AwaitFollowers(server, "k", 1);
  stop.request_stop();  // the leader's function keeps running meanwhile
  CHECK(follower.Join().value == "mine");
  CHECK(follower.Join().role == Role::kLeader);
  Await([&] { return !server.Ask("EXISTS", LeaseName("t", "k")).number; });
  CHECK(*here.Do("k", [] { return "newcomer's"s; }) == "newcomer's");
  CHECK(leader.Finish().value == "stopped");
  CHECK(there.GetStats().takeovers == 1);
  CHECK(here.GetStats().unpublished == 0);
}

TEST_CASE("redis: what fn returns because it was asked to stop reaches no other process") {
  const RedisServer server;
  RedisPages here(server), there(server);
  std::promise<void> begun;
  std::optional<StopCallback<std::function<void()>>> delay;
  Future<std::string> leader = DoAsync(here, "k", [&](const StopToken& stop) {
    // The newest callback runs first: what the library does in such a one comes after the landing.
    delay.emplace(stop, [&] { Await([&] { return here.GetStats().calls.in_flight == 0; }); });
    begun.set_value();
    Await([&] { return stop.stop_requested(); });
    return "stopped"s;
  });
  begun.get_future().wait();
  test::Caller follower([&] { return there.Do("k", [] { return "taken over"s; }); });
  AwaitFollowers(server, "k", 1);
  leader = {};
  CHECK(follower.Join().value == "taken over");
  CHECK(there.GetStats().remote == 0);
  CHECK(here.GetStats().unpublished == 0);
}

TEST_CASE("redis: a leader that leaves does not stop a call that its process still wants") {
  const RedisServer server;
  RedisPages here(server), there(server);
  StopSource stop;
  bool stopped = true;
  RedisLeader leader(here, "k",
                     [&](const redis::Lease& lease) {
                       stopped = lease.stop().stop_requested();
                       return "v"s;
                     },
                     {.stop = stop.get_token()});
  test::Caller same([&] { return here.Do("k", NeverRun); });
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitCallers(here, "k", 2);
  AwaitFollowers(server, "k", 1);
  stop.request_stop();
  AwaitCallers(here, "k", 1);
  leader.Finish();
  CHECK_FALSE(stopped);
  CHECK(same.Join().value == "v");
  CHECK(follower.Join().value == "v");
}

TEST_CASE("redis: a function that takes no stop token goes on when nobody is left") {
  const RedisServer server;
  RedisPages here(server), there(server);
  StopSource stop;
  std::promise<void> begun, finish;
  test::Caller leader([&] {
    return here.Do("k",
                   [&] {
                     begun.set_value();
                     finish.get_future().wait();
                     return "v"s;
                   },
                   {.stop = stop.get_token()});
  });
  begun.get_future().wait();
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  stop.request_stop();
  AwaitCallers(here, "k", 0);
  test::Caller newcomer([&] { return here.Do("k", NeverRun); });
  AwaitCallers(here, "k", 1);
  finish.set_value();
  CHECK(leader.Join().value == "v");
  CHECK(newcomer.Join().value == "v");
  CHECK(follower.Join().value == "v");
}

TEST_CASE("redis: a group that is destroyed cancels those of its calls that wait for others") {
  const RedisServer server;
  RedisPages here(server);
  RedisLeader leader(here, "k", "v"s);
  struct Waiting final : redis::Group<std::string>::Waiter {
    void OnLanded() noexcept override {
      canceled = ErrorOf([&] { return TakeResult(); }) == std::errc::operation_canceled;
    }
    std::atomic<bool> canceled = false;
  } waiter;
  {
    RedisPages there(server);
    there.Join("k", waiter, [](auto lead) { lead.Run(NeverRun); });
    AwaitFollowers(server, "k", 1);
    CHECK_FALSE(waiter.canceled);
  }
  CHECK(waiter.canceled);
  CHECK(leader.Finish().value == "v");
}

// ---- Cancelled threads

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("redis: others take over at once from a leader whose thread is cancelled") {
  const RedisServer server;
  RedisPages here(server, {.lease = 1h}), there(server, {.lease = 1h});
  std::latch leads(1);
  CancellableThread leader([&] {
    static_cast<void>(here.Do("k", [&]() -> std::string {
      leads.count_down();
      PauseForEver();
    }));
  });
  leads.wait();
  test::Caller same([&] { return here.Do("k", NeverRun); });
  test::Caller follower([&] { return there.Do("k", [] { return "mine"s; }); });
  AwaitCallers(here, "k", 2);
  AwaitFollowers(server, "k", 1);
  leader.Cancel();
  CHECK(leader.JoinWasUnwound());
  CHECK(same.Join().error == std::errc::owner_dead);
  CHECK(follower.Join().value == "mine");
  CHECK(here.Callers("k") == 0);
}

TEST_CASE("redis: a thread that is cancelled while it waits for another process is unwound") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v"s);
  CancellableThread follower([&] { static_cast<void>(there.Do("k", NeverRun)); });
  AwaitFollowers(server, "k", 1);
  follower.Cancel();
  CHECK(follower.JoinWasUnwound());
  CHECK(there.Callers("k") == 0);
  server.Ask("HDEL", LeaseName("t", "k"), "f:" + InboxesAt(server, LeaseName("t", "k")).at(0));
  test::Caller another([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  CHECK(another.Join().value == "v");
}

TEST_CASE("redis: a thread that is cancelled before it knows whether it leads leaves no lease") {
  RedisServer server;
  RedisPages here(server, {.lease = 1h, .linger = 50ms}), there(server);
  CHECK(*here.Do("other", [] { return "v"s; }) == "v");
  AwaitNoKeys(server);
  for (int i = 0; i < 20; ++i) {
    server.Stop();
    CancellableThread caller([&] {
      static_cast<void>(here.Do("k", [] {
        ::pthread_testcancel();
        return "v"s;
      }));
      PauseForEver();
    });
    AwaitCallers(here, "k", 1);
    if (i % 2 == 0) server.Continue();  // the lead may come while the thread is unwound
    caller.Cancel();
    if (i % 2 == 1) server.Continue();
    CHECK(caller.JoinWasUnwound());
    CHECK(*there.Do("k", [] { return "v"s; }) == "v");
    AwaitNoKeys(server);
  }
}
#endif

// ---- Fork

TEST_CASE("redis: a child that was forked in a function does not publish for its parent") {
  const RedisServer server;
  RedisPages pages(server);
  pid_t child = -1;
  int status = -1;
  std::string lease;
  const auto result = pages.Do("k", [&](const redis::Lease& its) {
    child = ::fork();
    if (child == 0) return "child's"s;
    ::waitpid(child, &status, 0);
    lease = LeaseField(server, "k", "token");
    CHECK(lease == its.token());
    return "parent's"s;
  });
  if (child == 0) ::_exit(*result == "child's" ? 0 : 1);
  CHECK(status == 0);
  CHECK(*result == "parent's");
  AwaitNoKeys(server);
  CHECK(pages.GetStats().unpublished == 0);
}
