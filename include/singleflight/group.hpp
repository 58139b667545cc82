// SPDX-License-Identifier: MIT
#pragma once

// Group: run it once, share the result.
//
//   singleflight::Group<std::string, User> users;
//
//   // Ten threads at once: Load runs once, every thread gets the same User.
//   auto [user, shared] = users.Do("user:42", [] { return Load(42); });
//
// The first caller for a key, the leader, runs the function; callers that come while it runs, its
// followers, wait and receive the same result or exception. Then the entry is gone: this is not a
// cache, and the next caller runs the function again.
//
// The key must hold everything that the result depends on: the tenant, the user, their permissions.
// Whoever asks with the same key at the same time gets the same answer.
//
// The library's own errors are std::system_error with one of these std::errc:
//   resource_deadlock_would_occur     the wait would never end: the call waits for this thread
//   timed_out                         CallOptions::timeout passed while following
//   operation_canceled                CallOptions::stop was requested
//   resource_unavailable_try_again    a limit of GroupOptions refused the caller
//   owner_dead                        the leader vanished: thread cancelled, Lead dropped
// What `fn` throws is not wrapped: the same exception object reaches every caller.

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
#include "detail/lead.hpp"
#include "detail/ledger.hpp"
#include "detail/thread_waiter.hpp"
#include "detail/wait_graph.hpp"
#include "future.hpp"
#include "hash.hpp"
#include "options.hpp"
#include "result.hpp"

namespace singleflight {

template <class Key, class Value, class Cache, class Hash, class KeyEqual, class Traits>
class ReadThrough;

// Every member may be called from any thread at any time, except the destructor. No lock is held
// while `fn`, a callback, a stop request or a value's copy, move or destructor runs.
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
  using Shard = typename Ledger::Shard;  // locked, until it goes out of scope or is unlocked
  using Call = typename Ledger::Call;
  using AsyncCall = typename Ledger::AsyncCall;
  using State = typename Ledger::State;

 public:
  using KeyType = Key;
  using ValueType = Value;
  using HashType = Hash;
  using KeyEqualType = KeyEqual;
  // A caller that does not block; see detail/call.hpp. Derive from it and override OnLanded.
  using Waiter = detail::Waiter<Value>;
  // The right and duty to land a call made by Join; see detail/lead.hpp.
  using Lead = detail::Lead<Ledger>;

  // Throws std::invalid_argument if a limit is zero (or max_age negative): nobody would ever be
  // served, or nothing shared.
  explicit Group(GroupOptions options = {}) : ledger_(options) {}

  // Asks the calls that are led asynchronously to stop and waits until they have landed, as
  // std::jthread does. No thread may be inside another member, or get inside one, meanwhile; and a
  // call's own `fn` must not be what ends the group, for it would wait for itself.
  ~Group() = default;

  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  // The result of the call in flight for `key`; if there is none, leads one: runs `fn()` on this
  // thread, or `fn(std::stop_token)` where it takes that. `fn` is run at most once, and not at all
  // by a follower. Blocks until the call lands. Throws what the leader's `fn` threw, and
  // `resource_deadlock_would_occur`, `resource_unavailable_try_again` or `owner_dead`.
  //
  // The key may be whatever Hash and KeyEqual accept for one: for a string also a string_view or a
  // const char*; and {a, b} for a Key made of these. It is not copied, and must stay as it is until
  // Do returns; what is neither a Key nor a string becomes a Key first. A number that is no value
  // of the Key's type throws std::out_of_range.
  template <class K = Key, class Fn>
  Result<Value> Do(const K& key, Fn&& fn) {
    auto&& adapted = KeyRef::Adapt(key);
    return DoWith(KeyRef(adapted), std::forward<Fn>(fn), nullptr);
  }

  // The same for a caller with a timeout, a stop token or its own answer to a leader's failure;
  // also throws `timed_out` and `operation_canceled`. A stop requested before Do begins: `fn` is
  // not run. The token that `fn` takes is requested when no caller is left, the leader included.
  template <class K = Key, class Fn>
  Result<Value> Do(const K& key, Fn&& fn, CallOptions options) {
    auto&& adapted = KeyRef::Adapt(key);
    return DoWith(KeyRef(adapted), std::forward<Fn>(fn), &options);
  }

  // Lets the next caller for `key` start afresh; callers already on the call get its result as
  // ever. True if a call was in flight.
  template <class K = Key>
  bool Forget(const K& key) {
    return Visit(key, [](const Shard& shard, Call* call) {
      if (call != nullptr) shard->Forget(*call);
      return call != nullptr;
    });
  }

  // The same, unless its result would now be shared. True if it was forgotten or none was in
  // flight.
  template <class K = Key>
  bool ForgetUnshared(const K& key) {
    return Visit(key, [](const Shard& shard, Call* call) {
      if (call == nullptr) return true;
      if (call->Shared()) return false;
      shard->Forget(*call);
      return true;
    });
  }

  // How many callers are now on the call in flight for `key`, the leader included; 0 if there is
  // none.
  template <class K = Key>
  std::size_t Callers(const K& key) const {
    return Visit(key, [](const Shard&, const Call* call) -> std::size_t {
      return call != nullptr ? call->callers : 0;
    });
  }

