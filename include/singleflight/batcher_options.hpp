// SPDX-License-Identifier: MIT
#pragma once

// BatcherOptions: when a Batcher runs its function. BatcherStats: what it has done.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "detail/requirements.hpp"
#include "timeout.hpp"

namespace singleflight {

// A batch runs as soon as one of these is true: it has `max_keys` keys, `max_delay` has passed, or
// Flush was called. It takes more keys until `fn` is called.
struct BatcherOptions {
  static constexpr std::size_t kNoLimit = (std::numeric_limits<std::size_t>::max)();

  // The most keys that `fn` is called with.
  std::size_t max_keys = kNoLimit;
  // How long the first key of a batch waits for others. With zero, it waits only until the executor
  // calls the task. Without a limit, nothing but Flush and `max_keys` runs a batch.
  std::optional<Duration> max_delay = {};
  // The most threads that the Batcher has of its own. Without an executor, this is how many batches
  // run at the same time. The batches that wait for a thread take more keys meanwhile.
  std::size_t max_threads = kNoLimit;
};

// Exact counts since the Batcher was constructed.
struct BatcherStats {
  std::uint64_t batches = 0;  // calls of `fn`
  std::uint64_t keys = 0;     // keys that `fn` was called with
  std::uint64_t dropped = 0;  // keys that were not loaded, because nobody waited for them any more
  std::uint64_t waiting = 0;  // keys whose batch has not begun to run

  bool operator==(const BatcherStats&) const = default;
};

template <class Visitor>
void ForEachStat(const BatcherStats& stats, Visitor&& visit) {
  visit.Counter("batcher_batches", "Batches that were run.", stats.batches);
  visit.Counter("batcher_keys", "Keys in the batches that were run.", stats.keys);
  visit.Counter("batcher_dropped",
                "Keys that were not loaded because nobody waited for them any more.",
                stats.dropped);
  visit.Gauge("batcher_waiting", "Keys whose batch has not begun to run.", stats.waiting);
}

}  // namespace singleflight
