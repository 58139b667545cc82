// SPDX-License-Identifier: MIT
#pragma once

// WakeUp: a file that any thread can make readable, so that a thread in poll() wakes.

#include <fcntl.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

#include <array>
#include <cerrno>
#include <cstdint>
#include <system_error>

#include "posix.hpp"

namespace singleflight::redis::detail {

class WakeUp {
 public:
  // Errors: std::system_error if the process has no more file descriptors.
  WakeUp() {
#ifdef __linux__
    ends_[0] = ends_[1] = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const bool failed = ends_[0] < 0;
#else
    const bool failed = ::pipe(ends_.data()) != 0;
#endif
    if (failed) {
      throw std::system_error(errno, std::generic_category(),
                              "singleflight::redis: cannot make the event loop's wake-up");
    }
#ifndef __linux__
    for (const int end : ends_) {
      ::fcntl(end, F_SETFD, FD_CLOEXEC);
      ::fcntl(end, F_SETFL, O_NONBLOCK);
    }
#endif
  }
  ~WakeUp() {
    const DisableCancellation guard;
    ::close(ends_[0]);
    if (ends_[1] != ends_[0]) ::close(ends_[1]);
  }
  WakeUp(const WakeUp&) = delete;
  WakeUp& operator=(const WakeUp&) = delete;

  int File() const noexcept { return ends_[0]; }

  // Makes File() readable until Clear. A full pipe is readable already.
  void Signal() const noexcept {
    const DisableCancellation guard;
    const std::uint64_t one = 1;
    while (::write(ends_[1], &one, sizeof(one)) < 0 && errno == EINTR) {
    }
  }

  void Clear() const noexcept {
    std::array<char, 512> signals;
    while (::read(ends_[0], signals.data(), signals.size()) ==
           static_cast<ssize_t>(signals.size())) {
    }
  }

 private:
  std::array<int, 2> ends_ = {-1, -1};  // to read from and to write to. An eventfd is both.
};

}  // namespace singleflight::redis::detail
