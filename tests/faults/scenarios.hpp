// SPDX-License-Identifier: MIT
#pragma once

// Scenarios for fault injection: a caller, one of whose fault points may fail, with others who are
// well-behaved. What they have in common, and where they are registered.

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <sstream>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "faults.hpp"
#include "support/coroutines.hpp"

namespace test {

inline constexpr int kOwn = 1;     // what the caller's own function returns
inline constexpr int kOthers = 2;  // what another leader's returns
inline constexpr int kNever = 3;   // what that of a well-behaved follower would
inline constexpr int kAgain = 4;

// A way to be a caller: asks on this thread until something came of it.
struct Way {
  const char* name;
  Heard (*ask)(FaultyGroup& group, const FaultyKey& key, FnControl& control);
  bool may_terminate = false;
};

// Runs one scenario; what was wrong with it, or nothing.
struct Scenario {
  std::string name;
  std::function<std::string(Plan& plan)> run;
  // Each run is a process of its own: where memory, or the copy of a key or function, fails, it may
  // terminate.
  bool may_terminate = false;
};

// Of all test files.
inline std::vector<Scenario>& Scenarios() {
  static std::vector<Scenario> scenarios;
  return scenarios;
}

// Adds for each way: a caller that leads, alone and with followers of every kind, and one that
// follows. The ways must stay.
void AddWays(std::span<const Way> ways);

struct AddScenarios {
  explicit AddScenarios(void (*add)()) { add(); }
};

// Where a coroutine is resumed by the caller's own thread, whose points are the plan's.
class OwnThread {
 public:
  auto ResumeOn() {
    return [this](std::coroutine_handle<> handle) { address_ = handle.address(); };
  }
  void RunUntilDone(const Routine& routine) {
    if (routine.Done()) return;
    {
      const Arm none(nullptr);
      Await([&] { return address_ != nullptr; });
    }
    std::coroutine_handle<>::from_address(address_).resume();
  }

 private:
  std::atomic<void*> address_ = nullptr;
};

template <class Fn, class ResumeOn>
Routine AskInCoroutine(FaultyGroup& group, const FaultyKey& key, const Fn& fn,
                       const std::stop_token& stop, const ResumeOn& resume_on, Heard& heard,
                       std::exception_ptr& error) {
  try {
    const auto result = co_await singleflight::CoDo(group, key, fn, stop, resume_on);
    heard = HeardOf(result);
  } catch (...) {
    error = std::current_exception();
  }
}

// A call that the test lands when it likes.
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

// ---- What came of it

class Problems {
 public:
  template <class A, class B>
  void Equal(const A& is, const B& should_be, const char* what) {
    if (is == should_be) return;
    std::ostringstream text;
    text << what << ": " << is << ", not " << should_be << "; ";
    text_ += text.str();
  }
  void True(bool holds, const char* what) { Equal(holds, true, what); }
  const std::string& Text() const { return text_; }

 private:
  std::string text_;
};

// What a caller hears whose faults are those of the plan; if there were none, that.
inline void CheckFaulty(Problems& problems, const Plan& plan, const Heard& heard,
                        const Heard& else_expected) {
  const bool fails = plan.first != Fault::kNone;
  if (!fails) {
    problems.Equal(heard, else_expected, "the caller got");
  } else if (!plan.and_all_later) {
    problems.Equal(heard, Heard::Of(plan.first), "the caller got");
  } else {  // handling the first fault met others
    problems.True(heard == Heard::Of(Fault::kValue) || heard == Heard::Of(Fault::kAllocation) ||
                      heard == Heard::Of(Fault::kThread),
                  "the caller failed with what was injected");
  }
}

inline void CheckKeyWorksAgain(Problems& problems, FaultyGroup& group, const FaultyKey& key) {
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
