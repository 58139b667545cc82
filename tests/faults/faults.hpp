// SPDX-License-Identifier: MIT
#pragma once

// Fault injection: every operation that can fail on a caller's thread fails in turn.
//
// Each such operation passes a point: an allocation, a hash, an equality, a copy or move of a key,
// value or function, the function, an executor, or a thread's start. A plan says which point of one
// caller fails, counted from 0: that one alone, or that one and all later ones. faults.test.cpp
// runs each scenario (scenarios.hpp) with one plan after another, until a run finishes before it
// reaches the point that must fail. So no point is left out, whoever added it.

#include <atomic>
#include <cstddef>
#include <exception>
#include <new>
#include <ostream>
#include <system_error>
#include <utility>

#include "support/allocations.hpp"
#include "support/support.hpp"

namespace test {

// ---- Points

enum class Fault : unsigned char {
  kNone,
  kAllocation,
  kNothrowAllocation,  // the code continues without the memory
  kHash,
  kEqual,
  kKey,    // its copy or move
  kValue,  // its copy or move
  kFn,
  kFnCopy,  // its copy or move
  kExecutor,
  kExecutorAfterwards,  // it throws after it has run the task
  kThread,
  kCache,  // an operation of the cache that callers can do without
};

inline const char* Name(Fault fault) {
  constexpr const char* kNames[] = {"nothing",
                                    "an allocation",
                                    "a nothrow allocation",
                                    "a hash",
                                    "an equality",
                                    "a key's copy or move",
                                    "a value's copy or move",
                                    "fn",
                                    "the copy or move of fn",
                                    "an executor",
                                    "an executor that has run its task",
                                    "a thread's start",
                                    "the cache"};
  return kNames[static_cast<std::size_t>(fault)];
}

// Whether a caller succeeds in spite of the fault.
inline bool Harmless(Fault fault) {
  return fault == Fault::kNone || fault == Fault::kNothrowAllocation ||
         fault == Fault::kExecutorAfterwards || fault == Fault::kCache;
}

// The faults of one caller. The fields belong to the thread on which the plan is armed, and to the
// test before and afterwards.
struct Plan {
  std::size_t fails_at;
  bool and_all_later;

  std::size_t passed = 0;  // points passed so far
  bool fired = false;
  Fault first = Fault::kNone;        // the first fault that was not harmless
  bool first_came_late = false;      // `first` came after the call landed, so it fails nobody else
  std::atomic<bool> landed = false;  // set by a follower when it is notified, on any thread
};

inline thread_local Plan* armed_plan = nullptr;  // null: on this thread nothing fails

inline bool Fails(Fault fault) noexcept {
  Plan* const plan = armed_plan;
  if (plan == nullptr) return false;
  const std::size_t point = plan->passed++;
  if (plan->and_all_later ? point < plan->fails_at : point != plan->fails_at) return false;
  plan->fired = true;
  if (plan->first == Fault::kNone && !Harmless(fault)) {
    plan->first = fault;
    plan->first_came_late = plan->landed;
  }
  return true;
}

// The exception that a user's operation throws when its point fails.
struct Injected {
  Injected() noexcept { ++live; }
  Injected(const Injected&) noexcept { ++live; }
  ~Injected() { --live; }
  static inline std::atomic<int> live = 0;
};

inline void Pass(Fault fault) {
  if (Fails(fault)) throw Injected();
}

inline bool AllocationFails(bool throws) noexcept {
  return Fails(throws ? Fault::kAllocation : Fault::kNothrowAllocation);
}

// While it lives, this thread passes the points of `plan`. If `plan` is null, nothing fails.
class ScopedPlan {
 public:
  explicit ScopedPlan(Plan* plan) noexcept : outer_(std::exchange(armed_plan, plan)) {
    allocation_fails = plan != nullptr ? AllocationFails : nullptr;
  }
  ~ScopedPlan() {
    armed_plan = outer_;
    allocation_fails = outer_ != nullptr ? AllocationFails : nullptr;
  }
  ScopedPlan(const ScopedPlan&) = delete;
  ScopedPlan& operator=(const ScopedPlan&) = delete;

 private:
  Plan* const outer_;
};

// ---- A user's types, whose operations are points

struct FaultyKey {
  explicit FaultyKey(int its_id) noexcept : id(its_id) { ++live; }
  FaultyKey(const FaultyKey& other) : id(other.id) {
    Pass(Fault::kKey);
    ++live;
  }
  FaultyKey(FaultyKey&& other) : id(other.id) {
    Pass(Fault::kKey);
    ++live;
  }
  FaultyKey& operator=(const FaultyKey&) = delete;
  ~FaultyKey() { --live; }

