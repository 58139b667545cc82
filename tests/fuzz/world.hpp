// SPDX-License-Identifier: MIT
#pragma once

// A small world of one thread, driven by a string of bytes. Time passes only where the program says
// so. Callers of all kinds join, leave and are destroyed, and calls land in any order. All of this
// also happens inside a function, a callback or a coroutine that is being notified. After each step
// the group must agree with its model.
//
// Nothing here may block. A caller that would wait for ever is given a timeout. While it waits,
// other steps run, as if on other threads. Then time jumps to its deadline (see fuzz.cpp).

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <singleflight/singleflight.hpp>
#include <span>
#include <stop_token>
#include <system_error>
#include <utility>
#include <vector>

#include "model.hpp"
#include "support/coroutines.hpp"

namespace fuzz {

using singleflight::OnFailure;
using singleflight::Role;

inline constexpr int kKeys = 3;

class World;

struct Delete {
  void operator()(const int* number) const;
  World* world = nullptr;  // null: it is not a call's outcome
  Model::Call call = nullptr;
};
// The value that calls land with. It is on the heap, so that the sanitizers see what happens to it.
// If nobody is left to take it, other steps run while it is destroyed.
struct Answer {
  std::unique_ptr<int, Delete> number;
};
struct Failure {
  int number;
};
struct BatchFailure {};

struct OneShard : singleflight::GroupTraits {
  static constexpr std::size_t kShards = 1;
};
using Group = singleflight::Group<int, Answer, std::hash<int>, std::equal_to<int>, OneShard>;

// The program. After its last byte it reads as zeros.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}
  bool Empty() const { return rest_.empty(); }
  unsigned Below(std::size_t n) {
    if (rest_.empty()) return 0;
    const std::uint8_t byte = rest_.front();
    rest_ = rest_.subspan(1);
    return byte % static_cast<unsigned>(n);
  }
  bool Coin() { return Below(2) == 1; }

 private:
  std::span<const std::uint8_t> rest_;
};

class World {
 public:
  World(const std::uint8_t* data, std::size_t size)
      : bytes_(data, size),
        options_(PickOptions()),
        model_(options_),
        its_group_(std::make_unique<Group>(options_)),
        group_(*its_group_) {}

  std::int64_t* Clock() { return &model_.now; }

  void Run() {
    while (!bytes_.Empty()) Step();
    End();
  }

  int Steps() const { return steps_; }

  // A thread waits until `deadline` at the latest. Returns false if it has waited that long.
  bool Wait(std::int64_t deadline);

  // The value of a call is destroyed, because nobody is left to take it.
  void OnDiscard(ModelCall& call) {
    Nested();
    model_.FinishLanding(call);
  }

 private:
  using Call = Model::Call;
  using Caller = std::shared_ptr<ModelCaller>;
  using Lead = Group::Lead;

  // ---- What the world holds

  struct RawWaiter final : Group::Waiter {
    explicit RawWaiter(World& its_world) : world(its_world) {}
    void OnLanded() noexcept override { world.OnLanded(*this); }
    bool Free() const { return caller == nullptr || caller->left; }
    World& world;
    Caller caller;  // null: on no call, or it took its result
  };
  struct HeldFuture {
    singleflight::Future<Answer> future;
    Caller caller;
  };
  struct HeldThen {
    singleflight::Caller handle;
    Caller caller;
    bool left = false;
  };
  struct Coroutine {
    test::Routine routine;
    Caller caller;                   // null: it never joined
    std::errc error{};               // why it never joined
    bool running = true;             // false: it is suspended, or has finished
    bool ended = false;              // it has what it asked for
    bool canceled = false;           // its stop reached it first
    std::coroutine_handle<> queued;  // its handle, to be resumed later
  };
  struct HeldLead {
    Lead lead;
    Call call;
  };
  struct HeldTask {
    std::function<void()> task;
    Call call;
  };
  // The work of a call that awaits an answer.
  struct Upstream {
    std::coroutine_handle<> handle;
    Call call;
    How how = How::kValue;
  };
  struct Asker;
  struct Asking;
  struct Batch;
  // Something that a stop reaches. Just one of the three is set.
  struct Stoppable {
    Coroutine* coroutine = nullptr;
    Call leader = nullptr;
    Batch* batch = nullptr;
  };
  struct Stop {
    std::stop_source source;
    std::vector<Stoppable> registered;  // libstdc++'s stop reaches the last one first
  };

  singleflight::GroupOptions PickOptions() {
    singleflight::GroupOptions options;
    if (const unsigned limit = bytes_.Below(6); limit > 1) options.max_callers_per_call = limit - 1;
    if (const unsigned limit = bytes_.Below(6); limit > 1) options.max_calls_in_flight = limit - 1;
    if (const unsigned limit = bytes_.Below(16); limit > 5) options.max_callers = limit - 5;
    if (const unsigned age = bytes_.Below(4); age > 0) {
      options.max_age = std::chrono::nanoseconds(4 * age);
    }
    return options;
  }

  template <class T>
  T* Pick(std::vector<std::unique_ptr<T>>& all) {
    return all.empty() ? nullptr : all[bytes_.Below(all.size())].get();
  }
  template <class T>
  static std::unique_ptr<T> Take(std::vector<std::unique_ptr<T>>& all, const T* one) {
    const auto at = std::find_if(all.begin(), all.end(), [&](auto& it) { return it.get() == one; });
    std::unique_ptr<T> taken = std::move(*at);
    all.erase(at);
    return taken;
  }
  int PickKey() { return static_cast<int>(bytes_.Below(kKeys)); }
  How PickHow(bool may_vanish) {
    const unsigned how = bytes_.Below(6);
    if (how == 1) return How::kFailure;
    return how == 2 && may_vanish ? How::kOwnerDead : How::kValue;
  }

  // ---- Steps

  void Step() {
    ++steps_;
    static constexpr void (World::*kSteps[])() = {
        // Callers
        &World::JoinWaiter, &World::JoinWaiter, &World::JoinWaiter, &World::LeaveWaiter,
        &World::EndWaiter, &World::TakeResult, &World::AskAgainLater, &World::JoinFuture,
        &World::Async, &World::UseFuture, &World::Then, &World::UseThen, &World::StartCoroutine,
        &World::StartCoroutine, &World::EndCoroutine, &World::ResumeQueued, &World::Do, &World::Do,
        &World::Many,
        // Leads and work
        &World::LandLead, &World::LandLead, &World::RunLead, &World::DropLead, &World::CopyLead,
        &World::TakeToken, &World::UseTask, &World::UseUpstream,
        // The rest
        &World::UseStop, &World::Forget, &World::PassTime, &World::Close};
    (this->*kSteps[bytes_.Below(std::size(kSteps))])();
    CheckStats();
  }

