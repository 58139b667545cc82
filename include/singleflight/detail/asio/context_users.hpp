// SPDX-License-Identifier: MIT
#pragma once

// ContextUsers: those who still intend to use an execution context.
//
// Asio destroys the operations that wait in a context which is being destroyed. An operation that
// waits for a call is not among them: the call may be led elsewhere. So it is listed here, and is
// notified. It must neither complete into the context afterwards, nor outlive it.
//
// It is not a reference count: it does not keep the context alive.

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <utility>

#include "../intrusive_list.hpp"

namespace singleflight::detail {

class ContextUsers {
 public:
  class User : private ListLink {
   public:
    // Called when the context is being destroyed: the user must not use it any more. No lock is
    // held, and this may destroy the user.
    virtual void OnShutdown() noexcept = 0;

   protected:
    User() = default;
    virtual ~User() = default;

   private:
    friend ContextUsers;
    bool too_late_ = false;  // guarded by mutex_: it called UseLast after the shutdown
  };

  // False: the context has been shut down.
  bool Add(User& user) noexcept {
    const std::lock_guard lock(mutex_);
    if (shut_down_) return false;
    user.InsertBefore(users_);
    return true;
  }

  void Remove(User& user) noexcept {
    const std::lock_guard lock(mutex_);
    user.Unlink();
  }

  // Removes the user and runs `use()`, unless the context has been shut down. The context is not
  // destroyed meanwhile. The user may be destroyed.
  template <class Use>
  void UseLast(User& user, Use&& use) {
    struct InUse {
      explicit InUse(ContextUsers& of) noexcept : users(of) {}
      ~InUse() {
        const std::lock_guard lock(users.mutex_);
        --users.in_use_;
        users.changed_.notify_all();  // under the lock: afterwards `users` may be destroyed
      }
      ContextUsers& users;
    };
    {
      const std::lock_guard lock(mutex_);
      if (shut_down_) {
        user.too_late_ = true;
        changed_.notify_all();
        return;
      }
      user.Unlink();
      ++in_use_;
    }
    const InUse in_use(*this);
    std::forward<Use>(use)();
  }

  // Waits until the user has called UseLast, which does nothing any more. OnShutdown calls this if
  // another thread is about to.
  void WaitUntilTooLate(const User& user) noexcept {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return user.too_late_; });
  }

  // Notifies all users that the context is being destroyed.
  void ShutDown() noexcept {
    std::unique_lock lock(mutex_);
    shut_down_ = true;
    changed_.wait(lock, [this] { return in_use_ == 0; });
    while (!users_.Empty()) {
      User& user = static_cast<User&>(*users_.next);
      user.Unlink();
      lock.unlock();
      user.OnShutdown();
      lock.lock();
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  ListLink users_;          // guarded by mutex_, like the links in the users
  std::size_t in_use_ = 0;  // guarded by mutex_: how many threads are inside UseLast
  bool shut_down_ = false;  // guarded by mutex_
};

}  // namespace singleflight::detail
