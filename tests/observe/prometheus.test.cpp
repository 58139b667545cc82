// SPDX-License-Identifier: MIT

// Tests WritePrometheus: the text that is written.

#include <locale>
#include <singleflight/observe.hpp>
#include <singleflight/options.hpp>
#include <string>

#include "exposition.hpp"
#include "support/catch.hpp"

namespace {

using singleflight::Labels;
using singleflight::Metrics;
using singleflight::WritePrometheus;

constexpr singleflight::Stats kStats = {
    .executions = 1, .followers = 2, .failures = 3, .left = 4, .refused = 5, .in_flight = 6};
constexpr singleflight::Stats kLarge = {.executions = 18'446'744'073'709'551'615U};

// The numbers of a locale in which 1234567 is written 1.234.567.
struct Grouped : std::numpunct<char> {
  char do_thousands_sep() const override { return '.'; }
  char do_decimal_point() const override { return ','; }
  std::string do_grouping() const override { return "\3"; }
};

}  // namespace

TEST_CASE("Prometheus gets each family once with a series for each group") {
  CHECK(WritePrometheus(Metrics().Add("users", kStats).Add("items", kLarge)) ==
        R"(# HELP singleflight_executions_total Calls begun.
# TYPE singleflight_executions_total counter
singleflight_executions_total{group="items"} 18446744073709551615
singleflight_executions_total{group="users"} 1
# HELP singleflight_followers_total Callers that joined a call in flight.
# TYPE singleflight_followers_total counter
singleflight_followers_total{group="items"} 0
singleflight_followers_total{group="users"} 2
# HELP singleflight_failures_total Calls that landed with an exception or a failure.
# TYPE singleflight_failures_total counter
singleflight_failures_total{group="items"} 0
singleflight_failures_total{group="users"} 3
# HELP singleflight_left_total Callers that left before their call landed.
# TYPE singleflight_left_total counter
singleflight_left_total{group="items"} 0
singleflight_left_total{group="users"} 4
# HELP singleflight_refused_total Callers that were refused by a limit or after Close.
# TYPE singleflight_refused_total counter
singleflight_refused_total{group="items"} 0
singleflight_refused_total{group="users"} 5
# HELP singleflight_in_flight Calls that have not landed yet.
# TYPE singleflight_in_flight gauge
singleflight_in_flight{group="items"} 0
singleflight_in_flight{group="users"} 6
)");
}

TEST_CASE("Prometheus gets nothing if nothing was added") { CHECK(WritePrometheus({}).empty()); }

TEST_CASE("Prometheus gets the families under the prefix that was chosen") {
  const std::string text = WritePrometheus(Metrics("shop_calls").Add({}, kStats));
  CHECK(
      text.starts_with("# HELP shop_calls_executions_total Calls begun.\n"
                       "# TYPE shop_calls_executions_total counter\n"
                       "shop_calls_executions_total 1\n"));
  CHECK(test::ExpositionReader::Read(text).size() == 6);
}

TEST_CASE("Prometheus gets labels sorted and with backslashes before what would end them") {
  const Labels labels = {{"zone", "b"}, {"group", "a\"b\\c\nd"}, {"Tenant_1", "{x=\"1\"} 2"}};
  const std::string text = WritePrometheus(Metrics().Add(labels, kStats));
  CHECK(text.find("\nsingleflight_in_flight{Tenant_1=\"{x=\\\"1\\\"} 2\",group=\"a\\\"b\\\\c\\nd\","
                  "zone=\"b\"} 6\n") != text.npos);
  CHECK(test::NumberOf(text, "singleflight_in_flight",
                       {{"Tenant_1", "{x=\"1\"} 2"}, {"group", "a\"b\\c\nd"}, {"zone", "b"}}) ==
        "6");
}

TEST_CASE("Prometheus gets one series for what was added twice under the same labels") {
  const std::string text = WritePrometheus(
      Metrics().Add("pages", kStats).Add({{"group", "pages"}}, kStats).Add("other", kStats));
  CHECK(test::NumberOf(text, "singleflight_followers_total", {{"group", "pages"}}) == "4");
  CHECK(test::NumberOf(text, "singleflight_in_flight", {{"group", "pages"}}) == "12");
  CHECK(test::NumberOf(text, "singleflight_in_flight", {{"group", "other"}}) == "6");
}

TEST_CASE("Prometheus gets numbers that the global locale does not change") {
  const std::locale before = std::locale::global(std::locale(std::locale(), new Grouped));
  const std::string text = WritePrometheus(
      Metrics().Add("pages", singleflight::Stats{.executions = 1'234'567, .followers = 1}));
  std::locale::global(before);
  CHECK(test::NumberOf(text, "singleflight_executions_total", {{"group", "pages"}}) == "1234567");
}

TEST_CASE("Prometheus gets a help with backslashes before those that it has") {
  Metrics metrics;
  metrics.Add({}, "wait_duration", "Line 1\nline 2 \\ \"quoted\".",
              singleflight::LatencyHistogram());
  const std::string text = WritePrometheus(metrics);
  CHECK(
      text.starts_with("# HELP singleflight_wait_duration_seconds "
                       "Line 1\\nline 2 \\\\ \"quoted\".\n"));
  CHECK(test::ExpositionReader::Read(text)[0].help == "Line 1\nline 2 \\ \"quoted\".");
}
