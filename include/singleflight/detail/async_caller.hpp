// SPDX-License-Identifier: MIT
#pragma once

// AsyncCaller: a caller on the heap that any thread may make leave at any time, even before it has
// joined its call and while the call lands.

#include <atomic>
#include <condition_variable>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "../key_result.hpp"
#include "../options.hpp"
#include "../waiter.hpp"
#include "backoff.hpp"
#include "call.hpp"
#include "errors.hpp"
#include "event.hpp"
#include "future_source.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// The part that does not depend on the value: who decides between leaving and landing.
//
// A Waiter alone cannot be left at any time: Waiter::Leave must race neither with Join nor with
// TakeResult, and only one thread may call it. So here one atomic phase decides. Whoever wins it
// does what follows, and nobody else touches the waiter.
//
// Three parties hold a reference each: the handle, the thread that joins, and the call, until it
// notifies the waiter or the waiter has left.
class CallerBase {
 public:
  CallerBase(const CallerBase&) = delete;
  CallerBase& operator=(const CallerBase&) = delete;

  // True: this caller has left, or had left before, and is not delivered to. Never waits.
  bool Leave() noexcept {
    Phase phase = phase_;
    do {
      if (phase == Phase::kLeft) return true;
      if (phase != Phase::kJoining && phase != Phase::kWaiting) return false;
    } while (!phase_.compare_exchange_weak(phase, Phase::kLeft));
    if (phase == Phase::kWaiting) LetGo();  // otherwise, the thread that joins does it
    return true;
  }

  // Waits for a delivery that is in progress on another thread.
  void AwaitDelivery() noexcept {
    if (phase_ != Phase::kDelivering || delivers_on_ == std::this_thread::get_id()) return;
    Event delivered;
    delivered_ = &delivered;
    auto delivering = Phase::kDelivering;
    if (phase_.compare_exchange_strong(delivering, Phase::kAwaited)) delivered.Wait();
  }

  // Drops a reference.
  void Release() noexcept {
    if (references_.fetch_sub(1) == 1) delete this;
  }

  // ---- For the thread that joins

  // Joins by `join(joined)`, which calls `joined()` as soon as the waiter is on its call, or not at
  // all. Throws what `join` throws, unless this caller has left meanwhile.
  template <class Join>
  void JoinBy(Join&& join) {
    struct Joining {
      ~Joining() {
        if (!joined) caller.DidNotJoin();  // this thread is being cancelled
        caller.Release();
      }
      CallerBase& caller;
      bool joined = false;
    } joining{*this};
    const auto joined = [&joining] {
      if (!std::exchange(joining.joined, true)) joining.caller.Joined();
    };
    std::exception_ptr error;
    try {
      join(joined);
      joined();
    } catch (...) {
      error = detail::Caught();
    }
    if (error == nullptr || std::exchange(joining.joined, true)) return;
    if (DidNotJoin()) std::rethrow_exception(std::move(error));
  }

 protected:
  CallerBase() = default;
  virtual ~CallerBase() = default;

  // The call has landed. Delivers the outcome, unless this caller has left.
  void Land() noexcept {
    delivers_on_ = std::this_thread::get_id();
    Phase phase = phase_;
    do {
      if (phase == Phase::kLeft) return Release();
    } while (!phase_.compare_exchange_weak(phase, Phase::kDelivering));
    FinishDelivery();
  }

  // ---- For a caller that may join again, when its call has failed. It is in OnLanded.

  // False: this caller has left. True: JoinAgainBy must follow.
  bool StartsJoiningAgain() noexcept {
    // The thread that joined first is a few instructions from saying so.
    for (Backoff backoff; phase_ == Phase::kJoining;) backoff.Pause();
    auto waiting = Phase::kWaiting;
    return phase_.compare_exchange_strong(waiting, Phase::kJoining);
  }
  // Like JoinBy. What `join` throws is delivered by `fail(error)` and Deliver.
  template <class Join, class FailWith>
  void JoinAgainBy(Join&& join, FailWith&& fail) noexcept {
    references_.fetch_add(1);
    bool is_joined = false;
    const auto joined = [&] {
      if (!std::exchange(is_joined, true)) Joined();
    };
    try {
      join(joined);
      joined();
    } catch (...) {
      if (!std::exchange(is_joined, true)) {
        fail(std::current_exception());
        delivers_on_ = std::this_thread::get_id();
        auto joining = Phase::kJoining;
        if (phase_.compare_exchange_strong(joining, Phase::kDelivering)) {
          FinishDelivery();
        } else if (joining == Phase::kLeft) {
          LetGo();
        }
      }
    }
    Release();
  }

  // Takes the result, and gives it to what it is for.
  virtual void Deliver() noexcept = 0;
  // Destroys what it is for, and a result that was not taken.
  virtual void Drop() noexcept = 0;
  // Waiter::Detach.
  virtual bool DetachWaiter() noexcept = 0;

 private:
  void FinishDelivery() noexcept {
    Deliver();
    if (phase_.exchange(Phase::kDone) == Phase::kAwaited) delivered_->Set();
    Release();
  }

  // kJoining: a thread is inside Join. kWaiting: on a call. kLeft: will not be delivered to. Set
  // from kJoining, it also tells the thread that joins to let go. kDelivering: the call has landed,
  // and Deliver runs. kAwaited: likewise, and another thread waits for the end of that. kDone: it
  // was delivered to, or Join threw.
  enum class Phase : unsigned char { kJoining, kWaiting, kLeft, kDelivering, kAwaited, kDone };