  // Runs some steps in the midst of another.
  void Nested() {
    if (depth_ == 4) return;
    ++depth_;
    for (unsigned steps = bytes_.Below(6); steps > 1 && !bytes_.Empty(); --steps) Step();
    --depth_;
  }

  void CheckStats() {
    Must(group_.GetStats() == model_.stats, "the counters differ");
    for (int key = 0; key < kKeys; ++key) {
      const Call call = model_.Find(key);
      Must(group_.Callers(key) == (call != nullptr ? call->callers : 0),
           "the result of Callers differs");
    }
    if (depth_ > 0) return;
    for (const auto& waiter : waiters_) CheckNotified(waiter->caller);
    for (const auto& coroutine : coroutines_) CheckNotified(coroutine->caller);
    for (const auto& then : thens_) {
      if (!then->left) CheckNotified(then->caller);
    }
  }
  static void CheckNotified(const Caller& caller) {
    if (caller == nullptr || caller->left || caller->refused || !caller->call->landed) return;
    Must(caller->notified, "a call has landed, but a caller was not notified");
  }

  // Calls `receive`, which must return the Result or throw the error that the model predicts.
  template <class Receive>
  static void CheckOutcome(const ModelCaller& caller, Receive&& receive, bool handed_on = false) {
    if (caller.refused) return CheckError(kRefused, receive);
    const ModelCall& call = *caller.call;
    try {
      const auto& result = receive();
      Must(call.how == How::kValue && *result->number == call.number, "the value differs");
      Must(result.shared() == (call.shared || handed_on), "shared differs");
      Must(result.role() == caller.role, "the role differs");
    } catch (const Failure& failure) {
      Must(call.how == How::kFailure && failure.number == call.number, "the failure differs");
    } catch (const BatchFailure&) {
      Must(call.how == How::kBatch, "a batch's failure came instead of another outcome");
    } catch (const std::system_error& error) {
      if (call.how == How::kInvalid) {
        Must(error.code() == std::errc::invalid_argument, "the error of a short batch differs");
      } else {
        Must(call.how == How::kOwnerDead && error.code() == std::errc::owner_dead,
             "the error differs");
      }
    }
    Must(call.landed, "a result came from a call that has not landed");
  }
  template <class Ask>
  static void CheckError(std::errc expected, Ask&& ask) {
    try {
      static_cast<void>(ask());
      Must(false, "an expected error was not thrown");
    } catch (const std::system_error& error) {
      Must(error.code() == expected, "the error is not the expected one");
    }
  }
  static OnFailure RetryIf(bool retries) { return retries ? OnFailure::kRetry : OnFailure::kShare; }
  static constexpr auto kRefused = std::errc::resource_unavailable_try_again;
  static constexpr auto kDeadlock = std::errc::resource_deadlock_would_occur;

  // `lands`: this is the call's outcome.
  Answer Deliver(const Call& call, How how, bool lands = true) {
    if (how == How::kFailure) throw Failure{call->number};
    return {{new int(call->number), Delete{lands ? this : nullptr, call}}};
  }

  void Notify(ModelCaller& caller) {
    for (auto& failing : failing_) {  // calls of a batch land one after the other, unseen
      while (!caller.call->landed && !failing.empty() &&
             std::find(failing.begin(), failing.end(), caller.call) != failing.end()) {
        LandNextFailing(failing);
      }
    }
    Model::Notify(caller);
  }

  // ---- Waiters

  void JoinWaiter() {
    RawWaiter* waiter = Pick(waiters_);
    if (waiter == nullptr || !waiter->Free() || bytes_.Coin()) {
      if (waiters_.size() == 8) return;
      waiter = waiters_.emplace_back(std::make_unique<RawWaiter>(*this)).get();
    }
    const int key = PickKey();
    const bool retries = bytes_.Coin();
    const Caller caller = waiter->caller =
        model_.Join(key, {.is_notified = true, .retries = retries});
    const auto join = [&] {
      return group_.Join(
          key, *waiter, [&](Lead lead) { Launch(caller, std::move(lead)); }, RetryIf(retries));
    };
    if (caller == nullptr) return CheckError(kRefused, join);
    Must(join() == caller->role, "the role differs");  // from here on, the waiter may be destroyed
  }
  void JoinFuture() {
    const int key = PickKey();
    const Caller caller = model_.Join(key, {});
    const auto join = [&] {
      return group_.Join(key, [&](Lead lead) { Launch(caller, std::move(lead)); });
    };
    if (caller == nullptr) return CheckError(kRefused, join);
    Hold(join(), caller);
  }

  // Decides what becomes of a new call's Lead.
  void Launch(const Caller& caller, Lead lead) {
    Must(caller->role == Role::kLeader, "a follower was given a Lead");
    const Call call = caller->call;
    ++call->leads;
    const unsigned what = bytes_.Below(6);
    if (what < 3) Hold(lead, call);
    if (what == 3) Land(lead, call);
    if (what == 4) Run(lead, call);
    Nested();
    const bool fails = bytes_.Below(5) == 1;
    LaunchEnds(call, fails);
  }
  void LaunchEnds(const Call& call, bool fails) {
    if (fails) {
      model_.Land(*call, How::kFailure);
      throw Failure{call->number};
    }
    ReleaseLead(call);
  }

  void OnLanded(RawWaiter& waiter) {
    Notify(*waiter.caller);
    Must(waiter.AsksAgain() == waiter.caller->AsksAgain(), "the result of AsksAgain differs");
    switch (bytes_.Below(4)) {
      case 1:
        TakeResultOf(waiter);
        break;
      case 2:
        GiveUp(waiter);
        Take(waiters_, &waiter).reset();
        break;
      case 3:
        if (waiter.caller->AsksAgain()) AskAgain(waiter);
        break;
      default:
        break;
    }
    Nested();
  }

