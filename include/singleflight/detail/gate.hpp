// SPDX-License-Identifier: MIT
#pragma once

// Gate: where threads wait for one call to land, if they may stop waiting earlier. Up to 32 threads
// share a gate, so that a landing call wakes a thousand of them with 32 notifications, and a thread
// that is interrupted wakes at most 31 others in vain.

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "event.hpp"
#include "intrusive_list.hpp"
#include "thread_mark.hpp"

namespace singleflight::detail {

class Gate : private ListLink {
 public:
  // ---- Places. Guarded by the shard's mutex until the call has landed, and unused afterwards.

  // Returns a gate of the list that has a place, or null.
  static Gate* WithPlace(ListLink& gates) noexcept {
    return gates.Empty() ? nullptr : static_cast<Gate*>(gates.next);
  }
  // Makes a new gate's places available.
  void Offer(ListLink& gates) noexcept { InsertBefore(gates); }
  void Take() noexcept {
    if (++taken_ == kPlaces) Unlink();
  }
  void GiveBack(ListLink& gates) noexcept {
    if (taken_-- == kPlaces) InsertBefore(gates);
  }

  // ---- Waiting

  // The call has landed: wakes all.
  void Open() noexcept {
    {
      const std::lock_guard lock(mutex_);
      open_ = true;
    }
    changed_.notify_all();
  }

  // Sets the flag of one thread, which ends its Wait.
  void Interrupt(bool& interrupted) noexcept {
    {
      const std::lock_guard lock(mutex_);
      interrupted = true;
    }
    changed_.notify_all();
  }

  // True: the call has landed. False: this thread was interrupted, or the deadline passed.
  bool Wait(const Deadline& deadline, const bool& interrupted) {
    detail::BeforeBlocking();
    std::unique_lock lock(mutex_);
    const auto woken = [&] { return open_ || interrupted; };
    if (deadline) {
      changed_.wait_until(lock, *deadline, woken);
    } else {
      changed_.wait(lock, woken);
    }
    return open_;
  }
  void WaitUntilOpen() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
  }

 private:
  static constexpr std::uint32_t kPlaces = 32;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;        // guarded by mutex_
  std::uint32_t taken_ = 0;  // see above
};

}  // namespace singleflight::detail
