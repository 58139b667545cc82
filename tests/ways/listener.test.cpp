// SPDX-License-Identifier: MIT

// Traits::Listener: what a group tells it of callers in DoAsync, DoThen, CoDo and Batcher.

#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kept_tasks.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/recorder.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::DoAsync;
using singleflight::DoThen;
using singleflight::KeyResult;
using singleflight::LeaveReason;
using singleflight::OnFailure;

namespace {

int ReturnOne() { return 1; }
int ThrowDown() { throw std::runtime_error("down"); }

// The lines of a call that failed with one follower, and of the second try, which the follower led.
const Lines kRetried{"lead key #1", "follow key #1", "land key #1: 2, failed", "lead key #2",
                     "land key #2: 1"};

}  // namespace

TEST_CASE("DoAsync: a listener is told of callers that lead and follow and of the landing") {
  RecordedGroup group;
  KeptTasks tasks;
  auto a = DoAsync(group, "key", ReturnOne, tasks.Executor());
  auto b = DoAsync(group, "key", ReturnOne, tasks.Executor());
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1"});
  tasks.RunNext();
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1", "land key #1: 2"});
  CHECK(*a.Get() == 1);
  CHECK(*b.Get() == 1);
}

TEST_CASE("DoAsync: a listener is told that futures were destroyed and that a task was") {
  RecordedGroup group;
  KeptTasks tasks;
  {
    auto a = DoAsync(group, "key", ReturnOne, tasks.Executor());
    { auto b = DoAsync(group, "key", ReturnOne, tasks.Executor()); }
    { auto c = DoAsync(group, "key", ReturnOne, tasks.Executor(), OnFailure::kRetry); }
  }
  tasks.tasks.clear();
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1", "leave key #1",
                                            "follow key #1", "leave key #1", "leave key #1",
                                            "land key #1: 0, failed"});
}

TEST_CASE("DoAsync: a listener is told of the second try on the thread that landed the first") {
  RecordedGroup group;
  KeptTasks tasks;
  auto a = DoAsync(group, "key", ThrowDown, tasks.Executor());
  auto b = DoAsync(group, "key", ReturnOne, tasks.Executor(), OnFailure::kRetry);
  tasks.RunNext();
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "follow key #1", "land key #1: 2, failed", "lead key #2"});
  tasks.RunNext();
  CHECK(*b.Get() == 1);
  CHECK(group.GetListener().Told() == kRetried);
}

TEST_CASE("DoAsync: a listener is told that an executor refused the task") {
  RecordedGroup group;
  auto a = DoAsync(group, "key", ReturnOne, [](auto) { ThrowDown(); });
  CHECK(Keep([&] { return a.Get(); }).message == "down");
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "land key #1: 1, failed"});
}

TEST_CASE("DoAsync: a listener is told before a caller on another thread has its result") {
  RecordedGroup group;
  for (int round = 1; round <= 100; ++round) {
    CHECK(*DoAsync(group, "key", ReturnOne).Get() == 1);
    CHECK(group.GetListener().Told().size() == 2 * static_cast<std::size_t>(round));
  }
}

TEST_CASE("DoThen: a listener is told of callers that lead and follow and leave") {
  RecordedGroup group;
  KeptTasks tasks;
  int called = 0;
  const auto callback = [&](KeyResult<int>) { ++called; };
  singleflight::Caller led = DoThen(group, "key", ReturnOne, tasks.Executor(), callback);
  singleflight::Caller stays = DoThen(group, "key", ReturnOne, tasks.Executor(), callback);
  singleflight::Caller leaves = DoThen(group, "key", ReturnOne, tasks.Executor(), callback);
  CHECK(leaves.Leave());
  led = {};
  tasks.RunNext();
  CHECK(called == 1);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1", "follow key #1",
                                            "leave key #1", "leave key #1", "land key #1: 1"});
}

TEST_CASE("DoThen: a listener is told of the second try") {
  RecordedGroup group;
  KeptTasks tasks;
  const auto ignore = [](KeyResult<int>) {};
  singleflight::Caller a = DoThen(group, "key", ThrowDown, tasks.Executor(), ignore);
  singleflight::Caller b =
      DoThen(group, "key", ReturnOne, tasks.Executor(), ignore, OnFailure::kRetry);
  tasks.RunNext();
  tasks.RunNext();
  CHECK(group.GetListener().Told() == kRetried);
}

TEST_CASE("CoDo: a listener is told of coroutines that lead and follow and leave") {
  RecordedGroup group;
  Signal signal;
  Outcome<int> a, b, c, d;
  StopSource stop;
  const auto load = [&signal]() -> Task<int> {
    co_await signal;
    co_return 1;
  };
  const auto ask = [&](StopToken token) {
    return [&, token] { return CoDo(group, "key", load, token); };
  };
  const Routine leads = StoreOutcome(a, ask({}));
  const Routine follows = StoreOutcome(b, ask({}));
  const Routine stopped = StoreOutcome(c, ask(stop.get_token()));
  { const Routine destroyed = StoreOutcome(d, ask({})); }
  stop.request_stop();
  CHECK(c.error == std::errc::operation_canceled);
  signal.Fire();
  CHECK(a.value == 1);
  CHECK(b.value == 1);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1", "follow key #1",
                                            "follow key #1", "leave key #1", "leave key #1: stop",
                                            "land key #1: 2"});
}

TEST_CASE("CoDo: a listener is told of the second try") {
  RecordedGroup group;
  KeptTasks tasks;
  Outcome<int> a, b;
  const auto ask = [&](int (&fn)(), OnFailure on_failure) {
    return [&, on_failure] {
      return CoDo(group, "key", fn, tasks.Executor(), StopToken(), singleflight::ResumeInline(),
                  on_failure);
    };
  };
  const Routine leads = StoreOutcome(a, ask(ThrowDown, OnFailure::kShare));
  const Routine follows = StoreOutcome(b, ask(ReturnOne, OnFailure::kRetry));
  tasks.RunNext();
  tasks.RunNext();
  CHECK(a.message == "down");
  CHECK(b.value == 1);
  CHECK(group.GetListener().Told() == kRetried);
}