  // From here on, the waiter may be destroyed.
  void AskAgain(RawWaiter& waiter) {
    const Caller caller = waiter.caller;
    const int key = caller->call->key;
    const bool joins = model_.JoinAgain(*caller);
    if (!joins) waiter.caller = nullptr;
    const auto ask = [&] {
      return group_.JoinAgain(key, waiter, [&](Lead lead) { Launch(caller, std::move(lead)); });
    };
    if (!joins) return CheckError(kRefused, ask);
    Must(ask() == caller->role, "the role of a caller that asks again differs");
  }
  // Does nothing unless the waiter may ask again.
  void GiveUp(RawWaiter& waiter) {
    if (waiter.caller == nullptr || !waiter.caller->notified || !waiter.caller->AsksAgain()) return;
    model_.GiveUp(*waiter.caller);
    group_.GiveUp(waiter);
    Must(!waiter.AsksAgain(), "a waiter that gave up may ask again");
  }
  void AskAgainLater() {
    RawWaiter* const waiter = Pick(waiters_);
    if (waiter == nullptr || waiter->caller == nullptr || !waiter->caller->notified) return;
    if (bytes_.Coin()) {
      GiveUp(*waiter);
    } else if (waiter->caller->AsksAgain()) {
      AskAgain(*waiter);
    }
  }

  void LeaveWaiter() {
    RawWaiter* const waiter = Pick(waiters_);
    if (waiter == nullptr) return;
    const bool leaves = waiter->caller != nullptr && model_.Leave(*waiter->caller);
    Must(group_.Leave(*waiter) == leaves, "the result of Leave differs");
  }
  void EndWaiter() {
    RawWaiter* const waiter = Pick(waiters_);
    if (waiter == nullptr) return;
    const bool off = waiter->caller == nullptr || model_.Detach(*waiter->caller);
    Must(waiter->Detach() == off, "the result of Detach differs");
    GiveUp(*waiter);
    Take(waiters_, waiter).reset();
  }
  void TakeResult() {
    RawWaiter* const waiter = Pick(waiters_);
    if (waiter != nullptr && waiter->caller != nullptr && waiter->caller->notified) {
      TakeResultOf(*waiter);
    }
  }
  void TakeResultOf(RawWaiter& waiter) {
    GiveUp(waiter);
    CheckOutcome(*std::exchange(waiter.caller, nullptr), [&] { return waiter.TakeResult(); });
  }

  // ---- Leads

  void Hold(const Lead& lead, const Call& call) {
    ++call->leads;
    leads_.push_back(std::make_unique<HeldLead>(HeldLead{lead, call}));
  }
  // Notes that a Lead is about to be destroyed.
  void ReleaseLead(const Call& call) {
    if (--call->leads == 0) model_.Land(*call, How::kOwnerDead);
  }

  void LandLead() {
    if (HeldLead* const held = Pick(leads_)) Land(held->lead, Call(held->call));
  }
  void RunLead() {
    if (HeldLead* const held = Pick(leads_)) Run(held->lead, Call(held->call));
  }
  void DropLead() {
    HeldLead* const held = Pick(leads_);
    if (held == nullptr) return;
    const auto dropped = Take(leads_, held);
    ReleaseLead(dropped->call);
  }
  void CopyLead() {
    if (HeldLead* const held = Pick(leads_); held != nullptr && leads_.size() < 8) {
      Hold(held->lead, held->call);
    }
  }

  // `lead` may be destroyed meanwhile.
  void Land(Lead& lead, const Call& call) {
    const How how = PickHow(true);
    const bool lands = model_.Land(*call, how);
    bool landed = false;
    if (how == How::kValue) {
      landed = lead.Succeed(Deliver(call, how, lands));
    } else {
      landed = lead.Fail(how == How::kOwnerDead ? nullptr
                                                : std::make_exception_ptr(Failure{call->number}));
    }
    Must(landed == lands, "the result of Succeed or Fail differs");
  }
  void Run(Lead& lead, const Call& call) {
    const bool runs = !call->landing && !call->run;
    bool ran = false;
    bool landed = false;
    ++call->leads;
    bool returned;
    if (bytes_.Coin()) {
      if (runs) model_.TakeStop(*call);
      returned = lead.Run([&](std::stop_token stop) {
        ran = true;
        return Work(call, &stop, &landed);
      });
    } else {
      returned = lead.Run([&] {
        ran = true;
        return Work(call, nullptr, &landed);
      });
    }
    --call->leads;  // the call has landed
    Must(ran == runs, "whether Run ran its function differs");
    Must(returned == landed, "the result of Run differs");
  }

  void TakeToken() {
    HeldLead* const held = Pick(leads_);
    if (held == nullptr) return;
    model_.TakeStop(*held->call);
    CheckToken(*held->call, held->lead.GetStopToken());
  }

  // Does the work of a call on this thread. `stop` is null if the work takes no token.
  Answer Work(Call call, const std::stop_token* stop, bool* landed = nullptr) {
    call->run = true;
    ++call->on_this_thread;
    ++working_;
    Nested();
    if (stop != nullptr) CheckToken(*call, *stop);
    --working_;
    --call->on_this_thread;
    const How how = PickHow(false);
    const bool lands = model_.Land(*call, how);
    if (landed != nullptr) *landed = lands;
    return Deliver(call, how, lands);
  }
  void CheckToken(const ModelCall& call, const std::stop_token& stop) const {
    if (stopping_ == 0)
      Must(stop.stop_requested() == call.stop_requested, "the call's stop differs");
  }

  // ---- Callers that ask again by themselves

  // The group as one such caller sees it. The model learns that the caller asks again or gives up
  // before the group does.
  struct Asker {
    using KeyType = int;
    using ValueType = Answer;
    using HashType = Group::HashType;
    using KeyEqualType = Group::KeyEqualType;
    using Waiter = Group::Waiter;
    using Lead = Group::Lead;

    template <class Launch>
    singleflight::Future<Answer> Join(int key, Launch&& launch) {
      return world->group_.Join(key, std::forward<Launch>(launch));
    }
    template <class Launch>
    Role Join(int key, Waiter& waiter, Launch&& launch, OnFailure on_failure = OnFailure::kShare) {
      return world->group_.Join(key, waiter, std::forward<Launch>(launch), on_failure);
    }
    template <class Launch>
    Role JoinAgain(int key, Waiter& waiter, Launch&& launch) {
      world->OnAsksAgain(*this);
      const Role role = world->group_.JoinAgain(key, waiter, std::forward<Launch>(launch));
      Must(role == caller->role, "the role of a caller that asks again differs");
      return role;
    }
    void GiveUp(Waiter& waiter) noexcept {
      world->OnGivesUp(*this);
      world->group_.GiveUp(waiter);
    }

