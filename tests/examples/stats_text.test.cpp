// SPDX-License-Identifier: MIT

// Tests stats_text.hpp, which writes statistics as text.

#include "adapters/stats_text.hpp"

#include <string>

#include "support/catch.hpp"

namespace {

constexpr singleflight::Stats kStats = {
    .executions = 1, .followers = 2, .failures = 3, .left = 4, .refused = 5, .in_flight = 6};
constexpr singleflight::Stats kLarge = {.executions = 18'446'744'073'709'551'615u};

}  // namespace

TEST_CASE("Statistics as JSON have each count under its name") {
  CHECK(ToJson(kStats) ==
        R"({"executions": 1, "followers": 2, "failures": 3, "left": 4, "refused": 5, )"
        R"("in_flight": 6})");
}

TEST_CASE("Statistics as JSON have each group under its name") {
  CHECK(ToJson(StatsByGroup{}) == "{}\n");
  CHECK(ToJson(StatsByGroup{{"b", kStats}, {"a", kLarge}}) ==
        "{\"a\": " + ToJson(kLarge) + ", \"b\": " + ToJson(kStats) + "}\n");
}

TEST_CASE("Statistics as JSON escape a group's name") {
  CHECK(ToJson(StatsByGroup{{"\"\\\n\x1f é", kLarge}}) ==
        "{\"\\\"\\\\\\u000a\\u001f é\": " + ToJson(kLarge) + "}\n");
}

TEST_CASE("Statistics for Prometheus have each metric once, with a sample for each group") {
  CHECK(ToPrometheus({{"users", kStats}, {"items", kLarge}}) ==
        R"(# HELP singleflight_executions_total Calls begun.
# TYPE singleflight_executions_total counter
singleflight_executions_total{group="items"} 18446744073709551615
singleflight_executions_total{group="users"} 1
# HELP singleflight_followers_total Callers that joined a call in flight.
# TYPE singleflight_followers_total counter
singleflight_followers_total{group="items"} 0
singleflight_followers_total{group="users"} 2
# HELP singleflight_failures_total Calls that landed with an exception.
# TYPE singleflight_failures_total counter
singleflight_failures_total{group="items"} 0
singleflight_failures_total{group="users"} 3
# HELP singleflight_left_total Callers that gave up: timed out, stopped or left.
# TYPE singleflight_left_total counter
singleflight_left_total{group="items"} 0
singleflight_left_total{group="users"} 4
# HELP singleflight_refused_total Callers that a limit turned away.
# TYPE singleflight_refused_total counter
singleflight_refused_total{group="items"} 0
singleflight_refused_total{group="users"} 5
# HELP singleflight_in_flight Calls that have not landed yet.
# TYPE singleflight_in_flight gauge
singleflight_in_flight{group="items"} 0
singleflight_in_flight{group="users"} 6
)");
}

TEST_CASE("Statistics for Prometheus escape a group's name") {
  const std::string text = ToPrometheus({{"a\"b\\c\nd", kStats}});
  CHECK(text.find("\nsingleflight_in_flight{group=\"a\\\"b\\\\c\\nd\"} 6\n") != std::string::npos);
}
