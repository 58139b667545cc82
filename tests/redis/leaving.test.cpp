// SPDX-License-Identifier: MIT

// Tests callers of a redis::Group that leave, threads that are cancelled, and stale connections.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <latch>
#include <memory>
#include <optional>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "processes.hpp"
#include "server.hpp"
#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/platform.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

void AwaitBlocked(const RedisServer& server, long long count) {
  Await([&] { return server.BlockedClients() == count; });
}

}  // namespace

TEST_CASE("redis: a caller that waits for another process gives up after its timeout") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  CHECK(ErrorOf([&] { return there.Do("k", NeverRun, {.timeout = 20ms}); }) ==
        std::errc::timed_out);
  CHECK(there.GetStats().calls == singleflight::Stats{.executions = 1, .left = 1});
  CHECK(there.Callers("k") == 0);
  leader.Finish();
}

TEST_CASE("redis: a caller with a timeout of zero times out while another process executes") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  CHECK(ErrorOf([&] { return there.Do("k", NeverRun, {.timeout = 0ms}); }) == std::errc::timed_out);
}

TEST_CASE("redis: a timeout does not cut the caller's own function short") {
  const RedisServer server;
  RedisPages pages(OptionsFor(server));
  CHECK(*pages.Do("k", [] { return "v"s; }, {.timeout = 0ms}) == "v");
}

TEST_CASE("redis: a caller that waits for another process leaves when it is stopped") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  StopSource stop;
  test::Caller follower([&] { return there.Do("k", NeverRun, {.stop = stop.get_token()}); });
  AwaitBlocked(server, 1);
  stop.request_stop();
  CHECK(follower.Join().error == std::errc::operation_canceled);
  CHECK(there.GetStats().calls == singleflight::Stats{.executions = 1, .left = 1});
  AwaitBlocked(server, 0);
}

TEST_CASE("redis: every caller that leaves is counted exactly once") {
  constexpr int kRounds = 300;
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  int left = 0;
  for (int i = 0; i < kRounds; ++i) {
    StopSource stop;
    CallOptions options{.stop = stop.get_token()};
    if (i % 2 == 0) options.timeout = 1ms;  // the timeout and the stop race
    test::Caller follower([&] { return there.Do("k", NeverRun, options); });
    Await([&] { return there.GetStats().calls.executions == static_cast<std::uint64_t>(i + 1); });
    if (!options.timeout) AwaitBlocked(server, 1);
    stop.request_stop();
    if (follower.Join().error.has_value()) ++left;
    AwaitBlocked(server, 0);
  }
  CHECK(left == kRounds);
  CHECK(there.GetStats().calls.left == kRounds);
  CHECK(there.GetStats().calls.failures == 0);
}

TEST_CASE("redis: a caller that was stopped before it asks does not run its function") {
  const RedisServer server;
  RedisPages pages(OptionsFor(server));
  StopSource stop;
  stop.request_stop();
  CHECK(ErrorOf([&] { return pages.Do("k", NeverRun, {.stop = stop.get_token()}); }) ==
        std::errc::operation_canceled);
}

TEST_CASE("redis: a caller that leaves while it waits for another process disturbs nobody else") {
  const RedisServer server;
  for (const bool by_stop : {false, true}) {
    RedisPages here(OptionsFor(server)), there(OptionsFor(server));
    RedisLeader leader(here, "k", "v"s);
    StopSource stop;
    test::Caller first([&] {
      const CallOptions options =
          by_stop ? CallOptions{.stop = stop.get_token()} : CallOptions{.timeout = 100ms};
      return there.Do("k", NeverRun, options);
    });
    AwaitBlocked(server, 1);
    std::vector<std::unique_ptr<test::Caller<std::string>>> others;
    for (int i = 0; i < 5; ++i) {
      others.push_back(
          std::make_unique<test::Caller<std::string>>([&] { return there.Do("k", NeverRun); }));
    }
    if (by_stop) {
      AwaitCallers(there, "k", 6);
      stop.request_stop();
    }
    const Outcome<std::string>& outcome = first.Join();
    CHECK(outcome.error == (by_stop ? std::errc::operation_canceled : std::errc::timed_out));
    AwaitCallers(there, "k", 5);  // one of the five now asks the server
    AwaitBlocked(server, 1);
    leader.Finish();
    for (auto& other : others) {
      CHECK(other->Join().value == "v");
      CHECK(other->Join().role == Role::kFollower);
    }
    CHECK(there.GetStats().executions == 0);
    CHECK(there.GetStats().remote == 1);
    CHECK(there.GetStats().calls.failures == 0);
    CHECK(there.GetStats().calls.left == 1);
  }
}

