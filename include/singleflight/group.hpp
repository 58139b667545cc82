// SPDX-License-Identifier: MIT
#pragma once

// Group: run it once, share the result.
//
//   singleflight::Group<std::string, User> users;
//
//   // Ten threads at once: Load runs once, every thread gets the same User.
//   auto [user, shared] = users.Do("user:42", [] { return Load(42); });
//
// The first caller for a key is the leader: it runs the function. Callers that come while it runs
// are followers: they wait, and get the same result or exception. Then the call has landed, and the
// next caller runs the function again. This is not a cache.
//
// Warning: the key must hold everything that the result depends on: the tenant, the user, their
// permissions. Callers that ask with the same key at the same time get the same answer.
//
// A group's own errors are std::system_error with one of these std::errc:
//   resource_deadlock_would_occur     the call waits for this thread, so the wait would never end
//   timed_out                         CallOptions::timeout passed while this caller followed
//   operation_canceled                a stop was requested of this caller
//   resource_unavailable_try_again    a limit of GroupOptions refused this caller
//   owner_dead                        the leader vanished: thread cancelled, or Lead destroyed
// What `fn` throws is not wrapped: every caller gets the same object. Catch it by const reference.
//
// README.md beside this file says in which order to read the implementation.

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stop_token>
#include <system_error>
#include <type_traits>
#include <utility>

#include "detail/call.hpp"
#include "detail/event.hpp"
#include "detail/invoke.hpp"
#include "detail/key_ref.hpp"
#include "detail/ledger.hpp"
#include "detail/thread_waiter.hpp"
#include "detail/wait_graph.hpp"
#include "future.hpp"
#include "hash.hpp"
#include "lead.hpp"
#include "options.hpp"
#include "result.hpp"
#include "waiter.hpp"

namespace singleflight {

template <class Key, class Value, class Cache, class Hash, class KeyEqual, class Traits>
class ReadThrough;

// Neither copyable nor movable: keep it where it is, in a std::unique_ptr or in a std::deque.
//
// Thread: every member may be called on any thread at any time, except the destructor. No lock is
//   held while `fn`, a callback, a stop request or a value's copy, move or destructor runs.
template <class Key, class Value, class Hash = DefaultHash<Key>, class KeyEqual = DefaultEqual<Key>,
          class Traits = GroupTraits>
class Group {
  static_assert(!std::is_reference_v<Value>,
                "Value is a reference: a result outlives what it would refer to; use a value, a "
                "pointer or std::reference_wrapper");
  static_assert(std::is_void_v<Value> || (std::is_object_v<Value> && !std::is_array_v<Value> &&
                                          !std::is_const_v<Value> && !std::is_volatile_v<Value>),
                "Value must be void or a plain object type: not const, an array or a function");
  static_assert(std::is_void_v<Value> || std::move_constructible<Value>,
                "Value cannot be moved: wrap it in std::unique_ptr or std::shared_ptr");
  static_assert(std::is_object_v<Key> && !std::is_const_v<Key>, "Key must be an object type");
  static_assert(
      std::is_invocable_r_v<std::size_t, const Hash&, const Key&>,
      "Hash cannot take the Key: it must be callable as `std::size_t hash(key)` on a const "
      "Hash; write one, or specialize std::hash<Key>");
  static_assert(std::is_invocable_r_v<bool, const KeyEqual&, const Key&, const Key&>,
                "KeyEqual cannot compare two Keys: it must be callable as `bool equal(a, b)` on a "
                "const KeyEqual");

  using KeyRef = detail::KeyRef<Key, Hash, KeyEqual>;
  using Ledger = detail::Ledger<Key, Value, KeyRef, Traits>;
  using Shard = typename Ledger::Shard;  // stays locked until Unlock or the end of its scope
  using Call = typename Ledger::Call;
  using AsyncCall = typename Ledger::AsyncCall;
  using State = typename Ledger::State;

 public:
  using KeyType = Key;
  using ValueType = Value;
  using HashType = Hash;
  using KeyEqualType = KeyEqual;
  using Waiter = singleflight::Waiter<Value>;  // a caller that does not block: see waiter.hpp
  using Lead = singleflight::Lead<Ledger>;     // the right to land a call: see lead.hpp

  // Errors: throws std::invalid_argument if a limit is zero, or max_age is not positive.
  explicit Group(GroupOptions options = {}) : ledger_(options) {}

  // Asks the calls that are led asynchronously to stop, and waits until they have landed, as
  // std::jthread does.
  //
  // Thread: no other thread may be inside a member, or enter one, meanwhile.
  //
  // Warning: a call's own `fn` must not destroy the group: the destructor would wait for it.
  ~Group() = default;

