// SPDX-License-Identifier: MIT

// Tests LatencyListener: what it records, and how that is written.

#include <chrono>
#include <cstddef>
#include <singleflight/observe.hpp>
#include <singleflight/options.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "exposition.hpp"
#include "json_reader.hpp"
#include "support/catch.hpp"
#include "support/recorder.hpp"
#include "support/support.hpp"

namespace {

using namespace std::chrono_literals;
using singleflight::LatencyListener;
using singleflight::Metrics;
using singleflight::WaitListener;
using test::GroupWith;
using test::HeldCall;

singleflight::TimedLanding Landed(std::chrono::nanoseconds took, std::size_t callers, bool failed) {
  return {{.callers = callers, .failed = failed, .canceled = false}, took};
}

// What Metrics need of a group.
struct GroupThatListens {
  singleflight::Stats GetStats() const { return {.executions = 3}; }
  LatencyListener& GetListener() const { return listener; }

  LatencyListener& listener;
};

}  // namespace

TEST_CASE("LatencyListener: it records how long calls took and how many callers they had") {
  LatencyListener listener;
  listener.OnLand(std::string("a"), Landed(2s, 1, false));
  listener.OnLand(1, Landed(4s, 31, false));
  listener.OnLand(std::string("b"), Landed(8s, 0, true));
  CHECK(listener.TimesOfSuccess().Count() == 2);
  CHECK(listener.TimesOfSuccess().Sum() == 6s);
  CHECK(listener.TimesOfFailure().Count() == 1);
  CHECK(listener.TimesOfFailure().Sum() == 8s);
  CHECK(listener.CallersPerCall().Count() == 3);
  CHECK(listener.CallersPerCall().Sum() == 32ns);
}

TEST_CASE("LatencyListener: a group records its calls there and Metrics take it with the group") {
  GroupWith<LatencyListener> group;
  HeldCall leader(group, "key");
  std::vector<singleflight::Future<int>> followers;
  for (int i = 0; i < 4; ++i) followers.push_back(group.Join("key", [](auto) {}));
  leader.Finish();
  CHECK_THROWS_AS(group.Do("key", []() -> int { throw 1; }), int);
  const LatencyListener& listener = group.GetListener();
  CHECK(listener.TimesOfSuccess().Count() == 1);
  CHECK(listener.TimesOfSuccess().Sum() > 0ns);
  CHECK(listener.TimesOfFailure().Count() == 1);
  CHECK(listener.CallersPerCall().Count() == 2);
  CHECK(listener.CallersPerCall().Sum() == 6ns);
  Metrics metrics;
  metrics.Add("pages", group);
  const std::string text = WritePrometheus(metrics);
  CHECK(test::NumberOf(text, "singleflight_callers_per_call_sum", {{"group", "pages"}}) == "6");
}

TEST_CASE("LatencyListener: a listener that derives from it may have a tag") {
  struct Numbered : LatencyListener {
    int OnLead(std::string_view) { return ++calls; }
    int calls = 0;
  };
  GroupWith<Numbered> group;
  CHECK(*group.Do("key", [] { return 1; }) == 1);
  CHECK(group.GetListener().calls == 1);
  CHECK(group.GetListener().TimesOfSuccess().Count() == 1);
  Metrics metrics;
  metrics.Add("pages", group);
  CHECK(test::NumberOf(WritePrometheus(metrics), "singleflight_callers_per_call_sum",
                       {{"group", "pages"}}) == "1");
}

TEST_CASE("WaitListener: it records how long the followers waited that have stayed") {
  GroupWith<WaitListener> group;
  const singleflight::LatencyHistogram& waits = group.GetListener().WaitTimes();
  CHECK(*group.Do("key", [] { return 1; }) == 1);
  CHECK(waits.Count() == 0);
  HeldCall leader(group, "key");
  const auto joined = std::chrono::steady_clock::now();
  std::vector<singleflight::Future<int>> followers;
  for (int i = 0; i < 4; ++i) followers.push_back(group.Join("key", [](auto) {}));
  followers.pop_back();  // it leaves
  CHECK(waits.Count() == 0);
  leader.Finish();
  CHECK(waits.Count() == 3);
  CHECK(waits.Sum() > 0ns);
  CHECK(waits.Sum() < 3 * (std::chrono::steady_clock::now() - joined));
  CHECK(group.GetListener().TimesOfSuccess().Count() == 2);
  CHECK(group.GetListener().CallersPerCall().Sum() == 5ns);
  Metrics metrics;
  metrics.Add("pages", group);
  const std::string text = WritePrometheus(metrics);
  CHECK(test::NumberOf(text, "singleflight_wait_duration_seconds_count", {{"group", "pages"}}) ==
        "3");
  CHECK(test::NumberOf(text, "singleflight_callers_per_call_sum", {{"group", "pages"}}) == "5");
}

TEST_CASE("WaitListener: a follower that is told after the landing has waited for no time") {
  WaitListener listener;
  const WaitListener::Tag call = listener.OnLead(1);
  listener.OnFollow(1, call);
  listener.OnLand(1, call, Landed(2s, 3, false));
  CHECK(listener.WaitTimes().Count() == 1);
  const auto sum = listener.WaitTimes().Sum();
  listener.OnFollow(1, call);
  CHECK(listener.WaitTimes().Count() == 2);
  CHECK(listener.WaitTimes().Sum() == sum);
}

TEST_CASE("WaitListener: a call without memory for its tag is recorded as by LatencyListener") {
  WaitListener listener;
  listener.OnFollow(1, nullptr);
  listener.OnLand(1, nullptr, Landed(2s, 2, true));
  CHECK(listener.TimesOfFailure().Sum() == 2s);
  CHECK(listener.WaitTimes().Count() == 0);
}

TEST_CASE("LatencyListener: Metrics of its group have its histograms") {
  LatencyListener listener;
  listener.OnLand(1, Landed(2s, 1, false));
  listener.OnLand(1, Landed(4s, 1000, false));
  listener.OnLand(1, Landed(8s, 2'000'000, true));
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
