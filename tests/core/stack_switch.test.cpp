// SPDX-License-Identifier: MIT

// Tests promise 9 where fn suspends its stack, as a fiber or a stackful coroutine does, and another
// thread continues it. Deadlocks are detected by thread, so this is a misuse. It must do no harm
// once fn has returned.

#include "sanitizers/sanitizers.hpp"

// The sanitizers do not follow a stack to another thread.
#if __has_include(<ucontext.h>) && !defined(UNDER_SANITIZER)

#include <ucontext.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::Stats;

namespace {

// A function with a stack of its own. Any thread may resume it, one at a time.
class Fiber {
 public:
  explicit Fiber(std::function<void()> body) : body_(std::move(body)) {
    getcontext(&own_);
    own_.uc_stack.ss_sp = stack_->data();
    own_.uc_stack.ss_size = stack_->size();
    own_.uc_link = nullptr;
    starting = this;
    makecontext(&own_, Begin, 0);
    Resume();  // until Begin has read `starting`
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs the body until it suspends itself or returns.
  void Resume() { swapcontext(&resumer_, &own_); }
  // Called by the body: returns when a thread resumes it.
  void Suspend() { swapcontext(&own_, &resumer_); }

 private:
  static void Begin() {
    Fiber& self = *std::exchange(starting, nullptr);
    self.Suspend();
    self.body_();
    self.Suspend();  // for ever
  }

  static inline Fiber* starting = nullptr;

  std::function<void()> body_;
  std::unique_ptr<std::array<std::byte, 256 * 1024>> stack_ =
      std::make_unique<std::array<std::byte, 256 * 1024>>();
  ucontext_t own_{};
  ucontext_t resumer_{};
};

constexpr auto kDeadlock = std::errc::resource_deadlock_would_occur;

}  // namespace

TEST_CASE("Promise 1: a fn that another thread continues serves its followers") {
  Group<std::string, int> group;
  std::optional<Fiber> fiber;
  Outcome<int> leader;
  fiber.emplace([&] {
    leader = Keep([&] {
      return group.Do("key", [&] {
        fiber->Suspend();
        return 1;
      });
    });
  });
  std::latch suspended(1);
  std::latch finished(1);
  JoiningThread first([&] {
    fiber->Resume();
    suspended.count_down();
    finished.wait();
  });
  suspended.wait();
  Caller follower([&] { return group.Do("key", [] { return 2; }); });
  AwaitCallers(group, "key", 2);
  fiber->Resume();
  finished.count_down();
  CHECK(leader.value == 1);
  CHECK(follower.Join().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1});
}

TEST_CASE("Promise 9: a thread on which a fn from another thread has finished detects deadlocks") {
  Group<std::string, int> group;
  std::optional<Fiber> fiber;
  fiber.emplace([&] {
    static_cast<void>(group.Do("moved", [&] {
      fiber->Suspend();
      return 1;
    }));
  });
  const auto two = [] { return 2; };
  const auto asks_for_itself = [&] {
    return ErrorOf([&] {
      return group.Do("key", [&] {
        // If the deadlock is not detected, the timeout ends it.
        return *group.Do("key", two, {.timeout = 5s});
      });
    });
  };
  std::optional<std::errc> on_first;
  std::optional<std::errc> on_second;
  JoiningThread first([&] {
    fiber->Resume();
    JoiningThread([&] {
      fiber->Resume();
      on_second = asks_for_itself();
    }).join();
    on_first = asks_for_itself();
  });
  first.join();
  CHECK(on_second == kDeadlock);
  CHECK(on_first == kDeadlock);
}

TEST_CASE("Promise 9: a thread may wait for a call whose work has moved away from it") {
  using G = Group<std::string, int>;
  G group;
  std::optional<G::Lead> lead;
  auto future = group.Join("key", [&](G::Lead its_lead) { lead.emplace(std::move(its_lead)); });
  std::optional<Fiber> fiber;
  fiber.emplace([&] { lead->Start([&] { fiber->Suspend(); }); });
  Outcome<int> waited;
  std::atomic<bool> finished = false;
  JoiningThread first([&] {
    fiber->Resume();
    JoiningThread([&] { fiber->Resume(); }).join();  // what Start has run is over, elsewhere
    waited =
        Keep([&] { return group.Do("outer", [&] { return *group.Do("key", [] { return 2; }); }); });
    finished = true;
  });
  Await([&] { return group.Callers("key") == 2 || finished; });
  lead->Succeed(1);
  first.join();
  CHECK(waited.value == 1);
  CHECK_FALSE(waited.error);
  CHECK(*future.Get() == 1);
}

#endif
