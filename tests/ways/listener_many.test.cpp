// SPDX-License-Identifier: MIT

// Traits::Listener: what a group tells it of the keys of DoMany, CoDoMany, DoManyAsync and Batcher.

#include <functional>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/batches.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/recorder.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CallOptions;
using singleflight::CoDoMany;
using singleflight::DoMany;
using singleflight::DoManyAsync;
using singleflight::OnFailure;

namespace {

using RecordedInts = GroupWith<Recorder, int, int>;

struct OfNobody final : RecordedInts::Waiter {
  void OnLanded() noexcept override {}
};

// Holds the call for a key until it is landed.
struct HeldKey {
  HeldKey(RecordedInts& group, int key) {
    group.Join(key, waiter, [this](RecordedInts::Lead its_lead) { lead = std::move(its_lead); });
  }
  ~HeldKey() { waiter.Detach(); }
  OfNobody waiter;
  std::optional<RecordedInts::Lead> lead;
};

Keys FailAll(std::span<const int>) { throw std::runtime_error("down"); }

// What is told of two keys that are led, and of a third that is followed and led elsewhere.
const Lines kJoined{"lead 3 #1", "lead 1 #2", "lead 2 #3", "follow 3 #1"};

Lines Plus(Lines lines, const Lines& more) {
  lines.insert(lines.end(), more.begin(), more.end());
  return lines;
}

}  // namespace

TEST_CASE("DoMany: a listener is told of each key") {
  RecordedInts group;
  HeldKey held(group, 3);
  const auto results = DoMany(group, Keys{1, 2, 3, 1}, [&](std::span<const int> keys) {
    CHECK(group.GetListener().Told() == kJoined);
    CHECK(held.lead->Succeed(30));
    return TenTimes(keys);
  });
  CHECK(*results[2] == 30);
  CHECK(group.GetListener().Told() ==
        Plus(kJoined, {"land 3 #1: 2", "land 1 #2: 1", "land 2 #3: 1"}));
}

TEST_CASE("DoMany: a listener is told which keys a caller leaves and why") {
  RecordedInts group;
  HeldKey held(group, 3);
  const auto timed_out = DoMany(group, Keys{1, 3}, TenTimes, {.timeout = 1ms});
  CHECK(ErrorOfKey(timed_out[1]) == std::errc::timed_out);
  StopSource stop;
  const auto stopped = DoMany(group, Keys{2, 3},
                              [&](std::span<const int> keys) {
                                stop.request_stop();
                                return TenTimes(keys);
                              },
                              {.stop = stop.get_token()});
  CHECK(ErrorOfKey(stopped[1]) == kCanceled);
  CHECK(group.GetListener().Told() ==
        Lines{"lead 3 #1", "lead 1 #2", "follow 3 #1", "land 1 #2: 1", "leave 3 #1: timeout",
              "lead 2 #3", "follow 3 #1", "leave 2 #3: stop", "leave 3 #1: stop", "land 2 #3: 0"});
}

TEST_CASE("DoMany: a listener is told of the second try of each key") {
  RecordedInts group;
  std::optional<HeldKey> held(std::in_place, group, 3);
  const auto results =
      DoMany(group, Keys{1, 3},
             [&](std::span<const int> keys) {
               if (held->lead) {
                 held->lead->Fail(std::make_exception_ptr(std::runtime_error("down")));
                 held->lead.reset();
               }
               return TenTimes(keys);
             },
             {.on_failure = OnFailure::kRetry});
  CHECK(*results[1] == 30);
  CHECK(group.GetListener().Told() == Lines{"lead 3 #1", "lead 1 #2", "follow 3 #1",
                                            "land 3 #1: 2, failed", "land 1 #2: 1", "lead 3 #3",
                                            "land 3 #3: 1"});
}

TEST_CASE("CoDoMany: a listener is told of each key") {
  RecordedInts group;
  HeldKey held(group, 3);
  Signal signal;
  Results results;
  StopSource stop;
  const Keys keys{1, 2, 3};
  const auto ask = [&](auto fn, StopToken token, Results& out) -> Routine {
    out = co_await CoDoMany(group, keys, fn, token);
  };
  const auto await_signal = AwaitSignal(signal);
  {
    Results stopped, destroyed;
    const Routine first = ask(await_signal, {}, results);
    CHECK(group.GetListener().Told() == kJoined);
    const Routine second = ask(await_signal, stop.get_token(), stopped);
    { const Routine third = ask(await_signal, {}, destroyed); }
    stop.request_stop();
    signal.Fire();
    held.lead->Succeed(30);
    REQUIRE(first.Done());
  }
  CHECK(*results[1] == 20);
  const Lines follows{"follow 1 #2", "follow 2 #3", "follow 3 #1"};
  Lines expected = Plus(Plus(kJoined, follows), follows);
  expected = Plus(expected, {"leave 1 #2", "leave 2 #3", "leave 3 #1"});
  expected = Plus(expected, {"leave 1 #2: stop", "leave 2 #3: stop", "leave 3 #1: stop"});
  CHECK(group.GetListener().Told() ==
        Plus(expected, {"land 1 #2: 1", "land 2 #3: 1", "land 3 #1: 2"}));
}

TEST_CASE("DoManyAsync: a listener is told of each key") {
  RecordedInts group;
  HeldKey held(group, 3);
  Later later;
  auto futures = DoManyAsync(group, Keys{1, 2, 3}, TenTimes, std::ref(later));
  CHECK(group.GetListener().Told() == kJoined);
  futures.erase(futures.begin());
  later.RunAll();
  held.lead->Succeed(30);
  CHECK(*futures[0].Get() == 20);
  CHECK(*futures[1].Get() == 30);
  CHECK(group.GetListener().Told() ==
        Plus(kJoined, {"leave 1 #2", "land 1 #2: 0", "land 2 #3: 1", "land 3 #1: 2"}));
}

TEST_CASE("DoMany: a listener is told that all keys of an fn failed") {
  RecordedInts group;
  const auto results = DoMany(group, Keys{1, 2}, FailAll);
  CHECK_FALSE(results[0]);
  CHECK(group.GetListener().Told() ==
        Lines{"lead 1 #1", "lead 2 #2", "land 1 #1: 1, failed", "land 2 #2: 1, failed"});
}

TEST_CASE("Batcher: a listener is told of each key") {
  RecordedInts group;
  singleflight::Batcher<RecordedInts> batcher(group, TenTimes);
  auto a = DoAsync(batcher, 1);
  auto b = DoAsync(batcher, 2);
  auto c = DoAsync(batcher, 1);
  CHECK(group.GetListener().Told() == Lines{"lead 1 #1", "lead 2 #2", "follow 1 #1"});
  batcher.Flush();
  CHECK(*a.Get() == 10);
  CHECK(*b.Get() == 20);
  CHECK(*c.Get() == 10);
  CHECK(group.GetListener().Told() ==
        Lines{"lead 1 #1", "lead 2 #2", "follow 1 #1", "land 1 #1: 2", "land 2 #2: 1"});
}

TEST_CASE("Batcher: a listener is told that a caller in Do was stopped") {
  RecordedInts group;
  singleflight::StopSource stop;
  singleflight::Batcher<RecordedInts> batcher(group, [&](std::span<const int> keys) {
    stop.request_stop();
    return TenTimes(keys);
  });
  CHECK(ErrorOf([&] { return batcher.Do(1, {.stop = stop.get_token()}); }) ==
        std::errc::operation_canceled);
  CHECK(group.GetListener().Told() == Lines{"lead 1 #1", "leave 1 #1: stop", "land 1 #1: 0"});
}
