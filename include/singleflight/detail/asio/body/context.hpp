// SPDX-License-Identifier: MIT

// What an operation asks of executors, and of the contexts behind them.
//
// A part of asio.hpp and of boost_asio.hpp. Each of them includes this file once, with
// SINGLEFLIGHT_ASIO as the namespace for its Asio. There, `net` is that Asio.

#include <memory>
#include <type_traits>
#include <utility>

#include "../context_users.hpp"

namespace singleflight::detail::SINGLEFLIGHT_ASIO {

// Whether an executor runs everything inside execute(), as that of use_future does in newer
// versions.
template <class Executor>
inline constexpr bool kRunsInline = requires {
  requires net::execution::blocking_t::template static_query<Executor>() ==
      net::execution::blocking_t(net::execution::blocking.always);
};

// Whether an executor can be required to return before it has run what it is given. If not, it
// might run a handler inside AsyncDo, or on the thread that lands a call.
template <class Executor>
inline constexpr bool kCanPost =
    !net::execution::is_executor<Executor>::value ||
    net::can_require<Executor, net::execution::blocking_t::never_t>::value;

// What a function is associated with by default.
using DefaultExecutor = std::remove_cvref_t<decltype(net::get_associated_executor(0))>;

// Returns the executor that a function is bound to. Returns `other` if it is bound to none, or to
// one that runs everything inline.
template <class Fn, class Executor>
auto ExecutorOf(const Fn& fn, const Executor& other) {
  using Own = std::remove_cvref_t<decltype(net::get_associated_executor(fn, other))>;
  if constexpr (kRunsInline<Own>) {
    return other;
  } else {
    return net::get_associated_executor(fn, other);
  }
}

template <class Fn, class Executor>
using ExecutorTypeOf = decltype(SINGLEFLIGHT_ASIO::ExecutorOf(std::declval<const Fn&>(),
                                                              std::declval<const Executor&>()));

// Tells the users of a context when Asio destroys it.
class ContextService final : public net::execution_context::service {
 public:
  static inline net::execution_context::id id;

  explicit ContextService(net::execution_context& context)
      : net::execution_context::service(context) {}
  // Asio does not call shutdown for a service that was added while its context was being destroyed.
  ~ContextService() override { shutdown(); }

  // Returns the users of an executor's context. Null if the executor does not reveal its context,
  // which must then outlive the calls that are waited for on it.
  template <class Executor>
  static ContextUsers* UsersOf(const Executor& executor) {
    if constexpr (requires { net::query(executor, kContext); }) {
      return Of(net::query(executor, kContext), executor).users_.get();
    } else if constexpr (requires(net::execution_context * context) {
                           context = &executor.context();
                         }) {
      return Of(executor.context(), executor).users_.get();
    } else {
      return nullptr;
    }
  }

 private:
  static constexpr net::execution::context_as_t<net::execution_context&> kContext{};

  // Services are destroyed in reverse order of their construction. Until this one is, others may
  // post to strands, so the service of strands must be constructed first.
  template <class Executor>
  static ContextService& Of(net::execution_context& context, const Executor& executor) {
    if (!net::has_service<ContextService>(context)) {
      static_cast<void>(net::make_strand(executor));
    }
    return net::use_service<ContextService>(context);
  }

  void shutdown() noexcept override { users_->ShutDown(); }

  const std::shared_ptr<ContextUsers> users_ = std::make_shared<ContextUsers>();
};

}  // namespace singleflight::detail::SINGLEFLIGHT_ASIO
