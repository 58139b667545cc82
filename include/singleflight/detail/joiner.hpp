// SPDX-License-Identifier: MIT
#pragma once

// Joiner: how a caller that does not block in Do joins a call, or makes one whose Lead it launches.

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <system_error>
#include <type_traits>
#include <utility>

#include "../future.hpp"
#include "../lead.hpp"
#include "../result.hpp"
#include "../waiter.hpp"
#include "errors.hpp"
#include "function_ref.hpp"
#include "key_ref.hpp"
#include "listening.hpp"
#include "second_try.hpp"

namespace singleflight::detail {

template <class Ledger>
class Joiner {
  using Key = typename Ledger::Key;
  using Value = typename Ledger::Value;
  using KeyRef = typename Ledger::KeyRef;
  using Call = typename Ledger::Call;
  using AsyncCall = typename Ledger::AsyncCall;
  using Shard = typename Ledger::Shard;
  using State = typename Ledger::State;
  using Waiter = singleflight::Waiter<Value>;
  using Lead = singleflight::Lead<Ledger>;
  using SecondTry = detail::SecondTry<Ledger>;
  using Telling = typename Ledger::Telling;
  using ToldKey = typename Ledger::ToldKey;
  using ToldState = detail::ToldState<std::shared_ptr<State>, Ledger::Listening::kHeedsFollowers>;

 public:
  struct Joined {
    std::shared_ptr<State> state;    // null if a waiter was linked
    std::shared_ptr<AsyncCall> led;  // null for a follower
    bool has_landed = false;         // the waiter was not linked, but has its result
    // That of the call, also if a waiter was linked, which may be gone.
    [[no_unique_address]] ToldState told = {};
  };

  // Lives while a call is being launched. From its end on, Cancel notifies the callers at once.
  class HandingOver {
   public:
    explicit HandingOver(AsyncCall* led) noexcept : led_(led) {}  // null: another caller leads
    ~HandingOver() {
      if (led_ != nullptr) led_->HandedOver();
    }
    HandingOver(const HandingOver&) = delete;
    HandingOver& operator=(const HandingOver&) = delete;

   private:
    AsyncCall* const led_;
  };

  // Joins the call in flight, or a new one if there is none. `waiter` is null if the caller blocks.
  // `failed` is the state of the call whose failure made this caller ask again, or null. `kept`
  // gets the state of the call also if a waiter was linked, which may be gone when this returns. It
  // is given where a caller that makes a call may still follow: then that one asks again, too.
  static Joined JoinOrLead(Ledger& ledger, KeyRef key, std::uint64_t hash, Waiter* waiter,
                           bool retries, State* failed = nullptr,
                           std::shared_ptr<State>* kept = nullptr) {
    Joined joined = JoinUntold(ledger, key, hash, waiter, retries, failed, kept);
    if (joined.led != nullptr) {
      Telling::OnLead(*joined.led);
    } else if constexpr (Ledger::Listening::kHeedsFollowers) {
      Telling::OnFollow(ledger, ToldKey(key), *joined.told.state);
    }
    return joined;
  }

  template <class K>
  static Joined JoinSecondTry(Ledger& ledger, const K& key, Waiter& waiter,
                              std::shared_ptr<State>* kept = nullptr) {
    struct GiveUpUnlessAsks {
      ~GiveUpUnlessAsks() {
        if (!asks) SecondTry::GiveUp(ledger, failed);
      }
      Ledger& ledger;
      State& failed;
      bool asks = false;
    };
    const std::shared_ptr<State> failed = State::TakeFailed(waiter);
    GiveUpUnlessAsks asking{ledger, *failed};
    auto&& adapted = KeyRef::Adapt(key);
    asking.asks = true;
    return JoinOrLead(ledger, KeyRef(adapted), failed->hash, &waiter, false, failed.get(), kept);
  }

  // Refers to a `launch` without its type, so what takes one is compiled once. It calls `launch`
  // with a copy of the Lead.
  using LaunchRef = FunctionRef<void(const Lead&)>;
  template <class Launch>
  static auto Launching(Launch&& launch) {
    static_assert(std::is_invocable_v<Launch, Lead>,
                  "launch must be callable as launch(Group::Lead)");
    return [&launch](const Lead& lead) { std::invoke(std::forward<Launch>(launch), Lead(lead)); };
  }

