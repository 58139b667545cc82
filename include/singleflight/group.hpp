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
// A group's own errors are std::system_error, of the category in errors.hpp, with one of these
// std::errc:
//   resource_deadlock_would_occur     the call waits, directly or through other calls, for this
//                                     thread. Also if somebody in that circle has a timeout.
//   timed_out                         CallOptions::timeout passed while this caller followed
//   operation_canceled                a stop was requested of this caller, or Cancel of its call
//   resource_unavailable_try_again    a limit of GroupOptions, or Close, refused this caller
//   owner_dead                        the leader vanished: thread cancelled, or Lead destroyed
// What `fn` throws is not wrapped: every caller gets the same object. Catch it by const reference,
// and add nothing to it.
//
// README.md beside this file says in which order to read the implementation.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "call_info.hpp"
#include "detail/blocking.hpp"
#include "detail/call.hpp"
#include "detail/cancel.hpp"
#include "detail/inspect.hpp"
#include "detail/invoke.hpp"
#include "detail/joiner.hpp"
#include "detail/key_ref.hpp"
#include "detail/ledger.hpp"
#include "detail/listening.hpp"
#include "detail/second_try.hpp"
#include "future.hpp"
#include "hash.hpp"
#include "lead.hpp"
#include "options.hpp"
#include "result.hpp"
#include "waiter.hpp"

namespace singleflight {

namespace detail {
template <class Key, class Value, class Cache, class Hash, class KeyEqual, class Traits>
class Loads;
}
template <class Key, class Value, class Cache, class Hash, class KeyEqual, class Traits>
class ReadThrough;
namespace redis::detail {
template <class Value, class Call, class Context>
class FleetGroup;
}

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
  using State = typename Ledger::State;
  using Joiner = detail::Joiner<Ledger>;

 public:
  using KeyType = Key;
  using ValueType = Value;
  using HashType = Hash;
  using KeyEqualType = KeyEqual;
  using Listener = typename Traits::Listener;  // what Traits::Listener is: see listener.hpp
  using Waiter = singleflight::Waiter<Value>;  // a caller that does not block: see waiter.hpp
  using Lead = singleflight::Lead<Ledger>;     // the right to land a call: see lead.hpp

  // Errors: throws std::invalid_argument if a limit is zero, or max_age is not positive.
  explicit Group(GroupOptions options = {})
      : ledger_(detail::WithDefaultListener<Listener>::Check(options)) {}
  // The same with a listener. It is moved here: see listener.hpp.
  Group(GroupOptions options, Listener listener) : ledger_(options, std::move(listener)) {}

  // Asks the calls that are led asynchronously to stop, and waits until they have landed, and those
  // that their work begins meanwhile. So does std::jthread.
  //
  // Thread: no other thread may be inside a member, or enter one, meanwhile.
  //
  // Warning: a call's own `fn` must not destroy the group: the destructor would wait for it.
  ~Group() = default;

  Group(const Group&) = delete;  // keep a Group in a std::unique_ptr or a std::deque instead
  Group& operator=(const Group&) = delete;

  // Returns the result of the call in flight for `key`. If there is none, leads one: runs `fn()`,
  // or `fn(StopToken)` if it accepts that. In a group of void, what `fn` returns is ignored.
  // If it is known to hold errors, as a std::error_code or a std::expected, it is refused.
  //
  // `key` is a Key, or what converts to one: for a string also a string_view or a const char*, and
  // {a, b} for a Key that these construct. A Key or a string is not copied. Numbers, pairs, tuples
  // and the like are checked in braces as elsewhere. The braces of any other Key are those of C++,
  // which converts a pair inside of it unchecked.
  //
  // Thread: blocks until the call lands. A leader runs `fn` on this thread. A follower's `fn` never
  //   runs.
  // Cost: nothing is allocated by a leader that stays alone, except for the stop if `fn` takes a
  //   stop token.
  // Errors: throws what the leader's `fn` threw, `resource_deadlock_would_occur`,
  //   `resource_unavailable_try_again`, `owner_dead`, or `operation_canceled` after Cancel. Throws
  //   std::out_of_range for what the Key type cannot represent, std::invalid_argument for a null
  //   pointer as a string, and what converting, hashing or comparing the key throws.
  // Lifetime: the key must not change until Do returns.
  //
  // Warning: `fn` must not suspend its stack, as a fiber does, and continue on another thread.
  // Deadlocks are detected by thread: a caller on the first thread may get
  // `resource_deadlock_would_occur` for a wait that would end, and a deadlock on the second may
  // hang. Use Join there, and land the call with Lead::Succeed, which names no thread.
  template <class K = detail::BracedKey<Key>, class Fn>
  Result<Value> Do(const K& key, Fn&& fn) {
    auto&& adapted = KeyRef::Adapt(key);
    return DoWith(KeyRef(adapted), std::forward<Fn>(fn), nullptr);
  }