    World* world;
    Caller caller;
    Coroutine* coroutine = nullptr;
    Stop* stop = nullptr;  // the coroutine's
  };
  Asker& NewAsker(Asker&& asker) {
    return *askers_.emplace_back(std::make_unique<Asker>(std::move(asker)));
  }

  void OnAsksAgain(const Asker& asker) {
    Notify(*asker.caller);
    if (asker.coroutine != nullptr) Unregister(*asker.coroutine);
    if (!model_.JoinAgain(*asker.caller)) return;
    if (asker.stop != nullptr) asker.stop->registered.push_back({.coroutine = asker.coroutine});
  }
  void OnGivesUp(const Asker& asker) {
    Notify(*asker.caller);
    model_.GiveUp(*asker.caller);
    if (asker.coroutine == nullptr) return;
    Unregister(*asker.coroutine);
    asker.coroutine->canceled = true;
  }

  // ---- Futures and callbacks

  void Hold(singleflight::Future<Answer> future, const Caller& caller) {
    futures_.push_back(std::make_unique<HeldFuture>(HeldFuture{std::move(future), caller}));
  }

  // Calls use(fn, takes_stop) with a function that works for the call of `caller`.
  template <class Use>
  void WithFn(const Caller& caller, Use&& use) {
    if (bytes_.Coin()) {
      const auto fn = [this, caller](std::stop_token stop) {
        model_.TakeStop(*caller->call);
        return Work(caller->call, &stop);
      };
      use(fn, true);
    } else {
      const auto fn = [this, caller] { return Work(caller->call, nullptr); };
      use(fn, false);
    }
  }
  auto ExecutorFor(const Caller& caller, bool takes_stop) {
    return [this, caller, takes_stop](auto task) {
      const Call call = caller->call;
      if (takes_stop) model_.TakeStop(*call);
      ++call->leads;
      const unsigned what = bytes_.Below(5);
      if (what < 3) {
        ++call->leads;
        tasks_.push_back(std::make_unique<HeldTask>(HeldTask{task, call}));
      }
      if (what == 2 || what == 3) task();
      Nested();
      LaunchEnds(call, bytes_.Below(5) == 1);
    };
  }

  void Async() {
    const int key = PickKey();
    const bool retries = bytes_.Coin();
    const Caller caller =
        retries
            ? model_.Join(
                  key, {.is_notified = true, .retries = true, .silent = true, .asks_at_once = true})
            : model_.Join(key, {});
    WithFn(caller, [&](const auto& fn, bool takes_stop) {
      const auto executor = ExecutorFor(caller, takes_stop);
      Asker& group = NewAsker({this, caller});
      const auto ask = [&] {
        return singleflight::DoAsync(group, key, fn, executor, RetryIf(retries));
      };
      if (caller == nullptr) return CheckError(kRefused, ask);
      Hold(ask(), caller);
    });
  }

  void Then() {
    if (thens_.size() == 8) return;
    const int key = PickKey();
    const bool retries = bytes_.Coin();
    const Caller caller =
        model_.Join(key, {.is_notified = true, .retries = retries, .asks_at_once = retries});
    HeldThen* const held = thens_.emplace_back(std::make_unique<HeldThen>()).get();
    held->caller = caller;
    const auto callback = [this, caller](singleflight::KeyResult<Answer> outcome) {
      OnDelivered(caller, outcome);
    };
    WithFn(caller, [&](const auto& fn, bool takes_stop) {
      const auto executor = ExecutorFor(caller, takes_stop);
      Asker& group = NewAsker({this, caller});
      const auto ask = [&] {
        singleflight::DoThen(held->handle, group, key, fn, executor, callback, RetryIf(retries));
      };
      if (caller != nullptr) return ask();  // `held` may be gone from here on
      CheckError(kRefused, ask);
      Take(thens_, held).reset();
    });
  }
  void OnDelivered(const Caller& caller, const singleflight::KeyResult<Answer>& outcome) {
    if (!caller->refused) Notify(*caller);
    CheckOutcome(
        *caller, [&]() -> const auto& { return outcome.result(); });
    if (bytes_.Coin()) {
      const auto its = std::find_if(thens_.begin(), thens_.end(),
                                    [&](const auto& then) { return then->caller == caller; });
      if (its != thens_.end()) Take(thens_, its->get()).reset();
    }
    Nested();
  }
  void UseThen() {
    HeldThen* const held = Pick(thens_);
    if (held == nullptr) return;
    switch (bytes_.Below(3)) {
      case 0: {
        const bool leaves = LeaveThen(*held);
        Must(held->handle.Leave() == leaves, "the result of Caller::Leave differs");
        break;
      }
      case 1: {
        LeaveThen(*held);
        const auto dropped = Take(thens_, held);
        break;
      }
      default: {
        held->handle.Detach();
        const auto dropped = Take(thens_, held);
      }
    }
  }
  // Returns true if the callback will not be called.
  bool LeaveThen(HeldThen& then) {
    ModelCaller& caller = *then.caller;
    if (then.left) return true;
    if (caller.notified || caller.refused) return false;
    then.left = true;
    if (caller.asks_at_once) {
      // Once the call has landed, it is notified nevertheless, so that it can give up.
      if (!model_.Leave(caller)) caller.silent = true;
    } else {
      model_.Detach(caller);
    }
    return true;
  }

  void UseTask() {
    HeldTask* const held = Pick(tasks_);
    if (held == nullptr) return;
    const Call call = held->call;
    if (bytes_.Below(3) == 1) {
      const auto dropped = Take(tasks_, held);
      ReleaseLead(call);
      return;
    }
    const bool lands = !call->landing && !call->run;
    ++call->leads;
    held->task();  // it may destroy `held`
    --call->leads;
    if (lands) Must(call->landed, "a task has run, but its call has not landed");
  }

