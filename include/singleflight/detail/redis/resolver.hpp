// SPDX-License-Identifier: MIT
#pragma once

// Resolver: looks up one server's name on a thread of its own, since the system's resolver blocks,
// for 40 seconds if no DNS server answers. It never keeps the event loop or a destructor waiting.
//
// It is not a cache: whoever asks keeps the last good answer.

#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "address.hpp"
#include "event_loop.hpp"
#include "posix.hpp"

namespace singleflight::redis::detail {

// Blocks until the name's addresses are known. Called on a thread that may outlive its client.
using LookUp = std::function<LookUpResult(const std::string& host, int port)>;

inline LookUp SystemLookUp() {
  return [](const std::string& host, int port) { return LookUpNow(host, port); };
}

class Resolver {
 public:
  // Thread: `then` runs on the loop's thread, except that it never runs once the resolver is
  //   destroyed.
  Resolver(EventLoop& loop, LookUp look_up, std::function<void(LookUpResult)> then)
      : state_(std::make_shared<State>(&loop, std::move(then))), look_up_(std::move(look_up)) {}

  // Abandons a look-up that still runs. Its thread exits when the system's resolver returns.
  ~Resolver() {
    const std::lock_guard lock(state_->mutex);
    state_->loop = nullptr;
  }

  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  bool IsBusy() const noexcept { return busy_; }

  // Starts a look-up, unless one runs already: there is never more than one thread.
  void Start(const Address& address) {
    if (std::exchange(busy_, true)) return;
    state_->self = this;
    try {
      const BlockSignals guard;  // the thread inherits this
      std::thread(LookUpOnThread, state_, look_up_, address).detach();
    } catch (const std::system_error& error) {
      PostResult(state_, {{}, std::string("cannot start a thread: ") + error.what()});
    }
  }

 private:
  // Shared with the thread. The task that delivers the result keeps it alive.
  struct State {
    State(EventLoop* its_loop, std::function<void(LookUpResult)> its_then)
        : loop(its_loop), then(std::move(its_then)) {}
    std::mutex mutex;
    EventLoop* loop;           // guarded by mutex. Null: the resolver is destroyed
    Resolver* self = nullptr;  // used by the loop's thread alone
    const std::function<void(LookUpResult)> then;  // used by the loop's thread alone
  };

  static void LookUpOnThread(const std::shared_ptr<State>& state, const LookUp& look_up,
                             const Address& address) noexcept {
    LookUpResult result;
    try {
      result = look_up(address.host, address.port);
    } catch (const std::exception& error) {
      result.error = error.what();
    }
    PostResult(state, std::move(result));
  }

  static void PostResult(const std::shared_ptr<State>& state, LookUpResult result) {
    const std::lock_guard lock(state->mutex);
    if (state->loop == nullptr) return;
    state->loop->Post([state, result = std::move(result)]() mutable {
      {
        // Only the loop's thread destroys resolvers, so this one lives until the task returns.
        const std::lock_guard again(state->mutex);
        if (state->loop == nullptr) return;
      }
      state->self->busy_ = false;
      state->then(std::move(result));
    });
  }

  const std::shared_ptr<State> state_;
  const LookUp look_up_;
  bool busy_ = false;
};

}  // namespace singleflight::redis::detail
