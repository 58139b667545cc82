// SPDX-License-Identifier: MIT
#pragma once

// A SharedHistory is memory that several processes share: for each key, the newest version of its
// source, and the least that a Get may return from now on.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>

namespace test {

struct VersionHistory {
  static constexpr std::size_t kKeys = 4;

  struct Key {
    std::atomic<std::uint64_t> version = 0;  // of the source
    std::atomic<std::uint64_t> least = 0;    // an Invalidate after this version has returned

    void RaiseTo(std::uint64_t number) {
      std::uint64_t now = least;
      while (now < number && !least.compare_exchange_weak(now, number)) {
      }
    }
  };
  std::array<Key, kKeys> keys;
  std::atomic<std::uint64_t> steps = 0;  // of all processes
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "processes cannot share a lock");

// All zeros at first.
class SharedHistory {
 public:
  explicit SharedHistory(const std::string& file) {
    const int opened = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void* memory = MAP_FAILED;
    if (opened >= 0 && ::ftruncate(opened, sizeof(VersionHistory)) == 0) {
      memory =
          ::mmap(nullptr, sizeof(VersionHistory), PROT_READ | PROT_WRITE, MAP_SHARED, opened, 0);
    }
    const int error = errno;
    ::close(opened);
    if (memory == MAP_FAILED) throw std::system_error(error, std::generic_category(), file);
    history_ = static_cast<VersionHistory*>(memory);
  }
  ~SharedHistory() { ::munmap(history_, sizeof(VersionHistory)); }
  SharedHistory(const SharedHistory&) = delete;
  SharedHistory& operator=(const SharedHistory&) = delete;

  VersionHistory* operator->() const { return history_; }

 private:
  VersionHistory* history_;
};

}  // namespace test
