// SPDX-License-Identifier: MIT
#pragma once

// ContextUsers: those who still intend to use an execution context.
//
// Asio destroys the operations that wait in a context which is being destroyed. An operation that
// waits for a call is not among them: the call may be led elsewhere. So it is listed here, and is
// notified. It must neither complete into the context afterwards, nor outlive it.
//
// It is not a reference count: it does not keep the context alive. But a Pin delays the context's
// destruction for a moment.

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "../intrusive_list.hpp"

namespace singleflight::detail {

// Shared by its context and by those who may use that context once it has been destroyed, and must
// then not.
class ContextUsers : public std::enable_shared_from_this<ContextUsers> {
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

  // Delays the destruction of the context. A thread that destroys it waits.
  class Pin {
   public:
    Pin(Pin&& other) noexcept : users_(std::exchange(other.users_, nullptr)) {}
    ~Pin() {
      if (users_ == nullptr) return;
      const std::lock_guard lock(users_->mutex_);
      --users_->pins_;
      users_->changed_.notify_all();  // under the lock: afterwards they may be destroyed
    }
    Pin& operator=(Pin&& other) noexcept {
      std::swap(users_, other.users_);
      return *this;
    }

   private:
    friend ContextUsers;
    explicit Pin(ContextUsers& users) noexcept : users_(&users) { ++users.pins_; }

    ContextUsers* users_;
  };

  // Null: the context has been shut down.
  std::optional<Pin> TryPin() noexcept {
    const std::lock_guard lock(mutex_);
    if (shut_down_) return std::nullopt;
    return Pin(*this);
  }

  // False: the context has been shut down.
  bool Add(User& user) noexcept {
    const std::lock_guard lock(mutex_);
    if (shut_down_) return false;
    user.InsertBefore(users_);
    return true;
  }

  // Removes the user, with a Pin even if the context is being shut down. Null: OnShutdown was
  // called, and has returned, or the user was never added.
  std::optional<Pin> Remove(User& user) noexcept {
    std::unique_lock lock(mutex_);
    if (!user.Empty()) {
      user.Unlink();
      return Pin(*this);
    }
    changed_.wait(lock, [&] { return notified_ != &user; });
    return std::nullopt;
  }

  // Removes the user and runs `use()`, unless the context has been shut down. The context is not
  // destroyed meanwhile. The user may be destroyed.
  template <class Use>
  void UseLast(User& user, Use&& use) {
    std::optional<Pin> pin;
    {
      const std::lock_guard lock(mutex_);
      if (shut_down_) {
        user.too_late_ = true;
        changed_.notify_all();
        return;
      }
      user.Unlink();
      pin.emplace(Pin(*this));
    }
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
    for (;;) {
      changed_.wait(lock, [this] { return pins_ == 0; });
      if (users_.Empty()) return;
      User& user = static_cast<User&>(*users_.next);
      user.Unlink();
      notified_ = &user;
      lock.unlock();
      user.OnShutdown();
      lock.lock();
      notified_ = nullptr;
      changed_.notify_all();
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  ListLink users_;                  // and so are the links in the users
  std::size_t pins_ = 0;            // how many there are
  const User* notified_ = nullptr;  // whose OnShutdown is running
  bool shut_down_ = false;
};

}  // namespace singleflight::detail
