// SPDX-License-Identifier: MIT
#pragma once

// TimesView: a LatencyHistogram as it is exported, with fewer buckets.

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "../../latency_histogram.hpp"

namespace singleflight::detail {

// Lifetime: refers to `times`, in which nothing may be recorded meanwhile. So view a copy.
class TimesView {
  static constexpr std::uint64_t kHalf = std::uint64_t{1} << 63;

 public:
  explicit TimesView(const LatencyHistogram& times) noexcept
      : times_(times), sum_(static_cast<std::uint64_t>(times.Sum().count())) {
    // A copy that is made while others record has its sum from another moment than its counts.
    // This brings the sum to where the counts allow it to be. All is modulo 2^64, as the sum is.
    std::uint64_t least = 0, room = 0;
    for (std::size_t i = 0; i < LatencyHistogram::kBuckets; ++i) {
      const std::uint64_t count = times.CountIn(i);
      const std::uint64_t width =
          i + 1 < LatencyHistogram::kBuckets ? Begin(i + 1) - Begin(i) : kHalf;
      count_ += count;
      least += count * Begin(i);
      room = count <= (kHalf - room) / width ? room + count * width : kHalf;
    }
    if (room < kHalf) sum_ = Nearest(sum_, least, room);
  }

  // Returns what is nearest to `sum` from `least` to `least + room`, modulo 2^64. The room is less
  // than 2^63.
  static constexpr std::uint64_t Nearest(std::uint64_t sum, std::uint64_t least,
                                         std::uint64_t room) noexcept {
    const std::uint64_t above = sum - least;
    if (above <= room) return sum;
    return above > kHalf ? least : least + room;
  }

  std::uint64_t Count() const noexcept { return count_; }
  std::uint64_t SumInNanoseconds() const noexcept { return sum_; }
  std::uint64_t QuantileInNanoseconds(double part) const noexcept {
    return static_cast<std::uint64_t>(times_.Quantile(part).count());
  }

  // Calls visit(longest, count) for each power of two from 2^first to 2^last, with the longest time
  // in nanoseconds that is below it, and how many took no longer than that. At each such power a
  // bucket of the histogram begins, too. So the counts are exact.
  template <class Visit>
  void ForEachBorder(int first, int last, Visit&& visit) const {
    std::uint64_t count = 0;
    std::size_t i = 0;
    for (int power = first; power <= last; ++power) {
      const std::uint64_t border = std::uint64_t{1} << power;
      for (; Begin(i) < border; ++i) count += times_.CountIn(i);
      visit(border - 1, count);
    }
  }

 private:
  static constexpr std::uint64_t Begin(std::size_t bucket) noexcept {
    return static_cast<std::uint64_t>(LatencyHistogram::BeginOf(bucket).count());
  }

  const LatencyHistogram& times_;
  std::uint64_t count_ = 0;
  std::uint64_t sum_;  // modulo 2^64
};

}  // namespace singleflight::detail
