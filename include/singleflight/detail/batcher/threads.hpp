// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <iterator>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

namespace singleflight::detail {

// The threads of one batcher. It starts one when there is work and no thread is free, and keeps at
// most two that have none. Each thread is joined: by the next one that retires, or by JoinAll.
//
// The batcher's mutex guards everything here. Each function expects it to be locked.
class BatcherThreads {
 public:
  using Lock = std::unique_lock<std::mutex>;
  using Slot = std::list<std::thread>::iterator;

  // Starts a thread that runs `body(slot)`. It is free until it says otherwise.
  //
  // Errors: throws std::system_error if the system has no thread to give, or std::bad_alloc.
  template <class Body>
  void Start(Body body) {
    threads_.emplace_back();
    const Slot slot = std::prev(threads_.end());
    try {
      *slot = std::thread(std::move(body), slot);
    } catch (...) {
      threads_.erase(slot);
      throw;
    }
    ++free_;
  }

  std::size_t Count() const noexcept { return threads_.size(); }
  // How many threads wait for work, or are about to look for it.
  std::size_t Free() const noexcept { return free_; }
  void BecomeBusy() noexcept { --free_; }
  void BecomeFree() noexcept { ++free_; }
  bool TooManyFree() const noexcept { return free_ > kMostFree; }

  // The last thing that a free thread does. Unlocks.
  void Retire(Lock lock, Slot slot) {
    std::thread predecessor = std::exchange(retired_, std::move(*slot));
    threads_.erase(slot);
    --free_;
    lock.unlock();
    if (predecessor.joinable()) predecessor.join();
  }

  // Unlocks, and joins all threads, which neither start nor retire any more. The calling thread may
  // be one of them: it is detached.
  void JoinAll(Lock lock) {
    std::list<std::thread> threads;
    threads.swap(threads_);
    std::thread retired = std::move(retired_);
    lock.unlock();
    if (retired.joinable()) retired.join();
    for (std::thread& thread : threads) {
      if (thread.get_id() == std::this_thread::get_id()) {
        thread.detach();
      } else {
        thread.join();
      }
    }
  }

 private:
  static constexpr std::size_t kMostFree = 2;

  std::list<std::thread> threads_;
  std::thread retired_;  // has finished, or is about to
  std::size_t free_ = 0;
};

}  // namespace singleflight::detail
