// SPDX-License-Identifier: MIT
#pragma once

// The plainest model of a group: a map from key to the call in flight, and for each call its
// callers, in the order in which they joined. Every event reaches the model before it reaches the
// group, so the model predicts what every caller gets.
//
// A retrier is a caller with OnFailure::kRetry that follows. The first retrier of a failed call
// that asks again makes all the others callers of its second call.

#include <algorithm>
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
  bool takes_stop = false;      // its work has taken the stop token
  bool stop_requested = false;  // asked to stop, since no caller is left
  bool run = false;             // Lead::Run has begun
  int on_this_thread = 0;
  int leads = 0;  // copies of its Lead, and objects that hold one
  bool led_in_do = false;
  bool landing = false;  // its outcome is decided
  bool landed = false;
  bool shared = false;
  How how = How::kValue;
  std::deque<ModelCaller*> waiting;   // callers to be notified, in the order of joining
  std::deque<ModelCaller*> retrying;  // those of them that may ask again, who are notified last

  std::size_t retriers = 0;  // those that have neither left, nor asked again, nor given up
  std::shared_ptr<ModelCall> second_try;  // what the first of them has led or joined
  std::size_t expected = 0;               // the others, who are callers of that already
  std::size_t turned_away = 0;            // those for whom it has no place
};

struct ModelCaller {
  bool is_notified = false;   // it is a Waiter. Otherwise it blocks, or is a Future
  bool retries = false;       // it may ask again, if it follows and the call fails
  bool silent = false;        // it is notified without the world's noticing
  bool asks_at_once = false;  // the world notices that it asks again as soon as it is notified

  std::shared_ptr<ModelCall> call = nullptr;
  singleflight::Role role = singleflight::Role::kLeader;
  bool late = false;  // it asked again after the second call had landed
  bool notified = false;
  bool left = false;
  bool refused = false;  // when it asked again

  // Its call has failed, and it has neither asked again nor given up.
  bool AsksAgain() const { return retries && call->landed && call->how != How::kValue; }
  bool IsSeen() const { return !silent || (asks_at_once && AsksAgain()); }
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

  // Makes `caller` the leader of a new call. Returns false if it is refused.
  bool Begin(ModelCaller& caller, int key) {
    if (closed || stats.in_flight >= options_.max_calls_in_flight || !CountCallers(1)) {
      ++stats.refused;
      return false;
    }
    if (const Call old = Find(key)) Forget(*old);
    ++stats.executions;
    ++stats.in_flight;
    auto call = std::make_shared<ModelCall>();
    call->number = static_cast<int>(stats.executions);
    call->key = key;
    call->started = now;
    in_flight_[key] = call;
    caller.call = call;
    caller.role = singleflight::Role::kLeader;
    caller.retries = false;  // what it gets is final
    return true;
  }
  bool Follow(ModelCaller& caller, const Call& call) {
    if (closed || call->callers >= options_.max_callers_per_call || !CountCallers(1)) {
      ++stats.refused;
      return false;
    }
    ++call->callers;
    ++stats.followers;
    call->retriers += caller.retries;
    caller.call = call;
    caller.role = singleflight::Role::kFollower;
    return true;
  }

  // Adds a caller. Returns null if it is refused.
  std::shared_ptr<ModelCaller> Join(int key, ModelCaller&& caller) {
    auto joined = std::make_shared<ModelCaller>(std::move(caller));
    if (!FollowOrBegin(*joined, key)) return nullptr;
    List(*joined);
    return joined;
  }

  // ---- Asking again

  // Returns true if `caller`, who asks again, is refused because the second try is full.
  bool TurnAway(ModelCaller& caller) {
    ModelCall& failed = *caller.call;
    if (failed.expected > 0 || failed.turned_away == 0) return false;
    --failed.turned_away;
    ++stats.refused;
    caller.retries = false;
    caller.refused = true;
    return true;
  }
  // Makes `caller`, who asks again, a caller of the second try if another retrier has begun it.
  // Returns false if this is the first.
  bool TakeSecondTry(ModelCaller& caller) {
    caller.retries = false;
    caller.notified = false;
    const Call second_try = SecondTry(*caller.call);
    if (second_try == nullptr) return false;
    caller.call = second_try;
    caller.role = singleflight::Role::kFollower;
    caller.late = second_try->landed;
    return true;
  }
  // Makes the other retriers of the failed call callers of `call`, as far as it has places.
  void BringOthers(const Call& call, ModelCall& failed) {
    const std::size_t others = failed.retriers;
    const std::size_t brought = std::min(others, options_.max_callers_per_call - call->callers);
    call->callers += brought;
    stats.followers += brought;
    callers_ -= others - brought;
    failed.retriers = 0;
    failed.expected = brought;
    failed.turned_away = others - brought;
    failed.second_try = call;
  }
  // Returns false if `caller` is refused.
  bool JoinAgain(ModelCaller& caller) {
    const Call failed = caller.call;
    if (TurnAway(caller)) return false;
    if (!TakeSecondTry(caller)) {
      caller.refused = !FollowOrBegin(caller, failed->key);
      if (caller.refused) return false;
      BringOthers(caller.call, *failed);
    }
    List(caller);
    return true;
  }
  void GiveUp(ModelCaller& caller) {
    caller.retries = false;
    if (caller.call->turned_away > 0) {
      --caller.call->turned_away;
      return;
    }
    const Call second_try = SecondTry(*caller.call);
    if (second_try != nullptr && !second_try->landed) Drop(*second_try);
  }

