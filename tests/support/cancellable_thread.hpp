// SPDX-License-Identifier: MIT
#pragma once

#include <pthread.h>

#include <functional>
#include <utility>

namespace test {

// A POSIX thread that runs `body` and can be cancelled. Not every platform unwinds it then: see
// TEST_UNWINDS_CANCELLED_THREADS.
//
// The AddressSanitizer of g++ may abort a program in which a cancelled thread is unwound, unless
// ASAN_OPTIONS=detect_stack_use_after_return=1, as in CMakePresets.json. It does not see the frames
// go (google/sanitizers, issues 1399 and 1669).
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