  Group(const Group&) = delete;  // keep a Group in a std::unique_ptr or a std::deque instead
  Group& operator=(const Group&) = delete;

  // Returns the result of the call in flight for `key`. If there is none, leads one: runs `fn()`,
  // or `fn(std::stop_token)` if it accepts that.
  //
  // `key` is a Key, or what converts to one: for a string also a string_view or a const char*, and
  // {a, b} for a Key that these construct. A Key or a string is not copied.
  //
  // Thread: blocks until the call lands. A leader runs `fn` on this thread. A follower's `fn` never
  //   runs.
  // Errors: throws what the leader's `fn` threw, `resource_deadlock_would_occur`,
  //   `resource_unavailable_try_again` or `owner_dead`. Throws std::out_of_range for a number that
  //   the Key type cannot represent, and what converting, hashing or comparing the key throws.
  // Lifetime: the key must not change until Do returns.
  template <class K = Key, class Fn>
  Result<Value> Do(const K& key, Fn&& fn) {
    auto&& adapted = KeyRef::Adapt(key);
    return DoWith(KeyRef(adapted), std::forward<Fn>(fn), nullptr);
  }

  // The same, for a caller with options: a timeout, a stop token, what to do if its leader fails.
  //
  // Leaving: a follower leaves when its timeout passes or its stop is requested. If a leader's stop
  //   is requested, it no longer counts as a caller, but returns only when `fn` does. When no
  //   caller is left, a stop is requested of the token that `fn` takes, on the thread that leaves
  //   last. If the stop was requested before Do begins, `fn` is not run.
  // Errors: also throws `timed_out` and `operation_canceled`.
  template <class K = Key, class Fn>
  Result<Value> Do(const K& key, Fn&& fn, CallOptions options) {
    auto&& adapted = KeyRef::Adapt(key);
    return DoWith(KeyRef(adapted), std::forward<Fn>(fn), &options);
  }

  template <class K = Key, class Fn, detail::NotCallOptions Options>
  void Do(const K&, Fn&&, Options&&) = delete;  // write {.timeout = 50ms, .stop = token}

  // Makes the next caller for `key` start a new call. Callers already on the call still get its
  // result. True if a call was in flight.
  template <class K = Key>
  bool Forget(const K& key) {
    return Visit(key, [](const Shard& shard, Call* call) {
      if (call != nullptr) shard->Forget(*call);
      return call != nullptr;
    });
  }

  // The same, unless several callers would get the result. True if the call was forgotten, or none
  // was in flight.
  template <class K = Key>
  bool ForgetUnshared(const K& key) {
    return Visit(key, [](const Shard& shard, Call* call) {
      if (call == nullptr) return true;
      if (call->Shared()) return false;
      shard->Forget(*call);
      return true;
    });
  }

  // Returns how many callers are on the call in flight for `key`, its leader included. 0 if there
  // is no call.
  template <class K = Key>
  std::size_t Callers(const K& key) const {
    return Visit(key, [](const Shard&, const Call* call) -> std::size_t {
      return call != nullptr ? call->callers : 0;
    });
  }

  // Returns the group's statistics. Each shard is read atomically, but the total is not a snapshot
  // of one moment.
  Stats GetStats() const { return ledger_.GetStats(); }

  // The extension point for callers that must not block: see waiter.hpp. If a call for `key` is in
  // flight, links `waiter` to it and returns kFollower. If not, makes a call whose first caller is
  // the waiter, runs `launch(Lead)`, and returns kLeader. The call keeps a copy of the key.
  //
  // Thread: `launch` runs on this thread, with no lock held. waiter.OnLanded is called once, on the
  //   thread that lands the call, perhaps before Join returns.
  // Leaving: Leave(waiter), which prevents OnLanded.
  // Errors: what `launch` throws lands the call as its failure, or is dropped if the call has
  //   landed. Join itself throws `resource_unavailable_try_again`, or what copying the key or an
  //   allocation threw. OnLanded is then never called.
  template <class K = Key, class Launch>
  Role Join(const K& key, Waiter& waiter, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    Joined joined = JoinOrLead(KeyRef(adapted), &waiter);
    if (joined.led == nullptr) return Role::kFollower;
    LaunchCall(std::move(joined.led), std::forward<Launch>(launch));
    return Role::kLeader;
  }

  // The same, for a caller that waits later. It leaves when the Future is destroyed.
  template <class K = Key, class Launch>
  Future<Value> Join(const K& key, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    Joined joined = JoinOrLead(KeyRef(adapted), nullptr);
    const Role role = joined.led == nullptr ? Role::kFollower : Role::kLeader;
    Future<Value> future(std::move(joined.state), role);
    if (role == Role::kLeader) LaunchCall(std::move(joined.led), std::forward<Launch>(launch));
    return future;
  }

