// SPDX-License-Identifier: MIT

// Tests which statistics can be added, and that none of their counts is forgotten.

#include "sources.hpp"

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <singleflight/singleflight.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "exposition.hpp"
#include "json_reader.hpp"
#include "support/catch.hpp"

namespace observe_test {

// Statistics of a user's own.
struct Sales {
  unsigned orders = 0;
  std::size_t carts = 0;
  singleflight::LatencyHistogram payments = {};
};
template <class Visitor>
void ForEachStat(const Sales& sales, Visitor&& visit) {
  visit.Counter("orders", "Orders taken.", sales.orders);
  visit.Gauge("carts", "Carts that are not paid for.", sales.carts);
  visit.Times("payment_duration", "How long payments took.", sales.payments);
  visit.With("till", "1").Gauge("open", "Whether a till is open.", true);
  visit.Gauge("oldest_order_age", "How old the oldest order is.", std::chrono::minutes(2));
}

// Visits with a name that cannot be one, or that has another kind already.
struct Misnamed {
  std::string name;
};
template <class Visitor>
void ForEachStat(const Misnamed& misnamed, Visitor&& visit) {
  visit.Gauge(misnamed.name, "Help.", 1U);
}

// A cache of a user's own, with statistics of the library.
struct Cache {
  singleflight::LruCacheStats GetStats() const { return {.hits = 7}; }
};

}  // namespace observe_test

namespace {

using singleflight::Metrics;
using singleflight::WriteJson;
using singleflight::WritePrometheus;

// Keeps what is visited.
struct Kept {
  std::vector<std::string> names = {};
  std::vector<std::uint64_t> numbers = {};

  template <std::unsigned_integral Number>
  void Counter(std::string_view name, std::string_view, Number number) {
    names.emplace_back(name);
    numbers.push_back(number);
  }
  template <std::unsigned_integral Number>
  void Gauge(std::string_view name, std::string_view help, Number number) {
    Counter(name, help, number);
  }
};

// Whether each number in `Stats`, which has nothing but 64-bit numbers, is visited once.
template <class Stats>
bool VisitsEachNumber() {
  constexpr std::size_t kNumbers = sizeof(Stats) / sizeof(std::uint64_t);
  static_assert(sizeof(std::size_t) == sizeof(std::uint64_t));
  std::uint64_t numbers[kNumbers];
  for (std::size_t i = 0; i < kNumbers; ++i) numbers[i] = i + 1;
  Stats stats;
  std::memcpy(&stats, numbers, sizeof(stats));
  Kept kept;
  ForEachStat(stats, kept);
  const std::set<std::uint64_t> expected(numbers, numbers + kNumbers);
  return kept.numbers.size() == kNumbers &&
         std::set<std::uint64_t>(kept.numbers.begin(), kept.numbers.end()) == expected &&
         std::set<std::string>(kept.names.begin(), kept.names.end()).size() == kNumbers;
}

std::string NumberOfGroup(const Metrics& metrics, const std::string& name) {
  return test::NumberOf(WritePrometheus(metrics), "singleflight_" + name, {{"group", "pages"}});
}

}  // namespace

TEST_CASE("Statistics: each count is visited once under a name of its own") {
  CHECK(VisitsEachNumber<singleflight::Stats>());
  CHECK(VisitsEachNumber<singleflight::ReadThroughStats>());
  CHECK(VisitsEachNumber<singleflight::LruCacheStats>());
  CHECK(VisitsEachNumber<singleflight::BatcherStats>());
  CHECK(VisitsEachNumber<singleflight::redis::Stats>());
  CHECK(VisitsEachNumber<singleflight::redis::ReadThroughStats>());
}

TEST_CASE("Metrics take all statistics of the library at once") {
  const Metrics metrics = test::AllMetrics();
  const std::string text = WritePrometheus(metrics);
  std::size_t samples = 0;
  for (const auto& family : test::ExpositionReader::Read(text)) samples += family.samples.size();
  // pages, users with its histogram, the LruCache, batches, fleet, two servers, and the listener
  CHECK(samples == 6 + 15 + 30 + 6 + 4 + 24 + 2 * 3 + 2 * 30 + 23);
  CHECK(test::JsonReader::Read(WriteJson(metrics)).elements.size() == 10);
}

TEST_CASE("Metrics take a Group and a ReadThrough with its load times") {
  singleflight::Group<int, int> group;
  static_cast<void>(group.Do(1, [] { return 1; }));
  CHECK(NumberOfGroup(Metrics().Add("pages", group), "executions_total") == "1");

  singleflight::ReadThrough<int, int> cache;
  for (int i = 0; i < 3; ++i) static_cast<void>(cache.Get(1, [] { return 1; }));
  Metrics metrics;
  metrics.Add("pages", cache);
  CHECK(NumberOfGroup(metrics, "read_through_hits_total") == "2");
  CHECK(NumberOfGroup(metrics, "read_through_misses_total") == "1");
  CHECK(NumberOfGroup(metrics, "executions_total") == "1");
  CHECK(NumberOfGroup(metrics, "load_duration_seconds_count") == "1");
}

TEST_CASE("Metrics take an LruCache and a Batcher") {
  singleflight::LruCache<int, int> cache({.capacity = 2});
  for (int i = 0; i < 5; ++i) cache.Put(i, i);
  CHECK(NumberOfGroup(Metrics().Add("pages", cache), "lru_cache_evictions_total") == "3");
  CHECK(NumberOfGroup(Metrics().Add("pages", cache), "lru_cache_entries") == "2");

  CHECK(NumberOfGroup(Metrics().Add("pages", singleflight::BatcherStats{.keys = 4}),
                      "batcher_keys_total") == "4");
}

