// SPDX-License-Identifier: MIT
#pragma once

// A history records what many callers asked for and got. The check finds out whether a group that
// keeps its promises could have produced it. Callers and functions write down what they saw and
// when. The check runs when all is over, so it disturbs nobody.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <singleflight/result.hpp>
#include <sstream>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace test {

// A time of the steady clock, which no thread sees go back.
using Nanoseconds = std::int64_t;
inline Nanoseconds Now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline constexpr std::uint32_t kNoExecution = std::numeric_limits<std::uint32_t>::max();

// One run of a function for one key. Its number is its index in History::executions.
struct Execution {
  int key = 0;
  std::uint64_t asked_by = 0;  // the operation whose function it is
  Nanoseconds asked = 0;       // when that operation began
  Nanoseconds begin = 0;       // when the function began
  Nanoseconds end = 0;
  bool failed = false;
  bool stopped = false;  // was asked to stop before it finished
};

enum class Got : unsigned char {
  kValue,
  kFailure,    // what the execution threw
  kOwnerDead,  // the leader's task was dropped
  kTimedOut,
  kCanceled,
  kRefused,
  kDeadlock,
  kLeft,     // it left, by Leave
  kDropped,  // its Future or frame was destroyed: it left, or did not look
};

// One caller of one key.
struct Ask {
  int key = 0;
  std::uint64_t operation = 0;
  Nanoseconds start = 0;
  Nanoseconds end = 0;
  Got got = Got::kDropped;
  std::uint32_t execution = kNoExecution;
  singleflight::Role role = singleflight::Role::kFollower;  // if it got a value
  bool shared = false;                                      // if it got a value
  bool retries = false;
  bool stop_requested = false;  // by the time it finished

  bool HasOutcome() const { return got == Got::kValue || got == Got::kFailure; }
  // Returns whether it may have been the last to leave its call.
  bool MayHaveForgotten() const {
    return got == Got::kTimedOut || got == Got::kCanceled || got == Got::kLeft ||
           got == Got::kDropped || stop_requested;
  }
};

// A key was, or may have been, forgotten.
struct Forgetting {
  int key = 0;
  Nanoseconds start = 0;
  Nanoseconds end = 0;
  bool certain = false;  // no call that was in flight at its start can be joined after its end
};

struct History {
  std::vector<Execution> executions;
  std::vector<Ask> asks;
  std::vector<Forgetting> forgettings;
  // These are the options of the group.
  std::size_t max_callers_per_call = std::numeric_limits<std::size_t>::max();
  std::size_t max_calls_in_flight = std::numeric_limits<std::size_t>::max();
  std::optional<Nanoseconds> max_age;
  // On keys below this one nobody leaves and nobody forgets.
  int strict_keys = 0;
};

// Finds what a group that keeps its promises could not have done.
class HistoryCheck {
 public:
  explicit HistoryCheck(const History& history) : history_(history) {
    callers_.resize(history.executions.size());
    landed_by_.resize(history.executions.size(), std::numeric_limits<Nanoseconds>::max());
    for (const Ask& ask : history.asks) {
      if (!ask.HasOutcome() || ask.execution >= landed_by_.size()) continue;
      landed_by_[ask.execution] = std::min(landed_by_[ask.execution], ask.end);
    }
    for (const Forgetting& it : history.forgettings) forgetting_[it.key].push_back(it);
    for (const Ask& ask : history.asks) {
      if (ask.MayHaveForgotten()) forgetting_[ask.key].push_back({ask.key, ask.start, ask.end});
    }
    for (const Ask& ask : history.asks) CheckAsk(ask);
    for (std::size_t i = 0; i < callers_.size(); ++i) CheckCallers(i);
    CheckOneAtATime();
    CheckCallsInFlight();
  }

  // Each is one sentence.
  const std::vector<std::string>& Violations() const { return violations_; }

 private:
  void CheckAsk(const Ask& ask) {
    if (ask.end < ask.start) Report("a caller finished before it started", ask);
    if (Strict(ask.key) && ask.MayHaveForgotten()) {
      Report("a caller that could not leave has left", ask);
    }
    if (ask.got == Got::kDeadlock) Report("a deadlock where there was none", ask);
    if (!ask.HasOutcome()) return;
    if (ask.execution >= callers_.size()) {
      return Report("a caller got a result that no execution made", ask);
    }
    const Execution& execution = history_.executions[ask.execution];
    callers_[ask.execution].push_back(&ask);
    const bool own = execution.asked_by == ask.operation;
    if (execution.key != ask.key) Report("a caller got another key's result", ask);
    if (execution.failed != (ask.got == Got::kFailure)) {
      Report("a caller got a value from an execution that failed, or the other way round", ask);
    }
    if (execution.end == 0 || execution.end > ask.end) {
      Report("a caller returned before its execution had finished", ask);
    }
    if (ask.got == Got::kValue && own != (ask.role == singleflight::Role::kLeader)) {
      Report("the leader is not the caller whose function was run", ask);
    }
    if (ask.retries && ask.got == Got::kFailure && !own && !FailedBefore(execution, ask)) {
      Report("a caller that retries got the failure of its first call", ask);
    }
    if (execution.stopped && !own) Report("a caller is on a call that was asked to stop", ask);
    if (history_.max_age && !own && ask.start - execution.begin > *history_.max_age) {
      Report("a caller joined a call that was too old", ask);
    }
    if (own) return;
    for (const Forgetting& it : forgetting_[ask.key]) {
      if (it.certain && it.start > execution.begin && it.end < ask.start) {
        return Report("a caller joined a call that had been forgotten", ask);
      }
    }
  }

