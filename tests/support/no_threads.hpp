// SPDX-License-Identifier: MIT
#pragma once

// NoThreads: while it lives, the system has no thread to give to std::thread.

#include <pthread.h>

#include <cstddef>

namespace test {

#ifdef __GLIBC__

// It asks for stacks that are larger than any address space.
class NoThreads {
 public:
  static constexpr bool kWorks = true;

  NoThreads() {
    ::pthread_getattr_default_np(&before_);
    pthread_attr_t huge;
    ::pthread_getattr_default_np(&huge);
    ::pthread_attr_setstacksize(&huge, ~std::size_t{0} / 4);
    ::pthread_setattr_default_np(&huge);
    ::pthread_attr_destroy(&huge);
  }
  ~NoThreads() {
    ::pthread_setattr_default_np(&before_);
    ::pthread_attr_destroy(&before_);
  }
  NoThreads(const NoThreads&) = delete;
  NoThreads& operator=(const NoThreads&) = delete;

 private:
  pthread_attr_t before_ = {};
};

#else

struct NoThreads {
  static constexpr bool kWorks = false;
};

#endif

}  // namespace test
