// SPDX-License-Identifier: MIT
#pragma once

// What the processes of soak.cpp did, in memory that they share, and what must be true of it:
//
//   - Each caller has an outcome, and it is of an execution for its own key and type.
//   - A caller that asks after a call has landed in its process does not get that call's outcome.
//   - No outcome is older than a lease and a linger, the longest that it can be on its way.
//   - Executions for one key do not overlap, unless a mishap was near, or the earlier one had been
//     asked to stop.

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <map>
#include <new>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace soak {

using Time = std::int64_t;  // nanoseconds of a clock that all processes of a host share

inline Time Now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}
inline double Seconds(Time time) { return 1e-9 * static_cast<double>(time); }

enum class Type : std::uint8_t { kPage, kNumber };
enum class Way : std::uint8_t { kDo, kDoInTime, kDoAsync, kCoDo, kDoMany };
inline constexpr const char* kNames[] = {"Do", "Do with a timeout", "DoAsync", "CoDo", "DoMany"};

struct Execution {
  std::uint8_t process;
  Type type;
  std::uint8_t key;
  std::atomic<Time> began, ended;  // 0: not so far
  std::atomic<Time> first_return;  // when a caller of its process had the outcome. 0: not so far
  std::atomic<bool> asked_to_stop;
};

enum class Outcome : std::uint8_t { kNone, kValue, kFailure, kLeft, kWrong };

struct Ask {
  std::uint8_t process;
  Type type;
  std::uint8_t key;
  Way way;
  std::atomic<Outcome> outcome;
  std::uint32_t execution;  // of which it is the outcome
  std::atomic<Time> asked;  // 0: not so far
  Time answered;
};

// Something that was done to the servers or the network, or a process that was not run for long.
struct Mishap {
  Time begin;
  std::atomic<Time> end;  // 0: it lasts
};

// A list that only grows, in shared memory.
template <class Entry>
class Log {
 public:
  explicit Log(std::size_t capacity) : capacity_(capacity) {
    void* const memory = ::mmap(nullptr, capacity * sizeof(Entry), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
    entries_ = static_cast<Entry*>(memory);  // all zero
  }
  // Returns null if there is no room.
  Entry* Add() {
    if (size_ >= capacity_) return nullptr;
    const std::size_t index = size_++;
    return index < capacity_ ? &entries_[index] : nullptr;
  }
  std::size_t IndexOf(const Entry& entry) const {
    return static_cast<std::size_t>(&entry - entries_);
  }
  Entry& operator[](std::size_t index) { return entries_[index]; }
  std::size_t Size() const { return std::min<std::size_t>(size_, capacity_); }
  bool IsFull() const { return size_ >= capacity_; }
  Entry* begin() { return entries_; }
  Entry* end() { return entries_ + Size(); }

 private:
  const std::size_t capacity_;
  Entry* entries_;
  std::atomic<std::size_t> size_ = 0;
};

struct History {
  explicit History(std::size_t seconds)
      : executions(seconds * 10'000), asks(seconds * 50'000), mishaps(1'000'000) {}
  Log<Execution> executions;
  Log<Ask> asks;
  Log<Mishap> mishaps;
};

// Checks a history, and prints what is wrong with it.
class Checker {
 public:
  Checker(History& history, Time lease, Time linger, std::uint8_t forgotten_key)
      : history_(history), lease_(lease), linger_(linger), forgotten_key_(forgotten_key) {
    for (const Mishap& each : history.mishaps) mishaps_.emplace_back(each.begin, each.end);
    std::ranges::sort(mishaps_);
  }

  void CheckOutcomes() {
    const Time start = history_.executions[0].began;
    for (const Ask& ask : history_.asks) {
      const auto complain = [&](const std::string& what) { Complain(TextOf(ask) + ' ' + what); };
      if (ask.outcome == Outcome::kNone) complain("has no outcome");
      if (ask.outcome == Outcome::kWrong) complain("has an outcome that nobody has made");
      if (ask.outcome != Outcome::kValue && ask.outcome != Outcome::kFailure) continue;
      const Execution& of = history_.executions[ask.execution];
      if (ask.execution >= history_.executions.Size()) {
        complain("has the outcome of an execution that never was");
      } else if (of.key != ask.key || of.type != ask.type) {
        complain("has the outcome of another key or type");
      } else if (of.process == ask.process && ask.asked > of.first_return) {
        complain(
            "asked " + std::to_string(Seconds(ask.asked - of.first_return)) +
            " s after the call had landed in its own process, and has its outcome. It ran from " +
            std::to_string(Seconds(of.began - start)) + " s to " +
            std::to_string(Seconds(of.ended - start)) + " s");
      } else if (ask.asked > of.ended + lease_ + linger_ + kSlack) {
        complain("has an outcome that is " + std::to_string(Seconds(ask.asked - of.ended)) +
                 " s old");
      }
    }
  }

  void CheckOverlaps() {
    std::map<std::pair<Type, std::uint8_t>, std::vector<const Execution*>> by_key;
    for (const Execution& each : history_.executions) {
      if (each.key != forgotten_key_) by_key[{each.type, each.key}].push_back(&each);
    }
    for (auto& [key, executions] : by_key) {
      std::ranges::sort(executions, {}, [](const Execution* each) { return each->began.load(); });
      const Execution* last = nullptr;  // the one that ends last so far
      for (const Execution* each : executions) {
        const bool is_calm = !IsMishapNear((last == nullptr ? each : last)->began, each->began);
        calm_ += is_calm ? 1 : 0;
        if (last != nullptr && each->began < last->ended) {
          if (is_calm && !last->asked_to_stop) {
            Complain("executions for key " + std::to_string(key.second) + " overlap: process " +
                     std::to_string(last->process) + " and, " +
                     std::to_string(Seconds(each->began - last->began)) + " s later, process " +
                     std::to_string(each->process));
          } else {
            ++overlaps_;
          }
        }
        if (last == nullptr || each->ended > last->ended) last = each;
      }
    }
  }

  std::size_t Complaints() const { return complaints_; }
  std::size_t Calm() const { return calm_; }          // executions that no mishap was near
  std::size_t Overlaps() const { return overlaps_; }  // that are allowed

  static std::string TextOf(const Ask& ask) {
    return "process " + std::to_string(ask.process) + ": " +
           kNames[static_cast<std::size_t>(ask.way)] + " for " +
           (ask.type == Type::kPage ? "page " : "number ") + std::to_string(ask.key);
  }

 private:
  static constexpr Time kSlack = 2'000'000'000;  // a busy machine runs threads late

  // What a mishap does to a lease may last as long as the lease, and its outcome.
  bool IsMishapNear(Time begin, Time end) const {
    begin -= lease_ + linger_ + kSlack / 2;
    return std::ranges::any_of(
        mishaps_, [&](const auto& each) { return each.first <= end && each.second >= begin; });
  }

  void Complain(const std::string& what) {
    if (++complaints_ <= 20) std::cout << "WRONG: " << what << '\n';
  }

  History& history_;
  const Time lease_, linger_;
  const std::uint8_t forgotten_key_;
  std::vector<std::pair<Time, Time>> mishaps_;
  std::size_t complaints_ = 0, calm_ = 0, overlaps_ = 0;
};

}  // namespace soak
