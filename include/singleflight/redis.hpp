// SPDX-License-Identifier: MIT
#pragma once

// redis::Group: one leader for a fleet of processes, which share a Redis or Valkey server.
//
//   singleflight::redis::Client redis({.host = "redis"});  // one for a server and a process
//   singleflight::redis::Group<std::string> pages(redis, "shop:pages");
//
//   // Ten containers with a hundred callers each ask at once: one of them renders.
//   auto [page, shared] = pages.Do("/prices", [] { return Render("/prices"); });
//   auto result = co_await CoDo(pages, "/prices", render, stop);  // and DoAsync, AsyncDo, DoMany
//
// The callers of one process share one call of a group of its own. For each call, the client asks
// the server for the lease, which is the right of one process to lead. If it has the lease, one of
// the callers runs `fn`. If another process has it, the client waits for a message from that one.
// Callers in other processes get a copy of the value, made by a Codec, or an exception: see
// redis_codec.hpp.
//
// Warning: this saves work, but it is not a lock. `fn` runs twice at the same time if a leader's
// process stalls for longer than its lease, if the server loses its memory, or if it cannot be
// reached. If a second execution would do harm, make the store that `fn` writes to refuse the older
// of two writes. For that, the `fn` of Do may take a Lease, whose fence() grows with every lease of
// its key:
//
//   pages.Do("/prices", [](const singleflight::redis::Lease& lease) {
//     return Store(Render("/prices"), lease.fence());
//   });
//
// Within one process, a redis::Group behaves as a Group does. What differs:
//   - A process knows only after a round trip whether it leads. So a caller's timeout counts from
//     when it asks until it leads, too, and ends the wait for a server that does not answer. What
//     CoDo, AsyncDo and the others are given is kept until then: copied, or moved.
//   - A plain `fn` of CoDo or CoDoMany without an executor does not run on the thread that awaits,
//     but on Options::executor.
//   - `fn` of DoMany, CoDoMany and DoManyAsync runs again if another process gives up a key later.
//   - A caller that asks after a call has landed never gets its result, with two exceptions. It may
//     join a caller of its own process that asked earlier and is about to be notified. And it may
//     follow a call that has landed in another process, until that has published the outcome.
//   - shared() is true if other callers of this process have followed, or if another process led.
//     A leader does not know whether other processes follow.
//   - If all callers in the leader's process leave a call that can be stopped, another process
//     takes over and runs `fn`.
//   - There is no ForgetUnshared, since no process knows all callers.
//   - Warning: processes that wait for each other's keys in a circle wait for ever, since deadlocks
//     are detected only within a process. Give callers timeouts.
//
// When something fails:
//   the leader's process dies       another caller leads, after at most `lease`
//   it stalls for longer than that  the same. Its late outcome reaches its own process
//   the server cannot be used       new callers: `on_outage` decides, at once. Followers wait for
//                                   the rest of the lease, and then likewise
//   the server hangs                the same, once it has been silent for `command_timeout`
//   the server refuses a command    new callers: `on_outage` decides
//   a publish meets an outage       it is tried again, as long as the lease would have lasted
//   a message is lost               followers ask again, twice in every `linger`
//   the server loses its memory     the leader makes the lease again, unless another is first
//   an outcome does not decode      another caller leads, at once
//   an outcome cannot be told       the processes that follow run `fn` themselves, at once
//   the key has another type        new callers: `on_outage` decides, and LastOutage says so
//
// Describe, Nodes, GetStats and LastOutage say what goes on. README.md has the rights that a
// server's user needs, and what a fleet takes.
//
// Needs Redis 5, or any Valkey. TLS needs OpenSSL: link the CMake target singleflight::redis, or
// define SINGLEFLIGHT_REDIS_TLS and link -lssl -lcrypto. Runs on Linux and other systems with
// getentropy and poll.

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "detail/errors.hpp"
#include "detail/group_like.hpp"
#include "detail/invoke.hpp"
#include "detail/key_ref.hpp"
#include "detail/redis/blocking_caller.hpp"
#include "detail/redis/check_options.hpp"
#include "detail/redis/fleet.hpp"
#include "detail/redis/fleet_call.hpp"
#include "detail/thread_mark.hpp"
#include "group.hpp"
#include "redis_client.hpp"
#include "redis_codec.hpp"
#include "redis_options.hpp"

