// SPDX-License-Identifier: MIT
#pragma once

// Threads with real-time priorities, all on one processor: while one of them runs, none of a lower
// priority does. So a thread that only yields to a lower one waits for ever.

#include "platform.hpp"

#if TEST_HAS_REAL_TIME_THREADS

#include <pthread.h>
#include <sched.h>

#include <functional>
#include <system_error>
#include <utility>

namespace test {

// A thread that runs `body` with a real-time priority, from 1, on the first processor. It is joined
// when it is destroyed.
class RealTimeThread {
 public:
  // Errors: throws std::system_error if this process may not have such threads.
  RealTimeThread(int priority, std::function<void()> body) : body_(std::move(body)) {
    cpu_set_t allowed;
    cpu_set_t first;
    CPU_ZERO(&first);
    pthread_getaffinity_np(pthread_self(), sizeof(allowed), &allowed);
    int processor = 0;
    while (!CPU_ISSET(processor, &allowed)) ++processor;
    CPU_SET(processor, &first);

    const sched_param scheduling{.sched_priority = priority};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setaffinity_np(&attributes, sizeof(first), &first);
    pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
    pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
    pthread_attr_setschedparam(&attributes, &scheduling);
    const auto run = [](void* self) -> void* {
      static_cast<RealTimeThread*>(self)->body_();
      return nullptr;
    };
    const int error = pthread_create(&thread_, &attributes, run, this);
    pthread_attr_destroy(&attributes);
    if (error != 0) throw std::system_error(error, std::generic_category());
  }
  ~RealTimeThread() { pthread_join(thread_, nullptr); }
  RealTimeThread(const RealTimeThread&) = delete;
  RealTimeThread& operator=(const RealTimeThread&) = delete;

 private:
  std::function<void()> body_;
  pthread_t thread_ = {};
};

// Whether this process may have such threads. Root may, unless a container forbids it.
inline bool MayHaveRealTimeThreads() {
  try {
    const RealTimeThread tried(1, [] {});
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

}  // namespace test

#endif
