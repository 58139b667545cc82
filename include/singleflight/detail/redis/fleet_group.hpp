// SPDX-License-Identifier: MIT
#pragma once

// FleetGroup: what redis::Group and redis::ReadThrough have in common. The callers of one process
// share one call of a group of its own, and its work is to ask the fleet.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "../../future.hpp"
#include "../../group.hpp"
#include "../../options.hpp"
#include "../../redis_call_info.hpp"
#include "../../redis_client.hpp"
#include "../../result.hpp"
#include "../../stop_token.hpp"
#include "../cancel.hpp"
#include "../errors.hpp"
#include "../group_like.hpp"
#include "../inspect.hpp"
#include "../joiner.hpp"
#include "../key_ref.hpp"
#include "../thread_mark.hpp"
#include "blocking_caller.hpp"
#include "client_core.hpp"
#include "command_result.hpp"
#include "fleet.hpp"
#include "fleet_call.hpp"
#include "lease_walk.hpp"
#include "publish_outcome.hpp"

namespace singleflight::redis::detail {

// `Call` is a FleetCall, and `Context` what its calls have in common.
template <class Value, class Call, class Context>
class FleetGroup : private FoundByLookup {
 protected:
  using Local = typename Call::Local;
  using KeyRef = singleflight::detail::KeyRefOf<Local>;
  using State = singleflight::detail::SharedState<Value>;
  using Ledger = typename Local::Lead::LedgerType;
  using Joiner = singleflight::detail::Joiner<Ledger>;
  using Joined = JoinedCall<Value>;

 public:
  using KeyType = std::string;
  using ValueType = Value;
  using HashType = typename Local::HashType;
  using KeyEqualType = typename Local::KeyEqualType;
  using Waiter = typename Local::Waiter;
  using Lead = typename Call::Lead;
  using Listener = typename Call::Traits::Listener;  // what is told: see redis_listener.hpp

  // The `launch` of Join is kept, and called later, on another thread: see group_like.hpp.
  static constexpr bool kLaunchesLater = true;

  FleetGroup(const FleetGroup&) = delete;
  FleetGroup& operator=(const FleetGroup&) = delete;

  // Returns the listener. Its hooks may be running on other threads.
  Listener& GetListener() noexcept { return listener_; }
  const Listener& GetListener() const noexcept { return listener_; }

  // Returns what the last outage was, for a log, or an empty string if there was none. In a forked
  // child, this and the members that count and inspect know of nothing.
  std::string LastOutage() const {
    if (IsForked()) return {};
    const std::lock_guard lock(context_->mutex);
    return context_->last_outage;
  }

  // Returns every call of this process that is in flight, in no order, as Group::Inspect. With
  // Options::group.timed, also since when. `key` is as it was asked for.
  std::vector<CallInfo> Inspect() const { return CallsIn(*local_); }

  // Returns the leases under this prefix, in whatever process, the oldest first. Each is described
  // as it was at some moment since this began, and is there once. A lease that is made or ends
  // meanwhile may be missing.
  //
  // Thread: blocks until the servers have answered.
  // Leaving: at once, if the timeout passes or the stop is requested.
  // Errors: std::system_error: `not_connected` or `protocol_error` if a server cannot be used or
  //   refuses something, whatever on_outage says, and what Leaving says.
  // Cost: it scans the names of all keys on every server of the client, 500 in a step, with other
  //   commands in between. It uses at most half of max_queued_bytes. That is for a page that a
  //   person looks at, not for each request.
  std::vector<LeaseInfo> InspectFleet(const CallOptions& options = {}) {
    const Walk walk;
    return detail::BlockOn<std::vector<LeaseInfo>>(
        options, [&](auto done) { BeginWalk(walk.unwanted.get_token(), std::move(done)); });
  }
  // The same for callers that do not block: `callback` gets a KeyResult<std::vector<LeaseInfo>>.
  //
  // Thread: the callback runs on a thread of the client's, and must neither throw nor block.
  // Errors: those that say that it could not begin are thrown here.
  // Lifetime: the destructor waits for the callback, which it makes come soon.
  template <class Callback>
  void InspectFleetThen(Callback&& callback) {
    BeginWalk(walk_.unwanted.get_token(), std::forward<Callback>(callback));
  }

