// SPDX-License-Identifier: MIT
#pragma once

// These helpers are for tests in which something is wrong between a redis::Group and its server.

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <singleflight/redis.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "processes.hpp"
#include "proxy.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace test {

inline constexpr std::array kOutagePolicies = {singleflight::redis::OnOutage::kRunLocally,
                                               singleflight::redis::OnOutage::kFail};

using singleflight::redis::NodeState;

inline constexpr const char* kPrefix = "t";

// Returns options with timeouts that never pass.
inline singleflight::redis::ClientOptions LongTimeouts(const std::string& socket) {
  singleflight::redis::ClientOptions options;
  options.unix_socket = socket;
  options.connect_timeout = options.command_timeout = 1min;
  return options;
}
// Returns options with timeouts that pass soon, for tests in which they should.
inline singleflight::redis::ClientOptions ShortTimeouts(const std::string& socket) {
  singleflight::redis::ClientOptions options = LongTimeouts(socket);
  options.connect_timeout = options.command_timeout = 100ms;
  return options;
}

// Returns options with a lease that outlasts any test. What waits for it hangs.
inline singleflight::redis::Options LongLease(
    singleflight::redis::OnOutage policy = singleflight::redis::OnOutage::kRunLocally) {
  singleflight::redis::Options options;
  options.lease = options.linger = 1h;
  options.on_outage = policy;
  return options;
}
inline singleflight::redis::Options WithLease(
    std::chrono::milliseconds lease,
    singleflight::redis::OnOutage policy = singleflight::redis::OnOutage::kRunLocally) {
  singleflight::redis::Options options;
  options.lease = lease;
  options.on_outage = policy;
  return options;
}

// Returns when a server has answered all that a process had to ask of it before.
inline void AwaitAnswers(RedisPages& pages) {
  auto& core = singleflight::redis::detail::ClientAccess::Core(pages.GetClient());
  std::promise<void> answered;
  core.Loop().Post([&] {
    const std::array<std::string_view, 1> ping = {"PING"};
    core.Commands().Run(std::nullopt, ping, [&](const auto&) { answered.set_value(); });
  });
  answered.get_future().wait();
}

// Returns once nothing keeps a process's messages from arriving, so that it asks once for each key.
// It has no answer to come then. Costs two executions.
inline void AwaitSubscribed(const RedisServer& server, RedisPages& pages) {
  static std::atomic<int> calls = 0;
  const std::string key = "subscribes " + std::to_string(++calls);
  static_cast<void>(pages.Do(key, [&] {
    const std::string inbox = LeaseField(server, key, "inbox", kPrefix);
    Await([&] { return server.Ask("PUBSUB", "NUMSUB", inbox).elements.at(1).number == 1; });
    return std::string();
  }));
  static_cast<void>(pages.Do(key, [] { return std::string(); }));  // its loop has heard of that
  Await([&] { return server.Keys(std::string(kPrefix) + ":{" + key + "}:*").empty(); });
  AwaitAnswers(pages);
}

inline std::chrono::milliseconds Since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                               begin);
}

// Returns once a process has published all outcomes, or has given up.
inline void AwaitPublished(RedisPages& pages) {
  singleflight::redis::detail::ClientAccess::FleetOf(pages.GetClient()).AwaitPublishing(1min);
}

// Asks `pages` for `key` with a function that returns `value`, and returns the outcome.
inline Outcome<std::string> AskFor(RedisPages& pages, std::string_view key,
                                   const std::string& value = "own") {
  return Keep([&] { return pages.Do(key, [&] { return value; }); });
}

// Checks that a caller whose function returns "own" met an outage and got what `policy` says.
inline void CheckOutage(const Outcome<std::string>& outcome, singleflight::redis::OnOutage policy,
                        std::errc error) {
  if (policy == singleflight::redis::OnOutage::kRunLocally) {
    CHECK(outcome.value == "own");
    CHECK((outcome.error == std::nullopt));
    CHECK(outcome.role == singleflight::Role::kLeader);
  } else {
    CHECK(outcome.value == std::nullopt);
    CHECK((outcome.error == error));
  }
}

// Returns the name of a key's lease, with the prefix that all these tests use.
inline std::string LeaseOf(std::string_view key) { return LeaseName(kPrefix, std::string(key)); }

// Calls `end_it`, so that the test stops waiting, after far more time than the library may take.
class Watchdog {
 public:
  explicit Watchdog(std::function<void()> end_it)
      : thread_([this, end_it = std::move(end_it)] {
          std::unique_lock lock(mutex_);
          if (changed_.wait_for(lock, 30s, [this] { return stopped_; })) return;
          hung_ = true;
          end_it();
        }) {}
  ~Watchdog() { Stop(); }

  // Stops watching, and returns whether `end_it` was called.
  bool Hung() {
    Stop();
    return hung_;
  }

 private:
  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;  // guarded by mutex_
  bool hung_ = false;     // read only after the thread has been joined
  JoiningThread thread_;
};

}  // namespace test