  void UseFuture() {
    HeldFuture* const held = Pick(futures_);
    if (held == nullptr) return;
    ModelCall& call = *held->caller->call;
    const unsigned what = bytes_.Below(5);
    if (what < 2) {
      const auto dropped = Take(futures_, held);
      model_.Leave(*dropped->caller);
      return;
    }
    if (waiting_ != nullptr) return;
    if (held->caller->is_notified) {
      if (depth_ > 0) return;  // perhaps it is about to be notified, unseen
      if (call.landed) Model::NotifyUnseen(call);
      Must(call.landed == (held->caller->notified || held->caller->refused),
           "a call has landed, but a Future was not notified");
    }
    const bool deadlock = !call.landed && call.on_this_thread > 0;
    if (what == 2) {
      const auto wait = [&] { return held->future.WaitFor(std::chrono::nanoseconds(0)); };
      if (deadlock) return CheckError(kDeadlock, wait);
      return Must((wait() == std::future_status::ready) == call.landed,
                  "the result of WaitFor differs");
    }
    if (deadlock) return CheckError(kDeadlock, [&] { return held->future.Get(); });
    if (!call.landed) return;
    const auto taken = Take(futures_, held);
    if (what == 3) {
      CheckOutcome(*taken->caller, [&] { return taken->future.Get(); });
      Must(!taken->future.valid(), "a Future gives its result twice");
    } else {
      const auto shared = std::move(taken->future).Share();
      for (int i = 0; i < 2; ++i)
        CheckOutcome(
            *taken->caller, [&] { return shared.Get(); }, true);
    }
  }

  // ---- Coroutines

  struct ResumeOn {
    void operator()(std::coroutine_handle<> handle) const { world->OnResume(*coroutine, handle); }
    World* world;
    Coroutine* coroutine;
  };

  // The awaitable that `fn` returns.
  struct Answering {
    bool await_ready() const { return at_once; }
    void await_suspend(std::coroutine_handle<> handle) const {
      upstream->handle = handle;
      world->upstreams_.push_back(upstream);
    }
    Answer await_resume() const {
      Must(world->model_.Land(*upstream->call, upstream->how), "work outlives its call");
      return world->Deliver(upstream->call, upstream->how);
    }
    World* world;
    std::shared_ptr<Upstream> upstream;
    bool at_once;
  };

  void StartCoroutine() {
    if (coroutines_.size() == 8) return;
    const int key = PickKey();
    Stop* const stop = PickStop();
    const std::stop_token token = stop != nullptr ? stop->source.get_token() : std::stop_token();
    const bool retries = bytes_.Coin();
    Coroutine& coroutine = *coroutines_.emplace_back(std::make_unique<Coroutine>());
    if (token.stop_requested()) {
      coroutine.error = std::errc::operation_canceled;
    } else {
      coroutine.error = kRefused;
      coroutine.caller = model_.Join(key, {.is_notified = true,
                                           .retries = retries,
                                           .silent = true,  // until it is suspended
                                           .asks_at_once = retries});
      if (coroutine.caller != nullptr && stop != nullptr) {
        stop->registered.push_back({.coroutine = &coroutine});
      }
    }
    const Caller caller = coroutine.caller;
    test::Routine routine;
    const auto ask = [&](const auto& fn) {
      if (retries) {
        Asker& group = NewAsker({this, caller, &coroutine, stop});
        routine = Ask<true>(*this, coroutine, group, key, fn, token);
      } else {
        routine = Ask<false>(*this, coroutine, group_, key, fn, token);
      }
    };
    const bool at_once = bytes_.Coin();
    switch (bytes_.Below(3)) {
      case 0:
        ask([this, caller, at_once] { return Answers(caller, at_once); });
        break;
      case 1:
        ask([this, caller, at_once](std::stop_token) {
          model_.TakeStop(*caller->call);
          return Answers(caller, at_once);
        });
        break;
      default:
        WithFn(caller, [&](const auto& fn, bool) { ask(fn); });
    }
    coroutine.routine = std::move(routine);
    coroutine.running = false;
    if (caller != nullptr) caller->silent = false;
  }
  Answering Answers(const Caller& caller, bool at_once) {
    const Call& call = caller->call;
    ++call->leads;  // never released: the work holds a Lead
    ++call->on_this_thread;
    ++working_;
    Nested();
    --working_;
    --call->on_this_thread;
    const How how = PickHow(false);
    if (bytes_.Below(6) == 1) {
      model_.Land(*call, How::kFailure);
      throw Failure{call->number};
    }
    return {this, std::make_shared<Upstream>(Upstream{nullptr, call, how}), at_once};
  }

  template <bool kRetries, class G, class Fn>
  static test::Routine Ask(World& world, Coroutine& self, G& group, int key, Fn fn,
                           std::stop_token stop) {
    ResumeOn resume_on{&world, &self};
    std::exception_ptr error;
    const auto ask = [&] {
      if constexpr (kRetries) {
        return singleflight::CoDo(group, key, fn, stop, resume_on, OnFailure::kRetry);
      } else {
        return singleflight::CoDo(group, key, fn, stop, resume_on);
      }
    };
    try {
      const auto result = co_await ask();
      world.OnResumed(self, [&]() -> const singleflight::Result<Answer>& { return result; });
      co_return;
    } catch (...) {
      error = std::current_exception();
    }
    world.OnResumed(
        self, [&]() -> const singleflight::Result<Answer>& { std::rethrow_exception(error); });
  }

  // The coroutine's call has landed, or its stop has reached it, while it was suspended.
  void OnResume(Coroutine& coroutine, std::coroutine_handle<> handle) {
    if (!coroutine.canceled && !coroutine.caller->refused &&
        (coroutine.caller->call->landed || !StopReaches(coroutine))) {
      Notify(*coroutine.caller);
    }
    if (bytes_.Coin()) {
      coroutine.queued = handle;
    } else {
      Resume(coroutine, handle);
    }
  }
  void Resume(Coroutine& coroutine, std::coroutine_handle<> handle) {
    coroutine.running = true;
    handle.resume();
    coroutine.running = false;
  }
  template <class Receive>
  void OnResumed(Coroutine& coroutine, Receive&& receive) {
    coroutine.ended = true;
    Unregister(coroutine);
    if (coroutine.caller == nullptr) {
      CheckError(coroutine.error, receive);
    } else if (coroutine.canceled) {
      CheckError(std::errc::operation_canceled, receive);
    } else {
      if (!coroutine.caller->refused) {
        Model::NotifyUnseen(*coroutine.caller->call);
        Must(coroutine.caller->notified, "a coroutine continued, but was not notified");
      }
      CheckOutcome(*coroutine.caller, receive);
    }
    Nested();
  }

