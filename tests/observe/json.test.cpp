// SPDX-License-Identifier: MIT

// Tests WriteJson: the text that is written.

#include <chrono>
#include <singleflight/observe.hpp>
#include <singleflight/options.hpp>
#include <string>

#include "json_reader.hpp"
#include "support/catch.hpp"

namespace {

using namespace std::chrono_literals;
using singleflight::Metrics;
using singleflight::WriteJson;

constexpr singleflight::Stats kStats = {
    .executions = 1, .followers = 2, .failures = 3, .left = 4, .refused = 5, .in_flight = 6};
constexpr singleflight::Stats kLarge = {.executions = 18'446'744'073'709'551'615U};

}  // namespace

TEST_CASE("JSON has an object for each set of labels") {
  CHECK(WriteJson({}) == "[]\n");
  CHECK(
      WriteJson(Metrics().Add("users", kStats).Add({{"group", "items"}, {"zone", "b"}}, kLarge)) ==
      R"([{"labels": {"group": "items", "zone": "b"}, "stats": {"executions": 18446744073709551615, )"
      R"("followers": 0, "failures": 0, "left": 0, "refused": 0, "in_flight": 0}},)"
      "\n"
      R"({"labels": {"group": "users"}, "stats": {"executions": 1, "followers": 2, "failures": 3, )"
      R"("left": 4, "refused": 5, "in_flight": 6}}])"
      "\n");
}

TEST_CASE("JSON has no labels for what was added without any") {
  CHECK(WriteJson(Metrics().Add({}, kStats)).starts_with(R"([{"labels": {}, "stats": {"exec)"));
}

TEST_CASE("JSON has labels as strings that every reader reads") {
  const std::string text = "a\"b\\c\nd\x01\x7f é /</script>";
  const std::string json = WriteJson(Metrics().Add(text, kStats));
  CHECK(json.find("\"a\\\"b\\\\c\\u000ad\\u0001\x7f é /</script>\"") != json.npos);
  CHECK(test::JsonReader::Read(json)[0]["labels"]["group"].text == text);
}

TEST_CASE("JSON has the count and the sum and the quantiles of a histogram in seconds") {
  singleflight::LatencyHistogram times;
  Metrics metrics;
  metrics.Add("none", "wait_duration", "How long it was waited.", times);
  for (int i = 0; i < 1000; ++i) times.Record(i < 995 ? 16ns : 1500ms);
  metrics.Add("some", "wait_duration", "How long it was waited.", times);
  const std::string json = WriteJson(metrics);
  CHECK(json.starts_with(R"([{"labels": {"group": "none"}, "stats": {"wait_duration_seconds": )"
                         R"({"count": 0, "sum": 0, "p50": 0, "p90": 0, "p99": 0, "p999": 0}}},)"));
  const auto some = test::JsonReader::Read(json)[1]["stats"]["wait_duration_seconds"];
  CHECK(some["count"].text == "1000");
  CHECK(some["sum"].text == "7.50001592");
  CHECK(some["p50"].text == "0.000000016");
  CHECK(some["p90"].text == "0.000000016");
  CHECK(some["p99"].text == "0.000000016");
  CHECK(std::stod(some["p999"].text) > 1.44);
  CHECK(std::stod(some["p999"].text) < 1.56);
}
