// SPDX-License-Identifier: MIT
#pragma once

// Helpers that the tests share. Workers store what they saw, and the main thread asserts.

#include <cstddef>
#include <exception>
#include <functional>
#include <latch>
#include <optional>
#include <ostream>
#include <singleflight/singleflight.hpp>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "threads.hpp"

namespace singleflight {

// Catch2 prints these types with these operators.
inline std::ostream& operator<<(std::ostream& out, Role role) {
  return out << (role == Role::kLeader ? "kLeader" : "kFollower");
}
inline std::ostream& operator<<(std::ostream& out, const Stats& stats) {
  return out << "{executions " << stats.executions << ", followers " << stats.followers
             << ", failures " << stats.failures << ", left " << stats.left << ", refused "
             << stats.refused << ", in_flight " << stats.in_flight << "}";
}

}  // namespace singleflight

namespace test {

using namespace std::chrono_literals;

// Waits until `condition` is true. A hang here is a failure, which ctest's timeout stops.
template <class Condition>
void Await(Condition&& condition) {
  while (!condition()) std::this_thread::yield();
}

// Gives other threads the time to go on: yields so often, but not for long on a busy machine, where
// each time takes longer.
inline void LetOthersRun(int times) {
  const auto enough = std::chrono::steady_clock::now() + 10ms;
  for (int i = 0; i < times && std::chrono::steady_clock::now() < enough; ++i) {
    std::this_thread::yield();
  }
}

template <class Group, class Key>
void AwaitCallers(const Group& group, const Key& key, std::size_t count) {
  Await([&] { return group.Callers(key) == count; });
}

// Whether there has been a call, and the calls so far have had `count` callers each.
template <class Group>
bool HadCallersEach(const Group& group, std::size_t count) {
  const singleflight::Stats stats = group.GetStats();
  return stats.executions > 0 && stats.followers + stats.executions >= count * stats.executions;
}
template <class Group>
void AwaitCallersOfEach(const Group& group, std::size_t count) {
  Await([&] { return HadCallersEach(group, count); });
}

// A caller's outcome.
template <class Value>
struct Outcome {
  std::optional<Value> value;
  bool shared = false;
  singleflight::Role role = singleflight::Role::kLeader;
  std::optional<std::errc> error;  // the code of a std::system_error
  std::string message;             // the text of another std::exception
};

// Calls `ask`, which returns a Result, and returns its outcome.
template <class Ask>
auto Keep(Ask&& ask) {
  using Value = std::remove_cvref_t<decltype(*ask())>;
  Outcome<Value> outcome;
  try {
    const auto result = ask();
    outcome.value = *result;
    outcome.shared = result.shared();
    outcome.role = result.role();
  } catch (const std::system_error& error) {
    outcome.error = static_cast<std::errc>(error.code().value());
  } catch (const std::exception& error) {
    outcome.message = error.what();
  }
  return outcome;
}

// Returns the std::errc with which `ask` fails, if it does.
template <class Ask>
std::optional<std::errc> ErrorOf(Ask&& ask) {
  try {
    static_cast<void>(ask());
    return std::nullopt;
  } catch (const std::system_error& error) {
    return static_cast<std::errc>(error.code().value());
  }
}

// A thread that asks, and keeps the outcome for Join.
template <class Value>
class Caller {
 public:
  template <class Ask>
  explicit Caller(Ask ask)
      : thread_([this, ask = std::move(ask)]() mutable { outcome_ = Keep(ask); }) {}

  const Outcome<Value>& Join() {
    if (thread_.joinable()) thread_.join();
    return outcome_;
  }

 private:
  Outcome<Value> outcome_;
  JoiningThread thread_;
};

template <class Ask>
Caller(Ask) -> Caller<std::remove_cvref_t<decltype(*std::declval<Ask&>()())>>;

// A call for `key`. Its leader stays inside its function until Finish or until this object is
// destroyed, and then returns 1.
template <class Group, class Key>
class HeldCall {
 public:
  HeldCall(Group& group, const Key& key)
      : leader_([this, &group, key] {
          return group.Do(key, [this] {
            finish_.wait();
            return 1;
          });
        }) {
    AwaitCallers(group, key, 1);
  }
  ~HeldCall() { Finish(); }

  const Outcome<int>& Finish() {
    if (!std::exchange(finished_, true)) finish_.count_down();
    return leader_.Join();
  }

 private:
  bool finished_ = false;
  std::latch finish_{1};
  Caller<int> leader_;
};

// Asks on `count` threads at the same time, and returns their outcomes.
template <class Ask>
auto AskAtOnce(std::size_t count, Ask ask) {
  std::vector<decltype(Keep(ask))> outcomes(count);
  std::vector<JoiningThread> threads;
  for (auto& outcome : outcomes) threads.emplace_back([&] { outcome = Keep(ask); });
  threads.clear();
  return outcomes;
}

}  // namespace test
