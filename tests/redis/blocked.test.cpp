// SPDX-License-Identifier: MIT

// Promise 18: nothing that a server or a network does blocks a caller of a redis::Group beyond its
// own timeout and stop.
//
// A bound on time is only true of a machine that is not busy. So each test takes the best of
// several rounds, and compares it with the same wait for a condition variable.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <singleflight/redis.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "fake_names.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kTimeout = 30ms;
constexpr auto kPromptly = 10ms;

// A server that accepts connections, as far as the kernel does that for it, and never answers.
class SilentServer {
 public:
  SilentServer() {
    if (::listen(listener_, 100) != 0) throw std::system_error(errno, std::generic_category());
    sockaddr_in address{};
    socklen_t size = sizeof(address);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  ~SilentServer() { ::close(listener_); }
  int Port() const { return port_; }

 private:
  const int listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int port_ = 0;
};

// Returns how much longer than kTimeout a caller with that timeout took, at best.
Clock::duration BestOverrun(const std::function<void()>& wait) {
  Clock::duration best = Clock::duration::max();
  for (int round = 0; round < 10; ++round) {
    const auto began = Clock::now();
    wait();
    best = std::min(best, Clock::now() - began - kTimeout);
  }
  return best;
}
Clock::duration OverrunOfCondition() {
  return BestOverrun([] {
    std::mutex mutex;
    std::condition_variable never;
    std::unique_lock lock(mutex);
    never.wait_for(lock, kTimeout);
  });
}

// Checks that a caller leaves by its timeout, and by its stop, while `pages` gets no answer.
void CheckLeavesPromptly(redis::Group<std::string>& pages) {
  const std::uint64_t executions = pages.GetStats().executions;
  int timed_out = 0;
  const auto ask = [&] {
    timed_out += ErrorOf([&] { return pages.Do("k", NeverRun, {.timeout = kTimeout}); }) ==
                         std::errc::timed_out
                     ? 1
                     : 0;
  };
  const Clock::duration overrun = BestOverrun(ask);
  CHECK(timed_out == 10);
  CHECK(overrun >= 0ms);
  CHECK(overrun < OverrunOfCondition() + kPromptly);

  Clock::duration best = Clock::duration::max();
  for (int round = 0; round < 10; ++round) {
    StopSource stop;
    test::Caller caller([&] { return pages.Do("k", NeverRun, {.stop = stop.get_token()}); });
    AwaitCallers(pages, "k", 1);
    const auto began = Clock::now();
    stop.request_stop();
    CHECK(caller.Join().error == std::errc::operation_canceled);
    best = std::min(best, Clock::now() - began);
  }
  CHECK(best < kPromptly);
  CHECK(pages.GetStats().calls.left == 20);
  CHECK(pages.GetStats().executions == executions);
}

// These timeouts are far longer than any caller's.
redis::ClientOptions LongTimeouts(redis::ClientOptions options) {
  options.connect_timeout = options.command_timeout = 1h;
  return options;
}

}  // namespace

TEST_CASE("Promise 18: a caller leaves at once while its server is suspended") {
  RedisServer server({.tcp = true});
  for (const bool over_tcp : {false, true}) {
    redis::ClientOptions options;
    if (over_tcp) options.port = server.Port();
    RedisPages pages(LongTimeouts(over_tcp ? options : ClientOptionsFor(server)));
    if (over_tcp) CHECK(*pages.Do("other", [] { return "v"s; }) == "v");  // it is connected
    server.Stop();
    CheckLeavesPromptly(pages);
    server.Continue();
    CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  }
}

TEST_CASE("Promise 18: a caller leaves at once while a connection is half open") {
  const SilentServer server;
  redis::ClientOptions options;
  options.port = server.Port();
  options.connect_timeout = options.command_timeout = 1h;
  RedisPages pages(options);
  CheckLeavesPromptly(pages);
}

TEST_CASE("Promise 18: a caller leaves at once while no packet is answered") {
  redis::ClientOptions options;
  options.host = "192.0.2.1";  // TEST-NET-1: no such host. Some networks say so at once
  options.connect_timeout = options.command_timeout = 1h;
  RedisPages pages(options, {.on_outage = redis::OnOutage::kFail});
  const auto began = Clock::now();
  const auto error = ErrorOf([&] { return pages.Do("k", NeverRun, {.timeout = kTimeout}); });
  CHECK((error == std::errc::timed_out || error == std::errc::not_connected));
  CHECK(Clock::now() - began < kTimeout + 1s);
}

TEST_CASE("Promise 18: a caller leaves at once while its server's name is looked up") {
  FakeNames names;
  std::optional<NamedProcess> process(std::in_place, names, 1h);
  CheckLeavesPromptly(process->pages);
  CHECK(names.Asked() == 1);
  const auto began = Clock::now();
  CHECK_FALSE(process->pages.Forget("k"));
  process.reset();
  CHECK(Clock::now() - began < 1s);  // nor do Forget and the destructors wait for the look-up
  names.FailWith("too late");
}

TEST_CASE("Promise 18: a caller that follows leaves at once when its server is suspended") {
  RedisServer server;
  RedisPages here(LongTimeouts(ClientOptionsFor(server))),
      there(LongTimeouts(ClientOptionsFor(server)));
  RedisLeader leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun, {.timeout = 300ms}); });
  AwaitFollowers(server, "k", 1);
  server.Stop();
  const auto began = Clock::now();
  CHECK(follower.Join().error == std::errc::timed_out);
  CHECK(Clock::now() - began < 1s);
  CHECK(leader.Finish().value == "v");  // it does not wait for publishing
  CHECK(Clock::now() - began < 2s);
  server.Continue();
}

TEST_CASE("Promise 18: neither Forget nor a leader waits for a server that is suspended") {
  RedisServer server;
  RedisPages pages(LongTimeouts(ClientOptionsFor(server)));
  RedisLeader leader(pages, "k", "v"s);
  server.Stop();
  const auto began = Clock::now();
  CHECK(pages.Forget("k"));
  CHECK_FALSE(pages.Forget("other"));
  CHECK(leader.Finish().value == "v");
  CHECK(Clock::now() - began < 1s);
  server.Continue();
}

TEST_CASE("Promise 18: a slow function of one call delays no caller of another one") {
  const RedisServer server;
  RedisPages pages(server);
  std::vector<std::unique_ptr<RedisLeader<>>> slow;
  for (int i = 0; i < 20; ++i) {
    slow.push_back(std::make_unique<RedisLeader<>>(pages, "slow" + std::to_string(i), "v"s));
  }
  CHECK(*pages.Do("quick", [] { return "v"s; }) == "v");
}
