// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "../thread_mark.hpp"

namespace singleflight::detail {

// A count to which many threads add at once: each mostly to a cache line of its own.
class StripedCounter {
 public:
  void Add() noexcept {
    const std::uint64_t thread = reinterpret_cast<std::uintptr_t>(&this_thread_mark);
    Stripe& mine = stripes_[(thread * 0x9E3779B97F4A7C15u) >> 60];  // the top 4 bits: 16 stripes
    mine.count.fetch_add(1, std::memory_order_relaxed);             // it is only a count
  }

  std::uint64_t Sum() const noexcept {
    std::uint64_t sum = 0;
    for (const Stripe& stripe : stripes_) sum += stripe.count.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  struct alignas(64) Stripe {
    std::atomic<std::uint64_t> count = 0;
  };
  std::array<Stripe, 16> stripes_;
};

}  // namespace singleflight::detail
