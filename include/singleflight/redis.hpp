// SPDX-License-Identifier: MIT
#pragma once

// redis::Group: one leader for a fleet of processes, which share a Redis or Valkey server.
//
//   singleflight::redis::Group<std::string> pages({.host = "redis", .prefix = "shop:pages"});
//
//   // Ten containers with a hundred threads each ask at once: one of the threads renders.
//   auto [page, shared] = pages.Do("/prices", [] { return Render("/prices"); });
//
// The callers of one process share one call of a local Group. Its leader asks the server for the
// lease, which is the right of one process to lead. It gets the lease and leads the fleet's call,
// or follows the process that has it. Callers in other processes get a copy of the value, made by a
// Codec, or the exception's message as a RemoteError.
//
// Warning: this saves work, but it is not a lock. `fn` runs twice at the same time if a leader's
// process stalls for longer than its lease, if the server loses its memory, or if it cannot be
// reached. If a second execution would do harm, make the store that `fn` writes to refuse the older
// of two writes. For that, `fn` may take a Lease, whose fence() grows with every lease of its key:
//
//   pages.Do("/prices", [](const singleflight::redis::Lease& lease) {
//     return Store(Render("/prices"), lease.fence());
//   });
//
// Do blocks its thread. Each key that a process follows takes one of its threads and a connection.
// CoDo, AsyncDo, DoAsync and DoMany do not accept a redis::Group. In a coroutine, wait for a call
// of a local Group, whose `fn` calls Do on a thread pool. With a cache that the processes share,
// look in it and put into it inside the `fn` of Do, under the lease. Otherwise a process that looks
// just before the value is put runs `fn` again. The pool's threads then share the cache.
//
//   auto load = asio::bind_executor(pool, [this, path](singleflight::StopToken stop) {
//     const auto render = [&] {
//       if (std::optional<std::string> hit = cache.Get(path)) return *hit;
//       std::string page = Render(path);
//       cache.Put(path, page);
//       return page;
//     };
//     return pages.Do(path, render, {.stop = stop}).value();
//   });
//   const auto page = co_await AsyncDo(local_pages, path, load, asio::use_awaitable);
//
// Within one process, a redis::Group behaves as a Group does. Between processes it differs:
//   - A caller that asks after a call has landed never gets its result. But it may join a caller of
//     its own process that asked earlier and is about to be notified.
//   - If all callers in the leader's process leave, another process takes over and runs `fn`.
//   - Warning: processes that wait for each other's keys in a circle wait for ever, since deadlocks
//     are detected only within a process. Give callers timeouts.
//
// When something fails (the times are those of Options):
//   the leader's process dies        another caller leads, after at most `lease`
//   it stalls for longer than that   the same, and its late outcome reaches its own process only
//   the server cannot be used        the outage is noticed, then `on_outage` decides
//   the server loses its memory      at most one more execution for each call in flight
//   the server restarts              it cannot be used meanwhile, and has lost its memory
//   an outcome does not decode       another caller leads, at once
//
// An outage is noticed within linger + 2 * (connect_timeout + command_timeout), plus the look-up of
// the server's name. A caller's timeout or stop may take effect only after as long a time.
//
// Needs Redis 5, or any Valkey, and hiredis: link the CMake target singleflight::redis, or
// -lhiredis. TLS also needs hiredis_ssl and SINGLEFLIGHT_REDIS_TLS defined, which the target does
// if it finds that library. Runs on Linux and other systems with getentropy and poll.
//
// In a Redis Cluster, everything that belongs to a key is in one slot, by the hash tag `{key}`.
// MOVED redirections are followed. While a slot is being moved, its keys have an outage.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "detail/event.hpp"
#include "detail/invoke.hpp"
#include "detail/outcome.hpp"
#include "detail/redis/client.hpp"
#include "detail/redis/connection.hpp"
#include "detail/redis/key_view.hpp"
#include "detail/redis/lease.hpp"
#include "detail/redis/lease_renewer.hpp"
#include "detail/redis/outage.hpp"
#include "detail/redis/payload.hpp"
#include "group.hpp"
#include "redis_codec.hpp"
#include "redis_options.hpp"
#include "stop_token.hpp"

