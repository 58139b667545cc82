// SPDX-License-Identifier: MIT
#pragma once

// Selects Asio, standalone or Boost's. Defines what an operation needs from the execution context
// that it completes on.

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <type_traits>
#include <utility>

#include "../intrusive_list.hpp"
#include "../require_cxx20.hpp"

#if !defined(SINGLEFLIGHT_BOOST_ASIO) && __has_include(<asio/version.hpp>)
#include <asio/version.hpp>
#if ASIO_VERSION < 102000
#error "singleflight/asio.hpp needs Asio 1.20 or newer: older ones cannot cancel one operation well"
#endif
#include <asio/associated_allocator.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/dispatch.hpp>
#include <asio/error.hpp>
#include <asio/execution.hpp>
#include <asio/execution_context.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>
#include <asio/require.hpp>
#include <asio/strand.hpp>
#include <asio/system_error.hpp>
#include <asio/system_executor.hpp>
#if defined(ASIO_HAS_CO_AWAIT)
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/use_awaitable.hpp>
#define SINGLEFLIGHT_ASIO_HAS_CO_AWAIT
#endif
#define SINGLEFLIGHT_ASIO_FLAVOR standalone_asio
namespace singleflight::detail {
inline namespace SINGLEFLIGHT_ASIO_FLAVOR {
namespace net = ::asio;
using NetSystemError = ::asio::system_error;
}  // namespace SINGLEFLIGHT_ASIO_FLAVOR
}  // namespace singleflight::detail
#elif __has_include(<boost/asio/version.hpp>)
#include <boost/asio/version.hpp>
#if BOOST_ASIO_VERSION < 102000
#error \
    "singleflight/asio.hpp needs Boost 1.78 or newer: older ones cannot cancel one operation well"
#endif
#include <boost/asio/associated_allocator.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/execution.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/require.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/system_executor.hpp>
#include <boost/system/system_error.hpp>
#if defined(BOOST_ASIO_HAS_CO_AWAIT)
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#define SINGLEFLIGHT_ASIO_HAS_CO_AWAIT
#endif
#define SINGLEFLIGHT_ASIO_FLAVOR boost_asio
namespace singleflight::detail {
inline namespace SINGLEFLIGHT_ASIO_FLAVOR {
namespace net = ::boost::asio;
using NetSystemError = ::boost::system::system_error;
}  // namespace SINGLEFLIGHT_ASIO_FLAVOR
}  // namespace singleflight::detail
#else
#error "singleflight/asio.hpp needs Asio 1.20 (asio/version.hpp) or Boost 1.78; neither was found"
#endif

// Everything below is in an inline namespace of the flavor, so that one program may use both, each
// in files of its own.
namespace singleflight::detail {
inline namespace SINGLEFLIGHT_ASIO_FLAVOR {

template <class Executor>
inline constexpr bool kRunsInline = requires {
  requires net::execution::blocking_t::template static_query<Executor>() ==
      net::execution::blocking_t(net::execution::blocking.always);
};

// Returns the executor that a function is bound to. Returns `other` if it is bound to none, or to
// one that runs everything inline, as that of use_future does in newer versions.
template <class Fn, class Executor>
auto ExecutorOf(const Fn& fn, const Executor& other) {
  using Own = std::remove_cvref_t<decltype(net::get_associated_executor(fn, other))>;
  if constexpr (kRunsInline<Own>) {
    return other;
  } else {
    return net::get_associated_executor(fn, other);
  }
}

// Whether an executor can be required to return before it has run what it is given.
template <class Executor>
inline constexpr bool kCanPost =
    !net::execution::is_executor<Executor>::value ||
    net::can_require<Executor, net::execution::blocking_t::never_t>::value;

// Notifies everyone who still intends to use an execution context that it is being destroyed. Asio
// destroys the operations that wait in a context. An operation that waits for a call led elsewhere
// must not complete into it.
class ContextService final : public net::execution_context::service {
 public:
  // Someone who still intends to use the context. Guarded by the service's mutex.
  class User : private ListLink {
   public:
    // Called when the context is being destroyed: the user must not use it any more. No lock is
    // held, and this may destroy the user.
    virtual void OnShutdown() noexcept = 0;

   protected:
    User() = default;
    virtual ~User() = default;

   private:
    friend ContextService;
    bool too_late_ = false;  // it called UseLast after the shutdown
  };

  static inline net::execution_context::id id;

  explicit ContextService(net::execution_context& context)
      : net::execution_context::service(context) {}
  // Asio does not call shutdown for a service that was added while its context was being destroyed.
  ~ContextService() override { shutdown(); }

  // Returns the service of an executor's context. Null if the executor does not reveal its context,
  // which must then outlive the calls that are waited for on it.
  template <class Executor>
  static ContextService* Of(const Executor& executor) {
    net::execution_context* context = nullptr;
    if constexpr (requires { net::query(executor, kContext); }) {
      context = &net::query(executor, kContext);
    } else if constexpr (requires { context = &executor.context(); }) {
      context = &executor.context();
    } else {
      return nullptr;
    }
    // Services are destroyed in reverse order of their construction. Until this one is, others may
    // post to strands, so the service of strands must be constructed first.
    if constexpr (kCanPost<Executor>) {
      if (!net::has_service<ContextService>(*context)) {
        static_cast<void>(net::make_strand(executor));
      }
    }
    return &net::use_service<ContextService>(*context);
  }

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
      explicit InUse(ContextService& its_service) noexcept : service(its_service) {}
      ~InUse() {
        const std::lock_guard lock(service.mutex_);
        --service.in_use_;
        service.changed_.notify_all();  // under the lock: afterwards the service may be destroyed
      }
      ContextService& service;
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

  // Waits until UseLast was called, and found that it is too late. OnShutdown calls this.
  void WaitUntilTooLate(const User& user) noexcept {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return user.too_late_; });
  }

 private:
  static constexpr net::execution::context_as_t<net::execution_context&> kContext{};

  void shutdown() noexcept override {
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

  std::mutex mutex_;
  std::condition_variable changed_;
  ListLink users_;          // guarded by mutex_, like the links in the users
  std::size_t in_use_ = 0;  // guarded by mutex_: how many threads are inside UseLast
  bool shut_down_ = false;  // guarded by mutex_
};

}  // namespace SINGLEFLIGHT_ASIO_FLAVOR
}  // namespace singleflight::detail
