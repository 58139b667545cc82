// SPDX-License-Identifier: MIT
#pragma once

// redis::Group: one leader across processes and hosts, by way of a Redis or Valkey server.
//
//   singleflight::redis::Group<std::string> pages({.host = "redis", .prefix = "shop:pages"});
//
//   // Ten containers with a hundred threads each: one of them renders.
//   auto [page, shared] = pages.Do("/prices", [] { return Render("/prices"); });
//
// This saves work; it does not guard anything. `fn` runs twice at the same time if a leader's
// process stalls for longer than its lease, if the server loses its memory, or if it cannot be
// reached. Where a second execution would do harm, let what `fn` writes to refuse the older of the
// two: `fn` may take a Lease, whose fence() grows with every lease of its key.
//
//   pages.Do("/prices", [](const singleflight::redis::Lease& lease) {
//     return Store(Render("/prices"), lease.fence());
//   });
//
// The callers of one process share one call of a Group of their own, and its leader asks the
// server: it leads the call of all processes, or waits for who does. Callers in other processes get
// a copy of the value, made by a Codec, or the exception's message as a RemoteError.
//
// What is as in Group: everything within one redis::Group. What is not, between several:
//   - Who asks after a call has landed never gets its result, but may join another caller of its
//     own process who asked before and is just being told.
//   - A call whose callers have all left in the leader's process is given up; others take it over.
//   - Those that wait for each other's keys in a circle wait for ever: give callers timeouts.
//
// When something fails (the times are those of Options):
//   the leader's process dies        after at most `lease`, one of those who wait leads
//   it stalls for longer than that   the same; the late outcome is not told to others
//   the server is away, or answers   noticed within linger + 2 * (connect_timeout +
//   what we cannot work with         command_timeout), and the look-up of its name; then as
//                                    `on_outage` says. For that long a timeout or a stop may have
//                                    to wait
//   the server forgets everything    at most one more execution for each call in flight; while it
//                                    restarts, it is away
//   an outcome does not decode       as if its leader had died, without waiting
//
// Needs Redis 5, or any Valkey, and hiredis: link the CMake target singleflight::redis, or
// -lhiredis. All keys of a key are in one slot of a Redis Cluster, by its tag `{key}`, and slots
// that have moved are followed (while one redirections, its keys have an outage). For TLS define
// SINGLEFLIGHT_REDIS_TLS and link hiredis_ssl, too; the target does it where it finds that. For
// Linux and other systems with getentropy and poll.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "detail/event.hpp"
#include "detail/invoke.hpp"
#include "detail/outcome.hpp"
#include "detail/redis/client.hpp"
#include "detail/redis/connection.hpp"
#include "detail/redis/lease.hpp"
#include "detail/redis/lease_renewer.hpp"
#include "detail/redis/payload.hpp"
#include "group.hpp"
#include "redis_codec.hpp"
#include "redis_options.hpp"

namespace singleflight::redis {

// What `fn` threw in another process; what() is its message there. Callers in the process that ran
// `fn` get the exception itself.
class RemoteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What `fn` may know of the lease under which it runs. While it runs.
class Lease {
 public:
  // 128 random bits, as 32 hexadecimal digits: the value at `prefix:{key}:lease`. Empty: `fn` runs
  // without the server, see OnOutage.
  std::string_view token() const noexcept {
    return held_ != nullptr ? std::string_view(held_->token) : std::string_view();
  }
  // Greater than that of any lease of this key before: the time on the server, in microseconds. So
  // its clock must not be set back, nor that of one which takes its place. 0 without a server.
  std::uint64_t fence() const noexcept { return held_ != nullptr ? held_->fence : 0; }
  // False once the lease may be another's, as far as this process can tell.
  bool Held() const noexcept { return held_ != nullptr && held_->IsHeld(); }
  // As fn(std::stop_token) is given.
  const std::stop_token& stop() const noexcept { return stop_; }

  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

 private:
  template <class, class>
  friend class Group;

  Lease(const detail::HeldLease* held, std::stop_token stop) noexcept
      : held_(held), stop_(std::move(stop)) {}

