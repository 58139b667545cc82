// SPDX-License-Identifier: MIT
#pragma once

// The stop tokens of the C++20 standard ([thread.stoptoken]), for standard libraries that lack
// them. Members have the standard's names and contracts. Include stop_token.hpp instead of this.
//
// Cost: a StopSource allocates once, and a token or a callback never. Copying one counts a
// reference. Asking a token takes no lock. Callbacks take a mutex, which is not held while they
// run.

#include <atomic>
#include <concepts>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

#include "intrusive_list.hpp"
#include "requirements.hpp"

namespace singleflight::detail::portable {

// What the sources, tokens and callbacks of one stop share.
class StopState {
 public:
  class Node;

  void AddSource() noexcept { sources_.fetch_add(1, std::memory_order_relaxed); }
  void DropSource() noexcept { sources_.fetch_sub(1, std::memory_order_relaxed); }

  bool Possible() const noexcept {
    return Requested() || sources_.load(std::memory_order_relaxed) > 0;
  }
  bool Requested() const noexcept { return requested_.load(std::memory_order_acquire); }

  // Returns true if this is the first request, and then has run all callbacks, on this thread.
  // Lifetime: the caller holds a reference, because a callback may destroy all others.
  bool Request() noexcept;

  // Makes `node` one that the request runs. Returns false if there has been a request, or if
  // there cannot be one.
  bool Register(Node& node) noexcept;

  // Afterwards `node`, which was registered, does not run. Waits for it if it runs on another
  // thread.
  void Deregister(Node& node) noexcept;

 private:
  std::atomic<std::size_t> sources_{1};
  // Changes once, under the mutex. The release in Request pairs with the acquire in Requested.
  std::atomic<bool> requested_{false};

  std::mutex mutex_;
  std::condition_variable returned_;  // signals that `running_` has returned
  // Guarded by mutex_:
  ListLink waiting_;           // the callbacks that no request has taken
  std::thread::id requester_;  // the thread that runs them
  const Node* running_ = {};   // the one that it runs now. It may have been destroyed
};

// A registered callback. `run` calls it.
class StopState::Node : private ListLink {
 public:
  using Run = void (*)(Node&) noexcept;

  explicit Node(Run run) noexcept : run_(run) {}
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

 private:
  friend StopState;
  const Run run_;
};

inline bool StopState::Request() noexcept {
  std::unique_lock lock(mutex_);
  if (Requested()) return false;
  requested_.store(true, std::memory_order_release);
  requester_ = std::this_thread::get_id();
  while (!waiting_.Empty()) {
    Node& node = static_cast<Node&>(*waiting_.next);
    node.Unlink();
    running_ = &node;
    lock.unlock();
    node.run_(node);
    lock.lock();
    running_ = nullptr;
    returned_.notify_all();
  }
  return true;
}

inline bool StopState::Register(Node& node) noexcept {
  const std::lock_guard lock(mutex_);
  if (Requested() || !Possible()) return false;
  node.InsertBefore(waiting_);
  return true;
}

inline void StopState::Deregister(Node& node) noexcept {
  std::unique_lock lock(mutex_);
  if (!node.Empty()) {  // it is linked
    node.Unlink();
  } else if (requester_ != std::this_thread::get_id()) {
    // No other callback that this state knows can have this address: none registers any more.
    returned_.wait(lock, [&] { return running_ != &node; });
  }
}

class StopSource;
template <class Callback>
class StopCallback;

// A std::stop_token.
class StopToken {
 public:
  StopToken() noexcept = default;

  void swap(StopToken& other) noexcept { state_.swap(other.state_); }
  [[nodiscard]] bool stop_requested() const noexcept { return state_ && state_->Requested(); }
  // Returns false if no stop was requested and none can be.
  [[nodiscard]] bool stop_possible() const noexcept { return state_ && state_->Possible(); }

  [[nodiscard]] friend bool operator==(const StopToken&, const StopToken&) noexcept = default;
  friend void swap(StopToken& one, StopToken& other) noexcept { one.swap(other); }