TEST_CASE("Metrics take a server with its address and since when it is in its state") {
  const std::string text = WritePrometheus(test::AllMetrics());
  const test::ExpositionFamily::Labels server = {
      {"group", "fleet"}, {"kind", "server"}, {"server", "[::1]:6379"}};
  const test::ExpositionFamily::Labels sentinel = {
      {"group", "fleet"}, {"kind", "sentinel"}, {"server", "redis:26379"}};
  CHECK(test::NumberOf(text, "singleflight_redis_server_up", server) == "1");
  CHECK(test::NumberOf(text, "singleflight_redis_server_away", server) == "0");
  CHECK(test::NumberOf(text, "singleflight_redis_server_changed_timestamp_seconds", server) ==
        "1796000000.5");
  CHECK(test::NumberOf(text, "singleflight_redis_server_up", sentinel) == "0");
  CHECK(test::NumberOf(text, "singleflight_redis_server_away", sentinel) == "1");
}

TEST_CASE("Metrics: a time that is added twice is the later one") {
  Metrics metrics;
  singleflight::redis::NodeInfo node{.address = "redis:6379"};
  for (const int second : {20, 30, 10}) {
    node.since = std::chrono::system_clock::time_point(std::chrono::seconds(second));
    metrics.Add({}, node);
  }
  CHECK(test::NumberOf(WritePrometheus(metrics),
                       "singleflight_redis_server_changed_timestamp_seconds",
                       {{"kind", "server"}, {"server", "redis:6379"}}) == "30");
}

TEST_CASE("Metrics: a time before 1970 counts as 1970") {
  const singleflight::redis::NodeInfo node{
      .address = "a", .since = std::chrono::system_clock::time_point(std::chrono::seconds(-5))};
  CHECK(test::NumberOf(WritePrometheus(Metrics().Add({}, node)),
                       "singleflight_redis_server_changed_timestamp_seconds",
                       {{"kind", "server"}, {"server", "a"}}) == "0");
}

TEST_CASE("Metrics take statistics of your own if ForEachStat is declared beside them") {
  const Metrics metrics =
      Metrics("shop").Add("pages", observe_test::Sales{.orders = 3, .carts = 2});
  const std::string text = WritePrometheus(metrics);
  const auto families = test::ExpositionReader::Read(text);
  REQUIRE(families.size() == 5);
  CHECK(families[0].help == "Orders taken.");
  CHECK(families[0].type == "counter");
  CHECK(families[1].type == "gauge");
  CHECK(families[2].type == "histogram");
  CHECK(test::NumberOf(text, "shop_orders_total", {{"group", "pages"}}) == "3");
  CHECK(test::NumberOf(text, "shop_carts", {{"group", "pages"}}) == "2");
  CHECK(test::NumberOf(text, "shop_payment_duration_seconds_count", {{"group", "pages"}}) == "0");
  CHECK(test::NumberOf(text, "shop_open", {{"group", "pages"}, {"till", "1"}}) == "1");
  CHECK(test::NumberOf(text, "shop_oldest_order_age_seconds", {{"group", "pages"}}) == "120");
}

TEST_CASE("Metrics take what has a function GetStats") {
  CHECK(NumberOfGroup(Metrics().Add("pages", observe_test::Cache()), "lru_cache_hits_total") ==
        "7");
}

TEST_CASE("Metrics refuse names that Prometheus does not take or that contradict suffixes") {
  Metrics metrics;
  for (const char* name :
       {"", "Pages", "0pages", "_pages", "pages_", "pa__ges", "pa-ges", "pages é", "pages_total",
        "pages_count", "pages_sum", "pages_bucket", "pages\n"}) {
    CAPTURE(name);
    CHECK_THROWS_AS(metrics.Add("pages", observe_test::Misnamed{name}), std::invalid_argument);
    CHECK_THROWS_AS(metrics.Add("pages", name, "Help.", singleflight::LatencyHistogram()),
                    std::invalid_argument);
    CHECK_THROWS_AS(Metrics(name), std::invalid_argument);
  }
  CHECK(WritePrometheus(metrics).empty());
  CHECK(WriteJson(metrics) == "[]\n");
}

TEST_CASE("Metrics refuse a name that is one of another kind already") {
  Metrics metrics;
  metrics.Add("pages", observe_test::Sales());
  for (const char* name : {"orders", "payment_duration_seconds", "oldest_order_age_seconds"}) {
    CAPTURE(name);
    CHECK_THROWS_AS(metrics.Add("pages", observe_test::Misnamed{name}), std::invalid_argument);
  }
  CHECK(test::ExpositionReader::Read(WritePrometheus(metrics)).size() == 5);
}

TEST_CASE("Metrics that are copied and moved have what they had") {
  Metrics metrics = test::AllMetrics();
  const std::string text = WritePrometheus(metrics);
  const Metrics copy = metrics;
  metrics.Add("more", singleflight::Stats());
  CHECK(WritePrometheus(copy) == text);
  const std::string more = WritePrometheus(metrics);
  const Metrics moved = std::move(metrics);
  CHECK(WritePrometheus(moved) == more);
  CHECK(more != text);
}