  // Refuses newcomers from now on, and waits until no call is in flight in this process: see
  // Group::Close.
  void Close() {
    if (IsForked()) return;
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
    return JoinWith(std::tuple(), key, waiter, std::forward<Launch>(launch), on_failure);
  }
  template <class K = singleflight::detail::BracedKey<std::string>, class Launch>
  Role JoinAgain(const K& key, Waiter& waiter, Launch&& launch) {
    return JoinAndStart(key, waiter, /*again=*/true, OnFailure::kShare, std::tuple(),
                        Keeping(&waiter, std::forward<Launch>(launch)))
        .role;
  }
  void GiveUp(Waiter& waiter) noexcept { local_->GiveUp(waiter); }
  template <class K = singleflight::detail::BracedKey<std::string>, class Launch>
  Future<Value> Join(const K& key, Launch&& launch) {
    return JoinWith(std::tuple(), key, std::forward<Launch>(launch));
  }
  bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

  // Internal: a thread that blocks joins, and offers to do the work. It must withdraw that, or be
  // given the lead.
  using ThreadRunner = typename Call::Runner;
  template <class K = singleflight::detail::BracedKey<std::string>>
  Joined JoinOnThread(const K& key, Waiter& waiter, ThreadRunner& runner, bool again,
                      OnFailure on_failure) {
    return JoinOnThreadWith(std::tuple(), key, waiter, runner, again, on_failure);
  }
  static bool Withdraw(State& state, ThreadRunner& runner) noexcept {
    return Call::Withdraw(state, runner);
  }
  // Internal: runs `task()` on the thread that delivers.
  void Deliver(std::function<void()> task) { context_->fleet.Deliveries().Post(std::move(task)); }

  // Internal: runs a plain `fn` that was given no executor.
  template <class Task>
  void Execute(Task task) {
    const std::shared_ptr<Context> context = context_;  // the group may be gone soon
    if (context->options.executor) return context->options.executor(std::move(task));
    local_->ledger_.Reaper().Start(std::move(task).Untyped());
  }

 protected:
  // `listener` is one listener, or none: then it is made here.
  template <class... ListenerArg>
  FleetGroup(Client& client, std::shared_ptr<Context> context, ListenerArg&&... listener)
      : core_(detail::ClientAccess::Core(client)),
        context_(std::move(context)),
        listener_(std::forward<ListenerArg>(listener)...),
        local_(MakeLocal(context_->options.group)) {}
  // Makes a group of the process, whose calls the listener is told of.
  std::unique_ptr<Local> MakeLocal(const GroupOptions& options) {
    return std::make_unique<Local>(options, typename Local::Listener(listener_));
  }
  ~FleetGroup() {
    if (IsForked()) {
      static_cast<void>(local_.release());  // its calls are the parent's
    } else {
      Drain();
    }
  }

  // Asks the calls of this group, and those of `others`, to stop, and waits until none is in
  // flight. The groups stay usable meanwhile, because the work of a call may use any of them.
  template <class... Others>
  void Drain(Others&... others) {
    singleflight::detail::BeforeBlocking();
    std::uint64_t begun = 0;
    for (bool is_first = true;; is_first = false) {
      AwaitCommands();  // a call may begin one, and its callback a call
      const std::uint64_t begun_before = begun;
      begun = (local_->ledger_.Drain() + ... + others.ledger_.Drain());
      if (!is_first && begun == begun_before) return;
    }
  }

