// SPDX-License-Identifier: MIT

// Tests what a forked child may do with a group or a cache of its parent: it hangs nowhere, however
// many mutexes the parent's other threads had at that moment.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <memory>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/redis.hpp>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "caches.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

// Runs `fn` in a forked child, and returns how that exited.
int StatusOfChild(const std::function<int()>& fn) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGABRT, SIG_DFL);  // not Catch2's
    ::alarm(10);                 // a child that hangs is killed
    ::_exit(fn());
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

// Runs `ask`, and returns true if that is refused.
bool IsRefused(const std::function<void()>& ask) {
  try {
    ask();
  } catch (const std::system_error& error) {
    return error.code() == std::errc::operation_not_permitted;
  }
  return false;
}

// Returns the number of the first that is not refused, counted from 1, or 0.
int FirstNotRefused(const std::vector<std::function<void()>>& asks) {
  int number = 1;
  for (const auto& ask : asks) {
    if (!IsRefused(ask)) return number;
    ++number;
  }
  return 0;
}

// While it lives, a thread does this again and again.
class Busy {
 public:
  explicit Busy(std::function<void()> fn)
      : thread_([this, fn = std::move(fn)] {
          while (!stopped_) fn();
        }) {}
  ~Busy() { stopped_ = true; }

 private:
  std::atomic<bool> stopped_ = false;
  JoiningThread thread_;
};

constexpr int kChildren = 300;

}  // namespace

TEST_CASE("redis: a forked child destroys its group whatever the parent's threads were doing") {
  const RedisServer server;
  redis::Client client(ClientOptionsFor(server));
  auto pages = std::make_unique<redis::Group<std::string>>(client, "t");
  CHECK(*pages->Do("k", [] { return "v"s; }) == "v");
  const Busy one([&] { const redis::Group<std::string> other(client, "other"); });
  const Busy two([&] { const redis::Group<std::string> other(client, "other"); });
  for (int i = 0; i < kChildren; ++i) {
    const int status = StatusOfChild([&] {
      pages = nullptr;
      const redis::Group<std::string> other(client, "other");
      return 0;
    });
    REQUIRE(status == 0);
  }
}

TEST_CASE("redis: a forked child may look at its group and learns of nothing") {
  const RedisServer server;
  RedisPages pages(server, {.group = {.timed = true}});
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  const Busy leading([&] { static_cast<void>(pages.Do("k", [] { return "v"s; })); });
  const Busy looking([&] { static_cast<void>(pages.Inspect()); });
  const Busy noting([&] { static_cast<void>(pages.LastOutage()); });
  const Busy counting([&] { static_cast<void>(pages.Callers("k") + pages.GetStats().executions); });
  for (int i = 0; i < kChildren; ++i) {
    const int status = StatusOfChild([&] {
      pages.Close();
      const bool is_right = pages.Inspect().empty() && pages.LastOutage().empty() &&
                            pages.Callers("k") == 0 && pages.GetStats().calls.in_flight == 0 &&
                            pages.GetStats().executions > 0;
      return is_right ? 0 : 1;
    });
    REQUIRE(status == 0);
  }
}

TEST_CASE("redis: whatever asks is refused in a forked child") {
  const RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  const auto fn = [] { return "child's"s; };
  CHECK(StatusOfChild([&] {
          return FirstNotRefused({[&] { static_cast<void>(pages.Do("k", fn)); },
                                  [&] { static_cast<void>(DoAsync(pages, "k", fn)); },
                                  [&] { pages.Forget("k"); }, [&] { pages.Cancel("k"); },
                                  [&] { static_cast<void>(pages.InspectFleet()); },
                                  [&] { pages.InspectFleetThen([](const auto&) {}); }});
        }) == 0);
  CHECK(*pages.Do("k", [] { return "w"s; }) == "w");
}

TEST_CASE("redis::ReadThrough: whatever asks is refused in a forked child even for a local hit") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.local_ttl = 1h;
  CachePages pages(server, options);
  AwaitListening(pages);
  PutAndHear(pages, "k", "v"s);
  CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(*pages.Get("k", NeverRun) == "v");
  REQUIRE(pages.GetStats().local_hits == 1);
  const auto ignore = [](const auto&) {};
  const Busy hitting([&] { static_cast<void>(pages.Get("k", NeverRun)); });
  const Busy peeking([&] { static_cast<void>(pages.Peek("k")); });
  for (int i = 0; i < kChildren; ++i) {
    const int status = StatusOfChild([&] {
      if (pages.GetStats().loads != 0 || !pages.Inspect().empty()) return 100;
      return FirstNotRefused({[&] { static_cast<void>(pages.Get("k", NeverRun)); },
                              [&] { static_cast<void>(pages.Get("none", NeverRun)); },
                              [&] { static_cast<void>(DoAsync(pages, "k", NeverRun)); },
                              [&] { static_cast<void>(pages.Peek("k")); },
                              [&] { pages.PeekThen("k", ignore); }, [&] { pages.Put("k", "c"s); },
                              [&] { pages.PutThen("k", "c"s, ignore); },
                              [&] { pages.Invalidate("k"); }, [&] { pages.InvalidateAll(); },
                              [&] { pages.InvalidateAllThen(ignore); }, [&] { pages.Cancel("k"); },
                              [&] { static_cast<void>(pages.InspectFleet()); }});
    });
    REQUIRE(status == 0);
  }
}

TEST_CASE("redis::ReadThrough: a forked child destroys a cache of its parent") {
  const RedisServer server;
  redis::Client client(ClientOptionsFor(server));
  PageOptions options = LongTtl();
  options.local_ttl = 1h;
  auto pages = std::make_unique<redis::ReadThrough<std::string>>(client, "c", options);
  CHECK(*pages->Get("k", [] { return "v"s; }) == "v");
  const Busy peeking([&, same = pages.get()] { static_cast<void>(same->Peek("k")); });
  for (int i = 0; i < kChildren; ++i) {
    const int status = StatusOfChild([&] {
      pages = nullptr;
      return 0;
    });
    REQUIRE(status == 0);
  }
}