namespace singleflight::redis {

// All Groups with the same server and prefix share one call for each key, in whatever process.
//
// Thread: every member but the destructor may be called from any thread at any time.
// Lifetime: the Client must outlive the Group. In a forked child, members that ask throw
//   `operation_not_permitted`, and the destructor leaves the server and the parent alone.
template <class Value, class ValueCodec = Codec<Value>>
class Group : private FoundByLookup {
  static_assert(CodecFor<ValueCodec, Value>,
                "a codec needs static functions Encode(const Value&), whose result converts to "
                "std::string_view, and Decode(std::string_view), which returns "
                "std::optional<Value>");

  using Local = detail::LocalGroup<Value>;
  using KeyRef = singleflight::detail::KeyRefOf<Local>;
  using Call = detail::FleetCall<Value, ValueCodec>;
  using State = singleflight::detail::SharedState<Value>;
  using Ledger = typename Local::Lead::LedgerType;

 public:
  using KeyType = std::string;
  using ValueType = Value;
  using CodecType = ValueCodec;
  using HashType = typename Local::HashType;
  using KeyEqualType = typename Local::KeyEqualType;
  using Waiter = typename Local::Waiter;
  using Lead = typename Call::Lead;

  // The `launch` of Join is kept, and called later, on another thread: see group_like.hpp.
  static constexpr bool kLaunchesLater = true;

  // All names of the group on the server begin with `prefix`, which must not be empty, nor contain
  // braces: those mark the key. Give each type of value, and each format of it, a prefix of its
  // own. Asks the server for nothing yet.
  //
  // Errors: std::invalid_argument for a prefix or an option that cannot be used.
  Group(Client& client, std::string_view prefix, const Options& options = {})
      : core_(detail::ClientAccess::Core(client)),
        context_((detail::CheckGroupOptions(prefix, options),
                  std::make_shared<detail::GroupContext>(
                      detail::ClientAccess::FleetOf(client), std::string(prefix), options,
                      std::string(detail::TagOf<Value, ValueCodec>())))),
        local_(std::make_unique<Local>(options.group)) {}

  // Asks the calls that are led asynchronously to stop, and waits until they have landed, as ~Group
  // does. Calls that wait for another process land with `operation_canceled`.
  //
  // Lifetime: no thread may be inside another member, or enter one, meanwhile.
  ~Group() {
    if (core_.Loop().IsForked()) {
      static_cast<void>(local_.release());  // its calls are the parent's
    } else {
      singleflight::detail::BeforeBlocking();
    }
  }

  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  // Returns the result of the call in flight for `key` in any process. If there is none, leads one:
  // runs `fn()`, `fn(StopToken)` or `fn(const Lease&)`, whichever it accepts. The key is as in
  // singleflight::Group, and may be any bytes.
  //
  // Thread: blocks until the call lands. A leader runs `fn` on this thread, once. A follower does
  //   not run it.
  // Errors: what `fn` threw, and what Group::Do throws. If it threw in another process, see
  //   redis_codec.hpp. With OnOutage::kFail, also `not_connected` and `protocol_error`.
  template <class K = singleflight::detail::BracedKey<std::string>, class Fn>
  Result<Value> Do(const K& key, Fn&& fn) {
    return Do(key, std::forward<Fn>(fn), CallOptions());
  }

  // Does the same for a caller with options, as in singleflight::Group. Waiting for the server and
  // for another process is following, too.
  //
  // Leaving: `timeout` and `stop` take effect at once, until this caller leads. If it was the one
  //   who would have led, another of its process's callers does.
  // Errors: also `timed_out` and `operation_canceled`.
  template <class K = singleflight::detail::BracedKey<std::string>, class Fn>
  Result<Value> Do(const K& key, Fn&& fn, CallOptions options) {
    detail::CheckFleetFn<Value, Fn>();
    if (options.stop.stop_requested()) {
      std::rethrow_exception(singleflight::detail::MakeCanceled());
    }
    detail::BlockingCaller<Call, Value, Fn> caller(fn, options);
    return caller.Ask(
        [&](bool again) { return JoinAndStart(key, caller, again, options.on_failure); });
  }