  // Waits for the callbacks of commands such as InspectFleetThen.
  void AwaitCommands() {
    walk_.unwanted.request_stop();
    pending_.AwaitNone();
  }
  // Runs a callback on the thread that delivers, for a command that pending_ has begun.
  template <class Fn>
  void Tell(Fn fn) {
    const auto shared = std::make_shared<Fn>(std::move(fn));
    context_->fleet.Deliveries().Post([this, shared] {
      (*shared)();
      pending_.End();  // the destructor may go on now
    });
  }

  // In a forked child, a thread of the parent may have had any mutex.
  bool IsForked() const noexcept { return core_.Loop().IsForked(); }

  std::vector<CallInfo> CallsIn(Local& local) const {
    if (IsForked()) return {};
    auto& ledger = local.ledger_;
    return singleflight::detail::CollectCalls<CallInfo>(
        ledger, [&ledger](const auto& call, auto& found) {
          found.push_back(
              {singleflight::detail::InfoOf(ledger, call), Ledger::ExtraOf(*call.state).Phase()});
        });
  }

  // Cancels the calls for this key, also those that were forgotten.
  static bool CancelAllIn(Local& local, std::string_view key) {
    const KeyRef ref(key);
    auto& ledger = local.ledger_;
    return singleflight::detail::Canceler<Ledger>::CancelAll(ledger, ledger.HashOf(ref), ref);
  }

  // The next callers start new calls.
  void ForgetCalls() { local_->ForgetAll(); }

  // For a caller that blocks.
  template <class More, class K, class Fn>
  Result<Value> DoWith(const More& more, const K& key, Fn& fn, const CallOptions& options) {
    if (options.stop.stop_requested()) {
      std::rethrow_exception(singleflight::detail::MakeCanceled());
    }
    BlockingCaller<Call, Value, Fn> caller(fn, options);
    return caller.Ask([&](bool again) {
      return JoinAndStart(key, caller, again, options.on_failure, more,
                          [&](State& state) { caller.Offer(state); });
    });
  }

  // `more` is a tuple of further arguments for a new call.
  template <class More, class K, class Launch>
  Role JoinWith(const More& more, const K& key, Waiter& waiter, Launch&& launch,
                OnFailure on_failure) {
    return JoinAndStart(key, waiter, /*again=*/false, on_failure, more,
                        Keeping(&waiter, std::forward<Launch>(launch)))
        .role;
  }
  template <class More, class K, class Launch>
  Future<Value> JoinWith(const More& more, const K& key, Launch&& launch) {
    core_.Start();
    auto&& adapted = KeyRef::Adapt(key);
    const KeyRef ref(adapted);
    auto joined =
        Joiner::JoinOrLead(local_->ledger_, ref, local_->ledger_.HashOf(ref), nullptr, false);
    Joined ours{joined.state, joined.led == nullptr ? Role::kFollower : Role::kLeader};
    Future<Value> future(std::move(joined.state), ours.role);
    OfferAndStart(ours, std::move(joined.led), more,
                  Keeping(nullptr, std::forward<Launch>(launch)));
    return future;
  }
  template <class More, class K>
  Joined JoinOnThreadWith(const More& more, const K& key, Waiter& waiter, ThreadRunner& runner,
                          bool again, OnFailure on_failure) {
    return JoinAndStart(key, waiter, again, on_failure, more,
                        [&](State& state) { Call::Offer(state, runner, waiter); });
  }

  // Returns the counts of this process.
  Stats FleetStats() const {
    const Counters& count = context_->count;
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
                .outages = count.outages};
    if (IsForked()) return stats;
    stats.calls = local_->GetStats();
    stats.calls.failures -= std::min(abandoned, stats.calls.failures);  // these only look like ones
    return stats;
  }

  ClientCore& core_;
  const std::shared_ptr<Context> context_;
  PendingCommands pending_;
  [[no_unique_address]] Listener listener_;
  std::unique_ptr<Local> local_;  // declared last, so destroyed first

