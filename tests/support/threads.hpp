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

// A thread that is joined when it is destroyed or replaced.
class JoiningThread {
 public:
  JoiningThread() = default;
  template <class Fn>
  requires(!std::same_as<std::remove_cvref_t<Fn>, JoiningThread>) explicit JoiningThread(Fn&& fn)
      : thread_(std::forward<Fn>(fn)) {}
  JoiningThread(JoiningThread&&) noexcept = default;
  JoiningThread& operator=(JoiningThread&& other) noexcept {
    if (joinable()) join();
    thread_ = std::move(other.thread_);
    return *this;
  }
  ~JoiningThread() {
    if (joinable()) join();
  }

  bool joinable() const noexcept { return thread_.joinable(); }
  void join() { thread_.join(); }
  std::thread::id get_id() const noexcept { return thread_.get_id(); }
  auto native_handle() { return thread_.native_handle(); }

 private:
  std::thread thread_;
};

}  // namespace test