  // Whether the caller may have followed another call that failed before: one whose function threw,
  // or one whose task was dropped. That has no execution, but its leader did not get a value.
  // A call can still be joined after its function has thrown, until it lands.
  bool FailedBefore(const Execution& second, const Ask& ask) const {
    const auto threw = [&](const Execution& first) {
      const auto number = static_cast<std::size_t>(&first - history_.executions.data());
      return &first != &second && first.key == second.key && first.failed &&
             first.begin <= second.begin && landed_by_[number] >= ask.start;
    };
    const auto was_dropped = [&](const Ask& leader) {
      return &leader != &ask && leader.key == ask.key && leader.got != Got::kValue &&
             leader.got != Got::kFailure && leader.start <= ask.end && leader.end >= ask.start;
    };
    return std::any_of(history_.executions.begin(), history_.executions.end(), threw) ||
           std::any_of(history_.asks.begin(), history_.asks.end(), was_dropped);
  }

  void CheckCallers(std::size_t number) {
    const Execution& execution = history_.executions[number];
    const std::vector<const Ask*>& callers = callers_[number];
    std::size_t counted = 0;  // a leader that was stopped does not count
    std::size_t leaders = 0;
    std::size_t values = 0;
    for (const Ask* ask : callers) {
      const bool own = execution.asked_by == ask->operation;
      leaders += own;
      counted += !(own && ask->stop_requested);
      values += ask->got == Got::kValue;
      if (ask->start > landed_by_[number]) {
        Report("a caller got a result that another had returned with before it started", *ask);
      }
      if (ask->shared != callers.front()->shared) {
        Report("callers of one execution do not agree on shared", *ask);
      }
      if (ask->got == Got::kValue && !ask->shared && callers.size() > 1) {
        Report("a result that is not shared went to several callers", *ask);
      }
    }
    if (counted > history_.max_callers_per_call) {
      Report("more callers on a call than max_callers_per_call", *callers.front());
    }
    if (leaders > 1) Report("an execution with two leaders", *callers.front());
    if (!Strict(execution.key)) return;
    if (leaders != 1) Report("an execution without a leader", number);
    if (values == 1 && callers.front()->shared) {
      Report("a result that is shared went to one caller", *callers.front());
    }
  }

  // Two executions for one key overlap only if the first was forgotten, or too old.
  void CheckOneAtATime() {
    std::unordered_map<int, std::vector<const Execution*>> by_key;
    for (const Execution& execution : history_.executions) {
      by_key[execution.key].push_back(&execution);
    }
    for (auto& [key, executions] : by_key) {
      std::sort(executions.begin(), executions.end(),
                [](const Execution* a, const Execution* b) { return a->begin < b->begin; });
      std::vector<const Execution*> running;
      for (const Execution* next : executions) {
        std::erase_if(running, [&](const Execution* it) { return it->end <= next->begin; });
        for (const Execution* it : running) CheckOverlap(*it, *next);
        running.push_back(next);
      }
    }
  }

  void CheckOverlap(const Execution& first, const Execution& second) {
    // It is not known which of their calls began first: the function of either may have begun late.
    const Nanoseconds from = std::min(first.asked, second.asked);
    if (history_.max_age && second.begin - from > *history_.max_age) return;
    if (!Strict(first.key)) {
      for (const Forgetting& it : forgetting_[first.key]) {
        if (it.end >= from && it.start <= second.begin) return;
      }
    }
    Report("two executions for one key ran at the same time, and neither was forgotten",
           static_cast<std::size_t>(&second - history_.executions.data()));
  }

  void CheckCallsInFlight() {
    std::vector<std::pair<Nanoseconds, int>> steps;  // an end sorts before a begin
    for (const Execution& execution : history_.executions) {
      steps.emplace_back(execution.begin, 1);
      steps.emplace_back(execution.end, -1);
    }
    std::sort(steps.begin(), steps.end());
    std::size_t running = 0;
    for (const auto& [when, step] : steps) {
      running += static_cast<std::size_t>(step);
      if (step > 0 && running > history_.max_calls_in_flight) {
        return Report("more executions at the same time than max_calls_in_flight", 0);
      }
    }
  }

  bool Strict(int key) const { return key < history_.strict_keys; }

  void Report(const char* what, const Ask& ask) {
    std::ostringstream text;
    text << what << ": key " << ask.key << ", operation " << ask.operation << " from " << ask.start
         << " to " << ask.end << ", got " << static_cast<int>(ask.got);
    if (ask.execution < history_.executions.size()) {
      Describe(text, ask.execution);
      text << (ask.shared ? ", shared" : "");
    }
    violations_.push_back(text.str());
  }
  void Report(const char* what, std::size_t execution) {
    std::ostringstream text;
    text << what;
    Describe(text, execution);
    violations_.push_back(text.str());
  }
  void Describe(std::ostream& text, std::size_t number) const {
    const Execution& execution = history_.executions[number];
    text << ", execution " << number << " of key " << execution.key << " asked for by "
         << execution.asked_by << " from " << execution.begin << " to " << execution.end;
  }

  const History& history_;
  std::vector<std::vector<const Ask*>> callers_;  // each execution's callers
  std::vector<Nanoseconds> landed_by_;  // each execution's: when a caller had its outcome, or max()
  std::unordered_map<int, std::vector<Forgetting>> forgetting_;
  std::vector<std::string> violations_;
};

}  // namespace test