  // The same, for a caller with options: a timeout, a stop token, what to do if its leader fails.
  //
  // Leaving: a follower leaves when its timeout passes or its stop is requested. If a leader's stop
  //   is requested, it no longer counts as a caller, but returns only when `fn` does. If the stop
  //   was requested before Do begins, `fn` is not run. When no caller is left on a call whose `fn`
  //   takes a stop token, the call is forgotten, and the stop is requested on the thread that
  //   leaves last. A call whose `fn` takes none goes on, and newcomers join it.
  // Errors: also throws `timed_out`, and `operation_canceled` for a stop.
  template <class K = detail::BracedKey<Key>, class Fn>
  Result<Value> Do(const K& key, Fn&& fn, const CallOptions& options) {
    auto&& adapted = KeyRef::Adapt(key);
    return DoWith(KeyRef(adapted), std::forward<Fn>(fn), &options);
  }

  template <class K = detail::BracedKey<Key>, class Fn, detail::NotCallOptions Options>
  void Do(const K&, Fn&&, Options&&) = delete;  // write {.timeout = 50ms, .stop = token}

  // Makes the next caller for `key` start a new call. Callers already on the call still get its
  // result. True if a call was in flight.
  template <class K = detail::BracedKey<Key>>
  bool Forget(const K& key) {
    return Visit(key, [](const Shard& shard, Call* call) {
      if (call != nullptr) shard->Forget(*call);
      return call != nullptr;
    });
  }

  // The same, unless several callers would get the result. True if the call was forgotten, or none
  // was in flight.
  template <class K = detail::BracedKey<Key>>
  bool ForgetUnshared(const K& key) {
    return Visit(key, [](const Shard& shard, Call* call) {
      if (call == nullptr) return true;
      if (call->Shared()) return false;
      shard->Forget(*call);
      return true;
    });
  }

  // Makes the callers of the call in flight for `key` get `operation_canceled`, whatever its `fn`
  // returns later, and forgets the call. True if one was in flight. A call that was forgotten
  // before is not found.
  //
  // If `fn` takes a stop token, it is asked to stop, and so are the Asio operations that it awaits.
  // If it has not begun, it does not run. Until it returns, the call is in flight without callers:
  // Close and the destructor wait for it, and max_calls_in_flight counts it. What it then returns
  // is dropped. The call counts as a failure, but no caller asks again, whatever its OnFailure. A
  // Cancel that comes when the call is landing does one of the two: the callers get either all the
  // outcome or all the error.
  //
  // Thread: followers are notified on this thread, before it requests the stop. So are callers that
  //   do not block, of whom one was the leader. If a call's `launch` or executor is being called at
  //   this moment, they are notified on that thread, when it has returned or the work begins. A
  //   leader that runs `fn` itself, in Do or DoMany, gets the error when `fn` returns.
  // Errors: throws only what hashing, converting or comparing the key throws.
  template <class K = detail::BracedKey<Key>>
  bool Cancel(const K& key) {
    auto&& adapted = KeyRef::Adapt(key);
    const KeyRef ref(adapted);
    return detail::Canceler<Ledger>::Cancel(ledger_, ledger_.HashOf(ref), ref);
  }

  // Refuses newcomers from now on, and waits until no call is in flight. It asks none to stop.
  //
  // Thread: blocks. May run at the same time as any member but the destructor.
  // Errors: throws `resource_deadlock_would_occur` inside a call's `fn`, because the call could
  //   wait for itself.
  //
  // Warning: inside `launch`, an executor, or an awaitable that has been suspended, it may wait for
  // the very call for ever, which is not detected.
  void Close() { ledger_.CloseGroup(); }

  // Returns how many callers are on the call in flight for `key`, its leader included. 0 if there
  // is no call, or none is left on it.
  template <class K = detail::BracedKey<Key>>
  std::size_t Callers(const K& key) const {
    return Visit(key, [](const Shard&, const Call* call) -> std::size_t {
      return call != nullptr ? call->callers : 0;
    });
  }

