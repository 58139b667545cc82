// SPDX-License-Identifier: MIT

// Tests LatencyListener: what it records, and how that is written.

#include <chrono>
#include <singleflight/observe.hpp>
#include <singleflight/options.hpp>
#include <string>

#include "exposition.hpp"
#include "json_reader.hpp"
#include "support/catch.hpp"

namespace {

using namespace std::chrono_literals;
using singleflight::LatencyListener;
using singleflight::Metrics;

// What Metrics need of a group.
struct GroupThatListens {
  singleflight::Stats GetStats() const { return {.executions = 3}; }
  LatencyListener& GetListener() const { return listener; }

  LatencyListener& listener;
};

}  // namespace

TEST_CASE("LatencyListener: it records how long calls took and how many callers they had") {
  LatencyListener listener;
  listener.OnLand(std::string("a"), 2s, 1, false);
  listener.OnLand(1, 4s, 31, false);
  listener.OnLand(std::string("b"), 8s, 0, true);
  CHECK(listener.TimesOfSuccess().Count() == 2);
  CHECK(listener.TimesOfSuccess().Sum() == 6s);
  CHECK(listener.TimesOfFailure().Count() == 1);
  CHECK(listener.TimesOfFailure().Sum() == 8s);
  CHECK(listener.CallersPerCall().Count() == 3);
  CHECK(listener.CallersPerCall().Sum() == 32ns);
}

TEST_CASE("LatencyListener: Metrics of its group have its histograms") {
  LatencyListener listener;
  listener.OnLand(1, 2s, 1, false);
  listener.OnLand(1, 4s, 1000, false);
  listener.OnLand(1, 8s, 2'000'000, true);
  Metrics metrics;
  metrics.Add("pages", GroupThatListens{listener});
  const std::string text = WritePrometheus(metrics);
  const std::string times = "singleflight_call_duration_seconds";
  const std::string callers = "singleflight_callers_per_call";
  CHECK(test::NumberOf(text, "singleflight_executions_total", {{"group", "pages"}}) == "3");
  CHECK(test::NumberOf(text, times + "_sum", {{"group", "pages"}, {"outcome", "success"}}) == "6");
  CHECK(test::NumberOf(text, times + "_sum", {{"group", "pages"}, {"outcome", "failure"}}) == "8");
  const auto up_to = [&](const std::string& most) {
    return test::NumberOf(text, callers + "_bucket", {{"group", "pages"}, {"le", most}});
  };
  CHECK(up_to("1") == "1");
  CHECK(up_to("511") == "1");
  CHECK(up_to("1023") == "2");
  CHECK(up_to("1048575") == "2");
  CHECK(up_to("+Inf") == "3");
  CHECK(test::NumberOf(text, callers + "_sum", {{"group", "pages"}}) == "2001001");

  const test::JsonText json = test::JsonReader::Read(WriteJson(metrics));
  REQUIRE(json.elements.size() == 3);
  CHECK(json[0]["stats"]["callers_per_call"]["p50"].text == "1008");  // the middle of its bucket
  CHECK(json[1]["labels"]["outcome"].text == "failure");
  CHECK(json[1]["stats"]["call_duration_seconds"]["sum"].text == "8");
}
