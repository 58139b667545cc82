// SPDX-License-Identifier: MIT
#pragma once

// JoiningThread, and short names for stop tokens. Tests use these and not std::jthread and
// std::stop_token, which libc++ lacks before version 20.

#include <concepts>
#include <singleflight/singleflight.hpp>
#include <thread>
#include <type_traits>
#include <utility>

namespace test {

using singleflight::kNoStopState;
using singleflight::StopCallback;
using singleflight::StopSource;
using singleflight::StopToken;

// A thread that runs `fn()` or `fn(StopToken)`. It is joined when it is destroyed or replaced.
// Before that, the stop is requested.
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
    stop_ = std::move(other.stop_);
    thread_ = std::move(other.thread_);
    return *this;
  }
  ~JoiningThread() { StopAndJoin(); }

  bool joinable() const noexcept { return thread_.joinable(); }
  void join() { thread_.join(); }
  std::thread::id get_id() const noexcept { return thread_.get_id(); }
  auto native_handle() { return thread_.native_handle(); }

 private:
  void StopAndJoin() noexcept {
    if (!joinable()) return;
    stop_.request_stop();
    join();
  }

  StopSource stop_{kNoStopState};
  std::thread thread_;
};

}  // namespace test
