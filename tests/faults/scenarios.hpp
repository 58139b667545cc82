// SPDX-License-Identifier: MIT
#pragma once

// The scenarios for fault injection share this code, and are registered here. In a scenario, one
// caller's fault points may fail, and the other callers are well-behaved.

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "faults.hpp"
#include "support/coroutines.hpp"

namespace test {

inline constexpr int kOwn = 1;     // what the caller's own function returns
inline constexpr int kOthers = 2;  // what another leader's function returns
inline constexpr int kNever = 3;   // what a well-behaved follower's function would return
inline constexpr int kAgain = 4;

// A way to be a caller. `ask` asks on this thread and returns the outcome.
struct Way {
  const char* name;
  Heard (*ask)(FaultyGroup& group, const FaultyKey& key, FnControl& control);
  bool may_terminate = false;
};

// One scenario. `run` returns what was wrong, or an empty string.
struct Scenario {
  std::string name;
  std::function<std::string(Plan& plan)> run;
  // Each run is a process of its own, which may terminate when an allocation or the copy of a key
  // or function fails.
  bool may_terminate = false;
};

// Returns the scenarios of all test files.
inline std::vector<Scenario>& Scenarios() {
  static std::vector<Scenario> scenarios;
  return scenarios;
}

// Adds scenarios for each way: a caller leads alone, leads with followers of every kind, and
// follows. `ways` must outlive the scenarios.
void AddWays(std::span<const Way> ways);

struct AddScenarios {
  explicit AddScenarios(void (*add)()) { add(); }
};

// Resumes a coroutine on the caller's own thread, where the plan is armed.
class ManualResumer {
 public:
  auto ResumeOn() {
    return [this](std::coroutine_handle<> handle) { address_ = handle.address(); };
  }
  void RunUntilDone(const Routine& routine) {
    if (routine.Done()) return;
    {
      const ScopedPlan none(nullptr);
      Await([&] { return address_ != nullptr; });
    }
    std::coroutine_handle<>::from_address(address_).resume();
  }

 private:
  std::atomic<void*> address_ = nullptr;
};

template <class Fn, class ResumeOn>
Routine AskInCoroutine(FaultyGroup& group, const FaultyKey& key, const Fn& fn,
                       const StopToken& stop, const ResumeOn& resume_on, Heard& heard,
                       std::exception_ptr& error) {
  try {
    const auto result = co_await singleflight::CoDo(group, key, fn, stop, resume_on);
    heard = HeardOf(result);
  } catch (...) {
    error = std::current_exception();
  }
}

// A call that lands when the test says so.
class LedCall {
 public:
  LedCall(FaultyGroup& group, const FaultyKey& key) {
    group.Join(key, waiter_, [this](FaultyGroup::Lead lead) { lead_.emplace(std::move(lead)); });
  }
  ~LedCall() { waiter_.Detach(); }
  void Land() { lead_->Succeed(FaultyValue(kOthers)); }
  Heard TakeResult() {
    return Hear(nullptr, [&] { return HeardOf(waiter_.TakeResult()); });
  }

 private:
  struct Silent final : FaultyGroup::Waiter {
    void OnLanded() noexcept override {}
  } waiter_;
  std::optional<FaultyGroup::Lead> lead_;
};

// ---- Checks

class Failures {
 public:
  template <class A, class B>
  void Equal(const A& is, const B& should_be, const char* what) {
    if (is == should_be) return;
    std::ostringstream text;
    text << what << ": " << is << ", not " << should_be << ". ";
    text_ += text.str();
  }
  void True(bool holds, const char* what) { Equal(holds, true, what); }
  const std::string& Text() const { return text_; }

 private:
  std::string text_;
};

// Checks that a caller got the plan's failure or, if nothing failed, `else_expected`.
inline void CheckFaulty(Failures& problems, const Plan& plan, const Heard& heard,
                        const Heard& else_expected) {
  const bool fails = plan.first != Fault::kNone;
  if (!fails) {
    problems.Equal(heard, else_expected, "the caller got");
  } else if (!plan.and_all_later) {
    problems.Equal(heard, Heard::Of(plan.first), "the caller got");
  } else {  // other faults hit the handling of the first
    problems.True(heard == Heard::Of(Fault::kValue) || heard == Heard::Of(Fault::kAllocation) ||
                      heard == Heard::Of(Fault::kThread),
                  "the caller failed with an injected fault");
  }
}

inline void CheckKeyWorksAgain(Failures& problems, FaultyGroup& group, const FaultyKey& key) {
  FnControl control(kAgain);
  control.released = true;
  const Heard heard =
      Hear(nullptr, [&] { return HeardOf(group.Do(key, FaultyFn(control), {.timeout = 1h})); });
  problems.Equal(heard, Heard::Value(kAgain), "the next caller got");
  problems.True(!heard.shared && heard.role == singleflight::Role::kLeader,
                "the next caller led alone");
  problems.Equal(group.GetStats().in_flight, 0u, "calls in flight at the end");
}

}  // namespace test
