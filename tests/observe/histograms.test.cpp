// SPDX-License-Identifier: MIT

// Tests what is written of a LatencyHistogram: its buckets, sum and count.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <latch>
#include <singleflight/detail/observe/times_view.hpp>
#include <singleflight/observe.hpp>
#include <string>
#include <vector>

#include "exposition.hpp"
#include "support/catch.hpp"
#include "support/threads.hpp"

namespace {

using namespace std::chrono_literals;
using singleflight::LatencyHistogram;
using singleflight::Metrics;
using singleflight::WritePrometheus;
using singleflight::detail::TimesView;

const std::string kName = "singleflight_wait_duration_seconds";

std::string Written(const LatencyHistogram& times) {
  Metrics metrics;
  metrics.Add("pages", "wait_duration", "How long it was waited.", times);
  return WritePrometheus(metrics);
}
std::string Part(const std::string& text, const char* suffix) {
  return test::NumberOf(text, kName + suffix, {{"group", "pages"}});
}
std::string CountUpTo(const std::string& text, const std::string& border) {
  return test::NumberOf(text, kName + "_bucket", {{"group", "pages"}, {"le", border}});
}

// Lets the threads of a test finish.
class Enough {
 public:
  explicit Enough(std::atomic<bool>& enough) : enough_(enough) {}
  ~Enough() { enough_ = true; }
  Enough(const Enough&) = delete;
  Enough& operator=(const Enough&) = delete;

 private:
  std::atomic<bool>& enough_;
};

}  // namespace

TEST_CASE("Histograms for Prometheus have a bucket for each doubling with its exact border") {
  LatencyHistogram times;
  times.Record(0ns);
  times.Record(1023ns);
  times.Record(1024ns);
  times.Record(1'048'575ns);
  times.Record(1'048'576ns);
  times.Record(90s);
  CHECK(Written(times) == R"(# HELP singleflight_wait_duration_seconds How long it was waited.
# TYPE singleflight_wait_duration_seconds histogram
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000001023"} 2
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000002047"} 3
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000004095"} 3
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000008191"} 3
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000016383"} 3
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000032767"} 3
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000065535"} 3
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000131071"} 3
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000262143"} 3
singleflight_wait_duration_seconds_bucket{group="pages",le="0.000524287"} 3
singleflight_wait_duration_seconds_bucket{group="pages",le="0.001048575"} 4
singleflight_wait_duration_seconds_bucket{group="pages",le="0.002097151"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="0.004194303"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="0.008388607"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="0.016777215"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="0.033554431"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="0.067108863"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="0.134217727"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="0.268435455"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="0.536870911"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="1.073741823"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="2.147483647"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="4.294967295"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="8.589934591"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="17.179869183"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="34.359738367"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="68.719476735"} 5
singleflight_wait_duration_seconds_bucket{group="pages",le="+Inf"} 6
singleflight_wait_duration_seconds_sum{group="pages"} 90.002099198
singleflight_wait_duration_seconds_count{group="pages"} 6
)");
}

TEST_CASE("Histograms for Prometheus that are empty have all buckets and no sum") {
  const std::string text = Written({});
  CHECK(test::ExpositionReader::Read(text).at(0).samples.size() == 30);
  CHECK(Part(text, "_sum") == "0");
  CHECK(Part(text, "_count") == "0");
  CHECK(CountUpTo(text, "+Inf") == "0");
}

TEST_CASE("Histograms for Prometheus are the sum of what was added under the same labels") {
  LatencyHistogram one, other;
  one.Record(1s);
  other.Record(2s);
  Metrics metrics;
  metrics.Add("pages", "wait_duration", "Help.", one).Add("pages", "wait_duration", "", other);
  const std::string text = WritePrometheus(metrics);
  CHECK(Part(text, "_count") == "2");
  CHECK(Part(text, "_sum") == "3");
  CHECK(CountUpTo(text, "1.073741823") == "1");
}

TEST_CASE("Histograms for Prometheus count the longest times and their sum") {
  LatencyHistogram times;
  times.Record(std::chrono::hours(24));
  CHECK(CountUpTo(Written(times), "68.719476735") == "0");
  CHECK(CountUpTo(Written(times), "+Inf") == "1");
  CHECK(Part(Written(times), "_sum") == "86400");
}

TEST_CASE("Histograms for Prometheus have a sum that begins again beyond 584 years") {
  LatencyHistogram times;
  times.Record(1h);
  for (int i = 0; i < 22; ++i) times.Add(LatencyHistogram(times));
  CHECK(Part(Written(times), "_sum") == "15099494400");  // more than an int64_t of nanoseconds
  times.Add(LatencyHistogram(times));
  CHECK(Part(Written(times), "_count") == "8388608");
  CHECK(Part(Written(times), "_sum") == "11752244726.290448384");  // less 2^64 ns
}

TEST_CASE("Histograms: a sum that was read at another moment becomes one that the counts allow") {
  CHECK(TimesView::Nearest(100, 90, 20) == 100);
  CHECK(TimesView::Nearest(90, 90, 20) == 90);
  CHECK(TimesView::Nearest(110, 90, 20) == 110);
  CHECK(TimesView::Nearest(89, 90, 20) == 90);
  CHECK(TimesView::Nearest(111, 90, 20) == 110);
  CHECK(TimesView::Nearest(7, 0, 0) == 0);  // recorded after the counts were read
  constexpr std::uint64_t kMax = ~std::uint64_t{0};
  CHECK(TimesView::Nearest(kMax - 1, kMax, 20) == kMax);
  CHECK(TimesView::Nearest(5, kMax, 20) == 5);
  CHECK(TimesView::Nearest(25, kMax, 20) == 19);
}

TEST_CASE("Histograms that are written while others record are consistent and never shrink") {
  LatencyHistogram times;
  std::latch recording(2);
  std::atomic<bool> enough = false;
  const auto record = [&](std::chrono::nanoseconds length) {
    times.Record(length);
    recording.count_down();
    while (!enough) times.Record(length);
  };
  std::vector<test::JoiningThread> threads;
  threads.emplace_back([&] { record(512ns); });
  threads.emplace_back([&] { record(1025ns); });
  const Enough at_the_end(enough);  // also if a text cannot be read
  recording.wait();
  std::uint64_t count = 1;
  double sum = 0;
  bool grows = true, is_plausible = true;
  for (int i = 0; i < 50; ++i) {
    const std::string text = Written(times);
    const std::uint64_t count_now = std::stoull(Part(text, "_count"));  // Part checks the text
    const std::uint64_t short_ones = std::stoull(CountUpTo(text, "0.000001023"));
    const double sum_now = std::stod(Part(text, "_sum"));
    grows = grows && count_now >= count && sum_now >= sum;
    // The bucket of 512 ns is 32 ns wide, and that of 1025 ns begins at 1024 ns and is 64 ns wide.
    const auto short_count = static_cast<double>(short_ones);
    const auto long_count = static_cast<double>(count_now - short_ones);
    const double least = 512e-9 * short_count + 1024e-9 * long_count;
    const double most = 544e-9 * short_count + 1088e-9 * long_count;
    is_plausible = is_plausible && sum_now > least - 1e-9 && sum_now < most + 1e-9;
    count = count_now;
    sum = sum_now;
  }
  enough = true;
  threads.clear();  // joins them
  CHECK(grows);
  CHECK(is_plausible);
  CHECK(Part(Written(times), "_count") == std::to_string(times.Count()));
}