  // ---- Leaving

  bool Leave(ModelCaller& caller) {
    if (caller.left || caller.call->landed) return false;
    Unlist(caller);
    caller.left = true;
    caller.call->retriers -= caller.retries;
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
    if (!Unlist(caller)) return false;
    if (caller.retries && caller.call->how != How::kValue) GiveUp(caller);
    return true;
  }
  // Counts one caller fewer.
  void Drop(ModelCall& call) {
    ++stats.left;
    --callers_;
    if (--call.callers == 0 && call.takes_stop) Abandon(call);
  }
  void TakeStop(ModelCall& call) {
    if (call.landing) return;
    call.takes_stop = true;
    if (call.callers == 0) Abandon(call);
  }

  void Forget(ModelCall& call) {
    call.forgotten = true;
    in_flight_.erase(call.key);
  }
  static std::size_t Getting(const ModelCall& call) { return call.callers + call.leader_left; }

  // ---- Landing

  // Returns false if the call has landed or is being landed. If nobody is left to take a value, the
  // group forgets the call and destroys the value first, and FinishLanding must follow.
  bool Land(ModelCall& call, How how) {
    if (call.landing) return false;
    call.landing = true;
    call.how = how;
    if (call.callers > 0 || call.led_in_do || how != How::kValue) {
      FinishLanding(call);
    } else if (!call.forgotten) {
      Forget(call);
    }
    return true;
  }
  void FinishLanding(ModelCall& call) {
    if (!call.forgotten) in_flight_.erase(call.key);
    call.landed = true;
    call.shared = Getting(call) > 1;
    const bool asked_again = call.how != How::kValue;  // the retriers keep their places
    callers_ -= call.callers - (asked_again ? call.retriers : 0);
    --stats.in_flight;
    if (call.how != How::kValue) ++stats.failures;
  }

  // The group notifies `caller`.
  static void Notify(ModelCaller& caller) {
    Must(!caller.left, "a caller that left was notified");
    Must(!caller.notified, "a caller was notified twice");
    Must(caller.call->landed, "a caller was notified before its call landed");
    if (!caller.late) {
      NotifyUnseen(*caller.call);
      auto& list = caller.call->waiting.empty() ? caller.call->retrying : caller.call->waiting;
      Must(!list.empty() && list.front() == &caller, "callers were notified out of order");
      list.pop_front();
    }
    caller.notified = true;
  }
  // The group notifies the next callers, unseen by the world.
  static void NotifyUnseen(ModelCall& call) {
    for (auto* const list : {&call.waiting, &call.retrying}) {
      while (!list->empty() && !list->front()->IsSeen()) {
        list->front()->notified = true;
        list->pop_front();
      }
      if (!list->empty()) return;
    }
  }

  std::int64_t now = 1'000'000'000;  // the virtual clock, in ns
  bool closed = false;
  singleflight::Stats stats;

 private:
  bool FollowOrBegin(ModelCaller& caller, int key) {
    const Call current = Current(key);
    return current != nullptr ? Follow(caller, current) : Begin(caller, key);
  }
  // Returns false, and counts none, if that would exceed the limit.
  bool CountCallers(std::size_t more) {
    if (options_.max_callers - callers_ < more) return false;
    callers_ += more;
    return true;
  }

  // A retrier of the failed call asks again, or will not. Returns the second try that it was made a
  // caller of, or null.
  Call SecondTry(ModelCall& failed) {
    if (failed.expected == 0) {
      --failed.retriers;
      --callers_;  // it is counted again if it joins
      return nullptr;
    }
    --failed.expected;
    return failed.second_try;
  }

  // No caller is left on a call that can be asked to stop.
  void Abandon(ModelCall& call) {
    if (!call.forgotten) Forget(call);
    call.stop_requested = true;
  }

  static std::deque<ModelCaller*>& ListOf(const ModelCaller& caller) {
    return caller.retries ? caller.call->retrying : caller.call->waiting;
  }
  static void List(ModelCaller& caller) {
    if (!caller.is_notified) return;
    if (caller.late) {
      caller.notified = caller.silent;
    } else {
      ListOf(caller).push_back(&caller);
    }
  }
  static bool Unlist(const ModelCaller& caller) { return std::erase(ListOf(caller), &caller) > 0; }

  const singleflight::GroupOptions options_;
  std::map<int, Call> in_flight_;
  std::size_t callers_ = 0;  // of all calls in flight
};

}  // namespace fuzz