  void EndCoroutine() {
    Coroutine* const coroutine = Pick(coroutines_);
    if (coroutine == nullptr || coroutine->running) return;
    if (!coroutine->ended && !coroutine->canceled) model_.Detach(*coroutine->caller);
    Unregister(*coroutine);
    Take(coroutines_, coroutine).reset();
  }
  void ResumeQueued() {
    Coroutine* const coroutine = Pick(coroutines_);
    if (coroutine == nullptr || coroutine->queued == nullptr) return;
    Resume(*coroutine, std::exchange(coroutine->queued, nullptr));
  }

  void UseUpstream() {
    if (upstreams_.empty()) return;
    const auto at = upstreams_.begin() + bytes_.Below(upstreams_.size());
    const std::shared_ptr<Upstream> upstream = *at;
    upstreams_.erase(at);
    if (bytes_.Below(4) == 1) {  // the work is destroyed without an answer
      model_.Land(*upstream->call, How::kOwnerDead);
      upstream->handle.destroy();
    } else {
      upstream->handle.resume();
    }
  }

  // ---- Stops

  Stop* NewStop() {
    return stops_.size() < 12 ? stops_.emplace_back(std::make_unique<Stop>()).get() : nullptr;
  }
  Stop* PickStop() {
    const unsigned what = bytes_.Below(4);
    if (what < 2) return nullptr;
    return what == 2 ? NewStop() : Pick(stops_);
  }

  void UseStop() {
    if (Stop* const stop = Pick(stops_)) Request(stop);
  }
  void Request(Stop* stop) {
    if (stop == nullptr || stop->source.stop_requested()) return;
    ++stopping_;
    stop->source.request_stop();
    while (!stop->registered.empty()) {
      const Stoppable last = stop->registered.back();
      stop->registered.pop_back();
      Must(!Reach(last) || last.coroutine == nullptr || last.coroutine->caller->silent,
           "a stop did not reach a coroutine");
    }
    --stopping_;
  }
  // Returns true if a stop reaches this coroutine next, and the coroutine leaves.
  bool StopReaches(const Coroutine& coroutine) {
    for (const auto& stop : stops_) {
      if (!stop->source.stop_requested()) continue;
      while (!stop->registered.empty() && IsRegistered(*stop, coroutine)) {
        const Stoppable last = stop->registered.back();
        stop->registered.pop_back();
        const bool left = Reach(last);
        if (last.coroutine == &coroutine) return left;
      }
    }
    return false;
  }
  static bool IsRegistered(const Stop& stop, const Coroutine& coroutine) {
    return std::any_of(stop.registered.begin(), stop.registered.end(),
                       [&](const Stoppable& it) { return it.coroutine == &coroutine; });
  }
  // Returns true if a caller leaves.
  bool Reach(const Stoppable& stoppable);
  void Unregister(const Coroutine& coroutine) {
    for (const auto& stop : stops_) {
      std::erase_if(stop->registered,
                    [&](const Stoppable& it) { return it.coroutine == &coroutine; });
    }
  }
  static void Unregister(Stop* stop, const Call& leader, const Batch* batch) {
    if (stop == nullptr) return;
    std::erase_if(stop->registered, [&](const Stoppable& it) {
      return it.leader == leader && it.batch == batch && it.coroutine == nullptr;
    });
  }

  // ---- Do

  // A Do in progress.
  struct Asking {
    int key = 0;
    singleflight::CallOptions options = {};
    Stop* stop = nullptr;
    bool takes_stop = false;
    std::int64_t deadline = 0;
    ModelCaller caller = {};
    bool leads = false;                   // its function must run next
    std::optional<std::errc> error = {};  // why it gets no outcome
  };

  void Do() {
    if (waiting_ != nullptr) return;
    Asking asking;
    asking.key = PickKey();
    asking.stop = PickStop();
    if (asking.stop != nullptr) asking.options.stop = asking.stop->source.get_token();
    const std::chrono::nanoseconds timeout(static_cast<int>(bytes_.Below(6)) - 1);
    asking.options.timeout = timeout;
    asking.caller.retries = bytes_.Coin();
    asking.options.on_failure = RetryIf(asking.caller.retries);
    asking.takes_stop = bytes_.Coin();
    asking.deadline = model_.now + timeout.count();
    if (asking.options.stop.stop_requested()) {
      asking.error = std::errc::operation_canceled;
    } else if (const Call current = model_.Current(asking.key)) {
      Follow(asking, current);
    } else {
      BeginToLead(asking);
    }
    const auto work = [&](const std::stop_token* its_stop) {
      Must(std::exchange(asking.leads, false), "a function ran that should not have");
      const Call call = asking.caller.call;
      struct AtEnd {
        ~AtEnd() { Unregister(stop, call, nullptr); }
        Stop* stop;
        const Call& call;
      } const at_end{asking.stop, call};
      if (bytes_.Coin()) Nested();
      if (bytes_.Below(3) == 1) Request(asking.stop);
      return Work(call, its_stop);
    };
    const bool has_options = asking.stop != nullptr || !asking.leads || bytes_.Coin();
    const auto ask = [&](const auto& fn) {
      return has_options ? group_.Do(asking.key, fn, asking.options) : group_.Do(asking.key, fn);
    };
    std::optional<singleflight::Result<Answer>> result;
    std::exception_ptr error;
    try {
      result = asking.takes_stop ? ask([&](std::stop_token its_stop) { return work(&its_stop); })
                                 : ask([&] { return work(nullptr); });
    } catch (...) {
      error = std::current_exception();
    }
    const auto receive = [&]() -> const auto& {
      if (error != nullptr) std::rethrow_exception(error);
      return *result;
    };
    Must(waiting_ == nullptr && !asking.leads, "a caller has returned too early");
    if (asking.error) {
      CheckError(*asking.error, receive);
    } else {
      CheckOutcome(asking.caller, receive);
    }
  }
  void BeginToLead(Asking& asking) {
    if (!model_.Begin(asking.caller, asking.key)) {
      asking.error = kRefused;
      return;
    }
    const Call& call = asking.caller.call;
    asking.leads = true;
    call->led_in_do = true;
    call->on_this_thread = 1;
    if (asking.stop == nullptr) return;
    call->takes_stop = asking.takes_stop;
    asking.stop->registered.push_back({.leader = call});
  }
  void Follow(Asking& asking, const Call& current) {
    if (model_.now >= asking.deadline) {
      ++model_.stats.followers;
      ++model_.stats.left;
      asking.error = std::errc::timed_out;
    } else if (current->on_this_thread > 0) {
      asking.error = kDeadlock;
    } else if (!model_.Follow(asking.caller, current)) {
      asking.error = kRefused;
    } else {
      waiting_ = &asking;
    }
  }
  // The call that it followed has failed.
  void AskAgain(Asking& asking) {
    const Call failed = asking.caller.call;
    if (asking.options.stop.stop_requested()) {
      model_.GiveUp(asking.caller);
      asking.error = std::errc::operation_canceled;
    } else if (model_.TurnAway(asking.caller)) {
      asking.error = kRefused;
    } else if (model_.TakeSecondTry(asking.caller)) {
      if (asking.caller.late) return;
      if (asking.caller.call->on_this_thread > 0) {
        model_.Leave(asking.caller);
        asking.error = kDeadlock;
      } else {
        waiting_ = &asking;
      }
    } else {
      if (const Call current = model_.Current(asking.key)) {
        Follow(asking, current);
      } else {
        BeginToLead(asking);
      }
      if (!asking.error) model_.BringOthers(asking.caller.call, *failed);
    }
  }

