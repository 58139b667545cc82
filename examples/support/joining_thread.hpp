// SPDX-License-Identifier: MIT
#pragma once

// A thread that is joined when it is destroyed or replaced. Yours is std::jthread, unless you use
// libc++ before version 20, which has none.

#include <thread>
#include <utility>

class JoiningThread {
 public:
  JoiningThread() = default;
  template <class Fn, class... Args>
  explicit JoiningThread(Fn fn, Args... args) : thread_(std::move(fn), std::move(args)...) {}
  JoiningThread(JoiningThread&&) noexcept = default;
  JoiningThread& operator=(JoiningThread&& other) noexcept {
    Join();
    thread_ = std::move(other.thread_);
    return *this;
  }
  ~JoiningThread() { Join(); }

 private:
  void Join() {
    if (thread_.joinable()) thread_.join();
  }

  std::thread thread_;
};
