// SPDX-License-Identifier: MIT

// Promise 10: a coroutine's frame can be destroyed at real-time priority, while a thread of a lower
// priority is about to resume it.

#include "support/platform.hpp"
#if TEST_HAS_REAL_TIME_THREADS

#include <atomic>
#include <coroutine>
#include <functional>
#include <latch>

#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/real_time.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::Group;
using singleflight::Stats;

namespace {

// A resume_on that calls `moved` when it is moved out of its frame, and counts the handles that it
// receives.
class ResumeOn {
 public:
  ResumeOn(std::function<void()>& moved, std::atomic<int>& handles)
      : moved_(moved), handles_(handles) {}
  ResumeOn(const ResumeOn&) = default;
  ResumeOn(ResumeOn&& other) noexcept : ResumeOn(other) {
    if (moved_) moved_();
  }
  void operator()(std::coroutine_handle<>) const { ++handles_; }

 private:
  std::function<void()>& moved_;
  std::atomic<int>& handles_;
};

}  // namespace

TEST_CASE("Promise 10: a frame can be destroyed by a thread whose priority is above the leader's") {
  if (!MayHaveRealTimeThreads()) {
    WARN("skipped, because this process may not have real-time priorities");
    return;
  }
  Group<int, int> group;
  Signal signal;
  std::function<void()> moved;
  std::atomic<int> handles = 0;
  const auto ask = [&]() -> Routine {
    const auto fn = [&signal]() -> Task<int> {
      co_await signal;
      co_return 7;
    };
    static_cast<void>(co_await CoDo(group, 1, fn, {}, ResumeOn(moved, handles)));
  };
  Routine routine = ask();
  std::latch resuming(1);
  moved = [&] { resuming.count_down(); };  // the upper thread takes the processor, until it sleeps
  int handles_before = -1;
  {
    const RealTimeThread upper(2, [&] {
      resuming.wait();
      handles_before = handles;
      routine.Destroy();
    });
    const RealTimeThread lower(1, [&] { signal.Fire(); });
  }
  CHECK(handles_before == 0);
  CHECK(handles == 1);
  CHECK(group.GetStats() == Stats{.executions = 1});
}

#endif