  // ---- DoMany

  struct Member {
    int key = 0;
    int times = 0;
    Caller caller = nullptr;
    bool left = false;  // was stopped before the batch's own calls had landed
    std::optional<std::errc> error = {};

    bool Led() const { return caller != nullptr && caller->role == Role::kLeader; }
  };
  struct Batch {
    std::vector<Member> members;
    std::vector<Member*> asking;
    std::vector<Member*> own;
    singleflight::CallOptions options;
    std::int64_t deadline = 0;
    bool takes_stop = false;
    bool begun = false;
    Stop* heeds = nullptr;  // reaches the batch until its own calls have landed
  };
  // An element of what a batch's `fn` returns. Its key's call lands when it becomes the value.
  struct Element {
    operator Answer() const {
      world->Nested();
      const How how = world->PickHow(false);
      Must(world->model_.Land(*call, how), "a call of a batch had already landed");
      return world->Deliver(call, how);
    }
    World* world;
    Call call;
  };

  // Advances the batch. Returns true when `fn` must run next, and false when all is done.
  bool Advance(Batch& batch) {
    if (std::exchange(batch.begun, true)) FollowAndAskAgain(batch);
    while (!batch.asking.empty()) {
      batch.own.clear();
      const bool retries = batch.options.on_failure == OnFailure::kRetry;
      for (Member* member : batch.asking) {
        const bool again = member->caller != nullptr;
        if (batch.options.stop.stop_requested()) {
          if (again) model_.GiveUp(*member->caller);
          member->error = std::errc::operation_canceled;
          continue;
        }
        if (!again) {
          member->caller =
              model_.Join(member->key, {.is_notified = true, .retries = retries, .silent = true});
        }
        if (again ? !model_.JoinAgain(*member->caller) : member->caller == nullptr) {
          member->error = kRefused;
        } else if (member->Led()) {
          if (batch.takes_stop) model_.TakeStop(*member->caller->call);
          batch.own.push_back(member);
        }
      }
      if (!batch.own.empty()) return true;
      FollowAndAskAgain(batch);
    }
    return false;
  }
  void FollowAndAskAgain(Batch& batch) {
    for (Member* member : batch.asking) {
      if (member->caller == nullptr || member->error || member->left) continue;
      ModelCall& call = *member->caller->call;
      if (call.landed) {
        Model::NotifyUnseen(call);
        continue;
      }
      Must(!member->Led(), "a call of a batch has not landed");
      if (call.on_this_thread > 0) {
        member->error = kDeadlock;
      } else if (batch.options.stop.stop_requested()) {
        member->error = std::errc::operation_canceled;
      } else {
        member->error = std::errc::timed_out;
      }
      model_.Leave(*member->caller);
    }
    std::erase_if(batch.asking, [](const Member* member) {
      return member->error || member->left || !member->caller->AsksAgain();
    });
  }

  void Many() {
    if (waiting_ != nullptr) return;
    Batch batch;
    std::vector<int> keys;
    for (unsigned i = 1 + bytes_.Below(4); i > 0; --i) keys.push_back(PickKey());
    batch.members.reserve(keys.size());
    std::vector<Member*> order;
    for (const int key : keys) {
      auto found = std::find_if(batch.members.begin(), batch.members.end(),
                                [&](const Member& it) { return it.key == key; });
      if (found == batch.members.end()) {
        batch.members.push_back({.key = key});
        found = std::prev(batch.members.end());
        batch.asking.push_back(&*found);
      }
      ++found->times;
      order.push_back(&*found);
    }
    Stop* const stop = PickStop();
    if (stop != nullptr) batch.options.stop = stop->source.get_token();
    batch.options.timeout = std::chrono::nanoseconds(0);
    batch.options.on_failure = RetryIf(bytes_.Coin());
    batch.takes_stop = bytes_.Coin();
    const std::size_t frame = failing_.size();
    failing_.emplace_back();
    const auto run = [&](std::span<const int> missing, const std::stop_token* its_stop) {
      LandFailing(frame);
      Unregister(std::exchange(batch.heeds, nullptr), nullptr, &batch);
      Must(Advance(batch), "a batch's function ran that should not have");
      Must(std::equal(missing.begin(), missing.end(), batch.own.begin(), batch.own.end(),
                      [](int key, const Member* member) { return key == member->key; }),
           "a batch's function ran for other keys");
      return RunBatch(batch, stop, frame, its_stop);
    };
    const auto ask = [&](const auto& fn) {
      return singleflight::DoMany(group_, keys, fn, batch.options);
    };
    const auto results =
        batch.takes_stop ? ask([&](std::span<const int> missing, std::stop_token its_stop) {
          return run(missing, &its_stop);
        })
                         : ask([&](std::span<const int> missing) { return run(missing, nullptr); });
    LandFailing(frame);
    Unregister(std::exchange(batch.heeds, nullptr), nullptr, &batch);
    Must(!Advance(batch), "a batch's function did not run");
    failing_.pop_back();
    Must(results.size() == order.size(), "a batch has the wrong number of results");
    for (std::size_t i = 0; i < order.size(); ++i) {
      const Member& member = *order[i];
      const auto receive = [&]() -> const singleflight::Result<Answer>& {
        return results[i].result();
      };
      if (member.left) {
        CheckError(std::errc::operation_canceled, receive);
      } else if (member.error) {
        CheckError(*member.error, receive);
      } else {
        CheckOutcome(*member.caller, receive, member.times > 1);
      }
    }
  }
  std::vector<Element> RunBatch(Batch& batch, Stop* stop, std::size_t frame,
                                const std::stop_token* its_stop) {
    for (const Member* member : batch.own) member->caller->call->on_this_thread = 1;
    if (stop != nullptr && !stop->source.stop_requested()) {
      batch.heeds = stop;
      stop->registered.push_back({.batch = &batch});
    }
    ++working_;
    Nested();
    --working_;
    if (bytes_.Below(3) == 1) Request(stop);
    if (its_stop != nullptr && stopping_ == 0) {
      const bool all = std::all_of(batch.own.begin(), batch.own.end(), [](const Member* member) {
        return member->caller->call->stop_requested;
      });
      Must(its_stop->stop_requested() == all, "the stop of a batch differs");
    }
    std::vector<Element> elements;
    for (const Member* member : batch.own) elements.push_back({this, member->caller->call});
    const unsigned how = bytes_.Below(6);
    if (how != 1 && how != 2) return elements;
    failing_[frame].clear();
    for (const Member* member : batch.own) failing_[frame].push_back(member->caller->call);
    for (const Call& call : failing_[frame]) call->how = how == 1 ? How::kBatch : How::kInvalid;
    if (how == 1) throw BatchFailure{};
    elements.pop_back();
    return elements;
  }

