// SPDX-License-Identifier: MIT
#pragma once

// LatencyHistogram: counts how long things took. Not a time series: it never forgets.
//
//   singleflight::LatencyHistogram times;
//   times.Record(finished - started);
//   std::cout << times.Count() << " took " << times.Quantile(0.99) << " or less, but for 1 %\n";
//
// Its buckets are fixed, each a sixteenth of its octave wide. So what is read differs from what was
// recorded by less than 4 %, and histograms of different objects, or processes, can be added. What
// took more than 4.6 hours is read as 4.8.
//
// Cost: two relaxed additions for each record, no lock, no allocation, and 5 KiB.

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "timeout.hpp"

namespace singleflight {

// Thread: every member may be called on any thread at any time, except assignment and the
//   destructor. A copy that is made meanwhile may lack what is being recorded.
class LatencyHistogram {
  static constexpr auto kRelaxed = std::memory_order_relaxed;  // these are only counters
  static constexpr int kSplitBits = 4;                         // an octave has 2^4 buckets
  static constexpr int kOctaves = 40;  // the last bucket begins at almost five hours

 public:
  static constexpr std::size_t kBuckets = std::size_t{kOctaves + 1} << kSplitBits;

  LatencyHistogram() noexcept = default;
  LatencyHistogram(const LatencyHistogram& other) noexcept { Add(other); }
  LatencyHistogram& operator=(const LatencyHistogram& other) noexcept {
    if (this == &other) return *this;
    for (auto& count : counts_) count.store(0, kRelaxed);
    sum_.store(0, kRelaxed);
    Add(other);
    return *this;
  }

  // What is negative counts as zero. What is longer than the last bucket's begin is counted there.
  void Record(Duration length) noexcept {
    const auto nanoseconds = static_cast<std::uint64_t>((std::max)(length.count(), Rep{0}));
    counts_[BucketOf(nanoseconds)].fetch_add(1, kRelaxed);
    sum_.fetch_add(nanoseconds, kRelaxed);
  }
  // Adds what another has counted.
  void Add(const LatencyHistogram& other) noexcept {
    for (std::size_t i = 0; i < kBuckets; ++i) {
      if (const auto count = other.CountIn(i); count > 0) counts_[i].fetch_add(count, kRelaxed);
    }
    sum_.fetch_add(other.sum_.load(kRelaxed), kRelaxed);
  }

  // Returns how many were recorded.
  std::uint64_t Count() const noexcept {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) sum += CountIn(i);
    return sum;
  }
  // Returns their sum, exactly.
  std::chrono::nanoseconds Sum() const noexcept {
    return std::chrono::nanoseconds(static_cast<Rep>(sum_.load(kRelaxed)));
  }
  // Returns the length that a part of them, such as 0.99, did not exceed. Zero if there are none.
  std::chrono::nanoseconds Quantile(double part) const noexcept {
    const std::uint64_t count = Count();
    if (count == 0) return {};
    // A little less, because the product is rounded: 0.07 * 100 is more than 7.
    const double wanted = (std::clamp)(part, 0.0, 1.0) * static_cast<double>(count) * (1 - 1e-15);
    std::uint64_t passed = 0;
    std::size_t last = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      if (CountIn(i) == 0) continue;
      last = i;
      passed += CountIn(i);
      if (static_cast<double>(passed) >= wanted) break;
    }
    return MiddleOf(last);
  }

  // ---- The buckets, for exporting them

  std::uint64_t CountIn(std::size_t bucket) const noexcept {
    return counts_[bucket].load(kRelaxed);
  }
  // Returns the shortest length that is counted in a bucket. That of kBuckets is where the last one
  // would end.
  static constexpr std::chrono::nanoseconds BeginOf(std::size_t bucket) noexcept {
    const std::size_t octave = bucket >> kSplitBits;
    const auto place = static_cast<Rep>(bucket & ((std::size_t{1} << kSplitBits) - 1));
    if (octave == 0) return std::chrono::nanoseconds(place);
    return std::chrono::nanoseconds((place + (Rep{1} << kSplitBits)) << (octave - 1));
  }

 private:
  using Rep = std::chrono::nanoseconds::rep;

  static constexpr std::size_t BucketOf(std::uint64_t nanoseconds) noexcept {
    const int octave = (std::max)(0, static_cast<int>(std::bit_width(nanoseconds)) - kSplitBits);
    if (octave == 0) return static_cast<std::uint32_t>(nanoseconds);
    const auto place = static_cast<std::uint32_t>((nanoseconds >> (octave - 1)) -
                                                  (std::uint64_t{1} << kSplitBits));
    const std::size_t bucket = (static_cast<std::size_t>(octave) << kSplitBits) + place;
    return (std::min)(bucket, kBuckets - 1);
  }
  static std::chrono::nanoseconds MiddleOf(std::size_t bucket) noexcept {
    const auto begin = BeginOf(bucket);
    return begin + (BeginOf(bucket + 1) - begin) / 2;
  }

  std::array<std::atomic<std::uint64_t>, kBuckets> counts_ = {};
  std::atomic<std::uint64_t> sum_ = 0;  // of nanoseconds
};

}  // namespace singleflight