  const detail::HeldLease* held_;  // null: without a server
  std::stop_token stop_;
};

// Every member may be called from any thread at any time, except the destructor. A Group must not
// be used after a fork: make it in the process that uses it. One that was made before may end
// there, and does nothing then.
template <class Value, class ValueCodec = Codec<Value>>
class Group {
  static_assert(CodecFor<ValueCodec, Value>,
                "a codec needs static functions Encode(const Value&), which returns what converts "
                "to std::string_view, and Decode(std::string_view), which returns "
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

  // Connects when there is something to ask. Throws std::invalid_argument for options that cannot
  // be meant.
  explicit Group(const Options& options = {})
      : client_(std::make_unique<detail::Client>(options)), local_(client_->options.group) {}

  // No thread may be inside another member, or get inside one, meanwhile. Waits for a command that
  // renews a lease.
  ~Group() {
    // Another process's connections and threads: what there is of them here cannot be ended.
    if (client_->IsForked()) static_cast<void>(client_.release());
  }

  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  // The result of the call in flight for `key` in any process; if there is none, leads one: runs
  // `fn()` on this thread, or `fn(std::stop_token)` or `fn(const Lease&)` where it takes that. `fn`
  // is run at most once, and not at all by a follower. The key may be of any bytes. shared() is
  // true if others have followed, wherever they are.
  //
  // Throws what `fn` threw in this process, RemoteError for another; what Group::Do throws; with
  // OnOutage::kFail also `not_connected` and `protocol_error`.
  template <class Fn>
  Result<Value> Do(std::string_view key, Fn&& fn) {
    return Do(key, std::forward<Fn>(fn), CallOptions());
  }

  // The same for a caller with options, as in Group; waiting for another process is following, too.
  template <class Fn>
  Result<Value> Do(std::string_view key, Fn&& fn, CallOptions options) {
    CheckFn<Fn>();
    client_->RefuseAfterFork();
    Caller caller;
    if (options.timeout) caller.deadline = singleflight::detail::DeadlineAfter(*options.timeout);
    if (options.stop.stop_possible()) {
      caller.stop = singleflight::detail::NewStopSource();
      caller.stop_passed = singleflight::detail::NewStopSource();
    }
    const std::stop_callback on_stop(std::exchange(options.stop, caller.stop.get_token()),
                                     Caller::PassStop{caller});
    const auto lead = [&](std::stop_token unwanted) -> Value {
      return static_cast<Value>(
          LeadOrFollow(key, std::forward<Fn>(fn), std::move(unwanted), caller));
    };
    for (;;) {
      try {
        return AcrossProcesses(local_.Do(key, lead, options), caller);
      } catch (const detail::HandedOver&) {
        if (caller.part != Part::kNone) ++client_->count.handed_over;
      } catch (const RemoteError&) {
        const bool retry = options.on_failure == OnFailure::kRetry;
        if (caller.part != Part::kFollowed || !retry) throw;
      }
      if (caller.part == Part::kCanceled) {
        std::rethrow_exception(singleflight::detail::MakeCanceled());
      }
      if (caller.part == Part::kTimedOut) {
        ++client_->count.timed_out;
        std::rethrow_exception(singleflight::detail::MakeTimedOut());
      }
      caller.part = Part::kNone;
      if (caller.deadline) options.timeout = *caller.deadline - detail::Clock::now();
    }
  }

  // Lets the next caller for `key` start afresh, in every process; callers already on the call get
  // its result as ever, and so do those who join them in their own processes, where this one cannot
  // reach. True if a call was in flight. While the server is away only this process forgets, or
  // with OnOutage::kFail it throws when that is done.
  bool Forget(std::string_view key) {
    client_->RefuseAfterFork();
    bool forgotten = false;
    std::exception_ptr error;
    try {
      // The server first: who comes between is on a call that is forgotten next.
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

  // How many callers of this process are now on its call for `key`; 0 if there is none.
  std::size_t Callers(std::string_view key) const { return local_.Callers(key); }

  // Of this process.
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
    stats.calls.failures -= handed_over;  // it landed as a failure, and was none
    stats.calls.left += timed_out;
    return stats;
  }

  // What the last outage was, to be logged; empty if there was none.
  std::string LastOutage() const { return client_->server().LastOutage(); }

 private:
  template <class Fn>
  static constexpr void CheckFn() {
    constexpr bool kCallable = std::is_invocable_v<Fn> ||
                               singleflight::detail::kTakesStopToken<Fn> ||
                               std::is_invocable_v<Fn, const Lease&>;
    static_assert(kCallable,
                  "fn must be callable as fn(), fn(std::stop_token) or fn(const redis::Lease&)");
    static_assert(!kCallable || std::is_invocable_r_v<Value, Fn> ||
                      std::is_invocable_r_v<Value, Fn, std::stop_token> ||
                      std::is_invocable_r_v<Value, Fn, const Lease&>,
                  "fn must return the group's Value or something that converts to it");
  }

  // The part of this process's leader.
  template <class Fn>
  Stored LeadOrFollow(std::string_view key, Fn&& fn, std::stop_token unwanted, Caller& caller) {
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
      detail::Client::LeaveIfStopped(caller);  // that may have taken long
    }
    if (received) return std::move(*received);
    caller.part = Part::kRan;
    ++client_->count.executions;
    if (!lease.empty()) {
      return RunAndPublish(std::forward<Fn>(fn), std::move(lease), std::move(unwanted), caller);
    }
    return Run(std::forward<Fn>(fn), Lease(nullptr, std::move(unwanted)));
  }

  // Another process's outcome. False if it does not decode.
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
  Stored RunAndPublish(Fn&& fn, detail::LeaseList held, std::stop_token unwanted, Caller& caller) {
    const Lease lease(held.front().get(), unwanted);
    detail::Client::Leadership leadership(*client_, std::move(held));
    const std::stop_callback on_unwanted(std::move(unwanted),
                                         [&leadership] { leadership.GiveUp(); });
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
      return "an exception that is no std::exception";
    }
  }

  // The result of the process's call, as one of the call of all processes.
  static Result<Value> AcrossProcesses(Result<Value> result, const Caller& caller) {
    if (caller.part == Part::kNone) return result;  // it has joined its process's leader
    const Role role = caller.part == Part::kRan ? Role::kLeader : Role::kFollower;
    const bool shared = caller.part == Part::kFollowed || caller.others_follow;
    return singleflight::detail::ResultFactory::As<Value>(std::move(result), shared, role);
  }

  void NoteOutage(const detail::Outage& outage) {
    ++client_->count.outages;
    client_->server().NoteOutage(outage);
  }

  std::unique_ptr<detail::Client> client_;  // before local_, which may end in its users' hands
  singleflight::Group<std::string, Value> local_;
};

}  // namespace singleflight::redis
