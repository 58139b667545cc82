// SPDX-License-Identifier: MIT
#pragma once

// RAII guards over POSIX. DisableCancellation keeps thread cancellation away from C functions, and
// BlockSignals keeps signals away from the library's threads.

#include <pthread.h>
#include <signal.h>

namespace singleflight::redis::detail {

// Disables thread cancellation where it would leak what C functions hold, or throw from a
// destructor.
class DisableCancellation {
 public:
  DisableCancellation() noexcept { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~DisableCancellation() { ::pthread_setcancelstate(before_, nullptr); }
  DisableCancellation(const DisableCancellation&) = delete;
  DisableCancellation& operator=(const DisableCancellation&) = delete;

 private:
  int before_ = PTHREAD_CANCEL_ENABLE;
};

// Blocks all signals on this thread, and on threads that it starts meanwhile. So no handler of the
// user's runs on the library's threads, and a write to a closed connection fails instead of raising
// SIGPIPE there.
class BlockSignals {
 public:
  BlockSignals() noexcept {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~BlockSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace singleflight::redis::detail
