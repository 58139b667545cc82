// SPDX-License-Identifier: MIT
#pragma once

// Limits: how many callers and calls a group may have, whether it is closed, and how old a call may
// be. A group without limits counts nothing here.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <stdexcept>

#include "../options.hpp"

namespace singleflight::detail {

class Limits {
 public:
  // Errors: throws std::invalid_argument if a limit is zero, or max_age is not positive.
  explicit Limits(const GroupOptions& options)
      : options_(options),
        special_(options.HasLimits() ? kLimited : 0),
        stamps_calls_(options.timed || options.max_age) {
    const auto check = [](bool holds, const char* otherwise) {
      if (!holds) throw std::invalid_argument(otherwise);
    };
    check(options.max_callers_per_call != 0,
          "singleflight: max_callers_per_call is 0: nobody can be served");
    check(options.max_callers != 0, "singleflight: max_callers is 0: nobody can be served");
    check(options.max_calls_in_flight != 0,
          "singleflight: max_calls_in_flight is 0: nobody can be served");
    check(!options.max_age || options.max_age->count() > 0,
          "singleflight: max_age is not positive: nothing can be shared");
  }

  // Whether anything is limited, or closed: read before the details, under a shard's mutex.
  [[gnu::always_inline]] bool Any() const noexcept { return special_.load(kRelaxed) != 0; }
  bool IsClosed() const noexcept { return (special_.load(kRelaxed) & kClosed) != 0; }
  void Close() noexcept { special_.fetch_or(kClosed, kRelaxed); }

  std::size_t CallersPerCall() const noexcept { return options_.max_callers_per_call; }

  // False: the limit is reached.
  bool AddCaller() noexcept { return Reserve(callers_, options_.max_callers); }
  bool AddCall() noexcept { return Reserve(in_flight_, options_.max_calls_in_flight); }
  void RemoveCallers(std::size_t count) noexcept { Release(callers_, count, options_.max_callers); }
  void RemoveCall() noexcept { Release(in_flight_, 1, options_.max_calls_in_flight); }

  // Whether calls are stamped with when they began.
  bool StampsCalls() const noexcept { return stamps_calls_; }
  bool TooOld(std::chrono::nanoseconds::rep started) const {
    return options_.max_age && Now() - started > options_.max_age->count();
  }
  static std::chrono::nanoseconds::rep Now() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;  // for counters and flags only
  static constexpr unsigned char kLimited = 1;
  static constexpr unsigned char kClosed = 2;

  // Adds to a counter, unless that would exceed the limit. There is no count without a limit.
  static bool Reserve(std::atomic<std::size_t>& counter, std::size_t limit) noexcept {
    if (limit == GroupOptions::kNoLimit) return true;
    std::size_t count = counter.load(kRelaxed);
    do {
      if (count >= limit) return false;
    } while (!counter.compare_exchange_weak(count, count + 1, kRelaxed));
    return true;
  }
  static void Release(std::atomic<std::size_t>& counter, std::size_t fewer,
                      std::size_t limit) noexcept {
    if (limit != GroupOptions::kNoLimit) counter.fetch_sub(fewer, kRelaxed);
  }

  const GroupOptions options_;
  std::atomic<unsigned char> special_;  // kLimited, kClosed, or both
  const bool stamps_calls_;
  std::atomic<std::size_t> in_flight_ = 0;
  std::atomic<std::size_t> callers_ = 0;
};

}  // namespace singleflight::detail