namespace singleflight::redis {

// Reaches callers when `fn` threw in another process. what() is the message that the exception had
// there. Callers in the process that ran `fn` get the exception itself.
class RemoteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Tells `fn` about the lease under which it runs.
//
// Thread: every member may be called from any thread.
// Lifetime: a Lease is valid until `fn` returns.
class Lease {
 public:
  // Returns 128 random bits as 32 hexadecimal digits, with which the value at `prefix:{key}:lease`
  // begins. Empty if `fn` runs without the server, see OnOutage. Valid as long as the Lease.
  std::string_view token() const noexcept {
    return held_ != nullptr ? std::string_view(held_->token) : std::string_view();
  }
  // Returns a number that is greater than that of any earlier lease of this key, or 0 if `fn` runs
  // without the server. It is the server's time in microseconds.
  //
  // Warning: it does not grow if the server's clock is set back, or if a server whose clock is
  // behind takes its place. Keep the servers' clocks synchronized, and never set them back.
  std::uint64_t fence() const noexcept { return held_ != nullptr ? held_->fence : 0; }
  // True while no other process can have this call's lease, as far as this process can tell. After
  // a Forget it stays true, although another process may lead a new call. False if `fn` runs
  // without the server.
  bool Held() const noexcept { return held_ != nullptr && held_->IsHeld(); }
  // Returns the token that an fn(StopToken) is given: it is requested when no caller of this
  // process is left. Valid as long as the Lease.
  const StopToken& stop() const noexcept { return stop_; }

  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

 private:
  template <class, class>
  friend class Group;

  Lease(const detail::HeldLease* held, StopToken stop) noexcept
      : held_(held), stop_(std::move(stop)) {}

  const detail::HeldLease* held_;  // null: `fn` runs without the server
  StopToken stop_;
};

// All Groups with the same server and prefix share one call for each key, in whatever process.
//
// Thread: every member but the destructor may be called from any thread at any time.
// Lifetime: only the process that made a Group may use it. In a forked child, Do and Forget throw
//   `operation_not_permitted`, and the destructor leaves the server and the parent alone.
template <class Value, class ValueCodec = Codec<Value>>
class Group {
  static_assert(CodecFor<ValueCodec, Value>,
                "a codec needs static functions Encode(const Value&), whose result converts to "
                "std::string_view, and Decode(std::string_view), which returns "
                "std::optional<Value>");

  using Stored = singleflight::detail::Stored<Value>;
  using Caller = detail::Caller;
  using Part = detail::Caller::Part;

  template <class Fn>
  static constexpr bool kTakesLease =
      std::is_invocable_v<Fn, const Lease&> && !singleflight::detail::kTakesStopToken<Fn>;

 public:
  using KeyType = std::string;
  using ValueType = Value;
  using CodecType = ValueCodec;

  // Makes a group that connects when a caller first asks.
  //
  // Errors: std::invalid_argument for options out of range.
  explicit Group(const Options& options = {})
      : client_(std::make_unique<detail::Client>(options)), local_(client_->options.group) {}

  // Stops the thread that renews leases, and waits for its command in progress.
  //
  // Lifetime: no thread may be inside another member, or enter one, meanwhile.
  ~Group() {
    // The connections and the thread are the parent's. They cannot be destroyed here: leak them.
    if (client_->IsForked()) static_cast<void>(client_.release());
  }

  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  // Returns the result of the call in flight for `key` in any process. If there is none, leads one:
  // runs `fn()`, `fn(StopToken)` or `fn(const Lease&)`, whichever it accepts. The key may be
  // any bytes. shared() is true if others have followed, in whatever process.
  //
  // Thread: blocks until the call lands. A leader runs `fn` on this thread, once. A follower does
  //   not run it.
  // Errors: what `fn` threw in this process, RemoteError if it threw in another, and what Group::Do
  //   throws. With OnOutage::kFail, also `not_connected` and `protocol_error`.
  template <class Fn>
  Result<Value> Do(detail::KeyView key, Fn&& fn) {
    return Do(key, std::forward<Fn>(fn), CallOptions());
  }

