// SPDX-License-Identifier: MIT
#pragma once

// LedCalls: the calls that one run of a batch's `fn` lands.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "../stop_token.hpp"
#include "invoke.hpp"
#include "outcome.hpp"
#include "thread_mark.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// A stop that is requested once it has been requested of each of several calls.
class StopOfAll {
 public:
  explicit StopOfAll(std::span<const StopToken> calls) : wanted_(calls.size()) {
    for (const StopToken& call : calls) each_.emplace_back(call, OnStop{this});
  }
  StopOfAll(const StopOfAll&) = delete;
  StopOfAll& operator=(const StopOfAll&) = delete;

  const StopSource& GetSource() const noexcept { return stop_; }
  StopToken GetToken() const noexcept { return stop_.get_token(); }

 private:
  struct OnStop {
    StopOfAll* self;
    void operator()() const noexcept {
      if (--self->wanted_ > 0) return;
      StopSource stop = self->stop_;  // what runs in the request may destroy `self`
      stop.request_stop();
    }
  };

  StopSource stop_ = NewStopSource();
  std::atomic<std::size_t> wanted_;  // calls of which no stop was requested
  std::deque<StopCallback<OnStop>> each_;
};

// The Leads of calls and their keys. Movable: the keys stay where they are.
template <class G>
class LedCalls {
  using Key = typename G::KeyType;
  using Value = typename G::ValueType;
  using Lead = typename G::Lead;

 public:
  // Makes room for this many calls.
  template <bool kTakesStop>
  void Reserve(std::size_t calls) {
    leads_.reserve(calls);
    keys_.reserve(calls);
    if constexpr (kTakesStop) stops_.reserve(calls);
  }
  // Called in Join's launch. A call whose `fn` takes a stop token can be asked to stop from here
  // on.
  template <bool kTakesStop>
  void Add(const Key& key, Lead lead) {
    leads_.push_back(std::move(lead));
    try {
      keys_.push_back(key);
      if constexpr (kTakesStop) stops_.push_back(leads_.back().GetStopToken());
    } catch (...) {
      if (keys_.size() == leads_.size()) keys_.pop_back();
      leads_.pop_back();
      throw;
    }
  }
  // Called before the work begins. Takes out the calls that were cancelled. If this throws, none.
  void DropCanceled() {
    bool all_begin = true;
    for (const Lead& lead : leads_) all_begin = lead.Begins() && all_begin;
    if (all_begin) return;
    LedCalls others;
    for (std::size_t place = 0; place < leads_.size(); ++place) {
      if (leads_[place].HasLanded()) continue;
      others.leads_.push_back(leads_[place]);
      others.keys_.push_back(keys_[place]);
      if (!stops_.empty()) others.stops_.push_back(stops_[place]);
    }
    *this = std::move(others);
  }
  void Clear() {
    leads_.clear();
    keys_.clear();
    stops_.clear();
  }

  static constexpr bool kMayBeBackground = requires { requires Lead::kMayBeBackground; };
  // Whether it is a refresh of a ReadThrough, for which no caller waits.
  static bool IsBackground(const Lead& lead) noexcept {
    if constexpr (kMayBeBackground) return lead.Hook().IsBackground();
    return false;
  }
  // Whether all of them are.
  bool AreBackground() const noexcept requires kMayBeBackground {
    return std::all_of(leads_.begin(), leads_.end(), IsBackground);
  }
  template <class Task>
  void RunInBackground(Task&& task) const requires kMayBeBackground {
    const auto hook = leads_.front().Hook();  // the task may destroy the Leads
    hook.RunInBackground(std::forward<Task>(task));
  }

  bool Empty() const noexcept { return leads_.empty(); }
  std::size_t Size() const noexcept { return leads_.size(); }
  std::span<const Key> Keys() const noexcept { return keys_; }
  std::span<const StopToken> Stops() const noexcept { return stops_; }

  // Lifetime: this must exist until it returns, whatever a woken caller does.
  void Land(std::size_t place, Outcome<Value>&& outcome) {
    leads_[place].LandKept(std::move(outcome));
  }
  // Fails those that have not landed.
  void Fail(const std::exception_ptr& error) {
    for (Lead& lead : leads_) lead.Fail(error);
  }

  // Marks this thread as one that does the work of these calls. What a batch's range runs when it
  // is read is such work, too, and so is what a waiter does when it is notified of one call while
  // others have not landed.
  //
  // Lifetime: the calls stay as they are meanwhile, except that they land.
  class Working {
   public:
    explicit Working(const LedCalls& calls) noexcept : calls_(calls) {
      for (const Lead& lead : calls_.leads_) lead.Target().BeginWork(thread_);
    }
    ~Working() {
      for (const Lead& lead : calls_.leads_) lead.Target().EndWork(thread_);
    }
    Working(const Working&) = delete;
    Working& operator=(const Working&) = delete;

   private:
    const LedCalls& calls_;
    const LeadingScope leading_;
    const ThreadId thread_ = ThisThread();  // as in RunningScope
  };

 private:
  std::vector<Lead> leads_;
  std::vector<Key> keys_;
  std::vector<StopToken> stops_;
};

}  // namespace singleflight::detail