  // Makes a waiter leave its call. True: it left, and OnLanded will not be called. False: OnLanded
  // has been called, is running on another thread, or will be called, and the waiter must stay
  // until then. Also false if the waiter is on no call. If no caller is left, the call is forgotten
  // and asked to stop, on this thread.
  //
  // Thread: may race with OnLanded, but not with Join, TakeResult, another Leave or the waiter's
  //   destructor. `launch` may call it.
  bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

 private:
  template <class, class, class, class, class, class>
  friend class ReadThrough;

  // Whether a caller for `key` would be a follower now.
  bool WouldFollow(const auto& key) const {
    return Visit(key, [this](const Shard&, const Call* call) {
      return call != nullptr && !ledger_.TooOld(*call);
    });
  }

  // Leads or follows the call for `key`. `options` is null if the caller gave none: the fast path
  // then skips every check of them. `before_landing` is a hook like Lead's BeforeLanding.
  template <class Fn, class Hook = detail::NoHook>
  Result<Value> DoWith(KeyRef key, Fn&& fn, const CallOptions* options,
                       const Hook& before_landing = {}) {
    detail::CheckFn<Value, Fn>();
    Call call(key);
    detail::Deadline deadline;
    const std::uint64_t hash = call.hash = HashOf(key);
    for (;;) {
      if (options != nullptr && options->stop.stop_requested()) {
        std::rethrow_exception(detail::MakeCanceled());
      }
      ledger_.StampStart(call);
      Shard shard = ledger_.Lock(hash);
      Call* const current = Find(shard, hash, key);
      if (current == nullptr || ledger_.TooOld(*current)) [[likely]] {
        // A leader without a stop token of its own never leaves, so nothing can stop its call.
        if constexpr (detail::kTakesStopToken<Fn>) {
          if (options != nullptr && options->stop.stop_possible())
            call.stop = detail::NewStopSource();
        }
        Begin(shard, call, current);
        shard.Unlock();
        return RunAndLand(call, std::forward<Fn>(fn), options, before_landing);
      }
      std::shared_ptr<State> state = Follow(std::move(shard), *current, options, deadline);
      const bool retry = options != nullptr && options->on_failure == OnFailure::kRetry;
      if (!retry || !state->Failed()) return State::Receive(std::move(state), Role::kFollower);
    }
  }

  // Does a blocking leader's part. The call is on its stack: nothing refers to it after landing.
  template <class Fn, class Hook>
  Result<Value> RunAndLand(Call& call, Fn&& fn, const CallOptions* options,
                           const Hook& before_landing) {
    struct LandIfUnwound {  // if the thread is cancelled inside `fn`
      ~LandIfUnwound() {
        if (call != nullptr) [[unlikely]] {
          ledger.LandVanished(*call);
        }
      }
      Ledger& ledger;
      Call* call;
    } landing{ledger_, &call};
    detail::Outcome<Value> outcome;
    const auto run = [&] {
      detail::Execute<Value>(outcome, std::forward<Fn>(fn), call.stop);
      detail::RunHook(before_landing, ledger_, call, call.key.get(), outcome);
    };
    if (options != nullptr && options->stop.stop_possible()) {
      // The callback's destructor waits for a LeaderLeaves in progress, so `call` outlives it.
      const std::stop_callback on_stop(options->stop, [&] { ledger_.LeaderLeaves(call); });
      run();
    } else {
      run();
    }
    landing.call = nullptr;
    if (ledger_.LandAlone(call, detail::Failed<Value>(outcome))) [[likely]] {
      return detail::ResultFactory::Take<Value>(outcome, Role::kLeader);
    }
    return State::Receive(ledger_.Share(call, std::move(outcome)), Role::kLeader);
  }