  void LandNextFailing(std::deque<Call>& failing) {
    const Call call = failing.front();
    failing.pop_front();
    Must(model_.Land(*call, call->how), "a call of a batch had already landed");
  }
  void LandFailing(std::size_t frame) {
    while (!failing_[frame].empty()) LandNextFailing(failing_[frame]);
  }

  // ---- The rest

  void Forget() {
    const int key = PickKey();
    const Call call = model_.Find(key);
    if (bytes_.Coin()) {
      if (call != nullptr) model_.Forget(*call);
      return Must(group_.Forget(key) == (call != nullptr), "the result of Forget differs");
    }
    const bool shared = call != nullptr && Model::Getting(*call) > 1;
    if (call != nullptr && !shared) model_.Forget(*call);
    Must(group_.ForgetUnshared(key) == !shared, "the result of ForgetUnshared differs");
  }

  void PassTime() { model_.now += 1 + bytes_.Below(8); }

  void Close() {
    if (working_ > 0) {
      return CheckError(kDeadlock, [&] { group_.Close(); });
    }
    if (depth_ > 0 || model_.stats.in_flight > 0) return;  // it would wait
    model_.closed = true;
    group_.Close();
  }

  // Lands all calls, and checks that nothing is left behind.
  void End() {
    while (!leads_.empty() || !tasks_.empty() || !upstreams_.empty()) {
      if (!leads_.empty()) {
        DropLead();
      } else if (!tasks_.empty()) {
        const auto dropped = std::move(tasks_.back());
        tasks_.pop_back();
        ReleaseLead(dropped->call);
      } else {
        UseUpstream();
      }
    }
    CheckStats();
    Must(model_.stats.in_flight == 0, "a call has not landed at the end");
    for (const auto& coroutine : coroutines_)
      Must(!coroutine->running, "a coroutine is still running at the end");
  }

  Bytes bytes_;
  const singleflight::GroupOptions options_;
  Model model_;
  std::vector<std::unique_ptr<RawWaiter>> waiters_;
  std::vector<std::unique_ptr<Asker>> askers_;  // never erased: their callers may outlive handles
  std::vector<std::unique_ptr<HeldFuture>> futures_;
  std::vector<std::unique_ptr<HeldThen>> thens_;
  std::vector<std::unique_ptr<Coroutine>> coroutines_;
  std::vector<std::unique_ptr<Stop>> stops_;
  std::vector<std::deque<Call>> failing_;  // for each running batch, the calls that fail with it
  std::vector<std::unique_ptr<HeldLead>> leads_;
  std::vector<std::unique_ptr<HeldTask>> tasks_;
  std::vector<std::shared_ptr<Upstream>> upstreams_;
  int depth_ = 0;
  int steps_ = 0;
  int stopping_ = 0;
  int working_ = 0;            // functions of calls that run on this thread
  Asking* waiting_ = nullptr;  // the Do that waits, if one does
  // Destroyed first: objects that hold a result may outlive the group, and the sanitizers check
  // that.
  std::unique_ptr<Group> its_group_;
  Group& group_;
};

inline void Delete::operator()(const int* number) const {
  if (world != nullptr && call->landing && !call->landed) world->OnDiscard(*call);
  delete number;
}

inline bool World::Wait(std::int64_t deadline) {
  if (waiting_ == nullptr) {  // a batch or a Future
    model_.now = std::max(model_.now, deadline);
    return false;
  }
  Must(deadline == waiting_->deadline, "a caller would wait for more or less than its timeout");
  Nested();
  Asking& asking = *std::exchange(waiting_, nullptr);
  if (asking.caller.call->landed) {
    if (asking.caller.AsksAgain()) AskAgain(asking);
    return true;
  }
  const bool stopped = asking.options.stop.stop_requested();
  if (!stopped) model_.now = std::max(model_.now, deadline);
  asking.error = stopped ? std::errc::operation_canceled : std::errc::timed_out;
  model_.Leave(asking.caller);
  return stopped;
}

inline bool World::Reach(const Stoppable& stoppable) {
  if (stoppable.coroutine != nullptr) {
    Coroutine& coroutine = *stoppable.coroutine;
    return coroutine.canceled = model_.Leave(*coroutine.caller);
  }
  if (stoppable.leader != nullptr) {
    model_.LeaderLeaves(*stoppable.leader);
    return true;
  }
  for (Member* member : stoppable.batch->asking) {
    if (member->caller != nullptr) member->left |= model_.Leave(*member->caller);
  }
  return true;
}

}  // namespace fuzz
