// SPDX-License-Identifier: MIT

// Tests LatencyHistogram.

#include <chrono>
#include <cmath>
#include <cstddef>
#include <random>
#include <singleflight/latency_histogram.hpp>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::LatencyHistogram;
using std::chrono::nanoseconds;

TEST_CASE("LatencyHistogram: what is read differs from what was recorded by less than 4 %") {
  std::mt19937_64 random;  // not seeded
  for (int i = 0; i < 10'000; ++i) {
    const auto length = static_cast<nanoseconds::rep>(random() >> (20 + random() % 44));
    LatencyHistogram times;
    times.Record(nanoseconds(length));
    const double read = static_cast<double>(times.Quantile(0.5).count());
    const double error = (read - static_cast<double>(length)) / static_cast<double>(length + 1);
    REQUIRE(std::abs(error) < 0.04);
  }
}

TEST_CASE("LatencyHistogram: quantiles are those of all that was recorded") {
  LatencyHistogram times;
  CHECK(times.Quantile(0.5) == 0ns);
  for (int i = 1; i <= 1000; ++i) times.Record(std::chrono::microseconds(i));
  const auto is_about = [](nanoseconds read, nanoseconds expected) {
    return std::abs(static_cast<double>((read - expected).count())) <
           0.04 * static_cast<double>(expected.count());
  };
  CHECK(is_about(times.Quantile(0.5), 500us));
  CHECK(is_about(times.Quantile(0.99), 990us));
  CHECK(is_about(times.Quantile(0), 1us));
  CHECK(is_about(times.Quantile(1), 1000us));
  CHECK(is_about(times.Quantile(7), 1000us));
  CHECK(times.Count() == 1000);
  CHECK(times.Sum() == 500'500us);
}

TEST_CASE("LatencyHistogram: a quantile is that of a whole number of records") {
  for (int of_all = 1; of_all < 100; ++of_all) {
    LatencyHistogram times;
    for (int i = 0; i < 100; ++i) times.Record(i < of_all ? 1ms : 1s);
    CAPTURE(of_all);
    CHECK(times.Quantile(of_all / 100.0) < 2ms);
    CHECK(times.Quantile((of_all + 0.001) / 100.0) > 900ms);
  }
}

TEST_CASE("LatencyHistogram: each length is counted in the bucket that it belongs to") {
  for (std::size_t bucket = 0; bucket < LatencyHistogram::kBuckets; ++bucket) {
    const nanoseconds begin = LatencyHistogram::BeginOf(bucket);
    const nanoseconds end = LatencyHistogram::BeginOf(bucket + 1);
    REQUIRE(begin < end);
    LatencyHistogram times;
    times.Record(begin);
    times.Record(end - 1ns);
    REQUIRE(times.CountIn(bucket) == 2);
  }
}

TEST_CASE(
    "LatencyHistogram: what is negative or very long is counted in the first or last bucket") {
  LatencyHistogram times;
  times.Record(-1s);
  times.Record((nanoseconds::min)());
  times.Record((nanoseconds::max)());
  times.Record(std::chrono::hours(100));
  CHECK(times.CountIn(0) == 2);
  CHECK(times.CountIn(LatencyHistogram::kBuckets - 1) == 2);
}

TEST_CASE("LatencyHistogram: copies and sums have what the originals have") {
  LatencyHistogram one, other;
  one.Record(1ms);
  other.Record(2ms);
  LatencyHistogram sum = one;
  sum.Add(other);
  CHECK(sum.Count() == 2);
  CHECK(sum.Sum() == 3ms);
  sum = one;
  CHECK(sum.Count() == 1);
  CHECK(sum.Sum() == 1ms);
}

TEST_CASE("LatencyHistogram: threads may record at the same time, and none is lost") {
  LatencyHistogram times;
  std::vector<JoiningThread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) times.Record(nanoseconds(i));
    });
  }
  threads.clear();
  CHECK(times.Count() == 40'000);
}
