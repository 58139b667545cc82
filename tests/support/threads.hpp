// SPDX-License-Identifier: MIT
#pragma once

// JoiningThread, and short names for stop tokens. Tests use these and not std::jthread and
// std::stop_token, which libc++ lacks before version 20.

#include <concepts>
#include <singleflight/stop_token.hpp>
#include <thread>
#include <type_traits>
#include <utility>

namespace test {

using singleflight::kNoStopState;
using singleflight::StopCallback;
using singleflight::StopSource;
using singleflight::StopToken;

// A thread that runs `fn()` or `fn(StopToken)`. It is joined when it is destroyed or replaced. If
// `fn` takes a token, its stop is requested before.
class JoiningThread {
 public:
  JoiningThread() = default;
  template <class Fn>
  requires(!std::same_as<std::remove_cvref_t<Fn>, JoiningThread>) explicit JoiningThread(Fn&& fn) {
    if constexpr (std::invocable<std::decay_t<Fn>, StopToken>) {
      stop_ = StopSource();
      thread_ = std::thread(std::forward<Fn>(fn), stop_.get_token());
    } else {
      thread_ = std::thread(std::forward<Fn>(fn));
    }
  }
  JoiningThread(JoiningThread&&) noexcept = default;
  JoiningThread& operator=(JoiningThread&& other) noexcept {
    StopAndJoin();
    thread_ = std::move(other.thread_);
    stop_ = std::move(other.stop_);
    return *this;
  }
  ~JoiningThread() { StopAndJoin(); }

  bool joinable() const noexcept { return thread_.joinable(); }
  void join() { thread_.join(); }
  std::thread::id get_id() const noexcept { return thread_.get_id(); }
  auto native_handle() { return thread_.native_handle(); }
  void request_stop() noexcept { stop_.request_stop(); }

 private:
  void StopAndJoin() noexcept {
    if (!thread_.joinable()) return;
    stop_.request_stop();
    thread_.join();
  }

  std::thread thread_;
  StopSource stop_{kNoStopState};
};

}  // namespace test
