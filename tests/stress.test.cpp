// SPDX-License-Identifier: MIT

// All operations at once, from many threads, on few keys: exact sums, and nobody hangs.

#include <atomic>
#include <random>

#include "catch.hpp"
#include "support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::OnFailure;

TEST_CASE("Under a mix of everything each caller gets one outcome, and the counters add up") {
  constexpr int kThreads = 8;
  constexpr int kRounds = 3000;
  constexpr int kKeys = 3;
  Group<int, std::string> group({.max_callers_per_call = 6, .max_calls_in_flight = 12});

  std::atomic<std::uint64_t> runs = 0;
  std::atomic<std::uint64_t> failed_runs = 0;
  std::atomic<std::uint64_t> values = 0;
  std::atomic<std::uint64_t> failures = 0;
  std::atomic<std::uint64_t> timeouts = 0;
  std::atomic<std::uint64_t> stops = 0;
  std::atomic<std::uint64_t> refusals = 0;
  std::atomic<std::uint64_t> wrong = 0;

  std::vector<std::jthread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand random(t + 1);
      for (int i = 0; i < kRounds; ++i) {
        const int key = static_cast<int>(random() % kKeys);
        const auto fn = [&, fails = random() % 8 == 0, spins = random() % 200] {
          ++runs;
          for (unsigned s = 0; s < spins; ++s) std::this_thread::yield();
          if (fails) {
            ++failed_runs;
            throw std::runtime_error(std::to_string(key));
          }
          return std::to_string(key);
        };
        std::stop_source stop;
        std::jthread stopper;
        singleflight::CallOptions options;
        switch (random() % 8) {
          case 0:
            options.timeout = std::chrono::microseconds(random() % 100);
            break;
          case 1:
            options.on_failure = OnFailure::kRetry;
            break;
          case 2:
            options.stop = stop.get_token();
            stopper = std::jthread([&stop] { stop.request_stop(); });
            break;
          case 3:
            group.Forget(key);
            break;
          case 4:
            group.ForgetUnshared(key);
            break;
          default:
            break;
        }
        try {
          if (*group.Do(key, fn, options) != std::to_string(key)) ++wrong;
          ++values;
        } catch (const std::system_error& error) {
          if (error.code() == std::errc::timed_out) {
            ++timeouts;
          } else if (error.code() == std::errc::operation_canceled) {
            ++stops;
          } else if (error.code() == std::errc::resource_unavailable_try_again) {
            ++refusals;
          } else {
            ++wrong;
          }
        } catch (const std::runtime_error& error) {
          if (error.what() != std::to_string(key)) ++wrong;
          ++failures;
        }
      }
    });
  }
  threads.clear();

  CHECK(wrong == 0);
  CHECK(values + failures + timeouts + stops + refusals == kThreads * kRounds);
  const auto stats = group.GetStats();
  CHECK(stats.executions == runs);
  CHECK(stats.failures == failed_runs);
  CHECK(stats.refused == refusals);
  CHECK(stats.left >= timeouts);
  CHECK(stats.in_flight == 0);
  for (int key = 0; key < kKeys; ++key) CHECK(group.Callers(key) == 0);
}
