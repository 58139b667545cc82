// SPDX-License-Identifier: MIT
#pragma once

// A batch whose caller is a coroutine.

#include <atomic>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "../../key_result.hpp"
#include "../../listener.hpp"
#include "../../stop_token.hpp"
#include "../call.hpp"
#include "../errors.hpp"
#include "../group_like.hpp"
#include "batch_members.hpp"
#include "batch_work.hpp"
#include "later_leads.hpp"

namespace singleflight::detail {

// The caller of each key of a batch. On the heap, because a call that lands may still be notifying
// a member when the coroutine's frame is destroyed. It lives as long as its coroutine waits or a
// member is on a call.
template <class G, class ResumeOn>
class CoBatch {
  using Key = typename G::KeyType;
  using Value = typename G::ValueType;
  using State = SharedState<Value>;

 public:
  template <class Keys, class R>
  CoBatch(Keys& keys, const StopToken& stop, R&& resume_on)
      : stop_(stop), resume_on_(std::forward<R>(resume_on)), members_(keys) {
    unwanted_.reserve(members_.Size());
    for (Member& member : members_) member.batch = this;
  }
  CoBatch(const CoBatch&) = delete;
  CoBatch& operator=(const CoBatch&) = delete;

  // Joins the calls of all keys. For each that this batch leads, `lead(key, Lead)` is called, and
  // in the end `begin()` once, which may run `fn`. Returns true if there is nothing to wait for.
  template <class Lead, class Begin>
  bool Join(G& group, const Lead& lead, Begin&& begin) {
    for (Member& member : members_) {
      JoinOne(group, member,
              [&](typename G::Lead its_lead) { lead(*member.key, std::move(its_lead)); });
    }
    ListenForStop();
    begin();
    Notified(1);
    return phase_ == Phase::kDone;
  }

  // The same for a group that launches later. `leads` is a LaterLeads.
  template <class Leads>
  bool JoinLater(G& group, const std::shared_ptr<Leads>& leads) {
    for (Member& member : members_) {
      JoinOne(group, member, typename Leads::Launch(leads, *member.key));
    }
    ListenForStop();
    leads->Decided();
    Notified(1);
    return phase_ == Phase::kDone;
  }

  // The same for a group that does the work of its calls itself, perhaps inside its Join: then a
  // stop takes effect at once, too.
  bool Join(G& group) {
    for (Member& member : members_) {
      JoinOne(group, member, [&](UnusedLead) {
        member.joined = true;
        ListenForStop();
      });
    }
    ListenForStop();
    Notified(1);
    return phase_ == Phase::kDone;
  }

  // Returns false if there is nothing to wait for any more.
  bool Suspend(std::coroutine_handle<> handle) noexcept {
    handle_ = handle;
    auto expected = Phase::kJoining;
    return phase_.compare_exchange_strong(expected, Phase::kSuspended);
  }

  std::vector<KeyResult<Value>> TakeResults() {
    on_stop_.reset();  // waits for a Stop in progress
    return members_.TakeResults();
  }

  // The coroutine does not wait any more. Members that are on a call leave it.
  void Abandon() noexcept {
    on_stop_.reset();
    std::size_t released = 1;
    if (phase_.exchange(Phase::kAbandoned) != Phase::kDone) {
      for (Member& member : members_) {
        if (State::Of(member) != nullptr && member.Detach()) ++released;
      }
    }
    members_.ReleaseKeys();
    Release(released);
  }

 private:
  struct Member final : BatchMember<typename G::Waiter, Key> {
    void OnLanded() noexcept override {
      CoBatch& its_batch = *batch;
      its_batch.Notified(1);
      its_batch.Release(1);
    }
    bool LeaveQuietly(StopSource& unwanted) noexcept {
      return this->Leave(unwanted, LeaveReason::kStop);
    }

    CoBatch* batch = nullptr;
  };

  // kJoining: the coroutine is running, and will not suspend if the last key lands now. kSuspended:
  // the thread that completes the wait resumes it. kDone: the wait is complete. kAbandoned: nobody
  // is resumed.
  enum class Phase : unsigned char { kJoining, kSuspended, kDone, kAbandoned };

  struct OnStop {
    CoBatch* self;
    void operator()() const noexcept { self->Stop(); }
  };

  void ListenForStop() {
    if (stop_.stop_possible()) on_stop_.emplace(stop_, OnStop{this});
  }

  template <class Launch>
  void JoinOne(G& group, Member& member, Launch&& launch) {
    if (stop_.stop_requested()) {
      member.error = MakeCanceled();
      return;
    }
    ++waiting_;
    ++owners_;
    try {
      member.role = group.Join(*member.key, member, std::forward<Launch>(launch));
      on_stop_.reset();  // a Stop must not race with the next Join
      member.joined = true;
    } catch (...) {
      member.error = Caught();
      --owners_;
      --waiting_;
    }
  }

  // Leaves all calls that have not landed. Nothing is joined after that, so a later Stop finds
  // nothing to leave. Stops are requested last, of those calls that nobody wants any more, because
  // what runs then may destroy the coroutine.
  void Stop() noexcept {
    ++owners_;  // the coroutine that is resumed may abandon this
    std::vector<StopSource> unwanted;
    unwanted.swap(unwanted_);
    std::size_t left = 0;
    for (Member& member : members_) {
      if (!member.joined) continue;
      StopSource call(kNoStopState);
      if (!member.LeaveQuietly(call)) continue;
      member.left = true;
      unwanted.push_back(std::move(call));  // there is room
      ++left;
    }
    if (left > 0) Notified(left);
    Release(left + 1);
    for (StopSource& call : unwanted) call.request_stop();
  }