  template <class K = singleflight::detail::BracedKey<std::string>, class Fn,
            singleflight::detail::NotCallOptions CallOptionsArg>
  void Do(const K&, Fn&&, CallOptionsArg&&) = delete;  // write {.timeout = 50ms, .stop = token}

  // Makes the next caller for `key` start a new call, in every process. True if a call was in
  // flight in this one. Callers already on the call still get its result. So do callers that join
  // them in other processes, until these have heard of it. Does not wait for the server.
  //
  // Errors: throws `operation_not_permitted` in a forked child, and std::bad_alloc.
  template <class K = singleflight::detail::BracedKey<std::string>>
  bool Forget(const K& key) {
    core_.Start();
    auto&& adapted = KeyRef::Adapt(key);
    std::string base = detail::BaseOf(context_->prefix, adapted);
    const bool had = local_->Forget(adapted);  // before the server's answer does so
    context_->Loop().Post([context = context_, base = std::move(base)] { context->Forget(base); });
    return local_->Forget(adapted) || had;  // also a call that has begun meanwhile
  }

  // Returns how many callers of this process are now on its call for `key`, or 0 if there is none.
  template <class K = singleflight::detail::BracedKey<std::string>>
  std::size_t Callers(const K& key) const {
    return local_->Callers(key);
  }

  // Returns the counts of this process.
  Stats GetStats() const {
    const detail::Counters& count = context_->count;
    const std::uint64_t abandoned = count.abandoned;
    Stats stats{.executions = count.executions,
                .remote = count.remote,
                .takeovers = count.takeovers,
                .unpublished = count.unpublished,
                .untold = count.untold,
                .told_to_run = count.told_to_run,
                .failed_renewals = count.failed_renewals,
                .lost_leases = count.lost_leases,
                .undecodable = count.undecodable,
                .outages = count.outages,
                .calls = local_->GetStats()};
    stats.calls.failures -= std::min(abandoned, stats.calls.failures);  // these only look like ones
    return stats;
  }

  // Returns what the last outage was, for a log, or an empty string if there was none.
  std::string LastOutage() const {
    const std::lock_guard lock(context_->mutex);
    return context_->last_outage;
  }

  // Refuses newcomers from now on, and waits until no call is in flight in this process: see
  // Group::Close.
  void Close() {
    singleflight::detail::BeforeBlocking();
    local_->Close();
  }

  // Like those of Group, for callers that do not block: see waiter.hpp. But `launch` is called
  // later, if this process leads, and its caller may have left by then. So it must own what it
  // needs. It is kept only if no other caller's is.
  //
  // Thread: `launch` runs on a thread of the client's, and must not block it.
  template <class K = singleflight::detail::BracedKey<std::string>, class Launch>
  Role Join(const K& key, Waiter& waiter, Launch&& launch,
            OnFailure on_failure = OnFailure::kShare) {
    return Offer(JoinAndStart(key, waiter, /*again=*/false, on_failure), &waiter,
                 std::forward<Launch>(launch));
  }
  template <class K = singleflight::detail::BracedKey<std::string>, class Launch>
  Role JoinAgain(const K& key, Waiter& waiter, Launch&& launch) {
    return Offer(JoinAndStart(key, waiter, /*again=*/true, OnFailure::kShare), &waiter,
                 std::forward<Launch>(launch));
  }
  void GiveUp(Waiter& waiter) noexcept { local_->GiveUp(waiter); }
  template <class K = singleflight::detail::BracedKey<std::string>, class Launch>
  Future<Value> Join(const K& key, Launch&& launch) {
    core_.Start();
    auto&& adapted = KeyRef::Adapt(key);
    const KeyRef ref(adapted);
    auto joined = local_->JoinOrLead(ref, local_->ledger_.HashOf(ref), nullptr, false);
    Joined ours{joined.state, joined.led == nullptr ? Role::kFollower : Role::kLeader};
    Future<Value> future(std::move(joined.state), ours.role);
    if (joined.led != nullptr) Start(std::move(joined.led));
    Offer(std::move(ours), nullptr, std::forward<Launch>(launch));
    return future;
  }
  bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

