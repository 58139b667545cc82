// SPDX-License-Identifier: MIT

// These tests interleave callers of a group that has a listener. A follower may come before OnLead
// has returned, and a call may land while a follower is told of it.

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <system_error>

#include "support/catch.hpp"
#include "world.hpp"

using namespace std::chrono_literals;
using interleave::ExploreAll;
using interleave::Run;
using interleave::Scenario;
using interleave::World;
using singleflight::Landing;
using singleflight::LeaveReason;

namespace {

// Checks the order of what it is told, and that each tag is that of a call in flight. The tag of a
// call is its number, from 1.
class OrderChecker {
 public:
  int OnLead(int) { return 1 + led_.fetch_add(1); }
  void OnFollow(int, const int& tag) {
    CheckTag(tag);
    ++followed_;
  }
  void OnLeave(int, const int& tag, LeaveReason) {
    CheckTag(tag);
    ++left_;
  }
  void OnLand(int, const int& tag, const Landing& landing) {
    CheckTag(tag);
    World::Expect(landed_.at(static_cast<std::size_t>(tag))++ == 0, "a call landed twice");
    callers_ += static_cast<int>(landing.callers);
  }

  int Led() const { return led_; }
  int Landed(int tag) const { return landed_.at(static_cast<std::size_t>(tag)); }
  // When all callers have returned.
  void Check(const singleflight::Stats& stats) const {
    World::Expect(static_cast<int>(stats.executions) == led_, "OnLead does not add up");
    World::Expect(static_cast<int>(stats.followers) == followed_, "OnFollow does not add up");
    World::Expect(static_cast<int>(stats.left) == left_, "OnLeave does not add up");
    World::Expect(led_ + followed_ - left_ == callers_, "the callers do not add up");
    for (int tag = 1; tag <= led_; ++tag) World::Expect(Landed(tag) == 1, "OnLand was not called");
  }

 private:
  void CheckTag(int tag) const {
    World::Expect(0 < tag && tag <= led_, "a tag comes from no OnLead");
  }

  std::atomic<int> led_ = 0, followed_ = 0, left_ = 0, callers_ = 0;
  std::array<std::atomic<int>, 4> landed_ = {};
};

struct Checked : interleave::OneShard {
  using Listener = OrderChecker;
};
using CheckedGroup = singleflight::Group<int, int, singleflight::DefaultHash<int>,
                                         singleflight::DefaultEqual<int>, Checked>;

// The call in flight returns its tag.
auto TagOf(CheckedGroup& group) {
  return [&group] { return group.GetListener().Led(); };
}
void CheckResult(CheckedGroup& group, const singleflight::Result<int>& tag) {
  World::Expect(group.GetListener().Landed(*tag) == 1, "a caller has a result before OnLand");
}

class Notified final : public CheckedGroup::Waiter {
 public:
  // Joins, and leaves or takes the result.
  void Ask(CheckedGroup& group) {
    group.Join(1, *this, [&](CheckedGroup::Lead lead) { lead.Run(TagOf(group)); });
    if (this->Leave()) return;
    while (!landed_.load()) std::this_thread::yield();
    CheckResult(group, this->TakeResult());
  }

 private:
  void OnLanded() noexcept override { landed_.store(true); }
  std::atomic<bool> landed_ = false;
};

void Ask(CheckedGroup& group, singleflight::CallOptions options = {}) {
  try {
    CheckResult(group, group.Do(1, TagOf(group), options));
  } catch (const std::system_error& error) {
    World::Expect(error.code() == std::errc::timed_out, "a caller has another error");
  }
}

// Runs each of these on a thread, and checks what the listener was told.
template <class... Body>
auto Threads(Body... body) {
  return [=](Run& run) {
    Scenario scenario(run);
    scenario->idle = true;  // its own group is not used
    const auto group = std::make_shared<CheckedGroup>();
    (scenario.Thread([group, body](World&) { body(*group); }), ...);
    scenario.AtEnd([group](World&) { group->GetListener().Check(group->GetStats()); });
  };
}

}  // namespace

TEST_CASE("Interleavings: a listener is told in order of a leader and a follower") {
  ExploreAll("listener", Threads([](CheckedGroup& group) { Ask(group); },
                                 [](CheckedGroup& group) { Ask(group); }));
}

TEST_CASE("Interleavings: a listener is told in order of a leader and a follower that leaves") {
  ExploreAll("listener_leave", Threads([](CheckedGroup& group) { Ask(group); },
                                       [](CheckedGroup& group) { Ask(group, {.timeout = 50ms}); }));
}

TEST_CASE("Interleavings: a listener is told in order of a leader and a waiter that leaves") {
  ExploreAll("listener_waiter", Threads([](CheckedGroup& group) { Ask(group); },
                                        [](CheckedGroup& group) { Notified().Ask(group); }));
}

TEST_CASE("Interleavings: a listener is told in order of two waiters that leave") {
  ExploreAll("listener_waiters", Threads([](CheckedGroup& group) { Notified().Ask(group); },
                                         [](CheckedGroup& group) { Notified().Ask(group); }));
}

TEST_CASE("Interleavings: a listener is told in order of a leader and two that leave") {
  ExploreAll("listener_leave_3", Threads([](CheckedGroup& group) { Ask(group); },
                                         [](CheckedGroup& group) { Ask(group, {.timeout = 50ms}); },
                                         [](CheckedGroup& group) { Notified().Ask(group); }));
}
