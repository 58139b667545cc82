// SPDX-License-Identifier: MIT
#pragma once

#include <pthread.h>

#include <functional>
#include <utility>

// Defined where a cancelled thread is unwound, so that promise 6 holds: with glibc and libstdc++.
#if defined(__GLIBC__) && defined(__GLIBCXX__)
#define TEST_CANCELLED_THREADS_ARE_UNWOUND 1
#endif

namespace test {

// A POSIX thread that runs `body` and can be cancelled.
class CancellableThread {
 public:
  explicit CancellableThread(std::function<void()> body) : body_(std::move(body)) {
    pthread_create(
        &thread_, nullptr,
        [](void* self) -> void* {
          static_cast<CancellableThread*>(self)->body_();
          return nullptr;
        },
        this);
  }
  void Cancel() { pthread_cancel(thread_); }
  // Returns true if the thread was unwound by cancellation or pthread_exit.
  bool JoinWasUnwound() {
    void* result = nullptr;
    pthread_join(thread_, &result);
    return result != nullptr;
  }

 private:
  std::function<void()> body_;
  pthread_t thread_;
};

}  // namespace test