  // Does a blocking follower's part: waits until `call` has landed, and returns its shared state.
  [[gnu::noinline]] std::shared_ptr<State> Follow(Shard shard, Call& call,
                                                  const CallOptions* options,
                                                  detail::Deadline& deadline) {
    if (options != nullptr && options->timeout) {
      if (!deadline) deadline = detail::DeadlineAfter(*options->timeout);
      if (deadline && std::chrono::steady_clock::now() >= *deadline) {
        ++shard->followers;
        ++shard->left;
        shard.Unlock();
        std::rethrow_exception(detail::MakeTimedOut());
      }
    }
    std::shared_ptr<State> state = ledger_.StateOf(call);
    const bool may_leave = options != nullptr && (deadline || options->stop.stop_possible());
    if (!may_leave) state->PrepareToBlock();
    // Record the edge as the last step that can fail: no other thread may see an edge of a thread
    // that then does not wait. While the shard is locked, the call cannot land. (If the call is
    // full, a deadlock is still reported as one, because trying again would never help.)
    detail::ThreadWaiter<Value> waiter;
    detail::WaitEdge edge;  // destroyed before `waiter` leaves
    if (ledger_.Full(call) ? edge.WouldClose(*state) : !edge.Record(*state)) {
      shard.Unlock();
      std::rethrow_exception(detail::MakeDeadlock());
    }
    RefuseIfFull(shard, call);
    Ledger::AddFollower(shard, call, state);
    if (!may_leave) {
      shard.Unlock();
      state->Block();
      return state;
    }
    State::Link(state, waiter, Role::kFollower);
    shard.Unlock();
    const std::stop_callback on_stop(options->stop, [&waiter] { waiter.Interrupt(); });
    if (waiter.WaitOrLeave(edge, deadline)) return state;
    if (options->stop.stop_requested()) std::rethrow_exception(detail::MakeCanceled());
    std::rethrow_exception(detail::MakeTimedOut());
  }

  struct Joined {
    std::shared_ptr<State> state;    // null if a waiter was linked
    std::shared_ptr<AsyncCall> led;  // null for a follower
  };

  // Joins the call in flight, or a new one if there is none. `waiter` is null if the caller blocks.
  Joined JoinOrLead(KeyRef key, Waiter* waiter) {
    detail::CheckKeyCopy<Key, decltype(key.get())>();
    const auto prepared = [waiter](std::shared_ptr<State> state) {
      if (waiter == nullptr) state->PrepareToBlock();
      return state;
    };
    const auto linked = [waiter](std::shared_ptr<State> state, Role role) {
      if (waiter != nullptr) State::Link(std::exchange(state, nullptr), *waiter, role);
      return state;
    };
    const std::uint64_t hash = HashOf(key);
    Shard shard = ledger_.Lock(hash);
    Call* const call = Find(shard, hash, key);
    if (call != nullptr && !ledger_.TooOld(*call)) {
      RefuseIfFull(shard, *call);
      std::shared_ptr<State> state = prepared(ledger_.StateOf(*call));
      Ledger::AddFollower(shard, *call, state);
      return {linked(std::move(state), Role::kFollower), nullptr};
    }
    auto async = std::make_shared<AsyncCall>(ledger_, hash, key);
    std::shared_ptr<State> state = prepared(async->call.state);
    ledger_.StampStart(async->call);
    Begin(shard, async->call, call);
    async->ledger = &ledger_;
    async->entry.InsertBefore(shard->async_calls);
    return {linked(std::move(state), Role::kLeader), std::move(async)};
  }

  // Gives a call's Lead to `launch`. What `launch` throws is the call's failure.
  template <class Launch>
  static void LaunchCall(std::shared_ptr<AsyncCall> led, Launch&& launch) {
    static_assert(std::is_invocable_v<Launch, Lead>,
                  "launch must be callable as launch(Group::Lead)");
    Lead lead(std::move(led));
    std::exception_ptr error;
    try {
      std::invoke(std::forward<Launch>(launch), Lead(lead));
    } catch (...) {
      error = detail::Caught();  // a forced unwind continues, and destroys `lead`
    }
    if (error != nullptr) lead.Fail(std::move(error));  // outside the catch block
  }

  // `too_old` is a call for the same key that this one replaces, or null.
  void Begin(Shard& shard, Call& call, Call* too_old) {
    if (!ledger_.Begin(shard, call, too_old)) [[unlikely]] {
      Ledger::Refuse(std::move(shard), "singleflight: max_calls_in_flight reached");
    }
  }

  void RefuseIfFull(Shard& shard, const Call& call) const {
    if (ledger_.Full(call)) {
      Ledger::Refuse(std::move(shard), "singleflight: max_callers_per_call reached");
    }
  }

  std::uint64_t HashOf(KeyRef key) const { return ledger_.Mix(hash_(key.get())); }

  Call* Find(const Shard& shard, std::uint64_t hash, KeyRef key) const {
    return static_cast<Call*>(shard->Find(hash, [&](const detail::CallBase& call) {
      return equal_(static_cast<const Call&>(call).key.get(), key.get());
    }));
  }

  template <class K, class Visitor>
  auto Visit(const K& key, Visitor&& visitor) const {
    auto&& adapted = KeyRef::Adapt(key);
    const KeyRef ref(adapted);
    const std::uint64_t hash = HashOf(ref);
    const Shard shard = ledger_.Lock(hash);
    return visitor(shard, Find(shard, hash, ref));
  }

  [[no_unique_address]] Hash hash_{};
  [[no_unique_address]] KeyEqual equal_{};
  mutable Ledger ledger_;
};

}  // namespace singleflight