  // Does the same for a caller with options, as in Group. Waiting for another process is following,
  // too.
  //
  // Leaving: `timeout` and `stop` end the wait for another process. A command to the server is
  //   finished first, which may take as long as an outage takes to be noticed. If the leader of
  //   this process leaves while it waits, callers that joined it ask again.
  // Errors: also `timed_out` and `operation_canceled`.
  template <class Fn>
  Result<Value> Do(detail::KeyView key, Fn&& fn, CallOptions options) {
    CheckFn<Fn>();
    client_->RefuseAfterFork();
    Caller caller;
    caller.deadline = options.timeout.Deadline();
    if (options.stop.stop_possible()) {
      caller.stop = singleflight::detail::NewStopSource();
      caller.stop_passed = singleflight::detail::NewStopSource();
    }
    const StopCallback on_stop(std::exchange(options.stop, caller.stop.get_token()),
                               Caller::PassStop{caller});
    const auto lead = [&](StopToken unwanted) -> Value {
      return static_cast<Value>(
          LeadOrFollow(key, std::forward<Fn>(fn), std::move(unwanted), caller));
    };
    for (;;) {
      try {
        return AcrossProcesses(local_.Do(key, lead, options), caller);
      } catch (const detail::HandedOver&) {
        if (caller.part != Part::kNone) ++client_->count.handed_over;
      } catch (const RemoteError&) {
        const auto on_failure = std::exchange(options.on_failure, OnFailure::kShare);
        if (caller.part != Part::kFollowed || on_failure != OnFailure::kRetry) throw;
      }
      if (caller.part == Part::kCanceled) {
        std::rethrow_exception(singleflight::detail::MakeCanceled());
      }
      if (caller.part == Part::kTimedOut) {
        ++client_->count.timed_out;
        std::rethrow_exception(singleflight::detail::MakeTimedOut());
      }
      caller.part = Part::kNone;
      if (caller.deadline) options.timeout = *caller.deadline;
    }
  }

  // Makes the next caller for `key` start a new call, in every process. True if a call was in
  // flight. Callers already on the call still get its result. So do callers that join them in other
  // processes, which Forget cannot reach.
  //
  // Errors: while the server cannot be used, only this process forgets. With OnOutage::kFail,
  //   Forget then throws `not_connected` or `protocol_error`.
  bool Forget(detail::KeyView key) {
    client_->RefuseAfterFork();
    bool forgotten = false;
    std::exception_ptr error;
    try {
      // The server comes first: a caller that asks in between joins a call that is forgotten next.
      forgotten = client_->leases().Forget(detail::RedisKeys(client_->options.prefix, key));
    } catch (const detail::Outage& outage) {
      NoteOutage(outage);
      if (client_->options.on_outage == OnOutage::kFail) error = std::current_exception();
    } catch (const std::exception&) {  // no memory
      error = std::current_exception();
    }
    forgotten = local_.Forget(key) || forgotten;
    if (error != nullptr) std::rethrow_exception(error);
    return forgotten;
  }

  // Returns how many callers of this process are now on its call for `key`, or 0 if there is none.
  std::size_t Callers(detail::KeyView key) const { return local_.Callers(key); }

  // Returns the counts of this process.
  Stats GetStats() const {
    const detail::Counters& count = client_->count;
    const std::uint64_t handed_over = count.handed_over, timed_out = count.timed_out;
    Stats stats{.executions = count.executions,
                .remote = count.remote,
                .takeovers = count.takeovers,
                .unpublished = count.unpublished,
                .undecodable = count.undecodable,
                .outages = count.outages,
                .calls = local_.GetStats()};
    stats.calls.failures -= handed_over;  // these landed as failures, but are not
    stats.calls.left += timed_out;
    return stats;
  }

  // Returns what the last outage was, for a log, or an empty string if there was none.
  std::string LastOutage() const { return client_->server().LastOutage(); }

 private:
  template <class Fn>
  static constexpr void CheckFn() {
    constexpr bool kCallable = std::is_invocable_v<Fn> ||
                               singleflight::detail::kTakesStopToken<Fn> ||
                               std::is_invocable_v<Fn, const Lease&>;
    static_assert(kCallable,
                  "fn must be callable as fn(), fn(singleflight::StopToken) or "
                  "fn(const redis::Lease&)");
    static_assert(!kCallable || std::is_invocable_r_v<Value, Fn> ||
                      std::is_invocable_r_v<Value, Fn, StopToken> ||
                      std::is_invocable_r_v<Value, Fn, const Lease&>,
                  "fn must return the group's Value or something that converts to it");
  }

