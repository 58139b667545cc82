// SPDX-License-Identifier: MIT
#pragma once

// RAII guards over POSIX: DisableCancellation, BlockSigPipe, BlockSignals and StopFd. They keep
// thread cancellation and signals away from C functions, and let poll() wait for a stop token.

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>
#include <system_error>

#include "../../stop_token.hpp"
#include "outage.hpp"

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

// Keeps a write to a closed connection from killing the process: neither hiredis nor OpenSSL
// prevents its SIGPIPE. The destructor removes the signal from the thread, unless one was pending
// before.
class BlockSigPipe {
 public:
  BlockSigPipe() noexcept {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
    // A SIGPIPE that was not blocked cannot be pending: it would have been delivered.
    was_pending_ = ::sigismember(&before_, SIGPIPE) == 1 && IsPending();
  }
  ~BlockSigPipe() {
    const DisableCancellation guard;  // sigwait is a cancellation point
    if (!was_pending_ && IsPending()) {
      int signal = 0;
      ::sigwait(&pipe_, &signal);
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  BlockSigPipe(const BlockSigPipe&) = delete;
  BlockSigPipe& operator=(const BlockSigPipe&) = delete;

 private:
  static bool IsPending() noexcept {
    sigset_t pending;
    return ::sigpending(&pending) == 0 && ::sigismember(&pending, SIGPIPE) == 1;
  }

  sigset_t pipe_;
  sigset_t before_;
  bool was_pending_;
};

// Blocks all signals on this thread: hiredis takes one that interrupts its connect for a failure.
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

// Owns a file descriptor that becomes readable when a stop is requested.
class StopFd {
 public:
  explicit StopFd(const StopToken& stop) {
    if (!stop.stop_possible()) return;
    if (::pipe(ends_.data()) != 0) {
      throw Outage(std::errc::not_connected, std::generic_category().message(errno));
    }
    for (const int end : ends_) ::fcntl(end, F_SETFD, FD_CLOEXEC);
    on_stop_.emplace(stop, Write{ends_[1]});
  }
  ~StopFd() {
    const DisableCancellation guard;
    on_stop_.reset();
    for (const int end : ends_) {
      if (end >= 0) ::close(end);
    }
  }
  StopFd(const StopFd&) = delete;
  StopFd& operator=(const StopFd&) = delete;

  int get() const noexcept { return ends_[0]; }  // -1 if no stop is possible

 private:
  struct Write {
    void operator()() const noexcept {
      const DisableCancellation guard;
      while (::write(end, "", 1) < 0 && errno == EINTR) {
      }
    }
    int end;
  };

  std::array<int, 2> ends_ = {-1, -1};
  std::optional<StopCallback<Write>> on_stop_;
};

}  // namespace singleflight::redis::detail