TEST_CASE("redis: followers that ask again keep what is left of their timeout") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  StopSource stop;
  test::Caller first([&] { return there.Do("k", NeverRun, {.stop = stop.get_token()}); });
  AwaitBlocked(server, 1);
  const auto began = std::chrono::steady_clock::now();
  test::Caller second([&] { return there.Do("k", NeverRun, {.timeout = 200ms}); });
  AwaitCallers(there, "k", 2);
  stop.request_stop();
  CHECK(first.Join().error == std::errc::operation_canceled);
  CHECK(second.Join().error == std::errc::timed_out);
  CHECK(std::chrono::steady_clock::now() - began >= 200ms);
  CHECK(there.GetStats().calls.left == 2);
}

TEST_CASE("redis: other processes take over a call that nobody in the leader's process wants") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  StopSource stop;
  RedisLeader leader(
      here, "k",
      [](const redis::Lease& lease) { return lease.stop().stop_requested() ? "stopped"s : ""s; },
      {.stop = stop.get_token()});
  test::Caller follower([&] { return there.Do("k", [] { return "mine"s; }); });
  AwaitBlocked(server, 1);
  stop.request_stop();  // the leader's function keeps running meanwhile
  CHECK(follower.Join().value == "mine");
  CHECK(follower.Join().role == Role::kLeader);
  CHECK(*here.Do("k", [] { return "newcomer's"s; }) == "newcomer's");
  CHECK(leader.Finish().value == "stopped");
  CHECK(there.GetStats().takeovers == 1);
  CHECK(here.GetStats().unpublished == 0);
}

TEST_CASE("redis: a leader that leaves does not stop a call that its process still wants") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
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
  AwaitBlocked(server, 1);
  stop.request_stop();
  leader.Finish();
  CHECK_FALSE(stopped);
  CHECK(same.Join().value == "v");
  CHECK(follower.Join().value == "v");
}

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("redis: others take over at once from a leader whose thread is cancelled") {
  const RedisServer server;
  redis::Options options = OptionsFor(server);
  options.lease = 1h;
  RedisPages here(options), there(options);
  // A leader that is cancelled before its function runs keeps the lease until that expires.
  std::latch leads(1);
  CancellableThread leader([&] {
    static_cast<void>(here.Do("k", [&]() -> std::string {
      leads.count_down();
      for (;;) ::pause();
    }));
  });
  leads.wait();
  test::Caller follower([&] { return there.Do("k", [] { return "mine"s; }); });
  AwaitBlocked(server, 1);
  leader.Cancel();
  CHECK(leader.JoinWasUnwound());
  CHECK(follower.Join().value == "mine");
}
#endif

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("redis: a thread that is cancelled while it waits for another process is unwound") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  CancellableThread follower([&] { static_cast<void>(there.Do("k", NeverRun)); });
  AwaitBlocked(server, 1);
  follower.Cancel();
  CHECK(follower.JoinWasUnwound());
  CHECK(there.Callers("k") == 0);
  test::Caller another([&] { return there.Do("k", NeverRun); });
  AwaitBlocked(server, 1);
  leader.Finish();
  CHECK(another.Join().value == "v");
}
#endif

TEST_CASE("redis: a child that was forked in a function does not publish for its parent") {
  const RedisServer server;
  RedisPages pages(OptionsFor(server));
  pid_t child = -1;
  int status = -1;
  std::optional<std::string> lease;
  const auto result = pages.Do("k", [&] {
    child = ::fork();
    if (child == 0) return "child's"s;
    ::waitpid(child, &status, 0);
    lease = server.Get(LeaseName("t", "k"));
    return "parent's"s;
  });
  if (child == 0) ::_exit(*result == "child's" ? 0 : 1);
  CHECK(status == 0);
  CHECK(lease.has_value());
  CHECK(*result == "parent's");
  CHECK(pages.GetStats().unpublished == 0);
}

TEST_CASE(
    "redis: a caller that is stopped while the server hangs leaves once the outage is noticed") {
  RedisServer server;
  redis::Options options = OptionsFor(server);
  options.command_timeout = 100ms;
  RedisPages pages(options);
  StopSource stop;
  server.Stop();
  test::Caller caller([&] { return pages.Do("k", NeverRun, {.stop = stop.get_token()}); });
  AwaitCallers(pages, "k", 1);
  stop.request_stop();
  CHECK(caller.Join().error == std::errc::operation_canceled);
  server.Continue();
}

