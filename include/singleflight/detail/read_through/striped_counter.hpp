// SPDX-License-Identifier: MIT
#pragma once

// StripedCounter: a counter that many threads increment at once. Each mostly has a cache line of
// its own.

#include <array>
#include <atomic>
#include <cstdint>

#include "../fibonacci_hash.hpp"
#include "../thread_mark.hpp"

namespace singleflight::detail {

class StripedCounter {
 public:
  void Add() noexcept {
    Stripe& mine = stripes_[TopBits<4>(reinterpret_cast<std::uintptr_t>(&this_thread_mark))];
    mine.count.fetch_add(1, std::memory_order_relaxed);  // it is only a counter
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
