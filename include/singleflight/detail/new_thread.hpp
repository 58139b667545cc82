// SPDX-License-Identifier: MIT
#pragma once

// NewThread: the executor of those who name none.

#include <thread>
#include <utility>

#include "task.hpp"
#include "thread_reaper.hpp"

namespace singleflight {

// The executor that starts a thread for each call. Your own executor may pass its tasks on to it.
//
// Thread: ~Group waits until these threads have exited, so a module may be unloaded once its groups
//   are destroyed. If a group is destroyed on one of its own threads, after that thread has landed
//   its call, it does not wait for that one.
//
// Warning: ~Group thus also waits for what these threads do after a call has landed: OnLanded,
// callbacks of DoThen, and coroutines that resume inline. They must not wait for the thread that
// destroys the group.
struct NewThread {
  template <class G, class Fn>
  void operator()(detail::Task<G, Fn> task) const {
    if (detail::ThreadReaper* const reaper = task.Reaper()) {
      reaper->Start(std::move(task).Untyped());
    }
  }

  // Starts a thread for anything else, and detaches it.
  template <class Task>
  void operator()(Task task) const {
    std::thread(std::move(task)).detach();
  }
};

}  // namespace singleflight