  // Returns every call in flight, in no order: a page for debugging. It is not a snapshot: calls
  // that begin or land meanwhile may be missing.
  //
  // Thread: it locks each shard for a few calls at a time, and copies their keys then.
  // Errors: throws what copying a key or an allocation throws.
  std::vector<CallInfo<Key>> Inspect() const {
    static_assert(std::copy_constructible<Key>,
                  "Inspect copies the keys of the calls in flight, and this Key cannot be copied");
    return detail::Inspect(ledger_);
  }

  // Returns the group's statistics. Each shard is read atomically, but the total is not a snapshot
  // of one moment.
  Stats GetStats() const { return ledger_.GetStats(); }

  // Returns the listener. Its hooks may be running on other threads.
  Listener& GetListener() noexcept { return ledger_.GetListener(); }
  const Listener& GetListener() const noexcept { return ledger_.GetListener(); }

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
  template <class K = detail::BracedKey<Key>, class Launch>
  Role Join(const K& key, Waiter& waiter, Launch&& launch,
            OnFailure on_failure = OnFailure::kShare) {
    auto&& adapted = KeyRef::Adapt(key);
    return Joiner::Join(ledger_, KeyRef(adapted), waiter, on_failure == OnFailure::kRetry,
                        Joiner::Launching(std::forward<Launch>(launch)));
  }

  // Joins again, after the call that the waiter followed has failed: only if waiter.AsksAgain(). It
  // asks for the same key. All followers that ask again share one second try. What it gives is
  // final.
  //
  // Thread, Errors: as for Join. If it is called in OnLanded, ~Group waits for that. So while a
  //   waiter of a failed call may ask again, no OnLanded of that call may destroy the group.
  template <class K = detail::BracedKey<Key>, class Launch>
  Role JoinAgain(const K& key, Waiter& waiter, Launch&& launch) {
    return Joiner::Launched(Joiner::JoinSecondTry(ledger_, key, waiter), waiter,
                            Joiner::Launching(std::forward<Launch>(launch)));
  }

  // Tells the other followers of a failed call not to expect this waiter, which could join again,
  // but will not. From then on it does not AsksAgain(), and its result is the failure.
  //
  // Thread: as AsksAgain.
  void GiveUp(Waiter& waiter) noexcept {
    if (waiter.AsksAgain() && State::StopsAsking(waiter)) {
      detail::SecondTry<Ledger>::GiveUp(ledger_, *State::Of(waiter));
    }
  }

  // The same, for a caller that waits later. It leaves when the Future is destroyed.
  template <class K = detail::BracedKey<Key>, class Launch>
  Future<Value> Join(const K& key, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    return Joiner::Join(ledger_, KeyRef(adapted), Joiner::Launching(std::forward<Launch>(launch)));
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
  template <class, class, class, class, class, class>
  friend class detail::Loads;
  template <class, class, class>
  friend class redis::detail::FleetGroup;

  // Whether a caller for `key` would be a follower now.
  bool WouldFollow(const auto& key) const {
    return Visit(key, [this](const Shard&, const Call* call) {
      return call != nullptr && !ledger_.TooOld(*call);
    });
  }

  // As Forget, for all keys.
  void ForgetAll() { detail::ForgetAll(ledger_); }

  // As Forget, for the keys of calls now in flight of which `is_it(key)` is true. It asks of
  // copies, with no lock held.
  template <class Predicate>
  void ForgetIf(const Predicate& is_it) {
    for (const Key& key : detail::KeysInFlight(ledger_)) {
      if (is_it(key)) Forget(key);
    }
  }

  // `options` is nullptr, or a pointer that may be null.
  template <class Fn, class Options, class Hook = detail::NoHook>
  Result<Value> DoWith(KeyRef key, Fn&& fn, Options options, const Hook& before_landing = {}) {
    detail::CheckFn<Value, Fn>();
    using Blocking = detail::BlockingCaller<Ledger, Fn, Options, Hook>;
    return Blocking::Ask(ledger_, key, fn, options, before_landing);
  }

  template <class K, class Visitor>
  auto Visit(const K& key, Visitor&& visitor) const {
    auto&& adapted = KeyRef::Adapt(key);
    const KeyRef ref(adapted);
    const std::uint64_t hash = ledger_.HashOf(ref);
    const Shard shard = ledger_.Lock(hash);
    return visitor(shard, ledger_.Find(shard, hash, ref));
  }

  mutable Ledger ledger_;
};

}  // namespace singleflight