  // `count` members wait no more.
  void Notified(std::size_t count) noexcept {
    if (waiting_.fetch_sub(count) != count) return;
    auto phase = Phase::kJoining;
    if (phase_.compare_exchange_strong(phase, Phase::kDone)) return;
    phase = Phase::kSuspended;
    if (!phase_.compare_exchange_strong(phase, Phase::kDone)) return;
    std::invoke(resume_on_, handle_);  // may destroy the coroutine's frame
  }

  void Release(std::size_t count) noexcept {
    if (owners_.fetch_sub(count) == count) delete this;
  }

  const StopToken stop_;
  ResumeOn resume_on_;
  std::optional<StopCallback<OnStop>> on_stop_;
  std::coroutine_handle<> handle_;
  std::atomic<Phase> phase_ = Phase::kJoining;
  // Members that will be notified or leave, and Begin.
  std::atomic<std::size_t> waiting_ = 1;
  // Members that will be notified or leave, the coroutine, and a Stop in progress.
  std::atomic<std::size_t> owners_ = 1;
  std::vector<StopSource> unwanted_;
  BatchMembers<G, Member> members_;
};

// What a CoDoMany does with a group, an `fn` and perhaps an executor. It owns what was passed as a
// temporary, and refers to the rest.
template <class GroupArg, class FnArg, class ExecutorArg>
class CoDoManyWork {
  using Fn = std::decay_t<FnArg>;
  using Work = BatchWork<GroupArg, Fn>;

 public:
  using Group = GroupArg;

  CoDoManyWork(Group& group, FnArg&& fn, ExecutorArg&& executor)
      : group_(group),
        fn_(std::forward<FnArg>(fn)),
        executor_(std::forward<ExecutorArg>(executor)) {}

  // Called once. Returns true if there is nothing to wait for.
  template <class Batch>
  bool Begin(Batch& batch) {
    if constexpr (LaunchesLater<Group>) {
      static_assert((detail::CheckLaterExecutor<ExecutorArg>(), true));
      using Leads = LaterLeads<Group, Fn, std::decay_t<ExecutorArg>>;
      return batch.JoinLater(group_, std::make_shared<Leads>(group_, std::forward<FnArg>(fn_),
                                                             std::forward<ExecutorArg>(executor_)));
    } else {
      BatchLeads<Group, Fn> leads;
      const auto lead = [&leads](const auto& key, auto its_lead) {
        leads.Add(key, std::move(its_lead));
      };
      return batch.Join(group_, lead, [&] {
        leads.Begin(std::forward<FnArg>(fn_), [this](const auto& work) { Launch(work); });
      });
    }
  }

 private:
  void Launch(const std::shared_ptr<Work>& work) {
    if constexpr (std::same_as<ExecutorArg, NoExecutor>) {
      if constexpr (LedCalls<Group>::kMayBeBackground && !AwaitedBy<Group, Fn>::kIsAwaited) {
        auto& calls = work->Calls();
        if (calls.AreBackground()) return calls.RunInBackground(BatchTask<Group, Fn>(work));
      }
      Work::Run(work);
    } else {
      std::invoke(std::forward<ExecutorArg>(executor_), BatchTask<Group, Fn>(work));
    }
  }

  Group& group_;
  FnArg fn_;
  ExecutorArg executor_;
};

// What a CoDoMany does with a group that has an `fn` of its own.
template <class B>
class CoDoManyOwnWork {
 public:
  using Group = GroupOf<B>;

  explicit CoDoManyOwnWork(B& batcher) : batcher_(batcher) {}

  // Called once. Returns true if there is nothing to wait for.
  template <class Batch>
  bool Begin(Batch& batch) {
    const std::shared_ptr<Group> group = batcher_.AsGroup().shared_from_this();
    return batch.Join(*group);
  }

 private:
  B& batcher_;
};

template <class Call>
class CoDoManyAwaiter;

// A CoDoMany that has not been awaited. Movable. It is not itself the awaiter, because GCC 12 would
// copy one that an await_transform passes on.
template <class Work, class ResumeOn>
class [[nodiscard]] CoDoManyCall {
 public:
  template <class Keys>
  CoDoManyCall(Work&& work, Keys& keys, const StopToken& stop, ResumeOn&& resume_on)
      : work_(std::move(work)), batch_(new Batch(keys, stop, std::forward<ResumeOn>(resume_on))) {}

  auto operator co_await() && { return CoDoManyAwaiter<CoDoManyCall>(std::move(*this)); }

 private:
  friend CoDoManyAwaiter<CoDoManyCall>;
  using Batch = CoBatch<typename Work::Group, std::decay_t<ResumeOn>>;

  struct Abandon {
    void operator()(Batch* batch) const noexcept { batch->Abandon(); }
  };

  Work work_;
  std::unique_ptr<Batch, Abandon> batch_;
};

template <class Call>
class CoDoManyAwaiter {
 public:
  explicit CoDoManyAwaiter(Call&& call) : call_(std::move(call)) {}
  CoDoManyAwaiter(const CoDoManyAwaiter&) = delete;
  CoDoManyAwaiter& operator=(const CoDoManyAwaiter&) = delete;

  bool await_ready() { return call_.work_.Begin(*call_.batch_); }
  bool await_suspend(std::coroutine_handle<> handle) noexcept {
    return call_.batch_->Suspend(handle);
  }
  auto await_resume() { return call_.batch_->TakeResults(); }

 private:
  Call call_;
};

}  // namespace singleflight::detail