  void Joined() noexcept {
    auto joining = Phase::kJoining;
    if (!phase_.compare_exchange_strong(joining, Phase::kWaiting) && joining == Phase::kLeft) {
      LetGo();
    }
  }

  // Join threw, or its thread is being cancelled. True: nobody has left, or was delivered to.
  bool DidNotJoin() noexcept {
    auto joining = Phase::kJoining;
    if (phase_.compare_exchange_strong(joining, Phase::kDone)) {
      Drop();
      Release();  // the call's: there is none
      return true;
    }
    if (joining == Phase::kLeft) LetGo();
    return false;
  }

  // Leaves the call after phase_ was set to kLeft. Only one thread comes here. If what runs here
  // destroys the handle, the call's reference or that of the thread that joins keeps this object.
  void LetGo() noexcept {
    const bool detached = DetachWaiter();
    Drop();
    if (detached) Release();  // the call's: it notifies nobody
  }

  std::atomic<Phase> phase_ = Phase::kJoining;
  std::atomic<int> references_ = 3;
  // Written by Land before phase_ becomes kDelivering, and read after that.
  std::thread::id delivers_on_;
  // Written before phase_ becomes kAwaited, and read after that.
  Event* delivered_ = nullptr;
};

// The part that does not depend on what the outcome is delivered to.
template <class Value>
class AsyncCaller : public CallerBase, public Waiter<Value> {
 protected:
  // Takes the outcome. It is not kept here.
  //
  // Not inlined, because GCC 12 warns falsely that a KeyResult whose construction it sees is
  // uninitialized where it is moved.
  [[gnu::noinline]] KeyResult<Value> TakeOutcome() noexcept {
    using State = SharedState<Value>;
    try {
      if (State::Of(*this)->Failed()) {
        if (std::exception_ptr error = State::Of(*this)->Error()) {
          this->DropResult();
          return KeyResult<Value>::Failure(std::move(error));
        }
      }
      return KeyResult<Value>(this->TakeResult());
    } catch (...) {  // the value's move threw
      return KeyResult<Value>::Failure(std::current_exception());
    }
  }

  [[gnu::noinline]] static KeyResult<Value> Failure(std::exception_ptr error) noexcept {
    return KeyResult<Value>::Failure(std::move(error));
  }

  void Drop() noexcept override { this->DropResult(); }

 private:
  void OnLanded() noexcept override { this->Land(); }
  bool DetachWaiter() noexcept final { return this->Detach(); }
};

// A caller that asks once more if the call that it follows fails (OnFailure::kRetry). It keeps what
// it needs for that. `launch(lead)` gives the work to whoever runs it, and is called at most once.
template <class G, class Launch>
class RetryingCaller : public AsyncCaller<typename G::ValueType> {
 protected:
  using Value = typename G::ValueType;
  using State = SharedState<Value>;

 public:
  RetryingCaller(G& group, typename G::KeyType key, Launch launch)
      : group_(group), key_(std::move(key)), launch_(std::move(launch)) {}

  void Join() {
    this->JoinBy([this](const auto& joined) {
      if (group_.Join(key_, *this, Launching(joined), OnFailure::kRetry) == Role::kFollower)
        OnJoined();
    });
  }

 protected:
  // The waiter is on a call, perhaps on its second.
  virtual void OnJoined() noexcept {}
  // It is about to join its second call. OnJoined or a delivery of error_ follows.
  virtual void OnJoinsAgain() noexcept {}

  // Why there is no outcome: it could not join again. Null otherwise.
  std::exception_ptr error_;

 private:
  auto Launching(const auto& joined) {
    return [this, &joined](typename G::Lead lead) {
      OnJoined();
      joined();
      std::move(launch_)(std::move(lead));
    };
  }

  // Nothing but this and JoinAgain changes what AsksAgain reads: see Drop.
  void OnLanded() noexcept override {
    if (asked_again_ || !this->AsksAgain()) return this->Land();
    if (!this->StartsJoiningAgain()) {
      group_.GiveUp(*this);
      return this->Land();
    }
    asked_again_ = true;
    OnJoinsAgain();
    this->JoinAgainBy(
        [this](const auto& joined) {
          if (group_.JoinAgain(key_, *this, Launching(joined)) == Role::kFollower) OnJoined();
        },
        [this](std::exception_ptr error) { error_ = std::move(error); });
  }

  // It keeps its result: OnLanded may be reading it.
  void Drop() noexcept override {}

  G& group_;
  const typename G::KeyType key_;
  Launch launch_;
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
    static_cast<void>(std::move(*callback_)(this->error_ != nullptr ? this->Failure(this->error_)
                                                                    : this->TakeOutcome()));
    callback_.reset();
  }
  void Drop() noexcept override { callback_.reset(); }

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
    this->Leave();
    this->Release();
  }

 private:
  using CallerBase::Leave;  // any thread may call it, unlike Waiter's

  void OnJoined() noexcept override {
    Change([this] {
      call_ = State::Of(*this);
      joins_again_ = false;
    });
  }
  void OnJoinsAgain() noexcept override {
    Change([this] { joins_again_ = true; });
  }
  void Deliver() noexcept override {
    Change([this] {
      done_ = true;
      joins_again_ = joins_again_ && this->error_ == nullptr;
    });
  }

  // Not before OnJoined has read the state, which Take takes away.
  bool IsReady() const noexcept { return done_ && !joins_again_; }

  template <class Apply>
  void Change(Apply&& apply) noexcept {
    const std::lock_guard lock(mutex_);
    apply();
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<State> call_;  // guarded by mutex_: that of the call it is on
  // Guarded by mutex_.
  bool done_ = false;
  bool joins_again_ = false;
};

}  // namespace singleflight::detail
