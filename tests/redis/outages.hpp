// SPDX-License-Identifier: MIT
#pragma once

// These helpers are for tests in which something is wrong between a redis::Group and its server.

#include <array>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <singleflight/redis.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "processes.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace test {

inline constexpr std::array kOutagePolicies = {singleflight::redis::OnOutage::kRunLocally,
                                               singleflight::redis::OnOutage::kFail};

// Returns options with timeouts that never pass. Each caller tries the server.
inline singleflight::redis::Options LongTimeouts(
    const std::string& socket,
    singleflight::redis::OnOutage policy = singleflight::redis::OnOutage::kRunLocally) {
  return {.unix_socket = socket,
          .lease = 1h,
          .linger = 1h,
          .connect_timeout = 1h,
          .command_timeout = 1h,
          .retry_after = 0ms,
          .on_outage = policy};
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
inline std::string LeaseOf(std::string_view key) {
  return LeaseName("singleflight", std::string(key));
}

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