  // Internal: a thread that blocks joins, and offers to do the work. It must withdraw that, or be
  // given the lead.
  using ThreadRunner = typename Call::Runner;
  template <class K = singleflight::detail::BracedKey<std::string>>
  detail::JoinedCall<Value> JoinOnThread(const K& key, Waiter& waiter, ThreadRunner& runner,
                                         bool again, OnFailure on_failure) {
    Joined joined = JoinAndStart(key, waiter, again, on_failure);
    if (joined.state != nullptr) Call::Offer(*joined.state, runner, waiter);
    return joined;
  }
  static bool Withdraw(State& state, ThreadRunner& runner) noexcept {
    return Call::Withdraw(state, runner);
  }
  // Internal: runs `task()` on the thread that delivers.
  void Deliver(std::function<void()> task) { context_->fleet.Deliveries().Post(std::move(task)); }

  // Internal: runs a plain `fn` that was given no executor.
  template <class Task>
  void Execute(Task task) {
    const std::shared_ptr<detail::GroupContext> context = context_;  // the group may be gone soon
    if (context->options.executor) return context->options.executor(std::move(task));
    local_->ledger_.Reaper().Start(std::move(task));
  }

 private:
  using Joined = detail::JoinedCall<Value>;

  template <class K>
  Joined JoinAndStart(const K& key, Waiter& waiter, bool again, OnFailure on_failure) {
    core_.Start();
    auto&& adapted = KeyRef::Adapt(key);
    const KeyRef ref(adapted);
    Joined ours;
    typename Local::Joined joined;
    if (again) {
      joined = local_->JoinSecondTry(adapted, waiter, &ours.state);
    } else {
      joined = local_->JoinOrLead(ref, local_->ledger_.HashOf(ref), &waiter,
                                  on_failure == OnFailure::kRetry, nullptr, &ours.state);
    }
    if (joined.has_landed) waiter.OnLanded();
    if (joined.led == nullptr) return ours;
    ours.role = Role::kLeader;
    Start(std::move(joined.led));
    return ours;
  }

  void Start(std::shared_ptr<typename Ledger::AsyncCall> led) {
    std::exception_ptr error;
    try {
      return Call::Start(context_, led);
    } catch (...) {
      error = singleflight::detail::Caught();
    }
    Call::Close(*led->call.state);
    typename Local::Lead(std::move(led)).Fail(std::move(error));  // outside the catch block
  }

  // Keeps `launch`, unless another caller's is kept for this call. If that throws, the waiter has
  // left. But if the call has landed meanwhile, nothing is thrown.
  template <class Launch>
  static Role Offer(Joined&& joined, Waiter* waiter, Launch&& launch) {
    using Runner = detail::LaunchRunner<Lead, std::decay_t<Launch>>;
    static_assert(std::is_invocable_v<std::decay_t<Launch>, Lead>,
                  "launch must be callable as launch(redis::Group::Lead)");
    if (joined.state == nullptr || !Call::NeedsRunner(*joined.state)) return joined.role;
    std::unique_ptr<Runner> runner;
    std::exception_ptr error;
    try {
      runner = std::make_unique<Runner>(std::in_place, std::forward<Launch>(launch));
    } catch (...) {
      error = singleflight::detail::Caught();
    }
    if (error == nullptr) {
      Call::Offer(*joined.state, std::move(runner), waiter);
    } else if (waiter == nullptr || joined.state->Leave({.waiter = waiter})) {
      std::rethrow_exception(std::move(error));
    }
    return joined.role;
  }

  detail::ClientCore& core_;
  const std::shared_ptr<detail::GroupContext> context_;
  std::unique_ptr<Local> local_;  // declared last, so destroyed first: its calls use the rest
};

}  // namespace singleflight::redis
