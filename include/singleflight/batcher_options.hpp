// SPDX-License-Identifier: MIT
#pragma once

// BatcherOptions: when a Batcher runs its function. BatcherStats: what it has done.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "detail/require_cxx20.hpp"

namespace singleflight {

// A time that a batch may wait: any std::chrono::duration converts to it. Zero or less is no time.
// What nanoseconds cannot represent (292 years) is the same as no limit.
class BatchDelay {
 public:
  constexpr BatchDelay() noexcept = default;  // no limit

  template <class Rep, class Period>
  // NOLINTNEXTLINE(google-explicit-constructor): for {.max_delay = 2ms}
  constexpr BatchDelay(std::chrono::duration<Rep, Period> delay) {
    using Nanoseconds = std::chrono::nanoseconds;
    const auto exact = std::chrono::duration<long double, std::nano>(delay).count();
    if (!(exact > 0)) {
      nanoseconds_ = Nanoseconds::zero();  // also for a NaN
    } else if (exact < static_cast<long double>(Nanoseconds::max().count())) {
      nanoseconds_ = Nanoseconds(static_cast<Nanoseconds::rep>(exact));
    }
  }

  constexpr std::optional<std::chrono::nanoseconds> Get() const noexcept { return nanoseconds_; }

 private:
  std::optional<std::chrono::nanoseconds> nanoseconds_;
};

// A batch runs as soon as one of these is true: it has `max_keys` keys, `max_delay` has passed, or
// Flush was called. It takes more keys until `fn` is called.
struct BatcherOptions {
  static constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

  // The most keys that `fn` is called with.
  std::size_t max_keys = kNoLimit;
  // How long the first key of a batch waits for others. With zero, it waits only until the executor
  // calls the task. Without a limit, nothing but Flush and `max_keys` runs a batch.
  BatchDelay max_delay = {};
};

// Exact counts since the Batcher was constructed.
struct BatcherStats {
  std::uint64_t batches = 0;  // calls of `fn`
  std::uint64_t keys = 0;     // keys that `fn` was called with
  std::uint64_t dropped = 0;  // keys that were not loaded, because their last caller had left
  std::uint64_t waiting = 0;  // keys whose batch has not begun to run

  bool operator==(const BatcherStats&) const = default;
};

}  // namespace singleflight
