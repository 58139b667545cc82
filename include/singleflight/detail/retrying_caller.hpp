// SPDX-License-Identifier: MIT
#pragma once

// RetryingCaller: an AsyncCaller that asks once more if the call that it follows fails
// (OnFailure::kRetry). Those of DoThen and of a Future.

#include <condition_variable>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

#include "../key_result.hpp"
#include "../options.hpp"
#include "../result.hpp"
#include "../waiter.hpp"
#include "async_caller.hpp"
#include "call.hpp"
#include "errors.hpp"
#include "event.hpp"
#include "future_source.hpp"
#include "later_launch.hpp"
#include "thread_mark.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// Keeps what it needs to ask again. `launch(lead)` gives the work to whoever runs it, and is called
// at most once.
template <class G, class Launch>
class RetryingCaller : public AsyncCaller<typename G::ValueType> {
 protected:
  using Value = typename G::ValueType;
  using State = SharedState<Value>;

 public:
  RetryingCaller(G& group, typename G::KeyType key, Launch launch)
      : group_(group), key_(std::move(key)), launch_(std::in_place, std::move(launch)) {}

  void Join() {
    this->JoinBy([this](const auto& joined) {
      group_.Join(key_, *this, Launching(joined), OnFailure::kRetry);
    });
  }

 protected:
  // It is about to join its second call. OnJoined or a delivery of error_ follows.
  virtual void OnJoinsAgain() noexcept {}

  // Destroys what the work would have needed: it is not launched any more.
  void DropLaunch() noexcept { launch_.reset(); }

  // It keeps its result: OnLanded may be reading it.
  void Drop() noexcept override { DropLaunch(); }

  // Why there is no outcome: it could not join again. Null otherwise.
  std::exception_ptr error_;

 private:
  using Kept = std::conditional_t<LaunchesLater<G>, SharedLaunch<Launch>, Launch>;

  auto Launching(const auto& joined) {
    if constexpr (LaunchesLater<G>) {
      return Kept(*launch_);
    } else {
      return [this, &joined](typename G::Lead lead) {
        Launch launch(std::move(*launch_));  // from here on, Drop and Deliver may come
        launch_.reset();
        joined();
        std::move(launch)(std::move(lead));
      };
    }
  }

  void OnLanded() noexcept override {
    if (asked_again_ || !this->AsksAgain()) return this->Land();
    if (!this->StartsJoiningAgain()) {
      group_.GiveUp(*this);
      return this->Land();
    }
    asked_again_ = true;
    OnJoinsAgain();
    this->JoinAgainBy(
        [this](const auto& joined) { group_.JoinAgain(key_, *this, Launching(joined)); },
        [this](std::exception_ptr error) { error_ = std::move(error); });
  }

  // Not by Detach: if the call has landed, OnLanded must come, to tell the others that this caller
  // does not ask again.
  bool LeaveCall() noexcept override {
    return State::Of(*this) == nullptr || this->Waiter<Value>::Leave();
  }

  G& group_;
  const typename G::KeyType key_;
  std::optional<Kept> launch_;  // empty once it was called, or will not be called
  bool asked_again_ = false;
};

// That of a DoThen.
template <class G, class Launch, class Callback>
class RetryingThen final : public RetryingCaller<G, Launch> {
 public:
  template <class C>
  RetryingThen(G& group, typename G::KeyType key, Launch launch, C&& callback)
      : RetryingCaller<G, Launch>(group, std::move(key), std::move(launch)),
        callback_(std::in_place, std::forward<C>(callback)) {}

 private:
  void Deliver() noexcept override {
    this->DropLaunch();
    static_cast<void>(std::move(*callback_)(this->error_ != nullptr ? this->Failure(this->error_)
                                                                    : this->TakeOutcome()));
    callback_.reset();
  }
  void Drop() noexcept override {
    RetryingCaller<G, Launch>::Drop();
    callback_.reset();
  }

  std::optional<Callback> callback_;  // empty once it was called, or will not be called
};

// That of a Future.
template <class G, class Launch>
class RetryingFuture final : public RetryingCaller<G, Launch>,
                             public FutureSource<typename G::ValueType> {
  using Value = typename G::ValueType;
  using State = SharedState<Value>;

 public:
  using RetryingCaller<G, Launch>::RetryingCaller;

  std::future_status Block(const Deadline& deadline) override {
    std::unique_lock lock(mutex_);
    while (!IsReady()) {
      const std::shared_ptr<State> call = call_;
      lock.unlock();
      WaitEdge edge;
      if (!edge.Record(*call)) std::rethrow_exception(detail::MakeDeadlock());
      detail::BeforeBlocking();
      lock.lock();
      const auto changed = [&] { return IsReady() || call_ != call; };
      if (!deadline) {
        changed_.wait(lock, changed);
      } else if (!changed_.wait_until(lock, *deadline, changed)) {
        return std::future_status::timeout;
      }
    }
    return std::future_status::ready;
  }

  Result<Value> Take() override {
    if (this->error_ != nullptr) std::rethrow_exception(this->error_);
    return this->TakeResult();
  }
  Result<Value> TakeShared() override {
    if (this->error_ != nullptr) std::rethrow_exception(this->error_);
    return State::ReceiveShared(State::Of(*this), State::RoleOf(*this));
  }
  void Abandon() noexcept override {
    this->CallerBase::Leave();
    this->Release();
  }

 private:
  void OnJoined() noexcept override {
    std::shared_ptr<State> call = State::Of(*this);  // in the end the previous one, if any
    Change([&] {
      call_.swap(call);
      joining_ = false;
    });
  }
  void OnJoinsAgain() noexcept override {
    Change([this] { joining_ = true; });
  }
  void Deliver() noexcept override {
    this->DropLaunch();
    Change([this] {
      delivered_ = true;
      if (this->error_ != nullptr) joining_ = false;  // OnJoined does not come
    });
  }

  // Not before OnJoined has read the state, which Take takes away.
  bool IsReady() const noexcept { return delivered_ && !joining_; }

  template <class Apply>
  void Change(Apply&& apply) noexcept {
    const std::lock_guard lock(mutex_);
    apply();
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::shared_ptr<State> call_;  // that of the call it is on
  bool delivered_ = false;
  bool joining_ = true;  // until OnJoined
};

}  // namespace singleflight::detail