  // Runs on the thread of the process's leader: takes the lease and runs `fn`, or gets the outcome
  // of another process.
  template <class Fn>
  Stored LeadOrFollow(std::string_view key, Fn&& fn, StopToken unwanted, Caller& caller) {
    const detail::RedisKeys keys(client_->options.prefix, key);
    std::optional<Stored> received;
    detail::LeaseList lease;
    try {
      lease = client_->TakeOrFollow(keys, caller, [&](const detail::Payload& payload) {
        return Accept(payload, received, caller);
      });
    } catch (const detail::Outage& outage) {
      NoteOutage(outage);
      if (client_->options.on_outage == OnOutage::kFail) throw;
      detail::Client::LeaveIfStopped(caller);  // noticing the outage may have taken long
    }
    if (received) return std::move(*received);
    caller.part = Part::kRan;
    ++client_->count.executions;
    if (!lease.empty()) {
      return RunAndPublish(std::forward<Fn>(fn), std::move(lease), std::move(unwanted), caller);
    }
    return Run(std::forward<Fn>(fn), Lease(nullptr, std::move(unwanted)));
  }

  // Takes another process's outcome. False if it does not decode. Throws if it is an exception.
  bool Accept(const detail::Payload& payload, std::optional<Stored>& received, Caller& caller) {
    if (payload.kind == detail::PayloadKind::kValue) {
      std::optional<Stored> value = Decode(payload.body);
      if (!value) return false;
      received.emplace(std::move(*value));
    } else if (payload.kind != detail::PayloadKind::kException) {
      return false;
    }
    caller.part = Part::kFollowed;
    ++client_->count.remote;
    if (!received) throw RemoteError(std::string(payload.body));
    return true;
  }

  static std::optional<Stored> Decode(std::string_view bytes) {
    if constexpr (std::is_void_v<Value>) {
      return Stored();
    } else {
      try {
        return ValueCodec::Decode(bytes);
      } catch (...) {
        static_cast<void>(singleflight::detail::Caught());
        return std::nullopt;
      }
    }
  }

  template <class Fn>
  Stored RunAndPublish(Fn&& fn, detail::LeaseList held, StopToken unwanted, Caller& caller) {
    const Lease lease(held.front().get(), unwanted);
    detail::Client::Leadership leadership(*client_, std::move(held));
    const StopCallback on_unwanted(std::move(unwanted), [&leadership] { leadership.GiveUp(); });
    std::optional<Stored> value;
    std::exception_ptr error;
    try {
      value.emplace(Run(std::forward<Fn>(fn), lease));
      if constexpr (std::is_void_v<Value>) {
        caller.others_follow = leadership.End(detail::PayloadKind::kValue, {});
      } else {
        caller.others_follow =
            leadership.End(detail::PayloadKind::kValue, ValueCodec::Encode(*value));
      }
      return std::move(*value);
    } catch (...) {
      error = singleflight::detail::Caught();
    }
    leadership.End(detail::PayloadKind::kException, MessageOf(error));  // outside the catch block
    std::rethrow_exception(std::move(error));
  }

  template <class Fn>
  static Stored Run(Fn&& fn, const Lease& lease) {
    if constexpr (kTakesLease<Fn>) {
      return singleflight::detail::Invoke<Value>(std::forward<Fn>(fn), lease);
    } else if constexpr (singleflight::detail::kTakesStopToken<Fn>) {
      return singleflight::detail::Invoke<Value>(std::forward<Fn>(fn), lease.stop());
    } else {
      return singleflight::detail::Invoke<Value>(std::forward<Fn>(fn));
    }
  }

  static std::string MessageOf(const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& exception) {
      const char* const what = exception.what();
      return what != nullptr ? what : "";
    } catch (...) {
      return "an exception that is not derived from std::exception";
    }
  }

  // Turns the result of the process's call into that of the fleet's call.
  static Result<Value> AcrossProcesses(Result<Value> result, const Caller& caller) {
    if (caller.part == Part::kNone) return result;  // it joined its process's leader
    const Role role = caller.part == Part::kRan ? Role::kLeader : Role::kFollower;
    const bool shared = caller.part == Part::kFollowed || caller.others_follow;
    return singleflight::detail::ResultFactory::As<Value>(std::move(result), shared, role);
  }

  void NoteOutage(const detail::Outage& outage) {
    ++client_->count.outages;
    client_->server().NoteOutage(outage);
  }

  std::unique_ptr<detail::Client> client_;  // declared before local_, so destroyed after it
  singleflight::Group<std::string, Value> local_;
};

}  // namespace singleflight::redis