  // Joins, and gives the Lead of a new call to `launch`. Not inlined, because that would be once
  // for each `launch`.
  [[gnu::noinline]] static Role Join(Ledger& ledger, KeyRef key, Waiter& waiter, bool retries,
                                     LaunchRef launch) {
    return Launched(JoinOrLead(ledger, key, ledger.HashOf(key), &waiter, retries), waiter, launch);
  }
  [[gnu::noinline]] static Future<Value> Join(Ledger& ledger, KeyRef key, LaunchRef launch) {
    Joined joined = JoinOrLead(ledger, key, ledger.HashOf(key), nullptr, false);
    const Role role = joined.led == nullptr ? Role::kFollower : Role::kLeader;
    Future<Value> future(std::move(joined.state), role);
    if (role == Role::kLeader) LaunchCall(std::move(joined.led), launch);
    return future;
  }
  static Role Launched(Joined&& joined, Waiter& waiter, LaunchRef launch) {
    if (joined.has_landed) waiter.OnLanded();
    if (joined.led == nullptr) return Role::kFollower;
    LaunchCall(std::move(joined.led), launch);
    return Role::kLeader;
  }

 private:
  // Gives a call's Lead to `launch`. What `launch` throws is the call's failure.
  static void LaunchCall(std::shared_ptr<AsyncCall> led, LaunchRef launch) {
    Lead lead(std::move(led));
    std::exception_ptr error;
    {
      const HandingOver handing_over(lead.SharedCall().get());
      try {
        launch(lead);
      } catch (...) {
        error = detail::Caught();  // a forced unwind continues, and destroys `lead`
      }
    }
    if (error != nullptr) lead.Fail(std::move(error));  // outside the catch block
  }

  static void KeepKeyOrGiveBack(Ledger& ledger, Shard& shard, State& second_try, KeyRef key) {
    std::exception_ptr error;
    try {
      return Telling::KeepKey(second_try, key);
    } catch (...) {
      error = detail::Caught();
    }
    shard.Unlock();
    SecondTry::GiveBack(ledger, second_try);
    std::rethrow_exception(std::move(error));
  }

  // Nothing has been told of it so far.
  static Joined JoinUntold(Ledger& ledger, KeyRef key, std::uint64_t hash, Waiter* waiter,
                           bool retries, State* failed, std::shared_ptr<State>* kept) {
    detail::CheckKeyCopy<Key, decltype(key.get())>();
    const auto prepared = [waiter](std::shared_ptr<State> state) {
      if (waiter == nullptr) state->PrepareToBlock();
      return state;
    };
    const auto linked = [waiter, kept](std::shared_ptr<State> state, Role role, bool retrying) {
      if (kept != nullptr) *kept = state;
      if (waiter != nullptr) State::Link(std::exchange(state, nullptr), *waiter, role, retrying);
      return state;
    };
    Joined joined;
    std::shared_ptr<AsyncCall> async;  // destroyed after unlocking, if this throws: it has the key
    Shard shard = ledger.Lock(hash);
    if (failed != nullptr) {
      if (std::shared_ptr<State> state = SecondTry::Find(ledger, shard, *failed, ToldKey(key))) {
        joined.told.Set(state);
        joined.has_landed = state->call == nullptr;
        if (joined.has_landed) {
          State::Deliver(std::move(state), *waiter);
        } else {
          KeepKeyOrGiveBack(ledger, shard, *state, key);
          joined.state = linked(std::move(state), Role::kFollower, false);
        }
        return joined;
      }
    }
    Call* const call = ledger.Find(shard, hash, key);
    if (call != nullptr && !ledger.TooOld(*call)) {
      std::shared_ptr<State> state = prepared(ledger.StateOf(*call));
      if (Telling::AsksInOnLead(*call, *state)) {
        shard.Unlock();
        Telling::OnRefuse(ledger, ToldKey(key), std::errc::resource_deadlock_would_occur);
        std::rethrow_exception(detail::MakeDeadlock());
      }
      Telling::KeepKey(*state, key);
      ledger.AdmitFollower(shard, *call, ToldKey(key));
      Ledger::AddFollower(shard, *call, state, retries);
      if (failed != nullptr) SecondTry::BringOthers(ledger, shard, *call, *failed);
      joined.told.Set(state);
      joined.state = linked(std::move(state), Role::kFollower, retries);
      return joined;
    }
    async = AsyncCall::Make(ledger, hash, key);
    std::shared_ptr<State> state = prepared(async->call.state);
    Telling::KeepKey(*state, key);
    ledger.StampStart(async->call);
    ledger.Begin(shard, async->call, call);
    if (failed != nullptr) SecondTry::BringOthers(ledger, shard, async->call, *failed);
    async->Enter(shard);
    const bool asks_again = retries && kept != nullptr;
    state->retriers += asks_again;
    joined.state = linked(std::move(state), Role::kLeader, asks_again);
    joined.led = std::move(async);
    return joined;
  }
};

}  // namespace singleflight::detail
