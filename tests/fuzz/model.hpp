// SPDX-License-Identifier: MIT
#pragma once

// The plainest model of a group: a map from key to the call in flight, and for each call its
// callers, in the order in which they joined. Every event reaches the model before it reaches the
// group, so the model predicts what every caller gets.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <singleflight/options.hpp>
#include <singleflight/result.hpp>
#include <utility>
#include <vector>

namespace fuzz {

// Aborts if the group and its model disagree, so that the fuzzer notices.
inline void Must(bool holds, const char* what) {
  if (holds) return;
  std::cerr << "fuzz: " << what << std::endl;
  std::abort();
}

// How a call lands. kBatch: the function of a batch threw. kInvalid: it returned too few values.
enum class How : unsigned char { kValue, kFailure, kOwnerDead, kBatch, kInvalid };

struct ModelCaller;

struct ModelCall {
  int number = 0;  // what it lands with, as a value or in an exception
  int key = 0;
  std::int64_t started = 0;
  std::size_t callers = 1;
  bool leader_left = false;
  bool forgotten = false;
  bool stop_requested = false;  // asked to stop, since no caller is left
  bool run = false;             // Lead::Run has begun
  int on_this_thread = 0;
  int leads = 0;  // copies of its Lead, and objects that hold one
  bool landed = false;
  bool shared = false;
  How how = How::kValue;
  std::deque<ModelCaller*> waiting;  // callers to be notified, in the order of joining
};

struct ModelCaller {
  std::shared_ptr<ModelCall> call;
  singleflight::Role role = singleflight::Role::kLeader;
  bool silent = false;  // notified without the world's noticing
  bool notified = false;
  bool left = false;
};

class Model {
 public:
  using Call = std::shared_ptr<ModelCall>;

  explicit Model(const singleflight::GroupOptions& options) : options_(options) {}

  Call Find(int key) const {
    const auto found = in_flight_.find(key);
    return found != in_flight_.end() ? found->second : nullptr;
  }
  bool TooOld(const ModelCall& call) const {
    return options_.max_age && now - call.started > options_.max_age->count();
  }
  // Returns the call that a caller for `key` would follow, or null.
  Call Current(int key) const {
    const Call call = Find(key);
    return call != nullptr && !TooOld(*call) ? call : nullptr;
  }
  bool Full(const ModelCall& call) const { return call.callers >= options_.max_callers_per_call; }

  // Returns null if the caller is refused.
  Call Begin(int key) {
    if (stats.in_flight >= options_.max_calls_in_flight) {
      ++stats.refused;
      return nullptr;
    }
    if (const Call old = Find(key)) Forget(*old);
    ++stats.executions;
    ++stats.in_flight;
    auto call = std::make_shared<ModelCall>();
    call->number = static_cast<int>(stats.executions);
    call->key = key;
    call->started = now;
    in_flight_[key] = call;
    return call;
  }
  bool AddFollower(ModelCall& call) {
    if (Full(call)) {
      ++stats.refused;
      return false;
    }
    ++call.callers;
    ++stats.followers;
    return true;
  }

  // Adds a caller: a Waiter, which is notified, or a Future. Returns null if it is refused.
  std::shared_ptr<ModelCaller> Join(int key, bool is_notified, bool silent = false) {
    auto caller = std::make_shared<ModelCaller>();
    caller->silent = silent;
    caller->call = Current(key);
    if (caller->call != nullptr) {
      caller->role = singleflight::Role::kFollower;
      if (!AddFollower(*caller->call)) return nullptr;
    } else {
      caller->call = Begin(key);
      if (caller->call == nullptr) return nullptr;
    }
    if (is_notified) caller->call->waiting.push_back(caller.get());
    return caller;
  }

  bool Leave(ModelCaller& caller) {
    if (caller.left || caller.call->landed) return false;
    std::erase(caller.call->waiting, &caller);
    caller.left = true;
    Drop(*caller.call);
    return true;
  }
  void LeaderLeaves(ModelCall& call) {
    call.leader_left = true;
    Drop(call);
  }
  // Returns true if `caller` will not be notified any more.
  bool Detach(ModelCaller& caller) {
    if (caller.left || Leave(caller)) return true;
    return std::erase(caller.call->waiting, &caller) > 0;
  }

  void Forget(ModelCall& call) {
    call.forgotten = true;
    in_flight_.erase(call.key);
  }
  static std::size_t Getting(const ModelCall& call) { return call.callers + call.leader_left; }

  // Returns false if the call had landed before.
  bool Land(ModelCall& call, How how) {
    if (call.landed) return false;
    if (!call.forgotten) in_flight_.erase(call.key);
    call.landed = true;
    call.how = how;
    call.shared = Getting(call) > 1;
    --stats.in_flight;
    if (how != How::kValue) ++stats.failures;
    return true;
  }

  // The group notifies `caller`.
  static void Notify(ModelCaller& caller) {
    Must(!caller.left, "a caller that left was notified");
    Must(!caller.notified, "a caller was notified twice");
    Must(caller.call->landed, "a caller was notified before its call landed");
    NotifyUnobserved(*caller.call);
    auto& waiting = caller.call->waiting;
    Must(!waiting.empty() && waiting.front() == &caller, "callers were notified out of order");
    waiting.pop_front();
    caller.notified = true;
  }
  // The group notifies the next callers, unseen by the world.
  static void NotifyUnobserved(ModelCall& call) {
    while (!call.waiting.empty() && call.waiting.front()->silent) {
      call.waiting.front()->notified = true;
      call.waiting.pop_front();
    }
  }

  std::int64_t now = 1'000'000'000;  // the virtual clock, in ns
  singleflight::Stats stats;

 private:
  void Drop(ModelCall& call) {
    ++stats.left;
    if (--call.callers > 0) return;
    if (!call.forgotten) Forget(call);
    call.stop_requested = true;
  }

  const singleflight::GroupOptions options_;
  std::map<int, Call> in_flight_;
};

}  // namespace fuzz
