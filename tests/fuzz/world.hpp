// SPDX-License-Identifier: MIT
#pragma once

// A small world of one thread, driven by a string of bytes. Time passes only where the program says
// so. Callers of all kinds join, leave and are destroyed, and calls land in any order. All of this
// also happens inside a function, a callback or a coroutine that is being notified. After each step
// the group must agree with its model.
//
// Nothing here may block. A caller that would wait for ever is given a timeout, and time jumps to
// its deadline (see fuzz.cpp).

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

using singleflight::Role;

inline constexpr int kKeys = 3;

// The value that calls land with. It is on the heap, so that the sanitizers see what happens to it.
struct Answer {
  std::unique_ptr<int> number;
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
    switch (bytes_.Below(25)) {
      case 0:
      case 1:
      case 2:
        JoinWaiter();
        break;
      case 3:
        LeaveWaiter();
        break;
      case 4:
        EndWaiter();
        break;
      case 5:
        TakeResult();
        break;
      case 6:
      case 7:
        LandLead();
        break;
      case 8:
        RunLead();
        break;
      case 9:
        DropLead();
        break;
      case 10:
        CopyLead();
        break;
      case 11:
        Async();
        break;
      case 12:
        UseFuture();
        break;
      case 13:
        UseTask();
        break;
      case 14:
      case 15:
        StartCoroutine();
        break;
      case 16:
        EndCoroutine();
        break;
      case 17:
        ResumeQueued();
        break;
      case 18:
        UseUpstream();
        break;
      case 19:
        UseStop();
        break;
      case 20:
        Do();
        break;
      case 21:
        Many();
        break;
      case 22:
        Forget();
        break;
      case 23:
        model_.now += 1 + bytes_.Below(8);
        break;
      default:
        JoinFuture();
    }
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
  }
  static void CheckNotified(const Caller& caller) {
    if (caller == nullptr || caller->left || !caller->call->landed) return;
    Must(caller->notified, "a call has landed, but a caller was not notified");
  }

  // Calls `receive`, which must return the Result or throw the error that the model predicts.
  template <class Receive>
  static void CheckOutcome(const ModelCaller& caller, Receive&& receive, bool handed_on = false) {
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
  static constexpr auto kRefused = std::errc::resource_unavailable_try_again;
  static constexpr auto kDeadlock = std::errc::resource_deadlock_would_occur;

  Answer Deliver(const ModelCall& call, How how) {
    if (how == How::kFailure) throw Failure{call.number};
    return {std::make_unique<int>(call.number)};
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
    const Caller caller = waiter->caller = model_.Join(key, true);
    const auto join = [&] {
      return group_.Join(key, *waiter, [&](Lead lead) { Launch(caller, std::move(lead)); });
    };
    if (caller == nullptr) return CheckError(kRefused, join);
    Must(join() == caller->role, "the role differs");  // from here on, the waiter may be destroyed
  }
  void JoinFuture() {
    const int key = PickKey();
    const Caller caller = model_.Join(key, false);
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
    switch (bytes_.Below(3)) {
      case 1:
        TakeResultOf(waiter);
        break;
      case 2:
        Take(waiters_, &waiter).reset();
        break;
      default:
        break;
    }
    Nested();
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
    Take(waiters_, waiter).reset();
  }
  void TakeResult() {
    RawWaiter* const waiter = Pick(waiters_);
    if (waiter != nullptr && waiter->caller != nullptr && waiter->caller->notified) {
      TakeResultOf(*waiter);
    }
  }
  void TakeResultOf(RawWaiter& waiter) {
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
      landed = lead.Succeed(Deliver(*call, how));
    } else {
      landed = lead.Fail(how == How::kOwnerDead ? nullptr
                                                : std::make_exception_ptr(Failure{call->number}));
    }
    Must(landed == lands, "the result of Succeed or Fail differs");
  }
  void Run(Lead& lead, const Call& call) {
    const bool runs = !call->landed && !call->run;
    bool ran = false;
    bool landed = false;
    ++call->leads;
    const bool returned = lead.Run([&](std::stop_token stop) {
      ran = true;
      return Work(*call, stop, landed);
    });
    --call->leads;  // the call has landed
    Must(ran == runs, "whether Run ran its function differs");
    Must(returned == landed, "the result of Run differs");
  }

  // Does the work of a call on this thread.
  Answer Work(ModelCall& call, const std::stop_token& stop, bool& landed) {
    call.run = true;
    ++call.on_this_thread;
    Nested();
    CheckToken(call, stop);
    --call.on_this_thread;
    const How how = PickHow(false);
    landed = model_.Land(call, how);
    return Deliver(call, how);
  }
  void CheckToken(const ModelCall& call, const std::stop_token& stop) const {
    if (stopping_ == 0)
      Must(stop.stop_requested() == call.stop_requested, "the call's stop differs");
  }

  // ---- Futures

  void Hold(singleflight::Future<Answer> future, const Caller& caller) {
    futures_.push_back(std::make_unique<HeldFuture>(HeldFuture{std::move(future), caller}));
  }

  void Async() {
    const int key = PickKey();
    const Caller caller = model_.Join(key, false);
    const auto fn = [this, caller](std::stop_token stop) {
      bool landed = false;
      return Work(*caller->call, stop, landed);
    };
    const auto executor = [&](auto task) {
      const Call call = caller->call;
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
    const auto ask = [&] { return singleflight::DoAsync(group_, key, fn, executor); };
    if (caller == nullptr) return CheckError(kRefused, ask);
    Hold(ask(), caller);
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
    const bool lands = !call->landed && !call->run;
    ++call->leads;
    held->task();  // it may destroy `held`
    --call->leads;
    if (lands) Must(call->landed, "a task has run, but its call has not landed");
  }

  void UseFuture() {
    HeldFuture* const held = Pick(futures_);
    if (held == nullptr) return;
    const ModelCall& call = *held->caller->call;
    const unsigned what = bytes_.Below(5);
    if (what < 2) {
      const auto dropped = Take(futures_, held);
      model_.Leave(*dropped->caller);
      return;
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
      return world->Deliver(*upstream->call, upstream->how);
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
    Coroutine& coroutine = *coroutines_.emplace_back(std::make_unique<Coroutine>());
    if (token.stop_requested()) {
      coroutine.error = std::errc::operation_canceled;
    } else {
      coroutine.error = kRefused;
      coroutine.caller = model_.Join(key, true, /*silent=*/true);  // silent until it is suspended
      if (coroutine.caller != nullptr && stop != nullptr) {
        stop->registered.push_back({.coroutine = &coroutine});
      }
    }
    const Caller caller = coroutine.caller;
    const bool at_once = bytes_.Coin();
    test::Routine routine;
    if (bytes_.Coin()) {
      routine = Ask(
          *this, coroutine, key,
          [this, caller](std::stop_token its_stop) {
            bool landed = false;
            return Work(*caller->call, its_stop, landed);
          },
          token);
    } else {
      routine = Ask(
          *this, coroutine, key, [this, caller, at_once] { return Answers(caller, at_once); },
          token);
    }
    coroutine.routine = std::move(routine);
    coroutine.running = false;
    if (caller != nullptr) caller->silent = false;
  }
  Answering Answers(const Caller& caller, bool at_once) {
    const Call& call = caller->call;
    ++call->leads;  // never released: the work holds a Lead
    ++call->on_this_thread;
    Nested();
    --call->on_this_thread;
    const How how = PickHow(false);
    if (bytes_.Below(6) == 1) {
      model_.Land(*call, How::kFailure);
      throw Failure{call->number};
    }
    return {this, std::make_shared<Upstream>(Upstream{nullptr, call, how}), at_once};
  }

  template <class Fn>
  static test::Routine Ask(World& world, Coroutine& self, int key, Fn fn, std::stop_token stop) {
    ResumeOn resume_on{&world, &self};
    std::exception_ptr error;
    try {
      const auto result = co_await singleflight::CoDo(world.group_, key, fn, stop, resume_on);
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
    if (coroutine.caller->call->landed || !StopReaches(coroutine)) Notify(*coroutine.caller);
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
      Model::NotifyUnobserved(*coroutine.caller->call);
      Must(coroutine.caller->notified, "a coroutine continued, but was not notified");
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

  void Do() {
    const int key = PickKey();
    singleflight::CallOptions options;
    Stop* const stop = PickStop();
    if (stop != nullptr) options.stop = stop->source.get_token();
    if (const unsigned timeout = bytes_.Below(6); timeout > 1) {
      options.timeout = std::chrono::nanoseconds(static_cast<int>(timeout) - 3);
    }
    if (bytes_.Coin()) options.on_failure = singleflight::OnFailure::kRetry;
    const auto not_run = [](std::stop_token) -> Answer {
      Must(false, "a function ran that should not have");
      return {};
    };
    const auto ask = [&] { return group_.Do(key, not_run, options); };

    if (options.stop.stop_requested()) return CheckError(std::errc::operation_canceled, ask);
    if (const Call current = model_.Current(key)) {
      if (options.timeout && options.timeout->count() <= 0) {
        ++model_.stats.followers;
        ++model_.stats.left;
        return CheckError(std::errc::timed_out, ask);
      }
      if (current->on_this_thread > 0) return CheckError(kDeadlock, ask);
      if (!options.timeout)
        options.timeout = std::chrono::nanoseconds(3);  // without one it would block
      if (!model_.AddFollower(*current)) return CheckError(kRefused, ask);
      const std::int64_t deadline = model_.now + options.timeout->count();
      CheckError(std::errc::timed_out, ask);
      Must(model_.now == deadline, "a caller waited for more or less than its timeout");
      --current->callers;  // this caller was not the last
      ++model_.stats.left;
      return;
    }
    const Call call = model_.Begin(key);
    if (call == nullptr) return CheckError(kRefused, ask);
    ++call->on_this_thread;
    ModelCaller leader{.call = call};
    if (stop != nullptr) stop->registered.push_back({.leader = call});
    const auto fn = [&](std::stop_token its_stop) {
      bool landed = false;
      struct AtEnd {
        ~AtEnd() { Unregister(stop, call, nullptr); }
        Stop* stop;
        const Call& call;
      } const at_end{stop, call};
      if (bytes_.Coin()) Nested();
      if (bytes_.Below(3) == 1) Request(stop);
      return Work(*call, its_stop, landed);
    };
    if (stop == nullptr && bytes_.Coin()) {
      CheckOutcome(leader, [&] { return group_.Do(key, fn); });
    } else {
      CheckOutcome(leader, [&] { return group_.Do(key, fn, options); });
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
    bool begun = false;
    Stop* heeds = nullptr;  // reaches the batch until its own calls have landed
  };
  // An element of what a batch's `fn` returns. Its key's call lands when it becomes the value.
  struct Element {
    operator Answer() const {
      world->Nested();
      const How how = world->PickHow(false);
      Must(world->model_.Land(*call, how), "a call of a batch had already landed");
      return world->Deliver(*call, how);
    }
    World* world;
    Call call;
  };

  // Advances the batch. Returns true when `fn` must run next, and false when all is done.
  bool Advance(Batch& batch) {
    if (std::exchange(batch.begun, true)) FollowAndAskAgain(batch);
    while (!batch.asking.empty()) {
      batch.own.clear();
      for (Member* member : batch.asking) {
        if (batch.options.stop.stop_requested()) {
          member->error = std::errc::operation_canceled;
          continue;
        }
        member->caller = model_.Join(member->key, true, /*silent=*/true);
        if (member->caller == nullptr) member->error = kRefused;
        if (member->Led()) batch.own.push_back(member);
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
        Model::NotifyUnobserved(call);
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
    std::erase_if(batch.asking, [&](const Member* member) {
      return batch.options.on_failure != singleflight::OnFailure::kRetry || member->error ||
             member->left || member->Led() || member->caller->call->how == How::kValue;
    });
  }

  void Many() {
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
    if (bytes_.Coin()) batch.options.on_failure = singleflight::OnFailure::kRetry;
    const std::size_t frame = failing_.size();
    failing_.emplace_back();
    const auto fn = [&](std::span<const int> missing) {
      LandFailing(frame);
      Unregister(std::exchange(batch.heeds, nullptr), nullptr, &batch);
      Must(Advance(batch), "a batch's function ran that should not have");
      Must(std::equal(missing.begin(), missing.end(), batch.own.begin(), batch.own.end(),
                      [](int key, const Member* member) { return key == member->key; }),
           "a batch's function ran for other keys");
      return RunBatch(batch, stop, frame);
    };
    const auto results = singleflight::DoMany(group_, keys, fn, batch.options);
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
  std::vector<Element> RunBatch(Batch& batch, Stop* stop, std::size_t frame) {
    for (const Member* member : batch.own) member->caller->call->on_this_thread = 1;
    if (stop != nullptr && !stop->source.stop_requested()) {
      batch.heeds = stop;
      stop->registered.push_back({.batch = &batch});
    }
    Nested();
    if (bytes_.Below(3) == 1) Request(stop);
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

  // Lands all calls, and checks that nothing is left behind.
  void End() {
    while (!leads_.empty()) DropLead();
    while (!tasks_.empty()) {
      const auto dropped = std::move(tasks_.back());
      tasks_.pop_back();
      ReleaseLead(dropped->call);
    }
    while (!upstreams_.empty()) UseUpstream();
    CheckStats();
    Must(model_.stats.in_flight == 0, "a call has not landed at the end");
    for (const auto& coroutine : coroutines_)
      Must(!coroutine->running, "a coroutine is still running at the end");
  }

  Bytes bytes_;
  const singleflight::GroupOptions options_;
  Model model_;
  std::vector<std::unique_ptr<RawWaiter>> waiters_;
  std::vector<std::unique_ptr<HeldFuture>> futures_;
  std::vector<std::unique_ptr<Coroutine>> coroutines_;
  std::vector<std::unique_ptr<Stop>> stops_;
  std::vector<std::deque<Call>> failing_;  // for each running batch, the calls that fail with it
  std::vector<std::unique_ptr<HeldLead>> leads_;
  std::vector<std::unique_ptr<HeldTask>> tasks_;
  std::vector<std::shared_ptr<Upstream>> upstreams_;
  int depth_ = 0;
  int steps_ = 0;
  int stopping_ = 0;
  // Destroyed first: objects that hold a result may outlive the group, and the sanitizers check
  // that.
  std::unique_ptr<Group> its_group_;
  Group& group_;
};

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