TEST_CASE("redis: a follower whose XREAD the server aborts asks again") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitBlocked(server, 1);
  const std::string clients = server.Ask("CLIENT", "LIST").text;
  const std::size_t blocked = clients.rfind("id=", clients.find("cmd=xread"));
  const std::string id = clients.substr(blocked + 3, clients.find(' ', blocked) - blocked - 3);
  REQUIRE(server.Ask("CLIENT", "UNBLOCK", id, "ERROR").number == 1);  // as in a demotion
  const auto reads = [&] { return server.Ask("INFO", "commandstats").text.find("xread:calls=2"); };
  Await([&] { return reads() != std::string::npos; });
  leader.Finish();
  CHECK(follower.Join().value == "v");
  CHECK(there.GetStats().outages == 0);
}

TEST_CASE("redis: leases that cannot be renewed do not prevent the renewal of others") {
  const RedisServer server;
  redis::Options options = OptionsFor(server);
  options.lease = 2s;
  RedisPages pages(options);
  std::vector<std::unique_ptr<RedisLeader<>>> replaced;
  for (const char key : {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}) {
    const std::string name(1, key);
    replaced.push_back(std::make_unique<RedisLeader<>>(pages, name, "v"s));
    server.Ask("DEL", LeaseName("t", name));
    server.Ask("LPUSH", LeaseName("t", name), "not a lease");
  }
  static_cast<void>(pages.Do("k", [&] {
    const std::string name = LeaseName("t", "k");
    for (int renewals = 0; renewals < 2; ++renewals) {
      long long left = server.Ask("PTTL", name).number;
      Await([&] {
        const long long before = std::exchange(left, server.Ask("PTTL", name).number);
        return left > before || left < 0;  // negative: the lease is lost
      });
    }
    return ""s;
  }));
  CHECK(pages.GetStats().unpublished == 0);
}

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("redis: a thread that is cancelled while a connection breaks is unwound") {
  const redis::detail::DisableCancellation off;  // protects this thread, not the other one
  CancellableThread thread([] {
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    {
      const redis::detail::BlockSigPipe guard;
      ::pthread_kill(::pthread_self(), SIGPIPE);
      ::pthread_cancel(::pthread_self());
    }
    ::pthread_testcancel();
  });
  CHECK(thread.JoinWasUnwound());
}
#endif

TEST_CASE(
    "redis: a connection that the server has closed costs no caller anything, and raises no "
    "signal") {
  RedisServer server;
  RedisPages pages(OptionsFor(server));
  static_cast<void>(pages.Do("k", [] { return ""s; }));
  server.Restart();
  const auto before = ::signal(SIGPIPE, SIG_DFL);
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  ::signal(SIGPIPE, before);
  CHECK(pages.GetStats().outages == 0);
}

TEST_CASE("redis: a SIGPIPE that was pending before stays pending") {
  const redis::detail::DisableCancellation off;
  sigset_t pipe, pending, mask;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  REQUIRE(::pthread_sigmask(SIG_BLOCK, &pipe, &mask) == 0);
  const auto handler = ::signal(SIGPIPE, SIG_DFL);
  const auto is_pending = [&] {
    return ::sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE);
  };
  {
    const redis::detail::BlockSigPipe guard;
    ::raise(SIGPIPE);
  }
  CHECK_FALSE(is_pending());
  ::raise(SIGPIPE);
  {
    const redis::detail::BlockSigPipe guard;
    ::raise(SIGPIPE);
  }
  CHECK(is_pending());
  ::signal(SIGPIPE, SIG_IGN);  // discards the pending one
  ::signal(SIGPIPE, handler);
  ::pthread_sigmask(SIG_SETMASK, &mask, nullptr);
}

TEST_CASE("redis: connections are kept open, but no more than the options ask for") {
  const RedisServer server;
  redis::Options keeps_two = OptionsFor(server), keeps_none = OptionsFor(server);
  keeps_two.max_idle_connections = 2;
  keeps_none.max_idle_connections = 0;
  RedisPages here(keeps_two), there(keeps_none);
  {
    std::vector<std::unique_ptr<RedisLeader<>>> leaders;
    std::vector<std::unique_ptr<test::Caller<std::string>>> followers;
    for (const char key : {'a', 'b', 'c', 'd', 'e'}) {
      leaders.push_back(std::make_unique<RedisLeader<>>(there, std::string(1, key), "v"s));
      followers.push_back(std::make_unique<test::Caller<std::string>>(
          [&here, key] { return here.Do(std::string(1, key), NeverRun); }));
    }
    AwaitBlocked(server, 5);
    for (auto& leader : leaders) leader->Finish();
  }
  Await([&] { return server.Info("connected_clients") == 3; });  // two idle ones and this one
  const long long received = server.Info("total_connections_received");
  CHECK(*here.Do("k", [] { return "v"s; }) == "v");
  CHECK(server.Info("total_connections_received") == received + 1);
}