 private:
  friend StopSource;
  template <class Callback>
  friend class StopCallback;
  explicit StopToken(std::shared_ptr<StopState> state) noexcept : state_(std::move(state)) {}

  std::shared_ptr<StopState> state_;
};

// A std::nostopstate_t.
struct NoStopState {
  explicit NoStopState() = default;
};

// A std::stop_source.
class StopSource {
 public:
  StopSource() : state_(std::make_shared<StopState>()) {}
  explicit StopSource(NoStopState) noexcept {}
  StopSource(const StopSource& other) noexcept : state_(other.state_) {
    if (state_) state_->AddSource();
  }
  StopSource(StopSource&&) noexcept = default;
  StopSource& operator=(const StopSource& other) noexcept {
    StopSource(other).swap(*this);
    return *this;
  }
  StopSource& operator=(StopSource&& other) noexcept {
    StopSource(std::move(other)).swap(*this);
    return *this;
  }
  ~StopSource() {
    if (state_) state_->DropSource();
  }

  void swap(StopSource& other) noexcept { state_.swap(other.state_); }
  [[nodiscard]] StopToken get_token() const noexcept { return StopToken(state_); }
  [[nodiscard]] bool stop_possible() const noexcept { return state_ != nullptr; }
  [[nodiscard]] bool stop_requested() const noexcept { return state_ && state_->Requested(); }
  // Returns true if this is the first request, and then has run all callbacks, on this thread.
  bool request_stop() noexcept {
    const std::shared_ptr<StopState> state = state_;  // a callback may destroy this source
    return state && state->Request();
  }

  [[nodiscard]] friend bool operator==(const StopSource&, const StopSource&) noexcept = default;
  friend void swap(StopSource& one, StopSource& other) noexcept { one.swap(other); }

 private:
  std::shared_ptr<StopState> state_;  // null: no stop can be requested
};

// A std::stop_callback: runs `callback` once if a stop is requested while this object lives. If
// there has been a request, the constructor runs it.
//
// Thread: the thread that requests the stop, or the one that constructs this object.
// Errors: an exception that leaves `callback` terminates the program.
// Lifetime: the destructor waits for a `callback` that runs on another thread. A `callback` may
//   destroy this object.
template <class Callback>
class [[nodiscard]] StopCallback {
  static_assert(std::invocable<Callback> && std::destructible<Callback>,
                "a StopCallback needs something that can be called without arguments");

 public:
  using callback_type = Callback;

  template <class Init>
  requires std::constructible_from<Callback, Init>
  explicit StopCallback(const StopToken& stop,
                        Init&& init) noexcept(std::is_nothrow_constructible_v<Callback, Init>)
      : entry_(std::forward<Init>(init)) {
    Register(stop.state_);
  }
  template <class Init>
  requires std::constructible_from<Callback, Init>
  explicit StopCallback(StopToken&& stop,
                        Init&& init) noexcept(std::is_nothrow_constructible_v<Callback, Init>)
      : entry_(std::forward<Init>(init)) {
    Register(std::move(stop.state_));
  }
  StopCallback(const StopCallback&) = delete;
  StopCallback& operator=(const StopCallback&) = delete;
  ~StopCallback() {
    if (state_) state_->Deregister(entry_);
  }

 private:
  struct Entry : StopState::Node {
    template <class Init>
    explicit Entry(Init&& init)
        : StopState::Node([](StopState::Node& self) noexcept { static_cast<Entry&>(self).Call(); }),
          callback(std::forward<Init>(init)) {}
    void Call() noexcept { std::forward<Callback>(callback)(); }

    Callback callback;
  };

  void Register(std::shared_ptr<StopState> state) noexcept {
    if (!state) return;
    state_ = std::move(state);  // first, because once it is registered, `callback` may destroy this
    if (state_->Register(entry_)) return;
    const std::shared_ptr<StopState> unused = std::exchange(state_, nullptr);
    if (unused->Requested()) entry_.Call();
  }

  Entry entry_;
  std::shared_ptr<StopState> state_;  // set if and only if `entry_` was registered
};

template <class Callback>
StopCallback(StopToken, Callback) -> StopCallback<Callback>;

}  // namespace singleflight::detail::portable