  // Each shard is read at one moment, and all of them within this call.
  Stats GetStats() const { return ledger_.GetStats(); }

  // The extension point: how a caller that must not block joins. If a call for `key` is in flight,
  // links `waiter` to it and returns kFollower. Else makes a call that the waiter is the first
  // caller of, runs `launch(Lead)` on this thread with no lock held, and returns kLeader; what
  // `launch` throws lands the call as its failure (or is dropped, if it has landed). Either way
  // waiter.OnLanded comes once, maybe before Join returns, unless Leave prevents it. The call keeps
  // a copy of the key.
  //
  // Throws `resource_unavailable_try_again`, or what making the call threw; OnLanded then never
  // comes.
  template <class K = Key, class Launch>
  Role Join(const K& key, Waiter& waiter, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    Joined joined = JoinOrLead(KeyRef(adapted), &waiter);
    if (joined.led == nullptr) return Role::kFollower;
    LaunchCall(std::move(joined.led), std::forward<Launch>(launch));
    return Role::kLeader;
  }

  // The same for a caller that will wait later, and leaves by dropping the Future.
  template <class K = Key, class Launch>
  Future<Value> Join(const K& key, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    Joined joined = JoinOrLead(KeyRef(adapted), nullptr);
    const Role role = joined.led == nullptr ? Role::kFollower : Role::kLeader;
    Future<Value> future(std::move(joined.state), role);
    if (role == Role::kLeader) LaunchCall(std::move(joined.led), std::forward<Launch>(launch));
    return future;
  }

  // Takes a joined waiter off its call. True: it left, and OnLanded will not come. False: OnLanded
  // has come, is coming right now on another thread, or will, and the waiter must stay until then.
  // If no caller is left, the call is forgotten and asked to stop. Leave may race with OnLanded,
  // but not with Join, TakeResult, another Leave or the waiter's end. `launch` may leave.
  bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

 private:
  template <class, class, class, class, class, class>
  friend class ReadThrough;

  // Whether a caller for `key` would now be a follower.
  bool WouldFollow(const auto& key) const {
    return Visit(key, [this](const Shard&, const Call* call) {
      return call != nullptr && !ledger_.TooOld(*call);
    });
  }

  // `options` is null when the caller gave none: the fast path then skips every check of them.
  // `before_landing` is as for a Lead.
  template <class Fn, class Before = detail::NoHook>
  Result<Value> DoWith(KeyRef key, Fn&& fn, const CallOptions* options,
                       const Before& before_landing = {}) {
    detail::CheckFn<Value, Fn>();
    Call call(key);
    detail::Deadline deadline;
    const std::uint64_t hash = call.hash = HashOf(key);  // last: it takes longest
    for (;;) {
      if (options != nullptr && options->stop.stop_requested()) {
        std::rethrow_exception(detail::MakeCanceled());
      }
      ledger_.StampStart(call);
      Shard shard = ledger_.Lock(hash);
      Call* const current = Find(shard, hash, key);
      if (current == nullptr || ledger_.TooOld(*current)) [[likely]] {
        if constexpr (detail::kTakesStopToken<Fn>) {  // who has no stop of its own never leaves
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

  // A blocking leader's part. The call is on its stack: nobody refers to it once it has landed.
  template <class Fn, class Before>
  Result<Value> RunAndLand(Call& call, Fn&& fn, const CallOptions* options,
                           const Before& before_landing) {
    struct LandIfUnwound {  // a thread that is cancelled inside `fn`
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
      if constexpr (!std::same_as<Before, detail::NoHook>) {
        before_landing(ledger_, call, call.key.get(), outcome);
      }
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

  // A blocking follower's part: waits until `call` has landed, and returns what is left of it.
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
    // Recorded as the last step that can fail: no thread ever sees an edge of one that does not
    // wait. While the shard is locked, the call cannot land. (A deadlock is reported even if the
    // call is full: to try again would never help.)
    detail::ThreadWaiter<Value> waiter;  // before the edge, which must go before it leaves
    detail::WaitEdge edge;
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
    if (waiter.AwaitOrLeave(edge, deadline)) return state;
    if (options->stop.stop_requested()) std::rethrow_exception(detail::MakeCanceled());
    std::rethrow_exception(detail::MakeTimedOut());
  }

  struct Joined {
    std::shared_ptr<State> state;    // null if a waiter was linked
    std::shared_ptr<AsyncCall> led;  // null for a follower
  };

  // Joins the call in flight; if there is none, a new one. A null waiter: the caller will block.
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

  // Hands a call's Lead to `launch`; what that throws is the call's failure.
  template <class Launch>
  static void LaunchCall(std::shared_ptr<AsyncCall> led, Launch&& launch) {
    static_assert(std::is_invocable_v<Launch, Lead>,
                  "launch must be callable as launch(Group::Lead)");
    Lead lead(std::move(led));
    std::exception_ptr error;
    try {
      std::invoke(std::forward<Launch>(launch), Lead(lead));
    } catch (...) {
      error = detail::Caught();  // or `lead` goes with the unwound thread
    }
    if (error != nullptr) lead.Fail(std::move(error));  // outside the catch block
  }

  // `too_old`: a call for the same key that this one takes the place of, or null.
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