  const int id;
  static inline std::atomic<int> live = 0;
};

// All keys share one bucket, so that KeyEqual is called.
struct FaultyHash {
  std::size_t operator()(const FaultyKey&) const {
    Pass(Fault::kHash);
    return 1;
  }
};

struct FaultyEqual {
  bool operator()(const FaultyKey& a, const FaultyKey& b) const {
    Pass(Fault::kEqual);
    return a.id == b.id;
  }
};

struct FaultyValue {
  explicit FaultyValue(int its_number) noexcept : number(its_number) { ++live; }
  FaultyValue(const FaultyValue& other) : number(other.number) {
    Pass(Fault::kValue);
    ++live;
  }
  FaultyValue(FaultyValue&& other) : number(other.number) {
    Pass(Fault::kValue);
    ++live;
  }
  FaultyValue& operator=(const FaultyValue& other) {
    Pass(Fault::kValue);
    number = other.number;
    return *this;
  }
  FaultyValue& operator=(FaultyValue&& other) { return *this = std::as_const(other); }
  ~FaultyValue() { --live; }

  int number;
  static inline std::atomic<int> live = 0;
};

using FaultyGroup = singleflight::Group<FaultyKey, FaultyValue, FaultyHash, FaultyEqual>;

// ---- A caller's outcome

struct Heard {
  enum class What : unsigned char { kNothing, kValue, kInjected, kNoMemory, kErrc, kOther };

  What what = What::kNothing;
  int number = 0;  // the value or the errc
  singleflight::Role role = singleflight::Role::kLeader;
  bool shared = false;

  static Heard Value(int number) { return {.what = What::kValue, .number = number}; }
  static Heard Error(std::errc code) {
    return {.what = What::kErrc, .number = static_cast<int>(code)};
  }
  // Returns what a caller gets when `fault` hits it.
  static Heard Of(Fault fault) {
    if (fault == Fault::kAllocation) return {.what = What::kNoMemory};
    if (fault == Fault::kThread) return Error(std::errc::resource_unavailable_try_again);
    return {.what = What::kInjected};
  }

  bool Failed() const { return what != What::kValue; }
  // Compares the outcome, but not `role` and `shared`.
  bool operator==(const Heard& other) const { return what == other.what && number == other.number; }
};

inline std::ostream& operator<<(std::ostream& out, const Heard& heard) {
  constexpr const char* kNames[] = {"nothing",   "the value",    "the injected exception",
                                    "bad_alloc", "system_error", "something else"};
  return out << kNames[static_cast<std::size_t>(heard.what)] << ' ' << heard.number;
}

inline Heard HeardOf(const singleflight::Result<FaultyValue>& result) {
  return {.what = Heard::What::kValue,
          .number = result->number,
          .role = result.role(),
          .shared = result.shared()};
}

// Calls `ask`, whose points are those of `plan`, and returns what it returned or threw.
template <class Ask>
Heard Hear(Plan* plan, Ask&& ask) {
  try {
    const ScopedPlan arm(plan);
    return ask();
  } catch (const Injected&) {
    return {.what = Heard::What::kInjected};
  } catch (const std::bad_alloc&) {
    return {.what = Heard::What::kNoMemory};
  } catch (const std::system_error& error) {
    return Heard::Error(static_cast<std::errc>(error.code().value()));
  } catch (...) {
    return {.what = Heard::What::kOther};
  }
}

inline Heard HeardOf(const std::exception_ptr& error) {
  return Hear(nullptr, [&]() -> Heard { std::rethrow_exception(error); });
}

// ---- A caller's function

// The test controls a caller's `fn` through this.
struct FnControl {
  explicit FnControl(int its_number) noexcept : number(its_number) {}

  // The body of a caller's `fn`. It counts the run, waits until it is released, and may fail.
  void Run() {
    {
      const ScopedPlan none(nullptr);
      ++runs;
      Await([&] { return released.load(); });
    }
    Pass(Fault::kFn);
  }

  const int number;  // what `fn` returns
  std::atomic<int> runs = 0;
  std::atomic<bool> released = false;
};

// The function itself, like a user's closure whose copy may throw.
class FaultyFn {
 public:
  explicit FaultyFn(FnControl& control) noexcept : control_(&control) { ++live; }
  FaultyFn(const FaultyFn& other) : control_(other.control_) {
    Pass(Fault::kFnCopy);
    ++live;
  }
  FaultyFn(FaultyFn&& other) : control_(other.control_) {
    Pass(Fault::kFnCopy);
    ++live;
  }
  FaultyFn& operator=(const FaultyFn&) = delete;
  ~FaultyFn() { --live; }

  FaultyValue operator()() const {
    control_->Run();
    return FaultyValue(control_->number);
  }

  FnControl& control() const { return *control_; }
  static inline std::atomic<int> live = 0;

 private:
  FnControl* control_;
};

// The same function with a stop token.
class FaultyStoppableFn : public FaultyFn {
 public:
  using FaultyFn::FaultyFn;
  FaultyValue operator()(StopToken) const { return FaultyFn::operator()(); }
};

}  // namespace test