 private:
  // Ends a LeaseWalk early.
  struct Walk {
    ~Walk() { unwanted.request_stop(); }
    StopSource unwanted;
  };
  template <class Callback>
  void BeginWalk(StopToken unwanted, Callback&& callback) {
    core_.Start();
    const auto kept = std::make_shared<std::decay_t<Callback>>(std::forward<Callback>(callback));
    const auto walk = std::make_shared<LeaseWalk>(
        context_, &Call::TagIn, std::move(unwanted), [this, kept](LeaseWalk::Leases leases) {
          Tell([kept, leases = std::move(leases)]() mutable { (*kept)(std::move(leases)); });
        });
    pending_.Begin([&] { context_->Loop().Post([walk] { walk->Begin(); }); });
  }

  // `offer(state)` offers to do the work of the call.
  template <class More, class K, class Offer>
  Joined JoinAndStart(const K& key, Waiter& waiter, bool again, OnFailure on_failure,
                      const More& more, const Offer& offer) {
    core_.Start();
    auto&& adapted = KeyRef::Adapt(key);
    const KeyRef ref(adapted);
    Joined ours;
    typename Joiner::Joined joined;
    if (again) {
      joined = Joiner::JoinSecondTry(local_->ledger_, adapted, waiter, &ours.state);
    } else {
      joined = Joiner::JoinOrLead(local_->ledger_, ref, local_->ledger_.HashOf(ref), &waiter,
                                  on_failure == OnFailure::kRetry, nullptr, &ours.state);
    }
    if (joined.has_landed) waiter.OnLanded();
    if (joined.led != nullptr) ours.role = Role::kLeader;
    OfferAndStart(ours, std::move(joined.led), more, offer);
    return ours;
  }
  // A call that has just been made asks the fleet only when there is somebody to do its work.
  template <class More, class Offer>
  void OfferAndStart(const Joined& joined, const std::shared_ptr<typename Ledger::AsyncCall>& led,
                     const More& more, const Offer& offer) {
    std::exception_ptr error;
    {
      const typename Joiner::HandingOver handing_over(led.get());
      try {
        if (joined.state != nullptr) offer(*joined.state);
      } catch (...) {
        error = singleflight::detail::Caught();
      }
      if (led != nullptr) Start(led, more);
    }
    if (error != nullptr) std::rethrow_exception(std::move(error));
  }

  template <class More>
  void Start(const std::shared_ptr<typename Ledger::AsyncCall>& led, const More& more) {
    std::exception_ptr error;
    try {
      return std::apply([&](const auto&... each) { Call::Start(context_, led, each...); }, more);
    } catch (...) {
      error = singleflight::detail::Caught();
    }
    Call::Close(*led->call.state);
    typename Local::Lead(led).Fail(std::move(error));  // outside the catch block
  }

  // Keeps `launch`, unless another caller's is kept for this call. If that throws, the waiter has
  // left. But if the call has landed meanwhile, nothing is thrown.
  template <class Launch>
  static auto Keeping(Waiter* waiter, Launch&& launch) {
    using Kept = LaunchRunner<Lead, std::decay_t<Launch>>;
    static_assert(std::is_invocable_v<std::decay_t<Launch>, Lead>,
                  "launch must be callable as launch(Lead), with the Lead of this group");
    return [waiter, &launch](State& state) {
      if (!Call::NeedsRunner(state)) return;
      std::unique_ptr<Kept> runner;
      std::exception_ptr error;
      try {
        runner = std::make_unique<Kept>(std::in_place, std::forward<Launch>(launch));
      } catch (...) {
        error = singleflight::detail::Caught();
      }
      if (error == nullptr) {
        Call::Offer(state, std::move(runner), waiter);
      } else if (waiter == nullptr || state.Leave({.waiter = waiter})) {
        std::rethrow_exception(std::move(error));
      }
    };
  }

  Walk walk_;  // what InspectFleetThen has begun
};

}  // namespace singleflight::redis::detail
